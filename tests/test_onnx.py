"""Exported pipelines have the same results in onnxruntime as in scikit-learn."""

import importlib
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import IS_LONG
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import PADDING_MODES
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv._engine.symmetry import SYMMETRIES
from sklearn_conv.kernels._initializers import KERNELS

skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed: .[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: .[onnx]")
import sklearn_conv.onnx  # noqa: E402, F401

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(5, 1, (20, 9, 8, 3)).astype(np.float32)
DIGITS = load_digits()
RECIPE = {
    "kernels": "patches",
    "normalize_patches": True,
    "whiten": True,
    "activation": "split",
    "bias": -0.25,
    "random_state": 0,
}


ONE_THREAD = onnxruntime.SessionOptions()
ONE_THREAD.intra_op_num_threads = 1  # The processes of pytest-xdist use all cores.


def run(model, X, **options):
    exported = skl2onnx.to_onnx(model, X[:1], **options)
    session = onnxruntime.InferenceSession(
        exported.SerializeToString(), ONE_THREAD, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: X})


def assert_same_features(images=IMAGES, rtol=1e-5, target_opset=None, **parameters):
    transformer = StridedConv2DTransformer(**{"n_kernels": 6, "random_state": 0, **parameters})
    expected = transformer.fit(images).transform(images)
    (features,) = run(transformer, images, target_opset=target_opset)
    assert features.shape == expected.shape
    assert features.dtype == expected.dtype
    if transformer.power != 1:  # The roots of features near 0 have large errors.
        power = 1 / transformer.power
        features, expected = (np.sign(f) * np.abs(f) ** power for f in (features, expected))
    np.testing.assert_allclose(features, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kernels", KERNELS)
def test_kernels(kernels, normalize):
    assert_same_features(kernels=kernels, normalize_patches=normalize, whiten=normalize)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype):
    bias = np.linspace(-0.3, 0.2, 6)
    assert_same_features(IMAGES.astype(dtype), activation=activation, bias=bias, rtol=1e-5)


@pytest.mark.parametrize("padding", ["same", "valid", 2, (0, 3)])
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_padding(padding, padding_mode):
    assert_same_features(padding=padding, padding_mode=padding_mode, kernel_size=(4, 3), stride=2)


POOLED = [
    (pooling, grid, flatten)
    for pooling in [*POOLINGS, [*POOLINGS]]
    for grid in (1, (2, 3), (9, 20), [1, (3, 2), 9])
    for flatten in ((True,) if isinstance(grid, list) else (True, False))
]


@pytest.mark.parametrize(
    ("pooling", "pool_grid", "flatten"), [*POOLED, (None, 1, True), (None, 1, False)]
)
def test_pooling(pooling, pool_grid, flatten):
    options = {"pooling": pooling, "pool_grid": pool_grid, "flatten": flatten}
    assert_same_features(**options, activation="split", stride=(1, 2))


BIASES = [[0.5], [0.0], [-1.5]]


