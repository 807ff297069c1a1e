"""Converter of `StridedConv2DTransformer`.

1. Reshape X to ``(n, h, w, c)``, subtract a large offset from each image, and pad the images.
2. Convolve the images. If windows are normalized, gather the windows and multiply them by the
   kernels instead. The same is done in float64, because the operator Conv of onnxruntime does not
   support it. Add the responses to the subtracted offsets.
3. Apply the activation, and pool first the rows of each cell, then its columns.

Source: the operators of ONNX, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._engine.activation import ACTIVATIONS as NAMED_ACTIVATIONS
from sklearn_conv._engine.activation import (
    Function,
    Side,
    absolute,
    identity,
    relu,
    square,
    step,
)
from sklearn_conv._engine.geometry import Geometry, Span, place_windows, pool_cells
from sklearn_conv._engine.staging import OFFSET_TO_RANGE
from sklearn_conv._parameters import Parameters, check_parameters
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv.onnx._graph import (
    Graph,
    float_type,
    graph_dtype,
    has_few_bits,
    update_registered_converter,
)
from sklearn_conv.onnx._precision import require_precision

OWNER = "ONNX export of StridedConv2DTransformer"
ALIAS = "SklearnConvStridedConv2DTransformer"


def _step(graph: Graph, values: str) -> str:
    above = graph.add("Greater", values, graph.constant(0.0))
    return graph.add("Cast", above, to=graph.onnx_type)


ACTIVATIONS: dict[Function, Callable[[Graph, str], str]] = {
    absolute: lambda graph, values: graph.add("Abs", values),
    identity: lambda graph, values: values,
    relu: lambda graph, values: graph.add("Relu", values),
    square: lambda graph, values: graph.add("Mul", values, values),
    step: _step,
}
"""Map from the function of an activation to a function that adds its nodes."""

POOLINGS = {"max": "ReduceMax", "mean": "ReduceMean", "sum": "ReduceSum"}
"""Map from the name of a pooling to an operator that reduces an axis. Operators such as AveragePool
are not used, because they do not support cells of unequal sizes."""

MAX_ADDED = 32
"""Number of positions along an axis that are added in one step."""


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of a `StridedConv2DTransformer`."""
    transformer = operator.raw_operator
    parameters = check_parameters(transformer)
    dtype = graph_dtype(operator)
    graph = Graph(scope, container, dtype)
    h, w, c = transformer.image_shape_
    geometry = place_windows((h, w), transformer.kernels_.shape[:2], parameters.windows)

    images = graph.add("Cast", operator.inputs[0].full_name, to=graph.onnx_type)
    images = graph.add("Reshape", images, graph.constant([-1, h, w, c]))
    if transformer.eps_ or dtype == np.float64:
        images = _pad(graph, images, geometry)
        responses = _multiply_patches(graph, images, geometry, transformer)
        responses = graph.add("Add", responses, graph.constant(transformer.offset_))
    elif has_few_bits(operator):
        responses = _convolve(graph, _pad(graph, images, geometry), geometry, transformer)
    else:
        images, shift = _subtract_offset(graph, images, geometry, transformer)
        responses = _convolve(graph, images, geometry, transformer)
        responses = graph.add("Add", responses, shift)

    values = []
    for side in parameters.sides.values():
        shifted = responses if side.sign > 0 else graph.add("Neg", responses)
        if transformer.bias_.any():
            shifted = graph.add("Add", shifted, graph.constant(transformer.bias_))
        values.append(ACTIVATIONS[side.function](graph, shifted))
    maps = graph.add("Concat", *values, axis=3)  # (n, oh, ow, sides * k)
    if parameters.poolings is not None:
        pooled = [
            _pool(graph, maps, geometry, POOLINGS[name], parameters.pool_grid)
            for name in parameters.poolings
        ]
        maps = graph.add("Concat", *pooled, axis=3)
    shape = graph.constant([-1, *operator.outputs[0].type.shape[1:]])
    graph.add("Reshape", maps, shape, output=operator.outputs[0].full_name)


def _pad(graph: Graph, images: str, geometry: Geometry) -> str:
    """Pad images, ``(n, h, w, c) -> (n, padded h, padded w, c)``."""
    for axis, windows in enumerate(geometry, start=1):
        index = windows.index
        inside = np.flatnonzero(index >= 0)
        if len(inside) < len(index):  # The padding is constant zeros.
            pads = np.zeros((2, 4), np.int64)
            pads[:, axis] = inside[0], len(index) - 1 - inside[-1]
            images = graph.add("Pad", images, graph.constant(pads.ravel()), graph.constant(0.0))
        elif len(index) > 1 and (np.diff(index) != 1).any():
            images = graph.add("Gather", images, graph.constant(index), axis=axis)
    return images


