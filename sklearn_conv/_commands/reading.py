"""Read the images of a command."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from errno import ENOENT
from glob import has_magic
from typing import Any

from sklearn_conv._commands.console import Console
from sklearn_conv._commands.messages import printable
from sklearn_conv._commands.options import add_options
from sklearn_conv._reading.image_files import ImageFiles, read_images
from sklearn_conv._reading.image_reader import ImageReader

TEXTS = {
    "size": "size to which images are scaled, in pixels, for example --size 64 48, or any to keep "
    "their sizes, which is for features only. Without it, all images must have the same size",
    "mode": "channels of the images: RGB for color, L for gray, RGBA for color and opacity, or "
    "none for all channels as they are stored, such as 16 bits, floats and many bands",
    "resize": "how images of other proportions come to the size: crop cuts out the middle, pad "
    "adds margins, and stretch changes the proportions",
    "page": "page of files that have several pages, counted from 0",
    "on_error": "what happens to files that cannot be read: with raise, the command stops; with "
    "skip, they are left out and listed",
}
OPTIONS = ("size", "mode", "resize", "page", "on_error")
"""Parameters of `read_images` that have an option."""


def join_size(arguments: Sequence[str]) -> list[str]:
    """Join the two numbers after ``--size``, so that the option has a single value, as others.

    Examples
    --------
    >>> join_size(["folder", "--size", "64", "48", "--size", "any"])
    ['folder', '--size', '64,48', '--size', 'any']
    """
    joined = list(arguments)
    for i in range(len(joined) - 3, -1, -1):
        numbers = joined[i + 1 : i + 3]
        if joined[i] == "--size" and all(re.fullmatch(r"-?\d+", number) for number in numbers):
            joined[i + 1 : i + 3] = [",".join(numbers)]
    return joined


def add_reading_options(parser: Any, source: str) -> None:
    """Add the source, with its description, and the options that say how it is read."""
    parser.add_argument("folder", metavar="FOLDER", help=source)
    group = parser.add_argument_group("how the images are read")
    add_options(group, read_images, OPTIONS, texts=TEXTS)


def reading_parameters(args: Namespace) -> dict[str, Any]:
    """Return the parameters of `read_images` that were given, without ``on_error``."""
    return {name: getattr(args, name) for name in OPTIONS[:-1] if name in args}


def find_images(args: Namespace, parameters: dict[str, Any], console: Console) -> ImageFiles:
    """Find the images; with ``--on-error skip``, read them all once."""
    folder = args.folder
    if not os.path.lexists(folder) and not has_magic(folder):
        problem = f"This folder does not exist. Relative paths start at {os.getcwd()!r}"
        raise FileNotFoundError(ENOENT, problem, folder)
    on_error = getattr(args, "on_error", "raise")
    label = "Finding the images" if on_error == "raise" else "Finding and checking the images"
    with console.progress(label):
        return read_images(folder, **parameters, on_error=on_error, n_jobs=args.n_jobs)


def make_reader(files: ImageFiles, parameters: dict[str, Any]) -> ImageReader:
    """Return a fitted step that reads paths as the images were read."""
    assert files.paths is not None
    return ImageReader(**parameters).fit(files.paths[:1])


def parameters_of(reader: ImageReader) -> dict[str, Any]:
    """Return the parameters of `read_images` with which images are read as by a step."""
    return {name: getattr(reader, name) for name in ("size", "mode", "resize", "page", "load_func")}


@contextmanager
def hint_at_skipping(args: Namespace) -> Iterator[None]:
    """Add to errors of damaged files that they can be left out."""
    try:
        yield
    except OSError as error:
        if "cannot be read: " in str(error) and getattr(args, "on_error", "raise") == "raise":
            error.add_note("To leave such files out, add --on-error skip.")
        raise


def describe_skipped(skipped: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each file that was left out."""
    return [f"{printable(path)}: {printable(reason)}" for path, reason in skipped]
