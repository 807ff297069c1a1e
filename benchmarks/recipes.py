"""Measure the recipes of docs/recipes.md: the defaults against the recipe, for each kind of images.

What ships with scikit-learn needs no files; Fashion-MNIST and EuroSAT need a folder with
fashion_mnist.npz and eurosat_small.npz. Every score is on images that took no part in fitting. Run:
make bench-recipes
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_conv import StridedConv2DTransformer, __version__

MARK = "<!-- measured: everything below is written by make bench-recipes -->"
LEARNED = {
    "kernels": "patches",
    "normalize_patches": True,
    "whiten": True,
    "activation": "split",
    "bias": -0.25,
}
RECIPES = {
    "tiny images": {"n_kernels": 128, "kernel_size": 4, "pool_grid": 3} | LEARNED,
    "few labels": {"n_kernels": 256, "kernel_size": 7, "pool_grid": 4} | LEARNED,
    "grey-scale objects": {"n_kernels": 256, "kernel_size": 7, "pool_grid": 4} | LEARNED,
    "natural images": {"n_kernels": 256, "kernel_size": 6, "pool_grid": 2} | LEARNED,
    "textures": {"n_kernels": 256, "kernel_size": 6, "pool_grid": 1} | LEARNED,
    "satellite tiles": {"n_kernels": 512, "kernel_size": 6, "pool_grid": 1} | LEARNED,
}


def crops(size, channels):
    """Cut the two sample photographs into bands, and these into tiles; left halves train.

    Which of eight bands a tile is from, is what to tell. Images (n, size, size, c).
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
    with np.load(path) as data:
        X, y = data["X_train"], data["y_train"]
    return split(X, y, n_train, n_test)


def split(X, y, n_train, n_test):
    X, X_test, y, y_test = train_test_split(
        X, y, train_size=n_train, test_size=n_test, random_state=0, stratify=y
    )
    return X, y, X_test, y_test


def kinds(folder):
    """Yield what kind of images, which ones, and the images and labels of both parts."""
    digits = load_digits()
    yield "tiny images", "digits, 8 x 8", split(digits.images, digits.target, 1300, 497)
    yield "natural images", "photographs, colour, 32 x 32", crops(32, 3)
    yield "textures", "photographs, grey, 32 x 32", crops(32, 1)
    if folder is not None:
        fashion, tiles = folder / "fashion_mnist.npz", folder / "eurosat_small.npz"
        yield "few labels", "Fashion-MNIST, 20 of each class", from_file(fashion, 200)
        yield "grey-scale objects", "Fashion-MNIST, 5,000", from_file(fashion, 5000)
        yield "satellite tiles", "EuroSAT, 64 x 64 x 3", from_file(tiles, 2000, 500)


def make_model(root=True, **options):
    return make_pipeline(
        StridedConv2DTransformer(random_state=0, **options),
        FunctionTransformer(np.sqrt if root else None),
        StandardScaler(),
        RidgeClassifierCV(alphas=np.logspace(-1, 4, 11)),
    )


def score(model, X, y, X_test, y_test):
    return model.fit(X, y).score(X_test, y_test)


def measure_recipes(folder):
    lines = [
        "| kind of images | measured on | raw pixels | defaults | recipe | features |",
        "|---|---|---|---|---|---|",
    ]
    for kind, data, images in kinds(folder):
        flat = [
            part.reshape(len(part), -1).astype(np.float32) if part.ndim > 2 else part
            for part in images
        ]
        alphas = np.logspace(-1, 4, 11)
        raw = score(make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=alphas)), *flat)
        default = score(make_model(root=False, n_jobs=-1), *images)
        model = make_model(**RECIPES[kind], n_jobs=-1)
        recipe = score(model, *images)
        lines.append(
            f"| {kind} | {data} | {raw:.3f} | {default:.3f} | {recipe:.3f} "
            f"| {model[-1].n_features_in_} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def search(X, y, sizes, strides, **options):
    """Search stride and kernel size; the same 1,000 images of X are held out for every setting."""
    grid = {
        "stridedconv2dtransformer__kernel_size": sizes,
        "stridedconv2dtransformer__stride": strides,
    }
    holdout = ShuffleSplit(1, test_size=1000, random_state=0)
    model = make_model(**options, n_jobs=-1)
    found = GridSearchCV(model, grid, cv=holdout, refit=False).fit(X, y).cv_results_
    return found["mean_test_score"].reshape(len(sizes), len(strides))


def measure_strides(folder, picture):
    """Accuracy against stride for each kernel size, as Coates, Lee and Ng (2011) plotted it."""
    searches = {
        "EuroSAT": ("eurosat_small.npz", 2500, [4, 6, 8], [1, 2, 3, 4]),
        "Fashion-MNIST": ("fashion_mnist.npz", 5000, [5, 7, 9], [1, 2, 3, 4]),
    }
    figure, axes = plt.subplots(1, len(searches), figsize=(9, 3.6), layout="constrained")
    parts = []
    for ax, (name, (file, n, sizes, strides)) in zip(axes, searches.items(), strict=True):
        with np.load(folder / file) as data:
            X, y = data["X_train"][:n], data["y_train"][:n]
        kind = "satellite tiles" if name == "EuroSAT" else "grey-scale objects"
        accuracies = search(X, y, sizes, strides, **RECIPES[kind])
        lines = [f"| {name}, kernel size | {' | '.join(f'stride {s}' for s in strides)} |"]
        lines.append("|---" * (len(strides) + 1) + "|")
        for size, row, marker in zip(sizes, accuracies, "osD", strict=True):
            lines.append(f"| {size} x {size} | {' | '.join(f'{value:.3f}' for value in row)} |")
            ax.plot(strides, row, f"{marker}-", label=f"{size} x {size}")
        ax.set(title=name, xlabel="stride (pixels)", ylabel="accuracy")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(title="kernel size")
        parts.append("\n".join(lines))
        print(parts[-1], flush=True)
    figure.savefig(picture, dpi=120)
    return "\n\n".join([*parts, f"![Accuracy against stride]({picture.name})"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with the .npz files")
    parser.add_argument("--page", type=Path, help="write tables and plot to this Markdown page")
    arguments = parser.parse_args()
    parts = [f"sklearn_conv {__version__}, NumPy {np.__version__}."]
    parts.append(measure_recipes(arguments.data))
    if arguments.data is not None and arguments.page is not None:
        parts += ["## What stride and kernel size do"]
        parts.append(measure_strides(arguments.data, arguments.page.with_suffix(".png")))
    if arguments.page is not None:
        text = arguments.page.read_text().split(MARK)[0].rstrip()
        arguments.page.write_text("\n\n".join([text, MARK, *parts]) + "\n")


if __name__ == "__main__":
    main()
