"""Tiles of scenes equal windows that are cut from an array; maps equal those of plain loops."""

import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from sklearn_conv import StridedConv2DTransformer, transform_batches
from sklearn_conv import _scenes as scenes
from sklearn_conv._scenes import Raster, SceneTiles, tile_scene

RNG = np.random.default_rng(0)
SCENE = RNG.integers(0, 256, (46, 61, 3), np.uint8)
WEST, NORTH, PIXEL = 500_000.0, 5_600_000.0, 10.0


def memory_map(folder):
    np.save(folder / "scene.npy", SCENE)
    return np.load(folder / "scene.npy", mmap_mode="r")


def zarr_array(folder):
    zarr = pytest.importorskip("zarr")
    stored = zarr.create_array(
        folder / "scene.zarr", shape=SCENE.shape, chunks=(16, 16, 3), dtype="u1"
    )
    stored[:] = SCENE
    return stored


def h5py_array(folder):
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "scene.h5", "w").create_dataset("scene", data=SCENE)


def dask_array(folder):
    return pytest.importorskip("dask.array").from_array(SCENE, chunks=20)


def write_raster(path, values, **profile):
    """Write bands (c, h, w) to a GeoTIFF, and open it."""
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.Affine(PIXEL, 0, WEST, 0, -PIXEL, NORTH)
    profile = {"crs": "EPSG:32632", "transform": transform, "dtype": values.dtype} | profile
    shape = dict(zip(("count", "height", "width"), values.shape, strict=True))
    with rasterio.open(path, "w", driver="GTiff", **shape, **profile) as dataset:
        dataset.write(values)
    return rasterio.open(path)


def raster(folder):
    return write_raster(folder / "scene.tif", SCENE.transpose(2, 0, 1))


def labeled(dims=("y", "x", "band"), values=SCENE, **options):
    """Return a DataArray with the coordinates of the centers of pixels, and a reference system."""
    xarray = pytest.importorskip("xarray")
    coords = {
        "y": NORTH - PIXEL * (np.arange(46) + 0.5),
        "x": WEST + PIXEL * (np.arange(61) + 0.5),
        "spatial_ref": xarray.Variable((), 0, {"crs_wkt": "UTM 32", "GeoTransform": "1 2 3"}),
    }
    axes = ("y", "x", "band")[: len(dims)]
    return xarray.DataArray(values, coords, axes, **options).transpose(*dims)


KINDS = {
    "array": lambda folder: SCENE,
    "Fortran order": lambda folder: np.asfortranarray(SCENE),
    "memory map": memory_map,
    "zarr": zarr_array,
    "h5py": h5py_array,
    "Dask": dask_array,
    "rasterio": raster,
    "xarray": lambda folder: labeled(),
}


def cut(scene, size, step, edge):
    """Cut tiles one by one, and return them with their positions."""
    starts = []
    for length, tile, distance in zip(scene.shape, size, step, strict=False):
        axis = [i for i in range(0, length, distance) if i + tile <= length]
        if edge == "shift" and axis[-1] + tile != length:
            axis.append(length - tile)
        starts.append(axis)
    positions = [*product(*starts)]
    scene = scene.reshape(*scene.shape[:2], -1)
    return np.array([scene[r : r + size[0], c : c + size[1]] for r, c in positions]), positions


TILES, _ = cut(SCENE, (16, 16), (16, 16), "shift")


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("edge", ["shift", "drop"])
@pytest.mark.parametrize(
    ("size", "step"), [(16, None), (16, 5), ((10, 7), (12, 9)), ((46, 61), None), ((1, 61), 1)]
)
def test_tiles_are_windows_of_the_scene(tmp_path, make, edge, size, step):
    pair = (size, size) if isinstance(size, int) else size
    steps = (step, step) if isinstance(step, int) else step or pair
    expected, positions = cut(SCENE, pair, steps, edge)
    tiles = tile_scene(make(tmp_path), size, step, edge=edge)
    assert (tiles.shape, tiles.dtype, tiles.ndim) == (expected.shape, SCENE.dtype, 4)
    assert len(tiles) == len(expected)
    np.testing.assert_array_equal(tiles.positions, positions)
    np.testing.assert_array_equal(np.asarray(tiles), expected)
    chosen = RNG.integers(0, len(tiles), 5)
    np.testing.assert_array_equal(np.asarray(tiles[chosen]), expected[chosen])
    np.testing.assert_array_equal(tiles[chosen].positions, np.array(positions)[chosen])


