"""How images are read: the settings, the list of the formats of files, and opening an image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from os.path import getsize
from signal import getsignal, valid_signals
from stat import S_ISDIR, S_ISREG
from traceback import walk_tb
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._validation import check_integer, check_name, is_integer, is_sequence, require

MODES = {"RGB": 3, "L": 1, "RGBA": 4}
"""Number of channels of each mode, of 8 bits each."""

RESIZES = ("crop", "pad", "stretch")

MAX_COLORS = 4
"""Arrays of 1 to 4 channels of 8 bits are gray, gray and opacity, colors, or colors and opacity."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""

NODATA = 42113
"""Number of GDAL's tag in TIFF files; it contains the number that marks missing pixels, as text."""

Described = tuple[tuple[int, int, int], np.dtype]
"""Shape and dtype of an image as it is read."""


class Settings(NamedTuple):
    """How images are read, as checked by `check_settings`."""

    size: tuple[int, int] | None
    """(height, width), or None for images that keep their sizes."""
    is_any: bool
    """Whether images that keep their sizes may be unequal."""
    mode: str | None
    resize: str
    page: int
    load_func: Callable[[str], Any] | None

    @property
    def channels_remedy(self) -> str:
        """Return how channels and dtypes of all images come to agree."""
        if self.load_func is not None:
            return "Return arrays of one kind from load_func, or read the images separately."
        return "Set mode='RGB' to convert images of 8 bits, or read the images separately."


def check_settings(
    owner: str, size: Any, mode: Any, resize: Any, page: Any, load_func: Any
) -> Settings:
    """Check the parameters of the function or class named ``owner``."""
    is_any = isinstance(size, str) and size == "any"
    if mode is not None:
        check_name(owner, "mode", mode, MODES, " or None")
    settings = Settings(
        size=None if size is None or is_any else _check_size(owner, size),
        is_any=is_any,
        mode=mode,
        resize=check_name(owner, "resize", resize, RESIZES),
        page=check_integer(owner, "page", page, 0),
        load_func=load_func,
    )
    rule = "a function that returns the array of a path, or None"
    require(owner, "load_func", load_func, rule, load_func is None or callable(load_func))
    if load_func is not None and (mode is not None or page):
        raise ValueError(
            f"With load_func, {owner} requires mode=None and page=0: load_func chooses the page, "
            "and its arrays are used as they are, because nobody else knows whether their channels "
            f"are colors. Got mode={mode!r} and page={page}; convert the images in load_func."
        )
    return settings


def _check_size(owner: str, size: Any) -> tuple[int, int]:
    rule = 'a pair (height, width) of integers of at least 1 and below 65536, None or "any"'
    is_pair = is_sequence(size) and all(map(is_integer, size))
    is_valid = is_pair and len(size) == 2 and 1 <= min(size) <= max(size) < 2**16
    require(owner, "size", size, rule, is_pair or isinstance(size, str), is_valid)
    return int(size[0]), int(size[1])


class OpenedImage(NamedTuple):
    """An image whose header was read."""

    shape: tuple[int, int, int]
    """(h, w, c) of the upright image before it is scaled."""
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    """Decode and scale the image, (h, w, c)."""


class Format(NamedTuple):
    """Files that a module of this folder opens with an optional library.

    The module has a function ``open_file(item, settings, stack)``. ``item`` is the path (a string)
    or the content (bytes) of a file. The function returns an `OpenedImage`, such as the result of
    `open_bands`, or None to leave the file to the formats below. It raises any error for a damaged
    file, and `UnsuitableImageError` if the settings do not suit. What must be closed when the image
    has been read goes onto ``stack``, an `ExitStack`.
    """

    module: str
    library: str
    extra: str
    suffixes: tuple[str, ...]
    """Suffixes of the files of a folder that are read, in lower case."""
    begins: tuple[bytes, ...] = ()
    """How the contents of such files begin; () for a library that knows its files itself."""


