"""The documentation agrees with the code: its code runs, and its names and defaults are right."""

import inspect
import os
import re
from importlib.util import find_spec

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import sklearn
from helpers import PAGES, PYPROJECT, ROOT, expand_requirements
from test_imports import PUBLIC

import sklearn_conv
from sklearn_conv import (
    ImageReader,
    RBFRidge,
    RBFRidgeClassifier,
    StreamingRidge,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    conv2d,
    cross_val_table,
    inspection,
    make_image_classifier,
    make_image_regressor,
    predict_map,
    read_images,
    save_batches,
    tile_scene,
    transform_batches,
    write_map,
)
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import PADDING_MODES
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv.inspection import class_activation_map
from sklearn_conv.kernels._initializers import KERNELS

README = (ROOT / "README.md").read_text()
PARAMETERS = (ROOT / "docs" / "guide" / "parameters.md").read_text()
DRAWN = [
    getattr(inspection, name).from_estimator
    for name in inspection.__all__
    if hasattr(getattr(inspection, name), "from_estimator")
]
NEEDED = {
    "scale.md": ["dask.array"],
    "onnx.md": ["skl2onnx", "onnxruntime"],
    "reading.md": ["PIL", "tifffile"],
    "scenes.md": ["rasterio", "xarray"],
    "tables.md": ["pyarrow"],
    "gpu.md": ["torch", "array_api_compat", "sklearn.callback"],  # new in scikit-learn 1.9
    "satellite.md": ["rasterio"],
    "microscopy.md": ["tifffile", "zarr", "pyarrow"],
}
"""Optional libraries that the code of a page imports."""

