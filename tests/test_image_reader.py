"""`ImageReader` inside scikit-learn: its checks, pipelines, searches and tables."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

from sklearn_conv import ImageFiles, ImageReader, StridedConv2DTransformer, read_images
from sklearn_conv._reading import pillow_images

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Return 24 paths of noise, which is coarse in every second image, with numbers beside them."""
    folder = tmp_path_factory.mktemp("noise")
    paths = []
    for i in range(24):
        noise = Image.fromarray(RNG.integers(256, size=(12, 12), dtype=np.uint8))
        noise = noise.resize((36, 24), 2 * (i % 2)).convert("RGB")
        noise.save(folder / f"{i}.png")
        paths.append(str(folder / f"{i}.png"))
    return pd.DataFrame({"path": paths, "depth": RNG.normal(size=24), "age": RNG.normal(size=24)})


@pytest.fixture(scope="module")
def y():
    return np.arange(24) % 2


def features(**options):
    return make_pipeline(
        ImageReader(**{"size": (12, 12), **options}), StridedConv2DTransformer(8, random_state=0)
    )


def model(**options):
    return Pipeline([*features(**options).steps, ("classifier", RidgeClassifier())])


# The checks of scikit-learn. Those that pass arrays of numbers to `fit` do not apply; tests below
# do the same with paths.

CHECKS = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_feature_names_out_error",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_n_features_in_after_fitting",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_transformers_unfitted",
    "check_valid_tag_types",
]


def load(path):
    """Read a file with Pillow, as 16 bits."""
    return np.asarray(Image.open(path)).astype(">u2")


OPTIONS = {
    "default": {},
    "size": {"size": (12, 12), "n_jobs": 2},
    "stored": {"size": (10, 10), "mode": None, "resize": "pad"},
    "any": {"size": "any", "mode": "L"},
    "load_func": {"mode": None, "load_func": load},
}
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@options
@pytest.mark.parametrize("name", CHECKS)
def test_checks_of_scikit_learn(name, options):
    if not hasattr(estimator_checks, name):
        pytest.skip("this version of scikit-learn does not have the check")
    getattr(estimator_checks, name)("ImageReader", ImageReader(**options))


def test_yielded_checks():
    """scikit-learn skips most checks of estimators that do not take arrays of numbers."""
    with pytest.warns(SkipTestWarning, match="Can't test estimator ImageReader"):
        checks = [*estimator_checks.estimator_checks_generator(ImageReader())]
    for estimator, check in checks:
        check(estimator)
    assert checks


@options
def test_fit_and_transform_follow_the_conventions(options, table):
    paths = table["path"].tolist()
    reader = ImageReader(**options)
    before = reader.get_params()
    assert reader.fit(paths) is reader
    assert reader.get_params() == before
    fitted = pickle.dumps(reader)
    first = reader.transform(paths)
    assert pickle.dumps(reader) == fitted
    again = pickle.loads(fitted)
    assert isinstance(first, ImageFiles)
    for files in (
        again.transform(paths),
        clone(reader).fit_transform(paths, np.arange(24)),
        reader.fit(paths).transform(paths),
    ):
        np.testing.assert_array_equal([*files], [*first])
    order = RNG.permutation(24)
    shuffled = reader.transform([paths[i] for i in order])
    np.testing.assert_array_equal([*shuffled], [*first[order]])
    np.testing.assert_array_equal([*reader.transform(paths[3:5])], [*first[3:5]])
    assert reader.n_features_in_ == 1
    assert not hasattr(reader, "feature_names_in_")
    assert first.paths.tolist() == paths


@options
def test_images_are_those_of_read_images(options, table):
    reader = ImageReader(**options)
    files = reader.fit_transform(table["path"])
    expected = read_images(table["path"], **options)
    np.testing.assert_array_equal([*files], [*expected])
    assert reader.dtype_ == files.dtype == expected.dtype
    h, w = (None, None) if reader.size == "any" else expected.shape[1:3]
    assert reader.image_shape_ == (h, w, expected[0].shape[2])


def test_load_func(table, y):
    """The step is cloned, searched, copied to processes and pickled with its function."""
    reader = ImageReader((12, 12), mode=None, load_func=load).fit(table[["path"]])
    assert clone(reader).load_func is load
    assert (reader.image_shape_, reader.dtype_) == ((12, 12, 3), np.uint16)
    expected = read_images(table["path"], (12, 12), mode=None)
    images = reader.transform(table[["path"]])
    np.testing.assert_allclose(np.asarray(images, int), expected, atol=1)
    steps = model(mode=None, load_func=lambda path: load(path))
    grid = {"imagereader__load_func": [None, load], "imagereader__size": [(6, 9), (24, 36)]}
    search = GridSearchCV(steps, grid, cv=2, n_jobs=2, error_score="raise").fit(table["path"], y)
    assert search.best_score_ > 0.9
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(steps)


def test_parameters_of_fit_have_no_effect_on_a_fitted_reader(table):
    reader = ImageReader(size=(8, 9)).fit(table["path"])
    reader.set_params(size=(4, 4), mode="L", n_jobs=2)
    assert reader.transform(table["path"]).shape == (24, 8, 9, 3)
    assert reader.fit_transform(table["path"]).shape == (24, 4, 4, 1)


def test_no_file_is_opened_if_the_shape_is_known(table, monkeypatch):
    opened = []
    find = pillow_images.open_file
    monkeypatch.setattr(
        pillow_images, "open_file", lambda item, *rest: opened.append(item) or find(item, *rest)
    )
    ImageReader(size=(4, 4)).fit_transform(["nowhere.png"])
    assert not opened
    reader = ImageReader(size=(4, 4), mode=None).fit(table["path"])
    reader.transform(table["path"])
    assert opened == [table["path"][0]]


