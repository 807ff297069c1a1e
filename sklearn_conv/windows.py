"""Where the windows of a convolution lie: strided views and patches. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Geometry(NamedTuple):
    """How the windows of one convolution lie on an image; pairs are (rows, columns).

    ``rows`` and ``columns`` say which row or column of the image stands at each place of the padded
    image, -1 for a constant zero.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray

    @property
    def output_shape(self) -> tuple[int, int]:
        """Rows and columns of the map: how many windows fit below and beside each other."""
        span = window_span(self.kernel_size, self.dilation)
        return (
            (len(self.rows) - span[0]) // self.stride[0] + 1,
            (len(self.columns) - span[1]) // self.stride[1] + 1,
        )


def window_span(kernel_size: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the image between the first and the last weight of a kernel."""
    rows, columns = (d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True))
    return rows, columns


def strided_windows(
    images: np.ndarray,
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Show every window of every image, read-only and without a copy.

    ``(n, h, w, c) -> (n, oh, ow, kh, kw, c)``

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(12).reshape(1, 3, 4, 1)
    >>> windows = strided_windows(image, (2, 2), stride=(1, 2))
    >>> windows.shape
    (1, 2, 2, 2, 2, 1)
    >>> windows[0, 1, 1, :, :, 0]
    array([[ 6,  7],
           [10, 11]])
    >>> np.shares_memory(windows, image), windows.flags.writeable
    (True, False)
    """
    span = window_span(kernel_size, dilation)
    windows = sliding_window_view(images, span, axis=(1, 2))  # (n, h', w', c, span rows, columns)
    windows = windows[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return np.moveaxis(windows, 3, 5)


def sample_patches(
    images: np.ndarray,
    n_patches: int,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    rng: np.random.RandomState,
) -> np.ndarray:
    """Copy windows from random places inside random images, with replacement.

    ``(n, h, w, c) -> (n_patches, kh*kw*c)``
    """
    image, span = images.shape[1:3], window_span(kernel_size, dilation)
    if span[0] > image[0] or span[1] > image[1]:
        raise ValueError(
            f"kernel_size={kernel_size} with dilation={dilation} covers {span} pixels, and patches "
            f"of that size cannot be taken from images of {image}; use a smaller kernel."
        )
    windows = strided_windows(images, kernel_size, dilation=dilation)
    where = [rng.randint(length, size=n_patches, dtype=np.int64) for length in windows.shape[:3]]
    return windows[tuple(where)].reshape(n_patches, -1)
