"""Write tables of features to Parquet files.

This is the only module that imports pyarrow. It is imported only if such a file is written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._saving.description import check_steps, describe
from sklearn_conv._saving.files import NewFile

GROUP_BYTES = 64 * 2**20
"""Approximate size of the features in a row group, which are held in memory until it is written."""

GROUP_ROWS = 4096, 2**20
"""Minimum and maximum number of rows in a row group. Each column of each row group costs readers up
to 70 kB of memory, so that groups of a few rows would take much more memory than their features."""

MAX_FEATURES = 2**15
"""Maximum number of features: readers hold a record of each column of each row group."""


class Table:
    """The columns of a table that are known before the features: checked, and as Arrow arrays.

    Parameters
    ----------
    steps : estimator or None
        Fitted steps that compute the features.
    columns : mapping of str to sequence, or None
        Further columns, which come before the features.
    """

    def __init__(self, steps: Any, columns: Any) -> None:
        self.columns = _check_columns({} if columns is None else columns)
        self.length = len(next(iter(self.columns.values()))) if self.columns else None
        self.names = None if steps is None else check_steps(steps)
        if self.names is not None:
            self._check_names(self.names)
        self._description = describe(steps)

    def make_schema(self, batch: np.ndarray) -> pa.Schema:
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
        names = self.names
        if names is None:
            names = [f"feature{i}" for i in range(n_features)]
            self._check_names(names)
        elif len(names) != n_features:
            raise ValueError(
                f"steps compute {len(names)} features, but batches have {n_features}; pass the "
                "steps that computed the batches."
            )
        dtype = pa.from_numpy_dtype(batch.dtype.newbyteorder("="))
        return pa.schema(
            [
                *(pa.field(name, values.type) for name, values in self.columns.items()),
                *(pa.field(name, dtype) for name in names),
            ],
            {"sklearn_conv": self._description},
        )

    def check_length(self, n: int, is_complete: bool) -> None:
        """Check that there are as many rows of features as in the columns, or not more yet."""
        if self.length is not None and (n > self.length or (is_complete and n < self.length)):
            raise ValueError(
                f"The columns {[*self.columns]} have {self.length} rows, but there are "
                f"{n if is_complete else f'at least {n}'} rows of features; pass columns of the "
                "rows from which the batches were computed."
            )

    def _check_names(self, names: list[str]) -> None:
        counts = Counter([*self.columns, *names])
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            where = "columns and features" if {*self.columns} & {*twice} else "features"
            raise ValueError(
                f"The names of all columns of a table must be distinct, but {twice[:3]} "
                f"{'is' if len(twice) == 1 else 'are'} repeated in the names of {where}; rename "
                "them."
            )


class ParquetWriter:
    """Write batches of rows to a Parquet file, in row groups of about 64 MB."""

    def __init__(self, file: NewFile, first: np.ndarray, table: Table) -> None:
        self._table = table
        self._schema = table.make_schema(first)
        names = self._schema.names[len(table.columns) :]
        # Older readers know BYTE_STREAM_SPLIT for these dtypes only.
        is_float = first.dtype.kind == "f" and first.dtype.itemsize > 2
        n_rows = GROUP_BYTES // (first.dtype.itemsize * len(names))
        n_rows = max(GROUP_ROWS[0], min(n_rows, GROUP_ROWS[1]))
        # The features of a row group, one column after the other: (n_features, n_rows)
        self._group = np.empty((len(names), n_rows), first.dtype.newbyteorder("="))
        self._n_written = self._n_waiting = 0
        # Dictionaries and statistics of features would only make the file larger.
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=[*table.columns],
            write_statistics=[*table.columns],
            use_byte_stream_split=names if is_float else False,
        )

    def write(self, batch: np.ndarray) -> None:
        """Add a batch to the row group, and write the group when it is full."""
        self._table.check_length(self._n_written + self._n_waiting + len(batch), is_complete=False)
        while len(batch):
            place = slice(self._n_waiting, self._n_waiting + len(batch))
            part = self._group[:, place]
            part[...] = batch[: part.shape[1]].T
            batch = batch[part.shape[1] :]
            self._n_waiting += part.shape[1]
            if self._n_waiting == self._group.shape[1]:
                self._write_group()

    def finish(self, n: int) -> None:
        """Write the last row group and the footer; n is the number of rows."""
        self._table.check_length(n, is_complete=True)
        if self._n_waiting:
            self._write_group()
        self._writer.close()

    def abort(self) -> None:
        """Close the writer after an error; the file is removed."""
        with suppress(Exception):  # The footer may not fit either, which would hide the error.
            self._writer.close()

    def _write_group(self) -> None:
        n = self._n_waiting
        arrays = [values.slice(self._n_written, n) for values in self._table.columns.values()]
        arrays += [pa.array(feature[:n]) for feature in self._group]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=n)
        self._n_written += n
        self._n_waiting = 0


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
    # These may be paths, which pyarrow does not know.
    if isinstance(values, list | tuple) or getattr(values, "dtype", None) == np.dtype(object):
        values = [os.fspath(v) if isinstance(v, os.PathLike) else v for v in values]
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kind = ValueError if isinstance(error, UnicodeError | OverflowError) else TypeError
        raise kind(
            f"{name} cannot be a column of a Parquet file: {error}. Convert its values to strings, "
            "numbers or dates of one kind."
        ) from error
