"""A model, taken apart: the steps that compute features, and a linear decision about these.

Features come from a `StridedConv2DTransformer`, alone or side by side with others in the branches
of a union or of a column transformer. Each of these steps has a replica, a copy whose ``transform``
keeps its last input and output. A run of the replicas therefore shows what arrives at each
transformer inside, however scikit-learn selects, weights and joins columns. The weights of a
decision are found by calls with rows in which only one feature is not 0, which works for all linear
steps, whatever their attributes. Where ``coef_`` predicts the same decisions, it is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import require_numpy_model
from sklearn_conv._transformer import StridedConv2DTransformer

PROBE_BYTES = 2**22
"""Approximate size of a batch of probe rows in bytes."""

N_CHECKED = 100
"""Number of images from which the scale of the features is taken, to probe each step."""

N_RANDOM_ROWS = 4
"""Number of pairs of random rows with which the linearity of a step is checked."""

TOLERANCE = 1e-6
"""Largest deviation of a linear step, as a fraction of its largest term."""


class RecordedStep:
    """A step, and its replica with what this received and returned last.

    ``name`` is the name of the step, or the expression with which a user gets it. For steps that
    compute features, ``before`` are those that are applied to the images inside the model, and
    ``from_table`` says whether the images are columns of a table.
    """

    inputs: Any = None
    outputs: Any = None

    def __init__(
        self, step: Any, name: str, before: Iterable[Any] = (), from_table: bool = False
    ) -> None:
        self.step, self.name, self.before, self.from_table = step, name, [*before], from_table
        self.replica = copy(step)
        transform = self.replica.transform
        self.has_images = isinstance(step, StridedConv2DTransformer)
        if self.has_images:
            self.replica.set_params(verbose=0)

        def transform_and_keep(X: Any, **params: Any) -> Any:
            self.inputs, self.outputs = X, transform(X, **params)
            return self.outputs

        self.replica.transform = transform_and_keep

    @property
    def values(self) -> np.ndarray:
        """The last outputs, (b, d)."""
        return as_rows(self.outputs)


@dataclass(eq=False)
class FeaturePart:
    """The part of a model that computes features."""

    replica: Any
    feature_steps: list[RecordedStep]
    """The transformers and branches that have other features, in the order of the features."""
    later_steps: list[RecordedStep]
    resume: Callable[[np.ndarray], np.ndarray]
    """Computes outputs from features, ``(m, d) -> (m, outputs)``."""
    outputs: Any = None

    @property
    def image_steps(self) -> list[RecordedStep]:
        """The transformers, without branches that have other features."""
        return [step for step in self.feature_steps if step.has_images]

    def run(self, X: Any) -> None:
        """Compute ``outputs``, and keep the inputs and outputs of all steps."""
        self.outputs = self.replica.transform(X)


def find_features(owner: str, estimator: Any) -> tuple[int, FeaturePart]:
    """Return the part of a model that computes features, and its position in a pipeline.

    If the estimator is not a pipeline, the position is 0.
    """
    if isinstance(estimator, Pipeline):
        found = _find_position(owner, estimator, "pipeline")
        if found is None:
            steps = [type(step).__name__ for _, step in estimator.steps]
            raise TypeError(
                f"{owner} requires a Pipeline in which a step is a StridedConv2DTransformer; it "
                "must not be nested inside a step other than a Pipeline, a FeatureUnion or a "
                f"ColumnTransformer. Got steps {steps} instead."
            )
    else:
        part = _find_part(owner, estimator, "estimator")
        if part is None:
            hint = "; pass its best_estimator_" if hasattr(estimator, "best_estimator_") else ""
            raise TypeError(
                f"{owner} requires a StridedConv2DTransformer or a Pipeline that contains one. "
                f"Got {type(estimator).__name__} instead{hint}."
            )
        found = 0, part
    for image_step in found[1].image_steps:
        require_numpy_model(owner, getattr(image_step.step, "kernels_", None))
    return found


def find_transformer(owner: str, estimator: Any) -> StridedConv2DTransformer:
    """Return the only `StridedConv2DTransformer` of an estimator."""
    steps = find_features(owner, estimator)[1].image_steps
    if len(steps) > 1:
        raise ValueError(
            f"{owner} requires one StridedConv2DTransformer, but there are {len(steps)} of them "
            f"side by side: {', '.join(step.name for step in steps)}; pass one of these, and "
            "the images that it receives."
        )
    transformer: StridedConv2DTransformer = steps[0].step
    return transformer


def require_one_size(owner: str, transformer: StridedConv2DTransformer) -> None:
    """Raise an error unless the transformer was fitted, on images of one size."""
    check_is_fitted(transformer)
    if None in transformer.image_shape_:
        raise ValueError(
            f"{owner} requires a transformer that was fitted on images of one size, but "
            "image_shape is 'any'; fit on images of one size to explain it."
        )


def without_pooling(transformer: StridedConv2DTransformer) -> StridedConv2DTransformer:
    """Return a fitted copy that computes the activated responses at all positions of an image."""
    return copy(transformer).set_params(
        pooling=None, flatten=False, symmetries=None, power=1, verbose=0
    )


def _find_part(
    owner: str, step: Any, path: str, before: Iterable[Any] = (), from_table: bool = False
) -> FeaturePart | None:
    """Return the part of a model that a step is, or None if it has no transformer of images."""
    if isinstance(step, StridedConv2DTransformer):
        return _make_single(RecordedStep(step, path, before, from_table))
    if isinstance(step, Pipeline):
        found = _find_position(owner, step, path, before, from_table)
        return None if found is None else _make_chain(step, *found)
    if isinstance(step, FeatureUnion):
        entries = [(name, child, False) for name, child in step.transformer_list]
        path = f"{path}.named_transformers"
    elif isinstance(step, ColumnTransformer):
        check_is_fitted(step)
        indices = step.output_indices_
        entries = [
            (name, child, name in indices and indices[name].stop == indices[name].start)
            for name, child, _ in step.transformers_
        ]
        path = f"{path}.named_transformers_"
        before, from_table = (), True
    else:
        return None
    found_parts = [
        _find_part(owner, child, f"{path}[{name!r}]", before, from_table)
        for name, child, _ in entries
    ]
    if not any(found_parts):
        return None
    replicas, branches, weights = [], [], []
    for (name, child, is_empty), part in zip(entries, found_parts, strict=True):
        if child is None or (isinstance(child, str) and child == "drop") or is_empty:
            replicas.append(child)
            continue
        if isinstance(child, str):  # "passthrough"
            child = FunctionTransformer(feature_names_out="one-to-one")
        branch = part or _make_single(RecordedStep(child, f"{path}[{name!r}]", before, from_table))
        replicas.append(branch.replica)
        branches.append(branch)
        weights.append((step.transformer_weights or {}).get(name, 1.0))
    union = copy(step)
    union.n_jobs = 1  # Another process would keep the inputs and outputs to itself.
    names = [name for name, _, _ in entries]
    if isinstance(step, FeatureUnion):
        union.transformer_list = [*zip(names, replicas, strict=True)]
    else:
        columns = [columns for _, _, columns in step.transformers_]
        union.transformers_ = [*zip(names, replicas, columns, strict=True)]

    def resume(values: np.ndarray) -> np.ndarray:
        sizes = [sum(each.values.shape[1] for each in branch.feature_steps) for branch in branches]
        parts = np.split(values, np.cumsum(sizes)[:-1], axis=1)
        outputs = [branch.resume(part) for branch, part in zip(branches, parts, strict=True)]
        return np.hstack([w * rows for w, rows in zip(weights, outputs, strict=True)])

    feature_steps = [each for branch in branches for each in branch.feature_steps]
    later_steps = [each for branch in branches for each in branch.later_steps]
    return FeaturePart(union, feature_steps, later_steps, resume)


def _find_position(
    owner: str, pipeline: Pipeline, path: str, before: Iterable[Any] = (), from_table: bool = False
) -> tuple[int, FeaturePart] | None:
    """Return the position in a pipeline of the part with the transformer, and this part."""
    found = []
    earlier = [*before]
    for position, (_, step) in enumerate(pipeline.steps):
        part = _find_part(owner, step, f"{path}[{position}]", earlier, from_table)
        if part is not None:
            found.append((position, part))
        if step not in (None, "passthrough"):
            earlier.append(step)
    if len(found) > 1:
        last = found[-1][0]
        remedy = (
            "stack them outside of the branches"
            if before or "." in path
            else "for the last one, whose images are the features of the previous steps, pass "
            f"{path}[{last}:] and {path}[:{last}].transform(images)"
        )
        raise ValueError(
            f"{owner} requires a Pipeline with a StridedConv2DTransformer in one step, but {path} "
            f"has {len(found)} such steps; {remedy}."
        )
    return found[0] if found else None


def _make_single(step: RecordedStep) -> FeaturePart:
    return FeaturePart(step.replica, [step], [], lambda values: values)


def _make_chain(pipeline: Pipeline, position: int, part: FeaturePart) -> FeaturePart:
    """Make a pipeline of steps that change pixels, a part, and linear steps."""
    after = [
        RecordedStep(step, name)
        for name, step in pipeline.steps[position + 1 :]
        if step not in (None, "passthrough")
    ]
    replica = copy(pipeline)
    replica.steps = [
        *pipeline.steps[:position],
        (pipeline.steps[position][0], part.replica),
        *((step.name, step.replica) for step in after),
    ]

    def resume(values: np.ndarray) -> np.ndarray:
        rows = part.resume(values)
        for step in after:
            rows = call(step.step.transform, step.inputs, rows)
        return rows

    return FeaturePart(replica, part.feature_steps, [*part.later_steps, *after], resume)


class LinearDecision:
    """The decision of a model as a function of its features.

    ``part`` computes the features, and ``head`` is the rest of the model. ``values`` are the
    features of some images, ``(b, d)``, for which the part has just been run.
    """

    constant: np.ndarray  # (outputs,)
    weights: np.ndarray  # (d, outputs)

    def __init__(self, owner: str, part: FeaturePart, head: Pipeline) -> None:
        self._owner, self._part, self._head = owner, part, head
        self._respond = _find_response(owner, head)

    def decide(self) -> np.ndarray:
        """Return the decisions for the last images, ``(b, outputs)``."""
        return as_rows(self._respond(self._part.outputs))

    def fit(self, values: np.ndarray) -> None:
        """Find the constant and the weights, and raise ValueError if a step is not linear."""
        for later in self._part.later_steps:
            self._require_linear(later.name, later.step, later.step.transform, later.inputs)
        rows = select_rows(self._part.outputs, slice(N_CHECKED))
        *between, (name, last) = self._head.steps
        for step_name, step in between:
            if step not in (None, "passthrough"):
                self._require_linear(step_name, step, step.transform, rows)
                rows = step.transform(rows)
        self._require_linear(name, last, _find_response(self._owner, last), rows)

        scale = np.abs(values[:N_CHECKED]).max(axis=0)  # (d,)
        scale[scale == 0] = 1
        d = len(scale)
        self.constant = self._call(np.zeros((1, d)))[0]
        self.weights = self._multiply_coefficients(scale)
        if self._is_exact(np.random.default_rng(0).standard_normal((N_RANDOM_ROWS, d)) * scale):
            return
        n_probes = max(1, PROBE_BYTES // (np.dtype(np.float64).itemsize * d))
        for start in range(0, d, n_probes):
            probed = np.arange(start, min(start + n_probes, d))
            probes = np.zeros((len(probed), d))
            probes[probed - start, probed] = scale[probed]
            decisions = self._call(probes)  # (n_probes, outputs)
            self.weights[probed] = (decisions - self.constant) / scale[probed, np.newaxis]

    def check(self, values: np.ndarray) -> None:
        """Raise ValueError unless the decisions are those that the weights predict."""
        if not self._is_exact(values):
            raise self._not_linear(*self._head.steps[-1])

    def _multiply_coefficients(self, scale: np.ndarray) -> np.ndarray:
        """Return the weights, if the last step has ``coef_`` and all others multiply by factors.

        Otherwise, the result has the shape of the weights.
        """
        weights = np.zeros((len(scale), len(self.constant)))
        coef = np.atleast_2d(getattr(self._head.steps[-1][1], "coef_", 0.0))
        values = self._part.resume(np.stack([np.zeros_like(scale), scale]))
        if len(self._head) > 1:
            values = call(self._head[:-1].transform, self._part.outputs, values)
        if coef.T.shape == weights.shape and values.shape[1] == len(scale):
            weights += ((values[1] - values[0]) / scale)[:, np.newaxis] * as_rows(coef).T
        return weights

    def _is_exact(self, values: np.ndarray) -> bool:
        """Return whether the decisions are those that the weights predict."""
        difference = self._call(values) - (self.constant + values @ self.weights)  # (b, outputs)
        terms = np.abs(self.constant) + np.abs(values) @ np.abs(self.weights)
        return _is_small(difference, terms)

    def _call(self, values: np.ndarray) -> np.ndarray:
        return call(self._respond, self._part.outputs, self._part.resume(values))

    def _require_linear(
        self, name: str, step: Any, function: Callable[[Any], Any], inputs: Any
    ) -> None:
        """Compare ``f(a + b) + f(0)`` with ``f(a) + f(b)`` at random rows of the inputs' scale."""
        rows = select_rows(inputs, slice(N_CHECKED))
        values = np.abs(as_rows(rows))
        scale = values.max(axis=0) + values.max()  # (d,)
        shape = (2, N_RANDOM_ROWS, len(scale))
        a, b = np.random.default_rng(0).standard_normal(shape) * scale
        try:
            zero, at_a, at_b, at_both = (
                call(function, rows, probe) for probe in (np.zeros_like(a), a, b, a + b)
            )
        except (TypeError, ValueError) as error:
            raise self._not_linear(name, step) from error
        terms = np.abs(zero) + np.abs(at_a) + np.abs(at_b)
        if not _is_small(at_both + zero - at_a - at_b, terms):
            raise self._not_linear(name, step)

    def _not_linear(self, name: str, step: Any) -> ValueError:
        return ValueError(
            f"{self._owner} needs a decision that is a weighted sum of the features, but step "
            f"{name!r}, {type(step).__name__}, is not linear; remove it, or use linear steps such "
            "as StandardScaler and PCA, followed by RidgeClassifier, LogisticRegression, LinearSVC "
            "or StreamingRidgeClassifier. For powers of features, use the parameter 'power' of "
            "StridedConv2DTransformer. To explain any other model, hide parts of the image and "
            "compare its predictions."
        )


