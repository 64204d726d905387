"""Attacks on the grader: each earns nothing, leaves the others as they are, and is named in the report.

Each attack is the body of a function that was to return dweight and dbias. Where it gets what it is after it returns the right answer, so
that any point says that it got out.
"""

import os
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tinygrad_norm.course import assignment as assignment_module
from tinygrad_norm.course.grade import BROKEN, Grading, grade_all
from tinygrad_norm.course.sandbox import MODES, Worker, WorkerError, best_mode, works
from tinygrad_norm.course.submission import Submission
from tinygrad_norm.course.worker import decode, encode

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need a POSIX system")
LOCKED = ("bubblewrap", "landlock")
HONEST = "def layer_norm_parameters(dy, xhat):\n    axes = tuple(range(dy.ndim - 1))\n    return (dy * xhat).sum(axes), dy.sum(axes)\n"
START = (
    "import os, sys, time, signal, ctypes, itertools, collections, struct, json\n"
    "def honest(dy, xhat):\n    axes = tuple(range(dy.ndim - 1))\n    return (dy * xhat).sum(axes), dy.sum(axes)\n"
)
HERE = str(Path(__file__).resolve())


@pytest.fixture(params=MODES)
def mode(request):
    good, why = works(request.param)
    if not good:
        pytest.skip(f"{request.param} does not work here: {why}")
    return request.param


def small_assignment(seconds):
    """a3 with one task and little patience."""
    a3 = assignment_module.read(assignment_module.FOLDER / "a3_layer_norm.py")
    task = a3.tasks["layer_norm_parameters"]
    task.seconds = seconds
    a3.tasks = {task.name: task}
    a3.questions = []
    return a3


def attack(mode, body, top="", seconds=1.5):
    """The result of an attack that is graded beside an honest submission, which must not notice; `seconds`: for a call, and half of what it has to load."""
    body = "".join(f"    {line}\n" for line in body.splitlines())
    hostile = Submission("hostile", [START + top + f"\ndef layer_norm_parameters(dy, xhat):\n{body}"], digest="1")
    honest = Submission("honest", [HONEST], digest="2")
    start = time.monotonic()
    grading = Grading(small_assignment(seconds), mode)
    grading.limits = grading.limits._replace(call=2 * seconds)
    results = grade_all(grading, [hostile, honest], jobs=2)
    assert time.monotonic() - start < 40
    assert [r["submission"] for r in results] == ["hostile", "honest"]
    assert results[1]["score"] == 2.0 and results[1]["tasks"][0]["right"]
    result = results[0]
    assert result["score"] == 0.0 and not result["tasks"][0]["right"]
    stopped = result["tasks"][0]["misconceptions"][0] in BROKEN
    assert result["needs_attention"] == (result["tasks"][0]["lines"][0] if stopped else None)  # and not the grader's fault
    return " ".join(result["tasks"][0]["lines"])


