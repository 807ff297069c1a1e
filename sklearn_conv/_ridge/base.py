"""`RidgeBase`, the base of all estimators, and `StreamingRidgeBase`, that of the streaming ones."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeGuard
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, assert_all_finite, check_X_y
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_conv._array_api import (
    Library,
    check_convertible,
    check_table,
    follows_library,
    from_library,
    kind_of,
    require_same_library,
)
from sklearn_conv._callbacks import CallbackSupportMixin, fit_steps, with_callbacks
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._ridge.all_rows import MANY_FEATURES, AllRows, is_for_all_rows
from sklearn_conv._ridge.moments import Moments, NoSolutionError, Rows
from sklearn_conv._ridge.problem import Search
from sklearn_conv._ridge.products import BLOCK_BYTES, row_blocks
from sklearn_conv._ridge.solving import Solution, solve
from sklearn_conv._validation import check_numbers, is_dask, parameter_error
from sklearn_conv._versions import API_LINK

SOLVED_ATTRIBUTES = {"coef_", "intercept_", "alpha_", "best_score_", "mean_", "scale_"}
"""Fitted attributes that exist only if the model is solved."""

NUMPY = np.zeros(0, np.float32)
"""Array that stands for the library of models without an array that says where they are."""

CheckArrays = Callable[..., tuple[Any, np.ndarray]]
"""Checks of scikit-learn: `check_X_y`, or `validate_data` of a model."""

CheckTargets = Callable[[Any, Any, CheckArrays], tuple[Any, np.ndarray, np.ndarray | None]]
"""Function that checks features and targets, and returns them with the weights of their classes."""

_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Locks of the models; see `StreamingRidgeBase._lock`."""

if hasattr(os, "register_at_fork"):
    # A thread of the parent that holds a lock does not exist in a forked process.
    os.register_at_fork(after_in_child=_LOCKS.clear)


class RidgeBase(CallbackSupportMixin, BaseEstimator):
    """Estimator whose ``fit`` changes nothing if it raises an error."""

    _doc_link_module = "sklearn_conv"
    _doc_link_template = API_LINK

    if TYPE_CHECKING:  # scikit-learn has no types; this method is inherited from it.

        def set_params(self, **params: Any) -> Self: ...

    def _unfitted(self) -> Self:
        """Return a model with the same parameters, so that an error does not change this model."""
        model = type(self).__new__(type(self))
        model.__dict__.update(self.get_params(deep=False))
        return model

    def _take_over(self, model: Self) -> None:
        """Replace the fitted attributes by those of another model."""
        parameters = self.get_params(deep=False)
        kept = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        kept.pop("_sums", None)  # A model of many features has none.
        fitted = {name: value for name, value in vars(model).items() if name not in parameters}
        self.__dict__ = kept | fitted  # at once, because other threads may predict


