"""Activations: functions of the responses of the kernels, applied before pooling.

This module imports only NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

Function = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``function(values, out)`` writes its result for each element of ``values``, (..., k), to ``out``
and returns ``out``, which may be ``values``."""

ZEROS = np.zeros(2**14, np.float32)
"""16,384 zeros in float32, which are 8,192 zeros if viewed as float64."""


class Side(NamedTuple):
    """One feature for each kernel: ``function(sign * z + b)`` of the response z and the bias b."""

    sign: int
    function: Function


def identity(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return the values."""
    if out is not values:
        np.copyto(out, values)
    return out


def relu(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return max(value, 0)."""
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


def absolute(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return abs(value)."""
    return np.abs(values, out=out)


def square(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return value**2."""
    return np.square(values, out=out)


def step(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return 1 where value > 0, else 0. The mean is the proportion of positive values in ROCKET."""
    return np.greater(values, 0, out=out)


ACTIVATIONS: dict[str, dict[str, Side]] = {
    "abs": {"": Side(1, absolute)},
    "identity": {"": Side(1, identity)},
    "relu": {"": Side(1, relu)},
    "split": {"pos": Side(1, relu), "neg": Side(-1, relu)},
    "square": {"": Side(1, square)},
    "step": {"": Side(1, step)},
}
"""Map from the name of an activation to its sides, each with a suffix for the feature names."""


def activation_sides(activation: str | Callable[[np.ndarray], np.ndarray]) -> Mapping[str, Side]:
    """Return the sides of a named activation, or a single side for a user-defined function."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    return {"": Side(1, partial(_call, activation))}


def user_function(function: Function) -> Callable[[Any], Any]:
    """Return the user-defined function of a side."""
    assert isinstance(function, partial)
    return function.args[0]


def _call(
    function: Callable[[np.ndarray], np.ndarray], values: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """Call a user-defined function with values of shape (positions, k), and check its result."""
    rows = values.reshape(-1, values.shape[-1])
    result = np.asarray(function(rows))
    if result.shape != rows.shape or result.dtype.kind not in "biuf":
        raise ValueError(
            "The 'activation' parameter must be a function that returns a real number for every "
            f"response, but {function!r} returned an array of shape {result.shape} and dtype "
            f"{result.dtype} for an array of shape {rows.shape} and dtype {rows.dtype}. "
            "Use NumPy functions that work on every element."
        )
    if not np.isfinite(result).all():
        raise ValueError(
            "The 'activation' parameter must be a function that returns finite numbers, but "
            f"{function!r} returned NaN or infinity. Use a function that is defined for every real "
            "number, including negative numbers."
        )
    out[...] = result.reshape(out.shape)
    return out
