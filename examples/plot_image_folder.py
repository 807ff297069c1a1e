"""
How do I read a folder of pictures?
===================================

All files are read into one array ``(n, h, w, c)``, and the names of their folders are the labels.
Pillow, which is installed with matplotlib, reads PNG, JPEG and TIFF.
"""

# %%
# You can copy these functions. All pictures are resized to the same size, because scikit-learn
# needs the same number of features for every sample. They are converted to RGB, whether the files
# are gray-scale, have a palette or are transparent. For images of microscopes with 16 bits, use
# ``np.asarray(file)[..., np.newaxis]`` instead of this conversion, which would reduce them to 8
# bits.

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
    """Return a picture as uint8 (h, w, 3), cropped around its center to size (width, height)."""
    with Image.open(path) as file:
        upright = ImageOps.exif_transpose(file)
        return np.asarray(ImageOps.fit(upright.convert("RGB"), size))


def read_folder(folder, size):
    """Return images (n, h, w, 3) and labels (n,) from folder/label/*.png and similar files."""
    paths = sorted(path for path in Path(folder).glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} has no folders with pictures ({', '.join(sorted(SUFFIXES))}).")
    images = np.empty((len(paths), size[1], size[0], 3), np.uint8)
    for image, path in zip(images, paths, strict=True):
        image[:] = read_image(path, size)
    return images, np.array([path.parent.name for path in paths])


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

images, labels = read_folder(folder, size=(16, 16))
names, counts = np.unique(labels, return_counts=True)
print(
    images.shape,
    images.dtype,
    [f"{count} x {name}" for name, count in zip(names, counts, strict=True)],
)

# %%
# Before anything else, look at the images that were read.

figure, axes = plt.subplots(2, 8, figsize=(8, 2.3), layout="constrained")
for row, name in zip(axes, np.unique(labels), strict=True):
    row[0].set_ylabel(name)
    for ax, image in zip(row, images[labels == name], strict=False):
        ax.imshow(image)
        ax.set(xticks=[], yticks=[])
plt.show()

# %%
# Then we search over stride and kernel size, and score the best setting on the test images once.
# With 300 pictures this takes seconds. With 30,000 pictures, search on a subset of them.

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
# To classify a new file, read it in the same way, and pass it as a batch of one image.

path = folder / "temple" / "007.png"
print(search.predict(read_image(path, (16, 16))[np.newaxis]))
temporary.cleanup()

# %%
# This task is easier than most. The test images are parts of the same two photographs as the
# training images, so only their positions were held out. If your pictures come in series, for
# example from one day, one patient or one machine, keep each series together: use ``GroupKFold``
# instead of ``cv=3``.
