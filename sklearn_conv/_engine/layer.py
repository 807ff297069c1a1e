"""Description of the computation of an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sklearn_conv._engine.activation import Function, Side
from sklearn_conv._engine.geometry import Geometry
from sklearn_conv._engine.pooling import Pooling


class Output(NamedTuple):
    """One feature for each kernel: ``function(sign * shifted + constant)``.

    ``shifted`` are the responses with the offset and the base of the layer.
    """

    sign: int
    function: Function
    constant: np.ndarray | None
    """(k,), or None for 0"""


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
    """(n_biases, k)"""
    geometry: Geometry
    sides: Mapping[str, Side]
    """Activation; each side makes one feature for each kernel and bias."""
    eps: float = 0.0
    """If 0, windows are not normalized."""
    poolings: Sequence[Pooling] | None = None
    """If None, maps are not pooled."""
    pool_grid: tuple[int, int] = (1, 1)

    @property
    def base(self) -> np.ndarray:
        """The bias of each kernel that is nearest to 0, (k,).

        It is added once, together with the offset. The other biases are larger, so the rounding of
        this sum is no larger than that of their own.
        """
        nearest = np.abs(self.bias).argmin(axis=0)
        return np.take_along_axis(self.bias, nearest[np.newaxis], axis=0)[0]

    @property
    def outputs(self) -> list[Output]:
        """The features of each kernel, in their order: the biases of the first side come first."""
        base = self.base
        outputs = []
        for side in self.sides.values():
            for bias in self.bias:
                constant = bias - side.sign * base
                outputs.append(
                    Output(side.sign, side.function, constant if constant.any() else None)
                )
        return outputs


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
