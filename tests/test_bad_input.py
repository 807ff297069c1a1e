"""Errors and messages for wrong parameters, and for an X that is not a batch of images."""

import re
import warnings
from datetime import date

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse

from sklearn_conv import StridedConv2DTransformer, _pixels, conv2d

IMAGES = np.random.default_rng(0).random((4, 8, 8))
SMALL = IMAGES.astype(np.float32)


def with_value(value):
    images = IMAGES.copy()
    images[2, 3, 4] = value
    return images


def ragged():
    images = np.empty(2, object)
    images[:] = [np.ones((8, 8)), np.ones((9, 9))]
    return images


BAD_X = {
    "NaN": (with_value(np.nan), ValueError, "NaN.*nan_to_num"),
    "NaN in rows": (with_value(np.nan).reshape(4, -1), ValueError, "NaN.*nan_to_num"),
    "infinity": (with_value(-np.inf), ValueError, "infinity.*nan_to_num"),
    "NaN in float16": (with_value(np.nan).astype("f2"), ValueError, "NaN"),
    "complex": (IMAGES * 1j, ValueError, "complex128; make channels of X.real and X.imag"),
    "complex rows": (np.ones((2, 4)) * 1j, ValueError, "complex128"),
    "strings": (np.full((2, 4), "1.5"), TypeError, "dtype <U3; convert it to numbers"),
    "bytes": (np.full((2, 3, 3), b"a"), TypeError, r"dtype \|S1; convert it to numbers"),
    "objects": (np.array([[{}, None]]), TypeError, "dict"),
    "objects in images": (np.full((2, 3, 3), {}), TypeError, "dict"),
    "sparse matrix": (sparse.csr_matrix(np.eye(4)), TypeError, r"toarray\(\)"),
    "sparse array": (sparse.coo_array(np.eye(4)), TypeError, r"toarray\(\)"),
    "ragged list": ([[[1, 2], [3, 4]], [[1, 2, 3]]], ValueError, "images of one size"),
    "list of unequal images": (list(ragged()), ValueError, "images of one size"),
    "unequal images": (ragged(), ValueError, "images of one size"),
    "dates": (np.zeros((2, 4, 4), "M8[s]"), TypeError, r"datetime64\[s\]; convert it to numbers"),
    "durations": (np.zeros((2, 4), "m8[s]"), TypeError, "timedelta64"),
    "records": (np.zeros((2, 4), [("a", "f4")]), TypeError, "convert it to numbers"),
    "empty list": ([], ValueError, "length 0"),
    "no images": (np.zeros((0, 8, 8)), ValueError, r"0 sample\(s\)"),
    "no rows of X": (np.zeros((0, 64)), ValueError, r"0 sample\(s\)"),
    "no rows": (np.zeros((3, 0, 8)), ValueError, r"\(3, 0, 8\) has an empty axis"),
    "no channels": (np.zeros((3, 8, 8, 0)), ValueError, r"\(3, 8, 8, 0\) has an empty axis"),
    "no columns": (np.zeros((3, 0)), ValueError, r"0 feature\(s\)"),
    "1-D": (np.zeros(64), ValueError, r"X.reshape\(1, h, w, c\)"),
    "5-D": (np.zeros((1, 2, 3, 4, 5)), ValueError, r"5 axes, shape \(1, 2, 3, 4, 5\)"),
    "a number": (3.0, TypeError, "which is not an array"),
    "a 0-d object": (np.array({}, object), TypeError, "which is not an array"),
    "None": (None, TypeError, "X is None, which is not an array"),
    "a string": ("abc", TypeError, "'abc'.*, which is not an array"),
    "a dict": ({"a": 1}, TypeError, "which is not an array"),
    "masked": (np.ma.masked_greater(IMAGES, 0.5), ValueError, r"X.filled\(0\)"),
    "masked list": (
        [np.ma.masked_greater(IMAGES[0], 0.5)],
        ValueError,
        "masked values; set missing",
    ),
    "beyond float64": (np.full((2, 8, 8), np.longdouble("1e4000")), ValueError, "infinity"),
    "a class": (np.ndarray, TypeError, "which is not an array"),
    "a column": (pl.Series([1.0, 2.0]), ValueError, r"numpy.stack\(X\)"),
    "numbers as strings": (pd.DataFrame({"a": ["1.5"]}), TypeError, "columns of strings"),
    "a table of strings": (pd.DataFrame({"a": ["x"], "b": [1]}), TypeError, "columns of strings"),
    "a table of dates": (pd.DataFrame({"a": pd.to_datetime(["2026"])}), TypeError, "datetime64"),
    "a table of dates, polars": (pl.DataFrame({"a": [date(2026, 1, 1)]}), TypeError, "numbers"),
    "a table of strings, polars": (
        pl.DataFrame({"a": ["x"], "b": [1]}),
        TypeError,
        "columns of strings",
    ),
}
RULE = re.escape("(n, h, w, c), (n, h, w) or, with one image in each row, (n, h*w*c)")

