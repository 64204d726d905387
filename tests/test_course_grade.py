"""Grading many: what is read, that everyone gets a result, points, reports, the command line, and the exports."""

import csv
import io
import json
import os
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tinygrad_norm.cli import main
from tinygrad_norm.course import command, load
from tinygrad_norm.course import grade as grade_module
from tinygrad_norm.course.arguments import SELF_CHECK
from tinygrad_norm.course.assignment import read
from tinygrad_norm.course.grade import Grading, file_names, grade_all, grade_one
from tinygrad_norm.course.notebooks import notebook
from tinygrad_norm.course.report import class_report, class_text, csv_text, gradescope_results, student_html, table, write_all
from tinygrad_norm.course.sandbox import WorkerError, best_mode
from tinygrad_norm.course.submission import LARGEST, Submission, assignment_of, find, read_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need a POSIX system")
SOLUTION = notebook(load("a3"), "solution")
ROOT = Path(__file__).parent.parent
NUMERIC = """
def layer_norm_backward(dy, x, weight, eps, h=1e-6):
    dx = np.empty_like(x)
    f = lambda x: (dy * weight * (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)).sum(-1)
    for j in range(x.shape[-1]):
        e = np.zeros_like(x)
        e[..., j] = h
        dx[..., j] = (f(x + e) - f(x - e)) / (2 * h)
    return dx
"""
LOOPS = """
def layer_norm_backward(dy, x, weight, eps):
    _, xhat, rstd = layer_norm_forward(x, weight, 0.0, eps)
    shape = x.shape
    dy, xhat, rstd = dy.reshape(-1, shape[-1]), xhat.reshape(-1, shape[-1]), rstd.reshape(-1)
    dx = np.empty_like(dy)
    for n in range(len(dy)):
        d, h = (dy[n] * weight).tolist(), xhat[n].tolist()
        m = sum(d) / len(d)
        k = sum(a * b for a, b in zip(d, h)) / len(d)
        for j in range(len(d)):
            dx[n, j] = rstd[n] * (d[j] - m - h[j] * k)
    return dx.reshape(shape)
"""


def solved(change=("", ""), extra=""):
    cells = ["".join(c["source"]) for c in json.loads(SOLUTION)["cells"] if c["cell_type"] == "code"]
    if change[0]:
        assert any(change[0] in c for c in cells)
    return [c.replace(*change) if change[0] else c for c in cells] + ([extra] if extra else [])


def graded(cells, **how):
    return grade_one(Grading(load("a3"), best_mode()[0], **how), Submission("one", cells))


def lines(result, task):
    return " ".join(next(t for t in result["tasks"] if t["name"] == task)["lines"])


# -- Points ---------------------------------------------------------------------------------------------------------------------------------


def test_the_solution_has_all_points_and_an_empty_one_none():
    assert graded(solved())["score"] == 15
    student = ["".join(c["source"]) for c in json.loads(notebook(load("a3")))["cells"] if c["cell_type"] == "code"]
    result = graded(student)
    assert result["score"] == 0 and all(t["misconceptions"] == ["not begun"] for t in result["tasks"])
    assert graded([])["score"] == 0


def test_partial_credit():
    result = graded(solved(("* -0.5 *", "* -1.0 *")))
    assert result["score"] == 12  # dvar has one share of five, dx two
    assert "the first that is wrong: dvar" in lines(result, "layer_norm_staged")
    result = graded(solved(("dbias = dy.sum(axis=samples)", "dbias = dy.mean(axis=samples)")))
    assert result["score"] == 14 and "dβ: mean over the batch" in lines(result, "layer_norm_parameters")


def test_a_later_task_works_on_the_reference_where_an_earlier_one_failed():
    result = graded(solved(("xhat = (x - mean) * rstd", "xhat = (x - mean) * rstd * 2")))
    assert lines(result, "layer_norm_backward") == "run on the reference's layer_norm_forward"
    assert [t["right"] for t in result["tasks"]] == [False, True, True, True]


def test_a_numeric_derivative_is_caught_and_loops_are_not():
    result = graded(solved(extra=NUMERIC))
    assert result["score"] == 10 and "a difference quotient loses them" in lines(result, "layer_norm_backward")
    result = graded(solved(extra=NUMERIC.replace("    dx =", "    h *= np.abs(x).max()\n    dx =", 1)))  # a step in proportion keeps its digits, but not the time
    assert result["score"] == 10 and "a derivative taken numerically" in lines(result, "layer_norm_backward")
    assert graded(solved(extra=LOOPS))["score"] == 15


