"""Report the progress of ``fit`` to scikit-learn's callbacks, which are public since 1.9."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import local
from typing import TYPE_CHECKING, Any, Self, TypeVar

try:
    from sklearn import callback
except ImportError:  # scikit-learn is older than 1.9, and no callbacks can be set.
    callback = None

Method = TypeVar("Method", bound=Callable[..., Any])


class ThreadAttribute:
    """Attribute that has a separate value for each thread, and is not stored on the instance."""

    def __init__(self) -> None:
        self._values = local()

    def __get__(self, instance: Any, owner: type) -> Any:
        return getattr(self._values, str(id(instance)))

    def __set__(self, instance: Any, value: Any) -> None:
        setattr(self._values, str(id(instance)), value)

    def __delete__(self, instance: Any) -> None:
        delattr(self._values, str(id(instance)))


if TYPE_CHECKING:  # scikit-learn has no type annotations.

    class CallbackSupportMixin:
        """Mixin class of estimators that report their progress to callbacks."""

        def set_callbacks(self, *callbacks: Any) -> Self:
            """Set callbacks."""

elif callback is None:

    class CallbackSupportMixin:
        """Replacement for the class of scikit-learn 1.9, with which no callbacks can be set."""

else:

    class CallbackSupportMixin(callback.CallbackSupportMixin):
        """Mixin class of estimators that several threads may fit at the same time.

        scikit-learn stores these two attributes on the estimator from the beginning to the end of
        ``fit``. If threads shared them, the first one to finish would tear down the callbacks of
        another one.
        """

        _callback_fit_ctx = ThreadAttribute()
        _skl_callbacks_to_teardown = ThreadAttribute()


def with_callbacks(method: Method) -> Method:
    """Return the method ``fit`` such that its callbacks are torn down after it, also if it fails.

    The type of the method is preserved; that of scikit-learn's decorator is unknown.
    """
    return method if callback is None else callback.with_callbacks(method)


@contextmanager
def fit_steps(estimator: Any, X: Any, y: Any, n_steps: int) -> Iterator[Callable[[str], Any]]:
    """Report the start and the end of ``fit``; use ``with step(name):`` for each of its steps."""
    # Without callbacks, no context is needed.
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
