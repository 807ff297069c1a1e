"""The command `sklearn-conv classify`: from a folder of images to a report on a classifier."""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from math import isfinite, prod
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.utils import gen_batches

from sklearn_conv._commands import options as cli
from sklearn_conv._commands.console import Console, format_seconds, printable
from sklearn_conv._commands.predict import open_csv
from sklearn_conv._out_of_fold import predict_folds
from sklearn_conv._reading.image_files import ImageFiles, count_stored_sizes
from sklearn_conv._reading.sources import list_some
from sklearn_conv._recipes import EFFORTS, make_image_classifier
from sklearn_conv._saving.files import replace_file
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


MANY = 20
"""Number of classes above which names that are numbers are a mistake, if most of them are rare."""


def _check_folds(n: int) -> None:
    check_integer("sklearn-conv", "folds", n, 2)


Folds = Annotated[int, cli.whole(_check_folds)]
Report = Annotated[Path, cli.output_file(".html", ".htm", alias="-o")]
Predictions = Annotated[Path | None, cli.output_file(".csv")]
Model = Annotated[Path | None, cli.output_file(*cli.MODELS, alias="--save")]
Outputs = tuple[Path, Path | None, Path | None]
"""Files to write: the report, the predictions and the model."""


@cli.with_options([*cli.READING, *RECIPE])
def classify(
    folder: str,
    /,
    *,
    output: Report,
    folds: Folds = 5,
    groups: str | None = None,
    table: Path | None = None,
    compare: Annotated[bool, cli.FLAG] = False,
    predictions: Predictions = None,
    save_model: Model = None,
    running: cli.Running = cli.RUNNING,
    console: Annotated[Console, cli.NOT_AN_OPTION],
    arguments: Annotated[Sequence[str], cli.NOT_AN_OPTION],
    **given: Any,
) -> None:
    """Classify images by the folders in which they are, and write a report on how well this works.

    FOLDER contains one folder of images for each class, such as tiles/forest and tiles/river. The
    model is the recipe for the kind of images. The report is a single HTML file with the
    cross-validated accuracy, the confusion matrix, the probabilities, the kernels, and all
    mistakes. It explains each part.

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
    groups
        What images belong together, such as those of a patient or a place, and are never divided
        between training and test: a regular expression with one group in parentheses, which is
        searched in each path relative to FOLDER, such as 'patient([0-9]+)', in quotes. With
        --table, the name of a column.
    table
        CSV file with the column path, relative to FOLDER, and the column that --groups names.
    compare
        Cross-validate all efforts on the same folds, and list them side by side.
    predictions
        File for the predictions, which ends in .csv: path, label, predicted class, probability of
        each class, novelty, fold and group.
    save_model
        File for the model, such as model.skops, which is then fitted on all images: a pipeline
        whose method predict takes paths of images. The command predict applies it.
    """
    # Before the work, as the import may fail
    from sklearn_conv._commands import report

    start = monotonic()
    if groups is None and table is not None:
        raise cli.UsageError("--table needs --groups, the name of one of its columns.")
    check_table(table, predictions)
    recipe = {each.name: given.pop(each.name) for each in RECIPE if each.name in given}
    seed = recipe.setdefault("random_state", cli.SEED)
    files = find_files("classify", folder, given, running, console)
    labels = _check_classes(folder, files.labels)
    grouped = find_groups(groups, table, folder, files)
    n_folds = _count_folds(labels, grouped, folds, console)
    kind = StratifiedKFold if grouped is None else StratifiedGroupKFold
    cv = kind(n_folds, shuffle=True, random_state=seed)
    splits = [*cv.split(labels, labels, grouped)]
    for train, _ in splits:
        if lost := np.setdiff1d(labels, labels[train]).tolist():
            raise cli.UsageError(
                f"The groups of class {lost[0]!r} are all in one fold, as they contain many images "
                "of other classes; use fewer folds, or finer groups."
            )
    images = decode(files, console)
    pipeline, evaluation, scores = evaluate_models(
        make_image_classifier, recipe, images, labels, splits, compare, running, console
    )
    results: dict[str, Any] = {"folder": folder, "options": given, "recipe": recipe}
    results |= {"cv": repr(cv), "groups": groups}
    results |= report.describe_classification(evaluation, scores, files, images)
    accuracy = scores[0].accuracies
    results["score"] = f"accuracy {accuracy.mean():.3f} ± {accuracy.std():.3f} in {n_folds} folds"
    results["more"] = [
        *[f"balanced accuracy {scores[0].balanced:.3f}"] * results["is_unequal"],
        f"{scores[1].name} alone {scores[1].accuracies.mean():.3f}",
        f"most frequent class {results['most_frequent']:.3f}",
    ]
    columns = evaluation.table | ({} if grouped is None else {"group": grouped})
    outputs = output, predictions, save_model
    finish(pipeline, files, images, labels, columns, outputs, results, arguments, console, start)


