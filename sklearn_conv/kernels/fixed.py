"""Kernels that depend on nothing but their shape."""

from __future__ import annotations

from typing import Any

import numpy as np


def sobel(shape: tuple[int, int, int, int], rng: Any = None, patches: Any = None) -> np.ndarray:
    """Take derivatives of the smoothed image along evenly spaced directions, one channel each.

    Kernel j looks at channel ``j % c``, in direction ``j // c`` of ``m = ceil(n_kernels / c)``:
    at an angle of ``180 / m * (j // c)`` degrees, from left to right first. With ``m = 2`` these
    are Sobel's two kernels, in other directions their steered mixtures; other sizes than 3 x 3 are
    made, as in OpenCV, of binomial smoothing and its differences.

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
    kh, kw, c, n_kernels = shape
    if min(kh, kw) < 2:
        raise ValueError(
            f"kernels='sobel' cannot take a difference in kernel_size=({kh}, {kw}); use a "
            "kernel_size of at least (2, 2)."
        )
    right = np.outer(_binomial(kh), _difference(kw))
    down = np.outer(_difference(kh), _binomial(kw))
    kernels = np.zeros(shape)
    n_directions = -(-n_kernels // c)
    for j in range(n_kernels):
        angle = np.pi * (j // c) / n_directions
        # Rounded, so that a right angle mixes in nothing of the other kernel.
        along, across = np.round([np.cos(angle), np.sin(angle)], 15)
        kernels[:, :, j % c, j] = along * right + across * down
    return kernels


def _binomial(size: int) -> np.ndarray:
    weights = np.ones(1)
    for _ in range(size - 1):
        weights = np.convolve(weights, [1.0, 1.0])
    return weights


def _difference(size: int) -> np.ndarray:
    return np.convolve(_binomial(size - 1), [-1.0, 1.0])
