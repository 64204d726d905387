"""Kernels: one loop nest in Python, compiled by numba serially and in parallel, beside the NumPy reference that says what it computes.

    @kernel(reference=scale_reference)
    def scale(x, factor, y):                # fills y; the reference has the same arguments and fills y too
        for i in prange(len(x)):
            y[i] = factor * x[i]

    scale[x.size](x, factor, y)             # in brackets the amount of work: elements touched

Which of the three runs: the reference with the "numpy" backend (or where numba cannot be imported); the serial kernel for less than
256k elements of work, where waking a second thread takes as long as it saves; the parallel kernel above. `prange` is Python's range until
numba reads it.

Why it is set up as it is (measured on two cores):

* **Threads that spin.** After a parallel region libgomp's workers spin for milliseconds, and the next matmul's threads wait for a core:
  a matmul followed by a kernel took 8 ms instead of 0.6. With GOMP_SPINCOUNT=1000 they sleep after microseconds. (From 100 to
  10,000 a step of a 784-512-512-10 MLP at batch 1024 takes the longer the more they spin; below 1000 LayerNorm alone at (256, 1024)
  takes twice as long.) libgomp reads the variable once, when it is loaded; so where another library has loaded it before us, we take
  numba's workqueue layer, whose threads always sleep (a dispatch costs 50 µs there, so only larger work goes parallel).
* **Threads on one core.** On a virtual machine Linux takes a core that has just gone idle for one that is not there, and wakes a sleeping
  worker on the core of the thread that wakes it. There the two take turns, for minutes, and two threads take as long as one: LayerNorm forward and
  backward at (65536, 64) 3.3 ms, and 1.75 apart. So before each parallel call libgomp's workers are told to keep off the core that we are on.
* **Threads and forks.** omp kills a forked child that uses it, and workqueue aborts when two threads call at once. So one lock stands
  around every parallel call, and a forked child is serial.
* **fastmath** in full makes isnan false. reassoc, contract and nsz give its whole speed and keep NaN and infinity. Not arcp (a/b may be a·(1/b)):
  with it 1/√x in float32 becomes the processor's own estimate, bettered once. On an Intel that was off by 2.4e-7, another number than
  on an AMD. Without it nothing is lost but two roundings, 1.2e-7 at most, on all processors the same.
* **Freed memory.** glibc gives a freed array of some MB back to the system, and the next one of its size is faulted in page by page, which
  takes longer than the kernel that fills it: LayerNorm forward and backward at (4096, 768) took 4.7 ms, 1.5 with the memory kept. So
  with the kernels on, blocks below 1 GiB stay with the process; who sets MALLOC_TRIM_THRESHOLD_ or its like keeps that.
* **Parallel regions.** Each costs 1 to 6 µs while the threads are awake, and 21 to wake them once they sleep, 20 to 50 µs after the last
  one: what Python takes between two kernels may count twice. numba makes a region of every prange, and of every np.zeros or np.ones in
  a parallel kernel as well. So memory comes from np.empty, and the loops that need zeros write them.
* **Compiling** takes 0.1 to 1 s a kernel, and up to 3 where it is parallel, so each is compiled at its first call, for the types it meets, and
  cached on disk.
* **The same bits.** Partial sums stand in chunks and are added in order, so a kernel gives the same bits on every run with the same number of
  threads. What numba runs just after it has compiled a parallel kernel is not what it stores, and sums differ in the last bit: so each is
  compiled in a workshop, and every process, the one that compiled it too, runs what was stored.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
import types
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

try:
    import fcntl
except ImportError:  # not POSIX: no locks between processes there
    fcntl = None  # type: ignore[assignment]

__all__ = ["APART", "Device", "Kernel", "chunks", "device", "get_backend", "get_num_threads", "kernel", "prange", "ready", "set_backend", "set_num_threads"]

FASTMATH = {"reassoc", "contract", "nsz"}
APART = 64  # elements left free between what two threads write to, so that they share no cache line
BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # of helpers: nobody but a kernel calls them
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
T = TypeVar("T", bound=Callable[..., Any])
prange = range  # numba's own is put in its place when a kernel is compiled


class _Told(threading.local):
    """What one of Python's threads has told numba, and libgomp's workers, which each of them has for itself."""

    threads = 0
    workers: tuple[int, ...] = ()  # the numbers of these
    cpu = -1  # which core they were last told to keep off: the one that this thread ran on


_told = _Told()
_serial_below = -1  # less work than this is the serial kernel's without another question; set with the backend
_lock = threading.RLock()  # one parallel region at a time, in any thread
_compile_lock = threading.RLock()
_state: dict[str, Any] = {"numba": None, "backend": None, "threads": None, "forked": False, "parallel_from": 1 << 18, "announced": False, "workshop": None}


def _after_fork() -> None:
    global _lock, _compile_lock
    _lock, _compile_lock = threading.RLock(), threading.RLock()  # another thread may have held them
    _state["forked"] = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- Switches ----------------------------------------------------------------------------------------------------------------------


def get_backend() -> str:
    """Which implementation runs: "numba" (the kernels) or "numpy" (their references)."""
    if _state["backend"] is None:
        set_backend("numpy" if os.environ.get("TINYGRAD_NORM_NUMBA", "1") == "0" else "numba")
    return _state["backend"]  # type: ignore[no-any-return]


def set_backend(name: str) -> None:
    """Chooses the kernels ("numba") or their NumPy references ("numpy") from here on; TINYGRAD_NORM_NUMBA=0 chooses the latter at start.

    Raises:
        ValueError: another name.

    Example:
        >>> import tinygrad_norm as tg
        >>> before = tg.get_backend()
        >>> tg.set_backend("numpy"); tg.get_backend()
        'numpy'
        >>> tg.set_backend(before)
    """
    global _serial_below
    if name not in ("numba", "numpy"):
        raise ValueError(f"backend must be 'numba' or 'numpy'; got {name!r}")
    if name == "numba" and _numba() is None:
        print("tinygrad_norm: numba cannot be imported here; the NumPy references run instead (slower, the same numbers)", file=sys.stderr)
        name = "numpy"
    _state["backend"] = name
    _serial_below = _state["parallel_from"] if name == "numba" else -1


def available_threads() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunks(work: int) -> int:
    """Into how many parts a kernel that sums by parts should divide that much work: one where it runs serially."""
    return 1 if work < _serial_below else get_num_threads()


def get_num_threads() -> int:
    """How many threads a large kernel uses."""
    if _state["threads"] is None:
        _state["threads"] = max(1, min(available_threads(), int(os.environ.get("NUMBA_NUM_THREADS") or 1 << 30)))
    return _state["threads"]  # type: ignore[no-any-return]


def set_num_threads(n: int) -> None:
    """Lets large kernels use n threads; 1 makes everything serial.

    Raises:
        TypeError, ValueError: n is not an integer, less than one, or more than numba was started with.
    """
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"set_num_threads takes an integer; got {type(n).__name__}")
    most = max(available_threads(), get_num_threads())
    if not 1 <= n <= most:
        raise ValueError(f"set_num_threads: n must be between 1 and {most}, the cores of this process; got {n}")
    _state["threads"] = int(n)


# -- Two threads, two cores --------------------------------------------------------------------------------------------------------


def _core_finder() -> Callable[[], int] | None:
    """What tells the core this thread runs on, in 0.1 µs; None where threads cannot be sent to others, or the user has said where they belong."""
    if not hasattr(os, "sched_setaffinity") or any(name in os.environ for name in ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")):
        return None
    return getattr(ctypes.PyDLL(None), "sched_getcpu", None)


_core = _core_finder()


def _tasks() -> set[int]:
    """The numbers of this process' threads, without Python's own."""
    try:
        return {int(name) for name in os.listdir("/proc/self/task")} - {t.native_id or 0 for t in threading.enumerate()}
    except OSError:
        return set()


def _keep_off_this_core(workers: tuple[int, ...]) -> None:
    """Tells libgomp's workers to run on any core but the one that this thread is on, where that is another than before."""
    assert _core is not None
    cpu = _core()
    if cpu != _told.cpu:
        _told.cpu = cpu
        others = os.sched_getaffinity(0) - {cpu}
        if others:
            try:
                for worker in workers:
                    os.sched_setaffinity(worker, others)
            except OSError:  # it has ended, or we may not
                _told.workers = ()


