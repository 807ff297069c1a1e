"""Compare PixelClassifier with the trainable segmentation of scikit-image.

Both learn from the same strokes, as a person would draw them, on one image, and predict the rest of
this image and another one. Run: make bench-pixels
"""

import argparse
import resource
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.ndimage as ndi
import skimage
import sklearn
from _page import CORES, PYTHON, about, add_page_argument, processor, table, write_page
from skimage import data, feature, filters, future, io, segmentation
from sklearn.ensemble import RandomForestClassifier

from sklearn_conv import PixelClassifier

TARGET = "bench-pixels"
FRACTIONS, SEEDS, SIDE = (0.001, 0.01, 0.1), 3, 384


def textures(part):
    """Return a mosaic of the left or right halves of three photographs, and its classes."""
    photographs = [data.brick(), data.grass(), data.gravel()]
    halves = [image[:SIDE, 256 * part :][:, :256] for image in photographs]
    scaled = [np.clip((half - half.mean()) / half.std() * 40 + 128, 0, 255) for half in halves]
    wide = [np.pad(half, ((0, 0), (0, SIDE - 256)), "reflect").astype(np.uint8) for half in scaled]
    rng = np.random.default_rng(part)
    points, classes = rng.uniform(0, SIDE, (14, 2)), rng.permutation(np.arange(14) % 3)
    grid = np.stack(np.mgrid[:SIDE, :SIDE], axis=-1)[:, :, np.newaxis]
    nearest = np.argmin(((grid - points) ** 2).sum(axis=-1), axis=-1)
    return np.choose(classes[nearest], wide), classes[nearest] + 1


def coins(part):
    """Return half of a photograph of coins, and the classes of scikit-image's watershed."""
    image = data.coins()
    markers = np.where(image < 30, 1, np.where(image > 150, 2, 0))
    found = segmentation.watershed(filters.sobel(image), markers)
    rows = slice(150) if part == 0 else slice(150, 300)
    return image[rows], ndi.binary_fill_holes(found - 1)[rows] + 1


def satellite(part, folder):
    """Return a mosaic of 36 EuroSAT tiles, whose classes are those of the tiles."""
    with np.load(folder / "eurosat_small.npz") as file:
        tiles, labels = file["X_train"], file["y_train"]
    chosen = np.random.default_rng(part).permutation(len(labels) // 2)[:36] * 2 + part
    mosaic = tiles[chosen].reshape(6, 6, 64, 64, 3).swapaxes(1, 2).reshape(SIDE, SIDE, 3)
    return mosaic, np.kron(labels[chosen].reshape(6, 6) + 1, np.ones((64, 64), int))


def membranes(part, folder):
    """Return an image of neurons, and whether its pixels are membranes."""
    files = [folder / "membranes" / kind / f"{(0, 20)[part]}.png" for kind in ("image", "label")]
    image, label = map(io.imread, files)
    return image, np.where(label > 127, 1, 2)


SETS = {
    "textures: brick, grass, gravel": lambda part, folder: textures(part),
    "coins": lambda part, folder: coins(part),
    "EuroSAT, ten classes": satellite,
    "membranes": membranes,
}


def draw(labels, fraction, seed):
    """Return strokes of three pixels, drawn in each class in turn, until enough are annotated."""
    rng, strokes = np.random.default_rng(seed), np.zeros_like(labels)
    places = [np.argwhere(labels == name) for name in np.unique(labels)]
    n_strokes = 0
    while np.mean(strokes > 0) < fraction or n_strokes < len(places):
        inside = places[n_strokes % len(places)]
        place, angle = inside[rng.integers(len(inside))].astype(float), rng.uniform(0, 2 * np.pi)
        name = labels[tuple(place.astype(int))]
        n_strokes += 1
        for _ in range(30):
            angle += rng.normal(0, 0.15)
            place += np.sin(angle), np.cos(angle)
            row, column = place.astype(int)
            is_inside = 1 <= row < labels.shape[0] - 1 and 1 <= column < labels.shape[1] - 1
            if not is_inside or labels[row, column] != name:
                break
            block = slice(row - 1, row + 2), slice(column - 1, column + 2)
            strokes[block] = np.where(labels[block] == name, name, strokes[block])
    return strokes


def overlap(predicted, labels):
    """Return the mean intersection over union."""
    scores = []
    for name in np.unique(labels):
        found, true = predicted == name, labels == name
        scores.append((found & true).sum() / (found | true).sum())
    return np.mean(scores)


def segment(image, strokes, others):
    """Predict images by the settings of the documentation of scikit-image."""

    def compute(pixels):
        axis = -1 if pixels.ndim == 3 else None
        return feature.multiscale_basic_features(
            pixels, edges=False, sigma_min=1, sigma_max=16, channel_axis=axis
        )

    forest = RandomForestClassifier(50, n_jobs=-1, max_depth=10, max_samples=0.05, random_state=0)
    fitted = future.fit_segmenter(strokes, compute(image), forest)
    return [future.predict_segmenter(compute(other), fitted) for other in others]


def classify(image, strokes, others):
    """Predict images by this package."""
    model = PixelClassifier(random_state=0, n_jobs=-1).fit([image], [strokes])
    return model.predict([*others])


def compare(name, folder):
    """Return a row of the table for each fraction of annotated pixels."""
    (image, labels), (other, truth) = (SETS[name](part, folder) for part in (0, 1))
    rows = []
    for fraction in FRACTIONS:
        cells = []
        for function in (segment, classify):
            results, seconds = [], []
            for seed in range(SEEDS):
                strokes = draw(labels, fraction, seed)
                start = time.perf_counter()
                same, different = function(image, strokes, [image, other])
                seconds.append(time.perf_counter() - start)
                results.append((overlap(same, labels), overlap(different, truth)))
            means = np.mean(results, axis=0)
            cells.append([f"{means[0]:.3f}", f"{means[1]:.3f}", f"{np.median(seconds):.2f}"])
        rows.append([name, f"{100 * fraction:g} %", *cells[0], *cells[1]])
        print(*rows[-1], sep=" | ", flush=True)
    return rows


def predict_large():
    """Return seconds, and the growth of the peak memory in MB, of 10 megapixels."""
    image, labels = textures(0)
    model = PixelClassifier(random_state=0, n_jobs=-1)
    model.fit([image], [draw(labels, 0.01, 0).astype(np.uint8)])
    large = np.tile(image, (9, 8))[:3200, :3125]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    model.predict([large])
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return seconds, (after - before) / unit, after / unit


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_page_argument(parser)
    parser.add_argument("--data", type=Path, help="folder with eurosat_small.npz and membranes")
    folder = (arguments := parser.parse_args()).data
    warnings.simplefilter("ignore")
    seconds, growth, peak = predict_large()
    rows = []
    for name in SETS:
        needed = {satellite: "eurosat_small.npz", membranes: "membranes"}.get(SETS[name])
        if needed is None or (folder is not None and (folder / needed).exists()):
            rows += compare(name, folder)
    header = ["images", "annotated", "scikit-image, same image", "other image", "s"]
    parts = [
        f"{about(np, skimage, sklearn, PYTHON, CORES, processor())}:",
        table([*header, "PixelClassifier, same image", "other image", "s"], rows),
        f"`predict` of an image of 10 megapixels takes {seconds:.1f} s; the process then has used "
        f"{peak:.0f} MB at most, {growth:.0f} MB more than after `fit` on a small image.",
    ]
    print("\n" + "\n\n".join(parts))
    if arguments.page:
        write_page(arguments.page, TARGET, parts)


if __name__ == "__main__":
    main()
