"""Symmetries, several biases and powers; `test_pairs` compares their features with plain loops."""

import tracemalloc

import numpy as np
import pytest
from helpers import LEARNED

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._engine.native_library import MAX_OUTPUTS
from sklearn_conv._engine.symmetry import SYMMETRIES

RNG = np.random.default_rng(0)

VIEWS = {
    None: [lambda x: x],
    "mirror": [lambda x: x, np.fliplr],
    "dihedral": [
        lambda x: x,
        np.fliplr,
        np.flipud,
        lambda x: x.swapaxes(0, 1),
        lambda x: x[::-1, ::-1],
        lambda x: np.flipud(x.swapaxes(0, 1)),
        lambda x: np.fliplr(x.swapaxes(0, 1)),
        lambda x: np.fliplr(np.flipud(x.swapaxes(0, 1))),
    ],
}
"""The images over which features are averaged, each a function of an image (h, w, c)."""


def test_there_are_views_for_each_symmetry():
    image = RNG.random((1, 3, 4, 2))
    assert {*VIEWS} == {*SYMMETRIES}
    for name, views in SYMMETRIES.items():
        ours = {view.apply(image).tobytes() for view in views}
        assert ours == {view(image[0]).tobytes() for view in VIEWS[name]}
        assert len(ours) == len(views)
        for view in views:
            np.testing.assert_array_equal(view.undo(view.apply(image)), image)
            assert view.is_transposed == (view.apply(image).shape[1] == 4)


