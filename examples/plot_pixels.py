"""
Classes of pixels from scribbles
================================

A person draws a few lines over an image, in a color for each class, and a `PixelClassifier` finds
the class of all other pixels, and its probability. One image is a micrograph of cells, and the
other a satellite scene. Both are drawn here, so that the true class of each pixel is known.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from scipy.ndimage import binary_erosion, gaussian_filter, grey_dilation
from scipy.spatial import KDTree

from sklearn_conv import PixelClassifier

SIDE, scores = 384, []
rng = np.random.default_rng(0)
places = np.mgrid[:SIDE, :SIDE].transpose(1, 2, 0)


def smooth(sigma):
    """Return smooth noise of zero mean and unit variance, (SIDE, SIDE)."""
    noise = gaussian_filter(rng.normal(size=(SIDE, SIDE)), sigma)
    return (noise - noise.mean()) / noise.std()


def scribble(truth, n_lines=8, length=50):
    """Return short lines in each class as a person would draw them, and 0 elsewhere."""
    scribbles = np.zeros_like(truth)
    for label in np.unique(truth):
        inner = binary_erosion(truth == label, iterations=2)
        for start in rng.permutation(np.argwhere(inner))[:n_lines]:
            angles = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.15, length).cumsum()
            line = start + np.stack([np.cos(angles), np.sin(angles)], axis=1).cumsum(axis=0)
            row, column = line.clip(0, SIDE - 1).astype(int).T
            n_inside = np.argmin([*inner[row, column], False])
            scribbles[row[:n_inside], column[:n_inside]] = label
    return grey_dilation(scribbles, size=3)


def show(image, truth, names):
    """Learn from scribbles, and draw them, the predicted classes and the last one's probability."""
    scribbles = scribble(truth)
    model = PixelClassifier(random_state=0).fit([image], [scribbles])
    scores.append(model.score([image], [truth]))
    print(f"{(scribbles > 0).mean():.1%} labeled, mean intersection over union {scores[-1]:.3f}")
    figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
    colors = {"cmap": ListedColormap(["gold", "deepskyblue", "red"]), "vmin": 0.5, "vmax": 3.5}
    axes[0].imshow(image, cmap="gray")
    axes[0].imshow(np.ma.masked_equal(scribbles, 0), interpolation="none", **colors)
    classes = axes[1].imshow(model.predict([image])[0], interpolation="none", **colors)
    figure.colorbar(classes, ax=axes[1], shrink=0.8).set_ticks([1, 2, 3], labels=names)
    probability = axes[2].imshow(model.predict_proba([image])[0][..., 2], vmin=0, vmax=1)
    figure.colorbar(probability, ax=axes[2], shrink=0.8)
    for ax, title in zip(axes, ["scribbles", "classes", f"probability of {names[2]}"], strict=True):
        ax.set(xticks=[], yticks=[], title=title)
    plt.show()


# %%
# Nuclei are grainy and cells have fibers. The light is uneven, so that no threshold finds them.

centers = 64 * np.argwhere(np.ones((6, 6))) + rng.uniform(12, 52, (36, 2))
near, cell = KDTree(rng.permutation(centers)[:30]).query(places)
truth = np.digitize(-near - 4 * smooth(6), [-28, -13]) + 1
fibers = np.where(cell % 2, smooth((4, 1)), smooth((1, 4)))
light = 30 + 30 * (truth > 1) * (1.3 + 0.4 * fibers) + 40 * (truth == 3) * (1 + 0.5 * smooth(1))
light = gaussian_filter(light, 1) * (1 + 0.15 * smooth(80))
micrograph = (light + rng.normal(0, 6, light.shape)).clip(0, 255).astype(np.uint8)
show(micrograph, truth, ["background", "cell", "nucleus"])

# %%
# Fields have many colors, some as green as the forest, and rows of plants in any direction.

_, field = KDTree(rng.uniform(0, SIDE, (25, 2))).query(places)
colors = np.array([[150, 120, 80], [90, 120, 60], [190, 170, 110], [60, 90, 45]])
plants = np.sin(1.6 * (places * rng.normal(size=(25, 2))[field]).sum(axis=2))
scene = colors[field % 4] + 12 * (plants + smooth(12))[..., np.newaxis]
forest = smooth(30) > 0.5
scene[forest] = [50, 75, 40] + (22 * smooth(1.7))[forest][:, np.newaxis]
river = np.abs(places[..., 1] - 180 - 40 * np.sin(places[..., 0] / 60)) < 22 + 5 * smooth(15)
scene[river] = [40, 70, 90] + (5 * smooth((1, 5)))[river][:, np.newaxis]
scene = gaussian_filter(scene, (0.6, 0.6, 0)) + rng.normal(0, 6, scene.shape)
scene, truth = scene.clip(0, 255).astype(np.uint8), np.where(river, 2, np.where(forest, 3, 1))
show(scene, truth, ["field", "water", "forest"])

# %%
# Most errors are where a person would ask for more lines: in the dark cells at the lower left, and
# at the borders of fields. ``model.predict_proba`` says where the model is not sure.
