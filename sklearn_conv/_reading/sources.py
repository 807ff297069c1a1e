"""Find the images of a source: a folder, a pattern, a column of paths, or images in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._reading.opened import import_reader
from sklearn_conv._reading.sizes import list_some
from sklearn_conv._warnings import warn

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".btf", ".gif", ".webp"),
    *(".bmp", ".dib", ".jp2", ".j2k", ".jpx", ".avif", ".pbm", ".pgm", ".ppm", ".pnm", ".tga"),
)
"""Suffixes of the files of a folder that are read, in lower case."""

SOURCES = (
    "a folder, a pattern such as 'pictures/*.png', a list, an array or a column of paths, or a "
    "list of images in memory: arrays, images of Pillow, or the bytes of files"
)


class Source(NamedTuple):
    """Images that were found."""

    items: np.ndarray
    """Paths as strings, or objects: arrays, images of Pillow, or bytes of files; (n,)."""
    labels: np.ndarray | None
    """Names of the class folders, (n,)."""

    @property
    def has_paths(self) -> bool:
        """Whether the items are paths."""
        return self.items.dtype.kind == "U"

    def item(self, i: int) -> Any:
        """Return a path, or an image in memory."""
        return str(self.items[i]) if self.has_paths else self.items[i]

    def name(self, i: int) -> str:
        """Return what stands for an image in errors."""
        return repr(self.item(i)) if self.has_paths else f"image {i}"


def find_images(source: Any) -> Source:
    """Find the images of a source that is not a column of a table, in a stable order."""
    if not isinstance(source, str | PathLike):
        return find_in_sequence(source, "source")
    path = os.path.expanduser(os.fsdecode(source))
    if os.path.isdir(path):
        return _find_in_folder(path)
    if os.path.lexists(path):
        return Source(np.array([path]), None)
    if not has_magic(path):
        raise FileNotFoundError(
            f"{path!r} does not exist; source must be {SOURCES}. Relative paths start at "
            f"{os.getcwd()!r}."
        )
    matched = glob(path, recursive=True)
    found = sorted((name for name in matched if not os.path.isdir(name)), key=_key)
    if not found:
        number = f"{len(matched)} folder{'s' * (len(matched) > 1)}, but no files" if matched else ""
        remedy = "; append '/*' for the files in them" if matched else ""
        raise FileNotFoundError(f"The pattern {path!r} matches {number or 'no files'}{remedy}.")
    return Source(np.array(found), None)


def find_in_sequence(source: Any, name: str) -> Source:
    """Return the images of a list, an array, or a column of a table; ``name`` stands for it."""
    values = _as_list(source, name)
    if not values:
        raise ValueError(f"{name} contains no images; it must be {SOURCES}.")
    missing = [i for i, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise ValueError(
            f"{name} has missing values in {len(missing)} of {len(values)} rows, counted from 0: "
            f"{list_some(map(str, missing))}. Drop these rows first, for example with "
            "table.dropna(subset=['path'])."
        )
    if isinstance(values[0], str | PathLike):
        for i, value in enumerate(values):
            if not isinstance(value, str | PathLike):
                raise TypeError(
                    f"{name}[0] is a path, but {name}[{i}] is of type {type(value).__name__}; pass "
                    "either paths or images."
                )
        return Source(np.array([os.fsdecode(value) for value in values]), None)
    items = np.empty(len(values), object)
    for i, value in enumerate(values):
        items[i] = _as_image(value, f"{name}[{i}]", name)
    return Source(items, None)


def _as_list(source: Any, name: str) -> list[Any]:
    """Return the elements of a sequence."""
    shape: Any = getattr(source, "shape", None)
    is_table = hasattr(source, "columns")
    is_column = isinstance(source, np.ndarray) and source.dtype.kind in "OUT"
    if (is_table or is_column) and len(shape) == 2:
        if shape[1] != 1:
            raise ValueError(
                f"{name} has {shape[1]} columns; pass one column of paths, for example "
                "table['path']."
            )
        source = source[source.columns[0]] if is_table else source[:, 0]
    if name == "X" and isinstance(source, str | PathLike):
        raise TypeError(
            f"X must be a list, an array or a column of paths. Got {source!r:.200} instead; pass "
            "the paths in it, read_images(...).paths, or a list of one path."
        )
    is_sequence = isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray)
    if not is_sequence and not (isinstance(shape, tuple) and shape):
        raise TypeError(f"{name} must be {SOURCES}. Got {source!r:.200} instead.")
    if isinstance(source, np.ndarray) and source.dtype.kind not in "OUT" and source.ndim < 3:
        raise TypeError(
            f"{name} must be {SOURCES}. Got an array of shape {shape} and dtype {source.dtype} "
            "instead; pass a single image as a list, [image]."
        )
    return list(source)


def _is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, NA or NaT of any library, or an empty path."""
    if value is None or isinstance(value, str):
        return not value
    is_nan = isinstance(value, float) and value != value
    return is_nan or type(value).__name__ in ("NAType", "NaTType")


