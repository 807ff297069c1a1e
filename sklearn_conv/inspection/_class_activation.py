"""`ClassActivationDisplay`: where in an image the evidence for a class lies."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sklearn_conv.inspection._class_activation_map import class_activation_map
from sklearn_conv.inspection._drawing import as_batch, make_axes, picture, show


class ClassActivationDisplay:
    """An image, and the evidence for a class, laid over it in grey.

    Parameters
    ----------
    image : ndarray of shape (h, w, c)
        The image.
    evidence : ndarray of shape (h, w)
        The evidence of each pixel, below 0 against the class. Its sum is the decision.
    class_name : str
        The class, or what else the evidence is for.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of these.
    axes_ : list of matplotlib Axes
        The panels in it: the image, the evidence.

    See Also
    --------
    class_activation_map : The evidence as an array, and how it is laid on pixels.

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
        """Draw the evidence of a pipeline's decision on an image.

        Parameters
        ----------
        pipeline : Pipeline
            Fitted, as for `class_activation_map`.
        image : array-like of shape (h, w) or (h, w, c)
            An image of the shape seen in ``fit``.
        class_of_interest : int, float, bool or str, default=None
            One of the pipeline's ``classes_``; None takes that which it predicts. Of a regressor
            with several targets the number of one; None takes the first.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        display : ClassActivationDisplay
            The display that was drawn.

        Raises
        ------
        NotFittedError
            If the pipeline is not fitted.
        TypeError
            If ``pipeline`` has no `StridedConv2DTransformer` or no ``decision_function``.
        ValueError
            If the pipeline is not linear after the transformer, ``pooling`` has "max", ``image`` is
            no image of the shape seen in ``fit``, or there is no such class.
        """
        images = as_batch(image)
        maps = class_activation_map(pipeline, images)[0]  # (h, w, outputs)
        evidence = _take_class(cls.__name__, pipeline, maps, class_of_interest)
        return cls(images[0], *evidence).plot(ax=ax)

    def plot(self, *, ax: Any = None, cmap: str = "PuOr_r") -> Self:
        """Draw the evidence over the image.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        cmap : str, default="PuOr_r"
            A colour map with two ends; the middle is no evidence.

        Returns
        -------
        display : ClassActivationDisplay
            This display.
        """
        ax = make_axes(type(self).__name__, ax, (6.8, 3.3))
        ax.set_axis_off()
        left, right = self.axes_ = [ax.inset_axes([0.51 * i, 0, 0.49, 1]) for i in range(2)]
        show(left, picture(self.image), cmap="gray", vmin=0, vmax=1)
        left.set_title("image", size=10)

        limit = float(np.abs(self.evidence).max()) or 1.0
        light = 0.35 + 0.65 * picture(self.image, grey=True)
        show(right, light, cmap="gray", vmin=0, vmax=1)
        alpha = 0.9 * np.sqrt(np.abs(self.evidence) / limit)
        shown = show(right, self.evidence, cmap=cmap, vmin=-limit, vmax=limit, alpha=alpha)
        right.set_title(f"evidence for {self.class_name}: {self.evidence.sum():+.3g}", size=10)
        bar = ax.figure.colorbar(shown, ax=ax, fraction=0.04, pad=0.02)
        bar.set_label("of a pixel", size=9)
        bar.ax.tick_params(labelsize=8)
        bar.solids.set_alpha(1)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _take_class(owner: str, pipeline: Any, maps: np.ndarray, chosen: Any) -> tuple[np.ndarray, str]:
    """Take the evidence for one class, ``(h, w, outputs) -> (h, w)``, and name it."""
    classes = getattr(pipeline, "classes_", None)
    if classes is None:  # a regressor
        n_targets = maps.shape[2]
        target = 0 if chosen is None else chosen
        if target not in range(n_targets):
            raise ValueError(
                f"The 'class_of_interest' parameter of {owner} must be the number of a target, "
                f"from 0 to {n_targets - 1}. Got {chosen!r} instead."
            )
        return maps[:, :, int(target)], "prediction" if n_targets == 1 else f"target {target}"
    decisions = maps.sum(axis=(0, 1))
    if len(decisions) == 1:
        maps = np.concatenate([-maps, maps], axis=2)
        decisions = maps.sum(axis=(0, 1))
    if chosen is None:
        index = int(decisions.argmax())
    elif not np.isin(chosen, classes):
        raise ValueError(
            f"The 'class_of_interest' parameter of {owner} must be one of {classes.tolist()}, or "
            f"None for the predicted one. Got {chosen!r} instead."
        )
    else:
        index = int(np.flatnonzero(classes == chosen)[0])
    return maps[:, :, index], str(classes[index])
