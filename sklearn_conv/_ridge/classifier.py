"""`StreamingRidgeClassifier`: a linear classifier from sums over rows that it never holds."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from numbers import Real
from threading import Lock
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas, lapack
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import RidgeCV
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_X_y, column_or_1d, validate_data

from sklearn_conv._callbacks import CallbackSupportMixin, fit_steps, with_callbacks
from sklearn_conv._validation import is_dask, is_finite, is_sequence, parameter_error
from sklearn_conv._versions import API_LINK

N_KEPT = 2_000
"""Rows that are kept, to choose alpha by their leave-one-out errors."""

BLOCK_BYTES = 64 * 2**20
"""About what the rows take in float64 that are multiplied, or predicted, at once."""


class Moments:
    """Number, means and centred products of rows, and a sample of them; float64 throughout.

    Sums of two parts add up with the correction for their means of T. F. Chan, G. H. Golub and
    R. J. LeVeque, "Algorithms for Computing the Sample Variance: Analysis and Recommendations"
    (1983): nothing large is ever subtracted from something large.
    """

    def __init__(self, n_features: int, dtype: np.dtype) -> None:
        self.n = 0
        self.mean = np.zeros(n_features)
        self.classes = np.array([])
        self.counts = np.zeros(0, np.int64)
        self.class_means = np.zeros((0, n_features))
        self.gram: Any = None
        """lower triangle of the sum of (row - mean)(row - mean)'; None as long as all rows are
        kept, and no more than there are features"""
        dtype = dtype if dtype == np.float32 else np.dtype(np.float64)
        self.kept = np.zeros((0, n_features), dtype)
        self.kept_labels = np.array([])
        self.kept_order = np.zeros(0, np.uint64)
        """the N_KEPT lowest of all rows are kept"""
        self.is_whole = True

    @property
    def variances(self) -> np.ndarray:
        """The variance of each feature, and 1 where it is constant but for rounding."""
        if self.gram is None:
            variances = np.square(self.kept - self.mean).mean(axis=0)
        else:
            variances = self.gram.diagonal() / self.n
        if not np.isfinite(variances).all():
            raise ValueError(
                "Squares of some features are beyond the range of float64; divide them by their "
                "standard deviation first."
            )
        eps = np.finfo(np.float64).eps
        # As in StandardScaler: what rounding makes of the variance of a constant.
        bound = self.n * eps * variances + np.square(self.n * eps * self.mean)
        return np.where(variances <= bound, 1.0, variances)

    def add(self, X: np.ndarray, y: np.ndarray, start: int) -> None:
        """Add rows, of which the first one is number ``start``."""
        self.require_whole()
        self.is_whole = False
        length = max(1, BLOCK_BYTES // (8 * X.shape[1]))
        for first in range(0, len(X), length):
            block = slice(first, first + length)
            self._add_block(X[block], y[block], start + first)
        self.is_whole = True

    def merge(self, other: Moments) -> None:
        """Add the rows of another one."""
        self.require_whole()
        other.require_whole()
        self.is_whole = False
        n = self.n + other.n
        if self.gram is not None or other.gram is not None or n > self._n_direct:
            gram = self._products()
            theirs = other.gram if other.gram is not None else other._products()
            gram += theirs
            shift = (other.mean - self.mean) * np.sqrt(self.n * other.n / n)
            self.gram = blas.dsyr(1.0, shift, lower=1, a=gram, overwrite_a=1)
        self._add_means(other.classes, other.counts, other.class_means)
        self._keep(other.kept, other.kept_labels, other.kept_order)
        self.is_whole = True

    def require_whole(self) -> None:
        """Refuse sums that an interrupt, or too little memory, has left half added."""
        if not self.is_whole:
            raise RuntimeError(
                "An earlier partial_fit or merge was interrupted in the middle of its sums; "
                "fit again from the first row."
            )

    @property
    def _n_direct(self) -> int:
        return min(N_KEPT, len(self.mean))

    def _products(self) -> np.ndarray:
        if self.gram is not None:
            return self.gram
        d = len(self.mean)
        try:
            gram = np.zeros((d, d), order="F")
        except MemoryError as error:
            raise MemoryError(
                f"{error}, which are the products of {d} features; choose fewer kernels or cells."
            ) from None
        centred = self.kept - self.mean
        return blas.dsyrk(1.0, centred.T, lower=1, c=gram, overwrite_c=1)

    def _add_block(self, X: np.ndarray, y: np.ndarray, start: int) -> None:
        classes, codes = np.unique(y, return_inverse=True)
        counts = np.bincount(codes)
        rows = X.astype(np.float64)
        sums = np.stack([rows[codes == code].sum(axis=0) for code in range(len(classes))])
        n, mean = self.n + len(rows), sums.sum(axis=0) / len(rows)
        if self.gram is not None or n > self._n_direct:
            gram = self._products()
            rows -= mean
            shift = (mean - self.mean) * np.sqrt(self.n * len(rows) / n)
            for part in (rows.T, shift[:, np.newaxis]):
                gram = blas.dsyrk(1.0, part, beta=1.0, c=gram, lower=1, overwrite_c=1)
            self.gram = gram
        self._add_means(classes, counts, sums / counts[:, np.newaxis])
        self._keep(X, y, _shuffle(start + np.arange(len(X), dtype=np.uint64)))

    def _add_means(self, classes: np.ndarray, counts: np.ndarray, means: np.ndarray) -> None:
        """Add the means of some rows of each class."""
        every = np.union1d(self.classes, classes) if len(self.classes) else classes
        new_counts = np.zeros(len(every), np.int64)
        new_means = np.zeros((len(every), len(self.mean)))
        mine, theirs = np.searchsorted(every, self.classes), np.searchsorted(every, classes)
        new_counts[mine], new_means[mine] = self.counts, self.class_means
        new_counts[theirs] += counts
        weights = counts / np.maximum(new_counts[theirs], 1)
        new_means[theirs] += weights[:, np.newaxis] * (means - new_means[theirs])
        n, n_more = self.n + counts.sum(), counts.sum()
        if n_more:
            mean = counts @ means / n_more
            self.mean = self.mean + (mean - self.mean) * (n_more / n)
        self.classes, self.counts, self.class_means = every, new_counts, new_means
        self.n = int(n)

    def _keep(self, rows: np.ndarray, labels: np.ndarray, order: np.ndarray) -> None:
        if len(self.kept) == N_KEPT:
            few = order < self.kept_order.max()
            rows, labels, order = rows[few], labels[few], order[few]
        if not len(rows):
            return
        labels = np.concatenate([self.kept_labels, labels]) if len(self.kept) else labels
        rows = np.concatenate([self.kept, rows])
        order = np.concatenate([self.kept_order, order])
        chosen = np.argsort(order, kind="stable")[:N_KEPT]
        self.kept, self.kept_labels, self.kept_order = rows[chosen], labels[chosen], order[chosen]


class Solution(NamedTuple):
    """What the moments give for the chosen alpha; ``(row - mean) @ coef.T + level`` decides."""

    alphas: tuple[float, ...]
    alpha: float
    score: float | None
    coef: np.ndarray
    mean: np.ndarray
    level: np.ndarray
    scale: np.ndarray


class StreamingRidgeClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Ridge regression on classes, from sums over batches of rows that are never held.

    It is what ``StandardScaler`` and then ``RidgeClassifier`` compute, or ``RidgeClassifierCV``
    for several ``alphas``, in one pass over the rows and in memory that does not depend on their
    number: the centred products of ``d`` features take ``8 * d**2`` bytes, 0.5 GB for 8,192.

    Parameters
    ----------
    alphas : float or sequence of float, default=(0.1, 1.0, 10.0, 100.0, 1000.0)
        Regularization, above 0: that of `sklearn.linear_model.RidgeClassifier` for features of
        variance 1. Of several, the one with the smallest leave-one-out error, the mean over rows
        and classes of its square, is taken. Up to 2,000 rows these are the errors of all, as in
        `sklearn.linear_model.RidgeClassifierCV`; from then on those of 2,000 rows, which are drawn
        by their numbers, when all others have been learned from. ``set_params(alphas=...)`` and a
        new `predict` choose anew without the rows.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Coefficients of the features as they came, not scaled.
    intercept_ : ndarray of shape (n_classes,) or (1,)
        Constants of the decision function.
    alpha_ : float
        The regularization that was taken.
    best_score_ : float or None
        Minus the mean squared leave-one-out error with ``alpha_``; None if ``alphas`` is one.
    mean_ : ndarray of shape (n_features,)
        Mean of each feature.
    scale_ : ndarray of shape (n_features,)
        Standard deviation of each feature, 1 where it is constant.
    sums_ : object
        What `partial_fit` and `merge` add to: counts, means, products and 2,000 rows. Delete it,
        ``del model.sums_``, before you save a model that is only to predict.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features; only if X had names that are all strings.

    See Also
    --------
    StridedConv2DTransformer.transform_batches : Features of images, batch by batch.

    Notes
    -----
    For every alpha one Cholesky factor of the products is computed, in the other half of their
    array: for less than some twenty alphas that is faster than one eigendecomposition, and takes a
    third of its memory. ``coef_``, ``intercept_`` and the other results are computed by `fit`, and
    after `partial_fit` or `merge` when somebody asks for them.

    References
    ----------
    R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007): leave-one-out errors.
    T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the Sample Variance:
    Analysis and Recommendations" (1983).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_conv import StreamingRidgeClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = StreamingRidgeClassifier(alphas=[1, 10, 100])
    >>> for start in range(0, 1500, 500):
    ...     model = model.partial_fit(X[start : start + 500], y[start : start + 500])
    >>> model.alpha_, round(model.score(X[1500:], y[1500:]), 2)
    (100.0, 0.87)

    Two parts, on two machines perhaps, make the same model:

    >>> first = StreamingRidgeClassifier(alphas=100).fit(X[:700], y[:700])
    >>> second = StreamingRidgeClassifier(alphas=100).fit(X[700:1500], y[700:1500])
    >>> bool(abs(first.merge(second).coef_ - model.coef_).max() < 1e-12)
    True
    """

    _doc_link_module = "sklearn_conv"
    _doc_link_template = API_LINK

    classes_: np.ndarray
    _has_fixed_classes: bool
    _solution: Solution | None

    def __init__(
        self, alphas: float | Sequence[float] | np.ndarray = (0.1, 1.0, 10.0, 100.0, 1000.0)
    ) -> None:
        self.alphas = alphas

    @with_callbacks
    def fit(self, X: Any, y: Any) -> Self:
        """Learn from all rows at once.

        Parameters
        ----------
        X : array-like or dask array of shape (n, n_features)
            Finite features. Of a dask array, sums of its chunks are computed where these are.
        y : array-like or dask array of shape (n,)
            Their classes.

        Returns
        -------
        self : StreamingRidgeClassifier
            The fitted classifier.

        Raises
        ------
        TypeError
            If ``alphas`` or X is of a wrong kind.
        ValueError
            If ``alphas``, X or y has wrong values, or y has one class only.
        """
        with fit_steps(self, X, y, 2) as step:
            with step("sums"):
                self._learn(X, y, None, reset=True)
            with step("alphas"):
                self._solve()
        return self

    def partial_fit(self, X: Any, y: Any, classes: npt.ArrayLike | None = None) -> Self:
        """Add a batch of rows to those that were learned from.

        Parameters
        ----------
        X : array-like or dask array of shape (n, n_features)
            Finite features.
        y : array-like or dask array of shape (n,)
            Their classes.
        classes : array-like of shape (n_classes,), default=None
            All classes that there are, in the first call; others are then refused. With None,
            classes may come as they like.

        Returns
        -------
        self : StreamingRidgeClassifier
            The classifier.

        Raises
        ------
        TypeError
            If ``alphas`` or X is of a wrong kind.
        ValueError
            If ``alphas``, X, y or ``classes`` has wrong values.
        """
        self._learn(X, y, classes, reset=not hasattr(self, "classes_"))
        return self

    def merge(self, other: StreamingRidgeClassifier) -> Self:
        """Add the rows that another classifier was fitted on.

        Parameters
        ----------
        other : StreamingRidgeClassifier
            It stays as it is.

        Returns
        -------
        self : StreamingRidgeClassifier
            The classifier, as if it had seen the rows of both.

        Raises
        ------
        NotFittedError
            If either has not been fitted.
        TypeError
            If ``other`` is no `StreamingRidgeClassifier`.
        ValueError
            If the features of both differ, or one has words for classes and the other numbers.
        """
        check_is_fitted(self)
        if not isinstance(other, StreamingRidgeClassifier):
            raise parameter_error(
                TypeError, "merge", "other", "a fitted StreamingRidgeClassifier", other
            )
        check_is_fitted(other)
        mine, theirs = (getattr(model, "feature_names_in_", []) for model in (self, other))
        if self.n_features_in_ != other.n_features_in_ or not np.array_equal(mine, theirs):
            raise ValueError(
                f"Models of {self.n_features_in_} and {other.n_features_in_} features can't be "
                "merged, or their features have other names; fit both on the same ones."
            )
        _check_kinds(other.classes_, self.classes_)
        self._moments().merge(other._moments())
        self.classes_ = np.union1d(self.classes_, other.classes_)
        self._solution = None
        return self

    def decision_function(self, X: Any) -> Any:
        """Tell how much rows are like each class.

        Parameters
        ----------
        X : array-like or dask array of shape (n, n_features)
            Features.

        Returns
        -------
        scores : ndarray or dask array of shape (n, n_classes), or (n,) for two classes
            The predicted class has the highest score; the second one of two is that above 0.
        """
        check_is_fitted(self)
        if is_dask(X):
            from sklearn_conv._dask import check_rows, map_rows

            shape = () if len(self.classes_) == 2 else (len(self.classes_),)
            check_rows(X)
            return map_rows(self._for_blocks(), "decision_function", X, shape, np.float64)
        _refuse_masked(X)
        rows = validate_data(self, X, dtype="numeric", reset=False)
        _check_numbers(rows)
        solution = self._solve()
        scores = np.empty((len(rows), len(solution.level)))
        length = max(1, BLOCK_BYTES // (8 * rows.shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(rows), length):
                block = slice(start, start + length)
                np.dot(rows[block] - solution.mean, solution.coef.T, out=scores[block])
            scores += solution.level
        if not np.isfinite(scores).all():
            raise ValueError(
                "Scores are beyond the range of float64: some features of X are far larger than "
                "those that were learned from."
            )
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> Any:
        """Predict the classes of rows.

        Parameters
        ----------
        X : array-like or dask array of shape (n, n_features)
            Features.

        Returns
        -------
        y : ndarray or dask array of shape (n,)
            Their classes.
        """
        check_is_fitted(self)
        if is_dask(X):
            from sklearn_conv._dask import check_rows, map_rows

            check_rows(X)
            return map_rows(self._for_blocks(), "predict", X, (), self.classes_.dtype)
        scores = self.decision_function(X)
        return self.classes_[
            scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        ]

    def score(self, X: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> float:
        """Give the share of rows whose class is predicted.

        Parameters
        ----------
        X : array-like or dask array of shape (n, n_features)
            Features.
        y : array-like or dask array of shape (n,)
            Their classes.
        sample_weight : array-like of shape (n,), default=None
            Weights of the rows.

        Returns
        -------
        accuracy : float
            From 0 to 1.
        """
        predicted = self.predict(X)
        if is_dask(X):
            import dask

            predicted, y = dask.compute(predicted, y)
        return accuracy_score(y, predicted, sample_weight=sample_weight)

    @property
    def coef_(self) -> np.ndarray:
        """Coefficients of the features."""
        return self._solve().coef

    @property
    def intercept_(self) -> np.ndarray:
        """Constants of the decision function."""
        solution = self._solve()
        return solution.level - solution.coef @ solution.mean

    @property
    def alpha_(self) -> float:
        """The regularization that was taken."""
        return self._solve().alpha

    @property
    def best_score_(self) -> float | None:
        """Minus the mean squared leave-one-out error."""
        return self._solve().score

    @property
    def mean_(self) -> np.ndarray:
        """Mean of each feature."""
        return self._solve().mean

    @property
    def scale_(self) -> np.ndarray:
        """Standard deviation of each feature."""
        return self._solve().scale

    def _learn(self, X: Any, y: Any, classes: Any, reset: bool) -> None:
        _check_alphas(self)
        moments = None if reset else self._moments()
        if is_dask(X):
            from sklearn_conv._dask import check_rows, reduce_rows

            check_rows(X)
            n_features = np.broadcast_to(np.float32(0), (1, X.shape[1]))
            validate_data(self, n_features, skip_check_array=True, reset=reset)
            more = reduce_rows(_sum_rows, X, y, moments.n if moments else 0)
            if not more.n:
                raise ValueError("All chunks of X are empty.")
            labels = more.classes
        else:
            _refuse_masked(X, y)
            X, y = validate_data(self, X, y, dtype="numeric", reset=reset)
            _check_numbers(X)
            _check_labels(y)
            more, labels = None, np.unique(y)
        if classes is not None:
            classes = np.unique(column_or_1d(classes))
            if not reset and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"classes={classes} are not those of earlier rows, {self.classes_}; give "
                    "classes in the first call of partial_fit only."
                )
        known = classes if reset else self.classes_
        fixed = classes is not None if reset else self._has_fixed_classes
        if known is not None:
            _check_kinds(labels, known)
        if fixed and not np.isin(labels, known).all():
            raise ValueError(
                f"y has the classes {np.setdiff1d(labels, known)}, which are not among {known}, "
                "the classes that the first call of partial_fit was given."
            )
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
            if more is None:
                moments = moments or Moments(X.shape[1], X.dtype)
                moments.add(X, y, moments.n)
            elif moments is None:
                moments = more
            else:
                moments.merge(more)
        self.sums_ = moments
        self.classes_ = labels if known is None else np.union1d(known, labels)
        self._has_fixed_classes = fixed
        self._solution = None

    def _moments(self) -> Moments:
        if not hasattr(self, "sums_"):
            raise ValueError(
                "This model has lost its sums_, and can only predict; to add rows or to choose "
                "other alphas, fit again."
            )
        return self.sums_

    def _solve(self) -> Solution:
        check_is_fitted(self)
        alphas = _check_alphas(self)
        with _solving:
            solution = self._solution
            if solution is None or solution.alphas != alphas:
                moments = self._moments()
                moments.require_whole()
                if len(self.classes_) < 2:
                    raise ValueError(
                        f"{type(self).__name__} needs rows of at least 2 classes, but y has 1 "
                        f"class so far, {self.classes_.tolist()[0]!r}."
                    )
                solve = _solve_rows if moments.gram is None else _solve_products
                with np.errstate(over="ignore", invalid="ignore"):
                    solution = self._solution = solve(moments, self.classes_, alphas)
            return solution

    def _for_blocks(self) -> StreamingRidgeClassifier:
        """Copy what predicts, without the sums."""
        self._solve()
        light = copy(self)
        if hasattr(light, "sums_"):
            del light.sums_
        return light


_solving = Lock()


def _sum_rows(X: list[np.ndarray], y: list[np.ndarray], starts: list[int]) -> Moments:
    """Sum up chunks of a dask array."""
    moments = Moments(X[0].shape[1], X[0].dtype)
    for rows, labels, start in zip(X, y, starts, strict=True):
        if len(rows) or len(labels):
            _refuse_masked(rows, labels)
            rows, labels = check_X_y(rows, labels, dtype="numeric")
            _check_labels(labels)
            moments.add(rows, labels, start)
    return moments


def _check_alphas(estimator: StreamingRidgeClassifier) -> tuple[float, ...]:
    owner, value = type(estimator).__name__, estimator.alphas
    alphas = tuple(np.asarray(value, dtype=object)) if is_sequence(value) else (value,)
    rule = "a finite number above 0 or a sequence of these"
    if not all(isinstance(alpha, Real) and not isinstance(alpha, bool) for alpha in alphas):
        raise parameter_error(TypeError, owner, "alphas", rule, value)
    if not alphas or not all(alpha > 0 and is_finite(alpha) for alpha in alphas):
        raise parameter_error(ValueError, owner, "alphas", rule, value)
    return tuple(map(float, alphas))


def _refuse_masked(*arrays: Any) -> None:
    if any(map(np.ma.is_masked, arrays)):
        raise ValueError("X or y has masked values; fill them first, or leave out their rows.")


def _check_numbers(X: np.ndarray) -> None:
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")


def _check_labels(y: np.ndarray) -> None:
    if y.dtype.kind not in "biufUSO":
        raise TypeError(f"y has dtype {y.dtype}; classes must be numbers or words.")
    check_classification_targets(y)


def _check_kinds(labels: np.ndarray, known: np.ndarray) -> None:
    """Refuse words where classes are numbers, which NumPy would turn into words, and vice versa."""
    if (known.dtype.kind in "OUS") != (labels.dtype.kind in "OUS"):
        raise ValueError(
            f"y has labels like {labels.tolist()[0]!r}, but {known.tolist()[0]!r} is a class."
        )


def _targets(moments: Moments, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give what regression aims at, 1 for a class and -1 for others, ``k`` or, of two classes, 1.

    The mean of the targets ``(k,)``, their products with the centred features ``(d, k)``, and the
    targets of the kept rows ``(m, k)``.
    """
    counts = np.zeros(len(classes))
    products = np.zeros((len(classes), len(moments.mean)))
    seen = np.searchsorted(classes, moments.classes)
    counts[seen] = moments.counts
    products[seen] = 2 * moments.counts[:, np.newaxis] * (moments.class_means - moments.mean)
    kept = np.where(moments.kept_labels[:, np.newaxis] == classes, 1.0, -1.0)
    chosen = slice(1, None) if len(classes) == 2 else slice(None)
    return 2 * counts[chosen] / moments.n - 1, products[chosen].T, kept[:, chosen]


def _solve_rows(moments: Moments, classes: np.ndarray, alphas: tuple[float, ...]) -> Solution:
    """Solve for few rows, all of which have been kept."""
    scale = np.sqrt(moments.variances)
    level, _, targets = _targets(moments, classes)
    rows = (moments.kept - moments.mean) / scale
    if min(alphas) < rows.size * np.finfo(np.float64).eps:  # of the sum of all variances
        raise _too_small(min(alphas))
    ridge = RidgeCV(list(alphas)).fit(rows, targets)
    return Solution(
        alphas,
        float(ridge.alpha_),
        float(ridge.best_score_) if len(alphas) > 1 else None,
        np.atleast_2d(ridge.coef_) / scale,
        moments.mean,
        level,
        scale,
    )


def _solve_products(moments: Moments, classes: np.ndarray, alphas: tuple[float, ...]) -> Solution:
    """Solve for many rows: a Cholesky factor for each alpha, in the upper triangle of the products.

    Scaled features and ``alpha`` are the same as features as they are and ``alpha * variance``.
    """
    gram, variances = moments.gram, moments.variances
    level, products, targets = _targets(moments, classes)
    diagonal = gram.diagonal().copy()
    best: Any = None
    try:
        for alpha in alphas:
            _copy_lower_to_upper(gram)
            np.fill_diagonal(gram, diagonal + alpha * variances)
            factor, failed = lapack.dpotrf(gram, lower=0, clean=0, overwrite_a=1)
            if failed:
                raise _too_small(alpha)
            coef, _ = lapack.dpotrs(factor, products, lower=0)
            score = None
            if len(alphas) > 1:
                kept = np.subtract(moments.kept.T, moments.mean[:, np.newaxis], order="F")
                errors = targets - level - kept.T @ coef
                solved = blas.dtrsm(1.0, factor, kept, lower=0, trans_a=1, overwrite_b=1)
                leverage = 1 / moments.n + np.einsum("dm,dm->m", solved, solved)
                score = -float(np.square(errors / (1 - leverage)[:, np.newaxis]).mean())
            if best is None or score > best.score:
                best = Solution(
                    alphas, alpha, score, coef.T.copy(), moments.mean, level, np.sqrt(variances)
                )
    finally:
        np.fill_diagonal(gram, diagonal)
    return best


def _too_small(alpha: float) -> ValueError:
    return ValueError(
        f"alpha={alpha} is too small for these features, some of which depend on the others; "
        "choose a larger one."
    )


def _copy_lower_to_upper(matrix: np.ndarray) -> None:
    """Copy the lower triangle to the upper one, in place."""
    step = 256
    for start in range(0, len(matrix), step):
        block = slice(start, start + step)
        matrix[:start, block] = matrix[block, :start].T
        corner = np.tril(matrix[block, block])
        matrix[block, block] = corner + np.tril(corner, -1).T


def _shuffle(numbers: np.ndarray) -> np.ndarray:
    """Map 64-bit integers to others, one to one and in no visible order.

    Source: G. L. Steele, D. Lea and C. H. Flood, "Fast Splittable Pseudorandom Number Generators"
    (2014), the mixing function of SplitMix64.
    """
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
