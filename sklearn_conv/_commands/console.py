"""Messages on standard error, and the progress of the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from time import monotonic
from typing import Any

from rich import console, progress

PERIOD = 10.0
"""Seconds between two lines of progress if standard error is not a terminal."""


class _StandardError(console.Console):
    """Standard error; if it is a broken pipe, the work goes on without messages."""

    def out(self, *objects: Any, **options: Any) -> None:
        try:
            super().out(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:  # Recent versions of rich call it.
        self.quiet = True
        with suppress(OSError):  # What is left in a buffer would be written at the end of Python.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


class Console:
    """Standard error: messages, and below them on a terminal a bar of progress."""

    def __init__(self, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._console = _StandardError(stderr=True)
        self.seconds: dict[str, float] = {}
        """Duration of each work whose progress was shown."""

    def say(self, text: str) -> None:
        """Print a message as one line."""
        self._console.out(f"sklearn-conv: {one_line(text)}", highlight=False)

    @contextmanager
    def progress(
        self, label: str, n: int | None = None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """Show the progress of the work inside, which consists of ``n`` units, if that is known.

        The context is a function that is called with the number of units that are done.
        """
        start = last = monotonic()
        counted = "" if n is None else f"{{task.completed:,.0f}} of {n:,} {unit}"
        is_shown = self._console.is_terminal and not self._is_quiet
        bar = progress.Progress(
            "{task.description}",
            progress.BarColumn(24),
            counted,
            progress.TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
        )
        task = bar.add_task(label, total=n)

        def update(n_done: int) -> None:
            nonlocal last
            bar.update(task, completed=n_done)
            now = monotonic()
            if not is_shown and n is not None and now - last >= PERIOD and n_done < n:
                last = now
                left = format_seconds((now - start) * (n - n_done) / n_done)
                self._log(f"{label}: {n_done:,} of {n:,} {unit}, {left} left")

        with bar if is_shown else nullcontext():
            yield update
        seconds = self.seconds[label] = monotonic() - start
        if seconds >= 1:
            counted = "" if n is None else f": {n:,} {unit}"
            self._log(f"{label}{counted} in {format_seconds(seconds)}")

    def _log(self, line: str) -> None:
        if not self._is_quiet:
            self._console.out(line, highlight=False)


def format_seconds(seconds: float) -> str:
    """Return a duration for people.

    Examples
    --------
    >>> format_seconds(2.345), format_seconds(75), format_seconds(7320)
    ('2.3 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def one_line(text: str) -> str:
    """Replace each run of white space by one space."""
    return " ".join(text.split())


def printable(text: str) -> str:
    """Return text in which line breaks, other control characters and surrogates are escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
