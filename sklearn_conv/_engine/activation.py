"""Activations: functions of the responses of the kernels, applied before pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._array_api import Library, kind_of, library_name

ZEROS = np.zeros(2**14, np.float32)
"""16,384 zeros in float32, which are 8,192 zeros if viewed as float64."""


class Function(NamedTuple):
    """A function of each response, for all engines.

    The native engine has those functions that its library lists under the same name.
    """

    name: str
    in_place: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """``in_place(values, out)`` writes its result for each element of ``values``, (..., k), to
    ``out``, which may be ``values``, and returns ``out``."""
    standard: Callable[[Any, Any], Any]
    """``standard(xp, values)`` returns the same with the functions ``xp`` of the array API."""


class Side(NamedTuple):
    """One feature for each kernel: ``function(sign * z + b)`` of the response z and the bias b."""

    sign: int
    function: Function


def _copy(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    if out is not values:
        np.copyto(out, values)
    return out


def _clip(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    # In NumPy, the maximum of an array and a single zero takes several times as long as the maximum
    # of two arrays, and many short rows take longer than a few long rows.
    if not (values.flags.c_contiguous and out.flags.c_contiguous):
        return np.maximum(values, np.zeros(values.shape[-1], values.dtype), out=out)
    zeros = ZEROS.view(values.dtype)
    n_in_rows = values.size // len(zeros) * len(zeros)
    flat, flat_out = values.reshape(-1), out.reshape(-1)
    for part, shape in (slice(n_in_rows), (-1, len(zeros))), (slice(n_in_rows, None), (-1,)):
        block = flat[part].reshape(shape)
        np.maximum(block, zeros[: block.shape[-1]], out=flat_out[part].reshape(shape))
    return out


identity = Function("identity", _copy, lambda xp, values: values)
relu = Function("relu", _clip, lambda xp, values: xp.clip(values, min=0))
absolute = Function("abs", np.abs, lambda xp, values: xp.abs(values))
square = Function("square", np.square, lambda xp, values: values * values)
step = Function(
    "step",
    lambda values, out: np.greater(values, 0, out=out),
    lambda xp, values: xp.astype(values > 0, values.dtype),
)
"""The mean of "step" is the proportion of positive values in ROCKET."""

ACTIVATIONS: dict[str, dict[str, Side]] = {
    "abs": {"": Side(1, absolute)},
    "identity": {"": Side(1, identity)},
    "relu": {"": Side(1, relu)},
    "split": {"pos": Side(1, relu), "neg": Side(-1, relu)},
    "square": {"": Side(1, square)},
    "step": {"": Side(1, step)},
}
"""Map from the name of an activation to its sides, each with a suffix for the feature names."""


def activation_sides(activation: str | Callable[[Any], Any]) -> Mapping[str, Side]:
    """Return the sides of a named activation, or a single side for a user-defined function."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]

    def in_place(values: np.ndarray, out: np.ndarray) -> np.ndarray:
        out[...] = call_function(activation, _copy(values, out))  # It may change its argument.
        return out

    def standard(xp: Any, values: Any) -> Any:
        return call_function(activation, xp.asarray(values, copy=True))

    function = Function(f"{activation!r}", in_place, standard)
    return {"": Side(1, function)}


def call_function(function: Callable[[Any], Any], values: Any) -> Any:
    """Call a user-defined activation with values, (..., k), as rows, and check its result."""
    library = Library.of(values)
    xp, rows = library.xp, library.xp.reshape(values, (-1, values.shape[-1]))
    result = function(rows)
    if xp is np:
        result = np.asarray(result)
    elif not library_name(result) or Library.of(result) != library:
        raise TypeError(
            "The 'activation' parameter must be a function that returns an array of the library "
            f"and device of X, {library}, but {function!r} returned {type(result).__name__}. Use "
            "functions of this library."
        )
    if tuple(result.shape) != tuple(rows.shape) or kind_of(result) not in "biuf":
        raise ValueError(
            "The 'activation' parameter must be a function that returns a real number for every "
            f"response, but {function!r} returned an array of shape {tuple(result.shape)} and "
            f"dtype {result.dtype} for an array of shape {tuple(rows.shape)} and dtype "
            f"{rows.dtype}. Use functions that work on every element."
        )
    if not bool(xp.all(xp.isfinite(result))):
        raise ValueError(
            "The 'activation' parameter must be a function that returns finite numbers, but "
            f"{function!r} returned NaN or infinity. Use a function that is defined for every real "
            "number, including negative numbers."
        )
    if xp is not np:
        result = xp.astype(result, rows.dtype, copy=False)
    return xp.reshape(result, values.shape)
