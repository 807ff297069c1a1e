"""Pairs of features: all parameters together against the plain loops of `oracle`.

Each row of a covering array is a configuration; every pair of values of two parameters is in one of
the rows at least. The rows differ with the seed that pytest prints. With SCIPY_ARRAY_API=1, as in
the second call of ``make test``, the images are arrays of other libraries.
"""

import os
from itertools import combinations, product

import numpy as np
import oracle
import pytest
import sklearn
from helpers import IS_LONG, small_blocks
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from strategies import ORDERS, in_order

from sklearn_conv import StreamingRidge, StreamingRidgeClassifier, StridedConv2DTransformer
from sklearn_conv._engine import choice
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import PADDING_MODES
from sklearn_conv._engine.pooling import POOLINGS, Pooling
from sklearn_conv._engine.symmetry import SYMMETRIES
from sklearn_conv.inspection import (
    ClassActivationDisplay,
    FeatureMapDisplay,
    class_activation_map,
)

plt = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed: .[plot]")

N_ARRAYS = 20 if IS_LONG else 1
"""Number of covering arrays, each with other rows."""

DISPATCHES = os.environ.get("SCIPY_ARRAY_API") == "1"


def root_of_square(z):
    """Return a function of z that is defined for all libraries, and in which 0 is not 0."""
    return (z * z + 1) ** 0.5


SPACE = {
    "library": ["torch", "strict"] if DISPATCHES else ["native", "numpy", "dask", "list"],
    "dtype": ["float32", "float64", "uint8", "float16"],
    "size": [(7, 7), (6, 9), (9, 5), (4, 12)],
    "c": [1, 2, 3],
    "kernels": ["array", "gaussian", "patches"],
    "kernel_size": [(3, 3), (2, 3), (1, 1)],
    "stride": [(1, 1), (2, 2), (1, 3)],
    "padding": ["same", "valid", (1, 2)],
    "padding_mode": [*PADDING_MODES],
    "dilation": [(1, 1), (2, 1)],
    "normalize_patches": [False, True],
    "whiten": [False, 0.5],
    "bias": ["number", "vector", "several", "quantile"],
    "activation": [*ACTIVATIONS, root_of_square],
    "pooling": ["mean", "max", ["sum", "mean"], None],
    "pool_grid": [(1, 1), (2, 2), (3, 2), (1, 11), [1, 2, 4], [(11, 1), 3, (1, 11)]],
    "symmetries": [*SYMMETRIES],
    "power": [1.0, 0.5, 2.0],
    "missing": ["raise", "ignore", "few", "many"],
    "image_shape": [None, "any"] + ["many sizes"] * (not DISPATCHES),
    "units": ["zero mean", "large offset"],
    "magnitude": [1.0, 1e-12, 1e12],
    "flatten": [True, False],
    "order": ORDERS,
    "n_bytes": [1, 5_000, 10**7],
    "n_jobs": [1, 2],
}
"""Values of the parameters. "few" and "many" are missing pixels, with ``missing="ignore"``."""

OFFSETS = {"float16": 1_000, "float32": 60_000, "float64": 60_000, "uint8": 200}


def is_possible(row):
    """Return whether parameters, of which some may be absent, fit each other and the images."""
    pooling = row.get("pooling", "")
    is_turned_map = pooling is None and row.get("symmetries") == "dihedral"
    return not any(
        (
            row.get("missing") in ("few", "many") and row.get("dtype") == "uint8",
            row.get("image_shape") and pooling is None,
            row.get("image_shape") == "many sizes" and row.get("library") == "dask",
            row.get("normalize_patches") and row.get("kernel_size") == (1, 1),
            row.get("library") == "strict" and row.get("dtype") == "float16",
            row.get("magnitude", 1) != 1 and row.get("dtype") in ("uint8", "float16"),
            # Squares of squares overflow.
            row.get("magnitude") == 1e12 and row.get("power") == 2,
            # test_turned_maps_of_another_shape_are_refused
            is_turned_map and (row.get("size", (7, 7)) != (7, 7) or row.get("stride") == (1, 3)),
        )
    )


