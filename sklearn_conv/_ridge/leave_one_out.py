"""Leave-one-out errors of the kept rows, and the alphas that may have the smallest error."""

from __future__ import annotations

import numpy as np
from scipy.linalg import blas, lapack

from sklearn_conv._ridge.moments import Moments
from sklearn_conv._ridge.targets import Regression

TRIANGLE_BLOCK = 256
"""Number of rows and columns that are mirrored at once, in the cache."""

KEPT_BLOCK = 500
"""Number of kept rows whose leverages are computed at once, so that their copies are small."""

SMALLEST_PIVOT = 100 * float(np.finfo(np.float32).eps)
"""Smallest square on the diagonal of a factor of correlations that is trusted in float32. Rounding
changes it by about a hundredth."""

TIE = 1e-5
"""Relative difference of errors that is not trusted in float32."""


def leave_one_out_scores(
    moments: Moments, regression: Regression, predicted: np.ndarray, leverages: np.ndarray
) -> np.ndarray:
    """Return minus the mean squared leave-one-out error of the kept rows, for each column ``(k,)``.

    ``predicted`` ``(m, k)`` are the predictions for the kept rows, less the mean of the targets,
    and ``leverages`` ``(m,)`` are the leverages of the centered rows with weight 1. The
    leave-one-out error of a row is its error, divided by 1 minus its leverage. Squared errors are
    multiplied by the weights of the rows.

    Source: R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007).
    """
    weights, counts = moments.kept.weights, moments.kept_counts
    leverages = weights * (leverages + 1 / moments.targets.weight)
    errors = regression.kept - regression.mean - predicted
    squares = np.square(errors / (1 - leverages)[:, np.newaxis])
    return -(counts * weights) @ squares / counts.sum()


def shortlist_alphas(
    moments: Moments,
    scale: np.ndarray,
    regression: Regression,
    alphas: tuple[float, ...],
    per_target: bool,
) -> tuple[float, ...]:
    """Return the alphas that may have the smallest error, by factors in float32.

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
            scores[:] = leave_one_out_scores(moments, regression, predicted, leverages)
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
