"""Export to ONNX, with skl2onnx: ``import sklearn_conv.onnx``, then `skl2onnx.to_onnx` knows how.

1. bring X to ``(n, h, w, c)`` and pad it;
2. convolve, or, where patches are normalized or numbers are float64, gather the patches and
   multiply, as the operator Conv of onnxruntime has no float64;
3. activate, and pool first the rows of each cell, then the columns.

Source: the operators of ONNX, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._engine.activation import Function, absolute, identity, relu, square, step
from sklearn_conv._engine.pooling import pool_cells
from sklearn_conv._engine.windows import Geometry
from sklearn_conv._parameters import check_parameters
from sklearn_conv._ridge.classifier import StreamingRidgeClassifier
from sklearn_conv._transformer import StridedConv2DTransformer

try:
    from onnx import TensorProto
    from skl2onnx import update_registered_converter
    from skl2onnx.common.data_types import (
        DoubleTensorType,
        FloatTensorType,
        Int64TensorType,
        StringTensorType,
    )
except ImportError as error:
    raise ImportError(
        "sklearn_conv.onnx exports with skl2onnx, which is not installed; "
        "pip install skl2onnx, and onnxruntime where the model runs."
    ) from error

OWNER = "ONNX export of StridedConv2DTransformer"
ALIAS = "SklearnConvStridedConv2DTransformer"

SMALL_TYPES = {"FloatTensorType", "BooleanTensorType", "UInt8TensorType", "Int8TensorType"}
"""What is computed in float32; skl2onnx has more names for 16 bits in some versions."""


class Graph:
    """Nodes and constants, added one after the other; each gives the name of its result."""

    def __init__(self, scope: Any, container: Any, dtype: np.dtype) -> None:
        self._scope, self._container, self.dtype = scope, container, dtype
        self.onnx_type = TensorProto.FLOAT if dtype == np.float32 else TensorProto.DOUBLE

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node."""
        output = output or self._scope.get_unique_variable_name(operator.lower())
        name = self._scope.get_unique_operator_name(operator)
        self._container.add_node(operator, [*inputs], [output], name=name, **attributes)
        return output

    def constant(self, values: Any) -> str:
        """Add a constant: integers as int64, strings, other numbers in the dtype of the graph."""
        array, kind = np.asarray(values), self.onnx_type
        if array.dtype.kind in "biu":
            array, kind = array.astype(np.int64), TensorProto.INT64
        elif array.dtype.kind in "OU":
            array, kind = np.char.encode(array.astype(str)), TensorProto.STRING
        else:
            array = array.astype(self.dtype)
        name = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, kind, array.shape, array.ravel().tolist())
        return name

    def reduce(self, operator: str, values: str, axis: int) -> str:
        """Add a reduction along an axis that stays, of length 1."""
        opset = self._container.target_opset_any_domain("")
        if opset >= 18 or (operator == "ReduceSum" and opset >= 13):
            return self.add(operator, values, self.constant([axis]))
        return self.add(operator, values, axes=[axis])


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
"""What an activation is in ONNX."""

POOLINGS = {"max": "ReduceMax", "mean": "ReduceMean", "sum": "ReduceSum"}
"""What a pooling is in ONNX; of a cell first the rows are pooled, then the columns."""


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of a `StridedConv2DTransformer`."""
    transformer = operator.raw_operator
    parameters = check_parameters(transformer)
    dtype = _dtype(operator)
    graph = Graph(scope, container, dtype)
    h, w, c = transformer.image_shape_
    geometry = parameters.windows.place((h, w), transformer.kernels_.shape[:2])

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
    """Pad, ``(n, h, w, c) -> (n, padded h, padded w, c)``."""
    for axis, index in (1, geometry.rows), (2, geometry.columns):
        inside = np.flatnonzero(index >= 0)
        if len(inside) < len(index):  # constant zeros
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
        strides=[*geometry.stride],
        dilations=[*geometry.dilation],
    )
    return graph.add("Transpose", maps, perm=[0, 2, 3, 1])


def _multiply_patches(graph: Graph, images: str, geometry: Geometry, transformer: Any) -> str:
    """Gather all patches, normalize them and multiply, ``(n, h, w, c) -> (n, oh, ow, k)``."""
    kh, kw, c, k = transformer.kernels_.shape
    (oh, ow), d = geometry.output_shape, kh * kw * c
    places = []
    for axis, (size, n_windows) in enumerate(zip((kh, kw), (oh, ow), strict=True)):
        starts = np.arange(n_windows)[:, np.newaxis] * geometry.stride[axis]
        places.append((starts + np.arange(size) * geometry.dilation[axis]).ravel())
    for axis, index in (1, places[0]), (2, places[1]):
        images = graph.add("Gather", images, graph.constant(index), axis=axis)
    patches = graph.add("Reshape", images, graph.constant([-1, oh, kh, ow, kw, c]))
    patches = graph.add("Transpose", patches, perm=[0, 1, 3, 2, 4, 5])
    patches = graph.add("Reshape", patches, graph.constant([-1, oh * ow, d]))
    if transformer.eps_:
        patches = _normalize(graph, patches, d, transformer.eps_)
    kernels = graph.constant(transformer.kernels_.reshape(d, k))
    responses = graph.add("MatMul", patches, kernels)
    return graph.add("Reshape", responses, graph.constant([-1, oh, ow, k]))


def _normalize(graph: Graph, patches: str, d: int, eps: float) -> str:
    """Divide by ``sqrt(variance + eps)``, less one of their pixels, ``(n, positions, d)``.

    The kernels ignore what all pixels of a patch have in common; without one of them no large
    offset spoils the variance.
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
    """Pool, ``(n, oh, ow, s) -> (n, grid rows, grid columns, s)``."""
    for axis, length, n_cells in zip((1, 2), geometry.output_shape, grid, strict=True):
        cells = []
        for start, stop in pool_cells(length, n_cells):
            ends = (graph.constant([end]) for end in (start, stop, axis))
            cells.append(graph.reduce(reduction, graph.add("Slice", maps, *ends), axis))
        maps = graph.add("Concat", *cells, axis=axis)
    return maps