def covering_rows(space, seed, n_tries=8):
    """Return rows in which each possible pair of values of two parameters occurs.

    Each row is the best of a few rows, which begin with a pair that has not occurred. Their other
    values are drawn one after the other; each covers as many new pairs as possible.
    """
    rng = np.random.default_rng(seed)
    names = list(space)

    single = {name: 0 for name in names if len(space[name]) == 1}

    def may_be(drawn):
        return is_possible({name: space[name][i] for name, i in (single | drawn).items()})

    def new_pairs(drawn, name, i):
        others = ((other, j) for other, j in drawn.items() if other != name)
        return {frozenset([(name, i), other]) for other in others} & left

    def pairs_of(drawn):
        return {frozenset(pair) for pair in combinations(drawn.items(), 2)}

    values = {name: range(len(space[name])) for name in names}
    left = {
        frozenset([(a, i), (b, j)])
        for a, b in combinations(names, 2)
        for i, j in product(values[a], values[b])
        if may_be({a: i, b: j})
    }
    rows = []
    while left:
        candidates = []
        for start in rng.permutation(sorted(map(sorted, left)))[:n_tries].tolist():
            drawn = {name: int(i) for name, i in start}
            for name in rng.permutation(names).tolist():
                if name not in drawn:
                    options = [i for i in values[name] if may_be(drawn | {name: i})]
                    gains = [len(new_pairs(drawn, name, i)) for i in options]
                    best = np.flatnonzero(np.equal(gains, max(gains)))
                    drawn[name] = options[rng.choice(best)]
            candidates.append(drawn)
        best = max(
            candidates, key=lambda drawn: sum(len(new_pairs(drawn, *v)) for v in drawn.items())
        )
        left -= {frozenset(pair) for pair in combinations(best.items(), 2)}
        rows.append({name: space[name][best[name]] for name in names})
    return rows


def pytest_generate_tests(metafunc):
    spaces = {"row": SPACE, "evidence_row": {} if DISPATCHES else EVIDENCE_SPACE}
    for name in spaces.keys() & {*metafunc.fixturenames}:
        first = int(metafunc.config.option.hypothesis_seed)
        seeds = range(first, first + N_ARRAYS)
        rows = [row for seed in seeds for row in covering_rows(spaces[name], seed)]
        metafunc.parametrize(name, rows, ids=range(len(rows)))


def test_each_pair_is_in_a_row():
    rows = covering_rows({"a": [0, 1, 2], "b": [0, 1], "pooling": [None, 1], "c": "xyz"}, 0)
    for a, b in combinations(rows[0], 2):
        assert len({(row[a], row[b]) for row in rows}) == len({row[a] for row in rows}) * len(
            {row[b] for row in rows}
        )
    assert len(rows) < 12


def make_images(row, rng, n_training=4):
    """Return images to fit on, (n, h, w, c), and a list of others, with missing pixels."""
    (h, w), c, dtype = row["size"], row["c"], row["dtype"]
    sizes = [(h, w)] * 3
    if row["image_shape"] == "many sizes":
        sizes = [(h, w), (h + 2, w + 1), (h, w)]
    offset = OFFSETS[dtype] if row["units"] == "large offset" else 0
    training = rng.normal(size=(n_training, h, w, c))
    images = [rng.normal(size=(*size, c)) for size in sizes]
    if dtype == "uint8":
        offset, training, images = offset or 100, training * 15, [image * 15 for image in images]
    training, *images = (
        ((array + offset) * row.get("magnitude", 1)).astype(dtype) for array in [training, *images]
    )
    if row["missing"] in ("few", "many"):
        for image in images[:2]:
            image[rng.random(image.shape) < (0.02 if row["missing"] == "few" else 0.2)] = np.nan
    return training, images


def make_transformer(row, rng):
    """Return a transformer that is not fitted."""
    kernels, bias = row["kernels"], row["bias"]
    if kernels == "array":
        kernels = rng.normal(size=(*row["kernel_size"], row["c"], 2))
    biases = {"number": 0.3, "vector": rng.normal(size=2), "several": rng.normal(size=(3, 2))}
    names = ["kernel_size", "stride", "padding", "padding_mode", "dilation", "normalize_patches"]
    names += ["whiten", "activation", "pooling", "pool_grid", "symmetries", "power"]
    return StridedConv2DTransformer(
        2,
        kernels=kernels,
        bias=biases.get(bias, bias),
        n_biases=2 if bias == "quantile" else 1,
        missing="raise" if row["missing"] == "raise" else "ignore",
        image_shape="any" if row["image_shape"] else None,
        random_state=0,
        # Features of several grids have no common shape.
        flatten=row["flatten"] or isinstance(row["pool_grid"], list),
        **{name: row[name] for name in [*names, "n_jobs"]},
    )


