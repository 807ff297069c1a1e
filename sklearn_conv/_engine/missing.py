"""Images with missing pixels, which are NaN: windows that contain one do not count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np

from sklearn_conv._array_api import kind_of, namespace, to_numpy
from sklearn_conv._engine.choice import make_engine
from sklearn_conv._engine.geometry import OUTSIDE, Geometry, Reach, Span, pool_cells
from sklearn_conv._engine.layer import Layer
from sklearn_conv._engine.numpy_engine import MIN_POSITIONS, Advance, NumpyEngine
from sklearn_conv._engine.pooling import join_parts
from sklearn_conv._engine.threads import one_blas_thread, run_tasks

CHECK_BYTES = 4 * 2**20
"""Size of the blocks that are searched for NaN, whose mask is a copy."""


class MissingEngine:
    """Engine for images that may have missing pixels.

    Images without missing pixels are left to the usual engine. The others are computed one by one:
    a cell is pooled over the windows without missing pixels, and is NaN if there are none. If maps
    are not pooled, windows with missing pixels are NaN.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._engine = make_engine(layer)
        self._counting = _CountingEngine(layer)

    def compute(
        self,
        images: np.ndarray,
        out: np.ndarray,
        n_jobs: int | None = 1,
        advance: Advance = lambda n_images: None,
    ) -> None:
        """Write the features of images, as the engines do."""
        has_missing = find_missing(images)
        if self._layer.poolings is None:
            self._engine.compute(images, out, n_jobs, advance)
            for i in np.flatnonzero(has_missing):
                out[i, ~count_windows(self._layer.geometry, images[i])] = np.nan
            return
        changes = np.flatnonzero(np.diff(has_missing)) + 1
        for start, stop in pairwise([0, *changes.tolist(), len(images)]):
            run = slice(start, stop)
            if has_missing[start]:
                self._counting.compute(images[run], out[run], n_jobs, advance)
            else:
                self._engine.compute(images[run], out[run], n_jobs, advance)


class _CountingEngine(NumpyEngine):
    """Engine that pools the windows without missing pixels."""

    def compute(
        self,
        images: np.ndarray,
        out: np.ndarray,
        n_jobs: int | None = 1,
        advance: Advance = lambda n_images: None,
    ) -> None:
        """Write the features of images, as the engines do."""

        def compute_image(i: int) -> None:
            self._compute_image(images[i : i + 1], out[i])
            advance(1)

        with one_blas_thread:
            workers = self._count_workers(n_jobs, len(images))
            run_tasks(compute_image, [(i,) for i in range(len(images))], workers)

    def _compute_image(self, image: np.ndarray, out: np.ndarray) -> None:
        """Write the features of an image.

        ``(1, h, w, c) -> (rows, columns, poolings, outputs, k)``. Only the mask of its pixels takes
        memory that grows with the image.
        """
        geometry = self._layer.geometry
        is_missing = np.isnan(image[0]).any(axis=-1)
        cell_rows, cell_columns = map(pool_cells, geometry.output_shape, self._layer.pool_grid)
        rows, columns = (max(b - a for a, b in spans) for spans in (cell_rows, cell_columns))
        shape = self._block_shape(1, rows, columns, MIN_POSITIONS)
        for (i, rows_of_cell), (j, columns_of_cell) in product(
            enumerate(cell_rows), enumerate(cell_columns)
        ):
            rectangles = shape.rectangles(rows_of_cell, columns_of_cell)
            n_counted, joined = self._pool_counted(image, is_missing, rectangles)
            if joined is None:
                out[i, j] = np.nan
                continue
            for p, pooling in enumerate(self._poolings):
                out[i, j, p] = pooling.finish(joined[p, :, 0], n_counted)

    def _pool_counted(
        self, image: np.ndarray, is_missing: np.ndarray, rectangles: Sequence[tuple[Span, Span]]
    ) -> tuple[int, np.ndarray | None]:
        """Return the number of windows that count, and their joined responses if there are any."""
        parts: list[np.ndarray] = []
        n_counted = 0
        for rectangle in rectangles:
            reaches = [self._find_reach(axis, span) for axis, span in enumerate(rectangle)]
            counts = _count(is_missing, *reaches).ravel()
            n = int(counts.sum())
            if not n:
                continue
            responses = self._workspace.empty(
                "responses",
                (len(counts), 1, self._layer.kernels.shape[-1]),
                self._layer.kernels.dtype,
            )
            self._respond(image, rectangle, responses, by_image=False)
            parts.append(self._join_responses(responses if n == len(counts) else responses[counts]))
            if len(parts) > 1:
                parts = [join_parts(self._joins, parts)]
            n_counted += n
        return n_counted, parts[0] if parts else None


def find_missing(images: Any) -> np.ndarray:
    """Return whether each image has missing pixels, ``(n, h, w, c) -> (n,)``."""
    n, xp = images.shape[0], namespace(images)
    has_missing = np.zeros(n, bool)
    if kind_of(images) != "f":
        return has_missing
    step = max(1, CHECK_BYTES // max(1, prod(images.shape[1:])))
    for start in range(0, n, step):
        stop = min(start + step, n)
        block = images[start:stop, ...]
        has_missing[start:stop] = to_numpy(xp.any(xp.isnan(block), axis=(1, 2, 3)))
    return has_missing


def count_windows(geometry: Geometry, image: np.ndarray) -> np.ndarray:
    """Return which windows have no missing pixel, ``(h, w, c) -> (rows, columns)``."""
    reaches = [axis.reach((0, axis.n_windows)) for axis in geometry]
    return _count(np.isnan(image).any(axis=-1), *reaches)


def _count(is_missing: np.ndarray, rows: Reach, columns: Reach) -> np.ndarray:
    """Return which windows have no missing pixel, ``(h, w) -> (rows, columns)``."""
    pixels = is_missing[rows.pixels][:, columns.pixels]
    pixels[rows.pixels == OUTSIDE] = False  # Added zeros are not missing.
    pixels[:, columns.pixels == OUTSIDE] = False
    for axis, reach in enumerate((rows, columns)):
        starts = np.arange(reach.n_windows) * reach.stride
        pixels = np.logical_or.reduce(
            [np.take(pixels, starts + i * reach.dilation, axis) for i in range(reach.size)]
        )
    return ~pixels
