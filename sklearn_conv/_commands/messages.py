"""Turn errors and warnings of the package into single lines that name options."""

from __future__ import annotations

import re
from collections.abc import Collection

from sklearn_conv._commands.options import option_name

EXPECTED = (ArithmeticError, ImportError, MemoryError, OSError, TypeError, ValueError)
"""Errors whose messages say enough. For all others, the name of the class is added."""


class UsageError(Exception):
    """The error for a command line that cannot be executed as it is."""


def describe_error(error: BaseException, names: Collection[str]) -> str:
    """Return the message of an error as one line; ``names`` are the parameters with options."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename!r}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    if not isinstance(error, (*EXPECTED, UsageError)):
        text = f"{type(error).__name__}: {text}"
    for note in getattr(error, "__notes__", []):
        text = f"{text.rstrip('.')}. {note}"
    return translate(text, names)


def is_about_option(error: BaseException, names: Collection[str]) -> bool:
    """Return whether an error says that the value of an option is not valid."""
    match = re.match(r"The '(\w+)' parameter of ", str(error))
    return isinstance(error, TypeError | ValueError) and bool(match and match[1] in names)


def translate(text: str, names: Collection[str]) -> str:
    """Replace names and values of parameters by options, and line breaks by spaces.

    Quoted strings stay as they are, because they may be names of files.

    Examples
    --------
    >>> names = ["size", "on_error", "kernel_size", "normalize_patches"]
    >>> translate("Set size=(64, 64) to scale all images, or size='any'.", names)
    'Set --size 64 64 to scale all images, or --size any.'
    >>> translate("The 'size' parameter of read_images must be a pair.", names)
    '--size must be a pair.'
    >>> translate("'size=3.png' cannot be read; use on_error='skip'.", names)
    "'size=3.png' cannot be read; use --on-error skip."
    >>> translate("choose a smaller kernel_size, or normalize_patches=False", names)
    'choose a smaller --kernel-size, or --no-normalize-patches'
    """
    if not names:
        return one_line(text)
    name = "|".join(sorted(names, key=len, reverse=True))
    with_underscore = "|".join(each for each in names if "_" in each) or "(?!)"
    pattern = (
        rf"The '(?P<owned>{name})' parameter of \w+(?:\.\w+)?"
        r"|(?<![\w=])(?P<quoted>'[^'\n]*'|\"[^\"\n]*\")"
        rf"|\b(?P<set>{name})=(?P<value>\([^()]*\)|'[^']*'|\"[^\"]*\"|[^\s,;:)]*[^\s,;:).])"
        rf"|\b(?P<bare>{with_underscore})\b"
    )
    return one_line(re.sub(pattern, _replace, text))


def _replace(match: re.Match[str]) -> str:
    if match["quoted"]:
        return match[0]
    option = option_name(match["owned"] or match["set"] or match["bare"])
    separator = " " if match["set"] == "size" else ","
    value = (match["value"] or "").strip("'\"()").replace(", ", separator)
    if not value or value == "True":
        return option
    if value == "False":
        return option_name(f"no_{match['set']}")
    return f"{option} {'none' if value == 'None' else value}"


def one_line(text: str) -> str:
    """Replace each run of white space by one space."""
    return " ".join(text.split())


def printable(text: str) -> str:
    r"""Return text in which line breaks, other control characters and surrogates are escaped.

    Examples
    --------
    >>> print(printable("a\nb"))
    a\nb
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
