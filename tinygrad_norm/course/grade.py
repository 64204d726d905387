"""Grading: each submission in a worker of its own, several at once; every one gets a result, whatever it does."""

from __future__ import annotations

import hashlib
import inspect
import json
import secrets
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
from .judge import TaskResult, clean, judge, outputs_of, say_failure, say_where
from .numeric import COMPLEX_STEP, asked_of, complex_step, words_of
from .sandbox import Limits, Worker, WorkerError
from .submission import Submission
from .task import Task
from .worker import IDLE

__all__ = ["OUTER_LIMIT", "Grading", "grade_all", "grade_one", "write_atomically"]

LOOPS, ALL_LOOPS = 3.0, 20.0  # seconds for a cell with its loops and calls, and for all cells: what takes longer is loaded without them
SLOW = 0.5  # seconds for two calls in a race
BROKEN = ("took too long", "broke the worker")  # what to look at: the code did not come back
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
    """A submission in a worker that is started again when it breaks, and the reference in another."""

    def __init__(self, grading: Grading, submission: Submission) -> None:
        self.grading, self.submission = grading, submission
        self.words = words_of(submission.cells)
        self.worker: Worker | None = None
        self.reference: Worker | None = None
        self.borrowed: list[str] = []
        self.functions: list[str] = []
        self.errors: list[dict[str, Any]] = []
        self.without_loops: dict[int, WorkerError] = {}  # cells, by number, whose loops and calls are not run, and why
        self.left_out: dict[int, WorkerError] = {}  # and those of which nothing is
        self.stop_at = time.monotonic() + OUTER_LIMIT

    def ready(self) -> Worker:
        """The worker, with the code loaded.

        Raises:
            WorkerError: it does not start, or there is no time left.
        """
        while self.worker is None:
            self.errors = []
            self.worker = self._start(self._lend)
            until = time.monotonic() + ALL_LOOPS
            try:
                for number, cell in enumerate(self.submission.cells, 1):
                    if time.monotonic() > until:
                        self.without_loops.setdefault(number, WorkerError(f"the cells before it took {ALL_LOOPS:g} s", "time"))
                    if number not in self.left_out:
                        self._load(self.worker, number, cell)
            except WorkerError:
                self.close()
                continue
            if self.borrowed:
                self.worker.borrow(self.borrowed)
        return self.worker

    def _start(self, lend: Callable[[dict[str, Any], float], dict[str, Any]] | None = None) -> Worker:
        if time.monotonic() > self.stop_at:
            raise WorkerError("not run: the time for the whole submission was used up before", "time")
        return Worker(self.grading.mode, self.grading.limits, self.grading.packages, lend)

    def _load(self, worker: Worker, number: int, cell: str) -> None:
        """One cell; where it breaks the worker, the next worker runs less of it: first no loops and calls, then nothing."""
        whole = number not in self.without_loops
        try:
            loaded = worker.load([cell], number, whole, min(LOOPS, worker.limits.call) if whole else None)
        except WorkerError as error:
            (self.without_loops if whole else self.left_out)[number] = error
            raise
        self.functions = _of_kind(str, loaded.get("functions"))
        self.errors += _of_kind(dict, loaded.get("errors"))

    def notes(self) -> list[str]:
        """What became of the cells."""
        return [
            *(_cell_error(e) for e in self.errors[:20]),
            *(f"cell {n}: its loops and calls were left out: {e.cause}" for n, e in self.without_loops.items() if n not in self.left_out),
            *(_not_loaded(n, e) for n, e in self.left_out.items()),
        ]

    def borrow(self, names: list[str]) -> None:
        """Puts the reference's functions in the place of the student's."""
        self.borrowed += (new := [n for n in names if n not in self.borrowed])
        if new:
            self.ready().borrow(new)

    def _lend(self, asked: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What a function of the reference's returns, computed in the reference's worker: the student's sees no line of it."""
        name = asked["asks"]
        if name not in self.borrowed:
            return {"error": f"{clean(name)} is not lent"}
        try:
            bound = inspect.signature(self.grading.assignment.tasks[name].reference).bind(*asked["args"], **asked["named"])
            bound.apply_defaults()
            answer = self.beside().call(name, list(bound.args), seconds)
        except (TypeError, KeyError) as error:
            return {"error": f"{name}: {clean(error)}"}
        except WorkerError as error:
            self.reference = None
            return {"error": f"{name}: {error.cause}"}
        if "error" in answer:
            return {"error": f"{name}: {answer['error']['kind']}: {answer['error']['said']}"}
        return {"result": answer["result"]}

    def beside(self) -> Worker:
        """A worker with the reference in it."""
        if self.reference is None:
            self.reference = self._start()
            self.reference.load(self.grading.assignment.solution_cells(), whole=False)
        return self.reference

    def close(self) -> None:
        """Stops both."""
        for worker in (self.worker, self.reference):
            if worker is not None:
                worker.stop()
        self.worker = self.reference = None


def _of_kind(kind: type, value: Any) -> list[Any]:
    return [v for v in value if isinstance(v, kind)] if isinstance(value, (list, tuple)) else []


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
            notes += session.notes()
        except Exception as error:  # a fault of the grader's must cost nobody else anything
            attention = f"the grader failed on it: {type(error).__name__}: {error}"
            done = {r.name for r in results}
            results += [_nothing(t, Finding("not graded", attention)) for t in tasks if t.name not in done]
        finally:
            session.close()
    broken = next((r.cause.said for r in results if r.cause and r.cause.key in BROKEN), None)
    return {
        "format": FORMAT, "key": grading.key(submission), "submission": submission.name, "assignment": grading.assignment.name,
        "title": grading.assignment.title, "score": round(sum(r.points for r in results), 4), "out_of": sum(t.points for t in tasks),
        "by_hand": sum(q.points for q in grading.assignment.questions), "mode": grading.mode, "official": grading.mode != "plain" and grading.hidden,
        "seconds": round(time.monotonic() - start, 3), "needs_attention": attention or broken, "notes": list(dict.fromkeys(notes)),
        "tasks": [r.to_dict(grading.hints) for r in results],
        "questions": [
            {"name": q.name, "out_of": q.points, "text": q.text, "answer": submission.answers.get(q.name, "")} for q in grading.assignment.questions
        ],
    }  # fmt: skip


def _nothing(task: Task, cause: Finding) -> TaskResult:
    return TaskResult(task.name, 0.0, task.points, cause=cause)


def _not_loaded(number: int, error: WorkerError) -> str:
    return f"cell {number} could not be loaded: {error.cause}"


def _cell_error(error: dict[str, Any]) -> str:
    return f"{clean(error.get('kind'), 80)}: {clean(error.get('said'))}{say_where(error)}"


def _grade_task(grading: Grading, session: _Session, task: Task, right: dict[str, bool]) -> TaskResult:
    left = task.seconds
    cases = task.draw(grading.seed, grading.hidden)  # what is wrong with them is no student's fault
    try:
        worker = session.ready()
        if task.name not in session.functions:
            return _nothing(task, _missing(session, task.name))
        replaced = [n for n in task.uses if not right.get(n, False)]
        session.borrow(replaced)
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
        return _nothing(task, _stopped(task.name, error, error.cause))
    except (TypeError, AttributeError, KeyError, ValueError) as error:  # a reply that is a message but not an answer
        session.close()
        return _nothing(task, Finding("broke the worker", f"{task.name}: its reply is no answer ({type(error).__name__})"))
    if replaced:
        result.notes.append(f"run on the reference's {', '.join(replaced)}")
    if asked_of(task, cases) and result.points and complex_step(task.name, session.words):
        return result.no_points(COMPLEX_STEP)
    if result.right_in_general and task.large is not None:
        result = _large(grading, session, task, result)
    if result.right and task.faster is not None:
        result = _race(session, task, result, task.arguments(task.faster.case(np.random.RandomState([grading.seed, 11]))))
    return result


def _stopped(name: str, error: WorkerError, said: str) -> Finding:
    return Finding("took too long" if error.kind == "time" else "broke the worker", f"{name}: {said}")


def _missing(session: _Session, name: str) -> Finding:
    """Why a function is not there."""
    for number, error in session.left_out.items():
        if f"def {name}(" in session.submission.cells[number - 1]:
            return _stopped(name, error, _not_loaded(number, error))
    wrong = (e for e in session.errors if e.get("kind") in ("SyntaxError", "IndentationError", "TabError"))
    return Finding("not there", f"there is no function {name}" + next((f"; there is a {_cell_error(e)}" for e in wrong), ""))


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


class _WrongError(Exception):
    """A timed call did not return what the reference's returns."""


def _race(session: _Session, task: Task, result: TaskResult, args: list[Any]) -> TaskResult:
    """How fast it is, beside the reference in a worker of its own; what it costs to send and to vary the inputs is taken off.

    All that is returned in a race is compared: whoever leaves out a part of the work, knowing that it is only timed, is wrong. A race that is lost
    is run again.
    """
    race = task.faster
    assert race is not None
    try:
        _lap(session, task, args, 2)  # what is compiled is compiled here
        laps = [_lap(session, task, args, 2)]
        if max(laps[0]) < SLOW:  # a loop in plain Python needs no second look
            laps = [_lap(session, task, args, race.repeat) for _ in range(3)]
            if 1 < _ratio(laps) < race.factor:
                laps += [_lap(session, task, args, race.repeat) for _ in range(3)]
    except _WrongError as error:
        said = f"{task.name} is right on small inputs, but wrong when it is timed, on large ones{error}"
        return result.no_points(Finding("wrong when it is timed", said))
    except WorkerError as error:
        session.close()
        return result.no_points(_stopped(f"{task.name}, timed", error, error.cause))
    return raced(task, result, _ratio(laps))


def _lap(session: _Session, task: Task, args: list[Any], repeat: int) -> tuple[float, float, float]:
    """Seconds that both take on the same new numbers, and that it takes to do nothing with them."""
    assert task.faster is not None
    seed = secrets.randbits(62)
    mine = session.ready().race(task.name, args, repeat, seed, task.seconds)
    theirs = session.beside().race(task.faster.than or task.name, args, repeat, seed, task.seconds)
    if isinstance(mine.get("error"), dict):
        raise _WrongError(f": {_cell_error(mine['error'])}")
    if not _agree(task, _of_kind(object, mine.get("result")), theirs["result"]):
        raise _WrongError
    idle = min(session.beside().race(IDLE, args, repeat, seed, task.seconds)["seconds"] for _ in range(2))
    return mine["seconds"], theirs["seconds"], idle


def _agree(task: Task, got: list[Any], right: list[Any]) -> bool:
    """Whether what all calls of a race returned, as `projected`, is the same, output by output."""
    mine, theirs = [outputs_of(task, g) for g in got], [outputs_of(task, r) for r in right]
    if len(mine) != len(theirs) or any(isinstance(m, str) or any(o.ndim for o in m) for m in mine):
        return False
    return all(same([m[k] for m in mine], [t[k] for t in theirs], 1e-3) for k in range(len(task.outputs)))


def _ratio(laps: list[tuple[float, float, float]]) -> float:
    mine, theirs, idle = map(min, zip(*laps))
    return float(max(theirs - idle, 0.05 * theirs) / max(mine - idle, 0.05 * mine))  # less than a twentieth cannot be told from noise


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
