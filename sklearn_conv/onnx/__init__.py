"""Export to ONNX with skl2onnx.

``import sklearn_conv.onnx`` registers converters for `StridedConv2DTransformer` and
`StreamingRidgeClassifier`; `skl2onnx.to_onnx` then exports pipelines with these. This module has no
names of its own.
"""

from sklearn_conv.onnx import _converters as _converters

__all__: list[str] = []
