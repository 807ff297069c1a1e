"""`RidgeBase`, the base of all estimators, and `StreamingRidgeBase`, that of the streaming ones."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, check_X_y
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_conv._array_api import (
    Library,
    check_convertible,
    check_table,
    follows_library,
    from_library,
    kind_of,
    library_name,
    require_same_library,
)
from sklearn_conv._callbacks import CallbackSupportMixin, fit_steps
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._ridge.array_api_moments import ArrayApiMoments
from sklearn_conv._ridge.array_api_solving import solve_on_device
from sklearn_conv._ridge.moments import Moments, Rows
from sklearn_conv._ridge.solving import Search, Solution, solve
from sklearn_conv._validation import check_numbers, is_dask, parameter_error
from sklearn_conv._versions import API_LINK

SOLVED_ATTRIBUTES = {"coef_", "intercept_", "alpha_", "best_score_", "mean_", "scale_"}
"""Fitted attributes that exist only if the model is solved."""


NUMPY = np.zeros(0, np.float32)
"""Array that stands for the library of models without an array that says where they are."""


class RidgeBase(CallbackSupportMixin, BaseEstimator):
    """Estimator whose ``fit`` changes nothing if it raises an error."""

    _doc_link_module = "sklearn_conv"
    _doc_link_template = API_LINK
    _fitted_names: ClassVar[set[str]]
    """Names of the attributes that `fit` sets."""

    if TYPE_CHECKING:  # scikit-learn has no types; this method is inherited from it.

        def set_params(self, **params: Any) -> Self: ...

    def _unfitted(self) -> Self:
        """Return a model with the same parameters, so that an error does not change this model."""
        model = type(self).__new__(type(self))
        model.__dict__.update(self.get_params(deep=False))
        return model

    def _take_over(self, model: Self) -> None:
        """Replace the fitted attributes by those of another model."""
        names = self._fitted_names
        kept = {name: value for name, value in vars(self).items() if name not in names}
        fitted = {name: value for name, value in vars(model).items() if name in names}
        self.__dict__ = kept | fitted  # at once, because other threads may predict


class StreamingRidgeBase(RidgeBase, ABC):
    """Estimator that adds up rows in `Moments`, and solves them when the solution is needed."""

    _fitted_names: ClassVar[set[str]] = {
        "sums_",
        "n_features_in_",
        "feature_names_in_",
        "_like",
        "_solution",
    }

    alphas: Any
    sums_: Moments | ArrayApiMoments
    _solution: Solution | None

    # What a subclass defines:

    @abstractmethod
    def _check_parameters(self) -> Search:
        """Check all parameters, and return those of the solver."""

    @abstractmethod
    def _prepare(self, y: Any, options: dict[str, Any]) -> tuple[Any, Callable[..., Rows]]:
        """Return the targets and a function that checks an array or a chunk of Dask.

        The function takes features, targets, weights or None, and a function for the checks of
        scikit-learn. It returns the rows whose weight is above 0. It must not refer to this model,
        because Dask sends it to the workers.
        """

    @abstractmethod
    def _make_moments(self, n_features: int, dtype: np.dtype, targets: Any) -> Moments:
        """Return moments without rows for targets that were prepared."""

    @abstractmethod
    def _admit(
        self, y: Any, targets: np.ndarray, reset: bool, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Check targets against earlier targets, and return the attributes that change.

        ``targets`` are those of the rows or, for chunks, the examples in their sums.
        """

    def _set_attributes(self, changed: dict[str, Any], reset: bool) -> None:
        """Set the attributes that `_admit` returned before the rows were added."""
        self.__dict__.update(changed)

    def _get_classes(self) -> np.ndarray | None:
        """Return the classes of the solution; raise ValueError if there are not enough of them."""
        return None

    # What all subclasses do:

    def _fit(self, X: Any, y: Any, sample_weight: Any, options: dict[str, Any]) -> Self:
        with fit_steps(self, X, y, 2) as step, self._lock():
            model = self._unfitted()
            with step("sums"):
                model._add_rows(X, y, sample_weight, options, reset=True)
            with step("alphas"):
                model._solve()
            self._take_over(model)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, options: dict[str, Any]) -> Self:
        with self._lock():
            if self.__sklearn_is_fitted__():
                self._add_rows(X, y, sample_weight, options, reset=False)
            else:
                model = self._unfitted()
                model._add_rows(X, y, sample_weight, options, reset=True)
                self._take_over(model)
        return self

    def _merge(self, other: Self) -> Self:
        kind = type(self).__name__
        check_is_fitted(self)
        if not isinstance(other, type(self)):
            raise parameter_error(TypeError, "merge", "other", f"a fitted {kind}", other)
        check_is_fitted(other)
        # The locks are taken in the same order by two threads that merge two models with each other
        # in opposite directions, so neither waits for the other forever.
        models: list[Self] = sorted((self, other), key=id)
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
            changed = self._join(other)
            sums, other_sums = self._require_sums(), other._require_sums()
            require_same_library(kind, "merge", other_sums.mean, sums.mean)
            sums.merge(other_sums)
            self._set_attributes(changed, reset=True)
            self._solution = None
        return self

    @abstractmethod
    def _join(self, other: Self) -> dict[str, Any]:
        """Check the targets of two models, and return the attributes that a merge changes."""

    @property
    def coef_(self) -> np.ndarray:
        """Coefficients of the features."""
        return self._fitted().coef

    @property
    def intercept_(self) -> Any:
        """Intercepts."""
        solution = self._fitted()
        return solution.level - solution.coef @ solution.mean

    @property
    def alpha_(self) -> Any:
        """The chosen regularization."""
        return self._fitted().alpha

    @property
    def best_score_(self) -> Any:
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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags

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
            if "sums_" in state and self._has_own_sums():
                state["sums_"] = self.sums_.to_dict()
            else:
                state.pop("sums_", None)
            if state.get("_solution") is not None:
                state["_solution"] = state["_solution"].move(Library.of(self._place()))
        state.pop("_locks", None)
        if state.get("_solution") is not None:
            state["_solution"] = state["_solution"]._asdict()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        restored = {**state}
        if "sums_" in restored:
            kind = ArrayApiMoments if "keys" in restored["sums_"] else Moments
            restored["sums_"] = kind.from_dict(restored["sums_"])
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
        """Return whether there is a solution for the current parameters."""
        solution = vars(self).get("_solution")
        try:
            return solution is not None and solution.search == self._check_parameters()
        except (TypeError, ValueError):
            return False

    def _solve(self) -> Solution:
        """Return the solution for the current parameters; compute it if there is none."""
        check_is_fitted(self)
        search = self._check_parameters()
        # No lock is needed to read the solution of a solved model.
        solution = self._solution
        if solution is not None and solution.search == search:
            if Library.of(solution.coef) != Library.of(self._place()):
                self._solution = solution = solution.move(Library.of(self._place()))
            return solution
        with self._lock():
            # Another thread, or a signal handler during this loop, may have solved the model.
            while (solution := self._solution) is None or solution.search != search:
                moments = self._require_sums()
                n_writes = moments.begin_solving()
                classes = self._get_classes()
                self._solution = (
                    solve(moments, n_writes, classes, search)
                    if isinstance(moments, Moments)
                    else solve_on_device(moments, classes, search)
                )
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

    def _require_sums(self) -> Any:
        if not hasattr(self, "sums_"):
            raise ValueError(
                "The sums_ of this model were deleted, so it can only predict; to add rows or to "
                "choose other alphas, fit again."
            )
        if not self._has_own_sums():
            raise ValueError(
                f"The sums_ of this model are in {Library.of(self.sums_.mean)}, because "
                "move_estimator_to has only moved what predict needs; to add rows or to choose "
                "other alphas, use the model before it was moved, or fit again."
            )
        return self.sums_

    def _place(self) -> Any:
        """Return an array of the library and the device of the model.

        It is an attribute, because move_estimator_to of scikit-learn moves attributes, but not the
        arrays in the sums and the solution.
        """
        return vars(self).get("_like", NUMPY)

    def _has_own_sums(self) -> bool:
        """Return whether the sums are where the model is."""
        return Library.of(self.sums_.mean) == Library.of(self._place())

    def _add_rows(
        self, X: Any, y: Any, sample_weight: Any, options: dict[str, Any], reset: bool
    ) -> None:
        """Check rows and add them to the sums, or to new sums. The caller must hold the lock."""
        # All checks are made before the sums change, so an invalid batch does not change them.
        self._check_parameters()
        earlier = None if reset else self._require_sums()
        if earlier is not None and not is_dask(X):
            require_same_library(type(self).__name__, "partial_fit", X, earlier.mean)
        y = from_library(y)
        targets, check_rows = self._prepare(y, options)
        if is_dask(X):
            batch = self._sum_chunks(X, targets, sample_weight, check_rows, reset)
            changed = self._admit(y, batch.targets.examples, reset, options)
            if earlier is None:
                self.sums_ = batch
            else:
                earlier.merge(batch)
        else:
            check = partial(self._validate, reset=reset)
            rows = check_rows(X, targets, sample_weight, check)
            if not rows.rows.shape[0]:
                raise weight_error(type(self).__name__, "that are not all zero", sample_weight)
            changed = self._admit(y, rows.targets, reset, options)
            if earlier is None:
                earlier = self.sums_ = self._make_moments_like(rows)
                self._like = Library.of(rows.rows).zeros((0,), rows.rows.dtype)
            earlier.add(rows)
        self._set_attributes(changed, reset)
        self._solution = None

    def _validate(self, X: Any, *targets: Any, reset: bool, **options: Any) -> Any:
        """Check rows, and targets if they are passed, as `validate_data` does."""
        if not follows_library(X):
            check_convertible(X)
            return validate_data(self, X, *targets, reset=reset, **options)
        check_table(X)
        # scikit-learn needs an array for its checks of names and columns; this one takes no memory.
        stand_in = np.broadcast_to(np.float32(0), (1, X.shape[1]))
        validate_data(self, stand_in, skip_check_array=True, reset=reset)
        if not targets:
            return X
        return X, check_X_y(np.zeros((X.shape[0], 1), np.float32), *targets, **options)[1]

    def _make_moments_like(self, rows: Rows) -> Moments | ArrayApiMoments:
        """Return moments without rows, where the rows are."""
        if not library_name(rows.rows):
            return self._make_moments(rows.rows.shape[1], rows.rows.dtype, rows.targets)
        if rows.targets.ndim == 2:
            return ArrayApiMoments(rows.rows, None, rows.targets.shape[1])
        return ArrayApiMoments(rows.rows, np.array([]), 0)

    def _sum_chunks(
        self, X: Any, y: Any, sample_weight: Any, check_rows: Callable[..., Rows], reset: bool
    ) -> Moments:
        """Compute the moments of a Dask array."""
        from sklearn_conv._ridge.dask_rows import check_dask_rows, sum_rows

        check_dask_rows(X)
        # scikit-learn checks the number of features. It needs an array; this one takes no memory.
        stand_in = np.broadcast_to(np.float32(0), (1, X.shape[1]))
        validate_data(self, stand_in, skip_check_array=True, reset=reset)
        return sum_rows(X, y, sample_weight, check_rows, self._make_moments(X.shape[1], X.dtype, y))

    def _map_chunks(self, method: str, X: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """Call a method with each chunk of a Dask array, lazily, as in `map_rows`."""
        from sklearn_conv._dask import map_rows
        from sklearn_conv._ridge.dask_rows import check_dask_rows

        check_dask_rows(X)
        return map_rows(self._without_sums(), method, X, shape, dtype)

    def _predict(self, X: Any, method: str) -> tuple[Any, Solution]:
        """Return the predicted targets ``(n, k)``, and the solution with which they were computed.

        Another thread may add rows to the model at the same time.
        """
        require_unmasked(X)
        require_same_library(type(self).__name__, method, X, self._place())
        rows = self._validate(X, dtype="numeric", reset=False)
        check_features(rows)
        solution = self._solve()
        return solution.predict(rows), solution

    def _without_sums(self) -> Self:
        """Return a solved copy without the sums, which are not sent to the chunks."""
        self._solve()
        model = type(self).__new__(type(self))
        left_out = {"sums_", "_locks"}
        model.__dict__.update(
            (name, value) for name, value in vars(self).items() if name not in left_out
        )
        return model


def require_unmasked(*arrays: Any) -> None:
    """Raise an error for masked values, and for memory maps of truncated files."""
    for array in arrays:
        check_memory_map(array)
    if any(map(np.ma.is_masked, arrays)):
        raise ValueError("X or y has masked values; fill them first, or remove their rows.")


def check_lengths(owner: str, X: Any, y: Any) -> None:
    """Raise an error if the numbers of rows and targets differ."""
    n_rows, n_targets = map(_count, (X, y))
    if n_rows is not None and n_targets is not None and n_rows != n_targets:
        raise ValueError(
            f"The 'y' parameter of {owner} must have one target for each row of X. Got "
            f"inconsistent numbers of samples instead: {n_rows} rows and {n_targets} targets."
        )


def _count(values: Any) -> int | None:
    """Return the number of rows of an array or a list; None for other types and for a number."""
    shape = (len(values),) if isinstance(values, list | tuple) else getattr(values, "shape", ())
    return shape[0] if shape else None


def check_features(X: Any) -> None:
    """Raise an error if features are not numbers."""
    if kind_of(X) not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")


def check_weights(owner: str, sample_weight: Any, n_rows: int) -> np.ndarray:
    """Return the weights ``(n_rows,)`` as float64; they are 1 if there are none."""
    if sample_weight is None:
        return np.ones(n_rows)
    weights = check_numbers(owner, "sample_weight", sample_weight, (n_rows,), finite=True)
    if (weights < 0).any():
        raise weight_error(owner, "of at least 0", sample_weight)
    return weights.astype(np.float64)


def weight_error(owner: str, rule: str, sample_weight: Any) -> Exception:
    """Return the error for weights that break a rule."""
    return parameter_error(ValueError, owner, "sample_weight", f"numbers {rule}", sample_weight)


def drop_unused(rows: Any, targets: np.ndarray, weights: np.ndarray) -> Rows:
    """Return the rows whose weight is above 0."""
    used = np.flatnonzero(weights > 0)
    if len(used) == len(weights):
        return Rows(rows, targets, weights)
    if library_name(rows):
        library = Library.of(rows)
        return Rows(library.xp.take(rows, library.put(used), axis=0), targets[used], weights[used])
    return Rows(rows, targets, weights).take(used)