def evaluate_models(
    make: Callable[..., Pipeline],
    recipe: Mapping[str, Any],
    images: Any,
    y: np.ndarray,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    compare: bool,
    running: cli.Running,
    console: Console,
) -> tuple[Pipeline, Any, list[Any]]:
    """Cross-validate the model of a recipe, a baseline and, to compare, other efforts.

    The results are the model, its evaluation, and the scores of all.
    """
    from sklearn_conv._commands import report

    pipeline = make(**recipe, n_jobs=running.n_jobs)
    score: Any = report.score if is_classifier(pipeline) else report.measure
    with console.progress("Cross-validation", len(splits), "folds") as update:
        evaluation = report.evaluate(pipeline, images, y, splits, update)
    scores = [score(_name(recipe), evaluation.table, console.seconds["Cross-validation"])]
    with console.progress("Baseline"):
        colors, name = report.describe_colors(images)
        baseline = report.BASELINES[is_classifier(pipeline)]
        found = predict_folds(baseline, colors, y, splits)
    scores.append(score(name, found, console.seconds["Baseline"]))
    for effort in EFFORTS if compare else ():
        other = {**recipe, "effort": effort}
        if _name(other) == scores[0].name:
            continue
        with console.progress(step := f"Effort {effort}", len(splits), "folds") as update:
            model = make(**other, n_jobs=running.n_jobs)
            found = predict_folds(model, images, y, splits, update=update)
        scores.append(score(_name(other), found, console.seconds[step]))
    return pipeline, evaluation, scores


def _name(recipe: Mapping[str, Any]) -> str:
    """Return the kind and the effort of a recipe."""
    return f"{recipe['kind']}, {recipe.get('effort', 'balanced')}"


def find_files(
    command: str, folder: str, given: Mapping[str, Any], running: cli.Running, console: Console
) -> ImageFiles:
    """Find images of one size."""
    if given.get("size") == "any":
        raise cli.UsageError(f"{command} needs images of one size, such as --size 64,64.")
    return cli.find_images(folder, given, running.n_jobs, console)


def finish(
    pipeline: Pipeline,
    files: ImageFiles,
    images: Any,
    y: np.ndarray,
    columns: Mapping[str, Any],
    outputs: Outputs,
    results: Mapping[str, Any],
    arguments: Sequence[str],
    console: Console,
    start: float,
) -> None:
    """Fit the model, write all files, and print the score and a line for each file."""
    from sklearn_conv._commands.report import write_report

    output, predictions, model = outputs
    given = results["options"]
    results = {**results, "command": shlex.join(["sklearn-conv", *arguments])}
    sizes = Counter({files.shape[1:3]: len(files)})
    if given.get("size") is not None:
        sizes = count_stored_sizes(files)
    with console.progress("Fitting the model on all images" if model else "Making kernels"):
        (pipeline if model else pipeline["features"]).fit(images, y)
    with console.progress("Writing the report"):
        write_report(output, files, images, sizes, pipeline, console.seconds, results)
    if predictions:
        with replace_file(str(predictions)) as file, open_csv(file) as write:
            write({"path": files.paths, **columns})
    if model:
        facts = {name: results[name] for name in ("recipe", "score", "target") if name in results}
        cli.save_model(model, files, given, pipeline.steps, **facts)
    cli.print_skipped(files.skipped)
    print("; ".join([results["score"], *results["more"]]))
    print(f"{output}: the report, {format_seconds(monotonic() - start)}")
    if predictions:
        print(f"{predictions}: the predictions for {len(files):,} images")
    if model:
        print(f"{model}: the model, fitted on all images")


