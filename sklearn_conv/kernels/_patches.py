"""``n_patches``, ``normalize_patches``, ``whiten``: what is learned from windows of the images."""

from __future__ import annotations

from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from sklearn.utils.random import sample_without_replacement

from sklearn_conv._engine.windows import Geometry, window_span
from sklearn_conv._images.images import Images, check_finite
from sklearn_conv._validation import check_integer

CONTRAST = 0.01
"""The share of the mean variance of patches that is added to the variance of each, and below which
a patch is nearly constant."""

SHRINKAGE = 0.1
"""The share of the mean variance of a weight that `whiten=True` adds to that of every direction."""

CHUNK = 10_000
"""Patches that are gathered, or multiplied in float64, at once."""


def sample_patches(
    images: Images,
    n_patches: int,
    geometry: Geometry,
    dtype: np.dtype,
    rng: np.random.RandomState,
) -> np.ndarray:
    """Copy windows from random places, in random order; each once, if there are fewer.

    ``(n, h, w, c) -> (n_patches, kh*kw*c)``

    The windows lie inside the images. Only where these are smaller than a kernel, windows over
    their padded border are taken, as they are in ``transform``.
    """
    images = images.sample(rng)
    (kh, kw), (n, _, _, c) = geometry.kernel_size, images.shape
    index, weights, counts = [], [], [n]
    for axis, span in enumerate(window_span(geometry.kernel_size, geometry.dilation)):
        inside = np.arange(images.shape[axis + 1])
        index.append(inside if span <= len(inside) else (geometry.rows, geometry.columns)[axis])
        weights.append(np.arange(geometry.kernel_size[axis]) * geometry.dilation[axis])
        counts.append(len(index[axis]) - span + 1)
    n_places = int(np.prod(counts, dtype=object))
    n_patches = min(n_patches, n_places)
    places = rng.permutation(sample_without_replacement(n_places, n_patches, random_state=rng))
    patches = np.empty((n_patches, kh, kw, c), dtype)
    in_order = np.argsort(places)  # of the images, so that each is read once
    image, *corner = np.unravel_index(places[in_order], counts)
    for batch in images.batches():
        chosen = slice(*np.searchsorted(image, [batch.start, batch.stop]))
        if chosen.start == chosen.stop:
            continue
        first, last = map(int, image[chosen][[0, -1]])
        pixels = images.read(slice(first, last + 1), check=False)
        for start in range(chosen.start, chosen.stop, CHUNK):
            chunk = slice(start, min(start + CHUNK, chosen.stop))
            rows, columns = (
                index[axis][corner[axis][chunk, np.newaxis] + weights[axis]] for axis in (0, 1)
            )
            rows, columns = rows[:, :, np.newaxis], columns[:, np.newaxis]
            windows = pixels[image[chunk, np.newaxis, np.newaxis] - first, rows, columns]
            check_finite(windows)
            windows = windows.astype(dtype)
            windows[(rows < 0) | (columns < 0)] = 0
            patches[in_order[chunk]] = windows
    return patches.reshape(n_patches, -1)


class Whitening(NamedTuple):
    """``(patches - mean) @ matrix``."""

    mean: np.ndarray
    matrix: np.ndarray


