"""What an initializer is: the types of its arguments and of its result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Shape = tuple[int, int, int, int]
"""(kh, kw, c, n_kernels)"""

Patches = Callable[..., np.ndarray]
"""``patches(n)`` returns n training patches, ``(n, kh*kw*c)``, and ``patches()`` the whole sample;
they are normalized and whitened as the kernels will see them."""

Initializer = Callable[[Shape, np.random.RandomState, Patches], np.ndarray]
"""``init(shape, rng, patches) -> kernels``, an array of that shape; what an initializer does not
need, it ignores."""
