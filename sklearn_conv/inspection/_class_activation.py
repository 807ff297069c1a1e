"""`ClassActivationDisplay`: where in an image the evidence for a class lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sklearn_conv._validation import parameter_error
from sklearn_conv.inspection._class_activation_map import (
    class_activation_map,
    find_class,
    find_versus,
    require_class_decisions,
)
from sklearn_conv.inspection._drawing import (
    add_color_bar,
    add_panels,
    check_single_image,
    make_axes,
    show,
    show_image,
)

MAX_ALPHA = 0.9
"""Opacity of the strongest evidence."""


@dataclass(eq=False, repr=False)
class ClassActivationDisplay:
    """Display of an image, and of the evidence for a class in color over the same image in gray.

    Parameters
    ----------
    image : ndarray of shape (h, w, c)
        The image.
    evidence : ndarray of shape (h, w)
        The evidence of each pixel. Negative values are evidence against the class. The sum over all
        pixels is the decision.
    class_name : str
        Name of the class, or of the output of a regressor.
    versus_name : str, default=None
        Name of the class whose evidence was subtracted, or None.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        The figure, and the axes that hold the panels.
    axes_ : list of matplotlib Axes
        The panels of the image and of the evidence.

    See Also
    --------
    class_activation_map : Compute the evidence as an array; its page explains how this is done.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_conv import StridedConv2DTransformer
    >>> from sklearn_conv.inspection import ClassActivationDisplay
    >>> digits = load_digits()
    >>> pipeline = make_pipeline(StridedConv2DTransformer(random_state=0), RidgeClassifier())
    >>> pipeline = pipeline.fit(digits.images, digits.target)
    >>> display = ClassActivationDisplay.from_estimator(pipeline, digits.images[3])
    >>> display.class_name, display.evidence.shape
    ('3', (8, 8))
    """

    image: np.ndarray
    evidence: np.ndarray
    class_name: str
    versus_name: str | None = None

    @classmethod
    def from_estimator(
        cls,
        pipeline: Any,
        image: npt.ArrayLike,
        *,
        class_of_interest: Any = None,
        versus: Any = None,
        **options: Any,
    ) -> Self:
        """Draw the evidence for a decision about an image.

        Parameters
        ----------
        pipeline : Pipeline
            A fitted pipeline that `class_activation_map` accepts. Its steps before the transformer
            are applied to the image.
        image : array-like of shape (h, w) or (h, w, c), or a table with one row
            An image of the shape seen in ``fit``; with a ``ColumnTransformer``, a table with a
            single row that contains its pixels. If several transformers are side by side, the image
            that the first one receives is drawn.
        class_of_interest : int, float, bool or str, default=None
            A label in the pipeline's ``classes_``; None selects the predicted class. For a
            regressor, the index of a target; None selects the first one.
        versus : int, float, bool or str, default=None
            Another label, whose evidence is subtracted, as in `class_activation_map`.
        **options
            Options of `plot`.

        Returns
        -------
        display : ClassActivationDisplay
            The display that was drawn.

        Warns
        -----
        UserWarning
            If rounding dominates the evidence, as in `class_activation_map`.

        Raises
        ------
        NotFittedError, TypeError, ValueError
            As in `class_activation_map`. ValueError also if ``image`` is not a single image of the
            shape seen in ``fit``, if ``class_of_interest`` does not exist or is ``versus``, or if
            the pipeline does not have one decision per class.
        """
        owner = cls.__name__
        checked = check_single_image(owner, pipeline, image)
        maps = class_activation_map(pipeline, checked.X)[0]  # (h, w, outputs)
        # Steps before the transformer may crop the image.
        is_aligned = checked.pixels.shape[:2] == maps.shape[:2]
        shown = checked.pixels if is_aligned else checked.seen
        other = find_versus(owner, pipeline, versus)
        classes = getattr(pipeline, "classes_", None)
        if classes is None:
            n_targets = maps.shape[2]
            names = [f"target {i}" for i in range(n_targets)] if n_targets > 1 else ["prediction"]
            index = 0 if class_of_interest is None else class_of_interest
            if index not in range(n_targets):
                rule = f"the index of a target, from 0 to {n_targets - 1}"
                raise parameter_error(ValueError, owner, "class_of_interest", rule, index)
        else:
            require_class_decisions(owner, classes, maps.shape[2])
            names = [*map(str, classes)]
            if len(classes) == 2:  # The only map is the evidence for the second one.
                maps = np.concatenate([-maps, maps], axis=2)
            if class_of_interest is None:
                index = int(maps.sum(axis=(0, 1)).argmax())
            else:
                index = find_class(owner, "class_of_interest", classes, class_of_interest)
        if other == index:
            raise ValueError(
                f"The 'versus' parameter of {owner} must not be the class whose evidence is "
                f"drawn, which is {names[index]!r}; pass another class as 'class_of_interest' "
                "or as 'versus'."
            )
        index = int(index)
        evidence = maps[:, :, index]
        if other is not None and len(names) > 2:
            evidence = evidence - maps[:, :, other]
        versus_name = None if other is None else names[other]
        return cls(shown, evidence, names[index], versus_name).plot(**options)

    def plot(self, *, ax: Any = None, cmap: str = "PuOr_r") -> Self:
        """Draw the image and the evidence.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw into. If None, a figure is made.
        cmap : str, default="PuOr_r"
            Diverging color map, whose center stands for no evidence.

        Returns
        -------
        display : ClassActivationDisplay
            This display.
        """
        self.figure_, self.ax_ = make_axes(type(self).__name__, ax, (6.8, 3.3))
        versus = "" if self.versus_name is None else f"\nversus {self.versus_name}"
        title = f"evidence for {self.class_name}{versus}: {self.evidence.sum():+.3g}"
        titles = ["image", title]
        bounds = [(0, 0, 0.49, 1), (0.51, 0, 0.49, 1)]
        left, right = self.axes_ = add_panels(self.ax_, bounds, titles)
        show_image(left, self.image)
        show_image(right, self.image, as_background=True)
        strength = np.abs(self.evidence)
        limit = float(strength.max()) or 1.0
        # The square root makes weak evidence visible as well.
        alpha = MAX_ALPHA * np.sqrt(strength / limit)
        shown = show(right, self.evidence, cmap=cmap, vmin=-limit, vmax=limit, alpha=alpha)
        add_color_bar(self.ax_, shown, "evidence per pixel")
        return self
