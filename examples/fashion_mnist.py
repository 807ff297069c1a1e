"""
70,000 photographs to features to a classifier
==============================================

Run this example with the data in a file, or let scikit-learn fetch them from OpenML (30 MB, once)::

    python examples/fashion_mnist.py --data fashion_mnist.npz
    python examples/fashion_mnist.py

The file must contain X_train, y_train, X_test and y_test. The images are uint8 with the shape
(n, 28, 28). This example needs more memory and time than others, so it was not run for this page.

Data: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms" (2017).
"""

import argparse
from contextlib import contextmanager
from time import perf_counter

import numpy as np
from sklearn.datasets import fetch_openml

from sklearn_conv import make_image_classifier


@contextmanager
def timed(what):
    """Print how long the block takes."""
    start = perf_counter()
    yield
    print(f"{perf_counter() - start:6.1f} s  {what}", flush=True)


def load(path):
    """Return the images and labels of the training set and of the test set."""
    if path is not None:
        with np.load(path) as data:
            return [data[name] for name in ("X_train", "y_train", "X_test", "y_test")]
    images, labels = fetch_openml("Fashion-MNIST", return_X_y=True, as_frame=False)
    images = images.reshape(-1, 28, 28).astype(np.uint8)
    return images[:60_000], labels[:60_000], images[60_000:], labels[60_000:]


def main():
    parser = argparse.ArgumentParser(description="Classify the images of Fashion-MNIST.")
    parser.add_argument("--data", metavar="FILE.npz", help="default: fetch from OpenML")
    parser.add_argument("--effort", choices=["fast", "balanced", "best"], default="balanced")
    arguments = parser.parse_args()
    with timed("load the images"):
        X_train, y_train, X_test, y_test = load(arguments.data)
    model = make_image_classifier("objects", effort=arguments.effort, random_state=0, n_jobs=-1)
    print(f"\n{model}")
    features, classifier = model["features"], model["classifier"]
    with timed(f"learn kernels from patches of {len(X_train)} training images"):
        features.fit(X_train)
    with timed("compute their features"):
        features_train = features.transform(X_train)
    with timed(f"fit the classifier on {features_train.shape[1]} features"):
        classifier.fit(features_train, y_train)
    with timed(f"classify {len(X_test)} test images"):
        accuracy = model.score(X_test, y_test)
    print(f"accuracy on {len(X_test)} test images: {accuracy:.4f}, with alpha {classifier.alpha_}")


if __name__ == "__main__":
    main()
