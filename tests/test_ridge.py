"""`StreamingRidgeClassifier` agrees with scikit-learn's ridge classifiers and with loops."""

import copy
import inspect
import os
import pickle
import re
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from helpers import best_factor, smallest_log_loss
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import kstest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeClassifierCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.fixes import parse_version

from sklearn_conv import (
    RBFRidge,
    RBFRidgeClassifier,
    StreamingRidge,
    StreamingRidgeClassifier,
    make_image_classifier,
)
from sklearn_conv._array_api import Library
from sklearn_conv._ridge import lapack, moments, products, solving

ALPHAS = [0.1, 1.0, 10.0, 100.0, 1000.0]
SIZES = {"few rows": (50, 80), "many rows": (300, 20), "as many": (60, 60)}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


def data(n, d, n_classes=3, offset=0.0, dtype="f8", seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, d)) * rng.uniform(0.1, 10, d)
    X[:, :n_classes] += np.eye(n_classes)[y] * 2
    return (X + offset).astype(dtype), y


def standardized(classifier):
    return make_pipeline(StandardScaler(), classifier)


@pytest.mark.parametrize("alphas", [3.0, ALPHAS, np.array([5]), (0.5, 50)])
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@sizes
def test_agrees_with_ridge_classifier_on_standardized_features(size, n_classes, alphas):
    X, y = data(*size, n_classes)
    model = StreamingRidgeClassifier(alphas).fit(X, y)
    several = np.size(alphas) > 1
    expected = standardized(
        RidgeClassifierCV(alphas) if several else RidgeClassifier(np.ravel(alphas)[0])
    ).fit(X, y)
    np.testing.assert_allclose(
        model.decision_function(X), expected.decision_function(X), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    np.testing.assert_allclose(
        model.coef_ * model.scale_, np.atleast_2d(expected[-1].coef_), atol=1e-10
    )
    np.testing.assert_allclose(
        X @ model.coef_.T + model.intercept_,
        model.decision_function(X).reshape(len(X), -1),
        atol=1e-9,
    )
    np.testing.assert_allclose(model.mean_, expected[0].mean_, atol=1e-12)
    np.testing.assert_allclose(model.scale_, expected[0].scale_)
    if several:
        assert model.alpha_ == expected[-1].alpha_
        assert model.best_score_ == pytest.approx(expected[-1].best_score_, rel=1e-9)
    else:
        assert model.alpha_ == np.ravel(alphas)[0]
        assert model.best_score_ is None


@pytest.mark.parametrize("estimator", [StreamingRidgeClassifier, StreamingRidge])
@given(
    cuts=st.lists(st.integers(0, 300), max_size=6).map(sorted),
    size=st.sampled_from([*SIZES.values()]),
    n_kept=st.sampled_from([10, 40, 2000]),
    is_weighted=st.booleans(),
)
def test_batches_make_no_difference(estimator, cuts, size, n_kept, is_weighted):
    X, y = data(*size)
    weights = np.random.default_rng(1).uniform(0.1, 3, len(X)) if is_weighted else np.ones(len(X))
    bounds = [0, *(cut for cut in cuts if cut < len(X)), len(X)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "N_KEPT", n_kept)
        whole = estimator(ALPHAS).fit(X, y, weights)
        patch.setattr(moments, "BLOCK_BYTES", 8 * X.shape[1] * 70)
        model = estimator(ALPHAS)
        for start, stop in pairwise(sorted(set(bounds))):
            rows = slice(start, stop)
            model.partial_fit(X[rows], y[rows], sample_weight=weights[rows])
        assert model.alpha_ == whole.alpha_
        assert model.best_score_ == pytest.approx(whole.best_score_, rel=1e-9)
        np.testing.assert_allclose(model.coef_, whole.coef_, rtol=1e-8, atol=1e-11)
        assert len(model._sums.kept.rows) == min(n_kept, len(X))
        np.testing.assert_array_equal(model._sums.kept.weights, whole._sums.kept.weights)


@given(
    first=st.integers(2, 298),
    size=st.sampled_from([*SIZES.values()]),
    n_kept=st.sampled_from([10, 40, 2000]),
)
def test_parts_add_up(first, size, n_kept):
    X, y = data(*size)
    first = min(first, len(X) - 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "N_KEPT", n_kept)
        whole = StreamingRidgeClassifier(ALPHAS).fit(X, y)
        model = StreamingRidgeClassifier(ALPHAS).partial_fit(X[:first], y[:first])
        other = StreamingRidgeClassifier(ALPHAS).partial_fit(X[first:], y[first:])
        before = pickle.dumps(other)
        assert model.merge(other) is model
        assert pickle.dumps(other) == before
        model.predict(X)
        assert len(model._sums.kept.rows) == min(n_kept, len(X))
        if n_kept == 2000:  # All rows are kept, and choose the same alpha.
            assert model.alpha_ == whole.alpha_
            assert model.best_score_ == pytest.approx(whole.best_score_, rel=1e-9)
        for fitted in (model, whole):
            fitted.set_params(alphas=10)
        np.testing.assert_allclose(model.coef_, whole.coef_, rtol=1e-8, atol=1e-11)
        np.testing.assert_allclose(
            model._sums.sums.target_mean, whole._sums.sums.target_mean, rtol=1e-12
        )


def test_few_rows_need_no_products():
    """The products of 80 features would be larger than 50 rows."""
    X, y = data(50, 80)
    model = StreamingRidgeClassifier().fit(X, y)
    assert model._sums.sums.gram is None
    other = StreamingRidgeClassifier().fit(X[:30], y[:30])
    assert other.merge(StreamingRidgeClassifier().fit(X[30:], y[30:]))._sums.sums.gram is None
    model.partial_fit(X, y).predict(X)
    assert model._sums.sums.gram.shape == (80, 80)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("size", [(40, 5), (40, 60)], ids=["products", "rows"])
@pytest.mark.parametrize("scoring", [None, "neg_log_loss"])
def test_the_score_is_that_of_fits_without_the_row(scoring, size, n_classes, weighted):
    X, y = data(*size, n_classes)
    X[:, :n_classes] += np.eye(n_classes)[y]
    weights = np.random.default_rng(2).uniform(0.5, 2, len(X)) if weighted else np.ones(len(X))
    alphas = (1.0, 10.0, 100.0)
    model = StreamingRidgeClassifier(alphas, scoring=scoring).fit(X, y, weights)
    assert (model._sums.sums.gram is None) == (size[1] > size[0])
    scaled = (X - model.mean_) / model.scale_
    targets = np.where(y[:, np.newaxis] == np.arange(n_classes), 1.0, -1.0)
    losses = []
    for alpha in alphas:
        predicted = np.empty(targets.shape)
        for i in range(len(X)):
            others = np.arange(len(X)) != i
            fitted = Ridge(alpha).fit(scaled[others], targets[others], weights[others])
            predicted[i] = fitted.predict(scaled[i : i + 1])
        if scoring is None:
            losses.append((weights @ (predicted - targets) ** 2 / len(X)).mean())
        else:
            losses.append(smallest_log_loss(predicted, y, weights))
    assert model.best_score_ == pytest.approx(-min(losses), rel=1e-5)
    assert model.alpha_ == alphas[np.argmin(losses)]


def test_squared_errors_and_log_loss_may_choose_differently():
    """Squared errors also count rows far on the right side of a decision."""
    X, y = load_digits(return_X_y=True)
    models = {
        scoring: StreamingRidgeClassifier(np.logspace(-3, 4, 15), scoring=scoring).fit(X, y)
        for scoring in (None, "neg_log_loss")
    }
    assert models["neg_log_loss"].alpha_ != models[None].alpha_
    model = models[None].set_params(scoring="neg_log_loss")  # Alpha is chosen again.
    assert model.alpha_ == models["neg_log_loss"].alpha_
    assert model.best_score_ == models["neg_log_loss"].best_score_


# Probabilities


def without_the_row(model, X, targets, weights):
    """Return decisions (n, k) of fits of one alpha without the row, with the same scale."""
    scaled = (X - model.mean_) / model.scale_
    predicted = np.empty(targets.shape)
    for i in range(len(X)):
        others = np.arange(len(X)) != i
        fitted = Ridge(model.alpha_).fit(scaled[others], targets[others], weights[others])
        predicted[i] = fitted.predict(scaled[i : i + 1])
    return predicted


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("alphas", [10.0, (1.0, 10.0, 100.0)], ids=["one alpha", "alphas"])
@pytest.mark.parametrize("size", [(40, 5), (40, 60)], ids=["products", "rows"])
def test_probabilities_have_the_smallest_loss_of_fits_without_the_row(
    size, alphas, n_classes, weighted
):
    X, y = data(*size, n_classes, seed=3)
    X[:, :n_classes] += 20 * np.eye(n_classes)[y]
    weights = np.random.default_rng(2).uniform(0.5, 2, len(X)) if weighted else np.ones(len(X))
    model = StreamingRidgeClassifier(alphas).fit(X, y, weights)
    targets = np.where(y[:, np.newaxis] == np.arange(n_classes), 1.0, -1.0)
    predicted = without_the_row(model, X, targets, weights)
    factor = best_factor(predicted, y, weights)
    assert 0.1 < factor < 15
    assert model.temperature_ == pytest.approx(1 / factor, rel=1e-3)
    scores = model.decision_function(X)
    scores = np.stack([-scores, scores], axis=1) if n_classes == 2 else scores
    expected = softmax(scores / model.temperature_, axis=1)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-10)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(expected), rtol=1e-9)
    np.testing.assert_array_equal(
        model.classes_[model.predict_proba(X).argmax(axis=1)], model.predict(X)
    )


