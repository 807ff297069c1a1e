"""Write the report of a classification as a single HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix

from sklearn_conv._commands.console import format_seconds
from sklearn_conv._commands.evaluation import Evaluation, Mistake
from sklearn_conv._commands.messages import one_line, printable
from sklearn_conv._commands.pictures import draw_confusion, draw_kernels, draw_mistake
from sklearn_conv._transformer import StridedConv2DTransformer

SHOWN_SIZES = 10
"""Number of sizes of files that are listed."""


class Result(NamedTuple):
    """What the report contains."""

    folder: str
    command: str
    """The command line."""
    code: str
    """Python code that makes the same model."""
    labels: np.ndarray
    """True class of each image, (n,)."""
    paths: np.ndarray
    """Path of each image, (n,)."""
    images: Any
    """The images, (n, h, w, c), an array or `ImageFiles`."""
    sizes: Mapping[tuple[int, int], int]
    """Number of files of each size, (height, width)."""
    skipped: Sequence[tuple[str, str]]
    """Path of each file that was left out, and the reason."""
    evaluation: Evaluation
    steps: Mapping[str, Any]
    """The steps of the pipeline by name; the transformers are fitted."""
    seconds: Mapping[str, float]
    """Duration of each step."""
    versions: str
    date: str

    @property
    def baseline(self) -> tuple[str, float]:
        """The most frequent class, and the accuracy of always predicting it."""
        classes, counts = np.unique(self.labels, return_counts=True)
        return str(classes[counts.argmax()]), float(counts.max() / counts.sum())

    @property
    def accuracy(self) -> tuple[float, float]:
        """Mean and standard deviation of the accuracy over the folds."""
        accuracies = self.evaluation.accuracies
        return float(np.mean(accuracies)), float(np.std(accuracies))


STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2530; --weak: #5b6673;
  --line: #d9dee4; --card: #f3f5f8; --accent: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --text: #e4e8ed; --weak: #a3adb8;
  --line: #37404a; --card: #1f252c; --accent: #8ab8ec; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--back);
  color: var(--text); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
a { color: var(--accent); }
nav { margin: 1rem 0; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
.weak, figcaption { color: var(--weak); font-size: .9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin: 1rem 0; }
.cards div { background: var(--card); border-radius: .5rem; padding: .75rem 1rem; }
.cards b { display: block; font-size: clamp(1rem, 4.5vw, 1.25rem); white-space: nowrap; }
.notice { border-left: 4px solid #d08700; padding: .25rem 0 .25rem 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: normal; }
th { font-weight: 600; white-space: nowrap; }
td.name { overflow-wrap: anywhere; min-width: 7rem; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: .4rem;
  display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
  gap: 0 1.5rem; }
pre { background: var(--card); border-radius: .5rem; padding: .75rem 1rem; overflow-x: auto;
  font-size: .85rem; white-space: pre-wrap; }
dt { font-weight: 600; margin-top: 1rem; }
dd { margin: 0; }
"""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: the pictures and the style that it contains."""


def make_report(result: Result) -> str:
    """Return the page."""
    mean, deviation = result.accuracy
    name, baseline = result.baseline
    classes, counts = np.unique(result.labels, return_counts=True)
    names = [printable(str(each)) for each in classes]
    matrix = confusion_matrix(result.labels, result.evaluation.predicted, labels=classes)
    n_folds = len(result.evaluation.accuracies)
    is_tie = np.count_nonzero(counts == counts.max()) > 1
    frequent = "the same class" if is_tie else f"the most frequent class, {_text(name)},"
    lead = (
        f"<p>The model recognizes the class of {mean:.1%} of the images that it has not seen "
        f"before. Always choosing {frequent} would be right for {baseline:.1%}.</p>"
    )
    if mean - deviation <= baseline:
        lead += (
            '<p class="notice">This is not clearly better than always choosing the most frequent '
            "class. Try a larger size of the images, another kind, or more images.</p>"
        )
    cards = {
        "accuracy, mean and standard deviation": f"{mean:.3f} ± {deviation:.3f}",
        "accuracy of the most frequent class": f"{baseline:.3f}",
        "images": f"{len(result.labels):,}",
        "classes": f"{len(classes):,}",
    }
    sections = {
        "Accuracy": _accuracy(result),
        "Confusion matrix": _figure(
            draw_confusion(matrix, names),
            f"Confusion matrix of {len(names)} classes; the table of the classes has its main "
            "numbers.",
            "Number of images of each true class (row) that were predicted as each class (column). "
            "The numbers of the classes are those of the next table.",
        ),
        "Classes": _classes(names, counts, matrix),
        "Most certain mistakes": _mistakes(result),
        "Kernels": _kernels(result),
        "Data": _data(result),
        "Settings": _settings(result),
        "How to read this report": _explain(n_folds),
    }
    links = "".join(f'<a href="#{_anchor(each)}">{each}</a>' for each in sections)
    body = "".join(
        f'<section><h2 id="{_anchor(each)}">{each}</h2>{content}</section>\n'
        for each, content in sections.items()
    )
    boxes = "".join(f"<div><b>{value}</b>{label}</div>" for label, value in cards.items())
    title = f"Classification of images in {_text(result.folder)}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{title}</h1>\n{lead}<div class="cards">{boxes}</div>\n<nav>{links}</nav>\n{body}'
        f'<p class="weak">Written by sklearn-conv classify on {result.date}.</p>\n'
        "</body>\n</html>\n"
    )


def _accuracy(result: Result) -> str:
    accuracies = result.evaluation.accuracies
    rows = [[str(i), f"{accuracy:.3f}"] for i, accuracy in enumerate(accuracies, 1)]
    return (
        f"<p>Each of the {len(accuracies)} folds was predicted by a model that was fitted on the "
        f"others. The accuracy lies between {min(accuracies):.3f} and {max(accuracies):.3f}.</p>"
        f"{_table(['fold', 'accuracy'], rows)}"
    )


def _classes(names: Sequence[str], counts: np.ndarray, matrix: np.ndarray) -> str:
    rows = []
    for i, (name, count) in enumerate(zip(names, counts.tolist(), strict=True)):
        others = matrix[i].copy()
        others[i] = 0
        most = [j for j in range(len(names)) if others[j] and others[j] == others.max()]
        taken = ", ".join(f"{escape(names[j])} ({others[j]:,})" for j in most)
        recall = f"{matrix[i, i] / count:.3f}"
        rows.append([str(i + 1), escape(name), recall, f"{matrix[i, i]:,} of {count:,}", taken])
    header = ["", "class", "recall", "recognized", "most often taken for"]
    return _table(header, rows, names=(1, 4))


def _mistakes(result: Result) -> str:
    mistakes = result.evaluation.mistakes
    n_wrong = int((result.evaluation.predicted != result.labels).sum())
    if not n_wrong:
        return "<p>There are no mistakes.</p>"
    text = (
        f"<p>The predictions for {n_wrong:,} of {len(result.labels):,} images are wrong. These are "
        f"the {len(mistakes)} with the largest margins.</p>"
    )
    if result.evaluation.no_evidence:
        text += (
            '<p class="notice">This model does not show where in an image the evidence lies: '
            f"{_text(result.evaluation.no_evidence)}</p>"
        )
    return f'{text}<div class="pair">{"".join(_mistake(result, each) for each in mistakes)}</div>'


def _mistake(result: Result, mistake: Mistake) -> str:
    true = printable(str(result.labels[mistake.row]))
    predicted, path = printable(mistake.predicted), printable(str(result.paths[mistake.row]))
    image = np.asarray(result.images[mistake.row])
    more = "" if mistake.evidence is None else " Left the image, right the evidence in colors."
    return _figure(
        draw_mistake(image, mistake.evidence, predicted, true),
        f"{path}, predicted as {predicted} instead of {true}.{more}",
        f"true class {true}, predicted {predicted}, margin {mistake.margin:.2f}: {path}",
    )


def _kernels(result: Result) -> str:
    figures = [
        _figure(draw_kernels(step), f"Gallery of the kernels of {name}.", f"Kernels of {name}")
        for name, step in result.steps.items()
        if isinstance(step, StridedConv2DTransformer)
    ]
    return f'<div class="pair">{"".join(figures)}</div>'


def _data(result: Result) -> str:
    h, w, c = result.images.shape[1:]
    channels = "1 channel" if c == 1 else f"{c} channels"
    text = (
        f"<p>The model saw {len(result.labels):,} images of {h} x {w} pixels (height x width) and "
        f"{channels}. The files have these sizes:</p>"
    )
    sizes = sorted(result.sizes.items(), key=lambda item: -item[1])
    rows = [[f"{h} x {w}", f"{n:,}"] for (h, w), n in sizes[:SHOWN_SIZES]]
    if rest := sizes[SHOWN_SIZES:]:
        rows.append([f"{len(rest):,} other sizes", f"{sum(n for _, n in rest):,}"])
    text += _table(["height x width", "files"], rows)
    if not result.skipped:
        return f"{text}<p>No files were left out.</p>"
    skipped = [[_text(path), _text(reason)] for path, reason in result.skipped]
    table = _table(["file", "reason"], skipped, names=(0, 1))
    return f"{text}<h3>Files that were left out: {len(skipped):,}</h3>{table}"


def _settings(result: Result) -> str:
    # The indentation of long representations would be too wide for phones.
    steps = "\n\n".join(f"{name}: {one_line(repr(step))}" for name, step in result.steps.items())
    seconds = [[name, format_seconds(value)] for name, value in result.seconds.items()]
    return (
        f"<h3>Command</h3>{_code(result.command)}"
        f"<h3>The same model in Python</h3>{_code(result.code)}"
        f"<h3>Pipeline</h3>{_code(steps)}"
        f"<h3>Time</h3>{_table(['step', 'time'], seconds)}"
        f"<h3>Versions</h3>{_code(result.versions)}"
    )


def _explain(n_folds: int) -> str:
    parts = {
        "Accuracy": (
            "The fraction of images whose class was predicted correctly. The images were divided "
            f"at random into {n_folds} parts, the folds, with the same proportions of the classes. "
            "Each fold was predicted by a model that was fitted on the other folds, so that no "
            "model was tested on images that it had seen. The number after ± is the standard "
            "deviation over the folds. Do not rely on differences that are smaller. In a small "
            "fold, a single image changes the accuracy visibly."
        ),
        "Most frequent class": (
            "The accuracy of a model that does not look at the images, and always predicts the "
            "class with the most images. A useful model is clearly better."
        ),
        "Images that belong together": (
            "If several images show the same object, place, patient or day, then a model may have "
            "seen nearly the same image before, and the accuracy is too high. In this case, "
            "cross-validate in Python with GroupKFold of scikit-learn."
        ),
        "Confusion matrix": (
            "Each row is a true class, and each column is a predicted class, with the numbers of "
            "the rows. Images on the diagonal were predicted correctly. A dark square elsewhere "
            "means that the class of its row is often mistaken for the class of its column."
        ),
        "Classes": (
            "Recall is the fraction of the images of a class that were recognized. A class with a "
            "low recall needs more images, or looks like another class."
        ),
        "Most certain mistakes": (
            "The images for which the decision for the predicted class was furthest above the "
            "decision for the true class; the difference is the margin, which is not a "
            "probability. Look at them first: some may be in the wrong folder. Each was predicted "
            "by a model that had not seen it. In the picture on the right, orange pixels speak for "
            "the predicted class and against the true class, and purple pixels speak for the true "
            "class. All pixels together add up to the margin."
        ),
        "Kernels": (
            "The small patterns with which each window of an image is compared. A feature says how "
            "strongly the windows of an image resemble a kernel. Gray stands for 0. Kernels that "
            "were learned look like details of the images. Several galleries belong to several "
            "views of each image: normalized ones ignore brightness and contrast, absolute ones do "
            "not, and the number after absolute is the distance of their pixels in the image."
        ),
        "Data": (
            "The size of the images that the model saw, and the sizes of the files. Where files "
            "were reduced to this size, details that are smaller than its pixels are lost."
        ),
        "Settings": (
            "All that is needed to repeat this: the command, the parameters of the pipeline, and "
            "the versions of the packages."
        ),
    }
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{text}</dd>' for name, text in parts.items())}</dl>"


def _text(text: str) -> str:
    """Return text with control characters shown and markup escaped."""
    return escape(printable(text))


def _code(text: str) -> str:
    lines = "\n".join(map(_text, text.splitlines()))
    return f"<pre>{lines}</pre>"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], names: Sequence[int] = ()) -> str:
    """Return a table of escaped cells; ``names`` are the columns with long names."""
    head = "".join(f"<th>{each}</th>" for each in header)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="name">{cell}</td>' if i in names else f"<td>{cell}</td>"
            for i, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _figure(uri: str, alternative: str, caption: str) -> str:
    return (
        f'<figure><img src="{uri}" alt="{escape(alternative)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
