"""`save_batches` writes complete files, or no files at all."""

import errno
import os
import stat
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier, Thread

import numpy as np
import pytest
from helpers import in_batches, run_python, unused_batches

from sklearn_conv import StridedConv2DTransformer, save_batches

ROWS = np.arange(70.0).reshape(10, 7)


@pytest.fixture(params=[".npy", ".parquet"])
def suffix(request):
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return request.param


def load(path):
    """Read the features of a file."""
    if Path(path).suffix != ".parquet":
        return np.load(path)
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pandas().to_numpy()


@pytest.mark.parametrize("size", [3, 10])
@pytest.mark.parametrize("shape", [(7,), (1, 7), ()])
@pytest.mark.parametrize("dtype", ["f4", ">f8", "?", "c16", "g"])
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
        ([(slice(3, 10), ROWS[3:])], ValueError, "0 rows were written, but the next batch has 7"),
        ([(slice(0, 5), ROWS[:5]), (slice(6, 10), ROWS[6:])], ValueError, "5 rows were written"),
        ([(slice(0, 5), ROWS)], ValueError, "next batch has 10 rows"),
        (
            [(slice(0, 5), ROWS[:5]), (slice(5, 9), ROWS[5:9, :3])],
            ValueError,
            r"\(rows, 7,\).*4, 3",
        ),
        ([(slice(0, 1), ROWS[:1]), (slice(1, 2), ROWS[:1].astype("f4"))], ValueError, "float32"),
        (lambda: in_batches(ROWS, 3, last=6), KeyboardInterrupt, None),
    ],
)
def test_no_file_is_left_after_invalid_batches(tmp_path, batches, error, message, suffix):
    path = tmp_path / f"features{suffix}"
    path.write_text("an older file")
    with pytest.raises(error, match=message):
        save_batches(path, batches() if callable(batches) else batches)
    assert os.listdir(tmp_path) == [f"features{suffix}"]
    assert path.read_text() == "an older file"


DATES = np.arange("2020-01-01", "2020-01-11", dtype="M8[D]").reshape(10, 1)


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ((slice(0, 0), ROWS[:0]), ValueError, r"rows and features. Got shape \(0, 7\)"),
        ((slice(0, 10), ROWS[:, :0]), ValueError, r"rows and features. Got shape \(10, 0\)"),
        ((slice(0, 1), np.array(1.0)), ValueError, r"rows and features. Got shape \(\)"),
        ((slice(0, 10), ROWS.tolist()), TypeError, "arrays of numbers. Got list.*numpy.asarray"),
        ((slice(0, 10), DATES), TypeError, r"numbers. Got dtype datetime64\[D\]"),
        ((slice(0, 10), ROWS.astype(object)), TypeError, "numbers. Got dtype object"),
        ((slice(0, 10), ROWS.astype(str)), TypeError, "numbers. Got dtype <U32"),
        ((slice(0, 10), ROWS.view("f8,f8,f8,f8,f8,f8,f8")), TypeError, "numbers. Got dtype"),
        ((slice(0, 10), np.ma.masked_equal(ROWS, 3)), ValueError, "masked values; fill them"),
        ((slice(0, 20, 2), ROWS), ValueError, r"has 10 rows and the slice slice\(0, 20, 2\)"),
        ((slice(None, 10), ROWS), ValueError, r"the slice slice\(None, 10, None\)"),
        ((range(10), ROWS), TypeError, "pairs of a slice and an array.*Got tuple instead"),
        (ROWS, TypeError, "pairs of a slice and an array.*Got ndarray instead.*numpy.save"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_items_that_are_not_batches(tmp_path, item, error, message, is_first, suffix):
    batches = [(slice(0, 10), ROWS), item][is_first:]
    with pytest.raises(error, match=message):
        save_batches(tmp_path / f"f{suffix}", batches)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x.csv", "folder/x.npy.gz", "x.pq"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"path=.* ends in .*; use .*\.npy' or .*\.parquet'"):
        save_batches(tmp_path / name, unused_batches())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["features", "f.npy", "F.NPY", ".npy", "a.b.npy", "x" * 251 + ".npy"]
)
@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_names_that_are_used_as_they_are(tmp_path, name, kind):
    np.testing.assert_array_equal(save_batches(kind(tmp_path / name), in_batches(ROWS, 4)), ROWS)
    assert os.listdir(tmp_path) == [name]


