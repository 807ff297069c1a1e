"""The command `sklearn-conv classify`: from a folder of images to a report on a classifier."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from inspect import Parameter
from math import prod
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import numpy as np
from sklearn.utils import gen_batches

from sklearn_conv._commands import options as cli
from sklearn_conv._commands.console import Console, format_seconds, printable
from sklearn_conv._reading.image_files import ImageFiles, count_stored_sizes
from sklearn_conv._recipes import make_image_classifier
from sklearn_conv._validation import check_integer

EXAMPLES = """\
| sklearn-conv classify tiles --kind satellite --size 64,64 -o report.html
| sklearn-conv classify parts --kind textures --effort fast --size 96,96 --mode L -o report.html \
--save-model model.joblib --n-jobs -1
"""

RECIPE = cli.derive_options(
    make_image_classifier,
    without={"n_jobs"},
    check=make_image_classifier,
    defaults={"kind": Parameter.empty, "random_state": cli.SEED},
)

MEMORY = 2**29
"""Size in bytes up to which all images are decoded once, and not again for each fold."""


@cli.with_options([*cli.READING, *RECIPE])
def classify(
    folder: str,
    /,
    *,
    output: Annotated[Path, cli.output_file(".html", ".htm", alias="-o")],
    folds: Annotated[int, cli.checked(lambda n: check_integer("classify", "folds", n, 2))] = 5,
    save_model: Annotated[Path | None, cli.output_file(*cli.MODELS, alias="--save")] = None,
    running: cli.Running = cli.RUNNING,
    console: Annotated[Console, cli.NOT_AN_OPTION],
    arguments: Annotated[Sequence[str], cli.NOT_AN_OPTION],
    **given: Any,
) -> None:
    """Classify images by the folders in which they are, and write a report on how well this works.

    FOLDER contains one folder of images for each class, such as tiles/forest and tiles/river. The
    model is the recipe for the kind of images. The report is a single HTML file with the
    cross-validated accuracy, the confusion matrix, the kernels, and the most certain mistakes. It
    explains each part.

    A saved model classifies other files with sklearn-conv predict; in Python,
    joblib.load("model.joblib").predict(["new.png"]) does this.

    Parameters
    ----------
    folder
        Folder that contains one folder of images for each class.
    output
        Report to write, which ends in .html. An existing file is replaced.
    folds
        Number of parts into which the images are divided to measure the accuracy.
    save_model
        File for the model, such as model.skops, which is then fitted on all images: a pipeline
        whose method predict takes paths of images. The command predict applies it.
    """
    # Before the work, as the import may fail
    from sklearn_conv._commands.report import evaluate, write_report

    start = monotonic()
    recipe = {each.name: given.pop(each.name) for each in RECIPE if each.name in given}
    seed = recipe.setdefault("random_state", cli.SEED)
    if given.get("size") == "any":
        raise cli.UsageError("classify needs images of one size, such as --size 64,64.")
    files = cli.find_images(folder, given, running.n_jobs, console)
    n_folds = _check_classes(folder, files.labels, folds, console)
    images = _decode(files, console)
    sizes = Counter({files.shape[1:3]: len(files)})
    if given.get("size") is not None:
        sizes = count_stored_sizes(files, running.n_jobs)
    pipeline = make_image_classifier(**recipe, n_jobs=running.n_jobs)
    with console.progress("Cross-validation", n_folds, "folds") as update:
        evaluation = evaluate(pipeline, images, files.labels, n_folds, seed, update)
    with console.progress("Fitting the model on all images" if save_model else "Making kernels"):
        if save_model:
            pipeline.fit(images, files.labels)
        else:
            pipeline["features"].fit(images)
    with console.progress("Writing the report"):
        settings = {"folder": folder, "options": given, "recipe": recipe}
        settings["command"] = shlex.join(["sklearn-conv", *arguments])
        write_report(output, files, images, sizes, evaluation, pipeline, console.seconds, settings)
    if save_model:
        means = f"{evaluation.accuracies.mean():.3f} ± {evaluation.accuracies.std():.3f}"
        facts = {"recipe": recipe, "score": f"accuracy {means} in {n_folds} folds"}
        cli.save_model(save_model, files, given, pipeline.steps, **facts)
    cli.print_skipped(files.skipped)
    accuracies = evaluation.accuracies
    print(
        f"accuracy {accuracies.mean():.3f} ± {accuracies.std():.3f} in {n_folds} folds; "
        f"most frequent class {evaluation.baseline:.3f}"
    )
    print(f"{output}: the report, {format_seconds(monotonic() - start)}")
    if save_model:
        print(f"{save_model}: the model, fitted on all images")


def _check_classes(folder: str, labels: np.ndarray | None, folds: int, console: Console) -> int:
    """Check that there are classes to tell apart; return the number of folds."""
    classes, counts = np.unique([] if labels is None else labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"{folder!r} does not contain several folders with images. Put the images of each "
            "class into a folder of their own, such as tiles/forest and tiles/river, and pass the "
            "folder that contains these folders, here tiles."
        )
    single = [repr(str(name)) for name in classes[counts == 1]]
    if single:
        raise ValueError(
            f"Each class needs at least 2 images, one to learn from and one to test, but there is "
            f"only one in {', '.join(single)}; add images to these folders, or move them away."
        )
    n_folds = min(folds, int(counts.min()))
    if n_folds < folds:
        console.say(
            f"warning: class {printable(str(classes[counts.argmin()]))!r} has {n_folds} images "
            f"only, so there are {n_folds} folds instead of {folds}"
        )
    return n_folds


def _decode(files: ImageFiles, console: Console) -> Any:
    """Decode all images, unless they take too much memory; they are then decoded when needed."""
    if prod(files.shape) * files.dtype.itemsize > MEMORY:
        return files
    images = np.empty(files.shape, files.dtype)
    with console.progress("Reading the images", len(files)) as update:
        for rows in gen_batches(len(files), 64):
            images[rows] = files[rows]
            update(rows.stop)
    return images
