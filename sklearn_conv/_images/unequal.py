"""Images of unequal sizes, for ``image_shape="any"``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sklearn_conv._images.batch import (
    BATCH_BYTES,
    WIDEST,
    ReadableImages,
    check_finite,
    fill_masked,
    to_float64,
)
from sklearn_conv._memory_maps import check_memory_map

UNEQUAL_RULE = (
    "With image_shape='any', X must be an array of images, or a sequence of images of shape (h, w) "
    "or (h, w, c), finite real numbers with the same number of channels."
)


class UnequalImages(ReadableImages):
    """A sequence of images of different sizes, which are grouped by their shapes.

    ``values`` are arrays of shape (h, w, c), or images that are read by `numpy.asarray`, with the
    attribute ``image_shapes``; ``values[numbers]`` then selects some of them.
    """

    has_sizes = True

    def __init__(
        self, values: Any, shapes: Sequence[tuple[int, int, int]], dtype: np.dtype
    ) -> None:
        self.values = values
        self.shapes = np.array(shapes)
        """(n, 3)"""
        self.shape = (len(shapes), None, None, int(self.shapes[0, 2]))  # type: ignore[assignment]
        self.dtype = dtype if dtype.itemsize <= WIDEST else np.dtype(np.float64)

    def read(self, rows: slice, check: bool = True) -> np.ndarray:
        """Return images of one size, (b, h, w, c)."""
        return self._read_images([*range(rows.start, rows.stop)], check)

    def read_groups(self, rows: slice) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Yield the numbers of images of one size, and these images, until ``rows`` are read."""
        shapes, groups = np.unique(self.shapes[rows], axis=0, return_inverse=True)
        for group, shape in enumerate(shapes):
            numbers = rows.start + np.flatnonzero(groups.ravel() == group)
            length = max(1, BATCH_BYTES // (int(shape.prod()) * self.dtype.itemsize))
            for start in range(0, len(numbers), length):
                chosen = numbers[start : start + length].tolist()
                yield chosen, self._read_images(chosen, True)

    def window_batches(self) -> Iterator[slice]:
        """Yield slices of images of one size."""
        for i in range(len(self)):
            yield slice(i, i + 1)

    def distinct_sizes(self) -> dict[tuple[int, int], int]:
        """Return the numbers of rows and columns that images have, and the first such image."""
        sizes, numbers = np.unique(self.shapes[:, :2], axis=0, return_index=True)
        return {(h, w): i for (h, w), i in zip(sizes.tolist(), numbers.tolist(), strict=True)}

    def size_of(self, number: int) -> tuple[int, int]:
        """Return the number of rows and columns of an image."""
        return tuple(self.shapes[number, :2].tolist())

    def _bytes_per_image(self, more_bytes: int) -> int:
        return int(self.shapes.prod(axis=1).max()) * self.dtype.itemsize + more_bytes

    def _read_images(self, numbers: list[int], check: bool) -> np.ndarray:
        """Read images of one size, (b, h, w, c)."""
        values = self.values
        chosen = [values[i] for i in numbers] if isinstance(values, list) else values[numbers]
        images = [*map(_as_image, chosen if isinstance(values, list) else np.asarray(chosen))]
        for number, image in zip(numbers, images, strict=True):
            shape = tuple(self.shapes[number].tolist())
            if image.shape != shape:
                raise ValueError(
                    f"X[{number}] has shape {image.shape}, but had {shape} before; do not change "
                    "the images while they are read."
                )
            if check:
                check_finite(image[np.newaxis], number, self.ignores_missing)
        batch = np.stack(images)
        return to_float64(batch) if batch.dtype.itemsize > WIDEST else batch


def knows_shapes(X: Any) -> bool:
    """Return whether X has the shapes of images that are read by `numpy.asarray`."""
    # A Delayed object of Dask has all attributes, but its class does not.
    return hasattr(type(X), "image_shapes") and hasattr(X, "image_shapes")


def has_sizes(X: Any) -> bool:
    """Return whether X is a sequence of images of different sizes, and not an array of images."""
    if knows_shapes(X):
        return True
    if isinstance(X, np.ndarray):
        return X.ndim == 1 and X.dtype == object
    return isinstance(X, list | tuple) and (not X or np.ndim(X[0]) in (2, 3))


def check_unequal(X: Any, ignores_missing: bool) -> UnequalImages:
    """Check a sequence of images; those that are read when they are indexed are checked later."""
    if not len(X):
        raise ValueError(f"X contains no images. {UNEQUAL_RULE}")
    if knows_shapes(X):
        images = UnequalImages(X, [(*shape, 1)[:3] for shape in X.image_shapes], np.dtype(X.dtype))
    else:
        values = [_check_image(i, image, ignores_missing) for i, image in enumerate(X)]
        dtype = np.result_type(*{image.dtype for image in values})
        images = UnequalImages(values, [image.shape for image in values], dtype)
    numbers = np.unique(images.shapes[:, 2], return_index=True)[1]
    if len(numbers) > 1:
        first, other = sorted(numbers.tolist())[:2]
        raise ValueError(
            f"X[{first}] has {images.shapes[first, 2]} channels, but X[{other}] has "
            f"{images.shapes[other, 2]}; convert all images to color or to gray. {UNEQUAL_RULE}"
        )
    images.ignores_missing = images.may_have_missing = ignores_missing
    return images


def _check_image(number: int, image: Any, ignores_missing: bool) -> np.ndarray:
    check_memory_map(image)
    if np.ma.is_masked(image) and not ignores_missing:
        raise ValueError(
            f"X[{number}] has masked values; set missing='ignore' to leave them out, or fill them "
            f"first. {UNEQUAL_RULE}"
        )
    array = _as_image(image)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"X[{number}] has dtype {array.dtype}. {UNEQUAL_RULE}")
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"X[{number}] has shape {np.shape(image)}. {UNEQUAL_RULE}")
    check_finite(array[np.newaxis], number, ignores_missing)
    return array


def _as_image(image: Any) -> np.ndarray:
    """Return an image of shape (h, w) or (h, w, c) as an array (h, w, c)."""
    array = fill_masked(image) if np.ma.isMaskedArray(image) else np.asarray(image)
    return array[:, :, np.newaxis] if array.ndim == 2 else array
