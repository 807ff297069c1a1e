"""Images that are not in memory: which images are read and how often, and error messages."""

import os
import tracemalloc

import numpy as np
import pytest
from helpers import LEARNED
from hypothesis import given
from hypothesis import strategies as st

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._images import kinds
from sklearn_conv.kernels import _patches
from sklearn_conv.kernels._initializers import KERNELS

RNG = np.random.default_rng(0)
IMAGES = RNG.random((60, 12, 10, 2), np.float32)


class Stored:
    """Array with the interface of zarr and h5py that counts how often each image is read."""

    def __init__(self, array, chunks=None):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.chunks = chunks
        self.n_reads = np.zeros(len(array), int)
        self.slices = []

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        assert type(rows.start) is type(rows.stop) is int
        self.n_reads[rows] += 1
        self.slices.append(rows)
        return self._array[rows]


@pytest.fixture
def batches_of_7(monkeypatch):
    monkeypatch.setattr(kinds, "BATCH_BYTES", 7 * IMAGES[0].nbytes)


@pytest.fixture
def transformer():
    return StridedConv2DTransformer(6, random_state=0, **LEARNED)


@pytest.mark.parametrize("shape", [(12, 10, 2), (12, 20), (240,)], ids=["4-D", "3-D", "rows"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", ">i2", "bool", "longdouble"])
def test_stored_images_are_read_once_and_give_the_same(shape, dtype, monkeypatch):
    array = (100 * IMAGES).reshape(60, *shape).astype(dtype)
    monkeypatch.setattr(kinds, "BATCH_BYTES", 7 * array[0].nbytes)
    options = LEARNED | {"image_shape": (12, 10, 2) if len(shape) == 1 else None}
    transformer = StridedConv2DTransformer(6, random_state=0, **options)
    expected = transformer.fit_transform(array)
    kernels, bias = transformer.kernels_, transformer.bias_
    stored = Stored(array)
    transformer.fit(stored)
    assert stored.n_reads.max() == 1
    np.testing.assert_array_equal(transformer.kernels_, kernels)
    np.testing.assert_array_equal(transformer.bias_, bias)
    stored = Stored(array)
    np.testing.assert_allclose(transformer.transform(stored), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(stored.n_reads, 1)
    assert len(stored.slices) > 4


@pytest.mark.parametrize("kernels", sorted(KERNELS))
def test_kernels_of_stored_images_are_those_of_images_in_memory(kernels, batches_of_7):
    transformer = StridedConv2DTransformer(4, 4, kernels=kernels, random_state=0, n_patches=300)
    in_memory = transformer.fit(IMAGES).kernels_
    np.testing.assert_array_equal(transformer.fit(Stored(IMAGES)).kernels_, in_memory)


class Folder:
    """Images that are neither an array nor a list."""

    def __init__(self, images):
        self.images = images


class FolderImages(kinds.ArrayImages):
    @staticmethod
    def accepts(X, request):
        return isinstance(X, Folder)

    @staticmethod
    def convert(X, request):
        return X.images


def test_another_kind_is_a_class_and_a_line(monkeypatch, transformer):
    expected = transformer.fit_transform(IMAGES)
    with pytest.raises(TypeError, match="not an array"):
        transformer.fit(Folder(IMAGES))
    monkeypatch.setattr(kinds, "KINDS", [FolderImages, *kinds.KINDS])
    np.testing.assert_array_equal(transformer.fit_transform(Folder(IMAGES)), expected)
    with pytest.raises(ValueError, match=r"contains images of shape \(9, 10, 2\)"):
        transformer.transform(Folder(IMAGES[:, :9]))


def test_fit_reads_nothing_that_it_does_not_need():
    stored = Stored(IMAGES)
    StridedConv2DTransformer(random_state=0).fit(stored)
    assert not stored.n_reads.any()
    StridedConv2DTransformer(kernels="patches", n_patches=3, random_state=0).fit(stored)
    few = Stored(IMAGES[:, :1, :1])
    StridedConv2DTransformer(2, 1, kernels="patches", n_patches=1, random_state=0).fit(few)
    assert few.n_reads.sum() == 1


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((4, 12, 10, 2), 20),
        ((7, 3, 5, 1), 21),
        ((30, 12, 10, 2), 30),  # a chunk is a little larger than a batch
        ((60, 12, 10, 2), 23),  # a chunk is much larger than a batch
        (None, 23),
        (((30, 30), (12,), (10,), (2,)), 23),  # chunks in the form of Dask
    ],
)
def test_batches_are_whole_chunks(chunks, expected, monkeypatch, transformer):
    monkeypatch.setattr(kinds, "BATCH_BYTES", 23 * IMAGES[0].nbytes)
    stored = Stored(IMAGES, chunks)
    transformer.fit(IMAGES).transform(stored)
    assert stored.slices[0] == slice(0, expected)


@pytest.mark.parametrize("library", ["zarr", "h5py"])
def test_zarr_and_h5py(library, tmp_path, transformer, batches_of_7):
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    if library == "zarr":
        stored = module.open(
            str(tmp_path / "a.zarr"),
            mode="w",
            shape=IMAGES.shape,
            chunks=(4, 12, 10, 2),
            dtype="f4",
        )
    else:
        file = module.File(tmp_path / "a.h5", "w")
        stored = file.create_dataset("a", IMAGES.shape, "f4", chunks=(4, 12, 10, 2))
    stored[:] = IMAGES
    expected = transformer.fit_transform(IMAGES)
    np.testing.assert_allclose(transformer.fit_transform(stored), expected, rtol=1e-4, atol=1e-5)
    parts = [features for _, features in transformer.transform_batches(stored)]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("make", [Stored, "memmap"])
def test_nan_is_found_where_it_is_read(value, make, tmp_path, transformer, batches_of_7):
    bad = IMAGES.copy()
    bad[57, 3, 4, 1] = value
    if make == "memmap":
        stored = np.memmap(tmp_path / "bad", np.float32, "w+", shape=bad.shape)
        stored[:] = bad
    else:
        stored = make(bad)
    with pytest.raises(ValueError, match=r"(NaN|infinity).*nan_to_num"):
        transformer.fit(stored)
    with pytest.raises(ValueError, match=r"(NaN|infinity).*nan_to_num"):
        transformer.fit(IMAGES).transform(stored)
    parts = transformer.transform_batches(stored, 10)
    assert [next(parts)[0].stop for _ in range(5)] == [10, 20, 30, 40, 50]
    with pytest.raises(ValueError, match="nan_to_num"):
        next(parts)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros((3, 4), "M8[s]"), TypeError, "convert it to numbers"),
        (np.zeros((3, 4), object), TypeError, "dtype object; convert it to numbers"),
        (np.zeros((3, 4, 4), "c8"), ValueError, "X.real and"),
        (np.zeros(3), ValueError, "1 axis"),
        (np.zeros((1, 2, 3, 4, 5)), ValueError, "5 axes"),
        (np.zeros((0, 4, 4)), ValueError, "empty axis"),
        (np.zeros((2, 9, 9)), ValueError, r"\(9, 9, 1\), but .* fitted on .* \(12, 10, 2\)"),
        (np.zeros((2, 9)), ValueError, "9 features.* expecting 240 features"),
    ],
)
def test_stored_arrays_that_are_not_images(array, error, message, transformer):
    with pytest.raises(error, match=message):
        transformer.fit(IMAGES).transform(Stored(array))


