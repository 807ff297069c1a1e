"""Types of the arguments and of the result of an initializer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Shape = tuple[int, int, int, int]
"""(kh, kw, c, n_kernels)"""

Patches = Callable[..., np.ndarray]
"""``patches(n)`` returns n training patches, ``(n, kh*kw*c)``, and ``patches()`` returns all of
them. They are normalized and whitened like the windows to which the kernels are applied."""

Initializer = Callable[[Shape, np.random.RandomState, Patches], np.ndarray]
"""``init(shape, rng, patches)`` returns kernels of that shape. Initializers ignore arguments that
they do not need."""
