"""The commands `sklearn-conv features` and `sklearn-conv classify`.

A command is a function in `features` or `classify`, which uses only what is public. Its parameters
are options, and its docstring is the help. The parameters of the functions and classes that it
calls become options as well: `options` derives them from signatures and docstrings. `program` runs
a command and turns errors into single lines; `console` shows the progress; `files` reads images and
writes models; `evaluation` validates a classifier, and `report` writes the result as HTML.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

INSTALL = 'run pip install "sklearn-conv[commands,images,parquet,plot]"'
"""How to install all that the commands use."""


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
