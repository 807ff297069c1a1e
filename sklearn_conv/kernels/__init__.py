"""Initializers: functions that make the kernels, selected by name with the parameter ``kernels``.

Each function is called as ``init(shape, rng, patches)`` and returns an array of this shape,
``(kh, kw, c, n_kernels)``. A user-defined function with the same signature can be passed as
``kernels``; it may call the functions of this module.
"""

from sklearn_conv.kernels._initializers import (
    dct,
    gabor,
    gaussian,
    haar,
    kmeans,
    laplace,
    patches,
    pca,
    sobel,
    uniform,
)

__all__ = [
    "dct",
    "gabor",
    "gaussian",
    "haar",
    "kmeans",
    "laplace",
    "patches",
    "pca",
    "sobel",
    "uniform",
]
