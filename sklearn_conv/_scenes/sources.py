"""Kinds of scenes: arrays, rasters of rasterio, and DataArrays of xarray."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._validation import is_integer, parameter_error

RULE = (
    "a single image: an array of real numbers of shape (h, w) or (h, w, c), an opened rasterio "
    "dataset, or an xarray.DataArray with the dimensions y and x"
)


class Scene:
    """A scene in an array that is sliced like one of NumPy.

    Parameters
    ----------
    values : array
        What is read.
    shape : tuple of int
        Height, width and number of channels.
    dtype : dtype
        Dtype of the pixels.
    has_missing : bool
        Whether ``values`` declares missing pixels, which are read as NaN.
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
            check_memory_map(block)
            if self.has_missing:
                block = np.ma.filled(block.astype(self.dtype), np.nan)
            block = np.asarray(block)
        except Exception as error:
            area = f"rows {rows.start}:{rows.stop}, columns {columns.start}:{columns.stop}"
            error.add_note(f"This error was raised while {area} of the scene were read.")
            raise
        return block.reshape(*block.shape[:2], -1)

    def _read(self, rows: slice, columns: slice) -> Any:
        return self.values[rows, columns]

    def locate(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
        """Return the coordinates ``(n, 2)``, y and x, of n points, or None without coordinates.

        ``rows`` and ``columns`` count from the upper left corner of the scene, so the center of its
        first pixel is at 0.5, 0.5.
        """
        return None

    def wrap(self, values: np.ndarray, resolution: int) -> Any:
        """Return a map ``(h // resolution, w // resolution, ...)`` as an object of the library."""
        return values


class Raster(Scene):
    """An opened dataset of rasterio, whose bands are the channels."""

    def __init__(self, dataset: Any) -> None:
        if any("complex" in name for name in dataset.dtypes):
            rule = f"{RULE}; make channels of the real and imaginary parts first"
            raise parameter_error(TypeError, "tile_scene", "scene", rule, dataset.dtypes)
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

    def locate(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray | None:
        a, b, c, d, e, f = self.values.transform[:6]
        if (a, b, c, d, e, f) == (1, 0, 0, 0, 1, 0):
            return None
        return np.column_stack([d * columns + e * rows + f, a * columns + b * rows + c])

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(
            "A dataset of rasterio cannot be copied to another process; use n_jobs=None, or pass "
            "the array dataset.read().transpose(1, 2, 0)."
        )


class Labeled(Scene):
    """A DataArray of xarray with the dimensions y, x and, if there are several channels, a third.

    Neither xarray nor the library of the values is imported.
    """

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

    def _coordinate(self, dim: str) -> np.ndarray | None:
        """Return the numbers along a dimension, or None if there are none."""
        if dim not in self.values.coords or self.values.coords[dim].dtype.kind not in "iuf":
            return None
        return self.values.coords[dim].to_numpy()


def open_scene(scene: Any) -> Scene:
    """Return an object that reads the scene; raise an error if it is not one."""
    library = type(scene).__module__.partition(".")[0]
    if library == "rasterio" and hasattr(type(scene), "mask_flag_enums"):
        if scene.closed:
            raise ValueError(f"{scene!r} is closed; keep it open as long as its tiles are read.")
        result: Scene = Raster(scene)
    else:
        _check_array(scene)
        if library == "xarray":
            _check_dims(scene)
            result = Labeled(scene)
        else:
            result = Scene(scene, scene.shape, scene.dtype, isinstance(scene, np.ma.MaskedArray))
    if result.dtype.kind not in "biuf":
        raise parameter_error(TypeError, "tile_scene", "scene", RULE, result.dtype)
    if 0 in result.shape:
        raise ValueError(f"The scene of shape {scene.shape} has an empty axis; it must be {RULE}.")
    return result


def _check_array(scene: Any) -> None:
    """Check that the scene is an array with two or three axes."""
    shape = getattr(scene, "shape", None)
    try:
        np.dtype(scene.dtype)
    except (AttributeError, TypeError):
        shape = None
    if not (isinstance(shape, tuple) and hasattr(type(scene), "__getitem__")):
        hint = "; read files and convert images with numpy.asarray, or rasterio.open, first"
        raise parameter_error(TypeError, "tile_scene", "scene", f"{RULE}{hint}", scene)
    if len(shape) not in (2, 3) or not all(map(is_integer, shape)):
        raise ValueError(
            f"The 'scene' parameter of tile_scene must be {RULE}. Got shape {shape} instead; pass "
            "the images of a batch one by one."
        )


def _check_dims(scene: Any) -> None:
    if not {"y", "x"} <= {*scene.dims}:
        raise ValueError(
            f"The scene has the dimensions {scene.dims}, but must have y and x; rename them, for "
            "example with scene.rename(lat='y', lon='x')."
        )
