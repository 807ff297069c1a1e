"""Count warnings of colors and brightness: for images that give no reason, and for mistakes.

The folder must hold eurosat_small.npz, fashion_mnist.npz and a folder "tiles" of color pictures in
folders named after their classes. Run: python benchmarks/mistakes.py --data FOLDER
"""

import argparse
import warnings
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from sklearn_conv import read_images
from sklearn_conv._images.mistakes import (
    COLORS,
    COLORS_IN_FIT,
    Colors,
    _describe_colors,
    _mean_colors,
    warn_of_colors,
)

N_DRAWS = 2_000
"""Number of pairs of training images and a batch, for each row that is printed."""

N_FIT = 50, 200
"""Numbers of training images."""


def load(folder):
    """Return images and labels by name."""
    found = {}
    for name, file in ("satellite tiles", "eurosat_small"), ("clothes", "fashion_mnist"):
        with np.load(folder / f"{file}.npz") as data:
            images, labels = data["X_train"][:2500], data["y_train"][:2500]
        found[name] = images.reshape(len(images), *images.shape[1:3], -1), labels
    files = read_images(folder / "tiles", size=(64, 64))
    found["aerial photographs"] = np.asarray(files), np.unique(files.labels, return_inverse=True)[1]
    digits = load_digits()
    found["digits"] = digits.images[..., np.newaxis], digits.target
    return found


def is_noticed(train, batch):
    """Return whether there is a warning of the colors of a batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = Colors(*_describe_colors(_mean_colors(train, COLORS_IN_FIT)))
        return warn_of_colors(seen, _mean_colors(batch, COLORS))


def draw(labels, rng, kind, n_fit):
    """Return the numbers of training images, and of a batch of 8 to 128 others."""
    order = rng.permutation(len(labels))
    train, others = order[:n_fit], order[n_fit:]
    classes, counts = np.unique(labels[train], return_counts=True)
    chosen = rng.choice(classes[counts > 2])
    if kind != "mixed":
        others = others[labels[others] == chosen]
    if kind == "of a class that is rare or absent in fit":
        of_class = train[labels[train] == chosen]
        train = np.setdiff1d(train, of_class[rng.integers(3) :])  # with 0 to 2 of the class
    return train, others[: rng.choice([8, 32, 128])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with the images", required=True)
    images = load(parser.parse_args().data)
    rng = np.random.default_rng(0)
    for kind in ("mixed", "of one class", "of a class that is rare or absent in fit"):
        for (name, (X, labels)), n_fit in product(images.items(), N_FIT):
            pairs = (draw(labels, rng, kind, n_fit) for _ in range(N_DRAWS))
            n_noticed = sum(is_noticed(X[train], X[batch]) for train, batch in pairs)
            row = f"{n_fit} {name} in fit, a batch {kind}"
            print(f"{row}: {n_noticed} warnings in {N_DRAWS:,} draws", flush=True)
    mistakes = {
        "BGR": lambda X: X[..., ::-1],
        "twice as bright": lambda X: np.minimum(2 * X.astype(int), 255).astype(X.dtype),
        "half as bright": lambda X: X // 2,
    }
    for mistake, change in mistakes.items():
        for name in ("satellite tiles", "aerial photographs", "clothes"):
            X = images[name][0]
            if mistake == "BGR" and X.shape[3] == 1:
                continue
            for n in (8, 32, 128):
                orders = [rng.permutation(len(X)) for _ in range(300)]
                found = np.mean([is_noticed(X[i[-200:]], change(X[i[:n]])) for i in orders])
                print(f"{mistake}: noticed in {found:.0%} of batches of {n} {name}", flush=True)


if __name__ == "__main__":
    main()
