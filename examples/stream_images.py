"""
200,000 images to a classifier, a few megabytes at a time
=========================================================

The images are generated when they are read. They show waves in one of eight directions, with noise.
Arrays of zarr or h5py, and ``numpy.memmap``, are read in the same way. This example was not run for
this page. To run it::

    python examples/stream_images.py
"""

import argparse
import resource
import sys
from time import perf_counter

import numpy as np

from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer

N_CLASSES = 8


class Waves:
    """Images that are generated when they are read; an array with shape, dtype and slices."""

    dtype = np.dtype(np.uint8)

    def __init__(self, n):
        self.shape = (n, 32, 32, 3)
        self.labels = np.random.default_rng(0).integers(N_CLASSES, size=n)
        self._noise = np.random.default_rng(1).normal(0, 60, (64, 64, 64, 3)).astype(np.float32)

    def __getitem__(self, rows):
        images = np.empty((rows.stop - rows.start, *self.shape[1:]), np.uint8)
        row, column = np.mgrid[:32, :32]
        for image, i in zip(images, range(rows.start, rows.stop), strict=True):
            angle = np.pi * self.labels[i] / N_CLASSES
            wave = np.sin(0.7 * (np.cos(angle) * row + np.sin(angle) * column) + i)
            y, x = i // 64 % 32, i // 2048 % 32
            noise = self._noise[i % 64, y : y + 32, x : x + 32]
            image[:] = np.clip(128 + 40 * wave[:, :, np.newaxis] + noise, 0, 255)
        return images


def peak_memory():
    """Return the peak memory of this process so far in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main():
    parser = argparse.ArgumentParser(
        description="Compute features of a stream of images and classify them."
    )
    parser.add_argument("--images", type=int, default=200_000)
    n = parser.parse_args().images
    images, n_train = Waves(n), n * 9 // 10
    transformer = StridedConv2DTransformer(
        64,
        kernel_size=5,
        stride=2,
        kernels="patches",
        normalize_patches=True,
        whiten=True,
        activation="split",
        bias=-0.25,
        random_state=0,
        n_jobs=-1,
        verbose=1,
    )
    classifier = StreamingRidgeClassifier()
    before, start = peak_memory(), perf_counter()
    transformer.fit(images)
    print(f"learned the kernels in {perf_counter() - start:.0f} s")
    n_right = 0
    for rows, features in transformer.transform_batches(images):
        labels = images.labels[rows]
        train = np.arange(rows.start, rows.stop) < n_train
        if train.any():
            classifier.partial_fit(features[train], labels[train])
        if not train.all():
            n_right += np.sum(classifier.predict(features[~train]) == labels[~train])
    pixels, d = 32 * 32 * 3 * n / 1e6, features.shape[1]
    print(f"computed {d} features for each of {n} images in {perf_counter() - start:.0f} s")
    print(f"accuracy on the last {n - n_train}: {n_right / (n - n_train):.4f}")
    print(f"all images would take {pixels:.0f} MB, all features {n * d * 4 / 1e6:.0f} MB")
    print(f"peak memory: {peak_memory():.0f} MB, including {before:.0f} MB before the first image")


if __name__ == "__main__":
    main()
