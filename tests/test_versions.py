from pathlib import Path

import numpy as np
import pytest
import scipy
from helpers import run_python

import sklearn_conv
from sklearn_conv import __version__, show_versions
from sklearn_conv._versions import kernel_hint


def test_show_versions(capsys):
    show_versions()
    lines = capsys.readouterr().out.splitlines()
    assert f"sklearn-conv: {__version__}" in lines
    assert f"numpy: {np.__version__}" in lines
    assert f"scipy: {scipy.__version__}" in lines
    assert any(line.startswith("BLAS: ") for line in lines)


def test_versions_of_a_checkout_that_is_not_installed():
    """Only files of the package and of its dependencies are found; metadata is not."""
    code = """
import sys
from importlib import metadata

class NoMetadata(metadata.DistributionFinder):
    def find_distributions(self, context=metadata.DistributionFinder.Context()):
        return []

for finder in sys.meta_path:
    if hasattr(finder, "find_distributions"):
        finder.find_distributions = NoMetadata().find_distributions
sys.path.insert(0, sys.argv[1])
import sklearn_conv
sklearn_conv.show_versions()
"""
    done = run_python(code, Path(sklearn_conv.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert f"sklearn-conv: {__version__}\n" in done.stdout


def test_the_environment_variable_of_openblas_is_shown(capsys, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    show_versions()
    assert "OPENBLAS_CORETYPE: Haswell\n" in capsys.readouterr().out


@pytest.mark.parametrize("feature", ["AVX512_SKX", "X86_V4"])
@pytest.mark.parametrize("kernel", ["Haswell", "Zen"])
def test_hint_for_avx2_kernels_on_avx512(kernel, feature):
    assert "OPENBLAS_CORETYPE=SkylakeX" in kernel_hint("openblas", kernel, ["AVX2", feature])


@pytest.mark.parametrize(
    ("library", "kernel", "features"),
    [
        ("openblas", "SkylakeX", ["AVX512_SKX"]),
        ("openblas", "Haswell", ["AVX2"]),
        ("openblas", "armv8", ["NEON"]),
        ("mkl", "Haswell", ["AVX512_SKX"]),
        ("openblas", "unknown", []),
    ],
)
def test_no_hint_elsewhere(library, kernel, features):
    assert kernel_hint(library, kernel, features) is None


@pytest.mark.parametrize("core_type", ["Haswell", "Zen", "Sandybridge"])
@pytest.mark.parametrize("kernel", ["Haswell", "Zen"])
def test_a_kernel_that_the_user_chose(kernel, core_type):
    hint = kernel_hint("openblas", kernel, ["AVX512_SKX"], core_type)
    assert f"OPENBLAS_CORETYPE is set to {core_type}" in hint
    assert "SkylakeX" not in hint
