"""Images of different sizes, with ``image_shape="any"``."""

import pickle
import tracemalloc
import warnings

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._images import kinds
from sklearn_conv.inspection import (
    ClassActivationDisplay,
    FeatureMapDisplay,
    KernelDisplay,
    _class_activation,
    class_activation_map,
)

SIZES = [(9, 9), (12, 8), (9, 9), (30, 20), (12, 8), (5, 17)]


def make_images(sizes=SIZES, c=2, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.normal(5, 3, size=(h, w, c)).astype(dtype) for h, w in sizes]


IMAGES = make_images()


class LazyImages:
    """Images that are read by `numpy.asarray`."""

    dtype = np.dtype(np.float32)
    image_shapes = None

    def __init__(self, images):
        self.images = images
        self.image_shapes = [image.shape for image in images]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, numbers):
        return LazyImages([self.images[i] for i in numbers])

    def __array__(self, dtype=None, copy=None):
        array = np.empty(len(self.images), object)
        for i, image in enumerate(self.images):
            array[i] = image
        return array


SETTINGS = {
    "default": {},
    "learned": {"kernels": "patches", "normalize_patches": True, "whiten": True, "bias": -0.2},
    "dihedral": {"symmetries": "dihedral", "pooling": ["max", "mean"], "power": 0.5},
    "missing": {"missing": "ignore", "stride": 2, "activation": "split"},
    "grid": {"flatten": False, "pool_grid": 3, "padding": "valid"},
}


def make(setting, **parameters):
    return StridedConv2DTransformer(
        6, image_shape="any", random_state=0, **SETTINGS[setting], **parameters
    )


@pytest.mark.parametrize("setting", SETTINGS)
def test_features_are_those_of_one_image_at_a_time(setting):
    transformer = make(setting).fit(IMAGES)
    features = transformer.transform(IMAGES)
    same_size = clone(transformer).set_params(image_shape=None)
    for image, found in zip(IMAGES, features, strict=True):
        alone = same_size.fit(np.stack([image] * 4))
        for name in ("kernels_", "offset_", "bias_", "eps_"):
            setattr(alone, name, getattr(transformer, name))
        np.testing.assert_allclose(found, alone.transform(image[np.newaxis])[0], rtol=1e-6)
        np.testing.assert_array_equal(transformer.transform(image[np.newaxis])[0], found)
    names = transformer.get_feature_names_out()
    assert len(names) == transformer.n_features_out_ == features[0].size
    assert transformer.image_shape_ == (None, None, 2)


@given(length=st.integers(1, 7), n_bytes=st.sampled_from([1, 3000, 10**7]))
def test_batches_make_no_difference(length, n_bytes):
    transformer = make("learned").fit(IMAGES)
    expected = transformer.transform(IMAGES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "BATCH_BYTES", n_bytes)
        for X in (IMAGES, LazyImages(IMAGES)):
            found = [*transformer.transform_batches(X, length)]
            np.testing.assert_allclose(np.concatenate([f for _, f in found]), expected, rtol=1e-5)
            assert [rows.start for rows, _ in found] == [*range(0, 6, length)]


def test_images_of_one_size_have_the_usual_features():
    images = np.stack(make_images([(9, 8)] * 5))
    usual = StridedConv2DTransformer(6, kernels="patches", random_state=0).fit(images)
    for X in (images, [*images], LazyImages([*images]), da.from_array(images, (2, -1, -1, -1))):
        transformer = StridedConv2DTransformer(
            6, kernels="patches", image_shape="any", random_state=0
        ).fit(X)
        np.testing.assert_array_equal(transformer.kernels_, usual.kernels_)
        np.testing.assert_array_equal(np.asarray(transformer.transform(X)), usual.transform(images))


@pytest.mark.parametrize("n_patches", [20, 100_000])
def test_patches_are_windows_of_all_images(n_patches):
    images = [image[..., 0] for image in IMAGES]
    windows = np.concatenate(
        [sliding_window_view(image, (3, 3)).reshape(-1, 9) for image in images]
    )
    patches = []

    def keep(shape, rng, training_patches):
        patches.extend(map(tuple, training_patches()))
        return rng.normal(size=shape)

    transformer = StridedConv2DTransformer(
        4, kernels=keep, n_patches=n_patches, image_shape="any", random_state=0
    ).fit(images)
    assert len({*patches}) == len(patches) == min(n_patches, len(windows))
    assert {*patches} <= {*map(tuple, windows)}
    patches.clear()
    transformer.fit(LazyImages(images))
    assert len(patches) == min(n_patches, len(windows))


def test_dtypes():
    mixed = [IMAGES[0].astype(np.uint8), IMAGES[1].astype(np.float64), IMAGES[2]]
    assert make("default").fit_transform(mixed).dtype == np.float64
    small = [image.astype(np.uint8) for image in IMAGES]
    assert make("default").fit_transform(small).dtype == np.float32
    column = np.empty(6, object)
    column[:] = IMAGES
    np.testing.assert_array_equal(
        make("default").fit_transform(column), make("default").fit_transform(IMAGES)
    )


