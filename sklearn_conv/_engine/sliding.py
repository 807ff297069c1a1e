"""Features of overlapping tiles, whose responses are computed once.

Tiles begin at every ``step``-th window of a block. The edges of the cells of all tiles divide the
windows along an axis into elementary cells. Each cell of a tile is a run of these, and the runs of
neighboring tiles are the same number of elementary cells apart. So each response is computed and
pooled once, however many tiles see it. Runs are joined by doubling: pairs, pairs of pairs, and so
on. Nothing is subtracted, so a response changes only the tiles that contain it.

With symmetries, mirrored and turned blocks are computed, which contain the mirrored and turned
tiles.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise, product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._engine.choice import make_engine
from sklearn_conv._engine.geometry import Geometry, Span, cut_span
from sklearn_conv._engine.layer import Engine, Layer
from sklearn_conv._engine.native_engine import NativeEngine
from sklearn_conv._engine.pooling import POOLINGS, Pooling, as_joined, find_reduction, join_windows
from sklearn_conv._engine.symmetry import View, raise_to_power
from sklearn_conv._engine.threads import Workspace, count_threads, run_tasks

N_TOGETHER = 64
"""Number of features of a cell whose runs are joined at a time, so that they stay in the cache."""

PART_BYTES = 2**21
"""Approximate size of responses that are computed at a time, so that they stay in the cache."""

MAX_ENGINES = 32
"""Number of sizes of such parts, and of their directions, whose engines are kept."""


class TileAxis(NamedTuple):
    """The cells of tiles along one axis of a block."""

    n_tiles: int
    cells: tuple[Span, ...]
    """Windows of each elementary cell."""
    period: int
    """Number of elementary cells from a tile to the next."""
    runs: list[list[Span]]
    """Elementary cells of each cell of the first tile, for each grid."""

    @property
    def lengths(self) -> np.ndarray:
        """Number of windows of each elementary cell, (n,)."""
        return np.array([stop - start for start, stop in self.cells], np.float64)

    def join(self, join: np.ufunc, cells: np.ndarray, axis: int, run: Span) -> np.ndarray:
        """Join a run of elementary cells for each tile."""
        return join_runs(join, cells, axis, run, self.n_tiles, self.period)


def cut_axis(n_tiles: int, step: int, grids: Sequence[Sequence[Span]]) -> TileAxis:
    """Divide the windows under tiles that are ``step`` windows apart into elementary cells.

    ``grids`` has the windows of the cells of a tile, for each grid.

    Examples
    --------
    >>> axis = cut_axis(2, 4, [((0, 2), (2, 6))])
    >>> axis.cells, axis.period, axis.runs
    (((0, 2), (2, 4), (4, 6), (6, 8), (8, 10)), 2, [[(0, 1), (1, 3)]])
    """
    edges = {edge for spans in grids for span in spans for edge in span}
    if n_tiles == 1:
        step = max(edges) + 1
    places = {edge % step for edge in edges}
    n_windows = (n_tiles - 1) * step + max(edges)
    bounds = [i for i in range(n_windows + 1) if i % step in places]
    runs = [
        [(bisect_left(bounds, start), bisect_left(bounds, stop)) for start, stop in spans]
        for spans in grids
    ]
    return TileAxis(n_tiles, tuple(pairwise(bounds)), len(places), runs)


def join_runs(
    join: np.ufunc, cells: np.ndarray, axis: int, run: Span, n_tiles: int, period: int
) -> np.ndarray:
    """Join a run of cells along an axis for each tile; tiles are ``period`` cells apart.

    Examples
    --------
    >>> import numpy as np
    >>> join_runs(np.add, np.arange(10), 0, (0, 5), n_tiles=3, period=2)
    array([10, 20, 30])
    """

    def part(start: int, stop: int | None, step: int = 1) -> tuple[slice, ...]:
        return (slice(None),) * axis + (slice(start, stop, step),)

    length, distance = run[1] - run[0], (n_tiles - 1) * period
    joined = cells[part(run[0], run[1] + distance)]  # runs of `size` cells, from each cell on
    result: Any = None
    n_done, size = 0, 1
    while True:
        if length & size:
            found = joined[part(n_done, n_done + distance + 1, period)]
            result = found if result is None else join(result, found)
            n_done += size
        if n_done == length:
            return result
        joined = join(joined[part(0, -size)], joined[part(size, None)])
        size *= 2


class Bank(NamedTuple):
    """Kernels for a view of a block."""

    view: View
    geometry: Geometry
    """Windows of a tile."""
    layer: Layer
    n_views: int = 1
    """Number of views that have their own kernels, side by side."""


class SlidingEngine:
    """Engine for all tiles of a block of a scene.

    ``layer`` and ``geometries`` are those of a tile and of its views; they have no padding. The
    distance of tiles, ``step`` pixels, is a multiple of the strides. Engines that take turns may
    share a workspace.
    """

    def __init__(
        self,
        layer: Layer,
        views: Sequence[View],
        geometries: Sequence[Geometry],
        power: float,
        step: tuple[int, int],
        workspace: Workspace,
    ) -> None:
        self._layer, self._step, self._power = layer, step, power
        self._views = [*zip(views, geometries, strict=True)]
        self._poolings = [POOLINGS["max"]] if layer.poolings is None else layer.poolings
        self._joins = [*dict.fromkeys(pooling.join for pooling in self._poolings)]
        self._is_native = isinstance(make_engine(replace(layer, poolings=None)), NativeEngine)
        # The sum over a tile has the same cell in all views, which are then added before it.
        axes = [self._cut(view, geometry, (2, 2)) for view, geometry in self._views]
        alike = [a[::-1] if view.is_transposed else a for view, a in zip(views, axes, strict=True)]
        self._adds_views = layer.poolings is not None and self._joins == [np.add]
        self._adds_views &= [*layer.pool_grids] == [(1, 1)] and all(a == alike[0] for a in alike)
        self._banks = [Bank(view, geometry, layer) for view, geometry in self._views]
        if self._adds_views:
            self._banks += _join_kernels(layer, self._views)
        self._find_engine = lru_cache(MAX_ENGINES)(self._make_engine)
        self._workspace = workspace

    @property
    def row_bytes(self) -> int:
        """Size of the features of a tile."""
        return prod(self._layer.out_shape(1)) * self._layer.kernels.itemsize

    def count_bytes(self, shape: tuple[int, int]) -> int:
        """Return about how much memory is needed beside the features of tiles."""
        n_cells = prod(len(axis.cells) for axis in self._cut(*self._views[0], shape))
        n_bytes = n_cells * len(self._joins) * self._cell_bytes
        return n_bytes + (0 if self._adds_views else prod(shape) * self.row_bytes)

    def compute(
        self, block: np.ndarray, shape: tuple[int, int], has_missing: bool, n_jobs: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of all tiles, and which cells have no windows.

        ``(h, w, c) -> (rows, columns, cells, poolings, outputs, k), (rows, columns, cells)``
        """
        workers = count_threads(n_jobs)
        if self._adds_views and not has_missing:
            banks = range(len(self._views), len(self._banks))
            values, counts = self._respond(block, shape, banks, False, workers)
            total, counts = self._join(*self._views[0], shape, values, counts, workers)
            n_counted: Any = np.full(counts.shape, len(self._views))
        else:
            n_counted = 0
            for number, view in enumerate(self._views):
                values, counts = self._respond(block, shape, [number], has_missing, workers)
                values, counts = self._join(*view, shape, values, counts, workers)
                values, counts = (view[0].undo(each[np.newaxis])[0] for each in (values, counts))
                total = values if number == 0 else np.add(total, values, out=total)
                n_counted = n_counted + (counts > 0)

        def finish(row: int) -> None:
            total[row] /= n_counted[row, ..., np.newaxis, np.newaxis, np.newaxis]
            if self._power != 1:
                raise_to_power(total[row], self._power)

        run_tasks(finish, [(row,) for row in range(shape[0])], workers)
        return total, n_counted == 0

    def _cut(self, view: View, geometry: Geometry, shape: tuple[int, int]) -> list[TileAxis]:
        """Return the axes of a view of a block with some rows and columns of tiles."""
        layer = replace(self._layer, geometry=geometry)
        if layer.poolings is None:  # Each window is a cell.
            layer = replace(layer, pool_grids=[geometry.output_shape])
        pairs = [*zip(shape, self._step, strict=True)][:: -1 if view.is_transposed else 1]
        return [
            cut_axis(n, step // windows.stride, [grid[axis] for grid in layer.grids])
            for axis, ((n, step), windows) in enumerate(zip(pairs, geometry, strict=True))
        ]

    @property
    def _cell_bytes(self) -> int:
        """Size of the numbers of a window or a cell."""
        k = len(self._layer.outputs) * self._layer.kernels.shape[3]
        return k * self._layer.kernels.itemsize

    def _respond(
        self,
        block: np.ndarray,
        shape: tuple[int, int],
        banks: Sequence[int],
        has_missing: bool,
        workers: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the joined responses of elementary cells, and the numbers of their windows.

        ``banks`` are indices; the responses of several are added. The result is that of the view of
        the first one, ``(h, w, c) -> (rows, columns, joins, outputs, k), (rows, columns)``.
        """
        images = [self._banks[bank].view.apply(block[np.newaxis]) for bank in banks]
        all_axes = [self._cut(*self._banks[bank][:2], shape) for bank in banks]
        rows, columns = all_axes[0]
        k = len(self._layer.outputs), self._layer.kernels.shape[3]
        n_cells = len(rows.cells), len(columns.cells)
        total = self._workspace.empty(
            "cells", (*n_cells, len(self._joins), *k), self._layer.kernels.dtype
        )
        counts = np.multiply.outer(rows.lengths, columns.lengths)
        is_pooled = self._is_native and not has_missing and counts.max() > 1
        n_numbers = max(self._banks[bank].n_views for bank in banks)
        n_numbers *= 1 if is_pooled else counts.max()
        side = int((PART_BYTES / (self._cell_bytes * n_numbers)) ** 0.5)
        parts = (
            cut_span((0, len(axis.cells)), max(1, side // axis.period) * axis.period)
            for axis in (rows, columns)
        )

        def respond(*place: Span) -> None:
            part = total[slice(*place[0]), slice(*place[1])]
            for i, (bank, image, axes) in enumerate(zip(banks, images, all_axes, strict=True)):
                view, geometry, _, n_views = self._banks[bank]
                cells, pixels = [], []
                spans = view.place(place, n_cells) if i else place
                for axis, (start, stop), windows in zip(axes, spans, geometry, strict=True):
                    first, last = axis.cells[start][0], axis.cells[stop - 1][1]
                    cells.append(tuple((a - first, b - first) for a, b in axis.cells[start:stop]))
                    end = (last - 1) * windows.stride + windows.extent
                    pixels.append(slice(first * windows.stride, end))
                layer, engine = self._find_engine(bank, *cells, has_missing, is_pooled)
                values = self._workspace.empty("values", layer.out_shape(1), total.dtype)
                engine.compute(image[:, *pixels], values)
                values = values[0]
                if n_views > 1:
                    values = values.reshape(*values.shape[:-1], n_views, -1).sum(axis=-2)
                if not is_pooled:
                    values, counted = self._pool(values[:, :, 0], cells, has_missing)
                    if has_missing:
                        counts[slice(*place[0]), slice(*place[1])] = counted
                if i:
                    np.add(part, view.undo(values[np.newaxis])[0], out=part)
                else:
                    part[...] = values

        run_tasks(respond, [*product(*parts)], workers)
        return total, counts

    def _make_engine(
        self,
        bank: int,
        rows: tuple[Span, ...],
        columns: tuple[Span, ...],
        has_missing: bool,
        is_pooled: bool,
    ) -> tuple[Layer, Engine]:
        """Return the layer for elementary cells of a bank, and its engine."""
        _, geometry, layer, _ = self._banks[bank]
        lengths = (
            (spans[-1][1] - 1) * windows.stride + windows.extent
            for spans, windows in zip((rows, columns), geometry, strict=True)
        )
        placed = Geometry(
            *(
                replace(windows, length=length, index=np.arange(length))
                for windows, length in zip(geometry, lengths, strict=True)
            )
        )
        layer = replace(layer, geometry=placed, poolings=None)
        if is_pooled:
            poolings = [Pooling(join, as_joined) for join in self._joins]
            layer = replace(layer, poolings=poolings, pool_grids=[(rows, columns)])
        return layer, make_engine(layer, has_missing)

    def _pool(
        self, maps: np.ndarray, cells: Sequence[Sequence[Span]], has_missing: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pool maps over elementary cells, without windows with missing pixels, see `_respond`."""
        is_missing = np.isnan(maps[:, :, 0, 0]) & has_missing
        shape = *map(len, cells), len(self._joins), *maps.shape[2:]
        values = np.empty(shape, maps.dtype)
        for j, join in enumerate(self._joins):
            maps[is_missing] = find_reduction(join)[1]
            values[:, :, j] = _pool_axes(join, maps, cells)
        return values, _pool_axes(np.add, ~is_missing[..., np.newaxis] * 1.0, cells)[..., 0]

    def _join(
        self,
        view: View,
        geometry: Geometry,
        shape: tuple[int, int],
        values: np.ndarray,
        counts: np.ndarray,
        workers: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pool elementary cells over the cells of all tiles; those without windows are 0.

        The result has the features and the numbers of their windows, see `compute`.
        """
        rows, columns = self._cut(view, geometry, shape)
        runs = [
            pair
            for of_rows, of_columns in zip(rows.runs, columns.runs, strict=True)
            for pair in product(of_rows, of_columns)
        ]
        joined_counts = [
            columns.join(np.add, rows.join(np.add, counts, 0, run), 1, other) for run, other in runs
        ]
        counts = np.stack(joined_counts, axis=2)  # (rows, columns, cells)
        divisors = counts[..., np.newaxis].astype(values.dtype)
        features_shape = *counts.shape, len(self._poolings)
        flat = values.reshape(*values.shape[:3], -1)  # (rows, columns, joins, outputs * k)
        features = np.empty((*features_shape, flat.shape[3]), values.dtype)

        def pool(j: int, start: int, stop: int) -> None:
            cells = np.ascontiguousarray(flat[:, :, j, start:stop])
            join = self._joins[j]
            of_rows: dict[Span, np.ndarray] = {}
            for i, (run, other) in enumerate(runs):
                if run not in of_rows:
                    of_rows = {run: rows.join(join, cells, 0, run)}
                joined = columns.join(join, of_rows[run], 1, other)
                for p, pooling in enumerate(self._poolings):
                    if pooling.join is join:
                        features[:, :, i, p, start:stop] = pooling.finish(joined, divisors[:, :, i])

        parts = cut_span((0, flat.shape[3]), N_TOGETHER)
        run_tasks(
            pool, [(j, *part) for j, part in product(range(len(self._joins)), parts)], workers
        )
        features[counts == 0] = 0
        return features.reshape(*features_shape, *values.shape[3:]), counts


def _join_kernels(layer: Layer, views: Sequence[tuple[View, Geometry]]) -> list[Bank]:
    """Group views whose windows are the same pixels, for which mirrored or turned kernels see them.

    Each window is then normalized and read once for a group. Windows of a mirrored tile begin at
    its other end, which is at other pixels if the stride does not divide the length.
    """
    groups: dict[Any, list[tuple[View, Geometry]]] = {}
    for view, geometry in views:
        order = -1 if view.is_transposed else 1
        ends = view.place(((0, 1), (0, 1)), (2, 2))[::order]
        rests = [(windows.length - windows.extent) % windows.stride for windows in geometry]
        is_moved = [end[0] > 0 and rest > 0 for end, rest in zip(ends, rests[::order], strict=True)]
        is_square = len({(each.size, each.stride, each.dilation) for each in geometry}) == 1
        key = *is_moved, view.is_transposed and not is_square
        groups.setdefault(key, []).append((view, geometry))
    banks = []
    for group in groups.values():
        (first, geometry), n = group[0], len(group)
        kernels = [first.apply(view.undo(layer.kernels[np.newaxis]))[0] for view, _ in group]
        joined = replace(
            layer,
            kernels=np.concatenate(kernels, axis=3),
            offset=np.tile(layer.offset, n),
            bias=np.tile(layer.bias, n),
        )
        banks.append(Bank(first, geometry, joined, n))
    return banks


def _pool_axes(join: np.ufunc, values: np.ndarray, cells: Sequence[Sequence[Span]]) -> np.ndarray:
    """Join windows of cells, ``(rows, columns, ...) -> (cells, cells, ...)``; sums in float64."""
    for axis, spans in enumerate(cells):
        if len(spans) == values.shape[axis]:
            continue
        parts = []
        for start, stop in spans:
            part = values[start:stop] if axis == 0 else values[:, start:stop]
            windows = part.reshape(*values.shape[:axis] or (1,), stop - start, -1)
            parts.append(join_windows(np, join, windows, np.float64))
        shape = (*values.shape[:axis], len(spans), *values.shape[axis + 1 :])
        values = np.stack(parts, axis=axis).reshape(shape)
    return values
