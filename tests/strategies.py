"""Hypothesis strategies: images in any dtype and memory order, and arguments of `conv2d`."""

import numpy as np
from hypothesis import strategies as st

from sklearn_conv._engine.geometry import PADDING_MODES

ORDERS = ["C", "F", "channels first", "negative strides", "slice of more", "read-only"]
DTYPES = ["float32", "float64", "float16", "uint8", "int8", "uint16", "int64", "bool", ">f4"]


def numbers(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -1000), min(info.max, 1000), shape, dtype, endpoint=True)


def in_order(array, order):
    """Return an array with the same numbers in another memory order."""
    if order == "F":
        return np.asfortranarray(array)
    if order == "channels first":
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    if order == "negative strides":
        return np.ascontiguousarray(array[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1]
    if order == "slice of more":
        more = np.full([length + 3 for length in array.shape], 77, array.dtype)
        view = more[1:-2, 1:-2, 1:-2, 1:-2]
        view[...] = array
        return view
    array = array.copy()
    if order == "read-only":
        array.flags.writeable = False
    return array


HARD = ["plain", "offset", "fill", "flat", "weak", "tiny"]


@st.composite
def hard_images(draw, n_rows=(3, 24), n_columns=(3, 90)):
    """Draw float32 images in which plain arithmetic loses digits.

    They have a large offset, a fill value inside or outside of a strip, the same value everywhere,
    weak values of the other sign, or tiny values. A sixth of them are plain.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = [draw(st.integers(*ends)) for ends in ((1, 3), n_rows, n_columns, (1, 2))]
    images = rng.random(shape)
    kind = draw(st.sampled_from(HARD))
    if kind == "offset":
        images += draw(st.sampled_from([-30_000, 1e4, 60_000]))
    if kind == "fill":
        fill = draw(st.sampled_from([-9999, 1e6, 1e20, -1e36]))
        strip = np.zeros(shape[1:3], bool)
        axis = draw(st.integers(0, 1))
        start = draw(st.integers(0, shape[1 + axis] - 1))
        strip.swapaxes(0, axis)[start : start + draw(st.integers(1, 12))] = True
        images[:, strip ^ draw(st.booleans())] = fill  # the strip, or all but the strip
    if kind == "flat":
        images[:] = draw(st.floats(0.1, 300))
    if kind == "weak":
        images += 1
        images[:, :: draw(st.integers(2, 9)), 0] = -draw(st.sampled_from([1e-6, 1e-4, 1e-2]))
    if kind == "tiny":
        images *= draw(st.sampled_from([1e-30, 1e-38, 1e-42]))
    return images.astype(np.float32)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw):
    """Draw images, kernels and keyword arguments with which at least one window fits."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.integers(1, 3))
    group_in, group_out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kh, kw = draw(pairs)
    dilation = draw(pairs)
    padding = draw(st.sampled_from(["valid", "same", "pair"]))
    if padding == "pair":
        padding = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    smallest = [1, 1]
    if padding != "same":
        both = (0, 0) if padding == "valid" else padding
        spans = [d * (k - 1) + 1 for k, d in zip((kh, kw), dilation, strict=True)]
        smallest = [max(1, span - 2 * p) for span, p in zip(spans, both, strict=True)]
    h, w = (length + draw(st.integers(0, 5)) for length in smallest)
    shape = (draw(st.integers(1, 3)), h, w, groups * group_in)
    images = numbers(rng, shape, draw(st.sampled_from(DTYPES)))
    kernels = numbers(
        rng, (kh, kw, group_in, groups * group_out), draw(st.sampled_from(["f4", "f8", "i1"]))
    )
    return (
        in_order(images, draw(st.sampled_from(ORDERS))),
        in_order(kernels, draw(st.sampled_from(ORDERS))),
        {
            "stride": draw(pairs),
            "padding": padding,
            "padding_mode": draw(st.sampled_from(sorted(PADDING_MODES))),
            "dilation": dilation,
            "groups": groups,
            "bias": draw(st.sampled_from([None, rng.standard_normal(groups * group_out)])),
        },
    )
