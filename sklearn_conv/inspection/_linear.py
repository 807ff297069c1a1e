"""Find the constant and the weights of a linear decision by probing the model.

The model is called with rows in which only one feature is not 0. This works for all linear steps,
whatever their attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.pipeline import Pipeline

from sklearn_conv.inspection._branches import Part
from sklearn_conv.inspection._tables import as_rows, call, select_rows

PROBE_BYTES = 2**25
"""Approximate size of a batch of probe rows in bytes."""

N_CHECKED = 100
"""Number of images from which the scale of the features is taken, to probe each step."""

N_RANDOM_ROWS = 8
"""Number of pairs of random rows with which the linearity of a step is checked."""

TOLERANCE = 1e-6
"""Largest deviation of a linear step, as a fraction of its largest term."""


class LinearDecision:
    """The decision of a model as a function of the features of its sources.

    ``part`` computes the features, and ``head`` is the rest of the model. ``values`` are the
    features of some images, ``(b, d)``, that the replica of the part has just computed.
    """

    constant: np.ndarray
    """(outputs,)"""
    weights: np.ndarray
    """(d, outputs)"""

    def __init__(self, owner: str, part: Part, head: Pipeline) -> None:
        self._owner = owner
        self._part = part
        self._head = head
        self._respond = _find_response(owner, head)

    def decide(self) -> np.ndarray:
        """Return the decisions for the last images, ``(b, outputs)``."""
        return as_rows(self._respond(self._part.outputs))

    def fit(self, values: np.ndarray) -> None:
        """Find the constant and the weights, and raise ValueError if a step is not linear."""
        for step in self._part.later_steps():
            rows = select_rows(step.inputs, slice(N_CHECKED))
            self._require_linear(_describe(step.name, step.step), step.step.transform, rows)
        rows = select_rows(self._part.outputs, slice(N_CHECKED))
        for name, step in self._head.steps[:-1]:
            if step not in (None, "passthrough"):
                self._require_linear(_describe(name, step), step.transform, rows)
                rows = step.transform(rows)
        name, last = self._head.steps[-1]
        self._require_linear(_describe(name, last), _find_response(self._owner, last), rows)

        scale = np.abs(values[:N_CHECKED]).max(axis=0)  # (d,)
        scale[scale == 0] = 1
        d = len(scale)
        self.constant = self._call(np.zeros((1, d)))[0]
        self.weights = np.empty((d, len(self.constant)))
        n_probes = max(1, PROBE_BYTES // (np.dtype(np.float64).itemsize * d))
        for start in range(0, d, n_probes):
            probed = np.arange(start, min(start + n_probes, d))
            probes = np.zeros((len(probed), d))
            probes[probed - start, probed] = scale[probed]
            decisions = self._call(probes)  # (n_probes, outputs)
            self.weights[probed] = (decisions - self.constant) / scale[probed, np.newaxis]

    def check(self, values: np.ndarray) -> None:
        """Raise ValueError unless the decisions are those that the weights predict."""
        difference = self._call(values) - (self.constant + values @ self.weights)  # (b, outputs)
        terms = np.abs(self.constant) + np.abs(values) @ np.abs(self.weights)
        self._require_small(_describe(*self._head.steps[-1]), difference, terms)

    def _call(self, values: np.ndarray) -> np.ndarray:
        return call(self._respond, self._part.outputs, self._part.resume(values))

    def _require_linear(self, description: str, function: Callable[[Any], Any], rows: Any) -> None:
        """Compare ``f(a + b) + f(0)`` with ``f(a) + f(b)`` at random rows on the scale of rows."""
        values = np.abs(as_rows(rows))
        scale = values.max(axis=0) + values.max()  # (d,)
        shape = (2, N_RANDOM_ROWS, len(scale))
        a, b = np.random.RandomState(0).standard_normal(shape) * scale
        try:
            zero, at_a, at_b, at_both = (
                call(function, rows, probe) for probe in (np.zeros_like(a), a, b, a + b)
            )
        except (TypeError, ValueError) as error:
            raise ValueError(self._not_linear(description)) from error
        terms = np.abs(zero) + np.abs(at_a) + np.abs(at_b)
        self._require_small(description, at_both + zero - at_a - at_b, terms)

    def _require_small(self, description: str, difference: np.ndarray, terms: np.ndarray) -> None:
        """Raise ValueError if the difference is not small compared with its terms, or is NaN."""
        if not np.abs(difference).max() <= TOLERANCE * terms.max():
            raise ValueError(self._not_linear(description))

    def _not_linear(self, description: str) -> str:
        return (
            f"{self._owner} needs a decision that is a weighted sum of the features, but "
            f"{description} is not linear; remove it, or use linear steps such as StandardScaler "
            "and PCA, followed by RidgeClassifier, LogisticRegression, LinearSVC or "
            "StreamingRidgeClassifier. For powers of features, use the parameter 'power' of "
            "StridedConv2DTransformer. To explain any other model, hide parts of the image and "
            "compare its predictions."
        )


def _find_response(owner: str, step: Any) -> Callable[[Any], np.ndarray]:
    """Return the method of a step whose results are explained."""
    if hasattr(step, "decision_function"):
        return step.decision_function
    if is_regressor(step):
        return step.predict
    last = step.steps[-1][1] if isinstance(step, Pipeline) else step
    raise TypeError(
        f"{owner} explains the decision_function of a linear classifier, but "
        f"{type(last).__name__} does not have this method; use RidgeClassifier, "
        "LogisticRegression, LinearSVC or StreamingRidgeClassifier."
    )


def _describe(name: str, step: Any) -> str:
    return f"step {name!r}, {type(step).__name__},"
