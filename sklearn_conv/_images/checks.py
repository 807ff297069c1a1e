"""Check that X is a batch of images, and find the shape of the images."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt, prod
from os import PathLike
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from sklearn_conv._array_api import (
    check_convertible,
    follows_library,
    library_name,
)
from sklearn_conv._images.array_api import (
    ArrayApiImages,
    check_finite_tensor,
    check_tensor,
    refuse_list,
)
from sklearn_conv._images.batch import (
    RULE,
    WIDEST,
    ArrayImages,
    DaskImages,
    ImageShape,
    ReadableImages,
    StoredImages,
    check_finite,
    to_float64,
)
from sklearn_conv._images.mistakes import warn_of_layout
from sklearn_conv._images.unequal import (
    UNEQUAL_RULE,
    check_unequal,
    has_sizes,
    knows_shapes,
)
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._validation import is_dask
from sklearn_conv._warnings import warn

SINGLE = " Pass a single image as X[np.newaxis]."

SHOWN_ROWS = 100
"""Number of rows of X in which strings and unequal images are searched, to describe them."""

READ_FILES = (
    "if these are names of files, read the images first, for example with sklearn_conv.read_images("
    "names, size=(64, 64)), or in the pipeline with ImageReader(size=(64, 64))"
)


def check_images(
    estimator: Any,
    X: Any,
    expected: tuple[Any, Any, Any] | None,
    reset: bool,
    ignores_missing: bool = False,
) -> ReadableImages | DaskImages:
    """Check X and return it as images. Arrays are not copied.

    ``expected`` is the shape of the images if it is known: the parameter ``image_shape`` in ``fit``
    (``reset=True``), and the attribute ``image_shape_`` in ``transform``. If the sizes of images
    may differ, its numbers of rows and columns are None.
    """
    refuse_list(X)
    if expected is not None and None in expected:
        return _check_any(estimator, X, expected, ignores_missing)
    if knows_shapes(X):
        raise ValueError(
            "X contains images of different sizes. Set image_shape='any', or read the images with "
            "size=(height, width)."
        )
    kind: type[ReadableImages | DaskImages]
    if ignores_missing and isinstance(X, list | tuple) and any(map(np.ma.is_masked, X)):
        X = np.ma.stack(X)
    values: Any
    if is_dask(X):
        kind, values = DaskImages, _check_dask(X)
    elif follows_library(X):
        _check_lazy(check_tensor(X))
        kind, values = ArrayApiImages, X
    elif _is_lazy(X) or (ignores_missing and np.ma.is_masked(X)):
        kind, values = StoredImages, _check_lazy(X)
    else:
        if not reset and hasattr(X, "columns"):  # scikit-learn checks names before values as well.
            validate_data(estimator, X, reset=False, skip_check_array=True)
        kind = StoredImages if isinstance(X, np.memmap) else ArrayImages
        values = _as_numbers(estimator, X)
    if 0 in values.shape:
        raise ValueError(f"X of shape {tuple(values.shape)} has an empty axis. {RULE}")
    may_have_missing = ignores_missing
    if kind is ArrayImages:
        may_have_missing = check_finite(values, ignores_missing=ignores_missing)
    elif kind is ArrayApiImages:
        may_have_missing = check_finite_tensor(values, ignores_missing)
    X_shape = tuple(values.shape)
    shape, ndim = (*X_shape[1:], 1)[:3], len(X_shape)
    if ndim > 2 and expected not in (None, shape):
        raise ValueError(_other_shape(estimator, X_shape, shape, expected, reset))
    if ndim == 2 and not reset and X_shape[1] != estimator.n_features_in_:
        raise ValueError(_other_length(estimator, X_shape))
    if ndim > 2 and reset:
        warn_of_layout(X_shape, shape)
    if not reset and not hasattr(X, "columns"):
        remember_columns(estimator, X, X_shape, reset=False)
    images = kind(values, _shape_of_rows(X_shape[1], expected) if ndim == 2 else shape)
    images.ignores_missing, images.may_have_missing = ignores_missing, may_have_missing
    return images


def _check_any(
    estimator: Any, X: Any, expected: tuple[Any, Any, Any], ignores_missing: bool
) -> ReadableImages | DaskImages:
    """Check images whose numbers of rows and columns may differ."""
    images: ReadableImages | DaskImages
    if has_sizes(X):
        images = check_unequal(X, ignores_missing)
    else:
        images = check_images(estimator, X, None, reset=True, ignores_missing=ignores_missing)
        X_shape = tuple(images.values.shape)
        if len(X_shape) == 2:
            raise ValueError(f"X of shape {X_shape} contains one image in each row. {UNEQUAL_RULE}")
    if expected[2] not in (None, images.shape[3]):
        hint = _what_channels_need(images.shape[3], expected[2] or 0)
        raise ValueError(
            f"X contains images of {images.shape[3]} channels, but {type(estimator).__name__} was "
            f"fitted on images of {expected[2]}; convert them, or fit again.{hint}"
        )
    return images


def remember_columns(estimator: Any, X: Any, shape: tuple[int, ...], reset: bool = True) -> None:
    """Store the number and the names of the columns; without ``reset``, compare them instead.

    scikit-learn does this for 2-D arrays. Flattening images that are not C-contiguous would copy
    them, so a broadcast array that takes no memory is passed instead.
    """
    if not hasattr(X, "columns"):
        n_columns = prod(shape[1:])
        is_compared = not reset and not hasattr(estimator, "feature_names_in_")
        if is_compared and n_columns == estimator.n_features_in_:
            return  # scikit-learn would find no difference.
        X = np.broadcast_to(np.float32(0), (1, n_columns))
    validate_data(estimator, X, reset=reset, skip_check_array=True)


def _is_lazy(X: Any) -> bool:
    """Return whether X is an array of another library, such as zarr, that is read by slicing."""
    if isinstance(X, np.ndarray | np.generic) or hasattr(X, "columns") or issparse(X):
        return False
    if library_name(X):
        return False
    try:
        np.dtype(X.dtype)
    except (AttributeError, TypeError):
        return False
    return isinstance(getattr(X, "shape", None), tuple) and hasattr(type(X), "__getitem__")


def _check_dask(X: Any) -> Any:
    from sklearn_conv._dask import check_dask_array

    check_dask_array(X)
    return _check_lazy(X)


def _check_lazy(X: Any) -> Any:
    try:
        _check_kind(X)
        if np.dtype(X.dtype).kind == "O":
            raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")
    except (TypeError, ValueError) as error:
        raise _with_rule(error) from error
    return X


def _as_numbers(estimator: Any, X: Any) -> np.ndarray:
    """Return X as an array of real numbers with 2 to 4 axes; arrays are not copied."""
    check_memory_map(X)  # Lists and wide numbers are read here.
    if _is_plain(X):  # scikit-learn has nothing to check, which takes it longer than a small image.
        return X
    if np.ma.is_masked(X):
        raise ValueError(
            "X has masked values; set missing='ignore' to leave them out, or fill them first, for "
            f"example with X.filled(0). {RULE}"
        )
    try:
        if not isinstance(getattr(X, "shape", None), tuple):
            X = _from_list(X)
        if hasattr(X, "columns"):
            strings = _first_strings(np.asarray(X))
            if strings:
                raise TypeError(f"X has columns of strings{_what_strings_need(strings)}")
        else:
            check_convertible(X)
            _check_kind(X)
        images = check_array(
            X,
            dtype="numeric",
            allow_nd=True,
            ensure_all_finite=False,
            estimator=estimator,
            input_name="X",
        )
        if images.dtype.kind == "O":  # X is a polars DataFrame with columns of several types.
            images = images.astype(np.float64)
        if images.dtype.itemsize > WIDEST:
            images = to_float64(images)
        _check_kind(images)
    except (TypeError, ValueError) as error:
        raise _with_rule(error) from error
    return images


def _is_plain(X: Any) -> bool:
    """Return whether X is an ordinary array of real numbers, without names of columns."""
    return (
        type(X) is np.ndarray
        and X.dtype.kind in "biuf"
        and X.dtype.itemsize <= WIDEST
        and 2 <= X.ndim <= 4
        and X.size > 0
    )


def _with_rule(error: Exception) -> Exception:
    """Return an error of the same kind whose message also contains `RULE`."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{error} {RULE}")


