"""Compute the coefficients for each alpha from moments, and choose one alpha."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack
from sklearn.linear_model import RidgeCV

from sklearn_conv._ridge.blocks import row_blocks
from sklearn_conv._ridge.leave_one_out import (
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


class Solution(NamedTuple):
    """Solution for the chosen alpha; k is the number of columns of the targets."""

    alphas: tuple[float, ...]
    alpha: float | np.ndarray
    """The chosen alpha, or one for each column ``(k,)``."""
    score: float | np.ndarray | None
    """Minus the mean squared leave-one-out error; None if there is only one alpha."""
    classes: np.ndarray | None
    """Class labels of a classifier."""
    coef: np.ndarray
    """Coefficients ``(k, d)`` for the original features, which are not standardized."""
    mean: np.ndarray
    """Mean of each feature ``(d,)``."""
    level: np.ndarray
    """Mean of each target ``(k,)``, which is the prediction at the mean of the features."""
    scale: np.ndarray
    """Standard deviation of each feature ``(d,)``."""
    per_target: bool = False
    """Whether an alpha was chosen for each column."""

    @property
    def search(self) -> Search:
        """The parameters for which this is the solution."""
        return Search(self.alphas, self.per_target)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the predicted targets ``(n, k)``."""
        predicted = np.empty((len(rows), len(self.level)))
        with np.errstate(over="ignore", invalid="ignore"):
            for block in row_blocks(rows):
                # Rows are centered first: a large offset would cause large products that cancel.
                np.dot(rows[block] - self.mean, self.coef.T, out=predicted[block])
            predicted += self.level
        if not np.isfinite(predicted).all():
            raise ValueError(
                "The predictions overflow float64: some features of X are far larger than those "
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
    """Return the solution for the alpha with the smallest mean squared leave-one-out error.

    ``n_writes`` is what `Moments.begin_solving` returned. No other thread may use the moments.
    Return None if they were changed since then, which only a signal handler in this thread can do;
    the caller then solves again.
    """
    choose = _choose_by_rows if moments.gram is None else _choose_by_products
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            scale = np.sqrt(moments.variances)
            regression = moments.targets.regression(moments.kept.targets, classes)
            if not np.isfinite(regression.products).all():
                raise ValueError(
                    "The products of features and targets overflow float64; divide the targets by "
                    "their standard deviation first."
                )
            alpha, score, coef = choose(moments, scale, regression, search)
    except (ValueError, IndexError):
        if moments.n_writes == n_writes:
            raise
        return None
    if moments.n_writes != n_writes:
        return None
    return Solution(
        alphas=search.alphas,
        alpha=alpha,
        score=score if len(search.alphas) > 1 else None,
        classes=classes,
        coef=coef,
        mean=moments.mean,
        level=regression.mean,
        scale=scale,
        per_target=search.per_target,
    )


Choice = tuple[float | np.ndarray, float | np.ndarray, np.ndarray]
"""Chosen alpha and its score, or one of each for each column ``(k,)``, and coefficients ``(k, d)``
for features that are not standardized."""


def _choose_by_rows(
    moments: Moments, scale: np.ndarray, regression: Regression, search: Search
) -> Choice:
    """Solve for few rows, all of which are kept."""
    weights = moments.kept.weights
    rows = (moments.kept.rows - moments.mean) / scale  # (n, d), standardized
    # This is the sum of the squares of all standardized rows.
    total = moments.targets.weight * rows.shape[1]
    if min(search.alphas) < total * np.finfo(np.float64).eps:
        raise _too_small(min(search.alphas))
    ridge = RidgeCV(list(search.alphas), alpha_per_target=search.per_target)
    ridge.fit(rows, regression.kept, None if (weights == 1).all() else weights)
    coef = np.atleast_2d(ridge.coef_) / scale
    if search.per_target and len(coef) > 1:
        return ridge.alpha_, ridge.best_score_, coef
    # They are arrays for one column if an alpha is to be chosen for each.
    return float(np.ravel(ridge.alpha_)[0]), float(np.ravel(ridge.best_score_)[0]), coef


def _choose_by_products(
    moments: Moments, scale: np.ndarray, regression: Regression, search: Search
) -> Choice:
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
    n_targets = len(regression.mean)
    alphas, scores = np.empty(n_targets), np.full(n_targets, -np.inf)
    coefs = np.empty((n_targets, len(scale)))
    for i, alpha in enumerate(alphas_left):
        mirror_lower_triangle(gram)
        np.fill_diagonal(gram, moments.squares + alpha * variances)
        factor, failed = lapack.dpotrf(gram, lower=0, clean=0, overwrite_a=1)
        if failed:
            raise _too_small(alpha)
        coef, _ = lapack.dpotrs(factor, regression.products, lower=0)  # (d, k)
        score = np.zeros(n_targets)
        if len(search.alphas) > 1:
            # (d, m); BLAS overwrites arrays in Fortran order without a copy
            kept = np.subtract(moments.kept.rows.T, moments.mean[:, np.newaxis], order="F")
            predicted = blas.dgemm(1.0, kept, coef, trans_a=1)
            solved = blas.dtrsm(1.0, factor, kept, lower=0, trans_a=1, overwrite_b=1)  # (d, m)
            leverages = np.einsum("dm,dm->m", solved, solved)
            score = leave_one_out_scores(moments, regression, predicted, leverages)
            if not search.per_target:
                score[:] = score.mean()
        is_better = (score > scores) | (i == 0)
        alphas[is_better], scores[is_better] = alpha, score[is_better]
        coefs[is_better] = coef.T[is_better]
    if search.per_target and n_targets > 1:
        return alphas, scores, coefs
    return float(alphas[0]), float(scores[0]), coefs


def _too_small(alpha: float) -> ValueError:
    return ValueError(
        f"alpha={alpha} is too small for these features, some of which depend linearly on the "
        "others; choose a larger alpha."
    )
