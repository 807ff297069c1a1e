"""Imports run one way, bottom up, and only what is installed with the package is imported."""

import ast
import sys
from pathlib import Path

import pytest

import sklearn_conv

PACKAGE = Path(sklearn_conv.__file__).parent
LEVELS = {
    "windows": 0,
    "padding": 0,
    "activation": 0,
    "pooling": 0,
    "kernels.fixed": 0,
    "kernels.learned": 1,
    "kernels.noise": 0,
    "validation": 0,
    "kernels": 2,
    "callbacks": 0,
    "threads": 0,
    "versions": 0,
    "staging": 1,
    "verbose": 0,
    "saving": 0,
    "dask_arrays": 1,
    "engine": 2,
    "images": 2,
    "patches": 3,
    "parameters": 4,
    "conv": 5,
    "ridge": 2,
    "transformer": 6,
    "": 7,
    "onnx": 7,
    "display.drawing": 7,
    "display.evidence": 8,
    "display.feature_maps": 8,
    "display.grid_search": 8,
    "display.kernels": 8,
    "display.class_activation": 9,
    "display": 10,
}
DEPENDENCIES = {"numpy", "scipy", "sklearn", "joblib", "threadpoolctl"}
EXTRAS = {
    "dask_arrays": {"dask"},
    "display.drawing": {"matplotlib"},
    "onnx": {"onnx", "skl2onnx"},
    "ridge": {"dask"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    return (
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .strip(".")
    )


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_one_way(path):
    level = LEVELS[module_name(path)]
    for name in imports(path):
        package, _, module = name.partition(".")
        if package == "sklearn_conv":
            assert LEVELS[module] < level, f"{path.name} imports {name}"
        else:
            extras = EXTRAS.get(module_name(path), set())
            assert package in DEPENDENCIES | extras | sys.stdlib_module_names | {"__future__"}


@pytest.mark.parametrize("name", ["windows", "padding", "pooling", "activation", "kernels.noise"])
def test_the_lowest_level_needs_numpy_only(name):
    path = PACKAGE / f"{name.replace('.', '/')}.py"
    packages = {module.partition(".")[0] for module in imports(path)}
    assert packages <= {"numpy", "__future__"} | sys.stdlib_module_names


def test_every_file_has_its_level():
    assert {module_name(path) for path in FILES} == set(LEVELS)


def test_only_the_engine_multiplies_images():
    """What learns from a sample of patches, or takes features, has products, too."""
    names = {"matmul", "dot", "vecdot", "matvec", "vecmat", "tensordot", "einsum", "inner"}
    for path in FILES:
        nodes = [*ast.walk(ast.parse(path.read_text()))]
        products = [
            node
            for node in nodes
            if isinstance(node, ast.MatMult)
            or (isinstance(node, ast.Attribute) and node.attr in names)
        ]
        has_products = module_name(path) in ("engine", "patches", "ridge", "display.evidence")
        assert bool(products) == has_products, path.name
