"""Pipelines for kinds of images: `make_image_classifier` and `make_image_regressor`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from inspect import signature
from typing import Any

import numpy as np
from sklearn.pipeline import FeatureUnion, Pipeline

from sklearn_conv._ridge.classifier import StreamingRidgeClassifier
from sklearn_conv._ridge.rbf import RBFRidge, RBFRidgeClassifier
from sklearn_conv._ridge.regressor import StreamingRidge
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._validation import check_name

ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Regularization strengths, among which leave-one-out scores choose."""

LEARNED = {
    "kernels": "patches",
    "normalize_patches": True,
    "whiten": True,
    "activation": "split",
    "bias": -0.25,
    "power": 0.5,
}
"""Parameters of transformers that learn their kernels from the images."""

TWO = {"bias": [[-0.25], [-1.0]]}
"""A second threshold, which only strong responses exceed."""

ABSOLUTE = {"normalize_patches": False, "whiten": 0.01}
"""Parameters for a view that keeps brightness, color and contrast."""

EFFORTS = ("fast", "balanced", "best")
"""How much time to spend, from little to much."""

Views = Mapping[str, Mapping[str, Any]]
"""Map from the name of a view to the parameters of its transformer."""

OBJECTS = LEARNED | {"kernel_size": 7, "pool_grid": [3, 5], "symmetries": "mirror"}
CHARACTERS = LEARNED | {"kernel_size": 7, "pool_grid": [2, 4], "bias": -1.5, "whiten": 1.0}
NATURAL = LEARNED | TWO | {"kernel_size": 6, "pool_grid": 3, "padding": "valid"}
TILES = LEARNED | TWO | {"kernel_size": 6, "pool_grid": 1, "padding": "valid", "stride": 2}
TILES |= {"symmetries": "dihedral"}
SURFACES = LEARNED | TWO | {"kernel_size": 6, "pool_grid": 1, "padding": "valid"}
DEFECTS = {
    "kernels": "gabor",
    "kernel_size": 5,
    "activation": "split",
    "pooling": "max",
    "pool_grid": 1,
    "padding": "valid",
}


def _one(parameters: Mapping[str, Any], **more: Any) -> Views:
    return {"learned": {**parameters, **more}}


def _tiles(n_kernels: int) -> Views:
    """Return views of normalized windows, and of small and wide windows as they are."""
    normalized = TILES | {"n_kernels": n_kernels}
    absolute = normalized | ABSOLUTE
    return {
        "normalized": normalized,
        "absolute_1": absolute | {"dilation": 1},
        "absolute_4": absolute | {"dilation": 4},
    }


RECIPES: Mapping[str, Mapping[str, Views]] = {
    "natural": {
        "fast": _one(NATURAL, n_kernels=128),
        "balanced": _one(NATURAL, n_kernels=256, symmetries="mirror"),
        "best": _one(NATURAL, n_kernels=512, symmetries="mirror"),
    },
    "objects": {
        "fast": _one(OBJECTS, n_kernels=48),
        "balanced": _one(OBJECTS, n_kernels=128),
        "best": _one(OBJECTS, n_kernels=96),
    },
    "characters": {
        "fast": _one(CHARACTERS, n_kernels=64),
        "balanced": _one(CHARACTERS, n_kernels=96),
        "best": _one(CHARACTERS, n_kernels=128),
    },
    "textures": {
        "fast": _one(SURFACES, n_kernels=128),
        "balanced": _one(SURFACES, n_kernels=256),
        "best": _one(SURFACES, n_kernels=512, symmetries="dihedral"),
    },
    "satellite": {
        "fast": _tiles(96),
        "balanced": _tiles(256),
        "best": _tiles(512),
    },
    "tiny": {
        "fast": _one(LEARNED, n_kernels=64, kernel_size=4, pool_grid=3),
        "balanced": _one(LEARNED, n_kernels=128, kernel_size=4, pool_grid=3),
        "best": _one(LEARNED | TWO, n_kernels=256, kernel_size=4, pool_grid=3),
    },
    "few_labels": {
        "fast": _one(OBJECTS, n_kernels=32),
        "balanced": _one(OBJECTS, n_kernels=64),
        "best": _one(OBJECTS, n_kernels=128),
    },
    "defects": {
        "fast": _one(DEFECTS, n_kernels=16),
        "balanced": _one(DEFECTS, n_kernels=32),
        "best": _one(DEFECTS, n_kernels=64),
    },
}
"""Map from the kind of images and the effort to the views that a pipeline has side by side."""

