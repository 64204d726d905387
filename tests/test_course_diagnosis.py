"""The bank of wrong backward passes is the diagnosis' own test suite: every mistake is rejected and named, nothing right ever is."""

import copy
from functools import lru_cache

import numpy as np
import pytest

from tinygrad_norm.autograd.power import BANK
from tinygrad_norm.autograd.wrong_norms import Values
from tinygrad_norm.course import load
from tinygrad_norm.course.diagnosis import diagnose, least_squares
from tinygrad_norm.course.judge import judge
from tinygrad_norm.course.task import Case, Output, Task, cases_of

SEEDS = range(20)
OPS = {name: name.split()[0] for name in BANK}


def held(values):
    return Values({k: copy.copy(v) if isinstance(v, np.ndarray) else v for k, v in values.items()})


def task_of(part):
    """A task whose function is given the whole of a case by one argument."""
    output = Output(part.split()[-1] if "running" not in part else "running_var", part)
    return Task("f", 1.0, lambda everything: BANK[part].right(Values(everything)), lambda rng: with_all(cases_of(OPS[part])(rng)), [output])


@lru_cache(maxsize=40)  # two parts' seeds
def drawn(part, seed):
    return task_of(part).draw(seed, hidden=True)


def with_all(cases):
    made = []
    for case in cases:
        values = held(case.values)
        values["everything"] = dict(case.values)
        made.append(case._replace(values=values))
    return made


def answer(case, function, right):
    """What a worker sends back: the result, and the arguments as they are after the call."""
    mine = held(case.values)
    with np.errstate(all="ignore"):
        result = np.asarray(function(mine))
    after = {k: mine[k] for k in case.values["everything"]}
    return {"result": result, "inputs": [after]}


def graded(task, part, function, applies, seed):
    cases = drawn(part, seed)
    answers = []
    for case in cases:
        if applies(case.values):
            answers.append(answer(case, function, BANK[part].right))
        elif "keepdims" in applies.__name__ or applies.__name__ == "_square":
            answers.append({"error": {"kind": "ValueError", "said": "operands could not be broadcast together"}})
        else:
            answers.append(answer(case, BANK[part].right, BANK[part].right))
    return judge(task, cases, answers)


ENTRIES = [(part, wrong.name) for part in BANK for wrong in BANK[part].wrong]


@pytest.mark.parametrize(("part", "name"), ENTRIES, ids=[f"{p}: {n}" for p, n in ENTRIES])
def test_every_mistake_is_rejected_and_named(part, name):
    (wrong,) = (w for w in BANK[part].wrong if w.name == name)
    task = task_of(part)
    for seed in SEEDS:
        result = graded(task, part, wrong.gradient, wrong.applies, seed)
        assert not result.right
        assert result.points < task.points
        named = [f.key for o in result.outputs for f in o.findings] if result.cause is None else [result.cause.key]
        if name.endswith("changed in place"):
            assert named in ([name], ["everything changed in place"])
            continue
        assert named == [name], f"seed {seed}: named {named}"
        (finding,) = result.outputs[0].findings
        assert finding.breaks == wrong.breaks  # the line of the derivation
        assert result.lines("none") in ([], result.notes)
        assert name not in " ".join(result.lines("term"))


RIGHT = {
    "as it is": lambda a, rng: a,
    "1e-9 of noise": lambda a, rng: a * (1 + 1e-9 * rng.standard_normal(np.shape(a))),
    "in float32": lambda a, rng: np.asarray(a, np.float32),
    "in another memory order": lambda a, rng: np.asfortranarray(a),
    "as nested lists": lambda a, rng: np.asarray(a).tolist(),
}


@pytest.mark.parametrize("how", RIGHT)
@pytest.mark.parametrize("part", BANK)
def test_what_is_right_passes_however_it_is_written(part, how):
    task = task_of(part)
    for seed in SEEDS:
        rng = np.random.RandomState(seed)
        cases = drawn(part, seed)
        answers = [{"result": RIGHT[how](BANK[part].right(c.values), rng), "inputs": [c.values["everything"]]} for c in cases]
        result = judge(task, cases, answers)
        assert result.right and result.points == task.points and not any(o.findings for o in result.outputs)


def other_orders():
    """LayerNorm's dx, right, in other ways."""

    def summed(v):
        width = v.x.shape[-1]
        s = v.d.sum(-1, keepdims=True)
        return v.rstd / width * (width * v.d - s - v.xhat * (v.d * v.xhat).sum(-1, keepdims=True))

    def staged(v):
        width = v.x.shape[-1]
        dvar = -0.5 * (v.d * v.deviation).sum(-1, keepdims=True) / (v.var + v.eps) ** 1.5
        dmean = -(v.d * v.rstd).sum(-1, keepdims=True) - dvar * 2 / width * v.deviation.sum(-1, keepdims=True)
        return v.d * v.rstd + dvar * 2 / width * v.deviation + dmean / width

    def by_jacobian(v):
        width = v.x.shape[-1]
        jacobian = v.rstd[..., None] * (np.eye(width) - 1 / width - v.xhat[..., :, None] * v.xhat[..., None, :] / width)
        return np.einsum("...i,...ij->...j", v.d, jacobian)

    def in_float32(v):
        x, d = v.x.astype(np.float32), v.d.astype(np.float32)
        c = x - x.mean(-1, keepdims=True)
        r = 1 / np.sqrt((c * c).mean(-1, keepdims=True) + np.float32(v.eps))
        return r * (d - d.mean(-1, keepdims=True) - c * r * (d * c * r).mean(-1, keepdims=True))

    def one_pass_variance(v):
        r = 1 / np.sqrt((v.x * v.x).mean(-1, keepdims=True) - v.mean**2 + v.eps)
        xhat = v.deviation * r
        return r * (v.d - v.m(v.d) - xhat * v.m(v.d * xhat))

    return [summed, staged, by_jacobian, in_float32, one_pass_variance]


