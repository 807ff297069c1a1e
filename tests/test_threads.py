"""Tasks that are distributed over threads."""

import threading

import numpy as np
import pytest
from helpers import blas_threads
from joblib import Parallel, cpu_count, delayed, parallel_config
from sklearn import config_context, get_config

from sklearn_conv._engine.threads import Workspace, count_threads, one_blas_thread, run_tasks


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("n_tasks", [0, 1, 3, 50])
def test_results_come_in_the_order_of_the_tasks(workers, n_tasks):
    tasks = [(i, 2) for i in range(n_tasks)]
    assert run_tasks(pow, tasks, workers) == [i**2 for i in range(n_tasks)]


def test_one_worker_is_the_thread_of_the_caller():
    assert run_tasks(threading.get_ident, [()] * 3, 1) == [threading.get_ident()] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_blas_is_limited_in_all_threads(workers):
    before = blas_threads()
    with one_blas_thread:
        assert run_tasks(blas_threads, [()] * 4, workers) == [{1}] * 4
    assert blas_threads() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_comes_through_and_later_tasks_are_not_started(workers):
    started = []

    def task(i):
        started.append(i)
        if i == 3:
            raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError, match="on purpose"):
        run_tasks(task, [(i,) for i in range(1000)], workers)
    assert len(started) < 1000


def test_overflow_in_a_task_does_not_warn():
    (result,) = run_tasks(lambda: np.float32(1e38) * np.float32(1e38), [()], 1)
    assert np.isinf(result)


def test_a_workspace_uses_its_memory_again():
    workspace = Workspace()
    large = workspace.empty("a", (5, 4), np.dtype("f8"))
    small = workspace.empty("a", (3,), np.dtype("f4"))
    assert small.shape == (3,)
    assert small.dtype == np.float32
    assert np.shares_memory(large, small)
    assert not np.shares_memory(workspace.empty("b", (5, 4), np.dtype("f8")), small)


def test_each_thread_has_a_workspace_of_its_own():
    workspace, arrays = Workspace(), []
    both = threading.Barrier(2, timeout=20)

    def take():
        arrays.append(workspace.empty("a", (100,), np.dtype("f8")))
        both.wait()

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not np.shares_memory(*arrays)


def test_threads_are_counted_as_joblib_does():
    assert count_threads(None) == 1
    assert count_threads(3) == 3
    assert count_threads(-1) == cpu_count()
    for options in ({"backend": "loky"}, {"backend": "threading"}):
        counts = Parallel(2, **options)(delayed(count_threads)(n_jobs) for n_jobs in (-1, 3))
        assert counts == [1, 3]
    with parallel_config("threading", n_jobs=2):
        assert count_threads(None) == 2


def test_the_limit_of_blas_can_be_nested():
    before = blas_threads()
    with one_blas_thread:
        with one_blas_thread:
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == before


def test_tasks_have_the_configuration_of_the_caller():
    both = threading.Barrier(2, timeout=20)

    def look(i):
        both.wait()
        return get_config()["working_memory"]

    with config_context(working_memory=1):
        assert run_tasks(look, [(0,), (1,)], 2) == [1, 1]
