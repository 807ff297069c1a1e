"""
Do two layers see more than one?
================================

With ``flatten=False``, the features of a transformer are images again. A second transformer then
responds to arrangements of the features of the first one. Whether this helps depends on the data.
"""

# %%
# Each image shows one of two shapes. Both consist of the same two short strokes, one horizontal and
# one vertical. In one class the strokes meet in a corner, in the other class they are apart. Their
# position is random, and the images have noise.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StridedConv2DTransformer

SIDE, LENGTH = 24, 7


def draw_strokes(meets, rng):
    """Draw a horizontal and a vertical stroke that start at the same pixel or are apart."""
    image = rng.normal(0, 0.25, (SIDE, SIDE))
    row, column = rng.randint(1, SIDE - LENGTH - 1, size=2)
    image[row, column : column + LENGTH] += 1
    if not meets:
        places = [
            (r, c)
            for r in range(1, SIDE - LENGTH - 1)
            for c in range(1, SIDE - 1)
            if not (r - 2 <= row <= r + LENGTH + 1 and column - 2 <= c <= column + LENGTH + 1)
        ]
        row, column = places[rng.randint(len(places))]
    image[row : row + LENGTH, column] += 1
    return image


rng = np.random.RandomState(0)
labels = np.arange(1000) % 2
images = np.array([draw_strokes(label, rng) for label in labels], np.float32)
figure, axes = plt.subplots(2, 6, figsize=(8, 2.9), layout="constrained")
for row, name, label in zip(axes, ["apart", "meet"], [0, 1], strict=True):
    row[0].set_ylabel(name)
    for ax, image in zip(row, images[labels == label], strict=False):
        ax.imshow(image, cmap="gray")
        ax.set(xticks=[], yticks=[])
plt.show()

# %%
# The first layer responds to strokes in eight directions, and keeps a fine grid of 12 x 12 cells.
# The windows of the second layer have 5 x 5 of these cells with eight channels each, so that it
# responds to combinations of directions. It pools over the whole image, because the position does
# not matter.

recipe = {
    "kernels": "patches",
    "normalize_patches": True,
    "whiten": True,
    "activation": "split",
    "bias": -0.5,
    "pool_grid": 1,
    "n_patches": 20_000,
    "random_state": 0,
}
first = StridedConv2DTransformer(
    8, 3, kernels="sobel", activation="abs", pool_grid=12, flatten=False
)
second = StridedConv2DTransformer(128, 5, **recipe)
between = first.fit_transform(images)
print(f"images {images.shape[1:]}, after the first layer {between.shape[1:]}")
print(f"after the second layer {second.fit_transform(between).shape[1:]}")

# %%
# We compare both layers with a single layer that has the same number of features, for several
# kernel sizes. The windows of the largest kernels are as large as those of both layers together.

models = {"two layers": [first, second]}
for size in (5, 9, 13):
    models[f"one, {size} x {size}"] = [StridedConv2DTransformer(128, size, **recipe)]
scores = {}
for name, layers in models.items():
    model = make_pipeline(*layers, StandardScaler(), RidgeClassifierCV(np.logspace(-1, 5, 7)))
    scores[name] = cross_val_score(model, images, labels, cv=3)
    print(f"{name}: {scores[name].mean():.3f} +- {scores[name].std():.3f}")

figure, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
values = [score.mean() for score in scores.values()]
ax.barh(list(scores), values, xerr=[score.std() for score in scores.values()], color="tab:blue")
ax.axvline(0.5, color="0.3", linestyle="--")
ax.set(xlim=(0.4, 1), xlabel="accuracy, three folds (dashed: chance level)")
ax.invert_yaxis()
plt.show()

# %%
# Two layers are better if the arrangement of simple parts matters, as it does here by design. A
# search shows whether it matters in your images. A single layer with more kernels is simpler, so
# try it first.
