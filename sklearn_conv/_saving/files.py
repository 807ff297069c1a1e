"""Files that are written next to their final path, and renamed when they are complete."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EINVAL, EISDIR, ELOOP, ENOENT
from io import FileIO
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG
from typing import Any

if sys.platform != "win32":
    import fcntl


class NewFile(FileIO):
    """A file that is opened for writing; errors name ``target``, its final path."""

    target: Path
    progress = ""
    """What errors say besides, such as the number of rows that were written."""

    def write(self, data: Any) -> int:
        """Write all bytes; a single call of the system may write only some of them."""
        rest = memoryview(data).cast("B")
        length = len(rest)
        with self.named_errors():
            while rest:
                rest = rest[super().write(rest) :]
        return length

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Let errors name the final path."""
        try:
            yield
        except OSError as error:
            problem = f"{error.strerror}{self.progress}"
            raise OSError(error.errno, problem, str(self.target)) from error


def check_path(path: str) -> tuple[Path, int | None]:
    """Return the absolute path of a file that can be written, and its permissions if it exists."""
    target = Path(path).absolute()
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        mode = None
    by_user = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    if mode is None and not target.parent.is_dir():
        number, problem = ENOENT, "The folder of this path does not exist; create it first"
    elif path.endswith((os.sep, os.altsep or os.sep)) if mode is None else S_ISDIR(mode):
        number, problem = EISDIR, "This path is a folder; add the name of a file"
    elif mode is not None and S_ISLNK(mode):
        number = ELOOP
        problem = "This path is a symbolic link, which is not followed; pass the path to which it "
        problem += f"refers, {os.path.realpath(target)!r}"
    elif mode is not None and not S_ISREG(mode):
        number, problem = EINVAL, "This path is not a regular file; choose another path"
    elif not os.access(target.parent, os.W_OK, **by_user):
        number, problem = EACCES, "The folder of this path is not writable"
    elif mode is not None and not os.access(target, os.W_OK, **by_user):
        number, problem = EACCES, "This file may not be overwritten"
    else:
        return target, None if mode is None else S_IMODE(mode) & 0o777
    raise OSError(number, problem, path)  # Python chooses the subclass for the number.


@contextmanager
def replace_file(path: str) -> Iterator[NewFile]:
    """Open a temporary file that replaces ``path`` at the end, or is removed after an error."""
    target, mode = check_path(path)
    # The name is random, so that writers of the same file and links that others created are not in
    # the way. Its beginning shows to which file a part belongs if the process was killed.
    beginning = target.name[:32]
    part = target.with_name(f"{beginning}.{token_hex(8)}.part")
    # The permissions are passed to os.open, so that they are never wider than the final ones.
    permissions = 0o666 if mode is None else mode
    _remove_left_parts(target.parent, beginning)
    is_new = True
    try:
        try:
            file = NewFile(part, "x", opener=lambda name, flags: os.open(name, flags, permissions))
        except OSError as error:  # Its path is that of the temporary file.
            is_new = not isinstance(error, FileExistsError)
            raise OSError(error.errno, error.strerror, str(target)) from error
        with file:
            file.target = target
            with suppress(OSError):  # Some network drives have no locks.
                _lock(file)
                file.write(b"\0")  # From now on, the file is removed if it is not locked.
                file.seek(0)
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)  # os.open removes the bits of the umask.
            yield file
            with file.named_errors():
                os.fsync(file.fileno())
        part.replace(target)
    finally:
        if is_new:
            part.unlink(missing_ok=True)


def _lock(file: FileIO) -> None:
    """Lock a file as long as it is open; raise OSError if another process has locked it."""
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_left_parts(folder: Path, beginning: str) -> None:
    """Remove the temporary files of processes that were killed, which are no longer locked."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    name = re.compile(rf"{re.escape(beginning)}\.[0-9a-f]{{16}}\.part")
    with suppress(OSError):
        for part in filter(name.fullmatch, os.listdir(folder)):
            with suppress(OSError):
                if sys.platform == "win32":  # It does not remove files that are open.
                    (folder / part).unlink()
                    continue
                with FileIO(folder / part, opener=lambda path, _: os.open(path, flags)) as file:
                    _lock(file)
                    if os.fstat(file.fileno()).st_size:  # An empty file is about to be locked.
                        (folder / part).unlink()