BAD_SHAPES = {
    "another size": (np.zeros((2, 9, 9)), r"\(9, 9, 1\), but .* fitted on .* \(8, 8, 1\)"),
    "the same number of pixels": (np.zeros((2, 4, 16)), r"\(4, 16, 1\), but .* \(8, 8, 1\)"),
    "pixels as channels": (np.zeros((2, 4, 4, 4)), r"\(4, 4, 4\), but .* \(8, 8, 1\)"),
    "too few columns": (np.zeros((2, 60)), "60 features.* expecting 64 features.*8, 8, 1"),
    "a single image": (IMAGES[0], r"expecting 64 features.* as X\[np.newaxis\]"),
}

PAIR = r"an integer of at least 1 or a \(rows, columns\) pair of integers of at least 1.*\. Got "
GRID = (
    r"an integer .* pair of .*, or a list of different grids, each an integer or a tuple.*\. Got "
)
COUNTS = [
    *[(value, ValueError) for value in (0, -1, np.int64(-3), 10**30)],
    *[(value, TypeError) for value in (1.5, 2.0, "2", None, True, np.nan, 1j, {2})],
]
PAIRS = [
    *COUNTS,
    *[(value, ValueError) for value in ((), (3,), (1, 2, 3), (0, 3), (3, -1), [1, 2, 3])],
    *[(value, TypeError) for value in ((True, 3), (1, "2"), (1.0, 2), [[1], [2, 3]], {1, 2})],
]
CHOICES = r"must be one of \[.*\].*\. Got "


def name_of(z):
    return "a"


