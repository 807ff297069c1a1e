"""The benchmarks write the pages in docs, and the packages that they import are installed."""

import ast
import importlib.util
import re
import sys
from itertools import product
from pathlib import Path
from shutil import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT, expand_requirements
from matplotlib import pyplot as plt

from sklearn_conv import make_image_classifier

BENCHMARKS = ROOT / "benchmarks"
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = {
    "speed": "performance",
    "scale": "scale",
    "onnx_speed": "onnx",
    "accuracy": "accuracy",
    "recipes": "recipes",
    "ablations": "ablations",
    "search": "guide/searching",
    "many_features": "guide/many-features",
    "probabilities": "guide/probabilities",
    "maps": "guide/scenes",
}
NEEDS_DATA = {"accuracy", "recipes", "ablations", "probabilities", "many_features"}
NOT_INSTALLED = {
    "torch": {
        "__name__": "torch",
        "__version__": "2.13.0",
        "Tensor": type("Tensor", (), {}),
        "contiguous_format": None,
        "cuda": SimpleNamespace(is_available=lambda: True),
        "library": SimpleNamespace(Library=lambda *_: None),
        "set_num_threads": print,
    },
    "torchgeo": {"__name__": "torchgeo", "__version__": "0.8.1"},
    "torchgeo.models": {"RCF": None},
    "mapie": {"__name__": "mapie", "__version__": "1.6.0"},
    "mapie.regression": {"CrossConformalRegressor": None},
    "kymatio.torch": {"Scattering2D": None},
    "skimage.color": {"rgb2gray": None},
    "skimage.feature": {"hog": None, "local_binary_pattern": None},
}
"""Stand-ins for modules that are used only for measuring, with the attributes that are needed."""


@pytest.fixture(params=PAGES)
def program(request, monkeypatch):
    """Return a benchmark whose page is tested."""
    return load(request.param, NOT_INSTALLED, monkeypatch)


def load(name, stand_ins, monkeypatch):
    """Return a benchmark as a module that is not in `sys.modules`."""
    path = BENCHMARKS / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        for other, attributes in stand_ins.items():
            patch.setitem(sys.modules, other, SimpleNamespace(**attributes))
        spec.loader.exec_module(module)
    return module


def make_up_speed(speed, patch):
    patch(speed, "run_case", lambda case, n_cores, _: speed.Result(case, n_cores, *range(1, 7)))
    levels = [
        SimpleNamespace(name=name, tile_windows=n) for name, n in (("AMX", 32), ("AVX-512", 0))
    ]
    patch(speed.choice, "LIBRARY", SimpleNamespace(levels=levels))
    patch(speed, "make_satellite", lambda *_: print)
    # Few products use vectors.
    used = iter([*map(int, "1011111111" + 2 * "0011111011")])
    patch(speed, "uses_tiles", lambda *_: next(used))
    patch(speed, "measure_least", lambda functions, _: dict.fromkeys(functions, 1))
    patch(speed, "measure_peak", lambda: speed.Peak(1, 1))
    transformer = SimpleNamespace(kernels_=np.zeros(1))
    patch(speed, "make_ours", lambda *_, **__: (transformer, print))
    patch(speed, "make_torch", lambda *_, **__: print)
    patch(speed, "measure", lambda functions, _: dict.fromkeys(functions, 1))
    patch(speed, "compare_times", lambda *_: (1, 1))
    patch(speed, "scaling", lambda _: ([(1, 1)] * 5, [(1, 1)] * 8))


def make_up_scale(scale, patch):
    keys = ["seconds", "GB", "us", "peak", "grown", "solve", "factor", "threads"]
    patch(scale, "measure", lambda *_: dict.fromkeys(keys, 1))


def make_up_onnx_speed(onnx_speed, patch):
    pairs = product(onnx_speed.PIPELINES, onnx_speed.BATCHES)
    patch(onnx_speed, "measure", lambda *_: [onnx_speed.Timing(*pair, 1, 2) for pair in pairs])


def make_up_accuracy(accuracy, patch):
    def measure(task, row, seconds, folder):
        specific = {"epochs": 2} if row.startswith("CNN") else {"features": 10, "made": 1}
        spread = 0.1 if accuracy.TASKS[task].n_seeds > 1 else None
        common = {"row": row, "accuracy": 0.5, "spread": spread, "classifier": 1, "gb": 1}
        return common | specific

    patch(accuracy, "measure", measure)


