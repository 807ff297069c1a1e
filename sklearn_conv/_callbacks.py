"""Report the progress of ``fit`` to scikit-learn's callbacks, which are public since 1.9."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Replacement for the class of scikit-learn 1.9, with which no callbacks can be set."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method unchanged."""
        return method


@contextmanager
def fit_steps(estimator: Any, X: Any, y: Any, n_steps: int) -> Iterator[Callable[[str], Any]]:
    """Report the start and the end of ``fit``; use ``with step(name):`` for each of its steps."""
    # scikit-learn stores the context on the estimator, so several threads that fit the same
    # estimator would share it. Therefore no context is created unless callbacks are set.
    if not getattr(estimator, "_skl_callbacks", None):
        yield lambda name: nullcontext()
        return
    context = estimator._init_callback_context(max_subtasks=n_steps)
    context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)

    @contextmanager
    def step(name: str) -> Iterator[None]:
        task = context.subcontext(task_name=name)
        task.call_on_fit_task_begin(estimator=estimator)
        yield
        task.call_on_fit_task_end(estimator=estimator)

    yield step
    context.call_on_fit_task_end(estimator=estimator, X=X, y=y)
