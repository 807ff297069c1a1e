"""scikit-learn's callbacks, which are told of the progress of ``fit``; public since 1.9."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands for scikit-learn's where this has none: nobody can set a callback."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method."""
        return method


@contextmanager
def fit_steps(estimator: Any, X: Any, y: Any, n_steps: int) -> Iterator[Callable[[str], Any]]:
    """Tell callbacks that ``fit`` begins and ends; ``with step(name):`` does so for each step.

    Where nobody has set any, scikit-learn's context is not touched: it is kept on the estimator,
    and several threads that fit one estimator would share it.
    """
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
