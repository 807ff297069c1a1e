"""`class_activation_map`: where in an image the evidence for a linear decision lies.

A feature that is a mean or a sum over positions, times the weight that a linear model gives it, is
a sum over these positions, of evidence for the class. So a decision is a sum over the image.

Source: B. Zhou, A. Khosla, A. Lapedriza, A. Oliva and A. Torralba, "Learning Deep Features for
Discriminative Localization" (2016), who do so with one mean over the whole image.
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

from sklearn_conv._engine.pooling import pool_cells
from sklearn_conv._engine.windows import Geometry
from sklearn_conv._parameters import Parameters, check_parameters
from sklearn_conv.inspection._drawing import find_transformer

OWNER = "class_activation_map"

PROBE_BYTES = 2**25
"""About what the features take that the linear part is asked about at once."""

N_CHECKED = 100
"""Images whose decisions are compared with what the weights say."""


def class_activation_map(pipeline: Pipeline, images: npt.ArrayLike) -> np.ndarray:
    """Lay the evidence of a linear decision on the pixels of the images.

    ``(n, h, w, c) -> (n, h, w, n_outputs)``

    The sum over an image is the pipeline's ``decision_function``, exactly but for rounding, which
    is that of float32 unless the images are float64: what
    the scaler and the classifier add as a constant is spread evenly over all pixels. The evidence
    of a window is spread evenly over the pixels that the weights of its kernel touch, those inside
    the image only; a padded pixel that repeats one of the image stands for that one.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted: a `StridedConv2DTransformer` with ``pooling`` "mean", "sum" or None, whatever its
        activation; steps whose results are weighted sums of features and a constant, such as
        ``StandardScaler`` or ``PCA``, if any; a linear classifier, or a linear regressor, whose
        ``predict`` is then explained. Steps before the transformer may change pixels.
    images : array-like of shape (n, h, w, c), (n, h, w) or (n, h*w*c)
        The images, as the pipeline takes them.

    Returns
    -------
    maps : ndarray of shape (n, h, w, n_outputs)
        float64; outputs as the columns of ``decision_function``: one for two classes, evidence for
        ``classes_[1]``, else one for each class.

    Raises
    ------
    NotFittedError
        If the pipeline is not fitted.
    TypeError
        If ``pipeline`` has no `StridedConv2DTransformer` or no ``decision_function``.
    ValueError
        If the pipeline is not linear after the transformer, ``pooling`` has "max", or the images
        are no batch of images of the shape seen in ``fit``.

    See Also
    --------
    ClassActivationDisplay : Draw it.

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
    place, transformer = find_transformer(OWNER, pipeline)
    if not isinstance(pipeline, Pipeline) or place == len(pipeline) - 1:
        raise TypeError(
            f"{OWNER} explains the decision of a linear model, but there is none after the "
            "StridedConv2DTransformer; put both into a pipeline, make_pipeline(transformer, "
            "StandardScaler(), RidgeClassifier()), which works with fitted parts, too."
        )
    parameters = check_parameters(transformer)
    if "max" in (parameters.poolings or []):
        raise ValueError(
            f"{OWNER} needs features that are sums over positions, but a maximum belongs to one "
            "position, and leaves out all others; fit with pooling='mean' or 'sum' instead of "
            f"{transformer.pooling!r}. Where a small place decides, search bias below 0 "
            "with it, and compare the scores."
        )
    for step in (pipeline, transformer):
        check_is_fitted(step)
    X: Any = pipeline[:place].transform(images) if place else images
    quiet = copy(transformer).set_params(verbose=0)
    responses = copy(quiet).set_params(pooling=None, flatten=False)
    batches = responses.transform_batches(X)  # checks X
    features = quiet.transform(X[:N_CHECKED])
    constant, weights = _find_weights(pipeline[place + 1 :], features)

    shape = transformer.image_shape_[:2]
    geometry = parameters.windows.place(shape, transformer.kernels_.shape[:2])
    down, across = (_spread(geometry, axis, shape[axis]) for axis in (0, 1))
    maps = np.empty((len(X), *shape, len(constant)))
    for rows, values in batches:
        evidence = _weigh(values, weights, parameters, geometry)  # (b, oh, ow, outputs)
        maps[rows] = np.einsum("yr,brqo,xq->byxo", down, evidence, across, optimize=True)
    maps += constant / prod(shape)
    return maps


