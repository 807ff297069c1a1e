"""scikit-learn's checks of estimators, and the transformer inside scikit-learn's tools."""

import pickle
import warnings
from inspect import signature
from itertools import cycle, product

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import estimator_checks

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import PADDING_MODES
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv.kernels._initializers import KERNELS


def first_patches(shape, rng, patches):
    return np.cos(np.arange(np.prod(shape))).reshape(shape)


CONFIGURATIONS = {
    "default": {},
    "learned": {"kernels": "patches", "normalize_patches": True, "whiten": True, "n_jobs": 2},
    "thresholds": {"bias": "quantile", "activation": "step", "pooling": ["mean", "max"]},
    "maps": {"pooling": None, "n_kernels": 2, "stride": (1, 2), "padding": 3, "dilation": 2},
    "functions": {"kernels": first_patches, "activation": np.tanh, "n_kernels": 3, "power": 0.5},
    "missing": {"missing": "ignore", "kernels": "patches", "symmetries": "mirror", "n_kernels": 4},
}
"""Configurations that differ in what is fitted, in the shape of features, and in the engine."""

BY_HAND = [
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
]

configurations = pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
not_square = pytest.mark.filterwarnings("ignore:X has .* columns, which is not:UserWarning")


@configurations
@not_square
def test_battery(options):
    n_run = 0
    for estimator, check in estimator_checks.estimator_checks_generator(
        StridedConv2DTransformer(**options)
    ):
        # These checks run in test_array_api, with SCIPY_ARRAY_API=1.
        if getattr(check, "func", check).__name__.startswith("check_array_api"):
            continue
        with warnings.catch_warnings():
            check(estimator)
            n_run += 1
    assert n_run >= 45


@pytest.mark.parametrize("name", BY_HAND)
@configurations
@not_square
@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")
def test_checks_that_are_never_yielded(options, name):
    estimator = StridedConv2DTransformer(**options)
    getattr(estimator_checks, name)("StridedConv2DTransformer", estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:200].reshape(-1, 8, 8), y[:200]


def pipeline(**options):
    options = {"n_kernels": 8, "random_state": 0, **options}
    return make_pipeline(
        StridedConv2DTransformer(**options), StandardScaler(), RidgeClassifier(alpha=10)
    )


GRIDS = {
    "n_kernels": [1, 4],
    "kernel_size": [1, (2, 3)],
    "stride": [1, (2, 1)],
    "kernels": [*sorted(KERNELS), np.ones((2, 2, 1, 3)), first_patches],
    "bias": [0.0, -0.1, "quantile", np.linspace(-1, 1, 8), [[-0.1], [0.1]]],
    "n_biases": [1],
    "symmetries": [None, "mirror", "dihedral"],
    "power": [0.5, 1.0],
    "missing": ["raise", "ignore"],
    "padding": ["valid", "same", 1, (0, 2)],
    "padding_mode": sorted(PADDING_MODES),
    "dilation": [1, (1, 2)],
    "normalize_patches": [False, True],
    "whiten": [False, True, 0.01],
    "n_patches": [1, 500],
    "activation": [*sorted(ACTIVATIONS), np.tanh],
    "pooling": [*sorted(POOLINGS), ["mean", "max"], None],
    "pool_grid": [1, (2, 3), [1, 2]],
    "flatten": [True],
    "image_shape": [None, (8, 8), (8, 8, 1), "any"],
    "random_state": [0, 1],
    "n_jobs": [None, 2],
    "verbose": [0],
}


def test_a_grid_for_every_parameter():
    assert set(GRIDS) == set(signature(StridedConv2DTransformer).parameters)


SEARCHES = cycle(product([GridSearchCV, RandomizedSearchCV], [1, 2]))


@pytest.mark.parametrize(("name", "Search", "n_jobs"), [(name, *next(SEARCHES)) for name in GRIDS])
def test_search_over_every_parameter(name, Search, n_jobs, digits):
    values = GRIDS[name]
    grid = {f"stridedconv2dtransformer__{name}": values}
    options = {} if Search is GridSearchCV else {"n_iter": len(values), "random_state": 0}
    search = Search(pipeline(), grid, cv=2, n_jobs=n_jobs, error_score="raise", **options)
    search.fit(*digits)
    assert len(search.cv_results_["params"]) == len(values)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("Search", [GridSearchCV, RandomizedSearchCV])
def test_search_over_stride_and_kernel_size(Search, n_jobs, digits):
    grid = {
        "stridedconv2dtransformer__stride": [1, 2, (1, 2)],
        "stridedconv2dtransformer__kernel_size": [2, 3],
    }
    options = {"n_iter": 4, "random_state": 0} if Search is RandomizedSearchCV else {}
    search = Search(pipeline(), grid, cv=2, n_jobs=n_jobs, error_score="raise", **options)
    search.fit(*digits)
    assert search.best_score_ > 0.8
    assert search.predict(digits[0][:5]).shape == (5,)


def test_grid_search_gives_the_same_in_processes_and_here(digits):
    grid = {"stridedconv2dtransformer__stride": [1, 2]}
    scores = [
        GridSearchCV(pipeline(), grid, cv=2, n_jobs=n_jobs).fit(*digits).cv_results_
        for n_jobs in (1, 2)
    ]
    np.testing.assert_array_equal(scores[0]["mean_test_score"], scores[1]["mean_test_score"])


