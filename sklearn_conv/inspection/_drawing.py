"""What the displays share: matplotlib when it is needed, panels, and images of any channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from sklearn_conv._transformer import StridedConv2DTransformer

MAX_ASPECT = 4
"""An image or a map longer than this many times its width is stretched, so as to be seen."""


def import_pyplot(owner: str) -> Any:
    """Import matplotlib, or say how to install it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{owner} draws with matplotlib, which is not installed; pip install matplotlib."
        ) from error
    return plt


def make_axes(owner: str, ax: Any, size: tuple[float, float]) -> Any:
    """Give the axes to draw into, new ones of that size in inches where there are none."""
    plt = import_pyplot(owner)
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    return ax


def find_transformer(owner: str, estimator: Any) -> tuple[int, StridedConv2DTransformer]:
    """Find the one `StridedConv2DTransformer` of a pipeline, and its place, or take it as it is."""
    if isinstance(estimator, StridedConv2DTransformer):
        return 0, estimator
    if not isinstance(estimator, Pipeline):
        hint = "; pass its best_estimator_" if hasattr(estimator, "best_estimator_") else ""
        raise TypeError(
            f"{owner} takes a StridedConv2DTransformer or a Pipeline that has one. "
            f"Got {type(estimator).__name__} instead{hint}."
        )
    steps = [step for _, step in estimator.steps]
    places = [i for i, step in enumerate(steps) if isinstance(step, StridedConv2DTransformer)]
    if not places:
        raise TypeError(
            f"{owner} takes a Pipeline with a StridedConv2DTransformer among its steps, not inside "
            f"one of them. Got steps {[type(step).__name__ for step in steps]} instead."
        )
    if len(places) > 1:
        cut = places[-1]
        raise ValueError(
            f"{owner} takes a Pipeline with one StridedConv2DTransformer, but this has "
            f"{len(places)}. The images of the last are the features of those before it: pass "
            f"pipeline[{cut}:] and pipeline[:{cut}].transform(images)."
        )
    return places[0], steps[places[0]]


def as_batch(image: Any) -> np.ndarray:
    """Make a batch of one image, ``(h, w)`` or ``(h, w, c) -> (1, h, w, c)``."""
    if np.ndim(image) not in (2, 3):
        raise ValueError(
            f"image must be one image, of shape (h, w) or (h, w, c). Got shape {np.shape(image)} "
            "instead; take one of a batch with images[0]."
        )
    batch = np.asarray(image)[np.newaxis]
    return batch if batch.ndim == 4 else batch[..., np.newaxis]


def picture(image: np.ndarray, grey: bool = False) -> np.ndarray:
    """Bring an image to 0 ... 1, ``(h, w, c) -> (h, w, 3)``, or ``(h, w)``.

    Three channels are red, green and blue unless ``grey``; of any others the mean is shown, each
    channel stretched to 0 ... 1.
    """
    pixels = np.asarray(image, np.float64)
    if pixels.shape[2] == 3:
        low, high = pixels.min(), pixels.max()
    else:
        low, high = pixels.min(axis=(0, 1)), pixels.max(axis=(0, 1))
    pixels = (pixels - low) / np.where(high > low, high - low, 1)
    return pixels if pixels.shape[2] == 3 and not grey else pixels.mean(axis=2)


def show(ax: Any, values: np.ndarray, **options: Any) -> Any:
    """Show an image or a map in axes without ticks, and stretch a very narrow one."""
    h, w = values.shape[:2]
    is_narrow = max(h / w, w / h) > MAX_ASPECT
    shown = ax.imshow(values, aspect="auto" if is_narrow else "equal", **options)
    ax.set(xticks=[], yticks=[])
    return shown
