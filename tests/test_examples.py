"""The examples run; on small data here, on real photographs where there is a path to them."""

import os
import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.datasets import load_digits

from sklearn_conv.kernels import KERNELS

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments, monkeypatch, **constants):
    """Run an example as a program, with other constants."""
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
    assert {*names["LEARNED"], *names["FIXED"]} == set(KERNELS)


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
    run("fashion_mnist.py", *options, monkeypatch=monkeypatch)
    raw, features = accuracies(capsys.readouterr().out)
    assert features > raw > 0.8


def test_fashion_mnist(tmp_path, monkeypatch, capsys):
    folder = os.environ.get("SKLEARN_CONV_DATA")
    if folder is None:
        pytest.skip("SKLEARN_CONV_DATA is not set: the folder with fashion_mnist.npz")
    with np.load(Path(folder) / "fashion_mnist.npz") as data:
        np.savez(tmp_path / "part.npz", **{name: data[name][:5000] for name in data.files})
    options = ("--data", tmp_path / "part.npz")
    run("fashion_mnist.py", *options, monkeypatch=monkeypatch)
    raw, features = accuracies(capsys.readouterr().out)
    assert features > 0.88
    assert raw < features
