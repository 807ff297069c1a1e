"""`LazyImages`: a sequence of images with the indexing of an array, read when they are needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
from typing import Any
from uuid import uuid4

import numpy as np

from sklearn_conv._validation import is_integer


class LazyImages(ABC):
    """Images of one size, which are read when they are needed.

    The indexing is that of an array of shape ``(n, h, w, c)``. An integer reads one image. A slice,
    an index array or a mask selects images and reads nothing. An index that also selects pixels or
    channels, and `numpy.asarray`, read the selected images.
    """

    ndim = 4

    def __init__(self, n: int, image_shape: tuple[int, int, int], dtype: np.dtype) -> None:
        self.dtype = np.dtype(dtype)
        self._image_shape = image_shape
        self._rows: range | np.ndarray = range(n)
        """Which images are selected."""

    @abstractmethod
    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Read images to a new array ``(b, h, w, c)``; ``rows`` are elements of ``_rows``."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape ``(n, h, w, c)``."""
        return (len(self), *self._image_shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of shape {self.shape} and dtype {self.dtype}>"

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        key = key if isinstance(key, tuple) else (key,)
        n_axes = sum(index is not Ellipsis for index in key)
        is_valid = n_axes <= self.ndim and len(key) - n_axes <= 1
        selects_images = is_valid and all(map(_is_all, key[1:]))
        first: Any = key[0] if key else slice(None)
        if isinstance(first, np.ndarray) and first.ndim == 0:
            first = first[()]
        if first is Ellipsis and selects_images:
            first = slice(None)
        if first is Ellipsis or first is None:
            return np.asarray(self)[key]
        if is_integer(first):
            if not -len(self) <= first < len(self):
                raise IndexError(f"index {first} is out of bounds for {len(self)} images")
            image = self._read(np.array([self._rows[int(first)]]))
            return image[0] if selects_images else image[(0, *key[1:])]
        rows = self._rows[first] if isinstance(first, slice) else self._indices[first]
        if np.ndim(rows) != 1:
            raise IndexError(f"images are selected by an index with one axis, not by {first!r:.80}")
        images = copy(self)
        images._rows = rows
        if selects_images:
            return images
        # Index arrays of several axes are combined, as in NumPy.
        axis = slice(None) if isinstance(first, slice) else np.arange(len(images))
        return np.asarray(images)[(axis, *key[1:])]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(
                f"{type(self).__name__} are read into a new array, which copy=False forbids; use "
                "numpy.asarray without it."
            )
        images = self._read(self._indices)
        return images if dtype is None else images.astype(dtype, copy=False)

    def __dask_tokenize__(self) -> str:
        return uuid4().hex  # Otherwise, Dask would hash all pixels of a mapped file.

    @property
    def _indices(self) -> np.ndarray:
        """The selected images as an array, (n,)."""
        rows = self._rows
        return np.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows


def _is_all(key: Any) -> bool:
    """Return whether an index selects a whole axis."""
    return key is Ellipsis or (isinstance(key, slice) and key == slice(None))
