"""Copy what the windows of a block see: the pixels, then their runs along the rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sklearn_conv.threads import Workspace
from sklearn_conv.windows import Geometry, strided_windows

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


def gather_patches(
    images: np.ndarray,
    kernel_size: tuple[int, int],
    rows: Reach,
    columns: Reach,
    dtype: np.dtype,
    constant: bool,
    workspace: Workspace,
) -> tuple[np.ndarray, bool]:
    """Lay out the patches at a rectangle of the map as matrices, one for each of its rows.

    ``(b, h, w, c) -> (rows, kh * (kw * c + constants), columns * b)``

    After the pixels, each row of a patch has a 1 if there is a ``constant``, or, where a large
    offset was taken from the images (the second result says so), a 1 and that offset.
    """
    kh, kw = kernel_size
    pixels = _stage(images, rows, columns, dtype, workspace)
    center = _center(pixels) if images.dtype.itemsize > 1 else None
    n_constants = int(constant) if center is None else 2
    along = strided_windows(pixels, (1, kw), (1, columns.stride), (1, columns.dilation))
    b, h, ow, _, _, c = along.shape
    runs = workspace.empty("runs", (h, kw * c + n_constants, ow, b), dtype)
    np.copyto(
        runs[:, : kw * c].reshape(h, kw, c, ow, b), along[:, :, :, 0].transpose(1, 3, 4, 2, 0)
    )
    runs[:, kw * c : kw * c + 1] = 1
    if center is not None:
        runs[:, kw * c + 1] = center
    # With the runs of a row of pixels as the channels of an image of one column, the windows of
    # whole kernels are a view, where dilation is 1.
    lines = runs.reshape(1, h, 1, -1)
    patches = strided_windows(lines, (kh, 1), (rows.stride, 1), (rows.dilation, 1))
    n_weights = kh * (kw * c + n_constants)
    return patches.reshape(patches.shape[1], n_weights, ow * b), center is not None


def _stage(
    images: np.ndarray, rows: Reach, columns: Reach, dtype: np.dtype, workspace: Workspace
) -> np.ndarray:
    """Copy the pixels at some rows and columns of the padded images, ``(b, rows, columns, c)``.

    In memory the images are innermost: whatever the stride and the width, windows are then copied
    in runs of ``b`` numbers.
    """
    b, _, _, c = images.shape
    pixels = workspace.empty("pixels", (rows.n_pixels, c, columns.n_pixels, b), dtype)
    pixels = pixels.transpose(3, 0, 2, 1)
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
    return pixels


def _center(pixels: np.ndarray) -> np.ndarray | None:
    """Take a large offset from images, in place, and return it, ``(b, h, w, c) -> (b,)``.

    Without it, float32 would round the small differences on it away. An offset is large beside the
    range of a sample of the pixels.
    """
    if pixels.dtype != np.float32:
        return None
    steps = [max(1, length // 8) for length in pixels.shape[1:3]]
    sample = pixels[:, :: steps[0], :: steps[1]]
    low, high = sample.min(axis=(1, 2, 3)), sample.max(axis=(1, 2, 3))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite, or almost: no offset
        large = np.maximum(low, -high) / 16 > high - low
    if not large.any():
        return None
    center = np.where(large, low, 0).astype(pixels.dtype)
    pixels -= center[:, np.newaxis, np.newaxis, np.newaxis]
    return center
