import numpy as np
import pytest
from scipy import fft, ndimage
from sklearn.decomposition import PCA

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv.kernels._initializers import KERNELS

SHAPES = [(3, 3, 1, 64), (3, 3, 1, 8), (2, 5, 3, 29), (2, 2, 13, 7), (3, 3, 2, 1), (7, 6, 2, 64)]
BASES = ("dct", "haar", "pca")


def make(name, shape, seed=0):
    rng = np.random.RandomState(seed)
    sample = np.cumsum(np.random.RandomState(1).standard_normal((300, np.prod(shape[:3]))), axis=1)

    def patches(n=None):
        return sample if n is None else sample[rng.choice(len(sample), n, replace=False)]

    return KERNELS[name](shape, rng, patches)


def refuses(name, shape):
    n_weights, smallest = np.prod(shape[:3]), min(shape[:2])
    return (name in BASES and shape[3] > n_weights) or (
        smallest < {"sobel": 2, "gabor": 3, "laplace": 3}.get(name, 1)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_the_shape_and_depends_only_on_the_state(name, shape):
    if refuses(name, shape):
        with pytest.raises(ValueError, match=rf"kernels='{name}' .*; use .*kernel_size"):
            make(name, shape)
        return
    kernels = make(name, shape)
    assert kernels.shape == shape
    assert np.isfinite(kernels).all()
    assert (np.abs(kernels).max(axis=(0, 1, 2)) > 0).all()
    np.testing.assert_array_equal(make(name, shape), kernels)


@pytest.mark.parametrize("name", ["gaussian", "uniform", "patches", "kmeans"])
def test_random_kernels_depend_on_the_state(name):
    assert not np.allclose(make(name, SHAPES[0]), make(name, SHAPES[0], seed=1))


@pytest.mark.parametrize("shape", [*SHAPES, (1, 2, 1, 1), (1, 1, 3, 5)])
def test_gaussian_has_zero_mean_and_unit_norm(shape):
    kernels = make("gaussian", shape).reshape(-1, shape[3])
    np.testing.assert_allclose(kernels.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose((kernels**2).sum(axis=0), 1)
    if shape[3] < len(kernels):
        np.testing.assert_allclose(kernels.T @ kernels, np.eye(shape[3]), atol=1e-12)


def test_gaussian_of_one_weight():
    kernels = make("gaussian", (1, 1, 1, 50))
    assert set(kernels.ravel()) == {-1.0, 1.0}


@pytest.mark.parametrize("n_kernels", [8, 64])
def test_responses_of_gaussian_to_noise_have_unit_variance(n_kernels):
    images = np.random.default_rng(0).standard_normal((50, 20, 20))
    maps = StridedConv2DTransformer(
        n_kernels, padding="valid", activation="identity", pooling=None, random_state=0
    ).fit_transform(images)
    assert maps.mean() == pytest.approx(0, abs=0.02)
    assert maps.std() == pytest.approx(1, abs=0.02)


def test_gaussian_has_no_preferred_direction():
    """All weights have the same distribution, with and without orthogonal kernels."""
    for n_kernels in (4, 40):
        squares = np.mean([make("gaussian", (2, 3, 1, n_kernels), s) ** 2 for s in range(400)], 0)
        np.testing.assert_allclose(squares.mean(axis=3), 1 / 6, rtol=0.1)
        means = np.mean([make("gaussian", (2, 3, 1, n_kernels), s) for s in range(400)], 0)
        assert np.abs(means).max() < 0.1


def test_uniform_has_the_documented_variance():
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


@pytest.mark.parametrize("name", ["sobel", "gabor", "laplace", "dct", "haar"])
def test_fixed_kernels_see_one_channel_at_a_time(name):
    kernels = make(name, (3, 4, 3, 6))
    gray = make(name, (3, 4, 1, 2))
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
def test_sobel_needs_a_kernel_size_of_at_least_2(size):
    transformer = StridedConv2DTransformer(kernel_size=size, kernels="sobel")
    with pytest.raises(ValueError, match=r"kernel_size of at least \(2, 2\)"):
        transformer.fit(np.zeros((1, 5, 5)))


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("shape", [(4, 4, 1, 16), (3, 5, 2, 30), (1, 7, 1, 7), (6, 2, 1, 5)])
def test_bases_are_orthonormal(name, shape):
    kernels = make(name, shape).reshape(-1, shape[3])
    np.testing.assert_allclose(kernels.T @ kernels, np.eye(shape[3]), atol=1e-12)


def test_dct_agrees_with_scipy():
    window = np.random.default_rng(0).standard_normal((5, 4))
    kernels = make("dct", (5, 4, 1, 20))[:, :, 0]
    found = np.tensordot(window, kernels, 2)
    expected = fft.dctn(window, norm="ortho")
    order = sorted(np.ndindex(5, 4), key=lambda frequencies: (sum(frequencies), frequencies))
    np.testing.assert_allclose(found, [expected[place] for place in order], atol=1e-12)


def test_haar_of_four_pixels():
    kernels = make("haar", (1, 4, 1, 4)).reshape(4, 4).T
    half, root = 0.5, 0.5**0.5
    expected = [[half] * 4, [half, half, -half, -half], [root, -root, 0, 0], [0, 0, root, -root]]
    np.testing.assert_allclose(kernels, expected)


def test_haar_of_three_pixels():
    kernels = make("haar", (3, 1, 1, 3)).reshape(3, 3).T
    expected = [[3**-0.5] * 3, [6**-0.5, 6**-0.5, -((2 / 3) ** 0.5)], [0.5**0.5, -(0.5**0.5), 0]]
    np.testing.assert_allclose(kernels, expected)


def test_haar_is_in_the_order_of_the_sum_of_levels():
    kernels = make("haar", (2, 4, 1, 8))[:, :, 0]
    down = {0: [0.5**0.5, 0.5**0.5], 1: [0.5**0.5, -(0.5**0.5)]}
    across = make("haar", (1, 4, 1, 4)).reshape(4, 4).T  # The levels are 0, 1, 2 and 2.
    order = [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    for kernel, (u, v) in enumerate(order):
        np.testing.assert_allclose(kernels[:, :, kernel], np.outer(down[u], across[v]))


def test_gabor_is_a_bank_over_frequencies_and_orientations():
    """A filter responds most strongly to the wave with its own frequency and orientation."""
    kernels = make("gabor", (15, 15, 1, 64))[:, :, 0]
    y, x = np.mgrid[-7:8, -7:8]
    frequencies, angles = np.geomspace(1, 7.5, 9)[1::2] / 15, np.pi * np.arange(8) / 8
    waves = [
        np.exp(2j * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y))
        for frequency in frequencies
        for angle in angles
    ]
    responses = np.abs(np.tensordot(np.array(waves), kernels, 2)).reshape(32, 32, 2)
    for phase in range(2):
        np.testing.assert_array_equal(responses[:, :, phase].argmax(axis=1), np.arange(32))


def test_gabor_and_laplace_have_zero_mean_and_unit_norm():
    for name in ("gabor", "laplace"):
        kernels = make(name, (5, 7, 2, 40)).sum(axis=2).reshape(35, 40)
        np.testing.assert_allclose(kernels.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose((kernels**2).sum(axis=0), 1)


def test_laplace_agrees_with_scipy():
    image = np.zeros((31, 31))
    image[15, 15] = 1
    kernels = make("laplace", (21, 21, 1, 3))[:, :, 0]
    for kernel, deviation in enumerate(np.geomspace(0.5, 21 / 4, 7)[1::2]):
        expected = ndimage.gaussian_laplace(image, deviation)[5:26, 5:26]
        agreement = np.corrcoef(kernels[:, :, kernel].ravel(), expected.ravel())[0, 1]
        assert agreement > 0.98
        assert kernels[10, 10, kernel] < 0


@pytest.mark.parametrize("shape", [(4, 4, 1, 9), (3, 3, 2, 18)])
def test_pca_agrees_with_scikit_learn(shape):
    sample = np.random.RandomState(0).standard_normal((500, np.prod(shape[:3])))
    sample *= np.arange(1, sample.shape[1] + 1)
    kernels = KERNELS["pca"](shape, None, lambda: sample).reshape(-1, shape[3])
    expected = PCA(shape[3]).fit(sample).components_.T
    np.testing.assert_allclose(np.abs(kernels), np.abs(expected), atol=1e-8)
    assert (kernels.max(axis=0) == np.abs(kernels).max(axis=0)).all()


@pytest.mark.parametrize("name", ["patches", "kmeans"])
@pytest.mark.parametrize("shape", [(3, 3, 2, 20), (1, 1, 3, 5), (1, 1, 1, 2)])
def test_patches_and_centers_have_zero_mean_and_unit_norm(name, shape):
    kernels = make(name, shape).reshape(-1, shape[3])
    np.testing.assert_allclose((kernels**2).sum(axis=0), 1)
    if len(kernels) > 1:
        np.testing.assert_allclose(kernels.mean(axis=0), 0, atol=1e-12)


def test_kmeans_finds_clusters():
    rng = np.random.RandomState(0)
    centers = rng.standard_normal((5, 36))
    centers -= centers.mean(axis=1, keepdims=True)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    lengths = rng.choice([0.1, 1.0, 10.0], (2000, 1))  # Spherical k-means ignores the norms.
    sample = lengths * (centers[rng.randint(5, size=2000)] + 0.02 * rng.standard_normal((2000, 36)))
    kernels = KERNELS["kmeans"]((6, 6, 1, 5), rng, lambda: sample).reshape(36, 5)
    assert ((centers @ kernels).max(axis=1) > 0.99).all()


@pytest.mark.filterwarnings("error")
def test_kmeans_with_fewer_patches_than_kernels():
    images = np.random.default_rng(0).random((2, 5, 5))
    kernels = StridedConv2DTransformer(40, kernels="kmeans", random_state=0).fit(images).kernels_
    assert 10 < len(np.unique(kernels.reshape(9, 40), axis=1).T) <= 18
    images = np.tile(images[:1], (10, 1, 1))  # There are many patches, but only 9 distinct ones.
    kernels = StridedConv2DTransformer(40, kernels="kmeans", random_state=0).fit(images).kernels_
    assert np.isfinite(kernels).all()


def test_patches_beside_an_offset_are_centered():
    rng = np.random.default_rng(0)
    images = (101_325 + 50 * rng.normal(size=(20, 16, 16, 3))).astype(np.float32)
    for kernels, n in (("patches", 8), ("kmeans", 4000)):  # more kernels than patches
        transformer = StridedConv2DTransformer(
            n, kernels=kernels, n_patches=3000, random_state=0
        ).fit(images)
        sums = transformer.kernels_.sum(axis=(0, 1, 2), dtype=np.float64)
        assert 101_325 * np.abs(sums).max() < 0.5
