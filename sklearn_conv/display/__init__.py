"""Pictures of kernels, of their responses, and of the evidence for a decision.

Needs matplotlib (extra ``plot``) when something is drawn; `class_activation_map` does not.
"""

from sklearn_conv.display.class_activation import ClassActivationDisplay
from sklearn_conv.display.evidence import class_activation_map
from sklearn_conv.display.feature_maps import FeatureMapDisplay
from sklearn_conv.display.grid_search import GridSearchDisplay
from sklearn_conv.display.kernels import KernelDisplay

__all__ = [
    "ClassActivationDisplay",
    "FeatureMapDisplay",
    "GridSearchDisplay",
    "KernelDisplay",
    "class_activation_map",
]
