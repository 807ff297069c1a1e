"""Dask arrays of images and of features: lazy results, chunks of any size, workers that die."""

import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_conv import StreamingRidge, StreamingRidgeClassifier, StridedConv2DTransformer
from sklearn_conv._ridge import base, moments

dask = pytest.importorskip("dask", reason="Dask is not installed: pip install '.[dask]'")
da = pytest.importorskip("dask.array", reason="Dask is not installed: pip install '.[dask]'")
distributed = pytest.importorskip(
    "distributed", reason="Dask is not installed: pip install '.[dask]'"
)
from sklearn_conv import _dask as dask_arrays  # noqa: E402
from sklearn_conv._ridge import dask_rows  # noqa: E402

RNG = np.random.default_rng(0)
LABELS = RNG.integers(3, size=90)
IMAGES = (RNG.normal(size=(90, 12, 10, 2)) * (1 + LABELS)[:, None, None, None]).astype("f4")
LEARNED = {"kernels": "patches", "normalize_patches": True, "whiten": True, "bias": "quantile"}
CHUNKS = {
    "samples": (20, -1, -1, -1),
    "all axes": ((30, 1, 59), 5, 4, 1),
    "one": (-1, -1, -1, -1),
    "an empty one": ((40, 0, 50), 12, 3, 2),
}
CONFIGURATIONS = {
    "default": {},
    "learned": LEARNED,
    "grid": {"flatten": False, "pool_grid": 3},
    "no pooling": {"pooling": None, "n_kernels": 2},
    "threads": {"n_jobs": 2, "verbose": 3, "activation": "split"},
}
chunkings = pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
configurations = pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)


def never(block):
    raise AssertionError("computed")


def lazy(array, chunks):
    """Return a Dask array that raises an error if it is computed."""
    return da.from_array(array, chunks).map_blocks(never, dtype=array.dtype, meta=array[:0])


@chunkings
@configurations
def test_transform_is_lazy_and_the_same(options, chunks):
    transformer = StridedConv2DTransformer(random_state=0, **options)
    expected = transformer.fit_transform(IMAGES)
    X = da.from_array(IMAGES, chunks)
    features = transformer.transform(lazy(IMAGES, chunks))
    assert isinstance(features, da.Array)
    assert features.shape == expected.shape
    assert features.chunks[0] == X.chunks[0]
    assert features.numblocks[1:] == (1,) * (expected.ndim - 1)
    assert features.dtype == features._meta.dtype == expected.dtype
    assert isinstance(features._meta, np.ndarray)
    computed = transformer.transform(X).compute()
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-5)
    assert computed.dtype == expected.dtype


def test_tasks_print_nothing_and_use_one_thread(capfd):
    seen = []

    def watch(z):
        libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
        seen.extend(library["num_threads"] for library in libraries)
        return z

    transformer = StridedConv2DTransformer(8, activation=watch, n_jobs=2, verbose=10).fit(IMAGES)
    seen.clear()
    with threadpool_limits(2):
        transformer.transform(da.from_array(IMAGES, 30)).compute()
    assert set(seen) == {1}
    assert capfd.readouterr() == ("", "")
    assert (transformer.n_jobs, transformer.verbose) == (2, 10)


@pytest.mark.parametrize("shape", [(12, 20), (240,)])
def test_images_of_fewer_axes(shape):
    array = IMAGES.reshape(90, *shape)
    image_shape = (12, 10, 2) if len(shape) == 1 else None
    transformer = StridedConv2DTransformer(4, random_state=0, image_shape=image_shape)
    expected = transformer.fit_transform(array)
    kernels = transformer.kernels_
    X = da.from_array(array, 17)
    np.testing.assert_array_equal(transformer.fit(X).kernels_, kernels)
    assert transformer.n_features_in_ == 240
    computed = transformer.transform(X).compute()
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-5)


@chunkings
def test_fit_on_a_small_dask_array_equals_fit_on_numpy(chunks):
    transformer = StridedConv2DTransformer(8, random_state=0, **LEARNED)
    expected = transformer.fit(IMAGES).kernels_
    transformer.fit(da.from_array(IMAGES, chunks))
    np.testing.assert_array_equal(transformer.kernels_, expected)


def test_fit_computes_nothing_for_kernels_that_are_not_learned():
    StridedConv2DTransformer(random_state=0).fit(lazy(IMAGES, 20))


