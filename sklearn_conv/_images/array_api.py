"""Images in arrays of PyTorch, CuPy and array-api-strict."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import get_config

from sklearn_conv._array_api import (
    Library,
    check_array,
    compute_dtype_of,
    follows_library,
    is_elsewhere,
    kind_of,
    library_name,
    namespace,
    to_numpy,
)
from sklearn_conv._images.batch import RULE, ArrayImages, find_not_finite, not_finite


class ArrayApiImages(ArrayImages):
    """Images in an array of another library, which are computed on their device."""

    def __init__(self, values: Any, shape: tuple[int, int, int]) -> None:
        self.values = values
        self.shape = (values.shape[0], *shape)
        self.dtype = compute_dtype_of(values)
        self.library = Library.of(values)

    def read(self, rows: slice, check: bool = True) -> Any:
        """Return the images in ``rows``, (b, h, w, c), usually without a copy."""
        batch = self.values[rows, ...]
        return self.library.xp.reshape(batch, (batch.shape[0], *self.shape[1:]))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Return an array for features, on the device of the images."""
        return self.library.empty(shape, self.library.dtype(dtype.name))

    def put(self, array: np.ndarray) -> Any:
        """Copy an array to the device of the images."""
        return self.library.put(array)

    def cast(self, name: str, array: Any, dtype: np.dtype) -> Any:
        """Cast a fitted array to the dtype of the computation."""
        return self.library.put(array, self.library.dtype(dtype.name))


def refuse_list(X: Any) -> None:
    """Raise TypeError for a list of arrays of another library."""
    if isinstance(X, list | tuple) and X and (follows_library(X[0]) or is_elsewhere(X[0])):
        raise TypeError(
            f"X is a list of arrays of {library_name(X[0])}. Stack images of one size to one "
            f"array, for example with torch.stack(X). {RULE}"
        )


def check_tensor(X: Any) -> np.ndarray:
    """Check an array of another library, and return an array of NumPy with its shape and kind.

    The elements of this array share their memory.
    """
    check_array(X)
    kind = kind_of(X)
    dtype = "?" if kind == "b" else f"{kind}8"
    return np.broadcast_to(np.zeros((), dtype), tuple(X.shape))


def check_finite_tensor(X: Any, ignores_missing: bool = False) -> bool:
    """Raise ValueError for infinity, and for NaN unless missing pixels are ignored.

    Return whether there may be missing pixels. If ``assume_finite`` is set, nothing is checked.
    """
    if kind_of(X) != "f":
        return False
    if get_config()["assume_finite"]:
        return ignores_missing
    xp = namespace(X)
    # Sums of float16 often overflow.
    total = xp.sum(X, dtype=xp.float64 if X.dtype == xp.float64 else xp.float32)
    if bool(xp.isfinite(total)):
        return False
    bad = find_not_finite(X, ignores_missing)
    if len(bad):
        images = to_numpy(xp.astype(X[int(bad[0]), ...], total.dtype))
        problem = "NaN" if np.isnan(images).any() and not ignores_missing else "infinity"
        raise not_finite(f"Input X contains {problem}", bad)
    return ignores_missing