@pytest.mark.parametrize("function", other_orders(), ids=lambda f: f.__name__)
def test_another_order_of_operations_passes(function):
    task = task_of("layer_norm dx")
    for seed in SEEDS:
        result = graded(task, "layer_norm dx", function, lambda v: True, seed)
        assert result.right, result.lines()


# -- Beyond the bank ------------------------------------------------------------------------------------------------------------------------


def say(function, part="layer_norm dx", name="dx", seed=0, line=""):
    cases = cases_of(OPS[part])(np.random.RandomState(seed))
    right = [BANK[part].right(c.values) for c in cases]
    return diagnose(Output(name, part, line=line), cases, [np.asarray(function(c.values)) for c in cases], right, [c.rtol for c in cases])


def test_a_constant_factor():
    (finding,) = say(lambda v: 2 * v.dx)
    assert finding.said == "dx is 2 times the right one, everywhere"
    (finding,) = say(lambda v: v.dx * v.x.shape[-1])
    assert "5 times (and 5 is the length of axis 1)" in finding.said


@pytest.mark.parametrize("seed", SEEDS)
def test_least_squares_on_the_terms(seed):
    (finding,) = say(lambda v: v.T0 - 3 * v.T1 - v.T2, seed=seed)
    assert finding.said == "the coefficients of the three terms are 1, −3, −1; they should be 1, −1, −1: the mean term counts three times"
    assert finding.breaks == "∂μ/∂xⱼ = 1/M"
    (finding,) = say(lambda v: v.T0 - v.T1 - v.rstd**2 * v.T2, seed=seed)
    assert finding.key == "the variance term has rstd to the power 3, not 1"
    (finding,) = say(lambda v: v.rstd * (v.dy - 2 * v.m(v.dy) - v.xhat * v.m(v.dy * v.xhat)), seed=seed)
    assert "γ is missing" in finding.said and "the mean term counts twice" in finding.said


def test_nothing_is_claimed_of_noise():
    rng = np.random.RandomState(0)
    (finding,) = say(lambda v: v.dx + rng.standard_normal(v.dx.shape), line="dx = …")
    assert finding.key == "dx is wrong" and finding.breaks == "dx = …"
    values = [c.values for c in cases_of("layer_norm")(rng)[:2]]
    assert least_squares(values, [rng.standard_normal(v.x.shape) for v in values]) is None


def test_wrong_shapes():
    (finding,) = say(lambda v: v.d * v.xhat / v.gamma * v.gamma * 0 + v.dy * v.xhat, "layer_norm dγ", "dγ")
    assert finding.said == "dγ: no batch sum"
    (finding,) = say(lambda v: np.moveaxis(v.dx, -1, 0))
    assert "shape" in finding.said and "it is the transpose of the right one" in finding.said
    (finding,) = say(lambda v: v.dbeta[None], "layer_norm dβ", "dβ")
    assert "the numbers are right, with an axis of length 1 too many" in finding.said
    (finding,) = say(lambda v: v.dx.sum(0))
    assert "it is the right one summed over axis 0" in finding.said


def test_wrong_rows():
    def last_row_lost(v):
        dx = v.dx.copy()
        dx[-1] = 0
        return dx

    (finding,) = say(last_row_lost)
    assert "only row 5 of dx is wrong" in finding.said
    assert "5" not in finding.key  # counted together, whichever row it is


def test_the_first_wrong_stage():
    a3 = load("a3")

    def layer_norm_staged(dy, x, weight, eps):
        dxhat, dvar, dmean, dx = a3.reference.layer_norm_staged(dy, x, weight, eps)
        dvar = 2 * dvar
        return dxhat, dvar, dmean, dxhat / np.sqrt(x.var(-1, keepdims=True) + eps) + dvar * 2 / x.shape[-1] * (x - x.mean(-1, keepdims=True)) + dmean / x.shape[-1]

    checked = a3.check(layer_norm_staged)
    assert not checked.right
    said = str(checked)
    assert "right: dxhat, dmean; the first that is wrong: dvar" in said
    assert "dvar: forgot ½ in d(v^−½)" in said and "dx: forgot ½ in d(v^−½)" in said
    assert checked.result.points == 2.0  # two of five shares


def test_edge_cases_cost_a_share():
    task = load("a3").tasks["layer_norm_parameters"]
    cases = task.draw(3, hidden=True)
    answers = [{"result": ((c.values.dy * c.values.xhat).sum(0), c.values.dy.sum(0)), "inputs": task.arguments(c.values)} for c in cases]
    result = judge(task, cases, answers)
    assert not result.right and 0 < result.points < task.points
    assert [f.key for o in result.outputs for f in o.findings] == ["dγ: axis 0 only", "dβ: axis 0 only"]


@pytest.mark.parametrize("result", [None, "text", 1.0, (), (1, 2, 3), [None, None], {"dweight": 1}, (np.zeros(5, complex), np.zeros(5)), (object(), 1)])
def test_what_is_no_answer(result):
    task = load("a3").tasks["layer_norm_parameters"]
    cases = task.draw(0, hidden=False)
    judged = judge(task, cases, [{"result": result, "inputs": task.arguments(c.values)} for c in cases])
    assert judged.points == 0 and judged.lines()


def test_the_cases_of_a_task_have_its_arguments():
    task = load("a3").tasks["layer_norm_forward"]
    task = Task("layer_norm_forward", 1, task.reference, lambda rng: [Case("bare", Values(x=1))], task.outputs)
    with pytest.raises(ValueError, match="case 'bare' has no weight, bias, eps"):
        task.draw(0, hidden=True)
