"""X: what counts as a batch of images, and which of its axes is what."""

from __future__ import annotations

import warnings
from math import isqrt, prod
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import validate_data

RULE = (
    "X must be a batch of images of one size: an array of finite real numbers of shape "
    "(n, h, w, c), (n, h, w) or, with one image in each row, (n, h*w*c)."
)

SINGLE = " A single image goes in as X[np.newaxis]."

CHECK_BYTES = 4 * 2**20
"""How much of X is looked at in one go for NaN and infinity."""

ImageShape = tuple[int, int, int]
"""(h, w, c)."""


def check_images(estimator: Any, X: Any, expected: ImageShape | None, reset: bool) -> np.ndarray:
    """Check X and view it as ``(n, h, w, c)``, without a copy of an array.

    ``expected`` is the shape of the images where one is known: the parameter ``image_shape`` in
    ``fit`` (``reset``), the attribute ``image_shape_`` in ``transform``.
    """
    if not reset and hasattr(X, "columns"):  # names before values, as scikit-learn does it
        validate_data(estimator, X, reset=False, skip_check_array=True)
    images = _as_numbers(estimator, X)
    shape = (*images.shape[1:], 1)[:3]
    if images.ndim > 2 and expected not in (None, shape):
        raise ValueError(_other_shape(estimator, images.shape, shape, expected, reset))
    if images.ndim == 2 and not reset and images.shape[1] != estimator.n_features_in_:
        raise ValueError(_other_length(estimator, images))
    if not reset and not hasattr(X, "columns"):
        remember_columns(estimator, X, images, reset=False)
    if images.ndim == 2:
        shape = _shape_of_rows(images.shape[1], expected)
    return images.reshape(len(images), *shape)


def remember_columns(estimator: Any, X: Any, images: np.ndarray, reset: bool = True) -> None:
    """Have scikit-learn keep (or, without ``reset``, compare) number and names of the columns.

    Rows of images in another order than that of C would be a copy, so it is shown as many that take
    no memory.
    """
    if not hasattr(X, "columns"):
        X = np.broadcast_to(images.dtype.type(0), (len(images), prod(images.shape[1:])))
    validate_data(estimator, X, reset=reset, skip_check_array=True)


def _as_numbers(estimator: Any, X: Any) -> np.ndarray:
    """Turn X into an array of finite real numbers of 2 to 4 axes; arrays are not copied."""
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
        if images.dtype.itemsize > 8:  # longdouble, which may be beyond float64
            with np.errstate(over="ignore"):
                images = images.astype(np.float64)
        _check_kind(images)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error} {RULE}") from error
    if images.size == 0:
        raise ValueError(f"X of shape {images.shape} has an empty axis. {RULE}")
    try:
        # In blocks: what scikit-learn can't tell from a sum, it compares number by number.
        step = max(1, CHECK_BYTES // max(1, images[0].nbytes))
        for start in range(0, len(images), step):
            assert_all_finite(images[start : start + step], input_name="X")
    except ValueError as error:
        remedy = "Fill such pixels first, with numpy.nan_to_num perhaps, or leave out their images."
        raise ValueError(f"{error} {remedy} {RULE}") from error
    return images


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
            f"X has 1 axis, of length {len(X)}. Reshape your data: a single image goes in as "
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
    return f"X of shape {X_shape} holds images of shape {shape}, but {rule}.{hint}"


def _other_length(estimator: Any, rows: np.ndarray) -> str:
    hint = SINGLE if rows.shape == estimator.image_shape_[:2] else ""
    return (
        f"X has {rows.shape[1]} features, but {type(estimator).__name__} is expecting "
        f"{estimator.n_features_in_} features as input, the pixels of images of shape "
        f"{estimator.image_shape_}.{hint}"
    )
