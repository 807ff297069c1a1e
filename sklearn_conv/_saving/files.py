"""Files that are written next to their final path, and renamed when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EINVAL, EISDIR, ELOOP, ENOENT
from io import FileIO
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG
from typing import Any

CREATE = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
"""Create a new file; fail if the name exists, even as a link. Two flags depend on the system."""

SUFFIXES = ("", ".npy", ".parquet")
"""Suffixes of files, in lower case."""

IS_FOLDER = "This path is a folder; add the name of a file"


class NewFile(FileIO):
    """A file that is opened for writing."""

    def write(self, data: Any) -> int:
        """Write all bytes; a single call of the system may write only some of them."""
        rest = memoryview(data).cast("B")
        length = len(rest)
        while rest:
            rest = rest[super().write(rest) :]
        return length


def check_path(path: Any) -> tuple[Path, int | None]:
    """Return the absolute path of the file, and its permissions if it exists.

    Raise an error if no file may be written there, or if its suffix is not one of `SUFFIXES`.
    """
    name = os.fsdecode(path)
    target = Path(name).absolute()
    if target.suffix.lower() not in SUFFIXES:
        others = [str(Path(name).with_suffix(suffix)) for suffix in SUFFIXES[1:]]
        raise ValueError(
            f"save_batches writes the formats .npy and .parquet, but path={name!r} ends in "
            f"{target.suffix!r}; use {' or '.join(map(repr, others))}. To write another format, "
            "pass the batches to a library that supports it."
        )
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise FileNotFoundError(
                ENOENT, "The folder of this path does not exist; create it first", name
            ) from None
        if name.endswith((os.sep, os.altsep or os.sep)):
            raise IsADirectoryError(EISDIR, IS_FOLDER, name) from None
        return target, None
    if S_ISDIR(mode):
        raise IsADirectoryError(EISDIR, IS_FOLDER, name)
    if S_ISLNK(mode):
        raise OSError(
            ELOOP,
            "This path is a symbolic link, which save_batches does not follow; pass the path to "
            f"which it refers, {os.path.realpath(target)!r}",
            name,
        )
    if not S_ISREG(mode):
        raise OSError(EINVAL, "This path is not a regular file; choose another path", name)
    if not os.access(target, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(EACCES, "This file may not be overwritten", name)
    return target, S_IMODE(mode) & 0o777


@contextmanager
def replace_file(target: Path, mode: int | None) -> Iterator[NewFile]:
    """Open a temporary file that replaces ``target`` at the end, or is removed after an error.

    ``mode`` are the permissions of the file that it replaces, or None.
    """
    # The name is random, so that writers of the same file and links that others created are not in
    # the way. Its beginning shows to which file a part belongs if the process was killed.
    part = target.with_name(f"{target.name[:32]}.{token_hex(8)}.part")
    try:
        # The permissions are passed to os.open, so that they are never wider than the final ones.
        descriptor = os.open(part, CREATE, 0o666 if mode is None else mode)
    except OSError as error:  # Its path is that of the temporary file.
        raise OSError(error.errno, error.strerror, str(target)) from error
    try:
        with NewFile(descriptor, "w") as file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(descriptor, mode)  # os.open removes the bits of the umask.
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def state_rows(n: int, target: Path) -> Iterator[None]:
    """Add the path and the number of rows to errors of the file."""
    try:
        yield
    except OSError as error:
        message = f"{error.strerror} after {n} rows, which have been removed"
        raise OSError(error.errno, message, str(target)) from error
