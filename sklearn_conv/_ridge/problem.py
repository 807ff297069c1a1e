"""What solvers of ridge regression know and return, and how they choose alpha."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._array_api import Library, to_numpy
from sklearn_conv._ridge.moments import Moments, Targets
from sklearn_conv._ridge.scores import score_classes
from sklearn_conv._validation import check_name, is_finite, is_sequence, parameter_error

TIE = 1e-5
"""Relative difference of scores that is not trusted in float32."""

REMEDY = "The features need this memory on the device; use fewer kernels or grid cells."

WEIGHT_RANGE = 1e10
"""Ratio of weights above which rounding may spoil the errors of heavy rows: beside them, all other
rows are as small as the rounding of their sums."""


class Search(NamedTuple):
    """The alphas from which one is chosen, or one for each column of the targets."""

    alphas: tuple[float, ...]
    per_target: bool = False
    scoring: str | None = None
    """What decides: squared errors if None, otherwise "neg_log_loss", for classes."""


def check_strengths(owner: str, name: str, value: Any) -> tuple[float, ...]:
    """Check a number above 0 or a sequence of such numbers, and return its values as floats."""
    numbers = tuple(np.asarray(value, dtype=object)) if is_sequence(value) else (value,)
    rule = "a finite number above 0 or a sequence of such numbers"
    if not all(isinstance(number, Real) and not isinstance(number, bool) for number in numbers):
        raise parameter_error(TypeError, owner, name, rule, value)
    if not numbers or not all(number > 0 and is_finite(number) for number in numbers):
        raise parameter_error(ValueError, owner, name, rule, value)
    return tuple(map(float, numbers))


def check_scoring(owner: str, value: Any) -> str | None:
    """Check the name of a score of classes, or None for minus the mean squared error."""
    names = ["neg_log_loss"]
    return value if value is None else check_name(owner, "scoring", value, names, " or None")


def find_scale(moments: Moments) -> tuple[Any, list[int]]:
    """Return the standard deviations, 1 for constant features, and the numbers of these."""
    xp, variances = moments.library.xp, moments.variances
    scale = xp.sqrt(xp.where(variances > 0, variances, xp.ones_like(variances)))
    return scale, np.flatnonzero(to_numpy(variances) == 0).tolist()


def center(rows: Any, mean: Any, scale: Any, constant: list[int]) -> Any:
    """Return rows, centered and divided by ``scale`` if it is not None; constant features are 0."""
    library = Library.of(mean)
    rows = library.xp.astype(rows, library.widest, copy=False) - mean
    if scale is not None:
        rows /= scale
    for i in constant:
        rows[:, i] = 0
    return rows


class Problem(NamedTuple):
    """What a solver knows."""

    moments: Moments
    targets: Targets
    scale: Any
    """Standard deviation of each feature ``(d,)``; 1 for constant features."""
    constant: list[int]
    """Numbers of the constant features, whose coefficients are 0."""
    search: Search
    has_errors: bool = True
    """Whether leave-one-out errors are needed."""

    def center(self, scale: Any) -> Any:
        """Return the kept rows ``(m, d)``, centered and divided by ``scale`` if it is not None."""
        moments = self.moments
        return center(moments.kept.rows, moments.sums.mean, scale, self.constant)

    def resolves(self, complements: np.ndarray, limit: float = 1 / WEIGHT_RANGE) -> bool:
        """Return whether 1 minus the leverages of the kept rows are above their rounding errors.

        Without very different weights, small ones belong to features that explain all targets.
        """
        weights = self.moments.kept.weights
        return bool(weights.max() <= WEIGHT_RANGE * weights.min() or complements.min() > limit)

    def score(self, errors: np.ndarray) -> np.ndarray:
        """Return the score of each target for leave-one-out errors; one score for all of them.

        It is minus the mean of the squares, multiplied by the weights of the rows, or the score of
        all columns by `score_classes`.
        """
        weights, targets = self.moments.kept.weights, self.targets.kept
        if self.search.scoring is None:
            scores = -weights @ np.square(errors) / len(weights)
        else:
            scores = np.full(errors.shape[1], score_classes(targets - errors, targets, weights))
        return scores if self.search.per_target else np.full(len(scores), scores.mean())


Candidate = tuple[float, Any, np.ndarray | None]
"""An alpha, its coefficients ``(d, k)`` for features that are not standardized, and leave-one-out
errors ``(m, k)`` of the kept rows, or None if they are not needed."""

Solver = Callable[[Problem], Iterator[Candidate]]
"""Function that yields a candidate for each alpha that may be the best."""


def search_alphas(
    problem: Problem, compute: Callable[[float], np.ndarray | None]
) -> Iterator[float]:
    """Yield the alphas that may have the best score, of which as few as possible are computed.

    ``compute`` returns the errors for an alpha, or None if they are not known well enough; such an
    alpha may be the best. Errors for the other alphas are interpolated by a polynomial of the
    logarithm of alpha. The alpha with the best interpolated score is computed next, until no other
    can be the best if its interpolation is as wrong as the last one was.
    """
    alphas = sorted({*problem.search.alphas})
    last, logs = len(alphas) - 1, np.log(alphas)
    errors: dict[int, np.ndarray] = {}
    scores: dict[int, np.ndarray] = {}
    unknown = set(range(last + 1))

    def find(i: int) -> None:
        unknown.remove(i)
        found = compute(alphas[i])
        if found is not None:
            errors[i] = found
            scores[i] = problem.score(found)

    def interpolate(i: int) -> np.ndarray:
        total = np.zeros(())
        for j in errors:
            others = [logs[k] for k in errors if k != j]
            total = total + errors[j] * np.prod((logs[i] - others) / (logs[j] - others))
        return problem.score(total)

    for i in {1, len(alphas) // 2, last - 1} if last > 2 else range(last + 1):
        find(i)
    margin = np.full(len(problem.targets.mean), np.inf)
    while unknown and scores:
        best = np.max([*scores.values()], axis=0)
        gains = {i: interpolate(i) - best for i in unknown}
        i = max(gains, key=lambda i: float(np.max(gains[i] + margin)))
        if (gains[i] + margin < 0).all():
            break
        find(i)
        if i in scores:
            margin = np.abs(gains[i] + best - scores[i])
    left_out = unknown if scores else set()
    best = np.max([*scores.values()], axis=0, initial=-np.inf)
    for i in sorted({*range(last + 1)} - left_out):
        if i not in scores or (scores[i] >= best * (1 + TIE)).any():  # The scores are negative.
            yield alphas[i]


def too_small(alpha: float) -> ValueError:
    """Return the error for an alpha with which the products are not positive definite."""
    return ValueError(
        f"alpha={alpha} is too small for these features, some of which depend linearly on the "
        "others; choose a larger alpha, or smaller weights if they are far above 1."
    )


def too_different() -> ValueError:
    """Return the error for weights of rows that spoil the leave-one-out errors."""
    return ValueError(
        f"Some rows have weights more than {WEIGHT_RANGE:.0e} times those of other rows, so that "
        "rounding spoils the leave-one-out errors, which choose alpha and make probabilities and "
        "intervals. Pass sample_weight or class_weight that differ less, or a single alpha for "
        "predictions alone."
    )
