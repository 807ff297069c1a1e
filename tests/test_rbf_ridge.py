"""`RBFRidgeClassifier` and `RBFRidge` agree with scikit-learn's `KernelRidge`."""

import pickle
import tracemalloc
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from helpers import best_factor, smallest_log_loss
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import load_digits, make_regression
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from sklearn_conv import RBFRidge, RBFRidgeClassifier
from sklearn_conv._ridge import many_landmarks, rbf, rbf_solving

MODELS = [RBFRidgeClassifier, RBFRidge]
models = pytest.mark.parametrize("cls", MODELS)
TOLERANCES = {"f4": 3e-3, "f8": 1e-9}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Many small factors take longer in several threads, above all on a busy machine."""
    with threadpool_limits(1, "blas"):
        yield


def data(n=120, d=6, n_classes=3, dtype="f8", seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, d))
    X[:, :n_classes] += np.eye(n_classes)[y]
    return X.astype(dtype), y


def targets_of(cls, y):
    """Return the targets, one column for two classes and for regression."""
    if cls is RBFRidge:
        return y[:, np.newaxis].astype(float)
    classes = np.unique(y)
    return np.where(y[:, np.newaxis] == (classes[1:] if len(classes) == 2 else classes), 1.0, -1.0)


def kernel_ridge(model, X, targets, landmarks=None):
    """Return scikit-learn's model for the chosen gamma and alpha, and centers of the targets."""
    gamma = model.gamma_ / model.median_distance_
    mean = targets.mean(axis=0)
    return KernelRidge(alpha=model.alpha_, kernel="rbf", gamma=gamma).fit(X, targets - mean), mean


def scores_of(model, X):
    scores = (model.predict if isinstance(model, RBFRidge) else model.decision_function)(X)
    return scores.reshape(len(X), -1)


def score(errors, targets):
    return -float(np.square(errors).mean())


# The solution


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@models
def test_agrees_with_kernel_ridge(cls, n_classes, dtype):
    X, y = data(n_classes=n_classes, d=8, dtype=dtype)
    model = cls(0.03, gammas=0.5, random_state=0).fit(X, y)
    expected, mean = kernel_ridge(model, X.astype("f8"), targets_of(cls, y))
    new = data(50, 8, n_classes, dtype, seed=1)[0]
    scores = expected.predict(new.astype("f8")) + mean
    tolerance = TOLERANCES[dtype]
    np.testing.assert_allclose(scores_of(model, new), scores, rtol=tolerance, atol=tolerance)
    assert (model.alpha_, model.gamma_) == (0.03, pytest.approx(0.5))
    assert model.landmarks_.dtype == dtype
    assert model.median_distance_ == pytest.approx(np.median(pdist(X, "sqeuclidean")), rel=1e-5)
    if cls is RBFRidgeClassifier:
        labels = scores.argmax(axis=1) if n_classes > 2 else (scores[:, 0] > 0).astype(int)
        np.testing.assert_array_equal(model.predict(new), labels)
        assert model.score(new, labels) == 1


@models
def test_leave_one_out_errors_are_those_of_fits_without_the_row(cls):
    X, y = data(40)
    targets = targets_of(cls, y)
    model = cls([0.01, 0.1, 1], gammas=[0.1, 1], random_state=0).fit(X, y)
    means, found = {}, {}
    for alpha in (0.01, 0.1, 1):
        for gamma in (0.1, 1):
            errors = []
            for i in range(40):
                others = np.arange(40) != i
                fitted = KernelRidge(
                    alpha=alpha, kernel="rbf", gamma=gamma / model.median_distance_
                ).fit(X[others], (targets - targets.mean(axis=0))[others])
                errors.append(fitted.predict(X[i : i + 1]) + targets.mean(axis=0) - targets[i])
            found[alpha, gamma], means[alpha, gamma] = errors, np.square(errors).mean()
    assert (model.alpha_, pytest.approx(model.gamma_)) == min(means, key=means.get)
    assert model.best_score_ == pytest.approx(-min(means.values()))
    if cls is RBFRidge:
        lower, upper = model.predict_interval(X[:1], 0.8)[0]
        expected = np.sort(np.abs(found[model.alpha_, model.gamma_]).ravel())[32]  # 0.8 * 41
        assert (upper - lower) / 2 == pytest.approx(expected)
        assert (upper + lower) / 2 == pytest.approx(model.predict(X[:1])[0])


