"""Convolution of a batch in small blocks: the only place with a matrix product.

For a block of images and a rectangle of the map:

1. stage the pixels that its windows see: one copy for cast, padding and layout;
2. gather the windows along the rows only; along the columns they overlap in memory, so that the
   windows of all kernels are a view;
3. one matrix product for each row of the map, in one call;
4. activate in place, then pool.

Maps that are not pooled lie image by image: there, and where each window is normalized, whole
windows are copied, and one product writes all responses, of maps straight into the result.

The working set is a few megabytes in each thread, whatever the number and the size of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import groupby, product
from math import prod
from typing import NamedTuple

import numpy as np
from sklearn import get_config

from sklearn_conv._engine.activation import Side, relu
from sklearn_conv._engine.pooling import Pooling, pool_cells
from sklearn_conv._engine.staging import (
    Reach,
    Span,
    copy_patches,
    find_center,
    find_reach,
    gather_runs,
    view_patches,
)
from sklearn_conv._engine.threads import Workspace, count_threads, run
from sklearn_conv._engine.windows import Geometry

BLOCK_BYTES = 6 * 2**20
"""About what the windows and the responses of one block take, in each thread."""

MIN_POSITIONS = 128
"""Rows of a matrix product below which it is slow: a row of the map times images."""

MIN_MULTIPLICATIONS = 5 * 10**8
"""Work below which other threads gain nothing: joblib takes some 10 ms to start and end them."""


@dataclass(frozen=True)
class Layer:
    """What is done at every window: ``sides(patch . kernels + offset, bias)``.

    With ``eps``, each patch is first divided by ``sqrt(its variance + eps)``; the kernels then have
    mean 0.
    """

    kernels: np.ndarray
    """(kh, kw, c, k), in the dtype that is computed in, as are offset and bias"""
    offset: np.ndarray
    bias: np.ndarray
    sides: Mapping[str, Side]
    geometry: Geometry
    eps: float = 0.0
    """patches are divided by the root of their variance and this; 0: they are not"""
    workspace: Workspace = field(default_factory=Workspace)

    @cached_property
    def find_reach(self) -> Callable[[int, Span], Reach]:
        """`find_reach` of this geometry, once for each axis and span."""
        return cache(partial(find_reach, self.geometry))

    @cached_property
    def has_shift(self) -> bool:
        """Whether responses get an offset or a bias."""
        return bool((self.offset + self.bias).any())

    @cached_property
    def is_plain_split(self) -> bool:
        """Whether the sides are max(z, 0) and max(-z, 0)."""
        sides = [*self.sides.values()]
        return sides == [Side(1, relu), Side(-1, relu)] and not self.bias.any()

    @property
    def position_bytes(self) -> int:
        """What one window takes at most: staged, gathered, its responses and a side of them."""
        kh, kw, c, k = self.kernels.shape
        n_copies = 3 if self.eps else 2
        return (n_copies * kh * kw * c + k * min(len(self.sides), 2)) * self.kernels.itemsize

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

    @cached_property
    def normalized_weights(self) -> np.ndarray:
        """The kernels for patches with a last 1."""
        k = self.kernels.shape[-1]
        shift = (self.offset + self.bias)[np.newaxis]
        return np.concatenate([self.kernels.reshape(-1, k), shift])

    def _with_constants(self, constants: np.ndarray) -> np.ndarray:
        """Append the weights of constants to the rows of the kernels, not 0 in the first only."""
        kh, kw, c, k = self.kernels.shape
        weights = np.zeros((kh, kw * c + len(constants), k), self.kernels.dtype)
        weights[:, : kw * c] = self.kernels.reshape(kh, kw * c, k)
        weights[0, kw * c :] = constants
        return weights.reshape(-1, k)


class Block(NamedTuple):
    """Images that are computed together, and what is taken from their pixels first, if anything."""

    images: np.ndarray
    center: np.ndarray | None


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
    images: np.ndarray, out: np.ndarray, layer: Layer, n_jobs: int | None = 1, verbose: int = 0
) -> None:
    """Write the activated responses at every window.

    ``(n, h, w, c) -> (n, oh, ow, sides, k)``
    """
    rows, columns = layer.geometry.output_shape
    block, *rectangle = _block_shape(len(images), rows, columns, layer.position_bytes, 1)
    rectangles = product(_spans((0, rows), rectangle[0]), _spans((0, columns), rectangle[1]))

    def write(part: slice, spans: tuple[Span, Span]) -> None:
        maps = out[part, slice(*spans[0]), slice(*spans[1])]  # (b, rows, columns, sides, k)
        responses = maps[:, :, :, -1]
        block = _take(images, part, layer)
        by_image = len(block.images) > 1 or responses.shape[2] < MIN_POSITIONS
        _respond(block, layer, *spans, by_image, responses)
        for _ in _activate(responses, layer, maps[:, :, :, 0]):
            pass

    tasks = [(slice(*b), r) for b, r in product(_spans((0, len(images)), block), rectangles)]
    run(write, tasks, _count_workers(n_jobs, layer, len(images)), verbose)


def compute_cells(
    images: np.ndarray,
    out: np.ndarray,
    layer: Layer,
    poolings: Sequence[Pooling],
    pool_grid: tuple[int, int],
    n_jobs: int | None = 1,
    verbose: int = 0,
) -> None:
    """Write the activated responses, pooled over each cell of the grid.

    ``(n, h, w, c) -> (n, grid rows, grid columns, poolings, sides, k)``
    """
    cell_rows, cell_columns = map(pool_cells, layer.geometry.output_shape, pool_grid)
    cells = [*product(enumerate(cell_rows), enumerate(cell_columns))]
    rows, columns = (max(b - a for a, b in spans) for spans in (cell_rows, cell_columns))
    block, *rectangle = _block_shape(
        len(images), rows, columns, layer.position_bytes, MIN_POSITIONS
    )
    blocks = [slice(*span) for span in _spans((0, len(images)), block)]
    workers = _count_workers(n_jobs, layer, len(images))
    joins = [pooling.join for pooling in poolings]

    def write(part: slice, i: int, j: int, joined: np.ndarray) -> None:
        (top, bottom), (left, right) = cell_rows[i], cell_columns[j]
        n_positions = (bottom - top) * (right - left)
        for p, pooling in enumerate(poolings):
            out[part, i, j, p] = pooling.finish(joined[p], n_positions).transpose(1, 0, 2)

    def pool_block(part: slice) -> None:
        block = _take(images, part, layer)
        for (i, rows), (j, columns) in cells:
            write(part, i, j, _pool(block, layer, joins, rows, columns, rectangle))

    def pool_band(part: slice, i: int, j: int, rows: Span) -> np.ndarray:
        block = _take(images, part, layer)
        return _pool(block, layer, joins, rows, cell_columns[j], rectangle)

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


def _take(images: np.ndarray, part: slice, layer: Layer) -> Block:
    block = images[part]
    return Block(block, None if layer.eps else find_center(block, layer.kernels.dtype))


def _pool(
    block: Block,
    layer: Layer,
    joins: Sequence[np.ufunc],
    rows: Span,
    columns: Span,
    rectangle: Sequence[int],
) -> np.ndarray:
    """Join the activated responses of a cell, ``(b, h, w, c) -> (poolings, sides, b, k)``."""
    parts = []
    for spans in product(_spans(rows, rectangle[0]), _spans(columns, rectangle[1])):
        n_positions = prod(stop - start for start, stop in spans)
        shape = (n_positions, len(block.images), layer.kernels.shape[-1])
        responses = layer.workspace.empty("responses", shape, layer.kernels.dtype)
        _respond(block, layer, *spans, False, responses)
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
    joined = np.empty((len(joins), len(layer.sides), *responses.shape[1:]))
    if layer.is_plain_split and set(joins) == {np.add}:
        # max(z, 0) is (z + abs(z)) / 2, and the sides share the abs. Both sums add up the same
        # numbers in the same order, so that a side that is never active is exactly 0.
        total = _sum(responses)
        absolute = _sum(np.abs(responses, out=responses))
        joined[:, 0], joined[:, 1] = (absolute + total) / 2, (absolute - total) / 2
        return joined
    other = responses
    if len(layer.sides) > 1:
        other = layer.workspace.empty("other", responses.shape, responses.dtype)
    for side, values in enumerate(_activate(responses, layer, other)):
        for p, join in enumerate(joins):
            joined[p, side] = _sum(values) if join is np.add else join.reduce(values, axis=0)
    return joined


def _sum(values: np.ndarray) -> np.ndarray:
    """Add up positions, ``(positions, b, k) -> (b, k)``.

    A product with ones is NumPy's fastest way, and `numpy.dot` lets other threads run meanwhile,
    which `numpy.matmul` with a vector does not.
    """
    ones = np.ones(len(values), values.dtype)
    return np.dot(ones, values.reshape(len(values), -1)).reshape(values.shape[1:])


def _activate(responses: np.ndarray, layer: Layer, other: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the activated values of each side, given ``z + b``.

    The last side overwrites the responses, one before it is in ``other``.
    """
    *_, last = layer.sides.values()
    for side in layer.sides.values():
        out = responses if side is last else other
        values = responses
        if side.sign < 0:
            values = np.subtract(2 * layer.bias, responses, out=out)  # -z + b
        yield side.function(values, out)


