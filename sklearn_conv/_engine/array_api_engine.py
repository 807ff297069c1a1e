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

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from itertools import product
from math import prod
from typing import Any

import numpy as np

from sklearn_conv._array_api import Library, is_out_of_memory, kind_of, library_name, to_numpy
from sklearn_conv._engine.activation import (
    Function,
    absolute,
    identity,
    relu,
    square,
    step,
    user_function,
)
from sklearn_conv._engine.geometry import (
    OUTSIDE,
    Reach,
    Span,
    Windows,
    cut_span,
    pool_cells,
)
from sklearn_conv._engine.layer import Layer, Output
from sklearn_conv._engine.numpy_engine import Advance
from sklearn_conv._engine.staging import OFFSET_TO_RANGE

FUNCTIONS: dict[Function, Callable[[Any, Any], Any]] = {
    identity: lambda xp, values: values,
    relu: lambda xp, values: xp.clip(values, min=0),
    absolute: lambda xp, values: xp.abs(values),
    square: lambda xp, values: values * values,
    step: lambda xp, values: xp.astype(values > 0, values.dtype),
}
"""Functions of the array API for those in `ACTIVATIONS`."""

MIN_BLOCK_BYTES = 2**16
"""Size below which no smaller blocks are tried."""

Rectangle = tuple[Span, Span]
"""Rows and columns of the map."""


