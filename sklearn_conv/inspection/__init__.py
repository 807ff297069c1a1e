"""Draw kernels, their responses, and the evidence for a decision.

The displays require matplotlib (extra ``plot``); `class_activation_map` does not.
"""

from sklearn_conv.inspection._class_activation import ClassActivationDisplay, class_activation_map
from sklearn_conv.inspection._feature_maps import FeatureMapDisplay
from sklearn_conv.inspection._grid_search import GridSearchDisplay
from sklearn_conv.inspection._kernels import KernelDisplay

__all__ = [
    "ClassActivationDisplay",
    "FeatureMapDisplay",
    "GridSearchDisplay",
    "KernelDisplay",
    "class_activation_map",
]
