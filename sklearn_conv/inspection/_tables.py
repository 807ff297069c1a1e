"""Rows of features in the form in which a step expects them: an array or a data frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def select_rows(X: Any, rows: slice) -> Any:
    """Return rows of an array, a list or a data frame."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def as_rows(table: Any) -> np.ndarray:
    """Return a float64 array of shape (m, d)."""
    dense = table.toarray() if hasattr(table, "toarray") else table
    values = np.asarray(dense, np.float64)
    return values.reshape(len(values), -1)


def call(function: Callable[[Any], Any], like: Any, rows: np.ndarray) -> np.ndarray:
    """Call a method with rows in the form of ``like``, ``(m, d) -> (m, outputs)``.

    ``like`` has the form of the data that the step was fitted on: an array with any number of axes,
    or a data frame of pandas or polars.
    """
    table: Any = rows.reshape(len(rows), *like.shape[1:])
    if hasattr(like, "columns"):
        names = {"columns" if hasattr(like, "iloc") else "schema": list(like.columns)}
        table = type(like)(table, **names)
    with np.errstate(all="ignore"):  # Results that are not finite raise an error later.
        return as_rows(function(table))