def test_probabilities_of_class_weights_batches_and_merged_models_are_those_of_one_fit():
    X, y = data(300, 20)
    options = {"alphas": 10.0, "class_weight": {0: 3.0}}
    expected = StreamingRidgeClassifier(**options).fit(X, y)
    weighted = StreamingRidgeClassifier(10.0).fit(X, y, np.where(y == 0, 3.0, 1.0))
    assert expected.temperature_ == weighted.temperature_
    parts = [StreamingRidgeClassifier(**options).fit(X[:100], y[:100]) for _ in range(2)]
    parts[0].predict_proba(X)
    assert parts[0].partial_fit(X[100:], y[100:]).temperature_ == pytest.approx(
        expected.temperature_, rel=1e-6
    )
    other = StreamingRidgeClassifier(**options).fit(X[100:], y[100:])
    np.testing.assert_allclose(
        parts[1].merge(other).predict_proba(X), expected.predict_proba(X), atol=1e-6
    )


def test_temperatures_where_rows_can_hardly_be_left_out():
    X, y = data(40, 5, 2)
    apart = X + 1e3 * y[:, np.newaxis]
    certain = StreamingRidgeClassifier().fit(apart, y)  # All rows are right.
    assert certain.temperature_ == pytest.approx(0.05, rel=0.1)
    one = StreamingRidgeClassifier(1.0).partial_fit(X[:1], y[:1], classes=[0, 1])
    assert one.temperature_ == 1
    np.testing.assert_allclose(one.predict_proba(X), [softmax([1.0, -1.0])] * 40)
    two = StreamingRidgeClassifier(1.0).fit(X[:2], y[:2])  # Without one, the other class is sure.
    assert two.temperature_ == pytest.approx(1e4, rel=0.1)
    np.testing.assert_array_equal(two.predict_proba(X).argmax(axis=1), two.predict(X))
    three = StreamingRidgeClassifier().partial_fit(X, y, classes=[0, 1, 2])
    assert (three.predict_proba(X)[:, 2] < 0.1).all()


def test_probabilities_of_one_alpha_are_computed_when_they_are_needed(monkeypatch):
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(1.0).fit(X, y)
    with monkeypatch.context() as patch:
        patch.setattr(solving, "find_temperature", None)
        expected = model.predict(X), model.best_score_
        StreamingRidgeClassifier(1.0).fit(X, y).decision_function(X)
        assert "temperature_" not in dir(model)
    temperature = model.temperature_
    assert "temperature_" in dir(model)
    np.testing.assert_array_equal(model.predict(X), expected[0])
    assert model.best_score_ is expected[1] is None
    with monkeypatch.context() as patch:
        patch.setattr(solving, "solve", None)
        assert model.temperature_ == temperature
    for small in (model, StreamingRidgeClassifier(1.0).fit(X, y)):
        assert pickle.loads(pickle.dumps(small.discard_sums())).temperature_ == temperature
    assert not hasattr(clone(model), "temperature_")


def test_models_of_earlier_versions_have_probabilities_as_long_as_they_have_sums():
    X, y = data(300, 20)
    model = StreamingRidgeClassifier().fit(X, y)
    state = model.__getstate__()
    del state["_solution"]["later"]
    old = StreamingRidgeClassifier()
    old.__setstate__(copy.deepcopy(state))
    assert old.temperature_ == model.temperature_
    del state["_sums"]
    old = StreamingRidgeClassifier()
    old.__setstate__(state)
    np.testing.assert_array_equal(old.predict(X), model.predict(X))
    with pytest.raises(ValueError, match=r"discarded.*such as probabilities.*fit again"):
        old.predict_proba(X)
    assert not hasattr(old, "temperature_")
    old.discard_sums()


def test_weights_that_spoil_leave_one_out_errors_spoil_probabilities_only():
    X, y = data(300, 2, 2)
    weights = np.where(np.arange(300) < 2, 1e14, 1.0)
    model = StreamingRidgeClassifier(1.0).fit(X, y, weights)
    with pytest.raises(ValueError, match="Some rows have weights more than"):
        model.predict_proba(X)
    assert model.discard_sums().predict(X).shape == (300,)


def some_digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))  # The same people wrote both parts.
    X, y = X[order], y[order]
    return X[:1000], y[:1000], X[1000:], y[1000:]


def some_tiles():
    folder = os.environ.get("SKLEARN_CONV_DATA")
    if folder is None:
        pytest.skip("SKLEARN_CONV_DATA is not set: the folder with eurosat_small.npz")
    with np.load(os.path.join(folder, "eurosat_small.npz")) as file:
        images, y, test_images, test_y = (
            file[name] for name in ("X_train", "y_train", "X_test", "y_test")
        )
    few = {"effort": "fast", "n_kernels": 32, "symmetries": None, "random_state": 0}
    features = make_image_classifier("satellite", **few)[:-1]
    return features.fit_transform(images[:1000]), y[:1000], features.transform(test_images), test_y


@pytest.mark.parametrize("make", [some_digits, some_tiles])
@pytest.mark.parametrize(
    "model", [StreamingRidgeClassifier(), RBFRidgeClassifier(random_state=0)], ids=str
)
def test_probabilities_are_as_good_as_those_of_cross_validation(make, model):
    X, y, test_X, test_y = make()
    calibrated = CalibratedClassifierCV(model, method="temperature", cv=5, ensemble=False)
    if parse_version(sklearn.__version__) < parse_version("1.8"):
        pytest.skip("CalibratedClassifierCV has temperatures since scikit-learn 1.8")
    expected = log_loss(test_y, calibrated.fit(X, y).predict_proba(test_X))
    probabilities = clone(model).fit(X, y).predict_proba(test_X)
    assert log_loss(test_y, probabilities) < 1.02 * expected
    stated, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == test_y
    bins = np.minimum((15 * stated).astype(int), 14)
    error = np.abs(np.bincount(bins, stated - is_right)).sum() / len(test_y)
    assert error < 0.05


@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc_ovr"])
def test_probabilities_in_a_search(scoring):
    X, y = data(90, 6)
    search = GridSearchCV(
        StreamingRidgeClassifier(), {"alphas": [1.0, 1e6]}, scoring=scoring, cv=3
    ).fit(X, y)
    assert search.best_params_ == {"alphas": 1.0}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# Novelty


@pytest.mark.parametrize("weighted", [False, True])
@sizes
def test_novelty_is_the_rank_among_distances_of_rows_from_the_others(size, weighted):
    X, y = data(*size)
    X[:, 1] = 5  # a constant feature
    weights = np.random.default_rng(2).uniform(0.5, 2, len(X)) if weighted else np.ones(len(X))
    model = StreamingRidgeClassifier(3.0).fit(X, y, weights)
    assert (model._sums.sums.gram is None) == (size[1] >= size[0])

    def distances(row, others):
        """Return leverage and squared norm of a row, from the mean of others."""
        mean = np.average(X[others], axis=0, weights=weights[others])
        rows = (X[others] - mean) / model.scale_
        matrix = rows.T * weights[others] @ rows + 3 * np.eye(X.shape[1])
        distance = (row - mean) / model.scale_
        leverage = distance @ np.linalg.solve(matrix, distance) + 1 / weights[others].sum()
        return leverage, distance @ distance

    def rank(known, values):
        return np.array([np.average(known < value, weights=weights) for value in values])

    everything = np.arange(len(X))
    known = np.array([distances(X[i], everything != i) for i in everything]).T
    rng = np.random.default_rng(3)
    new = X[rng.integers(len(X), size=40)] * rng.uniform(0, 1.5, (40, 1))
    new += rng.uniform(0, 1, (40, 1)) * rng.normal(size=new.shape)
    new[:, 1] = 5
    measured = np.array([distances(row, everything >= 0) for row in new]).T
    both = [
        np.maximum(rank(known[0], leverages), 1 - 5 * (1 - rank(known[1], norms)))
        for leverages, norms in (known, measured)
    ]
    expected = rank(*both)
    assert len({*expected}) > 4
    np.testing.assert_allclose(model.novelty(new), expected, atol=1e-12)


