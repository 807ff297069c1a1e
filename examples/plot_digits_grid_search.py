"""
Which stride and kernel size suit the digits?
=============================================

This example runs a grid search over stride and kernel size on the 1,797 handwritten digits of 8 x 8
pixels that ship with scikit-learn. The images need no preparation: the transformer is a step of a
pipeline like any other.
"""

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import (
    SharedFeaturesSearch,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
)

N_FOLDS = 5
STRIDES = [1, 2, 3]
KERNEL_SIZES = [2, 3, 4, 5, 6]


def search_settings(images, labels, raw_accuracy):
    """Search the grid, and print a line for each setting as soon as its folds are done."""
    scores = []

    def score(model, X, y):
        scores.append(model.score(X, y))
        if len(scores) % N_FOLDS == 0:
            step = model["stridedconv2dtransformer"]
            accuracy = np.mean(scores[-N_FOLDS:]).round(3)
            print(
                f"{step.kernel_size:>11} {step.stride:>6} {accuracy:>8.3f} "
                f"{accuracy - raw_accuracy:>+15.3f}",
                flush=True,
            )
        return scores[-1]

    model = make_pipeline(
        StridedConv2DTransformer(n_kernels=64, random_state=0),
        StreamingRidgeClassifier(alphas=np.logspace(-1, 4, 6)),
    )
    grid = {
        "stridedconv2dtransformer__kernel_size": KERNEL_SIZES,
        "stridedconv2dtransformer__stride": STRIDES,
    }
    print("kernel_size stride accuracy over raw pixels")
    start = time.perf_counter()
    search = GridSearchCV(model, grid, cv=N_FOLDS, scoring=score).fit(images, labels)
    seconds = time.perf_counter() - start
    # The same search, in which each image is convolved once for each setting
    start = time.perf_counter()
    shared = SharedFeaturesSearch(GridSearchCV(model, grid, cv=N_FOLDS)).fit(images, labels)
    print(
        f"time for {len(scores)} fits: {seconds:.1f} s; with shared features: "
        f"{time.perf_counter() - start:.1f} s"
    )
    assert shared.best_params_ == search.best_params_
    return search


def plot(search, raw_accuracy):
    """Draw the accuracy of all settings, and the kernels of the best setting."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.6), layout="constrained", width_ratios=[1, 1.25]
    )
    scores = search.cv_results_["mean_test_score"].reshape(len(KERNEL_SIZES), len(STRIDES))
    colors = TwoSlopeNorm(raw_accuracy, min(scores.min(), raw_accuracy - 0.01), scores.max())
    heat_map = left.imshow(scores, cmap="BrBG", norm=colors, aspect="auto")
    for (row, column), score in np.ndenumerate(scores):
        color = "black" if 0.2 < colors(score) < 0.8 else "white"
        left.text(column, row, f"{score:.3f}", ha="center", va="center", color=color)
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    left.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="k", lw=3))
    left.set_xticks(range(len(STRIDES)), STRIDES)
    left.set_yticks(range(len(KERNEL_SIZES)), KERNEL_SIZES)
    left.set(xlabel="stride", ylabel="kernel size", title="Cross-validated accuracy (best framed)")
    bar = figure.colorbar(heat_map, ax=left, ticks=[scores.min(), raw_accuracy, scores.max()])
    bar.ax.set_yticklabels(
        [f"{scores.min():.3f}", f"{raw_accuracy:.3f}\nraw pixels", f"{scores.max():.3f}"]
    )

    step = search.best_estimator_["stridedconv2dtransformer"]
    kernels = step.kernels_[:, :, 0]
    kh, kw, n_kernels = kernels.shape
    side = int(np.ceil(np.sqrt(n_kernels)))
    gallery = np.full((side * (kh + 1) - 1, side * (kw + 1) - 1), np.nan)
    for i in range(n_kernels):
        row, column = i // side * (kh + 1), i % side * (kw + 1)
        gallery[row : row + kh, column : column + kw] = kernels[:, :, i]
    limit = np.abs(kernels).max()
    image = right.imshow(gallery, cmap="RdBu_r", vmin=-limit, vmax=limit)
    right.set_axis_off()
    right.set_title(f"{n_kernels} random kernels of {kh} x {kw} pixels (best setting)")
    figure.colorbar(image, ax=right, label="weight")
    return figure


def main():
    parser = argparse.ArgumentParser(description="Grid search on the digits.")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="default: the screen")
    path = parser.parse_args().output

    digits = load_digits()
    images, labels = digits.images, digits.target  # (1797, 8, 8), (1797,)
    print(f"{len(images)} images of {images.shape[1]}x{images.shape[2]} pixels")
    raw_accuracies = {}
    for classifier in (RidgeClassifierCV(alphas=np.logspace(-1, 4, 6)), LogisticRegression(C=0.1)):
        name = type(classifier).__name__
        model = make_pipeline(StandardScaler(), classifier)
        score = cross_val_score(model, digits.data, labels, cv=N_FOLDS).mean()
        raw_accuracies[name] = score.round(3)
        print(f"raw pixels, {name}: {raw_accuracies[name]:.3f}", flush=True)
    raw_accuracy = max(raw_accuracies.values())

    search = search_settings(images, labels, raw_accuracy)
    best = {name.split("__")[1]: value for name, value in search.best_params_.items()}
    print(f"best: {best}, accuracy {search.best_score_:.3f}; raw pixels at best {raw_accuracy:.3f}")
    figure = plot(search, raw_accuracy)
    if path is None:
        plt.show()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
        print(f"picture: {path}")


if __name__ == "__main__":
    main()
