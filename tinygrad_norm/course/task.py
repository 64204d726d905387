"""What a student is to write, as data: the function, the cases it is tried on, its outputs and the mistakes that are known for them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..autograd.power import BANK, RECIPES
from ..autograd.target import Array
from ..autograd.wrong_layers import cross_entropy_values, linear_values
from ..autograd.wrong_norms import Values, Wrong, norm_values

__all__ = ["Array", "Case", "Faster", "Output", "Task", "Values", "Wrong", "cases_of", "collected", "large_norm", "norm_values", "task"]


class Case(NamedTuple):
    """One set of inputs.

    Attributes:
        name: for the report.
        values: all arguments by name, and whatever the formulas of the mistakes use; the function is called with what its parameters name.
        edge: without a wrong general case it only costs a share of the points.
        hidden: left out of the student's own checks.
        rtol, rtol32: how close an answer must come, relative to the largest right value: in float64, and in float32 where the task allows it.
        telling: a derivation keeps its digits here and a difference quotient loses them: an answer that is right in general and wrong here
            is taken for a numeric derivative; `unless` it is wrong in the edge case of this name as well.
        plain: in a student's own check a function that numba compiles is run as plain Python here, so that there is less to compile.
    """

    name: str
    values: Values
    edge: bool = False
    hidden: bool = False
    rtol: float = 1e-6
    rtol32: float = 5e-4
    telling: bool = False
    unless: str = ""
    plain: bool = False


class Output(NamedTuple):
    """One thing that a function returns.

    Attributes:
        name: as in the text: "dx", "dvar".
        bank: a part of `autograd.power.BANK`, whose mistakes are looked for: "layer_norm dx".
        wrong: more mistakes, or those of an output that the bank has not.
        line: the line of the derivation it is computed by, shown where it is wrong and no mistake is named.
        weight: its share of the task's points, beside the others'.
    """

    name: str
    bank: str | None = None
    wrong: Sequence[Wrong] = ()
    line: str = ""
    weight: float = 1.0

    def mistakes(self) -> list[Wrong]:
        """All that could be named here."""
        return [*(BANK[self.bank].wrong if self.bank else ()), *self.wrong]


class Faster(NamedTuple):
    """The function must be `factor` times as fast as the reference (or as `than`, a function of the solution that returns the same) on `case`.

    It is called `repeat` times in a row, each time on other floats: a window, begun anywhere, on the case's numbers one after the other, twice,
    each times a random one between ½ and 1. So no element may need its own place or size. All that it returns is compared.
    """

    factor: float
    case: Callable[[np.random.RandomState], Values]
    than: str | None = None
    repeat: int = 5


@dataclass
class Task:
    """A function that a student writes.

    Attributes:
        name: of the function. points: for it.
        reference: the solution; what it returns is what is expected.
        cases: from a random generator to the cases.
        outputs: what it returns, in order; one output is returned bare, several as a tuple.
        large: inputs at which a numeric derivative takes a hundred times as long as a derived one; None: not asked.
        slow: what to say of an answer that takes too long there: a key to count it by, and why; None: that it is a numeric derivative.
        float32: an answer computed in float32 is accepted.
        same_dtype: an answer has the dtype of the reference's.
        uses: functions of earlier tasks that it may call; the reference's are put in their place where the student's own are wrong. The grader
            lends them: each call goes to another process, so that no code of the reference lies beside the student's (nor can numba compile it).
        faster: a race against the reference.
        packages: that it may import, beside NumPy.
        seconds: for one call.
        edge_share: of the points, how much hangs on the edge cases.
    """

    name: str
    points: float
    reference: Callable[..., Any]
    cases: Callable[[np.random.RandomState], list[Case]]
    outputs: list[Output]
    large: Callable[[np.random.RandomState], Values] | None = None
    slow: tuple[str, str] | None = None
    float32: bool = True
    same_dtype: bool = False
    uses: tuple[str, ...] = ()
    faster: Faster | None = None
    packages: tuple[str, ...] = ("numpy",)
    seconds: float = 10.0
    edge_share: float = 0.3
    parameters: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = list(inspect.signature(self.reference).parameters)

    def draw(self, seed: int, hidden: bool) -> list[Case]:
        """The cases of a seed; `hidden`: those that students do not see as well.

        Raises:
            ValueError: a case lacks an argument of the function.
        """
        drawn = [c for c in self.cases(np.random.RandomState([seed, len(self.name)])) if hidden or not c.hidden]
        for case in drawn:
            lacking = [p for p in self.parameters if p not in case.values]
            if lacking:
                raise ValueError(f"{self.name}: case {case.name!r} has no {', '.join(lacking)}; it has {', '.join(case.values)}")
        return drawn

    def arguments(self, values: Values) -> list[Any]:
        """Copies of what the function is called with, in the same memory order."""
        return [_copied(values[p]) for p in self.parameters]

    def expected(self, values: Values) -> tuple[Any, ...]:
        """What the reference returns, always as a tuple."""
        with np.errstate(all="ignore"):
            result = getattr(self.reference, "py_func", self.reference)(*self.arguments(values))  # a numba function's Python: nothing to compile
        return result if len(self.outputs) > 1 else (result,)


def _copied(value: Any) -> Any:
    """A copy to the bottom: what a student changes in a list or dict must not change the case."""
    if isinstance(value, np.ndarray):
        return value.copy(order="K")
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return type(value)(_copied(v) for v in value) if type(value) in (list, tuple) else value


_waiting: ContextVar[list[tuple[Callable[..., Any], dict[str, Any]]] | None] = ContextVar("_waiting", default=None)


def task(function: Callable[..., Any], *, cases: Callable[[np.random.RandomState], list[Case]], outputs: list[Output], **more: Any) -> None:
    """Says in a grader cell what is asked of the function in the task cell before it.

    Args:
        function: the solution. cases, outputs: see Task.
        more: any other attribute of Task but name, points and reference.
    Raises:
        RuntimeError: this is no grader cell.
    """
    waiting = _waiting.get()
    if waiting is None:
        raise RuntimeError("task(…) belongs into a grader cell of an assignment's source, which course.load reads")
    waiting.append((function, {"cases": cases, "outputs": outputs, **more}))


@contextlib.contextmanager
def collected() -> Iterator[list[tuple[Callable[..., Any], dict[str, Any]]]]:
    """The list that `task` adds to while this lasts."""
    waiting: list[tuple[Callable[..., Any], dict[str, Any]]] = []
    token = _waiting.set(waiting)
    try:
        yield waiting
    finally:
        _waiting.reset(token)


# -- Cases on which no mistake passes -----------------------------------------------------------------------------------------------------

_NAMES = {
    "layer_norm": ("general", "eps 1e-5", "square", "three axes", "two features"),
    "batch_norm": ("general", "eps 1e-5", "square", "three axes", "two channels"),
    "linear": ("general", "square", "three axes"),
    "relu": ("general",),
    "cross_entropy": ("general", "an ignored row", "logits of 1000"),
}
_EDGES = {"three axes", "two features", "two channels", "an ignored row", "logits of 1000"}


def cases_of(op: str, leave_out: Sequence[str] = (), derived: bool = False) -> Callable[[np.random.RandomState], list[Case]]:
    """The cases of one of `autograd.power.RECIPES` that lets nothing through, and a few more that only an assignment needs.

    Args:
        op: "layer_norm", "batch_norm", "linear", "relu" or "cross_entropy".
        leave_out: names of cases: "three axes" where a task is of matrices only.
        derived: the task is a backward pass that is to be derived: with a telling case as well.
    """

    def make(rng: np.random.RandomState) -> list[Case]:
        drawn = RECIPES[op][-1].cases(rng)
        made = [Case(name, _with_names(op, v), edge=name in _EDGES) for name, v in zip(_NAMES[op], drawn)]
        if op.endswith("norm"):
            v = drawn[0]
            more = {k: v[k] for k in ("running_mean", "running_var", "momentum")}
            weight, bias = v.gamma.reshape(v.parameter_shape), v.beta.reshape(v.parameter_shape)
            constant = v.x.copy()
            if op == "layer_norm":
                constant[1] = 0.7
            else:
                constant[:, 1] = 0.7
            for name, x in (("a constant sample" if op == "layer_norm" else "a constant channel", constant), ("mean 1e4", v.x + 1e4)):
                values = _with_names(op, norm_values(op, x, weight, bias, v.dy, v.eps, **more))
                made.append(Case(name, values, edge=True, hidden=True, rtol=1e-5, rtol32=1.0 if name == "mean 1e4" else 5e-4))
        if op == "cross_entropy":  # no one number taken off all rows, and no limit on them, will do
            far = drawn[0].z + 900.0 * rng.permutation([-1, -0.5, 0, 0.5, 1, 0.9])[:, None]
            far[:, rng.randint(far.shape[1])] += 1000  # nor is the mean of a row enough
            made.append(Case("rows far apart", _with_names(op, cross_entropy_values(far, drawn[0].t, drawn[0].u)), edge=True, rtol=5e-4))
        if derived:
            made.append(_in_other_units(op, drawn[0], rng))
        return [c for c in made if c.name not in leave_out]

    return make


def _in_other_units(op: str, v: Values, rng: np.random.RandomState) -> Case:
    """The general case with its numbers multiplied by powers of two: a derivation gives the same digits, in whatever order it is computed.

    A step of 1e-6 is lost beside an x of 2³³, and one along dy goes out of sight; so are a limit on x and a small number that is added.
    """
    if op.endswith("norm"):
        more = {"running_mean": v.running_mean * 2.0**33, "running_var": v.running_var * 2.0**66, "momentum": v.momentum}
        weight, bias = v.gamma.reshape(v.parameter_shape), v.beta.reshape(v.parameter_shape)
        values = norm_values(op, v.x * 2.0**33, weight, bias, v.dy * 2.0**60, v.eps * 2.0**66, **more)
        return Case("in other units: x 2³³, eps 2⁶⁶ and dy 2⁶⁰ times as large", _with_names(op, values), edge=True, telling=True)
    if op == "linear":
        values = linear_values(v.x * 2.0**33, v.W * 2.0**33, v.b * 2.0**66, v.dy * 2.0**33, v.before * 2.0**66)
        return Case("in other units: x, W and dy 2³³ times as large", _with_names(op, values), edge=True, telling=True)
    largest = rng.randint(v.C, size=(v.rows, 1)) == np.arange(v.C)
    z = np.where(largest, 2.0**60, -(2.0**60))  # a softmax has no units; here it is 1 at the largest and 0 elsewhere
    return Case("with logits of 2⁶⁰ and −2⁶⁰", _with_names(op, cross_entropy_values(z, v.t, v.u)), edge=True, telling=True, unless="logits of 1000")


def _with_names(op: str, v: Values) -> Values:
    """The values also under the names that parameters have in the assignments."""
    if op.endswith("norm"):
        v["weight"], v["bias"] = v.gamma.reshape(v.parameter_shape), v.beta.reshape(v.parameter_shape)
    elif op == "linear":
        v["weight"], v["bias"] = v.W, v.b
    elif op == "cross_entropy":
        v["logits"], v["target"], v["upstream"] = v.z, np.where(v.keep[:, 0], v.t, -100), v.u
    return v


def large_norm(op: str, shape: tuple[int, int] = (16, 16384)) -> Callable[[np.random.RandomState], Values]:
    """A case at which one call of a derived backward takes milliseconds and a numeric derivative, however clever, a call for each feature."""

    def make(rng: np.random.RandomState) -> Values:
        x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
        c = shape[1]
        return _with_names(op, norm_values(op, x, rng.uniform(0.5, 1.5, c), rng.standard_normal(c), dy, 0.3))

    return make
