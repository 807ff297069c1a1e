"""Draw the pictures of a report, and encode them as data URIs."""

from __future__ import annotations

import warnings
from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv.inspection._class_activation import ClassActivationDisplay
from sklearn_conv.inspection._kernels import KernelDisplay

DPI = 120

MAX_NUMBERS = 30
"""Number of classes above which the confusion matrix has colors only."""

SHOWN_LETTERS = 24
"""Number of letters of a name in a picture."""


def draw_confusion(matrix: np.ndarray, names: Sequence[str]) -> str:
    """Draw a confusion matrix whose columns have numbers, and whose rows have names as well."""
    n = len(names)
    side = float(np.clip(1.5 + 0.32 * n, 3, 12))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    ax = figure.subplots()
    display = ConfusionMatrixDisplay(matrix, display_labels=range(1, n + 1))
    display.plot(
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


def draw_kernels(transformer: StridedConv2DTransformer) -> str:
    """Draw the kernels of a fitted transformer."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    KernelDisplay.from_estimator(transformer, ax=figure.subplots())
    return _encode(figure)


def draw_mistake(image: np.ndarray, evidence: np.ndarray | None, predicted: str, true: str) -> str:
    """Draw an image, and the evidence for one class and against another."""
    if evidence is None:
        figure = Figure(figsize=(3, 3), layout="constrained")
        ax = figure.subplots()
        ax.imshow(_to_gray_or_color(image), cmap="gray")
        ax.set_axis_off()
        return _encode(figure)
    figure = Figure(figsize=(6.8, 3.3), layout="constrained")
    names = [name[:SHOWN_LETTERS] for name in (predicted, true)]
    ClassActivationDisplay(image, evidence, *names).plot(ax=figure.subplots())
    return _encode(figure)


def _to_gray_or_color(image: np.ndarray) -> np.ndarray:
    """Scale an image to values from 0 to 1; if it does not have colors, return its mean."""
    pixels = image[..., :3] if image.shape[2] >= 3 else image.mean(axis=2)
    low, high = float(pixels.min()), float(pixels.max())
    return (pixels - low) / ((high - low) or 1.0)


def _encode(figure: Any) -> str:
    """Return the data URI of a figure."""
    file = BytesIO()
    with warnings.catch_warnings():
        # The names of the classes are in the text of the report as well.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