SIDES = {"natural": 32, "objects": 28, "characters": 28, "satellite": 64, "tiny": 16}
SIDES["few_labels"] = 28
"""Typical side of the images of a kind; surfaces and defects are of any size."""

N_LANDMARKS = 60_000
"""Number of images up to which a Gaussian kernel combines all of them."""

RBF = {"natural", "objects", "characters", "tiny", "few_labels"}
"""Kinds whose best effort has a Gaussian kernel behind the features."""


def make_image_classifier(
    kind: str = "objects",
    *,
    effort: str = "balanced",
    random_state: int | np.random.RandomState | None = None,
    n_jobs: int | None = -1,
    **parameters: Any,
) -> Pipeline:
    """Make a pipeline that classifies a kind of images.

    The pipeline has two steps: "features", which is a `StridedConv2DTransformer` or, for several
    views side by side, a `~sklearn.pipeline.FeatureUnion` of them, and "classifier". Both can be
    examined, searched and replaced as in any pipeline.

    Parameters
    ----------
    kind : str, default="objects"
        Kind of images:

        - "natural": photographs of anything, such as 32 x 32 pixels;
        - "objects": centered objects of about 28 x 28 pixels, such as products;
        - "characters": centered characters of about 28 x 28 pixels, which mirroring would change;
        - "textures": surfaces and materials, where positions do not matter;
        - "satellite": tiles seen from above, of about 64 x 64 pixels, in any direction;
        - "tiny": 8 x 8 to 16 x 16 pixels;
        - "few_labels": centered objects with about 20 labels for each class;
        - "defects": even surfaces of which one small place may differ.

        Images may have any number of channels, and any size from 6 x 6 pixels for "natural" and
        "textures", 5 x 5 for "defects", and 21 x 21 for "satellite". The other kinds have no
        smallest size. With ``padding="same"``, none has. The sizes above are the same for all
        efforts. If all images are more than three times as large in both directions, ``fit`` warns
        and names a better size, unless ``kernels``, ``kernel_size``, ``dilation`` or ``stride`` is
        given. "textures" and "defects" may be of any size.
    effort : {"fast", "balanced", "best"}, default="balanced"
        How much time to spend. More effort means more kernels, views and symmetries; "best" for
        "objects" has fewer kernels than "balanced". With "best", the last step for "natural",
        "objects", "characters", "tiny" and "few_labels" is a `RBFRidgeClassifier`, which combines
        up to 60,000 training images, and whose decisions cannot be mapped to pixels; the last step
        of all others is a `StreamingRidgeClassifier`. The page on recipes lists the accuracy and
        the seconds of each.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the training patches and kernels.
    n_jobs : int or None, default=-1
        Number of threads in which features are computed, as in `StridedConv2DTransformer`: -1
        means all cores, and one thread in each job of a search with several jobs; None means 1
        unless in a `joblib.parallel_config` context.
    **parameters
        Parameters of `StridedConv2DTransformer` that replace those of the recipe, in all views,
        and of the last step, such as ``class_weight="balanced"``.

    Returns
    -------
    pipeline : Pipeline
        The pipeline, not fitted.

    Raises
    ------
    TypeError
        If ``kind`` or ``effort`` is not a string, or if a parameter is unknown.
    ValueError
        If ``kind`` or ``effort`` is unknown. Wrong values of the other parameters raise errors in
        ``fit``, as do images that are too small for the kernels.

    See Also
    --------
    make_image_regressor : The same for numbers instead of classes.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn_conv import make_image_classifier
    >>> images, test_images, labels, test_labels = train_test_split(
    ...     load_digits().images, load_digits().target, random_state=0
    ... )
    >>> model = make_image_classifier("tiny", effort="fast", random_state=0).fit(images, labels)
    >>> model.score(test_images, test_labels) > 0.98
    True
    """
    return _make_pipeline(
        ("make_image_classifier", kind, effort),
        StreamingRidgeClassifier(ALPHAS, scoring="neg_log_loss"),
        RBFRidgeClassifier(
            n_landmarks=N_LANDMARKS, random_state=random_state, scoring="neg_log_loss"
        ),
        parameters | {"random_state": random_state, "n_jobs": n_jobs},
    )


