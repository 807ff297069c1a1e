"""Measure memory and time of images on a disk, the ridge classifier, Dask and grid searches.

Every figure comes from a process of its own, which this program starts. Run: make bench-scale
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import dask.array as da
import numpy as np
import psutil
import sklearn
from _page import CORES, PYTHON, about, add_page_argument, read_page, table, write_page
from distributed import Client, LocalCluster, wait
from scipy.linalg import blas, lapack
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer, save_batches

TARGET = "bench-scale"
ALPHAS = np.logspace(-1, 5, 7)
MB = 2**20


class PeakMemory:
    """Measure the peak memory of this process in MB, without mapped files, and the seconds.

    It reads /proc, and so works on Linux only.
    """

    def __enter__(self):
        self._done, self.first = threading.Event(), self._now()
        self.peak = self.first
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error):
        self.seconds = time.perf_counter() - self.start
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.005):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    @property
    def grown(self):
        """The peak less the memory at the start."""
        return self.peak - self.first


def make_images(path, n):
    """Write n random images (n, 32, 32, 3) to a .npy file."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (n, 32, 32, 3))
    rng = np.random.default_rng(0)
    for start in range(0, n, 10_000):
        part = images[start : start + 10_000]
        part[:] = rng.integers(256, size=part.shape, dtype=np.uint8)
    images.flush()


# Each of these functions runs in a process of its own, which prints what it returns as JSON.


def run_memory_map(n):
    """Compute the features of n images of a memory map, and save them."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "images.npy"
        make_images(path, n)
        images = np.load(path, mmap_mode="r")
        transformer = StridedConv2DTransformer(random_state=0, n_jobs=2).fit(images)
        with PeakMemory() as memory:
            features = save_batches(
                Path(folder) / "features.npy", transformer.transform_batches(images)
            )
        return {
            "n": n,
            "GB": images.nbytes / 1e9,
            "seconds": memory.seconds,
            "us": memory.seconds / n * 1e6,
            "peak": memory.peak,
            "grown": memory.grown,
            "shape": features.shape,
        }


def make_features(n, d):
    """Return random features (n, d) of ten classes, and the classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=n)
    X = rng.standard_normal((n, d), np.float32)
    X[:, :10] += np.eye(10, dtype=np.float32)[y]
    return X, y


