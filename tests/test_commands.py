"""The commands `sklearn-conv features` and `sklearn-conv classify`, and what all commands share."""

import base64
import csv
import importlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from html.parser import HTMLParser
from inspect import signature
from itertools import chain
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import (
    balanced_accuracy_score,
    log_loss,
    precision_recall_fscore_support,
)
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

import sklearn_conv
from sklearn_conv import (
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    cross_val_table,
    make_image_classifier,
    make_image_regressor,
    read_images,
)
from sklearn_conv._commands.main import main
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import PADDING_MODES
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv._engine.symmetry import SYMMETRIES
from sklearn_conv._reading.formats import MODES, RESIZES
from sklearn_conv._recipes import EFFORTS, RECIPES
from sklearn_conv.kernels._initializers import KERNELS

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: .[images]")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: .[parquet]")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: .[plot]")
pytest.importorskip("cyclopts", reason="Cyclopts is not installed: .[commands]")

classify, console, features, options, regress, report_module = (
    importlib.import_module(f"sklearn_conv._commands.{name}")
    for name in ["classify", "console", "features", "options", "regress", "report"]
)

PROGRAM = [
    sys.executable,
    "-c",
    "from sklearn_conv._commands.main import main; raise SystemExit(main())",
]
CLASSES = ['coarse & <b>"$x$"', "fine", "größe 漢字\n2"]
"""Names of folders in the order of the classes."""


def write_pictures(folder, counts, size=(12, 12)):
    """Write pictures of noise; the coarser the noise, the later the class."""
    rng = np.random.default_rng(0)
    for grain, (label, n) in enumerate(counts.items(), 1):
        (folder / label).mkdir(parents=True)
        for i in range(n):
            side = max(1, 12 // grain)
            noise = rng.integers(256, size=(side, side, 3), dtype=np.uint8)
            Image.fromarray(noise).resize(size[::-1]).save(folder / label / f"{i} <i>&'.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), dict.fromkeys(CLASSES, 8))


@pytest.fixture
def run(capsys):
    """Return a function that runs a command, and returns its exit code and its output."""

    def run_command(*arguments):
        capsys.readouterr()
        # Lines of progress depend on the speed of the machine.
        code = main([*map(str, arguments), *["--quiet"] * (len(arguments) > 1)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


def parse(line):
    """Return the options of a command line, without those of all commands."""
    commands = dict.fromkeys([features.features, classify.classify, regress.regress], "")
    app = options.make_program(commands, "", "")
    return app.parse_args(shlex.split(line), print_error=False, exit_on_error=False)[1].kwargs


@pytest.mark.parametrize(
    ("command", "functions", "choices"),
    [
        (
            "features",
            (StridedConv2DTransformer, read_images),
            (KERNELS, ACTIVATIONS, PADDING_MODES, POOLINGS, {*SYMMETRIES} - {None}, MODES, RESIZES),
        ),
        ("classify", (make_image_classifier, read_images), (RECIPES, EFFORTS, MODES, RESIZES)),
        ("regress", (make_image_regressor, read_images), (RECIPES, EFFORTS, MODES, RESIZES)),
    ],
)
def test_the_help_has_every_parameter_and_every_choice(run, command, functions, choices):
    without = {"image_shape", "n_jobs", "verbose", "source", "parameters", "load_func"}
    _, shown, _ = run(command, "--help")
    for function in functions:
        for name in {*signature(function).parameters} - without:
            assert f" --{name.replace('_', '-')}" in shown
    assert "[default: 0]" in shown[shown.index("--random-state") :]
    for name in chain.from_iterable(choices):
        assert name in shown


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ("--n-kernels 256", "n_kernels", 256),
        ("--kernel-size 3", "kernel_size", 3),
        ("--stride 3,5", "stride", (3, 5)),
        ("--stride '(3, 5)'", "stride", (3, 5)),
        ("--padding 2", "padding", 2),
        ("--padding=2,0", "padding", (2, 0)),
        ("--bias -0.25", "bias", -0.25),
        ("--bias quantile", "bias", "quantile"),
        ("--bias '[[-0.25], [-1.0]]'", "bias", [[-0.25], [-1.0]]),
        ("--normalize-patches", "normalize_patches", True),
        ("--no-flatten", "flatten", False),
        ("--whiten", "whiten", True),
        ("--whiten 0.01", "whiten", 0.01),
        ("--whiten 1", "whiten", 1.0),
        ("--no-whiten", "whiten", False),
        ("--pooling mean,max", "pooling", ["mean", "max"]),
        ("--pooling none", "pooling", None),
        ("--pool-grid 1,2", "pool_grid", (1, 2)),
        ("--pool-grid '[1, 2, 4]'", "pool_grid", [1, 2, 4]),
        ("--size 64,48", "size", (64, 48)),
        ("--size any", "size", "any"),
    ],
)
def test_values_of_options(arguments, name, value):
    given = parse(f"features {arguments} -o a.npy folder")
    assert (given[name], type(given[name])) == (value, type(value))
    assert {*given} == {name, "output"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("feature", 'Did you mean "features"?'),
        ("features -o a.npy", "FOLDER requires an argument. See sklearn-conv features --h"),
        ("features a", "--output requires an argument"),
        ("features a -o a.npy --n-kernel 3", "Did you mean --n-kernels?"),
        ("features a -o a.npy --xyz=3", "Unknown option: --xyz"),
        ("features a b -o a.npy", "unexpected argument 'b'; join numbers by commas"),
        ("features a -o a.npy --n-kernels many", "n integer of at least 1. Got 'm"),
        ("features a -o a.npy --stride 1,2,3", 'Invalid value "(1, 2, 3)" for --st'),
        ("features a -o a.npy --size 64", "size=(64, 48) is --size 64,48"),
        ("features a -o a.npy --size 64 48", "size=(64, 48) is --size 64,48"),
        ("features a -o a.npy --size 64x48", "size=(64, 48) is --size 64,48"),
        ("features a -o a.npy --resize cut", "one of ['crop', 'pad', 'stretch']"),
        ("features a -o a.npy --on-error x", "one of ['raise', 'skip']"),
        ("features a -o a.csv", "for -o. It must end in .parquet or .npy."),
        ("features a -o a.npy --save-model m", "must end in .skops or .joblib or .pkl"),
        ("features . -o a.npy --n-jobs 0", "None or an integer other than 0"),
        ("features . -o a.npy --size 0,3", "a pair (height, width) of integers"),
        ("classify a -o a.html", "--kind requires an argument"),
        ("classify a -o a.html --kind cats", "one of ['characters', 'defects', "),
        ("classify a -o a.html --kind tiny --folds 1", "at least 2"),
        ("classify a -o a.html --kind tiny --folds 2.5", "Got 2.5"),
        ("features . -o a.npy --n-jobs 1.5", "Got 1.5"),
        ("classify a -o a.pdf --kind tiny", "It must end in .html"),
        ("classify a -o a.html --kind tiny --size any", "such as --size 64,64"),
        ("regress a -o a.html --kind tiny --target b", "--table requires an argument"),
        ("regress a -o a.html --kind tiny --table b", "--target requires an argument"),
        ("regress a -o a.html --table b --target c", "--kind requires an argument"),
        ("regress a -o a.html --kind tiny --table b --target c --size any", "such as --size 64,64"),
    ],
)
def test_wrong_usage(run, line, message):
    code, out, err = run(*shlex.split(line))
    assert (code, out) == (2, "")
    assert err.startswith("sklearn-conv: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_help_and_version(run):
    for command in ("features", "classify", "regress"):
        code, out, _ = run(command, "--help")
        assert code == 0
        for part in ("FOLDER", "Examples:", "default: RGB", "--save-model", "(64, 48) is 64,48"):
            assert part in " ".join(out.replace("│", "").split())
    assert run()[1] == run("--help")[1]
    assert run("--version") == (0, f"sklearn-conv {sklearn_conv.__version__}\n", "")


def test_examples_of_the_help_can_be_parsed():
    for module in (features, classify, regress):
        for line in module.EXAMPLES.replace("\\\n", "").splitlines():
            assert "output" in parse(line.removeprefix("| sklearn-conv "))


def start(*arguments, python=(), **environment):
    """Run the program in a process of its own."""
    code = "import sys; from sklearn_conv._commands.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, *python, "-c", code, *map(str, arguments)],
        capture_output=True,
        env=os.environ | environment,
        cwd=ROOT,
    )


@pytest.mark.long
def test_options_need_no_docstrings_and_no_unicode(pictures, tmp_path):
    """With python -OO, the help has no texts, but the commands do the same."""
    arguments = [pictures, "-o", tmp_path / "a.npy", "--size", "6,8", "--stride", "2,3", "--whiten"]
    result = start("features", *arguments, "--n-kernels", "4", "--quiet", python=["-OO"])
    assert (result.returncode, result.stderr) == (0, b"")
    transformer = StridedConv2DTransformer(4, stride=(2, 3), whiten=True, random_state=0)
    expected = transformer.fit_transform(read_images(pictures, size=(6, 8)))
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, rtol=1e-5, atol=1e-6)
    shown = start("features", "--help", python=["-OO"], PYTHONIOENCODING="ascii").stdout
    assert b"| --n-kernels" in shown
    assert b"Number of kernels" not in shown


