"""The command `sklearn-conv classify`: from a folder of images to a report on a classifier."""

from __future__ import annotations

import shlex
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from contextlib import redirect_stdout
from datetime import datetime
from importlib import import_module
from io import StringIO
from math import prod
from time import monotonic
from typing import Any

import joblib
import numpy as np
from sklearn.pipeline import FeatureUnion, Pipeline

from sklearn_conv._commands.console import Console, format_seconds
from sklearn_conv._commands.evaluation import evaluate
from sklearn_conv._commands.files import MODELS, check_output, write_file
from sklearn_conv._commands.messages import UsageError, printable
from sklearn_conv._commands.options import add_options, read_parameters
from sklearn_conv._commands.reading import (
    add_reading_options,
    describe_skipped,
    find_images,
    make_reader,
    reading_parameters,
)
from sklearn_conv._reading.image_files import ImageFiles, read_images
from sklearn_conv._recipes import make_image_classifier
from sklearn_conv._versions import show_versions

KINDS = "\n".join(
    f"  {kind:<11} {text}"
    for kind, text in read_parameters(make_image_classifier)["kind"].choices.items()
)
DESCRIPTION = """\
Classify images by the folders in which they are, and write a report on how well this works.

FOLDER contains one folder of images for each class, such as tiles/forest and tiles/river. The model
is the recipe for the kind of images. The report is a single HTML file with the cross-validated
accuracy, the confusion matrix, the kernels, and the most certain mistakes. It explains each part.
"""
EXAMPLES = f"""\
kinds:
{KINDS}

examples:
  sklearn-conv classify tiles --kind satellite --size 64 64 -o report.html
  sklearn-conv classify parts --kind textures --effort fast --size 96 96 --mode L -o report.html \\
      --save-model model.joblib --n-jobs -1

In Python, joblib.load("model.joblib").predict(["new.png"]) classifies other files.
"""

KEEP_SIZES = ", or size='any' to keep their sizes"
"""End of the remedy for images of unequal sizes, which does not help here."""

MEMORY = 2**29
"""Size in bytes up to which all images are decoded once, and not again for each fold."""

BATCH = 64
"""Number of images that are decoded at once."""


def add_classify_options(parser: Any) -> None:
    """Add the options of the command."""
    add_reading_options(parser, "folder that contains one folder of images for each class")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="report to write, which ends in .html; an existing file is replaced",
    )
    group = parser.add_argument_group("model")
    add_options(
        group,
        make_image_classifier,
        ("kind", "effort", "random_state"),
        required=("kind",),
        defaults={"random_state": 0},
        texts={
            "kind": "kind of images, as listed below",
            "random_state": "seed with which kernels are drawn and folds are divided, an integer, "
            "or none for others each time",
        },
    )
    group.add_argument(
        "--folds",
        type=_parse_folds,
        metavar="N",
        default=5,
        help="number of parts into which the images are divided to measure the accuracy "
        "(default: 5)",
    )
    group.add_argument(
        "--save-model",
        metavar="FILE",
        help="file for the model, such as model.joblib, which is then fitted on all images: a "
        "pipeline whose method predict takes paths of images",
    )


