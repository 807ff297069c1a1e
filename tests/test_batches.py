"""`transform_batches` for pipelines and unions."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_conv import (
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    _batches,
    save_batches,
    transform_batches,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.random((50, 8, 8))
Y = RNG.integers(2, size=50)


def union(**options):
    return make_union(
        StridedConv2DTransformer(4, random_state=0, **options),
        StridedConv2DTransformer(4, dilation=2, normalize_patches=True, random_state=0, **options),
    )


@pytest.mark.parametrize("batch_size", [None, 1, 7, 50, 1000])
def test_batches_are_the_rows_of_transform(batch_size):
    steps = make_pipeline(union(), StandardScaler()).fit(IMAGES)
    expected, start = steps.transform(IMAGES), 0
    for rows, features in transform_batches(steps, IMAGES, batch_size):
        assert rows.start == start
        np.testing.assert_allclose(features, expected[rows], rtol=1e-12)
        start = rows.stop
    assert start == 50


def test_a_batch_has_the_size_of_its_features(monkeypatch):
    steps = union(pool_grid=4).fit(IMAGES)
    images = IMAGES.astype(np.float32)
    monkeypatch.setattr(_batches, "BATCH_BYTES", 20 * steps.transform(images)[0].nbytes)
    assert [len(features) for _, features in transform_batches(steps, images)] == [20, 20, 10]
    monkeypatch.setattr(_batches, "BATCH_BYTES", 1)
    assert len([*transform_batches(steps, IMAGES)]) == 50


def test_a_method_of_the_estimator_is_called(monkeypatch):
    monkeypatch.setattr(_batches, "BATCH_BYTES", 1)
    transformer = StridedConv2DTransformer(4, random_state=0).fit(IMAGES)
    for length, expected in ((None, [50]), (30, [30, 50])):
        found = [*transform_batches(transformer, IMAGES, length)]
        assert [rows.stop for rows, _ in found] == expected
        np.testing.assert_allclose(
            np.vstack([features for _, features in found]), transformer.transform(IMAGES)
        )


def test_memory_maps_and_files(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    steps = union().fit(images)
    saved = save_batches(tmp_path / "features.npy", transform_batches(steps, images, 9))
    np.testing.assert_allclose(saved, steps.transform(IMAGES), rtol=1e-12)


def test_data_frames():
    table = pd.DataFrame(IMAGES.reshape(50, 64)).rename(columns=str)
    steps = union().fit(table)
    parts = [features for _, features in transform_batches(steps, table, 13)]
    np.testing.assert_allclose(np.vstack(parts), steps.transform(table), rtol=1e-12)


def test_bad_input():
    steps = union().fit(IMAGES)
    with pytest.raises(
        TypeError, match=r"'estimator' .* for example pipeline\[:-1\]. Got Streaming"
    ):
        transform_batches(StreamingRidgeClassifier(), IMAGES)
    with pytest.raises(NotFittedError):
        transform_batches(union(), IMAGES)
    with pytest.raises(ValueError, match=r"'batch_size' .* at least 1\. Got 0"):
        transform_batches(steps, IMAGES, 0)
    with pytest.raises(TypeError, match=r"'batch_size' .* Got 1\.5"):
        transform_batches(steps, IMAGES, 1.5)
    with pytest.raises(ValueError, match="no rows"):
        transform_batches(steps, IMAGES[:0])
    with pytest.raises(TypeError, match=r"an array of rows\. Got 3"):
        transform_batches(steps, 3)
    with pytest.raises(TypeError, match="an array of rows"):
        transform_batches(steps, np.float64(3))
    stateless = FunctionTransformer()
    assert next(transform_batches(stateless, IMAGES))[1].shape == IMAGES.shape


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_batches_are_arrays(library):
    with sklearn.config_context(transform_output=library):
        view = make_union(StridedConv2DTransformer(4, random_state=0)).fit(IMAGES)
        _, features = next(transform_batches(view, IMAGES))
    assert isinstance(features, np.ndarray)


def test_dask_arrays_are_refused():
    dask_array = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match="as a lazy Dask array"):
        transform_batches(union().fit(IMAGES), dask_array.from_array(IMAGES))


def test_a_warning_is_issued_once_for_all_batches():
    images = np.random.default_rng(0).random((60, 8, 8))
    steps = make_pipeline(StridedConv2DTransformer(4, random_state=0), StandardScaler()).fit(images)
    with pytest.warns(UserWarning, match="The values of X are typically about") as caught:
        list(transform_batches(steps, 255 * images, batch_size=7))
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="The values of X are typically about") as caught:
        list(transform_batches(steps, 255 * images))
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="The values of X are typically about"):
        steps.transform(255 * images)
