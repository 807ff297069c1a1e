"""Pooling: reduce the activated responses in a cell to one number.

This module imports only NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Pooling(NamedTuple):
    """A reduction that can be computed in parts.

    The result is ``finish(join.reduce(responses), n_positions)``.
    """

    join: np.ufunc
    finish: Callable[[np.ndarray, int], np.ndarray]


def _as_joined(joined: np.ndarray, n_positions: int) -> np.ndarray:
    return joined


POOLINGS: dict[str, Pooling] = {
    "max": Pooling(np.maximum, _as_joined),
    "mean": Pooling(np.add, np.divide),
    "sum": Pooling(np.add, _as_joined),
}
"""Map from the name of a pooling to the reduction of the responses in a cell."""


def join_positions(join: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Reduce responses over the positions, ``(positions, b, k) -> (b, k)``."""
    if join is np.add:
        # A product with ones is the fastest sum in NumPy. `numpy.dot` releases the GIL, but
        # `numpy.matmul` with a vector does not, so other threads would wait.
        ones = np.ones(len(values), values.dtype)
        return np.dot(ones, values.reshape(len(values), -1)).reshape(values.shape[1:])
    return join.reduce(values, axis=0)


def join_plain_split(responses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum max(z, 0) and max(-z, 0) over the positions; the responses are overwritten.

    ``(positions, b, k) -> (b, k), (b, k)``

    max(z, 0) is (abs(z) + z) / 2, so the sum of abs(z) is used for both sides. The sums of z and
    abs(z) are computed in the same order, so the result of a side that is never active is exactly
    0.
    """
    total = join_positions(np.add, responses)
    absolute = join_positions(np.add, np.abs(responses, out=responses))
    return (absolute + total) / 2, (absolute - total) / 2


def join_parts(joins: Sequence[np.ufunc], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join the reduced parts of a cell, each ``(poolings, sides, b, k)``."""
    if len(parts) == 1:
        return parts[0]
    together = np.stack(parts)  # (parts, poolings, sides, b, k)
    return np.stack([join.reduce(together[:, p], axis=0) for p, join in enumerate(joins)])
