"""``activation``: what is done to the responses of the kernels before they are pooled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

Side = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""``side(responses, bias, out) -> out``, ``(..., k), (k,) -> (..., k)``; out may be responses."""


def identity(responses: np.ndarray, bias: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return z + b."""
    return np.add(responses, bias, out=out)


def relu(responses: np.ndarray, bias: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return max(z + b, 0)."""
    np.add(responses, bias, out=out)
    return np.maximum(out, 0, out=out)


def relu_of_negative(responses: np.ndarray, bias: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return max(-z + b, 0)."""
    np.subtract(bias, responses, out=out)
    return np.maximum(out, 0, out=out)


def absolute(responses: np.ndarray, bias: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return abs(z + b)."""
    np.add(responses, bias, out=out)
    return np.abs(out, out=out)


def square(responses: np.ndarray, bias: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return (z + b)**2."""
    np.add(responses, bias, out=out)
    return np.square(out, out=out)


def step(responses: np.ndarray, bias: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return 1 where z + b > 0, else 0; its mean is ROCKET's proportion of positive values."""
    np.add(responses, bias, out=out)
    return np.greater(out, 0, out=out)


ACTIVATIONS: dict[str, dict[str, Side]] = {
    "abs": {"": absolute},
    "identity": {"": identity},
    "relu": {"": relu},
    "split": {"pos": relu, "neg": relu_of_negative},
    "square": {"": square},
    "step": {"": step},
}
"""Name -> its sides, each a suffix for the feature names and a function.

Each side gives one feature per kernel and cell.
"""


def activation_sides(activation: str | Callable[[np.ndarray], np.ndarray]) -> Mapping[str, Side]:
    """Look up the sides of a named activation, or make a single one of the user's function."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    return {"": partial(_call, activation)}


def _call(
    function: Callable[[np.ndarray], np.ndarray],
    responses: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> np.ndarray:
    result = np.asarray(function(responses + bias))
    if result.shape != responses.shape or result.dtype.kind not in "biuf":
        raise ValueError(
            "The 'activation' parameter must be a function that gives a real number for every "
            f"response: {function!r} made an array of shape {result.shape} and dtype "
            f"{result.dtype} from one of shape {responses.shape} and dtype {responses.dtype}. "
            "Use NumPy functions that work on every element."
        )
    if not np.isfinite(result).all():
        raise ValueError(
            f"The 'activation' parameter must give finite numbers: {function!r} made NaN or "
            f"infinity from responses between {(responses + bias).min():.3g} and "
            f"{(responses + bias).max():.3g}. Use a function that is defined for all of them."
        )
    out[...] = result
    return out
