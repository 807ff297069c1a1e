"""`predict_map`: the prediction of a model for the tile at every step of a scene.

The transformers of the model are replaced by copies that look up the features of tiles, so that
scikit-learn itself selects, weights and joins them, and calls the steps behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import require_numpy_model
from sklearn_conv._computing import make_layer
from sklearn_conv._engine.geometry import Span, cut_span
from sklearn_conv._engine.layer import compute_dtype
from sklearn_conv._engine.sliding import SlidingEngine, join_runs
from sklearn_conv._engine.threads import Workspace
from sklearn_conv._images.mistakes import TransformWatch
from sklearn_conv._output_size import check_views, place_views
from sklearn_conv._parameters import MISSING, check_parameters
from sklearn_conv._progress import Progress
from sklearn_conv._scenes import Scene, open_scene
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._validation import cast_numbers, check_name, check_pair, parameter_error
from sklearn_conv._warnings import EVERYTHING, say_once, warn

OWNER = "predict_map"

METHODS = ("predict", "predict_proba", "decision_function", "transform")

BLOCK_BYTES = 5 * 2**25
"""Approximate size of the pixels and features of a block of tiles, and of what they are made from.
"""

ROWS_BYTES = 2**24
"""Approximate size of the features, or of the tiles, that the rest of the model sees at once."""


def predict_map(
    model: Any,
    scene: Any,
    step: int | tuple[int, int],
    *,
    method: str = "predict",
    scale: int = 1,
) -> np.ndarray:
    """Predict the tile at every step of a scene.

    The result is that of cutting tiles and predicting each of them, but neighboring tiles share
    their pixels: each response of a kernel is computed once, and pooled for all tiles that see it.
    A small step therefore takes little more time than a large one.

    Parameters
    ----------
    model : Pipeline or StridedConv2DTransformer
        Fitted on tiles of one size. Its features come from a `StridedConv2DTransformer` at the
        start of a pipeline, or from several side by side in a `~sklearn.pipeline.FeatureUnion`.
        Steps before it must keep the height and width of tiles; all others may be anything.
    scene : array-like, rasterio dataset or xarray.DataArray
        A single image of any size, as in `tile_scene`. It is read in blocks.
    step : int or (rows, columns)
        Distance from one tile to the next, in pixels.
    method : {"predict", "predict_proba", "decision_function", "transform"}, default="predict"
        Method of the model that is called.
    scale : int, default=1
        Reduction of the resolution of the scene, as in `tile_scene`.

    Returns
    -------
    map : ndarray of shape (rows, columns) or (rows, columns, k)
        Entry ``[i, j]`` is what the method returns for the tile whose first pixel is
        ``scene[i * step, j * step]``; there are as many rows and columns as there are whole tiles.

        A tile with missing pixels, which are masked or nodata of the scene, has no prediction
        unless ``missing="ignore"``. With it, only tiles without any pixel have none, and those with
        features that are NaN if the rest of the model does not accept NaN. Floats are NaN where
        there is no prediction; other values are then a `numpy.ma.MaskedArray`.

    Warns
    -----
    UserWarning
        If neighboring tiles do not share responses, so that each tile is computed by itself, which
        takes longer: the windows of a tile must not see its border (``padding="valid"``), ``step``
        must be a multiple of the stride, and no step of the model may change the pixels. As in
        ``transform`` of the transformer, if pixels are unlike those seen in ``fit``.

    Raises
    ------
    NotFittedError
        If the model is not fitted.
    TypeError, ValueError
        If a parameter is not as described, if the scene is smaller than a tile or has other
        channels, if it contains infinity, or NaN that is not declared as missing unless
        ``missing="ignore"``, or if no tile has a prediction.

    See Also
    --------
    tile_scene : Cut a scene into tiles.

    Notes
    -----
    ``n_jobs`` and ``verbose`` are those of the transformer. Beside the result, blocks of the scene
    and the features of their tiles take about 350 MB at most, whatever the size of the scene.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_conv import make_image_classifier, predict_map, tile_scene
    >>> rng = np.random.default_rng(0)
    >>> scene = rng.normal(size=(120, 160)) * np.where(np.arange(160) < 80, 1, 3)
    >>> tiles = tile_scene(scene, 24, 8)
    >>> labels = np.where(tiles.positions[:, 1] < 68, "smooth", "rough")
    >>> model = make_image_classifier("satellite", random_state=0, n_kernels=8).fit(tiles, labels)
    >>> classes = predict_map(model, scene, step=4)
    >>> classes.shape
    (25, 35)
    >>> str(classes[0, 0]), str(classes[0, -1])
    ('smooth', 'rough')
    """
    check_name(OWNER, "method", method, METHODS)
    step = check_pair(OWNER, "step", step, 1)
    opened = open_scene(scene, OWNER, scale)
    model = getattr(model, "best_estimator_", model)
    transformers = [transformer for transformer, _ in _find_transformers(model)]
    if not transformers:
        rule = "a Pipeline, or a FeatureUnion, that contains a StridedConv2DTransformer"
        raise parameter_error(TypeError, OWNER, "model", rule, model)
    if not hasattr(model, method):
        names = [name for name in METHODS if hasattr(model, name)]
        rule = f"the name of a method that the model has: {' or '.join(names)}"
        raise parameter_error(ValueError, OWNER, "method", rule, method)
    size = _find_size(model, transformers[0], opened)
    ignores_missing = all(transformer.missing == MISSING for transformer in transformers)
    tiles = _Tiles(opened, size, step, ignores_missing)
    try:
        groups = _share(model, method, tiles)
    except _NotSharedError as error:
        warn(f"{OWNER} computes each tile by itself, which takes longer: {error}.")
        groups = _cut(model, method, tiles)
    result = _Result(tiles.grid)
    progress = Progress(transformers[0], prod(tiles.grid), "tiles")
    with say_once(set()):
        for group in groups:
            result.predict(group)
            progress.advance(len(group.numbers))
    return result.finish()


class _NotSharedError(Exception):
    """Neighboring tiles have no responses in common, for the reason in the message."""


class _LookUp(StridedConv2DTransformer):
    """A fitted transformer that receives numbers of tiles, whose features are known."""

    features: np.ndarray

    def transform(self, X: Any) -> np.ndarray:
        return self.features[X]


class _Group(NamedTuple):
    """Tiles, some of which are predicted together."""

    numbers: np.ndarray
    """Places of the tiles in the flattened map, (b,)."""
    rows: np.ndarray
    """Indices of the tiles of the group that have a prediction."""
    attempts: Iterable[np.ndarray]
    """Indices of others, which have one if the model accepts features that are NaN."""
    length: int
    """Number of tiles that are predicted at once."""
    call: Callable[[np.ndarray], Any]
    """Predicts tiles with these indices."""


class _Result:
    """The predictions of tiles."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._values: np.ndarray | None = None
        self._is_known = np.zeros(prod(shape), bool)

    def predict(self, group: _Group) -> None:
        """Predict the tiles of a group."""
        self._put(group, group.rows)
        for rows in group.attempts:
            with suppress(ValueError):
                self._put(group, rows)

    def finish(self) -> np.ndarray:
        """Return the map."""
        if self._values is None:
            raise ValueError(
                "No tile of the scene has a prediction, because pixels are missing in all of them; "
                "check the nodata value of the scene, or fit with missing='ignore'."
            )
        values = self._values.reshape(*self._shape, *self._values.shape[1:])
        if values.dtype.kind == "f" or self._is_known.all():
            return values
        mask = ~self._is_known.reshape(self._shape + (1,) * (values.ndim - 2))
        return np.ma.array(values, mask=np.broadcast_to(mask, values.shape))

    def _put(self, group: _Group, rows: np.ndarray) -> None:
        for start, stop in cut_span((0, len(rows)), group.length):
            predicted = group.call(rows[start:stop])
            if isinstance(predicted, list):
                rule = "that of a model with one target, because it returns a list for several"
                raise parameter_error(TypeError, OWNER, "method", rule, predicted)
            predicted = np.asarray(predicted)
            if self._values is None:
                shape = len(self._is_known), *predicted.shape[1:]
                nothing = np.nan if predicted.dtype.kind == "f" else np.zeros((), predicted.dtype)
                self._values = np.full(shape, nothing, predicted.dtype)
            numbers = group.numbers[rows[start:stop]]
            self._values[numbers] = predicted
            self._is_known[numbers] = True


