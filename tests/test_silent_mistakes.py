"""Mistakes with images that would pass silently raise a warning or an error with a remedy."""

import itertools
import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from helpers import LEARNED, run_python
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import load_digits, load_sample_images

from sklearn_conv import StridedConv2DTransformer, _pixels, conv2d

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (30, 20, 24, 3), np.uint8)
IMAGES = (BYTES / 255).astype(np.float32)


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert {warning.category for warning in caught} <= {UserWarning}
    return [str(warning.message) for warning in caught]


def fit(X, **parameters):
    return StridedConv2DTransformer(4, random_state=0, **parameters).fit(X)


def fit_silently(X, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(X, **parameters)


def with_alpha(X, value):
    return np.concatenate([X, np.full_like(X[..., :1], value)], axis=3)


@pytest.mark.parametrize(
    "shape", [(5, 3, 64, 64), (5, 1, 28, 28), (5, 4, 32, 48), (5, 13, 64, 64), (5, 2, 9, 16)]
)
def test_channels_first_in_fit(shape):
    with pytest.warns(UserWarning, match=r"transpose\(0, 2, 3, 1\).* moves the channels"):
        fit(RNG.random(shape))
    assert not warnings_of(lambda: fit(RNG.random(shape).transpose(0, 2, 3, 1)))


@pytest.mark.parametrize("image_shape", [None, "any"])
@pytest.mark.parametrize(
    ("shape", "n"), [((5, 13, 64, 64), 1), ((5, 6, 12, 12), 1), ((5, 3, 9, 9), 0)]
)
def test_many_channels_first_in_transform(shape, n, image_shape):
    X = RNG.random(shape)
    with pytest.warns(UserWarning, match="moves the channels"):
        transformer = StridedConv2DTransformer(4, image_shape=image_shape, random_state=0).fit(X)
    found = warnings_of(lambda: transformer.transform(X))
    assert len(found) == n
    assert all("moves the channels" in str(each) for each in found)


@pytest.mark.parametrize(
    "shape",
    [
        (5, 4, 4, 64),  # the features of a first layer
        (5, 2, 2, 64),
        (5, 1, 500, 12),  # signals
        (5, 1, 64, 8),
        (5, 8, 8, 8),
        (5, 64, 64, 3),
        (5, 6, 64),
        (5, 40, 5),
        (5, 5, 3),
        (3, 9, 9, 16),
    ],
)
def test_shapes_that_are_usual(shape):
    assert not warnings_of(lambda: fit(RNG.random(shape)))


@pytest.mark.parametrize("shape", [(64, 64, 3), (48, 100, 4), (8, 8, 3)])
def test_a_single_color_image_in_fit(shape):
    with pytest.warns(UserWarning, match=r"single color image, pass X\[np.newaxis\]"):
        fit(RNG.random(shape))
    assert not warnings_of(lambda: fit(RNG.random(shape)[np.newaxis]))


@pytest.mark.parametrize(("X", "value"), [(BYTES, 255), (IMAGES, 1), (BYTES[..., :1], 255)])
@pytest.mark.parametrize("parameters", [{}, LEARNED])
def test_a_constant_alpha_channel(X, value, parameters, tmp_path):
    n = X.shape[3]
    rgba = with_alpha(X, value)
    with pytest.warns(UserWarning, match=rf"{n + 1} channels .* Remove it with X\[..., :{n}\]"):
        fit(rgba, **parameters)
    if parameters:
        np.save(tmp_path / "rgba.npy", rgba)
        with pytest.warns(UserWarning, match="alpha"):
            fit(np.load(tmp_path / "rgba.npy", mmap_mode="r"), **parameters)
    rgba[3, ..., -1] = 0
    assert not warnings_of(lambda: fit(rgba, **parameters))


def test_alpha_in_transform():
    for X, n in ((BYTES, 3), (BYTES[..., :1], 1)):
        transformer = fit(X)
        match = rf"alpha \(opacity\).*remove it with X.*\[..., :{n}\]"
        for rgba in (with_alpha(X, 255), with_alpha(X, 255).reshape(len(X), -1)):
            with pytest.raises(ValueError, match=match):
                transformer.transform(rgba)
    with pytest.warns(UserWarning, match="alpha"):
        transformer = fit(with_alpha(BYTES, 255))
    with pytest.raises(ValueError, match="fit without it"):
        transformer.transform(BYTES)
    with pytest.raises(ValueError, match="to gray"):
        fit(BYTES[..., 0]).transform(BYTES)
    with pytest.raises(ValueError, match="as color"):
        fit(BYTES).transform(BYTES[..., 0])


def standardized(X):
    return (X - X.mean()) / X.std()


SMALLER = {
    "0 to 1": lambda X: X / 255,
    "in float32": lambda X: (X / 255).astype(np.float32),
    "-1 to 1": lambda X: X / 127.5 - 1,
    "standardized": standardized,
}


@pytest.mark.parametrize("make", SMALLER.values(), ids=SMALLER)
@pytest.mark.parametrize("n_images", [1, 30])
def test_other_units_in_transform(make, n_images):
    other = make(BYTES.astype(float))
    transformer, match = fit(BYTES), "same units in fit and transform"
    assert not warnings_of(lambda: transformer.transform(BYTES[:n_images]))
    with pytest.warns(UserWarning, match=match):
        transformer.transform(other[:n_images])
    with pytest.warns(UserWarning, match=match):
        fit(other).transform(BYTES[:n_images])
    for call in (transformer.transform, lambda X: list(transformer.transform_batches(X, 7))):
        assert len(warnings_of(lambda call=call: call(other))) == 1


def test_digits_in_other_units():
    digits = load_digits().images
    with pytest.warns(UserWarning, match="differs by a factor of 16"):
        fit(digits[:900]).transform(digits[900:] / 16)
    with pytest.warns(UserWarning, match="differs by a factor of 16"):
        fit(digits[:900] / 16).transform(digits[900:])


def test_16_bits_in_fit_and_8_in_transform():
    wide = BYTES.astype(np.uint16) * 257
    with pytest.warns(UserWarning, match="differs by a factor of 2[56]"):
        fit(wide).transform(BYTES)
    with pytest.warns(UserWarning, match="differs by a factor of 2[56]"):
        fit(BYTES).transform(wide[:1])


def test_other_units_in_images_that_are_not_in_memory(tmp_path):
    np.save(tmp_path / "bytes.npy", BYTES)
    np.save(tmp_path / "images.npy", IMAGES)
    stored = {
        name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("bytes", "images")
    }
    transformer = fit(stored["bytes"], **LEARNED)
    assert not warnings_of(lambda: transformer.transform(stored["bytes"]))
    with pytest.warns(UserWarning, match="same units"):
        transformer.transform(stored["images"])
    transformer = fit(stored["bytes"])  # No image is read.
    assert not warnings_of(lambda: transformer.transform(stored["images"]))


def test_dark_and_empty_images_are_not_in_other_units():
    transformer = fit(BYTES)
    for X in (BYTES[:1] // 32, BYTES[:3] // 100, BYTES // 20):
        assert not warnings_of(lambda X=X: transformer.transform(X))
    (message,) = warnings_of(lambda: transformer.transform(np.zeros_like(BYTES)))
    assert message.startswith("X contains constant images, 30 of 30")
    assert not warnings_of(lambda: fit(np.zeros_like(BYTES)).transform(BYTES))


STRIPS = {
    "right": np.s_[:, :, -4:],
    "rows of some images": np.s_[:8, 10:14],
    "one channel": np.s_[..., 5:12, 2],
    "nearly everything": np.s_[:, 1:],
}


@pytest.mark.filterwarnings("ignore:Some features are infinite:UserWarning")
@pytest.mark.parametrize("part", STRIPS.values(), ids=STRIPS)
@pytest.mark.parametrize(
    "fill", [-9999, -32768, -999, 1e20, -3.4e38, 9.96921e36, -7777, 1e6, 99999]
)
def test_a_fill_value(part, fill):
    images = BYTES.astype(np.float32)
    images[part] = fill
    with pytest.warns(UserWarning, match=r"like a fill value .* numpy.where\(X == X.(min|max)"):
        transformer = fit(images)
    # The fill value is not part of the range that is kept.
    assert not any(
        "units" in message for message in warnings_of(lambda: transformer.transform(BYTES))
    )
    with pytest.warns(UserWarning, match="like a fill value"):
        fit(BYTES).transform(images)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "fill"),
    [
        (np.int16, 0, 10_000, -9999),
        (np.int16, 100, 4000, -32768),
        (np.uint16, 0, 12_000, 65535),
        (np.uint16, 29_900, 30_100, 65535),
        (np.int32, 29_900, 30_100, -9999),
        (np.float64, -30, 45, -99),
    ],
)
def test_a_fill_value_of_a_sensor(dtype, low, high, fill):
    images = RNG.integers(low, high, (20, 16, 16)).astype(dtype)
    assert not warnings_of(lambda: fit(images))
    images[3:, 5:7] = fill
    with pytest.warns(UserWarning, match=f"are {fill}, far from all"):
        fit(images)


