"""Initializers that use only the random state."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_conv.kernels._initializer import Shape


def gaussian(shape: Shape, rng: np.random.RandomState, patches: Any = None) -> np.ndarray:
    """Draw normally distributed weights, center each kernel, and divide it by its norm.

    A centered kernel ignores the brightness of its window, and for independent pixels with unit
    variance its response has unit variance. A kernel with a single weight is 1 or -1. If there are
    fewer than kh * kw * c kernels, they are orthogonal to each other, which measured better
    (benchmarks/gaussian_kernels.py); zero mean leaves no room for more orthogonal kernels.

    Source: A. Saxe et al., "On Random Weights and Unsupervised Feature Learning" (2011).
    """
    n_weights = int(np.prod(shape[:3]))
    weights = rng.standard_normal((n_weights, shape[3]))
    if n_weights > 1:
        weights -= weights.mean(axis=0)
    if shape[3] < n_weights:
        weights, triangle = np.linalg.qr(weights)
        weights *= np.sign(np.diag(triangle))  # QR leaves the signs open
    return (weights / np.linalg.norm(weights, axis=0)).reshape(shape)


def uniform(shape: Shape, rng: np.random.RandomState, patches: Any = None) -> np.ndarray:
    """Draw weights from a uniform distribution with zero mean and variance 1 / (kh * kw * c).

    Unlike "gaussian" kernels, these are not centered, and so respond to the brightness of their
    window.

    Source: Y. LeCun, L. Bottou, G. B. Orr and K.-R. Mueller, "Efficient BackProp" (1998).
    """
    limit = np.sqrt(3 / np.prod(shape[:3]))
    return rng.uniform(-limit, limit, shape)
