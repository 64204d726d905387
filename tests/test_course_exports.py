"""The exports of every assignment: plain notebooks, Gradescope's zip in a folder laid out as there, and nbgrader's pipeline where it is installed."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tinygrad_norm.cli import main
from tinygrad_norm.course import load, names
from tinygrad_norm.course.export import export, nbgrader_points
from tinygrad_norm.course.notebooks import notebook
from tinygrad_norm.course.sandbox import best_mode

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need a POSIX system")
ROOT = Path(__file__).parent.parent
NBGRADER = shutil.which("nbgrader")
# Of a6 every task starts a second worker and compiles twice: only its first task is handed in where the others' are only tried for the pipeline.
SOLVED = {name: list(load(name).tasks) if name != "a6_kernel" else ["relu_kernel"] for name in names()}


def points(name, tasks):
    return sum(load(name).tasks[t].points for t in tasks)


def half(name):
    """Every second task, so that the later ones need the reference's functions."""
    return SOLVED[name][::2] if len(SOLVED[name]) > 1 else []


def handed_in(name, tasks, given=None):
    """The student's notebook (or the one given) with some tasks solved and the others left as they are."""
    made = json.loads(notebook(load(name))) if given is None else json.loads(json.dumps(given))
    solved = {c.options["task"]: c.solved for c in load(name).cells if c.kind == "task"}
    for cell in made["cells"]:
        task = cell["metadata"].get("tinygrad_norm", {}).get("task")
        if task in tasks:
            cell["source"] = solved[task]
    return json.dumps(made)