def count_blocks(array, chunks, seen):
    def look(block, block_info=None):
        seen.append(block_info[0]["chunk-location"])
        return block

    return da.from_array(array, chunks).map_blocks(look, dtype=array.dtype, meta=array[:0])


def test_fit_computes_some_blocks_and_the_kernels_do_not_depend_on_them(monkeypatch):
    array = np.broadcast_to(RNG.random((1000, 8, 8, 1)), (1000, 8, 8, 1))
    monkeypatch.setattr(dask_arrays, "SAMPLE_BYTES", 80 * array[0].nbytes)
    transformer = StridedConv2DTransformer(8, random_state=0, **LEARNED)
    kernels = []
    for chunks in (10, 50, (1000, 3, 5, 1)):
        seen = []
        transformer.fit(count_blocks(array, chunks, seen))
        kernels.append(transformer.kernels_)
        if chunks == 10:
            assert 8 <= len({block[0] for block in seen}) <= 16
            assert len(seen) < 50
    np.testing.assert_array_equal(kernels[0], kernels[1])
    np.testing.assert_array_equal(kernels[0], kernels[2])
    again = transformer.set_params(random_state=1).fit(da.from_array(array, 10)).kernels_
    assert not np.array_equal(kernels[0], again)


@pytest.mark.parametrize("seed", range(10))
def test_a_sample_has_images_from_everywhere(seed, monkeypatch):
    array = np.arange(1000.0).reshape(1000, 1, 1, 1)
    monkeypatch.setattr(dask_arrays, "SAMPLE_BYTES", 80 * 8)
    X, rng = da.from_array(array, 30), np.random.RandomState(seed)
    sample = dask_arrays.sample_images(X, rng).ravel()
    assert len(sample) == 80
    assert len(set(sample)) == 80
    assert set(sample // 125) == set(range(8))


@pytest.mark.parametrize("known", [True, False])
def test_nan_in_a_dask_array(known):
    bad = IMAGES.copy()
    bad[::4] = np.nan
    X = da.from_array(bad, 20)
    X = X if known else X[da.from_array(LABELS, 20) >= 0]
    with pytest.raises(ValueError, match=r"NaN.*nan_to_num"):
        StridedConv2DTransformer(random_state=0, **LEARNED).fit(X)
    features = StridedConv2DTransformer(random_state=0).fit(X).transform(X)
    with pytest.raises(ValueError, match=r"NaN.*nan_to_num"):
        features.compute()


def unknown(array, chunks=20, keep=LABELS > 0):
    return da.from_array(array, chunks)[da.from_array(keep, chunks)]


@configurations
def test_chunks_of_unknown_lengths(options):
    X = unknown(IMAGES)
    transformer = StridedConv2DTransformer(random_state=0, **options).fit(X)
    features = transformer.transform(X)
    assert np.isnan(features.shape[0])
    expected = transformer.transform(IMAGES[LABELS > 0])
    assert features.shape[1:] == expected.shape[1:]
    np.testing.assert_allclose(features.compute(), expected, rtol=1e-4, atol=1e-5)


def test_a_sample_of_chunks_of_unknown_lengths(monkeypatch):
    monkeypatch.setattr(dask_arrays, "SAMPLE_BYTES", 16 * IMAGES[0].nbytes)
    few = np.zeros(90, bool)
    few[[3, 50]] = True  # most blocks are empty
    rng = np.random.RandomState(0)
    assert len(dask_arrays.sample_images(unknown(IMAGES, 2, few), rng)) == 2
    assert 8 <= len(dask_arrays.sample_images(unknown(IMAGES, 5), rng)) <= 40


BAD = {
    "delayed": (lambda: dask.delayed(IMAGES), TypeError, "pass its Dask array"),
    "unknown height": (
        lambda: da.from_array(IMAGES, 20)[:, da.ones(12) > 0],
        ValueError,
        r"unknown length; call X.compute_chunk_sizes\(\)",
    ),
    "1-D": (lambda: da.ones(5), ValueError, "1 axis, of length 5"),
    "5-D": (lambda: da.ones((1, 2, 3, 4, 5)), ValueError, "5 axes"),
    "complex": (lambda: da.ones((3, 4, 4), dtype="c8"), ValueError, "X.real"),
    "strings": (lambda: da.from_array(np.full((3, 4), "a")), TypeError, "convert it to numbers"),
    "no images": (lambda: da.ones((0, 4, 4)), ValueError, "empty axis"),
}


@pytest.mark.parametrize(("make", "error", "message"), BAD.values(), ids=BAD)
def test_dask_collections_that_are_not_images(make, error, message):
    with pytest.raises(error, match=message):
        StridedConv2DTransformer().fit(make())
    with pytest.raises(error, match=message):
        StridedConv2DTransformer().fit(np.ones((1, 4, 4))).transform(make())


def test_other_images_than_in_fit():
    transformer = StridedConv2DTransformer().fit(IMAGES)
    with pytest.raises(ValueError, match=r"\(9, 9, 1\), but .* fitted on"):
        transformer.transform(da.ones((3, 9, 9)))


def test_errors_for_dask_arrays():
    transformer = StridedConv2DTransformer().fit(IMAGES)
    with pytest.raises(TypeError, match=r"Dask array; transform\(X\) returns"):
        transformer.transform_batches(da.from_array(IMAGES))
    with pytest.raises(ValueError, match="does not fit into the pandas table"):
        transformer.set_output(transform="pandas").transform(da.from_array(IMAGES))


# The classifier


def rows(n=600, d=30, dtype="f8"):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=n)
    return (rng.normal(size=(n, d)) + np.eye(3)[y] @ rng.normal(size=(3, d))).astype(dtype), y


