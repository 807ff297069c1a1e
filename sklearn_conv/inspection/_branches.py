"""The parts of a model that compute features, on their own or side by side in branches.

A part is a `StridedConv2DTransformer`, or a pipeline, a union or a column transformer that contains
one. Each part has a replica, a copy whose ``transform`` keeps the last input and output. A run of
the replica therefore shows what arrives at each transformer inside, however scikit-learn selects,
weights and joins columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from typing import Any, Protocol

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv.inspection._tables import as_rows, call


class Part(Protocol):
    """A part of a model that computes features."""

    replica: Any
    inputs: Any
    outputs: Any
    """What the replica received and returned last."""
    sources: list[Source]
    """The steps whose features are the variables of the decision, in the order of the features."""

    def resume(self, values: np.ndarray) -> np.ndarray:
        """Compute outputs from the features of all sources, ``(m, d) -> (m, outputs)``."""

    def later_steps(self) -> Iterator[Step]:
        """Return all steps after the sources."""


class Source:
    """A `StridedConv2DTransformer`, or a branch that has other features.

    ``path`` is the expression with which a user gets the step. ``before`` are the steps that are
    applied to the images inside the part of the model. ``from_table`` says whether the images are
    columns of a table.
    """

    def __init__(self, step: Any, path: str, before: list[Any], from_table: bool) -> None:
        self.step = step
        self.path = path
        self.before = before
        self.from_table = from_table
        self.has_images = isinstance(step, StridedConv2DTransformer)
        replica = copy(step)
        if self.has_images:
            replica.set_params(verbose=0)
        self.replica = _record(self, replica)
        self.inputs: Any = None
        self.outputs: Any = None
        self.sources = [self]

    @property
    def values(self) -> np.ndarray:
        """The last features, (b, d)."""
        return as_rows(self.outputs)

    def resume(self, values: np.ndarray) -> np.ndarray:
        return values

    def later_steps(self) -> Iterator[Step]:
        return iter(())


class Step:
    """A step after a transformer."""

    def __init__(self, name: str, step: Any) -> None:
        self.name = name
        self.step = step
        self.replica = _record(self, copy(step))
        self.inputs: Any = None
        self.outputs: Any = None


class Chain:
    """A pipeline of steps that change pixels, a part, and linear steps."""

    def __init__(self, pipeline: Pipeline, position: int, part: Part) -> None:
        self._part = part
        self._after = [
            Step(name, step)
            for name, step in pipeline.steps[position + 1 :]
            if step not in (None, "passthrough")
        ]
        replica = copy(pipeline)
        replica.steps = [
            *pipeline.steps[:position],
            (pipeline.steps[position][0], part.replica),
            *((step.name, step.replica) for step in self._after),
        ]
        self.replica = _record(self, replica)
        self.inputs: Any = None
        self.outputs: Any = None
        self.sources = part.sources

    def resume(self, values: np.ndarray) -> np.ndarray:
        rows = self._part.resume(values)
        for step in self._after:
            rows = call(step.step.transform, step.inputs, rows)
        return rows

    def later_steps(self) -> Iterator[Step]:
        yield from self._part.later_steps()
        yield from self._after


class Union:
    """Parts whose features are side by side, each multiplied by a weight."""

    def __init__(self, container: Any, branches: list[Part], weights: list[float]) -> None:
        container.n_jobs = 1  # Another process would keep the inputs and outputs to itself.
        self.replica = _record(self, container)
        self.inputs: Any = None
        self.outputs: Any = None
        self.sources = [source for branch in branches for source in branch.sources]
        self._branches = branches
        self._weights = weights

    def resume(self, values: np.ndarray) -> np.ndarray:
        sizes = [
            sum(source.values.shape[1] for source in branch.sources) for branch in self._branches
        ]
        parts = np.split(values, np.cumsum(sizes)[:-1], axis=1)
        return np.hstack(
            [
                weight * branch.resume(part)
                for branch, part, weight in zip(self._branches, parts, self._weights, strict=True)
            ]
        )

    def later_steps(self) -> Iterator[Step]:
        for branch in self._branches:
            yield from branch.later_steps()


def _record(part: Any, replica: Any) -> Any:
    """Make the ``transform`` of a copied step keep its input and its output in ``part``."""
    transform = replica.transform

    def transform_and_keep(X: Any, **params: Any) -> Any:
        part.inputs, part.outputs = X, transform(X, **params)
        return part.outputs

    replica.transform = transform_and_keep
    return replica


def find_part(
    owner: str, step: Any, path: str, before: Iterable[Any] = (), from_table: bool = False
) -> Part | None:
    """Return the part of a model that a step is, or None if it has no transformer of images."""
    if isinstance(step, StridedConv2DTransformer):
        return Source(step, path, list(before), from_table)
    if isinstance(step, Pipeline):
        found = find_position(owner, step, path, before, from_table)
        return None if found is None else Chain(step, *found)
    if isinstance(step, FeatureUnion):
        entries = [(name, child) for name, child in step.transformer_list]
        paths = f"{path}.named_transformers"
    elif isinstance(step, ColumnTransformer):
        check_is_fitted(step)
        entries = [(name, child) for name, child, _ in step.transformers_]
        paths = f"{path}.named_transformers_"
        before, from_table = (), True
    else:
        return None
    children = [
        find_part(owner, child, f"{paths}[{name!r}]", before, from_table) for name, child in entries
    ]
    if not any(children):
        return None
    replica = copy(step)
    branches: list[Part] = []
    weights, replicas = [], []
    for (name, child), child_part in zip(entries, children, strict=True):
        is_empty = from_table and _is_empty(step, name)
        if child is None or (isinstance(child, str) and child == "drop") or is_empty:
            replicas.append(child)
            continue
        if isinstance(child, str):  # "passthrough"
            child = FunctionTransformer(feature_names_out="one-to-one")
        branch = child_part or Source(child, f"{paths}[{name!r}]", list(before), from_table)
        branches.append(branch)
        weights.append((step.transformer_weights or {}).get(name, 1.0))
        replicas.append(branch.replica)
    names = [name for name, _ in entries]
    if isinstance(step, FeatureUnion):
        replica.transformer_list = [*zip(names, replicas, strict=True)]
    else:
        columns = [columns for _, _, columns in step.transformers_]
        replica.transformers_ = [*zip(names, replicas, columns, strict=True)]
    return Union(replica, branches, weights)


def _is_empty(step: Any, name: str) -> bool:
    """Return whether a branch of a column transformer has no features."""
    columns = getattr(step, "output_indices_", {}).get(name, slice(0, 1))
    return bool(columns.stop == columns.start)


def find_position(
    owner: str, pipeline: Pipeline, path: str, before: Iterable[Any] = (), from_table: bool = False
) -> tuple[int, Part] | None:
    """Return the position in a pipeline of the part with the transformer, and this part."""
    found = []
    earlier = list(before)
    for position, (_, step) in enumerate(pipeline.steps):
        part = find_part(owner, step, f"{path}[{position}]", earlier, from_table)
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
