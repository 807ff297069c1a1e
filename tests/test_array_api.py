"""Arrays of PyTorch and array-api-strict: the results of NumPy, in the library of X, where X is."""

import pickle
import warnings
from functools import partial
from os import environ
from unittest import SkipTest

import numpy as np
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.fixes import parse_version

if environ.get("SCIPY_ARRAY_API") != "1":
    reason = "scikit-learn needs SCIPY_ARRAY_API=1 from the start of Python, as in make test"
    pytest.skip(reason, allow_module_level=True)
try:
    with sklearn.config_context(array_api_dispatch=True):
        pass
except ImportError as error:  # The oldest supported SciPy is too old for this.
    pytest.skip(str(error), allow_module_level=True)

from strategies import numbers, pairs

from sklearn_conv import (
    RBFRidgeClassifier,
    SharedFeaturesSearch,
    StreamingRidge,
    StreamingRidgeClassifier,
    StridedConv2DTransformer,
    conv2d,
    make_image_classifier,
    save_batches,
    transform_batches,
)
from sklearn_conv._array_api import Library, library_name, to_numpy
from sklearn_conv._engine import array_api_engine
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import PADDING_MODES
from sklearn_conv._engine.symmetry import SYMMETRIES
from sklearn_conv._ridge import moments, products, solving
from sklearn_conv.inspection import KernelDisplay, class_activation_map
from sklearn_conv.kernels._initializers import KERNELS

torch = pytest.importorskip("torch", reason="torch is not installed: .[test]")
strict = pytest.importorskip(
    "array_api_strict", reason="array-api-strict is not installed: .[test]"
)

RNG = np.random.default_rng(0)
IMAGES = RNG.random((40, 10, 9, 2))
LABELS = RNG.integers(3, size=40)
dispatch = partial(sklearn.config_context, array_api_dispatch=True)


def cuda(array, **options):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.asarray(array, device="cuda", **options)


def on(device):
    return partial(strict.asarray, device=strict.Device(device))


PUT = {
    "torch": torch.asarray,
    "torch on CUDA": cuda,
    "strict on another device": on("device1"),
    "strict without float64": on("no_float64"),
}
"""Functions that make an array of each library, on each device, from an array of NumPy."""

DOUBLE = {name: put for name, put in PUT.items() if name != "strict without float64"}
"""Those with float64."""


def table(functions):
    return pytest.mark.parametrize("put", functions.values(), ids=functions)


everywhere, in_double = table(PUT), table(DOUBLE)


def assert_is_near(array, X, expected, rtol):
    """Check the library, the device and the numbers of an array."""
    assert Library.of(array) == Library.of(X)
    np.testing.assert_allclose(to_numpy(array), expected, rtol=rtol, atol=rtol)


def fit_both(put, X, **options):
    """Fit a transformer to an array of NumPy, and one to the same array elsewhere."""
    model = StridedConv2DTransformer(random_state=0, **options).fit(X)
    with dispatch():
        return model, clone(model).fit(put(X)), put(X)


options = st.fixed_dictionaries(
    {
        "n_kernels": st.integers(1, 4),
        "kernel_size": pairs,
        "stride": pairs,
        "dilation": pairs,
        "kernels": st.sampled_from(["gaussian", "uniform", "patches", "sobel", "pca", "dct"]),
        "bias": st.sampled_from([0.07, "quantile", [[-0.31], [0.22], [100.0]]]),
        "padding": st.sampled_from(["same", 1, (2, 0)]),
        "padding_mode": st.sampled_from(sorted(PADDING_MODES)),
        "normalize_patches": st.booleans(),
        "whiten": st.booleans(),
        "activation": st.sampled_from(sorted(ACTIVATIONS)),
        "pooling": st.sampled_from([None, "max", "mean", ["sum", "max"]]),
        "pool_grid": pairs | st.sampled_from([[1, 2, 4], [(9, 1), 3, (1, 9)]]),
        "symmetries": st.sampled_from(sorted(SYMMETRIES, key=str)),
        "power": st.sampled_from([1.0, 0.5, 1.3]),
        "missing": st.sampled_from(["raise", "ignore"]),
        "flatten": st.booleans(),
    }
)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(options, st.sampled_from(sorted(DOUBLE)), st.data())
def test_features_are_those_of_numpy(options, name, data):
    if name == "torch on CUDA" and not torch.cuda.is_available():
        return
    X = IMAGES[:6].copy()
    if options["missing"] == "ignore":
        X[data.draw(st.integers(0, 5)), 2:5, data.draw(st.integers(0, 8))] = np.nan
    if options["bias"] == "quantile":
        options = options | {"n_biases": data.draw(st.integers(1, 3))}
    try:
        model = StridedConv2DTransformer(random_state=0, n_patches=200, **options).fit(X)
        expected = model.transform(X)
    except ValueError:
        return  # Too many kernels, kernels that do not fit, or maps that are not square
    with dispatch(), pytest.MonkeyPatch.context() as patch:
        size = data.draw(st.sampled_from([2**11, 2**24]))
        patch.setattr("sklearn_conv._array_api.CPU_BLOCK_BYTES", size)
        features = clone(model).fit(DOUBLE[name](X)).transform(DOUBLE[name](X))
    # A quantile is a threshold at a response, which "step" may round to either side.
    rtol = 0.05 if options["activation"] == "step" and options["bias"] == "quantile" else 1e-6
    if options["power"] < 1:
        rtol = max(rtol, 1e-4)  # The root of rounding
    assert_is_near(features, DOUBLE[name](X), expected, rtol)


