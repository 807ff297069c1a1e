import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ORDERS, in_order, pairs

from sklearn_conv.windows import sample_patches, strided_windows


@given(
    st.tuples(st.integers(1, 3), st.integers(7, 9), st.integers(7, 9), st.integers(1, 3)),
    pairs,
    pairs,
    pairs,
    st.sampled_from(ORDERS),
)
def test_windows_are_the_pixels_that_loops_find(shape, kernel_size, stride, dilation, order):
    images = in_order(np.arange(np.prod(shape)).reshape(shape), order)
    windows = strided_windows(images, kernel_size, stride, dilation)
    rows, columns = (
        oracle.starts(shape[axis + 1], kernel_size[axis], stride[axis], dilation[axis])
        for axis in (0, 1)
    )
    assert windows.shape == (shape[0], len(rows), len(columns), *kernel_size, shape[3])
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            for i, j in np.ndindex(kernel_size):
                pixel = images[:, row + i * dilation[0], column + j * dilation[1]]
                np.testing.assert_array_equal(windows[:, r, c, i, j], pixel)


@pytest.mark.parametrize("order", ORDERS)
def test_windows_are_a_read_only_view(order):
    images = in_order(np.zeros((2, 6, 5, 3)), order)
    windows = strided_windows(images, (3, 2), (2, 1), (1, 2))
    assert np.shares_memory(windows, images)
    assert not windows.flags.writeable


def test_patches_are_windows_of_the_images():
    images = np.random.default_rng(0).integers(0, 255, (5, 6, 7, 2))
    dilation = (1, 2)
    windows = strided_windows(images, (3, 2), dilation=dilation).reshape(-1, 12)
    known = {tuple(window) for window in windows.tolist()}
    patches = sample_patches(images, 400, (3, 2), dilation, np.random.RandomState(0))
    assert patches.shape == (400, 12)
    drawn = {tuple(patch) for patch in patches.tolist()}
    assert drawn <= known
    assert len(drawn) > 80  # of 100 places, from all over the images