def parse(scope: Any, transformer: Any, inputs: Any, custom_parsers: Any = None) -> Any:
    """Declare the features; skl2onnx would do so, but not for images of 16 bits."""
    operator = scope.declare_local_operator(ALIAS, transformer)
    operator.inputs.extend(inputs)
    kind = FloatTensorType if _dtype(operator) == np.float32 else DoubleTensorType
    operator.outputs.append(scope.declare_local_variable("variable", kind()))
    return operator.outputs


def infer_shape(operator: Any) -> None:
    """Check that the transformer can be exported, and say what type it gives."""
    transformer = operator.raw_operator
    check_is_fitted(transformer)
    parameters = check_parameters(transformer)
    for side in parameters.sides.values():
        if side.function not in ACTIVATIONS:
            raise ValueError(
                f"{OWNER} knows the activations that have a name, but activation is "
                f"{transformer.activation!r}; ONNX has no Python. Take one of those."
            )
    _check_input(operator.inputs[0].type.shape, transformer)
    shape: Sequence[int] = (transformer.n_features_out_,)
    if not transformer.flatten:
        rows, columns = parameters.pool_grid if parameters.poolings else transformer.maps_shape_[:2]
        shape = rows, columns, transformer.n_features_out_ // (rows * columns)
    kind = FloatTensorType if _dtype(operator) == np.float32 else DoubleTensorType
    operator.outputs[0].type = kind([operator.inputs[0].get_first_dimension(), *shape])


def _dtype(operator: Any) -> np.dtype:
    kind = type(operator.inputs[0].type).__name__
    return np.dtype(np.float32 if kind in SMALL_TYPES or "16" in kind else np.float64)


def _check_input(shape: Sequence[int | None], transformer: Any) -> None:
    h, w, c = transformer.image_shape_
    fits = [(h, w, c), (h * w * c,)] + [(h, w)] * (c == 1)
    if tuple(shape[1:]) not in fits:
        shown = " or ".join(str((None, *fit)).replace("None", "n") for fit in fits)
        raise ValueError(
            f"{OWNER} needs an input of shape {shown}, as the images in fit had, but it is "
            f"declared as {shape}; pass such images, to_onnx(pipeline, X[:1]), or say it, "
            f"initial_types=[('X', FloatTensorType([None, {h}, {w}, {c}]))]."
        )


def infer_ridge_shape(operator: Any) -> None:
    """Say what types a `StreamingRidgeClassifier` gives: labels, and a score for each class."""
    classifier = operator.raw_operator
    check_is_fitted(classifier)
    n = operator.inputs[0].get_first_dimension()
    is_named = classifier.classes_.dtype.kind in "OU"
    operator.outputs[0].type = (StringTensorType if is_named else Int64TensorType)([n])
    kind = FloatTensorType if _dtype(operator) == np.float32 else DoubleTensorType
    operator.outputs[1].type = kind([n, len(classifier.classes_)])


def convert_ridge(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes of a `StreamingRidgeClassifier`: a score for each class, and the best class."""
    classifier = operator.raw_operator
    coef, intercept, classes = classifier.coef_, classifier.intercept_, classifier.classes_
    if classes.dtype.kind == "f":
        classes = classes.astype(np.int64)  # ONNX has no other numbers as labels
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
    label, scores = (output.full_name for output in operator.outputs)
    graph = Graph(scope, container, _dtype(operator))
    X = graph.add("Cast", operator.inputs[0].full_name, to=graph.onnx_type)
    products = graph.add("MatMul", X, graph.constant(coef.T))
    graph.add("Add", products, graph.constant(intercept), output=scores)
    best = graph.add("ArgMax", scores, axis=1, keepdims=0)
    graph.add("Gather", graph.constant(classes), best, output=label)


update_registered_converter(StridedConv2DTransformer, ALIAS, infer_shape, convert, parser=parse)
update_registered_converter(
    StreamingRidgeClassifier,
    "SklearnConvStreamingRidgeClassifier",
    infer_ridge_shape,
    convert_ridge,
    options={"zipmap": [True, False, "columns"]},
)
