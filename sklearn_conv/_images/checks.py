"""X: what counts as a batch of images, and which of its axes is what."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator
from math import isqrt, prod
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import validate_data

from sklearn_conv._validation import is_dask, is_integer

RULE = (
    "X must be a batch of images of one size: an array of finite real numbers of shape "
    "(n, h, w, c), (n, h, w) or, with one image in each row, (n, h*w*c)."
)

SINGLE = " A single image goes in as X[np.newaxis]."

CHECK_BYTES = 4 * 2**20
"""How much of X is looked at in one go for NaN and infinity."""

BATCH_BYTES = 16 * 2**20
"""About how much of X is read in one go, where it is not in memory."""

ImageShape = tuple[int, int, int]
"""(h, w, c)."""


class Images:
    """A batch of images, ``(n, h, w, c)``: an array in memory, or read from elsewhere in batches.

    An array in memory is known to be finite. The rest is checked when it is read, and read once.
    """

    def __init__(self, values: Any, shape: ImageShape, in_memory: bool) -> None:
        self._values, self._in_memory = values, in_memory
        self.shape = (values.shape[0], *shape)
        self.dtype = np.dtype(values.dtype)
        if self.dtype.itemsize > 8:
            self.dtype = np.dtype(np.float64)

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, length: int | None = None) -> Iterator[slice]:
        """Cut the images into batches of that length; None: in memory one, else as is good."""
        if length is None:
            length = len(self) if self._in_memory else self.reading_length()
        for start in range(0, len(self), length):
            yield slice(start, min(start + length, len(self)))

    def reading_length(self, more_bytes: int = 0) -> int:
        """Count the images of a batch that is read, and takes so many more bytes for each image.

        Whole chunks, where X has some of sensible size.
        """
        chunks = getattr(self._values, "chunks", None)
        chunk = chunks[0] if isinstance(chunks, tuple) and is_integer(chunks[0]) else 1
        image_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        length = max(1, BATCH_BYTES // (image_bytes + more_bytes))
        if chunk * (image_bytes + more_bytes) > 2 * BATCH_BYTES:
            return length
        return max(chunk, length - length % chunk)

    def sample(self, rng: np.random.RandomState) -> Images:
        """Give those to learn from: all, but of a dask array some that are computed."""
        if not is_dask(self._values):
            return self
        from sklearn_conv._dask import sample_images

        return Images(sample_images(self._values, rng), self.shape[1:], in_memory=False)

    def read(self, rows: slice, check: bool = True) -> np.ndarray:
        """Give some of the images, ``(b, h, w, c)``; in memory a view."""
        if isinstance(self._values, np.ndarray):
            check_map(self._values)
            batch = self._values[rows]
        else:
            batch = self._read_slice(rows)
        if batch.dtype.itemsize > 8:
            batch = _to_float64(batch)
        if check and not self._in_memory:
            check_finite(batch)
        return batch.reshape(len(batch), *self.shape[1:])

    def _read_slice(self, rows: slice) -> np.ndarray:
        try:
            values = self._values[rows]
            batch = np.asarray(values)
        except Exception as error:
            error.add_note(f"This came while X[{rows.start}:{rows.stop}] was read.")
            raise
        if np.ma.is_masked(values):
            raise ValueError(
                f"X[{rows.start}:{rows.stop}] has masked values; fill them in the file, or wrap X "
                f"in a class whose slices are filled. {RULE}"
            )
        expected = (rows.stop - rows.start, *self._values.shape[1:])
        if batch.shape != expected or batch.dtype != self._values.dtype:
            raise ValueError(
                f"X says that it has shape {self._values.shape} and dtype {self._values.dtype}, "
                f"but X[{rows.start}:{rows.stop}] is an array of shape {batch.shape} and dtype "
                f"{batch.dtype}; is its file whole?"
            )
        return batch


def check_images(estimator: Any, X: Any, expected: ImageShape | None, reset: bool) -> Images:
    """Check X and take it as images, without a copy of an array.

    ``expected`` is the shape of the images where one is known: the parameter ``image_shape`` in
    ``fit`` (``reset``), the attribute ``image_shape_`` in ``transform``.
    """
    in_memory = False
    if is_dask(X) or _is_lazy(X):
        values = _as_lazy_numbers(X)
    else:
        if not reset and hasattr(X, "columns"):  # names before values, as scikit-learn does it
            validate_data(estimator, X, reset=False, skip_check_array=True)
        values = _as_numbers(estimator, X)
        in_memory = not isinstance(X, np.memmap)
    if 0 in values.shape:
        raise ValueError(f"X of shape {values.shape} has an empty axis. {RULE}")
    if in_memory:
        check_finite(values)
    shape, ndim = (*values.shape[1:], 1)[:3], len(values.shape)
    if ndim > 2 and expected not in (None, shape):
        raise ValueError(_other_shape(estimator, values.shape, shape, expected, reset))
    if ndim == 2 and not reset and values.shape[1] != estimator.n_features_in_:
        raise ValueError(_other_length(estimator, values.shape))
    if not reset and not hasattr(X, "columns"):
        remember_columns(estimator, X, values.shape, reset=False)
    if ndim == 2:
        shape = _shape_of_rows(values.shape[1], expected)
    return Images(values, shape, in_memory)


def check_finite(values: np.ndarray) -> None:
    """Look for NaN and infinity, in blocks.

    What scikit-learn can't tell from a sum, it compares number by number, in a copy.
    """
    step = max(1, CHECK_BYTES // max(1, values[0].nbytes))
    try:
        for start in range(0, len(values), step):
            assert_all_finite(values[start : start + step], input_name="X")
    except ValueError as error:
        remedy = "Fill such pixels first, with numpy.nan_to_num perhaps, or leave out their images."
        raise ValueError(f"{error} {remedy} {RULE}") from error


def check_map(array: np.ndarray) -> None:
    """Refuse a memory map whose file has become too short: to read it would end the process."""
    offset, name, base = None, None, array  # type: Any, Any, Any
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            offset, name = base.offset, base.filename
        base = base.base
    if offset is None or not isinstance(base, mmap.mmap):
        return
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    if base.size() < start + len(base):
        raise OSError(
            f"{name or 'The file'} was cut after it had been mapped to memory: it has "
            f"{base.size()} bytes, the map needs {start + len(base)}. Write it anew."
        )


def remember_columns(estimator: Any, X: Any, shape: tuple[int, ...], reset: bool = True) -> None:
    """Have scikit-learn keep (or, without ``reset``, compare) number and names of the columns.

    Rows of images in another order than that of C would be a copy, so it is shown as many that take
    no memory.
    """
    if not hasattr(X, "columns"):
        X = np.broadcast_to(np.float32(0), (1, prod(shape[1:])))
    validate_data(estimator, X, reset=reset, skip_check_array=True)


def _is_lazy(X: Any) -> bool:
    """Whether X is an array of another library, zarr or h5py perhaps, whose slices NumPy reads."""
    if isinstance(X, np.ndarray | np.generic) or hasattr(X, "columns") or issparse(X):
        return False
    try:
        np.dtype(X.dtype)
    except (AttributeError, TypeError):
        return False
    return isinstance(getattr(X, "shape", None), tuple) and hasattr(type(X), "__getitem__")


def _as_lazy_numbers(X: Any) -> Any:
    if is_dask(X):
        from sklearn_conv._dask import check_dask_array

        check_dask_array(X)
    try:
        _check_kind(X)
        if np.dtype(X.dtype).kind == "O":
            raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error} {RULE}") from error
    return X


def _as_numbers(estimator: Any, X: Any) -> np.ndarray:
    """Turn X into an array of real numbers of 2 to 4 axes; arrays are not copied."""
    if np.ma.is_masked(X):
        raise ValueError(f"X has masked values; fill them first, with X.filled(0) perhaps. {RULE}")
    try:
        if not isinstance(getattr(X, "shape", None), tuple):
            X = _from_list(X)
        if hasattr(X, "columns"):
            values = np.asarray(X)
            if values.dtype == object and any(isinstance(value, str) for value in values.flat):
                raise TypeError("X has columns of strings; convert them to numbers first.")
        else:
            _check_kind(X)
        images = check_array(
            X,
            dtype="numeric",
            allow_nd=True,
            ensure_all_finite=False,
            estimator=estimator,
            input_name="X",
        )
        if images.dtype.kind == "O":  # a polars table of several types
            images = images.astype(np.float64)
        if images.dtype.itemsize > 8:
            images = _to_float64(images)
        _check_kind(images)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error} {RULE}") from error
    return images


def _to_float64(images: np.ndarray) -> np.ndarray:
    """Cast longdouble, which may be beyond float64, and is then infinite."""
    with np.errstate(over="ignore"):
        return images.astype(np.float64)


def _from_list(X: Any) -> np.ndarray:
    if isinstance(X, list | tuple) and any(map(np.ma.is_masked, X)):
        raise ValueError("X is a list of images with masked values; fill them first.")
    try:
        return np.asarray(X)
    except ValueError:
        shapes = sorted({np.shape(image) for image in X if hasattr(image, "shape")})
        shown = f" of shapes {shapes[:3]}{' and more' * (len(shapes) > 3)}" if shapes else ""
        raise ValueError(
            f"X is a list of unequal images{shown}; crop or resize them to one size first."
        ) from None


def _check_kind(X: Any) -> None:
    kind, ndim = getattr(getattr(X, "dtype", None), "kind", None), len(X.shape)
    if kind == "c":
        raise ValueError(
            f"Complex data not supported: X has dtype {X.dtype}; make channels of X.real and "
            "X.imag."
        )
    if ndim == 0:
        raise TypeError(f"X is {X[()]!r:.80}, which is no array.")
    if kind not in (None, *"biufO"):
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")
    if ndim == 1:
        raise ValueError(
            f"X has 1 axis, of length {X.shape[0]}. Reshape your data: a single image goes in as "
            "X.reshape(1, h, w, c), a column of images of one size as numpy.stack(X)."
        )
    if ndim > 4:
        raise ValueError(f"X has {ndim} axes, shape {X.shape}.")


def _shape_of_rows(n_columns: int, expected: ImageShape | None) -> ImageShape:
    """Say what image a row of that many columns is."""
    if expected is not None:
        if prod(expected) != n_columns:
            raise ValueError(
                f"image_shape={expected} makes {prod(expected)} columns, but X has {n_columns}; "
                "give the (h, w) or (h, w, c) of the images that the rows of X hold."
            )
        return expected
    side = isqrt(n_columns)
    if side * side == n_columns:
        return side, side, 1
    warnings.warn(
        f"X has {n_columns} columns, which is no square number: each row is taken as an image of "
        f"one row of {n_columns} pixels. Give image_shape=(h, w) or (h, w, c) if that is not what "
        "X holds; and flatten=False to a transformer before this one.",
        UserWarning,
        stacklevel=4,
    )
    return 1, n_columns, 1


def _other_shape(
    estimator: Any, X_shape: tuple[int, ...], shape: ImageShape, expected: ImageShape, reset: bool
) -> str:
    rule = (
        f"image_shape={expected}; give image_shape=None or the shape of the images"
        if reset
        else f"{type(estimator).__name__} was fitted on images of shape {expected}; bring X to "
        "that shape, or fit again"
    )
    hint = SINGLE if X_shape in (expected, expected[:2]) else ""
    if shape == (expected[2], *expected[:2]):
        hint = " Its channels come first: X.transpose(0, 2, 3, 1) brings them last."
    return f"X of shape {X_shape} holds images of shape {shape}, but {rule}.{hint}"


def _other_length(estimator: Any, X_shape: tuple[int, ...]) -> str:
    hint = SINGLE if X_shape == estimator.image_shape_[:2] else ""
    return (
        f"X has {X_shape[1]} features, but {type(estimator).__name__} is expecting "
        f"{estimator.n_features_in_} features as input, the pixels of images of shape "
        f"{estimator.image_shape_}.{hint}"
    )
