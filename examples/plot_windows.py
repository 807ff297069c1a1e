"""
Where do the windows lie?
=========================

Kernel size, stride, dilation and padding determine the pixels of each window. This example computes
them with the package itself: an image of row numbers, or of column numbers, is convolved with
kernels that have a single weight each. The results are the pixels under the weights of each window.
"""

# %%
# ``pixels_under`` computes the position of every weight of each window. The positions of weights in
# the padding, outside the image, follow from those of the weights inside.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from sklearn_conv import StridedConv2DTransformer, conv2d

SETTINGS = {
    "kernel_size=3": {},
    "stride=2": {"stride": 2},
    "dilation=2": {"dilation": 2},
    'padding="same"': {"padding": "same"},
    'stride=2, padding="same"': {"stride": 2, "padding": "same"},
}


def pixels_under(shape, kernel_size, stride=1, dilation=1, padding="valid"):
    """Return the rows and columns under the weights of all windows.

    The result has the shape (window rows, window columns, weights, 2).
    """
    weights = np.eye(kernel_size**2).reshape(kernel_size, kernel_size, 1, -1)
    size = StridedConv2DTransformer(
        kernel_size=kernel_size, stride=stride, dilation=dilation, padding=padding
    ).output_size(shape)
    places = []
    for axis in range(2):
        numbers = np.indices(shape)[axis][np.newaxis, :, :, np.newaxis] + 1.0
        seen = conv2d(numbers, weights, stride, dilation=dilation, padding=padding)[0] - 1
        # The padding is 0. Positions there follow from the steps between the weights.
        steps = np.arange(kernel_size) * dilation
        offset = np.repeat(steps, kernel_size) if axis == 0 else np.tile(steps, kernel_size)
        first = np.where(seen >= 0, seen - offset, -np.inf).max(axis=2, keepdims=True)
        places.append(first + offset)
    assert size.maps[:2] == places[0].shape[:2]
    return np.stack(places, axis=-1)


# %%
# Each panel shows an image of 7 x 7 pixels and the pixels of its first two windows. The first
# window is orange, the one next to it is blue. The dashed line is the area that all windows cover.
# The title gives the setting and the number of windows. Each window gives one response in the map.

IMAGE = (7, 7)
figure, axes = plt.subplots(1, 5, figsize=(12, 3.1), layout="constrained")
for ax, (title, options) in zip(axes, SETTINGS.items(), strict=True):
    places = pixels_under(IMAGE, 3, **options)
    for row in range(IMAGE[0]):
        for column in range(IMAGE[1]):
            square = (column - 0.5, row - 0.5)
            ax.add_patch(Rectangle(square, 1, 1, facecolor="0.93", edgecolor="0.7"))
    for index, color in ((1, "tab:blue"), (0, "tab:orange")):
        rows, columns = places[0, index].T
        ax.scatter(columns, rows, s=70 - 35 * (1 - index), color=color, marker="s")
        low, high = places[0, index].min(axis=0) - 0.5, np.ptp(places[0, index], axis=0) + 1
        frame = Rectangle(low[::-1], *high[::-1], fill=False, edgecolor=color, linewidth=2)
        ax.add_patch(frame)
    low = np.minimum(places.min(axis=(0, 1, 2)), 0) - 0.5
    high = np.maximum(places.max(axis=(0, 1, 2)), 6) + 0.5
    ax.add_patch(Rectangle(low[::-1], *(high - low)[::-1], fill=False, linestyle="--"))
    ax.set(xlim=(-2, 8), ylim=(8, -2), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"{title}\n{places.shape[0]} x {places.shape[1]} windows", size=10)
plt.show()

# %%
# Stride 2 leaves about a quarter of the windows, and the computation takes about a quarter as long.
# With dilation, windows are larger but have the same number of weights. ``padding="same"`` gives as
# many windows as pixels. With a stride, the number of windows along an axis is the number of pixels
# divided by the stride, rounded up.
