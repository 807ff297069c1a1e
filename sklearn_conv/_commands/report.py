"""Validate a classifier of images, and write a report as one HTML page with its pictures.

The page is report.html, a template of Jinja2, with the style in report.css.
"""

from __future__ import annotations

import warnings
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import datetime
from importlib import resources
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from matplotlib.figure import Figure
from sklearn.base import clone
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import FeatureUnion, Pipeline

from sklearn_conv._commands.console import format_seconds, one_line, printable
from sklearn_conv._reading.image_files import ImageFiles
from sklearn_conv._saving.files import replace_file
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._versions import show_versions
from sklearn_conv.inspection._class_activation import (
    ClassActivationDisplay,
    class_activation_map,
)
from sklearn_conv.inspection._drawing import show_image
from sklearn_conv.inspection._kernels import KernelDisplay

N_MISTAKES = 6
"""Number of mistakes that are shown."""


SHOWN_SIZES = 10
"""Number of sizes of files that are listed."""

MAX_NUMBERS = 30
"""Number of classes above which the confusion matrix has colors only."""

SHOWN_LETTERS = 24
"""Number of letters of a name in a picture."""


class Mistake(NamedTuple):
    """A wrong prediction for an image that was not used for fitting."""

    row: int
    """Index of the image."""
    predicted: str
    margin: float
    """Decision for the predicted class, minus that for the true class."""
    evidence: np.ndarray | None
    """What each pixel, (h, w), contributes to the margin; None if the model is not linear."""


class Evaluation(NamedTuple):
    """Result of a cross-validation."""

    predicted: np.ndarray
    """Predicted class of each image, (n,), by the model that was fitted without it."""
    accuracies: np.ndarray
    """Accuracy in each fold."""
    baseline: float
    """Accuracy of always predicting the most frequent class."""
    mistakes: Sequence[Mistake]
    """The mistakes with the largest margins."""
    no_evidence: str
    """Why there is no evidence for the mistakes, or ""."""


def evaluate(
    pipeline: Pipeline,
    images: Any,
    labels: Any,
    n_folds: int,
    random_state: int | None,
    update: Callable[[int], None],
) -> Evaluation:
    """Cross-validate a classifier of images, which are an array or `ImageFiles`.

    ``update`` is called with the number of folds that are done. Only one fitted model is in memory
    at a time. The evidence for the mistakes of a fold is therefore computed before the next fold,
    although some of them will not be among the worst.
    """
    predicted = labels.copy()
    accuracies, mistakes, no_evidence = np.empty(n_folds), [], ""
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
    for fold, (train, test) in enumerate(folds.split(labels, labels)):
        model = clone(pipeline).fit(images[train], labels[train])
        decisions = model.decision_function(images[test])
        if decisions.ndim == 1:  # For two classes, it is the decision for the second one.
            decisions = np.stack([-decisions, decisions], axis=1)
        best = decisions.argmax(axis=1)
        true = np.searchsorted(model.classes_, labels[test])
        predicted[test] = model.classes_[best]
        accuracies[fold] = np.mean(best == true)
        rows = np.arange(len(test))
        margins = decisions[rows, best] - decisions[rows, true]
        worst = np.argsort(-margins, kind="stable")[:N_MISTAKES]
        worst = worst[best[worst] != true[worst]]
        maps = None
        if len(worst):
            try:
                maps = class_activation_map(model, np.asarray(images[test[worst]]))
            except (TypeError, ValueError) as error:
                no_evidence = str(error)
            else:
                maps = np.concatenate([-maps, maps], axis=3) if maps.shape[3] == 1 else maps
        for k, i in enumerate(worst):
            evidence = None if maps is None else maps[k, ..., best[i]] - maps[k, ..., true[i]]
            name = str(model.classes_[best[i]])
            mistakes.append(Mistake(int(test[i]), name, float(margins[i]), evidence))
        update(fold + 1)
    mistakes.sort(key=lambda mistake: -mistake.margin)
    return Evaluation(
        predicted=predicted,
        accuracies=accuracies,
        baseline=float(np.unique(labels, return_counts=True)[1].max() / len(labels)),
        mistakes=mistakes[:N_MISTAKES],
        no_evidence=no_evidence,
    )


