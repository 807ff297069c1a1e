"""SharedFeaturesSearch has the results of the search by itself, from each image once."""

import errno
import os
import pickle
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SelectKBest, f_classif, mutual_info_classif
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import make_scorer, r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_conv import (
    SharedFeaturesSearch,
    StreamingRidge,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    read_images,
)
from sklearn_conv._ridge.moments import Moments
from sklearn_conv._search import _Store
from sklearn_conv.inspection import GridSearchDisplay

IMAGES, LABELS = load_digits(n_class=4, return_X_y=True)
IMAGES, LABELS = IMAGES.reshape(-1, 8, 8)[:150], LABELS[:150]
NUMBERED = IMAGES.copy()
NUMBERED[:, 0, 0] = np.arange(len(IMAGES))
LEARNED = {"kernels": "patches", "whiten": True, "normalize_patches": True, "bias": "quantile"}
DILATED = LEARNED | {"dilation": 4}  # Kernels of 3 x 3 pixels are larger than the images.
pytestmark = pytest.mark.filterwarnings("ignore:Kernels, whitening:UserWarning")


def assert_same_results(shared, plain):
    assert list(shared.cv_results_) == list(plain.cv_results_)
    for name, expected in plain.cv_results_.items():
        found = shared.cv_results_[name]
        if name == "params":
            assert str(found) == str(expected)
        elif "time" not in name:
            if np.asarray(expected).dtype == object:
                assert list(map(str, found)) == list(map(str, expected))
            else:
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, err_msg=name)


def count_transforms(monkeypatch):
    """Count how often each of NUMBERED is transformed, for each setting."""
    counts, transform = Counter(), StridedConv2DTransformer.transform

    def count(self, X):
        setting = str(sorted(self.get_params().items(), key=str))
        counts.update((setting, int(image[0, 0])) for image in np.asarray(X))
        return transform(self, X)

    monkeypatch.setattr(StridedConv2DTransformer, "transform", count)
    return counts


def pipeline(**parameters):
    transformer = StridedConv2DTransformer(4, random_state=0, **parameters)
    return Pipeline(
        [("conv", transformer), ("scale", StandardScaler()), ("last", RidgeClassifier())]
    )


GRID = {"conv__stride": [1, 2], "conv__kernel_size": [2, 3], "last__alpha": [0.1, 10]}
SEARCHES = {
    "grid": lambda steps: GridSearchCV(steps, GRID, cv=3),
    "random": lambda steps: RandomizedSearchCV(
        steps, GRID | {"last__alpha": loguniform(0.1, 10)}, n_iter=5, cv=3, random_state=0
    ),
    "halving": lambda steps: HalvingGridSearchCV(steps, GRID, cv=3, random_state=0),
    "random halving": lambda steps: HalvingRandomSearchCV(steps, GRID, cv=3, random_state=0),
    "no grid": lambda steps: GridSearchCV(steps, {}, cv=3),
    "threads": lambda steps: GridSearchCV(steps, GRID, cv=3, n_jobs=2),
}


@pytest.mark.parametrize("parameters", [{}, LEARNED], ids=["random", "learned"])
@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.filterwarnings("ignore:The total space of parameters:UserWarning")
def test_results_are_those_of_the_search(name, parameters):
    search = SEARCHES[name](pipeline(**parameters))
    plain = clone(search).set_params(n_jobs=None).fit(IMAGES, LABELS)
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert_same_results(shared, plain)
    assert shared.best_params_ == plain.best_params_
    np.testing.assert_array_equal(shared.predict(IMAGES), plain.predict(IMAGES))
    assert shared.score(IMAGES, LABELS) == plain.score(IMAGES, LABELS)
    assert type(shared.best_estimator_) is Pipeline


