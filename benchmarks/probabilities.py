"""Measure probabilities, intervals and novelty on images that took no part in fitting.

Fashion-MNIST and EuroSAT need a folder that holds fashion_mnist.npz and eurosat_small.npz. Run:
make bench-probabilities
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import mapie
import matplotlib.pyplot as plt
import numpy as np
import sklearn
from _page import PYTHON, about, add_page_argument, processor, table, table_row, write_page
from mapie.regression import CrossConformalRegressor
from scipy.ndimage import gaussian_filter
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.datasets import load_digits, load_sample_images
from sklearn.metrics import log_loss
from sklearn.model_selection import LeaveOneOut, train_test_split

from sklearn_conv import StreamingRidge, StridedConv2DTransformer, make_image_classifier
from sklearn_conv._ridge import rbf, solving

TARGET = "bench-probabilities"
COVERAGE = 0.9
N_BINS = 15
N_SPLITS = 20


class Task(NamedTuple):
    """Images to classify, and the recipe for them."""

    images: str
    file: str
    n_train: int
    n_test: int
    kind: str
    effort: str

    @property
    def cells(self):
        """Return how images and recipe are named in the tables."""
        return [f"{self.images}, {self.n_train:,}", f"{self.kind}, {self.effort}"]

    def load(self, folder):
        """Return training images, their labels, test images and their labels."""
        with np.load(folder / f"{self.file}.npz") as data:
            parts = [data[name] for name in ("X_train", "y_train", "X_test", "y_test")]
        return [*(x[: self.n_train] for x in parts[:2]), *(x[: self.n_test] for x in parts[2:])]


EUROSAT = Task("EuroSAT", "eurosat_small", 2500, 1000, "satellite", "fast")
TASKS = [
    Task("Fashion-MNIST", "fashion_mnist", 5000, 5000, "objects", "fast"),
    Task("Fashion-MNIST", "fashion_mnist", 1000, 5000, "objects", "best"),
    EUROSAT,
]


class Measured(NamedTuple):
    """What probabilities of test images are, and the novelty of other images."""

    losses: list[float]
    """Log loss of `predict_proba`, of the same model with the temperature of a cross-validation,
    and of the mean of five models."""
    errors: list[float]
    """Expected calibration errors of these."""
    cost: float
    """Fraction of the time of `fit` of the last step that finds the temperature."""
    correct: np.ndarray
    confidence: np.ndarray
    """Probabilities of the predicted classes."""
    novelty: dict[str, np.ndarray]


def find_error(correct, confidence):
    """Return the expected calibration error: the mean over bins of equal width, by their rows."""
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    return float(np.abs(np.bincount(bins, correct - confidence)).sum() / len(correct))


def measure(task, folder):
    """Fit the recipe, and calibrate it by cross-validation, with one model and with five."""
    X, y, X_test, y_test = task.load(folder)
    model = make_image_classifier(task.kind, effort=task.effort, random_state=0)
    calibrated = [
        CalibratedClassifierCV(model, method="temperature", cv=5, ensemble=ensemble).fit(X, y)
        for ensemble in (False, True)
    ]
    features, seconds = model[:-1].fit_transform(X, y), []

    def find_temperature(*arguments, find=solving.find_temperature):
        start = time.perf_counter()
        found = find(*arguments)
        seconds.append(time.perf_counter() - start)
        return found

    start = time.perf_counter()
    with (
        patch.object(solving, "find_temperature", find_temperature),
        patch.object(rbf, "find_temperature", find_temperature),
    ):
        model[-1].fit(features, y)
    cost = sum(seconds) / (time.perf_counter() - start)
    probabilities = [fitted.predict_proba(X_test) for fitted in (model, *calibrated)]
    confidence = [found.max(axis=1) for found in probabilities]
    correct = [model.classes_[found.argmax(axis=1)] == y_test for found in probabilities]
    novelty = {
        name: model[-1].novelty(model[:-1].transform(images))
        for name, images in other_images(X_test, folder).items()
    }
    return Measured(
        [log_loss(y_test, found) for found in probabilities],
        [*map(find_error, correct, confidence)],
        cost,
        correct[0],
        confidence[0],
        novelty,
    )


def other_images(X_test, folder):
    """Return test images, and images that are unlike them, by name."""
    rng = np.random.default_rng(0)
    few = X_test[:300].astype(np.float64)
    found = {
        "test images": X_test,
        "all black": 0 * few[:1],
        "noise": rng.integers(0, 256, few.shape),
        "test images, with noise of 12% of the range": few + rng.normal(0, 30, few.shape),
        "test images, half as bright": few / 2,
        "test images, 1.3 times as bright": 1.3 * few,
    }
    if X_test.ndim == 3:
        digits = np.kron(load_digits().images[:300, :, 1:-1], np.ones((1, 3, 3)))
        tiles = EUROSAT.load(folder)[2]
        found |= {
            "test images, faint on gray": 64 + few / 2,
            "test images, turned": np.rot90(few, axes=(1, 2)),
            "digits": np.pad(255 / 16 * digits, ((0, 0), (2, 2), (5, 5))),
            "satellite tiles": tiles[:300, 18:46, 18:46].mean(axis=3),
        }
    else:
        crops = [
            picture[row : row + 64, column : column + 64]
            for picture in load_sample_images().images
            for row in range(0, 363, 40)
            for column in range(0, 576, 40)
        ]
        found |= {
            "test images, red and blue swapped": few[..., ::-1],
            "test images, blurred (sigma of 0.7 pixels)": gaussian_filter(few, (0, 0.7, 0.7, 0)),
            "photographs": np.array(crops),
        }
    return {name: images.clip(0, 255).astype(np.uint8) for name, images in found.items()}


def draw_reliability(measured, path):
    """Draw how often the predicted class is true, against its probability."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(10, 3.6), layout="constrained")
    for ax, task, found in zip(axes, TASKS, measured, strict=True):
        CalibrationDisplay.from_predictions(
            found.correct, found.confidence, n_bins=N_BINS, name="predicted class", ax=ax
        )
        ax.set(title=": ".join(task.cells), xlabel="probability", ylabel="fraction true")
        ax.legend(loc="upper left")
    figure.savefig(path, dpi=110)


