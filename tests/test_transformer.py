from itertools import product

import numpy as np
import oracle
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from strategies import ORDERS, in_order

from sklearn_conv import StridedConv2DTransformer, conv2d
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.pooling import POOLINGS


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((6, 9, 7, 2))


@pytest.mark.parametrize("pooling", [*POOLINGS, ["max", "mean"], None])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_are_the_convolution_activated_and_pooled(images, activation, pooling):
    bias = np.array([0.1, -0.2, 0.0])
    transformer = StridedConv2DTransformer(
        3,
        (3, 2),
        (2, 1),
        bias=bias,
        activation=activation,
        pooling=pooling,
        pool_grid=(2, 3),
        random_state=0,
    )
    features = transformer.fit_transform(images)
    responses = conv2d(images, transformer.kernels_, (2, 1), padding="same")
    expected = oracle.features(responses, bias, activation, pooling, (2, 3))
    np.testing.assert_allclose(features, expected, atol=1e-12)


def test_names_say_where_each_feature_is(images):
    """The feature of each name is computed again from the kernel, pooling and cell in the name."""
    transformer = StridedConv2DTransformer(
        4, activation="split", pooling=["mean", "max"], pool_grid=(2, 3), random_state=0
    )
    features = transformer.fit_transform(images)
    names = transformer.get_feature_names_out()
    assert names[0] == "kernel000_pos_mean_r0_c0"
    assert names[4] == "kernel000_neg_mean_r0_c0"
    assert names[8] == "kernel000_pos_max_r0_c0"
    assert names[16] == "kernel000_pos_mean_r0_c1"
    assert len(set(names)) == len(names) == features.shape[1]
    responses = conv2d(images, transformer.kernels_, padding="same")
    rows, columns = oracle.cell_members(9, 2), oracle.cell_members(7, 3)
    for name, feature in zip(names, features.T, strict=True):
        kernel, side, pooling, row, column = name.split("_")
        cell = responses[..., int(kernel.removeprefix("kernel"))]
        cell = cell[:, rows[int(row[1:])]][:, :, columns[int(column[1:])]]
        cell = np.maximum(cell if side == "pos" else -cell, 0)
        np.testing.assert_allclose(feature, getattr(np, pooling)(cell, axis=(1, 2)), atol=1e-12)


def test_names_with_several_grids_say_which_grid(images):
    transformer = StridedConv2DTransformer(2, pool_grid=[1, (2, 3)]).fit(images)
    names = transformer.get_feature_names_out().tolist()
    assert names[:3] == ["kernel000_mean_1x1_r0_c0", "kernel001_mean_1x1_r0_c0"] + [
        "kernel000_mean_2x3_r0_c0"
    ]
    assert names[-1] == "kernel001_mean_2x3_r1_c2"
    assert len({*names}) == len(names) == 2 * 7
    table = transformer.set_output(transform="pandas").transform(images)
    assert table.columns.tolist() == names
    single = transformer.set_params(pool_grid=[(2, 3)]).get_feature_names_out().tolist()
    assert single == transformer.set_params(pool_grid=(2, 3)).get_feature_names_out().tolist()


@pytest.mark.parametrize("method", ["fit", "transform", "output_size", "get_feature_names_out"])
def test_several_grids_have_no_common_shape(images, method):
    transformer = StridedConv2DTransformer(2).fit(images)
    transformer.set_params(pool_grid=[1, 2], flatten=False)
    arguments = [images] if method in ("fit", "transform") else []
    with pytest.raises(
        ValueError, match=r"needs a single grid.* is \[1, 2\]; use flatten=True, or"
    ):
        getattr(transformer, method)(*arguments)
    assert transformer.set_params(pooling=None).transform(images).shape == (6, 9, 7, 2)


def test_names_without_pooling(images):
    transformer = StridedConv2DTransformer(2, pooling=None, stride=4).fit(images)
    assert transformer.get_feature_names_out().tolist() == [
        f"kernel{k:03d}_r{r}_c{c}" for r, c, k in product(range(3), range(2), range(2))
    ]


