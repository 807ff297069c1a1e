"""Compute the features of a call of ``transform``, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from sklearn_conv._array_api import namespace
from sklearn_conv._engine.choice import make_engine
from sklearn_conv._engine.geometry import Geometry
from sklearn_conv._engine.layer import Engine, Layer
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv._engine.symmetry import SymmetricEngine
from sklearn_conv._images.kinds import Images
from sklearn_conv._images.mistakes import TransformWatch, find_overflow, warn_of_overflow
from sklearn_conv._output_size import place_views
from sklearn_conv._parameters import Parameters
from sklearn_conv._pixels import find_not_finite
from sklearn_conv._progress import Progress

N_ENGINES = 4
"""Number of sizes of images whose engines are kept; each engine has buffers."""


def make_layer(
    transformer: Any,
    parameters: Parameters,
    geometry: Geometry,
    cast: Callable[[str, Any, np.dtype], Any],
    dtype: np.dtype,
) -> Layer:
    """Return the layer of a fitted transformer; ``cast`` casts its arrays, see `Images.cast`."""
    bias = transformer.bias_
    arrays = {
        "kernels": transformer.kernels_,
        "offset": transformer.offset_,
        "bias": namespace(bias).reshape(bias, (-1, bias.shape[-1])),
    }
    names = parameters.poolings
    return Layer(
        **{name: cast(f"{name}_", arrays[name], dtype) for name in arrays},
        geometry=geometry,
        sides=parameters.sides,
        eps=transformer.eps_,
        poolings=None if names is None else [POOLINGS[name] for name in names],
        pool_grids=parameters.pool_grids,
    )


class BatchComputer:
    """The engines of a fitted transformer for some images, with progress and warnings."""

    def __init__(
        self, transformer: Any, parameters: Parameters, images: Images, dtype: np.dtype
    ) -> None:
        self._images = images
        self._n_jobs = transformer.n_jobs
        self._watch = TransformWatch(getattr(transformer, "_values_seen", None))
        make = partial(make_engine, ignores_missing=images.may_have_missing)

        @lru_cache(N_ENGINES)
        def find_engine(image: tuple[int, int], dtype: np.dtype = dtype) -> Engine:
            """Return the engine for images with these numbers of rows and columns."""
            geometries = place_views(parameters, image, transformer.kernels_.shape[:2])
            layer = make_layer(transformer, parameters, geometries[0], images.cast, dtype)
            if len(geometries) == 1 and parameters.power == 1:
                return make(layer)
            return SymmetricEngine(
                layer,
                parameters.views,
                geometries,
                parameters.power,
                make,
                images.may_have_missing,
            )

        self._find_engine = find_engine
        self._progress = Progress(transformer, len(images))

    def compute(self, rows: slice, out: Any) -> None:
        """Read a batch of images, and write their features to ``out``."""
        ignores_missing = self._images.ignores_missing
        for numbers, batch in self._images.read_groups(rows):  # X[numbers], of one size
            is_whole = batch.shape[0] == out.shape[0]
            part = out if is_whole else np.empty((len(batch), *out.shape[1:]), out.dtype)
            engine = self._find_engine(batch.shape[1:3])
            self._watch.look(batch, numbers)
            with np.errstate(all="ignore"):  # The settings of NumPy do not change the result.
                try:
                    engine.compute(batch, part, self._n_jobs, self._progress.advance)
                except ValueError as error:
                    # With `assume_finite`, X was not checked.
                    cause = find_not_finite("X contains {}", batch, numbers, ignores_missing)
                    if cause is None:
                        raise
                    raise cause from error
                self._mend_overflow(part, batch, numbers)
            if not is_whole:
                out[np.asarray(numbers) - rows.start] = part

    def _mend_overflow(self, features: Any, images: Any, numbers: Sequence[int]) -> None:
        """Compute features that are not finite again, in float64; warn if that does not help.

        Sums of a few responses are in float32, and overflow before a mean does.
        """
        ignores_missing = self._images.ignores_missing
        found = find_overflow(features, images, ignores_missing)
        if len(found) and isinstance(features, np.ndarray) and features.dtype != np.float64:
            wide = np.empty((len(found), *features.shape[1:]))
            engine = self._find_engine(images.shape[1:3], wide.dtype)
            engine.compute(images[found], wide, self._n_jobs)
            features[found] = wide
            found = found[find_overflow(features[found], images[found], ignores_missing)]
        if len(found):
            warn_of_overflow(features.dtype, images, numbers, ignores_missing)
