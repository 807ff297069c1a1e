"""`class_activation_map` and its display: where the evidence for a linear decision lies.

A linear model multiplies each feature by a weight. If the feature is a mean or a sum over
positions, its contribution to the decision is a sum over these positions as well. The whole
decision is therefore a sum over the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._images.kinds import Images
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._validation import is_dask, parameter_error
from sklearn_conv._warnings import warn
from sklearn_conv.inspection._drawing import (
    add_color_bar,
    add_panels,
    check_single_image,
    make_axes,
    show,
    show_image,
)
from sklearn_conv.inspection._model import (
    LinearDecision,
    RecordedStep,
    find_features,
    select_rows,
)
from sklearn_conv.inspection._pixel_evidence import PixelEvidence

OWNER = "class_activation_map"

CHUNK_BYTES = 2**26
"""Approximate size of the images and features in memory at once, in bytes."""


def class_activation_map(
    pipeline: Pipeline,
    images: npt.ArrayLike,
    *,
    classes: npt.ArrayLike | None = None,
    versus: Any = None,
) -> Any:
    """Map the decisions of a linear model to the pixels of the images.

    ``(n, h, w, c) -> (n, h, w, n_maps)``

    The evidence of all pixels of an image adds up to the pipeline's ``decision_function``. The
    constants that a scaler and the classifier add are spread evenly over all pixels. The evidence
    of a window is spread evenly over the pixels of the image under the weights of its kernel. A
    padded pixel that repeats a pixel of the image counts as that pixel.

    A feature with a ``power`` p other than 1 is ``g = sign(f) * abs(f)**p`` of a sum f over
    positions. It is explained to first order: each position receives the part of g that it has in
    f. These parts are the gradient of g times the parts of f, divided by p, and they add up to g.
    If the parts of f have both signs, as with the activation "identity", they may be much larger
    than g. If rounding alone keeps f from being 0, g is spread evenly over the positions.

    With ``symmetries``, the evidence of each mirrored or turned image is put back on the pixels
    from which it comes.

    The transformer may be in a branch of a ``FeatureUnion`` or a ``ColumnTransformer``, also beside
    other transformers for images with the same number of rows and columns, each with steps before
    and after it as in a pipeline. The evidence of all transformers is added. Branches with other
    features do not belong to any pixel; their evidence is spread evenly over all pixels.

    Rounding causes small differences. Evidence is computed in the dtype of the features. Between
    the term of a feature and the weighted responses of its cell, the difference is spread evenly
    over the cell; between the decision and the weighted sum of the features, it is spread evenly
    over the image.

    The features of all images are computed at once, as in ``decision_function``, unless images and
    features take more than 64 MB. They are then computed in batches.

    Parameters
    ----------
    pipeline : Pipeline
        A fitted pipeline of a `StridedConv2DTransformer` with ``pooling`` "mean", "sum" or None and
        any activation, then optional steps that compute weighted sums of features and constants,
        such as ``StandardScaler`` or ``PCA``, and at the end a linear classifier or a linear
        regressor. For a regressor, the result of ``predict`` is explained. Steps before the
        transformer may change pixels.
    images : array-like of shape (n, h, w, c), (n, h, w) or (n, h*w*c), or a table with n rows
        Images in a form that the pipeline accepts. With a ``ColumnTransformer``, a table with the
        pixels of the images in its columns.
    classes : list of labels, default=None
        Labels in the pipeline's ``classes_`` whose evidence is computed; each has a map, in this
        order. For two classes, the map of ``classes_[0]`` is minus that of ``classes_[1]``. If
        None, there is a map for each column of ``decision_function``, which takes longer.
    versus : int, float, bool or str, default=None
        A label in the pipeline's ``classes_``, whose evidence is subtracted from that for each
        class. The maps then explain why the decision is for a class and not for this one, and they
        add up to differences of decisions. For two classes, the map is the evidence for the other
        class, and with ``classes`` that of ``versus`` itself is 0. If None, nothing is subtracted.

    Returns
    -------
    maps : ndarray of shape (n, h, w, n_maps), or list of n ndarray of shape (h, w, n_maps)
        Evidence in float64. Without ``classes``, the maps are those of the columns of
        ``decision_function``: one per class, or for two classes a single one, the evidence for
        ``classes_[1]``, or with ``versus`` for the class that is not ``versus``. The maps of a
        regressor are those of its targets. The result is a list if a transformer has
        ``image_shape="any"``.

    Warns
    -----
    UserWarning
        If rounding changes the decision for an image by more than 0.001 times the largest absolute
        decision, or if more than one percent of the evidence comes from rounding.

    Raises
    ------
    NotFittedError
        If the pipeline is not fitted.
    TypeError
        If ``pipeline`` has no `StridedConv2DTransformer`, if it is not a regressor and has no
        ``decision_function``, or if ``images`` is not an array or a table.
    ValueError
        If the pipeline is not linear after the transformer, if ``pooling`` includes "max", if
        features or decisions are infinite or NaN, if ``images`` is not a batch of images of the
        shape seen in ``fit``, if transformers side by side see images with different numbers of
        rows or columns, or if ``classes`` and ``versus`` are not classes of a classifier with one
        decision per class.

    See Also
    --------
    ClassActivationDisplay : Draw the evidence.

    References
    ----------
    B. Zhou, A. Khosla, A. Lapedriza, A. Oliva and A. Torralba, "Learning Deep Features for
    Discriminative Localization" (2016), who use one mean over the whole image.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_conv import StridedConv2DTransformer
    >>> from sklearn_conv.inspection import class_activation_map
    >>> digits = load_digits()
    >>> pipeline = make_pipeline(
    ...     StridedConv2DTransformer(random_state=0), StandardScaler(), LogisticRegression()
    ... ).fit(digits.images, digits.target)
    >>> maps = class_activation_map(pipeline, digits.images[:5])
    >>> maps.shape
    (5, 8, 8, 10)
    >>> abs(maps.sum(axis=(1, 2)) - pipeline.decision_function(digits.images[:5])).max() < 1e-6
    np.True_

    Why is a digit a 3 and not an 8?

    >>> maps = class_activation_map(pipeline, digits.images[3:4], classes=[3], versus=8)
    >>> maps.shape, maps.sum() > 0
    ((1, 8, 8, 1), np.True_)
    """
    position, part = find_features(OWNER, pipeline)
    if not isinstance(pipeline, Pipeline) or position == len(pipeline) - 1:
        raise TypeError(
            f"{OWNER} explains the decision of a linear model, but there is none after the "
            "StridedConv2DTransformer; put both into a pipeline, as in make_pipeline(transformer, "
            "StandardScaler(), RidgeClassifier()). Steps that are already fitted may be used."
        )
    check_is_fitted(pipeline)
    evidence = {step: PixelEvidence(OWNER, step.step) for step in part.image_steps}
    chosen = _find_classes(OWNER, pipeline, classes)
    other = _find_versus(OWNER, pipeline, versus)
    X: Any = pipeline[:position].transform(images) if position else images
    if is_dask(X):
        rule = "an array or a table in memory; pass images.compute()"
        raise parameter_error(TypeError, OWNER, "images", rule, images)
    if isinstance(part.replica, StridedConv2DTransformer):
        part.replica.transform_batches(X)  # This call raises an error if X is not valid.
    if not hasattr(X, "__len__") or np.isscalar(X):
        rule = "images, or a table with a row for each image"
        raise parameter_error(TypeError, OWNER, "images", rule, X)
    decision = LinearDecision(OWNER, part, pipeline[position + 1 :])
    chunks = []
    rounded = total = 0.0
    n_numbers = sum(each.n_numbers for each in evidence.values())  # of an image
    length = max(1, CHUNK_BYTES // (n_numbers * np.dtype(np.float64).itemsize))
    for start in range(0, len(X), length):
        part.run(select_rows(X, slice(start, start + length)))
        each = [step.values for step in part.feature_steps]
        values = np.hstack(each)  # (b, d)
        if not np.isfinite(values).all():
            raise ValueError(
                f"{OWNER} needs finite features, but some are infinite or NaN, so that their "
                "evidence cannot be added up. Divide the images by their standard deviation before "
                "fit, or cast them to float64. With missing='ignore', cells without whole windows "
                "are NaN; leave these images out, or use a coarser pool_grid."
            )
        if not start:
            decision.fit(values)
            n_outputs = len(decision.constant)
            if chosen is not None or other is not None:
                _require_class_decisions(OWNER, pipeline.classes_, n_outputs)
            asked = _combine_outputs(n_outputs, chosen, other)  # (outputs, maps)
            ends = np.cumsum([v.shape[1] for v in each])[:-1]
            weights = np.split(decision.weights @ asked, ends)
        decision.check(values)
        inputs = {step: own.check_images(step.inputs) for step, own in evidence.items()}
        sizes = _find_sizes(inputs)  # (b, 2)
        ends = np.cumsum(sizes.prod(axis=1))
        maps = np.zeros((ends[-1], asked.shape[1]))  # of all pixels of all images
        amounts = np.zeros((2, len(values), asked.shape[1]))  # due to rounding, of all positions
        constant = np.tile(decision.constant @ asked, (len(values), 1))
        for step, features, weight in zip(part.feature_steps, each, weights, strict=True):
            if step not in evidence:
                constant += features @ weight
                continue
            for numbers, own, own_amounts in evidence[step].compute(inputs[step], features, weight):
                amounts[:, np.asarray(numbers)] += own_amounts
                for number, image in zip(numbers, own, strict=True):
                    n_pixels = sizes[number].prod()
                    maps[ends[number] - n_pixels : ends[number]] += image.reshape(n_pixels, -1)
        chunks.append((maps, constant, decision.decide(), sizes))
        rounded, total = np.maximum((rounded, total), amounts.max(axis=(1, 2)))
    maps, constant, decisions, sizes = map(_join, zip(*chunks, strict=True))
    n_pixels = sizes.prod(axis=1)
    starts = np.cumsum(n_pixels) - n_pixels
    sums = np.add.reduceat(maps, starts, axis=0) + constant
    constant += _compare(decisions, asked, sums)
    maps += np.repeat(constant / n_pixels[:, np.newaxis], n_pixels, axis=0)
    if rounded > 0.01 * total:
        warn(
            f"{rounded / total:.0%} of the evidence of an image comes from the rounding of "
            "responses: the terms of features differ from the weighted responses of their cells. "
            "Within these cells, the evidence is not reliable. If the activation has a step, use a "
            "bias slightly below 0, so that flat regions are not at the step. If it is a function, "
            "it must compute each element independently of the others. A power below 1 magnifies "
            "the rounding of features that should be 0: use normalize_patches, or a negative bias. "
            "Otherwise cast the images to float64."
        )
    if any(None in step.step.image_shape_ for step in evidence):
        parts = zip(np.split(maps, starts[1:]), sizes.tolist(), strict=True)
        return [part.reshape(*size, -1) for part, size in parts]
    return maps.reshape(len(sizes), *sizes[0], -1)


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
        The panels of the image and of the evidence; of the evidence only with given axes.

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
            An image of the shape seen in ``fit``, or of any size if the model accepts it; with a
            ``ColumnTransformer``, a table with a single row that contains its pixels. What is drawn
            is the image that the transformer receives, or the first of several side by side.
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
        X, _, shown = check_single_image(owner, pipeline, image)
        other = _find_versus(owner, pipeline, versus)
        labels = getattr(pipeline, "classes_", None)
        if labels is None:
            maps = class_activation_map(pipeline, X)[0]  # (h, w, outputs)
            n_targets = maps.shape[2]
            names = [f"target {i}" for i in range(n_targets)] if n_targets > 1 else ["prediction"]
            index = 0 if class_of_interest is None else class_of_interest
            if index not in range(n_targets):
                rule = f"the index of a target, from 0 to {n_targets - 1}"
                raise parameter_error(ValueError, owner, "class_of_interest", rule, index)
            evidence = maps[:, :, int(index)]
        else:
            names = [*map(str, labels)]
            label = class_of_interest
            label = pipeline.predict(X)[0] if label is None else label
            index = _find_class(owner, "class_of_interest", labels, label)
            if other == index:
                raise ValueError(
                    f"The 'versus' parameter of {owner} must not be the class whose evidence is "
                    f"drawn, which is {names[index]!r}; pass another class as 'class_of_interest' "
                    "or as 'versus'."
                )
            maps = class_activation_map(pipeline, X, classes=[label], versus=versus)
            evidence = maps[0][:, :, 0]
        versus_name = None if other is None else names[other]
        return cls(shown, evidence, names[int(index)], versus_name).plot(**options)

    def plot(self, *, ax: Any = None, cmap: str = "PuOr_r") -> Self:
        """Draw the image and the evidence.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw the evidence into, without the image beside it, best in a figure with
            ``layout="constrained"``, which has room for the color bar. If None, a figure of both is
            made.
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
        if ax is None:
            bounds = [(0, 0, 0.49, 1), (0.51, 0, 0.49, 1)]
            left, right = self.axes_ = add_panels(self.ax_, bounds, ["image", title])
            show_image(left, self.image)
        else:
            (right,) = self.axes_ = add_panels(self.ax_, [(0, 0, 1, 1)], [title])
        show_image(right, self.image, as_background=True)
        strength = np.abs(self.evidence)
        limit = float(strength.max()) or 1.0
        # The square root makes weak evidence visible as well.
        alpha = 0.9 * np.sqrt(strength / limit)
        alpha[np.isnan(np.asarray(self.image, np.float64)).any(axis=2)] = 0  # They stay pink.
        shown = show(right, self.evidence, cmap=cmap, vmin=-limit, vmax=limit, alpha=alpha)
        add_color_bar(self.ax_, shown, "evidence per pixel")
        return self


