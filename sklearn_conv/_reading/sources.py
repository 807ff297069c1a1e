"""Find the images of a source: a folder, a pattern, a column of paths, or images in memory."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from glob import glob, has_magic
from hashlib import file_digest
from os import PathLike
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._engine.threads import run_tasks
from sklearn_conv._reading.formats import SUFFIXES
from sklearn_conv._warnings import warn

LISTS = (
    "a list, an array or a column of paths, or a list of images in memory: arrays, images of "
    "Pillow, or the bytes of files"
)
SOURCES = f"a folder, a pattern such as 'pictures/*.png', {LISTS}"


PROBE_BYTES = 4096
"""Size of the part of a file that is compared before the whole file."""


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

    def at(self, i: int) -> tuple[Any, str]:
        """Return a path or an image in memory, and what stands for it in errors."""
        if self.has_paths:
            return str(self.items[i]), repr(str(self.items[i]))
        return self.items[i], f"image {i}"


def find_images(source: Any, is_loaded: bool) -> Source:
    """Find the images of a source that is not a column of a table, in a stable order.

    If the images are loaded by a function of the user, their files may have any suffixes.
    """
    if not isinstance(source, str | PathLike):
        return find_in_sequence(source, "source", is_loaded)
    path = os.path.expanduser(os.fsdecode(source))
    if os.path.isdir(path):
        return _find_in_folder(path, ("",) if is_loaded else SUFFIXES)
    if os.path.lexists(path):
        return Source(np.array([path]), None)
    if not has_magic(path):
        raise FileNotFoundError(
            f"{path!r} does not exist; source must be {SOURCES}. Relative paths start at "
            f"{os.getcwd()!r}."
        )
    # Broken links are images that cannot be read; pipes and devices are not images.
    found = {  # A pattern with two ** finds a file several times.
        name
        for name in glob(path, recursive=True)
        if os.path.isfile(name) or not os.path.exists(name)
    }
    if not found:
        raise FileNotFoundError(
            f"The pattern {path!r} matches no files; append '/*' for the files in folders."
        )
    return Source(np.array(sorted(found, key=_key)), None)


def find_in_sequence(source: Any, name: str, is_loaded: bool) -> Source:
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
        other = next((i for i, v in enumerate(values) if not isinstance(v, str | PathLike)), None)
        if other is not None:
            raise TypeError(
                f"{name}[0] is a path, but {name}[{other}] is of type "
                f"{type(values[other]).__name__}; pass either paths or images."
            )
        return Source(np.array([*map(os.fsdecode, values)]), None)
    if is_loaded:
        raise TypeError(
            f"With load_func, {name} must contain paths. {name}[0] is of type "
            f"{type(values[0]).__name__}; leave out load_func for images in memory."
        )
    items = np.empty(len(values), object)
    for i, value in enumerate(values):
        items[i] = _as_image(value, f"{name}[{i}]", name)
    return Source(items, None)


def _as_list(source: Any, name: str) -> list[Any]:
    """Return the elements of a sequence, or of the only column of a table."""
    shape: Any = getattr(source, "shape", None)
    is_table = hasattr(source, "columns")
    is_array = isinstance(source, np.ndarray)
    is_numeric = is_array and source.dtype.kind not in "OUT"
    if (is_table or (is_array and not is_numeric)) and len(shape) == 2:
        if shape[1] != 1:
            raise ValueError(
                f"{name} has {shape[1]} columns; pass one column of paths, for example "
                "table['path']."
            )
        source = source[source.columns[0]] if is_table else source[:, 0]
    is_sequence = isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray)
    if not is_sequence and (not isinstance(shape, tuple) or len(shape) < (3 if is_numeric else 1)):
        got = f"an array of shape {shape}, {source.dtype}" if is_numeric else f"{source!r:.200}"
        raise TypeError(
            f"{name} must be {LISTS if name == 'X' else SOURCES}. Got {got} instead; pass a single "
            "path or image in a list, and the files of a folder as read_images(folder).paths."
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
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    # An image of Pillow, which may not be imported yet, has the method getbands.
    if isinstance(value, np.ndarray | bytes) or hasattr(value, "getbands"):
        return value
    if hasattr(value, "read"):
        content = value.read()
        if isinstance(content, bytes):
            return content
        raise TypeError(f"{place} is a file that was opened as text; open it with mode='rb'.")
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        return np.asarray(value)
    raise TypeError(f"{place} is of type {type(value).__name__}; {name} must be {SOURCES}.")


def _find_in_folder(folder: str, suffixes: tuple[str, ...]) -> Source:
    """Find the images of a folder with one folder for each class, or with images itself."""
    root = os.path.realpath(folder)
    folders, files = _list_folder(folder, suffixes)
    found = {name: _walk(name, {root}, suffixes) for name in folders}
    if files:
        mixed = next((name for name, inside in found.items() if any(inside)), None)
        if mixed is not None:
            raise ValueError(
                f"{folder!r} contains images and also folders with images, such as "
                f"{os.path.basename(mixed)!r}; move the images into a folder for their class, or "
                "pass a list of paths."
            )
        return Source(np.array(files), None)
    classes = {os.path.basename(name): [*inside] for name, inside in found.items()}
    without = [name for name, inside in classes.items() if not inside]
    rule = f"; images are files with one of the suffixes {', '.join(suffixes)}"
    rule = "." if "" in suffixes else f"{rule}."
    if len(without) == len(classes):
        raise FileNotFoundError(f"{folder!r} contains no images{rule}")
    if without:
        warn(
            f"{len(without)} of the {len(folders)} folders in {folder!r} contain no images, and "
            f"are not classes: {list_some(map(repr, without))}{rule}"
        )
    labels = np.repeat([*classes], [len(inside) for inside in classes.values()])
    return Source(np.array([path for inside in classes.values() for path in inside]), labels)


def _walk(folder: str, seen: set[str], suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the images in a folder and in the folders in it, in natural order."""
    real = os.path.realpath(folder)
    if real in seen:  # Symbolic links may lead to a folder in several ways, and back to itself.
        return
    seen.add(real)
    folders, files = _list_folder(folder, suffixes)
    yield from files
    for name in folders:
        yield from _walk(name, seen, suffixes)


