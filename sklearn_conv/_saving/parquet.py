"""Write tables of features, with a description of what computed them, to Parquet files.

This is the only module that imports pyarrow. It is imported only if such a file is written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date, datetime
from hashlib import sha256
from importlib import import_module
from itertools import chain
from math import isfinite
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import to_numpy
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._saving.files import NewFile
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._validation import parameter_error

GROUP_BYTES = 64 * 2**20
"""Approximate size of the features in a row group, which are held in memory until it is written."""

GROUP_ROWS = 4096, 2**20
"""Minimum and maximum number of rows in a row group. Each column of each row group costs readers up
to 70 kB of memory, so that groups of a few rows would take much more memory than their features."""

MAX_FEATURES = 2**15
"""Maximum number of features: readers hold a record of each column of each row group."""

CONTAINERS: dict[type, tuple[str, str]] = {
    Pipeline: ("steps", "steps"),
    FeatureUnion: ("transformer_list", "transformer_list"),
    ColumnTransformer: ("transformers", "transformers_"),
}
"""Estimators that contain other estimators: the parameter, and the attribute with fitted steps."""


class Table:
    """A table of features. What is known before these is checked first."""

    def __init__(self, estimator: Any, columns: Any) -> None:
        self._columns = _check_columns({} if columns is None else columns)
        self._names = None if estimator is None else _check_estimator(estimator)
        if self._names is not None:
            self._check_names(self._names)
        version = import_module("sklearn_conv").__version__
        description = None if estimator is None else _describe(estimator)
        self._description = json.dumps({"version": version, "estimator": description})

    def write(self, file: NewFile, batches: Iterator[np.ndarray]) -> None:
        """Write batches of rows, in row groups of about 64 MB."""
        first = next(batches)
        schema = self._make_schema(first)
        features = schema.names[len(self._columns) :]
        # Older readers know BYTE_STREAM_SPLIT for these dtypes only.
        is_float = first.dtype.kind == "f" and first.dtype.itemsize > 2
        # Dictionaries and statistics of features would only make the file larger.
        writer = pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=[*self._columns],
            write_statistics=[*self._columns],
            use_byte_stream_split=features if is_float else False,
        )
        batches, n = chain([first], batches), 0
        length = GROUP_BYTES // (first.dtype.itemsize * len(features))
        group = np.empty(
            (len(features), np.clip(length, *GROUP_ROWS)), first.dtype.newbyteorder("=")
        )
        del first
        try:
            for rows in self._fill(group, batches):
                arrays = [values.slice(n, rows.shape[1]) for values in self._columns.values()]
                arrays += map(pa.array, rows)
                table = pa.Table.from_arrays(arrays, schema=schema)
                writer.write_table(table, row_group_size=rows.shape[1])
                n += rows.shape[1]
            writer.close()
        except BaseException:
            with suppress(Exception):  # The footer may not fit either, which would hide the error.
                writer.close()
            raise

    def _fill(self, group: np.ndarray, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the features of each row group, (n_features, n), in the memory of ``group``."""
        n = n_waiting = 0
        for batch in batches:
            n += len(batch)
            self._check_length(n, is_complete=False)
            while len(batch):
                part = group[:, n_waiting : n_waiting + len(batch)]
                part[...] = batch[: part.shape[1]].T
                batch = batch[part.shape[1] :]
                n_waiting += part.shape[1]
                if n_waiting == group.shape[1]:
                    yield group
                    n_waiting = 0
        self._check_length(n, is_complete=True)
        if n_waiting:
            yield group[:, :n_waiting]

    def _make_schema(self, batch: np.ndarray) -> pa.Schema:
        """Return the names and types of all columns, given the first batch of features."""
        if batch.ndim != 2:
            raise ValueError(
                "A Parquet file has one column for each feature, so that batches must have shape "
                f"(rows, features). Got shape (rows, {str(batch.shape[1:])[1:]}; use flatten=True, "
                "or a path that ends in .npy."
            )
        if batch.dtype.kind == "c" or batch.dtype.itemsize > 8:
            raise TypeError(
                f"A Parquet file cannot hold numbers of dtype {batch.dtype}; convert them to "
                "float64, or use a path that ends in .npy."
            )
        n_features = batch.shape[1]
        if n_features > MAX_FEATURES:
            raise ValueError(
                f"A Parquet file may have at most {MAX_FEATURES} features, but batches have "
                f"{n_features}; pool the features, or use a path that ends in .npy."
            )
        names = self._names
        if names is None:
            names = [f"feature{i}" for i in range(n_features)]
            self._check_names(names)
        elif len(names) != n_features:
            raise ValueError(
                f"The estimator computes {len(names)} features, but batches have {n_features}; "
                "pass the estimator that computed the batches."
            )
        fields = [(name, values.type) for name, values in self._columns.items()]
        fields += [(name, pa.from_numpy_dtype(batch.dtype.newbyteorder("="))) for name in names]
        return pa.schema(fields, {"sklearn_conv": self._description})

    def _check_length(self, n: int, is_complete: bool) -> None:
        """Check that there are as many rows of features as in the columns, or not more yet."""
        length = len(next(iter(self._columns.values()))) if self._columns else n
        if n > length or (is_complete and n < length):
            raise ValueError(
                f"The columns {[*self._columns]} have {length} rows, but there are "
                f"{n if is_complete else f'at least {n}'} rows of features; pass columns of the "
                "rows from which the batches were computed."
            )

    def _check_names(self, names: list[str]) -> None:
        counts = Counter([*self._columns, *names])
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            where = "columns and features" if {*self._columns} & {*twice} else "features"
            raise ValueError(
                f"The names of all columns of a table must be distinct, but {twice[:3]} "
                f"{'is' if len(twice) == 1 else 'are'} repeated in the names of {where}; rename "
                "them."
            )