CHOICES = {
    "kernels": KERNELS,
    "activation": ACTIVATIONS,
    "pooling": POOLINGS,
    "padding_mode": PADDING_MODES,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_prints_what_the_page_says(page, capsys, monkeypatch):
    """The code blocks of a page run one after the other; each is followed by its output."""
    for needed in NEEDED.get(page.name, []):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    names = {}
    monkeypatch.setenv("SCIPY_ARRAY_API", os.environ.get("SCIPY_ARRAY_API", "0"))
    config = sklearn.get_config()
    blocks = r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?"
    for code, output in re.findall(blocks, page.read_text(), re.DOTALL):
        if "from mapie" in code and find_spec("mapie") is None:
            continue
        with mpl.rc_context({"backend": "agg"}), sklearn.config_context(**config):
            exec(compile(code, page.name, "exec"), names)
            config = sklearn.get_config()
        plt.close("all")
        assert capsys.readouterr().out == output


def test_the_example_is_short():
    example = README.split("```python\n")[1].split("```")[0]
    assert len([line for line in example.splitlines() if line]) <= 6
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in (*PAGES, ROOT / ".ci" / "run"):
        named = re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert {first or second for first, second in named} <= targets
    for name in ("demo", "test", "lint", "test-minimum"):
        assert f"make {name}" in README


def documented_defaults(function):
    entries = re.findall(r"^(\w+) : (.*)$", inspect.getdoc(function), re.MULTILINE)
    return {name: re.search(r"default=(.*)$", rule) for name, rule in entries}


@pytest.mark.parametrize(
    "function",
    [
        StridedConv2DTransformer,
        StreamingRidgeClassifier,
        StreamingRidge,
        RBFRidgeClassifier,
        RBFRidge,
        conv2d,
        cross_val_table,
        transform_batches,
        make_image_classifier,
        make_image_regressor,
        read_images,
        ImageReader,
        tile_scene,
        predict_map,
        write_map,
        save_batches,
        inspection.MapDisplay.from_predictions,
        *DRAWN,
        class_activation_map,
    ],
    ids=lambda function: function.__qualname__,
)
def test_documented_defaults_are_those_of_the_code(function):
    documented = documented_defaults(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        assert name in documented, f"{name} is not documented"
        if parameter.default is inspect.Parameter.empty:
            assert documented[name] is None
        else:
            assert documented[name].group(1) == repr(parameter.default).replace("'", '"')


def test_the_table_of_parameters_has_each_of_them_and_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", PARAMETERS, re.MULTILINE))
    parameters = inspect.signature(StridedConv2DTransformer).parameters
    assert rows == {name: repr(parameter.default) for name, parameter in parameters.items()}


def test_the_page_on_reproducibility_has_all_parameters_and_the_types_of_all_estimators():
    page = (ROOT / "docs" / "guide" / "reproducibility.md").read_text()
    lists = page.split("## Parameters changed after fit")[1].split("```")[0]
    parameters = inspect.signature(StridedConv2DTransformer).parameters
    assert set(parameters) <= set(re.findall(r"`(\w+)`", lists))
    ridge = [StreamingRidgeClassifier, StreamingRidge, RBFRidgeClassifier, RBFRidge]
    for estimator in [StridedConv2DTransformer, ImageReader, *ridge]:
        assert f"`{estimator.__module__}.{estimator.__qualname__}`" in page


def entry_of(name, function):
    """Return the text of a parameter in a docstring."""
    return inspect.getdoc(function).split(f"\n{name} : ")[1].split(" : ")[0]


@pytest.mark.parametrize("name", CHOICES)
def test_the_documents_name_all_choices(name):
    places = {
        "the docstring of StridedConv2DTransformer": entry_of(name, StridedConv2DTransformer),
        "docs/guide/parameters.md": re.search(rf"^\| `{name}` .*$", PARAMETERS, re.M).group(),
    }
    if name == "padding_mode":
        places["the docstring of conv2d"] = entry_of(name, conv2d)
    if name == "kernels":
        places["docs/kernels.md"] = (ROOT / "docs" / "kernels.md").read_text()
    if name in ("activation", "pooling"):
        page = ROOT / "docs" / "guide" / "activation-and-pooling.md"
        places["docs/guide/activation-and-pooling.md"] = page.read_text()
    for place, text in places.items():
        for choice in CHOICES[name]:
            assert f'"{choice}"' in text or f"`{choice}`" in text, f"name {choice!r} in {place}"


@pytest.mark.parametrize(
    "thing",
    [
        conv2d,
        StridedConv2DTransformer,
        StridedConv2DTransformer.fit,
        StridedConv2DTransformer.transform,
        StridedConv2DTransformer.get_feature_names_out,
        StridedConv2DTransformer.output_size,
        class_activation_map,
        *DRAWN,
    ],
    ids=lambda thing: thing.__qualname__,
)
def test_public_docstrings_have_their_sections(thing):
    docstring = inspect.getdoc(thing)
    assert "Parameters\n-----" in docstring
    is_method = "." in thing.__qualname__
    for section in ["Returns", "Raises"] if is_method else ["Examples", "See Also"]:
        assert f"{section}\n{'-' * len(section)}" in docstring
    signature = inspect.signature(thing)
    if not inspect.isclass(thing):
        assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        if parameter.name != "self":
            assert parameter.annotation is not inspect.Parameter.empty


@pytest.mark.parametrize("kernels", KERNELS.values(), ids=KERNELS)
def test_docstrings_of_kernels_cite_their_source(kernels):
    source = re.search(r"Source: .*\(\d{4}\)", inspect.getdoc(kernels), re.DOTALL)
    assert source, 'the docstring ends with "Source: authors, title (year)."'


def test_every_public_name_is_on_the_page_of_the_api():
    page = (ROOT / "docs" / "api" / "index.md").read_text()
    listed, module = {}, None
    for line in page.splitlines():
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = found.group(1)
        elif found := re.match(r"   (\w+)$", line):
            listed.setdefault(module, set()).add(found.group(1))
    assert listed == {module: names for module, names in PUBLIC.items() if names}


def test_one_version_and_one_license():
    citation = (ROOT / "CITATION.cff").read_text()
    entries = dict(re.findall(r"^([a-z-]+): (.+)$", citation, re.MULTILINE))
    newest = re.search(r"^## (\S+),", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entries["version"] == newest.group(1) == sklearn_conv.__version__
    project = PYPROJECT["project"]
    assert project["dynamic"] == ["readme", "version"]
    assert entries["license"] == project["license"]
    assert f"![{project['license']}]" in README
    assert f"![Python {project['requires-python'].removeprefix('>=')} or later]" in README


def test_links_of_the_readme_lead_somewhere_on_a_package_index():
    text = README
    hooks = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for substitution in hooks["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    relative = [target for target in targets if "://" not in target and not target.startswith("#")]
    assert sorted(relative) == ["CITATION.cff", "LICENSE"]
    pictures = re.findall(r"/stable/(\w+\.png)", text)
    conf = (ROOT / "docs" / "conf.py").read_text()
    assert pictures
    assert all(f'"{picture}"' in conf for picture in pictures)


def test_minimum_versions_are_those_of_the_project():
    # PyTorch is pinned, and the same in both environments.
    bounds = dict(
        re.sub(r"\[.*\]", "", requirement).split(">=")
        for requirement in expand_requirements(extras=["all"], groups=["test"])
        if "==" not in requirement
    )
    lines = (ROOT / "tests" / "minimum.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name, bound in bounds.items():
        assert pins[name].split(".")[: len(bound.split("."))] == bound.split(".")


def test_the_extra_all_is_made_of_all_others():
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert extras["all"] == [f"sklearn-conv[{','.join(name for name in extras if name != 'all')}]"]


def test_addresses_of_the_repository_agree():
    urls = PYPROJECT["project"]["urls"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"repository-code: {urls['Source']}\n" in citation
    assert f"url: {urls['Documentation']}\n" in citation
    for page in ("SECURITY.md", "CODE_OF_CONDUCT.md", ".github/ISSUE_TEMPLATE/config.yml"):
        named = re.findall(r"https://github.com/[\w/-]+", (ROOT / page).read_text())
        assert {*named} == {f"{urls['Source']}/security/advisories/new"}


def test_runtime_dependencies_are_five():
    names = {requirement.split(">=")[0] for requirement in PYPROJECT["project"]["dependencies"]}
    assert names == {"numpy", "scipy", "scikit-learn", "joblib", "threadpoolctl"}