def test_a_fill_value_is_reported_once_in_all_batches():
    images = BYTES.astype(np.float32)
    images[:, 3] = -9999
    transformer = fit(IMAGES)
    messages = warnings_of(lambda: list(transformer.transform_batches(images, 7)))
    assert len(messages) == 2
    assert "like a fill value" in messages[0]
    assert "same units" in messages[1]


def test_the_remedy_for_a_fill_value():
    X = BYTES.astype(float)
    X[:, 1:] = -9999
    (message,) = warnings_of(lambda: fit(X))
    remedy = re.search(r"numpy\.where\(.*, X\)", message)[0]
    replaced = eval(remedy, {"numpy": np, "X": X})
    np.testing.assert_array_equal(replaced[:, 0], X[:, 0])
    assert np.isnan(replaced[:, 1:]).all()
    StridedConv2DTransformer(missing="ignore").fit(replaced)
    median = re.search(r"numpy\.median\(.*\]\)", message)[0]
    assert eval(median, {"numpy": np, "X": X}) == np.median(X[:, 0])


def with_gap(value, low, high, fraction=0.2):
    """Return images in which a fraction of the pixels has a value, and the others are a range."""
    shape = (20, 16, 16)
    return np.where(RNG.random(shape) < fraction, value, RNG.uniform(low, high, shape))


