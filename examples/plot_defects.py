"""
What if one small place decides?
================================

An inspection camera takes pictures of surfaces, and every second surface has a small defect, such
as a scratch, a pore or a fleck. The rest of the picture contains no information. In a mean over a
cell, such a small defect makes hardly any difference. In a maximum, it does.
"""

from copy import copy

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter1d
from sklearn.pipeline import make_pipeline

from sklearn_conv import StridedConv2DTransformer, make_image_classifier

SIDE = 64


def make_surfaces(n, rng):
    """Return images of brushed metal in uneven light, uint8 (n, h, w), and their labels."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    grain = 25 * gaussian_filter1d(rng.standard_normal((n, SIDE, SIDE)), 3, axis=2)
    level, down, across, angle, row, column = rng.uniform(
        [90, -0.4, -0.4, 0, 12, 12], [150, 0.4, 0.4, np.pi, 52, 52], (n, 6)
    ).T[..., np.newaxis, np.newaxis]
    along = (columns - column) * np.cos(angle) + (rows - row) * np.sin(angle)
    beside = (columns - column) * np.sin(angle) - (rows - row) * np.cos(angle)
    scratch = 14 * np.exp(-(beside**2)) * (np.abs(along) < 10)
    scratched = rng.uniform(size=n) < 0.5
    images = level + down * rows + across * columns + grain
    images[scratched] -= scratch[scratched]
    return np.clip(images, 0, 255).astype(np.uint8), np.where(scratched, "scratched", "good")


rng = np.random.RandomState(0)
X, y = make_surfaces(300, rng)
X_test, y_test = make_surfaces(700, rng)

figure, axes = plt.subplots(2, 5, figsize=(8, 3.6), layout="constrained")
for row, name in zip(axes, ["good", "scratched"], strict=True):
    row[0].set_ylabel(name)
    for ax, image in zip(row, X[y == name], strict=False):
        ax.imshow(image, cmap="gray", vmin=60, vmax=200)
        ax.set(xticks=[], yticks=[])
plt.show()

# %%
# The recipe for textures takes means over the image, and standardizes the contrast of each window.
# But here the contrast is what distinguishes the classes. The recipe for defects has Gabor kernels,
# which are short strokes in all directions, and ``pooling="max"``, which is high if one of them has
# a strong response anywhere. There is no padding, because zeros around a bright image make an edge
# that is stronger than any scratch.

recipe = make_image_classifier("defects", random_state=0)
defaults = StridedConv2DTransformer(random_state=0)
models = {
    "defaults": make_pipeline(defaults, recipe["classifier"]),
    "recipe for textures": make_image_classifier("textures", random_state=0),
    "strokes, mean": make_image_classifier("defects", pooling="mean", random_state=0),
    "strokes, mean above a threshold": make_image_classifier(
        "defects", pooling="mean", bias=-5, random_state=0
    ),
    "strokes, maximum, zeros around": make_image_classifier(
        "defects", padding="same", random_state=0
    ),
    "strokes, maximum: recipe for defects": recipe,
}
accuracies = {}
for name, model in models.items():
    accuracies[name] = model.fit(X, y).score(X_test, y_test)
    print(f"{accuracies[name]:.3f}  {name}")

# %%
# A maximum has a position. For each scratched surface, we select the feature with the largest
# evidence for "scratched", which is weight times value, and draw a circle where its map is largest.
# The labels do not contain the positions of the scratches.

transformer, classifier = recipe["features"], recipe["classifier"]
X_shown = X_test[y_test == "scratched"][:10]
features = transformer.transform(X_shown) - classifier.mean_
best = (features * classifier.coef_).argmax(axis=1)  # for classes_[1]
unpooled = copy(transformer).set_params(pooling=None, flatten=False)  # recipe is unchanged
maps = unpooled.transform(X_shown)

figure, axes = plt.subplots(2, 5, figsize=(8, 3.4), layout="constrained")
for ax, image, responses, k in zip(axes.flat, X_shown, maps, best, strict=True):
    row, column = np.unravel_index(responses[..., k].argmax(), responses.shape[:2])
    ax.imshow(image, cmap="gray", vmin=60, vmax=200)
    ax.plot(column + 2, row + 2, "o", ms=18, mfc="none", mec="orange")  # 2: half a kernel
    ax.set(xticks=[], yticks=[])
plt.show()