@pytest.mark.parametrize("chunks", [(100, 30), ((1, 0, 299, 300), (7, 23)), (-1, -1), (50, 8)])
@pytest.mark.parametrize("n_kept", [50, 2000])
def test_sums_over_chunks_are_those_of_all_rows(chunks, n_kept, monkeypatch):
    monkeypatch.setattr(moments, "N_KEPT", n_kept)
    X, y = rows()
    expected = StreamingRidgeClassifier().fit(X, y)
    lazy_X = da.from_array(X, chunks)
    for labels in (da.from_array(y, 77), y, y.tolist()):
        model = StreamingRidgeClassifier().fit(lazy_X, labels)
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-8, atol=1e-11)
        assert model.alpha_ == expected.alpha_
        assert model.best_score_ == pytest.approx(expected.best_score_)
    scores, predicted = model.decision_function(lazy_X), model.predict(lazy_X)
    assert scores.chunks == (lazy_X.chunks[0], (3,))
    assert predicted.chunks == (lazy_X.chunks[0],)
    assert (scores.dtype, predicted.dtype) == (np.float64, y.dtype)
    np.testing.assert_allclose(scores.compute(), expected.decision_function(X), atol=1e-9)
    np.testing.assert_array_equal(predicted.compute(), expected.predict(X))
    probabilities = model.predict_proba(lazy_X)
    assert probabilities.chunks == (lazy_X.chunks[0], (3,))
    np.testing.assert_allclose(probabilities.compute(), expected.predict_proba(X), atol=1e-6)
    novelty = model.novelty(lazy_X)
    assert novelty.chunks == (lazy_X.chunks[0],)
    np.testing.assert_allclose(novelty.compute(), expected.novelty(X), atol=1e-9)
    with pytest.raises(ValueError, match="NaN"):
        model.novelty(da.where(lazy_X > 3, np.nan, lazy_X)).compute()
    with pytest.raises(ValueError, match="features as input"):
        model.novelty(lazy_X[:, :3])
    assert model.score(lazy_X, da.from_array(y, 77)) == model.score(X, y)


def test_merging_changes_neither_part():
    """Dask may use a part again if a worker is lost."""
    X, y = rows()
    parts = [StreamingRidgeClassifier().fit(X[i::2], y[i::2])._sums for i in (0, 1)]
    before = [pickle.dumps(part) for part in parts]
    assert dask_rows._merge(*parts).n_rows == 600
    assert [pickle.dumps(part) for part in parts] == before


@pytest.mark.parametrize("change", ["partial_fit", "solve"])
def test_what_is_lazy_is_that_of_the_model_at_the_time_of_the_call(change):
    X, y = rows()
    model = StreamingRidgeClassifier(1.0).fit(X, y)
    lazy_X, expected = da.from_array(X, 100), model.novelty(X)
    novelty = model.novelty(lazy_X)
    if change == "solve":
        model.set_params(alphas=100.0).predict(X)
    else:
        model.partial_fit(X + 1, y)
    np.testing.assert_array_equal(novelty.compute(), expected)


