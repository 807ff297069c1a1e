"""`write_map`: write a map of a scene to a GeoTIFF, or to a PNG with a world file."""

from __future__ import annotations

import os
import struct
import zlib
from colorsys import hsv_to_rgb
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sklearn_conv._saving.files import replace_file
from sklearn_conv._scenes import Reduced, Scene, open_scene
from sklearn_conv._validation import check_pair, parameter_error

OWNER = "write_map"

MAX_CLASSES, MAX_PNG_CLASSES = 2**16 - 1, 255
"""Codes of classes have 16 bits; 0 stands for nodata."""


def write_map(
    path: str | os.PathLike[str],
    values: npt.ArrayLike,
    *,
    like: Any,
    size: int | tuple[int, int] | None = None,
    step: int | tuple[int, int] | None = None,
    scale: int = 1,
    labels: npt.ArrayLike | None = None,
) -> Path:
    """Write a map of a scene to a GeoTIFF or a PNG atomically.

    The file has the coordinate reference system of the scene, and the transform of the map, whose
    pixels are larger than those of the scene. A GeoTIFF is tiled, compressed and cloud-optimized.

    Parameters
    ----------
    path : str or path-like
        Path of the file, which ends in ".tif" or ".tiff", and requires rasterio, or in ".png", for
        maps with ``labels``. Beside a PNG, a world file ".pgw" has the transform.
    values : array-like of shape (rows, columns) or (rows, columns, k)
        The map: labels, or floats with k bands. Masked values and NaN are nodata.
    like : array-like, rasterio dataset or xarray.DataArray
        The scene, as in `tile_scene`.
    size : int or (rows, columns), default=None
        Size of the tiles that the values belong to. Each value is placed at the center of its tile.
    step : int or (rows, columns), default=None
        The step of `predict_map`. If ``size`` and ``step`` are None, the map covers the scene, as
        the result of `SceneTiles.to_map` does.
    scale : int, default=1
        The scale with which the scene was read; ``size`` and ``step`` are in its pixels.
    labels : array-like of shape (n_classes,), default=None
        The classes of a map of labels, usually ``model.classes_``. The file then has the codes 1
        for the first label, 2 for the second and so on, 0 for nodata, a color for each code, and
        tags such as "class_1" with the labels. For floats, the names of the k bands.

    Returns
    -------
    path : pathlib.Path
        The absolute path of the file.

    Raises
    ------
    ImportError
        If rasterio is not installed, and ``path`` does not end in .png.
    OSError
        If the file cannot be written. An existing file is then unchanged.
    TypeError, ValueError
        If a parameter is not as described, if the shape of the map does not fit the scene, if a
        value is not one of ``labels``, or if ``path`` is the file of the scene.

    See Also
    --------
    predict_map : Make a map.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sklearn_conv import write_map
    >>> scene = np.zeros((120, 160))
    >>> classes = np.where(np.arange(35) < 18, "smooth", "rough") * np.ones((25, 1), object)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_map(
    ...         Path(folder) / "map.png", classes, like=scene, size=24, step=4,
    ...         labels=["rough", "smooth"],
    ...     )
    ...     print(sorted(each.name for each in Path(folder).iterdir()))
    ['map.pgw', 'map.png']
    """
    name = os.fsdecode(path)
    suffix = Path(name).suffix.lower()
    if suffix not in (".tif", ".tiff", ".png"):
        raise ValueError(
            f"The 'path' parameter of {OWNER} must end in .tif, .tiff or .png. Got {name!r} "
            "instead; add one of these."
        )
    scene = open_scene(like, OWNER, scale)
    _refuse_input(name, scene)
    array: np.ma.MaskedArray = np.ma.asanyarray(values)
    if array.ndim not in (2, 3) or 0 in array.shape:
        rule = "an array of shape (rows, columns) or (rows, columns, k)"
        raise parameter_error(ValueError, OWNER, "values", rule, np.asarray(values))
    (top, left), (rows, columns) = place_map(OWNER, scene, array.shape[:2], size, step)
    place = None
    if scene.transform is not None:
        a, b, c, d, e, f = scene.transform
        x, y = a * left + b * top + c, d * left + e * top + f
        place = a * columns, b * rows, x, d * columns, e * rows, y
    drawn = _encode(array, labels)
    is_png = suffix == ".png"
    if is_png:
        data = _make_png(drawn)
    else:
        try:
            from sklearn_conv._saving.geotiff import make_geotiff
        except ImportError as error:
            raise ImportError(
                f"{OWNER} writes GeoTIFF with rasterio, which is not installed; run "
                'pip install "sklearn_conv[geo]", or write a .png.'
            ) from error
        data = make_geotiff(*drawn, make_palette(drawn), place, scene.crs)
    with ExitStack() as files:  # None of them replaces another file before all are complete.
        if is_png:
            world = files.enter_context(replace_file(str(Path(name).with_suffix(".pgw"))))
            world.write(_make_world(place).encode())
        file = files.enter_context(replace_file(name))
        file.write(data)
    return file.target


