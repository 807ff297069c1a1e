"""`main`: parse the command line, run a command, and turn errors into single lines."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from io import TextIOWrapper
from typing import Any

INSTALL = 'run pip install "sklearn-conv[commands,geo,images,parquet,plot]"'
"""How to install all that the commands use."""

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes; 0 means success."""

EXPECTED = (ArithmeticError, ImportError, MemoryError, OSError, TypeError, ValueError)
"""Errors whose messages say enough. For all others, the name of the class is added."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    ``arguments`` are those of the command line; if None, those of the process.
    """
    if find_spec("cyclopts") is None:
        print(f"sklearn-conv: error: Cyclopts is not installed; {INSTALL}", file=sys.stderr)
        return FAILED
    try:
        from sklearn_conv._commands import classify, features, map, options, predict, regress
        from sklearn_conv._commands.console import Console
    except KeyboardInterrupt:  # The imports take a second or more.
        print("sklearn-conv: interrupted", file=sys.stderr)
        return INTERRUPTED

    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {features.features: features.EXAMPLES, classify.classify: classify.EXAMPLES}
    commands |= {regress.regress: regress.EXAMPLES}
    commands |= {predict.predict: predict.EXAMPLES, map.map_scene: map.EXAMPLES}
    commands |= {predict.show: predict.SHOW_EXAMPLES}
    description = "Features and models of images, from the command line."
    version = f"sklearn-conv {import_module('sklearn_conv').__version__}"
    app = options.make_program(commands, description, version)
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # Otherwise, a file that is written would take the place of a closed standard error.
    os.close(number)
    if isinstance(sys.stdout, TextIOWrapper):  # It may not be able to encode names of files.
        sys.stdout.reconfigure(errors="backslashreplace")
    command, running, console = None, options.RUNNING, Console(is_quiet=False)
    try:
        command, bound, passed = app.parse_args(arguments, print_error=False, exit_on_error=False)
        running = bound.arguments.get("running", running)
        console = Console(running.quiet)
        values = {"console": console, "arguments": arguments}
        with _plain_warnings(console.say):
            command(*bound.args, **bound.kwargs, **{name: values[name] for name in passed})
        _flush()
    except KeyboardInterrupt:
        console.say("interrupted")
        return INTERRUPTED
    except Exception as error:
        with suppress(OSError):
            _flush()
        if running.traceback:
            traceback.print_exc()
        console.say(f"error: {_describe(error, command)}")
        return WRONG_USAGE if isinstance(error, options.UsageError) else FAILED
    return 0


def _flush() -> None:
    """Write what was printed; an error is then one of the command."""
    try:
        print(end="", flush=True)  # It does nothing if standard output is closed.
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes the rest when it ends.
        raise


def _describe(error: Exception, command: Any) -> str:
    """Return the message of an error, with what helps on the command line."""
    from sklearn_conv._commands.options import UnexpectedError, UsageError

    if isinstance(error, UnexpectedError) and error.unused_tokens:
        return (
            f"unexpected argument {error.unused_tokens[0]!r}; join numbers by commas, as in "
            "--size 64,48, and put a pattern such as 'tiles/*.tif' in quotes, so that the shell "
            "does not replace it by names of files"
        )
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename!r}: {error.strerror}"
    elif not isinstance(error, (*EXPECTED, UsageError)):
        text = f"{type(error).__name__}: {text}"
    notes = [text, *getattr(error, "__notes__", [])]
    names = signature(command).parameters if command else {}
    if isinstance(error, ModuleNotFoundError):
        notes[0] += f"; {INSTALL}"
    elif " pair " in text or any(f"{name}=" in text for name in names):
        notes.append("On the command line, size=(64, 48) is --size 64,48.")
    elif "on_error" in names and type(error) is OSError and not (error.errno or "None of" in text):
        notes.append("To leave out files that cannot be read, add --on-error skip.")
    if isinstance(error, UsageError):
        chain = error.command_chain or ([command.__name__] if command else [])
        notes.append(f"See {' '.join(['sklearn-conv', *chain, '--help'])}.")
    ended = [note if note.endswith((".", "?")) else f"{note}." for note in notes[:-1]]
    return " ".join([*ended, notes[-1]])


@contextmanager
def _plain_warnings(say: Callable[[str], None]) -> Iterator[None]:
    """Show each warning once, as one line."""
    shown = set()

    def show(message: Warning | str, *more: Any, **options: Any) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
