"""Functions of the BLAS and LAPACK of SciPy that let other threads run during a call.

SciPy's own wrappers hold the GIL. Here, the same functions are called by their addresses, which are
in SciPy's Cython API together with their C signatures. If the signature of a function is not the
expected one, for example because its integers have 64 bits, SciPy's wrapper is called.

Arrays are of float32 or float64. Those that are only read are copied if they are not in Fortran
order. All triangles are upper ones, except those of ``syrk`` and ``syr``.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from threading import RLock
from typing import Any

import numpy as np
from scipy.linalg import cython_blas, cython_lapack, get_blas_funcs, get_lapack_funcs

from sklearn_conv._engine.threads import one_blas_thread

TYPES = {np.dtype(np.float32): ("s", ctypes.c_float), np.dtype(np.float64): ("d", ctypes.c_double)}
"""Map from dtypes to the first letter of the functions for them and the type of coefficients."""

_ALONE = RLock()
"""Lock of the calls that use several threads of BLAS. Several of them at once would wait busily for
the same threads, and a process that is forked meanwhile could hang."""

if hasattr(os, "register_at_fork"):  # This function does not exist on Windows.
    os.register_at_fork(
        before=_ALONE.acquire, after_in_parent=_ALONE.release, after_in_child=_ALONE.release
    )

# These are prototypes of their own, because others may change the attributes of `pythonapi`.
_name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
    ("PyCapsule_GetName", ctypes.pythonapi)
)
_address_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def gemm(alpha: float, a: np.ndarray, b: np.ndarray, trans_a: bool = False) -> np.ndarray:
    """Return ``alpha * a @ b`` in Fortran order, or with ``a.T`` for ``a``."""
    dtype = np.result_type(a, b)
    a, b = _to_read(a, dtype), _to_read(b, dtype)
    (m, k), (length, n) = a.shape[::-1] if trans_a else a.shape, b.shape
    _check(length == k, a, b)
    c = np.zeros((m, n), dtype, order="F")
    if _call("gemm", b"T" if trans_a else b"N", b"N", m, n, k, alpha, a, b, 0.0, c) is None:
        return get_blas_funcs("gemm", (c,))(alpha, a, b, trans_a=trans_a)
    return c


def syrk(a: np.ndarray, c: np.ndarray) -> None:
    """Add the lower triangle of ``a @ a.T`` to ``c``."""
    a = _to_read(a, c.dtype)
    n, k = a.shape
    _check(c.shape == (n, n), a, c)
    if _call("syrk", b"L", b"N", n, k, 1.0, a, 1.0, c) is None:
        get_blas_funcs("syrk", (c,))(1.0, a, beta=1.0, c=c, lower=1, overwrite_c=1)


def syr(x: np.ndarray, a: np.ndarray) -> None:
    """Add the lower triangle of the products of the elements of ``x`` to ``a``."""
    x = _to_read(x, a.dtype)
    (n,) = x.shape
    _check(a.shape == (n, n), x, a)
    if _call("syr", b"L", n, 1.0, x, a) is None:
        get_blas_funcs("syr", (a,))(1.0, x, a=a, lower=1, overwrite_a=1)


def trsm(a: np.ndarray, b: np.ndarray, trans_a: bool = False) -> None:
    """Replace ``b`` by ``inv(a) @ b``, or with ``a.T`` for the triangle ``a``."""
    a = _to_read(a, b.dtype)
    n, k = b.shape
    _check(a.shape == (n, n), a, b)
    trans = b"T" if trans_a else b"N"
    if _call("trsm", b"L", b"U", trans, b"N", n, k, 1.0, a, b) is None:
        get_blas_funcs("trsm", (b,))(1.0, a, b, trans_a=trans_a, overwrite_b=1)


def potrf(a: np.ndarray) -> bool:
    """Replace the upper triangle of ``a`` by its Cholesky factor; return whether there is one."""
    n = len(a)
    _check(a.shape == (n, n), a)
    info = _call("potrf", b"U", n, a)
    if info is None:
        _, info = get_lapack_funcs("potrf", (a,))(a, clean=0, overwrite_a=1)
    return info == 0


def potrs(a: np.ndarray, b: np.ndarray) -> None:
    """Replace ``b`` by ``inv(a.T @ a) @ b`` for the triangle ``a``."""
    a = _to_read(a, b.dtype)
    n, k = b.shape
    _check(a.shape == (n, n), a, b)
    if _call("potrs", b"U", n, k, a, b) is None:
        get_lapack_funcs("potrs", (b,))(a, b, overwrite_b=1)


def trtri(a: np.ndarray) -> None:
    """Replace the triangle ``a`` by its inverse."""
    n = len(a)
    _check(a.shape == (n, n), a)
    if _call("trtri", b"U", b"N", n, a) is None:
        get_lapack_funcs("trtri", (a,))(a, overwrite_c=1)


def _to_read(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.require(array, dtype, ["F", "A"])


def _check(fits: bool, *arrays: np.ndarray) -> None:
    """Raise ValueError if arrays do not fit, because the functions do not know their sizes."""
    if not fits:
        raise ValueError(f"arrays of shapes {[array.shape for array in arrays]} do not fit.")


def _call(name: str, *arguments: Any) -> int | None:
    """Call a function; return what LAPACK reports, or None if only SciPy's wrapper can call it.

    Arguments are characters, sizes, coefficients and arrays, the last of which is written. After
    each array, the function gets the number of its rows, or 1 for a vector. The caller must check
    the shapes.
    """
    arrays = [argument for argument in arguments if isinstance(argument, np.ndarray)]
    dtype = arrays[-1].dtype
    for array in arrays:
        is_usable = array.dtype == dtype and array.flags.f_contiguous and array.flags.aligned
        if dtype not in TYPES or not is_usable:
            raise ValueError(
                f"{name} got an array of {array.dtype} with strides {array.strides}; all arrays "
                "must be of one type, float32 or float64, aligned and in Fortran order."
            )
        if max(array.shape) >= 2**31:
            raise ValueError(f"{name} got an array of shape {array.shape}; axes are below 2**31.")
    if not arrays[-1].flags.writeable:
        raise ValueError(f"{name} cannot write into a read-only array.")
    letter, number = TYPES[dtype]
    kinds: dict[type, Any] = {
        bytes: ("char", ctypes.c_char),
        int: ("int", ctypes.c_int),
        float: (letter, number),
    }
    signature, pointers = [], []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            n_rows = argument.shape[0] if argument.ndim > 1 else 1
            signature += [letter, "int"]
            pointers += [
                ctypes.c_void_p(argument.ctypes.data),
                ctypes.byref(ctypes.c_int(max(1, n_rows))),
            ]
        else:
            kind, c_type = kinds[type(argument)]
            signature.append(kind)
            pointers.append(ctypes.byref(c_type(argument)))
    info = ctypes.c_int(0)
    if letter + name in cython_lapack.__pyx_capi__:
        signature.append("int")
        pointers.append(ctypes.byref(info))
    function = _find(letter + name, f"void ({', '.join(f'{kind} *' for kind in signature)})")
    if function is None:
        return None
    with _ALONE if one_blas_thread.n_threads > 1 else nullcontext():
        function(*pointers)
    return info.value


@cache
def _find(name: str, expected: str) -> Callable[..., None] | None:
    """Return a function of SciPy's Cython API, or None if it does not have this signature."""
    capsule = {**cython_blas.__pyx_capi__, **cython_lapack.__pyx_capi__}.get(name)
    signature = b"" if capsule is None else _name_of(capsule)
    # The types of numbers are ``d`` and ``s`` with a prefix of Cython.
    if re.sub(r"__pyx_t_\w+_([ds]) ", r"\1 ", signature.decode()) != expected:
        return None
    pointers = [ctypes.c_void_p] * expected.count("*")
    return ctypes.CFUNCTYPE(None, *pointers)(_address_in(capsule, signature))
