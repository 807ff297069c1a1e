"""Moments of the rows of a Dask array: sums over its chunks, computed where the chunks are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy, deepcopy
from math import isnan
from typing import Any

import numpy as np

from sklearn_conv._dask import (
    Delayed,
    HighLevelGraph,
    check_dask_array,
    da,
    dask,
    whole_rows,
)
from sklearn_conv._engine.threads import one_blas_thread
from sklearn_conv._ridge.moments import N_WAITING, Moments, Rows, concatenate_targets


def check_dask_rows(X: Any) -> None:
    """Raise an error if X is not a Dask array of rows of real numbers."""
    check_dask_array(X)
    if X.ndim != 2 or X.dtype.kind not in "biuf" or 0 in X.shape:
        raise ValueError(
            "X must be a Dask array of real numbers of shape (n, n_features), with no empty axis. "
            f"Got shape {X.shape} and dtype {X.dtype} instead."
        )


def sum_rows(
    X: Any, y: Any, sample_weight: Any, check_rows: Callable[..., Rows], empty: Moments
) -> Moments:
    """Compute the moments of all rows.

    ``check_rows`` checks the features, the targets and, if there are any, the weights of a chunk.
    ``empty`` are moments without rows. Each task adds up chunks with at least as many rows as there
    are features, so that the products in its result are not larger than the rows. It knows the
    numbers of its rows, unless the lengths of the chunks are unknown, so that the sample of rows
    does not depend on the chunks. Then the results are merged in pairs. No task changes its
    arguments, because Dask may repeat tasks if a worker is lost.
    """
    rows = whole_rows(X)
    lengths = rows.chunks[0]
    is_known = not any(map(isnan, lengths))
    arrays = [rows, _align("y", y, rows, empty.kept.targets.ndim)]
    if sample_weight is not None:
        arrays.append(_align("sample_weight", sample_weight, rows, 1))
    arrays = dask.optimize(*arrays)
    # The keys of the chunks of targets with several columns are nested lists.
    chunks = [*zip(*(dask.core.flatten(array.__dask_keys__()) for array in arrays), strict=True)]
    # The tasks are written into one graph. To call dask.delayed for each of them would take longer
    # than the sums, because it copies the graph each time.
    name = f"moments-{dask.base.tokenize(*arrays, check_rows, empty.first)}"
    tasks: dict[Any, Any] = {}
    groups = _group_chunks(lengths, max(rows.shape[1], N_WAITING) if is_known else None)
    for i, group in enumerate(groups):
        lists = [*map(list, zip(*chunks[group], strict=True))]
        first = empty.first + int(sum(lengths[: group.start])) if is_known else empty.first
        tasks[name, i] = (_sum_chunks, lists, check_rows, empty, first)
    sums = [*tasks]
    while len(sums) > 1:
        pairs = [sums[i : i + 2] for i in range(0, len(sums), 2)]
        sums = []
        for pair in pairs:
            if len(pair) == 2:
                tasks[name, len(tasks)] = (_merge, *pair)
            sums.append(pair[0] if len(pair) == 1 else (name, len(tasks) - 1))
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=arrays)
    moments = Delayed(sums[0], graph, layer=name).compute()
    if not moments.n_rows:
        raise ValueError("All chunks of X are empty, or all weights of their rows are 0.")
    return moments


def _align(name: str, value: Any, rows: Any, n_axes: int) -> Any:
    """Return targets or weights as a Dask array with the chunks of the rows."""
    is_known = not isnan(rows.shape[0])
    if not isinstance(value, da.Array):
        if not is_known:
            raise ValueError(
                f"The chunks of X have unknown lengths, so {name} must be a Dask array with the "
                "same chunks; or call X.compute_chunk_sizes() first."
            )
        if np.ma.is_masked(value):
            raise ValueError(f"{name} has masked values; fill them first, or remove their rows.")
        value = da.from_array(np.asarray(value), chunks=-1)
    n_chunks = len(rows.chunks[0])
    if n_axes == 2 and value.ndim == 1:
        value = value[:, np.newaxis]
    if value.ndim != n_axes:
        shape = "(n,)" if n_axes == 1 else "(n,) or (n, n_targets)"
        raise ValueError(f"{name} must have shape {shape}. Got {value.ndim} axes instead.")
    value = whole_rows(value)
    if is_known:
        if value.shape[0] != rows.shape[0]:
            raise ValueError(f"X has {rows.shape[0]} rows, but {name} has {value.shape[0]}.")
        return value.rechunk({0: rows.chunks[0]})
    if len(value.chunks[0]) != n_chunks:
        raise ValueError(
            f"X has {n_chunks} chunks of unknown lengths, but {name} has {len(value.chunks[0])}; "
            "both must have the same chunks."
        )
    return value


def _group_chunks(lengths: Sequence[float], n_rows: int | None) -> Iterator[slice]:
    """Yield groups of chunks with at least ``n_rows`` rows each; the last one may have fewer.

    If ``n_rows`` is None, because the lengths are unknown, yield groups of 8 chunks.
    """
    first, n_in_group = 0, 0.0
    for i, length in enumerate(lengths):
        n_in_group += length
        is_full = i + 1 - first == 8 if n_rows is None else n_in_group >= n_rows
        if is_full or i + 1 == len(lengths):
            yield slice(first, i + 1)
            first, n_in_group = i + 1, 0.0


def _sum_chunks(
    lists: list[list[np.ndarray]], check_rows: Callable[..., Rows], empty: Moments, first: int
) -> Moments:
    """Return the moments of some chunks, whose first row has the number ``first``."""
    moments = copy(empty)
    moments.first = moments.stop = first
    small: list[tuple[np.ndarray, ...]] = []

    def add_small() -> None:
        if small:
            rows, targets, *weights = zip(*small, strict=True)
            joined = np.concatenate(rows), concatenate_targets(targets)
            moments.add(check_rows(*joined, *map(np.concatenate, weights)))
            small.clear()

    with one_blas_thread:
        for chunk in zip(*lists, strict=True):
            if not any(map(len, chunk)):
                continue
            if _is_small(*chunk):
                small.append(chunk)
            else:
                add_small()
                moments.add(check_rows(*chunk))
        add_small()
        moments.flush()
    return moments


def _is_small(rows: np.ndarray, *others: np.ndarray) -> bool:
    """Return whether a chunk is so small that it is concatenated with others.

    A chunk that `check_rows` would refuse is not, so that the error is about this chunk.
    """
    return (
        type(rows) is np.ndarray
        and rows.ndim == 2
        and len(rows) < N_WAITING
        and all(type(other) is np.ndarray and len(other) == len(rows) for other in others)
    )


def _merge(first: Moments, second: Moments) -> Moments:
    merged = deepcopy(first)
    merged.merge(second)
    return merged
