"""Compute the coefficients for each alpha from moments, and choose one alpha."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack
from sklearn.linear_model import RidgeCV

from sklearn_conv._ridge.labels import align_labels
from sklearn_conv._ridge.moments import Moments, row_blocks
from sklearn_conv._validation import is_finite, is_sequence, parameter_error

TRIANGLE_BLOCK = 256
"""Number of rows that are mirrored at once. A larger number makes larger copies, and a smaller one
more steps."""


class Solution(NamedTuple):
    """Solution for the chosen alpha; k is the number of classes, or 1 for two classes."""

    alphas: tuple[float, ...]
    alpha: float
    score: float | None
    """Minus the mean squared leave-one-out error; None if there is only one alpha."""
    classes: np.ndarray
    coef: np.ndarray
    """Coefficients ``(k, d)`` for the original features, which are not standardized."""
    mean: np.ndarray
    """Mean of each feature ``(d,)``."""
    level: np.ndarray
    """Mean of each target ``(k,)``, which is the prediction at the mean of the features."""
    scale: np.ndarray
    """Standard deviation of each feature ``(d,)``."""

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


class Targets(NamedTuple):
    """Targets of +1 and -1, one column per class (one column for two classes)."""

    mean: np.ndarray
    """Mean of each column ``(k,)``."""
    products: np.ndarray
    """Products ``(d, k)`` of the centered features and the targets, summed over all rows."""
    kept: np.ndarray
    """Targets ``(m, k)`` of the kept rows."""


def check_alphas(owner: str, value: Any) -> tuple[float, ...]:
    """Check ``alphas``, a number or a sequence, and return its values as floats."""
    alphas = tuple(np.asarray(value, dtype=object)) if is_sequence(value) else (value,)
    rule = "a finite number above 0 or a sequence of such numbers"
    if not all(isinstance(alpha, Real) and not isinstance(alpha, bool) for alpha in alphas):
        raise parameter_error(TypeError, owner, "alphas", rule, value)
    if not alphas or not all(alpha > 0 and is_finite(alpha) for alpha in alphas):
        raise parameter_error(ValueError, owner, "alphas", rule, value)
    return tuple(map(float, alphas))


def solve(
    moments: Moments, n_writes: int, classes: np.ndarray, alphas: tuple[float, ...]
) -> Solution | None:
    """Return the solution for the alpha with the smallest mean squared leave-one-out error.

    ``n_writes`` is what `Moments.begin_solving` returned. No other thread may use the moments.
    Return None if they were changed since then, which only a signal handler in this thread can do;
    the caller then solves again.
    """
    solve_moments = _solve_rows if moments.gram is None else _solve_products
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            solution = solve_moments(moments, classes, alphas)
    except (ValueError, IndexError):
        if moments.n_writes == n_writes:
            raise
        return None
    return solution if moments.n_writes == n_writes else None


def _compute_targets(moments: Moments, classes: np.ndarray) -> Targets:
    """Return targets of +1 and -1, one column per class (one column for two classes)."""
    counts = np.zeros(len(classes))
    products = np.zeros((len(classes), len(moments.mean)))
    # The moments contain only classes that have rows so far.
    classes, seen_classes, kept_labels = align_labels(classes, moments.classes, moments.kept_labels)
    seen = np.searchsorted(classes, seen_classes)
    counts[seen] = moments.counts
    # A target is twice the indicator of the class, minus 1. The centered features sum to zero, so
    # the 1 contributes nothing.
    products[seen] = 2 * moments.counts[:, np.newaxis] * (moments.class_means - moments.mean)
    kept = np.where(kept_labels[:, np.newaxis] == classes, 1.0, -1.0)
    columns = slice(1, None) if len(classes) == 2 else slice(None)
    return Targets(
        mean=2 * counts[columns] / counts.sum() - 1,
        products=products[columns].T,
        kept=kept[:, columns],
    )


def _solve_rows(moments: Moments, classes: np.ndarray, alphas: tuple[float, ...]) -> Solution:
    """Solve for few rows, all of which are kept."""
    scale = np.sqrt(moments.variances)
    targets = _compute_targets(moments, classes)
    rows = (moments.kept_rows - moments.mean) / scale  # (n, d), standardized
    # rows.size is the sum of the squares of all standardized rows.
    if min(alphas) < rows.size * np.finfo(np.float64).eps:
        raise _too_small(min(alphas))
    ridge = RidgeCV(list(alphas)).fit(rows, targets.kept)
    return Solution(
        alphas=alphas,
        alpha=float(ridge.alpha_),
        score=float(ridge.best_score_) if len(alphas) > 1 else None,
        classes=classes,
        coef=np.atleast_2d(ridge.coef_) / scale,
        mean=moments.mean,
        level=targets.mean,
        scale=scale,
    )


def _solve_products(moments: Moments, classes: np.ndarray, alphas: tuple[float, ...]) -> Solution:
    """Solve for many rows, with one Cholesky factor for each alpha.

    Ridge regression with ``alpha`` on standardized features is equivalent to ridge regression with
    ``alpha * variance`` on the original features, so the products need not be scaled.

    The factors are computed in the upper triangle and the diagonal of ``gram``. Each computation
    begins from the lower triangle and the separate diagonal. Numbers that an interrupted solve, or
    a solve in the parent of a forked process, has left in the upper triangle are therefore ignored.
    """
    assert moments.gram is not None
    gram, variances = moments.gram, moments.variances
    targets = _compute_targets(moments, classes)
    several = len(alphas) > 1
    best: Solution | None = None
    best_score = 0.0
    for alpha in alphas:
        _mirror_lower_triangle(gram)
        np.fill_diagonal(gram, moments.squares + alpha * variances)
        factor, failed = lapack.dpotrf(gram, lower=0, clean=0, overwrite_a=1)
        if failed:
            raise _too_small(alpha)
        coef, _ = lapack.dpotrs(factor, targets.products, lower=0)  # (d, k)
        score = _leave_one_out_score(moments, targets, factor, coef) if several else 0.0
        if best is None or score > best_score:
            best_score = score
            best = Solution(
                alphas=alphas,
                alpha=alpha,
                score=score if several else None,
                classes=classes,
                coef=coef.T.copy(),
                mean=moments.mean,
                level=targets.mean,
                scale=np.sqrt(variances),
            )
    assert best is not None
    return best


def _leave_one_out_score(
    moments: Moments, targets: Targets, factor: np.ndarray, coef: np.ndarray
) -> float:
    """Return minus the mean squared leave-one-out error of the kept rows.

    The leave-one-out error of a row is the error of the fit on all rows, divided by 1 minus the
    leverage of the row.

    Source: R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007).
    """
    # (d, m); BLAS overwrites arrays in Fortran order without a copy
    kept = np.subtract(moments.kept_rows.T, moments.mean[:, np.newaxis], order="F")
    errors = targets.kept - targets.mean - kept.T @ coef  # (m, k)
    solved = blas.dtrsm(1.0, factor, kept, lower=0, trans_a=1, overwrite_b=1)  # (d, m)
    leverages = 1 / moments.n_rows + np.einsum("dm,dm->m", solved, solved)
    squares = np.square(errors / (1 - leverages)[:, np.newaxis]).mean(axis=1)  # (m,)
    return -float(squares @ moments.kept_counts / moments.kept_counts.sum())


def _too_small(alpha: float) -> ValueError:
    return ValueError(
        f"alpha={alpha} is too small for these features, some of which depend linearly on the "
        "others; choose a larger alpha."
    )


def _mirror_lower_triangle(matrix: np.ndarray) -> None:
    """Copy the lower triangle to the upper one, in place."""
    for start in range(0, len(matrix), TRIANGLE_BLOCK):
        block = slice(start, start + TRIANGLE_BLOCK)
        matrix[:start, block] = matrix[block, :start].T
        corner = matrix[block, block]
        # Only the upper triangle is written: a signal handler may add rows to the lower one.
        np.copyto(corner, corner.T, where=~np.tri(len(corner), dtype=bool))
