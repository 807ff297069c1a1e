"""`StreamingRidgeClassifier`: ridge classification, fitted batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted, column_or_1d

from sklearn_conv._array_api import Library, from_library, to_numpy
from sklearn_conv._ridge.base import (
    CheckArrays,
    CheckTargets,
    StreamingRidgeBase,
)
from sklearn_conv._ridge.labels import (
    check_exact,
    check_labels,
    show_label,
    show_labels,
    union_labels,
)
from sklearn_conv._ridge.leverages import measure_leverages
from sklearn_conv._ridge.problem import Search, check_scoring, check_strengths
from sklearn_conv._ridge.scores import log_softmax
from sklearn_conv._validation import is_dask, is_finite, parameter_error, require

OWNER = "StreamingRidgeClassifier"

NAMES = "OUS"
"""Kinds of dtypes of labels that only NumPy has."""


class StreamingRidgeClassifier(ClassifierMixin, StreamingRidgeBase):
    """Ridge classification of standardized features, fitted in one pass over batches of rows.

    The model is equivalent to ``StandardScaler`` followed by ``RidgeClassifier``, or by
    ``RidgeClassifierCV`` for several ``alphas``. Only sums over the rows and a sample of the rows
    are stored, so the memory in use does not depend on the number of rows: the centered products of
    ``d`` features take ``8 * d**2`` bytes, 0.5 GB for 8,192 features.

    Parameters
    ----------
    alphas : float or sequence of float, default=(0.1, 1.0, 10.0, 100.0, 1000.0)
        Regularization strengths, each above 0, as in `sklearn.linear_model.RidgeClassifier` for
        features with unit variance. If there are several, the alpha with the smallest mean squared
        leave-one-out error, over rows and classes, is chosen, or that with the best ``scoring``.
        For up to 2,000 rows, the errors of all rows are used, as in
        `sklearn.linear_model.RidgeClassifierCV`. For more rows, the errors of a random sample of
        2,000 rows are used, which is decided by their numbers in the order of their addition. So
        alpha may depend on the order of the rows, and on which models were merged, but not on
        batches unless weights are 0. The model is always fitted on all rows, and its sums depend on
        no order.

        ``alphas`` is read whenever the model is solved: after ``set_params(alphas=...)``, `predict`
        chooses an alpha again, without the rows.
    class_weight : dict or "balanced", default=None
        Weights of the classes, with which the weights of their rows are multiplied, as in
        `sklearn.linear_model.RidgeClassifier`. Classes that are not in a dict have weight 1. A
        class of weight 0 is in ``classes_``, but its rows are ignored. "balanced" weights classes
        inversely to their frequencies in y. It is for `fit` only, because the frequencies are
        unknown in `partial_fit`.
    scoring : {None, "neg_log_loss"}, default=None
        What chooses alpha. If None, it is the mean squared leave-one-out error, as in
        `sklearn.linear_model.RidgeClassifierCV`. Squared errors also count rows that are far on the
        right side of a decision. With many features, "neg_log_loss" often chooses a smaller alpha
        and a more accurate model: it is the leave-one-out log loss of probabilities that are the
        softmax of the decision function, multiplied by the factor with the smallest loss. The
        squared errors are multiplied by the weights of their rows, and the log loss is their
        weighted mean.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Coefficients for the original features, which are not standardized.
    intercept_ : ndarray of shape (n_classes,) or (1,)
        Intercepts of the decision function.
    alpha_ : float
        The chosen regularization strength.
    best_score_ : float or None
        Minus the mean squared leave-one-out error for ``alpha_``, or minus the log loss if this is
        the ``scoring``; None if there is only one alpha.
    temperature_ : float
        Number by which decisions are divided before the softmax in `predict_proba`, between 0.05
        and 10,000. It minimizes the log loss of the leave-one-out decisions, for ``alpha_``, of the
        rows that choose alpha, averaged with their weights. If all of them are right, it is near
        the lower bound. With a single alpha, it is computed when it is first needed, from the sums.
        Rows that cannot be left out, because rounding makes their leverage 1 or because there are
        no other rows, are ignored; the temperature is 1 if there are only such rows.
    mean_ : ndarray of shape (n_features,)
        Mean of each feature.
    scale_ : ndarray of shape (n_features,)
        Standard deviation of each feature; 1 for constant features.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features. Defined only if X has feature names that are all strings.

    See Also
    --------
    StridedConv2DTransformer.transform_batches : Features of images, batch by batch.

    Notes
    -----
    The sums are counts, means, products, up to 2,000 rows, and fewer than 128 rows that are still
    to be added. Before you save a model that is only used to predict, `discard_sums` makes it
    small.

    `fit` on more than 16,384 features, in an array of NumPy, computes no products of features. Up
    to 8,192 rows are solved by the products of rows. For more rows, an iteration reads X about
    forty times; one row in ten, at most 2,000, is held out to choose alpha and the temperature,
    and then the model is fitted on all rows. X may be float16 or a memory map. Such a model has no
    sums: it predicts as a model after `discard_sums`.

    For each alpha, one Cholesky factor of the products is computed. The products are symmetric, so
    the factor is stored in the other half of their array. If there are at least 1,024 features,
    float32 rows are multiplied in float32, and at least three alphas are first compared by factors
    in float32, in another array. The errors for most of many alphas are interpolated. Only alphas
    that may be the best are solved in float64.

    The model is solved by `fit`. After `partial_fit` or `merge`, it is solved by the first method
    or attribute that needs the solution. If rows are missing for a solution, for example because
    all rows so far belong to one class, methods raise an error that states the reason, and the
    attributes of the solution, such as ``coef_``, raise a `~sklearn.exceptions.NotFittedError` with
    the same message. Other errors are the same for attributes and methods. ``dir(model)`` lists
    these attributes only if the model is solved for the current ``alphas``.

    An error in a method leaves the model as it was before the call. Only if rows were partly added
    to the sums, which an interrupt can cause, do later calls raise an error, until `fit` is called.

    Integer labels are exact: labels that differ stay different. An error is raised for labels of
    several batches that no dtype of NumPy holds together, for example -1 and ``2**63``, and for
    floats beyond ``2**53``.

    If ``array_api_dispatch`` is set in `sklearn.set_config`, X may be an array of PyTorch or CuPy,
    on a GPU as well. The sums, the fitted arrays and the predictions are then on its device; labels
    that are strings stay arrays of NumPy.

    Several threads may share a model. Threads that add rows or solve the model wait for each other.
    While rows are added to a solved model, other threads predict with its last solution, without
    waiting.

    References
    ----------
    R. Rifkin and R. Lippert, "Notes on Regularized Least Squares" (2007): leave-one-out errors.
    C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural Networks"
    (2017): the temperature of the softmax.
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

    Two models, for example fitted on two machines, can be merged into one:

    >>> first = StreamingRidgeClassifier(alphas=100).fit(X[:700], y[:700])
    >>> second = StreamingRidgeClassifier(alphas=100).fit(X[700:1500], y[700:1500])
    >>> bool(abs(first.merge(second).coef_ - model.coef_).max() < 1e-12)
    True
    """

    classes_: np.ndarray
    _has_fixed_classes: bool

    _metric = accuracy_score
    score = StreamingRidgeBase.score  # not that of the mixin, which comes first

    def __init__(
        self,
        alphas: float | Sequence[float] | np.ndarray = (0.1, 1.0, 10.0, 100.0, 1000.0),
        *,
        class_weight: Mapping[Any, float] | str | None = None,
        scoring: str | None = None,
    ) -> None:
        self.alphas = alphas
        self.class_weight = class_weight
        self.scoring = scoring

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Fit the model to a batch of rows, in addition to all earlier rows.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Finite features.
        y : array-like or Dask array of shape (n,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All classes, passed in the first call; other labels then raise an error. If None in the
            first call, any batch may add new classes.
        sample_weight : array-like or Dask array of shape (n,), default=None
            Weights of the rows, at least 0. A row of weight 0 is ignored, but its label
            is in ``classes_``. If None, all weights are 1.

        Returns
        -------
        self : StreamingRidgeClassifier
            The classifier.

        Raises
        ------
        TypeError
            If ``alphas``, ``class_weight``, X, y or ``sample_weight`` has a wrong type.
        ValueError
            If ``alphas``, ``class_weight``, X, y, ``classes`` or ``sample_weight`` has wrong
            values, or if ``class_weight`` is "balanced".
        """
        return self._partial_fit(X, y, sample_weight, given=classes)

    def decision_function(self, X: Any) -> Any:
        """Compute the decision function of the samples in X.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Features.

        Returns
        -------
        scores : ndarray or Dask array of shape (n, n_classes), or (n,) for two classes
            Score of each class. The class with the highest score is predicted; for two classes, a
            positive score predicts ``classes_[1]``.
        """
        check_is_fitted(self)
        if is_dask(X):
            shape = () if len(self.classes_) == 2 else (len(self.classes_),)
            return self._map_chunks("decision_function", X, shape)
        scores, _ = self._predict(X, "decision_function")
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_proba(self, X: Any) -> Any:
        """Compute the probabilities of the classes for the samples in X.

        They are the softmax of the decision function, divided by ``temperature_``, so the most
        probable class is the one that is predicted.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Features.

        Returns
        -------
        probabilities : ndarray or Dask array of shape (n, n_classes)
            Probabilities of the classes in ``classes_``; each row adds up to 1.

        Raises
        ------
        ValueError
            If X is invalid, or if ``temperature_`` is not known and cannot be computed: because
            weights of rows differ so much that rounding spoils leave-one-out errors, or because the
            sums were discarded by an earlier version of this package.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn_conv import StreamingRidgeClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> model = StreamingRidgeClassifier().fit(X[:1500], y[:1500])
        >>> probabilities = model.predict_proba(X[1500:])
        >>> probabilities.shape, round(model.temperature_, 2)
        ((297, 10), 0.13)
        """
        return self._predict_log_proba(X, "predict_proba")

    def predict_log_proba(self, X: Any) -> Any:
        """Compute the logarithms of the probabilities of the classes for the samples in X.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Features.

        Returns
        -------
        logarithms : ndarray or Dask array of shape (n, n_classes)
            Natural logarithms of `predict_proba`, which are finite even if probabilities are
            rounded to 0.
        """
        return self._predict_log_proba(X, "predict_log_proba")

    def novelty(self, X: Any) -> Any:
        """Compute how far the samples in X are from the training rows, compared to these.

        The distance of a sample is its leverage for ``alpha_``, which is a squared Mahalanobis
        distance from the mean of the training rows, regularized as the model is, or the norm of its
        standardized features if this is far more unusual. The novelty is the fraction, by weight,
        of the rows that choose alpha that were nearer to the others when they were left out. A
        tenth of samples like the training rows has a novelty above 0.9. Samples of other kinds, for
        example of another camera, have a high novelty, and their predictions need not be true.
        Features that are constant in the training rows are ignored.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Features.

        Returns
        -------
        novelty : ndarray or Dask array of shape (n,)
            Numbers from 0 to 1.

        Raises
        ------
        ValueError
            If X is invalid, if the model has no solution, or if its sums were discarded.

        Notes
        -----
        The first call computes a Cholesky factor, which takes as much memory as the sums. It is
        kept until rows are added, alpha changes, or `discard_sums` is called, and is in no file.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn_conv import StreamingRidgeClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> model = StreamingRidgeClassifier().fit(X[:1500], y[:1500])
        >>> round(float((model.novelty(X[1500:]) > 0.9).mean()), 2)
        0.11
        >>> bool(model.novelty(16 - X[1500:]).min() > 0.99)  # black on white, not white on black
        True
        """
        check_is_fitted(self)
        with self._lock():
            later = self._solve().later
            if "leverages" not in later:
                later["leverages"] = measure_leverages(self._require_sums(), self.alpha_)
            leverages = later["leverages"]
        if is_dask(X):
            from sklearn_conv._dask import map_rows
            from sklearn_conv._ridge.dask_rows import check_dask_rows

            check_dask_rows(X)
            self._check_columns(X, reset=False)
            return map_rows(leverages, "rank", X, (), np.float64)
        novelty = leverages.rank(self._check_features(X, "novelty"))
        return Library.of(self._place()).put(novelty)

    @property
    def temperature_(self) -> float:
        """Number that divides decisions before the softmax."""
        return self._fitted(with_errors=True).later["temperature"]

    def _predict_log_proba(self, X: Any, method: str) -> Any:
        check_is_fitted(self)
        if is_dask(X):
            return self._map_chunks(method, X, (len(self.classes_),), with_errors=True)
        scores, solution = self._predict(X, method, with_errors=True)
        logarithms = log_softmax(scores, solution.later["temperature"])
        return Library.of(scores).xp.exp(logarithms) if method == "predict_proba" else logarithms

    def predict(self, X: Any) -> Any:
        """Predict the class labels of the samples in X.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Features.

        Returns
        -------
        y : ndarray or Dask array of shape (n,)
            Predicted class labels.
        """
        check_is_fitted(self)
        if is_dask(X):
            return self._map_chunks("predict", X, (), self.classes_.dtype)
        scores, solution = self._predict(X, "predict")
        assert solution.classes is not None
        library, is_binary = Library.of(scores), scores.shape[1] == 1
        xp = library.xp
        codes = xp.astype(scores[:, 0] > 0, xp.int32) if is_binary else xp.argmax(scores, axis=1)
        if solution.classes.dtype.kind in NAMES:
            return solution.classes[to_numpy(codes)]
        return xp.take(library.put(solution.classes), codes, axis=0)

    def _check_parameters(self) -> Search:
        value = self.class_weight
        rule = "None, 'balanced' or a dict of finite numbers of at least 0"
        if isinstance(value, Mapping):
            numbers = value.values()
            if not all(isinstance(x, Real) and not isinstance(x, bool) for x in numbers):
                raise parameter_error(TypeError, OWNER, "class_weight", rule, value)
            if not all(is_finite(x) and x >= 0 for x in numbers):
                raise parameter_error(ValueError, OWNER, "class_weight", rule, value)
        elif value is not None and not (isinstance(value, str) and value == "balanced"):
            error = ValueError if isinstance(value, str) else TypeError
            raise parameter_error(error, OWNER, "class_weight", rule, value)
        alphas = check_strengths(OWNER, "alphas", self.alphas)
        return Search(alphas, scoring=check_scoring(OWNER, self.scoring))

    def _make_check(self, X: Any, y: Any, is_fit: bool) -> CheckTargets:
        class_weight = self.class_weight
        if class_weight == "balanced":
            if not is_fit:
                raise ValueError(
                    "class_weight='balanced' is for fit only, because partial_fit does not know "
                    "the frequencies of all classes. Pass a dict, for example made by "
                    "sklearn.utils.class_weight.compute_class_weight('balanced', classes=classes, "
                    "y=y) from all labels."
                )
            if is_dask(X) or is_dask(y):  # A chunk does not know all labels.
                from sklearn_conv._dask import da, dask

                unique = da.unique if is_dask(y) else np.unique
                class_weight = _balance(*dask.compute(*unique(y, return_counts=True)))
        return partial(_check_targets, class_weight=class_weight)

    def _admit(
        self,
        y: Any,
        targets: np.ndarray,
        reset: bool,
        is_fit: bool,
        given: Any,
        is_weighted: bool,
    ) -> dict[str, Any]:
        """Check the classes of a batch against those of earlier rows, or those given."""
        batch_classes = union_labels(np.unique(targets), self._find_weightless(y, is_weighted))
        if given is not None:
            given = np.unique(column_or_1d(from_library(given)))
            rule, kind = "numbers or strings, at least one of them", given.dtype.kind
            is_filled = len(given) > 0 and not (kind == "f" and np.isnan(given).any())
            require(OWNER, "classes", given, rule, kind in "biufUSO", is_filled)
            check_exact(given)
            if not reset and given.tolist() != self._labels.tolist():
                raise ValueError(
                    f"classes={show_labels(given)} differ from the classes of earlier rows, "
                    f"{show_labels(self._labels)}; pass classes in the first call of partial_fit "
                    "only."
                )
        known = given if reset else self._labels
        is_fixed = given is not None if reset else self._has_fixed_classes
        if known is None:
            classes = batch_classes
        else:
            _check_kinds(batch_classes, known)
            # NumPy would compare some integers as floats.
            unknown = [*{*batch_classes.tolist()} - {*known.tolist()}]
            if is_fixed and unknown:
                raise ValueError(
                    f"y has the classes {show_labels(unknown)}, which are not among "
                    f"{show_labels(known)}, the classes passed in the first call of partial_fit."
                )
            classes = union_labels(known, batch_classes)
        if isinstance(self.class_weight, Mapping) and (is_fixed or is_fit):
            unknown = [*{*self.class_weight} - {*classes.tolist()}]
            if unknown and {*classes.tolist()} - {*self.class_weight}:  # as in scikit-learn
                raise ValueError(
                    f"class_weight has the classes {show_labels(unknown)}, which are not among "
                    f"{show_labels(classes)}, the classes of y; remove them from class_weight."
                )
        return self._class_attributes(classes, is_fixed)

    def _find_weightless(self, y: Any, is_weighted: bool) -> np.ndarray:
        """Return the labels in y if some may be classes without rows, because of weights of 0."""
        weights = self.class_weight if isinstance(self.class_weight, Mapping) else {}
        if all(weights.values()) and not is_weighted:
            return np.array([])
        if is_dask(y):
            from sklearn_conv._dask import da

            return da.unique(y).compute()
        return np.unique(column_or_1d(y))

    def _class_attributes(self, classes: np.ndarray, is_fixed: bool) -> dict[str, Any]:
        """Return the fitted attributes; labels that are numbers are where the model is."""
        library = Library.of(self._place())
        placed = classes if classes.dtype.kind in NAMES else library.put(classes)
        return {"classes_": placed, "_has_fixed_classes": is_fixed}

    def _join(self, other: Self) -> dict[str, Any]:
        """Check the classes of two models, and return those of the merged model."""
        _check_kinds(other._labels, self._labels)
        classes = union_labels(self._labels, other._labels)
        for model in (self, other):
            if model._has_fixed_classes and len(model._labels) < len(classes):
                unknown = [*{*classes.tolist()} - {*model._labels.tolist()}]
                raise ValueError(
                    f"The models cannot be merged: one has the classes {show_labels(unknown)}, "
                    f"which are not among {show_labels(model._labels)}, the classes passed "
                    "in the first call of partial_fit of the other."
                )
        is_fixed = self._has_fixed_classes or other._has_fixed_classes
        return self._class_attributes(classes, is_fixed)

    @property
    def _labels(self) -> np.ndarray:  # type: ignore[override]
        return to_numpy(self.classes_)