hot = RNG.random((20, 16, 16))
hot[3, 4, 5] = 1e6
NOT_FILLED = {
    "masks": with_gap(0, 255, 255),
    "masks of 16 bits": with_gap(0, 65535, 65535).astype(np.uint16),
    "labels": np.choose(RNG.integers(3, size=(20, 16, 16)), [0, 1, 200]),
    "smooth": np.maximum(RNG.standard_normal((20, 16, 16)), 0) * 10,
    "clipped": np.clip(RNG.standard_normal((20, 16, 16)) * 30_000, -32768, 32767),
    "black is -1": with_gap(-1, 0.2, 1),
    "black is -1, the rest is gray": with_gap(-1, 0.2, 0.6),
    "black is -128, the rest is gray": with_gap(-128, 0, 80).astype(np.int8),
    "masked": with_gap(0, 30_000, 30_050),
    "hot pixel": hot,
    "black background, standardized": standardized(with_gap(0, 190, 255)),
    "black ink on white paper": with_gap(255, 0, 20, 0.9).astype(np.uint8),
    "white ink": with_gap(255, 0, 20, 0.1).astype(np.uint8),
    "white ink, divided by 255": with_gap(1, 0, 0.08, 0.1),
    "saturated pixels of 12 bits": with_gap(4095, 90, 120, 0.05).astype(np.uint16),
    "saturated pixels of 16 bits": with_gap(65535, 90, 120, 0.004).astype(np.uint16),
}


@pytest.mark.parametrize("images", NOT_FILLED.values(), ids=NOT_FILLED)
def test_values_that_are_not_fill_values(images):
    assert not warnings_of(lambda: fit(images))


def colored(n, color, seed, spread=0.2):
    """Return images of a color, whose brightness varies more than the color."""
    rng = np.random.default_rng(seed)
    logs = (
        np.log(color) + spread * rng.standard_normal((n, 1)) + rng.normal(0, 0.05, (n, len(color)))
    )
    images = np.exp(logs)[:, np.newaxis, np.newaxis] * rng.uniform(0.7, 1.3, (n, 12, 10, 1))
    return np.minimum(images, 255).astype(np.uint8)


COLORS = [(40, 90, 60), (30, 60, 100, 140)]


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("parameters", [{}, {"kernels": "patches"}])
def test_channels_in_another_order(color, parameters, tmp_path):
    transformer, X = fit(colored(60, color, 0), **parameters), colored(40, color, 1)
    np.save(tmp_path / "images.npy", colored(60, color, 0))
    windows = fit(np.load(tmp_path / "images.npy", mmap_mode="r"), kernels="patches")
    for order in itertools.permutations(range(len(color))):
        swapped = X[..., list(order)]
        found = warnings_of(lambda swapped=swapped: transformer.transform(swapped))
        assert len(found) == (order != tuple(sorted(order)))
        assert found == warnings_of(
            lambda swapped=swapped: [*transformer.transform_batches(swapped, 40)]
        )
        for message in found + warnings_of(lambda swapped=swapped: windows.transform(swapped)):
            assert message.startswith("The channels of X seem to be in another order")
            remedy = re.search(r"X\[.*\]\]", message)[0]
            np.testing.assert_array_equal(eval(remedy, {"X": swapped}), X)
    assert not warnings_of(lambda: transformer.transform(X[:7, ..., ::-1]))  # Too few.
    few = fit(colored(31, color, 0), **parameters)
    assert not warnings_of(lambda: few.transform(X[..., ::-1]))


