"""Functions that the displays share: make axes, and draw panels, a color bar and an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

TITLE_SIZE = 10
SMALL_SIZE = 8
"""Font sizes in points."""

PLAIN = {"parse_math": False, "usetex": False}
"""Options of texts that contain names or values of the user, which may have dollar signs."""

MAX_ASPECT = 4
"""Ratio of two sides above which an image or a map is stretched to its panel."""

BLACK_OF_BACKGROUND = 0.35
"""Gray level, from 0 to 1, that stands for black in a background."""


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
    is_narrow = max(h / w, w / h) > MAX_ASPECT
    shown = panel.imshow(values, aspect="auto" if is_narrow else "equal", **options)
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
    black = BLACK_OF_BACKGROUND if as_background else 0.0
    show(panel, black + (1 - black) * shown, cmap="gray", vmin=0, vmax=1)
