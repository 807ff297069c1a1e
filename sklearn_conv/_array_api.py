"""Arrays of PyTorch, CuPy and array-api-strict, which follow the array API standard.

They are accepted if ``array_api_dispatch`` is set in `sklearn.set_config`. Everything that is
computed from them then lives in the same library and on the same device. This is the only module
that imports array-api-compat, and only if such an array is passed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from sklearn import get_config

LIBRARIES = ("torch", "cupy", "array_api_strict")
"""Libraries whose arrays are computed by the array API; all can change arrays in place."""

SETTING = "sklearn.set_config(array_api_dispatch=True)"

MAX_BLOCK_BYTES, CPU_BLOCK_BYTES = 2**30, 2**24
"""Maximum size of a block on a device, and its size where the free memory is unknown."""


def library_name(array: Any) -> str:
    """Return the name of the library of an array, "" for arrays of NumPy and for other objects."""
    if isinstance(array, np.ndarray | np.generic):
        return ""
    libraries = {kind.__module__.partition(".")[0] for kind in type(array).__mro__}
    for name in LIBRARIES:
        if name in libraries and hasattr(array, "shape"):
            return name
    # Others follow the standard, such as JAX; Dask is no library of its own here.
    is_standard = hasattr(type(array), "__array_namespace__")
    if is_standard and not hasattr(type(array), "__dask_graph__"):
        return type(array).__module__.partition(".")[0]
    return ""


def follows_library(array: Any) -> bool:
    """Return whether an array is computed in its own library, and not as an array of NumPy."""
    return bool(get_config()["array_api_dispatch"] and library_name(array))


def namespace(array: Any) -> Any:
    """Return the module with the functions of the array API for an array."""
    if isinstance(array, np.ndarray | np.generic):
        return np
    try:
        from array_api_compat import array_namespace
    except ImportError:
        raise ImportError(
            f"X is an array of {library_name(array)}, which needs array-api-compat; install it "
            'with pip install "sklearn_conv[array-api]", or pass arrays of NumPy.'
        ) from None
    return array_namespace(array)


def to_numpy(array: Any) -> np.ndarray:
    """Return an array as one of NumPy, copied from its device."""
    name = library_name(array)
    if name == "torch":
        if str(array.dtype) == "torch.bfloat16":  # NumPy has no such dtype.
            array = array.float()
        return array.detach().cpu().resolve_conj().resolve_neg().numpy()
    if name == "cupy":
        return array.get()
    if name == "array_api_strict":
        xp = namespace(array)
        return np.asarray(array.to_device(xp.__array_namespace_info__().default_device()))
    return np.asarray(array)


def from_library(value: Any) -> Any:
    """Return an array of another library as one of NumPy, and other values as they are."""
    return to_numpy(value) if library_name(value) else value


class Library(NamedTuple):
    """A library and a device, on which arrays are made."""

    xp: Any
    """Module with the functions of the array API."""
    device: Any

    @classmethod
    def of(cls, array: Any) -> Library:
        """Return the library and the device of an array."""
        if isinstance(array, np.ndarray | np.generic):
            return cls(np, "cpu")
        return cls(namespace(array), array.device)

    def __str__(self) -> str:
        name = self.xp.__name__.removeprefix("array_api_compat.")
        return name if name == "numpy" else f"{name} on {self.device}"

    def put(self, array: Any, dtype: Any = None) -> Any:
        """Return an array of any library as one of this library, on this device.

        float64 and int64 become float32 and int32 on devices that do not have them.
        """
        dtype = self.dtype(dtype)
        if self.xp is np:
            return to_numpy(array) if dtype is None else to_numpy(array).astype(dtype, copy=False)
        if library_name(array) and Library.of(array) == self:
            return array if dtype is None else self.xp.astype(array, dtype, copy=False)
        # PyTorch shares the memory of an array of NumPy, and warns if that is read-only.
        values = to_numpy(array).copy()
        if values.dtype == np.float64 and not self.has_float64:
            values = values.astype(np.float32)
        if values.dtype == np.int64 and not self._has("int64", "signed integer"):
            values = values.astype(np.int32)
        return self.xp.asarray(values, dtype=dtype, device=self.device)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array without values."""
        return self.xp.empty(shape, dtype=self.dtype(dtype), device=self.device)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array of zeros."""
        return self.xp.zeros(shape, dtype=dtype, device=self.device)

    def take(self, array: Any, index: Any, axis: int) -> Any:
        """Return the parts of an array at indices along an axis, in C order."""
        if self.xp is np and not array.flags.c_contiguous:  # `take` would copy the whole array.
            return np.ascontiguousarray(array[(slice(None),) * axis + (index,)])
        return self.xp.take(array, self.put(index), axis=axis)

    def dtype(self, dtype: Any) -> Any:
        """Return a dtype of NumPy as one of this library."""
        is_other = isinstance(dtype, np.dtype) and self.xp is not np
        return getattr(self.xp, dtype.name) if is_other else dtype

    @property
    def has_float64(self) -> bool:
        """Whether the device computes in float64; those of Apple do not."""
        return self._has("float64", "real floating")

    @property
    def widest(self) -> Any:
        """The widest float dtype of the device."""
        return self.xp.float64 if self.has_float64 else self.xp.float32

    def _has(self, name: str, kind: str) -> bool:
        if self.xp is np:  # NumPy 2.0 has no namespace info.
            return True
        info = self.xp.__array_namespace_info__()
        return name in info.dtypes(device=self.device, kind=kind)

    @property
    def block_bytes(self) -> int:
        """Size of a block of images: on a device, an eighth of its free memory at most."""
        name, kind = self.xp.__name__, getattr(self.device, "type", "")
        if name.endswith("torch") and kind == "cuda":
            import torch

            free = torch.cuda.mem_get_info(self.device)[0]
        elif name.endswith("cupy"):
            free = self.device.mem_info[0]
        else:
            return min(CPU_BLOCK_BYTES, int(get_config()["working_memory"] * 2**20))
        return max(CPU_BLOCK_BYTES, min(MAX_BLOCK_BYTES, free // 8))

    def solve_triangle(self, factor: Any, right: Any, lower: bool = True) -> Any:
        """Solve ``factor @ x = right`` for a lower, or an upper, triangle ``(d, d)``.

        The standard has no function for this; without one, a general one is used.
        """
        name = self.xp.__name__
        if name.endswith("torch"):
            import torch

            return torch.linalg.solve_triangular(factor, right, upper=not lower)
        if name.endswith("cupy"):
            from cupyx.scipy.linalg import solve_triangular

            return solve_triangular(factor, right, lower=lower, check_finite=False)
        return self.xp.linalg.solve(factor, right)


def require_numpy(owner: str, array: Any, name: str = "X") -> None:
    """Raise an error if an array is not one of NumPy, for methods that compute with NumPy only."""
    if follows_library(array) or is_elsewhere(array):
        raise TypeError(
            f"{owner} computes with NumPy, but {name} is an array of {library_name(array)}. Pass "
            f"{name}.numpy(force=True) for PyTorch, {name}.get() for CuPy."
        )
    check_convertible(array, name)


def require_numpy_model(owner: str, array: Any) -> None:
    """Raise an error if the fitted arrays of a model are not those of NumPy."""
    if library_name(array):
        raise TypeError(
            f"{owner} needs a model with arrays of NumPy, but this one was fitted in "
            f"{Library.of(array)}. Move it with move_estimator_to(model, numpy, 'cpu'), which "
            "scikit-learn 1.9 has in sklearn.utils._array_api, or fit it on arrays of NumPy."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or the machine, has too little memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    # The last two are ValueErrors of NumPy for more than 2**63 bytes or numbers.
    texts = "allocate memory", "array is too big", "allowed dimension exceeded"
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(
        text in str(error) for text in texts
    )


@contextmanager
def as_memory_error(remedy: str) -> Iterator[None]:
    """Raise MemoryError with a remedy where a library raises an error of its own."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(f"{str(error).rstrip('.')}. {remedy}") from None