def _parse_folds(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise ArgumentTypeError(f"{text!r} is not an integer of at least 2")
    return int(text)


def run_classify(args: Namespace, console: Console) -> None:
    """Validate the model, and write the report."""
    report = _import_report()
    start = monotonic()
    output = check_output("--output", args.output, (".html", ".htm"))
    save_model = args.save_model and check_output("--save-model", args.save_model, MODELS)
    reading = reading_parameters(args)
    if reading.get("size") == "any":
        raise UsageError("classify needs images of one size; pass two numbers after --size.")
    try:
        files = find_images(args, reading, console)
    except ValueError as error:
        raise ValueError(str(error).replace(KEEP_SIZES, "")) from None
    labels, n_folds = _check_classes(args, files, console)
    images, sizes = _decode(files, console), _find_sizes(files, reading, args)
    seconds = {"reading the images": monotonic() - start}

    given = {name: getattr(args, name) for name in ("kind", "effort") if name in args}
    random_state = getattr(args, "random_state", 0)
    pipeline = make_image_classifier(**given, random_state=random_state, n_jobs=args.n_jobs)
    last = monotonic()
    with console.progress("Cross-validation", n_folds, "folds") as progress:
        evaluation = evaluate(pipeline, images, labels, n_folds, random_state, progress)
    seconds[f"cross-validation, {n_folds} folds"] = monotonic() - last
    last = monotonic()
    with console.progress("Fitting the model on all images" if save_model else "Making kernels"):
        if save_model:
            pipeline.fit(images, labels)
        else:
            pipeline["features"].fit(images)
    seconds["fitting on all images" if save_model else "making kernels"] = monotonic() - last

    versions = StringIO()
    with redirect_stdout(versions):
        show_versions()
    result = report.Result(
        folder=args.folder,
        command=shlex.join(["sklearn-conv", *args.arguments]),
        code=_describe_code(args, reading, given | {"random_state": random_state}, n_folds),
        labels=labels,
        paths=files.paths,
        images=images,
        sizes=sizes,
        skipped=files.skipped,
        evaluation=evaluation,
        steps=_find_steps(pipeline),
        seconds=seconds,
        versions=versions.getvalue(),
        date=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    with console.progress("Writing the report"):
        page = report.make_report(result)
    write_file(output, lambda file: file.write(page.encode()))
    if save_model:
        model = Pipeline([("reader", make_reader(files, reading)), *pipeline.steps])
        write_file(save_model, lambda file: joblib.dump(model, file))
    _print_result(args, result, monotonic() - start)


def _import_report() -> Any:
    """Import the module that draws pictures, before any work."""
    try:
        return import_module("sklearn_conv._commands.report")
    except ImportError as error:
        raise ImportError(
            "The report requires matplotlib, which is not installed; run "
            'pip install "sklearn_conv[plot]".'
        ) from error


def _check_classes(args: Namespace, files: ImageFiles, console: Console) -> tuple[np.ndarray, int]:
    """Check that there are classes to tell apart; return the labels and the number of folds."""
    folder = args.folder
    if files.labels is None:
        raise ValueError(
            f"{folder!r} has no folders for the classes. Put the images of each class into a "
            "folder of their own, such as tiles/forest and tiles/river, and pass the folder that "
            "contains these folders, here tiles."
        )
    classes, counts = np.unique(files.labels, return_counts=True)
    if len(classes) == 1:
        raise ValueError(
            f"All {counts[0]:,} images in {folder!r} are in one class, {str(classes[0])!r}; two "
            "folders with images are needed, one for each class."
        )
    single = [repr(str(name)) for name in classes[counts == 1]]
    if single:
        raise ValueError(
            f"Each class needs at least 2 images, one to learn from and one to test, but there is "
            f"only one in {', '.join(single)}; add images to these folders, or move them away."
        )
    n_folds = min(args.folds, int(counts.min()))
    if n_folds < args.folds:
        console.say(
            f"warning: class {printable(str(classes[counts.argmin()]))!r} has {n_folds} images "
            f"only, so there are {n_folds} folds instead of {args.folds}"
        )
    return files.labels, n_folds


def _decode(files: ImageFiles, console: Console) -> Any:
    """Decode all images, unless they take too much memory; they are then decoded when needed."""
    if prod(files.shape) * files.dtype.itemsize > MEMORY:
        return files
    images = np.empty(files.shape, files.dtype)
    with console.progress("Reading the images", len(files)) as progress:
        for start in range(0, len(files), BATCH):
            images[start : start + BATCH] = files[start : start + BATCH]
            progress.update(min(start + BATCH, len(files)))
    return images


def _find_sizes(
    files: ImageFiles, reading: dict[str, Any], args: Namespace
) -> dict[tuple[int, int], int]:
    """Return how many files there are of each size, (height, width)."""
    if reading.get("size") is None:
        return {files.shape[1:3]: len(files)}  # type: ignore[dict-item]
    unscaled = read_images(files.paths, **{**reading, "size": "any"}, n_jobs=args.n_jobs)
    return dict(Counter((h, w) for h, w, _ in unscaled.image_shapes.tolist()))


def _find_steps(pipeline: Pipeline) -> dict[str, Any]:
    """Return the steps of a recipe by name; those of a union are steps of their own."""
    steps: dict[str, Any] = {}
    for name, step in pipeline.steps:
        steps |= dict(step.transformer_list) if isinstance(step, FeatureUnion) else {name: step}
    return steps


def _describe_code(
    args: Namespace, reading: dict[str, Any], given: dict[str, Any], n_folds: int
) -> str:
    """Return Python code that validates and makes the model."""
    if "on_error" in args:
        reading = {**reading, "on_error": args.on_error}
    options = "".join(f", {name}={value!r}" for name, value in reading.items())
    cv = f"StratifiedKFold({n_folds}, shuffle=True, random_state={given['random_state']!r})"
    kind = given.pop("kind")
    parameters = "".join(f", {name}={value!r}" for name, value in given.items())
    return (
        "from sklearn.model_selection import StratifiedKFold, cross_val_score\n"
        "from sklearn_conv import make_image_classifier, read_images\n\n"
        f"files = read_images({args.folder!r}{options})\n"
        f"model = make_image_classifier({kind!r}{parameters})\n"
        f"cv = {cv}\n"
        "print(cross_val_score(model, files, files.labels, cv=cv).mean())\n"
        "model.fit(files, files.labels)"
    )


def _print_result(args: Namespace, result: Any, seconds: float) -> None:
    mean, deviation = result.accuracy
    for line in describe_skipped(result.skipped):
        print(f"skipped: {line}")
    print(
        f"accuracy {mean:.3f} ± {deviation:.3f} in {len(result.evaluation.accuracies)} folds; "
        f"most frequent class {result.baseline[1]:.3f}"
    )
    print(f"{args.output}: the report, {format_seconds(seconds)}")
    if args.save_model:
        print(f"{args.save_model}: the model, fitted on all images")
