"""Moments of rows that are arrays of PyTorch, CuPy or array-api-strict."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np

from sklearn_conv._array_api import Library, as_memory_error
from sklearn_conv._ridge.blocks import BLOCK_ROWS
from sklearn_conv._ridge.keys import draw_again, number_keys
from sklearn_conv._ridge.labels import match_labels, union_labels
from sklearn_conv._ridge.moments import N_KEPT, Rows, check_whole
from sklearn_conv._ridge.products import SINGLE_FEATURES, SINGLE_ROWS

REMEDY = (
    "The products of d features take 8 * d**2 bytes on the device, and several times as many while "
    "they are added or solved; use fewer kernels or grid cells."
)


class Sums(NamedTuple):
    """Sums over rows; d is the number of features, and k that of the columns of the targets."""

    weight: float
    """Sum of the weights."""
    mean: Any
    """Mean of each feature ``(d,)``."""
    target_mean: Any
    """Mean of each column ``(k,)``."""
    gram: Any
    """Products of the centered features ``(d, d)``."""
    products: Any
    """Products of the centered features and the centered columns ``(d, k)``."""


class ArrayApiMoments:
    """Weights, means and centered products of rows and targets, and a sample of the rows.

    This is what `Moments` is for arrays of NumPy. Labels of classes are columns of 0 and 1. Sums
    over two sets of rows are combined with a correction for the difference of their means. They
    are float64. On devices without float64 they are float32, and what rounding takes from the
    products of the features is added up in ``rest``.

    Of more than `N_KEPT` rows, those with the lowest keys are kept. The key of a row is a hash of
    its number, so that the sample does not depend on batches, but on the order of the rows.
    """

    sums: Sums
    """Sums over the rows so far."""

    rest: Any
    """What ``sums.gram`` lacks; None in float64."""

    classes: np.ndarray | None
    """Sorted labels of the columns; None for a regression."""

    kept: Any
    """Features ``(m, d)`` of the rows that are kept."""

    kept_targets: Any
    """Columns ``(m, k)`` of these rows."""

    kept_weights: np.ndarray
    keys: np.ndarray
    """Keys ``(m,)`` of these rows, which are all different."""

    is_whole: bool
    """False while the sums change, and permanently if this was interrupted."""

    n_writes: int
    """Number of times that rows were added."""

    @as_memory_error(REMEDY)
    def __init__(self, like: Any, classes: np.ndarray | None, n_targets: int) -> None:
        """Begin with no rows; ``like`` is an array of features, on the device of the sums."""
        library = Library.of(like)
        self.library, d, k = library, like.shape[1], n_targets
        dtype = library.widest
        self.sums = Sums(
            weight=0.0,
            mean=library.zeros((d,), dtype),
            target_mean=library.zeros((k,), dtype),
            gram=library.zeros((d, d), dtype),
            products=library.zeros((d, k), dtype),
        )
        self.rest = None if library.has_float64 else library.zeros((d, d), dtype)
        self.classes = classes
        self.n_rows = 0
        self.kept = library.zeros((0, d), like.dtype)
        self.kept_targets = library.zeros((0, k), dtype)
        self.kept_weights = np.zeros(0)
        self.keys = np.zeros(0, np.uint64)
        self.is_whole = True
        self.n_writes = 0

    @property
    def mean(self) -> Any:
        """Mean of each feature ``(d,)``."""
        return self.sums.mean

    @as_memory_error(REMEDY)
    def add(self, added: Rows) -> None:
        """Add rows, whose targets and weights are arrays of NumPy."""
        check_whole(self.is_whole)
        if self.classes is not None:
            self._set_classes(union_labels(self.classes, np.unique(added.targets)))
        n = added.rows.shape[0]
        for start in range(0, n, BLOCK_ROWS):
            n_writes = self.n_writes
            block = slice(start, min(start + BLOCK_ROWS, n))
            rows, targets = added.rows[block, ...], added.targets[block]
            weights = added.weights[block]
            if self.classes is not None:
                targets = match_labels(targets, self.classes)
            columns = self.library.put(targets.astype(np.float64))
            keys = number_keys(self.n_rows, len(weights))
            sums = self._sum(rows, columns, weights)
            self._add(sums, self._choose(rows, columns, weights, keys), n_writes)
            self.n_rows += len(weights)
        self.is_whole = True

    @as_memory_error(REMEDY)
    def merge(self, other: ArrayApiMoments) -> None:
        """Add the rows of other moments, which are not changed."""
        check_whole(self.is_whole)
        check_whole(other.is_whole)
        n_writes, sums, kept_targets = self.n_writes, other.sums, other.kept_targets
        if self.classes is not None and other.classes is not None:
            self._set_classes(union_labels(self.classes, other.classes))
            sums, kept_targets = other._with_classes(self.classes)
        highest = int(other.keys.max()) if len(other.keys) >= N_KEPT else 2**64 - 1
        keys = draw_again(other.keys, self.n_rows, highest)
        if other.rest is not None:
            sums = sums._replace(gram=sums.gram + other.rest)
        n_rows = self.n_rows + other.n_rows
        kept = self._choose(other.kept, kept_targets, other.kept_weights, keys)
        self._add(sums, kept, n_writes)
        self.n_rows = n_rows
        self.is_whole = True

    def begin_solving(self) -> int:
        """Return ``n_writes``."""
        check_whole(self.is_whole)
        return self.n_writes

    def to_dict(self) -> dict[str, Any]:
        """Return a snapshot of arrays and numbers."""
        state = {**vars(self), "sums": tuple(self.sums)}
        del state["library"]
        return state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the moments that a snapshot contains."""
        moments = cls.__new__(cls)
        vars(moments).update(state)
        moments.sums = Sums(*state["sums"])
        moments.library = Library.of(moments.sums.mean)
        return moments

    def _sum(self, rows: Any, columns: Any, weights: np.ndarray) -> Sums:
        """Return the sums over a block of rows."""
        xp, library = self.library.xp, self.library
        n, d = rows.shape
        is_single = rows.dtype == xp.float32 and d >= SINGLE_FEATURES and n >= SINGLE_ROWS
        total = float(weights.sum())
        factors = library.put(weights)
        wide = xp.astype(rows, library.widest, copy=False)
        mean, target_mean = (factors @ values / total for values in (wide, columns))
        centered, targets = wide - mean, columns - target_mean
        if (weights != 1).any():
            roots = xp.sqrt(factors)[:, None]
            centered, targets = centered * roots, targets * roots
        products = centered.T @ targets
        if is_single:
            centered = xp.astype(centered, xp.float32, copy=False)
        gram = xp.astype(centered.T @ centered, library.widest, copy=False)
        return Sums(total, mean, target_mean, gram, products)

    def _add(
        self, added: Sums, kept: tuple[Any, Any, np.ndarray, np.ndarray], n_writes: int
    ) -> None:
        """Add sums, and replace the rows that are kept; ``is_whole`` is False afterwards.

        ``n_writes`` is the number of writes before ``kept`` was chosen.
        """
        sums = self.sums
        weight = sums.weight + added.weight
        factor = (sums.weight * added.weight / weight) ** 0.5
        fraction = added.weight / weight
        shift, target_shift = added.mean - sums.mean, added.target_mean - sums.target_mean
        row, target = shift * factor, target_shift * factor
        gram = added.gram + row[:, None] * row[None, :]
        combined = Sums(
            weight=weight,
            mean=sums.mean + fraction * shift,
            target_mean=sums.target_mean + fraction * target_shift,
            gram=sums.gram + gram,
            products=sums.products + added.products + row[:, None] * target[None, :],
        )
        rest = self.rest
        if rest is not None:
            # The difference between a rounded sum and the exact sum of two numbers. Source: D. E.
            # Knuth, "The Art of Computer Programming", volume 2 (1997), section 4.2.2.
            seen = combined.gram - sums.gram
            rest = rest + ((sums.gram - (combined.gram - seen)) + (gram - seen))
        if self.n_writes != n_writes:
            raise RuntimeError(
                "A signal handler has added rows to this model during a call that adds rows. The "
                "rows of this call were not added; add them again."
            )
        self.is_whole = False
        self.n_writes += 1
        self.sums, self.rest = combined, rest
        self.kept, self.kept_targets, self.kept_weights, self.keys = kept

    def _choose(
        self, rows: Any, columns: Any, weights: np.ndarray, keys: np.ndarray
    ) -> tuple[Any, Any, np.ndarray, np.ndarray]:
        """Return the rows that are kept if more rows are added, with columns, weights and keys."""
        library, n_before = self.library, len(self.keys)
        all_keys = np.concatenate([self.keys, keys])
        chosen = np.sort(np.argsort(all_keys, kind="stable")[:N_KEPT])
        old, new = chosen[chosen < n_before], chosen[chosen >= n_before] - n_before
        if not len(new):
            return self.kept, self.kept_targets, self.kept_weights, self.keys
        kept, kept_columns = (
            library.xp.concat(
                [
                    library.xp.take(earlier, library.put(old), axis=0),
                    library.xp.take(values, library.put(new), axis=0),
                ]
            )
            for earlier, values in ((self.kept, rows), (self.kept_targets, columns))
        )
        kept_weights = np.concatenate([self.kept_weights[old], weights[new]])
        return kept, kept_columns, kept_weights, all_keys[chosen]

    def _set_classes(self, classes: np.ndarray) -> None:
        self.sums, self.kept_targets = self._with_classes(classes)
        self.classes = classes

    def _with_classes(self, classes: np.ndarray) -> tuple[Sums, Any]:
        """Return sums and columns of the kept rows, with columns of zeros for further classes."""
        assert self.classes is not None
        if len(classes) == len(self.classes):
            return self.sums, self.kept_targets
        spread, sums = self.library.put(match_labels(self.classes, classes)), self.sums
        sums = sums._replace(target_mean=sums.target_mean @ spread, products=sums.products @ spread)
        return sums, self.kept_targets @ spread
