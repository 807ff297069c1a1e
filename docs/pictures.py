"""Draw the pictures of the README and the guide.

.venv/bin/python docs/pictures.py
"""

import runpy
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv.inspection import ClassActivationDisplay, KernelDisplay

DOCS = Path(__file__).parent
SIDE, STEP = 64, 32


def cut_tiles(photograph):
    """Return overlapping tiles of a photograph, ``(n, SIDE, SIDE, 3)``."""
    views = np.lib.stride_tricks.sliding_window_view(photograph, (SIDE, SIDE), axis=(0, 1))
    return views[::STEP, ::STEP].transpose(0, 1, 3, 4, 2).reshape(-1, SIDE, SIDE, 3)


china, flower = map(cut_tiles, load_sample_images().images)
pipeline = make_pipeline(
    StridedConv2DTransformer(
        256,
        kernel_size=6,
        kernels="patches",
        normalize_patches=True,
        whiten=True,
        activation="split",
        bias=-0.25,
        pool_grid=1,
        random_state=0,
    ),
    StandardScaler(),
    RidgeClassifierCV(np.logspace(0, 5, 11)),
)
labels = np.repeat(["temple", "flower"], [len(china), len(flower)])
pipeline.fit(np.concatenate([china, flower]), labels)

indices = np.argsort(-np.abs(pipeline[-1].coef_).reshape(2, 256).sum(axis=0))[:36]
KernelDisplay.from_estimator(pipeline, indices=indices).figure_.savefig(
    DOCS / "kernels_color.png", dpi=100
)
ridge = china[5 * 19 + 8]
ClassActivationDisplay.from_estimator(pipeline, ridge).figure_.savefig(
    DOCS / "class_activation.png", dpi=100
)
plt.show = lambda: plt.savefig(DOCS / "windows.png", dpi=80)
runpy.run_path(str(DOCS.parent / "examples" / "plot_windows.py"))
