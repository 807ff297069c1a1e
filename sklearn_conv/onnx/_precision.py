"""Refuse to export features that are too large beside their spread for float32.

Features in float32 have a relative rounding error of about ``EPS``. NumPy and onnxruntime add in
different orders, so their features differ by such errors. Standardizing the features multiplies the
errors by ``mean / scale``: images of 60,000 +- 2 with zeros as padding have features such as
4,000 +- 0.1. In a decision, the errors of the features add up like independent random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV

from sklearn_conv._ridge.classifier import StreamingRidgeClassifier

EPS = 2.0**-24
"""Relative rounding error of float32."""

LIMIT = 4e-5
"""Largest estimate of the error of a decision, relative to its spread, that is exported. In trials
with 700 images each, the largest error of a decision was usually 2 to 10 times the estimate, and at
most 28 times for features that are nearly collinear, so that it stays near 1e-3."""

TARGETS_OF_1 = (StreamingRidgeClassifier, RidgeClassifier, RidgeClassifierCV)
"""Classifiers that predict targets of +1 and -1, so that the spread of a decision is at most 1."""


def require_precision(operator: Any, owner: str) -> None:
    """Raise a ValueError if a later step divides the features of an operator by a tiny spread."""
    # A power multiplies the relative errors. One below 1 also adds the rounding of its result.
    power_factor = max(1, operator.raw_operator.power)
    n_features = operator.outputs[0].type.shape[-1]
    for step, columns in _find_next(operator, n_features):
        model = step.raw_operator
        mean, scale = (getattr(model, name, None) for name in ("mean_", "scale_"))
        if mean is not None and scale is not None:
            ratios = np.abs(mean / scale)[columns]
            error = _relative_error(step, columns, ratios, scale)
            worst = int(ratios.argmax())
            example = (
                f"feature {worst} has mean {mean[columns][worst]:.7g} and standard deviation "
                f"{scale[columns][worst]:.2g}"
            )
        elif isinstance(model, TARGETS_OF_1):
            # The features are not standardized, and their mean is unknown. The intercept balances
            # its product with the coefficients. The product has errors of its own.
            intercept = np.abs(model.intercept_).max()
            terms = _measure_terms(operator.raw_operator, np.atleast_2d(model.coef_)[:, columns])
            error = max(4 * intercept, terms)
            example = f"an intercept of {intercept:.7g} balances them in a decision of about 1"
            if terms > 4 * intercept:
                example = f"a decision of about 1 is a sum of terms, whose norm is {terms:.2g}"
        else:
            continue
        if EPS * power_factor * error > LIMIT:
            raise ValueError(
                f"{owner} in float32 would not lead to the decisions of scikit-learn, because the "
                f"features are too large beside their spread: for example, {example}. "
                f"{_remedy(model, mean is not None)}"
            )


def _remedy(model: Any, is_standardized: bool) -> str:
    """Return what can be done about features that are too large, for a model that follows them."""
    remedy = (
        "This happens if the images have a large offset that the kernels do not remove. "
        "Fit again with padding='valid' or padding_mode='edge' and kernels with zero mean, "
        "with normalize_patches=True, or on images whose offset has been subtracted; "
    )
    if not is_standardized:
        remedy = (
            "This happens if features that are not standardized depend on each other, or if the "
            "images have a large offset. Fit again with a StandardScaler before the classifier, or "
            "with kernels of zero mean and padding='valid' or padding_mode='edge'; "
        )
    return (
        f"{remedy}or fit a StreamingRidgeClassifier or a LogisticRegression in float64, with "
        "X.astype(np.float64), and export it with options={'zipmap': False}. skl2onnx does not "
        "export RidgeClassifier in float64."
    )


def _measure_terms(transformer: Any, coef: np.ndarray) -> float:
    """Return the largest norm of the terms of a decision, ``coef * features``.

    The features are those of noise with the values of the training images. Terms that cancel in a
    decision of about 1 leave their rounding errors.
    """
    seen = transformer._values_seen
    if seen is None:
        return 0.0
    typical, largest, *_ = seen
    noise = np.random.default_rng(0).uniform(-1, 1, (8, *transformer.image_shape_))
    images = typical + min(typical, largest - typical) * noise
    transformer = copy(transformer)
    transformer._values_seen = None  # The noise need not look like the images.
    if transformer.activation == "identity":  # Responses that cancel in a cell leave their errors.
        transformer.set_params(activation="abs")
    features = np.asarray(transformer.transform(images.astype(np.float32)))
    sizes = np.sqrt(np.mean(np.square(features.reshape(8, -1), dtype=np.float64), axis=0))
    if coef.shape[1] != len(sizes):
        return 0.0
    return float(np.linalg.norm(coef * sizes, axis=1).max())


def _relative_error(step: Any, columns: slice, ratios: np.ndarray, scale: np.ndarray) -> float:
    """Return the error of a decision relative to its spread, for features with errors of 1.

    ``ratios`` are the errors of the standardized features in ``columns`` of the step. If a linear
    model is the step or follows it, its coefficients are the weights of the features; otherwise all
    weights are equal.
    """
    model, weights = step.raw_operator, np.ones((1, len(scale)))
    if hasattr(model, "coef_"):
        weights = np.atleast_2d(model.coef_) * scale
    else:
        for last, positions in _find_next(step, len(scale)):
            coef = np.atleast_2d(getattr(last.raw_operator, "coef_", ()))[:, positions]
            if coef.shape[1] == len(scale):
                model, weights = last.raw_operator, coef
    spread = np.linalg.norm(weights, axis=1)
    if isinstance(model, TARGETS_OF_1):
        spread = np.minimum(spread, 1)
    errors = np.linalg.norm(weights[:, columns] * ratios, axis=1)
    return float(np.max(errors[spread > 0] / spread[spread > 0], initial=0))


def _find_next(
    operator: Any, n_features: int, start: int | None = 0
) -> Iterator[tuple[Any, slice]]:
    """Yield the steps that read the first output of an operator, and the columns of its features.

    `FeatureUnion` and `ColumnTransformer` join the outputs of several operators; the steps after
    them are yielded. The features follow ``start`` other columns. If their number is unknown, all
    columns are yielded.
    """
    output = operator.outputs[0]
    for other in operator.scope_inst.operators.values():
        for i, variable in enumerate(other.inputs):
            if variable is not output:
                continue
            if other.type == "SklearnConcat":
                # Operators on the left have been converted, so their shapes are known.
                shapes = [left.type.shape for left in other.inputs[:i]]
                is_known = start is not None and all(len(s) == 2 and s[1] for s in shapes)
                before = start + sum(s[1] for s in shapes) if is_known else None
                yield from _find_next(other, n_features, before)
            elif other.type == "SklearnMultiply":  # for `transformer_weights`
                yield from _find_next(other, n_features, start)
            else:
                yield other, slice(None) if start is None else slice(start, start + n_features)