def test_infinite_sums_of_views_are_avoided():
    """The engine divides the features of each view by the number of views, and adds them then."""
    images = np.full((2, 4, 4), 2e38, np.float32)
    parameters = {"kernels": np.ones((1, 1, 1, 1)), "pooling": "max", "symmetries": "dihedral"}
    assert_same_features(images, **parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_views_share_the_weights(dtype):
    images = IMAGES.astype(dtype)
    sizes = []
    for symmetries in SYMMETRIES:
        model = StridedConv2DTransformer(100, kernel_size=5, symmetries=symmetries).fit(images)
        sizes.append(len(skl2onnx.to_onnx(model, images[:1]).SerializeToString()))
    n_bytes = model.kernels_.astype(dtype).nbytes
    assert n_bytes < min(sizes) < max(sizes) < 2 * n_bytes


def test_several_biases_that_are_all_0():
    assert_same_features(bias=[[0.0], [0.0]], pool_grid=[1, 2])


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_older_and_newer_operators(opset):
    parameters = {"symmetries": "dihedral", "bias": BIASES, "power": 0.7, "normalize_patches": True}
    assert_same_features(pooling=["mean", "max", "sum"], **parameters, target_opset=opset)


PAIR = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=600 if IS_LONG else 15)
@given(
    kernel_size=PAIR,
    stride=PAIR,
    dilation=st.sampled_from([1, 2, (1, 2)]),
    padding=st.sampled_from(["same", 0, 1, 4]),
    padding_mode=st.sampled_from(sorted(PADDING_MODES)),
    normalize=st.booleans(),
    dtype=st.sampled_from(["float32", "float64", "uint8", "int16", "uint16"]),
    pooling=st.sampled_from([*POOLINGS, [*POOLINGS], None]),
    pool_grid=PAIR | st.sampled_from([[1, 2, 4], [(5, 1), 2]]),
    flatten=st.booleans(),
    symmetries=st.sampled_from([*SYMMETRIES]),
    bias=st.sampled_from(
        [0, [[0.0], [0.0]], [[-0.5], [0.0]], np.outer([0.2, -1], range(6)), "quantile"]
    ),
    activation=st.sampled_from([*ACTIVATIONS]),
    power=st.sampled_from([0.25, 0.5, 1, 2.5]),
)
def test_any_parameters(dtype, normalize, **parameters):
    images = (20 * IMAGES[:4]).astype(dtype)
    if parameters["symmetries"] == "dihedral" and parameters["pooling"] is None:
        # Turned maps must be square.
        images, parameters["dilation"] = images[:, :8], 1
        for name in ("kernel_size", "stride"):
            parameters[name] = parameters[name][0]
    if isinstance(parameters["bias"], str):
        parameters["n_biases"] = 4
    if isinstance(parameters["pool_grid"], list):
        parameters["flatten"] = True
    if normalize and parameters["kernel_size"] in ((1, 1), 1):
        parameters["kernel_size"] = 2
    assert_same_features(images, normalize_patches=normalize, rtol=3e-5, **parameters)


DTYPES = ["bool", "uint8", "int16", "uint16", "float16", "int32", "int64", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    images = (DIGITS.images[:50] * (15 if dtype == "uint8" else 1)).astype(dtype)
    if dtype == "bool":
        images = DIGITS.images[:50] > 8
    assert_same_features(images)
    assert_same_answers(images, DIGITS.target[:50], images, n_kernels=4, whiten=False)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (64,), (4, 8, 2), None])
def test_images_as_rows_and_with_and_without_channels(shape):
    rows = DIGITS.data[:9].astype(np.float32)
    if shape:
        assert_same_features(rows.reshape(9, *shape), stride=2)
    else:
        assert_same_features(rows, image_shape=(4, 8, 2), kernel_size=(2, 4))


@pytest.mark.filterwarnings("ignore:X contains constant images:UserWarning")
def test_large_offsets_and_constant_patches():
    images = IMAGES + 1000
    images[0] = 7
    assert_same_features(images, normalize_patches=True, rtol=1e-4)


def assert_same_answers(images, labels, X, **parameters):
    transformer = StridedConv2DTransformer(**{**RECIPE, **parameters})
    model = make_pipeline(transformer, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(images, labels)
    answers, probabilities = run(model, X, options={"zipmap": False})
    np.testing.assert_array_equal(answers, model.predict(X))
    np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=1e-5, rtol=0)


def make_transformer(**parameters):
    return StridedConv2DTransformer(**{"n_kernels": 8, "random_state": 0, **parameters})


def make_scaled(*steps, **parameters):
    return make_pipeline(make_transformer(**parameters), StandardScaler(), *steps)


SEVERAL = [
    make_transformer(),
    make_transformer(**RECIPE, dilation=2, power=0.5),
    make_transformer(symmetries="dihedral", bias=BIASES),
]
UNIONS = {
    "transformers": make_union(*SEVERAL),
    "weights": FeatureUnion(
        [*zip("abc", SEVERAL, strict=True)], transformer_weights={"a": 2, "c": 0.5}
    ),
    "pipelines": make_union(make_scaled(), make_scaled(PCA(5, random_state=0), power=0.5)),
    "two layers": make_union(
        make_transformer(),
        make_pipeline(make_transformer(pool_grid=4, flatten=False), make_transformer()),
    ),
    "nested": make_union(make_transformer(dilation=3), make_union(*SEVERAL)),
}
TABLES = {
    "one": ColumnTransformer([("image", make_transformer(image_shape=(8, 8)), slice(64))]),
    "first": ColumnTransformer(
        [
            ("image", make_scaled(image_shape=(6, 8)), slice(16, 64)),
            ("numbers", MinMaxScaler(), [4, 2, 13]),
        ]
    ),
    "last": ColumnTransformer(
        [
            ("numbers", "passthrough", [4, 2, 13]),
            ("unused", "drop", [5]),
            ("union", make_union(*SEVERAL), slice(64)),
        ]
    ),
}
CLASSIFIERS = {
    "streaming": [StreamingRidgeClassifier()],
    "scaled streaming": [StandardScaler(), StreamingRidgeClassifier()],
    "logistic": [StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)],
    "ridge": [StandardScaler(), RidgeClassifier()],
}