def _as_image(value: Any, place: str, name: str) -> Any:
    """Return an image in memory: an array, an image of Pillow, or the bytes of a file."""
    if isinstance(value, np.ndarray | bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    pillow = import_reader("pillow_images", "Pillow", "images")
    if pillow.is_picture(value):
        return value
    if hasattr(value, "read"):
        content = value.read()
        if isinstance(content, bytes):
            return content
        raise TypeError(f"{place} is a file that was opened as text; open it with mode='rb'.")
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        return np.asarray(value)
    raise TypeError(f"{place} is of type {type(value).__name__}; {name} must be {SOURCES}.")


def _find_in_folder(folder: str) -> Source:
    """Find the images of a folder with one folder for each class, or with images itself."""
    root = os.path.realpath(folder)
    folders, files = _list_folder(folder)
    if files and folders:
        mixed = [name for name in folders if next(_walk(name, (root,)), None)]
        if mixed:
            raise ValueError(
                f"{folder!r} contains images and also folders with images, such as "
                f"{os.path.basename(mixed[0])!r}; move the images into a folder for their class, "
                "or pass a list of paths."
            )
    if files:
        return Source(np.array(files), None)
    paths: list[str] = []
    labels: list[str] = []
    without = []
    for name in folders:
        found = list(_walk(name, (root,)))
        paths += found
        labels += [os.path.basename(name)] * len(found)
        if not found:
            without.append(os.path.basename(name))
    if not paths:
        raise FileNotFoundError(
            f"{folder!r} contains no images; images are files with one of the suffixes "
            f"{', '.join(SUFFIXES)}."
        )
    if without:
        warn(
            f"{len(without)} of the {len(folders)} folders in {folder!r} contain no images, and "
            f"are not classes: {list_some(map(repr, without))}. Images are files with one of the "
            f"suffixes {', '.join(SUFFIXES)}."
        )
    return Source(np.array(paths), np.array(labels))


def _walk(folder: str, parents: tuple[str, ...]) -> Iterator[str]:
    """Yield the images in a folder and in the folders in it, in natural order."""
    real = os.path.realpath(folder)
    if real in parents:  # A symbolic link leads back to a folder that contains it.
        return
    folders, files = _list_folder(folder)
    yield from files
    for name in folders:
        yield from _walk(name, (*parents, real))


def _list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Return the folders in a folder and its images, without those that are hidden."""
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # The type of an entry is known, except that of a link; a link may also lead to itself.
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                folders.append(entry.path)
            # A broken link is an image that cannot be read; pipes and devices are not images.
            elif entry.name.lower().endswith(SUFFIXES) and (entry.is_symlink() or entry.is_file()):
                files.append(entry.path)
    return sorted(folders, key=_key), sorted(files, key=_key)


def _key(path: str) -> tuple[list[Any], str]:
    """Return the key of the natural order: "tile2" comes before "tile10"."""
    parts: list[Any] = re.split(r"(\d+)", path)
    parts[1::2] = map(int, parts[1::2])
    return parts, path
