"""Kernels that see patches of the training images, as normalized and whitened as they are to be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from sklearn_conv._engine.threads import one_blas_thread

Patches = Callable[..., np.ndarray]


def patches(
    shape: tuple[int, int, int, int], rng: np.random.RandomState, patches: Patches
) -> np.ndarray:
    """Take random patches of the training images, with mean 0 and length 1.

    Two are the same only where there are fewer patches than kernels.

    Source: A. Coates and A. Y. Ng, "The Importance of Encoding Versus Training with Sparse Coding
    and Vector Quantization" (2011).
    """
    return _standard(patches(shape[3])).T.reshape(shape)


def kmeans(
    shape: tuple[int, int, int, int], rng: np.random.RandomState, patches: Patches
) -> np.ndarray:
    """Take the centers of clusters of the training patches, spherical k-means.

    Patches and centers have mean 0 and length 1. Where there are fewer patches than kernels, the
    patches themselves are taken. A patch between two clusters may fall to either by rounding, so
    that images in another dtype or other units may have other centers, as good as these; and so
    may another version of scikit-learn, of which 1.9 draws its batches otherwise.

    Source: A. Coates and A. Y. Ng, "Learning Feature Representations with K-Means" (2012);
    D. Sculley, "Web-Scale K-Means Clustering" (2010).
    """
    sample = _standard(patches())
    if len(sample) <= shape[3]:
        return _standard(patches(shape[3])).T.reshape(shape)
    clusters = MiniBatchKMeans(
        shape[3], batch_size=4096, init_size=3 * max(4096, shape[3]), n_init=1, random_state=rng
    )
    with one_blas_thread:  # which it limits on its own: with several at once, for good
        clusters.fit(sample)
    return _standard(clusters.cluster_centers_).T.reshape(shape)


def pca(
    shape: tuple[int, int, int, int], rng: np.random.RandomState, patches: Patches
) -> np.ndarray:
    """Take the directions in which the training patches vary most, of length 1, first the largest.

    There are no more than kh * kw * c. The largest weight of each is positive.

    Source: T.-H. Chan et al., "PCANet: A Simple Deep Learning Baseline for Image Classification?"
    (2015).
    """
    n_weights, n_kernels = int(np.prod(shape[:3])), shape[3]
    if n_kernels > n_weights:
        raise ValueError(
            f"kernels='pca' has at most kh * kw * c = {n_weights} kernels for kernel_size="
            f"{shape[:2]} and {shape[2]} channels, but n_kernels={n_kernels}; use fewer kernels, "
            "a larger kernel_size or kernels='patches'."
        )
    covariance = np.atleast_2d(np.cov(patches(), rowvar=False, bias=True, dtype=np.float64))
    _, directions = np.linalg.eigh(covariance)
    directions = directions[:, : -n_kernels - 1 : -1]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(n_kernels)]
    return (directions * np.sign(largest)).reshape(shape)


def _standard(rows: np.ndarray) -> np.ndarray:
    """Bring rows to mean 0, if they are longer than 1, and to length 1, if they have any length."""
    if rows.shape[1] > 1:
        rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)
