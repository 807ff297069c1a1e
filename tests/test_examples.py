"""Run the examples on small data, and on real photographs if `SKLEARN_CONV_DATA` is set."""

import importlib
import os
import runpy
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.datasets import load_digits

from sklearn_conv.kernels._initializers import KERNELS

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments, monkeypatch, **constants):
    """Run an example as a program in which some constants are replaced."""
    path = str(EXAMPLES / name)
    namespace = runpy.run_path(path, run_name="example")
    namespace["main"].__globals__.update(constants)
    monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
    namespace["main"]()


def accuracies(output):
    lines = [line for line in output.splitlines() if "accuracy on" in line]
    return [float(line.split(": ")[1].split(",")[0]) for line in lines]


def test_digits_grid_search(tmp_path, monkeypatch, capsys):
    picture = tmp_path / "folder" / "picture.png"
    with mpl.rc_context({"backend": "agg"}):
        run(
            "plot_digits_grid_search.py",
            "--output",
            picture,
            monkeypatch=monkeypatch,
            KERNEL_SIZES=[3, 4],
            STRIDES=[1, 3],
        )
    output = capsys.readouterr().out
    assert f"picture: {picture}" in output
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = [line.split() for line in output.splitlines() if line.strip()[0].isdigit()][1:]
    assert [row[:2] for row in table] == [["3", "1"], ["3", "3"], ["4", "1"], ["4", "3"]]


def test_kernels(tmp_path, monkeypatch, capsys):
    with mpl.rc_context({"backend": "agg"}):
        run("plot_kernels.py", "--output", tmp_path / "a" / "b.png", monkeypatch=monkeypatch)
    assert (tmp_path / "a" / "b.png").read_bytes().startswith(b"\x89PNG")
    assert "b.png" in capsys.readouterr().out


def test_the_picture_of_the_kernels_has_all_of_them():
    names = runpy.run_path(str(EXAMPLES / "plot_kernels.py"))
    shown = {*names["LEARNED"], *names["NOT_LEARNED"]}
    assert shown == set(KERNELS), "name it in examples/plot_kernels.py, and draw docs/kernels.png"


PAGES = {
    "plot_windows.py": {},
    "plot_explain_decision.py": {},
    "plot_image_folder.py": {"range(150)": "range(60)", "[1, 2, 4]": "[1, 4]"},
    "plot_textures.py": {"SIDE, STEP = 32, 16": "SIDE, STEP = 32, 24"},
    "plot_defects.py": {"(300, rng)": "(160, rng)", "(700, rng)": "(100, rng)"},
    "plot_cells.py": {"N, SIDE = 400, 32": "N, SIDE = 250, 32"},
    "plot_pixels.py": {"SIDE, scores = 384": "SIDE, scores = 256"},
    "plot_few_labels.py": {"[2, 5, 10, 20, 50], 10": "[2, 10], 3"},
    "plot_stacked_layers.py": {"np.arange(1000)": "np.arange(200)", "(5, 9, 13)": "(5,)"},
    "plot_gpu.py": {"[1, 2, 3], f": "[2, 3], f", "[3, 4, 5]}": "[3, 4]}"},
    "plot_larger_than_memory.py": {"N, N_CLASSES = 6000, 8": "N, N_CLASSES = 2500, 8"},
}
"""Pages of the gallery, with changes that make them faster; `make docs` runs them unchanged."""


@pytest.fixture(name="gallery")
def _gallery(monkeypatch, tmp_path):
    """Return a function that runs a page and returns its global variables."""

    def run_page(name):
        code = (EXAMPLES / name).read_text()
        for text, smaller in PAGES[name].items():
            assert text in code, f"{name} has no {text!r}: change PAGES"
            code = code.replace(text, smaller)
        names = {"__name__": "__main__"}
        exec(compile(code, name, "exec"), names)
        return names

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    with mpl.rc_context({"backend": "agg"}):
        yield run_page
    assert not [*tmp_path.iterdir()], "the page leaves files behind"


def test_every_example_is_run_here_or_above():
    own = {"plot_digits_grid_search.py", "plot_kernels.py"}
    assert {path.name for path in EXAMPLES.glob("plot_*.py")} == {*PAGES, *own}