def make_image_regressor(
    kind: str = "satellite",
    *,
    effort: str = "balanced",
    random_state: int | np.random.RandomState | None = None,
    n_jobs: int | None = -1,
    **parameters: Any,
) -> Pipeline:
    """Make a pipeline that predicts one or several numbers for each image of a kind.

    The steps are "features" and "regressor", which is a `StreamingRidge`, or a `RBFRidge`
    where `make_image_classifier` has a `RBFRidgeClassifier`.

    Parameters
    ----------
    kind : str, default="satellite"
        Kind of images: "natural" photographs, centered "objects" or "characters", "textures",
        "satellite" tiles, "tiny" images, "few_labels", or even surfaces with "defects".
        `make_image_classifier` says more about them.
    effort : {"fast", "balanced", "best"}, default="balanced"
        How much time to spend, from little to much.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the training patches and kernels.
    n_jobs : int or None, default=-1
    **parameters
        As in `make_image_classifier`.

    Returns
    -------
    pipeline : Pipeline
        The pipeline, not fitted.

    Raises
    ------
    TypeError, ValueError
        As in `make_image_classifier`.

    See Also
    --------
    make_image_classifier : The same for classes.

    References
    ----------
    E. Rolf et al., "A Generalizable and Accessible Approach to Machine Learning with Global
    Satellite Imagery" (2021): ridge regression on convolutional features of satellite tiles.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_conv import make_image_regressor
    >>> rng = np.random.default_rng(0)
    >>> roughness = rng.random(300)
    >>> images = rng.normal(0, roughness[:, np.newaxis, np.newaxis], (300, 16, 16))
    >>> model = make_image_regressor("textures", effort="fast", normalize_patches=False)
    >>> model.fit(images[:200], roughness[:200]).score(images[200:], roughness[200:]) > 0.9
    True
    """
    return _make_pipeline(
        ("make_image_regressor", kind, effort),
        StreamingRidge(ALPHAS),
        RBFRidge(n_landmarks=N_LANDMARKS, random_state=random_state),
        parameters | {"random_state": random_state, "n_jobs": n_jobs},
    )


def _make_pipeline(
    recipe: tuple[str, str, str], ridge: Any, rbf_ridge: Any, parameters: Mapping[str, Any]
) -> Pipeline:
    """Return a pipeline of the views of a recipe and one of two models, with their parameters."""
    owner, kind, effort = recipe
    efforts = RECIPES[check_name(owner, "kind", kind, RECIPES)]
    views = efforts[check_name(owner, "effort", effort, efforts)]
    last = rbf_ridge if effort == "best" and kind in RBF else ridge
    known = {*signature(StridedConv2DTransformer).parameters}
    own = {*last.get_params()} - known
    unknown = sorted({*parameters} - known - own)
    if unknown:
        raise TypeError(
            f"{owner} has no parameter {unknown[0]!r}; beside kind, effort, random_state and "
            "n_jobs, it has those of StridedConv2DTransformer, and those of the last step, which "
            f"for kind={kind!r} and effort={effort!r} is {type(last).__name__}: "
            f"{', '.join(sorted(own))}."
        )
    last.set_params(**{name: parameters[name] for name in own & {*parameters}})
    given = {name: value for name, value in parameters.items() if name not in own}
    transformers = [
        (name, StridedConv2DTransformer(**{**deepcopy(view), **given}))
        for name, view in views.items()
    ]
    if kind in SIDES and not given.keys() & {"kernels", "kernel_size", "dilation", "stride"}:
        transformers[0][1]._typical_side = SIDES[kind]  # Only one of the views warns.
    features = transformers[0][1] if len(transformers) == 1 else FeatureUnion(transformers)
    return Pipeline([("features", features), (owner.removeprefix("make_image_"), last)])
