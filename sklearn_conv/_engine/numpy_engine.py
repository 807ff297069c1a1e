"""The engine in NumPy: complete, and the reference for other engines.

It is the only module that multiplies whole batches of images with kernels. For a block of images
and a rectangle of the map:

1. copy the pixels that its windows see, and gather their runs (``staging``); along the columns,
   windows overlap in memory, so that the windows of a row of the map are a view;
2. one matrix product for each row of the map, in one call of `numpy.matmul`;
3. activate the responses in place, then pool them.

A block is small, so that windows and responses stay in the cache of the processor, and so that the
memory in use does not grow with the images. Pooled cells are computed one at a time: the rectangle
of a block never crosses the border of a cell, so that pooling reduces whole blocks.

Maps that are not pooled lie image by image. There, and where windows are normalized, whole windows
are copied, and one product writes all responses of the block; those of maps go straight into the
result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from itertools import groupby, product
from math import prod

import numpy as np
from sklearn import get_config

from sklearn_conv._engine.activation import Side, activate, relu
from sklearn_conv._engine.geometry import Geometry, Reach, Span, pool_cells
from sklearn_conv._engine.layer import Layer
from sklearn_conv._engine.pooling import join_parts, join_plain_split, join_positions
from sklearn_conv._engine.staging import (
    BlockWindows,
    copy_patches,
    copy_runs,
    find_center,
    normalize_patches,
    view_patches,
)
from sklearn_conv._engine.threads import Workspace, count_threads, run
from sklearn_conv._engine.weights import LayerWeights

BLOCK_BYTES = 6 * 2**20
"""Approximate size of the windows and the responses of a block, in each thread."""

MIN_POSITIONS = 128
"""A matrix product with fewer rows is slow; the rows are a row of the map times the images."""

MIN_MULTIPLICATIONS = 5 * 10**8
"""With less work, further threads gain nothing: joblib takes about 10 ms to start and end them."""

MAX_PARTS = 16
"""Parts of a cell that are kept before they are joined, so that their number is bounded."""

BLOCKS_PER_WORKER = 4
"""With fewer blocks, threads would wait for the last one, and so share parts of blocks."""

Advance = Callable[[int | Fraction], None]
"""``advance(m)`` reports that m more images are done."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Images that are computed together."""

    images: np.ndarray
    """(b, h, w, c)"""
    center: np.ndarray | None
    """(b,): subtracted from their pixels before the product, if anything is"""


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """How many images, and how many rows and columns of the map, fill a block."""

    images: int
    rows: int
    columns: int

    def rectangles(self, rows: Span, columns: Span) -> list[tuple[Span, Span]]:
        """Cut a rectangle of the map into rectangles of this shape."""
        return [*product(_cut(rows, self.rows), _cut(columns, self.columns))]


