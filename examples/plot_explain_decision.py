"""
Where does the evidence lie?
============================

A linear model on pooled features decides by a sum over the image. So its decision can be laid on
the pixels, exactly: what a class activation map shows adds up to ``decision_function``.
"""

# sphinx_gallery_thumbnail_number = 3

# %%
# A pipeline that tells digits apart. The features are means over a grid of 4 x 4 cells, the scaler
# and the classifier are linear: that is all it takes.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv.inspection import (
    ClassActivationDisplay,
    FeatureMapDisplay,
    KernelDisplay,
    class_activation_map,
)

digits = load_digits()
images, test_images, labels, test_labels = train_test_split(
    digits.images, digits.target, random_state=0
)
transformer = StridedConv2DTransformer(
    32,
    kernel_size=3,
    kernels="patches",
    normalize_patches=True,
    whiten=True,
    activation="split",
    bias=-0.25,
    pool_grid=4,
    random_state=0,
)
pipeline = make_pipeline(transformer, StandardScaler(), LogisticRegression(C=0.01))
pipeline.fit(images, labels)
print(f"accuracy on test images: {pipeline.score(test_images, test_labels):.3f}")

# %%
# The kernels are windows of the training images, whitened. Smooth ones come first.

KernelDisplay.from_estimator(pipeline)
plt.show()

# %%
# Where they respond most in one image, and the cells over which responses are averaged.

FeatureMapDisplay.from_estimator(pipeline, test_images[1])
plt.show()

# %%
# The evidence for the predicted class: orange pixels speak for it, purple ones against it. It adds
# up to the decision.

maps = class_activation_map(pipeline, test_images)
decisions = pipeline.decision_function(test_images)
print(f"{maps.shape}: images, rows, columns, classes")
sums = maps.sum(axis=(1, 2)).reshape(decisions.shape)  # of two classes (n,)
print(f"largest difference to the decision: {np.abs(sums - decisions).max():.0e}")
ClassActivationDisplay.from_estimator(pipeline, test_images[1])
plt.show()

# %%
# Most is to be learned from mistakes. Of the test images that were taken for another digit, the
# first: what speaks for the class that was chosen, and what for the right one?

wrong = np.flatnonzero(pipeline.predict(test_images) != test_labels)
print(f"{len(wrong)} of {len(test_labels)} are wrong")
if len(wrong):
    image, right = test_images[wrong[0]], test_labels[wrong[0]]
    ClassActivationDisplay.from_estimator(pipeline, image)
    plt.show()

# %%

if len(wrong):
    ClassActivationDisplay.from_estimator(pipeline, image, class_of_interest=right)
    plt.show()

# %%
# ``FunctionTransformer(numpy.sqrt)``, which the recipes put behind the transformer, and
# ``pooling="max"`` give other sums, or none: they are refused here, with a message that says so. To
# explain such a model, fit one without them beside it, and see whether both agree.
#
# The idea is that of B. Zhou, A. Khosla, A. Lapedriza, A. Oliva and A. Torralba, "Learning Deep
# Features for Discriminative Localization" (2016).
