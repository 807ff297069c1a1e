"""`main`: parse the command line, run a command, and turn errors into single lines."""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

from sklearn_conv._commands import classify, features
from sklearn_conv._commands.console import Console
from sklearn_conv._commands.messages import (
    UsageError,
    describe_error,
    is_about_option,
    translate,
)
from sklearn_conv._commands.reading import hint_at_skipping, join_size

DESCRIPTION = """\
Features and classifiers of images, from the command line.

  sklearn-conv features   compute features of images, and write them to a table
  sklearn-conv classify   classify images by their folders, and write a report with the accuracy
"""

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes; 0 means success."""


class Parser(ArgumentParser):
    """A parser whose errors are single lines after the usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter)
        version = import_module("sklearn_conv").__version__
        self.add_argument("--version", action="version", version=f"sklearn-conv {version}")

    def error(self, message: str) -> NoReturn:
        """Print an error of the command line, and exit."""
        self.print_usage(sys.stderr)
        print(f"sklearn-conv: error: {message}", file=sys.stderr)
        sys.exit(WRONG_USAGE)


def make_parsers() -> dict[str, Parser]:
    """Return the main parser with the name "", and the parser of each command."""
    parser = Parser(
        prog="sklearn-conv", description=DESCRIPTION, usage="sklearn-conv COMMAND [options]"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, help="features or classify"
    )
    parsers = {"": parser}
    for name, module, add_options, usage in (
        ("features", features, features.add_features_options, "FOLDER -o FILE [options]"),
        (
            "classify",
            classify,
            classify.add_classify_options,
            "FOLDER --kind KIND -o FILE [options]",
        ),
    ):
        command = parsers[name] = commands.add_parser(
            name,
            usage=f"sklearn-conv {name} {usage}",
            description=module.DESCRIPTION,
            epilog=module.EXAMPLES,
        )
        add_options(command)
        group = command.add_argument_group("how the command runs")
        group.add_argument(
            "--n-jobs",
            type=int,
            metavar="N",
            help="number of threads; -1 means one for each core (default: 1)",
        )
        group.add_argument("--quiet", action="store_true", help="show no progress")
        group.add_argument(
            "--traceback", action="store_true", help="show where in the code an error was raised"
        )
    return parsers


RUN: dict[str, Callable[[Namespace, Console], None]] = {
    "features": features.run_features,
    "classify": classify.run_classify,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Arguments of the command line. If None, they are those of the process.

    Returns
    -------
    code : int
        0 for success, 1 if the command failed, and 130 if it was interrupted.

    Raises
    ------
    SystemExit
        After wrong usage, with the code 2, and after ``--help`` and ``--version``.
    """
    parsers = make_parsers()
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    args, unknown = parsers[""].parse_known_args(join_size(given))
    parser = parsers[args.command]
    options = {*re.findall(r"--[a-z][a-z-]*", parser.format_help())}
    if unknown:
        parser.error(_describe_unknown(unknown, options))
    names = {option.removeprefix("--").replace("-", "_") for option in options}
    args.arguments = given
    if isinstance(sys.stdout, TextIOWrapper):  # It may not be able to encode names of files.
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(is_quiet=args.quiet)
    try:
        with _plain_warnings(console, names), hint_at_skipping(args):
            RUN[args.command](args, console)
    except KeyboardInterrupt:
        console.say("interrupted")
        return INTERRUPTED
    except Exception as error:
        if args.traceback:
            traceback.print_exc()
        message = describe_error(error, names)
        if isinstance(error, UsageError) or is_about_option(error, names):
            parser.error(message)
        console.say(f"error: {message}")
        return FAILED
    return 0


def _describe_unknown(unknown: Sequence[str], options: Collection[str]) -> str:
    """Return what is wrong with arguments that the parser does not know."""
    name = next((argument for argument in unknown if argument.startswith("-")), "")
    if not name:
        return (
            f"unexpected argument {unknown[0]!r}; put a pattern such as 'tiles/*.tif' in quotes, "
            "so that the shell does not replace it by names of files"
        )
    name = name.partition("=")[0]
    close = get_close_matches(name.replace("_", "-"), options, n=1)
    return f"there is no option {name}" + (f"; did you mean {close[0]}?" if close else "")


@contextmanager
def _plain_warnings(console: Console, names: Collection[str]) -> Iterator[None]:
    """Show each warning once, as one line."""
    shown = set()

    def show(message: Warning | str, *more: Any, **options: Any) -> None:
        text = translate(str(message), names)
        if text not in shown:
            shown.add(text)
            console.say(f"warning: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