def is_elsewhere(array: Any) -> bool:
    """Return whether an array of another library is on a device that NumPy cannot read."""
    library = library_name(array)
    if library == "torch":
        return array.device.type != "cpu"
    if library == "array_api_strict":
        return array.device != namespace(array).__array_namespace_info__().default_device()
    return library == "cupy"


def check_tensor(X: Any) -> None:
    """Raise an error for arrays of other libraries that cannot be computed as they are."""
    library = library_name(X)
    if library not in LIBRARIES:
        raise TypeError(
            f"X is a {type(X).__name__} of {library}, but array_api_dispatch is for arrays of "
            "PyTorch and CuPy. Pass numpy.asarray(X), or set array_api_dispatch=False in "
            "sklearn.set_config."
        )
    _check_layout(X, "X")


def check_convertible(array: Any, name: str = "X") -> None:
    """Raise an error for arrays of other libraries that NumPy cannot read.

    This is for arrays that are passed while ``array_api_dispatch`` is not set.
    """
    _check_layout(array, name)
    if is_elsewhere(array):
        raise TypeError(
            f"{name} is an array of {library_name(array)} on {array.device}, which NumPy cannot "
            f"read. To compute on this device, call {SETTING} first; to compute with NumPy, copy "
            f"{name} to the processor, with {name}.get() for CuPy or {name}.cpu() for PyTorch."
        )