class Bands(NamedTuple):
    """The numbers of a map as they are written."""

    values: np.ndarray
    """(rows, columns, bands)"""
    nodata: float
    names: list[str]
    """Names of the bands."""
    classes: list[str]
    """Names of the codes 1, 2 and so on, if the map has classes."""


def class_colors(n: int) -> np.ndarray:
    """Return colors of classes that differ from their neighbors, (n, 3), from 0 to 1.

    Hues are multiples of the golden ratio, as far apart as possible for every number of classes.
    """
    return np.array(
        [
            hsv_to_rgb((0.33 + i * 0.6180339887) % 1, 0.75 - 0.3 * (i % 2), 0.9 - 0.25 * (i % 3))
            for i in range(n)
        ]
    ).reshape(n, 3)


def encode_labels(owner: str, values: np.ma.MaskedArray, labels: Any) -> tuple[np.ndarray, Any]:
    """Return the codes of labels, 1 for the first one and 0 where values are masked, and labels."""
    names = np.asarray(labels)
    if names.ndim != 1 or not 0 < len(names) <= MAX_CLASSES or len({*names.tolist()}) < len(names):
        rule = f"an array of 1 to {MAX_CLASSES} different labels, such as model.classes_"
        raise parameter_error(ValueError, owner, "labels", rule, labels)
    numbers = np.asarray(values)
    known = ~np.ma.getmaskarray(values) & (numbers == numbers)  # NaN is nodata.
    codes = np.zeros(values.shape, np.uint8 if len(names) < 256 else np.uint16)
    places = {label: i for i, label in enumerate(names.tolist(), 1)}
    found, inverse = np.unique(numbers[known], return_inverse=True)
    others = [label for label in found.tolist() if label not in places]
    if others:
        raise ValueError(
            f"The 'values' parameter of {owner} has {others[0]!r}, which is not one of the labels "
            f"{names.tolist()[:20]}; pass model.classes_ as labels."
        )
    codes[known] = np.array([places[label] for label in found.tolist()], codes.dtype)[inverse]
    return codes, names


def _encode(values: np.ma.MaskedArray, labels: Any) -> Bands:
    """Return the bands of a map."""
    mask, numbers = np.ma.getmaskarray(values), np.asarray(values)
    kind = numbers.dtype.kind
    bands = numbers.reshape(*numbers.shape[:2], -1)
    if labels is not None and numbers.ndim == 2 and (kind != "f" or np.size(labels) > 1):
        codes, found = encode_labels(OWNER, values, labels)
        return Bands(codes[..., np.newaxis], 0, ["class"], [*map(str, found.tolist())])
    if kind == "f":
        names = [] if labels is None else [*map(str, np.asarray(labels).tolist())]
        if names and len(names) != bands.shape[2]:
            rule = f"{bands.shape[2]} names, one for each band, because the values are floats"
            raise parameter_error(ValueError, OWNER, "labels", rule, labels)
        dtype = np.float64 if numbers.dtype.itemsize >= 8 else np.float32
        floats = np.where(mask.reshape(bands.shape), np.nan, bands).astype(dtype)
        return Bands(floats, np.nan, names, [])
    if kind not in "biu" or labels is not None:
        rule = "floats with names as labels, or labels of shape (rows, columns) with labels=classes"
        raise parameter_error(TypeError, OWNER, "values", rule, numbers)
    nodata = np.iinfo(np.int32).min
    known = numbers[~mask]
    if known.size and not nodata < int(known.min()) <= int(known.max()) < -nodata:
        rule = "integers of 32 bits; cast larger numbers to float64"
        raise parameter_error(ValueError, OWNER, "values", rule, numbers)
    integers = np.where(mask, nodata, numbers.astype(np.int64)).astype(np.int32)
    return Bands(integers.reshape(bands.shape), nodata, [], [])


