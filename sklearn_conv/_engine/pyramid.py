"""Several pool grids, whose responses are computed once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._array_api import Library
from sklearn_conv._engine.geometry import Grid, Span, cut_span
from sklearn_conv._engine.layer import Advance, Engine, Layer, ignore
from sklearn_conv._engine.pooling import Pooling, as_joined, find_reduction

BLOCK_BYTES = 2**22
"""Approximate size of the elementary cells of a block of images."""

JOINED_BYTES = 2**18
"""Approximate size of the elementary cells that are joined at a time, for arrays of NumPy, so that
they stay in the cache."""

MAX_RATIO = 4
"""Maximum number of elementary cells for each cell of the grids. With more, which takes grids such
as (1, 100) and (100, 1), each grid is computed from its own responses."""


class Step(NamedTuple):
    """How the cells of a grid are joined."""

    source: int
    """Index of the grid whose cells are joined: 0 is that of the elementary cells, and i + 1 is
    that of step i."""
    spans: tuple[Sequence[Span], Sequence[Span]]
    """Rows and columns of the source in each row and each column of the grid."""
    n_positions: Any
    """(grid rows, grid columns, 1, 1)"""
    place: slice
    """Place of the cells in the features."""


class PyramidEngine:
    """Engine for several pool grids.

    The edges of all grids divide the map into elementary cells, over which an engine that ``make``
    makes joins the responses. The cells of each grid are joined from those of the coarsest finer
    grid that has all of its edges, or from the elementary cells.
    """

    def __init__(self, layer: Layer, make: Callable[[Layer], Engine]) -> None:
        self._library = Library.of(layer.kernels)
        self._poolings = layer.poolings or ()
        self._joins = [*dict.fromkeys(pooling.join for pooling in self._poolings)]
        stops = np.cumsum([prod(map(len, grid)) for grid in layer.grids]).tolist()
        places = [slice(*span) for span in pairwise([0, *stops])]
        placed = [*zip(layer.grids, places, strict=True)]
        is_fine = prod(map(len, _cut(layer.grids))) > MAX_RATIO * stops[-1]
        self._passes = []
        for group in [[each] for each in placed] if is_fine else [placed]:
            elementary = _cut([grid for grid, _ in group])
            poolings = [Pooling(join, as_joined) for join in self._joins]
            joining = replace(layer, poolings=poolings, pool_grids=[elementary])
            self._passes.append((joining, make(joining), self._plan(elementary, group)))

    def compute(
        self, images: Any, out: Any, n_jobs: int | None = 1, advance: Advance = ignore
    ) -> None:
        """Write the features of images, as the engines do."""
        n_numbers = max(prod(joining.out_shape(1)) for joining, _, _ in self._passes)
        length, n_joined = (
            max(1, n_bytes // (n_numbers * np.dtype(np.float32).itemsize))
            for n_bytes in (BLOCK_BYTES, JOINED_BYTES if self._library.xp is np else BLOCK_BYTES)
        )
        for start, stop in cut_span((0, out.shape[0]), length):
            for joining, engine, steps in self._passes:
                joined = self._library.empty(joining.out_shape(stop - start), out.dtype)
                engine.compute(
                    images[start:stop, ...],
                    joined,
                    n_jobs,
                    lambda m: advance(Fraction(m) / len(self._passes)),
                )
                for i, j in cut_span((0, stop - start), n_joined):
                    self._finish(joined[i:j, ...], steps, out[start + i : start + j, ...])

    def _plan(self, elementary: Grid, group: Sequence[tuple[Grid, slice]]) -> list[Step]:
        """Return the steps for grids and their places in the features, the finest grid first."""
        grids, steps = [elementary], []
        for grid, place in sorted(group, key=lambda each: each[1].start - each[1].stop):
            # A grid whose cells overlap differs from what is cut, so it is never a source.
            source = max(i for i, other in enumerate(grids) if _cut([other, grid]) == other)
            rows, columns = (
                [(bisect_left(axis, (start,)), bisect_left(axis, (stop,))) for start, stop in spans]
                for axis, spans in zip(grids[source], grid, strict=True)
            )
            lengths = ([stop - start for start, stop in spans] for spans in grid)
            n_positions = np.multiply.outer(*lengths)[:, :, np.newaxis, np.newaxis]
            n_positions = self._library.put(n_positions.astype(np.float64))
            steps.append(Step(source, (rows, columns), n_positions, place))
            grids.append(grid)
        return steps

    def _finish(self, joined: Any, steps: Sequence[Step], out: Any) -> None:
        """Write features, given the elementary cells ``(b, rows, columns, joins, outputs, k)``."""
        xp = self._library.xp
        for i, join in enumerate(self._joins):
            values = [joined[:, :, :, i, ...]]
            for source, spans, n_positions, place in steps:
                cells = values[source]
                for axis in (0, 1):
                    cells = self._join(join, cells, axis + 1, spans[axis])
                values.append(cells)
                for p, pooling in enumerate(self._poolings):
                    if pooling.join is join:
                        features = pooling.finish(cells, xp.astype(n_positions, cells.dtype))
                        features = xp.astype(features, out.dtype, copy=False)
                        part = out[:, 0, place, p, ...]
                        part[...] = xp.reshape(features, part.shape)

    def _join(self, join: np.ufunc, cells: Any, axis: int, spans: Sequence[Span]) -> Any:
        """Join spans of cells along an axis; sums are computed in the widest dtype."""
        if spans == [(i, i + 1) for i in range(cells.shape[axis])]:
            return cells
        xp = self._library.xp
        reduce = join.reduce if xp is np else getattr(xp, find_reduction(join)[0])
        parts = [
            xp.astype(cells[(slice(None),) * axis + (slice(*span), ...)], self._library.widest)
            for span in spans
        ]
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
