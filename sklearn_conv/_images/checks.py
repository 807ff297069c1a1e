"""What X must be: numbers, axes, shape and names of columns, and what errors say about them."""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt, prod
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import validate_data

from sklearn_conv._pixels import RULE
from sklearn_conv._warnings import warn

UNEQUAL_RULE = (
    "With image_shape='any', X must be an array of images, or a sequence of images of shape (h, w) "
    "or (h, w, c), finite real numbers with the same number of channels."
)

SINGLE = " Pass a single image as X[np.newaxis]."

SHOWN_ROWS = 100
"""Number of rows of X in which strings and unequal images are searched, to describe them."""

READ_FILES = (
    "if these are names of files, read the images first, for example with sklearn_conv.read_images("
    "names, size=(64, 64)), or in the pipeline with ImageReader(size=(64, 64))"
)

ImageShape = tuple[int, int, int]
"""(h, w, c)"""


class Request(NamedTuple):
    """What a method of the estimator expects of X."""

    estimator: Any
    image_shape: tuple[Any, Any, Any] | None
    """(h, w, c) if it is known: the parameter ``image_shape`` in ``fit``, and the attribute
    ``image_shape_`` in ``transform``. If the sizes of images may differ, h and w are None."""
    method: str
    """Name of the method that was called."""
    ignores_missing: bool

    @property
    def is_fit(self) -> bool:
        """Whether X contains the training images."""
        return self.method == "fit"

    @property
    def is_any(self) -> bool:
        """Whether the sizes of images may differ."""
        return self.image_shape is not None and None in self.image_shape


def check_kind(X: Any, kind: str | None) -> None:
    """Raise an error for numbers that are not real and for a wrong number of axes.

    ``kind`` is that of the dtype of X as NumPy abbreviates it, or None if it is unknown.
    """
    ndim = len(X.shape)
    if ndim == 0:
        value = X.item() if hasattr(X, "item") else X[()]
        hint = ""
        if isinstance(value, str):
            hint = " If it is a folder of images, read them first, for example with sklearn_conv."
            hint += f"read_images({value!r:.80}, size=(64, 64))."
        raise TypeError(f"X is {value!r:.80}, which is not an array.{hint}")
    # A column of strings in polars has no kind.
    strings = first_strings(X) if kind in ("O", "S", "U") or (not kind and ndim == 1) else []
    if strings:
        problem = "is a column of strings" if kind in (None, "O") else f"has dtype {X.dtype}"
        raise TypeError(f"X {problem}{what_strings_need(strings)}")
    if kind == "c":
        raise ValueError(
            f"Complex data not supported: X has dtype {X.dtype}; make channels of X.real and "
            "X.imag."
        )
    if kind not in (None, *"biufO"):
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")
    if ndim == 1:
        raise ValueError(_what_an_axis_needs(X, is_column=kind in (None, "O") and X.shape[0] > 0))
    if ndim > 4:
        raise ValueError(f"X has {ndim} axes, shape {X.shape}.")


def first_strings(X: Any) -> list[str]:
    """Return strings and paths in the first rows of X, as strings."""
    array = np.asarray(X[0:SHOWN_ROWS])
    if array.dtype.kind not in "OSU":
        return []
    return [
        value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for value in array.flat
        if isinstance(value, str | bytes | PathLike)
    ]


def what_strings_need(strings: Iterable[str]) -> str:
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


def _what_an_axis_needs(X: Any, is_column: bool) -> str:
    """Return the message for a single axis; a column of objects has images in most cases."""
    column = [*np.asarray(X[0:SHOWN_ROWS])] if is_column else []
    shapes = [np.shape(image) for image in column if hasattr(image, "shape")]
    if not column or len(shapes) < len(column) or not all(shapes):
        remedy = "a column of images of one size as numpy.stack(X)"
        remedy = remedy if column else "a single row of pixels as X.reshape(1, -1)"
        return (
            f"X has 1 axis, of length {X.shape[0]}. Reshape your data: pass a single image as "
            f"X.reshape(1, h, w, c), and {remedy}."
        )
    if len({*shapes}) == 1:
        return (
            f"X is a column of {X.shape[0]} images of shape {shapes[0]}. Reshape your data: pass "
            "numpy.stack(X)."
        )
    return (
        f"X is a column of unequal images{shown_shapes(shapes)}. Set image_shape='any'. "
        "Otherwise, reshape your data: crop or resize the images to one size, and pass "
        "numpy.stack(images)."
    )


def shown_shapes(shapes: Iterable[tuple[int, ...]]) -> str:
    """Return the end of a noun phrase that lists up to three shapes."""
    distinct = sorted({*shapes})
    more = " and more" * (len(distinct) > 3)
    return f" of shapes {', '.join(map(str, distinct[:3]))}{more}" if distinct else ""


def check_shape(request: Request, shape: tuple[int, ...]) -> ImageShape:
    """Check the shape of an X whose images have one size, and return that of an image."""
    if 0 in shape:
        raise ValueError(f"X of shape {shape} has an empty axis. {RULE}")
    estimator, expected, is_fit = request.estimator, request.image_shape, request.is_fit
    h, w, c = (*shape[1:], 1, 1)[:3]
    image = h, w, c
    if len(shape) == 2:
        if request.is_any:
            raise ValueError(f"X of shape {shape} contains one image in each row. {UNEQUAL_RULE}")
        if not is_fit and shape[1] != estimator.n_features_in_:
            raise ValueError(_other_length(estimator, shape))
        image = _shape_of_rows(shape[1], expected)
    elif request.is_any:
        check_channels(request, image[2])
    elif expected not in (None, image):
        raise ValueError(_other_shape(estimator, shape, image, expected, is_fit))
    return image


def check_channels(request: Request, n_channels: int) -> None:
    """Raise ValueError if images of any size have another number of channels than in ``fit``."""
    expected = (request.image_shape or (None,))[-1]
    if expected not in (None, n_channels):
        raise ValueError(
            f"X contains images of {n_channels} channels, but {type(request.estimator).__name__} "
            f"was fitted on images of {expected}; convert them, or fit again."
            f"{_what_channels_need(n_channels, expected)}"
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