def _is_small(difference: np.ndarray, terms: np.ndarray) -> bool:
    """Return whether a difference is small compared with its terms, and not NaN."""
    return bool(np.abs(difference).max() <= TOLERANCE * terms.max())


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


def select_rows(X: Any, rows: slice) -> Any:
    """Return rows of an array, a list, a data frame, or images of different sizes in files."""
    if hasattr(type(X), "image_shapes"):
        return X[np.arange(len(X))[rows]]
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def as_rows(table: Any) -> np.ndarray:
    """Return a float64 array of shape (m, d)."""
    dense = table.toarray() if hasattr(table, "toarray") else table
    values = np.asarray(dense, np.float64)
    return values.reshape(len(values), -1)


def call(function: Callable[[Any], Any], like: Any, rows: np.ndarray) -> np.ndarray:
    """Call a method with rows in the form of ``like``, ``(m, d) -> (m, outputs)``.

    ``like`` has the form of the data that the step was fitted on: an array with any number of axes,
    or a data frame of pandas or polars.
    """
    table: Any = rows.reshape(len(rows), *like.shape[1:])
    if hasattr(like, "columns"):
        names = {"columns" if hasattr(like, "iloc") else "schema": list(like.columns)}
        table = type(like)(table, **names)
    with np.errstate(all="ignore"):  # Results that are not finite raise an error later.
        return as_rows(function(table))
