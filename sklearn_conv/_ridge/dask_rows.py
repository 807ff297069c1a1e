"""Moments of the rows of a Dask array: sums over its chunks, computed where the chunks are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
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
from sklearn_conv._ridge.moments import N_WAITING, Moments, concatenate_rows

UNKNOWN_GROUP = 8
"""Number of chunks that one task adds up if the chunk sizes are unknown."""

CheckRows = Callable[[Any, Any], tuple[np.ndarray, np.ndarray]]
"""Function that checks the features and the labels of a chunk, and returns them as arrays."""


def check_dask_rows(X: Any) -> None:
    """Raise an error if X is not a Dask array of rows of real numbers."""
    check_dask_array(X)
    if X.ndim != 2 or X.dtype.kind not in "biuf" or 0 in X.shape:
        raise ValueError(
            "X must be a Dask array of real numbers of shape (n, n_features), with no empty axis. "
            f"Got shape {X.shape} and dtype {X.dtype} instead."
        )


def sum_rows(X: Any, y: Any, check_rows: CheckRows) -> Moments:
    """Compute the moments of all rows.

    Each task adds up chunks with at least as many rows as there are features, so that the products
    in its result are not larger than the rows. Then the results are merged in pairs. No task
    changes its arguments, because Dask may repeat tasks if a worker is lost.
    """
    rows = whole_rows(X)
    lengths = rows.chunks[0]
    is_known = not any(map(isnan, lengths))
    labels = _align_labels(y, rows, is_known)
    rows, labels = dask.optimize(rows, labels)
    row_keys, label_keys = (dask.core.flatten(array.__dask_keys__()) for array in (rows, labels))
    chunks = [*zip(row_keys, label_keys, strict=True)]
    # The tasks are written into one graph. To call dask.delayed for each of them would take longer
    # than the sums, because it copies the graph each time.
    name = f"moments-{dask.base.tokenize(rows, labels)}"
    tasks: dict[Any, Any] = {}
    groups = _group_chunks(lengths, max(rows.shape[1], N_WAITING) if is_known else None)
    for i, group in enumerate(groups):
        row_chunks, label_chunks = map(list, zip(*chunks[group], strict=True))
        tasks[name, i] = (_sum_chunks, row_chunks, label_chunks, check_rows)
    sums = [*tasks]
    while len(sums) > 1:
        pairs = [sums[i : i + 2] for i in range(0, len(sums), 2)]
        sums = []
        for pair in pairs:
            if len(pair) == 2:
                tasks[name, len(tasks)] = (_merge, *pair)
            sums.append(pair[0] if len(pair) == 1 else (name, len(tasks) - 1))
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[rows, labels])
    moments = Delayed(sums[0], graph, layer=name).compute()
    if not moments.n_rows:
        raise ValueError("All chunks of X are empty.")
    return moments


def _align_labels(y: Any, rows: Any, is_known: bool) -> Any:
    """Return the labels as a Dask array with the chunks of the rows."""
    if not isinstance(y, da.Array) and not is_known:
        raise ValueError(
            "The chunks of X have unknown lengths, so y must be a Dask array with the same "
            "chunks; or call X.compute_chunk_sizes() first."
        )
    labels = y if isinstance(y, da.Array) else da.from_array(np.asarray(y), chunks=-1)
    n_chunks = len(rows.chunks[0])
    if labels.ndim != 1:
        raise ValueError(f"y must have shape (n,). Got {labels.ndim} axes instead.")
    if is_known:
        if labels.shape[0] != rows.shape[0]:
            raise ValueError(f"X has {rows.shape[0]} rows, but y has {labels.shape[0]}.")
        return labels.rechunk((rows.chunks[0],))
    if len(labels.chunks[0]) != n_chunks:
        raise ValueError(
            f"X has {n_chunks} chunks of unknown lengths, but y has {len(labels.chunks[0])}; both "
            "must have the same chunks."
        )
    return labels


def _group_chunks(lengths: Sequence[float], n_rows: int | None) -> Iterator[slice]:
    """Yield groups of chunks with at least ``n_rows`` rows each; the last one may have fewer.

    If ``n_rows`` is None, yield groups of `UNKNOWN_GROUP` chunks.
    """
    first, n_in_group = 0, 0.0
    for i, length in enumerate(lengths):
        n_in_group += length
        is_full = i + 1 - first == UNKNOWN_GROUP if n_rows is None else n_in_group >= n_rows
        if is_full or i + 1 == len(lengths):
            yield slice(first, i + 1)
            first, n_in_group = i + 1, 0.0


def _sum_chunks(
    row_chunks: list[np.ndarray], label_chunks: list[np.ndarray], check_rows: CheckRows
) -> Moments:
    moments = Moments(row_chunks[0].shape[1], row_chunks[0].dtype)
    small: list[tuple[np.ndarray, np.ndarray]] = []

    def add_small() -> None:
        if small:
            moments.add(*check_rows(*concatenate_rows(small)))
            small.clear()

    with one_blas_thread:
        for chunk in zip(row_chunks, label_chunks, strict=True):
            if not any(map(len, chunk)):
                continue
            if _is_small(*chunk):
                small.append(chunk)
            else:
                add_small()
                moments.add(*check_rows(*chunk))
        add_small()
        moments.flush()
    return moments


def _is_small(rows: np.ndarray, labels: np.ndarray) -> bool:
    """Return whether a chunk is so small that it is concatenated with others.

    A chunk that `check_rows` would refuse is not, so that the error is about this chunk.
    """
    return (
        type(rows) is np.ndarray
        and type(labels) is np.ndarray
        and rows.ndim == 2
        and labels.shape == (len(rows),)
        and len(rows) < N_WAITING
    )


def _merge(first: Moments, second: Moments) -> Moments:
    merged = deepcopy(first)
    merged.merge(second)
    return merged
