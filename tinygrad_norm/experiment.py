"""Does a norm help? The source document's claim, put to a test that could fail.

The document trains one network with a LayerNorm on coin-flip labels, sees the loss fall, and concludes that the norm helps. Three things
are missing there, and are here: data with something to learn and a part held out; the same network without the norm, and with the
other one; and repetition, over seeds, learning rates, depths and batch sizes, for what holds at one setting need not hold at the next.

    the network     [Linear → norm → ReLU] × depth → Linear on the 8 × 8 digits, norm = nothing, LayerNorm or BatchNorm1d; the seed
                    fixes the weights at the start, the batches and the three parts of the data, all the same for the three norms
    the start       torch's default weights, as in the document, which let the signal shrink from layer to layer; and He et al.'s (2015), made
                    for ReLU, which keep its size: what a norm repairs may also be had by starting well
    the data        1150 digits to train on, 288 to choose the learning rate by, 359 held out, which are looked at once, at the end
    a run           plain SGD for a number of epochs, and at least a number of steps, so that large batches are not stopped at the start
    diverged        the loss was infinite or NaN at some step: the run ends there, and stays with the accuracy it has then

`run_norms` runs what is not in DIR/results.csv yet, in parallel processes; experiment_report.py turns the rows into words and pictures.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from . import nn, optim
from .data import load_digits
from .grad_mode import no_grad
from .kernel import available_threads
from .random import Generator, manual_seed
from .runs import progress_bar
from .tensor import Tensor

__all__ = ["DEFAULT", "QUICK", "Grid", "run_norms"]

NORMS = ("none", "layer", "batch")
INITS = ("torch", "he")
TRAINING, CHOOSING = 1150, 288  # samples to train on, and to choose the learning rate by

# -- 1. What is run -------------------------------------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """Every combination of these is a run."""

    inits: tuple[str, ...] = INITS
    lrs: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    depths: tuple[int, ...] = (1, 3, 8)
    batch_sizes: tuple[int, ...] = (2, 8, 32, 128)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    epochs: int = 4
    least_steps: int = 500
    hidden: int = 64


DEFAULT = Grid()
QUICK = Grid(lrs=(0.03, 0.3), depths=(1, 4), batch_sizes=(2, 32), seeds=(0, 1), epochs=2, least_steps=200)


class Setting(NamedTuple):
    """One run, and its name in the table of results."""

    norm: str
    init: str
    depth: int
    batch_size: int
    lr: float
    seed: int
    epochs: int
    least_steps: int
    hidden: int


class Outcome(NamedTuple):
    """What a run gave: steps made, whether it diverged, the mean loss (nats) on the training data, two accuracies, seconds taken."""

    steps: int
    diverged: int
    train_loss: float
    choosing_accuracy: float
    held_out_accuracy: float
    seconds: float


Results = dict[Setting, Outcome]
SETTING_TYPES = (str, str, int, int, float, int, int, int, int)
OUTCOME_TYPES = (int, int, float, float, float, float)


def settings(grid: Grid) -> list[Setting]:
    """All runs of a grid, seed by seed, so that an interrupted table has whole seeds."""
    order = itertools.product(grid.seeds, grid.inits, grid.depths, grid.batch_sizes, grid.lrs, NORMS)
    return [Setting(norm, init, depth, batch, lr, seed, grid.epochs, grid.least_steps, grid.hidden) for seed, init, depth, batch, lr, norm in order]


def check_grid(grid: Grid) -> None:
    """ValueError for what cannot be run."""
    for name in ("inits", "lrs", "depths", "batch_sizes", "seeds"):
        values = getattr(grid, name)
        if not values:
            raise ValueError(f"{name} must hold at least one value")
        if len(set(values)) < len(values):
            raise ValueError(f"{name} must hold each value once; got {values}")
    if not set(grid.inits) <= set(INITS):
        raise ValueError(f"inits must be of {', '.join(INITS)}; got {', '.join(grid.inits)}")
    for name, values in (("lr", grid.lrs), ("depth", grid.depths), ("epochs", [grid.epochs]), ("hidden", [grid.hidden])):
        for value in values:
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite; got {value}")
    if min(grid.batch_sizes) < 2:
        raise ValueError(f"batch_size must be at least 2, for BatchNorm1d has no statistics of a batch of one; got {min(grid.batch_sizes)}")
    if max(grid.batch_sizes) > TRAINING:
        raise ValueError(f"batch_size must be at most {TRAINING}, all of the training data; got {max(grid.batch_sizes)}")


# -- 2. One run -----------------------------------------------------------------------------------------------------------------------


def make_mlp(norm: str, init: str, depth: int, hidden: int) -> nn.Sequential:
    """[Linear → norm → ReLU] × depth → Linear, 64 pixels to 10 logits; norms draw no random numbers, so all three start alike."""
    layers: list[nn.Module] = []
    width = 64
    for _ in range(depth):
        layers.append(nn.Linear(width, hidden))
        if norm != "none":
            layers.append(nn.LayerNorm(hidden) if norm == "layer" else nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU())
        width = hidden
    layers.append(nn.Linear(width, 10))
    if init == "he":
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


@functools.lru_cache(maxsize=2)
def _parts(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Features and labels to train on, to choose by, and held out."""
    first, held = load_digits(seed=seed)
    x, y = first.tensors
    return (x[CHOOSING:], y[CHOOSING:]), (x[:CHOOSING], y[:CHOOSING]), (held.tensors[0], held.tensors[1])


