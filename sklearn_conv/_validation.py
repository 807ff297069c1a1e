"""Rules that parameters share. Every error names the parameter, the rule and the value.

A TypeError is raised for a wrong type, a ValueError for a wrong value.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np


def parameter_error(
    error: type[Exception], owner: str, name: str, rule: str, value: Any
) -> Exception:
    """Return the error for a parameter that breaks its rule."""
    return error(f"The {name!r} parameter of {owner} must be {rule}. Got {_shown(value)} instead.")


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 10:
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    shown = repr(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def is_integer(value: Any) -> bool:
    """Return whether this is a Python or NumPy integer, excluding bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


FLOAT_MAX = float(np.finfo(np.float64).max)


def is_finite(number: Any) -> bool:
    """Return whether a real number is finite as a float64."""
    if isinstance(number, np.generic):
        # Compared with a NumPy float32, FLOAT_MAX would be cast to float32, and so be infinite.
        number = number.item()
    return -FLOAT_MAX <= number <= FLOAT_MAX


def is_sequence(value: Any) -> bool:
    """Return whether this is a tuple, a list or an array with one axis."""
    return isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim == 1)


def is_dask(value: Any) -> bool:
    """Return whether this is a lazy collection of Dask."""
    graph = getattr(type(value), "__dask_graph__", None)
    return graph is not None and graph(value) is not None  # None: xarray without dask


LIMIT = 2**31
"""Exclusive upper bound of sizes and counts."""


def check_integer(owner: str, name: str, value: Any, minimum: int) -> int:
    """Check an integer of at least ``minimum``."""
    rule = f"an integer of at least {minimum}"
    if not is_integer(value):
        raise parameter_error(TypeError, owner, name, rule, value)
    if value >= LIMIT:
        rule += " and below 2**31"
    if not minimum <= value < LIMIT:
        raise parameter_error(ValueError, owner, name, rule, value)
    return int(value)


def check_pair(
    owner: str, name: str, value: Any, minimum: int, names: tuple[str, ...] = ()
) -> tuple[int, int]:
    """Check a (rows, columns) pair of integers, or an integer that stands for both.

    ``names`` are strings that the parameter may be as well. The caller has checked for them before,
    so that here a string is always an error.
    """
    choices = [repr(name) for name in names] + [
        f"an integer of at least {minimum}",
        f"a (rows, columns) pair of integers of at least {minimum}",
    ]
    rule = f"{', '.join(choices[:-1])} or {choices[-1]}"
    pair = tuple(value) if is_sequence(value) else (value, value)
    if len(pair) != 2 or (isinstance(value, str) and names):
        raise parameter_error(ValueError, owner, name, rule, value)
    if not all(is_integer(length) for length in pair):
        raise parameter_error(TypeError, owner, name, rule, value)
    if max(pair) >= LIMIT:
        rule += ", below 2**31"
    if not minimum <= min(pair) <= max(pair) < LIMIT:
        raise parameter_error(ValueError, owner, name, rule, value)
    return int(pair[0]), int(pair[1])


def check_name(owner: str, name: str, value: Any, names: Iterable[str], otherwise: str = "") -> str:
    """Check that a value is one of the names; ``otherwise`` describes further valid values."""
    rule = f"one of {sorted(names)}{otherwise}"
    if not isinstance(value, str):
        raise parameter_error(TypeError, owner, name, rule, value)
    if value not in names:
        raise parameter_error(ValueError, owner, name, rule, value)
    return value


def check_numbers(
    owner: str,
    name: str,
    value: Any,
    shape: tuple[str | int, ...],
    *,
    otherwise: str = "",
    finite: bool = False,
) -> np.ndarray:
    """Check an array of real numbers of that shape; an axis with a name may have any length.

    Only "n", the number of images, may be 0. ``otherwise`` describes further valid values.
    """
    axes = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    rule = f"{otherwise}an array of {'finite ' if finite else ''}real numbers of shape {axes}"
    if np.ma.is_masked(value):
        raise ValueError(
            f"The {name!r} parameter of {owner} must be {rule}. Got masked values; fill them first."
        )
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"The {name!r} parameter of {owner} must be {rule}. Got lists or arrays of unequal "
            "lengths; make them equal."
        ) from None
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        raise parameter_error(TypeError, owner, name, rule, value)
    fits = array.ndim == len(shape) and all(
        length == axis or (isinstance(axis, str) and (length > 0 or axis == "n"))
        for length, axis in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"The {name!r} parameter of {owner} must be {rule}. Got shape {array.shape} instead."
        )
    if finite and not np.isfinite(array).all():
        raise ValueError(
            f"The {name!r} parameter of {owner} must be {rule}. Got NaN or infinity instead."
        )
    return array


def cast_numbers(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Copy finite numbers to a dtype, in C order; raise ValueError if some overflow."""
    with np.errstate(over="ignore"):
        result = np.array(array, dtype, order="C")
    if not np.isfinite(result).all():
        raise ValueError(
            f"{name} holds numbers that overflow in {dtype}, in which images of this dtype are "
            "computed; use smaller numbers, or cast X to float64."
        )
    return result