FORMATS = (
    Format(
        "pillow_images",
        "Pillow",
        "images",
        (
            *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".bmp", ".dib"),
            *(".jp2", ".j2k", ".jpx", ".avif", ".pbm", ".pgm", ".ppm", ".pnm", ".tga"),
        ),
    ),
    Format(
        "tiff_files",
        "tifffile",
        "images",
        (".tif", ".tiff", ".btf"),
        (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"),
    ),
)
"""A file is opened by the first format that does not leave it to the next ones."""

SUFFIXES = tuple(suffix for format in FORMATS for suffix in format.suffixes)


class UnsuitableImageError(ValueError):
    """The error for an image that can be read, but not with these settings."""


def import_reader(module: str, library: str, extra: str) -> Any:
    """Import the module of this folder that uses an optional library."""
    try:
        return import_module(f"sklearn_conv._reading.{module}")
    except ImportError as error:
        raise ImportError(
            f"Reading this image requires {library}, which is not installed; run "
            f'pip install "sklearn_conv[{extra}]".'
        ) from error


def describe_image(item: Any, name: str, settings: Settings) -> Described:
    """Return shape and dtype of an image as it will be read, without decoding it.

    ``item`` is the path or the content of a file, an array, or an image of Pillow; ``name`` stands
    for it in errors.
    """
    with _name_errors(item, name), ExitStack() as stack:
        image = _open(item, settings, stack)
        return (*(settings.size or image.shape[:2]), image.shape[2]), image.dtype


def read_image(item: Any, name: str, settings: Settings) -> np.ndarray:
    """Decode an image, (h, w, c)."""
    with _name_errors(item, name), ExitStack() as stack:
        return _open(item, settings, stack).read()


@contextmanager
def _name_errors(item: Any, name: str) -> Iterator[None]:
    try:
        yield
    except UnsuitableImageError as error:
        raise ValueError(f"{name} cannot be read: {error}.") from error
    except (ImportError, MemoryError) as error:
        error.add_note(f"This error was raised while {name} was read.")
        raise
    except OSError as error:
        if is_of_signal(error):
            raise
        if error.filename is not None:  # It is that of the system, which may follow links.
            raise OSError(error.errno, error.strerror, item) from error
        raise OSError(f"{name} cannot be read: {error}") from error
    except Exception as error:
        # Libraries raise errors of many types for damaged files.
        if is_of_signal(error):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise OSError(f"{name} cannot be read: it is probably damaged; {reason}") from error


def is_of_signal(error: BaseException) -> bool:
    """Return whether the handler of a signal raised an error, which says nothing about a file."""
    handlers = {getattr(getsignal(number), "__code__", None) for number in valid_signals()}
    return any(frame.f_code in handlers for frame, _ in walk_tb(error.__traceback__))


def _open(item: Any, settings: Settings, stack: ExitStack) -> OpenedImage:
    if settings.load_func is not None:
        return open_array(_load(item, settings.load_func), settings)
    if isinstance(item, np.ndarray):
        return open_array(item, settings)
    if not isinstance(item, str | bytes):  # Decoding and turning change an image of Pillow.
        return _pillow().open_image(item.copy(), settings)
    if isinstance(item, str):
        kind = os.stat(item).st_mode
        if not (S_ISREG(kind) or S_ISDIR(kind)):
            raise OSError(
                "it is not a regular file but a pipe, a socket or a device; copy it to one"
            )
    for format in FORMATS:
        if not format.begins or _read_start(item).startswith(format.begins):
            module = import_reader(format.module, format.library, format.extra)
            image = module.open_file(item, settings, stack)
            if image is not None:
                return image
    if not (item if isinstance(item, bytes) else getsize(item)):
        raise OSError("it is empty")
    raise OSError("it is not an image of a known format, or its header is damaged")


