"""The interface of engines, for each of them: ``sklearn_conv/_engine/__init__.py`` describes it."""

import warnings
from dataclasses import replace
from fractions import Fraction
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import oracle
import pytest
from helpers import blas_threads
from hypothesis import given
from hypothesis import strategies as st
from strategies import ORDERS, in_order, pairs

from sklearn_conv._array_api import Library, to_numpy
from sklearn_conv._engine.activation import ACTIVATIONS, Side
from sklearn_conv._engine.array_api_engine import ArrayApiEngine
from sklearn_conv._engine.choice import LIBRARY
from sklearn_conv._engine.geometry import PADDING_MODES, WindowParameters, place_windows
from sklearn_conv._engine.layer import Layer
from sklearn_conv._engine.native_engine import NativeEngine
from sklearn_conv._engine.numpy_engine import NumpyEngine
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv._engine.pyramid import PyramidEngine


class InTheLibrary:
    """The engine of the array API, which computes on another device than the processor."""

    def __init__(self, layer):
        self.library = Library(strict, strict.Device("device1"))
        names = ("kernels", "offset", "bias")
        arrays = {name: self.library.put(getattr(layer, name)) for name in names}
        self.engine = ArrayApiEngine(replace(layer, **arrays))

    def compute(self, images, out, n_jobs=1, advance=lambda n_images: None):
        features = self.library.put(out)
        self.engine.compute(self.library.put(images), features, n_jobs, advance)
        with np.errstate(all="ignore"):  # In NumPy 2.0, the flag of the product remains.
            out[...] = to_numpy(features)


ENGINES = [NumpyEngine]
if LIBRARY is not None:
    ENGINES += [partial(NativeEngine, library=LIBRARY, level=level) for level in LIBRARY.levels]
if find_spec("array_api_strict"):
    ENGINES += [InTheLibrary]
engines = pytest.mark.parametrize("engine", ENGINES)
strict = import_module("array_api_strict") if find_spec("array_api_strict") else None
RNG = np.random.default_rng(0)


def make_layer(image=(9, 8), size=(3, 2), c=2, k=3, dtype="f8", **options):
    windows = WindowParameters((1, 1), ("same", "same"), "constant", (1, 1))
    rng = np.random.default_rng(1)
    defaults = {
        "kernels": rng.standard_normal((*size, c, k)).astype(dtype),
        "offset": rng.standard_normal(k).astype(dtype),
        "bias": rng.standard_normal((1, k)).astype(dtype),
        "geometry": place_windows(image, size, windows),
        "sides": ACTIVATIONS["relu"],
    }
    return Layer(**defaults | options)


def empty_result(layer, n):
    return np.full(layer.out_shape(n), np.nan, layer.kernels.dtype)


@engines
@given(st.data())
def test_features_agree_with_plain_loops(engine, data):
    size, stride, dilation, grid = (data.draw(pairs) for _ in range(4))
    image = tuple(data.draw(st.integers(7, 10)) for _ in range(2))
    mode = data.draw(st.sampled_from(sorted(PADDING_MODES)))
    padding = data.draw(st.sampled_from(["same", (1, 0), (2, 3)]))
    padding = (padding, padding) if padding == "same" else padding
    windows = WindowParameters(stride, padding, mode, dilation)
    activation = data.draw(st.sampled_from(sorted(set(ACTIVATIONS) - {"step"})))
    pooling = data.draw(st.sampled_from([None, "mean", "max", "sum"]))
    eps = data.draw(st.sampled_from([0.0, 0.3]))
    layer = make_layer(
        size=size,
        geometry=place_windows(image, size, windows),
        sides=ACTIVATIONS[activation],
        poolings=None if pooling is None else [POOLINGS[pooling]],
        pool_grids=[grid],
        eps=eps,
    )
    kernels = layer.kernels - (layer.kernels.mean(axis=(0, 1, 2)) if eps else 0)
    bias = RNG.standard_normal((data.draw(st.integers(1, 3)), 3)) * [1, 100, 0]
    layer = make_layer(**vars(layer) | {"kernels": kernels, "bias": bias})
    images = RNG.standard_normal((2, *image, 2))
    given_images = in_order(images, data.draw(st.sampled_from(ORDERS)))
    out = empty_result(layer, 2)
    engine(layer).compute(given_images, out, n_jobs=data.draw(st.sampled_from([None, 1, 2])))
    options = {"padding": padding[0] if padding[0] == "same" else padding}
    options |= {"stride": stride, "padding_mode": mode, "dilation": dilation}
    responses = oracle.preprocessed_responses(images, kernels, eps, None, None, **options)
    expected = oracle.features(responses + layer.offset, layer.bias, activation, pooling, grid)
    np.testing.assert_allclose(out.reshape(2, -1), expected, rtol=1e-9, atol=1e-9)


