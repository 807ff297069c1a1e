"""
How do I read a folder of pictures?
===================================

``read_images`` finds the files of a folder that has one folder for each class, and returns images
that are decoded when they are needed. The names of the folders are the labels.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.model_selection import GridSearchCV, train_test_split

from sklearn_conv import make_image_classifier, read_images
from sklearn_conv.inspection import GridSearchDisplay

# %%
# For this page, we create a folder with parts of two photographs that ship with scikit-learn. The
# parts are from the middle of the photographs, and have different sizes. Replace ``folder`` by the
# path of your own folder.

rng = np.random.RandomState(0)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
for name, photograph in zip(["temple", "flower"], load_sample_images().images, strict=True):
    (folder / name).mkdir()
    for i in range(150):
        side = rng.randint(24, 48)
        row, column = rng.randint(80, 380 - side), rng.randint(120, 520 - side)
        part = photograph[row : row + side, column : column + side]
        Image.fromarray(part).save(folder / name / f"{i:03d}.png")

# %%
# All pictures are scaled to the same size, and their middle is cut out if their proportions differ.
# They become RGB, whether the files are gray, have a palette or are transparent. For images with 16
# bits, pass ``mode=None``.

files = read_images(folder, size=(16, 16))
print(files)

# %%
# Before anything else, look at the images that were read.

figure, axes = plt.subplots(2, 8, figsize=(8, 2.3), layout="constrained")
for row, name in zip(axes, np.unique(files.labels), strict=True):
    row[0].set_ylabel(name)
    for ax, image in zip(row, files[files.labels == name], strict=False):
        ax.imshow(image)
        ax.set(xticks=[], yticks=[])
plt.show()

# %%
# Then we search over stride and kernel size, and score the best setting on the test images once.
# With 300 pictures this takes seconds. With 30,000 pictures, search on a subset of them.

train, test = train_test_split(
    np.arange(len(files)), test_size=100, stratify=files.labels, random_state=0
)
images = np.asarray(files)  # They fit into memory, so each file is decoded only once.
model = make_image_classifier("textures", effort="fast", random_state=0, n_kernels=32)
grid = {"features__stride": [1, 2, 4], "features__kernel_size": [3, 5, 7]}
search = GridSearchCV(model, grid, cv=3).fit(images[train], files.labels[train])
accuracy = search.score(images[test], files.labels[test])
print(f"accuracy on {len(test)} test images: {accuracy:.2f}")
GridSearchDisplay.from_estimator(search)
plt.show()

# %%
# A new file is read in the same way.

print(search.predict(read_images([folder / "temple" / "007.png"], size=(16, 16))))
temporary.cleanup()

# %%
# This task is easier than most. The test images are parts of the same two photographs as the
# training images, so only their positions were held out. If your pictures come in series, for
# example from one day, one patient or one machine, keep each series together: use ``GroupKFold``
# instead of ``cv=3``.
