"""`StreamingRidge`: ridge regression, fitted batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import Library
from sklearn_conv._ridge.base import (
    CheckArrays,
    CheckTargets,
    StreamingRidgeBase,
    as_columns,
)
from sklearn_conv._ridge.problem import Search, check_strengths
from sklearn_conv._ridge.scores import find_offsets
from sklearn_conv._validation import is_dask, parameter_error

OWNER = "StreamingRidge"


class StreamingRidge(RegressorMixin, StreamingRidgeBase):
    """Ridge regression on standardized features, fitted in one pass over batches of rows.

    The model is equivalent to ``StandardScaler`` followed by ``Ridge``, or by ``RidgeCV`` for
    several ``alphas``. It needs as little memory as `StreamingRidgeClassifier`.

    Parameters
    ----------
    alphas : float or sequence of float, default=(0.1, 1.0, 10.0, 100.0, 1000.0)
        Regularization strengths, each above 0, as in `sklearn.linear_model.Ridge` for features with
        unit variance. If there are several, the alpha with the smallest mean squared leave-one-out
        error is chosen: for up to 2,000 rows that of `sklearn.linear_model.RidgeCV`, for more rows
        that of a sample, as in `StreamingRidgeClassifier`. After ``set_params(alphas=...)``,
        `predict` chooses an alpha again, without the rows.
    alpha_per_target : bool, default=False
        Whether to choose an alpha for each target. If False, one alpha is chosen by the mean error
        of all targets.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features)
        Coefficients for the original features, which are not standardized. It has one axis if y has
        one axis.
    intercept_ : float or ndarray of shape (n_targets,)
        Intercepts.
    alpha_ : float or ndarray of shape (n_targets,)
        The chosen regularization strength; an array if ``alpha_per_target`` is True and there are
        several targets.
    best_score_ : float, ndarray of shape (n_targets,) or None
        Minus the mean squared leave-one-out error for ``alpha_``; None if there is only one alpha.
        With weights, squared errors are multiplied by the weights of their rows.
    mean_, scale_, n_features_in_, feature_names_in_
        As in `StreamingRidgeClassifier`.

    See Also
    --------
    StreamingRidgeClassifier : The same for class labels; its notes and references apply here as
        well.
    StridedConv2DTransformer.transform_batches : Features of images, batch by batch.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn_conv import StreamingRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = StreamingRidge(alphas=[1, 10, 100])
    >>> for start in range(0, 400, 100):
    ...     model = model.partial_fit(X[start : start + 100], y[start : start + 100])
    >>> model.alpha_, round(model.score(X[400:], y[400:]), 2)
    (10.0, 0.69)
    """

    _metric = r2_score
    score = StreamingRidgeBase.score  # not that of the mixin, which comes first
    _n_targets: int
    _is_single: bool
    """Whether y had one axis in the first batch."""

    def __init__(
        self,
        alphas: float | Sequence[float] | np.ndarray = (0.1, 1.0, 10.0, 100.0, 1000.0),
        *,
        alpha_per_target: bool = False,
    ) -> None:
        self.alphas = alphas
        self.alpha_per_target = alpha_per_target

    def partial_fit(self, X: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit the model to a batch of rows, in addition to all earlier rows.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Finite features.
        y : array-like or Dask array of shape (n,) or (n, n_targets)
            Finite targets, as many as in the first call.
        sample_weight : array-like or Dask array of shape (n,), default=None
            Weights of the rows, at least 0. A row of weight 0 is ignored. If None, all weights are
            1.

        Returns
        -------
        self : StreamingRidge
            The regressor.

        Raises
        ------
        TypeError
            If ``alphas``, ``alpha_per_target``, X, y or ``sample_weight`` has a wrong type.
        ValueError
            If ``alphas``, X, y or ``sample_weight`` has wrong values, or if the number of targets
            is not that of earlier batches.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> Any:
        """Predict the targets of the samples in X.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Features.

        Returns
        -------
        y : ndarray or Dask array of shape (n,) or (n, n_targets)
            Predicted targets.
        """
        check_is_fitted(self)
        if is_dask(X):
            shape = () if self._is_single else (self._n_targets,)
            return self._map_chunks("predict", X, shape)
        predicted, _ = self._predict(X, "predict")
        return predicted[:, 0] if self._is_single else predicted

    def predict_interval(self, X: Any, coverage: float = 0.9) -> Any:
        """Predict intervals that contain the targets of the samples in X with a probability.

        The interval of a target is the prediction, plus and minus a quantile of the absolute
        leave-one-out errors of the rows that choose alpha, with their weights. So all samples have
        intervals of the same width.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Features.
        coverage : float, default=0.9
            Probability that an interval contains its target, above 0 and below 1.

        Returns
        -------
        intervals : ndarray or Dask array of shape (n, 2) or (n, 2, n_targets)
            Lower and upper ends. They are infinite if there are too few rows for the coverage:
            fewer than 9 for 0.9.

        Raises
        ------
        TypeError
            If ``coverage`` is not a number.
        ValueError
            If X is invalid, if ``coverage`` is not between 0 and 1, or if leave-one-out errors are
            not known and cannot be computed: because weights of rows differ so much that rounding
            spoils them, or because the sums were discarded by an earlier version of this package.

        Notes
        -----
        This is the jackknife. If training rows and new rows are exchangeable, for example drawn at
        random from the same population, intervals have about the coverage, on average over all
        rows and for each target by itself. It holds for a model that hardly changes without a row,
        as that of many rows or a large alpha does; the jackknife+ of the reference, which needs the
        prediction of each model without a row, has a guarantee of ``2 * coverage - 1`` for any
        model. Nothing is promised for samples of new groups or regions, which differ from the
        training rows, nor for a part of the samples: where targets scatter more, intervals are too
        narrow, and elsewhere too wide.

        References
        ----------
        R. F. Barber, E. J. Candès, A. Ramdas and R. J. Tibshirani, "Predictive Inference with the
        Jackknife+" (2021).

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sklearn_conv import StreamingRidge
        >>> X, y = load_diabetes(return_X_y=True)
        >>> lower, upper = StreamingRidge().fit(X[:300], y[:300]).predict_interval(X[300:]).T
        >>> round(float(((lower <= y[300:]) & (y[300:] <= upper)).mean()), 2)
        0.91
        """
        check_is_fitted(self)
        if is_dask(X):
            solution = self._solve(with_errors=True)
            predicted = self.predict(X)
        else:
            predicted, solution = self._predict(X, "predict_interval", with_errors=True)
            predicted = predicted[:, 0] if self._is_single else predicted
        offsets = find_offsets(OWNER, coverage, *solution.later["residuals"])
        offsets = offsets[:, 0] if self._is_single else offsets
        return predicted[:, None, ...] + Library.of(solution.coef).put(offsets)

    @property
    def coef_(self) -> np.ndarray:
        """Coefficients of the features."""
        coef = super().coef_
        return coef[0, ...] if self._is_single else coef

    @property
    def intercept_(self) -> float | np.ndarray:
        """Intercepts."""
        intercept = super().intercept_
        return float(intercept[0]) if self._is_single else intercept

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _check_parameters(self) -> Search:
        value = self.alpha_per_target
        if not isinstance(value, bool | np.bool_):
            raise parameter_error(TypeError, OWNER, "alpha_per_target", "a bool", value)
        return Search(check_strengths(OWNER, "alphas", self.alphas), bool(value))

    def _make_check(self, X: Any, y: Any, is_fit: bool) -> CheckTargets:
        return _check_targets

    def _admit(
        self,
        y: Any,
        targets: np.ndarray,
        reset: bool,
        is_fit: bool,
        given: Any,
        is_weighted: bool,
    ) -> dict[str, Any]:
        n_targets = targets.shape[1]
        if reset:
            n_axes = y.ndim if hasattr(y, "ndim") else np.asarray(y).ndim
            return {"_n_targets": n_targets, "_is_single": n_axes == 1}
        if n_targets != self._n_targets:
            raise ValueError(
                f"The 'y' parameter of {OWNER} must have the number of columns of the first "
                f"batch, which is {self._n_targets}. Got {n_targets} columns instead; fit another "
                "model for other targets."
            )
        return {}

    def _join(self, other: Self) -> dict[str, Any]:
        if self._n_targets != other._n_targets:
            raise ValueError(
                f"The models cannot be merged: they have {self._n_targets} and {other._n_targets} "
                "targets; fit both on the same targets."
            )
        return {}


def _check_targets(X: Any, y: Any, check: CheckArrays) -> tuple[Any, np.ndarray, None]:
    """Return the features, and the targets as columns ``(n, n_targets)``."""
    numbers = np.asarray(y)
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        too_large = f"infinity or a value too large for {numbers.dtype!r}"
        raise ValueError(
            f"Input y contains {'NaN' if np.isnan(numbers).any() else too_large}. The 'y' "
            f"parameter of {OWNER} must be finite numbers; fill these values, or remove their rows."
        )
    rows, targets = check(X, y, dtype="numeric", multi_output=True, y_numeric=True)
    return rows, as_columns(OWNER, targets), None
