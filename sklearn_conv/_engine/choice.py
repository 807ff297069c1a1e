"""Choice of the engine: for NumPy, the native one if its library can be loaded."""

from __future__ import annotations

import os

from sklearn_conv._array_api import library_name
from sklearn_conv._engine.array_api_engine import ArrayApiEngine
from sklearn_conv._engine.layer import Engine, Layer
from sklearn_conv._engine.missing import MissingEngine
from sklearn_conv._engine.native_engine import NativeEngine
from sklearn_conv._engine.native_library import PATH_VARIABLE, NativeLibrary, library_path
from sklearn_conv._engine.numpy_engine import NumpyEngine
from sklearn_conv._engine.pyramid import PyramidEngine
from sklearn_conv._warnings import warn

VARIABLE = "SKLEARN_CONV_ENGINE"
"""Environment variable that chooses the engine, read when the package is imported.

``native-avx512`` and similar names also choose the instruction set, for tests.
"""


def make_engine(layer: Layer, ignores_missing: bool = False) -> Engine:
    """Return an engine for a layer; an engine is added here.

    If ``ignores_missing``, windows with missing pixels, which are NaN, do not count.
    """
    if ignores_missing:
        return MissingEngine(layer, make_engine)
    if layer.poolings is not None and len(layer.pool_grids) > 1:
        return PyramidEngine(layer, make_engine)
    if library_name(layer.kernels):
        return ArrayApiEngine(layer)
    if LIBRARY is not None and LIBRARY.supports(layer):
        return NativeEngine(layer, LIBRARY)
    return NumpyEngine(layer)


def describe_engine() -> str:
    """Return the name of the engine in use, and its instruction set or why it is not native."""
    if LIBRARY is not None:
        refused = " (the system does not let this process use AMX)" if LIBRARY.is_refused else ""
        return f"native, {LIBRARY.levels[0].name}{refused}"
    return f"NumPy ({REASON})"


def load(choice: str | None) -> tuple[NativeLibrary | None, str]:
    """Load the library as the environment variable says; return it, or None and the reason.

    ImportError is raised if ``choice`` is unknown, or if it is "native" and the library cannot be
    loaded. Otherwise, a library that is there but cannot be used is a warning.
    """
    engine, _, level = (choice or "").partition("-")
    if engine not in ("", "numpy", "native") or (level and engine != "native"):
        raise ImportError(f"{VARIABLE}={choice!r} is unknown; use numpy or native.")
    if engine == "numpy":
        return None, f"{VARIABLE}=numpy"
    path = library_path()
    try:
        library = NativeLibrary(path)
        if level:
            library.choose_level(level)
        return library, ""
    except LookupError as error:
        raise ImportError(f"{VARIABLE}={choice!r}, but {error}.") from None
    except OSError as error:
        is_given = bool(os.environ.get(PATH_VARIABLE))
        is_missing = not path.exists() and not is_given
        reason = f"the native engine was not built in {path.parent}" if is_missing else str(error)
        remedy = (
            f"Unset {PATH_VARIABLE}"
            if is_given
            else "Install the package again on a machine with a C++ compiler, run make native in a "
            "clone of its repository"
        )
        if engine == "native":
            raise ImportError(
                f"{VARIABLE}={choice}, but {reason}. {remedy}, or unset {VARIABLE} to use NumPy."
            ) from None
        if not is_missing:
            warn(
                f"The native engine cannot be used, so NumPy is used instead: {reason}. {remedy}, "
                f"or set {VARIABLE}=numpy to use NumPy without this warning."
            )
        return None, reason


LIBRARY, REASON = load(os.environ.get(VARIABLE))
