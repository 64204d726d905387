"""The notebooks of an assignment as JSON (nbformat 4.5): the student's, the solution, and nbgrader's source.

`python -m tinygrad_norm.course.notebooks notebooks/assignments` writes all students' notebooks anew after a source was changed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .assignment import Assignment, Cell, load, names

__all__ = ["notebook", "write_student_notebooks"]


def notebook(assignment: Assignment, kind: str = "student") -> str:
    """A notebook's text.

    Args:
        assignment: whose.
        kind: "student" (stubs), "solution", or "nbgrader" (the solutions between their marks, with nbgrader's metadata and hidden tests).
    Raises:
        ValueError: another kind.

    Example:
        >>> from tinygrad_norm.course import load
        >>> text = notebook(load("a3"))
        >>> "YOUR CODE HERE" in text, "BEGIN SOLUTION" in text, "cases_of" in text
        (True, False, False)
    """
    if kind not in ("student", "solution", "nbgrader"):
        raise ValueError(f"kind is student, solution or nbgrader; got {kind!r}")
    shown = [c for c in assignment.cells if c.kind != "grader"]
    cells = []
    for i, cell in enumerate(_with_tests(assignment, shown) if kind == "nbgrader" else shown):
        source = cell.solved if kind == "solution" else cell.unsolved if kind == "student" else cell.source
        metadata: dict[str, Any] = {}
        if cell.kind in ("task", "question"):
            metadata["tinygrad_norm"] = {cell.kind: cell.options[cell.kind]}
        if kind == "nbgrader":
            metadata |= _nbgrader(assignment, cell)
            source = _with_hidden_test(assignment, cell, source)
        made: dict[str, Any] = {"cell_type": "markdown" if cell.markdown else "code", "id": f"{assignment.id}-{i}", "metadata": metadata}
        if not cell.markdown:
            made |= {"execution_count": None, "outputs": []}
        cells.append({**made, "source": source.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"kernelspec": kernel, "language_info": {"name": "python"}, "tinygrad_norm": {"assignment": assignment.id, "version": kind}}
    return json.dumps({"cells": cells, "metadata": whole, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def _checked(assignment: Assignment, cell: Cell) -> str | None:
    """The task that a self-check cell, or a test of nbgrader's, checks."""
    if "test" in cell.options:
        return str(cell.options["test"])
    name = cell.source.strip().removeprefix("check(").removesuffix(")")
    return name if cell.kind == "given" and cell.source.strip() == f"check({name})" and name in assignment.tasks else None


def _with_tests(assignment: Assignment, cells: list[Cell]) -> list[Cell]:
    """With a cell to test each task that has no self-check, for nbgrader gives points for a test."""
    checked = {_checked(assignment, cell) for cell in cells}
    made: list[Cell] = []
    for cell in cells:
        made.append(cell)
        if cell.kind == "task" and cell.options["task"] not in checked:
            made.append(Cell("given", {"test": cell.options["task"]}, f"# {cell.options['task']} is tested here", cell.line))
    return made


def _nbgrader(assignment: Assignment, cell: Cell) -> dict[str, Any]:
    """nbgrader's metadata, schema 3: a task is a solution cell, its check a graded one, a question both."""
    base = {"schema_version": 3, "task": False}
    checked = _checked(assignment, cell)
    if cell.kind == "task":
        return {"nbgrader": {**base, "grade": False, "locked": False, "solution": True, "grade_id": cell.options["task"]}}
    if cell.kind == "question":
        points = _points(cell.options.get("points", 0))
        return {"nbgrader": {**base, "grade": True, "locked": False, "solution": True, "grade_id": cell.options["question"], "points": points}}
    if checked is not None:
        points = _points(assignment.tasks[checked].points)
        return {"nbgrader": {**base, "grade": True, "locked": True, "solution": False, "grade_id": f"test_{checked}", "points": points}}
    return {}


def _points(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _with_hidden_test(assignment: Assignment, cell: Cell, source: str) -> str:
    checked = _checked(assignment, cell)
    if checked is None:
        return source
    graded_by = assignment.id if assignment.packaged else f"{assignment.name}.py"
    return (
        f"{source}\n### BEGIN HIDDEN TESTS\nfrom tinygrad_norm.course.export import nbgrader_points\n\n"
        f'nbgrader_points("{graded_by}", "{checked}", In)\n### END HIDDEN TESTS'
    )


def write_student_notebooks(folder: Path) -> list[Path]:
    """All assignments' student notebooks, into a folder."""
    paths = []
    for name in names():
        paths.append(folder / f"{name}.ipynb")
        paths[-1].write_text(notebook(load(name)), encoding="utf-8")
    return paths


if __name__ == "__main__":
    for path in write_student_notebooks(Path(sys.argv[1] if len(sys.argv) > 1 else ".")):
        print(path)