@pytest.mark.parametrize("kernels", sorted(KERNELS))
@in_double
def test_kernels_are_those_of_numpy(put, kernels):
    size = {"n_kernels": 3, "kernel_size": 3, "n_patches": 500}
    learned = {"whiten": True, "normalize_patches": True, "bias": "quantile"}
    model, moved, X = fit_both(put, IMAGES, kernels=kernels, **size, **learned)
    for attribute in ("kernels_", "offset_", "bias_"):
        expected = getattr(model, attribute)
        assert Library.of(getattr(moved, attribute)) == Library.of(X)
        np.testing.assert_array_equal(to_numpy(getattr(moved, attribute)), expected)
    assert moved.eps_ == model.eps_
    assert moved.get_feature_names_out().tolist() == model.get_feature_names_out().tolist()
    assert moved.output_size() == model.output_size()


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "float32", "float64", "int64", "bool"]
)
@in_double
def test_the_dtype_of_the_result_follows_x(put, dtype):
    X = numbers(np.random.default_rng(0), (8, 7, 6, 1), dtype)
    if dtype == "uint16":
        X = X + np.uint16(30_000)  # an offset that float32 would round
    model, moved, X_put = fit_both(put, X, kernels="patches", n_kernels=3)
    expected = model.transform(X)
    with dispatch():
        features = moved.transform(X_put)
    assert str(features.dtype).endswith(expected.dtype.name)
    rtol = 1e-5 if expected.dtype == np.float32 else 1e-11
    assert Library.of(features) == Library.of(X_put)
    np.testing.assert_allclose(to_numpy(features), expected, rtol, rtol * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:The values of X are typically:UserWarning")
@everywhere
def test_a_large_offset_loses_no_digits(put):
    X = np.random.default_rng(0).integers(30_000, 30_100, (8, 9, 9, 2)).astype(np.uint16)
    model, moved, X_put = fit_both(put, X, padding="valid")
    expected = model.transform(X.astype(np.float64))
    with dispatch():
        features = to_numpy(moved.transform(X_put))
    assert np.abs(features - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(dtype):
    X = torch.asarray(IMAGES).to(getattr(torch, dtype))
    expected = StridedConv2DTransformer(random_state=0).fit_transform(X.float().numpy())
    with dispatch():
        features = StridedConv2DTransformer(random_state=0).fit_transform(X)
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-5, atol=1e-6)


@everywhere
def test_batches_are_parts_of_the_features(put, tmp_path):
    _, moved, X = fit_both(put, IMAGES.astype(np.float32), n_kernels=4)
    with dispatch():
        whole = moved.transform(X)
        parts = [*moved.transform_batches(X, batch_size=17)]
        others = [*transform_batches(moved, X, batch_size=30)]
        saved = save_batches(tmp_path / "f.npy", moved.transform_batches(X, batch_size=11))
    assert [rows.stop for rows, _ in parts] == [17, 34, 40]
    for batches in (parts, others):
        for rows, features in batches:
            assert_is_near(features, X, to_numpy(whole)[rows], 1e-6)
    np.testing.assert_allclose(saved, to_numpy(whole), rtol=1e-6)


def test_progress_is_printed(capsys):
    _, moved, X = fit_both(torch.asarray, IMAGES, verbose=1)
    with dispatch():
        moved.transform(X)
    assert "Done 40 out of 40 images" in capsys.readouterr().err


@everywhere
def test_rows_of_pixels_and_gray_images(put):
    for X in (IMAGES[..., 0].astype(np.float32), IMAGES[..., 1:].reshape(40, -1).astype("f4")):
        shape = (10, 9) if X.ndim == 2 else None
        model, moved, X_put = fit_both(put, X, image_shape=shape)
        with dispatch():
            assert_is_near(moved.transform(X_put), X_put, model.transform(X), 1e-5)


def test_any_image_shape():
    model, moved, X = fit_both(torch.asarray, IMAGES, image_shape="any")
    with dispatch():
        assert_is_near(moved.transform(X), X, model.transform(IMAGES), 1e-10)
        other = IMAGES[:, :8, :7]
        assert_is_near(moved.transform(torch.asarray(other)), X, model.transform(other), 1e-10)


def test_channels_first_in_memory_is_no_copy_in_another_order():
    X = torch.asarray(IMAGES.transpose(0, 3, 1, 2).copy()).permute(0, 2, 3, 1)
    assert not X.is_contiguous()
    before = X.clone()
    expected = StridedConv2DTransformer(random_state=0).fit_transform(IMAGES)
    with dispatch():
        assert_is_near(
            StridedConv2DTransformer(random_state=0).fit_transform(X), X, expected, 1e-10
        )
    assert torch.equal(X, before)


def test_fit_does_not_copy_x():
    """If X were copied, it would take 490 GB."""
    image = torch.arange(3 * 64 * 64, dtype=torch.float32).reshape(1, 3, 64, 64) % 97
    X = image.expand(10_000_000, 3, 64, 64).permute(0, 2, 3, 1)
    expected = StridedConv2DTransformer(n_patches=50, kernels="pca", n_kernels=2, random_state=0)
    with dispatch(assume_finite=True):
        model = clone(expected).fit(X)
    places = np.broadcast_to(X[0].numpy(), X.shape)
    with sklearn.config_context(assume_finite=True):
        np.testing.assert_array_equal(to_numpy(model.kernels_), expected.fit(places).kernels_)


def test_without_dispatch_a_tensor_is_taken_as_numpy_takes_it():
    model = StridedConv2DTransformer(random_state=0)
    features = model.fit_transform(torch.asarray(IMAGES))
    assert type(features) is np.ndarray
    np.testing.assert_array_equal(features, model.fit_transform(IMAGES))
    ridge = StreamingRidgeClassifier().fit(torch.asarray(features), torch.asarray(LABELS))
    assert type(ridge.predict(torch.asarray(features))) is np.ndarray


def gradient():
    return torch.asarray(IMAGES).requires_grad_()


BAD = {
    "a gradient": (gradient, TypeError, r"requires a gradient.*X\.detach\(\)"),
    "a sparse tensor": (lambda: torch.eye(9).to_sparse(), TypeError, r"X\.to_dense\(\)"),
    "a quantized tensor": (
        lambda: torch.quantize_per_tensor(torch.ones(2, 9, 9), 0.1, 0, torch.quint8),
        TypeError,
        r"quantized; pass X\.dequantize\(\)",
    ),
    "no values": (lambda: torch.empty((3, 8, 8), device="meta"), TypeError, "no values"),
    "complex": (lambda: torch.ones((3, 8, 8)) * 1j, ValueError, "Complex data not supported"),
    "one axis": (lambda: torch.ones(64), ValueError, r"X\.reshape\(1, h, w, c\)"),
    "five axes": (lambda: torch.ones((1,) * 5), ValueError, "5 axes"),
    "no images": (lambda: torch.ones((0, 8, 8)), ValueError, "empty axis"),
    "a number": (lambda: torch.asarray(3.0), TypeError, "not an array"),
    "NaN": (
        lambda: torch.full((3, 8, 8), torch.nan),
        ValueError,
        r"NaN in 3 images: X\[0\], X\[1\]",
    ),
    "infinity": (lambda: strict.full((3, 8, 8), np.inf), ValueError, "infinity .* in 3 images"),
    "a list": (lambda: [torch.ones((8, 8))] * 3, TypeError, r"torch\.stack\(X\)"),
    "no float64": (
        lambda: on("no_float64")(np.ones((3, 8, 8), np.int64)),
        TypeError,
        "has no float64; cast X to float32",
    ),
}


@pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("make", "error", "message"), BAD.values(), ids=BAD)
def test_bad_tensors(make, error, message):
    with dispatch(), pytest.raises(error, match=message):
        StridedConv2DTransformer().fit(make())


