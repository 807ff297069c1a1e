"""
What do the kernels look like?
==============================

This example draws sixteen kernels of each name. The learned kernels come from windows of the two
photographs that ship with scikit-learn, without and with whitening. Whitening removes what
neighboring pixels have in common, so that fine edges remain.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images

from sklearn_conv import StridedConv2DTransformer

N_KERNELS, SIZE = 16, 9
LEARNED = ("patches", "kmeans", "pca")
NOT_LEARNED = ("gaussian", "uniform", "sobel", "gabor", "laplace", "dct", "haar")


def make_kernels(images):
    """Return kernels (kh, kw, k) by title."""
    settings = {name: {} for name in (*NOT_LEARNED, *LEARNED)}
    settings |= {f"{name}, whitened": {"whiten": True} for name in LEARNED}
    kernels = {}
    for title, options in settings.items():
        transformer = StridedConv2DTransformer(
            N_KERNELS,
            SIZE,
            kernels=title.split(",")[0],
            normalize_patches=bool(options) or title in LEARNED,
            n_patches=20_000,
            random_state=0,
            **options,
        ).fit(images)
        kernels[title] = transformer.kernels_[:, :, 0]
    return kernels


def plot(kernels):
    """Draw sixteen kernels of each name, each on its own scale, in which gray is 0."""
    figure, axes = plt.subplots(3, 5, figsize=(11, 7.4), layout="constrained")
    colors = plt.get_cmap("gray").with_extremes(bad="lightsteelblue")
    for ax, (title, weights) in zip(axes.flat, kernels.items(), strict=False):
        side = int(N_KERNELS**0.5)
        tiles = np.full((side * (SIZE + 1) - 1, side * (SIZE + 1) - 1), np.nan)
        for k in range(N_KERNELS):
            row, column = (SIZE + 1) * (k // side), (SIZE + 1) * (k % side)
            kernel = weights[:, :, k]
            tiles[row : row + SIZE, column : column + SIZE] = kernel / np.abs(kernel).max()
        ax.imshow(tiles, cmap=colors, vmin=-1, vmax=1)
        ax.set_title(title)
    for ax in axes.flat:
        ax.axis("off")
    return figure


def main():
    parser = argparse.ArgumentParser(description="Draw sixteen kernels of each name.")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="default: the screen")
    path = parser.parse_args().output
    images = np.stack(load_sample_images().images).mean(axis=3)  # gray
    kernels = make_kernels(images)
    figure = plot(kernels)
    if path is None:
        plt.show()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
        print(f"picture: {path}")


if __name__ == "__main__":
    main()
