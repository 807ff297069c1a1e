"""Scores of classes, their probabilities, and intervals, from leave-one-out errors."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from sklearn_conv._array_api import Library
from sklearn_conv._validation import require

FACTORS = (1e-4, 20)
"""Range of the inverse of the temperature. The best one has no bound if all rows are right."""


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


def check_coverage(owner: str, coverage: Any) -> None:
    """Raise an error if a probability is not between 0 and 1."""
    rule = "a number between 0 and 1, both excluded"
    is_number = isinstance(coverage, Real) and not isinstance(coverage, bool)
    require(owner, "coverage", coverage, rule, is_number, is_number and 0 < coverage < 1)


def find_offsets(
    owner: str, coverage: Any, residuals: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return the ends ``(2, k)`` of intervals around 0 that contain a fraction of residuals.

    A new row, of the mean weight, counts as a row outside, so that the fraction holds for few rows.
    The interval is infinite if there are too few rows, or if rows cannot be left out.
    """
    check_coverage(owner, coverage)
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
