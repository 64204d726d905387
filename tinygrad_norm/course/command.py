"""What `tinygrad-norm check`, `tinygrad-norm grade` and `tinygrad-norm course` do; arguments.py says what they take."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..runs import progress_bar
from .arguments import SELF_CHECK
from .assignment import load, names
from .export import export
from .grade import Grading, grade_all, write_atomically
from .report import class_report, class_text, gradescope_results, table, write_all
from .sandbox import best_mode
from .submission import assignment_of, find

__all__ = ["run"]


def run_check(args: argparse.Namespace) -> int:
    """Returns 0 where all of it is right, else 1."""
    path = Path(args.file)
    if path.suffix.lower() not in (".ipynb", ".py") or not path.is_file():
        raise ValueError(f"expected a notebook or a Python file; got {path}{'' if path.exists() else ', which is not there'}")
    (submission,) = find([path])
    if submission.problem is not None:
        raise ValueError(submission.problem)
    assignment = load(args.assignment) if args.assignment else assignment_of([submission])
    mode, _ = best_mode()
    (result,) = grade_all(Grading(assignment, mode, args.hints, seed=0, hidden=False), [submission], jobs=1)
    print(f"{assignment.title}   ({mode}; {SELF_CHECK})")
    for note in result["notes"]:
        print(f"  ! {note}")
    for task in result["tasks"]:
        print(f"{'✓' if task['right'] else '✗'} {task['name']}: {round(task['points'], 2):g} of {task['out_of']:g}")
        for line in task["lines"]:
            print(f"    {line}")
    by_hand = f"; {result['by_hand']:g} more for the written answers, by hand" if result["by_hand"] else ""
    print(f"{round(result['score'], 2):g} of {result['out_of']:g} points{by_hand}")
    return 0 if all(t["right"] for t in result["tasks"]) else 1


def run_grade(args: argparse.Namespace) -> int:
    """Returns 0 once every submission has a result."""
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs must be at least 1; got {args.jobs}")
    if not 0 <= args.seed < 1 << 32:
        raise ValueError(f"--seed must be from 0 to {(1 << 32) - 1}; got {args.seed}")
    out = Path(args.out)
    mode, reasons = best_mode()
    print(f"sandbox: {mode}", *(f"(not {r})" for r in reasons), flush=True)
    if mode == "plain" and not args.unsafe:
        raise ValueError(f"no sandbox works here, so the students' code could do all that you can: {SELF_CHECK}; --unsafe goes on all the same")
    wanted = list(load(args.assignment).tasks) if args.assignment else [t for n in names() for t in load(n).tasks]
    submissions = list(find(args.submissions, wanted, one=args.one, out=out))
    if not submissions:
        raise ValueError("there are no submissions in " + ", ".join(args.submissions))
    if args.results and len(submissions) != 1:
        raise ValueError(f"--results is for one submission; there are {len(submissions)}")
    out.mkdir(parents=True, exist_ok=True)
    assignment = load(args.assignment) if args.assignment else assignment_of(submissions)
    with progress_bar(len(submissions), "submission", wanted=sys.stderr.isatty()) as tick:
        results = grade_all(Grading(assignment, mode, args.hints, seed=args.seed), submissions, out, args.jobs, tick)
    write_all(results, out)
    if args.results:
        write_atomically(Path(args.results), json.dumps(gradescope_results(results[0]), indent=1, ensure_ascii=False))
    print(table(results))
    print()
    print(class_text(class_report(results)))
    print(f"\nwritten to {out}: grades.csv, class.html, students/")
    return 0


def run_list(args: argparse.Namespace) -> int:
    """One line an assignment, one a task."""
    for name in names():
        assignment = load(name)
        print(f"{assignment.id}  {assignment.title}: {assignment.out_of:g} points")
        for task in assignment.tasks.values():
            print(f"      {task.name}({', '.join(task.parameters)}) → {', '.join(o.name for o in task.outputs)}: {task.points:g}")
        for question in assignment.questions:
            print(f"      {question.name}: {question.points:g}, by hand")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Writes the files and names them."""
    for path in export(load(args.assignment), args.to, Path(args.out)):
        print(path)
    return 0


def run(args: argparse.Namespace) -> int:
    """Runs the command that was asked for; returns its exit code.

    Raises:
        ValueError: arguments that make no sense (the command line says so and exits with 2).
    """
    return {"check": run_check, "grade": run_grade, "list": run_list, "export": run_export}[args.course](args)
