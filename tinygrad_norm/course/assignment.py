"""An assignment: one source, from which the student's notebook, the solution and the checks come.

A source is assignments/<id>_<name>.py in the percent format (jupytext opens it as a notebook). Its cells, by their first line:

    # %% [markdown]                                        text, in both notebooks
    # %% [markdown] question="why_mean" points=2           a question answered in words and graded by hand
    # %% setup                                             imports; in both notebooks, never run by the grader
    # %%                                                   given code: helpers, and the self-check `check(function)`
    # %% task="layer_norm_forward" points=3                the function to write
    # %% grader                                            in neither notebook: task(function, cases=…, outputs=…), see task.py

In a task or a question the lines from `### BEGIN SOLUTION` to `### END SOLUTION` are the solution.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import hashlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .diagnosis import Finding, matches
from .judge import TaskResult, judge
from .numeric import COMPLEX_STEP, asked_of, complex_step, words_beside
from .task import Task, collected
from .worker import run_cell, say_error

__all__ = ["Assignment", "Cell", "Question", "load", "names", "parse", "read"]

FOLDER = Path(__file__).parent / "assignments"
OPTION = re.compile(r"(\w+)=(\"[^\"]*\"|-?[\d.]+)")
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"
ANSWER = "*Your answer here.*"
MARKS = ["### BEGIN SOLUTION", "### END SOLUTION"]


class Cell(NamedTuple):
    """One cell: "text", "question", "setup", "given", "task" or "grader"; what its first line says; its text or code, and where that begins."""

    kind: str
    options: dict[str, Any]
    source: str
    line: int

    @property
    def markdown(self) -> bool:
        return self.kind in ("text", "question")

    @property
    def solved(self) -> str:
        """Without the two marks."""
        return "\n".join(line for line in self.source.splitlines() if line.strip() not in MARKS)

    @property
    def unsolved(self) -> str:
        """With a stub in the place of each solution."""
        kept: list[str] = []
        inside = False
        for line in self.source.splitlines():
            if line.strip() == "### BEGIN SOLUTION":
                inside = True
                indent = line[: len(line) - len(line.lstrip())]
                kept += [ANSWER] if self.markdown else [indent + stub for stub in STUB.splitlines()]
            elif line.strip() == "### END SOLUTION":
                inside = False
            elif not inside:
                kept.append(line)
        return "\n".join(kept)


class Question(NamedTuple):
    """A question answered in words: its name, points, text and a model answer."""

    name: str
    points: float
    text: str
    answer: str


# -- 1. Reading a source --------------------------------------------------------------------------------------------------------------------


def parse(text: str) -> list[Cell]:
    """The cells of a source in the percent format.

    Raises:
        ValueError: a first line that says nothing known, or a solution without its two marks; says which line.

    Example:
        >>> [cell.kind for cell in parse("# %% [markdown]\\n# # Title\\n\\n# %% task=\\"f\\" points=1\\ndef f(): ...\\n")]
        ['text', 'task']
    """
    cells: list[Cell] = []
    at = 1
    for part in re.split(r"^(?=# %%)", text, flags=re.M):
        head, _, body = part.partition("\n")
        here, at = at, at + part.count("\n")
        if not head.startswith("# %%"):
            continue
        words = head[4:].strip()
        try:
            options = {k: ast.literal_eval(v) for k, v in OPTION.findall(words)}
            if float(options.get("points", 0)) < 0:
                raise ValueError
        except (ValueError, SyntaxError):
            raise ValueError(f"line {here}: a cell begins with {head!r}; points must be a number and not negative, as points=3") from None
        bare = OPTION.sub("", words).split()
        first = here + 1 + len(body) - len(body.lstrip("\n"))
        body = body.strip("\n")
        if "[markdown]" in bare:
            body = "\n".join(re.sub(r"^# ?", "", line) for line in body.splitlines())
            kind = "question" if "question" in options else "text"
        elif "task" in options:
            kind = "task"
        elif not bare or bare[0] in ("setup", "grader"):
            kind = bare[0] if bare else "given"
        else:
            known = '[markdown], setup, grader, task="…" points=…, or nothing'
            raise ValueError(f"line {here}: a cell begins with {head!r}; after # %% may stand {known}")
        marks = [line.strip() for line in body.splitlines() if line.strip() in MARKS]
        if marks != MARKS * (len(marks) // 2):
            raise ValueError(f"line {here}: a solution stands between {MARKS[0]} and {MARKS[1]}; here one of the two is missing: add it")
        if kind == "task" and options["task"] in [c.options.get("task") for c in cells]:
            raise ValueError(f"line {here}: there is a cell for the task {options['task']} before this one: give it another name")
        cells.append(Cell(kind, options, body, first))
    return cells


def read(path: Path) -> Assignment:
    """The assignment in a source: its solutions are run, and its grader cells say what is asked.

    Raises:
        ValueError: a task without a grader cell, points that are missing, a function that is not there, an error in its code; says which line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no UTF-8 ({error}): save it as UTF-8") from None
    try:
        cells = parse(text)
    except ValueError as error:
        raise ValueError(f"{path.name}, {error}") from None
    tasks: dict[str, Task] = {}
    points = {c.options["task"]: float(c.options.get("points", 0)) for c in cells if c.kind == "task"}

    reference: dict[str, Any] = {"__name__": path.stem, "np": np, "__builtins__": builtins}
    grader: dict[str, Any] = {}
    for cell in cells:
        code = "\n" * (cell.line - 1) + cell.source  # so that an error has the line of the file
        if cell.kind in ("task", "given"):
            with _told(path.name, text, cell.line):
                run_cell(code, path.name, reference)
        elif cell.kind == "grader":
            grader |= reference
            with _told(path.name, text, cell.line), collected() as said:
                exec(compile(code, path.name, "exec"), grader)
                for function, more in said:
                    name = function.__name__
                    if not points.get(name):
                        raise ValueError(f'task({name}) needs a cell before it that begins with # %% task="{name}" points=…')
                    tasks[name] = Task(name, points[name], function, **more)
    lacking = [name for name in points if name not in tasks]
    if lacking or not tasks:
        raise ValueError(f"{path.name}: no grader cell calls task({lacking[0] if lacking else '…'}, cases=…, outputs=…)")
    return Assignment(path.stem, cells, tasks, {k: v for k, v in reference.items() if callable(v)}, text)


