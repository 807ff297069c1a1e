"""Division of the map into bands, whose pixels fit the cache, for the native library.

A band is a rectangle of the map. If the pixels under all windows are few, the whole map is one
band. Otherwise a band consists of some rows of the grid, or of a part of one row of the grid: its
cells are then parts of cells, and their sums have to be joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import pairwise, product
from math import ceil
from typing import NamedTuple

import numpy as np

from sklearn_conv._engine.geometry import Geometry, Rectangle, Span, pool_cells
from sklearn_conv._engine.native_library import BandStruct, address


class CellPart(NamedTuple):
    """Windows of a cell, or of a part of a cell, and its place in the grid."""

    rows: Span
    columns: Span
    row: int
    column: int


class Band:
    """Cells, or parts of cells in the same row of the grid, that are computed together."""

    def __init__(
        self, geometry: Geometry, n_channels: int, cells: Sequence[CellPart], has_parts: bool
    ) -> None:
        self.cells, self.has_parts = cells, has_parts
        rectangle, c = _cover(cells), n_channels
        (top, _), (left, _) = rectangle
        rows, columns = (
            windows.reach(span) for windows, span in zip(geometry, rectangle, strict=True)
        )
        pitch = columns.n_pixels * c
        self.n_numbers = rows.n_pixels * pitch
        """Number of numbers in the copy of the pixels."""
        starts = np.arange(rows.size)[:, np.newaxis] * rows.dilation * pitch
        length = columns.size * c
        if columns.dilation > 1:  # The weights of a row of the kernel are not consecutive.
            starts, length = starts + np.arange(columns.size) * columns.dilation * c, c
        starts = starts.reshape(-1, 1)
        numbers = (starts + np.arange(length)).astype(np.int32)
        segments = _segments(columns.pixels)
        runs = np.concatenate([starts, np.full_like(starts, length)], axis=1, dtype=np.int64)
        spans = np.array([(*cell.rows, *cell.columns, *cell[2:]) for cell in cells], np.int64)
        spans -= [top, top, left, left, 0, 0]
        self._arrays = rows.pixels, segments, numbers, runs, spans  # The structure points to them.
        self.struct = BandStruct(
            n_rows=rows.n_pixels,
            rows=address(rows.pixels),
            n_columns=columns.n_pixels,
            n_segments=len(segments),
            segments=address(segments),
            row_step=rows.stride * pitch,
            column_step=columns.stride * c,
            numbers=address(numbers),
            n_runs=len(runs),
            runs=address(runs),
            corner=(columns.size - 1) * columns.dilation * c + c - 1,
            n_cells=len(cells),
            cells=address(spans),
        )


@lru_cache(maxsize=4)
def divide_map(
    geometry: Geometry,
    pool_grid: tuple[int, int] | None,
    n_channels: int,
    max_pixels: int,
    max_rows: int,
) -> list[list[Band]]:
    """Divide a map into groups of bands; bands with parts of the same cells form a group.

    A band has at most ``max_pixels`` pixels under its windows, unless it is a single window, and
    at most ``max_rows`` rows of the map. Without a grid, the map is not pooled.
    """

    def fits(rows: Span, columns: Span) -> bool:
        n_rows, n_columns = rows[1] - rows[0], columns[1] - columns[0]
        n_pixels = geometry.rows.count_pixels(n_rows) * geometry.columns.count_pixels(n_columns)
        return n_rows <= max_rows and n_pixels <= max_pixels

    def make(cells: Sequence[CellPart], has_parts: bool = False) -> Band:
        return Band(geometry, n_channels, cells, has_parts)

    n_rows, n_columns = geometry.output_shape
    if pool_grid is None:
        whole = CellPart((0, n_rows), (0, n_columns), 0, 0)
        return [
            [make([part._replace(row=part.rows[0], column=part.columns[0])])]
            for [part] in _cut([whole], fits)
        ]
    row_spans, column_spans = map(pool_cells, geometry.output_shape, pool_grid)
    columns = column_spans[0][0], column_spans[-1][1]
    groups: list[list[Band]] = []
    start = 0
    while start < len(row_spans):
        stop = start + 1  # as many rows of the grid as fit
        while stop < len(row_spans) and fits((row_spans[start][0], row_spans[stop][1]), columns):
            stop += 1
        cells = [
            CellPart(row_spans[i], column_spans[j], i, j)
            for i, j in product(range(start, stop), range(len(column_spans)))
        ]
        if fits((row_spans[start][0], row_spans[stop - 1][1]), columns):
            groups.append([make(cells)])
        else:
            groups.append([make(parts, has_parts=True) for parts in _cut(cells, fits)])
        start = stop
    return groups


def _cut(cells: Sequence[CellPart], fits: Callable[[Span, Span], bool]) -> list[list[CellPart]]:
    """Cut cells of one row of the grid into parts that fit, or into single windows."""
    rows, columns = _cover(cells)
    parts = _cut_span(rows, lambda part: fits(part, columns))
    if fits(parts[0], columns):
        return [[cell._replace(rows=part) for cell in cells] for part in parts]
    return [
        [cell._replace(rows=part, columns=piece)]
        for part, cell in product(parts, cells)
        for piece in _cut_span(cell.columns, partial(fits, part))
    ]


def _cover(cells: Iterable[CellPart]) -> Rectangle:
    """Return the rectangle of the map that cells cover."""
    tops, bottoms = zip(*(cell.rows for cell in cells), strict=True)
    lefts, rights = zip(*(cell.columns for cell in cells), strict=True)
    return (min(tops), max(bottoms)), (min(lefts), max(rights))


def _cut_span(span: Span, fits: Callable[[Span], bool]) -> list[Span]:
    """Cut a span into few parts of about equal length that fit, or into single windows.

    Examples
    --------
    >>> _cut_span((0, 10), lambda part: part[1] - part[0] <= 4)
    [(0, 3), (3, 6), (6, 10)]
    """
    start, stop = span
    low, high = 1, stop - start  # the longest part that fits is between them
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits((start, start + middle)) else (low, middle - 1)
    n_parts = ceil((stop - start) / low)
    cuts = [start + i * (stop - start) // n_parts for i in range(n_parts + 1)]
    return [*pairwise(cuts)]


def _segments(index: np.ndarray) -> np.ndarray:
    """Divide an axis into segments of consecutive pixels, and segments that are outside.

    Each segment is (first place, first pixel or -1, length).

    Examples
    --------
    >>> import numpy as np
    >>> _segments(np.array([-1, -1, 0, 1, 2, -1]))
    array([[ 0, -1,  2],
           [ 2,  0,  3],
           [ 5, -1,  1]])
    """
    steps = np.diff(index)
    continues = np.where(index[1:] < 0, index[:-1] < 0, (steps == 1) & (index[:-1] >= 0))
    starts = np.concatenate([[0], 1 + np.flatnonzero(~continues)])
    lengths = np.diff(starts, append=len(index))
    return np.stack([starts, index[starts], lengths], axis=1).astype(np.int64)