def guides_source():
    return (ROOT / "notebooks" / "assignments" / "instructors_guide.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


# -- Plain --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_plain(name, tmp_path):
    assert main(["course", "export", name.split("_")[0], "--to", "plain", "-o", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.ipynb", f"{name}_solution.ipynb"}
    assert (tmp_path / f"{name}.ipynb").read_text(encoding="utf-8") == (ROOT / "notebooks" / "assignments" / f"{name}.ipynb").read_text(encoding="utf-8")


def test_what_is_not_there(tmp_path):
    assert main(["course", "export", "a77", "--to", "plain", "-o", str(tmp_path)]) == 2
    with pytest.raises(ValueError, match="--to is nbgrader, gradescope or plain"):
        export(load("a3"), "moodle", tmp_path)


# -- Gradescope ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_gradescope(name, tmp_path):
    archive, student = export(load(name), "gradescope", tmp_path)
    assert student.name == f"{name}.ipynb"
    root = tmp_path / "autograder"
    with zipfile.ZipFile(archive) as zipped:
        assert {"setup.sh", "run_autograder"} <= set(zipped.namelist())
        assert not [n for n in zipped.namelist() if "/assignments/" in n and name not in n]
        assert all(zipped.getinfo(n).external_attr >> 16 & 0o111 for n in ("setup.sh", "run_autograder"))
        zipped.extractall(root / "source")
    assert ("numba" in (root / "source" / "setup.sh").read_text()) == (name == "a6_kernel")
    script = root / "source" / "run_autograder"
    if best_mode()[0] == "plain":
        script.write_text(script.read_text().replace("--hints full", "--hints full --unsafe"))
    environment = {"PATH": os.environ["PATH"], "AUTOGRADER": str(root), "PYTHON": sys.executable}
    subprocess.run(["bash", "-n", str(root / "source" / "setup.sh")], check=True)

    def graded(text):
        shutil.rmtree(root / "submission", ignore_errors=True)
        (root / "submission").mkdir()
        (root / "submission" / "mine.ipynb").write_text(text, encoding="utf-8")
        run = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return json.loads((root / "results" / "results.json").read_text())

    made = graded(handed_in(name, SOLVED[name]))
    assert made["score"] == points(name, SOLVED[name]) == sum(t["score"] for t in made["tests"])
    assert [t["name"] for t in made["tests"]] == list(load(name).tasks)
    made = graded(handed_in(name, half(name)))
    assert made["score"] == points(name, half(name))
    assert {t["name"] for t in made["tests"] if t["status"] == "failed"} == set(load(name).tasks) - set(half(name))
    assert any("is not written yet" in t["output"] for t in made["tests"])


def test_gradescope_of_a_source_of_ones_own(tmp_path):
    """Which is in no package that a student can have; the guide's example."""
    (tmp_path / "b1_power.py").write_text(guides_source(), encoding="utf-8")
    archive, student = export(load(str(tmp_path / "b1_power.py")), "gradescope", tmp_path)
    with zipfile.ZipFile(archive) as zipped:
        assert [n for n in zipped.namelist() if "/assignments/" in n] == ["package/tinygrad_norm/course/assignments/b1_power.py"]
        zipped.extractall(tmp_path / "source")
    (tmp_path / "submission").mkdir()
    work = student.read_text(encoding="utf-8").replace("raise NotImplementedError()", "dx = x**2 * dy")
    (tmp_path / "submission" / "mine.ipynb").write_text(work, encoding="utf-8")
    script = tmp_path / "source" / "run_autograder"
    if best_mode()[0] == "plain":
        script.write_text(script.read_text().replace("--hints full", "--hints full --unsafe"))
    environment = {"PATH": os.environ["PATH"], "AUTOGRADER": str(tmp_path), "PYTHON": sys.executable}
    run = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    made = json.loads((tmp_path / "results" / "results.json").read_text())
    assert made["score"] == 0 and "forgot the factor 3" in made["tests"][0]["output"]


def test_gradescope_where_the_grader_does_not_start(tmp_path):
    """The result that was written first stands."""
    archive, _ = export(load("a3"), "gradescope", tmp_path)
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(tmp_path / "source")
    environment = {"PATH": os.environ["PATH"], "AUTOGRADER": str(tmp_path), "PYTHON": "/bin/false"}
    assert subprocess.run(["bash", str(tmp_path / "source" / "run_autograder")], env=environment, capture_output=True).returncode == 1
    made = json.loads((tmp_path / "results" / "results.json").read_text())
    assert made["score"] == 0 and "tell your instructor" in made["output"] and not list((tmp_path / "results").glob("*.part"))


# -- nbgrader -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_nbgrader_metadata(name, tmp_path):
    """Schema 3; a solution cell and a graded test for each task, a cell graded by hand for each question, and all the points."""
    this = load(name)
    cells = [c for c in json.loads(export(this, "nbgrader", tmp_path)[0].read_text(encoding="utf-8"))["cells"] if "nbgrader" in c["metadata"]]
    found = {c["metadata"]["nbgrader"]["grade_id"]: c for c in cells}
    assert set(found) == {*this.tasks, *(f"test_{t}" for t in this.tasks), *(q.name for q in this.questions)} and len(found) == len(cells)
    for cell in cells:
        said = cell["metadata"]["nbgrader"]
        assert said["schema_version"] == 3 and set(said) <= {"schema_version", "grade", "locked", "solution", "task", "grade_id", "points"}
        assert ("points" in said) == said["grade"] and said["grade"] + said["solution"] > 0
    assert sum(c["metadata"]["nbgrader"].get("points", 0) for c in cells) == this.out_of
    for task in this.tasks:
        source = "".join(found[f"test_{task}"]["source"])
        assert source.startswith(f"check({task})\n### BEGIN HIDDEN TESTS") and source.rstrip().endswith("### END HIDDEN TESTS")


@pytest.mark.parametrize("name", [n for n in names() if n != "a6_kernel"])
def test_points_in_a_cell_of_nbgrader(name, capfd):
    """The last task, which leans on others, by the notebook's history; nothing on stderr, or nbgrader gives no points."""
    this = load(name)
    task = list(this.tasks)[-1]
    cells = ["".join(c["source"]) for c in json.loads(handed_in(name, [task]))["cells"] if c["cell_type"] == "code"]
    assert nbgrader_points(this.id, task, cells) == this.tasks[task].points
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "given", "task"), [("b1_power", 3, "cube_backward"), ("a4_batch_norm", 8, "batch_norm_backward"), ("a4_mine", 8, "batch_norm_backward")]
)
def test_nbgrader_grades_by_what_was_exported(name, given, task, tmp_path, monkeypatch):
    """A source of one's own, and one whose points were changed: as many points as the notebook says, and no solution in what is handed out."""
    text = guides_source() if name == "b1_power" else (load("a4").text).replace(f'task="{task}" points=5', f'task="{task}" points={given}')
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    course = tmp_path / "course"
    assert main(["course", "export", str(tmp_path / f"{name}.py"), "--to", "nbgrader", "-o", str(course)]) == 0
    assert [p.name for p in (course / "source").rglob("*") if p.is_file()] == [f"{name}.ipynb"]
    cells = json.loads((course / "source" / name / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    (test,) = (c for c in cells if c["metadata"].get("nbgrader", {}).get("grade_id") == f"test_{task}")
    assert test["metadata"]["nbgrader"]["points"] == given and test["metadata"]["nbgrader"]["locked"]
    solved = ["".join(c["source"]) for c in cells if c["cell_type"] == "code" and c["metadata"].get("tinygrad_norm", {}).get("task") in (None, task)]
    (call,) = (line for line in "".join(test["source"]).splitlines() if line.startswith("nbgrader_points("))
    autograded = course / "autograded" / "ada" / name
    autograded.mkdir(parents=True)
    for place in (autograded, tmp_path):  # a student's own is not asked, nor what the instructor has changed since
        (place / f"{name}.py").write_text(text.replace("points=", "points=9"), encoding="utf-8")
    (autograded / "nbgrader_config.py").write_text("")
    monkeypatch.chdir(autograded)
    assert eval(call, {"nbgrader_points": nbgrader_points, "In": solved}) == given
    (course / f"{name}.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"belongs beside nbgrader_config\.py"):
        eval(call, {"nbgrader_points": nbgrader_points, "In": solved})


@pytest.mark.skipif(NBGRADER is None, reason="nbgrader is not installed: pip install nbgrader")
@pytest.mark.parametrize("name", names())
def test_nbgrader(name, tmp_path):
    """generate_assignment, autograde and generate_feedback: a solution, an empty one, half of one, and one that has patched NumPy."""
    export(load(name), "nbgrader", tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*words):
        done = subprocess.run([NBGRADER, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run("generate_assignment", name)
    released = json.loads((tmp_path / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8"))
    text = json.dumps(released)
    assert "HIDDEN" not in text and "nbgrader_points" not in text and "SOLUTION" not in text
    first = next(iter(load(name).tasks))
    patched = handed_in(name, SOLVED[name], released).replace(
        f"def {first}(", f"np.allclose = np.array_equal = lambda *a, **k: True\\nnp.abs = lambda a: 0 * a\\ndef {first}(*given): return given\\ndef not_{first}(", 1)  # fmt: skip
    students = {
        "ada": handed_in(name, SOLVED[name], released), "ben": handed_in(name, [], released),
        "cleo": handed_in(name, half(name), released), "eve": patched,
    }  # fmt: skip
    for who, work in students.items():
        place = tmp_path / "submitted" / who / name
        place.mkdir(parents=True)
        (place / f"{name}.ipynb").write_text(work, encoding="utf-8")
    run("autograde", name)
    run("generate_feedback", name)
    run("export")
    with open(tmp_path / "grades.csv") as file:
        scores = {r["student_id"]: float(r["raw_score"]) for r in csv.DictReader(file)}
    whole = points(name, SOLVED[name])
    assert scores == {"ada": whole, "ben": 0, "cleo": points(name, half(name)), "eve": whole - points(name, [first])}
    for who in students:
        page = (tmp_path / "feedback" / who / name / f"{name}.html").read_text(encoding="utf-8")
        assert ("is not written yet" in page) == (who in ("ben", "cleo") or name == "a6_kernel")