def _check_layout(array: Any, name: str) -> None:
    """Raise an error for tensors with other layouts, with a gradient, or without values."""
    if library_name(array) != "torch":
        return
    problem = ""
    if getattr(array, "requires_grad", False):
        problem = f"requires a gradient, which features do not have; pass {name}.detach()"
    elif str(array.layout) != "torch.strided":
        problem = f"has the layout {array.layout}; pass {name}.to_dense()"
    elif array.is_quantized:
        problem = f"is quantized; pass {name}.dequantize()"
    elif array.is_nested:
        problem = f"is nested; pass torch.nested.to_padded_tensor({name}, 0)"
    elif array.device.type == "meta":
        problem = "is on the device meta, which has no values; pass a tensor with values"
    if problem:
        raise TypeError(f"{name} is a tensor that {problem}.")


def refuse_list(X: Any) -> None:
    """Raise TypeError for a list of arrays of another library."""
    if isinstance(X, list | tuple) and X and (follows_library(X[0]) or is_elsewhere(X[0])):
        raise TypeError(
            f"X is a list of arrays of {library_name(X[0])}. Stack images of one size to one "
            "array, for example with torch.stack(X)."
        )


def check_table(X: Any) -> None:
    """Raise an error if an array of another library is not a table of finite real numbers."""
    check_tensor(X)
    kind = kind_of(X)
    if kind == "c":
        raise ValueError(f"Complex data not supported: X has dtype {X.dtype}.")
    if kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; convert it to numbers first.")
    if X.ndim != 2 or 0 in X.shape:
        raise ValueError(
            f"X must have shape (n, n_features), with at least one row and one feature. Got shape "
            f"{tuple(X.shape)} instead."
        )
    xp = namespace(X)
    if kind == "f" and not get_config()["assume_finite"] and not bool(xp.isfinite(xp.sum(X))):
        is_finite = xp.isfinite(X)
        if not bool(xp.all(is_finite)):
            problem = "NaN" if bool(xp.any(xp.isnan(X))) else "infinity"
            raise ValueError(f"Input X contains {problem}; fill these values, or drop their rows.")


def kind_of(array: Any) -> str:
    """Return the kind of the dtype of an array as NumPy abbreviates it: b, i, u, f or c."""
    if isinstance(array, np.ndarray | np.generic):
        return array.dtype.kind
    xp = namespace(array)
    names = "bool", "signed integer", "unsigned integer", "real floating", "complex floating"
    kinds = zip("biufc", names, strict=True)
    return next((kind for kind, name in kinds if xp.isdtype(array.dtype, name)), "V")


def require_same_library(owner: str, method: str, array: Any, fitted: Any) -> None:
    """Raise ValueError if X is not where the fitted attributes are.

    Both may be arrays of NumPy; a list or a table counts as one.
    """
    follows = follows_library(array)
    if follows:
        check_tensor(array)
    given = Library.of(array) if follows else Library(np, "cpu")
    expected = Library.of(fitted)
    if given == expected:
        return
    remedy = (
        "Move the estimator to the library and device of X with xp, _, device = "
        "get_namespace_and_device(X) and estimator = move_estimator_to(estimator, xp, device), "
        "which scikit-learn 1.9 has in sklearn.utils._array_api; or fit it again, or move X."
    )
    if library_name(array) and not follows:
        remedy = f"Call {SETTING} first, so that X is not converted to NumPy."
    raise ValueError(
        f"Inputs passed to {owner}.{method}() must use the same namespace and the same device as "
        f"those passed to fit(). The estimator was fitted in {expected}, but X is in {given}. "
        f"{remedy}"
    )
