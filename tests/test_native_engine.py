"""The engine in C++, compared with the engine in NumPy, and its library, which may be unusable."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic
from unittest.mock import patch

import numpy as np
import oracle
import pytest
from helpers import run_python, small_blocks
from hypothesis import given
from hypothesis import strategies as st
from strategies import ORDERS, in_order, pairs

from sklearn_conv import StridedConv2DTransformer, conv2d
from sklearn_conv._engine import choice, native_engine
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import (
    PADDING_MODES,
    WindowParameters,
    place_windows,
    pool_cells,
)
from sklearn_conv._engine.layer import Layer, compute_dtype
from sklearn_conv._engine.native_engine import NativeEngine, PackedLayer, divide_map
from sklearn_conv._engine.native_library import NativeLibrary
from sklearn_conv._engine.numpy_engine import NumpyEngine
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv._ridge.row_products import NativeRows, multiply_symmetric

needs_library = pytest.mark.skipif(choice.LIBRARY is None, reason=f"no library: {choice.REASON}")
LEVELS = [] if choice.LIBRARY is None else choice.LIBRARY.levels
levels = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
RNG = np.random.default_rng(0)
ROW_TYPES = st.sampled_from(["f4", "f2"])


@pytest.fixture(scope="module", autouse=True)
def matrix_unit_for_all_layers():
    """Let a matrix unit, if there is one, compute few and small kernels as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_engine, "MIN_TILE_PRODUCTS", 0)
        patch.setattr(native_engine, "MIN_TERM_PRODUCTS", 0)
        patch.setattr(native_engine, "MIN_TERM_WEIGHTS", 0)
        yield


# ---- The same features as the engine in NumPy ----------------------------------------------------


