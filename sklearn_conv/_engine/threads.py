"""``n_jobs``: tasks shared between threads, with BLAS at one thread each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from math import prod
from threading import Lock, RLock, local
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from threadpoolctl import LibController, ThreadpoolController


class Workspace(local):
    """Arrays that each thread uses again: fresh ones of megabytes cost more than filling them."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Give the array of that name, with any content; the last one of that name is invalid."""
        n_bytes = prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < n_bytes:
            buffer = self._buffers[name] = np.empty(n_bytes, np.uint8)
        return buffer[:n_bytes].view(dtype).reshape(shape)


def count_threads(n_jobs: int | None) -> int:
    """Count the threads that joblib allows.

    `joblib.effective_n_jobs` counts processes, of which it allows one, with a warning, where it
    allows many threads: in the processes of `multiprocessing`.
    """
    if n_jobs is None:
        _, n_jobs = get_active_backend()
    backend, _ = get_active_backend(prefer="threads", require="sharedmem")
    return backend.effective_n_jobs(n_jobs)


def run(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int, verbose: int
) -> list[Any]:
    """Call the function on every task, shared between threads, and return the results in order."""
    results: list[Any] = [None] * len(tasks)
    todo = iter(range(len(tasks)))
    lock = Lock()

    def work(n_tasks: int) -> None:
        nonlocal todo
        for _ in range(n_tasks):
            with lock:
                i = next(todo, None)
            if i is None:
                return
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # infinite: the result says it
                    results[i] = function(*tasks[i])
            except BaseException:
                todo = iter(())  # the others stop
                raise

    if workers == 1 and not verbose:
        work(len(tasks))
        return results
    # Each call costs joblib as much as a small task: threads fetch their tasks themselves, but
    # for those who want to see joblib count them.
    calls = [1] * len(tasks) if verbose else [len(tasks)] * workers
    # sklearn's Parallel would hand its configuration and the filters of warnings on to the threads,
    # and so change these for everyone.
    parallel = Parallel(n_jobs=workers, prefer="threads", require="sharedmem", verbose=verbose)
    try:
        with one_blas_thread if workers > 1 else nullcontext():
            parallel(delayed(work)(n_tasks) for n_tasks in calls)
    finally:
        todo = iter(())  # after an interrupt, too
    return results


class _OneBlasThread:
    """BLAS at one thread while anyone is inside, then as the first one found it.

    Limits that several threads open and close on their own restore each other's limits, and BLAS
    stays at one thread for good; so there is one limit, and a count of those inside.
    """

    def __init__(self) -> None:
        self._lock = RLock()  # for a signal that forks while it is held
        self._n_inside = 0
        self._before: list[tuple[LibController, int]] = []
        if hasattr(os, "register_at_fork"):  # not on Windows
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._leave_to_parent,
            )

    @cached_property
    def _libraries(self) -> list[LibController]:
        # looks for them, which takes milliseconds
        return ThreadpoolController().select(user_api="blas").lib_controllers

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._before = [(library, library.num_threads) for library in self._libraries]
                for library in self._libraries:
                    _set_threads(library, 1)
            self._n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._restore()

    def _restore(self) -> None:
        for library, n_threads in self._before:
            _set_threads(library, n_threads)

    def _leave_to_parent(self) -> None:
        """Forget, in a forked process, the threads inside: they run in the parent alone."""
        if self._n_inside:
            self._n_inside = 0
            self._restore()
        self._lock.release()


def _set_threads(library: LibController, n_threads: int) -> None:
    """Set them from any thread, and leave this to any other.

    threadpoolctl 3.8 lets only the thread that was first to set those of OpenBLAS set them again,
    and ignores all others, until that one is done with a limit of its own.
    """
    let_go = getattr(library, "clear_controlling_thread", lambda force: None)
    let_go(force=True)
    library.set_num_threads(n_threads)
    let_go(force=True)


one_blas_thread = _OneBlasThread()
"""``with one_blas_thread:``, in any number of threads at once."""