def put(images, row):
    """Return images as they are passed for the library of a row."""
    if row["image_shape"] == "many sizes":
        return [in_order(image[np.newaxis], row["order"])[0] for image in images]
    X = in_order(np.stack(images), row["order"])
    if row["library"] == "list":
        return X.tolist()
    if row["library"] == "dask":
        return pytest.importorskip("dask.array").from_array(X, (2, -1, -1, -1))
    if row["library"] == "torch":
        return pytest.importorskip("torch").asarray(X.copy())
    if row["library"] == "strict":
        return pytest.importorskip("array_api_strict").asarray(X.copy())
    return X


def geometry_of(row):
    return {name: row[name] for name in ("stride", "padding", "padding_mode", "dilation")}


def sides_of(activation, margin):
    """Return the sides of an activation, or "step" for responses that may be larger or smaller."""
    if callable(activation):
        return [lambda z, b: activation(z + b)]
    if activation == "step":
        return [lambda z, b: float(z + b > margin)]
    return oracle.ACTIVATIONS[activation]


def test_features_agree_with_plain_loops(row):
    """The tolerance is a multiple of the rounding of the products of pixels and weights."""
    rng = np.random.default_rng(row["c"])
    training, images = make_images(row, rng)
    transformer = make_transformer(row, rng)
    shapes = map_shapes_of(row, images)
    is_turned_map = row["symmetries"] == "dihedral" and row["pooling"] is None
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, row["n_bytes"])
        if row["library"] == "numpy":
            patch.setattr(choice, "LIBRARY", None)
        with sklearn.config_context(array_api_dispatch=DISPATCHES):
            if min(map(min, shapes)) < 1 or (is_turned_map and len({*shapes[0]}) > 1):
                with pytest.raises(ValueError, match=r"does not fit|square maps of one size"):
                    transformer.fit(put(training, row | {"image_shape": None}))
                return
            transformer.fit(put(training, row | {"image_shape": None}))
            found = transformer.transform(put(images, row))
    found = np.asarray(found)
    shape = transformer.output_size(images[0].shape)
    assert found.size == 3 * shape.features
    assert len(transformer.get_feature_names_out()) == shape.features

    kernels, offset, bias = (
        np.asarray(array).astype(found.dtype).astype(float)
        for array in (transformer.kernels_, transformer.offset_, transformer.bias_)
    )
    bias = np.atleast_2d(bias)
    tolerance = rounding_of_responses(row, images, kernels, offset, bias, found.dtype)
    options = {
        "symmetries": row["symmetries"],
        "kernels": kernels,
        "offset": offset,
        "bias": bias,
        "eps": transformer.eps_,
        "pooling": row["pooling"],
        "pool_grid": row["pool_grid"],
        **geometry_of(row),
    }
    low, high = (
        np.array(
            [
                oracle.mean_features(
                    image.astype(float), sides=sides_of(row["activation"], margin), **options
                ).ravel()
                for image in images
            ]
        )
        for margin in (tolerance, -tolerance)
    )
    found = found.reshape(low.shape).astype(float)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(low))
    found = np.sign(found) * np.abs(found) ** (1 / row["power"])
    with np.errstate(invalid="ignore"):
        largest = np.nanmax(np.abs(high), initial=1)
    slope = 2 * np.sqrt(largest) if row["activation"] == "square" else 1
    n_windows = max(map(np.prod, shapes))
    error = tolerance * slope * (n_windows if "sum" in str(row["pooling"]) else 1)
    error = (0 if row["activation"] == "step" else error) + 1e-6 * np.abs(high)
    outside = (found < low - error) | (found > high + error)
    assert not outside.any(), (found[outside], low[outside], high[outside], error[outside])


def map_shapes_of(row, images):
    return [
        shape
        for image in images
        for shape in oracle.map_shapes(
            image.shape[:2], row["kernel_size"], row["symmetries"], **geometry_of(row)
        )
    ]