def make_up_recipes(recipes, patch):
    measured = [*["0.1"] * 5, *["0.3, 4,000, 5"] * 3]
    patch(recipes, "measure_recipe", lambda kind: [kind.name, kind.measured_on, *measured])
    patch(recipes.Search, "run", lambda *_: np.full((3, 4), 0.5))
    efforts = ["1,000", "0.5", "0.5", "+0.1 +- 0.1"]
    patch(recipes, "compare_efforts", lambda kind, _: [kind.name, kind.measured_on, *efforts])
    percentages = ["5.0", *["20"] * 5]
    patch(recipes, "profile", lambda kind, e: [kind.name, kind.measured_on, e, *percentages])


def make_up_ablations(ablations, patch):
    patch(ablations, "measure", lambda *_: ablations.Measured(0.5, 4000, 5.0))


def make_up_search(search, patch):
    result = {"n": 1, "seconds": 1, "scores": [1], "n_fits": 1}
    patch(search, "measure", lambda *_: result)


def make_up_probabilities(probabilities, patch):
    def measure(task, folder):
        few = np.zeros((2, 28, 28) if "Fashion" in task.images else (2, 28, 28, 3))
        novelty = dict.fromkeys(probabilities.other_images(few, folder), np.ones(2))
        correct, confidence = np.array([True, False]), np.array([0.1, 0.9])
        return probabilities.Measured([1.0] * 3, [0.5] * 3, 0.01, correct, confidence, novelty)

    tiles = [None, None, np.zeros((2, 64, 64, 3)), None]
    patch(probabilities, "EUROSAT", SimpleNamespace(load=lambda _: tiles))
    patch(probabilities, "measure", measure)
    patch(probabilities, "measure_intervals", lambda _: np.ones((3, 3)))


def make_up_many_features(many_features, patch):
    def make_features(folder, n_rows, n_features, dtype):
        n = n_rows + many_features.N_TEST
        return np.random.default_rng(0).random((n, n_features), dtype), np.arange(n) % 10

    for name, value in {"SMALL": (300, 64), "N_TEST": 50, "BLOCK": 32}.items():
        patch(many_features, name, value)
    patch(many_features, "make_features", make_features)
    patch(many_features, "measure", lambda *_: ["1", "2", "float32", 3, 4, "5, 6", 7, 8])


def make_up_maps(maps, patch):
    patch(maps, "measure", lambda length, steps, n_jobs: dict.fromkeys(steps, (1, 1, 1, 1)))


MAKE_UP = {
    "speed": make_up_speed,
    "scale": make_up_scale,
    "onnx_speed": make_up_onnx_speed,
    "accuracy": make_up_accuracy,
    "recipes": make_up_recipes,
    "ablations": make_up_ablations,
    "search": make_up_search,
    "probabilities": make_up_probabilities,
    "many_features": make_up_many_features,
    "maps": make_up_maps,
}


def split_page(page):
    """Return the text down to the mark, and the text below it with 0 for each number and sign."""
    above, mark, measured = re.split(r"(<!-- measured: .*-->\n\n)", page.read_text())
    versions, rest = measured.split("\n", maxsplit=1)
    assert versions.startswith("sklearn_conv ")
    return above + mark, re.sub(r"[+-]?\d[\d,.]*", "0", rest)


def test_pages_are_what_the_benchmarks_write(program, monkeypatch, tmp_path):
    name = Path(program.__file__).stem
    page = tmp_path / f"{Path(PAGES[name]).name}.md"
    copy(ROOT / "docs" / f"{PAGES[name]}.md", page)
    before = split_page(page)
    MAKE_UP[name](program, monkeypatch.setattr)
    data = ["--data", str(tmp_path)] if name in NEEDS_DATA else []
    monkeypatch.setattr(sys, "argv", [name, "--page", str(page), *data])
    program.main()
    plt.close("all")
    assert split_page(page) == before


