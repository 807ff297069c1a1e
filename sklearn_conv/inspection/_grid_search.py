"""`GridSearchDisplay`: scores and fit times of a search over two parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_conv.inspection._drawing import make_axes


class GridSearchDisplay:
    """Heat maps of the scores and of the fit times of a search over two parameters.

    Where other parameters were searched, too, each square has the best score over these, and its
    time.

    Parameters
    ----------
    scores : ndarray of shape (len(y_values), len(x_values))
        Mean test scores; NaN where nothing was tried, or failed.
    fit_times : ndarray of shape (len(y_values), len(x_values))
        Mean fit times in seconds.
    x_values, y_values : sequence
        Values of the parameters.
    x, y : str
        Names of the parameters.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of these.
    axes_ : list of matplotlib Axes
        The panels in it: scores, fit times.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_conv import StridedConv2DTransformer
    >>> from sklearn_conv.inspection import GridSearchDisplay
    >>> digits = load_digits()
    >>> pipeline = make_pipeline(StridedConv2DTransformer(16, random_state=0), RidgeClassifier())
    >>> step = "stridedconv2dtransformer"
    >>> grid = {f"{step}__stride": [1, 2], f"{step}__kernel_size": [2, 3, 4]}
    >>> search = GridSearchCV(pipeline, grid, cv=2).fit(digits.images, digits.target)
    >>> display = GridSearchDisplay.from_estimator(search)
    >>> display.scores.shape
    (3, 2)
    """

    def __init__(
        self,
        scores: np.ndarray,
        fit_times: np.ndarray,
        x_values: Sequence[Any],
        y_values: Sequence[Any],
        x: str,
        y: str,
    ) -> None:
        self.scores = scores
        self.fit_times = fit_times
        self.x_values = x_values
        self.y_values = y_values
        self.x = x
        self.y = y

    @classmethod
    def from_estimator(
        cls, search: Any, *, x: str = "stride", y: str = "kernel_size", ax: Any = None
    ) -> Self:
        """Draw what a search found.

        Parameters
        ----------
        search : GridSearchCV or the like
            Fitted: what has ``cv_results_``, with one metric.
        x : str, default="stride"
            Name of the searched parameter along the horizontal axis, with or without its step:
            "stridedconv2dtransformer__stride" or "stride".
        y : str, default="kernel_size"
            Likewise along the vertical axis.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        display : GridSearchDisplay
            The display that was drawn.

        Raises
        ------
        NotFittedError
            If the search is not fitted.
        TypeError
            If ``search`` is no search.
        ValueError
            If no searched parameter, or several, have that name, or there are several metrics.
        """
        name = cls.__name__
        if not hasattr(search, "best_params_"):
            if not hasattr(search, "cv") or not hasattr(search, "fit"):
                raise TypeError(
                    f"{name} takes a fitted search, such as GridSearchCV. "
                    f"Got {type(search).__name__} instead."
                )
            check_is_fitted(search)
        results = search.cv_results_
        if "mean_test_score" not in results:
            raise ValueError(f"{name} takes a search with one metric; give a single scoring.")
        params, columns = results["params"], []
        for parameter in (x, y):
            searched = sorted({full for point in params for full in point})
            full = [f for f in searched if parameter in (f, f.rpartition("__")[2])]
            if len(searched) < 2:
                raise ValueError(
                    f"{name} draws two searched parameters, but only {searched} was searched; "
                    "plot cv_results_['mean_test_score'] of one."
                )
            if len(full) != 1:
                raise ValueError(
                    f"{len(full)} of the searched parameters are named {parameter!r}: give x and y "
                    f"from {searched}."
                )
            columns.append([point.get(full[0]) for point in params])
        x_values, y_values = map(_unique, columns)
        scores = np.full((len(y_values), len(x_values)), np.nan)
        fit_times = scores.copy()
        for i in np.argsort(results["mean_test_score"], kind="stable"):  # the best last; NaN after
            score = results["mean_test_score"][i]
            at = y_values.index(columns[1][i]), x_values.index(columns[0][i])
            if not np.isnan(score):
                scores[at], fit_times[at] = score, results["mean_fit_time"][i]
        return cls(scores, fit_times, x_values, y_values, x, y).plot(ax=ax)

    def plot(self, *, ax: Any = None, cmap: str = "viridis") -> Self:
        """Draw scores and fit times.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        cmap : str, default="viridis"
            The colour map.

        Returns
        -------
        display : GridSearchDisplay
            This display.
        """
        n_rows, n_columns = self.scores.shape
        inches = (max(6.0, 1.8 + 1.7 * n_columns), max(2.6, 1.1 + 0.5 * n_rows))
        ax = make_axes(type(self).__name__, ax, inches)
        ax.set_axis_off()
        self.axes_ = []
        panels = [
            ("mean test score", self.scores, "{:.3f}"),
            ("fit time in s", self.fit_times, "{:.2g}"),
        ]
        for i, (title, values, form) in enumerate(panels):
            panel = ax.inset_axes([0.08 + 0.5 * i, 0.14, 0.41, 0.76])
            panel.imshow(values, cmap=cmap, aspect="auto")
            middle = (np.nanmin(values) + np.nanmax(values)) / 2 if np.isfinite(values).any() else 0
            for (row, column), value in np.ndenumerate(values):
                text = "failed" if np.isnan(value) else form.format(value)
                color = "black" if np.isnan(value) or value > middle else "white"
                panel.text(column, row, text, ha="center", va="center", color=color, size=9)
            panel.set_xticks(range(n_columns), map(str, self.x_values))
            panel.set_yticks(range(n_rows), map(str, self.y_values) if i == 0 else [""] * n_rows)
            panel.set_xlabel(self.x)
            panel.set_title(title, size=10)
            if i == 0:
                panel.set_ylabel(self.y)
            self.axes_.append(panel)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _unique(values: Sequence[Any]) -> list[Any]:
    """List values in order where they have one, else as they come; (rows, columns) pairs, too."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    try:
        return sorted(found)
    except TypeError:
        return found