def rounding_of_responses(row, images, kernels, offset, bias, dtype):
    """Return a bound of the rounding of a response, a small multiple of the sum of its terms.

    In float32, large offsets are subtracted from the pixels, unless zeros are added around them.
    """
    weights = np.abs(kernels).sum(axis=(0, 1, 2)).max()
    uncentered = np.abs(kernels.sum(axis=(0, 1, 2))).max()
    values = np.concatenate([image[~np.isnan(image)] for image in images]).astype(float)
    spread, largest = np.abs(values - values.mean()).max(), np.abs(values).max()
    has_zeros = row["padding"] != "valid" and row["padding_mode"] == "constant"
    if has_zeros or dtype == np.float64:
        spread = largest
    if row["normalize_patches"]:
        spread, largest = 10, 0
    sums = spread * weights + largest * uncentered + np.abs(offset).max() + np.abs(bias).max()
    return 10 * np.finfo(dtype).eps * sums


SAME_FOR_EVIDENCE = ["dtype", "size", "c", "kernels", "kernel_size", "stride", "padding", "power"]
SAME_FOR_EVIDENCE += ["padding_mode", "dilation", "normalize_patches", "whiten", "bias", "order"]
SAME_FOR_EVIDENCE += ["pool_grid", "symmetries", "missing", "n_jobs"]
EVIDENCE_SPACE = {name: SPACE[name] for name in SAME_FOR_EVIDENCE} | {
    "library": ["native", "numpy"],
    # Rounding decides on which side of a step a response is.
    "activation": [name for name in SPACE["activation"] if name != "step"],
    "units": ["zero mean"],
    "pooling": ["mean", "sum", ["sum", "mean"], None],
    "evidence": [True],
    "image_shape": [None],
    "n_bytes": [10**7],
    "flatten": [True],
    "last_steps": [
        [StandardScaler(), RidgeClassifier()],  # RidgeClassifier warns of large features alone.
        [StreamingRidgeClassifier()],
        [StandardScaler(), StreamingRidge()],
        [StreamingRidge()],
    ],
}


def test_evidence_adds_up_to_decisions(evidence_row):
    row = evidence_row
    rng = np.random.default_rng(row["c"])
    training, images = make_images(row | {"missing": "raise"}, rng, n_training=20)
    transformer = make_transformer(row, rng)
    (shape, *_) = shapes = map_shapes_of(row, images)
    is_turned_map = row["symmetries"] == "dihedral" and row["pooling"] is None
    if min(map(min, shapes)) < 1 or (is_turned_map and len({*shape}) > 1):
        return
    pipeline = make_pipeline(transformer, *clone(row["last_steps"]))
    with pytest.MonkeyPatch.context() as patch:
        if row["library"] == "numpy":
            patch.setattr(choice, "LIBRARY", None)
        pipeline.fit(in_order(training, row["order"]), np.arange(20) % 3)
        if row["missing"] in ("few", "many"):
            images[0][0, 0, 0] = images[1][-1, -2:] = np.nan
        X = in_order(np.stack(images), row["order"])
        X = X[np.isfinite(transformer.transform(X)).all(axis=1)]
        if not len(X):
            return
        decide = getattr(pipeline, "decision_function", pipeline.predict)
        decisions = decide(X).reshape(len(X), -1)
        try:
            maps = class_activation_map(pipeline, X)
        except UserWarning as warning:
            # A scaler divides features that are constant but for their rounding by this rounding.
            if row["dtype"] == "float64" or "only roughly" not in str(warning):
                raise
            return
    rounding = 1e-5 * np.abs(maps).sum(axis=(1, 2)) + 1e-5 * np.abs(decisions)
    assert (np.abs(maps.sum(axis=(1, 2)) - decisions) <= rounding).all()


def fitted(images, **parameters):
    return StridedConv2DTransformer(4, random_state=0, **parameters).fit(images)


RNG = np.random.default_rng(0)
GAPS = RNG.normal(size=(6, 9, 9, 2)).astype(np.float32)
GAPS[:3, 4, 5] = np.nan
WHOLE = np.nan_to_num(GAPS)
LABELS = np.arange(6) % 3


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ((30, 90), {"stride": (1, 3)}),
        ((9, 9), {"stride": (1, 2)}),
        ((12, 9), {"padding": "valid", "kernel_size": (4, 1)}),
    ],
)
def test_turned_maps_of_another_shape_are_refused(shape, parameters):
    """Maps of the image or of the turned image are not square."""
    transformer = StridedConv2DTransformer(2, symmetries="dihedral", pooling=None, **parameters)
    with pytest.raises(ValueError, match="needs square maps"):
        transformer.fit(RNG.random((4, *shape, 1)))