class ArrayApiEngine:
    """Engine with the interface in `sklearn_conv._engine`, for arrays of other libraries.

    If ``ignores_missing``, windows with NaN do not count. The library decides how many threads
    compute, not ``n_jobs``.
    """

    def __init__(self, layer: Layer, ignores_missing: bool = False) -> None:
        self._library = Library.of(layer.kernels)
        self._layer = layer
        self._ignores_missing = ignores_missing
        self._outputs = layer.outputs
        self._matrix = self._library.xp.reshape(layer.kernels, (-1, layer.kernels.shape[3]))
        self._shift = layer.offset + layer.base
        self._block_bytes = self._library.block_bytes
        self._find_reach = cache(partial(_place_reach, self._library))

    def compute(
        self,
        images: Any,
        out: Any,
        n_jobs: int | None = 1,
        advance: Advance = lambda n_images: None,
    ) -> None:
        """Write the features of images, as the engines do."""
        start, n = 0, images.shape[0]
        while start < n:
            stop = min(n, start + self._block_length())
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
        poolings, grid = layer.poolings, layer.pool_grid
        b, k = images.shape[0], self._matrix.shape[1]
        n_outputs = len(self._outputs)
        sizes = (b, *shape, 1) if poolings is None else (b, *grid, len(poolings))
        features = self._library.empty((*sizes, n_outputs, k), self._matrix.dtype)
        if poolings is None:
            for rows, columns in self._rectangles(b, (0, shape[0]), (0, shape[1])):
                size = (b, rows[1] - rows[0], columns[1] - columns[0], k)
                shifted, counts = self._respond(images, (rows, columns))
                for i, output in enumerate(self._outputs):
                    values = self._activate(output, shifted)
                    if counts is not None:
                        values = self._library.xp.where(counts, values, np.nan)
                    place = slice(*rows), slice(*columns)
                    features[:, place[0], place[1], 0, i, :] = self._library.xp.reshape(
                        values, size
                    )
            return features
        cell_rows, cell_columns = map(pool_cells, shape, grid)
        for (i, rows), (j, columns) in product(enumerate(cell_rows), enumerate(cell_columns)):
            features[:, i, j, ...] = self._pool_cell(images, (rows, columns))
        return features

    def _pool_cell(self, images: Any, cell: Rectangle) -> Any:
        """Return the pooled outputs of a cell, ``(b, h, w, c) -> (b, poolings, outputs, k)``."""
        xp, poolings, outputs = self._library.xp, self._layer.poolings or [], self._outputs
        joined: dict[tuple[int, int], Any] = {}
        n_positions: Any = 0
        for rectangle in self._rectangles(images.shape[0], *cell):
            shifted, counts = self._respond(images, rectangle)
            n_positions = n_positions + (
                shifted.shape[1]
                if counts is None
                else xp.sum(xp.astype(counts, shifted.dtype), axis=1)
            )
            for o, output in enumerate(outputs):
                values = self._activate(output, shifted)
                for p, pooling in enumerate(poolings):
                    is_sum = pooling.join is np.add
                    part = self._join(values, counts, is_sum)
                    if (p, o) in joined:
                        earlier = joined[p, o]
                        part = earlier + part if is_sum else xp.maximum(earlier, part)
                    joined[p, o] = part
        dtype = self._matrix.dtype
        features = []
        for (p, _), values in sorted(joined.items(), key=lambda item: item[0]):
            if poolings[p].finish is np.divide:
                values = values / n_positions
            features.append(xp.astype(values, dtype, copy=False))
        result = xp.reshape(
            xp.stack(features, axis=1), (images.shape[0], len(poolings), len(outputs), -1)
        )
        if self._ignores_missing:
            result = xp.where(xp.reshape(n_positions, (-1, 1, 1, 1)) > 0, result, np.nan)
        return result

    def _join(self, values: Any, counts: Any, is_sum: bool) -> Any:
        """Reduce responses over the windows that count, ``(b, windows, k) -> (b, k)``."""
        xp = self._library.xp
        if not is_sum:
            if counts is not None:
                values = xp.where(counts, values, -np.inf)
            return xp.max(values, axis=1)
        if counts is not None:
            values = xp.where(counts, values, 0.0)
        return xp.sum(values, axis=1, dtype=self._library.widest)

    def _activate(self, output: Output, shifted: Any) -> Any:
        """Compute an output from responses with offset and base, ``(b, windows, k)``."""
        xp, (sign, function, constant) = self._library.xp, output
        values = shifted if sign > 0 else -shifted
        if constant is not None:
            values = values + constant
        if function in FUNCTIONS:
            return FUNCTIONS[function](xp, values)
        rows = xp.reshape(values, (-1, values.shape[-1]))
        return xp.reshape(call_function(user_function(function), rows), values.shape)

    def _respond(self, images: Any, rectangle: Rectangle) -> tuple[Any, Any]:
        """Return responses with offset and base, and which windows count, if not all do.

        ``(b, h, w, c) -> (b, windows, k), (b, windows, 1)``
        """
        xp = self._library.xp
        b, k = images.shape[0], self._matrix.shape[1]
        pixels, reaches = images, []
        for axis, windows in enumerate(self._layer.geometry):
            reach, index, is_inside = self._find_reach(windows, rectangle[axis], axis + 1)
            reaches.append(reach)
            pixels = (
                pixels[index] if isinstance(index, tuple) else xp.take(pixels, index, axis=axis + 1)
            )
            if is_inside is not None:
                pixels = xp.where(is_inside, pixels, xp.zeros_like(pixels))
        counts = None
        if self._ignores_missing:
            is_missing = xp.any(xp.isnan(pixels), axis=-1, keepdims=True)
            any_missing = xp.any(self._view_windows(is_missing, reaches), axis=-1)
            counts = xp.reshape(xp.logical_not(any_missing), (b, -1, 1))
        pixels = xp.astype(pixels, self._matrix.dtype, copy=False)
        windows = self._view_windows(pixels, reaches)
        windows = xp.reshape(windows, (-1, self._matrix.shape[0]))
        if self._layer.eps:
            responses = self._normalize(windows) @ self._matrix
            responses += self._shift
        elif self._has_offset(images, pixels):
            offset = self._find_offset(windows)
            responses = (windows - offset) @ self._matrix + (offset * self._sums + self._shift)
        else:
            responses = windows @ self._matrix
            responses += self._shift
        return xp.reshape(responses, (b, -1, k)), counts

    def _view_windows(self, pixels: Any, reaches: Sequence[Reach]) -> Any:
        """Stack the pixels of the windows, ``(b, h, w, c) -> (b, rows, columns, kh * kw * c)``."""
        rows, columns = reaches
        parts = [
            pixels[:, _every(rows, i), _every(columns, j), :]
            for i, j in product(range(rows.size), range(columns.size))
        ]
        windows = self._library.xp.stack(parts, axis=3)
        return self._library.xp.reshape(windows, (*windows.shape[:3], -1))

    def _normalize(self, windows: Any) -> Any:
        """Divide windows ``(positions, d)`` by ``sqrt(variance + eps)`` (`normalize_patches`)."""
        xp, middle = self._library.xp, windows.shape[1] // 2
        windows = windows - windows[:, middle : middle + 1]
        mean = xp.mean(windows, axis=1, keepdims=True)
        variance = xp.mean(windows * windows, axis=1, keepdims=True) - mean * mean
        return windows / xp.sqrt(xp.clip(variance, min=0) + self._layer.eps)

    def _has_offset(self, images: Any, pixels: Any) -> bool:
        """Return whether pixels in float32 may have a large offset, as in `find_offset`."""
        xp = self._library.xp
        names = {str(dtype).rpartition(".")[2] for dtype in (images.dtype, pixels.dtype)}
        if names & {"float64", "uint8", "int8", "bool"}:
            return False
        first, last = pixels[:, 0, 0, 0], pixels[:, -1, -1, -1]
        return bool(xp.any(xp.abs(first - last) * OFFSET_TO_RANGE < xp.abs(first)))

    def _find_offset(self, windows: Any) -> Any:
        """Return the large offset of each window ``(positions, 1)``, 0 if it has none."""
        xp = self._library.xp
        low, high = (f(windows, axis=1, keepdims=True) for f in (xp.min, xp.max))
        nearest = xp.maximum(low, -high)
        is_large = nearest / OFFSET_TO_RANGE > high - low
        return xp.where(is_large, low, xp.zeros_like(low))

    @cached_property
    def _sums(self) -> Any:
        """Sum of the weights of each kernel ``(k,)``."""
        sums = to_numpy(self._matrix).sum(axis=0, dtype=np.float64)
        return self._library.xp.astype(self._library.put(sums), self._matrix.dtype, copy=False)

    @property
    def _position_bytes(self) -> int:
        """Approximate number of bytes for a window: two copies, its responses and an output."""
        d, k = self._matrix.shape
        return (3 * d + 4 * k) * np.dtype(np.float64 if self._is_double else np.float32).itemsize

    @property
    def _is_double(self) -> bool:
        return str(self._matrix.dtype).endswith("float64")

    def _block_length(self) -> int:
        """Return the number of images in a block, whose cells are computed one by one."""
        shape, grid = self._layer.geometry.output_shape, self._layer.pool_grid
        if self._layer.poolings is None:
            grid = (1, 1)
        cell = prod(-(-length // n) for length, n in zip(shape, grid, strict=True))
        return max(1, self._block_bytes // (cell * self._position_bytes))

    def _rectangles(self, n_images: int, rows: Span, columns: Span) -> Iterator[Rectangle]:
        """Divide a rectangle of the map so that the windows of each part fit a block."""
        positions = max(1, self._block_bytes // (self._position_bytes * n_images))
        n_columns = min(columns[1] - columns[0], positions)
        n_rows = max(1, positions // n_columns)
        yield from product(cut_span(rows, n_rows), cut_span(columns, n_columns))


def try_function(function: Function, values: Any) -> None:
    """Raise an error if a user-defined activation does not work with values ``(positions, k)``."""
    if library_name(values):
        call_function(user_function(function), values)
    else:
        function(values, values.copy())


def call_function(function: Callable[[Any], Any], rows: Any) -> Any:
    """Call a user-defined activation with values ``(positions, k)``, and check its result."""
    result = function(rows)
    library = Library.of(rows)
    if not library_name(result) or Library.of(result) != library:
        raise TypeError(
            "The 'activation' parameter must be a function that returns an array of the library "
            f"and device of X, {library}, but {function!r} returned {type(result).__name__}. Use "
            "functions of this library."
        )
    if tuple(result.shape) != tuple(rows.shape) or kind_of(result) not in "biuf":
        raise ValueError(
            "The 'activation' parameter must be a function that returns a real number for every "
            f"response, but {function!r} returned an array of shape {tuple(result.shape)} and "
            f"dtype {result.dtype} for an array of shape {tuple(rows.shape)}."
        )
    if not bool(library.xp.all(library.xp.isfinite(result))):
        raise ValueError(
            "The 'activation' parameter must be a function that returns finite numbers, but "
            f"{function!r} returned NaN or infinity. Use a function that is defined for every real "
            "number, including negative numbers."
        )
    return library.xp.astype(result, rows.dtype, copy=False)


def _every(reach: Reach, weight: int) -> slice:
    """Return the slice of the pixels under one weight of all windows along an axis."""
    start = weight * reach.dilation
    return slice(start, start + (reach.n_windows - 1) * reach.stride + 1, reach.stride)


def _place_reach(
    library: Library, windows: Windows, span: Span, axis: int
) -> tuple[Reach, Any, Any]:
    """Return the reach of a span along an axis of the images, and how its pixels are taken.

    This is an index of the images, or an array of indices along the axis, on the device; and a
    mask of the pixels that are inside the image, if not all are.
    """
    reach = windows.reach(span)
    if reach.outside is None and isinstance(reach.source, slice):
        index = [slice(None)] * 4
        index[axis] = reach.source
        return reach, tuple(index), None
    places = library.put(np.maximum(reach.pixels, 0))
    if reach.outside is None:
        return reach, places, None
    is_inside = (reach.pixels != OUTSIDE).reshape([-1 if i == axis else 1 for i in range(4)])
    return reach, places, library.put(is_inside)
