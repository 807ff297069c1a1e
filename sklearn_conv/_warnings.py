"""Warnings that point to the user's code."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import joblib
import sklearn

INTERNAL = tuple(
    f"{folder}{os.sep}" for folder in (Path(__file__).parent, *sklearn.__path__, *joblib.__path__)
)
IMPORT = "<frozen importlib"
"""Frames of an import, which `warnings.warn` does not count."""


def warn(message: str) -> None:
    """Issue a UserWarning that points to the line which called into this package.

    The number of frames to skip is not constant: scikit-learn wraps ``fit`` and ``transform``
    differently in each version, and a Pipeline adds further calls.
    """
    frame, stacklevel = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith((*INTERNAL, IMPORT)):
        stacklevel += not frame.f_code.co_filename.startswith(IMPORT)
        frame = frame.f_back
    warnings.warn(message, UserWarning, stacklevel=stacklevel)