@pytest.mark.skipif(DISPATCHES, reason="for NumPy")
def test_functions_of_maps_with_missing_pixels():
    transformer = fitted(GAPS, missing="ignore", activation=np.tanh, pooling=None, flatten=False)
    usual = fitted(WHOLE, activation=np.tanh, pooling=None, flatten=False)
    usual.kernels_ = transformer.kernels_
    found, expected = transformer.transform(GAPS), usual.transform(WHOLE)
    expected[:3, 3:6, 4:7] = np.nan
    np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(not DISPATCHES, reason="for arrays of other libraries")
def test_functions_of_cells_with_missing_pixels():
    torch = pytest.importorskip("torch")
    with sklearn.config_context(array_api_dispatch=True):
        transformer = fitted(torch.asarray(GAPS), missing="ignore", activation=root_of_square)
        found = transformer.transform(torch.asarray(GAPS))
    assert np.isfinite(np.asarray(found)).all()


def test_evidence_of_functions_with_missing_pixels():
    transformer = StridedConv2DTransformer(4, missing="ignore", activation=np.tanh, random_state=0)
    pipeline = make_pipeline(transformer, RidgeClassifier()).fit(GAPS, LABELS)
    maps = class_activation_map(pipeline, GAPS)
    decisions = pipeline.decision_function(GAPS)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), decisions, rtol=1e-3, atol=1e-4)


def test_offsets_of_images_with_missing_pixels():
    images = RNG.normal(size=(4, 9, 9, 1)) + 60_000
    images[:, 8, 8] = np.nan
    options = {"missing": "ignore", "padding": "valid", "pool_grid": 1, "activation": "identity"}
    single = fitted(images.astype(np.float32), **options)
    double = fitted(images.astype(np.float32).astype(np.float64), **options)
    double.kernels_ = single.kernels_.astype(np.float64)
    features = [
        t.transform(images.astype(np.float32).astype(t.kernels_.dtype)) for t in (single, double)
    ]
    np.testing.assert_allclose(*features, atol=1e-5)


@pytest.mark.parametrize("library", [name for name in SPACE["library"] if name != "list"])
@pytest.mark.parametrize("padding", ["same", (2, 3)])
@pytest.mark.parametrize("missing", ["raise", "ignore"])
def test_offsets_beside_zeros(library, padding, missing, monkeypatch):
    """Windows are as precise as without the padding and the missing pixels beside them."""
    images = [RNG.normal(size=(12, 13, 1)).astype(np.float32) + np.float32(60_000)] * 4
    row = {"image_shape": None, "order": "C", "library": library}
    X = put(images, row)
    if library == "numpy":
        monkeypatch.setattr(choice, "LIBRARY", None)
    top, left = (1, 1) if padding == "same" else padding
    options = {"pooling": None, "flatten": False, "activation": "identity", "missing": missing}
    with sklearn.config_context(array_api_dispatch=DISPATCHES):
        transformer = fitted(X, padding=padding, **options)
        alone = np.asarray(transformer.set_params(padding="valid").transform(X)).copy()
        if missing == "ignore":
            images = [image.copy() for image in images]
            for i, image in enumerate(images[:3]):
                image[4, i + 4] = np.nan
                alone[i, 2:5, i + 2 : i + 5] = np.nan
        maps = np.asarray(transformer.set_params(padding=padding).transform(put(images, row)))
    np.testing.assert_allclose(maps[:, top : top + 10, left : left + 11], alone, atol=1e-4)


@pytest.mark.parametrize("library", ["torch", "strict"] if DISPATCHES else ["native"])
def test_offsets_beside_zeros_in_images(library):
    """Pixels in the corners of the images say nothing about the windows between them."""
    images = [RNG.normal(size=(12, 13, 1)).astype(np.float32) + np.float32(60_000)] * 4
    beside_zeros = [np.pad(image[2:-1], ((2, 1), (0, 0), (0, 0))) for image in images]
    row = {"image_shape": None, "order": "C", "library": library}
    options = {"pooling": None, "flatten": False, "activation": "identity", "padding": "valid"}
    with sklearn.config_context(array_api_dispatch=DISPATCHES):
        transformer = fitted(put(images, row), **options)
        expected, found = (
            np.asarray(transformer.transform(put(X, row)))[:, 2:9] for X in (images, beside_zeros)
        )
    np.testing.assert_allclose(found, expected, atol=1e-4)