def _find_versus(owner: str, pipeline: Any, versus: Any) -> int | None:
    """Return the index of the class ``versus``, if there is a decision for each class."""
    if versus is None:
        return None
    _require_classes(owner, pipeline, "versus", versus, "to compare targets, subtract their maps")
    return _find_class(owner, "versus", pipeline.classes_, versus)


def _find_classes(owner: str, pipeline: Any, classes: Any) -> list[int] | None:
    """Return the indices of the labels ``classes``, if there is a decision for each class."""
    if classes is None:
        return None
    remedy = "select the maps of targets from the result"
    _require_classes(owner, pipeline, "classes", classes, remedy)
    if np.ndim(classes) != 1 or not len(classes):
        rule = f"None or a list of labels among {pipeline.classes_.tolist()}"
        raise parameter_error(ValueError, owner, "classes", rule, classes)
    return [_find_class(owner, "classes", pipeline.classes_, label) for label in classes]


def _require_classes(owner: str, pipeline: Any, name: str, value: Any, remedy: str) -> None:
    """Raise ValueError if a model has no classes."""
    if not hasattr(pipeline, "classes_"):
        raise ValueError(
            f"The {name!r} parameter of {owner} must be None for a regressor, or another model "
            f"without classes. Got {value!r} instead; {remedy}."
        )