@np.errstate(all="ignore")  # a run that diverges is an answer
def run_one(setting: Setting) -> Outcome:
    """Trains one network; the same setting gives the same numbers, but for the seconds."""
    start = time.perf_counter()
    train, choosing, held_out = _parts(setting.seed)
    manual_seed(setting.seed)
    model = make_mlp(setting.norm, setting.init, setting.depth, setting.hidden)
    optimizer = optim.SGD(model.parameters(), lr=setting.lr)
    criterion = nn.CrossEntropyLoss()
    stream = Generator().manual_seed(setting.seed)
    size = setting.batch_size
    per_epoch = len(train[1]) // size  # whole batches only: no last one of another size
    wanted = max(setting.epochs * per_epoch, setting.least_steps)
    order = stream.permutation(len(train[1]))
    diverged = step = 0
    while step < wanted and not diverged:
        place = step % per_epoch
        if place == 0:
            order = stream.permutation(len(train[1]))
        rows = Tensor(order[place * size : (place + 1) * size])
        optimizer.zero_grad()
        loss = criterion(model(train[0][rows]), train[1][rows])
        if math.isfinite(loss.item()):
            loss.backward()
            optimizer.step()
            step += 1
        else:
            diverged = 1
    model.eval()
    with no_grad():
        train_loss = criterion(model(train[0]), train[1]).item()
        by, held = ((model(x).argmax(1) == y).sum().item() / len(y) for x, y in (choosing, held_out))
    return Outcome(step, diverged or int(not math.isfinite(train_loss)), train_loss, by, held, time.perf_counter() - start)


# -- 3. The table on disk -------------------------------------------------------------------------------------------------------------
#
# One line a run, written and flushed as it ends. A line that an interruption cut short has no newline: it is cut off, and its run is made
# again.

HEADER = [*Setting._fields, *Outcome._fields]


def read_results(path: Path) -> Results:
    """The rows of results.csv; a last line without its end is cut off the file.

    Raises:
        ValueError: it is a file of another form.
    """
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    rows = list(csv.reader(io.StringIO(whole.decode("utf-8", "replace"))))
    first = ",".join(HEADER)
    if rows[0] != HEADER if rows else not first.encode().startswith(raw):
        raise ValueError(f"{path} is no table of this experiment: its first line should be {first}; choose another folder")
    if len(whole) < len(raw):  # of a table of ours alone
        with path.open("r+b") as file:
            file.truncate(len(whole))
    results: Results = {}
    for number, row in enumerate(rows[1:], 2):
        try:
            values = [kind(text) for kind, text in zip((*SETTING_TYPES, *OUTCOME_TYPES), row, strict=True)]
        except ValueError:
            raise ValueError(f"{path}, line {number}, is no row of this experiment: {','.join(row)}; delete the line, and it will be run again") from None
        results[Setting(*values[: len(SETTING_TYPES)])] = Outcome(*values[len(SETTING_TYPES) :])
    return results


