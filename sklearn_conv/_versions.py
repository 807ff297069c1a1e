"""`show_versions`: print versions, and whether OpenBLAS uses the processor fully."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from sklearn_conv._engine.choice import describe_engine

API_LINK = (
    "https://sklearn-conv.readthedocs.io/en/stable/api/generated/sklearn_conv.{estimator_name}.html"
)
"""Template of the link to the documentation in scikit-learn's HTML display of estimators."""

PACKAGES = {
    "sklearn-conv": "sklearn_conv",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "joblib": "joblib",
    "threadpoolctl": "threadpoolctl",
}
"""Names of packages and of their modules."""

CORE_TYPE = "OPENBLAS_CORETYPE"
"""Environment variable that selects the kernel of OpenBLAS when it is loaded."""

AVX2_KERNELS = {"Haswell", "Zen"}
AVX512_FEATURES = {"AVX512_SKX", "X86_V4"}
"""Names of AVX-512 in NumPy; NumPy 2.4 and later use the second one."""


def show_versions() -> None:
    """Print the versions of this package and its dependencies, the engine, and details of BLAS.

    The versions are those of the imported modules, which need not be installed. "engine" is the
    engine that computes features: the native one, with the instruction set that it uses, or NumPy,
    with the reason. If OpenBLAS uses an AVX2 kernel on a processor with AVX-512, the last line
    reports this and names the environment variable that changes it, or that caused it. This
    function changes nothing.

    Examples
    --------
    >>> import sklearn_conv
    >>> sklearn_conv.show_versions()  # doctest: +ELLIPSIS
    Python: 3...
    sklearn-conv: ...
    """
    print(f"Python: {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores")
    for name, module in PACKAGES.items():
        print(f"{name}: {import_module(module).__version__}")
    print(f"folder of sklearn-conv: {Path(__file__).parent}")
    print(f"engine: {describe_engine()}")
    core_type = os.environ.get(CORE_TYPE)
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    hints = set()
    for library in threadpool_info():
        if library["user_api"] == "blas":
            kernel = library.get("architecture", "unknown")
            print(
                f"BLAS: {library['internal_api']} {library['version']}, kernel {kernel}, "
                f"{library['num_threads']} threads ({Path(library['filepath']).parent.name})"
            )
            hints.add(kernel_hint(library["internal_api"], kernel, found, core_type))
    if core_type:
        print(f"Environment variable {CORE_TYPE}: {core_type}")
    for hint in hints - {None}:
        print(hint)


def kernel_hint(
    library: str, kernel: str, features: Iterable[str], core_type: str | None = None
) -> str | None:
    """Return advice if OpenBLAS does not use the AVX-512 of the processor, else None.

    ``core_type`` is the value of the environment variable OPENBLAS_CORETYPE, if it is set.
    """
    if library != "openblas" or kernel not in AVX2_KERNELS or not AVX512_FEATURES & set(features):
        return None
    advice = (
        f" is set to {core_type}; without it, OpenBLAS chooses the kernel itself"
        if core_type
        else "=SkylakeX, set before Python starts, makes it use AVX-512"
    )
    return (
        f"OpenBLAS runs its AVX2 kernel {kernel} on a processor with AVX-512. The environment\n"
        f"variable {CORE_TYPE}{advice}."
    )
