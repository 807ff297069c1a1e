"""`GridSearchDisplay`: scores and fit times of a search over two parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_conv.inspection._drawing import PLAIN, add_panels, make_axes


@dataclass(eq=False, repr=False)
class GridSearchDisplay:
    """Display of the scores and the fit times of a search over two parameters, as heat maps.

    Below each mean score is the standard deviation over the folds. A difference between two scores
    that is not larger may be due to chance. The squares with the highest score are framed.

    If more than two parameters were searched, each square shows the best score over the other
    parameters, and the fit time of the combination with that score.

    Parameters
    ----------
    scores : ndarray of shape (len(y_values), len(x_values))
        Mean test scores; NaN for combinations that were not tried or that failed.
    score_stds : ndarray of shape (len(y_values), len(x_values))
        Standard deviations of the test scores over the folds; NaN as in ``scores``.
    fit_times : ndarray of shape (len(y_values), len(x_values))
        Mean fit times in seconds; NaN as in ``scores``.
    x_values, y_values : sequence
        Values of the parameters.
    x, y : str
        Names of the parameters, which label the axes.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        The figure, and the axes that hold the panels.
    axes_ : list of matplotlib Axes
        The panels of the scores and of the fit times.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : Search the parameters.

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
    >>> display.y, display.x, display.scores.shape
    ('kernel_size', 'stride', (3, 2))
    """

    scores: np.ndarray
    score_stds: np.ndarray
    fit_times: np.ndarray
    x_values: Sequence[Any]
    y_values: Sequence[Any]
    x: str
    y: str

    @classmethod
    def from_estimator(
        cls, search: Any, *, x: str | None = None, y: str | None = None, **options: Any
    ) -> Self:
        """Draw the results of a search.

        Parameters
        ----------
        search : GridSearchCV or similar
            A fitted search that has ``cv_results_`` and one metric.
        x : str, default=None
            Name of the searched parameter along the horizontal axis, with or without the name of
            its step: "stridedconv2dtransformer__stride" or "stride". If exactly two parameters were
            searched, ``x``, ``y`` or both may be None. If only one is None, it is set to the
            remaining parameter. If both are None, ``y`` is the first and ``x`` the second parameter
            in alphabetical order.
        y : str, default=None
            Name of the searched parameter along the vertical axis, with the same rules as ``x``.
        **options
            Options of `plot`.

        Returns
        -------
        display : GridSearchDisplay
            The display that was drawn.

        Raises
        ------
        NotFittedError
            If the search is not fitted.
        TypeError
            If ``search`` is not a search.
        ValueError
            If fewer than two parameters were searched, if more than two were searched and ``x`` or
            ``y`` is None, if ``x`` or ``y`` is not the name of exactly one searched parameter, or
            if there are several metrics.
        """
        owner = cls.__name__
        if not hasattr(search, "best_params_"):
            if not hasattr(search, "cv") or not hasattr(search, "fit"):
                raise TypeError(
                    f"{owner} requires a fitted search, such as GridSearchCV. "
                    f"Got {type(search).__name__} instead."
                )
            check_is_fitted(search)
        results = search.cv_results_
        if "mean_test_score" not in results:
            raise ValueError(
                f"{owner} requires a search with one metric; set the scoring of the search to a "
                "single metric."
            )
        points = results["params"]
        searched = sorted({name for point in points for name in point})
        names = _find_parameters(owner, searched, x, y)
        x_points, y_points = ([point.get(name) for point in points] for name in names)
        x_values, y_values = _list_values(x_points), _list_values(y_points)
        columns = [results[key] for key in ("mean_test_score", "std_test_score", "mean_fit_time")]
        squares = np.full((3, len(y_values), len(x_values)), np.nan)
        # The results are visited in ascending order of their scores, so that the best score of a
        # square is written last.
        for i in np.argsort(columns[0], kind="stable"):
            if not np.isnan(columns[0][i]):
                row, column = _find(y_values, y_points[i]), _find(x_values, x_points[i])
                squares[:, row, column] = [values[i] for values in columns]
        x_label, y_label = (name.rpartition("__")[2] for name in names)
        if x_label == y_label:  # Parameters of two steps have the same name.
            x_label, y_label = names
        scores, stds, times = squares
        return cls(scores, stds, times, x_values, y_values, x_label, y_label).plot(**options)

    def plot(self, *, ax: Any = None, cmap: str = "viridis") -> Self:
        """Draw the scores and the fit times.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. If None, a figure is made.
        cmap : str, default="viridis"
            The color map.

        Returns
        -------
        display : GridSearchDisplay
            This display.
        """
        n_rows, n_columns = self.scores.shape
        inches = (max(6.0, 1.8 + 1.7 * n_columns), max(2.6, 1.1 + 0.6 * n_rows))
        self.figure_, self.ax_ = make_axes(type(self).__name__, ax, inches)
        bounds = [(0.08, 0.14, 0.41, 0.76), (0.58, 0.14, 0.41, 0.76)]
        titles = ["mean test score \u00b1 std over folds", "fit time in s"]
        left, right = self.axes_ = add_panels(self.ax_, bounds, titles)
        scores = [
            f"{score:.3f}\n\u00b1 {std:.3f}"
            for score, std in zip(self.scores.flat, self.score_stds.flat, strict=True)
        ]
        times = [f"{time:.2g}" for time in self.fit_times.flat]
        for panel, values, texts in [(left, self.scores, scores), (right, self.fit_times, times)]:
            panel.imshow(values, cmap=cmap, aspect="auto")
            # Texts are black or white, depending on the color behind them.
            finite = values[np.isfinite(values)]
            middle = (finite.min() + finite.max()) / 2 if finite.size else 0.0
            for ((row, column), value), text in zip(np.ndenumerate(values), texts, strict=True):
                color = "black" if np.isnan(value) or value > middle else "white"
                shown = "no score" if np.isnan(value) else text
                panel.text(column, row, shown, ha="center", va="center", color=color, size=9)
            panel.set_xticks(range(n_columns), map(str, self.x_values), **PLAIN)
            panel.set_xlabel(self.x, **PLAIN)
        is_best = self.scores == np.nanmax(self.scores, initial=-np.inf)
        for row, column in np.argwhere(is_best):
            corner = column - 0.47, row - 0.47
            left.add_patch(type(left.patch)(corner, 0.94, 0.94, fill=False, ec="tab:red", lw=2))
        left.set_yticks(range(n_rows), map(str, self.y_values), **PLAIN)
        left.set_ylabel(self.y, **PLAIN)
        right.set_yticks(range(n_rows), [""] * n_rows)
        return self


def _find_parameters(
    owner: str, searched: list[str], x: str | None, y: str | None
) -> tuple[str, str]:
    """Return the full names of the two searched parameters along x and y."""
    if len(searched) < 2:
        raise ValueError(
            f"{owner} draws two searched parameters, but only {searched} was searched; plot its "
            "cv_results_['mean_test_score'] instead."
        )
    if len(searched) > 2 and (x is None or y is None):
        raise ValueError(
            f"{owner} draws two searched parameters, but {len(searched)} were searched; choose x "
            f"and y from {searched}."
        )
    found: list[str | None] = []
    for name in (x, y):
        named = [full for full in searched if name in (full, full.rpartition("__")[2])]
        if name is not None and len(named) != 1:
            raise ValueError(
                f"{len(named)} of the searched parameters are named {name!r}; choose x and y from "
                f"{searched}."
            )
        found.append(None if name is None else named[0])
    rest = [name for name in searched if name not in found]
    # If both names are None, x is the last and y the first parameter in alphabetical order.
    x_name, y_name = (name or rest.pop() for name in found)
    return x_name, y_name


def _list_values(values: Sequence[Any]) -> list[Any]:
    """List the distinct values, sorted if they can be compared, else in order of appearance.

    Values need not be hashable; they may be lists such as [rows, columns].
    """
    found: list[Any] = []
    for value in values:
        if _find(found, value) is None:
            found.append(value)
    try:
        return sorted(found)
    except (TypeError, ValueError):
        return found


def _find(values: Sequence[Any], value: Any) -> int | None:
    """Return the index of a value; arrays are the same only if they are the same object."""
    for i, other in enumerate(values):
        is_array = isinstance(value, np.ndarray) or isinstance(other, np.ndarray)
        if other is value or (not is_array and other == value):
            return i
    return None
