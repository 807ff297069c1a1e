"""Image files are found, decoded and scaled as independent computations say."""

import hashlib
import io
import os
import pickle
import re
import signal
import struct
import sys
import time
import types
import warnings
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers import run_python
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, features
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.utils import resample

from sklearn_conv import ImageFiles, ImageReader, StridedConv2DTransformer, read_images
from sklearn_conv._lazy import LazyImages
from sklearn_conv._reading import formats, image_files, pillow_images, sources
from sklearn_conv._reading.pillow_images import place_image

tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed: .[images]")
rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed: .[geo]")

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(256, size=(20, 30, 3), dtype=np.uint8)
WIDE = RNG.integers(2**16, size=(20, 30, 3), dtype=np.uint16)
PLACE = rasterio.Affine(2.0, 0.0, 100.0, 0.0, -2.0, 500.0)


def read(source, **options):
    """Read one image."""
    return read_images([source], **options)[0]


def encoded(image, suffix="png", **options):
    file = io.BytesIO()
    image.save(file, {"tif": "TIFF", "jpg": "JPEG"}.get(suffix, suffix), **options)
    return file.getvalue()


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def write_raster(path, bands, driver="GTiff", **options):
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    if driver == "GTiff":
        options = {"transform": PLACE, "crs": "EPSG:32632", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=driver, **shape, **options) as dataset:
            dataset.write(bands)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of small images; the color of an image contains its class and its number."""
    root = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(["b", "a2", "a10"]):
        (root / name).mkdir()
        for i in range(4):
            pixels = RNG.integers(100, size=(12, 16, 3), dtype=np.uint8) + np.uint8(50 * label)
            Image.fromarray(pixels).save(root / name / f"tile{3 * i}.{'png' if i % 2 else 'tif'}")
    return root


# Modes


def as_picture(mode):
    """Return an image in a mode of Pillow, and its colors (h, w, 4) as floats from 0 to 255."""
    gray, alpha = PIXELS[..., 0], np.full((20, 30), 255)
    opacity = np.tile(np.uint8([0, 128, 255]), (20, 10))
    if mode == "P":
        colors = RNG.integers(256, size=(256, 3), dtype=np.uint8)
        image = Image.fromarray(gray)
        image.putpalette(colors.tobytes())
        return image, np.dstack([colors[gray], alpha]).astype(float)
    stored = {
        "1": gray > 127,
        "L": gray,
        "LA": np.dstack([gray, opacity]),
        "RGB": PIXELS,
        "RGBA": np.dstack([PIXELS, opacity]),
    }[mode]
    color = PIXELS if "RGB" in mode else np.dstack([255 * stored if mode == "1" else gray] * 3)
    colors = np.dstack([color, opacity if mode.endswith("A") else alpha])
    return Image.fromarray(stored), colors.astype(float)


@pytest.mark.parametrize("suffix", ["png", "tif", "memory"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("stored", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_colors(stored, mode, suffix):
    image, colors = as_picture(stored)
    decoded = read(image if suffix == "memory" else encoded(image, suffix), mode=mode)
    assert decoded.dtype == np.uint8
    if mode == "RGBA":
        np.testing.assert_array_equal(decoded, colors)
        return
    opacity = colors[..., 3:] / 255
    expected = colors[..., :3] * opacity + 255 * (1 - opacity)
    if mode == "L":  # ITU-R BT.601
        expected = (expected @ [0.299, 0.587, 0.114])[..., np.newaxis]
    assert decoded.shape == expected.shape
    np.testing.assert_allclose(decoded, expected, atol=1.01)


def test_transparent_color_of_a_palette():
    image, colors = as_picture("P")
    content = encoded(image, transparency=int(PIXELS[0, 0, 0]))
    transparent = PIXELS[..., 0] == PIXELS[0, 0, 0]
    expected = np.where(transparent[..., np.newaxis], 255, colors[..., :3])
    np.testing.assert_array_equal(read(content), expected)
    np.testing.assert_array_equal(read(content, mode="RGBA")[..., 3], np.where(transparent, 0, 255))
    assert read(content, mode=None).shape == (20, 30, 4)
    assert read(encoded(image), mode=None).shape == (20, 30, 3)


@pytest.mark.parametrize("stored", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_channels_as_they_are_stored(stored):
    image, colors = as_picture(stored)
    channels = {"1": [0], "L": [0], "LA": [0, 3], "P": [0, 1, 2], "RGB": [0, 1, 2]}
    for suffix in ("png", "tif"):
        decoded = read(encoded(image, suffix), mode=None)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, colors[..., channels.get(stored, [0, 1, 2, 3])])


def test_cmyk():
    inks = RNG.integers(256, size=(8, 8, 4), dtype=np.uint8)
    content = encoded(Image.fromarray(inks, "CMYK"), "tif")
    np.testing.assert_array_equal(read(content, mode=None), inks)
    inks = inks.astype(float) / 255
    expected = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])
    np.testing.assert_allclose(read(content), expected, atol=1.5)


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (5, 2)])
def test_cmyk_of_another_size(size):
    """A JPEG is reduced while it is decoded, but only if it is scaled by Pillow."""
    ramp = Image.fromarray(np.tile(15 * np.arange(17, dtype=np.uint8)[:, np.newaxis], (1, 17)))
    gray = read(encoded(ramp, "jpg", quality=100), mode=None, size=size)
    inks = read(encoded(Image.merge("CMYK", [ramp] * 4), "jpg", quality=100), mode=None, size=size)
    np.testing.assert_allclose(inks, np.repeat(gray, 4, axis=2), atol=10)


STORED = {
    "16 bits": (WIDE[..., 0], {}),
    "16 bits, big-endian": (WIDE[..., 0], {"byteorder": ">"}),
    "16 bits, color": (WIDE, {"photometric": "rgb"}),
    "16 bits, color, big-endian": (WIDE, {"photometric": "rgb", "byteorder": ">"}),
    "16 bits, compressed": (WIDE, {"photometric": "rgb", "compression": "zlib"}),
    "signed": (WIDE[..., 0].view(np.int16), {}),
    "signed, 8 bits": (PIXELS[..., 0].view(np.int8), {}),
    "int32": (RNG.integers(-(2**31), 2**31, size=(9, 7), dtype=np.int32), {}),
    "uint32": (RNG.integers(2**32, size=(9, 7), dtype=np.uint32), {}),
    "float16": (RNG.normal(size=(9, 7)).astype(np.float16), {}),
    "float32": (RNG.normal(size=(9, 7)).astype(np.float32), {}),
    "float64": (RNG.normal(size=(9, 7)), {}),
    "float32, color": (RNG.random((9, 7, 3), np.float32), {"photometric": "rgb"}),
    "5 bands": (PIXELS.reshape(20, 18, 5), {"photometric": "minisblack", "planarconfig": "contig"}),
    "4 bands": (PIXELS.reshape(15, 30, 4), {"photometric": "rgb", "extrasamples": [0]}),
    "2 bands of floats": (
        RNG.normal(size=(9, 7, 2)).astype("f4"),
        {"photometric": "minisblack", "planarconfig": "contig"},
    ),
    "tiles": (WIDE, {"photometric": "rgb", "tile": (16, 16)}),
}


@pytest.mark.parametrize(("array", "options"), STORED.values(), ids=STORED)
def test_tiff_as_stored_and_never_clipped(array, options):
    content = tiff(array, **options)
    decoded = read(content, mode=None)
    assert decoded.dtype == array.dtype
    assert decoded.dtype.isnative
    np.testing.assert_array_equal(decoded, array.reshape(*array.shape[:2], -1))
    for mode in ("RGB", "L", "RGBA"):
        with pytest.raises(ValueError, match=f"image 0 cannot be read: .*{mode}.*set mode=None"):
            read(content, mode=mode)


def test_bands_one_after_the_other():
    bands = RNG.integers(2**16, size=(5, 20, 30), dtype=np.uint16)
    content = tiff(bands, photometric="minisblack", planarconfig="separate")
    np.testing.assert_array_equal(read(content, mode=None), bands.transpose(1, 2, 0))
    content = tiff(PIXELS.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read(content), PIXELS)


@pytest.mark.parametrize("driver", ["PNG", "PNM"])
def test_colors_of_16_bits_in_other_formats(driver, tmp_path):
    path = write_raster(tmp_path / "image", WIDE.transpose(2, 0, 1), driver)
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(read(source, mode=None), WIDE)
        with pytest.raises(ValueError, match=r"channels of 16 bits.*set mode=None"):
            read(source)


def test_gray_png_and_pgm_of_16_bits():
    graymap = b"P5 30 20 65535\n" + WIDE[..., 0].astype(">u2").tobytes()
    for content in (encoded(Image.fromarray(WIDE[..., 0])), graymap):
        decoded = read(content, mode=None)
        assert decoded.dtype == np.uint16
        np.testing.assert_array_equal(decoded[..., 0], WIDE[..., 0])


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate", None])
@pytest.mark.parametrize("dtype", [*"?bBhHiIlLefd"], ids=lambda name: np.dtype(name).name)
def test_tiff_has_the_pixels_of_tifffile(dtype, planar, compression, byteorder):
    pixels = RNG.integers(256, size=(3, 20, 30) if planar == "separate" else (20, 30, 3))
    pixels = (pixels[..., 0] if planar is None else pixels).astype(dtype)
    options = {"photometric": "minisblack"} if planar is None else {"photometric": "rgb"}
    content = tiff(
        pixels, byteorder=byteorder, compression=compression, planarconfig=planar, **options
    )
    expected = tifffile.imread(io.BytesIO(content))
    expected = np.moveaxis(expected, 0, 2) if planar == "separate" else expected.reshape(20, 30, -1)
    expected = expected.astype(np.uint8) * np.uint8(255) if dtype == "?" else expected
    decoded = read(content, mode=None)
    assert decoded.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_of_which_0_is_white_are_as_stored(dtype):
    levels = WIDE[..., 0].astype(dtype)
    content = tiff(levels, photometric="miniswhite")
    np.testing.assert_array_equal(read(content, mode=None)[..., 0], levels)
    if dtype == np.uint8:
        np.testing.assert_array_equal(read(content, mode="L")[..., 0], 255 - levels)


@pytest.mark.parametrize("maximum", [1, 7, 100, 255, 256, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_values_of_pgm_and_ppm_are_as_stored(kind, maximum):
    n_channels = 3 if kind in ("P3", "P6") else 1
    values = RNG.integers(maximum, size=(20, 30, n_channels), endpoint=True)
    content = f"{kind} 30 20 {maximum}\n".encode()
    if kind in ("P2", "P3"):
        content += " ".join(map(str, values.ravel())).encode() + b"\n"
    else:
        content += values.astype(">u2" if maximum > 255 else np.uint8).tobytes()
    if kind == "P3" and maximum > 255:
        with pytest.raises(ValueError, match=r"as text.*P6"):
            read(content, mode=None)
        return
    decoded = read(content, mode=None)
    assert decoded.dtype == (np.uint8 if maximum < 256 else np.uint16)
    np.testing.assert_array_equal(decoded, values)
    if maximum < 256:  # The maximum is white.
        np.testing.assert_allclose(
            read(content), np.broadcast_to(values * 255 / maximum, (20, 30, 3)), atol=0.501
        )


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("uint8", 4), ("uint16", 12), ("uint16", 16), ("int16", 12), ("int16", 16)],
)
@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("codec", ["JP2", "J2K"])
def test_jpeg_2000_of_many_depths(codec, n_channels, dtype, bits, tmp_path):
    low = -(2 ** (bits - 1)) if dtype == "int16" else 0
    bands = RNG.integers(low, low + 2**bits, size=(n_channels, 64, 64)).astype(dtype)
    options = {"QUALITY": "100", "REVERSIBLE": "YES", "YCBCR420": "NO", "CODEC": codec}
    options |= {} if bits == 16 else {"NBITS": bits}
    try:
        path = write_raster(tmp_path / f"image.{codec.lower()}", bands, "JP2OpenJPEG", **options)
    except rasterio.errors.RasterioError as error:
        pytest.skip(f"rasterio cannot write this JPEG 2000 file: {error}")
    decoded = read(path, mode=None)
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, bands.transpose(1, 2, 0))
    with pytest.raises(ValueError, match=r"set mode=None"):
        read(path)
    np.testing.assert_array_equal(read(encoded(Image.fromarray(PIXELS), "JPEG2000")), PIXELS)


def test_avif_of_more_than_8_bits(monkeypatch):
    if "avif" not in features.modules or not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    content = bytearray(encoded(Image.fromarray(PIXELS), "avif"))
    assert read(bytes(content)).shape == PIXELS.shape
    # Pillow writes 8 bits only, and would find a wrong header.
    monkeypatch.setattr(pillow_images, "_content", lambda image: bytes(content))
    content[content.index(b"av1C") + 6] |= 64
    for mode in ("RGB", None):
        with pytest.raises(ValueError, match=r"10 or 12 bits.*load_func"):
            read(encoded(Image.fromarray(PIXELS), "avif"), mode=mode)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(array, bits=8, before=b"", after=b""):
    """Return a PNG file with chunks before and after the pixels of 8 or 16 bits."""
    height, width = array.shape[:2]
    array = array.astype(">u2" if bits == 16 else np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, bits, 2 * (array.ndim == 3), 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + before + pixels + after + chunk(b"IEND", b"")


@pytest.mark.parametrize("stored", ["RGB", "L"])
def test_transparent_color_of_a_png(stored):
    pixels = PIXELS // 128 * 255 if stored == "RGB" else PIXELS[..., 0] // 16
    color = pixels[0, 0]
    levels = np.atleast_1d(color).astype(">u2").tobytes()
    content = png(pixels, before=chunk(b"tRNS", levels))
    is_clear = (pixels == color).reshape(20, 30, -1).all(axis=2, keepdims=True)
    pixels, opacity = pixels.reshape(20, 30, -1), np.where(is_clear, 0, 255)
    colors = np.broadcast_to(pixels, (20, 30, 3))
    np.testing.assert_array_equal(read(content), np.where(is_clear, 255, colors))
    np.testing.assert_array_equal(read(content, mode="RGBA"), np.dstack([colors, opacity]))
    np.testing.assert_array_equal(read(content, mode=None), np.dstack([pixels, opacity]))
    assert read_images([content], mode=None).shape == (1, 20, 30, pixels.shape[2] + 1)
    if stored == "L":
        np.testing.assert_array_equal(read(content, mode="L"), np.where(is_clear, 255, pixels))
        # The same levels in 4 bits, two in each byte.
        packed = pixels[:, ::2, 0] * 16 + pixels[:, 1::2, 0]
        content = png(packed, before=chunk(b"tRNS", levels)).replace(
            chunk(b"IHDR", struct.pack(">IIBBBBB", 15, 20, 8, 0, 0, 0, 0)),
            chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 20, 4, 0, 0, 0, 0)),
        )
        np.testing.assert_array_equal(read(content, mode=None), np.dstack([pixels * 17, opacity]))


@pytest.mark.parametrize("pixels", [WIDE, WIDE[..., 0]], ids=["RGB", "L"])
def test_transparent_color_of_16_bits_is_refused(pixels):
    levels = np.atleast_1d(pixels[0, 0]).astype(">u2").tobytes()
    with pytest.raises(ValueError, match=r"a transparent color; save it with.*load_func"):
        read(png(pixels, 16, before=chunk(b"tRNS", levels)), mode=None)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["eXIf", "iTXt"])
@pytest.mark.parametrize("bits", [8, 16])
def test_orientation_in_chunks_of_a_png(bits, kind, is_after):
    for orientation, turn in TURNS.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
        data = {"eXIf": exif.tobytes()[6:], "iTXt": b"XML:com.adobe.xmp\0\0\0\0\0" + xmp}[kind]
        pixels = WIDE if bits == 16 else PIXELS
        place = {"after" if is_after else "before": chunk(kind.encode(), data)}
        mode = None if bits == 16 else "RGB"
        files = read_images([png(pixels, bits, **place)], mode=mode)
        assert files.shape[1:] == files[0].shape
        np.testing.assert_array_equal(files[0], turn(pixels))
        cut = [read(png(turn(pixels), bits), mode=mode, size=(10, 10))]
        np.testing.assert_array_equal(
            read(png(pixels, bits, **place), mode=mode, size=(10, 10)), cut[0]
        )


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("options", [{}, {"compress": "lzw"}, {"BIGTIFF": "YES"}, {"nbits": 4}])
def test_palette_of_a_raster(options, is_late, tmp_path):
    """GDAL declares images as gray if their palette comes after their pixels."""
    colors = RNG.integers(256, size=(16, 3), dtype=np.uint8)
    indices = RNG.integers(16, size=(8, 9), dtype=np.uint8)
    shape = {"count": 1, "height": 8, "width": 9, "dtype": np.uint8, "crs": "EPSG:32632"}
    for nodata in (None, 3):
        path = tmp_path / f"{nodata}.tif"
        with rasterio.open(
            path, "w", driver="GTiff", transform=PLACE, nodata=nodata, **shape, **options
        ) as dataset:
            steps = [
                lambda: dataset.write_colormap(1, dict(enumerate(map(tuple, colors.tolist())))),
                lambda: dataset.write(indices, 1),
            ]
            for step in steps[::-1] if is_late else steps:
                step()
        np.testing.assert_array_equal(read(path), colors[indices])
        expected = colors[indices]
        if nodata is not None:
            expected = np.where(indices[..., np.newaxis] == nodata, np.nan, expected)
        files = read_images([path], mode=None)
        assert files.shape == (1, 8, 9, 3)
        assert files.dtype == files[0].dtype == (np.uint8 if nodata is None else np.float32)
        np.testing.assert_array_equal(files[0], expected)


@pytest.mark.usefixtures("without_rasterio")
def test_palette_without_rasterio(tmp_path):
    for is_late in (False, True):
        test_palette_of_a_raster({}, is_late, tmp_path)


def test_bitmap_of_5_6_and_5_bits():
    bits = RNG.integers(2**16, size=(3, 4), dtype=np.uint16)
    size = struct.pack("<IiiHHIIiiII", 40, 4, -3, 1, 16, 3, 24, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    content = b"BM" + struct.pack("<IHHI", 90, 0, 0, 66) + size + masks + bits.tobytes()
    expected = [bits // 2048 * 255 / 31, bits // 32 % 64 * 255 / 63, bits % 32 * 255 / 31]
    for mode in ("RGB", None):
        np.testing.assert_allclose(read(content, mode=mode), np.stack(expected, axis=2), atol=1)


@pytest.fixture
def without_rasterio(monkeypatch):
    monkeypatch.setattr("sklearn_conv._reading.tiff_files.find_spec", lambda name: None)


@pytest.fixture(params=["rasterio", "tifffile"])
def library(request):
    if request.param == "tifffile":
        request.getfixturevalue("without_rasterio")
    return request.param


@pytest.mark.parametrize(
    ("dtype", "nodata", "result"),
    [
        ("uint8", 0, "float32"),
        ("uint16", 65535, "float32"),
        ("int16", -9999, "float32"),
        ("int32", -9999, "float64"),
        ("float32", -3.4028234663852886e38, "float32"),
        ("float32", np.nan, "float32"),
        ("float64", -1e300, "float64"),
    ],
)
@pytest.mark.parametrize("is_placed", [True, False])
@pytest.mark.parametrize("n_bands", [1, 5])
def test_missing_pixels_of_a_raster(dtype, nodata, result, is_placed, n_bands, library, tmp_path):
    bands = RNG.integers(1, 100, size=(n_bands, 8, 9)).astype(dtype)
    missing = RNG.random(bands.shape) < 0.3
    bands[missing] = nodata
    options = {} if is_placed else {"transform": None, "crs": None}
    path = write_raster(tmp_path / "raster.tif", bands, nodata=nodata, **options)
    expected = np.where(missing, np.nan, bands.astype(float)).transpose(1, 2, 0)
    for source in (path, path.read_bytes()):
        decoded = read(source, mode=None)
        assert decoded.dtype == result
        np.testing.assert_array_equal(decoded, expected)
    files = read_images([path], size=(4, 3), mode=None)
    assert files.shape == (1, 4, 3, n_bands)
    assert files[0].dtype == files.dtype == result


def test_raster_without_missing_pixels(library, tmp_path):
    bands = RNG.integers(2**16, size=(6, 8, 9), dtype=np.uint16)
    # tifffile needs another library for LZW.
    options = {"compress": "lzw"} if library == "rasterio" else {}
    decoded = read(write_raster(tmp_path / "raster.tif", bands, **options), mode=None)
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, bands.transpose(1, 2, 0))


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="imagecodecs is installed")
@pytest.mark.usefixtures("without_rasterio")
def test_compression_that_tifffile_cannot_decode(tmp_path):
    path = write_raster(tmp_path / "raster.tif", WIDE.transpose(2, 0, 1), compress="lzw")
    with pytest.raises(ValueError, match=r"raster.tif.* LZW requires imagecodecs.*pip install"):
        read(path, mode=None)


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="imagecodecs is installed")
@pytest.mark.usefixtures("without_rasterio")
def test_depth_that_tifffile_cannot_decode(tmp_path):
    path = write_raster(tmp_path / "raster.tif", WIDE.transpose(2, 0, 1) // 16, nbits=12)
    with pytest.raises(ValueError, match=r"raster.tif.* depth of 12 bits requires imagecodecs"):
        read(path, mode=None)


def test_nodata_that_is_not_a_number():
    content = tiff(WIDE, photometric="rgb", extratags=[(42113, "s", 0, "none", True)])
    with pytest.raises(ValueError, match=r"image 0 .*GDAL_NODATA is 'none'"):
        read(content, mode=None)


# Orientation and pages

TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "memory", "tifffile", "16 bits"])
def test_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    tags = {"photometric": "rgb", "extratags": [(274, "H", 1, orientation, True)]}
    mode = "RGB"
    if kind == "16 bits":
        content, pixels, mode = tiff(WIDE, **tags), WIDE, None
    elif kind == "tifffile":
        content, pixels = tiff(PIXELS, **tags), PIXELS
    else:
        image, pixels = Image.fromarray(PIXELS), PIXELS
        content = encoded(image, "png" if kind == "memory" else kind, exif=exif)
        if kind == "jpg":
            pixels = np.asarray(Image.open(io.BytesIO(encoded(image, "jpg"))))
        content = Image.open(io.BytesIO(content)) if kind == "memory" else content
    expected = TURNS[orientation](pixels)
    files = read_images([content], mode=mode)
    assert files.shape == (1, *expected.shape)
    np.testing.assert_array_equal(files[0], expected)
    files = read_images([content], mode=mode, size="any")
    assert files.image_shapes.tolist() == [[*expected.shape]]
    small = read(content, mode=mode, size=(12, 16)).astype(float)
    upright = read(np.ascontiguousarray(expected), mode=mode, size=(12, 16))
    np.testing.assert_allclose(small, upright, atol=1 if mode else 0)


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpeg_is_reduced_while_it_is_decoded(orientation, monkeypatch):
    y, x = np.mgrid[:600, :800] / 100
    channels = [128 + 100 * np.sin(x + k) * np.cos(y) for k in range(3)]
    smooth = np.stack(channels, axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(smooth), "jpg", quality=95, exif=exif)
    decoded, convert = [], pillow_images._convert

    def note(image, mode):
        decoded.append(image.size)
        return convert(image, mode)

    monkeypatch.setattr(pillow_images, "_convert", note)
    upright = Image.fromarray(np.ascontiguousarray(TURNS[orientation](smooth)))
    for resize in ("crop", "pad", "stretch"):
        small = read(content, size=(50, 40), resize=resize)
        full = read(upright, size=(50, 40), resize=resize)
        np.testing.assert_allclose(small.astype(float), full, atol=5)
    assert max(decoded[0]) <= 400
    if orientation == 6:  # A turned image is not reduced by 8, but by 4.
        content = encoded(Image.new("RGB", (1600, 200)), "jpg", exif=exif)
        assert read(content, size=(8, 30), resize="stretch").shape == (8, 30, 3)
        assert decoded[-1] == (50, 400)


def test_pages(tmp_path):
    pages = RNG.integers(256, size=(3, 6, 8, 3), dtype=np.uint8)
    wide = RNG.integers(2**16, size=(3, 6, 8, 5), dtype=np.uint16)
    pictures = [Image.fromarray(page) for page in pages]
    for suffix in ("tif", "png"):
        content = encoded(pictures[0], suffix, save_all=True, append_images=pictures[1:])
        for i, page in enumerate(pages):
            np.testing.assert_array_equal(read(content, page=i), page)
        with pytest.raises(ValueError, match=r"not have page=4; it has 3 pages, page=0 to 2"):
            read(content, page=4)
    content = tiff(wide, photometric="minisblack", planarconfig="contig")
    for i, page in enumerate(wide):
        np.testing.assert_array_equal(read(content, page=i, mode=None), page)
    with pytest.raises(ValueError, match=r"not have page=3; it has 3 pages"):
        read(content, page=3, mode=None)
    with pytest.raises(ValueError, match=r"not have page=1; it has 1 page, page=0"):
        read(encoded(pictures[0]), page=1)


def test_page_of_a_geotiff(library):
    pages = RNG.integers(2**16, size=(2, 6, 8, 3), dtype=np.uint16)
    keys = (1, 1, 0, 1, 1024, 0, 1, 1)  # projected coordinates
    place = [
        (33550, "d", 3, (1.0, 1.0, 0.0), False),
        (33922, "d", 6, (0.0, 0.0, 0.0, 100.0, 500.0, 0.0), False),
        (34735, "H", 8, keys, False),
    ]
    content = tiff(pages, photometric="rgb", extratags=place, metadata=None)
    for i, page in enumerate(pages):
        np.testing.assert_array_equal(read(content, page=i, mode=None), page)


# Scaling


def triangle_weights(n, start, stop, length):
    """Return the weights (length, n) of a triangle that is as wide as the reduction."""
    scale = (stop - start) / length
    support = max(scale, 1.0)
    weights = np.zeros((length, n))
    for i in range(length):
        center = start + (i + 0.5) * scale
        for j in range(n):
            weights[i, j] = max(0.0, 1 - abs(j + 0.5 - center) / support)
        weights[i] /= weights[i].sum()
    return weights


def block_means(n, start, stop, factor):
    """Return the weights (m, n) of means of blocks, and where start and stop are among these."""
    first, last = int(start), int(np.ceil(stop))
    weights = np.zeros((-(-(last - first) // factor), n))
    for j in range(first, last):
        weights[(j - first) // factor, j] = 1
    weights /= weights.sum(axis=1, keepdims=True)
    return weights, (start - first) / factor, (stop - first) / factor


def scaled(pixels, size, resize):
    """Scale an image (h, w, c) in float64."""
    (h, w), (rows, columns) = pixels.shape[:2], size
    ratios = rows / h, columns / w
    ratio = max(ratios) if resize == "crop" else min(ratios)
    inner = size
    used = h, w
    if resize == "crop":
        used = min(h, rows / ratio), min(w, columns / ratio)
    if resize == "pad":
        inner = max(1, round(h * ratio)), max(1, round(w * ratio))
    factors = [max(1, int(part / length)) for part, length in zip(used, inner, strict=True)]
    weights = []
    for n, part, length, factor in zip((h, w), used, inner, factors, strict=True):
        means, start, stop = np.eye(n), (n - part) / 2, (n + part) / 2
        if max(factors) > 1:
            means, start, stop = block_means(n, start, stop, factor)
        weights.append(triangle_weights(len(means), start, stop, length) @ means)
    down, across = weights
    values = np.einsum("ri,ijc,sj->rsc", down, pixels.astype(float), across)
    before = [(length - part) // 2 for length, part in zip(size, inner, strict=True)]
    after = [length - part - b for length, part, b in zip(size, inner, before, strict=True)]
    return np.pad(values, [*zip(before, after, strict=True), (0, 0)])


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(20, 30), (8, 8), (9, 21), (31, 17), (40, 60), (4, 6), (1, 5)])
def test_scaling(size, resize):
    images = {"RGB": PIXELS, "L": PIXELS[..., :1], None: PIXELS.reshape(20, 18, 5)}
    for mode, image in images.items():
        decoded = read(image, size=size, resize=resize, mode=mode)
        # Pillow rounds after each of three steps.
        np.testing.assert_allclose(decoded, scaled(image, size, resize), atol=1.51)
    for dtype, tolerance in (("u2", 0.6), ("i2", 0.6), ("f4", 0.1), ("f8", 0.1), ("i4", 1.51)):
        image = (WIDE.astype(float) - (30_000 if dtype == "i2" else 0)).astype(dtype)
        decoded = read(image, size=size, resize=resize, mode=None)
        assert decoded.dtype == dtype
        np.testing.assert_allclose(decoded, scaled(image, size, resize), atol=tolerance)


def test_large_reduction_averages_over_all_pixels():
    noise = RNG.integers(256, size=(400, 300, 3), dtype=np.uint8)
    for array, mode in ((noise, "RGB"), (noise.astype("u2"), None)):
        decoded = read(array, size=(5, 6), resize="stretch", mode=mode).astype(float)
        np.testing.assert_allclose(decoded, scaled(noise, (5, 6), "stretch"), atol=2.5)


@given(
    st.tuples(*[st.integers(1, 300)] * 2),
    st.tuples(*[st.integers(1, 300)] * 2),
    st.sampled_from(["crop", "pad", "stretch"]),
)
def test_placements_lie_inside(shape, size, resize):
    box, inner, corner = place_image(shape, size, resize)
    assert 0 <= box[0] < box[2] <= shape[1]
    assert 0 <= box[1] < box[3] <= shape[0]
    assert all(c >= 0 and c + i <= s for c, i, s in zip(corner, inner, size, strict=True))
    if resize == "crop":  # centered, and of the proportions of the size
        assert box[0] == pytest.approx(shape[1] - box[2])
        assert box[1] == pytest.approx(shape[0] - box[3])
        assert (box[2] - box[0]) * size[0] == pytest.approx((box[3] - box[1]) * size[1])
    if resize == "pad":
        assert 1 in inner or any(i == s for i, s in zip(inner, size, strict=True))


def test_alpha_is_scaled_with_its_colors():
    """Invisible pixels do not color their neighbors."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = [200, 100, 50, 255]  # beside transparent black
    decoded = read(encoded(Image.fromarray(pixels)), size=(4, 4), mode="RGBA")
    assert (abs(decoded[decoded[..., 3] > 0][:, :3].astype(int) - [200, 100, 50]) <= 4).all()
    stored = read(encoded(Image.fromarray(pixels)), size=(4, 4), mode=None)
    np.testing.assert_allclose(stored, scaled(pixels, (4, 4), "crop"), atol=1.01)


