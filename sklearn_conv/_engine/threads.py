"""Run tasks in several threads, and limit BLAS to one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from math import prod
from queue import Empty, SimpleQueue
from threading import Lock, RLock, Thread, local
from typing import Any

import numpy as np
from joblib.parallel import get_active_backend
from sklearn import config_context, get_config
from threadpoolctl import LibController, ThreadpoolController


class Workspace(local):
    """Buffers that a thread reuses.

    Requesting megabytes of new memory from the system takes longer than filling them.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an uninitialized array; it overwrites the previous array of that name."""
        n_bytes = prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < n_bytes:
            buffer = self._buffers[name] = aligned_empty(n_bytes, np.dtype(np.uint8))
        return buffer[:n_bytes].view(dtype).reshape(shape)


def aligned_empty(length: int, dtype: np.dtype) -> np.ndarray:
    """Return an uninitialized array that begins at a line of the cache, at a multiple of 64 bytes.

    A vector of 64 bytes is then in one line of the cache and not in two.
    """
    n_bytes = length * dtype.itemsize
    buffer = np.empty(n_bytes + 64, np.uint8)
    start = -buffer.__array_interface__["data"][0] % 64
    return buffer[start : start + n_bytes].view(dtype)


def count_threads(n_jobs: int | None) -> int:
    """Return the number of threads that joblib allows.

    `joblib.effective_n_jobs` counts processes. In a process started by `multiprocessing`, it
    returns 1 with a warning, although joblib allows several threads there. In a worker of joblib,
    all cores have workers already, so negative numbers mean one thread.
    """
    if n_jobs is None:
        _, n_jobs = get_active_backend()
    backend, _ = get_active_backend(prefer="threads", require="sharedmem")
    if backend.nesting_level and n_jobs is not None and n_jobs < 0:
        return 1
    return backend.effective_n_jobs(n_jobs)


class _Helpers:
    """Threads that wait for jobs.

    They are kept, because in the first milliseconds of a new thread, Linux often runs it on the
    same core as the thread that started it. The caller must not rely on a job being done: it may be
    started late, or never if the system allows no more threads.
    """

    def __init__(self) -> None:
        self._start()
        if hasattr(os, "register_at_fork"):  # This function does not exist on Windows.
            os.register_at_fork(after_in_child=self._start)  # A forked process has no helpers yet.

    def _start(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle: SimpleQueue[None] = SimpleQueue()  # an entry for each idle thread

    def call(self, job: Callable[[], None], n_times: int) -> None:
        """Let ``n_times`` threads call ``job``, which must not raise exceptions."""
        for _ in range(n_times):
            try:
                self._idle.get_nowait()
            except Empty:
                thread = Thread(target=self._work, args=(self._jobs, self._idle), daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # The system allows no more threads.
                    return
            self._jobs.put(job)

    @staticmethod
    def _work(jobs: SimpleQueue[Callable[[], None]], idle: SimpleQueue[None]) -> None:
        while True:
            jobs.get()()
            idle.put(None)


_helpers = _Helpers()


def run_tasks(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int
) -> list[Any]:
    """Call the function with every task in ``workers`` threads, and return the results in order."""
    results: list[Any] = [None] * len(tasks)
    errors: list[BaseException] = []
    todo = iter(range(len(tasks)))
    n_started, is_open = 0, True
    lock, done = Lock(), SimpleQueue[None]()
    config = get_config()  # Each thread has its own.

    def work() -> None:
        while True:
            with lock:
                i = next(todo, None)
            if i is None:
                return
            # Overflow is reported once, when the result is checked.
            with np.errstate(all="ignore"):
                results[i] = function(*tasks[i])

    def help_to_work() -> None:
        nonlocal todo, n_started
        with lock:
            if not is_open:
                return
            n_started += 1
        try:
            with config_context(**config):
                work()
        except BaseException as error:
            todo = iter(())  # Stop the other threads.
            errors.append(error)
        finally:
            done.put(None)

    # joblib says how many threads there may be, but does not run them: its Parallel takes 10 ms, in
    # which two threads compute hundreds of small images.
    try:
        _helpers.call(help_to_work, min(workers, len(tasks)) - 1)
        work()
    finally:
        with lock:
            todo, is_open = iter(()), False  # After an interrupt, the other threads must stop.
        for _ in range(n_started):
            done.get()
    if errors:
        raise errors[0]
    return results


class _OneBlasThread:
    """Limit BLAS to one thread while any thread is inside, and restore the limit afterwards.

    If several threads set and restored limits independently, they would restore each other's
    limits, and BLAS would stay limited. Therefore there is one list of limits for all of them, of
    which the lowest counts.
    """

    def __init__(self) -> None:
        self._lock = RLock()  # Reentrant, because a signal handler may fork while it is held.
        self._limits: list[int] = []
        self._lowest = 0
        """Limit that is set; 0 if there is none, and -1 after an interrupt."""
        self._before: list[tuple[LibController, int]] = []
        if hasattr(os, "register_at_fork"):  # This function does not exist on Windows.
            os.register_at_fork(
                before=self._lock.acquire,
                after_in_parent=self._lock.release,
                after_in_child=self._leave_to_parent,
            )

    @cached_property
    def _libraries(self) -> list[LibController]:
        # The result is cached, because the search takes milliseconds.
        return ThreadpoolController().select(user_api="blas").lib_controllers

    @property
    def n_threads(self) -> int:
        """Number of threads that BLAS may use now."""
        return max((library.num_threads or 1 for library in self._libraries), default=1)

    def __enter__(self) -> None:
        self._enter(1)

    def __exit__(self, *error: object) -> None:
        self._leave(1)

    @contextmanager
    def at_most(self, n_threads: int) -> Iterator[None]:
        """Limit BLAS to a number of threads."""
        self._enter(n_threads)
        try:
            yield
        finally:
            self._leave(n_threads)

    def _enter(self, limit: int) -> None:
        with self._lock:
            if not self._before:  # After an interrupt, they may not have been restored.
                self._before = [(library, library.num_threads) for library in self._libraries]
            self._limits.append(limit)
            try:
                self._apply()
            except BaseException:  # Who was not let in does not leave.
                self._leave(limit)
                raise

    def _leave(self, limit: int) -> None:
        with self._lock:
            self._limits.remove(limit)
            self._apply()

    def _apply(self) -> None:
        lowest = min(self._limits, default=0)
        if lowest == self._lowest:
            return
        self._lowest = -1
        for library, n_threads in self._before:
            _set_threads(library, min(n_threads, lowest or n_threads))
        if not lowest:
            self._before = []
        self._lowest = lowest

    def _leave_to_parent(self) -> None:
        """Forget the threads inside in a forked process, because they run only in the parent."""
        self._limits.clear()
        self._apply()
        self._lock.release()


def _set_threads(library: LibController, n_threads: int) -> None:
    """Set the number of threads of a library, from any thread.

    In threadpoolctl 3.8, the first thread that sets the limit of OpenBLAS controls it, and calls
    from other threads are ignored until that thread has restored it.
    """
    release = getattr(library, "clear_controlling_thread", lambda force: None)
    release(force=True)
    library.set_num_threads(n_threads)
    release(force=True)


one_blas_thread = _OneBlasThread()
"""Use as ``with one_blas_thread:``, in any number of threads at the same time."""