def _find_class(owner: str, name: str, classes: np.ndarray, label: Any) -> int:
    """Return the index of a label in ``classes``."""
    labels = classes.tolist()
    if np.ndim(label) or label not in labels:
        raise parameter_error(ValueError, owner, name, f"None or one of {labels}", label)
    return labels.index(label)


def _require_class_decisions(owner: str, classes: np.ndarray, n_outputs: int) -> None:
    """Raise ValueError unless there is a decision per class, or a single one for two classes."""
    if n_outputs != len(classes) and (n_outputs, len(classes)) != (1, 2):
        raise ValueError(
            f"{owner} needs one decision per class, but there are {n_outputs} decisions for "
            f"{len(classes)} classes; use class_activation_map without 'classes' and "
            "'versus' to explain each decision."
        )


def _combine_outputs(n_outputs: int, chosen: list[int] | None, other: int | None) -> np.ndarray:
    """Return the factors of the outputs in each map, ``(outputs, maps)``."""
    outputs = np.eye(n_outputs)
    if n_outputs == 1 and (chosen is not None or other is not None):
        # The only output is the evidence for the second class, against the first one.
        outputs = np.array([[-1.0, 1.0]])
        chosen = [1 - other] if chosen is None and other is not None else chosen
        if other is not None:
            outputs[0, other] = 0
    elif other is not None:
        outputs = outputs - outputs[:, [other]]
    return outputs if chosen is None else outputs[:, chosen]


