"""Convolution of a batch in small blocks: the only place with a matrix product.

For a block of images and a rectangle of the map:

1. stage the pixels that its windows see: one copy for cast, padding and layout;
2. gather the windows along the rows only; along the columns they overlap in memory, so that the
   windows of all kernels are a view;
3. one matrix product for each row of the map, in one call;
4. activate in place, then pool or write.

The working set is a few megabytes in each thread, whatever the number and the size of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import groupby, product
from math import prod

import numpy as np
from joblib import effective_n_jobs
from sklearn import get_config

from sklearn_conv.activation import Function, Side, relu
from sklearn_conv.pooling import Pooling, pool_cells
from sklearn_conv.staging import Reach, Span, find_reach, gather_patches
from sklearn_conv.threads import Workspace, run
from sklearn_conv.windows import Geometry

BLOCK_BYTES = 4 * 2**20
"""About what the windows and the responses of one block take, in each thread."""

MIN_POSITIONS = 256
"""Rows of a matrix product below which it is slow: a row of the map times images."""

MIN_MULTIPLICATIONS = 5 * 10**8
"""Work below which other threads gain nothing: joblib takes some 10 ms to start and end them."""


@dataclass(frozen=True)
class Layer:
    """What is done at every window: ``sides(patch . kernels + offset, bias)``."""

    kernels: np.ndarray
    """(kh, kw, c, k), in the dtype that is computed in, as are offset and bias"""
    offset: np.ndarray
    bias: np.ndarray
    sides: Mapping[str, Side]
    geometry: Geometry
    workspace: Workspace = field(default_factory=Workspace)

    @cached_property
    def find_reach(self) -> Callable[[int, Span], Reach]:
        """`find_reach` of this geometry, once for each axis and span."""
        return cache(partial(find_reach, self.geometry))

    @cached_property
    def has_shift(self) -> bool:
        """Whether responses get an offset or a bias."""
        return bool((self.offset + self.bias).any())

    @property
    def position_bytes(self) -> int:
        """What one window takes at most: staged, gathered, its responses and a side of them."""
        kh, kw, c, k = self.kernels.shape
        return (2 * kh * kw * c + k * min(len(self.sides), 2)) * self.kernels.itemsize

    @cached_property
    def weights(self) -> np.ndarray:
        """The kernels for patches with a last 1 in each row, if there is an offset or a bias."""
        shift = (self.offset + self.bias)[np.newaxis]
        return self._with_constants(shift[: int(self.has_shift)])

    @cached_property
    def centered_weights(self) -> np.ndarray:
        """The kernels for patches with a last 1 and what was taken from their pixels."""
        sums = self.kernels.sum(axis=(0, 1, 2), dtype=np.float64)
        return self._with_constants(np.stack([self.offset + self.bias, sums]))

    def _with_constants(self, constants: np.ndarray) -> np.ndarray:
        """Append the weights of constants to the rows of the kernels, not 0 in the first only."""
        kh, kw, c, k = self.kernels.shape
        weights = np.zeros((kh, kw * c + len(constants), k), self.kernels.dtype)
        weights[:, : kw * c] = self.kernels.reshape(kh, kw * c, k)
        weights[0, kw * c :] = constants
        return weights.reshape(-1, k)


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """float32 for float32 and whatever is exact in it, else float64.

    Examples
    --------
    >>> import numpy as np
    >>> compute_dtype(np.dtype("uint8")), compute_dtype(np.dtype("int32"))
    (dtype('float32'), dtype('float64'))
    """
    exact = dtype.itemsize <= 2 or (dtype.kind == "f" and dtype.itemsize == 4)
    return np.dtype(np.float32 if exact else np.float64)


def compute_maps(
    images: np.ndarray, layer: Layer, out: np.ndarray, n_jobs: int | None = 1, verbose: int = 0
) -> None:
    """Write the activated responses at every window.

    ``(n, h, w, c) -> (n, oh, ow, sides, k)``
    """
    rows, columns = layer.geometry.output_shape
    block, *rectangle = _block_shape(len(images), rows, columns, layer.position_bytes)

    def write(part: slice, spans: tuple[Span, Span]) -> None:
        responses = _responses(images[part], layer, *spans)  # (rows, columns, b, k)
        maps = out[part, slice(*spans[0]), slice(*spans[1])]
        for side, (function, values) in enumerate(_side_values(responses, layer)):
            maps[:, :, :, side] = function(values, values).transpose(2, 0, 1, 3)

    rectangles = product(_spans((0, rows), rectangle[0]), _spans((0, columns), rectangle[1]))
    tasks = [(slice(*b), r) for b, r in product(_spans((0, len(images)), block), rectangles)]
    run(write, tasks, _count_workers(n_jobs, layer, len(images)), verbose)


def compute_cells(
    images: np.ndarray,
    layer: Layer,
    poolings: Sequence[Pooling],
    pool_grid: tuple[int, int],
    out: np.ndarray,
    n_jobs: int | None,
    verbose: int,
) -> None:
    """Write the activated responses, pooled over each cell of the grid.

    ``(n, h, w, c) -> (n, grid rows, grid columns, poolings, sides, k)``
    """
    cell_rows, cell_columns = map(pool_cells, layer.geometry.output_shape, pool_grid)
    cells = [*product(enumerate(cell_rows), enumerate(cell_columns))]
    rows, columns = (max(b - a for a, b in spans) for spans in (cell_rows, cell_columns))
    block, *rectangle = _block_shape(len(images), rows, columns, layer.position_bytes)
    blocks = [slice(*span) for span in _spans((0, len(images)), block)]
    workers = _count_workers(n_jobs, layer, len(images))
    joins = [pooling.join for pooling in poolings]

    def write(part: slice, i: int, j: int, joined: np.ndarray) -> None:
        (top, bottom), (left, right) = cell_rows[i], cell_columns[j]
        n_positions = (bottom - top) * (right - left)
        for p, pooling in enumerate(poolings):
            out[part, i, j, p] = pooling.finish(joined[p], n_positions).transpose(1, 0, 2)

    def pool_block(part: slice) -> None:
        for (i, rows), (j, columns) in cells:
            write(part, i, j, _pool(images[part], layer, joins, rows, columns, rectangle))

    def pool_band(part: slice, i: int, j: int, rows: Span) -> np.ndarray:
        return _pool(images[part], layer, joins, rows, cell_columns[j], rectangle)

    if workers == 1 or len(blocks) >= 4 * workers:
        run(pool_block, [(part,) for part in blocks], workers, verbose)
        return
    # Few blocks, perhaps of one large image: threads share the bands of rows of its cells.
    n_bands = -(-4 * workers // (len(blocks) * len(cells)))
    bands = [
        (part, i, j, band)
        for part, ((i, rows), (j, _)) in product(blocks, cells)
        for band in _spans(rows, -(-(rows[1] - rows[0]) // n_bands))
    ]
    results = zip(bands, run(pool_band, bands, workers, verbose), strict=True)
    for (part, i, j), group in groupby(results, key=lambda result: result[0][:3]):
        write(part, i, j, _join(joins, [joined for _, joined in group]))


def _pool(
    images: np.ndarray,
    layer: Layer,
    joins: Sequence[np.ufunc],
    rows: Span,
    columns: Span,
    rectangle: Sequence[int],
) -> np.ndarray:
    """Join the activated responses of a cell, ``(b, h, w, c) -> (poolings, sides, b, k)``."""
    parts = []
    for spans in product(_spans(rows, rectangle[0]), _spans(columns, rectangle[1])):
        responses = _responses(images, layer, *spans)
        responses = responses.reshape(-1, *responses.shape[2:])  # (positions, b, k)
        parts.append(_join_positions(responses, layer, joins))
        if len(parts) == 16:
            parts = [_join(joins, parts)]
    return _join(joins, parts)


def _join(joins: Sequence[np.ufunc], parts: Sequence[np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    together = np.stack(parts)  # (parts, poolings, sides, b, k)
    return np.stack([join.reduce(together[:, p], axis=0) for p, join in enumerate(joins)])


def _join_positions(responses: np.ndarray, layer: Layer, joins: Sequence[np.ufunc]) -> np.ndarray:
    """Activate and join, ``(positions, b, k) -> (poolings, sides, b, k)`` in float64."""
    functions = {side.function for side in layer.sides.values()}
    shape = (len(joins), len(layer.sides), *responses.shape[1:])
    joined = np.empty(shape)
    if set(joins) == {np.add} and functions == {relu}:
        for side, (total, absolute) in enumerate(_relu_sums(responses, layer)):
            joined[:, side] = (total + absolute) / 2
        return joined
    for side, (function, values) in enumerate(_side_values(responses, layer)):
        function(values, values)
        for p, join in enumerate(joins):
            joined[p, side] = _sum(values) if join is np.add else join.reduce(values, axis=0)
    return joined


def _relu_sums(responses: np.ndarray, layer: Layer) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the sums of the values and of their absolutes, for each side.

    max(v, 0) is (v + abs(v)) / 2, and abs is NumPy's fastest pass. Both sums add up the same
    numbers in the same order, so that values that are all negative give exactly 0.
    """
    if layer.bias.any():
        for _, values in _side_values(responses, layer):
            total = _sum(values)
            yield total, _sum(np.abs(values, out=values))
    else:  # the sides have the same absolutes
        total = _sum(responses)
        absolute = _sum(np.abs(responses, out=responses))
        for side in layer.sides.values():
            yield side.sign * total, absolute