def test_one_broken_cell_does_not_cost_the_others(monkeypatch):
    monkeypatch.setattr(grade_module, "LOOPS", 0.5)
    result = graded(solved(("dweight = (dy * xhat)", "dweight = (dy * xhat")))
    assert result["score"] == 13 and "SyntaxError" in lines(result, "layer_norm_parameters")
    result = graded(["import torch", "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1])", *solved(), "for i in range(10**12): pass", "input()"])
    assert result["score"] == 15 and any("No module named 'torch'" in n for n in result["notes"])


def test_what_a_notebook_may_hold_beside_python():
    """A form feed or a line separator within a comment, a line that goes on with %, a question, a dataclass with annotations."""
    odd = (
        "# pasted\u2028from slides \x0b \x0c",
        "import dataclasses\n@dataclasses.dataclass\nclass Cache:\n    xhat: np.ndarray\n    rstd: float = 1.0\n",
        "half = (10\n    % 4)\nassert half == 2",
        "%matplotlib inline\nnp.sum?\nrest = 1",
    )
    result = graded([*odd, *solved(extra="used = Cache(half, rest)")])
    assert result["score"] == 15 and not result["notes"], result["notes"]


def test_a_race_is_not_won_by_what_is_called_for_no_work():
    cells = [cell for cell in load("a6").solution_cells() if "backward" not in cell]  # one race is enough
    slow = "globals()['no work at all'] = lambda *a: __import__('time').sleep(0.01)"
    result = grade_one(Grading(load("a6"), best_mode()[0]), Submission("one", [*cells, slow]))
    said = " ".join(text for task in result["tasks"] for text in task["lines"])
    times = [float(n) for n in re.findall(r"([\d.]+) times as fast", said)]
    assert len(times) == 1 and times[0] < 1000


def test_a_mistake_of_the_instructor_is_no_students(tmp_path, capsys):
    (tmp_path / "ada.ipynb").write_text(SOLUTION, encoding="utf-8")
    assert main(["grade", str(tmp_path / "ada.ipynb"), "--seed", "-1", "--out", str(tmp_path / "grades")]) == 2
    assert "--seed must be from 0 to 4294967295; got -1" in capsys.readouterr().err


def test_hints():
    wrong = solved(("d - d.mean(axis=-1, keepdims=True)", "d"))
    assert "mean taken as constant" in lines(graded(wrong), "layer_norm_backward")
    term = lines(graded(wrong, hints="term"), "layer_norm_backward")
    assert "mean taken as constant" not in term and "look again at: ∂x̂/∂x has three paths" in term
    none = graded(wrong, hints="none")
    assert lines(none, "layer_norm_backward") == "" and none["tasks"][3]["misconceptions"] == ["mean taken as constant"]


RACE = '''# %% [markdown]
# # A race
# %% task="total" points=4
def total(x):
    ### BEGIN SOLUTION
    s = 0.0
    for v in x.ravel():
        s = s + v
    return s
    ### END SOLUTION
# %% grader
from tinygrad_norm.course.task import Case, Faster, Output, Values, task
task(total, cases=lambda rng: [Case("general", Values(x=rng.standard_normal((5, 4))))], outputs=[Output("s", line="s = Σ x")],
     faster=Faster(5, lambda rng: Values(x=rng.standard_normal((300, 300)))), seconds=2.0)
'''


def test_a_race_against_the_reference(tmp_path):
    (tmp_path / "b3_race.py").write_text(RACE)
    race = read(tmp_path / "b3_race.py")
    grading = Grading(race, best_mode()[0])
    fast = grade_one(grading, Submission("fast", ["def total(x): return x.sum()"]))
    assert fast["score"] == 4 and "asked for: 5" in lines(fast, "total")
    slow = grade_one(grading, Submission("slow", race.solution_cells()))
    assert 2 <= slow["score"] < 3.5
    cheat = grade_one(grading, Submission("cheat", ["seen = {}\ndef total(x):\n    if x.size < 100: return x.sum()\n    while 1: pass"]))
    assert cheat["score"] == 0 and "did not come back in time" in lines(cheat, "total")


