"""Solve ridge regression for each alpha from moments, and choose one alpha.

To add a solver, write a function of the type `Solver`, and add it to `SOLVERS` with the moments
that it is for. It works for the arrays of all libraries: `Library.of` says where they are, and
`products` has products and Cholesky factors that are fast for NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._array_api import Library, as_memory_error, kind_of, to_numpy
from sklearn_conv._ridge.all_rows import AllRows
from sklearn_conv._ridge.iteration import solve_all_rows
from sklearn_conv._ridge.labels import show_label
from sklearn_conv._ridge.moments import Moments, NoSolutionError
from sklearn_conv._ridge.problem import (
    REMEDY,
    Candidate,
    Problem,
    Search,
    Solver,
    find_scale,
    search_alphas,
    too_different,
    too_small,
)
from sklearn_conv._ridge.products import (
    BLOCK_BYTES,
    SINGLE_FEATURES,
    Factor,
    correlate,
    diagonalize,
    factorize,
    multiply,
    row_blocks,
)
from sklearn_conv._ridge.scores import find_temperature

SMALLEST_PIVOT = 100 * float(np.finfo(np.float32).eps)
"""Smallest square on the diagonal of a factor of correlations that is trusted in float32. Rounding
changes it by about a hundredth."""

SMALLEST_COMPLEMENT = 0.01
"""Smallest difference of 1 and a leverage that is trusted in float32, if float64 is used else."""


class Solution(NamedTuple):
    """Solution for the chosen alpha; k is the number of columns of the targets."""

    search: Search
    """Parameters for which this is the solution."""
    alpha: Any
    """The chosen alpha, or one for each column ``(k,)``."""
    score: Any
    """Leave-one-out score; None if there is only one alpha."""
    classes: np.ndarray | None
    """Class labels of a classifier."""
    coef: Any
    """Coefficients ``(k, d)`` for the original features, which are not standardized."""
    mean: Any
    """Mean of each feature ``(d,)``."""
    level: Any
    """Mean of each target ``(k,)``, which is the prediction at the mean of the features."""
    scale: Any
    """Standard deviation of each feature ``(d,)``."""
    later: dict[str, Any]
    """What may be computed later than the rest. If leave-one-out errors were computed, this is the
    "temperature", by which the decisions of a classifier are divided before the softmax, or the
    "residuals" of a regressor, absolute errors ``(m, k)`` and the weights of their rows. The
    "leverages" of a classifier are in no file, because of their size."""

    @property
    def has_errors(self) -> bool:
        """Whether it has what depends on leave-one-out errors."""
        return "temperature" in self.later or "residuals" in self.later

    def move(self, library: Library) -> Solution:
        """Return the solution in another library, or on another device."""
        moved = {
            name: library.put(value)
            for name, value in self._asdict().items()
            if hasattr(value, "shape") and name != "classes"
        }
        return self._replace(**moved, later=self.saved_later())

    def saved_later(self) -> dict[str, Any]:
        """Return a copy of ``later`` without leverages, which are large, and on one device."""
        return {name: value for name, value in self.later.items() if name != "leverages"}

    def predict(self, rows: Any) -> Any:
        """Return the predicted targets ``(n, k)``, in the library of the solution."""
        library, dtype = Library.of(self.coef), self.coef.dtype
        xp, weights = library.xp, self.coef.T
        predicted = library.empty((rows.shape[0], weights.shape[1]), dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for block in row_blocks(rows.shape[0], 8 * rows.shape[1], BLOCK_BYTES):
                # Rows are centered first: a large offset would cause large products that cancel.
                values = rows[block, ...]
                if kind_of(values) != "f":  # The standard does not mix integers and floats.
                    values = xp.astype(values, dtype)
                predicted[block, ...] = (values - self.mean) @ weights
            predicted += self.level
        if not bool(xp.all(xp.isfinite(predicted))):
            raise ValueError(
                f"The predictions overflow {dtype}: some features of X are far larger than those "
                "that the model was fitted on."
            )
        return predicted


def solve(
    moments: Moments, classes: np.ndarray | None, search: Search, with_errors: bool = False
) -> Solution:
    """Return the solution for the alpha with the best leave-one-out score, or one for each target.

    No other thread may use the moments. ``classes`` are the labels of a classifier. What depends on
    leave-one-out errors is computed if there are several alphas, or if ``with_errors`` is True.
    """
    if classes is not None and len(classes) < 2:
        raise NoSolutionError(
            "A classifier needs rows of at least 2 classes, but y has 1 class so far: "
            f"{show_label(classes.tolist()[0])}."
        )
    moments.flush()
    library = moments.library
    xp = library.xp
    with np.errstate(all="ignore"), as_memory_error(REMEDY):
        targets, (scale, constant) = moments.targets(classes), find_scale(moments)
        is_constant = library.put(np.isin(np.arange(scale.shape[0]), constant))
        products = xp.where(is_constant, xp.zeros_like(targets.products), targets.products)
        targets = targets._replace(products=products)
        has_errors = with_errors or len(search.alphas) > 1
        problem = Problem(moments, targets, scale, constant, search, has_errors)
        solver = next(solver for solver, is_for in SOLVERS.items() if is_for(moments))
        alpha, score, coef, errors = _choose(problem, solver(problem))
        level = library.put(targets.mean)
        later: dict[str, Any] = {}
        weights = moments.kept.weights
        if classes is None and errors is not None:
            later["residuals"] = np.abs(errors), weights
        elif errors is not None:
            later["temperature"] = find_temperature(errors, targets.kept, weights)
    return Solution(search, alpha, score, classes, coef, moments.sums.mean, level, scale, later)


def _choose(
    problem: Problem, candidates: Iterator[Candidate]
) -> tuple[Any, Any, Any, np.ndarray | None]:
    """Return the best alpha and its score, or one for each target, coefficients and errors."""
    n_targets, library = len(problem.targets.mean), problem.moments.library
    is_choice = len(problem.search.alphas) > 1
    alphas, best = np.empty(n_targets), np.full(n_targets, -np.inf)
    columns: list[Any] = [None] * n_targets
    kept = np.empty_like(problem.targets.kept) if problem.has_errors else None
    for i, (alpha, coef, errors) in enumerate(candidates):
        scores = np.zeros(n_targets)
        if is_choice:
            assert errors is not None
            scores = problem.score(errors)
        if problem.moments.n_rows > 1:  # A single row has no errors. Leverages may be rounded to 1.
            scores = np.where(np.isfinite(scores), scores, -np.inf)
        is_better = (scores > best) | (i == 0)
        alphas[is_better], best[is_better] = alpha, scores[is_better]
        for j in np.flatnonzero(is_better).tolist():
            columns[j] = coef[:, j]
        if kept is not None and errors is not None:
            kept[:, is_better] = errors[:, is_better]
    if np.isinf(best).any():
        raise ValueError(
            "The leave-one-out errors, which choose alpha, overflow float64; divide the targets by "
            "their standard deviation and the weights by their mean, or choose larger alphas."
        )
    if problem.search.per_target and n_targets > 1:
        found: list[Any] = [library.put(values) for values in (alphas, best)]
    else:
        found = [float(values[0]) for values in (alphas, best)]
    if kept is not None and problem.moments.n_rows == 1:
        kept[:] = np.nan
    return found[0], found[1] if is_choice else None, library.xp.stack(columns), kept


def solve_by_rows(problem: Problem) -> Iterator[Candidate]:
    """Solve for few rows, all of which are kept, by the eigenvectors of their products ``K``.

    The rows are multiplied by the roots of their weights. Without an intercept, the leave-one-out
    error of a row would be its element of ``inv(K + alpha * I) @ targets``, divided by its element
    of the diagonal of this inverse. With an intercept, the inverse is that on the complement of the
    roots, which are an eigenvector for 0 because the rows are centered. So that it can be told from
    others, its eigenvalue is made as large as the sum of all others.

    Source: R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007).
    """
    moments, alphas = problem.moments, problem.search.alphas
    library, weight = moments.library, moments.sums.weight
    xp = library.xp
    roots = library.put(np.sqrt(moments.kept.weights))
    rows = problem.center(problem.scale) * roots[:, None]  # (n, d)
    # This is at least the sum of the squares of all rows.
    total = weight * rows.shape[1]
    if min(alphas) < total * float(xp.finfo(rows.dtype).eps):
        raise too_small(min(alphas))
    intercept = roots / weight**0.5  # of unit length
    values, vectors = diagonalize(rows @ rows.T + total * intercept[:, None] * intercept[None, :])
    values = xp.where(values > 0, values, xp.zeros_like(values))
    targets = library.put(problem.targets.kept - problem.targets.mean) * roots[:, None]
    projected = vectors.T @ targets
    for alpha in alphas:
        inverse = 1 / (values + alpha)
        dual = vectors @ (inverse[:, None] * projected)  # (n, k)
        errors = None
        if problem.has_errors:
            diagonal = vectors**2 @ inverse - intercept**2 / (total + alpha)
            if not problem.resolves(to_numpy(alpha * diagonal)):
                raise too_different()
            errors = to_numpy(dual / (roots * diagonal)[:, None])
        yield alpha, (rows.T @ dual) / problem.scale[:, None], errors


def solve_by_products(problem: Problem) -> Iterator[Candidate]:
    """Solve for many rows, with one Cholesky factor for each alpha that may be the best.

    Ridge regression with ``alpha`` on standardized features is equivalent to ridge regression with
    ``alpha * variance`` on the original features, so the products need not be scaled.
    """
    library, sums, alphas = problem.moments.library, problem.moments.sums, problem.search.alphas
    gram = sums.gram if sums.rest is None else sums.gram + sums.rest

    def solve_exactly(alpha: float) -> Candidate:
        found = _solve_products(problem, gram, sums.squares + alpha * problem.scale**2)
        if found is None:
            raise too_small(alpha)
        return alpha, *found

    if len(alphas) < 3 or not library.has_float64:
        yield from map(solve_exactly, alphas)
    elif problem.scale.shape[0] < SINGLE_FEATURES:
        yield from _diagonalize(problem, gram) or map(solve_exactly, alphas)
    else:
        yield from _compare_alphas(problem, solve_exactly)


def _diagonalize(problem: Problem, gram: Any) -> list[Candidate]:
    """Solve for all alphas by the eigenvectors of the correlations of few features.

    Return an empty list if an alpha is too small to be told from the rounding of the eigenvalues.
    """
    moments, targets, scale = problem.moments, problem.targets, problem.scale
    library, alphas = moments.library, problem.search.alphas
    xp, (d,) = library.xp, scale.shape
    correlations = gram / scale / scale[:, None]  # The lower triangle is used.
    for i in problem.constant:
        correlations[i, :] = correlations[:, i] = 0
    is_diagonal = xp.eye(d, dtype=xp.bool, device=library.device)
    squares = (moments.sums.squares / scale**2)[:, None]
    values, vectors = diagonalize(xp.where(is_diagonal, squares, correlations))
    if min(alphas) < d * float(xp.finfo(values.dtype).eps) * float(values[-1]):
        return []
    right = multiply(vectors.T, targets.products.T / scale[:, None])  # (d, k)
    rows = multiply(problem.center(scale), vectors)  # (m, d)
    squared = rows**2
    candidates: list[Candidate] = []
    for alpha in alphas:
        inverse = 1 / (values + alpha)
        residuals = targets.kept - targets.mean - to_numpy(multiply(rows, inverse[:, None] * right))
        leverages = to_numpy(multiply(squared, inverse[:, None]))[:, 0] + 1 / moments.sums.weight
        complements = 1 - moments.kept.weights * leverages
        if not problem.resolves(complements):
            raise too_different()
        coef = multiply(vectors, inverse[:, None] * right) / scale[:, None]
        for i in problem.constant:
            coef[i, :] = 0
        candidates.append((alpha, coef, residuals / complements[:, np.newaxis]))
    return candidates


def _compare_alphas(
    problem: Problem, solve_exactly: Callable[[float], Candidate]
) -> Iterator[Candidate]:
    """Solve for the alphas that may have the best score, found by factors in float32."""
    sums = problem.moments.sums
    correlations = correlate(sums.gram, problem.scale)
    squares = sums.squares / problem.scale**2

    def compute(alpha: float) -> np.ndarray | None:
        found = _solve_products(problem, correlations, squares + alpha, problem.scale)
        return None if found is None else found[1]

    yield from map(solve_exactly, search_alphas(problem, compute))


def _solve_products(
    problem: Problem, matrix: Any, diagonal: Any, scale: Any = None
) -> tuple[Any, Any] | None:
    """Return coefficients and leave-one-out errors for products of features with a diagonal.

    The leave-one-out error of a row is its residual, divided by 1 minus its leverage. Leverages of
    rows in float32 are computed in float32.
    ``scale`` is what the features of a matrix in float32 were divided by; its factor must have no
    small pivot. Return None if there is no factor.

    Source: R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007).
    """
    moments, targets = problem.moments, problem.targets
    xp, dtype = moments.library.xp, matrix.dtype
    factor = factorize(matrix, xp.astype(diagonal, dtype, copy=False), problem.constant)
    if factor is None:
        return None
    right = targets.products.T
    if scale is not None:
        if not factor.smallest_pivot > SMALLEST_PIVOT * moments.sums.weight:
            return None
        right = right / scale[:, None]
    coef = factor.solve(xp.astype(right, dtype, copy=False))  # (d, k)
    if not problem.has_errors:
        return coef, None
    kept = xp.astype(problem.center(scale), dtype, copy=False)
    residuals = targets.kept - targets.mean - to_numpy(multiply(kept, coef))
    is_large = kept.shape[1] >= SINGLE_FEATURES and moments.library.has_float64
    is_single = is_large and moments.kept.rows.dtype == xp.float32
    leverages = _find_leverages(problem, factor, kept, xp.float32 if is_single else dtype)
    if scale is None and is_single and not (1 - leverages).min() > SMALLEST_COMPLEMENT:
        leverages = _find_leverages(problem, factor, kept, dtype)
    if scale is not None and not problem.resolves(1 - leverages, 1e-3):
        return None
    if not problem.resolves(1 - leverages):
        raise too_different()
    return coef, residuals / (1 - leverages)[:, np.newaxis]


def _find_leverages(problem: Problem, factor: Factor, kept: Any, dtype: Any) -> np.ndarray:
    """Return the leverages of the kept rows ``(m,)``, computed in a dtype."""
    xp, moments = problem.moments.library.xp, problem.moments
    factor = Factor(xp.astype(factor.triangle, dtype, copy=False))
    solved = factor.half_solve(xp.astype(kept, dtype).T)  # (d, m)
    leverages = to_numpy(xp.linalg.vecdot(solved, solved, axis=-2))
    return moments.kept.weights * (leverages + 1 / moments.sums.weight)


SOLVERS: dict[Solver, Callable[[Moments], bool]] = {
    solve_all_rows: lambda moments: isinstance(moments, AllRows),
    solve_by_rows: lambda moments: moments.sums.gram is None,
    solve_by_products: lambda moments: True,
}
"""Map from solvers to functions that say which moments they are for; the first one that is for the
moments solves them."""
