"""Contestants in processes of their own that take turns: A B A B …, so that what disturbs the machine disturbs all of them alike.

In one process their thread pools would stand in each other's way. One at a time works; the others are blocked on a read.
"""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..kernel import available_threads
from . import starts
from .others import MOST, Others
from .protocol import receive, send
from .rows import CONTESTANTS, Row
from .work import truth

__all__ = ["TOLERANCE", "Contestant", "ContestantError", "Failure", "Figure", "contest", "contestants", "disagreement", "usual_threads"]

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).parent.parent.parent
REST = 0.04  # seconds before a turn with matrix products: after the last contestant's OpenBLAS' threads spin on for some 25 ms
LIMIT = 300.0  # seconds that an answer may take; a cold cache has its kernels compiled meanwhile
TOLERANCE = 1e-4  # the greatest difference of an output from torch's, over torch's largest entry


class Figure(NamedTuple):
    """One figure: a ratio, or another number that something is asked of.

    Attributes:
        row, phase: what was measured.
        over, under: whose value is divided by whose; "" where the figure is no ratio.
        figure: the ratio of the medians over the rounds, or the number.
        least: the ratio of the minima, where there are rounds.
        asked, at_most: the bound that the project asks of itself, and whether it is an upper one.
        unit: of the values, "s", "bytes" or "error"; of the figure where it is no ratio.
        values: for each contestant the median, the minimum, and the median of each round.
        others: cores that other processes used meanwhile, on average; None where that is not known.
    """

    row: str
    phase: str
    over: str
    under: str
    figure: float
    least: float | None = None
    asked: float | None = None
    at_most: bool = False
    unit: str = "s"
    values: dict[str, dict[str, Any]] = {}
    others: float | None = None

    @property
    def disturbed(self) -> bool:
        """Whether other processes used so much of the machine that the figure says little."""
        return self.unit == "s" and (self.others or 0.0) > MOST

    @property
    def met(self) -> bool | None:
        """Whether both ratios, of the medians and of the minima, keep the bound as they are printed; None without a bound, or where others disturbed.

        A number that is no ratio, such as seconds to the first epoch, is judged by its median alone.
        """
        if self.asked is None or self.disturbed:
            return None
        ratios = [self.figure] if self.least is None or not self.over else [self.figure, self.least]
        shown = [float(f"{ratio:.2f}") for ratio in ratios]
        return max(shown) <= self.asked if self.at_most else min(shown) >= self.asked


class Failure(NamedTuple):
    """A row that could not be measured for one contestant: kind is "mismatch", "died", "timeout" or "error"."""

    row: str
    contestant: str
    kind: str
    text: str


class ContestantError(Exception):
    """A contestant gave no answer: kind is "died", "timeout", "error" or "absent"."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


# -- 1. A contestant -----------------------------------------------------------------------------------------------------------------------------


class Contestant:
    """A process that does the rows' work; started when it is first asked, and again after it has died.

    Args:
        name: one of rows.CONTESTANTS, or another for a command of yours.
        command: the process; it speaks protocol.py on its input and output.
        environment: variables that differ from this process's.
        limit: seconds that an answer may take.
    """

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None, limit: float = LIMIT) -> None:
        self.name, self.command, self.limit = name, list(command), limit
        self.environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None

    def ask(self, message: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
        """One question, one answer.

        Raises:
            ContestantError: it died, took longer than the limit (it is killed then), or answered that something went wrong.
        """
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        watch = threading.Timer(self.limit, give_up)
        watch.daemon = True
        watch.start()
        try:
            send(process.stdin, message)  # type: ignore[arg-type]
            answer, arrays = receive(process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError, ValueError) as error:
            last = self._end()
            if late.is_set():
                raise ContestantError("timeout", f"no answer within {self.limit:g} s") from None
            detail = f"not a frame: {error}" if isinstance(error, ValueError) else last
            raise ContestantError("died", detail) from None
        finally:
            watch.cancel()
        for kind in ("absent", "error"):
            if kind in answer:
                raise ContestantError(kind, answer[kind])
        return answer, arrays

    def _start(self) -> subprocess.Popen[bytes]:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=self.environment,
            start_new_session=True,  # Ctrl-C is for this process alone, which then ends the others
        )
        return self._process

    def _end(self) -> str:
        """Ends the process; returns how it had ended by itself, and the last line of what it said."""
        process, self._process = self._process, None
        if process is None:
            return ""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.wait(timeout=1)  # one that died by itself is given the time to have its exit code
        except subprocess.TimeoutExpired:
            process.kill()
        code = process.wait()
        process.stdout.close()
        with suppress(OSError):  # what was not yet written can no longer be
            process.stdin.close()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        self._errors.close()
        return f"exit code {code}" + (f": {said[-1]}" if said else "")

    @property
    def pid(self) -> int | None:
        """The number of the process, if there is one."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._end()