def test_a_race_in_a_cell(tmp_path):
    (tmp_path / "b3_race.py").write_text(RACE)
    race = read(tmp_path / "b3_race.py")
    space = {}
    exec("def total(x): return x.sum()", space)
    fast = race.check(space["total"])
    assert fast.right and "asked for: 5" in str(fast)
    slow = race.check(race.reference.total)
    assert not slow.right and slow.result.points < 4 and slow.result.to_dict()["misconceptions"] == ["right, but too slow"]


def test_wrong_as_soon_as_it_is_timed(tmp_path):
    (tmp_path / "b3_race.py").write_text(RACE)
    cheat = ["def total(x): return x.sum() if x.size < 100 else 0.0"]
    result = grade_one(Grading(read(tmp_path / "b3_race.py"), best_mode()[0]), Submission("cheat", cheat))
    assert result["score"] == 0 and "wrong when it is timed" in lines(result, "total")


def test_numba_kernels_in_the_worker():
    """a6: right answers are timed; a mistake in the derivation, a lost NaN and a kernel that only takes contiguous inputs are told apart."""
    a6 = load("a6")
    assert a6.tasks["layer_norm_kernel"].packages == ("numpy", "numba")
    flat = "@njit\ndef relu_kernel(x):\n    y = x.copy().reshape(-1)\n    for i in range(y.size):\n        y[i] = y[i] if y[i] > 0 else 0\n    return y.reshape(x.shape)"
    cells = [c for c in a6.solution_cells() if "def relu_kernel" not in c and "def layer_norm_backward_kernel" not in c]
    result = grade_one(Grading(a6, best_mode()[0]), Submission("one", [*cells, flat]))
    relu, forward, backward = result["tasks"]
    assert 0 < relu["points"] < relu["out_of"] and "NaN" in lines(result, "relu_kernel")
    assert "times as fast as layer_norm_numpy; asked for: 5" in lines(result, "layer_norm_kernel") and forward["points"] > 2.5
    assert backward["misconceptions"] == ["not there"]


