"""`save_batches`: write features that do not fit into memory to a .npy file."""

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
    """Write batches of rows to a .npy file atomically.

    Parameters
    ----------
    path : str or path-like
        Path of the file. The suffix ".npy" is not added automatically. Rows are first written to a
        temporary file in the same folder, whose name ends in ".part". At the end this file is
        renamed to ``path``, which replaces an existing file.
    batches : iterable of (slice, ndarray)
        Batches as yielded by `StridedConv2DTransformer.transform_batches`: the first slice begins
        at 0, each other slice begins where the previous one ended, and the arrays differ only in
        their number of rows.

    Returns
    -------
    features : numpy.memmap
        Read-only memory map of all rows, as returned by ``numpy.load(path, mmap_mode="r")``.

    Raises
    ------
    OSError
        If the file cannot be written, for example because the disk is full. After any error,
        including an error raised by ``batches``, no partial file is left behind.
    ValueError
        If batches are not consecutive, if they differ in dtype or in the shape of their rows, or if
        there are none.

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
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    n, first = 0, None
    try:
        with part.open("wb") as file:
            for rows, batch in batches:
                first = batch[:0] if first is None else first
                if (rows.start, rows.stop) != (n, n + len(batch)):
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
                if n == 0:
                    # Zeros take the place of the header, so that a partial file cannot be loaded.
                    file.write(bytes(len(_header(first, 0))))
                file.write(np.ascontiguousarray(batch).data.cast("B"))
                n = rows.stop
            if first is None:
                raise ValueError("There are no batches to save.")
            file.seek(0)
            file.write(_header(first, n))  # It has the length of the zeros.
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        message = f"{os.strerror(ENOSPC)} after {n} rows, which have been removed"
        raise OSError(ENOSPC, message, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _header(batch: np.ndarray, n: int) -> bytes:
    """Return the header of a .npy file with n rows; its length does not depend on n."""
    header = BytesIO()
    fields = {"shape": (n, *batch.shape[1:]), "fortran_order": False}
    npy.write_array_header_1_0(header, fields | {"descr": npy.dtype_to_descr(batch.dtype)})
    return header.getvalue()