def usual_threads() -> int:
    """Two, or one where there is one core."""
    return min(2, available_threads())


def contestants(threads: int | None = None, names: Iterable[str] = CONTESTANTS) -> dict[str, Contestant]:
    """The contestants that can take part here: torch and JAX where they are installed."""
    threads = threads or usual_threads()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # The matrix products of NumPy, and XLA, ask the environment; torch and this project are told by their worker.
    shared = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "NPROC": str(threads), "JAX_PLATFORMS": "cpu"}
    found = {}
    for name in names:
        if name in ("torch", "jax") and importlib.util.find_spec(name) is None:
            continue
        environment = {**shared, "TINYGRAD_NORM_NUMBA": "0" if name == "numpy" else "1"}
        found[name] = Contestant(name, [sys.executable, "-m", "tinygrad_norm.bench.worker", name, str(threads)], environment)
    return found


# -- 2. Comparing before timing ------------------------------------------------------------------------------------------------------------------


def disagreement(found: dict[str, Array], expected: dict[str, Array], tolerance: float) -> str | None:
    """What differs between two contestants' outputs, in words; None where nothing does.

    An entry may differ by the tolerance times the largest entry of the expected array.

    Example:
        >>> import numpy as np
        >>> from tinygrad_norm.bench.contest import disagreement
        >>> disagreement({"y": np.array([1.0, 2.2])}, {"y": np.array([1.0, 2.0])}, 1e-4)
        'y differs by 1.0e-01 of its largest entry (tolerance 1.0e-04)'
    """
    if found.keys() != expected.keys():
        return f"there are {sorted(found)}; expected {sorted(expected)}"
    for name, want in expected.items():
        got = found[name]
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"{name} is {got.dtype} of shape {got.shape}; expected {want.dtype} of shape {want.shape}"
        if want.size == 0:
            continue
        error = _difference(got.reshape(-1), want.reshape(-1))
        if not error <= tolerance:  # a NaN is no agreement
            return f"{name} differs by {error:.1e} of its largest entry (tolerance {tolerance:.1e})"
    return None


def _difference(found: Array, expected: Array, piece: int = 1 << 22) -> float:
    """The greatest difference over the largest expected entry; NaN where there is one. In pieces: the arrays may have a gigabyte each."""
    scale = error = np.float64(0)
    for i in range(0, len(expected), piece):
        got, want = found[i : i + piece], expected[i : i + piece]
        scale = np.maximum(scale, np.abs(want).max())  # np.maximum keeps a NaN
        error = np.maximum(error, np.abs(got - want).max())
    return float(error / scale) if scale != 0 else float(error)


# -- 3. The contest ------------------------------------------------------------------------------------------------------------------------------


