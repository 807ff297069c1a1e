"""The command `sklearn-conv map`: the prediction of a saved model at every step of a scene."""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import numpy as np

from sklearn_conv._commands import options as cli
from sklearn_conv._commands.console import Console, format_seconds
from sklearn_conv._commands.predict import load
from sklearn_conv._maps import predict_map
from sklearn_conv._saving.files import check_path
from sklearn_conv._saving.map_file import MAX_PNG_CLASSES, write_map
from sklearn_conv._validation import check_integer

EXAMPLES = """\
| sklearn-conv map model.skops scene.tif -o map.tif --step 8
| sklearn-conv map model.skops scene.npy -o map.png --step 16 --scale 2
"""


def map_scene(
    model: Path,
    scene: Path,
    /,
    *,
    output: Annotated[Path, cli.output_file(".tif", ".tiff", ".png", alias="-o")],
    step: Annotated[int, cli.whole(lambda value: check_integer("map", "step", value, 1))],
    scale: Annotated[int, cli.whole(lambda value: check_integer("map", "scale", value, 1))] = 1,
    running: cli.Running = cli.RUNNING,
    console: Annotated[Console, cli.NOT_AN_OPTION],
) -> None:
    """Predict the class or the number of the tile at every step of a scene with a saved model.

    The map has a pixel for each tile, at the center of the tile, and the reference system of the
    scene. Classes have colors, and tags with their names; pixels without a prediction, because
    pixels of the scene are missing, are nodata.

    Parameters
    ----------
    model
        Model that ends in .skops, as written by sklearn-conv classify --save-model.
    scene
        Scene with the pixels, channels and units of the images from which the model was made:
        a GeoTIFF or another raster, or an array (height, width, channels) in a .npy file.
    output
        Map to write, which ends in .tif, or in .png for classes. An existing file is replaced when
        the new one is complete.
    step
        Distance from one tile to the next, in pixels.
    scale
        Reduction of the resolution of the scene: its pixels become means of so many pixels in each
        direction.
    """
    start = monotonic()
    pipeline, facts = load(model, console)
    classes = getattr(pipeline[-1], "classes_", None)
    if output.suffix.lower() == ".png":
        if classes is None:
            raise cli.UsageError("A .png is for classes, but the model predicts numbers; use .tif.")
        check_path(str(output.with_suffix(".pgw")))
        if len(classes) > MAX_PNG_CLASSES:
            raise cli.UsageError(
                f"A .png has at most {MAX_PNG_CLASSES} classes, but the model has {len(classes)}; "
                "use .tif."
            )
    for path in (model, scene):
        if output.exists() and path.exists() and output.samefile(path):
            raise cli.UsageError(f"{str(output)!r} is an input; write to another file.")
    if output.suffix.lower() != ".png":  # An error before the work without rasterio
        import_module("sklearn_conv._saving.geotiff")
    cli.set_threads(pipeline, running.n_jobs)
    height, width, _ = pipeline[0].image_shape_
    if facts and ((*facts["heights"],), (*facts["widths"],)) != ((height,), (width,)):
        console.say(
            "warning: the images from which the model was made were scaled to "
            f"{height} x {width} pixels, so that pixels of the scene may be of another size; "
            "see sklearn-conv show, and --scale."
        )
    with _open(scene) as opened:
        with console.progress("Predicting"):
            values = predict_map(pipeline[1:], opened, step, scale=scale)
        size = (height, width)
        write_map(output, values, like=opened, size=size, step=step, scale=scale, labels=classes)
    pixels = " x ".join(map(str, values.shape[:2]))
    print(f"{output}: {pixels} pixels, {format_seconds(monotonic() - start)}")


map_scene.__name__ = "map"  # It is the name of the command.


def _open(path: Path) -> Any:
    """Return a context of the scene."""
    if path.suffix.lower() == ".npy":
        return nullcontext(np.load(path, mmap_mode="r"))
    return import_module("rasterio").open(path)
