"""tinygrad-norm gradcheck, on the library and on a file of one's own."""

import inspect
import json
import subprocess
import sys

import pytest
from test_gradcheck import leaf

import tinygrad_norm as tg
from tinygrad_norm import cli
from tinygrad_norm.autograd import suite as command
from tinygrad_norm.autograd.suite import check_all
from tinygrad_norm.autograd.suite_rows import TORCH_IS_OFF
from tinygrad_norm.autograd.user_function import check_file


def run(*argv):
    parser = cli._Parser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(argv)))


def test_every_op_and_layer_of_the_library():
    rows = check_all()
    bad = [row for row in rows if not row.ok]
    assert not bad, bad
    assert len(rows) > 250
    exact = [row for row in rows if row.dtype == "float64"]
    assert max(row.differences or 0 for row in exact) < 1e-10
    assert max(row.second or 0 for row in exact) < 1e-9
    exact = [row for row in exact if row.name not in TORCH_IS_OFF]
    assert max(row.torch or 0 for row in exact) < 1e-12
    assert max(row.second_torch or 0 for row in exact) < 1e-12
    norms = [row for row in exact if "norm" in row.name]
    assert all(row.torch is not None and row.second is not None for row in norms)


def test_the_command(capsys, monkeypatch):
    assert run("--only", "layer_norm (2, 3, 4)", "--no-torch", "--dtype", "float64") == 0
    out = capsys.readouterr().out
    assert "layer_norm (2, 3, 4) over 4" in out
    assert "\033[" not in out
    assert run("--only", "logsumexp", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["dtype"] for row in rows} == {"float64", "float32"}
    assert all(row["ok"] for row in rows)
    with pytest.raises(ValueError, match=r"no op has 'nonsense' in its name; there are .*layer_norm"):
        run("--only", "nonsense")
    with pytest.raises(ValueError, match="--shapes goes with"):
        run("--shapes", "4,5")
    with pytest.raises(ValueError, match="--only chooses among the library's ops"):
        run("file.py:f", "--only", "relu")
    monkeypatch.setattr(type(tg.relu(leaf(2)).grad_fn), "backward", lambda self, g: g * 2)
    assert run("--only", "relu", "--no-torch") == 1
    assert "FAILED" in capsys.readouterr().out


MINE = """
import numpy as np
import tinygrad_norm as tg

def right(x, weight):
    return tg.nn.functional.layer_norm(x, (5,), weight)

class Wrong(tg.autograd.Function):
    def forward(self, x):
        self.save_for_backward(x)
        return x ** 2
    def backward(self, g):
        return g

def picky(x):
    assert x.shape == (2, 3)
    return x * 2

def given(x, table):
    return x * table["w"]

given_inputs = lambda: (np.ones((2, 3)), {"w": [1.5, 2.5, 3.5]})

def attribute(x, i):
    return x[i]

attribute.inputs = ([1.0, 2.0, 3.0], np.array([0, 2]))

class Net(tg.nn.Module):
    def __init__(self):
        super().__init__()
        self.num_features = 5
        self.w = tg.nn.Parameter(tg.ones(5, dtype=tg.float64))
    def forward(self, x):
        return x * self.w

class Single(tg.nn.Module):  # its parameters are float32 until the command, which makes it, makes them float64
    def __init__(self):
        super().__init__()
        self.fc = tg.nn.Linear(5, 2)
        self.in_features = 5
    def forward(self, x):
        return self.fc(x)

def both(x, w):
    return x * w

both.inputs = [np.ones((2, 3)), np.arange(1.0, 4.0)]

layer = Net()
number = 3
"""


def test_the_command_on_a_file_of_yours(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(MINE)

    def check(name, *more):
        code = run(f"{file}:{name}", *more)
        return code, capsys.readouterr().out

    assert check("right")[0] == 0
    code, out = check("Wrong")
    assert code == 1
    assert "wrong" in out
    assert json.loads(check("Wrong", "--json")[1])["verdict"] == "wrong"
    assert check("picky", "--shapes", "2,3")[0] == 0
    assert check("given")[0] == 0
    assert check("attribute")[0] == 0
    assert check("Net")[0] == check("layer")[0] == check("Single")[0] == check("both")[0] == 0
    (tmp_path / "inspect.py").write_text(MINE)  # also a module that is loaded already
    assert run(f"{tmp_path}/inspect.py:right") == 0 and sys.modules["inspect"] is inspect
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"picky raised AssertionError with random inputs of shapes \(4, 5\).*picky.inputs = \(x, …\).*--shapes"):
        check("picky")
    with pytest.raises(ValueError, match=r"has no 'nothing'; it has .*right"):
        check("nothing")
    with pytest.raises(ValueError, match=r"number in .* is of type int"):
        check("number")
    with pytest.raises(ValueError, match="there is no file"):
        check_file(str(tmp_path / "other.py:f"))
    with pytest.raises(ValueError, match="say which function of which file"):
        check_file("mine.py")
    (tmp_path / "broken.py").write_text("1/0")
    with pytest.raises(ValueError, match="cannot be imported: ZeroDivisionError"):
        check_file(f"{tmp_path}/broken.py:f")


def test_torch_and_matplotlib_are_not_imported_with_the_package():
    code = "import sys, tinygrad_norm.autograd.suite, tinygrad_norm.pytest_plugin; print([m for m in ('torch', 'matplotlib', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
