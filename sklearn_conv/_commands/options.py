"""Options from signatures and docstrings, how values are written, and what all commands share."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import Parameter, getdoc, signature
from pathlib import Path
from typing import Annotated, Any, get_args

import cyclopts
import joblib
import numpy as np
from docstring_parser import DocstringStyle, parse
from sklearn.pipeline import Pipeline

from sklearn_conv._commands.console import Console, printable
from sklearn_conv._parameters import check_n_jobs
from sklearn_conv._reading.formats import check_settings
from sklearn_conv._reading.image_files import ImageFiles, count_stored_sizes, read_images
from sklearn_conv._reading.image_reader import ImageReader
from sklearn_conv._saving.files import check_path, replace_file
from sklearn_conv._transformer import StridedConv2DTransformer
from sklearn_conv._validation import check_name

UsageError = cyclopts.CycloptsError
"""The error for a command line that cannot be executed as it is."""

UnexpectedError = cyclopts.UnusedCliTokensError
"""The error for arguments that belong to no option. Other errors may have `unused_tokens`, too."""

FLAG = cyclopts.Parameter(negative="")
"""Annotation of an option that is on or absent."""

NOT_AN_OPTION = cyclopts.Parameter(parse=False)
"""Annotation of a parameter that is passed by the program."""

VALUES = """\
Values are written as in Python, but without quotes, brackets and spaces: (64, 48) is 64,48, "any"
is any, ["mean", "max"] is mean,max, and None is none.
"""


def read_value(text: str) -> Any:
    """Return the value of an option, which is written as `VALUES` says."""
    if text.lower() in ("none", "true", "false"):
        return literal_eval(text.capitalize())
    try:
        return literal_eval(text)
    except (SyntaxError, ValueError):
        return text.split(",") if "," in text else text


def checked(check: Callable[[Any], Any], **more: Any) -> cyclopts.Parameter:
    """Return the annotation of an option for whose wrong values ``check`` raises an error."""
    return cyclopts.Parameter(validator=lambda hint, value: check(value), **more)


def whole(check: Callable[[Any], Any]) -> cyclopts.Parameter:
    """Return the annotation of a whole number; Cyclopts would round others."""
    convert = {"n_tokens": 1, "converter": lambda hint, tokens: read_value(tokens[0].value)}
    return checked(check, allow_leading_hyphen=True, **convert)


def output_file(*suffixes: str, **more: Any) -> cyclopts.Parameter:
    """Return the annotation of an option that is a file to write, which is checked before."""

    def check(path: Path | None) -> None:
        if path is not None and path.suffix.lower() not in suffixes:
            raise ValueError(f"It must end in {' or '.join(suffixes)}.")
        if path is not None:
            check_path(str(path))
            if path.suffix.lower() == ".skops":
                import_module(MODEL_FILE)  # An error before the work without skops

    return checked(check, **more)


@cyclopts.Parameter(name="*")
@dataclass(frozen=True)
class Running:
    """Options of all commands.

    Parameters
    ----------
    n_jobs
        Number of threads; -1 means one for each core.
    quiet
        Show no progress.
    traceback
        Show where in the code an error was raised.
    """

    n_jobs: Annotated[int | None, whole(partial(check_n_jobs, "sklearn-conv"))] = None
    quiet: Annotated[bool, FLAG] = False
    traceback: Annotated[bool, FLAG] = False


RUNNING = Running()
SEED = 0
"""Default of ``random_state``, with which the same command writes the same file again."""


def derive_options(
    function: Callable[..., Any],
    *,
    without: Collection[str],
    check: Callable[..., Any],
    defaults: Mapping[str, Any],
) -> list[Parameter]:
    """Return an option for each parameter of a function or class, except those in ``without``.

    ``check(name=value)`` raises TypeError or ValueError for a wrong value. ``defaults`` replace
    those of the signature; with `Parameter.empty`, the option is required.
    """
    group = cyclopts.Group.create_ordered(f"The parameters of {function.__name__}")
    documented = parse(getdoc(function) or "", DocstringStyle.NUMPYDOC).params
    texts = {each.arg_name: each for each in documented}
    options = []
    for name, parameter in signature(function, eval_str=True).parameters.items():
        if name in without or parameter.kind is Parameter.VAR_KEYWORD:
            continue
        hint, more = parameter.annotation, dict[str, Any]()
        if hint == bool | float:  # Cyclopts tries them in this order, and takes 1 for True.
            hint = float | bool
        kinds = (hint, *get_args(hint))  # Those of NumPy's ArrayLike include bool and str.
        if bool not in kinds or str in kinds:  # Others are flags: --whiten and --no-whiten.
            hint, more = str, {"n_tokens": 1, "allow_leading_hyphen": True}
            more["converter"] = lambda hint, tokens: read_value(tokens[0].value)
        if text := texts.get(name):  # With python -OO, there are no docstrings.
            more |= {"help": _shorten(text.description or ""), "metavar": text.type_name}
        check_one = partial(lambda name, value: check(**{name: value}), name)
        option = checked(check_one, group=group, **more)
        default = defaults.get(name, parameter.default)
        annotated = Annotated[hint, option]  # type: ignore[valid-type]
        options.append(
            parameter.replace(kind=Parameter.KEYWORD_ONLY, default=default, annotation=annotated)
        )
    return options


def _shorten(description: str) -> str:
    """Return the first paragraph, with the list that it introduces."""
    paragraphs = description.replace("`~", "`").split("\n\n")
    return "\n\n".join(paragraphs[: 1 + paragraphs[0].endswith(":")])


def with_options(options: Sequence[Parameter]) -> Callable[[Any], Any]:
    """Return a decorator that adds options to those of a command, which has ``**given``."""

    def add(command: Any) -> Any:
        own = signature(command, eval_str=True)
        named = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
        command.__signature__ = own.replace(parameters=[*named, *options])
        return command

    return add


def make_program(commands: Mapping[Any, str], description: str, version: str) -> cyclopts.App:
    """Return a parser of the command line; ``commands`` are functions with their examples."""
    app = cyclopts.App("sklearn-conv", description, version=version, help_format="rst")
    for command, examples in commands.items():
        app.command(command, help_epilogue=f"{VALUES}\nExamples:\n\n{examples}")
    return app


# Reading images and writing models

MODELS = (".skops", ".joblib", ".pkl")
"""Suffixes of files with models."""

MODEL_FILE = "sklearn_conv._commands.model_file"
"""Module for files of skops, which takes a second to import."""

SETTINGS = ("size", "mode", "resize", "page")
"""Options that say how images are read."""


def _check(on_error: str = "raise", **given: Any) -> None:
    values = {name: each.default for name, each in signature(read_images).parameters.items()}
    settings = {name: (values | given)[name] for name in SETTINGS}
    check_settings("read_images", **settings, load_func=None)
    check_name("read_images", "on_error", on_error, ("raise", "skip"))


READING = derive_options(
    read_images, without={"source", "load_func", "n_jobs"}, check=_check, defaults={}
)


def find_images(
    folder: str, given: Mapping[str, Any], n_jobs: int | None, console: Console
) -> ImageFiles:
    """Find the images; with ``--on-error skip``, read them all once."""
    is_checked = given.get("on_error") == "skip"
    with console.progress(f"Finding {'and checking ' * is_checked}the images"):
        return read_images(folder, **given, n_jobs=n_jobs)


def save_model(
    path: Path,
    files: ImageFiles,
    given: Mapping[str, Any],
    steps: list[tuple[str, Any]],
    **facts: Any,
) -> None:
    """Write a fitted pipeline that reads paths as the images were read.

    A file of skops holds the facts as well: what `show` prints.
    """
    assert files.paths is not None
    settings = {name: given[name] for name in SETTINGS if name in given}
    reader = ImageReader(**settings).fit(files.paths[:1])
    pipeline = Pipeline([("reader", reader), *steps])
    if path.suffix.lower() == ".skops":
        sizes = np.array([*count_stored_sizes(files)])
        heights, widths = (sorted({min(side), max(side)}) for side in sizes.T.tolist())
        facts |= {"images": len(files), "heights": heights, "widths": widths}
        import_module(MODEL_FILE).write_model(path, pipeline, facts)
        return
    with replace_file(str(path)) as file:
        joblib.dump(pipeline, file)


def check_kind(files: ImageFiles, reader: ImageReader) -> None:
    """Check that images are of the kind that a fitted reader has seen."""
    shape = files.shape[1:] if files.ndim > 1 else (None, None, int(files.image_shapes[0][2]))
    found, seen = (shape, files.dtype), (reader.image_shape_, reader.dtype_)
    if found != seen:
        raise UsageError(
            f"The images have shape {found[0]} and dtype {found[1]}, but those from which the "
            f"model was made have shape {seen[0]} and dtype {seen[1]}, as (height, width, "
            "channels); use images of the same kind, or make a model of these images."
        )


def set_threads(estimator: Any, n_jobs: int | None) -> None:
    """Let all transformers in an estimator use ``n_jobs`` threads, and print nothing."""
    for step in [estimator, *estimator.get_params().values()]:
        if isinstance(step, StridedConv2DTransformer):
            step.set_params(n_jobs=n_jobs, verbose=0)


def print_skipped(skipped: Iterable[tuple[str, str]]) -> None:
    """Print a line for each file that was left out."""
    for path, reason in skipped:
        print(f"skipped: {printable(path)}: {printable(reason)}")