def _check_targets(
    X: Any, y: Any, check: CheckArrays, class_weight: Any
) -> tuple[Any, np.ndarray, np.ndarray | None]:
    """Return the features, the labels, and the weights of their classes, if there are any."""
    rows, labels = check(X, y, dtype="numeric")
    check_labels(labels)
    if class_weight is None:
        return rows, labels, None
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if class_weight == "balanced":
        class_weight = _balance(classes, counts)
    table = [float(class_weight.get(label, 1.0)) for label in classes.tolist()]
    return rows, labels, np.array(table)[codes]


def _balance(classes: np.ndarray, counts: np.ndarray) -> dict[Any, float]:
    """Return the weights of classes with these numbers of rows, as in scikit-learn."""
    weights = counts.sum() / (len(classes) * counts)
    return dict(zip(classes.tolist(), weights.tolist(), strict=True))


def _check_kinds(labels: np.ndarray, known: np.ndarray) -> None:
    """Raise an error if only one of the arrays has strings; NumPy would cast the numbers."""
    if (known.dtype.kind in NAMES) != (labels.dtype.kind in NAMES):
        raise ValueError(
            "Class labels must be all strings or all numbers, but y has the label "
            f"{show_label(labels.tolist()[0])}, and {show_label(known.tolist()[0])} is a known "
            "class."
        )
