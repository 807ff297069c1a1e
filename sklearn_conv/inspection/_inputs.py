"""Check inputs that the displays share: an estimator with a transformer, and a single image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import require_numpy_model
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv.inspection._branches import Part, Source, find_part, find_position


def find_features(owner: str, estimator: Any) -> tuple[int, Part]:
    """Return the part of a model that contains its transformers, and its position in a pipeline.

    If the estimator is not a pipeline, the position is 0.
    """
    found = _find_features(owner, estimator)
    for source in find_image_sources(found[1]):
        require_numpy_model(owner, getattr(source.step, "kernels_", None))
    return found


def _find_features(owner: str, estimator: Any) -> tuple[int, Part]:
    if isinstance(estimator, Pipeline):
        found = find_position(owner, estimator, "pipeline")
        if found is None:
            steps = [type(step).__name__ for _, step in estimator.steps]
            raise TypeError(
                f"{owner} requires a Pipeline in which a step is a StridedConv2DTransformer; it "
                "must not be nested inside a step other than a Pipeline, a FeatureUnion or a "
                f"ColumnTransformer. Got steps {steps} instead."
            )
        return found
    part = find_part(owner, estimator, "estimator")
    if part is None:
        hint = "; pass its best_estimator_" if hasattr(estimator, "best_estimator_") else ""
        raise TypeError(
            f"{owner} requires a StridedConv2DTransformer or a Pipeline that contains one. "
            f"Got {type(estimator).__name__} instead{hint}."
        )
    return 0, part


def find_image_sources(part: Part) -> list[Source]:
    """Return the transformers of a part, without branches that have other features."""
    return [source for source in part.sources if source.has_images]


def require_one_size(owner: str, transformer: StridedConv2DTransformer) -> None:
    """Raise ValueError if the transformer was fitted on images of any size."""
    if None in transformer.image_shape_:
        raise ValueError(
            f"{owner} requires a transformer that was fitted on images of one size, but "
            "image_shape is 'any'; fit on images of one size to explain it."
        )


def find_transformer(owner: str, estimator: Any) -> StridedConv2DTransformer:
    """Return the only `StridedConv2DTransformer` of an estimator."""
    sources = find_image_sources(find_features(owner, estimator)[1])
    if len(sources) > 1:
        raise ValueError(
            f"{owner} requires one StridedConv2DTransformer, but there are {len(sources)} of them "
            f"side by side: {', '.join(source.path for source in sources)}; pass one of these, and "
            "the images that it receives."
        )
    transformer: StridedConv2DTransformer = sources[0].step
    return transformer


class SingleImage(NamedTuple):
    """An image for a display."""

    pixels: np.ndarray
    """The image as it was passed, (h, w, c)."""
    X: Any
    """A batch of this image in the form that the estimator accepts."""
    batch: Any
    """This batch as the first transformer receives it."""
    seen: np.ndarray
    """The image of ``batch``, (h, w, c), of the shape that the transformer has seen in fit."""


def check_single_image(owner: str, estimator: Any, image: Any) -> SingleImage:
    """Check an image of shape ``(h, w)`` or ``(h, w, c)``, and apply the first steps to it.

    If a column transformer selects the images from a table, ``image`` is a table with one row.
    """
    position, part = find_features(owner, estimator)
    source = find_image_sources(part)[0]
    transformer = source.step
    check_is_fitted(transformer)
    require_one_size(owner, transformer)
    expected = transformer.image_shape_
    if source.from_table:
        X = _check_single_row(image)
        part.replica.transform(estimator[:position].transform(X) if position else X)
        seen = np.asarray(source.inputs).reshape(expected)
        return SingleImage(seen, X, source.inputs, seen)
    h, w, c = expected
    pixels = np.asarray(image)
    shape = pixels.shape
    problem = f"image must be a single image of shape (h, w) or (h, w, c). Got shape {shape}"
    is_row = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1 and shape != (h, w))
    if is_row and pixels.size == h * w * c and not source.before:
        raise ValueError(
            f"{problem} instead, which is a row of pixels; pass image.reshape{expected}."
        )
    if len(shape) not in (2, 3):
        raise ValueError(f"{problem} instead; select an image of a batch with images[0].")
    if len(shape) == 2:
        pixels = pixels[:, :, np.newaxis]
    X = batch = pixels[np.newaxis]
    for step in source.before:
        batch = step.transform(batch)
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
    return SingleImage(pixels, X, batch, np.asarray(batch).reshape(expected))


def _check_single_row(table: Any) -> Any:
    """Check a table of images that has a single row."""
    if len(shape := np.shape(table)) != 2 or shape[0] != 1:
        raise ValueError(
            "image must be a table with a single row, because a ColumnTransformer selects the "
            f"image from the columns of a table. Got shape {shape} instead; select a row with "
            "X[:1], or with X.iloc[:1] of a data frame."
        )
    return table