@pytest.mark.parametrize("n", [2500, 60], ids=["products", "rows"])
def test_rows_like_the_training_rows_have_any_novelty_and_outliers_a_high_one(n):
    X, y = data(n + 1000, 100)
    X, new, y = X[:n], X[n:], y[:n]
    model = StreamingRidgeClassifier().fit(X, y)
    assert kstest(model.novelty(new), "uniform").statistic < (0.06 if n == 2500 else 0.2)
    assert model.novelty(new[:, ::-1]).mean() > 0.9  # other scales
    assert (
        model.novelty(1e200 * new[:2]).tolist() == model.novelty(1e3 * new[:2]).tolist() == [1, 1]
    )


@pytest.mark.parametrize("n", [2500, 60], ids=["products", "rows"])
def test_a_row_whose_features_are_all_weak_is_novel_though_its_leverage_is_usual(n):
    rng = np.random.default_rng(0)
    X = rng.normal(1, 0.3, (n + 1000, 1)) + rng.normal(0, 0.2, (n + 1000, 100))
    y = rng.integers(2, size=n)
    model = StreamingRidgeClassifier(30.0).fit(X[:n], y)
    assert (model.novelty(X[n:]) > 0.9).mean() == pytest.approx(0.1, abs=0.05)
    leverages = [model._solution.later["leverages"].measure(rows)[0] for rows in (X, 0 * X[:1])]
    assert leverages[1] < np.quantile(leverages[0], 0.9)
    assert model.novelty(0 * X[:1]) > 0.99


@pytest.mark.filterwarnings("ignore:The images of X are", "ignore:X contains constant")
@pytest.mark.parametrize("effort", ["fast", "best"])
def test_images_of_other_kinds_are_novel(effort):
    images, labels = load_digits().images, load_digits().target
    model = make_image_classifier("tiny", effort=effort, n_kernels=16, random_state=0)
    model.fit(images[:1000], labels[:1000])

    def novelty(images):
        return model[-1].novelty(model[:-1].transform(images))

    usual = novelty(images[1000:])
    assert 0.4 < usual.mean() < 0.75  # Other people wrote them.
    assert novelty(np.random.default_rng(0).uniform(0, 16, (50, 8, 8))).min() > 0.98  # noise
    assert novelty(16 - images[1000:1050]).mean() > 0.98
    assert novelty(np.roll(images[1000:1050], 3, axis=1)).mean() > 0.9
    assert novelty(np.zeros((1, 8, 8))) > 0.9


@sizes
def test_novelty_changes_nothing_and_is_never_saved(size):
    X, y = data(*size)
    model = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    before, length = copy.deepcopy(model), len(pickle.dumps(model))
    novelty = model.novelty(X)
    assert len(pickle.dumps(model)) == length
    assert "leverages" in model._solution.later
    assert "leverages" not in copy.copy(model)._solution.later
    for changed in (lambda m: m.set_params(alphas=7.0), lambda m: m.partial_fit(X + 1, y)):
        changed(model)
        changed(before)
        np.testing.assert_array_equal(model.coef_, before.coef_)
        assert "leverages" not in model._solution.later
        assert (model.novelty(X) != novelty).any()
        np.testing.assert_array_equal(model.novelty(X), copy.deepcopy(before).novelty(X))
    model.discard_sums()
    assert "leverages" not in model._solution.later
    with pytest.raises(ValueError, match=r"discarded.*probabilities, intervals or novelty, fit"):
        model.novelty(X)
    with pytest.raises(ValueError, match="NaN"):
        before.novelty(np.full_like(X, np.nan))


# The sample of rows that chooses alpha


def by_parts(X, y, lengths, **options):
    """Merge models of parts of the rows, in turns from the left and from the right."""
    models, start = [], 0
    for length in lengths:
        part = slice(start, start := start + length)
        models.append(StreamingRidgeClassifier(**options).partial_fit(X[part], y[part]))
    while len(models) > 1:
        i = len(models) % 2 and len(models) // 2
        second = models.pop(i + 1)
        models[i].merge(second)
    return models[0]


def by_batches(X, y, lengths, **options):
    model, start = StreamingRidgeClassifier(**options), 0
    for length in lengths:
        batch = slice(start, start := start + length)
        model.partial_fit(X[batch], y[batch])
    return model


@pytest.mark.parametrize("lengths", [[1] * 600, [30] * 20, [600], [1, 299, 7, 100, 193]], ids=len)
@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_the_sample_depends_on_the_numbers_of_the_rows_only(lengths, dtype, monkeypatch):
    monkeypatch.setattr(moments, "N_KEPT", 100)
    X, y = (1000 * data(600, 10)[0]).astype(dtype), data(600, 10)[1]
    expected = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    model = by_batches(X, y, lengths, alphas=ALPHAS)
    assert model.best_score_ == pytest.approx(expected.best_score_, rel=1e-9)
    np.testing.assert_array_equal(model._sums.kept.rows, expected._sums.kept.rows)
    np.testing.assert_array_equal(model._sums.kept.targets, expected._sums.kept.targets)
    numbers = np.argsort(moments.number_keys(0, 600))[:100]
    np.testing.assert_array_equal(model._sums.kept.rows, X[np.sort(numbers)])


@pytest.mark.parametrize(
    "lengths", [[3000, 3000], [300] * 20, [100, 5900], [5900, 100], [2000, 1, 1999, 2000]], ids=str
)
def test_all_rows_of_merged_models_have_the_same_chance(lengths, monkeypatch):
    """The parts have rows with the same numbers, and the second model may be a sample already."""
    monkeypatch.setattr(moments, "N_KEPT", 600)
    X, y = np.arange(6000.0)[:, np.newaxis], np.arange(6000) % 2
    for merged in (
        by_parts(X, y, lengths, alphas=1.0),
        by_parts(X, y, lengths, alphas=1.0).merge(by_parts(X + 6000, y, lengths, alphas=1.0)),
    ):
        kept = merged._sums.kept.rows[:, 0]
        assert len({*kept.tolist()}) == len({*merged._sums.keys.tolist()}) == 600
        n_rows = merged._sums.n_rows
        counts = np.histogram(kept, np.linspace(0, n_rows, 13))[0]
        assert abs(counts - 50).max() < 25  # 3.7 standard deviations
        more = merged.partial_fit(X + n_rows, y)._sums.kept.rows[:, 0]
        fraction = 6000 / (n_rows + 6000)
        assert abs((more >= n_rows).mean() - fraction) < 5 * (fraction / 4 / 600) ** 0.5


