"""Export to ONNX with skl2onnx.

``import sklearn_conv.onnx`` registers converters for `StridedConv2DTransformer`,
`StreamingRidgeClassifier` and `StreamingRidge`, so that `skl2onnx.to_onnx` exports pipelines that
contain them. This module has no public names.
"""

from sklearn_conv.onnx import _ridge as _ridge
from sklearn_conv.onnx import _transformer as _transformer

__all__: list[str] = []
