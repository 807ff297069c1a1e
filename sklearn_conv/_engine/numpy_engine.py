"""Engine in NumPy, which is the reference for other engines.

This is the only module that multiplies whole batches of images by kernels. For each block of images
and each rectangle of the map, it copies the pixels under the windows in up to three stages, so that
a matrix product can read them:

1. *pixels*: the part of the padded images under the windows, cast to the dtype of the computation;
2. *runs*: for every row of pixels and every column of the map, the ``kw * c`` numbers under a row
   of weights, perhaps followed by a 1;
3. *patches*: whole windows. A window consists of ``kh`` consecutive runs, which overlap in memory
   with those of the window below, so the patches of each row of the map are a view of the runs
   (`view_patches`). They are copied (`copy_patches`) only if whole windows are needed: if maps are
   not pooled, or if windows are normalized.

Then it computes a matrix product for each row of the map, in one call of `numpy.matmul`, or a
single product if patches were copied. It activates the responses in place, and pools them.

A block is small, so that windows and responses stay in the cache of the processor, and so that the
memory in use does not grow with the images. Cells are pooled one at a time: the rectangle of a
block never crosses the border of a cell, so that pooling reduces whole blocks.

The axes have one of two orders. By default, the images are the innermost axis. Each contiguous
piece of a copy then has one number of each image of the block, whatever the stride and the width of
the images, which is fast for small images. With ``by_image``, the images are the outermost axis,
because maps that are not pooled are stored image by image, and the product writes their responses
directly into the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import groupby, product
from math import prod
from typing import Any

import numpy as np
from sklearn import get_config

from sklearn_conv._array_api import namespace
from sklearn_conv._engine.geometry import (
    Reach,
    Rectangle,
    Span,
    cut_rectangle,
    cut_span,
)
from sklearn_conv._engine.layer import Advance, Layer, Output, ignore
from sklearn_conv._engine.pooling import join_parts, join_positions
from sklearn_conv._engine.threads import Workspace, count_threads, one_blas_thread, run_tasks

BLOCK_BYTES = 6 * 2**20
"""Approximate size of the windows and the responses of a block, in each thread."""

MIN_POSITIONS = 128
"""Number of rows below which a matrix product is slow. There is one row for each position in a row
of the map and each image of the block."""

MIN_MULTIPLICATIONS = 5 * 10**8
"""Number of multiplications below which several threads are not faster than one."""

MAX_PARTS = 16
"""Maximum number of parts of a cell that are kept before they are joined."""

BLOCKS_PER_WORKER = 4
"""Number of blocks per thread below which blocks are divided, because threads that have no more
blocks would wait for the last one."""

OFFSET_TO_RANGE = 64
"""Ratio of an offset to the range of the pixels above which the offset is subtracted, as in
``native/core.h``."""


class NumpyEngine:
    """Engine with the interface that is described in `sklearn_conv._engine`."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._workspace = Workspace()
        self._find_reach = cache(lambda axis, span: layer.geometry[axis].reach(span))
        self._outputs = layer.outputs
        self._poolings = layer.poolings or ()
        self._joins = [pooling.join for pooling in self._poolings]
        kh, kw, c, k = layer.kernels.shape
        kernels, shift = layer.kernels.reshape(kh, kw * c, k), layer.offset + layer.base
        # The product itself adds offset and base:
        #     [window, 1] . [kernel; offset + base] = window . kernel + offset + base
        # A window consists of kh runs of kw * c pixels. Windows below each other share runs, so a 1
        # is appended to every run. Its weights are 0 for all runs of a window but the first one.
        self._n_ones = int(shift.any())
        weights = np.zeros((kh, kw * c + self._n_ones, k), kernels.dtype)
        weights[:, : kw * c] = kernels
        weights[0, kw * c :] = shift
        self._weights = weights.reshape(-1, k)
        # The number x that was subtracted from a window is appended to it as well:
        #     [window - x, x, 1] . [kernel; sum(kernel); offset + base]
        sums = np.zeros(k) if layer.eps else kernels.sum(axis=(0, 1), dtype=np.float64)
        self._weights_of_changed = np.concatenate(
            [kernels.reshape(-1, k), [sums], [shift]], dtype=kernels.dtype, casting="same_kind"
        )

    def compute(
        self, images: np.ndarray, out: np.ndarray, n_jobs: int | None = 1, advance: Advance = ignore
    ) -> None:
        """Write the features of images."""
        # The products are small. Threads of BLAS would wait for each other at each of them, for a
        # long time if another process is using a core.
        with one_blas_thread:
            if self._layer.poolings is None:
                self._compute_maps(images, out[:, :, :, 0], n_jobs, advance)
            else:
                self._compute_cells(images, out, n_jobs, advance)

    def _compute_maps(
        self, images: np.ndarray, out: np.ndarray, n_jobs: int | None, advance: Advance
    ) -> None:
        """Write the activated responses at every window.

        ``(n, h, w, c) -> (n, oh, ow, outputs, k)``
        """
        rows, columns = self._layer.geometry.output_shape
        length, n_windows = self._block_shape(len(images), rows, columns, min_positions=1)
        rectangles = cut_rectangle((0, rows), (0, columns), n_windows)

        def write(part: slice, rectangle: Rectangle) -> None:
            maps = out[part, slice(*rectangle[0]), slice(*rectangle[1])]  # (b, r, c, outputs, k)
            # The responses are written to the memory of the last output, computed in place.
            responses = maps[:, :, :, -1]
            block = images[part]
            # Maps are stored image by image. With the images as the innermost axis, the responses
            # would have to be transposed, which is another pass over the whole result.
            by_image = len(block) > 1 or responses.shape[2] < MIN_POSITIONS
            self._respond(block, rectangle, responses, by_image)
            *others, last = self._outputs
            for i, output in enumerate(others):
                _activate(output, responses, maps[:, :, :, i])
            _activate(last, responses, responses)
            advance(Fraction(len(block), len(rectangles)))

        blocks = [slice(*span) for span in cut_span((0, len(images)), length)]
        run_tasks(write, [*product(blocks, rectangles)], self._count_workers(n_jobs, len(images)))

    def _compute_cells(
        self, images: np.ndarray, out: np.ndarray, n_jobs: int | None, advance: Advance
    ) -> None:
        """Write the activated responses, pooled over each cell of the grid.

        ``(n, h, w, c) -> (n, grid rows, grid columns, poolings, outputs, k)``
        """
        [(cell_rows, cell_columns)] = self._layer.grids
        cells = [*product(enumerate(cell_rows), enumerate(cell_columns))]
        rows, columns = (max(b - a for a, b in spans) for spans in (cell_rows, cell_columns))
        length, n_windows = self._block_shape(len(images), rows, columns, MIN_POSITIONS)
        blocks = [slice(*span) for span in cut_span((0, len(images)), length)]
        workers = self._count_workers(n_jobs, len(images))
        # If there are few tasks, for example for a single large image, cells are cut into bands.
        n_tasks = BLOCKS_PER_WORKER * workers if workers > 1 else 1
        n_bands = -(-n_tasks // max(1, len(blocks) * len(cells)))
        tasks = [
            (part, i, j, band)
            for part, ((i, rows_of_cell), (j, _)) in product(blocks, cells)
            for band in cut_span(rows_of_cell, -(-(rows_of_cell[1] - rows_of_cell[0]) // n_bands))
        ]

        def write(part: slice, i: int, j: int, joined: np.ndarray) -> None:
            (top, bottom), (left, right) = cell_rows[i], cell_columns[j]
            n_positions = (bottom - top) * (right - left)
            for p, pooling in enumerate(self._poolings):
                out[part, i, j, p] = pooling.finish(joined[p], n_positions).transpose(1, 0, 2)

        def pool(part: slice, i: int, j: int, band: Span) -> np.ndarray | None:
            block = images[part]
            joined = self._pool(block, cut_rectangle(band, cell_columns[j], n_windows))
            advance(Fraction(len(block) * len(blocks), len(tasks)))
            if band != cell_rows[i]:
                return joined
            write(part, i, j, joined)
            return None

        results = zip(tasks, run_tasks(pool, tasks, workers), strict=True)
        of_bands = [(task[:3], joined) for task, joined in results if joined is not None]
        for (part, i, j), group in groupby(of_bands, key=lambda result: result[0]):
            write(part, i, j, join_parts(self._joins, [joined for _, joined in group]))

    def _pool(self, block: np.ndarray, rectangles: Sequence[Rectangle]) -> np.ndarray:
        """Join the activated responses of a cell in float64.

        ``(b, h, w, c) -> (poolings, outputs, b, k)``
        """
        dtype, k = self._layer.kernels.dtype, self._layer.kernels.shape[-1]
        parts: list[np.ndarray] = []
        for rectangle in rectangles:
            n_positions = prod(stop - start for start, stop in rectangle)
            shape = (n_positions, len(block), k)
            responses = self._workspace.empty("responses", shape, dtype)
            self._respond(block, rectangle, responses, by_image=False)
            joined = np.empty((len(self._joins), len(self._outputs), len(block), k))
            for i, output in enumerate(self._outputs):
                out = responses  # The last output may overwrite the responses.
                if i < len(self._outputs) - 1:
                    out = self._workspace.empty("other output", shape, dtype)
                values = _activate(output, responses, out)
                for p, join in enumerate(self._joins):
                    joined[p, i] = join_positions(join, values)
            parts.append(joined)
            if len(parts) == MAX_PARTS:
                parts = [join_parts(self._joins, parts)]
        return join_parts(self._joins, parts)

    def _respond(
        self, images: np.ndarray, rectangle: Rectangle, out: np.ndarray, by_image: bool
    ) -> None:
        """Write the responses with offset and base at the windows of a rectangle.

        ``out`` has shape (rows * columns, b, k), or (b, rows, columns, k) if ``by_image``; its
        leading axes must be collapsible without a copy.
        """
        windows = BlockWindows(
            images=images,
            rows=self._find_reach(0, rectangle[0]),
            columns=self._find_reach(1, rectangle[1]),
            dtype=self._layer.kernels.dtype,
            by_image=by_image,
        )
        pixels = copy_pixels(windows, self._workspace)
        # A pixel is subtracted from windows that are normalized, and 8 bits are too few for an
        # offset that is large beside their range.
        is_exact = windows.dtype == np.float64 or images.dtype.itemsize == 1
        eps = self._layer.eps
        if eps or (not is_exact and may_have_offset(windows, pixels)):
            runs = copy_runs(pixels, windows, 0, self._workspace)
            patches = copy_patches(runs, windows, self._workspace, n_constants=2)
            if eps:
                # Dividing the responses of a window instead would change n_kernels numbers, which
                # are usually more than those of the window.
                normalize_patches(patches[:-2], eps)
                patches[-2] = 0
            else:
                subtract_offsets(patches[:-2], patches[-2])
            patches[-1] = 1
            _multiply(patches[np.newaxis], self._weights_of_changed, out)
            return
        runs = copy_runs(pixels, windows, self._n_ones, self._workspace)
        if by_image:
            patches = copy_patches(runs, windows, self._workspace)[np.newaxis]
        else:
            patches = view_patches(runs, windows.rows)
        _multiply(patches, self._weights, out)

    def _count_workers(self, n_jobs: int | None, n_images: int) -> int:
        """Return the number of threads to use for ``n_images`` images."""
        n_windows = n_images * prod(self._layer.geometry.output_shape)
        is_worth = n_windows * self._layer.kernels.size >= MIN_MULTIPLICATIONS
        return count_threads(n_jobs) if is_worth else 1

    def _block_shape(self, n: int, rows: int, columns: int, min_positions: int) -> tuple[int, int]:
        """Choose the number of images in a block, and of their windows, given the total numbers.

        A block has as many columns as possible. Then images are added until a product has
        ``min_positions`` rows, then rows of the map, and then further images. The images are not
        all put into one block, because the first block of a thread is slow: its memory is new to
        the process. Later blocks reuse this memory.

        Columns are only divided in blocks of a single row and a single image, so that the
        rectangle of a block in the result can be collapsed without a copy.
        """
        budget = min(BLOCK_BYTES, get_config()["working_memory"] * 2**20)
        kh, kw, c, k = self._layer.kernels.shape
        # A window takes its copies, its responses and one more output.
        n_copies = 3 if self._layer.eps else 2
        n_numbers = n_copies * kh * kw * c + k * min(len(self._outputs), 2)
        positions = max(1, int(budget // (n_numbers * self._layer.kernels.itemsize)))
        columns = min(columns, positions)
        images = max(1, min(n, -(-min_positions // columns), positions // columns))
        rows = min(rows, max(1, positions // (columns * images)))
        images = max(images, min(-(-n // 4), positions // (rows * columns)))
        return images, rows * columns


def _activate(output: Output, shifted: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Compute an output from responses with offset and base, (..., k); return ``out``.

    ``out`` may be ``shifted``, which is then overwritten.
    """
    (sign, function), constant = output
    if constant is None:
        values = shifted if sign > 0 else np.negative(shifted, out=out)
    elif sign > 0:
        values = np.add(shifted, constant, out=out)
    else:
        values = np.subtract(constant, shifted, out=out)
    return function.in_place(values, out)


def _multiply(patches: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Multiply stacked windows by weights, ``(m, d, positions), (d, k) -> (m * positions, k)``."""
    out = out.reshape(len(patches), -1, matrix.shape[1])
    np.matmul(patches.transpose(0, 2, 1), matrix, out=out)


@dataclass(frozen=True, kw_only=True)
class BlockWindows:
    """The windows of a rectangle of the map, in a block of images."""

    images: np.ndarray
    """(b, h, w, c)"""
    rows: Reach
    columns: Reach
    dtype: np.dtype
    by_image: bool
    """Whether the images are the outermost axis of the result instead of the innermost."""

    def as_images(self, staged: np.ndarray) -> np.ndarray:
        """View the pixels that `copy_pixels` returns as (b, rows, columns, c)."""
        return staged.transpose((2, 0, 3, 1) if self.by_image else (3, 0, 2, 1))


def copy_pixels(windows: BlockWindows, workspace: Workspace) -> np.ndarray:
    """Copy pixels, ``(b, h, w, c) -> (rows, c, columns, b)``, or (rows, c, b, columns) by image."""
    images, rows, columns = windows.images, windows.rows, windows.columns
    b, _, _, c = images.shape
    inner = (b, columns.n_pixels) if windows.by_image else (columns.n_pixels, b)
    staged = workspace.empty("pixels", (rows.n_pixels, c, *inner), windows.dtype)
    pixels = windows.as_images(staged)
    # Two index arrays, one for each axis, have to be used together. A slice copies nothing.
    if isinstance(rows.source, slice):
        source = images[:, rows.source][:, :, columns.source]
    elif isinstance(columns.source, slice):
        source = images[:, :, columns.source][:, rows.source]
    else:
        source = images[:, rows.source[:, np.newaxis], columns.source]
    pixels[:, rows.inside, columns.inside] = source
    if rows.outside is not None:
        pixels[:, rows.outside] = 0
    if columns.outside is not None:
        pixels[:, :, columns.outside] = 0
    return staged


def copy_runs(
    pixels: np.ndarray, windows: BlockWindows, n_ones: int, workspace: Workspace
) -> np.ndarray:
    """Copy the runs of all windows, and append ones to each run.

    ``(rows, c, columns, b) -> (rows, kw * c + ones, columns of the map, b)``; with ``by_image``,
    ``(rows, c, b, columns) -> (rows, kw * c + ones, b, columns of the map)``
    """
    n_rows, c, n_lines, n_in_line = pixels.shape
    columns, b, plane = windows.columns, len(windows.images), n_lines * n_in_line
    kw, ow = columns.size, columns.n_windows
    # Steps from one weight to the next and along the last two axes of the result.
    if windows.by_image:
        shape, steps = (b, ow), (columns.dilation, n_in_line, columns.stride)
    else:
        shape, steps = (ow, b), (columns.dilation * b, columns.stride * b, 1)
    runs = workspace.empty("runs", (n_rows, kw * c + n_ones, *shape), windows.dtype)
    seen = strided_view(
        pixels, (n_rows, kw, c, *shape), (c * plane, steps[0], plane, steps[1], steps[2])
    )
    np.copyto(runs[:, : kw * c].reshape(seen.shape), seen)
    runs[:, kw * c :] = 1
    return runs


def view_patches(runs: np.ndarray, rows: Reach) -> np.ndarray:
    """View the windows as one matrix for each row of the map.

    ``(rows, line, columns, b) -> (rows of the map, kh * line, columns * b)``

    Runs below each other are consecutive in memory, so the result is a view if dilation is 1.
    """
    _, line, nx, ny = runs.shape
    row, n_inner = line * nx * ny, nx * ny
    shape = (rows.n_windows, rows.size, line, n_inner)
    patches = strided_view(runs, shape, (rows.stride * row, rows.dilation * row, n_inner, 1))
    return patches.reshape(shape[0], rows.size * line, n_inner)


def copy_patches(
    runs: np.ndarray, windows: BlockWindows, workspace: Workspace, n_constants: int = 0
) -> np.ndarray:
    """Copy the windows into one matrix. Its last rows are left empty for constants.

    ``(rows, line, columns, b) -> (kh * line + constants, rows of the map * columns * b)``; with
    ``by_image``, ``(rows, line, b, columns) -> (kh * line + constants, b * rows of the map *
    columns)``
    """
    rows = windows.rows
    _, line, nx, ny = runs.shape
    kh, oh, row = rows.size, rows.n_windows, line * nx * ny
    patches = workspace.empty("patches", (kh * line + n_constants, oh * nx * ny), runs.dtype)
    if windows.by_image:
        shape, steps = (nx, oh, ny), (ny, rows.stride * row, 1)
    else:
        shape, steps = (oh, nx, ny), (rows.stride * row, ny, 1)
    source = strided_view(runs, (kh, line, *shape), (rows.dilation * row, nx * ny, *steps))
    np.copyto(patches[: kh * line].reshape(source.shape), source)
    return patches


def normalize_patches(patches: np.ndarray, eps: float) -> None:
    """Divide windows, ``(d, positions)``, by ``sqrt(variance + eps)``, in place.

    The kernels have zero mean, so a constant may be subtracted from the pixels of a window. This is
    one of its pixels instead of their mean: a constant window then becomes exactly 0, and a large
    offset does not make the variance inaccurate.
    """
    patches -= patches[len(patches) // 2].copy()
    mean = np.dot(np.full(len(patches), 1 / len(patches), patches.dtype), patches)
    square = np.einsum("dp,dp->p", patches, patches) / len(patches)
    variance = square - np.square(mean)
    is_far = variance < square / 16  # The pixel that was subtracted is far from the others.
    if is_far.any():
        centered = patches[:, is_far] - mean[is_far]
        variance[is_far] = np.einsum("dp,dp->p", centered, centered) / len(patches)
        patches[:, is_far] = centered
    deviation = np.sqrt(variance + eps)
    is_large = ~np.isfinite(deviation)  # Squares overflow before the result does.
    if is_large.any():
        large = patches[:, is_large]
        largest = np.abs(large).max(axis=0)
        large /= largest
        deviation[is_large] = largest * np.sqrt(large.var(axis=0) + eps / largest / largest)
    patches /= deviation


def is_offset(low: Any, high: Any, ratio: float = OFFSET_TO_RANGE) -> Any:
    """Return whether all pixels between two values are near each other and far from 0."""
    # For infinite or very large pixels, the difference overflows, and there is no offset.
    return namespace(low).maximum(low, -high) / ratio > high - low


def may_have_offset(windows: BlockWindows, pixels: np.ndarray) -> bool:
    """Return whether all pixels of some image of a block have a large offset."""
    pixels = windows.as_images(pixels)[:, windows.rows.inside, windows.columns.inside]
    if not pixels.size:
        return False
    # Most images have none, which the corners show, or else a row of pixels.
    last_row, last_column = (max(1, length - 1) for length in pixels.shape[1:3])
    for part in (pixels[:, ::last_row, ::last_column, :1], pixels[:, :1], pixels):
        # NaN is in its own windows only; if there is nothing else, more pixels are looked at.
        low, high = (f.reduce(part, axis=(1, 2, 3)) for f in (np.fmin, np.fmax))
        # The range of a window is smaller than that of its image.
        if not (is_offset(low, high, OFFSET_TO_RANGE / 4) | np.isnan(low)).any():
            return False
    return True


def subtract_offsets(patches: np.ndarray, offsets: np.ndarray) -> None:
    """Subtract the large offset of each window, ``(d, positions)``, and write it, or 0 for others.

    In float32, small differences between pixels would be lost by rounding if the offset were not
    subtracted. All pixels of a window must be near the offset, because subtracting it from a pixel
    far below would lose this pixel.
    """
    low, high = patches.min(axis=0), patches.max(axis=0)
    offsets[...] = np.where(is_offset(low, high), low, 0)
    patches -= offsets


def strided_view(array: np.ndarray, shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """View a contiguous array with the given steps along each axis; a step of 1 is one number.

    NumPy checks that the view stays inside the array.

    Examples
    --------
    >>> import numpy as np
    >>> row = np.arange(7)
    >>> strided_view(row, (3, 3), (2, 1))  # windows of 3, 2 apart
    array([[0, 1, 2],
           [2, 3, 4],
           [4, 5, 6]])
    """
    # `as_strided` and `sliding_window_view` do the same, but take longer than the copy of a small
    # block.
    strides = [step * array.itemsize for step in steps]
    return np.ndarray(shape, array.dtype, array, strides=strides)
