"""Arbitrary parameters and arbitrary X raise only documented errors, and change no global state.

`HYPOTHESIS_PROFILE=long` tries 5,000 cases of each of the six tests.
"""

import os
import random
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from helpers import IS_LONG
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from strategies import DTYPES, ORDERS, hard_images, in_order, numbers
from threadpoolctl import ThreadpoolController

from sklearn_conv import (
    RBFRidge,
    RBFRidgeClassifier,
    StreamingRidge,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    conv2d,
)
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import PADDING_MODES
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv.kernels._initializers import KERNELS

N_LONG = 5_000
COUNTS = Counter()
LIBRARIES = ThreadpoolController()
BARE = ("broadcast", "cannot reshape", "unsupported operand", "object has no attribute", "ufunc")
BARE += ("Maximum allowed", "array is too big", "did not converge", "MiniBatchKMeans")
WARNINGS = ("which is not a square number", "feature names, but", "column-vector y was passed")
WARNINGS += ("Some features are infinite or NaN", "in fit they were about", "like a fill value")
WARNINGS += ("learned from few images", "which moves the channels", "single color image")
WARNINGS += ("the alpha channel",)
BLAMES = ("responses overflow", "needs variances", "some overflow", "that returns finite numbers")
"""Messages that are wrong if the reason is NaN in X."""


class MineError(Exception):
    """Error that a user-defined function raises."""


def fails(*args):
    raise MineError


def anything_shaped(shape, rng, patches):
    return rng.standard_normal((2, 2))


rubbish = st.sampled_from(
    [
        None,
        True,
        np.True_,
        -1,
        0,
        1.5,
        np.nan,
        np.inf,
        1j,
        10**30,
        2**30,
        (1, 2**30),
        2**31,
        -(2**63),
        np.int8(3),
        np.float32(0.5),
        "",
        "gaussian",
        "relu",
        b"same",
        [],
        (),
        (1,),
        (1, 2, 3),
        [[1, 2], [3]],
        {},
        {1, 2},
        object(),
        object,
        len,
        fails,
        np.array([]),
        np.array(3),
        np.zeros((2, 2)),
        np.full((2, 2, 1, 3), np.nan),
        np.array(["a"]),
        np.array([None, 1]),
        np.ma.masked_array([1, 2], [True, False]),
        slice(3),
        range(3),
        iter([1, 2]),
        pd.Series([1, 2]),
    ]
)
small = st.integers(1, 4)
lengths = st.one_of(small, st.tuples(small, small), st.lists(small, min_size=2, max_size=2))
GOOD = {
    "n_kernels": st.integers(1, 5),
    "kernel_size": lengths,
    "stride": lengths,
    "kernels": st.one_of(
        st.sampled_from([*KERNELS, anything_shaped, fails]),
        st.sampled_from([np.ones((2, 2, c, 3)) for c in (1, 2)]),
    ),
    "bias": st.sampled_from(
        [0, -0.5, "quantile", 3, np.ones(3), 1e300, -1e-300, [[0], [1e300]], np.eye(3)]
    ),
    "n_biases": st.integers(1, 3),
    "symmetries": st.sampled_from([None, "mirror", "dihedral"]),
    "power": st.sampled_from([0.5, 1, 2.0, 1e-300, 1e300]),
    "padding": st.one_of(st.sampled_from(["same", "valid"]), st.integers(0, 4)),
    "padding_mode": st.sampled_from(sorted(PADDING_MODES)),
    "dilation": lengths,
    "normalize_patches": st.booleans(),
    "whiten": st.sampled_from([True, False, 1e-3, 5, 1e-300]),
    "n_patches": st.sampled_from([1, 2, 50, 2**31 - 1]),
    "activation": st.sampled_from([*ACTIVATIONS, np.tanh, fails]),
    "pooling": st.sampled_from([*POOLINGS, None, ["max", "mean"]]),
    "pool_grid": lengths | st.sampled_from([[1, 2, 4], [(1, 3), 2, (9, 1)]]),
    "flatten": st.booleans(),
    "missing": st.sampled_from(["raise", "ignore"]),
    "image_shape": st.sampled_from([None, (4, 4), (2, 2, 4), (16, 1), "any"]),
    "random_state": st.sampled_from([None, 0, 2**32 - 1, np.random.RandomState(3)]),
    "n_jobs": st.sampled_from([None, 1, 2, -1]),
    "verbose": st.sampled_from([0, False]),
}
SIZES = {"n_kernels", "kernel_size", "padding", "dilation", "pool_grid", "n_patches", "stride"}
HUGE = [2**30, 2**31 - 1, (2**30, 1)]