def test_masked_images():
    masked = [np.ma.masked_greater(image, 12) for image in IMAGES]
    filled = [np.ma.filled(image, np.nan) for image in masked]
    np.testing.assert_array_equal(
        make("missing").fit_transform(masked), make("missing").fit_transform(filled)
    )
    with pytest.raises(ValueError, match=r"X\[\d\] has masked values; set missing='ignore'"):
        make("default").fit(masked)


def test_a_refit_forgets_the_columns_of_the_earlier_one():
    rows = pd.DataFrame(np.random.default_rng(0).random((6, 9))).rename(columns=str)
    transformer = StridedConv2DTransformer(4, random_state=0).fit(rows)
    assert transformer.n_features_in_ == 9
    transformer.set_params(image_shape="any").fit(IMAGES)
    assert not hasattr(transformer, "n_features_in_")
    assert not hasattr(transformer, "feature_names_in_")


def test_the_layout_is_judged_in_fit_only():
    images = np.random.default_rng(0).random((6, 3, 9, 9))
    transformer = make("default").fit([image.transpose(1, 2, 0) for image in images])
    with pytest.warns(UserWarning, match="3 x 9 pixels with 9 channels"):
        transformer.fit([*images])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transformer.transform(images)
    with pytest.warns(UserWarning, match="3 x 9 pixels with 9 channels"):
        transformer.fit(images)


def test_searches_and_pickles():
    rng = np.random.default_rng(0)
    y = np.arange(30) % 2
    images = [
        rng.normal(0, 1 + 2 * label, size=(8 + i % 3, 9 + i % 5)) for i, label in enumerate(y)
    ]
    pipeline = make_pipeline(make("default"), StandardScaler(), RidgeClassifier())
    search = GridSearchCV(pipeline, {"stridedconv2dtransformer__stride": [1, 2]}, cv=3)
    assert search.fit(images, y).best_score_ > 0.8
    assert cross_val_score(pipeline, images, y, cv=3).mean() > 0.8
    model = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(model.predict(images), search.predict(images))


def test_output_size():
    transformer = make("default")
    assert transformer.output_size((9, 9, 2)).features == 24
    with pytest.raises(ValueError, match=r"not known; pass it, as in output_size\(\(h, w, c\)\)"):
        transformer.output_size()
    transformer.fit(IMAGES)
    with pytest.raises(ValueError, match="not known; pass it"):
        transformer.output_size()
    assert transformer.maps_shape_ == (None, None, 6)
    assert transformer.multiply_adds_ is None
    assert not hasattr(transformer, "n_features_in_")


def test_channels_first_are_noticed():
    images = [np.random.default_rng(0).random((3, width, 64)) for width in (40, 50)]
    with pytest.warns(UserWarning, match="is interpreted as images of 3 x 40 pixels"):
        StridedConv2DTransformer(4, image_shape="any").fit(images)


