"""`Moments`: the sums over rows from which ridge regression is solved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import blas

from sklearn_conv._array_api import namespace
from sklearn_conv._ridge.blocks import row_blocks
from sklearn_conv._ridge.keys import N_SLOTS, draw_again, mark_repeats, row_keys
from sklearn_conv._ridge.products import add_products, center_rows, is_single, pack, unpack
from sklearn_conv._ridge.targets import ClassSums, ColumnSums, TargetSums, concatenate_targets

N_KEPT = 2_000
"""Number of rows that are kept; alpha is chosen by their leave-one-out errors."""

N_WAITING = 128
"""Number of rows up to which small batches wait, in order to be added together. Every addition
reads and writes all products, so it takes about the same time for one row and for many rows."""


class Rows(NamedTuple):
    """Rows with their targets and weights."""

    rows: np.ndarray
    """Features ``(n, d)``."""
    targets: np.ndarray
    """Labels ``(n,)`` or columns of numbers ``(n, k)``."""
    weights: np.ndarray
    """Weights ``(n,)`` in float64, all above 0."""

    def take(self, index: Any) -> Rows:
        """Return some of the rows."""
        return Rows(*(array[index] for array in self))


class Sample(NamedTuple):
    """Rows that are kept."""

    kept: Rows
    order: np.ndarray
    """Keys ``(m,)`` in ascending order, which are all different."""
    counts: np.ndarray
    """Number of rows with each key ``(m,)``."""
    slots: np.ndarray
    """Table in which repeated rows are noticed; see `mark_repeats`."""


class Moments:
    """Weights, means and centered products of rows and targets, and a sample of the rows.

    All sums are float64; `add_products` may multiply rows in float32 before. Sums over two sets of
    rows are combined with a correction for the difference of their means, which never subtracts
    large numbers from each other.

    Rows of small batches wait until there are enough of them, or until the sums are needed. They
    are lists of rows until `flush` adds them to the sums.

    As long as there are up to `N_KEPT` rows, all rows are kept. Of more rows, those with the lowest
    keys are kept. The key of a row is a hash of its features, its target and its weight, so that
    the sample depends neither on the order of the rows nor on batches and parts. If this were the
    key of repeated rows as well, then all of them would be kept or none. Therefore the key of a
    repeated row also depends on its row number. Repeated rows that are far apart are not noticed;
    they have the same key, and one of them is kept with their number.

    The arrays for a change are computed first. Then ``is_whole`` is set to False, the sums change,
    and ``is_whole`` is set to True. An error in the first step changes nothing.

    Only ``gram`` and ``waiting`` are changed in place. All other arrays are replaced by new arrays,
    so that copies of the moments may share them.

    Source: T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the Sample
    Variance: Analysis and Recommendations" (1983).
    """

    targets: TargetSums
    """Weight and mean of the rows, and sums of their targets."""

    n_summed: int
    """Number of rows in the sums."""

    gram: np.ndarray | None
    """Centered products ``(d, d)``, in Fortran order. The part below the diagonal is the sum of
    ``weight * (row - mean)(row - mean)'``; the diagonal and the upper triangle are work space of
    the solver. None while all rows are kept and there are no more rows than features."""

    squares: np.ndarray
    """Diagonal ``(d,)`` of the products; not used while ``gram`` is None."""

    kept: Rows
    """Rows that are kept."""

    kept_order: np.ndarray
    """Keys ``(m,)`` of the kept rows; not used while all rows are kept, in the order in which they
    were added."""

    waiting: list[Rows]
    """Rows that are not in the sums yet."""

    is_whole: bool
    """False while the sums change, and permanently if this was interrupted."""

    n_writes: int
    """Number of times that rows were added, or that a method began to write to ``gram``."""

    def __init__(self, targets: TargetSums, kept: Rows) -> None:
        """Begin with no rows: ``kept`` has the shapes and dtypes of the rows that are kept."""
        self.targets = targets
        self.n_summed = 0
        self.gram = None
        self.squares = np.zeros(len(targets.mean))
        self.kept = kept
        self.kept_order = np.zeros(0, np.uint64)
        self.kept_counts = np.zeros(0, np.int64)
        self.slots = np.zeros(0, np.uint64)
        self.waiting = []
        self.is_whole = True
        self.n_writes = 0
        self._adding_process = 0

    @classmethod
    def of_classes(cls, n_features: int, dtype: np.dtype) -> Self:
        """Return moments without rows for class labels."""
        kept = Rows(_no_rows(n_features, dtype), np.array([]), np.zeros(0))
        return cls(ClassSums.empty(n_features), kept)

    @classmethod
    def of_columns(cls, n_features: int, dtype: np.dtype, n_targets: int) -> Self:
        """Return moments without rows for targets that are columns of numbers."""
        kept = Rows(_no_rows(n_features, dtype), np.zeros((0, n_targets)), np.zeros(0))
        return cls(ColumnSums.empty(n_features, n_targets), kept)

    @property
    def n_rows(self) -> int:
        """Number of rows, with those that wait."""
        return self.n_summed + self._n_waiting

    @property
    def mean(self) -> np.ndarray:
        """Mean of each feature ``(d,)``."""
        return self.targets.mean

    @property
    def variances(self) -> np.ndarray:
        """Variance of each feature ``(d,)``; 1 for features that are constant up to rounding."""
        if self.gram is None:
            squares = np.square(self.kept.rows - self.mean)
            variances = self.kept.weights @ squares / self.targets.weight
        else:
            variances = self.squares / self.targets.weight
        if not np.isfinite(variances).all():
            raise ValueError(
                "The squares of some features overflow float64; divide the features by their "
                "standard deviation first."
            )
        return replace_constant(variances, self.mean, self.n_summed)

    def add(self, added: Rows) -> None:
        """Add rows. If an error occurs before the sums change, no row is added."""
        self.require_whole()
        if not len(added.rows):
            return
        if len(added.rows) >= N_WAITING and not self._is_adding():
            self.flush()
            self._add(added, 0)
            return
        # The caller may change its arrays later, so the rows that wait are copies.
        pieces = [*self.waiting, Rows(*map(np.array, added))]
        if self._n_waiting + len(added.rows) < N_WAITING or self._is_adding():
            self.waiting.append(pieces[-1])
            self.n_writes += 1
        else:
            self._add(concatenate_rows(pieces), len(pieces) - 1)

    def merge(self, other: Moments) -> None:
        """Add the rows of other moments, which are not changed."""
        self.require_whole()
        other.require_whole()
        if other is self or self._n_waiting + other._n_waiting >= N_WAITING:
            self.flush()
        waiting = [*other.waiting]
        if other.gram is None:
            self.add(other.kept)
        else:
            self._merge_sums(other)
        self.n_writes += 1
        self.waiting += waiting

    def flush(self) -> None:
        """Add the rows that wait to the sums. If there is an error, they go on waiting."""
        self.require_whole()
        while self.waiting and not self._is_adding():
            pieces = [*self.waiting]
            self._add(concatenate_rows(pieces), len(pieces))

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
        check_whole(self.is_whole)

    def to_dict(self) -> dict[str, Any]:
        """Return a snapshot of arrays and numbers, with only the products below the diagonal."""
        state = {
            **vars(self),
            "targets": self.targets._asdict(),
            "gram": None if self.gram is None else pack(self.gram),
            "kept": tuple(self.kept),
            "waiting": [tuple(rows) for rows in self.waiting],
        }
        del state["n_writes"], state["_adding_process"]
        return state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the moments that a snapshot contains."""
        if "targets" not in state:
            state = _convert_early(state)
        fields = state["targets"]
        targets = ClassSums(**fields) if "classes" in fields else ColumnSums(**fields)
        moments = cls(targets, Rows(*state["kept"]))
        waiting = [Rows(*rows) for rows in state["waiting"]]
        gram = None if state["gram"] is None else unpack(state["gram"], len(targets.mean))
        changed = {"targets": targets, "kept": moments.kept, "waiting": waiting, "gram": gram}
        vars(moments).update(state | changed)
        return moments

    @property
    def _n_waiting(self) -> int:
        return sum(len(piece.rows) for piece in self.waiting)

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
        centered = self.kept.rows - self.mean
        centered *= np.sqrt(self.kept.weights[:, np.newaxis])
        gram = blas.dsyrk(1.0, centered.T, lower=1, c=gram, overwrite_c=1)
        return gram, gram.diagonal().copy()

    def _add(self, added: Rows, n_pieces: int) -> None:
        """Add rows to the sums; the first ``n_pieces`` pieces no longer wait."""
        self._adding_process = os.getpid()
        try:
            # Overflow is reported when the moments are solved.
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                for block in row_blocks(added.rows, is_single(added.rows)):
                    self._add_block(added.take(block))
            del self.waiting[:n_pieces]
            self.is_whole = True
        finally:
            self._adding_process = 0

    def _add_block(self, block: Rows) -> None:
        """Add a block of rows; ``is_whole`` stays False afterwards."""
        sums = self.targets.of_rows(*block)
        targets = self.targets.combine(sums)
        sample = self._keep(block)
        n_summed = self.n_summed + len(block.rows)
        if not self._needs_products(n_summed):
            self._begin_writing()
        else:
            gram, squares = self._products()
            centered = center_rows(block.rows, sums.mean, block.weights, self._shift(sums))
            self._begin_writing()
            self.squares = add_products(gram, squares, centered)
            self.gram = gram
        self._set_means(targets, n_summed)
        self._set_kept(sample)

    def _merge_sums(self, other: Moments) -> None:
        """Add the rows in the sums of other moments, which have products."""
        if self._is_adding():
            raise RuntimeError(
                "A signal handler cannot merge models while it interrupts a call that adds rows."
            )
        assert other.gram is not None
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            targets = self.targets.combine(other.targets)
            sample = self._keep_sample(other)
            gram, squares = self._products()
            shift = self._shift(other.targets)
            squares = squares + other.squares + np.square(shift)
            self._begin_writing()
            gram += other.gram
            self.gram = blas.dsyr(1.0, shift, lower=1, a=gram, overwrite_a=1)
            self.squares = squares
            self._set_means(targets, self.n_summed + other.n_summed)
            self._set_kept(sample)
        self.is_whole = True

    def _shift(self, sums: TargetSums) -> np.ndarray:
        """Return the row that corrects the products for the difference of the means ``(d,)``."""
        own, added = self.targets.weight, sums.weight
        return (sums.mean - self.mean) * np.sqrt(own * added / (own + added))

    def _set_means(self, targets: TargetSums, n_summed: int) -> None:
        self.targets, self.n_summed = targets, n_summed

    def _keeps_all(self) -> bool:
        return len(self.kept.rows) == self.n_summed

    def _keep(self, added: Rows) -> Sample:
        """Return the sample with more rows."""
        if self._keeps_all() and self.n_summed + len(added.rows) <= N_KEPT:
            kept = concatenate_rows([self.kept, added])
            return Sample(kept, self.kept_order, np.ones(len(kept.rows), np.int64), self.slots)
        return _draw(self._sample(), added, self._keys(added), self.n_summed)

    def _keep_sample(self, other: Moments) -> Sample:
        """Return the sample with the rows of other moments."""
        if other._keeps_all():
            return self._keep(other.kept)
        sample, added = self._sample(), other._sample()
        # Rows with the same row number were repeated in both parts. Their keys must differ.
        is_repeated = added.order != self._keys(added.kept)
        highest = int(added.order[-1]) if len(added.order) >= N_KEPT else 2**64 - 1
        order = np.where(is_repeated, draw_again(added.order, self.n_summed, highest), added.order)
        slots = np.where(added.slots != 0, added.slots, sample.slots)
        return _select([sample, added._replace(order=order)], slots)

    def _keys(self, added: Rows) -> np.ndarray:
        return row_keys(added.rows, self.targets.keys(added.targets), added.weights)

    def _sample(self) -> Sample:
        """Return the kept rows with their keys."""
        slots = self.slots if len(self.slots) else np.zeros(N_SLOTS, np.uint64)
        if not self._keeps_all():
            return Sample(self.kept, self.kept_order, self.kept_counts, slots)
        nothing = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        none = Sample(self.kept.take(slice(0)), *nothing, slots)
        return _draw(none, self.kept, self._keys(self.kept), 0)

    def _set_kept(self, sample: Sample) -> None:
        self.kept, self.kept_order, self.kept_counts, self.slots = sample


