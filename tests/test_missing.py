"""Missing pixels: windows that contain one do not count, as `test_pairs` shows by plain loops."""

import tracemalloc

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._engine.missing import MissingEngine
from sklearn_conv.inspection import class_activation_map

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(1, 1, size=(12, 13, 15, 2)).astype(np.float32)


def with_gaps(images):
    """Return images with a missing pixel, a missing channel, a missing corner and all missing."""
    images = images.copy()
    images[1, 4, 5] = np.nan
    images[2, 7, 2, 0] = np.nan
    images[3, :9, :10] = np.nan
    images[4] = np.nan
    return images


GAPS = with_gaps(IMAGES)


def test_added_pixels_that_repeat_a_missing_one():
    image = np.array([[[np.nan, 1.0, 2.0]]])
    for mode, is_known in (("constant", True), ("wrap", False)):
        transformer = StridedConv2DTransformer(
            kernels=np.ones((1, 3, 1, 1)), padding=(0, 1), padding_mode=mode, missing="ignore"
        ).set_params(pool_grid=1)
        assert np.isfinite(transformer.fit(np.ones((1, 1, 3))).transform(image)).all() == is_known


def test_a_masked_list_of_unequal_images():
    images = [np.ma.masked_equal(np.eye(8), 0), np.eye(9)]
    with pytest.raises(ValueError, match="image_shape='any'"):
        StridedConv2DTransformer(missing="ignore").fit(images)


SETTINGS = {
    "default": {},
    "learned": {"kernels": "patches", "normalize_patches": True, "whiten": True, "bias": -0.2},
    "maps": {"pooling": None, "activation": "step", "bias": -0.1},
    "mirror": {"symmetries": "mirror", "stride": 2, "power": 0.5, "activation": "split"},
    "dihedral": {"symmetries": "dihedral", "pooling": ["max", "mean"], "pool_grid": 3},
    "callable": {"activation": lambda z: np.where(z > 0, z, 7.0), "bias": [[0.1], [0.2]]},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_other_images_have_the_same_features_bit_for_bit(setting):
    usual = StridedConv2DTransformer(8, random_state=0, **SETTINGS[setting]).fit(IMAGES)
    ignoring = StridedConv2DTransformer(
        8, random_state=0, missing="ignore", **SETTINGS[setting]
    ).fit(IMAGES)
    np.testing.assert_array_equal(ignoring.kernels_, usual.kernels_)
    expected = usual.transform(IMAGES)
    np.testing.assert_array_equal(ignoring.transform(IMAGES), expected)
    found = ignoring.transform(GAPS)
    np.testing.assert_array_equal(found[5:], expected[5:])
    assert np.isnan(found[4]).all()
    assert not np.isnan(found[0]).any()
    is_known = np.isfinite(found[1])
    assert is_known.any()
    if setting != "maps":  # Means over other windows differ.
        assert (found[1] != expected[1]).any()
    else:
        np.testing.assert_array_equal(found[1][is_known], expected[1][is_known])


@pytest.mark.parametrize("pooling", [None, ["max", "mean", "sum"]])
@pytest.mark.parametrize("normalize_patches", [False, True])
def test_user_defined_activations_never_see_missing_pixels(pooling, normalize_patches):
    options = {"pooling": pooling, "normalize_patches": normalize_patches, "missing": "ignore"}
    named = StridedConv2DTransformer(5, bias=0.2, random_state=0, **options).fit(GAPS)
    own = StridedConv2DTransformer(
        5, bias=0.2, random_state=0, activation=lambda z: np.maximum(z, 0), **options
    ).fit(GAPS)
    np.testing.assert_allclose(own.transform(GAPS), named.transform(GAPS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"stride": 4}, {"pooling": None}, {"pool_grid": 2}])
def test_memory_beyond_the_features_does_not_grow_with_the_images(options):
    transformer = StridedConv2DTransformer(
        2, kernels="gaussian", missing="ignore", random_state=0, **options
    )
    images = np.zeros((1, 3000, 2000, 1), np.float32)
    images[0, 5, 5] = np.nan
    transformer.fit(images)
    tracemalloc.start()
    try:
        features = transformer.transform(images)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - features.nbytes < 26e6


