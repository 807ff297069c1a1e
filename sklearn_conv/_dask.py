"""Support for Dask arrays: sample their images, and call a method with each chunk.

This is the only module that imports Dask. It is imported only if a Dask array is passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import pairwise
from math import isnan, prod
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed as Delayed
from dask.highlevelgraph import HighLevelGraph as HighLevelGraph

from sklearn_conv._engine.threads import one_blas_thread

SAMPLE_BYTES = 32 * 2**20
"""Approximate size of the images that are computed in ``fit``."""

N_RUNS = 8
"""Number of runs of consecutive images that are computed in ``fit``, at most."""


def check_dask_array(X: Any) -> None:
    """Raise an error if X is not a Dask array, or if the length of an axis is unknown.

    Only the length of the first axis may be unknown.
    """
    if not isinstance(X, da.Array):
        raise TypeError(
            f"X is a {type(X).__module__.partition('.')[0]} {type(X).__name__}; pass its Dask "
            "array: X.data of an xarray, X.to_dask_array(lengths=True) of a Dask DataFrame."
        )
    if any(map(isnan, X.shape[1:])):
        raise ValueError(
            f"X of shape {X.shape} has axes of unknown length; call X.compute_chunk_sizes() first."
        )


def sample_images(X: Any, rng: np.random.RandomState) -> np.ndarray:
    """Compute a sample of the images: a run of consecutive images from each of up to 8 parts of X.

    If X is small, all images are computed. The sample does not depend on the chunks, unless their
    lengths are unknown.
    """
    n_images = max(1, int(SAMPLE_BYTES // (prod(X.shape[1:]) * X.dtype.itemsize)))
    if isnan(X.shape[0]):
        return _sample_blocks(X, n_images, rng)
    n = X.shape[0]
    if n <= n_images:
        return _join(dask.compute(X))
    n_runs = min(N_RUNS, n_images)
    length = n_images // n_runs
    edges = np.linspace(0, n, n_runs + 1).astype(int)
    starts = [int(rng.randint(a, max(a, b - length) + 1)) for a, b in pairwise(edges)]
    runs = dask.compute(*[X[start : start + length] for start in starts])
    return _join(runs)


def _sample_blocks(X: Any, n_images: int, rng: np.random.RandomState) -> np.ndarray:
    """Compute chunks of unknown length until there are enough images."""
    blocks = whole_rows(X).to_delayed().ravel()
    images: list[np.ndarray] = []
    order = rng.permutation(len(blocks))
    n_runs = min(N_RUNS, n_images)
    for start in range(0, len(order), n_runs):
        few = [blocks[i] for i in order[start : start + n_runs]]
        length = -(-n_images // len(few))
        images += dask.compute(*[block[:length] for block in few])
        if sum(map(len, images)) >= max(1, n_images // 2):
            break
    if not any(map(len, images)):
        raise ValueError("All chunks of X are empty.")
    return _join(images)


def _join(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate blocks, which may be masked arrays."""
    is_masked = any(map(np.ma.isMaskedArray, blocks))
    return np.ma.concatenate(blocks) if is_masked else np.concatenate(blocks)


def map_rows(estimator: Any, method: str, X: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Call a method of the estimator with every chunk, lazily.

    ``shape`` and ``dtype`` are those of a row of the result.
    """
    estimator = copy(estimator)
    if hasattr(estimator, "n_jobs"):
        estimator.set_params(n_jobs=1, verbose=0)  # Dask runs the tasks in its own threads.
    axes = [f"x{axis}" for axis in range(1, X.ndim)]
    new = {f"y{axis}": length for axis, length in enumerate(shape)}
    return da.blockwise(
        _call,
        ("n", *new),
        whole_rows(X),
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


def whole_rows(X: Any) -> Any:
    """Return X with chunks along axis 0 only."""
    return X.rechunk(dict.fromkeys(range(1, X.ndim), -1))
