"""`save_batches`: write features that do not fit into memory to a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from sklearn_conv._array_api import from_library
from sklearn_conv._memory_maps import check_memory_map
from sklearn_conv._saving.files import NewFile, replace_file


def save_batches(
    path: str | os.PathLike[str],
    batches: Iterable[tuple[slice, np.ndarray]],
    *,
    estimator: Any = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> np.memmap | Any:
    """Write batches of rows to a .npy or Parquet file atomically.

    Parameters
    ----------
    path : str or path-like
        Path of the file. Its suffix is ".parquet" for a table with named columns, which requires
        pyarrow, and ".npy", or no suffix, for an array; none is added. The path is checked before
        the first batch is computed: its folder must exist and be writable, and it must not be a
        folder, a symbolic link or a file that may not be overwritten. Rows are written to a new
        file with a random name that ends in ".part", in the same folder. At the end it is renamed
        to ``path``, which replaces an existing file and keeps its permissions. A process that is
        killed leaves its ".part" file, which is removed when ``path`` is written again.
    batches : iterable of (slice, ndarray)
        Batches as yielded by `transform_batches`: the first slice begins at 0, each other slice
        begins where the previous one ended, and the arrays contain numbers and differ only in their
        number of rows. For Parquet, arrays have shape ``(rows, features)``.
    estimator : estimator, default=None
        Only for Parquet: the fitted transformer, pipeline or union that computed the batches. The
        features are named as by its ``get_feature_names_out``, and its parameters are stored in the
        file. If None, the names are "feature0", "feature1" and so on.
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
        If ``estimator`` is not fitted.
    OSError
        If the file cannot be written. After any error, including an error raised by ``batches``, no
        temporary file is left behind.
    TypeError, ValueError
        If ``path``, ``batches`` or ``columns`` are not as described, or if there are no rows. For
        Parquet, also if a name is repeated, if there are more than 32,768 features, or if
        ``estimator`` computes another number. For .npy, if ``estimator`` or ``columns`` are passed.

    See Also
    --------
    transform_batches : Compute the batches.

    Notes
    -----
    A Parquet file is written in row groups of about 64 MB of features, but at least 4,096 rows; a
    row group is held in memory until it is written. Features keep their dtype, and are compressed
    with zstd. The key "sklearn_conv" of the metadata of the file is a string in JSON with the
    version of this package, and the class and the parameters of ``estimator``; what JSON cannot
    hold is stored as its ``repr``. For each `StridedConv2DTransformer` in it, "kernels_sha256" is
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
    name = os.fsdecode(path)
    suffix = Path(name).suffix.lower()
    write = _write_npy
    if suffix not in ("", ".npy", ".parquet"):
        others = [str(Path(name).with_suffix(suffix)) for suffix in (".npy", ".parquet")]
        raise ValueError(
            f"save_batches writes the formats .npy and .parquet, but path={name!r} ends in "
            f"{Path(name).suffix!r}; use {' or '.join(map(repr, others))}. To write another "
            "format, pass the batches to a library that supports it."
        )
    if suffix == ".parquet":
        try:
            from sklearn_conv._saving.parquet import Table
        except ImportError as error:
            raise ImportError(
                "Writing Parquet files requires pyarrow, which is not installed; run "
                'pip install "sklearn_conv[parquet]".'
            ) from error
        write = Table(estimator, columns).write
    elif estimator is not None or columns is not None:
        raise ValueError(
            f"A .npy file has no names and no further columns, but path={name!r} was passed with "
            "'estimator' or 'columns'; use a path that ends in .parquet."
        )
    with replace_file(name) as file:
        write(file, _check_batches(batches, file))
    return file.target if suffix == ".parquet" else _map_rows(file.target)


def _check_batches(batches: Any, file: NewFile) -> Iterator[np.ndarray]:
    """Yield the arrays of batches after checking them, and note in ``file`` what was written."""
    n, shape, dtype = 0, None, None
    for item in batches:
        rows, batch = _check_pair(item)
        if (rows.start, rows.stop) != (n, n + len(batch)) or rows.step not in (None, 1):
            raise ValueError(
                f"Batches must follow each other: {n} rows were written, but the next batch has "
                f"{len(batch)} rows and the slice {rows}."
            )
        if shape is None:
            shape, dtype = batch.shape[1:], batch.dtype
        if (batch.shape[1:], batch.dtype) != (shape, dtype):
            raise ValueError(
                "Batches must have the same dtype and shape, except for their number of rows: the "
                f"first one is {dtype} of shape (rows, {str(shape)[1:]}, but a later one is "
                f"{batch.dtype} of shape {batch.shape}."
            )
        file.progress = f" after {n} rows, which have been removed"
        yield batch
        n += len(batch)
    if not n:
        raise ValueError("There are no batches to save.")


def _check_pair(item: Any) -> tuple[slice, np.ndarray]:
    """Return the rows and the array of a batch."""
    if not (isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], slice)):
        raise TypeError(
            "batches must yield pairs of a slice and an array, as transform_batches does. Got "
            f"{type(item).__name__} instead; save a single array with numpy.save."
        )
    rows, batch = item[0], from_library(item[1])
    kind = f"dtype {batch.dtype}" if isinstance(batch, np.ndarray) else type(batch).__name__
    if not isinstance(batch, np.ndarray) or batch.dtype.kind not in "biufc":
        raise TypeError(
            f"Batches must be NumPy arrays of numbers. Got {kind} for {rows}; convert it with "
            "numpy.asarray."
        )
    if batch.size == 0 or batch.ndim == 0:
        raise ValueError(
            f"Each batch must have rows and features. Got shape {batch.shape} for {rows}."
        )
    if np.ma.is_masked(batch):
        raise ValueError(f"The batch of {rows} has masked values; fill them first.")
    check_memory_map(batch)
    return rows, batch


def _write_npy(file: NewFile, batches: Iterator[np.ndarray]) -> None:
    n = 0
    for batch in batches:
        if not n:  # Zeros take the place of the header, so a partial file cannot be loaded.
            file.write(bytes(len(_npy_header(batch, 0))))
        file.write(np.ascontiguousarray(batch).reshape(-1).view(np.uint8).data)
        n += len(batch)
    file.seek(0)
    file.write(_npy_header(batch, n))


def _npy_header(batch: np.ndarray, n: int) -> bytes:
    """Return the header of a .npy file with n rows; its length does not depend on n."""
    header = BytesIO()
    fields = {"shape": (n, *batch.shape[1:]), "fortran_order": False}
    npy.write_array_header_1_0(header, fields | {"descr": npy.dtype_to_descr(batch.dtype)})
    return header.getvalue()


def _map_rows(path: Path) -> np.memmap:
    """Map a file as `numpy.load` does, but open it only once: it may be replaced meanwhile."""
    with open(path, "rb") as file:
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        return np.memmap(file, dtype, "r", file.tell(), shape)
