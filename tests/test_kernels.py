import numpy as np
import pytest
from scipy import ndimage

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv.kernels import KERNELS

SHAPES = [(3, 3, 1, 64), (3, 3, 1, 8), (2, 5, 3, 29), (2, 2, 13, 7), (3, 3, 2, 1)]


def make(name, shape, seed=0):
    return KERNELS[name](shape, np.random.RandomState(seed), None)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_the_shape_and_depends_only_on_the_state(name, shape):
    kernels = make(name, shape)
    assert kernels.shape == shape
    assert np.isfinite(kernels).all()
    assert (np.abs(kernels).max(axis=(0, 1, 2)) > 0).all()
    np.testing.assert_array_equal(make(name, shape), kernels)


@pytest.mark.parametrize("name", ["gaussian", "uniform"])
def test_random_kernels_depend_on_the_state(name):
    assert not np.allclose(make(name, SHAPES[0]), make(name, SHAPES[0], seed=1))


@pytest.mark.parametrize("shape", [*SHAPES, (1, 2, 1, 1), (1, 1, 3, 5)])
def test_gaussian_has_mean_0_and_length_1(shape):
    kernels = make("gaussian", shape).reshape(-1, shape[3])
    np.testing.assert_allclose(kernels.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose((kernels**2).sum(axis=0), 1)
    if shape[3] < len(kernels):
        np.testing.assert_allclose(kernels.T @ kernels, np.eye(shape[3]), atol=1e-12)


def test_gaussian_of_one_weight():
    kernels = make("gaussian", (1, 1, 1, 50))
    assert set(kernels.ravel()) == {-1.0, 1.0}


@pytest.mark.parametrize("n_kernels", [8, 64])
def test_gaussian_answers_noise_of_unit_variance_with_unit_variance(n_kernels):
    images = np.random.default_rng(0).standard_normal((50, 20, 20))
    maps = StridedConv2DTransformer(
        n_kernels, padding="valid", activation="identity", pooling=None, random_state=0
    ).fit_transform(images)
    assert maps.mean() == pytest.approx(0, abs=0.02)
    assert maps.std() == pytest.approx(1, abs=0.02)


def test_gaussian_kernels_point_anywhere():
    """No weight is larger than another on the mean, with and without orthogonal kernels."""
    for n_kernels in (4, 40):
        squares = np.mean([make("gaussian", (2, 3, 1, n_kernels), s) ** 2 for s in range(400)], 0)
        np.testing.assert_allclose(squares.mean(axis=3), 1 / 6, rtol=0.1)
        means = np.mean([make("gaussian", (2, 3, 1, n_kernels), s) for s in range(400)], 0)
        assert np.abs(means).max() < 0.1


def test_uniform_has_the_variance_it_says():
    kernels = make("uniform", (5, 5, 2, 4000))
    assert kernels.var() == pytest.approx(1 / 50, rel=0.02)
    assert np.abs(kernels).max() <= np.sqrt(3 / 50)


def test_sobel_agrees_with_scipy():
    image = np.random.default_rng(0).standard_normal((9, 8))
    maps = StridedConv2DTransformer(
        2, kernels="sobel", activation="identity", pooling=None, flatten=False
    ).fit_transform(image[np.newaxis])
    for kernel, axis in enumerate((1, 0)):
        expected = ndimage.sobel(image, axis=axis, mode="constant")
        np.testing.assert_allclose(maps[0, :, :, kernel], expected, atol=1e-12)


def test_sobel_sees_one_channel_at_a_time():
    kernels = make("sobel", (3, 3, 3, 6))
    gray = make("sobel", (3, 3, 1, 2))
    for kernel in range(6):
        for channel in range(3):
            expected = gray[:, :, 0, kernel // 3] * (channel == kernel % 3)
            np.testing.assert_array_equal(kernels[:, :, channel, kernel], expected)


def test_sobel_directions_are_steered():
    """The response to a ramp is the cosine of the angle to its direction."""
    y, x = np.mgrid[-1:2, -1:2]
    kernels = make("sobel", (3, 3, 1, 6))[:, :, 0]
    for kernel in range(6):
        for degrees in (0, 20, 110):
            ramp = np.cos(np.deg2rad(degrees)) * x + np.sin(np.deg2rad(degrees)) * y
            response = (kernels[:, :, kernel] * ramp).sum() / 8
            assert response == pytest.approx(np.cos(np.deg2rad(30 * kernel - degrees)))


@pytest.mark.parametrize("size", [(1, 3), (3, 1), (1, 1)])
def test_sobel_needs_room(size):
    transformer = StridedConv2DTransformer(kernel_size=size, kernels="sobel")
    with pytest.raises(ValueError, match=r"kernel_size of at least \(2, 2\)"):
        transformer.fit(np.zeros((1, 5, 5)))
