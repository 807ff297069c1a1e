"""`save_batches` writes complete files, or no files at all."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import run_python

from sklearn_conv import StridedConv2DTransformer, save_batches

ROWS = np.arange(70.0).reshape(10, 7)


def in_batches(array, size, last=None):
    for start in range(0, len(array), size):
        if start == last:
            raise KeyboardInterrupt
        stop = min(start + size, len(array))
        yield slice(start, stop), array[start:stop]


@pytest.mark.parametrize("size", [1, 3, 10])
@pytest.mark.parametrize("shape", [(7,), (1, 7), ()])
@pytest.mark.parametrize("dtype", ["f4", ">f8", "u1"])
def test_what_is_saved_is_what_numpy_loads(tmp_path, size, shape, dtype):
    array = ROWS.astype(dtype)[:, : np.prod(shape, dtype=int)].reshape(10, *shape)
    path = tmp_path / "features.npy"
    path.write_text("an older file")
    result = save_batches(path, in_batches(array, size))
    assert isinstance(result, np.memmap)
    assert not result.flags.writeable
    np.testing.assert_array_equal(result, array)
    loaded = np.load(str(path))
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)
    assert os.listdir(tmp_path) == ["features.npy"]


def test_batches_of_a_transformer_in_another_memory_order(tmp_path):
    images = np.random.default_rng(0).random((30, 8, 8))
    transformer = StridedConv2DTransformer(random_state=0).fit(images)
    saved = save_batches(str(tmp_path / "f.npy"), transformer.transform_batches(images, 7))
    np.testing.assert_allclose(saved, transformer.transform(images), rtol=1e-12)
    columns = [(slice(0, 10), np.asfortranarray(ROWS))]
    np.testing.assert_array_equal(save_batches(tmp_path / "f.npy", columns), ROWS)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "no batches"),
        (
            [(slice(3, 10), ROWS[3:])],
            ValueError,
            "0 rows were written, but the next batch has 7 rows",
        ),
        ([(slice(0, 5), ROWS[:5]), (slice(6, 10), ROWS[6:])], ValueError, "5 rows were written"),
        ([(slice(0, 5), ROWS)], ValueError, "next batch has 10 rows"),
        (
            [(slice(0, 5), ROWS[:5]), (slice(5, 9), ROWS[5:9, :3])],
            ValueError,
            r"\(rows, 7,\).*4, 3",
        ),
        ([(slice(0, 1), ROWS[:1]), (slice(1, 2), ROWS[:1].astype("f4"))], ValueError, "float32"),
        (in_batches(ROWS, 3, last=6), KeyboardInterrupt, None),
    ],
)
def test_no_file_is_left_after_invalid_batches(tmp_path, batches, error, message):
    path = tmp_path / "features.npy"
    path.write_text("an older file")
    with pytest.raises(error, match=message):
        save_batches(path, batches)
    assert os.listdir(tmp_path) == ["features.npy"]
    assert path.read_text() == "an older file"


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_batches(tmp_path / "nowhere" / "f.npy", in_batches(ROWS, 3))


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of Unix")
def test_a_file_that_may_not_grow(tmp_path):
    """A limit on the size of files simulates a full disk, and needs no privileges."""
    code = f"""
import os, resource, signal
import numpy as np
from sklearn_conv import save_batches
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
rows = np.ones((1000, 10))
batches = ((slice(i, i + 1000), rows) for i in range(0, 9000, 1000))
try:
    save_batches({str(tmp_path / "f.npy")!r}, batches)
except OSError as error:
    print(error.errno, error)
print(os.listdir({str(tmp_path)!r}))
"""
    done = run_python(code, check=True)
    assert done.stdout.splitlines()[0].startswith(f"{errno.EFBIG} ")
    assert done.stdout.splitlines()[1] == "[]"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full of Linux")
def test_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "f.npy"
    opened = Path("/dev/full").open
    monkeypatch.setattr(Path, "open", lambda self, mode: opened(mode))
    with pytest.raises(OSError, match=r"No space left on device after \d+ rows.*f.npy") as caught:
        save_batches(path, in_batches(np.ones((10, 9000)), 1))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []
