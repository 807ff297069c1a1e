"""Maps equal the predictions of all tiles, which are cut from an array one by one."""

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from test_scenes import KINDS, SCENE, labeled

from sklearn_conv import (
    RBFRidgeClassifier,
    StreamingRidge,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    make_image_classifier,
    predict_map,
    tile_scene,
    write_map,
)
from sklearn_conv import _maps as maps
from sklearn_conv._engine import choice, sliding
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.symmetry import SYMMETRIES
from sklearn_conv._saving.files import NewFile
from sklearn_conv._saving.map_file import class_colors

RNG = np.random.default_rng(0)


def cut(scene, size, step):
    """Return all tiles of a scene, (rows, columns, h, w, c)."""
    scene = scene if scene.ndim == 3 else scene[..., np.newaxis]
    (h, w), (dy, dx) = size, step
    return np.array(
        [
            [scene[y : y + h, x : x + w] for x in range(0, scene.shape[1] - w + 1, dx)]
            for y in range(0, scene.shape[0] - h + 1, dy)
        ]
    )


def predict_tiles(model, scene, size, step, method="predict"):
    """Return the prediction of every tile by itself."""
    tiles = cut(scene, size, step)
    values = np.asarray(getattr(model, method)(tiles.reshape(-1, *tiles.shape[2:])))
    return values.reshape(*tiles.shape[:2], *values.shape[1:])


def assert_close(ours, expected, rounding=1e-6):
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    scale = np.nanmax(np.abs(expected), initial=0)
    np.testing.assert_allclose(ours, expected, rtol=rounding, atol=rounding * scale)


