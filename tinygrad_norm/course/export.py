"""Assignments for other systems: nbgrader, Gradescope, or plain notebooks."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ..serialization import replacing
from .assignment import FOLDER, Assignment, load
from .grade import Grading, grade_one, write_atomically
from .notebooks import notebook
from .sandbox import best_mode
from .submission import Submission

__all__ = ["export", "nbgrader_points"]


def export(assignment: Assignment, to: str, out: Path) -> list[Path]:
    """Writes an assignment for a system.

    Args:
        assignment: which.
        to: "plain": the student's and the solution's notebook; "nbgrader": a course folder with the source to generate from,
            and beside it the assignment to grade by, where the package has not the same;
            "gradescope": the zip of an autograder, and the student's notebook.
        out: the folder, made where it is not there.
    Returns:
        The files written.
    Raises:
        ValueError: another system.
    """
    out.mkdir(parents=True, exist_ok=True)
    name = assignment.name
    archives: list[Path] = []
    if to == "plain":
        files = {out / f"{name}.ipynb": notebook(assignment), out / f"{name}_solution.ipynb": notebook(assignment, "solution")}
    elif to == "nbgrader":
        folder = out / "source" / name
        folder.mkdir(parents=True, exist_ok=True)
        files = {folder / f"{name}.ipynb": notebook(assignment, "nbgrader"), out / "nbgrader_config.py": _NBGRADER_CONFIG}
        if not assignment.packaged:
            files[out / f"{name}.py"] = assignment.text  # not in source/, all of which is handed out
    elif to == "gradescope":
        files = {out / f"{name}.ipynb": notebook(assignment)}
        archives = [out / f"{name}_gradescope.zip"]
        _gradescope_zip(assignment, archives[0])
    else:
        raise ValueError(f"--to is nbgrader, gradescope or plain; got {to!r}")
    for path, text in files.items():
        write_atomically(path, text)
    return [*archives, *files]


# -- 1. nbgrader ------------------------------------------------------------------------------------------------------------------------------

_NBGRADER_CONFIG = """c = get_config()  # noqa: F821
c.CourseDirectory.root = __import__("os").path.dirname(__import__("os").path.abspath(__file__))
c.ExecutePreprocessor.timeout = 120
c.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\\nraise NotImplementedError()"}
"""


def nbgrader_points(assignment: str, task: str, cells: Sequence[str]) -> float:
    """The points of one task, for the hidden test in nbgrader's notebook, where the last value of a cell is its points.

    The notebook's process is the student's, who may have patched anything in it. So its cells are sent to a fresh process, which runs them
    in a sandboxed worker and judges the answers. Who goes as far as to patch this function is beyond nbgrader's means:
    `tinygrad-norm grade` on the folder of submitted notebooks is not concerned.

    Args:
        assignment: its id; or the name of a source of one's own, which lies in the course's folder.
        task: the function. cells: the notebook's history, IPython's `In`.
    Raises:
        FileNotFoundError: the source is not there.
    """
    if assignment.endswith(".py"):
        courses = [p for p in reversed(Path.cwd().parents) if (p / "nbgrader_config.py").is_file()]  # the first is the outermost, and no student's
        if not courses or not (courses[0] / assignment).is_file():
            raise FileNotFoundError(f"{assignment} is not in the course's folder: it belongs beside nbgrader_config.py, as it was exported")
        assignment = str(courses[0] / assignment)
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, "-m", "tinygrad_norm.course.export", assignment, task],
            input=json.dumps([str(c) for c in cells]), capture_output=True, text=True, cwd=folder, timeout=110,
        )  # fmt: skip
    if run.returncode:
        print(run.stderr[-500:])
        return 0.0
    found = json.loads(run.stdout)
    for line in found["lines"]:
        print(line)
    return float(found["points"])


def _one_task(assignment: str, task: str, cells: list[str]) -> None:
    """What the fresh process does: grades the task, and before it those that it may call; prints its result as JSON."""
    mode, _ = best_mode()
    found = grade_one(Grading(load(assignment), mode, only=task), Submission("notebook", cells))["tasks"][-1]
    print(json.dumps({"points": found["points"], "lines": found["lines"]}))


# -- 2. Gradescope ----------------------------------------------------------------------------------------------------------------------------

_SETUP = """#!/usr/bin/env bash
# Gradescope runs this once, when it builds the image.
set -e
apt-get update
apt-get install -y python3 python3-venv bubblewrap
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install {requirements}
"""

_RUN = """#!/usr/bin/env bash
# Gradescope runs this for each submission. If it says that no sandbox works in its containers, you may put --unsafe into OPTIONS:
# a submission has a container of its own there, and can harm only its own score.
OPTIONS="--hints full"
ROOT="${{AUTOGRADER:-/autograder}}"
PYTHON="${{PYTHON:-$ROOT/venv/bin/python}}"
mkdir -p "$ROOT/results"
cat > "$ROOT/results/results.json.part" <<'END'
{{"score": 0, "output": "The grader did not get to the end. Please tell your instructor.", "visibility": "visible"}}
END
mv "$ROOT/results/results.json.part" "$ROOT/results/results.json"
work="$(mktemp -d)"
cd "$work"
PYTHONPATH="$ROOT/source/package" "$PYTHON" -m tinygrad_norm grade --one "$ROOT/submission" --assignment {assignment} \\
  --out "$work/out" --results "$ROOT/results/results.json" $OPTIONS
code=$?
rm -rf "$work"
exit $code
"""


def _gradescope_zip(assignment: Assignment, archive: Path) -> None:
    """setup.sh and run_autograder at its root, and this package, as far as the grader needs it, beside them."""
    package = FOLDER.parent.parent
    sources = set(FOLDER.glob("*.py"))
    packages = {p for t in assignment.tasks.values() for p in t.packages}
    requirements = " ".join(f"'{name}'" for name in ("numpy>=2.0", "numba>=0.60") if name.split(">")[0] in packages | {"numpy"})
    inside = {path.relative_to(package).as_posix(): path.read_bytes() for path in sorted(package.rglob("*.py")) if path not in sources}
    inside[f"course/assignments/{assignment.name}.py"] = assignment.text.encode()  # and no other's; it may be one of the instructor's own
    with replacing(archive) as file, zipfile.ZipFile(file, "w") as zipped:
        for name, data, rights in (
            ("setup.sh", _SETUP.format(requirements=requirements).encode(), 0o755),
            ("run_autograder", _RUN.format(assignment=assignment.id).encode(), 0o755),
            *((f"package/tinygrad_norm/{name}", data, 0o644) for name, data in inside.items()),
        ):
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))  # always the same file of the same source
            info.external_attr = rights << 16
            zipped.writestr(info, data, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    _one_task(sys.argv[1], sys.argv[2], json.load(sys.stdin))
