"""Validate models of images, and write a report as one HTML page with its pictures.

The pages are templates of Jinja2: classify.html and regress.html extend report.html, with the style
in report.css.
"""

from __future__ import annotations

import warnings
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import datetime
from importlib import import_module, resources
from importlib.util import find_spec
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.image import imsave
from sklearn.base import is_classifier
from sklearn.calibration import CalibrationDisplay
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    confusion_matrix,
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

from sklearn_conv._commands.console import format_seconds, one_line, printable
from sklearn_conv._out_of_fold import predict_folds
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
"""Number of mistakes that are shown with their evidence."""

SMALL, MAX_BYTES = 48, 5_000_000
"""Longer side of the small pictures of all mistakes in pixels, and their size together."""

NOVEL = 0.99
"""Novelty above which images are named."""

BASELINES = {
    True: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    False: make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 7))),
}
"""Classifier and regressor of the colors."""

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
    """What each pixel, (h, w), contributes to the margin; None if the model is not linear, and for
    mistakes that are not among the worst of their fold."""


class Evaluation(NamedTuple):
    """Result of a cross-validation."""

    table: dict[str, np.ndarray]
    """Columns of `cross_val_table`."""
    mistakes: Sequence[Mistake]
    """All mistakes; those with the largest margins come first."""
    no_evidence: str
    """Why there is no evidence for the mistakes, or ""."""


class Score(NamedTuple):
    """What a model reached in the cross-validation."""

    name: str
    accuracies: np.ndarray
    """Accuracy in each fold."""
    balanced: float
    """Mean recall of the classes."""
    loss: float
    """Log loss of the probabilities."""
    seconds: float


class Errors(NamedTuple):
    """What a regressor reached in the cross-validation, or in a fold."""

    name: str
    r2: float
    """Coefficient of determination, NaN for a single image."""
    mae: float
    rmse: float
    seconds: float


def measure(name: str, table: Mapping[str, np.ndarray], seconds: float) -> Errors:
    """Measure the errors of the predictions of a regressor."""
    both = table["target"], table["predicted"]
    r2 = r2_score(*both) if len(both[0]) > 1 else np.nan
    mae, rmse = mean_absolute_error(*both), root_mean_squared_error(*both)
    return Errors(name, r2, mae, rmse, seconds)


def score(name: str, table: Mapping[str, np.ndarray], seconds: float) -> Score:
    """Score the predictions of a classifier in a cross-validation."""
    labels, right = table["label"], table["label"] == table["predicted"]
    classes, codes = np.unique(labels, return_inverse=True)
    recalls = np.bincount(codes, right) / np.bincount(codes)
    chosen = _probabilities(table, classes)[np.arange(len(labels)), codes]
    loss = -np.log(np.maximum(chosen, np.finfo(np.float64).eps)).mean()
    accuracies = np.array([right[table["fold"] == fold].mean() for fold in _folds(table)])
    return Score(name, accuracies, float(recalls.mean()), float(loss), seconds)


