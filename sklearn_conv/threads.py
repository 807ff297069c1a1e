"""``n_jobs``: tasks shared between threads, with BLAS at one thread each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from math import prod
from threading import Lock, local
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from threadpoolctl import ThreadpoolController


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
        self._lock = Lock()
        self._n_inside = 0
        self._limits: Any = None

    @cached_property
    def _libraries(self) -> ThreadpoolController:
        return ThreadpoolController()  # looks for them, which takes milliseconds

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._limits = self._libraries.limit(limits=1, user_api="blas")
            self._n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._limits.restore_original_limits()


one_blas_thread = _OneBlasThread()
