"""`AllRows`: the rows of a fit with many features, which are read again in each pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from sklearn.utils import gen_batches

from sklearn_conv._engine.threads import Workspace, one_blas_thread, run_tasks
from sklearn_conv._ridge.labels import find_labels
from sklearn_conv._ridge.moments import (
    N_KEPT,
    SINGLE_RANGE,
    Moments,
    Rows,
    Sums,
    Targets,
    number_keys,
)

MANY_FEATURES = 16_384
"""Number of features above which ``fit`` computes no products of features."""

FEW_ROWS = 8_192
"""Number of rows up to which the products of rows are computed instead, which is exact."""

HELD_OUT = 10
"""Of more rows, one in so many is held out in order to choose alpha, at most `N_KEPT` rows."""

N_PARTS = 8
"""Number of parts of the rows, each of which one thread adds up."""

BLOCK_ROWS = 64
"""Number of rows that are standardized and multiplied at once, in the cache."""

Read = Callable[[slice], np.ndarray]
"""Function that reads a block of rows ``(b, d)``, into memory that the next block overwrites."""


class AllRows(Moments):
    """Moments without products, and all rows, which stay where they are.

    The kept rows, by whose errors alpha is chosen, are all rows if they are few, otherwise those
    that are held out. Their features are not copied.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows.rows[:0], rows.targets)
        n_rows = self.n_summed = self.stop = len(rows.weights)
        self.rows = rows
        self.order = np.argsort(number_keys(0, n_rows), kind="stable")
        n_kept = n_rows if n_rows <= FEW_ROWS else min(N_KEPT, n_rows // HELD_OUT)
        self.chosen = np.sort(self.order[:n_kept])
        self.kept = Rows(rows.rows[:0], rows.targets[self.chosen], rows.weights[self.chosen])
        # Around a mean without weights, squares of heavy rows would hide those of others.
        is_even = rows.weights.max() <= 1e3 * rows.weights.min()
        is_single = is_even and np.can_cast(rows.rows.dtype, np.float32)
        self.sums = self._sum_all(np.dtype(np.float32 if is_single else np.float64))
        spreads = np.sqrt(self.sums.squares[self.sums.squares > 0] / self.sums.weight)
        if is_single and not ((spreads > 1 / SINGLE_RANGE) & (spreads < SINGLE_RANGE)).all():
            self.sums = self._sum_all(np.dtype(np.float64))

    def targets(self, classes: np.ndarray | None) -> Targets:
        """Return columns of targets, and remember the classes for `read_targets`."""
        self._codes: np.ndarray | None = None
        if classes is not None:
            columns = classes[1:] if len(classes) == 2 else classes
            self._codes, self._n_columns = find_labels(self.rows.targets, columns), len(columns)
        return super().targets(classes)

    def read_targets(self, block: slice) -> np.ndarray:
        """Return columns of targets ``(b, k)``."""
        if self._codes is None:
            return self.rows.targets[block]
        return np.where(self._codes[block, np.newaxis] == np.arange(self._n_columns), 1.0, -1.0)

    def find_center(self, mean: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return the mean in the type in which it is subtracted.

        Features that a type does not contain are centered before they are rounded.
        """
        return mean.astype(dtype if np.can_cast(self.rows.rows.dtype, dtype) else np.float64)

    def make_reader(
        self,
        dtype: np.dtype,
        mean: np.ndarray | None = None,
        factor: np.ndarray | None = None,
        index: Any = None,
    ) -> Read:
        """Return a function that reads rows, or those in ``index``, centered and multiplied."""
        X, workspace = self.rows.rows, Workspace()
        center = None if mean is None else self.find_center(mean, dtype)
        factor = None if factor is None else factor.astype(dtype)

        def read(block: slice) -> np.ndarray:
            rows = X[block] if index is None else X[index[block]]
            if center is None and rows.dtype == dtype:
                return rows
            out = workspace.empty("rows", rows.shape, dtype)
            if center is not None and center.dtype != dtype:
                np.subtract(rows, center, out=out, casting="same_kind")
            else:
                np.copyto(out, rows)  # NumPy converts float16 slowly while it subtracts.
                if center is not None:
                    out -= center
            if factor is not None:
                out *= factor
            return out

        return read

    def _sum_all(self, dtype: np.dtype) -> Sums:
        """Return the sums over all rows, from which the mean of the first ones is subtracted."""
        X, targets, weights = self.rows
        weight, scaled = float(weights.sum()), weights.astype(dtype)
        shift = np.mean(X[:BLOCK_ROWS], axis=0, dtype=np.float64).astype(dtype)
        read = self.make_reader(dtype, shift)
        if targets.ndim == 1:
            classes, codes = np.unique(targets, return_inverse=True)
            target_mean, spread = np.bincount(codes, weights) / weight, np.ones(len(classes))
        else:
            classes, target_mean = None, np.average(targets, axis=0, weights=weights)
            spread = np.abs(targets - target_mean).max(axis=0)
            spread[spread == 0] = 1

        def add(block: slice) -> np.ndarray:
            rows = read(block)
            if classes is None:
                columns = ((targets[block] - target_mean) / spread).T
            else:
                columns = codes[block] == np.arange(len(classes))[:, np.newaxis]
            columns = np.vstack([columns, np.ones(len(rows))]).astype(dtype) * scaled[block]
            products = columns @ rows
            squares = scaled[block] @ np.multiply(rows, rows, out=rows)
            return np.vstack([products, squares]).astype(np.float64)

        sums = add_up(add, len(weights))
        products, total, squares = sums[:-2], sums[-2], sums[-1]
        mean = total / weight
        if classes is not None:
            products -= target_mean[:, np.newaxis] * total
        return Sums(
            classes=classes,
            weight=weight,
            mean=shift + mean,
            target_mean=target_mean,
            products=products * spread[:, np.newaxis],
            squares=np.maximum(squares - weight * mean**2, 0),
        )


def is_for_all_rows(rows: Rows) -> bool:
    """Return whether ``fit`` solves these rows without products of features."""
    return isinstance(rows.rows, np.ndarray) and rows.rows.shape[1] > MANY_FEATURES


def add_up(function: Callable[[slice], np.ndarray], n_rows: int) -> np.ndarray:
    """Return the sum of the results of a function for all blocks of rows, computed in threads."""

    def add(part: slice) -> np.ndarray:
        blocks = split(part)
        total = function(next(blocks))
        for block in blocks:
            total += function(block)
        return total

    first, *others = run_parts(add, n_rows)
    for total in others:
        first += total
    return first


def run_parts(function: Callable[[slice], Any], n_rows: int) -> list[Any]:
    """Return the results of a function for parts of the rows, in as many threads as BLAS has."""
    # The parts, and so the order of the sums, do not depend on the number of threads.
    length = -(-n_rows // (N_PARTS * BLOCK_ROWS)) * BLOCK_ROWS
    return run_all(function, gen_batches(n_rows, length))


def run_all(function: Callable[[Any], Any], tasks: Iterable[Any]) -> list[Any]:
    """Return the results for all tasks, computed in as many threads as BLAS has."""
    n_threads = one_blas_thread.n_threads
    with one_blas_thread:
        return run_tasks(function, [(task,) for task in tasks], n_threads)


def split(part: slice) -> Iterator[slice]:
    """Yield the blocks of a part of the rows."""
    for block in gen_batches(part.stop - part.start, BLOCK_ROWS):
        yield slice(part.start + block.start, part.start + block.stop)
