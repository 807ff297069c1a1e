"""Images to feature vectors inside scikit-learn, by strided convolution."""

from sklearn_conv._batches import transform_batches
from sklearn_conv._conv2d import conv2d
from sklearn_conv._maps import predict_map
from sklearn_conv._out_of_fold import cross_val_table
from sklearn_conv._output_size import OutputSize
from sklearn_conv._pixelwise import PixelClassifier, PixelRegressor
from sklearn_conv._reading.image_files import ImageFiles, read_images
from sklearn_conv._reading.image_reader import ImageReader
from sklearn_conv._recipes import make_image_classifier, make_image_regressor
from sklearn_conv._ridge.classifier import StreamingRidgeClassifier
from sklearn_conv._ridge.rbf import RBFRidge, RBFRidgeClassifier
from sklearn_conv._ridge.regressor import StreamingRidge
from sklearn_conv._saving.map_file import write_map
from sklearn_conv._saving.save import save_batches
from sklearn_conv._scenes import SceneTiles, tile_scene
from sklearn_conv._search import SharedFeaturesSearch
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._versions import show_versions

__all__ = [
    "ImageFiles",
    "ImageReader",
    "OutputSize",
    "PixelClassifier",
    "PixelRegressor",
    "RBFRidge",
    "RBFRidgeClassifier",
    "SceneTiles",
    "SharedFeaturesSearch",
    "StreamingRidge",
    "StreamingRidgeClassifier",
    "StridedConv2DTransformer",
    "__version__",
    "conv2d",
    "cross_val_table",
    "make_image_classifier",
    "make_image_regressor",
    "predict_map",
    "read_images",
    "save_batches",
    "show_versions",
    "tile_scene",
    "transform_batches",
    "write_map",
]
__version__ = "0.1.0"
