"""Initializers: the functions behind the names of the parameter ``kernels``.

Each is called as ``init(shape, rng, patches)`` and returns an array of that shape,
``(kh, kw, c, n_kernels)``. Pass a function of your own with this signature as ``kernels``, or call
one of these in it.
"""

from sklearn_conv.kernels._fixed import dct, gabor, haar, laplace, sobel
from sklearn_conv.kernels._learned import kmeans, patches, pca
from sklearn_conv.kernels._random import gaussian, uniform

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
