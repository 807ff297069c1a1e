import numpy as np
import oracle
import pytest

from sklearn_conv.activation import ACTIVATIONS, activation_sides

RESPONSES = np.random.default_rng(0).standard_normal((7, 5, 3))
RESPONSES[0] = 0
BIAS = np.array([-0.5, 0.0, 0.7])


def test_menu():
    assert set(ACTIVATIONS) == set(oracle.ACTIVATIONS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_agrees_with_scalars(name, in_place, dtype):
    bias = BIAS.astype(dtype)
    for activate, expected in zip(
        ACTIVATIONS[name].values(), oracle.ACTIVATIONS[name], strict=True
    ):
        responses = RESPONSES.astype(dtype)
        out = responses if in_place else np.empty_like(responses)
        result = activate(responses, bias, out)
        assert result is out
        for index, z in np.ndenumerate(RESPONSES.astype(dtype)):
            assert result[index] == pytest.approx(expected(z, bias[index[-1]]), abs=1e-6)
        if not in_place:
            np.testing.assert_array_equal(responses, RESPONSES.astype(dtype))


def test_callable_gets_responses_plus_bias():
    (activate,) = activation_sides(np.tanh).values()
    result = activate(RESPONSES, BIAS, np.empty_like(RESPONSES))
    np.testing.assert_allclose(result, np.tanh(RESPONSES + BIAS))


def test_callable_that_is_not_defined_for_all_responses():
    (activate,) = activation_sides(lambda z: np.where(z > 0, z, np.nan)).values()
    with pytest.raises(ValueError, match=r"must give finite numbers.* NaN or infinity from .* -"):
        activate(RESPONSES, BIAS, np.empty_like(RESPONSES))


@pytest.mark.parametrize(
    "function", [lambda z: z.sum(axis=0), lambda z: z * 1j, lambda z: None, lambda z: 1.0]
)
def test_callable_of_another_shape_or_kind(function):
    (activate,) = activation_sides(function).values()
    with pytest.raises(ValueError, match="'activation' parameter must be a function that gives a"):
        activate(RESPONSES, BIAS, np.empty_like(RESPONSES))
