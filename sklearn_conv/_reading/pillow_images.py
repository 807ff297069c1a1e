"""Read common image files with Pillow, and scale images and arrays with it."""

from __future__ import annotations

import re
import struct
from contextlib import ExitStack
from io import BytesIO
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from sklearn_conv._reading.formats import (
    MODES,
    NODATA,
    TURNED,
    OpenedImage,
    Settings,
    UnsuitableImageError,
    import_reader,
    no_such_page,
    not_as_stored,
    open_array,
)

FILTER = Image.Resampling.BILINEAR
"""Pillow widens the triangle by the factor of the reduction, so that it averages all pixels.

Its weights are not negative, so that no value leaves the range of its neighbors.
"""

BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
"""Errors for images above the limit of pixels; the second one if warnings are errors."""


class Placement(NamedTuple):
    """How an image is scaled to a size. Pairs are (rows, columns)."""

    box: tuple[float, float, float, float]
    """Left, upper, right and lower edge of the part of the image that is used, in pixels."""
    inner: tuple[int, int]
    """Size to which this part is scaled."""
    corner: tuple[int, int]
    """Position of its first pixel in the result."""


def open_file(item: str | bytes, settings: Settings, stack: ExitStack) -> OpenedImage | None:
    """Open a file, given by its path or its content, if Pillow decodes it exactly.

    Colors of 16 bits are left to rasterio, and other TIFF files to tifffile.
    """
    try:
        source = BytesIO(item) if isinstance(item, bytes) else item
        image = stack.enter_context(Image.open(source))
        _go_to_page(image, settings.page)
    except (UnidentifiedImageError, SyntaxError):
        return None
    except BOMBS as error:
        raise _too_large(str(error)) from error
    _scale_transparent_gray(image)
    lost, mode = _what_is_lost(image), settings.mode
    if lost and mode is not None:
        raise not_as_stored(lost, mode)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow does not resolve palettes of images that are declared as gray.
        has_palette = image.mode == "L" and TiffImagePlugin.COLORMAP in image.tag_v2
        if lost or has_palette or (mode is None and NODATA in image.tag_v2):
            return None
    elif lost:
        _check_transparency(image, lost)
        if image.tile[0][0] == "ppm_plain":
            raise UnsuitableImageError(
                f"it has {lost}, which are written as text; convert it to the binary format P6"
            )
        if settings.page:
            raise UnsuitableImageError(f"it has {lost}, of which only page=0 can be read")
        geo = import_reader("geo_files", "rasterio", "geo")
        return geo.open_raster(item, settings, stack, find_orientation(image))
    return open_image(image, settings)


def check_pixels(shape: tuple[int, ...]) -> None:
    """Raise an error for images above Pillow's limit, which Pillow does not check in all cases."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and shape[0] * shape[1] > 2 * limit:
        raise _too_large(f"it has {shape[0] * shape[1]} pixels, but the limit is {2 * limit}.")


def _too_large(reason: str) -> OSError:
    return OSError(f"{reason} If you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS.")


def _go_to_page(image: Image.Image, page: int) -> None:
    try:
        image.seek(page)
    except EOFError:
        is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)  # Its n_frames is then wrong.
        n_pages = image.tell() + 1 if is_tiff else getattr(image, "n_frames", 1)
        raise no_such_page(page, n_pages) from None
    check_pixels((image.height, image.width))


def _what_is_lost(image: Image.Image) -> str:
    """Return what Pillow does not decode exactly, in an opened file; "" if there is nothing."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _what_is_lost_of_tiff(image)
    # The arguments of the decoder are the layout in the file and, in PPM files, the largest value.
    tile = getattr(image, "tile", None)
    layout = tile[0][3] if tile else ""
    parts = layout if isinstance(layout, tuple) else (layout,)
    if image.format == "JPEG2000":
        return _what_is_lost_of_jpeg2000(image)
    if image.format == "AVIF":
        _check_avif(image)
    is_wide = ";16" in str(parts[0]) or (image.format == "PPM" and max(parts[1:], default=0) > 255)
    is_exact = image.mode.startswith("I") or str(parts[0]).startswith("BGR;16")  # 5, 6 and 5 bits
    return "channels of 16 bits" if is_wide and not is_exact else ""


