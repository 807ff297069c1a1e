"""Many threads with one common or several separate estimators; forked and spawned processes."""

import multiprocessing
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from helpers import N_BLAS, blas_threads, small_blocks
from threadpoolctl import threadpool_limits

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._engine import threads
from sklearn_conv._engine.threads import one_blas_thread
from sklearn_conv._search import _threads
from sklearn_conv.kernels._initializers import KERNELS

N_THREADS = 16
N_ROUNDS = 2
IMAGES = np.random.RandomState(0).standard_normal((20, 8, 7, 2))
CONFIGURATIONS = {
    "default": {},
    "normalized": {
        "kernels": "patches",
        "normalize_patches": True,
        "whiten": True,
        "activation": "split",
        "bias": -0.1,
    },
    "maps": {"pooling": None, "bias": "quantile", "activation": "step", "stride": 2},
    "several poolings": {"pooling": ["max", "mean"], "activation": "split", "flatten": False},
}

configurations = pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
in_one_and_in_two = pytest.mark.parametrize("n_jobs", [None, 2])
start_methods = pytest.mark.parametrize(
    "method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()]
)
needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"
)
forks_with_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def _many_small_tasks_and_switches(monkeypatch):
    small_blocks(monkeypatch, 20_000)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def _two_blas_threads():
    """Limit BLAS to two threads.

    In newer versions of threadpoolctl, only the thread that has set a limit may change it, unless
    this thread has ended. Therefore the limit is set in a separate thread, which ends.
    """
    with threadpool_limits():
        at_once([partial(threadpool_limits, N_BLAS, "blas")])
        yield


def at_once(calls):
    """Make all calls at the same time, each in its own thread, and return their results."""
    barrier = threading.Barrier(len(calls), timeout=30)

    def make(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(make, calls))


def in_process(method, function, *arguments):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.apply_async(function, arguments).get(timeout=30)


def features_and_blas(transformer, images):
    return transformer.transform(images), blas_threads()


@in_one_and_in_two
@configurations
def test_one_estimator_in_many_threads(options, n_jobs):
    transformer = StridedConv2DTransformer(8, n_jobs=n_jobs, random_state=0, **options).fit(IMAGES)
    batches = [np.roll(IMAGES, i, axis=1)[i:] for i in range(N_THREADS)]
    expected = [transformer.transform(batch) for batch in batches]
    before = pickle.dumps(transformer)
    for _ in range(N_ROUNDS):
        results = at_once([partial(transformer.transform, batch) for batch in batches])
        for result, features in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, features)
    assert pickle.dumps(transformer) == before


@pytest.mark.usefixtures("_two_blas_threads")
def test_an_estimator_in_each_of_many_threads():
    transformers = [
        StridedConv2DTransformer(4, kernels=name, normalize_patches=True, bias=bias, random_state=0)
        for name in sorted(KERNELS)
        for bias in (0.0, "quantile")
    ]
    expected = [transformer.fit_transform(IMAGES) for transformer in transformers]
    for _ in range(N_ROUNDS):
        results = at_once([partial(t.fit_transform, IMAGES) for t in transformers])
        np.testing.assert_allclose(results, expected, atol=1e-10)
        assert blas_threads() == {N_BLAS}


@pytest.mark.usefixtures("_two_blas_threads")
def test_kmeans_in_many_threads_restores_the_blas_threads():
    transformer = StridedConv2DTransformer(4, kernels="kmeans")
    with ThreadPoolExecutor(N_THREADS) as pool:
        for _ in range(N_ROUNDS):
            list(pool.map(transformer.fit, [IMAGES] * N_THREADS))
            assert blas_threads() == {N_BLAS}


@pytest.mark.parametrize("last", [0, 1], ids=["who came first", "who came second"])
@pytest.mark.usefixtures("_two_blas_threads")
def test_blas_threads_are_restored_by_the_last_thread(last):
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        threads = [first, second]
        for thread in threads:
            thread.submit(one_blas_thread.__enter__).result()
        for thread in (threads[1 - last], threads[last]):
            assert blas_threads() == {1}
            thread.submit(one_blas_thread.__exit__).result()
        assert blas_threads() == {N_BLAS}


@pytest.mark.usefixtures("_two_blas_threads")
def test_limits_set_by_the_user_still_work():
    transformer = StridedConv2DTransformer(4, n_jobs=2).fit(IMAGES)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(transformer.transform, IMAGES).result()
        with threadpool_limits(1, user_api="blas"):
            assert blas_threads() == {1}
            pool.submit(transformer.transform, IMAGES).result()
            assert blas_threads() == {1}
        assert blas_threads() == {N_BLAS}


@start_methods
@forks_with_threads
def test_processes_started_after_threads_were_used(method):
    transformer = StridedConv2DTransformer(8, n_jobs=2, random_state=0).fit(IMAGES)
    expected, _ = at_once([partial(transformer.transform, IMAGES)] * 2)
    result = in_process(method, transformer.transform, IMAGES)
    np.testing.assert_allclose(result, expected, atol=1e-12)
    np.testing.assert_array_equal(transformer.transform(IMAGES), expected)


@needs_fork
@forks_with_threads
@pytest.mark.usefixtures("_two_blas_threads")
def test_a_fork_while_threads_are_at_work():
    transformer = StridedConv2DTransformer(8, n_jobs=2, random_state=0).fit(IMAGES)
    expected = transformer.transform(IMAGES)
    with one_blas_thread:
        result, n_blas = in_process("fork", features_and_blas, transformer, IMAGES)
        assert blas_threads() == {1}
    np.testing.assert_array_equal(result, expected)
    assert n_blas == {N_BLAS}
    assert blas_threads() == {N_BLAS}


@needs_fork
@forks_with_threads
def test_a_fork_while_threads_come_and_go():
    transformer = StridedConv2DTransformer(8, n_jobs=2, random_state=0).fit(IMAGES)
    expected, enough = transformer.transform(IMAGES), threading.Event()

    def come_and_go():
        while not enough.is_set():
            with one_blas_thread:
                pass

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(come_and_go)
        try:
            for _ in range(5):
                result = in_process("fork", transformer.transform, IMAGES)
                np.testing.assert_array_equal(result, expected)
        finally:
            enough.set()
        busy.result()


@pytest.mark.usefixtures("_two_blas_threads")
def test_searches_in_two_threads_restore_the_blas_threads():
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        entered = [(pool, _threads(2)) for pool in (first, second)]
        for pool, limit in entered:
            pool.submit(limit.__enter__).result()
        for pool, limit in entered:
            pool.submit(limit.__exit__, None, None, None).result()
    assert blas_threads() == {N_BLAS}


@pytest.mark.usefixtures("_two_blas_threads")
def test_an_interrupt_while_blas_is_limited(monkeypatch):
    set_threads = threads._set_threads

    def interrupt(library, n_threads):
        set_threads(library, n_threads)
        monkeypatch.setattr(threads, "_set_threads", set_threads)
        raise KeyboardInterrupt

    monkeypatch.setattr(threads, "_set_threads", interrupt)
    with pytest.raises(KeyboardInterrupt), one_blas_thread:
        pass
    assert blas_threads() == {N_BLAS}


def test_only_the_first_and_the_last_set_the_limit_of_blas(monkeypatch):
    calls = []
    monkeypatch.setattr(threads, "_set_threads", lambda *call: calls.append(call))
    with one_blas_thread:
        n_first = len(calls)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(one_blas_thread.__enter__).result()
            pool.submit(one_blas_thread.__exit__).result()
        assert len(calls) == n_first
    assert len(calls) == 2 * n_first > 0
