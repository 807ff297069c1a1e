"""Positions of windows agree with plain loops that try every position."""

from itertools import chain, pairwise

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_conv._engine.geometry import (
    OUTSIDE,
    PADDING_MODES,
    WindowParameters,
    Windows,
    place_windows,
    pool_cells,
)


@st.composite
def placed(draw):
    """Draw windows of which at least one fits the image."""
    size, stride, dilation = (draw(st.integers(1, 5)) for _ in range(3))
    padding = draw(st.sampled_from(["same", "valid", 0, 1, 4]))
    span = dilation * (size - 1) + 1
    both = 2 * padding if isinstance(padding, int) else 0
    shortest = 1 if padding == "same" else max(1, span - both)
    return Windows.place(
        shortest + draw(st.integers(0, 12)),
        size,
        stride=stride,
        padding=padding,
        padding_mode=draw(st.sampled_from(sorted(PADDING_MODES))),
        dilation=dilation,
    )


@pytest.mark.parametrize("mode", PADDING_MODES)
@given(st.integers(1, 6), st.integers(0, 15))
def test_index_agrees_with_a_walk(mode, length, padding):
    windows = Windows.place(length, 1, padding=padding, padding_mode=mode)
    expected = [oracle.source(i, length, mode) for i in range(-padding, length + padding)]
    assert windows.index.tolist() == [OUTSIDE if i is None else i for i in expected]
    assert windows.n_before == padding


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_same_agrees_with_tensorflow_documentation(length, size, stride, dilation):
    windows = Windows.place(length, size, stride=stride, padding="same", dilation=dilation)
    amounts = oracle.same_amounts(length, windows.extent, stride)
    assert (windows.n_before, len(windows.index) - length) == (amounts[0], sum(amounts))
    assert windows.n_windows == np.ceil(length / stride)


@given(placed())
def test_windows_are_those_found_by_trying_every_position(windows):
    starts = oracle.starts(len(windows.index), windows.size, windows.stride, windows.dilation)
    assert windows.n_windows == len(starts)
    assert windows.places()[:, 0].tolist() == starts
    for window, start in enumerate(starts):
        seen = [windows.index[start + j * windows.dilation] for j in range(windows.size)]
        assert windows.pixels[window].tolist() == seen


@given(placed())
def test_the_center_of_a_window_is_the_mean_of_its_places(windows):
    for window, places in enumerate(windows.places()):
        assert windows.center(window) == places.mean() - windows.n_before
    assert windows.center(0.5) == windows.center(0) + windows.stride / 2


@given(placed(), st.data())
def test_a_reach_has_the_pixels_of_its_windows(windows, data):
    start = data.draw(st.integers(0, windows.n_windows - 1))
    stop = data.draw(st.integers(start + 1, windows.n_windows))
    reach = windows.reach((start, stop))
    copied = np.full(reach.n_pixels, 99)
    copied[reach.inside] = np.arange(windows.length)[reach.source]
    if reach.outside is not None:
        copied[reach.outside] = OUTSIDE
    assert (reach.n_windows, reach.size) == (stop - start, windows.size)
    for i in range(reach.n_windows):
        seen = [copied[i * reach.stride + j * reach.dilation] for j in range(reach.size)]
        assert seen == windows.pixels[start + i].tolist()


@given(placed())
def test_a_reach_is_bounded_by_the_number_of_its_windows(windows):
    """The bound does not depend on the distance of the windows."""
    assert windows.reach((0, windows.n_windows)).n_pixels <= windows.n_windows * windows.size


def test_far_windows_are_copied_separately_and_near_ones_together():
    assert Windows.place(10**6, 2, stride=10**5).reach((0, 10)).n_pixels == 20
    assert Windows.place(100, 3).reach((0, 10)).n_pixels == 12


@pytest.mark.parametrize("windows", [(0, 1), (0, 4)])
def test_a_reach_in_the_padding_has_no_source(windows):
    reach = Windows.place(2, 1, padding=4).reach(windows)
    assert reach.outside.all()
    assert len(np.arange(2)[reach.source]) == 0


@given(placed())
def test_training_patches_lie_inside_the_image_if_they_fit(windows):
    sampled = windows.for_training()
    assert sampled.stride == 1
    if windows.extent <= windows.length:
        starts = oracle.starts(windows.length, windows.size, 1, windows.dilation)
        assert sampled.pixels[:, 0].tolist() == starts
    else:
        np.testing.assert_array_equal(sampled.index, windows.index)


def parameters(**options):
    defaults = {"stride": (1, 1), "padding": ("valid",) * 2, "padding_mode": "constant"}
    return WindowParameters(**defaults | {"dilation": (1, 1)} | options)


def test_rows_and_columns_have_their_own_parameters():
    geometry = place_windows((9, 20), (3, 5), parameters(stride=(2, 3), padding=("same", 1)))
    assert geometry.output_shape == (5, 6)
    assert (geometry.rows.stride, geometry.columns.stride) == (2, 3)


def test_a_kernel_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match=r"\(3, 5\) with .* does not fit the padded image \(9"):
        place_windows((9, 4), (3, 5), parameters())
    with pytest.raises(ValueError, match=r"dilation=\(4, 1\) covers \(9, 5\) pixels and does not"):
        place_windows((8, 9), (3, 5), parameters(dilation=(4, 1)))


@given(st.integers(1, 60), st.integers(1, 60))
def test_cells_agree_with_plain_loops(length, n_cells):
    cells = [list(range(*cell)) for cell in pool_cells(length, n_cells)]
    assert cells == oracle.cell_members(length, n_cells)


@given(st.integers(1, 60), st.integers(1, 60))
def test_cells_are_never_empty_and_a_partition_if_there_are_not_too_many(length, n_cells):
    cells = pool_cells(length, n_cells)
    assert len(cells) == n_cells
    assert all(start < stop for start, stop in cells)
    if length >= n_cells:
        assert [*chain(*(range(*cell) for cell in cells))] == [*range(length)]
        assert all(left[1] == right[0] for left, right in pairwise(cells))
