"""Simple baselines: features that need no training, and a support vector machine.

Each function returns the features (n, features) of images (n, h, w, c) of values from 0 to 255. All
settings are chosen by cross-validation on up to `N_SEARCH` training images.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from skimage.color import rgb2gray
from skimage.feature import hog, local_binary_pattern
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

N_SEARCH = 5_000
FOLDS = 3


def compute(describe, images):
    """Return the features that a function returns for each image."""
    with Parallel(n_jobs=-1, batch_size=256) as parallel:
        return np.array(parallel(delayed(describe)(image) for image in images), np.float32)


def gradients(images, cell):
    """Compute HOG. In color images, each pixel uses the channel with the largest gradient."""
    describe = partial(
        hog, pixels_per_cell=(cell, cell), cells_per_block=(2, 2), orientations=9, channel_axis=-1
    )
    return compute(describe, images)


def patterns(images, radius):
    """Compute histograms of uniform local binary patterns of radii up to one, and of channels."""

    def describe(image):
        gray = np.uint8(np.round(255 * rgb2gray(image))) if image.shape[2] == 3 else image[..., 0]
        histograms = [
            np.bincount(
                local_binary_pattern(gray, 8 * r, r, "uniform").astype(int).ravel(),
                minlength=8 * r + 2,
            )
            for r in range(1, radius + 1)
        ]
        histograms += [
            np.histogram(channel, 12, (0, 256))[0] for channel in np.moveaxis(image, 2, 0)
        ]
        return np.concatenate(histograms) / gray.size

    return compute(describe, images)


def statistics(images, n_bins):
    """Compute mean, standard deviation, minimum, maximum and a histogram of each channel."""

    def describe(image):
        channels = image.reshape(-1, image.shape[2])
        histograms = [np.histogram(channel, n_bins, (0, 256))[0] for channel in channels.T]
        moments = [getattr(channels, name)(axis=0) for name in ("mean", "std", "min", "max")]
        return np.concatenate([*moments, np.ravel(histograms) / len(channels)])

    return compute(describe, images)


class Baseline(NamedTuple):
    """Features with one setting, which is searched."""

    describe: Callable
    """Return the features (n, features) of images (n, h, w, c), with a setting"""
    settings: Sequence[int]
    is_scaled: bool = True
    """Whether the support vector machine sees standardized features"""

    def choose(self, images, labels):
        """Return the setting with which ridge regression has the best cross-validated accuracy."""
        scores = [
            cross_val_score(
                make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 4, 9))),
                self.describe(images[:N_SEARCH], setting),
                labels[:N_SEARCH],
                cv=FOLDS,
            ).mean()
            for setting in self.settings
        ]
        return self.settings[int(np.argmax(scores))]

    def scale(self, features, others):
        """Return the features of training and test images for the support vector machine."""
        if not self.is_scaled:
            return features, others
        scaler = StandardScaler().fit(features)
        return scaler.transform(features), scaler.transform(others)


def make_baselines(cells):
    """Return a map from name to baseline; those of HOG have cells of one of these widths."""
    return {
        "color statistics": Baseline(statistics, (4, 8, 16, 32, 64)),
        "LBP": Baseline(patterns, (1, 2, 3)),
        "HOG": Baseline(gradients, cells, is_scaled=False),
    }


def find_machine(features, labels):
    """Return a support vector machine with the best C and gamma, not fitted."""
    scale = float(1 / (features.shape[1] * features.var()))
    grid = {"C": [1, 3, 10, 30], "gamma": [0.3 * scale, scale, 3 * scale]}
    search = GridSearchCV(SVC(cache_size=2000), grid, cv=FOLDS, n_jobs=-1, refit=False)
    search.fit(features[:N_SEARCH], labels[:N_SEARCH])
    return SVC(cache_size=2000, **search.best_params_)
