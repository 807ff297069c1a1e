"""``kernels``: the menu of initialisers, each ``init(shape, rng, patches) -> kernels``.

``shape`` is ``(kh, kw, c, n_kernels)``, also of the result; ``rng`` a `numpy.random.RandomState`;
``patches(n)`` gives ``(n, kh*kw*c)`` random patches of the training images. An initialiser ignores
what it does not need.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sklearn_conv.kernels.fixed import sobel
from sklearn_conv.kernels.noise import gaussian, uniform

Shape = tuple[int, int, int, int]
Patches = Callable[[int], np.ndarray]
Initializer = Callable[[Shape, np.random.RandomState, Patches], np.ndarray]

KERNELS: dict[str, Initializer] = {
    "gaussian": gaussian,
    "sobel": sobel,
    "uniform": uniform,
}
"""Name -> initialiser."""
