"""Solve ridge regression with a Gaussian kernel; choose gamma and alpha by leave-one-out errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

from sklearn_conv._ridge.products import multiply, row_blocks
from sklearn_conv._validation import note_if_memory_is_short

N_SAMPLE = 2_000
"""Number of rows whose leave-one-out errors are computed."""

N_SEARCH = 4_000
"""Number of landmarks up to which all of them are used for the choice of gamma."""

BLOCK_BYTES = 32 * 2**20
"""Approximate size of the kernel values or the rows that are computed at once."""

REMEDY = "The kernel values of the landmarks need this memory; decrease n_landmarks."


class RBFSolution(NamedTuple):
    """Solution for one gamma and one alpha; k is the number of targets."""

    gamma: float
    """Coefficient of the squared distances in the kernel."""
    alpha: float
    score: float
    """Leave-one-out score."""
    dual: np.ndarray
    """Coefficients ``(m, k)`` of the landmarks."""


Score = Callable[[np.ndarray, np.ndarray], float]
"""Return a score from leave-one-out errors and targets, both ``(n, k)``."""


def score_squares(errors: np.ndarray, targets: np.ndarray) -> float:
    """Return minus the mean squared error."""
    return -float(np.square(errors).mean())


def square_rows(rows: np.ndarray) -> np.ndarray:
    """Return the squared norm of each row ``(n,)``; raise ValueError if the squares overflow."""
    squares = np.einsum("nd,nd->n", rows, rows)
    # A squared distance is at most twice the sum of both squared norms.
    if squares.size and not squares.max() < np.finfo(rows.dtype).max / 8:
        raise ValueError(
            f"The squares of some features overflow {rows.dtype}; divide the features by their "
            "standard deviations."
        )
    return squares


def squared_distances(
    rows: np.ndarray, squares: np.ndarray, others: np.ndarray, other_squares: np.ndarray
) -> np.ndarray:
    """Return the squared distances ``(n, m)`` between rows whose squared norms are known."""
    (gemm,) = blas.get_blas_funcs(("gemm",), (rows, others))
    distances = gemm(-2.0, others.T, rows.T, trans_a=1).T
    distances += squares[:, np.newaxis]
    distances += other_squares
    return np.maximum(distances, 0, out=distances)


def kernel_values(distances: np.ndarray, gamma: float) -> np.ndarray:
    """Return the kernel values for squared distances, which are overwritten."""
    distances *= -min(gamma, float(np.finfo(distances.dtype).max))  # not infinity * 0
    return np.exp(distances, out=distances)


def median_distance(rows: np.ndarray) -> float:
    """Return the median of the positive squared distances between rows, or 1 if there are none."""
    squares = square_rows(rows)
    distances = squared_distances(rows, squares, rows, squares)[np.tri(len(rows), k=-1, dtype=bool)]
    # Rounding makes the distances of equal rows slightly larger than zero.
    distances = distances[distances > 8 * np.finfo(rows.dtype).eps * squares.max(initial=0)]
    return float(np.median(distances)) if len(distances) else 1.0


@np.errstate(all="ignore")
def predict_rows(
    rows: np.ndarray, center: np.ndarray, landmarks: np.ndarray, gamma: float, dual: np.ndarray
) -> np.ndarray:
    """Return the predictions ``(n, k)`` in float64; only the landmarks are centered already."""
    predicted = np.empty((len(rows), dual.shape[1]))
    squares = square_rows(landmarks)
    largest = np.abs(dual).max() or 1.0  # Divided by it, dual fits into float32.
    weights = (dual / largest).astype(landmarks.dtype)
    row_bytes = landmarks.itemsize * max(landmarks.shape)
    for block in row_blocks(len(rows), row_bytes, BLOCK_BYTES):
        centered = rows[block] - center
        distances = squared_distances(centered, square_rows(centered), landmarks, squares)
        predicted[block] = multiply(kernel_values(distances, gamma), weights)
    return predicted * largest


def solve_exactly(
    landmarks: np.ndarray,
    targets: np.ndarray,
    gammas: Sequence[float],
    alphas: Sequence[float],
    score: Score = score_squares,
) -> RBFSolution:
    """Return the solution with the best leave-one-out score; all rows are landmarks.

    One array is needed. Its upper triangle contains the squared distances, from which the kernel is
    computed into the lower triangle and the diagonal. There it is replaced by its Cholesky factor.

    The leave-one-out error of a row is its dual coefficient, divided by its element on the diagonal
    of the inverse of ``K + alpha * I``. For the last rows, these elements depend on the last rows
    of the factor only, so that errors of a sample of rows take little time.

    Source: R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007).
    """
    n_rows = len(landmarks)
    (solve,) = lapack.get_lapack_funcs(("potrs",), (landmarks,))
    sample = slice(max(0, n_rows - N_SAMPLE), n_rows)
    squares = square_rows(landmarks)
    with note_if_memory_is_short(REMEDY):
        matrix = np.empty((n_rows, n_rows), landmarks.dtype, order="F")
    blocks = [*row_blocks(n_rows, n_rows * landmarks.itemsize, BLOCK_BYTES)]
    for block in blocks:
        matrix[: block.stop, block] = squared_distances(
            landmarks[: block.stop], squares[: block.stop], landmarks[block], squares[block]
        )
    best: RBFSolution | None = None
    for gamma in gammas:
        for alpha in alphas:
            for block in blocks:
                _fill_lower(matrix, block, gamma)
            np.fill_diagonal(matrix, 1 + alpha)
            factor = _factorize(matrix)
            if factor is None:
                continue
            dual, _ = solve(factor, targets, lower=1)
            diagonal = _inverse_diagonal(factor[sample, sample])
            errors = dual[sample].astype(np.float64) / diagonal[:, np.newaxis]
            found = _finite(score(errors, targets[sample]))
            if best is None or found > best.score:
                best = RBFSolution(gamma, alpha, found, dual)
    return _require(best, alphas, landmarks.dtype)


def solve_with_landmarks(
    rows: np.ndarray,
    targets: np.ndarray,
    sample: np.ndarray,
    center: np.ndarray,
    landmarks: np.ndarray,
    gamma: float,
    alphas: Sequence[float],
    score: Score = score_squares,
) -> RBFSolution:
    """Return the solution for which the coefficients of all rows but the landmarks are zero.

    With the Cholesky factor ``L`` of the kernel ``K`` of the landmarks, the features of a row are
    ``inv(L) k``, where ``k`` are its kernel values. Ridge regression on these features is solved.
    The kernel values of all rows are computed block by block. ``sample`` contains the numbers of
    the rows that choose alpha by their leave-one-out errors.

    Source: C. K. I. Williams and M. Seeger, "Using the Nyström Method to Speed Up Kernel Machines"
    (2001).
    """
    n_landmarks, dtype = len(landmarks), landmarks.dtype
    squares = square_rows(landmarks)
    (solve_triangle,) = blas.get_blas_funcs(("trsm",), (landmarks,))
    (gemm,) = blas.get_blas_funcs(("gemm",), (landmarks,))
    (solve,) = lapack.get_lapack_funcs(("potrs",), (landmarks,))
    with note_if_memory_is_short(REMEDY):
        kernel, products = np.zeros((2, n_landmarks, n_landmarks), dtype).transpose(0, 2, 1)
    blocks = [*row_blocks(n_landmarks, n_landmarks * dtype.itemsize, BLOCK_BYTES)]
    for block in blocks:
        distances = squared_distances(landmarks, squares, landmarks[block], squares[block])
        kernel[:, block] = kernel_values(distances, gamma)
    # With less, rounding would make the matrix of similar landmarks indefinite.
    jitter = n_landmarks * np.finfo(dtype).eps
    np.fill_diagonal(kernel, 1 + jitter)
    factor = _factorize(kernel)
    if factor is None:
        raise ValueError(
            f"The landmarks are so similar that {dtype} cannot distinguish them; choose a larger "
            "gamma or fewer n_landmarks, or cast the features to float64."
        )

    def features(chosen: np.ndarray) -> np.ndarray:
        """Return the features ``(n_landmarks, n)`` of some rows."""
        centered = chosen - center
        distances = squared_distances(centered, square_rows(centered), landmarks, squares)
        values = kernel_values(distances, gamma).T  # in Fortran order
        return solve_triangle(1.0, factor, values, lower=1, overwrite_b=1)

    right = np.zeros((n_landmarks, targets.shape[1]))
    for block in row_blocks(len(rows), dtype.itemsize * max(landmarks.shape), BLOCK_BYTES):
        columns = features(rows[block])
        _add_products(products, columns)
        right += gemm(1.0, columns, targets[block])
    kept = features(rows[sample])
    diagonal = products.diagonal().copy()
    best: RBFSolution | None = None
    for alpha in alphas:
        for block in blocks:
            _copy_lower(products, block)
        np.fill_diagonal(products, diagonal + dtype.type(alpha))
        ridge = _factorize(products)
        if ridge is None:
            continue
        weights, _ = solve(ridge, right.astype(dtype), lower=1)  # (m, k)
        solved = solve_triangle(1.0, ridge, kept, lower=1)
        leverages = np.einsum("mn,mn->n", solved, solved, dtype=np.float64)
        errors = targets[sample] - gemm(1.0, kept, weights, trans_a=1)
        errors = errors / (1 - leverages)[:, np.newaxis]
        found = _finite(score(errors, targets[sample]))
        if best is None or found > best.score:
            dual = solve_triangle(1.0, factor, weights, lower=1, trans_a=1)
            best = RBFSolution(gamma, alpha, found, dual)
    return _require(best, alphas, dtype)


def _fill_lower(matrix: np.ndarray, block: slice, gamma: float) -> None:
    """Compute columns of the kernel, below the diagonal, from the distances above it."""
    start, stop = block.start, min(block.stop, len(matrix))
    corner = matrix[start:stop, start:stop]
    values = kernel_values(corner.T.copy(), gamma)
    np.copyto(corner, values, where=np.tri(len(corner), k=-1, dtype=bool))
    matrix[stop:, start:stop] = kernel_values(matrix[start:stop, stop:].T.copy(), gamma)


def _copy_lower(matrix: np.ndarray, block: slice) -> None:
    """Copy columns above the diagonal to rows below it."""
    start, stop = block.start, min(block.stop, len(matrix))
    corner = matrix[start:stop, start:stop]
    np.copyto(corner, corner.T.copy(), where=np.tri(len(corner), k=-1, dtype=bool))
    matrix[stop:, start:stop] = matrix[start:stop, stop:].T


def _add_products(products: np.ndarray, columns: np.ndarray) -> None:
    """Add ``columns @ columns.T`` to the upper triangle and the diagonal."""
    (add,) = blas.get_blas_funcs(("syrk",), (products,))
    add(1.0, columns, beta=1.0, c=products, overwrite_c=1, lower=0)


def _factorize(matrix: np.ndarray) -> np.ndarray | None:
    """Replace the lower triangle and the diagonal by their Cholesky factor, if there is one."""
    (factorize,) = lapack.get_lapack_funcs(("potrf",), (matrix,))
    factor, failed = factorize(matrix, lower=1, clean=0, overwrite_a=1)
    return None if failed else factor


def _finite(score: float) -> float:
    """Return a score, or minus infinity if rounding has made errors infinite."""
    return score if np.isfinite(score) else -np.inf


def _require(best: RBFSolution | None, alphas: Sequence[float], dtype: np.dtype) -> RBFSolution:
    """Return the choice; raise ValueError if no matrix could be factorized."""
    if best is None:
        remedy = " or cast the features to float64" if dtype == np.float32 else ""
        raise ValueError(
            f"alpha={max(alphas)} is too small for these rows in {dtype}, because some of them are "
            f"nearly equal; choose a larger alpha{remedy}."
        )
    return best


def _inverse_diagonal(factor: np.ndarray) -> np.ndarray:
    """Return the diagonal of the inverse of a matrix from its Cholesky factor."""
    (invert,) = lapack.get_lapack_funcs(("trtri",), (factor,))
    inverse, _ = invert(factor, lower=1)
    inverse = np.tril(inverse)
    return np.einsum("ij,ij->j", inverse, inverse, dtype=np.float64)