@pytest.mark.parametrize("make", [BAD["a gradient"][0], BAD["no values"][0], on("device1")])
def test_bad_tensors_without_dispatch(make):
    X = make(IMAGES) if isinstance(make, partial) else make()
    message = "detach|no values|array_api_dispatch=True"
    with pytest.raises(TypeError, match=message):
        StridedConv2DTransformer().fit(X)
    with pytest.raises(TypeError, match=message):
        StreamingRidgeClassifier().fit(X, LABELS[: X.shape[0]])


class Standard:
    """An array of a library that follows the standard, and is not supported."""

    shape, ndim, dtype = (3, 8, 8), 3, np.dtype("f4")

    def __array_namespace__(self):
        return np


def test_other_libraries_are_named():
    with dispatch(), pytest.raises(TypeError, match=r"is a Standard of test_array_api.*asarray"):
        StridedConv2DTransformer().fit(Standard())


@pytest.mark.parametrize("put", [torch.asarray, on("device1")])
def test_x_must_be_where_the_model_is(put):
    model, moved, X = fit_both(put, IMAGES)
    message = (
        r"StridedConv2DTransformer.transform\(\) must use the same namespace.*move_estimator_to"
    )
    with dispatch():
        for estimator, images in ((model, X), (moved, IMAGES), (moved, on("device2")(IMAGES))):
            with pytest.raises(ValueError, match=message):
                estimator.transform(images)
    if put is torch.asarray:
        with pytest.raises(ValueError, match="array_api_dispatch=True"):
            moved.transform(X)


@pytest.mark.parametrize("kind", ["kernels", "bias"])
def test_parameters_may_be_anywhere(kind):
    values = {"kernels": RNG.standard_normal((3, 3, 2, 4)), "bias": np.linspace(-1, 1, 4)}[kind]
    plain = StridedConv2DTransformer(4, random_state=0, **{kind: values})
    expected = plain.fit_transform(IMAGES)
    for place in (values, torch.asarray(values), on("device1")(values)):
        model = StridedConv2DTransformer(4, random_state=0, **{kind: place})
        np.testing.assert_array_equal(model.fit_transform(IMAGES), expected)
        with dispatch():
            assert_is_near(model.fit_transform(X := torch.asarray(IMAGES)), X, expected, 1e-10)