class _Tiles:
    """The tiles at every step of a scene."""

    def __init__(
        self, scene: Scene, size: tuple[int, int], step: tuple[int, int], ignores_missing: bool
    ) -> None:
        self.scene, self.size, self.step = scene, size, step
        self.ignores_missing = ignores_missing
        rows, columns = (
            (length - tile) // distance + 1
            for length, tile, distance in zip(scene.shape, size, step, strict=False)
        )
        self.grid = rows, columns

    def read(self, rows: Span, columns: Span) -> tuple[np.ndarray, np.ndarray]:
        """Read the pixels under some rows and columns of tiles.

        Also return the number of missing pixels of each of these tiles, (rows, columns).
        """
        shape = rows[1] - rows[0], columns[1] - columns[0]
        area = [
            slice(start * step, (stop - 1) * step + length)
            for (start, stop), step, length in zip(
                (rows, columns), self.step, self.size, strict=True
            )
        ]
        block = self.scene.read(*area)
        if not block.dtype.isnative:
            block = block.astype(block.dtype.newbyteorder("="))
        if block.dtype.kind != "f":
            return block, np.zeros(shape, np.int32)
        place = f"rows {area[0].start}:{area[0].stop}, columns {area[1].start}:{area[1].stop}"
        if np.isinf(block).any():
            raise ValueError(
                f"The scene contains infinity in {place}; replace it, for example by a masked "
                "array, numpy.ma.masked_invalid(scene)."
            )
        is_missing = np.isnan(block).any(axis=2)
        if not is_missing.any():
            return block, np.zeros(shape, np.int32)
        if not (self.ignores_missing or self.scene.has_missing):
            raise ValueError(
                f"The scene contains NaN in {place}. If these pixels are missing, declare this "
                "with numpy.ma.masked_invalid(scene), so that tiles with such pixels have no "
                "prediction, or fit the model with missing='ignore'; otherwise, fill them first."
            )
        n_missing = is_missing.astype(np.int32)
        for axis in (0, 1):
            n_missing = join_runs(
                np.add, n_missing, axis, (0, self.size[axis]), shape[axis], self.step[axis]
            )
        return block, n_missing

    def select(self, n_missing: np.ndarray) -> np.ndarray:
        """Return which tiles may have a prediction, given how many pixels are missing in each."""
        return n_missing < prod(self.size) if self.ignores_missing else n_missing == 0