def test_cross_val_score_4d_3d_and_rows_agree(digits):
    images, y = digits
    expected = cross_val_score(pipeline(), images, y, cv=2)
    for X in (images[..., np.newaxis], images.reshape(len(images), -1)):
        np.testing.assert_array_equal(cross_val_score(pipeline(), X, y, cv=2), expected)


def test_feature_union(digits):
    images, _ = digits
    union = FeatureUnion(
        [
            ("small", StridedConv2DTransformer(4, 2, random_state=0)),
            ("large", StridedConv2DTransformer(4, 5, random_state=0)),
        ]
    )
    features = union.fit_transform(images)
    assert features.shape == (200, 32)
    assert union.get_feature_names_out()[16] == "large__kernel000_mean_r0_c0"
    np.testing.assert_array_equal(features[:, 16:], union["large"].transform(images))


def test_two_transformers_stacked(digits):
    images, y = digits
    first = StridedConv2DTransformer(6, pool_grid=4, flatten=False, random_state=0)
    second = StridedConv2DTransformer(8, random_state=0)
    model = make_pipeline(first, second, StandardScaler(), RidgeClassifier())
    assert model.fit(images, y).score(images, y) > 0.9
    maps = first.fit_transform(images)
    assert maps.shape == (200, 4, 4, 6)
    assert second.image_shape_ == (4, 4, 6)
    assert second.get_feature_names_out(first.get_feature_names_out()).shape == (32,)
    assert model[:-1].get_feature_names_out().shape == (32,)


@configurations
def test_clone_and_set_params(options, digits):
    images, _ = digits
    transformer = StridedConv2DTransformer(**{"random_state": 0, **options})
    again = clone(transformer)
    assert repr(again) == repr(transformer)
    other = StridedConv2DTransformer().set_params(**transformer.get_params())
    expected = transformer.fit_transform(images)
    np.testing.assert_array_equal(again.fit_transform(images), expected)
    np.testing.assert_array_equal(other.fit_transform(images), expected)


@pytest.mark.parametrize("dump", [pickle, joblib], ids=lambda module: module.__name__)
@configurations
def test_persistence(options, dump, digits, tmp_path):
    images, _ = digits
    transformer = StridedConv2DTransformer(**options).fit(images)
    with open(tmp_path / "file", "wb") as file:
        dump.dump(transformer, file)
    with open(tmp_path / "file", "rb") as file:
        loaded = dump.load(file)
    np.testing.assert_array_equal(loaded.transform(images), transformer.transform(images))


def test_fitted_attributes_are_arrays_tuples_and_numbers(digits):
    transformer = StridedConv2DTransformer().fit(digits[0])
    for name, value in vars(transformer).items():
        if name.endswith("_"):
            assert type(value) in (np.ndarray, tuple, int, float), name


N_MADE = []


def count_made(shape, rng, patches):
    N_MADE.append(shape)
    return rng.standard_normal(shape)


def test_cached_pipeline(digits, tmp_path):
    images, y = digits
    steps = pipeline(kernels=count_made).steps
    model = Pipeline(steps, memory=str(tmp_path)).fit(images, y)
    expected = model.decision_function(images)
    assert len(N_MADE) == 1
    np.testing.assert_array_equal(model.fit(images, y).decision_function(images), expected)
    assert len(N_MADE) == 1  # The second result is from the cache.


def test_html(digits):
    html = pipeline().fit(*digits)._repr_html_()
    assert "StridedConv2DTransformer" in html


@pytest.mark.parametrize(("container", "frame"), [("pandas", pd), ("polars", pl)])
def test_set_output(container, frame, digits):
    images, _ = digits
    transformer = StridedConv2DTransformer(4, random_state=0)
    features = transformer.fit_transform(images)
    table = clone(transformer).set_output(transform=container).fit_transform(images)
    assert isinstance(table, frame.DataFrame)
    assert list(table.columns) == transformer.get_feature_names_out().tolist()
    np.testing.assert_array_equal(table.to_numpy(), features)


@pytest.mark.parametrize("frame", [pd, pl])
def test_tables_give_names(frame, digits):
    rows = digits[0].reshape(200, -1)
    names = [f"pixel{i}" for i in range(64)]
    table = frame.DataFrame(dict(zip(names, rows.T, strict=True)))
    transformer = StridedConv2DTransformer(random_state=0).fit(table)
    assert transformer.feature_names_in_.tolist() == names
    assert transformer.image_shape_ == (8, 8, 1)
    expected = StridedConv2DTransformer(random_state=0).fit_transform(rows)
    np.testing.assert_array_equal(transformer.transform(table), expected)
    transformer.get_feature_names_out(names)
    with pytest.raises(ValueError, match="input_features is not equal to feature_names_in_"):
        transformer.get_feature_names_out(names[::-1])
    transformer.fit(rows)
    assert not hasattr(transformer, "feature_names_in_")


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_images_do_not_fit_into_a_table(container, digits):
    transformer = StridedConv2DTransformer(flatten=False).set_output(transform=container)
    with pytest.raises(ValueError, match=r"flatten=False.* set_output\(transform='default'\)"):
        transformer.fit_transform(digits[0])
    with sklearn.config_context(transform_output=container):
        maps = transformer.set_output(transform="default").fit_transform(digits[0])
    assert maps.shape == (200, 2, 2, 64)


def test_in_a_pipeline_with_a_function(digits):
    images, y = digits
    model = make_pipeline(
        StridedConv2DTransformer(random_state=0), FunctionTransformer(np.log1p), RidgeClassifier()
    )
    assert model.fit(images, y).score(images, y) > 0.9
