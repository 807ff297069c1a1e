"""Constants and functions that several test modules use."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from threadpoolctl import threadpool_info

from sklearn_conv import _array_api
from sklearn_conv._engine import native_engine, numpy_engine, pyramid, symmetry

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
"""Whether this is make test-long."""

ROOT = Path(__file__).parents[1]
BUILT = [ROOT / "docs" / folder for folder in ("_build", "gallery", "api/generated")]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if not any(folder in page.parents for folder in BUILT)
)
"""Markdown pages that are written by hand."""

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

LEARNED = {"kernels": "patches", "normalize_patches": True, "whiten": True, "bias": "quantile"}
"""Parameters with which kernels, preprocessing and biases are learned from training patches."""

N_BLAS = 2


def expand_requirements(extras, groups):
    """Return the requirements of the project with some extras, and of some dependency groups."""
    project = PYPROJECT["project"]
    waiting = [*project["dependencies"], f"sklearn-conv[{','.join(extras)}]"]
    waiting += [{"include-group": group} for group in groups]
    requirements = []
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            waiting += PYPROJECT["dependency-groups"][entry["include-group"]]
        elif entry.startswith("sklearn-conv["):
            for extra in re.findall(r"[\w-]+", entry)[1:]:
                waiting += project["optional-dependencies"][extra]
        else:
            requirements.append(entry)
    return requirements


def blas_threads():
    """Return the current numbers of threads of the BLAS libraries."""
    return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}


def small_blocks(patch, n_bytes):
    """Let engines compute blocks of about ``n_bytes``, in several threads if ``n_jobs`` allows."""
    patch.setattr(numpy_engine, "BLOCK_BYTES", n_bytes)
    patch.setattr(_array_api, "CPU_BLOCK_BYTES", n_bytes)
    patch.setattr(symmetry, "BLOCK_BYTES", n_bytes)
    patch.setattr(pyramid, "BLOCK_BYTES", n_bytes)
    patch.setattr(pyramid, "JOINED_BYTES", n_bytes // 2)
    patch.setattr(native_engine, "BAND_BYTES", n_bytes)
    patch.setattr(native_engine, "WINDOW_BYTES", n_bytes)
    patch.setattr(native_engine, "CALL_MULTIPLICATIONS", n_bytes)
    for engine in (numpy_engine, native_engine):
        patch.setattr(engine, "MIN_MULTIPLICATIONS", 0)


def smallest_log_loss(predicted, y, weights):
    """Return the log loss of the softmax of predictions (n, k), times the best factor."""
    factors = np.arange(0, 20, 0.01)[:, np.newaxis, np.newaxis]
    values = np.exp(factors * predicted)
    likelihoods = values[:, np.arange(len(y)), y] / values.sum(axis=2)
    return -np.average(np.log(likelihoods), axis=1, weights=weights).max()


def best_factor(predicted, y, weights):
    """Return the factor for which the softmax of predictions (n, k) has the smallest log loss."""

    def loss(factor):
        losses = logsumexp(factor * predicted, axis=1) - factor * predicted[np.arange(len(y)), y]
        return np.average(losses, weights=weights)

    found = minimize(lambda logarithm: loss(np.exp(logarithm[0])), 0.0, method="Powell", tol=1e-8)
    return np.exp(found.x.item())


def run_python(code, *arguments, **options):
    """Run code in a separate process, and return its result and output."""
    options = {"capture_output": True, "text": True, "timeout": 120} | options
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], **options)


def in_batches(array, size, last=None):
    """Yield batches for `save_batches`, up to the row ``last`` where the user interrupts."""
    for start in range(0, len(array), size):
        if start == last:
            raise KeyboardInterrupt
        stop = min(start + size, len(array))
        yield slice(start, stop), array[start:stop]


def unused_batches():
    """Yield batches that must not be computed."""
    raise AssertionError("The arguments were not checked first.")
    yield
