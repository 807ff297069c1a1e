"""``verbose``: tell of the progress through batches."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any


class Progress:
    """Lines as of `joblib.Parallel`, one a second at most, where an estimator is verbose."""

    def __init__(self, estimator: Any, n_images: int) -> None:
        self._name, self._n_images = type(estimator).__name__, n_images
        self._seconds = 0.0 if estimator.verbose >= 10 else 1.0
        self._verbose = estimator.verbose > 0
        self._start = self._last = monotonic()

    def tell(self, done: int) -> None:
        """Say how many images are done."""
        now = monotonic()
        is_last = done == self._n_images
        if not self._verbose or (now - self._last < self._seconds and not is_last):
            return
        self._last = now
        elapsed = now - self._start
        print(
            f"[{self._name}]: Done {done} out of {self._n_images} images | "
            f"elapsed: {elapsed:.1f}s remaining: {elapsed / done * (self._n_images - done):.1f}s",
            file=sys.stderr,
        )
