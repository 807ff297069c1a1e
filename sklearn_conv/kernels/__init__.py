"""``kernels``: the menu of initialisers, each ``init(shape, rng, patches) -> kernels``.

``shape`` is ``(kh, kw, c, n_kernels)``, also of the result; ``rng`` a `numpy.random.RandomState`;
``patches(n)`` gives ``(n, kh*kw*c)`` random patches of the training images, ``patches()`` all of
the sample. An initialiser ignores what it does not need. A new kernel is a function and a line in
`KERNELS`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sklearn_conv.kernels.fixed import dct, gabor, haar, laplace, sobel
from sklearn_conv.kernels.learned import kmeans, patches, pca
from sklearn_conv.kernels.noise import gaussian, uniform

Shape = tuple[int, int, int, int]
Patches = Callable[..., np.ndarray]
Initializer = Callable[[Shape, np.random.RandomState, Patches], np.ndarray]

KERNELS: dict[str, Initializer] = {
    "dct": dct,
    "gabor": gabor,
    "gaussian": gaussian,
    "haar": haar,
    "kmeans": kmeans,
    "laplace": laplace,
    "patches": patches,
    "pca": pca,
    "sobel": sobel,
    "uniform": uniform,
}
"""Name -> initialiser."""
