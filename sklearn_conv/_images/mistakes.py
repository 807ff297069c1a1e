"""Warn of images that are probably not what the user meant.

docs/guide/mistakes.md describes the rules. They look at the shape of X, at a sample of a few
thousand pixels, and at a few pixels of each image. They do not read images that are not read
anyway, so images that are stored elsewhere are judged by the training patches in ``fit``, and by
each batch in ``transform``. Every warning is a UserWarning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._array_api import namespace
from sklearn_conv._images.checks import ImageShape
from sklearn_conv._pixels import (
    MIN_PLACES,
    find_infinite,
    find_missing,
    find_not_finite,
    measure_blank,
    sample_images,
    sample_pixels,
)
from sklearn_conv._warnings import warn

FILL_VALUES = frozenset(
    sign * value
    for value in (99, 999, 9999, 99999, 999999, 10_000)
    + (2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32)
    for sign in (1, -1)
)
"""Values that mark missing pixels by convention."""

FULL_SCALE = frozenset({-128, -1, 1, 10_000} | {2**bits - 1 for bits in range(8, 17)})
"""Values that black, white or saturated pixels have in the usual units. 10,000 is the reflectance 1
in satellite images."""

MIN_FILLED, MIN_FRACTION, MIN_FULL_SCALE_FRACTION, MIN_DISTINCT = 3, 0.0005, 0.01, 8

FAR, GROSS, GROSS_IF_DARK = 10, 10, 50

MIN_SIDE = 8
"""Images with fewer rows or columns are not judged by their shape."""

FEW_IMAGES = 3

MANY_IMAGES = 8
"""Number of images that are not all dark, or of one color, by chance."""

BLANK = 0.9
"""Fraction of equal pixels in images that are nearly constant."""

COLORS_IN_FIT, COLORS = 4096, 128
"""Largest numbers of images whose colors are compared: those in ``fit``, and of a batch."""

MIN_COLORS = 32
"""Number of images in ``fit`` whose colors show how different the colors of images may be."""

DARK = 0.1
"""Fraction of the mean color that is added before the logarithm, because black has none."""

NOISE = 0.02**2
"""Variance that is added to those of the logarithms, because gray images differ in no channel."""

MAX_CHANNELS = 4
"""Number of channels up to which each order is tried."""

FAR_COLORS = 2
"""Colors in another order have squared distances that are larger by this factor than in ``fit``,
and than in the right order."""

BEYOND = 0.15, 1.25
"""Minimum fraction of images whose squared distance exceeds all in ``fit`` by this factor."""

BRIGHTER = 0.2, 0.05
"""Minimum fraction of images that are brighter, or darker, than all in ``fit`` by 5 percent."""

MIN_FACTOR = 1.5
"""Factor by which images are brighter or darker than in ``fit``."""


LARGE = 3
"""Factor by which images are larger than those that a recipe is made for."""


class Values(NamedTuple):
    """What `sample_pixels` found, as numbers that can be stored on an estimator."""

    typical: float
    """Median of the absolute values that are not 0."""
    largest: float
    """Largest absolute value."""
    is_whole: bool
    """Whether all values are whole numbers."""
    has_blank: bool | None = None
    """Whether some images are constant, or nearly so; None if only windows are known."""
    colors: tuple | None = None
    """`Colors` as a tuple; None if there are too few images, or negative values."""


class Colors(NamedTuple):
    """The colors of images, which are the logarithms of the means of their channels."""

    level: float
    """Mean over all channels, before the logarithm."""
    center: tuple[float, ...]
    """Mean color, (c,)."""
    precision: tuple[tuple[float, ...], ...]
    """Inverse of the covariance matrix, (c, c); empty if orders of channels are not compared."""
    farthest: float
    """Largest squared Mahalanobis distance of an image."""
    darkest: float
    brightest: float


def warn_of_large_images(sizes: Iterable[tuple[int, int]], side: int) -> None:
    """Warn if all images are much larger than those that a recipe is made for."""
    h, w = min(sizes, key=min)
    if min(h, w) > LARGE * side:
        warn(
            f"The images have {h} x {w} pixels, but this recipe is made for about {side} x {side}: "
            "its kernels see only small details of larger images, and take more time. Make the "
            f"images smaller, for example with ImageReader(size=({side}, {side})), or pass another "
            "kernel_size, dilation or stride."
        )


def warn_of_mistakes(
    shape: tuple[int, int, int, int], images: Any, learns_from_all_windows: bool
) -> Values | None:
    """Warn of training images that are probably not what the user meant; return their values.

    ``shape`` is that of all images. ``images``, (n, h, w, c), are those that were read anyway:
    images or windows, or None.
    """
    is_large = shape[1] is None or min(shape[1:3]) >= MIN_SIDE
    if shape[0] <= FEW_IMAGES and learns_from_all_windows and is_large:
        warn(
            f"Kernels, whitening, normalization or biases are learned from few images: X contains "
            f"{int(shape[0])} of shape {shape[1:]}. Fit on more images, for example on all "
            "training images."
        )
    if images is None:
        return None
    pixels = sample_pixels(images)
    _warn_of_alpha(pixels)
    message, values = _split_fill(pixels)
    if message:
        warn(message)
    found = _describe_values(values)
    if found is None:
        return None
    if (pixels == pixels[0]).all():
        return found._replace(has_blank=True)
    if tuple(images.shape) == tuple(shape):  # and not windows
        blank = _measure_blank(images)
        found = found._replace(has_blank=bool((blank > BLANK).any()))
        if len(blank) >= MANY_IMAGES and (blank < 1).any():
            warn_of_constant(blank, range(len(blank)), "")
    if message:
        return found
    with np.errstate(all="ignore"):
        return found._replace(colors=_describe_colors(_mean_colors(images, COLORS_IN_FIT)))


def warn_of_layout(X_shape: tuple[int, ...], shape: ImageShape, is_fit: bool) -> None:
    """Warn if the axes of X do not seem to be those of images; ``shape`` is that of an image.

    Square images with more than four channels are so clear that ``transform`` warns as well.
    """
    h, w, c = shape
    is_square = w == c >= MIN_SIDE and 2 * h <= w
    looks_square = 1 < h <= 4 and max(w, c) <= 2 * min(w, c) and min(w, c) >= MIN_SIDE
    if len(X_shape) == 4 and ((is_square and h > 4) or (is_fit and (is_square or looks_square))):
        warn(
            f"X of shape {X_shape} is interpreted as images of {h} x {w} pixels with {c} channels. "
            f"If these are images of {w} x {c} pixels with {h} channel{'s' * (h > 1)}, pass "
            "X.transpose(0, 2, 3, 1), or of a list [image.transpose(1, 2, 0) for image in X], "
            "which moves the channels to the end."
        )
    if is_fit and len(X_shape) == 3 and w in (3, 4) and min(X_shape[:2]) >= MIN_SIDE:
        warn(
            f"X of shape {X_shape} is interpreted as {X_shape[0]} images of {h} x {w} pixels with "
            f"one channel. If X is a single color image, pass X[np.newaxis]; if its last axis "
            "contains the channels of signals, pass X[:, np.newaxis]."
        )


def _warn_of_alpha(pixels: np.ndarray) -> None:
    """Warn if the last channel of pixels, (n, c), seems to be an opaque alpha channel."""
    c = pixels.shape[1]
    if c not in (2, 4) or len(pixels) < MIN_PLACES:
        return
    varies = (pixels != pixels[0]).any(axis=0)
    value = pixels[0, -1]
    if varies[:-1].all() and not varies[-1] and value > 0:
        warn(
            f"The last of {c} channels of X is {value:g} in all images, like the alpha channel of "
            f"opaque images, and has no information. Remove it with X[..., :{c - 1}]."
        )


def warn_of_units(seen: Values, values: Values, n_images: int) -> bool:
    """Warn if values are much larger or smaller than those seen in ``fit``; return whether so.

    A few small values are not enough, because a few images may just be dark.
    """
    ratio = values.typical / seen.typical
    is_larger = ratio > GROSS and values.typical > seen.largest
    is_small = ratio < 1 / GROSS and values.largest < seen.largest / GROSS
    is_scaled = is_small and seen.is_whole and not values.is_whole
    is_dark = ratio < 1 / GROSS_IF_DARK and values.largest < seen.typical / 5
    if not (is_larger or is_scaled or (is_dark and n_images >= MANY_IMAGES)):
        return False
    smaller, larger = sorted((seen.typical, values.typical))
    warn(
        f"The values of X are typically about {values.typical:.2g}, but in fit they were about "
        f"{seen.typical:.2g}, which differs by a factor of {larger / smaller:.3g}. Use the same "
        "units in fit and transform; for example, divide by 255 in both or in neither."
    )
    return True


def warn_of_colors(seen: Colors, colors: np.ndarray) -> bool:
    """Warn if channels are in another order than in ``fit``, or images brighter or darker.

    ``colors`` are the means of the channels of each image, (n, c). Return whether there was a
    warning. Another class also has other colors, but images of all classes were in ``fit``, so some
    images must be beyond all that were seen there.
    """
    if len(colors) < MANY_IMAGES:
        return False
    logs = _log_colors(colors, seen.level)
    center = np.array(seen.center)
    distances = _square_distances(logs, center, seen.precision)
    n_far = np.count_nonzero(distances > BEYOND[1] * seen.farthest)
    # In fit, the mean of the distances is about the number of channels.
    is_far = distances.mean() > FAR_COLORS * len(center)
    if is_far and n_far >= max(2, BEYOND[0] * len(logs)):
        orders = [list(order) for order in permutations(range(len(center)))]
        means = [
            _square_distances(logs[:, order], center, seen.precision).mean() for order in orders
        ]
        best = int(np.argmin(means))
        if means[best] < means[0] / FAR_COLORS:
            warn(
                f"The channels of X seem to be in another order than in fit: their means are about "
                f"{_shown(logs.mean(axis=0), seen)}, but were {_shown(center, seen)} in fit. Use "
                "the same order in both, for example RGB; X[..., "
                f"{orders[best]}] has the order of fit."
            )
            return True
    shifts = logs.mean(axis=0) - center
    shift, brightness = shifts.mean(), logs.mean(axis=1)
    beyond = brightness - seen.brightest if shift > 0 else seen.darkest - brightness
    n_beyond = np.count_nonzero(beyond > BRIGHTER[1])
    is_same_color = np.ptp(shifts) <= abs(shift) / 3
    is_other = abs(shift) >= np.log(MIN_FACTOR) and is_same_color
    if not is_other or n_beyond < max(3, BRIGHTER[0] * len(logs)):
        return False
    word = "brighter" if shift > 0 else "darker"
    warn(
        f"The images of X are {word} than in fit: the means of their channels are about "
        f"{_shown(logs.mean(axis=0), seen)}, but were {_shown(center, seen)} in fit, and "
        f"about {n_beyond / len(logs):.0%} of the images are {word} than all in fit. Scale X as in "
        "fit, or fit on images of this brightness, too."
    )
    return True


def _shown(logs: np.ndarray, seen: Colors) -> str:
    """Return a mean color as numbers."""
    return ", ".join(f"{value:.3g}" for value in np.exp(logs) - DARK * seen.level)


def _square_distances(logs: np.ndarray, center: Any, precision: Any) -> np.ndarray:
    """Return the squared Mahalanobis distances of colors, (n, c) -> (n,)."""
    if not len(precision):
        return np.zeros(len(logs))
    differences = logs - center
    return np.einsum("ni,ij,nj->n", differences, precision, differences)


def _log_colors(colors: np.ndarray, level: float) -> np.ndarray:
    return np.log(np.maximum(colors, 0) + DARK * level)


def _mean_colors(images: Any, most: int) -> np.ndarray:
    """Return the means of the channels, (n, c), of images that are neither constant nor missing."""
    pixels = sample_images(images, most)
    colors = pixels.mean(axis=1, dtype=np.float64)
    return colors[np.isfinite(colors).all(axis=1) & (pixels != pixels[:, :1]).any(axis=(1, 2))]


def _describe_colors(colors: np.ndarray) -> tuple | None:
    """Return `Colors` of images as a tuple, so that a file of an estimator refers to no class."""
    level = float(colors.mean()) if len(colors) >= MIN_COLORS else 0.0
    if not 0 < level < np.inf or colors.min() < 0:
        return None
    logs = _log_colors(colors, level)
    center, brightness, c = logs.mean(axis=0), logs.mean(axis=1), colors.shape[1]
    precision: Any = np.zeros((0, 0))
    if 1 < c <= MAX_CHANNELS:
        precision = np.linalg.inv(np.cov(logs, rowvar=False) + NOISE * np.eye(c))
    return (
        level,
        tuple(center.tolist()),
        tuple(map(tuple, precision.tolist())),
        float(_square_distances(logs, center, precision).max()),
        float(brightness.min()),
        float(brightness.max()),
    )


def warn_of_constant(blank: np.ndarray, names: Sequence[int], unlike: str) -> bool:
    """Warn of images whose pixels are all equal; return whether there was a warning.

    ``blank`` is the fraction of equal pixels in the images with the numbers ``names``. If some are
    nearly constant, such images are usual: small parts of masks, for example.
    """
    found = [names[i] for i in np.flatnonzero(blank == 1).tolist()]
    if not found or ((blank > BLANK) & (blank < 1)).any():
        return False
    shown = ", ".join(f"X[{i}]" for i in found[:5]) + " and others" * (len(found) > 5)
    warn(
        f"X contains constant images, {len(found)} of {len(names)}{unlike}: {shown}. All pixels of "
        "each are equal, as in files that are black, empty or damaged. Check these images, and "
        "leave them out, because their features say nothing about a class."
    )
    return True


def _measure_blank(images: Any) -> np.ndarray:
    if min(images.shape[1:3]) < MIN_SIDE:
        return np.zeros(images.shape[0])
    return measure_blank(images)


def find_overflow(features: Any, images: Any, ignores_missing: bool) -> np.ndarray:
    """Return the indices of images with features that are not finite.

    If missing pixels are ignored, cells without windows are NaN, which is no overflow.
    """
    # If the sum is finite, as in the usual case, the features need not be searched.
    xp = namespace(features)
    if bool(xp.isfinite(xp.sum(features))):
        return np.array([], int)
    is_nan = find_missing(features)
    if ignores_missing:
        is_nan &= ~find_missing(images)
    return np.flatnonzero(is_nan | find_infinite(features))


def warn_of_overflow(
    dtype: Any, images: Any, numbers: Sequence[int], ignores_missing: bool
) -> None:
    """Warn that features of X[numbers], which are computed in a dtype, are not finite."""
    problem = "Some features are infinite or NaN, because X contains {}"
    error = find_not_finite(problem, images, numbers, ignores_missing)
    warn(
        str(error)
        if error
        else f"Some features are infinite or NaN: responses overflow in {dtype}. Divide the images "
        "by their standard deviation first, or cast X to float64."
    )


class TransformWatch:
    """Look at the batches of a call of ``transform``, and warn of each mistake once at most."""

    def __init__(self, seen: tuple | None) -> None:
        self._seen = None if seen is None else Values(*seen)
        self._has_warned_of_fill = False
        self._has_warned_of_units = False
        self._has_warned_of_constant = self._seen is not None and self._seen.has_blank
        self._has_warned_of_colors = False

    def look(self, images: Any, names: Sequence[int]) -> None:
        """Look at a batch, (b, h, w, c); ``names`` are the numbers of its images in X."""
        self.look_at_values(images)
        seen = self._seen
        if seen is None:
            return
        if not self._has_warned_of_constant:
            unlike = "" if seen.has_blank is None else ", but there were none in fit"
            self._has_warned_of_constant = warn_of_constant(_measure_blank(images), names, unlike)
        is_other = self._has_warned_of_fill or self._has_warned_of_units
        if seen.colors and not (is_other or self._has_warned_of_colors):
            with np.errstate(all="ignore"):
                colors = _mean_colors(images, COLORS)
                self._has_warned_of_colors = warn_of_colors(Colors(*seen.colors), colors)

    def look_at_values(self, images: Any) -> None:
        """Look for fill values and other units."""
        if self._has_warned_of_fill and self._has_warned_of_units:
            return
        message, values = _split_fill(sample_pixels(images))
        if message and not self._has_warned_of_fill:
            self._has_warned_of_fill = True
            warn(message)
        seen, largest = self._seen, max(-values.min(initial=0), values.max(initial=0))
        if seen is None or self._has_warned_of_units:
            return
        # The largest value, which is fast to find, excludes other units in most cases.
        if largest > seen.largest or largest < max(seen.largest / GROSS, seen.typical / 5):
            found = _describe_values(values)
            if found is not None:
                self._has_warned_of_units = warn_of_units(seen, found, images.shape[0])


def _describe_values(values: np.ndarray) -> Values | None:
    """Return what finite values are like, or None if all are 0."""
    sizes = np.abs(values)
    others = sizes[sizes > 0]
    if not len(others):
        return None
    return Values(
        typical=float(np.partition(others, len(others) // 2)[len(others) // 2]),
        largest=float(others.max()),
        is_whole=bool((values == np.rint(values)).all()),
    )


def _split_fill(pixels: np.ndarray) -> tuple[str, np.ndarray]:
    """Return a warning if pixels, (n, c), contain a fill value, and the other finite values."""
    with np.errstate(all="ignore"):
        values = pixels.astype(np.float64).ravel()
        is_finite = np.isfinite(values)
        if not is_finite.all():
            values = values[is_finite]
    for extreme in ("min", "max") if len(values) else ():
        fill = float(getattr(values, extreme)())
        if fill in {0} | FULL_SCALE - FILL_VALUES:
            continue
        is_fill = values == fill
        n_filled = int(np.count_nonzero(is_fill))
        fraction = MIN_FULL_SCALE_FRACTION if fill in FULL_SCALE else MIN_FRACTION
        if n_filled < max(MIN_FILLED, fraction * len(values)) or n_filled == len(values):
            continue
        others = values[~is_fill]
        if not _is_far(fill, others):
            continue
        message = (
            f"About {n_filled / len(values):.1%} of the values of X are {fill:.6g}, far from all "
            "others, like a fill value for missing pixels. Leave these pixels out with "
            f"missing='ignore' and numpy.where(X == X.{extreme}(), numpy.nan, X), replace them by "
            f"numpy.median(X[X != X.{extreme}()]), or drop these images."
        )
        return message, others
    return "", values


def _is_far(fill: float, others: np.ndarray) -> bool:
    """Return whether ``fill`` is a fill value, as far as its distance to the others shows.

    It is in `FILL_VALUES` and at least half its size away; values of `FULL_SCALE`, and all other
    values, need `MIN_DISTINCT` distinct others, because masks have few. Others are below a tenth of
    its size, or it is a negative whole number, and others are from 0 to two thirds of its size.
    """
    low, high = float(others.min()), float(others.max())
    distance = low - fill if fill < low else fill - high
    has_many = len(np.unique(others)) >= MIN_DISTINCT
    if fill in FILL_VALUES and distance >= abs(fill) / 2:
        return has_many or fill not in FULL_SCALE
    largest = max(-low, high)
    is_negative = fill < 0 <= low and fill.is_integer() and -fill > 1.5 * largest
    return has_many and (abs(fill) > FAR * largest or is_negative)
