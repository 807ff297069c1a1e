"""`FeatureMapDisplay`: an image and its strongest maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sklearn_conv._engine.geometry import pool_cells
from sklearn_conv._parameters import check_parameters
from sklearn_conv._validation import check_integer
from sklearn_conv.inspection._drawing import (
    SMALL_SIZE,
    add_color_bar,
    add_panels,
    check_single_image,
    find_ends,
    make_axes,
    show,
    show_image,
)
from sklearn_conv.inspection._model import find_transformer, require_one_size, without_pooling


@dataclass(eq=False, repr=False)
class FeatureMapDisplay:
    """Display of an image and its strongest maps, with the pooling grid drawn over them.

    A map consists of the activated responses of a kernel, before pooling and without mirrored and
    turned images. Each map is drawn on its own scale, so that the pattern of a weak map is as
    visible as that of a strong one. The numbers below the name of a map are the ends of its scale.
    The scale ends at the 0.99 quantile of the absolute responses, so that a few large responses do
    not make all others dark; these are drawn in the last color.

    Parameters
    ----------
    image : ndarray of shape (h, w, c)
        The image.
    maps : ndarray of shape (rows, columns, n_maps)
        Activated responses, the strongest map first. The strength of a map is the mean of its
        absolute values.
    names : sequence of str
        Names of the maps.
    cuts : pair of ndarray
        Positions on the maps, along rows and along columns, at which one cell of a pooling grid
        ends and the next begins; 0.5 is between the first two rows or columns.
    image_cuts : pair of ndarray
        The same positions in pixels of the image.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        The figure, and the axes that hold the panels.
    axes_ : list of matplotlib Axes
        The panels of the image and of the maps, in this order.

    See Also
    --------
    ClassActivationDisplay : Draw where in an image the evidence for a class lies.

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

    image: np.ndarray
    maps: np.ndarray
    names: Sequence[str]
    cuts: Sequence[np.ndarray]
    image_cuts: Sequence[np.ndarray]

    @classmethod
    def from_estimator(
        cls, estimator: Any, image: npt.ArrayLike, *, n_maps: int = 7, **options: Any
    ) -> Self:
        """Draw the strongest maps of an image.

        Parameters
        ----------
        estimator : StridedConv2DTransformer or Pipeline
            A fitted transformer, or a pipeline that contains one. The steps of the pipeline before
            the transformer are applied to the image. The transformer may be in a branch of a
            ``FeatureUnion`` or a ``ColumnTransformer``, but not beside another one.
        image : array-like of shape (h, w) or (h, w, c), or a table with one row
            An image of the shape seen in ``fit``; with a ``ColumnTransformer``, a table with a
            single row that contains its pixels.
        n_maps : int, default=7
            Maximum number of maps to draw.
        **options
            Options of `plot`.

        Returns
        -------
        display : FeatureMapDisplay
            The display that was drawn.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        TypeError, ValueError
            If ``estimator`` does not have exactly one `StridedConv2DTransformer`, if ``image`` is
            not an image of the shape seen in ``fit``, or if ``n_maps`` is not an integer above 0.
        """
        n_drawn = check_integer(cls.__name__, "n_maps", n_maps, 1)
        transformer = find_transformer(cls.__name__, estimator)
        require_one_size(cls.__name__, transformer)
        _, batch, seen = check_single_image(cls.__name__, estimator, image)
        responses = without_pooling(transformer)
        _, (maps,) = next(responses.transform_batches(batch))  # maps: (oh, ow, n_maps)
        order = np.argsort(-np.nansum(np.abs(maps), axis=(0, 1)), kind="stable")[:n_drawn]
        # Unpooled features are ordered by row, column and map, so the first ones belong to the maps
        # at row 0 and column 0.
        features = responses.get_feature_names_out()[: maps.shape[2]]

        parameters = check_parameters(transformer)
        geometry = transformer._fitted_geometries(parameters)[0]
        grids = parameters.pool_grids if parameters.poolings else [(1, 1)]
        cuts, image_cuts = [], []
        for windows, numbers in zip(geometry, zip(*grids, strict=True), strict=True):
            starts = [start for n in numbers for start, _ in pool_cells(windows.n_windows, n)[1:]]
            edges = np.unique(starts) - 0.5
            cuts.append(edges)
            image_cuts.append(np.asarray(windows.center(edges)))
        names = [feature.removesuffix("_r0_c0") for feature in features[order]]
        return cls(seen, maps[..., order], names, cuts, image_cuts).plot(**options)

    def plot(self, *, ax: Any = None, cmap: str | None = None) -> Self:
        """Draw the image and the maps.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. If None, a figure is made.
        cmap : str, default=None
            Color map of the maps. None means "viridis" or, if there are negative responses, "PuOr"
            with white at 0.

        Returns
        -------
        display : FeatureMapDisplay
            This display.
        """
        maps = np.moveaxis(np.asarray(self.maps, np.float64), 2, 0)  # (n_maps, rows, columns)
        is_signed = bool(find_ends(maps)[0] < 0)
        ranges = [_find_range(values, is_signed) for values in maps]
        ends = [f"{low:.2g} to {high:.2g}" for low, high in ranges]
        pairs = zip(self.names, ends, strict=True)
        titles = ["image", *(f"{name}\n{end}" for name, end in pairs)]
        n_columns = min(len(titles), 4)
        n_rows = -(-len(titles) // n_columns)
        inches = (n_columns * 1.9 + 0.7, n_rows * 2.25)
        self.figure_, self.ax_ = make_axes(type(self).__name__, ax, inches)
        w, h = 1 / n_columns, 1 / n_rows  # width and height of a cell, in fractions of the axes
        cells = [divmod(i, n_columns) for i in range(len(titles))]
        bounds = [(c * w, 1 - (r + 1) * h, 0.93 * w, 0.82 * h) for r, c in cells]
        self.axes_ = add_panels(self.ax_, bounds, titles, size=SMALL_SIZE, pad=3)
        show_image(self.axes_[0], self.image)
        _draw_cuts(self.axes_[0], self.image_cuts, self.image.shape[:2], "tab:orange")

        map_color, cut_color = ("PuOr", "black") if is_signed else ("viridis", "white")
        for panel, values, (low, high) in zip(self.axes_[1:], maps, ranges, strict=True):
            # The color bar is that of all maps: 0 is the lower end of a scale and 1 the upper end.
            fractions = (values - low) / (high - low if high > low else 1)
            shown = show(panel, fractions, cmap=cmap or map_color, vmin=0, vmax=1)
            _draw_cuts(panel, self.cuts, values.shape, cut_color)
        bar = add_color_bar(self.ax_, shown, "activated response")
        ticks = {0: "low", 0.5: "0", 1: "high"} if is_signed else {0: "low", 1: "high"}
        bar.set_ticks([*ticks], labels=[*ticks.values()])
        return self


def _find_range(values: np.ndarray, is_signed: bool) -> tuple[float, float]:
    """Return the ends of the scale of a map; 0 is in the middle if responses are signed."""
    low, largest = find_ends(values)
    strengths = np.abs(values[~np.isnan(values)])
    largest = max(-low, largest)
    high = (float(np.quantile(strengths, 0.99)) if strengths.size else 0) or largest
    if is_signed:
        return -high, high
    return low, high if high > low else largest


def _draw_cuts(panel: Any, cuts: Sequence[np.ndarray], shape: tuple[int, ...], color: str) -> None:
    """Draw the cuts between rows and between columns that lie inside an image of that shape."""
    for draw, cut, length in zip((panel.axhline, panel.axvline), cuts, shape, strict=True):
        for place in cut[(cut > -0.5) & (cut < length - 0.5)]:
            draw(place, color=color, linewidth=1)
