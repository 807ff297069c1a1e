"""Check where results will be written, and write them atomically."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from errno import EACCES, EINVAL, EISDIR, ENOENT
from pathlib import Path
from stat import S_IMODE
from typing import Any

from sklearn_conv._commands.messages import UsageError
from sklearn_conv._saving.files import replace_file

MODELS = (".joblib", ".pkl")
"""Suffixes of files with models."""


def check_output(option: str, name: str, suffixes: Collection[str]) -> Path:
    """Return the path of a file that can be written, or raise an error.

    The check comes before the work, of which some is still lost if the disk is full at the end.
    """
    path = Path(name)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} must end in {' or '.join(suffixes)}. Got {name!r} instead.")
    if path.is_dir():
        raise IsADirectoryError(EISDIR, "This path is a folder; add the name of a file", name)
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "The folder of this path does not exist", name)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        problem = "This path is a symbolic link or a device; pass the path of a file"
        raise OSError(EINVAL, problem, name)
    for needed, problem in [
        (path.parent, "The folder of this path is not writable"),
        (path, "This file may not be overwritten"),
    ]:
        if needed.exists() and not os.access(needed, os.W_OK):
            raise PermissionError(EACCES, problem, name)
    return path


def write_file(path: Path, write: Callable[[Any], Any]) -> None:
    """Call a function with an opened file that replaces ``path`` when it is complete."""
    target = path.absolute()
    mode = S_IMODE(target.stat().st_mode) if target.exists() else None
    with replace_file(target, mode) as file:
        write(file)
        os.fsync(file.fileno())