def test_images_with_missing_pixels_are_computed_in_blocks(monkeypatch):
    """Images without missing pixels may be between them."""
    sizes = []
    compute = MissingEngine._compute_block

    def watch(self, images, *others):
        sizes.append(len(images))
        compute(self, images, *others)

    monkeypatch.setattr(MissingEngine, "_compute_block", watch)
    images = np.random.default_rng(0).random((40, 9, 9, 1))
    transformer = StridedConv2DTransformer(2, missing="ignore", random_state=0).fit(images)
    images[::2, 4, 4] = np.nan
    features = transformer.transform(images)
    assert sizes == [20]
    for i in range(4):
        alone = transformer.transform(images[i : i + 1])
        np.testing.assert_allclose(features[i : i + 1], alone, rtol=1e-12)


def test_a_maximum_below_0():
    options = {"pooling": "max", "activation": "identity", "missing": "ignore", "bias": -100.0}
    found = StridedConv2DTransformer(5, random_state=0, **options).fit(GAPS).transform(GAPS)
    assert np.nanmax(found) < -50


@pytest.mark.parametrize("symmetries", ["mirror", "dihedral"])
def test_features_stay_invariant(symmetries):
    images = GAPS[:, :13, :13]
    transformer = StridedConv2DTransformer(
        5, stride=2, symmetries=symmetries, random_state=0, missing="ignore"
    ).fit(images)
    found = transformer.transform(images)
    np.testing.assert_allclose(transformer.transform(images[:, :, ::-1]), found, rtol=1e-5)
    assert not np.isnan(found[3]).any()  # Every cell has windows in some of the views.
    if symmetries == "dihedral":
        np.testing.assert_allclose(
            transformer.transform(np.rot90(images, axes=(1, 2))), found, rtol=1e-5
        )


@pytest.mark.parametrize("n_patches", [10, 50, 100_000])
def test_patches_are_taken_from_whole_windows(n_patches):
    images = np.arange(20 * 8 * 8, dtype=np.float32).reshape(20, 8, 8)
    images[:, ::4, ::4] = np.nan
    images[::2] = np.nan
    windows = sliding_window_view(images, (3, 3), axis=(1, 2)).reshape(-1, 9)
    whole = {*map(tuple, windows[~np.isnan(windows).any(axis=1)])}
    patches = []

    def keep(shape, rng, training_patches):
        patches.extend(map(tuple, training_patches()))
        return rng.normal(size=shape)

    StridedConv2DTransformer(
        kernels=keep, n_patches=n_patches, missing="ignore", random_state=0
    ).fit(images)
    assert len(patches) == min(n_patches, len(whole))
    assert len({*patches}) == len(patches)
    assert {*patches} <= whole


def test_learning_needs_a_whole_window():
    with pytest.raises(ValueError, match="All of 1,716 windows of X contain missing pixels"):
        StridedConv2DTransformer(kernels="patches", missing="ignore").fit(
            np.full_like(GAPS, np.nan)
        )


def containers(folder):
    np.save(folder / "images.npy", GAPS)
    rounded = np.ma.masked_array(np.nan_to_num(GAPS * 50).round().astype(np.int16), np.isnan(GAPS))
    return {
        "list": [*GAPS],
        "masked": np.ma.masked_invalid(GAPS),
        "masked list": [*np.ma.masked_invalid(GAPS)],
        "masked integers": rounded,
        "memory map": np.load(folder / "images.npy", mmap_mode="r"),
        "zarr": zarr.array(GAPS, chunks=(5, 13, 15, 2)),
        "dask": da.from_array(GAPS, (5, -1, -1, -1)),
        "masked dask": da.from_array(np.ma.masked_invalid(GAPS), (5, -1, -1, -1)),
        "float64": GAPS.astype(np.float64),
        "longdouble": GAPS.astype(np.longdouble),
    }


@pytest.mark.parametrize(
    "name",
    [
        "list",
        "masked",
        "masked list",
        "masked integers",
        "memory map",
        "zarr",
        "dask",
        "masked dask",
        "float64",
        "longdouble",
    ],
)
def test_containers(name, tmp_path):
    X = containers(tmp_path)[name]
    plain = GAPS if name != "masked integers" else np.ma.filled(X.astype(np.float32), np.nan)
    transformer = StridedConv2DTransformer(
        6, kernels="patches", whiten=True, random_state=0, missing="ignore"
    )
    expected = transformer.fit(plain).transform(plain)
    found = np.asarray(transformer.fit(X).transform(X))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    if "dask" not in name:
        batches = np.concatenate([batch for _, batch in transformer.transform_batches(X, 5)])
        np.testing.assert_allclose(batches, expected, rtol=1e-4, atol=1e-5)


