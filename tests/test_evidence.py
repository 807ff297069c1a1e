"""Class activation maps add up to the decisions, and agree with plain loops."""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oracle import ACTIVATIONS as ORACLE_SIDES
from oracle import cells_of, conv2d, same_amounts, source
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    SGDClassifier,
    SGDOneClassSVM,
)
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.geometry import PADDING_MODES
from sklearn_conv._engine.pooling import POOLINGS, Pooling
from sklearn_conv._engine.symmetry import SYMMETRIES
from sklearn_conv.inspection import (
    ClassActivationDisplay,
    FeatureMapDisplay,
    KernelDisplay,
    class_activation_map,
)
from sklearn_conv.inspection import _class_activation as evidence

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(60, 7, 6, 2))
LABELS = np.arange(60) % 3
PIXELS = [f"pixel{i}" for i in range(84)]
TABLE = pd.DataFrame(IMAGES.reshape(60, -1), columns=PIXELS).assign(
    age=RNG.normal(size=60), height=RNG.normal(size=60), city=np.resize(["Rome", "Oslo"], 60)
)


def make_model(*steps, labels=LABELS, images=IMAGES, **settings):
    settings = {"n_kernels": 5, "random_state": 0, **settings}
    return make_pipeline(StridedConv2DTransformer(**settings), *steps).fit(images, labels)


def decisions(model, images):
    decide = getattr(model, "decision_function", None) or model.predict
    return np.asarray(decide(images)).reshape(len(images), -1)


SETTINGS = [
    *({"activation": name, "bias": -0.1} for name in ACTIVATIONS),
    {"pool_grid": 9},
    {"normalize_patches": True, "whiten": True, "kernels": "patches", "activation": "split"},
    {"pooling": None, "power": 2, "bias": "quantile", "n_biases": 2, "kernels": "patches"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_sum_is_the_decision(settings):
    model = make_model(StandardScaler(), RidgeClassifier(), **settings)
    maps = class_activation_map(model, IMAGES)
    assert maps.shape == (60, 7, 6, 3)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), decisions(model, IMAGES), atol=1e-9)


HEADS = {
    "cv": [StandardScaler(), RidgeClassifierCV([0.1, 10])],
    "logistic": [StandardScaler(), LogisticRegression()],
    "svc": [MinMaxScaler((-1, 3)), LinearSVC(random_state=0)],
    "sgd": [StandardScaler(with_mean=False), SGDClassifier(random_state=0)],
    "lda": [LinearDiscriminantAnalysis()],
    "streaming": [StreamingRidgeClassifier()],
    "pca": [StandardScaler(), PCA(6, whiten=True), "passthrough", RidgeClassifier()],
    "selection": [SelectKBest(k=7), OneVsRestClassifier(LogisticRegression())],
    "kernel": [SVC(kernel="linear", decision_function_shape="ovo")],
    "function": [FunctionTransformer(lambda rows: 2 * rows + 1), RidgeClassifier()],
    "regression": [StandardScaler(), LinearRegression()],
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_sum_is_the_decision_of_any_linear_model(head):
    model = make_model(*head)
    sums = class_activation_map(model, IMAGES).sum(axis=(1, 2))
    np.testing.assert_allclose(sums, decisions(model, IMAGES), atol=1e-8)


def test_several_targets_have_a_map_each():
    targets = RNG.normal(size=(60, 2))
    model = make_model(LinearRegression(), labels=targets)
    sums = class_activation_map(model, IMAGES).sum(axis=(1, 2))
    np.testing.assert_allclose(sums, model.predict(IMAGES), atol=1e-9)
    display = ClassActivationDisplay.from_estimator(model, IMAGES[0], class_of_interest=1)
    assert display.evidence.sum() == pytest.approx(model.predict(IMAGES[:1])[0, 1])


def seen_pixels(start, length, size, dilation, amounts, mode):
    """Return the pixels of the image under a window; if it covers only padding, all pixels."""
    seen = [source(start + i * dilation - amounts[0], length, mode) for i in range(size)]
    return [pixel for pixel in seen if pixel is not None] or list(range(length))


@st.composite
def layers(draw):
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel_size, dilation = draw(pair), draw(pair)
    padding = draw(
        st.one_of(st.just("same"), st.just("valid"), st.tuples(*[st.integers(0, 5)] * 2))
    )
    span = [d * (size - 1) + 1 for size, d in zip(kernel_size, dilation, strict=True)]
    h, w = (draw(st.integers(length if padding != "same" else 1, length + 4)) for length in span)
    options = {
        "stride": draw(pair),
        "padding": padding,
        "padding_mode": draw(st.sampled_from(sorted(PADDING_MODES))),
        "dilation": dilation,
    }
    grid = draw(pair | st.sampled_from([[1, 2, 3], [(1, 4), (3, 2)]]))
    return (h, w), kernel_size, options, grid


OUTSIDE = {"stride": (1, 2), "padding": (5, 4), "padding_mode": "constant", "dilation": (1, 1)}
"""Some windows cover only padding."""


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_tables_between_the_steps(container):
    pytest.importorskip(container)
    model = make_pipeline(
        StridedConv2DTransformer(3, random_state=0), StandardScaler(), RidgeClassifier()
    )
    model = model.set_output(transform=container).fit(IMAGES, LABELS)
    sums = class_activation_map(model, IMAGES[:9]).sum(axis=(1, 2))
    np.testing.assert_allclose(sums, model.decision_function(IMAGES[:9]))
    FeatureMapDisplay.from_estimator(model, IMAGES[0])
    assert type(model[0].transform(IMAGES[:2])).__module__.startswith(container)


@pytest.mark.parametrize("symmetries", [None, "dihedral"])
def test_images_in_any_form(symmetries, tmp_path):
    rows = IMAGES.reshape(60, -1)
    frame = pd.DataFrame(rows, columns=PIXELS)
    settings = {"image_shape": (7, 6, 2), "symmetries": symmetries}
    expected = class_activation_map(make_model(RidgeClassifier(), **settings), IMAGES)
    np.save(tmp_path / "images.npy", rows)
    forms = [rows, frame, IMAGES.tolist(), np.load(tmp_path / "images.npy", mmap_mode="r")]
    for X in forms:
        model = make_model(RidgeClassifier(), images=X, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_allclose(class_activation_map(model, X), expected, atol=1e-12)


def test_steps_before_and_stacked_transformers():
    brighter = FunctionTransformer(lambda images: images + 3.0)
    first = StridedConv2DTransformer(3, pool_grid=4, flatten=False, random_state=0)
    second = StridedConv2DTransformer(5, random_state=0)
    model = make_pipeline(brighter, second, RidgeClassifier()).fit(IMAGES, LABELS)
    sums = class_activation_map(model, IMAGES).sum(axis=(1, 2))
    np.testing.assert_allclose(sums, model.decision_function(IMAGES))
    model = make_pipeline(brighter, first, second, RidgeClassifier()).fit(IMAGES, LABELS)
    with pytest.raises(
        ValueError, match=r"has 2.*pass pipeline\[2:\] and pipeline\[:2\].transform"
    ):
        class_activation_map(model, IMAGES)
    maps = class_activation_map(model[2:], model[:2].transform(IMAGES))
    assert maps.shape == (60, 4, 4, 3)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), model.decision_function(IMAGES))


