"""Solve ridge regression for each alpha from moments, and choose one alpha.

To add a solver, write a function of the type `Solver`, and add it to `SOLVERS` with the moments
that it is for. It works for the arrays of all libraries: `Library.of` says where they are, and
`products` has products and Cholesky factors that are fast for NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from sklearn_conv._array_api import Library, as_memory_error, kind_of, to_numpy
from sklearn_conv._ridge.labels import show_label
from sklearn_conv._ridge.moments import Moments, NoSolutionError, Targets
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
from sklearn_conv._validation import (
    check_name,
    is_finite,
    is_sequence,
    parameter_error,
    require,
)

SMALLEST_PIVOT = 100 * float(np.finfo(np.float32).eps)
"""Smallest square on the diagonal of a factor of correlations that is trusted in float32. Rounding
changes it by about a hundredth."""

SMALLEST_COMPLEMENT = 0.01
"""Smallest difference of 1 and a leverage that is trusted in float32, if float64 is used else."""

TIE = 1e-5
"""Relative difference of scores that is not trusted in float32."""

FACTORS = (1e-4, 20)
"""Range of the inverse of the temperature. The best one has no bound if all rows are right."""

REMEDY = "The features need this memory on the device; use fewer kernels or grid cells."

WEIGHT_RANGE = 1e10
"""Ratio of weights above which rounding may spoil the errors of heavy rows: beside them, all other
rows are as small as the rounding of their sums."""


class Search(NamedTuple):
    """The alphas from which one is chosen, or one for each column of the targets."""

    alphas: tuple[float, ...]
    per_target: bool = False
    scoring: str | None = None
    """What decides: squared errors if None, otherwise "neg_log_loss", for classes."""


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


def check_strengths(owner: str, name: str, value: Any) -> tuple[float, ...]:
    """Check a number above 0 or a sequence of such numbers, and return its values as floats."""
    numbers = tuple(np.asarray(value, dtype=object)) if is_sequence(value) else (value,)
    rule = "a finite number above 0 or a sequence of such numbers"
    if not all(isinstance(number, Real) and not isinstance(number, bool) for number in numbers):
        raise parameter_error(TypeError, owner, name, rule, value)
    if not numbers or not all(number > 0 and is_finite(number) for number in numbers):
        raise parameter_error(ValueError, owner, name, rule, value)
    return tuple(map(float, numbers))


def check_scoring(owner: str, value: Any) -> str | None:
    """Check the name of a score of classes, or None for minus the mean squared error."""
    names = ["neg_log_loss"]
    return value if value is None else check_name(owner, "scoring", value, names, " or None")


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
        targets, (scale, constant) = moments.targets(classes), _find_scale(moments)
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


def _find_scale(moments: Moments) -> tuple[Any, list[int]]:
    """Return the standard deviations, 1 for constant features, and the numbers of these."""
    xp, variances = moments.library.xp, moments.variances
    scale = xp.sqrt(xp.where(variances > 0, variances, xp.ones_like(variances)))
    return scale, np.flatnonzero(to_numpy(variances) == 0).tolist()


def _center(rows: Any, mean: Any, scale: Any, constant: list[int]) -> Any:
    """Return rows, centered and divided by ``scale`` if it is not None; constant features are 0."""
    library = Library.of(mean)
    rows = library.xp.astype(rows, library.widest, copy=False) - mean
    if scale is not None:
        rows /= scale
    for i in constant:
        rows[:, i] = 0
    return rows


class Problem(NamedTuple):
    """What a solver knows."""

    moments: Moments
    targets: Targets
    scale: Any
    """Standard deviation of each feature ``(d,)``; 1 for constant features."""
    constant: list[int]
    """Numbers of the constant features, whose coefficients are 0."""
    search: Search
    has_errors: bool = True
    """Whether leave-one-out errors are needed."""

    def center(self, scale: Any) -> Any:
        """Return the kept rows ``(m, d)``, centered and divided by ``scale`` if it is not None."""
        moments = self.moments
        return _center(moments.kept.rows, moments.sums.mean, scale, self.constant)

    def resolves(self, complements: np.ndarray, limit: float = 1 / WEIGHT_RANGE) -> bool:
        """Return whether 1 minus the leverages of the kept rows are above their rounding errors.

        Without very different weights, small ones belong to features that explain all targets.
        """
        weights = self.moments.kept.weights
        return bool(weights.max() <= WEIGHT_RANGE * weights.min() or complements.min() > limit)

    def score(self, errors: np.ndarray) -> np.ndarray:
        """Return the score of each target for leave-one-out errors; one score for all of them.

        It is minus the mean of the squares, multiplied by the weights of the rows, or the score of
        all columns by `score_classes`.
        """
        weights, targets = self.moments.kept.weights, self.targets.kept
        if self.search.scoring is None:
            scores = -weights @ np.square(errors) / len(weights)
        else:
            scores = np.full(errors.shape[1], score_classes(targets - errors, targets, weights))
        return scores if self.search.per_target else np.full(len(scores), scores.mean())


Candidate = tuple[float, Any, np.ndarray | None]
"""An alpha, its coefficients ``(d, k)`` for features that are not standardized, and leave-one-out
errors ``(m, k)`` of the kept rows, or None if they are not needed."""

Solver = Callable[[Problem], Iterator[Candidate]]
"""Function that yields a candidate for each alpha that may be the best."""


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
    """Solve for the alphas that may have the best score, found by few factors in float32.

    Leave-one-out errors are computed for few alphas. Those for others are interpolated by a
    polynomial of the logarithm of alpha. The alpha with the best interpolated score is computed
    next, until no other can be the best if its interpolation is as wrong as the last one was.

    Alphas that are too small for float32 are solved exactly.
    """
    alphas, sums = sorted({*problem.search.alphas}), problem.moments.sums
    correlations = correlate(sums.gram, problem.scale)
    squares, last = sums.squares / problem.scale**2, len(alphas) - 1
    logs = np.log(alphas)
    errors: dict[int, np.ndarray] = {}
    scores: dict[int, np.ndarray] = {}
    unknown = set(range(last + 1))

    def compute(i: int) -> None:
        unknown.remove(i)
        found = _solve_products(problem, correlations, squares + alphas[i], problem.scale)
        if found is not None:
            errors[i] = found[1]
            scores[i] = problem.score(found[1])

    def interpolate(i: int) -> np.ndarray:
        total = np.zeros(())
        for j in errors:
            others = [logs[k] for k in errors if k != j]
            total = total + errors[j] * np.prod((logs[i] - others) / (logs[j] - others))
        return problem.score(total)

    for i in {1, len(alphas) // 2, last - 1} if last > 2 else range(last + 1):
        compute(i)
    margin = np.full(len(problem.targets.mean), np.inf)
    while unknown and scores:
        best = np.max([*scores.values()], axis=0)
        gains = {i: interpolate(i) - best for i in unknown}
        i = max(gains, key=lambda i: float(np.max(gains[i] + margin)))
        if (gains[i] + margin < 0).all():
            break
        compute(i)
        if i in scores:
            margin = np.abs(gains[i] + best - scores[i])
    left_out = unknown if scores else set()
    best = np.max([*scores.values()], axis=0, initial=-np.inf)
    for i in sorted({*range(last + 1)} - left_out):
        if i not in scores or (scores[i] >= best * (1 + TIE)).any():  # The scores are negative.
            yield solve_exactly(alphas[i])


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


class Ranks(NamedTuple):
    """Numbers of rows, in order, among which other numbers are ranked."""

    known: np.ndarray
    """Sorted numbers ``(m,)``."""
    fractions: np.ndarray
    """Fraction of the weight ``(m + 1,)`` of the first of the rows."""

    @classmethod
    def make(cls, values: np.ndarray, weights: np.ndarray) -> Ranks:
        order = np.argsort(values)
        fractions = np.append(0, np.cumsum(weights[order]) / weights.sum())
        return cls(values[order], fractions)

    def find(self, values: np.ndarray) -> np.ndarray:
        """Return the fraction of the weight of the rows whose numbers are smaller."""
        return self.fractions[np.searchsorted(self.known, values)]


class Leverages(NamedTuple):
    """Distances of rows from the mean of the training rows, without themselves."""

    mean: Any
    scale: Any
    """Standard deviation of each feature ``(d,)``."""
    constant: list[int]
    alpha: float
    weight: float
    """Sum of the weights."""
    factor: Factor
    rows: Any = None
    """Kept rows ``(n, d)``, scaled and weighted, if the factor is that of their products."""
    ranks: tuple[Ranks, ...] = ()
    """Those of the leverages and of the squared norms of the kept rows, and of both together."""

    def measure(self, rows: Any) -> np.ndarray:
        """Return leverages and squared norms ``(2, n)`` of rows that are not in the factor."""
        xp, measured = Library.of(self.mean).xp, np.empty((2, rows.shape[0]))
        for block in row_blocks(rows.shape[0], 8 * rows.shape[1], BLOCK_BYTES):
            centered = _center(rows[block, ...], self.mean, None, self.constant)
            if not bool(xp.all(xp.isfinite(centered))):  # Chunks of Dask are not checked before.
                raise ValueError("X contains NaN or infinity.")
            scaled = centered / self.scale
            squares = xp.linalg.vecdot(scaled, scaled, axis=-1)  # before they are overwritten
            right = centered.T if self.rows is None else multiply(self.rows, scaled.T)
            solved = self.factor.half_solve(right)
            found = xp.linalg.vecdot(solved, solved, axis=-2)
            found = found if self.rows is None else (squares - found) / self.alpha
            measured[0, block], measured[1, block] = to_numpy(found), to_numpy(squares)
        # Differences of squares that overflow are NaN.
        measured = np.where(np.isnan(measured), np.inf, measured)
        return measured + np.array([[1 / self.weight], [0]])

    @np.errstate(all="ignore")
    def rank(self, rows: Any) -> np.ndarray:
        """Return the fraction ``(n,)`` of the kept rows whose distance is smaller."""
        leverages, squares = self.measure(rows)
        *parts, total = self.ranks
        return total.find(_join_ranks(parts[0].find(leverages), parts[1].find(squares)))


def _join_ranks(leverages: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the ranks of leverages, or those of squared norms if these are far higher.

    Leverages notice more, but not that all features are weak, as those of a black image are. The
    highest percent of norms counts as the highest five percent of leverages.
    """
    return np.maximum(leverages, 1 - 5 * (1 - squares))


