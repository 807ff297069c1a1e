"""Grid searches in several processes: the number of threads in each process, and the results."""

import os

import numpy as np
import pytest
from joblib import effective_n_jobs
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_info

from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer

RNG = np.random.default_rng(0)
LABELS = RNG.integers(3, size=600)
IMAGES = RNG.normal(size=(600, 12, 12)) * (1 + LABELS)[:, np.newaxis, np.newaxis]
GRID = {
    "stridedconv2dtransformer__stride": [1, 2],
    "stridedconv2dtransformer__kernel_size": [3, 5],
}


def note_threads(X, path):
    """Return X; record the id of this process and the number of threads of its BLAS libraries."""
    counts = [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
    with open(path, "a") as file:
        file.write(f"{os.getpid()} {max(counts)}\n")
    return X


def search(path, n_jobs, transformer_jobs=None):
    pipe = make_pipeline(
        StridedConv2DTransformer(16, random_state=0, n_jobs=transformer_jobs),
        FunctionTransformer(note_threads, kw_args={"path": str(path)}),
        StreamingRidgeClassifier(),
    )
    result = GridSearchCV(pipe, GRID, cv=3, n_jobs=n_jobs, refit=False).fit(IMAGES, LABELS)
    notes = np.loadtxt(path, dtype=int)
    return result.cv_results_["mean_test_score"], notes[:, 0], notes[:, 1]


@pytest.mark.parametrize("transformer_jobs", [2, pytest.param(None, marks=pytest.mark.long)])
@pytest.mark.usefixtures("_own_processes")
def test_two_processes_share_the_cores(tmp_path, transformer_jobs):
    expected, _, _ = search(tmp_path / "one", None)
    scores, processes, threads = search(tmp_path / "two", 2, transformer_jobs)
    np.testing.assert_allclose(scores, expected)
    assert os.getpid() not in processes
    assert threads.max() <= max(1, effective_n_jobs(-1) // 2)


def test_threads_of_the_transformer_leave_blas_as_it_was(tmp_path):
    _, processes, before = search(tmp_path / "one", None)
    scores, _, after = search(tmp_path / "threads", None, 2)
    assert set(processes) == {os.getpid()}
    assert set(before) == set(after)
    assert scores.max() > 0.7