def _folds(table: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.unique(table["fold"])


def _probabilities(table: Mapping[str, np.ndarray], classes: np.ndarray) -> np.ndarray:
    """Return the probabilities of the classes, (n, n_classes)."""
    return np.stack([table[f"probability_{name}"] for name in classes], axis=1)


def evaluate(
    pipeline: Pipeline,
    images: Any,
    y: np.ndarray,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    update: Callable[[int], None],
) -> Evaluation:
    """Cross-validate a model of images, which are an array or `ImageFiles`.

    ``update`` is called with the number of folds that are done. Only one fitted model is in memory
    at a time. The evidence for the mistakes of a classifier in a fold is therefore computed before
    the next fold, although some of them will not be among the worst.
    """
    mistakes, no_evidence = [], ""

    def find_mistakes(model: Any, test: np.ndarray, features: Any) -> None:
        nonlocal no_evidence
        if not is_classifier(model):
            return
        decisions = model[-1].decision_function(features)
        if decisions.ndim == 1:  # For two classes, it is the decision for the second one.
            decisions = np.stack([-decisions, decisions], axis=1)
        best = decisions.argmax(axis=1)
        true = np.searchsorted(model.classes_, y[test])
        rows = np.arange(len(test))
        margins = decisions[rows, best] - decisions[rows, true]
        worst = np.argsort(-margins, kind="stable")
        worst = worst[best[worst] != true[worst]]
        maps: Any = ()
        if len(worst):
            try:
                shown = images[test[worst[:N_MISTAKES]]]
                maps = class_activation_map(model, np.asarray(shown), classes=model.classes_)
            except (TypeError, ValueError) as error:
                no_evidence = str(error)
        for k, i in enumerate(worst):
            evidence = maps[k, ..., best[i]] - maps[k, ..., true[i]] if k < len(maps) else None
            name = str(model.classes_[best[i]])
            mistakes.append(Mistake(int(test[i]), name, float(margins[i]), evidence))

    table = predict_folds(pipeline, images, y, splits, after_fold=find_mistakes, update=update)
    mistakes.sort(key=lambda mistake: -mistake.margin)
    return Evaluation(table, mistakes, no_evidence)


def describe_colors(images: Any) -> tuple[np.ndarray, str]:
    """Return simple features of images, (n, n_features), and their name.

    They are the mean and the standard deviation of each channel and, if scikit-image is installed,
    a histogram of local binary patterns.
    """
    has_patterns = find_spec("skimage") is not None
    patterns = import_module("skimage.feature").local_binary_pattern if has_patterns else None
    rows = []
    for batch in gen_batches(len(images), 64):
        pixels = np.asarray(images[batch], np.float64)
        columns = [pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))]
        if patterns:
            gray = pixels.mean(axis=3)
            gray -= gray.min(axis=(1, 2), keepdims=True)
            gray *= 255 / np.maximum(gray.max(axis=(1, 2), keepdims=True), 1e-300)
            codes = [patterns(image, 8, 1, "uniform") for image in gray.round().astype(np.uint8)]
            columns.append(
                np.stack([np.bincount(code.astype(int).ravel(), minlength=10) for code in codes])
            )
        rows.append(np.concatenate(columns, axis=1))
    return np.concatenate(rows), "colors and local binary patterns" if patterns else "colors"


def describe_classification(
    evaluation: Evaluation, scores: Sequence[Score], files: ImageFiles, images: Any
) -> dict[str, Any]:
    """Return the variables of classify.html."""
    table = evaluation.table
    labels, predicted, folds = table["label"], table["predicted"], table["fold"]
    classes, counts = np.unique(labels, return_counts=True)
    names = [printable(name) for name in classes.tolist()]
    matrix = confusion_matrix(labels, predicted, labels=classes)
    best = _probabilities(table, classes).max(axis=1)
    right = predicted == labels
    bins = np.minimum(best * 15, 14).astype(int)
    novel = np.flatnonzero(table["novelty"] > NOVEL)
    assert files.paths is not None
    small, n_left = _draw_all(
        [each.row for each in evaluation.mistakes],
        [f"of {labels[each.row]}, predicted as {each.predicted}" for each in evaluation.mistakes],
        [f"{table[f'probability_{each.predicted}'][each.row]:.2f}" for each in evaluation.mistakes],
        files,
        images,
    )
    return {
        "template": "classify.html",
        "accuracies": scores[0].accuracies,
        "balanced": scores[0].balanced,
        "is_unequal": bool(counts.min() < counts.max()),
        "compared": [
            (
                each.name,
                f"{each.accuracies.mean():.3f} ± {each.accuracies.std():.3f}",
                f"{each.balanced:.3f}",
                f"{each.loss:.3f}",
                format_seconds(each.seconds),
            )
            for each in scores
        ],
        "loss": scores[0].loss,
        "has_patterns": "patterns" in scores[1].name,
        "most_frequent": float(counts.max() / len(labels)),
        "frequent": [name for name, n in zip(names, counts, strict=True) if n == counts.max()],
        "classes": _describe_classes(names, counts, matrix),
        "confusion": _draw_confusion(matrix, names),
        "reliability": _draw_reliability(right, best),
        "calibration_error": float(np.abs(np.bincount(bins, right - best)).sum() / len(best)),
        "n_wrong": len(evaluation.mistakes),
        "no_evidence": evaluation.no_evidence,
        "mistakes": [
            _describe_mistake(each, table, files, images)
            for each in evaluation.mistakes[:N_MISTAKES]
        ],
        "small": small,
        "n_left": n_left,
        "novel_from": NOVEL,
        "novel": [str(files.paths[row]) for row in novel[np.argsort(-table["novelty"][novel])]],
        "identical": _describe_identical(files, labels, folds),
    }