def _list_folder(folder: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
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
            elif entry.name.lower().endswith(suffixes) and (entry.is_symlink() or entry.is_file()):
                files.append(entry.path)
    return sorted(folders, key=_key), sorted(files, key=_key)


def list_some(names: Iterable[str], shown: int = 5) -> str:
    """Return at most ``shown`` names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _key(path: str) -> tuple[list[Any], str]:
    """Return the key of the natural order: "tile2" comes before "tile10"."""
    parts: list[Any] = re.split(r"(\d+)", path)
    parts[1::2] = map(int, parts[1::2])
    return parts, path


def find_identical(source: Source, workers: int) -> list[tuple[str, ...]]:
    """Return the paths of files with the same content, first those of several classes.

    Files are read only if others have the same size and the same bytes in their middle. A path that
    is listed twice is meant.
    """
    labels = dict.fromkeys(source.items.tolist() if source.has_paths else [])
    if source.labels is not None:
        labels = dict(zip(labels, source.labels.tolist(), strict=True))
    groups = [tuple(labels)]
    for describe in (_size, _middle, _digest):
        paths = [(path,) for group in groups for path in group]
        found = iter(run_tasks(describe, paths, workers))
        same = defaultdict(list)
        for number, group in enumerate(groups):
            for path in group:
                same[number, next(found)].append(path)
        groups = [tuple(each) for (_, key), each in same.items() if key and len(each) > 1]
    return sorted(groups, key=lambda group: len({labels[path] for path in group}) == 1)


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _middle(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - PROBE_BYTES) // 2)
            return file.read(PROBE_BYTES)
    except OSError:  # The error is raised when the image is read.
        return b""


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return file_digest(file, "blake2b").digest()
