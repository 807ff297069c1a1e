"""Centered products of features, the largest of the sums."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import blas

from sklearn_conv._ridge.blocks import row_chunks

SINGLE_FEATURES = 1024
"""Number of features from which float32 features are multiplied in float32. The products of fewer
features take little time."""

SINGLE_ROWS = 512
"""Number of rows from which float32 features are multiplied in float32. The products of fewer rows
take less time than the access to all sums."""

SINGLE_RANGE = 1e12
"""Spreads from ``1 / SINGLE_RANGE`` to ``SINGLE_RANGE`` have products in float32 that neither
overflow nor lose digits."""

TILE = 512
"""Number of columns whose products are computed in float32 at once, in the cache."""


class CenteredRows(NamedTuple):
    """Rows that are ready to be multiplied."""

    rows: np.ndarray
    """Centered rows, multiplied by the square root of their weight: ``(b, d)`` in float32, or
    ``(b + 1, d)`` in float64, the last of which is ``shift``."""
    squares: np.ndarray
    """Sum of the squares of each feature ``(d,)``."""
    shift: np.ndarray
    """Difference of the means ``(d,)``, which is one more row."""


def is_single(rows: np.ndarray) -> bool:
    """Return whether rows are multiplied in float32, unless their spreads are extreme."""
    n_rows, n_features = rows.shape
    return rows.dtype == np.float32 and n_features >= SINGLE_FEATURES and n_rows >= SINGLE_ROWS


def multiply_scipy(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return ``left @ right`` for arrays in C order, computed by the BLAS of SciPy.

    NumPy and SciPy may each have a BLAS with threads of its own. After a product, these wait
    busily, and slow down a product or a factor that the other library computes next.
    """
    (gemm,) = blas.get_blas_funcs(("gemm",), (left, right))
    # The transposed arrays are in Fortran order, so that they are not copied.
    return gemm(1.0, right.T, left.T).T


def multiply(left: np.ndarray, right: np.ndarray, single: bool) -> np.ndarray:
    """Return ``left @ right`` by the library that `add_products` uses for ``single`` or not."""
    return left @ right if single else multiply_scipy(left, right)


def center_rows(
    rows: np.ndarray, mean: np.ndarray, weights: np.ndarray, shift: np.ndarray
) -> CenteredRows:
    """Center rows in float64, and multiply them by the square roots of their weights."""
    single = is_single(rows)
    centered = np.empty(
        (len(rows) + (not single), rows.shape[1]), np.float32 if single else np.float64
    )
    squares = np.zeros(len(mean))
    is_weighted = bool((weights != 1).any())
    for chunk in row_chunks(rows):
        part = rows[chunk] - mean
        if is_weighted:
            part *= np.sqrt(weights[chunk, np.newaxis])
        squares += np.einsum("nd,nd->d", part, part)
        centered[: len(rows)][chunk] = part
    if single:
        spreads = np.sqrt(squares[squares > 0] / len(rows))
        if spreads.size and not 1 / SINGLE_RANGE < spreads.min() <= spreads.max() < SINGLE_RANGE:
            return center_rows(rows.astype(np.float64), mean, weights, shift)
    else:
        centered[-1] = shift
    return CenteredRows(centered, squares + np.square(shift), shift)


def add_products(gram: np.ndarray, squares: np.ndarray, added: CenteredRows) -> np.ndarray:
    """Add the products of rows to those below the diagonal, in place; return the new diagonal."""
    rows = added.rows
    if rows.dtype == np.float64:
        np.fill_diagonal(gram, squares)
        blas.dsyrk(1.0, rows.T, beta=1.0, c=gram, lower=1, overwrite_c=1)
        return gram.diagonal().copy()
    upper = gram.T  # in C order
    tile = np.empty((TILE, TILE), np.float32)
    for i in range(0, rows.shape[1], TILE):
        left = rows[:, i : i + TILE].T
        for j in range(i, rows.shape[1], TILE):
            sums = upper[i : i + TILE, j : j + TILE]
            products = tile[: sums.shape[0], : sums.shape[1]]
            np.matmul(left, rows[:, j : j + TILE], out=products)
            sums += products
            sums += np.multiply.outer(added.shift[i : i + TILE], added.shift[j : j + TILE])
    return squares + added.squares


def pack(gram: np.ndarray) -> np.ndarray:
    """Return the elements below the diagonal, column by column."""
    return np.concatenate([gram[i + 1 :, i] for i in range(len(gram))])


def unpack(packed: np.ndarray, n_features: int) -> np.ndarray:
    """Return a matrix with the packed elements below the diagonal."""
    gram = np.zeros((n_features, n_features), order="F")
    start = 0
    for i in range(n_features):
        length = n_features - i - 1
        gram[i + 1 :, i] = packed[start : start + length]
        start += length
    return gram