def _find_weights(head: Pipeline, features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Find constant and weights of what follows the transformer, ``(outputs,), (d, outputs)``.

    It is asked about one feature after the other, so that nothing need be known about its steps
    but that they are linear.
    """
    rows = features
    for name, step in head.steps[:-1]:
        if step not in (None, "passthrough"):
            _require_linear(f"step {name!r}, {type(step).__name__},", step.transform, rows)
            rows = step.transform(rows)
    name, last = head.steps[-1]
    _require_linear(f"step {name!r}, {type(last).__name__},", _find_response(last), rows)

    respond = _find_response(head)
    values = _as_rows(features)
    scale = np.abs(values).max(axis=0)
    scale[scale == 0] = 1
    d = len(scale)
    constant = _ask(respond, features, np.zeros((1, d)))[0]
    weights = np.empty((d, len(constant)))
    n_probes = max(1, PROBE_BYTES // (8 * d))
    for start in range(0, d, n_probes):
        some = np.arange(start, min(start + n_probes, d))
        probes = np.zeros((len(some), d))
        probes[some - start, some] = scale[some]
        weights[some] = (_ask(respond, features, probes) - constant) / scale[some, np.newaxis]
    decisions = _ask(respond, features, values)
    terms = np.abs(constant) + np.abs(values) @ np.abs(weights)
    difference = decisions - (constant + values @ weights)
    _require_small(f"step {name!r}, {type(last).__name__},", difference, terms)
    return constant, weights


def _find_response(step: Any) -> Callable[[Any], np.ndarray]:
    if hasattr(step, "decision_function"):
        return step.decision_function
    if is_regressor(step):
        return step.predict
    raise TypeError(
        f"{OWNER} explains the decision_function of a linear classifier, but {_name(step)} has "
        "none; take RidgeClassifier, LogisticRegression, LinearSVC or StreamingRidgeClassifier."
    )


def _name(step: Any) -> str:
    return type(step.steps[-1][1] if isinstance(step, Pipeline) else step).__name__


def _require_linear(what: str, function: Callable[[Any], Any], rows: Any) -> None:
    """Compare ``f(a + b) + f(0)`` with ``f(a) + f(b)`` at random rows on the scale of these."""
    values = _as_rows(rows)
    scale = np.abs(values).max(axis=0) + np.abs(values).max()
    a, b = np.random.RandomState(0).standard_normal((2, 8, len(scale))) * scale
    try:
        zero, at_a, at_b, at_both = (
            _ask(function, rows, probe) for probe in (np.zeros_like(a), a, b, a + b)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(_not_linear(what)) from error
    terms = np.abs(zero) + np.abs(at_a) + np.abs(at_b)
    _require_small(what, at_both + zero - at_a - at_b, terms)


def _require_small(what: str, difference: np.ndarray, terms: np.ndarray) -> None:
    if not np.abs(difference).max() <= 1e-6 * terms.max():
        raise ValueError(_not_linear(what))


def _not_linear(what: str) -> str:
    return (
        f"{OWNER} needs a decision that is a weighted sum of the features, but {what} is not "
        "linear; leave it out, or take StandardScaler, PCA and the like, and RidgeClassifier, "
        "LogisticRegression, LinearSVC or StreamingRidgeClassifier. To see what any other model "
        "looks at, hide parts of the image and compare its answers."
    )


def _ask(function: Callable[[Any], Any], like: Any, rows: np.ndarray) -> np.ndarray:
    """Call a step with rows in the form it was fitted on, ``(m, d) -> (m, outputs)``."""
    table: Any = rows.reshape(len(rows), *like.shape[1:])
    if hasattr(like, "columns"):
        names = {"columns" if hasattr(like, "iloc") else "schema": list(like.columns)}
        table = type(like)(table, **names)
    with np.errstate(all="ignore"):  # what is not finite is not linear
        return _as_rows(function(table))


def _as_rows(table: Any) -> np.ndarray:
    values = np.asarray(table, np.float64)
    return values.reshape(len(values), -1)


def _weigh(
    values: np.ndarray, weights: np.ndarray, parameters: Parameters, geometry: Geometry
) -> np.ndarray:
    """Weigh activated responses, ``(b, oh, ow, s), (d, outputs) -> (b, oh, ow, outputs)``."""
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
        of_one = [1 if name == "sum" else 1 / n_positions for name in poolings]
        weight = np.tensordot(of_one, by_cell[i, j], 1)  # (s, outputs)
        evidence[:, top:bottom, left:right] += values[:, top:bottom, left:right] @ weight
    return evidence


def _spread(geometry: Geometry, axis: int, length: int) -> np.ndarray:
    """Say which share of a window's evidence each row of pixels gets, ``(length, windows)``.

    A window that sees no row of the image at all, only padding, is spread over all of them.
    """
    size, n_windows = geometry.kernel_size[axis], geometry.output_shape[axis]
    start = np.arange(n_windows)[:, np.newaxis] * geometry.stride[axis]
    seen = (geometry.rows, geometry.columns)[axis][
        start + np.arange(size) * geometry.dilation[axis]
    ]
    shares = (seen[:, :, np.newaxis] == np.arange(length)).sum(axis=1, dtype=np.float64)
    shares[~shares.any(axis=1)] = 1
    return (shares / shares.sum(axis=1, keepdims=True)).T
