"""Check inputs that the displays share: an estimator with a transformer, and a single image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

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


class SingleImage(NamedTuple):
    """An image for a display."""

    pixels: np.ndarray
    """The image as it was passed, (h, w, c)."""
    batch: Any
    """A batch of this image, to which the steps before the transformer were applied."""
    seen: np.ndarray
    """The image of this batch, (h, w, c), of the shape that the transformer has seen in fit."""


def check_single_image(owner: str, estimator: Any, image: Any) -> SingleImage:
    """Check an image of shape ``(h, w)`` or ``(h, w, c)``, and apply the first steps to it."""
    position, transformer = find_transformer(owner, estimator)
    check_is_fitted(transformer)
    h, w, c = expected = transformer.image_shape_
    pixels = np.asarray(image)
    shape = pixels.shape
    problem = f"image must be a single image of shape (h, w) or (h, w, c). Got shape {shape}"
    is_row = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1 and shape != (h, w))
    if is_row and pixels.size == h * w * c and position == 0:
        raise ValueError(
            f"{problem} instead, which is a row of pixels; pass image.reshape{expected}."
        )
    if len(shape) not in (2, 3):
        raise ValueError(f"{problem} instead; select an image of a batch with images[0].")
    if len(shape) == 2:
        pixels = pixels[:, :, np.newaxis]
    batch = pixels[np.newaxis]
    if position:
        batch = estimator[:position].transform(batch)
    arrived = np.shape(batch)[1:]
    if len(shape) == 3 and arrived != expected:
        # The last axis of a batch of gray images would be mistaken for the channels.
        if c == 1 and arrived[1:] == (h, w):
            raise ValueError(
                f"{problem} instead, which is a batch of {arrived[0]} gray images; select one "
                "with images[0]."
            )
        if arrived == (c, h, w):
            raise ValueError(
                f"{problem} instead, whose channels come first; pass image.transpose(1, 2, 0)."
            )
    transformer.transform_batches(batch)  # This call raises an error for any other shape.
    return SingleImage(pixels, batch, np.asarray(batch).reshape(expected))