def test_without_the_extra_a_line_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "cyclopts", None)
    code, out, err = run("features", "--help")
    assert (code, out) == (1, "")
    assert err.startswith("sklearn-conv: error: Cyclopts is not installed; run pip inst")
    assert '"sklearn-conv[commands,' in err
    assert err.count("\n") == 1


def test_an_interrupt_during_the_imports_is_one_line(run, monkeypatch):
    class Interrupt:
        def find_spec(self, name, path, target=None):
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "sklearn_conv._commands.features")
    monkeypatch.delattr("sklearn_conv._commands.features")
    monkeypatch.setattr(sys, "meta_path", [Interrupt()])
    monkeypatch.setattr("sklearn_conv._commands.main.find_spec", lambda name: name)
    assert run("features", "--help") == (130, "", "sklearn-conv: interrupted\n")


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_closed_and_full_outputs(pictures, tmp_path):
    line = f"-o {tmp_path}/a.npy --size 8,8 --n-kernels 2"
    outputs = [("2>&-", 0), (">&-", 0), ("> /dev/full", 1), ("--whiten x 2>&-", 2)]
    numpy_alone = f"{shlex.quote(sys.executable)} -c 'import numpy.f2py' 2>&-"
    if subprocess.run(numpy_alone, shell=True).returncode:  # It needs standard error.
        outputs = [each for each in outputs if "2>&-" not in each[0]]
    for redirection, code in outputs:
        command = (
            f"{shlex.join(PROGRAM)} features {shlex.quote(str(pictures))} {line} {redirection}"
        )
        for unbuffered in "1", "":
            done = subprocess.run(
                command,
                shell=True,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            )
            assert done.returncode == code


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes of Unix")
def test_work_goes_on_if_nobody_reads_the_warnings(tmp_path):
    for name in "ab":
        (tmp_path / "pictures" / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "a" / "1.png")
    Image.new("RGB", (8, 8), "white").save(tmp_path / "pictures" / "a" / "2.png")
    out = str(tmp_path / "a.npy")
    arguments = ["features", str(tmp_path / "pictures"), "-o", out, "--n-kernels", "2"]
    ends = os.pipe()
    os.close(ends[0])
    done = subprocess.run([*PROGRAM, *arguments, "--kernel-size", "3,3"], stderr=ends[1])
    os.close(ends[1])
    assert done.returncode == 0
    assert len(np.load(out)) == 2


