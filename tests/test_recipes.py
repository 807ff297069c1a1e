"""`make_image_classifier` and `make_image_regressor`."""

import numpy as np
import pytest
from helpers import IS_LONG
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import FeatureUnion, Pipeline

from sklearn_conv import (
    RBFRidge,
    RBFRidgeClassifier,
    StreamingRidge,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    make_image_classifier,
    make_image_regressor,
)
from sklearn_conv._recipes import EFFORTS, RECIPES, SIDES

RNG = np.random.default_rng(0)
IMAGES = RNG.random((40, 24, 24, 3)).astype(np.float32)
LABELS = RNG.integers(3, size=40)
SMALL = {"n_kernels": 4, "n_patches": 500}

makers = pytest.mark.parametrize("make", [make_image_classifier, make_image_regressor])


def transformers(model):
    features = model["features"]
    if isinstance(features, FeatureUnion):
        return [step for _, step in features.transformer_list]
    return [features]


@makers
@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("kind", RECIPES)
def test_every_recipe_fits_images(make, kind, effort):
    model = make(kind, effort=effort, random_state=0, **SMALL)
    assert isinstance(model, Pipeline)
    predicted = clone(model).fit(IMAGES, LABELS).predict(IMAGES)
    assert predicted.shape == (40,)
    np.testing.assert_array_equal(model.fit(IMAGES, LABELS).predict(IMAGES), predicted)


@pytest.mark.parametrize("kind", RECIPES)
def test_more_effort_computes_more(kind):
    work = [
        sum(
            step.output_size((32, 32, 3)).multiply_adds
            for step in transformers(make_image_classifier(kind, effort=effort))
        )
        for effort in EFFORTS
    ]
    if kind == "objects":  # Its best effort is a Gaussian kernel rather than kernels.
        work = work[:2]
    assert work == sorted(set(work))
    assert f'- "{kind}": ' in make_image_classifier.__doc__


@makers
def test_parameters_of_the_transformer_replace_those_of_all_views(make):
    options = {"stride": 3, "symmetries": None, "bias": 0.5, "kernels": "gaussian"}
    model = make("satellite", effort="best", random_state=7, n_jobs=2, **options)
    steps = transformers(model)
    assert len(steps) > 2
    for step in steps:
        assert isinstance(step, StridedConv2DTransformer)
        assert {**step.get_params(), **options} == step.get_params()
        assert (step.random_state, step.n_jobs) == (7, 2)


def test_last_steps():
    assert isinstance(make_image_classifier()["classifier"], StreamingRidgeClassifier)
    assert isinstance(make_image_regressor()["regressor"], StreamingRidge)
    best = make_image_classifier("objects", effort="best", random_state=3)
    assert isinstance(best["classifier"], RBFRidgeClassifier)
    assert best["classifier"].random_state == 3
    assert isinstance(make_image_regressor("tiny", effort="best")["regressor"], RBFRidge)


def test_calls_do_not_share_parameters():
    first, second = make_image_classifier("natural"), make_image_classifier("natural")
    first["features"].bias.append([9.0])
    assert second["features"].bias != first["features"].bias


def test_a_grid_search_over_a_recipe():
    search = GridSearchCV(
        make_image_classifier("tiny", random_state=0, **SMALL), {"features__pool_grid": [1, 2]}
    ).fit(*(part[:200] for part in load_digits(return_X_y=True)))
    assert search.best_params_ == {"features__pool_grid": 2}


@pytest.mark.long
def test_digits():
    X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), random_state=0)
    fast, balanced = (
        make_image_classifier("tiny", effort=effort, random_state=0).fit(X, y).score(X_test, y_test)
        for effort in ("fast", "balanced")
    )
    assert fast > 0.98
    assert balanced > 0.99


@makers
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            ["cats"],
            {},
            ValueError,
            r"'kind' parameter of make_image_\w+ must be .*'tiny'\]. Got 'c",
        ),
        ([3], {}, TypeError, "'kind' parameter .* Got 3"),
        ([None], {}, TypeError, "'kind' parameter .* Got None"),
        ([["natural"]], {}, TypeError, "'kind' parameter"),
        ([], {"effort": "most"}, ValueError, "one of .*'fast'.* Got 'most'"),
        ([], {"effort": 1}, TypeError, "'effort' parameter .* Got 1"),
        ([], {"kernel": 3}, TypeError, "has no parameter 'kernel'; beside kind, effort"),
    ],
)
def test_bad_arguments(make, arguments, options, error, message):
    with pytest.raises(error, match=message):
        make(*arguments, **options)


