"""Copy the pixels under the windows of a block, so that a matrix product can read them.

There are three stages from the pixels to the windows:

1. *pixels*: the part of the padded images under the windows, cast to the dtype of the computation;
2. *runs*: for every row of pixels and every column of the map, the ``kw * c`` numbers under a row
   of weights, perhaps followed by a 1;
3. *patches*: whole windows. A window consists of ``kh`` consecutive runs, so the patches are a view
   of the runs (`view_patches`). They are copied (`copy_patches`) only if whole windows are needed.

The axes have one of two orders. By default, the images are the innermost axis. Each contiguous
piece of a copy then has one number of each image of the block, whatever the stride and the width of
the images, which is fast for small images. With ``by_image``, the images are the outermost axis,
because maps that are not pooled must be written image by image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sklearn_conv._engine.geometry import Reach
from sklearn_conv._engine.threads import Workspace

OFFSET_TO_RANGE = 16
"""Ratio of an offset to the range of the pixels above which the offset is subtracted."""


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

    def inside(self, staged: np.ndarray) -> np.ndarray:
        """View those of these pixels that come from the images, (b, rows, columns, c)."""
        return self.as_images(staged)[:, self.rows.inside, self.columns.inside]


def copy_pixels(windows: BlockWindows, workspace: Workspace) -> np.ndarray:
    """Copy the pixels under the windows.

    ``(b, h, w, c) -> (rows, c, columns, b)``; with ``by_image``,
    ``(b, h, w, c) -> (rows, c, b, columns)``
    """
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
    pixels: np.ndarray,
    windows: BlockWindows,
    n_ones: int,
    workspace: Workspace,
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
    variance = np.einsum("dp,dp->p", patches, patches) / len(patches) - np.square(mean)
    patches /= np.sqrt(np.maximum(variance, 0) + eps)


def is_offset(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return whether all pixels between two values are near each other and far from 0."""
    # For infinite or very large pixels, the difference overflows, and there is no offset.
    return np.maximum(low, -high) / OFFSET_TO_RANGE > high - low


def may_have_offset(windows: BlockWindows, pixels: np.ndarray) -> bool:
    """Return whether all pixels of some image of a block have a large offset."""
    pixels = windows.inside(pixels)
    if not pixels.size:
        return False
    # Most images have none, which the corners show, or else a row of pixels.
    last_row, last_column = (max(1, length - 1) for length in pixels.shape[1:3])
    for part in (pixels[:, ::last_row, ::last_column, :1], pixels[:, :1], pixels):
        low, high = part.min(axis=(1, 2, 3)), part.max(axis=(1, 2, 3))
        if not is_offset(low, high).any():
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