def count_columns(columns):
    """Return how often images are transformed by a search with a column transformer."""
    counts, transform = [], StridedConv2DTransformer.transform

    def count(self, X):
        counts.append(len(X))
        return transform(self, X)

    X = np.hstack([IMAGES.reshape(150, -1), np.random.default_rng(0).normal(size=(150, 2))])
    search = GridSearchCV(
        make_pipeline(columns, RidgeClassifier()), {"ridgeclassifier__alpha": [1, 10]}, cv=3
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StridedConv2DTransformer, "transform", count)
        shared = SharedFeaturesSearch(search).fit(X, LABELS)
    assert_same_results(shared, clone(search).fit(X, LABELS))
    np.testing.assert_array_equal(shared.predict(X), search.fit(X, LABELS).predict(X))
    return sum(counts)


def test_random_transformers_differ():
    union = make_union(StridedConv2DTransformer(4), StridedConv2DTransformer(4))
    search = GridSearchCV(make_pipeline(union, RidgeClassifier()), {}, cv=3)
    with pytest.warns(UserWarning, match="is not an integer"):
        shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    first, second = (part.kernels_ for _, part in shared.best_estimator_[0].transformer_list)
    assert not np.array_equal(first, second)


class Opposite(Pipeline):
    def predict(self, X):
        return -super().predict(X)


def test_subclasses_are_searched_as_they_are():
    steps = Opposite([("conv", StridedConv2DTransformer(4, random_state=0)), ("r", Ridge())])
    search = GridSearchCV(steps, {"r__alpha": [1, 10]}, cv=3, scoring="r2")
    with pytest.warns(UserWarning, match="is no Pipeline of scikit-learn"):
        shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert_same_results(shared, clone(search).fit(IMAGES, LABELS))


def test_masked_images_behind_a_step_that_is_left_out():
    images = np.ma.array(IMAGES, copy=True)
    images[::2, 2:4, 2:4] = 999
    images[::2, 2:4, 2:4] = np.ma.masked
    conv = StridedConv2DTransformer(4, 2, missing="ignore", pool_grid=1, random_state=0)
    steps = Pipeline(
        [("a", "passthrough"), ("b", FunctionTransformer()), ("c", conv), ("r", RidgeClassifier())]
    )
    search = GridSearchCV(steps, {"r__alpha": [1, 10]}, cv=3)
    with pytest.warns(UserWarning, match="not known what the step 'b' depends on"):
        shared = SharedFeaturesSearch(search).fit(images, LABELS)
    assert_same_results(shared, clone(search).fit(images, LABELS))


def test_parameters_of_later_steps_need_no_description():
    steps = make_pipeline(StridedConv2DTransformer(4, random_state=0), SelectKBest(k=4), Ridge())
    scores = [f_classif, partial(mutual_info_classif, random_state=0)]
    search = GridSearchCV(steps, {"selectkbest__score_func": scores}, cv=2)
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert_same_results(shared, clone(search).fit(IMAGES, LABELS))


def test_frozen_steps_are_what_they_have_learned():
    conv = StridedConv2DTransformer(4, random_state=0)
    features = conv.fit_transform(IMAGES)
    noise = np.random.default_rng(0).normal(size=features.shape)
    frozen = [FrozenEstimator(PCA(4).fit(each)) for each in (features, noise)]
    steps = Pipeline([("conv", conv), ("pca", frozen[0]), ("last", StreamingRidgeClassifier(1.0))])
    search = GridSearchCV(steps, {"pca": frozen}, cv=3)
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert_same_results(shared, clone(search).fit(IMAGES, LABELS))


@pytest.mark.parametrize("verbose", [0, 1])
def test_metadata_is_routed(verbose, capsys):
    weights, groups = np.where(LABELS > 1, 100.0, 0.01), np.arange(150) % 9
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(r2_score).set_score_request(sample_weight=True)
        ridge = StreamingRidge(1.0).set_fit_request(sample_weight=True)
        steps = make_pipeline(StridedConv2DTransformer(4, random_state=0), ridge)
        search = GridSearchCV(steps, {}, cv=GroupKFold(2), scoring=scorer)
        plain, shared = (
            cross_validate(
                each,
                IMAGES,
                LABELS.astype(float),
                cv=GroupKFold(3),
                scoring=scorer,
                error_score="raise",
                params={"sample_weight": weights, "groups": groups},
            )["test_score"]
            for each in (search, SharedFeaturesSearch(search, verbose=verbose))
        )
    np.testing.assert_allclose(shared, plain, rtol=1e-9)


