"""What a long run needs besides its steps: to stop when it is told to, and to say which layer went wrong.

    with stop_requests() as requests:        # SIGINT and SIGTERM wait for the end of the step
        for step in …:
            …
            if requests:                     # the numbers of the signals that came
                serialization.save(…)
                raise Interrupted(requests[0], path)

What has to be saved is a dict for `tinygrad_norm.save`: the state_dicts, the random stream's state, and where the loop stands.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .grad_mode import no_grad
from .nn import Module
from .tensor import Tensor

__all__ = ["Interrupted", "check_finite", "first_not_finite", "stop_requests"]


class Interrupted(KeyboardInterrupt):
    """A run has stopped because a signal came, and stands in a file, from where it can go on."""

    def __init__(self, number: int, path: Path) -> None:
        super().__init__(f"{signal.Signals(number).name}: the run is saved in {path}")
        self.number = number
        self.path = path


@contextmanager
def stop_requests(wanted: bool = True) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list, instead of stopping at once; from the first one on the signals do again what they did before.

    Outside of the main thread, where Python lets nobody handle signals, and where it is not wanted, the list stays empty.
    """
    requests: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        requests.append(number)
        restore()

    if wanted and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note) or signal.SIG_DFL
    try:
        yield requests
    finally:
        restore()


def check_finite(loss: float, where: str, model: Module, *inputs: Tensor) -> None:
    """FloatingPointError where a loss is NaN or infinite, which names the first layer whose output was not finite.

    Args:
        loss: a step's.
        where: names the step in the message.
        model, inputs: of this step, before the optimizer has changed anything; the forward runs once more.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(f"the training has diverged at {where}: the loss is {loss}. {first_not_finite(model, *inputs)}")


def first_not_finite(model: Module, *inputs: Tensor) -> str:
    """A sentence on where in the forward the first value comes up that is not finite. The model is left as it was.

    Example:
        >>> import tinygrad_norm as tg
        >>> model = tg.nn.Sequential(tg.nn.Linear(2, 2), tg.nn.ReLU(), tg.nn.Linear(2, 1))
        >>> with tg.no_grad():
        ...     model[2].weight[0, 0] = float("inf")
        >>> first_not_finite(model, tg.ones(1, 2))
        'The first output that is not finite is that of 2 (Linear): its weight was not finite before this step. A smaller learning rate may help.'
    """
    if not all(_finite(x) for x in inputs):
        return "The input itself is not finite: clean the data."
    found: list[str] = []
    names = {module: name or "the model" for name, module in model.named_modules()}
    buffers = [(buffer, buffer._data.copy()) for buffer in model.buffers()]

    def look(module: Module, args: tuple[Any, ...], output: Any) -> None:
        if not found and not _finite(output):
            spoilt = [name for name, parameter in module.named_parameters() if not _finite(parameter)]
            why = f"its {' and '.join(spoilt)} was not finite before this step" if spoilt else "its input and its parameters were finite"
            found.append(
                f"The first output that is not finite is that of {names[module]} ({type(module).__name__}): {why}. A smaller learning rate may help."
            )

    handles = [module.register_forward_hook(look) for module in names]  # children end before their parents
    try:
        with no_grad(), np.errstate(all="ignore"):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for buffer, values in buffers:
            buffer._data[...] = values
    return found[0] if found else "Every layer's output is finite: the loss itself has overflowed."


def _finite(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_finite(item) for item in value)
    return not isinstance(value, Tensor) or value._data.dtype.kind != "f" or bool(np.isfinite(value._data).all())