@pytest.mark.parametrize("make", [np.array, lambda s: labeled("yx", s), lambda s: labeled("xy", s)])
def test_scenes_without_an_axis_of_channels(make):
    expected, _ = cut(SCENE[..., 0], (8, 9), (8, 9), "shift")
    tiles = tile_scene(make(SCENE[..., 0]), (8, 9))
    assert tiles.shape[3] == 1
    np.testing.assert_array_equal(np.asarray(tiles), expected)


@pytest.mark.parametrize("dims", [("band", "y", "x"), ("x", "band", "y"), ("y", "band", "x")])
def test_dimensions_of_xarray_in_any_order(dims):
    np.testing.assert_array_equal(np.asarray(tile_scene(labeled(dims), 16)), TILES)


class Recorder:
    """An array that notes which pixels are read, and how many at once."""

    shape, dtype = SCENE.shape, SCENE.dtype

    def __init__(self):
        self.read = []

    def __getitem__(self, key):
        self.read.append(SCENE[key].shape)
        return SCENE[key]

    def __getstate__(self):
        self.read.append("all")
        return {"read": []}


KEYS = [
    slice(None), slice(3, 9), slice(-5, None), slice(None, None, -2), slice(5, 2), slice(4, 100),
    [0, 3, 3], [], np.array([-1, 0]), np.arange(12) % 2 == 0, [True] + [False] * 11,
]  # fmt: skip
PIXEL_KEYS = [
    (slice(2, 5), slice(0, 4)), ([1, 2], slice(None), 3), (3, slice(1, 2)), (0, ..., 1), (..., 0),
    (3, slice(None), [0, 1]), ([1, 2], [3, 4]), (slice(2, 5), [3, 4], [5, 6]), None,
    (np.arange(12) < 2, slice(None), [4, 5]), (2, 3, 4, 1), ([0, 1], None),
    (slice(0, 0), slice(0, 0), slice(0, 0), slice(0, 0)),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_rows_are_selected_without_reading(key):
    scene = Recorder()
    tiles = tile_scene(scene, 16)
    whole = slice(None)
    for chosen in (tiles[key], tiles[key, ...], tiles[key, whole, whole, whole, ...]):
        assert not scene.read
        assert type(chosen) is type(tiles)
        assert chosen.shape == TILES[key].shape
        np.testing.assert_array_equal(np.asarray(chosen), TILES[key])
        scene.read.clear()
    np.testing.assert_array_equal(np.asarray(tiles[::2][[1, 2]]), TILES[::2][[1, 2]])


@pytest.mark.parametrize("key", PIXEL_KEYS, ids=repr)
def test_pixels_are_selected_as_in_an_array(key):
    chosen = tile_scene(SCENE, 16)[key]
    assert isinstance(chosen, np.ndarray | np.uint8)
    np.testing.assert_array_equal(chosen, TILES[key])


def test_single_tiles():
    tiles = tile_scene(SCENE, 16)
    for i in (0, -12, 11, np.int32(3)):
        np.testing.assert_array_equal(tiles[i], TILES[i])
    for tile, other in zip(tiles, TILES, strict=True):
        np.testing.assert_array_equal(tile, other)
    for key in (..., (), (..., slice(None))):
        assert tiles[key].shape == TILES.shape
        assert type(tiles[key]) is type(tiles)
    tiles[0][...] = 0  # Tiles are copies.
    np.testing.assert_array_equal(tiles[0], TILES[0])


@pytest.mark.parametrize(
    "key", [12, -13, 1.5, "a", [12], np.zeros((2, 2), int), np.ones(11, bool), True, [0.5]]
)
def test_wrong_indices(key):
    with pytest.raises((IndexError, TypeError)):
        tile_scene(SCENE, 16)[key]


def test_only_the_tiles_that_are_needed_are_read():
    scene = Recorder()
    tiles = tile_scene(scene, 16)
    assert not scene.read
    _ = tiles[5], np.asarray(tiles[[3, 8]])
    assert scene.read == [(16, 16, 3)] * 3
    scene.read.clear()
    _ = np.asarray(tiles[2:12])
    assert scene.read == [(16, 29, 3), (30, 61, 3)]  # neighbors at once
    scene.read.clear()
    _ = np.asarray(tile_scene(scene, 8, 20))
    _ = np.asarray(tile_scene(scene, 8, (20, 8), edge="drop"))
    assert {shape[:2] for shape in scene.read} == {(8, 8), (8, 56)}  # no pixels between tiles


def test_conversion_to_an_array():
    tiles = tile_scene(SCENE, 16)
    assert np.asarray(tiles, np.float32).dtype == np.float32
    assert np.array(tiles, copy=True).dtype == np.uint8
    with pytest.raises(ValueError, match="copy=False"):
        np.array(tiles, copy=False)
    assert repr(tiles) == "<SceneTiles of shape (12, 16, 16, 3) and dtype uint8>"


# In scikit-learn and Dask


def test_tiles_in_scikit_learn():
    """The tests of `ImageFiles` do the same with searches; the code of selections is the same."""
    tiles = tile_scene(SCENE, 16, 4)
    transformer = StridedConv2DTransformer(8, kernels="patches", random_state=0)
    expected = transformer.fit_transform(np.asarray(tiles))
    np.testing.assert_array_equal(transformer.fit_transform(tiles), expected)
    for batches in (transformer.transform_batches(tiles, 7), transform_batches(transformer, tiles)):
        parts = [features for _, features in batches]
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5)
    train, _ = train_test_split(tiles, random_state=0)
    assert type(train) is type(tiles)
    np.testing.assert_array_equal(train, train_test_split(np.asarray(tiles), random_state=0)[0])