BAD_PARAMETERS = [
    *[("n_kernels", *case, r"an integer of at least 1.*\. Got ") for case in COUNTS],
    *[(name, *case, PAIR) for case in PAIRS for name in ("kernel_size", "stride")],
    *[("dilation", *case, PAIR) for case in PAIRS],
    *[("pool_grid", *case, GRID) for case in PAIRS if str(case[0]) != "[1, 2, 3]"],
    *[("pool_grid", value, ValueError, GRID) for value in ([], [0], [2, 2], [2, (2, 2)])],
    *[("pool_grid", value, ValueError, GRID) for value in ([1, (1, 2, 4)], [2**31])],
    *[("pool_grid", value, TypeError, GRID) for value in ([[1, 2]], [1, "2"], [(1, None)])],
    ("kernels", "gauss", ValueError, CHOICES + "'gauss'"),
    ("kernels", "", ValueError, CHOICES + "''"),
    ("kernels", None, TypeError, CHOICES + "None"),
    ("kernels", 3, TypeError, CHOICES + "3"),
    ("kernels", np.ones((3, 3)), ValueError, r"\(kh, kw, c, n_kernels\). Got shape \(3, 3\)"),
    ("kernels", np.ones((0, 3, 1, 4)), ValueError, r"Got shape \(0, 3, 1, 4\)"),
    ("kernels", [[1, 2], [3]], ValueError, "Got lists or arrays of unequal lengths"),
    ("kernels", np.ones((3, 3, 2, 4)), ValueError, r"see 2 channels, but the images have 1;"),
    ("kernels", np.full((3, 3, 1, 4), np.nan), ValueError, "finite.*Got NaN or infinity"),
    ("kernels", np.full((3, 3, 1, 4), 1j), TypeError, "Got an array of shape .* complex128"),
    ("kernels", np.full((3, 3, 1, 4), "a"), TypeError, "Got an array of shape"),
    ("kernels", np.full((3, 3, 1, 4), 1e300), ValueError, "overflow in float32.*images to float64"),
    ("kernels", lambda shape, rng, patches: np.ones(3), ValueError, r"\(3, 3, 1, 64\). Got shape"),
    ("kernels", lambda shape, rng, patches: None, TypeError, "a callable that returns.*Got None"),
    ("kernels", lambda shape, rng, patches: np.full(shape, np.inf), ValueError, "finite"),
    ("kernels", lambda shape: np.ones(shape), TypeError, r"init\(shape, rng, patches\). Got"),
    ("kernels", lambda shape, rng, patches: patches(0), ValueError, "'n' .* at least 1. Got 0"),
    ("bias", None, TypeError, r'a real number, "quantile" or an array .* \(64,\). Got None'),
    ("bias", "low", ValueError, r'a real number, "quantile" or an array .*\(64,\), .*Got \'low\''),
    ("bias", np.nan, ValueError, "must be finite. Got nan"),
    ("bias", np.inf, ValueError, "must be finite. Got inf"),
    ("bias", np.float32(np.inf), ValueError, "must be finite. Got .*inf"),
    ("bias", 10**400, ValueError, "must be finite"),
    ("bias", np.ma.masked_array([0.0] * 64, [1] * 64), ValueError, "masked values; fill them"),
    ("bias", True, TypeError, "Got True"),
    ("bias", 1j, TypeError, "Got 1j"),
    ("bias", np.ones(3), ValueError, r"\(64,\). Got shape \(3,\)"),
    ("bias", np.ones((2, 3)), ValueError, r"\(n_biases, 64\). Got shape \(2, 3\)"),
    ("bias", np.ones((0, 1)), ValueError, r"Got shape \(0, 1\)"),
    ("bias", np.ones((1, 2, 3)), ValueError, r"Got shape \(1, 2, 3\)"),
    ("bias", [[0.0], [1.0, 2.0]], ValueError, "unequal lengths"),
    ("bias", [[0.0], [np.inf]], ValueError, "Got NaN or infinity"),
    ("n_biases", 0, ValueError, "an integer from 1 to 10000. Got 0"),
    ("n_biases", 10**9, ValueError, "an integer from 1 to 10000. Got 1000000000"),
    ("n_biases", 1.0, TypeError, "an integer from 1 to 10000. Got 1.0"),
    ("n_biases", True, TypeError, "Got True"),
    ("n_biases", 2, ValueError, 'bias is 0.0; use bias="quantile", or an array of shape'),
    ("symmetries", "turned", ValueError, r"\['dihedral', 'mirror'\] or None. Got 'turned'"),
    ("symmetries", True, TypeError, r"\['dihedral', 'mirror'\] or None. Got True"),
    ("symmetries", ["mirror"], TypeError, "or None. Got"),
    ("power", 0, ValueError, "a finite number above 0; 0.5 is the square root. Got 0"),
    ("power", -0.5, ValueError, "Got -0.5"),
    ("power", np.nan, ValueError, "Got nan"),
    ("power", np.inf, ValueError, "Got inf"),
    ("power", "root", TypeError, "Got 'root'"),
    ("power", True, TypeError, "Got True"),
    ("power", None, TypeError, "Got None"),
    ("bias", [np.nan] * 64, ValueError, "Got NaN or infinity"),
    ("bias", [1, "a"], TypeError, r"Got \[1, 'a'\]"),
    ("padding", "full", ValueError, "'valid', 'same', an integer .* Got 'full'"),
    ("padding", -1, ValueError, "at least 0. Got -1"),
    ("padding", (1, -1), ValueError, r"Got \(1, -1\)"),
    ("padding", (1, 2, 3), ValueError, r"Got \(1, 2, 3\)"),
    ("padding", 1.5, TypeError, "Got 1.5"),
    ("padding", None, TypeError, "Got None"),
    ("padding", True, TypeError, "Got True"),
    ("padding", ["same", "valid"], TypeError, r"Got \['same', 'valid'\]"),
    ("padding_mode", "zeros", ValueError, CHOICES + "'zeros'"),
    ("padding_mode", None, TypeError, CHOICES + "None"),
    ("padding_mode", ["edge"], TypeError, CHOICES + r"\['edge'\]"),
    ("activation", "rely", ValueError, CHOICES + "'rely'"),
    ("activation", None, TypeError, CHOICES + "None"),
    ("activation", ["relu"], TypeError, CHOICES + r"\['relu'\]"),
    ("activation", np.sum, ValueError, r"shape \(\) .* work on every element"),
    ("activation", name_of, ValueError, "dtype <U1 .* work on every element"),
    ("pooling", "maxx", ValueError, CHOICES + "'maxx'"),
    ("pooling", 3, TypeError, CHOICES + "3"),
    ("pooling", [], ValueError, CHOICES + r"\[\]"),
    ("pooling", ["mean", "mean"], ValueError, "without repetition"),
    ("pooling", ["mean", None], TypeError, CHOICES + r"\['mean', None\]"),
    ("pooling", ["mean", "avg"], ValueError, CHOICES + r"\['mean', 'avg'\]"),
    ("pooling", {"mean"}, TypeError, CHOICES + "{'mean'}"),
    *[
        (name, value, TypeError, f"True or False. Got {value!r}")
        for name in ("flatten", "normalize_patches")
        for value in (None, 1, "yes", 0.5)
    ],
    ("whiten", None, TypeError, "True, False or a finite number above 0.*Got None"),
    ("whiten", "zca", TypeError, "Got 'zca'"),
    ("whiten", 0, ValueError, "above 0, the regularization. Got 0"),
    ("whiten", -0.1, ValueError, "Got -0.1"),
    ("whiten", np.nan, ValueError, "Got nan"),
    ("whiten", np.inf, ValueError, "Got inf"),
    ("whiten", np.float32(np.nan), ValueError, "Got .*nan"),
    ("whiten", 10**400, ValueError, "Got 1000"),
    ("whiten", [0.1], TypeError, "Got "),
    *[("n_patches", *case, r"an integer of at least 1.*\. Got ") for case in COUNTS],
    *[
        (
            "kernels",
            name,
            ValueError,
            rf"{name}' has at most kh \* kw \* c = 9 .* n_kernels=64; use",
        )
        for name in ("pca", "dct", "haar")
    ],
    ("image_shape", 8, TypeError, r"\(h, w\) or \(h, w, c\).*Got 8"),
    ("image_shape", np.array(8), TypeError, r"\(h, w\) or \(h, w, c\).*Got array\(8\)"),
    ("image_shape", "8x8", TypeError, "Got '8x8'"),
    ("image_shape", (8.0, 8), TypeError, r"Got \(8.0, 8\)"),
    ("image_shape", (64,), ValueError, r"Got \(64,\)"),
    ("image_shape", (8, 0), ValueError, r"Got \(8, 0\)"),
    ("image_shape", (8, 8, 1, 1), ValueError, r"Got \(8, 8, 1, 1\)"),
    ("image_shape", (4, 16), ValueError, r"\(8, 8, 1\), but image_shape=\(4, 16, 1\); set"),
    ("random_state", "a", TypeError, "Got 'a'"),
    ("random_state", True, TypeError, "Got True"),
    ("random_state", 1.5, TypeError, "Got 1.5"),
    ("random_state", np.random.default_rng(0), TypeError, "RandomState. Got Generator"),
    ("random_state", -1, ValueError, "Got -1"),
    ("random_state", 2**32, ValueError, "from 0 to .* Got 4294967296"),
    ("n_jobs", 0, ValueError, "Got 0"),
    ("n_jobs", 10**30, ValueError, "Got 1000"),
    ("n_jobs", 1.5, TypeError, "Got 1.5"),
    ("n_jobs", True, TypeError, "Got True"),
    ("verbose", -1, ValueError, "Got -1"),
    ("verbose", "yes", TypeError, "Got 'yes'"),
    ("verbose", None, TypeError, "Got None"),
]

