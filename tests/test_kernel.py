"""Kernels: switches, threads, forks, bounds, and that the package works without numba."""

import ctypes.util
import gc
import importlib
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tinygrad_norm as tg
from tinygrad_norm import kernel as kernels
from tinygrad_norm.kernel import KERNELS, kernel, prange, ready

TESTS = Path(__file__).parent


def run_python(code, **environment):
    """What the code prints in a process of its own; a variable given as None is taken out of its environment."""
    variables = {k: v for k, v in {**os.environ, "TINYGRAD_NORM_NUMBA": "1", **environment}.items() if v is not None}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def scale_reference(x, factor, y):
    y[:] = factor * x


@kernel(reference=scale_reference)
def scale(x, factor, y):
    for i in prange(len(x)):
        y[i] = factor * x[i]


def test_a_kernel_is_one_loop_nest_run_in_three_ways():
    x = np.arange(5.0)
    for run in (scale.reference, scale.function, scale.serial, scale.parallel):
        y = np.empty(5)
        run(x, 2.0, y)
        assert y.tolist() == [0, 2, 4, 6, 8]
    assert "reference scale_reference" in repr(scale)


def test_every_kernel_has_a_reference_with_its_arguments():
    for k in KERNELS:
        assert k.function.__code__.co_varnames[: k.function.__code__.co_argcount] == k.reference.__code__.co_varnames[: k.reference.__code__.co_argcount], k


def test_fastmath_keeps_nan():
    y = np.empty(2)
    scale.serial(np.array([np.nan, np.inf]), 1.0, y)
    assert np.isnan(y[0])
    assert y[1] == np.inf


def invert_roots_reference(x, y):
    y[:] = 1 / np.sqrt(x)


@kernel(reference=invert_roots_reference)
def invert_roots(x, y):
    one = x.dtype.type(1)
    for i in prange(len(x)):
        y[i] = one / math.sqrt(x[i])


def test_one_over_a_root_is_no_estimate():
    """Processors have an instruction for it, of which each maker's gives another number; two roundings are all that is lost."""
    x = np.geomspace(1e-6, 1e6, 10_000, dtype=np.float32)
    y = np.empty_like(x)
    invert_roots.serial(x, y)
    assert np.abs(y * np.sqrt(x.astype(np.float64)) - 1).max() < 1.3e-7


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_backends_agree(backend):
    before = tg.get_backend()
    try:
        tg.set_backend(backend)
        assert tg.get_backend() == backend
        x = tg.tensor(np.sin(np.arange(12.0)).reshape(3, 4), requires_grad=True)
        y = tg.nn.functional.layer_norm(x, (4,))
        (y * y * y).sum().backward()
    finally:
        tg.set_backend(before)
    z = tg.tensor(np.sin(np.arange(12.0)).reshape(3, 4), requires_grad=True)
    centred = z - z.mean(1, True)
    (centred / (z.var(1, False, True) + 1e-5).sqrt()).pow(3).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), atol=1e-12)


def test_switches_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="'numba' or 'numpy'"):
        tg.set_backend("cuda")
    for bad in (0, -1, 10_000):
        with pytest.raises(ValueError, match="set_num_threads"):
            tg.set_num_threads(bad)
    for bad in (1.5, "2", True, None):
        with pytest.raises(TypeError, match="integer"):
            tg.set_num_threads(bad)
    before = tg.get_num_threads()
    tg.set_num_threads(1)
    assert tg.get_num_threads() == 1
    tg.set_num_threads(before)


def test_ready_copies_only_what_kernels_cannot_take():
    x = np.ones((3, 4))
    assert ready(x) is x
    for other in (x.T, x[:, ::2], np.broadcast_to(x, (3, 4)), np.broadcast_to(np.ones(4), (3, 4))):
        assert ready(other).flags.carray
        assert np.array_equal(ready(other), other)


def test_importing_the_package_imports_neither_numba_nor_torch():
    out = run_python("import sys, tinygrad_norm; print([m for m in ('numba', 'torch', 'matplotlib', 'sklearn', 'tqdm') if m in sys.modules])")
    assert out.strip() == "[]"


TRAIN = """
import tinygrad_norm as tg
from tinygrad_norm.train import train
lines = []
train(report=lines.append)
print(tg.get_backend(), lines[-1])
"""


def test_the_environment_variable_chooses_the_references():
    assert run_python(TRAIN, TINYGRAD_NORM_NUMBA="0").split(" ", 1) == ["numpy", "Epoch [10/10], Loss: 0.7066, Accuracy: 52.00%\n"]


def test_it_works_where_numba_is_not_to_be_had():
    assert run_python("import sys; sys.modules['numba'] = None" + TRAIN).split(" ", 1) == ["numpy", "Epoch [10/10], Loss: 0.7066, Accuracy: 52.00%\n"]


