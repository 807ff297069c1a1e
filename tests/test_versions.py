import numpy as np
import pytest

from sklearn_conv import __version__, show_versions
from sklearn_conv._versions import kernel_hint


def test_show_versions(capsys):
    show_versions()
    lines = capsys.readouterr().out.splitlines()
    assert f"sklearn-conv: {__version__}" in lines
    assert f"numpy: {np.__version__}" in lines
    assert any(line.startswith("BLAS: ") for line in lines)


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