def test_columns(table):
    paths = table["path"].tolist()
    for X in (
        paths,
        table[["path"]].to_numpy(dtype=object),
        table["path"],
        pl.Series("path", paths),
    ):
        reader = ImageReader(size=(4, 4)).fit(X)
        assert reader.transform(X).paths.tolist() == paths
        assert reader.n_features_in_ == 1
        assert not hasattr(reader, "feature_names_in_")
    for X in (table[["path"]], pl.DataFrame({"path": paths})):
        reader = ImageReader(size=(4, 4)).fit(X)
        assert reader.transform(X).paths.tolist() == paths
        assert reader.feature_names_in_.tolist() == ["path"]
        with pytest.raises(ValueError, match="feature names should match"):
            reader.transform(pd.DataFrame({"file": paths}))
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            reader.transform(paths)


# Pipelines


def test_search_over_the_size(table, y):
    grid = {
        "imagereader__size": [(6, 9), (24, 36)],
        "imagereader__mode": ["L", "RGB"],
        "stridedconv2dtransformer__stride": [1, 2],
    }
    search = GridSearchCV(model(), grid, cv=2).fit(table["path"].tolist(), y)
    assert search.best_params_["imagereader__size"] == (24, 36)
    assert search.best_score_ > 0.9
    table = table[["path"]]
    assert (search.best_estimator_.fit(table, y).predict(table) == y).all()
    assert "ImageReader" in search.best_estimator_._repr_html_()


def mixed(classifier=True):
    columns = ColumnTransformer(
        [("image", features(), ["path"]), ("numbers", StandardScaler(), ["depth", "age"])]
    )
    return make_pipeline(columns, RidgeClassifier()) if classifier else columns


def test_beside_numbers(table, y):
    columns = mixed(classifier=False)
    values = columns.fit_transform(table)
    images = features().fit_transform(table[["path"]])
    np.testing.assert_array_equal(values[:, :-2], images)
    np.testing.assert_allclose(
        values[:, -2:], StandardScaler().fit_transform(table[["depth", "age"]])
    )
    names = columns.get_feature_names_out()
    assert names[[0, -1]].tolist() == ["image__kernel000_mean_r0_c0", "numbers__age"]
    assert cross_val_score(mixed(), table, y, cv=2).mean() > 0.7
    grid = {"columntransformer__image__imagereader__size": [(12, 12), (24, 36)]}
    assert GridSearchCV(mixed(), grid, cv=2).fit(table, y).best_score_ > 0.9
    alone = ColumnTransformer([("image", features(), "path")]).fit(table)
    np.testing.assert_array_equal(alone.transform(table), images)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_output_in_tables(container, table):
    expected = features().fit_transform(table[["path"]])
    reader = ImageReader(size=(12, 12)).set_output(transform=container)
    assert isinstance(reader.fit_transform(table[["path"]]), ImageFiles)
    pipelines = [features().set_output(transform=container), features()]
    with sklearn.config_context(transform_output=container):
        assert isinstance(reader.fit_transform(table[["path"]]), ImageFiles)
        result = pipelines[1].fit_transform(table[["path"]])
    for output in (result, pipelines[0].fit_transform(table[["path"]])):
        assert type(output).__name__ == "DataFrame"
        assert output.columns[0] == "kernel000_mean_r0_c0"
        np.testing.assert_array_equal(output.to_numpy(), expected)
    columns = mixed(classifier=False).set_output(transform=container)
    assert columns.fit_transform(table).columns[0] == "image__kernel000_mean_r0_c0"
    assert pipelines[0].get_feature_names_out(["path"]).shape == (32,)


# Bad input


@pytest.mark.parametrize(
    ("X", "error", "match"),
    [
        (["a.png", None, "b.png", float("nan")], ValueError, r"X has missing values.*: 1, 3\."),
        (pd.DataFrame({"a": ["b"], "c": ["d"]}), ValueError, "X has 2 columns"),
        (np.ones((3, 4)), TypeError, r"X must be .*array of shape \(3, 4\), float64"),
        ([], ValueError, "X contains no images"),
        ("folder", TypeError, "X must be"),
    ],
)
def test_wrong_columns(X, error, match, table):
    for size in (None, (4, 4)):
        with pytest.raises(error, match=match):
            ImageReader(size=size).fit(X)
    if not hasattr(X, "columns"):
        with pytest.raises(error, match=match):
            ImageReader(size=(4, 4)).fit(table["path"]).transform(X)


def test_not_fitted(table):
    with pytest.raises(NotFittedError):
        ImageReader(size=(4, 4)).transform(table["path"])


def test_other_images_than_in_fit(table, tmp_path):
    for name, mode, size in (("small", "RGB", (20, 20)), ("gray", "L", (36, 24))):
        Image.new(mode, size).save(tmp_path / f"{name}.png")
    small, gray = [str(tmp_path / "small.png")], [str(tmp_path / "gray.png")]
    reader = ImageReader().fit(table["path"])
    with pytest.raises(ValueError, match=r"shape \(20, 20, 3\) .*fitted on .* \(24, 36, 3\)"):
        reader.transform(small)
    with pytest.raises(ValueError, match=r"do not agree in height and width.*small\.png"):
        reader.fit([*table["path"], *small])
    with pytest.raises(ValueError, match=r"shape \(None, None, 1\) .*fitted on .*None, 3\)"):
        ImageReader("any", mode=None).fit(table["path"]).transform(gray)
    files = ImageReader((4, 4), mode=None).fit(table["path"]).transform([*table["path"], *gray])
    with pytest.raises(ValueError, match=r"gray\.png' has shape \(4, 4, 1\)"):
        np.asarray(files)