def _check_classes(folder: str, labels: np.ndarray | None) -> np.ndarray:
    """Check that there are classes to tell apart, and return the labels."""
    labels = np.array([]) if labels is None else labels
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"{folder!r} does not contain several folders with images. Put the images of each "
            "class into a folder of their own, such as tiles/forest and tiles/river, and pass the "
            "folder that contains these folders, here tiles."
        )
    if len(classes) > max(MANY, len(labels) / 10) and all(map(is_number, classes)):
        raise cli.UsageError(
            f"{len(labels)} images have {len(classes)} classes whose names are numbers, such as "
            f"{list_some(map(repr, classes.tolist()), 3)}. To predict numbers, write them into a "
            "table, and use sklearn-conv regress."
        )
    single = [repr(str(name)) for name in classes[counts == 1]]
    if single:
        raise ValueError(
            f"Each class needs at least 2 images, one to learn from and one to test, but there is "
            f"only one in {', '.join(single)}; add images to these folders, or move them away."
        )
    return labels


def is_number(text: str) -> bool:
    """Return whether a text is a finite number."""
    try:
        return isfinite(float(text)) and "_" not in text  # Python allows 1_000.
    except ValueError:
        return False


def check_table(table: Path | None, predictions: Path | None) -> None:
    """Check that the predictions will not replace the table."""
    if table and predictions and predictions.exists() and predictions.samefile(table):
        raise cli.UsageError(f"{str(predictions)!r} is the table; write to another file.")


def check_rows(y: np.ndarray, folds: int) -> None:
    """Check that each fold can have an image."""
    if len(y) < folds:
        raise cli.UsageError(
            f"--folds {folds} needs at least {folds} images, but there are {len(y)}; use fewer "
            "folds, or add images."
        )


def _count_folds(
    labels: np.ndarray, groups: np.ndarray | None, folds: int, console: Console
) -> int:
    """Return the number of folds, so that each class can be in all of them."""
    check_rows(labels, folds)
    of_class = {str(name): labels == name for name in np.unique(labels)}
    if groups is None:
        counts, unit = {name: int(rows.sum()) for name, rows in of_class.items()}, "images"
    else:
        counts = {name: len(np.unique(groups[rows])) for name, rows in of_class.items()}
        unit = "groups"
    name = min(counts, key=lambda name: counts[name])
    if groups is not None and counts[name] == 1:
        group = str(groups[of_class[name]][0])
        raise cli.UsageError(
            f"All images of class {name!r} are in the group {group!r}. A model that is tested on "
            "this group cannot learn the class; add images of other groups, or use finer groups."
        )
    what = f"class {printable(name)!r} has {counts[name]} {unit}"
    return limit_folds(folds, counts[name], what, console)


def limit_folds(folds: int, n: int, what: str, console: Console) -> int:
    """Return the number of folds, at most ``n``; a warning says of ``what`` there are so few."""
    if n < folds:
        console.say(f"warning: {what} only, so there are {n} folds instead of {folds}")
    return min(folds, n)


