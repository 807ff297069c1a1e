"""`StreamingRidge`, weights of rows and classes, and products in float32, beside scikit-learn."""

import pickle
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeClassifierCV, RidgeCV
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils import compute_sample_weight

from sklearn_conv import RBFRidge, RBFRidgeClassifier, StreamingRidge, StreamingRidgeClassifier
from sklearn_conv._ridge import products, solving

da = pytest.importorskip("dask.array")

ALPHAS = [0.1, 1.0, 10.0, 100.0, 1000.0]
SIZES = {"few rows": (50, 80), "many rows": (300, 20), "as many": (60, 60)}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


def data(n, d, dtype="f8", offset=0.0):
    """Return features, three targets of which each needs another alpha, and weights."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, d)) * rng.uniform(0.1, 10, d) + offset).astype(dtype)
    Y = X @ rng.normal(size=(d, 3)) + rng.normal(size=(n, 3)) * [1, 100, 1000] + [3, 5, 1e4]
    return X, Y, rng.uniform(0.1, 3, n)


def reference(X, y, alphas, weights=None, per_target=False):
    """Return a function that predicts, and the ridge regression of scikit-learn.

    Its predictions have the shape of y; those of `Ridge` for one column have one axis since 1.6.
    """
    scaler = StandardScaler().fit(X, sample_weight=weights)
    several = np.size(alphas) > 1
    ridge = RidgeCV(alphas, alpha_per_target=per_target) if several else Ridge(alphas)
    ridge.fit(scaler.transform(X), y, sample_weight=weights)
    return lambda rows: ridge.predict(scaler.transform(rows)).reshape(y.shape), ridge


KINDS = [(alphas, columns, False) for alphas in (3.0, ALPHAS) for columns in (0, [1], [0, 1, 2])]
KINDS += [(ALPHAS, [0, 1, 2], True), (ALPHAS, [1], True), (3.0, [0, 1, 2], True)]


@pytest.mark.parametrize(("alphas", "columns", "per_target"), KINDS, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@sizes
def test_agrees_with_ridge_on_standardized_features(size, weighted, alphas, columns, per_target):
    X, Y, weights = data(*size)
    y, weights = Y[:, columns], weights if weighted else None
    predict, ridge = reference(X, y, alphas, weights, per_target)
    batches = StreamingRidge(alphas, alpha_per_target=per_target)
    merged = StreamingRidge(alphas, alpha_per_target=per_target)
    for start, stop in pairwise([0, 3, 47, len(X)]):
        rows = slice(start, stop)
        sample_weight = None if weights is None else weights[rows]
        batches.partial_fit(X[rows], y[rows], sample_weight=sample_weight)
        part = StreamingRidge().partial_fit(X[rows], y[rows], sample_weight=sample_weight)
        merged = part.set_params(**merged.get_params()) if start == 0 else merged.merge(part)
    lazy = StreamingRidge(alphas, alpha_per_target=per_target).fit(
        da.from_array(X, (40, 11)), da.from_array(y, 35), sample_weight=weights
    )
    whole = StreamingRidge(alphas, alpha_per_target=per_target).fit(X, y, sample_weight=weights)
    for model in (whole, batches, merged, lazy):
        np.testing.assert_allclose(model.predict(X), predict(X), rtol=1e-9, atol=1e-8)
        assert model.coef_.shape == (*y.shape[1:], X.shape[1])
        assert np.shape(model.intercept_) == y.shape[1:]
        np.testing.assert_allclose(
            X @ model.coef_.T + model.intercept_, model.predict(X), rtol=1e-9
        )
        if alphas is ALPHAS:
            np.testing.assert_array_equal(model.alpha_, np.squeeze(ridge.alpha_))
            np.testing.assert_allclose(model.best_score_, np.squeeze(ridge.best_score_), rtol=1e-8)
        else:
            assert (model.alpha_ == 3.0).all() if np.ndim(model.alpha_) else model.alpha_ == 3.0
            assert model.best_score_ is None
    predicted = lazy.predict(da.from_array(X, (40, 11)))
    assert predicted.shape == y.shape
    np.testing.assert_allclose(predicted.compute(), predict(X), rtol=1e-9, atol=1e-8)
    score = r2_score(y, predict(X))
    assert whole.score(X, y) == pytest.approx(score)
    assert whole.score(da.from_array(X, (40, 11)), da.from_array(y, 35)) == pytest.approx(score)


def test_each_target_has_its_alpha():
    X, Y, _ = data(300, 20)
    model = StreamingRidge(ALPHAS, alpha_per_target=True).fit(X, Y)
    assert len(set(model.alpha_)) > 1
    for i in range(3):
        assert model.alpha_[i] == StreamingRidge(ALPHAS).fit(X, Y[:, i]).alpha_
    assert np.ndim(model.set_params(alpha_per_target=False).alpha_) == 0  # without the rows


# Intervals


def without_the_row(alpha, X, y, weights):
    """Return absolute errors of fits without the row, with the scale of all rows."""
    scaled = StandardScaler().fit(X, sample_weight=weights).transform(X)
    errors = []
    for i in range(len(X)):
        others = np.arange(len(X)) != i
        fitted = Ridge(alpha).fit(scaled[others], y[others], weights[others])
        errors.append(np.abs(fitted.predict(scaled[i : i + 1])[0] - y[i]))
    return np.array(errors)


@pytest.mark.parametrize("alphas", [3.0, ALPHAS], ids=["one alpha", "alphas"])
@pytest.mark.parametrize("coverage", [0.5, 0.9])
@sizes
def test_intervals_are_quantiles_of_errors_without_the_row(size, coverage, alphas):
    X, Y, _ = data(*size)
    model = StreamingRidge(alphas, alpha_per_target=True).fit(X, Y)
    intervals = model.predict_interval(X[:5], coverage)
    assert intervals.shape == (5, 2, 3)
    place = int(np.ceil(coverage * (len(X) + 1))) - 1
    for i in range(3):
        single = StreamingRidge(alphas).fit(X, Y[:, i])
        width = np.sort(without_the_row(single.alpha_, X, Y[:, i], np.ones(len(X))))[place]
        predicted = single.predict(X[:5])
        expected = np.stack([predicted - width, predicted + width], axis=1)
        np.testing.assert_allclose(intervals[:, :, i], expected, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(single.predict_interval(X[:5], coverage), expected, atol=1e-8)
    lazy = model.predict_interval(da.from_array(X, (40, 11)), coverage)
    assert lazy.shape == (len(X), 2, 3)
    np.testing.assert_allclose(lazy[:5].compute(), intervals, rtol=1e-12)


def test_intervals_of_weighted_rows_are_weighted_quantiles():
    X, Y, _ = data(60, 5)
    weights = np.arange(60) % 4 + 1.0
    model = StreamingRidge(3.0).fit(X, Y[:, 0], weights)
    errors = np.sort(without_the_row(3.0, X, Y[:, 0], weights).repeat(weights.astype(int)))
    lower, upper = model.predict_interval(X[:1], 0.8)[0]
    assert (upper - lower) / 2 == pytest.approx(errors[round(0.8 * (150 + 2.5)) - 1])


def regressions():
    """Yield features and targets of three kinds."""
    rng = np.random.default_rng(0)
    yield load_diabetes(return_X_y=True)
    X = rng.lognormal(0, 0.5, (1000, 8))  # skewed features, not linear, with outliers
    yield X, np.log(X[:, 0]) + 0.5 * X[:, 1] * X[:, 2] + np.exp(0.3 * rng.standard_t(4, 1000))
    X = rng.normal(size=(1000, 5))
    yield X, X[:, 0] + 2 * np.abs(X[:, 0]) * rng.normal(size=1000)


@pytest.mark.parametrize("model", [StreamingRidge(), RBFRidge(0.1, gammas=0.1)], ids=str)
def test_intervals_have_the_coverage(model):
    for X, y in regressions():
        found = []
        for seed in range(20):
            order = np.random.default_rng(seed).permutation(len(y))
            rows, test = order[: len(y) // 2], order[len(y) // 2 :]
            intervals = model.fit(X[rows], y[rows]).predict_interval(X[test])
            found.append(((intervals[:, 0] <= y[test]) & (y[test] <= intervals[:, 1])).mean())
        assert 0.88 < np.mean(found) < 0.92


@pytest.mark.parametrize("cls", [StreamingRidge, RBFRidge])
def test_intervals_of_few_rows_are_infinite(cls):
    X, Y, _ = data(9, 3)
    assert np.isfinite(cls().fit(X, Y).predict_interval(X)).all()
    assert np.isinf(cls().fit(X[:8], Y[:8]).predict_interval(X)).all()
    assert np.isinf(cls(1.0).fit(X[:1], Y[:1]).predict_interval(X, 0.3)).all()
    for coverage, error in (
        (0, ValueError),
        (1.0, ValueError),
        ("a", TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match=r"'coverage' .* must be a number between 0 and 1"):
            cls().fit(X, Y).predict_interval(X, coverage)


@pytest.mark.parametrize("alphas", [3.0, ALPHAS], ids=["one alpha", "alphas"])
def test_intervals_are_part_of_files_without_sums(alphas):
    X, Y, _ = data(300, 20)
    model = StreamingRidge(alphas).fit(X, Y)
    expected = model.predict_interval(X)
    small = pickle.loads(pickle.dumps(StreamingRidge(alphas).fit(X, Y).discard_sums()))
    np.testing.assert_array_equal(small.predict_interval(X), expected)
    parts = [StreamingRidge(alphas).fit(X[i::2], Y[i::2]) for i in (0, 1)]
    parts[0].predict_interval(X)
    merged = parts[0].merge(parts[1]).predict_interval(X)
    np.testing.assert_allclose(merged, expected, rtol=1e-9, atol=1e-9)
    state = small.__getstate__()
    state["_solution"]["later"] = {}  # as in earlier versions
    small.__setstate__(state)
    with pytest.raises(ValueError, match=r"discarded.*intervals or novelty, fit again"):
        small.predict_interval(X)


@pytest.mark.parametrize("estimator", [StreamingRidge, StreamingRidgeClassifier])
@sizes
def test_weights_are_numbers_of_rows(size, estimator):
    X, Y, _ = data(*size)
    y = Y[:, 0] if estimator is StreamingRidge else np.arange(len(X)) % 3
    counts = np.arange(len(X)) % 4
    weighted = estimator(10).fit(X, y, sample_weight=counts)
    repeated = estimator(10).fit(X.repeat(counts, axis=0), y.repeat(counts))
    removed = estimator(10).fit(X[counts > 0], y[counts > 0], sample_weight=counts[counts > 0])
    for model in (repeated, removed):
        np.testing.assert_allclose(model.coef_, weighted.coef_, rtol=1e-8, atol=1e-11)
    assert weighted._sums.n_rows == (counts > 0).sum()


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 2.0, 2: 0.5}])
@pytest.mark.parametrize("weighted", [False, True])
@sizes
def test_agrees_with_weighted_ridge_classifier(size, weighted, class_weight):
    X, _, weights = data(*size)
    weights = weights if weighted else np.ones(len(X))
    y = np.where(np.arange(len(X)) % 5, np.arange(len(X)) % 3, 1)
    total = weights * compute_sample_weight(class_weight, y)
    scaler = StandardScaler().fit(X, sample_weight=total)
    expected = RidgeClassifierCV(ALPHAS).fit(scaler.transform(X), y, sample_weight=total)
    scores = expected.decision_function(scaler.transform(X))
    lazy = da.from_array(X, (40, 11)), da.from_array(y, 35), da.from_array(weights, 11)
    for arguments in ((X, y, weights), lazy):
        model = StreamingRidgeClassifier(ALPHAS, class_weight=class_weight).fit(*arguments)
        np.testing.assert_allclose(model.decision_function(X), scores, rtol=1e-7, atol=1e-9)
        assert model.alpha_ == expected.alpha_
        assert model.best_score_ == pytest.approx(expected.best_score_)
    if class_weight != "balanced":
        model = StreamingRidgeClassifier(ALPHAS, class_weight=class_weight)
        for rows in (slice(9), slice(9, None)):
            model.partial_fit(X[rows], y[rows], sample_weight=weights[rows])
        np.testing.assert_allclose(model.decision_function(X), scores, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("names", [[0, 1, 2], ["a", "b", "c"], [0, 1, 0]])
@sizes
def test_a_class_of_weight_0_is_a_class_without_rows(size, names):
    X, *_ = data(*size)
    y, class_weight = np.array(names)[np.arange(len(X)) % 3], {names[1]: 0, names[2]: 3}
    total = compute_sample_weight(class_weight, y)
    scaler = StandardScaler().fit(X, sample_weight=total)
    expected = RidgeClassifier(10.0).fit(scaler.transform(X), y, sample_weight=total)
    scores = expected.decision_function(scaler.transform(X))
    model = StreamingRidgeClassifier(10.0, class_weight=class_weight)
    for rows in (slice(9), slice(9, None)):
        model.partial_fit(X[rows], y[rows])
    lazy = da.from_array(X, (40, 11)), da.from_array(y, 35)
    for fitted in (model, *(clone(model).fit(*arguments) for arguments in ((X, [*y]), lazy))):
        assert fitted.classes_.tolist() == expected.classes_.tolist()
        np.testing.assert_allclose(fitted.decision_function(X), scores, rtol=1e-7, atol=1e-9)
    with pytest.raises(ValueError, match="All rows belong to classes whose weight in class_weight"):
        model.partial_fit(X[y == names[1]], y[y == names[1]])


def test_a_class_whose_rows_have_weight_0():
    X, *_ = data(90, 4)
    y = np.arange(90) % 3
    weights = (y != 1) * 1.0
    lazy = [da.from_array(each, 30) for each in (y, weights)]
    model = StreamingRidgeClassifier(1.0)
    for fitted in (
        clone(model).fit(X, y, weights),
        clone(model).partial_fit(X, y, sample_weight=weights),
        clone(model).fit(da.from_array(X, (30, -1)), *lazy),
        clone(model).set_params(class_weight={2: 3.0}).fit(X, y, weights),
    ):
        assert fitted.classes_.tolist() == [0, 1, 2]
    vote = VotingClassifier([("a", model), ("b", StreamingRidgeClassifier(9.0))], voting="soft")
    assert (vote.fit(X, y, sample_weight=weights).predict(X) != 1).all()


def test_class_weight_of_all_classes_where_one_is_missing():
    X, *_ = data(90, 4)
    y, weight = np.arange(90) // 30, {0: 1, 1: 2, 2: 30}
    model = StreamingRidgeClassifier(1.0, class_weight=weight).fit(X[:60], y[:60])
    expected = StreamingRidgeClassifier(1.0, class_weight={0: 1, 1: 2}).fit(X[:60], y[:60])
    np.testing.assert_array_equal(model.coef_, expected.coef_)


# Bad input

X, Y, WEIGHTS = data(30, 4)
LABELS = np.arange(30) % 3
BAD_WEIGHTS = {
    "below zero": (-WEIGHTS, "numbers of at least 0. Got an array"),
    "zero": (0 * WEIGHTS, "that are not all zero. Got an array"),
    "NaN": (np.where(WEIGHTS > 1, np.nan, 1), "finite real numbers.*Got NaN or infinity"),
    "infinite": (np.where(WEIGHTS > 1, np.inf, 1), "finite real numbers.*Got NaN or infinity"),
    "length": (WEIGHTS[:9], r"shape \(30,\). Got shape \(9,\) instead"),
    "axes": (WEIGHTS[:, None], r"shape \(30,\). Got shape \(30, 1\) instead"),
}


def fitted(estimator):
    y = Y if estimator is StreamingRidge else LABELS
    return estimator(ALPHAS).fit(X, y)


def assert_unchanged(model, attempt, error, message):
    before = pickle.dumps(model)
    with pytest.raises(error, match=message):
        attempt(model)
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("estimator", [StreamingRidge, StreamingRidgeClassifier])
@pytest.mark.parametrize(("weights", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights(weights, message, estimator, method):
    model, y = fitted(estimator), Y if estimator is StreamingRidge else LABELS
    message = f"'sample_weight' parameter of {estimator.__name__} must be .*{message}"

    def attempt(model):
        getattr(model, method)(X, y, sample_weight=weights)

    assert_unchanged(model, attempt, ValueError, message)


BAD_TARGETS = {
    "length": (Y[:9], r"'y' parameter of StreamingRidge must have one target.*30 rows and 9 targ"),
    "NaN": (np.where(Y > 0, np.nan, Y), "y contains NaN.* must be finite numbers; fill these"),
    "infinite": (np.where(Y > 0, np.inf, Y), "y contains infinity.* must be finite numbers"),
    "axes": (Y[:, None], "dim 3"),
    "masked": (np.ma.masked_greater(Y, 0), "masked values; fill them"),
}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(("y", "message"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_bad_targets(y, message, method):
    model = fitted(StreamingRidge)
    assert_unchanged(model, lambda model: getattr(model, method)(X, y), ValueError, message)
    with pytest.raises(ValueError, match=message):
        getattr(StreamingRidge(), method)(X, y)


@pytest.mark.parametrize(
    "model", [StreamingRidge(), StreamingRidgeClassifier(), RBFRidge(), RBFRidgeClassifier()]
)
def test_nan_in_features_is_explained(model):
    missing = np.where(np.arange(4) == 2, np.nan, X)
    message = r"X contains NaN.*missing='ignore'.*leave such images out.*insert\(1, \('impute'"
    calls = [
        lambda: model.fit(missing, LABELS),
        lambda: clone(model).fit(X, LABELS).predict(missing),
    ]
    if isinstance(model, StreamingRidge | StreamingRidgeClassifier):
        calls.append(lambda: model.fit(da.from_array(missing, 10), da.from_array(LABELS, 10)))
    for call in calls:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "HistGradientBoosting" not in str(error.value)


def test_other_numbers_of_targets():
    model = fitted(StreamingRidge)
    message = r"number of columns of the first batch, which is 3\. Got 1 columns instead; fit"
    for y in (Y[:, 0], Y[:, :1]):
        assert_unchanged(model, lambda model, y=y: model.partial_fit(X, y), ValueError, message)
    lazy = da.from_array(X, 10), da.from_array(Y[:, 0], 10)
    assert_unchanged(model, lambda model: model.partial_fit(*lazy), ValueError, message)
    other = StreamingRidge().fit(X, Y[:, 0])
    message = "cannot be merged: they have 3 and 1 targets"
    assert_unchanged(model, lambda model: model.merge(other), ValueError, message)
    with pytest.raises(TypeError, match="'other' parameter of merge must be a fitted StreamingRid"):
        model.merge(StreamingRidgeClassifier().fit(X, LABELS))
    assert other.partial_fit(X, Y[:, :1]).predict(X).shape == (30,)


def test_targets_that_overflow():
    for factor in (1e150, 1e160, 1e300):
        with pytest.raises(
            ValueError, match=r"y are not between -1e\+150 and 1e\+150; divide them"
        ):
            StreamingRidge().fit(X, Y * factor)
        with pytest.raises(ValueError, match="not between"):
            StreamingRidge().fit(da.from_array(X, 10), da.from_array(Y * factor, 10))
    with pytest.raises(ValueError, match="leave-one-out errors, which choose alpha, overflow"):
        StreamingRidge().fit(X, Y * 1e144, sample_weight=WEIGHTS * 1e20)
    with pytest.raises(ValueError, match="products of features and targets overflow float64"):
        StreamingRidge().fit(X * 1e120, Y * 1e144, sample_weight=WEIGHTS * 1e45)


def leave_one_out_score(X, y, weights, alpha):
    """Return minus the mean squared error of refits without each row; scale and center are kept."""
    mean = np.average(X, axis=0, weights=weights)
    ridge = alpha * np.average((X - mean) ** 2, axis=0, weights=weights)
    total = 0.0
    for i in range(len(X)):
        rows, targets, rest = (np.delete(array, i, axis=0) for array in (X, y, weights))
        center, level = (np.average(array, axis=0, weights=rest) for array in (rows, targets))
        products = (rows - center).T * rest
        coef = np.linalg.solve(
            products @ (rows - center) + np.diag(ridge), products @ (targets - level)
        )
        total += weights[i] * (y[i] - level - (X[i] - center) @ coef) ** 2
    return -total / len(X)


@pytest.mark.parametrize("n_heavy", [1, 3])
@sizes
def test_leave_one_out_errors_of_heavy_rows_are_right_or_an_error(size, n_heavy):
    X, y, _ = data(*size)
    for weight in (1, 1e4, 1e8, 1e12, 1e15, 1e25):
        weights = np.where(np.arange(len(X)) < n_heavy, weight, 1)
        model = StreamingRidge([1.0, 2.0])
        if weight > 1e10:
            with pytest.raises(ValueError, match=r"weights more than 1e|smaller weights if they"):
                model.fit(X, y[:, 0], sample_weight=weights)
            continue
        model.fit(X, y[:, 0], sample_weight=weights)
        expected = leave_one_out_score(X, y[:, 0], weights, model.alpha_)
        assert model.best_score_ == pytest.approx(expected, rel=1e-4)


def test_rows_with_hardly_any_weight_are_no_error():
    X, Y, _ = data(300, 20)
    weights = 0.8 ** np.arange(300)
    model = StreamingRidge().fit(X, Y[:, 0], sample_weight=weights)
    fewer = StreamingRidge().fit(X[:150], Y[:150, 0], sample_weight=weights[:150])
    assert model.alpha_ == fewer.alpha_
    np.testing.assert_allclose(model.coef_, fewer.coef_, rtol=1e-9)


def test_unknown_classes_in_class_weight():
    message = r"class_weight has the classes \[7\], which are not among \[0, 1, 2\], the classes of"
    model = StreamingRidgeClassifier(class_weight={0: 1, 7: 2})
    for y in (LABELS, da.from_array(LABELS, 10)):
        with pytest.raises(ValueError, match=message):
            model.fit(X if y is LABELS else da.from_array(X, 10), y)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, LABELS, classes=[0, 1, 2])
    assert model.partial_fit(X, LABELS).predict(X).shape == (30,)  # Class 7 may come later.


def test_balanced_classes_need_all_labels():
    model = StreamingRidgeClassifier(class_weight="balanced")
    with pytest.raises(ValueError, match=r"'balanced' is for fit only.* Pass a dict"):
        model.partial_fit(X, LABELS)
    with pytest.raises(NotFittedError):
        model.predict(X)
    assert_unchanged(
        model.fit(X, LABELS),
        lambda model: model.partial_fit(X, LABELS),
        ValueError,
        "is for fit only",
    )


# pandas and ONNX


def test_a_data_frame_of_targets():
    frame = pd.DataFrame(X).add_prefix("x")
    model = StreamingRidge(ALPHAS).fit(frame, pd.DataFrame(Y), sample_weight=pd.Series(WEIGHTS))
    expected = StreamingRidge(ALPHAS).fit(X, Y, sample_weight=WEIGHTS)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-12)
    assert model.feature_names_in_.tolist() == ["x0", "x1", "x2", "x3"]
    assert StreamingRidge().fit(X, pd.Series(Y[:, 0])).coef_.shape == (4,)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("columns", [0, [0, 1, 2]], ids=["1d", "three"])
def test_onnx(columns, dtype):
    skl2onnx = pytest.importorskip("skl2onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("sklearn_conv.onnx")
    rows, y = X.astype(dtype), Y[:, columns]
    model = StreamingRidge(ALPHAS).fit(rows, y)
    exported = skl2onnx.to_onnx(model, rows[:1]).SerializeToString()
    session = runtime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (predicted,) = session.run(None, {session.get_inputs()[0].name: rows})
    assert predicted.dtype == dtype
    np.testing.assert_allclose(predicted, model.predict(rows).reshape(30, -1), rtol=1e-6)


# Products in float32


@pytest.fixture
def _single(monkeypatch):
    """Use float32 for few features and rows, in several tiles and blocks."""
    monkeypatch.setattr(products, "SINGLE_FEATURES", 10)
    monkeypatch.setattr(products, "SINGLE_ROWS", 10)
    monkeypatch.setattr(products, "TILE", 16)
    monkeypatch.setattr(solving, "SINGLE_FEATURES", 10)
    monkeypatch.setattr(products, "TRIANGLE_BLOCK", 32)


@pytest.mark.usefixtures("_single")
@pytest.mark.parametrize("per_target", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [0.0, 10_000.0])
def test_products_in_float32_are_accurate(offset, weighted, per_target):
    X, Y, weights = data(2000, 75, "f4", offset)
    Y = (Y - Y.mean(axis=0)) / Y.std(axis=0)
    weights = weights if weighted else None
    model = StreamingRidge(ALPHAS, alpha_per_target=per_target).fit(X, Y, sample_weight=weights)
    expected = StreamingRidge(ALPHAS, alpha_per_target=per_target).fit(
        X.astype("f8"), Y, sample_weight=weights
    )
    assert model._sums.kept.rows.dtype == np.float32
    assert np.abs(model.coef_ - expected.coef_).max() > 0  # The products were rounded.
    np.testing.assert_allclose(model.predict(X), expected.predict(X), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(model.alpha_, expected.alpha_)
    np.testing.assert_allclose(model.best_score_, expected.best_score_, rtol=1e-5)
    np.testing.assert_allclose(model.scale_, expected.scale_, rtol=1e-12)
    batches = StreamingRidge(ALPHAS, alpha_per_target=per_target)
    for part in np.array_split(np.argsort(Y[:, 0]), 5):
        batches.partial_fit(X[part], Y[part], None if weights is None else weights[part])
    np.testing.assert_allclose(batches.predict(X), expected.predict(X), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("_single")
@pytest.mark.parametrize("scale", [1e-20, 1e18])
def test_extreme_spreads_are_multiplied_in_float64(scale):
    X, Y, _ = data(300, 20, "f4")
    X[:, 3] *= np.float32(scale)
    model = StreamingRidge(1.0).fit(X, Y)
    np.testing.assert_allclose(model.coef_, StreamingRidge(1.0).fit(X.astype("f8"), Y).coef_)


def shortlist(model, alphas):
    sums, search = model._sums, solving.Search(tuple(alphas), model.alpha_per_target)
    constant = np.flatnonzero(sums.variances == 0).tolist()
    problem = solving.Problem(sums, sums.targets(None), model.scale_, constant, search)
    return [alpha for alpha, _, _ in solving._compare_alphas(problem, lambda a: (a, None, None))]


@pytest.mark.usefixtures("_single")
@pytest.mark.parametrize("per_target", [False, True])
def test_factors_in_float32_find_the_best_alphas(per_target):
    X, Y, weights = data(1000, 75, "f4")
    X[:, 5] = 7  # a constant feature
    model = StreamingRidge(ALPHAS, alpha_per_target=per_target).fit(X, Y, sample_weight=weights)
    found = shortlist(model, ALPHAS)
    assert set(found) == set(np.ravel(model.alpha_))
    exact = StreamingRidge(ALPHAS, alpha_per_target=per_target).fit(
        X.astype("f8"), Y, sample_weight=weights
    )
    np.testing.assert_array_equal(exact.alpha_, model.alpha_)
    X[:, 6:40] = X[:, 5:6] + X[:, 40:74]  # These features make small alphas unreliable.
    model.fit(X, Y, sample_weight=weights)
    found = shortlist(model, (1e-6, 1e-5, *ALPHAS))
    assert 1e-5 in found
    assert len(found) < 6


@pytest.mark.usefixtures("_single")
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    spectrum=st.floats(0.2, 1.5),
    noise=st.sampled_from([0.01, 0.3, 3.0]),
    alphas=st.sampled_from([np.logspace(-1, 3, 5), np.logspace(-2, 6, 9), np.logspace(-2, 6, 25)]),
    n=st.sampled_from([90, 200, 1000]),
    per_target=st.booleans(),
)
def test_alphas_that_are_left_out_are_not_better(seed, spectrum, noise, alphas, n, per_target):
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    X = (rng.normal(size=(n, 60)) * np.arange(1, 61) ** -spectrum @ turn).astype("f4")
    Y = X @ rng.normal(size=(60, 2)) + noise * X.std() * rng.normal(size=(n, 2))
    model = StreamingRidge(alphas, alpha_per_target=per_target)
    with patch.object(solving, "factorize", wraps=solving.factorize) as factorize:
        model.fit(X, Y)
    if len(alphas) == 25:
        assert factorize.call_count <= 12
    scores = [StreamingRidge([a, a]).fit(X, Y).best_score_ for a in alphas]
    if not per_target:
        assert model.best_score_ >= max(scores) * (1 + 1e-2)  # negative
