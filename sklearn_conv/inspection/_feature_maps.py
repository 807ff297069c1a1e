"""`FeatureMapDisplay`: an image, and where the kernels respond most."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sklearn_conv._engine.padding import padding_amounts
from sklearn_conv._engine.pooling import pool_cells
from sklearn_conv._engine.windows import window_span
from sklearn_conv._parameters import check_parameters
from sklearn_conv._validation import check_integer
from sklearn_conv.inspection._drawing import as_batch, find_transformer, make_axes, picture, show

PANEL_INCHES = 1.9


class FeatureMapDisplay:
    """An image and its strongest maps: activated responses, and the grid they are pooled over.

    Parameters
    ----------
    image : ndarray of shape (h, w, c)
        The image.
    maps : ndarray of shape (rows, columns, n_maps)
        Activated responses, the strongest map first: that whose mean of absolute values is largest.
    names : sequence of str
        Names of the maps.
    cuts : pair of ndarray
        Between which rows and which columns of the maps a cell of the pooling grid ends.
    image_cuts : pair of ndarray
        The same in pixels of the image.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of these.
    axes_ : list of matplotlib Axes
        The panels in it: the image, then the maps.

    See Also
    --------
    ClassActivationDisplay : Where in an image the evidence for a class lies.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_conv import StridedConv2DTransformer
    >>> from sklearn_conv.inspection import FeatureMapDisplay
    >>> images = load_digits().images
    >>> transformer = StridedConv2DTransformer(16, random_state=0).fit(images)
    >>> display = FeatureMapDisplay.from_estimator(transformer, images[0], n_maps=5)
    >>> display.maps.shape
    (8, 8, 5)
    """

    def __init__(
        self,
        image: np.ndarray,
        maps: np.ndarray,
        names: Sequence[str],
        cuts: Sequence[np.ndarray],
        image_cuts: Sequence[np.ndarray],
    ) -> None:
        self.image = image
        self.maps = maps
        self.names = names
        self.cuts = cuts
        self.image_cuts = image_cuts

    @classmethod
    def from_estimator(
        cls, estimator: Any, image: npt.ArrayLike, *, n_maps: int = 7, ax: Any = None
    ) -> Self:
        """Draw the maps of an image.

        Parameters
        ----------
        estimator : StridedConv2DTransformer or Pipeline
            Fitted, or a pipeline that has one; steps before it are applied to the image.
        image : array-like of shape (h, w) or (h, w, c)
            An image of the shape seen in ``fit``.
        n_maps : int, default=7
            How many maps to draw, at most.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        display : FeatureMapDisplay
            The display that was drawn.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        TypeError
            If ``estimator`` is or has no `StridedConv2DTransformer`.
        ValueError
            If ``image`` is no image of the shape seen in ``fit``.
        """
        name = cls.__name__
        n_maps = check_integer(name, "n_maps", n_maps, 1)
        place, transformer = find_transformer(name, estimator)
        images = as_batch(image)
        if place:
            images = estimator[:place].transform(images)
        responses = copy(transformer).set_params(pooling=None, flatten=False)
        _, (maps,) = next(responses.transform_batches(images))
        order = np.argsort(-np.abs(maps).mean(axis=(0, 1)), kind="stable")[:n_maps]
        names = responses.get_feature_names_out()[: maps.shape[2]]
        names = [name.removesuffix("_r0_c0") for name in names[order]]

        parameters = check_parameters(transformer)
        stride, padding, _, dilation = parameters.windows
        span = window_span(transformer.kernels_.shape[:2], dilation)
        cuts, image_cuts = [], []
        for axis, length in enumerate(transformer.image_shape_[:2]):
            n_cells = parameters.pool_grid[axis] if parameters.poolings else 1
            starts = [start for start, _ in pool_cells(maps.shape[axis], n_cells)][1:]
            before, _ = padding_amounts(padding[axis], length, span[axis], stride[axis])
            edges = np.unique(starts) - 0.5
            cuts.append(edges)
            image_cuts.append(edges * stride[axis] + (span[axis] - 1) / 2 - before)
        display = cls(np.asarray(images)[0], maps[..., order], names, cuts, image_cuts)
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None, cmap: str | None = None) -> Self:
        """Draw image and maps.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        cmap : str, default=None
            Colour map of the maps. None takes "viridis", or, where there are responses below 0,
            "PuOr" with white at 0.

        Returns
        -------
        display : FeatureMapDisplay
            This display.
        """
        n_panels = self.maps.shape[2] + 1
        n_columns = min(n_panels, 4)
        n_rows = -(-n_panels // n_columns)
        inches = (n_columns * PANEL_INCHES + 0.7, n_rows * (PANEL_INCHES + 0.25))
        ax = make_axes(type(self).__name__, ax, inches)
        ax.set_axis_off()
        low, high = float(self.maps.min()), float(self.maps.max())
        is_signed = low < 0
        if is_signed:
            low, high = -max(-low, high), max(-low, high)
        cmap = cmap or ("PuOr" if is_signed else "viridis")
        self.axes_ = []
        for i in range(n_panels):
            row, column = divmod(i, n_columns)
            bounds = [column / n_columns, 1 - (row + 1) / n_rows, 0.93 / n_columns, 0.86 / n_rows]
            panel = ax.inset_axes(bounds)
            self.axes_.append(panel)
            if i == 0:
                show(panel, picture(self.image), cmap="gray", vmin=0, vmax=1)
                panel.set_title("image", size=8, pad=3)
                self._draw_grid(panel, self.image_cuts, self.image.shape, "tab:orange")
                continue
            shown = show(panel, self.maps[..., i - 1], cmap=cmap, vmin=low, vmax=high)
            panel.set_title(self.names[i - 1], size=8, pad=3)
            color = "black" if is_signed else "white"
            self._draw_grid(panel, self.cuts, self.maps.shape, color)
        bar = ax.figure.colorbar(shown, ax=ax, fraction=0.03, pad=0.02)
        bar.set_label("activated response", size=8)
        bar.ax.tick_params(labelsize=8)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_grid(
        self, panel: Any, cuts: Sequence[np.ndarray], shape: tuple[int, ...], color: str
    ) -> None:
        for draw, at, length in zip((panel.axhline, panel.axvline), cuts, shape, strict=False):
            for position in at[(at > -0.5) & (at < length - 0.5)]:
                draw(position, color=color, linewidth=1)
