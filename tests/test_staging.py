"""The copies that the engine multiplies agree with the windows of a padded image."""

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ORDERS, in_order

from sklearn_conv._engine import numpy_engine
from sklearn_conv._engine.geometry import PADDING_MODES, WindowParameters, place_windows
from sklearn_conv._engine.numpy_engine import BlockWindows
from sklearn_conv._engine.threads import Workspace


@st.composite
def blocks(draw):
    """Draw the windows of a block, and their pixels, (rows, columns, b, kh, kw, c)."""
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    size, stride, dilation = draw(pair), draw(pair), draw(pair)
    mode = draw(st.sampled_from(sorted(PADDING_MODES)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 3)), *(draw(st.integers(7, 12)) for _ in range(2)), 2
    images = in_order(rng.standard_normal(shape), draw(st.sampled_from(ORDERS)))
    padding = draw(pair)
    geometry = place_windows(shape[1:3], size, WindowParameters(stride, padding, mode, dilation))
    spans = []
    for n_windows in geometry.output_shape:
        start = draw(st.integers(0, n_windows - 1))
        spans.append((start, draw(st.integers(start + 1, n_windows))))
    windows = BlockWindows(
        images=images,
        rows=geometry.rows.reach(spans[0]),
        columns=geometry.columns.reach(spans[1]),
        dtype=np.dtype("f8"),
        by_image=draw(st.booleans()),
    )
    span = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    seen = np.empty((*(b - a for a, b in spans), shape[0], *size, 2))
    for i, image in enumerate(images):
        padded = oracle.pad(image, padding, mode, span, stride)
        for r in range(*spans[0]):
            for c in range(*spans[1]):
                patch = oracle.patch(padded, r * stride[0], c * stride[1], *size, dilation)
                seen[r - spans[0][0], c - spans[1][0], i] = patch
    return windows, seen


def matrix(windows, seen, n_ones):
    """Return a matrix whose columns are the windows; ones follow each row of weights."""
    oh, ow, b, kh, kw, c = seen.shape
    lines = seen.reshape(oh, ow, b, kh, kw * c)
    lines = np.concatenate([lines, np.ones((oh, ow, b, kh, n_ones))], axis=4).reshape(oh, ow, b, -1)
    order = (3, 2, 0, 1) if windows.by_image else (3, 0, 1, 2)
    return lines.transpose(order)


@given(blocks(), st.integers(0, 1))
def test_copied_windows_are_what_the_kernels_see(block, n_ones):
    windows, seen = block
    workspace = Workspace()
    pixels = numpy_engine.copy_pixels(windows, workspace)
    runs = numpy_engine.copy_runs(pixels, windows, n_ones, workspace)
    expected = matrix(windows, seen, n_ones)
    copied = numpy_engine.copy_patches(runs, windows, workspace, n_constants=3)
    assert len(copied) == len(expected) + 3
    np.testing.assert_array_equal(copied[:-3], expected.reshape(len(expected), -1))
    if not windows.by_image:
        viewed = numpy_engine.view_patches(runs, windows.rows)  # (rows, d, columns * b)
        in_rows = expected.transpose(1, 0, 2, 3).reshape(len(viewed), len(expected), -1)
        np.testing.assert_array_equal(viewed, in_rows)


def test_windows_are_a_view_of_their_runs():
    images = np.zeros((2, 6, 5, 1))
    geometry = place_windows(
        (6, 5), (3, 3), WindowParameters((1, 1), ("valid", "valid"), "constant", (1, 1))
    )
    windows = BlockWindows(
        images=images,
        rows=geometry.rows.reach((0, 4)),
        columns=geometry.columns.reach((0, 3)),
        dtype=np.dtype("f8"),
        by_image=False,
    )
    workspace = Workspace()
    runs = numpy_engine.copy_runs(
        numpy_engine.copy_pixels(windows, workspace), windows, 0, workspace
    )
    assert np.shares_memory(runs, numpy_engine.view_patches(runs, windows.rows))


def test_normalized_patches():
    patches = np.random.default_rng(0).standard_normal((6, 5)) + 1000
    expected = np.array([oracle.normalized(patch, 0.3) for patch in patches.T]).T
    numpy_engine.normalize_patches(patches, 0.3)
    # The kernels have zero mean, so windows may differ by a constant.
    np.testing.assert_allclose(patches - patches.mean(axis=0), expected, atol=1e-12)
    constant = np.full((6, 2), 7.0)
    numpy_engine.normalize_patches(constant, 0.3)
    assert not constant.any()


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (np.full(81, 30_000), 30_000),
        (30_000 + np.arange(81), 30_000),
        (-5000 - np.arange(10), -5009),
        (np.arange(81), 0),
        (np.zeros(81), 0),
        (np.full(9, np.inf), 0),
        (np.full(9, np.nan), 0),
        ([30_000] * 63 + [5], 0),  # A single other pixel would be lost.
        ([900] * 9 + [-900], 0),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # Tasks ignore it.
def test_an_offset_is_large_beside_the_range_of_the_window(window, expected):
    patches = np.transpose([window, np.arange(len(window))]).astype(np.float32)
    before, offsets = patches.copy(), np.empty(2, np.float32)
    numpy_engine.subtract_offsets(patches, offsets)
    assert offsets.tolist() == [expected, 0]
    np.testing.assert_array_equal(patches + offsets, before)


def test_a_view_stays_inside_its_array():
    with pytest.raises(ValueError, match=r"strides is incompatible|buffer is too small"):
        numpy_engine.strided_view(np.arange(7), (4, 3), (2, 1))
