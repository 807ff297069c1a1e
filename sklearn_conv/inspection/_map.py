"""`MapDisplay`: a map over its scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sklearn_conv._saving.map_file import class_colors, encode_labels, place_map
from sklearn_conv._scenes import Reduced, open_scene
from sklearn_conv._validation import check_numbers, parameter_error
from sklearn_conv.inspection._drawing import (
    SMALL_SIZE,
    add_color_bar,
    add_panels,
    make_axes,
    show_image,
)

OWNER = "MapDisplay"

MAX_SIDE = 1000
"""Maximum number of rows and columns of the scene as it is drawn."""


@dataclass(eq=False, repr=False)
class MapDisplay:
    """Display of a scene, and of a map of it over the same scene in gray.

    Classes have colors, which a legend names. If their probability is known, it is the opacity of
    the color. Where the map is nodata, the scene is seen.

    Parameters
    ----------
    image : ndarray of shape (h, w, c)
        The scene, perhaps at a reduced resolution.
    values : ndarray of shape (rows, columns)
        Codes of classes, 0 for nodata, or numbers with NaN for nodata.
    extent : (left, right, bottom, top)
        Where the map begins and ends, in pixels of the image.
    class_names : sequence of str, default=None
        Names of the codes 1, 2 and so on; None for numbers.
    opacity : ndarray of shape (rows, columns), default=None
        Opacity of the colors, from 0 to 1. If None, it is 0.6.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        The figure, and the axes that hold the panels.
    axes_ : list of matplotlib Axes
        The panels of the scene and of the map; of the map only with given axes.

    See Also
    --------
    sklearn_conv.predict_map : Make a map.
    sklearn_conv.write_map : Write a map to a file.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_conv.inspection import MapDisplay
    >>> scene = np.random.default_rng(0).random((120, 160))
    >>> classes = np.where(np.arange(35) < 18, "smooth", "rough") * np.ones((25, 1), object)
    >>> display = MapDisplay.from_predictions(
    ...     classes, scene, size=24, step=4, labels=["rough", "smooth"]
    ... )
    >>> display.class_names, display.extent
    (['rough', 'smooth'], (9.5, 149.5, 109.5, 9.5))
    """

    image: np.ndarray
    values: np.ndarray
    extent: tuple[float, ...]
    class_names: Sequence[str] | None = None
    opacity: np.ndarray | None = None

    @classmethod
    def from_predictions(
        cls,
        values: npt.ArrayLike,
        scene: Any,
        *,
        size: int | tuple[int, int] | None = None,
        step: int | tuple[int, int] | None = None,
        scale: int = 1,
        labels: npt.ArrayLike | None = None,
        probability: npt.ArrayLike | None = None,
        **options: Any,
    ) -> Self:
        """Draw a map of a scene.

        Parameters
        ----------
        values : array-like of shape (rows, columns)
            The map: labels, or numbers. Masked values and NaN are nodata.
        scene : array-like, rasterio dataset or xarray.DataArray
            The scene, as in `tile_scene`.
        size : int or (rows, columns), default=None
        step : int or (rows, columns), default=None
        scale : int, default=1
            Where the map is, as in `write_map`.
        labels : array-like of shape (n_classes,), default=None
            The classes of a map of labels, usually ``model.classes_``.
        probability : array-like of shape (rows, columns), default=None
            Probability of the class of each pixel of the map, such as
            ``predict_map(..., method="predict_proba").max(axis=2)``.
        **options
            Options of `plot`.

        Returns
        -------
        display : MapDisplay
            The display, which has been drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError, ValueError
            If a parameter is not as described, or if the map does not fit the scene.
        """
        opened = open_scene(scene, OWNER, scale)
        array: np.ma.MaskedArray = np.ma.asanyarray(values)
        rule = "a map of shape (rows, columns)"
        if array.ndim != 2 or 0 in array.shape:
            raise parameter_error(ValueError, OWNER, "values", rule, np.asarray(values))
        (top, left), (rows, columns) = place_map(OWNER, opened, array.shape, size, step)
        names = opacity = None
        if labels is not None:
            numbers, found = encode_labels(OWNER, array, labels)
            names = [*map(str, found.tolist())]
        elif array.dtype.kind in "biuf":
            numbers = np.where(np.ma.getmaskarray(array), np.nan, np.asarray(array, np.float64))
        else:
            rule = f"{rule} of numbers, or of labels with labels=model.classes_"
            raise parameter_error(TypeError, OWNER, "values", rule, np.asarray(values))
        if probability is not None:
            opacity = check_numbers(OWNER, "probability", probability, array.shape)
        reduction = -(-max(opened.shape[:2]) // MAX_SIDE)
        reduced = Reduced(opened, reduction) if reduction > 1 else opened
        image = reduced.read(slice(0, reduced.shape[0]), slice(0, reduced.shape[1]))
        right, bottom = left + columns * array.shape[1], top + rows * array.shape[0]
        edges = (edge / reduction - 0.5 for edge in (left, right, bottom, top))
        return cls(image, numbers, (*edges,), names, opacity).plot(**options)

    def plot(self, *, ax: Any = None, cmap: str = "viridis") -> Self:
        """Draw the scene and the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw the map into, without the scene beside it. If None, a figure of both is
            made.
        cmap : str, default="viridis"
            Color map for numbers.

        Returns
        -------
        display : MapDisplay
            This display.
        """
        self.figure_, self.ax_ = make_axes(type(self).__name__, ax, (8.0, 3.4))
        width = 0.82 if self.class_names else 1.0
        if ax is None:
            bounds = [(0, 0, 0.49 * width, 1), (0.51 * width, 0, 0.49 * width, 1)]
            scene, panel = self.axes_ = add_panels(self.ax_, bounds, ["image", "map"])
            show_image(scene, self.image)
        else:
            (panel,) = self.axes_ = add_panels(self.ax_, [(0, 0, width, 1)], ["map"])
        show_image(panel, self.image, as_background=True)
        limits = panel.get_xlim(), panel.get_ylim()
        opacity = np.full(self.values.shape, 0.6)
        if self.opacity is not None:
            opacity = np.nan_to_num(np.asarray(self.opacity, np.float64)).clip(0, 1)
        if self.class_names is not None:
            colors = class_colors(len(self.class_names))
            drawn = np.dstack([colors[self.values.astype(int) - 1], opacity * (self.values > 0)])
            panel.imshow(drawn, extent=self.extent, interpolation="nearest")
            handles = [
                type(panel.patch)((0, 0), 1, 1, fc=color, label=name)
                for color, name in zip(colors, self.class_names, strict=True)
            ]
            legend = self.ax_.legend(
                handles=handles, loc="center left", bbox_to_anchor=(width, 0.5), fontsize=SMALL_SIZE
            )
            for text in legend.get_texts():
                text.set_parse_math(False)
        else:
            is_known = ~np.isnan(self.values)
            shown = panel.imshow(
                self.values, cmap=cmap, alpha=opacity * is_known, extent=self.extent
            )
            add_color_bar(self.ax_, shown, "value")
        panel.set(xlim=limits[0], ylim=limits[1])
        return self