def _load(path: str, load_func: Callable[[str], Any]) -> np.ndarray:
    """Return what the user's function returns for a path, as an array in native byte order."""
    try:
        result = load_func(path)
        array = np.asanyarray(result)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        # An error about the file itself says enough.
        is_plain = isinstance(error, OSError) and str(error.filename or path) == path
        if is_plain or is_of_signal(error):
            raise
        raise OSError(f"load_func raised {type(error).__name__}: {error}") from error
    if array.dtype.kind not in "buif":
        raise UnsuitableImageError(
            f"load_func returned {type(result).__name__} of dtype {array.dtype}; it must return an "
            "array of real numbers"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_start(item: str | bytes) -> bytes:
    if isinstance(item, bytes):
        return item
    with open(item, "rb") as file:
        return file.read(64)


def _pillow() -> Any:
    return import_reader(*FORMATS[0][:3])


def open_array(array: np.ndarray, settings: Settings) -> OpenedImage:
    """Return an array (h, w) or (h, w, c) as it is to be read."""
    check_memory_map(array)
    size, mode = settings.size, settings.mode
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "buif":
        raise UnsuitableImageError(
            f"it has shape {array.shape} and dtype {array.dtype}; images are arrays of real "
            "numbers of shape (h, w) or (h, w, c)"
        )
    if np.ma.is_masked(array):
        raise UnsuitableImageError(
            "it has masked pixels; fill them first, for example with array.filled(numpy.nan)"
        )
    values = np.asarray(array).reshape(*array.shape[:2], -1)
    if values.dtype.kind == "b":
        values = values.astype(np.uint8) * np.uint8(255)
    if mode is None:
        is_scaled = size is not None and size != values.shape[:2]
        return OpenedImage(
            shape=values.shape,
            dtype=values.dtype,
            read=lambda: _pillow().scale_array(values, settings) if is_scaled else values,
        )
    if values.dtype != np.uint8 or values.shape[2] > MAX_COLORS:
        raise not_as_stored(f"{values.shape[2]} channels of dtype {values.dtype}", mode)
    return _pillow().open_colors(values, settings)


def open_bands(
    decode: Callable[[], np.ndarray],
    shape: tuple[int, int, int],
    dtype: np.dtype,
    settings: Settings,
    nodata: float | None = None,
    orientation: int = 1,
    palette: np.ndarray | None = None,
) -> OpenedImage:
    """Return an image whose channels a library decodes as they are stored.

    ``decode`` returns an array (h, w, c). ``nodata`` is the number that marks missing pixels, which
    become NaN. ``orientation`` is that of EXIF. ``palette`` contains the colors of an image with a
    single channel, (k, 3).
    """
    _pillow().check_pixels(shape)
    h, w, c = shape
    stored, dtype = dtype.newbyteorder("="), dtype.newbyteorder("=")
    if palette is not None:
        c, dtype = 3, palette.dtype
    elif dtype.kind == "b":  # `open_array` makes 0 and 255 of them.
        dtype = np.dtype(np.uint8)

    def read() -> np.ndarray:
        array = turn_upright(decode(), orientation).astype(stored, copy=False)
        values = array if palette is None else palette[array[..., 0]]
        if nodata is not None:
            with np.errstate(all="ignore"):  # The number may overflow in the dtype of the array.
                values = np.where(array == nodata, np.nan, values.astype(with_nan))
        return open_array(values, settings).read()

    with_nan = np.promote_types(dtype, np.float32)  # It holds these numbers exactly, and NaN.
    return OpenedImage(
        shape=(*((w, h) if orientation in TURNED else (h, w)), MODES.get(settings.mode or "", c)),
        dtype=dtype if nodata is None else with_nan,
        read=read,
    )


def turn_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (h, w, c) as its EXIF orientation says."""
    if orientation in TURNED:
        array = array.swapaxes(0, 1)
    down = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    right = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return array[down, right]


def not_as_stored(what: str, mode: str) -> UnsuitableImageError:
    """Return the error for an image that does not fit the 8 bits and the colors of a mode."""
    return UnsuitableImageError(
        f"it has {what}, which mode={mode!r} would change; set mode=None to read it as stored"
    )


def no_such_page(page: int, n_pages: int) -> UnsuitableImageError:
    """Return the error for a page that a file does not have."""
    pages = "1 page, page=0" if n_pages == 1 else f"{n_pages} pages, page=0 to {n_pages - 1}"
    return UnsuitableImageError(f"it does not have page={page}; it has {pages}")