def test_alpha_after_many_models_of_few_rows_sorted_by_class_were_merged():
    rng = np.random.default_rng(0)
    n, d = 12_000, 20
    y = np.sort(np.arange(n) % 4)
    X = rng.normal(size=(n, d)) + 0.05 * np.eye(4, d)[y]  # almost only noise
    alphas = [0.1, 1e4]
    expected = StreamingRidgeClassifier(alphas).fit(X, y)
    assert expected.alpha_ == 1e4
    for fit in (by_batches, by_parts):
        model = fit(X, y, [30] * (n // 30), alphas=alphas)
        assert model.alpha_ == 1e4
        assert model.best_score_ == pytest.approx(expected.best_score_, rel=0.01)
    assert np.bincount(model._sums.kept.targets).min() > 400


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@sizes
def test_an_offset_of_10_000_costs_no_accuracy(size, dtype):
    offset = 2.0**13  # Adding a power of 2 rounds float32 only a little.
    X, y = data(*size, offset=offset, dtype=dtype)
    plain = X.astype("f8") - offset
    model = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    expected = StreamingRidgeClassifier(ALPHAS).fit(plain, y)
    np.testing.assert_allclose(
        model.decision_function(X), expected.decision_function(plain), atol=1e-7
    )
    assert model.alpha_ == expected.alpha_


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, -1e9, 1e-300, 1e20, -9.97e36])
@sizes
def test_constant_features_count_for_nothing(size, value):
    X, y = data(*size)
    constant = np.column_stack([X, np.full(len(X), value)])
    model = StreamingRidgeClassifier(ALPHAS).fit(constant, y)
    expected = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    assert model.best_score_ == pytest.approx(expected.best_score_, rel=1e-9)
    assert (model.coef_[:, -1] == 0).all()
    np.testing.assert_allclose(model.coef_[:, :-1], expected.coef_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        model.decision_function(constant), expected.decision_function(X), rtol=1e-8, atol=1e-8
    )
    assert model.scale_[-1] == 1


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@sizes
@pytest.mark.filterwarnings("error")
def test_features_that_overflow_raise_an_error(size, method):
    X, y = data(*size)
    X[3, 2] = 1e300
    model = StreamingRidgeClassifier(10)
    with pytest.raises(ValueError, match=r"squares of some features overflow float64; divide"):
        getattr(model, method)(X, y).predict(X)
    with pytest.raises(ValueError, match="far larger than those that the model was"):
        StreamingRidgeClassifier(10).fit(X[4:] * 1e-100, y[4:]).predict(X)


@pytest.mark.parametrize("dtype", ["f4", "f2", "u1", "i8", "bool", ">f8"])
def test_features_of_any_dtype(dtype):
    X, y = data(300, 20)
    X = (20 * X).astype(dtype) if dtype != "bool" else X > 0
    model = StreamingRidgeClassifier(10).fit(X, y)
    expected = standardized(RidgeClassifier(10)).fit(X.astype("f8"), y)
    scores = expected.decision_function(X.astype("f8"))
    np.testing.assert_allclose(model.decision_function(X), scores, atol=1e-9)


def test_labels_that_are_strings_in_any_order():
    X, y = data(300, 20)
    names = np.array(["ant", "bee", "wasp"])[y]
    order = np.argsort(y, kind="stable")  # sorted by class
    model = StreamingRidgeClassifier(10)
    for part in np.array_split(order, 7):
        model.partial_fit(X[part], names[part])
    expected = StreamingRidgeClassifier(10).fit(X, names)
    assert model.classes_.tolist() == ["ant", "bee", "wasp"]
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-10)


def test_all_classes_are_given_in_the_first_call():
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(10).partial_fit(X[:1], y[:1], classes=[0, 1, 2, 9])
    model.partial_fit(X[1:], y[1:])
    assert model.classes_.tolist() == [0, 1, 2, 9]
    assert model.coef_.shape == (4, 20)
    three = StreamingRidgeClassifier(10).fit(X, y)
    np.testing.assert_allclose(model.coef_[:3], three.coef_, atol=1e-10)
    np.testing.assert_allclose(model.decision_function(X)[:, 3], -1)
    model.partial_fit(X, y, classes=[2, 1, 9, 0])


@pytest.mark.parametrize(
    ("labels", "classes", "error"),
    [
        (["a", "b"], [], ValueError),
        ([0, 1], [0, 1, np.nan], ValueError),
        ([0, 1], np.array([0, 1], "M8[s]"), TypeError),
    ],
)
def test_bad_classes(labels, classes, error):
    with pytest.raises(error, match="'classes' parameter of StreamingRidgeClassifier"):
        StreamingRidgeClassifier().partial_fit(np.eye(2), labels, classes=classes)


BAD_BATCHES = {
    "a new class": ([5], {}, r"classes \[5\], which are not among \[0, 1, 2\]"),
    "other classes": (
        [1],
        {"classes": [0, 1]},
        r"classes=\[0, 1\] differ from the classes of earlier rows",
    ),
    "strings": (["a"], {}, "y has the label 'a', and 0 is a known class"),
    "fractions": ([0.5], {}, "continuous"),
    "two labels": ([1, 2], {}, "inconsistent numbers of samples"),
}


