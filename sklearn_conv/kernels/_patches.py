"""Training patches: windows of the training images, and their preprocessing.

In ``transform``, the windows are preprocessed in the same way. The whitening and the subtraction of
the mean of a window are folded into the kernels (`Preprocessing.fold`), so that the engine only
divides normalized windows by their standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from sklearn.utils.random import sample_without_replacement

from sklearn_conv._engine.geometry import Geometry
from sklearn_conv._engine.symmetry import View
from sklearn_conv._images.kinds import Images
from sklearn_conv._pixels import find_missing, find_not_finite, take_pixels
from sklearn_conv._validation import check_integer

CONTRAST = 0.01
"""Fraction of the mean variance of the training patches that is added to the variance of each
patch. A patch with a variance below this fraction counts as nearly constant."""

SHRINKAGE = 0.1
"""Fraction of the mean variance of all directions that ``whiten=True`` adds to the variance of each
direction."""

CHUNK = 10_000
"""Number of patches that are gathered, or multiplied in float64, at once. Quantiles are computed
from this number of patches."""

ROUNDING = 1e-6
"""Size of numbers that are 0 apart from rounding, relative to those that they result from."""

MAX_DRAWN = 20
"""Number of windows, relative to the number of patches, that are looked at if some windows have
missing pixels."""

SAFE_FACTOR = 1e6
"""Minimum ratio of ``eps`` to the smallest number, and of the largest number to ``eps``, in the
dtype of the patches."""


Place = Callable[[tuple[int, int]], Geometry]
"""Return the windows of images with these numbers of rows and columns."""


def sample_patches(
    images: Images,
    place: Place,
    n_patches: int,
    dtype: np.dtype,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Copy ``n_patches`` random windows, without replacement; all if there are fewer.

    ``(n, h, w, c) -> (n_patches, kh*kw*c)``

    The order is random. The windows lie inside the images. Only if the images are smaller than a
    kernel, windows that extend into the padding are drawn, as in ``transform``. Windows with
    missing pixels are replaced by others; there are fewer patches if too few windows are whole.
    """
    places = WindowPlaces(images, place)
    n_places = places.n
    n_patches = min(n_patches, n_places)
    drawn = rng.permutation(sample_without_replacement(n_places, n_patches, random_state=rng))
    patches, is_whole = places.copy_windows(drawn, dtype)
    if not is_whole.all():
        found = [patches[is_whole]]
        while len(drawn) < min(n_places, MAX_DRAWN * n_patches):
            if n_places <= MAX_DRAWN * n_patches:
                left = np.arange(n_places)
            else:
                left = sample_without_replacement(n_places, 2 * n_patches, random_state=rng)
            others = rng.permutation(np.setdiff1d(left, drawn))[:n_patches]
            drawn = np.concatenate([drawn, others])
            patches, is_whole = places.copy_windows(others, dtype)
            found.append(patches[is_whole])
            if sum(map(len, found)) >= n_patches:
                break
        patches = np.concatenate(found)[:n_patches]
        if not len(patches):
            raise ValueError(
                f"All of {len(drawn):,} windows of {images.name} contain missing pixels, so that "
                "nothing can be learned from them; pass images with fewer missing pixels, or use a "
                "smaller kernel_size."
            )
    return patches.reshape(len(patches), -1)