def test_missing_pixels_stay_missing_when_scaled():
    image = np.ones((12, 12, 1), np.float32)
    image[5:8, 5:8] = np.nan
    decoded = read(image, size=(6, 6), mode=None)[..., 0]
    assert np.isnan(decoded[2:4, 2:4]).all()
    assert (decoded[[0, -1]] == 1).all()


def test_integers_that_pillow_cannot_scale():
    image = np.zeros((4, 4), np.int64)
    assert read(image, mode=None).dtype == np.int64
    with pytest.raises(ValueError, match=r"image 0 .*int64; set size=None"):
        read(image, size=(2, 2), mode=None)


# Sources


def names(files):
    return [f"{Path(path).parent.name}/{Path(path).name}" for path in files.paths]


def test_folder_of_classes(folder):
    files = read_images(folder)
    numbers = ["tile0.tif", "tile3.png", "tile6.tif", "tile9.png"]
    expected = [f"{label}/{name}" for label in ("a2", "a10", "b") for name in numbers]
    assert names(files) == expected
    assert files.labels.tolist() == [name.split("/")[0] for name in expected]
    assert isinstance(files, ImageFiles)
    assert (files.shape, files.ndim, files.dtype, len(files)) == ((12, 12, 16, 3), 4, "uint8", 12)
    assert files.skipped == []
    assert repr(files) == (
        "<ImageFiles: 12 images of shape (12, 16, 3) and dtype uint8; 3 classes: 'a10', 'a2', 'b'>"
    )
    for path, image in zip(files.paths, files, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(path)))
    for source in (str(folder), os.fsencode(folder).decode(), str(folder) + os.sep):
        assert names(read_images(source)) == expected


