"""`PixelClassifier` and `PixelRegressor`: a class or a number for each pixel, from a few of them.

The decision of a linear model is a weighted sum of responses, averaged over boxes. The responses
are multiplied by the weights first, and the few products are averaged and enlarged. This takes less
time and memory than to average and enlarge all responses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.ndimage import uniform_filter1d
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold
from sklearn.utils import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._engine.symmetry import SYMMETRIES
from sklearn_conv._parameters import (
    check_n_jobs,
    check_parameters,
    check_random_state,
    make_generator,
)
from sklearn_conv._ridge.base import StreamingRidgeBase
from sklearn_conv._ridge.classifier import StreamingRidgeClassifier
from sklearn_conv._ridge.labels import align_labels
from sklearn_conv._ridge.regressor import StreamingRidge
from sklearn_conv._ridge.scores import find_temperature, log_softmax
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._validation import is_dask, is_sequence, require
from sklearn_conv._versions import API_LINK
from sklearn_conv._warnings import EVERYTHING, say_once

TILE = 128
"""Side of the tiles in which images are computed."""

BATCH_BYTES = 2**25
"""Approximate size of the responses that are computed at once."""

N_LEARNING = 64
"""Maximum number of tiles from which kernels are learned."""

N_CHOOSING = 20_000
"""Maximum number of pixels by which alpha is chosen."""

BLOCK = 32
"""Side of the blocks whose pixels are left out together when alpha is chosen."""

ALPHA = 1000.0
"""Regularization strength if all labels of a class are in one block."""

ALPHAS = 10.0 ** np.arange(0, 6.5, 0.5)
"""Regularization strengths from which the default model chooses."""

MAX_CLASSES = 256
"""Maximum number of classes; more labels are probably numbers of objects."""


class Tile(NamedTuple):
    """A square of an image that begins at a pixel."""

    image: int
    row: int
    column: int

    def cut(self, values: Any) -> Any:
        """Return the part of an image ``(h, w, ...)``, which is smaller at its end."""
        return values[self.row : self.row + TILE, self.column : self.column + TILE]

    def read(self, image: Any, margin: int) -> np.ndarray:
        """Return pixels ``(TILE + 2 * margin, TILE + 2 * margin, c)``.

        Those outside the image repeat its border.
        """
        slices, widths = [], []
        for start, length in zip(self[1:], image.shape[:2], strict=True):
            begin, end = start - margin, start + TILE + margin
            slices.append(slice(max(begin, 0), min(end, length)))
            widths.append((max(-begin, 0), max(end - length, 0)))
        pixels = image[slices[0], slices[1]]
        pixels = pixels.compute() if is_dask(pixels) else pixels  # NumPy would drop the mask.
        is_masked, pixels = np.ma.is_masked(pixels), np.asarray(pixels)
        if is_masked or (pixels.dtype.kind == "f" and not np.isfinite(pixels).all()):
            raise ValueError(
                f"Image {self.image} of X has NaN, infinite or masked pixels in or near the square "
                f"of {TILE} x {TILE} pixels at row {self.row}, column {self.column}. Fill them, "
                "for example with numpy.nan_to_num or image.filled(0), and do not annotate them."
            )
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        return np.pad(pixels, [*widths, (0, 0)], mode="edge")


@dataclass(frozen=True)
class StoredImage:
    """An image that is read when its pixels are needed."""

    read: Callable[[int], Any]
    number: int
    shape: tuple[int, ...]

    def __getitem__(self, area: Any) -> Any:
        return self.read(self.number)[area]


class PixelBase(BaseEstimator, ABC):
    """What the classifier and the regressor share."""

    _doc_link_module = "sklearn_conv"
    _doc_link_template = API_LINK

    features: StridedConv2DTransformer | None
    scales: Sequence[int]
    boxes: Sequence[int]
    unlabeled: float
    random_state: Any
    n_jobs: int | None

    @abstractmethod
    def _given(self) -> tuple[str, Any]:
        """Return the name and the value of the parameter for the model."""

    @abstractmethod
    def _check_labels(self, labels: np.ndarray, name: str) -> np.ndarray:
        """Return the different labels of an image, without ``unlabeled``."""

    def _require_labels(self, found: np.ndarray) -> None:
        """Raise an error if there are too few different labels to learn from."""

    @abstractmethod
    def _default(
        self, found: np.ndarray, labels: Iterable[np.ndarray]
    ) -> tuple[StreamingRidgeBase, dict[str, Any]]:
        """Return the default model for label images, and parameters of its `partial_fit`."""

    @abstractmethod
    def _weigh(self, targets: np.ndarray) -> np.ndarray:
        """Return the weights of errors of pixels."""

    @abstractmethod
    def _columns(self, targets: np.ndarray) -> np.ndarray:
        """Return the targets ``(n, k)`` that the default model predicts."""

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from the pixels that have labels.

        Parameters
        ----------
        X : array-like of shape (n, h, w) or (n, h, w, c), or list of n images of any size
            Images of finite numbers. Elements of a list may be anything with a shape that is read
            by slices, such as memory maps, zarr or h5py arrays. Only places with labels are read.
        y : array-like of shape (n, h, w), or list of n arrays of shape (h, w)
            Label of each pixel, or ``unlabeled``.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        TypeError, ValueError
            If a parameter, X or y is not valid, or if there are too few labels.
        """
        self._check()
        images = self._check_images(X, None)
        labels, found = self._read_labels(images, y)
        self._require_labels(found)
        tiles = self._annotated(labels)
        rng = make_generator(self.random_state)
        fitted = copy(self)
        fitted.n_channels_ = _channels(images[0])
        fitted._scales, fitted._boxes = (*self.scales,), (*self.boxes,)
        fitted._learn(images, tiles, rng)
        fitted._fit_model(images, labels, tiles, found, rng)
        self.__dict__.update(vars(fitted))
        return self

    def predict(self, X: Any) -> Any:
        """Predict the label of each pixel.

        Parameters
        ----------
        X : array-like of shape (n, h, w) or (n, h, w, c), or list of n images of any size
            Images as in ``fit``. They are read tile by tile.

        Returns
        -------
        labels : ndarray of shape (n, h, w), or list of n arrays of shape (h, w)
            Predicted labels; a list if X is one, or has images of several sizes.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError, ValueError
            If X is not valid, or if images have other channels than in ``fit``.
        """
        return self._map("predict", X)

    def _check(self) -> None:
        owner, features = type(self).__name__, self._transformer()
        has_type = isinstance(features, StridedConv2DTransformer)
        require(owner, "features", features, "a StridedConv2DTransformer or None", has_type)
        parameters = check_parameters(features)
        size, dilation = parameters.kernel_size, parameters.windows.dilation
        is_square = len({*zip(size, dilation, strict=True)}) == 1
        if not is_square and any(view.is_transposed for view in parameters.views):
            raise ValueError(
                f"The 'features' parameter of {owner} has symmetries='dihedral', "
                f"kernel_size={size} and dilation={dilation}; use square kernels and one "
                "dilation, or symmetries='mirror'."
            )
        if parameters.ignores_missing or parameters.power != 1:
            raise ValueError(
                f"The 'features' parameter of {owner} must have missing='raise' and power=1; fill "
                "missing pixels, and mark them as not labeled in y."
            )
        kind, rule = (
            (Integral, "an integer") if isinstance(self, ClassifierMixin) else (Real, "a number")
        )
        check_random_state(owner, self.random_state)
        check_n_jobs(owner, self.n_jobs)
        require(owner, "unlabeled", self.unlabeled, rule, isinstance(self.unlabeled, kind))
        self._check_list("scales", f"divisors of {TILE}", lambda n: n > 0 and TILE % n == 0)
        self._check_list("boxes", "odd integers from 1 to 63", lambda n: n in range(1, 64, 2))
        name, model = self._given()
        is_model = model is None or (hasattr(model, "fit") and hasattr(model, "predict"))
        require(owner, name, model, "an estimator with fit and predict, or None", is_model)

    def _check_list(self, name: str, rule: str, is_valid: Callable[[int], bool]) -> None:
        values, owner = getattr(self, name), type(self).__name__
        is_list = is_sequence(values) and all(isinstance(n, Integral) for n in values)
        is_right = is_list and 0 < len(values) == len({*values}) and all(map(is_valid, values))
        require(owner, name, values, f"a list of different {rule}", is_list, is_right)

    def _check_images(self, X: Any, n_channels: int | None) -> list[Any]:
        """Return the images, which are not read."""
        owner = type(self).__name__
        is_list = hasattr(X, "__len__") and hasattr(X, "__getitem__")
        if not is_list or isinstance(X, str | Mapping):
            raise TypeError(f"{owner} needs an array or a list of images, not {type(X).__name__}.")
        shapes = getattr(X, "image_shapes", None)
        if shapes is None and len(getattr(X, "shape", ())) > 1:
            shapes = [tuple(X.shape[1:])] * len(X)
        if shapes is None:
            images = [X[i] for i in range(len(X))]
            images = [image if hasattr(image, "shape") else np.asarray(image) for image in images]
        else:
            read = lru_cache(1)(X.__getitem__)  # Tiles of an image follow one another.
            images = [StoredImage(read, i, (*map(int, shape),)) for i, shape in enumerate(shapes)]
        for i, image in enumerate(images):
            if len(image.shape) not in (2, 3) or 0 in image.shape:
                raise ValueError(
                    f"Image {i} of X has shape {tuple(image.shape)}, but an image has shape (h, w) "
                    "or (h, w, c); pass a single image as [image], and files as read_images(files)."
                )
        if not images:
            raise ValueError("X has 0 images, but at least one is needed.")
        channels = {*map(_channels, images)} | ({n_channels} if n_channels else set())
        if len(channels) != 1:
            raise ValueError(
                f"All images of X must have as many channels as each other, and as in fit; X has "
                f"{len(images)} images, and the numbers of channels are {sorted(channels)}. Pass a "
                "single image as [image]."
            )
        return images

    def _read_labels(self, images: list[Any], y: Any) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the label images, and the different labels in them."""
        if not hasattr(y, "__len__") or len(y) != len(images):
            raise ValueError(
                f"X has {len(images)} images, so y must have as many label images, not "
                f"{len(y) if hasattr(y, '__len__') else type(y).__name__}; pass a single image and "
                "its labels as [image] and [labels]."
            )
        given = [y[i] for i in range(len(y))]
        given = [label.compute() if is_dask(label) else label for label in given]
        if any(map(np.ma.is_masked, given)):
            raise ValueError(
                f"y has masked labels; fill them with y.filled({self.unlabeled}), which says that "
                "such pixels are not annotated."
            )
        labels, found = [*map(np.asarray, given)], []
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            if label.shape != tuple(image.shape[:2]):
                remedy = (
                    f"Each pixel needs a label; those that are not annotated have {self.unlabeled}."
                )
                if label.ndim == 1:
                    remedy = "Pass a single image and its labels as [image] and [labels]."
                elif label.ndim == 3:
                    remedy = "Labels have no channels; take one of them, such as labels[..., 0]."
                elif label.shape == tuple(image.shape[1:]):
                    remedy = "Channels come last; use numpy.moveaxis(image, 0, -1)."
                raise ValueError(
                    f"Label image {i} of y has shape {label.shape}, but image {i} of X has "
                    f"{tuple(image.shape[:2])} pixels. {remedy}"
                )
            found.append(self._check_labels(label, f"label image {i} of y"))
        if isinstance(self, ClassifierMixin):  # NumPy would cast some integers to floats.
            found = align_labels(*(each for each in found if len(each))) or found[:1]
        different = np.unique(np.concatenate(found))
        if not len(different):
            raise ValueError(f"No pixel has a label: all values of y are {self.unlabeled}.")
        return labels, different

    def _annotated(self, labels: list[np.ndarray]) -> list[Tile]:
        """Return the tiles with labels."""
        return [
            tile
            for i, image in enumerate(labels)
            for tile in _tiles(i, image.shape)
            if self._has_label(tile.cut(image)).any()
        ]

    def _has_label(self, labels: np.ndarray) -> np.ndarray:
        return ~np.isnan(labels) if self.unlabeled != self.unlabeled else labels != self.unlabeled

    def _transformer(self) -> Any:
        if self.features is not None:
            return self.features
        return StridedConv2DTransformer(
            8,
            5,
            kernels="pca",
            whiten=True,
            n_patches=20_000,
            activation="split",
            symmetries="dihedral",
        )

    def _margins(self, transformer: StridedConv2DTransformer) -> tuple[list[int], int]:
        """Return the sides of a window in pixels, and how many pixels a tile needs around it."""
        parameters = check_parameters(transformer)
        sizes = zip(parameters.windows.dilation, parameters.kernel_size, strict=True)
        extents = [d * (k - 1) + 1 for d, k in sizes]
        return extents, max(extents) // 2 + max(self._boxes) // 2 + 1

    def _learn(self, images: list[Any], tiles: list[Tile], rng: Any) -> None:
        """Fit a transformer for each scale to some of the tiles."""
        chosen = [tiles[i] for i in np.sort(rng.permutation(len(tiles))[:N_LEARNING])]
        extents, margin = self._margins(self._transformer())
        margin = max(margin, *extents) * max(self._scales)
        pixels = _read(images, chosen, margin)
        self.transformers_ = []
        for scale in self._scales:
            transformer = clone(self._transformer()).set_output(transform="default")
            transformer.set_params(
                stride=1,
                padding="valid",
                pooling="mean",
                pool_grid=1,
                flatten=False,
                image_shape="any",  # The last tiles of an image are smaller.
                random_state=rng.randint(2**31),
                n_jobs=self.n_jobs,
                verbose=0,
            )
            parts = []
            for tile, padded in zip(chosen, pixels, strict=True):
                area, shape = [], images[tile.image].shape[:2]
                for n, start, extent in zip(shape, tile[1:], extents, strict=True):
                    # What is repeated around an image is no part of it, but a window must fit.
                    inside = -(-min(TILE, n - start) // scale)
                    more = max(extent - inside, 0)  # blocks before the tile, if there are any
                    first = margin - scale * min(more, start // scale)
                    area.append(slice(first, first + scale * (inside + more)))
                parts.append(_shrink(padded[np.newaxis, *area], scale)[0])
            with say_once(EVERYTHING):  # Warnings are meant for images with one label.
                self.transformers_.append(transformer.fit(parts))

    def _compute(
        self, images: list[Any], tiles: list[Tile], weights: np.ndarray | None = None
    ) -> Iterator[tuple[Tile, np.ndarray]]:
        """Yield each tile with the features ``(rows, columns, p)`` of its pixels.

        They are ordered by scale, box, side and bias of the activation, and kernel. With weights
        ``(p, k)``, yield the weighted sums ``(rows, columns, k)`` instead.
        """
        first = self.transformers_[0]
        extents, margin = self._margins(first)
        reach, n_boxes = margin * max(self._scales), len(self._boxes)
        banks = [_turn(transformer, self.n_jobs) for transformer in self.transformers_]
        views, n_kernels = SYMMETRIES[first.symmetries], first.bias_.shape[-1]
        side, said = TILE + 2 * margin, set[str]()
        n_maps = first.n_features_out_ * len(views)
        step = max(1, BATCH_BYTES // (4 * n_maps * side**2))
        for start in range(0, len(tiles), step):
            batch, parts, used = tiles[start : start + step], [], 0
            pixels = _read(images, batch, reach)
            for scale, bank in zip(self._scales, banks, strict=True):
                inner = slice(reach - scale * margin, pixels.shape[1] - reach + scale * margin)
                shrunk = _shrink(pixels[:, inner, inner], scale)
                bank.image_shape_, bank.n_features_in_ = shrunk.shape[1:], shrunk[0].size
                with say_once(said):
                    responses = bank.transform(shrunk)
                average = _averages(n_maps, len(views), n_kernels, responses.dtype)
                if weights is None:
                    values = [responses @ average] * n_boxes
                else:
                    own = weights[used : (used := used + n_boxes * average.shape[1])]
                    own = own.astype(average.dtype).reshape(n_boxes, average.shape[1], -1)
                    values = np.split(responses @ np.hstack(average @ own), n_boxes, axis=3)
                length = TILE // scale + 2  # with a border of one
                for box, found in zip(self._boxes, values, strict=True):
                    for axis, extent in enumerate(extents, 1):
                        found = uniform_filter1d(found, box, axis=axis) if box > 1 else found
                        place, start = [slice(None)] * 4, margin - 1 - (extent - 1) // 2
                        place[axis] = slice(start, start + length)
                        found = found[tuple(place)]
                    parts.append(_enlarge(found, scale))
            result: Any = np.concatenate(parts, axis=3) if weights is None else sum(parts)
            for tile, found in zip(batch, result, strict=True):
                rows, columns = images[tile.image].shape[:2]
                yield tile, found[: rows - tile.row, : columns - tile.column]

    def _fit_model(
        self,
        images: list[Any],
        labels: list[np.ndarray],
        tiles: list[Tile],
        found: np.ndarray,
        rng: Any,
    ) -> None:
        """Fit the model to the features of all pixels with labels."""
        name, model = self._given()
        n_labels = sum(int(self._has_label(tile.cut(labels[tile.image])).sum()) for tile in tiles)
        fraction, options = 1.0, dict[str, Any]()
        is_default = model is None
        if is_default:
            model, options = self._default(found, (tile.cut(labels[tile.image]) for tile in tiles))
            fraction = min(1, N_CHOOSING / n_labels)
        parts = []
        for tile, values in self._compute(images, tiles):
            targets = tile.cut(labels[tile.image])
            at = np.nonzero(self._has_label(targets))
            rows, targets = values[at], targets[at]
            if is_default:
                model.partial_fit(rows, targets, **options)
            blocks = [(start + index) // BLOCK for start, index in zip(tile[1:], at, strict=True)]
            groups = np.stack([np.full(len(targets), tile.image), *blocks], axis=1)
            kept = rng.random_sample(len(targets)) < fraction
            parts.append((rows[kept], targets[kept], groups[kept]))
        rows, targets, groups = (np.concatenate(each) for each in zip(*parts, strict=True))
        if is_default:
            # NumPy 2.0.0 returns a column.
            groups = np.unique(groups, axis=0, return_inverse=True)[1].ravel()
            self._choose(model, options, rows, targets, groups)
            setattr(self, f"{name}_", model.discard_sums())
        else:
            setattr(self, f"{name}_", model := clone(model).fit(rows, targets))
            self.temperature_ = getattr(model, "temperature_", 1.0)

    def _choose(
        self,
        model: StreamingRidgeBase,
        options: Mapping[str, Any],
        rows: np.ndarray,
        targets: np.ndarray,
        groups: np.ndarray,
    ) -> None:
        """Set the alpha that predicts the pixels of blocks best that are left out together.

        Neighbors are alike, so that leave-one-out errors of single pixels would be too small. Of
        the alphas whose errors differ from the smallest by less than the standard error of this
        difference, the largest is used.

        Source: L. Breiman et al., "Classification and Regression Trees" (1984): this rule.
        """
        columns = self._columns(targets)
        predicted = np.full((len(ALPHAS), *columns.shape), np.nan)
        n_groups = int(groups.max()) + 1
        folds = GroupKFold(min(5, n_groups)).split(rows, groups=groups) if n_groups > 1 else ()
        for train, test in folds:
            if (columns[train] == columns[train][0]).all(axis=0).any():
                continue  # A class is missing.
            part = clone(model).partial_fit(rows[train], targets[train], **options)
            for i, alpha in enumerate(ALPHAS):
                solution = part.set_params(alphas=alpha)._solve()
                predicted[i, test] = solution.predict(rows[test])
        is_known = np.isfinite(predicted[0]).all(axis=1)
        is_class = isinstance(self, ClassifierMixin)
        if not is_known.any() or (is_class and {*targets[is_known]} != {*self.classes_}):
            # All labels of a class are in one block.
            model.set_params(alphas=ALPHA)
            solution = model._solve(with_errors=True)
            self.temperature_ = solution.later.get("temperature", 1.0)
            return
        errors, weights = (columns - predicted)[:, is_known], self._weigh(targets[is_known])
        blocks = np.unique(groups[is_known], return_inverse=True)[1]
        squares = np.square(errors).mean(axis=2) * weights
        losses = np.stack([np.bincount(blocks, each) for each in squares])
        worse = losses - losses[losses.sum(axis=1).argmin()]
        bounds = len(losses[0]) ** 0.5 * worse.std(axis=1)
        best = int(np.flatnonzero(worse.sum(axis=1) <= bounds)[-1])
        model.set_params(alphas=ALPHAS[best] * max(1, model._sums.n_rows / len(rows)))
        self.temperature_ = 1.0
        if is_class:
            self.temperature_ = find_temperature(errors[best], columns[is_known], weights)

    def _map(self, method: str, X: Any) -> Any:
        """Return the result of a method for each pixel."""
        check_is_fitted(self)
        images = self._check_images(X, self.n_channels_)
        stack, results = None, list[Any]([None] * len(images))
        tiles = [tile for i, image in enumerate(images) for tile in _tiles(i, image.shape)]
        for tile, found in self._predict_tiles(method, images, tiles):
            shape = (*images[tile.image].shape[:2], *found.shape[2:])
            if stack is None and len(getattr(X, "shape", ())) > 2:
                stack = np.empty((len(images), *shape), found.dtype)
                results = [*stack]
            elif results[tile.image] is None:
                results[tile.image] = np.empty(shape, found.dtype)
            tile.cut(results[tile.image])[...] = found
        return results if stack is None else stack

    def _predict_tiles(
        self, method: str, images: list[Any], tiles: list[Tile]
    ) -> Iterator[tuple[Tile, np.ndarray]]:
        """Yield each tile with the result of a method for its pixels."""
        model = getattr(self, f"{self._given()[0]}_")
        solution = model._solve() if isinstance(model, StreamingRidgeBase) else None
        weights = None if solution is None else solution.coef.T
        for tile, values in self._compute(images, tiles, weights):
            if solution is None:
                found = getattr(model, method)(values.reshape(-1, values.shape[2]))
            else:
                level = solution.level - solution.mean @ weights
                found = self._decide(method, (values + level).reshape(-1, len(level)))
            yield tile, found.reshape(*values.shape[:2], *found.shape[1:])

    @abstractmethod
    def _decide(self, method: str, predicted: np.ndarray) -> np.ndarray:
        """Return the result of a method for the predicted columns of targets ``(n, k)``."""


def _channels(image: Any) -> int:
    return int(image.shape[2]) if len(image.shape) == 3 else 1


def _tiles(image: int, shape: Sequence[int]) -> Iterator[Tile]:
    for row in range(0, shape[0], TILE):
        for column in range(0, shape[1], TILE):
            yield Tile(image, row, column)


def _read(images: list[Any], tiles: list[Tile], margin: int) -> np.ndarray:
    return np.stack([tile.read(images[tile.image], margin) for tile in tiles])


def _shrink(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Return the means of blocks of ``scale`` x ``scale`` pixels."""
    if scale == 1:
        return pixels
    n, h, w, c = pixels.shape
    rows = pixels.reshape(n, h // scale, scale, w, c)
    dtype = np.result_type(pixels.dtype, np.float32)
    return rows.mean(axis=2, dtype=dtype).reshape(n, h // scale, w // scale, scale, c).mean(axis=3)


def _enlarge(values: np.ndarray, scale: int) -> np.ndarray:
    """Interpolate ``(n, TILE / scale + 2, TILE / scale + 2, k)`` linearly, without the border."""
    if scale == 1:
        return values[:, 1:-1, 1:-1]
    places = (np.arange(TILE) + 0.5) / scale + 0.5
    low = places.astype(int)
    for axis in (1, 2):
        fraction = (places - low).astype(values.dtype).reshape(-1, *[1] * (3 - axis))
        below, above = values.take(low, axis), values.take(low + 1, axis)
        values = below + fraction * (above - below)
    return values


def _averages(n_maps: int, n_views: int, n_kernels: int, dtype: np.dtype) -> np.ndarray:
    """Return the matrix whose products with maps are their means over turned kernels."""
    means = np.kron(np.full((n_views, 1), 1 / n_views), np.eye(n_kernels))
    return np.kron(np.eye(n_maps // len(means)), means).astype(dtype)


def _turn(transformer: StridedConv2DTransformer, n_jobs: int | None) -> Any:
    """Return a transformer with all mirrored and turned kernels, whose responses are not pooled."""
    views, kernels = SYMMETRIES[transformer.symmetries], transformer.kernels_
    bank: Any = copy(transformer).set_params(pooling=None, symmetries=None, n_jobs=n_jobs)
    turned = [view.apply(kernels[np.newaxis])[0] for view in views]
    bank.kernels_ = np.concatenate(turned, axis=3)
    bank.offset_ = np.tile(transformer.offset_, len(views))
    bank.bias_ = np.tile(transformer.bias_, len(views))
    bank._values_seen = None  # A tile need not look like all tiles.
    return bank


class PixelClassifier(ClassifierMixin, PixelBase):
    """Classifier of pixels that learns from a few annotated ones, or from whole masks.

    ``(n, h, w, c) -> (n, h, w)``

    The features of a pixel are responses of kernels around it, at several scales, averaged over
    boxes of several sizes. Kernels are learned from the images.

    Parameters
    ----------
    features : StridedConv2DTransformer, default=None
        Transformer that says which kernels, preprocessing, bias, activation and symmetries the
        responses have. Its ``stride``, ``padding``, ``pooling``, ``pool_grid``, ``flatten`` and
        ``random_state`` are ignored. If None, eight whitened principal components of 5 x 5 pixels
        with "split" and "dihedral".
    classifier : estimator, default=None
        Classifier of the features. If None, a `StreamingRidgeClassifier` whose alpha predicts
        squares of 32 x 32 pixels best that were left out. Pixels of rare classes weigh more: the
        weight of a class is proportional to 1 / sqrt(its number of annotated pixels). Streaming
        ridge models take much less time in ``predict`` than others, and others receive the features
        of all annotated pixels at once.
    scales : list of int, default=(1, 2, 4)
        Divisors of 128. At scale s, kernels respond to means of s x s pixels.
    boxes : list of int, default=(1, 3, 7)
        Odd sides of the boxes over which responses are averaged, in pixels of each scale.
    unlabeled : int, default=0
        Label of pixels that are not annotated. If 0 is a class, as in many masks, use another
        number, such as 255 or -1.
    random_state : int, RandomState instance or None, default=None
        Seed or generator of the patches and kernels.
    n_jobs : int, default=None
        Number of threads, as in `StridedConv2DTransformer`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels of annotated pixels.
    transformers_ : list of StridedConv2DTransformer
        Fitted transformer of each scale.
    classifier_ : estimator
        The fitted classifier of features.
    temperature_ : float
        Number by which the decisions of a streaming ridge classifier are divided before the
        softmax. That of the default minimizes the log loss of the squares that were left out.
    n_channels_ : int
        Number of channels of the images.

    See Also
    --------
    PixelRegressor : A number for each pixel.

    Notes
    -----
    Images are computed in tiles of 128 x 128 pixels with a margin, so that the memory beside the
    result does not depend on the size of an image, and no tile can be seen in the result. Pixels
    outside an image repeat its border.

    References
    ----------
    S. Berg et al., "ilastik: Interactive Machine Learning for (Bio)Image Analysis" (2019): classes
    of pixels from scribbles.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_conv import PixelClassifier
    >>> rng = np.random.default_rng(0)
    >>> image = rng.normal(size=(96, 96))
    >>> image[:, 48:] *= 3  # The right half is rougher.
    >>> scribbles = np.zeros((96, 96), int)
    >>> scribbles[20:60, 10], scribbles[20:60, 80] = 1, 2
    >>> model = PixelClassifier(random_state=0).fit([image], [scribbles])
    >>> truth = np.where(np.arange(96) < 48, 1, 2) * np.ones((96, 1), int)
    >>> model.score([image], [truth]) > 0.9
    True
    """

    def __init__(
        self,
        features: StridedConv2DTransformer | None = None,
        classifier: Any = None,
        *,
        scales: Sequence[int] = (1, 2, 4),
        boxes: Sequence[int] = (1, 3, 7),
        unlabeled: int = 0,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.features = features
        self.classifier = classifier
        self.scales = scales
        self.boxes = boxes
        self.unlabeled = unlabeled
        self.random_state = random_state
        self.n_jobs = n_jobs

    @available_if(lambda self: self.classifier is None or hasattr(self.classifier, "predict_proba"))
    def predict_proba(self, X: Any) -> Any:
        """Predict the probabilities of the classes of each pixel.

        Parameters
        ----------
        X : array-like of shape (n, h, w) or (n, h, w, c), or list of n images of any size
            Images as in ``fit``.

        Returns
        -------
        probabilities : ndarray of shape (n, h, w, n_classes), or list of n such arrays
            Probabilities in the order of ``classes_``; a list if X is one, or has images of
            several sizes.
        """
        return self._map("predict_proba", X)

    def score(self, X: Any, y: Any) -> float:
        """Return the mean intersection over union of the annotated pixels.

        For each class, the number of pixels that have this label and this prediction is divided by
        the number of those that have at least one of them, over all images. The result is the mean
        over the classes that occur in y.

        Parameters
        ----------
        X : array-like of shape (n, h, w) or (n, h, w, c), or list of n images of any size
            Images as in ``fit``.
        y : array-like of shape (n, h, w), or list of n arrays of shape (h, w)
            True labels; ``unlabeled`` pixels do not count.

        Returns
        -------
        score : float
            Mean intersection over union, from 0 to 1.
        """
        check_is_fitted(self)
        images = self._check_images(X, self.n_channels_)
        labels, found = self._read_labels(images, y)
        names = np.union1d(found, self.classes_)
        counts = np.zeros((len(names), len(names)), int)
        for tile, predicted in self._predict_tiles("predict", images, self._annotated(labels)):
            label = tile.cut(labels[tile.image])
            known = self._has_label(label)
            pair = (np.searchsorted(names, each[known]) for each in (label, predicted))
            np.add.at(counts, tuple(pair), 1)
        both = np.diag(counts)
        either = counts.sum(axis=0) + counts.sum(axis=1) - both
        occurs = np.isin(names, found)
        return float((both[occurs] / either[occurs]).mean())

    def _given(self) -> tuple[str, Any]:
        return "classifier", self.classifier

    def _check_labels(self, labels: np.ndarray, name: str) -> np.ndarray:
        if labels.dtype.kind not in "iub":
            raise TypeError(
                f"The {name} has dtype {labels.dtype}, but labels of classes are integers; convert "
                "numbers with astype(int), or use PixelRegressor, and replace each name of a class "
                "by an integer."
            )
        found = np.unique(labels)
        found = found[found != self.unlabeled]
        if len(found) and found[0] < 0:
            raise ValueError(
                f"The {name} has the label {found[0]}, but labels are at least 0; unlabeled="
                f"{found[0]} says that such pixels are not annotated."
            )
        if len(found) > MAX_CLASSES:
            raise ValueError(
                f"The {name} has {len(found)} different labels, more than {MAX_CLASSES}. If they "
                "are numbers of objects, pass classes, such as 1 + (labels > 0)."
            )
        return found

    def _require_labels(self, found: np.ndarray) -> None:
        if len(found) < 2:
            raise ValueError(
                f"All annotated pixels have the label {found[0]}; annotate pixels of at least two "
                f"classes. Pixels with the label {self.unlabeled} are not annotated; if this is a "
                "class, set unlabeled to another number, such as -1."
            )

    def _fit_model(self, *arguments: Any) -> None:
        self.classes_ = arguments[3]
        super()._fit_model(*arguments)

    def _default(
        self, found: np.ndarray, labels: Iterable[np.ndarray]
    ) -> tuple[StreamingRidgeBase, dict[str, Any]]:
        counts = np.zeros(len(found), int)
        for label in labels:
            codes = np.searchsorted(found, label[self._has_label(label)])
            counts += np.bincount(codes, minlength=len(found))
        weights = np.sqrt(counts.mean() / counts)
        class_weight = dict(zip(found.tolist(), weights.tolist(), strict=True))
        return StreamingRidgeClassifier(1.0, class_weight=class_weight), {"classes": found}

    def _weigh(self, targets: np.ndarray) -> np.ndarray:
        return np.sqrt(compute_sample_weight("balanced", targets))

    def _columns(self, targets: np.ndarray) -> np.ndarray:
        columns = self.classes_[1:] if len(self.classes_) == 2 else self.classes_
        return np.where(targets[:, np.newaxis] == columns, 1.0, -1.0)

    def _decide(self, method: str, predicted: np.ndarray) -> np.ndarray:
        if method == "predict_proba":
            return np.exp(log_softmax(predicted, self.temperature_)).astype(np.float32)
        if predicted.shape[1] == 1:
            return self.classes_[(predicted[:, 0] > 0).astype(int)]
        return self.classes_[predicted.argmax(axis=1)]


class PixelRegressor(RegressorMixin, PixelBase):
    """Regression of a number for each pixel, such as a depth or a concentration.

    ``(n, h, w, c) -> (n, h, w)``

    It has the features of `PixelClassifier`.

    Parameters
    ----------
    features : StridedConv2DTransformer, default=None
        As in `PixelClassifier`.
    regressor : estimator, default=None
        Regressor of the features. If None, a `StreamingRidge`, as in `PixelClassifier`.
    scales : list of int, default=(1, 2, 4)
    boxes : list of int, default=(1, 3, 7)
        As in `PixelClassifier`.
    unlabeled : float, default=nan
        Number of pixels whose number is not known.
    random_state : int, RandomState instance or None, default=None
    n_jobs : int, default=None
        As in `PixelClassifier`.

    Attributes
    ----------
    transformers_ : list of StridedConv2DTransformer
        Fitted transformer of each scale.
    regressor_ : estimator
        The fitted regressor of features.
    n_channels_ : int
        Number of channels of the images.

    See Also
    --------
    PixelClassifier : A class for each pixel.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_conv import PixelRegressor
    >>> roughness = np.linspace(1, 3, 96) * np.ones((96, 1))
    >>> image = np.random.default_rng(0).normal(size=(96, 96)) * roughness
    >>> known = np.where(np.arange(96)[:, np.newaxis] % 8 == 0, roughness, np.nan)
    >>> model = PixelRegressor(random_state=0).fit([image], [known])
    >>> model.score([image], [roughness]) > 0.5
    True
    """

    def __init__(
        self,
        features: StridedConv2DTransformer | None = None,
        regressor: Any = None,
        *,
        scales: Sequence[int] = (1, 2, 4),
        boxes: Sequence[int] = (1, 3, 7),
        unlabeled: float = np.nan,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.features = features
        self.regressor = regressor
        self.scales = scales
        self.boxes = boxes
        self.unlabeled = unlabeled
        self.random_state = random_state
        self.n_jobs = n_jobs

    def score(self, X: Any, y: Any) -> float:
        """Return R² of the predictions of all pixels with a number.

        Parameters
        ----------
        X : array-like of shape (n, h, w) or (n, h, w, c), or list of n images of any size
            Images as in ``fit``.
        y : array-like of shape (n, h, w), or list of n arrays of shape (h, w)
            True numbers; ``unlabeled`` pixels do not count.

        Returns
        -------
        score : float
            Coefficient of determination.
        """
        check_is_fitted(self)
        images = self._check_images(X, self.n_channels_)
        labels, _ = self._read_labels(images, y)
        parts = []
        for tile, predicted in self._predict_tiles("predict", images, self._annotated(labels)):
            label = tile.cut(labels[tile.image])
            known = self._has_label(label)
            parts.append((label[known], predicted[known]))
        return float(r2_score(*(np.concatenate(each) for each in zip(*parts, strict=True))))

    def _given(self) -> tuple[str, Any]:
        return "regressor", self.regressor

    def _check_labels(self, labels: np.ndarray, name: str) -> np.ndarray:
        if labels.dtype.kind not in "iubf":
            raise TypeError(f"The {name} has dtype {labels.dtype}, but must have numbers.")
        found = np.unique(labels[self._has_label(labels)])
        if not np.isfinite(found).all():
            raise ValueError(f"The {name} has infinite numbers or NaN.")
        return found

    def _default(
        self, found: np.ndarray, labels: Iterable[np.ndarray]
    ) -> tuple[StreamingRidgeBase, dict[str, Any]]:
        return StreamingRidge(1.0), {}

    def _weigh(self, targets: np.ndarray) -> np.ndarray:
        return np.ones(len(targets))

    def _columns(self, targets: np.ndarray) -> np.ndarray:
        return targets[:, np.newaxis].astype(float)

    def _decide(self, method: str, predicted: np.ndarray) -> np.ndarray:
        return predicted[:, 0]
