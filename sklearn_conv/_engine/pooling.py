"""``pooling``, how the responses in a cell become one number, and ``pool_grid``, the cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Pooling(NamedTuple):
    """A reduction that can be done in parts: ``finish(join.reduce(responses), n_positions)``."""

    join: np.ufunc
    finish: Callable[[np.ndarray, int], np.ndarray]


def _as_joined(joined: np.ndarray, n_positions: int) -> np.ndarray:
    return joined


POOLINGS: dict[str, Pooling] = {
    "max": Pooling(np.maximum, _as_joined),
    "mean": Pooling(np.add, np.divide),
    "sum": Pooling(np.add, _as_joined),
}
"""Name -> how the responses in a cell become one number per kernel."""


def pool_cells(length: int, n_cells: int) -> list[tuple[int, int]]:
    """Cut ``length`` rows into ``n_cells`` (start, stop), never empty; they overlap if too many.

    Examples
    --------
    >>> pool_cells(7, 3)
    [(0, 2), (2, 4), (4, 7)]
    >>> pool_cells(2, 3)
    [(0, 1), (0, 1), (1, 2)]
    """
    starts = [i * length // n_cells for i in range(n_cells)]
    return [(start, max(start + 1, (i + 1) * length // n_cells)) for i, start in enumerate(starts)]
