"""The command `sklearn-conv features`: from a folder of images to a table of features."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from importlib import import_module
from math import prod
from pathlib import Path
from shutil import rmtree
from time import monotonic
from typing import Annotated, Any

import joblib
import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_conv._batches import transform_batches
from sklearn_conv._commands import options as cli
from sklearn_conv._commands.console import Console, format_seconds
from sklearn_conv._parameters import check_parameters
from sklearn_conv._reading.image_files import ImageFiles
from sklearn_conv._reading.image_reader import ImageReader
from sklearn_conv._saving.save import save_batches
from sklearn_conv._transformer import StridedConv2DTransformer

EXAMPLES = """\
| sklearn-conv features tiles -o features.parquet --size 64,64
| sklearn-conv features tiles -o features.parquet --size 64,64 --kernels patches --n-kernels 256 \
--kernel-size 6 --normalize-patches --whiten --n-jobs -1 --save-model model.joblib
| sklearn-conv features new_tiles -o new_features.parquet --model model.joblib
"""

PARAMETERS = cli.derive_options(
    StridedConv2DTransformer,
    without={"image_shape", "verbose", "n_jobs"},
    check=lambda **given: check_parameters(StridedConv2DTransformer(**given)),
    defaults={"random_state": cli.SEED},
)


PARTS_MODEL = "model.skops"
"""Name of the model in a folder of parts."""


@cli.with_options([*cli.READING, *PARAMETERS])
def features(
    folder: str,
    /,
    *,
    output: Annotated[Path, cli.output_file(".parquet", ".npy", alias="-o")],
    model: Path | None = None,
    save_model: Annotated[Path | None, cli.output_file(*cli.MODELS)] = None,
    resume: Annotated[bool, cli.FLAG] = False,
    running: cli.Running = cli.RUNNING,
    console: Annotated[Console, cli.NOT_AN_OPTION],
    **given: Any,
) -> None:
    """Compute features of all images in a folder, and write them to a table.

    Each image becomes a row. A .parquet file has the columns path, label (the name of the class
    folder, if there are class folders) and one column for each feature; pandas.read_parquet reads
    it. A .npy file is an array of the features alone, for numpy.load.

    The kernels are learned from the images, or drawn at random, and differ with --random-state. To
    compute the same features of other images later, save the model and use it again.

    Parameters
    ----------
    folder
        Folder that contains one folder of images for each class, or images; or a pattern such as
        'tiles/a?.tif', in quotes.
    output
        File to write, which ends in .parquet or .npy. An existing file is replaced when the new one
        is complete.
    model
        Fitted transformer or pipeline that was saved with skops or joblib, whose features are
        computed. Loading one that does not end in .skops can run any code, so use only files that
        you trust.
    save_model
        File for the fitted model, such as model.skops: a pipeline whose method transform takes
        paths of images.
    resume
        Keep what is computed in a folder beside the output, such as features.parquet.parts, until
        the output is complete. After an interruption, the same command continues from there.
    """
    start = monotonic()
    if output.suffix.lower() == ".parquet":
        import_module("sklearn_conv._saving.parquet")  # An error before the work without pyarrow
    parameters = {each.name: given.pop(each.name) for each in PARAMETERS if each.name in given}
    reader = steps = None
    if model is not None:
        reader, steps = _load(str(model))
        refused = [*parameters] + ["save_model"] * (save_model is not None)
        if reader is not None:
            refused += [name for name in given if name != "on_error"]
            given |= {name: getattr(reader, name) for name in (*cli.SETTINGS, "load_func")}
        if refused:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in refused)
            raise cli.UsageError(
                f"{names} cannot be used with --model, which was fitted with its own values; leave "
                "out these options, or --model."
            )
    files = cli.find_images(folder, given, running.n_jobs, console)
    if reader is not None:
        cli.check_kind(files, reader)
    kept: _Parts | None = None
    if resume:
        settings = {name: given[name] for name in cli.SETTINGS if name in given}
        digest = None if model is None else sha256(model.read_bytes()).hexdigest()
        kept = _Parts(output, files, [settings, parameters, digest])
        steps = kept.model if steps is None else steps
    if steps is None:
        if files.ndim == 1:
            parameters["image_shape"] = "any"
        steps = StridedConv2DTransformer(**{"random_state": cli.SEED} | parameters)
        with console.progress("Making the kernels"):
            steps.set_params(n_jobs=running.n_jobs).fit(files)
    if kept is not None:
        kept.begin(steps if model is None else None)
    cli.set_threads(steps, running.n_jobs)
    n_features = 0

    def compute() -> Iterator[tuple[slice, np.ndarray]]:
        nonlocal n_features
        with console.progress("Computing features", len(files)) as update:
            transform = transform_batches if kept is None else kept.transform_batches
            for rows, batch in transform(steps, files):
                n_features = prod(batch.shape[1:])
                yield rows, batch
                update(rows.stop)

    table: dict[str, Any] = {}
    if output.suffix.lower() == ".parquet":
        labels = {} if files.labels is None else {"label": files.labels}
        table = {"estimator": steps, "columns": {"path": files.paths} | labels}
    save_batches(output, compute(), **table)
    if save_model is not None:
        cli.save_model(save_model, files, given, [("features", steps)])
    if kept is not None:
        rmtree(kept.folder)
    cli.print_skipped(files.skipped)
    parts = [f"{len(files):,} rows", f"{n_features:,} features"]
    parts += [f"{len(files.skipped):,} files skipped"] * bool(files.skipped)
    print(f"{output}: {', '.join(parts)}, {format_seconds(monotonic() - start)}")
    if save_model is not None:
        print(f"{save_model}: the fitted model")


class _Parts:
    """Features that were computed before an interruption, in .npy files, and their model."""

    def __init__(self, output: Path, files: ImageFiles, parameters: list[Any]) -> None:
        self._file = import_module(cli.MODEL_FILE)
        self.folder = output.with_name(f"{output.name}.parts").resolve()  # rmtree refuses links.
        self.model: Any = None
        """Transformer of the interrupted run, if there is one that was not in a file."""
        assert files.paths is not None
        states = [(path, os.stat(path)) for path in files.paths.tolist()]
        described = {
            "images": [(path, state.st_size, state.st_mtime_ns) for path, state in states],
            "parameters": [*parameters, import_module("sklearn_conv").__version__],
        }
        self._facts = {
            name: sha256(json.dumps(value, default=repr).encode()).hexdigest()
            for name, value in described.items()
        }
        self._is_resumed = self.folder.exists() and any(self.folder.iterdir())
        if self._is_resumed:
            facts: dict[str, Any] = {}  # Without a model, files in this folder are not ours.
            if (self.folder / PARTS_MODEL).exists():
                self.model, facts = self._file.read_model(self.folder / PARTS_MODEL)
            changed = [name for name, value in self._facts.items() if facts.get(name) != value]
            if changed:
                raise cli.UsageError(
                    f"{str(self.folder)!r} contains an interrupted table of other "
                    f"{' and '.join(changed)}; use those again, remove this folder to begin "
                    "anew, or leave out --resume."
                )

    def begin(self, model: Any) -> None:
        """Keep the model, unless this has been done."""
        if not self._is_resumed:
            self.folder.mkdir(exist_ok=True)
            self._file.write_model(self.folder / PARTS_MODEL, model, self._facts)

    def transform_batches(
        self, steps: Any, files: ImageFiles
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the batches that were kept, and compute and keep all others."""
        n = 0
        while self._is_resumed and (path := self._path(n)).exists():
            batch = np.load(path)
            yield slice(n, n + len(batch)), batch
            n += len(batch)
        for rows, batch in transform_batches(steps, files[n:]) if n < len(files) else ():
            save_batches(self._path(n + rows.start), [(slice(0, len(batch)), batch)])
            yield slice(n + rows.start, n + rows.stop), batch

    def _path(self, start: int) -> Path:
        return self.folder / f"{start}.npy"