@contextmanager
def _appending(path: Path) -> Iterator[tuple[TextIO, Results]]:
    """results.csv open at its end, and its rows; held against a second run in the same folder where the system has such locks."""
    with path.open("a", encoding="utf-8", newline="") as file:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(f"another run is writing {path}: wait for it, or choose another folder") from None
        results = read_results(path)  # within the lock: it cuts off a broken line, which another run may be writing
        if path.stat().st_size == 0:
            _write(file, HEADER)
        yield file, results


def _write(file: TextIO, row: Iterable[Any]) -> None:
    csv.writer(file, lineterminator="\n").writerow(row)
    file.flush()


# -- 4. In parallel -------------------------------------------------------------------------------------------------------------------
#
# One process a core, each with one thread in BLAS and in the kernels: on matrices of this size threads only wait for each other, and
# jobs × threads would be more than there are cores. The libraries read these variables as they are loaded, so they are set before
# a child starts. Children are spawned, not forked: a fork copies locks that other threads hold.

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS")


@contextmanager
def _one_thread_each() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name in ONE_THREAD:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _start_worker() -> None:
    """In a child: Ctrl-C is the parent's affair, and when the parent is gone, so is the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def run_norms(grid: Grid = DEFAULT, out: str | Path = "norms", jobs: int | None = None, progress: bool = True) -> Results:
    """Runs what is missing of a grid, adds each row to DIR/results.csv as it ends, and returns the grid's rows.

    Interrupted, it can be called again, with the same grid or a larger one: what is in the table is not run twice.

    Args:
        grid: what to run.
        out: a folder, made if it is not there.
        jobs: processes at a time; the cores of this process by default.
        progress: a bar on stderr, where tqdm is installed.
    Raises:
        ValueError: a grid that cannot be run; a results.csv of another form; another run at work in the folder.
        ImportError: scikit-learn, which has the digits, is not installed. RuntimeError: a worker process has died.
    """
    check_grid(grid)
    if jobs is None:
        jobs = available_threads()
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1; got {jobs}")
    wanted = settings(grid)
    _parts(grid.seeds[0])  # says at once where scikit-learn is missing
    path = Path(out) / "results.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _appending(path) as (file, results):
        missing = [setting for setting in wanted if setting not in results]
        if missing:
            with progress_bar(len(wanted), "run", len(wanted) - len(missing), progress) as tick:

                def keep(setting: Setting, outcome: Outcome) -> None:
                    results[setting] = outcome
                    _write(file, (*setting, *outcome))
                    tick()

                try:
                    _run_all(missing, jobs, keep)
                except BrokenProcessPool:
                    raise RuntimeError(
                        "run_norms: a worker process has died. Each imports the script that calls run_norms, which must therefore be a file, with the call "
                        'under `if __name__ == "__main__":`; where it is, memory may have run out (jobs=1 takes the least)'
                    ) from None
    return {setting: results[setting] for setting in wanted}


def _run_all(missing: list[Setting], jobs: int, keep: Callable[[Setting, Outcome], None]) -> None:
    with _one_thread_each():
        pool = ProcessPoolExecutor(min(jobs, len(missing)), multiprocessing.get_context("spawn"), _start_worker)
        waiting: dict[Future[Outcome], Setting] = {}
        try:
            waiting.update((pool.submit(run_one, setting), setting) for setting in missing)
            for future in as_completed(list(waiting)):
                keep(waiting.pop(future), future.result())
        except BaseException:  # also Ctrl-C: the few that are running end, and are kept
            print("\nstopping: the runs at work end first, and are kept", file=sys.stderr)
            pool.shutdown(wait=True, cancel_futures=True)
            for future, setting in waiting.items():
                if future.done() and not future.cancelled() and future.exception() is None:
                    keep(setting, future.result())
            raise
        pool.shutdown()