def replace_constant(variances: Any, mean: Any, n_rows: int) -> Any:
    """Return variances with 1 for features that are constant up to rounding.

    StandardScaler uses the same bound for the variance that rounding causes in a constant feature.
    """
    xp = namespace(variances)
    rounding = n_rows * float(xp.finfo(variances.dtype).eps)
    bound = rounding * variances + (rounding * mean) ** 2
    return xp.where(variances <= bound, xp.ones_like(variances), variances)


def check_whole(is_whole: bool) -> None:
    """Raise RuntimeError unless sums are whole."""
    if not is_whole:
        raise RuntimeError(
            "An earlier partial_fit or merge was interrupted while it added rows, so the sums "
            "are incomplete; fit again from the first row."
        )


def _no_rows(n_features: int, dtype: np.dtype) -> np.ndarray:
    return np.zeros((0, n_features), dtype if dtype == np.float32 else np.float64)


def _convert_early(state: dict[str, Any]) -> dict[str, Any]:
    """Convert a snapshot of class labels without weights, of version 0.1.0 before its release."""
    state = {name: value for name, value in state.items() if name != "n_rows"}
    fields = {name: state.pop(name) for name in ("mean", "classes", "counts", "class_means")}
    rows, labels = state.pop("kept_rows"), state.pop("kept_labels")
    counts = {"kept_counts": np.ones(len(rows), np.int64)}
    return (
        counts
        | state
        | {
            "targets": fields | {"counts": fields["counts"].astype(np.float64)},
            "n_summed": int(fields["counts"].sum()),
            "kept": (rows, labels, np.ones(len(rows))),
            "waiting": [(*piece, np.ones(len(piece[0]))) for piece in state.get("waiting", [])],
        }
    )