# -- Compiling ---------------------------------------------------------------------------------------------------------------------


def _numba() -> Any:
    """The numba module, imported at the first kernel call; None where it is not to be had."""
    if _state["numba"] is None:
        with _compile_lock:
            if _state["numba"] is None:
                gomp_is_ours = not _libgomp_is_loaded()
                if gomp_is_ours:
                    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
                try:
                    import numba
                except ImportError:
                    _state["numba"] = False
                else:
                    if not gomp_is_ours and "NUMBA_THREADING_LAYER" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
                        numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]
                        _state["parallel_from"] = 1 << 19
                    # Without /dev/shm numba has no lock between processes; ours are serial after a fork, and spawned ones share nothing.
                    warnings.filterwarnings("ignore", r"\s*Could not obtain multiprocessing lock")
                    _keep_freed_memory()
                    _state["numba"] = numba
    return _state["numba"] or None


def _keep_freed_memory() -> None:
    """Has glibc's malloc use freed blocks again instead of returning them; nothing happens with another C library."""
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        mallopt(parameter, 1 << 30)


def _libgomp_is_loaded() -> bool:
    """Whether libgomp is in the process and has read its settings already."""
    try:
        with open("/proc/self/maps") as maps:
            return any("libgomp.so" in line for line in maps)
    except OSError:
        return False  # not Linux: no libgomp either


