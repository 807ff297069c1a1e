"""`cross_val_table`: the predictions of a cross-validation as a table."""

import numpy as np
import pytest
import sklearn
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    LeaveOneOut,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_predict,
)
from sklearn.neighbors import LocalOutlierFactor

from sklearn_conv import (
    RBFRidgeClassifier,
    StreamingRidgeClassifier,
    cross_val_table,
    make_image_classifier,
    make_image_regressor,
)

IMAGES, LABELS = load_digits(n_class=4, return_X_y=True)
IMAGES, LABELS = IMAGES[:240].reshape(-1, 8, 8), LABELS[:240]
NAMES = np.array(["zero", "one", "two", "three"])[LABELS]
GROUPS = np.arange(240) // 20
CLASSIFIER = make_image_classifier("tiny", effort="fast", n_kernels=8, random_state=0)
REGRESSOR = make_image_regressor("tiny", effort="fast", n_kernels=8, random_state=0)


def predict(method, labels=NAMES, model=CLASSIFIER, **how):
    return cross_val_predict(model, IMAGES, labels, method=method, **how)


def test_predictions_and_probabilities_are_those_of_scikit_learn():
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    table = cross_val_table(
        CLASSIFIER, IMAGES, NAMES, cv=cv, paths=[f"{i}.png" for i in range(240)]
    )
    classes = ["one", "three", "two", "zero"]
    probabilities = [f"probability_{name}" for name in classes]
    assert [*table] == ["path", "label", "predicted", *probabilities, "novelty", "fold"]
    assert table["path"][7] == "7.png"
    np.testing.assert_array_equal(table["predicted"], predict("predict", cv=cv))
    np.testing.assert_allclose(
        np.stack([table[name] for name in probabilities], 1), predict("predict_proba", cv=cv)
    )
    for fold, (train, test) in enumerate(cv.split(IMAGES, NAMES), 1):
        assert (table["fold"][test] == fold).all()
        model = sklearn.clone(CLASSIFIER).fit(IMAGES[train], NAMES[train])
        novelty = model[-1].novelty(model[:-1].transform(IMAGES[test]))
        np.testing.assert_allclose(table["novelty"][test], novelty)


def test_groups_stay_together_and_are_a_column():
    table = cross_val_table(CLASSIFIER, IMAGES, NAMES, groups=GROUPS, cv=GroupKFold(4))
    assert [*table][-2:] == ["fold", "group"]
    np.testing.assert_array_equal(table["group"], GROUPS)
    assert len({*zip(GROUPS, table["fold"], strict=True)}) == 12
    expected = predict("predict", groups=GROUPS, cv=GroupKFold(4))
    np.testing.assert_array_equal(table["predicted"], expected)


def test_regression_has_intervals():
    y = LABELS + 0.5
    table = cross_val_table(REGRESSOR, IMAGES, y, cv=3, coverage=0.8)
    assert [*table] == ["target", "predicted", "lower", "upper", "fold"]
    expected = predict("predict", y, REGRESSOR, cv=3)
    np.testing.assert_allclose(table["predicted"], expected)
    inside = (table["lower"] <= y) & (y <= table["upper"])
    assert 0.7 < inside.mean() < 0.9


def test_any_estimator_and_search_has_the_columns_that_it_can_compute():
    rows = IMAGES.reshape(240, -1)
    linear = LogisticRegression(max_iter=1000)
    table = cross_val_table(linear, rows, NAMES)
    assert "novelty" not in table
    np.testing.assert_allclose(
        table["probability_two"],
        cross_val_predict(linear, rows, NAMES, method="predict_proba")[:, 2],
    )
    assert [*cross_val_table(Ridge(), rows, LABELS)] == ["target", "predicted", "fold"]
    search = GridSearchCV(StreamingRidgeClassifier(), {"alphas": [1.0, 100.0]}, cv=2)
    found = cross_val_table(search, rows, NAMES)
    np.testing.assert_array_equal(found["predicted"], cross_val_predict(search, rows, NAMES))
    assert {"novelty", "probability_two"} <= {*found}
    assert "novelty" in cross_val_table(RBFRidgeClassifier(), rows, NAMES, cv=2)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_the_output_that_scikit_learn_is_configured_for(library):
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    expected = cross_val_table(REGRESSOR, IMAGES, LABELS, cv=2)
    with sklearn.config_context(transform_output=library):
        table = cross_val_table(REGRESSOR, IMAGES, LABELS, cv=2)
    assert isinstance(table, frames.DataFrame)
    assert [*table.columns] == [*expected]
    np.testing.assert_allclose(table["predicted"].to_numpy(), expected["predicted"], rtol=1e-5)


def test_a_class_that_a_fold_does_not_learn_has_probability_0_and_a_warning():
    groups = np.where(NAMES == "two", 0, GROUPS + 1)
    with pytest.warns(UserWarning, match="No training image of fold . has the class two"):
        table = cross_val_table(CLASSIFIER, IMAGES, NAMES, groups=groups, cv=GroupKFold(3))
    assert (table["probability_two"][NAMES == "two"] == 0).all()
    assert "two" not in table["predicted"]


def test_labels_of_other_lengths_and_a_parameter_named_novelty():
    """A fold may have predicted shorter strings only; LocalOutlierFactor has such a parameter."""
    y = np.repeat(["forest", "a"], 3)
    model, rows = DummyClassifier(), np.zeros((6, 2))
    table = cross_val_table(model, rows, y, cv=LeaveOneOut())
    expected = cross_val_predict(model, rows, y, cv=LeaveOneOut())
    assert table["predicted"].tolist() == expected.tolist()
    rows = np.random.default_rng(0).normal(size=(20, 3))
    detector = LocalOutlierFactor(n_neighbors=3, novelty=True)
    table = cross_val_table(detector, rows, np.zeros(20), cv=2)
    assert [*table] == ["target", "predicted", "fold"]


def test_bad_input():
    with pytest.raises(ValueError, match=r"'y' parameter of cross_val_table .* shape \(n,\)"):
        cross_val_table(REGRESSOR, IMAGES, np.stack([LABELS, LABELS], 1))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        cross_val_table(CLASSIFIER, IMAGES, NAMES[:10])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        cross_val_table(CLASSIFIER, IMAGES, NAMES, paths=["a"])
    with pytest.raises(ValueError, match="masked values"):
        cross_val_table(REGRESSOR, IMAGES, np.ma.masked_equal(LABELS, 2))
    names = NAMES.astype(object)
    for nothing in (None, np.nan):
        names[7] = nothing
        with pytest.raises(TypeError, match="labels of the types"):
            cross_val_table(CLASSIFIER, IMAGES, names)
    with pytest.raises(ValueError, match="'coverage' parameter of cross_val_table"):
        cross_val_table(CLASSIFIER, IMAGES, NAMES, coverage=2)
    with pytest.raises(ValueError, match="'cv' parameter of cross_val_table"):
        cross_val_table(CLASSIFIER, IMAGES, NAMES, cv=[])
    with pytest.raises(ValueError, match="tests each image once; use one such as KFold"):
        cross_val_table(CLASSIFIER, IMAGES, NAMES, cv=ShuffleSplit(2))
