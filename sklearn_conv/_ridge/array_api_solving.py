"""Compute the coefficients for each alpha from moments in arrays of other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from sklearn_conv._array_api import Library, as_memory_error, is_out_of_memory, to_numpy
from sklearn_conv._ridge.array_api_moments import REMEDY, ArrayApiMoments
from sklearn_conv._ridge.labels import match_labels
from sklearn_conv._ridge.leave_one_out import leave_one_out_errors, leave_one_out_scores
from sklearn_conv._ridge.moments import replace_constant
from sklearn_conv._ridge.solving import Candidate, Search, Solution, choose_alpha, too_small


@as_memory_error(REMEDY)
def solve_on_device(
    moments: ArrayApiMoments, classes: np.ndarray | None, search: Search
) -> Solution:
    """Return the solution for the alpha with the best leave-one-out score, as `solve` does.

    The features are standardized: the coefficients for an alpha are those of the correlations of
    the features, of which one Cholesky factor is computed on the device. Leave-one-out errors of
    the kept rows, which decide, are compared as arrays of NumPy.
    """
    library, sums = moments.library, moments.sums
    xp, n = library.xp, moments.sums.weight
    mean, products, kept_targets = sums.target_mean, sums.products, moments.kept_targets
    if classes is not None:
        mean, products, kept_targets = _class_targets(moments, classes)
    variances = xp.linalg.diagonal(sums.gram) / n
    scale = xp.sqrt(replace_constant(variances, sums.mean, moments.n_rows))
    _require_finite(library, scale, products)
    weights = moments.kept_weights
    choice = choose_alpha(
        _solve(moments, scale, products, kept_targets - mean, search),
        partial(
            leave_one_out_scores,
            targets=to_numpy(kept_targets),
            weights=weights,
            counts=np.ones(len(weights)),
            scoring=search.scoring,
        ),
        products.shape[1],
        search,
    )
    alpha, score = (
        library.put(value) if isinstance(value, np.ndarray) else value
        for value in (choice.alpha, choice.score)
    )
    return Solution(
        alphas=search.alphas,
        alpha=alpha,
        score=score,
        classes=classes,
        coef=xp.stack(choice.columns, axis=0),
        mean=sums.mean,
        level=mean,
        scale=scale,
        per_target=search.per_target,
        scoring=search.scoring,
    )


def _solve(
    moments: ArrayApiMoments, scale: Any, products: Any, kept_targets: Any, search: Search
) -> Iterator[Candidate]:
    """Solve for centered targets, with one Cholesky factor of the correlations for each alpha."""
    library, sums = moments.library, moments.sums
    xp, factors = library.xp, 1 / scale
    gram = sums.gram if moments.rest is None else sums.gram + moments.rest
    correlations = gram * factors[:, None] * factors[None, :]
    right = products * factors[:, None]
    identity = xp.eye(right.shape[0], dtype=library.widest, device=library.device)
    kept = (xp.astype(moments.kept, library.widest, copy=False) - sums.mean) * factors
    for alpha in search.alphas:
        factor = _factor(library, correlations + alpha * identity, alpha)
        solved = library.solve_triangle(factor, right)
        coef = library.solve_triangle(factor.T, solved, lower=False)  # (d, k)
        errors = None
        if len(search.alphas) > 1:
            rows = library.solve_triangle(factor, kept.T)  # (d, m)
            errors = leave_one_out_errors(
                to_numpy(kept_targets - kept @ coef),
                to_numpy(xp.sum(rows * rows, axis=0)),
                moments.kept_weights,
                sums.weight,
            )
        yield alpha, coef * factors[:, None], errors


def _class_targets(moments: ArrayApiMoments, classes: np.ndarray) -> tuple[Any, Any, Any]:
    """Return mean, products and kept rows of targets +1 and -1 of the classes.

    There is one column for each class, or one for two classes.
    """
    assert moments.classes is not None
    library, sums = moments.library, moments.sums
    columns = classes[1:] if len(classes) == 2 else classes
    places = library.put(2 * match_labels(moments.classes, columns))
    return (
        sums.target_mean @ places - 1,
        sums.products @ places,
        moments.kept_targets @ places - 1,
    )


def _require_finite(library: Library, scale: Any, products: Any) -> None:
    """Raise an error if sums overflow."""
    for values, name in ((scale, "features"), (products, "targets")):
        if not bool(library.xp.all(library.xp.isfinite(values))):
            raise ValueError(
                f"The squares of some features, or their products with the targets, overflow "
                f"{values.dtype}; divide the {name} by their standard deviation first."
            )


def _factor(library: Library, matrix: Any, alpha: float) -> Any:
    """Return the lower Cholesky factor of a matrix that is positive definite if alpha is enough."""
    try:
        factor = library.xp.linalg.cholesky(matrix)
    except Exception as error:  # Each library has its own kind of error.
        if is_out_of_memory(error):
            raise
        raise too_small(alpha) from error
    if not bool(library.xp.all(library.xp.isfinite(library.xp.linalg.diagonal(factor)))):
        raise too_small(alpha)  # CuPy raises no error.
    return factor
