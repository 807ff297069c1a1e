"""Validate a classifier of images: out-of-fold predictions, and evidence for the worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline

from sklearn_conv.inspection._class_activation import class_activation_map

N_MISTAKES = 6
"""Number of mistakes that are shown."""


class Mistake(NamedTuple):
    """A wrong prediction for an image that was not used for fitting."""

    row: int
    """Index of the image."""
    predicted: str
    margin: float
    """Decision for the predicted class, minus that for the true class."""
    evidence: np.ndarray | None
    """What each pixel, (h, w), contributes to the margin; None if the model is not linear."""


class Evaluation(NamedTuple):
    """Result of a cross-validation."""

    labels: np.ndarray
    """True class of each image, (n,)."""
    predicted: np.ndarray
    """Predicted class of each image, (n,), by the model that was fitted without it."""
    accuracies: np.ndarray
    """Accuracy in each fold."""
    baseline: float
    """Accuracy of always predicting the most frequent class."""
    mistakes: Sequence[Mistake]
    """The mistakes with the largest margins."""
    no_evidence: str
    """Why there is no evidence for the mistakes, or ""."""


def evaluate(
    pipeline: Pipeline,
    images: Any,
    labels: Any,
    n_folds: int,
    random_state: int | None,
    update: Callable[[int], None],
) -> Evaluation:
    """Cross-validate a classifier of images, which are an array or `ImageFiles`.

    ``update`` is called with the number of folds that are done. Only one fitted model is in memory
    at a time. The evidence for the mistakes of a fold is therefore computed before the next fold,
    although some of them will not be among the worst.
    """
    predicted = labels.copy()
    accuracies, mistakes, no_evidence = np.empty(n_folds), [], ""
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
    for fold, (train, test) in enumerate(folds.split(labels, labels)):
        model = clone(pipeline).fit(images[train], labels[train])
        decisions = model.decision_function(images[test])
        if decisions.ndim == 1:  # For two classes, it is the decision for the second one.
            decisions = np.stack([-decisions, decisions], axis=1)
        best = decisions.argmax(axis=1)
        true = np.searchsorted(model.classes_, labels[test])
        predicted[test] = model.classes_[best]
        accuracies[fold] = np.mean(best == true)
        rows = np.arange(len(test))
        margins = decisions[rows, best] - decisions[rows, true]
        worst = np.argsort(-margins, kind="stable")[:N_MISTAKES]
        worst = worst[best[worst] != true[worst]]
        maps = None
        if len(worst):
            try:
                maps = class_activation_map(model, np.asarray(images[test[worst]]))
            except (TypeError, ValueError) as error:
                no_evidence = str(error)
            else:
                maps = np.concatenate([-maps, maps], axis=3) if maps.shape[3] == 1 else maps
        for k, i in enumerate(worst):
            evidence = None if maps is None else maps[k, ..., best[i]] - maps[k, ..., true[i]]
            name = str(model.classes_[best[i]])
            mistakes.append(Mistake(int(test[i]), name, float(margins[i]), evidence))
        update(fold + 1)
    mistakes.sort(key=lambda mistake: -mistake.margin)
    return Evaluation(
        labels=labels,
        predicted=predicted,
        accuracies=accuracies,
        baseline=float(np.unique(labels, return_counts=True)[1].max() / len(labels)),
        mistakes=mistakes[:N_MISTAKES],
        no_evidence=no_evidence,
    )
