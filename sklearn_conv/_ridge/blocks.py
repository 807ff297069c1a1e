"""Numbers of rows that are added or converted to float64 at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK_BYTES = 64 * 2**20
"""Approximate size in float64 of the rows that are added or predicted at once."""


CHUNK_BYTES = 2 * 2**20
"""Approximate size in float64 of the rows that are converted at once, in the cache. New memory for
larger arrays takes longer than the conversion."""

CHUNK_ROWS = 256
"""Maximum number of rows that are converted at once, so that a matrix with a column for each row
and a row for each of their classes is small."""

BLOCK_ROWS = 2048
"""Minimum number of float32 rows that are multiplied at once. Each block reads and writes all
products in float64, which takes longer than the products of few rows."""


def row_blocks(rows: Any, single: bool = False) -> Iterator[slice]:
    """Yield slices of consecutive rows, each of about `BLOCK_BYTES` in float64.

    If ``single``, the slices are larger, because the rows are multiplied in float32.
    """
    n_rows, n_features = rows.shape
    length = max(1, BLOCK_BYTES // (np.dtype(np.float64).itemsize * n_features))
    if single:
        length = max(4 * length, BLOCK_ROWS)
    for start in range(0, n_rows, length):
        yield slice(start, min(start + length, n_rows))


def row_chunks(rows: np.ndarray) -> Iterator[slice]:
    """Yield slices of consecutive rows that are converted to float64 at once."""
    n_rows, n_features = rows.shape
    length = CHUNK_BYTES // (np.dtype(np.float64).itemsize * n_features)
    length = min(max(1, length), CHUNK_ROWS)
    for start in range(0, n_rows, length):
        yield slice(start, start + length)