@pytest.mark.parametrize("make", [SCENE.copy, lambda: labeled(), lambda: Recorder()])
def test_pickles(make):
    tiles = tile_scene(make(), 16, 8)[::3]
    loaded = pickle.loads(pickle.dumps(tiles))
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(tiles))
    np.testing.assert_array_equal(loaded.positions, tiles.positions)


def test_pickles_of_rasters(tmp_path):
    with (
        raster(tmp_path) as dataset,
        pytest.raises(TypeError, match=r"n_jobs=None, or .*dataset\.read"),
    ):
        pickle.dumps(tile_scene(dataset, 16))


def test_tiles_in_dask(tmp_path):
    da = pytest.importorskip("dask.array")
    scene = Recorder()
    tiles = tile_scene(scene, 16)
    lazy = da.from_array(tiles, chunks=(5, 16, 16, 3))
    assert not scene.read  # Dask would have hashed all pixels.
    np.testing.assert_array_equal(lazy.compute(), np.asarray(tiles))
    np.testing.assert_array_equal(lazy[3:5, 2:9, :, 0].compute(), np.asarray(tiles)[3:5, 2:9, :, 0])
    with raster(tmp_path) as dataset:
        lazy = da.from_array(tile_scene(dataset, 4, 2), chunks=(16, 4, 4, 3))
        expected, _ = cut(SCENE, (4, 4), (2, 2), "shift")
        np.testing.assert_array_equal(lazy.compute(scheduler="threads"), expected)


