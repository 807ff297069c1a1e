"""Ridge regression with a Gaussian kernel for more landmarks than are factorized.

Half of the kernel values are stored, and multiplied by the directions of conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches
from sklearn.utils.extmath import randomized_range_finder

from sklearn_conv._array_api import as_memory_error
from sklearn_conv._ridge import lapack
from sklearn_conv._ridge.all_rows import run_all
from sklearn_conv._ridge.iteration import bound_limit
from sklearn_conv._ridge.problem import too_small
from sklearn_conv._ridge.products import Factor, factorize, mirror_lower_triangle
from sklearn_conv._ridge.rbf_solving import (
    N_SAMPLE,
    REMEDY,
    RBFSolution,
    Score,
    kernel_mean,
    kernel_values,
    landmark_kernel,
    project,
    square_rows,
    squared_distances,
    too_similar,
)
from sklearn_conv._ridge.row_products import NumpyRows, multiply_symmetric
from sklearn_conv._warnings import warn

N_COLUMNS = 4_096
"""Number of landmarks whose kernel values approximate all of them."""

HELD_OUT = 10
"""Of few rows, one in so many is held out in order to choose alpha, of more `N_SAMPLE`."""

NEAR, ROUGH, FINE = 0.1, 0.03, 0.002
"""Lengths of residuals, relative to the targets: below the first, scores tend to their limits; with
the second, alphas are compared; the last is that of the result. The errors of the decisions for all
rows are not larger."""

N_COMPONENTS = 2_048
"""Number of principal components of the landmarks that replace their features, if these are more
than twice and at most eight times as many. Of more features, so few seldom contain enough."""

N_ROWS = 16_384
"""Number of landmarks by which the components are found."""

CONTAINED = 0.99
"""Smallest fraction of the variance of other landmarks that the components contain."""

MAX_PASSES = 150
"""Number of passes over the kernel after which the iteration ends with a warning."""

STALLED = 10
"""Number of passes without a smaller error after which the iteration is limited by rounding."""

STRIP = 512
"""Number of rows of the kernel that are stored together; `N_COLUMNS` is a multiple of it."""


def solve_by_iteration(
    landmarks: np.ndarray,
    targets: np.ndarray,
    gamma: float,
    alphas: Sequence[float],
    score: Score,
) -> RBFSolution:
    """Return the solution with the best score; all rows are landmarks.

    The last rows are held out while alpha is chosen, and the errors are theirs.
    """
    with as_memory_error(REMEDY):
        iteration = Iteration(landmarks, targets, gamma)
    kept = targets[iteration.held_out]

    def score_errors(errors: np.ndarray) -> np.ndarray:
        return np.array([score(errors, kept)])

    alpha, state = iteration.compare(alphas, score_errors)
    errors = iteration.find_errors(state)
    dual = iteration.finish(alpha, state)
    return RBFSolution(gamma, alpha, float(score_errors(errors)[0]), dual, errors, kept)


def find_components(landmarks: np.ndarray, generator: np.random.RandomState) -> np.ndarray | None:
    """Return directions ``(k, d)`` that replace the features of centered landmarks, or None.

    Source: N. Halko, P.-G. Martinsson and J. A. Tropp, "Finding Structure with Randomness:
    Probabilistic Algorithms for Constructing Approximate Matrix Decompositions" (2011).
    """
    n_features = landmarks.shape[1]
    if not 2 * N_COMPONENTS < n_features <= 8 * N_COMPONENTS:
        return None
    rows, others = np.split(landmarks[: N_ROWS + N_SAMPLE], [-N_SAMPLE])
    with as_memory_error(REMEDY):
        products = np.zeros((n_features, n_features), landmarks.dtype, order="F")
    for block in gen_batches(len(rows), N_COLUMNS):
        lapack.syrk(rows[block].T, products)
    total = products.trace()
    if not 0 < total < np.inf:
        return None
    products /= total
    mirror_lower_triangle(products)
    columns = randomized_range_finder(
        products,
        size=N_COMPONENTS,
        n_iter=1,
        power_iteration_normalizer="QR",
        random_state=generator,
    )
    components = np.ascontiguousarray(columns.T)
    contained = np.square(project(others, components)).sum() / np.square(others).sum()
    return components if contained >= CONTAINED else None


class Kernel:
    """Kernel values between all pairs of rows, stored on one side of the diagonal; half of it.

    A constant is subtracted from them, because otherwise rounding in float32 is dominated by the
    sum of the columns that are multiplied.
    """

    def __init__(self, rows: np.ndarray, gamma: float) -> None:
        squares = square_rows(rows)
        self._strips = [*gen_batches(len(rows), STRIP)]

        def compute(strip: slice) -> np.ndarray:
            before = slice(strip.stop)
            values = kernel_values(
                squared_distances(rows[strip], squares[strip], rows[before], squares[before]), gamma
            )
            values -= self._constant
            diagonal = values[:, strip]
            diagonal *= np.tri(len(diagonal), dtype=values.dtype)
            np.fill_diagonal(diagonal, diagonal.diagonal() / 2)
            return values

        self._constant = kernel_mean(rows, gamma)
        self._values = run_all(compute, self._strips)

    def multiply(self, columns: np.ndarray) -> np.ndarray:
        """Return the kernel times columns ``(n, k)``, in float64."""
        products = multiply_symmetric(self._values, columns)
        return products + self._constant * columns.sum(axis=0)

    def find_columns(self, first: np.ndarray) -> np.ndarray:
        """Return the columns of the first rows, whose kernel values with each other are given."""
        n = len(first)
        rest = [values[:, :n] + self._constant for values in self._values[-(-n // STRIP) :]]
        return np.concatenate([first.astype(self._constant.dtype), *rest])


class Nystrom:
    """Approximate inverse of ``K + alpha`` for the kernel ``K``.

    ``K`` is approximated by ``F @ F.T`` for features ``F``, which explain the kernel values of the
    first rows, and the rest of ``K`` by the mean of its eigenvalues.

    Source: Z. Frangella, J. A. Tropp and M. Udell, "Randomized Nyström Preconditioning" (2023).
    """

    def __init__(self, rows: np.ndarray, gamma: float, kernel: Kernel, n_rows: int) -> None:
        """Make an inverse for the first rows, until `include` is called."""
        first, dtype = rows[:N_COLUMNS], rows.dtype
        values, n = landmark_kernel(first.astype(np.float64), gamma), len(first)
        features = kernel.find_columns(values)
        factor = factorize(values, 1 + n * float(np.finfo(dtype).eps))
        if factor is None:
            raise too_similar(dtype)
        factor = Factor(factor.triangle.astype(dtype, order="F"))
        for block in gen_batches(len(rows), N_COLUMNS):
            features[block] = factor.half_solve(features[block].T.copy("F")).T
        # In float32, rounding in the largest directions would be as large as what is left of them.
        self._rows = NumpyRows(lambda block: features[block].astype(np.float64), len(rows))
        self._features, self._n_rows = features, 0
        self._products, self._squares = np.zeros((n, n), order="F"), np.zeros(n)
        self.include(n_rows)

    def include(self, n_rows: int) -> None:
        """Include more rows, so that there are ``n_rows``."""
        np.fill_diagonal(self._products, self._squares)  # Factors have replaced it.
        added = self._features[self._n_rows : n_rows]
        for block in gen_batches(len(added), N_COLUMNS):
            lapack.syrk(added[block].T, self._products)
        self._n_rows, self._squares = n_rows, self._products.diagonal().copy()
        self._rest = 1 - self._squares.sum() / n_rows  # The diagonal of the kernel is 1.

    def make_inverse(self, alpha: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that multiplies columns ``(n, k)`` by the inverse."""
        shift = max(alpha, self._rest)
        factor = factorize(self._products, self._squares + shift)
        if factor is None:
            raise too_small(alpha)

        def multiply(columns: np.ndarray) -> np.ndarray:
            solved = factor.solve(self._rows.combine(columns).T)
            return (columns - self._rows.project(solved, np.zeros(1))) / shift

        return multiply


