"""`output_size` returns the shape and the cost of the actual result."""

import tracemalloc

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._output_size import place_on_all
from sklearn_conv._parameters import check_parameters

SETTINGS = [
    {},
    {"stride": (2, 3), "kernel_size": (3, 5)},
    {"padding": "valid", "dilation": 2, "activation": "split"},
    {"padding": (3, 0), "pooling": ["max", "mean"], "pool_grid": (3, 1)},
    {"pooling": ["max", "mean"], "pool_grid": [1, (3, 2)]},
    {"pooling": None, "stride": 2},
    {"pooling": None, "flatten": False, "activation": "split"},
    {"kernels": np.ones((2, 4, 3, 5)), "pool_grid": 4, "flatten": False},
    {"kernels": "pca", "n_kernels": 7, "whiten": True, "normalize_patches": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sizes_are_those_of_the_result(settings):
    images = np.random.default_rng(0).random((5, 9, 12, 3), np.float32)
    transformer = StridedConv2DTransformer(**{"n_kernels": 6, "random_state": 0, **settings})
    told = transformer.output_size((9, 12, 3))
    features = transformer.fit(images).transform(images)
    assert told.features == features[0].size == len(transformer.get_feature_names_out())
    assert told.bytes == features[0].nbytes
    maps = transformer.set_params(pooling=None, flatten=False).transform(images)
    assert told.maps == maps.shape[1:]
    n_sides = 2 if settings.get("activation") == "split" else 1
    one_map = transformer.kernels_[..., 0]
    assert told.multiply_adds == maps[0].size // n_sides * one_map.size
    transformer.set_params(**{"pooling": "mean", "flatten": True, **settings})
    assert transformer.output_size() == told
    assert transformer.maps_shape_ == told.maps
    assert transformer.n_features_out_ == told.features
    assert transformer.multiply_adds_ == told.multiply_adds


def test_the_shape_comes_from_the_argument_or_fit_or_the_parameter():
    transformer = StridedConv2DTransformer(image_shape=(6, 5))
    assert transformer.output_size() == transformer.output_size((6, 5, 1))
    assert transformer.output_size([4, 4, 2]).maps == (4, 4, 64)
    transformer.set_params(image_shape=None).fit(np.ones((2, 7, 3)))
    assert transformer.output_size().maps == (7, 3, 64)


def test_an_unknown_shape_raises_an_error():
    with pytest.raises(ValueError, match=r"not known; pass it, as in output_size\(\("):
        StridedConv2DTransformer().output_size()
    for name in ("maps_shape_", "n_features_out_", "multiply_adds_"):
        assert not hasattr(StridedConv2DTransformer(image_shape=(8, 8)), name)


@pytest.mark.parametrize(
    ("settings", "image_shape", "error", "message"),
    [
        ({}, 8, TypeError, r"'image_shape' parameter of StridedConv2DTransformer.output_size"),
        ({}, (8, 8.0), TypeError, r"must be \(h, w\) or \(h, w, c\), integers"),
        ({}, (2, 8, 8, 3), ValueError, r"must be \(h, w\) or \(h, w, c\)"),
        ({}, (8, 0), ValueError, "at least 1"),
        (
            {"padding": "valid", "kernel_size": 9},
            (8, 8),
            ValueError,
            "padding='same', or a smaller",
        ),
        ({"kernels": np.ones((3, 3, 3, 2))}, (8, 8), ValueError, "see 3 channels, but the images"),
        ({"stride": 0}, (8, 8), ValueError, "'stride' parameter"),
    ],
)
def test_errors(settings, image_shape, error, message):
    with pytest.raises(error, match=message):
        StridedConv2DTransformer(**settings).output_size(image_shape)


def test_the_html_of_a_fitted_transformer_has_sizes_and_links():
    html = StridedConv2DTransformer(random_state=0).fit(np.ones((2, 6, 5)))._repr_html_()
    assert "/api/generated/sklearn_conv.StridedConv2DTransformer.html" in html
    if "Fitted attributes" in html:  # scikit-learn 1.9 and later
        assert "(6, 5, 64)" in html
        assert "multiply_adds_" in html


def test_too_many_features_are_an_error_that_says_how_many():
    images = np.broadcast_to(np.float32(0), (2**12, 128, 128))
    kernels = np.ones((1, 1, 1, 2**15), np.float32)
    transformer = StridedConv2DTransformer(kernels=kernels, pooling=None).fit(images[:1])
    with pytest.raises(MemoryError, match=r"4096 images have 536870912 features each.*_batches"):
        transformer.transform(images)


def test_what_was_fitted_does_not_change_with_parameters():
    images = np.random.default_rng(0).random((5, 8, 8, 3))
    transformer = StridedConv2DTransformer(6, kernel_size=3, random_state=0).fit(images)
    transformer.set_params(n_kernels=50, kernel_size=5)
    assert transformer.n_features_out_ == transformer.transform(images).shape[1]
    transformer.set_params(stride=2, pooling=None)
    # Parameters are read when they are used.
    assert transformer.transform(images).shape == (5, 4 * 4 * 6)
    assert transformer.maps_shape_ == (8, 8, 6)
    assert transformer.n_features_out_ == 24
    assert transformer.multiply_adds_ == 8 * 8 * 3 * 3 * 3 * 6


@pytest.mark.parametrize("bad", [{"stride": 0}, {"padding": "valid", "dilation": 9}, {"bias": "x"}])
def test_html_with_invalid_parameters_after_fit(bad):
    transformer = StridedConv2DTransformer(6, random_state=0).fit(np.ones((5, 8, 8)))
    transformer.set_params(**bad)
    pipeline = make_pipeline(transformer, StandardScaler())
    for estimator in (transformer, pipeline):
        assert "StridedConv2DTransformer" in estimator._repr_html_()
    assert transformer.maps_shape_ == (8, 8, 6)


def test_the_places_of_one_size_are_kept():
    sizes = {(500 + i, 700): i for i in range(2000)}
    parameters = check_parameters(StridedConv2DTransformer())
    tracemalloc.start()
    place_on_all(parameters, sizes, (3, 3, 3, 8), 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
