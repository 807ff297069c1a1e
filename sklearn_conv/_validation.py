"""Checks that are shared by many parameters.

Every error message contains the name of the parameter, the rule, and the value. A wrong type raises
TypeError, and a wrong value raises ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np

from sklearn_conv._array_api import from_library
from sklearn_conv._memory_maps import check_memory_map


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
    owner: str,
    name: str,
    value: Any,
    minimum: int,
    names: tuple[str, ...] = (),
    limit: int = LIMIT,
) -> tuple[int, int]:
    """Check a (rows, columns) pair of integers, or an integer that stands for both.

    ``names`` are strings that are valid values as well. The caller handles them, so that here every
    string is an error. ``limit`` is the exclusive upper bound.
    """

    def rule(more: str = "") -> str:
        choices = [repr(name) for name in names] + [
            f"an integer of at least {minimum}",
            f"a (rows, columns) pair of integers of at least {minimum}",
        ]
        return f"{', '.join(choices[:-1])} or {choices[-1]}{more}"

    pair = tuple(value) if is_sequence(value) else (value, value)
    if len(pair) != 2 or (isinstance(value, str) and names):
        raise parameter_error(ValueError, owner, name, rule(), value)
    if not all(is_integer(length) for length in pair):
        raise parameter_error(TypeError, owner, name, rule(), value)
    if max(pair) >= limit:
        raise parameter_error(ValueError, owner, name, rule(f", below {limit}"), value)
    if min(pair) < minimum:
        raise parameter_error(ValueError, owner, name, rule(), value)
    return int(pair[0]), int(pair[1])


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
    if np.ma.is_masked(value):
        raise ValueError(
            f"The {name!r} parameter of {owner} must be {rule}. Got masked values; fill them first."
        )
    check_memory_map(value)
    try:
        array = np.asarray(from_library(value))
    except ValueError:
        raise ValueError(
            f"The {name!r} parameter of {owner} must be {rule}. Got lists or arrays of unequal "
            "lengths; make their lengths equal."
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
    """Cast finite numbers to a dtype, in a copy in C order; raise ValueError if some overflow."""
    check_memory_map(array)  # The array may belong to a fitted model that was loaded as a map.
    with np.errstate(all="ignore"):
        result = np.array(array, dtype, order="C")
    if not np.isfinite(result).all():
        raise ValueError(
            f"{name} contains numbers that overflow in {dtype}, the dtype of the computation for "
            "these images; use smaller numbers, or cast the images to float64."
        )
    return result


@contextmanager
def note_if_memory_is_short(remedy: str) -> Iterator[None]:
    """Add a remedy to a MemoryError."""
    try:
        yield
    except MemoryError as error:
        error.add_note(remedy)
        raise
