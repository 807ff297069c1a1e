"""The commands `sklearn-conv predict` and `sklearn-conv show`, and the files of their models."""

import importlib
import json
import os
import pickle
import re
import shutil
import sys
import zipfile

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import sklearn_conv
from sklearn_conv import (
    ImageReader,
    StreamingRidge,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    make_image_classifier,
    make_image_regressor,
    predict_map,
    read_images,
)
from sklearn_conv._commands.main import main

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: .[images]")
pytest.importorskip("pyarrow", reason="pyarrow is not installed: .[parquet]")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: .[plot]")
pytest.importorskip("cyclopts", reason="Cyclopts is not installed: .[commands]")

features, model_file, options, predict = (
    importlib.import_module(f"sklearn_conv._commands.{name}")
    for name in ["features", "model_file", "options", "predict"]
)
CLASSES = ["coarse", "größe, 漢字\n2"]


def write_pictures(folder, counts, size=(12, 12), mode="RGB"):
    """Write pictures of noise; the coarser the noise, the later the class."""
    rng = np.random.default_rng(0)
    for grain, (label, n) in enumerate(counts.items(), 1):
        (folder / label).mkdir(parents=True)
        for i in range(n):
            noise = rng.integers(256, size=(12 // grain, 12 // grain, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize(size[::-1]).convert(mode)
            picture.save(folder / label / f"{i}.png")
    return folder


@pytest.fixture
def run(capsys):
    """Return a function that runs a command, and returns its exit code and its output."""

    def run_command(*arguments):
        capsys.readouterr()
        code = main([*map(str, arguments), "--quiet"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder of pictures, and the model that `classify` saves."""
    folder = tmp_path_factory.mktemp("predict")
    pictures = write_pictures(folder / "pictures", dict.fromkeys(CLASSES, 12))
    arguments = ["--kind", "tiny", "--effort", "fast", "--size", "10,10", "--quiet"]
    model = folder / "model.skops"
    output = ["-o", str(folder / "report.html"), "--save", str(model)]
    assert main(["classify", str(pictures), *arguments, *output]) == 0
    return pictures, model


def fit(pictures):
    """Fit the model of `saved` with the classes of the package."""
    files = read_images(pictures, size=(10, 10))
    model = make_image_classifier("tiny", effort="fast", random_state=0)
    return files, model.fit(np.asarray(files), files.labels)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predictions_are_those_of_the_model(run, saved, tmp_path, monkeypatch, suffix):
    pictures, path = saved
    monkeypatch.setattr("sklearn_conv._batches.BATCH_BYTES", 2**15)  # several batches
    output = tmp_path / f"a{suffix}"
    code, out, err = run("predict", path, pictures, "-o", output, "--n-jobs", 2)
    assert (code, err) == (0, "")
    assert re.fullmatch(re.escape(f"{output}: 24 rows, ") + r"\d+\.\d s\n", out)
    read = pd.read_csv if suffix == ".csv" else pd.read_parquet
    table = read(output)
    files, model = fit(pictures)
    names = [f"probability_{name}" for name in CLASSES]
    assert [*table.columns] == ["path", "predicted", *names, "novelty"]
    assert table["path"].tolist() == files.paths.tolist()
    assert table["predicted"].tolist() == model.predict(np.asarray(files)).tolist()
    expected = model.predict_proba(np.asarray(files))
    np.testing.assert_allclose(table[names], expected, rtol=1e-4, atol=1e-7)
    novelty = model[-1].novelty(model[0].transform(np.asarray(files)))
    np.testing.assert_allclose(table["novelty"], novelty, atol=1e-6)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files_that_cannot_be_read_are_rows(run, saved, tmp_path, suffix):
    folder = write_pictures(tmp_path / "new", {"a": 3})
    (folder / "a" / "1.png").write_bytes(b"nothing")
    output = tmp_path / f"a{suffix}"
    code, _, err = run("predict", saved[1], folder, "-o", output)
    assert code == 1
    assert "1.png' cannot be read" in err
    assert os.listdir(tmp_path) == ["new"]
    code, out, err = run("predict", saved[1], folder, "-o", output, "--on-error", "skip")
    assert (code, err) == (0, "")
    assert "3 rows, 1 of them not read" in out
    assert out.startswith(f"skipped: {folder / 'a' / '1.png'}: ")
    table = (pd.read_csv if suffix == ".csv" else pd.read_parquet)(output)
    assert [os.path.basename(path) for path in table["path"]] == ["0.png", "2.png", "1.png"]
    assert table["error"].isna().tolist() == [True, True, False]
    assert table.iloc[2, 1:-1].isna().all()
    assert table.iloc[:2, 1:-1].notna().all(axis=None)


@pytest.mark.parametrize("n_targets", [1, 2])
def test_regressors_predict_intervals(run, saved, tmp_path, n_targets):
    files = read_images(saved[0], size=(10, 10))
    targets = np.random.default_rng(0).normal(size=(24, 2))
    targets = targets[:, 0] if n_targets == 1 else targets
    steps = make_image_regressor("tiny", effort="fast", random_state=0).steps
    model = make_pipeline(ImageReader((10, 10)), *(step for _, step in steps))
    model.fit(files.paths, targets)
    skops.io.dump(model, tmp_path / "model.skops")
    output = tmp_path / "a.csv"
    assert run("predict", tmp_path / "model.skops", saved[0], "-o", output)[::2] == (0, "")
    table = pd.read_csv(output)
    ends = model[-1].predict_interval(model[:-1].transform(files.paths))
    for k, suffix in enumerate([""] if n_targets == 1 else ["0", "1"]):
        predicted, both = model.predict(files.paths), ends
        if n_targets == 2:
            predicted, both = predicted[:, k], ends[..., k]
        np.testing.assert_allclose(table[f"predicted{suffix}"], predicted, rtol=1e-4)
        names = [f"lower{suffix}", f"upper{suffix}"]
        np.testing.assert_allclose(table[names], both, rtol=1e-4, atol=1e-5)
    assert table.shape == (24, 1 + 3 * n_targets)
    assert "predicts: numbers" in run("show", tmp_path / "model.skops")[1]


def test_show_prints_what_a_model_is(run, saved):
    code, out, err = run("show", saved[1])
    assert (code, err) == (0, "")
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert lines["predicts"] == "2 classes"
    assert lines["classes"] == "coarse, größe, 漢字\\n2"
    assert lines["images"] == "10 x 10 pixels, 3 channels, uint8, mode RGB"
    assert lines["made from"] == "24 images of 12 x 12 pixels"
    assert lines["recipe"] == "kind tiny, effort fast, random_state 0"
    assert re.fullmatch(r"accuracy [01]\.\d{3} ± 0\.\d{3} in 5 folds", lines["cross-validated"])
    assert f"sklearn-conv {sklearn_conv.__version__}, scikit-learn" in lines["versions"]
    assert lines["classifier"].startswith("StreamingRidgeClassifier(")


def test_a_saved_file_is_an_ordinary_file_of_skops(saved):
    files, model = fit(saved[0])
    loaded = skops.io.load(saved[1], trusted=model_file.TRUSTED)
    np.testing.assert_array_equal(loaded.predict(files.paths), model.predict(np.asarray(files)))
    assert {*skops.io.get_untrusted_types(file=saved[1])} <= {*model_file.TRUSTED}


@pytest.mark.parametrize("effort", ["fast", "balanced", "best"])
@pytest.mark.parametrize("make", [make_image_classifier, make_image_regressor])
def test_all_recipes_need_only_trusted_types(make, effort, tmp_path):
    images = np.random.default_rng(0).integers(256, size=(30, 24, 24, 3), dtype=np.uint8)
    for kind in ("tiny", "satellite"):
        model = make(kind, effort=effort, random_state=0, n_kernels=4)
        model.fit(images, np.arange(30) % 2)
        model_file.write_model(tmp_path / "a.skops", model, {})
        loaded, facts = model_file.read_model(tmp_path / "a.skops")
        np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
        assert facts["versions"]["sklearn-conv"] == sklearn_conv.__version__


def test_features_are_computed_by_models_of_skops(run, saved, tmp_path):
    first, second, model = (tmp_path / name for name in ("a.npy", "b.npy", "model.skops"))
    arguments = ["--size", "8,10", "--n-kernels", 4]
    assert run("features", saved[0], "-o", first, *arguments, "--save-model", model)[0] == 0
    assert run("features", saved[0], "-o", second, "--model", model)[::2] == (0, "")
    np.testing.assert_array_equal(np.load(first), np.load(second))
    assert run("features", saved[0], "-o", second, "--model", saved[1])[::2] == (0, "")
    code, _, err = run("predict", model, saved[0], "-o", tmp_path / "a.csv")
    assert code == 2
    assert "contains a Pipeline that does not predict anything" in err


def with_facts(path, change):
    """Return the bytes of a model whose facts are changed."""
    copy = path.with_name("changed.skops")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == model_file.FACTS:
                content = json.dumps(change(json.loads(content)))
            new.writestr(name, content)
    content = copy.read_bytes()
    copy.unlink()
    return content


class Malicious:
    def __reduce__(self):
        return os.abort, ()


def newer(facts):
    return facts | {"versions": {"sklearn-conv": "99.0"}}


def flipped(path):
    """Return the bytes of a model of which one byte in the middle has changed."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    return bytes(content)


BAD_MODELS = {
    "truncated": (lambda path: path.read_bytes()[:-1000], "is damaged, or not a file of skops"),
    "changed": (flipped, "is damaged, or was written by a newer version of skops"),
    "empty": (lambda path: b"", "is not a model"),
    "a pickle": (lambda path: pickle.dumps(Malicious()), "other formats could run any code"),
    "foreign types": (
        lambda path: skops.io.dumps(make_pipeline(FunctionTransformer(os.system))),
        f"{os.system.__module__}.system. It was not loaded",
    ),
    "newer": (
        lambda path: with_facts(path, newer),
        f"was written by sklearn-conv 99.0, but this is sklearn-conv {sklearn_conv.__version__}",
    ),
    "damaged facts": (lambda path: with_facts(path, lambda facts: [3]), "is damaged"),
    "not a pipeline": (lambda path: skops.io.dumps({"a": 3}), "contains a dict that does not"),
    "no reader": (
        lambda path: skops.io.dumps(
            make_pipeline(StridedConv2DTransformer(), FunctionTransformer(), StreamingRidge())
        ),
        "save a model with sklearn-conv classify or regress",
    ),
    "not fitted": (
        lambda path: skops.io.dumps(
            make_pipeline(ImageReader(), StridedConv2DTransformer(), StreamingRidge())
        ),
        "was not fitted; fit it, and save it again",
    ),
}


@pytest.mark.parametrize("command", ["predict", "show", "features"])
@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models_are_refused(run, saved, tmp_path, name, command):
    make, message = BAD_MODELS[name]
    path = tmp_path / "model.skops"
    path.write_bytes(make(saved[1]))
    arguments = {
        "predict": [path, saved[0], "-o", tmp_path / "a.csv"],
        "show": [path],
        "features": [saved[0], "-o", tmp_path / "a.npy", "--model", path],
    }
    if command == "features" and name in ("not a pipeline", "no reader", "not fitted"):
        return  # Its own message is tested with the other models of features.
    code, out, err = run(command, *arguments[command])
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("sklearn-conv: error: ")
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == ["model.skops"]


def test_the_model_is_neither_missing_nor_the_output(run, saved, tmp_path):
    code, _, err = run("predict", tmp_path / "no.skops", saved[0], "-o", tmp_path / "a.csv")
    assert (code, err) == (
        1,
        f"sklearn-conv: error: '{tmp_path / 'no.skops'}': No such file or directory\n",
    )
    path = tmp_path / "model.csv"
    path.write_bytes(saved[1].read_bytes())
    code, _, err = run("predict", path, saved[0], "-o", path)
    assert code == 2
    assert "is the model; write to another file" in err
    assert path.read_bytes() == saved[1].read_bytes()


def test_bad_folders_are_wrong_usage(run, saved, tmp_path):
    (tmp_path / "empty").mkdir()
    output = ["-o", tmp_path / "a.csv"]
    for name, message in [("empty", "contains no images"), ("nothing", "does not exist")]:
        code, out, err = run("predict", saved[1], tmp_path / name, *output)
        assert (code, out) == (2, "")
        assert message in err
    assert os.listdir(tmp_path) == ["empty"]


def test_images_must_be_of_the_kind_that_the_model_has_seen(run, saved, tmp_path):
    gray = write_pictures(tmp_path / "gray", {"a": 3}, mode="L")
    larger = write_pictures(tmp_path / "larger", {"a": 3}, size=(14, 12))
    mixed = write_pictures(tmp_path / "mixed", {"a": 3})
    Image.new("RGB", (5, 5)).save(mixed / "a" / "small.png")
    for mode, size in [(None, None), (None, (10, 10))]:
        model = make_pipeline(
            ImageReader(size, mode=mode),
            StridedConv2DTransformer(4, random_state=0),
            StreamingRidgeClassifier(),
        )
        files = read_images(saved[0])
        skops.io.dump(model.fit(files.paths, files.labels), tmp_path / "model.skops")
        bad = [(gray, f"{size or (12, 12)}"[:-1] + ", 1) and dtype uint8, but")]
        if size is None:
            bad += [(larger, "(14, 12, 3) and dtype uint8, but"), (mixed, "saved without --size")]
        for folder, message in bad:
            code, out, err = run(
                "predict", tmp_path / "model.skops", folder, "-o", tmp_path / "a.csv"
            )
            assert (code, out) == (2, "")
            assert message in err
            assert not (tmp_path / "a.csv").exists()


def test_features_need_images_of_the_dtype_of_the_model(run, tmp_path):
    for name, dtype in [("a", np.uint8), ("b", np.uint16)]:
        (tmp_path / name).mkdir()
        for i in range(3):
            pixels = np.random.default_rng(i).integers(200, size=(8, 8)).astype(dtype)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    model = tmp_path / "m.skops"
    arguments = ["--mode", "none", "--size", "8,8", "--save-model", model]
    assert run("features", tmp_path / "a", "-o", tmp_path / "a.npy", *arguments)[0] == 0
    code, _, err = run("features", tmp_path / "b", "-o", tmp_path / "b.npy", "--model", model)
    assert code == 2
    assert "dtype uint16, but" in err


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are not in UTF-8")
def test_a_table_of_parquet_needs_names_in_utf_8(run, saved, tmp_path, monkeypatch):
    pictures = write_pictures(tmp_path / "pictures", {"a": 2})
    (pictures / "a" / os.fsdecode(b"\xff.png")).write_bytes((pictures / "a" / "0.png").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(predict, "transform_batches", None)
        code, _, err = run("predict", saved[1], pictures, "-o", tmp_path / "a.parquet")
    assert code == 2
    assert "write a .csv" in err
    assert run("predict", saved[1], pictures, "-o", tmp_path / "a.csv")[0] == 0


def test_images_of_other_sizes_are_scaled_with_a_warning(run, saved, tmp_path):
    folder = write_pictures(tmp_path / "new", {"a": 3}, size=(50, 24))
    code, _, err = run("predict", saved[1], folder, "-o", tmp_path / "a.csv")
    assert code == 0
    assert "3 of 3 images are larger or smaller" in err
    assert "for example 50 x 24 instead of 12 x 12 pixels. All are scaled to (10, 10)" in err


def test_a_missing_library_is_noticed_before_the_work(run, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(options, "find_images", None)  # An error if images are read.
    for name, line in [
        ("_commands.model_file", ["classify", "--kind", "tiny", "--save-model", "m.skops"]),
        ("_saving.parquet", ["predict", saved[1]]),
    ]:
        output = tmp_path / ("a.html" if line[0] == "classify" else "a.parquet")
        monkeypatch.setitem(sys.modules, f"sklearn_conv.{name}", None)
        code, _, err = run(*line, saved[0], "-o", output)
        assert code == 1
        assert 'run pip install "sklearn-conv[commands,' in err


def test_an_interrupt_leaves_no_table(run, saved, tmp_path, monkeypatch):
    transform_batches = predict.transform_batches

    def interrupt(*arguments):
        yield next(transform_batches(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "transform_batches", interrupt)
    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).write_text("before")
        code, out, err = run("predict", saved[1], saved[0], "-o", tmp_path / name)
        assert (code, out, err) == (130, "", "sklearn-conv: interrupted\n")
        assert (tmp_path / name).read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.parquet"]


def test_the_extension_decides_what_is_saved(run, saved, tmp_path):
    model = tmp_path / "model.joblib"
    arguments = ["--kind", "tiny", "--effort", "fast", "--size", "10,10", "--folds", 2]
    output = ["-o", tmp_path / "a.html", "--save-model", model]
    assert run("classify", saved[0], *arguments, *output)[0] == 0
    files, fitted = fit(saved[0])
    expected = fitted.predict(np.asarray(files))
    np.testing.assert_array_equal(joblib.load(model).predict(files.paths), expected)
    code, _, err = run("show", model)
    assert code == 2
    assert "is not a model: it is damaged, or not a file of skops" in err


@pytest.fixture
def interrupted(run, saved, tmp_path, monkeypatch):
    """Interrupt `features` in the second of several batches; return the arguments and a count."""
    transform_batches, computed = features.transform_batches, []

    def transform(steps, files):
        for rows, batch in transform_batches(steps, files, 7):
            if len(computed) == 2:
                computed.append("interrupt")
                raise KeyboardInterrupt
            computed.append(len(batch))
            yield rows, batch

    monkeypatch.setattr(features, "transform_batches", transform)
    pictures = tmp_path / "pictures"
    shutil.copytree(saved[0], pictures)
    arguments = ["--size", "8,10", "--n-kernels", 4, "--random-state", "none", "--resume"]
    output = tmp_path / "a.parquet"
    line = ["features", pictures, "-o", output, *arguments]
    assert run(*line) == (130, "", "sklearn-conv: interrupted\n")
    assert sorted(os.listdir(tmp_path)) == ["a.parquet.parts", "pictures"]
    parts = output.with_name("a.parquet.parts")
    assert sorted(os.listdir(parts)) == ["0.npy", "7.npy", "model.skops"]
    return line, computed, parts


def test_parts_are_kept_until_the_model_is_saved(run, interrupted, tmp_path, monkeypatch):
    line, computed, parts = interrupted

    def interrupt(*arguments, **more):
        raise KeyboardInterrupt

    model = ["--save-model", tmp_path / "m.skops"]
    with monkeypatch.context() as patch:
        patch.setattr(options, "save_model", interrupt)
        assert run(*line, *model)[0] == 130
    n = len(computed)
    parts.rename(tmp_path / "elsewhere")
    parts.symlink_to(tmp_path / "elsewhere")
    assert run(*line, *model)[0] == 0
    assert len(computed) == n


def test_an_interrupted_table_is_continued(run, interrupted, tmp_path):
    line, computed, parts = interrupted
    first = np.concatenate([np.load(parts / name) for name in ("0.npy", "7.npy")])
    model = tmp_path / "model.skops"
    code, _, err = run(*line, "--save-model", model, "--n-jobs", 2)
    assert (code, err) == (0, "")
    assert computed == [7, 7, "interrupt", 7, 3]
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert len(table) == 24
    np.testing.assert_array_equal(table.iloc[:14, 2:], first)
    expected = model_file.read_model(model)[0].transform(table["path"].tolist())
    np.testing.assert_allclose(table.iloc[:, 2:], expected, rtol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "model.skops", "pictures"]


@pytest.mark.parametrize("change", ["option", "content", "file", "folder"])
def test_a_table_of_something_else_is_not_continued(run, interrupted, tmp_path, change):
    line, _, parts = interrupted
    line, what = [*line], "images"
    if change == "option":
        line[line.index("--n-kernels") + 1], what = 5, "parameters"
    elif change == "content":
        Image.new("RGB", (12, 12)).save(tmp_path / "pictures" / CLASSES[0] / "3.png")
    elif change == "file":
        (tmp_path / "pictures" / CLASSES[0] / "3.png").unlink()
    else:
        (parts / "model.skops").unlink()
        what = "images and parameters"
    before = sorted(os.listdir(parts))
    code, out, err = run(*line)
    assert (code, out) == (2, "")
    assert f"a.parquet.parts' contains an interrupted table of other {what}; use those" in err
    assert sorted(os.listdir(parts)) == before
    assert not (tmp_path / "a.parquet").exists()


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_features_of_a_model_can_be_continued(run, saved, tmp_path, monkeypatch, suffix):
    output = tmp_path / f"a{suffix}"
    line = ["features", saved[0], "-o", output, "--model", saved[1]]
    save_batches = features.save_batches

    def interrupt(path, batches, **table):
        if path != output:
            return save_batches(path, batches)
        next(batches)  # the only one
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "save_batches", interrupt)
    assert run(*line, "--resume")[0] == 130
    monkeypatch.setattr(features, "save_batches", save_batches)
    assert run(*line, "--resume")[0] == 0
    assert os.listdir(tmp_path) == [output.name]
    content = output.read_bytes()
    assert run(*line)[0] == 0
    assert content == output.read_bytes()


# The command map


@pytest.fixture
def scene(tmp_path):
    """Return the path of a raster of noise, of which some pixels are nodata."""
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(1, 256, (3, 30, 41), np.uint8)
    values[:, :5, :9] = 0
    place = rasterio.Affine(10, 0, 500_000, 0, -10, 5_600_000)
    profile = {"driver": "GTiff", "count": 3, "height": 30, "width": 41, "nodata": 0}
    profile |= {"crs": "EPSG:32632", "transform": place, "dtype": "uint8"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile) as raster:
        raster.write(values)
    return tmp_path / "scene.tif"


@pytest.mark.filterwarnings("ignore:.*each tile by itself")
def test_the_map_of_a_scene_is_that_of_the_model(run, saved, scene, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pictures, model = saved
    code, out, err = run("map", model, scene, "-o", tmp_path / "map.tif", "--step", 3)
    assert (code, out.rpartition(",")[0]) == (0, f"{tmp_path / 'map.tif'}: 7 x 11 pixels")
    assert "scaled to 10 x 10 pixels" in err
    assert "padding='same'" in err
    with rasterio.open(scene) as opened, rasterio.open(tmp_path / "map.tif") as written:
        expected = predict_map(fit(pictures)[1], opened, 3)
        codes, tags = written.read(1), written.tags(1)
        names = np.array(["", tags["class_1"], tags["class_2"]])
        np.testing.assert_array_equal(codes == 0, expected.mask)
        np.testing.assert_array_equal(names[codes][~expected.mask], expected.compressed())
        assert written.transform[:6] == (30, 0, 500_035, 0, -30, 5_599_965)
    np.save(tmp_path / "scene.npy", np.full((30, 41, 3), 9, np.uint8))
    arguments = ["-o", tmp_path / "map.png", "--step", "2", "--scale", "2", "--n-jobs", "2"]
    assert run("map", model, tmp_path / "scene.npy", *arguments)[0] == 0
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.size == (6, 3)


def test_maps_of_numbers_and_wrong_arguments_of_map(run, saved, scene, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    pictures, model = saved
    files = read_images(pictures)
    regressor = make_image_regressor("textures", effort="fast", random_state=0)
    regressor = make_pipeline(ImageReader(), *(step for _, step in regressor.steps))
    regressor.fit(files.paths, np.arange(len(files), dtype=float))
    skops.io.dump(regressor, tmp_path / "numbers.skops")
    output = tmp_path / "map.tif"
    code, _, err = run("map", tmp_path / "numbers.skops", scene, "-o", output, "--step", 3)
    assert (code, err) == (0, "")
    with rasterio.open(output) as written, rasterio.open(scene) as opened:
        expected = predict_map(regressor[1:], opened, 3)
        np.testing.assert_allclose(written.read(1), expected, rtol=1e-4)
    before = scene.read_bytes()
    (tmp_path / "b.pgw").mkdir()
    for arguments, message in [
        ([tmp_path / "numbers.skops", scene, "-o", tmp_path / "a.png", "--step", 3], "use .tif"),
        ([model, scene, "-o", scene, "--step", 3], "is an input"),
        ([model, scene, "-o", output, "--step", 0], "'step' parameter of map"),
        ([model, scene, "-o", output, "--step", 7.5], "Got 7.5"),
        ([model, scene, "-o", output, "--step", 3, "--scale", 1.5], "Got 1.5"),
        ([model, scene, "-o", tmp_path / "b.png", "--step", 3], "is a folder"),
        ([model, tmp_path / "no.tif", "-o", output, "--step", 3], "no.tif"),
        ([model, scene, "-o", output], "step"),
    ]:
        code, _, err = run("map", *arguments)
        assert code in (1, 2)
        assert message in err
        assert len(err.splitlines()) <= 2
    assert scene.read_bytes() == before