def compute(pictures, **parameters):
    """Compute features with the classes of the package."""
    images = np.asarray(read_images(pictures, size=(8, 8)))
    transformer = StridedConv2DTransformer(random_state=0, **parameters).fit(images)
    return transformer, transformer.transform(images)


def test_the_table_is_that_of_the_package(run, pictures, tmp_path):
    arguments = ["--n-kernels", 4, "--kernels", "patches", "--pooling", "mean,max", "--size", "8,8"]
    output = tmp_path / "a.parquet"
    code, out, err = run("features", pictures, "-o", output, *arguments, "--n-jobs", 2)
    assert (code, err) == (0, "")
    assert re.fullmatch(re.escape(f"{output}: 24 rows, 32 features, ") + r"\d+\.\d s\n", out)
    transformer, expected = compute(
        pictures, n_kernels=4, kernels="patches", pooling=["mean", "max"]
    )
    table = pd.read_parquet(output)
    names = ["path", "label", *transformer.get_feature_names_out()]
    assert [*table.columns] == names
    np.testing.assert_allclose(table.iloc[:, 2:], expected, rtol=1e-5)
    files = read_images(pictures, size=(8, 8))
    assert [*table["path"]] == [*files.paths]
    assert [*table["label"]] == [*files.labels] == [*np.repeat(CLASSES, 8)]


def test_a_flat_folder_has_no_labels_and_npy_has_only_features(run, pictures, tmp_path):
    output = tmp_path / "a.parquet"
    assert run("features", pictures / "fine", "-o", output, "--n-kernels", 4)[0] == 0
    assert [*pd.read_parquet(output).columns[:2]] == ["path", "kernel000_mean_r0_c0"]
    pattern = f"{pictures}/fine/*.png"
    assert (
        run("features", pattern, "-o", tmp_path / "a.npy", "--n-kernels", 4, "--no-flatten")[0] == 0
    )
    assert np.load(tmp_path / "a.npy").shape == (8, 2, 2, 4)
    table = pd.read_parquet(output).iloc[:, 1:]
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy").reshape(8, 16), table)


def test_names_that_the_output_cannot_encode(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    arguments = [str(pictures), "-o", str(tmp_path / "größe.npy"), "--n-kernels", "2"]
    assert main(["features", *arguments]) == 0
    sys.stdout.flush()
    assert b"gr\\xf6\\xdfe.npy: 24 rows" in sys.stdout.buffer.getvalue()


def test_images_that_keep_their_sizes(run, tmp_path):
    folder = write_pictures(tmp_path / "a", {"one": 2})
    write_pictures(tmp_path / "b", {"two": 3}, (20, 9))
    (tmp_path / "b" / "two").rename(folder / "two")
    code, _, err = run("features", folder, "-o", tmp_path / "a.npy")
    assert code == 1
    assert err.startswith(
        "sklearn-conv: error: The images do not agree in height and width: 3 of 5"
    )
    assert err.endswith(
        "to keep their sizes. On the command line, size=(64, 48) is --size 64,48.\n"
    )
    assert err.count("\n") == 1
    model = tmp_path / "model.joblib"
    arguments = ["--size", "any", "--save-model", model]
    assert run("features", folder, "-o", tmp_path / "a.npy", *arguments)[0] == 0
    files = read_images(folder, "any")
    transformer = StridedConv2DTransformer(image_shape="any", random_state=0).fit(files)
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), transformer.transform(files))
    np.testing.assert_allclose(
        joblib.load(model).transform(files.paths), transformer.transform(files)
    )


def test_a_saved_model_computes_the_same_features(run, pictures, tmp_path):
    first, second, model = (tmp_path / name for name in ("a.npy", "b.npy", "model.joblib"))
    arguments = ["--size", "8,10", "--mode", "L", "--resize", "pad", "--random-state", "none"]
    code, out, _ = run("features", pictures, "-o", first, *arguments, "--save-model", model)
    assert code == 0
    assert out.endswith(f"{model}: the fitted model\n")
    code, _, err = run("features", pictures, "-o", second, "--model", model, "--n-jobs", 2)
    assert (code, err) == (0, "")
    np.testing.assert_allclose(np.load(first), np.load(second), rtol=1e-6)
    loaded = joblib.load(model)
    np.testing.assert_array_equal(loaded.transform(read_images(pictures).paths), np.load(first))
    for option in (
        ["--n-kernels", 3],
        ["--pooling", "none"],
        ["--size", "8,8"],
        ["--save-model", tmp_path / "b.joblib"],
    ):
        code, _, err = run("features", pictures, "-o", second, "--model", model, *option)
        assert code == 2
        assert f"{option[0]} cannot be used with --model" in err


