"""float32 is as good as its numbers allow, wherever the large ones are."""

import warnings

import numpy as np
import pytest
from helpers import small_blocks
from hypothesis import given
from hypothesis import strategies as st

from sklearn_conv import StridedConv2DTransformer, conv2d
from sklearn_conv._engine.pooling import join_positions

DELTA = np.zeros((3, 3, 1, 1), np.float32)
DELTA[1, 1] = 1
RNG = np.random.default_rng(0)
pytestmark = pytest.mark.filterwarnings("ignore:About .* of the values of X are:UserWarning")


def windows_of(images, kernels, padding):
    """Responses in float64, and those of the absolute values: the scale of rounding."""
    exact = conv2d(images.astype(np.float64), kernels.astype(np.float64), padding=padding)
    scale = conv2d(np.abs(images.astype(np.float64)), np.abs(kernels), padding=padding)
    return exact, scale


@pytest.mark.parametrize("fill", [1e20, -3.4e38, 9.97e36, -9999.0, 1e6, -1e4, np.float32(3e38)])
@pytest.mark.parametrize("place", ["right", "left", "bottom", "hole", "single rows"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_fill_value_does_not_reach_other_pixels(fill, place, padding):
    images = np.full((2, 64, 64, 1), fill, np.float32)
    part = {
        "right": np.s_[:, :, 57:],
        "left": np.s_[:, :, :9],
        "bottom": np.s_[:, 50:],
        "hole": np.s_[:, 20:40, 17:31],
        "single rows": np.s_[:, 5::8],
    }[place]
    images[part] = RNG.random(images[part].shape)
    maps = conv2d(images, DELTA, padding=padding)
    expected = images if padding == "same" else images[:, 1:-1, 1:-1]
    np.testing.assert_array_equal(maps, expected)
    kernels = RNG.standard_normal((3, 3, 1, 4)).astype(np.float32)
    with np.errstate(over="ignore"):
        exact, scale = windows_of(images, kernels, padding)
        maps = conv2d(images, kernels, padding=padding)
    is_finite = scale < np.finfo(np.float32).max / 4
    assert (np.abs(maps - exact)[is_finite] <= 3e-6 * scale[is_finite]).all()


def test_a_mean_next_to_a_fill_value():
    images = np.full((1, 64, 64, 1), 1e20, np.float32)
    images[:, :, 40:] = RNG.random((1, 64, 24, 1))
    transformer = StridedConv2DTransformer(
        kernels=np.full((3, 3, 1, 1), 1 / 9), padding="valid", pool_grid=(1, 4)
    ).fit(images)
    exact = transformer.transform(images.astype(np.float64))
    np.testing.assert_allclose(transformer.transform(images), exact, rtol=1e-6)
    assert exact[0, -1] < 1


@pytest.mark.parametrize("offset", [30_000, -20_000, 65_000])
@pytest.mark.parametrize("n_images", [1, 3])
def test_windows_of_padding_only_are_exactly_0(offset, n_images):
    dtype = np.uint16 if offset > 0 else np.int16
    images = (offset + RNG.integers(0, 50, (n_images, 12, 13, 2))).astype(dtype)
    kernels = RNG.standard_normal((3, 3, 2, 5)).astype(np.float32)
    maps = conv2d(images, kernels, padding=(5, 4))
    assert not maps[:, :2].any()
    assert not maps[:, :, -1].any()
    exact, scale = windows_of(images, kernels, (5, 4))
    assert (np.abs(maps - exact) <= 1e-6 * scale).all()
    inner = np.s_[:, 5:-5, 4:-4]  # no padding: as precise as without the offset
    small = conv2d((images.astype(int) - offset).astype(dtype), np.abs(kernels), padding=(5, 4))
    sums = np.abs(offset * kernels.sum(axis=(0, 1, 2), dtype=np.float64))
    assert (np.abs(maps - exact)[inner] <= 1e-6 * (np.abs(small[inner]) + sums)).all()


@pytest.mark.parametrize("value", [1.0, 0.1, 1e-3, 255.0, 30_000.0])
@pytest.mark.parametrize(("n_images", "size"), [(1, 48), (7, 48), (1, 512)])
@pytest.mark.parametrize("activation", ["relu", "split", "square", "identity"])
def test_means_of_flat_images(value, n_images, activation, size):
    images = np.full((n_images, size, size, 1), value, np.float32)
    kernels = np.full((3, 3, 1, 3), 1 / 9, np.float32) * np.array([1, 0.3, -1], np.float32)
    transformer = StridedConv2DTransformer(
        kernels=kernels, padding="valid", activation=activation, pooling=["mean", "sum"]
    ).fit(images)
    exact = transformer.transform(images.astype(np.float64))
    features = transformer.transform(images)
    np.testing.assert_allclose(features, exact, rtol=1e-6)


def test_means_of_a_flat_background_with_a_few_spots():
    images = np.full((2, 400, 300, 1), 240, np.uint8)
    images[:, ::37, ::41] = 10
    transformer = StridedConv2DTransformer(
        kernels=np.full((5, 5, 1, 1), 0.04), padding_mode="edge", pool_grid=(1, 2)
    ).fit(images)
    exact = transformer.transform(images.astype(np.float64))
    np.testing.assert_allclose(transformer.transform(images), exact, rtol=1e-6)
    alone = np.concatenate([transformer.transform(image[np.newaxis]) for image in images])
    np.testing.assert_allclose(transformer.transform(images), alone, rtol=1e-6)


@pytest.mark.parametrize("bias", [0.0, -1e-4])
@pytest.mark.parametrize("weak", [1e-6, 1e-3])
def test_the_weak_side_of_a_split_is_as_good_as_its_relu(bias, weak):
    """Strongly positive almost everywhere, and weakly negative at a few windows."""
    images = 1 + RNG.random((3, 60, 50, 1), np.float32)
    images[:, 10:13, ::17] = -weak
    kernels = np.ones((1, 1, 1, 1), np.float32)
    options = {"kernels": kernels, "bias": bias, "pool_grid": 1}
    split = StridedConv2DTransformer(activation="split", **options).fit(images)
    positive, negative = split.transform(images).T
    for side, sign in ((positive, 1), (negative, -1)):
        relu = StridedConv2DTransformer(**options | {"kernels": sign * kernels}).fit(images)
        exact = relu.transform(images.astype(np.float64))[:, 0]
        np.testing.assert_allclose(side, exact, rtol=2e-6)


@given(st.integers(1, 5000), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e5, -3.0]))
def test_sums_of_any_number_of_positions(n_positions, seed, offset):
    values = np.random.default_rng(seed).random((n_positions, 2, 3), np.float32)
    values += np.float32(offset)
    exact = values.astype(np.float64).sum(axis=0)
    joined = join_positions(np.add, values)
    assert joined.dtype == np.float64
    np.testing.assert_allclose(joined, exact, rtol=1e-6)