def test_folder_of_images(folder):
    files = read_images(folder / "a2")
    assert files.labels is None
    assert names(files) == [f"a2/tile{i}.{'png' if i % 2 else 'tif'}" for i in (0, 3, 6, 9)]


def test_pattern(folder):
    files = read_images(str(folder / "*" / "*.png"))
    assert names(files) == [f"{c}/tile{i}.png" for c in ("a2", "a10", "b") for i in (3, 9)]
    assert files.labels is None
    assert len(read_images(folder / "**" / "*.tif")) == 6
    assert len(read_images(str(folder / "**" / "**" / "*.tif"))) == 6


def save(path, array=PIXELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.mark.filterwarnings("ignore:Files are identical:UserWarning")
def test_what_a_folder_leaves_out(tmp_path):
    for name in ("a/1.PNG", "a/.hidden.png", "a/deep/er/2.jpeg", ".hidden/3.png", "b/4.tiff"):
        save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("notes")
    (tmp_path / "a" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "readme.md").write_text("readme")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "b" / "around").symlink_to(tmp_path / "b" / "around")
    (tmp_path / "b" / "itself").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "5.png").symlink_to(tmp_path / "a" / "1.PNG")
    (tmp_path / "c").symlink_to(tmp_path / "a" / "deep")
    files = read_images(tmp_path)
    assert names(files) == ["a/1.PNG", "er/2.jpeg", "b/4.tiff", "b/5.png", "er/2.jpeg"]
    assert files.labels.tolist() == ["a", "a", "b", "b", "c"]
    (tmp_path / "notes").mkdir()
    with pytest.warns(UserWarning, match="1 of the 4 folders in .* no images.*: 'notes'"):
        assert len(read_images(tmp_path)) == 5
    save(tmp_path / "a" / "deep" / "6.png")
    with pytest.raises(ValueError, match=r"contains images and also folders with images.*'er'"):
        read_images(tmp_path / "a" / "deep")


