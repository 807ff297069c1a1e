"""Check arrays in memory maps before they are read: reading a truncated file ends the process."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np


def check_memory_map(value: Any) -> None:
    """Raise OSError if the memory of an array is a file that was truncated after it was mapped.

    ``value`` is an array or a list of arrays; other values are not checked. Arrays are checked
    where they enter this package. The check follows the arrays and buffers of which the array is a
    view, so it does not depend on the type of the array.
    """
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == object:
        value = value.tolist()
    if (
        isinstance(value, list | tuple)
        and value
        and isinstance(value[0], list | tuple | np.ndarray)
    ):
        for item in value:
            check_memory_map(item)
    offset, name, base = 0, None, value if isinstance(value, np.ndarray) else None
    while isinstance(base, memoryview) or hasattr(base, "__array_interface__"):
        if isinstance(base, np.memmap):
            offset, name = base.offset, base.filename
        # Strided views refer to an object that is not an array, but has the interface of arrays.
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    if not isinstance(base, mmap.mmap):
        return
    try:
        size = base.size()
    except (OSError, ValueError):  # It is memory without a file, or its file is not open.
        return
    # If NumPy did not map the file, the offset in the file is unknown and assumed to be 0.
    needed = offset - offset % mmap.ALLOCATIONGRANULARITY + len(base)
    if size < needed:
        raise OSError(
            f"{name or 'The file'} was truncated after it had been mapped to memory: it has {size} "
            f"bytes, but the map needs {needed}. Write the file again."
        )