class Cut(Stored):
    def __getitem__(self, rows):
        return super().__getitem__(rows)[:5]


class Other(Stored):
    def __getitem__(self, rows):
        return super().__getitem__(rows).astype("f8")


class Masked(Stored):
    def __getitem__(self, rows):
        return np.ma.masked_greater(super().__getitem__(rows), 0.99 if rows.stop > 20 else 2)


class Broken(Stored):
    def __getitem__(self, rows):
        if rows.stop > 20:
            raise OSError("checksum mismatch")
        return super().__getitem__(rows)


@pytest.mark.parametrize(
    ("stored", "error", "message"),
    [
        (Cut(IMAGES), ValueError, r"X\[0:7\] is an array of shape \(5, 12, 10, 2\).* complete"),
        (Other(IMAGES), ValueError, r"dtype float32, but X\[0:7\] is .* dtype float64"),
        (
            Masked(IMAGES),
            ValueError,
            r"X\[14:21\] has masked values; set missing='ignore' to leave them out, fill",
        ),
        (Broken(IMAGES), OSError, "checksum mismatch"),
    ],
)
def test_stored_arrays_whose_slices_are_wrong(stored, error, message, transformer, batches_of_7):
    transformer.fit(IMAGES)
    with pytest.raises(error, match=message) as caught:
        transformer.transform(stored)
    if error is OSError:
        assert caught.value.__notes__ == ["This error was raised while X[14:21] was read."]
    np.testing.assert_array_equal(transformer.transform(IMAGES), transformer.transform(IMAGES))


def write_map(path, array, offset=0):
    stored = np.memmap(path, array.dtype, "w+", offset=offset, shape=array.shape)
    stored[:] = array
    stored.flush()
    return np.memmap(path, array.dtype, "r", offset=offset, shape=array.shape)


def test_a_memory_map_is_looked_at_once_and_not_copied(tmp_path, monkeypatch, transformer):
    stored = write_map(tmp_path / "images", RNG.random((3000, 12, 10, 2), np.float32), 128)
    monkeypatch.setattr(kinds, "BATCH_BYTES", 10 * IMAGES[0].nbytes)
    seen = []
    monkeypatch.setattr(kinds, "check_finite", lambda values, *_, **__: seen.append(len(values)))
    monkeypatch.setattr(_patches, "find_not_finite", lambda _, X, *__: seen.append(len(X)))
    tracemalloc.start()
    transformer.set_params(n_patches=100).fit(stored)
    assert sum(seen) == 100  # only the sampled windows
    seen.clear()
    out = transformer.transform(stored)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(seen) == 3000
    assert peak - out.nbytes < stored.nbytes / 2
    monkeypatch.undo()
    expected = transformer.transform(np.array(stored))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 100, 5000])
