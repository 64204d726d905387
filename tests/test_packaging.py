"""The wheel and the sdist, and the package where a machine has less than usual: nowhere to write, one core, no compiler, no numba."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tinygrad_norm

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "tinygrad_norm").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
SMOKE = """
import numpy as np
import tinygrad_norm as tg
from tinygrad_norm.train import train

lines = []
result = train(epochs=2, report=lines.append)
assert lines == ["Epoch [1/2], Loss: 0.7147, Accuracy: 50.00%", "Epoch [2/2], Loss: 0.7137, Accuracy: 50.00%"], lines
x = np.random.RandomState(0).standard_normal((6, 5)) * 2 + 1
t = tg.tensor(x, dtype=tg.float32, requires_grad=True)
y = tg.nn.functional.layer_norm(t, (5,))
y.pow(3).sum().backward()
mean, std = x.mean(1, keepdims=True), np.sqrt(x.var(1, keepdims=True) + 1e-5)
xhat = (x - mean) / std
g = 3 * xhat**2
assert np.allclose(y.detach(), xhat, atol=1e-5)
assert np.allclose(t.grad, (g - g.mean(1, keepdims=True) - xhat * (g * xhat).mean(1, keepdims=True)) / std, atol=1e-4)
print(tg.__file__)
print(tg.get_backend(), tg.get_num_threads())
"""


def built(command, folder):
    code = f"import sys, hatchling.build; print(hatchling.build.{command}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built("build_wheel", tmp_path_factory.mktemp("wheel"))


def smoke(folder, before="", **environment):
    """Runs SMOKE with the package of that folder; where it came from, and the backend and threads."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "TINYGRAD"))}
    env.update({"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment})
    done = subprocess.run([sys.executable, "-W", "error", "-c", before + SMOKE], capture_output=True, text=True, cwd="/", env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    file, state = done.stdout.splitlines()
    assert Path(file).parent.parent == Path(folder)
    return state, done.stderr


def test_the_wheel_has_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        meta = next(name for name in names if name.endswith("METADATA"))
        metadata, entries = archive.read(meta).decode(), archive.read(meta.replace("METADATA", "entry_points.txt")).decode()
    assert sorted(name for name in names if ".dist-info/" not in name) == SOURCES
    assert "tinygrad_norm/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert f"Version: {tinygrad_norm.__version__}\n" in metadata
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0] for line in required) == ["numba", "numpy"]
    assert "tinygrad-norm = tinygrad_norm.cli:main" in entries


def test_the_sdist_has_what_a_test_run_needs(tmp_path):
    with tarfile.open(built("build_sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*SOURCES, "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "tests/conftest.py", "tests/bad_input.txt"} <= names


def test_the_wheel_works_where_nothing_can_be_written(wheel, tmp_path):
    """No cache of kernels beside the package (a file stands in its place, which stops root as well) nor in the home folder, and nowhere else."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for folder in [p for p in (tmp_path / "tinygrad_norm").rglob("*") if p.is_dir()] + [tmp_path / "tinygrad_norm"]:
        (folder / "__pycache__").write_text("")
        folder.chmod(0o555)
    state, err = smoke(tmp_path, HOME="/proc/none", XDG_CACHE_HOME="/proc/none")
    assert state.startswith("numba ")
    assert len(err.splitlines()) <= 1  # at most the line that says that kernels are being compiled


def test_one_core():
    state, _ = smoke(ROOT, "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" if hasattr(os, "sched_setaffinity") else "", NUMBA_NUM_THREADS="1")
    assert state == "numba 1"


def test_without_compilation():
    state, _ = smoke(ROOT, NUMBA_DISABLE_JIT="1")
    assert state.startswith("numba ")


@pytest.mark.parametrize("blocked", [("numba",), ("numba", "torch", "safetensors", "matplotlib", "sklearn", "tqdm", "scipy", "typing_extensions")])
def test_without_numba(blocked):
    before = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is not here")
sys.meta_path.insert(0, Blocked())
"""
    state, err = smoke(ROOT, before)
    assert state.startswith("numpy ")
    assert "numba cannot be imported here; the NumPy references run instead" in err