# -- What is read -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A class's folder with all kinds of entries in it."""
    place = tmp_path / "class"
    (place / "ada" / "a3").mkdir(parents=True)
    (place / "ada" / "a3" / "a3_layer_norm.ipynb").write_text(SOLUTION)
    (place / "ada" / "other.py").write_text("x = 1")
    (place / "ada" / ".ipynb_checkpoints").mkdir()
    (place / "ada" / ".ipynb_checkpoints" / "a3_layer_norm.ipynb").write_text("{")
    (place / "bob.py").write_text("\n".join(solved()))
    (place / "broken.ipynb").write_text("{")
    (place / "empty").mkdir()
    (place / "list.ipynb").write_text("[1]")
    (place / "deep.ipynb").write_text("[" * 100000)
    (place / "binary.py").write_bytes(bytes(range(256)))
    (place / "large.py").write_bytes(b"#" * (LARGEST + 10))
    (place / "not_a_zip.zip").write_text("no")
    (place / "notes.txt").write_text("not a submission")
    (place / "link.py").symlink_to("/etc/passwd")
    with zipfile.ZipFile(place / "zed.zip", "w") as zipped:
        zipped.writestr("a3/a3.ipynb", SOLUTION)
        zipped.writestr("__MACOSX/a3.ipynb", "junk")
    with zipfile.ZipFile(place / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        for i in range(12):
            zipped.writestr(f"{i}.py", b"#" * (LARGEST + 1))
    os.mkfifo(place / "pipe.py")
    return place


def test_everyone_gets_a_result(folder, tmp_path):
    submissions = list(find([folder], list(load("a3").tasks)))
    results = grade_all(Grading(load("a3"), best_mode()[0]), submissions, tmp_path / "out", 2)
    scores = {r["submission"]: r["score"] for r in results}
    assert scores == {"ada": 15, "bob": 15, "zed": 15} | dict.fromkeys(
        ["binary", "bomb", "broken", "deep", "empty", "large", "link.py", "list", "not_a_zip", "notes.txt", "pipe"], 0
    )
    why = {r["submission"]: r["needs_attention"] for r in results}
    assert "too large" in why["large"] and "it is a link" in why["link.py"] and "cannot be unpacked" in why["not_a_zip"]
    assert "no .ipynb or .py in it" in why["empty"] and "unpacks to more than" in why["bomb"]
    assert all(why[n] for n in ("broken", "list", "deep"))
    assert why["notes.txt"] == "notes.txt is no submission: expected .ipynb, .py, .zip or a folder"
    write_all(results, tmp_path / "out")
    assert len(list((tmp_path / "out" / "students").glob("*.html"))) == len(results) == 14


def test_a_zip_of_the_whole_class(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as zipped:
        for name in ("ada", "bob"):
            zipped.writestr(f"a3 submissions/{name}/work.ipynb", SOLUTION)
        zipped.write(folder / "zed.zip", "a3 submissions/zed.zip")
    found = list(find([tmp_path / "all.zip"], list(load("a3").tasks)))
    assert [s.name for s in found] == ["ada", "bob", "zed"]
    assert all("def layer_norm_forward" in s.code for s in found)


def test_a_zip_of_the_whole_class_without_folders(tmp_path):
    """Everyone's notebook under one folder, or at the top; of one student's several files the last that is written, not the stub."""
    wanted = list(load("a3").tasks)
    stub = notebook(load("a3"), "student")
    for prefix in ("a3/", ""):
        with zipfile.ZipFile(tmp_path / "flat.zip", "w") as zipped:
            for name in ("cleo", "ada"):
                zipped.writestr(f"{prefix}{name}.ipynb", SOLUTION)
        assert [s.name for s in find([tmp_path / "flat.zip"], wanted)] == ["ada", "cleo"]
    folder = tmp_path / "ben"
    folder.mkdir()
    for name, text in (("a3_v1", stub), ("a3_v2", SOLUTION), ("a3_v3", SOLUTION.replace("import numpy as np", "import numpy as np  # the last", 1)), ("z", stub)):
        (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")
    (mine,) = find([folder], wanted, one=True)
    assert "# the last" in mine.code
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as zipped:
        for i in range(2001):
            zipped.writestr(f"{i}.py", "")
    (refused,) = find([tmp_path / "many.zip"], wanted)
    assert "holds more than 2000 notebooks and scripts: unpack it" in refused.problem


def test_no_such_submission(tmp_path):
    with pytest.raises(ValueError, match="there is no "):
        list(find([tmp_path / "nobody"]))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"expected \.ipynb, \.py, \.zip or a folder"):
        list(find([tmp_path / "a.txt"]))


def test_answers_in_words():
    text = SOLUTION.replace("The means are over the axes", "My answer: the means are over the axes")
    made = read_file("x", "x.ipynb", text.encode())
    assert "My answer" in made.answers["gamma_inside"] and set(made.answers) == {"gamma_inside", "blind_loss"}
    script = read_file("x", "x.py", b'# %% [markdown] question="gamma_inside"\n# Because.\n# %%\nx = 1\n')
    assert script.answers == {"gamma_inside": "Because.\n"} and script.cells == ["# %%\nx = 1\n"]
    result = grade_one(Grading(load("a3"), best_mode()[0]), script)
    assert result["questions"][0]["answer"] == "Because.\n" and result["by_hand"] == 3


def test_which_assignment():
    assert assignment_of([Submission("x", ['check = load("a3").check'])]).id == "a3"
    assert assignment_of([Submission("x", ["def layer_norm_staged(): pass"]), Submission("y", [""])]).id == "a3"
    with pytest.raises(ValueError, match="which assignment is it"):
        assignment_of([Submission("x", ["y = 1"])])


# -- Many at once ---------------------------------------------------------------------------------------------------------------------------


def test_resumed(tmp_path, monkeypatch):
    count = []
    inner = grade_module.grade_one
    monkeypatch.setattr(grade_module, "grade_one", lambda g, s: count.append(s.name) or inner(g, s))
    people = [Submission(n, solved(), digest=n) for n in ("ada", "bob", "cleo")]
    grading = Grading(load("a3"), best_mode()[0])
    first = grade_all(grading, people[:2], tmp_path, 2)
    again = grade_all(grading, people, tmp_path, 2)
    assert sorted(count) == ["ada", "bob", "cleo"] and again[:2] == first
    people[0].digest = "changed"
    (tmp_path / "students" / "bob.json").write_text('{"half a fi')
    grade_all(grading, people, tmp_path, 2)
    assert sorted(count[3:]) == ["ada", "bob"]
    grade_all(Grading(load("a3"), grading.mode, seed=2), people, tmp_path, 2)
    assert len(count) == 8
    assert not list(tmp_path.rglob("*.part"))


def test_a_fault_of_the_grader_costs_one_result_only(tmp_path, monkeypatch):
    inner = grade_module.judge

    def faulty(task, cases, answers):
        if "marked" in str(answers[0].get("printed")):
            raise ZeroDivisionError("a fault of the grader's")
        return inner(task, cases, answers)

    monkeypatch.setattr(grade_module, "judge", faulty)
    marked = solved(("samples = ", "print('marked')\n    samples = "))
    results = grade_all(Grading(load("a3"), best_mode()[0]), [Submission("a", solved()), Submission("b", marked), Submission("c", solved())], tmp_path, 2)
    assert [r["score"] for r in results] == [15, 3, 15]
    assert "the grader failed on it: ZeroDivisionError" in results[1]["needs_attention"] and len(results[1]["tasks"]) == 4


def test_an_interruption_does_not_wait_for_those_that_have_not_begun(monkeypatch):
    begun = []

    def one(grading, submission):
        begun.append(submission.name)
        time.sleep(0.05)
        return {"name": submission.name}

    def tick():
        raise KeyboardInterrupt

    monkeypatch.setattr(grade_module, "grade_one", one)
    with pytest.raises(KeyboardInterrupt):
        grade_all(Grading(load("a3"), best_mode()[0]), [Submission(str(i), []) for i in range(50)], jobs=2, tick=tick)
    assert len(begun) < 10


def test_half_a_surrogate_pair_is_written(tmp_path):
    bad = Submission("\ud800 strange", solved(("samples = ", 'raise ValueError("\\ud800")\n    samples = ')), {"gamma_inside": "\ud800"})
    results = grade_all(Grading(load("a3"), best_mode()[0]), [bad], tmp_path)
    write_all(results, tmp_path)
    assert results[0]["score"] == 13


def test_file_names():
    assert file_names(["a/b", "A_b", "../x", "", "é ü", "a~2"]) == ["a_b", "A_b~2", "_x", "submission", "é ü", "a_2"]
    assert all(0 < len(name.encode()) <= 103 for name in file_names(["数" * 80, "数" * 90, "x" * 300]))


# -- Reports ----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    people = [
        Submission("=SUM(A1)", solved()), Submission("<script>", solved(("d - d.mean(axis=-1, keepdims=True)", "d"))),
        Submission("cleo", solved(("d - d.mean(axis=-1, keepdims=True)", "d")), {"gamma_inside": "<b>γ</b>"}), Submission("dan", problem="it is a link, not a file"),
    ]  # fmt: skip
    return grade_all(Grading(load("a3"), best_mode()[0]), people, jobs=2)


def test_class_report(results):
    report = class_report(results)
    assert (report["submissions"], report["mean"], report["median"]) == (4, 8.75, 10)
    assert report["tasks"]["layer_norm_backward"]["misconceptions"] == {"mean taken as constant": ["<script>", "cleo"], "cannot be read": ["dan"]}
    assert "     2  mean taken as constant" in class_text(report)
    assert class_report([])["submissions"] == 0 and table([]) == "no submissions"


def test_csv_has_no_formulas(results):
    rows = list(csv.DictReader(io.StringIO(csv_text(results))))
    assert [r["submission"] for r in rows] == ["'=SUM(A1)", "<script>", "cleo", "dan"]
    assert [float(r["score"]) for r in rows] == [15, 10, 10, 0]
    assert rows[1]["misconceptions"] == "layer_norm_backward: mean taken as constant"


def test_html_is_escaped(results, tmp_path):
    page = student_html(results[1])
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "&lt;b&gt;γ&lt;/b&gt;" in student_html(results[2])
    write_all(results, tmp_path)
    assert "<script>" not in (tmp_path / "class.html").read_text(encoding="utf-8")


def test_gradescope_results(results):
    made = gradescope_results(results[1])
    assert set(made) <= {"score", "execution_time", "output", "output_format", "visibility", "stdout_visibility", "extra_data", "tests", "leaderboard"}
    assert made["score"] == sum(t["score"] for t in made["tests"]) == 10
    assert all(t["status"] in ("passed", "failed") and t["score"] <= t["max_score"] for t in made["tests"])
    assert "mean taken as constant" in made["tests"][3]["output"]


# -- The command line -----------------------------------------------------------------------------------------------------------------------


def test_check(tmp_path, capsys):
    (tmp_path / "mine.ipynb").write_text(SOLUTION)
    assert main(["check", str(tmp_path / "mine.ipynb")]) == 0
    out = capsys.readouterr().out
    assert SELF_CHECK in out and "15 of 15 points; 3 more for the written answers" in out and best_mode()[0] in out
    (tmp_path / "mine.py").write_text("\n".join(solved(("* -0.5 *", "* -1.0 *"))))
    assert main(["check", str(tmp_path / "mine.py")]) == 1
    assert "✗ layer_norm_staged: 2 of 5" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "nobody.py")]) == 2
    assert "which is not there" in capsys.readouterr().err
    (tmp_path / "bad.ipynb").write_text("{")
    assert main(["check", str(tmp_path / "bad.ipynb")]) == 2
    assert "bad.ipynb is no notebook" in capsys.readouterr().err


