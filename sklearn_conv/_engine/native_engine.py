"""Engine in C++, which activates and pools responses without writing them to memory.

The library (``native/`` in the source, loaded by ``native_library``) computes bands of images. This
module packs the weights, divides the map into bands, whose pixels fit the cache, and the bands into
tasks for threads, and passes pointers.

A band is a rectangle of the map. If the pixels under all windows are few, the whole map is one
band. Otherwise a band consists of some rows of the grid, or of a part of one row of the grid: its
cells are then parts of cells. The library writes whole cells to the result. It adds parts of cells
to sums, which are finished here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ctypes import addressof, byref
from fractions import Fraction
from functools import lru_cache, partial
from itertools import groupby, pairwise, product
from math import ceil, prod
from typing import NamedTuple

import numpy as np
from sklearn import get_config

from sklearn_conv._engine.geometry import Geometry, Grid, Rectangle, Span
from sklearn_conv._engine.layer import Advance, Layer, ignore
from sklearn_conv._engine.native_library import (
    MAX_TILES,
    N_TERMS,
    STEP,
    BandStruct,
    CallStruct,
    LayerStruct,
    Level,
    NativeLibrary,
    OutputStruct,
    address,
)
from sklearn_conv._engine.numpy_engine import NumpyEngine
from sklearn_conv._engine.threads import Workspace, aligned_empty, count_threads, run_tasks

BYTES = np.dtype(np.uint8)

BAND_BYTES = 2**21
"""Maximum size of the pixels of a band, which are copied."""

WINDOW_BYTES = 2**15
"""Maximum size of the windows that are copied at a time, unless those of one tile are larger."""

TILE_BYTES = 2**19
"""The same for a matrix unit."""

MIN_TILE_PRODUCTS = 2000
"""Number of products of a window and all kernels below which vectors are faster."""

MIN_TERM_PRODUCTS, MIN_TERM_WEIGHTS = 10_000, 24
"""The same for pixels of more than 8 bits, and the least number of pixels of a window."""

N_PRODUCTS = {1: 3, 2: 5, 3: 6}
"""Number of products of terms of a pixel and of a weight, for each number of terms of a pixel."""

MIN_TILE_WEIGHT = 2.0**-70
"""With smaller weights, products of terms could be subnormal, which a matrix unit takes for 0; with
the inverse, sums could overflow."""

MIN_TILE_KERNEL = 2.0**-40
"""The same for the largest weight of each kernel: beside it, lost products are as small as
rounding."""

MAX_TILE_WEIGHTS = 2**15
"""Number of pixels of a window whose squares, at most 255**2, have a sum of 32 bits."""

CALL_MULTIPLICATIONS = 2 * 10**8
"""Approximate number of multiplications in a call of the library, which takes some milliseconds.
Between calls, interrupts are handled, and progress is reported."""

MIN_MULTIPLICATIONS = 2 * 10**7
"""Number of multiplications below which several threads are not faster than one."""

TASKS_PER_WORKER = 4
"""Number of tasks per thread. With fewer, threads that have no more tasks would wait for the last
one."""


class NativeEngine:
    """Engine with the interface that is described in `sklearn_conv._engine`.

    Images of a dtype that the library does not have are computed by `NumpyEngine`.
    """

    def __init__(self, layer: Layer, library: NativeLibrary, level: Level | None = None) -> None:
        self._layer = layer
        self._library = library
        self._level = level or library.levels[0]
        self._compute = self._level.compute
        self._packed = PackedLayer(layer, library, self._level)
        self._workspace = Workspace()
        self._divided: dict[int, list[list[Band]]] = {}

    def compute(
        self, images: np.ndarray, out: np.ndarray, n_jobs: int | None = 1, advance: Advance = ignore
    ) -> None:
        """Write the features of images."""
        if images.dtype not in self._library.pixels:
            NumpyEngine(self._layer).compute(images, out, n_jobs, advance)
            return
        self._check(images, out)
        self._packed.find_tiles(images.dtype)  # The weights are packed before threads need them.
        n = len(images)
        multiplications = prod(self._layer.geometry.output_shape) * self._layer.kernels.size
        is_worth = n * multiplications >= MIN_MULTIPLICATIONS
        workers = count_threads(n_jobs) if is_worth else 1
        if workers == 1 or n >= TASKS_PER_WORKER * workers:
            n_parts = TASKS_PER_WORKER * workers if workers > 1 else 1
            length = max(1, min(CALL_MULTIPLICATIONS // multiplications, ceil(n / n_parts)))
            self._compute_images(images, out, length, workers, advance)
        elif n:
            self._compute_bands(images, out, workers, advance)

    def _check(self, images: np.ndarray, out: np.ndarray) -> None:
        """Raise ValueError for arrays for which the library would use other memory than theirs."""
        rows, columns = self._layer.geometry
        shape, dtype = self._layer.out_shape(len(images)), self._layer.kernels.dtype
        if images.shape[1:] != (rows.length, columns.length, self._layer.kernels.shape[2]):
            raise ValueError(f"The layer is for other images than those of shape {images.shape}")
        # Arrays without elements have strides of 0.
        is_in_rows = out.strides[-1] == dtype.itemsize or out.shape[-1] == 1 or not out.size
        has_whole_steps = not any(stride % dtype.itemsize for stride in out.strides)
        is_like_layer = out.shape == shape and out.dtype == dtype and out.flags.writeable
        if not (is_like_layer and is_in_rows and has_whole_steps):
            raise ValueError(
                f"The features of the layer are rows of shape {shape} and dtype {dtype}, but the "
                f"result has shape {out.shape}, dtype {out.dtype} and strides {out.strides}, or "
                "cannot be written to"
            )

    def _compute_images(
        self, images: np.ndarray, out: np.ndarray, length: int, workers: int, advance: Advance
    ) -> None:
        """Compute tasks of ``length`` images."""
        groups = self._divide(max_rows=self._layer.geometry.output_shape[0])

        def compute(part: slice) -> None:
            for group in groups:
                if group[0].has_parts:
                    for image, features in zip(images[part], out[part], strict=True):
                        self._finish(group[0], self._sum(group, image), features)
                else:
                    self._call(group[0], images[part], out[part])
            advance(len(images[part]))

        starts = range(0, len(images), length)
        run_tasks(compute, [(slice(start, start + length),) for start in starts], workers)

    def _compute_bands(
        self, images: np.ndarray, out: np.ndarray, workers: int, advance: Advance
    ) -> None:
        """Compute tasks of some bands of an image, for few images."""
        n_parts = ceil(TASKS_PER_WORKER * workers / len(images))
        groups = self._divide(max_rows=ceil(self._layer.geometry.output_shape[0] / n_parts))
        length = ceil(sum(map(len, groups)) / n_parts)
        tasks = [
            (i, group, slice(start, start + length))
            for i, group in product(range(len(images)), groups)
            for start in range(0, len(group), length)
        ]

        def compute(i: int, group: Sequence[Band], part: slice) -> np.ndarray | None:
            bands, sums = group[part], None
            if not bands[0].has_parts:
                self._call(bands[0], images[i : i + 1], out[i : i + 1])
            elif len(bands) == len(group):  # No other task has a part of these cells.
                self._finish(bands[0], self._sum(bands, images[i]), out[i])
            else:
                sums = self._sum(bands, images[i])
            advance(Fraction(len(images), len(tasks)))
            return sums

        results = zip(tasks, run_tasks(compute, tasks, workers), strict=True)
        parts = [(i, group[0], sums) for (i, group, _), sums in results if sums is not None]
        for _, same_cells in groupby(parts, lambda part: (part[0], part[1].cells[0].row)):
            (i, band, sums), *others = same_cells
            for _, _, more in others:
                sums[:, :, 0] += more[:, :, 0]
                np.maximum(sums[:, :, 1], more[:, :, 1], out=sums[:, :, 1])
            self._finish(band, sums, out[i])

    def _divide(self, max_rows: int) -> list[list[Band]]:
        if max_rows in self._divided:
            return self._divided[max_rows]
        layer, n_channels = self._layer, self._layer.kernels.shape[2]
        budget = min(BAND_BYTES, get_config()["working_memory"] * 2**20)
        max_pixels = int(budget) // (n_channels * layer.kernels.itemsize)
        [grid] = [None] if layer.poolings is None else layer.grids
        # The next engine may compute a single small image, so the result is kept for it as well,
        # unless it takes much memory.
        is_small = grid is None or prod(map(len, grid)) <= 1000
        divide = divide_map if is_small else divide_map.__wrapped__
        bands = divide(layer.geometry, grid, n_channels, max_pixels, max_rows)
        return self._divided.setdefault(max_rows, bands)

    def _sum(self, bands: Sequence[Band], image: np.ndarray) -> np.ndarray:
        """Return sums and maxima of cells of a row of the grid, (columns, outputs, 2, k)."""
        [(_, columns)] = self._layer.grids
        shape = (len(columns), self._packed.struct.n_outputs, 2, self._packed.n_padded)
        sums = np.zeros(shape)
        sums[:, :, 1] = -np.inf
        for band in bands:
            self._call(band, image[np.newaxis], None, sums)
        return sums

    def _finish(self, band: Band, sums: np.ndarray, features: np.ndarray) -> None:
        """Write the features of the row of the grid of a band, given the sums of its cells."""
        k, row = self._layer.kernels.shape[3], band.cells[0].row
        [(rows, columns)] = self._layer.grids
        height = rows[row][1] - rows[row][0]
        for p, pooling in enumerate(self._layer.poolings or ()):
            joined = sums[:, :, int(pooling.join is np.maximum), :k]
            for column, (left, right) in enumerate(columns):
                features[row, column, p] = pooling.finish(joined[column], height * (right - left))

    def _call(
        self, band: Band, images: np.ndarray, out: np.ndarray | None, sums: np.ndarray | None = None
    ) -> None:
        """Compute a band of images; write its features to ``out``, or add to ``sums``."""
        layer, empty = self._packed, self._workspace.empty
        itemsize, more = self._layer.kernels.itemsize, self._level.vector_bytes
        call = CallStruct(
            n_images=len(images),
            images=address(images),
            strides=images.strides,
            pixel=self._library.pixels[images.dtype],
        )
        tiles = layer.find_tiles(images.dtype)
        if tiles is not None:
            call.tiles, call.pixel_terms = address(tiles.weights), tiles.pixel_terms
            call.n_steps, call.n_rest = tiles.n_steps, tiles.n_rest
            n_bytes, size = self._level.tile_windows * tiles.window_bytes, TILE_BYTES
            more += (layer.struct.n_weights + STEP) * itemsize
        else:
            n_bytes = (layer.struct.n_weights + 1) * itemsize
            n_bytes = self._level.positions * (n_bytes + -n_bytes % more)  # of windows of a tile
            size = WINDOW_BYTES
        call.n_tiles = min(MAX_TILES, max(1, size // n_bytes))
        pixel_bytes = itemsize + (2 * tiles.pixel_terms if tiles else 0)
        n_numbers = -(-band.n_numbers // STEP) * STEP
        call.pixels = address(empty("pixels", (n_numbers * pixel_bytes + more,), BYTES))
        call.windows = address(empty("windows", (call.n_tiles * n_bytes + more,), BYTES))
        if sums is not None:
            call.sums = address(sums)
        if out is not None:
            call.out = address(out)
            call.out_strides = tuple(stride // out.itemsize for stride in out.strides[:5])
            shape = (2 * layer.struct.n_outputs, layer.n_padded)
            call.cell_sums = address(empty("sums", shape, np.dtype(np.float64)))
        self._compute(byref(layer.struct), byref(band.struct), byref(call))


class PackedLayer:
    """The structure of a layer for the library, and the arrays to which it points."""

    def __init__(self, layer: Layer, library: NativeLibrary, level: Level) -> None:
        *_, k = layer.kernels.shape
        dtype, lanes = layer.kernels.dtype, level.vector_bytes // layer.kernels.itemsize
        self._library, self._has_tiles = library, bool(level.tile_windows)
        self._tiles: dict[int, Tiles | None] = {}
        self.n_padded = -(-k // lanes) * lanes
        kernels = layer.kernels.reshape(-1, k)
        sums = kernels.sum(axis=0, dtype=np.float64)
        rows = np.zeros((len(kernels) + 1, self.n_padded), dtype)
        rows[:-1, :k], rows[-1, :k] = kernels, sums
        self._rows = rows
        # Panels of two vectors of kernels, and perhaps one of a single vector
        starts = range(0, self.n_padded, 2 * lanes)
        self._weights = aligned_empty(rows.size, dtype)
        np.concatenate(
            [rows[:, start : start + 2 * lanes].ravel() for start in starts], out=self._weights
        )
        outputs = layer.outputs
        self._shift = np.zeros(self.n_padded, dtype)
        self._shift[:k] = layer.offset + layer.base
        self._constants = np.zeros((len(outputs), self.n_padded), dtype)
        self._outputs = (OutputStruct * len(outputs))()
        for packed, output, row in zip(self._outputs, outputs, self._constants, strict=True):
            side, constant = output
            packed.function = library.functions[side.function]
            packed.is_negative = side.sign < 0
            if constant is not None:
                row[:k] = constant
            if packed.is_negative or constant is not None:
                packed.constant = address(row)
        self._poolings = np.array([library.poolings[p] for p in layer.poolings or ()], np.int64)
        self._numbers = np.arange(len(rows), dtype=np.int32)
        self.struct = LayerStruct(
            is_double=dtype == np.float64,
            n_channels=layer.kernels.shape[2],
            n_weights=len(kernels),
            n_kernels=k,
            weights=address(self._weights),
            shift=address(self._shift),
            n_padded=self.n_padded,
            n_outputs=len(outputs),
            outputs=addressof(self._outputs),
            n_poolings=len(self._poolings),
            poolings=address(self._poolings),
            numbers=address(self._numbers),
            is_normalized=layer.eps > 0,
            eps=layer.eps,
        )

    def find_tiles(self, dtype: np.dtype) -> Tiles | None:
        """Return the weights for a matrix unit and pixels of a dtype.

        None if it would be slower than vectors, or less accurate: it takes subnormal numbers for 0.
        """
        n_terms = min(dtype.itemsize, 3)  # each of 8 binary digits
        if n_terms == 2 and self.struct.is_normalized:  # divided, so that all digits are needed
            n_terms = 3
        if n_terms not in self._tiles:
            self._tiles[n_terms] = self._pack_tiles(n_terms)
        return self._tiles[n_terms]

    def _pack_tiles(self, pixel_terms: int) -> Tiles | None:
        d, k = self.struct.n_weights, self.struct.n_kernels
        is_slow = d * k < MIN_TILE_PRODUCTS
        if pixel_terms > 1:
            is_slow = d * k < MIN_TERM_PRODUCTS or d < MIN_TERM_WEIGHTS
        if not self._has_tiles or self.struct.is_double or d > MAX_TILE_WEIGHTS or is_slow:
            return None
        sizes = np.abs(self._rows[:-1])
        is_normal = (sizes >= MIN_TILE_WEIGHT) & (sizes <= 1 / MIN_TILE_WEIGHT)
        largest = sizes.max(axis=0)
        is_tiny = ((largest < MIN_TILE_KERNEL) & (largest > 0)).any()
        if is_tiny or not (is_normal | (sizes == 0)).all():
            return None
        has_offset = pixel_terms > 1 and not self.struct.is_normalized
        n_steps, n_rest = divmod(d + has_offset, STEP)
        rest_steps = ceil(N_PRODUCTS[pixel_terms] * n_rest / STEP)
        if rest_steps == N_PRODUCTS[pixel_terms]:  # as many products as in a step of all terms
            n_steps, n_rest, rest_steps = n_steps + 1, 0, 0
        n_weights = (n_steps * N_TERMS + rest_steps) * STEP
        weights = aligned_empty(n_weights * self.n_padded, np.dtype(np.uint16))
        weights.fill(0)
        self._library.pack_tiles(
            address(self._rows),
            d + has_offset,
            self.n_padded,
            pixel_terms,
            n_steps,
            address(weights),
        )
        window_bytes = (n_steps * pixel_terms + rest_steps) * STEP * 2
        return Tiles(weights, pixel_terms, n_steps, n_rest, window_bytes)


class Tiles(NamedTuple):
    """Weights for a matrix unit, and what `CallStruct` says about them."""

    weights: np.ndarray
    pixel_terms: int
    n_steps: int
    n_rest: int
    window_bytes: int
    """Size of the terms of a window."""


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
        numbers, runs, pieces = _number_window(
            rows.size, rows.dilation * pitch, columns.size, columns.dilation * c, c
        )
        segments = _segments(columns.pixels)
        spans = np.array([(*cell.rows, *cell.columns, *cell[2:]) for cell in cells], np.int64)
        spans -= [top, top, left, left, 0, 0]
        # The structure points to these arrays.
        row_numbers = rows.pixels.astype(np.int64, copy=False)
        self._arrays = row_numbers, segments, numbers, runs, pieces, spans
        self.struct = BandStruct(
            n_rows=rows.n_pixels,
            rows=address(row_numbers),
            n_columns=columns.n_pixels,
            n_segments=len(segments),
            segments=address(segments),
            row_step=rows.stride * pitch,
            column_step=columns.stride * c,
            numbers=address(numbers),
            n_runs=len(runs),
            runs=address(runs),
            pieces=address(pieces),
            corner=(columns.size - 1) * columns.dilation * c + c - 1,
            n_cells=len(cells),
            cells=address(spans),
        )


@lru_cache(maxsize=16)
def _number_window(
    n_rows: int, row_step: int, n_columns: int, column_step: int, c: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the numbers of a window in the copy of the pixels, as such, as runs and as pieces.

    Bands of the same width share them; with many channels, they are longer than a band.
    """
    starts, length = np.arange(n_rows)[:, np.newaxis] * row_step, n_columns * c
    if column_step > c:  # The weights of a row of the kernel are not consecutive.
        starts, length = starts + np.arange(n_columns) * column_step, c
    starts = starts.reshape(-1, 1)
    numbers = (starts + np.arange(length)).astype(np.int32)
    runs = np.concatenate([starts, np.full_like(starts, length)], axis=1, dtype=np.int64)
    return numbers, runs, _pieces(numbers.ravel())


