"""Lay the evidence of the features of a transformer back on the pixels of the images.

The part of a position in a feature is its response times the factor of the pooling. With
``symmetries``, a feature is a mean over views of the image, so that the positions of all views have
a part in it. A feature that is not pooled is a sum over a cell with a single position.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from sklearn_conv._engine.geometry import Windows, pool_cells
from sklearn_conv._engine.pooling import POOLINGS, Pooling
from sklearn_conv._engine.symmetry import raise_to_power
from sklearn_conv._output_size import list_grids
from sklearn_conv._parameters import check_parameters
from sklearn_conv._pixels import fill_masked
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv.inspection._model import without_pooling

BATCH_BYTES = 2**24
"""Approximate size of the responses in memory at once, in bytes."""


class PixelEvidence:
    """The evidence of the features of a transformer as a sum over the pixels."""

    def __init__(self, owner: str, transformer: StridedConv2DTransformer) -> None:
        parameters = check_parameters(transformer)
        sums = [
            name for name, pooling in POOLINGS.items() if not np.isnan(_find_factor(pooling, 7))
        ]
        others = [name for name in parameters.poolings or [] if name not in sums]
        if others:
            raise ValueError(
                f"{owner} needs features that are sums over positions, which pooling="
                f"{others[0]!r} does not compute; fit with pooling={' or '.join(map(repr, sums))} "
                f"instead of {transformer.pooling!r}. If a small part of the image determines the "
                "class, try a negative bias, and compare the scores."
            )
        self.image_shape = h, w, c = transformer.image_shape_
        self._power = parameters.power
        self._views = parameters.views
        self._poolings = [POOLINGS[name] for name in parameters.poolings or ["sum"]]
        geometries = transformer._fitted_geometries(parameters)
        shapes = [geometry.output_shape for geometry in geometries]
        # The positions of each cell, (rows, columns), in the order of the features, for each view
        self._cells = [
            [
                (slice(*rows), slice(*columns))
                for grid in list_grids(parameters, shape)
                for rows, columns in product(*map(pool_cells, shape, grid))
            ]
            for shape in shapes
        ]
        self._spreads = [[*map(_spread, geometry)] for geometry in geometries]
        self._n_maps = len(parameters.sides) * transformer.bias_.size
        self._has_single_positions = parameters.poolings is None and len(self._views) == 1
        self._map_shape = (*shapes[0], self._n_maps)
        self._responding = []
        for view in self._views:
            responding = without_pooling(transformer)
            if hasattr(responding, "feature_names_in_"):
                del responding.feature_names_in_  # The views have no columns.
            responding.image_shape_ = (w, h, c) if view.is_transposed else (h, w, c)
            self._responding.append(responding)
        self.n_numbers = h * w * c + sum(map(prod, shapes)) * self._n_maps
        """Number of pixels and responses of an image."""

    def compute(
        self, X: Any, features: np.ndarray, weights: np.ndarray, amounts: np.ndarray
    ) -> np.ndarray:
        """Return the evidence of each pixel, ``(b, h, w, outputs)``.

        ``features`` and ``weights`` have shape (b, d) and (d, outputs). ``amounts``,
        (2, b, outputs), are increased by the absolute evidence that rounding causes, and by the
        absolute evidence of all positions.
        """
        X = fill_masked(X) if np.ma.isMaskedArray(X) else np.asarray(X)
        images = X.reshape(-1, *self.image_shape)
        maps = np.zeros((len(images), *self.image_shape[:2], weights.shape[1]))
        if self._has_single_positions:
            values = features.reshape(-1, *self._map_shape)
            by_position = weights.reshape(*self._map_shape, -1)
            evidence = [np.einsum("brqs,rqso->brqo", values, by_position)]
            self._add(slice(None), evidence, maps, amounts)
            return maps
        length = max(1, BATCH_BYTES // (self.n_numbers * np.dtype(np.float64).itemsize))
        batches = [
            responding.transform_batches(view.apply(images), length)
            for view, responding in zip(self._views, self._responding, strict=True)
        ]
        for of_views in zip(*batches, strict=True):
            rows = of_views[0][0]
            responses = [values for _, values in of_views]  # each (b, oh, ow, n_maps)
            evidence, differences = self._weigh(responses, features[rows], weights)
            amounts[0, rows] += differences
            self._add(rows, evidence, maps, amounts)
        return maps

    def _weigh(
        self, responses: Sequence[np.ndarray], features: np.ndarray, weights: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Multiply activated responses by the weights of the features that they are pooled into.

        ``responses`` are those of each view, ``(b, oh, ow, n_maps)``; NaN if pixels are missing.
        The results are the evidence of the positions of each view, ``(b, oh, ow, outputs)``, and
        the sums of the absolute differences that rounding makes in the decisions, ``(b, outputs)``.
        """
        (b, n_outputs), n_cells = (len(features), weights.shape[1]), len(self._cells[0])
        is_seen = [~np.isnan(values[..., 0]) for values in responses]
        if all(map(np.all, is_seen)):
            is_seen = [seen[:1] for seen in is_seen]
        else:
            responses = [np.nan_to_num(values) for values in responses]
        epsilon = float(np.finfo(responses[0].dtype).eps)
        by_cell = weights.reshape(n_cells, -1, self._n_maps, n_outputs)
        features_by_cell = features.reshape(b, n_cells, -1, self._n_maps).swapaxes(0, 1)
        evidence = [np.zeros((*values.shape[:3], n_outputs)) for values in responses]
        differences = np.zeros((b, n_outputs))
        for cell, factors, weight, feature in zip(
            zip(*self._cells, strict=True),
            self._find_factors(is_seen),
            by_cell,
            features_by_cell,
            strict=True,
        ):
            # weight: (poolings, n_maps, outputs), feature: (b, poolings, n_maps)
            values = [
                each[:, rows, columns].astype(np.float64)
                for each, (rows, columns) in zip(responses, cell, strict=True)
            ]  # each (b, r, q, n_maps)
            pooled = _add_up(values, factors)
            ratios = np.ones((1, *pooled.shape[1:]))  # of the parts of a power and of a sum
            if self._power != 1:
                absolute = _add_up([np.abs(each) for each in values], factors)
                sums = pooled.copy()
                is_noise = np.abs(sums) <= 4 * epsilon * absolute  # The sum is only rounding.
                raise_to_power(pooled, self._power)
                pooled[is_noise] = 0
                ratios = pooled / np.where(is_noise, 1, sums)
            # Features and responses are rounded separately. The weights of a scaler can magnify the
            # difference, so that it must not be neglected.
            difference = np.tensordot(feature - pooled, weight, 2)  # (b, outputs)
            differences += np.abs(difference)
            rest = difference / sum(each.shape[1] * each.shape[2] for each in values)
            for (rows, columns), each, factor, result in zip(
                cell, values, factors, evidence, strict=True
            ):
                # of each response in the decision for an image, (b or 1, n_maps, outputs)
                own = np.einsum("bpm,pmo->bmo", ratios * factor, weight)
                # Cells may overlap, so their evidence is added.
                place = result[:, rows, columns]
                by_position = each.reshape(b, -1, self._n_maps) @ own + rest[:, np.newaxis]
                place += by_position.reshape(place.shape)
        return evidence, differences

    def _find_factors(self, is_seen: Sequence[np.ndarray]) -> np.ndarray:
        """Return the factors of the sums over cells, ``(cells, views, b or 1, poolings, 1)``.

        ``is_seen`` has the positions of each view without missing pixels, ``(b or 1, oh, ow)``.
        Views in which nothing of a cell is seen do not count.
        """
        n_seen = np.array(
            [
                [np.count_nonzero(seen[:, rows, columns], axis=(1, 2)) for rows, columns in cells]
                for seen, cells in zip(is_seen, self._cells, strict=True)
            ]
        ).swapaxes(0, 1)  # (cells, views, b or 1)
        numbers, places = np.unique(n_seen, return_inverse=True)
        table = np.array(
            [
                [n and _find_factor(pooling, n) for pooling in self._poolings]
                for n in numbers.tolist()
            ]
        )
        factors = table[places.reshape(n_seen.shape)]
        n_views = np.maximum(1, np.count_nonzero(n_seen, axis=1))[:, np.newaxis, :, np.newaxis]
        return (factors / n_views)[..., np.newaxis]

    def _add(
        self, rows: slice, evidence: Sequence[np.ndarray], maps: np.ndarray, amounts: np.ndarray
    ) -> None:
        """Spread the evidence of the positions, each ``(b, oh, ow, outputs)``, over the pixels."""
        for view, (by_row, by_column), each in zip(
            self._views, self._spreads, evidence, strict=True
        ):
            pixels = np.einsum("yr,brqo,xq->byxo", by_row, each, by_column, optimize=True)
            maps[rows] += view.undo(pixels)
            amounts[1, rows] += np.abs(each).sum(axis=(1, 2))


