"""Division of the map into bands, whose pixels fit the cache.

A band is a rectangle of the map. If the pixels under all windows are few, the whole map is one
band. Otherwise a band consists of some rows of the grid, or of a part of one row of the grid: its
cells are then parts of cells, and their sums have to be joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from math import ceil
from typing import NamedTuple

from sklearn_conv._engine.geometry import Geometry, Span, pool_cells


class Cell(NamedTuple):
    """Windows of a cell, or of a part of a cell, and its place in the grid."""

    rows: Span
    columns: Span
    row: int
    column: int


@dataclass(frozen=True, kw_only=True)
class Band:
    """Cells that are computed together."""

    cells: Sequence[Cell]
    has_parts: bool = False
    """Whether the cells are parts of cells, all of them in the same row of the grid."""

    @property
    def rectangle(self) -> tuple[Span, Span]:
        """Rows and columns of the map that the cells cover."""
        return _cover(cell.rows for cell in self.cells), _cover(cell.columns for cell in self.cells)


class Divider:
    """Divide maps into bands.

    Parameters
    ----------
    geometry : Geometry
        Windows of the map.
    max_pixels : int
        Maximum number of pixels under the windows of a band of several windows.
    max_rows : int
        Maximum number of rows of the map in a band.
    """

    def __init__(self, geometry: Geometry, max_pixels: int, max_rows: int) -> None:
        self._geometry = geometry
        self._max_pixels = max_pixels
        self._max_rows = max_rows

    def divide_map(self) -> list[list[Band]]:
        """Divide a map that is not pooled; each band is a group of its own."""
        rows, columns = self._geometry.output_shape
        parts = self._cut([Cell((0, rows), (0, columns), 0, 0)])
        return [
            [Band(cells=[cell._replace(row=cell.rows[0], column=cell.columns[0])])]
            for [cell] in parts
        ]

    def divide_grid(self, pool_grid: tuple[int, int]) -> list[list[Band]]:
        """Divide a map that is pooled; bands with parts of the same cells form a group."""
        row_spans, column_spans = map(pool_cells, self._geometry.output_shape, pool_grid)
        columns = _cover(column_spans)

        def fits(start: int, stop: int) -> bool:
            return self._fits((row_spans[start][0], row_spans[stop - 1][1]), columns)

        groups: list[list[Band]] = []
        start = 0
        while start < len(row_spans):
            stop = start + 1  # as many rows of the grid as fit
            while stop < len(row_spans) and fits(start, stop + 1):
                stop += 1
            cells = [
                Cell(row_spans[i], column_spans[j], i, j)
                for i, j in product(range(start, stop), range(len(column_spans)))
            ]
            if fits(start, stop):
                groups.append([Band(cells=cells)])
            else:
                groups.append([Band(cells=part, has_parts=True) for part in self._cut(cells)])
            start = stop
        return groups

    def _fits(self, rows: Span, columns: Span) -> bool:
        n_rows, n_columns = rows[1] - rows[0], columns[1] - columns[0]
        n_pixels = self._geometry.rows.count_pixels(n_rows)
        n_pixels *= self._geometry.columns.count_pixels(n_columns)
        return n_rows <= self._max_rows and n_pixels <= self._max_pixels

    def _cut(self, cells: Sequence[Cell]) -> list[list[Cell]]:
        """Cut cells of one row of the grid into parts that fit, or into single windows."""
        rows, columns = Band(cells=cells).rectangle
        parts = _cut_span(rows, lambda part: self._fits(part, columns))
        if self._fits(parts[0], columns):
            return [[cell._replace(rows=part) for cell in cells] for part in parts]
        return [
            [cell._replace(rows=part, columns=piece)]
            for part, cell in product(parts, cells)
            for piece in _cut_span(cell.columns, partial(self._fits, part))
        ]


def _cover(spans: Iterable[Span]) -> Span:
    starts, stops = zip(*spans, strict=True)
    return min(starts), max(stops)


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