def test_an_order_of_channels_that_makes_no_difference():
    gray = np.repeat(colored(60, (90,), 0), 3, axis=3)
    assert not warnings_of(lambda: fit(gray).transform(gray[..., ::-1]))
    many = colored(60, np.linspace(50, 150, 5), 0)
    assert not warnings_of(lambda: fit(many).transform(many[..., ::-1]))


@pytest.mark.parametrize("n_rare", [5, 30])
def test_a_class_with_the_colors_of_another_in_another_order(n_rare):
    usual, rare = colored(400, (40, 90, 60), 0), colored(n_rare, (90, 40, 60), 1)
    transformer = fit(np.concatenate([usual, rare]))
    for seed in range(2, 12):
        X = colored(30, (90, 40, 60), seed)
        assert not warnings_of(lambda X=X: transformer.transform(X))


@pytest.mark.parametrize("color", [(40, 90, 60), (60,)])
@pytest.mark.parametrize(("factor", "word"), [(2, "brighter"), (0.5, "darker")])
def test_images_that_are_twice_or_half_as_bright(color, factor, word):
    transformer, X = fit(colored(60, color, 0)), colored(40, color, 1)
    other = np.minimum(factor * X.astype(float), 255).astype(np.uint8)
    assert not warnings_of(lambda: transformer.transform(X))
    (message,) = warnings_of(lambda: [*transformer.transform_batches(other, 20)])
    assert message.startswith(f"The images of X are {word} than in fit: the means of their")
    assert f"of the images are {word} than all in fit" in message
    # Classes of different brightness are usual.
    both = fit(np.concatenate([colored(60, color, 0), other[:20]]))
    assert not warnings_of(lambda: both.transform(other[20:]))


def test_the_colors_that_are_remembered():
    X = colored(60, (40, 90, 60), 0)
    X[7] = 5
    level, center, precision, farthest, darkest, brightest = fit_silently(X)._values_seen[-1]
    means = np.delete(_pixels.sample_images(X, 60), 7, axis=0).mean(axis=1)
    logs = np.log(means + means.mean() / 10)
    covariance = EmpiricalCovariance().fit(logs)
    np.testing.assert_allclose(center, covariance.location_)
    noisy = covariance.covariance_ * 59 / 58 + 0.0004 * np.eye(3)
    np.testing.assert_allclose(precision, np.linalg.inv(noisy))
    assert level == pytest.approx(means.mean())
    brightness = logs.mean(axis=1)
    assert (darkest, brightest) == pytest.approx((brightness.min(), brightness.max()))
    distances = cdist(logs, [center], "mahalanobis", VI=precision)
    assert farthest == pytest.approx(distances.max() ** 2)


@pytest.mark.parametrize(
    "make", [lambda X: X, lambda X: X.astype(np.float32), lambda X: X[..., :1]]
)
@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_images(make, value, tmp_path):
    X = make(BYTES.copy())
    transformer, X = fit(X), X.copy()
    X[[4, 9]] = value
    (message,) = warnings_of(lambda: fit(X))
    assert message.startswith("X contains constant images, 2 of 30: X[4], X[9]. All pixels")
    assert not warnings_of(lambda: fit(make(BYTES)).transform(make(BYTES)))
    start = "X contains constant images, 2 of {}, but there were none in fit: X[4], X[9]."
    (message,) = warnings_of(lambda: transformer.transform(X))
    assert message.startswith(start.format(30))
    (message,) = warnings_of(lambda: [*transformer.transform_batches(X, 10)])
    assert message.startswith(start.format(10))
    (message,) = warnings_of(lambda: [*transformer.transform_batches(X, 6)])
    assert "1 of 6, but there were none in fit: X[4]." in message
    # Images in a memory map are not read in fit, but for windows.
    np.save(tmp_path / "images.npy", X)
    stored = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert not warnings_of(lambda: fit(stored).transform(stored))
    (message,) = warnings_of(lambda: fit(stored, **LEARNED).transform(stored))
    assert message.startswith("X contains constant images, 2 of 30: X[4], X[9].")
    X[2:8] = value
    (message,) = warnings_of(lambda: fit(X))
    assert "7 of 30: X[2], X[3], X[4], X[5], X[6] and others." in message


