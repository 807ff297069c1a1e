"""`tile_scene`: cut a scene into tiles that are read when they are needed, and map their values.

There is one class for each kind of scene, all with the interface of `Scene`; `open_scene` chooses
the class.
"""

from __future__ import annotations

from itertools import pairwise
from math import gcd, prod
from numbers import Real
from threading import Lock
from typing import Any

import numpy as np

from sklearn_conv._lazy import LazyImages
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._validation import (
    check_integer,
    check_name,
    check_pair,
    is_dask,
    is_integer,
    parameter_error,
    require,
)

RULE = (
    "a single image: an array of real numbers of shape (h, w) or (h, w, c), an opened rasterio "
    "dataset, or an xarray.DataArray with the dimensions y and x"
)

READ_BYTES = 2**24
"""Approximate size of the pixels that are read at a time to reduce or to count them."""


class Scene:
    """A scene in an array that is sliced like one of NumPy.

    If ``has_missing``, the values declare missing pixels, which are read as NaN.
    """

    def __init__(
        self, values: Any, shape: tuple[int, ...], dtype: Any, has_missing: bool = False
    ) -> None:
        self.values = values
        self.shape = (*shape, 1)[:3]
        self.dtype = np.result_type(dtype, np.float32) if has_missing else np.dtype(dtype)
        self.has_missing = has_missing

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a rectangle, ``(rows, columns, c)``, as a view if the scene is in memory."""
        try:
            block = self._read(rows, columns)
            if is_dask(block):  # NumPy would drop the mask.
                block = block.compute()
            check_memory_map(block)
            if self.has_missing:
                block = np.ma.filled(block.astype(self.dtype), np.nan)
            elif np.ma.is_masked(block):
                raise ValueError(
                    "The scene has masked values, but is no masked array itself; pass one, such as "
                    "scene[:]."
                )
            block = np.asarray(block)
        except Exception as error:
            area = f"rows {rows.start}:{rows.stop}, columns {columns.start}:{columns.stop}"
            error.add_note(f"This error was raised while {area} of the scene were read.")
            raise
        return block.reshape(*block.shape[:2], -1)

    def _read(self, rows: slice, columns: slice) -> Any:
        return self.values[rows, columns]

    def read_means(self, rows: slice, columns: slice, scale: int) -> np.ndarray:
        """Read a rectangle of the scene at a reduced resolution, as means of blocks of pixels.

        Missing pixels do not count; the mean of a block without others is NaN.
        """
        height, width = rows.stop - rows.start, columns.stop - columns.start
        result = np.empty((height, width, self.shape[2]), np.result_type(self.dtype, np.float32))
        wide = slice(columns.start * scale, columns.stop * scale)
        length = max(1, READ_BYTES // (width * scale**2 * self.shape[2] * self.dtype.itemsize))
        for start in range(rows.start, rows.stop, length):
            stop = min(rows.stop, start + length)
            block = self.read(slice(start * scale, stop * scale), wide)
            parts = block.reshape(stop - start, scale, width, scale, -1)
            if self.has_missing:
                is_known = ~np.isnan(parts)
                sums = np.where(is_known, parts, 0).sum(axis=(1, 3), dtype=np.float64)
                with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: nothing is known.
                    means = sums / is_known.sum(axis=(1, 3))
            else:
                means = parts.mean(axis=(1, 3), dtype=np.float64)
            result[start - rows.start : stop - rows.start] = means
        return result

    def locate(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
        """Return the coordinates (y, x) of points, (n, 2), or None without coordinates.

        The center of the first pixel of the scene is at 0.5, 0.5.
        """
        if self.transform is None:
            return None
        a, b, c, d, e, f = self.transform
        return np.column_stack([d * columns + e * rows + f, a * columns + b * rows + c])

    @property
    def transform(self) -> tuple[float, ...] | None:
        """Six numbers (a, b, c, d, e, f), or None without coordinates.

        A point (row, column) of the scene is at y = d * column + e * row + f and
        x = a * column + b * row + c.
        """
        return None

    @property
    def crs(self) -> Any:
        """Coordinate reference system, or None."""
        return None

    def wrap(self, values: np.ndarray, resolution: int) -> Any:
        """Return a map ``(h // resolution, w // resolution, ...)`` as an object of the library."""
        return values


class Raster(Scene):
    """An opened dataset of rasterio, whose bands are the channels."""

    def __init__(self, dataset: Any, owner: str = "tile_scene") -> None:
        if any("complex" in name for name in dataset.dtypes):
            rule = f"{RULE}; make channels of the real and imaginary parts first"
            raise parameter_error(TypeError, owner, "scene", rule, dataset.dtypes)
        # Masks of an alpha band are left out, because the band itself is one of the channels.
        has_missing = any(
            not flags.isdisjoint({"nodata", "per_dataset"}) and "alpha" not in flags
            for flags in ({flag.name for flag in band} for band in dataset.mask_flag_enums)
        )
        shape = (dataset.height, dataset.width, dataset.count)
        super().__init__(dataset, shape, np.result_type(*dataset.dtypes), has_missing)
        self._lock = Lock()  # GDAL does not allow several threads to read a dataset at once.

    def _read(self, rows: slice, columns: slice) -> Any:
        window = ((rows.start, rows.stop), (columns.start, columns.stop))
        with self._lock:
            return self.values.read(window=window, masked=self.has_missing).transpose(1, 2, 0)

    def read_means(self, rows: slice, columns: slice, scale: int) -> np.ndarray:
        """Read means of blocks of pixels, which GDAL makes from overviews if there are any."""
        from sklearn_conv._reading.geo_files import AVERAGE

        shape = self.shape[2], rows.stop - rows.start, columns.stop - columns.start
        window = tuple((span.start * scale, span.stop * scale) for span in (rows, columns))
        dtype = np.result_type(self.dtype, np.float32)
        with self._lock:
            block = self.values.read(
                window=window,
                out_shape=shape,
                out_dtype=dtype,
                resampling=AVERAGE,
                masked=self.has_missing,
            )
        return np.ma.filled(block, np.nan).transpose(1, 2, 0)

    @property
    def transform(self) -> tuple[float, ...] | None:
        found = tuple(self.values.transform[:6])
        return None if found == (1, 0, 0, 0, 1, 0) else found

    @property
    def crs(self) -> Any:
        return self.values.crs

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "A dataset of rasterio cannot be copied to another process; use n_jobs=None, or pass "
            "the array dataset.read().transpose(1, 2, 0)."
        )


