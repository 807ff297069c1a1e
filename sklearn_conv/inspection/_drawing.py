"""What the displays share: a checked image, axes with panels, a color bar, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._pixels import fill_masked
from sklearn_conv.inspection._model import find_features

TITLE_SIZE = 10
SMALL_SIZE = 8
"""Font sizes in points."""

MISSING_COLOR = (0.89, 0.47, 0.76)
"""Pink, for missing pixels and for maps of windows that contain one."""

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
    """Show an image or a map without ticks, and stretch it if it is very narrow; NaN is pink."""
    h, w = values.shape[:2]
    aspect = "auto" if max(h / w, w / h) > 4 else "equal"
    shown = panel.imshow(values, aspect=aspect, **options)
    shown.set_cmap(shown.get_cmap().with_extremes(bad=MISSING_COLOR))
    panel.set(xticks=[], yticks=[])
    return shown


def find_ends(values: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest value that is not NaN; 0 and 1 if there is none."""
    known = values[~np.isnan(values)]
    return (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)


def show_image(panel: Any, image: np.ndarray, *, as_background: bool = False) -> None:
    """Show an image: three channels as red, green and blue, others as their mean in gray.

    Gray or color images of uint8 are shown as they are. All others are scaled, so that the smallest
    value is black and the largest white: colors together, and each of other channels. A background
    is always gray, and lighter, so that the colors over it are visible. The title says how an image
    that is not a background was scaled, and that missing pixels are pink.
    """
    pixels = np.asarray(image, np.float64)  # (h, w, c)
    n_channels = pixels.shape[2]
    is_color = n_channels == 3
    is_as_stored = np.asarray(image).dtype == np.uint8 and n_channels in (1, 3)
    parts = [pixels] if is_color else [*np.moveaxis(pixels, 2, 0)]
    ends = [(0.0, 255.0) if is_as_stored else find_ends(part) for part in parts]
    low, high = np.array(ends).T
    scaled = (pixels - low) / np.where(high > low, high - low, 1)
    is_missing = np.isnan(pixels).any(axis=2)
    black = 0.35 if as_background else 0.0
    if is_color and not as_background:
        scaled[is_missing] = MISSING_COLOR
        show(panel, scaled)
    else:
        show(panel, black + (1 - black) * scaled.mean(axis=2), cmap="gray", vmin=0, vmax=1)
    if not as_background:
        title = "image" if is_as_stored else f"image\n{low.min():.3g} to {high.max():.3g}"
        panel.title.set_text(title + "\nmissing: pink" * bool(is_missing.any()))


def check_single_image(owner: str, estimator: Any, image: Any) -> tuple[Any, Any, np.ndarray]:
    """Check an image of shape ``(h, w)`` or ``(h, w, c)``, and apply the first steps to it.

    If a column transformer selects the images from a table, ``image`` is a table with one row.

    Return a batch of this image in the form that the estimator accepts, the batch as the first
    transformer receives it, and the image in it, (h, w, c).
    """
    position, part = find_features(owner, estimator)
    first = part.image_steps[0]
    transformer = first.step
    check_is_fitted(transformer)
    expected = transformer.image_shape_
    if first.from_table:
        if len(shape := np.shape(image)) != 2 or shape[0] != 1:
            raise ValueError(
                "image must be a table with a single row, because a ColumnTransformer selects the "
                f"image from the columns of a table. Got shape {shape} instead; select a row with "
                "X[:1], or with X.iloc[:1] of a data frame."
            )
        part.run(estimator[:position].transform(image) if position else image)
        is_any = None in expected
        seen = np.asarray(first.inputs[0] if is_any else first.inputs)
        return image, first.inputs, seen.reshape((*seen.shape, 1)[:3] if is_any else expected)
    h, w, c = expected
    pixels = fill_masked(image) if np.ma.isMaskedArray(image) else np.asarray(image)
    shape = pixels.shape
    problem = f"image must be a single image of shape (h, w) or (h, w, c). Got shape {shape}"
    is_row = len(shape) == 1 or (len(shape) == 2 and shape[0] == 1 and shape != (h, w))
    if is_row and None not in expected and pixels.size == h * w * c and not first.before:
        raise ValueError(
            f"{problem} instead, which is a row of pixels; pass image.reshape{expected}."
        )
    if len(shape) not in (2, 3):
        raise ValueError(f"{problem} instead; select an image of a batch with images[0].")
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
    if None in expected:  # Images may have any size.
        expected = (*arrived, 1)[:3]
    return X, batch, np.asarray(batch).reshape(expected)
