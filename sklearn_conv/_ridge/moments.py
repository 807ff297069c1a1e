"""`Moments`: the sums over rows from which ridge regression is solved."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import blas

from sklearn_conv._ridge.keys import N_SLOTS, draw_again, mark_repeats, row_keys
from sklearn_conv._ridge.labels import align_labels, union_labels

N_KEPT = 2_000
"""Number of rows that are kept; alpha is chosen by their leave-one-out errors."""

N_WAITING = 128
"""Number of rows up to which small batches wait, in order to be added together. Every addition
reads and writes all products, so it takes about the same time for one row and for many rows."""

BLOCK_BYTES = 64 * 2**20
"""Approximate size in float64 of the rows that are added or predicted at once."""


def row_blocks(rows: np.ndarray) -> Iterator[slice]:
    """Yield slices of consecutive rows, each of about `BLOCK_BYTES` in float64."""
    n_rows, n_features = rows.shape
    length = max(1, BLOCK_BYTES // (np.dtype(np.float64).itemsize * n_features))
    for start in range(0, n_rows, length):
        yield slice(start, start + length)


class Sample(NamedTuple):
    """Rows that are kept."""

    rows: np.ndarray
    """Features ``(m, d)``."""
    labels: np.ndarray
    """Labels ``(m,)``."""
    order: np.ndarray
    """Keys ``(m,)`` in ascending order, which are all different."""
    counts: np.ndarray
    """Number of rows with each key ``(m,)``."""
    slots: np.ndarray
    """Table in which repeated rows are noticed; see `mark_repeats`."""


class Moments:
    """Number, means and centered products of rows, and a sample of the rows.

    All sums are float64. Sums over two sets of rows are combined with a correction for the
    difference of their means, which never subtracts large numbers from each other.

    Rows of small batches wait until there are enough of them, or until the sums are needed. They
    are lists of rows until `flush` adds them to the sums.

    As long as there are up to `N_KEPT` rows, all rows are kept. Of more rows, those with the lowest
    keys are kept. The key of a row is a hash of its features and its label, so that the sample
    depends neither on the order of the rows nor on batches and parts. If this were the key of
    repeated rows as well, then all of them would be kept or none. Therefore the key of a repeated
    row also depends on its row number. Repeated rows that are far apart are not noticed; they have
    the same key, and one of them is kept with their number.

    The arrays for a change are computed first. Then ``is_whole`` is set to False, the sums change,
    and ``is_whole`` is set to True. An error in the first step changes nothing.

    Only ``gram`` and ``waiting`` are changed in place. All other arrays are replaced by new arrays,
    so that copies of the moments may share them.

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
    """Keys ``(m,)`` of the kept rows; not used while all rows are kept, in the order in which they
    were added."""

    waiting: list[tuple[np.ndarray, np.ndarray]]
    """Rows ``(b, d)`` and labels ``(b,)`` that are not in the sums yet."""

    is_whole: bool
    """False while the sums change, and permanently if this was interrupted."""

    n_writes: int
    """Number of times that rows were added, or that a method began to write to ``gram``."""

    def __init__(self, n_features: int, dtype: np.dtype) -> None:
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
        self.kept_counts = np.zeros(0, np.int64)
        self.slots = np.zeros(0, np.uint64)
        self.waiting = []
        self.is_whole = True
        self.n_writes = 0
        self._adding_process = 0

    @property
    def n_rows(self) -> int:
        """Number of rows, with those that wait."""
        return self._n_summed + self._n_waiting

    @property
    def variances(self) -> np.ndarray:
        """Variance of each feature ``(d,)``; 1 for features that are constant up to rounding."""
        n_rows = self._n_summed
        if self.gram is None:
            variances = np.square(self.kept_rows - self.mean).mean(axis=0)
        else:
            variances = self.squares / n_rows
        if not np.isfinite(variances).all():
            raise ValueError(
                "The squares of some features overflow float64; divide the features by their "
                "standard deviation first."
            )
        eps = np.finfo(np.float64).eps
        # StandardScaler uses the same bound for the variance that rounding causes in a constant
        # feature.
        bound = n_rows * eps * variances + np.square(n_rows * eps * self.mean)
        return np.where(variances <= bound, 1.0, variances)

    def add(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Add rows. If an error occurs before the sums change, no row is added."""
        self.require_whole()
        if not len(rows):
            return
        if len(rows) >= N_WAITING and not self._is_adding():
            self.flush()
            self._add(rows, labels, 0)
            return
        # The caller may change its arrays later, so the rows that wait are copies.
        pieces = [*self.waiting, (np.array(rows), np.array(labels))]
        if self._n_waiting + len(rows) < N_WAITING or self._is_adding():
            self.waiting.append(pieces[-1])
            self.n_writes += 1
        else:
            self._add(*concatenate_rows(pieces), len(pieces) - 1)

    def merge(self, other: Moments) -> None:
        """Add the rows of other moments, which are not changed."""
        self.require_whole()
        other.require_whole()
        if other is self or self._n_waiting + other._n_waiting >= N_WAITING:
            self.flush()
        waiting = [*other.waiting]
        if other.gram is None:
            self.add(other.kept_rows, other.kept_labels)
        else:
            self._merge_sums(other)
        self.n_writes += 1
        self.waiting += waiting

    def flush(self) -> None:
        """Add the rows that wait to the sums. If there is an error, they go on waiting."""
        self.require_whole()
        while self.waiting and not self._is_adding():
            pieces = [*self.waiting]
            self._add(*concatenate_rows(pieces), len(pieces))

    def begin_solving(self) -> int:
        """Prepare to overwrite the work space in ``gram``, and return ``n_writes``."""
        self.flush()
        self.n_writes += 1
        n_writes = self.n_writes
        if self.waiting or self._is_adding():
            raise RuntimeError(
                "A signal handler cannot solve a model while it interrupts a call that adds rows."
            )
        return n_writes

    def require_whole(self) -> None:
        """Raise RuntimeError if an earlier call was interrupted while it added rows."""
        if not self.is_whole:
            raise RuntimeError(
                "An earlier partial_fit or merge was interrupted while it added rows, so the sums "
                "are incomplete; fit again from the first row."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a snapshot of arrays and numbers, with only the products below the diagonal."""
        state = {
            **vars(self),
            "gram": None if self.gram is None else _pack(self.gram),
            "waiting": [*self.waiting],
        }
        del state["n_writes"], state["_adding_process"]
        return state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the moments that a snapshot contains."""
        kept = state["kept_rows"]
        moments = cls(kept.shape[1], kept.dtype)
        # Early snapshots contain the number of rows, and one count for each kept row is implied.
        earlier = {"kept_counts": np.ones(len(kept), np.int64)}
        vars(moments).update(earlier | {name: state[name] for name in state if name != "n_rows"})
        moments.waiting = [*moments.waiting]
        if state["gram"] is not None:
            moments.gram = _unpack(state["gram"], len(moments.mean))
        return moments

    @property
    def _n_summed(self) -> int:
        return int(self.counts.sum())

    @property
    def _n_waiting(self) -> int:
        return sum(len(labels) for _, labels in self.waiting)

    def _is_adding(self) -> bool:
        """Return whether rows are being added, which only a signal handler can see.

        In a forked process, the thread that was adding rows does not exist.
        """
        return self._adding_process == os.getpid()

    def _begin_writing(self) -> None:
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

    def _add(self, rows: np.ndarray, labels: np.ndarray, n_pieces: int) -> None:
        """Add rows to the sums; the first ``n_pieces`` pieces no longer wait."""
        self._adding_process = os.getpid()
        try:
            # Overflow is reported when the moments are solved.
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                for block in row_blocks(rows):
                    self._add_block(rows[block], labels[block])
            del self.waiting[:n_pieces]
            self.is_whole = True
        finally:
            self._adding_process = 0

    def _add_block(self, X: np.ndarray, labels: np.ndarray) -> None:
        """Add a block of rows; ``is_whole`` stays False afterwards."""
        classes, codes = np.unique(labels, return_inverse=True)
        counts = np.bincount(codes)
        columns = np.empty((len(X) + 1, X.shape[1]))
        rows = columns[:-1]  # (b, d); a copy, which is centered below
        rows[:] = X
        # (k, d): sums of the rows of each class
        sums = np.stack([rows[codes == code].sum(axis=0) for code in range(len(classes))])
        means = self._add_means(classes, counts, sums / counts[:, np.newaxis])
        sample = self._keep(X, labels, classes, codes)
        n_earlier, mean = self._n_summed, sums.sum(axis=0) / len(rows)
        if not self._needs_products(n_earlier + len(rows)):
            self._begin_writing()
        else:
            gram, squares = self._products()
            rows -= mean
            weight = np.sqrt(n_earlier * len(rows) / (n_earlier + len(rows)))
            columns[-1] = (mean - self.mean) * weight
            self._begin_writing()
            np.fill_diagonal(gram, squares)
            gram = blas.dsyrk(1.0, columns.T, beta=1.0, c=gram, lower=1, overwrite_c=1)
            self._set_products(gram)
        self._set_means(*means)
        self._set_kept(sample)

    def _merge_sums(self, other: Moments) -> None:
        """Add the rows in the sums of other moments, which have products."""
        if self._is_adding():
            raise RuntimeError(
                "A signal handler cannot merge models while it interrupts a call that adds rows."
            )
        assert other.gram is not None
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            means = self._add_means(other.classes, other.counts, other.class_means)
            sample = self._keep_sample(other)
            gram, squares = self._products()
            n_rows, n_other = self._n_summed, other._n_summed
            shift = (other.mean - self.mean) * np.sqrt(n_rows * n_other / (n_rows + n_other))
            squares = squares + other.squares
            self._begin_writing()
            gram += other.gram
            np.fill_diagonal(gram, squares)
            self._set_products(blas.dsyr(1.0, shift, lower=1, a=gram, overwrite_a=1))
            self._set_means(*means)
            self._set_kept(sample)
        self.is_whole = True

    def _add_means(
        self, classes: np.ndarray, counts: np.ndarray, means: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the new classes, counts, class means and mean.

        The means of the added rows are given for each class, ``(k, d)``.
        """
        all_classes = union_labels(self.classes, classes)
        all_classes, earlier_classes, added_classes = align_labels(
            all_classes, self.classes, classes
        )
        new_counts = np.zeros(len(all_classes), np.int64)
        new_means = np.zeros((len(all_classes), len(self.mean)))
        earlier = np.searchsorted(all_classes, earlier_classes)  # indices of the earlier classes
        added = np.searchsorted(all_classes, added_classes)
        new_counts[earlier], new_means[earlier] = self.counts, self.class_means
        new_counts[added] += counts
        weights = counts / np.maximum(new_counts[added], 1)
        new_means[added] += weights[:, np.newaxis] * (means - new_means[added])
        n_added = counts.sum()
        mean = counts @ means / n_added  # (d,)
        mean = self.mean + (mean - self.mean) * (n_added / new_counts.sum())
        return all_classes, new_counts, new_means, mean

    def _set_means(
        self, classes: np.ndarray, counts: np.ndarray, class_means: np.ndarray, mean: np.ndarray
    ) -> None:
        self.classes, self.counts, self.class_means, self.mean = classes, counts, class_means, mean

    def _keeps_all(self) -> bool:
        return len(self.kept_rows) == self._n_summed

    def _keep(
        self, rows: np.ndarray, labels: np.ndarray, classes: np.ndarray, codes: np.ndarray
    ) -> Sample:
        """Return the sample with more rows; the labels are ``classes[codes]``."""
        if self._keeps_all() and self._n_summed + len(rows) <= N_KEPT:
            all_rows, all_labels = concatenate_rows(
                [(self.kept_rows, self.kept_labels), (rows, labels)]
            )
            counts = np.ones(len(all_rows), np.int64)
            return Sample(all_rows, all_labels, self.kept_order, counts, self.slots)
        keys = row_keys(rows, classes, codes)
        return _draw(self._sample(), rows, labels, keys, self._n_summed)

    def _keep_sample(self, other: Moments) -> Sample:
        """Return the sample with the rows of other moments."""
        if other._keeps_all():
            unique = np.unique(other.kept_labels, return_inverse=True)
            return self._keep(other.kept_rows, other.kept_labels, *unique)
        sample, added = self._sample(), other._sample()
        # Rows with the same row number were repeated in both parts. Their keys must differ.
        is_repeated = added.order != row_keys(
            added.rows, *np.unique(added.labels, return_inverse=True)
        )
        highest = int(added.order[-1]) if len(added.order) >= N_KEPT else 2**64 - 1
        order = np.where(is_repeated, draw_again(added.order, self._n_summed, highest), added.order)
        slots = np.where(added.slots != 0, added.slots, sample.slots)
        return _select([sample, added._replace(order=order)], slots)

    def _sample(self) -> Sample:
        """Return the kept rows with their keys."""
        slots = self.slots if len(self.slots) else np.zeros(N_SLOTS, np.uint64)
        if not self._keeps_all():
            return Sample(
                self.kept_rows, self.kept_labels, self.kept_order, self.kept_counts, slots
            )
        nothing = Sample(
            self.kept_rows[:0],
            self.kept_labels[:0],
            np.zeros(0, np.uint64),
            np.zeros(0, np.int64),
            slots,
        )
        keys = row_keys(self.kept_rows, *np.unique(self.kept_labels, return_inverse=True))
        return _draw(nothing, self.kept_rows, self.kept_labels, keys, 0)

    def _set_kept(self, sample: Sample) -> None:
        self.kept_rows, self.kept_labels, self.kept_order = sample[:3]
        self.kept_counts, self.slots = sample[3:]


def _draw(
    sample: Sample, rows: np.ndarray, labels: np.ndarray, keys: np.ndarray, start: int
) -> Sample:
    """Return the sample with more rows, the first of which is row number ``start``."""
    order, slots = mark_repeats(keys, start, sample.slots)
    if len(sample.order) >= N_KEPT:
        # Most rows of later batches come after all kept rows in order, and are not copied.
        is_candidate = order <= sample.order[-1]
        if not is_candidate.any():
            return sample._replace(slots=slots)
        rows, labels, order = rows[is_candidate], labels[is_candidate], order[is_candidate]
    added = Sample(rows, labels, order, np.ones(len(rows), np.int64), slots)
    return _select([sample, added], slots)


def _select(samples: list[Sample], slots: np.ndarray) -> Sample:
    """Return the rows of samples with the lowest keys; rows with the same key are counted."""
    order = np.concatenate([sample.order for sample in samples])
    order, first, inverse = np.unique(order, return_index=True, return_inverse=True)
    counts = np.zeros(len(order), np.int64)
    np.add.at(counts, inverse, np.concatenate([sample.counts for sample in samples]))
    rows, labels = concatenate_rows([(sample.rows, sample.labels) for sample in samples])
    chosen = first[:N_KEPT]
    return Sample(rows[chosen], labels[chosen], order[:N_KEPT], counts[:N_KEPT], slots)


def concatenate_rows(
    pieces: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate rows and labels. Empty labels have no dtype."""
    rows = np.concatenate([rows for rows, _ in pieces])
    labels = [labels for _, labels in pieces if len(labels)]
    return rows, np.concatenate(align_labels(*labels)) if labels else np.array([])


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