def test_functions_of_the_user_receive_arrays_of_the_library_of_x():
    expected = StridedConv2DTransformer(activation=np.tanh, random_state=0).fit_transform(IMAGES)
    X = torch.asarray(IMAGES)
    with dispatch():
        model = StridedConv2DTransformer(activation=torch.tanh, random_state=0)
        assert_is_near(model.fit_transform(X), X, expected, 1e-10)
        for function, error, message in (
            (lambda z: z.numpy(), TypeError, "of the library and device of X, torch on cpu"),
            (lambda z: z[:1], ValueError, "a real number for every response"),
            (lambda z: torch.log(-z), ValueError, "finite numbers"),
        ):
            with pytest.raises(error, match=message):
                model.set_params(activation=function).fit(X)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_tables_are_refused(container):
    with dispatch():
        model = (
            StridedConv2DTransformer().fit(torch.asarray(IMAGES)).set_output(transform=container)
        )
        with pytest.raises(ValueError, match=f"torch on cpu does not fit into the {container}"):
            model.transform(torch.asarray(IMAGES))


def test_what_computes_with_numpy_says_so():
    _, moved, X = fit_both(torch.asarray, IMAGES)
    with dispatch():
        features = moved.transform(X)
        model = make_pipeline(moved, StreamingRidgeClassifier().fit(features, LABELS))
        with pytest.raises(TypeError, match=r"RBFRidgeClassifier.*X\.numpy\(force=True\)"):
            RBFRidgeClassifier().fit(features, LABELS)
        with pytest.raises(TypeError, match=r"conv2d computes with NumPy.*images\.numpy"):
            conv2d(X, np.ones((3, 3, 2, 1)))
    with pytest.raises(TypeError, match="conv2d computes with NumPy"):
        conv2d(on("device1")(IMAGES), np.ones((3, 3, 2, 1)))
    for explain in (
        lambda: class_activation_map(model, IMAGES[:2]),
        lambda: KernelDisplay.from_estimator(model),
    ):
        with pytest.raises(TypeError, match=r"fitted in torch on cpu.*move_estimator_to"):
            explain()


@pytest.mark.parametrize("allowed", [1, 3, 0])
def test_smaller_blocks_are_tried_if_memory_is_short(allowed, monkeypatch):
    _, moved, X = fit_both(torch.asarray, IMAGES, pool_grid=1)
    lengths = []

    def respond(self, images, *arguments):
        lengths.append(images.shape[0])
        if images.shape[0] > allowed:
            raise torch.OutOfMemoryError("no memory on the device")
        return original(self, images, *arguments)

    with dispatch():
        expected = moved.transform(X)
        original = array_api_engine.ArrayApiEngine._respond
        monkeypatch.setattr(array_api_engine.ArrayApiEngine, "_respond", respond)
        if allowed:
            assert_is_near(moved.transform(X), X, to_numpy(expected), 1e-12)
        else:
            with pytest.raises(MemoryError, match=r"memory of torch on cpu.*transform_batches"):
                moved.transform(X)
        assert lengths[0] == len(IMAGES)
        monkeypatch.undo()
        assert_is_near(moved.transform(X), X, to_numpy(expected), 0)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    _, moved, X = fit_both(torch.asarray, IMAGES)

    def fail(*arguments):
        raise RuntimeError("something else")

    monkeypatch.setattr(array_api_engine.ArrayApiEngine, "_respond", fail)
    with dispatch(), pytest.raises(RuntimeError, match="something else"):
        moved.transform(X)


@everywhere
@pytest.mark.parametrize("pooling", [None, "mean", "max"])
def test_missing_pixels_and_a_user_defined_activation(put, pooling):
    X = IMAGES.astype(np.float32)
    X[::3, 4, 4] = np.nan
    options = {"missing": "ignore", "pooling": pooling, "random_state": 0}
    model = StridedConv2DTransformer(4, activation="square", **options).fit(X)
    with dispatch():
        own = StridedConv2DTransformer(4, activation=lambda z: z * z, **options).fit(put(X))
        features = to_numpy(own.transform(put(X)))
    np.testing.assert_allclose(features, model.transform(X), rtol=1e-4, atol=1e-4)


def test_missing_pixels_of_a_whole_cell_are_nan():
    X = IMAGES.copy()
    X[3] = np.nan
    X[5, :5] = np.nan
    model, moved, X_put = fit_both(on("device1"), X, missing="ignore", symmetries="mirror")
    with dispatch():
        features = to_numpy(moved.transform(X_put))
    np.testing.assert_allclose(features, model.transform(X), rtol=1e-10)
    assert np.isnan(features[3]).all()
    assert np.isnan(features[5]).any()
    assert not np.isnan(features[5]).all()


def test_warnings_are_those_of_numpy():
    X = np.random.default_rng(0).integers(0, 200, (30, 9, 9)).astype(np.float32)
    _, moved, _ = fit_both(torch.asarray, X)
    with dispatch():
        with pytest.warns(UserWarning, match="Use the same units"):
            moved.transform(torch.asarray(X / 255))
        filled = X.copy()
        filled[::2, 3] = -9999
        with pytest.warns(UserWarning, match="like a fill value"):
            StridedConv2DTransformer().fit(torch.asarray(filled))
        with pytest.warns(UserWarning, match="overflow in torch.float32"):
            StridedConv2DTransformer(pooling="sum").fit(
                X_large := torch.asarray(X * 1e36)
            ).transform(X_large)


