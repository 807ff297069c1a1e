"""What the displays share: a checked image, axes with panels, a color bar, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sklearn_conv.inspection._model import find_features, require_one_size

TITLE_SIZE = 10
SMALL_SIZE = 8
"""Font sizes in points."""

PLAIN = {"parse_math": False, "usetex": False}
"""Options of texts that contain names or values of the user, which may have dollar signs."""


def make_axes(owner: str, ax: Any, inches: tuple[float, float]) -> tuple[Any, Any]:
    """Return the figure and the axes to draw into, without a frame.

    If ``ax`` is None, a figure of that width and height is made.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{owner} requires matplotlib, which is not installed; run pip install matplotlib."
        ) from error
    if ax is None:
        _, ax = plt.subplots(figsize=inches, layout="constrained")
    ax.set_axis_off()
    return ax.figure, ax


def add_panels(
    ax: Any,
    bounds: Sequence[Sequence[float]],
    titles: Sequence[str],
    *,
    size: float = TITLE_SIZE,
    pad: float | None = None,
) -> list[Any]:
    """Add panels with titles inside the axes.

    ``bounds`` has (left, bottom, width, height) of each panel, in fractions of the axes. ``size``
    of the titles and ``pad``, the gap below them, are in points.
    """
    panels = [ax.inset_axes(panel_bounds) for panel_bounds in bounds]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, size=size, pad=pad, **PLAIN)
    return panels


def add_color_bar(ax: Any, shown: Any, label: str) -> Any:
    """Add an opaque color bar to the right of the axes, even if the colors are transparent."""
    bar = ax.figure.colorbar(shown, ax=ax, fraction=0.04, pad=0.02)
    bar.set_label(label, size=SMALL_SIZE)
    bar.ax.tick_params(labelsize=SMALL_SIZE)
    bar.solids.set_alpha(1)
    return bar


def show(panel: Any, values: np.ndarray, **options: Any) -> Any:
    """Show an image or a map without ticks, and stretch it if it is very narrow."""
    h, w = values.shape[:2]
    aspect = "auto" if max(h / w, w / h) > 4 else "equal"
    shown = panel.imshow(values, aspect=aspect, **options)
    panel.set(xticks=[], yticks=[])
    return shown


def show_image(panel: Any, image: np.ndarray, *, as_background: bool = False) -> None:
    """Show an image, scaled so that its smallest value is black and its largest white.

    Three channels are shown as red, green and blue, scaled together. For any other number of
    channels, each channel is scaled, and their mean is shown in gray. A background is always gray,
    and lighter, so that the colors over it are visible.
    """
    pixels = np.asarray(image, np.float64)  # (h, w, c)
    is_color = pixels.shape[2] == 3
    axes = (0, 1, 2) if is_color else (0, 1)
    low, high = pixels.min(axis=axes), pixels.max(axis=axes)
    scaled = (pixels - low) / np.where(high > low, high - low, 1)
    shown = scaled if is_color and not as_background else scaled.mean(axis=2)
    black = 0.35 if as_background else 0.0
    show(panel, black + (1 - black) * shown, cmap="gray", vmin=0, vmax=1)


def check_single_image(owner: str, estimator: Any, image: Any) -> tuple[Any, Any, np.ndarray]:
    """Check an image of shape ``(h, w)`` or ``(h, w, c)``, and apply the first steps to it.

    If a column transformer selects the images from a table, ``image`` is a table with one row.

    Return a batch of this image in the form that the estimator accepts, the batch as the first
    transformer receives it, and the image, (h, w, c): as it was passed, unless the steps crop it.
    """
    position, part = find_features(owner, estimator)
    first = part.image_steps[0]
    transformer = first.step
    require_one_size(owner, transformer)
    expected = transformer.image_shape_
    if first.from_table:
        if len(shape := np.shape(image)) != 2 or shape[0] != 1:
            raise ValueError(
                "image must be a table with a single row, because a ColumnTransformer selects the "
                f"image from the columns of a table. Got shape {shape} instead; select a row with "
                "X[:1], or with X.iloc[:1] of a data frame."
            )
        part.run(estimator[:position].transform(image) if position else image)
        return image, first.inputs, np.asarray(first.inputs).reshape(expected)
    h, w, c = expected
    pixels = np.asarray(image)
    shape = pixels.shape
    problem = f"image must be a single image of shape (h, w) or (h, w, c). Got shape {shape}"
    is_row = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1 and shape != (h, w))
    if is_row and pixels.size == h * w * c and not first.before:
        raise ValueError(
            f"{problem} instead, which is a row of pixels; pass image.reshape{expected}."
        )
    if len(shape) not in (2, 3):
        raise ValueError(f"{problem} instead; select an image of a batch with images[0].")
    if len(shape) == 2:
        pixels = pixels[:, :, np.newaxis]
    X = batch = pixels[np.newaxis]
    for step in first.before:
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
    is_cropped = (h, w) != shape[:2]
    return X, batch, np.asarray(batch).reshape(expected) if is_cropped else pixels
