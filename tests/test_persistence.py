"""Fitted estimators in files can be read by other processes and by later versions."""

import subprocess
import sys
from pathlib import Path

import golden
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StridedConv2DTransformer

SUFFIXES = [".pkl", ".joblib", ".skops"]
OLD_FILES = sorted(path for path in golden.DATA.glob("fitted_*") if path.suffix in SUFFIXES)
READ = """
import sys
from pathlib import Path
import golden, numpy
for path in map(Path, sys.argv[1:]):
    numpy.savez(path.with_suffix(path.suffix + ".npz"), **golden.features(golden.load(path)))
"""


NAMES = [*golden.ESTIMATORS, *golden.ROWS, *golden.RIDGE]


def made():
    return golden.fitted() | golden.fitted_ridge()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write estimators to files; another process reads them and writes their features."""
    folder = tmp_path_factory.mktemp("fitted")
    paths = [folder / f"fitted{suffix}" for suffix in SUFFIXES]
    for path in paths:
        golden.dump(made(), path)
    tests = Path(golden.__file__).parent
    subprocess.run([sys.executable, "-c", READ, *paths], cwd=tests, check=True)
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_process_gives_the_same_features(suffix, name, files):
    features = np.load(files / f"fitted{suffix}.npz")[name]
    np.testing.assert_array_equal(features, golden.features(made())[name])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_parameters_and_attributes_come_back_with_their_types(suffix, files):
    loaded = golden.load(files / f"fitted{suffix}")
    for name, estimator in made().items():
        assert repr(loaded[name]) == repr(estimator)
        state = loaded[name].__getstate__()
        for attribute, value in estimator.__getstate__().items():
            assert type(state[attribute]) is type(value), attribute
            np.testing.assert_equal(state[attribute], value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", [*golden.ROWS, *golden.RIDGE])
def test_a_model_goes_on_where_it_was(suffix, name, files):
    loaded, model = golden.load(files / f"fitted{suffix}")[name], made()[name]
    X = golden.ROWS[name.split(", ")[-1]][::2]
    y = np.arange(len(X)) % 3
    if "regressor" in name:
        y = golden.targets(X)[:, : model._n_targets]
    more = X, y
    np.testing.assert_array_equal(loaded.partial_fit(*more).coef_, model.partial_fit(*more).coef_)


@pytest.mark.parametrize("name", NAMES)
def test_skops_needs_to_trust_only_the_estimator(name):
    estimator = made()[name]
    (trusted,) = [path for path in golden.TRUSTED if path.endswith(f".{type(estimator).__name__}")]
    assert skops.io.get_untrusted_types(data=skops.io.dumps(estimator)) == [trusted]


def test_skops_with_names_of_columns_in_a_pipeline():
    rows = pd.DataFrame(golden.IMAGES[..., 0].reshape(12, 56)).add_prefix("pixel")
    transformer = StridedConv2DTransformer(4, image_shape=(8, 7), random_state=0)
    model = make_pipeline(transformer, StandardScaler(), RidgeClassifier()).fit(rows, [0, 1] * 6)
    file = skops.io.dumps(model)
    assert skops.io.get_untrusted_types(data=file) == golden.TRUSTED[2:]
    loaded = skops.io.loads(file, trusted=golden.TRUSTED)
    np.testing.assert_array_equal(loaded.decision_function(rows), model.decision_function(rows))
    assert loaded[0].feature_names_in_.tolist() == list(rows.columns)


@pytest.mark.parametrize("path", OLD_FILES, ids=lambda path: path.name)
def test_files_of_this_and_older_versions(path):
    expected = dict(np.load(path.with_suffix(".npz")))
    features = golden.features(golden.load(path))
    assert set(features) == set(expected)
    for name in expected:
        np.testing.assert_allclose(features[name], expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("suffix", [".pkl", ".skops", ".npz"])
@pytest.mark.parametrize("fitted", [golden.FITTED, golden.FITTED_RIDGE], ids=lambda path: path.name)
def test_there_is_a_file_of_this_version(fitted, suffix):
    path = fitted.with_suffix(suffix)
    assert path.exists(), f"no {path.name}: run tests/golden.py, which says how, and commit it"
