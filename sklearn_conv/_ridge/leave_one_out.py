"""Leave-one-out scores of the kept rows, and the alphas that may have the best score."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import blas, lapack
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from sklearn_conv._ridge.moments import Moments
from sklearn_conv._ridge.targets import Regression
from sklearn_conv._validation import check_name

TRIANGLE_BLOCK = 256
"""Number of rows and columns that are mirrored at once, in the cache."""

KEPT_BLOCK = 500
"""Number of kept rows whose leverages are computed at once, so that their copies are small."""

SMALLEST_PIVOT = 100 * float(np.finfo(np.float32).eps)
"""Smallest square on the diagonal of a factor of correlations that is trusted in float32. Rounding
changes it by about a hundredth."""

TIE = 1e-5
"""Relative difference of scores that is not trusted in float32."""

SCORINGS = ("neg_log_loss",)
"""Scores other than minus the mean squared error."""

LARGEST_FACTOR = 20.0
"""Largest factor of a decision function, whose values are about -1 to 1, in a softmax."""


def check_scoring(owner: str, value: Any) -> str | None:
    """Check the name of a score of classes, or None for minus the mean squared error."""
    return value if value is None else check_name(owner, "scoring", value, SCORINGS, " or None")


def leave_one_out_errors(
    residuals: np.ndarray, leverages: np.ndarray, weights: np.ndarray, total: float
) -> np.ndarray:
    """Return the leave-one-out errors of the kept rows ``(m, k)``.

    ``residuals`` ``(m, k)`` are the targets less their predictions, ``leverages`` ``(m,)`` are the
    leverages of the centered rows with weight 1, ``weights`` ``(m,)`` are those of these rows, and
    ``total`` is the weight of all rows. The leave-one-out error of a row is its residual, divided
    by 1 minus its leverage.

    Source: R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007).
    """
    return residuals / (1 - weights * (leverages + 1 / total))[:, np.newaxis]


def leave_one_out_scores(
    errors: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    counts: np.ndarray,
    scoring: str | None,
) -> np.ndarray:
    """Return the score of each column of the leave-one-out errors ``(k,)``.

    It is minus the mean squared error, where squares are multiplied by the weights of the rows, and
    a row counts ``counts`` times. For "neg_log_loss", it is the score of all columns by
    `score_classes` instead.
    """
    if scoring is None:
        return -(counts * weights) @ np.square(errors) / counts.sum()
    score = score_classes(targets - errors, targets, counts * weights)
    return np.full(errors.shape[1], score)


def score_classes(predicted: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Return minus the mean log loss of predicted targets ``(n, k)`` of classes, -1 and +1.

    The probabilities are the softmax of the predicted targets times a factor, for which the loss is
    smallest.

    Source: C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural
    Networks" (2017): the factor, which is the inverse of a temperature.
    """
    if targets.shape[1] == 1:
        predicted, targets = (np.hstack([-array, array]) for array in (predicted, targets))
    margins = predicted - np.sum(predicted, axis=1, where=targets > 0, keepdims=True)

    def loss(factor: float) -> float:
        return float(np.average(logsumexp(factor * margins, axis=1), weights=weights))

    # The loss is a convex function of the factor.
    return -float(minimize_scalar(loss, bounds=(0, LARGEST_FACTOR), method="bounded").fun)


def shortlist_alphas(
    moments: Moments,
    scale: np.ndarray,
    regression: Regression,
    alphas: tuple[float, ...],
    per_target: bool,
    scoring: str | None = None,
) -> tuple[float, ...]:
    """Return the alphas that may have the best score, by factors in float32.

    Such factors take less time. Alphas that are too small for float32 are returned as well.
    """
    weight = moments.targets.weight
    correlations = _correlations(moments, scale)
    products = np.asfortranarray(regression.products / (scale[:, np.newaxis] * weight), np.float32)
    predicted = np.empty(regression.kept.shape)
    leverages = np.empty(len(regression.kept))
    table = np.full((len(alphas), len(regression.mean)), np.nan)
    for scores, alpha in zip(table, alphas, strict=True):
        mirror_lower_triangle(correlations)
        np.fill_diagonal(correlations, 1 + alpha / weight)
        factor, failed = lapack.spotrf(correlations, lower=0, clean=0, overwrite_a=1)
        if not failed and np.square(factor.diagonal()).min() > SMALLEST_PIVOT:
            coef, _ = lapack.spotrs(factor, products, lower=0)  # (d, k)
            for start in range(0, len(leverages), KEPT_BLOCK):
                block = slice(start, start + KEPT_BLOCK)
                rows = ((moments.kept.rows[block] - moments.mean) / scale).astype(np.float32)
                predicted[block] = blas.sgemm(1.0, coef, rows.T, trans_a=1).T
                solved = blas.strsm(1.0, factor, rows.T, lower=0, trans_a=1, overwrite_b=1)
                leverages[block] = np.einsum("dm,dm->m", solved, solved) / weight
            residuals = regression.kept - regression.mean - predicted
            errors = leave_one_out_errors(residuals, leverages, moments.kept.weights, weight)
            scores[:] = leave_one_out_scores(
                errors, regression.kept, moments.kept.weights, moments.kept_counts, scoring
            )
    if not per_target:
        table = table.mean(axis=1, keepdims=True)
    is_unknown = np.isnan(table)
    best = np.where(is_unknown, -np.inf, table).max(axis=0)
    is_possible = is_unknown | (table >= best * (1 + TIE))  # The scores are negative.
    return tuple(np.array(alphas)[is_possible.any(axis=1)].tolist())


def _correlations(moments: Moments, scale: np.ndarray) -> np.ndarray:
    """Return the correlations of the features below the diagonal, in float32."""
    assert moments.gram is not None
    correlations = np.empty(moments.gram.shape, np.float32, order="F")
    for start in range(0, len(scale), TRIANGLE_BLOCK):
        block = slice(start, start + TRIANGLE_BLOCK)
        columns = moments.gram[start:, block] / (moments.targets.weight * scale[block])
        np.divide(columns, scale[start:, np.newaxis], out=correlations[start:, block])
    return correlations


def mirror_lower_triangle(matrix: np.ndarray) -> None:
    """Copy the lower triangle to the upper one, in place."""
    for start in range(0, len(matrix), TRIANGLE_BLOCK):
        block = slice(start, start + TRIANGLE_BLOCK)
        for above in range(0, start, TRIANGLE_BLOCK):
            rows = slice(above, above + TRIANGLE_BLOCK)
            matrix[rows, block] = matrix[block, rows].T
        corner = matrix[block, block]
        # Only the upper triangle is written: a signal handler may add rows to the lower one.
        np.copyto(corner, corner.T, where=~np.tri(len(corner), dtype=bool))