class AlmostLinear(RidgeClassifier):
    """Classifier whose decisions are linear, except for the training images."""

    def decision_function(self, X):
        decisions = super().decision_function(X)
        known = (np.abs(X[:, np.newaxis] - self.known).max(axis=2) < 1e-9).any(axis=1)
        return decisions + known[:, np.newaxis]


def test_decisions_are_compared_with_the_weights():
    model = make_model(AlmostLinear())
    model[-1].known = model[:1].transform(IMAGES[:3])
    with pytest.raises(ValueError, match="AlmostLinear, is not linear"):
        class_activation_map(model, IMAGES)


def test_a_decision_that_is_not_linear_for_later_images_only():
    images = np.random.default_rng(1).normal(size=(150, 7, 6, 2))
    model = make_model(AlmostLinear())
    model[-1].known = model[:1].transform(images[140:141])
    class_activation_map(model, images[:140])
    with pytest.raises(ValueError, match="AlmostLinear, is not linear"):
        class_activation_map(model, images)


MORE_POOLINGS = {
    "min": Pooling(np.minimum, lambda joined, n_positions: joined),
    "half": Pooling(np.add, lambda joined, n_positions: joined / 2),
    "length": Pooling(np.add, lambda joined, n_positions: np.sqrt(np.abs(joined))),
    "from one": Pooling(np.add, lambda joined, n_positions: joined + 1),
}


@pytest.mark.parametrize("name", [*POOLINGS, *MORE_POOLINGS])
def test_every_pooling_is_exact_or_refused(name, monkeypatch):
    for other, pooling in MORE_POOLINGS.items():
        monkeypatch.setitem(POOLINGS, other, pooling)
    for pooling in (name, ["mean", name] if name != "mean" else ["sum", "mean"]):
        model = make_model(StandardScaler(), RidgeClassifier(), pooling=pooling, pool_grid=(2, 9))
        if name in ("max", "min", "length", "from one"):
            with pytest.raises(ValueError, match=f"which pooling='{name}' does not compute; fit"):
                class_activation_map(model, IMAGES)
            continue
        sums = class_activation_map(model, IMAGES).sum(axis=(1, 2))
        np.testing.assert_allclose(sums, decisions(model, IMAGES), atol=1e-9)


