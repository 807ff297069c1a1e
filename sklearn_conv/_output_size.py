"""The shape of the output, and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from sklearn_conv._engine.geometry import Geometry, place_windows
from sklearn_conv._parameters import ANY, Parameters
from sklearn_conv._validation import LIMIT

MAX_CELLS = 2**24
"""Exclusive upper bound of the number of cells of an image."""


class OutputSize(NamedTuple):
    """Shapes and cost per image, returned by `StridedConv2DTransformer.output_size`."""

    maps: tuple[int, int, int]
    """Number of rows, columns and maps; a kernel has one map for each side
    of the activation and each bias."""
    features: int
    """Number of features."""
    multiply_adds: int
    """Number of multiply-add operations, over all mirrored and turned images: multiply a pixel by a
    weight, and add the product."""
    bytes: int
    """Size of the features in float32, in bytes; float64 takes twice as much."""


def feature_shape(
    parameters: Parameters, maps: tuple[int, int], n_biases: int, n_kernels: int
) -> tuple[int, int, int, int, int]:
    """Return (grid rows, grid columns, poolings, sides * biases, kernels).

    ``maps`` are the rows and columns of a map. The cells of several grids form a single row.
    """
    n_outputs = len(parameters.sides) * n_biases
    grids = list_grids(parameters, maps)
    [(rows, columns)] = grids if len(grids) == 1 else [(1, sum(map(prod, grids)))]
    return rows, columns, len(parameters.poolings or [""]), n_outputs, n_kernels


def list_grids(parameters: Parameters, maps: tuple[int, int]) -> Sequence[tuple[int, int]]:
    """Return the rows and columns of each grid, or those of the maps if they are not pooled."""
    return parameters.pool_grids if parameters.poolings else [maps]


def feature_names(
    parameters: Parameters, maps: tuple[int, int], n_biases: int, n_kernels: int
) -> list[str]:
    """Return the names of the features, in their order."""
    biases = [f"bias{i}" for i in range(n_biases)] if n_biases > 1 else [""]
    in_cell = [
        "_".join(filter(None, (f"kernel{kernel:03d}", side, bias, pooling)))
        for pooling, side, bias, kernel in product(
            parameters.poolings or [""], parameters.sides, biases, range(n_kernels)
        )
    ]
    grids = list_grids(parameters, maps)
    return [
        f"{name}{f'_{rows}x{columns}' * (len(grids) > 1)}_r{r}_c{c}"
        for rows, columns in grids
        for r, c, name in product(range(rows), range(columns), in_cell)
    ]


def place_views(
    parameters: Parameters, image: tuple[int, int], kernel_size: tuple[int, int]
) -> list[Geometry]:
    """Place the windows on each of the views over which features are averaged."""
    return [
        place_windows(image[:: -1 if view.is_transposed else 1], kernel_size, parameters.windows)
        for view in parameters.views
    ]


def check_sizes(
    parameters: Parameters, maps: tuple[int, int], kernels: tuple[int, ...], n_biases: int
) -> None:
    """Raise ValueError for kernels, maps or features that are too large to be computed.

    ``maps`` are the rows and columns of a map, and ``kernels`` is ``(kh, kw, c, n_kernels)``.
    """
    *window, n_kernels = kernels
    *grid, _, _, _ = shape = feature_shape(parameters, maps, n_biases, n_kernels)
    n_cells, places, remedy = 1, "windows", "n_kernels, or a larger stride"
    if parameters.poolings:
        n_cells, places, remedy = prod(grid), "cells", "n_kernels or pool_grid"
    many_weights = f"n_kernels={n_kernels} kernels of shape {tuple(window)} have {{}} weights"
    padding, size = parameters.windows.padding, kernels[:2]
    many_windows = f"padding={padding} and kernel_size={size} make {{}} windows in each image"
    grids = parameters.pool_grids
    many_cells = f"pool_grid={grids if len(grids) > 1 else grids[0]} has {{}} cells"
    many = f"{n_kernels} kernels and {prod(grid)} {places} make {{}} features of each image"
    for number, limit, problem, smaller in (
        (prod(kernels), LIMIT, many_weights, "n_kernels or kernel_size"),
        (prod(maps), LIMIT, many_windows, "padding, or a larger stride"),
        (n_cells, MAX_CELLS, many_cells, "pool_grid"),
        (prod(shape), LIMIT, many, remedy),
    ):
        if number >= limit:
            raise ValueError(
                f"{problem.format(number)}, but {parameters.owner} allows fewer than {limit}; "
                f"choose a smaller {smaller}."
            )


def check_views(parameters: Parameters, geometries: Sequence[Geometry]) -> None:
    """Raise ValueError if maps that are not pooled differ for turned images."""
    shapes = {geometry.output_shape for geometry in geometries}
    if any(view.is_transposed for view in parameters.views):
        shapes |= {(columns, rows) for rows, columns in shapes}
    if parameters.poolings is None and len(shapes) > 1:
        shown = " and ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes))
        raise ValueError(
            "symmetries='dihedral' turns the images, so with pooling=None "
            f"{parameters.owner} needs square maps of one size, but there are maps of {shown} "
            "windows; use square images and equal strides, a pooling, or symmetries='mirror'."
        )


def require_pooling(parameters: Parameters) -> None:
    """Raise ValueError if images of different sizes would have different numbers of features."""
    if parameters.poolings is None:
        raise ValueError(
            f"With image_shape={ANY!r}, {parameters.owner} needs a pooling, because the number of "
            "windows depends on the size of an image; set pooling, for example to 'mean'."
        )


def place_on_all(
    parameters: Parameters,
    sizes: Mapping[tuple[int, int], int],
    kernels: tuple[int, int, int, int],
    n_biases: int,
) -> list[Geometry]:
    """Check that the windows fit all images, and place them on the views of the first size.

    ``sizes`` maps the rows and columns of images to the number of the first such image, and
    ``kernels`` is ``(kh, kw, c, n_kernels)``.
    """
    first: list[Geometry] = []
    for size, number in sizes.items():
        try:
            geometries = place_views(parameters, size, kernels[:2])
            check_sizes(parameters, geometries[0].output_shape, kernels, n_biases)
            check_views(parameters, geometries)
        except ValueError as error:
            if len(sizes) == 1:
                raise
            raise ValueError(f"X[{number}] of {size[0]} x {size[1]} pixels: {error}") from None
        first = first or geometries
    return first


def measure_output(
    parameters: Parameters, geometries: Sequence[Geometry], kernels: tuple[int, int, int, int]
) -> OutputSize:
    """Measure the output for kernels of shape (kh, kw, c, n_kernels), see `place_views`."""
    geometry = geometries[0]
    n_windows = sum(prod(view.output_shape) for view in geometries)
    shape = feature_shape(parameters, geometry.output_shape, parameters.n_biases, kernels[3])
    n_features, n_maps = prod(shape), shape[3] * shape[4]
    return OutputSize(
        maps=(*geometry.output_shape, n_maps),
        features=n_features,
        multiply_adds=n_windows * prod(kernels),
        bytes=n_features * np.dtype(np.float32).itemsize,
    )