def test_models_from_python(run, pictures, tmp_path):
    images = np.asarray(read_images(pictures, size=(8, 8)))
    labels = np.repeat(CLASSES, 8)
    transformer = StridedConv2DTransformer(4, random_state=0, verbose=10)
    union = make_union(transformer, StridedConv2DTransformer(3, random_state=1))
    pipeline = make_pipeline(union, StandardScaler(), StreamingRidgeClassifier())
    search = GridSearchCV(pipeline, {"standardscaler__with_std": [False]}, cv=2)
    model, output = tmp_path / "model.pkl", tmp_path / "a.parquet"
    for fitted, steps in (
        (transformer.fit(images), transformer),
        (pipeline.fit(images, labels), pipeline[:-1]),
        (search.fit(images, labels), search.best_estimator_[:-1]),
    ):
        joblib.dump(fitted, model)
        code, out, err = run("features", pictures, "-o", output, "--model", model, "--size", "8,8")
        assert (code, err) == (0, "")
        assert f"24 rows, {len(steps.get_feature_names_out())} features" in out
        expected = steps.transform(images)
        np.testing.assert_allclose(pd.read_parquet(output).iloc[:, 2:], expected, rtol=1e-5)


BAD_MODELS = {
    "not a model": (b"text", "is not a model that was saved with joblib.dump"),
    "not an estimator": ({"a": 3}, "contains a dict that does not compute features"),
    "a pipeline of a classifier": (make_pipeline(RandomForestClassifier()), "contains a Pipeline"),
    "only a classifier": (RandomForestClassifier(), "contains a RandomForestClassifier that does"),
    "not fitted": (StridedConv2DTransformer(), "is not fitted yet"),
    "other images": (
        StridedConv2DTransformer(2, random_state=0).fit(np.zeros((3, 5, 5, 3))),
        "(5, 5, 3)",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models(run, pictures, tmp_path, name):
    value, message = BAD_MODELS[name]
    path = tmp_path / "model.joblib"
    path.write_bytes(value) if isinstance(value, bytes) else joblib.dump(value, path)
    code, out, err = run("features", pictures, "-o", tmp_path / "a.npy", "--model", path)
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith("sklearn-conv: error: ")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["model.joblib"]


def bad_folders(folder):
    """Write folders that cannot be classified, and return the messages."""
    write_pictures(folder / "one class", {"a": 3})
    write_pictures(folder / "one image", {"a": 3, "b": 1})
    write_pictures(folder / "damaged", {"a": 3, "b": 3})
    (folder / "damaged" / "b" / "bad.png").write_bytes(b"")
    write_pictures(folder / "sizes", {"a": 3})
    write_pictures(folder / "sizes" / "b", {"b": 2}, (8, 12))
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        ("both", "nothing", "does not exist; source must be a folder"),
        ("both", "nothing*", "matches no files"),
        ("both", "empty", "contains no images; images are files with one of the suffixes"),
        (
            "both",
            "damaged",
            "bad.png' cannot be read: it is empty. To leave out files that cannot be read, add --",
        ),
        ("both", "sizes", "Set size=(height, width) to scale all images"),
        ("classify", "one class", "does not contain several folders with images"),
        ("classify", "one class/a", "Put the images of each class"),
        ("classify", "one image", "there is only one in 'b'; add images"),
    ],
)
def test_bad_folders(run, tmp_path, command, name, message):
    folder = bad_folders(tmp_path / "folders")
    for each in ["features", "classify"] if command == "both" else [command]:
        output = ["-o", tmp_path / ("a.parquet" if each == "features" else "a.html")]
        more = ["--kind", "tiny"] if each == "classify" else []
        code, out, err = run(each, folder / name, *output, *more)
        assert (code, out) == (1, "")
        assert message in err
        assert err.startswith("sklearn-conv: error: ")
        assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["folders"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/a.html", "The folder of this path does not exist"),
        ("folder.html", "This path is a folder; add the name of a file"),
        ("link.html", "This path is a symbolic link"),
        ("locked.html", "This file may not be overwritten"),
    ],
)
def test_the_output_is_checked_before_the_work(run, pictures, tmp_path, monkeypatch, name, message):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "locked.html").touch()
    (tmp_path / "link.html").symlink_to(tmp_path / "locked.html")
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path.stem != "locked" and access(path, mode)
    )
    monkeypatch.setattr(options, "find_images", None)  # An error if images are read.
    code, out, err = run("classify", pictures, "-o", tmp_path / name, "--kind", "tiny")
    assert (code, out) == (1, "")
    assert err.startswith(f"sklearn-conv: error: '{tmp_path / name}': {message}")


