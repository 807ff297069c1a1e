"""Report the progress of ``fit`` to scikit-learn's callbacks, which are public since 1.9."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self, TypeVar

try:
    from sklearn import callback
except ImportError:  # scikit-learn is older than 1.9, and no callbacks can be set.
    callback = None

Method = TypeVar("Method", bound=Callable[..., Any])

if TYPE_CHECKING:  # scikit-learn has no type annotations.

    class CallbackSupportMixin:
        """Mixin class of estimators that report their progress to callbacks."""

        def set_callbacks(self, *callbacks: Any) -> Self:
            """Set callbacks."""

elif callback is None:

    class CallbackSupportMixin:
        """Replacement for the class of scikit-learn 1.9, with which no callbacks can be set."""

else:
    CallbackSupportMixin = callback.CallbackSupportMixin


def with_callbacks(method: Method) -> Method:
    """Return the method ``fit`` such that its callbacks are torn down after it, also if it fails.

    The type of the method is preserved; that of scikit-learn's decorator is unknown.
    """
    return method if callback is None else callback.with_callbacks(method)


@contextmanager
def fit_steps(estimator: Any, X: Any, y: Any, n_steps: int) -> Iterator[Callable[[str], Any]]:
    """Report the start and the end of ``fit``; use ``with step(name):`` for each of its steps."""
    # Without callbacks, no context is needed, and several threads may fit the estimator.
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
