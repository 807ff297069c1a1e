import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_conv._engine.padding import OUTSIDE, PADDING_MODES, padding_amounts, source_index


@pytest.mark.parametrize("mode", PADDING_MODES)
@given(st.integers(1, 6), st.integers(0, 15), st.integers(0, 15))
def test_source_index_agrees_with_a_walk(mode, length, before, after):
    expected = [oracle.source(i, length, mode) for i in range(-before, length + after)]
    expected = [OUTSIDE if index is None else index for index in expected]
    assert source_index(length, (before, after), mode).tolist() == expected


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_same_agrees_with_tensorflow_documentation(length, span, stride):
    amounts = padding_amounts("same", length, span, stride)
    assert amounts == oracle.same_amounts(length, span, stride)
    n_windows = len(oracle.starts(length + sum(amounts), span, stride, 1))
    assert n_windows == np.ceil(length / stride)


def test_valid_adds_nothing_and_an_integer_adds_to_both_sides():
    assert padding_amounts("valid", 7, 3, 2) == (0, 0)
    assert padding_amounts(4, 7, 3, 2) == (4, 4)
