"""There are no circular imports, and only declared dependencies are imported."""

import ast
import importlib
import inspect
import pkgutil
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sklearn_conv
from sklearn_conv.kernels._initializers import KERNELS

PACKAGE = Path(sklearn_conv.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
DEPENDENCIES = {"numpy", "scipy", "sklearn", "joblib", "threadpoolctl"}
EXTRAS = {
    "sklearn_conv._array_api": {"array_api_compat", "cupyx", "torch"},
    "sklearn_conv._commands.console": {"rich"},
    "sklearn_conv._commands.model_file": {"skops"},
    "sklearn_conv._commands.options": {"cyclopts", "docstring_parser"},
    "sklearn_conv._commands.report": {"jinja2", "matplotlib"},
    "sklearn_conv._dask": {"dask"},
    "sklearn_conv._reading.geo_files": {"rasterio"},
    "sklearn_conv._reading.pillow_images": {"PIL"},
    "sklearn_conv._reading.tiff_files": {"tifffile"},
    "sklearn_conv._saving.geotiff": {"rasterio"},
    "sklearn_conv._saving.parquet": {"pyarrow"},
    "sklearn_conv.inspection._drawing": {"matplotlib"},
    "sklearn_conv.onnx._graph": {"onnx", "skl2onnx"},
}
"""Modules that import optional libraries; other modules import these modules only if needed."""

PUBLIC = {
    "sklearn_conv": {
        "RBFRidge",
        "RBFRidgeClassifier",
        "ImageFiles",
        "ImageReader",
        "OutputSize",
        "PixelClassifier",
        "PixelRegressor",
        "SceneTiles",
        "SharedFeaturesSearch",
        "StreamingRidge",
        "StreamingRidgeClassifier",
        "StridedConv2DTransformer",
        "conv2d",
        "cross_val_table",
        "make_image_classifier",
        "make_image_regressor",
        "predict_map",
        "read_images",
        "save_batches",
        "show_versions",
        "tile_scene",
        "transform_batches",
        "write_map",
    },
    "sklearn_conv.inspection": {
        "ClassActivationDisplay",
        "FeatureMapDisplay",
        "GridSearchDisplay",
        "KernelDisplay",
        "MapDisplay",
        "class_activation_map",
    },
    "sklearn_conv.kernels": {
        "dct",
        "gabor",
        "gaussian",
        "haar",
        "kmeans",
        "laplace",
        "patches",
        "pca",
        "sobel",
        "uniform",
    },
    "sklearn_conv.onnx": set(),
}
"""Modules and names that users may import."""


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def imported(path):
    """Yield the modules that a file imports, including imports inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


GRAPH = {name: {m for m in imported(path) if m in MODULES} for name, path in MODULES.items()}


def room(name):
    """Return the folder of a module or, for a module at the root, the module itself."""
    return ".".join(name.split(".")[:2])


def test_modules_have_no_circular_imports():
    assert [*TopologicalSorter(GRAPH).static_order()]


def test_folders_have_no_circular_imports():
    rooms = {}
    for name, needed in GRAPH.items():
        rooms.setdefault(room(name), set()).update({*map(room, needed)} - {room(name)})
    assert [*TopologicalSorter(rooms).static_order()]


def test_no_module_imports_the_public_packages():
    """Modules import names from the module that defines them."""
    fronts = {name for name in PUBLIC if MODULES[name].name == "__init__.py"}
    for name, needed in GRAPH.items():
        assert not needed & fronts, name


@pytest.mark.parametrize("name", MODULES)
def test_only_declared_libraries_are_imported(name):
    declared = DEPENDENCIES | sys.stdlib_module_names | {"sklearn_conv"} | EXTRAS.get(name, set())
    assert {module.partition(".")[0] for module in imported(MODULES[name])} <= declared


@pytest.mark.parametrize("name", ["geometry", "pooling"])
def test_the_engine_is_built_on_pure_functions(name):
    """The basic modules of the engine can be read and tested with only NumPy."""
    packages = {module.partition(".")[0] for module in imported(PACKAGE / f"_engine/{name}.py")}
    assert packages <= {"numpy"} | sys.stdlib_module_names


def is_private(name):
    return any(part.startswith("_") for part in name.split("."))


def test_what_is_not_public_has_an_underscore():
    found = {module.name for module in pkgutil.walk_packages([str(PACKAGE)], "sklearn_conv.")}
    assert {name for name in found if not is_private(name)} == {*PUBLIC} - {"sklearn_conv"}


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_is_listed(name):
    if name == "sklearn_conv.onnx":
        pytest.importorskip("skl2onnx")
    module = importlib.import_module(name)
    members = {
        member
        for member, value in vars(module).items()
        if not member.startswith("_") and not (inspect.ismodule(value) and value.__name__ in PUBLIC)
    }
    assert members == PUBLIC[name]
    assert {*getattr(module, "__all__", [])} - {"__version__"} == PUBLIC[name]


def test_every_kernel_is_exported():
    assert {*KERNELS} == PUBLIC["sklearn_conv.kernels"], "export it in kernels/__init__.py"