@st.composite
def layers(draw):
    """Layers of all kinds, and images for them."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    image = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    size = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    c, k = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    padding = draw(st.sampled_from([("same", "same"), (5, 4), (0, 4)]))
    windows = WindowParameters(
        draw(pair), padding, draw(st.sampled_from(sorted(PADDING_MODES))), draw(pair)
    )
    try:
        geometry = place_windows(image, size, windows)
    except ValueError:
        geometry = place_windows(
            image, size, windows._replace(padding=("same", "same"), dilation=(1, 1))
        )
    pixels = [*choice.LIBRARY.pixels, np.dtype(">f4"), np.dtype(np.longdouble)]
    pixel = draw(st.sampled_from(pixels))
    dtype = compute_dtype(pixel)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kernels = rng.standard_normal((*size, c, k))
    eps = draw(st.sampled_from([0.0, 0.1]))
    if eps:
        kernels -= kernels.mean(axis=(0, 1, 2))
    poolings = draw(
        st.none() | st.lists(st.sampled_from(sorted(POOLINGS)), min_size=1, unique=True)
    )
    layer = Layer(
        kernels=kernels.astype(dtype),
        offset=rng.standard_normal(k).astype(dtype),
        bias=(
            rng.standard_normal((draw(st.integers(1, 3)), k)) * draw(st.sampled_from([0, 1]))
        ).astype(dtype),
        geometry=geometry,
        # A response near 0 may be on either side of it.
        sides=ACTIVATIONS[draw(st.sampled_from(sorted(set(ACTIVATIONS) - {"step"})))],
        eps=eps,
        poolings=None if poolings is None else [POOLINGS[name] for name in poolings],
        pool_grids=[draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))],
    )
    images = rng.normal(0, 30, (draw(st.integers(1, 5)), *image, c))
    offset = draw(st.sampled_from([0, 20_000]))
    if offset < (np.inf if pixel.kind == "f" else np.iinfo(pixel).max if pixel.kind in "iu" else 1):
        images += offset
    if pixel.kind == "u":
        images = np.abs(images)
    return layer, in_order(images.astype(pixel), draw(st.sampled_from(ORDERS)))


def compute(engine, layer, images, n_jobs=1):
    out = np.full(layer.out_shape(len(images)), np.nan, layer.kernels.dtype)
    engine.compute(images, out, n_jobs)
    return out


@needs_library
@levels
@given(
    layers(),
    st.sampled_from([1, 300, 5000, native_engine.BAND_BYTES]),
    st.sampled_from([None, 1, 2, 3]),
)
def test_features_agree_with_numpy(level, layer_and_images, n_bytes, n_jobs):
    layer, images = layer_and_images
    exact = Layer(
        **vars(layer)
        | {name: getattr(layer, name).astype("f8") for name in ("kernels", "offset", "bias")}
    )
    expected = compute(NumpyEngine(exact), exact, images.astype(np.float64))
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, n_bytes)
        features = compute(NativeEngine(layer, choice.LIBRARY, level), layer, images, n_jobs)
    # Large products may cancel in all windows of a few.
    weights = np.abs(exact.kernels).sum(axis=(0, 1, 2)).max()
    largest = np.abs(images.astype(np.float64)).max() if layer.eps == 0 else 1
    scale = max(np.abs(expected).max(), 0.05 * weights * largest)
    tolerance = 1e-12 if layer.kernels.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(features, expected, rtol=0, atol=tolerance * scale + 1e-30)


@needs_library
@levels
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("pooling", [None, *POOLINGS])
def test_nan_and_infinity_stay_where_they_are(level, activation, pooling):
    """Also in the maximum, and behind an activation that has a maximum itself."""
    images = RNG.standard_normal((1, 6, 30, 1)).astype(np.float32)
    images[0, 2, 3], images[0, 4, 20] = np.nan, np.inf
    layer = Layer(
        kernels=RNG.standard_normal((2, 2, 1, 5)).astype(np.float32),
        offset=np.zeros(5, np.float32),
        bias=np.zeros((1, 5), np.float32),
        geometry=place_windows((6, 30), (2, 2), WindowParameters((1, 1), (0, 0), "edge", (1, 1))),
        sides=ACTIVATIONS[activation],
        poolings=None if pooling is None else [POOLINGS[pooling]],
        pool_grids=[(1, 3)],
    )
    with np.errstate(all="ignore"):
        expected = compute(NumpyEngine(layer), layer, images)
    features = compute(NativeEngine(layer, choice.LIBRARY, level), layer, images)
    np.testing.assert_allclose(features, expected, rtol=2e-5, atol=1e-5)
    if activation != "step":  # NaN > 0 is false
        assert np.isnan(features).any()
        assert not np.isnan(features).all()


@needs_library
@levels
@pytest.mark.parametrize("place", [(0, 0), (30, 30), (59, 59)])
def test_nan_in_any_tile_is_the_maximum_of_the_cell(level, place):
    """The windows of the cell are many tiles, whose maxima are joined."""
    images = RNG.standard_normal((1, 60, 60, 1)).astype(np.float32)
    images[0, *place] = np.nan
    layer = Layer(
        kernels=RNG.standard_normal((2, 2, 1, 5)).astype(np.float32),
        offset=np.zeros(5, np.float32),
        bias=np.zeros((1, 5), np.float32),
        geometry=place_windows((60, 60), (2, 2), WindowParameters((1, 1), (0, 0), "edge", (1, 1))),
        sides=ACTIVATIONS["identity"],
        poolings=[POOLINGS["max"]],
        pool_grids=[(1, 1)],
    )
    assert np.isnan(compute(NativeEngine(layer, choice.LIBRARY, level), layer, images)).all()


@needs_library
@levels
def test_normalized_windows_with_a_large_offset(level):
    """A pixel of each window is subtracted before its variance is computed."""
    images = (RNG.standard_normal((3, 20, 21, 2)) + 3_000).astype(np.float32)
    kernels = RNG.standard_normal((3, 3, 2, 5))
    layer = Layer(
        kernels=(kernels - kernels.mean(axis=(0, 1, 2))).astype(np.float32),
        offset=np.zeros(5, np.float32),
        bias=np.zeros((1, 5), np.float32),
        geometry=place_windows((20, 21), (3, 3), WindowParameters((1, 1), (0, 0), "edge", (1, 1))),
        sides=ACTIVATIONS["identity"],
        eps=0.01,
        poolings=None,
        pool_grids=[(1, 1)],
    )
    exact = replace(
        layer, **{name: getattr(layer, name).astype("f8") for name in ("kernels", "offset", "bias")}
    )
    expected = compute(NumpyEngine(exact), exact, images.astype(np.float64))
    features = compute(NativeEngine(layer, choice.LIBRARY, level), layer, images)
    np.testing.assert_allclose(features, expected, rtol=0, atol=2e-5)


@needs_library
@levels
@pytest.mark.parametrize("value", [1.0, 0.1, 240.0])
def test_responses_of_large_windows(level, value):
    """The terms of a response are added in parts, because rounding grows with their number."""
    # Columns of two values: no number is near all pixels of a window, so that none is subtracted.
    images = np.full((1, 70, 70, 3), value, np.float32)
    images[:, :, ::2] *= 2
    kernels = np.full((64, 64, 3, 2), 0.01, np.float32)
    layer = Layer(
        kernels=kernels,
        offset=np.zeros(2, np.float32),
        bias=np.zeros((1, 2), np.float32),
        geometry=place_windows(
            (70, 70), (64, 64), WindowParameters((3, 3), (0, 0), "edge", (1, 1))
        ),
        sides=ACTIVATIONS["identity"],
    )
    responses = compute(NativeEngine(layer, choice.LIBRARY, level), layer, images)
    exact = (
        np.float64(np.float32(value)) * np.float64(np.float32(0.01)) * 1.5 * kernels[..., 0].size
    )
    np.testing.assert_allclose(responses, exact, rtol=5e-6)


@needs_library
def test_half_precision_is_read_exactly():
    """All numbers of float16, with infinity and NaN."""
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(1, 256, 256, 1)
    kernels = np.ones((1, 1, 1, 1))
    with np.errstate(invalid="ignore"):
        expected = numbers.astype(np.float32)
        np.testing.assert_array_equal(conv2d(numbers, kernels), expected)


@needs_library
def test_choices_that_the_library_does_not_have_are_computed_by_numpy(monkeypatch):
    images = RNG.random((4, 9, 9))
    transformer = StridedConv2DTransformer(4, random_state=0).fit(images)
    expected = transformer.transform(images)
    for table in ("functions", "poolings", "pixels"):
        with monkeypatch.context() as patch:
            patch.setattr(choice.LIBRARY, table, {})
            np.testing.assert_allclose(transformer.transform(images), expected, rtol=1e-12)


@needs_library
@pytest.mark.parametrize("pooled", [True, False])
def test_other_arrays_than_those_of_the_layer_are_errors(pooled):
    """The library would read or write other memory."""
    layer = Layer(
        kernels=np.ones((2, 2, 1, 3)),
        offset=np.zeros(3),
        bias=np.zeros((1, 3)),
        geometry=place_windows((6, 9), (2, 2), WindowParameters((1, 2), (0, 0), "edge", (1, 1))),
        sides=ACTIVATIONS["relu"],
        poolings=[POOLINGS["mean"]] if pooled else None,
    )
    engine, images = NativeEngine(layer, choice.LIBRARY), np.ones((3, 6, 9, 1))
    shape = layer.out_shape(3)
    for wrong in (images.swapaxes(1, 2), images[:, 1:], images[..., 0], np.ones((3, 6, 9, 2))):
        with pytest.raises(ValueError, match="is for other images"):
            engine.compute(wrong, np.empty(shape))
    read_only = np.empty(shape)
    read_only.flags.writeable = False
    n, rows, columns, *last = shape
    for wrong in (
        np.empty((n + 1, rows, columns, *last)),
        np.empty((n, columns + 1, rows + 1, *last)),
        np.empty(shape, np.float32),
        read_only,
        np.empty((*shape[:-1], 6))[..., ::2],
    ):
        with pytest.raises(ValueError, match="but the result has shape"):
            engine.compute(images, wrong)


@needs_library
@levels
@given(data=st.data())
def test_rows_of_features_are_multiplied(level, data):
    m, q = data.draw(st.integers(1, 130)), data.draw(st.integers(1, 40))
    d = data.draw(st.sampled_from([1, 7, 255, 256, 257, 600]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scale = 10.0 ** data.draw(st.integers(-6, 4))
    memory = (rng.normal(size=(2 * m + 1, d + 3)) * scale).astype(data.draw(ROW_TYPES))
    X = memory[data.draw(st.sampled_from([np.s_[:m], np.s_[::2], np.s_[::-1]])), 1 : d + 1]
    if data.draw(st.booleans()):
        raw = np.zeros(X.nbytes + 1, np.uint8)
        X, aligned = raw[1:].view(X.dtype).reshape(X.shape), X
        X[...] = aligned
    index = rng.integers(0, len(X), m) if data.draw(st.booleans()) else None
    rows = NativeRows(X, index, level)
    x = (X if index is None else X[index]).astype(np.float64)
    columns, shift = rng.normal(size=(d, q)).astype("f4"), rng.normal(size=q).astype("f4")
    weights = rng.uniform(0, 3, len(x)).astype("f4")
    projected = x @ columns - shift
    bound = 2e-6 * (np.abs(x) @ np.abs(columns) + np.abs(shift))
    assert (np.abs(rows.project(columns, shift) - projected) <= bound).all()
    coefficients = rng.normal(size=(len(x), q)).astype("f4")
    found = rows.combine(coefficients)
    assert found.shape == (q, d)
    assert (np.abs(found - coefficients.T @ x) <= 2e-6 * np.abs(coefficients).T @ np.abs(x)).all()
    found = rows.multiply(columns, shift, weights)
    products = (projected * weights[:, np.newaxis]).T @ x
    assert (np.abs(found - products) <= 2 * (bound * weights[:, np.newaxis]).T @ np.abs(x)).all()


@pytest.mark.parametrize(
    "level", [*LEVELS, None], ids=lambda level: "NumPy" if level is None else level.name
)
@given(data=st.data())
def test_symmetric_matrices_are_multiplied(level, data):
    n, k = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 40))
    size = data.draw(st.sampled_from([1, 7, 16, 64, 300, 1000]))
    n = min(n, 40 * size)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    half = np.tril(rng.normal(size=(n, n)).astype(data.draw(st.sampled_from(["f4", "f8"]))))
    strips = [half[i : i + size, : i + size] for i in range(0, n, size)]
    if data.draw(st.booleans()):
        strips = [strip.copy() for strip in strips]
    columns = rng.normal(size=(n, k))
    with patch.object(choice, "LIBRARY", None if level is None else choice.LIBRARY):
        found = multiply_symmetric(strips, columns, level)
    matrix = (half + half.T).astype(np.float64)
    bound = 2e-6 * np.abs(matrix) @ np.abs(columns)
    assert found.shape == (n, k)
    assert (np.abs(found - matrix @ columns) <= bound).all()


# ---- Images that a matrix unit computes if there is one ------------------------------------------


def random_bytes(shape, dtype, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8).view(dtype)


def random_pixels(shape, dtype, rng):
    """Return integers of all sizes, or normally distributed numbers."""
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    length = np.dtype(dtype).itemsize
    return rng.integers(256, size=(*shape, length), dtype=np.uint8).view(dtype).reshape(shape)


def make_layer(image, kernels, **options):
    """Return a layer that computes maps of responses."""
    k = kernels.shape[3]
    defaults = {
        "kernels": kernels.astype(np.float32),
        "offset": np.zeros(k, np.float32),
        "bias": np.zeros((1, k), np.float32),
        "geometry": place_windows(
            image, kernels.shape[:2], WindowParameters((1, 1), (0, 0), "edge", (1, 1))
        ),
        "sides": ACTIVATIONS["identity"],
    }
    return Layer(**defaults | options)


@needs_library
@levels
@given(st.data())
def test_images_agree_with_plain_loops(level, data):
    image = data.draw(st.tuples(st.integers(9, 14), st.integers(9, 14)))
    size, stride, dilation, grid = (data.draw(pairs) for _ in range(4))
    c, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 40))
    mode = data.draw(st.sampled_from(sorted(PADDING_MODES)))
    padding = data.draw(st.sampled_from(["same", (2, 3)]))
    activation = data.draw(st.sampled_from(sorted(set(ACTIVATIONS) - {"step"})))
    pooling = data.draw(st.sampled_from([None, "mean", ["max", "sum"]]))
    names = [pooling] if isinstance(pooling, str) else pooling
    eps = data.draw(st.sampled_from([0.0, 0.3]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    kernels = rng.standard_normal((*size, c, k))
    kernels = (kernels - (kernels.mean(axis=(0, 1, 2)) if eps else 0)).astype(np.float32)
    bias = (rng.standard_normal((data.draw(st.integers(1, 3)), k)) * 3).astype(np.float32)
    both = (padding, padding) if padding == "same" else padding
    layer = make_layer(
        image,
        kernels,
        bias=bias,
        offset=rng.standard_normal(k).astype(np.float32),
        geometry=place_windows(image, size, WindowParameters(stride, both, mode, dilation)),
        sides=ACTIVATIONS[activation],
        poolings=None if pooling is None else [POOLINGS[name] for name in names],
        pool_grids=[grid],
        eps=eps,
    )
    dtype = data.draw(st.sampled_from(["u1", "i1", "?", "u2", "i2", "f2", "f4"]))
    images = rng.random((3, *image, c)) > 0.4
    images = images if dtype == "?" else random_pixels(images.shape, dtype, rng)
    given_images = in_order(images, data.draw(st.sampled_from(ORDERS)))
    shape = layer.out_shape(3)
    more = np.full((*shape[:-1], k + 20), 99, np.float32)  # The features are a slice of it.
    NativeEngine(layer, choice.LIBRARY, level).compute(given_images, more[..., 3:-17])
    options = {"stride": stride, "padding": padding, "padding_mode": mode, "dilation": dilation}
    responses = oracle.preprocessed_responses(images, kernels, eps, None, None, **options)
    expected = oracle.features(responses + layer.offset, bias, activation, pooling, grid)
    tolerance = 3e-6 * np.abs(expected).max()
    np.testing.assert_allclose(more[..., 3:-17].reshape(3, -1), expected, rtol=0, atol=tolerance)
    assert (more[..., [0, 1, 2]] == 99).all()
    assert (more[..., -17:] == 99).all()


@needs_library
@levels
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "f2", "f4"])
@pytest.mark.parametrize("size", [1e-42, 1e-37, 1e-29, 1e-20, 1.0, 1e20, 1e34])
@pytest.mark.parametrize("spread", [0, 3, 12])
def test_weights_of_all_magnitudes_are_as_accurate_as_in_float32(level, dtype, size, spread):
    """Relative to the sum of the products' absolute values; few pixels are not 0."""
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((4, 4, 3, 33)) * 10.0 ** -rng.uniform(0, spread, (4, 4, 3, 33))
    kernels = (kernels * size).astype(np.float32)
    images = random_pixels((2, 20, 20, 3), dtype, rng)
    images[rng.random(images.shape) < 0.9] = 0
    check_precision(level, images, kernels)


