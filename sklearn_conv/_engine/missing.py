"""Images with missing pixels, which are NaN: windows that contain one do not count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, reduce
from math import prod
from typing import Any

import numpy as np

from sklearn_conv._array_api import Library
from sklearn_conv._engine.array_api_engine import PixelTaker
from sklearn_conv._engine.geometry import (
    OUTSIDE,
    Geometry,
    Rectangle,
    Span,
    Windows,
    cut_rectangle,
    cut_span,
)
from sklearn_conv._engine.layer import Advance, Engine, Layer, ignore
from sklearn_conv._engine.pooling import find_reduction, join_windows
from sklearn_conv._engine.threads import count_threads, run_tasks
from sklearn_conv._pixels import find_missing


class MissingEngine:
    """Engine for images that may have missing pixels, for arrays of all libraries.

    Images without missing pixels are left to the engine that ``make`` makes for the layer. For the
    others, engines for layers that do not pool compute the responses of rectangles of the map,
    whose missing pixels are replaced by the pixel that is farthest from 0, so that they do not hide
    a large offset. Windows with missing pixels are then left out of the pooling; a cell without
    others is NaN. If maps are not pooled, these windows are NaN.
    """

    def __init__(self, layer: Layer, make: Callable[[Layer], Engine]) -> None:
        self._layer = layer
        self._library = Library.of(layer.kernels)
        self._taker = PixelTaker(layer.geometry, self._library)
        self._engine = make(layer)

        @cache
        def unpooled(*axes: tuple[int, int, int, bytes]) -> Engine:
            rows, columns = (_place(*axis) for axis in axes)
            return make(replace(layer, geometry=Geometry(rows, columns), poolings=None))

        self._unpooled = unpooled

    def compute(
        self, images: Any, out: Any, n_jobs: int | None = 1, advance: Advance = ignore
    ) -> None:
        """Write the features of images, as the engines do."""
        has_missing = find_missing(images)
        if not has_missing.any():
            self._engine.compute(images, out, n_jobs, advance)
            return
        # Blocks of images that all have missing pixels or all have none
        length = max(1, self._n_windows // prod(self._layer.geometry.output_shape))
        blocks = [
            (indices[start:stop],)
            for indices in (np.flatnonzero(has_missing), np.flatnonzero(~has_missing))
            for start, stop in cut_span((0, len(indices)), length)
        ]
        workers = count_threads(n_jobs) if self._library.xp is np and len(blocks) > 1 else 1

        def compute(indices: np.ndarray) -> None:
            n_threads = n_jobs if workers == 1 else 1
            place = slice(int(indices[0]), int(indices[-1]) + 1)
            block, features = images[place, ...], out[place, ...]
            is_whole = len(indices) == block.shape[0]
            if not is_whole:  # There are others between these images.
                block = self._library.take(images, indices, 0)
                features = self._library.empty((len(indices), *out.shape[1:]), out.dtype)
            if has_missing[indices[0]]:
                self._compute_block(block, features, n_threads)
                advance(len(indices))
            else:
                self._engine.compute(block, features, n_threads, advance)
            for i, index in enumerate([] if is_whole else indices.tolist()):
                out[index, ...] = features[i, ...]

        run_tasks(compute, blocks, workers)

    def _compute_block(self, images: Any, out: Any, n_jobs: int | None) -> None:
        """Write the features of images with missing pixels."""
        xp, layer, widest = self._library.xp, self._layer, self._library.widest
        shape = layer.geometry.output_shape
        totals = [
            xp.full_like(out[:, :, :, 0, ...], find_reduction(join)[1], dtype=widest)
            for join, _ in layer.poolings or ()
        ]  # each (b, grid rows, grid columns, outputs, k)
        n_cells = 0 if layer.poolings is None else out.shape[0]
        n_counted = self._library.zeros((n_cells, *out.shape[1:3]), widest)
        cells = {} if layer.poolings is None else layer.cells
        for rectangle in cut_rectangle((0, shape[0]), (0, shape[1]), self._n_windows):
            maps = out
            if layer.poolings is not None or rectangle != ((0, shape[0]), (0, shape[1])):
                lengths = (stop - start for start, stop in rectangle)
                maps = self._library.empty(
                    (images.shape[0], *lengths, 1, *out.shape[4:]), out.dtype
                )
            is_missing = self._respond(images, rectangle, maps, n_jobs)
            if layer.poolings is None:
                maps[is_missing] = np.nan
                if maps is not out:
                    out[:, slice(*rectangle[0]), slice(*rectangle[1]), ...] = maps
                continue
            parts = [
                ((slice(None), i, j), (slice(None), *map(_part, cell, rectangle)))
                for (i, j), cell in cells.items()
                if all(a < d and c < b for (a, b), (c, d) in zip(cell, rectangle, strict=True))
            ]
            for cell, part in parts:
                counted = xp.astype(xp.logical_not(is_missing[part]), widest)
                n_counted[cell] += xp.sum(counted, axis=(1, 2))
            for (join, _), total in zip(layer.poolings, totals, strict=True):
                maps[is_missing] = find_reduction(join)[1]
                for cell, part in parts:
                    values = maps[*part, 0, :, :]
                    windows = xp.reshape(values, (images.shape[0], -1, prod(values.shape[3:])))
                    joined = xp.reshape(
                        join_windows(xp, join, windows, widest), total[*cell, ...].shape
                    )
                    total[*cell, ...] = getattr(xp, join.__name__)(total[*cell, ...], joined)
        n_counted = n_counted[..., None, None]
        for p, ((_, finish), total) in enumerate(zip(layer.poolings or (), totals, strict=True)):
            features = xp.where(n_counted > 0, finish(total, n_counted), np.nan)
            out[:, :, :, p, ...] = xp.astype(features, out.dtype, copy=False)

    def _respond(self, images: Any, rectangle: Rectangle, maps: Any, n_jobs: int | None) -> Any:
        """Write activated responses to maps, and return which windows have missing pixels.

        ``(b, h, w, c) -> (b, rows, columns, 1, outputs, k), (b, rows, columns)``
        """
        xp = self._library.xp
        pixels, (rows, columns) = self._taker.take(images, rectangle)
        is_missing = xp.isnan(pixels)
        pixels = xp.where(is_missing, xp.zeros_like(pixels), pixels)
        low, high = (f(pixels, axis=(1, 2, 3), keepdims=True) for f in (xp.min, xp.max))
        pixels = xp.where(is_missing, xp.where(high > -low, high, low), pixels)
        for parts in (
            [(..., channel) for channel in range(pixels.shape[3])],
            [(slice(None), rows.under(i), slice(None)) for i in range(rows.size)],
            [(slice(None), slice(None), columns.under(j)) for j in range(columns.size)],
        ):
            is_missing = reduce(xp.logical_or, [is_missing[part] for part in parts])
        engine = self._unpooled(
            *((r.size, r.stride, r.dilation, (r.pixels >= 0).tobytes()) for r in (rows, columns))
        )
        engine.compute(pixels, maps, n_jobs)
        return is_missing

    @property
    def _n_windows(self) -> int:
        """Number of windows of a block: four copies of their pixels, and twice their responses."""
        *_, c, k = self._layer.kernels.shape
        n_pixels = prod(min(axis.stride, axis.size) for axis in self._layer.geometry)
        n_outputs = len(self._layer.sides) * self._layer.bias.shape[0]
        n_numbers = 4 * n_pixels * c + 2 * k * n_outputs
        itemsize = 8 if str(self._layer.kernels.dtype).endswith("float64") else 4
        return max(1, self._library.block_bytes // (n_numbers * itemsize))


def _place(size: int, stride: int, dilation: int, is_inside: bytes) -> Windows:
    """Place windows on the pixels of a rectangle, where those outside of the image are zeros."""
    n_pixels = len(is_inside)
    index = np.where(np.frombuffer(is_inside, bool), np.arange(n_pixels), OUTSIDE)
    return Windows(
        length=n_pixels, size=size, stride=stride, dilation=dilation, n_before=0, index=index
    )


def _part(cell: Span, windows: Span) -> slice:
    """Return the place of the windows of a cell among the windows of a span."""
    first, last = windows
    return slice(*(min(max(edge, first), last) - first for edge in cell))