@engines
@pytest.mark.parametrize("pooled", [True, False])
def test_the_kernels_of_the_result_may_be_a_slice_of_more(engine, pooled):
    """`conv2d` writes the maps of a group of kernels into those of all."""
    layer = make_layer(poolings=[POOLINGS["mean"]] if pooled else None)
    images = RNG.standard_normal((3, 9, 8, 2))
    expected = empty_result(layer, 3)
    engine(layer).compute(images, expected)
    more = np.full((*expected.shape[:-1], 7), 99.0)
    engine(layer).compute(images, more[..., 2:5])
    np.testing.assert_array_equal(more[..., 2:5], expected)
    assert (more[..., [0, 1, 5, 6]] == 99).all()


@engines
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_progress_adds_up_to_all_images(engine, pooled, n_jobs):
    layer = make_layer(poolings=[POOLINGS["mean"]] if pooled else None)
    done = []
    images = RNG.standard_normal((50, 9, 8, 2))
    engine(layer).compute(images, empty_result(layer, 50), n_jobs, done.append)
    assert sum(done, start=Fraction(0)) == 50


@engines
def test_an_engine_computes_several_batches(engine):
    layer = make_layer(poolings=[POOLINGS["max"]])
    images = RNG.standard_normal((30, 9, 8, 2))
    once, parts, computer = empty_result(layer, 30), empty_result(layer, 30), engine(layer)
    computer.compute(images, once)
    for rows in (slice(0, 1), slice(1, 17), slice(17, 30)):
        computer.compute(images[rows], parts[rows])
    np.testing.assert_allclose(parts, once, rtol=1e-12)


@engines
def test_a_constant_window_that_is_normalized_is_exactly_0(engine):
    layer = make_layer(
        dtype="f4", eps=1e-3, sides={"": Side(1, ACTIVATIONS["identity"][""].function)}
    )
    images = np.full((2, 9, 8, 2), 12345.678, np.float32)
    out = empty_result(layer, 2)
    engine(layer).compute(images, out)
    inner = out[:, 2:-2, 2:-2, 0, 0]
    np.testing.assert_array_equal(inner, np.broadcast_to(layer.offset + layer.bias[0], inner.shape))