def test_a_task_sums_at_least_as_many_rows_as_features():
    groups = [(s.start, s.stop) for s in dask_rows._group_chunks([50, 60, 200, 10, 90, 5], 100)]
    assert groups == [(0, 2), (2, 3), (3, 5), (5, 6)]
    unknown_groups = list(dask_rows._group_chunks([np.nan] * 20, None))
    assert [s.stop - s.start for s in unknown_groups] == [8, 8, 4]


def test_sums_are_not_sent_to_the_chunks():
    X, y = rows()
    model = StreamingRidgeClassifier().fit(X, y)
    graph = dict(model.predict(da.from_array(X, 100)).__dask_graph__())
    assert len(pickle.dumps(model._without_sums())) < 10_000 < len(pickle.dumps(model))
    assert len(pickle.dumps([task for key, task in graph.items() if "Classifier" in key])) < 20_000
    assert hasattr(model, "_sums")


def test_balanced_classes_of_targets_in_memory():
    """Chunks of sorted labels have one class each."""
    y = np.sort(RNG.random(2000) < 0.1).astype(int)
    X = RNG.normal(size=(2000, 5)) + y[:, np.newaxis]
    lazy = da.from_array(X, (500, -1))
    model = StreamingRidgeClassifier(1.0, class_weight="balanced")
    expected = model.fit(X, y).coef_
    for labels in (y, [*y], da.from_array(y, 500)):
        np.testing.assert_allclose(model.fit(lazy, labels).coef_, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_masked_targets_and_weights(name):
    X, numbers = RNG.normal(size=(90, 4)), np.arange(90.0)
    given = {"y": LABELS} | {name: np.ma.masked_less(LABELS if name == "y" else numbers, 1)}
    with pytest.raises(ValueError, match="masked values"):
        StreamingRidgeClassifier().fit(da.from_array(X, (30, -1)), **given)


def test_few_large_images_are_computed(monkeypatch):
    monkeypatch.setattr(dask_arrays, "SAMPLE_BYTES", 2 * IMAGES[0].nbytes)
    images = da.from_array(IMAGES, chunks=(1, -1, -1, -1))
    assert len(dask_arrays.sample_images(images, np.random.RandomState(0))) == 2


def test_two_classes_of_strings():
    X, y = rows()
    names = np.array(["no", "yes", "yes"])[y]
    model = StreamingRidgeClassifier().fit(da.from_array(X, 100), names)
    scores = model.decision_function(da.from_array(X, 100))
    np.testing.assert_allclose(scores.compute(), model.decision_function(X))
    single = StreamingRidgeClassifier(1.0).fit(da.from_array(X, 100), names)
    logarithms = single.predict_log_proba(da.from_array(X, 100))
    np.testing.assert_allclose(logarithms.compute(), single.predict_log_proba(X), rtol=1e-12)
    assert model.predict(da.from_array(X, 100)).compute().tolist() == model.predict(X).tolist()


def test_kept_rows_of_chunks_of_unknown_lengths_are_distinct(monkeypatch):
    monkeypatch.setattr(moments, "N_KEPT", 50)
    X, y = rows()
    keep = da.from_array(y > 0, 60)
    lazy_X, lazy_y = da.from_array(X, 60)[keep], da.from_array(y, 60)[keep]
    model = StreamingRidgeClassifier().fit(lazy_X, lazy_y)
    assert len(set(model._sums.keys)) == len(np.unique(model._sums.kept.rows, axis=0)) == 50


def test_rows_in_chunks_of_unknown_lengths():
    X, y = rows()
    keep = da.from_array(y > 0, 60)
    lazy_X, lazy_y = da.from_array(X, 60)[keep], da.from_array(y, 60)[keep]
    model = StreamingRidgeClassifier(10).fit(lazy_X, lazy_y)
    expected = StreamingRidgeClassifier(10).fit(X[y > 0], y[y > 0])
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-8, atol=1e-11)
    assert model.score(lazy_X, lazy_y) == expected.score(X[y > 0], y[y > 0])
    for labels, message in (
        (y[y > 0], "y must be a Dask array with the same chunks; or call"),
        (lazy_y[:, None], "must have shape"),
        (da.from_array(y, 100)[da.from_array(y, 100) > 0], "10 chunks of unknown .* y has 6"),
    ):
        with pytest.raises(ValueError, match=message):
            StreamingRidgeClassifier().fit(lazy_X, labels)


