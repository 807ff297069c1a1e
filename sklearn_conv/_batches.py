"""`transform_batches`: features of a whole pipeline, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import library_name
from sklearn_conv._pixels import WIDEST
from sklearn_conv._validation import check_integer, is_dask, parameter_error
from sklearn_conv._warnings import EVERYTHING, say_once

BATCH_BYTES = 2**24
"""Approximate size of the rows of X, or of their features, in a batch."""


def transform_batches(
    estimator: Any, X: Any, batch_size: int | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Compute the features of a transformer, a pipeline or a union, batch by batch.

    Images and features need not fit into memory.

    Parameters
    ----------
    estimator : estimator with the method ``transform``
        Fitted estimator, such as a `StridedConv2DTransformer`, a `~sklearn.pipeline.FeatureUnion`
        of several, or a `~sklearn.pipeline.Pipeline` without its last step, ``pipeline[:-1]``. If
        it has a method ``transform_batches``, this method is called.
    X : array-like with n rows
        Images in a form that the estimator accepts, but not a Dask array. Slices ``X[rows]`` are
        read, or ``X.iloc[rows]`` of a data frame, so a `numpy.memmap`, zarr or h5py array is read
        one batch at a time.
    batch_size : int, default=None
        Number of rows in a batch. If None, the rows of X and the features of a batch take about
        16 MB each; to find out, the first row is transformed once more.

    Yields
    ------
    rows : slice
        Rows of the batch; batches follow each other without gaps.
    features : ndarray of shape (b, n_features)
        What the estimator computes from the b rows of the batch.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError, ValueError
        If a parameter is not as described, or if X has no rows.

    See Also
    --------
    StridedConv2DTransformer.transform_batches : The method of a single transformer.
    save_batches : Write the batches to a file.

    Examples
    --------
    Two views of the images, side by side, and a classifier that never sees all features at once:

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.pipeline import make_union
    >>> from sklearn_conv import (
    ...     StreamingRidgeClassifier, StridedConv2DTransformer, transform_batches
    ... )
    >>> images, y = load_digits().images, load_digits().target
    >>> views = make_union(
    ...     StridedConv2DTransformer(random_state=0),
    ...     StridedConv2DTransformer(dilation=2, random_state=0),
    ... ).fit(images)
    >>> classifier = StreamingRidgeClassifier()
    >>> for rows, features in transform_batches(views, images, batch_size=1000):
    ...     classifier = classifier.partial_fit(features, y[rows])
    ...     print(rows, features.shape)
    slice(0, 1000, None) (1000, 512)
    slice(1000, 1797, None) (797, 512)
    """
    owner = "transform_batches"
    if not hasattr(estimator, "transform"):
        rule = "a fitted estimator with the method transform, for example pipeline[:-1]"
        raise parameter_error(TypeError, owner, "estimator", rule, estimator)
    if hasattr(estimator, owner):
        return estimator.transform_batches(X, batch_size)
    check_is_fitted(estimator)
    if is_dask(X):
        raise TypeError(
            "transform_batches reads X itself, but X is a Dask array; estimator.transform(X) "
            "returns the features as a lazy Dask array."
        )
    try:
        n = X.shape[0] if hasattr(X, "shape") else len(X)
    except (TypeError, IndexError):
        raise parameter_error(TypeError, owner, "X", "an array of rows", X) from None
    if not n:
        raise ValueError("X has no rows; transform_batches needs at least one.")
    if batch_size is None:
        first = _rows(X, slice(1))
        with say_once(EVERYTHING):  # The first batch contains this row.
            n_bytes = max(_size(first), _size(estimator.transform(first)))
        batch_size = max(1, BATCH_BYTES // max(1, n_bytes))
    length = check_integer(owner, "batch_size", batch_size, 1)
    return _transform(estimator, X, gen_batches(n, length))


def _transform(estimator: Any, X: Any, batches: Iterator[slice]) -> Iterator[tuple[slice, Any]]:
    said: set[str] = set()
    for rows in batches:
        with say_once(said):
            features = estimator.transform(_rows(X, rows))
        yield rows, np.asarray(features) if hasattr(features, "columns") else features


def _rows(X: Any, rows: slice) -> Any:
    if library_name(X):
        return X[rows, ...]
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _size(rows: Any) -> int:
    """Return the size of rows in bytes."""
    if library_name(rows):
        return WIDEST * prod(rows.shape)
    array = np.asarray(rows)
    if array.dtype == object and array.ndim == 1:  # images of different sizes
        return sum(getattr(image, "nbytes", 8) for image in array)
    return int(array.nbytes)