def _respond(
    block: Block, layer: Layer, rows: Span, columns: Span, by_image: bool, out: np.ndarray
) -> None:
    """Write ``z + b`` at a rectangle of the map: ``(rows, columns, b)`` by k, or the order of maps.

    The axes of ``out`` must be as good as one.
    """
    kh, kw = layer.geometry.kernel_size
    down, across = layer.find_reach(0, rows), layer.find_reach(1, columns)
    constant = layer.has_shift and not layer.eps
    runs = gather_runs(
        block.images,
        block.center,
        kw,
        down,
        across,
        layer.kernels.dtype,
        constant,
        by_image,
        layer.workspace,
    )
    weights = layer.weights if block.center is None else layer.centered_weights
    if layer.eps:
        patches = copy_patches(runs, kh, down, by_image, 1, layer.workspace)[np.newaxis]
        _normalize(patches[0, :-1], layer.eps)
        patches[0, -1] = 1
        weights = layer.normalized_weights
    elif by_image:
        patches = copy_patches(runs, kh, down, by_image, 0, layer.workspace)[np.newaxis]
    else:
        patches = view_patches(runs, kh, down)
    out = out.reshape(len(patches), -1, weights.shape[1])
    np.matmul(patches.transpose(0, 2, 1), weights, out=out)


