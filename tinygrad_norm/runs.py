"""What a training run needs besides its steps: to stop when it is told to and go on later, to say which layer went wrong, a progress bar.

    run = Run("mlp", options, {"model": model, "optimizer": optimizer, "progress": at}, checkpoint)
    if resume is not None:
        run.resume(resume, may_differ=("epochs",))
    with run.stoppable():                    # SIGINT and SIGTERM wait for the end of the step
        for step in …:
            …
            run.stop_if_asked()              # writes the checkpoint and raises Interrupted

The parts are all that the rest of the run depends on, each with a state_dict; the state of the random stream goes with them.

    1. Signals   2. A run and its file   3. Divergence   4. Lines and the bar above which they stand
"""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .grad_mode import no_grad
from .nn import Module
from .random import get_rng_state, set_rng_state
from .serialization import check_path, load, save
from .tensor import Tensor

__all__ = ["Interrupted", "Run", "check_finite", "first_not_finite", "progress_bar", "read_checkpoint", "say", "stop_requests", "with_progress"]

# -- 1. Signals ------------------------------------------------------------------------------------------------------------------------


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


# -- 2. A run and its file -------------------------------------------------------------------------------------------------------------


class Run:
    """A training run that can be stopped at the end of any step, and gone on with as if it had not been.

    Args:
        task: what kind of run it is.
        options: the arguments that it was started with; plain values.
        parts: all that its steps change, by name; each has state_dict and load_state_dict.
        checkpoint: where it saves itself when it is told to stop; if None, signals act as always.
    Raises:
        ValueError, OSError: no file can be written there.
    """

    def __init__(self, task: str, options: Mapping[str, Any], parts: Mapping[str, Any], checkpoint: str | Path | None = None) -> None:
        self.task, self.options, self.parts = task, dict(options), dict(parts)
        self.checkpoint = None if checkpoint is None else check_path(checkpoint)
        self._requests: list[int] = []

    def write(self, path: str | Path) -> None:
        """Writes all that the rest of the run depends on."""
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        save({"task": self.task, "options": self.options, **parts, "random": get_rng_state()}, path)

    def resume(self, path: str | Path, may_differ: tuple[str, ...]) -> None:
        """Brings the parts and the random stream to where the run in a checkpoint was stopped.

        Args:
            path: what `write` wrote.
            may_differ: names of the options that may have another value than in that run.
        Raises:
            ValueError: the file is no checkpoint of such a run. OSError: it cannot be read.
        """
        state = read_checkpoint(path, self.task)
        theirs = state["options"]
        other = [name for name, value in self.options.items() if name not in may_differ and theirs.get(name) != value]
        if other:
            had, got = (" and ".join(f"{name} {options.get(name)}" for name in other) for options in (theirs, self.options))
            raise ValueError(f"{str(path)!r} is a run with {had}; got {got}: of its options only {' and '.join(may_differ)} can be changed")
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            set_rng_state(state["random"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{str(path)!r} is no whole checkpoint of train: {error}") from None

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Within it SIGINT and SIGTERM wait for `stop_if_asked`; the second one does what it always does.

        NumPy's warnings of overflow are off: of a run that diverges `check_finite` says more.
        """
        with stop_requests(self.checkpoint is not None) as self._requests, np.errstate(all="ignore"):
            yield

    def stop_if_asked(self) -> None:
        """Interrupted, with the run in its checkpoint, where a signal has come."""
        if self._requests and self.checkpoint is not None:
            self.write(self.checkpoint)
            raise Interrupted(self._requests[0], self.checkpoint)


def read_checkpoint(path: str | Path, task: str | None = None) -> dict[str, Any]:
    """What `Run.write` wrote: "task", "options", "random" and the state_dict of each part.

    Raises:
        ValueError: the file is no checkpoint, or one of another task. OSError: it cannot be read.
    """
    state = load(path)
    if not isinstance(state.get("options"), dict) or not isinstance(state.get("task"), str):
        raise ValueError(f"{str(path)!r} is no checkpoint of train, which an interrupted run leaves behind: it may be the parameters of one that ended")
    if task is not None and state["task"] != task:
        raise ValueError(f"{str(path)!r} is a run of the task {state['task']}; got {task}")
    return state


# -- 3. Divergence ---------------------------------------------------------------------------------------------------------------------


def check_finite(loss: float, where: str, model: Module, *inputs: Tensor, random: dict[str, Any] | None = None) -> None:
    """FloatingPointError where a loss is NaN or infinite, which names the first layer whose output was not finite.

    Args:
        loss: a step's.
        where: names the step in the message.
        model, inputs: of this step, before the optimizer has changed anything; the forward runs once more.
        random: the stream's state before the forward, where the model draws from it, so that it draws the same again.
    """
    if not math.isfinite(loss):
        raise FloatingPointError(f"the training has diverged at {where}: the loss is {loss}. {first_not_finite(model, *inputs, random=random)}")


def first_not_finite(model: Module, *inputs: Tensor, random: dict[str, Any] | None = None) -> str:
    """A sentence on where in the forward the first value comes up that is not finite. The model and the random stream are left as they were.

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
            if spoilt:
                why = f"its {' and '.join(spoilt)} {'was' if len(spoilt) == 1 else 'were'} not finite before this step"
            elif _finite(args):
                why = "its input and its parameters were finite"
            else:
                why = "its input was not finite, which an op that stands between the layers has made"
            found.append(
                f"The first output that is not finite is that of {names[module]} ({type(module).__name__}): {why}. A smaller learning rate may help."
            )

    stream = get_rng_state()
    if random is not None:
        set_rng_state(random)
    handles = [module.register_forward_hook(look) for module in names]  # children end before their parents
    try:
        with no_grad(), np.errstate(all="ignore"):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for buffer, values in buffers:
            buffer._data[...] = values
        set_rng_state(stream)
    return found[0] if found else "Every layer's output is finite: the loss itself has overflowed."


def _finite(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_finite(item) for item in value)
    return not isinstance(value, Tensor) or value._data.dtype.kind != "f" or bool(np.isfinite(value._data).all())


# -- 4. Lines, and the bar above which they stand --------------------------------------------------------------------------------------


@contextmanager
def progress_bar(total: int, unit: str, done: int = 0, wanted: bool | None = None) -> Iterator[Callable[[], Any]]:
    """A bar on stderr as long as the block lasts, which is given the function that moves it on by one.

    Args:
        total: how far it goes. unit: what is counted. done: where it begins.
        wanted: None: on a terminal, where tqdm is installed; True: also elsewhere, and what is missing is said where it is not.
    """
    if wanted or (wanted is None and sys.stderr.isatty()):
        try:
            from tqdm import tqdm
        except ImportError:
            if wanted:
                print('for a progress bar: pip install "tinygrad_norm[progress]"', file=sys.stderr)
        else:
            with tqdm(total=total, initial=done, unit=unit, file=sys.stderr, leave=False, mininterval=0.2 if sys.stderr.isatty() else 30) as bar:
                yield bar.update
            return
    yield lambda: None


def with_progress(first: int, last: int, unit: str, wanted: bool | None, many: int) -> Iterator[int]:
    """The numbers from first to last, with a bar.

    Args:
        first, last: of the steps; those before the first are shown as done.
        unit: what is counted.
        wanted: as progress_bar's, but None: where there are more than `many` left.
    """
    numbers = range(first, last + 1)
    with progress_bar(last, unit, first - 1, wanted if len(numbers) > many else bool(wanted)) as tick:
        for number in numbers:
            yield number
            tick()


def say(text: str) -> None:
    """Prints a line at once; above the bar where there is one."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is None:
        print(text, flush=True)
    else:
        tqdm.tqdm.write(text)
        sys.stdout.flush()