@pytest.mark.parametrize("n_landmarks", [40, 20])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_log_loss_is_that_of_fits_without_the_row(n_classes, n_landmarks):
    X, y = data(40, n_classes=n_classes)
    targets = targets_of(RBFRidgeClassifier, y)
    mean = targets.mean(axis=0)
    alphas = (0.01, 0.1, 1.0)
    model = RBFRidgeClassifier(
        alphas, gammas=1.0, n_landmarks=n_landmarks, random_state=0, scoring="neg_log_loss"
    ).fit(X, y)
    gamma = 1.0 / model.median_distance_
    nystroem = Nystroem(gamma=gamma, n_components=n_landmarks)
    rows = nystroem.fit(model.landmarks_).transform(X)
    losses = []
    for alpha in alphas:
        predicted = np.empty(targets.shape)
        for i in range(40):
            others = np.arange(40) != i
            ridge = Ridge(alpha, fit_intercept=False).fit(rows[others], (targets - mean)[others])
            predicted[i] = ridge.predict(rows[i : i + 1]) + mean
        if n_classes == 2:
            predicted = np.hstack([-predicted, predicted])
        losses.append(smallest_log_loss(predicted, y, np.ones(40)))
    assert model.best_score_ == pytest.approx(-min(losses), rel=1e-4)
    assert model.alpha_ == alphas[np.argmin(losses)]


@pytest.mark.parametrize("n_landmarks", [40, 20])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_have_the_smallest_loss_of_fits_without_the_row(n_classes, n_landmarks):
    X, y = data(40, n_classes=n_classes)
    targets = targets_of(RBFRidgeClassifier, y)
    mean = targets.mean(axis=0)
    model = RBFRidgeClassifier(0.1, gammas=1.0, n_landmarks=n_landmarks, random_state=0).fit(X, y)
    nystroem = Nystroem(gamma=1.0 / model.median_distance_, n_components=n_landmarks)
    rows = nystroem.fit(model.landmarks_).transform(X)
    predicted = np.empty(targets.shape)
    for i in range(40):
        others = np.arange(40) != i
        ridge = Ridge(0.1, fit_intercept=False).fit(rows[others], (targets - mean)[others])
        predicted[i] = ridge.predict(rows[i : i + 1]) + mean
    if n_classes == 2:
        predicted = np.hstack([-predicted, predicted])
    assert model.temperature_ == pytest.approx(1 / best_factor(predicted, y, None), rel=1e-3)
    scores = model.decision_function(X)
    scores = np.stack([-scores, scores], axis=1) if n_classes == 2 else scores
    expected = softmax(scores / model.temperature_, axis=1)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-10)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(expected), rtol=1e-9)
    np.testing.assert_array_equal(expected.argmax(axis=1), model.predict(X))


def test_models_of_earlier_versions_have_neither_probabilities_nor_intervals():
    X, y = data()
    model = RBFRidgeClassifier(random_state=0).fit(X, y)
    del model.temperature_, model.components_
    assert model.predict(X).shape == (120,)
    regressor = RBFRidge(random_state=0).fit(X, y)
    del regressor._residuals
    for method in (model.predict_proba, regressor.predict_interval):
        with pytest.raises(ValueError, match=r"earlier version of sklearn_conv.*fit it again"):
            method(X)


@pytest.mark.parametrize("n_landmarks", [40, 25])
def test_novelty_is_the_rank_among_variances_of_gaussian_processes_without_the_landmark(
    n_landmarks,
):
    X, y = data(40)
    model = RBFRidgeClassifier(0.1, gammas=1.0, n_landmarks=n_landmarks, random_state=0).fit(X, y)
    landmarks = model.landmarks_
    kernel = RBF(np.sqrt(model.median_distance_ / 2), "fixed")  # exp(-distance**2 / median)

    def variance(row, others):
        process = GaussianProcessRegressor(kernel, alpha=0.1).fit(others, np.zeros(len(others)))
        return process.predict(row[np.newaxis], return_std=True)[1].item() ** 2

    everything = np.arange(len(landmarks))
    known = np.array([variance(landmarks[i], landmarks[everything != i]) for i in everything])
    new, _ = data(30, seed=1)
    expected = [(known < variance(row, landmarks)).mean() for row in new]
    np.testing.assert_allclose(model.novelty(new), expected, atol=1e-12)
    assert model.novelty(100 + new).min() == 1
    length = len(pickle.dumps(model))
    model.fit(X, y)
    assert not model._later
    model.novelty(new)
    assert len(pickle.dumps(model)) == length
    assert not pickle.loads(pickle.dumps(model))._later
    del model._later  # as in earlier versions
    np.testing.assert_allclose(model.novelty(new), expected, atol=1e-12)