def check_precision(level, images, kernels):
    """Check each response to the precision of float32, relative to the largest possible one."""
    layer = make_layer(images.shape[1:3], kernels)
    responses = compute(NativeEngine(layer, choice.LIBRARY, level), layer, images)[:, :, :, 0, 0]
    images, kernels = images.astype(np.float64), kernels.astype(np.float64)
    scale = conv2d(np.abs(images), np.abs(kernels))
    fits = scale < np.finfo(np.float32).max
    error = np.abs(responses - conv2d(images, kernels))[fits]
    # Each product may lose what is below the smallest number.
    assert (error <= 1e-6 * scale[fits] + kernels[..., 0].size * 1e-45).all()


@needs_library
@levels
@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-20, 1e-12, 1e-8, 1e8, 1e12, 1e20, 1e38])
@pytest.mark.parametrize("weight", [1e-30, 1e-20, 1.0, 1e20])
@pytest.mark.parametrize("offset", [0, 1])
def test_pixels_of_all_magnitudes_are_as_accurate_as_in_float32(level, size, weight, offset):
    rng = np.random.default_rng(0)
    images = (rng.standard_normal((2, 20, 20, 3)) / 300 + offset) * size
    images[0, :10] *= 10.0 ** -rng.uniform(0, 12, images[0, :10].shape)
    kernels = (rng.standard_normal((4, 4, 3, 33)) * weight).astype(np.float32)
    check_precision(level, images.astype(np.float32), kernels)


