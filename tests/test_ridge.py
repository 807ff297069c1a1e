"""`StreamingRidgeClassifier` against scikit-learn's ridge classifiers and loops."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

from sklearn_conv import StreamingRidgeClassifier
from sklearn_conv._ridge import classifier as ridge

ALPHAS = [0.1, 1.0, 10.0, 100.0, 1000.0]
SIZES = {"few rows": (50, 80), "many rows": (300, 20), "as many": (60, 60)}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


def data(n, d, n_classes=3, offset=0.0, dtype="f8", seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, d)) * rng.uniform(0.1, 10, d)
    X[:, :n_classes] += np.eye(n_classes)[y] * 2
    return (X + offset).astype(dtype), y


def standardised(classifier):
    return make_pipeline(StandardScaler(), classifier)


@pytest.mark.parametrize("alphas", [3.0, ALPHAS, np.array([5]), (0.5, 50)])
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@sizes
def test_it_is_ridge_classification_of_standardised_features(size, n_classes, alphas):
    X, y = data(*size, n_classes)
    model = StreamingRidgeClassifier(alphas).fit(X, y)
    several = np.size(alphas) > 1
    expected = standardised(
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


@given(
    cuts=st.lists(st.integers(0, 300), max_size=6).map(sorted),
    size=st.sampled_from([*SIZES.values()]),
    n_kept=st.sampled_from([10, 40, 2000]),
)
def test_batches_make_no_difference(cuts, size, n_kept):
    X, y = data(*size)
    bounds = [0, *(cut for cut in cuts if cut < len(X)), len(X)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ridge, "N_KEPT", n_kept)
        whole = StreamingRidgeClassifier(ALPHAS).fit(X, y)
        patch.setattr(ridge, "BLOCK_BYTES", 8 * X.shape[1] * 70)
        model = StreamingRidgeClassifier(ALPHAS)
        for start, stop in pairwise(sorted(set(bounds))):
            model.partial_fit(X[start:stop], y[start:stop])
        assert model.alpha_ == whole.alpha_
        assert model.best_score_ == pytest.approx(whole.best_score_, rel=1e-9)
        np.testing.assert_allclose(model.coef_, whole.coef_, rtol=1e-8, atol=1e-11)
        assert len(model.sums_.kept) == min(n_kept, len(X))


@given(
    first=st.integers(2, 298),
    size=st.sampled_from([*SIZES.values()]),
    n_kept=st.sampled_from([10, 40, 2000]),
)
def test_parts_add_up(first, size, n_kept):
    X, y = data(*size)
    first = min(first, len(X) - 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ridge, "N_KEPT", n_kept)
        whole = StreamingRidgeClassifier(10).fit(X, y)
        model = StreamingRidgeClassifier(10).partial_fit(X[:first], y[:first])
        other = StreamingRidgeClassifier(10).partial_fit(X[first:], y[first:])
        before = pickle.dumps(other)
        assert model.merge(other) is model
        assert pickle.dumps(other) == before
        np.testing.assert_allclose(model.coef_, whole.coef_, rtol=1e-8, atol=1e-11)
        np.testing.assert_array_equal(model.sums_.counts, whole.sums_.counts)
        assert len(model.sums_.kept) == min(n_kept, len(X))


def test_few_rows_need_no_products():
    """Those of 80 features are larger than 50 rows."""
    X, y = data(50, 80)
    model = StreamingRidgeClassifier().fit(X, y)
    assert model.sums_.gram is None
    other = StreamingRidgeClassifier().fit(X[:30], y[:30])
    assert other.merge(StreamingRidgeClassifier().fit(X[30:], y[30:])).sums_.gram is None
    assert model.partial_fit(X, y).sums_.gram.shape == (80, 80)


def test_leave_one_out_errors_are_those_of_fits_without_the_row():
    X, y = data(40, 5, n_classes=2)
    model = StreamingRidgeClassifier([1.0, 30.0]).fit(X, y)
    scaled = (X - model.mean_) / model.scale_
    targets = 2.0 * y - 1
    means = []
    for alpha in (1.0, 30.0):
        errors = []
        for i in range(40):
            others = np.arange(40) != i
            fitted = Ridge(alpha).fit(scaled[others], targets[others])
            errors.append(fitted.predict(scaled[i : i + 1])[0] - targets[i])
        means.append(np.square(errors).mean())
    assert model.alpha_ == (1.0, 30.0)[np.argmin(means)]
    assert model.best_score_ == pytest.approx(-min(means))


def test_of_many_rows_a_sample_chooses(monkeypatch):
    monkeypatch.setattr(ridge, "N_KEPT", 200)
    X, y = data(3000, 10)
    model = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    monkeypatch.setattr(ridge, "N_KEPT", 10**6)
    assert model.best_score_ == pytest.approx(
        StreamingRidgeClassifier(ALPHAS).fit(X, y).best_score_, rel=0.1
    )
    rows = [np.flatnonzero((row == X).all(axis=1))[0] for row in model.sums_.kept]
    assert len(set(rows)) == 200
    for part in range(6):  # from everywhere, and of every class
        assert 15 < sum(part * 500 <= row < part * 500 + 500 for row in rows) < 60
    assert np.bincount(y[rows]).min() > 45
    np.testing.assert_array_equal(y[rows], model.sums_.kept_labels)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@sizes
def test_an_offset_of_10_000_costs_no_accuracy(size, dtype):
    offset = 2.0**13  # adding it rounds float32 a little, and nothing more
    X, y = data(*size, offset=offset, dtype=dtype)
    plain = X.astype("f8") - offset
    model = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    expected = StreamingRidgeClassifier(ALPHAS).fit(plain, y)
    np.testing.assert_allclose(
        model.decision_function(X), expected.decision_function(plain), atol=1e-7
    )
    assert model.alpha_ == expected.alpha_


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, -1e9, 1e-300])
@sizes
def test_constant_features_count_for_nothing(size, value):
    X, y = data(*size)
    constant = np.column_stack([X, np.full(len(X), value)])
    model = StreamingRidgeClassifier(10).fit(constant, y)
    expected = StreamingRidgeClassifier(10).fit(X, y)
    np.testing.assert_allclose(model.coef_[:, :-1], expected.coef_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        model.decision_function(constant), expected.decision_function(X), rtol=1e-8, atol=1e-8
    )
    assert model.scale_[-1] == 1


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@sizes
@pytest.mark.filterwarnings("error")
def test_features_beyond_the_range_of_float64_say_so(size, method):
    X, y = data(*size)
    X[3, 2] = 1e300
    model = StreamingRidgeClassifier(10)
    with pytest.raises(ValueError, match=r"Squares of some features are beyond .* divide them by"):
        getattr(model, method)(X, y).predict(X)
    with pytest.raises(ValueError, match="far larger than those that were learned from"):
        StreamingRidgeClassifier(10).fit(X[4:] * 1e-100, y[4:]).predict(X)


@pytest.mark.parametrize("dtype", ["f4", "f2", "u1", "i8", "bool", ">f8"])
def test_features_of_any_dtype(dtype):
    X, y = data(300, 20)
    X = (20 * X).astype(dtype) if dtype != "bool" else X > 0
    model = StreamingRidgeClassifier(10).fit(X, y)
    expected = standardised(RidgeClassifier(10)).fit(X.astype("f8"), y)
    scores = expected.decision_function(X.astype("f8"))
    np.testing.assert_allclose(model.decision_function(X), scores, atol=1e-9)


def test_labels_that_are_words_come_as_they_like():
    X, y = data(300, 20)
    words = np.array(["ant", "bee", "wasp"])[y]
    order = np.argsort(y, kind="stable")  # one class after the other
    model = StreamingRidgeClassifier(10)
    for part in np.array_split(order, 7):
        model.partial_fit(X[part], words[part])
    expected = StreamingRidgeClassifier(10).fit(X, words)
    assert model.classes_.tolist() == ["ant", "bee", "wasp"]
    np.testing.assert_array_equal(model.predict(X), expected.predict(X))
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-10)


def test_classes_may_be_said_first():
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(10).partial_fit(X[:1], y[:1], classes=[0, 1, 2, 9])
    model.partial_fit(X[1:], y[1:])
    assert model.classes_.tolist() == [0, 1, 2, 9]
    assert model.coef_.shape == (4, 20)
    three = StreamingRidgeClassifier(10).fit(X, y)
    np.testing.assert_allclose(model.coef_[:3], three.coef_, atol=1e-10)
    np.testing.assert_allclose(model.decision_function(X)[:, 3], -1)
    model.partial_fit(X, y, classes=[2, 1, 9, 0])


BAD_BATCHES = {
    "a new class": ([5], {}, r"classes \[5\], which are not among \[0 1 2\]"),
    "other classes": ([1], {"classes": [0, 1]}, r"classes=\[0 1\] are not those of earlier rows"),
    "words": (["a"], {}, "labels like 'a', but 0 is a class"),
    "numbers with a comma": ([0.5], {}, "continuous"),
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
    assert model.sums_.n == 300


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


def test_features_that_are_no_numbers():
    X, y = data(50, 5)
    dates = X.astype("M8[s]")
    with pytest.raises(TypeError, match=r"dtype datetime64\[s\]; convert it"):
        StreamingRidgeClassifier().fit(dates, y)
    with pytest.raises(TypeError, match=r"dtype datetime64\[s\]; convert it"):
        StreamingRidgeClassifier().fit(X, y).predict(dates)


@pytest.mark.parametrize("dtype", ["M8[s]", [("a", "f4")], "c8"])
def test_labels_that_are_neither_numbers_nor_words(dtype):
    with pytest.raises((TypeError, ValueError), match=r"classes must be numbers or words|omplex"):
        StreamingRidgeClassifier().fit(np.ones((4, 2)), np.zeros(4, dtype))


@pytest.mark.parametrize(
    ("alphas", "error"),
    [
        *[(value, ValueError) for value in (0, -1.0, np.nan, np.inf, [], [1, 0], [1, np.nan])],
        *[(value, TypeError) for value in (None, "1", True, [1, "2"], [True], 1j, {1}, [[1, 2]])],
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_alphas(alphas, error, method):
    match = r"The 'alphas' parameter of StreamingRidgeClassifier must be a finite number above 0 or"
    with pytest.raises(error, match=match):
        getattr(StreamingRidgeClassifier(alphas), method)(*data(50, 5))


def test_other_alphas_are_chosen_without_the_rows():
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(ALPHAS).fit(X, y)
    model.set_params(alphas=7)
    np.testing.assert_array_equal(model.coef_, StreamingRidgeClassifier(7).fit(X, y).coef_)
    assert model.alpha_ == 7
    del model.sums_
    assert model.predict(X).shape == (300,)
    for attempt in (
        lambda: model.set_params(alphas=8).predict(X),
        lambda: model.partial_fit(X, y),
        lambda: StreamingRidgeClassifier().fit(X, y).merge(model),
    ):
        with pytest.raises(ValueError, match=r"has lost its sums_.* fit again"):
            attempt()


def test_a_model_without_sums_is_small():
    X, y = data(2500, 300)
    model = StreamingRidgeClassifier(1).fit(X, y)
    large = len(pickle.dumps(model))
    del model.sums_
    assert len(pickle.dumps(model)) < large / 50
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_what_cannot_be_merged():
    X, y = data(50, 5)
    model = StreamingRidgeClassifier().fit(X, y)
    with pytest.raises(NotFittedError):
        model.merge(StreamingRidgeClassifier())
    with pytest.raises(NotFittedError):
        StreamingRidgeClassifier().merge(model)
    with pytest.raises(TypeError, match="'other' parameter of merge must be a fitted"):
        model.merge(RidgeClassifier().fit(X, y))
    with pytest.raises(ValueError, match="5 and 4 features can't be merged"):
        model.merge(StreamingRidgeClassifier().fit(X[:, :4], y))
    words = StreamingRidgeClassifier().fit(X, np.array(["a", "b", "c"])[y])
    with pytest.raises(ValueError, match="labels like 'a', but 0 is a class"):
        model.merge(words)
    named = StreamingRidgeClassifier().fit(pd.DataFrame(X, columns=list("abcde")), y)
    with pytest.raises(ValueError, match="other names"):
        model.merge(named)


def test_one_class_is_not_enough_for_an_answer():
    X, y = data(50, 5)
    with pytest.raises(ValueError, match="at least 2 classes, but y has 1 class so far, 0"):
        StreamingRidgeClassifier().fit(X, np.zeros(50, int))
    model = StreamingRidgeClassifier().partial_fit(X[y == 0], y[y == 0])
    with pytest.raises(ValueError, match="at least 2 classes"):
        model.predict(X)
    model.partial_fit(X[y != 0], y[y != 0])
    np.testing.assert_array_equal(model.predict(X), StreamingRidgeClassifier().fit(X, y).predict(X))


def test_a_regularization_that_is_too_small_says_so():
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
    before = np.tril(model.sums_.gram)
    model.predict(X)
    np.testing.assert_array_equal(np.tril(model.sums_.gram), before)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ridge.lapack, "dpotrs", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.set_params(alphas=3).predict(X)
    np.testing.assert_array_equal(np.tril(model.sums_.gram), before)
    np.testing.assert_allclose(model.coef_, StreamingRidgeClassifier(3).fit(X, y).coef_)


def test_half_added_sums_are_never_used(monkeypatch):
    X, y = data(300, 20)
    model = StreamingRidgeClassifier(3).fit(X, y)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ridge.Moments, "_keep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.partial_fit(X, y)
    for attempt in (model.partial_fit, lambda X, y: model.set_params(alphas=1).predict(X)):
        with pytest.raises(RuntimeError, match=r"interrupted .* fit again from the first row"):
            attempt(X, y)
    assert model.fit(X, y).score(X, y) > 0.45


def test_too_many_features_for_the_memory_say_so(monkeypatch):
    model = StreamingRidgeClassifier()
    real = np.zeros

    def full(shape, *args, **kwargs):
        if kwargs.get("order") == "F":
            raise MemoryError("Unable to allocate 1 TiB")
        return real(shape, *args, **kwargs)

    monkeypatch.setattr(ridge.np, "zeros", full)
    with pytest.raises(MemoryError, match="1 TiB, which are the products of 20 features; choose"):
        model.fit(*data(300, 20))


def test_threads_share_a_model_that_is_not_solved_yet():
    X, y = data(3000, 50)
    alone = StreamingRidgeClassifier(ALPHAS).fit(X, y).decision_function(X)
    model = StreamingRidgeClassifier(ALPHAS).partial_fit(X, y)
    with ThreadPoolExecutor(8) as threads:
        for scores in threads.map(lambda _: model.decision_function(X), range(16)):
            np.testing.assert_array_equal(scores, alone)


def test_memory_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr(ridge, "BLOCK_BYTES", 2**20)
    X, y = data(20_000, 100, dtype="f4")
    model = StreamingRidgeClassifier(ALPHAS)
    tracemalloc.start()
    model.fit(X, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.9 * X.nbytes + 2**20


@pytest.mark.parametrize("alphas", [1.0, (0.1, 10.0)])
def test_battery(alphas):
    n_run = 0
    estimator = StreamingRidgeClassifier(alphas)
    for example, check in estimator_checks.estimator_checks_generator(estimator):
        if getattr(check, "func", check).__name__ == "check_array_api_input":
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