def test_a_sample_of_rows_has_the_same_errors(monkeypatch):
    """The elements of the inverse are computed from a part of the factor."""
    X, y = data(80)
    monkeypatch.setattr(rbf_solving, "N_SAMPLE", 30)
    choice = rbf_solving.solve_exactly(X, targets_of(RBFRidgeClassifier, y), [0.2], [0.1], score)
    gram = np.exp(-0.2 * ((X[:, np.newaxis] - X) ** 2).sum(axis=2)) + 0.1 * np.eye(80)
    inverse = np.linalg.inv(gram)
    errors = (inverse @ targets_of(RBFRidgeClassifier, y)) / np.diag(inverse)[:, np.newaxis]
    assert choice.score == pytest.approx(-np.square(errors[-30:]).mean())


@pytest.mark.parametrize("dtype", TOLERANCES)
@given(n=st.integers(2, 40), block=st.integers(1, 50), seed=st.integers(0, 9))
def test_blocks_make_no_difference(n, block, seed, dtype):
    X, y = data(n, 4, 2, dtype, seed)
    model = RBFRidge([0.01, 0.1], gammas=[0.3, 1.0], random_state=0)
    whole = clone(model).fit(X, y)
    few = clone(model).set_params(n_landmarks=max(1, n // 2))
    expected = clone(few).fit(X, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rbf_solving, "BLOCK_BYTES", block * n * X.itemsize)
        for one, other in ((whole, clone(model)), (expected, few)):
            np.testing.assert_allclose(
                other.fit(X, y).predict(X), one.predict(X), rtol=0, atol=TOLERANCES[dtype]
            )


# Landmarks


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_with_all_rows_as_landmarks_the_solution_is_exact(dtype):
    X, y = data(150, dtype=dtype)
    targets = targets_of(RBFRidgeClassifier, y).astype(dtype)
    exact = rbf_solving.solve_exactly(X, targets, [0.1], [0.1], score)
    center, sample = np.zeros(6, dtype), np.arange(150)
    other = rbf_solving.solve_with_landmarks(X, targets, sample, center, X, 0.1, [0.1], score)
    new = data(50, dtype=dtype, seed=1)[0]
    tolerance = TOLERANCES[dtype]
    for rows in (X, new):
        first, second = (
            rbf_solving.predict_rows(rows, rbf_solving.Space(center, None), X, 0.1, choice.dual)
            for choice in (exact, other)
        )
        np.testing.assert_allclose(first, second, atol=tolerance)
    assert other.score == pytest.approx(exact.score, rel=10 * tolerance)


@models
def test_few_landmarks_are_those_of_a_ridge_on_features_of_nystroem(cls):
    X, y = data(200)
    model = cls(0.1, gammas=0.5, n_landmarks=40, random_state=0).fit(X, y)
    landmarks = model.landmarks_
    assert len({*map(tuple, landmarks)} & {*map(tuple, X)}) == 40  # rows of X, unchanged
    gamma = model.gamma_ / model.median_distance_
    features = Nystroem(gamma=gamma, n_components=40, random_state=0).fit(landmarks)
    rows, targets = features.transform(X), targets_of(cls, y)
    mean = targets.mean(axis=0)
    gram = rows.T @ rows + 0.1 * np.eye(40)
    weights = np.linalg.solve(gram, rows.T @ (targets - mean))
    np.testing.assert_allclose(scores_of(model, X), rows @ weights + mean, atol=1e-8)
    leverages = np.einsum("nm,mn->n", rows, np.linalg.solve(gram, rows.T))
    errors = (targets - mean - rows @ weights) / (1 - leverages)[:, np.newaxis]
    assert model.best_score_ == pytest.approx(-np.square(errors).mean())


def test_many_landmarks_choose_gamma_with_few_of_them(monkeypatch):
    X, y = data(200)
    monkeypatch.setattr(rbf, "N_SEARCH", 50)
    grids = []

    def solve(rows, targets, gammas, alphas, score):
        grids.append((len(rows), len(gammas), len(alphas)))
        return rbf_solving.solve_exactly(rows, targets, gammas, alphas, score)

    monkeypatch.setattr(rbf, "solve_exactly", solve)
    RBFRidgeClassifier([0.1, 1], gammas=[0.1, 0.3, 1]).fit(X, y)
    assert grids == [(50, 3, 2), (200, 1, 2)]
    grids.clear()
    RBFRidgeClassifier([0.1, 1], gammas=[0.1, 0.3, 1], n_landmarks=30).fit(X, y)
    assert grids == [(30, 3, 2)]
    grids.clear()
    RBFRidgeClassifier([0.1, 1], gammas=0.3, n_landmarks=30).fit(X, y)
    assert grids == []


@models
def test_the_seed_decides_everything(cls):
    X, y = data(100)
    first, second, other = (
        cls(n_landmarks=50, random_state=seed).fit(X, y)
        for seed in (0, np.random.RandomState(0), 1)
    )
    np.testing.assert_array_equal(first.predict(X), second.predict(X))
    assert not np.array_equal(first.landmarks_, other.landmarks_)
    state = np.random.get_state()[1].copy()
    cls().fit(X, y)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_the_seed_makes_no_difference_to_few_rows():
    X, y = data(200)
    first, second = (RBFRidge(random_state=seed).fit(X, y) for seed in (0, 1))
    assert (first.alpha_, first.gamma_) == (second.alpha_, pytest.approx(second.gamma_))
    np.testing.assert_allclose(first.predict(X), second.predict(X), atol=1e-8)


# Many landmarks


@contextmanager
def iteration(n_columns=64, strip=32, n_sample=2000, fine=1e-6):
    """Let all models be fitted by the iteration for many landmarks."""
    with (
        patch.object(rbf, "N_FACTORS", 0),
        patch.object(many_landmarks, "N_COLUMNS", n_columns),
        patch.object(many_landmarks, "STRIP", strip),
        patch.object(many_landmarks, "N_SAMPLE", n_sample),
        patch.object(many_landmarks, "FINE", fine),
    ):
        yield


@given(
    n=st.integers(20, 150),
    n_classes=st.integers(2, 5),
    dtype=st.sampled_from([*TOLERANCES]),
    alpha=st.sampled_from([0.01, 0.1, 10.0]),
    gamma=st.sampled_from([0.1, 1.0, 10.0]),
    size=st.sampled_from([(16, 8), (16, 16), (64, 32), (256, 256)]),
    offset=st.sampled_from([0.0, 30.0]),
    cls=st.sampled_from(MODELS),
)
def test_iteration_agrees_with_kernel_ridge(n, n_classes, dtype, alpha, gamma, size, offset, cls):
    X, y = data(n, 8, n_classes, dtype)
    X += X.dtype.type(offset)
    before = X.copy()
    with iteration(*size, fine={"f4": 3e-4, "f8": 1e-6}[dtype]):
        model = cls(alpha, gammas=gamma, random_state=0).fit(X, y)
    expected, mean = kernel_ridge(model, X.astype("f8"), targets_of(cls, y))
    new = data(50, 8, 2, dtype, seed=1)[0] + X.dtype.type(offset)
    tolerance = {"f4": 3e-3, "f8": 1e-4}[dtype]
    scores = expected.predict(new.astype("f8")) + mean
    np.testing.assert_allclose(scores_of(model, new), scores, atol=tolerance)
    assert len(model.landmarks_) == n
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("scoring", [None, "neg_log_loss"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_iteration_chooses_alpha_by_rows_that_are_held_out_together(n_classes, scoring):
    X, y = data(300, 8, n_classes)
    alphas = [1e-3, 1e-2, 1e-1, 1.0, 10.0]
    with iteration(n_sample=20):
        model = RBFRidgeClassifier(alphas, gammas=1.0, random_state=0, scoring=scoring).fit(X, y)
    targets = targets_of(RBFRidgeClassifier, y)
    mean = targets.mean(axis=0)
    out = np.array([np.flatnonzero((row == X).all(axis=1))[0] for row in model.landmarks_[-20:]])
    others = np.setdiff1d(np.arange(300), out)
    scores = []
    for alpha in alphas:
        gamma = 1.0 / model.median_distance_
        ridge = KernelRidge(alpha=alpha, kernel="rbf", gamma=gamma)
        predicted = ridge.fit(X[others], (targets - mean)[others]).predict(X[out]) + mean
        if scoring is None:
            scores.append(-np.square(predicted - targets[out]).mean())
        else:
            predicted = np.hstack([-predicted, predicted]) if n_classes == 2 else predicted
            scores.append(-smallest_log_loss(predicted, y[out], np.ones(20)))
    assert model.alpha_ == alphas[np.argmax(scores)]
    assert model.best_score_ == pytest.approx(max(scores), rel=0.03)
    assert model.alpha_ > 1e-3


def test_iteration_tries_no_alpha_above_the_best_of_few_rows():
    X, y = data(200)
    tried = []

    def solve(landmarks, targets, gamma, alphas, score):
        tried.extend(alphas)
        return many_landmarks.solve_by_iteration(landmarks, targets, gamma, alphas, score)

    with (
        iteration(),
        patch.object(rbf, "solve_by_iteration", solve),
        patch.object(rbf, "N_SEARCH", 100),
    ):
        RBFRidge([1e-3, 0.1, 1.0, 1e6], gammas=0.5, random_state=0).fit(X, y)
        assert tried in ([1e-3, 0.1, 1.0], [1e-3, 0.1])
        tried.clear()
        RBFRidge(1e6, gammas=[0.5, 1.0], random_state=0).fit(X, y)
        assert tried == [1e6]


@pytest.mark.parametrize("tie", [0.0, 1e9])
def test_iteration_chooses_the_narrowest_kernel_of_similar_scores(tie):
    X, y = data(200, 3)
    y = np.sin(X[:, 0]) * X[:, 1]
    gammas = [0.3, 0.01, 10.0]
    with iteration(), patch.object(rbf, "N_SEARCH", 100), patch.object(rbf, "TIE", tie):
        model = RBFRidge([0.1, 1.0], gammas=gammas, random_state=0).fit(X, y)
    assert model.gamma_ == pytest.approx(10.0 if tie else 0.3)


@models
def test_iteration_for_a_part_of_the_rows_is_a_fit_of_this_part(cls):
    X, y = data(200)
    with iteration():
        model = cls(0.1, gammas=0.5, n_landmarks=120, random_state=0).fit(X, y)
    assert model.landmarks_.shape == (120, 6)
    rows = np.array([np.flatnonzero((row == X).all(axis=1))[0] for row in model.landmarks_])
    targets = targets_of(cls, y)
    gamma = model.gamma_ / model.median_distance_
    ridge = KernelRidge(alpha=0.1, kernel="rbf", gamma=gamma)
    expected = ridge.fit(X[rows], (targets - targets.mean(axis=0))[rows]).predict(X)
    np.testing.assert_allclose(scores_of(model, X), expected + targets.mean(axis=0), atol=1e-4)


def test_iteration_does_not_depend_on_threads():
    X, y = data(500, dtype="f4")
    duals = []
    for n_threads in (1, 3):
        with iteration(fine=2e-3), threadpool_limits(n_threads):
            duals.append(RBFRidgeClassifier(random_state=0).fit(X, y).dual_coef_)
    np.testing.assert_allclose(duals[0], duals[1], rtol=1e-6, atol=1e-6 * np.abs(duals[0]).max())


def test_an_iteration_that_does_not_converge_says_so():
    X, y = data(200, 3)
    with iteration(16, 16), pytest.warns(ConvergenceWarning, match="200 landmarks is not accurate"):
        RBFRidge(1e-12, gammas=0.1, random_state=0).fit(X, y)


@pytest.mark.parametrize("dtype", TOLERANCES)
@models
@pytest.mark.filterwarnings("error")
def test_iteration_for_equal_rows_and_extreme_coefficients(cls, dtype):
    X, y = data(60, dtype=dtype)
    with iteration(fine=2e-3):
        model = cls(random_state=0).fit(np.repeat(X, 4, 0), np.repeat(y, 4))
        assert np.isfinite(scores_of(model, X)).all()
        model.fit(np.ones_like(X), y)
        means = targets_of(cls, y).mean(axis=0)
        np.testing.assert_allclose(scores_of(model, X[:1] * 0 + 1), means[np.newaxis], atol=1e-3)
        for gamma in (1e-300, 1e300):
            model = cls(1.0, gammas=gamma, random_state=0).fit(X, y)
            assert np.isfinite(scores_of(model, X)).all()


def test_iteration_stores_half_of_the_kernel(monkeypatch):
    monkeypatch.setattr(rbf_solving, "BLOCK_BYTES", 2**18)
    X, y = data(3000, 5, dtype="f4")
    targets = targets_of(RBFRidge, y).astype("f4")
    with iteration(64, 64, fine=2e-3):
        tracemalloc.start()
        many_landmarks.solve_by_iteration(X, targets - targets.mean(), 0.1, [1.0], score)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1.3 * 2 * 3000**2


def test_novelty_is_that_of_some_of_many_landmarks():
    X, y = data(200)
    few = RBFRidgeClassifier(0.1, gammas=1.0, random_state=0).fit(X, y)
    expected = few.novelty(X)
    with iteration():
        many = RBFRidgeClassifier(0.1, gammas=1.0, random_state=0).fit(X, y)
    with patch.object(rbf, "N_FACTORS", 150):
        found = many.novelty(X)
    assert many._later["leverages"].landmarks.shape == (150, 6)
    assert np.corrcoef(found, expected)[0, 1] > 0.9


def few_directions(n, dtype="f8", noise=1e-3, d=100, seed=0):
    """Return rows of ``d`` features that contain 8, and noise."""
    rng = np.random.default_rng(seed)
    X, y = data(n, 8, 3, seed=seed)
    directions = np.linalg.qr(np.random.default_rng(9).normal(size=(d, 8)))[0]
    return (X @ directions.T + noise * rng.normal(size=(n, d))).astype(dtype), y


@contextmanager
def components(n_components=30):
    with (
        iteration(n_sample=30, fine=3e-4),
        patch.object(many_landmarks, "N_COMPONENTS", n_components),
        patch.object(many_landmarks, "N_ROWS", 100),
    ):
        yield


@given(
    n=st.integers(60, 200),
    dtype=st.sampled_from([*TOLERANCES]),
    offset=st.sampled_from([0.0, 30.0]),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    n_landmarks=st.sampled_from([50, 1000]),
    cls=st.sampled_from(MODELS),
)
def test_components_replace_features_that_are_nearly_combinations_of_them(
    n, dtype, offset, scale, n_landmarks, cls
):
    X, y = few_directions(n, dtype)
    new = few_directions(50, dtype, seed=1)[0]
    X, new = ((rows + rows.dtype.type(offset)) * rows.dtype.type(scale) for rows in (X, new))
    model = cls(0.1, gammas=1.0, n_landmarks=n_landmarks, random_state=0)
    every = clone(model).set_params(random_state=0)
    with components():
        model.fit(X, y)
    with iteration(n_sample=30, fine=3e-4):
        every.fit(X, y)
    assert every.components_ is None
    assert model.components_.shape == (30, 100)
    assert model.components_.dtype == model.landmarks_.dtype == X.dtype
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(30), atol=1e-5)
    assert model.landmarks_.shape == (min(n, n_landmarks), 30)
    assert model.median_distance_ == pytest.approx(every.median_distance_, rel=1e-3)
    np.testing.assert_allclose(scores_of(model, new), scores_of(every, new), atol=5e-3)
    if cls is RBFRidgeClassifier:
        np.testing.assert_allclose(model.novelty(new), every.novelty(new), atol=0.1)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(scores_of(loaded, new), scores_of(model, new))


@pytest.mark.parametrize(
    ("X", "n_components"),
    [
        (few_directions(200, noise=1.0)[0], 30),  # The noise needs more components.
        (few_directions(200)[0], 50),  # The features are not more than twice as many.
        (few_directions(200)[0], 12),  # They are more than eight times as many.
        (few_directions(200, "f4")[0] * np.float32(1e-30), 30),  # Squares underflow.
        (np.ones((200, 100)), 30),
    ],
)
@pytest.mark.filterwarnings("error")
def test_components_are_not_used_where_they_are_not_better(X, n_components):
    y = np.arange(200) % 3
    with components(n_components):
        model = RBFRidgeClassifier(1.0, gammas=1.0, random_state=0).fit(X, y)
    assert model.components_ is None
    assert model.landmarks_.shape == (200, 100)
    assert np.isfinite(model.decision_function(X)).all()


def test_squares_that_overflow_are_an_error_with_components_too():
    X, y = few_directions(200, "f4")
    with components(), pytest.raises(ValueError, match="squares of some features overflow"):
        RBFRidgeClassifier().fit(X * np.float32(1e19), y)


# Numbers that are hard


@pytest.mark.parametrize("dtype", TOLERANCES)
@models
def test_an_offset_costs_no_accuracy(cls, dtype):
    offset = 2.0**10
    X = (np.random.default_rng(0).integers(-500, 500, size=(80, 5)) / 256).astype(dtype)
    y = np.arange(80) % 3
    model, expected = (
        cls(0.1, gammas=0.5, random_state=0),
        cls(0.1, gammas=0.5, random_state=0).fit(X, y),
    )
    np.testing.assert_allclose(
        scores_of(model.fit(X + offset, y), X + offset),
        scores_of(expected, X),
        atol=TOLERANCES[dtype],
    )


@pytest.mark.parametrize("n_landmarks", [10, 10_000])
@pytest.mark.parametrize("dtype", TOLERANCES)
@models
@pytest.mark.filterwarnings("error")
def test_equal_rows(cls, dtype, n_landmarks):
    X, y = data(60, dtype=dtype)
    model = cls(n_landmarks=n_landmarks, random_state=0).fit(np.repeat(X, 4, 0), np.repeat(y, 4))
    assert np.isfinite(scores_of(model, X)).all()
    model.fit(np.ones_like(X), y)
    assert model.median_distance_ == 1
    means = targets_of(cls, y).mean(axis=0)
    np.testing.assert_allclose(scores_of(model, X[:1] * 0 + 1), means[np.newaxis], atol=1e-3)


def test_alphas_that_are_too_small_are_skipped():
    X = np.zeros((50, 3), "f4")
    y = np.arange(50.0)
    assert RBFRidge([1e-30, 1.0], gammas=1.0).fit(X, y).alpha_ == 1.0
    with pytest.raises(
        ValueError, match=r"alpha=1e-30 is too small .* cast the features to float6"
    ):
        RBFRidge(1e-30, gammas=1.0).fit(X, y)
    with pytest.raises(ValueError, match=r"alpha=1e-30 is too small .* choose a larger alpha\."):
        RBFRidge(1e-30, gammas=1.0).fit(X.astype("f8"), y)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("factor", [1e-100, 1e-30, 1e100])
def test_targets_may_have_any_unit(factor, dtype):
    X, y = data(dtype=dtype)
    expected = RBFRidge(random_state=0).fit(X, y * 1.0)
    model = RBFRidge(random_state=0).fit(X, y * factor)
    np.testing.assert_allclose(
        model.predict(X) / factor, expected.predict(X), atol=10 * TOLERANCES[dtype]
    )
    assert model.best_score_ == pytest.approx(expected.best_score_ * factor**2, rel=1e-3)


def test_several_targets_are_those_of_one_by_one():
    X, y = make_regression(100, 4, n_targets=3, noise=1, random_state=0)
    model = RBFRidge(0.1, gammas=0.3, random_state=0).fit(X, y)
    for i in range(3):
        one = RBFRidge(0.1, gammas=0.3, random_state=0).fit(X, y[:, i])
        np.testing.assert_allclose(one.predict(X), model.predict(X)[:, i])
    assert model.dual_coef_.shape == (100, 3)
    assert model.fit(X, y[:, :1]).predict(X).shape == (100, 1)


def test_memory_is_about_one_kernel_of_the_landmarks(monkeypatch):
    monkeypatch.setattr(rbf_solving, "BLOCK_BYTES", 2**18)
    monkeypatch.setattr(rbf_solving, "N_SAMPLE", 100)
    X, y = data(1500, 5, dtype="f4")
    tracemalloc.start()
    rbf_solving.solve_exactly(X, targets_of(RBFRidge, y).astype("f4"), [0.1], [0.1], score)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * 4 * 1500**2


# Errors


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"alphas": 0}, ValueError, "'alphas' parameter of .* above 0 .* Got 0 instead"),
        ({"alphas": []}, ValueError, "'alphas' parameter"),
        ({"alphas": "1"}, TypeError, "'alphas' parameter"),
        ({"alphas": True}, TypeError, "'alphas' parameter"),
        ({"gammas": [1, -1]}, ValueError, "'gammas' parameter"),
        ({"gammas": np.nan}, ValueError, "'gammas' parameter"),
        ({"gammas": None}, TypeError, "'gammas' parameter"),
        ({"n_landmarks": 0}, ValueError, "'n_landmarks' parameter .* at least 1"),
        ({"n_landmarks": 10.0}, TypeError, "'n_landmarks' parameter"),
        ({"random_state": -1}, ValueError, "'random_state' parameter"),
        ({"random_state": "0"}, TypeError, "'random_state' parameter"),
    ],
)
@models
def test_parameters_are_checked(cls, parameters, error, message):
    with pytest.raises(error, match=message):
        cls(**parameters).fit(None, None)