@needs_library
@levels
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_large_offset_costs_no_precision(level, dtype):
    """It is subtracted from windows, and the sums of the kernels are not exactly 0."""
    images = (40_000 + 50 * RNG.standard_normal((2, 30, 40, 3))).astype(dtype)
    kernels = RNG.standard_normal((5, 5, 3, 40))
    kernels -= kernels.mean(axis=(0, 1, 2))
    kernels[..., 0] += 0.001
    layer = make_layer((30, 40), kernels)
    maps = compute(NativeEngine(layer, choice.LIBRARY, level), layer, images)[:, :, :, 0, 0]
    exact = conv2d(images.astype(np.float64), layer.kernels.astype(np.float64))
    error = np.abs(maps - exact).max(axis=(0, 1, 2))
    assert (error <= 2e-6 * np.abs(exact).max(axis=(0, 1, 2))).all()


@needs_library
@pytest.mark.parametrize("value", [1e-42, 1e-15, 1e15, np.inf, np.nan])
def test_an_image_with_pixels_that_a_matrix_unit_does_not_take_is_computed_by_vectors(value):
    vectors = next(level for level in LEVELS if not level.tile_windows)
    images = RNG.standard_normal((2, 12, 12, 3)).astype(np.float32)
    images[0, 3, 4, 1] = value
    layer = make_layer((12, 12), RNG.standard_normal((4, 4, 3, 40)))
    own, expected = (
        compute(NativeEngine(layer, choice.LIBRARY, level), layer, images)
        for level in (LEVELS[0], vectors)
    )
    np.testing.assert_array_equal(own[0], expected[0])
    np.testing.assert_allclose(own[1], expected[1], rtol=0, atol=1e-4)
    assert np.array_equal(own[1], expected[1]) == (LEVELS[0] is vectors)