def _from_list(X: Any) -> np.ndarray:
    """Return nested lists, or a list of images, as an array."""
    if isinstance(X, list | tuple) and any(map(np.ma.is_masked, X)):
        raise ValueError(
            "X is a list of images with masked values; set missing='ignore' to leave them out, or "
            "fill them first."
        )
    try:
        return np.asarray(X)
    except ValueError:
        shapes = [np.shape(image) for image in X if hasattr(image, "shape")]
        raise ValueError(
            f"X is a list of unequal images{_shown_shapes(shapes)}; set image_shape='any', or crop "
            "or resize them to one size first."
        ) from None


def _shown_shapes(shapes: Iterable[tuple[int, ...]]) -> str:
    distinct = sorted({*shapes})
    more = " and more" * (len(distinct) > 3)
    return f" of shapes {', '.join(map(str, distinct[:3]))}{more}" if distinct else ""


def _check_kind(X: Any) -> None:
    """Raise an error for numbers that are not real and for a wrong number of axes."""
    kind, ndim = getattr(getattr(X, "dtype", None), "kind", None), len(X.shape)
    if ndim == 0:
        value = X.item() if isinstance(X, np.ndarray | np.generic) else X[()]
        hint = ""
        if isinstance(value, str):
            hint = " If it is a folder of images, read them first, for example with sklearn_conv."
            hint += f"read_images({value!r:.80}, size=(64, 64))."
        raise TypeError(f"X is {value!r:.80}, which is not an array.{hint}")
    # A column of strings in polars has no kind.
    strings = _first_strings(X) if kind in ("O", "S", "U") or (not kind and ndim == 1) else []
    if strings:
        problem = "is a column of strings" if kind in (None, "O") else f"has dtype {X.dtype}"
        raise TypeError(f"X {problem}{_what_strings_need(strings)}")
    if kind == "c":
        raise ValueError(
            f"Complex data not supported: X has dtype {X.dtype}; make channels of X.real and "
            "X.imag."
        )
    if kind not in (None, *"biufO"):
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")
    if ndim == 1:
        raise ValueError(
            _what_a_column_needs(X)
            if kind in (None, "O") and X.shape[0]
            else f"X has 1 axis, of length {X.shape[0]}. Reshape your data: pass a single image as "
            "X.reshape(1, h, w, c), and a single row of pixels as X.reshape(1, -1)."
        )
    if ndim > 4:
        raise ValueError(f"X has {ndim} axes, shape {X.shape}.")