def test_threads_that_read_a_raster():
    """GDAL reads one dataset in one thread only."""

    class Dataset:
        height, width, count, dtypes, mask_flag_enums = 46, 61, 3, ["uint8"], []
        n_reading = 0

        def read(self, window, masked):
            self.n_reading += 1
            time.sleep(0.001)
            assert self.n_reading == 1
            self.n_reading -= 1
            return SCENE[slice(*window[0]), slice(*window[1])].transpose(2, 0, 1)

    tiles = SceneTiles(Raster(Dataset()), (16, 16), (16, 16), shift=True)
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal([*pool.map(tiles.__getitem__, range(12))], TILES)


# Coordinates


@pytest.mark.parametrize("make", [raster, lambda folder: labeled()])
@pytest.mark.parametrize("size", [16, (1, 5), (46, 61)])
def test_coordinates_are_those_of_centers(tmp_path, make, size):
    tiles = tile_scene(make(tmp_path), size, 5)
    h, w = tiles.shape[1:3]
    for (y, x), (r, c) in zip(tiles.coordinates, tiles.positions, strict=True):
        assert (y, x) == (NORTH - PIXEL * (r + h / 2), WEST + PIXEL * (c + w / 2))
    np.testing.assert_array_equal(tiles[-1:].coordinates, tiles.coordinates[-1:])


def test_coordinates_of_a_turned_raster(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    turned = rasterio.Affine(3, 1, 100, 2, -5, 900)
    with write_raster(tmp_path / "a.tif", SCENE.transpose(2, 0, 1), transform=turned) as dataset:
        tiles = tile_scene(dataset, (10, 4))
        for (y, x), (r, c) in zip(tiles.coordinates, tiles.positions, strict=True):
            assert (x, y) == rasterio.transform.xy(turned, r + 5, c + 2, offset="ul")


def test_scenes_without_coordinates(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    assert tile_scene(SCENE, 16).coordinates is None
    array = labeled()
    assert tile_scene(array.drop_vars("x"), 16).coordinates is None
    assert tile_scene(array.assign_coords(x=array.x.astype(str)), 16).coordinates is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with write_raster(
            tmp_path / "a.tif", SCENE[..., :1].transpose(2, 0, 1), transform=None, crs=None
        ) as dataset:
            assert tile_scene(dataset, 16).coordinates is None


# Missing pixels


def holes(dtype):
    values = SCENE.transpose(2, 0, 1).astype(dtype)
    values[:, 3:9, 10:30] = 7
    return values, np.where(values == 7, np.nan, values)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("u1", "f4"), ("i2", "f4"), ("i4", "f8"), ("f4", "f4"), ("f8", "f8")],
)
def test_nodata_of_a_raster_is_nan(tmp_path, dtype, expected):
    values, with_nan = holes(dtype)
    with write_raster(tmp_path / "a.tif", values, nodata=7) as dataset:
        tiles = tile_scene(dataset, 16)
        assert tiles.dtype == tiles[0].dtype == np.dtype(expected)
        np.testing.assert_array_equal(
            np.asarray(tiles), cut(with_nan.transpose(1, 2, 0), (16, 16), (16, 16), "shift")[0]
        )


def test_masks_of_rasters(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    values = SCENE.transpose(2, 0, 1)
    alpha = np.where(values[:1] > 100, np.uint8(255), np.uint8(0))
    with write_raster(
        tmp_path / "a.tif", np.concatenate([values, alpha]), photometric="RGB", alpha="YES"
    ) as dataset:
        tiles = tile_scene(dataset, 46)
        assert (tiles.shape, tiles.dtype) == ((2, 46, 46, 4), np.uint8)
        np.testing.assert_array_equal(tiles[0][..., 3], alpha[0, :, :46])
    write_raster(tmp_path / "b.tif", values).close()
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "b.tif", "r+") as dataset,
    ):
        dataset.write_mask(alpha[0] > 0)
    with rasterio.open(tmp_path / "b.tif") as dataset:
        tiles = np.asarray(tile_scene(dataset, 46))
        assert tiles.dtype == np.float32
        np.testing.assert_array_equal(
            np.isnan(tiles[0]), np.repeat(alpha[0, :, :46, np.newaxis] == 0, 3, 2)
        )


