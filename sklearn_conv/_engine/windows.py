"""Where the windows of a convolution lie, and views of them. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


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


def strided_view(array: np.ndarray, shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """View a contiguous array, with so many numbers from one to the next along each axis.

    NumPy checks that it stays inside the array. `as_strided` and `sliding_window_view`, which do
    the same, take longer than to copy a small block.

    Examples
    --------
    >>> import numpy as np
    >>> row = np.arange(7)
    >>> strided_view(row, (3, 3), (2, 1))  # windows of 3, 2 apart
    array([[0, 1, 2],
           [2, 3, 4],
           [4, 5, 6]])
    """
    strides = [step * array.itemsize for step in steps]
    return np.ndarray(shape, array.dtype, array, strides=strides)