def test_kernels_of_a_function_that_are_random():
    rng = np.random.default_rng(0)
    steps = pipeline(kernels=lambda shape, *more: rng.standard_normal(shape))
    shared = SharedFeaturesSearch(GridSearchCV(steps, {}, cv=3)).fit(IMAGES, LABELS)
    assert shared.score(IMAGES, LABELS) > 0.9


def test_scorers_see_fitted_steps_and_the_result_has_seen_all_images():
    def thrifty(model, X, y):
        return model.score(X, y) - 1e-9 * model[0].multiply_adds_

    search = GridSearchCV(pipeline(), {"last__alpha": [1, 10]}, cv=3, scoring=thrifty)
    plain = clone(search).fit(IMAGES, LABELS)
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert_same_results(shared, plain)
    assert shared.best_estimator_[0]._values_seen == plain.best_estimator_[0]._values_seen


CONV = StridedConv2DTransformer(4, image_shape=(8, 8), random_state=0)


@pytest.mark.parametrize("columns", [[*range(64)], slice(0, 64)], ids=["list", "slice"])
def test_columns_are_shared(columns):
    """To fit a ColumnTransformer computes features as well: of a fold, and of all images."""
    weights = {"image": 2.0}
    step = ColumnTransformer([("image", CONV, columns)], transformer_weights=weights)
    assert count_columns(step) == 100 + 150 + 150
    step.set_params(remainder="passthrough")
    assert count_columns(step) == 100 + 150 + 150


def test_a_remainder_that_learns_is_fitted_in_each_fold():
    step = ColumnTransformer([("image", CONV, slice(0, 64))], remainder=StandardScaler())
    with pytest.warns(UserWarning, match="not known what the step 'columntransformer' depends"):
        assert count_columns(step) == 7 * 150


def test_parameters_without_a_description_are_named():
    class Make:
        def __call__(self, shape, rng, patches):
            return rng.standard_normal(shape)

    search = GridSearchCV(pipeline(kernels=Make()), {"last__alpha": [1, 10]}, cv=3)
    with pytest.warns(UserWarning, match="cannot be compared with its copies"):
        shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert_same_results(shared, clone(search).fit(IMAGES, LABELS))


def test_kernels_larger_than_the_images():
    """Training patches then extend into the padding, whose amount depends on the stride."""
    steps = pipeline(**LEARNED, kernel_size=5, dilation=2)
    search = GridSearchCV(steps, {"conv__stride": [1, 2, 3]}, cv=3)
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert_same_results(shared, clone(search).fit(IMAGES, LABELS))


@st.composite
def pipelines(draw):
    """Draw a pipeline and a grid of a few of its parameters."""
    first = draw(st.sampled_from(["conv", "union", "columns", "nested"]))
    parameters = draw(st.sampled_from([{}, LEARNED, DILATED, {"missing": "ignore"}]))
    conv = StridedConv2DTransformer(3, random_state=draw(st.integers(0, 9)), **parameters)
    if first == "union":
        conv = make_union(conv, StridedConv2DTransformer(2, 2, random_state=1))
    if first == "columns":
        conv = ColumnTransformer([("image", conv.set_params(image_shape=(8, 8)), [*range(64)])])
    if first == "nested":
        conv = make_pipeline(conv)
    last = draw(st.sampled_from([RidgeClassifier(), StreamingRidgeClassifier([0.1, 10])]))
    middle = draw(st.sampled_from([StandardScaler(), "passthrough"]))
    steps = Pipeline([("first", conv), ("middle", middle), ("last", last)])
    names = [name for name in steps.get_params() if name.startswith("first__")]
    values = {"stride": [1, 2], "kernel_size": [2, 3], "activation": ["relu", "abs"], "n_jobs": [1]}
    grid = {"middle": ["passthrough", StandardScaler()]}
    if isinstance(last, StreamingRidgeClassifier) and draw(st.booleans()):
        grid["last__alphas"] = [[0.1, 10], 1.0, [1, 2, 3]]
    for name in names:
        value = values.get(name.rpartition("__")[2])
        if value and draw(st.booleans()) and len(grid) < 4:
            grid[name] = value
    return steps, grid, first == "columns"


