"""Leave-one-out errors and their scores, by which the regularization is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from sklearn_conv._validation import check_name

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
    errors: np.ndarray, targets: np.ndarray, weights: np.ndarray, scoring: str | None
) -> np.ndarray:
    """Return the score of each column of the leave-one-out errors ``(k,)``.

    It is minus the mean squared error, where squares are multiplied by the weights of the rows. For
    "neg_log_loss", it is the score of all columns by `score_classes` instead.
    """
    if scoring is None:
        return -weights @ np.square(errors) / len(weights)
    return np.full(errors.shape[1], score_classes(targets - errors, targets, weights))


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
