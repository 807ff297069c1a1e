"""`KernelDisplay`: kernels as a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._validation import parameter_error
from sklearn_conv.inspection._drawing import find_transformer, make_axes

MAX_KERNELS = 64
"""Kernels that are drawn where nobody says which."""

TILE_INCHES = 0.75
"""The longer side of a kernel, on a figure of our own."""

GAP = 0.15
"""Between two kernels, in their longer side; above a kernel twice as much, for its name."""

MIN_FONT = 4
"""Names that would be smaller, in points, are left out."""


class KernelDisplay:
    """Kernels as a gallery, smooth ones first.

    Each kernel is divided by its length, so that the pattern of a weak one is as visible as that of
    a strong one, and all are drawn on one scale: mid-grey is 0. Kernels of three channels are drawn
    in colours, those of any other number with their channels side by side.

    Parameters
    ----------
    kernels : ndarray of shape (kh, kw, c, n_kernels)
        The kernels.
    names : sequence of str
        Their names.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of these.
    order_ : ndarray of int
        The kernels that are drawn, in the order of the gallery: row by row.

    See Also
    --------
    FeatureMapDisplay : Where in an image the kernels respond.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_conv import StridedConv2DTransformer
    >>> from sklearn_conv.inspection import KernelDisplay
    >>> transformer = StridedConv2DTransformer(16, kernel_size=5, kernels="pca", random_state=0)
    >>> display = KernelDisplay.from_estimator(transformer.fit(load_digits().images))
    >>> display.order_.shape
    (16,)
    """

    def __init__(self, kernels: np.ndarray, names: Sequence[str]) -> None:
        self.kernels = kernels
        self.names = names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        indices: npt.ArrayLike | None = None,
        channels: int | Sequence[int] | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the kernels of a fitted transformer.

        Parameters
        ----------
        estimator : StridedConv2DTransformer or Pipeline
            Fitted, or a pipeline that has one.
        indices : array-like of int, default=None
            Kernels to draw. None draws all, or, of more than 64, so many, evenly spread from smooth
            to fine.
        channels : int or sequence of int, default=None
            Channels to draw; three are red, green and blue. None draws all.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        display : KernelDisplay
            The display that was drawn.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        TypeError
            If ``estimator`` is or has no `StridedConv2DTransformer`, or ``indices`` or ``channels``
            are no integers.
        ValueError
            If there are no such kernels or channels.
        """
        _, transformer = find_transformer(cls.__name__, estimator)
        check_is_fitted(transformer)
        kernels = transformer.kernels_
        in_cell = transformer.get_feature_names_out()[: kernels.shape[3]]
        names = [name.split("_")[0] for name in in_cell]
        return cls(kernels, names).plot(indices=indices, channels=channels, ax=ax)

    def plot(
        self,
        *,
        indices: npt.ArrayLike | None = None,
        channels: int | Sequence[int] | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw the kernels.

        Parameters
        ----------
        indices, channels, ax
            As in `from_estimator`.

        Returns
        -------
        display : KernelDisplay
            This display.
        """
        name = type(self).__name__
        chosen = _choose(name, "channels", channels, self.kernels.shape[2])
        weights = np.asarray(self.kernels, np.float64)[:, :, chosen]
        lengths = np.sqrt(np.square(weights).sum(axis=(0, 1, 2)))
        weights /= np.where(lengths > 0, lengths, 1)
        n_kernels = weights.shape[3]
        order = np.argsort(_fineness(weights), kind="stable")
        if indices is not None:
            order = _choose(name, "indices", indices, n_kernels)
        elif n_kernels > MAX_KERNELS:
            order = order[np.linspace(0, n_kernels - 1, MAX_KERNELS).round().astype(int)]
        weights = weights[..., order]
        tiles = _tiles(weights / (np.quantile(np.abs(weights), 0.995) or 1))

        h, w = tiles[0].shape[0] / max(tiles[0].shape), tiles[0].shape[1] / max(tiles[0].shape)
        n_columns = min(len(tiles), max(1, round(np.sqrt(len(tiles) * (h + GAP) / (w + GAP)))))
        n_rows = -(-len(tiles) // n_columns)
        size = n_columns * (w + GAP), n_rows * (h + 2 * GAP)
        inches = max(4, TILE_INCHES * size[0]), TILE_INCHES * size[1] + 0.5
        ax = make_axes(name, ax, inches)
        points = 72 * ax.get_window_extent().width / ax.figure.dpi * (w + GAP) / size[0]
        font = min(8, points / (0.65 * max(len(self.names[k]) for k in order)))
        for i, (k, tile) in enumerate(zip(order, tiles, strict=True)):
            x, y = i % n_columns * (w + GAP), i // n_columns * (h + 2 * GAP)
            extent = (x, x + w, y + h, y)
            ax.imshow(tile, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
            if font >= MIN_FONT:
                ax.text(x + w / 2, y, self.names[k], ha="center", va="bottom", size=font)
        ax.set(xlim=(-GAP, size[0]), ylim=(size[1] - GAP, -2 * GAP), aspect="equal")
        ax.set_axis_off()
        of_all = f" of {n_kernels}" if len(order) < n_kernels else ""
        kh, kw = self.kernels.shape[:2]
        ax.set_title(f"{len(order)}{of_all} kernels of {kh} x {kw}, grey is 0", size=10)
        self.ax_, self.figure_, self.order_ = ax, ax.figure, order
        return self


def _choose(owner: str, name: str, chosen: Any, n: int) -> np.ndarray:
    """Check the indices of some of n things; None: all."""
    indices = np.atleast_1d(np.arange(n) if chosen is None else np.asarray(chosen))
    rule = f"None or integers from 0 to {n - 1}"
    if indices.dtype.kind not in "iu" or indices.ndim != 1:
        raise parameter_error(TypeError, owner, name, rule, chosen)
    if not len(indices) or indices.min() < 0 or indices.max() >= n:
        raise parameter_error(ValueError, owner, name, rule, chosen)
    return indices


def _fineness(kernels: np.ndarray) -> np.ndarray:
    """Square the steps from one weight to the next, ``(kh, kw, c, k) -> (k,)``.

    Of kernels of length 1 it is the mean square of their spatial frequency.
    """
    steps = [np.square(np.diff(kernels, axis=axis)).sum(axis=(0, 1, 2)) for axis in (0, 1)]
    return np.add(*steps)


def _tiles(weights: np.ndarray) -> list[np.ndarray]:
    """Make a picture of each kernel, 0.5 where weights are 0, ``(kh, kw, c, k) -> k x (h, w)``.

    ``(h, w, 3)`` of three channels; of others they stand side by side, a white line between them.
    """
    kernels = np.clip(np.moveaxis(weights, 3, 0) / 2 + 0.5, 0, 1)  # (k, kh, kw, c)
    if kernels.shape[3] == 3:
        return [*kernels]
    parted = np.pad(kernels, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=1)
    return [np.hstack(np.moveaxis(kernel, 2, 0))[:, :-1] for kernel in parted]