@pytest.mark.parametrize(("y", "options", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_bad_batches_change_nothing(y, options, message):
    X, labels = data(300, 20)
    model = StreamingRidgeClassifier(10).partial_fit(X, labels, classes=[0, 1, 2])
    before = model.coef_.copy()
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X[:1], y, **options)
    np.testing.assert_array_equal(model.coef_, before)
    assert model._sums.n_rows == 300


def test_masked_values_are_refused():
    X, y = data(50, 5)
    model = StreamingRidgeClassifier().fit(np.ma.masked_array(X), np.ma.masked_array(y))
    masked = np.ma.masked_greater(X, 1)
    for attempt in (
        lambda: model.fit(masked, y),
        lambda: model.partial_fit(X, np.ma.masked_equal(y, 2)),
        lambda: model.predict(masked),
    ):
        with pytest.raises(ValueError, match="masked values; fill them"):
            attempt()


def test_features_that_are_not_numbers():
    X, y = data(50, 5)
    dates = X.astype("M8[s]")
    with pytest.raises(TypeError, match=r"dtype datetime64\[s\]; convert it"):
        StreamingRidgeClassifier().fit(dates, y)
    with pytest.raises(TypeError, match=r"dtype datetime64\[s\]; convert it"):
        StreamingRidgeClassifier().fit(X, y).predict(dates)


@pytest.mark.parametrize("dtype", ["M8[s]", [("a", "f4")], "c8"])
def test_labels_that_are_neither_numbers_nor_strings(dtype):
    with pytest.raises((TypeError, ValueError), match=r"classes must be numbers or strings|omplex"):
        StreamingRidgeClassifier().fit(np.ones((4, 2)), np.zeros(4, dtype))


RULES = {
    "alphas": "a finite number above 0 or",
    "class_weight": "None, 'balanced' or a d",
    "scoring": ".*neg_log_loss.* or None",
    "alpha_per_target": "a bool",
}
BAD_PARAMETERS = {
    (StreamingRidgeClassifier, "alphas", ValueError): (0, -1.0, np.nan, [], [1, 0], [1, np.inf]),
    (StreamingRidgeClassifier, "alphas", TypeError): (None, "1", True, [1, "2"], 1j, {1}, [[1]]),
    (StreamingRidgeClassifier, "class_weight", ValueError): ("none", {0: -1}, {0: np.nan}),
    (StreamingRidgeClassifier, "class_weight", TypeError): (3, [1, 2], {0: "1"}),
    (StreamingRidgeClassifier, "scoring", ValueError): ("accuracy",),
    (StreamingRidgeClassifier, "scoring", TypeError): (3,),
    (RBFRidgeClassifier, "scoring", ValueError): ("accuracy",),
    (RBFRidgeClassifier, "scoring", TypeError): (3,),
    (StreamingRidge, "alpha_per_target", TypeError): (1, None, "yes"),
}


@pytest.mark.parametrize(
    ("case", "value"), [(case, value) for case in BAD_PARAMETERS for value in BAD_PARAMETERS[case]]
)
def test_bad_parameters(case, value):
    cls, name, error = case
    model = cls(**{name: value})
    for fit in (model.fit, getattr(model, "partial_fit", model.fit)):
        with pytest.raises(
            error, match=f"The '{name}' parameter of {cls.__name__} must be {RULES[name]}"
        ):
            fit(*data(50, 5))


def test_other_alphas_are_chosen_without_the_rows():
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    model.set_params(alphas=7)
    np.testing.assert_array_equal(model.coef_, StreamingRidgeClassifier(7).fit(X, y).coef_)
    assert model.alpha_ == 7
    assert model.discard_sums() is model.discard_sums() is model
    assert model.predict(X).shape == (300,)
    for attempt in (
        lambda: model.set_params(alphas=8).predict(X),
        lambda: model.partial_fit(X, y),
        lambda: StreamingRidgeClassifier().fit(X, y).merge(model),
    ):
        with pytest.raises(ValueError, match=r"sums of this model were discarded.* fit again"):
            attempt()


def test_a_model_without_sums_is_small():
    X, y = data(2500, 300)
    model = StreamingRidgeClassifier(1).fit(X, y)
    large = len(pickle.dumps(model))
    assert len(pickle.dumps(model.discard_sums())) < large / 50
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    unsolved = StreamingRidgeClassifier(1).partial_fit(X, y)
    np.testing.assert_array_equal(unsolved.discard_sums().predict(X), model.predict(X))
    with pytest.raises(NotFittedError):
        StreamingRidgeClassifier().discard_sums()
    with pytest.raises(ValueError, match="at least 2 classes"):
        StreamingRidgeClassifier().partial_fit(X, np.zeros(2500)).discard_sums()


def test_what_cannot_be_merged():
    X, y = data(50, 5)
    model = StreamingRidgeClassifier().fit(X, y)
    with pytest.raises(NotFittedError):
        model.merge(StreamingRidgeClassifier())
    with pytest.raises(NotFittedError):
        StreamingRidgeClassifier().merge(model)
    with pytest.raises(TypeError, match="'other' parameter of merge must be a fitted"):
        model.merge(RidgeClassifier().fit(X, y))
    with pytest.raises(ValueError, match="cannot be merged: they have 5 and 4 features"):
        model.merge(StreamingRidgeClassifier().fit(X[:, :4], y))
    strings = StreamingRidgeClassifier().fit(X, np.array(["a", "b", "c"])[y])
    with pytest.raises(ValueError, match="y has the label 'a', and 0 is a known class"):
        model.merge(strings)
    named = StreamingRidgeClassifier().fit(pd.DataFrame(X, columns=list("abcde")), y)
    with pytest.raises(ValueError, match="different feature names"):
        model.merge(named)


def test_one_class_is_not_enough_for_an_answer():
    X, y = data(50, 5)
    with pytest.raises(ValueError, match="at least 2 classes, but y has 1 class so far: 0"):
        StreamingRidgeClassifier().fit(X, np.zeros(50, int))
    model = StreamingRidgeClassifier().partial_fit(X[y == 0], y[y == 0])
    with pytest.raises(ValueError, match="at least 2 classes"):
        model.predict(X)
    model.partial_fit(X[y != 0], y[y != 0])
    np.testing.assert_array_equal(model.predict(X), StreamingRidgeClassifier().fit(X, y).predict(X))


def test_alpha_that_is_too_small_raises_an_error():
    X, y = data(3000, 5)
    X = np.column_stack([X, X])
    for rows in (slice(5), slice(3000)):
        with pytest.raises(ValueError, match="alpha=1e-200 is too small"):
            StreamingRidgeClassifier([1e-200, 1]).fit(X[rows], y[rows])
    model = StreamingRidgeClassifier(1e-3).fit(X, y)
    np.testing.assert_allclose(model.coef_[:, :5], model.coef_[:, 5:], rtol=1e-6)


def test_solving_leaves_the_sums_as_they_are(monkeypatch):
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(ALPHAS).partial_fit(X, y)
    before = model._sums.to_dict()
    model.predict(X)
    np.testing.assert_equal(model._sums.to_dict(), before)
    with monkeypatch.context() as patch:
        patch.setattr(products.Factor, "solve", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.set_params(alphas=3).predict(X)
    np.testing.assert_equal(model._sums.to_dict(), before)
    np.testing.assert_allclose(model.coef_, StreamingRidgeClassifier(3).fit(X, y).coef_)


def test_half_added_sums_are_never_used(monkeypatch):
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(3).fit(X, y)
    with monkeypatch.context() as patch:
        patch.setattr(moments.Moments, "_replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.partial_fit(X, y)
    for attempt in (model.partial_fit, lambda X, y: model.set_params(alphas=1).predict(X)):
        with pytest.raises(RuntimeError, match=r"interrupted .* fit again from the first row"):
            attempt(X, y)
    assert model.fit(X, y).score(X, y) > 0.45


def test_memory_error_names_the_number_of_features(monkeypatch):
    first_products(monkeypatch)
    with pytest.raises(MemoryError, match=r"1 TiB\. The products of 20 features take .*; use"):
        StreamingRidgeClassifier().fit(*data(300, 20))


# The attributes of the solution

SOLVED = ["alpha_", "best_score_", "coef_", "intercept_", "mean_", "scale_", "temperature_"]


def with_one_class():
    X, y = data(300, 20)
    return StreamingRidgeClassifier().partial_fit(X[y == 0], y[y == 0])


def with_lost_sums():
    return StreamingRidgeClassifier().fit(*data(300, 20)).discard_sums().set_params(alphas=7.0)


def with_half_added_sums():
    X, y = data(300, 20)
    model = StreamingRidgeClassifier().partial_fit(X, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments.Moments, "_replace", None)
        with pytest.raises(TypeError):
            model.partial_fit(X, y)
    return model


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (with_one_class, ValueError),
        (with_lost_sums, ValueError),
        (with_half_added_sums, RuntimeError),
    ],
)
def test_without_a_solution_there_are_no_attributes_of_it(make, error):
    model = make()
    with pytest.raises(error) as cause:
        model.predict(np.ones((1, 20)))
    assert not isinstance(cause.value, NotFittedError)
    for name in SOLVED:
        assert not hasattr(model, name)
        with pytest.raises(NotFittedError) as caught:
            getattr(model, name)
        assert str(caught.value) == str(cause.value)
        assert isinstance(caught.value.__cause__, error)
    assert not {*SOLVED} & {name for name, _ in inspect.getmembers(model)}
    for shown in (model, make_pipeline(StandardScaler(), model)):
        assert "StreamingRidgeClassifier" in shown._repr_html_()


def with_wrong_alphas():
    return StreamingRidgeClassifier().fit(*data(300, 20)).set_params(alphas="many")


def with_an_overflow():
    X, y = data(300, 20)
    return StreamingRidgeClassifier().partial_fit(X * 1e200, y)


def test_other_errors_of_attributes_are_raised_as_they_are(monkeypatch):
    wrong, overflow = with_wrong_alphas(), with_an_overflow()
    full = StreamingRidgeClassifier([1, 2]).partial_fit(*data(300, 20))
    monkeypatch.setattr(solving, "_choose", no_memory)
    for model, error, message in (
        (wrong, TypeError, "'alphas' parameter"),
        (overflow, ValueError, "overflow"),
        (full, MemoryError, "1 TiB"),
    ):
        for name in SOLVED:
            with pytest.raises(error, match=message) as caught:
                getattr(model, name)
            assert not isinstance(caught.value, NotFittedError)
        assert not {*SOLVED} & {name for name, _ in inspect.getmembers(model)}
        assert "StreamingRidgeClassifier" in model._repr_html_()


def test_displaying_a_model_does_not_solve_it(monkeypatch):
    X, y = data(300, 20)
    model = StreamingRidgeClassifier().partial_fit(X, y)

    def show():
        inspect.getmembers(model)
        assert "StreamingRidgeClassifier" in model._repr_html_()
        return {*SOLVED} & {*dir(model)}

    with monkeypatch.context() as patch:
        patch.setattr(solving, "_choose", None)
        assert not show()
    model.predict(X)
    assert show() == {*SOLVED}
    with monkeypatch.context() as patch:
        patch.setattr(solving, "_choose", None)
        model.set_params(alphas=7.0)
        assert not show()
    assert model.alpha_ == 7
    assert show() == {*SOLVED} - {"temperature_"}  # It takes another factor.
    assert model.temperature_ > 0
    assert show() == {*SOLVED}
    model.partial_fit(X, y)
    assert not {*SOLVED} & {*dir(model)}


# Copies and files


def through_skops(model):
    module = "regressor" if isinstance(model, StreamingRidge) else "classifier"
    trusted = [f"sklearn_conv._ridge.{module}.{type(model).__name__}"]
    return skops.io.loads(skops.io.dumps(model), trusted=trusted)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "skops": through_skops,
}


@pytest.mark.parametrize("estimator", [StreamingRidgeClassifier, StreamingRidge])
@pytest.mark.parametrize("is_solved", [True, False])
@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
@sizes
def test_a_copy_has_sums_of_its_own(size, make_copy, is_solved, estimator):
    X, y = data(*size)
    model = estimator(ALPHAS).partial_fit(X, y)
    expected = copy.deepcopy(model).predict(X)
    if is_solved:
        model.predict(X)
    again = make_copy(model)
    before = pickle.dumps(model)
    again.partial_fit(X[::2] + 1, y[::2])
    assert pickle.dumps(model) == before
    np.testing.assert_array_equal(model.predict(X), expected)
    model.partial_fit(X[::2] + 1, y[::2])
    np.testing.assert_allclose(again.coef_, model.coef_, rtol=0, atol=1e-10)


@sizes
def test_files_name_only_the_estimator(size):
    X, y = data(*size)
    model = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    names = set(re.findall(rb"sklearn_conv[\w.]*", pickle.dumps(model)))
    assert names == {b"sklearn_conv._ridge.classifier"}
    assert skops.io.get_untrusted_types(data=skops.io.dumps(model)) == [
        "sklearn_conv._ridge.classifier.StreamingRidgeClassifier"
    ]