def test_a_missing_library_names_the_extra(run, pictures, tmp_path, monkeypatch):
    for name, command, library in [
        ("a.parquet", ["features"], "sklearn_conv._saving.parquet"),
        ("a.html", ["classify", "--kind", "tiny"], "sklearn_conv._commands.report"),
    ]:
        monkeypatch.setitem(sys.modules, library, None)
        code, _, err = run(*command, pictures, "-o", tmp_path / name)
        assert code == 1
        assert 'run pip install "sklearn-conv[commands,geo,images,parquet,plot]"' in err
        assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_errors_that_were_not_expected(run, pictures, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("a\nb")

    monkeypatch.setattr(features, "save_batches", fail)
    arguments = ["features", pictures, "-o", tmp_path / "a.npy"]
    code, _, err = run(*arguments)
    assert (code, err) == (1, "sklearn-conv: error: KeyError: 'a\\nb'\n")
    code, _, err = run(*arguments, "--traceback")
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert "in fail" in err


def test_warnings_are_single_lines(run, pictures, tmp_path, monkeypatch):
    def save(*arguments, **options):
        for _ in range(2):
            warnings.warn("two\nlines; set kernel_size=(3, 4)", UserWarning, stacklevel=1)

    monkeypatch.setattr(features, "save_batches", save)
    code, _, err = run("features", pictures, "-o", tmp_path / "a.npy")
    assert (code, err) == (0, "sklearn-conv: warning: two lines; set kernel_size=(3, 4)\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    shown = console.Console(is_quiet=False)
    with shown.progress("Working", 4) as update:
        update(1)
        shown.say("warning: look")
        update(2)
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search("Working .* 2 of 4 images", text)
    assert "sklearn-conv: warning: look\n" in text
    assert terminal.getvalue().endswith("\x1b[2K")  # The bar is erased.


def test_progress_in_a_file(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console, "monotonic", lambda: now[0])
    with console.Console(is_quiet=False).progress("Working", 100) as update:
        for i in range(1, 101):
            now[0] = i / 4
            update(i)
    assert capsys.readouterr().err.splitlines() == [
        "Working: 40 of 100 images, 15.0 s left",
        "Working: 80 of 100 images, 5.0 s left",
        "Working: 100 images in 25.0 s",
    ]
    with console.Console(is_quiet=True).progress("Working", 2) as update:
        now[0] = 100.0
        update(1)
    assert capsys.readouterr().err == ""


class Page(HTMLParser):
    """Parse a report, and check that its elements are closed in order."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.links, self.ids, self.texts = [], [], [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        if tag == "img":
            self.images.append(values)
        elif tag == "a":
            self.links.append(values["href"])
        assert not {*values} & {"onclick", "onload", "onerror"}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Classify a folder with a damaged file, and return the folder, the report and its text."""
    folder = tmp_path_factory.mktemp("classify")
    pictures = write_pictures(folder / "pictures <&>", dict.fromkeys(CLASSES, 8))
    # Coarse pictures in the wrong folder are mistakes.
    for i in range(3):
        source = pictures / CLASSES[2] / f"{i} <i>&'.png"
        (pictures / "fine" / f"wrong {i}.png").write_bytes(source.read_bytes())
    (pictures / "fine" / "<script>\t.png").write_bytes(b"nothing")
    arguments = ["--kind", "tiny", "--effort", "fast", "--size", "10,10", "--on-error", "skip"]
    output, model = folder / "report.html", folder / "model.joblib"
    arguments += ["--folds", "4", "--quiet", "-o", str(output), "--save-model", str(model)]
    assert main(["classify", str(pictures), *arguments]) == 0
    return pictures, model, output.read_text(encoding="utf-8")


def cross_validation(pictures):
    with pytest.warns(UserWarning, match="^Files are identical: 3 of 27 images"):
        files = read_images(pictures, size=(10, 10), on_error="skip")
    pipeline = make_image_classifier("tiny", effort="fast", random_state=0)
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    return pipeline, np.asarray(files), files.labels, folds


def test_the_report_is_one_page_that_loads_nothing(report):
    _, _, text = report
    page = Page(text)
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r'"data:[^"]*"', "", text))
    assert {*page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "b"),
        *("nav", "a", "section", "table", "thead", "tbody", "tr", "th", "td", "figure", "img"),
        *("figcaption", "pre", "dl", "dt", "dd", "details", "summary"),
    }
    assert {link.removeprefix("#") for link in page.links} <= {*page.ids}
    assert len(page.links) == 9
    for image in page.images:
        assert image["alt"]
        kind, _, content = image["src"].partition(",")
        is_small = image.get("loading") == "lazy"
        assert kind == f"data:image/{'jpeg' if is_small else 'png'};base64"
        size = min(Image.open(io.BytesIO(base64.b64decode(content))).size)
        assert size <= 48 if is_small else size > 200


def test_the_report_says_what_was_measured(report):
    pictures, _, text = report
    pipeline, images, labels, folds = cross_validation(pictures)
    scores = cross_val_score(pipeline, images, labels, cv=folds)
    page = Page(text)
    cells = page.texts["td"]
    assert f"{scores.mean():.3f} ± {scores.std():.3f}" in page.texts["b"]
    assert f"{11 / 27:.3f}" in page.texts["b"]
    assert cells[:8] == [x for i, s in enumerate(scores, 1) for x in (str(i), f"{s:.3f}")]
    predicted = cross_val_predict(pipeline, images, labels, cv=folds)
    shown = [name.replace("\n", "\\n") for name in CLASSES]
    scores = precision_recall_fscore_support(labels, predicted)
    for name, *values, n in zip(shown, *scores, strict=True):
        start = cells.index(name)
        assert cells[start + 1 : start + 4] == [f"{value:.3f}" for value in values]
        assert cells[start + 4] == f"{values[1] * n:.0f} of {n}"
    probabilities = cross_val_predict(pipeline, images, labels, cv=folds, method="predict_proba")
    assert f"{balanced_accuracy_score(labels, predicted):.3f}" in page.texts["b"]
    start = cells.index("tiny, fast")
    assert cells[start + 3] == f"{log_loss(labels, probabilities):.3f}"
    n_wrong = (predicted != labels).sum()
    assert f"The predictions for {n_wrong} of 27 images are wrong." in text
    captions = page.texts["figcaption"]
    assert sum("wrong 1.png" in caption for caption in captions) == 2
    assert sum(image.get("loading") == "lazy" for image in page.images) == n_wrong
    assert any(f"true class fine, predicted {shown[2]}" in caption for caption in captions)
    everything = "".join(map("".join, page.texts.values()))
    for part in (
        "<script>\\t.png",
        "header is damaged",
        "10 x 10 pixels",
        "12 x 12",
        "make_image_classifier('tiny', effort='fast', random_state=0)",
        "size=(10, 10)",
        "sklearn-conv classify",
        "StreamingRidgeClassifier(",
        "scikit-learn: ",
    ):
        assert part in everything