def contest(
    rows: Sequence[Row],
    taking_part: dict[str, Contestant],
    *,
    rounds: int = 7,
    turn: float = 0.03,
    progress: Callable[[str], None] = lambda name: None,
) -> Iterator[Figure | Failure]:
    """Runs the rows one after another and yields each figure, and each failure, when it is known.

    Args:
        rows: what to measure.
        taking_part: the contestants by name; ended when the contest is over, however it ends.
        rounds: how many turns each has at each phase.
        turn: how long a turn should last, in seconds.
        progress: told the name of each row before it.
    """
    sizes: dict[str, list[int]] = {}
    lines: dict[str, list[Figure]] = {}
    try:
        for row in rows:
            progress(row.name)
            here = {name: taking_part[name] for name in row.contestants if name in taking_part}
            if row.measure == "start":
                yield from _starts(row, rounds)
            elif row.measure == "memory":
                yield from _memory(row, here)
            elif row.measure == "accuracy":
                yield from _accuracy(row, here)
            elif row.measure == "linear":
                for found in _times(row, here, rounds, turn):
                    if isinstance(found, Failure):
                        yield found
                    elif (found.over, found.under) == ("torch", "ours"):
                        sizes.setdefault(row.arguments["module"], []).append(math.prod(row.arguments["shape"]))
                        lines.setdefault(row.arguments["module"], []).append(found)
                        yield found
            else:
                yield from _times(row, here, rounds, turn)
        for module, points in lines.items():
            if len(points) > 2:
                yield _straight(module, sizes[module], points)
    finally:
        for contestant in taking_part.values():
            contestant.close()


def _prepare(row: Row, here: dict[str, Contestant]) -> tuple[dict[str, list[str]], list[Failure]]:
    """Those whose outputs agree with torch's (with the first one's where torch is not there), and their phases."""
    ready: dict[str, list[str]] = {}
    failures: list[Failure] = []
    expected: dict[str, Array] | None = None
    for name, contestant in here.items():
        if expected is None and name != next(iter(here)):
            failures.append(Failure(row.name, name, "error", f"there is nothing to compare with: {next(iter(here))} has no outputs"))
            break
        try:
            answer, arrays = contestant.ask({"do": "prepare", "kind": row.kind, "arguments": row.arguments})
        except ContestantError as error:
            if error.kind != "absent":
                failures.append(Failure(row.name, name, error.kind, str(error)))
            continue
        if expected is None:
            expected = arrays
        wrong = disagreement(arrays, expected, TOLERANCE)
        if wrong is None:
            ready[name] = answer["phases"]
        else:
            failures.append(Failure(row.name, name, "mismatch", wrong))
    return ready, failures


def _times(row: Row, here: dict[str, Contestant], rounds: int, turn: float) -> Iterator[Figure | Failure]:
    ready, failures = _prepare(row, here)
    yield from failures
    phases = list(dict.fromkeys(phase for found in ready.values() for phase in found))
    if row.measure == "linear":
        phases = ["both"]
    for phase in phases:
        times: dict[str, list[dict[str, float]]] = {name: [] for name, found in ready.items() if phase in found}
        best: dict[str, float] = {}  # the least time seen so far tells how many calls fill a turn: the first may have been disturbed
        others = Others(pid for name in times if (pid := here[name].pid) is not None)
        for i in range(rounds + 2):
            for name in list(times):
                if row.kind == "mlp" or row.arguments.get("module") in ("Linear", "TransformerEncoderLayer"):
                    time.sleep(REST)
                fill = turn if i > 1 else turn / 4
                count = 1 if i == 0 else max(1, min(100_000, round(fill / best[name])))
                try:
                    found, _ = here[name].ask({"do": "time", "phase": phase, "repetitions": count, "limit": 4 * turn})
                except ContestantError as error:
                    yield Failure(row.name, name, error.kind, str(error))
                    del times[name], ready[name]
                    continue
                best[name] = min(found["minimum"], best.get(name, math.inf))
                if i > 1:
                    times[name].append(found)
        share = others.share()
        for figure in _ratios(row, phase, times):
            yield figure._replace(others=share)


def _ratios(row: Row, phase: str, times: dict[str, list[dict[str, float]]]) -> Iterator[Figure]:
    values: dict[str, dict[str, Any]] = {
        name: {
            "median": statistics.median(t["median"] for t in found),
            "minimum": min(t["minimum"] for t in found),
            "rounds": [t["median"] for t in found],
        }
        for name, found in times.items()
    }
    for over, under, asked in (
        ("torch", "ours", row.asked.get(phase)),
        ("jax", "ours", None),
        ("numpy", "serial", None),
        ("serial", "ours", row.threads if phase == "both" else None),
    ):
        if over in values and under in values:
            figure, least = (values[over][k] / values[under][k] for k in ("median", "minimum"))
            yield Figure(row.name, phase, over, under, figure, least, asked, values={n: values[n] for n in (over, under)})