def test_it_works_where_no_cache_can_be_written(tmp_path):
    """Neither the package nor a home to write to: compiled anew, not refused."""
    code = f"""
import sys
sys.path.insert(0, {str(TESTS.parent)!r})
import numba.core.caching as caching
caching.CompileResultCacheImpl._locator_classes = []
import tinygrad_norm as tg
y = tg.nn.functional.layer_norm(tg.tensor([[1.0, 2.0, 3.0]]), (3,))
print(tg.get_backend(), y.tolist()[0][1])
"""
    assert run_python(code) == "numba 0.0\n"


def big_step():
    """Large enough for the parallel kernels."""
    x = tg.tensor(np.sin(np.arange(1200 * 500.0)).reshape(1200, 500).astype(np.float32), requires_grad=True)
    norm = tg.nn.LayerNorm(500)
    y = norm(x)
    (y * y * y).sum().backward()
    return x.grad.numpy().tobytes() + norm.weight.grad.numpy().tobytes()


def test_the_same_bits_on_every_run_and_from_eight_threads():
    expected = big_step()
    assert big_step() == expected
    found = []
    threads = [threading.Thread(target=lambda: found.extend(big_step() for _ in range(3))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 24
    assert set(found) == {expected}


def test_a_forked_child_computes():
    code = """
import os, sys
import numpy as np
import tinygrad_norm as tg
def step():
    x = tg.tensor(np.sin(np.arange(600 * 500.0, dtype=np.float32)).reshape(600, 500), requires_grad=True)
    y = tg.nn.LayerNorm(500)(x)
    (y * y * y).sum().backward()
    return x.grad.numpy()
before = step()
pid = os.fork()
if pid == 0:
    os._exit(0 if np.allclose(step(), before, rtol=0, atol=1e-5) else 3)
print(os.waitpid(pid, 0)[1])
"""
    assert run_python(code).strip() == "0"


def test_no_kernel_leaves_its_arrays(tmp_path):
    """Run as the Python that it is compiled from, a kernel passes its tests as well; and there an index out of bounds is an error."""
    rooms = "linear activation layer_norm batch_norm loss optim clip_grad_norm group_norm masked_norm rms_norm embedding recurrent attention ops"
    files = [str(TESTS / f"test_{room}.py") for room in rooms.split()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", "kernel", *files],
        capture_output=True,
        text=True,
        env={**os.environ, "TINYGRAD_NORM_NUMBA": "1", "TINYGRAD_NORM_TESTS_KERNELS_AS_PYTHON": str(tmp_path / "ran")},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert {k.__name__ for k in KERNELS if k.__module__ != __name__} <= set((tmp_path / "ran").read_text().split())


def test_libgomp_that_was_there_before_us():
    """With torch's OpenMP already in the process numba's threads must be of the kind that sleeps."""
    out = run_python(
        "import torch, numpy as np, tinygrad_norm as tg\n"
        "x = tg.tensor(np.ones((2000, 600), np.float32), requires_grad=True)\n"
        "tg.nn.LayerNorm(600)(x).sum().backward()\n"
        "import numba; print(numba.threading_layer())",
        GOMP_SPINCOUNT=None,
    )
    assert out.strip() in ("workqueue", "tbb")


TWO_CORES = """
import os, threading
import numpy as np, numba
import tinygrad_norm.kernel as kernels
from tinygrad_norm.nn.activation import relu_forward
x, cores = np.ones(1 << 19, np.float32), os.sched_getaffinity(0)
def step(core):
    os.sched_setaffinity(threading.get_native_id(), {core})
    os.sched_setaffinity(threading.get_native_id(), cores)  # where we are by now
    relu_forward[x.size](x, np.empty_like(x))
    told = [kernels._told.cpu not in os.sched_getaffinity(worker) < cores for worker in kernels._told.workers]
    return all(told) and len(told) > 0
def steps():
    found.extend([step(core) for core in [min(cores), *cores, *cores]][1:])  # at the first there are no workers yet to be told
found = []
steps()
thread = threading.Thread(target=steps)  # which has workers of its own
thread.start()
thread.join()
print(numba.threading_layer(), found)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one core, or a system that sends no thread to one")
@pytest.mark.skipif(ctypes.util.find_library("gomp") is None, reason="no libgomp: numba's threads are others")
def test_workers_keep_off_the_core_that_calls_them():
    unset = dict.fromkeys(("GOMP_SPINCOUNT", "NUMBA_THREADING_LAYER", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"))
    layer, told = run_python(TWO_CORES, **unset).split(" ", 1)
    assert layer == "omp"
    assert "True" in told and "False" not in told, told
    assert "True" not in run_python(TWO_CORES, **{**unset, "OMP_PROC_BIND": "true"})  # the user has said where they belong


def test_one_process_at_a_time_compiles_a_kernel_and_writes_the_cache(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    made = kernels.Kernel(scale.function, scale.reference)
    gc.disable()
    made.serial(np.ones(1), 1.0, np.ones(1))
    assert not gc.isenabled()
    gc.enable()
    (lock,) = tmp_path.rglob("*.lock")
    compiler, tried = made._serial._compiler, []
    inner = compiler.compile

    def compiling(*args):
        tried.append(gc.isenabled())
        with open(lock, "w") as another_process, pytest.raises(BlockingIOError):
            fcntl.flock(another_process, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return inner(*args)

    monkeypatch.setattr(compiler, "compile", compiling)
    with open(lock, "w") as another_process:
        fcntl.flock(another_process, fcntl.LOCK_EX)
        thread = threading.Thread(target=made.serial, args=(np.ones(1, np.float32), 1.0, np.ones(1, np.float32)))
        thread.start()
        thread.join(1)
        assert thread.is_alive() and len(list(tmp_path.rglob("*.nbc"))) == 1 and not tried  # it waits, before it looks whether there is something to compile
    thread.join()
    assert len(list(tmp_path.rglob("*.nbc"))) == 2
    assert tried == [False] and gc.isenabled()  # the garbage collector rested meanwhile
    again = kernels.Kernel(scale.function, scale.reference)
    again.serial(np.ones(1, np.float32), 1.0, np.ones(1, np.float32))
    assert sum(again._serial.stats.cache_hits.values()) == 1
    with open(lock, "w") as another_process:
        fcntl.flock(another_process, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has kept it


PARALLEL_SUMS = """
import numpy as np
from tinygrad_norm.nn.layer_norm import layer_norm_forward
x = np.sin(np.arange(600_000, dtype=np.float32)).reshape(600, 1000)
y, stats = np.empty_like(x), np.empty((600, 3), np.float32)
layer_norm_forward.parallel(x, x[0], x[1], 1e-5, y, stats)
print(hash(y.tobytes()), hash(stats.tobytes()))
"""


def test_the_process_that_compiles_computes_the_same_bits_as_those_that_load(tmp_path):
    compiles, loads = (run_python(PARALLEL_SUMS, NUMBA_CACHE_DIR=str(tmp_path), PYTHONHASHSEED="0") for _ in range(2))
    assert compiles == loads
    assert list(tmp_path.rglob("*.parallel*.nbc"))


def test_the_choice_of_serial_or_parallel_is_by_size(monkeypatch):
    before, called = tg.get_backend(), []
    tg.set_backend("numba")
    for which in ("serial", "parallel"):
        monkeypatch.setattr(scale, which, lambda *args, which=which: called.append(which))
    monkeypatch.setattr(scale, "_serial", None)
    limit, threads = kernels._state["parallel_from"], tg.get_num_threads()
    for work in (1, limit - 1, limit, 10 * limit):
        scale[work](np.ones(1), 1.0, np.ones(1))
    tg.set_num_threads(1)
    try:
        scale[10 * limit](np.ones(1), 1.0, np.ones(1))
    finally:
        tg.set_num_threads(threads)
        tg.set_backend(before)
    large = "parallel" if threads > 1 else "serial"
    assert called == ["serial", "serial", large, large, "serial"]


@pytest.mark.parametrize(("room", "name"), [("layer_norm", "layer_norm"), ("rms_norm", "rms_norm"), ("masked_norm", "masked_layer_norm")])
def test_no_layout_of_a_weight_compiles_a_kernel_anew(room, name):
    module = importlib.import_module(f"tinygrad_norm.nn.{room}")
    ways = [getattr(module, f"{name}_{way}") for way in ("forward", "backward")]
    x = tg.tensor(np.sin(np.arange(24.0)).reshape(4, 6), requires_grad=True)
    mask = [tg.ones(4, 6, dtype=tg.bool)] if room == "masked_norm" else []
    fixed, unaligned = np.arange(6.0), np.frombuffer(b"-" + np.arange(6.0).tobytes(), np.float64, offset=1)
    fixed.flags.writeable = False
    compiled = []
    for weight in (np.arange(6.0), np.arange(12.0)[::2], np.arange(6.0)[::-1], np.broadcast_to(2.0, 6), fixed, unaligned):
        parameters = [tg.Tensor(weight, requires_grad=True) for _ in range(1 if room == "rms_norm" else 2)]
        y = getattr(tg.nn.functional, name)(x, *mask, (6,), *parameters)
        y.backward(tg.ones_like(y))
        compiled.append([k._serial and len(k._serial.signatures) for k in ways])
    assert compiled == compiled[:1] * 6
