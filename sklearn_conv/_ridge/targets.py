"""Sums over rows and their targets, which are class labels or columns of numbers.

`ClassSums` and `ColumnSums` have the same methods, so that moments and solver serve both. Their
objects are never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from sklearn_conv._ridge.blocks import row_chunks
from sklearn_conv._ridge.keys import class_keys, column_keys
from sklearn_conv._ridge.labels import align_labels, union_labels
from sklearn_conv._ridge.products import is_single, multiply


class Regression(NamedTuple):
    """Targets of a regression with k columns."""

    mean: np.ndarray
    """Mean of each column ``(k,)``."""
    products: np.ndarray
    """Products ``(d, k)`` of the centered features and the targets, summed over all rows."""
    kept: np.ndarray
    """Targets ``(m, k)`` of the kept rows."""


class ClassSums(NamedTuple):
    """Weights and means of the rows of k classes. Classes may be added at any time."""

    mean: np.ndarray
    """Mean of all rows ``(d,)``."""
    classes: np.ndarray
    """Labels ``(k,)``, sorted."""
    counts: np.ndarray
    """Sum of the weights of the rows of each class ``(k,)``."""
    class_means: np.ndarray
    """Mean of the rows of each class ``(k, d)``."""

    @classmethod
    def empty(cls, n_features: int) -> Self:
        """Return the sums over no rows."""
        zeros = np.zeros((0, n_features))
        return cls(np.zeros(n_features), np.array([]), np.zeros(0), zeros)

    @classmethod
    def of_rows(cls, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Self:
        """Return the sums over rows with weights above 0."""
        classes, codes = np.unique(labels, return_inverse=True)
        counts, single = np.bincount(codes, weights), is_single(rows)
        sums = np.zeros((len(classes), rows.shape[1]))
        for chunk in row_chunks(rows):
            present, indices = np.unique(codes[chunk], return_inverse=True)
            indicators = np.zeros((len(present), len(indices)))
            indicators[indices, np.arange(len(indices))] = weights[chunk]
            sums[present] += multiply(indicators, rows[chunk].astype(np.float64), single)
        mean = sums.sum(axis=0) / counts.sum()
        return cls(mean, classes, counts, sums / counts[:, np.newaxis])

    @property
    def weight(self) -> float:
        """Sum of the weights of all rows."""
        return float(self.counts.sum())

    @property
    def examples(self) -> np.ndarray:
        """Targets of each kind."""
        return self.classes

    def combine(self, other: TargetSums) -> Self:
        """Return the sums over the rows of both."""
        assert isinstance(other, ClassSums)
        classes = union_labels(self.classes, other.classes)
        classes, earlier_classes, added_classes = align_labels(classes, self.classes, other.classes)
        counts = np.zeros(len(classes))
        means = np.zeros((len(classes), len(self.mean)))
        earlier = np.searchsorted(classes, earlier_classes)  # indices of the earlier classes
        added = np.searchsorted(classes, added_classes)
        counts[earlier], means[earlier] = self.counts, self.class_means
        counts[added] += other.counts
        fractions = other.counts / counts[added]
        means[added] += fractions[:, np.newaxis] * (other.class_means - means[added])
        mean = self.mean + (other.mean - self.mean) * (other.weight / counts.sum())
        return type(self)(mean, classes, counts, means)

    def keys(self, labels: np.ndarray) -> np.ndarray:
        """Return hashes ``(n,)`` of labels."""
        return class_keys(*np.unique(labels, return_inverse=True))

    def regression(self, kept: np.ndarray, classes: np.ndarray | None) -> Regression:
        """Return targets of +1 and -1, one column per class (one column for two classes)."""
        assert classes is not None
        counts = np.zeros(len(classes))
        products = np.zeros((len(classes), len(self.mean)))
        # The sums contain only classes that have rows so far.
        classes, seen_classes, kept = align_labels(classes, self.classes, kept)
        seen = np.searchsorted(classes, seen_classes)
        counts[seen] = self.counts
        # A target is twice the indicator of the class, minus 1. The centered features sum to zero,
        # so the 1 contributes nothing.
        products[seen] = 2 * self.counts[:, np.newaxis] * (self.class_means - self.mean)
        columns = slice(1, None) if len(classes) == 2 else slice(None)
        return Regression(
            mean=2 * counts[columns] / counts.sum() - 1,
            products=products[columns].T,
            kept=np.where(kept[:, np.newaxis] == classes, 1.0, -1.0)[:, columns],
        )


class ColumnSums(NamedTuple):
    """Means of rows and of their k targets, and the products of both."""

    mean: np.ndarray
    """Mean of all rows ``(d,)``."""
    weight: float
    """Sum of the weights of all rows."""
    target_mean: np.ndarray
    """Mean of each target ``(k,)``."""
    products: np.ndarray
    """Products ``(k, d)`` of the centered targets and the centered features."""

    @classmethod
    def empty(cls, n_features: int, n_targets: int) -> Self:
        """Return the sums over no rows."""
        products = np.zeros((n_targets, n_features))
        return cls(np.zeros(n_features), 0.0, np.zeros(n_targets), products)

    @classmethod
    def of_rows(cls, rows: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Self:
        """Return the sums over rows with weights above 0."""
        weight, single = float(weights.sum()), is_single(rows)
        target_mean = np.einsum("n,nk->k", weights, targets) / weight
        centered = (targets - target_mean) * weights[:, np.newaxis]
        mean = np.zeros(rows.shape[1])
        for chunk in row_chunks(rows):
            mean += np.einsum("n,nd->d", weights[chunk], rows[chunk].astype(np.float64))
        mean /= weight
        products = np.zeros((targets.shape[1], rows.shape[1]))
        for chunk in row_chunks(rows):
            products += multiply(centered[chunk].T, rows[chunk] - mean, single)
        return cls(mean, weight, target_mean, products)

    @property
    def examples(self) -> np.ndarray:
        """Targets of each kind."""
        return self.target_mean[np.newaxis]

    def combine(self, other: TargetSums) -> Self:
        """Return the sums over the rows of both."""
        assert isinstance(other, ColumnSums)
        weight = self.weight + other.weight
        fraction = other.weight / weight
        shift, target_shift = other.mean - self.mean, other.target_mean - self.target_mean
        return type(self)(
            mean=self.mean + fraction * shift,
            weight=weight,
            target_mean=self.target_mean + fraction * target_shift,
            products=self.products
            + other.products
            + self.weight * fraction * np.outer(target_shift, shift),
        )

    def keys(self, targets: np.ndarray) -> np.ndarray:
        """Return hashes ``(n,)`` of targets."""
        return column_keys(targets)

    def regression(self, kept: np.ndarray, classes: np.ndarray | None) -> Regression:
        """Return the targets, of which there is one column each."""
        return Regression(self.target_mean, self.products.T, kept)


TargetSums = ClassSums | ColumnSums


def concatenate_targets(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate labels ``(n,)`` or columns ``(n, k)``. Empty labels have no dtype."""
    if pieces[0].ndim == 2:
        return np.concatenate(pieces)
    labels = [labels for labels in pieces if len(labels)]
    return np.concatenate(align_labels(*labels)) if labels else np.array([])