@st.composite
def cases(draw):
    """Draw a transformer that sees no border, the size of tiles, a step and a scene."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    stride, kernel_size, dilation = draw(pair), draw(pair), draw(pair)
    symmetries = draw(st.sampled_from([*SYMMETRIES]))
    if symmetries == "dihedral":
        stride = (stride[0], stride[0])
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True)]
    pooling = draw(st.sampled_from(["mean", "max", "sum", ["max", "mean"], None]))
    size = tuple(n + draw(st.integers(0, 9)) for n in span)
    if symmetries == "dihedral":
        size = (max(*size, *span),) * 2
        kernel_size, dilation = (kernel_size[0],) * 2, (dilation[0],) * 2
        size = (max(size[0], dilation[0] * (kernel_size[0] - 1) + 1),) * 2
    multiples = draw(pair)
    step = tuple(s * m for s, m in zip(stride, multiples, strict=True))
    if symmetries == "dihedral":
        step = (stride[0] * multiples[0], stride[0] * multiples[1])
    scene = tuple(n + draw(st.integers(0, 20)) for n in size)
    c = draw(st.integers(1, 2))
    missing = draw(st.sampled_from([0, 0, 0.02, 0.2]))
    return {
        "size": size,
        "step": step,
        "scene": (*scene, c),
        "missing": missing,
        "seed": draw(st.integers(0, 2**32 - 1)),
        "dtype": draw(
            st.sampled_from(["float32", "float64", "float16"] + ["uint8"] * (not missing))
        ),
        "block_bytes": draw(st.sampled_from([1, 10_000, 2**27])),
        "part_bytes": draw(st.sampled_from([1, 3_000, 2**21])),
        "engine": draw(st.sampled_from(["native", "numpy"])),
        "parameters": {
            "n_kernels": draw(st.sampled_from([1, 3, 70])),
            "kernel_size": kernel_size,
            "stride": stride,
            "dilation": dilation,
            "padding": draw(st.sampled_from(["valid", 0])),
            "kernels": draw(st.sampled_from(["gaussian", "uniform"])),
            "bias": draw(st.sampled_from([0.3, [[-0.2], [0.1], [0.4]]])),
            "activation": draw(st.sampled_from([*ACTIVATIONS, np.tanh])),
            "normalize_patches": kernel_size != (1, 1) and draw(st.booleans()),
            "pooling": pooling,
            "pool_grid": draw(st.sampled_from([1, 1, 2, (3, 2), (1, 11), [1, 2, 4]])),
            "symmetries": symmetries,
            "power": draw(st.sampled_from([1.0, 0.5, 2.0])),
            "n_jobs": draw(st.sampled_from([None, 2])),
            "missing": "ignore" if missing else "raise",
        },
    }


@given(cases())
def test_features_are_those_of_every_tile(case):
    rng = np.random.default_rng(case["seed"])
    training = rng.normal(size=(3, *case["size"], case["scene"][2]))
    scene = rng.normal(size=case["scene"])
    if case["dtype"] == "uint8":
        training, scene = training * 30 + 100, scene * 30 + 100
    training, scene = (x.astype(case["dtype"]) for x in (training, scene))
    if case["missing"]:
        scene[rng.random(scene.shape) < case["missing"]] = np.nan
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case["engine"] == "numpy":
            patch.setattr(choice, "LIBRARY", None)
        patch.setattr(maps, "BLOCK_BYTES", case["block_bytes"])
        patch.setattr(sliding, "PART_BYTES", case["part_bytes"])
        transformer = StridedConv2DTransformer(random_state=0, **case["parameters"]).fit(training)
        tiles = cut(scene, case["size"], case["step"])
        expected = predict_tiles(transformer, scene, case["size"], case["step"], "transform")
        is_empty = np.isnan(tiles).all(axis=(2, 3, 4)) if case["missing"] else np.False_
        if np.all(is_empty):
            return
        patch.delattr(maps, "warn")  # No tile is computed by itself.
        ours = predict_map(transformer, scene, case["step"], method="transform")
    # The square root of a feature that is 0 except for rounding magnifies this rounding.
    power = case["parameters"]["power"]
    assert_close(ours, expected) if power >= 1 else assert_close(ours**2, expected**2)


@pytest.mark.parametrize("engine", ["native", "numpy"])
@pytest.mark.parametrize("symmetries", ["mirror", "dihedral"])
@pytest.mark.parametrize("step", [(2, 6), (6, 4), (4, 4)])
def test_views_of_small_parts_are_added_in_their_places(engine, symmetries, step, monkeypatch):
    """An error in a place needs several parts, which most examples above do not have."""
    monkeypatch.setattr(sliding, "PART_BYTES", 1)
    if engine == "numpy":
        monkeypatch.setattr(choice, "LIBRARY", None)
    model = transformer(pool_grid=1, symmetries=symmetries, kernel_size=4).fit(
        SCENE[None, :13, :13]
    )
    expected = predict_tiles(model, SCENE, (13, 13), step, "transform")
    assert_close(predict_map(model, SCENE, step, method="transform"), expected)


def fit(model, scene=SCENE, size=(16, 16), n_classes=3):
    """Fit a model on tiles of a scene, with strings as labels."""
    tiles = cut(scene, size, (6, 6)).reshape(-1, *size, scene.shape[2] if scene.ndim == 3 else 1)
    tiles = tiles[~np.isnan(tiles).any(axis=(1, 2, 3))]
    labels = np.array(["water", "forest", "rock"])[np.arange(len(tiles)) % n_classes]
    return model.fit(tiles, labels)


def transformer(**parameters):
    defaults = {"n_kernels": 5, "padding": "valid", "stride": 2, "random_state": 0}
    return StridedConv2DTransformer(**defaults | parameters)


def classifier():
    return StreamingRidgeClassifier(alphas=[1.0])


MODELS = {
    "ridge": lambda: make_pipeline(transformer(), StreamingRidgeClassifier()),
    "scaled": lambda: make_pipeline(transformer(), StandardScaler(), LinearDiscriminantAnalysis()),
    "kernel ridge": lambda: make_pipeline(transformer(), RBFRidgeClassifier(random_state=0)),
    "forest": lambda: make_pipeline(
        transformer(), RandomForestClassifier(3, max_depth=2, random_state=0)
    ),
    "recipe": lambda: make_image_classifier(
        "satellite", random_state=0, n_kernels=4, kernel_size=3, dilation=1
    ),
    "union": lambda: make_pipeline(
        "passthrough",
        FeatureUnion(
            [
                ("a", make_pipeline(transformer(pooling="max"), StandardScaler())),
                ("b", transformer(symmetries="dihedral", pool_grid=[1, 3])),
                ("c", "drop"),
            ],
            transformer_weights={"a": 3.0},
            n_jobs=2,
        ),
        classifier(),
    ),
    "tables": lambda: make_pipeline(transformer(), StandardScaler(), classifier()).set_output(
        transform="pandas"
    ),
    "stacked": lambda: make_pipeline(
        transformer(pool_grid=4, flatten=False), transformer(padding="same"), classifier()
    ),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("step", [2, (4, 6), 16])
def test_labels_and_probabilities_are_those_of_every_tile(make, step, monkeypatch):
    model = fit(make())
    monkeypatch.setattr(maps, "BLOCK_BYTES", 200_000)
    monkeypatch.setattr(maps, "ROWS_BYTES", 20_000)
    steps = (step, step) if isinstance(step, int) else step
    for method in ("predict", "decision_function", "predict_proba"):
        if not hasattr(model, method):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = predict_map(model, SCENE, step, method=method)
        expected = predict_tiles(model, SCENE, (16, 16), steps, method)
        if method == "predict":
            np.testing.assert_array_equal(ours, expected)
        else:
            assert_close(ours, expected, 1e-5)


def test_regressors_features_and_searches():
    tiles = cut(SCENE, (16, 16), (6, 6)).reshape(-1, 16, 16, 3)
    y = RNG.normal(size=(len(tiles), 2))
    model = make_pipeline(transformer(), StreamingRidge(alphas=[1.0])).fit(tiles, y)
    assert_close(predict_map(model, SCENE, 4), predict_tiles(model, SCENE, (16, 16), (4, 4)), 1e-5)
    search = GridSearchCV(model, {"streamingridge__alphas": [[1.0]]}, cv=2).fit(tiles, y)
    np.testing.assert_array_equal(predict_map(search, SCENE, 4), predict_map(model, SCENE, 4))
    for features in (model[:-1], model[0], make_union(model[0])):
        expected = predict_tiles(features, SCENE, (16, 16), (4, 4), "transform")
        assert_close(predict_map(features, SCENE, 4, method="transform"), expected)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_scenes_of_all_kinds_are_read_in_blocks(make, tmp_path, monkeypatch):
    model = fit(MODELS["ridge"]())
    monkeypatch.setattr(maps, "BLOCK_BYTES", 5_000)
    np.testing.assert_array_equal(
        predict_map(model, make(tmp_path), 4), predict_tiles(model, SCENE, (16, 16), (4, 4))
    )


def test_scenes_of_one_channel_and_of_the_size_of_a_tile():
    gray = SCENE[..., 0].astype(">i2")
    model = fit(MODELS["ridge"](), gray)
    for scene in (gray, gray[:16, :16], gray[:16], gray[..., np.newaxis]):
        expected = predict_tiles(model, scene, (16, 16), (2, 2))
        np.testing.assert_array_equal(predict_map(model, scene, 2), expected)


@pytest.mark.parametrize(
    ("make", "step", "problem"),
    [
        (lambda: make_pipeline(transformer(padding="same"), classifier()), 4, "padding='same'"),
        (lambda: make_pipeline(transformer(padding=1), classifier()), 4, "padding=1"),
        (lambda: make_pipeline(transformer(), classifier()), 3, r"step=\(3, 3\).*stride=2"),
        (
            lambda: make_pipeline(
                FunctionTransformer(lambda x: x / 2.0), transformer(), classifier()
            ),
            4,
            "FunctionTransformer",
        ),
        (
            lambda: make_pipeline(
                make_union(transformer(flatten=True), FunctionTransformer(mean_color)), classifier()
            ),
            4,
            "FunctionTransformer",
        ),
    ],
)
def test_other_models_compute_each_tile_and_say_why(make, step, problem):
    model = fit(make())
    with pytest.warns(UserWarning, match=f"each tile by itself.*{problem}") as caught:
        ours = predict_map(model, SCENE, step)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(ours, predict_tiles(model, SCENE, (16, 16), (step, step)))


def mean_color(tiles):
    return tiles.mean(axis=(1, 2))


# Missing pixels


def holes(dtype=np.float32):
    """Return a masked scene, and which pixels are missing."""
    is_missing = np.zeros(SCENE.shape[:2], bool)
    is_missing[:30, :25] = is_missing[40, 50] = True
    mask = np.broadcast_to(is_missing[..., np.newaxis], SCENE.shape)
    return np.ma.array(SCENE.astype(dtype), mask=mask), is_missing


@pytest.mark.parametrize("step", [4, 16])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("block_bytes", [1, 2**27])
@pytest.mark.filterwarnings("ignore:.*each tile by itself")
def test_tiles_with_missing_pixels_have_no_prediction(step, padding, block_bytes, monkeypatch):
    monkeypatch.setattr(maps, "BLOCK_BYTES", block_bytes)
    model = fit(make_pipeline(transformer(padding=padding), classifier()))
    scene, is_missing = holes(np.uint8)
    is_known = ~cut(is_missing, (16, 16), (step, step)).any(axis=(2, 3, 4))
    labels = predict_map(model, scene, step)
    np.testing.assert_array_equal(labels.mask, ~is_known)
    expected = predict_tiles(model, SCENE.astype(np.float32), (16, 16), (step, step))
    np.testing.assert_array_equal(labels[is_known], expected[is_known])
    probabilities = predict_map(model, scene, step, method="predict_proba")
    np.testing.assert_array_equal(np.isnan(probabilities), ~is_known[..., np.newaxis] | [False] * 3)


@pytest.mark.parametrize("step", [4, 16])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.filterwarnings("ignore:.*each tile by itself")
def test_a_model_that_ignores_missing_pixels_predicts_what_is_there(step, padding):
    scene, _ = holes()
    scene = scene.filled(np.nan)
    tiles = cut(scene, (16, 16), (step, step))
    plain = fit(make_pipeline(transformer(missing="ignore", padding=padding), classifier()))
    imputing = fit(
        make_pipeline(transformer(missing="ignore", padding=padding), SimpleImputer(), classifier())
    )
    features = predict_tiles(plain[:-1], scene, (16, 16), (step, step), "transform")
    is_any = ~np.isnan(tiles).all(axis=(2, 3, 4))
    is_whole = ~np.isnan(features).any(axis=2)
    assert is_any.sum() > is_whole.sum() > 0
    for model, is_known in ((plain, is_whole), (imputing, is_any)):
        labels = predict_map(model, scene, step)
        np.testing.assert_array_equal(labels.mask, ~is_known)
        np.testing.assert_array_equal(labels[is_known], model.predict(tiles[is_known]))


def test_tiles_that_overflow_are_computed_in_float64():
    scene = RNG.normal(size=(30, 30, 1)).astype(np.float32)
    scene[:5, :5] = 1e38
    parameters = {"n_kernels": 4, "kernels": np.ones((2, 2, 1, 4)), "pooling": ["sum", "mean"]}
    model = transformer(**parameters, stride=1).fit(scene[np.newaxis, :9, :9] * 0 + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = predict_tiles(model, scene, (9, 9), (3, 3), "transform")
        ours = predict_map(model, scene, 3, method="transform")
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert np.isfinite(ours[2:, 2:]).all()


# Bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"step": 0}, ValueError, "'step' parameter of predict_map"),
        ({"step": 2.5}, TypeError, "'step' parameter of predict_map"),
        ({"method": "fit"}, ValueError, "'method' parameter of predict_map"),
        ({"method": "transform"}, ValueError, "predict or predict_proba or decision_function"),
        ({"scene": SCENE[:15]}, ValueError, r"15 x 61 pixels is smaller.*16 x 16"),
        ({"scene": SCENE[..., :2]}, ValueError, "2 channels.*tiles with 3"),
        ({"scene": SCENE[np.newaxis]}, ValueError, "'scene' parameter of predict_map"),
        ({"scene": "scene.tif"}, TypeError, "'scene' parameter of predict_map"),
        ({"scene": SCENE * 1j}, TypeError, "'scene' parameter of predict_map"),
        ({"scene": np.where(SCENE > 250, np.nan, SCENE)}, ValueError, r"NaN in rows 0:.*masked"),
        ({"scene": np.where(SCENE > 250, np.inf, SCENE)}, ValueError, "infinity in rows 0:"),
        ({"scene": np.ma.masked_all(SCENE.shape)}, ValueError, "missing in all of them"),
        ({"model": LinearDiscriminantAnalysis()}, TypeError, "'model' parameter of predict_map"),
        ({"model": make_pipeline(transformer(), classifier())}, NotFittedError, "not fitted"),
    ],
)
def test_wrong_input_is_refused(change, error, message):
    arguments = {
        "model": fit(make_pipeline(transformer(), classifier())),
        "scene": SCENE,
        "step": 4,
    }
    with pytest.raises(error, match=message):
        predict_map(**arguments | change)


def test_a_model_for_tiles_of_any_size_is_refused():
    model = transformer(image_shape="any").fit([SCENE, SCENE[:20]])
    with pytest.raises(ValueError, match="one size, but image_shape is 'any'"):
        predict_map(model, SCENE, 4, method="transform")


def test_an_error_in_the_model_is_not_hidden():
    model = fit(make_pipeline(transformer(), FunctionTransformer(), classifier()))
    model[1].func = fail
    with pytest.raises(ValueError, match="broken"):
        predict_map(model, SCENE, 4)


def fail(X):
    raise ValueError("broken")


# Progress, memory


def test_progress_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(maps, "BLOCK_BYTES", 5_000)
    model = fit(make_pipeline(transformer(), classifier()))
    model[0].set_params(verbose=10)
    shape = predict_map(model, SCENE, 4).shape
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3
    assert f"Done {np.prod(shape)} out of {np.prod(shape)} tiles" in lines[-1]


def test_an_interrupt_ends_the_call(monkeypatch):
    model = fit(make_pipeline(transformer(), classifier()))
    scene = SCENE.view(Interrupting)
    with pytest.raises(KeyboardInterrupt):
        predict_map(model, scene, 4)
    np.testing.assert_array_equal(
        predict_map(model, SCENE, 4), predict_tiles(model, SCENE, (16, 16), (4, 4))
    )


class Interrupting(np.ndarray):
    """A scene that is interrupted while it is read."""

    def __getitem__(self, key):
        raise KeyboardInterrupt


@pytest.mark.parametrize("missing", ["raise", "ignore"])
def test_memory_does_not_grow_with_the_scene(missing, monkeypatch):
    monkeypatch.setattr(maps, "BLOCK_BYTES", 2**20)
    model = transformer(missing=missing, n_kernels=32).fit(RNG.normal(size=(20, 16, 16, 1)))
    model = make_pipeline(model, FunctionTransformer(lambda x: x[:, :1]))
    peaks = []
    for length in (100, 400):
        scene = np.ma.array(RNG.normal(size=(length, 400, 1)))
        scene[:60] = np.ma.masked
        tracemalloc.start()
        predict_map(model, scene, 2, method="transform")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2**20


# Files


CLASSES = np.array(["forest", "rock", "water"])


def some_labels(shape):
    """Return labels, some of which are masked."""
    labels = CLASSES[np.arange(np.prod(shape)).reshape(shape) % 3]
    return np.ma.array(labels, mask=np.arange(np.prod(shape)).reshape(shape) % 5 == 0)


def open_raster(path):
    return pytest.importorskip("rasterio").open(path)


@pytest.mark.parametrize("make", [KINDS["rasterio"], KINDS["xarray"]])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_geotiff_of_classes_is_what_was_predicted(make, scale, tmp_path):
    scene = make(tmp_path)
    if hasattr(scene, "coords"):
        scene.coords["spatial_ref"].attrs["crs_wkt"] = "EPSG:32632"
    h, w = SCENE.shape[0] // scale, SCENE.shape[1] // scale
    labels = some_labels(((h - 16) // 4 + 1, (w - 10) // 3 + 1))
    path = write_map(
        tmp_path / "map.tif",
        labels,
        like=scene,
        size=(16, 10),
        step=(4, 3),
        scale=scale,
        labels=CLASSES,
    )
    with open_raster(path) as raster:
        codes = raster.read(1)
        names = np.array(["", *(raster.tags(1)[f"class_{i}"] for i in (1, 2, 3))])
        np.testing.assert_array_equal(codes == 0, labels.mask)
        np.testing.assert_array_equal(names[codes][~labels.mask], labels[~labels.mask])
        assert (raster.nodata, raster.dtypes, raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"]) == (
            0,
            ("uint8",),
            "COG",
        )
        assert raster.compression.value == "DEFLATE"
        colors = raster.colormap(1)
        assert colors[0][3] == 0
        assert len({colors[i] for i in (1, 2, 3)}) == 3
        for row, column in ((0, 0), (1, 5)):
            tile = tile_scene(scene, (16, 10), (4, 3), scale=scale, edge="drop")
            y, x = tile.coordinates[row * labels.shape[1] + column]
            np.testing.assert_allclose(raster.xy(row, column), (x, y))
    with open_raster(path) as raster:
        assert raster.crs.to_epsg() == 32632


def test_a_geotiff_of_numbers(tmp_path):
    scene = KINDS["rasterio"](tmp_path)
    tiles = tile_scene(scene, 8, edge="drop")
    probabilities = RNG.random((5, 7, 3)).astype(np.float32)
    probabilities[1, 2] = np.nan
    codes = np.where(np.arange(35).reshape(5, 7) % 2, 1.5, 0.0)
    codes[0, 0] = np.nan
    names = np.where(np.isnan(codes), np.nan, CLASSES[:1].astype(object))
    for values, labels in ((codes, [0.0, 1.5]), (names, CLASSES)):
        path = write_map(tmp_path / "c.tif", values, like=scene, labels=labels)
        with open_raster(path) as raster:
            found = raster.read(1)
            assert found[0, 0] == 0
            assert (found.ravel()[1:] > 0).all()
            assert raster.tags(1)["class_1"] == str(labels[0])
    cases = {
        "bands": (probabilities, CLASSES),
        "one": (tiles.to_map(RNG.random(len(tiles)), 8), None),
        "integers": (np.ma.masked_equal(np.arange(35).reshape(5, 7), 3), None),
    }
    for name, (values, labels) in cases.items():
        path = write_map(tmp_path / f"{name}.tif", values, like=scene, labels=labels)
        with open_raster(path) as raster:
            read = raster.read(masked=True).transpose(1, 2, 0).reshape(values.shape)
            np.testing.assert_array_equal(
                read.mask, np.ma.getmaskarray(np.ma.masked_invalid(values))
            )
            np.testing.assert_array_equal(read.compressed(), values[~read.mask])
            a, b, c, d, e, f = scene.transform[:6]
            assert raster.transform[:6] == (8 * a, 8 * b, c, 8 * d, 8 * e, f)
            assert raster.descriptions == (tuple(CLASSES) if labels is not None else (None,))


def test_a_raster_with_small_pixels(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.Affine(0.1, 0, 500_000, 0, -0.1, 5_600_000)
    profile = {"height": 46, "width": 61, "count": 1, "dtype": "uint8", "driver": "GTiff"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=place, **profile) as raster:
        raster.write(SCENE[np.newaxis, ..., 0])
    with rasterio.open(tmp_path / "a.tif") as scene:
        path = write_map(tmp_path / "b.tif", np.zeros((5, 7)), like=scene, size=8, step=8)
    with open_raster(path) as written:
        assert (written.transform.a, written.transform.e) == (0.8, -0.8)


def test_masked_pixels_do_not_hide_an_offset(monkeypatch):
    monkeypatch.setattr(choice, "LIBRARY", None)
    scene = np.ma.array((60_000 + RNG.normal(size=(60, 60))).astype(np.float32), mask=False)
    scene[:8, :8] = np.ma.masked
    tile = scene.data[np.newaxis, 20:40, 20:40]
    transformer = StridedConv2DTransformer(
        8, padding="valid", pooling=None, activation="identity", random_state=0
    ).fit(tile)
    found = predict_map(transformer, scene, 4, method="transform")
    np.testing.assert_allclose(found[5, 5], transformer.transform(tile)[0], atol=1e-4)


def shrink(images):
    """Return images of 16 x 16 pixels, whatever their size."""
    n, h, w, c = images.shape
    parts = np.asarray(images, float)[:, : h // 16 * 16, : w // 16 * 16]
    return parts.reshape(n, 16, h // 16, 16, w // 16, c).mean(axis=(2, 4))


@pytest.mark.parametrize(
    "function", [shrink, lambda X: X[:, ::2, ::2], lambda X: X.mean(axis=3, keepdims=True)]
)
def test_steps_that_change_the_shape_of_tiles_are_refused(function):
    scene = RNG.normal(size=(128, 128, 3))
    tiles = tile_scene(scene, 64, 32)
    model = make_pipeline(
        FunctionTransformer(function),
        StridedConv2DTransformer(4, padding="valid", random_state=0),
        LinearDiscriminantAnalysis(),
    ).fit(np.asarray(tiles), np.arange(len(tiles)) % 2)
    with pytest.raises(ValueError, match="a step before it makes images of shape"):
        predict_map(model, scene, 32)


def test_models_with_several_targets():
    X = RNG.normal(size=(30, 16, 16))
    model = make_pipeline(
        StridedConv2DTransformer(4, padding="valid", random_state=0), RandomForestClassifier(3)
    ).fit(X, RNG.integers(2, size=(30, 2)))
    with pytest.raises(TypeError, match="a model with one target"):
        predict_map(model, np.zeros((16, 20)), 4, method="predict_proba")
    assert predict_map(model, np.zeros((16, 20)), 4).shape == (1, 2, 2)


def test_tiles_with_empty_cells_do_not_depend_on_each_other(monkeypatch):
    """A model that needs only the first cell predicts tiles in which others are empty."""
    X = RNG.normal(size=(60, 16, 16)) * np.repeat([1, 3], 30)[:, np.newaxis, np.newaxis]
    transformer = StridedConv2DTransformer(4, 3, padding="valid", missing="ignore", random_state=0)
    first = ColumnTransformer([("first", "passthrough", [0, 1, 2, 3])])
    model = make_pipeline(transformer, first, LinearDiscriminantAnalysis())
    model.fit(X, np.repeat([0, 1], 30))
    scene = RNG.normal(size=(40, 40))
    scene[12:24, 12:24] = np.nan
    found = predict_map(model, scene, 4)
    assert 0 < np.ma.getmaskarray(found).sum() < found.size
    monkeypatch.setattr(maps, "BLOCK_BYTES", 1)
    np.testing.assert_array_equal(
        np.ma.getmaskarray(predict_map(model, scene, 4)), np.ma.getmaskarray(found)
    )
    tiles = tile_scene(scene, 16, 4, edge="drop")
    for tile, value in zip(tiles, found.ravel(), strict=True):
        if value is not np.ma.masked:
            assert model.predict(tile[np.newaxis, ..., 0]) == value


def test_maps_of_turned_rasters_and_of_scenes_without_coordinates(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    turned = rasterio.Affine(3, 1, 100, 2, -5, 900)
    profile = {"height": 46, "width": 61, "count": 1, "dtype": "uint8", "driver": "GTiff"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=turned, **profile) as raster:
        raster.write(SCENE[np.newaxis, ..., 0])
    labels = some_labels((11, 14))
    with rasterio.open(tmp_path / "a.tif") as scene:
        path = write_map(tmp_path / "b.tif", labels, like=scene, size=6, step=4, labels=CLASSES)
        with rasterio.open(path) as raster:
            assert raster.crs is None
            expected = turned @ (4 * 2 + 3, 4 * 1 + 3)
            np.testing.assert_allclose(raster.xy(1, 2), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = write_map(tmp_path / "c.tif", labels, like=SCENE, size=6, step=4, labels=CLASSES)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path) as raster:
        assert raster.transform == rasterio.Affine.identity()


def test_a_png_has_colors_and_a_world_file(tmp_path):
    image = pytest.importorskip("PIL.Image")
    scene = KINDS["rasterio"](tmp_path)
    labels = some_labels((11, 14))
    path = write_map(tmp_path / "map.png", labels, like=scene, size=6, step=4, labels=CLASSES)
    with image.open(path) as png:
        pixels = np.asarray(png.convert("RGBA"))
    np.testing.assert_array_equal(pixels[..., 3] == 0, labels.mask)
    colors = np.rint(255 * class_colors(3))
    codes = np.searchsorted(CLASSES, np.asarray(labels))
    np.testing.assert_array_equal(pixels[~labels.mask][:, :3], colors[codes][~labels.mask])
    a, d, b, e, c, f = map(float, (tmp_path / "map.pgw").read_text().split())
    transform = pytest.importorskip("rasterio").Affine(a, b, c, d, e, f)
    y, x = tile_scene(scene, 6, 4, edge="drop").coordinates[14 + 2]
    np.testing.assert_allclose(transform @ (2, 1), (x, y))


MAP = {"values": some_labels((11, 14)), "like": SCENE, "size": 6, "step": 4, "labels": CLASSES}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "map.jpg"}, ValueError, r"must end in \.tif"),
        ({"path": "no/map.tif"}, FileNotFoundError, "does not exist"),
        ({"size": None}, ValueError, "'size' and 'step', or neither"),
        ({"size": None, "step": None}, ValueError, r"shape \(11, 14\) does not fit.*pass the size"),
        ({"step": 5}, ValueError, r"it would have shape \(9, 12\)"),
        ({"step": 0}, ValueError, "'step' parameter of write_map"),
        ({"labels": None}, TypeError, "labels=classes"),
        ({"labels": ["rock", "rock"]}, ValueError, "different labels"),
        ({"labels": ["rock", "water"]}, ValueError, "'forest', which is not one of the labels"),
        ({"values": np.zeros((11, 14, 2))}, ValueError, "2 names, one for each band"),
        ({"values": np.zeros(11)}, ValueError, "'values' parameter of write_map"),
        ({"values": np.zeros((11, 14), complex)}, ValueError, "not one of the labels"),
        (
            {"values": np.full((11, 14), 2**64 - 5, np.uint64), "labels": None},
            ValueError,
            "integers of 32 bits",
        ),
        ({"like": labeled()}, ValueError, "'UTM 32', is none that rasterio knows"),
        ({"like": "scene.tif"}, TypeError, "'scene' parameter of write_map"),
        (
            {"path": "map.png", "values": np.zeros((11, 14)), "labels": None},
            ValueError,
            "255 classes",
        ),
    ],
)
def test_wrong_maps_are_not_written(change, error, message, tmp_path):
    arguments = MAP | change
    with pytest.raises(error, match=message):
        write_map(tmp_path / arguments.pop("path", "map.tif"), **arguments)
    assert not [*tmp_path.iterdir()]


def test_the_scene_is_not_overwritten(tmp_path):
    scene = KINDS["rasterio"](tmp_path)
    before = (tmp_path / "scene.tif").read_bytes()
    with pytest.raises(ValueError, match="is the file of the scene"):
        write_map(tmp_path / "scene.tif", **MAP | {"like": scene})
    mapped = KINDS["memory map"](tmp_path)
    (tmp_path / "scene.npy").rename(tmp_path / "scene.png")
    mapped = np.memmap(tmp_path / "scene.png", np.uint8, "r", 128, SCENE.shape)
    with pytest.raises(ValueError, match="is the file of the scene"):
        write_map(tmp_path / "scene.png", **MAP | {"like": mapped})
    assert (tmp_path / "scene.tif").read_bytes() == before


@pytest.mark.parametrize("name", ["map.tif", "map.png"])
def test_a_full_disk_leaves_the_old_map(name, tmp_path, monkeypatch):
    path = write_map(tmp_path / name, **MAP)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}

    def fail(self, data):
        raise OSError(28, "No space left on device", str(self.target))

    monkeypatch.setattr(NewFile, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        write_map(path, **MAP)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
