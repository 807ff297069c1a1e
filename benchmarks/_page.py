"""Write what a benchmark measured into a page of the documentation.

Such a page ends in a mark. Everything above the mark is written by hand and kept, everything below
it is written by the benchmark.
"""

import platform
from os import cpu_count
from pathlib import Path

import sklearn_conv

NAMES = {"numpy": "NumPy", "sklearn": "scikit-learn", "torch": "PyTorch"}
PYTHON = f"Python {platform.python_version()}"
CORES = f"{cpu_count()} cores"


def add_page_argument(parser):
    """Add --page, the page to write to; without it, the results are only printed."""
    parser.add_argument(
        "--page", type=Path, help="write the results into this Markdown page, below its mark"
    )


def read_page(path, target):
    """Return the text of a page above the mark of a target of the Makefile, and that below."""
    mark = _mark(target)
    above, found, below = path.read_text().partition(mark)
    if not found:
        raise ValueError(f"{path} does not contain the line {mark}")
    return above.strip(), below.strip()


def write_page(path, target, parts):
    """Replace everything below the mark of a page by parts, strings separated by blank lines."""
    above, _ = read_page(path, target)
    path.write_text("\n\n".join([above, _mark(target), *parts]) + "\n")


def _mark(target):
    return f"<!-- measured: everything below is written by make {target} -->"


def table(header, rows):
    """Return a Markdown table."""
    return "\n".join([table_row(header), "|---" * len(header) + "|", *map(table_row, rows)])


def table_row(cells):
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def about(*facts):
    """Return one line of the version of this package and of facts: modules, or strings."""
    return ", ".join(map(_fact, (sklearn_conv, *facts)))


def _fact(fact):
    if isinstance(fact, str):
        return fact
    return f"{NAMES.get(fact.__name__, fact.__name__)} {fact.__version__}"


def processor():
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")