CONV_IMAGES, CONV_KERNELS = np.ones((2, 5, 6, 4)), np.ones((3, 3, 4, 2))
BAD_CONV2D = [
    ("images", CONV_IMAGES[0], ValueError, r"\(n, h, w, c_in\). Got shape \(5, 6, 4\)"),
    ("images", CONV_IMAGES[..., :0], ValueError, r"Got shape \(2, 5, 6, 0\)"),
    ("images", "abc", TypeError, "Got 'abc'"),
    ("images", CONV_IMAGES * 1j, TypeError, "complex128"),
    ("images", [[1], [1, 2]], ValueError, "Got lists or arrays of unequal lengths"),
    ("images", CONV_IMAGES.astype("M8[s]"), TypeError, "datetime64"),
    ("kernels", CONV_KERNELS[0], ValueError, r"c_in // groups, c_out\). Got shape \(3, 4, 2\)"),
    ("kernels", CONV_KERNELS[:0], ValueError, r"Got shape \(0, 3, 4, 2\)"),
    ("kernels", CONV_KERNELS[..., :0], ValueError, r"Got shape \(3, 3, 4, 0\)"),
    (
        "kernels",
        CONV_KERNELS[:, :, :3],
        ValueError,
        r"must have shape \(kh, kw, 4, c_out\). Got shape \(3, 3, 3, 2\)",
    ),
    ("kernels", None, TypeError, "Got None"),
    ("kernels", CONV_KERNELS * np.nan, ValueError, "Got NaN or infinity"),
    ("kernels", np.ma.masked_equal(CONV_KERNELS, 1), ValueError, "masked values; fill them"),
    ("images", np.ma.masked_equal(CONV_IMAGES, 1), ValueError, "masked values; fill them"),
    ("groups", 0, ValueError, "at least 1. Got 0"),
    ("groups", 1.0, TypeError, "Got 1.0"),
    ("groups", 2, ValueError, r"must have shape \(kh, kw, 2, c_out\)"),
    ("groups", 3, ValueError, "groups=3 does not divide the 4 channels"),
    ("groups", 4, ValueError, "groups=4 does not divide .* the 2 kernels"),
    ("bias", [1, 2, 3], ValueError, r"shape \(2,\). Got shape \(3,\)"),
    ("bias", 1.0, TypeError, r"shape \(2,\). Got 1.0"),
    ("bias", ["a", "b"], TypeError, r"Got \['a', 'b'\]"),
    ("stride", 0, ValueError, PAIR + "0"),
    ("stride", (1, 2, 3), ValueError, PAIR),
    ("dilation", "2", TypeError, PAIR + "'2'"),
    ("dilation", 3, ValueError, r"dilation=\(3, 3\) covers \(7, 7\) pixels and does not fit"),
    ("padding", "full", ValueError, "'valid', 'same'.*Got 'full'"),
    ("padding", -1, ValueError, "at least 0. Got -1"),
    ("padding_mode", "zero", ValueError, CHOICES + "'zero'"),
]


