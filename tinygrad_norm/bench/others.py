"""How much of the machine others used meanwhile: the figures of a machine that is shared are not to be believed.

Where another process holds a core, a thread pool waits at its barriers for whole slices of the scheduler: torch's LayerNorm of (32, 64),
10 µs on a quiet machine, was seen to take 8 ms, and the ratio would have been 1300 instead of 1.3. So every figure says what share others had.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["MOST", "Others"]

MOST = 0.1  # of a core, on average: more, and a figure counts as disturbed


class Others:
    """The processor time that is neither this process's, its children's, nor that of the processes named, from here on.

    Args:
        pids: the contestants' processes.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._start = self._now()

    def share(self) -> float | None:
        """Cores that others used on average, the time that a virtual machine was not run included; None where the system does not say."""
        if self._start is None:
            return None
        now = self._now()
        if now is None:
            return None
        wall, used = (after - before for after, before in zip(now, self._start))
        return max(0.0, used / wall) if wall > 0.05 else None  # the system counts in hundredths of a second

    def _now(self) -> tuple[float, float] | None:
        """The clock, and the seconds that others have used so far."""
        try:
            tick = os.sysconf("SC_CLK_TCK")
            wanted = {f"cpu{n}" for n in os.sched_getaffinity(0)}
            busy = 0
            with open("/proc/stat") as lines:
                for name, *counts in map(str.split, lines):
                    if name in wanted:
                        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, counts[:8])
                        busy += user + nice + system + irq + softirq + steal
        except (OSError, AttributeError, ValueError):
            return None
        own = sum(os.times()[:4])
        for pid in self._pids:
            with suppress(OSError), open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
                own += (int(fields[11]) + int(fields[12])) / tick
        return time.monotonic(), busy / tick - own