@pytest.mark.filterwarnings("ignore:Files are identical:UserWarning")
def test_links_between_class_folders_lead_to_each_folder_once(tmp_path):
    names = "abcdefghij"
    for name in names:
        (tmp_path / name).mkdir()
        Image.fromarray(PIXELS).save(tmp_path / name / "1.png")
    for name in names:
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    files = read_images(tmp_path, size=(4, 4))
    for name in names:
        paths = files.paths[files.labels == name]
        assert len(paths) == len({os.path.realpath(path) for path in paths}) == len(names)


def test_identical_files(tmp_path, monkeypatch):
    read_whole = []

    def digest(path):
        read_whole.append(Path(path).name)
        return hashlib.sha256(Path(path).read_bytes()).digest()

    monkeypatch.setattr(sources, "_digest", digest)
    noise = RNG.integers(256, size=(12, 60, 60, 3), dtype=np.uint8)
    paths = [save(tmp_path / "ab"[i % 2] / f"{i}.bmp", image) for i, image in enumerate(noise)]
    middle = noise[0].copy()
    middle[0, 0] += 1  # Far from the middle of the file
    similar = save(tmp_path / "b" / "similar.bmp", middle)
    assert len({path.stat().st_size for path in [*paths, similar]}) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_images(tmp_path).identical == []
        assert {*read_whole} == {"0.bmp", "similar.bmp"}
        assert read_images([*paths, *paths]).identical == []  # Paths that are listed twice.
        assert read_images([*noise, *noise]).identical == []  # Images in memory.
    names = {"b/c0.bmp": 0, "a/c2.bmp": 2, "a/d2.bmp": 2, "b/d7.bmp": 7}
    for name, i in names.items():
        (tmp_path / name).write_bytes(paths[i].read_bytes())
    match = r"^Files are identical: 4 of 17 images repeat another one: '.*0.bmp' = '.*c0.bmp', '.*2"
    for options in ({"n_jobs": 2}, {"on_error": "skip"}, {"size": (8, 8), "mode": "L"}):
        with pytest.warns(UserWarning, match=match) as caught:
            files = read_images(tmp_path, **options)
        expected = [("0.bmp", "c0.bmp"), ("2.bmp", "c2.bmp", "d2.bmp"), ("7.bmp", "d7.bmp")]
        assert [tuple(Path(p).name for p in group) for group in files.identical] == expected
        assert files[3:5].identical == pickle.loads(pickle.dumps(files)).identical
        remedy = re.search(r"files\[.*\]\)\]", str(caught[0].message))[0]
        kept = eval(remedy, {"numpy": np, "files": files})
        assert {Path(p).name for p in kept.paths} == {
            *(path.name for path in paths),
            "similar.bmp",
        }
    # Those of several classes come first.
    (tmp_path / "b" / "2 too.bmp").write_bytes(paths[2].read_bytes())
    with pytest.warns(UserWarning, match="5 of 18"):
        groups = read_images(tmp_path).identical
    assert [len(group) for group in groups] == [2, 4, 2]
    (tmp_path / "b" / "7 in a.bmp").symlink_to(paths[4])
    with pytest.warns(UserWarning, match="6 of 19"):
        groups = read_images(tmp_path).identical
    assert [Path(group[0]).name for group in groups] == ["0.bmp", "2.bmp", "4.bmp", "7.bmp"]