class WindowPlaces:
    """The windows of all images, numbered in C order."""

    def __init__(self, images: Images, place: Place) -> None:
        self._images = images
        # There may be as many sizes as images.
        self._find_axes = lru_cache(16)(lambda size: [each.for_training() for each in place(size)])

        @cache
        def count(size: tuple[int, int]) -> tuple[int, int]:
            rows, columns = self._find_axes(size)
            return rows.n_windows * columns.n_windows, columns.n_windows

        sizes = map(images.size_of, range(len(images) if images.has_sizes else 1))
        self._counts, self._columns = np.array([count(size) for size in sizes], np.int64).T
        self._ends = np.cumsum(self._counts)
        self.n = int(self._ends[-1]) if images.has_sizes else len(images) * int(self._counts[0])

    def copy_windows(self, places: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Copy the windows at ``places``, and tell which have no missing pixels.

        ``(n, h, w, c) -> (n_places, kh, kw, c), (n_places,)``
        """
        images = self._images
        kh, kw = (windows.size for windows in self._find_axes(images.size_of(0)))
        patches = np.empty((len(places), kh, kw, images.shape[3]), dtype)
        is_whole = np.ones(len(places), bool)
        by_image = np.argsort(places)  # In this order, each image is read once.
        places = places[by_image]
        if images.has_sizes:
            image = np.searchsorted(self._ends, places, side="right")
            inside = places - (self._ends - self._counts)[image]
            top, left = np.divmod(inside, self._columns[image])
        else:
            image, inside = np.divmod(places, self._counts[0])
            top, left = np.divmod(inside, self._columns[0])  # row and column of the window
        for batch in images.window_batches():
            chosen = slice(*np.searchsorted(image, [batch.start, batch.stop]))
            if chosen.start == chosen.stop:
                continue
            first, last = map(int, image[chosen][[0, -1]])
            rows, columns = self._find_axes(images.size_of(first))
            pixels = images.read(slice(first, last + 1), check=False)
            for start in range(chosen.start, chosen.stop, CHUNK):
                chunk = slice(start, min(start + CHUNK, chosen.stop))
                y = rows.pixels_under(top[chunk])[:, :, np.newaxis]  # (patches, kh, 1)
                x = columns.pixels_under(left[chunk])[:, np.newaxis]  # (patches, 1, kw)
                number = image[chunk, np.newaxis, np.newaxis] - first
                windows = take_pixels(pixels, number, y, x)
                windows[(y < 0) | (x < 0)] = 0
                problem = "The training patches of X contain {}"
                # With `assume_finite` as well, because nothing could be learned.
                if error := find_not_finite(
                    problem, windows, image[chunk], images.ignores_missing, images.name
                ):
                    raise error
                if images.may_have_missing:
                    is_whole[by_image[chunk]] = ~find_missing(windows)
                patches[by_image[chunk]] = windows
        return patches, is_whole


class Preprocessing(NamedTuple):
    """Normalization and whitening of patches before they are multiplied by kernels."""

    eps: float = 0.0
    """If above 0, patches are centered and divided by ``sqrt(variance + eps)``."""
    whitening: tuple[np.ndarray, np.ndarray] | None = None
    """Mean and matrix of the affine transformation ``(patches - mean) @ matrix``."""

    def apply(self, patches: np.ndarray) -> np.ndarray:
        """Normalize and whiten patches, ``(n, d) -> (n, d)``."""
        if self.eps:
            patches = patches - patches[:, :1]  # A constant patch becomes exactly 0.
            patches -= patches.mean(axis=1, keepdims=True)
            variance = np.einsum("nd,nd->n", patches, patches, dtype=np.float64) / patches.shape[1]
            patches /= np.sqrt(variance + self.eps)[:, np.newaxis]
        if self.whitening:
            mean, matrix = (array.astype(patches.dtype) for array in self.whitening)
            patches = (patches - mean) @ matrix
        return patches

    def fold(self, kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fold the whitening and centering of patches into kernels, ``(d, k) -> (d, k), (k,)``.

        Return the folded kernels, and the offset to add to their responses. Normalized patches must
        still be divided by their standard deviation. Raise ValueError if no kernel can respond to
        centered patches.
        """
        offset = np.zeros(kernels.shape[1])
        if self.whitening:
            mean, matrix = self.whitening
            kernels = matrix @ kernels
            offset -= mean @ kernels
        if self.eps:
            centered = kernels - kernels.mean(axis=0, dtype=np.float64)
            if np.abs(centered).max() <= ROUNDING * np.abs(kernels).max() > 0:
                remedy = "a larger kernel_size" if len(kernels) == 1 else "other kernels"
                raise ValueError(
                    "normalize_patches=True centers each window, so that the response of a kernel "
                    "whose weights are all equal is always 0, and so are all features of the "
                    f"images; use {remedy} or normalize_patches=False."
                )
            kernels = centered
        return kernels, offset


def learn_preprocessing(patches: np.ndarray, normalize: bool, whiten: float) -> Preprocessing:
    """Learn the normalization of patches, and their whitening if ``whiten`` is not 0.

    The whitening is ZCA: the principal directions of the patches are divided by
    ``sqrt(variance + whiten * mean variance)``. If there are fewer patches than weights, the
    patches do not vary in some directions, whose variance is then 0. The regularization keeps the
    factor of these directions finite.
    """
    preprocessing = Preprocessing()
    if normalize:
        eps, limits = _eps(_variances(patches)), np.finfo(patches.dtype)
        if not float(limits.tiny) * SAFE_FACTOR < eps < float(limits.max) / SAFE_FACTOR:
            raise ValueError(
                "normalize_patches=True needs variances that can be computed in "
                f"{patches.dtype}, but a hundredth of the mean variance of the windows of X is "
                f"{eps:.0e}; divide the images by their standard deviation first."
            )
        preprocessing = Preprocessing(eps)
    if not whiten:
        return preprocessing
    d = patches.shape[1]
    # A patch is subtracted, because squares of a large offset would hide those of differences.
    shift = preprocessing.apply(patches[:1])[0].astype(np.float64)
    total, products = np.zeros(d), np.zeros((d, d))
    for start in range(0, len(patches), CHUNK):
        chunk = preprocessing.apply(patches[start : start + CHUNK]).astype(np.float64) - shift
        total += chunk.sum(axis=0)
        products += chunk.T @ chunk
    if not np.isfinite(products).all():
        raise ValueError(
            "whiten needs the squares of the pixels, but some overflow in float64; divide the "
            "images by their standard deviation first."
        )
    mean = total / len(patches)
    variances, directions = np.linalg.eigh(products / len(patches) - np.outer(mean, mean))
    variances = np.maximum(variances, 0)
    variances += whiten * variances.mean() or 1.0  # 1 if all patches are equal
    matrix = (directions / np.sqrt(variances)) @ directions.T
    return preprocessing._replace(whitening=(mean + shift, matrix))


@dataclass(kw_only=True)
class TrainingPatches:
    """A sample of training patches, which is drawn when it is first used.

    Initializers call it as a function: ``patches(n)`` returns n patches, ``patches()`` all of them.
    """

    images: Images
    place: Place
    kernel_size: tuple[int, int]
    views: Sequence[View]
    n_patches: int
    normalize: bool
    whiten: float
    dtype: np.dtype
    rng: np.random.RandomState

    @cached_property
    def sample(self) -> np.ndarray:
        """The patches before preprocessing, ``(n_patches, d)``.

        They are windows of all views of the images, in turn: a window of a mirrored image is a
        mirrored window. Windows that are not square are not turned by 90 degrees.
        """
        images = self.images.sample(self.rng)
        patches = sample_patches(images, self.place, self.n_patches, self.dtype, self.rng)
        kh, kw = self.kernel_size
        windows = patches.reshape(len(patches), kh, kw, -1)
        axes = self.place(images.size_of(0))
        is_square = len({(axis.size, axis.extent) for axis in axes}) == 1
        views = [view for view in self.views if is_square or not view.is_transposed]
        for i, view in enumerate(views[1:], start=1):
            windows[i :: len(views)] = view.apply(windows[i :: len(views)].copy())
        return patches

    @property
    def windows(self) -> np.ndarray | None:
        """The patches as windows, ``(n_patches, kh, kw, c)``; None if nothing was learned."""
        if "sample" not in vars(self):
            return None
        return self.sample.reshape(-1, *self.kernel_size, self.images.shape[3])

    @property
    def are_all(self) -> bool:
        """Whether the sample consists of all windows of the images."""
        return "sample" in vars(self) and len(self.sample) < self.n_patches

    @cached_property
    def preprocessing(self) -> Preprocessing:
        if self.normalize or self.whiten:
            return learn_preprocessing(self.sample, self.normalize, self.whiten)
        return Preprocessing()

    @cached_property
    def varied(self) -> np.ndarray:
        """The preprocessed patches; nearly constant patches are left out unless all are."""
        variances = _variances(self.sample)
        is_varied = variances >= _eps(variances)
        kept = self.sample[is_varied] if is_varied.any() else self.sample
        return self.preprocessing.apply(kept)

    def __call__(self, n: int | None = None) -> np.ndarray:
        """Return n preprocessed patches, repeated only if there are fewer; None returns all."""
        if n is None:
            return self.varied
        check_integer("patches() in the callable kernels", "n", n, 1)
        n_varied = len(self.varied)
        return self.varied[self.rng.choice(n_varied, n, replace=n > n_varied)]

    def thresholds(self, kernels: np.ndarray, n_thresholds: int) -> np.ndarray:
        """Return quantiles of the responses to patches, ``(d, k) -> (n_thresholds, k)``.

        As in MiniRocket, the levels of the quantiles are the fractional parts of multiples of the
        golden ratio, which are evenly spread for any number of thresholds and kernels.

        Source: A. Dempster, D. F. Schmidt and G. I. Webb, "MiniRocket: A Very Fast (Almost)
        Deterministic Transform for Time Series Classification" (2021).
        """
        patches = self.preprocessing.apply(self.sample[:CHUNK])
        numbers = np.arange(1, kernels.shape[1] * n_thresholds + 1)
        levels = (numbers * (np.sqrt(5) + 1) / 2 % 1).reshape(-1, n_thresholds)
        quantiles = [
            np.quantile(patches @ kernel.astype(patches.dtype), own_levels)
            for kernel, own_levels in zip(kernels.T, levels, strict=True)
        ]
        return np.array(quantiles).T


def _variances(patches: np.ndarray) -> np.ndarray:
    parts = np.array_split(patches, -(-len(patches) // CHUNK))
    with np.errstate(all="ignore"):
        # One pixel is subtracted, so that the variance of a constant patch is exactly 0.
        return np.concatenate(
            [np.subtract(part, part[:, :1], dtype=np.float64).var(axis=1) for part in parts]
        )


def _eps(variances: np.ndarray) -> float:
    return CONTRAST * float(variances.mean()) or 1.0
