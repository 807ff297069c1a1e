"""Messages on standard error, and a line of progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import get_terminal_size
from time import monotonic

BAR_WIDTH = 24
"""Number of characters of the bar."""

PERIOD = 10.0
"""Seconds between two lines of progress if standard error is not a terminal."""


class Console:
    """Standard error: messages, and below them on a terminal a line of progress."""

    def __init__(self, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self.is_terminal = sys.stderr.isatty()
        """Whether the line of progress can be rewritten."""
        self._line = ""

    def say(self, text: str) -> None:
        """Print a message as one line."""
        self.erase()
        print(f"sklearn-conv: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, label: str, n: int = 0, unit: str = "images") -> Iterator[Progress]:
        """Show the progress of the work inside, which consists of ``n`` units, if that is known."""
        progress = Progress(self, label, n, unit)
        try:
            yield progress
        except BaseException:
            self.erase()
            raise
        progress.finish()

    def rewrite(self, line: str) -> None:
        """Write the line of progress on a terminal."""
        if self.is_terminal and not self._is_quiet:
            line = line[: get_terminal_size().columns - 1]
            print(f"\r{line.ljust(len(self._line))}", end="", file=sys.stderr, flush=True)
            self._line = line

    def log(self, line: str) -> None:
        """Write a line of progress that stays."""
        if not self._is_quiet:
            self.erase()
            print(line, file=sys.stderr, flush=True)

    def erase(self) -> None:
        """Remove the line of progress from a terminal."""
        if self._line:
            print(f"\r{' ' * len(self._line)}\r", end="", file=sys.stderr, flush=True)
            self._line = ""


class Progress:
    """How much of the work is done, and an estimate of the remaining time."""

    def __init__(self, console: Console, label: str, n: int, unit: str) -> None:
        self._console, self._label, self._n, self._unit = console, label, n, unit
        self._start = self._last = monotonic()
        self.update(0)

    def update(self, n_done: int) -> None:
        """Report that ``n_done`` units are done."""
        now = monotonic()
        elapsed = now - self._start
        counted = f"{n_done:,} of {self._n:,} {self._unit}" if self._n else ""
        rest = ""
        if 0 < n_done < self._n:
            rest = f", {format_seconds(elapsed * (self._n - n_done) / n_done)} left"
        if self._console.is_terminal:
            filled = BAR_WIDTH * n_done // self._n if self._n else 0
            bar = f"[{'#' * filled}{'-' * (BAR_WIDTH - filled)}] " if self._n else ""
            self._console.rewrite(f"{self._label} {bar}{counted}{rest} ")
        elif now - self._last >= PERIOD and n_done < self._n:
            self._last = now
            self._console.log(f"{self._label}: {counted}{rest}")

    def finish(self) -> None:
        """Report that all is done."""
        seconds = monotonic() - self._start
        counted = f": {self._n:,} {self._unit}" if self._n else ""
        if seconds >= 1:
            self._console.log(f"{self._label}{counted} in {format_seconds(seconds)}")
        else:
            self._console.erase()


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