@st.composite
def parameters(draw, names):
    """Draw valid parameters; replace at most two by arbitrary objects, and one by a huge size."""
    chosen = draw(st.sets(st.sampled_from(sorted(names)), max_size=6))
    bad = draw(
        st.sets(st.sampled_from(sorted(names)), max_size=draw(st.sampled_from([0, 0, 1, 2])))
    )
    sizes = sorted(SIZES & {*names})
    huge = draw(st.sampled_from([None] * 2 * len(sizes) + sizes)) if sizes else None
    return (
        {name: draw(GOOD[name]) for name in chosen}
        | {name: draw(rubbish) for name in bad}
        | ({huge: draw(st.sampled_from(HUGE))} if huge else {})
    )


SHAPES = [(3, 5, 4, 2), (2, 4, 4, 1), (1, 1, 1, 1), (4, 6, 6), (3, 16), (2, 15), (1, 9, 1, 3)]


@st.composite
def images(draw, shapes=SHAPES):
    """Draw valid images in most cases, and other objects that users might pass."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from(shapes))
    X = numbers(rng, shape, draw(st.sampled_from(DTYPES)))
    kind = draw(st.sampled_from(["order"] * 6 + ["values", "kind", "other"]))
    if kind == "order":
        return in_order(X, draw(st.sampled_from(ORDERS))) if X.ndim == 4 else X
    if kind == "values" and X.size:
        X = X.astype(draw(st.sampled_from(["f4", "f8", "f2"])))
        with np.errstate(over="ignore"):
            X.flat[rng.integers(X.size)] = draw(
                st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -3e38, 6e4, 1e-310, 5e-324])
            )
        return X
    if kind == "kind":
        kinds = [list, pd.DataFrame, pl.DataFrame, np.ma.masked_array, memoryview]
        make = draw(st.sampled_from(kinds))
        return X.tolist() if make is list else make(numbers(rng, (3, 16), "f8"))
    return draw(
        st.one_of(
            rubbish,
            st.sampled_from(
                [
                    np.zeros((0, 4, 4)),
                    np.zeros((3, 0)),
                    np.zeros((1,) * 5),
                    np.zeros((2, 3, 3), "c8"),
                    np.full((2, 4), "a"),
                    np.full((2, 4), {}),
                    np.array([[1, None]]),
                    np.zeros((2, 3), "M8[s]"),
                    np.zeros(2, [("a", "f4")]),
                    np.ma.masked_equal(np.eye(4)[np.newaxis], 0),
                    [np.ones((2, 2)), np.ones((3, 2))],
                    pd.DataFrame({"a": ["x"]}),
                    "images",
                ]
            ),
        )
    )


def bytes_of(X):
    return X.tobytes() if isinstance(X, np.ndarray) and X.dtype != object else repr(X)


def state():
    """Return the global state that the package must not change."""
    return (
        random.getstate(),
        [str(part) for part in np.random.get_state()],
        [(info["filepath"], info["num_threads"]) for info in LIBRARIES.info()],
        list(warnings.filters),
        sklearn.get_config(),
        np.geterr(),
        dict(os.environ),
        os.getcwd(),
    )


def has_nan(X):
    return isinstance(X, np.ndarray) and X.dtype.kind == "f" and not np.isfinite(X).all()


def bad_messages(args):
    return (*BARE, *BLAMES) if any(map(has_nan, args)) else BARE


def attempt(name, function, *args):
    """Call a function; if it raises a documented error, check the message and return None."""
    inputs = [bytes_of(arg) for arg in args]
    before = state()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = function(*args)
        outcome = "computed"
    except MineError:
        result, outcome = None, "the callable's own exception"
    except (TypeError, ValueError, NotFittedError) as error:
        result, outcome = None, type(error).__name__
        message = str(error)
        known = "TypeError", "ValueError", "NotFittedError", "NoSolutionError"
        assert outcome in known, message
        assert len(message) > 20, message
        assert not any(bare in message for bare in bad_messages(args)), message
    COUNTS[name, outcome] += 1
    assert [bytes_of(arg) for arg in args] == inputs
    assert state() == before
    for warning in caught:
        message = str(warning.message)
        assert any(known in message for known in WARNINGS), message
        assert not any(bare in message for bare in bad_messages(args)), message
    return result


def long(n_quick):
    """Return settings for many examples in the long profile, else for few."""
    return settings(
        max_examples=N_LONG if IS_LONG else n_quick,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@pytest.fixture(scope="module", autouse=True)
def summary(request):
    COUNTS.clear()
    yield
    plugins = request.config.pluginmanager
    lines = [f"{count:7,} {name}: {outcome}" for (name, outcome), count in sorted(COUNTS.items())]
    with plugins.getplugin("capturemanager").global_and_fixture_disabled():
        reporter = plugins.getplugin("terminalreporter")
        reporter.write_line(f"\n{COUNTS.total():,} fuzzed calls:")
        reporter.write_line("\n".join(lines))


@long(60)
@given(
    options=parameters(GOOD),
    first=images(),
    second=images(),
    assume_finite=st.booleans(),
    level=st.sampled_from(["warn", "raise"]),
)
def test_the_transformer(options, first, second, assume_finite, level):
    with sklearn.config_context(assume_finite=assume_finite), np.errstate(all=level):
        check_transformer(options, first, second)


def check_transformer(options, first, second):
    transformer = StridedConv2DTransformer(**options)
    if attempt("fit", transformer.fit, first) is None:
        assert not vars(transformer).keys() - options.keys() - GOOD.keys()
        return
    for X in (first, second):
        features = attempt("transform", transformer.transform, X)
        if features is None:
            continue
        names = attempt("get_feature_names_out", transformer.get_feature_names_out)
        assert features.dtype in (np.float32, np.float64)
        assert features.ndim == (2 if transformer.flatten else 4)
        assert np.prod(features.shape[1:]) == len(names)
        if has_nan(X):
            continue
        is_small = (
            np.abs(np.asarray(X, float)).max() < 1e4 and np.abs(transformer.bias_).max() < 1e9
        )
        if is_small and transformer.power <= 1:
            assert np.isfinite(features).all()


@long(60)
@given(
    options=parameters({"stride", "padding", "padding_mode", "dilation"}),
    X=images([(3, 5, 4, 2), (1, 2, 9, 2), (0, 3, 3, 2)]),
    kernels=st.one_of(
        st.just(np.ones((2, 2, 2, 2), "f4")), images([(2, 2, 2, 2), (1, 3, 2, 4)]), rubbish
    ),
    more=st.one_of(
        st.just({}),
        st.fixed_dictionaries({"groups": st.one_of(small, rubbish)}),
        st.fixed_dictionaries({"bias": st.one_of(st.just(np.ones(2)), rubbish)}),
    ),
)
def test_conv2d(options, X, kernels, more):
    with np.errstate(all="raise"):
        maps = attempt("conv2d", lambda X, k: conv2d(X, k, **(options | more)), X, kernels)
    if maps is not None:
        assert maps.ndim == 4
        assert maps.shape[::3] == (len(X), np.shape(kernels)[3])


@pytest.mark.parametrize(
    "Ridge", [StreamingRidgeClassifier, StreamingRidge, RBFRidgeClassifier, RBFRidge]
)
@long(60)
@given(
    alphas=st.one_of(st.sampled_from([1.0, [0.1, 10], 1e-300, (5,)]), rubbish),
    X=images([(4, 9), (4, 2)]),
    y=st.one_of(st.lists(st.integers(0, 2), min_size=4, max_size=4), rubbish, images()),
)
def test_the_ridge_models(Ridge, alphas, X, y):
    model = Ridge(alphas)
    if attempt("ridge fit", model.fit, X, y) is not None:
        assert len(attempt("ridge predict", model.predict, X)) == len(X)


KERNELS_OF_FUZZ = st.sampled_from(["delta", "mean", "normal"])


def make_kernels(kind, c):
    if kind == "delta":
        kernels = np.zeros((3, 3, c, 1))
        kernels[1, 1] = 1
    elif kind == "mean":
        kernels = np.full((3, 3, c, 1), 1 / 9)
    else:
        kernels = np.random.default_rng(0).standard_normal((3, 3, c, 2))
    return kernels.astype(np.float32)


@long(30)
@given(X=hard_images(), kind=KERNELS_OF_FUZZ, padding=st.sampled_from(["same", "valid", 3]))
def test_float32_is_as_good_as_a_plain_sum(X, kind, padding):
    """The error of a response is small beside the largest product in its own window."""
    kernels = make_kernels(kind, X.shape[3])
    maps = conv2d(X, kernels, padding=padding)
    wide = X.astype(np.float64), kernels.astype(np.float64)
    exact = conv2d(*wide, padding=padding)
    scale = conv2d(*map(np.abs, wide), padding=padding)
    assert (np.abs(maps - exact) <= 2e-6 * scale + 1e-44).all()


@long(30)
@given(
    X=hard_images((150, 250), (150, 250)),
    kind=KERNELS_OF_FUZZ,
    activation=st.sampled_from(["relu", "split", "abs"]),
    bias=st.sampled_from([0.0, -1e-3]),
)
def test_means_are_as_good_as_the_responses(X, kind, activation, bias):
    """Means over many positions are those of float32 responses that are added in float64."""
    kernels = make_kernels(kind, X.shape[3])
    options = {"bias": bias, "pool_grid": 1, "padding": "valid"}
    transformer = StridedConv2DTransformer(kernels=kernels, activation=activation, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        features = transformer.fit(X).transform(X)
    maps = conv2d(X, kernels).astype(np.float64)
    sides = {"relu": [1], "split": [1, -1], "abs": [1]}[activation]
    expected = [
        np.abs(maps + bias) if activation == "abs" else np.maximum(sign * maps + bias, 0)
        for sign in sides
    ]
    expected = np.concatenate([side.mean(axis=(1, 2)) for side in expected], axis=1)
    # Rounding of the responses, where a side is above 0.
    size = np.abs(maps).mean(axis=(1, 2))
    rounding = np.concatenate([size] * len(sides), axis=1) if kind == "normal" else 0
    assert (np.abs(features - expected) <= 2e-6 * (expected + rounding) + 1e-44).all()


@long(30)
@given(X=hard_images(), kind=KERNELS_OF_FUZZ, activation=st.sampled_from(sorted(ACTIVATIONS)))
def test_settings_of_numpy_do_not_change_the_result(X, kind, activation):
    kernels = make_kernels(kind, X.shape[3])
    transformer = StridedConv2DTransformer(kernels=kernels, activation=activation, pool_grid=2)

    def compute():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return conv2d(X, kernels), transformer.fit(X).transform(X)

    expected = compute()
    with np.errstate(all="raise"):
        for result, same in zip(compute(), expected, strict=True):
            np.testing.assert_array_equal(result, same)