def write_report(
    path: Path,
    files: ImageFiles,
    images: Any,
    sizes: Counter[tuple[int, ...]],
    evaluation: Evaluation,
    pipeline: Pipeline,
    seconds: Mapping[str, float],
    settings: Mapping[str, Any],
) -> None:
    """Write the page.

    ``images`` are those of ``files``, (n, h, w, c), which have the ``sizes`` (height, width), and
    ``seconds`` is how long each step took. Only the template uses ``settings``: the folder, the
    command line, and the options of `read_images` and of the recipe.
    """
    labels, predicted = files.labels, evaluation.predicted
    assert labels is not None
    classes, counts = np.unique(labels, return_counts=True)
    names = [printable(name) for name in classes.tolist()]
    matrix = confusion_matrix(labels, predicted, labels=classes)
    steps: dict[str, Any] = {}
    for name, step in pipeline.steps:  # The steps of a union are steps of their own.
        steps |= dict(step.transformer_list) if isinstance(step, FeatureUnion) else {name: step}
    kernels = {}
    for name, step in steps.items():
        if isinstance(step, StridedConv2DTransformer):
            figure = Figure(figsize=(6, 6), layout="constrained")
            KernelDisplay.from_estimator(step, ax=figure.subplots())
            kernels[name] = _encode(figure)
    versions = StringIO()
    with redirect_stdout(versions):
        show_versions()
    environment = Environment(
        loader=FunctionLoader(
            lambda name: resources.files(__package__).joinpath(name).read_text("utf-8")
        ),
        autoescape=True,
        finalize=_show_control_characters,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        **settings,
        evaluation=evaluation,
        n_images=len(labels),
        shape=images.shape[1:],
        sizes=sizes.most_common(SHOWN_SIZES),
        other_sizes=[n for _, n in sizes.most_common()[SHOWN_SIZES:]],
        skipped=files.skipped,
        identical=_describe_identical(files),
        frequent=[name for name, n in zip(names, counts, strict=True) if n == counts.max()],
        classes=_describe_classes(names, counts, matrix),
        confusion=_draw_confusion(matrix, names),
        n_wrong=int((predicted != labels).sum()),
        mistakes=[_describe_mistake(each, files, images, labels) for each in evaluation.mistakes],
        kernels=kernels,
        # The indentation of long representations would be too wide for phones.
        steps="\n\n".join(f"{name}: {one_line(repr(step))}" for name, step in steps.items()),
        seconds=[(name, format_seconds(value)) for name, value in seconds.items()],
        versions=versions.getvalue(),
        date=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    with replace_file(str(path)) as file:
        file.write(page.encode())


def _show_control_characters(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _describe_identical(files: ImageFiles) -> list[tuple[str, str]]:
    """Return the paths of each group of identical files, and their classes if these differ."""
    assert files.paths is not None
    assert files.labels is not None
    labels = dict(zip(files.paths.tolist(), files.labels.tolist(), strict=True))
    classes = [dict.fromkeys(labels[path] for path in group) for group in files.identical]
    return [
        (", ".join(group), ", ".join(names) if len(names) > 1 else "")
        for group, names in zip(files.identical, classes, strict=True)
    ]


def _describe_classes(
    names: Sequence[str], counts: np.ndarray, matrix: np.ndarray
) -> list[tuple[Any, ...]]:
    """Return the number of each class, its name, recall, and the classes it is taken for."""
    rows = []
    for i, (name, count) in enumerate(zip(names, counts.tolist(), strict=True)):
        right, others = matrix[i, i], np.delete(matrix[i], i)
        most = [j for j, n in enumerate(matrix[i]) if j != i and n == others.max() > 0]
        taken = ", ".join(f"{names[j]} ({matrix[i, j]:,})" for j in most)
        rows.append((i + 1, name, f"{right / count:.3f}", f"{right:,} of {count:,}", taken))
    return rows


def _describe_mistake(
    mistake: Mistake, files: ImageFiles, images: Any, labels: np.ndarray
) -> dict[str, Any]:
    """Return what the report says about a mistake, with the image and its evidence."""
    assert files.paths is not None
    true, predicted = printable(str(labels[mistake.row])), printable(mistake.predicted)
    image, evidence = np.asarray(images[mistake.row]), mistake.evidence
    figure = Figure(figsize=(3, 3) if evidence is None else (6.8, 3.3), layout="constrained")
    axes = figure.subplots(1, 1 if evidence is None else 2, squeeze=False)[0]
    show_image(axes[0], image)
    if evidence is not None:
        classes = predicted[:SHOWN_LETTERS], true[:SHOWN_LETTERS]
        ClassActivationDisplay(image, evidence, *classes).plot(ax=axes[1])
    return {
        "true": true,
        "predicted": predicted,
        "margin": mistake.margin,
        "path": printable(str(files.paths[mistake.row])),
        "has_evidence": evidence is not None,
        "picture": _encode(figure),
    }


def _draw_confusion(matrix: np.ndarray, names: Sequence[str]) -> str:
    """Draw a confusion matrix whose columns have numbers, and whose rows have names as well."""
    n = len(names)
    side = float(np.clip(1.5 + 0.32 * n, 3, 12))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    ax = figure.subplots()
    ConfusionMatrixDisplay(matrix, display_labels=range(1, n + 1)).plot(
        ax=ax,
        cmap="Blues",
        colorbar=False,
        include_values=n <= MAX_NUMBERS,
        text_kw={"fontsize": 8},
        values_format="d",
    )
    rows = [f"{name[:SHOWN_LETTERS]}  {i}" for i, name in enumerate(names, 1)]
    ax.set_yticks(range(n), rows, parse_math=False)
    ax.tick_params(labelsize=8 if n <= 50 else 4)
    ax.set(xlabel="predicted class", ylabel="true class")
    return _encode(figure)


def _encode(figure: Any) -> str:
    """Return the data URI of a figure."""
    file = BytesIO()
    with warnings.catch_warnings():
        # The names of the classes are in the text of the report as well.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, format="png", dpi=120, facecolor="white")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
