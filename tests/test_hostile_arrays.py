"""Arrays with unusual memory layouts or values; memory outside of the arrays is never read."""

import signal
import sys

import numpy as np
import oracle
import pytest
from helpers import LEARNED, run_python
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from strategies import convolutions

from sklearn_conv import StridedConv2DTransformer, conv2d
from sklearn_conv._engine.geometry import PADDING_MODES

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 9, 8, 2)).astype("f4")
KERNELS = RNG.normal(size=(3, 2, 2, 4)).astype("f4")


class Noisy(np.ndarray):
    """Subclass of ndarray whose operations have other results."""

    def __getitem__(self, index):
        return super().__getitem__(index) + 1000

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("a ufunc of the subclass was called")


def misaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    assert not view.flags.aligned
    return view


def field_of_records(array):
    records = np.zeros(array.shape, [("a", "u1"), ("x", array.dtype), ("b", "u2")])
    records["x"] = array
    return records["x"]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


STRANGE = {
    "zero strides": lambda X: np.broadcast_to(X[:1, :, :1], X.shape),
    "negative strides": lambda X: X[::-1, ::-1, ::-1, ::-1],
    "steps": lambda X: X[::2, ::3, 1::2],
    "channels first": lambda X: np.ascontiguousarray(X.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
    "overlapping": lambda X: as_strided(X.ravel(), (5, 7, 6, 2), (8, 20, 4, 12)),
    "read-only": read_only,
    "big-endian": lambda X: X.astype(">f4"),
    "little-endian": lambda X: X.astype("<f8"),
    "misaligned": misaligned,
    "field of records": field_of_records,
    "subclass": lambda X: X.copy().view(Noisy),
    "masked, nothing masked": lambda X: np.ma.masked_array(X),
    "real part": lambda X: (X + 1j).real,
    "transposed": lambda X: X.T[:, :4, :5],
    "one long row": lambda X: X.reshape(1, 1, -1, 2),
}
strange = pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE)


def plain(array):
    """Copy the numbers one by one to a new array."""
    flat = np.asarray(array).astype(np.float64).ravel()
    return np.array(flat.tolist()).reshape(array.shape)


@strange
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_strange_in_memory(make, n_jobs):
    images = make(IMAGES)
    before = np.asarray(images).tobytes()
    expected = plain(images)
    kernels = RNG.normal(size=(3, 2, images.shape[3], 4))
    options = {"stride": (2, 1), "padding": "same", "padding_mode": "reflect"}
    maps = oracle.conv2d(expected, kernels, dilation=(1, 1), groups=1, bias=None, **options)
    np.testing.assert_allclose(conv2d(images, kernels, **options), maps, rtol=1e-4, atol=1e-4)
    transformer = StridedConv2DTransformer(5, random_state=0, n_jobs=n_jobs, **LEARNED)
    features = transformer.fit_transform(expected.astype("f4"))
    learned = transformer.kernels_
    again = transformer.fit_transform(images)
    np.testing.assert_allclose(transformer.kernels_, learned, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(again, features, rtol=1e-3, atol=1e-3)
    assert np.asarray(images).tobytes() == before


@pytest.mark.parametrize(
    ("dtype", "result"),
    [("u1", "f4"), ("i1", "f4"), ("u2", "f4"), ("i2", "f4"), ("i8", "f8"), ("u8", "f8")],
)
def test_integers_at_their_ends(dtype, result):
    info = np.iinfo(dtype)
    images = np.array([info.min, info.max, 0, 1], dtype)[RNG.integers(4, size=(3, 6, 6, 2))]
    maps = conv2d(images, KERNELS)
    expected = oracle.conv2d(
        images.astype("f8"), KERNELS, (1, 1), "valid", "constant", (1, 1), 1, None
    )
    assert maps.dtype == result
    tolerance = (1e-6 if result == "f4" else 1e-14) * float(info.max) * 20
    np.testing.assert_allclose(maps, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("f4", 1e37), ("f4", 1e-37), ("f4", 1e-42), ("f8", 1e300), ("f8", 1e-310), ("f2", 6e4)],
)
@pytest.mark.filterwarnings("error")
def test_huge_and_denormal_values(dtype, scale):
    images = (RNG.uniform(-1, 1, (3, 6, 6, 2)) * scale).astype(dtype)
    kernels = RNG.uniform(-0.1, 0.1, (3, 2, 2, 4))
    maps = conv2d(images, kernels)
    expected = oracle.conv2d(
        images.astype("f8") / scale, kernels, (1, 1), "valid", "constant", (1, 1), 1, None
    )
    np.testing.assert_allclose(maps.astype("f8") / scale, expected, atol=1e-5 + 1e-45 / scale * 20)
    features = StridedConv2DTransformer(4, random_state=0).fit_transform(images)
    assert np.isfinite(features).all()
    assert (features > 0).any()


