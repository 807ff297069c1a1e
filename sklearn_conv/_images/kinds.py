"""The kinds of X: what `fit` and `transform` accept as images.

`check_images` asks the classes in `KINDS` from top to bottom; the first one that accepts X checks
it and reads the images. Whatever depends on the kind of X is a method or an attribute of its class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array

from sklearn_conv._array_api import (
    Library,
    check_convertible,
    check_tensor,
    follows_library,
    kind_of,
    library_name,
    refuse_list,
    require_same_library,
)
from sklearn_conv._engine.layer import compute_dtype
from sklearn_conv._images.checks import (
    UNEQUAL_RULE,
    ImageShape,
    Request,
    check_channels,
    check_kind,
    check_shape,
    first_strings,
    remember_columns,
    shown_shapes,
    what_strings_need,
)
from sklearn_conv._images.mistakes import warn_of_layout
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._pixels import RULE, WIDEST, check_finite, fill_masked, without_longdouble
from sklearn_conv._validation import cast_numbers, has_masked, is_dask, is_integer

BATCH_BYTES = 16 * 2**20
"""Approximate size of the batches that are read from X if it is not in memory."""


class Images(ABC):
    """A batch of checked images, (n, h, w, c), all of one size unless a subclass says otherwise."""

    name = "X"
    """Expression for the images in error messages."""

    has_sizes = False
    """Whether the images may have different sizes."""

    is_lazy = False
    """Whether features are computed later, by `map`; the images are then not read."""

    features_are = ""
    """What the features are if they do not fit into a table."""

    library = Library(np, "cpu")
    """Where the images are, and their features."""

    def __init__(
        self,
        values: Any,
        shape: ImageShape,
        ignores_missing: bool = False,
        dtype: np.dtype | None = None,
    ) -> None:
        self.values = values
        self.shape = (values.shape[0], *shape)
        self.ignores_missing = self.may_have_missing = ignores_missing
        dtype = np.dtype(values.dtype) if dtype is None else dtype
        # The widest dtype of the computation is float64; longdouble is cast when it is read.
        self.dtype = dtype if dtype.itemsize <= WIDEST else np.dtype(np.float64)

    @property
    def compute_dtype(self) -> np.dtype:
        """The dtype of the computation and of the features."""
        return compute_dtype(self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @staticmethod
    @abstractmethod
    def accepts(X: Any, request: Request) -> bool:
        """Return whether X is of this kind."""

    @staticmethod
    def convert(X: Any, request: Request) -> Any:
        """Check the numbers of X, and return it as an array with 2 to 4 axes, without a copy."""
        return X

    @classmethod
    def check(cls, X: Any, request: Request) -> Self:
        """Check X, and return its images."""
        try:
            values = cls.convert(X, request)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{error} {RULE}") from error
        shape = tuple(values.shape)
        image = check_shape(request, shape)
        if len(shape) > 2:
            warn_of_layout(shape, image, request.is_fit)
        if not request.is_fit and not request.is_any and not hasattr(X, "columns"):
            remember_columns(request.estimator, X, shape, reset=False)
        return cls(values, image, request.ignores_missing)

    def read(self, rows: slice, check: bool = True) -> Any:
        """Return the images in ``rows``, (b, h, w, c); ``check`` that they are finite."""
        raise NotImplementedError(f"{type(self).__name__} are not read.")

    def read_groups(self, rows: slice) -> Iterator[tuple[Sequence[int], Any]]:
        """Yield the numbers of images of one size, and these images, until ``rows`` are read."""
        yield range(rows.start, rows.stop), self.read(rows)

    def batches(self, length: int | None = None) -> Iterator[slice]:
        """Yield slices of ``length`` images; if None, a suitable length is chosen."""
        length = self.reading_length() if length is None else length
        for start in range(0, len(self), length):
            yield slice(start, min(start + length, len(self)))

    def window_batches(self) -> Iterator[slice]:
        """Yield slices of images of one size, from which training patches are copied."""
        return self.batches()

    def reading_length(self, more_bytes: int = 0) -> int:
        """Return a suitable number of images for a batch.

        ``more_bytes`` is the memory that an image takes in addition to its pixels.
        """
        return max(1, BATCH_BYTES // self._bytes_per_image(more_bytes))

    def size_of(self, number: int) -> tuple[int, int]:
        """Return the number of rows and columns of an image."""
        return self.shape[1], self.shape[2]

    def distinct_sizes(self) -> dict[tuple[int, int], int]:
        """Return the numbers of rows and columns that images have, and the first such image."""
        return {self.shape[1:3]: 0}

    def sample(self, rng: np.random.RandomState) -> Images:
        """Return the images from which training patches are drawn: all of them."""
        return self

    def known(self, windows: np.ndarray | None) -> Any:
        """Return pixels that were read anyway in ``fit``, (n, h, w, c): the windows, if any."""
        return windows

    def map(self, estimator: Any, method: str, row_shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Call a method of the estimator with parts of lazy images, later."""
        raise NotImplementedError(f"{type(self).__name__} are not lazy.")

    def cast(self, name: str, array: Any, dtype: np.dtype) -> Any:
        """Cast a fitted array to the dtype of the computation; ``name`` is for error messages."""
        return cast_numbers(name, array, dtype)

    def _bytes_per_image(self, more_bytes: int) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize + more_bytes


