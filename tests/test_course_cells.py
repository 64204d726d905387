"""What becomes of a submission's cells: what hangs or breaks costs itself, the reference is lent and not shown, a race is run and not acted."""

import json
import os

import pytest
from test_course_grade import RACE

from tinygrad_norm.course import grade as grade_module
from tinygrad_norm.course import load
from tinygrad_norm.course.assignment import read
from tinygrad_norm.course.grade import Grading, grade_one
from tinygrad_norm.course.notebooks import notebook
from tinygrad_norm.course.report import csv_text, table
from tinygrad_norm.course.sandbox import best_mode
from tinygrad_norm.course.submission import Submission

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need a POSIX system")


def solved(name, *changes):
    cells = ["".join(c["source"]) for c in json.loads(notebook(load(name), "solution"))["cells"] if c["cell_type"] == "code"]
    for old, new in changes:
        assert any(old in c for c in cells)
        cells = [c.replace(old, new) for c in cells]
    return cells


def graded(assignment, cells, seconds=10.0):
    """seconds: at most, for a cell's definitions, and for a task."""
    grading = Grading(load(assignment) if isinstance(assignment, str) else assignment, best_mode()[0])
    grading.limits = grading.limits._replace(call=seconds)
    for task in grading.assignment.tasks.values():
        task.seconds = min(task.seconds, seconds)
    return grade_one(grading, Submission("one", cells))


def lines(result, task):
    return " ".join(next(t for t in result["tasks"] if t["name"] == task)["lines"])


# -- Loops and calls -------------------------------------------------------------------------------------------------------------------------

TABLE = """TABLE = {}
for i in range(1, 9):
    TABLE[i] = None
def fill(n):
    TABLE[n] = tuple(range(n - 1))
for n in TABLE: fill(n)
TABLE.update({0: ()})
assert TABLE[0] == ()
"""


def test_what_loops_and_calls_of_a_cell_fill_is_there():
    result = graded("a3", [TABLE, *solved("a3", ("dbias = dy.sum(axis=samples)", "dbias = dy.sum(axis=TABLE[dy.ndim])"))])
    assert result["score"] == 15 and result["notes"] == []


def test_what_a_notebook_sets_and_shows_costs_nothing():
    """As in a self-check, numpy's floating-point errors are not asked for: log(0) at an edge is right there."""
    sets = "import warnings\nwarnings.simplefilter('error')\nnp.seterr(all='raise')\ndisplay(np.eye(2), 'an identity')"
    result = graded("a2", [sets, *solved("a2")])
    assert all(t["right"] for t in result["tasks"]) and result["notes"] == []


def test_a_cell_that_hangs_or_breaks_costs_nothing_but_itself(monkeypatch):
    """A loop, a computation in C that no signal ends, a crash, an exit: the definitions beside them are kept where they can be."""
    monkeypatch.setattr(grade_module, "LOOPS", 0.5)
    bad = [
        "axes = {2: (0,), 3: (0, 1)}\nwhile True: pass",
        "total = sum(range(10**13))",
        "import ctypes\nctypes.string_at(1)",
        "import os\nos._exit(0)",
    ]
    result = graded("a3", [*bad, *solved("a3", ("dbias = dy.sum(axis=samples)", "dbias = dy.sum(axis=axes[dy.ndim])"))], seconds=1.5)
    assert result["score"] == 15 and result["needs_attention"] is None
    assert result["notes"] == [
        "cell 1: its loops and calls were left out: it did not come back in time and was stopped",
        "cell 3: its loops and calls were left out: its process was killed by SIGSEGV",
        "cell 4: its loops and calls were left out: it ended its process (exit code 0) instead of returning",
        "cell 2 could not be loaded: it did not come back in time and was stopped",
    ]


def test_loops_and_calls_of_all_cells_have_a_time(monkeypatch):
    monkeypatch.setattr(grade_module, "ALL_LOOPS", 0.5)
    slow = "import time\ntime.sleep(0.4)"
    result = graded("a3", [slow, slow, "while True: pass", *solved("a3")[:-1]])
    assert result["score"] == 15 and result["notes"][0] == "cell 3: its loops and calls were left out: the cells before it took 0.5 s"


def test_a_submission_that_hangs_is_one_to_look_at():
    hangs = graded("a3", [*solved("a3"), "def layer_norm_staged(*a):\n    while True: pass"], seconds=1.0)
    assert hangs["needs_attention"] == "layer_norm_staged: it did not come back in time and was stopped"
    assert table([hangs]).endswith("!") and hangs["needs_attention"] in csv_text([hangs])
    gone = graded("a3", [*solved("a3")[:3], "import os\ndef layer_norm_parameters(dy, xhat): return 1\nx = os._exit(3)"])
    assert gone["needs_attention"] == "layer_norm_parameters: cell 4 could not be loaded: it ended its process (exit code 3) instead of returning"
    wrong = graded("a3", [*solved("a3"), "def layer_norm_staged(*a): return 1 / 0"])
    assert wrong["needs_attention"] is None


# -- The reference is lent -------------------------------------------------------------------------------------------------------------------