def test_a_relative_path_when_the_folder_changes(tmp_path, monkeypatch, suffix):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)

    def batches():
        yield slice(0, 10), ROWS
        os.chdir("other")

    result = save_batches(f"f{suffix}", batches())
    assert str(getattr(result, "filename", result)) == str(tmp_path / f"f{suffix}")
    assert sorted(os.listdir(tmp_path)) == [f"f{suffix}", "other"]


def make_parent_a_file(path):
    path.parent.rmdir()
    path.parent.write_text("")


def make_link(path):
    (path.parent / "target").write_text("precious")
    path.symlink_to(path.parent / "target")


@pytest.mark.skipif(sys.platform == "win32", reason="needs links of Unix")
@pytest.mark.parametrize(
    ("prepare", "error", "number", "message"),
    [
        (Path.mkdir, IsADirectoryError, errno.EISDIR, "is a folder; add the name"),
        (make_parent_a_file, NotADirectoryError, errno.ENOTDIR, "Not a directory"),
        (lambda path: path.parent.rmdir(), FileNotFoundError, errno.ENOENT, "path does not exist"),
        (make_link, OSError, errno.ELOOP, "symbolic link, which is not followed.*target'"),
        (os.mkfifo, OSError, errno.EINVAL, "not a regular file"),
    ],
)
def test_destinations_are_checked_before_any_work(
    tmp_path, prepare, error, number, message, suffix
):
    path = tmp_path / "folder" / f"f{suffix}"
    path.parent.mkdir()
    prepare(path)
    before = [(p, p.lstat().st_mode) for p in sorted(tmp_path.rglob("*"))]
    with pytest.raises(error, match=message) as caught:
        save_batches(path, unused_batches())
    assert caught.value.errno == number
    assert caught.value.filename == str(path)
    assert [(p, p.lstat().st_mode) for p in sorted(tmp_path.rglob("*"))] == before
    target = path.parent / "target"
    assert not target.exists() or target.read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        *[(name, errno.EISDIR, "is a folder") for name in ("folder/", "nothing/")],
        *[(x, errno.ENAMETOOLONG, "too long") for x in ("x" * 252 + ".npy", "ä" * 200, "x" * 5000)],
    ],
)
def test_names_that_are_not_those_of_files(tmp_path, name, number, message):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=message) as caught:
        save_batches(f"{tmp_path}/{name}", unused_batches())
    assert caught.value.errno == number
    assert os.listdir(tmp_path) == ["folder"]


