"""Measure single changes of the recipes, for docs/ablations.md, on training images only.

Each change is measured alone against the recipe, with the same images and random states. The folder
contains fashion_mnist.npz, eurosat_small.npz, the test files of KMNIST, and tiles, a folder of
folders of images. Run: make bench-ablations
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from _page import PYTHON, about, add_page_argument, table, table_row, write_page
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import StandardScaler

from sklearn_conv import (
    RBFRidgeClassifier,
    StridedConv2DTransformer,
    make_image_classifier,
    read_images,
)
from sklearn_conv._ridge import many_landmarks

TARGET = "bench-ablations"
TWO = {"bias": [[-0.25], [-1.0]]}
COLORS = {"kernel_size": 1, "n_kernels": 32, "pool_grid": 1}
COLORS |= {"activation": "step", "bias": "quantile", "n_biases": 8}


class Change(NamedTuple):
    """A change of a recipe."""

    parameters: Mapping[str, Any] = {}
    """Parameters that replace those of all views."""
    views: Sequence[Mapping[str, Any]] = ()
    """Parameters of further views; those of the first view, if they are not given."""
    own_views: Sequence[Mapping[str, Any]] = ()
    """Parameters of further views; the defaults, if they are not given."""
    last: Callable | None = None
    """Function of a random state that returns the last steps."""
    shifts: Sequence[tuple[int, int]] = ()
    """Rows and columns by which copies of the training images are shifted."""
    without: Sequence[int] = ()
    """Numbers of views that are left out."""
    n_states: int = 1
    """Number of random states whose probabilities are averaged."""

    def make(self, kind, effort, state):
        """Return the changed recipe."""
        given = {"random_state": state}
        model = make_image_classifier(kind, effort=effort, **given, **self.parameters)
        name, features = model.steps[0]
        is_union = isinstance(features, FeatureUnion)
        views = [view for _, view in features.transformer_list] if is_union else [features]
        more = [{**views[0].get_params(), **view} for view in self.views]
        more += [{**view, **given} for view in self.own_views]
        views = [view for i, view in enumerate(views) if i not in self.without]
        views += [StridedConv2DTransformer(**view) for view in more]
        model.steps[0] = (name, FeatureUnion([(f"view{i}", view) for i, view in enumerate(views)]))
        if self.last is not None:
            model.steps[1:] = [(str(i), step) for i, step in enumerate(self.last(state))]
        return model

    def make_states(self, kind, effort, seed):
        """Return one recipe, or the mean of several with other random states."""
        models = [self.make(kind, effort, 100 * i + seed) for i in range(self.n_states)]
        if self.n_states == 1:
            return models[0]
        return VotingClassifier([(str(i), model) for i, model in enumerate(models)], voting="soft")

    def add_copies(self, X, y):
        """Return training images and their labels, with shifted copies."""
        copies = [X, *(np.roll(X, shift, axis=(1, 2)) for shift in self.shifts)]
        return np.concatenate(copies), np.tile(y, len(copies))


def rbf(state):
    return [RBFRidgeClassifier(random_state=state, scoring="neg_log_loss")]


class WithComponents(RBFRidgeClassifier):
    """The model with another number of components."""

    def __init__(self, n_components, random_state):
        super().__init__(n_landmarks=60_000, random_state=random_state, scoring="neg_log_loss")
        self.n_components = n_components

    def fit(self, X, y):
        with patch.object(many_landmarks, "N_COMPONENTS", self.n_components):
            return super().fit(X, y)


def with_components(state, n_components):
    return [WithComponents(n_components, state)]


def scaled_rbf(state):
    return [StandardScaler(), *rbf(state)]


def linear(state):
    return [make_image_classifier()[-1]]


def strongest(z):
    """Return 1 for the 40 percent of kernels with the strongest responses, in each window."""
    k = z.shape[-1] * 6 // 10
    return (z >= np.partition(z, k, axis=-1)[..., k : k + 1]).astype(z.dtype)


def patches_and_negatives(shape, rng, patches):
    """Return patches of unit norm, and their negatives."""
    rows = rng.permutation(patches())[: shape[3] // 2]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.concatenate([rows, -rows]).T.reshape(shape)


SHIFTS = [(1, 1), (-1, -1)]
NEAREST = {"kernels": patches_and_negatives, "activation": strongest, "bias": 0.0}


def from_file(name, folder):
    """Return the training images of a file, and their labels."""
    with np.load(folder / f"{name}.npz") as data:
        return data["X_train"], data["y_train"]


def tiles(folder):
    """Return the tiles, and their labels."""
    files = read_images(folder / "tiles", size=(64, 64))
    return np.asarray(files), files.labels


def kmnist(folder):
    """Return the test images of KMNIST, and their labels."""
    images, labels = (
        np.load(folder / f"kmnist-test-{name}.npz")["arr_0"] for name in ("imgs", "labels")
    )
    return images, labels


class Study(NamedTuple):
    """Changes of a recipe, and images to measure them on."""

    kind: str
    effort: str
    images: str
    load: Callable
    """Function of the folder that returns images and labels, which are split"""
    n_train: int
    n_validation: int
    n_seeds: int
    changes: Mapping[str, Change]

    @property
    def title(self):
        return f"{self.kind}, {self.effort}: {self.images}, {self.n_train:,} training images"

    def split(self, folder, seed):
        """Return training images, their labels, validation images and their labels."""
        X, y = self.load(folder)
        X, X_validation, y, y_validation = train_test_split(
            X,
            y,
            train_size=self.n_train,
            test_size=self.n_validation,
            random_state=seed,
            stratify=y,
        )
        return X, y, X_validation, y_validation


class Measured(NamedTuple):
    """What a changed recipe took and gave."""

    accuracy: float
    n_features: int
    seconds: float
    """From fitting to the score"""


def measure(study, change, folder, seed):
    """Fit a changed recipe to training images, and score it on validation images."""
    X, y, X_validation, y_validation = study.split(folder, seed)
    model = change.make_states(study.kind, study.effort, seed)
    X, y = change.add_copies(X, y)
    start = time.perf_counter()
    accuracy = model.fit(X, y).score(X_validation, y_validation)
    seconds = time.perf_counter() - start
    models = model.estimators_ if change.n_states > 1 else [model]
    return Measured(accuracy, sum(each[-1].n_features_in_ for each in models), seconds)


HEADER = ["change", "accuracy", "difference", "number of features", "s"]


def show(values, style):
    """Return the mean, and the standard deviation of several values."""
    mean = f"{values.mean():{style}}"
    return mean if len(values) == 1 else f"{mean} +- {values.std(ddof=1):.4f}"


def measure_study(study, folder):
    """Return the table of a study."""
    rows, recipe = [], None
    for label, change in {"none": Change(), **study.changes}.items():
        found = [measure(study, change, folder, seed) for seed in range(study.n_seeds)]
        accuracies = np.array([each.accuracy for each in found])
        recipe = accuracies if recipe is None else recipe
        difference = accuracies - recipe
        cells = [label, show(accuracies, ".4f"), show(difference, "+.4f") if rows else ""]
        cells += [f"{found[0].n_features:,}", f"{np.mean([each.seconds for each in found]):.1f}"]
        rows.append(cells)
        print(study.kind, table_row(cells), flush=True)
    return table(HEADER, rows)


FASHION = "Fashion-MNIST"
STUDIES = [
    Study(
        "objects",
        "best",
        FASHION,
        partial(from_file, "fashion_mnist"),
        n_train=50_000,
        n_validation=10_000,
        n_seeds=1,
        changes={
            "10,000 landmarks": Change({"n_landmarks": 10_000}),
            "all features, no components": Change(last=partial(with_components, n_components=6528)),
            "1,024 components": Change(last=partial(with_components, n_components=1024)),
            "192 kernels": Change({"n_kernels": 192}),
        },
    ),
    Study(
        "objects",
        "fast",
        FASHION,
        partial(from_file, "fashion_mnist"),
        n_train=3000,
        n_validation=5000,
        n_seeds=3,
        changes={
            "4 x 4 cells, 96 kernels": Change({"pool_grid": 4, "n_kernels": 96}),
            "cells [2, 4], 80 kernels": Change({"pool_grid": [2, 4], "n_kernels": 80}),
            "no mirror images": Change({"symmetries": None}),
            "twice the kernels": Change({"n_kernels": 96}),
            "four times the kernels, stride 2": Change({"n_kernels": 192, "stride": 2}),
            "two thresholds": Change(TWO),
            "kernels by k-means": Change({"kernels": "kmeans"}),
            "kernels of 5 x 5 and 9 x 9, 24 each": Change(
                {"kernel_size": 5, "n_kernels": 24}, views=[{"kernel_size": 9}]
            ),
            "strongest 40 percent of 96": Change(NEAREST | {"n_kernels": 96}),
            "shifted copies": Change(shifts=SHIFTS),
            "mean of two random states": Change(n_states=2),
            "Gaussian kernel": Change(last=rbf),
        },
    ),
    Study(
        "characters",
        "best",
        "KMNIST",
        kmnist,
        n_train=3000,
        n_validation=7000,
        n_seeds=3,
        changes={
            "the recipe for objects": Change(
                {"bias": -0.25, "whiten": True, "pool_grid": [3, 5], "symmetries": "mirror"}
            ),
            "mirror images": Change({"symmetries": "mirror"}),
            "bias -1.0": Change({"bias": -1.0}),
            "two thresholds": Change(TWO),
            "whiten 0.1": Change({"whiten": 0.1}),
            "whiten 2": Change({"whiten": 2.0}),
            "4 x 4 cells": Change({"pool_grid": 4}),
            "half the kernels": Change({"n_kernels": 64}),
            "192 kernels": Change({"n_kernels": 192}),
            "kernels by k-means": Change({"kernels": "kmeans"}),
            "shifted copies": Change(shifts=SHIFTS),
            "linear classifier": Change(last=linear),
        },
    ),
    *(
        Study(
            "satellite",
            "fast",
            images,
            load,
            n_train=n_train,
            n_validation=n_validation,
            n_seeds=n_seeds,
            changes={
                "normalized windows only, 256 kernels": Change({"n_kernels": 256}, without=[1, 2]),
                "twice the kernels, stride 3": Change({"n_kernels": 192, "stride": 3}),
                "view of colors": Change(own_views=[COLORS]),
                "two views, 128 kernels each": Change({"n_kernels": 128}, without=[1]),
                "Gaussian kernel, standardized features": Change(last=scaled_rbf),
            },
        )
        for images, load, n_train, n_validation, n_seeds in [
            ("EuroSAT", partial(from_file, "eurosat_small"), 1000, 750, 3),
            ("UC Merced", tiles, 336, 84, 5),
        ]
    ),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the images")
    add_page_argument(parser)
    arguments = parser.parse_args()
    parts = [f"{about(np)}, {PYTHON}."]
    for study in STUDIES:
        parts += [f"## {study.title}", measure_study(study, arguments.data)]
    if arguments.page:
        write_page(arguments.page, TARGET, parts)


if __name__ == "__main__":
    main()