@settings(max_examples=10)
@given(pipelines(), st.sampled_from([3, KFold(2, shuffle=True, random_state=0)]))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_pipeline_and_grid(drawn, cv):
    steps, grid, has_columns = drawn
    X = IMAGES.reshape(150, -1) if has_columns else IMAGES
    search = GridSearchCV(steps, grid, cv=cv)
    assert_same_results(SharedFeaturesSearch(search).fit(X, LABELS), clone(search).fit(X, LABELS))


def test_each_image_is_convolved_once_for_each_setting(monkeypatch):
    counts = count_transforms(monkeypatch)
    SharedFeaturesSearch(GridSearchCV(pipeline(), GRID, cv=3)).fit(NUMBERED, LABELS)
    assert set(counts.values()) == {1}
    assert len(counts) == 4 * 150


def test_each_image_is_convolved_once_for_each_fold_if_kernels_are_learned(monkeypatch):
    counts = count_transforms(monkeypatch)
    search = GridSearchCV(pipeline(**LEARNED), GRID, cv=3, refit=False)
    SharedFeaturesSearch(search).fit(NUMBERED, LABELS)
    assert set(counts.values()) == {3}
    counts.clear()
    SharedFeaturesSearch(search, share_kernels=True).fit(NUMBERED, LABELS)
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("scaler", [StandardScaler(), None])
@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("kind", [StreamingRidgeClassifier, StreamingRidge])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning")
def test_alphas_share_the_sums(monkeypatch, kind, n_jobs, scaler):
    calls, add = [], Moments.add

    def count(self, added):
        calls.append(len(added.weights))
        add(self, added)

    monkeypatch.setattr(Moments, "add", count)
    conv = StridedConv2DTransformer(4, random_state=0)
    steps = Pipeline([("conv", conv), ("scale", scaler), ("last", kind())])
    grid = {"last__alphas": [0.1, [1, 10], 1e3, "x"], "conv__stride": [1, 2]}
    if kind is StreamingRidge:
        grid["last__alpha_per_target"] = [False, True]
    search = GridSearchCV(steps, grid, cv=3, n_jobs=n_jobs, refit=False)
    weights = np.linspace(0.5, 1, len(LABELS))
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS, last__sample_weight=weights)
    assert len(calls) == 2 * 3
    calls.clear()
    search.set_params(n_jobs=None).fit(IMAGES, LABELS, last__sample_weight=weights)
    assert len(calls) == 2 * 3 * 3 * (len(grid["last__alpha_per_target"]) if len(grid) > 2 else 1)
    assert_same_results(shared, search)


def test_sums_are_not_held_beyond_the_limit_and_not_for_random_features(monkeypatch):
    calls, add = [], Moments.add
    monkeypatch.setattr(Moments, "add", lambda *both: calls.append(1) or add(*both))
    steps = pipeline().set_params(last=StreamingRidgeClassifier())
    search = GridSearchCV(steps, {"last__alphas": [1.0, 10.0]}, cv=3, refit=False)
    SharedFeaturesSearch(search, max_bytes=0).fit(IMAGES, LABELS)
    assert len(calls) == 6
    search.estimator.set_params(conv__random_state=None)
    with pytest.warns(UserWarning, match="Features of some settings are computed again"):
        SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert len(calls) == 12


