"""Solve ridge regression with a Gaussian kernel; choose gamma and alpha by leave-one-out errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from sklearn_conv._array_api import as_memory_error
from sklearn_conv._ridge import lapack
from sklearn_conv._ridge.products import Factor, factorize, multiply, row_blocks

N_SAMPLE = 2_000
"""Number of rows whose leave-one-out errors are computed."""

N_SEARCH = 4_000
"""Number of landmarks up to which all of them are used for the choice of gamma."""

N_MEAN = 256
"""Number of landmarks whose mean kernel value is that of all of them, approximately."""

N_FACTORS = 15_000
"""Number of landmarks up to which Cholesky factors of their kernel values are computed."""

BLOCK_BYTES = 128 * 2**20
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
    errors: np.ndarray
    """Leave-one-out errors ``(n, k)``."""
    kept: np.ndarray
    """Targets ``(n, k)`` of the rows that were left out."""


class Space(NamedTuple):
    """Coordinates of the landmarks, and so those in which distances are measured."""

    center: np.ndarray
    """Row that is subtracted, for numerical accuracy only."""
    components: np.ndarray | None
    """Orthonormal directions ``(k, d)``, or None for all features."""

    def place(self, rows: np.ndarray) -> np.ndarray:
        """Return the coordinates of rows ``(n, d)``."""
        return project(rows - self.center, self.components)


def project(centered: np.ndarray, components: np.ndarray | None) -> np.ndarray:
    """Return the coordinates of centered rows ``(n, d)``, along components if there are any."""
    if components is None:
        return centered
    return lapack.gemm(1.0, components.T, centered.T, trans_a=True).T


Score = Callable[[np.ndarray, np.ndarray], float]
"""Return a score, which is not NaN, from leave-one-out errors and targets, both ``(n, k)``."""


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
    distances = lapack.gemm(-2.0, others.T, rows.T, trans_a=True).T
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
    rows: np.ndarray, space: Space, landmarks: np.ndarray, gamma: float, dual: np.ndarray
) -> np.ndarray:
    """Return the predictions ``(n, k)`` in float64; only the landmarks are coordinates already."""
    predicted = np.empty((len(rows), dual.shape[1]))
    squares = square_rows(landmarks)
    largest = np.abs(dual).max() or 1.0  # Divided by it, dual fits into float32.
    weights = (dual / largest).astype(landmarks.dtype)
    row_bytes = landmarks.itemsize * max(*landmarks.shape, rows.shape[1])
    # The constant makes no difference, except that rounding is smaller where values are.
    constant = kernel_mean(landmarks, gamma)
    rest = constant * weights.sum(axis=0, dtype=np.float64)
    for block in row_blocks(len(rows), row_bytes, BLOCK_BYTES):
        placed = space.place(rows[block])
        distances = squared_distances(placed, square_rows(placed), landmarks, squares)
        values = kernel_values(distances, gamma)
        values -= constant
        predicted[block] = multiply(values, weights) + rest
    return predicted * largest


def kernel_mean(landmarks: np.ndarray, gamma: float) -> np.floating:
    """Return the mean of the kernel values between the first landmarks."""
    first = landmarks[:N_MEAN]
    return landmark_kernel(first, gamma).mean().astype(landmarks.dtype)


def solve_exactly(
    landmarks: np.ndarray,
    targets: np.ndarray,
    gammas: Sequence[float],
    alphas: Sequence[float],
    score: Score,
) -> RBFSolution:
    """Return the solution with the best leave-one-out score; all rows are landmarks.

    One array is needed. Its lower triangle contains the squared distances, from which the kernel is
    computed into the upper triangle. There it is replaced by its Cholesky factor.

    The leave-one-out error of a row is its dual coefficient, divided by its element on the diagonal
    of the inverse of ``K + alpha * I``. For the last rows, these elements depend on the last rows
    of the factor only, so that errors of a sample of rows take little time.

    Source: R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007).
    """
    n_rows = len(landmarks)
    sample = slice(max(0, n_rows - N_SAMPLE), n_rows)
    squares = square_rows(landmarks)
    with as_memory_error(REMEDY):
        matrix = np.zeros((n_rows, n_rows), landmarks.dtype, order="F")
    for block in row_blocks(n_rows, n_rows * landmarks.itemsize, BLOCK_BYTES):
        below = slice(block.start, n_rows)
        matrix[below, block] = squared_distances(
            landmarks[below], squares[below], landmarks[block], squares[block]
        )
    best: RBFSolution | None = None
    for gamma in gammas:
        for alpha in alphas:
            factor = factorize(matrix, 1 + alpha, transform=partial(kernel_values, gamma=gamma))
            if factor is None:
                continue
            dual = factor.solve(targets)
            diagonal = _inverse_diagonal(factor.triangle[sample, sample])
            errors = dual[sample].astype(np.float64) / diagonal[:, np.newaxis]
            found = score(errors, targets[sample])
            if best is None or found > best.score:
                best = RBFSolution(gamma, alpha, found, dual, errors, targets[sample])
    return _require(best, alphas, landmarks.dtype)


def solve_with_landmarks(
    rows: np.ndarray,
    targets: np.ndarray,
    sample: np.ndarray,
    center: np.ndarray,
    landmarks: np.ndarray,
    gamma: float,
    alphas: Sequence[float],
    score: Score,
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
    with as_memory_error(REMEDY):
        kernel = landmark_kernel(landmarks, gamma)
        products = np.zeros((n_landmarks, n_landmarks), dtype, order="F")
    # With less, rounding would make the matrix of similar landmarks indefinite.
    jitter = n_landmarks * np.finfo(dtype).eps
    factor = factorize(kernel, 1 + jitter)
    if factor is None:
        raise too_similar(dtype)

    def features(chosen: np.ndarray) -> np.ndarray:
        """Return the features ``(n_landmarks, n)`` of some rows."""
        centered = chosen - center
        distances = squared_distances(centered, square_rows(centered), landmarks, squares)
        return factor.half_solve(kernel_values(distances, gamma).T)  # in Fortran order

    right = np.zeros((n_landmarks, targets.shape[1]))
    for block in row_blocks(len(rows), dtype.itemsize * max(landmarks.shape), BLOCK_BYTES):
        columns = features(rows[block])
        lapack.syrk(columns, products)
        right += lapack.gemm(1.0, columns, targets[block].astype(dtype))
    kept = features(rows[sample])
    diagonal = products.diagonal().copy()
    best: RBFSolution | None = None
    for alpha in alphas:
        ridge = factorize(products, diagonal + dtype.type(alpha))
        if ridge is None:
            continue
        weights = ridge.solve(right.astype(dtype))  # (m, k)
        solved = ridge.half_solve(kept.copy(order="F"))
        leverages = np.einsum("mn,mn->n", solved, solved, dtype=np.float64)
        errors = targets[sample] - lapack.gemm(1.0, kept, weights, trans_a=True)
        errors = errors / (1 - leverages)[:, np.newaxis]
        found = score(errors, targets[sample])
        if best is None or found > best.score:
            dual = factor.back_solve(weights)
            best = RBFSolution(gamma, alpha, found, dual, errors, targets[sample])
    return _require(best, alphas, dtype)


class LandmarkLeverages(NamedTuple):
    """Squared distances of rows in the space of the kernel from all that landmarks explain."""

    space: Space
    landmarks: np.ndarray
    """Coordinates of the landmarks."""
    gamma: float
    factor: Factor
    known: np.ndarray
    """Sorted distances of landmarks that are left out."""

    def rank(self, rows: np.ndarray) -> np.ndarray:
        """Return the fraction ``(n,)`` of the landmarks whose distance is smaller."""
        measured, squares = np.empty(len(rows)), square_rows(self.landmarks)
        row_bytes = self.landmarks.itemsize * max(*self.landmarks.shape, rows.shape[1])
        for block in row_blocks(len(rows), row_bytes, BLOCK_BYTES):
            placed = self.space.place(rows[block])
            distances = squared_distances(placed, square_rows(placed), self.landmarks, squares)
            solved = self.factor.half_solve(kernel_values(distances, self.gamma).T)
            measured[block] = 1 - np.einsum("mn,mn->n", solved, solved, dtype=np.float64)
        return np.searchsorted(self.known, measured) / len(self.known)


def measure_leverages(
    space: Space, landmarks: np.ndarray, gamma: float, alpha: float
) -> LandmarkLeverages:
    """Return the leverages for coordinates of landmarks; up to `N_SAMPLE` of them are left out.

    The kernel value of a row with itself is 1. The landmarks explain ``k @ inv(K + alpha * I) @ k``
    of it, where ``k`` are its kernel values. For a landmark that is left out, the rest is 1 divided
    by an element of the diagonal of this inverse, minus alpha.
    """
    n_landmarks, dtype = len(landmarks), landmarks.dtype
    sample = slice(max(0, n_landmarks - N_SAMPLE), n_landmarks)
    with as_memory_error(REMEDY):
        kernel = landmark_kernel(landmarks, gamma)
    alpha = max(alpha, n_landmarks * float(np.finfo(dtype).eps))
    factor = factorize(kernel, 1 + alpha)
    if factor is None:
        raise too_similar(dtype)
    known = np.sort(1 / _inverse_diagonal(factor.triangle[sample, sample]) - alpha)
    return LandmarkLeverages(space, landmarks, gamma, factor, known)


def landmark_kernel(landmarks: np.ndarray, gamma: float) -> np.ndarray:
    """Return the kernel values between landmarks ``(m, m)``, in Fortran order."""
    n_landmarks, squares = len(landmarks), square_rows(landmarks)
    kernel = np.zeros((n_landmarks, n_landmarks), landmarks.dtype, order="F")
    for block in row_blocks(n_landmarks, n_landmarks * landmarks.itemsize, BLOCK_BYTES):
        distances = squared_distances(landmarks, squares, landmarks[block], squares[block])
        kernel[:, block] = kernel_values(distances, gamma)
    return kernel


def too_similar(dtype: np.dtype) -> ValueError:
    """Return the error for landmarks whose kernel values are not positive definite."""
    return ValueError(
        f"The landmarks are so similar that {dtype} cannot distinguish them; choose a larger "
        "gamma or fewer n_landmarks, or cast the features to float64."
    )


def _require(best: RBFSolution | None, alphas: Sequence[float], dtype: np.dtype) -> RBFSolution:
    """Return the choice; raise ValueError if no matrix could be factorized."""
    if best is None:
        remedy = " or cast the features to float64" if dtype == np.float32 else ""
        raise ValueError(
            f"alpha={max(alphas)} is too small for these rows in {dtype}, because some of them are "
            f"nearly equal; choose a larger alpha{remedy}."
        )
    return best


def _inverse_diagonal(triangle: np.ndarray) -> np.ndarray:
    """Return the diagonal of the inverse of a matrix from its upper Cholesky factor."""
    inverse = np.array(triangle, order="F")
    lapack.trtri(inverse)
    inverse = np.triu(inverse)
    return np.einsum("ij,ij->i", inverse, inverse, dtype=np.float64)
