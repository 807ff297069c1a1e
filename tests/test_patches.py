"""Sampling, normalizing and whitening of patches agree with loops and with separate steps."""

import time
import tracemalloc

import numpy as np
import oracle
import pytest
from helpers import small_blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from strategies import ORDERS, convolutions, in_order

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._engine import numpy_engine as engine
from sklearn_conv._engine.geometry import place_windows
from sklearn_conv._engine.symmetry import SYMMETRIES
from sklearn_conv._images.kinds import ArrayImages
from sklearn_conv._parameters import check_window_parameters
from sklearn_conv.kernels._patches import (
    CHUNK,
    TrainingPatches,
    learn_preprocessing,
    sample_patches,
)

RNG = np.random.default_rng(0)
IMAGES = (
    RNG.random((30, 12, 10, 2)) * np.linspace(0.1, 2, 30)[:, np.newaxis, np.newaxis, np.newaxis]
)


def sample(images, n_patches=10**6, kernel_size=(3, 2), seed=0, **options):
    options = {"stride": 1, "padding": "same", "padding_mode": "edge", "dilation": 1} | options
    parameters = check_window_parameters("test", **options)
    rng = np.random.RandomState(seed)
    images = ArrayImages(images, images.shape[1:])

    def place(image):
        return place_windows(image, kernel_size, parameters)

    return sample_patches(images, place, n_patches, np.dtype("f8"), rng)


def all_windows(images, kernel_size, dilation):
    (kh, kw), (_, h, w, _) = kernel_size, images.shape
    return [
        oracle.patch(image, row, column, kh, kw, dilation).ravel()
        for image in images
        for row in oracle.starts(h, kh, 1, dilation[0])
        for column in oracle.starts(w, kw, 1, dilation[1])
    ]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_all_windows_inside_the_images_once(order, dilation):
    images = in_order(IMAGES[:4], order)
    patches = sample(images, dilation=dilation)
    expected = all_windows(IMAGES[:4], (3, 2), dilation)
    np.testing.assert_array_equal(sorted(map(tuple, patches)), sorted(map(tuple, expected)))