@needs_library
@levels
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_only_in_their_own_kernel(level, value):
    kernels = RNG.standard_normal((4, 4, 3, 40))
    kernels[1, 2, 1, 7] = value
    images = random_bytes((2, 9, 9, 3), "u1") | 1
    layer = make_layer((9, 9), kernels)
    responses = compute(NativeEngine(layer, choice.LIBRARY, level), layer, images)
    assert not np.isfinite(responses[..., 7]).any()
    assert np.isfinite(np.delete(responses, 7, axis=-1)).all()


@needs_library
@levels
def test_normalized_windows_of_8_bits_lose_a_constant_exactly(level):
    kernels = RNG.standard_normal((5, 5, 3, 40))
    kernels -= kernels.mean(axis=(0, 1, 2))
    layer = make_layer((12, 12), kernels, eps=1e-3)
    images = np.full((2, 12, 12, 3), 251, np.uint8)
    images[1] -= random_bytes((12, 12, 3), "u1") // 128  # 250 and 251
    same, near = compute(NativeEngine(layer, choice.LIBRARY, level), layer, images)
    assert (same == 0).all()
    options = {"stride": (1, 1), "padding": (0, 0), "padding_mode": "edge", "dilation": (1, 1)}
    kernels = layer.kernels.astype(np.float64)
    [expected] = oracle.preprocessed_responses(images[1:], kernels, 1e-3, None, None, **options)
    np.testing.assert_allclose(near[:, :, 0, 0], expected, rtol=0, atol=1e-5)