def test_the_result_does_not_depend_on_blocks_next_to_a_fill_value(monkeypatch):
    images = (30_000 + RNG.integers(0, 60, (4, 40, 33, 2))).astype(np.float32)
    images[1, :, 20:] = -9999
    images[2, :3] = 1e30
    transformer = StridedConv2DTransformer(8, 3, random_state=0, pool_grid=3).fit(images)
    expected = transformer.transform(images)
    alone = np.concatenate([transformer.transform(image[np.newaxis]) for image in images])
    for block_bytes in (1, 5_000, 60_000):
        small_blocks(monkeypatch, block_bytes)
        for other in (transformer.transform(images), alone):
            np.testing.assert_allclose(other, expected, rtol=2e-5)


@pytest.mark.filterwarnings("ignore:The values of X are:UserWarning")
@pytest.mark.parametrize("value", [1e19, 1e20, -9.97e36, 1.5e38])
@pytest.mark.parametrize("place", [np.s_[:], np.s_[0, 2:4, 3], np.s_[1]])
@pytest.mark.parametrize("pooling", ["mean", "max", None])
def test_normalized_windows_of_large_numbers(value, place, pooling):
    """The squares overflow in float32, but the features do not."""
    images = RNG.random((4, 9, 11, 2), np.float32)
    transformer = StridedConv2DTransformer(
        6, activation="identity", pooling=pooling, normalize_patches=True, random_state=0
    ).fit(images)
    images[place] *= np.float32(value)
    exact = transformer.transform(images.astype(np.float64))
    np.testing.assert_allclose(transformer.transform(images), exact, atol=5e-6)


@pytest.mark.parametrize("pool_grid", [1, [2, 1, 3]])
@pytest.mark.parametrize("pooling", ["mean", "sum", ["mean", "max"]])
def test_means_are_finite_where_sums_of_responses_are_not(pooling, pool_grid):
    images = RNG.random((3, 30, 40, 1), np.float32)
    images[1] *= np.float32(1e38)
    transformer = StridedConv2DTransformer(kernels=DELTA, pooling=pooling, pool_grid=pool_grid)
    transformer.fit(images)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        features = transformer.transform(images)
    with np.errstate(over="ignore"):
        exact = transformer.transform(images.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(features, exact, rtol=2e-6)
    has_warned = any("Some features are infinite" in str(each.message) for each in caught)
    assert has_warned == np.isinf(features).any() == (pooling == "sum")
