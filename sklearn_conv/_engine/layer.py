"""Description of the computation of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sklearn_conv._engine.activation import Side
from sklearn_conv._engine.geometry import Geometry
from sklearn_conv._engine.pooling import Pooling


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Convolution, activation and pooling: ``pool(activate(window . kernel + offset, bias))``.

    With ``eps``, each window is first divided by ``sqrt(variance of its pixels + eps)``; the
    kernels then have zero mean.
    """

    kernels: np.ndarray
    """(kh, kw, c, k); kernels, offset and bias have the dtype of the computation."""
    offset: np.ndarray
    """(k,)"""
    bias: np.ndarray
    """(k,)"""
    geometry: Geometry
    sides: Mapping[str, Side]
    """Activation; each side makes one feature for each kernel."""
    eps: float = 0.0
    """If 0, windows are not normalized."""
    poolings: Sequence[Pooling] | None = None
    """If None, maps are not pooled."""
    pool_grid: tuple[int, int] = (1, 1)


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """Return float32 for all dtypes whose numbers are exact in float32, else float64.

    Examples
    --------
    >>> import numpy as np
    >>> compute_dtype(np.dtype("uint8")), compute_dtype(np.dtype("int32"))
    (dtype('float32'), dtype('float64'))
    """
    is_exact = dtype.itemsize <= 2 or (dtype.kind == "f" and dtype.itemsize == 4)
    return np.dtype(np.float32 if is_exact else np.float64)