@pytest.mark.parametrize("view", [lambda X: X, lambda X: X[10:, ::2], np.asarray])
def test_a_memory_map_whose_file_was_cut(tmp_path, offset, view, transformer):
    path = tmp_path / "images"
    stored = view(write_map(path, IMAGES, offset))
    features = transformer.fit(stored).transform(stored)
    os.truncate(path, path.stat().st_size - 1)
    for attempt in (transformer.transform, transformer.fit):
        with pytest.raises(
            OSError, match=r"images was truncated .* bytes, but the map needs .* Write the file"
        ):
            attempt(stored)
    again = view(write_map(path, IMAGES, offset))
    np.testing.assert_array_equal(transformer.transform(again), features)


def test_memory_error_suggests_transform_batches(transformer, monkeypatch):
    huge = np.broadcast_to(IMAGES[:1], (10**12, 12, 10, 2))
    transformer.fit(IMAGES)
    monkeypatch.setattr(kinds, "check_finite", lambda values, **_: False)
    with pytest.raises(MemoryError, match=r"Unable to allocate .* transform_batches\(X\)"):
        transformer.transform(huge)


@given(batch_size=st.integers(1, 70), n_jobs=st.sampled_from([None, 2]))
def test_batches_are_the_features(batch_size, n_jobs):
    transformer = StridedConv2DTransformer(6, random_state=0, n_jobs=n_jobs, **LEARNED).fit(IMAGES)
    expected = transformer.transform(IMAGES)
    out, end = np.empty_like(expected), 0
    for rows, features in transformer.transform_batches(IMAGES, batch_size):
        assert rows.start == end
        assert len(features) == rows.stop - rows.start == min(batch_size, 60 - end)
        out[rows], end = features, rows.stop
    assert end == 60
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"flatten": False}, {"pooling": None, "n_kernels": 2}])
def test_batches_of_other_shapes(options):
    transformer = StridedConv2DTransformer(random_state=0, **options).fit(IMAGES)
    parts = [features for _, features in transformer.transform_batches(IMAGES, 25)]
    expected = transformer.transform(IMAGES)
    assert parts[0].shape[1:] == expected.shape[1:]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-4, atol=1e-5)


def test_the_size_of_batches_is_chosen_by_images_and_features(monkeypatch):
    transformer = StridedConv2DTransformer(64, random_state=0).fit(IMAGES)
    row = IMAGES[0].nbytes + 256 * 4
    monkeypatch.setattr(kinds, "BATCH_BYTES", 9 * row)
    stored = Stored(IMAGES, (4, 12, 10, 2))
    assert next(transformer.transform_batches(IMAGES))[0] == slice(0, 9)
    assert next(transformer.transform_batches(stored))[0] == slice(0, 8)
    assert stored.n_reads.sum() == 8


@pytest.mark.parametrize(
    ("batch_size", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), ("3", TypeError)]
)
def test_bad_batch_size(batch_size, error, transformer):
    transformer.fit(IMAGES)
    with pytest.raises(error, match=r"'batch_size' .*transform_batches must be .* at least 1"):
        transformer.transform_batches(IMAGES, batch_size)


def test_errors_are_raised_before_the_first_batch(transformer):
    with pytest.raises(ValueError, match="not fitted yet"):
        transformer.transform_batches(IMAGES)
    transformer.fit(IMAGES)
    with pytest.raises(ValueError, match="9, 9"):
        transformer.transform_batches(IMAGES[:, :9, :9])


def test_stored_images_report_progress(capfd, transformer, batches_of_7):
    transformer.set_params(verbose=1).fit(IMAGES).transform(Stored(IMAGES))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("[StridedConv2DTransformer]: Done 60 out of 60 images | elapsed: ")
    transformer.set_params(verbose=10).transform(Stored(IMAGES))
    done = [line.split("Done ")[1].split()[0] for line in capfd.readouterr().err.splitlines()]
    assert {str(7 * i) for i in range(1, 9)} <= {*done}


def test_messages_about_channels_that_come_first():
    transformer = StridedConv2DTransformer(2).fit(np.ones((2, 6, 7, 3)))
    with pytest.raises(ValueError, match=r"channels of X come first: X.transpose\(0, 2, 3, 1\)"):
        transformer.transform(np.ones((2, 3, 6, 7)))
    valid = StridedConv2DTransformer(2, kernel_size=5, padding="valid")
    with pytest.raises(
        ValueError, match=r"channels come first, use images.transpose\(0, 2, 3, 1\)"
    ):
        valid.fit(np.ones((2, 3, 6, 7)))
