"""Initializers that use preprocessed training patches."""

from __future__ import annotations

import numpy as np
from sklearn import config_context
from sklearn.cluster import MiniBatchKMeans

from sklearn_conv._engine.threads import one_blas_thread
from sklearn_conv.kernels._initializer import Patches, Shape

KMEANS_BATCH = 4096
"""Number of patches in a batch of k-means. The initial centers are chosen from three times this
number, or three times the number of kernels if that is larger."""


def patches(shape: Shape, rng: np.random.RandomState, patches: Patches) -> np.ndarray:
    """Return random training patches, centered and divided by their norm.

    Patches are repeated only if there are fewer patches than kernels.

    Source: A. Coates and A. Y. Ng, "The Importance of Encoding Versus Training with Sparse Coding
    and Vector Quantization" (2011).
    """
    return _standard(patches(shape[3])).T.reshape(shape)


def kmeans(shape: Shape, rng: np.random.RandomState, patches: Patches) -> np.ndarray:
    """Return the cluster centers of the training patches, computed by spherical k-means.

    Both the patches and the cluster centers have zero mean and unit norm. If there are fewer
    patches than kernels, the patches themselves are returned. Rounding may decide to which of two
    clusters a patch belongs, so images with another dtype or in other units may lead to different
    centers, which are not worse. The centers may also differ between versions of scikit-learn,
    because versions 1.8 and 1.9 draw different batches.

    Source: A. Coates and A. Y. Ng, "Learning Feature Representations with K-Means" (2012);
    D. Sculley, "Web-Scale K-Means Clustering" (2010).
    """
    sample = _standard(patches())
    if len(sample) <= shape[3]:
        return _standard(patches(shape[3])).T.reshape(shape)
    clusters = MiniBatchKMeans(
        shape[3],
        batch_size=KMEANS_BATCH,
        init_size=3 * max(KMEANS_BATCH, shape[3]),
        n_init=1,
        random_state=rng,
    )
    # scikit-learn limits BLAS to one thread as well. If several threads did so at the same time,
    # the limit would never be removed.
    # Before scikit-learn 1.9, its k-means raises an error under array_api_dispatch.
    with one_blas_thread, config_context(array_api_dispatch=False):
        clusters.fit(sample)
    return _standard(clusters.cluster_centers_).T.reshape(shape)


def pca(shape: Shape, rng: np.random.RandomState, patches: Patches) -> np.ndarray:
    """Return the directions of largest variance of the training patches, the largest first.

    There are at most kh * kw * c directions. Each has unit norm, and its weight with the largest
    absolute value is positive.

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
    """Center rows that have several elements, and divide rows that are not 0 by their norm."""
    if rows.shape[1] > 1:
        rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