def _find_factor(pooling: Pooling, n_positions: int) -> float:
    """Return the factor by which a sum over positions is multiplied; NaN if it is not linear."""
    sums = np.array([-3.0, 0.0, 1.0])
    with np.errstate(all="ignore"):
        results = pooling.finish(sums, n_positions)
    factor = float(results[-1])
    is_linear = pooling.join is np.add and np.allclose(results, factor * sums, rtol=1e-12, atol=0)
    return factor if is_linear else np.nan


def _add_up(values: Sequence[np.ndarray], factors: np.ndarray) -> np.ndarray:
    """Add the parts of all views, each ``(b, r, q, n_maps)``: ``(b, poolings, n_maps)``."""
    parts = [
        factor * each.sum(axis=(1, 2))[:, np.newaxis]
        for each, factor in zip(values, factors, strict=True)
    ]
    return np.asarray(sum(parts))


def _spread(windows: Windows) -> np.ndarray:
    """Return the fraction of the evidence of each window that each pixel along an axis receives.

    The result has shape ``(length, n_windows)``. The evidence of a window that covers only padding
    is spread over all pixels.
    """
    is_seen = windows.pixels[:, :, np.newaxis] == np.arange(windows.length)
    counts = is_seen.sum(axis=1, dtype=np.float64)  # (n_windows, length)
    counts[~counts.any(axis=1)] = 1
    return (counts / counts.sum(axis=1, keepdims=True)).T