@needs_library
@levels
def test_responses_of_large_windows_of_8_bits(level):
    images = np.full((1, 70, 70, 3), 240, np.uint8)
    kernels = np.full((64, 64, 3, 2), 0.01, np.float32)
    responses = compute(
        NativeEngine(layer := make_layer((70, 70), kernels), choice.LIBRARY, level), layer, images
    )
    np.testing.assert_allclose(
        responses, 240 * np.float64(np.float32(0.01)) * 64 * 64 * 3, rtol=5e-6
    )


@needs_library
@levels
def test_several_threads_use_the_matrix_unit_at_once(level):
    """Each call sets the registers of its own thread, and releases them."""
    kernels = RNG.standard_normal((5, 5, 3, 64))
    layer = make_layer((40, 40), kernels, poolings=[POOLINGS["mean"]], pool_grids=[(2, 2)])
    images = random_bytes((64, 40, 40, 3), "u1")
    engine = NativeEngine(layer, choice.LIBRARY, level)
    expected = compute(engine, layer, images)
    with ThreadPoolExecutor(3) as pool:
        for features in pool.map(lambda _: compute(engine, layer, images, n_jobs=2), range(6)):
            np.testing.assert_array_equal(features, expected)


@needs_library
@pytest.mark.parametrize("dtype", ["u1", "i1", "?", "u2", "i2", "f2", "f4", "f8"])
def test_a_matrix_unit_computes_what_it_computes_accurately(dtype):
    for level in choice.LIBRARY.levels:
        assert bool(level.tile_windows) == (level.name == "AMX")
        expected = bool(level.tile_windows) and dtype != "f8"
        for scale, is_normal in ((1, True), (1e-35, False), (1e30, False)):
            kernels = RNG.standard_normal((6, 6, 3, 64)) * scale
            layer = make_layer((9, 9), kernels)
            layer = replace(layer, kernels=kernels) if dtype == "f8" else layer
            packed = PackedLayer(layer, choice.LIBRARY, level)
            is_used = packed.find_tiles(np.dtype(dtype)) is not None
            assert is_used == (expected and is_normal)


@pytest.mark.skipif("AMX" not in [level.name for level in LEVELS], reason="needs AMX")
@pytest.mark.parametrize(
    ("dtype", "shape", "is_used"),
    [
        ("u1", (3, 3, 3, 8), False),
        ("u1", (3, 3, 3, 16), True),
        ("u2", (5, 5, 1, 39), False),
        ("f4", (5, 5, 1, 40), True),
        ("f4", (3, 3, 2, 90), False),
    ],
)
def test_few_products_are_computed_by_vectors(dtype, shape, is_used, monkeypatch):
    for name, least in (("TILE_PRODUCTS", 400), ("TERM_PRODUCTS", 1000), ("TERM_WEIGHTS", 24)):
        monkeypatch.setattr(native_engine, f"MIN_{name}", least)
    packed = PackedLayer(make_layer((9, 9), RNG.standard_normal(shape)), choice.LIBRARY, LEVELS[0])
    assert (packed.find_tiles(np.dtype(dtype)) is not None) == is_used


