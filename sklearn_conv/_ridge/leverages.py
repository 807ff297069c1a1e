"""Leverages of rows: how far they are from the training rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._array_api import Library, as_memory_error, to_numpy
from sklearn_conv._ridge.moments import Moments
from sklearn_conv._ridge.problem import REMEDY, center, find_scale, too_small
from sklearn_conv._ridge.products import BLOCK_BYTES, Factor, factorize, multiply, row_blocks


class Ranks(NamedTuple):
    """Numbers of rows, in order, among which other numbers are ranked."""

    known: np.ndarray
    """Sorted numbers ``(m,)``."""
    fractions: np.ndarray
    """Fraction of the weight ``(m + 1,)`` of the first of the rows."""

    @classmethod
    def make(cls, values: np.ndarray, weights: np.ndarray) -> Ranks:
        order = np.argsort(values)
        fractions = np.append(0, np.cumsum(weights[order]) / weights.sum())
        return cls(values[order], fractions)

    def find(self, values: np.ndarray) -> np.ndarray:
        """Return the fraction of the weight of the rows whose numbers are smaller."""
        return self.fractions[np.searchsorted(self.known, values)]


class Leverages(NamedTuple):
    """Distances of rows from the mean of the training rows, without themselves."""

    mean: Any
    scale: Any
    """Standard deviation of each feature ``(d,)``."""
    constant: list[int]
    alpha: float
    weight: float
    """Sum of the weights."""
    factor: Factor
    rows: Any = None
    """Kept rows ``(n, d)``, scaled and weighted, if the factor is that of their products."""
    ranks: tuple[Ranks, ...] = ()
    """Those of the leverages and of the squared norms of the kept rows, and of both together."""

    def measure(self, rows: Any) -> np.ndarray:
        """Return leverages and squared norms ``(2, n)`` of rows that are not in the factor."""
        xp, measured = Library.of(self.mean).xp, np.empty((2, rows.shape[0]))
        for block in row_blocks(rows.shape[0], 8 * rows.shape[1], BLOCK_BYTES):
            centered = center(rows[block, ...], self.mean, None, self.constant)
            if not bool(xp.all(xp.isfinite(centered))):  # Chunks of Dask are not checked before.
                raise ValueError("X contains NaN or infinity.")
            scaled = centered / self.scale
            squares = xp.linalg.vecdot(scaled, scaled, axis=-1)  # before they are overwritten
            right = centered.T if self.rows is None else multiply(self.rows, scaled.T)
            solved = self.factor.half_solve(right)
            found = xp.linalg.vecdot(solved, solved, axis=-2)
            found = found if self.rows is None else (squares - found) / self.alpha
            measured[0, block], measured[1, block] = to_numpy(found), to_numpy(squares)
        # Differences of squares that overflow are NaN.
        measured = np.where(np.isnan(measured), np.inf, measured)
        return measured + np.array([[1 / self.weight], [0]])

    @np.errstate(all="ignore")
    def rank(self, rows: Any) -> np.ndarray:
        """Return the fraction ``(n,)`` of the kept rows whose distance is smaller."""
        leverages, squares = self.measure(rows)
        *parts, total = self.ranks
        return total.find(_join_ranks(parts[0].find(leverages), parts[1].find(squares)))


def _join_ranks(leverages: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the ranks of leverages, or those of squared norms if these are far higher.

    Leverages notice more, but not that all features are weak, as those of a black image are. The
    highest percent of norms counts as the highest five percent of leverages.
    """
    return np.maximum(leverages, 1 - 5 * (1 - squares))


@np.errstate(all="ignore")
def measure_leverages(moments: Moments, alpha: float) -> Leverages:
    """Return the leverages for an alpha; no other thread may use the moments."""
    moments.flush()
    library, sums, kept = moments.library, moments.sums, moments.kept
    with as_memory_error(REMEDY):
        scale, constant = find_scale(moments)
        if sums.gram is None:
            rows = center(kept.rows, sums.mean, scale, constant)
            rows *= library.put(np.sqrt(kept.weights))[:, None]
            matrix = (rows @ rows.T).T  # in Fortran order
            diagonal = library.xp.linalg.vecdot(rows, rows) + alpha
        else:
            rows, diagonal = None, sums.squares + alpha * scale**2
            # The next factor, and rows that are added, change the triangle of this factor.
            matrix = sums.gram.copy("K") if library.xp is np else sums.gram
            matrix = matrix if sums.rest is None else matrix + sums.rest
        factor = factorize(matrix, diagonal, constant if rows is None else ())
        if factor is None:
            raise too_small(alpha)
        found = Leverages(sums.mean, scale, constant, alpha, sums.weight, factor, rows)
        leverages, squares = found.measure(kept.rows)
    left = 1 - kept.weights * leverages
    leverages = np.where(left > 0, leverages / left, np.inf)
    squares = squares / (1 - kept.weights / sums.weight) ** 2  # from the mean of the others
    parts = [Ranks.make(values, kept.weights) for values in (leverages, squares)]
    both = _join_ranks(parts[0].find(leverages), parts[1].find(squares))
    return found._replace(ranks=(*parts, Ranks.make(both, kept.weights)))