def test_flatten_only_changes_the_shape(images):
    for pooling in (["mean", "max"], None):
        transformer = StridedConv2DTransformer(3, pooling=pooling, random_state=0)
        rows = transformer.fit_transform(images)
        maps = transformer.set_params(flatten=False).transform(images)
        assert maps.shape == ((6, 2, 2, 6) if pooling else (6, 9, 7, 3))
        np.testing.assert_array_equal(maps.reshape(6, -1), rows)
        assert transformer.get_feature_names_out().shape == rows.shape[1:]


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (1, 1), (1, 40), (33, 47)])
def test_the_number_of_features_does_not_depend_on_the_size_of_the_images(shape):
    transformer = StridedConv2DTransformer(3, stride=2, pool_grid=(3, 2))
    assert transformer.fit_transform(np.ones((2, *shape))).shape == (2, 18)


def test_split_has_the_same_threshold_on_both_sides():
    """In the features of the negative of an image, the two sides are exchanged."""
    images = np.random.default_rng(0).standard_normal((3, 8, 8))
    transformer = StridedConv2DTransformer(
        5, bias=-0.3, activation="split", flatten=False, random_state=0
    ).fit(images)
    both, negative = transformer.transform(images), transformer.transform(-images)
    np.testing.assert_allclose(both[..., :5], negative[..., 5:], atol=1e-12)
    np.testing.assert_allclose(both[..., 5:], negative[..., :5], atol=1e-12)


def test_two_sides_of_a_split_with_an_offset():
    """On the second side, the offset changes its sign like the response, but the bias does not."""
    images = np.zeros((1, 4, 4))
    transformer = StridedConv2DTransformer(2, bias=-0.5, activation="split", pool_grid=1)
    transformer.fit(images)
    transformer.offset_ = np.array([2.0, -3.0])
    np.testing.assert_allclose(transformer.transform(images), [[1.5, 0, 0, 2.5]])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", ">f8", "i8"])
def test_memory_order_and_dtype(order, dtype):
    images = (np.random.default_rng(0).random((4, 6, 5, 3)) * 100).astype(dtype)
    transformer = StridedConv2DTransformer(7, random_state=0)
    features = transformer.fit_transform(in_order(images, order))
    assert features.dtype == (np.float32 if dtype in ("u1", "f4") else np.float64)
    expected = transformer.fit_transform(images.astype("f8"))
    tolerance = 1e-4 if features.dtype == np.float32 else 1e-10
    np.testing.assert_allclose(features, expected, atol=tolerance)


