"""Symmetries: means of features over mirrored and turned images, and powers of these means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._array_api import namespace
from sklearn_conv._engine.geometry import Geometry, Span, cut_span
from sklearn_conv._engine.layer import Advance, Engine, Layer, ignore

BLOCK_BYTES = 2**22
"""Approximate size of the features of a block of images, which are computed once for each view."""


class View(NamedTuple):
    """A mirrored or turned image."""

    is_mirrored: bool = False
    n_turns: int = 0
    """Number of turns by 90 degrees, after mirroring."""

    def apply(self, images: Any) -> Any:
        """Mirror and turn images, or maps, ``(n, h, w, ...)``; arrays of NumPy are not copied."""
        xp = namespace(images)
        if self.is_mirrored:
            images = xp.flip(images, axis=2)
        if self.n_turns == 2:
            return xp.flip(images, axis=(1, 2))
        if self.is_transposed:
            order = (0, 2, 1, *range(3, images.ndim))
            images = xp.flip(xp.permute_dims(images, order), axis=1 if self.n_turns == 1 else 2)
        return images

    def undo(self, images: np.ndarray) -> np.ndarray:
        """Undo `apply`, without a copy."""
        turned_back = np.rot90(images, -self.n_turns, (1, 2))
        return turned_back[:, :, ::-1] if self.is_mirrored else turned_back

    def place(self, place: Sequence[Span], shape: tuple[int, int]) -> tuple[Span, Span]:
        """Return where rows and columns of an image of a shape are after `apply`."""
        (rows, columns), (h, w) = place, shape
        if self.is_mirrored:
            columns = w - columns[1], w - columns[0]
        if self.is_transposed:
            rows, columns, h, w = columns, rows, w, h
        if self.n_turns in (1, 2):
            rows = h - rows[1], h - rows[0]
        if self.n_turns in (2, 3):
            columns = w - columns[1], w - columns[0]
        return rows, columns

    @property
    def is_transposed(self) -> bool:
        """Whether rows become columns."""
        return self.n_turns % 2 == 1


SYMMETRIES: dict[str | None, list[View]] = {
    None: [View()],
    "mirror": [View(), View(is_mirrored=True)],
    "dihedral": [View(is_mirrored, n) for is_mirrored in (False, True) for n in range(4)],
}
"""Map from the value of ``symmetries`` to the views over which features are averaged."""


class SymmetricEngine:
    """Engine that averages the features of views of each image, and raises them to a power.

    ``geometries`` are those of the views. They replace the geometry of the layer. ``make`` makes
    the engine of a view. If it ignores missing pixels, features are averaged over the views in
    which they are not NaN.
    """

    def __init__(
        self,
        layer: Layer,
        views: Sequence[View],
        geometries: Sequence[Geometry],
        power: float,
        make: Callable[[Layer], Engine],
        ignores_missing: bool,
    ) -> None:
        self._ignores_missing = ignores_missing
        engines = {
            geometry: make(replace(layer, geometry=geometry))
            for geometry in dict.fromkeys(geometries)
        }
        self._views = [*zip(views, [engines[geometry] for geometry in geometries], strict=True)]
        self._power = power

    def compute(
        self, images: Any, out: Any, n_jobs: int | None = 1, advance: Advance = ignore
    ) -> None:
        """Write the features of images, as the engines do."""
        n, size = out.shape[0], np.dtype(np.float32).itemsize * prod(out.shape[1:])
        for start, stop in cut_span((0, n), max(1, BLOCK_BYTES // max(1, size))):
            block = slice(start, stop)
            self._compute_block(images[block, ...], out[block, ...], n_jobs, advance)

    def _compute_block(self, images: Any, out: Any, n_jobs: int | None, advance: Advance) -> None:
        xp, n_views = namespace(out), len(self._views)
        n_counted: Any = n_views
        of_view = out if n_views == 1 else xp.empty_like(out)
        for i, (view, engine) in enumerate(self._views):
            features = out if i == 0 else of_view
            engine.compute(
                view.apply(images), features, n_jobs, lambda m: advance(Fraction(m) / n_views)
            )
            if n_views == 1:
                break
            if self._ignores_missing and bool(xp.isnan(xp.sum(features))):
                is_missing = xp.isnan(features)
                n_counted = n_counted - xp.astype(is_missing, out.dtype)
                features[...] = xp.where(is_missing, 0.0, features)
            features /= n_views
            if i > 0:
                out += features
        if n_counted is not n_views:
            out *= n_views / n_counted  # NaN if no view counts, because 0 * inf is NaN.
        if self._power != 1:
            raise_to_power(out, self._power)


def raise_to_power(values: Any, power: float) -> None:
    """Replace values by ``sign(value) * abs(value)**power``."""
    xp = namespace(values)
    magnitudes = xp.abs(values)
    magnitudes = xp.sqrt(magnitudes) if power == 0.5 else magnitudes**power
    values[...] = xp.copysign(magnitudes, values)
