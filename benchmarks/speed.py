"""Time convolution + ReLU + mean over a 2 x 2 grid against PyTorch and the plain strided view.

All peers run in one process, in turn, float32; the medians are compared. Run: make bench
"""

import argparse
import cProfile
import platform
import pstats
import time
import tracemalloc
from os import cpu_count
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_conv import StridedConv2DTransformer, __version__

# images, height, width, channels, kernel size, stride, kernels, and how many times faster than
# PyTorch we want to be
CASES = [
    (1797, 8, 8, 1, 3, 1, 32, 1),
    (1000, 28, 28, 1, 6, 1, 256, 4),
    (1000, 28, 28, 1, 5, 2, 64, 1),
    (256, 32, 32, 3, 6, 1, 512, 2.5),
    (256, 32, 32, 3, 6, 2, 512, 2.5),
    (100, 64, 64, 3, 3, 1, 512, 5),
    (100, 64, 64, 13, 5, 1, 256, 1),
    (8, 256, 256, 3, 3, 1, 1024, 5),
    (1, 1024, 1024, 3, 7, 2, 64, 1),
    (16, 56, 56, 64, 3, 1, 64, 1),
]
STEPS = ("stage and gather", "product", "activation", "pooling", "checks and the rest")
MARK = "<!-- measured: everything below is written by make bench -->"
PROFILE = """## Where the time goes

Shares of the time of `transform`, by cProfile: copies of pixels and windows, the matrix product,
ReLU, sums over the cells, and the rest (checks of X and of parameters, Python)."""


def label(case):
    n, h, w, c, size, stride, k, _ = case
    return f"{n} of {h}x{w}x{c}, {size}x{size}{f', stride {stride}' * (stride > 1)}, {k}"


def make_ours(case, images, n_jobs):
    _, _, _, _, size, stride, k, _ = case
    transformer = StridedConv2DTransformer(
        k, size, stride, padding="valid", random_state=0, n_jobs=n_jobs
    ).fit(images)
    return transformer, lambda: transformer.transform(images)


def make_torch(images, kernels, stride, memory_format):
    """The images are in PyTorch's layout already; its time is convolution, ReLU and pooling."""
    images = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(memory_format=memory_format)
    kernels = torch.from_numpy(kernels.transpose(3, 2, 0, 1).copy())
    kernels = kernels.contiguous(memory_format=memory_format)

    def run():
        with torch.no_grad():
            maps = torch.relu_(torch.nn.functional.conv2d(images, kernels, stride=stride))
            return torch.nn.functional.adaptive_avg_pool2d(maps, 2)

    return run


