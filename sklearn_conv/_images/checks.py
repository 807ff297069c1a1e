"""Check that X is a batch of images, and find the shape of the images."""

from __future__ import annotations

from math import isqrt, prod
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

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
from sklearn_conv._validation import is_dask
from sklearn_conv._warnings import warn

SINGLE = " Pass a single image as X[np.newaxis]."


def check_images(
    estimator: Any, X: Any, expected: ImageShape | None, reset: bool
) -> ReadableImages | DaskImages:
    """Check X and return it as images. Arrays are not copied.

    ``expected`` is the shape of the images if it is known: the parameter ``image_shape`` in ``fit``
    (``reset=True``), and the attribute ``image_shape_`` in ``transform``.
    """
    kind: type[ReadableImages | DaskImages]
    if is_dask(X):
        kind, values = DaskImages, _check_dask(X)
    elif _is_lazy(X):
        kind, values = StoredImages, _check_lazy(X)
    else:
        if not reset and hasattr(X, "columns"):  # scikit-learn checks names before values as well.
            validate_data(estimator, X, reset=False, skip_check_array=True)
        kind = StoredImages if isinstance(X, np.memmap) else ArrayImages
        values = _as_numbers(estimator, X)
    if 0 in values.shape:
        raise ValueError(f"X of shape {values.shape} has an empty axis. {RULE}")
    if kind is ArrayImages:
        check_finite(values)
    shape, ndim = (*values.shape[1:], 1)[:3], len(values.shape)
    if ndim > 2 and expected not in (None, shape):
        raise ValueError(_other_shape(estimator, values.shape, shape, expected, reset))
    if ndim == 2 and not reset and values.shape[1] != estimator.n_features_in_:
        raise ValueError(_other_length(estimator, values.shape))
    if not reset and not hasattr(X, "columns"):
        remember_columns(estimator, X, values.shape, reset=False)
    return kind(values, _shape_of_rows(values.shape[1], expected) if ndim == 2 else shape)


def remember_columns(estimator: Any, X: Any, shape: tuple[int, ...], reset: bool = True) -> None:
    """Store the number and the names of the columns; without ``reset``, compare them instead.

    scikit-learn does this for 2-D arrays. Flattening images that are not C-contiguous would copy
    them, so a broadcast array that takes no memory is passed instead.
    """
    if not hasattr(X, "columns"):
        X = np.broadcast_to(np.float32(0), (1, prod(shape[1:])))
    validate_data(estimator, X, reset=reset, skip_check_array=True)


def _is_lazy(X: Any) -> bool:
    """Return whether X is an array of another library, such as zarr, that is read by slicing."""
    if isinstance(X, np.ndarray | np.generic) or hasattr(X, "columns") or issparse(X):
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
    if np.ma.is_masked(X):
        raise ValueError(
            f"X has masked values; fill them first, for example with X.filled(0). {RULE}"
        )
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
        if images.dtype.kind == "O":  # X is a polars DataFrame with columns of several types.
            images = images.astype(np.float64)
        if images.dtype.itemsize > WIDEST:
            images = to_float64(images)
        _check_kind(images)
    except (TypeError, ValueError) as error:
        raise _with_rule(error) from error
    return images


def _with_rule(error: Exception) -> Exception:
    """Return an error of the same kind whose message also contains `RULE`."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{error} {RULE}")


def _from_list(X: Any) -> np.ndarray:
    """Return nested lists, or a list of images, as an array."""
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
    """Raise an error for numbers that are not real and for a wrong number of axes."""
    kind, ndim = getattr(getattr(X, "dtype", None), "kind", None), len(X.shape)
    if kind == "c":
        raise ValueError(
            f"Complex data not supported: X has dtype {X.dtype}; make channels of X.real and "
            "X.imag."
        )
    if ndim == 0:
        raise TypeError(f"X is {X[()]!r:.80}, which is not an array.")
    if kind not in (None, *"biufO"):
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")
    if ndim == 1:
        raise ValueError(
            f"X has 1 axis, of length {X.shape[0]}. Reshape your data: pass a single image as "
            "X.reshape(1, h, w, c), and a column of images of one size as numpy.stack(X)."
        )
    if ndim > 4:
        raise ValueError(f"X has {ndim} axes, shape {X.shape}.")


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
    return f"X of shape {X_shape} contains images of shape {shape}, but {rule}.{hint}"


def _other_length(estimator: Any, X_shape: tuple[int, ...]) -> str:
    hint = SINGLE if X_shape == estimator.image_shape_[:2] else ""
    return (
        f"X has {X_shape[1]} features, but {type(estimator).__name__} is expecting "
        f"{estimator.n_features_in_} features as input, the pixels of images of shape "
        f"{estimator.image_shape_}.{hint}"
    )