def _normalize(patches: np.ndarray, eps: float) -> None:
    """Divide patches by ``sqrt(variance + eps)``, less one of their pixels, ``(d, positions)``.

    The kernels ignore what all pixels of a patch have in common. Without one of them a constant
    patch is exactly 0, and no large offset spoils the variance.
    """
    patches -= patches[len(patches) // 2].copy()
    mean = np.dot(np.full(len(patches), 1 / len(patches), patches.dtype), patches)
    variance = np.einsum("dp,dp->p", patches, patches) / len(patches) - np.square(mean)
    patches /= np.sqrt(np.maximum(variance, 0) + eps)


def _count_workers(n_jobs: int | None, layer: Layer, n_images: int) -> int:
    """Count the threads that are worth starting."""
    multiplications = n_images * prod(layer.geometry.output_shape) * layer.kernels.size
    return count_threads(n_jobs) if multiplications >= MIN_MULTIPLICATIONS else 1


def _block_shape(
    n: int, rows: int, columns: int, position_bytes: int, min_positions: int
) -> tuple[int, int, int]:
    """How many images, rows and columns of the map fill a block.

    All columns first, then images for products of enough rows, then rows, then images; but not all
    images at once, since the memory of a first block, fresh from the system, is slow.
    """
    budget = min(BLOCK_BYTES, get_config()["working_memory"] * 2**20)
    positions = max(1, int(budget // position_bytes))
    columns = min(columns, positions)
    images = max(1, min(n, -(-min_positions // columns), positions // columns))
    rows = min(rows, max(1, positions // (columns * images)))
    images = max(images, min(-(-n // 4), positions // (rows * columns)))
    return images, rows, columns


def _spans(whole: Span, length: int) -> list[Span]:
    start, stop = whole
    return [(i, min(i + length, stop)) for i in range(start, stop, length)]