SCRIPT = """
import os, signal, threading
import numpy as np
from sklearn_conv import StreamingRidgeClassifier
from sklearn_conv._ridge import moments, solving

def data(n, d):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    return rng.normal(size=(n, d)) + np.eye(3)[y] @ rng.normal(size=(3, d)), y
"""


def run_script(code):
    """Run code in a process of its own, because it forks, gets signals or limits its memory."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + code],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # fast even on a busy machine
    )


# Errors leave the model as it was


def state_of(model):
    state = model.__getstate__()
    return pickle.dumps(state), {*dir(model)}, {*vars(model)}


def no_memory(*args, **kwargs):
    raise MemoryError("Unable to allocate 1 TiB")


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


WIDE = data(60, 9)
FAILED_FITS = {
    "one class": ({}, WIDE[0], np.zeros(60, int), ValueError),
    "fractions": ({}, WIDE[0], np.arange(60) / 7, ValueError),
    "dates": ({}, WIDE[0].astype("M8[s]"), WIDE[1], TypeError),
    "complex labels": ({}, WIDE[0], WIDE[1] * 1j, ValueError),
    "an overflow": ({}, WIDE[0] * 1e200, WIDE[1], ValueError),
    "an overflow of few rows": ({}, WIDE[0][:6] * 1e200, WIDE[1][:6], ValueError),
    "NaN": ({}, WIDE[0] * np.nan, WIDE[1], ValueError),
    "masked": ({}, np.ma.masked_greater(WIDE[0], 0), WIDE[1], ValueError),
    "names": ({}, pd.DataFrame(WIDE[0], columns=list("abcdefghi")), np.zeros(60), ValueError),
    "alphas": ({"alphas": 0}, *WIDE, ValueError),
    "tiny alpha": ({"alphas": 1e-200}, np.repeat(WIDE[0], 2, axis=1), WIDE[1], ValueError),
    "floats": ({}, WIDE[0], WIDE[1] + 2.0**60, ValueError),
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("options", "X", "y", "error"), FAILED_FITS.values(), ids=FAILED_FITS)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_failed_fit_leaves_the_model_as_it_was(options, X, y, error, named):
    earlier, labels = data(300, 20)
    if named:
        earlier = pd.DataFrame(earlier).add_prefix("feature")
    model = StreamingRidgeClassifier(ALPHAS).fit(earlier, labels)
    scores, before = model.decision_function(earlier), state_of(model)
    with pytest.raises(error):
        model.set_params(**options).fit(X, y)
    model.set_params(alphas=ALPHAS)
    assert state_of(model) == before
    np.testing.assert_array_equal(model.decision_function(earlier), scores)
    model.partial_fit(earlier, labels)
    assert model._sums.n_rows == 600
    unfitted = StreamingRidgeClassifier(**options)
    with pytest.raises(error):
        unfitted.fit(X, y)
    assert {*vars(unfitted)} == {"alphas", "class_weight", "scoring"}


@pytest.mark.parametrize("raised", [no_memory, interrupt])
@pytest.mark.parametrize(
    "place",
    [
        (solving, "_choose"),
        (lapack, "syrk"),
        (moments, "number_keys"),
        (moments.Moments, "_replace"),
    ],
)
def test_an_interrupted_fit_leaves_the_model_as_it_was(place, raised, monkeypatch):
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    before = state_of(model)
    monkeypatch.setattr(moments, "N_KEPT", 100)
    with monkeypatch.context() as patch:
        patch.setattr(*place, raised)
        with pytest.raises((MemoryError, KeyboardInterrupt)):
            model.fit(X[:, :9], y)
    assert state_of(model) == before


def test_a_failed_first_batch_leaves_a_model_that_is_not_fitted():
    X, y = data(300, 20)
    model = StreamingRidgeClassifier()
    with pytest.raises(ValueError, match="not among"):
        model.partial_fit(pd.DataFrame(X).add_prefix("x"), y, classes=[0, 1])
    assert {*vars(model)} == {"alphas", "class_weight", "scoring"}
    assert model.partial_fit(X[:, :7], y).predict(X[:, :7]).shape == (300,)


def test_names_of_features_are_those_of_the_last_fit():
    X, y = data(300, 20)
    model = StreamingRidgeClassifier().fit(pd.DataFrame(X).add_prefix("x"), y)
    assert not hasattr(model.fit(X, y), "feature_names_in_")


def first_products(patch):
    real = Library.zeros

    def zeros(library, shape, dtype):
        return no_memory() if shape == (20, 20) else real(library, shape, dtype)

    patch.setattr(Library, "zeros", zeros)


STEPS = {
    "products": first_products,
    "rows": lambda patch: patch.setattr(Library, "empty", no_memory),
    "means": lambda patch: patch.setattr(moments.Sums, "combine", no_memory),
    "sample": lambda patch: patch.setattr(moments, "concatenate_rows", no_memory),
}


@pytest.mark.parametrize("n", [1, 60, 300])
@pytest.mark.parametrize("n_earlier", [15, 100])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_no_row_is_lost_without_memory(step, n_earlier, n, monkeypatch):
    """The rows that wait are added later, and the batch can be added again."""
    X, y = data(600, 20)
    model = StreamingRidgeClassifier(ALPHAS).partial_fit(X[:n_earlier], y[:n_earlier])
    expected = StreamingRidgeClassifier(ALPHAS).fit(X[: n_earlier + n], y[: n_earlier + n])
    more = X[n_earlier : n_earlier + n], y[n_earlier : n_earlier + n]
    is_added = False
    with monkeypatch.context() as patch:
        step(patch)
        try:
            model.partial_fit(*more)
            is_added = True
            model.predict(X)
        except MemoryError as error:
            assert "1 TiB" in str(error)  # noqa: PT017
    assert model._sums.n_rows == n_earlier + n * is_added
    if not is_added:
        model.partial_fit(*more)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-10)
    assert model.best_score_ == pytest.approx(expected.best_score_, rel=1e-9)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
def test_no_row_is_lost_at_a_real_limit_of_memory():
    code = """
import resource
X, y = data(400, 3000)
model = StreamingRidgeClassifier().partial_fit(X[:200], y[:200])
once = np.ones((1, 3000)) @ np.ones((3000, 2))  # the work space of BLAS
before = resource.getrlimit(resource.RLIMIT_AS)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, before[1]))
for _ in range(3):
    try:
        for i in range(200, 400, 50):
            model.partial_fit(X[i : i + 50], y[i : i + 50])
    except MemoryError:
        added = model._sums.n_rows
    else:
        added = 400
