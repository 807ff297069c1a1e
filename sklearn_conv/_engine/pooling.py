"""Pooling: reduce the activated responses in a cell to one number.

This module imports only NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import truediv
from typing import Any, NamedTuple

import numpy as np


class Pooling(NamedTuple):
    """A reduction that can be computed in parts.

    The result is ``finish(join.reduce(responses), n_positions)``, for arrays of all libraries. The
    native engine has those poolings that its library lists under the same name.
    """

    join: np.ufunc
    """A key of `REDUCTIONS`; the engine in NumPy has others, too."""
    finish: Callable[[Any, Any], Any]


def as_joined(joined: Any, n_positions: Any) -> Any:
    return joined


POOLINGS: dict[str, Pooling] = {
    "max": Pooling(np.maximum, as_joined),
    "mean": Pooling(np.add, truediv),
    "sum": Pooling(np.add, as_joined),
}
"""Map from the name of a pooling to the reduction of the responses in a cell."""

REDUCTIONS: dict[Any, tuple[str, float]] = {np.add: ("sum", 0.0), np.maximum: ("max", -np.inf)}
"""Name of the function of the array API that reduces an axis, and its result for no responses."""


def find_reduction(join: np.ufunc) -> tuple[str, float]:
    """Return an item of `REDUCTIONS`; NotImplementedError says that there is none."""
    if join not in REDUCTIONS:
        raise NotImplementedError(
            f"Responses are joined by numpy.{join.__name__} only for arrays of NumPy without "
            f"missing pixels; add it to REDUCTIONS in {__name__} for others."
        )
    return REDUCTIONS[join]


GROUP = 16
"""Number of float32 responses that are added in float32; sums of groups are added in float64.

Rounding of a sum of equal numbers grows with their number. With groups of 16, its relative error
stays below 1e-6, however many positions a cell has."""


def join_positions(join: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Reduce responses over the positions, ``(positions, b, k) -> (b, k)``; sums in float64."""
    if join is not np.add:
        return join.reduce(values, axis=0)
    rows = values.reshape(len(values), -1)  # (positions, b * k)
    if values.dtype == np.float64 or len(rows) <= GROUP:
        return _add_rows(rows).astype(np.float64).reshape(values.shape[1:])
    n_groups = len(rows) // GROUP
    # A group consists of positions that are n_groups apart, so that one product adds all groups.
    groups = rows[: n_groups * GROUP].reshape(GROUP, -1)
    sums = _add_rows(groups).reshape(n_groups, -1)  # (groups, b * k)
    total = _add_rows(sums.astype(np.float64)) + _add_rows(rows[n_groups * GROUP :])
    return total.reshape(values.shape[1:])


def _add_rows(rows: np.ndarray) -> np.ndarray:
    """Add rows, ``(m, n) -> (n,)``, in their dtype."""
    # A product with ones is the fastest sum in NumPy. `numpy.dot` releases the GIL, but
    # `numpy.matmul` with a vector does not, so other threads would wait.
    return np.dot(np.ones(len(rows), rows.dtype), rows)


def join_windows(xp: Any, join: np.ufunc, values: Any, dtype: Any) -> Any:
    """Reduce responses over the windows, ``(b, windows, k) -> (b, k)``; sums have a dtype.

    This is `join_positions` for arrays of all libraries.
    """
    if join is not np.add:
        return getattr(xp, find_reduction(join)[0])(values, axis=1)
    b, n, k = values.shape
    n_groups = n // GROUP
    if values.dtype == dtype or n_groups < 2:
        return xp.sum(values, axis=1, dtype=dtype)
    groups = xp.reshape(values[:, : GROUP * n_groups, :], (b, GROUP, n_groups, k))
    rest = xp.sum(values[:, GROUP * n_groups :, :], axis=1, dtype=dtype)
    return xp.sum(xp.sum(groups, axis=1), axis=1, dtype=dtype) + rest


def join_parts(joins: Sequence[np.ufunc], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join the reduced parts of a cell, each ``(poolings, outputs, b, k)``."""
    if len(parts) == 1:
        return parts[0]
    together = np.stack(parts)  # (parts, poolings, sides, b, k)
    return np.stack([join.reduce(together[:, p], axis=0) for p, join in enumerate(joins)])