OTHERS = {
    "min": (Pooling(np.minimum, lambda joined, n: joined), np.min),
    "root mean": (
        Pooling(np.add, lambda joined, n: (joined / n) ** 0.5),
        lambda x: x.mean() ** 0.5,
    ),
    "twice": (Pooling(np.maximum, lambda joined, n: 2 * joined), lambda x: 2 * x.max()),
}
"""Poolings that may be added, and their formulas."""


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("images", [WHOLE[:4], GAPS[:4]], ids=["whole", "gaps"])
@pytest.mark.parametrize("library", [name for name in SPACE["library"] if name != "list"])
def test_poolings_that_are_added_are_computed_or_refused(library, images, name, monkeypatch):
    pooling, formula = OTHERS[name]
    monkeypatch.setitem(POOLINGS, name, pooling)
    if library == "numpy":
        monkeypatch.setattr(choice, "LIBRARY", None)
    small_blocks(monkeypatch, 1000)
    X = put([*images], {"image_shape": None, "order": "C", "library": library})
    options = {"missing": "ignore", "activation": "square", "flatten": False}
    with sklearn.config_context(array_api_dispatch=DISPATCHES):
        maps = np.asarray(fitted(X, pooling=None, **options).transform(X))
        transformer = fitted(X, pooling=name, pool_grid=1, **options)
        if name == "min" and (DISPATCHES or np.isnan(images).any()):
            with pytest.raises(NotImplementedError, match=r"joined by numpy\.minimum only"):
                np.asarray(transformer.transform(X))
            return
        found = np.asarray(transformer.transform(X))
    expected = [[formula(z[~np.isnan(z)]) for z in np.moveaxis(image, 2, 0)] for image in maps]
    np.testing.assert_allclose(found.reshape(4, 4), expected, rtol=1e-5)


@pytest.mark.parametrize("symmetries", ["mirror", "dihedral"])
def test_evidence_of_cells_that_are_empty_in_some_views(symmetries):
    images = GAPS.copy()
    images[0, :6, :6] = np.nan
    transformer = StridedConv2DTransformer(
        4, stride=2, symmetries=symmetries, missing="ignore", random_state=0
    )
    pipeline = make_pipeline(transformer, RidgeClassifier()).fit(images, LABELS)
    maps = class_activation_map(pipeline, images)
    decisions = pipeline.decision_function(images)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), decisions, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_displays_of_images_with_missing_pixels(dtype):
    """Everything but the missing pixels, and the windows that contain one, is shown."""
    pytest.importorskip("matplotlib").use("agg")
    images = GAPS.astype(dtype)
    pipeline = make_pipeline(fitted(images, missing="ignore"), RidgeClassifier())
    pipeline.fit(images, LABELS)
    displays = [
        FeatureMapDisplay.from_estimator(pipeline, images[0]),
        ClassActivationDisplay.from_estimator(pipeline, images[0]),
    ]
    for display in displays:
        for panel in display.axes_:
            for shown in panel.images:
                colors = np.ma.filled(shown.get_array().astype(float), np.nan)
                is_blank = np.isnan(colors.reshape(*colors.shape[:2], -1)).any(axis=2)
                assert is_blank.sum() <= 9
                assert np.isfinite(shown.get_clim()).all()
        plt.close(display.figure_)


@pytest.mark.parametrize("symmetries", ["mirror", "dihedral"])
def test_displays_of_turned_images(symmetries):
    """The map that is drawn is that of the image as it is, also if it is not square."""
    transformer = fitted(WHOLE[:, :, :6], symmetries=symmetries, stride=(2, 1), power=0.5)
    display = FeatureMapDisplay.from_estimator(transformer, WHOLE[0, :, :6], n_maps=4)
    usual = StridedConv2DTransformer(
        kernels=transformer.kernels_, stride=(2, 1), pooling=None, flatten=False
    ).fit(WHOLE[:, :, :6])
    maps = usual.transform(WHOLE[:1, :, :6])[0]
    np.testing.assert_array_equal(np.sort(display.maps, axis=2), np.sort(maps, axis=2))
    plt.close(display.figure_)
