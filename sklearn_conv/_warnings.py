"""Warnings that point to the user's code."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import joblib
import sklearn

INTERNAL = (
    *(str(folder) for folder in (Path(__file__).parent, *sklearn.__path__, *joblib.__path__)),
    "<frozen importlib",  # when this package is imported
)


def warn(message: str) -> None:
    """Issue a UserWarning that points to the line which called into this package.

    The number of frames to skip is not constant: scikit-learn wraps ``fit`` and ``transform``
    differently in each version, and a Pipeline adds further calls.
    """
    frame, stacklevel = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INTERNAL):
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(message, UserWarning, stacklevel=stacklevel)
