"""Starting the worker, locked in as well as this machine can: bubblewrap, else Landlock, else a plain process with limits.

    bubblewrap   namespaces of its own: no network, no other processes, a file system with Python and NumPy in it and nothing to write to
    landlock     the worker's own promise to the kernel to open no other file; system calls for processes, sockets and signals refused
    plain        limits on time, memory and files, and what the machine has of the refused system calls: a self-check, no official grade

Which of them works is found out by use: a worker is started and tries to read, write, connect and import what it must not (`ESCAPES`).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .worker import decode, encode

__all__ = ["MODES", "Limits", "Worker", "WorkerError", "best_mode", "works"]

MODES = ("bubblewrap", "landlock", "plain")
PATIENCE = 6  # times its limit may go by on the clock while a worker gets no processor: on a busy machine nobody is failed for waiting


class Limits(NamedTuple):
    """What a worker may use: bytes of memory, seconds for one call, processor seconds in all, bytes in one reply, threads."""

    memory: int = 1 << 30
    call: float = 10.0
    processor: int = 120
    reply: int = 64 << 20
    threads: int = 1


class WorkerError(RuntimeError):
    """The worker cannot go on; `cause` is a sentence for the report."""

    def __init__(self, cause: str, kind: str = "died") -> None:
        super().__init__(cause)
        self.cause, self.kind = cause, kind


# -- 1. What the worker may see -----------------------------------------------------------------------------------------------------------


@cache
def _library_folder(packages: tuple[str, ...]) -> str:
    """A folder with links to these packages and the shared libraries they bring, and to nothing else of site-packages."""
    folder = Path(tempfile.mkdtemp(prefix="tinygrad_norm_"))
    for name in (*packages, *(("llvmlite",) if "numba" in packages else ())):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(f"the worker needs {name}, which is not installed: pip install {name}")
        place = Path(spec.submodule_search_locations[0]).resolve()
        (folder / name).symlink_to(place)
        libraries = place.parent / f"{name}.libs"
        if libraries.exists():
            (folder / libraries.name).symlink_to(libraries)
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)


@cache
def _standard_library() -> tuple[str, ...]:
    """The standard library's files and folders, without the packages that are installed among them."""
    found = []
    for place in {sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["platstdlib"]}:
        found += [str(p) for p in Path(place).iterdir() if p.name not in ("site-packages", "dist-packages", "config")]
    return tuple(sorted(found))


def _linked(folder: str) -> list[str]:
    return [str(p.resolve()) for p in Path(folder).iterdir()]


