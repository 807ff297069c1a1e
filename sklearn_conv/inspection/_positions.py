"""Lay the evidence of pooled features back on the pixels of the images.

The part of a position in a feature is its response times the factor of the pooling. With
``symmetries``, a feature is a mean over views of the image, so that the positions of all views have
a part in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._engine.geometry import Geometry, Windows, pool_cells
from sklearn_conv._engine.pooling import POOLINGS, Pooling
from sklearn_conv._engine.symmetry import raise_to_power
from sklearn_conv._output_size import place_views
from sklearn_conv._parameters import Parameters, check_parameters
from sklearn_conv._pixels import fill_masked
from sklearn_conv._transformer import StridedConv2DTransformer

BATCH_BYTES = 2**24
"""Approximate size of the responses in memory at once, in bytes."""

NOISE = 4
"""A sum is rounding if it is below this number times the machine epsilon of the responses times the
sum of their absolute values."""


class PixelEvidence:
    """The evidence of the features of a transformer as a sum over the pixels."""

    def __init__(self, owner: str, transformer: StridedConv2DTransformer) -> None:
        parameters = check_parameters(transformer)
        _require_sums(owner, transformer, parameters)
        self.image_shape = transformer.image_shape_
        self._power = parameters.power
        self._is_pooled = parameters.poolings is not None
        self._poolings = [POOLINGS[name] for name in parameters.poolings or []]
        self._views = parameters.views
        self._geometries = place_views(
            parameters, self.image_shape[:2], transformer.kernels_.shape[:2]
        )
        self._cells = [_list_cells(parameters, geometry) for geometry in self._geometries]
        self._spreads = [[*map(_spread, geometry)] for geometry in self._geometries]
        # The same transformer without pooling returns the responses at all positions of a view.
        unpooled = copy(transformer).set_params(
            pooling=None, flatten=False, symmetries=None, power=1, verbose=0
        )
        if hasattr(unpooled, "feature_names_in_"):
            del unpooled.feature_names_in_  # The views have no columns.
        self._unpooled = []
        h, w, c = self.image_shape
        for view in self._views:
            responding = copy(unpooled)
            responding.image_shape_ = (w, h, c) if view.is_transposed else (h, w, c)
            self._unpooled.append(responding)
        self._n_maps = len(parameters.sides) * transformer.bias_.size
        n_in_maps = sum(prod(geometry.output_shape) for geometry in self._geometries)
        self.n_numbers = prod(self.image_shape) + n_in_maps * self._n_maps
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
        n_outputs = weights.shape[1]
        maps = np.zeros((len(images), *self.image_shape[:2], n_outputs))
        if not self._is_pooled and len(self._views) == 1:
            # Each feature has a single position.
            shape = (*self._geometries[0].output_shape, self._n_maps)
            by_position = weights.reshape(*shape, n_outputs)
            values = features.reshape(-1, *shape)
            evidence = [np.einsum("brqs,rqso->brqo", values, by_position)]
            self._add(slice(None), evidence, maps, amounts)
            return maps
        length = max(1, BATCH_BYTES // (self.n_numbers * np.dtype(np.float64).itemsize))
        batches = [
            responding.transform_batches(view.apply(images), length)
            for view, responding in zip(self._views, self._unpooled, strict=True)
        ]
        weigh = _weigh if self._is_pooled else _weigh_maps
        for of_views in zip(*batches, strict=True):
            rows = of_views[0][0]
            responses = [values for _, values in of_views]  # each (b, oh, ow, n_maps)
            has_missing = np.any([np.isnan(values).any(axis=(1, 2, 3)) for values in responses], 0)
            if not has_missing.any():
                evidence, differences = weigh(
                    responses, features[rows], weights, self._cells, self._power
                )
                amounts[0, rows] += differences
                self._add(rows, evidence, maps, amounts)
                continue
            for i in range(rows.start, rows.stop):  # The factors of the poolings differ.
                image, at = slice(i, i + 1), slice(i - rows.start, i - rows.start + 1)
                own = [values[at] for values in responses]
                evidence, differences = weigh(
                    [np.nan_to_num(values) for values in own],
                    features[image],
                    weights,
                    self._count_cells(own),
                    self._power,
                )
                amounts[0, image] += differences
                self._add(image, evidence, maps, amounts)
        return maps

    def _count_cells(self, responses: Sequence[np.ndarray]) -> list[list[Cell]]:
        """Return the cells of each view for an image whose missing windows are NaN."""
        numbers = np.array(
            [
                [(~np.isnan(values[0, cell.rows, cell.columns, 0])).sum() for cell in cells]
                for values, cells in zip(responses, self._cells, strict=True)
            ]
        )  # (views, cells)
        n_present = np.count_nonzero(numbers, axis=0)
        return [
            [
                cell._replace(
                    factors=np.array([_find_factor(pooling, n) for pooling in self._poolings])
                    * (len(numbers) / present if n else 0.0)
                )
                for cell, n, present in zip(cells, of_view.tolist(), n_present, strict=True)
            ]
            for cells, of_view in zip(self._cells, numbers, strict=True)
        ]

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


class Cell(NamedTuple):
    """A cell of the pooling grid."""

    rows: slice
    columns: slice
    """Positions of the map."""
    factors: np.ndarray
    """Factor of each pooling: the feature is this factor times the sum over the positions."""


def _list_cells(parameters: Parameters, geometry: Geometry) -> list[Cell]:
    """List the cells in the order of the features."""
    cells = []
    spans = map(pool_cells, geometry.output_shape, parameters.pool_grid)
    for (top, bottom), (left, right) in product(*spans):
        n_positions = (bottom - top) * (right - left)
        factors = [_find_factor(POOLINGS[name], n_positions) for name in parameters.poolings or []]
        cells.append(Cell(slice(top, bottom), slice(left, right), np.array(factors)))
    return cells


def _find_factor(pooling: Pooling, n_positions: int) -> float:
    """Return the factor by which a sum over positions is multiplied; NaN if it is not linear."""
    sums = np.array([-3.0, 0.0, 1.0])
    with np.errstate(all="ignore"):
        results = pooling.finish(sums, n_positions)
    factor = float(results[-1])
    is_linear = pooling.join is np.add and np.allclose(results, factor * sums, rtol=1e-12, atol=0)
    return factor if is_linear else np.nan


def _require_sums(
    owner: str, transformer: StridedConv2DTransformer, parameters: Parameters
) -> None:
    """Raise an error for poolings whose features are not sums over positions."""
    sums = [name for name, pooling in POOLINGS.items() if not np.isnan(_find_factor(pooling, 7))]
    others = [name for name in parameters.poolings or [] if name not in sums]
    if others:
        raise ValueError(
            f"{owner} needs features that are sums over positions, which pooling="
            f"{others[0]!r} does not compute; fit with pooling={' or '.join(map(repr, sums))} "
            f"instead of {transformer.pooling!r}. If a small part of the image determines the "
            "class, try a negative bias, and compare the scores."
        )


def _raise_sums(
    sums: np.ndarray, absolute: np.ndarray, power: float, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of sums, and the factors by which their parts become parts of the powers.

    ``absolute`` are the sums of the absolute values of the parts.
    """
    powers = sums.copy()
    raise_to_power(powers, power)
    is_noise = np.abs(sums) <= NOISE * epsilon * absolute
    powers[is_noise] = 0
    return powers, powers / np.where(is_noise, 1, sums)


