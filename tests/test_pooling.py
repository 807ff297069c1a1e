from itertools import chain

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sklearn_conv._engine.pooling import POOLINGS, pool_cells


@given(st.integers(1, 60), st.integers(1, 60))
def test_cells_agree_with_asking_each_position(length, n_cells):
    cells = [list(range(*cell)) for cell in pool_cells(length, n_cells)]
    assert cells == oracle.cell_members(length, n_cells)


@given(st.integers(1, 60), st.integers(1, 60))
def test_cells_are_never_empty_and_a_partition_where_there_is_room(length, n_cells):
    cells = [list(range(*cell)) for cell in pool_cells(length, n_cells)]
    assert len(cells) == n_cells
    assert all(cells)
    if length >= n_cells:
        assert list(chain(*cells)) == list(range(length))
    assert {position for cell in cells for position in cell} <= set(range(length))


def test_menu():
    assert set(POOLINGS) == set(oracle.POOLINGS)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_in_parts_agrees_with_pooling_at_once(name):
    values = np.random.default_rng(0).standard_normal((10, 4))
    pooling = POOLINGS[name]
    parts = [pooling.join.reduce(part, axis=0) for part in np.split(values, [3, 4])]
    result = pooling.finish(pooling.join.reduce(parts, axis=0), 10)
    expected = [oracle.POOLINGS[name](column.tolist()) for column in values.T]
    np.testing.assert_allclose(result, expected)
