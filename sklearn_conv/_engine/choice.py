"""Choice of the engine: the native one if its library can be loaded, otherwise NumPy."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from sklearn_conv._engine.layer import Layer
from sklearn_conv._engine.native_engine import NativeEngine
from sklearn_conv._engine.native_library import PATH_VARIABLE, Library, library_path
from sklearn_conv._engine.numpy_engine import Advance, NumpyEngine
from sklearn_conv._warnings import warn

VARIABLE = "SKLEARN_CONV_ENGINE"
"""Environment variable that chooses the engine, read when the package is imported."""


class Engine(Protocol):
    """The interface that `sklearn_conv._engine` describes."""

    def compute(
        self, images: np.ndarray, out: np.ndarray, n_jobs: int | None = ..., advance: Advance = ...
    ) -> None:
        """Write the features of images."""


def make_engine(layer: Layer) -> Engine:
    """Return an engine for a layer."""
    if LIBRARY is not None and NativeEngine.supports(layer):
        return NativeEngine(layer, LIBRARY)
    return NumpyEngine(layer)


def describe_engine() -> str:
    """Return the name of the engine in use, and its instruction set or why it is not native."""
    if LIBRARY is not None:
        return f"native, {LIBRARY.levels[0].name}"
    return f"NumPy ({REASON})"


def load(choice: str | None) -> tuple[Library | None, str]:
    """Load the library as the environment variable says; return it, or None and the reason.

    Raises
    ------
    ImportError
        If ``choice`` is unknown, or if it is "native" and the library cannot be loaded.

    Warns
    -----
    UserWarning
        If there is a library, but it cannot be used.
    """
    if choice not in (None, "", "numpy", "native"):
        raise ImportError(f"{VARIABLE}={choice!r} is unknown; use numpy or native.")
    if choice == "numpy":
        return None, f"{VARIABLE}=numpy"
    path = library_path()
    try:
        return Library(path), ""
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
        if choice == "native":
            raise ImportError(
                f"{VARIABLE}=native, but {reason}. {remedy}, or unset {VARIABLE} to use NumPy."
            ) from None
        if not is_missing:
            warn(
                f"The native engine cannot be used, so NumPy is used instead: {reason}. {remedy}, "
                f"or set {VARIABLE}=numpy to use NumPy without this warning."
            )
        return None, reason


LIBRARY, REASON = load(os.environ.get(VARIABLE))