@cache
def _bubblewrap(folder: str) -> tuple[str, ...]:
    program = shutil.which("bwrap")
    if program is None:
        raise WorkerError("there is no bwrap")
    prefix = str(Path(sys.base_prefix).resolve())
    command = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL", "--hostname", "worker"]
    for place in ("/usr", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache"):
        command += ["--ro-bind-try", place, place]
    if not prefix.startswith("/usr"):
        command += ["--ro-bind", prefix, prefix]
    hidden = {p for root in ("/usr", "/usr/local", prefix) for kind in ("site", "dist") for p in Path(root).glob(f"lib*/python3*/{kind}-packages")}
    hidden |= {Path(p).resolve() for p in sys.path if p.endswith(("site-packages", "dist-packages"))} | {Path(__file__).resolve().parents[1]}
    for place in sorted(map(str, hidden)):
        if place.startswith(("/usr/", "/lib", prefix + "/")) and os.path.isdir(place):
            command += ["--tmpfs", place]
    command += ["--dev", "/dev", "--tmpfs", "/packages"]
    for link in Path(folder).iterdir():
        command += ["--ro-bind", str(link.resolve()), f"/packages/{link.name}"]
    command += ["--ro-bind", str(Path(__file__).with_name("worker.py")), "/worker.py"]
    for place in ("/packages", "/dev/shm", "/dev"):
        command += ["--remount-ro", place] if place != "/dev/shm" else ["--tmpfs", place, "--remount-ro", place]
    return (*command, "--remount-ro", "/", "--chdir", "/")


# -- 2. A worker --------------------------------------------------------------------------------------------------------------------------


class Worker:
    """One process with one submission in it.

    Args:
        mode: one of `MODES`.
        limits: what it may use.
        packages: what it may import beside the standard library.
        lend: answers what a borrowed function asks, within so many seconds: {"asks": its name, "args", "named"} to {"result"} or {"error"}.
    Raises:
        ValueError: another mode.
        ImportError: a package is not installed.
        WorkerError: it does not start.

    Example:
        >>> with Worker("plain") as worker:
        ...     worker.load(["def f(x): return 2 * x"])["functions"][-1], worker.call("f", [21])["result"]
        ('f', 42)
    """

    def __init__(
        self,
        mode: str,
        limits: Limits | None = None,
        packages: tuple[str, ...] = ("numpy",),
        lend: Callable[[dict[str, Any], float], dict[str, Any]] | None = None,
    ) -> None:
        self.mode, self.limits, self.lend = mode, limits or Limits(), lend
        self._call = (0.0, 0.0, 0.0)  # of the call that is waited for: when it began, the processor time then, its seconds
        if mode not in MODES:
            raise ValueError(f"Worker: mode is {', '.join(MODES)}; got {mode!r}")
        if os.name != "posix":
            raise WorkerError("a worker needs Linux or macOS; check(function) in a notebook works here as well")
        folder = _library_folder(packages)
        python = os.path.realpath(sys.executable)
        run = [python, "-I", "-S", "-B", "/worker.py" if mode == "bubblewrap" else str(Path(__file__).with_name("worker.py"))]
        command = [*_bubblewrap(folder), *run] if mode == "bubblewrap" else run
        threads = str(self.limits.threads)
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "LC_ALL": "C.UTF-8", "HOME": "/", "PATH": ""}
        if mode == "bubblewrap":
            at = command.index("--chdir")
            command[at:at] = [word for k, v in environment.items() for word in ("--setenv", k, v)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd="/", start_new_session=True, bufsize=0
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        os.set_blocking(self.process.stdin.fileno(), False)
        os.set_blocking(self.process.stdout.fileno(), False)
        inside = ["/packages"] if mode == "bubblewrap" else [folder]
        settings = {
            "libraries": inside, "imports": [p for p in packages if p != "numpy"], "memory": self.limits.memory, "seconds": self.limits.processor,
            "threads": self.limits.threads, "leave_root": mode != "bubblewrap",
            "landlock": [*_standard_library(), folder, *_linked(folder)] if mode == "landlock" else [],
        }  # fmt: skip
        try:
            self._write(json.dumps(settings).encode(), time.monotonic() + 30)
            self.applied = self._answer(time.monotonic() + 30)["ready"]
        except (WorkerError, KeyError, TypeError) as error:
            said = self.stop()
            raise WorkerError(f"the worker does not start ({mode}): {said or error}") from error

    def load(self, cells: list[str], first: int = 1, whole: bool = True, seconds: float | None = None) -> dict[str, Any]:
        """Runs cells, or the definitions in them.

        Args:
            cells: their code. first: number of the first one. whole: with the calls and loops that stand there.
        Returns:
            {"functions": the names of all that are there now, "errors": in these cells, "printed"}.
        """
        return self._ask({"do": "load", "cells": cells, "first": first, "whole": whole}, seconds)

    def borrow(self, names: list[str]) -> None:
        """Puts functions into the place of the student's, of which each call is answered by `lend`."""
        self._ask({"do": "borrow", "names": names})

    def call(self, name: str, args: list[Any], seconds: float | None = None) -> dict[str, Any]:
        """Calls a function.

        Returns:
            {"result", "inputs" as they are after it, "printed"} or {"error", "printed"}; and as seen from here how long it took:
            "seconds" on the clock, "spent" on the processor.
        """
        return self._ask({"do": "call", "name": name, "args": args}, seconds)

    def race(self, name: str, args: list[Any], repeat: int, seed: int, seconds: float | None = None) -> dict[str, Any]:
        """Calls a function again and again, on numbers drawn from these arguments and a seed; "result" has `projected` results, all of them."""
        return self._ask({"do": "race", "name": name, "args": args, "repeat": repeat, "seed": seed}, seconds)

    def _ask(self, message: dict[str, Any], seconds: float | None = None) -> dict[str, Any]:
        seconds = self.limits.call if seconds is None else seconds
        start, used = time.monotonic(), (self.processor_time() or (0.0, ""))[0]
        deadline, self._call = start + seconds, (start, used, seconds)
        self._write(encode(message), deadline)
        answer = self._answer(deadline)
        while self.lend is not None and isinstance(answer, dict) and "asks" in answer:
            self._write(encode(self.lend(answer, deadline - time.monotonic())), deadline)
            answer = self._answer(deadline)
        if not isinstance(answer, dict):
            self.stop()
            raise WorkerError("the reply is not an answer", "forged")
        answer["seconds"] = time.monotonic() - start
        now = self.processor_time()
        answer["spent"] = answer["seconds"] if now is None else now[0] - used
        return answer

    def _write(self, data: bytes, deadline: float) -> None:
        assert self.process.stdin is not None
        pipe, data = self.process.stdin.fileno(), struct.pack(">Q", len(data)) + data
        view = memoryview(data)
        while view:
            self._wait(pipe, selectors.EVENT_WRITE, deadline)
            try:
                view = view[os.write(pipe, view[: 1 << 20]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._death() from error

    def _answer(self, deadline: float) -> Any:
        (length,) = struct.unpack(">Q", self._read(8, deadline))
        if length > self.limits.reply:
            self.stop()
            raise WorkerError(f"the reply is too long: {length} bytes; at most {self.limits.reply}", "reply")
        data = self._read(length, deadline)
        try:
            return decode(data)
        except ValueError as error:
            self.stop()
            raise WorkerError(f"the reply cannot be read: {error}", "forged") from error

    def _read(self, n: int, deadline: float) -> bytes:
        assert self.process.stdout is not None
        pipe, got = self.process.stdout.fileno(), bytearray()
        while len(got) < n:
            self._wait(pipe, selectors.EVENT_READ, deadline)
            try:
                part = os.read(pipe, min(n - len(got), 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise self._death()
            got += part
        return bytes(got)

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(pipe, event)
            if ready.select(max(deadline - time.monotonic(), 0)):
                return
            while self._starved():
                if ready.select(0.1):
                    return
        self.stop()
        raise WorkerError("it did not come back in time and was stopped", "time")

    def _starved(self) -> bool:
        """Whether the call's time went by because the machine is busy: the worker wants to run and has not run for as long as it may."""
        start, used, seconds = self._call
        now = self.processor_time()
        return now is not None and time.monotonic() < start + PATIENCE * seconds and now[1] == "R" and now[0] - used < 0.8 * seconds

    def processor_time(self) -> tuple[float, str] | None:
        """Seconds that the worker has run for, and its state (R: running or waiting to run); None where the system does not say."""
        pid = str(self.process.pid)
        try:
            while self.mode == "bubblewrap" and (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
                pid = children[-1]
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0]
        except (OSError, ValueError, IndexError):
            return None

    def _death(self) -> WorkerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        code = self.process.poll()
        said = self.stop()
        if code is None:
            return WorkerError("it closed the channel to the grader and was stopped", "exit")
        number = -code if code < 0 else code - 128 if code > 128 else 0  # bubblewrap says 128 + signal
        if number:
            name = signal.Signals(number).name if number in [int(s) for s in signal.Signals] else str(number)
            return WorkerError(f"its process was killed by {name}{': the processor time was used up' if name == 'SIGXCPU' else ''}", "killed")
        return WorkerError(f"it ended its process (exit code {code}) instead of returning{': ' + said if said else ''}", "exit")

    def stop(self) -> str:
        """Kills the process and all it has started; returns the end of what it wrote to stderr before it was locked in."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        said = b""
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None and not pipe.closed:
                if pipe is self.process.stderr:
                    os.set_blocking(pipe.fileno(), False)
                    with contextlib.suppress(BlockingIOError):
                        said = os.read(pipe.fileno(), 4096)
                pipe.close()
        return said.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()


# -- 3. Tried by use ------------------------------------------------------------------------------------------------------------------------

# Each returns True where it got out. {grader} is a file of this package, {file} one of the grader's user, {folder} a folder that he may
# write to, {pid} his process.
ESCAPES = """
import os, sys
def reads():
    return bool(open({file!r}).read())
def cheats():
    return bool(open({grader!r}).read())
def writes():
    open({folder!r} + '/escaped', 'w').close()
    return True
def connects():
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))
    return True
def forks():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return True
def runs():
    return os.system('true') == 0
def signals():
    os.kill({pid}, 0)
    return True
def imports():
    sys.path[:0] = {site!r}
    import {module}
    return True
"""


@cache
def works(mode: str) -> tuple[bool, str]:
    """Whether a worker of this mode starts, computes, and fails at every one of `ESCAPES`; and if not, why."""
    site = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)  # another user must be stopped by the sandbox, not by this folder's rights
        bait = Path(folder, "bait")
        bait.write_text("what the grader knows")
        source = ESCAPES.format(file=str(bait), grader=__file__, folder=folder, pid=os.getpid(), site=[folder, *site], module="bait_module")
        Path(folder, "bait_module.py").write_text("")
        try:
            with Worker(mode) as worker:
                worker.load([source, "import numpy as np\ndef f(n):\n    return (np.eye(n) @ np.eye(n)).sum()"])
                if worker.call("f", [3])["result"] != 3.0:
                    return False, "NumPy does not compute there"
                if mode == "plain":
                    return True, ""
                tried = ("reads", "cheats", "writes", "connects", "runs", "signals", "imports")
                out = [name for name in tried if worker.call(name, []).get("result") is True]
                if not worker.applied.get("seccomp") and mode == "landlock":
                    out.append("forks")
        except (WorkerError, OSError, ImportError) as error:
            return False, str(error)
    return not out, f"code in it {', '.join(out)}" if out else ""


@cache
def best_mode() -> tuple[str, tuple[str, ...]]:
    """The first of `MODES` that works here, and why those before it do not."""
    reasons: list[str] = []
    for mode in MODES:
        good, why = works(mode)
        if good:
            return mode, tuple(reasons)
        reasons.append(f"{mode}: {why}")
    raise WorkerError("no worker starts here: " + "; ".join(reasons))
