"""Engine for arrays of PyTorch, CuPy and array-api-strict, on the device on which they are.

It uses the functions of the array API standard only. For each block of images and each rectangle
of the map, windows are slices of the pixels, stacked to a matrix, which one product multiplies by
the kernels. `torch.nn.functional.conv2d` would not need this matrix. But windows have to be
normalized one by one, and on GPUs PyTorch rounds the pixels of convolutions to ten bits (TF32) by
default, which it does not do for matrix products.

A block takes a fraction of the free memory of the device. If it does not fit nevertheless, smaller
blocks are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property
from itertools import product
from math import prod
from typing import Any

import numpy as np

from sklearn_conv._array_api import Library, is_out_of_memory, to_numpy
from sklearn_conv._engine.geometry import (
    Geometry,
    Reach,
    Rectangle,
    Span,
    cut_rectangle,
)
from sklearn_conv._engine.layer import Advance, Layer, ignore
from sklearn_conv._engine.numpy_engine import is_offset
from sklearn_conv._engine.pooling import join_windows

MIN_BLOCK_BYTES = 2**16
"""Size below which no smaller blocks are tried."""


class PixelTaker:
    """Select the pixels under the windows of rectangles, for arrays of all libraries."""

    def __init__(self, geometry: Geometry, library: Library) -> None:
        self._library = library

        @cache
        def place(axis: int, span: Span) -> tuple[Reach, Any, Any]:
            """Return the reach of a span, its pixels as an index, and which are inside or None."""
            reach = geometry[axis].reach(span)
            index, is_inside = reach.source, None
            if reach.outside is not None or not isinstance(index, slice):
                index = library.put(np.maximum(reach.pixels, 0))
            if reach.outside is not None:
                shape = (-1, 1, 1) if axis == 0 else (-1, 1)
                is_inside = library.put(~reach.outside.reshape(shape))
            return reach, index, is_inside

        self._place = place

    def take(self, images: Any, rectangle: Rectangle) -> tuple[Any, list[Reach]]:
        """Return pixels ``(b, h, w, c) -> (b, rows, columns, c)``, those outside of the images 0.

        The reaches along both axes say which pixels are under which window.
        """
        xp, reaches = self._library.xp, []
        for axis, span in enumerate(rectangle):
            reach, index, is_inside = self._place(axis, span)
            reaches.append(reach)
            if isinstance(index, slice):
                images = images[:, index, ...] if axis == 0 else images[:, :, index, :]
            else:
                images = self._library.take(images, index, axis + 1)
            if is_inside is not None:
                images = xp.where(is_inside, images, xp.zeros_like(images))
        return images, reaches


class ArrayApiEngine:
    """Engine with the interface in `sklearn_conv._engine`, for arrays of other libraries.

    The library decides how many threads compute, not ``n_jobs``.
    """

    def __init__(self, layer: Layer) -> None:
        self._library = Library.of(layer.kernels)
        self._layer = layer
        self._outputs = layer.outputs
        self._matrix = self._library.xp.reshape(layer.kernels, (-1, layer.kernels.shape[3]))
        self._shift = layer.offset + layer.base
        self._block_bytes = self._library.block_bytes
        # A window takes about two copies, its responses and an output. Cells are computed one by
        # one, for all images of a block.
        d, k = self._matrix.shape
        itemsize = 8 if str(self._matrix.dtype).endswith("float64") else 4
        self._window_bytes = (3 * d + 4 * k) * itemsize
        whole = [(0, length) for length in layer.geometry.output_shape]
        cells = [whole] if layer.poolings is None else layer.cells.values()
        n_windows = max(prod(stop - start for start, stop in cell) for cell in cells)
        self._cell_bytes = n_windows * self._window_bytes
        self._taker = PixelTaker(layer.geometry, self._library)

    def compute(
        self, images: Any, out: Any, n_jobs: int | None = 1, advance: Advance = ignore
    ) -> None:
        """Write the features of images, as the engines do."""
        start, n = 0, images.shape[0]
        while start < n:
            stop = min(n, start + max(1, self._block_bytes // self._cell_bytes))
            try:
                with np.errstate(all="ignore"):  # array-api-strict computes with NumPy.
                    out[start:stop, ...] = self._compute_block(images[start:stop, ...])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)
            else:
                advance(stop - start)
                start = stop
                continue
            # The error, which has been left, refers to the arrays of the block.
            self._block_bytes //= 4
            if self._block_bytes < MIN_BLOCK_BYTES:
                raise MemoryError(
                    f"The memory of {self._library} is not enough for the windows of a few images: "
                    f"{reason}. Free arrays on this device, or use transform_batches(X), so that "
                    "the features are computed in parts."
                )

    def _compute_block(self, images: Any) -> Any:
        """Return the features of images, ``(b, h, w, c) -> (b, rows, columns, p, outputs, k)``."""
        layer, shape = self._layer, self._layer.geometry.output_shape
        features = self._library.empty(layer.out_shape(images.shape[0]), self._matrix.dtype)
        if layer.poolings is not None:
            for (i, j), cell in layer.cells.items():
                features[:, i, j, ...] = self._pool_cell(images, cell)
            return features
        for rows, columns in self._rectangles(images.shape[0], ((0, shape[0]), (0, shape[1]))):
            place = slice(None), slice(*rows), slice(*columns), 0
            size = features[*place, 0, :].shape
            for i, values in enumerate(self._activated(images, (rows, columns))):
                features[*place, i, :] = self._library.xp.reshape(values, size)
        return features

    def _pool_cell(self, images: Any, cell: Rectangle) -> Any:
        """Return the pooled outputs of a cell, ``(b, h, w, c) -> (b, poolings, outputs, k)``."""
        xp, poolings = self._library.xp, self._layer.poolings or ()
        joined: dict[tuple[int, int], Any] = {}
        for rectangle in self._rectangles(images.shape[0], cell):
            for o, values in enumerate(self._activated(images, rectangle)):
                for p, (join, _) in enumerate(poolings):
                    part = join_windows(xp, join, values, self._library.widest)
                    if (p, o) in joined:
                        part = getattr(xp, join.__name__)(joined[p, o], part)
                    joined[p, o] = part
        n_positions = prod(stop - start for start, stop in cell)
        features = [
            xp.astype(poolings[p].finish(joined[p, o], n_positions), self._matrix.dtype, copy=False)
            for p, o in product(range(len(poolings)), range(len(self._outputs)))
        ]
        shape = (images.shape[0], len(poolings), len(self._outputs), -1)
        return xp.reshape(xp.stack(features, axis=1), shape)

    def _activated(self, images: Any, rectangle: Rectangle) -> Iterator[Any]:
        """Yield each output at the windows of a rectangle, ``(b, h, w, c) -> (b, windows, k)``."""
        shifted = self._respond(images, rectangle)
        for (sign, function), constant in self._outputs:
            values = shifted if sign > 0 else -shifted
            if constant is not None:
                values = values + constant
            yield function.standard(self._library.xp, values)

    def _respond(self, images: Any, rectangle: Rectangle) -> Any:
        """Return responses with offset and base, ``(b, h, w, c) -> (b, windows, k)``."""
        xp = self._library.xp
        pixels, (rows, columns) = self._taker.take(images, rectangle)
        pixels = xp.astype(pixels, self._matrix.dtype, copy=False)
        parts = [
            pixels[:, rows.under(i), columns.under(j), :]
            for i, j in product(range(rows.size), range(columns.size))
        ]
        windows = xp.reshape(xp.stack(parts, axis=3), (-1, self._matrix.shape[0]))
        shift = self._shift
        if self._layer.eps:
            windows = self._normalize(windows)
        elif self._has_offset(images, [parts[i] for i in (0, columns.size - 1, -columns.size, -1)]):
            # The large offset of each window (positions, 1), 0 if it has none
            low, high = (f(windows, axis=1, keepdims=True) for f in (xp.min, xp.max))
            offset = xp.where(is_offset(low, high), low, xp.zeros_like(low))
            windows, shift = windows - offset, offset * self._sums + shift
        responses = windows @ self._matrix
        responses += shift
        return xp.reshape(responses, (images.shape[0], -1, self._matrix.shape[1]))

    def _normalize(self, windows: Any) -> Any:
        """Divide windows ``(positions, d)`` by ``sqrt(variance + eps)`` (`normalize_patches`)."""
        xp, middle = self._library.xp, windows.shape[1] // 2
        windows = windows - windows[:, middle : middle + 1]
        # Squares of large numbers overflow before the result does.
        scale = xp.clip(xp.max(xp.abs(windows), axis=1, keepdims=True), min=1)
        windows = windows / scale
        windows = windows - xp.mean(windows, axis=1, keepdims=True)
        variance = xp.mean(windows * windows, axis=1, keepdims=True)
        return windows / xp.sqrt(variance + self._layer.eps / scale / scale)

    def _has_offset(self, images: Any, corners: list[Any]) -> bool:
        """Return whether windows in float32 may have a large offset, given their corners."""
        xp = self._library.xp
        names = {str(dtype).rpartition(".")[2] for dtype in (images.dtype, self._matrix.dtype)}
        if names & {"float64", "uint8", "int8", "bool"}:
            return False
        low, *others = (corner[:, :, :, 0] for corner in corners)
        high = low
        for corner in others:
            low, high = xp.minimum(low, corner), xp.maximum(high, corner)
        return bool(xp.any(is_offset(low, high)))

    @cached_property
    def _sums(self) -> Any:
        """Sum of the weights of each kernel ``(k,)``."""
        sums = to_numpy(self._matrix).sum(axis=0, dtype=np.float64)
        return self._library.xp.astype(self._library.put(sums), self._matrix.dtype, copy=False)

    def _rectangles(self, n_images: int, whole: Rectangle) -> list[Rectangle]:
        """Divide a rectangle of the map so that the windows of each part fit a block."""
        return cut_rectangle(*whole, self._block_bytes // (self._window_bytes * n_images))