@contextmanager
def as_other_user():
    """Let file permissions apply to this process, if it is run by root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions of Unix")
def test_a_folder_and_a_file_without_the_right_to_write(suffix):
    with TemporaryDirectory() as folder:  # pytest's own folders are closed to other users.
        path = Path(folder, f"f{suffix}")
        os.chmod(folder, 0o555)
        with (
            as_other_user(),
            pytest.raises(PermissionError, match=rf"not writable.*f\{suffix}") as caught,
        ):
            save_batches(path, unused_batches())
        assert caught.value.filename == str(path)
        assert os.listdir(folder) == []
        os.chmod(folder, 0o777)
        path.write_text("protected")
        path.chmod(0o444)
        with as_other_user(), pytest.raises(PermissionError, match="may not be overwritten"):
            save_batches(path, unused_batches())
        assert path.read_text() == "protected"
        assert os.listdir(folder) == [f"f{suffix}"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions of Unix")
@pytest.mark.parametrize("mode", [0o600, 0o666, 0o755, None])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_permissions_are_those_of_the_existing_file_or_of_the_umask(tmp_path, mode, umask, suffix):
    path = tmp_path / f"f{suffix}"
    if mode is not None:
        path.write_text("an older file")
        path.chmod(mode)
    during = []

    def batches():
        (part,) = tmp_path.glob("*.part")
        during.append(stat.S_IMODE(part.stat().st_mode))
        yield slice(0, 10), ROWS

    old = os.umask(umask)
    try:
        save_batches(path, batches())
    finally:
        os.umask(old)
    expected = 0o666 & ~umask if mode is None else mode
    assert during == [expected]
    assert stat.S_IMODE(path.stat().st_mode) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="needs links of Unix")
def test_a_link_that_is_planted_during_the_work_is_replaced(tmp_path, suffix):
    path, other = tmp_path / f"f{suffix}", tmp_path / "other"
    other.write_text("precious")

    def batches():
        yield slice(0, 5), ROWS[:5]
        path.symlink_to(other)
        yield slice(5, 10), ROWS[5:]

    save_batches(path, batches())
    np.testing.assert_array_equal(load(path), ROWS)
    assert not path.is_symlink()
    assert other.read_text() == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="needs links of Unix")
def test_a_planted_temporary_file_is_not_opened(tmp_path, monkeypatch, suffix):
    """Even if its random name were known, an existing file is not used."""
    monkeypatch.setattr("sklearn_conv._saving.files.token_hex", lambda n: "known")
    (tmp_path / "other").write_text("precious")
    (tmp_path / f"f{suffix}.known.part").symlink_to(tmp_path / "other")
    with pytest.raises(FileExistsError):
        save_batches(tmp_path / f"f{suffix}", unused_batches())
    assert (tmp_path / "other").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == [f"f{suffix}.known.part", "other"]


def test_threads_that_write_to_the_same_path(tmp_path, suffix):
    """Each thread writes its own file; the last one remains, and is whole."""
    path, barrier, errors = tmp_path / f"f{suffix}", Barrier(4, timeout=60), []

    def batches(value):
        for i in range(20):
            barrier.wait()
            yield slice(i * 50, i * 50 + 50), np.full((50, 7 + value), float(value))

    def save(value):
        try:
            save_batches(path, batches(value))
        except Exception as error:
            errors.append(error)
            barrier.abort()

    threads = [Thread(target=save, args=[value]) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert os.listdir(tmp_path) == [f"f{suffix}"]
    features = load(path)
    value = int(features[0, 0])
    np.testing.assert_array_equal(features, np.full((1000, 7 + value), float(value)))


def test_the_destination_becomes_a_folder(tmp_path, suffix):
    path = tmp_path / f"f{suffix}"

    def batches():
        yield slice(0, 10), ROWS
        path.mkdir()

    with pytest.raises(OSError, match=rf"f\{suffix}"):
        save_batches(path, batches())
    assert os.listdir(tmp_path) == [f"f{suffix}"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of Unix")
def test_a_file_that_may_not_grow(tmp_path):
    """A limit on the size of files simulates a full disk, and needs no privileges."""
    limits = {"f.npy": 720_100}  # A part of the last batch fits.
    if find_spec("pyarrow"):
        limits["f.parquet"] = 100_000
    code = f"""
import os, resource, signal
import numpy as np
from sklearn_conv import save_batches
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rows = np.random.default_rng(0).random((9000, 10))
for name, limit in {limits}.items():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    batches = ((slice(i, i + 1000), rows[i : i + 1000]) for i in range(0, 9000, 1000))
    try:
        save_batches(os.path.join({str(tmp_path)!r}, name), batches)
    except OSError as error:
        print(error.errno, os.path.basename(error.filename))
print(os.listdir({str(tmp_path)!r}))
"""
    done = run_python(code, check=True)
    assert done.stdout.splitlines() == [*(f"{errno.EFBIG} {name}" for name in limits), "[]"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full of Linux")
def test_a_full_disk(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"f{suffix}"
    opened = os.open
    monkeypatch.setattr(os, "open", lambda *arguments: opened("/dev/full", os.O_WRONLY))
    with pytest.raises(OSError, match=r"No space left on device after \d+ rows.*f\.") as caught:
        save_batches(path, in_batches(np.ones((10, 9000)), 1))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []
