"""Time maps of a scene against predicting its tiles, and against one pass over the scene.

The time of all tiles is that of a sample, times their number. Run: make bench-maps
"""

import argparse
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

import numpy as np
import sklearn
from _page import CORES, PYTHON, about, add_page_argument, processor, table, write_page
from scipy.ndimage import gaussian_filter

from sklearn_conv import make_image_classifier, predict_map, tile_scene

TARGET = "bench-maps"
TILE = 64
WANTED = {16: 8, 8: 25, 4: 60}
"""Map from the step to the factor by which a map is to be faster than its tiles."""

N_SAMPLED = 100
"""Number of tiles whose time is measured."""


def make_scene(length):
    """Return a scene of patches of two textures, (length, length, 3), in 8 bits."""
    rng = np.random.default_rng(0)
    scene = rng.integers(256, size=(length, length, 3), dtype=np.uint8)
    smooth = gaussian_filter(scene, (2, 2, 0))
    is_smooth = np.add.outer(*[np.arange(length) // 200] * 2) % 2 == 0
    scene[is_smooth] = smooth[is_smooth]
    return scene, is_smooth


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(length, steps, n_jobs):
    """Return for each step the number of tiles, and seconds of the map, all tiles and one pass."""
    scene, is_smooth = make_scene(length)
    tiles = tile_scene(scene, TILE, edge="drop")
    labels = is_smooth[tuple(tiles.positions.T + TILE // 2)]
    rows = np.random.default_rng(0).permutation(len(tiles))[:N_SAMPLED]
    sample = np.asarray(tiles[rows])
    model = make_image_classifier("satellite", random_state=0, n_jobs=n_jobs)
    model.fit(sample, labels[rows])
    results = {}
    for step in steps:
        before = seconds(lambda: model.predict(sample))
        of_map = seconds(lambda step=step: predict_map(model, scene, step))
        per_tile = (before + seconds(lambda: model.predict(sample))) / 2 / len(sample)
        n, n_once = ((length - TILE) // step + 1) ** 2, len(tiles)
        print(f"step {step}: {of_map:.1f} s, {1e3 * per_tile:.2f} ms per tile", flush=True)
        results[step] = n, of_map, per_tile * n, per_tile * n_once
    return results


def measure_memory(length, n_jobs):
    """Print the time, and the anonymous memory on Linux, of a map of a scene on disk."""

    def find_megabytes():
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1000

    def watch():
        while not is_done.wait(0.05):
            found.append(find_megabytes())

    strip, is_smooth = make_scene(512)
    tiles = tile_scene(strip, TILE)
    labels = is_smooth[tuple(tiles.positions.T + TILE // 2)]
    model = make_image_classifier("satellite", effort="fast", n_kernels=16, n_jobs=n_jobs)
    model.fit(tiles, labels)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        scene = np.lib.format.open_memmap(file.name, "w+", np.uint8, (length, length, 3))
        for start in range(0, length, 512):
            rows = scene[start : start + 512]
            rows[...] = np.tile(strip, (1, -(-length // 512), 1))[: len(rows), :length]
        found, is_done = [find_megabytes()], Event()
        watcher = Thread(target=watch)
        watcher.start()
        passed = seconds(lambda: predict_map(model, np.load(file.name, mmap_mode="r"), 16))
        is_done.set()
        watcher.join()
    print(f"{passed:.0f} s, {found[0]:.0f} MB before, {max(found):.0f} MB at most")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_page_argument(parser)
    parser.add_argument("--length", type=int, default=1024, help="rows and columns of the scene")
    parser.add_argument("--steps", type=int, nargs="*", default=[*WANTED])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="measure the memory instead")
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.length, arguments.jobs)
        return
    rows = [
        [
            step,
            f"{n:,}",
            f"{of_map:.1f}",
            f"{of_tiles:.0f}",
            f"{of_tiles / of_map:.1f}",
            WANTED.get(step, ""),
            f"{of_map / once:.1f}",
        ]
        for step, (n, of_map, of_tiles, once) in measure(
            arguments.length, arguments.steps, arguments.jobs
        ).items()
    ]
    header = ["step", "tiles", "map, s", "tiles, s", "factor", "wanted", "passes over the scene"]
    parts = [
        f"{about(np, sklearn, PYTHON, CORES, processor())}, "
        f"{arguments.length:,} x {arguments.length:,} x 3 pixels:",
        table(header, rows),
    ]
    print("\n" + "\n\n".join(parts))
    if arguments.page:
        write_page(arguments.page, TARGET, parts)


if __name__ == "__main__":
    main()