SENTINELS = [np.nan, np.inf]


@given(convolutions(), st.sampled_from(SENTINELS), st.tuples(*[st.integers(0, 3)] * 4))
def test_nothing_around_the_images_is_read(case, sentinel, margins):
    images, kernels, options = case
    images = images.astype("f4")
    around = np.full(
        [length + 2 * m for length, m in zip(images.shape, margins, strict=True)], sentinel, "f4"
    )
    inside = around[
        tuple(slice(m, m + length) for m, length in zip(margins, images.shape, strict=True))
    ]
    inside[...] = images
    np.testing.assert_array_equal(
        conv2d(inside, kernels, **options), conv2d(images, kernels, **options)
    )


@pytest.mark.parametrize("mode", sorted(PADDING_MODES))
@pytest.mark.parametrize(
    "options", [{}, LEARNED, {"kernel_size": 7, "dilation": 2}, {"stride": (2, 5)}]
)
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_nothing_around_the_images_gets_into_features(mode, options, n_jobs):
    around = np.full((8, 15, 13, 4), np.nan, "f4")
    inside = around[1:7, 3:12, 2:10, 1:3]
    inside[...] = IMAGES
    transformer = StridedConv2DTransformer(
        4, random_state=0, padding_mode=mode, n_jobs=n_jobs
    ).set_params(**options)
    expected = transformer.fit_transform(IMAGES)
    np.testing.assert_allclose(transformer.fit_transform(inside), expected, rtol=1e-5, atol=1e-5)


GUARDED = """
import ctypes, itertools, mmap, os, sys
import numpy as np
from sklearn_conv import StridedConv2DTransformer, conv2d
from sklearn_conv._engine import native_engine

# A matrix unit computes small kernels as well.
native_engine.MIN_TILE_PRODUCTS = native_engine.MIN_TERM_PRODUCTS = 0
native_engine.MIN_TERM_WEIGHTS = 0
PAGE = mmap.PAGESIZE
memory = mmap.mmap(-1, 8 * PAGE)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
libc = ctypes.CDLL(None, use_errno=True)
for first in (0, 7):  # Access to the first and the last page is an error.
    if libc.mprotect(ctypes.c_void_p(address + first * PAGE), ctypes.c_size_t(PAGE), 0):
        sys.exit(77)
raw = np.frombuffer(memory, np.uint8)
if sys.argv[1] == "outside":
    print(raw[7 * PAGE])

def guarded(array, at_the_end):
    start = 7 * PAGE - array.nbytes if at_the_end else PAGE
    view = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view

rng = np.random.default_rng(0)
n = 0
for shape, dtype, at_the_end in itertools.product(
    [(3, 9, 8, 2), (1, 20, 20, 1), (5, 3, 3, 3), (2, 1, 17, 1)], ["u1", "f8"], [0, 1]
):
    array = (50 * rng.random(shape)).astype(dtype)
    images = guarded(array, at_the_end)
    turned, thin = images.transpose(0, 2, 1, 3), images[:, ::2]
    for order in (images, images[::-1, ::-1, ::-1, ::-1], thin, turned):
        for size, stride, dilation, padding, mode in itertools.product(
            [1, 2, (3, 5)], [1, (2, 3)], [1, 2], ["same", 3], ["constant", "wrap", "reflect"]
        ):
            kernels = np.ones((*np.broadcast_to(size, 2), shape[3], 2))
            options = {"padding": padding, "padding_mode": mode, "dilation": dilation}
            try:
                conv2d(order, kernels, stride, **options)
                n += 1
            except ValueError as error:
                assert "does not fit" in str(error)
        learned = {"kernels": "patches", "whiten": True, "normalize_patches": True}
        for options in ({}, {"n_jobs": 2}, learned):
            transformer = StridedConv2DTransformer(3, random_state=0, **options)
            features = transformer.fit_transform(order)
            np.testing.assert_allclose(features, transformer.fit_transform(order.copy()), atol=1e-4)
            n += 1
print(n, "calls", flush=True)
os._exit(0)  # The memory map is still in use.
"""


def run_guarded(where):
    return run_python(GUARDED, where)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect of Linux")
def test_pages_before_and_after_the_images_are_never_touched():
    done = run_guarded("inside")
    if done.returncode == 77:
        pytest.skip("mprotect is not allowed here")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 2000
    assert run_guarded("outside").returncode == -signal.SIGSEGV  # The guard pages work.