@pytest.mark.parametrize("dtype", ["u1", "f8"])
def test_masked_arrays(dtype):
    values, with_nan = holes(dtype)
    tiles = tile_scene(np.ma.masked_equal(values.transpose(1, 2, 0), 7), 16)
    expected, _ = cut(with_nan.transpose(1, 2, 0), (16, 16), (16, 16), "shift")
    assert tiles.dtype == np.result_type(dtype, np.float32)
    np.testing.assert_array_equal(np.asarray(tiles), expected)


# Maps


def mean_map(shape, positions, size, values):
    """Average the values of tiles pixel by pixel."""
    found = [[[] for _ in range(shape[1])] for _ in range(shape[0])]
    for (r, c), value in zip(positions, values, strict=True):
        for y, x in product(range(r, r + size[0]), range(c, c + size[1])):
            found[y][x].append(value)
    nothing = np.full(np.shape(values)[1:], np.nan)
    return np.array([[np.mean(v, axis=0) if v else nothing for v in row] for row in found])


@pytest.mark.parametrize("edge", ["shift", "drop"])
@pytest.mark.parametrize(("size", "step"), [((8, 6), (8, 6)), ((8, 6), (4, 2)), ((4, 4), (10, 6))])
@pytest.mark.parametrize("k", [None, 1, 3])
def test_maps_are_means(edge, size, step, k):
    scene = np.zeros((31, 26))
    tiles = tile_scene(scene, size, step, edge=edge)
    values = RNG.normal(size=(len(tiles), k) if k else len(tiles))
    result = tiles.to_map(values)
    expected = mean_map(scene.shape, tiles.positions, size, values)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected)
    if edge == "drop":
        assert np.isnan(result[-1]).all()
        coarse = tiles.to_map(values, 2)
        np.testing.assert_allclose(coarse, expected[:30:2, :26:2])
        assert coarse.shape[:2] == (15, 13)
    half = tiles[::2].to_map(values[::2])
    np.testing.assert_allclose(half, mean_map(scene.shape, tiles[::2].positions, size, values[::2]))


@pytest.mark.parametrize(("dtype", "expected"), [("f2", "f4"), ("f4", "f4"), ("f8", "f8")])
def test_dtypes_of_maps(dtype, expected):
    tiles = tile_scene(SCENE, 16)
    assert tiles.to_map(np.zeros(12, dtype)).dtype == expected
    assert tiles.to_map([0.5] * 12).dtype == np.float64
    assert np.isnan(tiles[:0].to_map(np.zeros((0, 2)))).all()


def test_masked_values_are_not_drawn_into_a_map():
    values = np.ma.array(np.ones(12), mask=[True] + 11 * [False])
    with pytest.raises(ValueError, match="without masked values; fill them first"):
        tile_scene(SCENE, 16).to_map(values)
    assert np.isnan(tile_scene(SCENE, 16).to_map(values.filled(np.nan))[0, 0])


@pytest.mark.parametrize("dims", [("y", "x"), ("band", "x", "y")])
@pytest.mark.parametrize("k", [None, 2])
def test_maps_of_xarray(dims, k):
    values = SCENE[:, :, 0] if len(dims) == 2 else SCENE
    scene = labeled(dims, values, attrs={"crs": "EPSG:1", "long_name": "x", "scale": 3}, name="s")
    scene.encoding["grid_mapping"] = "spatial_ref"
    tiles = tile_scene(scene, 8, edge="drop")
    values = RNG.normal(size=(len(tiles), k) if k else len(tiles))
    result = tiles.to_map(values, 4)
    assert result.dims == ("y", "x", "value")[: result.ndim]
    np.testing.assert_array_equal(
        result.to_numpy(), tile_scene(SCENE, 8, edge="drop").to_map(values, 4)
    )
    np.testing.assert_allclose(result.y, NORTH - 4 * PIXEL * (np.arange(11) + 0.5))
    np.testing.assert_allclose(result.x, WEST + 4 * PIXEL * (np.arange(15) + 0.5))
    assert result.attrs == {"crs": "EPSG:1"}
    assert result.encoding["grid_mapping"] == "spatial_ref"
    assert result.spatial_ref.attrs == {"crs_wkt": "UTM 32"}
    assert scene.spatial_ref.attrs == {"crs_wkt": "UTM 32", "GeoTransform": "1 2 3"}
    same = tiles.to_map(values)
    assert same.y.equals(scene.y)
    assert same.x.equals(scene.x)
    bare = tile_scene(scene.drop_vars("y"), 8, edge="drop").to_map(values)
    assert {*bare.coords} == {"x", "spatial_ref"}


