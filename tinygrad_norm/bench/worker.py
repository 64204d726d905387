"""A contestant's process: `python -m tinygrad_norm.bench.worker torch 2` waits for frames on its input and answers on its output.

    {"do": "prepare", "kind": …, "arguments": …}         builds the work of a row; answers with the arrays to compare
    {"do": "time", "phase": …, "repetitions": n, "limit": s}
                                                         the median and the least of n calls, in seconds; of fewer where they take longer than s
    {"do": "memory", "phase": …}                         by how much two calls raise the process's peak of resident memory, in bytes

Between frames it is blocked on a read: not a thread of it runs while another contestant has its turn. (The threads of its OpenMP spin
for some milliseconds after their last work, those of OpenBLAS for some 25: between turns with matrix products there is a rest.)
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from . import work, work_jax
from .protocol import receive, send

__all__ = ["main", "measure", "peak_memory", "serve"]

Build = Callable[[str, dict[str, Any]], work.Work]


def measure(phase: work.Phase, repetitions: int, limit: float = float("inf")) -> dict[str, float]:
    """The median and the least of that many calls in seconds, after one that is not counted where there are several.

    It stops early when `limit` seconds have passed: a turn that others disturb is not drawn out.

    What a call returns is released within the next one's time: a loop pays for that as well.
    """
    clock, call, before = time.perf_counter_ns, phase.call, phase.before
    taken: list[int] = []
    result = None
    collecting = gc.isenabled()
    gc.disable()
    try:
        end_by = clock() + limit * 1e9
        for i in range(repetitions + (repetitions > 1)):
            argument = before()
            start = clock()
            result = call(argument)
            end = clock()
            argument = None
            if i or repetitions == 1:
                taken.append(end - start)
                if end > end_by:
                    break
    finally:
        if collecting:
            gc.enable()
    del result
    return {"median": statistics.median(taken) / 1e9, "minimum": min(taken) / 1e9}


def peak_memory(held: work.Work, name: str) -> int:
    """By how many bytes two calls raise the peak of resident memory above the inputs and parameters that were there before them."""
    phase = held.phases[name]
    phase.call(phase.before())  # whatever is compiled or imported at the first call is no memory of the layer
    held.clear()
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # what malloc keeps for later (kernel.py) would not be counted when it is used again
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    resident = _status("VmRSS")
    for _ in range(2):
        phase.call(phase.before())
    return _status("VmHWM") - resident


def _status(field: str) -> int:
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
    except OSError:
        raise RuntimeError("the memory of a process is read from /proc, which this system does not have") from None


def serve(build: Build, source: BinaryIO, sink: BinaryIO) -> None:
    """Answers frames until the other side is gone. An exception becomes an answer, {"error": …}; {"absent": …} for a row that this contestant does not know."""
    current: work.Work | None = None
    while True:
        try:
            asked, _ = receive(source)
        except EOFError:
            return
        answer: dict[str, Any] = {}
        arrays: dict[str, Any] = {}
        try:
            if asked["do"] == "prepare":
                current = None  # its arrays go before others come
                current = build(asked["kind"], asked["arguments"])
                answer = {"phases": list(current.phases)}
                if asked.get("compare", True):
                    arrays = current.outputs()
            elif current is None:
                raise RuntimeError(f"{asked['do']}: no row is prepared")
            elif asked["do"] == "time":
                answer = measure(current.phases[asked["phase"]], asked["repetitions"], asked["limit"])
            elif asked["do"] == "memory":
                answer = {"bytes": peak_memory(current, asked["phase"])}
            else:
                raise ValueError(f"a worker cannot {asked['do']!r}")
        except NotImplementedError as error:
            answer, arrays = {"absent": str(error)}, {}
        except Exception as error:
            answer, arrays = {"error": f"{type(error).__name__}: {error}".split("\n")[0]}, {}
        try:
            send(sink, answer, arrays)
        except BrokenPipeError:
            return


def _builder(contestant: str, threads: int) -> Build:
    if contestant == "jax":
        return work_jax.build
    api = importlib.import_module("torch" if contestant == "torch" else "tinygrad_norm")
    api.set_num_threads(1 if contestant == "serial" else threads)
    return lambda kind, arguments: work.build(api, kind, arguments)


def main(contestant: str, threads: int) -> None:
    """Serves on the standard streams; what anybody prints goes to the error stream instead."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(_builder(contestant, threads), sys.stdin.buffer, sink)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
