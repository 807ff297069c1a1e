"""Fitted models in files of skops, which run no code when they are loaded.

Beside the model, a file holds a text in JSON with facts about it: the versions that saved it, the
date, the images, and what the command adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import skops.io
from sklearn.utils.fixes import parse_version

from sklearn_conv._commands.options import UsageError
from sklearn_conv._reading.formats import Settings
from sklearn_conv._reading.image_reader import ImageReader
from sklearn_conv._ridge.classifier import StreamingRidgeClassifier
from sklearn_conv._ridge.rbf import RBFRidge, RBFRidgeClassifier
from sklearn_conv._ridge.regressor import StreamingRidge
from sklearn_conv._saving.files import replace_file
from sklearn_conv._transformer import StridedConv2DTransformer

FACTS = "sklearn_conv.json"
"""Name of the facts in the file, which is an archive that skops reads without them."""

CLASSES = (
    ImageReader,
    Settings,
    StridedConv2DTransformer,
    StreamingRidgeClassifier,
    StreamingRidge,
    RBFRidgeClassifier,
    RBFRidge,
)
TRUSTED = ["numpy.dtype", *(f"{each.__module__}.{each.__qualname__}" for each in CLASSES)]
"""Types that models of this package need beside those that skops trusts itself."""

VERSIONS = {"sklearn-conv": "sklearn_conv", "scikit-learn": "sklearn", "numpy": "numpy"}
"""Packages whose versions are in the file, and their modules."""


def write_model(path: Path, model: Any, facts: Mapping[str, Any]) -> None:
    """Write a fitted model and facts about it atomically."""
    versions = {name: import_module(module).__version__ for name, module in VERSIONS.items()}
    more = {"versions": versions, "date": f"{datetime.now():%Y-%m-%d %H:%M}"}
    content = BytesIO()
    skops.io.dump(model, content)
    with ZipFile(content, "a") as archive:
        archive.writestr(FACTS, json.dumps({**facts, **more}, default=repr))
    with replace_file(str(path)) as file:
        file.write(content.getbuffer())


def read_model(path: Path) -> tuple[Any, dict[str, Any]]:
    """Return a model and the facts about it, which are empty if it was written by skops alone."""
    name = str(path)
    with open(path, "rb") as file:  # An error if it cannot be read
        if not is_zipfile(file):
            raise UsageError(
                f"{name!r} is not a model: it is damaged, or not a file of skops. Models are "
                "written with --save-model model.skops; other formats could run any code."
            )
    try:
        with ZipFile(path) as archive:
            facts = json.loads(archive.read(FACTS)) if FACTS in archive.namelist() else {}
        written = facts["versions"]["sklearn-conv"] if facts else "0"
        version = import_module("sklearn_conv").__version__
        is_newer = parse_version(written) > parse_version(version)
        foreign = [] if is_newer else {*skops.io.get_untrusted_types(file=path)} - {*TRUSTED}
        model = None if is_newer or foreign else skops.io.load(path, trusted=TRUSTED)
    except OSError:
        raise
    except Exception as error:  # skops raises errors of many types.
        raise UsageError(
            f"{name!r} is damaged, or was written by a newer version of skops, so that it cannot "
            f"be loaded; {type(error).__name__}: {error}"
        ) from error
    if is_newer:
        raise UsageError(
            f"{name!r} was written by sklearn-conv {written}, but this is sklearn-conv {version}, "
            "which may not understand it; update sklearn-conv, or fit the model again."
        )
    if foreign:
        raise UsageError(
            f"{name!r} contains types that models of sklearn-conv do not need, and that could do "
            f"anything: {', '.join(sorted(foreign))}. It was not loaded; do not use it unless you "
            "know who made it."
        )
    return model, facts
