"""Compute the features of a call of ``transform``, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from sklearn_conv._array_api import namespace
from sklearn_conv._engine.choice import make_engine
from sklearn_conv._engine.layer import Engine, Layer
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv._engine.symmetry import SymmetricEngine
from sklearn_conv._images.kinds import Images
from sklearn_conv._images.mistakes import TransformWatch, warn_of_overflow
from sklearn_conv._output_size import place_views
from sklearn_conv._parameters import Parameters
from sklearn_conv._pixels import find_not_finite
from sklearn_conv._progress import Progress


class BatchComputer:
    """The engines of a fitted transformer for some images, with progress and warnings."""

    def __init__(
        self, transformer: Any, parameters: Parameters, images: Images, dtype: np.dtype
    ) -> None:
        self._images = images
        self._n_jobs = transformer.n_jobs
        self._watch = TransformWatch(getattr(transformer, "_values_seen", None))
        make = partial(make_engine, ignores_missing=images.may_have_missing)
        bias, n_kernels = transformer.bias_, transformer.bias_.shape[-1]
        arrays = {
            name: images.cast(f"{name}_", value, dtype)
            for name, value in (
                ("kernels", transformer.kernels_),
                ("offset", transformer.offset_),
                ("bias", namespace(bias).reshape(bias, (-1, n_kernels))),
            )
        }

        @cache
        def find_engine(image: tuple[int, int]) -> Engine:
            """Return the engine for images with these numbers of rows and columns."""
            geometries = place_views(parameters, image, transformer.kernels_.shape[:2])
            layer = Layer(
                **arrays,
                geometry=geometries[0],
                sides=parameters.sides,
                eps=transformer.eps_,
                poolings=None
                if parameters.poolings is None
                else [POOLINGS[name] for name in parameters.poolings],
                pool_grid=parameters.pool_grid,
            )
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
        for numbers, batch in self._images.read_groups(rows):
            is_whole = batch.shape[0] == out.shape[0]
            part = out if is_whole else np.empty((len(batch), *out.shape[1:]), out.dtype)
            self._compute_group(numbers, batch, part)
            if not is_whole:
                out[np.asarray(numbers) - rows.start] = part

    def _compute_group(self, numbers: Sequence[int], batch: Any, out: Any) -> None:
        """Write the features of images of one size, which are X[numbers]."""
        images = self._images
        engine = self._find_engine(batch.shape[1:3])
        self._watch.look(batch)
        with np.errstate(all="ignore"):  # The settings of NumPy do not change the result.
            try:
                engine.compute(batch, out, self._n_jobs, self._progress.advance)
            except ValueError as error:
                # With `assume_finite`, X was not checked.
                cause = find_not_finite("X contains {}", batch, numbers, images.ignores_missing)
                if cause is None:
                    raise
                raise cause from error
            warn_of_overflow(out, batch, numbers, images.ignores_missing)