def test_masked_dask_scenes():
    da = pytest.importorskip("dask.array")
    scene = np.ma.masked_equal(SCENE, 7)
    expected = np.asarray(tile_scene(scene, 16))
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(np.asarray(tile_scene(da.from_array(scene, 20), 16)), expected)


def test_a_map_with_rasterio(tmp_path):
    """The way of the guide: the map has the transform of the scene, with larger pixels."""
    rasterio = pytest.importorskip("rasterio")
    with raster(tmp_path) as scene:
        tiles = tile_scene(scene, 8, edge="drop")
        values = np.asarray(tiles).mean(axis=(1, 2, 3))
        result = tiles.to_map(values, 8)
        a, b, c, d, e, f = scene.transform[:6]
        transform = rasterio.Affine(8 * a, 8 * b, c, 8 * d, 8 * e, f)
        for (y, x), value in zip(tiles.coordinates, values, strict=True):
            row, column = rasterio.transform.rowcol(transform, x, y)
            assert result[int(row), int(column)] == value


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((SCENE, 0), ValueError, "'size' parameter of tile_scene must be .*at least 1.* Got 0"),
        ((SCENE, 2.0), TypeError, "'size' parameter"),
        ((SCENE, (1, 2, 3)), ValueError, "'size' parameter"),
        ((SCENE, 16, 0), ValueError, "'step' parameter of tile_scene must be .*at least 1.* Got 0"),
        ((SCENE, 16, (1.5, 1)), TypeError, "'step' parameter"),
        ((SCENE, 47), ValueError, r"\(47, 47\) are larger than the scene, which has 46 rows"),
        ((SCENE.transpose(2, 0, 1), 16), ValueError, r"channels come first.*transpose\(1, 2, 0\)"),
        ((SCENE[np.newaxis], 16), ValueError, r"Got shape \(1, 46, 61, 3\).*one by one"),
        ((SCENE[0, 0], 16), ValueError, r"Got shape \(3,\)"),
        ((SCENE[:0], 16), ValueError, "empty axis"),
        ((SCENE.astype(complex), 16), TypeError, "real numbers.*complex128"),
        ((SCENE.astype(object), 16), TypeError, "real numbers.*dtype.'O'"),
        ((SCENE.tolist(), 16), TypeError, "'scene' parameter .* numpy.asarray"),
        (("scene.tif", 16), TypeError, "'scene' parameter .*rasterio.open, first. Got 'scene.tif'"),
    ],
)  # fmt: skip
def test_invalid_scenes(arguments, error, message):
    with pytest.raises(error, match=message):
        tile_scene(*arguments)


@pytest.mark.parametrize(("edge", "error"), [("pad", ValueError), (None, TypeError)])
def test_invalid_edges(edge, error):
    with pytest.raises(error, match=r"'edge' parameter.*\['drop', 'shift'\]"):
        tile_scene(SCENE, 16, edge=edge)


def test_invalid_objects_of_xarray():
    array = labeled()
    with pytest.raises(TypeError, match=r"'scene' parameter"):
        tile_scene(array.to_dataset(name="a"), 16)
    with pytest.raises(ValueError, match=r"must have y and x; rename them.*lat='y'"):
        tile_scene(array.rename(y="lat"), 16)
    with pytest.raises(ValueError, match=r"Got shape \(46, 61, 3, 1\)"):
        tile_scene(array.expand_dims("time", -1), 16)


