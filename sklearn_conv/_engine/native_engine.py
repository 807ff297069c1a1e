"""Engine in C++, which activates and pools responses without writing them to memory.

The library (``native/`` in the source, loaded by ``native_library``) computes bands of images. This
module packs the weights, divides the map into bands (``bands``) and the bands into tasks for
threads, and passes pointers. The library writes whole cells to the result. It adds parts of cells
to sums, which are finished here.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, byref
from fractions import Fraction
from itertools import groupby, product
from math import ceil, prod

import numpy as np
from sklearn import get_config

from sklearn_conv._engine.bands import Band, divide_map
from sklearn_conv._engine.geometry import pool_cells
from sklearn_conv._engine.layer import Advance, Layer, ignore
from sklearn_conv._engine.native_library import (
    MAX_TILES,
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
        self._packed = PackedLayer(layer, library, self._level)
        self._workspace = Workspace()
        self._divided: dict[int, list[list[Band]]] = {}

    def compute(
        self, images: np.ndarray, out: np.ndarray, n_jobs: int | None = 1, advance: Advance = ignore
    ) -> None:
        """Write the features of images.

        ``(n, h, w, c) -> (n, rows, columns, poolings, outputs, k)``
        """
        if images.dtype not in self._library.pixels:
            NumpyEngine(self._layer).compute(images, out, n_jobs, advance)
            return
        self._check(images, out)
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
        n, dtype = len(images), self._layer.kernels.dtype
        if images.shape[1:] != (rows.length, columns.length, self._layer.kernels.shape[2]):
            raise ValueError(f"The layer is for other images than those of shape {images.shape}")
        is_in_rows = out.strides[-1] == dtype.itemsize or out.shape[-1] == 1
        has_whole_steps = not any(stride % dtype.itemsize for stride in out.strides)
        if out.shape != self._layer.out_shape(n) or out.dtype != dtype or not out.flags.writeable:
            raise ValueError(
                f"The features of the layer have shape {self._layer.out_shape(n)} and dtype "
                f"{dtype}, but the result has shape {out.shape} and dtype {out.dtype}, or cannot "
                "be written to"
            )
        if not (is_in_rows and has_whole_steps):
            raise ValueError(f"The strides of the result, {out.strides}, are those of no rows")

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
            (i, group[start : start + length])
            for i, group in product(range(len(images)), groups)
            for start in range(0, len(group), length)
        ]

        def compute(i: int, bands: Sequence[Band]) -> np.ndarray | None:
            sums = None
            if bands[0].has_parts:
                sums = self._sum(bands, images[i])
            else:
                self._call(bands[0], images[i : i + 1], out[i : i + 1])
            advance(Fraction(len(images), len(tasks)))
            return sums

        results = zip(tasks, run_tasks(compute, tasks, workers), strict=True)
        parts = [(i, bands[0], sums) for (i, bands), sums in results if sums is not None]
        for _, same_cells in groupby(parts, lambda part: (part[0], part[1].cells[0].row)):
            (i, band, sums), *others = same_cells
            for _, _, more in others:
                sums[:, :, 0] += more[:, :, 0]
                np.maximum(sums[:, :, 1], more[:, :, 1], out=sums[:, :, 1])
            self._finish(band, sums, out[i])

    def _divide(self, max_rows: int) -> list[list[Band]]:
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
        divide = divide_map if is_small else divide_map.__wrapped__
        bands = divide(layer.geometry, grid, n_channels, max_pixels, max_rows)
        return self._divided.setdefault(max_rows, bands)

    def _sum(self, bands: Sequence[Band], image: np.ndarray) -> np.ndarray:
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
        rows, columns = map(pool_cells, self._layer.geometry.output_shape, self._layer.pool_grid)
        height = rows[row][1] - rows[row][0]
        for p, pooling in enumerate(self._layer.poolings or ()):
            joined = sums[:, :, int(pooling.join is np.maximum), :k]
            for column, (left, right) in enumerate(columns):
                features[row, column, p] = pooling.finish(joined[column], height * (right - left))

    def _call(
        self,
        band: Band,
        images: np.ndarray,
        out: np.ndarray | None,
        sums: np.ndarray | None = None,
    ) -> None:
        """Compute a band of images; write its features to ``out``, or add to ``sums``."""
        layer, empty = self._packed, self._workspace.empty
        itemsize, more = self._layer.kernels.itemsize, self._level.vector_bytes
        n_tiles = min(MAX_TILES, max(1, WINDOW_BYTES // self._tile_bytes))
        call = CallStruct(
            n_images=len(images),
            images=address(images),
            strides=images.strides,
            pixel=self._library.pixels[images.dtype],
            n_tiles=n_tiles,
            pixels=address(empty("pixels", (band.n_numbers * itemsize + more,), BYTES)),
            windows=address(empty("windows", (n_tiles * self._tile_bytes + more,), BYTES)),
        )
        if sums is not None:
            call.sums = address(sums)
        if out is not None:
            call.out = address(out)
            call.out_strides = tuple(stride // out.itemsize for stride in out.strides[:5])
            shape = (2 * layer.n_outputs, layer.n_padded)
            call.cell_sums = address(empty("sums", shape, np.dtype(np.float64)))
        self._level.compute(byref(layer.struct), byref(band.struct), byref(call))

    @property
    def _tile_bytes(self) -> int:
        """Size of the copied windows of a tile."""
        n_bytes = (self._packed.struct.n_weights + 1) * self._layer.kernels.itemsize
        return self._level.positions * (n_bytes + -n_bytes % self._level.vector_bytes)


class PackedLayer:
    """The structure of a layer for the library, and the arrays to which it points."""

    def __init__(self, layer: Layer, library: NativeLibrary, level: Level) -> None:
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
        self._outputs = (OutputStruct * self.n_outputs)()
        for packed, output, constant in zip(self._outputs, outputs, self._constants, strict=True):
            packed.function = library.functions[output.function]
            packed.is_negative = output.sign < 0
            if output.constant is not None:
                constant[:k] = output.constant
            if packed.is_negative or output.constant is not None:
                packed.constant = address(constant)
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
            n_outputs=self.n_outputs,
            outputs=addressof(self._outputs),
            n_poolings=len(self._poolings),
            poolings=address(self._poolings),
            numbers=address(self._numbers),
            is_normalized=layer.eps > 0,
            eps=layer.eps,
        )