def _memory(row: Row, here: dict[str, Contestant]) -> Iterator[Figure | Failure]:
    values: dict[str, dict[str, Any]] = {}
    for name, contestant in here.items():
        contestant.close()  # a process that has done nothing else
        try:
            contestant.ask({"do": "prepare", "kind": row.kind, "arguments": row.arguments, "compare": False})
            values[name] = {"median": contestant.ask({"do": "memory", "phase": "both"})[0]["bytes"]}
        except ContestantError as error:
            yield Failure(row.name, name, error.kind, str(error))
        contestant.close()
    if len(values) == 2:
        figure = values["torch"]["median"] / values["ours"]["median"]
        yield Figure(row.name, "both", "torch", "ours", figure, None, row.asked.get("both"), unit="bytes", values=values)


def _accuracy(row: Row, here: dict[str, Contestant]) -> Iterator[Figure | Failure]:
    expected = truth(row.arguments)
    errors: dict[str, dict[str, float]] = {}
    for name, contestant in here.items():
        try:
            arrays = contestant.ask({"do": "prepare", "kind": row.kind, "arguments": row.arguments})[1]
            errors[name] = {what: max(float(np.abs(arrays[what] - want).max()), 1e-300) for what, want in expected.items()}
        except ContestantError as error:
            yield Failure(row.name, name, error.kind, str(error))
    for what in expected:
        for under in ("ours", "numpy"):
            if "torch" in errors and under in errors:
                values = {name: {"median": errors[name][what]} for name in ("torch", under)}
                asked = row.asked.get(what) if under == "ours" else None
                yield Figure(row.name, what, "torch", under, errors["torch"][what] / errors[under][what], None, asked, unit="error", values=values)


def _starts(row: Row, rounds: int) -> Iterator[Figure | Failure]:
    others = Others(())
    try:
        taken = starts.MEASURES[row.kind](rounds)
    except (subprocess.SubprocessError, OSError, RuntimeError) as error:
        yield Failure(row.name, "ours", "error", str(error))
        return
    share = others.share()
    values: dict[str, dict[str, Any]] = {name: {"median": statistics.median(found), "minimum": min(found), "rounds": found} for name, found in taken.items()}
    asked = row.asked["seconds"]
    names = list(values)
    if len(names) == 1:
        (value,) = values.values()
        yield Figure(row.name, "seconds", "", "", value["median"], value["minimum"], asked, True, values=values, others=share)
    else:
        under, over = names[:2]
        figure, least = (values[over][k] / values[under][k] for k in ("median", "minimum"))
        yield Figure(row.name, "seconds", over, under, figure, least, asked, True, values=values, others=share)


def _straight(module: str, sizes: list[int], found: list[Figure]) -> Figure:
    """By how much the times depart, at worst, from a + b·n with a, the cost of a call, and b, that of an element, fitted to them."""
    values = {f"{n:.0e} elements": f.values["ours"] for n, f in zip(sizes, found)}
    worst = deviation(sizes, [value["median"] for value in values.values()])
    shares = [f.others for f in found if f.others is not None]
    name = f"linear in size, {module}"
    return Figure(name, "departure", "", "", worst, None, 0.2, True, values=values, others=max(shares, default=None))


def deviation(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The greatest relative distance of the times from the line a + b·n, a and b not negative, fitted by least relative squares.

    Example:
        >>> from tinygrad_norm.bench.contest import deviation
        >>> round(deviation([1e3, 1e4, 1e5], [2e-6, 11e-6, 101e-6]), 6)
        0.0
    """
    n, t = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    columns = np.stack([1 / t, n / t], 1)
    (a, b), *_ = np.linalg.lstsq(columns * [1, 1 / n.max()], np.ones(len(t)), rcond=None)
    b /= n.max()
    if a < 0 or b < 0:  # the best line with both is one with the other alone
        keep = 1 if a < 0 else 0
        only = columns[:, keep].sum() / (columns[:, keep] ** 2).sum()
        a, b = (0.0, only) if keep else (only, 0.0)
    return float(np.abs((a + b * n) / t - 1).max())