@contextlib.contextmanager
def _told(name: str, text: str, line: int) -> Iterator[None]:
    """Makes one line of an error in a source: the file, its line (or else `line`), what is wrong, what to do."""
    try:
        yield
    except (Exception, SystemExit) as error:
        found = say_error(error, {name: text})
        where = f"line {found['line']} ({found['text']})" if found["where"] else f"line {line}"
        kind = "" if found["kind"] == "ValueError" else f"{found['kind']}: "
        raise ValueError(f"{name}, {where}: {kind}{found['said']}; correct the source") from error


def _try_out(made: Assignment, name: str) -> None:
    """Does once what grading will do: draws the cases, runs the solution on them and judges it, and tries the formulas of the mistakes."""
    lines = {c.options["task"]: c.line for c in made.cells if c.kind == "task"}
    for task in made.tasks.values():
        with _told(name, made.text, lines[task.name]):
            missing = [used for used in task.uses if used not in made.tasks]
            if missing:
                raise ValueError(f"uses={missing!r}: there is no such task")
            cases = task.draw(0, hidden=True)
            inputs = [task.arguments(c.values) for c in cases]
            plain = getattr(task.reference, "py_func", task.reference)
            with np.errstate(all="ignore"):
                result = judge(task, cases, [{"result": plain(*args), "inputs": args} for args in inputs])
            if not cases or not result.right:
                raise ValueError(f"the solution of {task.name} must be right in each of its cases; {'; '.join(result.lines()) or 'there are none'}")
            for case in cases:
                for output, right in zip(task.outputs, task.expected(case.values)):
                    for wrong in output.mistakes():
                        matches(wrong, [case], [right], [right], [case.rtol])
            for make in (task.large, task.faster and task.faster.case):
                if make is not None:
                    task.arguments(make(np.random.RandomState(0)))


def names() -> list[str]:
    """The names of all assignments, as `a3_layer_norm`."""
    return sorted(p.stem for p in FOLDER.glob("*.py"))


