"""The command `sklearn-conv regress`: from images and numbers to a report on a model."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold

from sklearn_conv._commands import classify as shared
from sklearn_conv._commands import options as cli
from sklearn_conv._commands.console import Console
from sklearn_conv._reading.image_files import ImageFiles
from sklearn_conv._reading.sources import list_some
from sklearn_conv._recipes import make_image_regressor

EXAMPLES = """\
| sklearn-conv regress tiles --table tiles.csv --target income --kind satellite --size 64,64 \
-o report.html
| sklearn-conv regress parts --table parts.csv --target roughness --groups batch \
--kind textures --size 96,96 -o report.html --save-model model.skops
"""

RECIPE = cli.derive_options(
    make_image_regressor,
    without={"n_jobs"},
    check=make_image_regressor,
    defaults={"kind": Parameter.empty, "random_state": cli.SEED},
)


@cli.with_options([*cli.READING, *RECIPE])
def regress(
    folder: str,
    /,
    *,
    output: shared.Report,
    table: Path,
    target: str,
    folds: shared.Folds = 5,
    groups: str | None = None,
    compare: Annotated[bool, cli.FLAG] = False,
    predictions: shared.Predictions = None,
    save_model: shared.Model = None,
    running: cli.Running = cli.RUNNING,
    console: Annotated[Console, cli.NOT_AN_OPTION],
    arguments: Annotated[Sequence[str], cli.NOT_AN_OPTION],
    **given: Any,
) -> None:
    """Predict a number for each image, and write a report on how well this works.

    The numbers are a column of a table. The model is the recipe for the kind of images. The report
    is a single HTML file with the cross-validated errors, how many targets are inside the predicted
    intervals, predicted and true numbers, the kernels, and the worst images. It explains each part.

    A saved model predicts numbers and intervals of other files with sklearn-conv predict.

    Parameters
    ----------
    folder
        Folder of images, or of folders of images.
    output
        Report to write, which ends in .html. An existing file is replaced.
    table
        CSV file with a row for each image: the column path, relative to FOLDER, and the column that
        --target names.
    target
        Column of the numbers that are predicted.
    folds
        Number of parts into which the images are divided to measure the errors.
    groups
        Column of the table that says what images belong together, such as those of a patient or a
        place, and are never divided between training and test.
    compare
        Cross-validate all efforts on the same folds, and list them side by side.
    predictions
        File for the predictions, which ends in .csv: path, target, prediction, lower and upper end
        of the interval for 90 percent, fold and group.
    save_model
        File for the model, such as model.skops, which is then fitted on all images: a pipeline
        whose method predict takes paths of images. The command predict applies it.
    """
    # Before the work, as the import may fail
    from sklearn_conv._commands import report

    start = monotonic()
    shared.check_table(table, predictions)
    recipe = {each.name: given.pop(each.name) for each in RECIPE if each.name in given}
    seed = recipe.setdefault("random_state", cli.SEED)
    files = shared.find_files("regress", folder, given, running, console)
    numbers = _read_numbers(table, target, folder, files)
    shared.check_rows(numbers, folds)
    grouped = shared.find_groups(groups, table, folder, files)
    cv: Any = KFold(folds, shuffle=True, random_state=seed)
    if grouped is not None:
        n_groups = len(np.unique(grouped))
        folds = shared.limit_folds(folds, n_groups, f"there are {n_groups} groups", console)
        cv = GroupKFold(folds, shuffle=True, random_state=seed)
    splits = [*cv.split(numbers, numbers, grouped)]
    images = shared.decode(files, console)
    pipeline, evaluation, scores = shared.evaluate_models(
        make_image_regressor, recipe, images, numbers, splits, compare, running, console
    )
    results: dict[str, Any] = {
        "folder": folder,
        "options": given,
        "recipe": recipe,
        "target": target,
    }
    results |= {"cv": repr(cv), "groups": groups, "source": str(table)}
    results |= report.describe_regression(evaluation, scores, files, images)
    model, baseline = scores[:2]
    results["score"] = (
        f"R² {model.r2:.3f}, MAE {model.mae:.4g}, RMSE {model.rmse:.4g} in {folds} folds"
    )
    results["more"] = [
        f"{100 * results['inside']:.1f}% inside intervals for 90%",
        f"{baseline.name} alone R² {baseline.r2:.3f}",
        f"always the mean MAE {results['mean'].mae:.4g}",
    ]
    columns = evaluation.table | ({} if grouped is None else {"group": grouped})
    outputs = output, predictions, save_model
    more = columns, outputs, results, arguments, console, start
    shared.finish(pipeline, files, images, numbers, *more)


def _read_numbers(table: Path, name: str, folder: str, files: ImageFiles) -> np.ndarray:
    """Return the numbers in a column of a table, in the order of the images."""
    values = shared.read_column(table, name, folder, files)
    wrong = [repr(value) for value in values.tolist() if not shared.is_number(value)]
    if wrong:
        raise cli.UsageError(
            f"The column {name!r} of {str(table)!r} must have numbers with a decimal point. "
            f"{len(wrong)} of {len(values)} are not: {list_some(wrong, 3)}. To predict classes, "
            "put the images of each class into a folder, and use sklearn-conv classify."
        )
    numbers = np.array([*map(float, values.tolist())])
    if np.ptp(numbers) == 0:
        raise cli.UsageError(
            f"The column {name!r} of {str(table)!r} has the same number in all rows, {values[0]}, "
            "so that there is nothing to learn; choose another column with --target."
        )
    return numbers