def test_only_empty_chunks():
    none = np.zeros(90, bool)
    with pytest.raises(ValueError, match="All chunks of X are empty"):
        StridedConv2DTransformer(**LEARNED).fit(unknown(IMAGES, keep=none))
    X, y = unknown(IMAGES[:, 0, :, 0], keep=none), unknown(LABELS, keep=none)
    with pytest.raises(ValueError, match="All chunks of X are empty"):
        StreamingRidgeClassifier().fit(X, y)


@pytest.mark.parametrize("chunks", [7, 100, 599, (1, 0, 299, 300)], ids=str)
def test_the_sample_does_not_depend_on_chunks(chunks, monkeypatch):
    """Each task knows the numbers of its rows."""
    monkeypatch.setattr(moments, "N_KEPT", 50)
    X, y = rows()
    expected = StreamingRidgeClassifier().fit(X, y)
    lazy_X = da.from_array(X, (chunks, -1))
    part = StreamingRidgeClassifier().partial_fit(X[:7], y[:7])
    rest = np.arange(600) >= 7
    for model in (
        StreamingRidgeClassifier().fit(lazy_X, y),
        part.partial_fit(da.from_array(X[rest], 100), y[rest]),
    ):
        assert model.best_score_ == pytest.approx(expected.best_score_, rel=1e-9)
        np.testing.assert_array_equal(model._sums.kept.rows, expected._sums.kept.rows)
        assert model.alpha_ == expected.alpha_


@pytest.mark.parametrize("columns", [0, [0, 1]], ids=["1d", "two"])
def test_targets_of_a_regression_need_not_be_lazy(columns):
    X, _ = rows()
    y = X[:, columns] ** 2
    expected = StreamingRidge().fit(X, y).coef_
    for targets in (y, y.tolist(), da.from_array(y, 77)):
        model = StreamingRidge().fit(da.from_array(X, 100), targets)
        np.testing.assert_allclose(model.coef_, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("known", [True, False])
def test_many_small_chunks(known, monkeypatch):
    """They are checked and added together; one by one, 10,000 chunks took 18 seconds."""
    X, y = rows(600)
    lazy_X, lazy_y = da.from_array(X, (1, 30)), da.from_array(y, 1)
    if not known:
        keep = da.ones(600, dtype=bool, chunks=1)
        lazy_X, lazy_y = lazy_X[keep], lazy_y[keep]
    calls, real = [], dask.delayed
    monkeypatch.setattr(dask, "delayed", lambda *args, **kwargs: calls.append(1) or real(*args))
    checked, check = [], base.check_X_y

    def count(*args, **kwargs):
        checked.append(1)
        return check(*args, **kwargs)

    monkeypatch.setattr(base, "check_X_y", count)
    with dask.config.set(scheduler="synchronous"):
        model = StreamingRidgeClassifier().fit(lazy_X, lazy_y)
    expected = StreamingRidgeClassifier().fit(X, y)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-8, atol=1e-11)
    assert model.best_score_ == pytest.approx(expected.best_score_, rel=1e-9)
    assert len(calls) < 10
    assert len(checked) < 300


@pytest.mark.parametrize("position", [0, 5, 39])
def test_a_bad_small_chunk_is_refused(position):
    X, y = rows(40)
    for value, message in ((np.nan, "NaN"), (np.inf, "infinity")):
        bad = X.copy()
        bad[position, 3] = value
        with pytest.raises(ValueError, match=message):
            StreamingRidgeClassifier().fit(da.from_array(bad, (1, 30)), y)
    masked = da.from_array(X, (1, 30)).map_blocks(
        lambda block: np.ma.masked_equal(block, X[position, 3]), meta=X[:0]
    )
    with pytest.raises(ValueError, match="masked values"):
        StreamingRidgeClassifier().fit(masked, y)
    keep = da.ones(40, dtype=bool, chunks=1)
    lengths = np.ones(40, int)
    lengths[position], lengths[(position + 1) % 40] = 2, 0
    chunks = tuple(lengths.tolist())
    lazy_y = da.from_array(y, (chunks,))[da.ones(40, dtype=bool, chunks=(chunks,))]
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples|0 sample"):
        StreamingRidgeClassifier().fit(da.from_array(X, (1, 30))[keep], lazy_y)