BAD = {
    "channels": ([IMAGES[0], IMAGES[1][..., :1]], ValueError, r"X\[0\] has 2 channels, but X\[1\]"),
    "too small": ([IMAGES[0], IMAGES[1][:1]], ValueError, r"X\[1\] of 1 x 8 pixels: kernel_size="),
    "NaN": ([IMAGES[0], IMAGES[1] * np.nan], ValueError, r"NaN in 1 image: X\[1\]"),
    "no images": ([], ValueError, "X contains no images"),
    "empty image": ([IMAGES[0], IMAGES[1][:0]], ValueError, r"X\[1\] has shape \(0, 8, 2\)"),
    "axes": ([IMAGES[0], IMAGES[1][np.newaxis]], ValueError, r"X\[1\] has shape \(1, 12, 8, 2\)"),
    "strings": ([IMAGES[0], np.full((3, 4), "a")], TypeError, r"X\[1\] has dtype <U1"),
    "beyond float64": (
        [IMAGES[0], np.full((9, 9, 2), np.longdouble("1e4000"))],
        ValueError,
        r"infinity or a value that is too large in 1 image: X\[1\]",
    ),
    "complex": ([IMAGES[0] * 1j, IMAGES[1]], TypeError, r"X\[0\] has dtype complex"),
    "rows": (np.ones((3, 9)), ValueError, "contains one image in each row"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images(name):
    X, error, message = BAD[name]
    transformer = make("default", kernel_size=2).set_params(padding="valid")
    with pytest.raises(error, match=message):
        transformer.fit(X)
    if name != "channels":
        with pytest.raises(error, match=message):
            transformer.fit(IMAGES).transform(X)


def test_other_channels_in_transform():
    transformer = make("default").fit(IMAGES)
    message = (
        "contains images of 1 channels, but StridedConv2DTransformer was fitted on images of 2"
    )
    with pytest.raises(ValueError, match=message):
        transformer.transform([image[..., 0] for image in IMAGES])


def test_changed_images_are_noticed():
    images = LazyImages(IMAGES)
    transformer = make("default").fit(images)
    images.image_shapes = [(9, 9, 2)] * 6
    with pytest.raises(ValueError, match=r"X\[1\] has shape \(12, 8, 2\), but had \(9, 9, 2\) bef"):
        transformer.transform(images)


def test_windows_need_a_pooling():
    with pytest.raises(ValueError, match=r"With image_shape='any', .* needs a pooling"):
        make("default", pooling=None).fit(IMAGES)
    with pytest.raises(ValueError, match="needs a pooling"):
        make("default").fit(IMAGES).set_params(pooling=None).transform(IMAGES)


def test_unequal_images_need_the_parameter():
    with pytest.raises(ValueError, match="set image_shape='any'"):
        StridedConv2DTransformer().fit(IMAGES)
    with pytest.raises(ValueError, match=r"different sizes\. Set image_shape='any', or read"):
        StridedConv2DTransformer().fit(LazyImages(IMAGES))


def test_displays():
    pipeline = make_pipeline(make("default"), RidgeClassifier()).fit(IMAGES, [0, 1] * 3)
    KernelDisplay.from_estimator(pipeline)
    with pytest.raises(ValueError, match="fitted on images of one size, but image_shape is 'any'"):
        FeatureMapDisplay.from_estimator(pipeline, IMAGES[0])
    for image in IMAGES:
        display = ClassActivationDisplay.from_estimator(pipeline, image)
        assert display.evidence.shape == image.shape[:2]
        decision = abs(pipeline.decision_function([image])[0])
        assert display.evidence.sum() == pytest.approx(decision, abs=1e-5)
    with pytest.raises(ValueError, match="images of 1 channels, but"):
        ClassActivationDisplay.from_estimator(pipeline, IMAGES[0][..., 0])


@pytest.mark.parametrize("settings", [{}, {"symmetries": "dihedral", "power": 0.5}], ids=str)
@pytest.mark.parametrize("chunk_bytes", [2**26, 1000])
def test_evidence_is_that_for_images_of_one_size(settings, chunk_bytes, monkeypatch):
    monkeypatch.setattr(_class_activation, "CHUNK_BYTES", chunk_bytes)
    images = [image.astype(np.float64) for image in IMAGES]
    transformer = make("default").set_params(pool_grid=[1, 2], **settings)
    model = make_pipeline(transformer, StandardScaler(), RidgeClassifier())
    model.fit(images, [0, 1, 2] * 2)
    maps = class_activation_map(model, images)
    assert [each.shape for each in maps] == [(*size, 3) for size in SIZES]
    sums = [each.sum(axis=(0, 1)) for each in maps]
    np.testing.assert_allclose(sums, model.decision_function(images), atol=1e-9)
    for image, own in zip(images, maps, strict=True):
        single = clone(transformer).set_params(image_shape=None, kernels=transformer.kernels_)
        same = make_pipeline(single.fit(image[np.newaxis]), *model[1:])
        expected = class_activation_map(same, image[np.newaxis])[0]
        np.testing.assert_allclose(own, expected, atol=1e-9)
    objects = np.array([*images, None], dtype=object)[:-1]
    for X, tolerance in ((objects, 1e-9), (LazyImages(IMAGES), 1e-5)):
        for actual, own in zip(class_activation_map(model, X, classes=[2]), maps, strict=True):
            np.testing.assert_allclose(actual, own[..., 2:], atol=tolerance)


def test_evidence_of_branches_with_images_of_any_size():
    branches = [make("default"), make("default").set_params(n_kernels=3, stride=2)]
    model = make_pipeline(make_union(*branches), RidgeClassifier()).fit(IMAGES, [0, 1, 2] * 2)
    sums = [each.sum(axis=(0, 1)) for each in class_activation_map(model, IMAGES)]
    np.testing.assert_allclose(sums, model.decision_function(IMAGES), atol=1e-5)
    crop = FunctionTransformer(lambda images: [image[:9] for image in images])
    branches[1] = make_pipeline(crop, branches[1])
    model = make_pipeline(make_union(*branches), RidgeClassifier()).fit(IMAGES, [0, 1, 2] * 2)
    with pytest.raises(ValueError, match=r"they are \(12, 8\) in .*, \(9, 8\) in "):
        class_activation_map(model, IMAGES)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_memory_does_not_grow_with_the_number_of_sizes():
    """Each engine has buffers, and each size has engines."""
    transformer = StridedConv2DTransformer(64, 5, image_shape="any", random_state=0, n_jobs=1)

    def peak(n_sizes):
        images = [np.ones((60 + i % n_sizes, 90, 3), np.float32) for i in range(60)]
        transformer.fit(images[:2])
        tracemalloc.start()
        transformer.transform(images)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert peak(60) < 1.5 * peak(4)


def test_a_large_image_is_not_copied():
    image = np.random.default_rng(0).random((3000, 3000, 1), np.float32)  # 36 MB
    transformer = StridedConv2DTransformer(2, image_shape="any", random_state=0)
    transformer.fit([image[:50]] * 4)
    tracemalloc.start()
    transformer.transform([image])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