def describe_regression(
    evaluation: Evaluation, scores: Sequence[Errors], files: ImageFiles, images: Any
) -> dict[str, Any]:
    """Return the variables of regress.html."""
    table = evaluation.table
    target, predicted, folds = table["target"], table["predicted"], table["fold"]
    inside = (table["lower"] <= target) & (target <= table["upper"])
    half = (table["upper"] - table["lower"]) / 2
    errors = predicted - target
    worst = np.argsort(-np.abs(errors), kind="stable")
    outside = worst[~inside[worst]]
    small, n_left = _draw_all(
        outside,
        [f"predicted too {'high' if error > 0 else 'low'}" for error in errors[outside]],
        [f"{predicted[i]:.4g} instead of {target[i]:.4g}" for i in outside],
        files,
        images,
    )
    constant = {"target": target, "predicted": np.full(len(target), target.mean())}
    compared = [*scores, measure("always the mean", constant, 0.0)]
    by_fold, gains = [], []
    for fold in _folds(table):
        rows = folds == fold
        part = {"target": target[rows], "predicted": predicted[rows]}
        found = _format(measure("", part, 0.0))
        by_fold.append((fold, f"{rows.sum():,}", *found, f"{inside[rows].mean():.3f}"))
        gains.append(((target[rows] - target.mean()) ** 2 - errors[rows] ** 2).mean())
    assert files.paths is not None
    return {
        "template": "regress.html",
        "errors": scores[0],
        "baseline": scores[1],
        "mean": compared[-1],
        "is_better": np.mean(gains) > np.std(gains),
        "by_fold": by_fold,
        "compared": [
            (each.name, *_format(each), format_seconds(each.seconds)) for each in compared
        ],
        "inside": float(inside.mean()),
        "half_width": float(half.mean()) if np.isfinite(half).all() else None,
        "has_patterns": "patterns" in scores[1].name,
        "plot": _draw_predictions(target, predicted, half.mean()),
        "n_outside": len(outside),
        "worst": [
            (
                _draw_image(np.asarray(images[row])),
                f"target {target[row]:.4g}, predicted {predicted[row]:.4g} "
                f"({table['lower'][row]:.4g} to {table['upper'][row]:.4g}): {files.paths[row]}",
            )
            for row in worst[:N_MISTAKES]
        ],
        "small": small,
        "n_left": n_left,
        "identical": _describe_identical(files, target, folds),
    }


def _format(errors: Errors) -> tuple[str, str, str]:
    r2 = "none" if np.isnan(errors.r2) else f"{errors.r2:.3f}"
    return r2, f"{errors.mae:.4g}", f"{errors.rmse:.4g}"


def write_report(
    path: Path,
    files: ImageFiles,
    images: Any,
    sizes: Counter[tuple[int, ...]],
    pipeline: Pipeline,
    seconds: Mapping[str, float],
    results: Mapping[str, Any],
) -> None:
    """Write the page.

    ``images`` are those of ``files``, (n, h, w, c), which have the ``sizes`` (height, width), and
    ``seconds`` is how long each step took. ``results`` are the other variables of the template: the
    folder, the command line, the options of `read_images` and of the recipe, and what was measured.
    """
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
    page = environment.get_template(results["template"]).render(
        **results,
        n_images=len(files),
        shape=images.shape[1:],
        sizes=sizes.most_common(SHOWN_SIZES),
        other_sizes=[n for _, n in sizes.most_common()[SHOWN_SIZES:]],
        skipped=files.skipped,
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


def _describe_identical(
    files: ImageFiles, y: np.ndarray, folds: np.ndarray
) -> list[tuple[str, ...]]:
    """Return the paths of each group of identical files, and their y and folds if several."""
    assert files.paths is not None
    rows = {path: i for i, path in enumerate(files.paths.tolist())}
    described = []
    for group in files.identical:
        same = [rows[path] for path in group]
        kinds, parts = (dict.fromkeys(map(str, values[same])) for values in (y, folds))
        several = (", ".join(names) if len(names) > 1 else "" for names in (kinds, parts))
        described.append((", ".join(group), *several))
    return described


def _describe_classes(
    names: Sequence[str], counts: np.ndarray, matrix: np.ndarray
) -> list[tuple[Any, ...]]:
    """Return the name of each class, its scores, and the classes it is taken for."""
    rows = []
    for i, (name, count) in enumerate(zip(names, counts.tolist(), strict=True)):
        right, others = matrix[i, i], np.delete(matrix[i], i)
        n_predicted = matrix[:, i].sum()
        precision = right / n_predicted if n_predicted else 0.0
        scores = precision, right / count, 2 * right / (count + n_predicted)
        most = [j for j, n in enumerate(matrix[i]) if j != i and n == others.max() > 0]
        taken = ", ".join(f"{names[j]} ({matrix[i, j]:,})" for j in most)
        rows.append((name, *(f"{x:.3f}" for x in scores), f"{right:,} of {count:,}", taken))
    return rows


def _describe_mistake(
    mistake: Mistake, table: Mapping[str, np.ndarray], files: ImageFiles, images: Any
) -> dict[str, Any]:
    """Return what the report says about a mistake, with the image and its evidence."""
    assert files.paths is not None
    row = mistake.row
    true, predicted = printable(str(table["label"][row])), printable(mistake.predicted)
    image, evidence = np.asarray(images[row]), mistake.evidence
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
        "probability": table[f"probability_{mistake.predicted}"][row],
        "novelty": table["novelty"][row],
        "path": str(files.paths[row]),
        "has_evidence": evidence is not None,
        "picture": _encode(figure),
    }


