"""`Moments`: the sums over rows from which ridge regression is solved, and a sample of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np

from sklearn_conv._array_api import Library, as_memory_error, to_numpy
from sklearn_conv._ridge.labels import align_labels, find_labels, union_labels
from sklearn_conv._ridge.products import (
    BLOCK_BYTES,
    add_products,
    add_rows,
    is_single,
    multiply,
    pack,
    row_blocks,
    unpack,
)

N_KEPT = 2_000
"""Number of rows that are kept; alpha is chosen by their leave-one-out errors."""

N_WAITING = 128
"""Number of rows up to which small batches wait, in order to be added together. Every addition
reads and writes all products, so it takes about the same time for one row and for many rows."""

CHUNK_BYTES = 2 * 2**20
"""Approximate size in float64 of the rows of NumPy that are converted at once, in the cache. New
memory for larger arrays takes longer than the conversion."""

CHUNK_ROWS = 256
"""Maximum number of rows of NumPy that are converted at once, so that a matrix with a column for
each row and a row for each of their classes is small."""

BLOCK_ROWS = 2048
"""Minimum number of float32 rows that are multiplied at once. Each block reads and writes all
products in float64, which takes longer than the products of few rows."""

SINGLE_RANGE = 1e12
"""Spreads from ``1 / SINGLE_RANGE`` to ``SINGLE_RANGE`` have products in float32 that neither
overflow nor lose digits."""


class NoSolutionError(ValueError, RuntimeError):
    """There are too few rows, or the sums are not there, or incomplete after an interrupt."""


class Rows(NamedTuple):
    """Rows with their targets and weights."""

    rows: Any
    """Features ``(n, d)``."""
    targets: np.ndarray
    """Labels ``(n,)`` or columns of numbers ``(n, k)``."""
    weights: np.ndarray
    """Weights ``(n,)`` in float64, all above 0."""

    def take(self, index: np.ndarray) -> Rows:
        """Return the rows with these numbers, which are different and in order."""
        if len(index) == len(self.weights):
            return self
        library = Library.of(self.rows)
        rows = library.xp.take(self.rows, library.put(index), axis=0)
        return Rows(rows, self.targets[index], self.weights[index])

    def as_float(self, copy: bool = False) -> Rows:
        """Return the rows in float32, if they are, or in the widest float dtype."""
        library = Library.of(self.rows)
        is_float = self.rows.dtype in (library.xp.float32, library.widest)
        dtype = self.rows.dtype if is_float else library.widest
        rows = library.xp.astype(self.rows, dtype, copy=copy)
        return Rows(rows, *map(np.array, self[1:])) if copy else self._replace(rows=rows)


class Targets(NamedTuple):
    """Targets of a regression with k columns."""

    mean: np.ndarray
    """Mean of each column ``(k,)``."""
    products: Any
    """Products ``(k, d)`` of the targets and the centered features, summed over all rows."""
    kept: np.ndarray
    """Targets ``(m, k)`` of the kept rows."""


class Sums(NamedTuple):
    """Sums over rows; the k targets are indicators of classes, or columns of numbers.

    All arrays but ``gram`` are replaced, and never changed in place.
    """

    classes: np.ndarray | None
    """Labels ``(k,)`` of the classes with rows, sorted; None for columns of numbers."""
    weight: float
    """Sum of the weights."""
    mean: Any
    """Mean of each feature ``(d,)``."""
    target_mean: np.ndarray
    """Mean of each target ``(k,)``."""
    products: Any
    """Products ``(k, d)`` of the targets and the centered features."""
    squares: Any
    """Sum of the squares of each centered feature ``(d,)``."""
    gram: Any = None
    """Products of the centered features ``(d, d)``; see `products`. None while all rows are kept
    and there are no more rows than features."""
    rest: Any = None
    """What ``gram`` lacks on devices without float64; otherwise None."""

    def combine(self, added: Sums) -> tuple[Sums, Any]:
        """Return the sums over the rows of both, and a row that corrects the products.

        Its products are those of the difference of the means, times the number of rows.
        """
        own = self
        if own.classes is not None and added.classes is not None:
            classes = union_labels(own.classes, added.classes)
            own, added = own._with_classes(classes), added._with_classes(classes)
        weight = own.weight + added.weight
        fraction = added.weight / weight
        factor = own.weight * fraction
        shift, target_shift = added.mean - own.mean, added.target_mean - own.target_mean
        corrections = Library.of(shift).put(target_shift * factor)[:, None] * shift[None, :]
        combined = own._replace(
            weight=weight,
            mean=own.mean + fraction * shift,
            target_mean=own.target_mean + fraction * target_shift,
            products=own.products + added.products + corrections,
            squares=own.squares + added.squares + factor * shift * shift,
        )
        return combined, shift * factor**0.5

    def _with_classes(self, classes: np.ndarray) -> Sums:
        """Return the sums with zeros for further classes."""
        assert self.classes is not None
        places = find_labels(classes, self.classes)
        return self._replace(
            classes=classes,
            target_mean=_take_or_zero(self.target_mean, places),
            products=_take_or_zero(self.products, places),
        )


class Moments:
    """Weights, means and centered products of rows and targets, and a sample of the rows.

    Arrays are those of the library of the rows, on their device; the few numbers that belong to
    targets and weights are arrays of NumPy. All sums are float64, or float32 with compensation on
    devices without float64; `products` may multiply rows in float32 before. Sums over two sets of
    rows are combined with a correction for the difference of their means, which never subtracts
    large numbers from each other.

    Rows of small batches wait until there are enough of them, or until `flush` adds them.

    Of more than `N_KEPT` rows, those with the lowest keys are kept. The key of a row is a hash of
    its number, so that the sample is random, the same for all batches and libraries, and depends on
    nothing but the order of the rows. Models that are merged both have rows with the numbers from 0
    on: the rows of the second model receive the numbers that follow or, if only a sample of them is
    left, other random keys below its highest key.

    The arrays for a change are computed first. Then ``is_whole`` is set to False, the sums change,
    and ``is_whole`` is set to True. An error in the first step changes nothing.

    Source: T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the Sample
    Variance: Analysis and Recommendations" (1983).
    """

    n_summed: int
    """Number of rows in the sums."""
    first: int
    """Number of the first row. Parts of a Dask array begin where they are in the array."""
    stop: int
    """Number of the next row."""
    kept: Rows
    """Rows that are kept, in the order of their addition."""
    keys: np.ndarray
    """Keys ``(m,)`` of the kept rows, which are all different."""
    waiting: list[Rows]
    """Rows that are not in the sums yet."""
    is_whole: bool
    """False while the sums change, and permanently if this was interrupted."""

    def __init__(self, rows: Any, targets: np.ndarray, first: int = 0) -> None:
        """Begin with no rows; those that are added are like ``rows`` and ``targets``."""
        library, d = Library.of(rows), rows.shape[1]
        k = targets.shape[1] if targets.ndim == 2 else 0
        zeros = library.zeros((d,), library.widest)
        self.sums = Sums(
            classes=np.array([]) if targets.ndim == 1 else None,
            weight=0.0,
            mean=zeros,
            target_mean=np.zeros(k),
            products=library.zeros((k, d), library.widest),
            squares=zeros,
        )
        no_targets = np.zeros((0, k)) if targets.ndim == 2 else np.array([])
        self.kept = Rows(rows[:0, ...], no_targets, np.zeros(0)).as_float(copy=True)
        self.keys = np.zeros(0, np.uint64)
        self.n_summed = 0
        self.first = self.stop = first
        self.waiting = []
        self.is_whole = True

    @property
    def library(self) -> Library:
        """Library and device of the arrays."""
        return Library.of(self.sums.mean)

    @property
    def n_rows(self) -> int:
        """Number of rows, with those that wait."""
        return self.n_summed + self._n_waiting

    @property
    def examples(self) -> np.ndarray:
        """Targets of each kind."""
        sums = self.sums
        return sums.target_mean[np.newaxis] if sums.classes is None else sums.classes

    @property
    def variances(self) -> Any:
        """Variance of each feature ``(d,)``; 0 for features that are constant up to rounding.

        StandardScaler uses the same bound for the variance that rounding causes.
        """
        sums, xp = self.sums, self.library.xp
        variances = sums.squares / sums.weight
        if not bool(xp.all(xp.isfinite(variances))):
            raise ValueError(
                f"The squares of some features overflow {variances.dtype}; divide the features by "
                "their standard deviation first."
            )
        rounding = self.n_summed * float(xp.finfo(variances.dtype).eps)
        bound = rounding * variances + (rounding * sums.mean) ** 2
        return xp.where(variances <= bound, xp.zeros_like(variances), variances)

    def targets(self, classes: np.ndarray | None) -> Targets:
        """Return columns of numbers or, for classes, targets of +1 and -1.

        There is one column per class, or one column for two classes.
        """
        sums = self.sums
        found = Targets(sums.target_mean, sums.products, self.kept.targets)
        if classes is not None:
            assert sums.classes is not None
            columns = classes[1:] if len(classes) == 2 else classes
            # The sums contain only classes that have rows so far.
            places = find_labels(columns, sums.classes)
            codes = find_labels(self.kept.targets, columns)
            # A target is twice the indicator of the class, minus 1. The centered features sum to
            # zero, so the 1 contributes nothing to the products.
            found = Targets(
                2 * _take_or_zero(sums.target_mean, places) - 1,
                2 * _take_or_zero(sums.products, places),
                np.where(codes[:, np.newaxis] == np.arange(len(columns)), 1.0, -1.0),
            )
        if not bool(self.library.xp.all(self.library.xp.isfinite(found.products))):
            raise ValueError(
                f"The products of features and targets overflow {found.products.dtype}; divide "
                "the targets by their standard deviation first."
            )
        return found

    def add(self, added: Rows) -> None:
        """Add rows. If an error occurs before the sums change, no row is added."""
        self.require_whole()
        n_rows = len(added.weights)
        if n_rows >= N_WAITING:
            self.flush()
            self._add(added)
        elif n_rows:
            # The caller may change its arrays later, so the rows that wait are copies.
            pieces = [*self.waiting, added.as_float(copy=True)]
            if self._n_waiting + n_rows < N_WAITING:
                self.waiting = pieces
            else:
                self._add(concatenate_rows(pieces))

    def merge(self, other: Moments) -> None:
        """Add the rows of other moments, which are not changed."""
        self.require_whole()
        other.require_whole()
        if other.n_summed:
            self.flush()
            if other.sums.gram is None:
                self._add(other.kept)
            else:
                self._add_sums(other)
            self.waiting = [*other.waiting]  # If both are the same, none are left.
        elif other.waiting:
            self.add(concatenate_rows(other.waiting))

    def flush(self) -> None:
        """Add the rows that wait to the sums. If there is an error, they go on waiting."""
        self.require_whole()
        if self.waiting:
            self._add(concatenate_rows(self.waiting))

    def require_whole(self) -> None:
        """Raise an error if an earlier call was interrupted while it added rows."""
        if not self.is_whole:
            raise NoSolutionError(
                "An earlier partial_fit or merge was interrupted while it added rows, so the sums "
                "are incomplete; fit again from the first row."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a snapshot of arrays and numbers, with only the products below the diagonal."""
        sums = self.sums._replace(gram=None if self.sums.gram is None else pack(self.sums.gram))
        waiting = [*map(tuple, self.waiting)]
        return vars(self) | {"sums": tuple(sums), "kept": tuple(self.kept), "waiting": waiting}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the moments that a snapshot contains."""
        moments = cls.__new__(cls)
        sums = Sums(*state["sums"])
        if sums.gram is not None:
            sums = sums._replace(gram=unpack(sums.gram, sums.mean.shape[0]))
        waiting = [Rows(*rows) for rows in state["waiting"]]
        vars(moments).update(state, sums=sums, kept=Rows(*state["kept"]), waiting=waiting)
        return moments

    @property
    def _n_waiting(self) -> int:
        return sum(len(piece.weights) for piece in self.waiting)

    @contextmanager
    def _adding(self) -> Iterator[None]:
        """Ignore overflow, which is reported when the moments are solved, and explain memory."""
        d = self.sums.mean.shape[0]
        remedy = (
            f"The products of {d} features take {8 * d**2} bytes and, while they are added on a "
            "device, several times as many; use fewer kernels or grid cells."
        )
        with np.errstate(all="ignore"), as_memory_error(remedy):
            yield

    def _add(self, added: Rows) -> None:
        """Add rows to the sums, among them all rows that wait."""
        row_bytes, block_bytes = 8 * added.rows.shape[1], BLOCK_BYTES
        if is_single(added.rows):
            block_bytes = max(4 * BLOCK_BYTES, BLOCK_ROWS * row_bytes)
        with self._adding():
            for block in row_blocks(len(added.weights), row_bytes, block_bytes):
                rows = added.rows[block, ...]
                self._add_block(Rows(rows, added.targets[block], added.weights[block]))
        self.waiting = []
        self.is_whole = True

    def _add_block(self, block: Rows) -> None:
        """Add a block of rows; ``is_whole`` stays False afterwards."""
        n_rows = len(block.weights)
        n_summed, stop = self.n_summed + n_rows, self.stop + n_rows
        added, centered = self._sum(block)
        sums, shift = self.sums.combine(added)
        kept, keys = self._keep(block, number_keys(self.stop, stop))
        if self._needs_products(n_summed):
            gram, rest = self._products()
            if centered.shape[0] > n_rows:
                centered[n_rows, ...] = shift
                shift = None
            self.is_whole &= not isinstance(gram, np.ndarray)  # Others do not change in place.
            gram, rest = add_rows(gram, rest, centered, shift)
            sums = sums._replace(gram=gram, rest=rest)
        self._replace(sums=sums, kept=kept, keys=keys, n_summed=n_summed, stop=stop)

    def _add_sums(self, other: Moments) -> None:
        """Add the rows in the sums of other moments, which have products."""
        with self._adding():
            added = other.sums
            sums, shift = self.sums.combine(added)
            stop = self.stop + other.n_summed
            if len(other.keys) == other.n_summed:
                added_keys = number_keys(self.stop, stop)
            elif other.first >= self.stop:  # The numbers are different already.
                added_keys, stop = other.keys, other.stop
            else:
                added_keys = _draw_again(other.keys, self.stop)
            kept, keys = self._keep(other.kept, added_keys)
            gram, rest = self._products()
            self.is_whole &= not isinstance(gram, np.ndarray)
            added_gram = added.gram if added.rest is None else added.gram + added.rest
            gram, rest = add_products(gram, rest, added_gram, shift)
        n_summed = self.n_summed + other.n_summed
        sums = sums._replace(gram=gram, rest=rest)
        self._replace(sums=sums, kept=kept, keys=keys, n_summed=n_summed, stop=stop)
        self.is_whole = True

    def _replace(self, **changed: Any) -> None:
        self.is_whole = False
        vars(self).update(changed)

    def _needs_products(self, n_rows: int) -> bool:
        """Return whether products are needed for ``n_rows`` rows; few rows are kept instead.

        They are solved by eigenvectors, for which float32 is not accurate enough.
        """
        n_few = min(N_KEPT, self.sums.mean.shape[0]) if self.library.has_float64 else 0
        return self.sums.gram is not None or n_rows > n_few

    def _products(self) -> tuple[Any, Any]:
        """Return the products, and what they lack."""
        sums, library = self.sums, self.library
        if sums.gram is not None:
            return sums.gram, sums.rest
        d = sums.mean.shape[0]
        gram = library.zeros((d, d), library.widest).T  # in Fortran order
        rest = None if library.has_float64 else library.zeros((d, d), library.widest)
        if not self.n_summed:
            return gram, rest
        centered = self._wide(self.kept.rows) - sums.mean
        centered *= library.put(np.sqrt(self.kept.weights))[:, None]
        return add_rows(gram, rest, centered, None)

    def _sum(self, block: Rows) -> tuple[Sums, Any]:
        """Return the sums over a block without products, and its centered rows.

        The rows are multiplied by the square roots of their weights: ``(n, d)`` in float32, if they
        are multiplied in float32, otherwise ``(n + 1, d)`` with a place for a shift.
        """
        library, (rows, targets, weights) = self.library, block
        xp, (n_rows, d), total = library.xp, rows.shape, float(weights.sum())
        if self.sums.classes is None:
            classes, codes = None, np.zeros(0, int)
            target_mean = np.average(targets, axis=0, weights=weights)
        else:
            classes, codes = np.unique(targets, return_inverse=True)
            target_mean = np.bincount(codes, weights) / total
        weighted = bool((weights != 1).any())
        chunk_bytes = BLOCK_BYTES if library.xp is not np else min(CHUNK_BYTES, CHUNK_ROWS * 8 * d)
        chunks = [*row_blocks(n_rows, 8 * d, chunk_bytes)]
        mean = library.zeros((d,), library.widest)
        for chunk in chunks:
            part = self._wide(rows[chunk, ...])
            if weighted:
                part = part * library.put(weights[chunk])[:, None]
            mean += xp.sum(part, axis=0)
        mean /= total
        single, roots = is_single(rows), np.sqrt(weights)

        def center() -> tuple[Sums, Any]:
            products = library.zeros((len(target_mean), d), library.widest)
            squares = library.zeros((d,), library.widest)
            dtype = xp.float32 if single else library.widest
            centered = library.empty((n_rows + (not single), d), dtype)
            for chunk in chunks:
                part = self._wide(rows[chunk, ...]) - mean
                if weighted:
                    part *= library.put(roots[chunk])[:, None]
                squares += xp.sum(part * part, axis=0)
                centered[chunk, ...] = xp.astype(part, dtype, copy=False)
                if classes is None:
                    columns = ((targets[chunk] - target_mean) * roots[chunk, np.newaxis]).T
                    products += multiply(library.put(np.ascontiguousarray(columns)), part, single)
                    continue
                present, indices = np.unique(codes[chunk], return_inverse=True)
                indicators = np.zeros((len(present), len(indices)))
                indicators[indices, np.arange(len(indices))] = roots[chunk]
                values = multiply(library.put(indicators), part, single)
                for i, code in enumerate(present.tolist()):
                    products[code, ...] += values[i, ...]
            return Sums(classes, total, mean, target_mean, products, squares), centered

        sums, centered = center()
        if single:
            spreads = np.sqrt(to_numpy(sums.squares) / n_rows)
            spreads = spreads[spreads > 0]
            if not ((spreads > 1 / SINGLE_RANGE) & (spreads < SINGLE_RANGE)).all():
                single = False
                sums, centered = center()
        return sums, centered

    def _wide(self, rows: Any) -> Any:
        library = self.library
        return library.xp.astype(rows, library.widest, copy=False)

    def _keep(self, added: Rows, keys: np.ndarray) -> tuple[Rows, np.ndarray]:
        """Return the rows that are kept if more rows are added, and their keys."""
        all_keys, n_earlier = np.concatenate([self.keys, keys]), len(self.keys)
        chosen = np.sort(np.argsort(all_keys, kind="stable")[:N_KEPT])
        is_new = chosen >= n_earlier
        new = added.take(chosen[is_new] - n_earlier)
        if not len(new.weights):
            return self.kept, self.keys
        pieces = [self.kept.take(chosen[~is_new]), new.as_float()]
        return concatenate_rows(pieces), all_keys[chosen]


def number_keys(start: int, stop: int) -> np.ndarray:
    """Return hashes of the numbers of rows from ``start`` to ``stop``, as integers of 64 bits."""
    return _mix(np.arange(start + 1, stop + 1, dtype=np.uint64))


def _draw_again(keys: np.ndarray, start: int) -> np.ndarray:
    """Return other random keys up to the highest key, which depend on ``start``."""
    fractions = (_mix(keys ^ _mix(np.array([start + 1], np.uint64))) >> np.uint64(11)) * 2.0**-53
    return (fractions * float(keys.max())).astype(np.uint64)


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers with a one-to-one function.

    Source: G. L. Steele, D. Lea and C. H. Flood, "Fast Splittable Pseudorandom Number Generators"
    (2014), the mixing function of SplitMix64.
    """
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def concatenate_rows(pieces: Sequence[Rows]) -> Rows:
    """Concatenate rows in float32 or float64, targets and weights."""
    rows, targets, weights = zip(*pieces, strict=True)
    xp = Library.of(rows[0]).xp
    dtype = xp.result_type(*rows)
    joined = xp.concat([xp.astype(piece, dtype, copy=False) for piece in rows])
    return Rows(joined, concatenate_targets(targets), np.concatenate(weights))


def concatenate_targets(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate labels ``(n,)`` or columns ``(n, k)``. Empty labels have no dtype."""
    if pieces[0].ndim == 2:
        return np.concatenate(pieces)
    labels = [labels for labels in pieces if len(labels)]
    return np.concatenate(align_labels(*labels)) if labels else np.array([])


def _take_or_zero(values: Any, places: np.ndarray) -> Any:
    """Return the elements of an array along axis 0, and zeros where a place is -1."""
    library, n = Library.of(values), values.shape[0]
    places = np.where(places < 0, n, places)
    if np.array_equal(places, np.arange(n)):
        return values
    padded = library.xp.concat([values, library.zeros((1, *values.shape[1:]), values.dtype)])
    return library.xp.take(padded, library.put(places), axis=0)
