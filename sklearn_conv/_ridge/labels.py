"""Class labels: combine labels of several batches exactly, and show them in messages."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.multiclass import check_classification_targets


def show_label(label: Any) -> str:
    """Return the representation of a label, cut after 60 characters."""
    # The representation of a megabyte takes time.
    shown = repr(label[:61] if isinstance(label, str) else label)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def show_labels(labels: np.ndarray | list[Any]) -> str:
    """Return the representation of several labels, cut after 10 of them."""
    first = labels[:10]
    shown = ", ".join(map(show_label, first.tolist() if isinstance(first, np.ndarray) else first))
    more = f", ... ({len(labels)} labels)" if len(labels) > 10 else ""
    return f"[{shown}{more}]"


def check_labels(labels: np.ndarray) -> None:
    """Raise an error if labels are not those of classes, or not exact."""
    if labels.dtype.kind not in "biufUSO":
        raise TypeError(f"y has dtype {labels.dtype}; classes must be numbers or strings.")
    check_exact(labels)
    try:
        check_classification_targets(labels)
    except TypeError as error:  # Labels of several types have no order.
        kinds = ", ".join(sorted({type(label).__name__ for label in labels.tolist()}))
        raise TypeError(
            f"y has labels of the types {kinds}; classes must be all strings or all numbers. Fill "
            "in missing labels, or remove their rows."
        ) from error


def check_exact(labels: np.ndarray) -> None:
    """Raise an error if labels are floats so large that NumPy may have rounded integers."""
    if labels.dtype.kind != "f" or not labels.size:
        return
    largest = labels.flat[np.abs(labels).argmax()]
    if abs(largest) > _largest_exact(labels.dtype):
        raise ValueError(
            f"y has the label {float(largest)!r} of dtype {labels.dtype}, in which different large "
            "integers are equal. NumPy also casts a list of integers to float64 if no integer "
            "dtype holds all of them. Pass an array of integers, or convert the labels to strings."
        )


def align_labels(*arrays: np.ndarray) -> list[np.ndarray]:
    """Cast numeric labels to a common dtype that holds all of them exactly.

    NumPy itself would cast int64 and uint64 to float64, in which different large integers are
    equal. Raise an error if there is no such dtype. Strings and empty arrays are returned as they
    are.
    """
    filled = [array for array in arrays if len(array)]
    kinds = {array.dtype.kind for array in filled}
    if not filled or not kinds <= set("biuf"):
        return [*arrays]
    dtype = np.result_type(*filled)
    if dtype.kind == "f":
        lowest = min(int(array.min()) for array in filled)
        highest = max(int(array.max()) for array in filled)
        if "f" not in kinds:
            dtype = np.dtype(np.int64 if highest < 2**63 else np.uint64)
            is_exact = dtype.kind == "i" or lowest >= 0
        else:
            is_exact = max(-lowest, highest) <= _largest_exact(dtype)
        if not is_exact:
            raise ValueError(
                f"No dtype of NumPy holds all class labels exactly, from {lowest} to {highest}; "
                "convert the labels to strings."
            )
    return [array.astype(dtype, copy=False) if len(array) else array for array in arrays]


def find_labels(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the place of each label in sorted classes; -1 if it is not among them."""
    if not len(labels) or not len(classes):
        return np.full(len(labels), -1)
    labels, classes = align_labels(labels, classes)
    places = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return np.where(classes[places] == labels, places, -1)


def union_labels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the sorted labels that are in at least one array; an empty array has no dtype."""
    if not len(first) or not len(second):
        return second if len(second) else first
    return np.union1d(*align_labels(first, second))


def _largest_exact(dtype: np.dtype) -> int:
    """Return the largest integer up to which a float dtype holds all integers."""
    return 2 ** (int(np.finfo(dtype).nmant) + 1)
