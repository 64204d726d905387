"""From the answers of a function to points and findings. No student's code runs here; it gets what came back as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .diagnosis import Finding, diagnose, matches, same
from .numeric import lost_digits, no_digits, overflow
from .task import Case, Output, Task

__all__ = ["OutputResult", "TaskResult", "clean", "judge", "outputs_of", "say_failure", "say_where"]


@dataclass
class OutputResult:
    """One output of a task: how much of its points it earns, and what is wrong with it."""

    name: str
    credit: float
    findings: list[Finding] = field(default_factory=list)
    wrong_cases: list[str] = field(default_factory=list)


@dataclass
class TaskResult:
    """One task.

    Attributes:
        name, points, out_of: of the task.
        outputs: one by one.
        cause: why there are no points, where it is nothing in the numbers: it is missing, raised, took too long.
        notes: what else the reader should know.
        remark: what keeps a task from being right although its numbers are: it is too slow.
    """

    name: str
    points: float
    out_of: float
    outputs: list[OutputResult] = field(default_factory=list)
    cause: Finding | None = None
    notes: list[str] = field(default_factory=list)
    printed: str = ""
    remark: Finding | None = None

    @property
    def right(self) -> bool:
        """Whether all of it is."""
        return self.cause is None and self.remark is None and all(o.credit == 1 for o in self.outputs)

    @property
    def findings(self) -> list[Finding]:
        """What was found in its outputs, and the remark."""
        return [*(f for o in self.outputs for f in o.findings), *([self.remark] if self.remark else ())]

    @property
    def right_in_general(self) -> bool:
        """Whether at most edge cases are wrong: what is then asked of a derivation is asked of it as well."""
        return self.cause is None and all(o.credit > 0 for o in self.outputs)

    def lines(self, hints: str = "full") -> list[str]:
        """What to tell the student."""
        said = [] if self.cause is None else [self.cause.said]
        first = next((o.name for o in self.outputs if o.credit < 1), None)
        if self.cause is None and len(self.outputs) > 1 and first is not None:
            good = [o.name for o in self.outputs if o.credit == 1]
            said.append(f"right: {', '.join(good) or 'none'}; the first that is wrong: {first}")
        for output in self.outputs if self.cause is None else ():
            for finding in output.findings:
                text = finding.text(hints)
                said.append(f"{output.name}: {text}" if text and not text.startswith(output.name) else text)
        return [line for line in [*said, *self.notes] if line]

    def to_dict(self, hints: str = "full") -> dict[str, Any]:
        """For JSON; the keys of the findings are there at every level of hints, for the class report."""
        return {
            "name": self.name, "points": round(self.points, 4), "out_of": self.out_of, "right": self.right, "lines": self.lines(hints),
            "outputs": [{"name": o.name, "credit": round(o.credit, 4), "wrong_cases": o.wrong_cases} for o in self.outputs],
            "misconceptions": [self.cause.key] if self.cause else list(dict.fromkeys(f.key for f in self.findings)),
            "printed": self.printed if hints == "full" else "",
        }  # fmt: skip

    def no_points(self, cause: Finding) -> TaskResult:
        """The same task with nothing earned, and why."""
        self.points, self.cause = 0.0, cause
        return self


def clean(text: Any, most: int = 400) -> str:
    """What a worker said, fit for a report: no control characters (a terminal obeys them), not too long."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(text)[:most])


def say_failure(error: dict[str, Any], name: str) -> Finding:
    """The exception of a student's function, with the line it comes from, as a finding."""
    kind, said = clean(error.get("kind"), 80), clean(error.get("said"))
    if kind == "missing":
        return Finding("not there", f"there is no function {name}")
    if kind == "NotImplementedError" and not said:  # with a text it is numba's
        return Finding("not begun", f"{name} is not written yet")
    return Finding(f"raised {kind}", f"{name} raised {kind}: {said}{say_where(error)}")


def say_where(error: dict[str, Any]) -> str:
    """The line of the student's code that an exception comes from."""
    return f" (in {clean(error.get('where'), 40)}, line {clean(error.get('line'), 8)}: {clean(error.get('text'), 200)})" if error.get("where") else ""


def judge(task: Task, cases: Sequence[Case], answers: Sequence[dict[str, Any]]) -> TaskResult:
    """Points and findings of one task.

    Args:
        task: what was to be written.
        cases: what it was called with.
        answers: what came back: "result" and "inputs" after the call, or "error".

    An output that is wrong in any general case earns nothing; else each wrong edge case costs its part of the task's `edge_share`.
    """
    result = TaskResult(task.name, 0.0, task.points, printed=clean(answers[0].get("printed", ""), 4096) if answers else "")
    errors = [isinstance(a.get("error"), dict) for a in answers]
    first = next((i for i, c in enumerate(cases) if errors[i] and not c.edge), None)
    failure = None if first is None else say_failure(answers[first]["error"], task.name)
    if failure is not None and all(errors):
        return result.no_points(failure)
    expected = [task.expected(c.values) for c in cases]
    got: list[list[Any] | None] = []
    for case, answer, bad in zip(cases, answers, errors):
        parts = None if bad else outputs_of(task, answer.get("result"))
        if isinstance(parts, str):
            return result.no_points(Finding("returned something else", parts))
        got.append(parts)
        changed = [] if bad else _changed(task, case, answer.get("inputs"))
        if changed:
            said = f"{' and '.join(changed)} changed in place"
            return result.no_points(Finding(said, said, "an input belongs to the caller, who may need it again"))
    weight = sum(o.weight for o in task.outputs)
    for k, output in enumerate(task.outputs):
        mine = [None if parts is None else parts[k] for parts in got]
        one = _judge_output(task, output, cases, mine, [e[k] for e in expected])
        result.outputs.append(one)
        result.points += task.points * one.credit * output.weight / weight
    if failure is not None and not result.right:
        result.notes.append(f"{cases[first or 0].name}: {failure.said}")
    elif any(errors):
        i = errors.index(True)
        result.notes.append(f"{cases[i].name}: {say_failure(answers[i]['error'], task.name).said}")
    return result


