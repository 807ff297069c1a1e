"""Products of rows of features or of a kernel, and sums of rows: by NumPy, or in C++."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import byref
from typing import Any

import numpy as np
from sklearn.utils import gen_batches

from sklearn_conv._engine import choice
from sklearn_conv._engine.native_library import GROUP, Level, RowsStruct, address
from sklearn_conv._ridge.all_rows import N_PARTS, Read, add_up, run_all, run_parts, split

TILE = 512
"""Number of columns of a matrix that NumPy multiplies at once, in the cache."""


class NumpyRows:
    """Rows that a function reads, block by block."""

    def __init__(self, read: Read, n_rows: int) -> None:
        self._read, self._n_rows = read, n_rows

    def project(self, columns: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Return ``rows @ columns - shift``, ``(m, q)``, for columns ``(d, q)``."""

        def multiply(part: slice) -> np.ndarray:
            return np.concatenate([self._read(block) @ columns for block in split(part)])

        return np.concatenate(run_parts(multiply, self._n_rows)) - shift

    def combine(self, coefficients: np.ndarray) -> np.ndarray:
        """Return ``coefficients.T @ rows``, ``(q, d)``, for coefficients ``(m, q)``."""
        return add_up(lambda block: coefficients[block].T @ self._read(block), self._n_rows)

    def multiply(self, columns: np.ndarray, shift: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Combine the projections, times weights ``(m,)``, while the rows are in the cache."""

        def multiply(block: slice) -> np.ndarray:
            rows = self._read(block)
            return ((rows @ columns - shift) * weights[block, np.newaxis]).T @ rows

        return add_up(multiply, self._n_rows)


def is_for_library(X: np.ndarray) -> bool:
    """Return whether the library has been loaded, and reads these rows."""
    is_known = X.dtype in (np.float32, np.float16) and X.strides[1] == X.itemsize
    return choice.LIBRARY is not None and is_known


class NativeRows:
    """All rows of an array of float32 or float16, or those in ``index``, as `NumpyRows` in C++."""

    def __init__(self, X: np.ndarray, index: np.ndarray | None, level: Level | None = None) -> None:
        assert choice.LIBRARY is not None
        self._X, self._pixel = X, choice.LIBRARY.pixels[X.dtype]
        self._index = None if index is None else index.astype(np.int64)
        self._n_rows = len(X) if index is None else len(index)
        self._level = level or choice.LIBRARY.levels[0]

    def project(self, columns: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Return ``rows @ columns - shift``, ``(m, q)``, for columns ``(d, q)``."""
        products = self._make_products(columns.shape[1])
        weights = np.ones(self._n_rows, np.float32)
        run_parts(self._make_task(products, columns, shift, weights), self._n_rows)
        return products.reshape(self._n_rows, -1)[:, : len(shift)]

    def combine(self, coefficients: np.ndarray) -> np.ndarray:
        """Return ``coefficients.T @ rows``, ``(q, d)``, for coefficients ``(m, q)``."""
        n = coefficients.shape[1]
        products = self._make_products(n)
        products.reshape(self._n_rows, -1)[:, :n] = coefficients
        return self._add_up(products, n)

    def multiply(self, columns: np.ndarray, shift: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Combine the projections, times weights ``(m,)``, while the rows are in the cache."""
        n = columns.shape[1]
        return self._add_up(self._make_products(n), n, columns, shift, weights)

    def _make_products(self, n: int) -> np.ndarray:
        return np.zeros((self._n_rows, -(-n // GROUP), GROUP), np.float32)

    def _add_up(self, products: np.ndarray, n: int, *columns: np.ndarray) -> np.ndarray:
        """Return sums ``(n, d)``, of rows times products that are given or computed."""
        task = self._make_task(products, *columns)

        def add(part: slice) -> np.ndarray:
            sums = np.zeros((products.shape[1], self._X.shape[1], GROUP), np.float32)
            task(part, sums)
            return sums

        total, *others = run_parts(add, self._n_rows)
        for sums in others:
            total += sums
        return np.ascontiguousarray(total.swapaxes(1, 2)).reshape(-1, self._X.shape[1])[:n]

    def _make_task(self, products: np.ndarray, *given: np.ndarray) -> Callable[..., Any]:
        """Return a function that calls the library for a part of the rows.

        ``given`` are columns ``(d, q)``, their shift, and weights of the rows, if products are to
        be computed.
        """
        columns = shift = weights = None
        n_groups, d = products.shape[1], self._X.shape[1]
        if given:
            columns = np.zeros((n_groups * GROUP, d), np.float32)
            shift, weights = np.zeros(n_groups * GROUP, np.float32), given[2]
            columns[: given[0].shape[1]], shift[: len(given[1])] = given[0].T, given[1]
            columns = np.ascontiguousarray(columns.reshape(n_groups, GROUP, d).swapaxes(1, 2))

        def task(part: slice, sums: np.ndarray | None = None) -> None:
            # The arrays are kept alive by this function.
            index = None if self._index is None else self._index[part]
            X = self._X if self._index is not None else self._X[part]
            rows = RowsStruct(
                pixel=self._pixel,
                features=address(X),
                stride=X.strides[0],
                n_features=d,
                n_rows=part.stop - part.start,
                index=index if index is None else address(index),
                n_groups=n_groups,
                columns=columns if columns is None else address(columns),
                shift=shift if shift is None else address(shift),
                weights=weights if weights is None else address(weights[part]),
                products=address(products[part]),
                sums=sums if sums is None else address(sums),
            )
            self._level.multiply_rows(byref(rows))

        return task


def multiply_symmetric(
    strips: Sequence[np.ndarray], columns: np.ndarray, level: Level | None = None
) -> np.ndarray:
    """Return ``(S + S.T) @ columns`` for a lower triangular matrix ``S``, in float64.

    ``strips`` are rows of ``S``, from its first column to the last one on the diagonal.
    """
    n, k = columns.shape
    starts = np.cumsum([0, *map(len, strips)])
    is_native = is_for_library(strips[0])
    multiply = _make_native(level) if is_native else _multiply_sides
    width = GROUP if is_native else k
    groups = np.zeros((-(-k // width), n, width), strips[0].dtype)
    for i in range(len(groups)):
        groups[i, :, : k - i * width] = columns[:, i * width :][:, :width]

    def add(part: int) -> np.ndarray:
        totals = np.zeros(groups.shape, np.float32 if is_native else np.float64)
        for i in range(part, len(strips), N_PARTS):
            rows, before = slice(starts[i], starts[i + 1]), slice(starts[i + 1])
            for j in range(len(groups)):
                group, total = groups[j], totals[j]
                multiply(strips[i], group[before], group[rows], total[rows], total[before])
        return totals

    # The parts, and so the order of the sums, do not depend on the number of threads.
    total = np.zeros(groups.shape)
    for sums in run_all(add, range(min(N_PARTS, len(strips)))):
        total += sums
    return np.concatenate(total, axis=1)[:, :k]


def _multiply_sides(
    X: np.ndarray,
    columns: np.ndarray,
    coefficients: np.ndarray,
    products: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add ``X @ columns`` to products, and ``X.T @ coefficients`` to sums."""
    for block in gen_batches(X.shape[1], TILE):
        tile = X[:, block]
        products += tile @ columns[block]
        sums[block] += tile.T @ coefficients


def _make_native(level: Level | None) -> Callable[..., None]:
    """Return `_multiply_sides` in C++, for ``GROUP`` consecutive columns of float32."""
    library = choice.LIBRARY
    assert library is not None
    level = level or library.levels[0]

    def multiply(X: np.ndarray, *arrays: np.ndarray) -> None:
        columns, coefficients, products, sums = map(address, arrays)
        rows = RowsStruct(
            pixel=library.pixels[X.dtype],
            features=address(X),
            stride=X.strides[0],
            n_features=X.shape[1],
            n_rows=len(X),
            n_groups=1,
            columns=columns,
            coefficients=coefficients,
            products=products,
            sums=sums,
        )
        level.multiply_rows(byref(rows))

    return multiply