def test_grade(folder, tmp_path, capsys):
    assert main(["grade", str(folder), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert f"sandbox: {best_mode()[0]}" in out and "14 submissions" in out and "\n! empty: there is no .ipynb or .py in it\n" in out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"grades.csv", "class.html", "class.json", "class.txt", "students"}
    one = ["grade", "--one", str(folder / "ada"), "--out", str(tmp_path / "one"), "--results", str(tmp_path / "results.json")]
    assert main(one) == 0
    assert json.loads((tmp_path / "results.json").read_text())["score"] == 15
    assert main(["grade", str(tmp_path / "nobody"), "--out", str(tmp_path / "new")]) == 2
    assert main(["grade", str(folder), "--out", str(tmp_path / "new"), "--results", str(tmp_path / "results.json")]) == 2
    assert "--results is for one submission; there are 14" in capsys.readouterr().err and not (tmp_path / "new").exists()
    assert main(["grade", str(folder), "--out", str(tmp_path / "out"), "--jobs", "0"]) == 2


@pytest.mark.parametrize("places", [("grades", "grades", "again"), (".", "."), (".", "grades")])
def test_results_among_the_submissions_are_no_students(places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ada.py").write_text("\n".join(solved()))
    Path(places[0], "students").mkdir(parents=True)  # a run was interrupted
    for place in places:
        assert main(["grade", ".", "--out", place]) == 0
        assert "1 submission, mean 15" in capsys.readouterr().out
    (tmp_path / "ben" / "students").mkdir(parents=True)  # whoever hands in a folder without work is still told
    assert main(["grade", ".", "--out", places[-1]]) == 0
    assert re.search(r"^ben .*!$", capsys.readouterr().out, re.MULTILINE)


def test_without_a_sandbox_it_asks(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "best_mode", lambda: ("plain", ("bubblewrap: there is no bwrap", "landlock: none")))
    words = ["grade", str(folder / "bob.py"), "--out", str(tmp_path)]
    assert main(words) == 2
    said = capsys.readouterr()
    assert SELF_CHECK in said.err and "--unsafe" in said.err and "sandbox: plain (not bubblewrap: there is no bwrap)" in said.out
    assert not (tmp_path / "students").exists()
    assert main([*words, "--unsafe"]) == 0
    result = json.loads((tmp_path / "students" / "bob.json").read_text())
    assert result["official"] is False and SELF_CHECK in (tmp_path / "students" / "bob.html").read_text()


def test_no_mode_at_all(monkeypatch):
    from tinygrad_norm.course import sandbox

    monkeypatch.setattr(sandbox, "works", lambda mode: (False, "broken"))
    with pytest.raises(WorkerError, match="no worker starts here: bubblewrap: broken; landlock: broken; plain: broken"):
        sandbox.best_mode.__wrapped__()


def test_list(capsys):
    assert main(["course", "list"]) == 0
    assert "layer_norm_backward(dy, x, weight, eps) → dx: 5" in capsys.readouterr().out


def test_arguments_are_copies():
    """A student who changes what he is given in place changes nothing for the next case."""
    task = load("a3").tasks["layer_norm_parameters"]
    case = task.draw(0, True)[0]
    before = case.values.dy.copy()
    for array in task.arguments(case.values):
        array *= 0
    assert np.array_equal(case.values.dy, before)
