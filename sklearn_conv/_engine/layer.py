"""What an engine computes, as one record."""

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
    """(kh, kw, c, k), in the dtype of the computation, as are offset and bias"""
    offset: np.ndarray
    """(k,)"""
    bias: np.ndarray
    """(k,)"""
    geometry: Geometry
    sides: Mapping[str, Side]
    """the activation: one feature per kernel for each side"""
    eps: float = 0.0
    """0: windows are not normalized"""
    poolings: Sequence[Pooling] | None = None
    """None: maps are not pooled"""
    pool_grid: tuple[int, int] = (1, 1)


def compute_dtype(dtype: np.dtype) -> np.dtype:
    """Return float32 for float32 and for dtypes that are exact in it, else float64.

    Examples
    --------
    >>> import numpy as np
    >>> compute_dtype(np.dtype("uint8")), compute_dtype(np.dtype("int32"))
    (dtype('float32'), dtype('float64'))
    """
    is_exact = dtype.itemsize <= 2 or (dtype.kind == "f" and dtype.itemsize == 4)
    return np.dtype(np.float32 if is_exact else np.float64)
