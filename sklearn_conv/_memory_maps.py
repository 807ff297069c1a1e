"""Check arrays in memory maps before they are read: reading a truncated file ends the process."""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from errno import EFAULT
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds


def check_memory_map(value: Any) -> None:
    """Raise OSError if the memory of an array is a file that was truncated after it was mapped.

    ``value`` is an array or a list of arrays; other values are not checked. Every array that a user
    passes has to be checked before it is read. The check follows the arrays and buffers of which
    the array is a view, so it does not depend on the type of the array.
    """
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], list | tuple | np.ndarray):  # It is not a row of numbers.
            for item in value:
                check_memory_map(item)
    elif isinstance(value, np.ndarray) and value.size:
        _check_array(value)


def _check_array(array: np.ndarray) -> None:
    offset, name = 0, None
    base: Any = array
    while (parent := _parent(base)) is not None:
        if isinstance(base, np.memmap):
            offset, name = base.offset, base.filename
        base = parent
    if isinstance(base, np.ndarray | bytes | bytearray):
        return  # The array is in ordinary memory.
    if isinstance(base, mmap.mmap):
        # If NumPy did not map the file, the offset in the file is unknown and assumed to be 0.
        needed = offset - offset % mmap.ALLOCATIONGRANULARITY + len(base)
        size = needed
        with suppress(OSError, ValueError):  # Memory without a file, or its file is not open.
            size = base.size()
        if size < needed:
            raise _truncated(name, f"it has {size} bytes, but the map needs {needed}")
    if not _is_readable(byte_bounds(array)[1] - 1):
        raise _truncated(name, f"it does not contain the whole array of shape {array.shape}")


def _parent(base: Any) -> Any:
    """Return the object whose memory an array or a buffer uses; None if it has its own memory."""
    if isinstance(base, memoryview):
        return base.obj
    # Strided views refer to an object that is not an array, but has the interface of arrays.
    return getattr(base, "base", None) if hasattr(base, "__array_interface__") else None


def _is_readable(address: int) -> bool:
    """Return whether a byte can be read; the kernel reports an error instead of a signal."""
    try:
        reader, writer = os.pipe()
    except OSError:  # There are too many open files.
        return True
    try:
        os.write(writer, (ctypes.c_char * 1).from_address(address))
    except OSError as error:
        return error.errno != EFAULT
    finally:
        os.close(reader)
        os.close(writer)
    return True


def _truncated(name: Any, reason: str) -> OSError:
    return OSError(
        f"{name or 'The file'} was truncated after it had been mapped to memory: {reason}. Write "
        "the file again."
    )