def _subtract_offset(
    graph: Graph, images: str, geometry: Geometry, transformer: Any
) -> tuple[str, str]:
    """Pad images, and subtract a large offset from each, as the engine does (`find_offset`).

    Return the images and what must be added to their responses: the offset times the sum of the
    weights that see it.
    """
    low = graph.reduce("ReduceMin", images, 1, 2, 3)
    high = graph.reduce("ReduceMax", images, 1, 2, 3)
    nearest = graph.add("Max", low, graph.add("Neg", high))
    limit = graph.add("Div", nearest, graph.constant(float(OFFSET_TO_RANGE)))
    is_large = graph.add("Greater", limit, graph.add("Sub", high, low))
    offset = graph.add("Where", is_large, low, graph.constant(0.0))  # (n, 1, 1, 1)

    weights = transformer.kernels_.sum(axis=2, dtype=np.float64)  # (kh, kw, k)
    inside = [axis.pixels >= 0 for axis in geometry]  # (windows, weights) along each axis
    if all(mask.any(axis=1).all() for mask in inside):
        # The offset is subtracted from the padding as well. The error of windows at the padding is
        # the same as without an offset, because their other pixels are as large as the offset.
        images = graph.add("Sub", _pad(graph, images, geometry), offset)
        return images, graph.add("Mul", offset, graph.constant(weights.sum(axis=(0, 1))))
    # Some windows have only zeros, and their responses must be exactly 0. Windows that have the
    # same part of the image have the same sum of weights.
    images = _pad(graph, graph.add("Sub", images, offset), geometry)
    masks, indices = zip(
        *(np.unique(mask, axis=0, return_inverse=True) for mask in inside), strict=True
    )
    sums = np.einsum("ia,jb,abk->ijk", *masks, weights)
    shift = graph.add("Mul", offset, graph.constant(sums))  # (n, rows, columns, k)
    for axis, index in enumerate(indices, start=1):
        shift = graph.add("Gather", shift, graph.constant(index.ravel()), axis=axis)
    return images, shift


def _convolve(graph: Graph, images: str, geometry: Geometry, transformer: Any) -> str:
    """Convolve padded images, and add the offset, ``(n, h, w, c) -> (n, oh, ow, k)``."""
    maps = graph.add(
        "Conv",
        graph.add("Transpose", images, perm=[0, 3, 1, 2]),
        graph.constant(transformer.kernels_.transpose(3, 2, 0, 1)),
        graph.constant(transformer.offset_),
        kernel_shape=[*geometry.kernel_size],
        strides=[windows.stride for windows in geometry],
        dilations=[windows.dilation for windows in geometry],
    )
    return graph.add("Transpose", maps, perm=[0, 2, 3, 1])


def _multiply_patches(graph: Graph, images: str, geometry: Geometry, transformer: Any) -> str:
    """Gather windows of padded images, normalize them and multiply them by the kernels.

    ``(n, h, w, c) -> (n, oh, ow, k)``
    """
    kh, kw, c, k = transformer.kernels_.shape
    (oh, ow), d = geometry.output_shape, kh * kw * c
    for axis, windows in enumerate(geometry, start=1):
        images = graph.add("Gather", images, graph.constant(windows.places.ravel()), axis=axis)
    patches = graph.add("Reshape", images, graph.constant([-1, oh, kh, ow, kw, c]))
    patches = graph.add("Transpose", patches, perm=[0, 1, 3, 2, 4, 5])
    patches = graph.add("Reshape", patches, graph.constant([-1, oh * ow, d]))
    if transformer.eps_:
        patches = _normalize(graph, patches, d, transformer.eps_)
    kernels = graph.constant(transformer.kernels_.reshape(d, k))
    responses = graph.add("MatMul", patches, kernels)
    return graph.add("Reshape", responses, graph.constant([-1, oh, ow, k]))


