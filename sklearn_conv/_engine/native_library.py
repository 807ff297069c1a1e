"""The library of the native engine: find it, check it, and describe its structures.

The library is optional. It does not depend on the version of Python, and is loaded with ctypes,
which releases the GIL during a call. ``native/core.h`` describes its interface.
"""

from __future__ import annotations

import os
import platform
import struct
import sys
from ctypes import CDLL, POINTER, Structure, c_char_p, c_double, c_int64, c_void_p
from pathlib import Path
from typing import ClassVar, NamedTuple

INTERFACE = 2
"""Version of the interface in ``native/core.h``."""

NAME = {"win32": "sklearn_conv_core.dll", "darwin": "libsklearn_conv_core.dylib"}.get(
    sys.platform, "libsklearn_conv_core.so"
)

MACHINES = {"x86_64": 62, "aarch64": 183}
"""Numbers of processors in the header of an ELF file."""

PATH_VARIABLE = "SKLEARN_CONV_LIBRARY"
"""Environment variable with the path of another library, for tests of the library itself."""


class Output(Structure):
    """One feature for each kernel."""

    _fields_: ClassVar = [
        ("function", c_int64),
        ("is_negative", c_int64),
        ("constant", c_void_p),
    ]


class Layer(Structure):
    """Weights, activation and poolings."""

    _fields_: ClassVar = [
        ("is_double", c_int64),
        ("n_channels", c_int64),
        ("n_weights", c_int64),
        ("n_kernels", c_int64),
        ("weights", c_void_p),
        ("shift", c_void_p),
        ("n_padded", c_int64),
        ("n_outputs", c_int64),
        ("outputs", POINTER(Output)),
        ("n_poolings", c_int64),
        ("poolings", c_void_p),
        ("numbers", c_void_p),
        ("is_normalized", c_int64),
        ("eps", c_double),
    ]


class Band(Structure):
    """The windows of a rectangle of the map, and the pixels under them."""

    _fields_: ClassVar = [
        ("n_rows", c_int64),
        ("rows", c_void_p),
        ("n_columns", c_int64),
        ("n_segments", c_int64),
        ("segments", c_void_p),
        ("row_step", c_int64),
        ("column_step", c_int64),
        ("numbers", c_void_p),
        ("n_runs", c_int64),
        ("runs", c_void_p),
        ("corner", c_int64),
        ("n_cells", c_int64),
        ("cells", c_void_p),
    ]


class Call(Structure):
    """Images, buffers, and the place of the result."""

    _fields_: ClassVar = [
        ("n_images", c_int64),
        ("images", c_void_p),
        ("strides", c_int64 * 4),
        ("pixel", c_int64),
        ("out", c_void_p),
        ("out_strides", c_int64 * 5),
        ("sums", c_void_p),
        ("n_tiles", c_int64),
        ("pixels", c_void_p),
        ("windows", c_void_p),
        ("cell_sums", c_void_p),
    ]


class Level(NamedTuple):
    """The code of the library for an instruction set."""

    number: int
    name: str
    vector_bytes: int
    positions: int
    """Number of windows of a tile."""


class Library:
    """A loaded library.

    Raises
    ------
    OSError
        If the file is missing or incomplete, or made for another system or another version.
    """

    def __init__(self, path: Path) -> None:
        _check_length(path)
        library = CDLL(str(path))
        try:
            library.sklearn_conv_interface.restype = c_int64
            interface = library.sklearn_conv_interface()
        except AttributeError:
            raise OSError(f"{path} is not a library of sklearn_conv") from None
        if interface != INTERFACE:
            raise OSError(
                f"{path} has version {interface} of the interface, but version {INTERFACE} is "
                "needed"
            )
        self.path = path
        self.compute = library.sklearn_conv_compute
        self.compute.argtypes = [c_int64, POINTER(Layer), POINTER(Band), POINTER(Call)]
        self.compute.restype = c_int64
        library.sklearn_conv_level_name.restype = c_char_p
        numbers = ("n_levels", "level_runs", "vector_bytes", "positions")
        for function in (getattr(library, f"sklearn_conv_{name}") for name in numbers):
            function.restype = c_int64
        self.levels = [
            Level(
                number,
                library.sklearn_conv_level_name(c_int64(number)).decode(),
                library.sklearn_conv_vector_bytes(c_int64(number)),
                library.sklearn_conv_positions(c_int64(number)),
            )
            for number in range(library.sklearn_conv_n_levels())
            if library.sklearn_conv_level_runs(c_int64(number))
        ]
        """Instruction sets that this processor has, the best one first."""


def library_path() -> Path:
    """Return the path at which the library is expected."""
    return Path(os.environ.get(PATH_VARIABLE) or Path(__file__).with_name(NAME))


def _check_length(path: Path) -> None:
    """Raise OSError if an ELF library is for another processor, or shorter than its headers say.

    The system says of the former that the file does not exist, and ends the process when it reads
    a part that is missing.
    """
    with path.open("rb") as file:
        header = file.read(64)
        length = file.seek(0, os.SEEK_END)
        if not header.startswith(b"\x7fELF\x02\x01"):  # 64 bits, little-endian
            if platform.system() == "Linux":
                raise OSError(f"{path} is not a library for this system")
            return
        needed = len(header)
        if length >= needed:
            machine = int.from_bytes(header[18:20], "little")
            if machine != MACHINES.get(platform.machine(), machine):
                raise OSError(f"{path} is a library for another processor")
            segments, sections = struct.unpack_from("<QQ", header, 32)
            sizes = struct.unpack_from("<5H", header, 54)
            needed = max(needed, segments + sizes[0] * sizes[1], sections + sizes[2] * sizes[3])
        if length >= needed:
            file.seek(segments)
            for _ in range(sizes[1]):
                _, _, offset, _, _, n_bytes, _, _ = struct.unpack("<2I6Q", file.read(56))
                needed = max(needed, offset + n_bytes)
    if length < needed:
        raise OSError(f"{path} is incomplete: it has {length:,} bytes, and its headers name more")
