"""Pixels in arrays of all libraries: NaN, infinity, masked values, and single pixels."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
from sklearn import get_config

from sklearn_conv._array_api import Library, kind_of, namespace, to_numpy

N_VALUES = 8192
"""Approximate number of values in a sample of pixels."""

MIN_PLACES = 64
"""Minimum number of pixels in a sample, whatever the number of channels."""

N_PIXELS = 16
"""Number of pixels of each image that are compared."""

MAX_OTHERS = 2
"""Number of these pixels that may differ in images that are nearly constant."""

MIN_IMAGES = 32
"""Number of images of which pixels are compared, however many channels they have."""

MAX_SAMPLED = 2**18
"""Number of images times channels of which pixels are compared, unless there are fewer images."""

PLACES = np.arange(N_VALUES) * np.power(1.2207440846057596, [[-1], [-2], [-3]]) % 1
"""Evenly spread points of the unit cube, (3, N_VALUES).

Source: M. Roberts, "The Unreasonable Effectiveness of Quasirandom Sequences" (2018).
"""

RULE = (
    "X must be a batch of images of one size: an array of finite real numbers of shape "
    "(n, h, w, c), (n, h, w) or, with one image in each row, (n, h*w*c)."
)

CHECK_BYTES = 4 * 2**20
"""Size of the blocks that are searched for NaN and infinity, whose mask is a copy."""

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
    numbers = range(first, first + values.shape[0])
    if error := find_not_finite("Input X contains {}", values, numbers, ignores_missing):
        raise error
    return ignores_missing


def find_missing(images: Any) -> np.ndarray:
    """Return whether each image contains NaN, ``(n, ...) -> (n,)``."""
    return _find("isnan", images)


def find_infinite(images: Any) -> np.ndarray:
    """Return whether each image contains infinity, ``(n, ...) -> (n,)``."""
    return _find("isinf", images)


def _find(test: str, images: Any) -> np.ndarray:
    """Return whether a pixel of each image passes a test, ``(n, ...) -> (n,)``."""
    n, height, *others = images.shape
    xp, axes = namespace(images), tuple(range(1, images.ndim))
    found = np.zeros(n, bool)
    if kind_of(images) != "f":
        return found
    n_images, n_rows = (
        max(1, CHECK_BYTES // max(1, prod(shape))) for shape in ((height, *others), others)
    )
    for start, top in product(range(0, n, n_images), range(0, height, n_rows)):
        block = slice(start, min(start + n_images, n))
        part = images[block, top : min(top + n_rows, height), ...]
        found[block] |= to_numpy(xp.any(getattr(xp, test)(part), axis=axes))
    return found


def find_not_finite(
    problem: str,
    images: Any,
    numbers: Any,
    ignores_missing: bool = False,
    name: str = "X",
) -> ValueError | None:
    """Return the error for images that contain infinity, or NaN if it is not ignored.

    ``numbers`` are those of the images in X. ``{}`` in ``problem`` stands for what was found.
    Return None if nothing was found.
    """
    is_bad = find_infinite(images)
    what = "infinity or a value that is too large"
    if not ignores_missing:
        has_nan = find_missing(images)
        what = "NaN" if has_nan.any() else what
        is_bad |= has_nan
    if not is_bad.any():
        return None
    bad = np.unique(np.asarray(numbers)[is_bad])
    shown = ", ".join(f"{name}[{i}]" for i in bad[:5])
    number = "1 image" if len(bad) == 1 else f"{len(bad)} images"
    more = " and others" if len(bad) > 5 else ""
    more_help = ""
    if what == "NaN":
        more_help = "; if NaN marks missing pixels, set missing='ignore', and add SimpleImputer() "
        more_help += "after this step, because features of cells without whole windows are NaN"
    return ValueError(
        f"{problem.format(what)} in {number}: {shown}{more}. Fill such pixels first, for example "
        f"with numpy.nan_to_num, or drop their images{more_help}. {RULE}"
    )


def fill_masked(images: np.ndarray) -> np.ndarray:
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


def sample_pixels(images: Any) -> np.ndarray:
    """Return a few thousand evenly spread pixels, ``(n, h, w, c) -> (pixels, c)``."""
    *axes, c = images.shape
    places = _spread_places(tuple(axes), max(MIN_PLACES, N_VALUES // c))
    return take_pixels(images, *places)


def sample_images(images: Any, most: int) -> np.ndarray:
    """Return 16 pixels of each image, (n, 16, c), or of ``most`` evenly spread images.

    The pixels of each image are in other places, and evenly spread in all images together.
    """
    n, h, w, c = images.shape
    most = min(most, max(MIN_IMAGES, MAX_SAMPLED // c))
    # Fractions of the golden ratio do not meet the same class each time where classes alternate.
    numbers = np.arange(n) if n <= most else np.arange(most) * 0.6180339887498949 % 1 * n
    y, x = (np.resize(each, (len(numbers), N_PIXELS)) for each in PLACES[1:])
    image = np.repeat(numbers.astype(np.intp)[:, np.newaxis], N_PIXELS, axis=1)
    return take_pixels(images, image, (y * h).astype(np.intp), (x * w).astype(np.intp))


def measure_blank(images: Any) -> np.ndarray:
    """Return which fraction of its values equals those of one pixel in each image, (n,).

    It is 0 if more than two of 16 pixels differ from the first.
    """
    n, h, w, _ = images.shape
    y, x = (PLACES[1:, 1 : N_PIXELS + 1] * [[h], [w]]).astype(np.intp)
    # Most images differ in the first pixels.
    places = zip(y[: MAX_OTHERS + 2].tolist(), x[: MAX_OTHERS + 2].tolist(), strict=True)
    first, *others = (to_numpy(images[:, i, j, :]) for i, j in places)
    numbers = np.flatnonzero(~np.all([(each != first).any(axis=1) for each in others], axis=0))
    first = first[numbers]
    if len(numbers):
        pixels = take_pixels(images, *np.broadcast_arrays(numbers[:, np.newaxis], y, x))
        n_others = (pixels != pixels[:, :1]).any(axis=2).sum(axis=1)
        numbers, first = numbers[n_others <= MAX_OTHERS], first[n_others <= MAX_OTHERS]
    blank = np.zeros(n)
    for i, pixel in zip(numbers.tolist(), first, strict=True):
        blank[i] = np.isfinite(pixel).all() * (to_numpy(images[i, ...]) == pixel).mean()
    return blank


@lru_cache(maxsize=8)
def _spread_places(axes: tuple[int, int, int], n_places: int) -> tuple[np.ndarray, ...]:
    """Return indices of evenly spread places, or of all, one array for each axis."""
    if prod(axes) <= n_places:
        return tuple(np.indices(axes).reshape(3, -1))
    return tuple((PLACES[:, :n_places] * np.reshape(axes, (3, 1))).astype(np.intp))
