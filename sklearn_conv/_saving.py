"""`save_batches`: features that do not fit into memory, on a disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from errno import ENOSPC
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.lib import format as npy


def save_batches(
    path: str | os.PathLike[str], batches: Iterable[tuple[slice, np.ndarray]]
) -> np.memmap:
    """Write batches of rows to a .npy file, which is there when it is whole, or not at all.

    Parameters
    ----------
    path : str or path-like
        Where to write; a file of that name is replaced at the end. Until then rows go to a file
        beside it, whose name ends in ".part". Say ".npy" yourself.
    batches : iterable of (slice, ndarray)
        As `StridedConv2DTransformer.transform_batches` yields them: each slice begins where the one
        before it ended, and the arrays differ in the number of rows at most.

    Returns
    -------
    features : numpy.memmap
        All rows, read-only and on the disk, as ``numpy.load(path, mmap_mode="r")`` gives them.

    Raises
    ------
    OSError
        If the file can't be written, on a full disk perhaps. Whatever is raised, by ``batches``,
        too, no part of a file is left behind.
    ValueError
        If batches do not follow each other, differ in shape or dtype, or there are none.

    See Also
    --------
    StridedConv2DTransformer.transform_batches : Compute them.

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
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    n, first = 0, None
    try:
        with part.open("wb") as file:
            for rows, batch in batches:
                first = batch[:0] if first is None else first
                if (rows.start, rows.stop) != (n, n + len(batch)):
                    raise ValueError(
                        f"Batches must follow each other: {n} rows were written, then came "
                        f"{len(batch)} as {rows}."
                    )
                if (batch.shape[1:], batch.dtype) != (first.shape[1:], first.dtype):
                    raise ValueError(
                        f"Batches must be alike: the first one was {first.dtype}, of shape "
                        f"(rows, {str(first.shape[1:])[1:]}, then came {batch.dtype} of shape "
                        f"{batch.shape}."
                    )
                if n == 0:
                    file.write(bytes(len(_header(first, 0))))  # no header: the file is not whole
                file.write(np.ascontiguousarray(batch).data.cast("B"))
                n = rows.stop
            if first is None:
                raise ValueError("There are no batches to save.")
            file.seek(0)
            file.write(_header(first, n))  # as long as the first one
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        message = f"{os.strerror(ENOSPC)} after {n} rows, which are no longer there"
        raise OSError(ENOSPC, message, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _header(batch: np.ndarray, n: int) -> bytes:
    """Make the header of a .npy file of n rows; NumPy leaves room in it for n to grow."""
    header = BytesIO()
    fields = {"shape": (n, *batch.shape[1:]), "fortran_order": False}
    npy.write_array_header_1_0(header, fields | {"descr": npy.dtype_to_descr(batch.dtype)})
    return header.getvalue()
