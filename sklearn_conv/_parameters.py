"""Check the parameters of `conv2d` and of the transformer, and return each in a single form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from sklearn_conv._engine.activation import ACTIVATIONS, Side, activation_sides
from sklearn_conv._engine.geometry import PADDING_MODES, WindowParameters
from sklearn_conv._engine.pooling import POOLINGS
from sklearn_conv._engine.symmetry import SYMMETRIES, View
from sklearn_conv._validation import (
    LIMIT,
    check_integer,
    check_name,
    check_numbers,
    check_pair,
    is_finite,
    is_integer,
    is_sequence,
    parameter_error,
    require,
)
from sklearn_conv.kernels._initializers import KERNELS
from sklearn_conv.kernels._patches import SHRINKAGE

MAX_PIXELS = 2**24
"""Exclusive upper bound of lengths that are added to the axes of images."""

MAX_BIASES = 10_000
"""Maximum number of quantiles, which are computed from as many training patches."""

ANY = "any"
"""Value of ``image_shape`` for images of different sizes."""

MISSING = "ignore"
"""Value of ``missing`` with which NaN and masked values are missing pixels."""


class Parameters(NamedTuple):
    """Parameters of the transformer that can be passed in several forms, each in a single form."""

    owner: str
    """Name of the class of the transformer, for error messages."""
    n_kernels: int
    n_biases: int
    kernel_size: tuple[int, int]
    windows: WindowParameters
    sides: Mapping[str, Side]
    poolings: Sequence[str] | None
    pool_grids: Sequence[tuple[int, int]]
    views: Sequence[View]
    power: float
    ignores_missing: bool
    image_shape: tuple[Any, Any, Any] | None
    """(h, w, c), of which those that may vary are None; None if the shape is taken from X."""
    n_patches: int
    whiten: float
    """Regularization of the whitening; 0 means no whitening."""


def check_window_parameters(
    owner: str, stride: Any, padding: Any, padding_mode: Any, dilation: Any
) -> WindowParameters:
    """Check the window parameters of the function or class named ``owner``."""
    names = ("valid", "same")
    if isinstance(padding, str) and padding in names:
        padding = padding, padding
    else:
        padding = check_pair(owner, "padding", padding, 0, names, MAX_PIXELS)
    return WindowParameters(
        stride=check_pair(owner, "stride", stride, 1),
        padding=padding,
        padding_mode=check_name(owner, "padding_mode", padding_mode, PADDING_MODES),
        dilation=check_pair(owner, "dilation", dilation, 1, limit=MAX_PIXELS),
    )


def check_extent(owner: str, kernel_size: tuple[int, int], dilation: tuple[int, int]) -> None:
    """Raise ValueError for windows that are too large."""
    extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel_size, strict=True))
    if max(extent) >= MAX_PIXELS:
        raise ValueError(
            f"kernel_size={kernel_size} with dilation={dilation} covers {extent} pixels, but "
            f"{owner} allows fewer than {MAX_PIXELS} along each axis; choose a smaller kernel_size "
            "or dilation."
        )


def check_parameters(estimator: Any) -> Parameters:
    """Check all parameters of a `StridedConv2DTransformer`. X is not needed."""
    owner = type(estimator).__name__
    n_kernels = check_integer(owner, "n_kernels", estimator.n_kernels, 1)
    kernel_size = check_pair(owner, "kernel_size", estimator.kernel_size, 1, limit=MAX_PIXELS)
    windows = check_window_parameters(
        owner, estimator.stride, estimator.padding, estimator.padding_mode, estimator.dilation
    )
    if isinstance(estimator.kernels, str):
        check_name(owner, "kernels", estimator.kernels, KERNELS, ", an array or a callable")
    elif callable(estimator.kernels):
        _check_initializer(owner, estimator.kernels)
    else:
        axes, rule = ("kh", "kw", "c", "n_kernels"), f"one of {sorted(KERNELS)}, a callable or "
        array = check_numbers(
            owner, "kernels", estimator.kernels, axes, otherwise=rule, finite=True
        )
        kernel_size, n_kernels = array.shape[:2], array.shape[3]
    check_extent(owner, kernel_size, windows.dilation)
    n_biases = _check_biases(owner, estimator.bias, estimator.n_biases, n_kernels)
    if not callable(estimator.activation):
        check_name(owner, "activation", estimator.activation, ACTIVATIONS, " or a callable")
    if estimator.symmetries is not None:
        names = [name for name in SYMMETRIES if name is not None]
        check_name(owner, "symmetries", estimator.symmetries, names, " or None")
    for name in ("flatten", "normalize_patches"):
        value = getattr(estimator, name)
        require(owner, name, value, "True or False", isinstance(value, bool | np.bool_))
    image_shape: Any = estimator.image_shape
    if isinstance(image_shape, str) and image_shape == ANY:
        image_shape = None, None, None
    elif image_shape is not None:
        image_shape = check_image_shape(owner, image_shape, f"None, {ANY!r} or ")
    whiten = estimator.whiten
    if isinstance(whiten, bool | np.bool_):
        whiten = SHRINKAGE if whiten else 0.0
    else:
        rule = "True, False or a finite number above 0, the regularization"
        whiten = _check_positive(owner, "whiten", whiten, rule)
    check_random_state(owner, estimator.random_state)
    check_n_jobs(owner, estimator.n_jobs)
    if not isinstance(estimator.verbose, bool):
        check_integer(owner, "verbose", estimator.verbose, 0)
    poolings = _check_pooling(owner, estimator.pooling)
    pool_grids = _check_pool_grids(owner, estimator.pool_grid)
    if len(pool_grids) > 1 and poolings is not None and not estimator.flatten:
        raise ValueError(
            f"With flatten=False, {owner} needs a single grid, because the features of several "
            f"grids have no common shape, but pool_grid is {estimator.pool_grid!r}; use "
            "flatten=True, or one of these grids."
        )
    rule = "a finite number above 0; 0.5 is the square root"
    missing = check_name(owner, "missing", estimator.missing, ("raise", MISSING))
    return Parameters(
        owner=owner,
        n_kernels=n_kernels,
        n_biases=n_biases,
        kernel_size=kernel_size,
        windows=windows,
        sides=activation_sides(estimator.activation),
        poolings=poolings,
        pool_grids=pool_grids,
        views=SYMMETRIES[estimator.symmetries],
        power=_check_positive(owner, "power", estimator.power, rule),
        ignores_missing=missing == MISSING,
        image_shape=image_shape,
        n_patches=check_integer(owner, "n_patches", estimator.n_patches, 1),
        whiten=whiten,
    )


def check_channels(kernels: tuple[int, ...], n_channels: int) -> None:
    """Raise ValueError if kernels, (kh, kw, c, k), have another number of channels than images."""
    if kernels[2] != n_channels:
        raise ValueError(
            f"kernels of shape {kernels} see {kernels[2]} channels, but the images have "
            f"{n_channels}; kernels must have shape (kh, kw, {n_channels}, n_kernels). Convert "
            "PyTorch weights with weight.detach().numpy().transpose(2, 3, 1, 0)."
        )


def check_image_shape(owner: str, image_shape: Any, otherwise: str = "") -> tuple[int, int, int]:
    """Check the shape of an image, and return it as (h, w, c)."""
    rule = f"{otherwise}(h, w) or (h, w, c), integers of at least 1"
    has_type = is_sequence(image_shape) and all(map(is_integer, image_shape))
    is_valid = has_type and len(image_shape) in (2, 3) and min(image_shape) >= 1
    require(owner, "image_shape", image_shape, rule, has_type, is_valid)
    h, w, c = (*image_shape, 1)[:3]
    return int(h), int(w), int(c)


def _check_initializer(owner: str, kernels: Callable[..., Any]) -> None:
    try:
        parameters = signature(kernels)
    except ValueError:  # Some functions written in C have no signature.
        return
    try:
        parameters.bind("shape", "rng", "patches")
    except TypeError:
        rule = "a callable with three arguments, init(shape, rng, patches)"
        raise parameter_error(TypeError, owner, "kernels", rule, kernels) from None


def _check_positive(owner: str, name: str, value: Any, rule: str) -> float:
    has_type = isinstance(value, Real) and not isinstance(value, bool)
    require(owner, name, value, rule, has_type, has_type and value > 0 and is_finite(value))
    return float(value)


def _check_biases(owner: str, bias: Any, n_biases: Any, n_kernels: int) -> int:
    """Check the biases, and return how many each kernel has."""
    has_type, rule = is_integer(n_biases), f"an integer from 1 to {MAX_BIASES}"
    require(owner, "n_biases", n_biases, rule, has_type, has_type and 1 <= n_biases <= MAX_BIASES)
    shapes = f"({n_kernels},), (n_biases, 1) or (n_biases, {n_kernels})"
    rule = 'a real number, "quantile" or '
    if isinstance(bias, str):
        rule += f"an array of finite real numbers of shape {shapes}"
        require(owner, "bias", bias, rule, True, bias == "quantile")
        return int(n_biases)
    if isinstance(bias, Real) and not isinstance(bias, bool):
        require(owner, "bias", bias, "finite", True, is_finite(bias))
        if n_biases > 1:
            raise ValueError(
                f"n_biases={n_biases} needs as many different biases of each kernel, but bias is "
                f'{bias!r}; use bias="quantile", or an array of shape ({n_biases}, 1).'
            )
        return 1
    try:
        n_axes = np.ndim(bias)
    except ValueError:  # `check_numbers` says why.
        n_axes = 1
    if n_axes != 2:
        check_numbers(owner, "bias", bias, (n_kernels,), otherwise=rule, finite=True)
        return 1
    array = check_numbers(owner, "bias", bias, ("n_biases", "1"), otherwise=rule, finite=True)
    if array.shape[1] not in (1, n_kernels):
        raise ValueError(
            f"The 'bias' parameter of {owner} must be {rule}an array of finite real numbers of "
            f"shape {shapes}. Got shape {array.shape} instead."
        )
    return len(array)


def _check_pooling(owner: str, pooling: Any) -> list[str] | None:
    if pooling is None:
        return None
    names = list(pooling) if isinstance(pooling, list | tuple) else [pooling]
    rule = f"one of {sorted(POOLINGS)}, a list of these names without repetition, or None"
    has_type = all(isinstance(name, str) for name in names)
    is_valid = has_type and 0 < len(names) == len({*names} & {*POOLINGS})
    require(owner, "pooling", pooling, rule, has_type, is_valid)
    return names


def _check_pool_grids(owner: str, pool_grid: Any) -> list[tuple[int, int]]:
    """Check a grid or a list of grids, and return the (rows, columns) of each."""
    otherwise = ", or a list of different grids, each an integer or a tuple (rows, columns)"
    grids = pool_grid if isinstance(pool_grid, list) else [pool_grid]
    has_type = not any(isinstance(grid, list) for grid in grids)
    pairs = [
        check_pair(owner, "pool_grid", grid, 1, otherwise=otherwise) for grid in grids if has_type
    ]
    is_valid = 0 < len(pairs) == len({*pairs})
    rule = f"an integer of at least 1 or a (rows, columns) pair of such integers{otherwise}"
    require(owner, "pool_grid", pool_grid, rule, has_type, is_valid)
    return pairs


def check_random_state(owner: str, random_state: Any) -> None:
    """Raise an error if ``random_state`` is not a seed, a generator or None."""
    if random_state is None or isinstance(random_state, np.random.RandomState):
        return
    rule = "None, an integer from 0 to 2**32 - 1 or a numpy.random.RandomState"
    has_type = is_integer(random_state)
    is_valid = has_type and 0 <= random_state < 2**32
    require(owner, "random_state", random_state, rule, has_type, is_valid)


def make_generator(random_state: int | np.random.RandomState | None) -> np.random.RandomState:
    """Return the generator of a checked ``random_state``; None does not use NumPy's global one."""
    if isinstance(random_state, np.random.RandomState):
        return random_state
    return np.random.RandomState(random_state)


def check_n_jobs(owner: str, n_jobs: Any) -> None:
    """Raise an error if ``n_jobs`` is not None or an integer other than 0."""
    rule = "None or an integer other than 0; -1 means all cores"
    if n_jobs is not None:
        has_type = is_integer(n_jobs)
        require(owner, "n_jobs", n_jobs, rule, has_type, has_type and 0 < abs(n_jobs) < LIMIT)
