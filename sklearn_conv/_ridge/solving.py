"""Compute the coefficients for each alpha from moments, and choose one alpha."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

from sklearn_conv._array_api import Library, kind_of
from sklearn_conv._ridge.blocks import row_blocks
from sklearn_conv._ridge.leave_one_out import (
    leave_one_out_errors,
    leave_one_out_scores,
    mirror_lower_triangle,
    shortlist_alphas,
)
from sklearn_conv._ridge.moments import Moments
from sklearn_conv._ridge.products import SINGLE_FEATURES
from sklearn_conv._ridge.targets import Regression
from sklearn_conv._validation import is_finite, is_sequence, parameter_error

N_FACTORS = 3
"""Number of alphas from which a factor in float32 for each selects some of them first."""


class Search(NamedTuple):
    """The alphas from which one is chosen, or one for each column of the targets."""

    alphas: tuple[float, ...]
    per_target: bool = False
    scoring: str | None = None
    """What decides: squared errors if None, otherwise "neg_log_loss", for classes."""


class Solution(NamedTuple):
    """Solution for the chosen alpha; k is the number of columns of the targets."""

    alphas: tuple[float, ...]
    alpha: float | np.ndarray
    """The chosen alpha, or one for each column ``(k,)``."""
    score: float | np.ndarray | None
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
    per_target: bool = False
    """Whether an alpha was chosen for each column."""
    scoring: str | None = None
    """By what alpha was chosen."""

    @property
    def search(self) -> Search:
        """The parameters for which this is the solution."""
        return Search(self.alphas, self.per_target, self.scoring)

    def move(self, library: Library) -> Solution:
        """Return the solution in another library, or on another device."""

        def put(value: Any) -> Any:
            return library.put(value) if hasattr(value, "shape") else value

        return self._replace(
            alpha=put(self.alpha),
            score=put(self.score),
            coef=put(self.coef),
            mean=put(self.mean),
            level=put(self.level),
            scale=put(self.scale),
        )

    def predict(self, rows: Any) -> Any:
        """Return the predicted targets ``(n, k)``, in the library of the solution."""
        library, dtype = Library.of(self.coef), self.coef.dtype
        xp, weights = library.xp, self.coef.T
        predicted = library.empty((rows.shape[0], weights.shape[1]), dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for block in row_blocks(rows):
                # Rows are centered first: a large offset would cause large products that cancel.
                values = rows[block, ...]
                if (
                    kind_of(values) != "f"
                ):  # The standard has no differences of integers and floats.
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


def solve(
    moments: Moments, n_writes: int, classes: np.ndarray | None, search: Search
) -> Solution | None:
    """Return the solution for the alpha with the best leave-one-out score.

    ``n_writes`` is what `Moments.begin_solving` returned. No other thread may use the moments.
    Return None if they were changed since then, which only a signal handler in this thread can do;
    the caller then solves again.
    """
    solutions = _solve_by_rows if moments.gram is None else _solve_by_products
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            scale = np.sqrt(moments.variances)
            regression = moments.targets.regression(moments.kept.targets, classes)
            if not np.isfinite(regression.products).all():
                raise ValueError(
                    "The products of features and targets overflow float64; divide the targets by "
                    "their standard deviation first."
                )
            choice = choose_alpha(
                solutions(moments, scale, regression, search),
                partial(
                    leave_one_out_scores,
                    targets=regression.kept,
                    weights=moments.kept.weights,
                    counts=moments.kept_counts,
                    scoring=search.scoring,
                ),
                len(regression.mean),
                search,
            )
    except (ValueError, IndexError):
        if moments.n_writes == n_writes:
            raise
        return None
    if moments.n_writes != n_writes:
        return None
    return Solution(
        alphas=search.alphas,
        alpha=choice.alpha,
        score=choice.score,
        classes=classes,
        coef=np.stack(choice.columns),
        mean=moments.mean,
        level=regression.mean,
        scale=scale,
        per_target=search.per_target,
        scoring=search.scoring,
    )


Candidate = tuple[float, Any, np.ndarray | None]
"""An alpha, its coefficients ``(d, k)`` for features that are not standardized, and leave-one-out
errors ``(m, k)`` of the kept rows, or None if there is only one alpha."""


class Choice(NamedTuple):
    """The best alpha, or one for each of k columns."""

    alpha: Any
    score: Any
    """None if there is only one alpha."""
    columns: list[Any]
    """Coefficients of each column, each ``(d,)``."""


def choose_alpha(
    candidates: Iterator[Candidate],
    score: Callable[[np.ndarray], np.ndarray],
    n_targets: int,
    search: Search,
) -> Choice:
    """Choose an alpha; ``score`` returns the scores ``(k,)`` of leave-one-out errors."""
    alphas, best = np.empty(n_targets), np.full(n_targets, -np.inf)
    columns: list[Any] = [None] * n_targets
    for i, (alpha, coef, errors) in enumerate(candidates):
        scores = np.zeros(n_targets) if errors is None else score(errors)
        if not search.per_target:
            scores = np.full(n_targets, scores.mean())
        is_better = (scores > best) | (i == 0)
        alphas[is_better], best[is_better] = alpha, scores[is_better]
        for j in np.flatnonzero(is_better).tolist():
            columns[j] = coef[:, j]
    found: tuple[Any, Any] = float(alphas[0]), float(best[0])
    if search.per_target and n_targets > 1:
        found = alphas, best
    return Choice(found[0], found[1] if len(search.alphas) > 1 else None, columns)


def _solve_by_rows(
    moments: Moments, scale: np.ndarray, regression: Regression, search: Search
) -> Iterator[Candidate]:
    """Solve for few rows, all of which are kept, by the eigenvectors of their products ``K``.

    The rows are multiplied by the roots of their weights. Without an intercept, the leave-one-out
    error of a row would be its element of ``inv(K + alpha * I) @ targets``, divided by its element
    of the diagonal of this inverse. With an intercept, the inverse is that on the complement of the
    roots, which are an eigenvector for 0 because the rows are centered. So that it can be told from
    others, its eigenvalue is made as large as the sum of all others.

    Source: R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007).
    """
    roots = np.sqrt(moments.kept.weights)
    rows = (moments.kept.rows - moments.mean) / scale * roots[:, np.newaxis]  # (n, d)
    # This is the sum of the squares of all rows.
    total = moments.targets.weight * rows.shape[1]
    if min(search.alphas) < total * np.finfo(np.float64).eps:
        raise too_small(min(search.alphas))
    intercept = roots / np.sqrt(moments.targets.weight)  # of unit length
    products = rows @ rows.T
    products += total * np.outer(intercept, intercept)
    values, vectors = np.linalg.eigh(products)
    targets = (regression.kept - regression.mean) * roots[:, np.newaxis]
    projected = vectors.T @ targets
    for alpha in search.alphas:
        inverse = 1 / (np.maximum(values, 0) + alpha)
        dual = vectors @ (inverse[:, np.newaxis] * projected)  # (n, k)
        coef = (rows.T @ dual) / scale[:, np.newaxis]
        errors = None
        if len(search.alphas) > 1:
            diagonal = np.square(vectors) @ inverse - np.square(intercept) / (total + alpha)
            errors = dual / (roots * diagonal)[:, np.newaxis]
        yield alpha, coef, errors


def _solve_by_products(
    moments: Moments, scale: np.ndarray, regression: Regression, search: Search
) -> Iterator[Candidate]:
    """Solve for many rows, with one Cholesky factor for each alpha that may be the best.

    Ridge regression with ``alpha`` on standardized features is equivalent to ridge regression with
    ``alpha * variance`` on the original features, so the products need not be scaled.

    The factors are computed in the upper triangle and the diagonal of ``gram``. Each computation
    begins from the lower triangle and the separate diagonal. Numbers that an interrupted solve, or
    a solve in the parent of a forked process, has left in the upper triangle are therefore ignored.
    """
    assert moments.gram is not None
    gram, variances = moments.gram, np.square(scale)
    alphas_left = search.alphas
    is_single = moments.kept.rows.dtype == np.float32 and len(scale) >= SINGLE_FEATURES
    if is_single and len(search.alphas) >= N_FACTORS:
        alphas_left = shortlist_alphas(moments, scale, regression, *search)
    for alpha in alphas_left:
        mirror_lower_triangle(gram)
        np.fill_diagonal(gram, moments.squares + alpha * variances)
        factor, failed = lapack.dpotrf(gram, lower=0, clean=0, overwrite_a=1)
        if failed:
            raise too_small(alpha)
        coef, _ = lapack.dpotrs(factor, regression.products, lower=0)  # (d, k)
        errors = None
        if len(search.alphas) > 1:
            # (d, m); BLAS overwrites arrays in Fortran order without a copy
            kept = np.subtract(moments.kept.rows.T, moments.mean[:, np.newaxis], order="F")
            predicted = blas.dgemm(1.0, kept, coef, trans_a=1)
            solved = blas.dtrsm(1.0, factor, kept, lower=0, trans_a=1, overwrite_b=1)  # (d, m)
            leverages = np.einsum("dm,dm->m", solved, solved)
            residuals = regression.kept - regression.mean - predicted
            weights, total = moments.kept.weights, moments.targets.weight
            errors = leave_one_out_errors(residuals, leverages, weights, total)
        yield alpha, coef, errors


def too_small(alpha: float) -> ValueError:
    """Return the error for an alpha with which the products are not positive definite."""
    return ValueError(
        f"alpha={alpha} is too small for these features, some of which depend linearly on the "
        "others; choose a larger alpha."
    )
