"""``activation``: what is done to the responses of the kernels before they are pooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

Function = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``function(values, out) -> out``, element by element, (..., k); ``out`` may be ``values``."""


ZEROS = np.zeros(2**14, np.float32)
"""A row of them, also as half as many of float64."""


class Side(NamedTuple):
    """One feature per kernel: ``function(sign * z + b)`` of response z and bias b."""

    sign: int
    function: Function


def identity(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return the values."""
    if out is not values:
        np.copyto(out, values)
    return out


def relu(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return max(value, 0)."""
    # With a single zero, or rows of zeros that are short, NumPy takes longer.
    if not (values.flags.c_contiguous and out.flags.c_contiguous):
        return np.maximum(values, np.zeros(values.shape[-1], values.dtype), out=out)
    zeros = ZEROS.view(values.dtype)
    rows = values.size // len(zeros) * len(zeros)
    flat, flat_out = values.reshape(-1), out.reshape(-1)
    for part, shape in (slice(rows), (-1, len(zeros))), (slice(rows, None), (-1,)):
        some = flat[part].reshape(shape)
        np.maximum(some, zeros[: some.shape[-1]], out=flat_out[part].reshape(shape))
    return out


def absolute(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return abs(value)."""
    return np.abs(values, out=out)


def square(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return value**2."""
    return np.square(values, out=out)


def step(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return 1 where value > 0, else 0; its mean is ROCKET's proportion of positive values."""
    return np.greater(values, 0, out=out)


ACTIVATIONS: dict[str, dict[str, Side]] = {
    "abs": {"": Side(1, absolute)},
    "identity": {"": Side(1, identity)},
    "relu": {"": Side(1, relu)},
    "split": {"pos": Side(1, relu), "neg": Side(-1, relu)},
    "square": {"": Side(1, square)},
    "step": {"": Side(1, step)},
}
"""Name -> its sides, each with a suffix for the names of its features."""


def activation_sides(activation: str | Callable[[np.ndarray], np.ndarray]) -> Mapping[str, Side]:
    """Look up the sides of a named activation, or make a single one of the user's function."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    return {"": Side(1, partial(_call, activation))}


def _call(
    function: Callable[[np.ndarray], np.ndarray], values: np.ndarray, out: np.ndarray
) -> np.ndarray:
    rows = values.reshape(-1, values.shape[-1])
    result = np.asarray(function(rows))
    if result.shape != rows.shape or result.dtype.kind not in "biuf":
        raise ValueError(
            "The 'activation' parameter must be a function that gives a real number for every "
            f"response: {function!r} made an array of shape {result.shape} and dtype "
            f"{result.dtype} from one of shape {rows.shape} and dtype {rows.dtype}. "
            "Use NumPy functions that work on every element."
        )
    if not np.isfinite(result).all():
        raise ValueError(
            f"The 'activation' parameter must give finite numbers: {function!r} made NaN or "
            "infinity from finite responses. Use a function that is defined for every real "
            "number, below 0 too."
        )
    out[...] = result.reshape(out.shape)
    return out
