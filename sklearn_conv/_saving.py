"""`save_batches`: write features that do not fit into memory to a file."""

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
        Path of the file. The suffix ".npy" is not added automatically. Rows are written to a file
        beside it, whose name ends in ".part", which replaces a file of that name at the end.
    batches : iterable of (slice, ndarray)
        Batches as yielded by `StridedConv2DTransformer.transform_batches`: each slice begins where
        the previous one ended, and the arrays differ only in their number of rows.

    Returns
    -------
    features : numpy.memmap
        All rows, as a read-only memory map: ``numpy.load(path, mmap_mode="r")``.

    Raises
    ------
    OSError
        If the file cannot be written, for example because the disk is full. After any error, also
        one raised by ``batches``, no partial file is left behind.
    ValueError
        If batches do not follow each other or differ in shape or dtype, or if there are none.

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
                        f"Batches must follow each other: {n} rows were written, then came "
                        f"{len(batch)} as {rows}."
                    )
                if (batch.shape[1:], batch.dtype) != (first.shape[1:], first.dtype):
                    raise ValueError(
                        f"Batches must have the same dtype and shape, except for their number of "
                        f"rows: the first one was {first.dtype} of shape (rows, "
                        f"{str(first.shape[1:])[1:]}, then came {batch.dtype} of shape "
                        f"{batch.shape}."
                    )
                if n == 0:
                    # Zeros instead of a header, so that a partial file cannot be loaded.
                    file.write(bytes(len(_header(first, 0))))
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
