"""Check where results will be written, and write them atomically."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from sklearn_conv._commands.messages import UsageError
from sklearn_conv._saving.files import check_path, replace_file

MODELS = (".joblib", ".pkl")
"""Suffixes of files with models."""


def check_output(option: str, name: str, suffixes: Collection[str]) -> Path:
    """Return the path of a file that can be written, or raise an error.

    The check comes before the work, of which some is still lost if the disk is full at the end.
    """
    if Path(name).suffix.lower() not in suffixes:
        raise UsageError(f"{option} must end in {' or '.join(suffixes)}. Got {name!r} instead.")
    check_path(name)
    return Path(name)


def write_file(path: Path, write: Callable[[Any], Any]) -> None:
    """Call a function with an opened file that replaces ``path`` when it is complete."""
    with replace_file(str(path)) as file:
        write(file)