class Labeled(Scene):
    """A DataArray of xarray with the dimensions y, x and, for several channels, a third."""

    def __init__(self, values: Any) -> None:
        dims = ("y", "x", *(dim for dim in values.dims if dim not in ("y", "x")))
        super().__init__(values, tuple(values.sizes[dim] for dim in dims), values.dtype)
        self.dims = dims

    def _read(self, rows: slice, columns: slice) -> Any:
        return self.values.isel(y=rows, x=columns).transpose(*self.dims).to_numpy()

    def locate(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
        axes = []
        for dim, places in (("y", rows), ("x", columns)):
            centers = self._coordinate(dim)
            if centers is None:
                return None
            axes.append(np.interp(places - 0.5, np.arange(len(centers)), centers))
        return np.column_stack(axes)

    def wrap(self, values: np.ndarray, resolution: int) -> Any:
        scene = self.values
        # Coordinates without a dimension, such as spatial_ref, describe the scene as a whole.
        coords = {
            name: coord.variable.copy() for name, coord in scene.coords.items() if not coord.dims
        }
        for coord in coords.values():
            coord.attrs.pop("GeoTransform", None)  # It is that of the pixels of the scene.
        for dim, length in zip(("y", "x"), values.shape, strict=False):
            centers = self._coordinate(dim)
            if centers is not None:
                centers = centers[: length * resolution].reshape(length, resolution).mean(axis=1)
                coords[dim] = (dim, centers, scene.coords[dim].attrs)
        result = type(scene)(values, coords, ("y", "x", "value")[: values.ndim])
        result.attrs = {k: v for k, v in scene.attrs.items() if k in ("crs", "grid_mapping")}
        if "grid_mapping" in scene.encoding:
            result.encoding["grid_mapping"] = scene.encoding["grid_mapping"]
        return result

    @property
    def transform(self) -> tuple[float, ...] | None:
        centers = self._coordinate("y"), self._coordinate("x")
        steps = [
            np.nan if each is None or len(each) < 2 else (each[-1] - each[0]) / (len(each) - 1)
            for each in centers
        ]
        if np.isnan(steps).any():
            return None
        (dy, dx), (y, x) = steps, (each[0] for each in centers if each is not None)
        return dx, 0.0, x - dx / 2, 0.0, dy, y - dy / 2

    @property
    def crs(self) -> Any:
        coords = [coord.attrs for coord in self.values.coords.values() if not coord.dims]
        found = [a[name] for a in coords for name in ("crs_wkt", "spatial_ref") if name in a]
        return found[0] if found else self.values.attrs.get("crs")

    def _coordinate(self, dim: str) -> np.ndarray | None:
        """Return the numbers along a dimension, or None if there are none."""
        if dim not in self.values.coords or self.values.coords[dim].dtype.kind not in "iuf":
            return None
        return self.values.coords[dim].to_numpy().astype(np.float64)


class Reduced(Scene):
    """A scene at a reduced resolution: each of its pixels is a block of pixels of another one."""

    def __init__(self, scene: Scene, scale: int) -> None:
        height, width, c = scene.shape
        dtype = np.result_type(scene.dtype, np.float32)
        super().__init__(None, (height // scale, width // scale, c), dtype, scene.has_missing)
        self.full, self.scale = scene, scale

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        return self.full.read_means(rows, columns, self.scale)

    def locate(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
        return self.full.locate(rows * self.scale, columns * self.scale)

    @property
    def crs(self) -> Any:
        return self.full.crs

    @property
    def transform(self) -> tuple[float, ...] | None:
        full = self.full.transform
        if full is None:
            return None
        a, b, c, d, e, f = full
        return a * self.scale, b * self.scale, c, d * self.scale, e * self.scale, f

    def wrap(self, values: np.ndarray, resolution: int) -> Any:
        return self.full.wrap(values, resolution * self.scale)


def open_scene(scene: Any, owner: str = "tile_scene", scale: Any = 1) -> Scene:
    """Return an object that reads the scene; raise an error if it is not one."""
    scale = check_integer(owner, "scale", scale, 1)
    library = type(scene).__module__.partition(".")[0]  # Neither library is imported.
    if library == "rasterio" and hasattr(type(scene), "mask_flag_enums"):
        if scene.closed:
            raise ValueError(f"{scene!r} is closed; keep it open as long as its tiles are read.")
        result: Scene = Raster(scene, owner)
    else:
        _check_array(scene, owner)
        if library == "xarray":
            if not {"y", "x"} <= {*scene.dims}:
                raise ValueError(
                    f"The scene has the dimensions {scene.dims}, but must have y and x; rename "
                    "them, for example with scene.rename(lat='y', lon='x')."
                )
            result = Labeled(scene)
        else:
            kind = getattr(scene, "_meta", scene) if is_dask(scene) else scene
            result = Scene(scene, scene.shape, scene.dtype, isinstance(kind, np.ma.MaskedArray))
    if result.dtype.kind not in "biuf":
        raise parameter_error(TypeError, owner, "scene", RULE, result.dtype)
    if 0 in result.shape:
        raise ValueError(f"The scene of shape {scene.shape} has an empty axis; it must be {RULE}.")
    if scale > min(result.shape[:2]):
        rule = f"an integer of at most {min(result.shape[:2])}, the shorter side of the scene"
        raise parameter_error(ValueError, owner, "scale", rule, scale)
    return result if scale == 1 else Reduced(result, scale)


def _check_array(scene: Any, owner: str) -> None:
    """Check that the scene is an array with two or three axes."""
    shape = getattr(scene, "shape", None)
    try:
        np.dtype(scene.dtype)
    except (AttributeError, TypeError):
        shape = None
    if not (isinstance(shape, tuple) and hasattr(type(scene), "__getitem__")):
        hint = "; read files and convert images with numpy.asarray, or rasterio.open, first"
        raise parameter_error(TypeError, owner, "scene", f"{RULE}{hint}", scene)
    if len(shape) not in (2, 3) or not all(map(is_integer, shape)):
        raise ValueError(
            f"The 'scene' parameter of {owner} must be {RULE}. Got shape {shape} instead; pass "
            "the images of a batch one by one."
        )


class SceneTiles(LazyImages):
    """The tiles of a scene, row by row: a sequence with the indexing of an array ``(n, h, w, c)``.

    `tile_scene` returns it. An integer index reads a tile; a slice, an index array or a mask
    selects tiles and reads nothing; `numpy.asarray` reads the selected tiles, neighbors together.

    Attributes
    ----------
    shape : tuple of int
        ``(n, h, w, c)``: the number of tiles, their height and width, and the number of channels.
    dtype : numpy.dtype
        Dtype of the tiles: that of the scene, or a floating dtype if the scene declares missing
        pixels, which are NaN.
    ndim : int
        The number of axes, 4.
    positions : ndarray of shape (n, 2)
        Row and column of the first pixel of each tile.
    valid_fraction : ndarray of shape (n,)
        Fraction of the pixels of each tile that are not missing in any channel. It is found when it
        is asked for, or by ``min_valid``; each pixel under the tiles of the scene is read once.
    coordinates : ndarray of shape (n, 2) or None
        Coordinates (y, x) of the center of each tile, in the units of the coordinate reference
        system. None if the scene has neither a transform nor numeric coordinates.

    See Also
    --------
    tile_scene : Cut a scene into tiles; it has an example.
    """

    def __init__(
        self, scene: Scene, size: tuple[int, int], step: tuple[int, int], shift: bool
    ) -> None:
        starts = [
            _place_tiles(*lengths, shift)
            for lengths in zip(scene.shape[:2], size, step, strict=True)
        ]
        self._tops, self._lefts = starts
        n = len(self._tops) * len(self._lefts)
        super().__init__(n, (*size, scene.shape[2]), scene.dtype)
        self._scene = scene
        self._step = step
        self._valid: np.ndarray | None = None

    @property
    def positions(self) -> np.ndarray:
        """Row and column of the first pixel of each tile, (n, 2)."""
        rows, columns = np.divmod(self._indices, len(self._lefts))
        return np.column_stack([self._tops[rows], self._lefts[columns]])

    @property
    def coordinates(self) -> np.ndarray | None:
        """Coordinates (y, x) of the center of each tile, (n, 2), or None."""
        return self._scene.locate(*(self.positions + np.array(self.shape[1:3]) / 2).T)

    @property
    def valid_fraction(self) -> np.ndarray:
        """Fraction of the pixels of each tile that are not missing, (n,)."""
        if self._valid is None:
            self._valid = self._count_valid() / prod(self._image_shape[:2])
        return self._valid[self._indices]

    def to_map(self, values: Any, resolution: int = 1) -> Any:
        """Put values of the tiles into a map of the scene.

        Each pixel of the map is the mean of the values of the tiles that cover it, and NaN if no
        tile does. The map, and one counter for each of its pixels, are all that is held in memory.

        Parameters
        ----------
        values : array-like of shape (n,) or (n, k)
            One float, or k floats, for each tile: predicted numbers, probabilities, or features.
            Labels of classes have no mean: pass the probabilities or the decision function of the
            classifier, and select the class of each map pixel with ``argmax``, except where the
            map is NaN.
        resolution : int, default=1
            Each pixel of the map covers ``resolution x resolution`` pixels of the scene. It must
            divide the positions and the sizes of the tiles.

        Returns
        -------
        map : ndarray or xarray.DataArray
            Array of shape ``(H // resolution, W // resolution)`` or ``(..., k)``, where H and W are
            the height and width of the scene, in float64 or, for values in float32 or float16, in
            float32. For a scene of xarray, a DataArray with the dimensions y and x, and "value" for
            k values, with coordinates, and with the reference system of the scene.

        Raises
        ------
        TypeError, ValueError
            If ``values`` or ``resolution`` are not as described.
        """
        owner = "SceneTiles.to_map"
        if np.ma.is_masked(values):
            rule = "an array without masked values; fill them first, for example with numpy.nan"
            raise parameter_error(ValueError, owner, "values", rule, values)
        values = np.asarray(values)
        if values.dtype.kind != "f":
            raise TypeError(
                f"The 'values' parameter of {owner} must be an array of floats. Got dtype "
                f"{values.dtype} instead. Labels of classes have no mean: pass the result of "
                "predict_proba or decision_function, and select the class of each map pixel with "
                "numpy.argmax, except where the map is NaN. Convert other numbers with "
                "values.astype(float)."
            )
        if values.ndim not in (1, 2) or len(values) != len(self):
            raise ValueError(
                f"The 'values' parameter of {owner} must be an array of shape (n,) or (n, k), with "
                f"n={len(self)}, the number of tiles. Got shape {values.shape} instead; select "
                "tiles as values were selected, for example tiles[rows].to_map(values[rows])."
            )
        check_integer(owner, "resolution", resolution, 1)
        size = self._image_shape[:2]
        divisor = gcd(*size, int(np.gcd.reduce(self.positions, axis=None)))
        if divisor % resolution:
            divisors = [i for i in range(1, divisor + 1) if divisor % i == 0]
            rule = f"a divisor of the positions and sizes of the tiles: one of {divisors}"
            if gcd(*size, *self._step) % resolution == 0:
                rule += "; other values need tile_scene(..., edge='drop')"
            raise parameter_error(ValueError, owner, "resolution", rule, resolution)
        shape = [length // resolution for length in self._scene.shape[:2]]
        result = np.zeros((*shape, *values.shape[1:]), np.result_type(values.dtype, np.float32))
        counts = np.zeros((*shape, *[1] * (values.ndim - 1)), np.int32)
        h, w = (length // resolution for length in size)
        for (top, left), value in zip(self.positions // resolution, values, strict=True):
            place = slice(top, top + h), slice(left, left + w)
            result[place] += value
            counts[place] += 1
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: there is no tile.
            result /= counts
        return self._scene.wrap(result, resolution)

    def _count_valid(self) -> np.ndarray:
        """Count the pixels that are not missing in all tiles of the scene, selected or not."""
        _, width, c = self._scene.shape
        (h, w), n_pixels = self._image_shape[:2], prod(self._image_shape[:2])
        n_all = len(self._tops) * len(self._lefts)
        if self.dtype.kind != "f":
            return np.full(n_all, n_pixels)
        # Sums over all rows above the first and the last row of each tile, for its columns
        edges = np.unique(np.concatenate([self._tops, self._tops + h]))
        sums = np.zeros((len(edges), len(self._lefts)), np.int64)
        length = max(1, READ_BYTES // (width * c * self.dtype.itemsize))
        for i, (start, stop) in enumerate(pairwise(edges.tolist())):
            counts = np.zeros(width + 1, np.int64)
            for top in range(start, stop, length):
                block = self._scene.read(slice(top, min(stop, top + length)), slice(0, width))
                counts[1:] += (~np.isnan(block).any(axis=2)).sum(axis=0)
            counts = counts.cumsum()
            sums[i + 1] = sums[i] + counts[self._lefts + w] - counts[self._lefts]
        ends = (np.searchsorted(edges, places) for places in (self._tops + h, self._tops))
        last, first = (sums[end] for end in ends)
        return (last - first).ravel()

    def _read(self, rows: np.ndarray) -> np.ndarray:
        tiles = np.empty((len(rows), *self._image_shape), self.dtype)
        h, w = self._image_shape[:2]
        grid_rows, grid_columns = np.divmod(rows, len(self._lefts))
        tops, lefts = self._tops[grid_rows], self._lefts[grid_columns]
        # Tiles that fill a rectangle of the grid are read at once. They touch or overlap, so that
        # the rectangle has no more pixels than the tiles: each tile touches the previous one, and
        # each run of such tiles the run above it.
        is_beside = (np.diff(rows) == 1) & (np.diff(grid_rows) == 0) & (np.diff(lefts) <= w)
        runs = np.flatnonzero(np.append(True, ~is_beside)[: len(rows)])
        lengths = np.diff(runs, append=len(rows))
        is_below = (
            (np.diff(lengths) == 0)
            & (np.diff(grid_columns[runs]) == 0)
            & (np.diff(grid_rows[runs]) == 1)
            & (np.diff(tops[runs]) <= h)
        )
        starts = runs[np.append(True, ~is_below)[: len(runs)]]
        for start, stop in pairwise(map(int, [*starts, len(rows)])):
            top, left = int(tops[start]), int(lefts[start])
            block = self._scene.read(
                slice(top, int(tops[stop - 1]) + h), slice(left, int(lefts[stop - 1]) + w)
            )
            for i in range(start, stop):
                y, x = tops[i] - top, lefts[i] - left
                tiles[i] = block[y : y + h, x : x + w]
        return tiles


def _place_tiles(length: int, size: int, step: int, shift: bool) -> np.ndarray:
    """Return where tiles begin along an axis of the scene."""
    starts = np.arange(0, length - size + 1, step)
    last = length - size
    return np.append(starts, last) if shift and starts[-1] < last else starts


def tile_scene(
    scene: Any,
    size: int | tuple[int, int],
    step: int | tuple[int, int] | None = None,
    *,
    edge: str = "shift",
    scale: int = 1,
    min_valid: float | None = None,
) -> SceneTiles:
    """Cut a scene, such as a satellite image or a slide, into tiles without reading it.

    The tiles are images for ``fit`` and ``transform``, and for everything in scikit-learn that
    selects rows. Only the pixels of the tiles that are needed are read. `SceneTiles.to_map` puts
    predictions into a map of the scene.

    Parameters
    ----------
    scene : array-like, rasterio dataset or xarray.DataArray
        A single image, of any size:

        - An array of shape ``(h, w)`` or ``(h, w, c)``, in memory or in a file: a NumPy array or
          memory map, a zarr, h5py or Dask array. Masked pixels of a NumPy array become NaN.
        - An opened dataset of rasterio, whose bands are the channels. If it declares a nodata value
          or has a mask, tiles are floats, and missing pixels are NaN. The mask of an alpha band is
          not used, because this band is one of the channels. The dataset must stay open.
        - A DataArray with the dimensions y and x, and at most one other for the channels, in any
          order, whose values are used as they are.
    size : int or (height, width)
        Size of the tiles in pixels.
    step : int or (rows, columns), default=None
        Distance from one tile to the next, in pixels. If None, it is ``size``, so that tiles do not
        overlap.
    edge : {"shift", "drop"}, default="shift"
        What is done if the tiles do not end at the lower or right border of the scene: "shift" adds
        a row or column of tiles that end there and overlap the previous ones; "drop" leaves out the
        pixels at the border.
    scale : int, default=1
        Reduction of the resolution: each pixel of the tiles is the mean of ``scale x scale`` pixels
        of the scene, in floats; ``size``, ``step`` and positions are in these pixels. Missing
        pixels do not count. Those of a rasterio dataset come from its overviews if it has any, and
        are rounded if its bands are integers.
    min_valid : float, default=None
        Fraction of the pixels of a tile, above 0 and up to 1, that must not be missing; tiles with
        fewer are left out. The scene is then read once. If None, all tiles are kept.

    Returns
    -------
    tiles : SceneTiles
        The tiles, row by row, as a sequence with the indexing of an array ``(n, h, w, c)``.

    Raises
    ------
    TypeError, ValueError
        If the scene has no real numbers, if a tile is larger than the scene, or if no tile has
        ``min_valid`` pixels.

    See Also
    --------
    predict_map : The prediction at every step of a scene.
    SceneTiles : What is returned, with its attributes and methods.
    transform_batches : Features of all tiles, batch by batch.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_conv import tile_scene
    >>> scene = np.random.default_rng(0).random((480, 640, 3))
    >>> tiles = tile_scene(scene, 64, step=32)
    >>> tiles
    <SceneTiles of shape (266, 64, 64, 3) and dtype float64>
    >>> tiles.positions[[0, 1, -1]].tolist()
    [[0, 0], [0, 32], [416, 576]]
    >>> brightness = [tile.mean() for tile in tiles]
    >>> tiles.to_map(brightness, resolution=32).shape
    (15, 20)
    """
    owner = "tile_scene"
    size = check_pair(owner, "size", size, 1)
    step = size if step is None else check_pair(owner, "step", step, 1)
    check_name(owner, "edge", edge, ("shift", "drop"))
    opened = open_scene(scene, owner, scale)
    if min_valid is not None:
        has_type = isinstance(min_valid, Real) and not isinstance(min_valid, bool)
        rule = "None or a number above 0 and up to 1"
        is_valid = has_type and 0 < min_valid <= 1
        require(owner, "min_valid", min_valid, rule, has_type, bool(is_valid))
    if size[0] > opened.shape[0] or size[1] > opened.shape[1]:
        raise ValueError(
            f"Tiles of size {size} are larger than the scene, which has {opened.shape[0]} rows, "
            f"{opened.shape[1]} columns and {opened.shape[2]} channels; use a smaller size. If the "
            "channels come first, move them to the end, as in scene.transpose(1, 2, 0)."
        )
    tiles = SceneTiles(opened, size, step, edge == "shift")
    if min_valid is None:
        return tiles
    fractions = tiles.valid_fraction
    if fractions.max() < min_valid:
        raise ValueError(
            f"No tile of the scene has min_valid={min_valid} valid pixels; the largest fraction "
            f"is {fractions.max():.3g}. Use a smaller value, or check the nodata value of the "
            "scene."
        )
    selected: SceneTiles = tiles[fractions >= min_valid]
    return selected
