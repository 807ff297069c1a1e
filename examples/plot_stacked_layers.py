"""
Do two layers see more than one?
================================

With ``flatten=False`` the features of one transformer are images again, and a second one sees
arrangements of what the first one found. Whether that helps is a question to the data.
"""

# %%
# Which of two shapes lies in an image? Both are made of the same two short strokes, one across and
# one down: in one class the strokes meet in a corner, in the other they lie apart. Their place is
# random, and there is noise.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StridedConv2DTransformer

SIDE, LENGTH = 24, 7


def draw_strokes(meets, rng):
    """Draw a stroke across and one down, which meet at their upper left ends or do not."""
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
# The first layer answers strokes of eight directions, and keeps a fine grid of 12 x 12 cells. The
# second sees 5 x 5 of these cells, eight channels each: which directions lie beside which. It pools
# over the whole image, since the place says nothing here.

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
# Against both stands one layer with as many features, and kernels of several sizes: the largest see
# as far as both layers together.

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
ax.set(xlim=(0.4, 1), xlabel="accuracy, three folds (dashed: by chance)")
ax.invert_yaxis()
plt.show()

# %%
# Two layers win where an arrangement of simple parts is what counts, as it does here by design.
# Whether it counts in your images is for a search to say; one layer with more kernels is simpler,
# so try it first.
