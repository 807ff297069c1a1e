"""Several pool grids, whose responses are computed once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from sklearn_conv._array_api import Library
from sklearn_conv._engine.geometry import Grid, Span, cut_span
from sklearn_conv._engine.layer import Advance, Engine, Layer, ignore
from sklearn_conv._engine.pooling import Pooling, as_joined, find_reduction

BLOCK_BYTES = 2**21
"""Approximate size of the elementary cells of a block of images."""

MAX_RATIO = 4
"""Maximum number of elementary cells for each cell of the grids. With more, which takes grids such
as (1, 100) and (100, 1), each grid is computed from its own responses."""


class PyramidEngine:
    """Engine for several pool grids.

    The edges of all grids divide the map into elementary cells, over which an engine that ``make``
    makes joins the responses. Each cell of a grid consists of elementary cells.
    """

    def __init__(self, layer: Layer, make: Callable[[Layer], Engine]) -> None:
        self._layer = layer
        self._library = Library.of(layer.kernels)
        self._joins = [*dict.fromkeys(pooling.join for pooling in layer.poolings or ())]
        elementary = _cut(layer.grids)
        is_fine = prod(map(len, elementary)) > MAX_RATIO * len(layer.cells)
        poolings = [Pooling(join, as_joined) for join in self._joins]
        self._passes = []
        for grids in [[grid] for grid in layer.grids] if is_fine else [layer.grids]:
            joining = replace(layer, poolings=poolings, pool_grids=[_cut(grids)])
            self._passes.append((joining, make(joining), grids))

    def compute(
        self, images: Any, out: Any, n_jobs: int | None = 1, advance: Advance = ignore
    ) -> None:
        """Write the features of images, as the engines do."""
        n, n_passes = out.shape[0], len(self._passes)
        n_numbers = max(prod(joining.out_shape(1)) for joining, _, _ in self._passes)
        length = max(1, BLOCK_BYTES // (n_numbers * np.dtype(np.float32).itemsize))
        for start, stop in cut_span((0, n), length):
            first = 0
            for joining, engine, grids in self._passes:
                joined = self._library.empty(joining.out_shape(stop - start), out.dtype)
                engine.compute(
                    images[start:stop, ...],
                    joined,
                    n_jobs,
                    lambda m: advance(Fraction(m) / n_passes),
                )
                joined = self._library.xp.astype(joined, self._library.widest)
                for grid in grids:
                    last = first + prod(map(len, grid))
                    self._finish(
                        joined, joining.grids[0], grid, out[start:stop, 0, first:last, ...]
                    )
                    first = last

    def _finish(self, joined: Any, elementary: Grid, grid: Grid, out: Any) -> None:
        """Write the features of a grid, ``(b, cells, poolings, outputs, k)``."""
        rows, columns = ([stop - start for start, stop in spans] for spans in grid)
        n_positions = self._library.put(np.multiply.outer(rows, columns).astype(np.float64))
        for p, (join, finish) in enumerate(self._layer.poolings or ()):
            values = joined[:, :, :, self._joins.index(join), ...]
            for axis, cells in enumerate(grid):
                starts = [start for start, _ in elementary[axis]]
                spans = [tuple(bisect_left(starts, edge) for edge in cell) for cell in cells]
                values = self._join(join, values, axis + 1, spans)
            features = finish(values, n_positions[:, :, None, None])
            features = self._library.xp.astype(features, out.dtype, copy=False)
            out[:, :, p, ...] = self._library.xp.reshape(features, out[:, :, p, ...].shape)

    def _join(self, join: np.ufunc, values: Any, axis: int, spans: Sequence[Span]) -> Any:
        """Join spans of an axis of elementary cells."""
        if spans == [(i, i + 1) for i in range(values.shape[axis])]:
            return values
        xp = self._library.xp
        reduce = join.reduce if xp is np else getattr(xp, find_reduction(join)[0])
        parts = [values[(slice(None),) * axis + (slice(*span), ...)] for span in spans]
        return xp.concat([reduce(part, axis=axis, keepdims=True) for part in parts], axis=axis)


def _cut(grids: Sequence[Grid]) -> Grid:
    """Return the elementary cells between the edges of grids.

    Examples
    --------
    >>> _cut([(((0, 7),), ((0, 2), (2, 5))), (((0, 3), (3, 7)), ((0, 5),))])
    (((0, 3), (3, 7)), ((0, 2), (2, 5)))
    """
    rows, columns = (
        tuple(pairwise(sorted({edge for grid in grids for span in grid[axis] for edge in span})))
        for axis in (0, 1)
    )
    return rows, columns
