"""The library of the native engine: find it, check it, and describe its structures.

The library is optional. It does not depend on the version of Python, and is loaded with ctypes,
which releases the GIL during a call. ``native/core.h`` describes its interface.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_double,
    c_int64,
    c_void_p,
)
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from sklearn_conv._engine.activation import ACTIVATIONS, Function
from sklearn_conv._engine.layer import Layer
from sklearn_conv._engine.pooling import POOLINGS, Pooling

INTERFACE = 3
"""Version of the interface in ``native/core.h``."""

MAX_TILES, MAX_OUTPUTS = 8, 32
"""Limits in ``native/core.h``: tiles that use the same weights one after the other, and outputs
of a layer."""

NAME = {"win32": "sklearn_conv_core.dll", "darwin": "libsklearn_conv_core.dylib"}.get(
    sys.platform, "libsklearn_conv_core.so"
)

PATH_VARIABLE = "SKLEARN_CONV_LIBRARY"
"""Environment variable with the path of another library, for tests of the library itself."""


class OutputStruct(Structure):
    """One feature for each kernel."""

    _fields_: ClassVar = [
        ("function", c_int64),
        ("is_negative", c_int64),
        ("constant", c_void_p),
    ]


class LayerStruct(Structure):
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
        ("outputs", POINTER(OutputStruct)),
        ("n_poolings", c_int64),
        ("poolings", c_void_p),
        ("numbers", c_void_p),
        ("is_normalized", c_int64),
        ("eps", c_double),
    ]


class BandStruct(Structure):
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


class CallStruct(Structure):
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


class CodeStruct(Structure):
    """The code for an instruction set."""

    _fields_: ClassVar = [
        ("vector_bytes", c_int64),
        ("positions", c_int64),
        (
            "compute",
            CFUNCTYPE(None, POINTER(LayerStruct), POINTER(BandStruct), POINTER(CallStruct)),
        ),
    ]


class Level(NamedTuple):
    """The code of the library for an instruction set."""

    name: str
    vector_bytes: int
    positions: int
    """Number of windows of a tile."""
    compute: Callable[..., None]


class NativeLibrary:
    """A loaded library.

    Raises
    ------
    OSError
        If the file is missing, or cannot be loaded by this system, or is for another version.
    """

    def __init__(self, path: Path) -> None:
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

        def number(table: str) -> dict[str, int]:
            names = getattr(library, f"sklearn_conv_{table}")
            names.restype = c_char_p
            return {name: i for i, name in enumerate(names().decode().split())}

        functions, poolings = number("functions"), number("poolings")
        self.functions: dict[Function, int] = {
            side.function: functions[side.function.name]
            for sides in ACTIVATIONS.values()
            for side in sides.values()
            if side.function.name in functions
        }
        """Number of each function that the library has; likewise the next two tables."""
        self.poolings: dict[Pooling, int] = {
            POOLINGS[name]: i for name, i in poolings.items() if name in POOLINGS
        }
        self.pixels = {np.dtype(name): i for name, i in number("pixels").items()}
        self.pixels[np.dtype(bool)] = self.pixels[np.dtype(np.uint8)]
        self.levels: list[Level] = []
        """Instruction sets that this processor has, the best one first."""
        find_level = library.sklearn_conv_level
        find_level.restype = c_char_p
        while name := find_level(c_int64(len(self.levels)), byref(code := CodeStruct())):
            level = Level(name.decode(), code.vector_bytes, code.positions, code.compute)
            self.levels.append(level)

    def supports(self, layer: Layer) -> bool:
        """Return whether the library has the activation and the poolings of a layer."""
        return (
            len(layer.sides) * len(layer.bias) <= MAX_OUTPUTS
            and all(side.function in self.functions for side in layer.sides.values())
            and all(pooling in self.poolings for pooling in layer.poolings or ())
        )


def library_path() -> Path:
    """Return the path at which the library is expected."""
    return Path(os.environ.get(PATH_VARIABLE) or Path(__file__).with_name(NAME))


def address(array: np.ndarray) -> int:
    """Return where the numbers of an array begin."""
    start: int = array.__array_interface__["data"][0]
    return start
