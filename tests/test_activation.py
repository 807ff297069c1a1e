import numpy as np
import oracle
import pytest

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._engine.activation import ACTIVATIONS, activation_sides

RESPONSES = np.random.default_rng(0).standard_normal((7, 5, 3))
RESPONSES[0] = 0
BIAS = np.array([-0.5, 0.0, 0.7])


def test_oracle_has_all_activations():
    assert set(ACTIVATIONS) == set(oracle.ACTIVATIONS), "add its formula to tests/oracle.py"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_agrees_with_scalars(name, in_place, dtype):
    sides = ACTIVATIONS[name].values()
    for (sign, function), expected in zip(sides, oracle.ACTIVATIONS[name], strict=True):
        values = (sign * RESPONSES + BIAS).astype(dtype)
        out = values.copy() if in_place else np.empty_like(values)
        result = function.in_place(out if in_place else values, out)
        assert result is out
        for index, z in np.ndenumerate(RESPONSES):
            assert result[index] == pytest.approx(expected(z, BIAS[index[-1]]), abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 7), (16384, 1), (129, 127), (3, 20_000), (40_001, 2)])
@pytest.mark.parametrize("step", [1, 2])
def test_relu_of_any_size_and_memory_order(shape, step, dtype):
    values = np.random.default_rng(0).standard_normal((shape[0], shape[1] * step)).astype(dtype)
    expected = np.where(values[:, ::step] > 0, values[:, ::step], 0)
    out = np.empty((shape[0], shape[1] * step), dtype)[:, ::step]
    relu = ACTIVATIONS["relu"][""].function.in_place
    np.testing.assert_array_equal(relu(values[:, ::step], out), expected)
    relu(values[:, ::step], values[:, ::step])
    np.testing.assert_array_equal(values[:, ::step], expected)


def test_callable_receives_one_column_per_kernel():
    seen = []

    def tanh(values):
        seen.append(values.shape)
        return np.tanh(values, out=values)

    (side,) = activation_sides(tanh).values()
    result = side.function.in_place(RESPONSES.copy(), np.empty_like(RESPONSES))
    assert side.sign == 1
    assert seen == [(35, 3)]
    np.testing.assert_allclose(result, np.tanh(RESPONSES))


@pytest.mark.parametrize("options", [{}, {"pooling": None}, {"symmetries": "mirror"}])
def test_callable_that_changes_its_argument(options):
    def clip(z):
        z[z < 0] = 0
        return z

    images = np.random.default_rng(0).standard_normal((4, 8, 8))
    relu, clipped = (
        StridedConv2DTransformer(
            4, activation=activation, bias=[[0.0], [1.0]], random_state=0, **options
        ).fit_transform(images)
        for activation in ("relu", clip)
    )
    np.testing.assert_allclose(clipped, relu, rtol=0, atol=1e-12)


def test_callable_that_is_not_defined_for_all_responses():
    (side,) = activation_sides(lambda z: np.where(z > 0, z, np.nan)).values()
    with pytest.raises(ValueError, match=r"returns finite numbers.* NaN or infinity.*negative"):
        side.function.in_place(RESPONSES, np.empty_like(RESPONSES))


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.sum(axis=0),
        lambda z: z.max(axis=0, keepdims=True),
        lambda z: z * 1j,
        lambda z: None,
        lambda z: 1.0,
    ],
)
def test_callable_of_another_shape_or_kind(function):
    (side,) = activation_sides(function).values()
    with pytest.raises(ValueError, match=r"'activation' .* must be a function that returns a real"):
        side.function.in_place(RESPONSES, np.empty_like(RESPONSES))
