"""`class_activation_map`: where in an image the evidence for a linear decision lies.

A linear model multiplies each feature by a weight. If the feature is a mean or a sum over
positions, its contribution to the decision is a sum over these positions as well. The whole
decision is therefore a sum over the image.

Source: B. Zhou, A. Khosla, A. Lapedriza, A. Oliva and A. Torralba, "Learning Deep Features for
Discriminative Localization" (2016), who use one mean over the whole image.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import is_regressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._engine.geometry import Geometry, Windows, place_windows, pool_cells
from sklearn_conv._parameters import Parameters, check_parameters
from sklearn_conv.inspection._inputs import find_transformer

OWNER = "class_activation_map"

PROBE_BYTES = 2**25
"""Approximate size of a batch of probe rows in bytes."""

N_CHECKED = 100
"""Number of images whose decisions are compared with those that the weights predict."""

N_RANDOM_ROWS = 8
"""Number of pairs of random rows with which the linearity of a step is checked."""

TOLERANCE = 1e-6
"""Largest deviation of a linear step, as a fraction of its largest term."""


def class_activation_map(pipeline: Pipeline, images: npt.ArrayLike) -> np.ndarray:
    """Map the decisions of a linear model to the pixels of the images.

    ``(n, h, w, c) -> (n, h, w, n_outputs)``

    The evidence of all pixels of an image adds up to the pipeline's ``decision_function``, apart
    from rounding errors, which are those of float32 unless the features are float64. The constants
    that a scaler and the classifier add are spread evenly over all pixels. The evidence of a window
    is spread evenly over the pixels of the image under the weights of its kernel. A padded pixel
    that repeats a pixel of the image counts as that pixel.

    Parameters
    ----------
    pipeline : Pipeline
        A fitted pipeline of a `StridedConv2DTransformer` with ``pooling`` "mean", "sum" or None and
        any activation, then optional steps that compute weighted sums of features and constants,
        such as ``StandardScaler`` or ``PCA``, and at the end a linear classifier or a linear
        regressor. For a regressor, the result of ``predict`` is explained. Steps before the
        transformer may change pixels.
    images : array-like of shape (n, h, w, c), (n, h, w) or (n, h*w*c)
        Images in a form that the pipeline accepts.

    Returns
    -------
    maps : ndarray of shape (n, h, w, n_outputs)
        Evidence in float64. The outputs are the columns of ``decision_function``: one per class, or
        for two classes a single one, the evidence for ``classes_[1]``. The outputs of a regressor
        are its targets.

    Raises
    ------
    NotFittedError
        If the pipeline is not fitted.
    TypeError
        If ``pipeline`` has no `StridedConv2DTransformer`, or if it is not a regressor and has no
        ``decision_function``.
    ValueError
        If the pipeline is not linear after the transformer, if ``pooling`` includes "max", or if
        ``images`` is not a batch of images of the shape seen in ``fit``.

    See Also
    --------
    ClassActivationDisplay : Draw the evidence.

    References
    ----------
    B. Zhou, A. Khosla, A. Lapedriza, A. Oliva and A. Torralba, "Learning Deep Features for
    Discriminative Localization" (2016).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_conv import StridedConv2DTransformer
    >>> from sklearn_conv.inspection import class_activation_map
    >>> digits = load_digits()
    >>> pipeline = make_pipeline(
    ...     StridedConv2DTransformer(random_state=0), StandardScaler(), LogisticRegression()
    ... ).fit(digits.images, digits.target)
    >>> maps = class_activation_map(pipeline, digits.images[:5])
    >>> maps.shape
    (5, 8, 8, 10)
    >>> np.allclose(maps.sum(axis=(1, 2)), pipeline.decision_function(digits.images[:5]))
    True
    """
    position, transformer = find_transformer(OWNER, pipeline)
    if not isinstance(pipeline, Pipeline) or position == len(pipeline) - 1:
        raise TypeError(
            f"{OWNER} explains the decision of a linear model, but there is none after the "
            "StridedConv2DTransformer; put both into a pipeline, as in make_pipeline(transformer, "
            "StandardScaler(), RidgeClassifier()). Steps that are already fitted may be used."
        )
    parameters = check_parameters(transformer)
    if "max" in (parameters.poolings or []):
        raise ValueError(
            f"{OWNER} needs features that are sums over positions, but a maximum depends on one "
            "position only; fit with pooling='mean' or 'sum' instead of "
            f"{transformer.pooling!r}. If a small part of the image determines the class, try a "
            "negative bias, and compare the scores."
        )
    for step in (pipeline, transformer):
        check_is_fitted(step)
    X: Any = pipeline[:position].transform(images) if position else images
    quiet = copy(transformer).set_params(verbose=0)
    responses = copy(quiet).set_params(pooling=None, flatten=False)
    batches = responses.transform_batches(X)  # This call raises an error if X is not valid.
    features = quiet.transform(X[:N_CHECKED])
    constant, weights = _find_weights(pipeline[position + 1 :], features)

    image_shape = transformer.image_shape_[:2]
    geometry = place_windows(image_shape, transformer.kernels_.shape[:2], parameters.windows)
    by_row, by_column = map(_spread, geometry)  # (h, oh), (w, ow)
    maps = np.empty((len(X), *image_shape, len(constant)))
    for rows, values in batches:  # values: (b, oh, ow, n_maps)
        evidence = _weigh(values, weights, parameters, geometry)  # (b, oh, ow, outputs)
        maps[rows] = np.einsum("yr,brqo,xq->byxo", by_row, evidence, by_column, optimize=True)
    maps += constant / prod(image_shape)
    return maps


def _find_weights(head: Pipeline, features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Find the constant, ``(outputs,)``, and the weights, ``(d, outputs)``, of a linear pipeline.

    The pipeline is called with rows in which only one feature is not 0. This works for all linear
    steps, whatever their attributes.
    """
    rows = features
    for name, step in head.steps[:-1]:
        if step not in (None, "passthrough"):
            _require_linear(_describe(name, step), step.transform, rows)
            rows = step.transform(rows)
    name, last = head.steps[-1]
    description = _describe(name, last)
    _require_linear(description, _find_response(last), rows)

    respond = _find_response(head)
    values = _as_rows(features)  # (m, d)
    scale = np.abs(values).max(axis=0)  # (d,)
    scale[scale == 0] = 1
    d = len(scale)
    constant = _call(respond, features, np.zeros((1, d)))[0]  # (outputs,)
    weights = np.empty((d, len(constant)))
    n_probes = max(1, PROBE_BYTES // (np.dtype(np.float64).itemsize * d))
    for start in range(0, d, n_probes):
        probed = np.arange(start, min(start + n_probes, d))
        probes = np.zeros((len(probed), d))
        probes[probed - start, probed] = scale[probed]
        decisions = _call(respond, features, probes)  # (n_probes, outputs)
        weights[probed] = (decisions - constant) / scale[probed, np.newaxis]
    # The decisions for the features of images must be those that the weights predict.
    difference = _call(respond, features, values) - (constant + values @ weights)  # (m, outputs)
    terms = np.abs(constant) + np.abs(values) @ np.abs(weights)
    _require_small(description, difference, terms)
    return constant, weights


def _find_response(step: Any) -> Callable[[Any], np.ndarray]:
    """Return the method of a step whose results are explained."""
    if hasattr(step, "decision_function"):
        return step.decision_function
    if is_regressor(step):
        return step.predict
    last = step.steps[-1][1] if isinstance(step, Pipeline) else step
    raise TypeError(
        f"{OWNER} explains the decision_function of a linear classifier, but "
        f"{type(last).__name__} does not have this method; use RidgeClassifier, "
        "LogisticRegression, LinearSVC or StreamingRidgeClassifier."
    )


def _describe(name: str, step: Any) -> str:
    return f"step {name!r}, {type(step).__name__},"


def _require_linear(description: str, function: Callable[[Any], Any], rows: Any) -> None:
    """Compare ``f(a + b) + f(0)`` with ``f(a) + f(b)`` at random rows on the scale of ``rows``."""
    values = np.abs(_as_rows(rows))
    scale = values.max(axis=0) + values.max()  # (d,)
    shape = (2, N_RANDOM_ROWS, len(scale))
    a, b = np.random.RandomState(0).standard_normal(shape) * scale
    try:
        zero, at_a, at_b, at_both = (
            _call(function, rows, probe) for probe in (np.zeros_like(a), a, b, a + b)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(_not_linear(description)) from error
    terms = np.abs(zero) + np.abs(at_a) + np.abs(at_b)
    _require_small(description, at_both + zero - at_a - at_b, terms)


def _require_small(description: str, difference: np.ndarray, terms: np.ndarray) -> None:
    """Raise ValueError if the difference is not small compared with its terms, or is NaN."""
    if not np.abs(difference).max() <= TOLERANCE * terms.max():
        raise ValueError(_not_linear(description))


def _not_linear(description: str) -> str:
    return (
        f"{OWNER} needs a decision that is a weighted sum of the features, but {description} is "
        "not linear; remove it, or use linear steps such as StandardScaler and PCA, followed by "
        "RidgeClassifier, LogisticRegression, LinearSVC or StreamingRidgeClassifier. To explain "
        "any other model, hide parts of the image and compare its predictions."
    )


def _call(function: Callable[[Any], Any], like: Any, rows: np.ndarray) -> np.ndarray:
    """Call a method with rows in the form of ``like``, ``(m, d) -> (m, outputs)``.

    ``like`` has the form of the data that the step was fitted on: an array with any number of axes,
    or a data frame of pandas or polars.
    """
    table: Any = rows.reshape(len(rows), *like.shape[1:])
    if hasattr(like, "columns"):
        names = {"columns" if hasattr(like, "iloc") else "schema": list(like.columns)}
        table = type(like)(table, **names)
    with np.errstate(all="ignore"):  # `_require_small` raises for results that are not finite.
        return _as_rows(function(table))


def _as_rows(table: Any) -> np.ndarray:
    """Return a float64 array of shape (m, d)."""
    values = np.asarray(table, np.float64)
    return values.reshape(len(values), -1)


def _weigh(
    values: np.ndarray, weights: np.ndarray, parameters: Parameters, geometry: Geometry
) -> np.ndarray:
    """Multiply activated responses by the weights of the features that they are pooled into.

    ``(b, oh, ow, n_maps), (d, outputs) -> (b, oh, ow, outputs)``
    """
    n_outputs, n_maps = weights.shape[1], values.shape[3]
    if parameters.poolings is None:
        by_position = weights.reshape(*geometry.output_shape, n_maps, n_outputs)
        return np.einsum("brqs,rqso->brqo", values, by_position)
    grid, poolings = parameters.pool_grid, parameters.poolings
    by_cell = weights.reshape(*grid, len(poolings), n_maps, n_outputs)
    rows, columns = map(pool_cells, geometry.output_shape, grid)
    evidence = np.zeros((*values.shape[:3], n_outputs))
    for (i, (top, bottom)), (j, (left, right)) in product(enumerate(rows), enumerate(columns)):
        n_positions = (bottom - top) * (right - left)
        # Each position contributes its value to a sum, and a fraction of its value to a mean.
        factors = [1 if name == "sum" else 1 / n_positions for name in poolings]
        weight = np.tensordot(factors, by_cell[i, j], 1)  # (n_maps, outputs)
        # Cells may overlap, so their evidence is added.
        evidence[:, top:bottom, left:right] += values[:, top:bottom, left:right] @ weight
    return evidence


def _spread(windows: Windows) -> np.ndarray:
    """Return the fraction of the evidence of each window that each pixel along an axis receives.

    The result has shape ``(length, n_windows)``. The evidence of a window that covers only padding
    is spread over all pixels.
    """
    is_seen = windows.pixels[:, :, np.newaxis] == np.arange(windows.length)
    counts = is_seen.sum(axis=1, dtype=np.float64)  # (n_windows, length)
    counts[~counts.any(axis=1)] = 1
    return (counts / counts.sum(axis=1, keepdims=True)).T
