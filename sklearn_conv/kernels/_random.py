"""Kernels that see nothing but the random state."""

from __future__ import annotations

from typing import Any

import numpy as np


def gaussian(
    shape: tuple[int, int, int, int], rng: np.random.RandomState, patches: Any = None
) -> np.ndarray:
    """Draw normally distributed weights, and give each kernel mean 0 and length 1.

    A kernel of several weights so ignores the brightness of its window, and answers independent
    pixels of unit variance with unit variance. A kernel of one weight is 1 or -1. Kernels are
    orthogonal to each other where there are fewer than kh * kw * c, the most that mean 0 leaves
    room for: that measured better (benchmarks/gaussian_kernels.py).

    Source: A. Saxe et al., "On Random Weights and Unsupervised Feature Learning" (2011).
    """
    n_weights = int(np.prod(shape[:3]))
    weights = rng.standard_normal((n_weights, shape[3]))
    if n_weights > 1:
        weights -= weights.mean(axis=0)
    if shape[3] < n_weights:
        weights, triangle = np.linalg.qr(weights)
        weights *= np.sign(np.diag(triangle))  # the one choice that QR leaves open
    return (weights / np.linalg.norm(weights, axis=0)).reshape(shape)


def uniform(
    shape: tuple[int, int, int, int], rng: np.random.RandomState, patches: Any = None
) -> np.ndarray:
    """Draw weights from a uniform distribution of mean 0 and variance 1 / (kh * kw * c).

    Unlike "gaussian", a kernel may have a sum: it sees the brightness of its window too.

    Source: Y. LeCun, L. Bottou, G. B. Orr and K.-R. Mueller, "Efficient BackProp" (1998).
    """
    limit = np.sqrt(3 / np.prod(shape[:3]))
    return rng.uniform(-limit, limit, shape)