def _what_is_lost_of_jpeg2000(image: Image.Image) -> str:
    """Return the channels that Pillow scales to 8 or 16 bits, without their sign."""
    content = _content(image)
    start = content.find(b"\xff\x4f\xff\x51") + 40  # where the number of channels is
    (n_channels,) = struct.unpack_from(">H", content, start)
    depths = {*content[start + 2 : start + 2 + 3 * n_channels : 3]}
    if depths == {7} or (depths == {15} and n_channels == 1):
        return ""
    bits, sign = max((depth & 127) + 1 for depth in depths), "signed " * (max(depths) > 127)
    return f"{sign}channels of {bits} bits"


def _check_avif(image: Image.Image) -> None:
    """Raise an error for channels of more than 8 bits, which Pillow reduces to 8 bits."""
    # The seventh bit of the third byte of the configuration says so.
    if re.search(rb"av1C\x81.[\x40-\x7f\xc0-\xff]", _content(image), re.DOTALL):
        raise UnsuitableImageError(
            "it has channels of 10 or 12 bits, which Pillow reduces to 8 bits; convert it to a PNG "
            "file of 16 bits, or read it with load_func"
        )


def _content(image: Any) -> bytes:
    """Return the whole content of an opened file."""
    position = image.fp.tell()
    image.fp.seek(0)
    content: bytes = image.fp.read()
    image.fp.seek(position)
    return content


def _what_is_lost_of_tiff(image: TiffImagePlugin.TiffImageFile) -> str:
    tags = image.tag_v2
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    kind = max(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,)))
    n_channels = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    if image.mode in ("I", "F"):
        # Pillow exchanges the bytes of compressed numbers twice.
        is_swapped = tags.prefix == b"MM" and tags.get(TiffImagePlugin.COMPRESSION, 1) != 1
        is_exact = (bits, kind) == (32, 2 if image.mode == "I" else 3) and not is_swapped
    else:
        is_exact = bits <= (16 if image.mode.startswith("I;16") else 8) and kind in (1, 4)
    if is_exact and n_channels == len(image.getbands()):
        return ""
    numbers = {2: "signed integers", 3: "floats"}.get(kind, "integers")
    return f"{n_channels} channels of {bits}-bit {numbers}"


def open_image(image: Image.Image, settings: Settings) -> OpenedImage:
    """Return an image that was opened, and may be changed, as it is to be read."""
    mode = settings.mode
    n_channels, dtype = _stored(image)
    if mode is None and dtype == np.uint16:
        _check_transparency(image, "channels of 16 bits")
    if mode is not None:
        if dtype != np.uint8:
            raise not_as_stored(f"pixels of dtype {dtype}", mode)
        if image.mode == "RGBX":
            raise not_as_stored("4 channels, of which one is neither color nor opacity", mode)
        n_channels = MODES[mode]
    h, w = image.height, image.width
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Some versions of Pillow exchange the size when the file is opened.
        h, w = (
            image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGELENGTH, TiffImagePlugin.IMAGEWIDTH)
        )
    orientation = find_orientation(image)
    shape = (w, h) if orientation in TURNED else (h, w)
    return OpenedImage(
        shape=(*shape, n_channels),
        dtype=dtype,
        read=lambda: _read(image, settings, shape, orientation),
    )


def _scale_transparent_gray(image: Any) -> None:
    """Scale the transparent gray level of 2 or 4 bits as Pillow scales the pixels."""
    level = image.info.get("transparency")
    factor = {"L;2": 85, "L;4": 17}.get(image.tile[0][3] if image.tile else "")
    if image.format == "PNG" and isinstance(level, int) and factor:
        image.info["transparency"] = level * factor


