"""Compare the recipes with other features, and with a CNN, by accuracy, time and memory.

Each row of a table is measured in a process of its own. The recipes are one call of
`make_image_classifier` each. All other features have the same linear classifier, whose
regularization is chosen on a fifth of the training images, at most 10,000; those with "SVM" have a
support vector machine. Everything is chosen on training images; the test images are scored once.
The CNN trains for as long as the balanced recipe took from images to score, and for five times as
long. Run: make bench-accuracy
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from _baselines import find_machine, make_baselines
from _page import (
    CORES,
    PYTHON,
    about,
    add_page_argument,
    read_page,
    table,
    table_row,
    write_page,
)
from joblib import Parallel, delayed
from kymatio.torch import Scattering2D
from scipy import linalg
from sklearn.model_selection import StratifiedKFold

from sklearn_conv import StridedConv2DTransformer, make_image_classifier, read_images

# torchvision, which torchgeo imports, cannot load its operators beside a PyTorch without CUDA. RCF
# needs none of them, but they must be declared.
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
if not torch.cuda.is_available():
    for operator in ("nms", "qnms"):
        OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")

import torchgeo  # noqa: E402
from torchgeo.models import RCF  # noqa: E402

TARGET = "bench-accuracy"
EFFORTS = ("fast", "balanced", "best")
SCATTERING_BATCH = 128
"""Number of images in a batch of the scattering transform; smaller batches were slower."""


class Task(NamedTuple):
    """Images to classify, and the settings of the features for them."""

    file: str
    n_train: int
    n_seeds: int
    kind: str
    """As for `make_image_classifier`"""
    cells: tuple[int, ...]
    """Widths of the cells of HOG to search, in pixels"""
    scattering: int
    """J of the scattering transform: its features are means over 2**J pixels"""
    kernel_size: int
    """Of RCF and quantiles"""
    grid: int
    """Of quantiles"""

    def load(self, folder, seed):
        """Return training images (n, h, w, c), their labels, test images and their labels.

        The training images are drawn at random. If the images are in a folder instead of a file,
        the test images are one of as many folds as there are seeds.
        """
        if (folder / self.file).is_dir():
            files = read_images(folder / self.file, size=(64, 64))
            X, y = np.asarray(files), np.unique(files.labels, return_inverse=True)[1]
            folds = StratifiedKFold(self.n_seeds, shuffle=True, random_state=0).split(X, y)
            train, test = list(folds)[seed]
            train = np.random.RandomState(seed).permutation(train)
            return X[train], y[train], X[test], y[test]
        with np.load(folder / f"{self.file}.npz") as data:
            X, y, X_test, y_test = (data[key] for key in ("X_train", "y_train", "X_test", "y_test"))
        chosen = np.random.RandomState(seed).permutation(len(X))[: self.n_train]
        X, X_test = (images.reshape(*images.shape[:3], -1) for images in (X, X_test))
        return X[chosen], y[chosen].astype(int), X_test, y_test.astype(int)


FASHION = Task(
    file="fashion_mnist",
    n_train=5_000,
    n_seeds=3,
    kind="objects",
    cells=(4, 5, 7),
    scattering=2,
    kernel_size=7,
    grid=4,
)
EUROSAT = Task(
    file="eurosat_small",
    n_train=2_500,
    n_seeds=3,
    kind="satellite",
    cells=(8, 12, 16),
    scattering=3,
    kernel_size=6,
    grid=1,
)
TASKS = {
    "Fashion-MNIST, 60,000": FASHION._replace(n_train=60_000, n_seeds=1),
    "Fashion-MNIST, 5,000": FASHION,
    "Fashion-MNIST, 1,000": FASHION._replace(n_train=1_000),
    "EuroSAT, 2,500": EUROSAT,
    "UC Merced, 280": EUROSAT._replace(file="tiles", n_train=280),
}
HEADER = [
    "features",
    "accuracy",
    "number of features",
    "s for features",
    "s for classifier",
    "peak GB",
]


# Each of these functions returns the features of training and test images.


def raw(X, X_test, task, seed):
    """Flatten the images."""
    return [images.reshape(len(images), -1).astype(np.float32) for images in (X, X_test)]


def scattering(X, X_test, task, seed):
    """Compute the scattering transform."""
    transform = Scattering2D(J=task.scattering, shape=X.shape[1:3])

    def describe(images):
        images = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32, order="C") / 255)
        return transform(images).flatten(1).numpy()

    return [
        np.concatenate(
            [
                describe(images[i : i + SCATTERING_BATCH])
                for i in range(0, len(images), SCATTERING_BATCH)
            ]
        )
        for images in (X, X_test)
    ]


def rcf(X, X_test, task, seed, mode):
    """Compute the random convolutional features of torchgeo, 2,048 of them.

    Images are computed one at a time, because batches were slower.
    """

    def tensor(images):
        return torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32, order="C") / 255)

    class Images:
        def __len__(self):
            return len(X)

        def __getitem__(self, index):
            return {"image": tensor(X[index : index + 1])[0]}

    model = RCF(
        in_channels=X.shape[3],
        features=2048,
        kernel_size=task.kernel_size,
        seed=seed,
        mode=mode,
        dataset=Images() if mode == "empirical" else None,
    )
    with torch.no_grad():
        return [
            np.stack([model(tensor(images[i : i + 1])).numpy().ravel() for i in range(len(images))])
            for images in (X, X_test)
        ]


def quantiles(X, X_test, task, seed):
    """Compute how often random kernels exceed quantiles of their responses, as MiniRocket does."""
    transformer = StridedConv2DTransformer(
        n_kernels=256,
        kernel_size=task.kernel_size,
        pool_grid=task.grid,
        activation="step",
        bias="quantile",
        n_biases=2,
        random_state=seed,
        n_jobs=cpu_count(),
    ).fit(X)
    return [transformer.transform(images) for images in (X, X_test)]


FEATURES = {
    "raw pixels": raw,
    "scattering": scattering,
    "RCF, gaussian": partial(rcf, mode="gaussian"),
    "RCF, empirical": partial(rcf, mode="empirical"),
    "quantiles": quantiles,
}
ROWS = [
    "raw pixels",
    "HOG",
    "HOG, SVM",
    "LBP, SVM",
    "color statistics, SVM",
    "scattering",
    "RCF, gaussian",
    "RCF, empirical",
    "quantiles",
    *EFFORTS,
    "CNN",
    "CNN, 5 times",
]
TIMED = "balanced"


def classify(X, y, X_test, y_test):
    """Return the test accuracy and the alpha of a ridge classifier with standardized features.

    The targets are +1 and -1. X and X_test are overwritten.
    """
    mean = X.mean(axis=0, dtype=np.float64)
    blocks = np.array_split(X, -(-len(X) // 1000))
    squares = sum(np.square(block - mean).sum(axis=0) for block in blocks)
    deviation = np.sqrt(squares / len(X))
    deviation[deviation <= 1e-6 * np.abs(mean)] = 1  # constant features
    for part in (X, X_test):
        part -= mean.astype(np.float32)
        part /= deviation.astype(np.float32)
    targets = np.where(y[:, np.newaxis] == np.arange(y.max() + 1), 1, -1).astype(np.float32)
    center = targets.mean(axis=0)
    targets -= center
    n_fit = len(X) - min(len(X) // 5, 10_000)
    fit, validation = slice(n_fit), slice(n_fit, None)
    if len(X) > X.shape[1]:
        parts = [(gram(X[rows]), X[rows].T @ targets[rows]) for rows in (fit, validation)]

        def weights(alpha, rows):
            if rows == fit:
                return solve(*parts[0], alpha)
            return solve(parts[0][0] + parts[1][0], parts[0][1] + parts[1][1], alpha)

    else:
        products = (X @ X.T).astype(np.float64)

        def weights(alpha, rows):
            return X[rows].T @ solve(products[rows, rows], targets[rows], alpha).astype(np.float32)

    def accuracy(alpha, rows, images, labels):
        try:
            found = images @ weights(alpha, rows) + center
        except linalg.LinAlgError:  # too little regularization for float32
            return 0.0
        return float((found.argmax(axis=1) == labels).mean())

    alphas = len(X) * 10.0 ** np.arange(0.5, -4.1, -0.75)
    scores = [accuracy(alpha, fit, X[validation], y[validation]) for alpha in alphas]
    best = alphas[int(np.argmax(scores))]
    return accuracy(best, slice(None), X_test, y_test), best


def gram(X):
    """Return the lower triangle of X.T @ X."""
    return linalg.blas.ssyrk(1, X.T, lower=1)


def solve(products, right, alpha):
    """Solve (products + alpha * identity) x = right. Only the lower triangle is read."""
    products = products.copy(order="F")
    products.flat[:: len(products) + 1] += alpha
    factor = linalg.cho_factor(products, lower=True, overwrite_a=True, check_finite=False)
    return linalg.cho_solve(factor, right, check_finite=False)


def train_cnn(X, y, X_test, y_test, seconds, seed):
    """Train six convolutions with batch normalization: AdamW, one cycle, mirrored images."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    layers, channels = [], X.shape[3]
    for width in (32, 64, 128):
        for _ in range(2):
            layers += [
                torch.nn.Conv2d(channels, width, 3, padding=1, bias=False),
                torch.nn.BatchNorm2d(width),
                torch.nn.ReLU(),
            ]
            channels = width
        layers.append(torch.nn.MaxPool2d(2))
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(128, int(y.max()) + 1))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    mean, deviation = X.mean(axis=(0, 1, 2)), X.std(axis=(0, 1, 2))

    def tensor(images):
        images = ((images - mean) / deviation).astype(np.float32)
        return torch.from_numpy(images.transpose(0, 3, 1, 2))  # channels last in memory

    rng, n_epochs = np.random.RandomState(seed), 0
    done = 0.0
    while done < 1:
        order = rng.permutation(len(X))
        n_epochs += 1
        for i in range(0, len(X), 64):
            done = (time.perf_counter() - start) / seconds
            if done >= 1:
                break
            rate = 0.003 * min(done / 0.2, (1 - done) / 0.8)  # up, then down to 0
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = order[i : i + 64]
            images = tensor(X[batch])
            if rng.rand() < 0.5:
                images = images.flip(3)
            loss = torch.nn.functional.cross_entropy(model(images), torch.from_numpy(y[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        found = [model(tensor(X_test[i : i + 500])).argmax(1) for i in range(0, len(X_test), 500)]
    accuracy = float((torch.cat(found).numpy() == y_test).mean())
    return {"accuracy": accuracy, "classifier": time.perf_counter() - start, "epochs": n_epochs}


def classify_baseline(X, y, X_test, y_test, task, row):
    """Return the figures of a simple baseline, with a support vector machine or ridge regression.

    The settings are searched before the times are measured.
    """
    baseline = make_baselines(task.cells)[row.removesuffix(", SVM")]
    setting = baseline.choose(X, y)
    start = time.perf_counter()
    features, features_test = (baseline.describe(images, setting) for images in (X, X_test))
    made = time.perf_counter() - start
    if row == "HOG":
        start = time.perf_counter()
        accuracy, alpha = classify(features, y, features_test, y_test)
        chosen = {"alpha": alpha}
    else:
        features, features_test = baseline.scale(features, features_test)
        machine = find_machine(features, y)
        chosen = {"C": machine.C, "gamma": machine.gamma}
        start = time.perf_counter()
        machine.fit(features, y)
        parts = np.array_split(features_test, cpu_count())
        with Parallel(n_jobs=-1) as parallel:
            found = np.concatenate(parallel(delayed(machine.predict)(part) for part in parts))
        accuracy = float((found == y_test).mean())
    return {
        "accuracy": accuracy,
        "features": features.shape[1],
        "made": made,
        "classifier": time.perf_counter() - start,
        "setting": setting,
        **chosen,
    }


def classify_with_recipe(X, y, X_test, y_test, task, effort, seed):
    """Return the figures of a recipe."""
    model = make_image_classifier(task.kind, effort=effort, random_state=seed, n_jobs=-1)
    start = time.perf_counter()
    features = model[0].fit_transform(X)
    made = time.perf_counter() - start
    model[1].fit(features, y)
    n_features = features.shape[1]
    del features
    fitted = time.perf_counter()
    features_test = model[0].transform(X_test)
    made += time.perf_counter() - fitted
    accuracy = model[1].score(features_test, y_test)
    return {
        "accuracy": accuracy,
        "features": n_features,
        "made": made,
        "classifier": time.perf_counter() - start - made,
        "alpha": model[1].alpha_,
    }


def run_row(task, row, seed, seconds, folder):
    """Return the figures of a row of a table. Call it in a fresh process."""
    X, y, X_test, y_test = task.load(folder, seed)
    if row.startswith("CNN"):
        result = train_cnn(X, y, X_test, y_test, seconds, seed)
    elif row == "HOG" or row.endswith("SVM"):
        result = classify_baseline(X, y, X_test, y_test, task, row)
    elif row in EFFORTS:
        result = classify_with_recipe(X, y, X_test, y_test, task, row, seed)
    else:
        start = time.perf_counter()
        features, features_test = FEATURES[row](X, X_test, task, seed)
        made = time.perf_counter()
        n_features = features.shape[1]
        accuracy, alpha = classify(features, y, features_test, y_test)
        result = {
            "accuracy": accuracy,
            "features": n_features,
            "made": made - start,
            "classifier": time.perf_counter() - made,
            "alpha": alpha,
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return result | {"gb": peak / 2**20 if sys.platform == "linux" else peak / 2**30}


def measure(name, row, seconds, folder):
    """Return the mean of each figure of a row over the seeds, and the spread of the accuracy."""
    runs = []
    for seed in range(TASKS[name].n_seeds):
        command = [sys.executable, __file__, "--data", str(folder), "--row", name, row]
        command += ["--seed", str(seed), "--seconds", str(seconds)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs.append(json.loads(output.splitlines()[-1]))
    result = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
    spread = np.std([run["accuracy"] for run in runs], ddof=1) if len(runs) > 1 else None
    return result | {"row": row, "spread": spread}


def cells(result):
    """Return a row of a table."""
    spread = "" if result["spread"] is None else f" +- {result['spread']:.4f}"
    is_cnn = "epochs" in result
    name = result["row"]
    if is_cnn:
        name += f", {result['epochs']:.0f} epochs"
    elif name in EFFORTS:
        name = f"**recipe, {name}**"
    return [
        name,
        f"{result['accuracy']:.4f}{spread}",
        "" if is_cnn else f"{result['features']:,.0f}",
        "" if is_cnn else f"{result['made']:.1f}",
        f"{result['classifier']:.1f}",
        f"{result['gb']:.1f}",
    ]


def read_tables(page):
    """Return the rows of the tables of a page: a map from task to a map from row to cells."""
    _, below = read_page(page, TARGET)
    tables = {}
    for section in below.split("## ")[1:]:
        name = section.partition(" training images")[0]
        rows = [line[2:-2].split(" | ") for line in section.splitlines() if line[:2] == "| "]
        tables[name] = {
            re.sub(r"\*\*(recipe, )?|, \d+ epochs", "", cells[0]): cells for cells in rows[1:]
        }
    return tables


def plot(tables, path):
    """Draw the accuracies of all tables."""
    figure, axes = plt.subplots(1, len(tables), figsize=(16, 4), layout="constrained")
    for ax, (name, rows) in zip(axes, tables.items(), strict=True):
        figures = [cells[1].split(" +- ") for cells in rows.values()]
        accuracies = [float(accuracy) for accuracy, *_ in figures]
        spreads = [float(spread[0]) if spread else 0 for _, *spread in figures]
        colors = ["C0" if row in EFFORTS else "0.75" for row in rows]
        ax.barh(list(rows), accuracies, xerr=spreads, color=colors)
        for place, accuracy in enumerate(accuracies):
            ax.text(0.02, place, f"{accuracy:.3f}", va="center", transform=ax.get_yaxis_transform())
        ax.set(title=name, xlabel="accuracy", xlim=(min(accuracies) - 0.05, None))
        ax.invert_yaxis()
        if ax is not axes[0]:
            ax.set_yticklabels([])
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the images")
    add_page_argument(parser)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, help="measure only these, and keep the rest of the page"
    )
    parser.add_argument(
        "--row", nargs=2, metavar=("TASK", "ROW"), help="print the figures of this row as JSON"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="for the CNN, with --row")
    arguments = parser.parse_args()
    if arguments.row:
        task, row = arguments.row
        result = run_row(TASKS[task], row, arguments.seed, arguments.seconds, arguments.data)
        print(json.dumps(result))
        return
    environment = f"{about(np, torch, torchgeo, PYTHON, CORES)}."
    if arguments.rows:
        environment += f" Measured last: {'; '.join(arguments.rows)}."
    print(environment, flush=True)
    kept = read_tables(arguments.page) if arguments.rows else {}
    tables = {}
    for name in TASKS:
        rows = kept.get(name, {})
        if name in arguments.tasks:
            print(f"\n{name} training images\n", flush=True)
            for row in arguments.rows or ROWS:
                seconds = sum(map(float, rows[TIMED][3:5])) if row.startswith("CNN") else 0.0
                seconds *= 5 if row == "CNN, 5 times" else 1
                rows[row] = cells(measure(name, row, seconds, arguments.data))
                print(table_row(rows[row]), flush=True)
        if rows:
            tables[name] = {row: rows[row] for row in ROWS if row in rows}
    if arguments.page:
        picture = arguments.page.with_suffix(".png")
        plot(tables, picture)
        parts = [environment]
        for name, rows in tables.items():
            parts += [f"## {name} training images", table(HEADER, rows.values())]
        write_page(arguments.page, TARGET, [*parts, f"![Accuracies]({picture.name})"])


if __name__ == "__main__":
    main()
