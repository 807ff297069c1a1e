"""`cross_val_table`: what models that had not seen an image say about it, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import get_config
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_consistent_length

from sklearn_conv._array_api import from_library, to_numpy
from sklearn_conv._reading.sources import list_some
from sklearn_conv._ridge.base import require_unmasked
from sklearn_conv._ridge.labels import check_labels
from sklearn_conv._ridge.moments import NoSolutionError
from sklearn_conv._ridge.scores import check_coverage
from sklearn_conv._validation import require
from sklearn_conv._warnings import warn


def cross_val_table(
    estimator: Any,
    X: Any,
    y: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    cv: Any = None,
    paths: npt.ArrayLike | None = None,
    coverage: float = 0.9,
) -> Any:
    """Cross-validate a model, and return its predictions for each image as a table.

    Each image is predicted by a model that was fitted without the images of its fold, as in
    `~sklearn.model_selection.cross_val_predict`, but each model is fitted once for all columns.

    Parameters
    ----------
    estimator : estimator
        Classifier or regressor, such as a pipeline of `make_image_classifier`, or a search that
        refits. It is cloned for each fold.
    X : array-like or ImageFiles of length n
        Images, or whatever the estimator accepts.
    y : array-like of shape (n,)
        Labels or numbers.
    groups : array-like of shape (n,), default=None
        Group of each image, such as the patient or the place, for a splitter that keeps groups
        together. It becomes a column.
    cv : int, splitter, iterable or None, default=None
        How images are divided into folds, as in scikit-learn. Each image must be tested once.
    paths : array-like of shape (n,), default=None
        Names of the images for the column "path". If None, the paths of an `ImageFiles`, if X is
        one.
    coverage : float, default=0.9
        Probability that an interval of a regressor contains its target.

    Returns
    -------
    table : dict of ndarrays, or DataFrame
        A row for each image, in the order of X, with the columns

        - "path", if paths are known;
        - "label" of a classifier or "target" of a regressor, which is y;
        - "predicted";
        - ``"probability_"`` and the class, for each class, if the model has ``predict_proba``;
        - "lower" and "upper", if its last step has ``predict_interval``;
        - "novelty", if its last step has it and was fitted on at most 16,384 features, compared
          with the training images of the fold;
        - "fold", the number of the fold that contains the image, from 1;
        - "group", if there are groups.

        It is a DataFrame after ``sklearn.set_config(transform_output="pandas")`` or "polars", and
        otherwise a dict, from which ``pandas.DataFrame(table)`` makes one.

    Warns
    -----
    UserWarning
        If no training image of a fold has a class, which then gets the probability 0.

    Raises
    ------
    ValueError
        If y has several columns, if lengths differ, or if an image is tested never or twice.

    See Also
    --------
    StreamingRidgeClassifier.novelty : How far an image is from the training images.
    StreamingRidge.predict_interval : Intervals for numbers.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_conv import cross_val_table, make_image_classifier
    >>> images, labels = load_digits(n_class=3, return_X_y=True)
    >>> model = make_image_classifier("tiny", effort="fast", random_state=0)
    >>> table = cross_val_table(model, images.reshape(-1, 8, 8), labels)
    >>> [*table]  # doctest: +NORMALIZE_WHITESPACE
    ['label', 'predicted', 'probability_0', 'probability_1', 'probability_2', 'novelty',
     'fold']
    >>> float((table["label"] == table["predicted"]).mean()) > 0.98
    True
    """
    require_unmasked(y)
    y = np.asarray(from_library(y))
    paths = getattr(X, "paths", None) if paths is None else paths
    given = {"path": paths, "group": groups}
    named = {name: np.asarray(values) for name, values in given.items() if values is not None}
    require("cross_val_table", "y", y, "labels or numbers of shape (n,)", True, y.ndim == 1)
    if is_classifier(estimator):
        check_labels(y)
    check_consistent_length(X, y, *named.values())
    check_coverage("cross_val_table", coverage)
    splits = [*check_cv(cv, y, classifier=is_classifier(estimator)).split(X, y, groups)]
    require("cross_val_table", "cv", cv, "a splitter with at least one fold", True, bool(splits))
    table = predict_folds(estimator, X, y, splits, coverage)
    table = {name: named[name] for name in named if name == "path"} | table | named
    output = get_config()["transform_output"]
    return table if output == "default" else import_module(output).DataFrame(table)


def predict_folds(
    estimator: Any,
    X: Any,
    y: np.ndarray,
    splits: Iterable[tuple[np.ndarray, np.ndarray]],
    coverage: float = 0.9,
    *,
    after_fold: Callable[[Any, np.ndarray, Any], None] = lambda model, test, features: None,
    update: Callable[[int], None] = lambda n_done: None,
) -> dict[str, np.ndarray]:
    """Return the columns of the table, without paths and groups.

    ``after_fold(model, test, features)`` is called with the fitted model, the numbers of the test
    images, and what the last step of the model gets. Only one model is in memory at a time.
    ``update`` is called with the number of folds that are done.
    """
    tested = np.sort(np.concatenate([test for _, test in splits]))
    if not np.array_equal(tested, np.arange(len(y))):
        raise ValueError(
            "cross_val_table needs a cv that tests each image once; use one such as KFold or "
            "GroupKFold, without repetitions."
        )
    is_classification = is_classifier(estimator)
    classes = np.unique(y) if is_classification else y[:0]
    parts = []
    for fold, (train, test) in enumerate(splits, 1):
        model = clone(estimator).fit(_safe_indexing(X, train), _safe_indexing(y, train))
        model = getattr(model, "best_estimator_", model)
        features, last = _safe_indexing(X, test), model
        if isinstance(model, Pipeline) and len(model) > 1:
            features, last = model[:-1].transform(features), model[-1]
        columns = {"predicted": to_numpy(last.predict(features))}
        if is_classification and hasattr(last, "predict_proba"):
            columns_of = to_numpy(last.classes_), to_numpy(last.predict_proba(features)).T
            probabilities = dict(zip(*columns_of, strict=True))
            if missing := [str(name) for name in classes if name not in probabilities]:
                warn(
                    f"No training image of fold {fold} has the class {list_some(missing)}, so that "
                    "its images cannot be recognized; use fewer folds, or other groups."
                )
            zeros = np.zeros(len(test))
            for name in classes:
                columns[f"probability_{name}"] = probabilities.get(name, zeros)
        elif hasattr(last, "predict_interval"):
            ends = to_numpy(last.predict_interval(features, coverage))
            columns["lower"], columns["upper"] = ends.T
        if callable(getattr(last, "novelty", None)):  # It is a parameter of LocalOutlierFactor.
            with suppress(NoSolutionError):  # More than 16,384 features have no sums.
                columns["novelty"] = to_numpy(last.novelty(features))
        columns["fold"] = np.full(len(test), fold)
        parts.append(columns)
        after_fold(model, test, features)
        update(fold)
    order = np.argsort(np.concatenate([test for _, test in splits]))
    names = [name for name in parts[0] if all(name in each for each in parts)]
    joined = {name: np.concatenate([each[name] for each in parts])[order] for name in names}
    return {"label" if is_classification else "target": y} | joined