@engines
@pytest.mark.parametrize("size", [(5, 5), (32, 32)])
@pytest.mark.parametrize("spot", [1000.3, -3e4])
def test_normalized_windows_around_a_spot(engine, size, spot):
    """The pixel that is subtracted before the mean may be far from all others."""
    image, middle = (size[0] + 8, size[1] + 8), np.prod(size) // 2
    place = tuple(np.add(np.unravel_index(middle, size), 4))
    windows = WindowParameters((1, 1), ("valid", "valid"), "constant", (1, 1))
    kernels = RNG.standard_normal((*size, 1, 3))
    options = {
        "kernels": (kernels - kernels.mean(axis=(0, 1, 2))).astype("f4"),
        "offset": np.zeros(3, "f4"),
        "bias": np.zeros((1, 3), "f4"),
        "geometry": place_windows(image, size, windows),
        "sides": {"": Side(1, ACTIVATIONS["identity"][""].function)},
        "eps": 1e-3,
    }
    images = (0.1 + 0.01 * RNG.standard_normal((2, *image, 1))).astype(np.float32)
    images[:, *place] = spot
    layer = make_layer(size=size, c=1, **options)
    out = empty_result(layer, 2)
    engine(layer).compute(images, out)
    plain = {"stride": (1, 1), "padding": (0, 0), "padding_mode": "constant", "dilation": (1, 1)}
    expected = oracle.preprocessed_responses(
        images.astype("f8"), layer.kernels.astype("f8"), 1e-3, None, None, **plain
    )
    np.testing.assert_allclose(
        out.reshape(expected.shape), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@engines
def test_a_large_bias_does_not_round_the_outputs_of_another(engine):
    identity = {"": Side(1, ACTIVATIONS["identity"][""].function)}
    bias = np.float32([[1e8, -0.2, 0.0], [0.1, 1e8, 3.0]])
    layer = make_layer(dtype="f4", bias=bias, sides=identity)
    images = RNG.standard_normal((2, 9, 8, 2)).astype(np.float32)
    out = empty_result(layer, 2)
    engine(layer).compute(images, out)
    plain = make_layer(dtype="f4", bias=np.zeros((1, 3), "f4"), sides=identity)
    responses = empty_result(plain, 2)
    engine(plain).compute(images, responses)
    expected = responses[..., 0, :] + np.float32([0.1, -0.2, 0.0])
    np.testing.assert_allclose(out[..., [1, 0, 0], [0, 1, 2]], expected, atol=1e-5)


@engines
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_overflow_is_infinite_without_a_warning(engine, n_jobs):
    layer = make_layer(dtype="f4", poolings=[POOLINGS["sum"]], kernels=np.ones((3, 2, 2, 3), "f4"))
    out = empty_result(layer, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine(layer).compute(np.full((2, 9, 8, 2), 1e38, np.float32), out, n_jobs)
    assert np.isinf(out).all()


@engines
def test_images_and_the_limit_of_blas_are_left_alone(engine):
    layer = make_layer(poolings=[POOLINGS["mean"]])
    images = RNG.standard_normal((20, 9, 8, 2))
    copy, before = images.copy(), blas_threads()
    images.flags.writeable = False
    engine(layer).compute(images, empty_result(layer, 20), n_jobs=2)
    np.testing.assert_array_equal(images, copy)
    assert blas_threads() == before


@pytest.mark.parametrize(
    ("grids", "n_engines"),
    [([(1, 1), (2, 2), (4, 4)], 1), ([(4, 6), (5, 7)], 1), ([(1, 8), (9, 1)], 2)],
)
def test_responses_are_computed_once_unless_there_would_be_too_many_cells(grids, n_engines):
    made = []

    def make(layer):
        made.append(layer)
        return NumpyEngine(layer)

    poolings = [POOLINGS["max"], POOLINGS["mean"], POOLINGS["sum"]]
    layer = make_layer(poolings=poolings, pool_grids=grids)
    out, n_done = empty_result(layer, 3), []
    images = np.random.default_rng(0).normal(size=(3, 9, 8, 2))
    PyramidEngine(layer, make).compute(images, out, advance=n_done.append)
    assert len(made) == n_engines
    assert sum(n_done) == 3
    for grid, place in zip(grids, np.cumsum([np.prod(grid) for grid in grids]), strict=True):
        single = make_layer(poolings=poolings, pool_grids=[grid])
        expected = empty_result(single, 3)
        NumpyEngine(single).compute(images, expected)
        part = out[:, 0, place - np.prod(grid) : place].reshape(expected.shape)
        np.testing.assert_allclose(part, expected, rtol=1e-12, atol=1e-12)
