"""
A study of cells, from files to a table
=======================================

A microscope takes pictures of blood cells of twelve patients, and some of the cells contain a
parasite, which looks like a small ring. How well can it be recognized in the cells of a new
patient, where does the model look, and which cells should a person look at? This page reads the
files, cross-validates by patient, writes a table with a row for each cell, saves a model for new
files, and draws the evidence.
"""

import csv
import re
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import skops.io
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline

from sklearn_conv import ImageReader, cross_val_table, make_image_classifier, read_images
from sklearn_conv.inspection import ClassActivationDisplay

# %%
# For this page, we draw the cells. Each patient has a stain of another strength and color, and some
# patients have more infected cells than others. All cells have dark spots; a parasite is a ring.
# Replace ``folder`` by the path of your own folder, which has a folder for each class.

N, SIDE = 400, 32
rng = np.random.default_rng(0)
rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
stains = rng.normal([50, 85, 70], 12, (12, 3))
fractions = rng.uniform(0.2, 0.8, 12)


def draw_cell(stain, is_infected):
    """Return an image of a cell, uint8 (SIDE, SIDE, 3)."""
    cell = np.clip(rng.uniform(11, 14) - np.hypot(rows, columns * rng.uniform(0.85, 1.15)), 0, 1)
    cell *= 1 + gaussian_filter(rng.normal(0, 1, cell.shape), 2)
    dark = np.zeros_like(cell)
    for radius in [0, 0, 3] if is_infected else [0, 0, 0]:
        row, column = rng.uniform(-7, 7, 2)
        dark += np.exp(-((np.hypot(rows - row, columns - column) - radius) ** 2))
    darkness = cell[..., np.newaxis] * stain + dark[..., np.newaxis] * [70, 70, 20]
    return (235 - darkness + rng.normal(0, 12, darkness.shape)).clip(0, 255).astype(np.uint8)


temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
for i, patient in enumerate(rng.integers(12, size=N)):
    is_infected = rng.random() < fractions[patient]
    path = folder / ("infected" if is_infected else "healthy") / f"patient{patient:02}_{i:03}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(draw_cell(stains[patient], is_infected)).save(path)

# %%
# The study takes twenty lines. Cells of one patient look alike, so ``groups`` keeps them together:
# each row of the table is from a model that had not seen the patient.

files = read_images(folder, size=(SIDE, SIDE))
patients = [re.search(r"patient\d+", str(path))[0] for path in files.paths]
recipe = make_image_classifier("textures", effort="fast", n_kernels=48, random_state=0)
model = make_pipeline(ImageReader(size=(SIDE, SIDE)), *recipe)
paths, labels, folds = files.paths, files.labels, StratifiedGroupKFold(4)
table = cross_val_table(model, paths, labels, groups=patients, cv=folds, paths=paths)
accuracy = np.mean(table["predicted"] == labels)
print(f"accuracy {accuracy:.3f}, log loss {log_loss(labels, table['probability_infected']):.3f}")

with (folder / "cells.csv").open("w", newline="") as file:
    csv.writer(file).writerows([table, *zip(*table.values(), strict=True)])

model.fit(paths, labels)
skops.io.dump(model, folder / "cells.skops")

surest = np.argsort(table["probability_infected"])[::-1]
for image in files[surest[:2]]:
    ClassActivationDisplay.from_estimator(model[1:], image)
plt.show()

# %%
# Orange pixels are evidence for "infected", purple ones are evidence against it. The evidence lies
# at the rings, so the model does not recognize a patient, or the background.
#
# The table has the path, the label, the predicted class, the probability of each class, the
# novelty, the fold and the patient of each cell. ``pandas.DataFrame(table)`` makes a data frame of
# it. These are the cells of which the models were most certain, and wrong:

certainty = np.maximum(table["probability_healthy"], table["probability_infected"])
wrong = np.flatnonzero(table["predicted"] != labels)
wrong = wrong[np.argsort(-certainty[wrong])]
figure, axes = plt.subplots(1, 6, figsize=(10, 2.3), layout="constrained")
for ax, i in zip(axes, wrong, strict=False):
    ax.imshow(files[i])
    ax.set(
        xticks=[], yticks=[], title=f"is {labels[i]}\n{table['predicted'][i]}: {certainty[i]:.2f}"
    )
plt.show()

# %%
# The score of each patient shows what one number hides:

for patient in np.unique(patients):
    is_own = table["group"] == patient
    own = np.mean(table["predicted"][is_own] == labels[is_own])
    print(f"{patient}: {is_own.sum()} cells, accuracy {own:.2f}")
temporary.cleanup()

# %%
# The model reads files, so it is applied to a new folder by
# ``sklearn-conv predict cells.skops FOLDER -o predictions.csv``, or in Python by
# ``model.predict(paths)``. Without its reader, ``skl2onnx.to_onnx(model[1:], files[:1])`` exports
# it to a file that needs no Python. ``sklearn-conv classify FOLDER --groups '(patient[0-9]+)'``
# writes such a study as a report.
