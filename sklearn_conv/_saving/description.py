"""Describe the steps that computed features: names of the features, parameters, kernels."""

from __future__ import annotations

import json
from hashlib import sha256
from importlib import import_module
from math import isfinite
from numbers import Integral, Real
from typing import Any

from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._array_api import to_numpy
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._validation import parameter_error

CONTAINERS: dict[type, tuple[str, str]] = {
    Pipeline: ("steps", "steps"),
    FeatureUnion: ("transformer_list", "transformer_list"),
    ColumnTransformer: ("transformers", "transformers_"),
}
"""Estimators that contain other estimators: the parameter, and the attribute with fitted steps."""


def check_steps(steps: Any) -> list[str]:
    """Return the names of the features that fitted steps compute."""
    if not hasattr(steps, "transform"):
        rule = "a fitted estimator with the method transform, for example pipeline[:-1], or None"
        raise parameter_error(TypeError, "save_batches", "steps", rule, steps)
    check_is_fitted(steps)
    try:
        return [*map(str, steps.get_feature_names_out())]
    except (AttributeError, ValueError) as error:
        raise ValueError(
            f"The 'steps' parameter of save_batches must have names of features, but {error}; "
            "leave out steps, or, for a FunctionTransformer, set feature_names_out='one-to-one'."
        ) from error


def describe(steps: Any) -> str:
    """Return the version of this package and a description of fitted steps, or of None, as JSON."""
    version = import_module("sklearn_conv").__version__
    return json.dumps({"version": version, "steps": None if steps is None else _describe(steps)})


def _describe(estimator: Any) -> Any:
    if not hasattr(estimator, "get_params"):  # "drop" and "passthrough"
        return _plain(estimator)
    kind = type(estimator)
    # The part of the module that is public, as in sklearn.preprocessing._data
    description: dict[str, Any] = {"class": f"{kind.__module__.split('._')[0]}.{kind.__qualname__}"}
    parameters = estimator.get_params(deep=False)
    for container, (parameter, attribute) in CONTAINERS.items():
        if isinstance(estimator, container):
            del parameters[parameter]
            children = {name: _describe(child) for name, child, *_ in getattr(estimator, attribute)}
            description["steps"] = children
    description["parameters"] = {name: _plain(value) for name, value in parameters.items()}
    if isinstance(estimator, StridedConv2DTransformer):
        description["kernels_sha256"] = sha256(to_numpy(estimator.kernels_).tobytes()).hexdigest()
    return description


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: the value itself, or its ``repr``."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and isfinite(value):
        return float(value)
    if isinstance(value, list | tuple):
        return [*map(_plain, value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    return repr(value)
