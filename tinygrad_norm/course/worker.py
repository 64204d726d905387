"""The process that runs a student's code: it gets inputs and returns raw arrays, and knows nothing of what is expected.

It is started as a file, not as a part of the package, and imports the standard library and NumPy alone. The student's code shares this
process, so whatever it patches, forges or breaks here, it can only change the arrays that are sent back; they are judged elsewhere.

    frame       8 bytes: how long, then the message                                                                     (1)
    message     4 bytes: how long, then JSON with {"a": [dtype, shape, offset, order]} for each array, then their bytes        (2)

Before any of the student's code runs: limits (3), another user if this one is root (4), Landlock (5), a list of refused system calls (6).
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

DTYPES = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16")
LONGEST_HEAD = 8 << 20  # bytes of JSON; the student's source is the longest there is
IDLE = "no work at all"  # what a race calls to know what sending the inputs costs: no function of the student's
PRINTED = 4096  # how much of what a student prints is kept, in characters
PRELOADED = (
    "abc ast cmath collections.abc contextlib copy dataclasses enum fractions functools heapq inspect itertools json math numbers operator random re"
    " resource statistics string textwrap time traceback types typing warnings"
)
# What else students import; needed before root is left for a user who may not be able to read root's Python.
PRELOADED_BY_ROOT = (
    "array base64 bisect calendar codecs csv datetime decimal difflib gc glob hashlib io locale logging os.path pathlib pickle platform pprint"
    " queue secrets shutil signal socket struct subprocess sys tempfile threading timeit unittest uuid weakref zlib"
    " concurrent.futures multiprocessing.synchronize multiprocessing.util unicodedata"  # numba's, for its threads
)

# -- 1. Frames ----------------------------------------------------------------------------------------------------------------------------


def encode(message: Any) -> bytes:
    """A tree of dict, list, tuple, str, numbers, None and arrays as bytes (2).

    Raises:
        TypeError: anything else is in it; says what.

    Example:
        >>> decode(encode({"x": (1, None, "y")}))
        {'x': (1, None, 'y')}
    """
    parts: list[bytes] = []
    head = json.dumps(_pack(message, parts, [0], 0)).encode()
    return struct.pack(">I", len(head)) + head + b"".join(parts)


def _pack(value: Any, parts: list[bytes], size: list[int], depth: int) -> Any:
    import numpy as np

    if depth > 20:
        raise TypeError("what was returned is nested too deeply")
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return value
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise TypeError("what was returned has a whole number of more than 64 bits")
        return value
    if kind in (list, tuple):
        return {"l" if kind is list else "t": [_pack(v, parts, size, depth + 1) for v in value]}
    if kind is dict:
        return {"d": [[_pack(k, parts, size, depth + 1), _pack(v, parts, size, depth + 1)] for k, v in value.items()]}
    if isinstance(value, tuple):  # a named one
        return {"t": [_pack(v, parts, size, depth + 1) for v in tuple(value)]}
    array = np.asarray(value)
    if array.dtype.newbyteorder("<").str not in DTYPES:
        if array.dtype.kind != "f":
            raise TypeError(f"what was returned has a {type(value).__name__} in it, of dtype {array.dtype}; expected an array of numbers")
        array = array.astype("<f8")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"  # a transposed input arrives transposed
    data = array.tobytes(order)
    start, size[0] = size[0], size[0] + len(data)
    parts.append(data)
    return {"a": [array.dtype.str, list(array.shape), start, "number" if isinstance(value, np.generic) else order]}


def decode(data: bytes) -> Any:
    """The message in these bytes, whoever wrote them.

    Raises:
        ValueError: they are not a message.
    """
    try:
        (length,) = struct.unpack(">I", data[:4])
        if length > LONGEST_HEAD:
            raise ValueError("not a message: too much in it beside arrays")
        head = json.loads(data[4 : 4 + length])
        return _unpack(head, memoryview(data)[4 + length :], 0)
    except (struct.error, KeyError, TypeError, IndexError, RecursionError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        raise ValueError(f"not a message: {type(error).__name__}") from error


def _unpack(value: Any, data: memoryview, depth: int) -> Any:
    import numpy as np

    if depth > 24:
        raise ValueError("not a message: nested too deeply")
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise ValueError("not a message: a bare list")
        return value
    ((kind, inside),) = value.items()
    if kind == "a":
        dtype, shape, start, order = inside
        if dtype not in DTYPES or order not in ("C", "F", "number") or len(shape) > 16 or not all(type(n) is int and n >= 0 for n in [*shape, start]):
            raise ValueError("not a message: a false array")
        count = 1
        for n in shape:
            count *= n
        stop = start + count * np.dtype(dtype).itemsize
        if stop > len(data):
            raise ValueError("not a message: an array longer than its bytes")
        array = np.frombuffer(data[start:stop], dtype=dtype)
        return array.reshape(()).copy()[()] if order == "number" else array.reshape(shape, order=order).copy("K")
    if kind == "d":
        return {_unpack(k, data, depth + 1): _unpack(v, data, depth + 1) for k, v in inside}
    values = [_unpack(v, data, depth + 1) for v in inside]
    if kind not in ("l", "t"):
        raise ValueError("not a message: of no known kind")
    return values if kind == "l" else tuple(values)


def _read(stream: BinaryIO, n: int) -> bytes:
    data = stream.read(n)
    if len(data) != n:
        os._exit(0)  # the grader has gone
    return data


def _receive(stream: BinaryIO) -> Any:
    (length,) = struct.unpack(">Q", _read(stream, 8))  # (1)
    return decode(_read(stream, length))


def _send(stream: BinaryIO, data: bytes) -> None:
    stream.write(struct.pack(">Q", len(data)) + data)
    stream.flush()


# -- 2. Locked in -------------------------------------------------------------------------------------------------------------------------


def _limits(memory: int, seconds: int, threads: int) -> None:
    """(3): memory in bytes, processor time in seconds; no files of any length, no core files, few processes."""
    import resource

    # RLIMIT_NPROC counts the threads of the whole user, so it can only be set where this process needs no new one, or the user is its own.
    alone = os.getuid() >= PRIVATE_USERS or threads == 1
    for name, value in (
        ("AS", memory), ("CPU", seconds), ("FSIZE", 0), ("CORE", 0), ("NOFILE", 64), ("MEMLOCK", 0), ("MSGQUEUE", 0),
        *([("NPROC", threads + 1)] if alone else []),
    ):  # fmt: skip
        which = getattr(resource, "RLIMIT_" + name, None)
        if which is None:
            continue
        hard = resource.getrlimit(which)[1]
        new = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(which, (new, new))
        except (ValueError, OSError):  # macOS refuses some
            continue


PRIVATE_USERS = 1_000_000_000  # users that nobody is: one for each worker, so that none can reach another's processes


def _leave_root() -> bool:
    """(4): a root that grades (Gradescope's) gives each worker a user of its own."""
    user = PRIVATE_USERS + os.getpid()
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError:  # inside bubblewrap root is root of nothing
        return False
    return True


def landlock(paths: Iterable[str]) -> int:
    """(5): from here on only these paths can be opened, to be read; no TCP, no signals to others where the kernel knows how to refuse them.

    Returns:
        The version of Landlock in force; 0: this kernel has none.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    call: Callable[..., int] = libc.syscall
    version = call(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return 0
    files = (1 << 13) - 1 | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    attributes = struct.pack("QQQ", files, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = call(444, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    if ruleset < 0:
        return 0
    for path in paths:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rights = (1 << 0 | 1 << 2 | 1 << 3) if os.path.isdir(path) else (1 << 0 | 1 << 2)  # execute (map), read, list
        failed = call(445, ruleset, 1, struct.pack("=Qi", rights, place), ctypes.c_uint32(0))
        os.close(place)
        if failed:
            return 0
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    failed = call(446, ruleset, ctypes.c_uint32(0))
    os.close(ruleset)
    return 0 if failed else int(version)


# System calls that no derivation needs, by machine: numbers of processes, programs, sockets, signals to others, mounts, the kernel's own doors.
REFUSED: dict[str, tuple[int, list[int]]] = {
    "x86_64": (0xC000003E, [57, 58, 59, 322, 41, 42, 49, 53, 101, 109, 112, 155, 161, 165, 166, 240, 248, 249, 250, 272, 298, 304, 308, 310, 311, 319, 321, 323,
                            29, 64, 68, 302, 424, 425, 428, 429, 430, 431, 432, 433, 434, 438, 442]),
    "aarch64": (0xC00000B7, [221, 281, 198, 203, 200, 199, 117, 154, 157, 41, 51, 40, 39, 180, 217, 218, 219, 97, 241, 265, 268, 270, 271, 279, 280, 282,
                             194, 190, 186, 261, 424, 425, 428, 429, 430, 431, 432, 433, 434, 438, 442]),
}  # fmt: skip
CLONE = {"x86_64": (56, 435), "aarch64": (220, 435)}
SIGNALS = {"x86_64": (62, 200, 234), "aarch64": (129, 130, 131)}  # kill, tkill, tgkill


def refuse_calls() -> bool:
    """(6): a seccomp filter that answers EPERM to new processes and programs, sockets and signals to others; new threads are allowed.

    Returns:
        Whether it is in force; the machine may have no such thing.
    """
    machine = os.uname().machine
    if machine not in REFUSED or not sys.platform.startswith("linux"):
        return False
    architecture, refused = REFUSED[machine]
    clone, clone3 = CLONE[machine]
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, eperm, enosys, kill = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38, 0x80000000
    program: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4), (equal, 1, 0, architecture), (answer, 0, 0, kill),
        (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (answer, 0, 0, eperm),  # the 32-bit calls of x86
        (equal, 0, 1, clone3), (answer, 0, 0, enosys),  # its flags lie in memory; the C library falls back to clone
        (equal, 0, 4, clone), (load, 0, 0, 16), (any_bit, 1, 0, 0x00010000), (answer, 0, 0, eperm), (answer, 0, 0, allow),  # CLONE_THREAD
    ]  # fmt: skip
    for number in SIGNALS[machine]:  # to this process itself only: abort() needs that
        program += [(equal, 0, 4, number), (load, 0, 0, 16), (equal, 1, 0, os.getpid()), (answer, 0, 0, eperm), (answer, 0, 0, allow)]
    for number in refused:
        program += [(equal, 0, 1, number), (answer, 0, 0, eperm)]
    program.append((answer, 0, 0, allow))
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(code, len(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0):
        return False
    return not libc.prctl(22, 2, struct.pack("HxxxxxxQ", len(program), ctypes.addressof(held)), 0, 0)


# -- 3. The student's code ------------------------------------------------------------------------------------------------------------------


class _Printed:
    """What the student prints; only its beginning is kept."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += str(text)[: max(PRINTED - len(self.text), 0)]
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    def take(self) -> str:
        text, self.text = self.text, ""
        return text


def say_error(error: BaseException, sources: dict[str, str]) -> dict[str, Any]:
    """The kind of an exception, what it says, and the line of the student's code that it comes from."""
    where, line, text = None, None, None
    if isinstance(error, SyntaxError):
        where, line, text = error.filename, error.lineno, (error.text or "").strip()
    step = error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if name in sources:
            where, line = name, step.tb_lineno
        step = step.tb_next
    if where in sources and line is not None and text is None:
        lines = sources[where].split("\n")
        text = lines[line - 1].strip() if 0 < line <= len(lines) else None
    try:
        said = str(error.msg if isinstance(error, SyntaxError) else error)[:400]
    except BaseException:
        said = ""
    return {"kind": type(error).__name__[:80], "said": said, "where": where if where in sources else None, "line": line, "text": text and text[:200]}


def definitions(source: str) -> str:
    """A cell without its magics (% and !) and questions (np.sum?), which are a notebook's and not Python's; lines keep their numbers."""
    import ast

    try:
        ast.parse(source)
    except (SyntaxError, ValueError):
        lines = source.replace("\r\n", "\n").split("\n")  # not splitlines, for which a form feed within a comment ends a line
        return "\n".join("" if line.lstrip().startswith(("%", "!")) or line.rstrip().endswith("?") else line for line in lines)
    return source


def run_cell(source: str, name: str, namespace: dict[str, Any], whole: bool = False) -> None:
    """Runs a cell; if not `whole`, its imports, definitions and assignments only: not what often stands there to be looked at, calls and loops.

    Raises:
        BaseException: the first error, after the rest of the cell was run as well.
    """
    import ast

    first: BaseException | None = None
    tree = ast.parse(definitions(source), name)
    for node in tree.body:
        if not whole and isinstance(node, (ast.Expr, ast.For, ast.While, ast.Assert)):
            continue
        try:
            exec(compile(ast.Module([node], []), name, "exec", dont_inherit=True), namespace)  # not this file's own `annotations`
        except BaseException as error:
            first = first or error
    if first is not None:
        raise first


class _Student:
    """The namespace in which a submission was run."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        import numpy as np

        self.source, self.sink = source, sink
        self.cells: dict[str, str] = {}
        self.names: dict[str, Any] = {"__name__": "submission", "__builtins__": __builtins__, "np": np, "numpy": np, "display": print}
        self.last: Any = None  # what was returned in a race, for IDLE

    def load(self, cells: list[str], first: int, whole: bool) -> dict[str, Any]:
        errors = []
        for i, cell in enumerate(cells, first):
            name = f"cell {i}"
            self.cells[name] = cell
            try:
                run_cell(cell, name, self.names, whole)
            except BaseException as error:
                errors.append(say_error(error, self.cells))
        return {"functions": [k for k, v in list(self.names.items()) if callable(v) and type(k) is str], "errors": errors[:20]}

    def borrow(self, names: list[str]) -> dict[str, Any]:
        """Puts functions of the reference's into the place of the student's: each asks the grader, and no line of the reference is here."""
        for name in names:
            self.names[name] = self._borrowed(name)
        return {}

    def _borrowed(self, name: str) -> Callable[..., Any]:
        def function(*args: Any, **named: Any) -> Any:
            _send(self.sink, encode({"asks": name, "args": args, "named": named}))
            answer = _receive(self.source)
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer["result"]

        function.__name__ = function.__qualname__ = name
        return function

    def call(self, name: str, args: list[Any]) -> dict[str, Any]:
        function = self.names.get(name)
        if not callable(function):
            return {"error": {"kind": "missing", "said": f"there is no function {name}", "where": None, "line": None, "text": None}}
        try:
            return {"result": function(*args), "inputs": args}
        except BaseException as error:
            return {"error": say_error(error, self.cells)}

    def race(self, name: str, args: list[Any], repeat: int, seed: int) -> dict[str, Any]:
        """Calls it again and again, each time on other numbers; returns each result as `projected`.

        Nothing is gained by knowing that this is a race: the seed is new, each result counts, and to give its number one must compute it.
        """
        function = None if name == IDLE else self.names.get(name)
        weights: dict[Any, Any] = {}
        results = []
        try:
            for other in other_numbers(args, repeat, seed):
                if function is not None:
                    self.last = function(*other)
                results.append(projected(self.last, weights))
            return {"result": results}
        except BaseException as error:
            return {"error": say_error(error, self.cells)}


def other_numbers(args: list[Any], repeat: int, seed: int) -> Iterator[list[Any]]:
    """The arguments, `repeat` times, with other numbers in the arrays of floats: a window on twice as many, begun anywhere.

    Each number is one of the argument's times a random one between ½ and 1. A window takes no time, and no two have the same rows.
    """
    import numpy as np

    rng = np.random.Generator(np.random.SFC64(seed))
    twice: dict[int, Any] = {}
    for k, a in enumerate(args):
        if isinstance(a, np.ndarray) and a.dtype in (np.float32, np.float64):
            twice[k] = np.tile(a.ravel(), 2) * (0.5 + 0.5 * rng.random(2 * a.size, a.dtype))
    for _ in range(repeat):
        other = list(args)
        for k, numbers in twice.items():
            start = rng.integers(args[k].size + 1)
            other[k] = numbers[start : start + args[k].size].reshape(args[k].shape)
        yield other


def projected(value: Any, weights: dict[Any, Any]) -> Any:
    """A tree of arrays with one number for each: its sum with a random weight for each index of each axis, so that it takes all elements to know it."""
    import numpy as np

    if isinstance(value, dict):
        return {k: projected(v, weights) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(projected(v, weights) for v in value)
    array: Any = np.asarray(value)
    kind = array.dtype if array.dtype.kind == "f" else np.dtype(float)
    while array.ndim:
        size = array.shape[-1]
        if (size, kind) not in weights:
            weights[size, kind] = np.random.Generator(np.random.SFC64(size)).standard_normal(size).astype(kind)
        array = np.asarray(np.dot(array, weights[size, kind]))
    return float(array)


def _stand_in() -> None:
    """`from tinygrad_norm.course import load` at the top of a notebook finds something that does nothing; the package is not here."""
    from types import ModuleType

    class Nothing:
        def __getattr__(self, name: str) -> Any:
            return Nothing()

        def __call__(self, *args: Any, **more: Any) -> Any:
            return Nothing()

    for name in ("tinygrad_norm", "tinygrad_norm.course"):
        module = ModuleType(name)
        module.load = Nothing()  # type: ignore[attr-defined]
        sys.modules[name] = module


def main() -> None:
    """Reads its settings, locks itself in, and answers until the grader closes the pipe."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    (length,) = struct.unpack(">Q", _read(source, 8))
    settings = json.loads(_read(source, length))  # before there is NumPy
    sys.path[:0] = settings["libraries"]
    import importlib

    root = settings["leave_root"] and os.getuid() == 0
    for name in [*PRELOADED.split(), *settings["imports"], *(PRELOADED_BY_ROOT.split() if root else ())]:
        importlib.import_module(name)
    import numpy as np

    for name in ("linalg", "random", "fft"):
        getattr(np, name)
    np.random.seed(0)
    done: dict[str, Any] = {"user": root and _leave_root()}
    _limits(settings["memory"], settings["seconds"], settings["threads"])
    if settings["landlock"]:
        done["landlock"] = landlock(settings["landlock"])
    done["seccomp"] = refuse_calls()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG: not to outlive the grader; a change of user clears it, so it comes last
    _stand_in()
    os.dup2(nothing, 2)
    printed = _Printed()
    sys.stdout = sys.stderr = printed  # type: ignore[assignment]
    sys.stdin = open(os.devnull) if not settings["landlock"] else None  # type: ignore[assignment]  # noqa: SIM115
    student = _Student(source, sink)
    _send(sink, encode({"ready": done}))
    while True:
        message = _receive(source)
        with np.errstate(all="ignore"):  # as in a self-check; and what a cell has set ends with it
            answer: dict[str, Any] = getattr(student, message.pop("do"))(**message)
        answer["printed"] = printed.take()[:PRINTED]
        try:
            data = encode(answer)
        except BaseException as error:
            data = encode({"error": {"kind": type(error).__name__[:80], "said": str(error)[:400], "where": None, "line": None, "text": None}, "printed": ""})
        _send(sink, data)


if __name__ == "__main__":
    main()
