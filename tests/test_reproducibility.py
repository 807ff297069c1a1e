"""The same seed gives the same kernels: in every version, thread, process and memory order."""

import multiprocessing

import golden
import numpy as np
import pytest
from joblib import Parallel, delayed
from strategies import ORDERS, in_order
from threadpoolctl import threadpool_limits

from sklearn_conv.kernels._initializers import KERNELS

kernel_names = pytest.mark.parametrize("name", KERNELS)


@pytest.fixture(autouse=True, scope="module")
def _one_openmp_thread():
    """Limit OpenMP to one thread, which is faster for k-means on these small arrays.

    With several threads, the OpenMP library of scikit-learn may hang in a forked process.
    """
    with threadpool_limits(1, user_api="openmp"):
        yield


@pytest.fixture(scope="module")
def entries():
    return dict(np.load(golden.GOLDEN_KERNELS))


def assert_same(learned, expected):
    rows = zip(golden.PREPROCESSING, learned, expected, strict=True)
    for preprocessing, row, expected_row in rows:
        np.testing.assert_allclose(row, expected_row, rtol=1e-7, atol=1e-9, err_msg=preprocessing)


def assert_all_same(learned, entries):
    for name in learned:
        assert name in entries, (
            f"tests/data has no entry for {name!r}: run .venv-minimum/bin/python tests/golden.py, "
            "after make test-minimum"
        )
        assert_same(learned[name], entries[name])


@kernel_names
def test_kernels_are_those_of_older_versions(name, entries):
    assert_all_same({name: golden.learned(name, golden.images_for(name))}, entries)


def test_every_entry_is_of_a_kernel(entries):
    assert set(entries) <= set(KERNELS)


@pytest.mark.parametrize("n_jobs", [2, -1])
@kernel_names
def test_n_jobs_changes_no_kernel(name, n_jobs):
    images = golden.images_for(name)
    learned = golden.learned(name, images, n_jobs=n_jobs)
    np.testing.assert_array_equal(learned, golden.learned(name, images))


@pytest.mark.parametrize("order", ORDERS)
@kernel_names
def test_memory_order_changes_no_kernel(name, order):
    images = golden.images_for(name)
    learned = golden.learned(name, in_order(images, order))
    np.testing.assert_array_equal(learned, golden.learned(name, images))


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.long) if name == "forkserver" else name
        for name in multiprocessing.get_all_start_methods()
    ],
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_processes_make_the_same_kernels(method, entries):
    with multiprocessing.get_context(method).Pool(1) as pool:
        learned = pool.apply_async(golden.learned_by_all).get(timeout=60)
    assert_all_same(learned, entries)


@pytest.mark.long
@pytest.mark.usefixtures("_own_processes")
def test_processes_of_joblib_make_the_same_kernels(entries):
    both = Parallel(n_jobs=2, backend="loky")(delayed(golden.learned_by_all)() for _ in range(2))
    for learned in both:
        assert_all_same(learned, entries)
