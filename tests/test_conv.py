import tracemalloc

import numpy as np
import oracle
import pytest
from helpers import small_blocks
from hypothesis import example, given
from hypothesis import strategies as st
from joblib import parallel_config
from scipy.signal import correlate2d
from strategies import ORDERS, convolutions, in_order

from sklearn_conv import conv2d
from sklearn_conv._engine import choice, native_engine, numpy_engine
from sklearn_conv._engine.threads import run_tasks


@given(convolutions())
def test_agrees_with_loops(case):
    images, kernels, options = case
    maps = conv2d(images, kernels, **options)
    expected = oracle.conv2d(images, kernels, **options)
    assert maps.shape == expected.shape
    assert maps.flags.c_contiguous
    scale = max(1.0, np.abs(expected).max())
    tolerance = 1e-5 if maps.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(maps, expected, rtol=0, atol=tolerance * scale)


@given(convolutions(), st.integers(1, 20_000))
@example((np.ones((2, 9, 9, 1)), np.ones((3, 3, 1, 2)), {"padding": (5, 5)}), 1)
def test_result_does_not_depend_on_the_block_size(case, block_bytes):
    images, kernels, options = case
    expected = conv2d(images, kernels, **options)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, block_bytes)
        maps = conv2d(images, kernels, **options)
    scale = max(1.0, np.abs(expected).max())
    tolerance = 1e-5 if maps.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(maps, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("boundary", ["fill", "symm", "wrap"])
def test_agrees_with_scipy(boundary):
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((9, 11)), rng.standard_normal((3, 5))
    maps = conv2d(
        image[np.newaxis, :, :, np.newaxis],
        kernel[:, :, np.newaxis, np.newaxis],
        padding="same",
        padding_mode={"fill": "constant", "symm": "symmetric", "wrap": "wrap"}[boundary],
    )
    expected = correlate2d(image, kernel, mode="same", boundary=boundary)
    np.testing.assert_allclose(maps[0, :, :, 0], expected, atol=1e-12)


def test_agrees_with_scipy_valid_and_channels():
    rng = np.random.default_rng(0)
    images, kernels = rng.standard_normal((2, 6, 7, 3)), rng.standard_normal((2, 3, 3, 4))
    maps = conv2d(images, kernels)
    for image in range(2):
        for kernel in range(4):
            expected = sum(
                correlate2d(images[image, :, :, c], kernels[:, :, c, kernel], mode="valid")
                for c in range(3)
            )
            np.testing.assert_allclose(maps[image, :, :, kernel], expected, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 0)])
def test_a_delta_kernel_gives_a_strided_crop(stride, place):
    images = np.random.default_rng(0).standard_normal((2, 8, 9, 1)).astype(np.float32)
    kernel = np.zeros((3, 3, 1, 1))
    kernel[place] = 1
    rows, columns = stride if isinstance(stride, tuple) else (stride, stride)
    crop = images[:, place[0] : 6 + place[0], place[1] : 7 + place[1]]
    np.testing.assert_array_equal(conv2d(images, kernel, stride), crop[:, ::rows, ::columns])


def test_number_of_windows_with_stride_2():
    maps = conv2d(np.zeros((1, 5, 5, 1)), np.zeros((3, 3, 1, 1)), stride=2)
    assert maps.shape == (1, 2, 2, 1)


def test_groups_of_one_channel_are_depthwise():
    rng = np.random.default_rng(0)
    images, kernels = rng.standard_normal((2, 5, 5, 3)), rng.standard_normal((3, 3, 1, 3))
    maps = conv2d(images, kernels, groups=3)
    for c in range(3):
        alone = conv2d(images[..., [c]], kernels[..., [c]])
        np.testing.assert_allclose(maps[..., [c]], alone, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        *[(name, "float32") for name in ["bool", "i1", "u1", "i2", "u2", "f2", "f4", ">f4"]],
        *[(name, "float64") for name in ["i4", "u4", "i8", "u8", "f8", ">f8", "longdouble"]],
    ],
)
def test_dtype_follows_the_images(dtype, expected):
    images = np.ones((1, 3, 3, 1), dtype)
    maps = conv2d(images, np.ones((2, 2, 1, 1)), bias=[0.5])
    assert maps.dtype == np.dtype(expected)
    np.testing.assert_array_equal(maps, 4.5)


@pytest.mark.parametrize("order", ORDERS)
def test_input_is_not_changed(order):
    rng = np.random.default_rng(0)
    images, kernels = rng.standard_normal((2, 5, 6, 2)), rng.standard_normal((3, 3, 2, 2))
    bias = np.ones(2)
    images, kernels = in_order(images, order), in_order(kernels, order)
    copies = images.copy(), kernels.copy(), bias.copy()
    state = np.random.get_state()[1].copy()
    conv2d(images, kernels, bias=bias, padding="same")
    for array, copy in zip((images, kernels, bias), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_lists_and_memory_maps(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 6, 6, 1), np.uint8)
    np.save(tmp_path / "images.npy", images)
    kernels = np.ones((2, 2, 1, 1))
    expected = conv2d(images, kernels)
    mapped = conv2d(np.load(tmp_path / "images.npy", mmap_mode="r"), kernels)
    assert type(mapped) is np.ndarray
    np.testing.assert_array_equal(mapped, expected)
    np.testing.assert_array_equal(conv2d(images.tolist(), kernels.tolist()), expected)