def test_the_report_names_identical_files(run, report, tmp_path):
    pictures, _, text = report
    _, _, labels, folds = cross_validation(pictures)
    with pytest.warns(UserWarning, match="identical"):
        files = read_images(pictures, size=(10, 10), on_error="skip")
    fold_of = {
        path: str(k)
        for k, (_, test) in enumerate(folds.split(labels, labels), 1)
        for path in files.paths[test].tolist()
    }
    cells = Page(text).texts["td"]
    for i in range(3):
        paths = pictures / "fine" / f"wrong {i}.png", pictures / CLASSES[2] / f"{i} <i>&'.png"
        start = cells.index(", ".join(map(console.printable, map(str, paths))))
        assert cells[start + 1] == f"fine, {console.printable(CLASSES[2])}"
        in_folds = [fold_of[str(path)] for path in paths]
        if len({*in_folds}) > 1:
            assert cells[start + 2] == ", ".join(in_folds)
    assert (
        "3 images are stored in several\nidentical files, 3 of them in several classes, and" in text
    )
    folder = write_pictures(tmp_path / "pictures", {"a": 6, "b": 6})
    name = "0 <i>&'.png"
    (folder / "a" / "1 same.png").write_bytes((folder / "a" / name).read_bytes())
    output = tmp_path / "report.html"
    arguments = ["--kind", "tiny", "--effort", "fast", "--folds", 2, "-o", output]
    assert run("classify", folder, *arguments)[0] == 0
    text = output.read_text(encoding="utf-8")
    assert (
        "1 image is stored in several\nidentical files, 0 of them in several classes, and" in text
    )
    (folder / "a" / "1 same.png").unlink()
    assert run("classify", folder, *arguments)[::2] == (0, "")
    assert "dentical files" not in output.read_text(encoding="utf-8")


def test_the_saved_model_takes_paths(report):
    pictures, model, _ = report
    with pytest.warns(UserWarning, match="^Files are identical: 3 of 27 images"):
        files = read_images(pictures, size=(10, 10), on_error="skip")
    fitted = make_image_classifier("tiny", effort="fast", random_state=0)
    fitted.fit(np.asarray(files), files.labels)
    loaded = joblib.load(model)
    np.testing.assert_array_equal(loaded.predict(files.paths[::3]), fitted.predict(files[::3]))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_evidence_is_that_of_a_model_which_has_not_seen_the_image(report, n_classes):
    pipeline, images, labels, folds = cross_validation(report[0])
    chosen = np.isin(labels, CLASSES[-n_classes:])
    images, labels = images[chosen], labels[chosen]
    splits = [*folds.split(labels, labels)]
    result = report_module.evaluate(pipeline, images, labels, splits, print)
    assert result.no_evidence == ""
    assert len(result.mistakes) >= 3
    margins = [mistake.margin for mistake in result.mistakes]
    assert margins == sorted(margins, reverse=True)
    for mistake in result.mistakes:
        np.testing.assert_allclose(mistake.evidence.sum(), mistake.margin, rtol=1e-4, atol=1e-4)
        assert mistake.evidence.shape == (10, 10)
        train = next(train for train, test in splits if mistake.row in test)
        model = pipeline.fit(images[train], labels[train])
        decisions = model.decision_function(images[[mistake.row]])[0]
        assert model.predict(images[[mistake.row]])[0] == mistake.predicted
        by_class = [-decisions, decisions] if n_classes == 2 else decisions
        classes = model.classes_.tolist()
        true, predicted = (classes.index(x) for x in (labels[mistake.row], mistake.predicted))
        np.testing.assert_allclose(
            by_class[predicted] - by_class[true], mistake.margin, rtol=1e-4, atol=1e-4
        )


def test_a_model_that_is_not_linear_has_no_evidence(run, report, tmp_path):
    output = tmp_path / "a.html"
    arguments = ["--kind", "defects", "--effort", "fast", "--folds", 2, "--on-error", "skip"]
    code, out, err = run("classify", report[0], "-o", output, *arguments)
    assert code == 0
    assert err.startswith("sklearn-conv: warning: Files are identical: 3 of 27 images")
    assert err.count("warning") == 1
    assert out.startswith("skipped: ")
    page = Page(output.read_text(encoding="utf-8"))
    assert any("does not show where" in text and "'max'" in text for text in page.texts["p"])
    assert not any("evidence" in image["alt"] for image in page.images)
    assert "Making kernels" in page.texts["td"]


