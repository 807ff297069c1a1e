"""Warnings that point to the user's code."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import joblib
import sklearn

INTERNAL = tuple(
    f"{folder}{os.sep}" for folder in (Path(__file__).parent, *sklearn.__path__, *joblib.__path__)
)
_SAID: ContextVar[set[str] | None] = ContextVar("_SAID", default=None)
"""Messages without their numbers, which `say_once` does not repeat."""


class _Everything(set[str]):
    def __contains__(self, text: object) -> bool:
        return True


EVERYTHING: set[str] = _Everything()
"""What `say_once` receives in order to leave out all warnings."""

IMPORT = "<frozen importlib"
"""Frames of an import, which `warnings.warn` does not count."""


def warn(message: str, category: type[UserWarning] = UserWarning) -> None:
    """Issue a warning that points to the line which called into this package.

    The number of frames to skip is not constant: scikit-learn wraps ``fit`` and ``transform``
    differently in each version, and a Pipeline adds further calls.
    """
    if (said := _SAID.get()) is not None:
        text = re.sub(r"[\d.,]+", "", message)
        if text in said:
            return
        said.add(text)
    frame, stacklevel = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith((*INTERNAL, IMPORT)):
        stacklevel += not frame.f_code.co_filename.startswith(IMPORT)
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=stacklevel)


@contextmanager
def say_once(said: set[str]) -> Iterator[None]:
    """Leave out warnings that differ from those in ``said`` in their numbers only."""
    token = _SAID.set(said)
    try:
        yield
    finally:
        _SAID.reset(token)
