"""Activations: what is done to the responses of the kernels before they are pooled. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

Function = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``function(values, out) -> out``, element by element, (..., k); ``out`` may be ``values``."""

ZEROS = np.zeros(2**14, np.float32)
"""16,384 zeros in float32; viewed as float64, 8,192 zeros."""


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
    # NumPy's maximum of an array and a single zero takes several times as long as that of two
    # arrays, and many short rows take longer than a few long ones.
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
    """Return the sides of a named activation, or a single side for the user's function."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    return {"": Side(1, partial(_call, activation))}


def activate(side: Side, shifted: np.ndarray, bias: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Compute one side of the activation from ``shifted = z + b``, (..., k); return ``out``.

    ``out`` may be ``shifted``, which is overwritten then.
    """
    if side.sign > 0:
        return side.function(shifted, out)
    return side.function(np.subtract(2 * bias, shifted, out=out), out)  # of -z + b


def _call(
    function: Callable[[np.ndarray], np.ndarray], values: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """Call the user's function with values as (positions, k), and check what it returns."""
    rows = values.reshape(-1, values.shape[-1])
    result = np.asarray(function(rows))
    if result.shape != rows.shape or result.dtype.kind not in "biuf":
        raise ValueError(
            "The 'activation' parameter must be a function that gives a real number for every "
            f"response: {function!r} returned an array of shape {result.shape} and dtype "
            f"{result.dtype} for one of shape {rows.shape} and dtype {rows.dtype}. "
            "Use NumPy functions that work on every element."
        )
    if not np.isfinite(result).all():
        raise ValueError(
            f"The 'activation' parameter must give finite numbers: {function!r} returned NaN or "
            "infinity for finite responses. Use a function that is defined for every real number, "
            "also for negative ones."
        )
    out[...] = result.reshape(out.shape)
    return out
