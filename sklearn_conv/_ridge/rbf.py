"""`RBFRidgeClassifier` and `RBFRidge`: ridge regression with a Gaussian kernel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_conv._array_api import require_numpy
from sklearn_conv._callbacks import fit_steps, with_callbacks
from sklearn_conv._parameters import check_random_state, make_generator
from sklearn_conv._ridge.base import RidgeBase, as_columns, explain_nan, require_unmasked
from sklearn_conv._ridge.labels import check_labels, show_label
from sklearn_conv._ridge.many_landmarks import find_components, solve_by_iteration
from sklearn_conv._ridge.moments import NoSolutionError
from sklearn_conv._ridge.problem import check_scoring, check_strengths
from sklearn_conv._ridge.rbf_solving import (
    N_FACTORS,
    N_SAMPLE,
    N_SEARCH,
    Space,
    measure_leverages,
    median_distance,
    predict_rows,
    project,
    solve_exactly,
    solve_with_landmarks,
)
from sklearn_conv._ridge.scores import (
    find_offsets,
    find_temperature,
    log_softmax,
    score_classes,
)
from sklearn_conv._validation import check_integer, is_dask

TIE = 0.01
"""Relative difference of the scores for few rows that does not decide between two gammas."""


class _RBFModel(RidgeBase, ABC):
    """Ridge regression with a Gaussian kernel for an array of targets."""

    scoring: str | None = None
    """What chooses alpha and gamma; a parameter of classifiers only."""

    components_: np.ndarray | None = None  # in models that an earlier version has saved

    def __init__(
        self,
        alphas: float | Sequence[float] | np.ndarray = (0.001, 0.01, 0.1, 1.0, 10.0),
        *,
        gammas: float | Sequence[float] | np.ndarray = (0.1, 0.3, 1.0),
        n_landmarks: int = 10_000,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.alphas = alphas
        self.gammas = gammas
        self.n_landmarks = n_landmarks
        self.random_state = random_state

    @with_callbacks
    def fit(self, X: Any, y: Any) -> Self:
        """Fit the model, and choose gamma and alpha.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Finite features.
        y : array-like of shape (n,), or (n, n_targets) for a regressor
            Class labels, or finite targets. For several targets, the choice of gamma and alpha
            depends on the sum of the squared errors over all of them, so targets in different units
            should be standardized first.

        Returns
        -------
        self : object
            The fitted model.

        Raises
        ------
        TypeError
            If a parameter, X or y has a wrong type; for example, if X is a Dask array.
        ValueError
            If a parameter, X or y has wrong values, or if the y of a classifier has only one class.
        """
        model = self._unfitted()
        with fit_steps(self, X, y, 2) as step:
            owner = type(self).__name__
            check_scoring(owner, self.scoring)
            check_random_state(owner, self.random_state)
            alphas = check_strengths(owner, "alphas", self.alphas)
            gammas = check_strengths(owner, "gammas", self.gammas)
            n_landmarks = check_integer(owner, "n_landmarks", self.n_landmarks, 1)
            with explain_nan():
                rows, targets = model._check_rows(X, y)
            model._fit_targets(rows, targets, alphas, gammas, n_landmarks, step)
        self._take_over(model)
        return self

    @abstractmethod
    def _check_rows(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the checked rows, and targets ``(n, k)`` in float64 that are not centered."""

    @np.errstate(all="ignore")
    def _fit_targets(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        alphas: Sequence[float],
        gammas: Sequence[float],
        n_landmarks: int,
        step: Callable[[str], Any],
    ) -> None:
        self.intercept_ = targets.mean(axis=0)
        targets = targets - self.intercept_
        largest = np.abs(targets).max() or 1.0  # With it, targets cannot overflow in float32.
        targets = (targets / largest).astype(rows.dtype)
        generator = make_generator(self.random_state)
        order = generator.permutation(len(rows))
        sample = order[-N_SAMPLE:]
        chosen = order[:n_landmarks]
        is_large = len(chosen) > N_FACTORS
        landmarks = rows[chosen]
        self._center = landmarks.mean(axis=0, dtype=np.float64).astype(rows.dtype)
        landmarks -= self._center
        self.components_ = find_components(landmarks, generator) if is_large else None
        landmarks = project(landmarks, self.components_)
        self.median_distance_ = median_distance(self._space.place(rows[sample]))
        unscaled = {gamma / self.median_distance_: gamma for gamma in gammas}
        scaled = [*unscaled]

        def unscale(values: np.ndarray) -> np.ndarray:
            return values.astype(np.float64) * largest + self.intercept_

        def score(errors: np.ndarray, kept: np.ndarray) -> float:
            if self.scoring is None:
                found = -float(np.square(errors).mean()) * largest**2
            else:
                found = score_classes(unscale(kept - errors), unscale(kept), np.ones(len(kept)))
            return found if np.isfinite(found) else -np.inf  # Rounding may make errors infinite.

        with step("gammas"):
            if len(scaled) * (len(alphas) if is_large else 1) > 1 and (
                len(chosen) > N_SEARCH or len(chosen) < len(rows)
            ):
                few = landmarks[:N_SEARCH], targets[chosen[:N_SEARCH]]
                best = solve_exactly(*few, scaled, alphas, score)
                if is_large:  # More rows need a narrower kernel, and less regularization.
                    for gamma in sorted(gamma for gamma in scaled if gamma > best.gamma):
                        found = solve_exactly(*few, [gamma], alphas, score)
                        if found.score >= best.score - TIE * abs(best.score):
                            best = found
                    alphas = [alpha for alpha in alphas if alpha <= best.alpha]
                scaled = [best.gamma]
        with step("alphas"):
            if is_large:
                best = solve_by_iteration(landmarks, targets[chosen], scaled[0], alphas, score)
            elif len(chosen) == len(rows):
                best = solve_exactly(landmarks, targets[chosen], scaled, alphas, score)
            else:
                best = solve_with_landmarks(
                    rows, targets, sample, self._center, landmarks, scaled[0], alphas, score
                )
        self.landmarks_ = rows[chosen] if self.components_ is None else landmarks
        self.alpha_ = best.alpha
        self.gamma_ = unscaled[best.gamma]
        self.best_score_ = best.score
        self.dual_coef_ = best.dual * largest
        self._use_errors(best.errors.astype(np.float64) * largest, unscale(best.kept))

    @abstractmethod
    def _use_errors(self, errors: np.ndarray, targets: np.ndarray) -> None:
        """Set the attributes that leave-one-out errors ``(n, k)`` and targets decide."""

    def _predict_targets(self, X: Any) -> np.ndarray:
        """Return the predicted targets ``(n, k)``."""
        rows = self._check_features(X)
        gamma = self.gamma_ / self.median_distance_
        placed = self._place_landmarks()
        return predict_rows(rows, self._space, placed, gamma, self.dual_coef_) + self.intercept_

    @property
    def _space(self) -> Space:
        return Space(self._center, self.components_)

    def _place_landmarks(self, n: int | None = None) -> np.ndarray:
        """Return the coordinates of the first landmarks."""
        landmarks = self.landmarks_[:n]
        return landmarks - self._center if self.components_ is None else landmarks

    def _check_features(self, X: Any) -> np.ndarray:
        """Return checked rows for a method that predicts."""
        check_is_fitted(self)
        _check_arrays(type(self).__name__, X)
        with explain_nan():
            rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        # The dtype of the model decides, so that the same rows have the same predictions.
        return rows.astype(self.landmarks_.dtype, copy=False)


