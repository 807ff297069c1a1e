"""Batches of images, with the same interface for images in memory, in files and in Dask arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.utils import assert_all_finite

from sklearn_conv._array_api import kind_of, namespace, to_numpy
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._validation import cast_numbers, is_integer

RULE = (
    "X must be a batch of images of one size: an array of finite real numbers of shape "
    "(n, h, w, c), (n, h, w) or, with one image in each row, (n, h*w*c)."
)

CHECK_BYTES = 4 * 2**20
"""Size of the blocks of X that are checked for NaN and infinity."""

BATCH_BYTES = 16 * 2**20
"""Approximate size of the batches that are read from X if it is not in memory."""

SHOWN_IMAGES = 5
"""Number of images that an error names."""

WIDEST = 8
"""Size in bytes of float64 and of the widest integers; longdouble is wider."""

ImageShape = tuple[int, int, int]
"""(h, w, c)"""


class Images:
    """A batch of images, (n, h, w, c)."""

    ignores_missing = False
    """Whether pixels may be missing, which are NaN or masked."""

    may_have_missing = False
    """Whether pixels may be missing, as far as is known before the images are read."""

    def __init__(self, values: Any, shape: ImageShape) -> None:
        self.values = values
        self.shape = (values.shape[0], *shape)
        # The widest dtype of the computation is float64; longdouble is cast when it is read.
        dtype = np.dtype(values.dtype)
        self.dtype = dtype if dtype.itemsize <= WIDEST else np.dtype(np.float64)

    def __len__(self) -> int:
        return self.shape[0]

    def put(self, array: np.ndarray) -> Any:
        """Return an array where the images are computed."""
        return array

    def distinct_sizes(self) -> dict[tuple[int, int], int]:
        """Return the numbers of rows and columns that images have, and the first such image."""
        return {self.shape[1:3]: 0}


class ReadableImages(Images, ABC):
    """Images that are read as NumPy arrays, in batches."""

    has_sizes = False
    """Whether images may have different sizes."""

    name = "X"
    """Expression for the images in error messages."""

    @abstractmethod
    def read(self, rows: slice, check: bool = True) -> np.ndarray:
        """Return the images in ``rows``, (b, h, w, c); ``check`` that they are finite."""

    def read_groups(self, rows: slice) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Yield the numbers of images of one size, and these images, until ``rows`` are read."""
        yield range(rows.start, rows.stop), self.read(rows)

    def window_batches(self) -> Iterator[slice]:
        """Yield slices of images of one size, from which training patches are copied."""
        return self.batches()

    def size_of(self, number: int) -> tuple[int, int]:
        """Return the number of rows and columns of an image."""
        return self.shape[1], self.shape[2]

    def batches(self, length: int | None = None) -> Iterator[slice]:
        """Yield slices of ``length`` images; if None, a suitable length is chosen."""
        length = self.reading_length() if length is None else length
        for start in range(0, len(self), length):
            yield slice(start, min(start + length, len(self)))

    def reading_length(self, more_bytes: int = 0) -> int:
        """Return a suitable number of images for a batch.

        ``more_bytes`` is the memory that an image takes in addition to its pixels.
        """
        return max(1, BATCH_BYTES // self._bytes_per_image(more_bytes))

    def sample(self, rng: np.random.RandomState) -> ReadableImages:
        """Return the images from which training patches are drawn: all of them."""
        return self

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Return an array for features, where the images are."""
        return np.empty(shape, dtype)

    def cast(self, name: str, array: Any, dtype: np.dtype) -> Any:
        """Cast a fitted array to the dtype of the computation; ``name`` is for error messages."""
        return cast_numbers(name, array, dtype)

    def _bytes_per_image(self, more_bytes: int) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize + more_bytes


class ArrayImages(ReadableImages):
    """Checked images in memory, which are read without a copy, in a single batch."""

    def read(self, rows: slice, check: bool = True) -> np.ndarray:
        """Return a view of the images in ``rows``, (b, h, w, c)."""
        check_memory_map(self.values)  # The array may be a view of a memory map.
        batch = self.values[rows]
        return batch.reshape(len(batch), *self.shape[1:])

    def batches(self, length: int | None = None) -> Iterator[slice]:
        """Yield slices of ``length`` images; if None, a single slice of all images."""
        return super().batches(len(self) if length is None else length)


class StoredImages(ReadableImages):
    """Images in a memory map, or in an array of another library such as zarr or h5py.

    They are read in batches, each image once, and checked when they are read.
    """

    def read(self, rows: slice, check: bool = True) -> np.ndarray:
        """Read the images in ``rows``, (b, h, w, c)."""
        batch = self.values[rows] if isinstance(self.values, np.ndarray) else self._read_slice(rows)
        check_memory_map(batch)
        if np.ma.isMaskedArray(batch):
            batch = fill_masked(batch)
        if batch.dtype.itemsize > WIDEST:
            batch = to_float64(batch)
        if check:
            check_finite(batch, rows.start, self.ignores_missing)
        return batch.reshape(len(batch), *self.shape[1:])

    def reading_length(self, more_bytes: int = 0) -> int:
        """Return a suitable number of images for a batch: whole chunks unless these are large."""
        length = super().reading_length(more_bytes)
        chunks = getattr(self.values, "chunks", None)
        chunk = chunks[0] if isinstance(chunks, tuple) and is_integer(chunks[0]) else 1
        if chunk * self._bytes_per_image(more_bytes) > 2 * BATCH_BYTES:
            return length
        return max(chunk, length - length % chunk)

    def _read_slice(self, rows: slice) -> np.ndarray:
        try:
            values = self.values[rows]
            batch = np.asarray(values)
        except Exception as error:
            error.add_note(f"This error was raised while X[{rows.start}:{rows.stop}] was read.")
            raise
        if np.ma.is_masked(values):
            if not self.ignores_missing:
                raise ValueError(
                    f"X[{rows.start}:{rows.stop}] has masked values; set missing='ignore' to leave "
                    f"them out, fill them in the file, or wrap X in a class whose slices are "
                    f"filled. {RULE}"
                )
            batch = values
        expected = (rows.stop - rows.start, *self.values.shape[1:])
        if batch.shape != expected or batch.dtype != self.values.dtype:
            raise ValueError(
                f"X has shape {self.values.shape} and dtype {self.values.dtype}, but "
                f"X[{rows.start}:{rows.stop}] is an array of shape {batch.shape} and dtype "
                f"{batch.dtype}; is its file complete?"
            )
        return batch


class DaskImages(Images):
    """Images in a Dask array, which are computed only when they are needed."""

    def sample(self, rng: np.random.RandomState) -> ReadableImages:
        """Compute the images from which training patches are drawn: about 32 MB of them."""
        from sklearn_conv._dask import sample_images

        sample = StoredImages(sample_images(self.values, rng), self.shape[1:])
        sample.name = "sample"
        sample.ignores_missing = sample.may_have_missing = self.ignores_missing
        return sample

    def map(self, estimator: Any, method: str, row_shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Call a method of the estimator with every chunk, lazily."""
        from sklearn_conv._dask import map_rows

        return map_rows(estimator, method, self.values, row_shape, dtype)


def check_finite(values: np.ndarray, first: int = 0, ignores_missing: bool = False) -> bool:
    """Raise ValueError for infinity, and for NaN unless missing pixels are ignored.

    Return whether there may be missing pixels. If ``assume_finite`` is set, nothing is checked.
    ``values`` are the images from ``X[first]`` on.

    The sum is checked first. If that is inconclusive, scikit-learn compares all values, in a copy;
    blocks bound the size of this copy.
    """
    check_memory_map(values)
    if values.dtype.kind != "f":
        return False
    if get_config()["assume_finite"]:
        return ignores_missing
    has_missing = False
    try:
        dtype = np.promote_types(values.dtype, np.float32)  # Sums of float16 often overflow.
        for block in _blocks(values):
            with np.errstate(all="ignore"):
                if not np.isfinite(values[block].sum(dtype=dtype)):
                    assert_all_finite(values[block], allow_nan=ignores_missing, input_name="X")
                    has_missing = ignores_missing
    except ValueError as error:
        bad = find_not_finite(values, ignores_missing)
        raise not_finite(str(error).partition(".")[0], first + bad) from error
    return has_missing


def find_not_finite(images: Any, ignores_missing: bool = False) -> np.ndarray:
    """Return the indices of the images that contain infinity, or NaN if it is not ignored."""
    if kind_of(images) != "f":
        return np.empty(0, int)
    xp, axes = namespace(images), tuple(range(1, images.ndim))
    is_bad = []
    for rows in _blocks(images):
        block = images[rows, ...]
        is_wrong = xp.isinf(block) if ignores_missing else xp.logical_not(xp.isfinite(block))
        is_bad.append(to_numpy(xp.any(is_wrong, axis=axes)))
    return np.flatnonzero(np.concatenate(is_bad))


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


def _blocks(values: Any) -> Iterator[slice]:
    step = max(1, CHECK_BYTES // max(1, WIDEST * prod(values.shape[1:])))
    n = values.shape[0]
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def fill_masked(images: np.ma.MaskedArray) -> np.ndarray:
    """Return images with NaN at masked values, in a float dtype that holds all others exactly."""
    if not np.ma.is_masked(images):
        return np.asarray(images)
    dtype = np.promote_types(images.dtype, np.float32)
    return np.ma.filled(images.astype(dtype), np.nan)


def to_float64(images: np.ndarray) -> np.ndarray:
    """Cast longdouble to float64; overflow becomes infinity, for which `check_finite` raises."""
    with np.errstate(all="ignore"):
        return images.astype(np.float64)
