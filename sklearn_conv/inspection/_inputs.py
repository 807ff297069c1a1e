"""Check the inputs that the displays share: an estimator with a transformer, and one image."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from sklearn_conv._transformer import StridedConv2DTransformer


def find_transformer(owner: str, estimator: Any) -> tuple[int, StridedConv2DTransformer]:
    """Return the position and the `StridedConv2DTransformer` of a pipeline that has one.

    A transformer without a pipeline is at position 0.
    """
    if isinstance(estimator, StridedConv2DTransformer):
        return 0, estimator
    if not isinstance(estimator, Pipeline):
        hint = "; pass its best_estimator_" if hasattr(estimator, "best_estimator_") else ""
        raise TypeError(
            f"{owner} takes a StridedConv2DTransformer or a Pipeline that has one. "
            f"Got {type(estimator).__name__} instead{hint}."
        )
    steps = [step for _, step in estimator.steps]
    positions = [i for i, step in enumerate(steps) if isinstance(step, StridedConv2DTransformer)]
    if not positions:
        raise TypeError(
            f"{owner} takes a Pipeline with a StridedConv2DTransformer among its steps, not inside "
            f"one of them. Got steps {[type(step).__name__ for step in steps]} instead."
        )
    if len(positions) > 1:
        last = positions[-1]
        raise ValueError(
            f"{owner} takes a Pipeline with one StridedConv2DTransformer, but this one has "
            f"{len(positions)}. The last one takes the features of the previous ones as images: "
            f"pass pipeline[{last}:] and pipeline[:{last}].transform(images)."
        )
    return positions[0], steps[positions[0]]


def as_batch(image: Any) -> np.ndarray:
    """Return a batch of one image, ``(h, w)`` or ``(h, w, c) -> (1, h, w, c)``."""
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3):
        raise ValueError(
            f"image must be one image, of shape (h, w) or (h, w, c). Got shape {pixels.shape} "
            "instead; select one image of a batch with images[0]."
        )
    return pixels[np.newaxis] if pixels.ndim == 3 else pixels[np.newaxis, :, :, np.newaxis]