@pytest.mark.parametrize("order", ORDERS)
def test_nothing_that_was_passed_in_is_changed(order, images):
    images = in_order(images, order)
    kernels, bias = np.ones((3, 3, 2, 4)), np.ones(4)
    before = images.copy(), kernels.copy(), bias.copy()
    state = np.random.get_state()[1].copy()
    transformer = StridedConv2DTransformer(kernels=kernels, bias=bias)
    parameters = transformer.get_params()
    transformer.fit(images).transform(images)
    StridedConv2DTransformer(random_state=None).fit(images)
    for array, copy in zip((images, kernels, bias), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    after = transformer.get_params()
    assert all(after[name] is value for name, value in parameters.items())
    transformer.kernels_[...] = transformer.bias_[...] = 5
    assert (kernels == 1).all()
    assert (bias == 1).all()


def test_transform_changes_nothing_on_the_estimator(images):
    transformer = StridedConv2DTransformer(random_state=0).fit(images)
    before = {name: np.copy(value) for name, value in vars(transformer).items()}
    transformer.transform(images)
    assert before.keys() == vars(transformer).keys()
    for name, value in before.items():
        np.testing.assert_array_equal(vars(transformer)[name], value)


def test_only_random_state_changes_the_kernels(images):
    def kernels(random_state):
        return StridedConv2DTransformer(random_state=random_state).fit(images).kernels_

    np.testing.assert_array_equal(kernels(3), kernels(3))
    np.testing.assert_array_equal(kernels(3), kernels(np.random.RandomState(3)))
    assert not np.allclose(kernels(3), kernels(4))
    np.random.seed(0)
    first = kernels(None)
    np.random.seed(0)
    assert not np.allclose(first, kernels(None))


def test_kernels_from_an_array(images):
    kernels = np.random.default_rng(1).standard_normal((2, 3, 2, 5))
    transformer = StridedConv2DTransformer(kernels=kernels, padding="valid")
    assert transformer.fit_transform(images).shape == (6, 20)
    np.testing.assert_array_equal(transformer.kernels_, kernels)
    assert transformer.kernels_.dtype == np.float64
    assert transformer.fit(images.astype("f4")).kernels_.dtype == np.float32
    nested = StridedConv2DTransformer(kernels=kernels.tolist(), padding="valid")
    np.testing.assert_array_equal(nested.fit(images).kernels_, kernels)


def test_kernels_from_a_callable_that_sees_patches(images):
    seen = {}

    def init(shape, rng, patches):
        seen["shape"], seen["patches"] = shape, patches(50)
        return seen["patches"][: shape[3]].T.reshape(shape)

    transformer = StridedConv2DTransformer(4, (3, 2), dilation=2, kernels=init, random_state=0)
    transformer.fit(images.astype("f4"))
    assert seen["shape"] == (3, 2, 2, 4)
    assert seen["patches"].shape == (50, 12)
    assert seen["patches"].dtype == np.float32
    windows = conv2d(images.astype("f4"), np.eye(12).reshape(3, 2, 2, 12), dilation=2)
    windows = {tuple(window) for window in windows.reshape(-1, 12).tolist()}
    assert {tuple(patch) for patch in seen["patches"].tolist()} <= windows


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", "int8"])
def test_numbers_of_numpy_as_parameters(images, dtype):
    one = np.dtype(dtype).type(1)
    transformer = StridedConv2DTransformer(4, bias=one, whiten=one, random_state=0)
    expected = clone(transformer).set_params(bias=1, whiten=1.0).fit_transform(images)
    np.testing.assert_array_equal(transformer.fit_transform(images), expected)


def test_rows_that_are_no_square():
    X = np.ones((3, 6))
    with pytest.warns(UserWarning, match=r"6 columns, .* image_shape=\(h, w\)"):
        transformer = StridedConv2DTransformer().fit(X)
    assert transformer.image_shape_ == (1, 6, 1)
    transformer.transform(X)
    assert StridedConv2DTransformer(image_shape=(2, 3)).fit(X).image_shape_ == (2, 3, 1)
    assert StridedConv2DTransformer(image_shape=[1, 2, 3]).fit(X).image_shape_ == (1, 2, 3)


def test_axes_may_differ_between_fit_and_transform(images):
    transformer = StridedConv2DTransformer(random_state=0).fit(images)
    assert transformer.n_features_in_ == 9 * 7 * 2
    expected = transformer.transform(images)
    np.testing.assert_array_equal(transformer.transform(images.reshape(6, -1)), expected)
    transformer.set_params(image_shape=(9, 7, 2)).fit(images.reshape(6, -1))
    np.testing.assert_array_equal(transformer.transform(images), expected)


def test_not_fitted(images):
    transformer = StridedConv2DTransformer()
    for method in (lambda: transformer.transform(images), transformer.get_feature_names_out):
        with pytest.raises(NotFittedError):
            method()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_features_that_overflow_are_infinite_and_warn(dtype, n_jobs):
    huge = np.full((20, 4, 4), np.finfo(dtype).max, dtype)
    kernels = np.ones((2, 2, 1, 3))
    transformer = StridedConv2DTransformer(kernels=kernels, n_jobs=n_jobs).fit(huge)
    with pytest.warns(
        UserWarning, match=f"infinite or NaN: .* overflow in {np.dtype(dtype)}.*Divide"
    ):
        assert np.isinf(transformer.transform(huge)).all()
    with pytest.warns(UserWarning, match="Some features are infinite"):
        next(transformer.transform_batches(huge))
    assert np.isinf(conv2d(huge[..., np.newaxis], kernels)).all()
    smaller = transformer.fit(huge / 100)
    assert np.isfinite(smaller.transform(huge / 100)).all()
