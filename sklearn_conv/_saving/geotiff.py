"""Make GeoTIFF files, with rasterio."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning
from rasterio.io import MemoryFile


def make_geotiff(
    values: np.ndarray,
    nodata: float,
    names: Sequence[str],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    place: tuple[float, ...] | None,
    crs: Any,
) -> bytes:
    """Return the bytes of a GeoTIFF of ``values``, (rows, columns, bands)."""
    try:
        crs = None if crs is None else CRS.from_user_input(crs)
    except CRSError as error:
        raise ValueError(
            f"The reference system of the scene, {str(crs)[:100]!r}, is none that rasterio knows; "
            "correct it, or remove it from the scene."
        ) from error
    height, width, count = values.shape
    profile: dict[str, Any] = {
        "height": height,
        "width": width,
        "count": count,
        "dtype": values.dtype,
        "nodata": nodata,
        "compress": "deflate",
        "crs": crs,
    }
    if place is not None:
        profile["transform"] = rasterio.Affine(*place)
    with warnings.catch_warnings(), MemoryFile(ext=".tif") as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(driver="COG", **profile) as dataset:
            dataset.write(values.transpose(2, 0, 1))
            for i, name in enumerate(names, 1):
                dataset.set_band_description(i, name)
            if classes:
                tags = {f"class_{i}": name for i, name in enumerate(classes, 1)}
                dataset.update_tags(1, **tags)
                dataset.write_colormap(1, dict(enumerate(map(tuple, palette))))
        return bytes(memory.read())
