"""Ridge regression on many features, without products of features.

Few rows are solved by products of rows. For many rows, a space of directions is extended until the
solution in it is accurate; each extension needs one pass over the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.linalg import eigh
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches

from sklearn_conv._ridge import lapack
from sklearn_conv._ridge.all_rows import AllRows, add_up
from sklearn_conv._ridge.problem import (
    Candidate,
    Problem,
    search_alphas,
    too_different,
    too_small,
)
from sklearn_conv._ridge.products import factorize
from sklearn_conv._ridge.row_products import NativeRows, NumpyRows, is_for_library
from sklearn_conv._warnings import warn

N_SAMPLE = 4_096
"""Number of rows whose products approximate those of all rows."""

SHIFT = 10
"""Ratio of the regularization of that approximation and alpha. In most directions, the products of
few rows are 0, and those of all rows are not."""

WIDTH = 16
"""Number of directions that are added in one pass, rounded up; fewer would take as long."""

MAX_WIDTH = 128
"""Largest number of directions that are added in one pass."""

MAX_PASSES = 150
"""Number of passes after which the iteration ends with a warning."""

ROUGH, MIDDLE, FINE = 3e-2, 3e-3, 5e-6
"""Errors of decisions, relative to their spread: those with which alphas are compared, those that
are reached in float32, and those of the result."""

STALLED = 5
"""Number of passes without a smaller error after which the iteration is limited by rounding."""

PLAIN_RATIO = 30
"""Ratio of the means and the standard deviations of features below which those that are exact in
float32 are multiplied as they are, and the products of the means are subtracted."""

BLOCK_COLUMNS = 1_024
"""Number of features that are multiplied at once for products of rows."""


def solve_all_rows(problem: Problem) -> Iterator[Candidate]:
    """Solve for all rows: few of them by their products, more by an iteration."""
    are_all_kept = len(problem.moments.kept.weights) == problem.moments.n_rows
    return _solve_by_factors(problem) if are_all_kept else Iteration(problem).run()


class System:
    """The equations ``(A + alpha) W = B`` of ridge regression on standardized features.

    ``A`` are the products of all features, weighted and centered, which are never computed. The
    last axis of all arrays is that of the features. The right sides are divided by their lengths.
    """

    def __init__(self, problem: Problem) -> None:
        moments = problem.moments
        assert isinstance(moments, AllRows)
        self.moments, self.target_mean = moments, problem.targets.mean
        self.factor = 1 / problem.scale
        self.factor[problem.constant] = 0
        right = problem.targets.products * self.factor
        self.lengths = np.linalg.norm(right, axis=1)
        self.lengths[self.lengths == 0] = 1
        self.right = right / self.lengths[:, np.newaxis]
        ratios, spreads = np.abs(moments.sums.mean) * self.factor, problem.scale
        is_near = ratios.max() < PLAIN_RATIO and spreads.min() > 1e-6 and spreads.max() < 1e6
        self.is_plain = bool(is_near and np.can_cast(moments.rows.rows.dtype, np.float32))

    def project(self, directions: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return the products ``(m, q)`` of some rows and directions ``(q, d)``."""
        rows, rest, factor = self._get_rows(directions.dtype, index)
        columns = np.ascontiguousarray((directions * factor).T)
        return rows.project(columns, (rest @ columns).astype(columns.dtype))

    def combine(self, coefficients: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Return sums ``(q, d)`` of some rows, multiplied by coefficients ``(m, q)``."""
        rows, rest, factor = self._get_rows(coefficients.dtype, index)
        total = rows.combine(coefficients)
        total -= np.outer(coefficients.sum(axis=0, dtype=np.float64), rest)
        return total * factor

    def multiply(self, directions: np.ndarray) -> np.ndarray:
        """Return directions ``(q, d)``, multiplied by ``A``, in one pass over all rows."""
        rows, rest, factor = self._get_rows(directions.dtype)
        columns = np.ascontiguousarray((directions * factor).T)
        weights = self.moments.rows.weights.astype(columns.dtype)
        # The weighted products sum to 0, so that the rest of the rows need not be subtracted.
        shift = (rest @ columns).astype(columns.dtype)
        return rows.multiply(columns, shift, weights) * factor

    def find_residuals(self, solution: np.ndarray) -> np.ndarray:
        """Return ``B - A @ W`` for ``W`` ``(k, d)``, from residuals of the rows, in float64."""
        moments, columns = self.moments, np.ascontiguousarray(solution.T)
        read = moments.make_reader(np.dtype(np.float64), moments.sums.mean, self.factor)

        def multiply(block: slice) -> np.ndarray:
            rows = read(block)
            targets = (moments.read_targets(block) - self.target_mean) / self.lengths
            residuals = (targets - rows @ columns) * moments.rows.weights[block, np.newaxis]
            return residuals.T @ rows

        return add_up(multiply, moments.n_rows)

    def multiply_rows(self, index: np.ndarray, dtype: Any) -> np.ndarray:
        """Return products of rows, times the roots of their weights, below the diagonal."""
        X, _, weights = self.moments.rows
        mean, roots = self.moments.sums.mean, np.sqrt(weights[index])[:, np.newaxis]
        products = np.zeros((len(index), len(index)), dtype, order="F")
        for columns in gen_batches(X.shape[1], BLOCK_COLUMNS):
            rows = np.subtract(X[index, columns], mean[columns]) * self.factor[columns] * roots
            lapack.syrk(rows.astype(dtype, order="F"), products)
        return products

    def _get_rows(
        self, dtype: np.dtype, index: Any = None
    ) -> tuple[NumpyRows | NativeRows, np.ndarray, np.ndarray]:
        """Return rows ``x``, and what makes them ``(x - rest) * factor``."""
        moments, mean, X = self.moments, self.moments.sums.mean, self.moments.rows.rows
        n_rows = moments.n_rows if index is None else len(index)
        if self.is_plain and dtype == np.float32:  # Rows in the cache need not be standardized.
            factor = self.factor.astype(dtype)
            if is_for_library(X):
                return NativeRows(X, index), mean, factor
            return NumpyRows(moments.make_reader(dtype, index=index), n_rows), mean, factor
        rest = (mean - moments.find_center(mean, dtype)) * self.factor
        read = moments.make_reader(dtype, mean, self.factor, index)
        return NumpyRows(read, n_rows), rest, np.ones(1, dtype)


def _solve_by_factors(problem: Problem) -> Iterator[Candidate]:
    """Solve by Cholesky factors of the products of all rows; `solve_by_rows` has the formula."""
    system, moments = System(problem), problem.moments
    n_rows, weight, d = moments.n_rows, moments.sums.weight, len(system.factor)
    roots, total = np.sqrt(moments.kept.weights), weight * d
    products = system.multiply_rows(np.arange(n_rows), np.float64)
    lapack.syr(roots * (total / weight) ** 0.5, products)
    squares = products.diagonal().copy()
    targets = (problem.targets.kept - problem.targets.mean) * roots[:, np.newaxis]
    found: dict[float, tuple[np.ndarray, np.ndarray | None]] = {}

    def compute(alpha: float) -> np.ndarray | None:
        factor = factorize(products, squares + alpha)
        if factor is None or alpha < total * np.finfo(np.float64).eps:
            raise too_small(alpha)
        dual, errors = factor.solve(targets), None
        if problem.has_errors:
            inverse = np.triu(factor.triangle).copy("F")
            lapack.trtri(inverse)
            diagonal = np.einsum("ij,ij->i", inverse, inverse) - roots**2 / weight / (total + alpha)
            if not problem.resolves(alpha * diagonal):
                raise too_different()
            errors = dual / (roots * diagonal)[:, np.newaxis]
        found[alpha] = dual * roots[:, np.newaxis], errors
        return errors

    if len(problem.search.alphas) == 1 or n_rows == 1:  # A single row has no errors.
        best = [problem.search.alphas[0]]
        compute(*best)
    else:
        best = [*search_alphas(problem, compute)]
    for alpha in best:
        coefficients, errors = found[alpha]
        coef = system.combine(coefficients, np.arange(n_rows)) * system.factor
        yield alpha, coef.T, errors


class Preconditioner:
    """Approximate inverse of ``A + alpha``: that of a sample of the rows, with a larger alpha.

    Source: A. Rudi, L. Carratino and L. Rosasco, "FALKON: An Optimal Large Scale Kernel Method"
    (2017): a sample of the rows as a preconditioner.
    """

    def __init__(self, system: System) -> None:
        weights = system.moments.rows.weights
        self.system, self.sample = system, np.sort(system.moments.order[:N_SAMPLE])
        self.roots = np.sqrt(weights[self.sample]).astype(np.float32)[:, np.newaxis]
        self.ratio = float(weights[self.sample].sum() / weights.sum())
        self.products = system.multiply_rows(self.sample, np.float32)
        self.squares = self.products.diagonal().copy()
        self.alpha = 0.0

    def solve(self, right: np.ndarray, alpha: float) -> np.ndarray:
        """Return solutions for right sides ``(q, d)`` in float32."""
        shift = np.float32(SHIFT * alpha)
        if alpha != self.alpha:
            factor = factorize(self.products, self.squares + shift * np.float32(self.ratio))
            if factor is None:
                raise too_small(alpha)
            self.factor, self.alpha = factor, alpha
        projected = self.system.project(right, self.sample) * self.roots
        solved = self.factor.solve(projected) * self.roots
        return (right - self.system.combine(solved, self.sample)) / shift


class Space:
    """Orthonormal directions, among which the equations are solved for any alpha.

    The equations are those without the rows that are held out, until `include` is called.
    """

    def __init__(self, system: System, targets: np.ndarray) -> None:
        """Begin without directions; ``targets`` ``(m, k)`` are those of the rows held out."""
        self.system, self.moments = system, system.moments
        self.basis = self.multiplied = np.empty((0, len(system.factor)), np.float32)
        self.projected = np.empty((len(self.moments.chosen), 0), np.float32)
        self.products = np.empty((0, 0), np.float32)
        self.values, self.vectors = np.empty(0), np.empty((0, 0))
        self.weights = self.moments.kept.weights[:, np.newaxis]
        self.rest = self.moments.sums.weight - float(self.weights.sum())
        self.held_sum = self._combine(np.ones_like(self.weights))[0]
        # The sums over all rows are 0, so those over the other rows are minus these.
        self.target_shift = self.weights[:, 0] @ targets / self.rest
        self.targets = targets
        held_out = self._combine(targets) + np.outer(self.target_shift, self.held_sum)
        self.right = system.right - held_out

    def add(self, directions: np.ndarray) -> None:
        """Add directions ``(q, d)``, with one pass over all rows."""
        for _ in range(2):
            directions = directions - (directions @ self.basis.T) @ self.basis
            directions = np.linalg.qr(directions.T)[0].T
        directions = np.ascontiguousarray(directions)
        multiplied = self.system.multiply(directions)
        projected = self.system.project(directions, self.moments.chosen)
        if self.right is not self.system.right:
            multiplied -= self._multiply_held_out(directions, projected)
        across, own = self.basis @ multiplied.T, directions @ multiplied.T
        self.products = np.block([[self.products, across], [across.T, own]])
        self.projected = np.hstack([self.projected, projected])
        self.multiplied = np.concatenate([self.multiplied, multiplied])
        self.basis = np.concatenate([self.basis, directions])
        self._diagonalize()

    def include(self) -> None:
        """Include the rows that were held out."""
        self.right = self.system.right
        if not len(self.basis):
            return
        self.multiplied += self._multiply_held_out(self.basis, self.projected)
        self.products = self.basis @ self.multiplied.T
        self._diagonalize()

    def solve(self, right: np.ndarray, alpha: float) -> np.ndarray:
        """Return coefficients ``(k, n)`` of the directions for right sides ``(k, d)``."""
        projected = (right.astype(np.float32, copy=False) @ self.basis.T).astype(np.float64)
        return (projected @ self.vectors / (self.values + alpha)) @ self.vectors.T

    def find_errors(self, alpha: float) -> np.ndarray:
        """Return the errors ``(m, k)`` of the rows that are held out."""
        coef = self.solve(self.right, alpha).T
        shift = self.basis @ self.held_sum / self.rest
        return self.targets + self.target_shift - (self.projected + shift) @ coef

    def _combine(self, values: np.ndarray) -> np.ndarray:
        """Return sums ``(q, d)`` over the rows held out of weighted values ``(m, q)``."""
        return self.system.combine((self.weights * values).astype(np.float32), self.moments.chosen)

    def _multiply_held_out(self, directions: np.ndarray, projected: np.ndarray) -> np.ndarray:
        """Return what the rows held out contribute to the products of directions with ``A``."""
        shift = directions @ self.held_sum / self.rest
        return self._combine(projected) + np.outer(shift, self.held_sum)

    def _diagonalize(self) -> None:
        products = self.products.astype(np.float64)
        self.values, self.vectors = _diagonalize((products + products.T) / 2)


class Iteration:
    """Extension of a space until the solutions in it are accurate, for all targets at once.

    Directions for one alpha are of use for others. Each pass adds the directions that reduce the
    errors of the solutions that are not accurate yet most.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.alphas = problem, sorted({*problem.search.alphas})
        self.system, targets = System(problem), problem.targets
        self.space = Space(self.system, (targets.kept - targets.mean) / self.system.lengths)
        self.preconditioner = Preconditioner(self.system)
        self.best = self.alphas[:1]
        self.n_passes = 0

    def run(self) -> Iterator[Candidate]:
        """Find the best alphas, and solve for them."""
        system, space = self.system, self.space
        self._compare()
        found = [space.find_errors(alpha) * system.lengths for alpha in self.best]
        space.include()
        rights = dict.fromkeys(self.alphas, system.right)
        solutions: dict[float, Any] = dict.fromkeys(self.best, 0)
        tolerance = MIDDLE
        while True:
            is_accurate = self._converge(rights, tolerance)
            for alpha in self.best:
                coef = space.solve(rights[alpha], alpha)
                solutions[alpha] = solutions[alpha] + coef @ space.basis
            if tolerance == FINE and (is_accurate or self.n_passes == MAX_PASSES):
                break
            # Solve again for what rounding in float32 has left.
            for alpha, solution in solutions.items():
                rights[alpha] = system.find_residuals(solution) - alpha * solution
            tolerance = FINE
        if not is_accurate:
            warn(
                f"The ridge regression on {len(system.factor):,} features is not accurate after "
                f"{MAX_PASSES} passes over the rows; choose larger alphas.",
                ConvergenceWarning,
            )
        for alpha, errors in zip(self.best, found, strict=True):
            coef = solutions[alpha] * system.lengths[:, np.newaxis] * system.factor
            yield alpha, coef.T, errors

    def _compare(self) -> None:
        """Solve for smaller and smaller alphas, until the scores of all targets get worse.

        Those that are large need few directions. Small ones that are not solved well have better
        scores than they deserve, because a space of few directions regularizes as well.
        """
        scores: list[np.ndarray] = []
        visited: list[float] = []
        rights = dict.fromkeys(self.alphas, self.space.right)
        for alpha in reversed(self.alphas):
            self.best = [alpha]
            if not self._converge(rights, ROUGH, scores[-1] if scores else None) and visited:
                break
            visited.append(alpha)
            errors = [self.space.find_errors(alpha) * self.system.lengths for alpha in visited]
            scores = [self.problem.score(found) for found in errors]
            if len(scores) > 1 and (scores[-1] < scores[-2]).all():
                break
        places = np.unique(np.argmax(scores, axis=0)).tolist()
        self.best = [visited[i] for i in places]

    def _converge(
        self,
        rights: dict[float, np.ndarray],
        tolerance: float,
        to_exceed: np.ndarray | None = None,
    ) -> bool:
        """Add directions until the solutions for the best alphas are accurate.

        Return False if they are not, because of rounding, of the number of passes, or because the
        scores of a single alpha are not going to exceed others.
        """
        errors: list[float] = []
        scores: list[np.ndarray] = []
        while self.n_passes < MAX_PASSES:
            error, directions = self._find_directions(rights, tolerance)
            errors.append(error)
            if directions is None:
                return True
            if len(errors) > STALLED and min(errors[-STALLED:]) > min(errors[:-STALLED]):
                break
            self.space.add(directions)
            self.n_passes += 1
            if to_exceed is not None:
                found = self.space.find_errors(self.best[0]) * self.system.lengths
                scores.append(self.problem.score(found))
                if len(scores) > 2 and (bound_limit(*scores[-3:]) < to_exceed).all():
                    break
        return False

    def _find_directions(
        self, rights: dict[float, np.ndarray], tolerance: float
    ) -> tuple[float, np.ndarray | None]:
        """Return the largest error, and directions ``(q, d)`` unless all solutions are accurate."""
        space, center = self.space, self.best[len(self.best) // 2]
        # Squared lengths of the decisions for all rows
        solved = space.solve(space.right, center) * (space.right @ space.basis.T)
        energies = solved.sum(axis=1).clip(np.finfo(np.float64).tiny)
        residuals = []
        for alpha in self.best:
            coef = space.solve(rights[alpha], alpha).astype(np.float32)
            left = rights[alpha] - coef @ space.multiplied - alpha * (coef @ space.basis)
            residuals.append(left.astype(np.float32))
        left = np.concatenate(residuals)
        directions = self.preconditioner.solve(left, center)
        # At most the squared lengths of the errors of all decisions, if the sample were all rows
        squares = SHIFT * np.einsum("ij,ij->i", left, directions).clip(0).reshape(-1, len(energies))
        is_known = len(space.basis) or not left.any()
        errors = np.sqrt(squares / energies).max(axis=1) if is_known else np.ones(1)
        is_open = errors > tolerance
        if not is_open.any():
            return float(errors.max()), None
        is_open = is_open.repeat(len(energies))
        left, directions = left[is_open], directions[is_open]
        values, vectors = _diagonalize(directions.astype(np.float64) @ left.T)
        width = min(MAX_WIDTH, -(-len(energies) // WIDTH) * WIDTH)
        vectors = vectors[:, values > values.max() * np.finfo(np.float32).eps][:, -width:]
        return float(errors.max()), vectors.T.astype(np.float32) @ directions


def _diagonalize(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return eigenvalues, which rounding may have made negative, as positive ones, and vectors."""
    values, vectors = eigh(matrix, check_finite=False)
    return values.clip(0), vectors


def bound_limit(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> np.ndarray:
    """Return what a series of scores will hardly exceed, from three that follow each other.

    Their limit, if differences decrease by the same factor each time (A. Aitken, "On Bernoulli's
    Numerical Solution of Algebraic Equations", 1927), plus the same distance again.
    """
    before, gain = second - first, third - second
    falls = np.abs(gain) < np.abs(before)
    factor = np.divide(gain, before, out=np.ones_like(gain), where=falls)
    distance = np.divide(gain * factor, 1 - factor, out=np.full_like(gain, np.inf), where=falls)
    return third + 2 * np.maximum(distance, 0)
