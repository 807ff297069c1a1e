"""Time a fitted pipeline per image, in scikit-learn and in onnxruntime, on one core.

Both classify the same images, in float32. The two take turns, so that a busy machine slows both
down, and their medians are compared. Run: make bench-onnx
"""

import argparse
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np
import onnxruntime
from _page import about, add_page_argument, table, write_page
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import sklearn_conv.onnx  # noqa: F401  registers the transformer with skl2onnx
from sklearn_conv import StridedConv2DTransformer

TARGET = "bench-onnx"
RECIPE = {
    "kernel_size": 4,
    "kernels": "patches",
    "normalize_patches": True,
    "whiten": True,
    "activation": "split",
    "bias": -0.25,
    "pool_grid": 3,
}


class Pipeline(NamedTuple):
    """Parameters of the transformer, and the number of rows and columns of the images."""

    length: int
    parameters: dict

    def resize(self, digits):
        """Enlarge digits of 8 x 8 pixels."""
        times = self.length // 8
        return digits.repeat(times, axis=1).repeat(times, axis=2)


PIPELINES = {
    "8 x 8, defaults": Pipeline(8, {}),
    "8 x 8, recipe": Pipeline(8, RECIPE),
    "128 x 128, defaults": Pipeline(128, {}),
    "128 x 128, recipe": Pipeline(128, RECIPE),
}
BATCHES = [1, 100]
N_FIT = 500
HEADER = [
    "images, pipeline",
    "batch size",
    "ms per image, scikit-learn",
    "ms per image, onnxruntime",
    "ratio",
]


class Timing(NamedTuple):
    """Milliseconds per image in a batch."""

    pipeline: str
    batch_size: int
    sklearn: float
    onnxruntime: float

    def cells(self):
        """Return a row of the table."""
        times = f"{self.sklearn:.3f}", f"{self.onnxruntime:.3f}"
        return [self.pipeline, self.batch_size, *times, f"{self.sklearn / self.onnxruntime:.1f}"]


def measure(digits, labels):
    """Yield a Timing for each pipeline and batch size."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for name, pipeline in PIPELINES.items():
        images = pipeline.resize(digits[:N_FIT])
        model = make_pipeline(
            StridedConv2DTransformer(random_state=0, **pipeline.parameters),
            StandardScaler(),
            LogisticRegression(C=0.01, max_iter=1000),
        ).fit(images, labels[:N_FIT])
        exported = to_onnx(model, images[:1], options={"zipmap": False})
        session = onnxruntime.InferenceSession(
            exported.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for n in BATCHES:
            X = images[:n]
            ways = [partial(model.predict_proba, X), partial(session.run, None, {"X": X})]
            times = np.array([[timed(way) for way in ways] for _ in range(15)])
            yield Timing(name, n, *np.median(times, axis=0) / n * 1000)


def timed(way):
    """Return the seconds that a call takes."""
    start = perf_counter()
    way()
    return perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_page_argument(parser)
    page = parser.parse_args().page
    digits = load_digits()
    with threadpool_limits(1):
        timings = list(measure(digits.images.astype(np.float32), digits.target))
    parts = [
        f"{about(onnxruntime, 'digits', 'one core')}:",
        table(HEADER, [timing.cells() for timing in timings]),
    ]
    print(*parts, sep="\n\n")
    if page:
        write_page(page, TARGET, parts)


if __name__ == "__main__":
    main()