def _judge_output(task: Task, output: Output, cases: Sequence[Case], got: list[Any], right: list[Any]) -> OutputResult:
    single = any(isinstance(g, np.ndarray) and g.dtype == np.float32 for g in got)
    tolerance = [c.rtol32 if single and task.float32 else c.rtol for c in cases]
    good = [g is not None and same(g, r, close) for g, r, close in zip(got, right, tolerance)]
    if all(good):
        others = [(g.dtype, np.asarray(r).dtype) for g, r in zip(got, right) if task.same_dtype and g.dtype != np.asarray(r).dtype]
        if not others:
            return OutputResult(output.name, 1.0)
        said = f"the numbers of {output.name} are right, but it is {others[0][0]} where {others[0][1]} is expected, as the input"
        return OutputResult(output.name, 1 - task.edge_share, [Finding(f"{output.name}: dtype", said, "a result has the dtype of its input")])
    general = all(ok for ok, c in zip(good, cases) if not c.edge)
    edges = [ok for ok, c, g in zip(good, cases, got) if c.edge and (not c.telling or no_digits(g))]
    credit = 1 - task.edge_share * edges.count(False) / max(len(edges), 1) if general else 0.0
    wrong = [c.name for ok, c in zip(good, cases) if not ok]
    told = next((c for ok, c, g in zip(good, cases, got) if c.telling and not ok and not no_digits(g) and c.unless not in wrong), None)
    if general and told is not None and not any(matches(w, cases, got, right, tolerance) for w in output.mistakes()):
        return OutputResult(output.name, 0.0, [lost_digits(output.name, told)], wrong)
    over = next((c for c, g in zip(cases, got) if c.telling and g is not None and no_digits(g)), None)
    if over is not None and wrong == [over.name]:
        return OutputResult(output.name, credit, [overflow(output.name, over)], wrong)
    if single and not task.float32 and all(g is not None and same(g, r, c.rtol32) for g, r, c in zip(got, right, cases)):
        return OutputResult(output.name, credit, [Finding("float32", f"{output.name} was computed in float32; the inputs are float64")], wrong)
    return OutputResult(output.name, credit, diagnose(output, cases, got, right, tolerance), wrong)


def outputs_of(task: Task, result: Any) -> list[Any] | str:
    """The outputs one by one as arrays; or what is wrong with their number."""
    names = [o.name for o in task.outputs]
    if isinstance(result, dict) and set(result) == set(names):
        result = tuple(result[n] for n in names)
    if len(names) == 1:
        result = result if isinstance(result, tuple) and len(result) == 1 else (result,)
    if not isinstance(result, (tuple, list)) or len(result) != len(names):
        came = f"{len(result)} things" if isinstance(result, (tuple, list)) else "nothing" if result is None else "one thing"
        return f"{task.name} returned {came}; expected {len(names)}: {', '.join(names)}"
    parts = []
    for name, part in zip(names, result):
        try:
            array = np.asarray(part)
        except (ValueError, TypeError):
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            came = "None" if part is None else f"an array of {part.dtype}" if isinstance(part, np.ndarray) else type(part).__name__
            return f"{task.name} returned {came} for {name}; expected an array of real numbers"
        parts.append(array)
    return parts


def _changed(task: Task, case: Case, inputs: Any) -> list[str]:
    """The arguments that are not what they were."""
    before = [case.values[p] for p in task.parameters]
    if not isinstance(inputs, (list, tuple)) or len(inputs) != len(before):
        return ["the inputs"]
    return [n for n, a, b in zip(task.parameters, before, inputs) if not _equal(a, b)]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and set(a) == set(b) and all(_equal(a[k], b[k]) for k in a)
    if type(a) in (int, float) and type(a) is type(b):  # a graph has thousands of them
        return bool(a == b or (a != a and b != b))
    if isinstance(a, (np.ndarray, np.generic, float, int)):
        if not isinstance(b, (np.ndarray, np.generic, float, int)) or np.shape(a) != np.shape(b):
            return False
        return np.array_equal(a, b) or bool(np.asarray(a).dtype.kind == "f" and np.array_equal(a, b, equal_nan=True))
    return bool(a == b)