def test_settings_that_learn_the_same_learn_once(monkeypatch):
    calls, learn = [], StridedConv2DTransformer._learn

    def count(self, *arguments):
        calls.append(self.kernel_size)
        return learn(self, *arguments)

    monkeypatch.setattr(StridedConv2DTransformer, "_learn", count)
    values = {"stride": [1, 2], "kernel_size": [2, 3], "pool_grid": [1, [1, 2]], "power": [1, 0.5]}
    values |= {"activation": ["relu", "split"], "pooling": ["mean", "max"]}
    grid = {f"conv__{name}": value for name, value in values.items()}
    search = RandomizedSearchCV(pipeline(**LEARNED), grid, n_iter=20, cv=3, random_state=0)
    search.set_params(refit=False)
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert Counter(calls) == {2: 3, 3: 3}
    assert_same_results(shared, search.fit(IMAGES, LABELS))
    calls.clear()
    union = make_union(
        StridedConv2DTransformer(4, random_state=0, **LEARNED), *[pipeline(**LEARNED)[:1]] * 2
    )
    steps = Pipeline([("union", union), ("last", RidgeClassifier())])
    grid = {"union__stridedconv2dtransformer__stride": [1, 2]}
    search = GridSearchCV(steps, grid, cv=3, refit=False)
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert len(calls) == 3
    assert_same_results(shared, search.fit(IMAGES, LABELS))
    layers = make_pipeline(
        StridedConv2DTransformer(4, pooling=None, flatten=False, random_state=0),
        StridedConv2DTransformer(4, random_state=0, **LEARNED),
    )
    steps = Pipeline([("layers", layers), ("last", RidgeClassifier())])
    grid = {"layers__stridedconv2dtransformer-1__activation": ["relu", "abs"]}
    search = GridSearchCV(steps, grid, cv=3, refit=False)
    calls.clear()
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert len(calls) == 3 + 6  # The second layers learn from other maps.
    assert_same_results(shared, search.fit(IMAGES, LABELS))


def test_threads_that_fail_leave_the_work_to_others(monkeypatch):
    failed, transform = [], StridedConv2DTransformer.transform

    def fail_once(self, X):
        if not failed:
            failed.append(1)
            raise ValueError("once")
        return transform(self, X)

    monkeypatch.setattr(StridedConv2DTransformer, "transform", fail_once)
    search = GridSearchCV(pipeline(), GRID, cv=3, n_jobs=2)
    with (
        pytest.warns(FitFailedWarning, match="1 fits failed"),
        pytest.warns(UserWarning, match="non-finite"),
    ):
        shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    assert np.isnan([shared.cv_results_[f"split{i}_test_score"] for i in range(3)]).sum() == 1


def from_images(shape, rng, patches):
    return patches(shape[3]).T.reshape(shape)


def from_nothing(shape, rng, patches):
    return rng.standard_normal(shape)


@pytest.mark.parametrize(("kernels", "n"), [(from_images, 3), (from_nothing, 1)])
def test_whether_a_function_learns_is_seen(monkeypatch, kernels, n):
    counts = count_transforms(monkeypatch)
    search = GridSearchCV(pipeline(kernels=kernels), GRID, cv=3, refit=False)
    SharedFeaturesSearch(search).fit(NUMBERED, LABELS)
    assert set(counts.values()) == {n}


@pytest.mark.parametrize("state", [None, np.random.RandomState(0)])
def test_what_cannot_be_shared_is_said(state):
    search = GridSearchCV(pipeline().set_params(conv__random_state=state), {}, cv=3)
    with pytest.warns(UserWarning, match=r"computed again in each fit: random_state=.* is not an"):
        SharedFeaturesSearch(search).fit(IMAGES, LABELS)
    search = GridSearchCV(RidgeClassifier(), {"alpha": [1, 2]}, cv=3)
    with pytest.warns(UserWarning, match="is no Pipeline"):
        SharedFeaturesSearch(search).fit(IMAGES.reshape(150, -1), LABELS)


