"""Measure the recipes of docs/recipes.md against simple baselines, for each kind of images.

The images of scikit-learn and the surfaces need no files. Fashion-MNIST and EuroSAT need a folder
that holds fashion_mnist.npz and eurosat_small.npz. Every score is measured on images that took no
part in fitting. Run: make bench-recipes
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from _baselines import find_machine, make_baselines
from _page import about, add_page_argument, table, table_row, write_page
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import gaussian_filter, zoom
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from sklearn.pipeline import FeatureUnion, make_pipeline

from sklearn_conv import StridedConv2DTransformer, make_image_classifier
from sklearn_conv._recipes import EFFORTS

TARGET = "bench-recipes"


def crops(size, channels):
    """Return tiles (n, size, size, c) of two photographs, and the band that each tile is from.

    Each photograph is cut into four bands. Tiles of the left halves are for training, those of the
    right halves for testing.
    """
    parts = []
    for half in (slice(0, 320), slice(320, 640)):
        images, labels = [], []
        for p, picture in enumerate(load_sample_images().images):
            picture = picture if channels == 3 else picture.mean(axis=2, keepdims=True)
            for row in range(0, 427 - size, size // 2):
                for column in range(half.start, half.stop - size, size // 2):
                    images.append(picture[row : row + size, column : column + size])
                    labels.append(4 * p + 4 * row // 427)
        parts += [np.array(images, np.float32), np.array(labels)]
    return parts


def from_file(path, n_train, n_test=5000):
    """Return training and test images from a file, and their labels."""
    with np.load(path) as data:
        X, y = data["X_train"], data["y_train"]
    return split(X, y, n_train, n_test)


def split(X, y, n_train, n_test):
    """Return training images, their labels, test images and their labels."""
    X, X_test, y, y_test = train_test_split(
        X, y, train_size=n_train, test_size=n_test, random_state=0, stratify=y
    )
    return X, y, X_test, y_test


def digits(scale=1):
    """Return the digits, enlarged, 1,300 for training."""
    data = load_digits()
    return split(zoom(data.images, (1, scale, scale), order=1), data.target, 1300, 497)


def surfaces():
    """Return rough surfaces in uneven light, 300 for training, and which of them have a pore."""
    rng, n = np.random.RandomState(0), 1000
    rows, columns = np.mgrid[:64, :64]
    level, slope, row, column = rng.uniform([90, -0.5, 8, 8], [150, 0.5, 56, 56], (n, 4)).T[
        ..., np.newaxis, np.newaxis
    ]
    images = (
        level + slope * rows + 60 * gaussian_filter(rng.standard_normal((n, 64, 64)), (0, 2, 2))
    )
    has_pore = rng.uniform(size=n) < 0.5
    pores = 30 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 2)
    images[has_pore] -= pores[has_pore]
    return split(np.clip(images, 0, 255).astype(np.uint8), has_pore, 300, 700)


class Kind(NamedTuple):
    """A kind of images, with images to measure its recipes on."""

    name: str
    """As for `make_image_classifier`"""
    measured_on: str
    load: Callable
    """Return training images, their labels, test images and their labels"""


def find_kinds(folder):
    """Return the kinds of images to measure, those from files only if there is a folder."""
    kinds = [
        Kind("tiny", "digits, 8 x 8", load=digits),
        Kind("characters", "digits, 24 x 24", load=partial(digits, 3)),
        Kind("natural", "photographs, color, 32 x 32", load=partial(crops, 32, 3)),
        Kind("textures", "photographs, gray, 32 x 32", load=partial(crops, 32, 1)),
        Kind("defects", "surfaces with a pore, 64 x 64", load=surfaces),
    ]
    if folder is not None:
        fashion, tiles = folder / "fashion_mnist.npz", folder / "eurosat_small.npz"
        few, many = partial(from_file, fashion, 200), partial(from_file, fashion, 5000)
        kinds += [
            Kind("few_labels", "Fashion-MNIST, 20 of each class", load=few),
            Kind("objects", "Fashion-MNIST, 5,000", load=many),
            Kind("satellite", "EuroSAT, 64 x 64 x 3", load=partial(from_file, tiles, 2000, 500)),
        ]
    return kinds


def make_ridge(*steps):
    """Return a pipeline that ends with the classifier of the recipes."""
    return make_pipeline(*steps, make_image_classifier()["classifier"])


class Fit(NamedTuple):
    """What fitting a model and predicting test images took and gave."""

    accuracy: float
    n_features: int
    seconds: float
    """For 10,000 images, training and test images together"""


def fit(model, X, y, X_test, y_test):
    """Fit a model to the training images, and score it on the test images."""
    start = time.perf_counter()
    accuracy = model.fit(X, y).score(X_test, y_test)
    seconds = time.perf_counter() - start
    return Fit(accuracy, model[-1].n_features_in_, 1e4 * seconds / (len(X) + len(X_test)))


N_SEARCH = 2_000
"""Number of training images, at most, on which C and gamma of a baseline are searched"""


def measure_baselines(X, y, X_test, y_test):
    """Return the accuracies of simple baselines with a support vector machine."""
    X, X_test = (np.uint8(images.reshape(*images.shape[:3], -1)) for images in (X, X_test))
    accuracies = []
    for baseline in make_baselines(sorted({max(2, X.shape[1] // n) for n in (7, 5, 4)})).values():
        setting = baseline.choose(X, y)
        features, features_test = baseline.scale(
            *(baseline.describe(images, setting) for images in (X, X_test))
        )
        machine = find_machine(features[:N_SEARCH], y[:N_SEARCH]).fit(features, y)
        accuracies.append(f"{machine.score(features_test, y_test):.3f}")
    return accuracies


HEADER = ["kind", "measured on", "raw pixels", "color statistics", "LBP", "HOG", "defaults"]
HEADER += [f"{effort}: accuracy, features, s" for effort in EFFORTS]


def measure_recipe(kind):
    """Return a row of the table of recipes."""
    X, y, X_test, y_test = kind.load()
    flat, flat_test = (images.reshape(len(images), -1).astype(np.float32) for images in (X, X_test))
    raw = fit(make_ridge(), flat, y, flat_test, y_test)
    default = fit(
        make_ridge(StridedConv2DTransformer(random_state=0, n_jobs=-1)), X, y, X_test, y_test
    )
    row = [kind.name, kind.measured_on, f"{raw.accuracy:.3f}"]
    row += [*measure_baselines(X, y, X_test, y_test), f"{default.accuracy:.3f}"]
    for effort in EFFORTS:
        model = make_image_classifier(kind.name, effort=effort, random_state=0, n_jobs=-1)
        found = fit(model, X, y, X_test, y_test)
        row.append(f"{found.accuracy:.3f}, {found.n_features:,}, {found.seconds:.0f}")
    return row


def measure_recipes(folder):
    """Return the table of recipes."""
    rows = []
    for kind in find_kinds(folder):
        rows.append(measure_recipe(kind))
        print(table_row(rows[-1]), flush=True)
    return table(HEADER, rows)


N_STATES = 3
"""Number of random states, which determine kernels, and training images if not all are used"""


def compare_efforts(kind, proportion):
    """Return a row of accuracies of "balanced" and "best" for a proportion of training images."""
    X, y, X_test, y_test = kind.load()
    n = int(proportion * len(X))
    found = np.empty((N_STATES, 2))
    for state in range(N_STATES):
        some = np.random.RandomState(state).permutation(len(X))[:n]
        for i, effort in enumerate(EFFORTS[1:]):
            model = make_image_classifier(kind.name, effort=effort, random_state=state)
            found[state, i] = model.fit(X[some], y[some]).score(X_test, y_test)
    gains = found[:, 1] - found[:, 0]
    gain = f"{gains.mean():+.4f} +- {gains.std(ddof=1):.4f}"
    row = [kind.name, kind.measured_on, f"{n:,}", *(f"{mean:.3f}" for mean in found.mean(axis=0))]
    print(table_row([*row, gain]), flush=True)
    return [*row, gain]


PROFILE_HEADER = ["kind", "measured on", "effort", "s", "kernels", "features", "classifier"]
PROFILE_HEADER += ["features of test images", "prediction"]


def profile(kind, effort):
    """Return a row of the seconds of a recipe, and of the percentages that each step takes."""
    X, y, X_test, _ = kind.load()
    model = make_image_classifier(kind.name, effort=effort, random_state=0)
    features, classifier = model["features"], model["classifier"]
    times = [time.perf_counter()]
    features.fit(X)
    times.append(time.perf_counter())
    rows = features.transform(X)
    times.append(time.perf_counter())
    classifier.fit(rows, y)
    times.append(time.perf_counter())
    rows = features.transform(X_test)
    times.append(time.perf_counter())
    classifier.predict(rows)
    times.append(time.perf_counter())
    seconds = np.diff(times)
    row = [kind.name, kind.measured_on, effort, f"{seconds.sum():.1f}"]
    row += [f"{100 * part:.0f}" for part in seconds / seconds.sum()]
    print(table_row(row), flush=True)
    return row


class Search(NamedTuple):
    """A grid search over stride and kernel size, on the first training images of a file."""

    images: str
    kind: str
    file: str
    n_images: int
    kernel_sizes: list[int]
    strides: list[int]
    parameters: dict[str, Any]
    """Parameters that replace those of the first view of the fast recipe."""

    def run(self, folder):
        """Return accuracies (kernel sizes, strides), all on the same 1,000 held-out images."""
        with np.load(folder / self.file) as data:
            X, y = data["X_train"][: self.n_images], data["y_train"][: self.n_images]
        grid = {
            "features__kernel_size": self.kernel_sizes,
            "features__stride": self.strides,
        }
        holdout = ShuffleSplit(1, test_size=1000, random_state=0)
        model = make_image_classifier(
            self.kind, effort="fast", random_state=0, n_jobs=-1, **self.parameters
        )
        if isinstance(model["features"], FeatureUnion):
            model.set_params(features=model["features"].transformer_list[0][1])
        found = GridSearchCV(model, grid, cv=holdout, refit=False).fit(X, y).cv_results_
        return found["mean_test_score"].reshape(len(self.kernel_sizes), len(self.strides))


SEARCHES = [
    Search(
        images="EuroSAT",
        kind="satellite",
        file="eurosat_small.npz",
        n_images=2500,
        kernel_sizes=[4, 6, 8],
        strides=[1, 2, 3, 4],
        parameters={"n_kernels": 256},
    ),
    Search(
        images="Fashion-MNIST",
        kind="objects",
        file="fashion_mnist.npz",
        n_images=5000,
        kernel_sizes=[5, 7, 9],
        strides=[1, 2, 3, 4],
        parameters={"n_kernels": 96, "pool_grid": 4, "symmetries": None},
    ),
]


def measure_strides(folder, picture):
    """Tabulate and draw accuracy against stride for each kernel size.

    The plot is that of Coates, Lee and Ng (2011).
    """
    figure, axes = plt.subplots(1, len(SEARCHES), figsize=(9, 3.6), layout="constrained")
    parts = []
    for ax, search in zip(axes, SEARCHES, strict=True):
        rows = []
        for size, accuracies, marker in zip(
            search.kernel_sizes, search.run(folder), "osD", strict=True
        ):
            rows.append([f"{size} x {size}", *(f"{accuracy:.3f}" for accuracy in accuracies)])
            ax.plot(search.strides, accuracies, f"{marker}-", label=f"{size} x {size}")
        ax.set(title=search.images, xlabel="stride (pixels)", ylabel="accuracy")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(title="kernel size")
        header = [f"{search.images}, kernel size", *(f"stride {s}" for s in search.strides)]
        parts.append(table(header, rows))
        print(parts[-1], flush=True)
    figure.savefig(picture, dpi=120)
    return "\n\n".join([*parts, f"![Accuracy against stride]({picture.name})"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with the .npz files")
    add_page_argument(parser)
    arguments = parser.parse_args()
    parts = [f"{about(np)}.", measure_recipes(arguments.data)]
    if arguments.data and arguments.page:
        strides = measure_strides(arguments.data, arguments.page.with_suffix(".png"))
        parts += ["## What stride and kernel size do", strides]
        header = ["kind", "measured on", "training images", *EFFORTS[1:], "difference"]
        pairs = product(find_kinds(arguments.data), (1 / 3, 1))
        efforts = table(header, [compare_efforts(*pair) for pair in pairs])
        parts += ['## Whether "best" is better than "balanced"', efforts]
        rows = [profile(*pair) for pair in product(find_kinds(arguments.data), EFFORTS[1:])]
        parts += ["## Where the time goes", table(PROFILE_HEADER, rows)]
    if arguments.page:
        write_page(arguments.page, TARGET, parts)


if __name__ == "__main__":
    main()