@makers
def test_images_that_do_not_fit(make):
    with pytest.raises(
        ValueError,
        match=r"kernel_size=\(6, 6\) .* does not fit .* \(4, 4\); use images of at least 6 x 6",
    ):
        make("natural").fit(IMAGES[:, :4, :4], LABELS)
    with pytest.raises(ValueError, match=r"at least 21 x 21 pixels, padding='same'"):
        make("satellite").fit(IMAGES[:, :12, :12], LABELS)
    with pytest.raises(ValueError, match="'stride' parameter"):
        make("natural", stride=0).fit(IMAGES, LABELS)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("kind", RECIPES)
def test_the_smallest_images_are_those_of_the_documents(kind, effort):
    smallest = {"natural": 6, "textures": 6, "defects": 5, "satellite": 21}.get(kind, 1)
    images = np.random.default_rng(0).normal(size=(9, smallest, smallest))
    model = make_image_classifier(kind, effort=effort, n_kernels=2, random_state=0)
    assert model["features"].fit_transform(images).shape[0] == 9
    if smallest > 1:
        with pytest.raises(ValueError, match="images of at least"):
            model["features"].fit(images[:, 1:])
        model = make_image_classifier(kind, effort=effort, n_kernels=2, padding="same")
        assert model["features"].fit_transform(images[:, :3, :3]).shape[0] == 9


@makers
@pytest.mark.parametrize("effort", EFFORTS if IS_LONG else ["fast"])
@pytest.mark.parametrize("kind", RECIPES)
def test_much_larger_images_get_one_warning(make, kind, effort, recwarn):
    side = SIDES.get(kind)
    model = make(kind, effort=effort, n_kernels=2, n_patches=500, random_state=0)
    images = RNG.random((9, 3 * (side or 64), 3 * (side or 64) + 1)).astype(np.float32)
    model.fit(images, LABELS[:9])
    larger = np.pad(images, ((0, 0), (1, 0), (0, 0)), mode="edge")
    assert not recwarn
    clone(model).fit(larger, LABELS[:9])
    if side is None:
        assert not recwarn
    else:
        (found,) = recwarn
        assert f"about {side} x {side}: its" in str(found.message)
        assert f"ImageReader(size=({side}, {side}))" in str(found.message)
        assert found.filename == __file__


@pytest.mark.parametrize("given", [{"kernel_size": 9}, {"stride": 4}, {"dilation": 2}])
def test_changed_windows_get_no_warning_of_large_images(given):
    images = RNG.random((9, 150, 150)).astype(np.float32)
    model = make_image_classifier("objects", n_kernels=2, n_patches=500, **given)
    model.fit(images, LABELS[:9])
    later = make_image_classifier("objects", n_kernels=2, n_patches=500)
    later.set_params(**{f"features__{name}": value for name, value in given.items()})
    clone(later).fit(images, LABELS[:9])
    with pytest.warns(UserWarning, match=r"150 x 150 pixels, but .* about 28 x 28"):
        make_image_classifier("objects", n_kernels=2, pool_grid=2, symmetries=None).fit(
            images, LABELS[:9]
        )


def test_parameters_of_the_last_step_are_passed_to_it():
    given = {"class_weight": "balanced", "alphas": 3.0, "stride": 2}
    model = make_image_classifier("satellite", **given)
    expected = {"class_weight": "balanced", "alphas": 3.0, "scoring": "neg_log_loss"}
    assert model[-1].get_params() == expected
    assert all(step.stride == 2 for step in transformers(model))
    model = make_image_regressor("tiny", effort="best", n_landmarks=7, random_state=3)
    assert isinstance(model[-1], RBFRidge)
    assert (model[-1].n_landmarks, model[-1].random_state, model[0].random_state) == (7, 3, 3)
    message = r"effort='best' is RBFRidgeClassifier: alphas, gammas, n_landmarks, scoring\.$"
    with pytest.raises(TypeError, match=message):
        make_image_classifier("tiny", effort="best", class_weight="balanced")
    with pytest.raises(TypeError, match=r"is StreamingRidge: alpha_per_target, alphas\.$"):
        make_image_regressor(class_weight="balanced")