def draw_images(rng, kind, shape):
    if kind == "bytes":
        return rng.integers(0, 256, shape).astype(np.uint8)
    values = rng.standard_normal(shape)
    if kind == "offset":
        return (60_000 + 2 * values).astype(np.uint16)
    if kind == "fill":
        values[:, -2:] = -9999
    elif kind == "flat":
        values[:, : shape[1] // 2] = rng.choice([0.0, 0.1, 7.0])
    return values.astype(np.float32)


ROUNDED_HEADS = {
    "linear": lambda: [LinearRegression()],
    "pca": lambda: [StandardScaler(), PCA(2, whiten=True), RidgeClassifier()],
    "logistic": lambda: [StandardScaler(), LogisticRegression(max_iter=20)],
    "ridge": lambda: [StandardScaler(), RidgeClassifier(1e-3)],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["bytes", "normal", "offset", "fill", "flat"])
@pytest.mark.parametrize("head", ROUNDED_HEADS)
def test_sums_of_any_image_are_its_decision_or_a_warning_is_issued(kind, head):
    names = list(ROUNDED_HEADS)
    rng = np.random.default_rng([len(kind), names.index(head)])
    for _ in range(2):
        images = draw_images(rng, kind, (40, *rng.integers(4, 12, 2), 2))
        model = make_model(
            *ROUNDED_HEADS[head](),
            labels=rng.integers(0, 3, 40),
            images=images,
            activation=rng.choice([np.sign, *ACTIVATIONS]),
            kernels=str(rng.choice(["uniform", "gaussian", "kmeans"])),
            pooling=[None, "mean", "sum", ["mean", "sum"]][rng.integers(4)],
            pool_grid=int(rng.choice([1, 3, 20])),
            normalize_patches=bool(rng.integers(2)),
            whiten=bool(rng.integers(2)),
        )
        expected = decisions(model, images)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sums = class_activation_map(model, images).sum(axis=(1, 2))
        if not any("of the evidence" in str(w.message) for w in caught) and not any(
            "The evidence of" in str(w.message) for w in caught
        ):
            np.testing.assert_allclose(sums, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:The evidence of .* only roughly:UserWarning")
def test_features_that_a_scaler_magnifies():
    # The features are about 10**5 times as large as their differences, in float32.
    images = (60_000 + IMAGES).astype(np.float32)
    model = make_model(
        StandardScaler(), RidgeClassifier(1e-3), images=images, kernels="uniform", pool_grid=9
    )
    expected = decisions(model, images)
    sums = class_activation_map(model, images).sum(axis=(1, 2))
    np.testing.assert_allclose(sums, expected, atol=1e-9 * np.abs(expected).max())


def test_differences_of_rounding_stay_in_their_cell(monkeypatch):
    model = make_model(StandardScaler(), RidgeClassifier(), pool_grid=(2, 1), padding="valid")
    before = class_activation_map(model, IMAGES[:1])
    transform = StridedConv2DTransformer.transform

    def transform_and_round(self, X):
        features = transform(self, X).copy()
        features[:, :5] += 1e-4  # those of the upper cell
        return features

    monkeypatch.setattr(StridedConv2DTransformer, "transform", transform_and_round)
    change = class_activation_map(model, IMAGES[:1]) - before
    upper, lower = change[0, :3].sum(axis=(0, 1)), change[0, -2:].sum(axis=(0, 1))
    assert np.abs(upper).min() > 1e-9
    np.testing.assert_allclose(lower, 0, atol=1e-12)
    sums = class_activation_map(model, IMAGES[:1]).sum(axis=(1, 2))
    np.testing.assert_allclose(sums, decisions(model, IMAGES[:1]), atol=1e-12)


def test_terms_that_nearly_cancel_are_reported():
    images = IMAGES.astype(np.float32)
    kernel = RNG.normal(size=(3, 3, 2, 1))
    model = make_model(
        RidgeClassifier(), images=images, labels=LABELS == 2, kernels=kernel, pool_grid=(1, 2)
    )
    model[-1].coef_ = np.float32([[1e9, -1.0001e9]])
    class_activation_map(model, images)  # The two features differ.
    model[0].pool_grid = 1
    model[0].kernels_ = np.repeat(model[0].kernels_, 2, axis=3)
    model[0].bias_, model[0].offset_ = np.zeros((2, 2), np.float32)
    model[-1].coef_ = np.float32([[1e9, -1.00001e9]])
    with pytest.warns(UserWarning, match="of 60 images adds up to the decision only roughly"):
        maps = class_activation_map(model, images)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), decisions(model, images), rtol=1e-5)


@pytest.mark.parametrize(
    "activation", [lambda z: z - z.mean(axis=0), lambda z: z / np.abs(z).max()]
)
def test_functions_that_mix_responses_are_reported(activation):
    model = make_model(StandardScaler(), RidgeClassifier(), activation=activation)
    with pytest.warns(UserWarning, match="must compute each element independently"):
        class_activation_map(model, IMAGES)


def test_infinite_features_are_refused():
    images = IMAGES.astype(np.float32)
    model = make_model(RidgeClassifier(), images=images, pooling="sum")
    model[0].kernels_ = model[0].kernels_ * np.float32(3e38)
    with (
        pytest.warns(UserWarning, match="Some features are infinite"),
        pytest.raises(ValueError, match="needs finite features, but some are infinite or NaN"),
    ):
        class_activation_map(model, images)


