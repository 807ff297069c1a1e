"""Converters of `StreamingRidgeClassifier` and `StreamingRidge`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import require_numpy_model
from sklearn_conv._ridge.classifier import StreamingRidgeClassifier
from sklearn_conv._ridge.regressor import StreamingRidge
from sklearn_conv._ridge.solving import Solution
from sklearn_conv.onnx._graph import (
    FloatTensorType,
    Graph,
    Int64TensorType,
    StringTensorType,
    float_type,
    get_label_classes,
    update_registered_converter,
)

OWNER = "ONNX export of StreamingRidgeClassifier"


def infer_classifier(operator: Any) -> None:
    """Set the types of the labels and of the probabilities, or of the decisions."""
    classifier = operator.raw_operator
    check_is_fitted(classifier)
    require_numpy_model(OWNER, classifier._place())
    labels = _find_labels(operator.scope_inst, classifier)
    n = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = (StringTensorType if labels.dtype.kind == "U" else Int64TensorType)(
        [n]
    )
    # The parser has declared the type of the scores, and has already copied it to other operators.
    # The operator ZipMap supports only float32.
    options = operator.scope_inst.get_options(classifier, {"zipmap": True})
    kind = FloatTensorType if options["zipmap"] is True else type(operator.outputs[1].type)
    operator.outputs[1].type = kind([n, len(labels)])


def convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes that compute the best class, and probabilities or, as an option, decisions."""
    classifier = operator.raw_operator
    is_raw = scope.get_options(classifier, {"raw_scores": False})["raw_scores"]
    solution = classifier._solve(with_errors=not is_raw)
    if len(solution.coef) == 1:
        solution = solution._replace(
            coef=np.concatenate([-solution.coef, solution.coef]),
            level=np.concatenate([-solution.level, solution.level]),
        )
    graph = Graph(scope, container, np.dtype(np.float64))
    scores = _add_predictions(graph, operator, solution)
    output = scores
    if not is_raw:
        output = graph.add(
            "Softmax", graph.add("Div", scores, solution.later["temperature"]), axis=1
        )
    _add_output(graph, output, operator.outputs[1])
    label = operator.outputs[0].full_name
    best = graph.add("ArgMax", scores, axis=1, keepdims=0)
    graph.add("Gather", graph.constant(_find_labels(scope, classifier)), best, output=label)


def infer_regressor(operator: Any) -> None:
    """Set the type of the predictions, one column for each target."""
    regressor = operator.raw_operator
    check_is_fitted(regressor)
    require_numpy_model(f"ONNX export of {type(regressor).__name__}", regressor._place())
    n = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = float_type(operator)([n, regressor._n_targets])


def convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    """Add the nodes that compute the predictions."""
    graph = Graph(scope, container, np.dtype(np.float64))
    predictions = _add_predictions(graph, operator, operator.raw_operator._solve())
    _add_output(graph, predictions, operator.outputs[0])


def _add_predictions(graph: Graph, operator: Any, solution: Solution) -> str:
    """Add the nodes that compute predictions in float64, and return their name.

    As in the estimators, features are centered before the product, in float64. Otherwise, features
    that are large beside their spread would cause large products that cancel.
    """
    X = graph.add("Cast", operator.inputs[0].full_name, to=graph.onnx_type)
    centered = graph.add("Sub", X, graph.constant(solution.mean))
    products = graph.add("MatMul", centered, graph.constant(solution.coef.T))
    return graph.add("Add", products, graph.constant(solution.level))


def _add_output(graph: Graph, values: str, output: Any) -> None:
    """Add the node that casts values to an output."""
    kind = output.type.to_onnx_type().tensor_type.elem_type
    graph.add("Cast", values, to=kind, output=output.full_name)


def _find_labels(scope: Any, classifier: Any) -> np.ndarray:
    """Return the labels in the exported model, as int64 or strings."""
    classes = np.asarray(get_label_classes(scope, classifier))  # indices with the option nocl
    if classes.dtype.kind in "OU":
        return classes.astype(str)
    labels = classes.tolist()
    limits = np.iinfo(np.int64)
    if classes.dtype.kind not in "biuf" or not all(
        label == int(label) and limits.min <= label <= limits.max for label in labels
    ):
        raise ValueError(
            f"{OWNER} supports labels that are strings or integers from -2**63 to 2**63 - 1, but "
            f"the classes are {classes}; fit with such labels, or export the indices of the "
            "classes with options={'zipmap': False, 'nocl': True}."
        )
    return np.array([int(label) for label in labels], np.int64)


update_registered_converter(
    StreamingRidgeClassifier,
    "SklearnConvStreamingRidgeClassifier",
    infer_classifier,
    convert_classifier,
    options={
        "zipmap": [True, False, "columns"],
        "nocl": [True, False],
        "output_class_labels": [False, True],
        "raw_scores": [True, False],
    },
)

update_registered_converter(
    StreamingRidge, "SklearnConvStreamingRidge", infer_regressor, convert_regressor
)