def test_windows_page(gallery):
    places = gallery("plot_windows.py")["pixels_under"]
    np.testing.assert_array_equal(places((7, 7), 3, 2, 1, "same")[0, 0, 0], [-1, -1])
    np.testing.assert_array_equal(places((7, 7), 3, 1, 2)[1, 2, 5], [1 + 2, 2 + 4])


@pytest.mark.long
def test_explaining_page(gallery):
    names = gallery("plot_explain_decision.py")
    assert names["pipeline"].score(names["test_images"], names["test_labels"]) > 0.97


def test_image_folder_page(gallery):
    assert gallery("plot_image_folder.py")["accuracy"] > 0.8


@pytest.mark.long
def test_textures_page(gallery):
    accuracies = gallery("plot_textures.py")["accuracies"]
    assert accuracies["recipe"] > accuracies["raw pixels"]


@pytest.mark.long
def test_defects_page(gallery):
    names = gallery("plot_defects.py")
    accuracies = names["accuracies"]
    recipe = accuracies["strokes, maximum: recipe for defects"]
    assert recipe > 0.98
    assert recipe > accuracies["recipe for textures"] + 0.1
    assert len(names["best"]) == 10


@pytest.mark.long
def test_cells_page(gallery):
    names = gallery("plot_cells.py")
    assert names["accuracy"] > 0.75
    assert next(iter(names["table"])) == "path"
    code = (EXAMPLES / "plot_cells.py").read_text().split("\n# %%\n")[2]
    lines = [line for line in code.splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 20


@pytest.mark.long
def test_pixels_page(gallery):
    micrograph, scene = gallery("plot_pixels.py")["scores"]
    assert micrograph > 0.6
    assert scene > 0.8


def test_few_labels_page(gallery):
    scores = gallery("plot_few_labels.py")["scores"]
    assert (scores["features"] > scores["raw pixels"]).all()


def test_two_layers_page(gallery):
    scores = gallery("plot_stacked_layers.py")["scores"]
    assert scores["two layers"].mean() > scores["one, 5 x 5"].mean()


@pytest.mark.long
def test_gpu_page(gallery, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed: .[test]")
    if not hasattr(importlib.import_module("sklearn.utils._array_api"), "move_estimator_to"):
        pytest.skip("move_estimator_to is new in scikit-learn 1.9")
    monkeypatch.setenv("SCIPY_ARRAY_API", "0")  # The page sets it; this restores it.
    names = gallery("plot_gpu.py")
    assert isinstance(names["predicted"], torch.Tensor)
    assert names["same"].mean() > 0.99


@pytest.mark.long
def test_larger_than_memory_page(gallery):
    names = gallery("plot_larger_than_memory.py")
    assert names["accuracies"][-1] > names["accuracies"][0]
    assert names["features"].shape == (2500, 512)


def test_stream_of_images(monkeypatch, capsys):
    run("stream_images.py", "--images", 3000, monkeypatch=monkeypatch)
    output = capsys.readouterr()
    assert accuracies(output.out)[0] > 0.5
    assert "peak memory: " in output.out
    assert "Done 3000 out of 3000 images" in output.err


def test_fashion_mnist_on_digits(tmp_path, monkeypatch, capsys):
    digits = load_digits()
    images = np.kron(digits.images, np.ones((1, 3, 3))).astype(np.uint8)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))  # (1797, 28, 28)
    parts = {"X_train": images[:1500], "y_train": digits.target[:1500]}
    parts |= {"X_test": images[1500:], "y_test": digits.target[1500:]}
    np.savez(tmp_path / "digits.npz", **parts)
    options = ("--data", tmp_path / "digits.npz")
    run("fashion_mnist.py", *options, "--effort", "fast", monkeypatch=monkeypatch)
    (accuracy,) = accuracies(capsys.readouterr().out)
    assert accuracy > 0.93


def test_fashion_mnist(tmp_path, monkeypatch, capsys):
    folder = os.environ.get("SKLEARN_CONV_DATA")
    if folder is None:
        pytest.skip("SKLEARN_CONV_DATA is not set: the folder with fashion_mnist.npz")
    with np.load(Path(folder) / "fashion_mnist.npz") as data:
        np.savez(tmp_path / "part.npz", **{name: data[name][:5000] for name in data.files})
    options = ("--data", tmp_path / "part.npz")
    run("fashion_mnist.py", *options, "--effort", "fast", monkeypatch=monkeypatch)
    (accuracy,) = accuracies(capsys.readouterr().out)
    assert accuracy > 0.88