def test_a_sample_is_different_windows_from_everywhere():
    images = np.arange(30 * 12 * 10).reshape(30, 12, 10, 1)
    patches = sample(images, 600)
    assert patches.shape == (600, 6)
    assert len(np.unique(patches[:, 0])) == 600
    known = {tuple(window) for window in all_windows(images, (3, 2), (1, 1))}
    assert {tuple(patch) for patch in patches} <= known
    for part in np.array_split(patches[:, 0], 3):  # in random order, every part is representative
        assert 0.4 < part.mean() / images.mean() < 1.6
        assert len(np.unique(part // 120)) > 25
    assert not np.array_equal(patches, sample(images, 600, seed=1))
    np.testing.assert_array_equal(patches, sample(images, 600))


def test_a_sample_touches_little_of_many_images():
    images = np.broadcast_to(np.arange(64.0).reshape(1, 8, 8, 1), (10**9, 8, 8, 1))
    start = time.perf_counter()
    assert sample(images, 2 * CHUNK).shape == (2 * CHUNK, 6)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("mode", ["constant", "edge", "wrap"])
def test_images_smaller_than_the_kernel_give_windows_over_their_border(mode):
    images = RNG.random((3, 2, 5, 2)) + 1
    patches = sample(images, kernel_size=(4, 3), padding=(1, 3), padding_mode=mode)
    padded = [oracle.pad(image, (1, 0), mode, (4, 3), (1, 1)) for image in images]
    expected = all_windows(np.array(padded), (4, 3), (1, 1))  # Columns fit, and are not padded.
    np.testing.assert_array_equal(sorted(map(tuple, patches)), sorted(map(tuple, expected)))


def test_a_kernel_as_large_as_the_images_has_one_window_inside_each():
    patches = sample(IMAGES, kernel_size=(12, 10))
    expected = IMAGES.reshape(len(IMAGES), -1)
    np.testing.assert_array_equal(sorted(map(tuple, patches)), sorted(map(tuple, expected)))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("whiten", [0.1, 1e-3])
def test_whitened_training_patches_have_unit_covariance_to_the_regularization(normalize, whiten):
    patches = sample(IMAGES)
    preprocessing = learn_preprocessing(patches, normalize, whiten)
    before = learn_preprocessing(patches, normalize, 0.0).apply(patches)
    spectrum = PCA().fit(before).explained_variance_
    expected = spectrum / (spectrum + whiten * spectrum.mean())
    whitened = preprocessing.apply(patches)
    found = np.linalg.eigvalsh(np.cov(whitened, rowvar=False))[::-1]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(preprocessing.whitening[1], preprocessing.whitening[1].T)


def test_hardly_any_regularization():
    patches = np.repeat(RNG.random((200, 1)), 8, axis=1)  # There is only one direction.
    matrix = learn_preprocessing(patches, False, 1e-20).whitening[1]
    assert np.isfinite(matrix).all()


def test_true_means_a_regularization_of_a_tenth():
    one, other = (
        StridedConv2DTransformer(4, whiten=whiten, random_state=0).fit(IMAGES).kernels_
        for whiten in (True, 0.1)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore:Kernels, whitening:UserWarning", "ignore:About:UserWarning")
def test_fewer_patches_than_weights():
    images = RNG.random((2, 8, 8))
    transformer = StridedConv2DTransformer(
        4, 8, padding="valid", kernels="patches", whiten=True, random_state=0
    )
    assert np.isfinite(transformer.fit_transform(images)).all()
    patches = images.reshape(2, 64)
    matrix = learn_preprocessing(patches, False, 0.1).whitening[1]
    variance = np.var(patches, axis=0).mean()
    assert np.linalg.eigvalsh(matrix)[-1] == pytest.approx((0.1 * variance) ** -0.5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_constant_patches_are_not_divided_by_rounding_errors():
    assert np.var([0.8093601412916109] * 6) > 0
    transformer = StridedConv2DTransformer(8, (3, 2), padding="valid", normalize_patches=True)
    assert transformer.fit(np.full((4, 5, 5, 1), 0.8093601412916109)).eps_ == 1.0


@pytest.mark.filterwarnings("ignore:Kernels, whitening:UserWarning", "ignore:About:UserWarning")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    convolutions(),
    st.booleans(),
    st.sampled_from([False, 0.3]),
    st.sampled_from([None, "mean"]),
    st.sampled_from([1, 500, 5000, engine.BLOCK_BYTES]),
    st.sampled_from([None, 2]),
    st.sampled_from([0.0, -0.25]),
)
def test_features_agree_with_explicit_steps(
    case, normalize, whiten, pooling, block_bytes, n_jobs, bias
):
    """Folded kernels agree with loops that normalize, whiten and convolve separately."""
    images, _, options = case
    del options["groups"], options["bias"]
    kernels = np.random.default_rng(0).standard_normal((3, 2, images.shape[3], 2))
    options |= {"padding": "same"}
    transformer = StridedConv2DTransformer(
        kernels=kernels,
        bias=bias,
        normalize_patches=normalize,
        whiten=whiten,
        activation="split",
        pooling=pooling,
        n_jobs=n_jobs,
        **options,
    )
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, block_bytes)
        features = transformer.fit_transform(images)
    sampled = sample(images, **options | {"stride": (1, 1)})
    eps = mean = matrix = None
    if normalize:
        eps = 0.01 * np.mean([(patch - patch[0]).var() for patch in sampled]) or 1.0
        assert transformer.eps_ == pytest.approx(eps, rel=1e-3)
        sampled = np.array([oracle.normalized(patch, eps) for patch in sampled])
    if whiten:
        mean = sampled.mean(axis=0)
        centered = sampled - mean
        covariance = centered.T.dot(centered) / len(sampled)
        variances, directions = np.linalg.eigh(covariance)
        variances += 0.3 * variances.mean() or 1.0
        matrix = directions.dot(np.diag(variances**-0.5)).dot(directions.T)
    responses = oracle.preprocessed_responses(images, kernels, eps, mean, matrix, **options)
    expected = oracle.features(responses, [bias] * 2, "split", pooling, (2, 2))
    gain = 0 if matrix is None else np.linalg.norm(matrix, 2)  # of rounding errors
    scale = max(1.0, np.abs(expected).max(), gain / 100)
    tolerance = 2e-4 if features.dtype == np.float32 else 1e-8
    np.testing.assert_allclose(features, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("factor", [1e-5, 0.1, 2.0, 1e6])
@pytest.mark.parametrize("kernels", ["gaussian", "patches", "kmeans", "pca"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_of_the_images_do_not_matter(factor, kernels, dtype):
    transformer = StridedConv2DTransformer(
        8,
        kernels=kernels,
        normalize_patches=True,
        whiten=True,
        activation="split",
        bias=-0.2,
        random_state=0,
    )
    expected = transformer.fit_transform(IMAGES.astype(dtype))
    features = transformer.fit_transform((IMAGES * factor).astype(dtype))
    tolerance = 1e-3 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(features, expected, atol=tolerance)


@pytest.mark.filterwarnings("ignore:Kernels, whitening:UserWarning", "ignore:About:UserWarning")
@pytest.mark.filterwarnings("ignore:X contains constant images:UserWarning")
def test_constant_patches_become_0():
    images = IMAGES.copy()
    images[:3] = [[[[5.0, 5.0]]], [[[0.0, 0.0]]], [[[3e4, 3e4]]]]
    for dtype in (np.float32, np.float64):
        transformer = StridedConv2DTransformer(
            6, normalize_patches=True, activation="identity", padding="valid", random_state=0
        )
        features = transformer.fit_transform(images.astype(dtype))
        assert not features[:3].any()
        assert features[3:].any()


def test_images_without_any_variance():
    for kernels in ("patches", "kmeans", "pca", "gaussian"):
        transformer = StridedConv2DTransformer(
            4, kernels=kernels, normalize_patches=True, whiten=True, bias="quantile"
        )
        features = transformer.fit_transform(np.full((5, 6, 6), 7.0))
        assert np.isfinite(features).all()
        assert transformer.eps_ == 1.0


@pytest.mark.parametrize(("dtype", "factor"), [("f4", 1e30), ("f4", 1e-25), ("f8", 1e200)])
def test_variances_outside_the_range_of_the_dtype(dtype, factor):
    images = (IMAGES * factor).astype(dtype)
    with pytest.raises(ValueError, match=r"can be computed in float.*divide the images by"):
        StridedConv2DTransformer(normalize_patches=True).fit(images)


def test_a_large_offset_costs_no_precision():
    """A 16-bit sensor around 30,000."""
    images = (30_000 + 50 * RNG.standard_normal((6, 20, 15, 2))).astype(np.uint16)
    transformer = StridedConv2DTransformer(
        16, kernels="patches", normalize_patches=True, whiten=True, padding="valid", random_state=0
    ).fit(images)
    exact = transformer.transform(images.astype(np.float64))
    features = transformer.transform(images)
    assert features.dtype == np.float32
    assert np.abs(features - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("kernels", ["pca", "gaussian"])
def test_the_order_of_the_training_images_changes_nothing_but_the_sample(kernels):
    """If the sample has all windows, the order does not matter."""
    transformer = StridedConv2DTransformer(
        4, kernels=kernels, normalize_patches=True, whiten=True, bias=-0.1, random_state=0
    )
    one = transformer.fit(IMAGES).transform(IMAGES)
    other = transformer.fit(IMAGES[::-1]).transform(IMAGES)
    np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.filterwarnings("ignore:X contains constant images:UserWarning")
def test_nearly_constant_patches_make_no_kernels():
    images = np.zeros((200, 9, 9))
    images[:10] = RNG.random((10, 9, 9))
    transformer = StridedConv2DTransformer(
        50, kernels="patches", padding="valid", n_patches=5000, random_state=0
    ).fit(images)
    lengths = np.linalg.norm(transformer.kernels_.reshape(9, 50), axis=0)
    np.testing.assert_allclose(lengths, 1)


def test_patches_passed_to_initializers():
    parameters = check_window_parameters("test", 1, "same", "edge", 1)
    patches = TrainingPatches(
        images=ArrayImages(IMAGES, IMAGES.shape[1:]),
        place=lambda image: place_windows(image, (3, 2), parameters),
        kernel_size=(3, 2),
        views=SYMMETRIES[None],
        n_patches=500,
        normalize=True,
        whiten=0.1,
        dtype=np.dtype("f4"),
        rng=np.random.RandomState(0),
    )
    varied = len(patches())
    assert 450 < varied < 500  # Patches of the darkest images are left out.
    assert patches().dtype == np.float32
    chosen = patches(100)
    assert len(np.unique(chosen, axis=0)) == 100
    assert patches(2000).shape == (2000, 12)
    known = {tuple(patch) for patch in patches().tolist()}
    assert {tuple(patch) for patch in chosen.tolist()} <= known


def test_quantiles_are_spread_evenly():
    """The fraction of windows in which "step" is 1 is 1 minus the level of the kernel."""
    images = RNG.random((60, 14, 14))
    transformer = StridedConv2DTransformer(
        21,
        kernels="gaussian",
        bias="quantile",
        activation="step",
        padding="valid",
        pool_grid=1,
        random_state=0,
    )
    active = transformer.fit_transform(images).mean(axis=0)
    golden = (1 + 5**0.5) / 2
    np.testing.assert_allclose(active, [1 - (i * golden) % 1 for i in range(1, 22)], atol=0.02)
    assert transformer.bias_.shape == (21,)
    several = transformer.set_params(n_kernels=7, n_biases=3).fit_transform(images).mean(axis=0)
    levels = 1 - several.reshape(3, 7).T.ravel()  # kernel by kernel
    np.testing.assert_allclose(levels, [(i * golden) % 1 for i in range(1, 22)], atol=0.02)
    assert transformer.bias_.shape == (3, 7)


def test_patches_are_drawn_only_if_needed():
    one, other = (
        StridedConv2DTransformer(4, n_patches=n, random_state=0).fit(IMAGES) for n in (1, 100)
    )
    np.testing.assert_array_equal(one.kernels_, other.kernels_)
    assert one.eps_ == 0.0


def test_whitening_of_pixels_whose_squares_are_beyond_float64():
    images = RNG.random((20, 4, 4)) * 1e300
    with pytest.raises(
        ValueError, match=r"whiten needs the squares .* overflow in float64; divide"
    ):
        StridedConv2DTransformer(whiten=True, random_state=0).fit(images)


def test_whitening_beside_an_offset():
    images = np.random.default_rng(0).normal(size=(20, 16, 16))
    plain, shifted = (
        StridedConv2DTransformer(8, whiten=True, random_state=0).fit(images + offset).kernels_
        for offset in (0, 1e8)
    )
    np.testing.assert_allclose(shifted, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


@pytest.mark.filterwarnings("ignore:X contains constant images:UserWarning")
@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 255])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_thresholds_of_flat_regions_are_0(value, dtype):
    images = np.full((12, 16, 16, 3), value, dtype)
    images[:, 5:11, 5:11] = np.random.default_rng(0).normal(size=(12, 6, 6, 3))
    transformer = StridedConv2DTransformer(
        16,
        kernels="uniform",
        normalize_patches=True,
        bias="quantile",
        activation="step",
        padding="valid",
        pool_grid=1,
        random_state=0,
    ).fit(images)
    levels = np.arange(1, 17) * (np.sqrt(5) + 1) / 2 % 1
    found = transformer.transform(np.full((1, 16, 16, 3), value, dtype))
    assert not found[0, (levels > 0.3) & (levels < 0.7)].any()


def test_memory_of_a_long_row():
    images = np.random.default_rng(0).random((1, 1, 1_000_000, 1), np.float32)
    transformer = StridedConv2DTransformer(
        4, (1, 31), kernels="patches", n_patches=1000, random_state=0
    )
    tracemalloc.start()
    transformer.fit(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
