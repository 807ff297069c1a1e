"""Checks that are shared by many parameters.

Every error message contains the name of the parameter, the rule, and the value. A wrong type raises
TypeError, and a wrong value raises ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np

from sklearn_conv._array_api import from_library
from sklearn_conv._memory_maps import check_memory_map


def parameter_error(
    error: type[Exception], owner: str, name: str, rule: str, value: Any
) -> Exception:
    """Return the error for a parameter that breaks its rule."""
    if isinstance(value, np.ndarray) and value.size > 10:
        shown = f"an array of shape {value.shape} and dtype {value.dtype}"
    else:
        shown = repr(value)
        shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    return error(f"The {name!r} parameter of {owner} must be {rule}. Got {shown} instead.")


def is_integer(value: Any) -> bool:
    """Return whether the value is a Python or NumPy integer, excluding bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


FLOAT_MAX = float(np.finfo(np.float64).max)


def is_finite(number: Any) -> bool:
    """Return whether a real number is finite as a float64."""
    if isinstance(number, np.generic):
        # In a comparison with a NumPy float32, FLOAT_MAX would be cast to float32 and overflow.
        number = number.item()
    return -FLOAT_MAX <= number <= FLOAT_MAX


def is_sequence(value: Any) -> bool:
    """Return whether the value is a tuple, a list or an array with one axis."""
    return isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim == 1)


def is_dask(value: Any) -> bool:
    """Return whether the value is a lazy Dask collection."""
    graph = getattr(type(value), "__dask_graph__", None)
    return graph is not None and graph(value) is not None  # An xarray without Dask returns None.


def has_masked(value: Any) -> bool:
    """Return whether a value is a masked array with masked values, or a list with such arrays."""
    is_list = isinstance(value, list | tuple)
    return np.ma.is_masked(value) or (is_list and any(map(np.ma.is_masked, value)))


LIMIT = 2**31
"""Exclusive upper bound of sizes and counts."""


def require(
    owner: str, name: str, value: Any, rule: str, has_type: bool, is_valid: bool = True
) -> None:
    """Raise TypeError or ValueError for a parameter that has a wrong type or is not valid."""
    if not (has_type and is_valid):
        raise parameter_error(ValueError if has_type else TypeError, owner, name, rule, value)


def check_integer(owner: str, name: str, value: Any, minimum: int) -> int:
    """Check an integer of at least ``minimum``."""
    has_type = is_integer(value)
    rule = f"an integer of at least {minimum}"
    if has_type and value >= LIMIT:
        rule += " and below 2**31"
    require(owner, name, value, rule, has_type, has_type and minimum <= value < LIMIT)
    return int(value)


def check_pair(
    owner: str,
    name: str,
    value: Any,
    minimum: int,
    names: tuple[str, ...] = (),
    limit: int = LIMIT,
    otherwise: str = "",
) -> tuple[int, int]:
    """Check a (rows, columns) pair of integers, or an integer that stands for both.

    ``names`` are strings that are valid values as well. The caller handles them, so that here every
    string is an error. ``limit`` is the exclusive upper bound. ``otherwise`` describes other valid
    values.
    """
    pair = tuple(value) if is_sequence(value) else (value, value)
    are_integers = all(map(is_integer, pair))
    if len(pair) == 2 and are_integers and minimum <= min(pair) <= max(pair) < limit:
        return int(pair[0]), int(pair[1])
    rule = "".join(f"{name!r}, " for name in names)
    integer = f"integer{{}} of at least {minimum}"
    rule += f"an {integer.format('')} or a (rows, columns) pair of {integer.format('s')}"
    if len(pair) == 2 and are_integers and max(pair) >= limit:
        rule += f", below {limit}"
    rule += otherwise
    is_type = len(pair) == 2 and not are_integers and not (isinstance(value, str) and names)
    raise parameter_error(TypeError if is_type else ValueError, owner, name, rule, value)


def check_name(owner: str, name: str, value: Any, names: Iterable[str], otherwise: str = "") -> str:
    """Check that a value is a string in ``names``; ``otherwise`` describes other valid values."""
    if isinstance(value, str) and value in names:
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    raise parameter_error(kind, owner, name, f"one of {sorted(names)}{otherwise}", value)


def check_numbers(
    owner: str,
    name: str,
    value: Any,
    shape: tuple[str | int, ...],
    *,
    otherwise: str = "",
    finite: bool = False,
) -> np.ndarray:
    """Check an array of real numbers with the given shape.

    A string in ``shape`` is the name of an axis of any length above 0; only "n", the number of
    images, may be 0. ``otherwise`` describes other valid values.
    """
    axes = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    rule = f"{otherwise}an array of {'finite ' if finite else ''}real numbers of shape {axes}"

    def error(problem: str) -> ValueError:
        return ValueError(f"The {name!r} parameter of {owner} must be {rule}. Got {problem}.")

    value = value.compute() if is_dask(value) else value
    if has_masked(value):
        raise error("masked values; fill them first")
    check_memory_map(value)
    try:
        array = np.asarray(from_library(value))
    except ValueError:
        raise error("lists or arrays of unequal lengths; make their lengths equal") from None
    require(owner, name, value, rule, array.dtype.kind in "biuf" and array.ndim > 0)
    if array.ndim != len(shape) or any(
        length != axis and (isinstance(axis, int) or (length == 0 and axis != "n"))
        for length, axis in zip(array.shape, shape, strict=True)
    ):
        raise error(f"shape {array.shape} instead")
    if finite and not np.isfinite(array).all():
        raise error("NaN or infinity instead")
    return array


def cast_numbers(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast finite numbers to a dtype, in a copy in C order; raise ValueError if some overflow."""
    check_memory_map(array)  # It may belong to a fitted model, which was loaded as a map.
    with np.errstate(all="ignore"):
        result = np.array(array, dtype, order="C")
    if not np.isfinite(result).all():
        raise ValueError(
            f"{name} contains numbers that overflow in {dtype}, the dtype of the computation for "
            "these images; use smaller numbers, or cast the images to float64."
        )
    return result
