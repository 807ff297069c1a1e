"""`class_activation_map`: where in an image the evidence for a linear decision lies.

A linear model multiplies each feature by a weight. If the feature is a mean or a sum over
positions, its contribution to the decision is a sum over these positions as well. The whole
decision is therefore a sum over the image.

Source: B. Zhou, A. Khosla, A. Lapedriza, A. Oliva and A. Torralba, "Learning Deep Features for
Discriminative Localization" (2016), who use one mean over the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.base import is_regressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._engine.geometry import Geometry, Windows, place_windows, pool_cells
from sklearn_conv._engine.pooling import POOLINGS, Pooling
from sklearn_conv._parameters import Parameters, check_parameters
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._warnings import warn
from sklearn_conv.inspection._inputs import find_transformer

OWNER = "class_activation_map"

PROBE_BYTES = 2**25
"""Approximate size of a batch of probe rows in bytes."""

CHUNK_BYTES = 2**28
"""Approximate size of the images and features in memory at once, in bytes."""

N_CHECKED = 100
"""Number of images from which the scale of the features is taken, to probe each step."""

N_RANDOM_ROWS = 8
"""Number of pairs of random rows with which the linearity of a step is checked."""

TOLERANCE = 1e-6
"""Largest deviation of a linear step, as a fraction of its largest term."""

SUM_TOLERANCE = 1e-3
"""Deviation of the evidence from the decision, as a fraction of the largest absolute decision,
above which a warning is issued."""

MAX_ROUNDED = 0.01
"""Largest part of the evidence that may come from the rounding of responses."""


def class_activation_map(pipeline: Pipeline, images: npt.ArrayLike) -> np.ndarray:
    """Map the decisions of a linear model to the pixels of the images.

    ``(n, h, w, c) -> (n, h, w, n_outputs)``

    The evidence of all pixels of an image adds up to the pipeline's ``decision_function``. The
    constants that a scaler and the classifier add are spread evenly over all pixels. The evidence
    of a window is spread evenly over the pixels of the image under the weights of its kernel. A
    padded pixel that repeats a pixel of the image counts as that pixel.

    Rounding causes small differences. Between a feature and the pooled responses of its cell, the
    difference is spread evenly over the cell; between the decision and the weighted sum of the
    features, it is spread evenly over the image. The second difference is checked for every image,
    and above 0.001 times the largest absolute decision, a warning is issued.

    The features of all images are computed at once, as in ``decision_function``, unless images and
    features take more than 256 MB. They are then computed in batches.

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

    Warns
    -----
    UserWarning
        If rounding changes the decision for an image by more than 0.001 times the largest absolute
        decision, or if more than one percent of the evidence comes from the rounding of responses.

    Raises
    ------
    NotFittedError
        If the pipeline is not fitted.
    TypeError
        If ``pipeline`` has no `StridedConv2DTransformer`, or if it is not a regressor and has no
        ``decision_function``.
    ValueError
        If the pipeline is not linear after the transformer, if ``pooling`` includes "max", if
        features or decisions are infinite or NaN, or if ``images`` is not a batch of images of the
        shape seen in ``fit``.

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
    _require_sums(transformer, parameters)
    for step in (pipeline, transformer):
        check_is_fitted(step)
    X: Any = pipeline[:position].transform(images) if position else images
    transformer = copy(transformer).set_params(verbose=0)
    # The same transformer without pooling returns the responses at all positions.
    unpooled = copy(transformer).set_params(pooling=None, flatten=False)
    unpooled.transform_batches(X)  # This call raises an error if X is not valid.
    head = pipeline[position + 1 :]
    respond = _find_response(head)

    image_shape, n_kernels = transformer.image_shape_, transformer.kernels_.shape[3]
    geometry = place_windows(image_shape[:2], transformer.kernels_.shape[:2], parameters.windows)
    n_maps = len(parameters.sides) * n_kernels
    cells = _list_cells(parameters, geometry) if parameters.poolings else []
    n_in_maps = sum(len(cell.factors) for cell in cells) or prod(geometry.output_shape)
    by_row, by_column = map(_spread, geometry)  # (h, oh), (w, ow)
    all_maps, all_decisions = [], []
    rounded = total = 0.0
    n_numbers = prod(image_shape) + n_in_maps * n_maps  # of an image
    length = max(1, CHUNK_BYTES // (n_numbers * np.dtype(np.float64).itemsize))
    for start in range(0, len(X), length):
        part = _select_rows(X, slice(start, start + length))
        features = transformer.transform(part)
        values = _as_rows(features)  # (b, d)
        if not np.isfinite(values).all():
            raise ValueError(
                f"{OWNER} needs finite features, but some are infinite or NaN, so that their "
                "evidence cannot be added up. Divide the images by their standard deviation before "
                "fit, or cast them to float64."
            )
        if not start:
            first = _select_rows(features, slice(N_CHECKED))
            constant, weights = _find_weights(head, respond, first)
        _require_weights(head, respond, features, constant, weights)
        all_decisions.append(_as_rows(respond(features)))
        maps = np.empty((len(values), *image_shape[:2], len(constant)))
        if parameters.poolings is None:  # The features are the responses.
            batches = iter([(slice(None), values.reshape(-1, *geometry.output_shape, n_maps))])
        else:
            batches = unpooled.transform_batches(part)
        for rows, responses in batches:  # responses: (b, oh, ow, n_maps)
            evidence, rounded_here = _weigh(responses, values[rows], weights, cells)
            maps[rows] = np.einsum("yr,brqo,xq->byxo", by_row, evidence, by_column, optimize=True)
            rounded = max(rounded, rounded_here)
            total = max(total, float(np.abs(evidence).sum(axis=(1, 2)).max()))
        all_maps.append(maps + constant / prod(image_shape[:2]))
    result = all_maps[0] if len(all_maps) == 1 else np.concatenate(all_maps)
    deviations = _compare(np.concatenate(all_decisions), result.sum(axis=(1, 2)))  # (n, outputs)
    result += (deviations / prod(image_shape[:2]))[:, np.newaxis, np.newaxis]
    if rounded > MAX_ROUNDED * total:
        warn(
            f"{rounded / total:.0%} of the evidence of an image comes from the rounding of "
            "responses: the features differ from the pooled responses of their cells. Within these "
            "cells, the evidence is not reliable. If the activation has a step, use a bias "
            "slightly below 0, so that flat regions are not at the step. If it is a function, it "
            "must compute each element independently of the others. Otherwise cast the images to "
            "float64."
        )
    return result


class Cell(NamedTuple):
    """A cell of the pooling grid."""

    rows: slice
    columns: slice
    """Positions of the map."""
    factors: np.ndarray
    """Factor of each pooling: the feature is this factor times the sum over the positions."""


def _list_cells(parameters: Parameters, geometry: Geometry) -> list[Cell]:
    """List the cells in the order of the features."""
    cells = []
    spans = map(pool_cells, geometry.output_shape, parameters.pool_grid)
    for (top, bottom), (left, right) in product(*spans):
        n_positions = (bottom - top) * (right - left)
        factors = [_find_factor(POOLINGS[name], n_positions) for name in parameters.poolings or []]
        cells.append(Cell(slice(top, bottom), slice(left, right), np.array(factors)))
    return cells


def _find_factor(pooling: Pooling, n_positions: int) -> float:
    """Return the factor by which a sum over positions is multiplied; NaN if it is not linear."""
    sums = np.array([-3.0, 0.0, 1.0])
    with np.errstate(all="ignore"):
        results = pooling.finish(sums, n_positions)
    factor = float(results[-1])
    is_linear = pooling.join is np.add and np.allclose(results, factor * sums, rtol=1e-12, atol=0)
    return factor if is_linear else np.nan


def _require_sums(transformer: StridedConv2DTransformer, parameters: Parameters) -> None:
    """Raise an error for poolings whose features are not sums over positions."""
    sums = [name for name, pooling in POOLINGS.items() if not np.isnan(_find_factor(pooling, 7))]
    others = [name for name in parameters.poolings or [] if name not in sums]
    if others:
        raise ValueError(
            f"{OWNER} needs features that are sums over positions, which pooling="
            f"{others[0]!r} does not compute; fit with pooling={' or '.join(map(repr, sums))} "
            f"instead of {transformer.pooling!r}. If a small part of the image determines the "
            "class, try a negative bias, and compare the scores."
        )


def _compare(decisions: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Subtract the sums of the evidence from the decisions, and warn of large deviations."""
    if not np.isfinite(decisions).all():
        raise ValueError(
            f"{OWNER} needs finite decisions, but some are infinite or NaN. Divide the images by "
            "their standard deviation before fit."
        )
    deviations = decisions - sums  # (n, outputs)
    off = np.abs(deviations).max(axis=1)  # (n,)
    largest = np.abs(decisions).max()
    n_off = int((off > SUM_TOLERANCE * largest).sum())
    if n_off:
        warn(
            f"The evidence of {n_off} of {len(sums)} images adds up to the decision only roughly: "
            f"it deviates by up to {off.max():.2g}, where the largest decision is {largest:.2g}. "
            "The decision is a sum of much larger terms that nearly cancel, so that their rounding "
            "changes it. Scale the features with StandardScaler, use a stronger regularization, or "
            "cast the images to float64 before fit."
        )
    return deviations


def _select_rows(X: Any, rows: slice) -> Any:
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _find_weights(
    head: Pipeline, respond: Callable[[Any], Any], features: Any
) -> tuple[np.ndarray, np.ndarray]:
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
    _require_linear(_describe(name, last), _find_response(last), rows)

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
    return constant, weights


def _require_weights(
    head: Pipeline,
    respond: Callable[[Any], Any],
    features: Any,
    constant: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Raise ValueError unless the decisions for the features are those that the weights predict."""
    values = _as_rows(features)  # (b, d)
    difference = _call(respond, features, values) - (constant + values @ weights)  # (b, outputs)
    terms = np.abs(constant) + np.abs(values) @ np.abs(weights)
    _require_small(_describe(*head.steps[-1]), difference, terms)


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
    responses: np.ndarray, features: np.ndarray, weights: np.ndarray, cells: Sequence[Cell]
) -> tuple[np.ndarray, float]:
    """Multiply activated responses by the weights of the features that they are pooled into.

    ``(b, oh, ow, n_maps), (b, d), (d, outputs) -> (b, oh, ow, outputs)``. Also return the largest
    sum of the absolute differences that rounding makes in the decision for an image.
    """
    if not cells:  # Responses are not pooled.
        by_position = weights.reshape(*responses.shape[1:], -1)
        return np.einsum("brqs,rqso->brqo", responses, by_position), 0.0
    b, n_maps = len(responses), responses.shape[3]
    by_cell = weights.reshape(len(cells), -1, n_maps, weights.shape[1])
    features_by_cell = features.reshape(b, len(cells), -1, n_maps)
    evidence = np.zeros((*responses.shape[:3], weights.shape[1]))
    differences = np.zeros((b, weights.shape[1]))
    for (rows, columns, factors), weight, feature in zip(
        cells, by_cell, features_by_cell.swapaxes(0, 1), strict=True
    ):  # weight: (poolings, n_maps, outputs), feature: (b, poolings, n_maps)
        values = responses[:, rows, columns].astype(np.float64)  # (b, r, q, n_maps)
        pooled = factors[:, np.newaxis] * values.sum(axis=(1, 2))[:, np.newaxis]
        # Features and responses are rounded separately. The weights of a scaler can magnify the
        # difference, so that it must not be neglected.
        difference = np.tensordot(feature - pooled, weight, 2)  # (b, outputs)
        differences += np.abs(difference)
        each = difference / (values.shape[1] * values.shape[2])
        # Cells may overlap, so their evidence is added.
        evidence[:, rows, columns] += values @ np.tensordot(factors, weight, 1)
        evidence[:, rows, columns] += each[:, np.newaxis, np.newaxis]
    return evidence, float(differences.max())


def _spread(windows: Windows) -> np.ndarray:
    """Return the fraction of the evidence of each window that each pixel along an axis receives.

    The result has shape ``(length, n_windows)``. The evidence of a window that covers only padding
    is spread over all pixels.
    """
    is_seen = windows.pixels[:, :, np.newaxis] == np.arange(windows.length)
    counts = is_seen.sum(axis=1, dtype=np.float64)  # (n_windows, length)
    counts[~counts.any(axis=1)] = 1
    return (counts / counts.sum(axis=1, keepdims=True)).T