X, Y = data(30)
BAD = {
    "nan": (np.where(np.eye(30, 6) > 0, np.nan, X), Y, ValueError, "NaN"),
    "few labels": (X, Y[:-1], ValueError, "inconsistent numbers of samples"),
    "large": (X * 1e200, Y, ValueError, "squares of some features overflow float64; divide"),
    "large float32": ((X * 1e19).astype("f4"), Y, ValueError, "overflow float32; divide"),
    "masked": (np.ma.masked_greater(X, 1), Y, ValueError, "masked values; fill them"),
    "dates": (X.astype("M8[s]"), Y, TypeError, "X has dtype datetime64"),
}


@pytest.mark.parametrize(("bad_X", "bad_y", "error", "message"), BAD.values(), ids=BAD)
@models
@pytest.mark.filterwarnings("error")
def test_a_failed_fit_leaves_the_model_as_it_was(cls, bad_X, bad_y, error, message):
    frame = pd.DataFrame(X, columns=[*"abcdef"])
    model = cls(random_state=0).fit(frame, Y)
    before = pickle.dumps(model)
    with pytest.raises(error, match=message):
        model.fit(bad_X, bad_y)
    assert pickle.dumps(model) == before
    assert not hasattr(model.fit(X, Y), "feature_names_in_")