def fit_quietly(X, **parameters):
    """Fit a transformer; a warning is an error as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return StridedConv2DTransformer(**parameters).fit(X)


@pytest.mark.parametrize(("X", "error", "message"), BAD_X.values(), ids=BAD_X)
def test_bad_x_in_fit(X, error, message):
    with pytest.raises(error, match=f"(?s){message}.*{RULE}|{RULE}.*{message}"):
        fit_quietly(X)


@pytest.mark.parametrize(("X", "error", "message"), BAD_X.values(), ids=BAD_X)
@pytest.mark.filterwarnings("ignore:X has feature names:UserWarning")
def test_bad_x_in_transform(X, error, message):
    transformer = StridedConv2DTransformer().fit(IMAGES)
    table_of_two = isinstance(X, pd.DataFrame | pl.DataFrame)
    with pytest.raises(ValueError if table_of_two else error) as caught:
        transformer.transform(X)
    if not table_of_two:  # The number of columns of tables is wrong as well.
        assert re.search(message, str(caught.value), re.DOTALL)


@pytest.mark.parametrize(("X", "message"), BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_other_shapes_in_transform(X, message):
    with pytest.raises(ValueError, match=message):
        StridedConv2DTransformer().fit(IMAGES).transform(X)


def test_a_single_color_image_in_transform():
    transformer = StridedConv2DTransformer().fit(np.zeros((3, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"\(8, 3, 1\), but .* as X\[np.newaxis\]"):
        transformer.transform(np.zeros((8, 8, 3)))


def test_rows_of_another_length_than_image_shape():
    with pytest.raises(
        ValueError, match=r"image_shape=\(4, 4, 1\) requires 16 columns, but X has 64"
    ):
        fit_quietly(IMAGES.reshape(4, -1), image_shape=(4, 4))


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_PARAMETERS)
def test_bad_parameter(name, value, error, message):
    with pytest.raises(error, match=f"(?s)(?=.*{name})(?=.*{message})"):
        fit_quietly(SMALL, **{name: value})


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_PARAMETERS)
def test_bad_parameter_is_found_before_any_work(name, value, error, message):
    """If `fit` fails, it sets no attributes and makes no kernels."""
    made = []

    def init(shape, rng, patches):
        made.append(shape)
        return -np.ones(shape)

    transformer = StridedConv2DTransformer(kernels=init).set_params(**{name: value})
    with pytest.raises(error):
        transformer.fit(SMALL)
    assert not made
    assert not [name for name in vars(transformer) if name.endswith("_")]


@pytest.mark.parametrize("kernel_size", [9, (9, 1), (1, 9)])
def test_kernels_that_do_not_fit(kernel_size):
    with pytest.raises(
        ValueError, match=r"kernel_size=.* the padded image \(8, 8\); use images of"
    ):
        fit_quietly(IMAGES, kernel_size=kernel_size, padding="valid")


def test_dilated_kernels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"covers \(10, 9\) pixels and does not fit the padded"):
        fit_quietly(IMAGES, kernel_size=(4, 5), dilation=(3, 2), padding="valid")


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_CONV2D)
def test_bad_conv2d(name, value, error, message):
    with pytest.raises(error, match=f"(?s)(?=.*{name})(?=.*{message})"):
        conv2d(**{"images": CONV_IMAGES, "kernels": CONV_KERNELS, name: value})


def test_object_arrays_of_numbers_are_accepted():
    X = np.array([[1, 2.5, 3, 4]], dtype=object)
    np.testing.assert_array_equal(
        StridedConv2DTransformer(random_state=0).fit_transform(X),
        StridedConv2DTransformer(random_state=0).fit_transform(X.astype(float)),
    )


def test_a_failed_fit_leaves_the_estimator_as_it_was():
    transformer = StridedConv2DTransformer(4, random_state=0).fit(IMAGES)
    before = dict(vars(transformer))
    expected = transformer.transform(IMAGES)
    for parameters, X in [
        ({}, with_value(np.nan)),
        ({}, np.zeros((2, 0, 3))),
        ({"kernel_size": 9, "padding": "valid"}, np.zeros((2, 5, 5))),
        ({"bias": 1e39}, SMALL[:, :5]),  # overflow in float32
        ({"kernels": "sobel", "kernel_size": 1}, IMAGES[:, :4]),
    ]:
        with pytest.raises(ValueError, match=r"X|kernel|bias"):
            transformer.set_params(**parameters).fit(X)
        transformer.set_params(**{name: before[name] for name in parameters})
        assert vars(transformer) == before
    np.testing.assert_array_equal(transformer.transform(IMAGES), expected)


def test_a_table_may_have_a_column_of_any_name():
    table = pd.DataFrame({"dtype": [1.0, 2.0], "shape": [1, 2], "ndim": [0, 1], "d": [3, 4]})
    assert StridedConv2DTransformer().fit(table).image_shape_ == (2, 2, 1)


@pytest.mark.parametrize("place", range(4))
def test_nan_is_found_in_every_block(place, monkeypatch):
    monkeypatch.setattr(_pixels, "CHECK_BYTES", 1)
    X = IMAGES.copy()
    X[place, -1, -1] = np.nan
    with pytest.raises(ValueError, match="X contains NaN"):
        fit_quietly(X)
