"""`read_images` and `ImageFiles`: image files that behave like an array of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from sklearn_conv._engine.threads import count_threads, run_tasks
from sklearn_conv._lazy import LazyImages
from sklearn_conv._parameters import check_n_jobs
from sklearn_conv._reading.formats import (
    MODES,
    Described,
    Settings,
    check_settings,
    describe_image,
    is_of_signal,
    read_image,
)
from sklearn_conv._reading.sources import Source, find_identical, find_images, list_some
from sklearn_conv._validation import check_name
from sklearn_conv._warnings import warn

SMALL_BYTES, FAST_SECONDS = 2**14, 300e-6
"""Images that are at most so large and decoded so fast are decoded in a single thread.

Most of their time is spent in Python, where threads run in turns and wait for each other: two
threads took twice as long as one for PNG files of 32 x 32 pixels.
"""


class ImageFiles(LazyImages):
    """Images in files, which are decoded when they are needed.

    `read_images` and `ImageReader` return this class. It behaves like an array of shape
    ``(n, h, w, c)``: every function that reads an array in slices accepts it, such as the methods
    of `StridedConv2DTransformer`, the searches and splits of scikit-learn, and
    `dask.array.from_array`.

    ``files[i]`` decodes one image. ``files[rows]``, where ``rows`` is a slice, an array of integers
    or a mask, selects images with their paths and labels, and decodes nothing. An index that
    selects pixels as well, and ``numpy.asarray(files)``, decode the selected images, in ``n_jobs``
    threads. Nothing is kept: an image that is needed again is decoded again.

    Attributes
    ----------
    shape : tuple of int
        ``(n, h, w, c)``, or ``(n,)`` for images that keep their sizes, with ``size="any"``.
    dtype : numpy.dtype
        Dtype of the decoded pixels.
    ndim : int
        Number of axes, 4, or 1 with ``size="any"``.
    paths : ndarray of str or None
        Path of each file. None if the images are in memory.
    labels : ndarray of str or None
        Name of the class folder of each file. None unless the source is a folder that contains one
        folder for each class.
    skipped : list of (str, str)
        Path of each file that ``on_error="skip"`` left out of the whole source, and the reason. A
        selection of images has the same list.
    identical : list of tuple of str
        Paths of files with the same content, of the whole source; those in several class folders
        come first. Empty unless `read_images` found the files.
    image_shapes : ndarray of shape (n, 3)
        Shape ``(h, w, c)`` of each image. Defined only with ``size="any"``.

    See Also
    --------
    read_images : Find and read images.
    ImageReader : A step of a pipeline that does the same.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_conv import read_images
    >>> pixels = np.random.default_rng(0).integers(256, size=(10, 32, 48, 3), dtype=np.uint8)
    >>> images = read_images(list(pixels), size=(16, 16))
    >>> images[2:6]
    <ImageFiles: 4 images of shape (16, 16, 3) and dtype uint8>
    >>> images[0].shape
    (16, 16, 3)
    >>> np.asarray(images).shape
    (10, 16, 16, 3)
    """

    def __init__(
        self,
        source: Source,
        described: Sequence[Described],
        settings: Settings,
        n_jobs: int | None,
        skipped: list[tuple[str, str]],
        identical: Sequence[tuple[str, ...]] = (),
    ) -> None:
        shape, dtype = described[0]
        super().__init__(len(source.items), shape, dtype)
        self.skipped = skipped
        self.identical = [*identical]
        self._source = source
        self._settings = settings
        self._n_jobs = n_jobs
        self._shapes = None
        if settings.is_any:
            self.ndim = 1
            self._shapes = np.array([shape for shape, _ in described])

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """``(n, h, w, c)``, or ``(n,)`` for images that keep their sizes."""
        return (len(self),) if self._shapes is not None else super().shape

    @property
    def image_shapes(self) -> np.ndarray:
        """Shape of each image, (n, 3); only for images that keep their sizes."""
        if self._shapes is None:
            raise AttributeError("image_shapes is defined only with size='any'.")
        return self._shapes[self._indices]

    @property
    def paths(self) -> np.ndarray | None:
        """Path of each file, or None if the images are in memory."""
        return self._source.items[self._indices] if self._source.has_paths else None

    @property
    def labels(self) -> np.ndarray | None:
        """Name of the class folder of each file, or None."""
        labels = self._source.labels
        return None if labels is None else labels[self._indices]

    def __repr__(self) -> str:
        shape = "unequal shapes" if self._shapes is not None else f"shape {self._image_shape}"
        number = "1 image" if len(self) == 1 else f"{len(self)} images"
        parts = [f"{number} of {shape} and dtype {self.dtype}"]
        if self.labels is not None:
            classes = np.unique(self.labels).tolist()
            noun = "class" if len(classes) == 1 else "classes"
            parts.append(f"{len(classes)} {noun}: {list_some(map(repr, classes))}")
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        return f"<ImageFiles: {'; '.join(parts)}>"

    def _read(self, rows: np.ndarray) -> np.ndarray:
        """Decode images, (b, h, w, c); images of unequal shapes to an array of objects, (b,)."""
        out = np.empty(len(rows), object)
        if self._shapes is None:
            out = np.empty((len(rows), *self._image_shape), self.dtype)

        def read(k: int) -> None:
            row = rows[k]
            item, name = self._source.at(row)
            image = read_image(item, name, self._settings)
            shape = self._image_shape if self._shapes is None else tuple(self._shapes[row].tolist())
            if image.shape != shape or image.dtype != self.dtype:
                remedy = "Its header says something else, or it has changed; set size, or read the "
                remedy += "images again."
                if self._settings.mode is None:
                    remedy = "With mode=None, channels and dtype of all images must agree. "
                    remedy += self._settings.channels_remedy
                raise ValueError(
                    f"{name} has shape {image.shape} and dtype {image.dtype}, but shape {shape} "
                    f"and dtype {self.dtype} are expected. {remedy}"
                )
            out[k] = image

        workers, first = count_threads(self._n_jobs), 0
        if workers > 1 and len(rows) > 1 and out.nbytes <= SMALL_BYTES * len(rows):
            start, first = perf_counter(), 1
            read(0)
            if perf_counter() - start < FAST_SECONDS:
                workers = 1
        run_tasks(read, [(k,) for k in range(first, len(rows))], workers)
        return out


def read_images(
    source: Any,
    size: tuple[int, int] | str | None = None,
    *,
    mode: str | None = "RGB",
    resize: str = "crop",
    page: int = 0,
    load_func: Callable[[str], Any] | None = None,
    on_error: str = "raise",
    n_jobs: int | None = None,
) -> ImageFiles:
    """Find image files, and return them as images that are decoded when they are needed.

    Parameters
    ----------
    source : str, path-like or sequence
        - A folder that contains one folder for each class: the names of these folders are the
          labels. Images in folders inside them belong to the same class.
        - A folder that contains images itself; there are no labels.
        - A pattern with ``*``, ``?``, ``[...]`` or ``**``, as in `glob.glob`.
        - A list, an array, or a column of paths: a Series, or a DataFrame with a single column, of
          pandas or polars. Their order is kept.
        - A list of images in memory: arrays (h, w) or (h, w, c), images of Pillow, or the contents
          of files, as bytes or as files that were opened in binary mode.

        In folders, images are files with the usual suffixes, such as ".png", ".jpg" and ".tif".
        Other files, and hidden files and folders, are left out. Symbolic links are followed, but
        to each folder only once for each class. Files are in natural order: "tile2.png" comes
        before "tile10.png". The content of a file determines how it is decoded, whatever its
        suffix.
    size : (height, width), "any" or None, default=None
        Size to which images are scaled, in pixels. If None, all images must have the same size.
        With "any", images keep their sizes. To find the sizes, None and "any" read the beginning of
        each file.
    mode : {"RGB", "L", "RGBA"} or None, default="RGB"
        Channels of the images:

        - "RGB": 3 channels of 8 bits. Gray images are repeated, palettes are resolved, and
          transparent images are composited onto white. The largest value of a PGM or PPM file
          is white.
        - "L": 1 channel of 8 bits, the brightness; transparent images are composited onto white.
        - "RGBA": 4 channels of 8 bits; the last one is the opacity, 255 if there is none.
        - None: all channels in the dtype of the file, for images of 16 bits, floats and many bands.
          All files must agree in channels and dtype. Only palettes and transparent colors are
          resolved, images of 1 bit become 0 and 255, and gray levels of 2 and 4 bits in PNG and
          TIFF files are multiplied by 85 and 17. If a TIFF file declares a number for missing
          pixels (nodata), pixels are floats, with NaN where they are missing: float32, or
          float64 for integers of more than 16 bits.

        Files of more than 8 bits, floats, and bands that are not colors raise an error unless the
        mode is None.
    resize : {"crop", "pad", "stretch"}, default="crop"
        How images of other proportions come to ``size``. With "crop", the image is scaled until it
        covers the size, and its middle is cut out. With "pad", it is scaled until it fits inside,
        and 0 is added around it. With "stretch", its proportions change.
    page : int, default=0
        Which page of files with several pages is read, such as TIFF stacks and animations, counted
        from 0. Images in memory that are decoded already have a single page.
    load_func : callable, default=None
        Function that reads a file instead of this package: it is called with a path, and returns an
        array (h, w) or (h, w, c) of real numbers. This requires ``mode=None`` and ``page=0``. All
        arrays must have the same number of channels and the same dtype; ``size`` and ``resize``
        apply. Folders may then contain files with any suffixes. Without ``size``, or with
        ``size="any"``, each file is loaded once at the start to find its shape. With ``n_jobs``,
        several threads call the function.
    on_error : {"raise", "skip"}, default="raise"
        What happens to files that cannot be read. With "raise", an error names the file when it is
        read. With "skip", all files are decoded once at the start; those that cannot be read are
        left out, and listed with the reason in the attribute ``skipped``.
    n_jobs : int, default=None
        Number of threads that decode images. None means 1 unless in a `joblib.parallel_config`
        context; -1 means all cores.

    Returns
    -------
    files : ImageFiles
        The images, in the order in which they were found.

    Warns
    -----
    UserWarning
        If a class folder contains no images, if all images of a class are skipped, or if files
        are identical.

    Raises
    ------
    FileNotFoundError
        If the folder or the file does not exist, or if no images are found.
    ImportError
        If Pillow, tifffile or rasterio is needed and not installed.
    OSError
        If a file is damaged, is not an image, or has more pixels than Pillow's limit: at the start,
        or when it is decoded.
    TypeError, ValueError
        If the source contains missing values, if sizes, channels or dtypes of the images do not
        agree, or if an image does not suit ``mode`` or ``page``.

    See Also
    --------
    ImageReader : The same as a step of a pipeline, to search over the size of the images.
    StridedConv2DTransformer : Turn the images into features.

    Notes
    -----
    Pillow reads the usual formats, and its limit of pixels against decompression bombs holds for
    all files. tifffile reads TIFF files that Pillow does not decode exactly: colors of 16 bits,
    other floats than float32, and many bands. With ``mode=None``, and if rasterio is installed,
    rasterio reads GeoTIFF files and colors of 16 bits in other formats. Images are turned as their
    EXIF orientation says.

    Images that are at least twice as large as the size are first reduced by an integer factor, to
    means of blocks of pixels; JPEG files are reduced while they are decoded. Pillow's bilinear
    filter does the rest, and averages over all pixels of a larger image (antialiasing). Floats, and
    integers of 16 bits, are scaled in float32, and integers are rounded. A scaled pixel is NaN if
    any of the pixels that it averages is NaN.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn_conv import read_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, level in [("dark", 40), ("light", 200)]:
    ...         (Path(folder) / name).mkdir()
    ...         Image.new("L", (60, 40), level).save(Path(folder) / name / "1.png")
    ...     files = read_images(folder, size=(32, 32))
    ...     images = np.asarray(files)
    >>> files
    <ImageFiles: 2 images of shape (32, 32, 3) and dtype uint8; 2 classes: 'dark', 'light'>
    >>> images.mean(axis=(1, 2, 3)).tolist(), files.labels.tolist()
    ([40.0, 200.0], ['dark', 'light'])
    """
    owner = "read_images"
    settings = check_settings(owner, size, mode, resize, page, load_func)
    check_name(owner, "on_error", on_error, ("raise", "skip"))
    check_n_jobs(owner, n_jobs)
    found = find_images(source, load_func is not None)
    if on_error == "raise":
        described = describe_images(found, settings, n_jobs)
        return ImageFiles(found, described, settings, n_jobs, [], _warn_of_identical(found, n_jobs))

    def decode(i: int) -> tuple[Any, Any]:
        """Return shape and dtype, or the name of an image that cannot be read and the reason."""
        item, name = found.at(i)
        try:
            image = read_image(item, name, settings)
        except (MemoryError, OSError, ValueError) as error:
            if is_of_signal(error):
                raise
            reason = str(error).removeprefix(f"{name} cannot be read: ")
            reason = getattr(error, "strerror", None) or reason
            return item if found.has_paths else name, reason
        return image.shape, image.dtype

    results = run_tasks(decode, [(i,) for i in range(len(found.items))], count_threads(n_jobs))
    skipped = [result for result in results if isinstance(result[1], str)]
    kept = [i for i, result in enumerate(results) if not isinstance(result[1], str)]
    if not kept:
        raise OSError(
            f"None of the {len(results)} images can be read. The reason for the first one, "
            f"{skipped[0][0]!r}, is: {skipped[0][1]}"
        )
    labels = found.labels
    if labels is not None:
        classes, labels = np.unique(labels), labels[kept]
        lost = np.setdiff1d(classes, labels).tolist()
        if lost:
            warn(
                f"All images of {len(lost)} of {len(classes)} classes are skipped: "
                f"{list_some(map(repr, lost))}. The attribute skipped has the reasons."
            )
    described = [results[i] for i in kept]
    found = Source(found.items[kept], labels)
    _check_agreement(found, described, settings)
    identical = _warn_of_identical(found, n_jobs)
    return ImageFiles(found, described, settings, n_jobs, skipped, identical)


def _warn_of_identical(source: Source, n_jobs: int | None) -> list[tuple[str, ...]]:
    """Warn of files with the same content, and return their paths."""
    groups = find_identical(source, count_threads(n_jobs))
    if groups:
        n_more = sum(map(len, groups)) - len(groups)
        pairs = [" = ".join(map(repr, group[:2])) for group in groups]
        warn(
            f"Files are identical: {n_more} of {len(source.items)} images repeat another one: "
            f"{list_some(pairs, 3)}. The same image may be in a training and in a test fold, or "
            "have two labels. Keep one of each, for example with files[~numpy.isin(files.paths, "
            "[path for same in files.identical for path in same[1:]])]."
        )
    return groups


def describe_images(source: Source, settings: Settings, n_jobs: int | None) -> Sequence[Described]:
    """Return shape and dtype of the images; of the first one, if all are read to the same shape.

    Files are opened only if their shapes or channels are not known from the settings.
    """
    if settings.size is not None and settings.mode is not None:
        return [((*settings.size, MODES[settings.mode]), np.dtype(np.uint8))]
    if settings.size is not None:
        return [describe_image(*source.at(0), settings)]
    tasks = [(*source.at(i), settings) for i in range(len(source.items))]
    described = run_tasks(describe_image, tasks, count_threads(n_jobs))
    _check_agreement(source, described, settings)
    return described


def count_stored_sizes(files: ImageFiles) -> Counter[tuple[int, ...]]:
    """Return how many files have each height and width, before they are scaled."""
    settings = files._settings._replace(size=None, is_any=True)
    described = describe_images(files._source, settings, files._n_jobs)
    return Counter(shape[:2] for shape, _ in described)


def _check_agreement(source: Source, described: Sequence[Described], settings: Settings) -> None:
    """Raise ValueError for images whose sizes, channels or dtypes do not agree."""
    channels = [f"{shape[2]} channels of {dtype}" for shape, dtype in described]
    sizes = [None if settings.is_any else shape[:2] for shape, _ in described]
    size_remedy = "Set size=(height, width) to scale all images, or size='any' to keep their sizes."
    for what, values, remedy in (
        ("channels and dtype", channels, settings.channels_remedy),
        ("height and width", sizes, size_remedy),
    ):
        counts = Counter[Any](values)
        usual, n_usual = counts.most_common(1)[0]
        if n_usual < len(values):
            odd = [f"{source.at(i)[1]}: {v}" for i, v in enumerate(values) if v != usual]
            raise ValueError(
                f"The images do not agree in {what}: {n_usual} of {len(values)} have {usual}, the "
                f"others not: {list_some(odd)}. {remedy}"
            )