class StreamingRidgeBase(RidgeBase, ABC):
    """Estimator that adds up rows in `Moments`, and solves them when the solution is needed."""

    alphas: Any
    _sums: Moments
    _solution: Solution | None

    _labels: np.ndarray | None = None
    """Labels of a classifier as an array of NumPy."""

    _metric: ClassVar[Callable[..., float]]
    """Function that `score` calls."""

    # What classifiers and regressors differ in:

    @abstractmethod
    def predict(self, X: Any) -> Any:
        """Predict the targets of the samples in X."""

    @abstractmethod
    def _check_parameters(self) -> Search:
        """Check all parameters, and return those of the solver."""

    @abstractmethod
    def _make_check(self, X: Any, y: Any, is_fit: bool) -> CheckTargets:
        """Return a function that does not refer to this model, because Dask sends it to workers."""

    @abstractmethod
    def _admit(
        self,
        y: Any,
        targets: np.ndarray,
        reset: bool,
        is_fit: bool,
        given: Any,
        is_weighted: bool,
    ) -> dict[str, Any]:
        """Check targets against earlier targets, and return the attributes that change.

        ``targets`` are those of the rows or, for chunks, one of each kind; ``given`` are classes.
        """

    @abstractmethod
    def _join(self, other: Self) -> dict[str, Any]:
        """Check the targets of two models, and return the attributes that a merge changes."""

    # What they share:

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit the model to all rows, and discard earlier rows.

        If an error is raised, the model stays as it was.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Finite features. The sums over the chunks of a Dask array are computed where the chunks
            are.
        y : array-like or Dask array of shape (n,), or (n, n_targets) for a regressor
            Class labels, or finite targets.
        sample_weight : array-like or Dask array of shape (n,), default=None
            Weights of the rows, at least 0. A row of weight 0 is ignored; the label
            that it has in a classifier is in ``classes_``. If None, all weights are 1.

        Returns
        -------
        self : object
            The fitted model.

        Raises
        ------
        TypeError
            If a parameter, X, y or ``sample_weight`` has a wrong type.
        ValueError
            If a parameter, X, y or ``sample_weight`` has wrong values, or if the y of a classifier
            has only one class.
        """
        with fit_steps(self, X, y, 2) as step, self._lock():
            model = self._unfitted()
            with step("sums"):
                model._add_rows(X, y, sample_weight, reset=True, is_fit=True)
            with step("alphas"):
                if isinstance(model._sums, AllRows):  # Rows that are not copied may change.
                    model.discard_sums()
                else:
                    model._solve()
            self._take_over(model)
        return self

    def merge(self, other: Self) -> Self:
        """Add the rows of another fitted model.

        If ``classes`` were passed to the first ``partial_fit`` of either classifier, they are the
        classes of the result.

        Parameters
        ----------
        other : object
            The other model, of the same class, which is not changed.

        Returns
        -------
        self : object
            The model, as if it were fitted on the rows of both models. Only the alpha that is
            chosen may differ, if there are more than 2,000 rows.

        Raises
        ------
        NotFittedError
            If either model is not fitted.
        TypeError
            If ``other`` is not a model of the same class.
        ValueError
            If the features or the numbers of targets of the two models differ, if the labels of
            only one classifier are strings, if one classifier has classes that are not among those
            passed to ``partial_fit`` of the other, or if the sums of a model were discarded.
        """
        kind = type(self).__name__
        check_is_fitted(self)
        if not isinstance(other, type(self)):
            raise parameter_error(TypeError, "merge", "other", f"a fitted {kind}", other)
        check_is_fitted(other)
        # Two threads that merge two models with each other take the locks in the same order.
        models: list[Self] = sorted((self, other), key=id)
        with models[0]._lock(), models[1]._lock():
            first, second = (getattr(model, "feature_names_in_", []) for model in (self, other))
            if self.n_features_in_ != other.n_features_in_ or not np.array_equal(first, second):
                raise ValueError(
                    f"The models cannot be merged: they have {self.n_features_in_} and "
                    f"{other.n_features_in_} features, or different feature names; fit both on the "
                    "same features."
                )
            changed = self._join(other)
            own, added = self._require_sums(), other._require_sums()
            require_same_library(kind, "merge", added.sums.mean, own.sums.mean)
            own.merge(added)
            self.__dict__.update(changed, _solution=None)
        return self

    def discard_sums(self) -> Self:
        """Discard the sums of the rows, so that the model can only predict.

        The sums take most of the memory of the model, and of its file. Without them, rows cannot be
        added, and the model cannot be merged or solved for other ``alphas``, until `fit` is called.
        The model is solved first, unless it is solved already, and what probabilities or intervals
        need is computed.

        Returns
        -------
        self : object
            The model.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        ValueError
            If the model cannot be solved, for example because all rows belong to one class.
        """
        with self._lock():
            with suppress(ValueError):  # A model whose rows cannot be left out still predicts.
                self._solve(with_errors=True)
            self._solve()
            self.__dict__.pop("_sums", None)
            solution = self._solve()
            self._solution = solution._replace(later=solution.saved_later())
        return self

    def score(self, X: Any, y: Any, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return the accuracy of a classifier, or the coefficient of determination of a regressor.

        Parameters
        ----------
        X : array-like or Dask array of shape (n, n_features)
            Features.
        y : array-like or Dask array of shape (n,), or (n, n_targets) for a regressor
            True class labels, or true targets.
        sample_weight : array-like of shape (n,), default=None
            Weights of the samples.

        Returns
        -------
        score : float
            Fraction of samples whose class is predicted correctly, or R² of the predictions, the
            mean over several targets.
        """
        predicted = self.predict(X)
        if is_dask(predicted):
            from sklearn_conv._dask import dask

            predicted, y = dask.compute(predicted, y)
        y, predicted, sample_weight = map(from_library, (y, predicted, sample_weight))
        return type(self)._metric(y, predicted, sample_weight=sample_weight)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, given: Any = None) -> Self:
        with self._lock():
            if self.__sklearn_is_fitted__():
                self._add_rows(X, y, sample_weight, reset=False, given=given)
            else:
                model = self._unfitted()
                model._add_rows(X, y, sample_weight, reset=True, given=given)
                self._take_over(model)
        return self

    @property
    def coef_(self) -> np.ndarray:
        """Coefficients of the features."""
        return self._fitted().coef

    @property
    def alpha_(self) -> Any:
        """The chosen regularization."""
        return self._fitted().alpha

    @property
    def best_score_(self) -> Any:
        """Leave-one-out score for ``alpha_``."""
        return self._fitted().score

    @property
    def mean_(self) -> np.ndarray:
        """Mean of each feature."""
        return self._fitted().mean

    @property
    def scale_(self) -> np.ndarray:
        """Standard deviation of each feature."""
        return self._fitted().scale

    @property
    def intercept_(self) -> Any:
        """Intercepts."""
        solution = self._fitted()
        return solution.level - solution.coef @ solution.mean

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether rows have been added; the solution may still have to be computed."""
        return "_solution" in vars(self)  # This attribute is set last.

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags

    def __dir__(self) -> list[str]:
        """List all attributes; list those of the solution only if the model is solved.

        `inspect.getmembers`, and therefore the HTML display of scikit-learn 1.9, evaluates all
        attributes that are listed here. Displaying a model must not solve it.
        """
        # BaseEstimator.__dir__ calls hasattr, and therefore evaluates, every attribute. So
        # object.__dir__ is used, and hasattr is called for the other attributes only.
        names = set(object.__dir__(self))
        solution = self._solution if self._is_solved() else None
        if solution is None:
            names -= SOLVED_ATTRIBUTES
        if solution is None or not solution.has_errors:
            names.discard("temperature_")
        return [name for name in names if hasattr(self, name)]

    def __getstate__(self) -> dict[str, Any]:
        """Return plain data, so that files refer to no class of this package but the estimator."""
        with self._lock():
            state = {**super().__getstate__()}
            if "_sums" in state and self._has_own_sums():
                state["_sums"] = self._sums.to_dict()
            else:
                state.pop("_sums", None)
            if state.get("_solution") is not None:
                solution = state["_solution"].move(Library.of(self._place()))
                plain = {"search": tuple(solution.search), "later": solution.saved_later()}
                state["_solution"] = solution._asdict() | plain
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        restored = {**state}
        if "_sums" in restored:
            restored["_sums"] = Moments.from_dict(restored["_sums"])
        if restored.get("_solution") is not None:
            solution = Solution(**{"later": {}} | restored["_solution"])
            restored["_solution"] = solution._replace(search=Search(*solution.search))
        super().__setstate__(restored)

    def _lock(self) -> Any:
        """Return the lock that a thread holds while it adds rows to this model, solves or saves it.

        It is not an attribute, so that copies, files and forked processes have locks of their own.
        """
        return _LOCKS.setdefault(self, RLock())

    def _is_solved(self) -> bool:
        """Return whether there is a solution for the current parameters."""
        solution = vars(self).get("_solution")
        try:
            return solution is not None and solution.search == self._check_parameters()
        except (TypeError, ValueError):
            return False

    def _solve(self, with_errors: bool = False) -> Solution:
        """Return the solution for the current parameters; compute it if there is none.

        If ``with_errors`` is True, it has what depends on leave-one-out errors.
        """
        check_is_fitted(self)
        search = self._check_parameters()

        def is_done(solution: Solution | None) -> TypeGuard[Solution]:
            if solution is None or solution.search != search:
                return False
            return solution.has_errors or not with_errors

        # No lock is needed to read the solution of a solved model.
        solution = self._solution
        if is_done(solution):
            if Library.of(solution.coef) != Library.of(self._place()):
                self._solution = solution = solution.move(Library.of(self._place()))
            return solution
        with self._lock():
            solution = self._solution  # Another thread may have solved the model.
            if is_done(solution):
                return solution
            found = solve(self._require_sums(), self._labels, search, with_errors)
            if solution is None or solution.search != search:
                self._solution = solution = found
            solution.later.update(found.later)
            return solution

    def _fitted(self, with_errors: bool = False) -> Solution:
        """Return the solution; raise NotFittedError if rows are missing, so that `hasattr` works.

        Other errors, such as those of memory or of a wrong parameter, are raised as they are.
        """
        try:
            return self._solve(with_errors)
        except NoSolutionError as error:
            raise NotFittedError(str(error)) from error

    def _require_sums(self) -> Moments:
        if not hasattr(self, "_sums"):
            raise NoSolutionError(
                "The sums of this model were discarded, as those of a fit of more than "
                f"{MANY_FEATURES:,} features are, so it can only predict; to add rows, to choose "
                "other alphas or to compute what the model was saved without, such as "
                "probabilities, intervals or novelty, fit again."
            )
        if not self._has_own_sums():
            raise NoSolutionError(
                f"The sums of this model are in {self._sums.library}, because move_estimator_to "
                "has only moved what predict needs; to add rows or to choose other alphas, use the "
                "model before it was moved, or fit again. With a single alpha, call predict_proba "
                "or predict_interval before the model is moved, in order to call it afterwards."
            )
        return self._sums

    def _place(self) -> Any:
        """Return an array of the library and the device of the model.

        It is an attribute, because move_estimator_to of scikit-learn moves attributes, but not the
        arrays in the sums and the solution.
        """
        return vars(self).get("_like", NUMPY)

    def _has_own_sums(self) -> bool:
        """Return whether the sums are where the model is."""
        return self._sums.library == Library.of(self._place())

    def _add_rows(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        reset: bool,
        is_fit: bool = False,
        given: Any = None,
    ) -> None:
        """Check rows and add them to the sums, or to new sums. The caller must hold the lock."""
        # All checks are made before the sums change, so an invalid batch does not change them.
        self._check_parameters()
        sums = None if reset else self._require_sums()
        if sums is not None and not is_dask(X):
            require_same_library(type(self).__name__, "partial_fit", X, sums.sums.mean)
        y, is_weighted = from_library(y), sample_weight is not None
        check = partial(check_rows, type(self).__name__, self._make_check(X, y, is_fit))
        if is_dask(X):
            batch = self._sum_chunks(X, y, sample_weight, check, sums)
            changed = self._admit(y, batch.examples, reset, is_fit, given, is_weighted)
            if sums is None:
                self._sums, self._like = batch, NUMPY
            else:
                sums.merge(batch)
        else:
            rows = check(X, y, sample_weight, partial(self._validate, reset=reset))
            if not len(rows.weights) and sample_weight is None:
                raise ValueError(
                    "All rows belong to classes whose weight in class_weight is 0; pass rows of "
                    "other classes, too."
                )
            if not len(rows.weights):
                raise weight_error(type(self).__name__, "that are not all zero", sample_weight)
            is_read_again = is_fit and is_for_all_rows(rows)
            if sums is None:
                sums = self._sums = Moments(rows.rows, rows.targets)
                self._like = sums.library.zeros((0,), rows.rows.dtype)
            changed = self._admit(y, rows.targets, reset, is_fit, given, is_weighted)
            if is_read_again:
                self._sums = AllRows(rows)
            else:
                sums.add(rows)
        self.__dict__.update(changed, _solution=None)

    def _validate(self, X: Any, *targets: Any, reset: bool, **options: Any) -> Any:
        """Check rows, and targets if they are passed, as `validate_data` does."""
        if not follows_library(X):
            check_convertible(X)
            if isinstance(X, np.ndarray) and X.dtype == np.float16 and X.ndim == 2:
                # scikit-learn would make several copies.
                options["ensure_all_finite"] = False
                for block in row_blocks(len(X), 4 * X.shape[1], BLOCK_BYTES):
                    assert_all_finite(X[block].astype(np.float32), input_name="X")
            return validate_data(self, X, *targets, reset=reset, **options)
        check_table(X)
        self._check_columns(X, reset)
        if not targets:
            return X
        return X, check_X_y(np.zeros((X.shape[0], 1), np.float32), *targets, **options)[1]

    def _check_columns(self, X: Any, reset: bool) -> None:
        """Check the number of features by scikit-learn, with an array that takes no memory."""
        stand_in = np.broadcast_to(np.float32(0), (1, X.shape[1]))
        validate_data(self, stand_in, skip_check_array=True, reset=reset)

    def _sum_chunks(
        self, X: Any, y: Any, sample_weight: Any, check: Callable[..., Rows], sums: Any
    ) -> Moments:
        """Compute the moments of a Dask array, whose rows come after those of ``sums``."""
        from sklearn_conv._ridge.dask_rows import check_dask_rows, sum_rows

        check_dask_rows(X)
        self._check_columns(X, sums is None)
        y = y if is_dask(y) else np.asanyarray(y)
        targets = np.zeros(0 if is_classifier(self) else (0, *y.shape[1:], *[1][: y.ndim == 1]))
        first = 0 if sums is None else sums.stop + sums.n_rows - sums.n_summed
        empty = Moments(np.zeros((0, X.shape[1]), X.dtype), targets, first)
        return sum_rows(X, y, sample_weight, check, empty)

    def _map_chunks(
        self,
        method: str,
        X: Any,
        shape: tuple[int, ...],
        dtype: Any = np.float64,
        with_errors: bool = False,
    ) -> Any:
        """Call a method with each chunk of a Dask array, lazily, as in `map_rows`."""
        from sklearn_conv._dask import map_rows
        from sklearn_conv._ridge.dask_rows import check_dask_rows

        check_dask_rows(X)
        return map_rows(self._without_sums(with_errors), method, X, shape, dtype)

    def _predict(self, X: Any, method: str, with_errors: bool = False) -> tuple[Any, Solution]:
        """Return the predicted targets ``(n, k)``, and the solution with which they were computed.

        Another thread may add rows to the model at the same time.
        """
        rows = self._check_features(X, method)
        solution = self._solve(with_errors)
        return solution.predict(rows), solution

    def _check_features(self, X: Any, method: str) -> Any:
        """Return checked rows for a method that predicts."""
        require_unmasked(X)
        require_same_library(type(self).__name__, method, X, self._place())
        with explain_nan():
            rows = self._validate(X, dtype="numeric", reset=False)
        check_features(rows)
        return rows

    def _without_sums(self, with_errors: bool = False) -> Self:
        """Return a solved copy without the sums, which are not sent to the chunks."""
        self._solve(with_errors)
        model = type(self).__new__(type(self))
        model.__dict__.update(self.__dict__)
        model.__dict__.pop("_sums", None)
        return model


@contextmanager
def explain_nan() -> Iterator[None]:
    """Explain NaN in features, for which scikit-learn would advise other models."""
    try:
        yield
    except ValueError as error:
        if "Input X contains NaN" not in str(error):
            raise
        raise ValueError(
            "Input X contains NaN. With missing='ignore', the features of an image are NaN if all "
            "windows of a cell have missing pixels: leave such images out, or fill their features, "
            "for example with model.steps.insert(1, ('impute', SimpleImputer())) in a pipeline."
        ) from error


def require_unmasked(*arrays: Any) -> None:
    """Raise an error for masked values, and for memory maps of truncated files."""
    for array in arrays:
        check_memory_map(array)
    if any(map(np.ma.is_masked, arrays)):
        raise ValueError("X or y has masked values; fill them first, or remove their rows.")


def check_rows(
    owner: str,
    check_targets: CheckTargets,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    check: CheckArrays | None = None,
) -> Rows:
    """Return the rows of an array, or of a chunk in a task of Dask, whose weight is above 0."""
    require_unmasked(X, y)
    n_rows, n_targets = map(_count, (X, y))
    if n_rows is not None and n_targets is not None and n_rows != n_targets:
        raise ValueError(
            f"The 'y' parameter of {owner} must have one target for each row of X. Got "
            f"inconsistent numbers of samples instead: {n_rows} rows and {n_targets} targets."
        )
    with explain_nan():
        rows, targets, factors = check_targets(X, y, check or check_X_y)
    check_features(rows)
    weights = np.ones(rows.shape[0])
    if sample_weight is not None:
        numbers = check_numbers(owner, "sample_weight", sample_weight, weights.shape, finite=True)
        if (numbers < 0).any():
            raise weight_error(owner, "of at least 0", sample_weight)
        weights = numbers.astype(np.float64)
    if factors is not None:
        weights = weights * factors
    return Rows(rows, targets, weights).take(np.flatnonzero(weights > 0))


def _count(values: Any) -> int | None:
    """Return the number of rows of an array or a list; None for other types and for a number."""
    shape = (len(values),) if isinstance(values, list | tuple) else getattr(values, "shape", ())
    return shape[0] if shape else None


def check_features(X: Any) -> None:
    """Raise an error if features are not numbers."""
    if kind_of(X) not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")


def as_columns(owner: str, targets: Any) -> np.ndarray:
    """Return targets as columns ``(n, k)`` in float64; raise an error if they are not numbers.

    Neither their mean nor the squares of errors may overflow float64.
    """
    if not isinstance(targets, np.ndarray) or targets.dtype.kind not in "biuf":
        raise TypeError(
            f"The 'y' parameter of {owner} must be an array of real numbers. Got "
            f"{type(targets).__name__} of dtype {targets.dtype} instead."
        )
    columns = targets.reshape(len(targets), -1).astype(np.float64)
    if columns.size and not np.abs(columns).max() < 1e150:
        raise ValueError(
            "Some targets in y are not between -1e+150 and 1e+150; divide them by their standard "
            "deviation."
        )
    return columns


def weight_error(owner: str, rule: str, sample_weight: Any) -> Exception:
    """Return the error for weights that break a rule."""
    return parameter_error(ValueError, owner, "sample_weight", f"numbers {rule}", sample_weight)