class Device:
    """A helper that kernels call: plain Python until a kernel that uses it is compiled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.compiled: Any = None
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def device(function: Callable[..., Any]) -> Device:
    """Marks a function for use inside kernels. LLVM inlines it there, but computes it as written: reassociation would undo x + c − c."""
    return Device(function)


def _compile(function: Callable[..., Any], *, parallel: bool, fastmath: set[str], cached: bool = True, **options: Any) -> Any:
    """numba's njit of the function with the names in it (prange, devices) as numba wants them."""
    numba = _numba()
    names = dict(function.__globals__)  # type: ignore[attr-defined]
    names["prange"] = numba.prange
    suffix = "." + "-".join(sorted(fastmath))
    for used in function.__code__.co_names:  # type: ignore[attr-defined]
        if isinstance(names.get(used), Device):
            helper = names[used]
            suffix += f".{_fingerprint(helper.function):x}"
            if helper.compiled is None:
                helper.compiled = _compile(helper.function, parallel=False, fastmath=FASTMATH - {"reassoc"}, cached=False, **BARE)
            names[used] = helper.compiled
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)  # type: ignore[attr-defined]
    # The cache knows a kernel by its name and its own file's time: what stands in other files, the flags and what it calls, goes into the name.
    copy.__qualname__ = function.__qualname__ + (".parallel" if parallel else "") + suffix
    copy.__module__ = function.__module__
    options = {"fastmath": fastmath, "error_model": "numpy", "parallel": parallel, "nogil": parallel, "no_cfunc_wrapper": True, **options}
    if cached:
        try:
            return _with_one_cache(numba.njit(cache=True, **options)(copy), numba.njit(cache=True, **options)(copy) if parallel else None)
        except RuntimeError:  # nowhere to write: neither beside the package nor in the home folder
            pass
    return numba.njit(**options)(copy)


def _with_one_cache(dispatcher: Any, maker: Any) -> Any:
    """The dispatcher, which one process at a time asks for a new type: the others wait, and then load what it has compiled.

    numba has no lock there: processes that start together would all compile the same kernels. And two that compile a kernel for two types
    at once may choose the same file, and a later one would run code for the wrong type.

    A parallel kernel has a maker, a second dispatcher that compiles and stores it, so that every process runs what was stored.
    """
    cache = getattr(dispatcher, "_cache", None)
    if cache is None:  # NUMBA_DISABLE_JIT: a plain function
        return dispatcher
    load, inner, path = cache.load_overload, dispatcher.compile, os.path.join(cache.cache_path, f"{dispatcher.py_func.__qualname__}.lock")

    def load_what_is_made(signature: Any, context: Any) -> Any:
        found = load(signature, context)
        if found is None:
            with _workshop(context):
                maker.compile(signature)
            found = load(signature, context)
        return found

    def alone(signature: Any) -> Any:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a folder that is not there yet, or a file system without locks
                file = stack.enter_context(open(path, "w"))
                fcntl.flock(file, fcntl.LOCK_EX)
                stack.callback(fcntl.flock, file, fcntl.LOCK_UN)  # said, because a child forked meanwhile has the file open too
            if gc.isenabled():  # the garbage collector would go through all that numba builds, over and over: a twentieth of the time
                gc.disable()
                stack.callback(gc.enable)
            return inner(signature)  # from the cache, where it is there by now

    if maker is not None:
        cache.load_overload = load_what_is_made
    if fcntl is not None:
        dispatcher.compile = alone
    return dispatcher


@contextlib.contextmanager
def _workshop(context: Any) -> Iterator[None]:
    """Has numba compile in an LLVM engine of its own.

    numba optimizes the body of a parallel loop, hands it to the engine, and then optimizes and stores the whole kernel with the body in it.
    The engine knows the body by its name and goes on running the first one: only an engine that never saw that runs what was stored.
    """
    ours = context.codegen()
    if _state["workshop"] is None:
        _state["workshop"] = type(ours)("tinygrad_norm")
    context._internal_codegen = _state["workshop"]  # numba has no public way; nobody else compiles meanwhile, its compiler lock is ours
    try:
        yield
    finally:
        context._internal_codegen = ours