@pytest.mark.parametrize(
    ("cls", "y", "error", "message"),
    [
        (RBFRidgeClassifier, np.ones(30), ValueError, r"at least 2 classes.*1 class: 1\.0"),
        (RBFRidgeClassifier, X[:, 0], ValueError, "Unknown label type"),
        (RBFRidgeClassifier, Y * 1j, ValueError, "Complex"),
        (RBFRidge, Y * 1e200, ValueError, "divide them by their standard deviation"),
        (RBFRidge, Y * np.nan, ValueError, "NaN"),
        (RBFRidge, Y.astype(str), TypeError, "array of real numbers"),
    ],
)
def test_bad_targets(cls, y, error, message):
    with pytest.raises(error, match=message):
        cls().fit(X, y)


@models
def test_dask_arrays_are_refused(cls):
    da = pytest.importorskip("dask.array")
    model = cls(random_state=0)
    for arrays in [(da.from_array(X), Y), (X, da.from_array(Y))]:
        with pytest.raises(TypeError, match=r"is a Dask array, but .*\.compute\(\) if the rows"):
            model.fit(*arrays)
    with pytest.raises(TypeError, match="X is a Dask array"):
        model.fit(X, Y).predict(da.from_array(X))


@models
def test_not_fitted(cls):
    with pytest.raises(NotFittedError):
        cls().predict(X)


@models
def test_settings_of_numpy_have_no_effect(cls):
    with np.errstate(all="raise"):
        for n_landmarks in (10, 10_000):
            model = cls(
                [1e-3, 1.0], gammas=[1e-300, 1e300], n_landmarks=n_landmarks, random_state=0
            )
            assert np.isfinite(scores_of(model.fit(X, Y), X)).all()
            assert np.isfinite(scores_of(model.fit(X.astype("f4"), Y), X)).all()


def test_rows_far_from_all_landmarks_have_the_mean():
    model = RBFRidge(random_state=0).fit(X, Y)
    np.testing.assert_allclose(model.predict(X[:2] + 1e6), Y.mean())
    with pytest.raises(ValueError, match="overflow float64"):
        model.predict(X * 1e200)


# As an estimator


@models
def test_pickle(cls):
    model = cls(random_state=0).fit(X, Y)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_digits():
    rows, labels = load_digits(return_X_y=True)
    model = RBFRidgeClassifier(random_state=0).fit(rows[:300], labels[:300].astype(str))
    assert model.score(rows[300:], labels[300:].astype(str)) > 0.88
    model.set_params(n_landmarks=200).fit(rows[:300], labels[:300])
    assert model.score(rows[300:], labels[300:]) > 0.85
