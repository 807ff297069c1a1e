"""`save_batches`: write features that do not fit into memory to a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from sklearn_conv._array_api import from_library
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._saving.files import NewFile, check_path, replace_file, state_rows
from sklearn_conv._saving.npy import NpyWriter, map_rows


class Writer(Protocol):
    """Writer of a format: `NpyWriter` or `ParquetWriter`."""

    def write(self, batch: np.ndarray) -> None:
        """Write a batch of rows."""

    def finish(self, n: int) -> None:
        """Complete the file, which has n rows."""

    def abort(self) -> None:
        """Stop after an error; the file is removed."""


def save_batches(
    path: str | os.PathLike[str],
    batches: Iterable[tuple[slice, np.ndarray]],
    *,
    steps: Any = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> np.memmap | Any:
    """Write batches of rows to a .npy or Parquet file atomically.

    Parameters
    ----------
    path : str or path-like
        Path of the file. Its suffix is ".parquet" for a table with named columns, which requires
        pyarrow, and ".npy", or no suffix, for an array; none is added. The path is checked before
        the first batch is computed: its folder must exist and be writable, and it must not be a
        folder, a symbolic link or a file that may not be overwritten. Rows are first written to a
        new file with a random name that ends in ".part", in the same folder. At the end this file
        is renamed to ``path``, which replaces an existing file and keeps its permissions. If
        several threads or processes write to the same path, each writes its own temporary file, and
        the file of the last one remains.
    batches : iterable of (slice, ndarray)
        Batches as yielded by `StridedConv2DTransformer.transform_batches`: the first slice begins
        at 0, each other slice begins where the previous one ended, and the arrays contain numbers
        and differ only in their number of rows. For Parquet, arrays have shape
        ``(rows, features)``.
    steps : estimator, default=None
        Only for Parquet: the fitted steps that computed the batches, such as a
        `StridedConv2DTransformer` or ``pipeline[:-1]``. The features are named as by its
        ``get_feature_names_out``, and its parameters are stored in the file. If None, the names are
        "feature0", "feature1" and so on.
    columns : mapping of str to sequence, default=None
        Only for Parquet: further columns, such as paths, labels or positions, which come before the
        features. Each is a sequence with one string, number or date for each row. None and NaN are
        missing values.

    Returns
    -------
    features : numpy.memmap or pathlib.Path
        For .npy, a read-only memory map of all rows, as returned by
        ``numpy.load(path, mmap_mode="r")``. For Parquet, the absolute path of the file.

    Raises
    ------
    ImportError
        If pyarrow is not installed, and ``path`` ends in ".parquet".
    NotFittedError
        If ``steps`` are not fitted.
    OSError
        If the file cannot be written, for example because the folder does not exist, because
        ``path`` is a folder or a symbolic link, or because the disk is full. After any error,
        including an error raised by ``batches``, no temporary file is left behind.
    TypeError
        If ``batches`` does not yield pairs of a slice and an array of numbers, or if ``columns`` is
        not a mapping to sequences of strings, numbers or dates.
    ValueError
        If ``path`` has another suffix, if batches are not consecutive, if they differ in dtype or
        in the shape of their rows, if a batch is empty, or if there are no batches. For Parquet,
        also if the lengths of ``columns`` are not the number of rows, if a name is repeated, if
        there are more than 32,768 features, or if ``steps`` compute another number of features. For
        .npy, if ``steps`` or ``columns`` are passed.

    See Also
    --------
    StridedConv2DTransformer.transform_batches : Compute the batches.
    transform_batches : Compute the batches of several steps.

    Notes
    -----
    A Parquet file is written in row groups of about 64 MB of features, but at least 4,096 rows; a
    row group is held in memory until it is written. Features keep their dtype, and are compressed
    with zstd. The key "sklearn_conv" of the metadata of the file is a string in JSON with the
    version of this package, and the class and the parameters of ``steps``; what JSON cannot hold is
    stored as its ``repr``. For each `StridedConv2DTransformer` in ``steps``, "kernels_sha256" is
    ``hashlib.sha256(transformer.kernels_.tobytes()).hexdigest()``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_conv import StridedConv2DTransformer, save_batches
    >>> images = load_digits().images
    >>> transformer = StridedConv2DTransformer(random_state=0).fit(images)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "features.npy"
    ...     features = save_batches(path, transformer.transform_batches(images))
    ...     print(features.shape, features.dtype, bool((features[-1] > 0).any()))
    ...     del features
    (1797, 256) float64 True
    """
    target, mode = check_path(path)
    is_table = target.suffix.lower() == ".parquet"
    make_writer: Callable[[NewFile, np.ndarray], Writer] = NpyWriter
    if is_table:
        make_writer = _prepare_table(steps, columns)
    elif steps is not None or columns is not None:
        raise ValueError(
            f"A .npy file has no names and no further columns, but path={os.fsdecode(path)!r} was "
            "passed with 'steps' or 'columns'; use a path that ends in .parquet."
        )
    n, first = 0, None
    writer: Writer | None = None
    with replace_file(target, mode) as file:
        try:
            for rows, batch in map(_check_pair, batches):
                if first is None:
                    first = np.empty((0, *batch.shape[1:]), batch.dtype)
                if (rows.start, rows.stop) != (n, n + len(batch)) or rows.step not in (None, 1):
                    raise ValueError(
                        f"Batches must follow each other: {n} rows were written, but the next "
                        f"batch has {len(batch)} rows and the slice {rows}."
                    )
                if (batch.shape[1:], batch.dtype) != (first.shape[1:], first.dtype):
                    raise ValueError(
                        f"Batches must have the same dtype and shape, except for their number of "
                        f"rows: the first one is {first.dtype} of shape (rows, "
                        f"{str(first.shape[1:])[1:]}, but a later one is {batch.dtype} of shape "
                        f"{batch.shape}."
                    )
                with state_rows(n, target):
                    if writer is None:
                        writer = make_writer(file, first)
                    writer.write(batch)
                n += len(batch)
            if writer is None:
                raise ValueError("There are no batches to save.")
            with state_rows(n, target):
                writer.finish(n)
                os.fsync(file.fileno())
        except BaseException:
            if writer is not None:
                writer.abort()
            raise
    return target if is_table else map_rows(target)


def _prepare_table(steps: Any, columns: Any) -> Callable[[NewFile, np.ndarray], Writer]:
    """Check what is known of a table before the features, and return a function for its writer."""
    try:
        from sklearn_conv._saving.parquet import ParquetWriter, Table
    except ImportError as error:
        raise ImportError(
            "Writing Parquet files requires pyarrow, which is not installed; run "
            'pip install "sklearn_conv[parquet]".'
        ) from error
    return partial(ParquetWriter, table=Table(steps, columns))


def _check_pair(item: Any) -> tuple[slice, np.ndarray]:
    """Return the rows and the array of a batch after checking them."""
    if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], slice)):
        raise TypeError(
            "batches must yield pairs of a slice and an array, as transform_batches does. Got "
            f"{type(item).__name__} instead; save a single array with numpy.save."
        )
    rows, batch = item[0], from_library(item[1])
    if not isinstance(batch, np.ndarray):
        raise TypeError(
            f"Batches must be NumPy arrays. Got {type(batch).__name__} instead for {rows}; convert "
            "it with numpy.asarray."
        )
    if batch.dtype.kind not in "biufc":
        raise TypeError(
            f"Batches must contain numbers. Got dtype {batch.dtype} for {rows}; convert "
            "them to numbers."
        )
    if batch.size == 0 or batch.ndim == 0:
        raise ValueError(
            f"Each batch must have rows and features. Got shape {batch.shape} for {rows}."
        )
    if np.ma.is_masked(batch):
        raise ValueError(f"The batch of {rows} has masked values; fill them first.")
    check_memory_map(batch)
    return rows, batch