def test_rows_of_a_table():
    rows = GAPS[..., 0].reshape(12, -1)
    table = pd.DataFrame(rows).add_prefix("pixel")
    transformer = StridedConv2DTransformer(
        4, image_shape=(13, 15), random_state=0, missing="ignore"
    )
    np.testing.assert_array_equal(
        transformer.fit_transform(table), transformer.fit_transform(GAPS[..., :1])
    )


def test_missing_pixels_are_errors_by_default():
    for X in (GAPS, np.ma.masked_invalid(GAPS), [*np.ma.masked_invalid(GAPS)]):
        with pytest.raises(ValueError, match="set missing='ignore'"):
            StridedConv2DTransformer().fit(X)


def test_infinity_is_an_error():
    X = GAPS.copy()
    X[7, 3, 3] = np.inf
    with pytest.raises(ValueError, match=r"infinity.* in 1 image: X\[7\]"):
        StridedConv2DTransformer(missing="ignore").fit(X)


@pytest.mark.parametrize(("value", "error"), [("drop", ValueError), (None, TypeError)])
def test_bad_parameter(value, error):
    with pytest.raises(error, match=r"'missing' parameter of .* must be one of \['ignore', 'raise"):
        StridedConv2DTransformer(missing=value).fit(IMAGES)


def test_only_nan_is_not_warned_of(recwarn):
    StridedConv2DTransformer(random_state=0, missing="ignore").fit(GAPS).transform(GAPS)
    assert not recwarn.list
    X = IMAGES * np.float32(1e30)
    transformer = StridedConv2DTransformer(random_state=0, missing="ignore").fit(IMAGES)
    with pytest.warns(UserWarning, match="responses overflow"):
        transformer.set_params(pooling="sum", activation="square").transform(X)


def test_tags():
    assert StridedConv2DTransformer(missing="ignore").__sklearn_tags__().input_tags.allow_nan
    assert not StridedConv2DTransformer().__sklearn_tags__().input_tags.allow_nan


def test_in_a_pipeline():
    y = np.arange(12) % 2
    images = GAPS + 2 * y[:, np.newaxis, np.newaxis, np.newaxis].astype(np.float32)
    model = make_pipeline(
        StridedConv2DTransformer(8, kernels="uniform", missing="ignore", random_state=0),
        HistGradientBoostingClassifier(min_samples_leaf=2),
    ).fit(images, y)
    assert model.score(images[5:], y[5:]) == 1


@pytest.mark.parametrize(
    "parameters",
    [{}, {"symmetries": "mirror", "power": 0.5}, {"pooling": ["sum", "mean"], "stride": 2}],
)
def test_evidence_adds_up(parameters):
    images = np.delete(GAPS, 4, axis=0)
    y = np.arange(11) % 3
    transformer = StridedConv2DTransformer(
        8, pool_grid=1, missing="ignore", random_state=0, **parameters
    )
    pipeline = make_pipeline(transformer, StandardScaler(), RidgeClassifier()).fit(images, y)
    maps = class_activation_map(pipeline, images)
    np.testing.assert_allclose(
        maps.sum(axis=(1, 2)), pipeline.decision_function(images), rtol=1e-4, atol=1e-4
    )
    # Windows around the corner have missing pixels, so that only the constant is left there.
    assert np.ptp(maps[3][:6, :7], axis=(0, 1)).max() < 1e-4 * np.abs(maps[3]).max()


def test_evidence_needs_finite_features():
    pipeline = make_pipeline(
        StridedConv2DTransformer(8, missing="ignore", random_state=0), RidgeClassifier()
    ).fit(IMAGES, np.arange(12) % 3)
    with pytest.raises(ValueError, match="cells without whole windows are NaN"):
        class_activation_map(pipeline, GAPS)


@pytest.mark.filterwarnings("ignore:The values of X:UserWarning")
def test_overflow_is_not_blamed_on_missing_pixels():
    images = np.full((2, 6, 6, 1), 1e38, np.float32)
    images[0, 0, 0] = np.nan
    transformer = StridedConv2DTransformer(
        kernels=np.ones((2, 2, 1, 1)), pooling="sum", padding="valid", missing="ignore"
    ).fit(np.ones((4, 6, 6, 1), np.float32))
    message = "^Some features are infinite or NaN: responses overflow in float32"
    with pytest.warns(UserWarning, match=message):
        transformer.transform(images)
