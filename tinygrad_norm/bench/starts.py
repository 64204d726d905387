"""What a user waits for before anything runs: importing the package, and `tinygrad-norm train` up to its first epoch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

__all__ = ["MEASURES", "cold", "imports", "warm"]

LIMIT = 120.0  # seconds


def _environment(bytecode: str, **more: str) -> dict[str, str]:
    """With bytecode written, as an installed package has it, whatever this shell's settings."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode, **more}


def imports(rounds: int) -> dict[str, list[float]]:
    """Seconds of whole processes that do nothing but import: NumPy, this package, nothing; in turns, after one that is not counted."""
    taken: dict[str, list[float]] = {"import numpy": [], "import tinygrad_norm": [], "pass": []}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(3 * rounds + 1):
            for code, found in taken.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=_environment(folder), timeout=LIMIT)
                if i:
                    found.append(time.perf_counter() - start)
    return taken


def _first_epoch(environment: dict[str, str]) -> float:
    """Seconds from the start of the command to the first line that it prints."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "tinygrad_norm", "train"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        watch = threading.Timer(LIMIT, process.kill)
        watch.start()
        try:
            line = process.stdout.readline()
            taken = time.perf_counter() - start
            process.stdout.read()
        except BaseException:
            process.kill()
            raise
        finally:
            watch.cancel()
    if process.returncode or not line.startswith(b"Epoch"):
        raise RuntimeError(f"`tinygrad-norm train` printed no epoch (exit code {process.returncode})")
    return taken


def cold(rounds: int) -> dict[str, list[float]]:
    """Seconds to the first epoch with an empty kernel cache: what the first run after an installation waits for."""
    taken = []
    with tempfile.TemporaryDirectory() as bytecode:
        imports_once = [sys.executable, "-c", "import tinygrad_norm, tinygrad_norm.cli, numba"]
        subprocess.run(imports_once, capture_output=True, env=_environment(bytecode), timeout=LIMIT)
        for _ in range(max(1, min(rounds // 2, 3))):
            with tempfile.TemporaryDirectory() as kernels:
                taken.append(_first_epoch(_environment(bytecode, NUMBA_CACHE_DIR=kernels)))
    return {"cold": taken}


def warm(rounds: int) -> dict[str, list[float]]:
    """The same with the kernels of an earlier run in the cache."""
    with tempfile.TemporaryDirectory() as bytecode, tempfile.TemporaryDirectory() as kernels:
        environment = _environment(bytecode, NUMBA_CACHE_DIR=kernels)
        _first_epoch(environment)
        return {"warm": [_first_epoch(environment) for _ in range(rounds)]}


MEASURES: dict[str, Callable[[int], dict[str, list[float]]]] = {"import": imports, "cold": cold, "warm": warm}
