"""
How do I read a folder of pictures?
===================================

Files go into one array ``(n, h, w, c)``, and the names of their folders are the labels. Pillow,
which comes with matplotlib, reads PNG, JPEG and TIFF.
"""

# %%
# The few lines to copy. All pictures are brought to one size, since scikit-learn wants as many
# numbers of every sample, and to colours, whatever the files hold: grey, a palette, transparency.
# For microscopes with 16 bits take ``np.asarray(file)[..., np.newaxis]`` in place of the
# conversion, which would cut them to 8 bits.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv.inspection import GridSearchDisplay

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}


def read_image(path, size):
    """Read a picture as (h, w, 3) of uint8, its middle cut out and resized to (width, height)."""
    with Image.open(path) as file:
        upright = ImageOps.exif_transpose(file)
        return np.asarray(ImageOps.fit(upright.convert("RGB"), size))


def read_folder(folder, size):
    """Read folder/label/*.png and the like: images (n, h, w, 3), labels (n,)."""
    paths = sorted(path for path in Path(folder).glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} has no folders with pictures ({', '.join(sorted(SUFFIXES))}).")
    images = np.empty((len(paths), size[1], size[0], 3), np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[:] = read_image(path, size)
    return images, np.array([path.parent.name for path in paths])


# %%
# So that this page runs, a folder is made of parts of two photographs that ship with scikit-learn,
# of unequal sizes. Put the path of your own folder in its place.

rng = np.random.RandomState(0)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
for name, photograph in zip(["temple", "flower"], load_sample_images().images, strict=True):
    (folder / name).mkdir()
    for i in range(150):
        side = rng.randint(12, 20)
        row, column = rng.randint(0, 427 - side), rng.randint(0, 640 - side)
        part = photograph[row : row + side, column : column + side]
        Image.fromarray(part).save(folder / name / f"{i:03d}.png")

images, labels = read_folder(folder, size=(16, 16))
names, counts = np.unique(labels, return_counts=True)
print(
    images.shape,
    images.dtype,
    [f"{count} x {name}" for name, count in zip(names, counts, strict=True)],
)

# %%
# Look at what was read before anything else.

figure, axes = plt.subplots(2, 8, figsize=(8, 2.3), layout="constrained")
for row, name in zip(axes, np.unique(labels), strict=True):
    row[0].set_ylabel(name)
    for ax, image in zip(row, images[labels == name], strict=False):
        ax.imshow(image)
        ax.set(xticks=[], yticks=[])
plt.show()

# %%
# Then a search over stride and kernel size, and one look at the test images. With 300 pictures
# everything takes seconds; with 30,000 search on a part of them.

train_images, test_images, train_labels, test_labels = train_test_split(
    images, labels, test_size=100, stratify=labels, random_state=0
)
pipeline = make_pipeline(
    StridedConv2DTransformer(
        32,
        kernels="patches",
        normalize_patches=True,
        whiten=True,
        activation="split",
        bias=-0.25,
        pool_grid=1,
        n_patches=20_000,
        random_state=0,
    ),
    StandardScaler(),
    RidgeClassifierCV(alphas=np.logspace(-1, 4, 6)),
)
step = "stridedconv2dtransformer"
grid = {f"{step}__stride": [1, 2, 4], f"{step}__kernel_size": [3, 5, 7]}
search = GridSearchCV(pipeline, grid, cv=3).fit(train_images, train_labels)
print(f"accuracy on {len(test_labels)} test images: {search.score(test_images, test_labels):.2f}")
GridSearchDisplay.from_estimator(search)
plt.show()

# %%
# A new file goes the same way, as a batch of one.

path = folder / "temple" / "007.png"
print(search.predict(read_image(path, (16, 16))[np.newaxis]))
temporary.cleanup()

# %%
# Parts of one photograph are easier to tell from those of another than two kinds of pictures in
# general: nothing here was held out but places. Where your pictures come in series, of one day, one
# patient or one machine, keep each series together: ``GroupKFold`` instead of ``cv=3``.