def _first_strings(X: Any) -> list[str]:
    """Return strings and paths in the first rows of X, as strings."""
    array = np.asarray(X[0:SHOWN_ROWS])
    if array.dtype.kind not in "OSU":
        return []
    return [
        value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for value in array.flat
        if isinstance(value, str | bytes | PathLike)
    ]


def _what_strings_need(strings: Iterable[str]) -> str:
    """Return the end of a sentence: an example, and what to do about strings in X."""
    first = next((string for string in strings if not _is_number(string)), None)
    if first is None:
        return "; convert it to numbers first, for example with X.astype(float)."
    return f"; convert it to numbers first. An example is {first!r:.80}: {READ_FILES}."


def _is_number(string: str) -> bool:
    try:
        float(string)
    except ValueError:
        return False
    return True


def _what_a_column_needs(X: Any) -> str:
    """Return the message for a column of objects, which are images in most cases."""
    column = [*np.asarray(X[0:SHOWN_ROWS])]
    shapes = [np.shape(image) for image in column if hasattr(image, "shape")]
    if len(shapes) < len(column) or not all(shapes):
        return (
            f"X has 1 axis, of length {X.shape[0]}. Reshape your data: pass a single image as "
            "X.reshape(1, h, w, c), and a column of images of one size as numpy.stack(X)."
        )
    if len({*shapes}) == 1:
        return (
            f"X is a column of {X.shape[0]} images of shape {shapes[0]}. Reshape your data: pass "
            "numpy.stack(X)."
        )
    return (
        f"X is a column of unequal images{_shown_shapes(shapes)}. Set image_shape='any'. "
        "Otherwise, reshape your data: crop or resize the images to one size, and pass "
        "numpy.stack(images)."
    )