def _normalize(graph: Graph, patches: str, d: int, eps: float) -> str:
    """Divide windows, ``(n, positions, d)``, by ``sqrt(variance + eps)``.

    A pixel of the window is subtracted first, because a large offset would make the variance
    inaccurate. This does not change the responses, because the kernels have zero mean.
    """
    patches = graph.add(
        "Sub", patches, graph.add("Gather", patches, graph.constant([d // 2]), axis=2)
    )
    mean = graph.reduce("ReduceMean", patches, 2)
    squares = graph.reduce("ReduceMean", graph.add("Mul", patches, patches), 2)
    variance = graph.add("Relu", graph.add("Sub", squares, graph.add("Mul", mean, mean)))
    length = graph.add("Sqrt", graph.add("Add", variance, graph.constant(float(eps))))
    return graph.add("Div", patches, length)


def _pool(
    graph: Graph, maps: str, geometry: Geometry, reduction: str, grid: tuple[int, int]
) -> str:
    """Pool maps, ``(n, oh, ow, s) -> (n, grid rows, grid columns, s)``."""
    for axis, length, n_cells in zip((1, 2), geometry.output_shape, grid, strict=True):
        spans = pool_cells(length, n_cells)
        maps = _join(graph, [_reduce(graph, maps, axis, span, reduction) for span in spans], axis)
    return maps


def _reduce(graph: Graph, maps: str, axis: int, span: Span, reduction: str) -> str:
    """Reduce a span of an axis to length 1.

    Long spans are added in parts: onnxruntime adds in float32, one after the other, and the error
    grows with the number of positions.
    """
    start, stop = span
    n_parts = -(-(stop - start) // MAX_ADDED)
    if n_parts == 1 or reduction == "ReduceMax":
        return graph.reduce(reduction, _slice(graph, maps, axis, span), axis)
    parts = [
        graph.reduce("ReduceSum", _slice(graph, maps, axis, (start + i, start + j)), axis)
        for i, j in pool_cells(stop - start, n_parts)
    ]
    total = graph.reduce("ReduceSum", _join(graph, parts, axis), axis)
    if reduction == "ReduceSum":
        return total
    return graph.add("Div", total, graph.constant(float(stop - start)))


def _slice(graph: Graph, maps: str, axis: int, span: Span) -> str:
    return graph.add("Slice", maps, *(graph.constant([end]) for end in (*span, axis)))


def _join(graph: Graph, maps: Sequence[str], axis: int) -> str:
    return graph.add("Concat", *maps, axis=axis)


def parse(scope: Any, transformer: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Declare the features. The default parser of skl2onnx does not support images of 16 bits."""
    operator = scope.declare_local_operator(ALIAS, transformer)
    operator.inputs.extend(inputs)
    operator.outputs.append(scope.declare_local_variable("variable", float_type(operator)()))
    return operator.outputs


def infer_shape(operator: Any) -> None:
    """Check that the transformer can be exported, and set the type of its features."""
    transformer = operator.raw_operator
    check_is_fitted(transformer)
    parameters = check_parameters(transformer)
    _check_choices(transformer, parameters)
    _check_input(operator.inputs[0].type.shape, transformer)
    shape = transformer._row_shape(transformer._feature_shape(parameters))
    first = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = float_type(operator)([first, *shape])
    if graph_dtype(operator) == np.float32:
        require_precision(operator, OWNER)


def _check_choices(transformer: Any, parameters: Parameters) -> None:
    """Check that the activation and the poolings have nodes."""
    if not _has_nodes(parameters.sides):
        supported = sorted(name for name, sides in NAMED_ACTIVATIONS.items() if _has_nodes(sides))
        reason = (
            "this activation has no nodes in ACTIVATIONS of sklearn_conv/onnx/_transformer.py yet"
            if isinstance(transformer.activation, str)
            else "ONNX cannot run Python functions"
        )
        raise ValueError(
            f"{OWNER} supports the activations {supported}, but activation is "
            f"{transformer.activation!r}: {reason}. Use one of these activations."
        )
    missing = sorted({*(parameters.poolings or ())} - {*POOLINGS})
    if missing:
        raise ValueError(
            f"{OWNER} supports the poolings {sorted(POOLINGS)}, but pooling is "
            f"{transformer.pooling!r}: {missing} have no operators in POOLINGS of "
            "sklearn_conv/onnx/_transformer.py yet. Use one of these poolings."
        )


def _has_nodes(sides: Mapping[str, Side]) -> bool:
    return all(side.function in ACTIVATIONS for side in sides.values())


def _check_input(shape: Sequence[int | None], transformer: Any) -> None:
    h, w, c = transformer.image_shape_
    fits = [(h, w, c), (h * w * c,)] + [(h, w)] * (c == 1)
    if tuple(shape[1:]) not in fits:
        shown = " or ".join(str((None, *fit)).replace("None", "n") for fit in fits)
        raise ValueError(
            f"{OWNER} needs an input of shape {shown}, like the images in fit, but the declared "
            f"shape is {shape}; pass such images, as in to_onnx(pipeline, X[:1]), or declare the "
            f"shape with initial_types=[('X', FloatTensorType([None, {h}, {w}, {c}]))]."
        )


update_registered_converter(StridedConv2DTransformer, ALIAS, infer_shape, convert, parser=parse)
