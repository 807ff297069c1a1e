"""The copies that the engine multiplies agree with the windows of a padded image."""

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ORDERS, in_order

from sklearn_conv._engine import staging
from sklearn_conv._engine.geometry import PADDING_MODES, WindowParameters, place_windows
from sklearn_conv._engine.staging import BlockWindows
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


def matrix(windows, seen, constants):
    """Return a matrix whose columns are the windows; constants follow each row of weights."""
    oh, ow, b, kh, kw, c = seen.shape
    lines = seen.reshape(oh, ow, b, kh, kw * c)
    more = [np.broadcast_to(np.reshape(x, (1, 1, -1, 1, 1)), (oh, ow, b, kh, 1)) for x in constants]
    lines = np.concatenate([lines, *more], axis=4).reshape(oh, ow, b, -1)
    order = (3, 2, 0, 1) if windows.by_image else (3, 0, 1, 2)
    return lines.transpose(order)


@given(blocks())
def test_copied_windows_are_what_the_kernels_see(block):
    windows, seen = block
    constants = [1.0, np.arange(len(windows.images))]  # a number, and one for each image
    workspace = Workspace()
    pixels = staging.copy_pixels(windows, workspace)
    runs = staging.copy_runs(pixels, windows, constants, workspace)
    expected = matrix(windows, seen, constants)
    copied = staging.copy_patches(runs, windows, workspace, n_constants=3)
    assert len(copied) == len(expected) + 3
    np.testing.assert_array_equal(copied[:-3], expected.reshape(len(expected), -1))
    if not windows.by_image:
        viewed = staging.view_patches(runs, windows.rows)  # (rows, d, columns * b)
        in_rows = expected.transpose(1, 0, 2, 3).reshape(len(viewed), len(expected), -1)
        np.testing.assert_array_equal(viewed, in_rows)


@given(blocks())
def test_windows_without_constants(block):
    windows, seen = block
    workspace = Workspace()
    pixels = staging.copy_pixels(windows, workspace)
    runs = staging.copy_runs(pixels, windows, [], workspace)
    copied = staging.copy_patches(runs, windows, workspace)
    np.testing.assert_array_equal(copied, matrix(windows, seen, []).reshape(len(copied), -1))


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
    runs = staging.copy_runs(staging.copy_pixels(windows, workspace), windows, [], workspace)
    assert np.shares_memory(runs, staging.view_patches(runs, windows.rows))


def test_normalized_patches():
    patches = np.random.default_rng(0).standard_normal((6, 5)) + 1000
    expected = np.array([oracle.normalized(patch, 0.3) for patch in patches.T]).T
    staging.normalize_patches(patches, 0.3)
    # The kernels have zero mean, so windows may differ by a constant.
    np.testing.assert_allclose(patches - patches.mean(axis=0), expected, atol=1e-12)
    constant = np.full((6, 2), 7.0)
    staging.normalize_patches(constant, 0.3)
    assert not constant.any()


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((2, 9, 9, 1), 30_000), [30_000, 30_000]),
        (30_000 + np.arange(81).reshape(1, 9, 9, 1), [30_000]),
        (np.full((1, 9, 9, 1), -500), [-500]),
        (np.arange(81).reshape(1, 9, 9, 1), None),
        (np.zeros((1, 9, 9, 1)), None),
        (np.full((1, 9, 9, 1), np.inf), None),
        (np.full((1, 9, 9, 1), np.nan), None),
        (np.zeros((1, 0, 9, 1)), None),
        (np.concatenate([np.full((1, 3, 3, 1), 900), np.ones((1, 3, 3, 1))]), [900, 1]),
        (np.concatenate([np.full((1, 3, 3, 1), 900), np.eye(3).reshape(1, 3, 3, 1)]), [900, 0]),
    ],
)
def test_an_offset_is_large_beside_the_range_of_all_pixels(pixels, expected):
    offset = staging.find_offset(pixels.astype(np.float32))
    assert (offset if offset is None else offset.tolist()) == expected


def test_a_single_other_pixel_forbids_the_offset():
    pixels = np.full((1, 64, 64, 1), 30_000, np.float32)
    assert staging.find_offset(pixels) == [30_000]
    pixels[0, 13, 57] = 5
    assert staging.find_offset(pixels) is None


def test_a_view_stays_inside_its_array():
    with pytest.raises(ValueError, match=r"strides is incompatible|buffer is too small"):
        staging.strided_view(np.arange(7), (4, 3), (2, 1))
