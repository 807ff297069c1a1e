"""Time convolution, ReLU and the mean over a 2 x 2 grid against PyTorch and plain NumPy.

All alternatives run in one process, in turn, in float32; their medians are compared.
Run: make bench
"""

import argparse
import cProfile
import pstats
import time
import tracemalloc
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from _page import CORES, PYTHON, about, add_page_argument, processor, table, table_row, write_page
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_conv import StridedConv2DTransformer
from sklearn_conv._engine import activation, numpy_engine, pooling, staging

TARGET = "bench"


class Case(NamedTuple):
    """Images and kernels, and how many times faster than PyTorch we want to be."""

    n_images: int
    shape: tuple[int, int, int]
    """Height, width and channels of an image"""
    kernel_size: int
    stride: int
    n_kernels: int
    wanted: float | None = None

    def __str__(self):
        """Return the sizes as they appear in the tables."""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        images = f"{self.n_images} of {'x'.join(map(str, self.shape))}"
        return f"{images}, {self.kernel_size}x{self.kernel_size}{stride}, {self.n_kernels}"

    @property
    def maps_shape(self):
        """Height and width of the maps of an image."""
        return tuple((length - self.kernel_size) // self.stride + 1 for length in self.shape[:2])

    def make_images(self):
        """Return random images (n, h, w, c)."""
        rng = np.random.default_rng(0)
        return rng.standard_normal((self.n_images, *self.shape), np.float32)


CASES = [
    Case(n_images=1797, shape=(8, 8, 1), kernel_size=3, stride=1, n_kernels=32, wanted=1),
    Case(n_images=1000, shape=(28, 28, 1), kernel_size=6, stride=1, n_kernels=256, wanted=4),
    Case(n_images=1000, shape=(28, 28, 1), kernel_size=5, stride=2, n_kernels=64, wanted=1),
    Case(n_images=256, shape=(32, 32, 3), kernel_size=6, stride=1, n_kernels=512, wanted=2.5),
    Case(n_images=256, shape=(32, 32, 3), kernel_size=6, stride=2, n_kernels=512, wanted=2.5),
    Case(n_images=100, shape=(64, 64, 3), kernel_size=3, stride=1, n_kernels=512, wanted=5),
    Case(n_images=100, shape=(64, 64, 13), kernel_size=5, stride=1, n_kernels=256, wanted=1),
    Case(n_images=8, shape=(256, 256, 3), kernel_size=3, stride=1, n_kernels=1024, wanted=5),
    Case(n_images=1, shape=(1024, 1024, 3), kernel_size=7, stride=2, n_kernels=64, wanted=1),
    Case(n_images=16, shape=(56, 56, 64), kernel_size=3, stride=1, n_kernels=64, wanted=1),
]
PROFILED = [case for case in CASES if case.shape[2] in (1, 3)]


class Result(NamedTuple):
    """Seconds that each alternative takes for a case, and what the transformer takes in memory."""

    case: Case
    n_cores: int
    ours: float
    torch: float
    torch_channels_last: float
    tensordot: float
    product: float
    memory: float
    """Bytes"""

    @property
    def speedup(self):
        """How many times faster than the faster memory format of PyTorch."""
        return min(self.torch, self.torch_channels_last) / self.ours


HEADER = [
    "case: images, kernels, number",
    "cores",
    "sklearn_conv ms",
    "PyTorch ms",
    "PyTorch channels last ms",
    "tensordot ms",
    "times faster than PyTorch",
    "wanted",
    "product fraction",
    "MB",
]
STEPS = {
    staging.__file__: "copies",
    numpy_engine.__file__: "product",
    activation.__file__: "activation",
    pooling.__file__: "pooling",
}
REST = "checks and Python"
PROFILE_HEADER = ["case, one core", *STEPS.values(), REST]
PROFILE = """## Where the time goes

Percentages of the time of `transform`, measured with cProfile: *copies* of pixels and windows, the
matrix *product* with the loop over blocks, *activation*, *pooling* (sums over the cells), and
*checks and Python*, which is the rest."""


def make_ours(case, images, n_jobs):
    """Return a fitted transformer, and a function that transforms the images."""
    transformer = StridedConv2DTransformer(
        case.n_kernels,
        case.kernel_size,
        case.stride,
        padding="valid",
        random_state=0,
        n_jobs=n_jobs,
    ).fit(images)
    return transformer, lambda: transformer.transform(images)


def make_torch(images, kernels, stride, memory_format):
    """Return a function that convolves, applies ReLU and pools.

    It does not convert the images: they are in PyTorch's layout already.
    """
    images = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(memory_format=memory_format)
    kernels = torch.from_numpy(kernels.transpose(3, 2, 0, 1).copy())
    kernels = kernels.contiguous(memory_format=memory_format)

    def run():
        with torch.no_grad():
            maps = torch.relu_(torch.nn.functional.conv2d(images, kernels, stride=stride))
            return torch.nn.functional.adaptive_avg_pool2d(maps, 2)

    return run


def make_tensordot(images, kernels, stride):
    """Return the usual NumPy code: tensordot copies all windows, and the maps are stored whole."""
    size = kernels.shape[0]

    def run():
        windows = sliding_window_view(images, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        maps = np.maximum(np.tensordot(windows, kernels, ([4, 5, 3], [0, 1, 2])), 0)
        halves = np.array_split(maps, 2, axis=1)
        cells = [cell for half in halves for cell in np.array_split(half, 2, axis=2)]
        return [cell.mean(axis=(1, 2)) for cell in cells]

    return run


def make_product(case):
    """Return the bare matrix product of the same sizes, in blocks that fit into the cache."""
    rng = np.random.default_rng(0)
    positions = case.n_images * int(np.prod(case.maps_shape))
    rows = min(positions, 2**20 // (4 * case.n_kernels) * 2)
    length = case.kernel_size**2 * case.shape[2]
    patches = rng.standard_normal((rows, length), np.float32)
    kernels = rng.standard_normal((length, case.n_kernels), np.float32)
    out = np.empty((rows, case.n_kernels), np.float32)

    def run():
        for start in range(0, positions, rows):
            m = min(rows, positions - start)
            np.matmul(patches[:m], kernels, out=out[:m])

    return run


def measure(functions, repeats):
    """Return the median seconds of each function.

    The functions take turns. Each one waits until the threads of the one before are idle.
    """
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


def profile(case, repeats):
    """Return the fraction of the time that each step takes on one core.

    The time of a function counts for the step of its module, the time of a built-in function for
    the step of the module that calls it.
    """
    _, run = make_ours(case, case.make_images(), 1)
    run()
    profiler = cProfile.Profile()
    with threadpool_limits(1, user_api="blas"):
        for _ in range(repeats):
            profiler.runcall(run)
    seconds = dict.fromkeys([*STEPS.values(), REST], 0.0)
    for (file, _, _), (_, _, own, _, callers) in pstats.Stats(profiler).stats.items():
        if file == "~" and callers:  # a built-in function
            for (caller_file, _, _), (_, _, own_from_caller, _) in callers.items():
                seconds[STEPS.get(caller_file, REST)] += own_from_caller
        else:
            seconds[STEPS.get(file, REST)] += own
    total = sum(seconds.values())
    return {step: value / total for step, value in seconds.items()}


def profile_cells(case, fractions):
    """Return a row of the table of steps."""
    return [case, *(f"{fraction:.0%}" for fraction in fractions.values())]


def peak_memory(run):
    """Return the peak memory in bytes, beyond the input and the result."""
    run()
    tracemalloc.start()
    result = run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - result.nbytes


def run_case(case, n_cores, repeats):
    """Return the Result of a case."""
    images = case.make_images()
    transformer, ours = make_ours(case, images, n_cores)
    kernels = transformer.kernels_
    functions = {
        "ours": ours,
        "torch": make_torch(images, kernels, case.stride, torch.contiguous_format),
        "torch_channels_last": make_torch(images, kernels, case.stride, torch.channels_last),
        "tensordot": make_tensordot(images, kernels, case.stride),
        "product": make_product(case),
    }
    if case.maps_shape[0] % 2 == 0:  # PyTorch's cells overlap where ours are unequal
        expected = functions["torch"]().permute(0, 2, 3, 1).reshape(len(images), -1).numpy()
        np.testing.assert_allclose(ours(), expected, atol=1e-4)
    torch.set_num_threads(n_cores)
    with threadpool_limits(n_cores, user_api="blas"):
        seconds = measure(functions, repeats)
    return Result(case, n_cores, **seconds, memory=peak_memory(ours))


def cells(result):
    """Return a row of the main table."""
    return [
        result.case,
        result.n_cores,
        f"{1e3 * result.ours:.1f}",
        f"{1e3 * result.torch:.1f}",
        f"{1e3 * result.torch_channels_last:.1f}",
        f"{1e3 * result.tensordot:.1f}",
        f"{result.speedup:.2f}",
        result.case.wanted,
        f"{result.product / result.ours:.2f}",
        f"{result.memory / 2**20:.1f}",
    ]


def scaling(repeats):
    """Return pairs (number of images, seconds) and (pixels of an image, seconds), on one core."""
    by_number, by_size = [], []
    for n in (100, 1_000, 10_000, 100_000, 1_000_000):
        case = Case(n_images=n, shape=(8, 8, 1), kernel_size=3, stride=1, n_kernels=32)
        by_number.append((n, time_constant(case, repeats if n < 1e6 else 1)))
    for side in (64, 128, 256, 512, 1024, 2048, 4096, 8192):
        case = Case(n_images=1, shape=(side, side, 1), kernel_size=5, stride=1, n_kernels=16)
        by_size.append((side * side, time_constant(case, repeats if side < 4096 else 1)))
    return by_number, by_size


def time_constant(case, repeats):
    """Return the median seconds for constant images, which take no memory."""
    images = np.broadcast_to(np.float32(0.5), (case.n_images, *case.shape))
    _, run = make_ours(case, images, 1)
    return measure({"ours": run}, repeats)["ours"]


def describe_blas():
    """Return name and version of NumPy's BLAS, and the kernel that it runs on this processor."""
    blas = next(library for library in threadpool_info() if "numpy" in library["filepath"])
    return f"{blas['internal_api']} {blas['version']} with kernel {blas['architecture']}"


def plot(results, by_number, by_size, path):
    """Draw the ratios to PyTorch, and the times against the number and the size of images."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4.8), layout="constrained", width_ratios=[1.7, 1, 1]
    )
    cases = [result.case for result in results if result.n_cores == 1]
    places = np.arange(len(cases))
    for i, n_cores in enumerate((1, 2)):
        ratios = [result.speedup for result in results if result.n_cores == n_cores]
        left.barh(places + 0.4 * i, ratios, 0.4, label=f"{n_cores} core{'s' * i}")
    left.axvline(1, color="black", lw=1)
    left.plot([case.wanted for case in cases], places + 0.2, "k|", ms=14, label="wanted")
    left.set_yticks(places + 0.2, [str(case) for case in cases])
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
    add_page_argument(parser)
    arguments = parser.parse_args()
    environment = about(np, describe_blas(), torch, PYTHON, processor(), CORES)
    print(environment, flush=True)
    results = []
    for n_cores in (1, 2):
        for case in CASES:
            results.append(run_case(case, n_cores, arguments.repeats))
            print(table_row(cells(results[-1])), flush=True)
    steps = table(
        PROFILE_HEADER, [profile_cells(case, profile(case, arguments.repeats)) for case in PROFILED]
    )
    print(steps, flush=True)
    by_number, by_size = scaling(arguments.repeats)
    if arguments.page:
        picture = arguments.page.with_suffix(".png")
        plot(results, by_number, by_size, picture)
        parts = [
            f"{environment}:",
            table(HEADER, map(cells, results)),
            f"![Ratios and times]({picture.name})",
            PROFILE,
            steps,
        ]
        write_page(arguments.page, TARGET, parts)


if __name__ == "__main__":
    main()
