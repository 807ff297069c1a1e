"""`Moments`: the sums over rows from which ridge regression is solved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from scipy.linalg import blas

N_KEPT = 2_000
"""Number of rows that are kept; alpha is chosen by their leave-one-out errors."""

BLOCK_BYTES = 64 * 2**20
"""Approximate size in float64 of the rows that are added or predicted at once."""


def row_blocks(rows: np.ndarray) -> Iterator[slice]:
    """Yield slices of consecutive rows, each of about `BLOCK_BYTES` in float64."""
    n_rows, n_features = rows.shape
    length = max(1, BLOCK_BYTES // (np.dtype(np.float64).itemsize * n_features))
    for start in range(0, n_rows, length):
        yield slice(start, start + length)


class Moments:
    """Number, means and centered products of rows, and a sample of the rows.

    All sums are float64. Sums over two sets of rows are combined with a correction for the
    difference of their means, which never subtracts large numbers from each other.

    Only ``gram`` is changed in place. All other arrays are replaced by new arrays, so that copies
    of the moments may share them.

    Source: T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the Sample
    Variance: Analysis and Recommendations" (1983).
    """

    gram: np.ndarray | None
    """Centered products ``(d, d)``, in Fortran order. The part below the diagonal is the sum of
    ``(row - mean)(row - mean)'``; the diagonal and the upper triangle are work space of the solver.
    None while all rows are kept and there are no more rows than features."""

    squares: np.ndarray
    """Diagonal ``(d,)`` of the products; not used while ``gram`` is None."""

    kept_order: np.ndarray
    """Hashes ``(m,)`` of the row numbers of the kept rows. The `N_KEPT` rows with the lowest hashes
    are kept, so that the sample does not depend on the batches."""

    is_whole: bool
    """False while rows are being added, and permanently if this was interrupted."""

    n_writes: int
    """Number of times that a method began to write to ``gram``, to its sums or its work space."""

    def __init__(self, n_features: int, dtype: np.dtype) -> None:
        self.n_rows = 0
        self.mean = np.zeros(n_features)
        self.classes = np.array([])  # (k,)
        self.counts = np.zeros(0, np.int64)  # (k,)
        self.class_means = np.zeros((0, n_features))  # (k, d)
        self.gram = None
        self.squares = np.zeros(n_features)
        kept_dtype = dtype if dtype == np.float32 else np.dtype(np.float64)
        self.kept_rows = np.zeros((0, n_features), kept_dtype)  # (m, d)
        self.kept_labels = np.array([])  # (m,)
        self.kept_order = np.zeros(0, np.uint64)
        self.is_whole = True
        self.n_writes = 0

    @property
    def variances(self) -> np.ndarray:
        """Variance of each feature ``(d,)``; 1 for features that are constant up to rounding."""
        if self.gram is None:
            variances = np.square(self.kept_rows - self.mean).mean(axis=0)
        else:
            variances = self.squares / self.n_rows
        if not np.isfinite(variances).all():
            raise ValueError(
                "The squares of some features overflow float64; divide the features by their "
                "standard deviation first."
            )
        eps = np.finfo(np.float64).eps
        # StandardScaler uses the same bound for the variance that rounding causes in a constant
        # feature.
        bound = self.n_rows * eps * variances + np.square(self.n_rows * eps * self.mean)
        return np.where(variances <= bound, 1.0, variances)

    def add(self, rows: np.ndarray, labels: np.ndarray, start: int) -> None:
        """Add rows, the first of which is row number ``start``."""
        self._begin()
        # Overflow is reported when the moments are solved.
        with np.errstate(over="ignore", invalid="ignore"):
            for block in row_blocks(rows):
                self._add_block(rows[block], labels[block], start + block.start)
        self.is_whole = True

    def merge(self, other: Moments) -> None:
        """Add the rows of other moments, which are not changed."""
        other.require_whole()
        self._begin()
        with np.errstate(over="ignore", invalid="ignore"):
            n_rows = self.n_rows + other.n_rows
            if self._needs_products(n_rows) or other.gram is not None:
                gram, squares = self._products()
                other_gram, other_squares = other._products()
                gram += other_gram
                np.fill_diagonal(gram, squares + other_squares)
                shift = (other.mean - self.mean) * np.sqrt(self.n_rows * other.n_rows / n_rows)
                self._set_products(blas.dsyr(1.0, shift, lower=1, a=gram, overwrite_a=1))
            # The products depend on the earlier means and rows, so these are changed last.
            self._add_means(other.classes, other.counts, other.class_means)
            self._keep(other.kept_rows, other.kept_labels, other.kept_order)
        self.is_whole = True

    def require_whole(self) -> None:
        """Raise RuntimeError if an earlier call was interrupted while it added rows."""
        if not self.is_whole:
            raise RuntimeError(
                "An earlier partial_fit or merge was interrupted while it added rows, so the sums "
                "are incomplete; fit again from the first row."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a snapshot of arrays and numbers, with only the products below the diagonal."""
        state = {**vars(self), "gram": None if self.gram is None else _pack(self.gram)}
        del state["n_writes"]
        return state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the moments that a snapshot contains."""
        moments = cls.__new__(cls)
        vars(moments).update(state, n_writes=0)
        if state["gram"] is not None:
            moments.gram = _unpack(state["gram"], len(moments.mean))
        return moments

    def _begin(self) -> None:
        """Begin to add rows."""
        self.require_whole()
        self.is_whole = False
        self.n_writes += 1

    def _needs_products(self, n_rows: int) -> bool:
        """Return whether products are needed for ``n_rows`` rows; few rows are kept instead."""
        return self.gram is not None or n_rows > min(N_KEPT, len(self.mean))

    def _products(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the products, which are valid below the diagonal, and their diagonal."""
        if self.gram is not None:
            return self.gram, self.squares
        n_features = len(self.mean)
        try:
            gram = np.zeros((n_features, n_features), order="F")
        except MemoryError as error:
            raise MemoryError(
                f"{error}; this is the array of products of {n_features} features. Use fewer "
                "kernels or grid cells."
            ) from None
        centered = self.kept_rows - self.mean
        gram = blas.dsyrk(1.0, centered.T, lower=1, c=gram, overwrite_c=1)
        return gram, gram.diagonal().copy()

    def _set_products(self, gram: np.ndarray) -> None:
        """Set the products from an array that is valid on and below the diagonal."""
        self.gram, self.squares = gram, gram.diagonal().copy()

    def _add_block(self, X: np.ndarray, labels: np.ndarray, start: int) -> None:
        classes, codes = np.unique(labels, return_inverse=True)
        counts = np.bincount(codes)
        rows = X.astype(np.float64)  # (b, d); a copy, which is centered below
        # (k, d): sums of the rows of each class
        sums = np.stack([rows[codes == code].sum(axis=0) for code in range(len(classes))])
        n_rows, mean = self.n_rows + len(rows), sums.sum(axis=0) / len(rows)
        if self._needs_products(n_rows):
            gram, squares = self._products()
            np.fill_diagonal(gram, squares)
            rows -= mean
            shift = (mean - self.mean) * np.sqrt(self.n_rows * len(rows) / n_rows)
            for columns in (rows.T, shift[:, np.newaxis]):  # (d, b), (d, 1)
                gram = blas.dsyrk(1.0, columns, beta=1.0, c=gram, lower=1, overwrite_c=1)
            self._set_products(gram)
        # The products depend on the earlier means and rows, so these are changed last.
        self._add_means(classes, counts, sums / counts[:, np.newaxis])
        self._keep(X, labels, _shuffle(start + np.arange(len(X), dtype=np.uint64)))

    def _add_means(self, classes: np.ndarray, counts: np.ndarray, means: np.ndarray) -> None:
        """Add rows whose mean in each class is given, ``(k, d)``."""
        # Without earlier rows, the classes are an empty float array, and np.union1d would cast the
        # labels to float.
        all_classes = np.union1d(self.classes, classes) if len(self.classes) else classes
        new_counts = np.zeros(len(all_classes), np.int64)
        new_means = np.zeros((len(all_classes), len(self.mean)))
        earlier = np.searchsorted(all_classes, self.classes)  # indices of the earlier classes
        added = np.searchsorted(all_classes, classes)
        new_counts[earlier], new_means[earlier] = self.counts, self.class_means
        new_counts[added] += counts
        weights = counts / np.maximum(new_counts[added], 1)
        new_means[added] += weights[:, np.newaxis] * (means - new_means[added])
        n_added = counts.sum()
        n_rows = self.n_rows + n_added
        if n_added:
            mean = counts @ means / n_added  # (d,)
            self.mean = self.mean + (mean - self.mean) * (n_added / n_rows)
        self.classes, self.counts, self.class_means = all_classes, new_counts, new_means
        self.n_rows = int(n_rows)

    def _keep(self, rows: np.ndarray, labels: np.ndarray, order: np.ndarray) -> None:
        """Add rows to the kept ones, and keep the first `N_KEPT` rows in order."""
        if len(self.kept_rows) == N_KEPT:
            # Most rows of later batches come after all kept rows in order, and are not copied.
            is_candidate = order < self.kept_order.max()
            rows, labels, order = rows[is_candidate], labels[is_candidate], order[is_candidate]
        if not len(rows):
            return
        if len(self.kept_rows):
            labels = np.concatenate([self.kept_labels, labels])
        rows = np.concatenate([self.kept_rows, rows])
        order = np.concatenate([self.kept_order, order])
        chosen = np.argsort(order, kind="stable")[:N_KEPT]
        self.kept_rows, self.kept_labels = rows[chosen], labels[chosen]
        self.kept_order = order[chosen]


def _pack(gram: np.ndarray) -> np.ndarray:
    """Return the elements below the diagonal, column by column."""
    return np.concatenate([gram[i + 1 :, i] for i in range(len(gram))])


def _unpack(packed: np.ndarray, n_features: int) -> np.ndarray:
    """Return a matrix with the packed elements below the diagonal."""
    gram = np.zeros((n_features, n_features), order="F")
    start = 0
    for i in range(n_features):
        length = n_features - i - 1
        gram[i + 1 :, i] = packed[start : start + length]
        start += length
    return gram


def _shuffle(numbers: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers with a one-to-one function.

    Source: G. L. Steele, D. Lea and C. H. Flood, "Fast Splittable Pseudorandom Number Generators"
    (2014), the mixing function of SplitMix64.
    """
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