def _weigh(
    responses: Sequence[np.ndarray],
    features: np.ndarray,
    weights: np.ndarray,
    cells: Sequence[Sequence[Cell]],
    power: float,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Multiply activated responses by the weights of the features that they are pooled into.

    ``responses`` and ``cells`` are those of each view, ``(b, oh, ow, n_maps)``. ``features`` and
    ``weights`` are ``(b, d)`` and ``(d, outputs)``. The results are the evidence of the positions
    of each view, ``(b, oh, ow, outputs)``, and the sums of the absolute differences that rounding
    makes in the decisions, ``(b, outputs)``.
    """
    n_views, n_cells = len(responses), len(cells[0])
    b, n_maps = len(features), responses[0].shape[3]
    epsilon = float(np.finfo(responses[0].dtype).eps)
    by_cell = weights.reshape(n_cells, -1, n_maps, weights.shape[1])
    features_by_cell = features.reshape(b, n_cells, -1, n_maps).swapaxes(0, 1)
    evidence = [np.zeros((*values.shape[:3], weights.shape[1])) for values in responses]
    differences = np.zeros((b, weights.shape[1]))
    for cell, weight, feature in zip(
        zip(*cells, strict=True), by_cell, features_by_cell, strict=True
    ):
        # weight: (poolings, n_maps, outputs), feature: (b, poolings, n_maps)
        values = [
            each[:, of_view.rows, of_view.columns].astype(np.float64)
            for each, of_view in zip(responses, cell, strict=True)
        ]  # each (b, r, q, n_maps)
        factors = [of_view.factors[:, np.newaxis] / n_views for of_view in cell]
        pooled = _add_up(values, factors)
        ratios = np.ones((1, *pooled.shape[1:]))
        if power != 1:
            absolute = _add_up([np.abs(each) for each in values], factors)
            pooled, ratios = _raise_sums(pooled, absolute, power, epsilon)
        # Features and responses are rounded separately. The weights of a scaler can magnify the
        # difference, so that it must not be neglected.
        difference = np.tensordot(feature - pooled, weight, 2)  # (b, outputs)
        differences += np.abs(difference)
        rest = difference / sum(each.shape[1] * each.shape[2] for each in values)
        for of_view, each, factor, result in zip(cell, values, factors, evidence, strict=True):
            # of each response in the decision for an image, (b or 1, n_maps, outputs)
            own = np.einsum("bpm,pmo->bmo", ratios * factor, weight)
            # Cells may overlap, so their evidence is added.
            place = result[:, of_view.rows, of_view.columns]
            by_position = each.reshape(b, -1, n_maps) @ own + rest[:, np.newaxis]
            place += by_position.reshape(place.shape)
    return evidence, differences


def _add_up(values: Sequence[np.ndarray], factors: Sequence[np.ndarray]) -> np.ndarray:
    """Add the parts of all views, each ``(b, r, q, n_maps)``: ``(b, poolings, n_maps)``."""
    return np.asarray(
        sum(
            factor * each.sum(axis=(1, 2))[:, np.newaxis]
            for each, factor in zip(values, factors, strict=True)
        )
    )


def _weigh_maps(
    responses: Sequence[np.ndarray],
    features: np.ndarray,
    weights: np.ndarray,
    cells: Sequence[Sequence[Cell]],
    power: float,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Do the same as `_weigh` for features that are not pooled, but averaged over views."""
    parts = [values.astype(np.float64) / len(responses) for values in responses]
    pooled = np.asarray(sum(parts))  # (b, oh, ow, n_maps)
    ratios = np.ones_like(pooled)
    if power != 1:
        absolute = np.asarray(sum(map(np.abs, parts)))
        epsilon = float(np.finfo(responses[0].dtype).eps)
        pooled, ratios = _raise_sums(pooled, absolute, power, epsilon)
    by_position = weights.reshape(*pooled.shape[1:], -1)
    difference = np.einsum("brqs,rqso->brqo", features.reshape(pooled.shape) - pooled, by_position)
    evidence = [
        np.einsum("brqs,rqso->brqo", part * ratios, by_position) + difference / len(parts)
        for part in parts
    ]
    return evidence, np.abs(difference).sum(axis=(1, 2))


def _spread(windows: Windows) -> np.ndarray:
    """Return the fraction of the evidence of each window that each pixel along an axis receives.

    The result has shape ``(length, n_windows)``. The evidence of a window that covers only padding
    is spread over all pixels.
    """
    is_seen = windows.pixels[:, :, np.newaxis] == np.arange(windows.length)
    counts = is_seen.sum(axis=1, dtype=np.float64)  # (n_windows, length)
    counts[~counts.any(axis=1)] = 1
    return (counts / counts.sum(axis=1, keepdims=True)).T