def _find_sizes(inputs: Mapping[RecordedStep, Images]) -> np.ndarray:
    """Return the rows and columns of each image, the same for all transformers, ``(n, 2)``."""
    sizes = [[images.size_of(i) for i in range(len(images))] for images in inputs.values()]
    for each in sizes[1:]:
        if each != sizes[0]:
            shapes = next(shapes for shapes in zip(*sizes, strict=True) if len({*shapes}) > 1)
            seen = (f"{size} in {step.name}" for size, step in zip(shapes, inputs, strict=True))
            raise ValueError(
                f"{OWNER} needs images with the same number of rows and columns in all branches, "
                f"but they are {', '.join(seen)}; fit the branches on images of one size, or fit "
                "and explain a pipeline for each size."
            )
    return np.array(sizes[0])


def _join(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _compare(decisions: np.ndarray, asked: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Subtract the sums of the evidence from the decisions, and warn of large deviations.

    ``asked`` has the factors of the decisions in each map, and ``sums`` those of the maps.
    """
    if not np.isfinite(decisions).all():
        raise ValueError(
            f"{OWNER} needs finite decisions, but some are infinite or NaN. Divide the images by "
            "their standard deviation before fit."
        )
    deviations = decisions @ asked - sums  # (n, maps)
    off = np.abs(deviations).max(axis=1)  # (n,)
    largest = np.abs(decisions).max()
    n_off = int((off > 1e-3 * largest).sum())
    if n_off:
        warn(
            f"The evidence of {n_off} of {len(sums)} images adds up to the decision only roughly: "
            f"it deviates by up to {off.max():.2g}, where the largest decision is {largest:.2g}. "
            "The decision is a sum of much larger terms that nearly cancel, so that their rounding "
            "changes it. Scale the features with StandardScaler, use a stronger regularization, or "
            "cast the images to float64 before fit."
        )
    return deviations
