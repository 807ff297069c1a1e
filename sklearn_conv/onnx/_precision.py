"""Refuse to export features that are too large beside their spread for float32.

Features in float32 have a relative rounding error of about ``EPS``. NumPy and onnxruntime add in
different orders, so their features differ by such errors. Standardizing the features multiplies the
errors by ``mean / scale``: images of 60,000 +- 2 with zeros as padding have features such as
4,000 +- 0.1. In a decision, the errors of the features add up like independent random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV

from sklearn_conv._ridge.classifier import StreamingRidgeClassifier

EPS = 2.0**-24
"""Relative rounding error of float32."""

LIMIT = 4e-5
"""Largest estimate of the error of a decision, relative to its spread, that is exported. In trials
with 700 images each, the largest error of a decision was usually 2 to 10 times the estimate, and at
most 23 times for features that are nearly collinear, so that it stays below 1e-3."""

TARGETS_OF_1 = (StreamingRidgeClassifier, RidgeClassifier, RidgeClassifierCV)
"""Classifiers that predict targets of +1 and -1, so that the spread of a decision is at most 1."""


def require_precision(operator: Any, owner: str) -> None:
    """Raise a ValueError if the next step divides the features of an operator by a tiny spread."""
    for step in _find_next(operator):
        model = step.raw_operator
        mean, scale = (getattr(model, name, None) for name in ("mean_", "scale_"))
        if mean is not None and scale is not None:
            ratios = np.abs(mean / scale)
            error = _relative_error(step, ratios, scale)
            worst = int(ratios.argmax())
            example = (
                f"feature {worst} has mean {mean[worst]:.7g} and standard deviation "
                f"{scale[worst]:.2g}"
            )
        elif isinstance(model, TARGETS_OF_1):
            # The features are not standardized, and their mean is unknown. The intercept balances
            # its product with the coefficients. The product has errors of its own.
            intercept = np.abs(model.intercept_).max()
            error = 4 * intercept
            example = f"an intercept of {intercept:.7g} balances them in a decision of about 1"
        else:
            continue
        if EPS * error > LIMIT:
            raise ValueError(
                f"{owner} in float32 would not lead to the decisions of scikit-learn, because the "
                f"features are too large beside their spread: for example, {example}. "
                "This happens if the images have a large offset that the kernels do not remove. "
                "Fit again with padding='valid' or padding_mode='edge' and kernels with zero mean, "
                "with normalize_patches=True, or on images whose offset has been subtracted; or "
                "fit and export in float64, with X.astype(np.float64)."
            )


def _relative_error(step: Any, ratios: np.ndarray, scale: np.ndarray) -> float:
    """Return the error of a decision relative to its spread, for features with errors of 1.

    ``ratios`` are the errors of the standardized features. If a linear model is the step or follows
    it, its coefficients are the weights of the features; otherwise all weights are equal.
    """
    model, weights = step.raw_operator, np.ones((1, len(ratios)))
    if hasattr(model, "coef_"):
        weights = np.atleast_2d(model.coef_) * scale
    else:
        for last in _find_next(step):
            coef = np.atleast_2d(getattr(last.raw_operator, "coef_", ()))
            if coef.shape[1] == len(ratios):
                model, weights = last.raw_operator, coef
    spread = np.linalg.norm(weights, axis=1)
    if isinstance(model, TARGETS_OF_1):
        spread = np.minimum(spread, 1)
    errors = np.linalg.norm(weights * ratios, axis=1)
    return float(np.max(errors[spread > 0] / spread[spread > 0], initial=0))


def _find_next(operator: Any) -> Iterator[Any]:
    """Yield the operators that read the first output of an operator."""
    output = operator.outputs[0]
    for other in operator.scope_inst.operators.values():
        if any(variable is output for variable in other.inputs):
            yield other
