"""Time convolution, ReLU and the mean over a 2 x 2 grid against PyTorch and plain NumPy.

All alternatives run in one process, in turn; their medians are compared.
Run: make bench
"""

import argparse
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from _page import CORES, PYTHON, about, add_page_argument, processor, table, table_row, write_page
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_conv import StridedConv2DTransformer, conv2d, make_image_classifier
from sklearn_conv._engine import choice

TARGET = "bench"
REST = 0.1
"""Seconds between two measurements, in which the threads of a library become idle."""


class Case(NamedTuple):
    """Images and kernels, and how many times faster than PyTorch we want to be."""

    n_images: int
    shape: tuple[int, int, int]
    """Height, width and channels of an image"""
    kernel_size: int
    stride: int
    n_kernels: int
    wanted: tuple[float, float] = (1, 1)
    """On one core and on two"""

    def __str__(self):
        """Return the sizes as they appear in the tables."""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        images = f"{self.n_images} of {'x'.join(map(str, self.shape))}"
        return f"{images}, {self.kernel_size}x{self.kernel_size}{stride}, {self.n_kernels}"

    @property
    def maps_shape(self):
        """Height and width of the maps of an image."""
        return tuple((length - self.kernel_size) // self.stride + 1 for length in self.shape[:2])

    @property
    def operations(self):
        """Number of multiplications and additions in the convolution."""
        n_weights = self.kernel_size**2 * self.shape[2]
        return 2 * self.n_images * int(np.prod(self.maps_shape)) * n_weights * self.n_kernels

    def make_images(self, dtype=np.float32):
        """Return random images (n, h, w, c)."""
        rng = np.random.default_rng(0)
        if np.dtype(dtype).kind == "u":
            size = (self.n_images, *self.shape)
            return rng.integers(np.iinfo(dtype).max, size=size, dtype=dtype, endpoint=True)
        return rng.standard_normal((self.n_images, *self.shape), np.float32).astype(dtype)


CASES = [
    Case(1797, (8, 8, 1), kernel_size=3, stride=1, n_kernels=32, wanted=(3.5, 4.5)),
    Case(1000, (28, 28, 1), kernel_size=6, stride=1, n_kernels=256, wanted=(4.5, 5)),
    Case(1000, (28, 28, 1), kernel_size=5, stride=2, n_kernels=64, wanted=(6, 5.5)),
    Case(256, (32, 32, 3), kernel_size=6, stride=1, n_kernels=512, wanted=(2.2, 2.4)),
    Case(256, (32, 32, 3), kernel_size=6, stride=2, n_kernels=512, wanted=(2.2, 2.3)),
    Case(100, (64, 64, 3), kernel_size=3, stride=1, n_kernels=512, wanted=(5.5, 6)),
    Case(8, (256, 256, 3), kernel_size=3, stride=1, n_kernels=1024, wanted=(5, 6)),
    Case(100, (64, 64, 13), kernel_size=5, stride=1, n_kernels=256, wanted=(1.4, 1.4)),
    Case(1, (1024, 1024, 3), kernel_size=7, stride=2, n_kernels=64, wanted=(1.8, 1.8)),
    Case(16, (56, 56, 64), kernel_size=3, stride=1, n_kernels=64, wanted=(1, 1)),
]


class Peak(NamedTuple):
    """Highest possible rate of a core in 10^9 operations per second."""

    single: float
    double: float


class Result(NamedTuple):
    """Seconds that each alternative takes for a case, and what the transformer takes in memory."""

    case: Case
    n_cores: int
    ours: float
    numpy: float
    torch: float
    torch_channels_last: float
    tensordot: float
    memory: float
    """Bytes"""

    @property
    def speedup(self):
        """How many times faster than the faster memory format of PyTorch."""
        return min(self.torch, self.torch_channels_last) / self.ours

    @property
    def rate(self):
        """10^9 operations per second."""
        return self.case.operations / self.ours / 1e9


HEADER = [
    "case: images, kernels, number",
    "cores",
    "native ms",
    "NumPy ms",
    "PyTorch ms",
    "PyTorch channels last ms",
    "tensordot ms",
    "times faster than PyTorch",
    "wanted",
    "GFLOP/s",
    "fraction of peak",
    "second core gives",
    "MB",
]
OTHER_HEADER = ["computation", "native ms", "NumPy ms", "PyTorch ms", "GFLOP/s", "compared with"]
TILES_HEADER = ["computation", "pixels", "ms", "vectors ms", "times faster", "GFLOP/s"]
TILES_HEADER += ["second core gives"]
BUSY_HEADER = ["engine", "`n_jobs`", "busy processes", "time", "CPU time"]

OTHERS = "## Other computations"
OTHERS_TEXT = """One core. *Compared with* names another computation of the table, and how many
times as long this one takes with the native engine."""
TILES = "## Matrix unit"
TILES_TEXT = """One core, the least CPU time of many calls in turn. *vectors ms*: without the matrix
unit. *second core gives*: as above. Other computations do not use the matrix unit."""
BUSY = "## On a busy machine"
BUSY_TEXT = """Time and CPU time while other processes keep cores busy, divided by those of
`n_jobs=1` with BLAS limited to one thread, under the same load."""
SCALING = "## Many images, large images"


@contextmanager
def numpy_engine():
    """Use the engine in NumPy."""
    library = choice.LIBRARY
    choice.LIBRARY = None
    try:
        yield
    finally:
        choice.LIBRARY = library


def with_numpy(function):
    """Return a function that calls another one with the engine in NumPy."""

    def run():
        with numpy_engine():
            return function()

    return run


def with_level(level, function):
    """Return a function that calls another one with an instruction set of the native engine."""

    def run():
        levels = choice.LIBRARY.levels
        choice.LIBRARY.levels = [level]
        try:
            return function()
        finally:
            choice.LIBRARY.levels = levels

    return run


def make_ours(case, images, n_jobs, **options):
    """Return a fitted transformer, and a function that transforms the images."""
    defaults = {"n_kernels": case.n_kernels, "kernel_size": case.kernel_size, "padding": "valid"}
    defaults |= {"stride": case.stride, "random_state": 0, "n_jobs": n_jobs}
    transformer = StridedConv2DTransformer(**defaults | options).fit(images)
    return transformer, lambda: transformer.transform(images)


def make_torch(images, kernels, stride, memory_format, pool="adaptive_avg_pool2d", grid=2):
    """Return a function that convolves, and then, if ``pool`` is given, applies ReLU and pools.

    It does not convert the images: they are in PyTorch's layout already.
    """
    images = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(memory_format=memory_format)
    kernels = torch.from_numpy(kernels.transpose(3, 2, 0, 1).copy()).to(images.dtype)
    kernels = kernels.contiguous(memory_format=memory_format)

    def run():
        with torch.no_grad():
            maps = torch.nn.functional.conv2d(images, kernels, stride=stride)
            if pool is None:
                return maps
            return getattr(torch.nn.functional, pool)(torch.relu_(maps), grid)

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


def measure(functions, repeats):
    """Return the median seconds of each function.

    The functions take turns. Each one waits until the threads of the one before are idle.
    """
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            time.sleep(REST)
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def measure_least(functions, repeats):
    """Return the least CPU seconds of each function, which runs in this thread. They take turns.

    The matrix unit of a core may be shared with neighbors, which slow it down for seconds.
    """
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.thread_time()
            function()
            times[name].append(time.thread_time() - start)
    return {name: min(values) for name, values in times.items()}


def measure_peak():
    """Compile and run peak.cpp, and return the peak of a core."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        options = ["-O3", "-march=native", "-ffp-contract=fast", "-std=c++17"]
        source = Path(__file__).with_name("peak.cpp")
        subprocess.run(["c++", *options, source, "-o", program], check=True)
        result = subprocess.run([program], check=True, capture_output=True, text=True)
    return Peak(*map(float, result.stdout.split()))


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
        "numpy": with_numpy(ours),
        "torch": make_torch(images, kernels, case.stride, torch.contiguous_format),
        "torch_channels_last": make_torch(images, kernels, case.stride, torch.channels_last),
        "tensordot": make_tensordot(images, kernels, case.stride),
    }
    if case.maps_shape[0] % 2 == 0:  # PyTorch's cells overlap where ours are unequal
        expected = functions["torch"]().permute(0, 2, 3, 1).reshape(len(images), -1).numpy()
        np.testing.assert_allclose(ours(), expected, atol=1e-4)
    torch.set_num_threads(n_cores)
    with threadpool_limits(n_cores, user_api="blas"):
        seconds = measure(functions, repeats)
    return Result(case, n_cores, **seconds, memory=peak_memory(ours))


def cells(result, peak, one_core=None):
    """Return a row of the main table; ``one_core`` is the result of the case on one core."""
    return [
        result.case,
        result.n_cores,
        f"{1e3 * result.ours:.2f}",
        f"{1e3 * result.numpy:.1f}",
        f"{1e3 * result.torch:.1f}",
        f"{1e3 * result.torch_channels_last:.1f}",
        f"{1e3 * result.tensordot:.1f}",
        f"{result.speedup:.2f}",
        result.case.wanted[result.n_cores - 1],
        f"{result.rate:.0f}",
        f"{result.rate / (peak.single * result.n_cores):.2f}",
        f"{one_core.ours / result.ours:.2f}" if one_core else "",
        f"{result.memory / 2**20:.1f}",
    ]


class Other(NamedTuple):
    """Another computation, and the one that it is compared with."""

    name: str
    case: Case
    run: Callable[[], Any]
    torch: Callable[[], Any] | None = None
    compared_with: str = ""


def make_others():
    """Return the other computations, on one core."""
    case = Case(256, (32, 32, 3), kernel_size=6, stride=1, n_kernels=256)
    images = case.make_images()
    plain, run_plain = make_ours(case, images, 1, pool_grid=3)
    recipe = {"kernels": "patches", "normalize_patches": True, "whiten": True}
    recipe |= {"activation": "split", "bias": -0.25}
    maps = Case(32, (64, 64, 3), kernel_size=3, stride=1, n_kernels=64)
    map_images = maps.make_images()
    map_kernels = np.random.default_rng(0).standard_normal((3, 3, 3, 64), np.float32)
    layout = torch.contiguous_format
    doubles = case.make_images(np.float64)
    small = Case(100, (8, 8, 1), kernel_size=3, stride=1, n_kernels=32)
    _, run_small = make_ours(small, small.make_images()[:1], 1)
    return [
        Other(f"ReLU and mean, 3 x 3 grid: {case}", case, run_plain),
        Other(
            'recipe: the same, normalized, whitened, "split"',
            case,
            make_ours(case, images, 1, pool_grid=3, **recipe)[1],
            compared_with="ReLU and mean",
        ),
        Other(
            "recipe, two biases",
            case,
            make_ours(case, images, 1, pool_grid=3, **recipe | {"bias": [[-0.25], [-1.0]]})[1],
            compared_with="recipe",
        ),
        Other(
            'recipe, symmetries="mirror"',
            case,
            make_ours(case, images, 1, pool_grid=3, **recipe, symmetries="mirror")[1],
            compared_with="recipe",
        ),
        Other(
            "the same as ReLU and mean, from uint8",
            case,
            make_ours(case, case.make_images(np.uint8), 1, pool_grid=3)[1],
            compared_with="ReLU and mean",
        ),
        Other(
            "the same with the maximum",
            case,
            make_ours(case, images, 1, pool_grid=3, pooling="max")[1],
            make_torch(images, plain.kernels_, 1, layout, "adaptive_max_pool2d", 3),
            compared_with="ReLU and mean",
        ),
        Other(
            "the same as ReLU and mean, in float64",
            case,
            make_ours(case, doubles, 1, pool_grid=3)[1],
            make_torch(doubles, plain.kernels_.astype(np.float64), 1, layout, grid=3),
            compared_with="ReLU and mean",
        ),
        Other(
            f"`conv2d`, no pooling: {maps}",
            maps,
            lambda: conv2d(map_images, map_kernels),
            make_torch(map_images, map_kernels, 1, layout, None),
        ),
        Other(
            "100 calls for one image of 8x8x1 each, 3x3, 32",
            small,
            lambda: [run_small() for _ in range(100)],
        ),
    ]


def run_others(repeats):
    """Return rows of the table of other computations."""
    torch.set_num_threads(1)
    rows, seconds = [], {}
    for other in make_others():
        functions = {"ours": other.run, "numpy": with_numpy(other.run)}
        if other.torch:
            functions["torch"] = other.torch
        with threadpool_limits(1, user_api="blas"):
            times = measure(functions, repeats)
        seconds.setdefault(re.split("[,:]", other.name)[0], times["ours"])
        ratio = ""
        if other.compared_with:
            ratio = f"{times['ours'] / seconds[other.compared_with]:.2f} x {other.compared_with}"
        rows.append(
            [
                other.name,
                f"{1e3 * times['ours']:.2f}",
                f"{1e3 * times['numpy']:.2f}",
                f"{1e3 * times['torch']:.2f}" if "torch" in times else "",
                f"{other.case.operations / times['ours'] / 1e9:.3g}",
                ratio,
            ]
        )
        print(table_row(rows[-1]), flush=True)
    return rows


def make_satellite(case, images, n_jobs):
    """Return a function that computes the features of the recipe "satellite"."""
    recipe = make_image_classifier("satellite", random_state=0, n_jobs=n_jobs)
    features = recipe["features"].fit(images)
    return lambda: features.transform(images)


def uses_tiles(run, run_vectors):
    """Return whether the matrix unit is in use: the last bits of its results differ."""
    return not np.array_equal(run(), run_vectors())


def run_tiles(repeats):
    """Return rows of the table of the matrix unit, on one core."""
    vectors = next(level for level in choice.LIBRARY.levels if not level.tile_windows)
    recipe = Case(80, (64, 64, 3), kernel_size=6, stride=2, n_kernels=256)
    rows = []
    for dtype, case in product(("uint8", "uint16", "float32"), [*CASES[1:], recipe]):
        images = case.make_images(dtype)
        make = make_satellite if case is recipe else lambda *of: make_ours(*of)[1]
        on_cores = {n_jobs: make(case, images, n_jobs) for n_jobs in (1, 2)}
        functions = {"ours": on_cores[1], "vectors": with_level(vectors, on_cores[1])}
        if not uses_tiles(*functions.values()):
            continue
        seconds = measure_least(functions, 2 * repeats)
        on_cores = measure(on_cores, repeats)
        rows.append(
            [
                'recipe "satellite", balanced: 80 of 64x64x3' if case is recipe else case,
                dtype,
                f"{1e3 * seconds['ours']:.2f}",
                f"{1e3 * seconds['vectors']:.2f}",
                f"{seconds['vectors'] / seconds['ours']:.2f}",
                "" if case is recipe else f"{case.operations / seconds['ours'] / 1e9:.0f}",
                f"{on_cores[1] / on_cores[2]:.2f}",
            ]
        )
        print(table_row(rows[-1]), flush=True)
    return rows


def keep_busy():
    """Use a core until the process is ended."""
    while True:
        pass


def compare_times(chosen, single, repeats):
    """Return the time and CPU time of one function relative to another, with one BLAS thread."""
    ratios = []
    for _ in range(repeats):
        times = []
        for run in (chosen, single):
            time.sleep(REST)
            start = time.perf_counter(), time.process_time()
            with threadpool_limits(1 if run is single else None, user_api="blas"):
                run()
            times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        ratios.append(np.divide(*times))
    return np.median(ratios, axis=0)


def run_busy(repeats):
    """Return rows of the table for a busy machine."""
    case = CASES[1]
    images = case.make_images()
    rows = []
    for n_busy in (0, 1, 2):
        others = [multiprocessing.Process(target=keep_busy, daemon=True) for _ in range(n_busy)]
        for other in others:
            other.start()
        engines = (("native", lambda run: run), ("NumPy", with_numpy))
        for (name, wrap), n_jobs in product(engines, (None, -1)):
            chosen = wrap(make_ours(case, images, n_jobs)[1])
            single = wrap(make_ours(case, images, 1)[1])
            wall, cpu = compare_times(chosen, single, repeats)
            rows.append([name, n_jobs, n_busy, f"{wall:.2f}", f"{cpu:.2f}"])
            print(table_row(rows[-1]), flush=True)
        for other in others:
            other.terminate()
            other.join()
    return rows


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


def scaling_rows(points):
    """Return rows (number, milliseconds, nanoseconds for each)."""
    return [[f"{n:,}", f"{1e3 * s:.2f}", f"{1e9 * s / n:.0f}"] for n, s in points]


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
        wanted = [case.wanted[i] for case in cases]
        left.plot(wanted, places + 0.4 * i, "k|", ms=10, label=None if i else "wanted")
    left.axvline(1, color="black", lw=1)
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
    parser.add_argument("--repeats", type=int, default=7)
    add_page_argument(parser)
    arguments = parser.parse_args()
    if choice.LIBRARY is None:
        sys.exit(f"The native engine is not in use: {choice.REASON}.")
    peak = measure_peak()
    environment = about(
        f"engine native, {choice.LIBRARY.levels[0].name}",
        np,
        describe_blas(),
        torch,
        PYTHON,
        processor(),
        CORES,
        f"peak of a core {peak.single:.0f} GFLOP/s in float32 and {peak.double:.0f} in float64",
    )
    print(environment, flush=True)
    rows, results, one_core = [], [], {}
    for n_cores in (1, 2):
        for case in CASES:
            result = run_case(case, n_cores, arguments.repeats)
            rows.append(cells(result, peak, one_core.get(case)))
            results.append(result)
            one_core.setdefault(case, result)
            print(table_row(rows[-1]), flush=True)
    others = run_others(arguments.repeats)
    of_tiles = run_tiles(arguments.repeats)
    busy = run_busy(arguments.repeats)
    by_number, by_size = scaling(arguments.repeats)
    print(by_number, by_size, flush=True)
    if arguments.page:
        picture = arguments.page.with_suffix(".png")
        plot(results, by_number, by_size, picture)
        parts = [
            f"{environment}:",
            table(HEADER, rows),
            f"![Ratios and times]({picture.name})",
            OTHERS,
            OTHERS_TEXT,
            table(OTHER_HEADER, others),
            TILES,
            TILES_TEXT,
            table(TILES_HEADER, of_tiles),
            BUSY,
            BUSY_TEXT,
            table(BUSY_HEADER, busy),
            SCALING,
            "32 kernels of 3 x 3 on images of 8 x 8 pixels, one core:",
            table(["images", "ms", "ns per image"], scaling_rows(by_number)),
            "16 kernels of 5 x 5 on one image, one core:",
            table(["pixels", "ms", "ns per pixel"], scaling_rows(by_size)),
        ]
        write_page(arguments.page, TARGET, parts)


if __name__ == "__main__":
    main()