def test_one_class_and_one_image(tmp_path):
    save(tmp_path / "only" / "1.png")
    files = read_images(tmp_path)
    assert files.labels.tolist() == ["only"]
    assert repr(files).endswith("1 image of shape (20, 30, 3) and dtype uint8; 1 class: 'only'>")


@pytest.mark.parametrize(
    "name", ["a b.png", "ünïcödé 日本.png", "line\nbreak.png", "a[1]*.png", b"\xff\xfe.png"]
)
def test_strange_names(name, tmp_path):
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), os.fsencode(name))))
    save(path)
    for source in (tmp_path, path, [path], [str(path)]):
        files = pickle.loads(pickle.dumps(read_images(source)))
        assert files.paths.tolist() == [str(path)]
        np.testing.assert_array_equal(files[0], PIXELS)


COLUMNS = {
    "list": list,
    "tuple": tuple,
    "strings": lambda paths: np.array([str(path) for path in paths]),
    "objects": lambda paths: np.array(paths, object),
    "matrix": lambda paths: np.array(paths, object)[:, np.newaxis],
    "pandas": lambda paths: pd.Series(map(str, paths), index=range(5, 5 + len(paths))),
    "pandas objects": lambda paths: pd.Series(paths, dtype=object),
    "pandas categories": lambda paths: pd.Series(map(str, paths), dtype="category"),
    "pandas table": lambda paths: pd.DataFrame({"path": map(str, paths)}),
    "polars": lambda paths: pl.Series("path", [*map(str, paths)]),
    "polars table": lambda paths: pl.DataFrame({"path": [*map(str, paths)]}),
}
columns = pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)


@columns
def test_columns_of_paths(column, folder):
    paths = sorted(folder.glob("*/*"), reverse=True)
    files = read_images(column(paths))
    assert files.paths.tolist() == [*map(str, paths)]
    assert files.labels is None
    np.testing.assert_array_equal(files[3], np.asarray(Image.open(paths[3])))


def test_images_in_memory():
    gray = PIXELS[..., 0]
    pictures = [Image.fromarray(gray), Image.fromarray(np.dstack([PIXELS, gray]))]
    content = encoded(Image.fromarray(PIXELS))
    contents = [content, bytearray(content), io.BytesIO(content)]
    files = read_images([PIXELS, gray, *pictures, *contents])
    assert files.paths is None
    assert files.labels is None
    assert files.shape == (7, 20, 30, 3)
    np.testing.assert_array_equal(files[[0, 4, 5, 6]], np.stack([PIXELS] * 4))
    np.testing.assert_array_equal(files[1], files[2])
    again = pickle.loads(pickle.dumps(files[3:6]))
    np.testing.assert_array_equal(again, files[3:6])
    stack = np.stack([PIXELS, PIXELS // 2])
    np.testing.assert_array_equal(read_images(stack), stack)
    np.testing.assert_array_equal(read_images(pd.Series([PIXELS, PIXELS])), [PIXELS, PIXELS])
    bits = PIXELS[..., 0] > 100
    np.testing.assert_array_equal(read(bits, mode=None)[..., 0], 255 * bits)
    assert read_images([np.ones((2, 3)), np.ones((2, 3))], mode=None).dtype == np.float64


def test_images_in_memory_are_not_changed():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(Image.fromarray(PIXELS), "jpg", exif=exif)))
    assert read(image, size=(5, 5)).shape == (5, 5, 3)
    assert image.size == (30, 20)
    assert image.getexif()[0x0112] == 6


def test_a_format_is_a_function_and_a_line(monkeypatch):
    def open_file(item, settings, stack):
        if item.startswith(b"RAW-"):
            return formats.open_bands(lambda: PIXELS, PIXELS.shape, PIXELS.dtype, settings)

    line = formats.Format("raw_files", "NumPy", "raw", (".raw",), (b"RAW",))
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, line))
    with pytest.raises(ImportError, match=r'requires NumPy.*"sklearn_conv\[raw\]"'):
        read(b"RAW-")
    module = types.SimpleNamespace(open_file=open_file)
    monkeypatch.setitem(sys.modules, "sklearn_conv._reading.raw_files", module)
    np.testing.assert_array_equal(read(b"RAW-"), PIXELS)
    np.testing.assert_array_equal(read(b"RAW-", size=(5, 5)), read(PIXELS, size=(5, 5)))
    with pytest.raises(OSError, match="known format"):
        read(b"RAW")


# Functions of the user


def load(path):
    """Read a file of NumPy, which this package does not know."""
    return np.load(path)


