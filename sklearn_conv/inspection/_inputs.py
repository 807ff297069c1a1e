"""Check inputs that the displays share: an estimator with a transformer, and a single image."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from sklearn_conv._transformer import StridedConv2DTransformer


def find_transformer(owner: str, estimator: Any) -> tuple[int, StridedConv2DTransformer]:
    """Return the `StridedConv2DTransformer` of a pipeline, and its position in the pipeline.

    If the estimator itself is the transformer, the position is 0.
    """
    if isinstance(estimator, StridedConv2DTransformer):
        return 0, estimator
    if not isinstance(estimator, Pipeline):
        hint = "; pass its best_estimator_" if hasattr(estimator, "best_estimator_") else ""
        raise TypeError(
            f"{owner} requires a StridedConv2DTransformer or a Pipeline that contains one. "
            f"Got {type(estimator).__name__} instead{hint}."
        )
    steps = [step for _, step in estimator.steps]
    positions = [i for i, step in enumerate(steps) if isinstance(step, StridedConv2DTransformer)]
    if not positions:
        raise TypeError(
            f"{owner} requires a Pipeline in which a step is a StridedConv2DTransformer; it must "
            f"not be nested inside a step. Got steps {[type(step).__name__ for step in steps]} "
            "instead."
        )
    if len(positions) > 1:
        last = positions[-1]
        raise ValueError(
            f"{owner} requires a Pipeline with one StridedConv2DTransformer, but this Pipeline has "
            f"{len(positions)}. For the last one, whose images are the features of the previous "
            f"steps, pass pipeline[{last}:] and pipeline[:{last}].transform(images)."
        )
    return positions[0], steps[positions[0]]


def as_batch(image: Any) -> np.ndarray:
    """Return a batch of one image, ``(h, w)`` or ``(h, w, c) -> (1, h, w, c)``."""
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3):
        raise ValueError(
            f"image must be a single image of shape (h, w) or (h, w, c). Got shape {pixels.shape} "
            "instead; select an image of a batch with images[0]."
        )
    return pixels[np.newaxis] if pixels.ndim == 3 else pixels[np.newaxis, :, :, np.newaxis]