resource.setrlimit(resource.RLIMIT_AS, before)
"""
    done = run_script(code + "model = model.partial_fit(X, y); model.predict(X[:3])")
    assert done.returncode == 0, done.stderr


# Small batches


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
@pytest.mark.parametrize("sizes_of_batches", [[1] * 300, [127, 1, 1, 127, 44], [128, 127, 45]])
@sizes
def test_small_batches_give_the_same_sums(size, sizes_of_batches, dtype):
    X, y = data(*size)
    X, y = (1000 * np.concatenate([X] * 6)[:300]).astype(dtype), np.concatenate([y] * 6)[:300]
    expected = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    for fit in (by_batches, by_parts):
        model = fit(X, y, sizes_of_batches, alphas=ALPHAS)
        assert model._sums.n_rows == 300
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-10)
        np.testing.assert_allclose(model.mean_, expected.mean_, rtol=1e-12)
        assert model.alpha_ == expected.alpha_


def test_rows_that_wait_are_copies():
    X, y = data(60, 20)
    expected = StreamingRidgeClassifier(10).fit(X, y)
    model, row, label = StreamingRidgeClassifier(10), np.empty((1, 20)), np.empty(1, int)
    for i in range(60):
        row[:], label[:] = X[i], y[i]
        model.partial_fit(row, label)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [1, 100, 250])
@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
def test_rows_that_wait_are_part_of_copies_and_merges(make_copy, n):
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(ALPHAS).partial_fit(X[:n], y[:n])
    again = make_copy(model)
    assert again._sums.n_rows == model._sums.n_rows == n
    again.partial_fit(X[n:], y[n:])
    assert model._sums.n_rows == n
    before = pickle.dumps(model)
    rest = StreamingRidgeClassifier(ALPHAS).partial_fit(X[n:], y[n:]).merge(model)
    assert pickle.dumps(model) == before
    expected = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    for other in (again, rest, model.partial_fit(X[n:], y[n:])):
        np.testing.assert_allclose(other.coef_, expected.coef_, rtol=0, atol=1e-10)
    doubled = StreamingRidgeClassifier(10).partial_fit(X[:n], y[:n])
    assert doubled.merge(doubled)._sums.n_rows == 2 * n
    doubled.merge(doubled).partial_fit(X, y)
    repeated = [np.concatenate([array[:n]] * 4 + [array]) for array in (X, y)]
    whole = StreamingRidgeClassifier(10).fit(*repeated)
    np.testing.assert_allclose(doubled.coef_, whole.coef_, rtol=0, atol=1e-10)


def test_products_are_rarely_changed_by_small_batches(monkeypatch):
    """Each change reads and writes all products, which took most of the time of small batches."""
    X, y = data(2600, 30)
    calls, real = [], lapack.syrk

    def count(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(lapack, "syrk", count)
    for fit in (by_batches, by_parts):
        calls.clear()
        fit(X, y, [1] * 2600)
        assert len(calls) < 60


# Labels


LARGE = {
    "near 2**62": ([2**62, 2**62 + 1, 2**62 + 2], "i8"),
    "near -2**63": ([-(2**63), -(2**63) + 1, 5], "i8"),
    "near 2**63": ([2**63 - 1, 2**63, 2**63 + 1], "u8"),
    "near 2**64": ([0, 2**64 - 2, 2**64 - 1], "u8"),
}


@pytest.mark.parametrize("how", ["fit", "batches", "merge", "classes", "rare"])
@pytest.mark.parametrize(("labels", "dtype"), LARGE.values(), ids=LARGE)
def test_large_integer_labels_are_exact(labels, dtype, how):
    X, codes = data(300, 20)
    y = np.array(labels, dtype)[codes]
    expected = StreamingRidgeClassifier(ALPHAS).fit(X, codes)
    model = StreamingRidgeClassifier(ALPHAS)
    if how == "fit":
        model.fit(X, y)
    elif how == "merge":
        for label in labels:
            mine = y == np.array(label, dtype)
            part = StreamingRidgeClassifier(ALPHAS).partial_fit(X[mine], y[mine])
            model = part if label == labels[0] else model.merge(part)
    else:
        for i, label in enumerate(labels):
            mine = codes == i
            # The dtype of the batch alone would be int64 for small labels.
            batch = [label] * mine.sum()
            batch = np.array(batch, np.result_type(min(label, 2**63) if how == "rare" else y))
            classes = np.array(labels, dtype) if how == "classes" else None
            model.partial_fit(X[mine], batch if how == "rare" else y[mine], classes=classes)
    assert model.classes_.tolist() == labels
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-10)
    predicted = model.predict(X)
    assert [labels.index(label) for label in predicted.tolist()] == expected.predict(X).tolist()
    assert model.score(X, y) == expected.score(X, codes) > 0.4
    loaded = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
    assert loaded.classes_.tolist() == labels


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.array([2**62 + 1, 7]), np.array([1, 2], "u8")),
        (np.array([1, 2], "i4"), np.array([2**63 + 1, 5], "u8")),
        (np.array([2**63 + 1, 5], "u8"), np.array([0, 1], "i1")),
        (np.array([True, False]), np.array([2**64 - 1, 5], "u8")),
        (np.array([1.0, 2.0]), np.array([2**53, 5])),
    ],
)
def test_integer_labels_of_several_dtypes_are_exact(first, second):
    X, _ = data(4, 20)
    for one, two in ((first, second), (second, first)):
        classes = sorted({*one.tolist(), *two.tolist()})
        model = StreamingRidgeClassifier(1.0).partial_fit(X[:2], one).partial_fit(X[2:], two)
        other = StreamingRidgeClassifier(1.0).partial_fit(X[:2], one)
        other.merge(StreamingRidgeClassifier(1.0).partial_fit(X[2:], two))
        for fitted in (model, other):
            assert fitted.classes_.tolist() == classes
            assert fitted.predict(X).tolist() == [*one.tolist(), *two.tolist()]
            assert fitted.score(X[:2], one) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.array([-1, 2]), np.array([2**63, 5], "u8")),
        (np.array([1.0, 2.0]), np.array([2**53 + 1, 5])),
        (np.array([1.0, 2.0]), np.array([2**63, 5], "u8")),
    ],
)
def test_labels_that_no_dtype_holds_exactly(first, second):
    X, _ = data(4, 20)
    for one, two in ((first, second), (second, first)):
        model = StreamingRidgeClassifier(1.0).fit(X[:2], one)
        before = state_of(model)
        other = StreamingRidgeClassifier(1.0).partial_fit(X[2:], two)
        for attempt in (partial(model.partial_fit, X[2:], two), partial(model.merge, other)):
            with pytest.raises(ValueError, match=r"No dtype of NumPy holds all class labels"):
                attempt()
        assert state_of(model) == before


@pytest.mark.parametrize("y", [[2**63, 2**63 + 1, -1], [2**53 + 2.0, 1.0, 2.0], [-1e300, 1.0, 2.0]])
def test_labels_that_numpy_has_rounded(y):
    X, _ = data(3, 5)
    for attempt in (
        lambda: StreamingRidgeClassifier().fit(X, y),
        lambda: StreamingRidgeClassifier().partial_fit(X, [1, 2, 1], classes=y),
    ):
        with pytest.raises(ValueError, match=r"different large integers are equal.* strings"):
            attempt()


LONG = "x" * 2**20


@pytest.mark.parametrize(
    "attempt",
    [
        lambda X, y: StreamingRidgeClassifier().fit(X, y[:1].repeat(3)),
        lambda X, y: StreamingRidgeClassifier().partial_fit(X, y, classes=y[:2]),
        lambda X, y: StreamingRidgeClassifier().fit(X, y).partial_fit(X, y, classes=y[:2]),
        lambda X, y: StreamingRidgeClassifier().fit(X, y).partial_fit(X, [1, 2, 3]),
        lambda X, y: StreamingRidgeClassifier().fit(X, [1, 2, 3]).partial_fit(X, y),
        lambda X, y: StreamingRidgeClassifier().partial_fit(X, [1, 2, 3], classes=y),
        lambda X, y: (
            StreamingRidgeClassifier()
            .partial_fit(X[:2], y[:2], classes=y[:2])
            .merge(StreamingRidgeClassifier().fit(X, y))
        ),
    ],
)
@pytest.mark.parametrize("dtype", [object, str])
def test_long_labels_are_cut_in_messages(attempt, dtype):
    X, _ = data(3, 5)
    with pytest.raises(ValueError, match="class") as caught:
        attempt(X, np.array([f"{i}{LONG}" for i in range(3)], dtype))
    assert 50 < len(str(caught.value)) < 500


def test_long_lists_of_labels_are_cut_in_messages():
    X, y = np.random.default_rng(0).normal(size=(15_000, 2)), np.arange(15_000) % 5000
    model = StreamingRidgeClassifier().partial_fit(X, y, classes=y[:5000])
    for labels, options in ((y + 5000, {}), (y, {"classes": y[:5000] + 1})):
        with pytest.raises(ValueError, match=r"\.\.\. \(5000 labels\)") as caught:
            model.partial_fit(X, labels, **options)
        assert len(str(caught.value)) < 400


# Classes that were given in the first call


def given(classes, labels):
    X, _ = data(len(labels), 5)
    return StreamingRidgeClassifier(1.0).partial_fit(X, labels, classes=classes)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (given([0, 1, 2], [0, 1]), given(None, [1, 5])),
        (given([0, 1, 2], [0, 1]), given([0, 1, 2, 5], [1, 2])),
        (given([0, 1, 2], [0, 1]), given([0, 1], [0, 1]).merge(given(None, [0, 1]))),
        (given(["a", "b"], ["a", "b"]), given(None, ["b", "c"])),
    ],
)
def test_merge_refuses_classes_that_were_not_given(first, second):
    for model, other in ((first, second), (second, first)):
        before = state_of(model), state_of(other)
        with pytest.raises(ValueError, match=r"one has the classes .* not among .* first call of"):
            model.merge(other)
        assert (state_of(model), state_of(other)) == before


def test_given_classes_are_those_of_merged_models():
    for make in (lambda: given(None, [0, 1]), lambda: given([0, 1, 2], [0, 1])):
        fixed = given([0, 1, 2], [2, 1])
        for merged in (make().merge(fixed), copy.deepcopy(fixed).merge(make())):
            assert merged.classes_.tolist() == [0, 1, 2]
            with pytest.raises(ValueError, match=r"classes \[7\], which are not among"):
                merged.partial_fit(np.ones((1, 5)), [7])
    free = given(None, [0, 1]).merge(given(None, [1, 7]))
    assert free.partial_fit(np.ones((1, 5)), [8]).classes_.tolist() == [0, 1, 7, 8]


# Threads and forked processes


@pytest.fixture
def blocked():
    """Return a function that sets ``entered``, and then waits until ``release`` is set."""

    class Blocked:
        def __init__(self):
            self.entered, self.release = threading.Event(), threading.Event()

        def __call__(self, function):
            def wait(*args, **kwargs):
                self.entered.set()
                assert self.release.wait(60)
                return function(*args, **kwargs)

            return wait

    blocked = Blocked()
    yield blocked
    blocked.release.set()


@pytest.fixture
def threads(blocked):
    with ThreadPoolExecutor(8) as threads:
        yield threads
        blocked.release.set()


def test_a_solved_model_does_not_wait_for_another_one(blocked, threads, monkeypatch):
    X, y = data(300, 20)
    solved = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    expected = solved.predict(X)
    other = StreamingRidgeClassifier(ALPHAS).partial_fit(X, y)
    monkeypatch.setattr(solving, "_choose", blocked(solving._choose))
    busy = threads.submit(other.predict, X)
    assert blocked.entered.wait(60)
    np.testing.assert_array_equal(threads.submit(solved.predict, X).result(timeout=10), expected)
    assert not busy.done()
    blocked.release.set()
    np.testing.assert_array_equal(busy.result(), expected)


def test_a_solved_model_predicts_while_rows_are_added(blocked, threads, monkeypatch):
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    expected = model.decision_function(X)
    monkeypatch.setattr(moments.Moments, "_keep", blocked(moments.Moments._keep))
    busy = threads.submit(model.partial_fit, X, np.where(y == 0, 3, y))
    assert blocked.entered.wait(60)
    scores = threads.submit(model.decision_function, X).result(timeout=10)
    np.testing.assert_array_equal(scores, expected)
    waiting = threads.submit(model.set_params(alphas=3.0).decision_function, X)
    blocked.release.set()
    busy.result()
    assert waiting.result().shape == (300, 4)


@pytest.fixture
def _many_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_many_switches")
@pytest.mark.parametrize("alphas", [10.0, ALPHAS])
@sizes
def test_threads_that_add_rows_lose_none(size, alphas, threads):
    X, y = data(*size)
    batches = [slice(start, start + 3) for start in range(0, len(X), 3)] * 5
    expected = StreamingRidgeClassifier(alphas)
    for batch in batches:
        expected.partial_fit(X[batch], y[batch])
    for is_fitted in (True, False):
        model = StreamingRidgeClassifier(alphas)
        added = batches
        if is_fitted:
            model.partial_fit(X[batches[0]], y[batches[0]])
            added = batches[1:]
        adding = [threads.submit(model.partial_fit, X[batch], y[batch]) for batch in added]
        if is_fitted:
            for _ in range(10):
                assert model.predict(X).shape == (len(X),)
        for call in adding:
            call.result()
        assert model._sums.n_rows == 5 * len(X)
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-10)
        np.testing.assert_allclose(model._sums.sums.weight, expected._sums.sums.weight)
        np.testing.assert_allclose(model.mean_, expected.mean_, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("_many_switches")
def test_threads_that_merge_two_models_with_each_other(threads):
    X, y = data(300, 20)
    expected = StreamingRidgeClassifier(10).fit(X, y)
    for _ in range(20):
        first = StreamingRidgeClassifier(10).partial_fit(X[:100], y[:100])
        second = StreamingRidgeClassifier(10).partial_fit(X[100:], y[100:])
        calls = [threads.submit(first.merge, second), threads.submit(second.merge, first)]
        for call in calls:
            call.result(timeout=60)
        assert sorted([first._sums.n_rows, second._sums.n_rows]) in ([300, 400], [300, 500])
    whole = first if first._sums.n_rows == 300 else second
    np.testing.assert_allclose(whole.coef_, expected.coef_, rtol=0, atol=1e-10)


FORK = """
X, y = data(500, 40)
expected = StreamingRidgeClassifier([1, 10]).fit(X, y).decision_function(X)
model = StreamingRidgeClassifier([1, 10]).partial_fit(X, y)
place, target = solving, model.predict
if name != "factorize":
    place, target = moments.Moments, model.fit(X, y).partial_fit
