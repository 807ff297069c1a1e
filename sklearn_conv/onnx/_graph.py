"""Build the graph of an exported model, and the types of its inputs and outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    from onnx import TensorProto
    from skl2onnx import update_registered_converter as update_registered_converter
    from skl2onnx.common.data_types import DoubleTensorType
    from skl2onnx.common.data_types import FloatTensorType as FloatTensorType
    from skl2onnx.common.data_types import Int64TensorType as Int64TensorType
    from skl2onnx.common.data_types import StringTensorType as StringTensorType
    from skl2onnx.common.utils_classifier import get_label_classes as get_label_classes
except ImportError as error:
    raise ImportError(
        "sklearn_conv.onnx requires skl2onnx, which is not installed; run pip install skl2onnx, "
        "and install onnxruntime where the model runs."
    ) from error

FEW_BITS = {"BooleanTensorType", "UInt8TensorType", "Int8TensorType"}
"""Input types of up to 8 bits. They are computed in float32, like float32 and the types of 16 bits,
which are not listed because their names differ between versions of skl2onnx."""


class Graph:
    """Graph to which nodes and constants are added. Each method returns the name of its result."""

    def __init__(self, scope: Any, container: Any, dtype: np.dtype) -> None:
        self._scope, self._container, self.dtype = scope, container, dtype
        self.onnx_type = TensorProto.FLOAT if dtype == np.float32 else TensorProto.DOUBLE

    def add(self, operator: str, *inputs: Any, output: str | None = None, **attributes: Any) -> str:
        """Add a node for an operator. Inputs are names of results, or constants."""
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        output = output or self._scope.get_unique_variable_name(operator.lower())
        name = self._scope.get_unique_operator_name(operator)
        self._container.add_node(operator, names, [output], name=name, **attributes)
        return output

    def constant(self, values: Any) -> str:
        """Add a constant. Integers become int64, other numbers have the dtype of the graph."""
        array: np.ndarray = np.asarray(values)
        kind = self.onnx_type
        if array.dtype.kind in "biu":
            array, kind = array.astype(np.int64), TensorProto.INT64
        elif array.dtype.kind in "OU":
            array, kind = np.char.encode(array.astype(str)), TensorProto.STRING
        else:
            array = array.astype(self.dtype)
        name = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, kind, array.shape, array.ravel().tolist())
        return name

    def reduce(self, operator: str, values: str, *axes: int) -> str:
        """Add a reduction along axes, which are kept and have length 1."""
        opset = self._container.target_opset_any_domain("")
        if opset >= 18 or (operator == "ReduceSum" and opset >= 13):
            return self.add(operator, values, axes)
        return self.add(operator, values, axes=[*axes])


def graph_dtype(operator: Any) -> np.dtype:
    """Return the dtype of the computation for the input of an operator."""
    kind = type(operator.inputs[0].type).__name__
    is_float32 = kind == "FloatTensorType" or "16" in kind or has_few_bits(operator)
    return np.dtype(np.float32 if is_float32 else np.float64)


def has_few_bits(operator: Any) -> bool:
    """Return whether the input of an operator has up to 8 bits, too few for a large offset."""
    return type(operator.inputs[0].type).__name__ in FEW_BITS


def float_type(operator: Any) -> type[FloatTensorType | DoubleTensorType]:
    """Return the type of real-valued outputs."""
    return FloatTensorType if graph_dtype(operator) == np.float32 else DoubleTensorType
