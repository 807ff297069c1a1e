"""Read GeoTIFF files, and colors of 16 bits, with rasterio."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from sklearn_conv._reading.opened import (
    OpenedImage,
    Settings,
    import_reader,
    missing_dtype,
    missing_to_nan,
)

_opening = Lock()


@contextmanager
def open_raster(
    item: str | bytes, settings: Settings, orientation: int = 1
) -> Iterator[OpenedImage]:
    """Open a file, given by its path or its content, to read its bands as they are stored."""
    pillow = import_reader("pillow_images", "Pillow", "images")
    with ExitStack() as stack:
        source = stack.enter_context(MemoryFile(item)) if isinstance(item, bytes) else Path(item)
        dataset = stack.enter_context(_open(source))
        h, w = dataset.shape
        pillow.check_pixels((h, w))
        nodata = next((value for value in dataset.nodatavals if value is not None), None)
        dtype = np.result_type(*dataset.dtypes)

        def read() -> np.ndarray:
            array = pillow.turn_upright(dataset.read().transpose(1, 2, 0), orientation)
            return pillow.open_array(missing_to_nan(array, nodata), settings).read()

        shape = (w, h) if orientation in pillow.TURNED else (h, w)
        yield OpenedImage(
            shape=(*shape, dataset.count),
            dtype=dtype if nodata is None else missing_dtype(dtype),
            read=read,
        )


def _open(source: Any) -> Any:
    # Filters of warnings belong to the whole process, so one thread at a time changes them.
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return source.open() if isinstance(source, MemoryFile) else rasterio.open(source)
