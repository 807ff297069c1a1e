"""Time and compare ridge regression on many features of Fashion-MNIST.

Run: make bench-many-features
"""

import argparse
import resource
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import sklearn
from _page import CORES, PYTHON, about, add_page_argument, table, write_page
from scipy.linalg import cho_factor, cho_solve
from sklearn.linear_model import Ridge

from sklearn_conv import StreamingRidgeClassifier, StridedConv2DTransformer
from sklearn_conv._ridge import all_rows, iteration

TARGET = "bench-many-features"
ALPHAS = (30, 100, 300, 1000, 3000)
SMALL = (20_000, 8_192)
"""Rows and features of the comparison of solvers"""
SIZES = ("20000x20480xfloat32", "50000x36864xfloat32", "50000x100000xfloat16")
"""Rows, features and dtype of large fits"""
N_TEST = 3_000
ALPHA = 300
BLOCK = 4_096
"""Features of a block of coordinate descent"""


def make_features(folder, n_rows, n_features, dtype):
    """Return features of training images, and labels; the last 3,000 of them choose nothing."""
    with np.load(folder / "fashion_mnist.npz") as data:
        images, labels = data["X_train"][: n_rows + N_TEST], data["y_train"][: n_rows + N_TEST]
    transformer = StridedConv2DTransformer(
        -(-n_features // 64),
        7,
        kernels="patches",
        normalize_patches=True,
        whiten=True,
        activation="split",
        bias=[[-0.25], [-1.0]],
        power=0.5,
        pool_grid=4,
        random_state=0,
    ).fit(images[:5_000])
    features = np.empty((len(images), n_features), dtype)
    for start in range(0, len(images), 500):
        rows = slice(start, start + 500)
        features[rows] = transformer.transform(images[rows])[:, :n_features]
    return features, labels


class Passes:
    """Count the passes over the rows."""

    def __enter__(self):
        self.n, add = 0, iteration.Space.add

        def count(space, directions):
            self.n += 1
            add(space, directions)

        self._patch = patch.object(iteration.Space, "add", count)
        self._patch.start()
        return self

    def __exit__(self, *error):
        self._patch.stop()


def compare(folder):
    """Return rows of a table of solvers."""
    n, d = SMALL
    features, labels = make_features(folder, n, d, np.float32)
    X, test = features[:n], features[n:]
    Y = np.where(labels[:n, np.newaxis] == np.arange(10), 1.0, -1.0)
    mean, scale = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
    Z = ((X - mean) / scale).astype(np.float64)
    test_rows, centered = (test - mean) / scale, Y - Y.mean(axis=0)
    start = time.perf_counter()
    gram = Z.T @ Z
    factor = cho_factor(gram + ALPHA * np.eye(d))
    expected = test_rows @ cho_solve(factor, Z.T @ centered) + Y.mean(axis=0)
    rows = [["Cholesky factor, float64", f"{time.perf_counter() - start:.0f}", "", ""]]

    def add(name, start, found):
        errors = np.abs(found - expected) / expected.std()
        seconds = f"{time.perf_counter() - start:.0f}"
        rows.append([name, seconds, f"{errors.max():.6f}", f"{(errors**2).mean() ** 0.5:.6f}"])
        print(rows[-1], flush=True)

    with patch.object(all_rows, "MANY_FEATURES", 0), Passes() as passes:
        start = time.perf_counter()
        model = StreamingRidgeClassifier(ALPHA).fit(X, labels[:n])
        add("this iteration, {} passes", start, model.decision_function(test))
    rows[-1][0] = rows[-1][0].format(passes.n)
    start = time.perf_counter()
    model = StreamingRidgeClassifier(ALPHA).partial_fit(X, labels[:n])
    add("sums and Cholesky factor of this package", start, model.decision_function(test))
    Z = Z.astype(np.float32)
    start = time.perf_counter()
    blocks = [slice(i, i + BLOCK) for i in range(0, d, BLOCK)]
    factors = [cho_factor(Z[:, b].T @ Z[:, b] + ALPHA * np.eye(BLOCK)) for b in blocks]
    coef, left = np.zeros((d, 10)), centered.astype(np.float32)
    for epoch in range(1, 31):
        for block, own in zip(blocks, factors, strict=True):
            change = cho_solve(own, Z[:, block].T @ left - ALPHA * coef[block])
            coef[block] += change
            left -= Z[:, block] @ change.astype(np.float32)
        if epoch in (1, 10, 30):
            name = f"coordinate descent in {len(blocks)} blocks, {epoch} epochs"
            add(name, start, test_rows @ coef + Y.mean(axis=0))
    for solver in ("lsqr", "sparse_cg"):
        start = time.perf_counter()
        model = Ridge(ALPHA, solver=solver, tol=1e-6, max_iter=50).fit(Z, Y)
        name = f"`Ridge(solver={solver!r})` of scikit-learn, 50 iterations for each class"
        add(name, start, model.predict(test_rows))
    return rows


def measure(folder, n_rows, n_features, dtype):
    """Return a row of a table of large fits."""
    features, labels = make_features(folder, n_rows, n_features, dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    with Passes() as passes:
        model = StreamingRidgeClassifier(ALPHAS).fit(features[:n_rows], labels[:n_rows])
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    score = model.score(features[n_rows:].astype(np.float32), labels[n_rows:])
    return [
        f"{n_rows:,}",
        f"{n_features:,}",
        np.dtype(dtype).name,
        passes.n,
        f"{seconds:.0f}",
        f"{before:.1f}, {peak:.1f}",
        f"{model.alpha_:g}",
        f"{score:.4f}",
    ]


def main():
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    add_page_argument(parser)
    arguments = parser.parse_args()
    parts = [about(np, sklearn, PYTHON, CORES) + "."]
    header = ["solver", "s", "largest error", "root mean square"]
    title = "## Solvers: {:,} rows, {:,} features, alpha {}".format(*SMALL, ALPHA)
    parts += [title, table(header, compare(arguments.data))]
    print(parts[-1], flush=True)
    rows = []
    for size in arguments.sizes:
        n_rows, n_features, dtype = size.split("x")
        rows.append(measure(arguments.data, int(n_rows), int(n_features), dtype))
        print(rows[-1], flush=True)
    header = ["rows", "features", "dtype", "passes", "s for fit", "GB before, at most"]
    header += ["alpha", "accuracy"]
    parts += ["## Large fits", table(header, rows)]
    print(parts[-1])
    if arguments.page:
        write_page(arguments.page, TARGET, parts)


if __name__ == "__main__":
    main()
