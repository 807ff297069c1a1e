"""Positions of the windows of a convolution. This module imports only NumPy.

Windows are separable: rows and columns follow the same rules. `Windows` describes the windows along
one axis, and `Geometry` holds one `Windows` for each axis. Along an axis, weight ``j`` of window
``i`` is applied to pixel ``i * stride + j * dilation`` of the padded image. A padded image is never
built: padding is an index array, with the pixel of the image at each place of the padded axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple, Self

import numpy as np

OUTSIDE = -1
"""Index of a padded row or column of zeros."""

PADDING_MODES: dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
    "constant": partial(np.pad, mode="constant", constant_values=OUTSIDE),
    "edge": partial(np.pad, mode="edge"),
    "reflect": partial(np.pad, mode="reflect"),
    "symmetric": partial(np.pad, mode="symmetric"),
    "wrap": partial(np.pad, mode="wrap"),
}
"""Map from the name of a padding mode to a function that pads the indices of an axis."""

Span = tuple[int, int]
"""(start, stop), the first window along an axis and the window after the last one."""

Rectangle = tuple[Span, Span]
"""Rows and columns of the map."""

Grid = tuple[tuple[Span, ...], tuple[Span, ...]]
"""Rows of the map in each row of a grid of cells, and columns of the map in each column."""


class WindowParameters(NamedTuple):
    """Checked ``stride``, ``padding``, ``padding_mode`` and ``dilation``, as (rows, columns)."""

    stride: tuple[int, int]
    padding: tuple[str | int, str | int]
    padding_mode: str
    dilation: tuple[int, int]


class Reach(NamedTuple):
    """Pixels under the windows of a span along an axis, in the order in which they are copied.

    In the copy, weight ``j`` of window ``i`` is applied to pixel ``i * stride + j * dilation``.
    """

    n_pixels: int
    n_windows: int
    size: int
    """Number of weights of a window."""
    stride: int
    dilation: int
    inside: slice
    """Pixels of the copy between the first and the last pixel that is inside the image."""
    source: slice | np.ndarray
    """Pixels of the image that are copied to ``inside``."""
    outside: np.ndarray | None
    """Mask of the pixels of the copy that are zeros; None if there are none."""
    pixels: np.ndarray
    """(n_pixels,): the pixel of the image for each pixel of the copy, or `OUTSIDE`."""

    def under(self, weight: int) -> slice:
        """Return the pixels of the copy under one weight of all windows."""
        start = weight * self.dilation
        return slice(start, start + (self.n_windows - 1) * self.stride + 1, self.stride)


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """The windows of a convolution along one axis of an image."""

    length: int
    """Number of pixels of the image."""
    size: int
    """Number of weights of the kernel."""
    stride: int
    dilation: int
    n_before: int
    """Number of padded pixels before the first pixel of the image."""
    index: np.ndarray
    """(padded length,): the pixel of the image at each place of the padded axis, or `OUTSIDE`."""

    @classmethod
    def place(
        cls,
        length: int,
        size: int,
        *,
        stride: int = 1,
        padding: str | int = "valid",
        padding_mode: str = "constant",
        dilation: int = 1,
    ) -> Self:
        """Place windows of ``size`` weights on ``length`` pixels.

        "same" adds as many pixels as ``ceil(length / stride)`` windows need. If their number is
        odd, the smaller half is before the image, as in TensorFlow, JAX and ONNX's SAME_UPPER.

        Examples
        --------
        >>> Windows.place(4, 3, padding=2, padding_mode="reflect").index
        array([2, 1, 0, 1, 2, 3, 2, 1])
        >>> Windows.place(4, 2, padding="same").index
        array([ 0,  1,  2,  3, -1])
        """
        if padding == "same":
            n_windows = -(-length // stride)
            total = max((n_windows - 1) * stride + dilation * (size - 1) + 1 - length, 0)
            amounts = total // 2, total - total // 2
        else:
            n_each = 0 if padding == "valid" else int(padding)
            amounts = n_each, n_each
        return cls(
            length=length,
            size=size,
            stride=stride,
            dilation=dilation,
            n_before=amounts[0],
            index=PADDING_MODES[padding_mode](np.arange(length), amounts),
        )

    @property
    def extent(self) -> int:
        """Number of pixels from the first to the last weight of a window."""
        return self.dilation * (self.size - 1) + 1

    @property
    def n_windows(self) -> int:
        """Number of windows that fit the padded axis; below 1 if none fits."""
        return (len(self.index) - self.extent) // self.stride + 1

    @property
    def pixels(self) -> np.ndarray:
        """Pixels of the image under all weights, or `OUTSIDE`, ``(n_windows, size)``."""
        return self.pixels_under(np.arange(self.n_windows))

    def pixels_under(self, windows: np.ndarray) -> np.ndarray:
        """Return the pixels of the image under some windows, or `OUTSIDE`, ``(n, size)``."""
        return self.index[windows[:, np.newaxis] * self.stride + self._places_in_window]

    @property
    def _places_in_window(self) -> np.ndarray:
        return np.arange(self.size) * self.dilation

    def center(self, window: float | np.ndarray) -> float | np.ndarray:
        """Return the center of a window in pixels of the image.

        ``window`` may be a fraction: 0.5 is halfway between windows 0 and 1.
        """
        return window * self.stride + (self.extent - 1) / 2 - self.n_before

    def for_training(self) -> Windows:
        """Return the windows from which training patches are drawn, with a stride of 1.

        If a window fits the image, all windows lie inside it. Otherwise the padding is kept.
        """
        if self.extent <= self.length:
            return replace(self, stride=1, n_before=0, index=np.arange(self.length))
        return replace(self, stride=1)

    def reach(self, windows: Span) -> Reach:
        """Return the pixels under the windows of a span.

        If the gaps between windows exceed their overlap, each window is copied separately, so that
        the size of the copy depends on the number of windows and not on their distance.
        """
        first, stop = windows[0] * self.stride, (windows[1] - 1) * self.stride + self.extent
        stride, dilation = self.stride, self.dilation
        if stop - first <= (windows[1] - windows[0]) * self.size:
            places = np.arange(first, stop)
        else:
            places, stride, dilation = self.places(windows).ravel(), self.size, 1
        index = self.index[places]
        in_image = np.flatnonzero(index >= 0)
        inside = slice(in_image[0], in_image[-1] + 1) if len(in_image) else slice(0)
        pixels = np.maximum(index[inside], 0)
        is_contiguous = len(pixels) > 0 and (np.diff(pixels) == 1).all()
        return Reach(
            n_pixels=len(index),
            n_windows=windows[1] - windows[0],
            size=self.size,
            stride=stride,
            dilation=dilation,
            inside=inside,
            # A slice is preferred, because indexing with a slice copies nothing.
            source=slice(pixels[0], pixels[-1] + 1) if is_contiguous else pixels,
            outside=index < 0 if len(in_image) < len(index) else None,
            pixels=index,
        )

    def count_pixels(self, n_windows: int) -> int:
        """Return the number of pixels that are copied for consecutive windows, see `reach`."""
        covered = (n_windows - 1) * self.stride + self.extent
        return min(covered, n_windows * self.size)

    def places(self, windows: Span | None = None) -> np.ndarray:
        """Return the places of the weights on the padded axis, ``(windows, size)``."""
        starts = np.arange(*(windows or (0, self.n_windows))) * self.stride
        return starts[:, np.newaxis] + self._places_in_window


class Geometry(NamedTuple):
    """The windows of a convolution along both axes of an image."""

    rows: Windows
    columns: Windows

    @property
    def output_shape(self) -> tuple[int, int]:
        """Number of rows and columns of a map."""
        return self.rows.n_windows, self.columns.n_windows


@lru_cache(maxsize=4)
def place_windows(
    image: tuple[int, int], kernel_size: tuple[int, int], parameters: WindowParameters
) -> Geometry:
    """Place windows, given the rows and columns of image and kernel; ValueError if none fits."""
    geometry = Geometry(
        *(
            Windows.place(
                image[axis],
                kernel_size[axis],
                stride=parameters.stride[axis],
                padding=parameters.padding[axis],
                padding_mode=parameters.padding_mode,
                dilation=parameters.dilation[axis],
            )
            for axis in (0, 1)
        )
    )
    if min(geometry.output_shape) < 1:
        smallest = " x ".join(
            str(length + max(0, windows.extent - len(windows.index)))
            for length, windows in zip(image, geometry, strict=True)
        )
        raise ValueError(
            f"kernel_size={kernel_size} with dilation={parameters.dilation} covers "
            f"{tuple(windows.extent for windows in geometry)} pixels and does not fit the padded "
            f"image {tuple(len(windows.index) for windows in geometry)}; use images of at least "
            f"{smallest} pixels, padding='same', or a smaller kernel_size or dilation. Images must "
            "have shape (n, h, w, c): if their channels come first, use "
            "images.transpose(0, 2, 3, 1)."
        )
    return geometry


def pool_cells(length: int, n_cells: int) -> tuple[Span, ...]:
    """Divide ``length`` windows into ``n_cells`` spans, which are never empty.

    If there are more cells than windows, the spans overlap.

    Examples
    --------
    >>> pool_cells(7, 3)
    ((0, 2), (2, 4), (4, 7))
    >>> pool_cells(2, 3)
    ((0, 1), (0, 1), (1, 2))
    """
    starts = [i * length // n_cells for i in range(n_cells)]
    stops = [(i + 1) * length // n_cells for i in range(n_cells)]
    return tuple((i, max(i + 1, stop)) for i, stop in zip(starts, stops, strict=True))


def cut_span(whole: Span, length: int) -> list[Span]:
    """Divide a span into spans of that length; the last one may be shorter.

    Examples
    --------
    >>> cut_span((2, 7), 2)
    [(2, 4), (4, 6), (6, 7)]
    """
    start, stop = whole
    return [(i, min(i + length, stop)) for i in range(start, stop, length)]


def cut_rectangle(rows: Span, columns: Span, n_windows: int) -> list[Rectangle]:
    """Divide a rectangle of the map into rectangles of at most ``n_windows`` windows.

    Examples
    --------
    >>> cut_rectangle((0, 5), (0, 3), 7)
    [((0, 2), (0, 3)), ((2, 4), (0, 3)), ((4, 5), (0, 3))]
    """
    n_columns = max(1, min(columns[1] - columns[0], n_windows))
    n_rows = max(1, n_windows // n_columns)
    return [*product(cut_span(rows, n_rows), cut_span(columns, n_columns))]
