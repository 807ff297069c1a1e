"""Read GeoTIFF files, and colors of 16 bits, with rasterio."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from sklearn_conv._reading.formats import OpenedImage, Settings, UnsuitableImageError, open_bands

AVERAGE = Resampling.average

_opening = Lock()


def open_raster(
    item: str | bytes, settings: Settings, stack: ExitStack, orientation: int = 1
) -> OpenedImage:
    """Open a file, given by its path or its content, to read its bands as they are stored."""
    source = stack.enter_context(MemoryFile(item)) if isinstance(item, bytes) else Path(item)
    # Filters of warnings belong to the whole process, so one thread at a time changes them.
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        opened = rasterio.open(source) if isinstance(source, Path) else source.open()
    dataset = stack.enter_context(opened)
    if any("complex" in name for name in dataset.dtypes):
        raise UnsuitableImageError(
            f"it has bands of dtype {dataset.dtypes[0]}; make bands of the real and imaginary parts"
        )
    palette = None
    if dataset.colorinterp == (ColorInterp.palette,):
        palette = np.array([*dataset.colormap(1).values()], np.uint8)[:, :3]
    return open_bands(
        lambda: dataset.read().transpose(1, 2, 0),
        (*dataset.shape, dataset.count),
        np.result_type(*dataset.dtypes),
        settings,
        next((value for value in dataset.nodatavals if value is not None), None)
        if settings.mode is None
        else None,
        orientation,
        palette,
    )
