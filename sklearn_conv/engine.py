"""Convolution of a batch in small blocks: the only place with a matrix product.

For a block of images and a rectangle of the map: stage the pixels that its windows see (one copy:
cast, padding, layout), gather the windows, multiply them with the kernels, activate in place, then
pool or write. The working set does not grow with the number or the size of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits

from sklearn_conv.activation import Side
from sklearn_conv.pooling import Pooling, pool_cells
from sklearn_conv.windows import Geometry, strided_windows, window_span

BLOCK_BYTES = 4 * 2**20
"""About what the windows and the responses of one block take, in each thread."""

Span = tuple[int, int]
"""(start, stop) of rows or columns."""


class Layer(NamedTuple):
    """What is done at every window: ``sides(patch . kernels + offset, bias)``."""

    kernels: np.ndarray
    """(kh, kw, c, k), in the dtype that is computed in, as are offset and bias"""
    offset: np.ndarray
    bias: np.ndarray
    sides: Mapping[str, Side]
    geometry: Geometry

    @property
    def position_bytes(self) -> int:
        """What one window takes: its pixels, its responses and a second side of them."""
        kh, kw, c, k = self.kernels.shape
        pixels = max(kh * kw, self.geometry.stride[0] * self.geometry.stride[1]) * c
        return (pixels + k * min(len(self.sides), 2)) * self.kernels.itemsize


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
    images: np.ndarray, layer: Layer, out: np.ndarray, n_jobs: int | None = None, verbose: int = 0
) -> None:
    """Write the activated responses at every window.

    ``(n, h, w, c) -> (n, oh, ow, sides, k)``
    """
    rows, columns = layer.geometry.output_shape

    def write(block: slice, rectangles: Iterable[tuple[Span, Span]]) -> None:
        for rectangle in rectangles:
            responses = _responses(images[block], layer, *rectangle)
            maps = out[block, slice(*rectangle[0]), slice(*rectangle[1])]
            for side, activated in _activate(responses, layer):
                maps[:, :, :, side] = activated.transpose(2, 0, 1, 3)  # (b, rows, columns, k)

    block, *rectangle = _block_shape(len(images), rows, columns, layer.position_bytes)
    rectangles = [*product(_spans((0, rows), rectangle[0]), _spans((0, columns), rectangle[1]))]
    _run(write, len(images), block, rectangles, n_jobs, verbose)


def compute_cells(
    images: np.ndarray,
    layer: Layer,
    poolings: Sequence[Pooling],
    pool_grid: tuple[int, int],
    out: np.ndarray,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> None:
    """Write the activated responses, pooled over each cell of the grid.

    ``(n, h, w, c) -> (n, grid rows, grid columns, poolings, sides, k)``
    """
    cells = [
        pool_cells(length, n_cells)
        for length, n_cells in zip(layer.geometry.output_shape, pool_grid, strict=True)
    ]
    rows, columns = (max(stop - start for start, stop in spans) for spans in cells)
    block, *rectangle = _block_shape(len(images), rows, columns, layer.position_bytes)

    def pool(block: slice, places: Iterable[tuple[tuple[int, Span], tuple[int, Span]]]) -> None:
        for (i, rows), (j, columns) in places:
            _pool_cell(images[block], layer, poolings, rows, columns, rectangle, out[block, i, j])

    places = [*product(enumerate(cells[0]), enumerate(cells[1]))]
    _run(pool, len(images), block, places, n_jobs, verbose)


def _pool_cell(
    images: np.ndarray,
    layer: Layer,
    poolings: Sequence[Pooling],
    rows: Span,
    columns: Span,
    rectangle: Sequence[int],
    out: np.ndarray,
) -> None:
    """Write one cell, ``(b, poolings, sides, k)``, part by part where it is too large for one."""
    parts = product(_spans(rows, rectangle[0]), _spans(columns, rectangle[1]))
    for i, part in enumerate(parts):
        for side, activated in _activate(_responses(images, layer, *part), layer):
            positions = activated.reshape(-1, *activated.shape[2:])  # (positions, b, k)
            for p, pooling in enumerate(poolings):
                joined = pooling.join.reduce(positions, axis=0)
                out[:, p, side] = pooling.join(out[:, p, side], joined) if i else joined
    n_positions = (rows[1] - rows[0]) * (columns[1] - columns[0])
    for p, pooling in enumerate(poolings):
        out[:, p] = pooling.finish(out[:, p], n_positions)


def _activate(responses: np.ndarray, layer: Layer) -> Iterator[tuple[int, np.ndarray]]:
    """Yield every side of the activation; the last one overwrites the responses."""
    *others, last = layer.sides.values()
    for side, activate in enumerate(others):
        yield side, activate(responses, layer.bias, np.empty_like(responses))
    yield len(others), last(responses, layer.bias, responses)


def _responses(images: np.ndarray, layer: Layer, rows: Span, columns: Span) -> np.ndarray:
    """Compute the responses at a rectangle of the map.

    ``(b, h, w, c) -> (rows, columns, b, k)``
    """
    geometry = layer.geometry
    reach = [
        slice(start * stride, (stop - 1) * stride + span)
        for (start, stop), stride, span in zip(
            (rows, columns),
            geometry.stride,
            window_span(geometry.kernel_size, geometry.dilation),
            strict=True,
        )
    ]
    pixels = _stage(
        images, geometry.rows[reach[0]], geometry.columns[reach[1]], layer.kernels.dtype
    )
    windows = strided_windows(pixels, geometry.kernel_size, geometry.stride, geometry.dilation)
    patches = np.ascontiguousarray(windows.transpose(3, 4, 5, 1, 2, 0))  # (kh, kw, c, oh, ow, b)
    kernels = layer.kernels.reshape(-1, layer.kernels.shape[3])
    # Copying patches as (weights, positions) moves long runs; as (positions, weights), short ones.
    responses = patches.reshape(len(kernels), -1).T @ kernels
    if layer.offset.any():
        responses += layer.offset
    return responses.reshape(*patches.shape[3:], -1)


def _stage(
    images: np.ndarray, rows: np.ndarray, columns: np.ndarray, dtype: np.dtype
) -> np.ndarray:
    """Copy the pixels at some rows and columns of the padded images, ``(b, rows, columns, c)``.

    In memory the images are innermost: whatever the stride and the width, windows are then copied
    in runs of ``b`` numbers.
    """
    b, _, _, c = images.shape
    pixels = np.empty((c, len(rows), len(columns), b), dtype).transpose(3, 1, 2, 0)
    inside = [np.flatnonzero(index >= 0) for index in (rows, columns)]
    if len(inside[0]) < len(rows) or len(inside[1]) < len(columns):
        pixels[...] = 0
    if len(inside[0]) and len(inside[1]):
        to = [slice(places[0], places[-1] + 1) for places in inside]
        source = images[:, _as_slice(rows[to[0]])][:, :, _as_slice(columns[to[1]])]
        pixels[:, to[0], to[1]] = source
    return pixels


def _as_slice(index: np.ndarray) -> slice | np.ndarray:
    """Turn consecutive indices into a slice, which takes them without a copy."""
    consecutive = len(index) == index[-1] - index[0] + 1 and bool((np.diff(index) == 1).all())
    return slice(index[0], index[-1] + 1) if consecutive else index


def _block_shape(n: int, rows: int, columns: int, position_bytes: int) -> tuple[int, int, int]:
    """How many images, rows and columns of the map fill a block: columns first, images last."""
    positions = max(1, BLOCK_BYTES // position_bytes)
    columns = min(columns, positions)
    rows = min(rows, max(1, positions // columns))
    return min(n, max(1, positions // (rows * columns))), rows, columns


def _spans(whole: Span, length: int) -> list[Span]:
    start, stop = whole
    return [(i, min(i + length, stop)) for i in range(start, stop, max(length, 1))]


def _run(
    function: Callable[[slice, Iterable[Any]], None],
    n_images: int,
    block: int,
    places: list[Any],
    n_jobs: int | None,
    verbose: int,
) -> None:
    """Call the function on every block of images and all places, shared between threads."""
    workers = effective_n_jobs(n_jobs)
    blocks = [slice(*span) for span in _spans((0, n_images), block)]
    # With few blocks a single large image, even, is shared: each place is a task of its own.
    shared = workers > 1 and len(blocks) < 4 * workers
    groups = [[place] for place in places] if shared else [places]
    tasks = (delayed(function)(*task) for task in product(blocks, groups))
    if workers == 1:
        Parallel(n_jobs=1, require="sharedmem", verbose=verbose)(tasks)
    else:
        with _one_blas_thread:
            Parallel(n_jobs=workers, require="sharedmem", verbose=verbose)(tasks)


class _OneBlasThread:
    """BLAS at one thread while anyone is inside, then as the first one found it.

    Limits that several threads open and close on their own restore each other's limits, and BLAS
    stays at one thread for good; so there is one limit, and a count of those inside.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._n_inside = 0
        self._limits: threadpool_limits | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._limits = threadpool_limits(1, user_api="blas")
            self._n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0 and self._limits is not None:
                self._limits.restore_original_limits()


_one_blas_thread = _OneBlasThread()