def test_images_that_do_not_fit_into_memory_are_read_again(run, pictures, tmp_path, monkeypatch):
    texts = []
    monkeypatch.setattr(
        report_module,
        "write_report",
        lambda path, *values: path.write_text(str(values[-1]["classes"]), encoding="utf-8"),
    )
    for memory in (2**29, 0):
        monkeypatch.setattr(classify, "MEMORY", memory)
        arguments = ["--kind", "tiny", "--effort", "fast", "--folds", 2]
        assert run("classify", pictures, "-o", tmp_path / "a.html", *arguments)[0] == 0
        texts.append((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert texts[0] == texts[1]


def test_few_images_make_few_folds(run, tmp_path):
    folder = write_pictures(tmp_path / "a", {"one": 6, "two": 3})
    arguments = ["--kind", "tiny", "--effort", "fast"]
    code, out, err = run("classify", folder, "-o", tmp_path / "a.html", *arguments)
    assert code == 0
    assert "class 'two' has 3 images only, so there are 3 folds instead of 5" in err
    assert "in 3 folds; balanced accuracy 1.000; colors" in out
    assert "most frequent class 0.667" in out


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    """Write pictures whose names begin with one of 4 groups, and a table of the groups."""
    folder = write_pictures(tmp_path_factory.mktemp("grouped") / "pictures", {"a": 8, "b": 12})
    rows = [["group", "path"]]
    for path in sorted(folder.rglob("*.png")):
        number = int(path.name.split()[0])
        renamed = path.rename(path.with_name(f"p{number % 4} {number}.png"))
        rows.append([f"patient {number % 4}", renamed.relative_to(folder)])
    with open(folder.parent / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.mark.parametrize("by_table", [False, True])
def test_groups_and_predictions_are_those_of_python(run, grouped, tmp_path, by_table):
    table = ["--groups", "group", "--table", grouped.parent / "table.csv"]
    groups = table if by_table else ["--groups", "/p([0-9])"]
    output, predictions = tmp_path / "a.html", tmp_path / "a.csv"
    arguments = ["--kind", "tiny", "--effort", "fast", "--folds", 4, "--predictions", predictions]
    code, out, err = run("classify", grouped, "-o", output, *arguments, *groups)
    assert (code, err) == (0, "")
    assert out.endswith(f"{predictions}: the predictions for 20 images\n")
    files = read_images(grouped)
    numbers = [re.search("p([0-9])", path)[1] for path in files.paths]
    names = [f"patient {number}" if by_table else number for number in numbers]
    expected = cross_val_table(
        make_image_classifier("tiny", effort="fast", random_state=0),
        files,
        files.labels,
        groups=names,
        cv=StratifiedGroupKFold(4, shuffle=True, random_state=0),
    )
    expected = pd.DataFrame(expected)
    shown = pd.read_csv(predictions, dtype={"group": str})
    pd.testing.assert_frame_equal(shown, expected, check_dtype=False, rtol=1e-5)
    assert shown.groupby("group")["fold"].nunique().max() == 1
    assert "Images of one group are in one fold." in output.read_text(encoding="utf-8")


def test_efforts_are_compared_on_the_same_folds(run, grouped, tmp_path):
    output = tmp_path / "a.html"
    arguments = ["--kind", "tiny", "--effort", "fast", "--folds", 2, "--compare"]
    assert run("classify", grouped, "-o", output, *arguments)[0] == 0
    cells = Page(output.read_text(encoding="utf-8")).texts["td"]
    images = np.asarray(files := read_images(grouped))
    cv = StratifiedKFold(2, shuffle=True, random_state=0)
    for effort in ("fast", "balanced", "best"):
        model = make_image_classifier("tiny", effort=effort, random_state=0)
        scores = cross_val_score(model, images, files.labels, cv=cv)
        row = cells[cells.index(f"tiny, {effort}") :]
        assert row[1] == f"{scores.mean():.3f} ± {scores.std():.3f}"
        assert cells.count(f"tiny, {effort}") == 1


def test_the_baseline_sees_colors_and_patterns(monkeypatch):
    images = np.random.default_rng(0).integers(256, size=(70, 9, 8, 3), dtype=np.uint8)
    calls = []

    def local_binary_pattern(gray, n_points, radius, method):
        calls.append((gray.dtype, n_points, radius, method))
        return np.full(gray.shape, 9.0)

    module = SimpleNamespace(local_binary_pattern=local_binary_pattern)
    for is_installed, found in ((False, None), (True, module)):
        monkeypatch.setattr(report_module, "find_spec", {"skimage": found}.get)
        monkeypatch.setitem(sys.modules, "skimage", SimpleNamespace(feature=module))
        monkeypatch.setitem(sys.modules, "skimage.feature", module)
        columns, name = report_module.describe_colors(images)
        pixels = images.reshape(70, 72, 3)
        np.testing.assert_allclose(
            columns[:, :6], np.concatenate([pixels.mean(1), pixels.std(1)], 1)
        )
        assert columns.shape == (70, 16 if is_installed else 6)
        assert ("patterns" in name) == is_installed
    np.testing.assert_array_equal(columns[:, 6:], np.eye(10)[[9] * 70] * 72)
    assert calls == [(np.dtype(np.uint8), 8, 1, "uniform")] * 70


def test_two_thousand_mistakes_fit_into_a_page(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(256, size=(2000, 48, 64, 3), dtype=np.uint8)
    mistakes = [report_module.Mistake(i, "b", 1.0, None) for i in range(2000)]
    table = {"label": np.repeat(["a", "b"], [2000, 10]), "predicted": np.full(2010, "b")}
    table |= {"probability_a": np.full(2010, 0.3), "probability_b": np.full(2010, 0.7)}
    table |= {"novelty": np.linspace(0, 1, 2010), "fold": np.arange(2010) % 2}
    files = SimpleNamespace(paths=np.arange(2010).astype(str), labels=table["label"])
    files.identical = []
    scores = [report_module.score("model", table, 1.0)] * 2
    evaluation = report_module.Evaluation(table, mistakes, "")
    results = report_module.describe_classification(evaluation, scores, files, images)
    [(kind, shown)] = results["small"]
    assert (kind, len(shown), results["n_left"]) == ("of a, predicted as b", 2000, 0)
    assert sum(len(each["picture"]) for each in shown) < 5.01e6
    assert [each["path"] for each in shown[:3]] == ["0", "1", "2"]
    assert results["novel"] == [str(i) for i in range(2009, 1988, -1)]
    assert results["calibration_error"] == pytest.approx(0.7 - 10 / 2010)
    monkeypatch.setattr(report_module, "MAX_BYTES", 10_000)
    results = report_module.describe_classification(evaluation, scores, files, images)
    assert 2 < len(results["small"][0][1]) == 2000 - results["n_left"] < 10


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_small_pictures_have_their_proportions_and_all_levels(channels):
    image = np.linspace(-5, 7, 100 * 300 * channels).reshape(100, 300, channels)
    uri = report_module.draw_small(image)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.size == (43, 15)
    low, high = picture.convert("L").getextrema()
    assert low < 10
    assert high > 245


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["--groups", "p[0-9]"], "must have one group in parentheses, such as 'patient([0-9]+)'"),
        (["--groups", "("], "is not a regular expression: missing )"),
        (["--groups", "p([0-2])"], "'p([0-2])' is not found in 5 of 20 paths: 'a/p3 3.png', "),
        (["--groups", "(p)"], "All images are in the same group, 'p', so that none are left to"),
        (["--groups", "(.*)/"], "All images of class 'a' are in the group 'a'. A model that is"),
        (["--groups", "x", "--table", "good.csv"], "It has 'path', 'group'."),
        (["--groups", "group", "--table", "empty.csv"], "It has no rows."),
        (["--groups", "group", "--table", "twice.csv"], "has two rows for '"),
        (["--groups", "group", "--table", "hole.csv"], "The column 'group' of 'hole.csv' is empty"),
        (["--table", "good.csv"], "--table needs --groups, the name of one of its columns"),
    ],
)
def test_bad_groups(run, grouped, tmp_path, monkeypatch, groups, message):
    monkeypatch.chdir(tmp_path)
    paths = [str(path.relative_to(grouped)) for path in sorted(grouped.rglob("*.png"))]
    good = "path,group\n" + "".join(f"{path},1\n" for path in paths)
    contents = {
        "good": good,
        "empty": "path,group\n",
        "twice": f"{good}{paths[3]},1\n",
        "hole": good.replace(f"{paths[2]},1", f"{paths[2]},"),
    }
    for name, text in contents.items():
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8-sig")
    arguments = ["--kind", "tiny", "--predictions", "p.csv", "--save-model", "m.joblib"]
    code, out, err = run("classify", grouped, "-o", "a.html", *arguments, *groups)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == sorted(f"{name}.csv" for name in contents)


def test_a_table_that_does_not_fit_the_folder_names_both_sides(run, grouped, tmp_path):
    paths = [path.relative_to(grouped) for path in sorted(grouped.rglob("*.png"))]
    rows = [*paths[5:], *(f"no{i}.png" for i in range(4))]
    (tmp_path / "t.csv").write_text("path,group\n" + "".join(f"{row},1\n" for row in rows))
    arguments = ["--kind", "tiny", "--groups", "group", "--table", tmp_path / "t.csv"]
    code, _, err = run("classify", grouped, "-o", tmp_path / "a.html", *arguments)
    assert code == 2
    missing, extra = str(grouped / paths[0]), str(grouped / "no0.png")
    assert f"Images without a row: {missing!r}, " in err
    assert " and 2 more. Rows without an image: " in err
    assert f"Rows without an image: {extra!r}, " in err
    assert "no3" not in err


def test_groups_of_a_class_that_are_in_one_fold(run, tmp_path):
    """The few images of class b lie in two groups, which other classes force into one fold."""
    folder = write_pictures(tmp_path / "pictures", {"a": 3, "b": 2})
    cv = [(np.arange(3), np.arange(3, 5)), (np.arange(3, 5), np.arange(3))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify.StratifiedGroupKFold, "split", lambda *values: iter(cv))
        arguments = ["--kind", "tiny", "--groups", "/([0-9])", "--folds", 2]
        code, _, err = run("classify", folder, "-o", tmp_path / "a.html", *arguments)
    assert code == 2
    assert "The groups of class 'b' are all in one fold" in err


def test_numbers_as_names_of_classes(run, tmp_path):
    folder = write_pictures(tmp_path / "pictures", {f"{i / 10}": 2 for i in range(21)}, (12, 12))
    code, _, err = run("classify", folder, "-o", tmp_path / "a.html", "--kind", "tiny")
    assert code == 2
    assert "42 images have 21 classes whose names are numbers, such as '0.0', '0.1', '0.2' a" in err
    assert "a table, and use sklearn-conv regress. See" in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_an_interrupt_leaves_no_files(tmp_path):
    folder = write_pictures(tmp_path / "pictures", {"a": 30})
    output = tmp_path / "output"
    output.mkdir()
    arguments = shlex.split("--size 400,400 --n-kernels 800 --n-patches 1000 --n-jobs 2 --quiet")
    # A program in the background of a shell ignores interrupts, unless it says otherwise.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    with subprocess.Popen(
        [*PROGRAM[:2], start + PROGRAM[2], "features", folder, "-o", output / "a.npy", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        while not os.listdir(output) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "sklearn-conv: interrupted\n"
    assert os.listdir(output) == []


PAGE = ROOT / "docs" / "guide" / "commands.md"


def test_commands_of_the_page_print_what_it_says(run, tmp_path, monkeypatch):
    rng, rows = np.random.default_rng(0), ["path,contrast"]
    for label, grain in [("fine", 3), ("coarse", 6)]:
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(20):
            noise = rng.integers(256, size=(60 // grain, 90 // grain, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize((90, 60 + i % 3))
            picture.save(tmp_path / "pictures" / label / f"{i}.png")
            rows.append(f"{label}/{i}.png,{np.asarray(picture).std():.1f}")
    (tmp_path / "contrast.csv").write_text("\n".join(rows))
    np.save(tmp_path / "scene.npy", rng.integers(256, size=(272, 304, 3), dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```sh\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 10
    for command, output in blocks:
        program, *arguments = shlex.split(command)
        assert program == "sklearn-conv"
        _, out, err = run(*arguments)
        varying = r"\d+\.\d s|date: .*|versions: .*"
        assert re.sub(varying, "", err + out) == re.sub(varying, "", output)
