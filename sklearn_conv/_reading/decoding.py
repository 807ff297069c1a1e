"""Decode an image: choose the library, and name the image in errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os.path import getsize
from typing import Any

import numpy as np

from sklearn_conv._reading.opened import (
    OpenedImage,
    Settings,
    UnsuitableImageError,
    import_reader,
    not_as_stored,
)

Described = tuple[tuple[int, int, int], np.dtype]
"""Shape and dtype of an image as it is read."""


def describe_image(item: Any, name: str, settings: Settings) -> Described:
    """Return shape and dtype of an image as it will be read, without decoding it.

    ``item`` is the path or the content of a file, an array, or an image of Pillow; ``name`` stands
    for it in errors.
    """
    with _named(item, name), ExitStack() as stack:
        image = _open(item, settings, stack)
        return (*(settings.size or image.shape[:2]), image.shape[2]), image.dtype


def read_image(item: Any, name: str, settings: Settings) -> np.ndarray:
    """Decode an image, (h, w, c)."""
    with _named(item, name), ExitStack() as stack:
        return _open(item, settings, stack).read()


def reason_of(error: Exception, name: str) -> str:
    """Return why an image of that name cannot be read."""
    return getattr(error, "strerror", None) or str(error).removeprefix(f"{name} cannot be read: ")


@contextmanager
def _named(item: Any, name: str) -> Iterator[None]:
    """Raise errors that name the image."""
    try:
        yield
    except UnsuitableImageError as error:
        raise ValueError(f"{name} cannot be read: {error}.") from error
    except ImportError:
        raise
    except MemoryError as error:
        error.add_note(f"This error was raised while {name} was read.")
        raise
    except OSError as error:
        if error.filename is not None:  # It is that of the system, which may follow links.
            raise OSError(error.errno, error.strerror, item) from error
        raise OSError(f"{name} cannot be read: {error}") from error
    except Exception as error:
        # Libraries raise errors of many types for damaged files.
        reason = f"{type(error).__name__}: {error}"
        raise OSError(f"{name} cannot be read: it is probably damaged; {reason}") from error


def _open(item: Any, settings: Settings, stack: ExitStack) -> OpenedImage:
    """Open an image with Pillow, or with another library if Pillow is not exact."""
    pillow = import_reader("pillow_images", "Pillow", "images")
    if isinstance(item, np.ndarray):
        return pillow.open_array(item, settings)
    if not isinstance(item, str | bytes):
        return pillow.open_image(item.copy(), settings)  # Decoding and turning change the image.
    image = pillow.open_file(item)
    is_tiff = pillow.is_tiff(image, item)
    if image is not None:
        stack.enter_context(image)
        if not pillow.go_to_page(image, settings.page):
            image = None
    if image is not None:
        lost, mode = pillow.what_is_lost(image), settings.mode
        if not lost and not (mode is None and pillow.declares_missing(image)):
            return pillow.open_image(image, settings)
        if mode is not None:
            raise not_as_stored(lost, mode)
    if is_tiff:
        tiff = import_reader("tiff_files", "tifffile", "images")
        return stack.enter_context(tiff.open_tiff(item, settings))
    if image is None:
        is_empty = not (item if isinstance(item, bytes) else getsize(item))
        raise OSError(
            "it is empty"
            if is_empty
            else "it is not an image of a known format, or its header is damaged"
        )
    geo = import_reader("geo_files", "rasterio", "geo")
    return stack.enter_context(geo.open_raster(item, settings, pillow.find_orientation(image)))
