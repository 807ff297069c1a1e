"""What the readers have in common: settings, opened images, and errors of unsuitable images."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

MODES = {"RGB": 3, "L": 1, "RGBA": 4}
"""Number of channels of each mode, of 8 bits each."""

NODATA = 42113
"""Number of GDAL's tag in TIFF files; it contains the number that marks missing pixels, as text."""


class Settings(NamedTuple):
    """How images are read, as checked by `sizes.check_settings`."""

    size: tuple[int, int] | None
    """(height, width), or None for images that keep their sizes."""
    is_any: bool
    """Whether images that keep their sizes may be unequal."""
    mode: str | None
    fit: str
    page: int


class OpenedImage(NamedTuple):
    """An image whose header was read."""

    shape: tuple[int, int, int]
    """(h, w, c) of the upright image before it is scaled."""
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    """Decode and scale the image, (h, w, c)."""


class UnsuitableImageError(ValueError):
    """The error for an image that can be read, but not with these settings."""


def import_reader(module: str, library: str, extra: str) -> Any:
    """Import the module of this package that uses an optional library."""
    try:
        return import_module(f"sklearn_conv._reading.{module}")
    except ImportError as error:
        raise ImportError(
            f"Reading this image requires {library}, which is not installed; run "
            f'pip install "sklearn_conv[{extra}]".'
        ) from error


def not_as_stored(what: str, mode: str) -> UnsuitableImageError:
    """Return the error for an image that does not fit the 8 bits and the colors of a mode."""
    return UnsuitableImageError(
        f"it has {what}, which mode={mode!r} would change; set mode=None to read it as stored"
    )


def no_such_page(page: int, n_pages: int) -> UnsuitableImageError:
    """Return the error for a page that a file does not have."""
    pages = "1 page, page=0" if n_pages == 1 else f"{n_pages} pages, page=0 to {n_pages - 1}"
    return UnsuitableImageError(f"it does not have page={page}; it has {pages}")


def missing_dtype(dtype: np.dtype) -> np.dtype:
    """Return the float dtype that holds numbers of a dtype exactly, and NaN."""
    return np.promote_types(dtype, np.float32)


def missing_to_nan(array: np.ndarray, nodata: float | None) -> np.ndarray:
    """Replace the number that marks missing pixels by NaN, in floats; None changes nothing."""
    if nodata is None:
        return array
    with np.errstate(all="ignore"):  # The number may overflow in the dtype of the array.
        return np.where(array == nodata, np.nan, array.astype(missing_dtype(array.dtype)))