@pytest.mark.parametrize("settings", [{}, {"pooling": None}, {"pool_grid": 9}], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_in_chunks(settings, dtype, monkeypatch):
    images = IMAGES.astype(dtype)
    model = make_model(StandardScaler(), RidgeClassifier(), images=images, **settings)
    expected = class_activation_map(model, images)
    monkeypatch.setattr(evidence, "CHUNK_BYTES", 20_000)
    frame = pd.DataFrame(images.reshape(60, -1), index=np.arange(60.0)[::-1])
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for same in (images, list(images), frame):
        actual = class_activation_map(model, same)
        np.testing.assert_allclose(actual, expected, atol=tolerance)


def test_nothing_is_changed_or_printed(capsys):
    model = make_model(StandardScaler(), RidgeClassifier(), verbose=1)
    capsys.readouterr()
    before = {name: repr(value) for name, value in vars(model[0]).items()}
    images = IMAGES.copy()
    images.flags.writeable = False
    class_activation_map(model, images)
    shown = capsys.readouterr()
    assert not shown.out + shown.err
    assert {name: repr(value) for name, value in vars(model[0]).items()} == before


class SelectFromImages(StandardScaler):
    """Step that has a transformer inside."""

    def __init__(self, transformer):
        self.transformer = transformer

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return self.transformer.transform(X)


FITTED = make_model(StandardScaler(), RidgeClassifier())
TRANSFORMER = FITTED[0]


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (
            make_pipeline(StridedConv2DTransformer(), RidgeClassifier()),
            NotFittedError,
            "not fitted",
        ),
        (TRANSFORMER, TypeError, r"there is none after.*make_pipeline\(transformer"),
        (Pipeline([("conv", TRANSFORMER)]), TypeError, "there is none after"),
        (RidgeClassifier(), TypeError, "a Pipeline that contains one. Got RidgeClassifier"),
        (GridSearchCV(FITTED, {}).fit(IMAGES, LABELS), TypeError, "pass its best_estimator_"),
        (
            make_pipeline(SelectFromImages(TRANSFORMER), RidgeClassifier()).fit(IMAGES, LABELS),
            TypeError,
            "not be nested inside a step other than a Pipeline, a FeatureUnion or a Column",
        ),
        (make_model(RidgeClassifier(), pooling="max"), ValueError, "fit with pooling='mean'"),
        (make_model(RidgeClassifier(), pooling=["mean", "max"]), ValueError, "instead of"),
        (
            make_model(RandomForestClassifier(2)),
            TypeError,
            "RandomForestClassifier does not have this",
        ),
        (make_model(SVC()), ValueError, "step 'svc', SVC, is not linear"),
        (make_model(SVC(kernel="linear")), ValueError, "not linear"),
        (make_model(GradientBoostingClassifier(n_estimators=2)), ValueError, "not linear"),
        (
            make_model(FunctionTransformer(np.sqrt), StandardScaler(), RidgeClassifier()),
            ValueError,
            "step 'functiontransformer', FunctionTransformer, is not linear; remove it",
        ),
        (make_model(MinMaxScaler(clip=True), RidgeClassifier()), ValueError, "step 'minmaxscaler'"),
    ],
)
def test_models_that_cannot_be_explained(model, error, message):
    with pytest.raises(error, match=message):
        class_activation_map(model, IMAGES)
    with pytest.raises(error, match=message):
        ClassActivationDisplay.from_estimator(model, IMAGES[0])


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (IMAGES[:, :5], ValueError, "was fitted on images of shape"),
        (IMAGES[0], ValueError, "X"),
        (None, TypeError, "X"),
        (np.full((1, 7, 6, 2), np.nan), ValueError, "NaN"),
    ],
)
def test_wrong_images_have_the_message_of_the_transformer(images, error, message):
    with pytest.raises(error, match=message) as raised:
        class_activation_map(FITTED, images)
    with pytest.raises(error) as own:
        FITTED[0].transform(images)
    assert str(raised.value) == str(own.value)


MIRRORED = [lambda x: x, np.fliplr]
TURNED = [lambda x, v=v, n=n: np.rot90(v(x), n) for v in MIRRORED for n in range(4)]
VIEWS = {None: MIRRORED[:1], "mirror": MIRRORED, "dihedral": TURNED}
"""The images over which features are averaged, each a function of an image (h, w, c)."""


def plain_parts(image, transformer, options, grid, pooling, biases):
    """List the parts of all features as (feature, part, pixels), position by position.

    The sum of the parts of a feature is its value before it is raised to the power.
    """
    h, w = image.shape[:2]
    kernels = transformer.kernels_
    views = VIEWS[transformer.symmetries]
    sides = ORACLE_SIDES[transformer.activation]
    outputs = [(side, own) for side in sides for own in biases]
    poolings = [pooling] if isinstance(pooling, str) else pooling or ["sum"]
    k = kernels.shape[3]
    parts = []
    for view in views:
        seen = view(image)
        pixel = view(np.arange(h * w).reshape(h, w))
        z = conv2d(seen[np.newaxis], kernels, groups=1, bias=None, **options)[0]
        where = []
        for axis, (length, size, stride, dilation) in enumerate(
            zip(seen.shape, kernels.shape, options["stride"], options["dilation"], strict=False)
        ):
            span, padding = dilation * (size - 1) + 1, options["padding"]
            amounts = [0] if padding == "valid" else [padding[axis]]
            amounts = same_amounts(length, span, stride) if padding == "same" else amounts
            starts, mode = range(0, z.shape[axis] * stride, stride), options["padding_mode"]
            where.append([seen_pixels(s, length, size, dilation, amounts, mode) for s in starts])
        for i, cell in enumerate(cells_of(z.shape, z.shape[:2] if pooling is None else grid)):
            for r, c in cell:
                pixels = [pixel[y, x] for y in where[0][r] for x in where[1][c]]
                feature = i * len(poolings) * len(outputs) * k
                for name in poolings:
                    for side, own in outputs:
                        for kernel in range(k):
                            part = side(z[r, c, kernel], own[kernel]) / len(views)
                            part /= len(cell) if name == "mean" else 1
                            parts.append((feature, part, pixels))
                            feature += 1
    return parts


