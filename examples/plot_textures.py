"""
Which texture is this?
======================

The images are tiles of the two photographs that ship with scikit-learn, in gray, because color
would make the task too easy. Four horizontal bands of one photograph are mostly sky, roofs, walls
and trees. The other photograph shows a flower. The left halves are cut into training tiles and the
right halves into test tiles, so that no pixel is in both.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_conv import StridedConv2DTransformer, make_image_classifier
from sklearn_conv.inspection import KernelDisplay

SIDE, STEP = 32, 16

halves = {"train": ([], []), "test": ([], [])}
china, flower = (photograph.mean(axis=2) for photograph in load_sample_images().images)
regions = dict(zip(["sky", "roofs", "walls", "trees"], np.array_split(china, 4), strict=True))
regions["flower"] = flower[150:256]
for name, region in regions.items():
    for part, columns in ("train", slice(None, 320)), ("test", slice(320, None)):
        tiles, labels = halves[part]
        pixels = region[:, columns]
        views = np.lib.stride_tricks.sliding_window_view(pixels, (SIDE, SIDE))[::STEP, ::STEP]
        tiles.append(views.reshape(-1, SIDE, SIDE))
        labels += [name] * len(tiles[-1])
(X, y), (X_test, y_test) = (
    (np.concatenate(tiles).astype(np.float32), np.array(labels))
    for tiles, labels in halves.values()
)
print(f"{len(X)} tiles to train, {len(X_test)} to test")

# %%
# These are tiles of each region.

figure, axes = plt.subplots(4, 5, figsize=(6, 5.2), layout="constrained")
rng = np.random.RandomState(0)
for column, name in zip(axes.T, np.unique(y), strict=True):
    column[0].set_title(name, size=9)
    for ax, tile in zip(column, rng.permutation(X[y == name]), strict=False):
        ax.imshow(tile, cmap="gray", vmin=0, vmax=255)
        ax.set_axis_off()
plt.show()

# %%
# The position of a pattern in a tile does not matter for textures, so that the recipe takes means
# over the whole tile. We compare three sets of features with the same classifier.

recipe = make_image_classifier("textures", random_state=0)
classifier = recipe["classifier"]
models = {
    "raw pixels": make_pipeline(FunctionTransformer(lambda X: X.reshape(len(X), -1)), classifier),
    "defaults": make_pipeline(StridedConv2DTransformer(random_state=0), classifier),
    "recipe": recipe,
}
accuracies = {}
for name, model in models.items():
    accuracies[name] = model.fit(X, y).score(X_test, y_test)
    print(f"{name}: {accuracies[name]:.3f}")

# %%
# The confusion matrix shows the errors of the recipe. The regions are not separated cleanly: roofs
# reach into the sky, and trees stand in front of the walls.

figure, ax = plt.subplots(figsize=(5.6, 5), layout="constrained")
ConfusionMatrixDisplay.from_estimator(
    recipe, X_test, y_test, normalize="true", values_format=".1f", cmap="cividis", ax=ax
)
ax.tick_params(axis="x", rotation=90)
plt.show()

# %%
# The kernels respond to edges and lines in all directions, and to grain.

KernelDisplay.from_estimator(recipe)
plt.show()