class UnequalImages(Images):
    """A sequence of images of different sizes, which are grouped by their shapes.

    X is a list, or an array of objects, of images of shape (h, w) or (h, w, c). Or it is an object
    with the attributes ``image_shapes``, (n, 3), and ``dtype``, whose images are read by
    `numpy.asarray`, after an array of numbers selected some of them.
    """

    has_sizes = True

    def __init__(
        self, values: Any, shapes: Sequence[ImageShape], dtype: np.dtype, ignores_missing: bool
    ) -> None:
        self.values = values
        self.shapes = np.array(shapes)
        """(n, 3)"""
        self.shape = (len(shapes), None, None, int(self.shapes[0, 2]))  # type: ignore[assignment]
        self.dtype = dtype if dtype.itemsize <= WIDEST else np.dtype(np.float64)
        self.ignores_missing = self.may_have_missing = ignores_missing

    @staticmethod
    def accepts(X: Any, request: Request) -> bool:
        if _knows_shapes(X):
            return True
        if isinstance(X, list | tuple):
            return request.is_any and (not X or np.ndim(X[0]) in (2, 3))
        return request.is_any and isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype == object

    @classmethod
    def check(cls, X: Any, request: Request) -> Self:
        """Check a sequence of images; those that are read by `numpy.asarray` are checked then."""
        ignores_missing = request.ignores_missing
        if not request.is_any:
            raise ValueError(
                "X contains images of different sizes. Set image_shape='any', or read the images "
                "with size=(height, width)."
            )
        if not len(X):
            raise ValueError(f"X contains no images. {UNEQUAL_RULE}")
        values, dtype = X, np.dtype(getattr(X, "dtype", None))
        if _knows_shapes(X):
            shapes = [(*shape, 1)[:3] for shape in X.image_shapes]
        else:
            values = [_check_image(i, image, ignores_missing) for i, image in enumerate(X)]
            shapes = [image.shape for image in values]
            dtype = np.result_type(*{image.dtype for image in values})
        images = cls(values, shapes, dtype, ignores_missing)
        numbers = np.unique(images.shapes[:, 2], return_index=True)[1]
        if len(numbers) > 1:
            first, other = sorted(numbers.tolist())[:2]
            raise ValueError(
                f"X[{first}] has {shapes[first][2]} channels, but X[{other}] has "
                f"{shapes[other][2]}; convert all images to color or to gray. {UNEQUAL_RULE}"
            )
        check_channels(request, images.shape[3])
        h, w, c = images.shapes[0].tolist()
        if (images.shapes[:, 0] == h).all():  # Numbers of rows that differ are not of channels.
            warn_of_layout((len(images), h, w, c), (h, w, c), request.is_fit)
        return images

    def read(self, rows: slice, check: bool = True) -> np.ndarray:
        return self._read_images([*range(rows.start, rows.stop)], check)

    def read_groups(self, rows: slice) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        shapes, groups = np.unique(self.shapes[rows], axis=0, return_inverse=True)
        for group, shape in enumerate(shapes):
            numbers = rows.start + np.flatnonzero(groups.ravel() == group)
            length = max(1, BATCH_BYTES // (int(shape.prod()) * self.dtype.itemsize))
            for start in range(0, len(numbers), length):
                chosen = numbers[start : start + length].tolist()
                yield chosen, self._read_images(chosen, True)

    def window_batches(self) -> Iterator[slice]:
        return self.batches(1)

    def size_of(self, number: int) -> tuple[int, int]:
        return tuple(self.shapes[number, :2].tolist())

    def distinct_sizes(self) -> dict[tuple[int, int], int]:
        sizes, numbers = np.unique(self.shapes[:, :2], axis=0, return_index=True)
        return {(h, w): i for (h, w), i in zip(sizes.tolist(), numbers.tolist(), strict=True)}

    def _bytes_per_image(self, more_bytes: int) -> int:
        return int(self.shapes.prod(axis=1).max()) * self.dtype.itemsize + more_bytes

    def _read_images(self, numbers: list[int], check: bool) -> np.ndarray:
        """Read images of one size, (b, h, w, c)."""
        is_list = isinstance(self.values, list)
        chosen = [self.values[i] for i in numbers] if is_list else np.asarray(self.values[numbers])
        images = [without_longdouble(_as_image(image)) for image in chosen]
        for number, image in zip(numbers, images, strict=True):
            shape = tuple(self.shapes[number].tolist())
            if image.shape != shape:
                raise ValueError(
                    f"X[{number}] has shape {image.shape}, but had {shape} before; do not change "
                    "the images while they are read."
                )
            if check:
                check_finite(image[np.newaxis], number, self.ignores_missing)
        return images[0][np.newaxis] if len(images) == 1 else np.stack(images)


def _knows_shapes(X: Any) -> bool:
    # A Delayed object of Dask has all attributes, but its class does not.
    return hasattr(type(X), "image_shapes") and hasattr(X, "image_shapes")


def _check_image(number: int, image: Any, ignores_missing: bool) -> np.ndarray:
    """Check an image, and return it as an array (h, w, c)."""
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
    check_finite(without_longdouble(array)[np.newaxis], number, ignores_missing)
    return array


def _as_image(image: Any) -> np.ndarray:
    """Return an image of shape (h, w) or (h, w, c) as an array (h, w, c)."""
    array = fill_masked(image) if np.ma.isMaskedArray(image) else np.asarray(image)
    return array[:, :, np.newaxis] if array.ndim == 2 else array


class DaskImages(Images):
    """Images in a Dask array, which are computed only when they are needed."""

    is_lazy = True
    features_are = "A Dask array of features"

    @staticmethod
    def accepts(X: Any, request: Request) -> bool:
        return is_dask(X)

    @staticmethod
    def convert(X: Any, request: Request) -> Any:
        from sklearn_conv._dask import check_dask_array

        check_dask_array(X)
        return _check_lazy(X)

    def sample(self, rng: np.random.RandomState) -> Images:
        """Compute the images from which training patches are drawn: about 32 MB of them."""
        from sklearn_conv._dask import sample_images

        sample = StoredImages(sample_images(self.values, rng), self.shape[1:], self.ignores_missing)
        sample.name = "sample"
        return sample

    def map(self, estimator: Any, method: str, row_shape: tuple[int, ...], dtype: np.dtype) -> Any:
        from sklearn_conv._dask import map_rows

        return map_rows(estimator, method, self.values, row_shape, dtype)


class StoredImages(Images):
    """Images in a memory map, or in an array of another library such as zarr or h5py.

    They are read in batches, each image once, and checked when they are read. Arrays with masked
    values are read in the same way.
    """

    @staticmethod
    def accepts(X: Any, request: Request) -> bool:
        if isinstance(X, np.memmap) or (request.ignores_missing and has_masked(X)):
            return True
        is_other = isinstance(X, np.ndarray | np.generic) or hasattr(X, "columns") or issparse(X)
        if is_other or library_name(X):
            return False
        try:
            np.dtype(X.dtype)
        except (AttributeError, TypeError):
            return False
        return isinstance(getattr(X, "shape", None), tuple) and hasattr(type(X), "__getitem__")

    @staticmethod
    def convert(X: Any, request: Request) -> Any:
        return _check_lazy(_from_list(X, np.ma.stack) if isinstance(X, list | tuple) else X)

    def read(self, rows: slice, check: bool = True) -> np.ndarray:
        batch = self.values[rows] if isinstance(self.values, np.ndarray) else self._read_slice(rows)
        check_memory_map(batch)
        batch = without_longdouble(fill_masked(batch))
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
        """Read a slice of an array of another library."""
        place = f"X[{rows.start}:{rows.stop}]"
        try:
            values = self.values[rows]
            batch = np.asarray(values)
        except Exception as error:
            error.add_note(f"This error was raised while {place} was read.")
            raise
        if np.ma.is_masked(values):
            if not self.ignores_missing:
                raise ValueError(
                    f"{place} has masked values; set missing='ignore' to leave them out, fill them "
                    f"in the file, or wrap X in a class whose slices are filled. {RULE}"
                )
            batch = values
        expected = (rows.stop - rows.start, *self.values.shape[1:])
        if batch.shape != expected or batch.dtype != self.values.dtype:
            raise ValueError(
                f"X has shape {self.values.shape} and dtype {self.values.dtype}, but {place} is an "
                f"array of shape {batch.shape} and dtype {batch.dtype}; is its file complete?"
            )
        return batch


class ArrayImages(Images):
    """Images in memory, which are read without a copy, in a single batch."""

    @staticmethod
    def accepts(X: Any, request: Request) -> bool:
        """Return True: X is an array, a table, a list, or a mistake."""
        return True

    @staticmethod
    def convert(X: Any, request: Request) -> np.ndarray:
        # scikit-learn has nothing to check here, which takes it longer than a small image.
        is_plain = type(X) is np.ndarray and X.dtype.kind in "biuf" and X.dtype.itemsize <= WIDEST
        if is_plain and 2 <= X.ndim <= 4 and X.size:
            return X
        if has_masked(X):
            raise ValueError(
                "X has masked values; set missing='ignore' to leave them out, or fill them first, "
                "for example with X.filled(0)."
            )
        if not isinstance(getattr(X, "shape", None), tuple):
            X = _from_list(X)
        if hasattr(X, "columns"):
            strings = first_strings(np.asarray(X))
            if strings:
                raise TypeError(f"X has columns of strings{what_strings_need(strings)}")
        else:
            check_convertible(X)
            check_kind(X, getattr(getattr(X, "dtype", None), "kind", None))
        images = check_array(
            X, allow_nd=True, ensure_all_finite=False, estimator=request.estimator, input_name="X"
        )
        if images.dtype.kind == "O":  # X is a polars DataFrame with columns of several types.
            images = images.astype(np.float64)
        check_kind(images, images.dtype.kind)
        return without_longdouble(images)

    @classmethod
    def check(cls, X: Any, request: Request) -> Self:
        if not request.is_fit and hasattr(X, "columns"):  # As in scikit-learn, before values.
            remember_columns(request.estimator, X, X.shape, reset=False)
        images = super().check(X, request)
        ignores_missing = request.ignores_missing
        images.may_have_missing = check_finite(images.values, ignores_missing=ignores_missing)
        return images

    def read(self, rows: slice, check: bool = True) -> np.ndarray:
        """Return a view of the images in ``rows``, (b, h, w, c)."""
        batch = self.values[rows]
        return batch.reshape(len(batch), *self.shape[1:])

    def batches(self, length: int | None = None) -> Iterator[slice]:
        """Yield slices of ``length`` images; if None, a single slice of all images."""
        return super().batches(len(self) if length is None else length)

    def known(self, windows: np.ndarray | None) -> Any:
        return self.read(slice(len(self)))


class TensorImages(ArrayImages):
    """Images in an array of PyTorch, CuPy or array-api-strict, which are computed on its device."""

    def __init__(self, values: Any, shape: ImageShape, ignores_missing: bool = False) -> None:
        name = str(values.dtype).rpartition(".")[2].replace("bfloat", "float")  # As many bytes.
        super().__init__(values, shape, ignores_missing, np.dtype(name))
        self.library = Library.of(values)
        self.features_are = f"An array of features in {self.library}"
        if self.compute_dtype == np.float64 and not self.library.has_float64:
            raise TypeError(
                f"X has dtype {values.dtype}, which is computed in float64, but the device "
                f"{self.library.device} has no float64; cast X to float32 first."
            )

    @staticmethod
    def accepts(X: Any, request: Request) -> bool:
        """Return whether X is an array of another library, and ``array_api_dispatch`` is set."""
        return follows_library(X)

    @staticmethod
    def convert(X: Any, request: Request) -> Any:
        check_tensor(X)
        check_kind(X, kind_of(X))
        return X

    def read(self, rows: slice, check: bool = True) -> Any:
        """Return the images in ``rows``, (b, h, w, c), usually without a copy."""
        batch = self.values[rows, ...]
        return self.library.xp.reshape(batch, (batch.shape[0], *self.shape[1:]))

    def cast(self, name: str, array: Any, dtype: np.dtype) -> Any:
        return self.library.put(array, dtype)


KINDS: list[type[Images]] = [UnequalImages, DaskImages, TensorImages, StoredImages, ArrayImages]
"""The kinds of X; the first one that accepts X checks it."""


def check_images(X: Any, request: Request) -> Images:
    """Check X and return its images, which are not copied."""
    check_memory_map(X)
    refuse_list(X)
    if not request.is_fit:
        estimator = request.estimator
        require_same_library(type(estimator).__name__, request.method, X, estimator.kernels_)
    kind = next(kind for kind in KINDS if kind.accepts(X, request))
    return kind.check(X, request)


def _check_lazy(X: Any) -> Any:
    """Check the dtype and the axes of an array that is read later."""
    check_kind(X, np.dtype(X.dtype).kind)
    if np.dtype(X.dtype).kind == "O":
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")
    return X


def _from_list(X: Any, join: Callable[[Any], np.ndarray] = np.asarray) -> np.ndarray:
    """Return nested lists, or a list of images, as an array."""
    try:
        return join(X)
    except ValueError:
        shapes = [np.shape(image) for image in X if hasattr(image, "shape")]
        raise ValueError(
            f"X is a list of unequal images{shown_shapes(shapes)}; set image_shape='any', or crop "
            "or resize them to one size first."
        ) from None