def _draw(sample: Sample, added: Rows, keys: np.ndarray, start: int) -> Sample:
    """Return the sample with more rows, the first of which is row number ``start``."""
    order, slots = mark_repeats(keys, start, sample.slots)
    if len(sample.order) >= N_KEPT:
        # Most rows of later batches come after all kept rows in order, and are not copied.
        is_candidate = order <= sample.order[-1]
        if not is_candidate.any():
            return sample._replace(slots=slots)
        added, order = added.take(is_candidate), order[is_candidate]
    return _select([sample, Sample(added, order, np.ones(len(order), np.int64), slots)], slots)


def _select(samples: list[Sample], slots: np.ndarray) -> Sample:
    """Return the rows of samples with the lowest keys; rows with the same key are counted."""
    order = np.concatenate([sample.order for sample in samples])
    order, first, inverse = np.unique(order, return_index=True, return_inverse=True)
    counts = np.zeros(len(order), np.int64)
    np.add.at(counts, inverse, np.concatenate([sample.counts for sample in samples]))
    kept = concatenate_rows([sample.kept for sample in samples]).take(first[:N_KEPT])
    return Sample(kept, order[:N_KEPT], counts[:N_KEPT], slots)


def concatenate_rows(pieces: Sequence[Rows]) -> Rows:
    """Concatenate rows, targets and weights."""
    rows, targets, weights = zip(*pieces, strict=True)
    return Rows(np.concatenate(rows), concatenate_targets(targets), np.concatenate(weights))
