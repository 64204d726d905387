"""Grading: each submission in a worker of its own, several at once; every one gets a result, whatever it does."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..kernel import available_threads
from ..serialization import replacing
from .assignment import Assignment, raced, time_limit, too_slow
from .diagnosis import Finding, same
from .judge import TaskResult, clean, judge, say_failure, say_where
from .numeric import COMPLEX_STEP, asked_of, complex_step, words_of
from .sandbox import Limits, Worker, WorkerError
from .submission import Submission
from .task import Case, Task, Values
from .worker import IDLE

__all__ = ["OUTER_LIMIT", "Grading", "grade_all", "grade_one", "write_atomically"]

SLOW = 0.5  # seconds for two calls in a race
OUTER_LIMIT = 300.0  # seconds for a whole submission
FORMAT = 1  # of a student's JSON


class Grading:
    """How submissions of one assignment are graded.

    Args:
        assignment: whose.
        mode: of the sandbox.
        hints: "full", "term" or "none".
        seed: of the cases. hidden: with those that students do not see.
        only: a task, to grade nothing but this one and those that it may call.
    """

    def __init__(self, assignment: Assignment, mode: str, hints: str = "full", seed: int = 1, hidden: bool = True, only: str | None = None) -> None:
        self.assignment, self.mode, self.hints, self.seed, self.hidden = assignment, mode, hints, seed, hidden
        wanted = [only] if only is not None else list(assignment.tasks)
        for name in wanted:
            wanted += [used for used in assignment.tasks[name].uses if used not in wanted]
        self.tasks = [t for t in assignment.tasks.values() if t.name in wanted]
        self.packages = tuple(dict.fromkeys(p for t in assignment.tasks.values() for p in t.packages))
        self.limits = Limits(memory=(4 << 30), threads=4) if "numba" in self.packages else Limits()

    def key(self, submission: Submission) -> str:
        """Under which a result can be taken for this one's: the content, the assignment's source, and how it was graded."""
        parts = (submission.digest, submission.problem, self.assignment.digest, self.mode, self.hints, self.seed, self.hidden, FORMAT)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class _Session:
    """A submission in a worker that is started again when it breaks."""

    def __init__(self, grading: Grading, submission: Submission) -> None:
        self.grading, self.submission = grading, submission
        self.words = words_of(submission.cells)
        self.worker: Worker | None = None
        self.injected: list[str] = []
        self.functions: list[str] = []
        self.errors: list[dict[str, Any]] = []
        self.stop_at = time.monotonic() + OUTER_LIMIT
        self.broken: str | None = None  # why the code cannot even be loaded

    def ready(self) -> Worker:
        """The worker, with the code loaded.

        Raises:
            WorkerError: it cannot be.
        """
        if self.broken is not None:
            raise WorkerError(self.broken, "loading")
        if time.monotonic() > self.stop_at:
            raise WorkerError("not run: the time for the whole submission was used up before", "time")
        if self.worker is None:
            self.worker = Worker(self.grading.mode, self.grading.limits, self.grading.packages)
            try:
                loaded = self.worker.load(self.submission.cells)
                self.functions, self.errors = _strings(loaded.get("functions")), [e for e in (loaded.get("errors") or [])[:20] if isinstance(e, dict)]
                if self.injected:
                    self._inject(self.injected)
            except (WorkerError, TypeError) as error:
                self.broken = f"the code could not be loaded: {error}"
                self.close()
                raise WorkerError(self.broken, "loading") from error
        return self.worker

    def inject(self, names: list[str]) -> None:
        """Puts the reference's functions in the place of the student's."""
        new = [n for n in names if n not in self.injected]
        if new:
            self.injected += new
            if self.worker is None:
                self.ready()
            else:
                self._inject(new)

    def _inject(self, names: list[str]) -> None:
        assert self.worker is not None
        self.worker.load(self.grading.assignment.solution_cells(tuple(names)), prefix="reference")

    def close(self) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None


def _strings(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, (list, tuple)) else []


# -- 1. One submission ----------------------------------------------------------------------------------------------------------------------


def grade_one(grading: Grading, submission: Submission) -> dict[str, Any]:
    """The result of one submission, ready for JSON; never raises on account of what the submission is or does."""
    start = time.monotonic()
    results: list[TaskResult] = []
    notes: list[str] = []
    attention = submission.problem
    tasks = grading.tasks
    if submission.problem is not None:
        results = [_nothing(t, Finding("cannot be read", submission.problem)) for t in tasks]
    else:
        session = _Session(grading, submission)
        try:
            right: dict[str, bool] = {}
            for task in tasks:
                result = _grade_task(grading, session, task, right)
                right[task.name] = result.right
                results.append(result)
            notes += [_cell_error(e) for e in session.errors]
        except Exception as error:  # a fault of the grader's must cost nobody else anything
            attention = f"the grader failed on it: {type(error).__name__}: {error}"
            done = {r.name for r in results}
            results += [_nothing(t, Finding("not graded", attention)) for t in tasks if t.name not in done]
        finally:
            session.close()
    return {
        "format": FORMAT, "key": grading.key(submission), "submission": submission.name, "assignment": grading.assignment.name,
        "title": grading.assignment.title, "score": round(sum(r.points for r in results), 4), "out_of": sum(t.points for t in tasks),
        "by_hand": sum(q.points for q in grading.assignment.questions), "mode": grading.mode, "official": grading.mode != "plain" and grading.hidden,
        "seconds": round(time.monotonic() - start, 3), "needs_attention": attention, "notes": list(dict.fromkeys(notes)),
        "tasks": [r.to_dict(grading.hints) for r in results],
        "questions": [
            {"name": q.name, "out_of": q.points, "text": q.text, "answer": submission.answers.get(q.name, "")} for q in grading.assignment.questions
        ],
    }  # fmt: skip


def _nothing(task: Task, cause: Finding) -> TaskResult:
    return TaskResult(task.name, 0.0, task.points, cause=cause)


def _cell_error(error: dict[str, Any]) -> str:
    return f"{clean(error.get('kind'), 80)}: {clean(error.get('said'))}{say_where(error)}"


def _grade_task(grading: Grading, session: _Session, task: Task, right: dict[str, bool]) -> TaskResult:
    left = task.seconds
    cases = task.draw(grading.seed, grading.hidden)  # what is wrong with them is no student's fault
    try:
        worker = session.ready()
        if task.name not in session.functions:
            return _nothing(task, Finding("not there", f"there is no function {task.name}{_why_missing(session)}"))
        replaced = [n for n in task.uses if not right.get(n, False)]
        session.inject(replaced)
        answers = []
        for case in cases:
            answers.append(worker.call(task.name, task.arguments(case.values), left))
            left = max(left - answers[-1]["spent"], 0.1)
            error = answers[-1].get("error") or {}
            if error.get("kind") == "NotImplementedError" and not error.get("said"):  # the other cases would only say so again
                return _nothing(task, say_failure(error, task.name))
        result = judge(task, cases, answers)
    except WorkerError as error:
        session.close()
        return _nothing(task, Finding("took too long" if error.kind == "time" else "broke the worker", f"{task.name}: {error.cause}"))
    except (TypeError, AttributeError, KeyError, ValueError) as error:  # a reply that is a message but not an answer
        session.close()
        return _nothing(task, Finding("broke the worker", f"{task.name}: its reply is no answer ({type(error).__name__})"))
    if session.injected:
        result.printed = ""  # it could show the reference's code
    if replaced:
        result.notes.append(f"run on the reference's {', '.join(replaced)}")
    if asked_of(task, cases) and result.points and complex_step(task.name, session.words):
        return result.no_points(COMPLEX_STEP)
    if result.right_in_general and task.large is not None:
        result = _large(grading, session, task, result)
    if result.right and task.faster is not None:
        result = _race(grading, session, task, result)
    return result


def _why_missing(session: _Session) -> str:
    wrong = (e for e in session.errors if e.get("kind") in ("SyntaxError", "IndentationError", "TabError"))
    return next((f"; there is a {_cell_error(e)}" for e in wrong), "")


def _large(grading: Grading, session: _Session, task: Task, result: TaskResult) -> TaskResult:
    """The case at which a numeric derivative is found out by the clock."""
    assert task.large is not None
    values, limit = task.large(np.random.RandomState([grading.seed, 7])), time_limit(task)
    try:
        answer = session.ready().call(task.name, task.arguments(values), limit)
    except WorkerError as error:
        session.close()
        return result.no_points(too_slow(task, limit) if error.kind == "time" else Finding("broke the worker", f"{task.name}, large input: {error.cause}"))
    got, expected = answer.get("result"), task.expected(values)
    parts = got if len(task.outputs) > 1 and isinstance(got, (tuple, list)) else [got]
    if "error" in answer or len(parts) != len(expected) or not all(same(g, e, 1e-3) for g, e in zip(parts, expected)):
        said = _cell_error(answer["error"]) if isinstance(answer.get("error"), dict) else "another result"
        result.points *= 1 - task.edge_share
        result.notes.append(f"right on small inputs, but on a large one: {said}")
    return result


def _race(grading: Grading, session: _Session, task: Task, result: TaskResult) -> TaskResult:
    """How fast it is, beside the reference in a worker of its own; what it costs to send the inputs is taken off. A race that is lost is run again."""
    race = task.faster
    assert race is not None
    values = race.case(np.random.RandomState([grading.seed, 11]))
    args = task.arguments(values)

    def seconds(worker: Worker, name: str) -> tuple[float, dict[str, Any]]:
        worker.call(name, args, task.seconds)  # warm, compiled
        answers = [worker.call(name, args, task.seconds, repeat=2)]
        repeat = race.repeat if answers[0]["seconds"] < SLOW else 2  # a loop in plain Python needs no second look
        answers += [worker.call(name, args, task.seconds, repeat=repeat) for _ in range(3 if repeat > 2 else 0)]
        idle = [worker.call(IDLE, args, task.seconds, repeat=repeat)["seconds"] for _ in range(3)]
        best = min(a["seconds"] for a in answers[-3:])
        return float(max(best - min(idle), 1e-6)) / repeat, {**answers[-1], "repeat": repeat}

    try:
        mine, answer = seconds(session.ready(), task.name)
        with Worker(grading.mode, grading.limits, grading.packages) as other:
            other.load(grading.assignment.solution_cells())
            theirs, _ = seconds(other, race.than or task.name)
            if mine < theirs < race.factor * mine:
                mine, theirs = min(mine, seconds(session.ready(), task.name)[0]), min(theirs, seconds(other, race.than or task.name)[0])
    except WorkerError as error:
        session.close()
        return result.no_points(Finding("broke the worker", f"{task.name}, timed: {error.cause}"))
    last = {p: np.roll(a, 1 - answer["repeat"], 0) for p, a in zip(task.parameters, args) if isinstance(a, np.ndarray) and a.ndim > 1}
    timed = Case("timed", Values({**values, **last}), rtol=1e-3, rtol32=1e-3)
    again = judge(task, [timed], [{**answer, "inputs": task.arguments(timed.values)}])
    if not again.right:
        return result.no_points(Finding("wrong when it is timed", f"{task.name} is right on small inputs, but wrong when it is timed, on large ones"))
    return raced(task, result, theirs / mine)


# -- 2. All of them ---------------------------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, text: str) -> None:
    """The whole file or none of it."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "replace"))  # a student's text may hold half a surrogate pair


