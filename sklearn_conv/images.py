"""X: what counts as a batch of images, and which of its axes is what."""

from __future__ import annotations

import warnings
from math import isqrt, prod
from typing import Any

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

RULE = (
    "X must be a batch of images of one size: an array of finite real numbers of shape "
    "(n, h, w, c), (n, h, w) or, with one image in each row, (n, h*w*c)."
)

ImageShape = tuple[int, int, int]
"""(h, w, c)."""


def check_images(estimator: Any, X: Any, expected: ImageShape | None, reset: bool) -> np.ndarray:
    """Check X and view it as ``(n, h, w, c)``, without a copy of an array.

    ``expected`` is the shape of the images where one is known: the parameter ``image_shape`` in
    ``fit`` (``reset``), the attribute ``image_shape_`` in ``transform``.
    """
    if np.ma.is_masked(X):
        raise ValueError(f"X has masked values; fill them first, with X.filled(0) perhaps. {RULE}")
    is_table = hasattr(X, "columns")
    if is_table:  # names before values, as scikit-learn does it
        validate_data(estimator, X, reset=reset, skip_check_array=True)
    try:
        images = check_array(X, dtype="numeric", allow_nd=True, estimator=estimator, input_name="X")
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error}\n{RULE}") from error
    if images.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {images.dtype}; convert it to numbers first. {RULE}")
    if images.ndim > 4:
        raise ValueError(f"X has {images.ndim} axes, shape {images.shape}. {RULE}")
    if images.size == 0:
        raise ValueError(f"X of shape {images.shape} has an empty axis. {RULE}")
    if images.ndim > 2:
        shape = (*images.shape[1:], 1)[:3]
        if expected not in (None, shape):
            raise ValueError(_other_shape(estimator, images.shape, shape, expected, reset))
    if not is_table:
        # scikit-learn counts the columns of rows, which are a copy where X is not in the order of
        # C; so it is shown rows of their number that take no memory.
        rows = np.broadcast_to(images.dtype.type(0), (len(images), prod(images.shape[1:])))
        validate_data(estimator, rows, reset=reset, skip_check_array=True)
    if images.ndim == 2:
        shape = _shape_of_rows(images.shape[1], expected)
    return images.reshape(len(images), *shape)


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
        "X holds.",
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
    single = X_shape in (expected, expected[:2])
    hint = ". A single image goes in as X[np.newaxis]" if single else ""
    return f"X of shape {X_shape} holds images of shape {shape}, but {rule}{hint}."
