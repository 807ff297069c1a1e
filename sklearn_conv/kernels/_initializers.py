"""Initializers: functions that make the kernels. To add one, write it here, and export it.

An initializer is called as ``init(shape, rng, patches)`` and ignores what it does not need. The
fixed ones depend only on the shape; each of their kernels is a filter on a single channel: kernel j
is filter ``j // c`` on channel ``j % c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.cluster import MiniBatchKMeans

from sklearn_conv._engine.threads import one_blas_thread

Shape = tuple[int, int, int, int]
"""(kh, kw, c, n_kernels)"""

Patches = Callable[..., np.ndarray]
"""``patches(n)`` returns n training patches, ``(n, kh*kw*c)``, and ``patches()`` returns all of
them. They are normalized and whitened like the windows to which the kernels are applied."""

Initializer = Callable[[Shape, np.random.RandomState, Patches], np.ndarray]
"""``init(shape, rng, patches)`` returns kernels of that shape."""

Level = tuple[int, np.ndarray]
"""Level of a filter along one axis, by which filters are sorted, and its weights."""


def gaussian(shape: Shape, rng: np.random.RandomState, patches: Any = None) -> np.ndarray:
    """Draw normally distributed weights, center each kernel, and divide it by its norm.

    A centered kernel ignores the brightness of its window, and its response to independent pixels
    with unit variance has unit variance. A kernel with a single weight is 1 or -1, and is not
    centered. If there are fewer than kh * kw * c kernels, they are orthogonal to each other, which
    improved the accuracy in benchmarks/gaussian_kernels.py. No larger set of kernels with zero mean
    can be orthogonal.

    Source: A. Saxe et al., "On Random Weights and Unsupervised Feature Learning" (2011).
    """
    n_weights = prod(shape[:3])
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


def sobel(shape: Shape, rng: Any = None, patches: Any = None) -> np.ndarray:
    """Return derivatives of the smoothed image in evenly spaced directions, one channel each.

    There are ``m = ceil(n_kernels / c)`` directions. Kernel j is applied to channel ``j % c``, in
    direction ``j // c``, at an angle of ``180 / m * (j // c)`` degrees; the first direction is from
    left to right. With ``m = 2`` and a size of 3 x 3, these are the two Sobel kernels; other
    directions are linear combinations of these kernels. Kernels of other sizes are products of
    binomial weights and of differences of binomial weights, as in OpenCV.

    Source: I. Sobel and G. Feldman, "A 3x3 Isotropic Gradient Operator for Image Processing"
    (1968); W. T. Freeman and E. H. Adelson, "The Design and Use of Steerable Filters" (1991).

    Examples
    --------
    >>> right, down = sobel((3, 3, 1, 2))[:, :, 0].transpose(2, 0, 1)
    >>> right
    array([[-1.,  0.,  1.],
           [-2.,  0.,  2.],
           [-1.,  0.,  1.]])
    """
    _check_size("sobel", shape, 2)
    kh, kw, c, n_kernels = shape
    right = np.outer(_binomial(kh), _difference(kw))
    down = np.outer(_difference(kh), _binomial(kw))
    n_directions = -(-n_kernels // c)
    angles = np.pi * np.arange(n_directions) / n_directions
    # Rounding makes the cosine of a right angle exactly 0.
    along, across = np.round([np.cos(angles), np.sin(angles)], 15)
    filters = [x * right + y * down for x, y in zip(along, across, strict=True)]
    return _on_each_channel(filters, shape)


def gabor(shape: Shape, rng: Any = None, patches: Any = None) -> np.ndarray:
    """Return waves under a Gaussian window, at several frequencies and orientations.

    There are ``m = ceil(n_kernels / c)`` filters: for each frequency and orientation, a cosine and
    then a sine. The ``min(8, ceil(m / 2))`` orientations are evenly spaced over 180 degrees. The
    ``ceil(m / (2 * orientations))`` frequencies are evenly spaced on a logarithmic scale between
    one period per shorter side of the kernel and half a period per pixel, the lowest first. The
    Gaussian window has a bandwidth of one octave, but a standard deviation of at most a quarter of
    the shorter side. Each filter has zero mean and unit norm.

    Source: A. K. Jain and F. Farrokhnia, "Unsupervised Texture Segmentation Using Gabor Filters"
    (1991).

    Examples
    --------
    >>> gabor((7, 7, 1, 64)).shape  # 4 frequencies, 8 orientations, cosine and sine
    (7, 7, 1, 64)
    """
    _check_size("gabor", shape, 3)
    kh, kw, c, n_kernels = shape
    n_filters = -(-n_kernels // c)
    n_orientations = min(8, -(-n_filters // 2))
    y, x = _from_center(kh)[:, np.newaxis], _from_center(kw)
    size = min(kh, kw)
    filters = []
    for frequency in _between(1 / size, 1 / 2, -(-n_filters // (2 * n_orientations))):
        deviation = min(0.56 / frequency, size / 4)
        window = np.exp(-(x**2 + y**2) / (2 * deviation**2))
        for angle in np.pi * np.arange(n_orientations) / n_orientations:
            phase = 2 * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y)
            filters += [_standard(window * np.cos(phase)), _standard(window * np.sin(phase))]
    return _on_each_channel(filters, shape)


def laplace(shape: Shape, rng: Any = None, patches: Any = None) -> np.ndarray:
    """Return Laplacians of Gaussians, which respond to blobs and to edges of any direction.

    The ``ceil(n_kernels / c)`` standard deviations are evenly spaced on a logarithmic scale between
    half a pixel and a quarter of the kernel's shorter side, the smallest first. Each filter has
    zero mean and unit norm, and is negative in its center.

    Source: D. Marr and E. Hildreth, "Theory of Edge Detection" (1980).

    Examples
    --------
    >>> laplace((3, 3, 1, 1))[:, :, 0, 0].round(2)
    array([[ 0.13,  0.1 ,  0.13],
           [ 0.1 , -0.94,  0.1 ],
           [ 0.13,  0.1 ,  0.13]])
    """
    _check_size("laplace", shape, 3)
    kh, kw, c, n_kernels = shape
    square = _from_center(kh)[:, np.newaxis] ** 2 + _from_center(kw) ** 2
    filters = [
        _standard((square / deviation**2 - 2) * np.exp(-square / (2 * deviation**2)))
        for deviation in _between(1 / 2, min(kh, kw) / 4, -(-n_kernels // c))
    ]
    return _on_each_channel(filters, shape)


def dct(shape: Shape, rng: Any = None, patches: Any = None) -> np.ndarray:
    """Return the lowest frequencies of the discrete cosine transform (DCT-II) of a window.

    The first filter is constant and responds to brightness. Filters are sorted by the sum of their
    two frequencies, then by the vertical frequency. There are kh * kw filters, which are orthogonal
    and have unit norm.

    Source: N. Ahmed, T. Natarajan and K. R. Rao, "Discrete Cosine Transform" (1974).

    Examples
    --------
    >>> dct((2, 2, 1, 4))[:, :, 0].transpose(2, 0, 1)[1]
    array([[ 0.5, -0.5],
           [ 0.5, -0.5]])
    """
    down, across = ([(u, _cosine(u, size)) for u in range(size)] for size in shape[:2])
    return _on_each_channel(_products("dct", shape, down, across), shape)


def haar(shape: Shape, rng: Any = None, patches: Any = None) -> np.ndarray:
    """Return Haar wavelets: differences between the halves of a window, their halves, and so on.

    The first filter is constant and responds to brightness. Filters are sorted by the sum of their
    two levels, then by the vertical level. There are kh * kw filters, which are orthogonal and have
    unit norm. If the number of pixels is odd, the first half is larger.

    Source: A. Haar, "Zur Theorie der orthogonalen Funktionensysteme" (1910); M. Girardi and
    W. Sweldens, "A New Class of Unbalanced Haar Wavelets That Form an Unconditional Basis for Lp on
    General Measure Spaces" (1997), for any number of pixels.

    Examples
    --------
    >>> haar((2, 2, 1, 4))[:, :, 0].transpose(2, 0, 1)[3]
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """
    down, across = map(_wavelets, shape[:2])
    return _on_each_channel(_products("haar", shape, down, across), shape)


def patches(shape: Shape, rng: np.random.RandomState, patches: Patches) -> np.ndarray:
    """Return random training patches, centered and divided by their norm.

    Patches are repeated only if there are fewer patches than kernels.

    Source: A. Coates and A. Y. Ng, "The Importance of Encoding Versus Training with Sparse Coding
    and Vector Quantization" (2011).
    """
    return _standard(patches(shape[3]), axis=1).T.reshape(shape)


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
    sample = _standard(patches(), axis=1)
    if len(sample) <= shape[3]:
        return _standard(patches(shape[3]), axis=1).T.reshape(shape)
    n = 4096  # patches in a batch; the initial centers are chosen from three times this number
    clusters = MiniBatchKMeans(
        shape[3], batch_size=n, init_size=3 * max(n, shape[3]), n_init=1, random_state=rng
    )
    # scikit-learn limits BLAS to one thread as well. If several threads did so at the same time,
    # the limit would never be removed.
    # Before scikit-learn 1.9, its k-means raises an error under array_api_dispatch.
    with one_blas_thread, config_context(array_api_dispatch=False):
        clusters.fit(sample)
    return _standard(clusters.cluster_centers_, axis=1).T.reshape(shape)


def pca(shape: Shape, rng: np.random.RandomState, patches: Patches) -> np.ndarray:
    """Return the directions of largest variance of the training patches, the largest first.

    There are at most kh * kw * c directions. Each has unit norm, and its weight with the largest
    absolute value is positive.

    Source: T.-H. Chan et al., "PCANet: A Simple Deep Learning Baseline for Image Classification?"
    (2015).
    """
    _check_count("pca", shape)
    covariance = np.atleast_2d(np.cov(patches(), rowvar=False, bias=True, dtype=np.float64))
    _, directions = np.linalg.eigh(covariance)
    directions = directions[:, : -shape[3] - 1 : -1]
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(shape[3])]
    return (directions * np.sign(largest)).reshape(shape)


def _on_each_channel(filters: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    """Return kernels that apply each filter, (kh, kw), to every channel in turn."""
    kernels = np.zeros(shape)
    for j in range(shape[3]):
        kernels[:, :, j % shape[2], j] = filters[j // shape[2]]
    return kernels


def _check_size(name: str, shape: Shape, minimum: int) -> None:
    if min(shape[:2]) < minimum:
        raise ValueError(
            f"kernels={name!r} cannot be made with kernel_size={shape[:2]}; use a kernel_size of "
            f"at least {(minimum, minimum)}."
        )


def _check_count(name: str, shape: Shape) -> None:
    n_weights = prod(shape[:3])
    if shape[3] > n_weights:
        raise ValueError(
            f"kernels={name!r} has at most kh * kw * c = {n_weights} kernels for kernel_size="
            f"{shape[:2]} and {shape[2]} channels, but n_kernels={shape[3]}; use fewer kernels, "
            "a larger kernel_size or kernels='patches'."
        )


def _products(
    name: str, shape: Shape, down: Iterable[Level], across: Iterable[Level]
) -> list[np.ndarray]:
    """Return the products of all vertical and horizontal (level, weights), sorted by level."""
    _check_count(name, shape)
    pairs = [(u + v, u, np.outer(row, column)) for u, row in down for v, column in across]
    return [pair[2] for pair in sorted(pairs, key=lambda pair: pair[:2])]


def _cosine(frequency: int, size: int) -> np.ndarray:
    weights = np.cos(np.pi * frequency * (2 * np.arange(size) + 1) / (2 * size))
    return weights / np.linalg.norm(weights)


def _wavelets(size: int) -> list[Level]:
    """Return an orthonormal basis as (level, weights); level 0 is constant."""
    basis, parts = [(0, np.full(size, size**-0.5))], [(1, 0, size)]
    for level, start, stop in parts:  # The loop appends both halves of each part.
        if stop - start > 1:
            middle = (start + stop + 1) // 2
            left, right, n = middle - start, stop - middle, stop - start
            weights = np.zeros(size)
            weights[start:middle] = (right / (left * n)) ** 0.5
            weights[middle:stop] = -((left / (right * n)) ** 0.5)
            basis.append((level, weights))
            parts += [(level + 1, start, middle), (level + 1, middle, stop)]
    return basis


def _between(low: float, high: float, n: int) -> np.ndarray:
    """Return the centers of n equal parts of a range, on a logarithmic scale."""
    return low * (high / low) ** ((np.arange(n) + 0.5) / n)


def _from_center(size: int) -> np.ndarray:
    return np.arange(size) - (size - 1) / 2


def _standard(weights: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Center weights, unless there is only one, and divide them by their norm if that is not 0."""
    if np.size(weights, axis) > 1:
        if axis is not None:  # In float32, the mean of large pixels is rounded.
            weights = weights - weights.take([0], axis)
        weights = weights - weights.mean(axis, keepdims=True)
    norms = np.linalg.norm(weights, axis=axis, keepdims=True)
    return weights / np.where(norms > 0, norms, 1)


def _binomial(size: int) -> np.ndarray:
    return np.polynomial.polynomial.polypow([1, 1], size - 1)


def _difference(size: int) -> np.ndarray:
    return np.convolve(_binomial(size - 1), [-1.0, 1.0])


KERNELS: dict[str, Initializer] = {
    function.__name__: function
    for function in (dct, gabor, gaussian, haar, kmeans, laplace, patches, pca, sobel, uniform)
}
"""Map from name to initializer."""