# scikit-learn's checks, with all of its own array API checks


@pytest.mark.filterwarnings("ignore:X has .* columns, which is not:UserWarning")
@pytest.mark.parametrize(
    "estimator",
    [
        StridedConv2DTransformer(n_kernels=4),
        StridedConv2DTransformer(
            n_kernels=4, kernels="patches", normalize_patches=True, whiten=True, bias="quantile"
        ),
        StreamingRidgeClassifier(),
        StreamingRidge(),
        RBFRidgeClassifier(),
    ],
    ids=str,
)
def test_battery(estimator):
    checks = [
        (check, check.func.__name__)
        for _, check in estimator_checks.estimator_checks_generator(estimator)
        if "array_api" in getattr(check, "func", check).__name__
    ]
    if not hasattr(estimator_checks, "check_array_api_same_namespace"):
        pytest.skip("scikit-learn is older than 1.9, and has no such checks")
    n_run = 0
    for check, _ in checks:
        with warnings.catch_warnings():
            try:
                check(clone(estimator))
                n_run += 1
            except SkipTest:
                pass  # CuPy, JAX and devices that are absent
    assert n_run >= (1 if isinstance(estimator, RBFRidgeClassifier) else 7)


def features_of(seed=0, n=120, d=20, dtype="f8"):
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    X = rng.standard_normal((n, d)) + 0.3 * np.eye(3, d)[y] + 1e4 * rng.standard_normal(d)
    return X.astype(dtype), y


RIDGES = {
    "one alpha": (StreamingRidgeClassifier(alphas=3.0), False),
    "alphas": (StreamingRidgeClassifier(), False),
    "log loss": (StreamingRidgeClassifier(scoring="neg_log_loss"), False),
    "balanced": (StreamingRidgeClassifier(class_weight="balanced"), False),
    "regression": (StreamingRidge(), True),
    "alpha of each target": (StreamingRidge(alpha_per_target=True), True),
}
ridges = pytest.mark.parametrize(("model", "is_regression"), RIDGES.values(), ids=RIDGES)


@ridges
@pytest.mark.parametrize("weighted", [False, True])
@in_double
def test_ridge_is_that_of_numpy(put, model, is_regression, weighted):
    X, y = features_of()
    if is_regression:
        y = np.stack([y, np.sin(3.0 * y) + X[:, 0] / 1e4], axis=1)
    weights = np.random.default_rng(1).integers(0, 3, len(y)) * 0.5 if weighted else None
    expected = clone(model).fit(X, y, sample_weight=weights)
    with dispatch():
        X_put = put(X)
        options = {"sample_weight": None if weights is None else put(weights)}
        fitted = clone(model).fit(X_put, put(y), **options)
        for name in ("coef_", "intercept_", "mean_", "scale_"):
            assert_is_near(getattr(fitted, name), X_put, getattr(expected, name), 1e-7)
        np.testing.assert_allclose(to_numpy(fitted.alpha_), expected.alpha_)
        if expected.best_score_ is not None:
            np.testing.assert_allclose(
                to_numpy(fitted.best_score_), expected.best_score_, rtol=1e-6
            )
        predicted = fitted.predict(X_put)
        assert_is_near(predicted, X_put, expected.predict(X), 1e-6)
        if is_regression:
            intervals = fitted.predict_interval(X_put)
            assert_is_near(intervals, X_put, expected.predict_interval(X), 1e-5)
        else:
            assert_is_near(fitted.novelty(X_put), X_put, expected.novelty(X), 1e-7)
            assert fitted.temperature_ == pytest.approx(expected.temperature_, rel=1e-5)
            for method in ("predict_proba", "predict_log_proba"):
                found = getattr(fitted, method)(X_put)
                assert_is_near(found, X_put, getattr(expected, method)(X), 1e-5)
        assert fitted.score(X_put, put(y)) == pytest.approx(expected.score(X, y), abs=1e-6)
        parts = clone(model)
        for start in (0, 3, 50) if "balanced" not in str(model) else ():
            rows = slice(start, {0: 3, 3: 50, 50: 120}[start])
            some = None if weights is None else weights[rows]
            if some is None or some.any():
                parts.partial_fit(X_put[rows, ...], y[rows], sample_weight=some)
        if "balanced" not in str(model):
            assert_is_near(parts.coef_, X_put, to_numpy(fitted.coef_), 1e-7)