@contextmanager
def open_table(file: NewFile) -> Iterator[Any]:
    """Return a function that appends columns, which have the names and types of the first ones.

    Columns of None have strings or None later.
    """
    writer: Any = None

    def write(columns: Mapping[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            types = {name: pa.array(values).type for name, values in columns.items()}
            fields = [(n, pa.string() if t == pa.null() else t) for n, t in types.items()]
            writer = pq.ParquetWriter(file, pa.schema(fields), compression="zstd")
        writer.write_table(pa.Table.from_pydict({**columns}, schema=writer.schema))

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


def _check_estimator(estimator: Any) -> list[str]:
    """Return the names of the features that a fitted estimator computes."""
    if not hasattr(estimator, "transform"):
        rule = "a fitted estimator with the method transform, for example pipeline[:-1], or None"
        raise parameter_error(TypeError, "save_batches", "estimator", rule, estimator)
    check_is_fitted(estimator)
    try:
        return [*map(str, estimator.get_feature_names_out())]
    except (AttributeError, ValueError) as error:
        raise ValueError(
            "The 'estimator' parameter of save_batches must have names of features, but "
            f"{error}; leave it out, or, for a FunctionTransformer, set "
            "feature_names_out='one-to-one'."
        ) from error


def _describe(estimator: Any) -> Any:
    if not hasattr(estimator, "get_params"):  # "drop" and "passthrough"
        return _plain(estimator)
    kind = type(estimator)
    # The part of the module that is public, as in sklearn.preprocessing._data
    description: dict[str, Any] = {"class": f"{kind.__module__.split('._')[0]}.{kind.__qualname__}"}
    parameters = estimator.get_params(deep=False)
    for container, (parameter, attribute) in CONTAINERS.items():
        if isinstance(estimator, container):
            del parameters[parameter]
            children = {name: _describe(child) for name, child, *_ in getattr(estimator, attribute)}
            description["steps"] = children
    description["parameters"] = {name: _plain(value) for name, value in parameters.items()}
    if isinstance(estimator, StridedConv2DTransformer):
        description["kernels_sha256"] = sha256(to_numpy(estimator.kernels_).tobytes()).hexdigest()
    return description


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: the value itself, or its ``repr``."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [*map(_plain, value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    return repr(value)


def _check_columns(columns: Any) -> dict[str, Any]:
    """Return columns as Arrow arrays of equal length; None and NaN are missing values."""
    if not isinstance(columns, Mapping):
        rule = "a mapping from names to sequences"
        hint = "; for a data frame, use dict(frame)" if hasattr(columns, "columns") else ""
        raise TypeError(
            f"The 'columns' parameter of save_batches must be {rule}. Got "
            f"{type(columns).__name__} instead{hint}."
        )
    arrays = {}
    for name, values in columns.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"Names of columns must be strings that are not empty. Got {name!r}.")
        arrays[name] = _to_arrow(f"columns[{name!r}]", values)
    lengths = {name: len(values) for name, values in arrays.items()}
    if len({*lengths.values()}) > 1:
        raise ValueError(f"All columns must have the same length. Got {lengths}.")
    return arrays


def _to_arrow(name: str, values: Any) -> Any:
    is_sequence = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    if not is_sequence or isinstance(values, str | bytes | Mapping):
        raise TypeError(
            f"{name} must be a sequence with a value for each row, such as a list or an array. Got "
            f"{type(values).__name__} instead."
        )
    shape = np.shape(values) if hasattr(values, "shape") else (len(values),)
    if len(shape) != 1:
        raise ValueError(
            f"{name} must have one axis. Got shape {shape}; make a column of each of its columns, "
            "for example values[:, 0]."
        )
    check_memory_map(values)
    if isinstance(values, np.ndarray) and not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    has_time: set[bool] = set()
    # These may be paths, which pyarrow does not know.
    if isinstance(values, list | tuple) or getattr(values, "dtype", None) == np.dtype(object):
        values = [os.fspath(v) if isinstance(v, os.PathLike) else v for v in values]
        has_time = {isinstance(v, datetime) for v in values if isinstance(v, date) and v == v}
    try:
        if len(has_time) > 1:  # pyarrow would drop the time.
            raise TypeError("some dates have a time, others do not")
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kind = ValueError if isinstance(error, UnicodeError | OverflowError) else TypeError
        raise kind(
            f"{name} cannot be a column of a Parquet file: {error}. Convert its values to strings, "
            "numbers or dates of one kind."
        ) from error
