"""Initializers that depend only on the shape of the kernels.

Each kernel is a filter on a single channel: kernel j is filter ``j // c`` on channel ``j % c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sklearn_conv.kernels._initializer import Shape


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
    filters = []
    for i in range(n_directions):
        angle = np.pi * i / n_directions
        # Rounding makes the cosine of a right angle exactly 0.
        along, across = np.round([np.cos(angle), np.sin(angle)], 15)
        filters.append(along * right + across * down)
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


def _on_each_channel(filters: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    """Return kernels that apply each filter, (kh, kw), to every channel in turn."""
    c = shape[2]
    kernels = np.zeros(shape)
    for j in range(shape[3]):
        kernels[:, :, j % c, j] = filters[j // c]
    return kernels


def _check_size(name: str, shape: Shape, minimum: int) -> None:
    if min(shape[:2]) < minimum:
        raise ValueError(
            f"kernels={name!r} cannot be made with kernel_size={shape[:2]}; use a kernel_size of "
            f"at least {(minimum, minimum)}."
        )


def _products(
    name: str,
    shape: Shape,
    down: Sequence[tuple[int, np.ndarray]],
    across: Sequence[tuple[int, np.ndarray]],
) -> list[np.ndarray]:
    """Return the products of all vertical and horizontal (level, weights), sorted by level."""
    kh, kw, c, n_kernels = shape
    if n_kernels > kh * kw * c:
        raise ValueError(
            f"kernels={name!r} has at most kh * kw * c = {kh * kw * c} kernels for kernel_size="
            f"{(kh, kw)} and {c} channels, but n_kernels={n_kernels}; use fewer kernels or a "
            "larger kernel_size."
        )
    pairs = [(u + v, u, np.outer(row, column)) for u, row in down for v, column in across]
    return [pair[2] for pair in sorted(pairs, key=lambda pair: pair[:2])]


def _cosine(frequency: int, size: int) -> np.ndarray:
    weights = np.cos(np.pi * frequency * (2 * np.arange(size) + 1) / (2 * size))
    return weights / np.linalg.norm(weights)


def _wavelets(size: int) -> list[tuple[int, np.ndarray]]:
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


def _standard(weights: np.ndarray) -> np.ndarray:
    """Center the weights, and divide them by their norm."""
    weights = weights - weights.mean()
    return weights / np.linalg.norm(weights)


def _binomial(size: int) -> np.ndarray:
    weights = np.ones(1)
    for _ in range(size - 1):
        weights = np.convolve(weights, [1.0, 1.0])
    return weights


def _difference(size: int) -> np.ndarray:
    return np.convolve(_binomial(size - 1), [-1.0, 1.0])
