"""
How far do a few labels go?
===========================

Kernels and whitening need no labels. They can be learned from all images, labeled or not, and the
classifier from the features of the few images that have labels.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits

from sklearn_conv import make_image_classifier

digits = load_digits()
images, labels = digits.images, digits.target
is_test = np.arange(len(images)) % 3 == 0

# %%
# The transformer learns its kernels once, from all training images and without labels.

recipe = make_image_classifier("tiny", random_state=0)
transformer = recipe["features"].fit(images[~is_test])
features = {"raw pixels": digits.data, "features": transformer.transform(images)}

# %%
# The classifier is fitted on 2 to 50 labeled images of each digit. Each number is drawn ten times.

N_LABELS, N_DRAWS = [2, 5, 10, 20, 50], 10


def draw(n, seed):
    """Draw n training images of each class, and return their indices."""
    rng = np.random.RandomState(seed)
    classes = [np.flatnonzero(~is_test & (labels == label)) for label in np.unique(labels)]
    return np.concatenate([rng.choice(members, n, replace=False) for members in classes])


scores = {name: np.empty((len(N_LABELS), N_DRAWS)) for name in features}
for i, n in enumerate(N_LABELS):
    for seed in range(N_DRAWS):
        chosen = draw(n, seed)
        for name, X in features.items():
            classifier = clone(recipe["classifier"]).fit(X[chosen], labels[chosen])
            scores[name][i, seed] = classifier.score(X[is_test], labels[is_test])
    means = ", ".join(f"{name} {scores[name][i].mean():.3f}" for name in features)
    print(f"{n} labels of each digit: {means}")

# %%
# The lines are the means over the draws, and the bars are the standard deviations.

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for (name, values), style in zip(scores.items(), ["o--", "s-"], strict=True):
    ax.errorbar(N_LABELS, values.mean(axis=1), values.std(axis=1), fmt=style, capsize=3, label=name)
ax.set_xscale("log")
ax.set_xticks(N_LABELS, map(str, N_LABELS))
ax.minorticks_off()
ax.set(xlabel="labeled images of each digit", ylabel="accuracy on test images")
ax.legend(loc="lower right")
plt.show()