@np.errstate(all="ignore")
def measure_leverages(moments: Moments, alpha: float) -> Leverages:
    """Return the leverages for an alpha; no other thread may use the moments."""
    moments.flush()
    library, sums, kept = moments.library, moments.sums, moments.kept
    with as_memory_error(REMEDY):
        scale, constant = _find_scale(moments)
        if sums.gram is None:
            rows = _center(kept.rows, sums.mean, scale, constant)
            rows *= library.put(np.sqrt(kept.weights))[:, None]
            matrix = (rows @ rows.T).T  # in Fortran order
            diagonal = library.xp.linalg.vecdot(rows, rows) + alpha
        else:
            rows, diagonal = None, sums.squares + alpha * scale**2
            # The next factor, and rows that are added, change the triangle of this factor.
            matrix = sums.gram.copy("K") if library.xp is np else sums.gram
            matrix = matrix if sums.rest is None else matrix + sums.rest
        factor = factorize(matrix, diagonal, constant if rows is None else ())
        if factor is None:
            raise too_small(alpha)
        found = Leverages(sums.mean, scale, constant, alpha, sums.weight, factor, rows)
        leverages, squares = found.measure(kept.rows)
    left = 1 - kept.weights * leverages
    leverages = np.where(left > 0, leverages / left, np.inf)
    squares = squares / (1 - kept.weights / sums.weight) ** 2  # from the mean of the others
    parts = [Ranks.make(values, kept.weights) for values in (leverages, squares)]
    both = _join_ranks(parts[0].find(leverages), parts[1].find(squares))
    return found._replace(ranks=(*parts, Ranks.make(both, kept.weights)))


