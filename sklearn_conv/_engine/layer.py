"""What an engine is, and the description of what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from sklearn_conv._array_api import namespace
from sklearn_conv._engine.activation import Side
from sklearn_conv._engine.geometry import Geometry
from sklearn_conv._engine.pooling import Pooling

Advance = Callable[[int | Fraction], None]
"""``advance(m)`` reports that m more images are done."""


def ignore(n_images: int | Fraction) -> None:
    """Report no progress."""


class Engine(Protocol):
    """The interface that `sklearn_conv._engine` describes."""

    def compute(
        self, images: Any, out: Any, n_jobs: int | None = ..., advance: Advance = ...
    ) -> None:
        """Write the features of images."""


Output = tuple[Side, Any]
"""A side and its constant, (k,) or None for 0: one feature for each kernel,
``function(sign * shifted + constant)`` of the responses with the offset and the base."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Convolution, activation and pooling: ``pool(activate(window . kernel + offset, bias))``.

    With ``eps``, each window is first divided by ``sqrt(variance of its pixels + eps)``; the
    kernels then have zero mean.
    """

    kernels: Any
    """(kh, kw, c, k); kernels, offset and bias have the dtype of the computation. They are arrays
    of NumPy, except for `array_api_engine`."""
    offset: Any
    """(k,)"""
    bias: Any
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
    def base(self) -> Any:
        """The bias of each kernel that is nearest to 0, (k,).

        It is added once, together with the offset. The other biases are larger, so the rounding of
        this sum is no larger than that of their own.
        """
        xp, base = namespace(self.bias), self.bias[0, :]
        for i in range(1, self.bias.shape[0]):
            bias = self.bias[i, :]
            base = xp.where(xp.abs(bias) < xp.abs(base), bias, base)
        return base

    @property
    def outputs(self) -> list[Output]:
        """The features of each kernel, in their order: the biases of the first side come first."""
        xp, base = namespace(self.bias), self.base
        outputs: list[Output] = []
        for side in self.sides.values():
            for i in range(self.bias.shape[0]):
                constant = self.bias[i, :] - side.sign * base
                outputs.append((side, constant if bool(xp.any(constant != 0)) else None))
        return outputs

    def out_shape(self, n_images: int) -> tuple[int, ...]:
        """Return the shape of the features: (n, rows, columns, poolings, outputs, k)."""
        place, n_poolings = self.geometry.output_shape, 1
        if self.poolings is not None:
            place, n_poolings = self.pool_grid, len(self.poolings)
        n_outputs = len(self.sides) * self.bias.shape[0]
        return (n_images, *place, n_poolings, n_outputs, self.kernels.shape[3])


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
