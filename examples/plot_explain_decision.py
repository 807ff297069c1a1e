"""
Where does the evidence lie?
============================

The decision of a linear model on pooled features is a sum over the image. It can therefore be
attributed to the pixels exactly: the values of a class activation map add up to
``decision_function``.
"""

# sphinx_gallery_thumbnail_number = 3

# %%
# We fit a pipeline that classifies digits. Two properties are needed: the features are means over
# the cells of a grid, here of 4 x 4 cells, and the scaler and the classifier are linear.

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
# The kernels are whitened windows of the training images. They are sorted by smoothness, the
# smoothest first.

KernelDisplay.from_estimator(pipeline)
plt.show()

# %%
# The feature maps show where the kernels respond most in one image. Lines show the cells over which
# the responses are averaged.

FeatureMapDisplay.from_estimator(pipeline, test_images[1])
plt.show()

# %%
# The class activation map is the evidence for the predicted class. Orange pixels are evidence for
# it, purple pixels are evidence against it. The evidence adds up to the decision.

maps = class_activation_map(pipeline, test_images)
decisions = pipeline.decision_function(test_images)
print(f"{maps.shape}: images, rows, columns, classes")
sums = maps.sum(axis=(1, 2)).reshape(decisions.shape)  # for two classes (n,)
print(f"largest difference from the decision: {np.abs(sums - decisions).max():.0e}")
ClassActivationDisplay.from_estimator(pipeline, test_images[1])
plt.show()

# %%
# Mistakes are the most instructive. We look at the first test image that is classified wrongly.
# Which pixels are evidence for the predicted class, and which for the true class?

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
# Much of the evidence is the same for both classes. With ``versus``, only the difference is left:
# why is the prediction not the true class?

if len(wrong):
    ClassActivationDisplay.from_estimator(pipeline, image, versus=right)
    plt.show()

# %%
# The recipes take the square root of the features. With the parameter ``power=0.5`` of the
# transformer, each position receives the part of the square root that it has in the mean, so that
# the evidence still adds up to the decision.

root = StridedConv2DTransformer(**{**transformer.get_params(), "power": 0.5})
pipeline = make_pipeline(root, StandardScaler(), LogisticRegression(C=0.01)).fit(images, labels)
print(f"accuracy on test images: {pipeline.score(test_images, test_labels):.3f}")
sums = class_activation_map(pipeline, test_images).sum(axis=(1, 2))
difference = np.abs(sums - pipeline.decision_function(test_images)).max()
print(f"largest difference from the decision: {difference:.0e}")
ClassActivationDisplay.from_estimator(pipeline, test_images[1])
plt.show()

# %%
# With a step such as ``FunctionTransformer(numpy.sqrt)``, and with ``pooling="max"``, the decision
# is not a sum over the image. ``class_activation_map`` then raises an error that says so. To
# explain such a model, use ``power`` instead of the step, or fit a second model with another
# pooling, and compare the predictions of both.
#
# The idea is from B. Zhou, A. Khosla, A. Lapedriza, A. Oliva and A. Torralba, "Learning Deep
# Features for Discriminative Localization" (2016).
