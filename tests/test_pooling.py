import numpy as np
import oracle
import pytest
from helpers import small_blocks
from hypothesis import example, given
from hypothesis import strategies as st

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._engine import choice
from sklearn_conv._engine.activation import ACTIVATIONS
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


# ---- Several grids -------------------------------------------------------------------------------

numbers_of_cells = st.integers(1, 13)
grids = st.one_of(numbers_of_cells, st.tuples(numbers_of_cells, numbers_of_cells))


def pair(grid):
    return (grid, grid) if isinstance(grid, int) else grid


@given(
    grids=st.lists(grids, min_size=1, max_size=4, unique_by=pair),
    dtype=st.sampled_from(["float32", "float64", "uint8"]),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    engine=st.sampled_from(["native", "numpy"]),
    n_bytes=st.sampled_from([1, 3000, 2**22]),
    options=st.fixed_dictionaries(
        {
            "stride": st.integers(1, 3),
            "activation": st.sampled_from(sorted(ACTIVATIONS)),
            "pooling": st.sampled_from([*POOLINGS, ["sum", "max", "mean"]]),
            "symmetries": st.sampled_from([None, "mirror", "dihedral"]),
            "power": st.sampled_from([1.0, 2.0]),
            "bias": st.sampled_from([0.1, [[-0.3], [0.2]]]),
            "n_jobs": st.sampled_from([None, 2]),
        }
    ),
)
@example([1, 2, 4], "float32", (64, 64), "native", 2**22, {"stride": 2})
@example([(1, 13), (13, 1)], "float64", (14, 14), "numpy", 3000, {"symmetries": "dihedral"})
def test_features_of_several_grids_are_those_of_each_side_by_side(
    grids, dtype, size, engine, n_bytes, options
):
    images = np.random.default_rng(0).normal(size=(5, *size, 2))
    images = (images * 20 + 100 if dtype == "uint8" else images).astype(dtype)
    transformer = StridedConv2DTransformer(3, 2, random_state=0, **options).fit(images)
    with pytest.MonkeyPatch.context() as patch:
        if engine == "numpy":
            patch.setattr(choice, "LIBRARY", None)
        expected = [transformer.set_params(pool_grid=grid).transform(images) for grid in grids]
        small_blocks(patch, n_bytes)
        transformer.set_params(pool_grid=grids)
        features = transformer.transform(images)
        *_, batch = transformer.transform_batches(images, batch_size=2)
    expected = np.hstack(expected)
    assert transformer.output_size().features == expected.shape[1]
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    scale = np.abs(expected).max()
    np.testing.assert_allclose(features, expected, rtol=tolerance, atol=tolerance * scale)
    np.testing.assert_allclose(batch[1], expected[4:], rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("engine", ["native", "numpy"])
@pytest.mark.parametrize("missing", ["raise", "ignore"])
def test_one_grid_in_a_list_is_this_grid(engine, missing, monkeypatch):
    if engine == "numpy":
        monkeypatch.setattr(choice, "LIBRARY", None)
    images = np.random.default_rng(0).normal(size=(5, 9, 7, 2)).astype(np.float32)
    transformer = StridedConv2DTransformer(3, pool_grid=(2, 3), missing=missing).fit(images)
    expected = transformer.transform(images)
    features = transformer.set_params(pool_grid=[(2, 3)]).transform(images)
    np.testing.assert_array_equal(features, expected)
