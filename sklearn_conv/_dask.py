"""Dask arrays: features and predictions as dask arrays, sums over their chunks.

Nothing else imports this before somebody passes a dask array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy, deepcopy
from itertools import accumulate, pairwise
from math import isnan, prod
from typing import Any

import dask
import dask.array as da
import numpy as np

from sklearn_conv._engine.threads import one_blas_thread

SAMPLE_BYTES = 32 * 2**20
"""About how much of the images is computed in fit."""

N_RUNS = 8
"""How many runs of consecutive images that is."""

UNKNOWN_GROUP = 8
"""Chunks that one task sums up, where nobody knows how many rows they have."""


def check_dask_array(X: Any) -> None:
    """Refuse what is no dask array of real numbers with known axes, but for the first one."""
    if not isinstance(X, da.Array):
        raise TypeError(
            f"X is a {type(X).__module__.partition('.')[0]} {type(X).__name__}; give its dask "
            "array, X.data of an xarray, X.to_dask_array(lengths=True) of a dask DataFrame."
        )
    if any(map(isnan, X.shape[1:])):
        raise ValueError(
            f"X of shape {X.shape} has axes of unknown length; call X.compute_chunk_sizes() first."
        )


def check_rows(X: Any) -> None:
    """Refuse what is no dask array of rows of real numbers."""
    check_dask_array(X)
    if X.ndim != 2 or X.dtype.kind not in "biuf" or 0 in X.shape:
        raise ValueError(
            "X must be a dask array of real numbers of shape (n, n_features), with no empty axis. "
            f"Got shape {X.shape} and dtype {X.dtype} instead."
        )


def sample_images(X: Any, rng: np.random.RandomState) -> np.ndarray:
    """Compute some runs of images, one from each part of X; of a small X, all.

    They do not depend on the chunks, unless nobody knows how long these are.
    """
    n_images = max(N_RUNS, int(SAMPLE_BYTES // (prod(X.shape[1:]) * X.dtype.itemsize)))
    if isnan(X.shape[0]):
        return _sample_blocks(X, n_images, rng)
    n = X.shape[0]
    if n <= n_images:
        return np.asarray(X)
    length = n_images // N_RUNS
    edges = np.linspace(0, n, N_RUNS + 1).astype(int)
    starts = [int(rng.randint(a, max(a, b - length) + 1)) for a, b in pairwise(edges)]
    runs = dask.compute(*[X[start : start + length] for start in starts])
    return np.concatenate(runs)


def _sample_blocks(X: Any, n_images: int, rng: np.random.RandomState) -> np.ndarray:
    """Compute blocks of unknown lengths until there are images enough."""
    blocks = _whole_rows(X).to_delayed().ravel()
    images: list[np.ndarray] = []
    order = rng.permutation(len(blocks))
    for start in range(0, len(order), N_RUNS):
        few = [blocks[i] for i in order[start : start + N_RUNS]]
        length = -(-n_images // len(few))
        images += dask.compute(*[dask.delayed(_head)(block, length) for block in few])
        if sum(map(len, images)) >= n_images // 2:
            break
    if not any(map(len, images)):
        raise ValueError("All chunks of X are empty.")
    return np.concatenate(images)


def _head(block: np.ndarray, length: int) -> np.ndarray:
    return block[:length]


def map_rows(estimator: Any, method: str, X: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Call a method of the estimator on every chunk of rows, lazily; ``shape`` is that of a row."""
    estimator = copy(estimator)
    if hasattr(estimator, "n_jobs"):
        estimator.set_params(n_jobs=1, verbose=0)  # the threads are dask's
    axes = [f"x{axis}" for axis in range(1, X.ndim)]
    new = {f"y{axis}": length for axis, length in enumerate(shape)}
    return da.blockwise(
        _call,
        ("n", *new),
        _whole_rows(X),
        ("n", *axes),
        estimator=dask.delayed(estimator, pure=True, traverse=False),
        method=method,
        row=np.empty((0, *shape), dtype),
        new_axes=new,
        concatenate=True,
        dtype=dtype,
        meta=np.empty((0,) * (1 + len(shape)), dtype),
        name=f"{method}-{dask.base.tokenize(estimator, method, X, shape, dtype)}",
    )


def _call(block: np.ndarray, estimator: Any, method: str, row: np.ndarray) -> np.ndarray:
    if not len(block):
        return row
    with one_blas_thread:
        return getattr(estimator, method)(block)


def _whole_rows(X: Any) -> Any:
    return X.rechunk(dict.fromkeys(range(1, X.ndim), -1))


SumRows = Callable[[list[np.ndarray], list[np.ndarray], list[int]], Any]
"""Sum up some chunks of X and y, of which the first row of each has that number."""


def reduce_rows(sum_rows: SumRows, X: Any, y: Any, start: int) -> Any:
    """Sum up rows where these are, and merge the sums; the first row is number ``start``.

    A task sums up chunks with as many rows as there are features or more, so that the products it
    makes are not larger than what they are made of. Tasks change nothing that others see: dask may
    repeat them when a worker is lost.
    """
    X = _whole_rows(X)
    lengths = X.chunks[0]
    known = not any(map(isnan, lengths))
    if not isinstance(y, da.Array):
        if not known:
            raise ValueError(
                "The chunks of X have unknown lengths, so y must be a dask array with the same "
                "chunks; or call X.compute_chunk_sizes() first."
            )
        y = da.from_array(np.asarray(y), chunks=-1)
    if y.ndim != 1:
        raise ValueError(f"y must have shape (n,). Got {y.ndim} axes instead.")
    if known and y.shape[0] != X.shape[0]:
        raise ValueError(f"X has {X.shape[0]} rows, but y has {y.shape[0]}.")
    if known:
        y = y.rechunk((lengths,))
    elif len(y.chunks[0]) != len(lengths):
        raise ValueError(
            f"X has {len(lengths)} chunks of unknown lengths, but y has {len(y.chunks[0])}; they "
            "must be cut alike."
        )
    first = [0, *accumulate(lengths)] if known else [i << 32 for i in range(len(lengths))]
    X_blocks, y_blocks = X.to_delayed().ravel(), y.to_delayed().ravel()
    sums = [
        dask.delayed(_sum_up)(
            sum_rows, [*X_blocks[group]], [*y_blocks[group]], [start + i for i in first[group]]
        )
        for group in _groups(lengths, X.shape[1] if known else None)
    ]
    while len(sums) > 1:
        pairs = [sums[i : i + 2] for i in range(0, len(sums), 2)]
        sums = [dask.delayed(_merge)(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return sums[0].compute()


def _groups(lengths: Sequence[float], n_rows: int | None) -> Iterator[slice]:
    """Cut chunks into groups of that many rows at least; None: of so many chunks."""
    first, rows = 0, 0.0
    for i, length in enumerate(lengths):
        rows += length
        full = i + 1 - first == UNKNOWN_GROUP if n_rows is None else rows >= n_rows
        if full or i + 1 == len(lengths):
            yield slice(first, i + 1)
            first, rows = i + 1, 0.0


def _sum_up(sum_rows: SumRows, *blocks: Any) -> Any:
    with one_blas_thread:
        return sum_rows(*blocks)


def _merge(first: Any, second: Any) -> Any:
    merged = deepcopy(first)
    merged.merge(second)
    return merged