function, entered, release = getattr(place, name), threading.Event(), threading.Event()

def wait(*args, **kwargs):
    result = function(*args, **kwargs)
    entered.set()
    release.wait(60)
    return result

setattr(place, name, wait)
thread = threading.Thread(target=target, args=(X, y)[: target.__code__.co_argcount - 1])
thread.start()
assert entered.wait(60)
child = os.fork()
if not child:
    signal.alarm(20)
    setattr(place, name, function)
    assert np.allclose(model.decision_function(X), expected, rtol=0, atol=1e-10)
    try:
        model.partial_fit(X[:3], y[:3])
    except RuntimeError as error:
        assert name == "_replace" and "fit again from the first row" in str(error)
    else:
        assert name != "_replace" and model._sums.n_rows == 503
    assert np.allclose(model.fit(X, y).decision_function(X), expected, rtol=0, atol=1e-10)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
release.set()
thread.join()
if name == "factorize":
    np.testing.assert_allclose(model.decision_function(X), expected, rtol=0, atol=1e-10)
else:
    assert model._sums.n_rows == 1000
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork of Unix")
@pytest.mark.parametrize("name", ["factorize", "_keep", "_replace"])
def test_a_fork_while_a_model_is_busy(name):
    done = run_script(f"name = {name!r}\n{FORK}")
    assert done.returncode == 0, done.stderr


def test_threads_share_a_model_that_is_not_solved_yet():
    X, y = data(3000, 50)
    alone = StreamingRidgeClassifier(ALPHAS).fit(X, y).decision_function(X)
    model = StreamingRidgeClassifier(ALPHAS).partial_fit(X, y)
    with ThreadPoolExecutor(8) as threads:
        for scores in threads.map(lambda _: model.decision_function(X), range(16)):
            np.testing.assert_array_equal(scores, alone)


def test_memory_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr(moments, "BLOCK_BYTES", 2**20)
    X, y = data(20_000, 100, dtype="f4")
    model = StreamingRidgeClassifier(ALPHAS).fit(X[:500], y[:500])  # Modules are imported.
    tracemalloc.start()
    model.fit(X, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.9 * X.nbytes + 2**20


KERNELS = {"alphas": [0.01, 0.1], "gammas": [0.3, 1.0]}


@pytest.mark.parametrize(
    "estimator",
    [
        StreamingRidgeClassifier(1.0),
        StreamingRidgeClassifier((0.1, 10.0)),
        StreamingRidge(1.0),
        StreamingRidge(),
        StreamingRidge(alpha_per_target=True),
        RBFRidgeClassifier(**KERNELS, n_landmarks=50),
        RBFRidge(**KERNELS),
    ],
    ids=str,
)
def test_battery(estimator):
    n_run = 0
    for example, check in estimator_checks.estimator_checks_generator(estimator):
        name = getattr(check, "func", check).__name__
        # With several alphas, the second check fails in RidgeClassifierCV as well: without a row,
        # all of its weight is missing. So it does for probabilities.
        has_errors = np.size(estimator.alphas) > 1 or hasattr(estimator, "predict_proba")
        if name.startswith("check_array_api") or (has_errors and "weight_equivalence" in name):
            continue
        check(example)
        n_run += 1
    assert n_run >= 45


@pytest.mark.parametrize(
    "name", ["check_dataframe_column_names_consistency", "check_inplace_ensure_writeable"]
)
def test_checks_that_are_never_yielded(name):
    getattr(estimator_checks, name)("StreamingRidgeClassifier", StreamingRidgeClassifier(1.0))


def test_in_a_search_of_pipelines():
    X, y = load_digits(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), clone(StreamingRidgeClassifier()))
    grid = {"streamingridgeclassifier__alphas": [1e-3, [1.0, 10.0], 1e9]}
    search = GridSearchCV(pipe, grid, cv=3).fit(X, y)
    assert search.best_params_ != {"streamingridgeclassifier__alphas": 1e9}
    assert search.best_score_ > 0.88
    assert "StreamingRidgeClassifier" in search.best_estimator_._repr_html_()