@pytest.mark.parametrize("bad", ["labels", "sums"])
def test_a_failed_fit_to_chunks_leaves_the_model_as_it_was(bad):
    X, y = rows()
    model = StreamingRidgeClassifier().fit(X, y)
    before = pickle.dumps(model)
    labels = {"labels": y / 7, "sums": np.zeros(600)}[bad]
    with pytest.raises(ValueError, match=r"continuous|at least 2 classes"):
        model.fit(da.from_array(X[:, :9], 100), labels)
    with pytest.raises(ValueError, match="continuous"):
        model.partial_fit(da.from_array(X, 100), y / 7)
    assert pickle.dumps(model) == before


def test_large_integer_labels_of_chunks_are_exact():
    X, y = rows()
    labels = np.array([1, 2**63, 2**63 + 1], "u8")[y]
    model = StreamingRidgeClassifier().fit(da.from_array(X, 7), da.from_array(labels, 11))
    assert model.classes_.tolist() == [1, 2**63, 2**63 + 1]
    assert model.predict(da.from_array(X, 7)).compute().tolist() == model.predict(X).tolist()
    assert model.score(da.from_array(X, 7), labels) == StreamingRidgeClassifier().fit(X, y).score(
        X, y
    )


def test_partial_fit_goes_on_with_dask_arrays():
    X, y = rows()
    model = StreamingRidgeClassifier().partial_fit(X[:200], y[:200])
    model.partial_fit(da.from_array(X[200:], 100), da.from_array(y[200:], 100))
    expected = StreamingRidgeClassifier().fit(X, y)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (da.ones((10, 3)), np.zeros(9), "X has 10 rows, but y has 9"),
        (da.ones((10, 3, 1)), np.zeros(10), r"\(n, n_features\).*Got shape \(10, 3, 1\)"),
        (da.ones((10, 3), dtype="c8"), np.zeros(10), "real numbers"),
        (da.full((10, 3), np.nan), np.zeros(10), "NaN"),
        (da.ones((10, 3)), np.linspace(0, 1, 10), "continuous"),
        (da.ones((10, 3)), np.zeros(10), "at least 2 classes"),
    ],
)
def test_bad_rows(X, y, message):
    with pytest.raises(ValueError, match=message):
        StreamingRidgeClassifier().fit(X, y)


def test_a_pipeline_stays_lazy_until_the_sums(monkeypatch):
    X = da.from_array(IMAGES, (20, 5, 5, 2))
    pipe = make_pipeline(StridedConv2DTransformer(random_state=0), StreamingRidgeClassifier())
    expected = pipe.fit(IMAGES, LABELS).decision_function(IMAGES)
    pipe.fit(X, da.from_array(LABELS, 33))
    assert isinstance(pipe.predict(X), da.Array)
    np.testing.assert_allclose(pipe.decision_function(X).compute(), expected, atol=1e-3)


# Real processes


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def slowly(block):
    time.sleep(0.05)
    return block


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_result_is_correct_after_a_worker_died(client):
    X = da.from_array(IMAGES, (6, 5, 5, 2)).rechunk((6, -1, -1, -1))
    X = X.map_blocks(slowly, dtype=IMAGES.dtype, meta=IMAGES[:0])
    pipe = make_pipeline(
        StridedConv2DTransformer(random_state=0, **LEARNED), StreamingRidgeClassifier()
    )
    expected = pipe.fit(IMAGES, LABELS).decision_function(IMAGES)
    pipe.fit(da.from_array(IMAGES, 20), LABELS)
    victims = [info["pid"] for info in client.run(lambda: {"pid": os.getpid()}).values()]

    def kill():
        os.kill(victims[0], signal.SIGKILL)

    for compute in (
        lambda: pipe.fit(X, LABELS).decision_function(IMAGES),
        lambda: pipe.decision_function(X).compute(),
    ):
        victims = [info["pid"] for info in client.run(lambda: {"pid": os.getpid()}).values()]
        timer = threading.Timer(0.2, kill)
        timer.start()
        np.testing.assert_allclose(compute(), expected, atol=1e-3)
        timer.join()
        client.wait_for_workers(2, timeout=30)
        pids = [info["pid"] for info in client.run(lambda: {"pid": os.getpid()}).values()]
        assert set(pids) != set(victims)


def test_search_on_workers(client):
    import joblib

    pipe = make_pipeline(StridedConv2DTransformer(random_state=0), StreamingRidgeClassifier())
    grid = {"stridedconv2dtransformer__stride": [1, 2]}
    expected = GridSearchCV(pipe, grid, cv=3).fit(IMAGES, LABELS)
    with joblib.parallel_config("dask"):
        search = GridSearchCV(pipe, grid, cv=3).fit(IMAGES, LABELS)
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