def _shape_of_rows(n_columns: int, expected: ImageShape | None) -> ImageShape:
    """Return the shape of the image in a row of ``n_columns`` numbers."""
    if expected is not None:
        if prod(expected) != n_columns:
            raise ValueError(
                f"image_shape={expected} requires {prod(expected)} columns, but X has {n_columns}; "
                "set image_shape to the (h, w) or (h, w, c) of the images in the rows of X."
            )
        return expected
    side = isqrt(n_columns)
    if side * side == n_columns:
        return side, side, 1
    warn(
        f"X has {n_columns} columns, which is not a square number: each row of X is interpreted as "
        f"an image with one row of {n_columns} pixels. If X contains other images, set "
        "image_shape=(h, w) or (h, w, c); if X contains the features of another transformer, set "
        "flatten=False in that transformer."
    )
    return 1, n_columns, 1


def _other_shape(
    estimator: Any, X_shape: tuple[int, ...], shape: ImageShape, expected: ImageShape, reset: bool
) -> str:
    rule = (
        f"image_shape={expected}; set image_shape to None or to the shape of the images"
        if reset
        else f"{type(estimator).__name__} was fitted on images of shape {expected}; crop or resize "
        "the images to that shape, or fit again"
    )
    hint = SINGLE if X_shape in (expected, expected[:2]) else ""
    if shape == (expected[2], *expected[:2]):
        hint = " The channels of X come first: X.transpose(0, 2, 3, 1) moves them to the end."
    if shape[:2] == expected[:2]:
        hint = _what_channels_need(shape[2], expected[2])
    return f"X of shape {X_shape} contains images of shape {shape}, but {rule}.{hint}"


def _what_channels_need(n_channels: int, expected: int) -> str:
    """Return a hint for images that have another number of channels than those in ``fit``."""
    if (n_channels, expected) in ((2, 1), (4, 3)):
        return (
            f" The last of {n_channels} channels is probably alpha (opacity); remove it with "
            f"X[..., :{expected}]."
        )
    if (n_channels, expected) in ((1, 2), (3, 4)):
        return " The images in fit had one more channel, probably alpha (opacity); fit without it."
    if n_channels in (3, 4) and expected == 1:
        return " Convert color images to gray, for example with X[..., :3].mean(axis=3)."
    if n_channels == 1 and expected == 3:
        return " Repeat gray images as color, for example with numpy.stack([X] * 3, axis=3)."
    return ""


def _other_length(estimator: Any, X_shape: tuple[int, ...]) -> str:
    h, w, c = estimator.image_shape_
    hint = SINGLE if X_shape == (h, w) else ""
    if (c, X_shape[1]) in ((1, 2 * h * w), (3, 4 * h * w)):
        hint = (
            f" If rows of X are images of {c + 1} channels, the last of which is alpha (opacity), "
            f"remove it with X.reshape(-1, {h}, {w}, {c + 1})[..., :{c}]."
        )
    return (
        f"X has {X_shape[1]} features, but {type(estimator).__name__} is expecting "
        f"{estimator.n_features_in_} features as input, the pixels of images of shape "
        f"{estimator.image_shape_}.{hint}"
    )


def check_columns(estimator: Any, names: Any) -> None:
    """Raise ValueError if the names are given, but are not those of the columns seen in ``fit``."""
    if names is None or not hasattr(estimator, "n_features_in_"):
        return
    given = np.asarray(names, dtype=object)
    if given.shape != (estimator.n_features_in_,):
        raise ValueError(
            "input_features should have length equal to number of features "
            f"({estimator.n_features_in_}), got {names!r:.80}."
        )
    if not np.array_equal(given, getattr(estimator, "feature_names_in_", given)):
        raise ValueError("input_features is not equal to feature_names_in_.")