WRONG = "def op_backward(op, a, b, g):\n    return g, g"
THIEF = """
def tape_backward(graph, root, dy):
    import gc, inspect, sys
    frame, loot = sys._getframe(), [f.__code__.co_consts for f in gc.get_objects() if inspect.isfunction(f)]
    while frame:
        loot.append(frame.f_locals)
        frame = frame.f_back
    loot += [sorted(op_backward.__globals__), op_backward.__code__.co_consts, [c.cell_contents for c in op_backward.__closure__ or ()]]
    try:
        loot.append(inspect.getsource(op_backward))
    except OSError:
        pass
    text = repr(loot)
    raise ValueError([w for w in ("'vid'", "b / g", "a * g-") if w[::-1] in text])  # not as they stand there: this cell is found as well
"""


def a0(*more):
    return [WRONG if "def op_backward" in c else c for c in solved("a0")] + list(more)


def test_no_line_of_the_reference_lies_beside_the_students_code():
    result = graded("a0", a0(THIEF))
    assert "raised ValueError: []" in lines(result, "tape_backward") and "run on the reference's op_backward" in lines(result, "tape_backward")


def test_the_line_that_is_said_to_be_wrong_is_the_students():
    result = graded("a0", a0("def tape_backward(graph, root, dy):\n    return op_backward('mul', dy, None, g=dy)"))
    said = lines(result, "tape_backward")
    assert "RuntimeError: op_backward: TypeError: unsupported operand" in said
    assert "(in cell 12, line 2: return op_backward('mul', dy, None, g=dy))" in said
    result = graded("a0", a0("def tape_backward(graph, root, dy):\n    return op_backward('mul')"))
    assert "op_backward: missing a required argument: 'a'" in lines(result, "tape_backward")


def test_what_dies_of_what_it_is_asked_is_lent_again(tmp_path):
    source = HELPED.replace("return helper(x)", "return 1 / x if x else __import__('os')._exit(1)")
    (tmp_path / "b4.py").write_text(source)
    student = "def first(x): return 0\ndef second(x):\n    try: first(0.0)\n    except RuntimeError as e: print(e)\n    return first(x) + 1"
    result = graded(read(tmp_path / "b4.py"), [student])
    assert result["tasks"][1]["right"] and result["tasks"][1]["printed"] == "first: it ended its process (exit code 1) instead of returning\n"


HELPED = '''# %%
def helper(x):
    return 2 * x
# %% task="first" points=1
def first(x):
    ### BEGIN SOLUTION
    return helper(x)
    ### END SOLUTION
# %% task="second" points=1
def second(x):
    ### BEGIN SOLUTION
    return first(x) + 1
    ### END SOLUTION
# %% grader
from tinygrad_norm.course.task import Case, Faster, Output, Values, task
cases = lambda rng: [Case("general", Values(x=float(rng.standard_normal())))]
task(first, cases=cases, outputs=[Output("y")])
task(second, cases=cases, outputs=[Output("y")], uses=("first",))
'''


def test_the_students_own_helper_stays_where_a_function_is_lent(tmp_path):
    (tmp_path / "b4.py").write_text(HELPED)
    student = "def helper(x, by): return by * x\ndef first(x): return helper(x, 3)\ndef second(x): return helper(float(f'{first(x):.17g}'), 1) + 1"
    result = graded(read(tmp_path / "b4.py"), [student])
    assert [t["right"] for t in result["tasks"]] == [False, True] and lines(result, "second") == "run on the reference's first"


# -- A race ----------------------------------------------------------------------------------------------------------------------------------

SLOW = "import sys\nimport numpy as np\ndef slow(x):\n    s = 0.0\n    for v in x.ravel():\n        s = s + v\n    return s\n"
CHEATS = {
    "skips what the frame above says is not looked at": "def total(x):\n"
    "    up = sys._getframe(1).f_locals\n    return 0.0 if up.get('repeat', 1) - up.get('k', 0) > 1 else slow(x)",
    "skips most calls on large inputs":
        "calls = []\ndef total(x):\n    if x.size > 100: calls.append(1)\n    return slow(x) if len(calls) % 5 in (0, 3) else 0.0",
    "remembers what it returned for this shape":
        "seen = {}\ndef total(x):\n    if x.shape not in seen: seen[x.shape] = slow(x)\n    return seen[x.shape]",
    "remembers what it returned for these numbers, in any order": "seen = {}\ndef total(x):\n"
    "    k = float(np.abs(x).max())\n    if k not in seen: seen[k] = slow(x)\n    return seen[k]",
    "computes when asked": "class Later:\n    def __init__(self, x): self.x = x\n    def __array__(self, *a, **k): return np.array(slow(self.x))\n"
    "def total(x): return Later(x)",
}  # fmt: skip


@pytest.fixture(scope="module")
def race(tmp_path_factory):
    source = tmp_path_factory.mktemp("race") / "b3_race.py"
    source.write_text(RACE)
    return read(source)


@pytest.mark.parametrize("name", CHEATS)
def test_a_race_is_not_won_by_work_left_undone(race, name):
    result = graded(race, [SLOW + CHEATS[name]])
    assert result["score"] < 4 and ("wrong when it is timed" in lines(result, "total") or "asked for: 5" in lines(result, "total"))


def test_a_race_is_won_by_work_done_fast(race):
    for fast in ("def total(x): return x.sum()", "def total(x): return (x.sum(),)", "def total(x): return {'s': np.float32(x.sum())}"):
        assert graded(race, [fast])["score"] == 4, fast


def test_an_error_in_a_race_is_said(race):
    result = graded(race, ["def total(x):\n    if x.size > 100: raise MemoryError('too large')\n    return x.sum()"])
    assert result["score"] == 0 and "wrong when it is timed, on large ones: MemoryError: too large (in cell 1, line 2" in lines(result, "total")