def _check_transparency(image: Image.Image, what: str) -> None:
    """Raise an error for a transparent color of more than 8 bits, which no library resolves."""
    if "transparency" in image.info:
        raise UnsuitableImageError(
            f"it has {what} and a transparent color; save it with a channel for the opacity, or "
            "read it with load_func"
        )


def find_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image that is not decoded yet."""
    if image.format == "PNG" and _has_text_behind_pixels(image):
        image.load()
    # The method of PNG files would decode all images without EXIF data.
    return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)


def _has_text_behind_pixels(image: Any) -> bool:
    """Return whether an opened PNG file has EXIF or XMP data behind its pixels."""
    if image.fp is None or not getattr(image, "tile", None):  # It is decoded.
        return False
    position = image.fp.tell()
    image.fp.seek(8)
    is_behind, found, kind = False, False, b""
    while not found and kind != b"IEND" and len(header := image.fp.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        is_behind = is_behind or kind == b"IDAT"
        found = is_behind and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
        image.fp.seek(length + 4, 1)
    image.fp.seek(position)
    return found


def open_colors(array: np.ndarray, settings: Settings) -> OpenedImage:
    """Return an array of 8 bits, (h, w, c), as it is to be read."""
    return open_image(Image.fromarray(array[..., 0] if array.shape[2] == 1 else array), settings)


def scale_array(array: np.ndarray, settings: Settings) -> np.ndarray:
    """Scale an array (h, w, c) channel by channel to ``settings.size``."""
    size = settings.size
    assert size is not None
    placement = place_image(array.shape[:2], size, settings.resize)
    dtype = array.dtype
    if dtype.kind in "ui" and dtype.itemsize > 2 and dtype != np.int32:
        raise UnsuitableImageError(
            f"Pillow cannot scale images of dtype {dtype}; set size=None or size='any', or convert "
            "it first"
        )
    # float32 holds integers of 16 bits exactly.
    computed = dtype if dtype in (np.uint8, np.int32) else np.dtype(np.float32)
    channels = [
        _scale(Image.fromarray(np.ascontiguousarray(array[..., k], computed)), size, placement)
        for k in range(array.shape[2])
    ]
    scaled = np.stack([np.asarray(channel) for channel in channels], axis=2)
    return np.rint(scaled).astype(dtype) if dtype.kind in "ui" else scaled.astype(dtype)


def _stored(image: Image.Image) -> tuple[int, np.dtype]:
    """Return the number of channels and the dtype of an image as it is stored."""
    if image.mode == "F":
        return 1, np.dtype(np.float32)
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        return 1, np.dtype(np.int32)
    if image.mode.startswith("I"):
        return 1, np.dtype(np.uint16)
    return Image.getmodebands(_resolved(image)), np.dtype(np.uint8)


def _resolved(image: Image.Image) -> str:
    """Return the mode into which palettes, transparent colors and images of 1 bit are resolved."""
    mode = {"P": "RGB", "PA": "RGB", "1": "L"}.get(image.mode, image.mode)
    if image.has_transparency_data:
        return {"RGB": "RGBA", "L": "LA"}.get(mode, mode)
    return mode


def _read(
    image: Image.Image, settings: Settings, shape: tuple[int, int], orientation: int
) -> np.ndarray:
    """Decode an opened file, (h, w, c)."""
    size, placement = settings.size, None
    if size is not None and size != shape:
        placement = place_image(shape, size, settings.resize)
        if image.format in ("JPEG", "MPO") and (settings.mode or image.mode in ("L", "RGB")):
            placement = _draft(image, placement, shape, orientation)
    if image.format == "PPM" and settings.mode is None:
        _keep_values(image)
    image.load()
    if orientation != 1:
        ImageOps.exif_transpose(image, in_place=True)
    if settings.mode is None and image.mode == "L" and _is_white_zero(image):
        image = ImageOps.invert(image)
    image = _convert(image, settings.mode)
    if settings.mode is None and image.mode not in ("L", "RGB"):
        return open_array(_as_array(image), settings).read()
    if size is not None and placement is not None:
        image = _scale(image, size, placement)
    return _as_array(image)


def _is_white_zero(image: Image.Image) -> bool:
    """Return whether 0 is white in a TIFF file, whose levels Pillow inverts."""
    return (
        isinstance(image, TiffImagePlugin.TiffImageFile)
        and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
    )


def _keep_values(image: Any) -> None:
    """Let Pillow decode the values of a PGM or PPM file as they are, whatever their maximum."""
    for i, tile in enumerate(image.tile):
        if tile[0] in ("ppm", "ppm_plain") and isinstance(tile[3], tuple):
            maximum = 65535 if image.mode == "I" else 255
            image.tile[i] = (*tile[:3], (tile[3][0], maximum))


def _draft(
    image: Image.Image, placement: Placement, shape: tuple[int, int], orientation: int
) -> Placement:
    """Let the decoder of a JPEG file reduce the image by 2, 4 or 8, if it remains large enough."""
    left, upper, right, lower = placement.box
    wanted = (  # width and height of the whole image
        round(shape[1] * placement.inner[1] / (right - left)),
        round(shape[0] * placement.inner[0] / (lower - upper)),
    )
    width = image.width
    draft = image.draft(None, wanted[::-1] if orientation in TURNED else wanted)
    if draft is None:
        return placement
    factor = draft[1][2] / width
    left, upper, right, lower = (edge * factor for edge in placement.box)
    return placement._replace(box=(left, upper, right, lower))


def _convert(image: Image.Image, mode: str | None) -> Image.Image:
    """Convert a decoded image to a mode; opacity is kept or composited onto white."""
    mode = mode or _resolved(image)
    if image.mode == mode and "transparency" not in image.info:
        return image
    if not image.has_transparency_data:
        return image.convert(mode)
    image = image.convert("RGBA")
    if mode in ("RGBA", "LA"):
        return image.convert(mode)
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert(mode)


def place_image(shape: tuple[int, int], size: tuple[int, int], resize: str) -> Placement:
    """Return how an image of ``shape`` comes to ``size``, both (rows, columns)."""
    (h, w), (rows, columns) = shape, size
    if resize == "stretch":
        return Placement((0, 0, w, h), size, (0, 0))
    is_narrow = rows * w <= columns * h  # than the size
    if resize == "crop":
        # The used part has the proportions of the size, and lies in the middle.
        height, width = (w * rows / columns, w) if is_narrow else (h, h * columns / rows)
        top, left = (h - height) / 2, (w - width) / 2
        return Placement((left, top, left + width, top + height), size, (0, 0))
    inner = (
        (rows, max(1, round(w * rows / h)))
        if is_narrow
        else (max(1, round(h * columns / w)), columns)
    )
    corner = (rows - inner[0]) // 2, (columns - inner[1]) // 2
    return Placement((0, 0, w, h), inner, corner)


def _scale(image: Image.Image, size: tuple[int, int], placement: Placement) -> Image.Image:
    """Scale an image to a size, (rows, columns): first by means of blocks, then with the filter."""
    rows, columns = placement.inner
    left, upper, right, lower = placement.box
    across, down = max(1, int((right - left) / columns)), max(1, int((lower - upper) / rows))
    if max(across, down) > 1:  # Means of blocks take an eighth of the time of the filter.
        first_row, first_column = int(upper), int(left)
        image = image.reduce((across, down), (first_column, first_row, ceil(right), ceil(lower)))
        left, right = (left - first_column) / across, (right - first_column) / across
        upper, lower = (upper - first_row) / down, (lower - first_row) / down
    scaled = image.resize((columns, rows), FILTER, (left, upper, right, lower))
    if placement.inner == size:
        return scaled
    padded = Image.new(image.mode, size[::-1])
    padded.paste(scaled, placement.corner[::-1])
    return padded


def _as_array(image: Any) -> np.ndarray:
    """Return the pixels as an array (h, w, c) in native byte order."""
    array = np.asarray(image)
    if image.mode.startswith("I"):
        array = array.astype(_stored(image)[1], copy=False)
    return array.reshape(*array.shape[:2], -1)
