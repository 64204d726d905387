"""Whether ops are recorded: no_grad, enable_grad, set_grad_enabled, inference_mode; each thread has a state of its own."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["enable_grad", "inference_mode", "is_grad_enabled", "no_grad", "set_grad_enabled"]

F = TypeVar("F", bound=Callable[..., Any])


class _Mode(threading.local):
    grad = True
    inference = False
    recording: Any = None  # the node whose backward this thread is recording: what it saved is handed to it as Tensors


mode = _Mode()
recordings: list[None] = []  # one element for each recorded backward that some thread is in
inferring: list[None] = []  # one element for each inference_mode that some thread is in: while it is empty no op asks its thread's own `mode`


class _GradMode:
    """Context manager and decorator: ops inside are recorded or not, in this thread, whatever stood before."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and callable(args[0]):
            return cls()(args[0])  # type: ignore[call-arg]  # @no_grad is @no_grad()
        return super().__new__(cls)

    def __init__(self, grad: bool, inference: bool | None = None) -> None:
        self._wanted = grad, inference
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append((mode.grad, mode.inference))
        grad, inference = self._wanted
        mode.grad = grad
        if inference is not None:
            mode.inference = inference
        if inference:
            inferring.append(None)

    def __exit__(self, *exc: object) -> None:
        mode.grad, mode.inference = self._before.pop()
        if self._wanted[1]:
            inferring.pop()

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{type(self).__name__} cannot decorate the generator function {function.__name__}: its body runs after the call has returned. "
                f"Write `with {type(self).__name__}(...):` inside, around parts without a yield"
            )
        wanted = self._wanted

        @functools.wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            with _GradMode(*wanted):  # one of its own for each call: threads and recursion do not share `_before`
                return function(*args, **kwargs)

        return within  # type: ignore[return-value]


class no_grad(_GradMode):  # noqa: N801  torch's name
    """Ops inside are not recorded.

    Example:
        >>> import tinygrad_norm as tg
        >>> w = tg.ones(2, requires_grad=True)
        >>> with tg.no_grad():
        ...     print((w * 2).requires_grad)
        False
    """

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(_GradMode):  # noqa: N801
    """Ops inside are recorded, also within no_grad."""

    def __init__(self) -> None:
        super().__init__(True)


class set_grad_enabled(_GradMode):  # noqa: N801
    """Ops are recorded or not from here on; as a context manager, until its end."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        super().__enter__()

    def __enter__(self) -> None:
        mode.grad = self._wanted[0]  # what stood before was noted at the call

    def __exit__(self, *exc: object) -> None:
        mode.grad = self._before[0][0]  # and stays noted: one object may be entered, or decorate, again

    def __call__(self, function: F) -> F:
        self.__exit__()  # a decorated function is told when it is called, not where it is defined
        return super().__call__(function)


class inference_mode(_GradMode):  # noqa: N801
    """Like no_grad, and the Tensors made inside can never take part in a graph: they carry no version counter."""

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode, bool(mode))


def is_grad_enabled() -> bool:
    """Whether ops are being recorded in this thread."""
    return mode.grad