@lru_cache(maxsize=4)
def divide_map(
    geometry: Geometry,
    grid: Grid | None,
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
    if grid is None:
        whole = CellPart((0, n_rows), (0, n_columns), 0, 0)
        return [
            [make([part._replace(row=part.rows[0], column=part.columns[0])])]
            for [part] in _cut([whole], fits)
        ]
    row_spans, column_spans = grid
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


def _pieces(numbers: np.ndarray) -> np.ndarray:
    """Divide the numbers of a window into pieces that are consecutive, also in vectors.

    A vector has `STEP` numbers. Each piece is (place of the first number of the vector, bits of
    its own numbers, whether it is the last piece of the vector).

    Examples
    --------
    >>> import numpy as np
    >>> _pieces(np.array([0, 1, 2, 10, 11, 12]))
    array([[ 0,  7,  0],
           [ 7, 56,  1]])
    """
    place = np.arange(len(numbers) + 1)
    breaks = place % STEP == 0
    breaks[1:-1] |= np.diff(numbers) != 1
    breaks[-1] = True
    edges = np.flatnonzero(breaks)
    starts, lanes = edges[:-1], edges[:-1] % STEP
    bits = ((1 << np.diff(edges)) - 1) << lanes
    is_last = np.append(lanes[1:] == 0, True)
    return np.stack([numbers[starts] - lanes, bits, is_last], axis=1).astype(np.int64)


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
