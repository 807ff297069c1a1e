"""The command `sklearn-conv regress`, and the bad input that it shares with `classify`."""

import csv
import importlib
import os
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import GroupKFold, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_commands import Page, write_pictures

from sklearn_conv import cross_val_table, make_image_regressor, read_images
from sklearn_conv._commands.main import main

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: .[images]")
report_module = importlib.import_module("sklearn_conv._commands.report")
N = 30
TARGET = 'Rauheit <b>"in µm"</b>'
RECIPE = ["--kind", "tiny", "--effort", "fast"]
CV = KFold(5, shuffle=True, random_state=0)
GROUPS_CV = GroupKFold(4, shuffle=True, random_state=0)


@pytest.fixture
def run(capsys):
    """Return a function that runs a command, and returns its exit code and its output."""

    def run_command(*arguments):
        capsys.readouterr()
        code = main([*map(str, arguments), "--quiet"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


def write_table(path, columns):
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return a folder of noise, a table of its strength and of groups, and both as arrays."""
    root = tmp_path_factory.mktemp("regress")
    (folder := root / "noise <&>").mkdir()
    rng = np.random.default_rng(0)
    strength = rng.uniform(5, 100, N)
    for i, scale in enumerate(strength):
        pixels = rng.normal(128, scale, (10, 14, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i} <i>&'.png")
    numbers = strength + rng.normal(0, 5, N)
    numbers[3] += 200  # an error in the table
    groups = [f"day {i % 4}" for i in range(N)]
    order = rng.permutation(N)  # The table has another order than the folder.
    names = [f"{i} <i>&'.png" for i in range(N)]
    columns = {"day": groups, TARGET: numbers.tolist(), "path": names}
    shuffled = {name: [values[i] for i in order] for name, values in columns.items()}
    return folder, write_table(root / "table.csv", shuffled), numbers, groups


def make(effort="fast"):
    return make_image_regressor("tiny", effort=effort, random_state=0)


@pytest.fixture(scope="module")
def result(measured, tmp_path_factory):
    """Run the command with all that it can write; return the folder of its files."""
    folder, table, _, _ = measured
    output = tmp_path_factory.mktemp("result")
    arguments = ["--target", TARGET, *RECIPE, "--size", "8,10", "--compare", "--quiet"]
    files = {"-o": "report.html", "--predictions": "predictions.csv", "--save": "model.skops"}
    for option, name in files.items():
        arguments += [option, str(output / name)]
    assert main(["regress", str(folder), "--table", str(table), *arguments]) == 0
    return output


def test_predictions_are_those_of_python(result, measured):
    folder, _, numbers, _ = measured
    images = read_images(folder, size=(8, 10))
    expected = pd.DataFrame(cross_val_table(make(), images, numbers, cv=CV))
    assert [*expected] == ["path", "target", "predicted", "lower", "upper", "fold"]
    shown = pd.read_csv(result / "predictions.csv")
    pd.testing.assert_frame_equal(shown, expected, check_dtype=False, rtol=1e-5)
    independent = cross_val_predict(make(), np.asarray(images), numbers, cv=CV)
    np.testing.assert_allclose(shown["predicted"], independent, rtol=1e-4)


def test_the_report_says_what_was_measured(result, measured):
    folder, _, numbers, _ = measured
    page = Page((result / "report.html").read_text(encoding="utf-8"))
    cells, table = page.texts["td"], pd.read_csv(result / "predictions.csv")

    def scores(target, predicted):
        mae = mean_absolute_error(target, predicted)
        rmse = root_mean_squared_error(target, predicted)
        return [f"{r2_score(target, predicted):.3f}", f"{mae:.4g}", f"{rmse:.4g}"]

    inside = table["target"].between(table["lower"], table["upper"])
    for fold, part in table.groupby("fold"):
        row = cells[6 * (fold - 1) : 6 * fold]
        expected = scores(part["target"], part["predicted"])
        assert row == [str(fold), "6", *expected, f"{inside[part.index].mean():.3f}"]
    images = np.asarray(read_images(folder, size=(8, 10)))
    pixels = images.reshape(N, 80, 3)
    colors = np.concatenate([pixels.mean(1), pixels.std(1)], 1)
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 7)))
    predictions = {"always the mean": np.full(N, numbers.mean())}
    if report_module.find_spec("skimage") is None:
        predictions["colors"] = cross_val_predict(ridge, colors, numbers, cv=CV)
    for effort in ("fast", "balanced", "best"):
        predicted = cross_val_predict(make(effort), images, numbers, cv=CV)
        predictions[f"tiny, {effort}"] = predicted
    for name, predicted in predictions.items():
        start = cells.index(name)
        assert cells[start + 1 : start + 4] == scores(numbers, predicted)
    best = scores(table["target"], table["predicted"])
    assert page.texts["b"] == [*best, f"{100 * inside.mean():.1f}%", str(N)]


def test_the_report_shows_the_worst_images(result, measured):
    text = (result / "report.html").read_text(encoding="utf-8")
    page, table = Page(text), pd.read_csv(result / "predictions.csv")
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r'"data:[^"]*"', "", text))
    assert {link.removeprefix("#") for link in page.links} <= {*page.ids}
    assert f"Regression of {TARGET} for the images in" in page.texts["h1"][0]
    order = (table["target"] - table["predicted"]).abs().sort_values(ascending=False).index
    captions = [each for each in page.texts["figcaption"] if each.startswith("target ")]
    assert len(captions) == 6
    for row, caption in zip(order, captions, strict=False):
        each = table.loc[row]
        assert caption == (
            f"target {each.target:.4g}, predicted {each.predicted:.4g} "
            f"({each.lower:.4g} to {each.upper:.4g}): {each.path}"
        )
    inside = table["target"].between(table["lower"], table["upper"])
    outside = [row for row in order if not inside[row]]
    assert 3 in outside
    lazy = [image["alt"] for image in page.images if image.get("loading") == "lazy"]
    assert sorted(lazy) == sorted(table["path"][outside])
    too_low = (table["predicted"] < table["target"])[outside].sum()
    assert f"{too_low} predicted too low" in page.texts["summary"]


def test_the_saved_model_predicts_intervals(run, result, measured, tmp_path):
    folder, _, numbers, _ = measured
    code, _, err = run("predict", result / "model.skops", folder, "-o", tmp_path / "a.csv")
    assert (code, err) == (0, "")
    images = np.asarray(read_images(folder, size=(8, 10)))
    model = make().fit(images, numbers)
    shown = pd.read_csv(tmp_path / "a.csv")
    assert [*shown] == ["path", "predicted", "lower", "upper"]
    np.testing.assert_allclose(shown["predicted"], model.predict(images), rtol=1e-4)
    ends = model[-1].predict_interval(model[:-1].transform(images))
    np.testing.assert_allclose(shown[["lower", "upper"]], ends, rtol=1e-4, atol=1e-3)
    lines = dict(
        line.split(": ", 1) for line in run("show", result / "model.skops")[1].splitlines()
    )
    assert lines["predicts"] == TARGET
    table = pd.read_csv(result / "predictions.csv")
    r2 = r2_score(table["target"], table["predicted"])
    assert lines["cross-validated"].startswith(f"R² {r2:.3f}, MAE ")
    assert lines["cross-validated"].endswith(" in 5 folds")


def test_groups_are_not_divided(run, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sklearn_conv._commands.classify.MEMORY", 0
    )  # Images are read for each fold.
    folder, table, numbers, groups = measured
    arguments = ["--table", table, "--target", TARGET, *RECIPE, "--groups", "day"]
    output = ["-o", tmp_path / "a.html", "--predictions", tmp_path / "a.csv"]
    code, out, err = run("regress", folder, *arguments, *output)
    assert code == 0
    assert "there are 4 groups only, so there are 4 folds instead of 5" in err
    files = read_images(folder)
    expected = cross_val_table(make(), files, numbers, groups=groups, cv=GROUPS_CV)
    shown = pd.read_csv(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(shown, pd.DataFrame(expected), check_dtype=False, rtol=1e-5)
    assert shown.groupby("group")["fold"].nunique().max() == 1
    inside = shown["target"].between(shown["lower"], shown["upper"]).mean()
    assert f" in 4 folds; {100 * inside:.1f}% inside intervals for 90%; " in out
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "Images of one group are in one fold." in page
    assert "groups = ...  # the column day" in page


def test_few_images_have_infinite_intervals(run, tmp_path):
    folder = write_pictures(tmp_path / "pictures", {"a": 3, "b": 3})
    same = sorted(folder.rglob("*.png"))[:2]
    same[1].write_bytes(same[0].read_bytes())
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*.png"))]
    table = write_table(tmp_path / "t.csv", {"path": paths, "n": [1, 2, 3, 4, 5, 6]})
    arguments = ["--table", table, "--target", "n", *RECIPE, "--folds", 6]
    code, out, err = run("regress", folder, *arguments, "-o", tmp_path / "a.html")
    assert code == 0
    assert err.startswith("sklearn-conv: warning: Files are identical")
    assert err.count("\n") == 1
    assert "100.0% inside intervals for 90%" in out
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "The intervals are infinite: they need at least 9 training images." in text
    assert "1 of them with several targets, and\n1 in several folds." in text
    cells = Page(text).texts["td"]
    assert cells[cells.index(", ".join(map(str, same))) + 1] == "1.0, 2.0"
    assert cells[2] == "none"  # R² of a single image


@pytest.mark.parametrize("is_better", [False, True])
def test_a_model_that_is_not_better_than_the_mean_is_called_so(is_better):
    rng = np.random.default_rng(0)
    target = rng.normal(size=40)
    predicted = target + rng.normal(scale=0.1) if is_better else rng.normal(size=40)
    table = {"target": target, "predicted": predicted, "fold": np.arange(40) % 5}
    table |= {"lower": predicted - 1, "upper": predicted + 1}
    files = pd.Series({"paths": np.arange(40).astype(str), "identical": []})
    scores = [report_module.measure("model", table, 1.0)] * 2
    evaluation = report_module.Evaluation(table, [], "")
    images = np.zeros((40, 8, 8, 3), np.uint8)
    results = report_module.describe_regression(evaluation, scores, files, images)
    assert results["is_better"] == is_better
    outside = np.abs(predicted - target) > 1
    assert results["n_outside"] == outside.sum() == sum(len(each) for _, each in results["small"])


BAD = {
    "no such column": (["--target", "x"], "must have the columns 'path' and 'x'"),
    "text": (["--target", "text"], "30 of 30 are not: 'a', 'a', 'a' and 27 more. To predict cl"),
    "comma": (["--target", "comma"], "1 of 30 are not: '1,5'"),
    "underscore": (["--target", "underscore"], "1 of 30 are not: '1_5'"),
    "decimal comma": (["--target", "n", "--table", "d.csv"], "more cells than columns in 30 rows"),
    "twice": (["--target", "n", "--table", "w.csv"], "has several columns 'n'"),
    "nan": (["--target", "nan"], "1 of 30 are not: 'nan'"),
    "infinite": (["--target", "infinite"], "1 of 30 are not: '-inf'"),
    "empty": (["--target", "empty"], "The column 'empty' of 't.csv' is empty for "),
    "constant": (["--target", "constant"], "has the same number in all rows, 3, so that there"),
    "one group": (["--target", "n", "--groups", "constant"], "are in the same group, '3'"),
    "no group": (["--target", "n", "--groups", "y"], "must have the columns 'path' and 'y'"),
    "few": (["--target", "n", "--folds", 31], "--folds 31 needs at least 31 images, but there "),
    "itself": (["--target", "n", "--predictions", "t.csv"], "'t.csv' is the table; write to an"),
    "binary": (["--target", "n", "--table", "b.csv"], "'b.csv' is not a CSV file in UTF-8: "),
    "semicolons": (["--target", "n", "--table", "s.csv"], "separated by commas. It has 'path;n'."),
    "other paths": (["--target", "n", "--table", "o.csv"], "relative to 'pictures'. Images witho"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_wrong_usage(run, measured, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").symlink_to(measured[0])
    paths = [f"{i} <i>&'.png" for i in range(N)]
    columns = {"path": paths, "n": range(N), "text": ["a"] * N, "constant": [3] * N}
    wrong = {"comma": "1,5", "nan": "nan", "infinite": "-inf", "empty": " ", "underscore": "1_5"}
    for bad, value in wrong.items():
        columns[bad] = [*range(N - 1), value]
    write_table("t.csv", columns)
    write_table("o.csv", {"path": [*paths[1:], "other.png"], "n": range(N)})
    for name_of_file, header in {"d.csv": "path,n", "w.csv": "path,n,n"}.items():
        lines = "".join(f"{path},3,{i}\n" for i, path in enumerate(paths))
        (tmp_path / name_of_file).write_text(f"{header}\n{lines}")
    (tmp_path / "s.csv").write_text("path;n\n" + "".join(f"{path};3\n" for path in paths))
    (tmp_path / "b.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00path,n\n")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.csv")}
    options, message = BAD[name]
    options = options if "--table" in options else [*options, "--table", "t.csv"]
    output = ["-o", "a.html", "--save-model", "m.skops"]
    code, out, err = run("regress", "pictures", *RECIPE, *output, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("sklearn-conv: error: ")
    assert err.count("\n") == 1
    if name == "other paths":
        first, other = f"pictures/{paths[0]}", "pictures/other.png"
        assert f"Images without a row: {first!r}. Rows without an image: {other!r}." in err
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_classify_refuses_more_folds_than_images_and_its_own_table(run, tmp_path):
    folder = write_pictures(tmp_path / "pictures", {"a": 2, "b": 2})
    table = tmp_path / "t.csv"
    write_table(table, {"path": sorted(path.relative_to(folder) for path in folder.rglob("*.png"))})
    for options, message in [
        ([], "--folds 5 needs at least 5 images, but there are 4; use fewer folds"),
        (["--table", table, "--groups", "g", "--predictions", table], "is the table; write to an"),
    ]:
        code, out, err = run("classify", folder, *RECIPE, "-o", tmp_path / "a.html", *options)
        assert (code, out) == (2, "")
        assert message in err
    assert sorted(os.listdir(tmp_path)) == ["pictures", "t.csv"]
