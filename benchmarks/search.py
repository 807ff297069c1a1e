"""Time searches with shared features against scikit-learn's own.

Both searches of a row run in a process of their own, one after the other, and are compared: all
scores must be equal. Run: make bench-search
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
from _page import CORES, PYTHON, about, add_page_argument, processor, table, write_page
from scipy.stats import loguniform
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_conv import SharedFeaturesSearch, StreamingRidgeClassifier, StridedConv2DTransformer

TARGET = "bench-search"
LEARNED = {"kernels": "patches", "whiten": True, "normalize_patches": True}


def steps(*later, **parameters):
    """Return a pipeline of a transformer and later steps, "scale" and "last"."""
    transformer = StridedConv2DTransformer(random_state=0, **parameters)
    return Pipeline(
        [("conv", transformer), *zip(("scale", "last")[-len(later) :], later, strict=True)]
    )


def scientist(parameters):
    pipeline = steps(StandardScaler(), RidgeClassifier(), n_kernels=64, **parameters)
    grid = {
        "conv__stride": [1, 2, 4],
        "conv__kernel_size": [3, 5, 7],
        "conv__pool_grid": [1, 2],
        "last__alpha": [1, 100],
    }
    return GridSearchCV(pipeline, grid, cv=5, n_jobs=2)


def many_features():
    pipeline = steps(StreamingRidgeClassifier([1, 10, 100, 1000]), n_kernels=128, pool_grid=4)
    grid = {"conv__stride": [1, 2], "conv__kernel_size": [3, 5]}
    return GridSearchCV(pipeline, grid, cv=5, n_jobs=2)


def digits():
    pipeline = steps(StreamingRidgeClassifier(np.logspace(-1, 4, 6)), n_kernels=64)
    grid = {"conv__kernel_size": [2, 3, 4, 5, 6], "conv__stride": [1, 2, 3]}
    return GridSearchCV(pipeline, grid, cv=5, n_jobs=2)


def random_candidates():
    pipeline = steps(StandardScaler(), RidgeClassifier(), n_kernels=64)
    values = {
        "conv__stride": [2, 3, 4],
        "conv__kernel_size": [3, 5, 7],
        "conv__pool_grid": [1, 2],
        "conv__activation": ["relu", "split"],
        "scale__with_std": [True, False],
        "last__alpha": loguniform(0.1, 1000),
    }
    return RandomizedSearchCV(pipeline, values, n_iter=60, cv=5, n_jobs=2, random_state=0)


ROWS = {
    "36 settings, random kernels, 64x64x3": (lambda: scientist({}), "eurosat_small", 1000, 8),
    "the same, kernels learned per fold": (lambda: scientist(LEARNED), "eurosat_small", 1000, 3),
    "4 settings, 2,048 features, 4 alphas, 28x28": (many_features, "fashion_mnist", 6000, 6),
    "15 settings of the digits, 8x8": (digits, "digits", 1797, 3),
    "60 random candidates, 64x64x3": (random_candidates, "eurosat_small", 2000, 5),
}
"""Map from rows of the table to search, images, their number and the factor that is wanted."""


def load(folder, name, n):
    """Return n images and their labels."""
    if name == "digits":
        found = load_digits()
        return found.images[:n], found.target[:n]
    with np.load(folder / f"{name}.npz") as file:
        return file["X_train"][:n], file["y_train"][:n]


def run(row, which, folder, scale):
    """Return the seconds, the scores and the number of fits of one search."""
    make, name, n, _ = ROWS[row]
    images, labels = load(Path(folder), name, n // scale)
    search = make()
    if which == "shared":
        search = SharedFeaturesSearch(search)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = time.perf_counter()
        search.fit(images, labels)
    results = search.cv_results_
    return {
        "n": len(images),
        "seconds": time.perf_counter() - start,
        "scores": [float(score) for score in results["mean_test_score"]],
        "n_fits": 5 * len(results["params"]),
    }


def measure(row, which, folder, scale):
    """Return the result of `run`, in a process of its own."""
    command = [sys.executable, __file__, "--data", str(folder), "--run", row, which, str(scale)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(row, which, f"{result['seconds']:.1f} s", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_page_argument(parser)
    parser.add_argument("--data", type=Path, help="folder with the .npz files")
    parser.add_argument("--scale", type=int, default=1, help="divide the numbers of images by it")
    parser.add_argument("--only", choices=ROWS, help="measure this row, and write no page")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        row, which, scale = arguments.run
        print(json.dumps(run(row, which, arguments.data, int(scale))))
        return
    rows = []
    for row in [arguments.only] if arguments.only else ROWS:
        plain, shared = (
            measure(row, which, arguments.data, arguments.scale) for which in ("plain", "shared")
        )
        difference = np.abs(np.subtract(plain["scores"], shared["scores"])).max()
        times = plain["seconds"], shared["seconds"]
        rows.append(
            [
                row,
                f"{plain['n']:,}",
                plain["n_fits"],
                *(f"{seconds:.1f}" for seconds in times),
                f"{times[0] / times[1]:.1f}",
                ROWS[row][3],
                f"{difference:.0e}",
            ]
        )
    header = ["search", "images", "fits", "by itself, s", "shared, s", "factor", "wanted"]
    parts = [
        f"{about(np, sklearn, PYTHON, CORES, processor())}:",
        table([*header, "largest difference of scores"], rows),
    ]
    print("\n" + "\n\n".join(parts))
    if arguments.page and not arguments.only:
        write_page(arguments.page, TARGET, parts)


if __name__ == "__main__":
    main()
