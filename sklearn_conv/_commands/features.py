"""The command `sklearn-conv features`: from a folder of images to a table of features."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from inspect import signature
from math import prod
from pathlib import Path
from time import monotonic
from typing import Any

import joblib
import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._batches import transform_batches
from sklearn_conv._commands.console import Console, format_seconds
from sklearn_conv._commands.files import MODELS, check_output, write_file
from sklearn_conv._commands.messages import UsageError
from sklearn_conv._commands.options import add_options, option_name
from sklearn_conv._commands.reading import (
    add_reading_options,
    describe_skipped,
    find_images,
    make_reader,
    parameters_of,
    reading_parameters,
)
from sklearn_conv._reading.image_files import ImageFiles
from sklearn_conv._reading.image_reader import ImageReader
from sklearn_conv._saving.save import save_batches
from sklearn_conv._transformer import StridedConv2DTransformer

DESCRIPTION = """\
Compute features of all images in a folder, and write them to a table.

Each image becomes a row. A .parquet file has the columns path, label (the name of the class folder,
if there are class folders) and one column for each feature; pandas.read_parquet reads it. A .npy
file is an array of the features alone, for numpy.load.

The kernels are learned from the images, or drawn at random, and differ with --random-state. To
compute the same features of other images later, save the model and use it again.
"""
EXAMPLES = """\
examples:
  sklearn-conv features tiles -o features.parquet --size 64 64
  sklearn-conv features tiles -o features.parquet --size 64 64 --n-kernels 256 --kernel-size 6 \\
      --kernels patches --normalize-patches --whiten --n-jobs -1 --save-model model.joblib
  sklearn-conv features new_tiles -o new_features.parquet --model model.joblib