# Intervals


def make_blobs(n, rng):
    """Return images with bright disks and noise, and the fraction of pixels in disks."""
    rows, columns = np.mgrid[:32, :32]
    inside = np.zeros((n, 32, 32), bool)
    for image in inside:
        for row, column, radius in rng.uniform((0, 0, 2), (32, 32, 5), (rng.integers(1, 9), 3)):
            image |= (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    images = 50 + 80 * inside * rng.uniform(0.5, 1.5, (n, 1, 1)) + rng.normal(0, 15, inside.shape)
    return images.astype(np.float32), inside.mean(axis=(1, 2))


def make_blurred(n, rng):
    """Return blurred parts of a photograph, and the standard deviations of the blur."""
    photograph = load_sample_images().images[0].mean(axis=2)
    sigma = rng.uniform(0.3, 3, n)
    places = rng.integers((0, 0), (427 - 48, 640 - 48), (n, 2)).tolist()
    images = [
        gaussian_filter(photograph[row : row + 48, column : column + 48], s)[8:-8, 8:-8]
        for (row, column), s in zip(places, sigma, strict=True)
    ]
    return np.array(images, np.float32), sigma


def digits(n, rng):
    """Return images of digits, and the digits as numbers."""
    found = load_digits()
    chosen = rng.permutation(len(found.images))[:n]
    return found.images[chosen], found.target[chosen].astype(float)


DATA: dict[str, Callable] = {
    "digits, 8 x 8: the number": digits,
    "disks, 32 x 32: their area": make_blobs,
    "photograph, 32 x 32: its blur": make_blurred,
}
"""Map from names to functions that return images, and what a regression predicts."""


def plain(model, X, y, X_test):
    return model.predict_interval(X_test, COVERAGE)


def scaled(model, X, y, X_test):
    """Return intervals whose width grows with the leverage, from an inverse in float64."""
    rows, new = ((part - model.mean_) / model.scale_ for part in (X, X_test))
    inverse = np.linalg.inv(rows.T @ rows + model.alpha_ * np.eye(X.shape[1]))
    leverages = np.einsum("ij,jk,ik->i", rows, inverse, rows) + 1 / len(rows)
    others = np.einsum("ij,jk,ik->i", new, inverse, new) + 1 / len(rows)
    errors = np.abs(y - model.predict(X)) / np.sqrt(1 - leverages)
    place = int(np.ceil(COVERAGE * (len(y) + 1))) - 1
    half = np.sort(errors)[place] * np.sqrt(1 + others)
    return model.predict(X_test)[:, np.newaxis] + np.stack([-half, half], axis=1)


def jackknife_plus(model, X, y, X_test):
    found = CrossConformalRegressor(
        StreamingRidge(model.alpha_), confidence_level=COVERAGE, cv=LeaveOneOut()
    )
    return found.fit_conformalize(X, y).predict_interval(X_test)[1][:, :, 0]


METHODS: dict[str, Callable] = {
    "predict_interval": plain,
    "scaled by leverage": scaled,
    "jackknife+ of MAPIE": jackknife_plus,
}
"""Map from names to functions that return the intervals of test rows."""


def measure_intervals(name):
    """Return coverages, widths and seconds ``(3, n_methods)``: means over random halves.

    The features do not depend on the images, so that they are computed once.
    """
    images, targets = DATA[name](600, np.random.default_rng(0))
    features = StridedConv2DTransformer(16, activation="split", random_state=0)
    features = features.fit_transform(images).astype(np.float64)
    found = np.zeros((N_SPLITS, 3, len(METHODS)))
    for seed in range(N_SPLITS):
        X, X_test, y, y_test = train_test_split(features, targets, test_size=0.5, random_state=seed)
        model = StreamingRidge().fit(X, y)
        for i, method in enumerate(METHODS.values()):
            start = time.perf_counter()
            lower, upper = method(model, X, y, X_test).T
            seconds = time.perf_counter() - start
            covered = (lower <= y_test) & (y_test <= upper)
            found[seed, :, i] = covered.mean(), (upper - lower).mean(), seconds
    return found.mean(axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with the .npz files", required=True)
    add_page_argument(parser)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)  # other images are unlike the others
    rows, measured = [], []
    for task in TASKS:
        found = measure(task, arguments.data)
        measured.append(found)
        numbers = [f"{x:.3f}" for x in (*found.losses, *found.errors)]
        rows.append([*task.cells, *numbers, f"{100 * found.cost:.2f}%"])
        print(table_row(rows[-1]), flush=True)
    header = ["images", "recipe", "log loss", "cross-validated", "five models"]
    header += ["calibration error", "cross-validated", "five models", "temperature, of `fit`"]
    parts = [about(np, sklearn, mapie, PYTHON, processor()) + ":", table(header, rows)]
    rows = []
    for name in DATA:
        for method, numbers in zip(METHODS, measure_intervals(name).T, strict=True):
            coverage, width, seconds = numbers
            rows.append([name, method, f"{coverage:.3f}", f"{width:.3g}", f"{seconds:.3f}"])
            print(table_row(rows[-1]), flush=True)
    header = ["images: target", "intervals", "coverage", "mean width", "seconds"]
    parts += [f"Intervals for a coverage of {COVERAGE}:", table(header, rows)]
    rows = [
        [*task.cells, name, f"{np.median(novelty):.2f}"]
        + [f"{100 * (novelty > threshold).mean():.0f}%" for threshold in (0.95, 0.99)]
        for task, found in zip(TASKS, measured, strict=True)
        for name, novelty in found.novelty.items()
    ]
    header = ["training images", "recipe", "novelty of", "median", "above 0.95", "above 0.99"]
    parts.append(table(header, rows))
    print("\n" + "\n\n".join(parts))
    if arguments.page:
        picture = arguments.page.with_suffix(".png")
        draw_reliability(measured, picture)
        caption = f"![Reliability diagrams of the predicted classes]({picture.name})"
        write_page(arguments.page, TARGET, [*parts[:2], caption, *parts[2:]])


if __name__ == "__main__":
    main()