def place_map(
    owner: str, scene: Scene, shape: tuple[int, ...], size: Any, step: Any
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Return where the first pixel of a map begins in the scene, and the step of its pixels."""
    height, width = scene.shape[:2]
    if (size is None) != (step is None):
        raise ValueError(f"{owner} needs 'size' and 'step', or neither; pass both.")
    hint = "pass the size and the step of tiles, or the resolution of to_map as both"
    if size is None:
        largest = min(height // shape[0], width // shape[1])
        found = [r for r in range(1, largest + 1) if (height // r, width // r) == shape]
        size = step = found[0] if len(found) == 1 else None
    if size is not None:
        sizes = check_pair(owner, "size", size, 1)
        steps = check_pair(owner, "step", step, 1)
        expected = (height - sizes[0]) // steps[0] + 1, (width - sizes[1]) // steps[1] + 1
        hint = f"for size={sizes} and step={steps}, it would have shape {expected}"
        if shape == expected:
            return ((sizes[0] - steps[0]) / 2, (sizes[1] - steps[1]) / 2), steps
    raise ValueError(
        f"A map of shape {shape} does not fit the scene of {height} x {width} pixels; {hint}."
    )


def _refuse_input(name: str, scene: Scene) -> None:
    """Raise ValueError if the map would replace the scene."""
    source = scene.full if isinstance(scene, Reduced) else scene
    files = [getattr(source.values, attribute, None) for attribute in ("name", "filename")]
    for file in files:
        if not isinstance(file, str | os.PathLike):
            continue
        if os.path.exists(file) and os.path.exists(name) and os.path.samefile(file, name):
            raise ValueError(f"{name!r} is the file of the scene; write to another file.")


def make_palette(bands: Bands) -> list[list[int]]:
    """Return red, green, blue and opacity of each code."""
    colors = np.rint(255 * class_colors(len(bands.classes))).astype(int).tolist()
    return [[0, 0, 0, 0], *([*color, 255] for color in colors)]


def _make_png(bands: Bands) -> bytes:
    """Return the bytes of a PNG with a color for each class."""
    if not 0 < len(bands.classes) <= MAX_PNG_CLASSES:
        raise ValueError(
            f"A .png needs a map of at most {MAX_PNG_CLASSES} classes, with labels; write other "
            "maps to a .tif."
        )
    codes, palette = bands.values[..., 0], np.array(make_palette(bands), np.uint8)
    height, width = codes.shape
    rows = np.pad(codes, ((0, 0), (1, 0)))  # Each row begins with its filter, which is none.
    chunks = {
        b"IHDR": struct.pack(">2I5B", width, height, 8, 3, 0, 0, 0),
        b"PLTE": palette[:, :3].tobytes(),
        b"tRNS": palette[:, 3].tobytes(),
        b"IDAT": zlib.compress(rows.tobytes()),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _make_world(place: tuple[float, ...] | None) -> str:
    """Return the text of a world file, in which a transform begins at the center of a pixel."""
    a, b, c, d, e, f = place or (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    numbers = a, d, b, e, c + (a + b) / 2, f + (d + e) / 2
    return "".join(f"{number!r}\n" for number in map(float, numbers))
