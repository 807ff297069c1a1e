"""Make the files in tests/data with which later versions are compared.

Run ``.venv-minimum/bin/python tests/golden.py`` after ``make test-minimum``, which installs the
oldest supported versions. Do so for each new kernel and for each new version of the package, and
commit the files that it adds:

- golden_kernels.npz: the kernels, preprocessing and biases that ``fit`` computes for each name;
- fitted_<version>.pkl and .skops: fitted transformers and classifiers, and .npz: the features that
  they compute;
- fitted_<version>_ridge.pkl, .skops and .npz: the same for regressors, and for weighted rows.

Existing entries and files are not changed; to make one again, delete it first.
"""

import pickle
from pathlib import Path
from zipfile import ZIP_DEFLATED

import joblib
import numpy as np
import skops.io

import sklearn_conv
from sklearn_conv import StreamingRidge, StreamingRidgeClassifier, StridedConv2DTransformer
from sklearn_conv.kernels._initializers import KERNELS

DATA = Path(__file__).parent / "data"
FITTED = DATA / f"fitted_{sklearn_conv.__version__.replace('.', '_')}"
FITTED_RIDGE = FITTED.with_name(f"{FITTED.name}_ridge")
GOLDEN_KERNELS = DATA / "golden_kernels.npz"
TRUSTED = [
    "sklearn_conv._ridge.classifier.StreamingRidgeClassifier",
    "sklearn_conv._ridge.regressor.StreamingRidge",
    "sklearn_conv._transformer.StridedConv2DTransformer",
]

# The random streams of RandomState never change, but those of Generator may change (NEP 19).
RNG = np.random.RandomState(0)
IMAGES = RNG.standard_normal((12, 8, 7, 2))
# Four windows, each repeated a different number of times. Their clusters depend neither on rounding
# nor on the version of scikit-learn, although versions 1.8 and 1.9 draw different batches.
MOTIFS = np.repeat(RNG.standard_normal((4, 3, 3, 2)), [10, 20, 35, 55], axis=0)
PREPROCESSING = {
    "plain": {},
    "normalized": {"normalize_patches": True},
    "whitened": {"whiten": True},
    "normalized, whitened": {"normalize_patches": True, "whiten": True},
}
ESTIMATORS = {
    "gaussian": {},
    "patches": {"kernels": "patches", "normalize_patches": True, "whiten": True},
    "array": {"kernels": np.cos(np.arange(24.0)).reshape(2, 3, 2, 2), "bias": [0.1, -0.1]},
    "quantile": {"bias": "quantile", "padding_mode": "edge", "dilation": 2},
    "split": {"activation": "split", "bias": -0.1, "pooling": ["mean", "max"], "flatten": False},
}


ROWS = {"few rows": IMAGES.reshape(12, 112), "many rows": IMAGES.reshape(336, 4)}
RIDGE = {
    f"{kind}, {name}": (kind, name)
    for kind in ("weighted classifier", "regressor", "weighted regressor")
    for name in ROWS
}
"""Estimators with the kind of model and the rows to which they are fitted."""


def images_for(name):
    return MOTIFS if name == "kmeans" else IMAGES


def learned(name, images, **options):
    """Return the numbers that ``fit`` learns, in one row for each preprocessing."""
    rows = []
    for preprocessing in PREPROCESSING.values():
        fitted = StridedConv2DTransformer(
            4, kernels=name, bias="quantile", random_state=0, **preprocessing, **options
        ).fit(images)
        parts = fitted.kernels_, fitted.offset_, fitted.eps_, fitted.bias_
        rows.append(np.concatenate([np.ravel(part) for part in parts]))
    return np.array(rows)


def learned_by_all():
    return {name: learned(name, images_for(name)) for name in KERNELS}


def fitted():
    transformers = {
        name: StridedConv2DTransformer(**{"n_kernels": 4, "random_state": 0, **options}).fit(IMAGES)
        for name, options in ESTIMATORS.items()
    }
    classifiers = {
        name: StreamingRidgeClassifier([1.0, 100.0]).fit(X, np.arange(len(X)) % 3)
        for name, X in ROWS.items()
    }
    return transformers | classifiers


def targets(X):
    """Return two columns of targets for rows."""
    return X[:, :2] @ np.array([[1.0, 20.0], [-2.0, 7.0]]) + np.cos(np.arange(len(X)))[:, None]


def fitted_ridge():
    """Return fitted regressors, and models of weighted rows."""
    estimators = {}
    for name, (kind, rows) in RIDGE.items():
        X = ROWS[rows]
        weights = 1 + np.arange(len(X)) % 4 / 2 if "weighted" in kind else None
        if kind == "regressor":
            estimators[name] = StreamingRidge([1.0, 100.0]).fit(X, targets(X)[:, 0])
        elif kind == "weighted regressor":
            model = StreamingRidge([1.0, 100.0], alpha_per_target=True)
            estimators[name] = model.fit(X, targets(X), sample_weight=weights)
        else:
            model = StreamingRidgeClassifier([1.0, 100.0], class_weight={0: 2.0})
            estimators[name] = model.fit(X, np.arange(len(X)) % 3, sample_weight=weights)
    return estimators


def features(estimators):
    """Return the features of transformers, and the predictions of other estimators."""
    return {name: _predict(name, estimator) for name, estimator in estimators.items()}


def _predict(name, estimator):
    if name in ROWS:
        return estimator.decision_function(ROWS[name])
    if name in RIDGE:
        X = ROWS[RIDGE[name][1]]
        method = "decision_function" if "classifier" in name else "predict"
        return getattr(estimator, method)(X)
    return estimator.transform(IMAGES[:4])


def dump(estimators, path):
    if path.suffix == ".skops":
        skops.io.dump(estimators, path, compression=ZIP_DEFLATED)
    elif path.suffix == ".joblib":
        joblib.dump(estimators, path)
    else:
        path.write_bytes(pickle.dumps(estimators))


def load(path):
    if path.suffix == ".skops":
        return skops.io.load(path, trusted=TRUSTED)
    if path.suffix == ".joblib":
        return joblib.load(path)
    return pickle.loads(path.read_bytes())


def main():
    DATA.mkdir(exist_ok=True)
    for path, make in ((FITTED, fitted), (FITTED_RIDGE, fitted_ridge)):
        if not path.with_suffix(".npz").exists():
            estimators = make()
            for suffix in (".pkl", ".skops"):
                dump(estimators, path.with_suffix(suffix))
            np.savez_compressed(path.with_suffix(".npz"), **features(estimators))
    entries = dict(np.load(GOLDEN_KERNELS)) if GOLDEN_KERNELS.exists() else {}
    np.savez_compressed(GOLDEN_KERNELS, **{**learned_by_all(), **entries})


if __name__ == "__main__":
    main()