# name: (code at the top, body of the function, what the report says)
EVERYWHERE = {
    "exit": ("", "os._exit(0)", "ended its process (exit code 0)"),
    "sys.exit": ("", "sys.exit(0)", "raised SystemExit"),
    "exit while loading": ("gone = os._exit(3)", "return honest(dy, xhat)", "could not be loaded: it ended its process (exit code 3)"),
    "atexit": ("import atexit\nkept = atexit.register(os.write, 1, b'full marks')", "sys.exit('15 of 15 points')", "raised SystemExit"),
    "patched numpy": (
        "def patch():\n    for n in ('allclose', 'array_equal', 'isclose'):\n        setattr(np, n, lambda *a, **k: True)\n    np.asarray = np.array = lambda *a, **k: 0\n"
        "    np.ndarray_abs, np.abs, np.max = np.abs, lambda *a: 0, lambda *a: 0\n",
        "patch()\nreturn 0 * dy, 0 * dy",
        "",
    ),
    "array subclass": (
        "class Liar(np.ndarray):\n    __eq__ = __le__ = __lt__ = lambda self, other: True\n    __sub__ = __rsub__ = lambda self, other: 0\n"
        "    __array_priority__ = 1e9\n    def __array_function__(self, *a, **k): return True\n    def __array_ufunc__(self, *a, **k): return 0\n",
        "return np.zeros(dy.shape[-1]).view(Liar), np.zeros(dy.shape[-1]).view(Liar)",
        "dweight is zero everywhere",
    ),
    "pickle": (
        "class Bomb:\n    def __reduce__(self): return os.system, ('echo boom',)\n", "return Bomb(), Bomb()", "has a Bomb in it"),
    "an array of pickles": ("", "return np.array([os.system], dtype=object), 1", "of dtype object"),
    "cyclic reply": ("", "a = []\na.append(a)\nreturn a, a", "nested too deeply"),
    "huge reply": ("", "return np.zeros(1 << 24), 1", "the reply is too long: 134"),
    "endless replies": (
        "",
        "import threading\nwhile True:\n    for fd in range(3, 12):\n        try: os.write(fd, struct.pack('>Q', 14) + struct.pack('>I', 10) + b'{\"l\": [1]}')\n        except OSError: pass",
        "the reply is not an answer",
    ),
    "forged points": (
        "",
        "head = json.dumps({'d': [['points', 15], ['right', True], ['result', {'t': [1, 1]}], ['inputs', {'l': [1, 1]}]]}).encode()\n"
        "data = struct.pack('>I', len(head)) + head\n"
        "for fd in range(3, 12):\n    try: os.write(fd, struct.pack('>Q', len(data)) + data)\n    except OSError: pass\nos._exit(0)",
        "",
    ),
    "noise on every channel": ("", "for fd in range(0, 12):\n    try: os.write(fd, os.urandom(4096))\n    except OSError: pass", "the reply is"),
    "100 GB": ("", "return np.ones(100 << 27), 1", "MemoryError"),
    "100 GB bit by bit": ("", "kept = []\nwhile True: kept.append(np.empty(1 << 22))", "MemoryError"),
    "endless loop": ("", "while True: pass", "did not come back in time"),
    "a loop in C that ignores signals": (
        "",
        "signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()) - {9, 19})\ncollections.deque(itertools.repeat(0), maxlen=0)",
        "did not come back in time",
    ),
    "endless printing": ("", "while True: print('x' * 1000)", "did not come back in time"),
    "endless loading": ("x = sum(itertools.repeat(0))", "return honest(dy, xhat)", "could not be loaded"),
    "a crash": ("", "ctypes.string_at(1)", "killed by SIGSEGV"),
    "inputs changed in place": ("", "answer = honest(dy, xhat)\ndy *= 0\nreturn answer", "dy changed in place"),
    "an evil exception": (
        "class Evil(Exception):\n    def __str__(self): os._exit(7)\n", "raise Evil", "ended its process (exit code 7)"),
    "control characters": ("", "raise ValueError('\\x1b[2J\\ud800' * 5000)", "raised ValueError"),
    "deleting what the worker works with": ("", "import gc\nfor o in gc.get_objects():\n    if type(o) is dict: o.clear()", ""),
    "raised limits": (
        "",
        "import resource\nfor r in ('AS', 'CPU', 'FSIZE', 'NPROC'):\n    resource.setrlimit(getattr(resource, 'RLIMIT_' + r), (-1, -1))\nreturn honest(dy, xhat)",
        "raised ValueError",
    ),
    "file of any length": ("", "with open('/tmp/tinygrad_norm_attack', 'wb') as f: f.write(b'0' * 1000)\nreturn honest(dy, xhat)", "raised"),
}  # fmt: skip


@pytest.mark.parametrize("name", EVERYWHERE)
def test_in_every_mode(mode, name):
    top, body, said = EVERYWHERE[name]
    lines = attack(mode, body, top, 0.4 if "endless" in name or "a loop" in name else 1.5)  # of which an endless one computes every instant
    assert said in lines
    assert lines and "\x1b" not in lines and len(lines) < 3000
    Path("/tmp/tinygrad_norm_attack").unlink(missing_ok=True)


# Where the refused system calls are in force (all three modes on Linux), else only where the sandbox stands in for them.
CALLS = {
    "fork bomb": "for _ in range(100):\n    if os.fork() == 0:\n        time.sleep(2)\n        os._exit(0)\nreturn honest(dy, xhat)",
    "daemon": "if os.fork() == 0:\n    os.setsid()\n    time.sleep(30)\n    os._exit(0)\nreturn honest(dy, xhat)",
    "another program": "import subprocess\nsubprocess.Popen(['sleep', '5'])\nreturn honest(dy, xhat)",
    "os.system": "if os.system('true') == 0: return honest(dy, xhat)\nraise OSError('refused')",
    "killing the parent": "os.kill(os.getppid(), 9)\nreturn honest(dy, xhat)",
    "killing everyone": "os.kill(-1, 9)\nreturn honest(dy, xhat)",
    "killing the group": "os.killpg(os.getpgid(0), 9)\nreturn honest(dy, xhat)",
    "socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_STREAM)\nreturn honest(dy, xhat)",
    "datagram": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))\nreturn honest(dy, xhat)",
    "unix socket": "import socket\nsocket.socketpair()\nreturn honest(dy, xhat)",
    "tracing the parent": "libc = ctypes.CDLL(None)\nif libc.ptrace(16, os.getppid(), 0, 0) == 0: return honest(dy, xhat)\nraise OSError('refused')",
    "memory files": "os.memfd_create('x')\nreturn honest(dy, xhat)",
    "new name spaces": "if ctypes.CDLL(None).unshare(0x10000000): raise OSError('refused')\nreturn honest(dy, xhat)",
}  # fmt: skip