def assert_same_predictions(model, X, labels):
    options = {id(model[-1]): {"zipmap": False, "raw_scores": True}}
    answers, scores = run(model.fit(X, labels), X, options=options)
    np.testing.assert_array_equal(answers, model.predict(X))
    np.testing.assert_allclose(scores, model.decision_function(X), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("union", "classifier", "dtype"),
    [
        *((union, "streaming", "float32") for union in UNIONS),
        *((union, "logistic", "float64") for union in UNIONS),
        *(("weights", "ridge", dtype) for dtype in ("float32", "uint8", "int64")),
        *(("pipelines", "scaled streaming", dtype) for dtype in ("float64", "uint8", "int64")),
    ],
)
def test_unions(union, classifier, dtype):
    model = make_pipeline(UNIONS[union], *CLASSIFIERS[classifier])
    assert_same_predictions(model, DIGITS.images[:200].astype(dtype), DIGITS.target[:200])


@pytest.mark.parametrize(
    ("classifier", "dtype"), [("streaming", "float32"), ("logistic", "float64")]
)
@pytest.mark.parametrize("table", TABLES)
def test_tables(table, classifier, dtype):
    model = make_pipeline(TABLES[table], *CLASSIFIERS[classifier])
    assert_same_predictions(model, DIGITS.data[:200].astype(dtype), DIGITS.target[:200])


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float16"])
def test_unions_of_16_bit_images_are_exported_in_float32(dtype):
    """FeatureUnion of skl2onnx does not support 16 bits."""
    X, labels = (100 * DIGITS.images[:200]).astype(dtype), DIGITS.target[:200]
    model = make_pipeline(UNIONS["pipelines"], *CLASSIFIERS["logistic"]).fit(X, labels)
    answers, probabilities = run(model, X.astype(np.float32), options={"zipmap": False})
    np.testing.assert_array_equal(answers, model.predict(X))
    np.testing.assert_allclose(probabilities, model.predict_proba(X), rtol=0, atol=1e-5)


@pytest.mark.parametrize("flat", [False, True])
def test_digits(flat):
    images = DIGITS.data if flat else DIGITS.images
    images = images.astype(np.float32)
    assert_same_answers(images[:700], DIGITS.target[:700], images[-1000:], kernel_size=4)