def test_a_pipeline_without_images_is_searched_as_usual():
    search = GridSearchCV(make_pipeline(StandardScaler(), RidgeClassifier()), {}, cv=3)
    X = IMAGES.reshape(150, -1)
    shared = SharedFeaturesSearch(search).fit(X, LABELS)
    assert_same_results(shared, search.fit(X, LABELS))
    np.testing.assert_array_equal(shared.predict(X), search.predict(X))


def folders(tmp_path):
    return [name for name in os.listdir(tmp_path) if name.startswith("sklearn_conv_")]


def test_features_beyond_the_limit_are_in_files_that_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made, empty = [], _Store.empty

    def keep(self, *arguments):
        made.append((type(values := empty(self, *arguments)), folders(tmp_path)))
        return values

    monkeypatch.setattr(_Store, "empty", keep)
    search = GridSearchCV(pipeline(), GRID, cv=3)
    one = 150 * StridedConv2DTransformer(4).fit(IMAGES).n_features_out_ * 8
    shared = SharedFeaturesSearch(search, max_bytes=one).fit(IMAGES, LABELS)
    assert [kind for kind, _ in made] == [np.ndarray] + [np.memmap] * 3
    assert len(made[-1][1]) == 1
    assert folders(tmp_path) == []
    assert_same_results(shared, search.fit(IMAGES, LABELS))

    def fail(self, X, y):
        raise KeyboardInterrupt

    monkeypatch.setattr(RidgeClassifier, "fit", fail)
    with pytest.raises(KeyboardInterrupt):
        SharedFeaturesSearch(search, max_bytes=0).fit(IMAGES, LABELS)
    assert len(made[-1][1]) == 1
    assert folders(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate of Linux")
def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", fail)
    search = GridSearchCV(pipeline(), GRID, cv=3, error_score="raise")
    with pytest.raises(OSError, match="No space left"):
        SharedFeaturesSearch(search, max_bytes=0).fit(IMAGES, LABELS)
    assert folders(tmp_path) == []


BAD_SEARCHES = {
    "no groups": lambda: (GridSearchCV(pipeline(), GRID, cv=GroupKFold(3)), IMAGES, LABELS),
    "one row of each class": lambda: (
        GridSearchCV(pipeline(), GRID, cv=3),
        IMAGES[:4],
        np.arange(4),
    ),
    "labels of another length": lambda: (GridSearchCV(pipeline(), GRID), IMAGES, LABELS[:9]),
    "an unknown parameter": lambda: (GridSearchCV(pipeline(), {"conv__x": [1]}), IMAGES, LABELS),
    "an unknown score": lambda: (GridSearchCV(pipeline(), GRID, scoring="x"), IMAGES, LABELS),
    "a wrong refit": lambda: (GridSearchCV(pipeline(), GRID, refit="x"), IMAGES, LABELS),
    "a generator": lambda: (
        GridSearchCV(pipeline(), GRID, cv=KFold(3).split(IMAGES)),
        IMAGES,
        LABELS,
    ),
}


@pytest.mark.parametrize("make", BAD_SEARCHES.values(), ids=BAD_SEARCHES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bad_input_is_answered_as_by_the_search(make):
    results = []
    for wrap in (SharedFeaturesSearch, lambda search: search):
        search, images, labels = make()
        try:
            results.append(wrap(search).fit(images, labels))
        except Exception as error:
            results.append(error)
    shared, plain = results
    if isinstance(plain, Exception):
        assert type(shared) is type(plain)
        assert str(shared) == str(plain)
    else:
        assert_same_results(shared, plain)


def test_groups_weights_scores_and_no_refit():
    groups, weights = np.arange(150) % 5, np.arange(150) % 3 + 1.0
    scoring = {"accuracy": "accuracy", "loss": "neg_log_loss"}
    steps = Pipeline([("conv", StridedConv2DTransformer(4, random_state=0)), ("last", None)])
    steps.set_params(last=LogisticRegression(max_iter=5000))
    grid = {"conv__stride": [1, 2], "last__C": [0.1, 1]}
    search = GridSearchCV(steps, grid, cv=GroupKFold(3), scoring=scoring, refit=False)
    options = {"groups": groups, "last__sample_weight": weights}
    shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS, **options)
    assert_same_results(shared, search.fit(IMAGES, LABELS, **options))
    assert not hasattr(shared, "best_estimator_")
    with pytest.raises(AttributeError, match="predict"):
        shared.predict(IMAGES)


def test_settings_that_fail():
    grid = {"conv__kernel_size": [3, 99], "conv__padding": ["valid"], "last__alpha": [1, 2]}
    search = GridSearchCV(pipeline(), grid, cv=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shared = SharedFeaturesSearch(search).fit(IMAGES, LABELS)
        assert_same_results(shared, search.fit(IMAGES, LABELS))
    assert np.isnan(shared.cv_results_["mean_test_score"]).sum() == 2
    with pytest.raises(ValueError, match="does not fit the padded image"):
        SharedFeaturesSearch(search.set_params(error_score="raise")).fit(IMAGES, LABELS)


@pytest.mark.parametrize(
    "grid",
    [{"conv": [StridedConv2DTransformer(2, 2), StridedConv2DTransformer(3, 3)]}, {"none": [1]}],
)
@pytest.mark.parametrize("n", [150, 149])
def test_steps_in_the_grid_and_errors_of_scikit_learn(grid, n):
    for step in grid.get("conv", []):
        step.set_params(random_state=0)
    search = GridSearchCV(pipeline(), grid, cv=3)
    results = []
    for each in (SharedFeaturesSearch(search), search):
        try:
            results.append(each.fit(IMAGES, LABELS[:n]))
        except ValueError as error:
            results.append(str(error))
    if isinstance(results[1], str):
        assert results[0] == results[1]
    else:
        assert_same_results(*results)


def test_cross_validation_has_an_empty_grid():
    shared = SharedFeaturesSearch(GridSearchCV(pipeline(), {}, cv=4)).fit(IMAGES, LABELS)
    expected = cross_validate(pipeline(), IMAGES, LABELS, cv=4)["test_score"]
    np.testing.assert_allclose(
        [shared.cv_results_[f"split{i}_test_score"][0] for i in range(4)], expected
    )


def test_the_object_can_be_used_as_a_search():
    search = SharedFeaturesSearch(GridSearchCV(pipeline(), GRID, cv=3))
    with pytest.raises(NotFittedError):
        search.predict(IMAGES)
    assert clone(search).get_params()["search__estimator__conv__n_kernels"] == 4
    search.fit(IMAGES, LABELS)
    assert (
        search.search_.estimator.get_params(deep=False).keys()
        == pipeline().get_params(deep=False).keys()
    )
    assert search.n_features_in_ == search.best_estimator_.n_features_in_
    np.testing.assert_array_equal(search.classes_, np.unique(LABELS))
    expected = search.decision_function(IMAGES)
    copy = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(copy.decision_function(IMAGES), expected)
    written = skops.io.dumps(search.best_estimator_)
    loaded = skops.io.loads(written, trusted=skops.io.get_untrusted_types(data=written))
    np.testing.assert_array_equal(loaded.predict(IMAGES), search.predict(IMAGES))
    assert "RidgeClassifier" in search._repr_html_()
    display = pytest.importorskip("matplotlib", reason="matplotlib is not installed: .[plot]")
    display.use("agg")
    GridSearchDisplay.from_estimator(search, x="conv__stride", y="conv__kernel_size")
    cloned = clone(search)
    assert not hasattr(cloned, "search_")


def test_tables_of_columns(monkeypatch):
    counts, transform = Counter(), StridedConv2DTransformer.transform

    def count(self, X):
        counts.update((self.stride, i) for i in X.index)
        return transform(self, X)

    columns = [f"pixel{i}" for i in range(64)]
    table = pd.DataFrame(IMAGES.reshape(150, -1), columns=columns)
    steps = pipeline(image_shape=(8, 8)).set_params(conv__n_kernels=3)
    search = GridSearchCV(steps, {"conv__stride": [1, 2]}, cv=3)
    shared = SharedFeaturesSearch(search).fit(table, LABELS)
    assert_same_results(shared, search.fit(table, LABELS))
    assert list(shared.feature_names_in_) == columns
    steps.set_output(transform="pandas")
    search = GridSearchCV(steps, {"conv__stride": [1, 2]}, cv=3).fit(table, LABELS)
    monkeypatch.setattr(StridedConv2DTransformer, "transform", count)
    shared = SharedFeaturesSearch(clone(search)).fit(table, LABELS)
    assert_same_results(shared, search)
    assert set(counts.values()) == {1}
    assert len(counts) == 2 * 150


def as_memory_map(folder):
    np.save(folder / "images.npy", IMAGES)
    return np.load(folder / "images.npy", mmap_mode="r"), {}


def as_files(folder):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: .[images]")
    for i, pixels in enumerate(IMAGES):
        image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.png")
    return read_images(folder), {}


def as_images_of_any_size(folder):
    return [image[: 5 + i % 4] for i, image in enumerate(IMAGES)], {"image_shape": "any"}


def with_missing_pixels(folder):
    images = IMAGES.copy()
    images[::3, 2, 3] = np.nan
    return images, {"missing": "ignore", "pool_grid": 1}


@pytest.mark.parametrize(
    "make", [as_memory_map, as_files, as_images_of_any_size, with_missing_pixels]
)
@pytest.mark.filterwarnings("ignore:Files are identical:UserWarning")
@pytest.mark.filterwarnings("ignore:X contains constant:UserWarning")
def test_images_of_all_kinds(make, tmp_path):
    images, parameters = make(tmp_path)
    search = GridSearchCV(pipeline(**parameters, **LEARNED), GRID, cv=3)
    shared = SharedFeaturesSearch(search).fit(images, LABELS)
    assert_same_results(shared, search.fit(images, LABELS))
    np.testing.assert_array_equal(shared.predict(images), search.predict(images))


@pytest.mark.parametrize("name", ["grid", "random halving", "threads"])
def test_progress_counts_fits(name, capfd):
    search = SEARCHES[name](pipeline())
    shared = SharedFeaturesSearch(search, verbose=10).fit(IMAGES, LABELS)
    lines = capfd.readouterr().err.splitlines()
    results = shared.cv_results_
    sizes = np.bincount(results.get("iter", np.zeros(len(results["params"]), int))) * 3
    expected = [f"Done {i + 1} out of {n} fits" for n in sizes for i in range(n)]
    assert [
        line.partition(": ")[2].partition(" |")[0] for line in lines if "fits" in line
    ] == expected
    assert "remaining: " in lines[0]
    assert_same_results(shared, search.fit(IMAGES, LABELS))
    assert shared.search_.cv == 3
    pickle.dumps(shared)


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"verbose": -1}, ValueError),
        ({"verbose": "yes"}, TypeError),
        ({"search": pipeline()}, TypeError),
        ({"search": 3}, TypeError),
        ({"search": CalibratedClassifierCV(pipeline())}, TypeError),
        ({"share_kernels": 1}, TypeError),
        ({"max_bytes": 1.5}, TypeError),
        ({"max_bytes": -1}, ValueError),
    ],
)
def test_bad_parameters(parameters, error):
    search = SharedFeaturesSearch(GridSearchCV(pipeline(), GRID)).set_params(**parameters)
    with pytest.raises(
        error, match=f"'{next(iter(parameters))}' parameter of SharedFeaturesSearch"
    ):
        search.fit(IMAGES, LABELS)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_full_disk_keeps_no_file(monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with _Store(IMAGES, False, 0) as store:
        with pytest.raises(OSError, match="No space left"):
            store.empty((1000,), np.dtype(float))
        assert sum(path.stat().st_size for path in Path(store._folder.name).iterdir()) == 0