def _fingerprint(function: Callable[..., Any]) -> int:
    """A number that changes when the code of a helper, its constants, or a helper that it calls does."""
    code, names = function.__code__, function.__globals__  # type: ignore[attr-defined]
    used = [names.get(name) for name in code.co_names]
    parts = [_fingerprint(v.function) if isinstance(v, Device) else v for v in used if isinstance(v, (Device, int, float, np.generic))]
    return zlib.crc32(repr((code.co_code, code.co_consts, parts)).encode())


def _announce(dispatcher: Any) -> None:
    """One line, once, before the first compilation that no cache spares."""
    if not _state["announced"]:
        _state["announced"] = True
        path = getattr(getattr(dispatcher, "_cache", None), "cache_path", None)
        if path is None or not os.path.isdir(path) or not any(name.endswith(".nbi") for name in os.listdir(path)):
            print("tinygrad_norm: compiling kernels with numba (once for this installation) ...", file=sys.stderr, flush=True)


class Kernel:
    """A loop nest compiled serially or in parallel, and the NumPy reference with the same arguments and results.

    Attributes:
        reference: the NumPy function.
        function: the loop nest as Python.
    """

    def __init__(self, function: Callable[..., Any], reference: Callable[..., Any]) -> None:
        self.function = function
        self.reference = reference
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        self._serial: Any = None
        self._parallel: Any = None

    def __repr__(self) -> str:
        return f"<kernel {self.__name__}, reference {self.reference.__name__}>"

    def serial(self, *args: Any) -> Any:
        """Runs the serial kernel."""
        if self._serial is None:
            with _compile_lock:
                if self._serial is None:
                    self._serial = _compile(self.function, parallel=False, fastmath=FASTMATH)
                    _announce(self._serial)
        return self._serial(*args)

    def parallel(self, *args: Any) -> Any:
        """Runs the parallel kernel, after any other that is running."""
        with _lock:
            if self._parallel is None:
                with _compile_lock:
                    self._parallel = _compile(self.function, parallel=True, fastmath=FASTMATH)
                    _announce(self._parallel)
            if _told.threads != get_num_threads():  # numba keeps the number for each of Python's threads; to tell it takes a microsecond
                return self._first_parallel(args)
            if _told.workers:
                _keep_off_this_core(_told.workers)
            return self._parallel(*args)

    def _first_parallel(self, args: tuple[Any, ...]) -> Any:
        """With this number of threads, from this one of Python's: libgomp starts its workers."""
        before, threads = _tasks(), get_num_threads()
        _numba().set_num_threads(threads)
        result = self._parallel(*args)
        _told.threads, _told.cpu = threads, -1
        if _core is not None and _numba().threading_layer() == "omp":
            _told.workers = (*_told.workers, *(_tasks() - before))  # a thread of another library that began meanwhile comes to no harm
        return result

    def referred(self, *args: Any) -> Any:
        """Runs the reference, in which infinity and NaN are results like others, as in a kernel."""
        with np.errstate(all="ignore"):
            return self.reference(*args)

    def __getitem__(self, work: int) -> Callable[..., Any]:
        """Which of the three runs for that much work; calling it through brackets, as numba.cuda's kernels are, spares packing the arguments twice."""
        if work < _serial_below:
            return self._serial or self.serial
        if (_state["backend"] or get_backend()) == "numpy":
            return self.referred
        if work >= _state["parallel_from"] and not _state["forked"] and get_num_threads() > 1:
            return self.parallel
        return self.serial


def ready(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """x itself where kernels can take it (contiguous, aligned, writable: what they are compiled for), else a copy that they can."""
    return x if x.flags.carray else np.require(x, requirements=["C", "A", "W"])


def as_it_lies(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """x itself where kernels can take it, else a dense copy in the order of its memory, whose ravel("K") they can."""
    return x if x.flags.carray else np.positive(x)


KERNELS: list[Kernel] = []  # every kernel of the package, for the tests and the bench


def kernel(reference: Callable[..., Any]) -> Callable[[Callable[..., Any]], Kernel]:
    """Pairs the loop nest below it with `reference`, the NumPy function of the same arguments and results."""

    def pair(function: Callable[..., Any]) -> Kernel:
        made = Kernel(function, reference)
        KERNELS.append(made)
        return made

    return pair