def test_constant_images_that_are_usual(tmp_path):
    X = BYTES.copy()
    X[3] = 0
    transformer = fit_silently(X)
    assert not warnings_of(lambda: transformer.transform(X))  # They were reported in fit.
    assert not warnings_of(lambda: fit(X[:7]).transform(X))
    for images in (np.ones((9, 9, 9)), np.zeros((9, 9, 9))):
        np.save(tmp_path / "images.npy", images)
        stored = np.load(tmp_path / "images.npy", mmap_mode="r")
        for X, parameters in itertools.product((images, stored), ({}, {"kernels": "patches"})):
            assert not warnings_of(lambda X=X, options=parameters: fit(X, **options).transform(X))
    X = BYTES.copy()
    X[3], X[5], X[5, :5, 0] = 0, 0, 200  # The latter is nearly constant.
    assert not warnings_of(lambda: fit(X).transform(X))
    assert not warnings_of(lambda: fit(BYTES).transform(X))
    small = BYTES[:, :7].copy()
    small[3] = 0
    assert not warnings_of(lambda: fit(small).transform(small))
    missing = IMAGES.copy()
    missing[3] = np.nan
    assert not warnings_of(lambda: fit(missing, missing="ignore").transform(missing))


PHOTOS = np.stack([image[100:356, 100:356] for image in load_sample_images().images])
TILES = PHOTOS.reshape(2, 8, 32, 8, 32, 3).swapaxes(2, 3).reshape(128, 32, 32, 3)
DIGITS = load_digits().images[:200]
USUAL = {
    "8 bits": lambda X: (X * 255).astype(np.uint8),
    "12 bits": lambda X: (X * 4095).astype(np.uint16),
    "16 bits": lambda X: (X * 65535).astype(np.uint16),
    "16 bits with sign": lambda X: (X * 65535 - 32768).astype(np.int16),
    "0 to 1": lambda X: X,
    "0 to 1 in float32": lambda X: X.astype(np.float32),
    "-1 to 1": lambda X: 2 * X - 1,
    "standardized": standardized,
    "each image standardized": lambda X: np.stack([standardized(image) for image in X]),
    "each pixel standardized": lambda X: (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-9),
    "inverted": lambda X: ((1 - X) * 255).astype(np.uint8),
    "dark": lambda X: (X**3 * 40).astype(np.uint8),
    "overexposed": lambda X: np.minimum(X * 900, 255).astype(np.uint8),
    "decibels": lambda X: 20 * np.log10(X + 1e-6),
    "masks": lambda X: (X > 0.5) * np.uint8(255),
    "bool": lambda X: X > 0.5,
    "edges": lambda X: np.gradient(X * 255, axis=1),
}


@pytest.mark.parametrize("make", USUAL.values(), ids=USUAL)
@pytest.mark.parametrize("images", [TILES / 255, DIGITS / 16], ids=["photographs", "digits"])
@pytest.mark.parametrize("parameters", [{}, LEARNED])
def test_usual_images_raise_no_warning(images, make, parameters):
    X = make(images)
    transformer = fit(X[::2], **parameters)
    assert not warnings_of(lambda: transformer.transform(X[1::2]))
    assert not warnings_of(lambda: list(transformer.transform_batches(X[:30], 1)))


@pytest.mark.parametrize("parameters", [{"kernels": "patches"}, {"kernels": "pca"}, LEARNED])
@pytest.mark.parametrize("n_images", [1, 2, 3])
def test_kernels_learned_from_few_images(n_images, parameters):
    match = rf"learned from few images: X contains {n_images} of shape"
    with pytest.warns(UserWarning, match=match):
        fit(BYTES[:n_images], **parameters)
    with pytest.warns(UserWarning, match=match):
        fit(load_digits().images[:n_images], **parameters)
    assert not warnings_of(lambda: fit(BYTES[:n_images]))  # Nothing is learned.
    assert not warnings_of(lambda: fit(BYTES[:4], **parameters))
    # A large scene has more windows than are drawn.
    assert not warnings_of(lambda: fit(BYTES[:n_images], n_patches=300, **parameters))


