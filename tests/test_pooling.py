import numpy as np
import oracle
import pytest

from sklearn_conv._engine.pooling import (
    POOLINGS,
    join_parts,
    join_positions,
)

VALUES = np.random.default_rng(0).standard_normal((10, 3, 4))  # (positions, b, k)


def test_the_oracle_knows_all_poolings():
    assert set(POOLINGS) == set(oracle.POOLINGS), "add its formula to tests/oracle.py"


def pool(name, values):
    return np.apply_along_axis(lambda column: oracle.POOLINGS[name](column.tolist()), 0, values)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_in_parts_agrees_with_pooling_at_once(name):
    pooling = POOLINGS[name]
    parts = [
        join_positions(pooling.join, part)[np.newaxis, np.newaxis]
        for part in np.split(VALUES, [3, 4])
    ]
    joined = join_parts([pooling.join], parts)  # (poolings, sides, b, k)
    np.testing.assert_allclose(pooling.finish(joined, 10)[0, 0], pool(name, VALUES))


def test_parts_of_several_poolings_are_joined_by_their_own_rule():
    parts = list(np.random.default_rng(1).standard_normal((5, 2, 1, 3, 4)))
    joined = join_parts([np.maximum, np.add], parts)
    np.testing.assert_array_equal(joined[0], np.max(parts, axis=0)[0])
    np.testing.assert_allclose(joined[1], np.sum(parts, axis=0)[1])
    assert join_parts([np.add], parts[:1]) is parts[0]
