"""Exported pipelines have the same results in onnxruntime as in scikit-learn."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import PADDING_MODES
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv.kernels._table import KERNELS

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


def run(model, X, **options):
    exported = skl2onnx.to_onnx(model, X[:1], **options)
    session = onnxruntime.InferenceSession(
        exported.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: X})


def assert_same_features(images=IMAGES, rtol=1e-5, target_opset=None, **parameters):
    transformer = StridedConv2DTransformer(**{"n_kernels": 6, "random_state": 0, **parameters})
    expected = transformer.fit(images).transform(images)
    (features,) = run(transformer, images, target_opset=target_opset)
    assert features.shape == expected.shape
    assert features.dtype == expected.dtype
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


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("pool_grid", [1, (2, 3), (9, 20)])
@pytest.mark.parametrize("pooling", [*POOLINGS, [*POOLINGS], None])
def test_pooling(pooling, pool_grid, flatten):
    options = {"pooling": pooling, "pool_grid": pool_grid, "flatten": flatten}
    assert_same_features(**options, activation="split", stride=(1, 2))


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_older_and_newer_operators(opset):
    assert_same_features(pooling=["mean", "max", "sum"], normalize_patches=True, target_opset=opset)


@settings(max_examples=30)
@given(
    kernel_size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.sampled_from(["same", 0, 1, 4]),
    padding_mode=st.sampled_from(sorted(PADDING_MODES)),
    normalize=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_geometry(kernel_size, stride, dilation, padding, padding_mode, normalize, dtype, grid):
    assert_same_features(
        IMAGES[:4].astype(dtype),
        kernel_size=kernel_size,
        stride=stride,
        dilation=dilation,
        padding=padding,
        padding_mode=padding_mode,
        normalize_patches=normalize,
        pool_grid=grid,
        rtol=3e-5,
    )


DTYPES = ["bool", "uint8", "int16", "uint16", "float16", "int32", "int64", "float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    images = (DIGITS.images[:50] * (15 if dtype == "uint8" else 1)).astype(dtype)
    if dtype == "bool":
        images = DIGITS.images[:50] > 8
    assert_same_features(images)
    assert_same_answers(images, DIGITS.target[:50], images, n_kernels=4, whiten=False)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (64,)])
def test_images_as_rows_and_with_and_without_channels(shape):
    assert_same_features(DIGITS.images[:9].reshape(9, *shape).astype(np.float32), stride=2)


def test_rows_of_colour_images():
    rows = IMAGES.reshape(len(IMAGES), -1)
    assert_same_features(rows, image_shape=(9, 8, 3), kernel_size=(2, 4))


def test_large_offsets_and_constant_patches():
    images = IMAGES + 1000
    images[0] = 7
    assert_same_features(images, normalize_patches=True, rtol=1e-4)


def test_two_layers():
    first = StridedConv2DTransformer(5, pool_grid=4, flatten=False, random_state=0)
    model = make_pipeline(first, StridedConv2DTransformer(7, random_state=0))
    expected = model.fit_transform(IMAGES)
    (features,) = run(model, IMAGES)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)


def assert_same_answers(images, labels, X, **parameters):
    transformer = StridedConv2DTransformer(**{**RECIPE, **parameters})
    model = make_pipeline(transformer, StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(images, labels)
    answers, probabilities = run(model, X, options={"zipmap": False})
    np.testing.assert_array_equal(answers, model.predict(X))
    np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=1e-5, rtol=0)


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
@pytest.mark.parametrize("names", [[0, 1], [0.0, 1.0], range(10), ["lung", "liver", "bone"]])
def test_streaming_ridge(names, dtype):
    images = DIGITS.images[:500].astype(dtype)
    labels = np.array(names)[DIGITS.target[:500] % len(names)]
    model = make_pipeline(StridedConv2DTransformer(random_state=0), StreamingRidgeClassifier())
    model.fit(images, labels)
    answers, scores = run(model, images, options={"zipmap": False})
    np.testing.assert_array_equal(answers, model.predict(images))
    decisions = model.decision_function(images)
    if len(names) == 2:
        decisions = np.stack([-decisions, decisions], axis=1)
    np.testing.assert_allclose(scores, decisions, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "X", "error", "message"),
    [
        (StridedConv2DTransformer(), IMAGES, NotFittedError, "not fitted"),
        (
            StridedConv2DTransformer(activation=np.tanh).fit(IMAGES),
            IMAGES,
            ValueError,
            "supports only activations with a name, .* activation is <ufunc 'tanh'>",
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
