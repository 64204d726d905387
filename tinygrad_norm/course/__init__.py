"""The course: assignments in which students derive the backward passes, and a grader that says which term is wrong.

    assignment.py     one source an assignment: text, stubs, solutions, points, hidden checks; `load("a3").check(function)` for a notebook
    task.py           what is asked, as data: cases, outputs, known mistakes
    judge.py          from answers to points
    diagnosis.py      which mistake it is, and the line of the derivation that it breaks
    worker.py         the process that a student's code runs in; sandbox.py locks it in
    submission.py     a submission's file, folder or zip
    grade.py          one submission, or a whole class
    report.py         the table, CSV, JSON, HTML, Gradescope's results and the class report
    notebooks.py      the notebooks of an assignment; export.py for nbgrader and Gradescope
    command.py        `tinygrad-norm check`, `grade` and `course`; arguments.py
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assignment import Assignment, load, names

__all__ = ["Assignment", "load", "names"]


def __getattr__(name: str) -> Any:
    """The grader is imported when it is first asked for: the command line reads only the arguments from here."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(".assignment", __name__), name)
    globals()[name] = value
    return value
