"""Images to feature vectors inside scikit-learn, by strided convolution in NumPy."""

from sklearn_conv.conv import conv2d
from sklearn_conv.ridge import StreamingRidgeClassifier
from sklearn_conv.saving import save_batches
from sklearn_conv.transformer import StridedConv2DTransformer
from sklearn_conv.versions import show_versions

__all__ = [
    "StreamingRidgeClassifier",
    "StridedConv2DTransformer",
    "__version__",
    "conv2d",
    "save_batches",
    "show_versions",
]
__version__ = "0.1.0"