def find_groups(
    groups: str | None, table: Path | None, folder: str, files: ImageFiles
) -> np.ndarray | None:
    """Return the group of each image: from a column of a table, or a part of the path."""
    if groups is None:
        return None
    if table is not None:
        found = read_column(table, groups, folder, files)
    else:
        assert files.paths is not None
        try:
            pattern = re.compile(groups)
        except re.error as error:
            problem = f"--groups {groups!r} is not a regular expression: {error}."
            raise cli.UsageError(problem) from error
        if pattern.groups != 1:
            raise cli.UsageError(
                f"--groups {groups!r} must have one group in parentheses, such as "
                f"'patient([0-9]+)'; for a column, add --table."
            )
        paths = [Path(os.path.relpath(path, folder)).as_posix() for path in files.paths.tolist()]
        matches = [pattern.search(path) for path in paths]
        without = [repr(p) for p, m in zip(paths, matches, strict=True) if not (m and m[1])]
        if without:
            raise cli.UsageError(
                f"--groups {groups!r} is not found in {len(without)} of {len(paths)} paths: "
                f"{list_some(without)}."
            )
        found = np.array([match[1] for match in matches if match])
    if len(np.unique(found)) < 2:
        raise cli.UsageError(
            f"All images are in the same group, {str(found[0])!r}, so that none are left "
            "to test; use other groups, or leave out --groups."
        )
    return found


def read_column(table: Path, name: str, folder: str, files: ImageFiles) -> np.ndarray:
    """Return the values in a column of a CSV file, in the order of the images."""
    assert files.paths is not None
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = [*reader], [*(reader.fieldnames or [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise cli.UsageError(
            f"{str(table)!r} is not a CSV file in UTF-8: {error}. Export the table as one."
        ) from error
    if not rows or not {"path", name} <= {*columns}:
        found = list_some(map(repr, columns)) if rows else "no rows"
        raise cli.UsageError(
            f"{str(table)!r} must have the columns 'path' and {name!r}, separated by commas. It "
            f"has {found}."
        )
    if twice := [each for each in ("path", name) if columns.count(each) > 1]:
        raise cli.UsageError(f"{str(table)!r} has several columns {twice[0]!r}; rename them.")
    long = [row["path"] for row in rows if any(map(str.strip, row.get(None, ())))]
    if long:
        raise cli.UsageError(
            f"{str(table)!r} has more cells than columns in {len(long)} rows, such as that of "
            f"{long[0]!r}; put cells that contain commas into quotes, and write numbers with a "
            "decimal point."
        )
    paths = [os.path.normpath(path) for path in files.paths.tolist()]
    known, values = {*paths}, dict[str, str]()
    skipped = {os.path.normpath(path) for path, _ in files.skipped}
    for row in rows:
        path = os.path.normpath(row["path"] or "")
        path = path if path in known else os.path.normpath(os.path.join(folder, path))
        if path in values:
            raise cli.UsageError(f"{str(table)!r} has two rows for {path!r}; keep one of them.")
        values[path] = row[name] or ""
    without_row = [repr(path) for path in paths if path not in values]
    without_image = [repr(path) for path in values if path not in known | skipped]
    if without_row or without_image:
        raise cli.UsageError(
            f"The paths in {str(table)!r} must be those of the images, relative to {folder!r}. "
            f"Images without a row: {list_some(without_row, 3) or 'none'}. Rows without an image: "
            f"{list_some(without_image, 3) or 'none'}."
        )
    empty = [repr(path) for path in paths if not values[path].strip()]
    if empty:
        raise cli.UsageError(
            f"The column {name!r} of {str(table)!r} is empty for {list_some(empty, 3)}; fill it, "
            "or move these images away."
        )
    return np.array([values[path] for path in paths])


def decode(files: ImageFiles, console: Console) -> Any:
    """Decode all images, unless they take too much memory; they are then decoded when needed."""
    if prod(files.shape) * files.dtype.itemsize > MEMORY:
        return files
    images = np.empty(files.shape, files.dtype)
    with console.progress("Reading the images", len(files)) as update:
        for rows in gen_batches(len(files), 64):
            images[rows] = files[rows]
            update(rows.stop)
    return images
