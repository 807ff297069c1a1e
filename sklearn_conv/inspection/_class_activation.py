"""`ClassActivationDisplay`: where in an image the evidence for a class lies."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sklearn_conv.inspection._class_activation_map import class_activation_map
from sklearn_conv.inspection._drawing import add_color_bar, add_panels, make_axes, show, show_image
from sklearn_conv.inspection._inputs import check_single_image, find_transformer

MAX_ALPHA = 0.9
"""Opacity of the strongest evidence."""


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

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes that hold the panels.
    figure_ : matplotlib Figure
        The figure of the axes.
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

    def __init__(self, image: np.ndarray, evidence: np.ndarray, class_name: str) -> None:
        self.image = image
        self.evidence = evidence
        self.class_name = class_name

    @classmethod
    def from_estimator(
        cls,
        pipeline: Any,
        image: npt.ArrayLike,
        *,
        class_of_interest: Any = None,
        ax: Any = None,
    ) -> Self:
        """Draw the evidence for a decision about an image.

        Parameters
        ----------
        pipeline : Pipeline
            A fitted pipeline that `class_activation_map` accepts. Its steps before the transformer
            are applied to the image.
        image : array-like of shape (h, w) or (h, w, c)
            An image of the shape seen in ``fit``.
        class_of_interest : int, float, bool or str, default=None
            A label in the pipeline's ``classes_``; None selects the predicted class. For a
            regressor, the index of a target; None selects the first one.
        ax : matplotlib Axes, default=None
            Axes to draw into. If None, a figure is made.

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
        NotFittedError
            If the pipeline is not fitted.
        TypeError
            If ``pipeline`` has no `StridedConv2DTransformer`, or if it is not a regressor and has
            no ``decision_function``.
        ValueError
            If the pipeline is not linear after the transformer, if ``pooling`` includes "max", if
            features are infinite or NaN, if ``image`` is not an image of the shape seen in ``fit``,
            if ``class_of_interest`` does not exist, or if the pipeline does not have one decision
            per class.
        """
        position, _ = find_transformer(cls.__name__, pipeline)
        checked = check_single_image(cls.__name__, pipeline, image)
        rest = pipeline[position:] if position else pipeline
        maps = class_activation_map(rest, checked.batch)[0]  # (h, w, outputs)
        classes = getattr(pipeline, "classes_", None)
        if classes is None:
            evidence, name = _select_target(cls.__name__, maps, class_of_interest)
        else:
            evidence, name = _select_class(cls.__name__, maps, class_of_interest, classes)
        # Steps before the transformer may crop the image.
        is_aligned = checked.pixels.shape[:2] == evidence.shape
        return cls(checked.pixels if is_aligned else checked.seen, evidence, name).plot(ax=ax)

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
        titles = ["image", f"evidence for {self.class_name}: {self.evidence.sum():+.3g}"]
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


def _select_target(owner: str, maps: np.ndarray, chosen: Any) -> tuple[np.ndarray, str]:
    """Return the evidence for one target of a regressor, ``(h, w)``, and its name."""
    n_targets = maps.shape[2]
    target = 0 if chosen is None else chosen
    if target not in range(n_targets):
        raise ValueError(
            f"The 'class_of_interest' parameter of {owner} must be the index of a target, from 0 "
            f"to {n_targets - 1}. Got {chosen!r} instead."
        )
    return maps[:, :, int(target)], "prediction" if n_targets == 1 else f"target {target}"


def _select_class(
    owner: str, maps: np.ndarray, chosen: Any, classes: np.ndarray
) -> tuple[np.ndarray, str]:
    """Return the evidence for one class, ``(h, w)``, and its name."""
    is_binary = maps.shape[2] == 1  # The only map is the evidence for the second class.
    by_class = np.concatenate([-maps, maps], axis=2) if is_binary else maps
    names = classes.tolist()
    n_outputs = by_class.shape[2]
    if n_outputs != len(names):
        raise ValueError(
            f"{owner} needs one decision per class, but there are {n_outputs} decisions for "
            f"{len(names)} classes; use class_activation_map to explain each decision."
        )
    if chosen is None:
        index = int(by_class.sum(axis=(0, 1)).argmax())
    elif chosen in names:
        index = names.index(chosen)
    else:
        raise ValueError(
            f"The 'class_of_interest' parameter of {owner} must be one of {names}, or None for "
            f"the predicted class. Got {chosen!r} instead."
        )
    return by_class[:, :, index], str(classes[index])