@pytest.mark.parametrize("program", ["accuracy"], indirect=True)
def test_rows_of_accuracies_that_are_not_measured_are_kept(program, monkeypatch, tmp_path):
    page = tmp_path / "accuracy.md"
    copy(ROOT / "docs" / "accuracy.md", page)
    before = program.read_tables(page)
    make_up_accuracy(program, monkeypatch.setattr)
    argv = ["accuracy", "--page", str(page), "--data", str(tmp_path), "--rows", "HOG", "CNN"]
    monkeypatch.setattr(sys, "argv", argv)
    program.main()
    plt.close("all")
    after = program.read_tables(page)
    assert after.keys() == before.keys()
    for task, rows in after.items():
        assert list(rows) == list(before[task])
        for row, cells in rows.items():
            assert (cells == before[task][row]) != (row in {"HOG", "CNN"})
    assert "Measured last: HOG; CNN." in page.read_text()


def test_a_page_without_its_mark_is_not_overwritten(program, monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("written by hand\n")
    with pytest.raises(ValueError, match=f"does not contain .* make {program.TARGET} -->"):
        program.write_page(page, program.TARGET, ["measured"])
    assert page.read_text() == "written by hand\n"


def test_the_model_for_torchgeo_bench_has_the_features_of_the_recipe(monkeypatch):
    class BenchModel(torch.nn.Module):
        def __init__(self, bands, name):
            super().__init__()

        def normalize_inputs(self, images):
            return images / 100

    stand_ins = {
        "hydra": {"compose": None, "initialize_config_module": None},
        "torchgeo_bench.datasets": {"BandSpec": None, "BenchDataset": object, "loading": None},
        "torchgeo_bench.main": {"main": None},
        "torchgeo_bench.models.interface": {"BenchModel": BenchModel},
    }
    images = np.random.RandomState(0).uniform(0, 255, (20, 24, 24, 3)).astype(np.float32)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
    dataset = [{"image": tensor, "label": 0} for tensor in tensors]
    geo_bench = load("geo_bench", stand_ins, monkeypatch)
    model = geo_bench.RecipeRCFBench(bands=[None] * 3, dataset=dataset, name="sklearn_conv")
    found = model._forward_patch_features(model.normalize_inputs(tensors[:5]))
    recipe = make_image_classifier("satellite", effort="fast", random_state=0)["features"]
    shuffled = images[np.random.RandomState(0).permutation(20)] / 100
    expected = recipe.fit(shuffled).transform(images[:5] / 100)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def find_environments():
    """Return pairs of an environment in the Makefile and a program that runs in it."""
    program = r"^[\w-]+: (\S+)\n\t.*?((?:benchmarks|examples)/\w+\.py)"
    pairs = re.findall(program, MAKEFILE, re.MULTILINE)
    others = {
        "$(VENV)/docs": ["docs/*.py", "examples/plot_*.py"],
        "$(VENV)/test": [
            "tests/*.py",
            "examples/*.py",
            "benchmarks/gaussian_kernels.py",
            "benchmarks/mistakes.py",
        ],
    }
    for environment, patterns in others.items():
        paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
        pairs += [(environment, str(path.relative_to(ROOT))) for path in paths]
    return pairs


def imported_packages(path):
    """Return the names of the packages that a file imports, without the standard library."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    local = {"sklearn_conv", *(file.stem for file in path.parent.glob("*.py"))}
    return names - local - set(sys.stdlib_module_names)


@pytest.mark.parametrize(("environment", "file"), find_environments())
def test_environments_have_what_programs_import(environment, file):
    rule = re.search(rf"^{re.escape(environment)}:.*\n(?:\t.*\n)*", MAKEFILE, re.MULTILINE).group()
    (extras,) = re.findall(r'\$\(EDITABLE\) "\.\[(.*)\]"', rule)
    groups = re.findall(r"--group (\S+)", rule)
    requirements = expand_requirements(extras.split(","), groups)
    # "dask[array,distributed]>=2024.11.2" -> dask, array, distributed
    declared = {
        name for line in requirements for name in re.findall(r"[\w-]+", re.split("[<>=]", line)[0])
    }
    other_names = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}
    needed = {other_names.get(name, name) for name in imported_packages(ROOT / file)}
    assert {name.replace("_", "-") for name in needed} <= declared
