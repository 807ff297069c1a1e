"""
What if images and features do not fit into memory?
===================================================

The images stay in a file and are read in batches. The classifier learns from batches of features as
well, so that the features of all images are never in memory at the same time.
"""

import tempfile
import tracemalloc
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer, save_batches

# %%
# We write a file with 6,000 images of 32 x 32 pixels and three channels. They show waves in one of
# eight directions, with noise. The file has 18 MB. With a hundred times as many images, only the
# time would change below.

N, N_CLASSES = 6000, 8
temporary = tempfile.TemporaryDirectory()
path = Path(temporary.name) / "images.npy"
rng = np.random.default_rng(0)
labels = rng.integers(N_CLASSES, size=N)
stored = np.lib.format.open_memmap(path, "w+", np.uint8, (N, 32, 32, 3))
row, column = np.mgrid[:32, :32]
for i, label in enumerate(labels):
    angle = np.pi * label / N_CLASSES
    wave = np.sin(0.7 * (np.cos(angle) * row + np.sin(angle) * column) + i)
    noise = rng.normal(0, 50, (32, 32, 3))
    stored[i] = np.clip(128 + 40 * wave[..., np.newaxis] + noise, 0, 255)
del stored

# %%
# From here on, the images are only in the file. ``fit`` reads the images that contain its training
# patches, and ``transform_batches`` yields the features of one batch after the other.

images = np.load(path, mmap_mode="r")
transformer = StridedConv2DTransformer(
    64,
    kernel_size=5,
    stride=2,
    kernels="patches",
    normalize_patches=True,
    whiten=True,
    activation="split",
    bias=-0.25,
    n_patches=20_000,
    random_state=0,
).fit(images)

# %%
# The last 1,000 images are the test set. After each batch, we compute the accuracy of the
# classifier, which does not have to see all features first. ``tracemalloc`` measures the peak
# memory of the loop.

test = images[-1000:]
test_features = transformer.transform(test)
classifier, seen, accuracies = StreamingRidgeClassifier(), [], []
tracemalloc.start()
for rows, features in transformer.transform_batches(images[:-1000], batch_size=500):
    classifier.partial_fit(features, labels[:-1000][rows])
    seen.append(rows.stop)
    accuracies.append(classifier.score(test_features, labels[-1000:]))
_, peak = tracemalloc.get_traced_memory()
tracemalloc.stop()
print(f"accuracy after {seen[0]} images {accuracies[0]:.3f}, after {seen[-1]} {accuracies[-1]:.3f}")
print(f"at most {peak / 1e6:.0f} MB for batches, features and classifier")

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(seen, accuracies, "o-")
ax.set(xlabel="images seen so far", ylabel="accuracy on 1,000 test images")
plt.show()

# %%
# If several models are fitted on the same features, write these to a file, and read them from it
# like the images. The file is written atomically: it exists only if it is complete.

features = save_batches(
    Path(temporary.name) / "features.npy", transformer.transform_batches(images)
)
print(type(features).__name__, features.shape, features.dtype)
temporary.cleanup()

# %%
# Arrays of zarr, h5py and Dask can be passed in the same way, see :doc:`/scale`.
