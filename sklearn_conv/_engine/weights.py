"""Matrix of weights for windows to which constants are appended.

Offset and base are added by the matrix product itself, so that no further pass over the responses
is needed. A constant 1 is appended to each window, and a row ``offset + base`` to the weights:

    [window, 1] . [kernel; offset + base] = window . kernel + offset + base

Likewise, if a large number x has been subtracted from the pixels of an image (`find_offset`), its
part of the response is added back by ``[window - x, 1, x] . [kernel; offset + base; sum(kernel)]``.

A window consists of ``kh`` runs of ``kw * c`` pixels each. Windows below each other share runs, so
constants are appended to every run. For the first run of a window, the weights of the constants are
the rows above; for the other runs they are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from sklearn_conv._engine.layer import Layer


class Weights(NamedTuple):
    """A matrix of weights, and the constants that must be appended to the windows."""

    matrix: np.ndarray
    """(weights of a window and its constants, k)"""
    run_constants: tuple[float | np.ndarray, ...] = ()
    """Constants appended to every run; each is a number, or an array (b,) of a number per image."""


class LayerWeights:
    """The matrices of a layer. Each is computed when it is first used."""

    def __init__(self, layer: Layer) -> None:
        self._kernels = layer.kernels
        self._shift = layer.offset + layer.base
        self._has_shift = bool(self._shift.any())

    def for_windows(self, subtracted: np.ndarray | None) -> Weights:
        """Return the weights for windows from which numbers, (b,), have been subtracted, if any."""
        if subtracted is not None:
            return Weights(self._for_subtracted, (1.0, subtracted))
        return Weights(self._plain, (1.0,) if self._has_shift else ())

    @cached_property
    def normalized(self) -> np.ndarray:
        """The weights for normalized windows, to each of which a single 1 is appended."""
        kernels = self._kernels.reshape(-1, self._kernels.shape[-1])
        return np.concatenate([kernels, self._shift[np.newaxis]])

    @cached_property
    def _plain(self) -> np.ndarray:
        return self._append([self._shift] if self._has_shift else [])

    @cached_property
    def _for_subtracted(self) -> np.ndarray:
        sums = self._kernels.sum(axis=(0, 1, 2), dtype=np.float64)
        return self._append([self._shift, sums])

    def _append(self, constants: Sequence[np.ndarray]) -> np.ndarray:
        """Append the weights of constants, each (k,), to the weights of every run."""
        kh, kw, c, k = self._kernels.shape
        weights = np.zeros((kh, kw * c + len(constants), k), self._kernels.dtype)
        weights[:, : kw * c] = self._kernels.reshape(kh, kw * c, k)
        for i, constant in enumerate(constants, start=kw * c):
            weights[0, i] = constant
        return weights.reshape(-1, k)