"""

PARAMETERS = tuple(
    name
    for name in signature(StridedConv2DTransformer).parameters
    if name not in {"image_shape", "verbose", "n_jobs"}
)
"""Parameters of the transformer that have an option. ``--size`` decides about ``image_shape``, the
progress is shown in another way, and ``--n-jobs`` is an option of all commands."""

TEXTS = {
    "random_state": "seed with which kernels and training patches are drawn, an integer, or none "
    "for others each time"
}
DEFAULTS = {"random_state": 0}
"""Defaults with which the same command writes the same file again."""


def add_features_options(parser: Any) -> None:
    """Add the options of the command."""
    add_reading_options(
        parser,
        "folder that contains one folder of images for each class, or images; or a pattern such as "
        "'tiles/*.tif', in quotes",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="file to write, which ends in .parquet or .npy; an existing file is replaced when the "
        "new one is complete",
    )
    group = parser.add_argument_group(
        "features", "The parameters of StridedConv2DTransformer; its documentation explains them."
    )
    add_options(group, StridedConv2DTransformer, PARAMETERS, defaults=DEFAULTS, texts=TEXTS)
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model",
        metavar="FILE",
        help="fitted transformer or pipeline that was saved with joblib, whose features are "
        "computed. Loading it can run any code, so use only files that you trust",
    )
    group.add_argument(
        "--save-model",
        metavar="FILE",
        help="file for the fitted model, such as model.joblib: a pipeline whose method transform "
        "takes paths of images",
    )


def run_features(args: Namespace, console: Console) -> None:
    """Compute the features, and write them."""
    start = monotonic()
    output = check_output("--output", args.output, (".parquet", ".npy"))
    if output.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise ImportError(
            "Writing Parquet files requires pyarrow, which is not installed; run pip install "
            '"sklearn_conv[parquet]", or write a .npy file.'
        )
    save_model = args.save_model and check_output("--save-model", args.save_model, MODELS)
    reading = reading_parameters(args)
    steps = None
    if args.model is not None:
        reader, steps = _load(args.model)
        given = [name for name in PARAMETERS if name in args]
        given += ["save_model"] * bool(save_model)
        if reader is not None:
            given += reading
            reading = parameters_of(reader)
        _refuse_beside_model(given)
    files = find_images(args, reading, console)
    if steps is None:
        steps = _fit(args, files, console)
    n_features = _save(output, files, steps, args, console)
    if save_model:
        model = Pipeline([("reader", make_reader(files, reading)), ("features", steps)])
        write_file(save_model, lambda file: joblib.dump(model, file))
    for line in describe_skipped(files.skipped):
        print(f"skipped: {line}")
    parts = [f"{len(files):,} rows", f"{n_features:,} features"]
    parts += [f"{len(files.skipped):,} files skipped"] * bool(files.skipped)
    print(f"{args.output}: {', '.join(parts)}, {format_seconds(monotonic() - start)}")
    if save_model:
        print(f"{args.save_model}: the fitted model")


def _refuse_beside_model(given: Collection[str]) -> None:
    """Raise UsageError if options were given that a fitted model cannot follow."""
    if given:
        raise UsageError(
            f"{', '.join(map(option_name, given))} cannot be used with --model, "
            "which was fitted with its own values; leave out these options, or --model."
        )


def _load(name: str) -> tuple[ImageReader | None, Any]:
    """Load a fitted model, and return its step that reads images, and those that follow."""
    try:
        model = joblib.load(name)
    except OSError:
        raise
    except Exception as error:  # Unpickling raises errors of many types.
        raise ValueError(
            f"{name!r} is not a model that was saved with joblib.dump, or the packages that it "
            f"needs are not installed; {type(error).__name__}: {error}"
        ) from error
    steps = getattr(model, "best_estimator_", model)
    reader = None
    if isinstance(steps, Pipeline):
        if isinstance(steps[0], ImageReader):
            reader, steps = steps[0], steps[1:]
        steps = steps if hasattr(steps, "transform") else steps[:-1]
        steps = steps[0] if len(steps) == 1 else steps
    is_empty = isinstance(steps, Pipeline) and not len(steps)
    if is_empty or not hasattr(steps, "transform") or not hasattr(steps, "get_params"):
        raise ValueError(
            f"{name!r} contains a {type(model).__name__} that does not compute features; save a "
            "fitted StridedConv2DTransformer, or a pipeline that begins with one."
        )
    try:
        check_is_fitted(steps)
    except NotFittedError as error:
        raise ValueError(
            f"The {type(model).__name__} in {name!r} is not fitted; call its method fit, and save "
            "it again."
        ) from error
    return reader, steps


def _fit(args: Namespace, files: ImageFiles, console: Console) -> StridedConv2DTransformer:
    """Fit a transformer with the given parameters."""
    parameters = {name: getattr(args, name) for name in PARAMETERS if name in args}
    if files.ndim == 1:  # images of any size
        parameters["image_shape"] = "any"
    transformer = StridedConv2DTransformer(**{**DEFAULTS, **parameters})
    with console.progress("Making the kernels"):
        return transformer.set_params(n_jobs=args.n_jobs).fit(files)


def _save(output: Path, files: ImageFiles, steps: Any, args: Namespace, console: Console) -> int:
    """Compute the features, write them, and return their number."""
    for step in [steps, *steps.get_params().values()]:
        if isinstance(step, StridedConv2DTransformer):
            step.set_params(n_jobs=args.n_jobs, verbose=0)
    batches = transform_batches(steps, files)
    n_features = 0

    def show_progress() -> Iterator[tuple[slice, np.ndarray]]:
        nonlocal n_features
        with console.progress("Computing features", len(files)) as progress:
            for rows, batch in batches:
                n_features = prod(batch.shape[1:])
                yield rows, batch
                progress.update(rows.stop)

    if output.suffix.lower() == ".npy":
        save_batches(output, show_progress())
    else:
        columns: dict[str, Any] = {"path": files.paths}
        if files.labels is not None:
            columns["label"] = files.labels
        save_batches(output, show_progress(), estimator=steps, columns=columns)
    return n_features
