import threading
import time
import warnings

import helpers
import numpy as np
import pytest
import sklearn
from helpers import small_blocks
from joblib import parallel_config
from threadpoolctl import threadpool_limits

from sklearn_conv import StridedConv2DTransformer, conv2d
from sklearn_conv._engine import numpy_engine as engine
from sklearn_conv._engine.activation import ACTIVATIONS


@pytest.fixture
def blas_threads():
    """Set BLAS to two threads; return a function that returns the current number."""
    with threadpool_limits(helpers.N_BLAS, user_api="blas"):
        yield helpers.blas_threads


@pytest.fixture(autouse=True)
def _threads_for_little_work(monkeypatch):
    small_blocks(monkeypatch, engine.BLOCK_BYTES)


@pytest.mark.parametrize("shape", [(40, 12, 10, 2), (1, 70, 60, 1)], ids=["many", "one large"])
@pytest.mark.parametrize("pooling", ["mean", None])
def test_result_does_not_depend_on_the_threads(shape, pooling, monkeypatch):
    small_blocks(monkeypatch, 20_000)
    images = np.random.default_rng(0).standard_normal(shape)
    transformer = StridedConv2DTransformer(8, pooling=pooling, random_state=0).fit(images)
    expected = transformer.transform(images)
    for n_jobs in (2, 4, -1):
        features = transformer.set_params(n_jobs=n_jobs).transform(images)
        np.testing.assert_allclose(features, expected, atol=1e-12)
    with parallel_config("loky", n_jobs=2):
        features = transformer.set_params(n_jobs=None).transform(images)
    np.testing.assert_allclose(features, expected, atol=1e-12)


def test_images_are_shared_between_threads(monkeypatch):
    small_blocks(monkeypatch, 1000)
    seen, both = set(), threading.Barrier(2, timeout=20)

    def watch(z):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            both.wait()  # returns only if two threads wait here
        return z

    images = np.zeros((20, 8, 8))
    transformer = StridedConv2DTransformer(4, n_jobs=2).fit(images)
    transformer.set_params(activation=watch).transform(images)
    assert len(seen) == 2


def test_blas_is_limited_only_during_the_computation(blas_threads):
    images, seen = np.zeros((20, 8, 8)), []

    def watch(z):
        seen.append(blas_threads())
        return z

    transformer = StridedConv2DTransformer(4, activation=watch, n_jobs=2).fit(images)
    seen.clear()
    transformer.transform(images)
    assert seen
    assert all(threads == {1} for threads in seen)
    assert blas_threads() == {helpers.N_BLAS}


def test_blas_threads_come_back_after_an_error(blas_threads):
    images = np.zeros((20, 8, 8))
    calls = []

    def fail_in_transform(z):
        calls.append(None)
        if len(calls) > 2:
            raise ArithmeticError("on purpose")
        return z

    transformer = StridedConv2DTransformer(4, activation=fail_in_transform, n_jobs=2).fit(images)
    with pytest.raises(ArithmeticError, match="on purpose"):
        transformer.transform(images)
    assert blas_threads() == {helpers.N_BLAS}


def test_blas_threads_come_back_when_several_transform_at_once(blas_threads):
    images = np.random.default_rng(0).standard_normal((200, 8, 8))
    transformer = StridedConv2DTransformer(16, n_jobs=2, random_state=0).fit(images)
    expected = transformer.transform(images)
    results = [None] * 6

    def work(i):
        results[i] = transformer.transform(images[: 20 * (i + 1)])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, result in enumerate(results):
        np.testing.assert_allclose(result, expected[: 20 * (i + 1)], atol=1e-12)
    assert blas_threads() == {helpers.N_BLAS}


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_float32_is_within_1e_5_of_float64(activation):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((20, 32, 32, 3))
    transformer = StridedConv2DTransformer(
        64, 5, activation=activation, pooling=["mean", "max", "sum"], random_state=0
    ).fit(images)
    exact = transformer.transform(images)
    features = transformer.transform(images.astype(np.float32))
    assert features.dtype == np.float32
    if activation == "step":
        assert np.mean(~np.isclose(features, exact)) < 0.01
    else:
        scale = np.abs(exact).reshape(len(images), 4, 3, -1).max(axis=(0, 1, 3), keepdims=True)
        error = np.abs(features - exact).reshape(len(images), 4, 3, -1)
        assert (error / scale).max() < 1e-5


def test_a_large_offset_costs_no_precision():
    """Images are 16-bit integers around 30,000; kernels have a sum of 0 or another sum."""
    rng = np.random.default_rng(0)
    images = (30_000 + 50 * rng.standard_normal((6, 40, 30, 2))).astype(np.uint16)
    for kernels in ("gaussian", "uniform"):
        for padding, mode in [("valid", "constant"), ("same", "reflect"), ("same", "constant")]:
            for activation in ("relu", "abs", "split", "identity"):
                transformer = StridedConv2DTransformer(
                    16,
                    kernels=kernels,
                    padding=padding,
                    padding_mode=mode,
                    activation=activation,
                    bias=-5.0,
                    random_state=0,
                ).fit(images)
                exact = transformer.transform(images.astype(np.float64))
                features = transformer.transform(images)
                assert features.dtype == np.float32
                assert np.abs(features - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("shape", [(5, 9, 7, 2), (1, 20, 300, 1)])
def test_a_large_offset_costs_no_precision_in_maps(shape):
    rng = np.random.default_rng(0)
    offsets = np.linspace(20_000, 40_000, shape[0]).reshape(-1, 1, 1, 1)
    images = (offsets + 50 * rng.standard_normal(shape)).astype(np.uint16)
    kernels = rng.standard_normal((3, 3, shape[3], 4))
    exact = conv2d(images.astype(np.float64), kernels - kernels.mean(axis=(0, 1, 2)))
    maps = conv2d(images, kernels - kernels.mean(axis=(0, 1, 2)))
    assert maps.dtype == np.float32
    assert np.abs(maps - exact).max() < 1e-5 * np.abs(exact).max()


def test_features_that_are_never_active_are_exactly_0():
    images = np.random.default_rng(0).random((50, 12, 12), np.float32)
    features = StridedConv2DTransformer(8, bias=-100.0, activation="split").fit_transform(images)
    assert not features.any()


def test_warning_filters_and_configuration_are_not_changed():
    images = np.zeros((50, 12, 12))
    transformer = StridedConv2DTransformer(8, n_jobs=2).fit(images)
    before = list(warnings.filters)
    with parallel_config(prefer="processes"):
        transformer.transform(images)
    assert warnings.filters == before


def test_working_memory_caps_the_blocks():
    images, seen = np.zeros((4, 64, 64)), []

    def watch(z):
        seen.append(len(z))
        return z

    transformer = StridedConv2DTransformer(4, activation=watch).fit(images)
    seen.clear()
    with sklearn.config_context(working_memory=0.01):
        transformer.transform(images)
    assert max(seen) * 4 * 8 < 0.01 * 2**20


def test_other_threads_stop_after_an_error(monkeypatch):
    small_blocks(monkeypatch, 1)
    images, calls = np.zeros((2000, 4, 4)), []

    def fail_in_transform(z):
        calls.append(None)
        if len(calls) == 20:
            raise ArithmeticError("on purpose")
        return z

    transformer = StridedConv2DTransformer(1, activation=fail_in_transform, n_jobs=2).fit(images)
    with pytest.raises(ArithmeticError, match="on purpose"):
        transformer.transform(images)
    time.sleep(0.1)
    n_calls = len(calls)
    time.sleep(0.1)
    assert len(calls) == n_calls < 8000