def test_no_images_give_no_maps():
    assert conv2d(np.zeros((0, 5, 5, 1)), np.zeros((3, 3, 1, 2))).shape == (0, 3, 3, 2)


@pytest.mark.parametrize("library", [True, False])
def test_nan_leaves_the_offset_of_others(library, monkeypatch):
    if not library:
        monkeypatch.setattr(choice, "LIBRARY", None)
    rng = np.random.default_rng(0)
    images = (60_000 + rng.normal(size=(1, 12, 12, 1))).astype(np.float32)
    kernels = rng.normal(size=(3, 3, 1, 4))
    kernels -= kernels.mean(axis=(0, 1))
    expected = conv2d(images, kernels)
    images[0, 6, 6] = np.nan
    images[0, [0, 0, -1, -1], [0, -1, 0, -1]] = np.nan
    found = conv2d(images, kernels)
    is_known = np.isfinite(found)
    assert 0 < is_known.mean() < 1
    np.testing.assert_allclose(found[is_known], expected[is_known], atol=1e-4)


def test_masked_values_are_refused():
    da = pytest.importorskip("dask.array")
    masked = np.ma.masked_equal(np.arange(32.0).reshape(2, 4, 4, 1), 4)
    for images in (masked, [*masked], da.from_array(masked)):
        with pytest.raises(ValueError, match="masked values"):
            conv2d(images, np.ones((3, 3, 1, 1)))


def test_nan_affects_only_the_windows_that_contain_it():
    image = np.zeros((1, 5, 5, 1))
    image[0, 0, 0] = np.nan
    maps = conv2d(image, np.ones((2, 2, 1, 1)))
    assert np.argwhere(np.isnan(maps)).tolist() == [[0, 0, 0, 0]]


def test_large_numbers_give_no_warning():
    images = np.full((1, 5, 5, 1), 1e38, np.float32)
    images[0, 2] = -1e38
    maps = conv2d(images, np.full((2, 2, 1, 1), 0.1))
    np.testing.assert_allclose(maps[0, :, 0, 0], [4e37, 0, 0, 4e37], atol=1e31)


def test_never_reads_outside_the_images():
    """The images are surrounded by NaN in memory; no padding mode may read it."""
    more = np.full((3, 9, 9, 2), np.nan)
    images = more[1:2, 2:-2, 2:-2]
    images[...] = 1
    for mode in ("constant", "edge", "reflect", "symmetric", "wrap"):
        maps = conv2d(images, np.ones((4, 4, 2, 1)), padding=7, padding_mode=mode)
        assert np.isfinite(maps).all()


@pytest.mark.parametrize(
    ("shape", "size", "options"),
    [
        ((20, 224, 224, 1), (5, 5, 1, 16), {"padding": "same"}),
        ((1, 700, 1000, 1), (5, 5, 1, 16), {"padding": "same", "padding_mode": "reflect"}),
        ((1, 4, 1_000_000, 1), (3, 3, 1, 4), {"padding": "same", "padding_mode": "wrap"}),
        ((100, 300, 300, 1), (3, 3, 1, 1), {"dilation": 149}),
        ((20, 200, 2000, 1), (200, 1, 1, 1), {"stride": (1, 200)}),
        ((20, 1000, 1000, 1), (2, 2, 1, 1), {"stride": 400}),
    ],
    ids=["many images", "a large image", "a long row", "dilation", "high kernels", "strides"],
)
def test_memory_beyond_the_result_is_a_few_megabytes(shape, size, options):
    images, kernels = np.zeros(shape, np.float32), np.zeros(size)
    tracemalloc.start()
    try:
        maps = conv2d(images, kernels, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    index_bytes = 8 * (shape[1] + shape[2])
    assert peak - maps.nbytes - 3 * index_bytes < 16e6


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_joblib_decides_how_many_threads_convolve(n_jobs, monkeypatch):
    small_blocks(monkeypatch, 1000)
    seen = []

    def watch(function, tasks, workers):
        seen.append(workers)
        return run_tasks(function, tasks, workers)

    for module in (native_engine, numpy_engine):
        monkeypatch.setattr(module, "run_tasks", watch)
    images, kernels = np.ones((20, 9, 9, 1)), np.ones((3, 3, 1, 2))
    expected = conv2d(images, kernels)
    with parallel_config("threading", n_jobs=n_jobs):
        np.testing.assert_array_equal(conv2d(images, kernels), expected)
    assert seen == [1, n_jobs]