# ---- Bands ---------------------------------------------------------------------------------------


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.integers(1, 2000),
    st.integers(1, 40),
)
def test_bands_cover_each_cell_once(image, size, stride, grid, max_pixels, max_rows):
    windows = WindowParameters(stride, ("same", "same"), "constant", (1, 1))
    geometry = place_windows(image, size, windows)
    counts = np.zeros((*grid, *geometry.output_shape), int)
    spans = tuple(map(pool_cells, geometry.output_shape, grid))
    for group in divide_map(geometry, spans, 1, max_pixels, max_rows):
        assert len(group) == 1 or all(band.has_parts for band in group)
        assert len({cell.row for band in group for cell in band.cells}) == 1 or len(group) == 1
        for band in group:
            rows, columns = (
                (min(start for start, _ in spans), max(stop for _, stop in spans))
                for spans in ([cell.rows for cell in band.cells], [c.columns for c in band.cells])
            )
            n_pixels = geometry.rows.reach(rows).n_pixels * geometry.columns.reach(columns).n_pixels
            n_windows = (rows[1] - rows[0]) * (columns[1] - columns[0])
            assert n_pixels <= max_pixels or n_windows == 1
            assert rows[1] - rows[0] <= max_rows
            for cell in band.cells:
                counts[cell.row, cell.column][slice(*cell.rows), slice(*cell.columns)] += 1
    assert counts.max() == 1
    for i in range(grid[0]):
        for j in range(grid[1]):
            assert counts[i, j].any()
    covered = np.zeros(geometry.output_shape, int)
    for [band] in divide_map(geometry, None, 1, max_pixels, max_rows):
        [cell] = band.cells
        assert (cell.row, cell.column) == (cell.rows[0], cell.columns[0])
        covered[slice(*cell.rows), slice(*cell.columns)] += 1
    assert (covered == 1).all()


def test_a_grid_of_many_cells_is_divided_quickly():
    windows = WindowParameters((1, 1), ("same", "same"), "constant", (1, 1))
    geometry = place_windows((400, 400), (3, 3), windows)
    start = monotonic()
    [[band]] = divide_map(geometry, (pool_cells(400, 400),) * 2, 1, 10**6, 10**6)
    assert len(band.cells) == 400 * 400
    assert monotonic() - start < 10  # It takes a second at most.


# ---- The library ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b"", b"not a library", b"\x7fELF\x02\x01\x01"])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "libother.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match="libother"):
        NativeLibrary(path)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("int other(void) { return 1; }", "is not a library of sklearn_conv"),
        ("long sklearn_conv_interface(void) { return 99; }", "has version 99 of the interface"),
    ],
)
def test_other_libraries_are_refused(code, message, tmp_path):
    source, path = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text(code)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", path, source], check=True)
    with pytest.raises(OSError, match=message):
        NativeLibrary(path)


def run_with(code="import sklearn_conv; sklearn_conv.show_versions()", **variables):
    others = {name: value for name, value in os.environ.items() if name != choice.VARIABLE}
    return run_python(code, env=others | variables)


def test_numpy_can_be_chosen():
    result = run_with(SKLEARN_CONV_ENGINE="numpy")
    assert "engine: NumPy (SKLEARN_CONV_ENGINE=numpy)" in result.stdout
    assert result.stderr == ""


@needs_library
def test_the_native_engine_is_the_default():
    for name in (None, "native", ""):
        assert choice.load(name)[0] is not None


def test_an_unknown_engine_is_refused():
    for name in ("cuda", "numpy-avx2"):
        message = f"SKLEARN_CONV_ENGINE='{name}' is unknown; use numpy or native."
        with pytest.raises(ImportError, match=re.escape(message)):
            choice.load(name)


@needs_library
def test_the_instruction_set_can_be_chosen():
    for level in LEVELS:
        library, _ = choice.load(f"native-{level.name.lower().replace('-', '')}")
        assert [chosen.name for chosen in library.levels] == [level.name]
    with pytest.raises(ImportError, match=r"'native-cuda', but .* has no cuda; use native-"):
        choice.load("native-cuda")


