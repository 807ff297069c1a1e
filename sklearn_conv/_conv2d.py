"""`conv2d`, the plain convolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sklearn_conv._engine.activation import ACTIVATIONS
from sklearn_conv._engine.numpy_engine import Layer, compute_dtype, compute_maps
from sklearn_conv._parameters import check_window_parameters
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

    This is cross-correlation: kernels are not flipped, as in every deep-learning library. With p
    rows of padding in all, ``oh = (h + p - (dilation * (kh - 1) + 1)) // stride + 1``; ``ow``
    likewise.

    Parameters
    ----------
    images : array-like of shape (n, h, w, c_in)
        Real numbers, channels last, in any memory order; NaN stays where its windows are. float32
        and float64 keep their dtype; bool, 8- and 16-bit integers and float16 are computed in
        float32, all others in float64.
    kernels : array-like of shape (kh, kw, c_in // groups, c_out)
        Finite; cast to the dtype of the result.
    stride : int or (rows, columns), default=1
        Pixels from one window to the next.
    padding : {"valid", "same"}, int or (rows, columns), default="valid"
        What is added on each side of the image, in pixels. "valid" adds nothing. "same" adds what
        makes ``oh = ceil(h / stride)``; an odd row or column goes below or to the right.
    padding_mode : {"constant", "edge", "reflect", "symmetric", "wrap"}, default="constant"
        What the added pixels hold, as in `numpy.pad`; "constant" is 0.
    dilation : int or (rows, columns), default=1
        Pixels from one weight of a kernel to the next.
    groups : int, default=1
        Channels and kernels are cut into so many groups, and each group of kernels sees its group
        of channels; ``groups=c_in`` is a depthwise convolution.
    bias : array-like of shape (c_out,), default=None
        Added to each map.

    Returns
    -------
    maps : ndarray of shape (n, oh, ow, c_out)
        float32 or float64, see ``images``; infinite where responses are beyond its range.

    Raises
    ------
    TypeError
        If a parameter is of a wrong kind.
    ValueError
        If the value of a parameter is wrong, shapes do not match or the kernels do not fit.

    See Also
    --------
    StridedConv2DTransformer : Convolution, activation and pooling in a scikit-learn estimator.

    Notes
    -----
    The work is done in blocks of a few megabytes, whatever the size of the result.

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
    bias = np.zeros(c_out) if bias is None else bias
    bias = check_numbers("conv2d", "bias", bias, (c_out,), finite=True)
    geometry = parameters.place((h, w), (kh, kw))
    dtype = compute_dtype(images.dtype)
    kernels, bias = cast_numbers("kernels", kernels, dtype), cast_numbers("bias", bias, dtype)
    maps = np.empty((n, *geometry.output_shape, c_out), dtype)
    for channels, outputs in zip(_split(c_in, groups), _split(c_out, groups), strict=True):
        layer = Layer(
            np.ascontiguousarray(kernels[..., outputs]),
            np.zeros(outputs.stop - outputs.start, dtype),
            bias[outputs],
            ACTIVATIONS["identity"],
            geometry,
        )
        compute_maps(images[..., channels], maps[:, :, :, np.newaxis, outputs], layer)
    return maps


def _split(length: int, groups: int) -> list[slice]:
    size = length // groups
    return [slice(start, start + size) for start in range(0, length, size)]