@pytest.fixture
def stacks(tmp_path):
    """Two classes of files with 5 bands of 16 bits, and their arrays, (6, 9, 8, 5)."""
    arrays = RNG.integers(2**16, size=(6, 9, 8, 5), dtype=np.uint16)
    for i, array in enumerate(arrays):
        path = tmp_path / "ab"[i // 3] / f"{i}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, array)
    (tmp_path / "a" / ".hidden").write_text("")
    return tmp_path, arrays


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_load_func(stacks, n_jobs):
    root, arrays = stacks
    options = {"mode": None, "load_func": load, "n_jobs": n_jobs}
    files = read_images(root, **options)
    assert files.labels.tolist() == ["a"] * 3 + ["b"] * 3
    assert (files.shape, files.dtype) == (arrays.shape, np.uint16)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(files))[2:], arrays[2:])
    for resize in ("crop", "pad", "stretch"):
        small = read_images(root, (4, 6), resize=resize, **options)
        expected = [scaled(array, (4, 6), resize) for array in arrays]
        np.testing.assert_allclose(small, expected, atol=1)
    np.save(root / "b" / "6.npy", arrays[0][:5, :, 0])  # other sizes, and channels
    np.save(root / "b" / "7.npy", arrays[0, :5])
    found = [*root.glob("a/*.npy"), root / "b" / "7.npy"]
    anysize = read_images(pd.DataFrame({"path": found}), "any", **options)
    assert anysize.image_shapes[[0, -1]].tolist() == [[9, 8, 5], [5, 8, 5]]
    assert anysize[3].dtype == np.uint16
    with pytest.raises(ValueError, match=r"channels.*6.npy': 1 channels.*one kind from load_func"):
        read_images(root, "any", **options)
    with pytest.raises(ValueError, match=r"6.npy' has shape \(4, 4, 1\).*one kind from load_func"):
        np.asarray(read_images(root, (4, 4), **options))


def test_load_func_without_optional_libraries(stacks, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn_conv._reading.pillow_images", None)
    files = read_images(stacks[0], mode=None, load_func=load)
    np.testing.assert_array_equal(files, stacks[1])


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        (None, ValueError, "load_func returned NoneType of dtype object; it must return an array"),
        ("text", ValueError, "load_func returned str"),
        ([[1, 2], [3]], OSError, "load_func raised ValueError"),
        (KeyError("key"), OSError, "load_func raised KeyError: 'key'"),
        (OSError("broken"), OSError, "broken"),
        (np.ones((2, 3, 4, 5)), ValueError, r"shape \(2, 3, 4, 5\) .*\(h, w, c\)"),
        (np.ones((2, 0)), ValueError, r"shape \(2, 0\)"),
        (np.ma.masked_equal(PIXELS, 3), ValueError, "masked pixels"),
    ],
    ids=str,
)  # fmt: skip
def test_what_load_func_may_not_return(result, error, match):
    def choose(path):
        if path == "bad" and isinstance(result, Exception):
            raise result
        return PIXELS if path == "good" else result

    with pytest.raises(error, match=f"'bad' .*{match}"):
        read_images(["good", "bad"], mode=None, load_func=choose)
    files = read_images(["good", "bad"], mode=None, load_func=choose, on_error="skip")
    assert files.paths.tolist() == ["good"]
    assert re.search(match, str(files.skipped))
    np.testing.assert_array_equal(files[0], PIXELS)


def test_load_func_that_lacks_another_file(tmp_path):
    (tmp_path / "1.raw").touch()
    other = tmp_path / "header.txt"
    message = r"1\.raw' cannot be read: load_func raised FileNotFoundError: .*header\.txt"
    with pytest.raises(OSError, match=message):
        read(tmp_path / "1.raw", mode=None, load_func=lambda path: other.read_bytes())


def test_load_func_that_lacks_a_library():
    def choose(path):
        raise ImportError("a library")

    with pytest.raises(ImportError, match="a library"):
        read_images(["a"], mode=None, load_func=choose, on_error="skip")


# Sequences


@pytest.fixture(scope="module")
def files(folder):
    return read_images(folder)


@pytest.fixture(scope="module")
def array(files):
    return np.stack([*files])