def plain_evidence(image, weights, constant, power, parts):
    """Add up the evidence of all parts, pixel by pixel; explain powers by their gradient."""
    h, w = image.shape[:2]
    features = np.zeros(len(weights))
    for feature, part, _ in parts:
        features[feature] += part
    evidence = np.full(h * w, constant / (h * w))
    for feature, part, pixels in parts:
        value = features[feature]
        # The gradient of sign(f) * abs(f)**p is p * abs(f)**(p - 1).
        gradient = power * abs(value) ** (power - 1) if value else 0
        for pixel in pixels:
            evidence[pixel] += weights[feature] * gradient * part / power / len(pixels)
    return evidence.reshape(h, w)


@given(
    layer=layers(),
    pooling=st.sampled_from(["mean", "sum", ["sum", "mean"], None]),
    symmetries=st.sampled_from([*SYMMETRIES]),
    power=st.sampled_from([0.5, 1, 2, 0.3]),
    activation=st.sampled_from(["relu", "split", "square", "abs"]),
    bias=st.sampled_from([0.2, [[-0.3], [0.4]], [[-0.1, 0.3], [0.2, 0.0], [0, 1]]]),
    seed=st.integers(0, 2**32 - 1),
)
@example(
    layer=((2, 3), (2, 2), OUTSIDE, (1, 1)),
    pooling="mean",
    symmetries=None,
    power=1,
    activation="square",
    bias=-0.2,
    seed=0,
)
def test_evidence_agrees_with_plain_loops(
    layer, pooling, symmetries, power, activation, bias, seed
):
    shape, kernel_size, options, grid = layer
    rng = np.random.default_rng(seed)
    if symmetries == "dihedral":
        spans = [d * (n - 1) + 1 for n, d in zip(kernel_size, options["dilation"], strict=True)]
        shape = (max(*spans, *shape),) * 2
        if pooling is not None:
            shape = shape[0], shape[1] + rng.integers(2)
        else:
            kernel_size = (kernel_size[0],) * 2
            for name in ("stride", "dilation", "padding"):
                if isinstance(options[name], tuple):
                    options = {**options, name: (options[name][0],) * 2}
    images = rng.normal(size=(2, *shape, 1))
    transformer = StridedConv2DTransformer(
        2,
        kernel_size,
        activation=activation,
        bias=bias,
        pooling=pooling,
        pool_grid=grid,
        symmetries=symmetries,
        power=power,
        random_state=0,
        **options,
    )
    model = make_pipeline(transformer, Ridge(0.1)).fit(images, np.arange(2.0))
    model[-1].coef_ = weights = rng.normal(size=model[-1].n_features_in_)
    biases = np.broadcast_to(bias, (len(np.atleast_2d(bias)), 2))
    actual = class_activation_map(model, images)[..., 0]
    np.testing.assert_allclose(actual.sum(axis=(1, 2)), model.predict(images), atol=1e-9)
    for image, own in zip(images, actual, strict=True):
        parts = plain_parts(image, transformer, options, grid, pooling, biases)
        expected = plain_evidence(image, weights, model[-1].intercept_, power, parts)
        rounding = 1e-16 ** min(power, 0.5)  # A power magnifies the rounding of a feature of 0.
        np.testing.assert_allclose(own, expected, atol=rounding * max(1, np.abs(expected).max()))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("pooling", ["mean", ["sum", "mean"], None])
def test_cells_that_are_empty_in_one_view_only(pooling, power):
    images = IMAGES.copy()
    n_missing = 4 if pooling else 1
    images[::2, :, :n_missing] = np.nan
    model = make_model(
        RidgeClassifier(),
        images=images[1::2],
        labels=LABELS[1::2],
        symmetries="mirror",
        pooling=pooling,
        pool_grid=(1, 2) if pooling else 1,
        power=power,
        missing="ignore",
    )
    maps = class_activation_map(model, images)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), decisions(model, images), atol=1e-9)
    missing = maps[::2, :, :n_missing]  # These pixels have only the constant.
    expected = np.broadcast_to(model[-1].intercept_ / 42, missing.shape)
    np.testing.assert_allclose(missing, expected, atol=1e-9)


def test_powers_of_sums_that_are_only_rounding_are_spread_evenly():
    image = np.zeros((1, 4, 4))
    image[0, :2] = [[0.1, 0.2, -0.3, 1e-18], [1, -1, 3, -3]]
    transformer = StridedConv2DTransformer(
        kernels=np.ones((1, 1, 1, 1)), activation="identity", power=0.3, pool_grid=(2, 1)
    )
    model = make_pipeline(transformer, Ridge()).fit(np.ones((2, 4, 4)), [0, 1])
    model[-1].coef_ = np.array([1.0, 1.0])
    model[-1].intercept_ = 0.0
    with pytest.warns(UserWarning, match="100% of .* rounding .* A power below 1 magnifies"):
        (map_,) = class_activation_map(model, image)[..., 0]
    decision = model.predict(image)[0]
    np.testing.assert_allclose(map_[:2], decision / 8, atol=1e-15)
    np.testing.assert_allclose(map_[2:], 0, atol=1e-15)