def _draw_image(image: np.ndarray) -> str:
    figure = Figure(figsize=(3, 3), layout="constrained")
    show_image(figure.subplots(), image)
    return _encode(figure)


def _draw_all(
    rows: Iterable[int], kinds: Sequence[str], texts: Sequence[str], files: ImageFiles, images: Any
) -> tuple[list[tuple[str, list[dict[str, str]]]], int]:
    """Return small pictures of images of each kind with texts, and how many do not fit."""
    assert files.paths is not None
    drawn: dict[str, list[dict[str, str]]] = {}
    size = n_shown = 0
    for row, kind, text in zip(rows, kinds, texts, strict=True):
        if size > MAX_BYTES:
            break
        picture = draw_small(np.asarray(images[row]))
        size += len(picture)
        n_shown += 1
        shown = {"picture": picture, "path": files.paths[row], "text": text}
        drawn.setdefault(kind, []).append(shown)
    return sorted(drawn.items(), key=lambda pair: -len(pair[1])), len(kinds) - n_shown


def draw_small(image: np.ndarray) -> str:
    """Return the data URI of a small picture."""
    step = -(-max(image.shape[:2]) // SMALL)
    pixels = np.nan_to_num(image[::step, ::step].astype(np.float64))
    if pixels.shape[2] != 3:
        pixels = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    if image.dtype != np.uint8:
        pixels = 255 * (pixels - pixels.min()) / (np.ptp(pixels) or 1)
    file = BytesIO()
    imsave(file, pixels.astype(np.uint8), format="jpeg", pil_kwargs={"quality": 75})
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def _draw_reliability(right: np.ndarray, best: np.ndarray) -> str:
    """Draw how often predictions are right, for each probability of the predicted class."""
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    ax = figure.subplots()
    CalibrationDisplay.from_predictions(right, best, n_bins=10, pos_label=True, ax=ax)
    ax.set(xlabel="probability of the predicted class", ylabel="fraction that is right")
    return _encode(figure)


def _draw_predictions(target: np.ndarray, predicted: np.ndarray, half: float) -> str:
    """Draw predicted and true numbers, and the mean interval around the diagonal."""
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    ax = figure.subplots()
    low, high = min(target.min(), predicted.min()), max(target.max(), predicted.max())
    ends = np.array([low, high]) + np.array([-0.05, 0.05]) * (high - low)
    if np.isfinite(half):
        ax.fill_between(ends, ends - half, ends + half, color="black", alpha=0.1, linewidth=0)
    ax.plot(ends, ends, "k--")
    ax.scatter(predicted, target, s=9, alpha=0.5)
    ax.set(xlim=ends, ylim=ends, aspect="equal", xlabel="predicted", ylabel="target")
    return _encode(figure)


def _draw_confusion(matrix: np.ndarray, names: Sequence[str]) -> str:
    """Draw a confusion matrix."""
    n = len(names)
    side = float(np.clip(2 + 0.32 * n, 3.5, 12))
    figure = Figure(figsize=(side, side), layout="constrained")
    ax = figure.subplots()
    ConfusionMatrixDisplay(matrix).plot(
        ax=ax,
        cmap="Blues",
        colorbar=False,
        include_values=n <= MAX_NUMBERS,
        text_kw={"fontsize": 8},
        values_format="d",
    )
    shown = [name[:SHOWN_LETTERS] for name in names]
    ax.set_xticks(range(n), shown, parse_math=False, rotation=90)
    ax.set_yticks(range(n), shown, parse_math=False)
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