def _sum(values: np.ndarray) -> np.ndarray:
    """Add up positions, ``(positions, b, k) -> (b, k)``.

    A product with ones is NumPy's fastest way, and `numpy.dot` lets other threads run meanwhile,
    which `numpy.matmul` with a vector does not.
    """
    ones = np.ones(len(values), values.dtype)
    return np.dot(ones, values.reshape(len(values), -1)).reshape(values.shape[1:])


def _side_values(responses: np.ndarray, layer: Layer) -> Iterator[tuple[Function, np.ndarray]]:
    """Yield the function of each side and its argument, given ``z + b``.

    The last side gets the responses themselves, to overwrite.
    """
    *others, last = layer.sides.values()
    for sign, function in others:
        out = layer.workspace.empty("side", responses.shape, responses.dtype)
        yield function, _side_value(sign, responses, layer, out)
    yield last.function, _side_value(last.sign, responses, layer, responses)


def _side_value(sign: int, responses: np.ndarray, layer: Layer, out: np.ndarray) -> np.ndarray:
    if sign < 0:
        return np.subtract(2 * layer.bias, responses, out=out)  # -z + b
    if out is not responses:
        np.copyto(out, responses)
    return out


def _responses(images: np.ndarray, layer: Layer, rows: Span, columns: Span) -> np.ndarray:
    """Compute ``z + b`` at a rectangle of the map, ``(b, h, w, c) -> (rows, columns, b, k)``."""
    dtype = layer.kernels.dtype
    patches, centered = gather_patches(
        images,
        layer.geometry.kernel_size,
        layer.find_reach(0, rows),
        layer.find_reach(1, columns),
        dtype,
        layer.has_shift,
        layer.workspace,
    )
    weights = layer.centered_weights if centered else layer.weights
    oh, ow, b = rows[1] - rows[0], columns[1] - columns[0], len(images)
    responses = layer.workspace.empty("responses", (oh, ow * b, weights.shape[1]), dtype)
    np.matmul(patches.transpose(0, 2, 1), weights, out=responses)
    return responses.reshape(oh, ow, b, -1)


def _count_workers(n_jobs: int | None, layer: Layer, n_images: int) -> int:
    """Count the threads that are worth starting."""
    multiplications = n_images * prod(layer.geometry.output_shape) * layer.kernels.size
    return effective_n_jobs(n_jobs) if multiplications >= MIN_MULTIPLICATIONS else 1


def _block_shape(n: int, rows: int, columns: int, position_bytes: int) -> tuple[int, int, int]:
    """How many images, rows and columns of the map fill a block.

    All columns first, then images for products of enough rows, then rows, then images.
    """
    budget = min(BLOCK_BYTES, get_config()["working_memory"] * 2**20)
    positions = max(1, int(budget // position_bytes))
    columns = min(columns, positions)
    images = max(1, min(n, -(-MIN_POSITIONS // columns), positions // columns))
    rows = min(rows, max(1, positions // (columns * images)))
    return max(1, min(n, positions // (rows * columns))), rows, columns


def _spans(whole: Span, length: int) -> list[Span]:
    start, stop = whole
    return [(i, min(i + length, stop)) for i in range(start, stop, length)]
