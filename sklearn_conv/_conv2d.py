"""`conv2d`, the plain convolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sklearn_conv._array_api import as_memory_error, require_numpy
from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.choice import make_engine
from sklearn_conv._engine.geometry import place_windows
from sklearn_conv._engine.layer import Layer, compute_dtype
from sklearn_conv._parameters import check_extent, check_window_parameters
from sklearn_conv._validation import cast_numbers, check_integer, check_numbers


def conv2d(
    images: npt.ArrayLike,
    kernels: npt.ArrayLike,
    stride: int | tuple[int, int] = 1,
    *,
    padding: str | int | tuple[int, int] = "valid",
    padding_mode: str = "constant",
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    bias: npt.ArrayLike | None = None,
) -> np.ndarray:
    """Convolve a batch of images with kernels.

    ``(n, h, w, c_in), (kh, kw, c_in // groups, c_out) -> (n, oh, ow, c_out)``

    As in deep-learning libraries, kernels are not flipped, so this is a cross-correlation. With p
    rows of padding in total, ``oh = (h + p - (dilation * (kh - 1) + 1)) // stride + 1``. The same
    formula applies to ``ow``.

    Parameters
    ----------
    images : array-like of shape (n, h, w, c_in)
        Images of real numbers, channels last, in any memory order. NaN affects only the windows
        that contain it. The result is float32 if the images are float32, float16, bool or integers
        of at most 16 bits, else float64.
    kernels : array-like of shape (kh, kw, c_in // groups, c_out)
        Kernels of finite real numbers. They are cast to the dtype of the result.
    stride : int or (rows, columns), default=1
        Distance from one window to the next, in pixels.
    padding : {"valid", "same"}, int or (rows, columns), default="valid"
        Number of pixels added on each side of the image. "valid" adds none. "same" adds as many as
        are needed for ``oh = ceil(h / stride)``; if their number is odd, the extra row is added at
        the bottom and the extra column on the right.
    padding_mode : {"constant", "edge", "reflect", "symmetric", "wrap"}, default="constant"
        Values of the added pixels, as in `numpy.pad`; "constant" adds zeros.
    dilation : int or (rows, columns), default=1
        Distance from one weight of a kernel to the next, in pixels.
    groups : int, default=1
        Number of groups into which channels and kernels are divided. Each group of kernels is
        applied to its group of channels; ``groups=c_in`` is a depthwise convolution.
    bias : array-like of shape (c_out,), default=None
        Bias added to each map. None means 0.

    Returns
    -------
    maps : ndarray of shape (n, oh, ow, c_out)
        Responses of the kernels, in float32 or float64, see ``images``. Responses that overflow are
        infinite or NaN.

    Raises
    ------
    TypeError
        If a parameter has a wrong type.
    ValueError
        If a parameter has a wrong value, if shapes do not match, or if the kernels do not fit the
        padded images.
    MemoryError
        If the maps do not fit into memory.

    See Also
    --------
    StridedConv2DTransformer : Convolution, activation and pooling in a scikit-learn estimator.

    Notes
    -----
    The convolution is computed in blocks of a few megabytes, whatever the size of the result. It
    uses one thread, unless a `joblib.parallel_config` context says otherwise.

    Source: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning" (2016).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_conv import conv2d
    >>> image = np.arange(25.0).reshape(1, 5, 5, 1)
    >>> right_minus_left = np.array([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
    >>> conv2d(image, right_minus_left, stride=2)[0, :, :, 0]
    array([[2., 2.],
           [2., 2.],
           [2., 2.]])
    >>> conv2d(image, right_minus_left, padding="same", padding_mode="edge").shape
    (1, 5, 5, 1)
    """
    parameters = check_window_parameters("conv2d", stride, padding, padding_mode, dilation)
    groups = check_integer("conv2d", "groups", groups, 1)
    require_numpy("conv2d", images, "images")
    images = check_numbers("conv2d", "images", images, ("n", "h", "w", "c_in"))
    kernels = check_numbers(
        "conv2d", "kernels", kernels, ("kh", "kw", "c_in // groups", "c_out"), finite=True
    )
    n, h, w, c_in = images.shape
    kh, kw, group_in, c_out = kernels.shape
    if c_in % groups or c_out % groups:
        raise ValueError(
            f"groups={groups} does not divide the {c_in} channels of the images and the {c_out} "
            "kernels; use a number that divides both."
        )
    if group_in * groups != c_in:
        raise ValueError(
            f"kernels for images of {c_in} channels and groups={groups} must have shape (kh, kw, "
            f"{c_in // groups}, c_out). Got shape {kernels.shape} instead."
        )
    shift = check_numbers(
        "conv2d", "bias", np.zeros(c_out) if bias is None else bias, (c_out,), finite=True
    )
    check_extent("conv2d", (kh, kw), parameters.dilation)
    geometry = place_windows((h, w), (kh, kw), parameters)
    dtype = compute_dtype(images.dtype)
    kernels, shift = cast_numbers("kernels", kernels, dtype), cast_numbers("bias", shift, dtype)
    rows, columns = geometry.output_shape
    remedy = (
        f"Each of {n} images has {c_out} maps of {rows} x {columns} responses. Pass fewer images "
        "at once, or use a larger stride, less padding or fewer kernels."
    )
    with as_memory_error(remedy):
        maps = np.empty((n, rows, columns, c_out), dtype)
    for channels, outputs in zip(_split(c_in, groups), _split(c_out, groups), strict=True):
        layer = Layer(
            kernels=np.ascontiguousarray(kernels[..., outputs]),
            offset=np.zeros(outputs.stop - outputs.start, dtype),
            bias=shift[np.newaxis, outputs],
            sides=ACTIVATIONS["identity"],
            geometry=geometry,
        )
        # The engine writes (n, oh, ow, poolings, outputs, k): one pooling, and one output.
        out = maps[:, :, :, np.newaxis, np.newaxis, outputs]
        make_engine(layer).compute(images[..., channels], out, n_jobs=None)
    return maps


def _split(length: int, groups: int) -> list[slice]:
    """Divide an axis into groups of equal length."""
    size = length // groups
    return [slice(start, start + size) for start in range(0, length, size)]
