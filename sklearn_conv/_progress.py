"""Print the number of finished images, or fits, if ``verbose`` is above 0."""

from __future__ import annotations

import sys
from fractions import Fraction
from threading import Lock
from time import monotonic
from typing import Any


class Progress:
    """Print the number of finished images and the estimated time left to stderr.

    At most one line is printed in a second, unless ``verbose`` is at least 10, and one at the end.
    Several threads may call `advance`.
    """

    def __init__(self, estimator: Any, n_images: int, unit: str = "images") -> None:
        self._name, self._n_images, self._unit = type(estimator).__name__, n_images, unit
        self._is_verbose = estimator.verbose > 0
        self._seconds = 0.0 if estimator.verbose >= 10 else 1.0
        self._start = self._last = monotonic()
        self._n_done = Fraction(0)
        self._lock = Lock()

    def advance(self, n_images: int | Fraction) -> None:
        """Report that ``n_images`` more images, or a fraction of an image, are done."""
        if not self._is_verbose:
            return
        with self._lock:
            self._n_done += n_images
            now = monotonic()
            if now - self._last < self._seconds and self._n_done < self._n_images:
                return
            self._last = now
            elapsed = now - self._start
            remaining = elapsed * float((self._n_images - self._n_done) / self._n_done)
            print(
                f"[{self._name}]: Done {int(self._n_done)} out of {self._n_images} {self._unit} | "
                f"elapsed: {elapsed:.1f}s remaining: {remaining:.1f}s",
                file=sys.stderr,
            )