def _load(name: str) -> tuple[ImageReader | None, Any]:
    """Load a fitted model, and return its step that reads images, and those that follow."""
    try:
        is_skops = name.lower().endswith(".skops")
        model = import_module(cli.MODEL_FILE).read_model(name)[0] if is_skops else joblib.load(name)
    except (cli.UsageError, OSError):
        raise
    except Exception as error:  # Unpickling raises errors of many types.
        raise ValueError(
            f"{name!r} is not a model that was saved with joblib.dump, or the packages that it "
            f"needs are not installed; {type(error).__name__}: {error}"
        ) from error
    steps = getattr(model, "best_estimator_", model)
    reader = None
    if isinstance(steps, Pipeline):
        if isinstance(steps[0], ImageReader):
            reader, steps = steps[0], steps[1:]
        steps = steps if hasattr(steps, "transform") else steps[:-1]
        steps = steps[0] if len(steps) == 1 else steps
    is_empty = isinstance(steps, Pipeline) and not len(steps)
    if is_empty or not hasattr(steps, "transform") or not hasattr(steps, "get_params"):
        raise ValueError(
            f"{name!r} contains a {type(model).__name__} that does not compute features; save a "
            "fitted StridedConv2DTransformer, or a pipeline that begins with one."
        )
    check_is_fitted(steps)
    return reader, steps