@pytest.mark.parametrize("labels", ["strings", "bool", "large", "two"])
@in_double
def test_labels(put, labels):
    X, y = features_of()
    y = {
        "strings": np.array(["a", "b", "long name"])[y],
        "bool": y > 0,
        "large": y + 2**60,
        "two": np.where(y > 0, 7, -1),
    }[labels]
    expected = StreamingRidgeClassifier().fit(X, y)
    with dispatch():
        X_put = put(X)
        fitted = StreamingRidgeClassifier().fit(X_put, y if labels == "strings" else put(y))
        predicted = fitted.predict(X_put)
        if labels == "strings":
            assert isinstance(predicted, np.ndarray)
            assert isinstance(fitted.classes_, np.ndarray)
        else:
            assert Library.of(predicted) == Library.of(fitted.classes_) == Library.of(X_put)
            assert str(predicted.dtype).rpartition(".")[2] == y.dtype.name
        np.testing.assert_array_equal(to_numpy(predicted), expected.predict(X))
        assert fitted.score(X_put, y) == expected.score(X, y)
        np.testing.assert_allclose(
            to_numpy(fitted.decision_function(X_put)), expected.decision_function(X), atol=1e-7
        )
        assert_is_near(fitted.predict_proba(X_put), X_put, expected.predict_proba(X), 1e-5)


@in_double
def test_classes_may_be_added_and_models_merged(put):
    X, y = features_of()
    order = np.argsort(y, kind="stable")[::-1]  # The classes appear one after the other, backwards.
    X, y = X[order], y[order]
    expected = StreamingRidgeClassifier(alphas=1.0).fit(X, y)
    with dispatch():
        parts = [StreamingRidgeClassifier(alphas=1.0) for _ in range(2)]
        for i, start in enumerate(range(0, 120, 20)):
            parts[i % 2].partial_fit(put(X[start : start + 20]), put(y[start : start + 20]))
        merged = parts[0].merge(parts[1])
        assert to_numpy(merged.classes_).tolist() == [0, 1, 2]
        assert_is_near(merged.coef_, put(X), expected.coef_, 1e-7)
        merged.predict(put(X))
        assert len({*merged._sums.keys.tolist()}) == len(X)
        other = StreamingRidgeClassifier().fit(X, y)
        with pytest.raises(ValueError, match=r"merge\(\) must use the same namespace"):
            merged.merge(other)
        with pytest.raises(ValueError, match=r"partial_fit\(\) must use the same namespace"):
            merged.partial_fit(X, y)
        copy = pickle.loads(pickle.dumps(merged))
        copy.partial_fit(put(X), put(y))
        merged.partial_fit(put(X), put(y))
        assert_is_near(copy.coef_, put(X), to_numpy(merged.coef_), 1e-12)


@pytest.mark.parametrize("batch", [50, 700, 2500])
@in_double
def test_the_sample_is_that_of_numpy(put, batch, monkeypatch):
    monkeypatch.setattr(moments, "N_KEPT", 300)
    X, y = features_of(n=2500)
    expected = StreamingRidgeClassifier().fit(X, y)
    with dispatch():
        model = StreamingRidgeClassifier()
        for start in range(0, 2500, batch):
            model.partial_fit(put(X[start : start + batch]), y[start : start + batch])
        assert_is_near(model.coef_, put(X), expected.coef_, 1e-7)
        np.testing.assert_array_equal(model._sums.keys, expected._sums.keys)
        np.testing.assert_array_equal(to_numpy(model._sums.kept.rows), expected._sums.kept.rows)
        assert model.alpha_ == expected.alpha_
        assert model.best_score_ == pytest.approx(expected.best_score_, rel=1e-6)


@in_double
def test_few_rows_need_no_products(put):
    X, y = features_of(n=40, d=60)
    expected = StreamingRidgeClassifier().fit(X, y)
    with dispatch():
        model = StreamingRidgeClassifier().fit(put(X), y)
        assert model._sums.sums.gram is None
        assert_is_near(model.coef_, put(X), expected.coef_, 1e-7)
        assert_is_near(model.novelty(put(X)), put(X), expected.novelty(X), 1e-7)
        more = features_of(1, n=200, d=60)
        model.partial_fit(put(more[0]), more[1])
        expected.partial_fit(*more)
        assert_is_near(model.coef_, put(X), expected.coef_, 1e-6)