class NumpyEngine:
    """The interface is described in `sklearn_conv._engine`."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._weights = LayerWeights(layer)
        self._workspace = Workspace()
        self._find_reach = cache(partial(_find_reach, layer.geometry))
        self._poolings = layer.poolings or ()
        self._joins = [pooling.join for pooling in self._poolings]
        sides = [*layer.sides.values()]
        is_split = sides == [Side(1, relu), Side(-1, relu)] and not layer.bias.any()
        self._sums_plain_split = is_split and set(self._joins) == {np.add}

    def compute(
        self,
        images: np.ndarray,
        out: np.ndarray,
        n_jobs: int | None = 1,
        advance: Advance = lambda n_images: None,
    ) -> None:
        """Write the features of images.

        ``(n, h, w, c) -> (n, rows, columns, poolings, sides, k)``
        """
        if self._layer.poolings is None:
            self._compute_maps(images, out[:, :, :, 0], n_jobs, advance)
        else:
            self._compute_cells(images, out, n_jobs, advance)

    def _compute_maps(
        self, images: np.ndarray, out: np.ndarray, n_jobs: int | None, advance: Advance
    ) -> None:
        """Write the activated responses at every window.

        ``(n, h, w, c) -> (n, oh, ow, sides, k)``
        """
        rows, columns = self._layer.geometry.output_shape
        shape = self._block_shape(len(images), rows, columns, min_positions=1)
        rectangles = shape.rectangles((0, rows), (0, columns))

        def write(part: slice, rectangle: tuple[Span, Span]) -> None:
            maps = out[part, slice(*rectangle[0]), slice(*rectangle[1])]  # (b, r, c, sides, k)
            # The responses are written to the place of the last side, which is computed in place.
            responses = maps[:, :, :, -1]
            block = self._take(images, part)
            # Maps lie image by image. With the images innermost, the responses would have to be
            # transposed, which is one more pass over the whole result.
            by_image = len(block.images) > 1 or responses.shape[2] < MIN_POSITIONS
            self._respond(block, rectangle, responses, by_image)
            *others, last = self._layer.sides.values()
            for i, side in enumerate(others):
                activate(side, responses, self._layer.bias, maps[:, :, :, i])
            activate(last, responses, self._layer.bias, responses)
            advance(Fraction(len(block.images), len(rectangles)))

        blocks = [slice(*span) for span in _cut((0, len(images)), shape.images)]
        run(write, [*product(blocks, rectangles)], self._count_workers(n_jobs, len(images)))

    def _compute_cells(
        self, images: np.ndarray, out: np.ndarray, n_jobs: int | None, advance: Advance
    ) -> None:
        """Write the activated responses, pooled over each cell of the grid.

        ``(n, h, w, c) -> (n, grid rows, grid columns, poolings, sides, k)``
        """
        cell_rows, cell_columns = map(
            pool_cells, self._layer.geometry.output_shape, self._layer.pool_grid
        )
        cells = [*product(enumerate(cell_rows), enumerate(cell_columns))]
        rows, columns = (max(b - a for a, b in spans) for spans in (cell_rows, cell_columns))
        shape = self._block_shape(len(images), rows, columns, MIN_POSITIONS)
        blocks = [slice(*span) for span in _cut((0, len(images)), shape.images)]
        workers = self._count_workers(n_jobs, len(images))

        def write(part: slice, i: int, j: int, joined: np.ndarray) -> None:
            (top, bottom), (left, right) = cell_rows[i], cell_columns[j]
            n_positions = (bottom - top) * (right - left)
            for p, pooling in enumerate(self._poolings):
                out[part, i, j, p] = pooling.finish(joined[p], n_positions).transpose(1, 0, 2)

        def pool_block(part: slice) -> None:
            block = self._take(images, part)
            for (i, rows), (j, columns) in cells:
                write(part, i, j, self._pool(block, shape.rectangles(rows, columns)))
            advance(len(block.images))

        if workers == 1 or len(blocks) >= BLOCKS_PER_WORKER * workers:
            run(pool_block, [(part,) for part in blocks], workers)
            return
        # Few blocks, perhaps of one large image: threads share bands of rows of its cells.
        n_bands = -(-BLOCKS_PER_WORKER * workers // (len(blocks) * len(cells)))
        bands = [
            (part, i, j, band)
            for part, ((i, rows), (j, _)) in product(blocks, cells)
            for band in _cut(rows, -(-(rows[1] - rows[0]) // n_bands))
        ]

        def pool_band(part: slice, i: int, j: int, rows: Span) -> np.ndarray:
            block = self._take(images, part)
            joined = self._pool(block, shape.rectangles(rows, cell_columns[j]))
            advance(Fraction(len(block.images) * len(blocks), len(bands)))
            return joined

        results = zip(bands, run(pool_band, bands, workers), strict=True)
        for (part, i, j), group in groupby(results, key=lambda result: result[0][:3]):
            write(part, i, j, join_parts(self._joins, [joined for _, joined in group]))

    def _pool(self, block: Block, rectangles: Sequence[tuple[Span, Span]]) -> np.ndarray:
        """Join the activated responses of a cell, ``(b, h, w, c) -> (poolings, sides, b, k)``."""
        parts: list[np.ndarray] = []
        for rectangle in rectangles:
            n_positions = prod(stop - start for start, stop in rectangle)
            responses = self._workspace.empty(
                "responses",
                (n_positions, len(block.images), self._layer.kernels.shape[-1]),
                self._layer.kernels.dtype,
            )
            self._respond(block, rectangle, responses, by_image=False)
            parts.append(self._join_responses(responses))
            if len(parts) == MAX_PARTS:
                parts = [join_parts(self._joins, parts)]
        return join_parts(self._joins, parts)

    def _join_responses(self, responses: np.ndarray) -> np.ndarray:
        """Activate and join, ``(positions, b, k) -> (poolings, sides, b, k)`` in float64.

        The responses are overwritten.
        """
        sides, bias = [*self._layer.sides.values()], self._layer.bias
        joined = np.empty((len(self._joins), len(sides), *responses.shape[1:]))
        if self._sums_plain_split:
            joined[:, 0], joined[:, 1] = join_plain_split(responses)
            return joined
        for i, side in enumerate(sides):
            out = responses  # the last side may overwrite the responses
            if i < len(sides) - 1:
                out = self._workspace.empty("other side", responses.shape, responses.dtype)
            values = activate(side, responses, bias, out)
            for p, join in enumerate(self._joins):
                joined[p, i] = join_positions(join, values)
        return joined

    def _respond(
        self, block: Block, rectangle: tuple[Span, Span], out: np.ndarray, by_image: bool
    ) -> None:
        """Write ``z + b`` at the windows of a rectangle.

        ``out`` is (rows, columns, b) by k, ``by_image`` (b, rows, columns) by k; its leading axes
        must be collapsible without a copy.
        """
        windows = BlockWindows(
            images=block.images,
            center=block.center,
            rows=self._find_reach(0, rectangle[0]),
            columns=self._find_reach(1, rectangle[1]),
            dtype=self._layer.kernels.dtype,
            by_image=by_image,
        )
        if self._layer.eps:
            runs = copy_runs(windows, (), self._workspace)
            patches = copy_patches(runs, windows, self._workspace, n_constants=1)
            # Dividing a window by its norm changes kh * kw * c numbers; dividing its responses
            # would change n_kernels, which are usually more.
            normalize_patches(patches[:-1], self._layer.eps)
            patches[-1] = 1
            _multiply(patches[np.newaxis], self._weights.normalized, out)
            return
        matrix, constants = self._weights.for_windows(block.center)
        runs = copy_runs(windows, constants, self._workspace)
        if by_image:
            _multiply(copy_patches(runs, windows, self._workspace)[np.newaxis], matrix, out)
        else:
            _multiply(view_patches(runs, windows.rows), matrix, out)

    def _take(self, images: np.ndarray, part: slice) -> Block:
        block = images[part]
        has_center = not self._layer.eps  # normalized windows lose one of their pixels instead
        center = find_center(block, self._layer.kernels.dtype) if has_center else None
        return Block(images=block, center=center)

    def _count_workers(self, n_jobs: int | None, n_images: int) -> int:
        """Count the threads that are worth starting."""
        n_windows = n_images * prod(self._layer.geometry.output_shape)
        is_worth = n_windows * self._layer.kernels.size >= MIN_MULTIPLICATIONS
        return count_threads(n_jobs) if is_worth else 1

    def _block_shape(self, n: int, rows: int, columns: int, min_positions: int) -> BlockShape:
        """Choose how many images, rows and columns fill a block, out of so many.

        First come all columns, then as many images as a product needs rows, then rows, then
        images. But all images never make a single block: the memory of a thread's first block is
        new to the process, which makes it slow, and a second block uses it again.
        """
        budget = min(BLOCK_BYTES, get_config()["working_memory"] * 2**20)
        positions = max(1, int(budget // self._position_bytes))
        columns = min(columns, positions)
        images = max(1, min(n, -(-min_positions // columns), positions // columns))
        rows = min(rows, max(1, positions // (columns * images)))
        images = max(images, min(-(-n // 4), positions // (rows * columns)))
        return BlockShape(images=images, rows=rows, columns=columns)

    @property
    def _position_bytes(self) -> int:
        """Bytes of a window at most: its copies, its responses and one side of these."""
        kh, kw, c, k = self._layer.kernels.shape
        n_copies = 3 if self._layer.eps else 2
        n_numbers = n_copies * kh * kw * c + k * min(len(self._layer.sides), 2)
        return n_numbers * self._layer.kernels.itemsize


def _find_reach(geometry: Geometry, axis: int, windows: Span) -> Reach:
    return geometry[axis].reach(windows)


def _multiply(patches: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Multiply a stack of windows, ``(m, d, positions), (d, k) -> (m * positions, k)``."""
    out = out.reshape(len(patches), -1, matrix.shape[1])
    np.matmul(patches.transpose(0, 2, 1), matrix, out=out)


def _cut(whole: Span, length: int) -> list[Span]:
    """Cut a span into spans of that length; the last one may be shorter."""
    start, stop = whole
    return [(i, min(i + length, stop)) for i in range(start, stop, length)]
