"""Products of features, the largest of the sums, and their Cholesky factors.

Arrays of NumPy have a fast path with one array, in Fortran order: the products are below its
diagonal, and factors are computed in the other half. They are multiplied by the BLAS of SciPy or,
in float32, tile by tile. For arrays of other libraries, the products are a symmetric matrix, which
is never changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh
from sklearn.utils import gen_batches

from sklearn_conv._array_api import Library, is_out_of_memory
from sklearn_conv._ridge import lapack

BLOCK_BYTES = 64 * 2**20
"""Approximate size in float64 of the rows that are added or predicted at once."""

SINGLE_FEATURES = 1024
"""Number of features from which float32 features are multiplied in float32. The products of fewer
features take little time."""

SINGLE_ROWS = 512
"""Number of rows from which float32 features are multiplied in float32. The products of fewer rows
take less time than the access to all sums."""

TILE = 512
"""Number of columns whose products are computed in float32 at once, in the cache."""

TRIANGLE_BLOCK = 256
"""Number of rows and columns that are mirrored at once, in the cache."""


def row_blocks(n_rows: int, row_bytes: int, block_bytes: int) -> Iterator[slice]:
    """Yield slices of consecutive rows, each of about ``block_bytes``."""
    return gen_batches(n_rows, max(1, block_bytes // max(1, row_bytes)))


def is_single(rows: Any) -> bool:
    """Return whether rows are multiplied in float32, unless their spreads are extreme."""
    n_rows, n_features = rows.shape
    is_float32 = rows.dtype == Library.of(rows).xp.float32
    return bool(is_float32 and n_features >= SINGLE_FEATURES and n_rows >= SINGLE_ROWS)


def multiply(left: Any, right: Any, single: bool = False) -> Any:
    """Return ``left @ right``, computed by the library that `add_rows` uses for ``single`` or not.

    NumPy and SciPy may each have a BLAS with threads of its own. After a product, these wait
    busily, and slow down a product or a factor that the other library computes next.
    """
    if single or not isinstance(left, np.ndarray):
        return left @ right
    # The transposed arrays are in Fortran order, so that they are not copied.
    return lapack.gemm(1.0, right.T, left.T).T


def add_rows(gram: Any, rest: Any, rows: Any, shift: Any) -> tuple[Any, Any]:
    """Add the products of centered rows, and of ``shift`` if it is not None.

    Products of NumPy change in place, below the diagonal. ``rest`` is None or, on devices without
    float64, what rounding has taken from the sums; see `_add_exactly`.
    """
    if not isinstance(gram, np.ndarray):
        added = Library.of(gram).xp.astype(rows.T @ rows, gram.dtype, copy=False)
        return _add_exactly(gram, rest, added, shift)
    if rows.dtype == np.float64:
        lapack.syrk(rows.T, gram)
        return gram, None
    upper = gram.T  # in C order
    tile = np.empty((TILE, TILE), np.float32)
    for i in range(0, rows.shape[1], TILE):
        left = rows[:, i : i + TILE].T
        for j in range(i, rows.shape[1], TILE):
            sums = upper[i : i + TILE, j : j + TILE]
            products = tile[: sums.shape[0], : sums.shape[1]]
            np.matmul(left, rows[:, j : j + TILE], out=products)
            sums += products
            sums += np.multiply.outer(shift[i : i + TILE], shift[j : j + TILE])
    return gram, None


def add_products(gram: Any, rest: Any, added: Any, shift: Any) -> tuple[Any, Any]:
    """Add products and those of ``shift``, as `add_rows` does."""
    if not isinstance(gram, np.ndarray):
        return _add_exactly(gram, rest, added, shift)
    gram += added
    lapack.syr(shift, gram)
    return gram, None


def _add_exactly(gram: Any, rest: Any, added: Any, shift: Any) -> tuple[Any, Any]:
    """Return a sum, and what rounding takes from it if ``rest`` is not None.

    Source: D. E. Knuth, "The Art of Computer Programming", volume 2 (1997), section 4.2.2: the
    difference between a rounded sum and the exact sum of two numbers.
    """
    if shift is not None:
        added = added + shift[:, None] * shift[None, :]
    total = gram + added
    if rest is not None:
        seen = total - gram
        rest = rest + ((gram - (total - seen)) + (added - seen))
    return total, rest


def diagonalize(matrix: Any) -> tuple[Any, Any]:
    """Return the eigenvalues and eigenvectors of a symmetric matrix, given its lower triangle."""
    if isinstance(matrix, np.ndarray):  # by the library that `multiply` uses
        return eigh(matrix, driver="evd", overwrite_a=True, check_finite=False)
    return Library.of(matrix).xp.linalg.eigh(matrix)


class Factor(NamedTuple):
    """Cholesky factor of a matrix: the upper triangle for NumPy, else the lower triangle."""

    triangle: Any

    @property
    def smallest_pivot(self) -> float:
        """Smallest square on the diagonal."""
        xp = Library.of(self.triangle).xp
        return float(xp.min(xp.linalg.diagonal(self.triangle) ** 2))

    def solve(self, right: Any) -> Any:
        """Return the inverse of the matrix times ``right`` ``(d, k)``."""
        if not isinstance(self.triangle, np.ndarray):
            return self.back_solve(self.half_solve(right))
        solved = np.array(right, self.triangle.dtype, order="F")
        lapack.potrs(self.triangle, solved)
        return solved

    def half_solve(self, right: Any) -> Any:
        """Return the inverse of the lower factor times ``right``, which may be overwritten."""
        if not isinstance(self.triangle, np.ndarray):
            return Library.of(self.triangle).solve_triangle(self.triangle, right)
        solved = np.require(right, self.triangle.dtype, ["F", "A", "W"])
        lapack.trsm(self.triangle, solved, trans_a=True)
        return solved

    def back_solve(self, right: Any) -> Any:
        """Return the inverse of the upper factor times ``right``."""
        if not isinstance(self.triangle, np.ndarray):
            library = Library.of(self.triangle)
            return library.solve_triangle(self.triangle.T, right, lower=False)
        solved = np.array(right, self.triangle.dtype, order="F")
        lapack.trsm(self.triangle, solved)
        return solved


def factorize(
    matrix: Any,
    diagonal: Any,
    apart: Sequence[int] = (),
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Factor | None:
    """Return the factor of a matrix with this diagonal, or None if it is not positive definite.

    The rows and columns ``apart`` are replaced by zeros beside the diagonal. For NumPy, each factor
    replaces the last one in the upper triangle and the diagonal, and ``transform`` is a function
    that is applied to copies of the elements of the lower triangle, which stay as they are.
    """
    if isinstance(matrix, np.ndarray):
        mirror_lower_triangle(matrix, transform)
        for i in apart:
            matrix[:i, i] = matrix[i, i + 1 :] = 0
        np.fill_diagonal(matrix, diagonal)
        return Factor(matrix) if lapack.potrf(matrix) else None
    library = Library.of(matrix)
    xp = library.xp
    if apart:
        is_linked = library.put(~np.isin(np.arange(matrix.shape[0]), apart))
        matrix = xp.where(is_linked & is_linked[:, None], matrix, xp.zeros_like(matrix))
    is_diagonal = xp.eye(matrix.shape[0], dtype=xp.bool, device=library.device)
    try:
        factor = Factor(xp.linalg.cholesky(xp.where(is_diagonal, diagonal[:, None], matrix)))
    except Exception as error:  # Each library has its own kind of error.
        if is_out_of_memory(error):
            raise
        return None
    return factor if np.isfinite(factor.smallest_pivot) else None  # CuPy raises no error.


def mirror_lower_triangle(
    matrix: np.ndarray, transform: Callable[[np.ndarray], np.ndarray] | None = None
) -> None:
    """Copy the lower triangle to the upper one, in place, transformed if there is a function."""
    for start in range(0, len(matrix), TRIANGLE_BLOCK):
        block = slice(start, start + TRIANGLE_BLOCK)
        for above in range(0, start + 1, TRIANGLE_BLOCK):
            rows = slice(above, above + TRIANGLE_BLOCK)
            values = matrix[block, rows].T
            if transform is not None:
                values = transform(values.copy())
            where = ~np.tri(len(values), dtype=bool) if above == start else True
            np.copyto(matrix[rows, block], values, where=where)


def correlate(gram: Any, scale: Any) -> Any:
    """Return products of scaled features, without the diagonal, in an array of float32."""
    library, d = Library.of(gram), scale.shape[0]
    is_numpy = library.xp is np
    matrix = library.empty((d, d), library.xp.float32).T  # in Fortran order
    for start in range(0, d, TRIANGLE_BLOCK):
        columns = slice(start, min(start + TRIANGLE_BLOCK, d))
        rows = slice(start if is_numpy else 0, d)
        values = gram[rows, columns] / scale[columns] / scale[rows, None]
        matrix[rows, columns] = library.xp.astype(values, library.xp.float32)
    return matrix


def pack(gram: Any) -> Any:
    """Return the elements below the diagonal of products of NumPy, column by column."""
    return gram.T[~np.tri(len(gram), dtype=bool)] if isinstance(gram, np.ndarray) else gram


def unpack(packed: Any, n_features: int) -> Any:
    """Return the products that were packed."""
    if not isinstance(packed, np.ndarray):
        return packed
    gram = np.zeros((n_features, n_features), order="F")
    gram.T[~np.tri(n_features, dtype=bool)] = packed
    return gram
