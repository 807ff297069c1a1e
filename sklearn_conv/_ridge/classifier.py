"""`StreamingRidgeClassifier`: ridge classification, fitted batch by batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from threading import RLock
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_X_y, column_or_1d, validate_data

from sklearn_conv._callbacks import CallbackSupportMixin, fit_steps, with_callbacks
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._ridge.labels import (
    check_exact,
    show_label,
    show_labels,
    union_labels,
)
from sklearn_conv._ridge.moments import Moments
from sklearn_conv._ridge.solving import Solution, check_alphas, solve
from sklearn_conv._validation import is_dask, parameter_error
from sklearn_conv._versions import API_LINK

FITTED = {
    "sums_",
    "classes_",
    "n_features_in_",
    "feature_names_in_",
    "_has_fixed_classes",
    "_solution",
}
"""Names of the attributes that `fit` sets."""

SOLVED_ATTRIBUTES = {"coef_", "intercept_", "alpha_", "best_score_", "mean_", "scale_"}
"""Fitted attributes that exist only if the model is solved."""


class StreamingRidgeClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
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
        leave-one-out error, over rows and classes, is chosen. For up to 2,000 rows, the errors of
        all rows are used, as in `sklearn.linear_model.RidgeClassifierCV`. For more rows, the errors
        of a random sample of 2,000 rows are used, which is decided by the features and the label of
        each row. It is the same in any order of the rows and of `partial_fit` and `merge`, unless
        rows are repeated. The model is always fitted on all rows.

        ``alphas`` is read whenever the model is solved: after ``set_params(alphas=...)``, `predict`
        chooses an alpha again, without the rows.

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
        Minus the mean squared leave-one-out error for ``alpha_``; None if there is only one alpha.
    mean_ : ndarray of shape (n_features,)
        Mean of each feature.
    scale_ : ndarray of shape (n_features,)
        Standard deviation of each feature; 1 for constant features.
    sums_ : object
        Sums that `partial_fit` and `merge` update: counts, means, products and up to 2,000 rows,
        and fewer than 256 rows that are still to be added. To save a model that is only used to
        predict, delete them first with ``del model.sums_``.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features. Defined only if X has feature names that are all strings.

    See Also
    --------
    StridedConv2DTransformer.transform_batches : Features of images, batch by batch.

    Notes
    -----
    For each alpha, one Cholesky factor of the products is computed. The products are symmetric, so
    the factor is stored in the other half of their array. For fewer than about 20 alphas, this is
    faster than one eigendecomposition, and it takes a third of the memory.

    The model is solved by `fit`. After `partial_fit` or `merge`, it is solved by the first method
    or attribute that needs the solution. If there is no solution, for example because all rows
    belong to one class, methods raise an error that states the reason, and the attributes of the
    solution, such as ``coef_``, raise a `~sklearn.exceptions.NotFittedError` with the same message.
    ``dir(model)`` lists these attributes only if the model is solved for the current ``alphas``.

    An error in a method leaves the model as it was before the call. Only if rows were partly added
    to the sums, which an interrupt can cause, do later calls raise an error, until `fit` is called.

    Integer labels are exact: labels that differ stay different. An error is raised for labels of
    several batches that no dtype of NumPy holds together, for example -1 and ``2**63``, and for
    floats beyond ``2**53``.

    Several threads may share a model. Threads that add rows or solve the model wait for each other.
    While rows are added to a solved model, other threads predict with its last solution, without
    waiting.

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

    Two models, for example fitted on two machines, can be merged into one:

    >>> first = StreamingRidgeClassifier(alphas=100).fit(X[:700], y[:700])
    >>> second = StreamingRidgeClassifier(alphas=100).fit(X[700:1500], y[700:1500])
    >>> bool(abs(first.merge(second).coef_ - model.coef_).max() < 1e-12)
    True
    """

    _doc_link_module = "sklearn_conv"
    _doc_link_template = API_LINK

    sums_: Moments
    classes_: np.ndarray
    _has_fixed_classes: bool
    _solution: Solution | None

    if TYPE_CHECKING:  # scikit-learn has no types; this method is inherited from it.

        def set_params(self, **params: Any) -> Self: ...

    def __init__(
        self, alphas: float | Sequence[float] | np.ndarray = (0.1, 1.0, 10.0, 100.0, 1000.0)
    ) -> None:
        self.alphas = alphas

    @with_callbacks
    def fit(self, X: Any, y: Any) -> Self:
        """Fit the model to all rows, and discard earlier rows.

        If an error is raised, the model stays as it was.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Finite features. The sums over the chunks of a Dask array are computed where the chunks
            are.
        y : array-like or Dask array of shape (n,)
            Class labels.

        Returns
        -------
        self : StreamingRidgeClassifier
            The fitted classifier.

        Raises
        ------
        TypeError
            If ``alphas``, X or y has a wrong type.
        ValueError
            If ``alphas``, X or y has wrong values, or if y has only one class.
        """
        with fit_steps(self, X, y, 2) as step, self._lock():
            model = self._unfitted()
            with step("sums"):
                model._add_rows(X, y, None, reset=True)
            with step("alphas"):
                model._solve()
            self._take_over(model)
        return self

    def partial_fit(self, X: Any, y: Any, classes: npt.ArrayLike | None = None) -> Self:
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

        Returns
        -------
        self : StreamingRidgeClassifier
            The classifier.

        Raises
        ------
        TypeError
            If ``alphas``, X or y has a wrong type.
        ValueError
            If ``alphas``, X, y or ``classes`` has wrong values.
        """
        with self._lock():
            if self.__sklearn_is_fitted__():
                self._add_rows(X, y, classes, reset=False)
            else:
                model = self._unfitted()
                model._add_rows(X, y, classes, reset=True)
                self._take_over(model)
        return self

    def merge(self, other: StreamingRidgeClassifier) -> Self:
        """Add the rows of another fitted classifier.

        If ``classes`` were passed to the first `partial_fit` of either classifier, they are the
        classes of the result.

        Parameters
        ----------
        other : StreamingRidgeClassifier
            The other classifier, which is not changed.

        Returns
        -------
        self : StreamingRidgeClassifier
            The classifier, as if it were fitted on the rows of both classifiers.

        Raises
        ------
        NotFittedError
            If either classifier is not fitted.
        TypeError
            If ``other`` is not a `StreamingRidgeClassifier`.
        ValueError
            If the features of the two classifiers differ, if the labels of only one classifier are
            strings, if one classifier has classes that are not among those passed to `partial_fit`
            of the other, or if the ``sums_`` of a classifier were deleted.
        """
        check_is_fitted(self)
        if not isinstance(other, StreamingRidgeClassifier):
            raise parameter_error(
                TypeError, "merge", "other", "a fitted StreamingRidgeClassifier", other
            )
        check_is_fitted(other)
        # The locks are taken in the same order by two threads that merge two models with each other
        # in opposite directions, so neither waits for the other forever.
        models: list[StreamingRidgeClassifier] = sorted((self, other), key=id)
        with models[0]._lock(), models[1]._lock():
            own_names, other_names = (
                getattr(model, "feature_names_in_", []) for model in (self, other)
            )
            if self.n_features_in_ != other.n_features_in_ or not np.array_equal(
                own_names, other_names
            ):
                raise ValueError(
                    f"The models cannot be merged: they have {self.n_features_in_} and "
                    f"{other.n_features_in_} features, or different feature names; fit both on the "
                    "same features."
                )
            _check_kinds(other.classes_, self.classes_)
            classes = union_labels(self.classes_, other.classes_)
            for model in (self, other):
                if model._has_fixed_classes and len(model.classes_) < len(classes):
                    unknown = [*{*classes.tolist()} - {*model.classes_.tolist()}]
                    raise ValueError(
                        f"The models cannot be merged: one has the classes {show_labels(unknown)}, "
                        f"which are not among {show_labels(model.classes_)}, the classes passed "
                        "in the first call of partial_fit of the other."
                    )
            self._require_sums().merge(other._require_sums())
            self.classes_ = classes
            self._has_fixed_classes = self._has_fixed_classes or other._has_fixed_classes
            self._solution = None
        return self

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
            return self._map_chunks("decision_function", X, shape, np.float64)
        scores, classes = self._predict_scores(X)
        return scores[:, 0] if len(classes) == 2 else scores

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
        scores, classes = self._predict_scores(X)
        return classes[
            (scores[:, 0] > 0).astype(int) if len(classes) == 2 else scores.argmax(axis=1)
        ]

    def score(self, X: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return the accuracy of the predictions for X.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Features.
        y : array-like or Dask array of shape (n,)
            True class labels.
        sample_weight : array-like of shape (n,), default=None
            Weights of the samples.

        Returns
        -------
        accuracy : float
            Fraction of samples whose class is predicted correctly.
        """
        predicted = self.predict(X)
        if is_dask(predicted):
            from sklearn_conv._dask import dask

            predicted, y = dask.compute(predicted, y)
        return accuracy_score(y, predicted, sample_weight=sample_weight)

    @property
    def coef_(self) -> np.ndarray:
        """Coefficients of the features."""
        return self._fitted().coef

    @property
    def intercept_(self) -> np.ndarray:
        """Intercepts of the decision function."""
        solution = self._fitted()
        return solution.level - solution.coef @ solution.mean

    @property
    def alpha_(self) -> float:
        """The chosen regularization."""
        return self._fitted().alpha

    @property
    def best_score_(self) -> float | None:
        """Minus the mean squared leave-one-out error."""
        return self._fitted().score

    @property
    def mean_(self) -> np.ndarray:
        """Mean of each feature."""
        return self._fitted().mean

    @property
    def scale_(self) -> np.ndarray:
        """Standard deviation of each feature."""
        return self._fitted().scale

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether rows have been added; the solution may still have to be computed."""
        return "_solution" in vars(self)  # This attribute is set last.

    def __dir__(self) -> list[str]:
        """List all attributes; list those of the solution only if the model is solved.

        `inspect.getmembers`, and therefore the HTML display of scikit-learn 1.9, evaluates all
        attributes that are listed here. Displaying a model must not solve it.
        """
        if self._is_solved():
            return super().__dir__()
        # BaseEstimator.__dir__ calls hasattr, and therefore evaluates, every attribute. So
        # object.__dir__ is used, and hasattr is called for the other attributes only.
        names = set(object.__dir__(self)) - SOLVED_ATTRIBUTES
        return [name for name in names if hasattr(self, name)]

    def __getstate__(self) -> dict[str, Any]:
        """Return plain data, so that files refer to no class of this package but the estimator."""
        with self._lock():
            state = {**super().__getstate__()}
            if "sums_" in state:
                state["sums_"] = self.sums_.to_dict()
        state.pop("_locks", None)
        if state.get("_solution") is not None:
            state["_solution"] = state["_solution"]._asdict()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        restored = {**state}
        if "sums_" in restored:
            restored["sums_"] = Moments.from_dict(restored["sums_"])
        if restored.get("_solution") is not None:
            restored["_solution"] = Solution(**restored["_solution"])
        super().__setstate__(restored)

    def _lock(self) -> AbstractContextManager[Any]:
        """Return the lock of this model, which a thread holds while it adds rows, solves or saves.

        A forked process has its own lock: a thread of the parent that holds the parent's lock does
        not exist in the child, and would never release it. The lock is reentrant because a signal
        handler may interrupt its own thread while this thread holds the lock.
        """
        locks = self.__dict__.setdefault("_locks", {})
        return locks.setdefault(os.getpid(), RLock())

    def _is_solved(self) -> bool:
        """Return whether there is a solution for the current ``alphas``."""
        solution = vars(self).get("_solution")
        try:
            return solution is not None and solution.alphas == self._check_alphas()
        except (TypeError, ValueError):
            return False

    def _check_alphas(self) -> tuple[float, ...]:
        return check_alphas(type(self).__name__, self.alphas)

    def _solve(self) -> Solution:
        """Return the solution for the current ``alphas``; compute it if there is none."""
        check_is_fitted(self)
        alphas = self._check_alphas()
        # No lock is needed to read the solution of a solved model.
        solution = self._solution
        if solution is not None and solution.alphas == alphas:
            return solution
        with self._lock():
            # Another thread, or a signal handler during this loop, may have solved the model.
            while (solution := self._solution) is None or solution.alphas != alphas:
                moments = self._require_sums()
                n_writes = moments.begin_solving()
                if len(self.classes_) < 2:
                    raise ValueError(
                        f"{type(self).__name__} needs rows of at least 2 classes, but y has 1 "
                        f"class so far: {show_label(self.classes_.tolist()[0])}."
                    )
                self._solution = solve(moments, n_writes, self.classes_, alphas)
                if moments.n_writes != n_writes:
                    self._solution = None  # A signal handler has changed the moments.
            return solution

    def _fitted(self) -> Solution:
        """Return the solution; raise NotFittedError if there is none, so that `hasattr` works."""
        try:
            return self._solve()
        except NotFittedError:
            raise
        except Exception as error:
            raise NotFittedError(str(error)) from error

    def _require_sums(self) -> Moments:
        if not hasattr(self, "sums_"):
            raise ValueError(
                "The sums_ of this model were deleted, so it can only predict; to add rows or to "
                "choose other alphas, fit again."
            )
        return self.sums_

    def _add_rows(self, X: Any, y: Any, classes: Any, reset: bool) -> None:
        """Check rows and add them to the sums, or to new sums. The caller must hold the lock."""
        # All checks are made before the sums change, so an invalid batch does not change them.
        self._check_alphas()
        earlier = None if reset else self._require_sums()
        if is_dask(X):
            batch = self._sum_chunks(X, y, reset)
            known_classes, is_fixed = self._check_classes(batch.classes, classes, reset)
            if earlier is None:
                self.sums_ = batch
            else:
                earlier.merge(batch)
        else:
            _require_unmasked(X, y)
            rows, labels = validate_data(self, X, y, dtype="numeric", reset=reset)
            _check_dtypes(rows, labels)
            known_classes, is_fixed = self._check_classes(np.unique(labels), classes, reset)
            if earlier is None:
                earlier = self.sums_ = Moments(rows.shape[1], rows.dtype)
            earlier.add(rows, labels)
        # A signal handler may have added rows of other classes during this call.
        self.classes_ = known_classes if reset else union_labels(self.classes_, known_classes)
        self._has_fixed_classes = is_fixed
        self._solution = None

    def _unfitted(self) -> Self:
        """Return a model with the same parameters, so that an error does not change this model."""
        model = type(self).__new__(type(self))
        model.__dict__.update(self.get_params(deep=False))
        return model

    def _take_over(self, model: Self) -> None:
        """Replace the fitted attributes by those of another model."""
        kept = {name: value for name, value in vars(self).items() if name not in FITTED}
        fitted = {name: value for name, value in vars(model).items() if name in FITTED}
        self.__dict__ = kept | fitted  # at once, because other threads may predict

    def _sum_chunks(self, X: Any, y: Any, reset: bool) -> Moments:
        """Compute the moments of a Dask array."""
        from sklearn_conv._ridge.dask_rows import check_dask_rows, sum_rows

        check_dask_rows(X)
        # scikit-learn checks the number of features. It needs an array; this one takes no memory.
        stand_in = np.broadcast_to(np.float32(0), (1, X.shape[1]))
        validate_data(self, stand_in, skip_check_array=True, reset=reset)
        return sum_rows(X, y, _check_chunk)

    def _check_classes(
        self, batch_classes: np.ndarray, classes: Any, reset: bool
    ) -> tuple[np.ndarray, bool]:
        """Check the classes of a batch; return all classes and whether others raise errors."""
        given = None if classes is None else np.unique(column_or_1d(classes))
        if given is not None:
            check_exact(given)
            if not reset and given.tolist() != self.classes_.tolist():
                raise ValueError(
                    f"classes={show_labels(given)} differ from the classes of earlier rows, "
                    f"{show_labels(self.classes_)}; pass classes in the first call of partial_fit "
                    "only."
                )
        known = given if reset else self.classes_
        is_fixed = given is not None if reset else self._has_fixed_classes
        if known is None:
            return batch_classes, is_fixed
        _check_kinds(batch_classes, known)
        # NumPy would compare some integers as floats.
        known_labels = {*known.tolist()}
        unknown = [label for label in batch_classes.tolist() if label not in known_labels]
        if is_fixed and unknown:
            raise ValueError(
                f"y has the classes {show_labels(unknown)}, which are not among "
                f"{show_labels(known)}, the classes passed in the first call of partial_fit."
            )
        return union_labels(known, batch_classes), is_fixed

    def _predict_scores(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return scores, ``(n, k)`` or ``(n, 1)`` for two classes, and the classes of the solution.

        Both belong to the same solution, because another thread may add classes to the model at the
        same time.
        """
        _require_unmasked(X)
        rows = validate_data(self, X, dtype="numeric", reset=False)
        _check_dtypes(rows)
        solution = self._solve()
        return solution.predict(rows), solution.classes

    def _map_chunks(self, method: str, X: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """Call a method with each chunk of a Dask array, lazily, as in `map_rows`."""
        from sklearn_conv._dask import map_rows
        from sklearn_conv._ridge.dask_rows import check_dask_rows

        check_dask_rows(X)
        return map_rows(self._without_sums(), method, X, shape, dtype)

    def _without_sums(self) -> StreamingRidgeClassifier:
        """Return a solved copy without the sums, which are not sent to the chunks."""
        self._solve()
        model = type(self).__new__(type(self))
        left_out = {"sums_", "_locks"}
        model.__dict__.update(
            (name, value) for name, value in vars(self).items() if name not in left_out
        )
        return model


def _check_chunk(X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check a chunk of a Dask array inside a task, as `fit` checks X and y."""
    _require_unmasked(X, y)
    rows, labels = check_X_y(X, y, dtype="numeric")
    _check_dtypes(rows, labels)
    return rows, labels


def _require_unmasked(*arrays: Any) -> None:
    for array in arrays:
        check_memory_map(array)
    if any(map(np.ma.is_masked, arrays)):
        raise ValueError("X or y has masked values; fill them first, or remove their rows.")


def _check_dtypes(X: np.ndarray, y: np.ndarray | None = None) -> None:
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")
    if y is None:
        return
    if y.dtype.kind not in "biufUSO":
        raise TypeError(f"y has dtype {y.dtype}; classes must be numbers or strings.")
    check_exact(y)
    check_classification_targets(y)


def _check_kinds(labels: np.ndarray, known: np.ndarray) -> None:
    """Raise an error if only one of the arrays has strings; NumPy would cast the numbers."""
    if (known.dtype.kind in "OUS") != (labels.dtype.kind in "OUS"):
        raise ValueError(
            "Class labels must be all strings or all numbers, but y has the label "
            f"{show_label(labels.tolist()[0])}, and {show_label(known.tolist()[0])} is a known "
            "class."
        )
