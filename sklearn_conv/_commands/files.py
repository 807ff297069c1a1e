"""Read the images of a command, and write its models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import joblib
from sklearn.pipeline import Pipeline

from sklearn_conv._commands.console import Console, printable
from sklearn_conv._commands.options import derive_options
from sklearn_conv._reading.image_files import ImageFiles, read_images
from sklearn_conv._reading.image_reader import ImageReader
from sklearn_conv._reading.settings import check_settings
from sklearn_conv._saving.files import replace_file
from sklearn_conv._validation import check_name

MODELS = (".joblib", ".pkl")
"""Suffixes of files with models."""

SETTINGS = ("size", "mode", "resize", "page")
"""Options that say how images are read."""


def _check(on_error: str = "raise", **given: Any) -> None:
    values = {name: each.default for name, each in signature(read_images).parameters.items()}
    settings = {name: (values | given)[name] for name in SETTINGS}
    check_settings("read_images", **settings, load_func=None)
    check_name("read_images", "on_error", on_error, ("raise", "skip"))


OPTIONS = derive_options(
    read_images, without={"source", "load_func", "n_jobs"}, check=_check, defaults={}
)


def find_images(
    folder: str, given: Mapping[str, Any], n_jobs: int | None, console: Console
) -> ImageFiles:
    """Find the images; with ``--on-error skip``, read them all once."""
    is_checked = given.get("on_error") == "skip"
    with console.progress(f"Finding {'and checking ' * is_checked}the images"):
        return read_images(folder, **given, n_jobs=n_jobs)


def parameters_of(reader: ImageReader) -> dict[str, Any]:
    """Return the parameters of `read_images` with which images are read as by a step."""
    return {name: getattr(reader, name) for name in (*SETTINGS, "load_func")}


def save_model(
    path: Path, files: ImageFiles, given: Mapping[str, Any], steps: list[tuple[str, Any]]
) -> None:
    """Write a fitted pipeline that reads paths as the images were read."""
    assert files.paths is not None
    settings = {name: given[name] for name in SETTINGS if name in given}
    reader = ImageReader(**settings).fit(files.paths[:1])
    with replace_file(str(path)) as file:
        joblib.dump(Pipeline([("reader", reader), *steps]), file)


def print_skipped(skipped: Iterable[tuple[str, str]]) -> None:
    """Print a line for each file that was left out."""
    for path, reason in skipped:
        print(f"skipped: {printable(path)}: {printable(reason)}")
