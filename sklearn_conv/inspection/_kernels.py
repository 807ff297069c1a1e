"""`KernelDisplay`: kernels as a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._validation import parameter_error
from sklearn_conv.inspection._drawing import PLAIN, SMALL_SIZE, TITLE_SIZE, make_axes
from sklearn_conv.inspection._model import find_transformer

GAP = 0.15
"""Gap between kernels as a fraction of their longer side. The gap above a kernel, which holds its
name, is twice as large."""


@dataclass(eq=False, repr=False)
class KernelDisplay:
    """Display of kernels as a gallery, the smoothest kernel first.

    Each kernel is divided by its norm, so that the pattern of a weak kernel is as visible as that
    of a strong one. All kernels are drawn on the same scale, and weights of 0 are medium gray.
    Kernels with three channels are drawn in color. For any other number of channels, the channels
    of a kernel are drawn side by side.

    Parameters
    ----------
    kernels : ndarray of shape (kh, kw, c, n_kernels)
        The kernels.
    names : sequence of str
        Names of the kernels.

    Attributes
    ----------
    figure_, ax_ : matplotlib Figure and Axes
        The figure, and the axes of the gallery.
    order_ : ndarray of int
        Indices of the drawn kernels, in the order of the gallery, row by row.

    See Also
    --------
    FeatureMapDisplay : Draw where in an image the kernels respond.

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

    kernels: np.ndarray
    names: Sequence[str]

    @classmethod
    def from_estimator(cls, estimator: Any, **options: Any) -> Self:
        """Draw the kernels of a fitted transformer.

        Parameters
        ----------
        estimator : StridedConv2DTransformer or Pipeline
            A fitted transformer, or a pipeline that contains one. It may be in a branch of a
            ``FeatureUnion`` or a ``ColumnTransformer``, but not beside another one.
        **options
            Options of `plot`.

        Returns
        -------
        display : KernelDisplay
            The display that was drawn.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        TypeError, ValueError
            If ``estimator`` does not have exactly one `StridedConv2DTransformer`, or if an option
            is wrong, as in `plot`.
        """
        transformer = find_transformer(cls.__name__, estimator)
        check_is_fitted(transformer)
        kernels = transformer.kernels_
        features = transformer.get_feature_names_out()[: kernels.shape[3]]
        names = [feature.split("_")[0] for feature in features]
        return cls(kernels, names).plot(**options)

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
        indices : array-like of int, default=None
            Indices of the kernels to draw, in this order. If None, all kernels are drawn, from the
            smoothest to the finest; if there are more than 64 kernels, 64 evenly spaced ones.
        channels : int or sequence of int, default=None
            Channels to draw; three channels are drawn as red, green and blue. If None, all channels
            are drawn.
        ax : matplotlib Axes, default=None
            Axes to draw into. If None, a figure is made.

        Returns
        -------
        display : KernelDisplay
            This display.

        Raises
        ------
        TypeError
            If ``indices`` or ``channels`` are not integers.
        ValueError
            If a kernel or a channel does not exist.
        """
        owner = type(self).__name__
        kh, kw, n_channels, n_kernels = self.kernels.shape
        drawn = _check_indices(owner, "channels", channels, n_channels)
        weights = np.asarray(self.kernels, np.float64)[:, :, drawn]
        norms = np.sqrt(np.square(weights).sum(axis=(0, 1, 2)))  # (n_kernels,)
        weights = weights / np.where(norms > 0, norms, 1)
        if indices is None:
            # The squared differences of neighbors measure the mean squared spatial frequency.
            differences = (np.square(np.diff(weights, axis=axis)) for axis in (0, 1))
            fineness = np.add(*(squares.sum(axis=(0, 1, 2)) for squares in differences))
            order = np.argsort(fineness, kind="stable")
            evenly = np.linspace(0, n_kernels - 1, min(n_kernels, 64))
            self.order_ = order[evenly.round().astype(int)]
        else:
            self.order_ = _check_indices(owner, "indices", indices, n_kernels)
        tiles = _make_tiles(weights[..., self.order_])
        names = [self.names[k] for k in self.order_]

        # The unit of length is the longer side of a tile. The first tile is at (0, 0), and the y
        # axis points down.
        h, w = (length / max(tiles[0].shape[:2]) for length in tiles[0].shape[:2])
        # With n_square columns, the gallery is about as wide as high.
        n_square = round(np.sqrt(len(tiles) * (h + GAP) / (w + GAP)))
        n_columns = min(len(tiles), max(1, n_square))
        n_rows = -(-len(tiles) // n_columns)
        width, height = n_columns * (w + GAP), n_rows * (h + 2 * GAP)
        inches = (max(4, 0.75 * width), 0.75 * height + 0.5)
        self.figure_, self.ax_ = make_axes(owner, ax, inches)
        points = 72 * self.ax_.get_window_extent().width / self.figure_.dpi / n_columns
        size = points / (0.65 * max(map(len, names)))  # A letter is 0.65 of the font size wide.
        for i, (tile, name) in enumerate(zip(tiles, names, strict=True)):
            row, column = divmod(i, n_columns)
            x, y = column * (w + GAP), row * (h + 2 * GAP)
            options = {"extent": (x, x + w, y + h, y), "interpolation": "nearest"}
            self.ax_.imshow(tile, cmap="gray", vmin=0, vmax=1, **options)
            if size >= 4:  # Smaller names could not be read.
                style = {"ha": "center", "va": "bottom", "size": min(SMALL_SIZE, size), **PLAIN}
                self.ax_.text(x + w / 2, y, name, **style)
        self.ax_.set(xlim=(-GAP, width), ylim=(height - GAP, -2 * GAP), aspect="equal")
        of_all = f" of {n_kernels}" if len(tiles) < n_kernels else ""
        title = f"{len(tiles)}{of_all} kernels of {kh} x {kw}, gray is 0"
        self.ax_.set_title(title, size=TITLE_SIZE)
        return self


def _check_indices(owner: str, name: str, chosen: Any, n: int) -> np.ndarray:
    """Return the chosen indices, each below ``n``, as an array; all if ``chosen`` is None."""
    indices = np.atleast_1d(np.arange(n) if chosen is None else np.asarray(chosen))
    rule = f"None or integers from 0 to {n - 1}"
    if indices.dtype.kind not in "iu" or indices.ndim != 1:
        raise parameter_error(TypeError, owner, name, rule, chosen)
    if not len(indices) or indices.min() < 0 or indices.max() >= n:
        raise parameter_error(ValueError, owner, name, rule, chosen)
    return indices


def _make_tiles(weights: np.ndarray) -> list[np.ndarray]:
    """Convert each kernel to an image of values from 0 to 1; weights of 0 become 0.5.

    The image of a kernel with three channels has shape (kh, kw, 3). For any other number of
    channels, the channels are side by side with a white line between them, and the image has shape
    (kh, c * (kw + 1) - 1).
    """
    limit = np.quantile(np.abs(weights), 0.995) or 1  # Larger weights become black or white.
    kernels = np.clip(np.moveaxis(weights, 3, 0) / limit / 2 + 0.5, 0, 1)  # (k, kh, kw, c)
    if kernels.shape[3] == 3:
        return list(kernels)
    # A white column is added after each channel; the last one is cut off.
    parted = np.pad(kernels, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=1)
    return [np.hstack(np.moveaxis(kernel, 2, 0))[:, :-1] for kernel in parted]