def test_invalid_rasters(tmp_path):
    dataset = raster(tmp_path)
    tiles = tile_scene(dataset, 16)
    dataset.close()
    with pytest.raises(ValueError, match="is closed; keep it open"):
        tile_scene(dataset, 16)
    with pytest.raises(OSError, match="closed") as caught:
        _ = tiles[0]
    assert caught.value.__notes__ == [
        "This error was raised while rows 0:16, columns 0:16 of the scene were read."
    ]
    with (
        write_raster(tmp_path / "c.tif", np.zeros((1, 9, 9), "c8")) as dataset,
        pytest.raises(TypeError, match="real and imaginary parts"),
    ):
        tile_scene(dataset, 4)


def test_a_scene_that_was_truncated(tmp_path):
    tiles = tile_scene(memory_map(tmp_path), 16)
    with open(tmp_path / "scene.npy", "r+b") as file:
        file.truncate(200)
    with pytest.raises(OSError, match="truncated"):
        np.asarray(tiles)


LABELS = "Labels of classes have no mean.*predict_proba or decision_function.*argmax"


@pytest.mark.parametrize(
    ("values", "resolution", "error", "message"),
    [
        (np.arange(12), 1, TypeError, f"Got dtype int64 instead. {LABELS}"),
        (["a"] * 12, 1, TypeError, f"Got dtype <U1 instead. {LABELS}"),
        (np.ones(12, bool), 1, TypeError, LABELS),
        (np.ones(11), 1, ValueError, r"n=12, .*Got shape \(11,\).*tiles\[rows\]"),
        (np.ones((12, 2, 2)), 1, ValueError, r"Got shape \(12, 2, 2\)"),
        (np.ones(12), 0, ValueError, "'resolution' parameter of SceneTiles.to_map .*at least 1"),
        (np.ones(12), 2.0, TypeError, "'resolution' parameter"),
        (np.ones(12), 3, ValueError, r"sizes of the tiles: one of \[1\]. Got 3"),
        (np.ones(12), 8, ValueError, r"one of \[1\]; other values need .*edge='drop'.*Got 8"),
    ],
)
def test_invalid_maps(values, resolution, error, message):
    with pytest.raises(error, match=message):
        tile_scene(SCENE, 16).to_map(values, resolution)


def test_resolutions_that_fit():
    tiles = tile_scene(SCENE, 16, 12, edge="drop")
    assert tiles.to_map(np.ones(len(tiles)), 4).shape == (11, 15)
    with pytest.raises(ValueError, match=r"one of \[1, 2, 4\]. Got 8"):
        tiles.to_map(np.ones(len(tiles)), 8)


# Reduced resolution, valid pixels