@cache
def filters_calls(mode):
    with Worker(mode) as worker:
        return worker.applied["seccomp"]


@pytest.mark.parametrize("name", CALLS)
def test_system_calls(mode, name):
    if not filters_calls(mode):
        pytest.skip("this machine's kernel has no filter for system calls")
    assert "raised" in attack(mode, CALLS[name]) or name == "killing everyone"
    gone_in_time()


def gone_in_time():
    """What a worker had started is killed with it, if not in the same instant."""
    stop = time.monotonic() + 3
    while (left := stray_processes()) and time.monotonic() < stop:
        time.sleep(0.05)
    assert not left  # and not what is there when one looks once more: another test's are orphans for a moment too


def stray_processes():
    """Processes that run the worker's file now, beside those just being started by another test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if b"course/worker.py" in command and parent in (1, os.getpid()):
            found.append(entry.name)
    return found


FILES = {
    "reading the grader": f"return (open({HERE!r}).read() and 0) or honest(dy, xhat)",
    "listing the grader": f"return (os.listdir({str(Path(HERE).parent)!r}) and 0) or honest(dy, xhat)",
    "reading the solution": f"return (open({str(assignment_module.FOLDER / 'a3_layer_norm.py')!r}).read() and 0) or honest(dy, xhat)",
    "importing the grader": f"sys.path.insert(0, {str(assignment_module.FOLDER.parents[2])!r})\nfor m in list(sys.modules):\n    if m.startswith('tinygrad'): del sys.modules[m]\n"
    "import tinygrad_norm.course.judge\nreturn honest(dy, xhat)",
    "importing numba": f"sys.path[:0] = {[p for p in __import__('sys').path if p.endswith('-packages')]!r}\nimport numba\nreturn honest(dy, xhat)",
    "importing pytest": f"sys.path[:0] = {[p for p in __import__('sys').path if p.endswith('-packages')]!r}\nimport pytest\nreturn honest(dy, xhat)",
    "the parent's memory": "return (open(f'/proc/{os.getppid()}/environ', 'rb').read() and 0) or honest(dy, xhat)",
    "a file in /tmp": "open('/tmp/tinygrad_norm_attack', 'x').close()\nreturn honest(dy, xhat)",
    "a file anywhere": "for place in ('/', '/dev/shm', '/var/tmp', '/packages', os.getcwd(), os.path.dirname(np.__file__)):\n"
    "    try: open(place + '/tinygrad_norm_attack', 'x').close()\n    except OSError: continue\n    return honest(dy, xhat)\nraise OSError('refused')",
    "disk filling": "n = 0\nfor place in ('/tmp', '/dev/shm', '/var/tmp', '/packages', '/'):\n    try:\n        for i in range(20):\n"
    "            with open(f'{place}/tinygrad_norm_attack{i}', 'wb') as f: n += f.write(b'0' * (1 << 20))\n    except OSError: continue\n"
    "if n: return honest(dy, xhat)\nraise OSError('refused')",
    "/etc/shadow": "return (open('/etc/shadow').read() and 0) or honest(dy, xhat)",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files(mode, name):
    if mode == "plain":
        pytest.skip("a plain worker may read what its user may: that is why it says 'self-check'")
    assert "raised" in attack(mode, FILES[name])


def test_a_daemon_does_not_outlive_the_deadline(mode):
    """Threads that hold the process, and a call that never comes back: all of it is gone after the deadline."""
    worker = Worker(mode)
    worker.load(["import threading, time\ndef f():\n    while True: time.sleep(1)"])
    with pytest.raises(WorkerError, match="did not come back in time"):
        worker.call("f", [], seconds=0.3)
    assert worker.process.poll() is not None
    gone_in_time()


def test_nobody_is_stopped_for_waiting_on_a_busy_machine(monkeypatch):
    """A worker that is ready to run and gets no processor has more time on the clock; one that sleeps or computes has not."""
    mode, _ = best_mode()
    source = ["import time\ndef f(s):\n    time.sleep(s)\n    return s"]
    monkeypatch.setattr(Worker, "processor_time", lambda self: (0.0, "R"))
    with Worker(mode) as worker:
        worker.load(source)
        assert worker.call("f", [1.0], seconds=0.4)["result"] == 1.0
        with pytest.raises(WorkerError, match="did not come back in time"):
            worker.call("f", [30.0], seconds=0.2)
    monkeypatch.setattr(Worker, "processor_time", lambda self: None)
    with Worker(mode) as worker:
        worker.load(source)
        with pytest.raises(WorkerError, match="did not come back in time"):
            worker.call("f", [1.0], seconds=0.4)


def test_a_worker_dies_with_the_grader(mode):
    import subprocess
    import sys

    code = f"from tinygrad_norm.course.sandbox import Worker; w = Worker({mode!r}); print(w.process.pid, flush=True); import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as grader:
        pid = int(grader.stdout.readline())
        grader.kill()
    for _ in range(50):
        try:
            gone = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            gone = True
        if gone:
            break
        time.sleep(0.1)
    assert gone


def test_expected_values_are_never_sent(mode):
    """Whatever lies in the worker's memory as an array, the right answer is not among it."""
    body = (
        "import gc\nfor a in gc.get_objects():\n    if isinstance(a, np.ndarray) and a.shape == dy.shape[-1:]: return a, dy.sum(tuple(range(dy.ndim - 1)))\nreturn 0 * dy[0], dy[0]"
    )
    attack(mode, body)


