"""NumPy without its warnings: infinity and NaN are answers here, as in torch.

NumPy keeps what it does about them in a context variable. `np.errstate` makes a new value of that variable each time, which takes a
microsecond; here it is made once.
"""

from __future__ import annotations

import contextvars
import threading

import numpy as np

__all__ = ["ERROR_STATE", "SILENT", "quiet"]

_context = contextvars.Context()
_context.run(np.seterr, all="ignore")
((ERROR_STATE, SILENT),) = _context.items()  # NumPy's variable, and its value that ignores all


class _Quiet(threading.local):
    """`quiet.run(np.add, a, b)` is np.add(a, b) without warnings."""

    def __init__(self) -> None:
        context = contextvars.Context()  # one for each thread: no two can be inside of one at a time
        context.run(ERROR_STATE.set, SILENT)
        self.run = context.run


quiet = _Quiet()