def test_photographs():
    folder = os.environ.get("SKLEARN_CONV_DATA")
    if folder is None:
        pytest.skip("SKLEARN_CONV_DATA is not set: the folder with fashion_mnist.npz")
    with np.load(Path(folder) / "fashion_mnist.npz") as data:
        images, labels = data["X_train"][:2000], data["y_train"][:2000]
        X = data["X_test"][:1000]
    assert_same_answers(images, labels, X, kernel_size=6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("names", [[0, 1], [0.0, 1.0], range(10), ["lung", "liver"], [*"abc"]])
def test_options_of_streaming_ridge(names, dtype):
    images = DIGITS.images[:200].astype(dtype)
    labels = np.array(names)[DIGITS.target[:200] % len(names)]
    model = make_pipeline(StridedConv2DTransformer(8, random_state=0), StreamingRidgeClassifier())
    expected = model.fit(images, labels).predict(images)
    probabilities, scores = model.predict_proba(images), model.decision_function(images)
    if len(names) == 2:
        scores = np.stack([-scores, scores], axis=1)
    indices = np.searchsorted(model.classes_, expected)

    def check(answers, table, expected=expected, values=probabilities):
        np.testing.assert_array_equal(answers, expected)
        np.testing.assert_allclose(table, values, atol=1e-4)

    def as_table(rows, names):
        return [[row[name] for name in names] for row in rows]

    for options in None, {"zipmap": True}:
        answers, rows = run(model, images, options=options)
        check(answers, as_table(rows, sorted(names)))
    answers, rows = run(model, images, options={id(model[-1]): {"raw_scores": True}})
    check(answers, as_table(rows, sorted(names)), values=scores)
    answers, rows = run(model, images, options={"nocl": True})
    check(answers, as_table(rows, range(len(names))), indices)
    check(*run(model, images, options={"zipmap": False, "nocl": True}), indices)
    options = {id(model[-1]): {"zipmap": False, "raw_scores": True}}
    check(*run(model, images, options=options), values=scores)
    answers, *columns = run(model, images, options={"zipmap": "columns"})
    check(answers, np.stack(columns, axis=1))
    if isinstance(names[0], float):  # As class labels of an output, skl2onnx does not support them.
        return
    *outputs, classes = run(model, images, options={"zipmap": False, "output_class_labels": True})
    check(*outputs)
    np.testing.assert_array_equal(classes, model.classes_)


def fit_on_labels(names):
    labels = np.array(names)[DIGITS.target[:99] % len(names)]
    return StreamingRidgeClassifier().fit(DIGITS.data[:99].astype(np.float32), labels)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_labels_that_float64_would_round(dtype):
    model, X = fit_on_labels(np.array([2**62, 2**62 + 1], dtype)), DIGITS.data.astype(np.float32)
    answers, _ = run(model, X, options={"zipmap": False})
    assert {*answers.tolist()} == {2**62, 2**62 + 1}
    np.testing.assert_array_equal(answers, model.predict(X))


@pytest.mark.parametrize("names", [[1, 2**63], [5, 2**63 - 1, 2**64 - 1]])
@pytest.mark.parametrize("options", [None, {"zipmap": False}, {"zipmap": "columns"}])
def test_labels_that_onnx_does_not_support(names, options):
    model, X = fit_on_labels(np.array(names, np.uint64)), DIGITS.data.astype(np.float32)
    with pytest.raises(ValueError, match=r"integers from -2\*\*63 to 2\*\*63 - 1.*'nocl': True"):
        skl2onnx.to_onnx(model, X[:1], options=options)
    answers, _ = run(model, X, options={"zipmap": False, "nocl": True})
    np.testing.assert_array_equal(model.classes_[answers], model.predict(X))


def make_textures(offset, amplitude, dtype, n=400):
    """Return images with a large offset, and labels that their texture decides."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, n)
    noise = rng.normal(size=(n, 12, 12))
    rows, columns = noise + np.roll(noise, 1, axis=1), noise + np.roll(noise, 1, axis=2)
    textures = np.stack([noise, rows / 1.4, columns / 1.4])[labels, np.arange(n)]
    return np.round(offset + amplitude * textures).astype(dtype), labels


LAST_STEPS = {
    "streaming": [StreamingRidgeClassifier()],
    "logistic": [StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)],
    "ridge": [StandardScaler(), RidgeClassifier()],
    "ridge without scaler": [RidgeClassifier()],
}


def assert_same_decisions(last_steps, X, labels, **parameters):
    transformer = StridedConv2DTransformer(16, random_state=0, **parameters)
    model = make_pipeline(transformer, *LAST_STEPS[last_steps]).fit(X[:200], labels[:200])
    options = {id(model[-1]): {"zipmap": False, "raw_scores": True}}
    answers, scores = run(model, X, options=options)
    expected = model.decision_function(X)
    if scores.shape[1] == 2:
        expected = np.stack([-expected, expected], axis=1)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-3 * expected.std())
    np.testing.assert_array_equal(answers, model.predict(X))


@pytest.mark.parametrize(
    "parameters",
    [
        {"padding": "valid"},
        {"padding_mode": "edge", "activation": "split", "pooling": ["mean", "max"]},
        {"kernels": "patches", "normalize_patches": True, "whiten": True},
    ],
)
@pytest.mark.parametrize(
    ("offset", "amplitude", "dtype"),
    [(60000, 2, "uint16"), (-30000, 1, "int16"), (60000, 2, "float32"), (1e6, 3, "float32")],
)
@pytest.mark.parametrize("last_steps", LAST_STEPS)
def test_decisions_for_large_offsets(last_steps, offset, amplitude, dtype, parameters):
    assert_same_decisions(last_steps, *make_textures(offset, amplitude, dtype), **parameters)


@pytest.mark.parametrize("kernels", ["gaussian", "uniform"])
@pytest.mark.parametrize("offset", [0, 30, 300, 3_000, 60_000])
@pytest.mark.parametrize("last_steps", LAST_STEPS)
def test_decisions_are_the_same_or_refused(last_steps, offset, kernels):
    """Zeros as padding and kernels with a sum let a part of the offset pass to the features."""
    X, labels = make_textures(offset, 2, "float32")
    message = ""
    try:
        assert_same_decisions(last_steps, X, labels, kernels=kernels)
    except ValueError as error:
        message = str(error)
    if offset <= 30:
        assert not message
    elif offset == 60_000 or message:
        assert re.search(
            r"for example, (feature \d+ has|an inter|a decision).*X.astype\(np.float64\)", message
        )
        if "ridge" not in last_steps:  # In skl2onnx, RidgeClassifier needs float32.
            assert_same_decisions(last_steps, X.astype(np.float64), labels, kernels=kernels)


@pytest.mark.parametrize("factor", [1, 15])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("activation", ["identity", "square", "relu"])
def test_collinear_features_have_the_same_decisions_or_are_refused(activation, dtype, factor):
    images = (factor * DIGITS.images).astype(dtype)
    transformer = StridedConv2DTransformer(random_state=0, activation=activation, pooling="sum")
    model = make_pipeline(transformer, RidgeClassifier()).fit(images, DIGITS.target)
    options = {id(model[-1]): {"zipmap": False, "raw_scores": True}}
    if (activation, factor) != ("square", 15):
        answers, scores = run(model, images, options=options)
        np.testing.assert_allclose(scores, model.decision_function(images), rtol=0, atol=1e-3)
        np.testing.assert_array_equal(answers, model.predict(images))
        return
    with pytest.raises(ValueError, match=r"terms, whose norm.*StandardScaler.*'zipmap': False"):
        skl2onnx.to_onnx(model, images[:1], options=options)
    scaled = make_pipeline(transformer, StandardScaler(), RidgeClassifier())
    classifiers = StreamingRidgeClassifier(), LogisticRegression(max_iter=50, tol=0.1)
    doubles = [make_pipeline(transformer, StandardScaler(), last) for last in classifiers]
    for remedy, X in (scaled, images), *((double, images.astype(float)) for double in doubles):
        options = {id(remedy[-1]): {"zipmap": False}}
        answers, _ = run(remedy.fit(X, DIGITS.target), X, options=options)
        np.testing.assert_array_equal(answers, remedy.predict(X))


PRECISE = {"padding_mode": "edge"}
UNIONS_WITH_OFFSETS = {
    "first": lambda bad: make_union(bad, make_transformer(**PRECISE)),
    "last": lambda bad: make_union(make_scaled(PCA(3), **PRECISE), bad),
    "nested": lambda bad: make_union(
        make_transformer(**PRECISE), make_union(make_transformer(**PRECISE), bad)
    ),
    "weights": lambda bad: FeatureUnion(
        [("good", make_transformer(**PRECISE)), ("bad", bad)], transformer_weights={"bad": 0.1}
    ),
    "scaled": lambda bad: make_union(make_scaled(**PRECISE), make_pipeline(bad, StandardScaler())),
}


@pytest.mark.parametrize("last_steps", ["streaming", "logistic"])
@pytest.mark.parametrize("union", UNIONS_WITH_OFFSETS)
def test_decisions_of_unions_are_the_same_or_refused(union, last_steps):
    """The features of a transformer are found among those of others."""
    X, labels = make_textures(60_000, 2, "float32", n=200)
    options = {"bias": [[0], [-1]], "symmetries": "mirror"}
    for bad, is_refused in (make_transformer(**PRECISE), False), (make_transformer(), True):
        model = make_pipeline(
            UNIONS_WITH_OFFSETS[union](bad.set_params(**options)), *LAST_STEPS[last_steps]
        ).fit(X, labels)
        if is_refused:
            means = bad.transform(X).mean(axis=0, dtype=np.float64)
            with pytest.raises(ValueError, match=r"for example, feature \d+ has mean") as error:
                skl2onnx.to_onnx(model, X[:1])
            index, mean = re.search(r"feature (\d+) has mean (\S+)", str(error.value)).groups()
            weight = 0.1 if union == "weights" else 1
            assert abs(float(mean) - weight * means[int(index)]) <= 1e-4 * abs(float(mean))
        else:
            assert_same_predictions(model, X, labels)


def test_powers_multiply_relative_errors():
    X, labels = make_textures(300, 2, "float32")
    model = make_scaled(StreamingRidgeClassifier(), padding_mode="edge", kernels="uniform")
    model.fit(X, labels)
    skl2onnx.to_onnx(model, X[:1])
    with pytest.raises(ValueError, match="too large beside their spread"):
        skl2onnx.to_onnx(model.set_params(stridedconv2dtransformer__power=99.0), X[:1])


@pytest.mark.parametrize(
    ("background", "dtype", "parameters"),
    [
        (0.8, "float32", {"normalize_patches": True}),
        (0.8, "float32", {"bias": -0.1}),
        (0.8, "float32", {"bias": [[-0.1], [-0.3]], "activation": "split"}),
        (0.8, "float64", {}),
        (0, "float32", {}),
    ],
)
def test_powers_of_features_of_constant_regions(background, dtype, parameters):
    """Here features that should be 0 are exactly 0, or have tiny errors."""
    textures, labels = make_textures(0, 1, "float64", n=250)
    X = np.full((len(textures), 24, 24), background, dtype)
    corners = np.random.default_rng(0).integers(0, 12, (len(textures), 2))
    for image, texture, (r, c) in zip(X, textures, corners, strict=True):
        image[r : r + 12, c : c + 12] += 0.3 * texture
    options = {"padding": "valid", "pool_grid": 4, "power": 0.25, **parameters}
    assert_same_decisions("streaming", X, labels, **options)


def test_unknown_number_of_features_on_the_left():
    """The number of features of this transformer is unknown to skl2onnx."""
    model = make_pipeline(
        ColumnTransformer(
            [
                ("labels", KMeans(2, n_init=1), [2]),
                ("image", make_transformer(image_shape=(12, 12)), slice(144)),
            ]
        ),
        StandardScaler(),
        StreamingRidgeClassifier(),
    )
    X, labels = make_textures(60_000, 2, "float32", n=200)
    X = X.reshape(len(X), -1)
    with pytest.raises(ValueError, match="too large beside their spread"):
        skl2onnx.to_onnx(model.fit(X, labels), X[:1])


@pytest.mark.parametrize("padding", ["same", 4])
@pytest.mark.parametrize("activation", ["step", "relu"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.filterwarnings("ignore:X contains constant images:UserWarning")
def test_features_for_large_offsets(dtype, activation, padding):
    """Windows that contain only zeros have responses of exactly 0."""
    # Rounding would decide about small responses on which side of the step they are.
    images, _ = make_textures(60_000, 2 if activation == "relu" else 400, dtype, n=20)
    images[3] = 0
    images[4, 5] = 1  # not near the offset of the other pixels
    assert_same_features(images, kernels="patches", activation=activation, padding=padding)


@pytest.mark.parametrize("length", [31, 100, 512])
def test_means_of_many_positions(length):
    images = np.full((2, length, length), 5.3, np.float32)
    images[1] += np.float32(0.1)
    parameters = {"kernels": "uniform", "padding": "valid", "pooling": ["mean", "sum", "max"]}
    assert_same_features(images, rtol=1e-6, **parameters)


@pytest.mark.parametrize(
    ("model", "X", "error", "message"),
    [
        (StridedConv2DTransformer(), IMAGES, NotFittedError, "not fitted"),
        (
            StridedConv2DTransformer(activation=np.tanh).fit(IMAGES),
            IMAGES,
            ValueError,
            "supports the activations .* but activation is <ufunc 'tanh'>: ONNX cannot run Python",
        ),
        (
            StridedConv2DTransformer().fit(IMAGES),
            IMAGES[:, :8],
            ValueError,
            r"needs an input of shape \(n, 9, 8, 3\) or \(n, 216\).*\[None, 9, 8, 3\]",
        ),
        (StridedConv2DTransformer().fit(IMAGES), IMAGES[..., 0], ValueError, "declared shape is"),
    ],
)
def test_errors(model, X, error, message):
    with pytest.raises(error, match=message):
        skl2onnx.to_onnx(model, X[:1])


@pytest.mark.parametrize("missing", ["onnx", "skl2onnx"])
def test_import_error_without_skl2onnx(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name.startswith("sklearn_conv.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="pip install skl2onnx"):
        importlib.import_module("sklearn_conv.onnx")
