"""Lay the evidence of the features of a transformer back on the pixels of the images.

The part of a position in a feature is its response times the factor of the pooling. With
``symmetries``, a feature is a mean over views of the image, so that the positions of all views have
a part in it. A feature that is not pooled is a sum over a cell with a single position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._computing import make_layer
from sklearn_conv._engine.activation import identity
from sklearn_conv._engine.choice import make_engine
from sklearn_conv._engine.geometry import Windows, pool_cells
from sklearn_conv._engine.pooling import POOLINGS, Pooling
from sklearn_conv._engine.symmetry import raise_to_power
from sklearn_conv._images.kinds import Images
from sklearn_conv._output_size import list_grids, place_views
from sklearn_conv._parameters import check_parameters
from sklearn_conv._transformer import StridedConv2DTransformer

BATCH_BYTES = 2**23
"""Approximate size of the responses in memory at once, in bytes."""


class PixelEvidence:
    """The evidence of the features of a transformer as a sum over the pixels."""

    def __init__(self, owner: str, transformer: StridedConv2DTransformer) -> None:
        check_is_fitted(transformer)
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
        self._transformer, self._parameters = transformer, parameters
        self._poolings = [POOLINGS[name] for name in parameters.poolings or ["sum"]]
        self._is_positive = not callable(transformer.activation) and all(
            side.function is not identity for side in parameters.sides.values()
        )
        pixels = 0 if None in transformer.image_shape_ else prod(transformer.image_shape_)
        self.n_numbers = pixels + prod(transformer._feature_shape(parameters))
        """Number of features of an image, and of its pixels if all images have one size."""

    def check_images(self, X: Any) -> Images:
        """Return the images that the transformer received."""
        return self._transformer._check_fitted_images(X, self._parameters, "transform")

    def compute(
        self, images: Images, features: np.ndarray, weights: np.ndarray
    ) -> Iterator[tuple[Sequence[int], np.ndarray, np.ndarray]]:
        """Yield numbers of images of one size, their evidence, and its amounts.

        ``features`` and ``weights`` have shape (n, d) and (d, outputs). The evidence of each pixel
        has shape (b, h, w, outputs). The amounts, (2, b, outputs), are the absolute evidence that
        rounding causes, and the absolute evidence of all positions.
        """
        for numbers, batch in images.read_groups(slice(0, len(images))):
            rows = slice(len(features)) if len(numbers) == len(features) else numbers
            yield numbers, *self._compute_group(images, batch, features[rows], weights)

    def _compute_group(
        self, images: Images, batch: np.ndarray, features: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return evidence and amounts of images of one size, as `compute` does."""
        transformer, parameters, views = self._transformer, self._parameters, self._parameters.views
        b, n_outputs = len(batch), weights.shape[1]
        geometries = place_views(parameters, batch.shape[1:3], transformer.kernels_.shape[:2])
        spreads = [[*map(_spread, geometry)] for geometry in geometries]
        maps, amounts = np.zeros((*batch.shape[:3], n_outputs)), np.zeros((2, b, n_outputs))

        def finish(rows: slice, evidence: Sequence[np.ndarray]) -> None:
            """Spread the evidence of the positions, each ``(b, oh, ow, outputs)``."""
            for view, (by_row, by_column), each in zip(views, spreads, evidence, strict=True):
                maps[rows] += view.undo(_apply(by_column, _apply(by_row, each, 1), 2))
                amounts[1, rows] += np.abs(each).sum(axis=(1, 2))

        dtype, not_pooled = images.compute_dtype, parameters._replace(poolings=None)
        layers = {
            geometry: make_layer(transformer, not_pooled, geometry, images.cast, dtype)
            for geometry in geometries
        }
        if parameters.poolings is None and len(views) == 1:
            values = features.reshape(b, *geometries[0].output_shape, -1)
            by_position = weights.reshape(*values.shape[1:], -1)
            finish(slice(b), [np.einsum("brqs,rqso->brqo", values, by_position)])
            return maps, amounts
        # The positions of each cell, (rows, columns), in the order of the features, for each view
        cells = [
            [
                (slice(*rows), slice(*columns))
                for grid in list_grids(parameters, geometry.output_shape)
                for rows, columns in product(*map(pool_cells, geometry.output_shape, grid))
            ]
            for geometry in geometries
        ]
        engines = {
            geometry: make_engine(layer, images.may_have_missing)
            for geometry, layer in layers.items()
        }
        shapes = [layers[geometry].out_shape(1)[1:] for geometry in geometries]
        length = max(1, BATCH_BYTES // (sum(map(prod, shapes)) * dtype.itemsize))
        # These are used again and again: new memory takes longer than the convolution.
        buffers = [np.empty((min(b, length), *shape), dtype) for shape in shapes]
        for start in range(0, b, length):
            rows = slice(start, min(start + length, b))
            responses = []
            for view, geometry, buffer in zip(views, geometries, buffers, strict=True):
                out = buffer[: rows.stop - start]
                with np.errstate(all="ignore"):
                    engines[geometry].compute(view.apply(batch[rows]), out, transformer.n_jobs)
                responses.append(out.reshape(*out.shape[:3], -1))
            evidence, amounts[0, rows] = self._weigh(cells, responses, features[rows], weights)
            finish(rows, evidence)
        return maps, amounts

    def _weigh(
        self,
        cells: Sequence[Sequence[tuple[slice, slice]]],
        responses: Sequence[np.ndarray],
        features: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Multiply activated responses by the weights of the features that they are pooled into.

        ``responses`` are those of each view, ``(b, oh, ow, n_maps)``; NaN if pixels are missing.
        The results are the evidence of the positions of each view, ``(b, oh, ow, outputs)``, and
        the sums of the absolute differences that rounding makes in the decisions, ``(b, outputs)``.
        """
        (b, n_outputs), n_cells = (len(features), weights.shape[1]), len(cells[0])
        n_maps, dtype, power = responses[0].shape[-1], responses[0].dtype, self._parameters.power
        is_seen = [~np.isnan(values[..., 0]) for values in responses]
        if all(map(np.all, is_seen)):
            is_seen = [seen[:1] for seen in is_seen]
        else:
            for each in responses:
                np.nan_to_num(each, copy=False)
        epsilon = float(np.finfo(dtype).eps)
        by_cell = weights.reshape(n_cells, -1, n_maps, n_outputs)
        features_by_cell = features.reshape(b, n_cells, -1).swapaxes(0, 1)
        terms = features_by_cell @ weights.reshape(n_cells, -1, n_outputs)  # (cells, b, outputs)
        evidence = [np.zeros((*values.shape[:3], n_outputs)) for values in responses]
        differences = np.zeros((b, n_outputs))
        for cell, factors, weight, difference in zip(
            zip(*cells, strict=True),
            self._find_factors(cells, is_seen),
            by_cell,
            terms,
            strict=True,
        ):
            # weight: (poolings, n_maps, outputs)
            values = [
                each[:, rows, columns]
                for each, (rows, columns) in zip(responses, cell, strict=True)
            ]  # each (b, r, q, n_maps)
            ratios: Any = 1.0  # of the parts of a power and of a sum
            if power != 1:
                sums = _add_up(values, factors)
                absolute = sums if self._is_positive else _add_up(map(np.abs, values), factors)
                is_noise = np.abs(sums) <= 4 * epsilon * absolute  # The sum is only rounding.
                pooled = np.where(is_noise, 0, sums)
                raise_to_power(pooled, power)
                ratios = pooled / np.where(is_noise, 1, sums)
            # of each response in the decision for an image, (b or 1, n_maps, outputs)
            own = [np.einsum("bpm,pmo->bmo", ratios * factor, weight) for factor in factors]
            parts = [
                each @ one[:, np.newaxis].astype(dtype)
                for each, one in zip(values, own, strict=True)
            ]  # each (b, r, q, outputs)
            # Features, responses and products are rounded separately. The weights of a scaler can
            # magnify the difference, so that it must not be neglected.
            for part in parts:
                difference -= part.sum(axis=(1, 2), dtype=np.float64)
            differences += np.abs(difference)
            rest = difference / sum(part.shape[1] * part.shape[2] for part in parts)
            for (rows, columns), part, result in zip(cell, parts, evidence, strict=True):
                # Cells may overlap, so their evidence is added.
                result[:, rows, columns] += part + rest[:, np.newaxis, np.newaxis]
        return evidence, differences

    def _find_factors(
        self, cells: Sequence[Sequence[tuple[slice, slice]]], is_seen: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Return the factors of the sums over cells, ``(cells, views, b or 1, poolings, 1)``.

        ``is_seen`` has the positions of each view without missing pixels, ``(b or 1, oh, ow)``.
        Views in which nothing of a cell is seen do not count.
        """
        n_seen = np.array(
            [
                [np.count_nonzero(seen[:, rows, columns], axis=(1, 2)) for rows, columns in places]
                for seen, places in zip(is_seen, cells, strict=True)
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


def _find_factor(pooling: Pooling, n_positions: int) -> float:
    """Return the factor by which a sum over positions is multiplied; NaN if it is not linear."""
    sums = np.array([-3.0, 0.0, 1.0])
    with np.errstate(all="ignore"):
        results = pooling.finish(sums, n_positions)
    factor = float(results[-1])
    is_linear = pooling.join is np.add and np.allclose(results, factor * sums, rtol=1e-12, atol=0)
    return factor if is_linear else np.nan


def _add_up(values: Iterable[np.ndarray], factors: np.ndarray) -> np.ndarray:
    """Add the parts of all views, each ``(b, r, q, n_maps)``: ``(b, poolings, n_maps)``."""
    parts = [
        factor * each.sum(axis=2).sum(axis=1, dtype=np.float64)[:, np.newaxis]
        for each, factor in zip(values, factors, strict=True)
    ]
    return np.asarray(sum(parts))


def _spread(windows: Windows) -> csr_array:
    """Return the fraction of the evidence of each window that each pixel along an axis receives.

    The result has shape ``(length, n_windows)``. The evidence of a window that covers only padding
    is spread over all pixels.
    """
    under = windows.pixels  # (n_windows, size)
    window = np.nonzero(under >= 0)[0]
    alone = np.flatnonzero((under < 0).all(axis=1))
    window = np.append(window, np.repeat(alone, windows.length))
    pixel = np.append(under[under >= 0], np.tile(np.arange(windows.length), len(alone)))
    values = 1 / np.bincount(window)[window]  # Those of the same pixel are added.
    return csr_array((values, (pixel, window)), shape=(windows.length, len(under)))


def _apply(spread: csr_array, evidence: np.ndarray, axis: int) -> np.ndarray:
    """Multiply evidence by a matrix along an axis."""
    moved = np.moveaxis(evidence, axis, 0)
    product = spread @ moved.reshape(len(moved), -1)
    return np.moveaxis(product.reshape(len(product), *moved.shape[1:]), 0, axis)
