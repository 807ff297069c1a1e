"""The commands `sklearn-conv predict` and `sklearn-conv show`: a saved model that is used again."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Literal

import numpy as np
from sklearn.pipeline import Pipeline

from sklearn_conv._batches import transform_batches
from sklearn_conv._commands import options as cli
from sklearn_conv._commands.console import Console, format_seconds, one_line, printable
from sklearn_conv._reading.image_files import ImageFiles, count_stored_sizes
from sklearn_conv._reading.image_reader import ImageReader
from sklearn_conv._ridge.moments import NoSolutionError
from sklearn_conv._saving.files import NewFile, replace_file

EXAMPLES = """\
| sklearn-conv predict model.skops new_tiles -o predictions.csv
| sklearn-conv predict model.skops 'new_tiles/*.png' -o predictions.parquet --on-error skip
"""

SHOW_EXAMPLES = """\
| sklearn-conv show model.skops
"""


def predict(
    model: Path,
    folder: str,
    /,
    *,
    output: Annotated[Path, cli.output_file(".csv", ".parquet", alias="-o")],
    on_error: Literal["raise", "skip"] = "raise",
    running: cli.Running = cli.RUNNING,
    console: Annotated[Console, cli.NOT_AN_OPTION],
) -> None:
    """Predict the classes or numbers of all images in a folder with a saved model.

    Each image becomes a row of a table with the columns path and predicted. Classifiers add a
    column probability_NAME for each class, and novelty: the fraction of training images that are
    nearer to the others than this image is to them. Images whose novelty is above 0.99 are unlike
    the training images. Regressors add lower and upper, between which 90 percent of targets are.
    With --on-error skip, files that cannot be read are rows at the end, with the reason in the
    column error.

    Parameters
    ----------
    model
        Model that ends in .skops, as written by sklearn-conv classify or regress.
    folder
        Folder of images, or of folders of images; or a pattern such as 'tiles/a?.tif', in quotes.
    output
        Table to write, which ends in .csv or .parquet. An existing file is replaced when the new
        one is complete.
    on_error
        What happens to files that cannot be read: with "raise", an error names the file; with
        "skip", all files are read once at the start, and these have no prediction.
    """
    start = monotonic()
    open_table: Any = open_csv
    if output.suffix.lower() == ".parquet":  # An error before the work without pyarrow
        open_table = import_module("sklearn_conv._saving.parquet").open_table
    pipeline, facts = load(model, console)
    if output.exists() and output.samefile(model):
        raise cli.UsageError(f"{str(output)!r} is the model; write to another file.")
    files = _find_images(folder, pipeline[0], on_error, running.n_jobs, console)
    if output.suffix.lower() == ".parquet":
        assert files.paths is not None
        for path in [*files.paths.tolist(), *(path for path, _ in files.skipped)]:
            if path != path.encode(errors="ignore").decode():
                raise cli.UsageError(
                    f"{path!r} is not in UTF-8, as the strings of Parquet are; write a .csv."
                )
    _check_sizes(files, pipeline[0], facts, console)
    cli.set_threads(pipeline, running.n_jobs)
    batches = transform_batches(pipeline[1:-1], files)
    with (
        replace_file(str(output)) as file,
        open_table(file) as write,
        console.progress("Predicting", len(files)) as update,
    ):
        for rows, features in batches:
            table = {"path": files[rows].paths} | _predict(pipeline[-1], features)
            empty = {"error": [None] * len(features)} if on_error == "skip" else {}
            write(table | empty)
            update(rows.stop)
        if files.skipped:
            paths, errors = zip(*files.skipped, strict=True)
            nothing = dict.fromkeys(table, [None] * len(paths))
            write(nothing | {"path": paths, "error": errors})
    cli.print_skipped(files.skipped)
    skipped = f", {len(files.skipped):,} of them not read" * bool(files.skipped)
    n = len(files) + len(files.skipped)
    print(f"{output}: {n:,} rows{skipped}, {format_seconds(monotonic() - start)}")


def show(
    model: Path,
    /,
    *,
    running: cli.Running = cli.RUNNING,
    console: Annotated[Console, cli.NOT_AN_OPTION],
) -> None:
    """Print what a saved model is: its classes, images, score, date, versions and steps.

    Parameters
    ----------
    model
        Model that ends in .skops.
    """
    pipeline, facts = load(model, console)
    reader, last = pipeline[0], pipeline[-1]
    classes = getattr(last, "classes_", None)
    height, width, channels = reader.image_shape_
    lines = {
        "predicts": facts.get("target", "numbers") if classes is None else f"{len(classes)} classes"
    }
    if classes is not None:
        lines["classes"] = ", ".join(map(str, classes.tolist()))
    size = "their own size" if height is None else f"{height} x {width} pixels"
    lines["images"] = f"{size}, {channels} channels, {reader.dtype_}, mode {reader.mode}"
    if facts:
        recipe = ", ".join(f"{name} {value}" for name, value in facts.get("recipe", {}).items())
        versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
        lines |= {
            "made from": f"{facts['images']:,} images of {_describe_sizes(facts)} pixels",
            "date": facts["date"],
            "recipe": recipe,
            "cross-validated": facts.get("score", "not"),
            "versions": versions,
        }
    lines |= {name: one_line(repr(step)) for name, step in pipeline.steps[1:]}
    for name, text in lines.items():
        print(f"{name}: {printable(str(text))}")


def load(path: Path, console: Console) -> tuple[Pipeline, dict[str, Any]]:
    """Return a model that predicts something from paths of images, and the facts about it."""
    with console.progress("Loading the model"):
        model, facts = import_module(cli.MODEL_FILE).read_model(path)
    is_pipeline = isinstance(model, Pipeline) and len(model) > 2
    if not is_pipeline or not isinstance(model[0], ImageReader) or not hasattr(model, "predict"):
        raise cli.UsageError(
            f"{str(path)!r} contains a {type(model).__name__} that does not predict anything from "
            "paths of images; save a model with sklearn-conv classify or regress, or in Python "
            "a pipeline of an ImageReader, features and a model."
        )
    if not hasattr(model[0], "image_shape_"):
        raise cli.UsageError(f"{str(path)!r} was not fitted; fit it, and save it again.")
    return model, facts


def _find_images(
    folder: str, reader: ImageReader, on_error: str, n_jobs: int | None, console: Console
) -> ImageFiles:
    """Find the images, and check that they are of the kind that the model has seen."""
    settings = {name: getattr(reader, name) for name in cli.SETTINGS} | {"on_error": on_error}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Files are identical")  # They are not in folds.
            files = cli.find_images(folder, settings, n_jobs, console)
    except (FileNotFoundError, ValueError) as error:
        is_size = reader.size is None and "height and width" in str(error)
        remedy = " The model was saved without --size, which would scale all images." * is_size
        raise cli.UsageError(f"{error}{remedy}") from error
    cli.check_kind(files, reader)
    return files


def _check_sizes(
    files: ImageFiles, reader: ImageReader, facts: Mapping[str, Any], console: Console
) -> None:
    """Print a warning if images are scaled that are larger or smaller than all that were seen."""
    if not facts or reader.size in (None, "any"):
        return
    ranges = facts["heights"], facts["widths"]
    sizes = count_stored_sizes(files)
    others = {
        size: n
        for size, n in sizes.items()
        if any(not sides[0] <= side <= sides[-1] for side, sides in zip(size, ranges, strict=True))
    }
    if others:
        first = " x ".join(map(str, next(iter(others))))
        console.say(
            f"warning: {sum(others.values()):,} of {len(files):,} images are larger or smaller "
            f"than those from which the model was made, for example {first} instead of "
            f"{_describe_sizes(facts)} pixels. All are scaled to {reader.size}, so that their "
            "details may look different."
        )


def _describe_sizes(facts: Mapping[str, Any]) -> str:
    return " x ".join("-".join(map(str, facts[side])) for side in ("heights", "widths"))


def _predict(last: Any, features: np.ndarray) -> dict[str, Any]:
    """Return the columns that the last step of a model computes from features."""
    predicted = last.predict(features)
    targets = [""] if predicted.ndim == 1 else [*map(str, range(predicted.shape[1]))]
    names = [f"predicted{target}" for target in targets]
    columns = dict(zip(names, predicted.reshape(len(features), -1).T, strict=True))
    if hasattr(last, "predict_interval"):
        ends = last.predict_interval(features).reshape(len(features), 2, -1)
        for k, target in enumerate(targets):
            columns |= {f"lower{target}": ends[:, 0, k], f"upper{target}": ends[:, 1, k]}
    if hasattr(last, "predict_proba"):
        names = [f"probability_{name}" for name in last.classes_.tolist()]
        columns |= zip(names, last.predict_proba(features).T, strict=True)
    if callable(getattr(last, "novelty", None)):  # It is a parameter of LocalOutlierFactor.
        with suppress(NoSolutionError):  # More than 16,384 features have no sums.
            columns["novelty"] = last.novelty(features)
    return columns


@contextmanager
def open_csv(file: NewFile) -> Iterator[Any]:
    """Return a function that appends columns, which have the names of the first ones."""
    is_first = True

    def write(columns: Mapping[str, Any]) -> None:
        nonlocal is_first
        text = StringIO()
        lines = csv.writer(text, lineterminator="\n")
        if is_first:
            lines.writerow(columns)
        is_first = False
        # Texts of float32 are shorter than those of Python's numbers.
        values = [v.astype(str) if isinstance(v, np.ndarray) else v for v in columns.values()]
        lines.writerows(zip_longest(*values))
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))

    yield write