def test_parts_with_both_signs_may_exceed_the_feature():
    image = np.array([[[3.0, -2.0, 0.0]]])
    transformer = StridedConv2DTransformer(
        kernels=np.ones((1, 1, 1, 1)), activation="identity", power=2, pooling="sum", pool_grid=1
    )
    model = make_pipeline(transformer, Ridge()).fit(np.ones((2, 1, 3)), [0, 1])
    model[-1].coef_, model[-1].intercept_ = np.array([1.0]), 0.0
    maps = class_activation_map(model, image)[0, 0, :, 0]
    np.testing.assert_allclose(maps, [3, -2, 0])


def two_views(**options):
    first = StridedConv2DTransformer(3, symmetries="mirror", power=0.5, random_state=0)
    second = StridedConv2DTransformer(4, 2, stride=2, pool_grid=3, random_state=1)
    brighter = FunctionTransformer(lambda images: images[..., :1] + 3.0)
    branches = [
        ("one", make_pipeline(first, StandardScaler(), PCA(5))),
        ("unused", "drop"),
        ("two", make_pipeline(brighter, second)),
    ]
    return FeatureUnion(branches, **options)


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
@pytest.mark.parametrize("container", ["default", "pandas"])
@pytest.mark.parametrize("options", [{}, {"transformer_weights": {"two": 0.25}}], ids=str)
def test_a_union_is_the_sum_of_its_branches(options, container):
    model = make_pipeline(two_views(**options), StandardScaler(), RidgeClassifier())
    model.set_output(transform=container)
    model[0].named_transformers["two"][0].set_output(transform="default")  # It returns images.
    model.fit(IMAGES, LABELS)
    model[0].n_jobs = 2
    maps = class_activation_map(model, IMAGES)  # Processes would be slow here.
    model[0].n_jobs = None
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), decisions(model, IMAGES), atol=1e-9)
    # A pipeline of each branch, whose scaler and classifier have only the columns of the branch
    union, scaler, classifier = (step for _, step in model.steps)
    scaler = StandardScaler().fit(np.asarray(union.transform(IMAGES)))
    total = np.zeros_like(maps)
    start = 0
    for name in ("one", "two"):
        branch = union.named_transformers[name]
        weight = options.get("transformer_weights", {}).get(name, 1)
        n = branch.transform(IMAGES[:1]).shape[1]
        own = slice(start, start + n)
        start += n
        single = Ridge().fit(np.zeros((2, n)), np.zeros((2, 3)))
        single.coef_ = weight * classifier.coef_[:, own] / scaler.scale_[own]
        single.intercept_ = -(classifier.coef_[:, own] / scaler.scale_[own]) @ scaler.mean_[own]
        branch = Pipeline(branch.steps).set_output(transform="default")
        total += class_activation_map(Pipeline([*branch.steps, ("ridge", single)]), IMAGES)
    total += classifier.intercept_ / 42
    np.testing.assert_allclose(maps, total, atol=1e-9)


def table_model(images=TABLE, **options):
    columns = ColumnTransformer(
        [
            ("none", StandardScaler(), []),
            ("city", OneHotEncoder(), ["city"]),
            (
                "views",
                FeatureUnion(
                    [
                        ("a", StridedConv2DTransformer(3, image_shape=(7, 6, 2), random_state=0)),
                        ("b", StridedConv2DTransformer(2, image_shape=(7, 6, 2), random_state=1)),
                    ]
                ),
                PIXELS,
            ),
            ("age", StandardScaler(), ["age"]),
        ],
        remainder="passthrough",
        **options,
    )
    return make_pipeline(columns, StandardScaler(with_mean=False), RidgeClassifier()).fit(
        images, LABELS
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"transformer_weights": {"views": 2, "age": 3}}, {"sparse_threshold": 1.0}],
    ids=str,
)
def test_columns_of_a_table(options):
    model = table_model(**options)
    maps = class_activation_map(model, TABLE)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), decisions(model, TABLE), atol=1e-9)
    shuffled = TABLE[TABLE.columns[::-1]]
    np.testing.assert_allclose(class_activation_map(model, shuffled), maps, atol=1e-12)
    # Other columns change all pixels alike, by their part of the decision.
    other = TABLE.assign(age=TABLE["age"] + 1, city="Rome")
    change = class_activation_map(model, other) - maps
    expected = (decisions(model, other) - decisions(model, TABLE)) / 42
    np.testing.assert_allclose(
        change, np.broadcast_to(expected[:, None, None], maps.shape), atol=1e-9
    )
    display = ClassActivationDisplay.from_estimator(model, TABLE[:1])
    np.testing.assert_array_equal(display.image, IMAGES[0])
    assert display.evidence.sum() == pytest.approx(decisions(model, TABLE[:1]).max())


def test_a_table_without_names():
    table = np.hstack([IMAGES.reshape(60, -1), RNG.normal(size=(60, 2))])
    convolution = StridedConv2DTransformer(3, image_shape=(7, 6, 2), random_state=0)
    columns = ColumnTransformer([("image", convolution, slice(84))], remainder="passthrough")
    model = make_pipeline(columns, RidgeClassifier()).fit(table, LABELS)
    for same in (table, table.tolist()):
        sums = class_activation_map(model, same).sum(axis=(1, 2))
        np.testing.assert_allclose(sums, decisions(model, table), atol=1e-9)
    fitted = model[0].named_transformers_["image"]
    shown = FeatureMapDisplay.from_estimator(model, table[:1])
    expected = FeatureMapDisplay.from_estimator(fitted, IMAGES[0])
    np.testing.assert_allclose(shown.maps, expected.maps)
    np.testing.assert_array_equal(KernelDisplay.from_estimator(model).kernels, fitted.kernels_)
    for wrong in (table[:2], table[0], IMAGES[0]):
        with pytest.raises(ValueError, match=r"table with a single row.*select a row with X\[:1\]"):
            FeatureMapDisplay.from_estimator(model, wrong)