class RBFRidgeClassifier(ClassifierMixin, _RBFModel):
    """Classification by ridge regression with a Gaussian kernel.

    The targets are +1 for the class of a row and -1 for all other classes, as in
    `sklearn.linear_model.RidgeClassifier`. The decision function depends on the distances between
    rows, so it is not linear. For a few thousand images, it is often more accurate than a linear
    model of the same features. All kernel values are computed, so time and memory grow with the
    square of the number of landmarks.

    Parameters
    ----------
    alphas : float or sequence of float, default=(0.001, 0.01, 0.1, 1.0, 10.0)
        Regularization strengths, each above 0. If there are several values of alpha or gamma, the
        pair with the smallest mean squared leave-one-out error, over rows and classes, is chosen,
        or that with the best ``scoring``. The errors of all rows are used, or those of 2,000 random
        rows if there are more. Values that are too small for the accuracy of the computation are
        skipped. With more than 15,000 landmarks, these rows are held out together, and alphas above
        the best one for 4,000 rows are not tried.
    gammas : float or sequence of float, default=(0.1, 0.3, 1.0)
        Coefficients of the kernel, each above 0, in units of 1 / median squared distance. The
        kernel is ``exp(-gamma * distance**2 / median_distance_)``. If there are several, and more
        than 4,000 landmarks or not all rows are landmarks, gamma is chosen by an exact solution for
        up to 4,000 landmarks alone. Then alpha is chosen for this gamma with all rows. With more
        than 15,000 landmarks, it is the largest gamma whose score is within one percent of the
        best, because more rows need a narrower kernel.
    n_landmarks : int, default=10000
        Number of training rows that the model stores and whose kernel values it combines. If X has
        at most this number of rows, all rows are landmarks, and the solution is exact. Otherwise
        the landmarks are a random subset, and the coefficients of their kernel values are fitted to
        all rows, or, with more than 15,000 landmarks, to the landmarks alone. More landmarks are
        more accurate. ``fit`` needs ``4 * n_landmarks**2`` bytes for an exact solution in float32,
        half of it with more than 15,000 landmarks, and otherwise twice as much: 7.2 GB for 60,000
        landmarks. In float64, all are twice as large.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the choice of landmarks and of the rows whose leave-one-out errors are
        used. If None, they differ in every call of ``fit``. For up to 2,000 rows, and no more than
        ``n_landmarks``, it has no effect except for rounding.
    scoring : {None, "neg_log_loss"}, default=None
        What chooses alpha and gamma, as in `StreamingRidgeClassifier`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    alpha_ : float
        The chosen regularization strength.
    gamma_ : float
        The chosen coefficient, in units of ``1 / median_distance_``.
    best_score_ : float
        Minus the mean squared leave-one-out error for ``alpha_`` and ``gamma_``, or minus the log
        loss if this is the ``scoring``.
    temperature_ : float
        Number by which decisions are divided before the softmax in `predict_proba`, as in
        `StreamingRidgeClassifier`.
    median_distance_ : float
        Median of the squared distances between all rows, or 2,000 random rows, without the
        distances of equal rows; 1 if all rows are equal.
    components_ : ndarray of shape (2048, n_features), or None
        Orthonormal directions of the 2,048 principal components of the landmarks, in no order. They
        replace the features, so that the model is faster and smaller, if there are more than 15,000
        landmarks and 4,097 to 16,384 features, and if the components contain 99 percent of the
        variance of landmarks by which they were not found. Otherwise None.
    landmarks_ : ndarray of shape (n_landmarks, n_features), or (n_landmarks, 2048)
        Rows of X that are landmarks, in random order, or their components.
    dual_coef_ : ndarray of shape (n_landmarks, n_classes), or (n_landmarks, 1) for two classes
        Coefficients of the kernel values of the landmarks.
    intercept_ : ndarray of shape (n_classes,), or (1,) for two classes
        Mean of each target, which is added to the sums over the landmarks.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features. Defined only if X has feature names that are all strings.

    See Also
    --------
    RBFRidge : The same model for numbers instead of classes.
    StreamingRidgeClassifier : Linear model, which is faster for many rows.

    Notes
    -----
    The features are used as they are, because distances depend on their scale; combine the model
    with ``StandardScaler`` if they have different units. float32 features are computed in float32,
    and all others in float64.

    The targets are centered, and the solution is that of `sklearn.kernel_ridge.KernelRidge` for the
    centered targets. The leave-one-out error of a row is the error of a fit without this row, for
    the same centers.

    For each pair of gamma and alpha, one Cholesky factor is computed, which takes ``n**3 / 3``
    multiplications and additions for ``n`` rows. With more than 15,000 landmarks, conjugate
    gradients multiply all kernel values by the coefficients about 50 times instead, until the
    residuals are at most 0.002 times as long as the targets. If ``fit`` raises an error, the model
    stays as it was.

    References
    ----------
    R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007): leave-one-out errors.
    C. K. I. Williams and M. Seeger, "Using the Nyström Method to Speed Up Kernel Machines" (2001):
    landmarks.
    A. Rudi, L. Carratino and L. Rosasco, "FALKON: An Optimal Large Scale Kernel Method" (2017): the
    kernel values of few landmarks make conjugate gradients fast.
    N. Halko, P.-G. Martinsson and J. A. Tropp, "Finding Structure with Randomness: Probabilistic
    Algorithms for Constructing Approximate Matrix Decompositions" (2011): components.
    C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural Networks"
    (2017): the temperature of the softmax.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_conv import RBFRidgeClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = RBFRidgeClassifier(random_state=0).fit(X[:1000], y[:1000])
    >>> model.gamma_, round(model.score(X[1000:], y[1000:]), 2)
    (1.0, 0.97)
    >>> model.predict_proba(X[1000:]).shape
    (797, 10)
    """

    classes_: np.ndarray

    def __init__(
        self,
        alphas: float | Sequence[float] | np.ndarray = (0.001, 0.01, 0.1, 1.0, 10.0),
        *,
        gammas: float | Sequence[float] | np.ndarray = (0.1, 0.3, 1.0),
        n_landmarks: int = 10_000,
        random_state: int | np.random.RandomState | None = None,
        scoring: str | None = None,
    ) -> None:
        super().__init__(alphas, gammas=gammas, n_landmarks=n_landmarks, random_state=random_state)
        self.scoring = scoring

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute the decision function of the samples in X.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features.

        Returns
        -------
        scores : ndarray of shape (n, n_classes), or (n,) for two classes
            Score of each class. The class with the highest score is predicted; for two classes, a
            positive score predicts ``classes_[1]``.
        """
        scores = self._predict_targets(X)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class labels of the samples in X.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features.

        Returns
        -------
        y : ndarray of shape (n,)
            Predicted class labels.
        """
        scores = self.decision_function(X)
        return self.classes_[scores.argmax(1) if scores.ndim == 2 else (scores > 0).astype(int)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Compute the probabilities of the classes for the samples in X.

        They are the softmax of the decision function, divided by ``temperature_``, so the most
        probable class is the one that is predicted.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features.

        Returns
        -------
        probabilities : ndarray of shape (n, n_classes)
            Probabilities of the classes in ``classes_``; each row adds up to 1.

        Raises
        ------
        ValueError
            If X is invalid, or if the model was saved by an earlier version of this package.
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Compute the logarithms of the probabilities of the classes for the samples in X.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features.

        Returns
        -------
        logarithms : ndarray of shape (n, n_classes)
            Natural logarithms of `predict_proba`, which are finite even if probabilities are
            rounded to 0.
        """
        scores = self._predict_targets(X)
        _require_saved(self, "temperature_")
        return log_softmax(scores, self.temperature_)

    @np.errstate(all="ignore")
    def novelty(self, X: Any) -> np.ndarray:
        """Compute how far the samples in X are from the landmarks, compared to these.

        The distance of a sample is the part of its kernel value with itself that the landmarks do
        not explain, regularized with ``alpha_``. The novelty is the fraction of landmarks, of up to
        2,000 of them, that were nearer to the others when they were left out. A tenth of samples
        like the training rows has a novelty above 0.9. Samples of other kinds, for example of
        another camera, have a high novelty, and their predictions need not be true.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features.

        Returns
        -------
        novelty : ndarray of shape (n,)
            Numbers from 0 to 1.

        Notes
        -----
        The first call computes a Cholesky factor, which takes as much memory as an exact fit with
        the landmarks. It is kept until `fit` is called again, and is in no file. Of more than
        15,000 landmarks, only the first 15,000, which are random ones, are used.
        """
        rows = self._check_features(X)
        later = self.__dict__.setdefault("_later", {})  # An earlier version has saved none.
        if "leverages" not in later:
            gamma = self.gamma_ / self.median_distance_
            placed = self._place_landmarks(N_FACTORS)
            later["leverages"] = measure_leverages(self._space, placed, gamma, self.alpha_)
        return later["leverages"].rank(rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_later": {}}

    def _use_errors(self, errors: np.ndarray, targets: np.ndarray) -> None:
        self._later: dict[str, Any] = {}
        self.temperature_ = find_temperature(errors, targets, np.ones(len(errors)))

    def _check_rows(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        owner = type(self).__name__
        _check_arrays(owner, X, y)
        rows, labels = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_labels(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{owner} needs rows of at least 2 classes, but y has 1 class: "
                f"{show_label(self.classes_.tolist()[0])}."
            )
        positive = self.classes_[1:] if len(self.classes_) == 2 else self.classes_
        return rows, np.where(labels[:, np.newaxis] == positive, 1.0, -1.0)


class RBFRidge(RegressorMixin, MultiOutputMixin, _RBFModel):
    """Ridge regression with a Gaussian kernel.

    The prediction depends on the distances between rows, so it is not linear. All kernel values are
    computed, so time and memory grow with the square of the number of landmarks.

    Parameters
    ----------
    alphas : float or sequence of float, default=(0.001, 0.01, 0.1, 1.0, 10.0)
        Regularization strengths, each above 0. If there are several values of alpha or gamma, the
        pair with the smallest mean squared leave-one-out error, over rows and targets, is chosen.
        Otherwise as in `RBFRidgeClassifier`.
    gammas : float or sequence of float, default=(0.1, 0.3, 1.0)
        Coefficients of the kernel, each above 0, in units of 1 / median squared distance, as in
        `RBFRidgeClassifier`.
    n_landmarks : int, default=10000
        Number of training rows that the model stores and whose kernel values it combines, as in
        `RBFRidgeClassifier`.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the choice of landmarks and of the rows whose leave-one-out errors are
        used, as in `RBFRidgeClassifier`.

    Attributes
    ----------
    best_score_ : float
        Minus the mean squared leave-one-out error for ``alpha_`` and ``gamma_``.
    dual_coef_ : ndarray of shape (n_landmarks, n_targets)
        Coefficients of the kernel values of the landmarks.
    intercept_ : ndarray of shape (n_targets,)
        Mean of each target, which is added to the sums over the landmarks.
    alpha_, gamma_, median_distance_, components_, landmarks_, n_features_in_, feature_names_in_
        As in `RBFRidgeClassifier`.

    See Also
    --------
    RBFRidgeClassifier : The same model for classes; its notes and references apply here as well.
    StreamingRidge : Linear model, which is faster for many rows.
    sklearn.kernel_ridge.KernelRidge : The exact solution for fixed parameters and other kernels.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_conv import RBFRidge
    >>> X = np.random.default_rng(0).uniform(size=(500, 2))
    >>> y = np.sin(6 * X[:, 0]) * X[:, 1]
    >>> model = RBFRidge(random_state=0).fit(X[:400], y[:400])
    >>> model.score(X[400:], y[400:]) > 0.99
    True
    """

    _is_single: bool
    _residuals: np.ndarray
    """Absolute leave-one-out errors ``(n, n_targets)``."""

    def predict(self, X: Any) -> np.ndarray:
        """Predict the targets of the samples in X.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features.

        Returns
        -------
        y : ndarray of shape (n,) or (n, n_targets)
            Predicted targets.
        """
        predicted = self._predict_targets(X)
        return predicted[:, 0] if self._is_single else predicted

    def predict_interval(self, X: Any, coverage: float = 0.9) -> np.ndarray:
        """Predict intervals that contain the targets of the samples in X with a probability.

        The interval of a target is the prediction, plus and minus a quantile of the absolute
        leave-one-out errors of the rows that choose alpha. `StreamingRidge.predict_interval` says
        what is guaranteed.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features.
        coverage : float, default=0.9
            Probability that an interval contains its target, above 0 and below 1.

        Returns
        -------
        intervals : ndarray of shape (n, 2) or (n, 2, n_targets)
            Lower and upper ends. They are infinite if there are too few rows for the coverage:
            fewer than 9 for 0.9.

        Raises
        ------
        TypeError
            If ``coverage`` is not a number.
        ValueError
            If X is invalid, if ``coverage`` is not between 0 and 1, or if the model was saved by an
            earlier version of this package.
        """
        predicted = self.predict(X)
        _require_saved(self, "_residuals")
        weights = np.ones(len(self._residuals))
        offsets = find_offsets("RBFRidge", coverage, self._residuals, weights)
        return predicted[:, np.newaxis] + (offsets[:, 0] if self._is_single else offsets)

    def _use_errors(self, errors: np.ndarray, targets: np.ndarray) -> None:
        # A single row cannot be left out.
        self._residuals = np.abs(errors) if len(errors) > 1 else np.full_like(errors, np.inf)

    def _check_rows(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        _check_arrays(type(self).__name__, X, y)
        rows, targets = validate_data(
            self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True
        )
        self._is_single = targets.ndim == 1
        return rows, as_columns(type(self).__name__, targets)


def _require_saved(model: _RBFModel, name: str) -> None:
    """Raise an error if an attribute is missing, because an earlier version saved the model."""
    if not hasattr(model, name):
        raise NoSolutionError(
            f"This {type(model).__name__} was saved by an earlier version of sklearn_conv, without "
            "leave-one-out errors; fit it again."
        )


def _check_arrays(owner: str, *arrays: Any) -> None:
    """Check what scikit-learn does not check."""
    for name, array in zip("Xy", arrays, strict=False):
        if is_dask(array):
            raise TypeError(
                f"{name} is a Dask array, but {owner} needs all distances between the rows; pass "
                f"{name}.compute() if the rows fit into memory, or use StreamingRidge or "
                "StreamingRidgeClassifier, which accept Dask arrays."
            )
        require_numpy(owner, array, name)
        dtype = getattr(array, "dtype", None)
        if name == "X" and isinstance(dtype, np.dtype) and dtype.kind not in "biufcO":
            raise TypeError(f"X has dtype {dtype}; convert it to numbers first.")
    require_unmasked(*arrays)
