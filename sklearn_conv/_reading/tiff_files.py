"""Read TIFF files with tifffile: 16 bits in color, floats, many bands, and missing pixels."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from io import BytesIO

import numpy as np
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from sklearn_conv._reading.formats import (
    NODATA,
    OpenedImage,
    Settings,
    UnsuitableImageError,
    import_reader,
    no_such_page,
    not_as_stored,
    open_bands,
)

ORIENTATION, COLORMAP = 274, 320
"""Numbers of tags."""

CHANNEL_AXES = {"YX": None, "YXS": 2, "SYX": 0}
"""Position of the channels among the axes of a page."""


def open_file(item: str | bytes, settings: Settings, stack: ExitStack) -> OpenedImage:
    """Open a TIFF file, given by its path or its content."""
    file = stack.enter_context(TiffFile(BytesIO(item) if isinstance(item, bytes) else item))
    mode = settings.mode
    if not len(file.pages):
        raise UnsuitableImageError("it is damaged: it has no pages")
    if settings.page >= len(file.pages):
        raise no_such_page(settings.page, len(file.pages))
    page = file.pages[settings.page]
    assert isinstance(page, TiffPage)
    c = page.samplesperpixel
    colors = page.tags.valueof(COLORMAP) if c == 1 else None
    is_raster = (mode is None or colors is not None) and settings.page == 0 and page.is_geotiff
    if is_raster and find_spec("rasterio") is not None:
        geo = import_reader("geo_files", "rasterio", "geo")
        return geo.open_raster(item, settings, stack)
    if page.axes not in CHANNEL_AXES or page.dtype is None or page.dtype.kind not in "buif":
        raise UnsuitableImageError(
            f"its page={settings.page} has axes {page.axes!r} and dtype {page.dtype}; pages must "
            "have rows, columns and channels of real numbers"
        )
    is_gray = c == 1 and page.photometric == PHOTOMETRIC.MINISBLACK
    is_color = is_gray or colors is not None or page.photometric == PHOTOMETRIC.RGB
    if mode is not None and (page.dtype != np.uint8 or not is_color):
        raise not_as_stored(f"{c} channels of dtype {page.dtype.newbyteorder('=')}", mode)
    return open_bands(
        lambda: _decode(page),
        (page.imagelength, page.imagewidth, c),
        page.dtype,
        settings,
        _find_nodata(page) if mode is None else None,
        page.tags.valueof(ORIENTATION, 1),
        None if colors is None else (np.reshape(colors, (3, -1)).T >> 8).astype(np.uint8),
    )


def _decode(page: TiffPage) -> np.ndarray:
    """Return the pixels of a page, (h, w, c)."""
    try:
        array = page.asarray(maxworkers=1)
    except (ImportError, NotImplementedError, ValueError) as error:
        if isinstance(error, NotImplementedError):
            what = f"its depth of {page.bitspersample} bits"
        else:
            what = f"its compression {COMPRESSION(page.compression).name}"
        if not isinstance(error, ValueError) or "imagecodecs" in str(error):
            raise UnsuitableImageError(
                f"{what} requires imagecodecs, which is not installed; run pip install imagecodecs"
            ) from error
        raise
    axis = CHANNEL_AXES[page.axes]
    return array[..., np.newaxis] if axis is None else np.moveaxis(array, axis, 2)


def _find_nodata(page: TiffPage) -> float | None:
    """Return the number that marks missing pixels, if there is one."""
    text = page.tags.valueof(NODATA)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise UnsuitableImageError(f"its tag GDAL_NODATA is {text!r}, not a number") from None