@pytest.mark.parametrize("pooling", ["mean", "max", None])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("stride", "length", "dtype"),
    [(1, 9, "uint8"), (1, 10, "float64"), (2, 9, "float64"), (2, 10, "uint8")],
)
def test_all_views_of_an_image_have_the_same_features(pooling, padding, stride, length, dtype):
    images = (255 * RNG.random((5, length, length, 3))).astype(dtype)
    options = {**LEARNED, "kernel_size": 4, "stride": stride, "padding": padding}
    for name in ("mirror", "dihedral"):
        transformer = StridedConv2DTransformer(
            6, symmetries=name, pooling=pooling, random_state=0, **options
        ).fit(images)
        features = transformer.transform(images)
        for view in VIEWS[name]:
            viewed = transformer.transform(np.stack([view(image) for image in images]))
            if name == "mirror":  # A sum of two numbers does not depend on their order.
                np.testing.assert_array_equal(viewed, features)
            rounding = 1e-12 if dtype == "float64" else 2e-6
            np.testing.assert_allclose(viewed, features, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("size", [(2, 2), (2, 3)])
@pytest.mark.parametrize("name", SYMMETRIES)
def test_patches_are_windows_of_all_images(name, size):
    """All windows of an image in which each pixel has another value, and none is flat."""
    image = RNG.permutation(30).reshape(1, 5, 6) + 100.0 * (np.indices((5, 6)).sum(axis=0) % 2)
    seen = {}

    def keep(shape, rng, patches):
        seen["patches"] = patches()
        return np.ones(shape)

    StridedConv2DTransformer(
        1, size, kernels=keep, symmetries=name, n_patches=1000, random_state=0
    ).fit(np.tile(image, (50, 1, 1)))
    views = [view for view in VIEWS[name] if size == (2, 2) or view(image[0]).shape == (5, 6)]
    windows = {
        tuple(window.ravel())
        for view in views
        for window in np.lib.stride_tricks.sliding_window_view(view(image[0]), size).reshape(
            -1, size[0] * size[1]
        )
    }
    assert {tuple(patch) for patch in seen["patches"]} == windows


@pytest.mark.parametrize("dilation", [2, (1, 2)])
def test_dilated_patches_are_windows_of_the_views(dilation):
    """Each patch of 3 x 3 pixels of a plane has the differences of windows in a view of it."""
    seen = {}

    def keep(shape, rng, patches):
        seen["patches"] = patches().reshape(-1, 3, 3)
        return np.ones(shape)

    plane = 100.0 * np.arange(12)[:, np.newaxis] + np.arange(12)
    StridedConv2DTransformer(
        1, 3, dilation=dilation, kernels=keep, symmetries="dihedral", random_state=0
    ).fit(np.tile(plane, (5, 1, 1)))
    found = {tuple(np.abs(patch[[1, 0], [0, 1]] - patch[0, 0])) for patch in seen["patches"]}
    rows, columns = np.broadcast_to(dilation, 2)
    expected = {(100 * rows, columns)}
    if rows == columns:
        expected.add((columns, 100 * rows))
    assert found == expected


def test_images_that_are_not_square_may_be_turned():
    images = RNG.random((4, 6, 9))
    transformer = StridedConv2DTransformer(
        5, (2, 3), stride=(1, 2), symmetries="dihedral", random_state=0
    ).fit(images)
    turned = StridedConv2DTransformer(
        kernels=transformer.kernels_, stride=(1, 2), symmetries="dihedral"
    )
    np.testing.assert_allclose(
        turned.fit_transform(images.swapaxes(1, 2)), transformer.transform(images), rtol=1e-12
    )


def test_maps_that_are_not_square_cannot_be_averaged_over_turned_images():
    images = RNG.random((4, 6, 9))
    transformer = StridedConv2DTransformer(3, symmetries="dihedral", pooling=None)
    message = "square maps of one size, but there are maps of 6 x 9 and 9 x 6 windows; use square"
    with pytest.raises(ValueError, match=message):
        transformer.fit(images)
    with pytest.raises(ValueError, match=message):
        transformer.output_size((6, 9))
    fitted = StridedConv2DTransformer(3, symmetries="dihedral", random_state=0).fit(images)
    with pytest.raises(ValueError, match=message):
        fitted.set_params(pooling=None).transform(images)
    assert fitted.set_params(symmetries="mirror", flatten=False).transform(images).shape == (
        4,
        6,
        9,
        3,
    )


def test_names_of_features_with_several_biases():
    transformer = StridedConv2DTransformer(
        2, bias=[[-1.0], [0.0]], activation="split", pooling=["mean", "max"], pool_grid=1
    ).fit(RNG.random((3, 5, 5)))
    assert transformer.get_feature_names_out().tolist() == [
        f"kernel00{kernel}_{side}_bias{bias}_{pooling}_r0_c0"
        for pooling in ("mean", "max")
        for side in ("pos", "neg")
        for bias in (0, 1)
        for kernel in (0, 1)
    ]


@pytest.mark.parametrize("n_biases", [MAX_OUTPUTS, MAX_OUTPUTS + 1])
def test_many_biases(n_biases):
    """The native engine has a limit, above which NumPy computes the features."""
    images = RNG.random((3, 6, 6)).astype(np.float32)
    bias = np.linspace(-1, 1, n_biases)[:, np.newaxis]
    options = {"n_kernels": 3, "pool_grid": 1, "random_state": 0}
    features = StridedConv2DTransformer(bias=bias, **options).fit_transform(images)
    each = [StridedConv2DTransformer(bias=b[0], **options).fit_transform(images) for b in bias]
    np.testing.assert_allclose(features, np.hstack(each), rtol=1e-5, atol=1e-6)


def test_a_large_bias_does_not_make_others_inaccurate():
    images = RNG.random((3, 6, 6)).astype(np.float32)
    options = {"n_kernels": 3, "activation": "split", "random_state": 0}
    large = StridedConv2DTransformer(bias=[[1e7], [0.1], [-1e7]], **options).fit_transform(images)
    alone = StridedConv2DTransformer(bias=0.1, **options).fit_transform(images)
    middle = large.reshape(3, 4, 2, 3, 3)[:, :, :, 1].reshape(3, -1)
    np.testing.assert_allclose(middle, alone, rtol=1e-6)


def test_views_and_powers_count_as_work_but_not_as_images(capsys):
    images = RNG.random((40, 8, 8))
    transformer = StridedConv2DTransformer(
        4, symmetries="dihedral", power=0.5, random_state=0, verbose=10
    ).fit(images)
    single = StridedConv2DTransformer(4, random_state=0).fit(images)
    assert transformer.multiply_adds_ == 8 * single.multiply_adds_
    assert transformer.n_features_out_ == single.n_features_out_
    transformer.transform(images)
    assert "Done 40 out of 40 images" in capsys.readouterr().err


def test_dask_and_batches_give_the_same():
    dask_array = pytest.importorskip("dask.array")
    images = RNG.random((40, 8, 8, 1))
    transformer = StridedConv2DTransformer(
        4, bias=[[0.0], [0.2]], symmetries="mirror", power=0.5, random_state=0
    ).fit(images)
    features = transformer.transform(images)
    lazy = transformer.transform(dask_array.from_array(images, chunks=(7, 8, 8, 1)))
    np.testing.assert_allclose(lazy.compute(), features, rtol=1e-12)
    for rows, batch in transformer.transform_batches(images, batch_size=9):
        np.testing.assert_allclose(batch, features[rows], rtol=1e-12)


def test_the_features_of_one_other_view_are_in_memory():
    images = np.zeros((1, 1000, 1000, 1), np.float32)
    transformer = StridedConv2DTransformer(
        4, kernels="gaussian", symmetries="dihedral", pooling=None, random_state=0
    ).fit(images)
    tracemalloc.start()
    try:
        features = transformer.transform(images)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - 2 * features.nbytes < 10e6