INDICES = {
    "slice": slice(2, 9, 3),
    "backwards": slice(None, None, -1),
    "array": np.array([3, 0, 0, -1]),
    "empty list": [],
    "mask": np.arange(12) % 3 == 0,
    "rows and all": (np.array([1, 4]), ...),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_selections_are_lazy(index, files, array, monkeypatch):
    """Tests of tiles have other indices; the code is the same."""
    with monkeypatch.context() as patch:
        patch.setattr(image_files, "read_image", None)
        selected = files[index]
    expected = array[index]
    rows = index[0] if isinstance(index, tuple) else index
    assert isinstance(selected, ImageFiles)
    assert selected.shape == expected.shape
    np.testing.assert_array_equal(selected, expected)
    np.testing.assert_array_equal(selected.paths, files.paths[rows])
    np.testing.assert_array_equal(selected.labels, files.labels[rows])
    np.testing.assert_array_equal(selected[::-1], expected[::-1])


class Stored(LazyImages):
    """Lazy images of an array."""

    def __init__(self, array):
        super().__init__(len(array), array.shape[1:], array.dtype)
        self.array = array

    def _read(self, rows):
        return self.array[rows]


NUMBERS = np.arange(5 * 3 * 4 * 3).reshape(5, 3, 4, 3)
INDEX = st.one_of(
    st.integers(-6, 5),
    st.integers(-6, 5).map(np.array),
    st.sampled_from([None, ..., slice(None), slice(1, None), slice(None, None, -2)]),
    st.lists(st.integers(-3, 2), max_size=3),
    st.lists(st.booleans(), min_size=3, max_size=5),
    st.just([[0, 1], [1, 0]]),
)


@given(st.lists(INDEX, max_size=6).map(tuple) | INDEX)
@example((-4, ..., None, [True, True, False]))
@example((2, None, [2, 0]))
@example((0, slice(None), [0, 1]))
@example((..., ...))
def test_indices_select_what_they_select_in_an_array(index):
    images = Stored(NUMBERS)
    try:
        expected = NUMBERS[index]
    except IndexError:
        with pytest.raises(IndexError):
            images[index]
        return
    first = index[0] if isinstance(index, tuple) and index else index
    if isinstance(first, list) and np.ndim(first) == 2:
        with pytest.raises(IndexError, match="index with one axis"):
            images[index]
        return
    np.testing.assert_array_equal(np.asarray(images[index]), expected, strict=True)


@pytest.mark.parametrize("n_jobs", [2, -1])
def test_threads(n_jobs, folder, array):
    np.testing.assert_array_equal(read_images(folder, n_jobs=n_jobs), array)


def test_files_are_opened_only_if_they_are_needed(folder, monkeypatch):
    opened = []
    find = pillow_images.open_file
    monkeypatch.setattr(
        pillow_images, "open_file", lambda item, *rest: opened.append(item) or find(item, *rest)
    )
    for options, n_opened in (
        ({"size": (4, 4)}, 0),
        ({"size": (4, 4), "mode": None}, 1),
        ({}, 12),
        ({"size": "any"}, 12),
        ({"size": (4, 4), "on_error": "skip"}, 12),
    ):
        files = read_images(folder, **options)
        assert len(opened) == n_opened
        opened.clear()
        assert len(files[2:5]) == 3
        assert not opened
        np.asarray(files[2:5])
        assert opened == files.paths[2:5].tolist()
        opened.clear()


def test_images_of_any_size(tmp_path):
    shapes = [(5, 8), (9, 4), (5, 8)]
    for i, shape in enumerate(shapes):
        save(tmp_path / f"{i}.png", RNG.integers(256, size=(*shape, 3), dtype=np.uint8))
    files = read_images(tmp_path, "any")
    assert (files.shape, files.ndim, files.dtype) == ((3,), 1, "uint8")
    assert files.image_shapes.tolist() == [[5, 8, 3], [9, 4, 3], [5, 8, 3]]
    assert files[1:].image_shapes.tolist() == [[9, 4, 3], [5, 8, 3]]
    assert [image.shape for image in files] == [(5, 8, 3), (9, 4, 3), (5, 8, 3)]
    assert np.asarray(files).dtype == object
    assert repr(files) == "<ImageFiles: 3 images of unequal shapes and dtype uint8>"
    again = pickle.loads(pickle.dumps(files))
    np.testing.assert_array_equal(again[1], np.asarray(Image.open(tmp_path / "1.png")))
    assert not hasattr(read_images([PIXELS]), "image_shapes")


# In the tools that take arrays


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Two classes of stripes, 40 images."""
    root = tmp_path_factory.mktemp("stripes")
    for i in range(40):
        noise = RNG.integers(50, size=(16, 16), dtype=np.uint8)
        stripes = np.tile(np.uint8([0, 200]), (16, 8)) + noise
        save(root / ("up" if i % 2 else "across") / f"{i}.png", stripes if i % 2 else stripes.T)
    return read_images(root, size=(16, 16), mode="L")


def test_in_the_tools_of_scikit_learn(classes):
    y, pixels = classes.labels, np.asarray(classes)
    transformer = StridedConv2DTransformer(6, kernels="patches", whiten=True, random_state=0)
    expected = transformer.fit_transform(pixels)
    np.testing.assert_allclose(transformer.fit_transform(classes), expected, rtol=1e-4, atol=1e-5)
    batches = [*transformer.transform_batches(classes, batch_size=16)]
    assert [rows.stop for rows, _ in batches] == [16, 32, 40]
    parts = np.concatenate([b for _, b in batches])
    np.testing.assert_allclose(parts, expected, rtol=1e-4, atol=1e-5)
    model = make_pipeline(StridedConv2DTransformer(8, random_state=0), RidgeClassifier())
    scores = cross_val_score(model, classes, y, cv=3)
    np.testing.assert_array_equal(scores, cross_val_score(model, pixels, y, cv=3))
    grid = {"stridedconv2dtransformer__stride": [1, 2]}
    assert (GridSearchCV(model, grid, cv=2).fit(classes, y).predict(classes) == y).all()
    parts = train_test_split(classes, resample(classes, random_state=0), random_state=0)
    expected = train_test_split(pixels, resample(pixels, random_state=0), random_state=0)
    for part, other in zip(parts, expected, strict=True):
        assert isinstance(part, ImageFiles)
        np.testing.assert_array_equal(part, other)


# Bad input


def truncated(path, fraction):
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    return path


def damaged(directory):
    """Return paths of files that cannot be read, and what the errors say besides their names."""
    wide = tiff(WIDE, photometric="rgb")
    contents = {"empty.png": b"", "foreign.jpg": b"text\n" * 100, "wide.tif": wide}
    for name, content in (contents | {"header.tif": wide[:100]}).items():
        (directory / name).write_bytes(content)
    for name, target in (("broken.png", "nowhere.png"), ("loop.png", "loop.png")):
        (directory / name).symlink_to(directory / target)
    (directory / "folder.png").mkdir()
    reasons = {
        "empty.png": "is empty",
        "foreign.jpg": "not an image of a known format",
        "broken.png": "No such file",
        "loop.png": "Too many levels",
        "none.png": "No such file",
        "folder.png": "Is a directory",
        "wide.tif": "16-bit integers.*set mode=None",
        "header.tif": "damaged|format",
    }
    return {directory / name: reason for name, reason in reasons.items()} | {
        truncated(save(directory / f"half.{suffix}"), 0.5): "[tT]runcated|decoder|damaged"
        for suffix in ("png", "jpg", "tif", "gif", "bmp", "webp", "ppm")
    }


def test_files_that_cannot_be_read(tmp_path):
    for path, reason in damaged(tmp_path).items():
        files = read_images([path, save(tmp_path / "good.png")], size=(4, 4))
        for get in (lambda files=files: files[0], lambda files=files: np.asarray(files)):
            with pytest.raises((OSError, ValueError), match=reason) as raised:
                get()
            assert str(path) in str(raised.value)
    path = truncated(tmp_path / "wide.tif", 0.5)
    with pytest.raises(OSError, match=r"wide\.tif.*damaged.*failed to read"):
        read(path, mode=None)


def test_skipped_files(tmp_path):
    bad = damaged(tmp_path)
    good = [save(tmp_path / f"good{i}.png", PIXELS + np.uint8(i)) for i in range(3)]
    paths = [good[0], *bad, *good[1:]]
    files = read_images(paths, size=(4, 4), on_error="skip")
    assert files.paths.tolist() == [*map(str, good)]
    assert [path for path, _ in files.skipped] == [*map(str, bad)]
    for (path, reason), expected in zip(files.skipped, bad.values(), strict=True):
        assert path not in reason
        assert re.search(expected, reason)
    assert repr(files).endswith(f"; {len(bad)} skipped>")
    assert files[1:].skipped == files.skipped
    np.testing.assert_array_equal(files, read_images(good, size=(4, 4)))
    with pytest.raises(OSError, match=r"None of the 2 images.*empty.*: it is empty"):
        read_images([tmp_path / "empty.png", tmp_path / "foreign.jpg"], on_error="skip")
    unequal = [good[0], tmp_path / "empty.png", save(tmp_path / "small.png", PIXELS[:5])]
    with pytest.raises(ValueError, match=r"height and width.*small.png': \(5, 30\)"):
        read_images(unequal, on_error="skip")
    skipped = read_images([PIXELS, b"text"], on_error="skip").skipped
    assert skipped == [
        ("image 1", "it is not an image of a known format, or its header is damaged")
    ]


def test_a_class_of_which_all_images_are_skipped(tmp_path):
    save(tmp_path / "a" / "1.png")
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="All images of 2 of 3 classes are skipped: 'b', 'c'"):
        files = read_images(tmp_path, on_error="skip")
    assert files.labels.tolist() == ["a"]


def test_files_of_a_wrong_suffix(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS), "tif"))
    np.testing.assert_array_equal(read(path), PIXELS)
    path.write_bytes(tiff(WIDE, photometric="rgb"))
    np.testing.assert_array_equal(read(path, mode=None), WIDE)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may read everything")
def test_no_right_to_read(tmp_path):
    path = save(tmp_path / "secret" / "image.png")
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"image\.png"):
        read(path)
    path.parent.chmod(0)
    with pytest.raises(PermissionError, match="secret"):
        read_images(path.parent)
    path.parent.chmod(0o700)


def test_a_file_that_vanishes(tmp_path):
    paths = [save(tmp_path / f"{i}.png", PIXELS + np.uint8(i)) for i in range(3)]
    files = read_images(tmp_path)
    transformer = StridedConv2DTransformer(4, random_state=0).fit(files)
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png"):
        transformer.transform(files)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="The system has no named pipes")
def test_pipes_are_not_images(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(OSError, match=r"1.png' cannot be read: it is not a regular file"):
        read(tmp_path / "1.png")
    with pytest.raises(FileNotFoundError, match="matches no files"):
        read_images(str(tmp_path / "*.png"))
    Image.fromarray(PIXELS).save(tmp_path / "2.png")
    assert len(read_images(str(tmp_path / "*.png"))) == 1
    paths = sorted(tmp_path.iterdir())
    assert [path for path, _ in read_images(paths, on_error="skip").skipped] == [str(paths[0])]


class AlarmError(Exception):
    """An error that the handler of a signal raises."""


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="The system has no alarms")
@pytest.mark.parametrize("error", [AlarmError, RuntimeError, TimeoutError, ValueError])
@pytest.mark.parametrize("is_loaded", [False, True])
def test_errors_of_signal_handlers_are_not_those_of_files(is_loaded, error, tmp_path, monkeypatch):
    def stop(number, frame):
        raise error("time is over")

    def decode(*args):
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(10)

    Image.fromarray(PIXELS).save(tmp_path / "1.png")
    monkeypatch.setattr(Image.Image, "tobytes", decode)  # while an image becomes an array
    previous = signal.signal(signal.SIGALRM, stop)
    options = {"load_func": decode, "mode": None} if is_loaded else {}
    try:
        for on_error in ("skip", "raise"):
            with pytest.raises(error, match="time is over"):
                np.asarray(read_images([tmp_path / "1.png"], on_error=on_error, **options))
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_too_many_channels_for_the_memory(tmp_path):
    path = tmp_path / "1.tif"
    tifffile.imwrite(path, np.zeros((2, 2, 5), np.uint8), photometric="minisblack", planarconfig=1)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tags = file.pages[0].tags
        for code, value in [(256, 10**4), (257, 10**4), (277, 60000)]:
            tag = tags[code]
            size = {"H": 2, "I": 4}[tag.dataformat[-1]]
            content[tag.valueoffset : tag.valueoffset + size] = value.to_bytes(size, "little")
    path.write_bytes(content)
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "2.tif")
    files = read_images(str(tmp_path / "*.tif"), mode=None, on_error="skip")
    assert len(files) == 1
    assert files.skipped[0][0] == str(path)


def test_a_file_that_changes(tmp_path):
    path = save(tmp_path / "image.png")
    files = read_images([path])
    save(path, PIXELS[:10])
    with pytest.raises(ValueError, match=r"image.png' has shape \(10, 30, 3\).*it has changed"):
        files[0]
    files = read_images([path], size="any")
    save(path)
    with pytest.raises(ValueError, match=r"shape \(20, 30, 3\).*shape \(10, 30, 3\)"):
        files[0]


def test_decompression_bombs(tmp_path, monkeypatch):
    paths = [save(tmp_path / "bomb.png"), tmp_path / "wide.tif", tmp_path / "raster.tif"]
    paths[1].write_bytes(tiff(WIDE, photometric="rgb"))
    write_raster(paths[2], WIDE.transpose(2, 0, 1), nodata=0)
    # Pillow warns of more pixels than the limit, which is an error in tests.
    for limit, mode in ((200, None), (200, "RGB"), (500, "RGB")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for path in paths[: 1 if mode else 3]:
            with pytest.raises(OSError, match=rf"{path.name}.*limit.*PIL.Image.MAX_IMAGE_PIXELS"):
                read(path, mode=mode)


def test_bomb_on_another_page(monkeypatch):
    small, large = Image.fromarray(PIXELS[:5, :5]), Image.fromarray(PIXELS)
    content = encoded(small, "tif", save_all=True, append_images=[large])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read(content).shape == (5, 5, 3)
    with pytest.raises(OSError, match=r"image 0 .*limit (is|of) 200.*raise PIL"):
        read(content, page=1)


def test_unequal_sizes(tmp_path):
    for i in range(12):
        save(tmp_path / f"{i}.png", PIXELS[: 20 - i * (i > 4)])
    with pytest.raises(ValueError, match="do not agree in height and width") as raised:
        read_images(tmp_path)
    message = str(raised.value)
    for part in ("5 of 12 have (20, 30)", "5.png': (15, 30)", "9.png': (11, 30) and 2 more."):
        assert part in message
    assert message.count(".png") == 5
    assert re.search(r"size=\(height, width\).*size='any'", message)


def test_unequal_channels(tmp_path):
    paths = [save(tmp_path / "color.png"), save(tmp_path / "gray.png", PIXELS[..., 0])]
    wide = tmp_path / "wide.tif"
    wide.write_bytes(tiff(WIDE, photometric="rgb"))
    paths += [save(tmp_path / "color2.png", PIXELS[::-1]), wide]
    rule = "in channels and dtype: 2 of 4 have 3 channels of uint8"
    odd = "gray.png': 1 channels of uint8.*wide.tif': 3 channels of uint16"
    with pytest.raises(ValueError, match=f"do not agree {rule}.*{odd}"):
        read_images(paths, mode=None)
    files = read_images(paths, size=(4, 4), mode=None)
    with pytest.raises(ValueError, match=r"gray.png' has shape \(4, 4, 1\).*mode='RGB'"):
        np.asarray(files)
    with pytest.raises(ValueError, match=r"wide.tif' has .* dtype uint16, but .* uint8 are"):
        files[3]


@pytest.mark.parametrize("value", [None, float("nan"), pd.NA, pd.NaT, ""], ids=repr)
def test_missing_paths(value):
    with pytest.raises(ValueError, match=r"source has missing values in 2 of 3 rows.*: 0, 2\. Dr"):
        read_images([value, "a.png", value])
    for kind in (pd.Series, pl.Series, lambda x: pd.DataFrame({"path": x})):
        with pytest.raises(ValueError, match=r"2 of 4 rows.*: 1, 3\."):
            read_images(kind(["a", None, "b", None]))


WRONG = [
    ({"size": 5}, TypeError, "'size'.*\\(height, width\\).*Got 5"),
    ({"size": (0, 5)}, ValueError, "'size'.*at least 1"),
    ({"size": (5,)}, ValueError, "'size'"),
    ({"size": (5.0, 5)}, TypeError, "'size'"),
    ({"size": "all"}, ValueError, "'size'.*\"any\""),
    ({"size": (2**16, 5)}, ValueError, "below 65536"),
    ({"mode": "rgb"}, ValueError, "'mode'.*'RGB'.*or None"),
    ({"mode": 3}, TypeError, "'mode'"),
    ({"resize": "cover"}, ValueError, "'resize'.*'crop'"),
    ({"page": -1}, ValueError, "'page'"),
    ({"load_func": "numpy", "mode": None}, TypeError, "'load_func' .*Got 'numpy'"),
    ({"load_func": load}, ValueError, "requires mode=None and page=0.*mode='RGB'"),
    ({"load_func": load, "mode": None, "page": 1}, ValueError, "requires mode=None.*page=1"),
    ({"on_error": "ignore"}, ValueError, "'on_error'.*'skip'"),
    ({"n_jobs": 0}, ValueError, "'n_jobs'"),
]


@pytest.mark.parametrize(("options", "error", "match"), WRONG, ids=lambda value: str(value)[:30])
def test_wrong_parameters(options, error, match, monkeypatch):
    monkeypatch.setattr(image_files, "find_images", None)  # Nothing is searched or opened.
    monkeypatch.setattr(image_files, "describe_image", None)
    with pytest.raises(error, match=match):
        read_images(["none.png"], **options)
    if "on_error" not in options:
        reader = ImageReader(**options)
        with pytest.raises(error, match=match):
            reader.fit(["none.png"])
        assert not [name for name in vars(reader) if name.endswith("_")]


SOURCES = [
    (None, TypeError, "source must be a folder"),
    (3, TypeError, "Got 3 instead"),
    (b"abc", TypeError, "source must be"),
    (Image.new("L", (3, 3)), TypeError, "source must be"),
    ({"a": "b"}, TypeError, "source must be"),
    ([], ValueError, "source contains no images"),
    (["a.png", 3], TypeError, r"source\[0\] is a path, but source\[1\] is of type int"),
    ([PIXELS, "a.png"], TypeError, r"source\[1\] is of type str"),
    ([io.StringIO("text")], TypeError, r"source\[0\] .*mode='rb'"),
    (pd.DataFrame({"a": ["b"], "c": ["d"]}), ValueError, "2 columns; pass one column"),
    (np.array([["a", "b"]]), ValueError, "2 columns"),
    ([np.ones(5)], ValueError, r"image 0 .*shape \(5,\).*\(h, w, c\)"),
    ([np.ones((5, 5), complex)], ValueError, "image 0 .*complex128"),
    ([np.ones((0, 5), np.uint8)], ValueError, r"image 0 .*\(0, 5\)"),
    ([np.ones((5, 5))], ValueError, "image 0 .*float64, which mode='RGB'.*set mode=None"),
    ([np.ones((5, 5, 5), np.uint8)], ValueError, "image 0 .*5 channels.*set mode=None"),
    ([np.ma.masked_equal(PIXELS, 3)], ValueError, "image 0 .*masked.*filled"),
    ("/nowhere/at/all", FileNotFoundError, "'/nowhere/at/all' does not exist.*Relative paths"),
    ("/nowhere/*.png", FileNotFoundError, r"pattern '/nowhere/\*.png' matches no files"),
]


@pytest.mark.parametrize(("source", "error", "match"), SOURCES, ids=lambda value: str(value)[:20])
def test_wrong_sources(source, error, match):
    with pytest.raises(error, match=match):
        read_images(source)


def test_images_in_memory_beside_load_func():
    with pytest.raises(TypeError, match=r"source must contain paths.*ndarray; leave out"):
        read_images([PIXELS], mode=None, load_func=load)


def test_folder_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"contains no images.*\.png"):
        read_images(tmp_path)
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "table.csv").write_text("a,b")
    with pytest.raises(FileNotFoundError, match="contains no images"):
        read_images(tmp_path)


@pytest.mark.parametrize(
    ("library", "module", "extra", "content"),
    [
        ("PIL", "pillow_images", "images", encoded(Image.fromarray(PIXELS))),
        ("tifffile", "tiff_files", "images", tiff(WIDE, photometric="rgb")),
        ("rasterio", "geo_files", "geo", None),
    ],
)
def test_libraries_that_are_not_installed(library, module, extra, content, monkeypatch, tmp_path):
    if content is None:
        content = write_raster(tmp_path / "image", WIDE.transpose(2, 0, 1), "PNG").read_bytes()
    name = f"sklearn_conv._reading.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf'pip install "sklearn_conv\[{extra}\]"') as caught:
        read(content, mode=None)
    assert caught.value.__notes__ == ["This error was raised while image 0 was read."]
    with pytest.raises(ImportError, match=extra):  # It is not a reason to skip an image.
        read_images([content], mode=None, on_error="skip")


def test_optional_libraries_are_imported_late():
    code = (
        "import sys, sklearn_conv._reading.image_reader\n"
        "print({'PIL', 'tifffile', 'rasterio'} & {*sys.modules})"
    )
    assert run_python(code).stdout == "set()\n"


def test_suffixes_are_those_of_pillow():
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN}
    assert {*sources.SUFFIXES} - {".btf", ".avif"} <= known