def _find_transformers(
    step: Any, tiles: Any = None
) -> Iterator[tuple[StridedConv2DTransformer, Any]]:
    """Yield the transformers that receive tiles, and tiles as they arrive, if some are passed."""
    if isinstance(step, StridedConv2DTransformer):
        check_is_fitted(step)
        require_numpy_model(OWNER, step.kernels_)
        yield step, tiles
    elif isinstance(step, FeatureUnion):
        for _, part in step.transformer_list:
            yield from _find_transformers(part, tiles)
    elif isinstance(step, Pipeline):
        for _, part in step.steps:
            found = [*_find_transformers(part, tiles)]
            yield from found
            if found:
                return
            if tiles is not None and part not in (None, "passthrough"):
                tiles = part.transform(tiles)


def _check_shapes(model: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise ValueError if steps before the transformers change the shape of tiles."""
    h, w, c = shape
    for more in (0, 1):  # A step that scales to the size of the tiles changes others.
        tiles, arrived = np.zeros((1, h + more, w + more, c), dtype), []
        # A step that refuses the larger tiles knows their size.
        with suppress(Exception), np.errstate(all="ignore"), say_once(EVERYTHING):
            arrived = [np.shape(found) for _, found in _find_transformers(model, tiles)]
        # Rows of pixels, and gray images without an axis of channels, keep the size.
        others = [
            found
            for found in arrived
            if found != tiles.shape and (len(found) == 4 or prod(found) != tiles.size)
        ]
        if others:
            raise ValueError(
                f"{OWNER} takes the size of the tiles from the transformer, but a step before it "
                f"makes images of shape {others[0][1:]} of tiles of shape {tiles.shape[1:]}; apply "
                "this step to the scene instead, and fit the model without it."
            )


def _find_size(model: Any, transformer: StridedConv2DTransformer, scene: Scene) -> tuple[int, int]:
    """Return the size of the tiles that the model was fitted on."""
    h, w, c = transformer.image_shape_
    if h is None:
        raise ValueError(
            f"{OWNER} needs a model that was fitted on tiles of one size, but image_shape is "
            "'any'; fit it on tiles of one size."
        )
    _check_shapes(model, (h, w, scene.shape[2]), scene.dtype)
    if c != scene.shape[2]:
        raise ValueError(
            f"The scene has {scene.shape[2]} channels, but the model was fitted on tiles with {c}; "
            "channels come last, as in scene.transpose(1, 2, 0)."
        )
    if h > scene.shape[0] or w > scene.shape[1]:
        raise ValueError(
            f"The scene of {scene.shape[0]} x {scene.shape[1]} pixels is smaller than the tiles of "
            f"{h} x {w} pixels that the model was fitted on; pass a larger scene."
        )
    return h, w


def _cut(model: Any, method: str, tiles: _Tiles) -> Iterator[_Group]:
    """Yield groups of tiles that are computed by the model itself."""
    (h, w), channels = tiles.size, tiles.scene.shape[2]
    length = max(1, ROWS_BYTES // (h * w * channels * tiles.scene.dtype.itemsize))
    for row in range(tiles.grid[0]):
        for columns in cut_span((0, tiles.grid[1]), length):
            block, n_missing = tiles.read((row, row + 1), columns)
            starts = range(0, block.shape[1] - w + 1, tiles.step[1])
            images = np.stack([block[:, start : start + w] for start in starts])
            n_missing = n_missing.ravel()
            is_known = tiles.select(n_missing)
            yield _Group(
                numbers=row * tiles.grid[1] + np.arange(*columns),
                rows=np.flatnonzero(n_missing == 0),
                attempts=np.flatnonzero(is_known & (n_missing > 0))[:, np.newaxis],
                length=length,
                call=partial(_predict, model, method, images),
            )


def _predict(model: Any, method: str, images: np.ndarray, rows: np.ndarray) -> Any:
    return getattr(model, method)(images[rows])


def _share(model: Any, method: str, tiles: _Tiles) -> Iterator[_Group]:
    """Yield tiles with responses in common; _NotSharedError says why there are none."""
    if all(step >= length for step, length in zip(tiles.step, tiles.size, strict=True)):
        return _cut(model, method, tiles)  # There is nothing to share.
    look_ups: list[_LookUp] = []
    replica = _replace(model, look_ups)
    dtype, workspace = compute_dtype(tiles.scene.dtype), Workspace()
    engines = [_make_engine(look_up, tiles.step, dtype, workspace) for look_up in look_ups]
    return _slide(replica, method, tiles, [*zip(look_ups, engines, strict=True)])


def _replace(step: Any, look_ups: list[_LookUp]) -> Any:
    """Return a copy of a fitted step for numbers of tiles, and add its transformers to a list."""
    replica = copy(step)
    if type(step) is StridedConv2DTransformer:
        replica.__class__ = _LookUp
        look_ups.append(replica)
    elif isinstance(step, Pipeline):
        replica.steps = steps = [*step.steps]
        first = next(i for i, (_, part) in enumerate(steps) if part not in (None, "passthrough"))
        steps[first] = steps[first][0], _replace(steps[first][1], look_ups)
    elif isinstance(step, FeatureUnion):
        replica.n_jobs = 1  # Features are not copied to other processes.
        replica.transformer_list = [
            (name, part if part in (None, "drop") else _replace(part, look_ups))
            for name, part in step.transformer_list
        ]
    else:
        name = step if isinstance(step, str) else type(step).__name__
        raise _NotSharedError(
            f"the step {name!r} of the model receives the pixels of the tiles; apply it to the "
            "whole scene instead, if that is the same"
        )
    return replica


def _make_engine(
    transformer: StridedConv2DTransformer,
    step: tuple[int, int],
    dtype: np.dtype,
    workspace: Workspace,
) -> SlidingEngine:
    parameters = check_parameters(transformer)
    geometries = place_views(
        parameters, transformer.image_shape_[:2], transformer.kernels_.shape[:2]
    )
    check_views(parameters, geometries)
    if any(len(windows.index) > windows.length for each in geometries for windows in each):
        raise _NotSharedError(
            f"with padding={transformer.padding!r}, windows see the borders of tiles; fit with "
            "padding='valid'"
        )
    for view, geometry in zip(parameters.views, geometries, strict=True):
        distances = step[::-1] if view.is_transposed else step
        if any(d % windows.stride for d, windows in zip(distances, geometry, strict=True)):
            raise _NotSharedError(
                f"step={step} is not a multiple of stride={transformer.stride}, so tiles have "
                "windows at different pixels"
            )
    layer = make_layer(transformer, parameters, geometries[0], cast_numbers, dtype)
    return SlidingEngine(layer, parameters.views, geometries, parameters.power, step, workspace)


def _slide(
    replica: Any, method: str, tiles: _Tiles, sources: Sequence[tuple[_LookUp, SlidingEngine]]
) -> Iterator[_Group]:
    """Yield tiles with responses in common."""
    watch = TransformWatch(getattr(sources[0][0], "_values_seen", None))
    for rows, columns in _plan(tiles, sources):
        shape = rows[1] - rows[0], columns[1] - columns[0]
        block, n_missing = tiles.read(rows, columns)
        is_known = tiles.select(n_missing).ravel()
        watch.look_at_values(block[np.newaxis])
        is_empty = np.zeros((prod(shape), 1), bool)
        if is_known.any():
            found = [_look_ahead(*source, tiles, block, shape, is_known) for source in sources]
            is_empty = np.hstack(found)
        # Whether a model accepts NaN may depend on the cells that are empty.
        nan_rows = np.flatnonzero(is_known & is_empty.any(axis=1))
        bits = np.packbits(is_empty[nan_rows], axis=1)
        kinds, kind_of_row = np.unique(bits, axis=0, return_inverse=True)
        numbers = np.add.outer(np.arange(*rows) * tiles.grid[1], np.arange(*columns)).ravel()
        row_bytes = sum(engine.row_bytes for _, engine in sources)
        yield _Group(
            numbers=numbers,
            rows=np.flatnonzero(is_known & ~is_empty.any(axis=1)),
            attempts=[nan_rows[kind_of_row.ravel() == kind] for kind in range(len(kinds))],
            length=max(1, ROWS_BYTES // row_bytes),
            call=getattr(replica, method),
        )
        for look_up, _ in sources:
            look_up.__dict__.pop("features", None)  # before those of the next block are computed


def _look_ahead(
    look_up: _LookUp,
    engine: SlidingEngine,
    tiles: _Tiles,
    block: np.ndarray,
    shape: tuple[int, int],
    is_known: np.ndarray,
) -> np.ndarray:
    """Compute the features of the tiles of a block, and return which cells are empty, (n, cells).

    The features of empty cells may be NaN.
    """
    has_missing = block.dtype.kind == "f" and bool(np.isnan(block).any())
    image = block
    if has_missing and not tiles.ignores_missing:  # Tiles with missing pixels are not predicted.
        low, high = np.nanmin(block), np.nanmax(block)  # Zeros would hide a large offset.
        image, has_missing = np.where(np.isnan(block), max(low, high, key=abs), block), False
    with np.errstate(all="ignore"):
        features, is_empty = engine.compute(image, shape, has_missing, look_up.n_jobs)
        is_finite = np.isfinite(features).all(axis=(3, 4, 5)) | is_empty
    flat = features.reshape(prod(shape), -1)
    # Sums overflow before means do; the transformer computes such tiles in float64.
    for row in np.flatnonzero(is_known & ~is_finite.all(axis=2).ravel()):
        top, left = np.multiply(divmod(int(row), shape[1]), tiles.step)
        tile = block[top : top + tiles.size[0], left : left + tiles.size[1]]
        flat[row] = np.asarray(
            StridedConv2DTransformer.transform(look_up, tile[np.newaxis])
        ).ravel()
    parameters = check_parameters(look_up)
    look_up.features = flat.reshape(-1, *look_up._row_shape(look_up._feature_shape(parameters)))
    return is_empty.reshape(prod(shape), -1)


def _plan(
    tiles: _Tiles, sources: Sequence[tuple[_LookUp, SlidingEngine]]
) -> list[tuple[Span, Span]]:
    """Divide the map into blocks of tiles."""
    # Pixels between tiles are not read.
    most = [
        n if step <= length else 1
        for n, step, length in zip(tiles.grid, tiles.step, tiles.size, strict=True)
    ]
    shape = (1, 1)
    while shape != tuple(most):
        for axis in sorted((0, 1), key=lambda axis: shape[axis] * tiles.step[axis]):
            length = min(most[axis], shape[axis] * 9 // 8 + 1)
            larger = (length, shape[1]) if axis == 0 else (shape[0], length)
            if larger != shape and _count_bytes(tiles, sources, larger) <= BLOCK_BYTES:
                break
        else:
            break
        shape = larger
    lengths = [-(-n // -(-n // length)) for n, length in zip(tiles.grid, shape, strict=True)]
    rows, columns = (
        cut_span((0, n), length) for n, length in zip(tiles.grid, lengths, strict=True)
    )
    return [*product(rows, columns)]


def _count_bytes(
    tiles: _Tiles,
    sources: Sequence[tuple[_LookUp, SlidingEngine]],
    shape: tuple[int, int],
) -> int:
    """Return about how much memory a block of tiles takes."""
    lengths = [
        (n - 1) * step + size for n, step, size in zip(shape, tiles.step, tiles.size, strict=True)
    ]
    n_bytes = prod(lengths) * tiles.scene.shape[2] * tiles.scene.dtype.itemsize
    n_bytes += max(engine.count_bytes(shape) for _, engine in sources)
    return n_bytes + prod(shape) * sum(engine.row_bytes for _, engine in sources)
