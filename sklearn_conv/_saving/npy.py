"""Write and map .npy files."""

from __future__ import annotations

import os
from io import BytesIO

import numpy as np
from numpy.lib import format as npy

from sklearn_conv._saving.files import NewFile


class NpyWriter:
    """Write batches of rows to a .npy file."""

    def __init__(self, file: NewFile, first: np.ndarray) -> None:
        self._file = file
        self._first = first
        # Zeros take the place of the header, so a partial file cannot be loaded.
        file.write(bytes(len(_header(first, 0))))

    def write(self, batch: np.ndarray) -> None:
        """Write a batch."""
        self._file.write(np.ascontiguousarray(batch).reshape(-1).view(np.uint8).data)

    def finish(self, n: int) -> None:
        """Write the header, which has the length of the zeros, for n rows."""
        self._file.seek(0)
        self._file.write(_header(self._first, n))

    def abort(self) -> None:
        """Do nothing: the file is removed."""


def map_rows(path: str | os.PathLike[str]) -> np.memmap:
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
