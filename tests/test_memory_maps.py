"""A truncated file in memory raises an error, however the array that refers to it was made."""

import mmap
import os
import sys

import numpy as np
import pytest
from helpers import run_python
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from sklearn_conv._memory_maps import check_memory_map

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="mapped files cannot be truncated")

ARRAY = np.random.default_rng(0).random((40, 12, 10, 2))
VIEWS = {
    "map": lambda stored: stored,
    "asarray": np.asarray,
    "ndarray": lambda stored: stored.view(np.ndarray),
    "slice of a view": lambda stored: np.asarray(stored)[3:, ::-1],
    "view of a slice": lambda stored: stored[-1:, 2].view(np.ndarray).T,
    "flat": lambda stored: np.asarray(stored).reshape(-1)[5:],
    "bytes": lambda stored: stored.view(np.uint8),
    "record": lambda stored: stored.view(np.recarray),
    "broadcast": lambda stored: np.broadcast_to(stored, (3, *stored.shape)),
    "strided": lambda stored: as_strided(np.asarray(stored)),
    "windows": lambda stored: sliding_window_view(np.asarray(stored), 3, axis=1),
    "buffer": lambda stored: np.asarray(memoryview(stored)),
    "bytes of a buffer": lambda stored: np.frombuffer(memoryview(stored).cast("B"), np.float64),
    "masked": np.ma.array,
    "list": list,
    "nested lists": lambda stored: [[image[0], image[1]] for image in stored],
    "objects": lambda stored: np.array([*stored, None], object)[:-1],
    "tuple with an array": lambda stored: (np.zeros(3), stored),
}


def write_map(path, offset=0, array=ARRAY, mode="r"):
    path.write_bytes(bytes(offset) + array.tobytes())
    return np.memmap(path, array.dtype, mode, offset=offset, shape=array.shape)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("offset", [0, 128, 5000])
@pytest.mark.parametrize("length", [0, 1000, 4096, 50_000, ARRAY.nbytes - 1])
def test_views_of_a_truncated_file(tmp_path, view, offset, length):
    path = tmp_path / "images"
    array = VIEWS[view](write_map(path, offset))
    check_memory_map(array)
    os.truncate(path, offset + length)
    size = path.stat().st_size
    with pytest.raises(OSError, match=f"images was truncated .* it has {size} bytes, but the map"):
        check_memory_map(array)


@pytest.mark.parametrize("length", [0, 5000, ARRAY.nbytes - 1])
def test_a_file_that_was_not_mapped_by_numpy(tmp_path, length):
    path = tmp_path / "images"
    write_map(path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = [np.frombuffer(mapped)[::-1], np.ndarray((40, 240), np.float64, mapped)]
    for array in arrays:
        check_memory_map(array)
    os.truncate(path, length)
    for array in arrays:
        with pytest.raises(OSError, match="The file was truncated"):
            check_memory_map(array)


@pytest.mark.parametrize(
    "value",
    [
        ARRAY,
        ARRAY[::-1, 2:],
        ARRAY.tolist(),
        np.frombuffer(bytes(80)),
        np.asarray(bytearray(8)),
        np.zeros((0, 3)),
        np.frombuffer(mmap.mmap(-1, 800)),
        as_strided(np.zeros(5), (3,), (8,)),
        [],
        [[]],
        [1.0, None],
        None,
        "text",
        np.float32(1),
    ],
)
def test_values_in_ordinary_memory(value):
    check_memory_map(value)


READERS = """
import os, sys, tempfile
import numpy as np
from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer, conv2d, save_batches

images = np.random.default_rng(0).random((400, 16, 16, 1))
rows, labels = images.reshape(400, -1), np.arange(400) % 2
kernels = np.random.default_rng(1).random((5, 5, 1, 400))
path, out = os.path.join(sys.argv[1], "images"), os.path.join(sys.argv[1], "features.npy")
fitted = StridedConv2DTransformer(4, random_state=0).fit(images)
ridge = StreamingRidgeClassifier().fit(rows, labels)

def store(array, view):
    array.tofile(path)
    return view(np.memmap(path, array.dtype, "r", shape=array.shape))

def with_mapped_kernels(X):
    model = StridedConv2DTransformer(400, 5).fit(images)
    model.kernels_ = X
    return model

READERS = {
    "transform": (images, fitted.transform),
    "transform_rows": (rows, fitted.transform),
    "transform_wide": (images.astype(np.longdouble), fitted.transform),
    "transform_batches": (images, lambda X: list(fitted.transform_batches(X, 30))),
    "fit": (images, StridedConv2DTransformer().fit),
    "fit_patches": (images, StridedConv2DTransformer(kernels="patches", whiten=True).fit),
    "fit_wide": (images.astype(np.longdouble), StridedConv2DTransformer(kernels="pca").fit),
    "kernels": (kernels, lambda X: StridedConv2DTransformer(kernels=X).fit(images)),
    "mapped model": (kernels, lambda X: with_mapped_kernels(X).transform(images)),
    "conv2d": (images, lambda X: conv2d(X, kernels[..., :2])),
    "conv2d kernels": (kernels, lambda X: conv2d(images, X)),
    "save_batches": (rows, lambda X: save_batches(out, [(slice(0, 400), X)])),
}
RIDGE = {
    "ridge fit": (rows, lambda X: StreamingRidgeClassifier().fit(X, labels)),
    "ridge fit with labels": (
        np.arange(200_000) % 2,
        lambda y: StreamingRidgeClassifier().fit(np.zeros((200_000, 1)), y),
    ),
    "ridge partial_fit": (rows, lambda X: ridge.partial_fit(X, labels)),
    "ridge predict": (rows, ridge.predict),
    "ridge decision_function": (rows, ridge.decision_function),
}
NO_LISTS = ("kernels", "save_batches", "mapped model")
VIEWS = {
    "map": lambda X: X,
    "asarray": np.asarray,
    "view": lambda X: X.view(np.ndarray)[:],
    "list": list,
}
for name, (array, read) in globals()[sys.argv[2]].items():
    for view in VIEWS:
        if view == "list" and (array.ndim == 1 or name in NO_LISTS):
            continue
        X = store(array, VIEWS[view])
        for length in (array.nbytes // 2, 0):
            os.truncate(path, length)
            sys.stdout.flush()
            child = os.fork()
            if not child:
                try:
                    read(X)
                    print("no error:", name, view, length)
                except OSError as error:
                    print("truncated" if "was truncated" in str(error) else error)
                except BaseException as error:
                    print(name, view, length, repr(error))
                sys.stdout.flush()
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if status:
                print(name, view, length, "ended with", status)
"""


@pytest.mark.parametrize("readers", ["READERS", "RIDGE"])
def test_all_arrays_are_checked_before_they_are_read(tmp_path, readers):
    """Each reader runs in a process of its own, which a missing check would end."""
    done = run_python(READERS, tmp_path, readers, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= 38
    assert {*lines} == {"truncated"}, done.stdout
