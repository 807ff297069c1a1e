"""Constants and functions that several test modules use."""

import subprocess
import sys
from pathlib import Path

from threadpoolctl import threadpool_info

ROOT = Path(__file__).parents[1]
BUILT = [ROOT / "docs" / folder for folder in ("_build", "gallery", "api/generated")]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if not any(folder in page.parents for folder in BUILT)
)
"""Markdown pages that are written by hand."""

LEARNED = {"kernels": "patches", "normalize_patches": True, "whiten": True, "bias": "quantile"}
"""Parameters with which kernels, preprocessing and biases are learned from training patches."""

N_BLAS = 2


def blas_threads():
    """Return the current numbers of threads of the BLAS libraries."""
    return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}


def run_python(code, *arguments, **options):
    """Run code in a separate process, and return its result and output."""
    options = {"capture_output": True, "text": True, "timeout": 120} | options
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], **options)