@cache
def load(name: str) -> Assignment:
    """The assignment of this name.

    Args:
        name: "a3" or "a3_layer_norm"; or the path of a source of one's own.
    Raises:
        ValueError: there is none; says which there are.

    Example:
        >>> load("a3").out_of
        18.0
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"there is no file {name}; give the path of a source of your own, or one of {', '.join(names())}")
        made = read(Path(name))
        _try_out(made, Path(name).name)
        return made
    found = [n for n in names() if n == name or n.split("_")[0] == name]
    if not found:
        raise ValueError(f"there is no assignment {name!r}; there are {', '.join(names())}")
    return read(FOLDER / f"{found[0]}.py")


# -- 2. An assignment -----------------------------------------------------------------------------------------------------------------------


class Assignment:
    """What a source holds.

    Attributes:
        name: "a3_layer_norm"; id: "a3". title: its first heading.
        cells, tasks, questions: in order.
        reference: the functions of the solution, as attributes.
        text: of the source; digest: of it, so that results of another version are not taken for this one's.
    """

    def __init__(self, name: str, cells: list[Cell], tasks: dict[str, Task], reference: dict[str, Any], text: str) -> None:
        self.name, self.id, self.cells, self.tasks, self.text = name, name.split("_")[0], cells, tasks, text
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.reference = SimpleNamespace(**reference)
        self.title = next((m.group(1) for c in cells if c.markdown and (m := re.match(r"#+ (.*)", c.source))), name)
        self.questions = [
            Question(c.options["question"], float(c.options.get("points", 0)), c.unsolved.replace(ANSWER, "").strip(), _between(c.source))
            for c in cells
            if c.kind == "question"
        ]
        self._seen: dict[str, bool] = {}

    @property
    def packaged(self) -> bool:
        """Whether the package has it as it is here; else it is the instructor's own, or was changed."""
        path = FOLDER / f"{self.name}.py"
        return path.is_file() and path.read_text(encoding="utf-8") == self.text

    @property
    def out_of(self) -> float:
        """The points of its tasks and questions together."""
        return sum(t.points for t in self.tasks.values()) + sum(q.points for q in self.questions)

    def solution_cells(self) -> list[str]:
        """The solution's code, and what was given beside it."""
        return [c.solved for c in self.cells if c.kind in ("given", "task")]

    def check(self, function: Callable[..., Any], hints: str = "full", seed: int = 0) -> Checked:
        """Checks a function in the process that it lives in: for a cell of a notebook, where it answers within a second.

        Args:
            function: one of the tasks' by its name.
            hints: "full", "term" or "none".
            seed: of the cases.
        Raises:
            ValueError: this assignment has no such task.

        Example:
            >>> a3 = load("a3")
            >>> print(a3.check(a3.reference.layer_norm_forward))
            layer_norm_forward: 3 of 3 points
        """
        name = getattr(function, "__name__", str(function))
        if name not in self.tasks:
            raise ValueError(f"{self.id} has no task {name}; it has {', '.join(self.tasks)}")
        task = self.tasks[name]
        replaced = [n for n in task.uses if not self._seen.get(n, False)]
        space = getattr(function, "__globals__", {})
        kept = {n: space[n] for n in replaced if n in space}
        try:
            space.update({n: getattr(self.reference, n) for n in replaced})
            result = self._check_here(task, function, seed)
        finally:
            for n in replaced:
                space.pop(n, None)
            space.update(kept)
        if replaced:
            result.notes.append(f"checked on the reference's {', '.join(replaced)}: yours {'are' if len(replaced) > 1 else 'is'} not right yet, or not checked")
        self._seen[name] = result.right
        return Checked(result, hints)

    def _check_here(self, task: Task, function: Callable[..., Any], seed: int) -> TaskResult:
        cases = task.draw(seed, hidden=False)
        with _deadline(task.seconds):
            plain = getattr(function, "py_func", function)  # what numba would compile: first as Python, so that what is wrong is said at once
            answers = [call_here(plain, task.arguments(c.values)) for c in cases]
            result = judge(task, cases, answers)
            failed = {a["error"]["kind"] for a in answers if "error" in a}
            if plain is not function and (result.right or failed) and not failed & {"NotImplementedError", "IndexError"}:  # compiled, that one is not noticed
                if not function.signatures:  # type: ignore[attr-defined]
                    print(f"{task.name}: as plain Python {'right' if result.right else 'not right'}; now it is compiled, a second or two", flush=True)
                answers = [a if c.plain and "error" not in a else call_here(function, task.arguments(c.values)) for c, a in zip(cases, answers)]
                result = judge(task, cases, answers)
        if asked_of(task, cases) and result.points and complex_step(task.name, words_beside(function)):
            return result.no_points(COMPLEX_STEP)
        if result.right_in_general and task.large is not None:
            values, limit = task.large(np.random.RandomState(seed)), time_limit(task)
            with _deadline(limit) as passed:
                answer = call_here(function, task.arguments(values))
            if passed or answer["seconds"] > limit:
                return result.no_points(too_slow(task, limit))
            if "error" in answer:
                result.points *= 1 - task.edge_share
                result.notes.append(f"at {_shape_of(values)}: {answer['error']['kind']}: {answer['error']['said']}")
        if result.right and task.faster is not None:
            args = task.arguments(task.faster.case(np.random.RandomState(seed)))
            than = getattr(self.reference, task.faster.than) if task.faster.than else task.reference
            with _deadline(task.seconds):
                raced(task, result, _times_as_fast(than, function, args, task.faster.factor))
        return result


