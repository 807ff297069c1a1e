"""Initializers that use only the random state."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_conv.kernels._initializer import Shape


def gaussian(shape: Shape, rng: np.random.RandomState, patches: Any = None) -> np.ndarray:
    """Draw normally distributed weights, center each kernel, and divide it by its norm.

    A centered kernel ignores the brightness of its window, and its response to independent pixels
    with unit variance has unit variance. A kernel with a single weight is 1 or -1, and is not
    centered. If there are fewer than kh * kw * c kernels, they are orthogonal to each other, which
    improved the accuracy in benchmarks/gaussian_kernels.py. No larger set of kernels with zero mean
    can be orthogonal.

    Source: A. Saxe et al., "On Random Weights and Unsupervised Feature Learning" (2011).
    """
    n_weights = int(np.prod(shape[:3]))
    weights = rng.standard_normal((n_weights, shape[3]))
    if n_weights > 1:
        weights -= weights.mean(axis=0)
    if shape[3] < n_weights:
        weights, triangle = np.linalg.qr(weights)
        weights *= np.sign(np.diag(triangle))  # The signs of a QR decomposition are arbitrary.
    return (weights / np.linalg.norm(weights, axis=0)).reshape(shape)


def uniform(shape: Shape, rng: np.random.RandomState, patches: Any = None) -> np.ndarray:
    """Draw weights from a uniform distribution with zero mean and variance 1 / (kh * kw * c).

    Unlike "gaussian" kernels, these kernels are not centered, and therefore respond to the
    brightness of their window.

    Source: Y. LeCun, L. Bottou, G. B. Orr and K.-R. Mueller, "Efficient BackProp" (1998).
    """
    limit = np.sqrt(3 / np.prod(shape[:3]))
    return rng.uniform(-limit, limit, shape)