def test_warnings_can_be_switched_off_and_turned_into_errors():
    images = IMAGES.transpose(0, 3, 1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transformer = StridedConv2DTransformer()
        with pytest.raises(UserWarning, match="moves the channels"):
            transformer.fit(images)
        assert not [name for name in vars(transformer) if name.endswith("_")]
        warnings.simplefilter("ignore")
        transformer.fit(images)


def test_the_sample_is_small_and_evenly_spread():
    images = np.broadcast_to(np.float32(0), (10**6, 1000, 1000, 3))
    assert _pixels.sample_pixels(images).shape == (_pixels.N_VALUES // 3, 3)
    images = np.arange(40 * 50 * 60).reshape(40, 50, 60, 1)
    index = np.unravel_index(_pixels.sample_pixels(images).ravel(), images.shape)
    for axis, length in enumerate(images.shape[:3]):
        counts = np.bincount(index[axis], minlength=length)
        assert counts.min() > 0.9 * counts.mean()
        assert counts.max() < 1.1 * counts.mean()


@pytest.mark.parametrize(
    ("n", "most", "n_seen"), [(500, 500, 500), (500, 600, 500), (4000, 500, 500)]
)
def test_the_sample_of_each_image_is_evenly_spread(n, most, n_seen):
    images = np.arange(n * 16 * 20).reshape(n, 16, 20, 1)
    pixels = _pixels.sample_images(images, most)
    assert pixels.shape == (n_seen, 16, 1)
    image, y, x = np.unravel_index(pixels[..., 0], images.shape[:3])
    assert (image == image[:, :1]).all()
    assert len(np.unique(image[:, 0])) == n_seen
    for period in (2, 4):  # Classes may alternate, and textures may be periodic.
        for index in (image[:, 0], y, x):
            counts = np.bincount(np.ravel(index) % period)
            assert counts.min() > 0.9 * counts.mean()


@pytest.mark.parametrize("parameters", [{}, LEARNED])
def test_stripes_are_as_bright_as_their_windows(parameters, tmp_path):
    stripes = np.tile(np.uint8([0, 200]), (60, 16, 8)) + RNG.integers(
        50, size=(60, 16, 16), dtype=np.uint8
    )
    stripes[::2] = stripes[::2].swapaxes(1, 2)
    np.save(tmp_path / "stripes.npy", stripes)
    transformer = fit(np.load(tmp_path / "stripes.npy", mmap_mode="r"), **parameters)
    assert not warnings_of(lambda: transformer.transform(stripes))
    assert not warnings_of(lambda: transformer.transform(stripes[::2]))


def column(*images):
    objects = np.empty(len(images), object)
    objects[:] = images
    return objects


@pytest.mark.parametrize("wrap", [lambda X: X, lambda X: pd.Series([*X])])
def test_columns_of_images(wrap):
    unequal = wrap(column(np.ones((8, 8)), np.ones((9, 9))))
    with pytest.raises(ValueError, match=r"unequal images of shapes \(8, 8\), \(9, 9\).*resize"):
        fit(unequal)
    equal = wrap(column(np.ones((8, 8)), np.ones((8, 8))))
    with pytest.raises(ValueError, match=r"2 images of shape \(8, 8\).*pass numpy.stack\(X\)"):
        fit(equal)
    fit(np.stack(equal))


PATHS = {
    "list": ["a/1.png", "2.tif"],
    "list of paths": [Path("a/1.png")],
    "array": np.array(["a/1.png"]),
    "bytes": np.array([b"a/1.png"]),
    "column": np.array([["a/1.png"], ["2.tif"]]),
    "objects": column(Path("a/1.png"), Path("2.tif")),
    "series": pd.Series(["a/1.png"]),
    "frame": pd.DataFrame({"path": ["a/1.png"], "label": [3]}),
    "frame of paths": pd.DataFrame({"path": [Path("a/1.png")]}),
    "polars": pl.DataFrame({"path": ["a/1.png"]}),
    "polars series": pl.Series(["a/1.png"]),
}


@pytest.mark.parametrize("X", PATHS.values(), ids=PATHS)
def test_names_of_files(X):
    with pytest.raises(TypeError, match=r"'a.1.png': if these are names of files, read the images"):
        fit(X)


@pytest.mark.parametrize("learned", [{}, LEARNED])
def test_nan_says_in_which_images(learned):
    images = IMAGES.copy()
    images[[3, 17], 2] = np.nan
    with pytest.raises(ValueError, match=r"NaN.* in 2 images: X\[3\], X\[17\]\. Fill"):
        fit(images, **learned)
    transformer = fit(IMAGES, **learned)
    with pytest.raises(ValueError, match=r"in 2 images: X\[3\], X\[17\]\. Fill"):
        transformer.transform(images)
    images[:, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"in 30 images: X\[0\], .*X\[4\] and others\. Fill"):
        transformer.transform(images.reshape(30, -1))
    images = IMAGES.copy()
    images[29, 1, 1, 1] = -np.inf
    with pytest.raises(ValueError, match=r"infinity .*in 1 image: X\[29\]\. Fill"):
        transformer.transform(images)


ASSUMED = [
    {},
    {"activation": np.tanh},
    {"kernels": "pca"},
    {"kernels": "kmeans"},
    {"bias": "quantile"},
    {"whiten": True},
    {"normalize_patches": True},
    LEARNED,
]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("options", ASSUMED)
def test_nan_although_finite_numbers_were_assumed(value, options):
    images = IMAGES.copy()
    images[5] = value
    transformer = fit(IMAGES, **options)
    match = r"contains? (NaN|infinity or .* large) in 1 image: X\[5\]\. Fill"
    with sklearn.config_context(assume_finite=True):
        if options.keys() & {"kernels", "bias", "whiten", "normalize_patches"}:
            with pytest.raises(ValueError, match=match):
                fit(images, **options)
        if "activation" in options and np.isnan(value):
            with pytest.raises(ValueError, match=match):
                transformer.transform(images)
        elif "activation" not in options:
            with pytest.warns(UserWarning, match=match):
                transformer.transform(images)


@pytest.mark.parametrize(
    ("X", "parameters", "remedy"),
    [
        (BYTES[..., 0], {"kernel_size": 1}, "a larger kernel_size"),
        (BYTES[..., 0], {"kernel_size": 1, "whiten": True}, "a larger kernel_size"),
        (BYTES[..., 0], {"kernels": np.ones((1, 1, 1, 2))}, "a larger kernel_size"),
        (BYTES, {"kernels": np.full((3, 3, 3, 2), 0.3)}, "other kernels"),
        (BYTES[..., 0], {"kernels": "dct", "n_kernels": 1}, "other kernels"),
    ],
)
def test_normalized_windows_to_which_no_kernel_responds(X, parameters, remedy):
    transformer = StridedConv2DTransformer(normalize_patches=True, **parameters)
    with pytest.raises(ValueError, match=f"always 0.*use {remedy} or normalize_patches=False"):
        transformer.fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert transformer.set_params(normalize_patches=False).fit_transform(X).any()
        StridedConv2DTransformer(2, 1, normalize_patches=True).fit(BYTES)


HUGE = [
    ({"pool_grid": 2**30}, r"pool_grid=\(1073741824, 1073741824\) has 1152921504606846976 cells"),
    ({"pool_grid": (2**31 - 1, 1)}, "has 2147483647 cells"),
    ({"pool_grid": 5000}, "has 25000000 cells"),
    ({"n_kernels": 2**30}, r"n_kernels=1073741824 kernels of shape \(3, 3, 3\) have 28991029248"),
    ({"n_kernels": 2**31 - 1}, "n_kernels=2147483647 kernels"),
    ({"kernel_size": 2**30}, "'kernel_size' .* below 16777216. Got 1073741824"),
    ({"kernel_size": 2**20}, "weights.* choose a smaller n_kernels or kernel_size"),
    ({"dilation": 2**30}, "'dilation' .* below 16777216"),
    ({"dilation": 2**20, "kernel_size": 50}, r"covers \(51380225, 51380225\) pixels"),
    ({"padding": 2**30}, "'padding' .* below 16777216"),
    ({"padding": (2**20, 2**19)}, "windows in each image.* a smaller padding"),
    (
        {"pool_grid": 2**11, "n_kernels": 2**12},
        "4194304 cells make 17179869184 features of each image.* smaller n_kernels or pool_grid",
    ),
    (
        {"pooling": None, "padding": 2**14},
        "windows make .* features of each image.* a smaller n_kernels, or a larger stride",
    ),
]


@pytest.mark.parametrize(("parameters", "message"), HUGE)
def test_huge_parameters(parameters, message):
    transformer = StridedConv2DTransformer().set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        transformer.fit(BYTES)
    if "pool_grid" in parameters and "n_kernels" not in parameters:
        transformer = fit(BYTES).set_params(**parameters)
        for method in (transformer.transform, transformer.transform_batches):
            with pytest.raises(ValueError, match=message):
                method(BYTES)
        with pytest.raises(ValueError, match=message):
            transformer.get_feature_names_out()


def test_more_features_than_memory_can_address():
    transformer = fit(BYTES, pool_grid=2**10).set_params(pool_grid=2**11)
    many = np.broadcast_to(BYTES[:1], (2**45, *BYTES.shape[1:]))
    with pytest.raises(MemoryError, match=r"16777216 features each.*transform_batches\(X\)"):
        transformer.transform(many)


ROW = np.ones((2**13, 1, 3, 1), np.float32)


@pytest.mark.parametrize(
    ("kernels", "parameters", "message"),
    [
        (ROW[:3], {"dilation": 2**40}, "'dilation' .* below 16777216"),
        (ROW[:3], {"dilation": 2**23, "padding": "same"}, r"covers \(16777217, 1\) pixels"),
        (ROW, {"dilation": 2**20}, "conv2d allows fewer than 16777216 along each axis"),
        (ROW[:3], {"padding": 2**40}, "'padding' .* below 16777216"),
        (ROW[:3], {"stride": 2**40}, "'stride' .* below 2147483648"),
    ],
)
def test_huge_parameters_of_conv2d(kernels, parameters, message):
    with pytest.raises(ValueError, match=message):
        conv2d(BYTES, kernels, **parameters)


def test_more_maps_than_memory_can_address():
    many = np.broadcast_to(BYTES[:1], (2**45, *BYTES.shape[1:]))
    message = r"size. Each of 35184372088832 images has 1000 maps of 18 x 24 .* larger stride"
    with pytest.raises(MemoryError, match=message):
        conv2d(many, np.ones((3, 1, 3, 1000)))
    with pytest.raises(MemoryError, match=r"4194326 x 4194332 responses.* less padding"):
        conv2d(BYTES, ROW[:3], padding=2**21 + 2)


def softly(z):
    return np.exp(-1000 * z**2)  # It underflows.


@pytest.mark.parametrize("scale", [1, 1e-38, 1e-44, 1e20, 3e38])
@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.filterwarnings("ignore:Some features are infinite:UserWarning")
def test_settings_of_numpy_do_not_matter(scale, n_jobs):
    images = (IMAGES * scale).astype(np.float32)
    for options in (
        {},
        {"activation": "square", "pooling": ["mean", "sum"]},
        {"activation": "split", "bias": 1e-40, "pool_grid": 1},
        {"activation": softly, "kernels": "pca" if scale < 1e30 else "gabor"},
        {"kernels": "kmeans" if scale < 1e30 else "dct"},
        {"pooling": None},
        LEARNED if 1e-10 < scale < 1e10 else {"kernels": "patches" if scale < 1 else "haar"},
    ):

        def features(options=options):
            return fit(images, n_jobs=n_jobs, **options).transform(images)

        expected = features()
        with np.errstate(all="raise"):
            raised = features()
            assert np.geterr()["under"] == "raise"
        np.testing.assert_allclose(raised, expected, rtol=1e-5, atol=1e-30)
    kernels = np.full((3, 3, 3, 2), 1e-5)
    expected = conv2d(images, kernels)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(conv2d(images, kernels), expected)
        batches = StridedConv2DTransformer(2).fit(images).transform_batches(images, 7)
        for _ in batches:
            assert set(np.geterr().values()) == {"raise"}


TENSORS = """
import sys
import numpy as np, sklearn
from sklearn_conv import StridedConv2DTransformer

class Tensor:
    def __init__(self, values):
        self.values, self.shape, self.ndim = values, values.shape, values.ndim
        self.dtype = object()  # not a dtype of NumPy

    def __array_namespace__(self, *, api_version=None):
        raise AssertionError("the namespace is not needed")

    def __array__(self, dtype=None, copy=None):
        return self.values

images = np.random.default_rng(0).random((5, 6, 6))
tensor, transformer = Tensor(images), StridedConv2DTransformer(2, random_state=0)
expected = transformer.fit(images).transform(images)
np.testing.assert_array_equal(transformer.fit(tensor).transform(tensor), expected)
try:
    sklearn.set_config(array_api_dispatch=True)
except (ImportError, RuntimeError):  # Old versions need array-api-compat.
    sys.exit(77)
np.testing.assert_array_equal(transformer.fit(images).transform(images), expected)
for attempt in (transformer.fit, transformer.transform):
    try:
        attempt(tensor)
    except TypeError as error:
        print(error)
"""


def test_tensors_with_array_api_dispatch():
    done = run_python(TENSORS, env=os.environ | {"SCIPY_ARRAY_API": "1"})
    if done.returncode == 77:
        pytest.skip("array_api_dispatch cannot be enabled here")
    assert done.returncode == 0, done.stderr
    in_fit, in_transform = done.stdout.splitlines()
    assert in_fit.startswith(in_transform)
    assert re.search(r"Tensor .*numpy.asarray\(X\).*array_api_dispatch=False", in_fit)


def test_many_channels_cost_no_table_of_channels():
    images = np.random.default_rng(0).random((40, 2, 2, 2000), np.float32)
    transformer = StridedConv2DTransformer(2, 1, random_state=0).fit(images)
    assert len(pickle.dumps(transformer)) < 2e5
    assert _pixels.sample_images(np.zeros((4096, 1, 1, 2000), np.uint8), 4096).nbytes < 2**23
