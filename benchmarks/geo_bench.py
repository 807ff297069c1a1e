"""Measure a recipe with torchgeo-bench, beside its simplest models, on tiles in a file.

`RecipeRCFBench` is a model of torchgeo-bench. As its runner passes the training images only to
models whose class name ends in "RCFBench" and whose mode is "empirical", these are in its name and
in its settings. The program needs an environment of Python 3.12 or later with torchgeo-bench. Run:
OMP_NUM_THREADS=1 python benchmarks/geo_bench.py --data folder
"""

import argparse
import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hydra import compose, initialize_config_module
from sklearn.cluster import KMeans
from sklearn.model_selection import train_test_split
from torchgeo_bench.datasets import BandSpec, BenchDataset, loading
from torchgeo_bench.main import main as run
from torchgeo_bench.models.interface import BenchModel

from sklearn_conv import make_image_classifier

N_IMAGES = 2_000
"""Number of training images, at most, from which kernels are learned"""
WAVELENGTHS = {"red": 0.665, "green": 0.56, "blue": 0.49}


class RecipeRCFBench(BenchModel):
    """The features of `make_image_classifier`, with kernels from the training images."""

    def __init__(self, bands, dataset, kind="satellite", effort="fast", seed=0, **others):
        super().__init__(bands=bands, **others)
        chosen = np.random.RandomState(seed).permutation(len(dataset))[:N_IMAGES]
        images = torch.stack([dataset[int(i)]["image"].float() for i in chosen])
        recipe = make_image_classifier(kind, effort=effort, random_state=seed, n_jobs=-1)
        self.features = recipe["features"].fit(to_array(self.normalize_inputs(images)))

    def _forward_patch_features(self, images):
        return torch.from_numpy(self.features.transform(to_array(images))).to(images.device)


def to_array(images):
    """Return images as an array (n, h, w, c)."""
    return images.permute(0, 2, 3, 1).cpu().numpy()


class Tiles(BenchDataset):
    """Tiles of values from 0 to 255, in three parts."""

    task = "classification"
    rgb_bands = tuple(WAVELENGTHS)

    @classmethod
    def data_root(cls):
        """Return a folder that is not read."""
        return Path()

    def get_dataset(self, split, *, partition="default", bands=None, transform=None):
        """Return the samples of a part."""
        return [
            {"image": torch.from_numpy(image).permute(2, 0, 1).float(), "label": int(label)}
            for image, label in zip(*self.parts[split], strict=True)
        ]


def make_tiles(name, parts):
    """Return a subclass of `Tiles` for tiles, which torchgeo-bench makes an instance of."""
    X, y = parts["train"]
    bands = [
        BandSpec("s2", band, band, *numbers, 0, 255, WAVELENGTHS[band])
        for band, *numbers in zip(
            WAVELENGTHS, X.mean((0, 1, 2)).tolist(), X.std((0, 1, 2)).tolist(), strict=True
        )
    ]
    found = {"name": name, "parts": parts, "bands": bands, "num_classes": len(np.unique(y))}
    return type("Tiles", (Tiles,), found)


def split_at_random(file):
    """Return training, validation and test tiles: those of the file."""
    X, y = file["X_train"], file["y_train"]
    X, X_val, y, y_val = train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)
    return {"train": (X, y), "val": (X_val, y_val), "test": (file["X_test"], file["y_test"])}


def split_by_look(file):
    """Return training, validation and test tiles of different looks.

    The tiles of each class are divided into five clusters by the means and standard deviations of
    their colors: three for training, one for validation, and one for testing.
    """
    X, y = (np.concatenate([file[f"{name}_train"], file[f"{name}_test"]]) for name in "Xy")
    colors = np.concatenate([X.mean((1, 2)), X.std((1, 2))], axis=1)
    clusters = np.empty(len(y), int)
    for label in np.unique(y):
        rows = y == label
        clusters[rows] = KMeans(5, n_init=10, random_state=0).fit_predict(colors[rows])
    parts = {"train": clusters >= 2, "val": clusters == 1, "test": clusters == 0}
    return {part: (X[rows], y[rows]) for part, rows in parts.items()}


SPLITS = {"random": split_at_random, "look": split_by_look}
MODELS = {
    "imagestats": ["model=imagestats"],
    "RCF, gaussian": ["model=rcf"],
    "RCF, empirical": ["model=rcf", "model.mode=empirical"],
}
for effort in ("fast", "balanced"):
    MODELS[f"recipe, {effort}"] = [
        "model=rcf",
        f"model._target_={RecipeRCFBench.__module__}.{RecipeRCFBench.__name__}",
        "model.mode=empirical",
        f"+model.effort={effort}",
    ]
COMMON = ["device=cpu", "dataset.num_workers=0", "dataset.image_size=null", "eval.c_range=[-3,4,8]"]


def measure(name, overrides, output):
    """Return the accuracies of a model with five nearest neighbors and with a linear probe."""
    own = [f"dataset.names=[{name}]", f"output={output}"]
    with initialize_config_module("torchgeo_bench.conf", version_base=None):
        run.__wrapped__(compose("config", overrides=[*overrides, *COMMON, *own]))
    with open(output) as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    return {method: float(row["metric_value"]) for method, row in rows.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of eurosat_small.npz")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    arguments = parser.parse_args()
    with np.load(arguments.data / "eurosat_small.npz") as file:
        file = dict(file)
    for name in arguments.splits:
        tiles = loading._REGISTRY[name] = make_tiles(name, SPLITS[name](file))
        sizes = ", ".join(f"{len(y)} {part}" for part, (_, y) in tiles.parts.items())
        print(f"\n{name}: {sizes}\n", flush=True)
        for model in arguments.models:
            with TemporaryDirectory() as folder:
                found = measure(name, MODELS[model], Path(folder, "results.csv"))
            print(f"| {model} | {found['knn5']:.3f} | {found['linear']:.3f} |", flush=True)


if __name__ == "__main__":
    main()
