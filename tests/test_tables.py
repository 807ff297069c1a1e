"""Parquet files of features: pandas, polars and pyarrow read what was written."""

import datetime
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import LEARNED, in_batches, run_python, unused_batches
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import sklearn_conv
from sklearn_conv import StridedConv2DTransformer, save_batches, transform_batches

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
parquet = pytest.importorskip("sklearn_conv._saving.parquet")

RNG = np.random.default_rng(0)
ROWS = np.arange(70.0).reshape(10, 7)
FEATURES = [f"feature{i}" for i in range(7)]
IMAGES = RNG.random((30, 8, 8), np.float32)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("rows_in_group", [3, 100])
@pytest.mark.parametrize("dtype", ["?", "u8", "f2", ">f4", "f8"])
def test_features_are_read_as_they_were_written(tmp_path, monkeypatch, size, rows_in_group, dtype):
    monkeypatch.setattr(parquet, "GROUP_ROWS", (1, rows_in_group))
    array = RNG.permutation(ROWS.ravel()).reshape(10, 7).astype(dtype)
    path = save_batches(tmp_path / "f.parquet", in_batches(array, size))
    assert path == tmp_path / "f.parquet"
    # Older versions of polars do not read float16.
    readers = [pd.read_parquet] + [pl.read_parquet] * (dtype != "f2")
    for table in (read(path) for read in readers):
        assert [*table.columns] == FEATURES
        values = table.to_numpy()
        assert values.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(values, array)
    metadata = pq.read_metadata(path)
    assert metadata.num_rows == 10
    assert metadata.num_row_groups == -(-10 // rows_in_group)
    assert os.listdir(tmp_path) == ["f.parquet"]


def test_numbers_that_are_not_finite(tmp_path):
    array = np.array([[np.nan, np.inf], [-np.inf, -0.0]], np.float32)
    path = save_batches(tmp_path / "F.PARQUET", [(slice(0, 2), np.asfortranarray(array))])
    for table in (pd.read_parquet(path), pl.read_parquet(path)):
        np.testing.assert_array_equal(table.to_numpy(), array)
        assert np.signbit(table.to_numpy()[1, 1])
    assert pl.read_parquet(path).null_count().to_numpy().sum() == 0
    assert metadata_of(path) == {"version": sklearn_conv.__version__, "estimator": None}


DAYS = [datetime.date(2020, 1, 1 + i) for i in range(9)] + [None]
PATHS = [f"b/ä {i}\n.png" for i in range(10)]
COLUMNS = {
    "list": (PATHS, PATHS),
    "paths": ([Path(path) for path in PATHS], PATHS),
    "objects": (np.array([Path("a"), *PATHS[1:9], None], object), ["a", *PATHS[1:9], None]),
    "strings": (np.array(PATHS), PATHS),
    "integers": (range(10), [*range(10)]),
    "big-endian": (np.arange(10, dtype=">i4"), [*range(10)]),
    "tuple": (tuple(range(9)) + (None,), [*range(9), None]),
    "nan": ([0.5] * 9 + [np.nan], [0.5] * 9 + [None]),
    "masked": (np.ma.masked_equal(np.arange(10), 3), [0, 1, 2, None, *range(4, 10)]),
    "days": (DAYS, DAYS),
    "datetime64": (np.array(DAYS[:9] + ["NaT"], "M8[D]"), DAYS),
    "bool": (np.arange(10) > 4, [False] * 5 + [True] * 5),
    "pandas": (pd.Series(["a"] * 9 + [pd.NA]), ["a"] * 9 + [None]),
    "Int64": (pd.Series([1] * 9 + [None], dtype="Int64"), [1] * 9 + [None]),
    "category": (pd.Series(["a", "b"] * 5, dtype="category"), ["a", "b"] * 5),
    "polars": (pl.Series(["a"] * 9 + [None]), ["a"] * 9 + [None]),
    "lists": ([[1, 2]] * 10, [[1, 2]] * 10),
}


@pytest.mark.parametrize(("values", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_further_columns(tmp_path, monkeypatch, values, expected):
    monkeypatch.setattr(parquet, "GROUP_ROWS", (1, 3))
    columns = {"a.b c": values, "number": np.arange(10)}
    path = save_batches(tmp_path / "f.parquet", in_batches(ROWS, 4), columns=columns)
    table = pl.read_parquet(path)
    assert table.columns == ["a.b c", "number", *FEATURES]
    assert table["a.b c"].to_list() == expected
    assert table["number"].to_list() == [*range(10)]
    np.testing.assert_array_equal(table[:, 2:].to_numpy(), ROWS)
    frame = pd.read_parquet(path)
    assert [None if np.ndim(x) == 0 and pd.isna(x) else x for x in frame["number"]] == [*range(10)]
    np.testing.assert_array_equal(frame.iloc[:, 2:], ROWS)


# Names and metadata


def metadata_of(path):
    return json.loads(pq.read_schema(path).metadata[b"sklearn_conv"])


def kernels_hash(transformer):
    return hashlib.sha256(transformer.kernels_.tobytes()).hexdigest()


def test_a_transformer(tmp_path):
    transformer = StridedConv2DTransformer(8, activation=np.tanh, random_state=0, **LEARNED)
    transformer.set_params(pooling=["mean", "max"], stride=np.int64(2), whiten=0.5).fit(IMAGES)
    columns = {"label": ["a", "b"] * 15}
    path = save_batches(
        tmp_path / "f.parquet",
        transformer.transform_batches(IMAGES, 7),
        estimator=transformer,
        columns=columns,
    )
    table = pd.read_parquet(path)
    assert [*table.columns] == ["label", *transformer.get_feature_names_out()]
    assert table.iloc[:, 1:].to_numpy().dtype == np.float32
    np.testing.assert_allclose(table.iloc[:, 1:], transformer.transform(IMAGES), rtol=1e-5)
    found = metadata_of(path)
    assert found["version"] == sklearn_conv.__version__
    steps = found["estimator"]
    assert steps["class"] == "sklearn_conv.StridedConv2DTransformer"
    assert steps["kernels_sha256"] == kernels_hash(transformer)
    found = steps["parameters"]
    assert found == transformer.get_params() | {"activation": "<ufunc 'tanh'>"}
    types = [type(found[name]) for name in ("stride", "whiten", "flatten")]
    assert types == [int, float, bool]


def test_steps_of_several_kinds(tmp_path):
    flat = IMAGES.reshape(30, 64)
    kernels = RNG.normal(size=(3, 3, 1, 4))
    images = StridedConv2DTransformer(4, random_state=0)
    union = make_union(images, StridedConv2DTransformer(kernels=kernels, bias=float("inf")))
    columns = ColumnTransformer(
        [
            ("images", StridedConv2DTransformer(2, kernels="sobel"), slice(0, 64)),
            ("numbers", "passthrough", [64]),
            ("nothing", "drop", [65]),
        ]
    )
    union.set_params(**{"stridedconv2dtransformer-2__bias": 0.5})
    pipeline = make_pipeline(union, StandardScaler(), "passthrough", PCA(2, random_state=0))
    table = np.hstack([flat, RNG.random((30, 2))])
    for steps, X in ((pipeline, flat), (columns, table)):
        steps.fit(X)
        path = save_batches(tmp_path / "f.parquet", transform_batches(steps, X), estimator=steps)
        names = pl.read_parquet(path).columns
        assert names == [*steps.get_feature_names_out()]
        if steps is pipeline:
            found = metadata_of(path)["estimator"]
            assert found["class"] == "sklearn.pipeline.Pipeline"
            given = {"memory": None, "transform_input": None, "verbose": False}
            assert found["parameters"] == given
            children = found["steps"]
            assert [*children] == ["featureunion", "standardscaler", "passthrough", "pca"]
            assert children["standardscaler"]["class"] == "sklearn.preprocessing.StandardScaler"
            assert children["pca"]["parameters"]["n_components"] == 2
            assert children["passthrough"] == "passthrough"
            branches = children["featureunion"]["steps"]
            hashes = [(name, branch["kernels_sha256"]) for name, branch in branches.items()]
            assert hashes == [(name, kernels_hash(child)) for name, child in union.transformer_list]
            assert branches["stridedconv2dtransformer-2"]["parameters"]["kernels"] == repr(kernels)
    found = metadata_of(path)["estimator"]["steps"]
    assert found["images"]["kernels_sha256"] == kernels_hash(columns.named_transformers_["images"])
    assert found["numbers"]["class"] == "sklearn.preprocessing.FunctionTransformer"
    assert found["nothing"] == "drop"


class Odd(TransformerMixin, BaseEstimator):
    def __init__(self, a=None):
        self.a = a

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X

    def get_feature_names_out(self, input_features=None):
        return ["a"]

    def __sklearn_is_fitted__(self):
        return True


def test_values_that_json_cannot_hold(tmp_path):
    values = [float("inf"), float("nan"), (1, 2.5), {"a": 1j}, {1: 2}, "ä", np.float32(0.5), [True]]
    path = save_batches(tmp_path / "f.parquet", in_batches(ROWS[:, :1], 4), estimator=Odd(values))
    text = pq.read_schema(path).metadata[b"sklearn_conv"]
    found = json.loads(text, parse_constant=pytest.fail)["estimator"]["parameters"]["a"]
    assert found == ["inf", "nan", [1, 2.5], {"a": "1j"}, "{1: 2}", "ä", 0.5, [True]]


# Bad input

FITTED = StridedConv2DTransformer(8, random_state=0).fit(IMAGES)
NAMELESS = make_pipeline(FITTED, FunctionTransformer(np.abs)).fit(IMAGES)
TWICE = r"distinct, but \['kernel003_mean_r0_c1'\] is repeated in .* columns and features"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"columns": [("a", [1])]}, TypeError, "'columns' parameter .*mapping.* Got list"),
        ({"columns": pd.DataFrame({"a": [1]})}, TypeError, r"Got DataFrame instead.*dict\(frame\)"),
        ({"columns": {1: [1]}}, TypeError, "must be strings that are not empty. Got 1"),
        ({"columns": {"a": [1, 2], "b": [1]}}, ValueError, "same length. Got {'a': 2, 'b': 1}"),
        ({"columns": {"a": "abc"}}, TypeError, r"columns\['a'\] must be a sequence.* Got str"),
        ({"columns": {"a": {1: 2}}}, TypeError, "Got dict"),
        ({"columns": {"a": np.array(3)}}, ValueError, r"one axis. Got shape \(\)"),
        ({"columns": {"a": ROWS}}, ValueError, r"shape \(10, 7\); make a column of each"),
        ({"columns": {"a": [1, "a"]}}, TypeError, r"columns\['a'\] cannot be a column.*one kind"),
        ({"columns": {"a": [*DAYS, datetime.datetime(2020, 1, 1, 12)]}}, TypeError, "have a time"),
        ({"columns": {"a": ["\udcff"]}}, ValueError, r"columns\['a'\] cannot be .* surrogates"),
        ({"columns": {"a": [2**70]}}, ValueError, r"columns\['a'\] .*too large"),
        ({"estimator": "a"}, TypeError, "'estimator' parameter of save_batches must be .*Got 'a'"),
        ({"estimator": StridedConv2DTransformer()}, NotFittedError, "not fitted"),
        ({"estimator": make_pipeline(PCA(), RidgeClassifier())}, TypeError, r"pipeline\[:-1\]"),
        ({"estimator": NAMELESS}, ValueError, "must have names.*feature_names_out='one-to-one'"),
        ({"estimator": FITTED, "columns": {"kernel003_mean_r0_c1": [1]}}, ValueError, TWICE),
    ],
)  # fmt: skip
def test_arguments_are_checked_before_any_work(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        save_batches(tmp_path / "f.parquet", unused_batches(), **arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("arguments", [{"estimator": FITTED}, {"columns": {}}])
@pytest.mark.parametrize("name", ["f.npy", "f"])
def test_tables_in_the_format_of_numpy(tmp_path, arguments, name):
    with pytest.raises(ValueError, match=r"no further columns.*f.*a path that ends in \.parquet"):
        save_batches(tmp_path / name, unused_batches(), **arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("rows", "arguments", "error", "message"),
    [
        (ROWS, {"columns": {"a": [1] * 11}}, ValueError, r"\['a'\] have 11 rows.* 10 rows"),
        (ROWS, {"columns": {"a": [1] * 5}}, ValueError, "5 rows, but .* at least 6 rows"),
        (ROWS, {"columns": {"feature6": [1] * 10}}, ValueError, "columns and features"),
        (ROWS, {"estimator": FITTED}, ValueError, "computes 32 features, but .* 7"),
        (ROWS[..., np.newaxis], {}, ValueError, r"\(rows, 7, 1\).*flatten=True, or .*\.npy"),
        (ROWS.astype("c16"), {}, TypeError, "complex128; convert .*npy"),
        (np.zeros((1, 2**15 + 1), bool), {}, ValueError, "most 32768 .* have 32769; pool .*npy"),
    ],
)  # fmt: skip
def test_batches_that_do_not_fit_the_table(tmp_path, rows, arguments, error, message):
    path = tmp_path / "f.parquet"
    path.write_text("an older file")
    with pytest.raises(error, match=message):
        save_batches(path, in_batches(rows, 6), **arguments)
    assert os.listdir(tmp_path) == ["f.parquet"]
    assert path.read_text() == "an older file"


def test_names_of_features_that_are_repeated(tmp_path):
    union = ColumnTransformer(
        [(name, StridedConv2DTransformer(2, random_state=0), slice(0, 64)) for name in "ab"],
        verbose_feature_names_out=True,
    ).fit(IMAGES.reshape(30, 64))
    names = union.get_feature_names_out()
    union.get_feature_names_out = lambda: [name.partition("__")[2] for name in names]
    message = r"\['kernel000_mean_r0_c0', .*\] are repeated in the names of features"
    with pytest.raises(ValueError, match=message):
        save_batches(tmp_path / "f.parquet", unused_batches(), estimator=union)


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "sklearn_conv._saving.parquet")
    with pytest.raises(ImportError, match=r'pip install "sklearn_conv\[parquet\]"'):
        save_batches(tmp_path / "f.parquet", unused_batches())
    assert os.listdir(tmp_path) == []


def test_a_column_that_was_truncated(tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(50_000))
    labels = np.load(tmp_path / "labels.npy", mmap_mode="r")
    os.truncate(tmp_path / "labels.npy", 1000)
    with pytest.raises(OSError, match="truncated"):
        save_batches(tmp_path / "f.parquet", unused_batches(), columns={"label": labels})


def test_memory_is_bounded_and_only_parquet_imports_pyarrow(tmp_path):
    """50 MB of features, of which a row group is held."""
    code = f"""
import resource, sys
import numpy as np
from sklearn_conv import save_batches
assert "sklearn_conv._saving.parquet" not in sys.modules
from sklearn_conv._saving import parquet
parquet.GROUP_BYTES = 2**23
rows = np.random.default_rng(0).random((1000, 256), np.float32)
batches = ((slice(i, i + 1000), rows) for i in range(0, 50_000, 1000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
path = save_batches({str(tmp_path / "f.parquet")!r}, batches, columns={{"i": range(50_000)}})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    assert int(run_python(code, check=True).stdout) < 40
    metadata = pq.read_metadata(tmp_path / "f.parquet")
    assert (metadata.num_rows, metadata.num_row_groups) == (50_000, 7)
