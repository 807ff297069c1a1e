"""Converter of `StridedConv2DTransformer`.

1. Reshape X to ``(n, h, w, c)``, and find a large offset of each image.
2. For each of the views over which features are averaged, mirror and turn the images, subtract the
   offsets, and pad the images.
3. Convolve the images. If windows are normalized, gather the windows and multiply them by the
   kernels instead. The same is done in float64, because the operator Conv of onnxruntime does not
   support it. Add the responses to the subtracted offsets.
4. Add each bias, apply the activation, and pool first the rows of each cell, then its columns.
5. Average the features of the views, and raise them to the power.

Views add nodes but no weights, because skl2onnx stores equal constants once.

Source: the operators of ONNX, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import require_numpy_model
from sklearn_conv._engine.activation import ACTIVATIONS as NAMED_ACTIVATIONS
from sklearn_conv._engine.activation import Function, absolute, identity, relu, square, step
from sklearn_conv._engine.geometry import Geometry, Span, pool_cells
from sklearn_conv._engine.numpy_engine import OFFSET_TO_RANGE
from sklearn_conv._engine.symmetry import View
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


ACTIVATIONS: dict[Function, Callable[[Graph, str], str]] = {
    absolute: lambda graph, values: graph.add("Abs", values),
    identity: lambda graph, values: values,
    relu: lambda graph, values: graph.add("Relu", values),
    square: lambda graph, values: graph.add("Mul", values, values),
    step: lambda graph, values: graph.add(
        "Cast", graph.add("Greater", values, 0.0), to=graph.onnx_type
    ),
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
    geometries = transformer._fitted_geometries(parameters)

    images = graph.add("Cast", operator.inputs[0].full_name, to=graph.onnx_type)
    images = graph.add("Reshape", images, [-1, h, w, c])
    uses_patches = bool(transformer.eps_) or dtype == np.float64
    offset = None if uses_patches or has_few_bits(operator) else _find_offset(graph, images)
    features = []
    for view, geometry in zip(parameters.views, geometries, strict=True):
        viewed = _apply_view(graph, images, view)
        if uses_patches:
            padded = _pad(graph, viewed, geometry)
            responses = _multiply_patches(graph, padded, geometry, transformer)
            responses = graph.add("Add", responses, transformer.offset_)
        elif offset is None:
            responses = _convolve(graph, _pad(graph, viewed, geometry), geometry, transformer)
        else:
            shifted, shift = _subtract_offset(graph, viewed, offset, geometry, transformer)
            responses = _convolve(graph, shifted, geometry, transformer)
            responses = graph.add("Add", responses, shift)
        maps = _activate(graph, responses, geometry, parameters, np.atleast_2d(transformer.bias_))
        features.append(_pool(graph, maps, geometry, parameters))
    if len(features) > 1:  # They are divided before they are added, as in the engine.
        n_views = float(len(features))
        features = [graph.add("Sum", *(graph.add("Div", each, n_views) for each in features))]
    result = features[0]
    if parameters.power != 1:
        result = _raise_to_power(graph, result, parameters.power)
    shape = [-1, *operator.outputs[0].type.shape[1:]]
    graph.add("Reshape", result, shape, output=operator.outputs[0].full_name)


def _apply_view(graph: Graph, images: str, view: View) -> str:
    """Mirror and turn images, ``(n, h, w, c)``, as `View.apply` does.

    A turn by 90 degrees exchanges left and right, and then rows and columns.
    """
    mirrors_rows = view.n_turns in (2, 3)
    mirrors_columns = view.is_mirrored != (view.n_turns in (1, 2))
    axes = [axis for axis, mirrors in ((1, mirrors_rows), (2, mirrors_columns)) if mirrors]
    if axes:
        # From the last pixel, -1, to the one before the first
        bounds = ([value] * len(axes) for value in (-1, np.iinfo(np.int64).min))
        images = graph.add("Slice", images, *bounds, axes, [-1] * len(axes))
    if view.is_transposed:
        images = graph.add("Transpose", images, perm=[0, 2, 1, 3])
    return images


def _pad(graph: Graph, images: str, geometry: Geometry) -> str:
    """Pad images, ``(n, h, w, c) -> (n, padded h, padded w, c)``."""
    for axis, windows in enumerate(geometry, start=1):
        index = windows.index
        inside = np.flatnonzero(index >= 0)
        if len(inside) < len(index):  # The padding is constant zeros.
            pads = np.zeros((2, 4), np.int64)
            pads[:, axis] = inside[0], len(index) - 1 - inside[-1]
            images = graph.add("Pad", images, pads.ravel(), 0.0)
        elif (np.diff(index) != 1).any():
            images = graph.add("Gather", images, index, axis=axis)
    return images


def _find_offset(graph: Graph, images: str) -> str:
    """Find a large offset of each image, or 0; the engines find one for each window.

    ``(n, h, w, c) -> (n, 1, 1, 1)``
    """
    low = graph.reduce("ReduceMin", images, 1, 2, 3)
    high = graph.reduce("ReduceMax", images, 1, 2, 3)
    nearest = graph.add("Max", low, graph.add("Neg", high))
    limit = graph.add("Div", nearest, float(OFFSET_TO_RANGE))
    is_large = graph.add("Greater", limit, graph.add("Sub", high, low))
    return graph.add("Where", is_large, low, 0.0)


def _subtract_offset(
    graph: Graph, images: str, offset: str, geometry: Geometry, transformer: Any
) -> tuple[str, str]:
    """Pad images, and subtract the offset of each.

    Return the images and what must be added to their responses: the offset times the sum of the
    weights that see it.
    """
    weights = transformer.kernels_.sum(axis=2, dtype=np.float64)  # (kh, kw, k)
    inside = [axis.pixels >= 0 for axis in geometry]  # (windows, weights) along each axis
    if all(mask.any(axis=1).all() for mask in inside):
        # The offset is subtracted from the padding as well. The error of windows at the padding is
        # the same as without an offset, because their other pixels are as large as the offset.
        images = graph.add("Sub", _pad(graph, images, geometry), offset)
        return images, graph.add("Mul", offset, weights.sum(axis=(0, 1)))
    # Some windows have only zeros, and their responses must be exactly 0. Windows that have the
    # same part of the image have the same sum of weights.
    images = _pad(graph, graph.add("Sub", images, offset), geometry)
    masks, indices = zip(
        *(np.unique(mask, axis=0, return_inverse=True) for mask in inside), strict=True
    )
    sums = np.einsum("ia,jb,abk->ijk", *masks, weights)
    shift = graph.add("Mul", offset, sums)  # (n, rows, columns, k)
    for axis, index in enumerate(indices, start=1):
        shift = graph.add("Gather", shift, index.ravel(), axis=axis)
    return images, shift


def _convolve(graph: Graph, images: str, geometry: Geometry, transformer: Any) -> str:
    """Convolve padded images, and add the offset, ``(n, h, w, c) -> (n, oh, ow, k)``."""
    maps = graph.add(
        "Conv",
        graph.add("Transpose", images, perm=[0, 3, 1, 2]),
        transformer.kernels_.transpose(3, 2, 0, 1),
        transformer.offset_,
        kernel_shape=[windows.size for windows in geometry],
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
        images = graph.add("Gather", images, windows.places().ravel(), axis=axis)
    patches = graph.add("Reshape", images, [-1, oh, kh, ow, kw, c])
    patches = graph.add("Transpose", patches, perm=[0, 1, 3, 2, 4, 5])
    patches = graph.add("Reshape", patches, [-1, oh * ow, d])
    if transformer.eps_:
        patches = _normalize(graph, patches, d, transformer.eps_)
    kernels = transformer.kernels_.reshape(d, k)
    responses = graph.add("MatMul", patches, kernels)
    return graph.add("Reshape", responses, [-1, oh, ow, k])


def _normalize(graph: Graph, patches: str, d: int, eps: float) -> str:
    """Divide windows, ``(n, positions, d)``, by ``sqrt(variance + eps)``.

    A pixel of the window is subtracted before the mean, because a large offset would make the mean
    inaccurate. This does not change the responses, because the kernels have zero mean.
    """
    patches = graph.add("Sub", patches, graph.add("Gather", patches, [d // 2], axis=2))
    patches = graph.add("Sub", patches, graph.reduce("ReduceMean", patches, 2))
    variance = graph.reduce("ReduceMean", graph.add("Mul", patches, patches), 2)
    length = graph.add("Sqrt", graph.add("Add", variance, float(eps)))
    return graph.add("Div", patches, length)


def _activate(
    graph: Graph, responses: str, geometry: Geometry, parameters: Parameters, biases: np.ndarray
) -> str:
    """Add each of the biases, ``(n_biases, k)``, and apply the activation.

    ``(n, oh, ow, k) -> (n, oh, ow, sides * n_biases * k)``
    """
    (oh, ow), (n_biases, k) = geometry.output_shape, biases.shape
    responses = graph.add("Reshape", responses, [-1, oh, ow, 1, k])
    values = []
    for side in parameters.sides.values():
        shifted = responses if side.sign > 0 else graph.add("Neg", responses)
        if n_biases > 1 or biases.any():
            shifted = graph.add("Add", shifted, biases)
        values.append(ACTIVATIONS[side.function](graph, shifted))
    n_maps = len(values) * n_biases * k
    return graph.add("Reshape", graph.add("Concat", *values, axis=3), [-1, oh, ow, n_maps])


def _pool(graph: Graph, maps: str, geometry: Geometry, parameters: Parameters) -> str:
    """Pool maps, ``(n, oh, ow, s) -> (n, grid rows, grid columns, poolings * s)``.

    The cells of several grids form a single row.
    """
    if parameters.poolings is None:
        return maps
    of_grids = []
    for grid in parameters.pool_grids:
        pooled = []
        for name in parameters.poolings:
            cells = maps
            for axis, length, n_cells in zip((1, 2), geometry.output_shape, grid, strict=True):
                spans = pool_cells(length, n_cells)
                reduced = [_reduce(graph, cells, axis, span, POOLINGS[name]) for span in spans]
                cells = graph.add("Concat", *reduced, axis=axis)
            pooled.append(cells)
        of_grids.append(graph.add("Concat", *pooled, axis=3))
    if len(of_grids) == 1:
        return of_grids[0]
    rows = [
        graph.add("Reshape", cells, [0, 1, rows * columns, -1])
        for cells, (rows, columns) in zip(of_grids, parameters.pool_grids, strict=True)
    ]
    return graph.add("Concat", *rows, axis=2)


def _reduce(graph: Graph, maps: str, axis: int, span: Span, reduction: str) -> str:
    """Reduce a span of an axis to length 1.

    Long spans are added in parts: onnxruntime adds in float32, one after the other, and the error
    grows with the number of positions.
    """
    start, stop = span
    n_parts = 1 if reduction not in ("ReduceSum", "ReduceMean") else -(-(stop - start) // MAX_ADDED)
    parts = [
        graph.reduce(
            reduction if n_parts == 1 else "ReduceSum",
            graph.add("Slice", maps, [start + i], [start + j], [axis]),
            axis,
        )
        for i, j in pool_cells(stop - start, n_parts)
    ]
    if n_parts == 1:
        return parts[0]
    total = graph.reduce("ReduceSum", graph.add("Concat", *parts, axis=axis), axis)
    return total if reduction == "ReduceSum" else graph.add("Div", total, float(stop - start))


def _raise_to_power(graph: Graph, features: str, power: float) -> str:
    """Replace features by ``sign(feature) * abs(feature)**power``."""
    magnitudes = graph.add("Abs", features)
    roots = ("Sqrt", magnitudes) if power == 0.5 else ("Pow", magnitudes, power)
    return graph.add("Mul", graph.add("Sign", features), graph.add(*roots))


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
    require_numpy_model(OWNER, transformer.kernels_)
    parameters = check_parameters(transformer)
    if None in transformer.image_shape_:
        raise ValueError(
            f"{OWNER} needs a transformer that was fitted on images of one size, but image_shape "
            "is 'any'; fit on images of one size."
        )
    if parameters.ignores_missing:
        raise ValueError(
            f"{OWNER} cannot leave out missing pixels, but missing is {transformer.missing!r}; "
            "call set_params(missing='raise') before the export, and pass images without NaN."
        )
    if not isinstance(transformer.activation, str):
        raise ValueError(
            f"{OWNER} supports the activations {sorted(NAMED_ACTIVATIONS)}, but activation is "
            f"{transformer.activation!r}: ONNX cannot run Python functions. Use one of these "
            "activations."
        )
    h, w, c = transformer.image_shape_
    declared = operator.inputs[0].type.shape
    fits = [(h, w, c), (h * w * c,)] + [(h, w)] * (c == 1)
    if tuple(declared[1:]) not in fits:
        shown = " or ".join(str((None, *fit)).replace("None", "n") for fit in fits)
        raise ValueError(
            f"{OWNER} needs an input of shape {shown}, like the images in fit, but the declared "
            f"shape is {declared}; pass such images, as in to_onnx(pipeline, X[:1]), or declare "
            f"the shape with initial_types=[('X', FloatTensorType([None, {h}, {w}, {c}]))]."
        )
    shape = transformer._row_shape(transformer._feature_shape(parameters))
    first = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = float_type(operator)([first, *shape])
    if graph_dtype(operator) == np.float32:
        require_precision(operator, OWNER)


update_registered_converter(StridedConv2DTransformer, ALIAS, infer_shape, convert, parser=parse)
