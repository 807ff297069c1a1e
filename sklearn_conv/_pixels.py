"""Pixels in arrays of all libraries: NaN, infinity, masked values, and single pixels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from sklearn import get_config

from sklearn_conv._array_api import Library, kind_of, namespace, to_numpy

RULE = (
    "X must be a batch of images of one size: an array of finite real numbers of shape "
    "(n, h, w, c), (n, h, w) or, with one image in each row, (n, h*w*c)."
)

CHECK_BYTES = 4 * 2**20
"""Size of the blocks that are searched for NaN and infinity, whose mask is a copy."""

SHOWN_IMAGES = 5
"""Number of images that an error names."""

WIDEST = 8
"""Size in bytes of float64 and of the widest integers; longdouble is wider."""


def check_finite(values: Any, first: int = 0, ignores_missing: bool = False) -> bool:
    """Raise ValueError for infinity, and for NaN unless missing pixels are ignored.

    ``values`` are the images from ``X[first]`` on. Return whether there may be missing pixels. If
    ``assume_finite`` is set, nothing is checked. If the sum is finite, as in the usual case, the
    values are not searched, which needs a mask.
    """
    if kind_of(values) != "f":
        return False
    if get_config()["assume_finite"]:
        return ignores_missing
    xp = namespace(values)
    dtype = xp.float64 if values.dtype == xp.float64 else xp.float32  # Sums of float16 overflow.
    with np.errstate(all="ignore"):
        total = xp.sum(values, dtype=dtype)
    if bool(xp.isfinite(total)):
        return False
    bad = find_not_finite(values, ignores_missing)
    if len(bad):
        i = int(bad[0])
        has_nan = not ignores_missing and find_missing(values[i : i + 1, ...]).any()
        problem = "NaN" if has_nan else f"infinity or a value too large for {values.dtype}"
        raise not_finite(f"Input X contains {problem}", first + bad)
    return ignores_missing


def find_missing(images: Any) -> np.ndarray:
    """Return whether each image contains NaN, ``(n, ...) -> (n,)``."""
    return _find("isnan", images)


def find_not_finite(images: Any, ignores_missing: bool = False) -> np.ndarray:
    """Return the indices of the images that contain infinity, or NaN if it is not ignored."""
    is_bad = _find("isinf", images)
    return np.flatnonzero(is_bad if ignores_missing else is_bad | find_missing(images))


def _find(test: str, images: Any) -> np.ndarray:
    """Return whether a pixel of each image passes a test, ``(n, ...) -> (n,)``."""
    n, xp, axes = images.shape[0], namespace(images), tuple(range(1, images.ndim))
    found = np.zeros(n, bool)
    step = max(1, CHECK_BYTES // max(1, prod(images.shape[1:])))
    for start in range(0, n if kind_of(images) == "f" else 0, step):
        rows = slice(start, min(start + step, n))
        found[rows] = to_numpy(xp.any(getattr(xp, test)(images[rows, ...]), axis=axes))
    return found


def not_finite(problem: str, images: np.ndarray, name: str = "X") -> ValueError:
    """Return the error for NaN or infinity in the images with these indices."""
    shown = ", ".join(f"{name}[{i}]" for i in images[:SHOWN_IMAGES])
    number = "1 image" if len(images) == 1 else f"{len(images)} images"
    more = " and others" if len(images) > SHOWN_IMAGES else ""
    more_help = ""
    if "NaN" in problem:
        more_help = "; if NaN marks missing pixels, set missing='ignore', and add SimpleImputer() "
        more_help += "after this step, because features of cells without whole windows are NaN"
    return ValueError(
        f"{problem} in {number}: {shown}{more}. Fill such pixels first, for example with "
        f"numpy.nan_to_num, or drop their images{more_help}. {RULE}"
    )


def fill_masked(images: np.ma.MaskedArray) -> np.ndarray:
    """Return images with NaN at masked values, in a float dtype that holds all others exactly."""
    if not np.ma.is_masked(images):
        return np.asarray(images)
    dtype = np.promote_types(images.dtype, np.float32)
    return np.ma.filled(images.astype(dtype), np.nan)


def without_longdouble(images: np.ndarray) -> np.ndarray:
    """Cast longdouble to float64; overflow becomes infinity, which `check_finite` finds."""
    if images.dtype.itemsize <= WIDEST:
        return images
    with np.errstate(all="ignore"):
        return images.astype(np.float64)


def take_pixels(images: Any, image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return ``images[image, y, x]`` as an array of NumPy; only these pixels are copied."""
    if isinstance(images, np.ndarray):
        return images[image, y, x]
    _, h, w, c = images.shape
    library = Library.of(images)
    # The standard has indices for all axes or for one. Reshaping X could copy it.
    places = [place[..., np.newaxis] for place in (image, y % h, x % w)]
    return to_numpy(images[tuple(map(library.put, (*places, np.arange(c))))])