def run_classifier(n, d):
    """Fit a StreamingRidgeClassifier on d features of n images, in batches."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(n, 28, 28), dtype=np.uint8)
    y = rng.integers(10, size=n)
    transformer = StridedConv2DTransformer(
        d // 32, 6, stride=2, activation="split", pool_grid=4, random_state=0, n_jobs=2
    )
    transformer.fit(images)
    classifier = StreamingRidgeClassifier(ALPHAS)
    with PeakMemory() as memory:
        for rows, features in transformer.transform_batches(images):
            classifier.partial_fit(features, y[rows])
        summed = time.perf_counter()
        assert classifier.coef_.shape == (10, d)
    return {
        "grown": memory.grown,
        "seconds": memory.seconds,
        "solve": memory.start + memory.seconds - summed,
    }


def run_ridge(n, d, which):
    """Fit a ridge classifier on random features (n, d)."""
    X, y = make_features(n, d)
    model = {
        "RidgeClassifier": lambda: make_pipeline(StandardScaler(), RidgeClassifier(10)),
        "RidgeClassifierCV": lambda: make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS)),
        "one": lambda: StreamingRidgeClassifier(10),
        "seven": lambda: StreamingRidgeClassifier(ALPHAS),
    }[which]()
    with PeakMemory() as memory:
        model.fit(X, y)
    return {"seconds": memory.seconds, "grown": memory.grown, "matrix": X.nbytes / MB}


def run_factors(d):
    """Compute a Cholesky factor with the errors of 2,000 rows, and an eigendecomposition."""
    rng = np.random.default_rng(0)
    matrix = np.asfortranarray(np.eye(d) * d + rng.standard_normal((d, d)) / d)
    rows = np.asfortranarray(rng.standard_normal((d, 2000)))
    with PeakMemory() as factor:
        lower, _ = lapack.dpotrf(matrix)
        blas.dtrsm(1.0, lower, rows, trans_a=1)
    with PeakMemory() as eigen:
        lapack.dsyevd(matrix)
    return {"factor": factor.seconds, "seconds": eigen.seconds}


def run_dask(which, n):
    """Transform n images with one thread, two threads or two Dask workers."""
    images = np.random.default_rng(0).integers(256, size=(n, 32, 32, 3), dtype=np.uint8)
    n_jobs = 2 if which == "threads" else 1
    transformer = StridedConv2DTransformer(128, 6, random_state=0, n_jobs=n_jobs).fit(images)
    if which != "workers":
        transformer.transform(images[: n // 10])
        with threadpool_limits(1), PeakMemory() as memory:
            transformer.transform(images)
        return {"seconds": memory.seconds}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        X = client.persist(da.from_array(images, chunks=(n // 20, -1, -1, -1)))
        wait(client.persist(transformer.transform(X[: n // 10])))
        with PeakMemory() as memory:
            features = client.persist(transformer.transform(X))
            wait(features)
        return {"seconds": memory.seconds}


WAYS = {
    "one process, `n_jobs=None`": {"n_jobs": None},
    "`GridSearchCV(n_jobs=2)`": {"n_jobs": 2},
    "`transformer(n_jobs=2)` in one process": {"n_jobs": None, "threads": 2},
    "features once per setting": {"n_jobs": None, "threads": 2, "once": True},
}


class TreeMemory(PeakMemory):
    """Measure memory and runnable threads of this process and of those that it starts."""

    def __enter__(self):
        self.running = []
        return super().__enter__()

    def _now(self):
        total = running = 0
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                total += int(status.split("RssAnon:")[1].split()[0]) / 1024
                for task in Path(f"/proc/{process.pid}/task").iterdir():
                    running += (task / "stat").read_text().rsplit(")", 1)[1].split()[0] == "R"
            except OSError:  # the process has just ended
                continue
        self.running.append(running - 1)  # without the thread that counts
        return total


def run_search(way, n):
    """Search over stride and kernel size on n images, in one of the WAYS."""
    images = np.random.default_rng(0).integers(256, size=(n, 28, 28), dtype=np.uint8)
    y = np.random.default_rng(1).integers(10, size=n)
    options = WAYS[way]
    transformer = StridedConv2DTransformer(32, random_state=0, n_jobs=options.get("threads"))
    classifier = StreamingRidgeClassifier()
    settings = [{"stride": s, "kernel_size": k} for s in (1, 2) for k in (3, 5)]
    with TreeMemory() as watch:
        if "once" in options:
            scores = [
                cross_val_score(
                    classifier, clone(transformer).set_params(**setting).fit_transform(images), y
                ).mean()
                for setting in settings
            ]
        else:
            step = "stridedconv2dtransformer"
            grid = [{f"{step}__{name}": [v] for name, v in setting.items()} for setting in settings]
            pipe = make_pipeline(transformer, classifier)
            search = GridSearchCV(pipe, grid, n_jobs=options["n_jobs"], refit=False)
            scores = search.fit(images, y).cv_results_["mean_test_score"]
    return {
        "seconds": watch.seconds,
        "grown": watch.grown,
        "threads": float(np.mean(watch.running)),
        "best": max(scores),
    }


def measure(name, *arguments):
    """Return the result of one of the RUNS, in a process of its own."""
    command = [sys.executable, __file__, "--run", name, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(name, *arguments, result, flush=True)
    return result


def best(repeats, name, *arguments):
    """Return the fastest of several runs, since other programs may use the machine."""
    return min((measure(name, *arguments) for _ in range(repeats)), key=lambda r: r["seconds"])


def memory_map_section(n):
    rows = []
    for count in (n // 100, n // 10, n):
        r = measure("memory_map", count)
        times = f"{r['seconds']:.1f}", f"{r['us']:.0f}"
        rows.append(
            [f"{count:,}", f"{r['GB']:.2f}", *times, f"{r['peak']:.0f}", f"{r['grown']:.0f}"]
        )
    header = ["images", "GB of images", "s", "µs per image", "peak MB", "peak MB above the start"]
    return table(header, rows)


def classifier_section(scale):
    n, d = 60_000 // scale, 32 * max(256 // scale, 1)  # 32 features of each kernel
    r = measure("classifier", n, d)
    text = (
        f"{n:,} images of 28x28, {d:,} features, {len(ALPHAS)} alphas: {r['seconds']:.0f} s, "
        f"of which {r['solve']:.0f} s to choose alpha and solve; {r['grown']:.0f} MB beyond the "
        "images."
    )
    n, d = 20_000 // scale, 4_096 // scale
    names = {
        "RidgeClassifier": "`StandardScaler`, `RidgeClassifier`, one alpha",
        "one": "`StreamingRidgeClassifier`, one alpha",
        "seven": "`StreamingRidgeClassifier`, seven alphas",
        "RidgeClassifierCV": "`StandardScaler`, `RidgeClassifierCV`, seven alphas",
    }
    results = {
        which: best(3, "ridge", n, d, which) for which in names if which != "RidgeClassifierCV"
    }
    results["RidgeClassifierCV"] = measure("ridge", n, d, "RidgeClassifierCV")
    base = results["RidgeClassifier"]["seconds"]
    rows = [
        [
            name,
            f"{results[which]['seconds']:.1f}",
            f"{results[which]['seconds'] / base:.1f}",
            f"{results[which]['grown']:.0f}",
        ]
        for which, name in names.items()
    ]
    header = [f"{n:,} x {d:,} features, float32", "s", "relative time", "MB beyond the features"]
    r = measure("factors", d)
    text += (
        f"\n\nFor {d:,} features, a Cholesky factor and the errors of 2,000 rows take "
        f"{r['factor']:.1f} s, an eigendecomposition takes {r['seconds']:.1f} s."
    )
    return f"{text}\n\n{table(header, rows)}"


def dask_section(scale):
    n = 40_000 // scale
    results = {which: best(3, "dask", which, n) for which in ("one", "threads", "workers")}
    names = ["one thread", "two threads in one process", "two Dask workers of one thread"]
    times = [results[which]["seconds"] for which in ("one", "threads", "workers")]
    rows = [
        [name, f"{seconds:.1f}", f"{times[1] / seconds:.2f}"]
        for name, seconds in zip(names, times, strict=True)
    ]
    header = [f"{n:,} images of 32x32x3, 128 kernels of 6x6", "s", "speed (two threads: 1)"]
    return table(header, rows)


def search_section(scale):
    rows = []
    for way in WAYS:
        r = measure("search", way, 10_000 // scale)
        rows.append([way, f"{r['seconds']:.1f}", f"{r['grown']:.0f}", f"{r['threads']:.1f}"])
    header = [
        f"{10_000 // scale:,} images, 4 settings, 5 folds",
        "s",
        "MB, all processes",
        "mean number of runnable threads",
    ]
    return table(header, rows)


SECTIONS = {
    "A memory map": lambda scale: memory_map_section(1_000_000 // scale),
    "A classifier": classifier_section,
    "Dask": dask_section,
    "Grid search": search_section,
}
RUNS = {
    "memory_map": lambda n: run_memory_map(int(n)),
    "classifier": lambda n, d: run_classifier(int(n), int(d)),
    "ridge": lambda n, d, which: run_ridge(int(n), int(d), which),
    "factors": lambda d: run_factors(int(d)),
    "dask": lambda which, n: run_dask(which, int(n)),
    "search": lambda way, n: run_search(way, int(n)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_page_argument(parser)
    parser.add_argument("--scale", type=int, default=1, help="divide all sizes by it, for a trial")
    parser.add_argument("--only", choices=SECTIONS, help="measure this section, keep the others")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, *rest = arguments.run
        print(json.dumps(RUNS[name](*rest)))
        return
    sections = [arguments.only] if arguments.only else SECTIONS
    environment = f"{about(np, sklearn, PYTHON, CORES)}:"
    results = {name: SECTIONS[name](arguments.scale) for name in sections}
    print(f"\n{environment}\n\n{join(results)}")
    if arguments.page:
        _, measured = read_page(arguments.page, TARGET)
        old = dict(re.findall(r"^## (.*)\n\n((?:(?!##).*\n)*)", f"{measured}\n", re.MULTILINE))
        results = {name: results.get(name, old.get(name, "").strip()) for name in SECTIONS}
        write_page(arguments.page, TARGET, [environment, join(results)])


def join(sections):
    """Return the Markdown text of sections, a dictionary of titles and texts."""
    return "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())


if __name__ == "__main__":
    main()