REFUSED = """
import ctypes

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

memory = ctypes.create_string_buffer(4096)
stack = Stack(ctypes.addressof(memory), 0, len(memory))
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
import numpy as np, sklearn_conv
images, kernels = np.full((2, 9, 9, 3), 255, np.uint8), np.ones((6, 6, 3, 64))
print(sklearn_conv.conv2d(images, kernels)[0, 0, 0, 0])
sklearn_conv.show_versions()
"""


@pytest.mark.skipif("AMX" not in [level.name for level in LEVELS], reason="needs AMX")
def test_without_the_permission_to_use_amx_vectors_are_used():
    """Linux refuses it if a signal handler's stack is too small for the registers of AMX."""
    result = run_with(REFUSED, SKLEARN_CONV_ENGINE="native")
    assert result.stdout.startswith("27540.0"), result.stderr
    assert "engine: native, AVX-512 (the system does not let this process use AMX)" in result.stdout


def test_a_library_that_cannot_be_used(tmp_path, monkeypatch):
    """NumPy is used, with a warning; if the native engine is required, it is an error."""
    path = tmp_path / "library.so"
    path.write_text("not a library")
    code = """
import numpy as np, sklearn_conv
print(sklearn_conv.conv2d(np.ones((1, 2, 2, 1)), np.ones((2, 2, 1, 1))))
sklearn_conv.show_versions()
"""
    result = run_with(code, SKLEARN_CONV_LIBRARY=str(path))
    assert "[[[[4.]]]]" in result.stdout, result.stderr
    assert re.search(r"engine: NumPy \(.*library\.so.*\)", result.stdout)
    assert "UserWarning: The native engine cannot be used, so NumPy is used" in result.stderr
    assert "Unset SKLEARN_CONV_LIBRARY" in result.stderr
    assert "<string>:2: UserWarning" in result.stderr  # the line of the import
    monkeypatch.setenv("SKLEARN_CONV_LIBRARY", str(path))
    with pytest.raises(ImportError, match=r"^SKLEARN_CONV_ENGINE=native, but .*library\.so"):
        choice.load("native")


def test_a_missing_library(monkeypatch, tmp_path):
    monkeypatch.delenv("SKLEARN_CONV_LIBRARY", raising=False)
    monkeypatch.setattr(choice, "library_path", lambda: tmp_path / "missing.so")
    assert choice.load(None) == (None, f"the native engine was not built in {tmp_path}")
    with pytest.raises(ImportError, match=r"but the native engine was not built in"):
        choice.load("native")


def test_activations_of_the_user_are_computed_by_numpy():
    images = RNG.random((4, 9, 9))
    transformer = StridedConv2DTransformer(4, random_state=0).fit(images)
    expected = transformer.transform(images)
    transformer.set_params(activation=lambda z: np.maximum(z, 0))
    np.testing.assert_allclose(transformer.transform(images), expected, rtol=1e-12)


def test_bands_of_many_channels_share_the_numbers_of_a_window():
    windows = WindowParameters((1, 1), ("same", "same"), "constant", (1, 1))
    geometry = place_windows((32, 32), (3, 3), windows)
    bands = [band for group in divide_map(geometry, None, 10_000, 52, 32) for band in group]
    assert len(bands) > 60
    assert len({band.struct.numbers for band in bands}) <= 3


@needs_library
def test_rows_of_a_fine_grid_are_finished_at_once(monkeypatch):
    monkeypatch.setattr(native_engine, "BAND_BYTES", 2**12)  # A row of the grid is cut.
    images = np.random.default_rng(0).random((1, 256, 256, 1), np.float32)
    transformer = StridedConv2DTransformer(256, pool_grid=64, random_state=0, n_jobs=2).fit(images)
    waiting, finish = [], NativeEngine._compute_bands

    def compute(self, *arguments):
        with monkeypatch.context() as context:
            run_tasks = native_engine.run_tasks
            context.setattr(
                native_engine,
                "run_tasks",
                lambda *tasks: waiting.append(results := run_tasks(*tasks)) or results,
            )
            finish(self, *arguments)

    monkeypatch.setattr(NativeEngine, "_compute_bands", compute)
    features = transformer.transform(images)
    (results,) = waiting
    assert len(results) > 60
    assert sum(each is not None for each in results) < 20
    monkeypatch.undo()
    expected = transformer.set_params(n_jobs=1).transform(images)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