def test_steps_of_branches_must_be_linear():
    union = FeatureUnion(
        [
            ("one", make_pipeline(StridedConv2DTransformer(3), FunctionTransformer(np.sqrt))),
            ("two", StridedConv2DTransformer(2)),
        ]
    )
    model = make_pipeline(union, RidgeClassifier()).fit(IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"step 'functiontransformer'.*use the parameter 'power'"):
        class_activation_map(model, IMAGES)


def test_images_of_branches_must_have_one_size():
    crop = FunctionTransformer(lambda images: images[:, 1:])
    union = FeatureUnion(
        [
            ("one", StridedConv2DTransformer(3)),
            ("two", make_pipeline(crop, StridedConv2DTransformer(2))),
        ]
    )
    model = make_pipeline(union, RidgeClassifier()).fit(IMAGES, LABELS)
    message = r"\(7, 6\) in pipeline\[0\].named_transformers\['one'\], \(6, 6\) in .*of one size"
    with pytest.raises(ValueError, match=message):
        class_activation_map(model, IMAGES)


def test_displays_of_one_transformer_name_the_branches():
    model = make_pipeline(two_views(), RidgeClassifier()).fit(IMAGES, LABELS)
    paths = ["pipeline[0].named_transformers['one'][0]", "pipeline[0].named_transformers['two'][1]"]
    for draw in (
        lambda: KernelDisplay.from_estimator(model),
        lambda: FeatureMapDisplay.from_estimator(model, IMAGES[0]),
    ):
        with pytest.raises(ValueError, match="pass one of these") as raised:
            draw()
        assert all(path in str(raised.value) for path in paths)
    assert KernelDisplay.from_estimator(eval(paths[1], {"pipeline": model})).order_.size == 4
    shown = ClassActivationDisplay.from_estimator(model, IMAGES[0])
    assert shown.evidence.sum() == pytest.approx(decisions(model, IMAGES[:1]).max())


def test_stacked_transformers_in_a_branch():
    first = StridedConv2DTransformer(3, pool_grid=4, flatten=False)
    branch = make_pipeline(first, StridedConv2DTransformer(2))
    model = make_pipeline(FeatureUnion([("deep", branch)]), RidgeClassifier()).fit(IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"\['deep'\] has 2 such steps; stack them outside"):
        class_activation_map(model, IMAGES)


def test_wrong_images_of_a_union():
    model = make_pipeline(two_views(), RidgeClassifier()).fit(IMAGES, LABELS)
    with pytest.raises(TypeError, match="'images' parameter of class_activation_map must be"):
        class_activation_map(model, None)
    with pytest.raises(ValueError, match="was fitted on images of shape"):
        class_activation_map(model, IMAGES[:, :5])


def test_versus_another_class():
    model = make_model(StandardScaler(), RidgeClassifier(), labels=np.array([*"abc"])[LABELS])
    maps = class_activation_map(model, IMAGES)
    versus = class_activation_map(model, IMAGES, versus="b")
    np.testing.assert_allclose(versus, maps - maps[..., 1:2], atol=1e-12)
    decided = decisions(model, IMAGES)
    np.testing.assert_allclose(versus.sum(axis=(1, 2)), decided - decided[:, 1:2], atol=1e-9)
    display = ClassActivationDisplay.from_estimator(
        model, IMAGES[0], class_of_interest="c", versus="b"
    )
    np.testing.assert_allclose(display.evidence, versus[0, :, :, 2])
    assert (display.class_name, display.versus_name) == ("c", "b")
    assert display.axes_[1].get_title().startswith("evidence for c\nversus b: ")
    with pytest.raises(ValueError, match=r"'versus' .* None or one of \['a', 'b', 'c'\]. Got 'd'"):
        class_activation_map(model, IMAGES, versus="d")
    with pytest.raises(ValueError, match=r"must not be the class whose evidence is drawn.*'b'"):
        ClassActivationDisplay.from_estimator(model, IMAGES[0], class_of_interest="b", versus="b")


def test_only_the_maps_of_some_classes():
    model = make_model(StandardScaler(), RidgeClassifier(), labels=np.array([*"abc"])[LABELS])
    for versus in (None, "b"):
        maps = class_activation_map(model, IMAGES, versus=versus)
        for classes in (["c"], ["c", "b", "a"], np.array(["a"])):
            columns = [model.classes_.tolist().index(label) for label in classes]
            actual = class_activation_map(model, IMAGES, classes=classes, versus=versus)
            np.testing.assert_allclose(actual, maps[..., columns], atol=1e-12)