def make_tensordot(images, kernels, stride):
    """What one writes in NumPy: all windows, copied by tensordot, then full maps."""
    size = kernels.shape[0]

    def run():
        windows = sliding_window_view(images, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        maps = np.maximum(np.tensordot(windows, kernels, ([4, 5, 3], [0, 1, 2])), 0)
        halves = np.array_split(maps, 2, axis=1)
        cells = [cell for half in halves for cell in np.array_split(half, 2, axis=2)]
        return [cell.mean(axis=(1, 2)) for cell in cells]

    return run


def make_product(case, positions):
    """A bare matrix product of the same sizes, in blocks whose result fits into the cache."""
    _, _, _, c, size, _, k, _ = case
    rng = np.random.default_rng(0)
    rows = min(positions, 2**20 // (4 * k) * 2)
    patches = rng.standard_normal((rows, size * size * c), np.float32)
    kernels = rng.standard_normal((size * size * c, k), np.float32)
    out = np.empty((rows, k), np.float32)

    def run():
        for start in range(0, positions, rows):
            m = min(rows, positions - start)
            np.matmul(patches[:m], kernels, out=out[:m])

    return run


def measure(functions, repeats):
    """Median seconds of each function; they take turns, after a rest for the last one's threads."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            time.sleep(0.1)
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def step_of(file, function):
    """Name the step of the engine that a function belongs to."""
    name = Path(file).name
    if name == "staging.py":
        return "stage and gather"
    if name == "engine.py" and function in ("_respond", "_activate"):
        return {"_respond": "product", "_activate": "activation"}[function]
    if name == "activation.py":
        return "activation"
    if name == "engine.py" and function in ("_sum", "_join_positions", "_join", "_pool", "write"):
        return "pooling"
    return "checks and the rest"


def profile(case, repeats):
    """Share of the time in each step, one core. What is built in counts as its caller's."""
    n, h, w, c, *_ = case
    images = np.random.default_rng(0).standard_normal((n, h, w, c), np.float32)
    _, run = make_ours(case, images, 1)
    run()
    profiler = cProfile.Profile()
    with threadpool_limits(1, user_api="blas"):
        for _ in range(repeats):
            profiler.runcall(run)
    seconds = dict.fromkeys(STEPS, 0.0)
    for (file, _, function), (_, _, own, _, callers) in pstats.Stats(profiler).stats.items():
        if file == "~" and callers:
            for (caller_file, _, caller), (_, _, from_there, _) in callers.items():
                seconds[step_of(caller_file, caller)] += from_there
        else:
            seconds[step_of(file, function)] += own
    total = sum(seconds.values())
    return [label(case), *(f"{value / total:.0%}" for value in seconds.values())]


def profile_table(repeats):
    lines = [f"| case, one core | {' | '.join(STEPS)} |", "|---" * (len(STEPS) + 1) + "|"]
    lines += [f"| {' | '.join(profile(case, repeats))} |" for case in CASES if case[3] in (1, 3)]
    return "\n".join(lines)


def peak_memory(run):
    """Bytes beyond the input and the result."""
    run()
    tracemalloc.start()
    result = run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - result.nbytes


def run_case(case, n_cores, repeats):
    n, h, w, c, size, stride, _, target = case
    images = np.random.default_rng(0).standard_normal((n, h, w, c), np.float32)
    transformer, ours = make_ours(case, images, n_cores)
    kernels = transformer.kernels_
    positions = n * ((h - size) // stride + 1) * ((w - size) // stride + 1)
    functions = {
        "ours": ours,
        "torch": make_torch(images, kernels, stride, torch.contiguous_format),
        "torch, channels last": make_torch(images, kernels, stride, torch.channels_last),
        "tensordot": make_tensordot(images, kernels, stride),
        "product": make_product(case, positions),
    }
    if ((h - size) // stride + 1) % 2 == 0:  # PyTorch's cells overlap where ours are unequal
        expected = functions["torch"]().permute(0, 2, 3, 1).reshape(n, -1).numpy()
        np.testing.assert_allclose(ours(), expected, atol=1e-4)
    torch.set_num_threads(n_cores)
    with threadpool_limits(n_cores, user_api="blas"):
        seconds = measure(functions, repeats)
    best = min(seconds["torch"], seconds["torch, channels last"])
    return {
        "case": label(case),
        "cores": n_cores,
        "ms": 1e3 * seconds["ours"],
        "torch": 1e3 * seconds["torch"],
        "channels last": 1e3 * seconds["torch, channels last"],
        "tensordot": 1e3 * seconds["tensordot"],
        "ratio": best / seconds["ours"],
        "target": target,
        "share": seconds["product"] / seconds["ours"],
        "mb": peak_memory(ours) / 2**20,
    }


def scaling(repeats):
    """Seconds against the number of images and against their size, one core."""
    by_number, by_size = [], []
    for n in (100, 1_000, 10_000, 100_000, 1_000_000):
        images = np.broadcast_to(np.float32(0.5), (n, 8, 8, 1))
        _, run = make_ours((n, 8, 8, 1, 3, 1, 32, 0), images, 1)
        by_number.append((n, measure({"ours": run}, repeats if n < 1e6 else 1)["ours"]))
    for side in (64, 128, 256, 512, 1024, 2048, 4096, 8192):
        images = np.broadcast_to(np.float32(0.5), (1, side, side, 1))
        _, run = make_ours((1, side, side, 1, 5, 1, 16, 0), images, 1)
        by_size.append((side * side, measure({"ours": run}, repeats if side < 4096 else 1)["ours"]))
    return by_number, by_size


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown")


def about():
    blas = next(i for i in threadpool_info() if "numpy" in i["filepath"])
    return (
        f"sklearn_conv {__version__}, NumPy {np.__version__}, {blas['internal_api']} "
        f"{blas['version']} with kernel {blas['architecture']}, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}, {processor()}, {cpu_count()} cores"
    )


def table(rows):
    lines = [
        "| case: images, kernels, number | cores | ms | PyTorch ms | channels last | tensordot "
        "| times faster than PyTorch | wanted | share of product | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['case']} | {row['cores']} | {row['ms']:.1f} | {row['torch']:.1f} "
        f"| {row['channels last']:.1f} | {row['tensordot']:.1f} | {row['ratio']:.2f} "
        f"| {row['target']} | {row['share']:.2f} | {row['mb']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def plot(rows, by_number, by_size, path):
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4.8), layout="constrained", width_ratios=[1.7, 1, 1]
    )
    cases = [row for row in rows if row["cores"] == 1]
    places = np.arange(len(cases))
    for i, n_cores in enumerate((1, 2)):
        ratios = [row["ratio"] for row in rows if row["cores"] == n_cores]
        left.barh(places + 0.4 * i, ratios, 0.4, label=f"{n_cores} core{'s' * i}")
    left.axvline(1, color="black", lw=1)
    left.plot([row["target"] for row in cases], places + 0.2, "k|", ms=14, label="wanted")
    left.set_yticks(places + 0.2, [row["case"] for row in cases])
    left.invert_yaxis()
    left.set(xlabel="times faster than PyTorch", title="Convolution, ReLU, 2 x 2 means")
    left.legend()
    for axes, points, name in ((middle, by_number, "images"), (right, by_size, "pixels")):
        x, y = np.array(points).T
        axes.loglog(x, y, "o-", label="measured")
        axes.loglog(x, y[-1] * x / x[-1], "k:", label="linear")
        axes.set(xlabel=f"number of {name}", ylabel="seconds")
        axes.legend()
    middle.set_title("8 x 8 pixels, 32 kernels of 3 x 3")
    right.set_title("One image, 16 kernels of 5 x 5")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--page", type=Path, help="write table and plot to this Markdown page")
    arguments = parser.parse_args()
    print(about(), flush=True)
    rows = []
    for n_cores in (1, 2):
        for case in CASES:
            rows.append(run_case(case, n_cores, arguments.repeats))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    shares = profile_table(arguments.repeats)
    print(shares, flush=True)
    by_number, by_size = scaling(arguments.repeats)
    if arguments.page is not None:
        picture = arguments.page.with_suffix(".png")
        plot(rows, by_number, by_size, picture)
        text = arguments.page.read_text().split(MARK)[0]
        measured = [
            text.rstrip(),
            MARK,
            f"{about()}:",
            table(rows),
            f"![Ratios and times]({picture.name})",
            PROFILE,
            shares,
        ]
        arguments.page.write_text("\n\n".join(measured) + "\n")


if __name__ == "__main__":
    main()
