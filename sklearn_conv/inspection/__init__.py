"""Draw kernels, their responses, the evidence for a decision, and maps of scenes.

The displays require matplotlib (extra ``plot``); `class_activation_map` does not.
"""

from sklearn_conv.inspection._class_activation import ClassActivationDisplay, class_activation_map
from sklearn_conv.inspection._feature_maps import FeatureMapDisplay
from sklearn_conv.inspection._grid_search import GridSearchDisplay
from sklearn_conv.inspection._kernels import KernelDisplay
from sklearn_conv.inspection._map import MapDisplay

__all__ = [
    "ClassActivationDisplay",
    "FeatureMapDisplay",
    "GridSearchDisplay",
    "KernelDisplay",
    "MapDisplay",
    "class_activation_map",
]