def test_maps_of_both_of_two_classes():
    model = make_model(RidgeClassifier(), labels=LABELS == 2)
    maps = class_activation_map(model, IMAGES)
    both = class_activation_map(model, IMAGES, classes=[False, True])
    np.testing.assert_allclose(both, np.concatenate([-maps, maps], axis=3), atol=1e-12)
    both = class_activation_map(model, IMAGES, classes=[True, False], versus=True)
    np.testing.assert_allclose(both, np.concatenate([0 * maps, -maps], axis=3), atol=1e-12)


@pytest.mark.parametrize("classes", [3, "a", [], [0, 3], [[0]], [None]], ids=str)
def test_classes_that_do_not_exist(classes):
    with pytest.raises(ValueError, match=r"The 'classes' parameter .* \[0, 1, 2\]. Got "):
        class_activation_map(FITTED, IMAGES, classes=classes)


def test_a_display_computes_the_map_that_it_shows(monkeypatch):
    shapes = []

    def compute(*args, **options):
        maps = class_activation_map(*args, **options)
        shapes.append(maps.shape)
        return maps

    monkeypatch.setattr(evidence, "class_activation_map", compute)
    display = ClassActivationDisplay.from_estimator(FITTED, IMAGES[0], versus=1)
    assert display.class_name == str(FITTED.predict(IMAGES[:1])[0])
    assert shapes == [(1, 7, 6, 1)]


class DoubledRidge(RidgeClassifier):
    """Classifier whose decisions are not those of its coefficients."""

    def decision_function(self, X):
        return 2 * super().decision_function(X)


def test_coefficients_that_are_not_the_weights():
    model = make_model(StandardScaler(), DoubledRidge())
    maps = class_activation_map(model, IMAGES)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), decisions(model, IMAGES), atol=1e-9)
    single = make_model(StandardScaler(), RidgeClassifier())
    np.testing.assert_allclose(maps, 2 * class_activation_map(single, IMAGES), atol=1e-9)


def test_two_classes_have_one_map():
    model = make_model(RidgeClassifier(), labels=LABELS == 2)
    maps = class_activation_map(model, IMAGES)
    assert maps.shape == (60, 7, 6, 1)
    np.testing.assert_allclose(maps.sum(axis=(1, 2, 3)), model.decision_function(IMAGES))
    np.testing.assert_array_equal(class_activation_map(model, IMAGES, versus=False), maps)
    np.testing.assert_array_equal(class_activation_map(model, IMAGES, versus=True), -maps)
    display = ClassActivationDisplay.from_estimator(
        model, IMAGES[0], class_of_interest=False, versus=True
    )
    np.testing.assert_allclose(display.evidence, -maps[0, :, :, 0])


def test_two_labels_of_a_multilabel_classifier():
    digits = load_digits()
    labels = np.stack([digits.target == 3, digits.target == 8], axis=1).astype(int)
    model = make_model(RidgeClassifier(), images=digits.images, labels=labels)
    maps = class_activation_map(model, digits.images[:2])
    chosen = class_activation_map(model, digits.images[:2], classes=[0])
    np.testing.assert_allclose(chosen, maps[..., [0]])


def test_dask_arrays_are_refused():
    da = pytest.importorskip("dask.array")
    views = make_union(*(StridedConv2DTransformer(4, random_state=i) for i in (0, 1)))
    for first in (views, views.transformer_list[0][1]):
        model = make_pipeline(first, RidgeClassifier()).fit(IMAGES, np.arange(len(IMAGES)) % 2)
        with pytest.raises(TypeError, match=r"'images' parameter .*pass images.compute\(\)"):
            class_activation_map(model, da.from_array(IMAGES))


def test_versus_needs_classes():
    model = make_model(LinearRegression())
    for draw in (
        lambda: class_activation_map(model, IMAGES, versus=1),
        lambda: ClassActivationDisplay.from_estimator(model, IMAGES[0], versus=1),
    ):
        with pytest.raises(ValueError, match=r"None for a regressor.*subtract their maps"):
            draw()
    with pytest.raises(ValueError, match=r"'classes' .* None for a regressor.*maps of targets"):
        class_activation_map(model, IMAGES, classes=[1])
    detector = make_model(SGDOneClassSVM(tol=None, random_state=0, max_iter=100))
    assert class_activation_map(detector, IMAGES[:2]).shape[-1] == 1
    with pytest.raises(ValueError, match="another model without classes"):
        class_activation_map(detector, IMAGES[:2], classes=[1])
    digits = load_digits()
    pairs = make_model(
        SVC(kernel="linear", decision_function_shape="ovo"),
        images=digits.images[:50],
        labels=digits.target[:50],
    )
    with pytest.raises(ValueError, match="45 decisions for 10 classes"):
        class_activation_map(pairs, digits.images[:2], versus=1)
    with pytest.raises(ValueError, match=r"45 decisions for 10 classes; use .* without 'classes'"):
        class_activation_map(pairs, digits.images[:2], classes=[1])


def test_evidence_of_a_long_signal():
    images = np.random.default_rng(0).random((4, 1, 30_000, 1))
    model = make_pipeline(StridedConv2DTransformer(2, (1, 9), random_state=0), RidgeClassifier())
    model.fit(images, [0, 1, 0, 1])
    tracemalloc.start()
    maps = class_activation_map(model, images[:1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    decisions = model.decision_function(images[:1])
    np.testing.assert_allclose(maps.sum(axis=(1, 2)).ravel(), decisions, atol=1e-9)
