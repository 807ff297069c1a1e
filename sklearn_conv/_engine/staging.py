"""Copy what the windows of a block see: the pixels, then their runs along the rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sklearn_conv._engine.threads import Workspace
from sklearn_conv._engine.windows import Geometry, strided_view

Span = tuple[int, int]
"""(start, stop) of rows or columns."""


class Reach(NamedTuple):
    """The pixels that some windows see along an axis of the padded images."""

    n_pixels: int
    to: slice
    """the pixels that are in the image, and ..."""
    source: slice | np.ndarray
    """... where these come from"""
    outside: np.ndarray | None
    """which pixels are constant zeros, if any"""
    stride: int
    dilation: int

    def n_windows(self, size: int) -> int:
        """Count the windows of that many pixels."""
        return (self.n_pixels - self.dilation * (size - 1) - 1) // self.stride + 1


def find_reach(geometry: Geometry, axis: int, span: Span) -> Reach:
    """Find the pixels that the windows from start to stop see, and how they lie on these.

    Where windows leave out more pixels than they share, each gets its own.
    """
    size, stride = geometry.kernel_size[axis], geometry.stride[axis]
    dilation = geometry.dilation[axis]
    places = np.arange(*span) * stride
    n_pixels = places[-1] - places[0] + dilation * (size - 1) + 1
    if n_pixels <= len(places) * size:
        places = places[0] + np.arange(n_pixels)
    else:
        places = (places[:, np.newaxis] + np.arange(size) * dilation).ravel()
        stride, dilation = size, 1
    index = (geometry.rows, geometry.columns)[axis][places]
    inside = np.flatnonzero(index >= 0)
    outside = index < 0 if len(inside) < len(index) else None
    if not len(inside):
        return Reach(len(index), slice(0), slice(0), outside, stride, dilation)
    to = slice(inside[0], inside[-1] + 1)
    source = np.maximum(index[to], 0)
    consecutive = (np.diff(source) == 1).all()
    taken = slice(source[0], source[-1] + 1) if consecutive else source  # a slice copies nothing
    return Reach(len(index), to, taken, outside, stride, dilation)


def gather_runs(
    images: np.ndarray,
    center: np.ndarray | None,
    kw: int,
    rows: Reach,
    columns: Reach,
    dtype: np.dtype,
    constant: bool,
    by_image: bool,
    workspace: Workspace,
) -> np.ndarray:
    """Copy the windows along the rows of what some windows see, and append constants to each.

    ``(b, h, w, c) -> (rows, kw * c + constants, output columns, b)``, ``by_image``
    ``(rows, kw * c + constants, b, output columns)``

    The constants are a 1, if there is a ``constant``, or, where a ``center`` is taken from the
    images, a 1 and that center.
    """
    pixels = _stage(images, center, rows, columns, dtype, by_image, workspace)
    n_rows, c, n_lines, line = pixels.shape
    ow, b, plane = columns.n_windows(kw), len(images), n_lines * line
    # From one pixel to the next along kw, and along the last two axes.
    if by_image:
        shape, steps = (b, ow), (columns.dilation, line, columns.stride)
    else:
        shape, steps = (ow, b), (columns.dilation * b, columns.stride * b, 1)
    n_constants = int(constant) if center is None else 2
    runs = workspace.empty("runs", (n_rows, kw * c + n_constants, *shape), dtype)
    windows = strided_view(
        pixels, (n_rows, kw, c, *shape), (c * plane, steps[0], plane, steps[1], steps[2])
    )
    np.copyto(runs[:, : kw * c].reshape(windows.shape), windows)
    runs[:, kw * c : kw * c + 1] = 1
    if center is not None:
        runs[:, kw * c + 1] = center[:, np.newaxis] if by_image else center
    return runs


def view_patches(runs: np.ndarray, kh: int, rows: Reach) -> np.ndarray:
    """View the patches as one matrix for each row of the map.

    ``(rows, line, columns, b) -> (output rows, kh * line, columns * b)``

    Rows of weights lie one after the other, so that this is a view, where dilation is 1.
    """
    _, line, nx, ny = runs.shape
    row, n_inner = line * nx * ny, nx * ny
    shape = (rows.n_windows(kh), kh, line, n_inner)
    patches = strided_view(runs, shape, (rows.stride * row, rows.dilation * row, n_inner, 1))
    return patches.reshape(shape[0], kh * line, n_inner)


def copy_patches(
    runs: np.ndarray, kh: int, rows: Reach, by_image: bool, n_more: int, workspace: Workspace
) -> np.ndarray:
    """Copy the patches into one matrix, with so many more rows for the caller to fill.

    ``(rows, line, columns, b) -> (kh * line + n_more, output rows * columns * b)``, ``by_image``
    ``(rows, line, b, columns) -> (kh * line + n_more, b * output rows * columns)``
    """
    _, line, nx, ny = runs.shape
    oh, row = rows.n_windows(kh), line * nx * ny
    patches = workspace.empty("patches", (kh * line + n_more, oh * nx * ny), runs.dtype)
    shape, steps = (oh, nx, ny), (rows.stride * row, ny, 1)
    if by_image:
        shape, steps = (nx, oh, ny), (ny, rows.stride * row, 1)
    source = strided_view(runs, (kh, line, *shape), (rows.dilation * row, nx * ny, *steps))
    np.copyto(patches[: kh * line].reshape(source.shape), source)
    return patches


def _stage(
    images: np.ndarray,
    center: np.ndarray | None,
    rows: Reach,
    columns: Reach,
    dtype: np.dtype,
    by_image: bool,
    workspace: Workspace,
) -> np.ndarray:
    """Copy the pixels at some rows and columns of the padded images, less their center.

    ``(b, h, w, c) -> (rows, c, columns, b)``, ``by_image`` ``(rows, c, b, columns)``

    With the images innermost, windows are copied in runs of ``b`` numbers whatever the stride and
    the width.
    """
    b, _, _, c = images.shape
    inner = (b, columns.n_pixels) if by_image else (columns.n_pixels, b)
    staged = workspace.empty("pixels", (rows.n_pixels, c, *inner), dtype)
    pixels = staged.transpose((2, 0, 3, 1) if by_image else (3, 0, 2, 1))  # as the images
    if isinstance(rows.source, slice):
        source = images[:, rows.source][:, :, columns.source]
    elif isinstance(columns.source, slice):
        source = images[:, :, columns.source][:, rows.source]
    else:
        source = images[:, rows.source[:, np.newaxis], columns.source]
    pixels[:, rows.to, columns.to] = source
    if rows.outside is not None:
        pixels[:, rows.outside] = 0
    if columns.outside is not None:
        pixels[:, :, columns.outside] = 0
    if center is not None:
        pixels -= center[:, np.newaxis, np.newaxis, np.newaxis]
    return staged


def find_center(images: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Find a large offset of images that are to be float32, ``(b, h, w, c) -> (b,)``.

    If it stayed, float32 would round the small differences on it away. An offset is large beside
    the range of a sample of the pixels.
    """
    if dtype != np.float32 or images.dtype.itemsize == 1:
        return None
    rows, columns = (-(-length // 8) for length in images.shape[1:3])
    sample = images[:, ::rows, ::columns].reshape(len(images), -1).astype(dtype, copy=False)
    low, high = sample.min(axis=1), sample.max(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite, or almost: no offset
        large = np.maximum(low, -high) / 16 > high - low
    return np.where(large, low, np.float32(0)) if large.any() else None
