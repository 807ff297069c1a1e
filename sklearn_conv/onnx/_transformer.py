"""Converter of `StridedConv2DTransformer`.

1. Reshape X to ``(n, h, w, c)`` and pad it.
2. Convolve the images. If windows are normalized, gather the windows and multiply them by the
   kernels instead. The same is done in float64, because the operator Conv of onnxruntime does not
   support it.
3. Apply the activation, and pool first the rows of each cell, then its columns.

Source: the operators of ONNX, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._engine.activation import Function, absolute, identity, relu, square, step
from sklearn_conv._engine.geometry import Geometry, place_windows, pool_cells
from sklearn_conv._parameters import check_parameters
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv.onnx._graph import Graph, float_type, graph_dtype, update_registered_converter

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
    images = _pad(graph, images, geometry)
    if transformer.eps_ or dtype == np.float64:
        responses = _multiply_patches(graph, images, geometry, transformer)
    else:
        responses = _convolve(graph, images, geometry, transformer)
    responses = graph.add("Add", responses, graph.constant(transformer.offset_))

    bias = graph.constant(transformer.bias_)
    values = []
    for side in parameters.sides.values():
        signed = responses if side.sign > 0 else graph.add("Neg", responses)
        values.append(ACTIVATIONS[side.function](graph, graph.add("Add", signed, bias)))
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


def _convolve(graph: Graph, images: str, geometry: Geometry, transformer: Any) -> str:
    """Convolve padded images, ``(n, h, w, c) -> (n, oh, ow, k)``."""
    maps = graph.add(
        "Conv",
        graph.add("Transpose", images, perm=[0, 3, 1, 2]),
        graph.constant(transformer.kernels_.transpose(3, 2, 0, 1)),
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
        cells = []
        for start, stop in pool_cells(length, n_cells):
            ends = (graph.constant([end]) for end in (start, stop, axis))
            cells.append(graph.reduce(reduction, graph.add("Slice", maps, *ends), axis))
        maps = graph.add("Concat", *cells, axis=axis)
    return maps


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
    for side in parameters.sides.values():
        if side.function not in ACTIVATIONS:
            raise ValueError(
                f"{OWNER} supports only activations with a name, because ONNX cannot run Python "
                f"functions, but activation is {transformer.activation!r}; use a named activation."
            )
    _check_input(operator.inputs[0].type.shape, transformer)
    shape = transformer._row_shape(transformer._feature_shape(parameters))
    first = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = float_type(operator)([first, *shape])


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