class State(NamedTuple):
    """Approximate dual coefficients ``(n, k)``, and what they predict for all rows."""

    dual: np.ndarray
    fitted: np.ndarray


class Iteration:
    """Solution of ``(K + alpha) W = T`` by conjugate gradients, for all targets at once.

    Sources: M. R. Hestenes and E. Stiefel, "Methods of Conjugate Gradients for Solving Linear
    Systems" (1952); Y. Notay, "Flexible Conjugate Gradients" (2000), because of the rounding in the
    approximate inverse.
    """

    def __init__(self, landmarks: np.ndarray, targets: np.ndarray, gamma: float) -> None:
        n_rows = len(landmarks)
        n_held_out = min(N_SAMPLE, n_rows // HELD_OUT)
        self.held_out = slice(n_rows - n_held_out, n_rows)
        self.kernel = Kernel(landmarks, gamma)
        self.nystrom = Nystrom(landmarks, gamma, self.kernel, self.held_out.start)
        self.targets = targets.astype(np.float64)
        self.lengths = np.linalg.norm(self.targets, axis=0)
        self.lengths[self.lengths == 0] = 1
        self.n_passes = 0

    def compare(
        self, alphas: Sequence[float], score: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[float, State]:
        """Return the best alpha without the rows held out, and the solution for it.

        Smaller and smaller alphas are tried until the score gets worse.
        """
        state = State(np.zeros_like(self.targets), np.zeros_like(self.targets))
        best, best_score = (max(alphas), state), np.full(1, -np.inf)
        for alpha in sorted({*alphas}, reverse=True):
            scores: list[np.ndarray] = []
            for found, error in self._improve(state, alpha, holds_out=True):
                state = found
                scores.append(score(self.find_errors(state)))
                is_near = error < NEAR and len(scores) > 2
                if error < ROUGH or (is_near and bound_limit(*scores[-3:]) < best_score):
                    break
            if scores[-1] < best_score:
                break
            best, best_score = (alpha, state), scores[-1]
        return best

    def finish(self, alpha: float, state: State) -> np.ndarray:
        """Return the dual coefficients for all rows."""
        self.nystrom.include(len(self.targets))
        for found, error in self._improve(state, alpha, holds_out=False):
            state = found
            if error < FINE:
                break
        else:
            warn(
                f"The ridge regression on {len(self.targets):,} landmarks is not accurate after "
                f"{self.n_passes} passes over the kernel; choose larger alphas.",
                ConvergenceWarning,
            )
        return state.dual

    def find_errors(self, state: State) -> np.ndarray:
        """Return the errors ``(m, k)`` of the rows held out."""
        return (self.targets - state.fitted)[self.held_out]

    def _improve(
        self, state: State, alpha: float, holds_out: bool
    ) -> Iterator[tuple[State, float]]:
        """Yield better and better solutions, each with its largest error."""
        invert = self.nystrom.make_inverse(alpha)
        left_out = self.held_out if holds_out else slice(0)
        last = residuals = self._find_residuals(state, alpha, left_out)
        directions, energies = np.zeros_like(residuals), np.zeros(residuals.shape[1])
        errors: list[float] = []
        while True:
            errors.append(self._measure(residuals))
            yield state, errors[-1]
            is_stalled = len(errors) > STALLED and min(errors[-STALLED:]) > min(errors[:-STALLED])
            if is_stalled or self.n_passes == MAX_PASSES:
                return
            inverted = invert(residuals)
            inverted[left_out] = 0
            directions = inverted + directions * _divide(inverted, residuals - last, energies)
            multiplied = self.kernel.multiply(directions)
            self.n_passes += 1
            energies = np.einsum("nk,nk->k", inverted, residuals)
            lengths = np.einsum("nk,nk->k", directions, multiplied + alpha * directions)
            steps = _divide(directions, residuals, lengths)
            state = State(state.dual + steps * directions, state.fitted + steps * multiplied)
            last, residuals = residuals, self._find_residuals(state, alpha, left_out)

    def _find_residuals(self, state: State, alpha: float, left_out: slice) -> np.ndarray:
        residuals = self.targets - state.fitted - alpha * state.dual
        residuals[left_out] = 0
        return residuals

    def _measure(self, residuals: np.ndarray) -> float:
        return float((np.linalg.norm(residuals, axis=0) / self.lengths).max())


def _divide(left: np.ndarray, right: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    """Return the products of columns ``(n, k)``, divided by numbers, or 0 where these are 0."""
    products = np.einsum("nk,nk->k", left, right)
    return np.divide(products, divisors, out=np.zeros_like(products), where=divisors > 0)