class Preprocessing(NamedTuple):
    """What is done to patches before they meet the kernels."""

    eps: float = 0.0
    """added to the variance of each patch, which loses its mean and is divided by the root of this;
    0: patches stay as they are"""
    whitening: Whitening | None = None

    def apply(self, patches: np.ndarray) -> np.ndarray:
        """Normalize and whiten, ``(n, d) -> (n, d)``."""
        if self.eps:
            patches = patches - patches.mean(axis=1, keepdims=True)
            patches /= np.sqrt(np.square(patches).mean(axis=1, keepdims=True) + self.eps)
        if self.whitening:
            mean, matrix = (array.astype(patches.dtype) for array in self.whitening)
            patches = (patches - mean) @ matrix
        return patches

    def fold(self, kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take whitening and the mean of each patch into kernels, ``(d, k) -> (d, k), (k,)``.

        What is left to do with patches is the division; the second result is an offset.
        """
        offset = np.zeros(kernels.shape[1])
        if self.whitening:
            kernels = self.whitening.matrix @ kernels
            offset -= self.whitening.mean @ kernels
        if self.eps:
            kernels = kernels - kernels.mean(axis=0, dtype=np.float64)
        return kernels, offset


def learn_preprocessing(patches: np.ndarray, normalize: bool, whiten: float) -> Preprocessing:
    """Learn how to normalize, and how to whiten if ``whiten``, the regularization, is not 0.

    ZCA: the directions of the patches' covariance are divided by ``sqrt(variance + whiten * mean
    variance)``. A direction in which the patches do not vary, as there must be with fewer patches
    than weights, has variance 0: regularization alone keeps its factor finite.
    """
    preprocessing = Preprocessing()
    if normalize:
        eps, limits = _eps(_variances(patches)), np.finfo(patches.dtype)
        if not float(limits.tiny) * 1e6 < eps < float(limits.max) / 1e6:
            raise ValueError(
                "normalize_patches=True needs variances that can be computed in "
                f"{patches.dtype}, but {eps:.0e} is a hundredth of that of the windows of X; "
                "divide the images by their standard deviation first."
            )
        preprocessing = Preprocessing(eps)
    if not whiten:
        return preprocessing
    d = patches.shape[1]
    total, products = np.zeros(d), np.zeros((d, d))
    for start in range(0, len(patches), CHUNK):
        chunk = preprocessing.apply(patches[start : start + CHUNK]).astype(np.float64)
        total += chunk.sum(axis=0)
        products += chunk.T @ chunk
    if not np.isfinite(products).all():
        raise ValueError(
            "whiten needs squares of pixels that can be computed in float64, but some are beyond "
            "its range; divide the images by their standard deviation first."
        )
    mean = total / len(patches)
    variances, directions = np.linalg.eigh(products / len(patches) - np.outer(mean, mean))
    variances = np.maximum(variances, 0)
    variances += whiten * variances.mean() or 1.0  # 1 where no patch varies at all
    matrix = (directions / np.sqrt(variances)) @ directions.T
    return preprocessing._replace(whitening=Whitening(mean, matrix))


class TrainingPatches:
    """A sample of patches, drawn when somebody asks; ``patches(n)`` is what initialisers call."""

    def __init__(
        self,
        images: Images,
        geometry: Geometry,
        n_patches: int,
        normalize: bool,
        whiten: float,
        dtype: np.dtype,
        rng: np.random.RandomState,
    ) -> None:
        self._draw = partial(sample_patches, images, n_patches, geometry, dtype, rng)
        self._normalize, self._whiten, self._rng = normalize, whiten, rng

    @cached_property
    def sample(self) -> np.ndarray:
        """The patches as they are in the images, ``(n_patches, d)``."""
        return self._draw()

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How patches are normalized and whitened."""
        if self._normalize or self._whiten:
            return learn_preprocessing(self.sample, self._normalize, self._whiten)
        return Preprocessing()

    @cached_property
    def varied(self) -> np.ndarray:
        """The patches as the kernels see them, without nearly constant ones unless all are."""
        variances = _variances(self.sample)
        varied = variances >= _eps(variances)
        return self.preprocessing.apply(self.sample[varied] if varied.any() else self.sample)

    def __call__(self, n: int | None = None) -> np.ndarray:
        """Choose n of the patches, different ones if there are enough; None: all."""
        if n is None:
            return self.varied
        check_integer("patches() in the callable kernels", "n", n, 1)
        n_varied = len(self.varied)
        return self.varied[self._rng.choice(n_varied, n, replace=n > n_varied)]

    def thresholds(self, kernels: np.ndarray) -> np.ndarray:
        """Take the negative of a quantile of the responses of each kernel, ``(d, k) -> (k,)``.

        As in MiniRocket, the levels are the fractional parts of multiples of the golden ratio:
        evenly spread, however many kernels there are.

        Source: A. Dempster, D. F. Schmidt and G. I. Webb, "MiniRocket: A Very Fast (Almost)
        Deterministic Transform for Time Series Classification" (2021).
        """
        patches = self.preprocessing.apply(self.sample[:CHUNK])
        levels = np.arange(1, kernels.shape[1] + 1) * (np.sqrt(5) + 1) / 2 % 1
        quantiles = [
            np.quantile(patches @ kernel.astype(patches.dtype), level)
            for kernel, level in zip(kernels.T, levels, strict=True)
        ]
        return -np.array(quantiles)


def _variances(patches: np.ndarray) -> np.ndarray:
    parts = np.array_split(patches, -(-len(patches) // CHUNK))
    with np.errstate(over="ignore"):
        return np.concatenate([part.astype(np.float64).var(axis=1) for part in parts])


def _eps(variances: np.ndarray) -> float:
    return CONTRAST * float(variances.mean()) or 1.0
