"""`main`: the entry of the commands, which says what to install if the parser is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from sklearn_conv._commands import INSTALL


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code.

    ``arguments`` are those of the command line; if None, those of the process. The code is 0 for
    success, 1 if the command failed, 2 for wrong usage, and 130 if it was interrupted.
    """
    if find_spec("cyclopts") is None:
        print(f"sklearn-conv: error: Cyclopts is not installed; {INSTALL}", file=sys.stderr)
        return 1
    from sklearn_conv._commands.program import run_command

    return run_command(sys.argv[1:] if arguments is None else arguments)