def block_means(values, scale):
    """Return means of blocks without missing pixels, NaN if there is none, in plain loops."""
    h, w = (length // scale for length in values.shape[:2])
    result = np.full((h, w, values.shape[2]), np.nan)
    for y, x, c in np.ndindex(result.shape):
        part = values[y * scale : (y + 1) * scale, x * scale : (x + 1) * scale, c].astype(float)
        if (known := part[~np.isnan(part)]).size:
            result[y, x, c] = known.mean()
    return result


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("scale", [2, 5])
def test_tiles_of_a_reduced_resolution_are_means(tmp_path, make, scale, monkeypatch):
    monkeypatch.setattr(scenes, "READ_BYTES", 1_000)
    expected, positions = cut(block_means(SCENE, scale), (7, 5), (3, 3), "shift")
    tiles = tile_scene(make(tmp_path), (7, 5), 3, scale=scale)
    assert (tiles.shape, tiles.dtype) == (expected.shape, np.float32)
    np.testing.assert_array_equal(tiles.positions, positions)
    rounding = 0.51 if make is raster else 1e-4  # GDAL rounds means of integers.
    np.testing.assert_allclose(np.asarray(tiles), expected, atol=rounding)
    assert tiles.to_map(np.arange(len(tiles)) * 1.0).shape == (46 // scale, 61 // scale)


@pytest.mark.parametrize("make", [raster, lambda folder: labeled()])
def test_coordinates_of_a_reduced_resolution(tmp_path, make):
    tiles = tile_scene(make(tmp_path), 10, scale=3)
    full = tile_scene(make(tmp_path), 30)
    np.testing.assert_allclose(tiles.coordinates[0], full.coordinates[0])
    values = tile_scene(make(tmp_path), 5, scale=2, edge="drop").to_map(np.ones(24), 5)
    if make is not raster:
        np.testing.assert_allclose(values.y[:2], NORTH - PIXEL * np.array([5, 15]))


@pytest.mark.parametrize("masked", [True, False])
def test_means_leave_out_missing_pixels(tmp_path, masked):
    values, with_nan = holes("u1")
    values, with_nan = (each.transpose(1, 2, 0) for each in (values, with_nan))
    expected = cut(block_means(with_nan, 4), (5, 5), (5, 5), "shift")[0]
    if masked:
        tiles = tile_scene(np.ma.masked_equal(values, 7), 5, scale=4)
        np.testing.assert_allclose(np.asarray(tiles), expected, rtol=1e-6)
        return
    with write_raster(tmp_path / "a.tif", values.transpose(2, 0, 1), nodata=7) as dataset:
        tiles = np.asarray(tile_scene(dataset, 5, scale=4))
    np.testing.assert_array_equal(np.isnan(tiles), np.isnan(expected))
    np.testing.assert_allclose(tiles, expected, atol=0.51)


@pytest.mark.parametrize("edge", ["shift", "drop"])
@pytest.mark.parametrize("step", [3, 16])
@pytest.mark.parametrize("scale", [1, 2])
def test_valid_fractions_are_counted(edge, step, scale, monkeypatch):
    monkeypatch.setattr(scenes, "READ_BYTES", 1_000)
    values, _ = holes("u1")
    scene = np.ma.masked_equal(values.transpose(1, 2, 0), 7)
    tiles = tile_scene(scene, (12, 16), step, edge=edge, scale=scale)
    fractions = (~np.isnan(np.asarray(tiles)).any(axis=3)).mean(axis=(1, 2))
    assert 0 < fractions.min() < 1
    np.testing.assert_allclose(tiles.valid_fraction, fractions)
    np.testing.assert_allclose(tiles[::3].valid_fraction, fractions[::3])
    least = float(np.unique(fractions)[-1])
    chosen = tile_scene(scene, (12, 16), step, edge=edge, scale=scale, min_valid=least)
    np.testing.assert_array_equal(chosen.positions, tiles.positions[fractions >= least])
    np.testing.assert_allclose(chosen.valid_fraction, fractions[fractions >= least])
    assert (tile_scene(SCENE, 16).valid_fraction == 1).all()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"scale": 0}, ValueError, "'scale' parameter"),
        ({"scale": 1.5}, TypeError, "'scale' parameter"),
        ({"scale": 47}, ValueError, "at most 46"),
        ({"scale": 3}, ValueError, "larger than the scene, which has 15 rows"),
        ({"min_valid": 0}, ValueError, "above 0 and up to 1"),
        ({"min_valid": 1.5}, ValueError, "above 0 and up to 1"),
        ({"min_valid": "all"}, TypeError, "above 0 and up to 1"),
        ({"min_valid": 0.1}, ValueError, "No tile of the scene has min_valid=0.1"),
    ],
)
def test_wrong_scales_and_fractions(parameters, error, message):
    scene = np.ma.masked_all(SCENE.shape) if parameters.get("min_valid") == 0.1 else SCENE
    with pytest.raises(error, match=message):
        tile_scene(scene, 16, **parameters)
