"""Keys of rows: hashes that decide which rows are kept.

All functions use integers only, so that a row has the same key in every batch, on every machine.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np

N_SLOTS = 1 << 12
"""Number of slots of the table in which repeated rows are noticed. It is about twice the number of
rows that are kept: a row that is repeated so rarely that its slot is overwritten in between has
less than one place in a fair sample. At most 2**16, because 16-bit integers are sorted fast."""

CHUNK_SIZE = 1 << 14
"""Approximate number of features that are hashed at once, in the cache of the processor."""


def row_keys(rows: np.ndarray, target_keys: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return hashes ``(n,)`` of the features, the target and the weight of each row.

    Equal numbers have equal hashes, whatever their dtype. A weight of 1 does not change the hash.
    """
    weight_keys = np.where(weights == 1, np.uint64(0), _mix(weights.view(np.uint64)))
    return _mix(_add_columns(rows) ^ target_keys ^ weight_keys)


def class_keys(classes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return hashes ``(n,)`` of the labels ``classes[codes]``."""
    return np.array([_label_key(label) for label in classes.tolist()], np.uint64)[codes]


def column_keys(targets: np.ndarray) -> np.ndarray:
    """Return hashes ``(n,)`` of targets ``(n, k)``."""
    return _mix(~_add_columns(targets))


def _add_columns(rows: np.ndarray) -> np.ndarray:
    """Return a sum ``(n,)`` of the bits of each row of numbers, with a factor for each column."""
    n_rows, n_features = rows.shape
    factors = _mix(np.arange(1, n_features + 1, dtype=np.uint64)) | np.uint64(1)
    sums = np.empty(n_rows, np.uint64)
    length = max(1, CHUNK_SIZE // n_features)
    for start in range(0, n_rows, length):
        chunk = slice(start, start + length)
        # Adding 0.0 turns -0.0 into 0.0.
        bits = np.add(rows[chunk], 0.0, dtype=np.float64, order="C").view(np.uint64)
        # The last bits of integers in float64 are all 0, and a product would keep these zeros.
        bits ^= bits >> np.uint64(32)
        np.einsum("ij,j->i", bits, factors, out=sums[chunk])
    return sums


def mark_repeats(keys: np.ndarray, start: int, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return keys that also depend on the row number if a row is repeated, and the new table.

    ``start`` is the number of the first row. ``slots`` is a table of the last key in each slot, 0
    for empty slots; the slot of a key is given by its last bits. A row is repeated if its key is
    the last one in its slot. The result does not depend on the batches.
    """
    slot = (keys & np.uint64(len(slots) - 1)).astype(np.uint16)
    order = np.argsort(slot, kind="stable")
    slot, ordered = slot[order], keys[order]
    is_first = np.append(True, slot[1:] != slot[:-1])[: len(keys)]
    previous = np.append(np.uint64(0), ordered)[: len(keys)]
    previous[is_first] = slots[slot[is_first]]
    is_last = np.append(is_first[1:], True)[: len(keys)]
    slots = slots.copy()
    slots[slot[is_last]] = ordered[is_last]
    repeated = order[ordered == previous]
    keys = keys.copy()
    keys[repeated] = _mix(keys[repeated] ^ _mix(repeated.astype(np.uint64) + np.uint64(start + 1)))
    return keys, slots


def number_keys(start: int, n: int) -> np.ndarray:
    """Return hashes ``(n,)`` of the numbers of rows, the first of which is ``start``."""
    return _mix(np.arange(start + 1, start + n + 1, dtype=np.uint64))


def draw_again(keys: np.ndarray, start: int, highest: int) -> np.ndarray:
    """Return other random keys up to ``highest``, which depend on ``start``."""
    fractions = (_mix(keys ^ _mix(np.array([start + 1], np.uint64))) >> np.uint64(11)) * 2.0**-53
    return (fractions * float(highest)).astype(np.uint64)


def _label_key(label: Any) -> int:
    text = label if isinstance(label, str) else str(int(label))
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers with a one-to-one function.

    Source: G. L. Steele, D. Lea and C. H. Flood, "Fast Splittable Pseudorandom Number Generators"
    (2014), the mixing function of SplitMix64.
    """
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