def grade_all(
    grading: Grading,
    submissions: Sequence[Submission],
    out: Path | None = None,
    jobs: int | None = None,
    tick: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """The results of all submissions, in their order.

    Args:
        grading: how. submissions: what.
        out: a folder for one JSON a student; a result that is there already, of the same content and the same grading, is taken over.
        jobs: how many at once; as many as there are processors if None.
        tick: called when one more is done.
    """
    results: list[dict[str, Any] | None] = [None] * len(submissions)
    files = [None if out is None else out / "students" / f"{name}.json" for name in file_names([s.name for s in submissions])]
    for task in grading.assignment.tasks.values():
        task.draw(grading.seed, grading.hidden)  # a mistake in the assignment is said once, and laid upon no student
    if out is not None:
        (out / "students").mkdir(parents=True, exist_ok=True)

    def one(i: int) -> tuple[int, dict[str, Any]]:
        file, submission = files[i], submissions[i]
        if file is not None and file.exists():
            with suppress(ValueError, OSError, AttributeError):
                before = json.loads(file.read_text(encoding="utf-8"))
                if before.get("key") == grading.key(submission) and before.get("format") == FORMAT:
                    return i, before
        try:
            result = grade_one(grading, submission)
        except Exception as error:
            problem = f"the grader failed on it: {type(error).__name__}: {error}"
            result = grade_one(grading, Submission(submission.name, answers=submission.answers, problem=problem, digest=submission.digest))
        if file is not None:
            write_atomically(file, json.dumps(result, indent=1, ensure_ascii=False))
        return i, result

    pool = ThreadPoolExecutor(jobs or available_threads())
    try:
        for future in as_completed([pool.submit(one, i) for i in range(len(submissions))]):
            i, result = future.result()
            results[i] = result
            tick()
    finally:
        pool.shutdown(cancel_futures=True)  # an interruption does not wait for those that have not begun
    return [r for r in results if r is not None]


def file_names(names: Sequence[str]) -> list[str]:
    """A safe name for a file for each, no two the same, whatever the case."""
    seen: dict[str, int] = {}
    made = []
    for name in names:
        safe = "".join(c if c.isalnum() or c in "-_.@ " else "_" for c in name).strip(". ")
        safe = safe.encode()[:100].decode(errors="ignore") or "submission"  # bytes: a file's name has at most 255 of them
        seen[safe.casefold()] = count = seen.get(safe.casefold(), 0) + 1
        made.append(safe if count == 1 else f"{safe}~{count}")
    return made