@in_double
def test_factors_in_float32_choose_the_same_alpha(put, monkeypatch):
    for module in (products, solving):
        monkeypatch.setattr(module, "SINGLE_FEATURES", 10)
    X, y = features_of(n=900, d=40, dtype="f4")
    X[:, 7] = 3  # a constant feature
    X[:, 8:12] = X[:, 12:16] - 5  # whose factors are not trusted for small alphas
    expected = StreamingRidgeClassifier([1e-3, 0.1, 1, 10, 1e3]).fit(X.astype("f8"), y)
    with dispatch():
        model = clone(expected).fit(put(X), y)
        assert model.alpha_ == expected.alpha_
        scores = expected.decision_function(X)
        assert_is_near(model.decision_function(put(X)), model._sums.sums.mean, scores, 1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("value", [1e19, -9.97e36])
@everywhere
def test_normalized_windows_of_large_numbers(put, value):
    images = np.random.default_rng(0).random((4, 9, 11, 2), np.float32)
    large = images.copy()
    large[0, 2:4, 3] *= np.float32(value)
    transformer = StridedConv2DTransformer(6, normalize_patches=True, random_state=0)
    expected = transformer.fit(images).transform(large)
    with dispatch():
        features = transformer.fit(put(images)).transform(put(large))
    np.testing.assert_allclose(to_numpy(features), expected, atol=5e-6)


def test_products_in_float32_keep_the_accuracy_on_an_offset():
    X, y = features_of(n=1500, d=1030, dtype="f4")
    expected = StreamingRidgeClassifier(alphas=100.0).fit(X.astype("f8"), y).decision_function(X)
    with dispatch():
        model = StreamingRidgeClassifier(alphas=100.0).fit(torch.asarray(X), y)
        assert_is_near(model.decision_function(X_put := torch.asarray(X)), X_put, expected, 1e-4)


def test_without_float64_sums_are_compensated():
    """The guide states this accuracy."""
    X, y = features_of(n=4000, d=30, dtype="f4")
    X = X - X.mean(axis=0).round()
    expected = StreamingRidgeClassifier(alphas=[0.1, 10.0]).fit(X.astype("f8"), y)
    with dispatch():
        X_put = on("no_float64")(X)
        model = StreamingRidgeClassifier(alphas=[0.1, 10.0])
        for start in range(0, 4000, 40):
            model.partial_fit(X_put[start : start + 40, ...], y[start : start + 40])
        assert "float32" in str(model.coef_.dtype)
        assert model.alpha_ == expected.alpha_
        scores = to_numpy(model.decision_function(X_put))
    assert np.abs(scores - expected.decision_function(X)).max() < 1e-5


def test_what_rounding_takes_from_sums_is_kept():
    X, y = features_of(n=4000, d=8, dtype="f4")
    X -= X.mean(axis=0)
    with dispatch():
        X_put, model = on("no_float64")(X), StreamingRidge()
        for start in range(0, 4000, 4):
            model.partial_fit(X_put[start : start + 4, ...], y[start : start + 4])
            model._sums.flush()
    centered = X.astype("f8") - X.astype("f8").mean(axis=0)
    exact = centered.T @ centered
    gram, rest = (to_numpy(a).astype("f8") for a in model._sums.sums[-2:])
    assert np.abs(gram + rest - exact).max() < np.abs(gram - exact).max() / 5


@in_double
def test_a_constant_feature_has_no_weight(put):
    X, y = features_of()
    X[:, 3] = 0.1
    expected = StreamingRidgeClassifier().fit(X, y)
    with dispatch():
        model = StreamingRidgeClassifier().fit(put(X), y)
        assert to_numpy(model.scale_)[3] == 1
        assert_is_near(model.coef_, put(X), expected.coef_, 1e-7)


BAD_ROWS = {
    "NaN": (torch.full((4, 2), torch.nan), ValueError, "X contains NaN"),
    "infinity": (torch.full((4, 2), torch.inf), ValueError, "X contains infinity"),
    "one axis": (torch.ones(4), ValueError, r"shape \(n, n_features\)"),
    "complex": (torch.ones(4, 2) * 1j, ValueError, "Complex"),
    "a gradient": (torch.ones(4, 2, requires_grad=True), TypeError, r"X\.detach\(\)"),
    "too few rows": (torch.ones(3, 2), ValueError, "3 rows and 4 targets"),
}


@pytest.mark.parametrize(("X", "error", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("model", [StreamingRidge(), StreamingRidgeClassifier()], ids=str)
def test_bad_rows(model, X, error, message):
    with dispatch(), pytest.raises(error, match=message):
        model.fit(X, torch.asarray([0, 1, 0, 1]))


def test_bad_targets():
    X = torch.asarray(features_of()[0])
    with dispatch():
        with pytest.raises(ValueError, match="y contains NaN"):
            StreamingRidge().fit(X, torch.full((120,), torch.nan))
        with pytest.raises(ValueError, match="at least 2 classes"):
            StreamingRidgeClassifier().fit(X, torch.ones(120))
        with pytest.raises(ValueError, match="sample_weight"):
            StreamingRidge().fit(X, torch.ones(120), sample_weight=-torch.ones(120))
        with pytest.raises(ValueError, match="alpha=1e-30 is too small"):
            StreamingRidge(alphas=1e-30).fit(torch.ones((120, 3)) * X[:, :1], torch.ones(120))
        model = StreamingRidge().fit(X, X[:, 0])
        with pytest.raises(ValueError, match="20 features as input"):
            model.predict(X[:, :3])


def test_a_lack_of_memory_leaves_the_model_as_it_was(monkeypatch):
    X, y = features_of()
    X = torch.asarray(X)

    def fail(*arguments):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(moments, "N_WAITING", 1)
    with dispatch():
        model = StreamingRidgeClassifier().fit(X, y)
        before = model.decision_function(X)
        for place in ((moments.Moments, "_sum"), (moments, "add_rows")):
            with monkeypatch.context() as patch:
                patch.setattr(*place, fail)
                for method in (model.fit, model.partial_fit):
                    with pytest.raises(MemoryError, match=r"no memory\. .*use fewer kernels"):
                        method(X, y)
        assert_is_near(model.decision_function(X), X, to_numpy(before), 0)
        assert model.partial_fit(X, y).score(X, y) > 0.5


def test_an_interrupted_call_is_never_forgotten(monkeypatch):
    """Either no row of the call was added, or all later calls raise an error."""
    X, y = features_of()
    X = torch.asarray(X)
    original = moments.Moments._sum
    calls = []

    def fail_later(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(moments, "BLOCK_BYTES", 50 * 8 * 20)
    monkeypatch.setattr(moments, "N_WAITING", 1)
    with dispatch():
        model = StreamingRidgeClassifier().fit(X, y)
        with monkeypatch.context() as patch:
            patch.setattr(moments.Moments, "_sum", fail_later)
            with pytest.raises(KeyboardInterrupt):
                model.partial_fit(X, y)
        for call in (lambda: model.partial_fit(X, y), lambda: model.merge(model)):
            with pytest.raises(RuntimeError, match="sums are incomplete; fit again"):
                call()
        assert model.fit(X, y).partial_fit(X, y)._sums.n_rows == 240


def test_a_merge_does_not_change_the_other_model():
    X, y = features_of()
    with dispatch():
        first = StreamingRidgeClassifier(alphas=1.0).fit(torch.asarray(X[y < 2]), y[y < 2])
        other = StreamingRidgeClassifier(alphas=1.0).fit(torch.asarray(X[y > 0]), y[y > 0])
        before = other.decision_function(torch.asarray(X))
        first.merge(other)
        assert other._sums.sums.classes.tolist() == [1, 2]
        other.set_params(alphas=[1.0])
        assert_is_near(other.decision_function(torch.asarray(X)), before, to_numpy(before), 1e-12)


# Moving a model, and scikit-learn's tools


def test_a_moved_model_computes_the_same():
    array_api = pytest.importorskip("sklearn.utils._array_api")
    if not hasattr(array_api, "move_estimator_to"):
        pytest.skip("move_estimator_to is new in scikit-learn 1.9")
    model = make_image_classifier("objects", random_state=0, n_kernels=8).fit(IMAGES, LABELS)
    expected = model.decision_function(IMAGES)
    with dispatch():
        move = array_api.move_estimator_to
        X = on("device1")(IMAGES)
        away = move(model, strict, strict.Device("device1"))
        saved = pickle.loads(pickle.dumps(away))[-1]  # before the first prediction
        assert Library.of(saved._solution.coef) == Library.of(X)
        assert_is_near(away.decision_function(X), X, expected, 1e-9)
        assert_is_near(away.predict_proba(X), X, model.predict_proba(IMAGES), 1e-9)
        assert to_numpy(away.predict(X)).tolist() == model.predict(IMAGES).tolist()
        back = move(pickle.loads(pickle.dumps(away)), np, "cpu")
        np.testing.assert_allclose(back.decision_function(IMAGES), expected, rtol=1e-9)
        assert type(back.predict(IMAGES)) is np.ndarray
        features = away[:-1].transform(X)
        with pytest.raises(ValueError, match=r"sums of this model are in numpy.*fit again"):
            away[-1].partial_fit(features, LABELS)
        with pytest.raises(ValueError, match=r"sums of this model are in numpy"):
            away[-1].novelty(features)
        assert not hasattr(pickle.loads(pickle.dumps(away))[-1], "_sums")


@pytest.mark.parametrize(
    "last", [StreamingRidgeClassifier(), RidgeClassifier(solver="svd")], ids=str
)
def test_grid_search_over_stride_and_kernel_size(last):
    if parse_version(sklearn.__version__) < parse_version("1.8"):
        pytest.skip("StandardScaler accepts few tensors before scikit-learn 1.8")
    model = make_pipeline(
        StridedConv2DTransformer(8, kernels="patches", random_state=0), StandardScaler(), last
    )
    grid = {
        "stridedconv2dtransformer__stride": [1, 2],
        "stridedconv2dtransformer__kernel_size": [3, 4],
    }
    y = (IMAGES[:, :5].mean(axis=(1, 2, 3)) > IMAGES[:, 5:].mean(axis=(1, 2, 3))).astype(int)
    expected = GridSearchCV(model, grid, cv=2).fit(IMAGES, y)
    with dispatch():
        search = GridSearchCV(model, grid, cv=2).fit(torch.asarray(IMAGES), torch.asarray(y))
        predicted = search.predict(torch.asarray(IMAGES))
    assert library_name(predicted) == "torch"
    np.testing.assert_allclose(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], atol=0.06
    )


def test_a_search_shares_features_where_they_are():
    model = make_pipeline(StridedConv2DTransformer(5, random_state=0), StreamingRidgeClassifier())
    search = GridSearchCV(model, {"stridedconv2dtransformer__stride": [1, 2]}, cv=2)
    with dispatch():
        X, y = torch.asarray(IMAGES), torch.asarray(LABELS)
        expected = clone(search).fit(X, y)
        shared = SharedFeaturesSearch(search).fit(X, y)
        assert library_name(shared.predict(X)) == "torch"
    found, wanted = (each.cv_results_["mean_test_score"] for each in (shared, expected))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("kind", ["objects", "satellite"])
def test_recipes(kind):
    X = np.repeat(np.repeat(IMAGES, 3, axis=1), 3, axis=2)
    model = make_image_classifier(kind, effort="fast", random_state=0, n_kernels=8)
    expected = clone(model).fit(X, LABELS).decision_function(X)
    with dispatch():
        fitted = clone(model).fit(torch.asarray(X), torch.asarray(LABELS))
        assert_is_near(fitted.decision_function(T := torch.asarray(X)), T, expected, 1e-6)
