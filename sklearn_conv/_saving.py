"""`save_batches`: write features that do not fit into memory to a .npy file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EACCES, EINVAL, EISDIR, ELOOP, ENOENT
from io import BytesIO, FileIO
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG
from typing import Any

import numpy as np
from numpy.lib import format as npy

from sklearn_conv._memory_maps import check_memory_map

CREATE = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
"""Create a new file; fail if the name exists, even as a link. Two flags depend on the system."""

IS_FOLDER = "This path is a folder; add the name of a file"


def save_batches(
    path: str | os.PathLike[str], batches: Iterable[tuple[slice, np.ndarray]]
) -> np.memmap:
    """Write batches of rows to a .npy file atomically.

    Parameters
    ----------
    path : str or path-like
        Path of the file. Its suffix must be ".npy", or it must have none; none is added. The path
        is checked before the first batch is computed: its folder must exist and be writable, and it
        must not be a folder, a symbolic link or a file that may not be overwritten. Rows are first
        written to a new file with a random name that ends in ".part", in the same folder. At the
        end this file is renamed to ``path``, which replaces an existing file and keeps its
        permissions. If several threads or processes write to the same path, each writes its own
        temporary file, and the file of the last one remains.
    batches : iterable of (slice, ndarray)
        Batches as yielded by `StridedConv2DTransformer.transform_batches`: the first slice begins
        at 0, each other slice begins where the previous one ended, and the arrays contain numbers
        and differ only in their number of rows.

    Returns
    -------
    features : numpy.memmap
        Read-only memory map of all rows, as returned by ``numpy.load(path, mmap_mode="r")``.

    Raises
    ------
    OSError
        If the file cannot be written, for example because the folder does not exist, because
        ``path`` is a folder or a symbolic link, or because the disk is full. After any error,
        including an error raised by ``batches``, no temporary file is left behind.
    TypeError
        If ``batches`` does not yield pairs of a slice and an array of numbers.
    ValueError
        If ``path`` has another suffix, if batches are not consecutive, if they differ in dtype or
        in the shape of their rows, if a batch is empty, or if there are no batches.

    See Also
    --------
    StridedConv2DTransformer.transform_batches : Compute the batches.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_conv import StridedConv2DTransformer, save_batches
    >>> images = load_digits().images
    >>> transformer = StridedConv2DTransformer(random_state=0).fit(images)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "features.npy"
    ...     features = save_batches(path, transformer.transform_batches(images))
    ...     print(features.shape, features.dtype, bool((features[-1] > 0).any()))
    ...     del features
    (1797, 256) float64 True
    """
    target, mode = _check_path(path)
    # The name is random, so that writers of the same file and links that others created are not in
    # the way. Its beginning shows to which file a part belongs if the process was killed.
    part = target.with_name(f"{target.name[:32]}.{token_hex(8)}.part")
    n, first = 0, None
    file = _create(part, mode, target)
    try:
        with file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)  # `_create` removes the bits of the umask.
            for rows, batch in map(_check_pair, batches):
                first = batch[:0] if first is None else first
                if (rows.start, rows.stop) != (n, n + len(batch)) or rows.step not in (None, 1):
                    raise ValueError(
                        f"Batches must follow each other: {n} rows were written, but the next "
                        f"batch has {len(batch)} rows and the slice {rows}."
                    )
                if (batch.shape[1:], batch.dtype) != (first.shape[1:], first.dtype):
                    raise ValueError(
                        f"Batches must have the same dtype and shape, except for their number of "
                        f"rows: the first one is {first.dtype} of shape (rows, "
                        f"{str(first.shape[1:])[1:]}, but a later one is {batch.dtype} of shape "
                        f"{batch.shape}."
                    )
                with _state_rows(n, target):
                    if n == 0:
                        # Zeros take the place of the header, so a partial file cannot be loaded.
                        _write(file, bytes(len(_header(first, 0))))
                    _write(file, np.ascontiguousarray(batch).reshape(-1).view(np.uint8).data)
                n += len(batch)
            if first is None:
                raise ValueError("There are no batches to save.")
            with _state_rows(n, target):
                file.seek(0)
                _write(file, _header(first, n))  # It has the length of the zeros.
                os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return _map_rows(target)


def _check_path(path: Any) -> tuple[Path, int | None]:
    """Return the absolute path of the file, and its permissions if it exists.

    Raise an error if no .npy file may be written there.
    """
    name = os.fsdecode(path)
    target = Path(name).absolute()
    if target.suffix.lower() not in ("", ".npy"):
        raise ValueError(
            f"save_batches writes files in NumPy's format .npy, but path={name!r} ends in "
            f"{target.suffix!r}; use {str(Path(name).with_suffix('.npy'))!r}. To write another "
            "format, pass the batches to a library that supports it."
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


def _create(part: Path, mode: int | None, target: Path) -> FileIO:
    """Create the temporary file, with the permissions of the file that it will replace."""
    try:
        # The permissions are passed to os.open, so that they are never wider than the final ones.
        descriptor = os.open(part, CREATE, 0o666 if mode is None else mode)
    except OSError as error:  # Its path is that of the temporary file.
        raise OSError(error.errno, error.strerror, str(target)) from error
    return FileIO(descriptor, "w")


def _write(file: FileIO, data: bytes | memoryview) -> None:
    """Write all bytes; a single call may write only some of them."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def _state_rows(n: int, target: Path) -> Iterator[None]:
    """Add the path and the number of rows to errors of the file."""
    try:
        yield
    except OSError as error:
        message = f"{error.strerror} after {n} rows, which have been removed"
        raise OSError(error.errno, message, str(target)) from error


def _check_pair(item: Any) -> tuple[slice, np.ndarray]:
    """Return the rows and the array of a batch after checking them."""
    if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], slice)):
        raise TypeError(
            "batches must yield pairs of a slice and an array, as transform_batches does. Got "
            f"{type(item).__name__} instead; save a single array with numpy.save."
        )
    rows, batch = item
    if not isinstance(batch, np.ndarray):
        raise TypeError(
            f"Batches must be NumPy arrays. Got {type(batch).__name__} instead for {rows}; convert "
            "it with numpy.asarray."
        )
    if batch.dtype.kind not in "biufc":
        raise TypeError(
            f"Batches must contain numbers. Got dtype {batch.dtype} for {rows}; convert "
            "them to numbers."
        )
    if batch.size == 0 or batch.ndim == 0:
        raise ValueError(
            f"Each batch must have rows and features. Got shape {batch.shape} for {rows}."
        )
    if np.ma.is_masked(batch):
        raise ValueError(f"The batch of {rows} has masked values; fill them first.")
    check_memory_map(batch)
    return rows, batch


def _map_rows(path: str | os.PathLike[str]) -> np.memmap:
    """Return the rows of a file as `numpy.load` maps them, but open the file only once.

    Between two openings, another process may replace it by a file with another header.
    """
    with open(path, "rb") as file:
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        return np.memmap(file, dtype, "r", file.tell(), shape)


def _header(batch: np.ndarray, n: int) -> bytes:
    """Return the header of a .npy file with n rows; its length does not depend on n."""
    header = BytesIO()
    fields = {"shape": (n, *batch.shape[1:]), "fortran_order": False}
    npy.write_array_header_1_0(header, fields | {"descr": npy.dtype_to_descr(batch.dtype)})
    return header.getvalue()