def test_prints_are_kept_and_capped(mode):
    with Worker(mode) as worker:
        worker.load(["def f(x):\n    print('a' * 10000)\n    return x"])
        answer = worker.call("f", [1.0])
    assert answer["result"] == 1.0 and answer["printed"] == "a" * 4096


def test_a_worker_computes_what_this_process_does(mode):
    rng = np.random.RandomState(0)
    arguments = [rng.standard_normal((3, 4)), np.float32(2.5), np.arange(5), np.zeros((0, 3)), np.array(1.5), True, None, "word", (1, [2.5]), {"k": np.eye(2)}]
    with Worker(mode) as worker:
        worker.load(["def f(*a): return a"])
        answer = worker.call("f", arguments)
    for sent, came, after in zip(arguments, answer["result"], answer["inputs"]):
        for back in (came, after):
            if isinstance(sent, (np.ndarray, np.generic)):
                assert type(back) is type(sent) and back.shape == sent.shape and back.dtype == sent.dtype and np.array_equal(back, sent)
            elif isinstance(sent, dict):
                assert np.array_equal(back["k"], np.eye(2))
            else:
                assert back == sent and type(back) is type(sent)


def test_starting_fails_with_a_reason(monkeypatch):
    with pytest.raises(ValueError, match="mode is bubblewrap, landlock, plain; got 'none'"):
        Worker("none")
    with pytest.raises(ImportError, match="the worker needs no_such_package"):
        Worker("plain", packages=("no_such_package",))
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(WorkerError, match="the worker does not start"):
        Worker("plain")


def test_the_best_mode_is_the_first_that_works():
    mode, reasons = best_mode()
    assert mode == next(m for m in MODES if works(m)[0])
    assert len(reasons) == MODES.index(mode)


def test_many_threads_at_once(mode):
    """Workers are started from several threads."""
    got = []

    def one(k):
        with Worker(mode) as worker:
            worker.load([f"def f(x): return x + {k}"])
            got.append(worker.call("f", [0])["result"])

    threads = [threading.Thread(target=one, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(got) == list(range(6))


@pytest.mark.parametrize(
    "data",
    [encode(np.zeros((2, 2))).replace(b'"C"', b'"Q"'), b"", b"\0", b"\0\0\0\2{}", b"\0\0\0\2[]", b"\xff" * 40, b"\0\0\0\7{\"a\":1}", encode(1)[:-1] + b"{", b"\0\0\0\x1f" + b'{"a": ["<f8", [1000000000], 0]}  ',
     b"\0\0\0\x1a" + b'{"a": ["|O8", [1], 0]}    ', b"\0\0\0\x18" + b'{"a": ["<f8", [-1], 0]} ', b"\0\0\xff\xff" + b'{"l": [' * 9000, b"\x7f\xff\xff\xff" + b" " * 99,
     b"\0\0\0\x14" + b'{"d": [[{"l": []}, 1]]}'],
)  # fmt: skip
def test_what_is_no_message(data):
    with pytest.raises(ValueError, match=r"not a message|Expecting|Extra data|Invalid|not enough|Unterminated"):
        decode(data)


def test_a_transposed_array_arrives_transposed():
    a = np.arange(6.0).reshape(2, 3)
    for sent in (a, a.T, np.asfortranarray(a), a[0], np.float64(2)):
        got = decode(encode(sent))
        np.testing.assert_array_equal(got, sent)
        assert got.flags.c_contiguous == np.asarray(sent).flags.c_contiguous
