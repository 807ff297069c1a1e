"""Converter of `StreamingRidgeClassifier`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._ridge.classifier import StreamingRidgeClassifier
from sklearn_conv.onnx._graph import (
    Graph,
    Int64TensorType,
    StringTensorType,
    float_type,
    graph_dtype,
    update_registered_converter,
)


def infer_shape(operator: Any) -> None:
    """Set the types of the labels and of the scores, one for each class."""
    classifier = operator.raw_operator
    check_is_fitted(classifier)
    n = operator.inputs[0].get_first_dimension()
    is_named = classifier.classes_.dtype.kind in "OU"
    operator.outputs[0].type = (StringTensorType if is_named else Int64TensorType)([n])
    operator.outputs[1].type = float_type(operator)([n, len(classifier.classes_)])


def convert(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes that compute the score of each class, and the class with the highest score."""
    classifier = operator.raw_operator
    coef, intercept, classes = classifier.coef_, classifier.intercept_, classifier.classes_
    if classes.dtype.kind == "f":
        classes = classes.astype(np.int64)  # Labels in ONNX models are integers or strings.
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
    label, scores = (output.full_name for output in operator.outputs)
    graph = Graph(scope, container, graph_dtype(operator))
    X = graph.add("Cast", operator.inputs[0].full_name, to=graph.onnx_type)
    products = graph.add("MatMul", X, graph.constant(coef.T))
    graph.add("Add", products, graph.constant(intercept), output=scores)
    best = graph.add("ArgMax", scores, axis=1, keepdims=0)
    graph.add("Gather", graph.constant(classes), best, output=label)


update_registered_converter(
    StreamingRidgeClassifier,
    "SklearnConvStreamingRidgeClassifier",
    infer_shape,
    convert,
    options={"zipmap": [True, False, "columns"]},
)
