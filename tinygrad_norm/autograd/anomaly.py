"""Where in the forward a NaN of the backward comes from.

√x at 0 has the derivative ∞, and 0·∞ is NaN: the forward looks well, and some steps later every weight is NaN. `detect_anomaly` stops the
walk at the first op whose backward returns one, and shows the lines of the program that had called this op.

Switched on, it takes a note of the callers of every op that is recorded (about 5 µs each) and looks at every gradient. Switched off it costs
nothing of its own: an op, and the walk, ask for all that is rare in one question.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from types import FrameType
from typing import Any

import numpy as np

from ..function import Function, observers
from ..tensor import Tensor
from ..walk import examiners

__all__ = ["detect_anomaly"]

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
DEEPEST = 8  # lines of the program that are shown, the innermost ones

_lock = threading.Lock()
_inside = [0]  # how many detect_anomaly are open, in all threads


class detect_anomaly:  # noqa: N801  torch's name
    """Context manager: a backward that returns NaN raises, and names the op and the line of the forward that called it.

    Ops recorded before it was entered are named without their line. It acts in all threads, as torch's.

    Raises:
        RuntimeError: at the first op of a backward inside whose gradient has a NaN.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.zeros(2, requires_grad=True)
        >>> with tg.autograd.detect_anomaly():
        ...     y = (x * 0.0).sqrt().sum() * 0.0
        ...     y.backward()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        RuntimeError: Function 'SqrtBackward0' returned nan values in its 0th output: 2 of the 2 elements of the gradient for input 0, ...
    """

    def __enter__(self) -> None:
        with _lock:
            _inside[0] += 1
            if _inside[0] == 1:
                observers.append(_note_callers)
                examiners.append(_refuse_nan)

    def __exit__(self, *exc: object) -> None:
        with _lock:
            _inside[0] -= 1
            if _inside[0] == 0:
                observers.remove(_note_callers)
                examiners.remove(_refuse_nan)


def _note_callers(node: Function, outs: Any, args: Any) -> None:
    node._callers = _callers()  # type: ignore[attr-defined]


def _callers() -> list[tuple[str, int, str]]:
    """File, line and function of the program's own frames, the innermost first; this package's frames only where there are no others."""
    own: list[tuple[str, int, str]] = []
    others: list[tuple[str, int, str]] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and len(others) < DEEPEST:
        place = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        (own if place[0].startswith(PACKAGE) else others).append(place)
        frame = frame.f_back
    return others or own[:DEEPEST]


def _refuse_nan(node: Function, results: Any) -> None:
    for i, g in enumerate(results if isinstance(results, (tuple, list)) else (results,)):
        array = g._data if isinstance(g, Tensor) else np.asarray(g)
        if g is None or array.dtype.kind != "f":
            continue
        wrong = np.isnan(array)
        if wrong.any():
            where = "" if not wrong.ndim else f", the first at {tuple(int(n[0]) for n in wrong.nonzero())}"
            raise RuntimeError(
                f"Function '{node.name}' returned nan values in its {i}th output: {wrong.sum()} of the {wrong.size} elements of the gradient "
                f"for input {i}, of shape {list(array.shape)}{where}. {_told(node)}"
            )


def _told(node: Function) -> str:
    callers = getattr(node, "_callers", None)
    if callers is None:
        return "The op was recorded before detect_anomaly was entered: run the forward inside as well, to be told its line."
    lines = []
    for file, line, function in reversed(callers):
        lines.append(f'  File "{file}", line {line}, in {function}')
        source = linecache.getline(file, line).strip()
        if source:
            lines.append(f"    {source}")
    return "\n".join(["The forward called it here (most recent call last):", *lines])
