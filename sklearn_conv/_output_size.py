"""The shape of the output, and its cost."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from sklearn_conv._engine.geometry import Geometry
from sklearn_conv._parameters import Parameters


class OutputSize(NamedTuple):
    """Shapes and cost per image, returned by `StridedConv2DTransformer.output_size`."""

    maps: tuple[int, int, int]
    """Number of rows, columns and maps; "split" has two maps for each kernel."""
    features: int
    """Number of features."""
    multiply_adds: int
    """Number of multiply-add operations: multiply a pixel by a weight and add the product."""
    bytes: int
    """Size of the features in float32, in bytes; float64 takes twice as much."""


def feature_shape(
    parameters: Parameters, geometry: Geometry, n_kernels: int
) -> tuple[int, int, int, int, int]:
    rows, columns = parameters.pool_grid if parameters.poolings else geometry.output_shape
    return rows, columns, len(parameters.poolings or [""]), len(parameters.sides), n_kernels


def measure_output(
    parameters: Parameters, geometry: Geometry, kernels: tuple[int, int, int, int]
) -> OutputSize:
    """Measure the output for kernels of shape (kh, kw, c, n_kernels)."""
    shape = feature_shape(parameters, geometry, kernels[3])
    n_features, n_maps = prod(shape), shape[3] * shape[4]
    return OutputSize(
        maps=(*geometry.output_shape, n_maps),
        features=n_features,
        multiply_adds=prod(geometry.output_shape) * prod(kernels),
        bytes=n_features * np.dtype(np.float32).itemsize,
    )
