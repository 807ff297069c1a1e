"""Fits of ridge models on many features, which compute no products of features."""

import importlib
import pickle
import tracemalloc
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_conv import (
    SharedFeaturesSearch,
    StreamingRidge,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    cross_val_table,
)
from sklearn_conv._ridge import all_rows, iteration

ALPHAS = [1.0, 10.0, 100.0, 1000.0, 10000.0]


@contextmanager
def solver(name, n_sample=200):
    """Let models of few features be fitted by a solver: "factors", "iteration" or "products"."""
    few = {"factors": 10**9, "iteration": 10, "products": 0}[name]
    many = 10**9 if name == "products" else 0
    with (
        patch.object(all_rows, "MANY_FEATURES", many),
        patch.object(all_rows, "FEW_ROWS", few),
        patch.object(iteration, "N_SAMPLE", n_sample),
    ):
        yield


def make_rows(n=600, d=300, k=3, seed=0):
    """Return correlated features with offsets, columns of targets, and weights."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 30))
    X = hidden @ rng.normal(size=(30, d)) + rng.normal(size=(n, d)) + rng.uniform(-5, 5, d)
    X *= rng.uniform(0.1, 10, d)
    Y = hidden[:, :k] + rng.normal(size=(n, k)) * [[0.1, 1, 10][:k]] + 5
    return X, Y, rng.uniform(0.1, 3, n)


def distance(found, expected):
    """Return the largest difference, relative to the spread of what is expected."""
    return np.abs(found - expected).max() / np.std(expected, axis=0).min()


@pytest.mark.parametrize("name", ["factors", "iteration"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [3.0, 300.0])
def test_agrees_with_ridge_of_scikit_learn(name, weighted, alpha):
    X, Y, weights = make_rows()
    weights = weights if weighted else None
    scaler = StandardScaler().fit(X, sample_weight=weights)
    ridge = Ridge(alpha).fit(scaler.transform(X), Y, sample_weight=weights)
    with solver(name):
        model = StreamingRidge(alpha).fit(X, Y, sample_weight=weights)
    assert distance(model.predict(X), ridge.predict(scaler.transform(X))) < 1e-4
    np.testing.assert_allclose(model.mean_, scaler.mean_)
    np.testing.assert_allclose(model.scale_, scaler.scale_)


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_rows_are_multiplied_by_numpy_as_well(dtype):
    X, Y, weights = make_rows()
    X = X.astype(dtype)
    with solver("iteration"):
        expected = StreamingRidge(30.0).fit(X, Y, sample_weight=weights).predict(X)
        with patch.object(iteration, "is_for_library", lambda X: False):
            found = StreamingRidge(30.0).fit(X, Y, sample_weight=weights).predict(X)
        model = StreamingRidge(30.0).fit(np.asfortranarray(X), Y, sample_weight=weights)
    assert distance(model.predict(X), expected) < 2e-5
    assert distance(found, expected) < 2e-5


@pytest.mark.parametrize("per_target", [False, True])
def test_products_of_rows_leave_each_row_out(per_target):
    X, Y, _ = make_rows(80, 200)
    scaled = StandardScaler().fit_transform(X)
    ridge = RidgeCV(ALPHAS, alpha_per_target=per_target).fit(scaled, Y)
    with solver("factors"):
        model = StreamingRidge(ALPHAS, alpha_per_target=per_target).fit(X, Y)
    np.testing.assert_allclose(model.alpha_, ridge.alpha_)
    np.testing.assert_allclose(model.best_score_, ridge.best_score_, rtol=1e-9)
    np.testing.assert_allclose(model.predict(X), ridge.predict(scaled), rtol=1e-9)


@pytest.mark.parametrize("n_rows", [1, 2, 3, 30])
@pytest.mark.parametrize("alphas", [3.0, ALPHAS])
@pytest.mark.parametrize("weighted", [False, True])
def test_products_of_rows_agree_with_eigenvectors(n_rows, alphas, weighted):
    X, Y, weights = make_rows(n_rows, 50)
    weights = weights if weighted else None
    with solver("factors"):
        model = StreamingRidge(alphas).fit(X, Y, sample_weight=weights)
    # The errors of two rows are the same for all alphas.
    alphas = alphas if n_rows > 2 else model.alpha_
    expected = StreamingRidge(alphas).fit(X, Y, sample_weight=weights)
    np.testing.assert_allclose(model.predict(X), expected.predict(X), rtol=1e-9)
    np.testing.assert_allclose(model.alpha_, expected.alpha_)
    if n_rows > 3:
        np.testing.assert_allclose(
            model.predict_interval(X, 0.8), expected.predict_interval(X, 0.8), rtol=1e-7
        )


@given(
    st.sampled_from(["f2", "f4", "f8", "i2", "u1", "?"]),
    st.integers(2, 5),
    st.booleans(),
    st.sampled_from(["C", "F", "strided"]),
    st.sampled_from([[10.0], ALPHAS]),
    st.sampled_from(["factors", "iteration"]),
    st.sampled_from(["numbers", "strings"]),
)
@settings(max_examples=40)
def test_classes_agree_with_products_of_features(dtype, k, weighted, order, alphas, name, labels):
    X, Y, weights = make_rows(400, 120, 3, seed=k)
    X = (X.mean() < X) if dtype == "?" else np.abs(X * 8).astype(dtype)
    X[:, 5] = 1
    X = np.repeat(X, 2, axis=1)[:, ::2] if order == "strided" else np.array(X, order=order)
    y = np.digitize(Y[:, 0], np.quantile(Y[:, 0], np.arange(1, k) / k))
    y = y if labels == "numbers" else np.array(["a", "b", "c", "d", "e"])[y]
    weights = weights if weighted else None
    before = X.copy()
    with solver(name):
        model = StreamingRidgeClassifier(alphas).fit(X, y, sample_weight=weights)
    with solver("products"):
        expected = StreamingRidgeClassifier(model.alpha_).fit(X, y, sample_weight=weights)
    found, scores = model.decision_function(X), expected.decision_function(X)
    assert np.abs(found - scores).max() < 1e-4 * scores.std()
    assert (model.coef_.reshape(-1, 120)[:, 5] == 0).all()
    assert model.predict_proba(X).shape == (400, k)
    np.testing.assert_array_equal(X, before)


def test_each_target_has_its_alpha():
    X, Y, weights = make_rows(800, 300)
    alphas = np.logspace(-1, 6, 8)
    out = np.sort(np.argsort(all_rows.number_keys(0, 800))[:80])  # the rows held out
    kept = np.setdiff1d(np.arange(800), out)
    scores = []
    for alpha in alphas:
        with solver("products"):
            without = StreamingRidge(alpha).fit(X[kept], Y[kept], weights[kept])
        errors = np.square(without.predict(X[out]) - Y[out])
        scores.append(-(weights[out] @ errors) / 80)
    with solver("iteration"):
        model = StreamingRidge(alphas, alpha_per_target=True).fit(X, Y, weights)
    np.testing.assert_array_equal(model.alpha_, alphas[np.argmax(scores, axis=0)])
    np.testing.assert_allclose(model.best_score_, np.max(scores, axis=0), rtol=1e-2)
    for j, alpha in enumerate(model.alpha_):
        with solver("products"):
            single = StreamingRidge(alpha).fit(X, Y[:, j], weights)
        assert distance(model.predict(X)[:, j], single.predict(X)) < 1e-4
    lower, upper = np.moveaxis(model.predict_interval(X, 0.8), 1, 0)
    assert 0.6 < ((lower <= Y) & (upper >= Y)).mean() < 0.95


def test_rows_held_out_choose_alpha_without_being_seen():
    # Features that are noise fit the targets of any row that is not left out.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(700, 500)).astype(np.float32), rng.normal(size=700)
    with solver("iteration"):
        model = StreamingRidge(ALPHAS).fit(X, y)
    assert model.alpha_ == 1e4
    assert model.best_score_ < -0.7  # minus their variance, and not minus residuals


@pytest.mark.parametrize("offset", [0, 100, 1e4])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_offsets_cost_no_precision(offset, dtype):
    X, Y, _ = make_rows(500, 100)
    X = (X / X.std(axis=0) + offset).astype(dtype)
    scaled = StandardScaler().fit_transform(X.astype(np.float64))
    expected = Ridge(10.0).fit(scaled, Y).predict(scaled)
    with solver("iteration"):
        model = StreamingRidge(10.0).fit(X, Y)
    assert distance(model.predict(X), expected) < 1e-4


def test_extreme_spreads_of_features_and_targets():
    X, Y, _ = make_rows(500, 100)
    scaled = StandardScaler().fit_transform(X)
    expected = Ridge(10.0).fit(scaled, Y).predict(scaled)
    factors = 10.0 ** np.arange(-20, 20)[np.arange(100) % 40]
    with solver("iteration"):
        for dtype in ("f4", "f8"):
            model = StreamingRidge(10.0).fit((X * factors).astype(dtype), Y * 1e100)
            found = model.predict((X * factors).astype(dtype)) / 1e100
            assert distance(found, expected) < 1e-3


def test_results_do_not_depend_on_threads():
    X, Y, _ = make_rows(1000, 200)
    coefs = []
    for n_threads in (1, 3):
        with solver("iteration"), threadpool_limits(n_threads):
            coefs.append(StreamingRidge(ALPHAS).fit(X.astype("f4"), Y).coef_)
    np.testing.assert_allclose(coefs[0], coefs[1], rtol=1e-9, atol=1e-9 * np.abs(coefs[0]).max())


def test_a_model_that_does_not_converge_says_so(monkeypatch):
    X, Y, _ = make_rows()
    monkeypatch.setattr(iteration, "MAX_PASSES", 3)
    with solver("iteration", 50), pytest.warns(ConvergenceWarning, match="choose larger alphas"):
        StreamingRidge(0.1).fit(X, Y)


def test_model_can_predict_and_nothing_else():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, all_rows.MANY_FEATURES + 1)).astype("f4"), rng.integers(0, 3, 60)
    X[np.arange(60), y] += 30
    model = StreamingRidgeClassifier([1.0, 10.0]).partial_fit(X, 2 - y).fit(X, y)
    assert model.score(X, y) == 1
    restored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(restored.predict_proba(X), model.predict_proba(X))
    for method in (
        lambda: model.partial_fit(X, y),
        lambda: model.merge(clone(model).fit(X, y)),
        lambda: model.novelty(X),
        lambda: clone(model).fit(X, y).set_params(alphas=3).predict(X),
    ):
        with pytest.raises(ValueError, match=r"more than 16,384 features are, .* fit again"):
            method()
    assert model.discard_sums() is model
    columns = ["predicted", "probability_0", "probability_1", "probability_2"]
    assert [*cross_val_table(model, X, y, cv=2)] == ["label", *columns, "fold"]
    pytest.importorskip("cyclopts")
    predict = importlib.import_module("sklearn_conv._commands.predict")
    assert [*predict._predict(model, X)] == columns


@pytest.mark.parametrize("heavy", [1e3, 1e6, 1e9])
def test_heavy_rows_do_not_hide_the_variances_of_others(heavy):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, all_rows.MANY_FEATURES + 1)).astype("f4")
    y, weights = rng.normal(size=30), np.ones(30)
    weights[0] = heavy
    model = StreamingRidge(10.0).fit(X, y, weights)
    mean = np.average(X, axis=0, weights=weights)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
    np.testing.assert_allclose(model.scale_, scale, rtol=1e-4)


def test_one_alpha_for_weights_that_differ():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, all_rows.MANY_FEATURES + 1)), rng.normal(size=30)
    weights = np.ones(30)
    weights[0] = 1e12
    model = StreamingRidge(10.0).fit(X, y, weights)
    expected = StreamingRidge(10.0).partial_fit(X, y, weights)
    np.testing.assert_allclose(model.predict(X), expected.predict(X), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="differ less, or a single alpha"):
        StreamingRidge([10.0, 100.0]).fit(X, y, weights)


def test_targets_that_are_all_equal():
    X = np.random.default_rng(0).normal(size=(600, 300)).astype("f4")
    with solver("iteration"):
        model = StreamingRidge([1.0, 10.0]).fit(X, np.ones(600))
    np.testing.assert_array_equal(model.predict(X), 1)


@pytest.mark.parametrize("shape", [(), (6,), (6, 2, 2), (6, 0), (0, 2)])
def test_half_precision_of_a_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"2D array|dim|sample|feature|rows"):
        StreamingRidge().fit(np.zeros(shape, np.float16), np.arange(6))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_half_precision_is_checked_and_not_copied(bad):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1000, 4000)).astype(np.float16), rng.integers(0, 2, 1000)
    with solver("iteration"):
        model = StreamingRidgeClassifier(1000.0)
        tracemalloc.start()
        model.fit(X, y)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        X[500, 7] = bad
        with pytest.raises(ValueError, match="Input X contains"):
            model.fit(X, y)
    assert peak < X.nbytes * 6  # directions, their products, and blocks of rows


def test_memory_map(tmp_path):
    X, Y, _ = make_rows()
    stored = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", "f4", X.shape)
    stored[:] = X
    with solver("iteration"):
        expected = StreamingRidge(ALPHAS).fit(X.astype("f4"), Y)
        model = StreamingRidge(ALPHAS).fit(np.load(tmp_path / "X.npy", mmap_mode="r"), Y)
    np.testing.assert_array_equal(model.coef_, expected.coef_)


def test_search_over_alphas():
    images, y = np.random.default_rng(0).random((60, 8, 8)), np.arange(60) % 2
    images[y == 1, 2:4] += 0.5
    pipeline = make_pipeline(
        StridedConv2DTransformer(kernels="patches", random_state=0), StreamingRidgeClassifier()
    )
    search = GridSearchCV(pipeline, {"streamingridgeclassifier__alphas": [1.0, 10.0]}, cv=3)
    with solver("factors"):
        expected = clone(search).fit(images, y)
        shared = SharedFeaturesSearch(search).fit(images, y)
    np.testing.assert_allclose(
        shared.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )


def test_the_limit_of_scores_is_not_underestimated():
    limit, factor = np.array([1.0, -2.0, 5.0]), np.array([0.5, 0.9, -0.3])
    first, second, third = (limit - factor**n for n in range(3))
    bound = iteration.bound_limit(first, second, third)
    np.testing.assert_allclose(bound, third + 2 * (limit - third).clip(0))
    assert iteration.bound_limit(*np.array([[0.0], [1.0], [2.5]])) == np.inf
