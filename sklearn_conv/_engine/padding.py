"""``padding``, how much is put around an image, and ``padding_mode``, with what."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

OUTSIDE = -1
"""Index of a row or column that is not in the image: zeros stand there."""

PADDING_MODES: dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
    "constant": partial(np.pad, mode="constant", constant_values=OUTSIDE),
    "edge": partial(np.pad, mode="edge"),
    "reflect": partial(np.pad, mode="reflect"),
    "symmetric": partial(np.pad, mode="symmetric"),
    "wrap": partial(np.pad, mode="wrap"),
}
"""Name -> how the indices ``0 ... length - 1`` of the rows or columns go on before and after."""


def padding_amounts(padding: str | int, length: int, span: int, stride: int) -> tuple[int, int]:
    """Rows to add before and after an axis of ``length`` for windows that span ``span`` of it.

    "same" adds what ``ceil(length / stride)`` windows need, the smaller half first, as TensorFlow,
    JAX and ONNX's SAME_UPPER do.
    """
    if padding == "same":
        n_windows = -(-length // stride)
        total = max((n_windows - 1) * stride + span - length, 0)
        return total // 2, total - total // 2
    amount = 0 if padding == "valid" else int(padding)
    return amount, amount


def source_index(length: int, amounts: tuple[int, int], padding_mode: str) -> np.ndarray:
    """Row of the image that stands at each row of the padded image, or `OUTSIDE`.

    Examples
    --------
    >>> source_index(4, (2, 1), "reflect")
    array([2, 1, 0, 1, 2, 3, 2])
    >>> source_index(4, (2, 1), "constant")
    array([-1, -1,  0,  1,  2,  3, -1])
    """
    return PADDING_MODES[padding_mode](np.arange(length), amounts)
