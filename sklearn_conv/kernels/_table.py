"""Names of the initializers. To add an initializer, write a function and add a line here."""

from __future__ import annotations

from sklearn_conv.kernels import _fixed, _learned, _random
from sklearn_conv.kernels._initializer import Initializer

KERNELS: dict[str, Initializer] = {
    "dct": _fixed.dct,
    "gabor": _fixed.gabor,
    "gaussian": _random.gaussian,
    "haar": _fixed.haar,
    "kmeans": _learned.kmeans,
    "laplace": _fixed.laplace,
    "patches": _learned.patches,
    "pca": _learned.pca,
    "sobel": _fixed.sobel,
    "uniform": _random.uniform,
}
"""Map from name to initializer."""
