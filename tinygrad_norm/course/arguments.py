"""The arguments of the course's commands; command.py does the work, and is imported when one of them is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

__all__ = ["SELF_CHECK", "add_arguments"]

SELF_CHECK = "self-check, not an official grade"
WHICH = "which one, as `course list` names them; or the .py of one of your own"


def add_arguments(commands: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """Adds the three commands to the command line's; `run` is called with what was asked for as `course`."""
    check = commands.add_parser("check", help="check your work on an assignment: a notebook or a Python file")
    check.add_argument("file", metavar="FILE", help=".ipynb or .py")
    check.add_argument("--assignment", metavar="a3", help=f"{WHICH}; found out from the file by default")
    check.add_argument("--hints", choices=("full", "term", "none"), default="full", help="how much to say of a mistake")
    check.set_defaults(run=run, course="check")
    grade = commands.add_parser("grade", help="grade submissions: files, folders or zips of .ipynb or .py")
    grade.add_argument("submissions", nargs="+", metavar="SUBMISSIONS", help="files; or folders and zips with one entry a student")
    grade.add_argument("--out", required=True, metavar="DIR", help="for the results; what is there already is not graded again")
    grade.add_argument("--assignment", metavar="a3", help=f"{WHICH}; found out from the submissions by default")
    grade.add_argument("--hints", choices=("full", "term", "none"), default="full", help="how much the students' pages say of a mistake")
    grade.add_argument("--jobs", type=int, metavar="N", help="how many at once; one a processor by default")
    grade.add_argument("--seed", type=int, default=1, help="of the hidden cases")
    grade.add_argument("--unsafe", action="store_true", help=f"go on where no sandbox works ({SELF_CHECK})")
    grade.add_argument("--one", action="store_true", help="SUBMISSIONS is one folder, and all that is in it one submission")
    grade.add_argument("--results", metavar="FILE", help="write Gradescope's results.json of the only submission there")
    grade.set_defaults(run=run, course="grade")
    course = commands.add_parser("course", help="list or export the assignments")
    inner = course.add_subparsers(dest="what", required=True, metavar="what")
    inner.add_parser("list", help="the assignments, their tasks and points").set_defaults(run=run, course="list")
    out = inner.add_parser("export", help="write an assignment for nbgrader, for Gradescope, or as plain notebooks")
    out.add_argument("assignment", metavar="a3", help=WHICH)
    out.add_argument("--to", choices=("nbgrader", "gradescope", "plain"), required=True, help="the system to write it for")
    out.add_argument("-o", "--out", required=True, metavar="DIR", help="the folder to write into")
    out.set_defaults(run=run, course="export")