class Checked:
    """The result of a check, to look at."""

    def __init__(self, result: TaskResult, hints: str) -> None:
        self.result, self.right, self._hints = result, result.right, hints

    def __str__(self) -> str:
        r = self.result
        return "\n".join([f"{r.name}: {round(r.points, 2):g} of {r.out_of:g} points", *(f"  {line}" for line in r.lines(self._hints))])

    __repr__ = __str__


def call_here(function: Callable[..., Any], args: list[Any]) -> dict[str, Any]:
    """What a worker answers, from a call in this process."""
    start = time.monotonic()
    try:
        with np.errstate(all="ignore"):
            answer: dict[str, Any] = {"result": function(*args), "inputs": args}
    except Exception as error:
        answer = {"error": say_error(error, {})}
    answer["seconds"] = time.monotonic() - start
    return answer


@cache
def _reference_seconds(reference: Callable[..., Any], make: Callable[..., Any], parameters: tuple[str, ...]) -> float:
    values = make(np.random.RandomState(0))
    times: list[float] = []
    while len(times) < 3 or (len(times) < 30 and sum(times) < 0.2):  # BLAS's first calls can take a hundred times as long as the others
        start = time.monotonic()
        reference(*[values[p] for p in parameters])
        times.append(time.monotonic() - start)
    return min(times)


def time_limit(task: Task) -> float:
    """Seconds for the large case: 300 times what the reference takes on this machine, and never under 2.

    A loop over the elements in Python is a derivation as well, and about 100 times as slow; a numeric derivative is several thousand times.
    """
    assert task.large is not None
    return max(2.0, 300 * reference_seconds(task))


def reference_seconds(task: Task) -> float:
    """What the reference takes for the large case here."""
    assert task.large is not None
    return _reference_seconds(task.reference, task.large, tuple(task.parameters))


def raced(task: Task, result: TaskResult, times: float) -> TaskResult:
    """Half of the points hang on how fast it is, in proportion to what was asked for."""
    assert task.faster is not None
    result.notes.append(f"{times:.1f} times as fast as {task.faster.than or 'the reference'}; asked for: {task.faster.factor:g}")
    if times < task.faster.factor:
        result.points *= 0.5 + 0.5 * times / task.faster.factor
        result.remark = Finding("right, but too slow", "")
    return result


def _times_as_fast(than: Callable[..., Any], function: Callable[..., Any], args: list[Any], enough: float) -> float:
    """How many times; in turns, each by its best call, so that what else the machine does slows both. A race that is lost is run again."""
    best = [np.inf, np.inf]
    for _ in range(5):
        for k, one in enumerate((than, function)):
            times: list[float] = []
            while len(times) < 2 or sum(times[1:]) < 0.05:  # the first may compile
                start = time.perf_counter()
                one(*args)
                times.append(time.perf_counter() - start)
                if times[0] > 0.1 and not hasattr(one, "py_func"):
                    break  # slow, and nothing that compiles
            best[k] = min(*times, best[k])
        if best[0] >= enough * best[1] or best[1] > best[0]:
            break
    return best[0] / best[1]


def too_slow(task: Task, limit: float) -> Finding:
    """What is said of a numeric derivative."""
    assert task.large is not None
    shape = _shape_of(task.large(np.random.RandomState(0)))
    key, why = task.slow or (
        "a numeric derivative, or as slow as one",
        "a derivative taken numerically, or a sum over all pairs of elements; derive it",
    )
    return Finding(
        key,
        f"{task.name} is right on small inputs but took more than {limit:.1f} s at {shape}, where the reference takes {reference_seconds(task):.2g} s: {why}",
    )


def _shape_of(values: Any) -> str:
    lists = [len(v) for v in values.values() if isinstance(v, list)]
    if lists:
        return f"{max(lists)} nodes"
    return "×".join(map(str, max((v for v in values.values() if isinstance(v, np.ndarray)), key=lambda a: a.size).shape))


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[list[float]]:
    """TimeoutError in the code inside after so many seconds, where the system can do that (not on Windows, not in a thread).

    What it yields is an empty list until that happens, whatever the code inside does about the error.
    """
    passed: list[float] = []
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield passed
        return

    def stop(*_: Any) -> None:
        passed.append(seconds)
        raise TimeoutError(f"not done after {seconds:.3g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds + 0.05)
    try:
        yield passed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _between(source: str) -> str:
    found = re.search(r"### BEGIN SOLUTION\n(.*?)\n### END SOLUTION", source, re.S)
    return found.group(1) if found else ""
