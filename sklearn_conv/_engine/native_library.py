"""The library of the native engine: find it, check it, and describe its structures.

The library is optional. It does not depend on the version of Python, and is loaded with ctypes,
which releases the GIL during a call. ``native/core.h`` describes its interface.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_double, c_int64, c_void_p
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sklearn_conv._engine.activation import ACTIVATIONS, Function
from sklearn_conv._engine.layer import Layer
from sklearn_conv._engine.pooling import POOLINGS, Pooling

INTERFACE = 7
"""Version of the interface in ``native/core.h``."""

MAX_TILES, MAX_OUTPUTS = 8, 32
"""Limits in ``native/core.h``: tiles that use the same weights one after the other, and outputs
of a layer."""

STEP, N_TERMS = 32, 3
"""For a matrix unit, as in ``native/core.h``: numbers of a window in a tile, terms of a weight."""

GROUP = 16
"""Number of columns by which rows of features are multiplied at once, as in ``native/core.h``."""

NAME = {"win32": "sklearn_conv_core.dll", "darwin": "libsklearn_conv_core.dylib"}.get(
    sys.platform, "libsklearn_conv_core.so"
)

PATH_VARIABLE = "SKLEARN_CONV_LIBRARY"
"""Environment variable with the path of another library, for tests of the library itself."""


def _fields(names: str, **others: Any) -> list[tuple[str, Any]]:
    """Return fields of a structure: ``name`` of an integer, ``name*`` of a pointer, or others."""
    return [
        (name.rstrip("*"), others.get(name, c_void_p if name.endswith("*") else c_int64))
        for name in names.split()
    ]


class OutputStruct(Structure):
    """One feature for each kernel."""

    _fields_: ClassVar = _fields("function is_negative constant*")


class LayerStruct(Structure):
    """Weights, activation and poolings."""

    _fields_: ClassVar = _fields(
        "is_double n_channels n_weights n_kernels weights* shift* n_padded n_outputs outputs* "
        "n_poolings poolings* numbers* is_normalized eps",
        eps=c_double,
    )


class BandStruct(Structure):
    """The windows of a rectangle of the map, and the pixels under them."""

    _fields_: ClassVar = _fields(
        "n_rows rows* n_columns n_segments segments* row_step column_step numbers* n_runs runs* "
        "pieces* corner n_cells cells*"
    )


class CallStruct(Structure):
    """Images, buffers, and the place of the result."""

    _fields_: ClassVar = _fields(
        "n_images images* strides pixel out* out_strides sums* tiles* pixel_terms n_steps "
        "n_rest n_tiles pixels* windows* cell_sums*",
        strides=c_int64 * 4,
        out_strides=c_int64 * 5,
    )


class RowsStruct(Structure):
    """Rows of features, and what they are multiplied by."""

    _fields_: ClassVar = _fields(
        "pixel features* stride n_features n_rows index* n_groups columns* shift* weights* "
        "coefficients* products* sums*"
    )


class Level(Structure):
    """The code of the library for an instruction set."""

    name: str
    vector_bytes: int
    positions: int
    """Number of windows of a tile."""
    tile_windows: int
    """Number of windows of two tiles of a matrix unit, or 0 if there is none."""
    compute: Callable[..., None]
    multiply_rows: Callable[..., None]
    _fields_: ClassVar = _fields(
        "vector_bytes positions tile_windows compute multiply_rows",
        compute=CFUNCTYPE(None, POINTER(LayerStruct), POINTER(BandStruct), POINTER(CallStruct)),
        multiply_rows=CFUNCTYPE(None, POINTER(RowsStruct)),
    )


class NativeLibrary:
    """A loaded library; OSError says that it is missing, for other systems or another version."""

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
        pack = library.sklearn_conv_pack_tiles
        pack.restype = None
        pack.argtypes = [c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p]
        self.pack_tiles: Callable[..., None] = pack
        """Write weights for a matrix unit."""
        find_level = library.sklearn_conv_level
        find_level.restype = c_char_p
        while name := find_level(c_int64(len(self.levels)), byref(level := Level())):
            level.name = name.decode()
            self.levels.append(level)
        is_refused = library.sklearn_conv_is_refused
        is_refused.restype = c_int64
        self.is_refused = bool(is_refused())
        """Whether the system does not let this process use the matrix unit that there is."""

    def choose_level(self, name: str) -> None:
        """Use only the instruction set of that name, in lowercase letters and digits."""
        names = {level.name.lower().replace("-", ""): level for level in self.levels}
        if name not in names:
            choices = ", ".join(f"native-{choice}" for choice in names)
            raise LookupError(f"this processor or the library has no {name}; use {choices}")
        self.levels = [names[name]]

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
    return int(array.__array_interface__["data"][0])
