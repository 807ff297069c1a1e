"""Images to feature vectors inside scikit-learn, by strided convolution in NumPy."""

from sklearn_conv.conv import conv2d
from sklearn_conv.transformer import StridedConv2DTransformer

__all__ = ["StridedConv2DTransformer", "__version__", "conv2d"]
__version__ = "0.1.0"
