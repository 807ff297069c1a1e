"""Read TIFF files with tifffile: 16 bits in color, floats, many bands, and missing pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO

import numpy as np
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from sklearn_conv._reading.opened import (
    MODES,
    NODATA,
    OpenedImage,
    Settings,
    UnsuitableImageError,
    import_reader,
    missing_dtype,
    missing_to_nan,
    no_such_page,
    not_as_stored,
)

ORIENTATION = 274
"""Number of the tag."""

CHANNEL_AXES = {"YX": None, "YXS": 2, "SYX": 0}
"""Position of the channels among the axes of a page."""


@contextmanager
def open_tiff(item: str | bytes, settings: Settings) -> Iterator[OpenedImage]:
    """Open a TIFF file, given by its path or its content."""
    with TiffFile(BytesIO(item) if isinstance(item, bytes) else item) as file:
        if not len(file.pages):
            raise UnsuitableImageError("it is damaged: it has no pages")
        if settings.page >= len(file.pages):
            raise no_such_page(settings.page, len(file.pages))
        page = file.pages[settings.page]
        assert isinstance(page, TiffPage)
        is_raster = settings.mode is None and settings.page == 0 and page.is_geotiff
        if is_raster and find_spec("rasterio") is not None:
            geo = import_reader("geo_files", "rasterio", "geo")
            with geo.open_raster(item, settings) as opened:
                yield opened
        else:
            yield _open_page(page, settings)


def _open_page(page: TiffPage, settings: Settings) -> OpenedImage:
    pillow = import_reader("pillow_images", "Pillow", "images")
    h, w = page.imagelength, page.imagewidth
    pillow.check_pixels((h, w))
    if page.axes not in CHANNEL_AXES or page.dtype is None or page.dtype.kind not in "buif":
        raise UnsuitableImageError(
            f"its page={settings.page} has axes {page.axes!r} and dtype {page.dtype}; pages must "
            "have rows, columns and channels of real numbers"
        )
    orientation = page.tags.valueof(ORIENTATION, 1)
    n_channels, mode, nodata = page.samplesperpixel, settings.mode, None
    stored = dtype = page.dtype.newbyteorder("=")
    if mode is None:
        nodata = _find_nodata(page)
        dtype = stored if nodata is None else missing_dtype(stored)
    else:
        is_gray = n_channels == 1 and page.photometric == PHOTOMETRIC.MINISBLACK
        if stored != np.uint8 or not (is_gray or page.photometric == PHOTOMETRIC.RGB):
            raise not_as_stored(f"{n_channels} channels of dtype {stored}", mode)
        n_channels = MODES[mode]

    def read() -> np.ndarray:
        array = pillow.turn_upright(_decode(page), orientation)
        array = missing_to_nan(array.astype(stored, copy=False), nodata)
        return pillow.open_array(array, settings).read()

    shape = (w, h) if orientation in pillow.TURNED else (h, w)
    return OpenedImage(shape=(*shape, n_channels), dtype=dtype, read=read)


def _decode(page: TiffPage) -> np.ndarray:
    """Return the pixels of a page, (h, w, c)."""
    try:
        array = page.asarray(maxworkers=1)
    except (ImportError, ValueError) as error:
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            compression = COMPRESSION(page.compression).name
            raise UnsuitableImageError(
                f"its compression {compression} requires imagecodecs, which is not installed; run "
                "pip install imagecodecs"
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
