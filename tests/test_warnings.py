"""Warnings point to the line of the user, although scikit-learn wraps the call."""

import warnings

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline

import sklearn_conv
from sklearn_conv import StridedConv2DTransformer

ROWS = np.random.default_rng(0).random((12, 7))
HUGE = np.full((4, 5, 5), 1e38, np.float32)
ONES = StridedConv2DTransformer(kernels=np.ones((3, 3, 1, 2)))
LABELS = np.arange(12) % 2
CALLS = {
    "fit": lambda: StridedConv2DTransformer().fit(ROWS),
    "fit_transform": lambda: StridedConv2DTransformer().fit_transform(ROWS),
    "pipeline": lambda: make_pipeline(StridedConv2DTransformer(), RidgeClassifier()).fit(
        ROWS, LABELS
    ),
    "search": lambda: cross_validate(
        make_pipeline(StridedConv2DTransformer(), RidgeClassifier()), ROWS, LABELS, cv=2
    ),
    "transform": lambda: ONES.fit(HUGE).transform(HUGE),
    "output as a table": lambda: ONES.fit(HUGE).set_output(transform="pandas").transform(HUGE),
    "batches": lambda: list(ONES.fit(HUGE).transform_batches(HUGE)),
}


def test_packages_with_a_longer_name_are_those_of_the_user():
    for package in (sklearn, joblib, sklearn_conv):
        path = f"{package.__path__[0]}ex/model.py"
        names = {"fit": StridedConv2DTransformer().fit, "rows": ROWS}
        with pytest.warns(UserWarning, match="not a square number") as caught:
            exec(compile("fit(rows)", path, "exec"), names)
        assert caught[0].filename == path


@pytest.mark.parametrize("name", CALLS)
def test_warnings_point_to_the_call(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CALLS[name]()
    assert caught
    assert {warning.filename for warning in caught} == {__file__}
