"""Engine in C++, which activates and pools responses without writing them to memory.

The library (``native/`` in the source, loaded by ``native_library``) computes bands of images. This
module packs the weights, divides the map into bands (``bands``) and the bands into tasks for
threads, and passes pointers. The library writes whole cells to the result. It adds parts of cells
to sums, which are finished here.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import groupby, product
from math import ceil, prod
from typing import Any

import numpy as np
from sklearn import get_config

from sklearn_conv._engine import native_library as native
from sklearn_conv._engine.activation import Function, absolute, identity, relu, square, step
from sklearn_conv._engine.bands import Band, Divider
from sklearn_conv._engine.geometry import Geometry, Span, pool_cells
from sklearn_conv._engine.layer import Layer
from sklearn_conv._engine.numpy_engine import Advance, NumpyEngine
from sklearn_conv._engine.pooling import POOLINGS, Pooling
from sklearn_conv._engine.threads import Workspace, aligned_empty, count_threads, run_tasks

FUNCTIONS: dict[Function, int] = {identity: 0, relu: 1, absolute: 2, square: 3, step: 4}
"""Number of each function in ``native/core.h``; likewise the next two tables."""

POOLING_NUMBERS: dict[Pooling, int] = {
    POOLINGS["mean"]: 0,
    POOLINGS["sum"]: 1,
    POOLINGS["max"]: 2,
}

PIXEL_TYPES = {
    np.dtype(name): number
    for number, name in enumerate(
        ["u1", "i1", "u2", "i2", "f2", "f4", "f8", "i4", "u4", "i8", "u8"]
    )
} | {np.dtype(bool): 0}

BYTES = np.dtype(np.uint8)

BAND_BYTES = 2**21
"""Maximum size of the pixels of a band, which are copied."""

WINDOW_BYTES = 2**15
"""Maximum size of the windows that are copied at a time, unless those of one tile are larger."""

MAX_TILES, MAX_OUTPUTS = 8, 32
"""Limits in ``native/core.h``: tiles that use the same weights one after the other, and outputs
of a layer."""

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

    Images of a dtype that is not in `PIXEL_TYPES` are computed by `NumpyEngine`.
    """

    def __init__(
        self, layer: Layer, library: native.Library, level: native.Level | None = None
    ) -> None:
        self._layer = layer
        self._library = library
        self._level = level or library.levels[0]
        self._packed = PackedLayer(layer, self._level)
        self._workspace = Workspace()
        self._divided: dict[int, list[list[PackedBand]]] = {}

    @staticmethod
    def supports(layer: Layer) -> bool:
        """Return whether the library has the activation and the poolings of a layer."""
        return (
            len(layer.sides) * len(layer.bias) <= MAX_OUTPUTS
            and all(side.function in FUNCTIONS for side in layer.sides.values())
            and all(pooling in POOLING_NUMBERS for pooling in layer.poolings or ())
        )

    def compute(
        self,
        images: np.ndarray,
        out: np.ndarray,
        n_jobs: int | None = 1,
        advance: Advance = lambda n_images: None,
    ) -> None:
        """Write the features of images.

        ``(n, h, w, c) -> (n, rows, columns, poolings, outputs, k)``
        """
        if images.dtype not in PIXEL_TYPES:
            NumpyEngine(self._layer).compute(images, out, n_jobs, advance)
            return
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

    def _compute_images(
        self, images: np.ndarray, out: np.ndarray, length: int, workers: int, advance: Advance
    ) -> None:
        """Compute tasks of ``length`` images."""
        groups = self._divide(max_rows=self._layer.geometry.output_shape[0])

        def compute(part: slice) -> None:
            for group in groups:
                if group[0].band.has_parts:
                    for image, features in zip(images[part], out[part], strict=True):
                        self._finish(group[0].band, self._sum(group, image), features)
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
            (i, group[start : start + length])
            for i, group in product(range(len(images)), groups)
            for start in range(0, len(group), length)
        ]

        def compute(i: int, bands: Sequence[PackedBand]) -> np.ndarray | None:
            sums = None
            if bands[0].band.has_parts:
                sums = self._sum(bands, images[i])
            else:
                self._call(bands[0], images[i : i + 1], out[i : i + 1])
            advance(Fraction(len(images), len(tasks)))
            return sums

        results = zip(tasks, run_tasks(compute, tasks, workers), strict=True)
        parts = [(i, bands[0].band, sums) for (i, bands), sums in results if sums is not None]
        for _, same_cells in groupby(parts, lambda part: (part[0], part[1].cells[0].row)):
            (i, band, sums), *others = same_cells
            for _, _, more in others:
                sums[:, :, 0] += more[:, :, 0]
                np.maximum(sums[:, :, 1], more[:, :, 1], out=sums[:, :, 1])
            self._finish(band, sums, out[i])

    @cached_property
    def _cell_spans(self) -> list[list[Span]]:
        """Rows and columns of the map in each row and column of the grid."""
        return [*map(pool_cells, self._layer.geometry.output_shape, self._layer.pool_grid)]

    def _divide(self, max_rows: int) -> list[list[PackedBand]]:
        if max_rows in self._divided:
            return self._divided[max_rows]
        layer = self._layer
        budget = min(BAND_BYTES, get_config()["working_memory"] * 2**20)
        n_channels = layer.kernels.shape[2]
        max_pixels = int(budget) // (n_channels * layer.kernels.itemsize)
        grid = None if layer.poolings is None else layer.pool_grid
        # The next engine may compute a single small image, so the result is kept for it as well,
        # unless it takes much memory.
        is_small = grid is None or prod(grid) <= 1000
        pack = _pack_bands if is_small else _pack_bands.__wrapped__
        bands = pack(layer.geometry, grid, n_channels, max_pixels, max_rows)
        return self._divided.setdefault(max_rows, bands)

    def _sum(self, bands: Sequence[PackedBand], image: np.ndarray) -> np.ndarray:
        """Return sums and maxima of cells of a row of the grid, (columns, outputs, 2, k)."""
        shape = (self._layer.pool_grid[1], self._packed.n_outputs, 2, self._packed.n_padded)
        sums = np.zeros(shape)
        sums[:, :, 1] = -np.inf
        for band in bands:
            self._call(band, image[np.newaxis], None, sums)
        return sums

    def _finish(self, band: Band, sums: np.ndarray, features: np.ndarray) -> None:
        """Write the features of a row of the grid to those of an image.

        ``sums`` are those of its cells, ``(columns, outputs, 2, k)``. ``band`` is one of the bands
        with parts of these cells.
        """
        k, row = self._layer.kernels.shape[3], band.cells[0].row
        rows, columns = self._cell_spans
        height = rows[row][1] - rows[row][0]
        for p, pooling in enumerate(self._layer.poolings or ()):
            joined = sums[:, :, int(pooling.join is np.maximum), :k]
            for column, (left, right) in enumerate(columns):
                features[row, column, p] = pooling.finish(joined[column], height * (right - left))

    def _call(
        self,
        band: PackedBand,
        images: np.ndarray,
        out: np.ndarray | None,
        sums: np.ndarray | None = None,
    ) -> None:
        """Compute a band of images; write its features to ``out``, or add to ``sums``."""
        layer, empty = self._packed, self._workspace.empty
        itemsize, more = self._layer.kernels.itemsize, self._level.vector_bytes
        n_tiles = min(MAX_TILES, max(1, WINDOW_BYTES // self._tile_bytes))
        call = native.Call(
            n_images=len(images),
            images=_address(images),
            strides=images.strides,
            pixel=PIXEL_TYPES[images.dtype],
            n_tiles=n_tiles,
            pixels=_address(empty("pixels", (band.n_numbers * itemsize + more,), BYTES)),
            windows=_address(empty("windows", (n_tiles * self._tile_bytes + more,), BYTES)),
        )
        if sums is not None:
            call.sums = _address(sums)
        if out is not None:
            call.out = _address(out)
            call.out_strides = tuple(stride // out.itemsize for stride in out.strides[:5])
            shape = (2 * layer.n_outputs, layer.n_padded)
            call.cell_sums = _address(empty("sums", shape, np.dtype(np.float64)))
        failed = self._library.compute(
            self._level.number, byref(layer.structure), byref(band.structure), byref(call)
        )
        if failed:
            raise RuntimeError(
                f"{self._library.path} does not know this activation, pooling or dtype, because it "
                "is older than this package. Install the package again."
            )

    @property
    def _tile_bytes(self) -> int:
        """Size of the copied windows of a tile."""
        n_bytes = (self._packed.structure.n_weights + 1) * self._layer.kernels.itemsize
        return self._level.positions * (n_bytes + -n_bytes % self._level.vector_bytes)


class PackedLayer:
    """The structure of a layer for the library, and the arrays to which it points."""

    def __init__(self, layer: Layer, level: native.Level) -> None:
        *_, k = layer.kernels.shape
        dtype, lanes = layer.kernels.dtype, level.vector_bytes // layer.kernels.itemsize
        self.n_padded = -(-k // lanes) * lanes
        kernels = layer.kernels.reshape(-1, k)
        sums = kernels.sum(axis=0, dtype=np.float64)
        rows = np.zeros((len(kernels) + 1, self.n_padded), dtype)
        rows[:-1, :k], rows[-1, :k] = kernels, sums
        # Panels of two vectors of kernels, and perhaps one of a single vector
        starts = range(0, self.n_padded, 2 * lanes)
        self._weights = aligned_empty(rows.size, dtype)
        np.concatenate(
            [rows[:, start : start + 2 * lanes].ravel() for start in starts], out=self._weights
        )
        outputs = layer.outputs
        self.n_outputs = len(outputs)
        self._shift = np.zeros(self.n_padded, dtype)
        self._shift[:k] = layer.offset + layer.base
        self._constants = np.zeros((self.n_outputs, self.n_padded), dtype)
        self._outputs = (native.Output * self.n_outputs)()
        for packed, output, constant in zip(self._outputs, outputs, self._constants, strict=True):
            packed.function, packed.is_negative = FUNCTIONS[output.function], output.sign < 0
            if output.constant is not None:
                constant[:k] = output.constant
            if packed.is_negative or output.constant is not None:
                packed.constant = _address(constant)
        self._poolings = _integers([POOLING_NUMBERS[name] for name in layer.poolings or ()])
        self._numbers = np.arange(len(rows), dtype=np.int32)
        self.structure = native.Layer(
            is_double=dtype == np.float64,
            n_channels=layer.kernels.shape[2],
            n_weights=len(kernels),
            n_kernels=k,
            weights=_address(self._weights),
            shift=_address(self._shift),
            n_padded=self.n_padded,
            n_outputs=self.n_outputs,
            outputs=self._outputs,
            n_poolings=len(self._poolings),
            poolings=_address(self._poolings),
            numbers=_address(self._numbers),
            is_normalized=layer.eps > 0,
            eps=layer.eps,
        )


@lru_cache(maxsize=4)
def _pack_bands(
    geometry: Geometry,
    pool_grid: tuple[int, int] | None,
    n_channels: int,
    max_pixels: int,
    max_rows: int,
) -> list[list[PackedBand]]:
    """Divide the map into groups of bands, see `Divider`; without a grid, the map is not pooled."""
    divider = Divider(geometry, max_pixels, max_rows)
    groups = divider.divide_map() if pool_grid is None else divider.divide_grid(pool_grid)
    return [[PackedBand(geometry, n_channels, band) for band in group] for group in groups]


class PackedBand:
    """The structure of a band for the library, and the arrays to which it points."""

    def __init__(self, geometry: Geometry, n_channels: int, band: Band) -> None:
        self.band = band
        c = n_channels
        rectangle = band.rectangle
        (top, _), (left, _) = rectangle
        rows, columns = (
            windows.reach(span) for windows, span in zip(geometry, rectangle, strict=True)
        )
        pitch = columns.n_pixels * c
        self.n_numbers = rows.n_pixels * pitch
        self._rows, self._segments = rows.pixels, _segments(columns.pixels)
        starts = np.arange(rows.size)[:, np.newaxis] * rows.dilation * pitch
        length = columns.size * c
        if columns.dilation > 1:  # The weights of a row of the kernel are not consecutive.
            starts, length = starts + np.arange(columns.size) * columns.dilation * c, c
        starts = starts.reshape(-1, 1)
        self._numbers = (starts + np.arange(length)).astype(np.int32)
        self._runs = _integers([(start, length) for [start] in starts])
        self._cells = _integers(
            [
                (*(i - top for i in cell.rows), *(i - left for i in cell.columns), *cell[2:])
                for cell in band.cells
            ]
        )
        self.structure = native.Band(
            n_rows=rows.n_pixels,
            rows=_address(self._rows),
            n_columns=columns.n_pixels,
            n_segments=len(self._segments),
            segments=_address(self._segments),
            row_step=rows.stride * pitch,
            column_step=columns.stride * c,
            numbers=_address(self._numbers),
            n_runs=len(self._runs),
            runs=_address(self._runs),
            corner=(columns.size - 1) * columns.dilation * c + c - 1,
            n_cells=len(self._cells),
            cells=_address(self._cells),
        )


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


def _integers(values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
