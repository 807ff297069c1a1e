"""What an engine is, and the description of what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any, Protocol

import numpy as np

from sklearn_conv._array_api import namespace
from sklearn_conv._engine.activation import Side
from sklearn_conv._engine.geometry import Geometry, Grid, Rectangle, Span, pool_cells
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


Axis = int | tuple[Span, ...]
"""Number of cells into which an axis of the map is divided by `pool_cells`, or their spans."""


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
    pool_grids: Sequence[tuple[Axis, Axis]] = ((1, 1),)
    """Cells of each grid along rows and columns. Features of several grids have a single row: the
    cells of the first grid, then those of the next one. `PyramidEngine` and `MissingEngine` alone
    support several grids."""

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
        n_poolings = 1 if self.poolings is None else len(self.poolings)
        n_outputs = len(self.sides) * self.bias.shape[0]
        return (n_images, *self._place_shape, n_poolings, n_outputs, self.kernels.shape[3])

    @property
    def _place_shape(self) -> tuple[int, int]:
        """Rows and columns of the features."""
        if self.poolings is None:
            return self.geometry.output_shape
        shapes = [
            tuple(axis if isinstance(axis, int) else len(axis) for axis in grid)
            for grid in self.pool_grids
        ]
        [(rows, columns)] = shapes if len(shapes) == 1 else [(1, sum(map(prod, shapes)))]
        return rows, columns

    @property
    def grids(self) -> list[Grid]:
        """The grids as spans of rows and columns of the map."""

        def spans(length: int, axis: Axis) -> tuple[Span, ...]:
            return pool_cells(length, axis) if isinstance(axis, int) else axis

        h, w = self.geometry.output_shape
        return [(spans(h, rows), spans(w, columns)) for rows, columns in self.pool_grids]

    @property
    def cells(self) -> dict[tuple[int, int], Rectangle]:
        """Map from the row and the column of features to their cell."""
        cells = [cell for grid in self.grids for cell in product(*grid)]
        rows, columns = map(range, self._place_shape)
        return dict(zip(product(rows, columns), cells, strict=True))


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