def too_small(alpha: float) -> ValueError:
    """Return the error for an alpha with which the products are not positive definite."""
    return ValueError(
        f"alpha={alpha} is too small for these features, some of which depend linearly on the "
        "others; choose a larger alpha, or smaller weights if they are far above 1."
    )


def too_different() -> ValueError:
    """Return the error for weights of rows that spoil the leave-one-out errors."""
    return ValueError(
        f"Some rows have weights more than {WEIGHT_RANGE:.0e} times those of other rows, so that "
        "rounding spoils the leave-one-out errors, which choose alpha and make probabilities and "
        "intervals. Pass sample_weight or class_weight that differ less, or a single alpha for "
        "predictions alone."
    )


def score_classes(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Return minus the mean log loss of predicted targets ``(n, k)`` of classes, -1 and +1."""
    return -float(_calibrate(predicted, targets, weights).fun)


def find_temperature(errors: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Return the temperature of probabilities for leave-one-out errors ``(m, k)``.

    Rows without finite errors, because they cannot be left out, are ignored. If there are no other
    rows, the temperature is 1.
    """
    is_known = np.isfinite(errors).all(axis=1)
    if not is_known.any():
        return 1.0
    errors, targets, weights = errors[is_known], targets[is_known], weights[is_known]
    return 1 / float(_calibrate(targets - errors, targets, weights).x)


def _calibrate(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Any:
    """Minimize the mean log loss of the softmax of predicted targets, times a factor.

    Source: C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural
    Networks" (2017): the factor, which is the inverse of the temperature.
    """
    if targets.shape[1] == 1:
        predicted, targets = (np.hstack([-array, array]) for array in (predicted, targets))
    peaks = predicted.max(axis=1, keepdims=True)
    margins = peaks[:, 0] - np.sum(predicted, axis=1, where=targets > 0)
    below, fractions = predicted - peaks, weights / weights.sum()
    values = np.empty_like(below)  # New memory in each step would take longer.

    def loss(factor: float) -> float:
        np.exp(np.multiply(below, factor, out=values), out=values)
        return float(fractions @ (np.log(values.sum(axis=1)) + factor * margins))

    # The loss is a convex function of the factor. Values of a decision function are about -1 to 1.
    return minimize_scalar(loss, bounds=FACTORS, method="bounded")


def find_offsets(
    owner: str, coverage: Any, residuals: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the ends ``(2, k)`` of intervals around 0 that contain a fraction of residuals.

    A new row, of the mean weight, counts as a row outside, so that the fraction holds for few rows.
    The interval is infinite if there are too few rows, or if rows cannot be left out.
    """
    rule = "a number between 0 and 1, both excluded"
    is_number = isinstance(coverage, Real) and not isinstance(coverage, bool)
    require(owner, "coverage", coverage, rule, is_number, is_number and 0 < coverage < 1)
    residuals = np.where(np.isnan(residuals), np.inf, residuals)
    order = np.argsort(residuals, axis=0)
    fractions = np.cumsum(weights[order], axis=0) / (weights.sum() + weights.mean())
    places = (fractions < coverage - 1e-12).sum(axis=0)
    ordered = np.take_along_axis(residuals, order, axis=0)
    ordered = np.concatenate([ordered, np.full((1, residuals.shape[1]), np.inf)])
    ends = ordered[places, np.arange(len(places))]
    return np.stack([-ends, ends])


def log_softmax(scores: Any, temperature: float) -> Any:
    """Return the logarithms of probabilities ``(n, k)``; one column of scores is two classes."""
    xp = Library.of(scores).xp
    if scores.shape[1] == 1:
        scores = xp.concat([-scores, scores], axis=1)
    scaled = (scores - xp.max(scores, axis=1, keepdims=True)) / temperature
    return scaled - xp.log(xp.sum(xp.exp(scaled), axis=1, keepdims=True))


SOLVERS: dict[Solver, Callable[[Moments], bool]] = {
    solve_by_rows: lambda moments: moments.sums.gram is None,
    solve_by_products: lambda moments: True,
}
"""Map from solvers to functions that say which moments they are for; the first one that is for the
moments solves them."""
