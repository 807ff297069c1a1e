"""After a failure, there is a clear error, no partial file, and an estimator that still works."""

import os
import signal
import sys

import numpy as np
import pytest
from helpers import blas_threads, run_python, small_blocks
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_conv import (
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    save_batches,
)
from sklearn_conv._engine import threads
from sklearn_conv._images import kinds

IMAGES = np.random.default_rng(0).random((200, 12, 12, 2), np.float32)
both = pytest.mark.parametrize("n_jobs", [None, 2])


@pytest.fixture(autouse=True)
def _many_blocks(monkeypatch):
    small_blocks(monkeypatch, 2**14)


class Fails:
    """Activation that raises an error when it is called for the n-th time."""

    def __init__(self, n, error):
        self.n, self.error, self.calls = n, error, 0

    def __call__(self, z):
        self.calls += 1
        if self.calls == self.n:
            raise self.error
        return np.tanh(z)


@both
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("mine"), KeyboardInterrupt(), MemoryError("no"), SystemExit(3)]
)
def test_an_error_in_a_block_is_raised(n_jobs, error):
    activation = Fails(10, error)
    transformer = StridedConv2DTransformer(
        8, activation=activation, random_state=0, n_jobs=n_jobs
    ).fit(IMAGES)
    before = blas_threads()
    with pytest.raises(type(error)):
        transformer.transform(IMAGES)
    assert blas_threads() == before
    assert activation.calls < 60  # There would be about 300 calls.
    expected = transformer.set_params(activation=np.tanh).transform(IMAGES)
    np.testing.assert_array_equal(
        transformer.set_params(activation=Fails(0, error)).transform(IMAGES), expected
    )


@both
def test_no_memory_for_a_block(n_jobs, monkeypatch):
    transformer = StridedConv2DTransformer(8, random_state=0, n_jobs=n_jobs).fit(IMAGES)
    expected = transformer.transform(IMAGES)
    real, calls = threads.Workspace.empty, []

    def full(self, *args):
        calls.append(args)
        if len(calls) > 2:
            raise MemoryError("Unable to allocate 6 MiB")
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(threads.Workspace, "empty", full)
        with pytest.raises(MemoryError, match="6 MiB"):
            transformer.transform(IMAGES)
    np.testing.assert_array_equal(transformer.transform(IMAGES), expected)


INTERRUPT = """
import os, signal, sys, threading, time
import numpy as np
from threadpoolctl import threadpool_info
from sklearn_conv import StridedConv2DTransformer

signal.signal(signal.SIGINT, signal.default_int_handler)  # A program in the background ignores it.
images = np.random.default_rng(0).random((20_000, 32, 32, 3), np.float32)
transformer = StridedConv2DTransformer(256, 5, random_state=0, n_jobs={n_jobs}).fit(images)
blas = lambda: [info["num_threads"] for info in threadpool_info()]
expected, before = transformer.transform(images[:500]), blas()
threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.perf_counter()
try:
    transformer.transform(images)
except KeyboardInterrupt:
    print("interrupted after", time.perf_counter() - start)
time.sleep(0.2)
assert blas() == before
assert threading.active_count() <= {n_threads}
np.testing.assert_array_equal(transformer.transform(images[:500]), expected)
print("works")
"""


@pytest.mark.parametrize(
    ("n_jobs", "n_threads"), [pytest.param(None, 1, marks=pytest.mark.long), (2, 8)]
)
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of Unix")
def test_control_c_in_the_middle_of_transform(n_jobs, n_threads):
    code = INTERRUPT.format(n_jobs=n_jobs, n_threads=n_threads)
    done = run_python(code)
    lines = done.stdout.splitlines()
    assert lines[1:] == ["works"], done.stderr
    assert 0.5 < float(lines[0].removeprefix("interrupted after")) < 5


def die_once(X, path):
    """Kill this process unless another process was killed before."""
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return X


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of Unix")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_own_processes")
def test_a_worker_process_is_killed_in_a_search(tmp_path):
    labels = np.arange(200) % 3
    dying = FunctionTransformer(die_once, kw_args={"path": str(tmp_path / "died")})
    transformer = StridedConv2DTransformer(8, random_state=0)
    pipe = make_pipeline(dying, transformer, StreamingRidgeClassifier())
    search = GridSearchCV(pipe, {"stridedconv2dtransformer__stride": [1, 2]}, cv=2, n_jobs=2)
    with pytest.raises(TerminatedWorkerError, match="SIGKILL"):
        search.fit(IMAGES, labels)
    search.fit(IMAGES, labels)
    assert search.predict(IMAGES).shape == (200,)


def test_a_memory_map_is_cut_between_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(kinds, "BATCH_BYTES", 50 * IMAGES[0].nbytes)
    path = tmp_path / "images"
    IMAGES.tofile(path)
    stored = np.memmap(path, np.float32, "r", shape=IMAGES.shape)
    transformer = StridedConv2DTransformer(8, random_state=0).fit(IMAGES)

    def batches():
        for rows, features in transformer.transform_batches(stored, 50):
            yield rows, features
            os.truncate(path, IMAGES.nbytes // 2)

    with pytest.raises(OSError, match="was truncated after it had been mapped to memory"):
        save_batches(tmp_path / "features.npy", batches())
    assert os.listdir(tmp_path) == ["images"]
    assert np.isfinite(transformer.transform(IMAGES)).all()


KILLED = """
import os, signal, sys
import numpy as np
from sklearn_conv import save_batches

def batches():
    for start in range(0, 10_000, 1000):
        if start == 5000:
            os.kill(os.getpid(), signal.SIGKILL)
        yield slice(start, start + 1000), np.ones((1000, 100))

save_batches(sys.argv[1], batches())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of Unix")
def test_a_process_that_is_killed_leaves_no_file_that_looks_whole(tmp_path):
    path = tmp_path / "features.npy"
    done = run_python(KILLED, path)
    assert done.returncode == -signal.SIGKILL
    left = os.listdir(tmp_path)
    assert len(left) == 1
    assert left[0].endswith(".part")
    with pytest.raises(ValueError, match="pickled"):  # It is not a .npy file.
        np.load(tmp_path / left[0])
    for _ in range(2):  # What killed processes left is removed by the next one.
        run_python(KILLED, path)
        assert len(os.listdir(tmp_path)) == 1

    def batches():
        assert len(os.listdir(tmp_path)) == 1
        save_batches(path, [(slice(0, 1), np.zeros((1, 1)))])
        assert len(os.listdir(tmp_path)) == 2  # The file of a writer that lives is still there.
        yield slice(0, 1), np.ones((1, 1))

    save_batches(path, batches())
    assert os.listdir(tmp_path) == ["features.npy"]
    assert np.load(path) == 1


def test_kernels_that_do_not_fit_into_memory():
    def init(shape, rng, patches):
        raise MemoryError("Unable to allocate 16 GiB")

    with pytest.raises(MemoryError) as caught:
        StridedConv2DTransformer(kernels=init).fit(IMAGES)
    assert "16 GiB. fit makes" in str(caught.value)
    assert "use smaller n_kernels, kernel_size or n_patches" in str(caught.value)
