"""Every test starts from the same seeds, with gradients on and the usual printing, whatever the one before it did.

The whole suite runs in a process for each core (-n 0: in one). Each keeps torch and BLAS to one thread: a second one would wait for work by
spinning, on the core of another process. The kernels of this package have their threads all the same.
"""

import gc
import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch and NumPy are loaded
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: tests send it, to themselves and to what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from hypothesis import settings

import tinygrad_norm as tg
from tinygrad_norm.kernel import Kernel

AS_PYTHON = os.environ.get("TINYGRAD_NORM_TESTS_KERNELS_AS_PYTHON")  # test_kernel.py's run: the file that takes the names of those that ran
ran = set()
if AS_PYTHON:

    def as_python(self, *args):
        ran.add(self.__name__)
        with np.errstate(all="ignore"):
            return self.function(*args)

    Kernel.serial = Kernel.parallel = as_python
MOST = 4  # processes: each imports torch and loads the kernels anew

settings.register_profile("stable", deadline=None, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "stable"))


def pytest_xdist_auto_num_workers(config):
    """None where the command line names files: they have begun before others would be ready."""
    whole = all(Path(argument).is_dir() for argument in config.args)
    cores = tg.get_num_threads()
    return min(cores, MOST) if whole and cores > 1 else 0  # with one more, which would run while others wait for a deadline, it takes a tenth longer


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """The garbage collector does not look, now and in every later search, through what stays to the end: torch and 12,000 tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 10, 100)  # nor as often as with Python's own 700 through what comes later: that took 6 % of the time
        gc.enable()


def pytest_sessionfinish():
    gc.freeze()  # nor does it when Python winds up
    if AS_PYTHON:
        Path(AS_PYTHON).write_text("\n".join(sorted(ran)))


def pytest_collection_modifyitems(items):
    """The files with tests of many seconds first: at the end no process is to wait long for another."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in ("notebooks", "kernel", "readme", "gradcheck_command"))


@pytest.fixture(autouse=True)
def _same_start():
    tg.manual_seed(0)
    yield
    left_off = not tg.is_grad_enabled()
    tg.set_grad_enabled(True)
    tg.set_printoptions(profile="default")
    assert not left_off, "the test left gradients switched off"
