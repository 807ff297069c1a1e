"""Time per image of a fitted pipeline, here and in onnxruntime, on one core.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/onnx_speed.py [--page docs/onnx.md]

Both classify the same images, as float32. What is timed alternates, so that a busy machine slows
both down; the figures are medians.
"""

import argparse
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import sklearn_conv.onnx
from sklearn_conv import StridedConv2DTransformer

MARK = "<!-- measured: everything below is written by make bench-onnx -->"
RECIPE = {
    "kernel_size": 4,
    "kernels": "patches",
    "normalize_patches": True,
    "whiten": True,
    "activation": "split",
    "bias": -0.25,
    "pool_grid": 3,
}
PIPELINES = {"defaults": {}, "recipe": RECIPE}
BATCHES = [1, 1000]


def measure(images, labels):
    """Yield (pipeline, batch size, ms an image here, ms an image in onnxruntime)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for name, settings in PIPELINES.items():
        model = make_pipeline(
            StridedConv2DTransformer(random_state=0, **settings),
            StandardScaler(),
            LogisticRegression(C=0.01, max_iter=1000),
        ).fit(images, labels)
        exported = to_onnx(model, images[:1], options={"zipmap": False})
        session = onnxruntime.InferenceSession(
            exported.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for n in BATCHES:
            X = images[:n]
            ways = [partial(model.predict_proba, X), partial(session.run, None, {"X": X})]
            times = np.array([[timed(way) for way in ways] for _ in range(15)])
            yield name, n, *np.median(times, axis=0) / n * 1000


def timed(way):
    """Give the seconds that a call takes."""
    start = perf_counter()
    way()
    return perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--page", type=Path, help="write the table into this page")
    page = parser.parse_args().page
    digits = load_digits()
    images = digits.images.astype(np.float32)
    lines = [
        f"sklearn_conv {sklearn_conv.__version__}, onnxruntime {onnxruntime.__version__}, "
        "digits of 8 x 8, one core:",
        "",
        "| pipeline | images at once | ms an image, here | ms an image, onnxruntime | ratio |",
        "|---|---|---|---|---|",
    ]
    with threadpool_limits(1):
        for name, n, here, there in measure(images, digits.target):
            lines.append(f"| {name} | {n} | {here:.3f} | {there:.3f} | {here / there:.1f} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if page is not None:
        text = page.read_text().split(MARK)[0]
        page.write_text(f"{text}{MARK}\n\n{table}")


if __name__ == "__main__":
    main()
