"""A numeric derivative in the place of a derived one is found out, by its size, its digits or its code; what is right never is."""

import numpy as np
import pytest

from tinygrad_norm.course import load, names
from tinygrad_norm.course.grade import Grading, grade_one
from tinygrad_norm.course.judge import judge
from tinygrad_norm.course.numeric import complex_step, words_beside, words_of
from tinygrad_norm.course.sandbox import best_mode
from tinygrad_norm.course.submission import Submission

HELPERS = """
def central(f, x, h=1e-6):
    return (f(x + h) - f(x - h)) / (2 * h)
PLAIN = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b}
def normed(x, axes, eps):
    c = x - x.mean(axes, keepdims=True)
    return c / np.sqrt((c * c).mean(axes, keepdims=True) + eps)
def over(x):
    return (0,) if x.ndim == 2 else (0, 2)
def channels(x, v):
    return v if x.ndim == 2 else v[:, None]
def soft(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
"""
A5 = """
def gradients(params, x, target, h=1e-6):
    xhat, rstd, hidden, z = forward(params, x)
    N, a = len(x), x @ params["W1"].T + params["b1"]
    cross = lambda z: np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(N), target]
    g = (soft(z) - np.eye(z.shape[1])[target]) / N
    CROSS
    dz = (g @ params["W2"]) * (hidden > 0)
    RELU
    d = dz * params["gamma"]
    da = rstd * (d - d.mean(1, keepdims=True) - xhat * (d * xhat).mean(1, keepdims=True))
    NORM
    return cross(z).mean(), g.T @ hidden, g.sum(0), (dz * xhat).sum(0), dz.sum(0), da.T @ x, da.sum(0)
"""
NUMERIC = {  # name: assignment, source, the outputs that are taken numerically
    "of each element by itself": ("a0", """
def op_backward(op, a, b, g):
    if op == "matmul":
        return g @ b.T, a.T @ g
    f = PLAIN[op]
    return unbroadcast(g * central(lambda t: f(t, b), a), a.shape), unbroadcast(g * central(lambda t: f(a, t), b), b.shape)
""", "da db"),
    "of each element, h = 1: exact where the operation is linear": ("a0", """
def op_backward(op, a, b, g):
    if op in ("matmul", "div"):
        return (g @ b.T, a.T @ g) if op == "matmul" else (unbroadcast(g / b, a.shape), unbroadcast(-g * a / b**2, b.shape))
    f = PLAIN[op]
    return unbroadcast(g * central(lambda t: f(t, b), a, 1.0), a.shape), unbroadcast(g * central(lambda t: f(a, t), b, 1.0), b.shape)
""", "da db"),
    "of each element, with a relative step": ("a0", """
def op_backward(op, a, b, g):
    if op == "matmul":
        return g @ b.T, a.T @ g
    f = PLAIN[op]
    return unbroadcast(g * central(lambda t: f(t, b), a, 1e-6 * abs(a)), a.shape), unbroadcast(g * central(lambda t: f(a, t), b, 1e-6 * abs(b)), b.shape)
""", "da"),
    "of each element, by a complex step": ("a0", """
def op_backward(op, a, b, g):
    if op == "matmul":
        return g @ b.T, a.T @ g
    f = PLAIN[op]
    return unbroadcast(g * f(a + 1e-20j, b).imag / 1e-20, a.shape), unbroadcast(g * f(a, b + 1e-20j).imag / 1e-20, b.shape)
""", "da db"),
    "one input after the other": ("a1", """
def linear_one(dy, x, weight):
    dx = np.array([central(lambda t: (weight @ (x + t * e)) @ dy, 0.0) for e in np.eye(len(x))])
    return dx, np.outer(dy, x), dy.copy()
""", "dx"),
    "of the ReLU alone": ("a1", """
def network_backward(dy, x, weight1, bias1, weight2):
    a = x @ weight1.T + bias1
    da = (dh := dy @ weight2) * (np.maximum(a, 0) - np.maximum(a - 1e-6, 0)) / 1e-6
    return dy.T @ np.maximum(a, 0), dh, da, da.T @ x, da @ weight1
""", "da dweight1 dx"),
    "along dp, as the Jacobian is symmetric": ("a2", """
def softmax_backward(dp, p):
    return central(lambda t: soft(np.log(p) + t * dp), 0.0)
""", "dlogits"),
    "class by class": ("a2", """
def cross_entropy_backward(logits, target, upstream):
    keep = target != -100
    loss = lambda z: np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(len(z)), np.where(keep, target, 0)]
    dz = np.stack([central(lambda t: loss(logits + t * e), 0.0) for e in np.eye(logits.shape[1])], axis=1)
    return upstream / keep.sum() * keep[:, None] * dz
""", "dlogits"),
    "of all classes at once": ("a2", """
def cross_entropy_backward(logits, target, upstream):
    keep, o = (target != -100)[:, None], np.arange(logits.shape[1]) == target[:, None]
    m = logits.max(1, keepdims=True)
    s = np.exp(logits - m).sum(1, keepdims=True)
    return upstream / keep.sum() * keep * central(lambda z: np.log(s - np.exp(logits - m) + np.exp(z - m)) - z * o, logits)
""", "dlogits"),
    "feature by feature": ("a3", """
def layer_norm_backward(dy, x, weight, eps):
    return np.stack([central(lambda t: (normed(x + t * e, -1, eps) * dy * weight).sum(-1), 0.0) for e in np.eye(x.shape[-1])], axis=-1)
""", "dx"),
    "along d, as the Jacobian is symmetric": ("a3", """
def layer_norm_backward(dy, x, weight, eps):
    return central(lambda t: normed(x + t * dy * weight, -1, eps), 0.0)
""", "dx"),
    "along d, of fourth order": ("a3", """
def layer_norm_backward(dy, x, weight, eps, h=1e-3):
    f = lambda t: normed(x + t * dy * weight, -1, eps)
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
""", "dx"),
    "along d, by a complex step": ("a3", """
def layer_norm_backward(dy, x, weight, eps, h=1e-20):
    return normed(x + 1j * h * dy * weight, -1, eps).imag / h
""", "dx"),
    "of all features at once": ("a3", """
def layer_norm_backward(dy, x, weight, eps):
    d, D, c = dy * weight, x.shape[-1], x - x.mean(-1, keepdims=True)
    def loss(k):  # where one x is k larger: mean and variance follow
        var = x.var(-1, keepdims=True) + (2 * c * k + k * k) / D - (k / D) ** 2
        return ((d * x).sum(-1, keepdims=True) + d * k - (x.mean(-1, keepdims=True) + k / D) * d.sum(-1, keepdims=True)) / np.sqrt(var + eps)
    return central(loss, 0.0)
""", "dx"),
    "the last stage": ("a3", """
def layer_norm_staged(dy, x, weight, eps):
    d, c = dy * weight, x - x.mean(-1, keepdims=True)
    r = 1 / np.sqrt(x.var(-1, keepdims=True) + eps)
    dvar = (d * c).sum(-1, keepdims=True) * -0.5 * r**3
    return d, dvar, -r * d.sum(-1, keepdims=True), central(lambda t: normed(x + t * d, -1, eps), 0.0)
""", "dx"),
    "sample by sample": ("a4", """
def batch_norm_backward(dy, x, weight, eps):
    d, dx = dy * channels(x, weight), np.empty_like(x)
    for n in range(len(x)):
        for at in [(n, slice(None))] if x.ndim == 2 else [(n, slice(None), l) for l in range(x.shape[2])]:
            e = np.zeros_like(x)
            e[at] = 1
            dx[at] = central(lambda t: (normed(x + t * e, over(x), eps) * d).sum(over(x)), 0.0)
    return dx
""", "dx"),
    "along d, over the batch": ("a4", """
def batch_norm_backward(dy, x, weight, eps):
    return central(lambda t: normed(x + t * dy * channels(x, weight), over(x), eps), 0.0)
""", "dx"),
    "in eval, of each element by itself": ("a4", """
def batch_norm_eval_backward(dy, x, weight, running_mean, running_var, eps):
    return dy * central(lambda x: channels(x, weight) * (x - channels(x, running_mean)) / np.sqrt(channels(x, running_var) + eps), x)
""", "dx"),
    "of the loss, class by class": ("a5", A5.replace("CROSS", "g = np.stack([central(lambda t: cross(z + t * e), 0.0) for e in np.eye(z.shape[1])], axis=1) / N")
     .replace("RELU", "").replace("NORM", ""), "dW2 db2 dgamma dbeta dW1 db1"),
    "of the network's ReLU": ("a5", A5.replace("CROSS", "").replace("RELU", "v = params['gamma'] * xhat + params['beta']\n    "
     "dz = (g @ params['W2']) * (np.maximum(v, 0) - np.maximum(v - h, 0)) / h").replace("NORM", ""), "dgamma dbeta dW1 db1"),
    "of the network's LayerNorm, along d": ("a5", A5.replace("CROSS", "").replace("RELU", "")
     .replace("NORM", "da = central(lambda t: normed(a + t * d, 1, 1e-5), 0.0)"), "dW1 db1"),
    "parameter by parameter": ("a5", """
def gradients(params, x, target):
    def loss(p):
        z = forward(p, x)[-1]
        return (np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(len(z)), target]).mean()
    found = [loss(params)]
    for name in ("W2", "b2", "gamma", "beta", "W1", "b1"):
        grad = np.zeros_like(params[name])
        for at in np.ndindex(grad.shape):
            e = np.zeros_like(grad)
            e[at] = 1
            grad[at] = central(lambda t: loss({**params, name: params[name] + t * e}), 0.0)
        found.append(grad)
    return tuple(found)
""", "dW2 db2 dgamma dbeta dW1 db1"),
}  # fmt: skip


def written(name, source):
    """The function of a source, with the reference's for those of earlier tasks; and its task."""
    function = source.split("def ")[1].split("(")[0]
    this = load(name)
    space = {"np": np, **{used: getattr(this.reference, used) for used in this.tasks[function].uses}}
    exec(HELPERS + source, space)
    return space[function], this.tasks[function]


def credits(task, function, seed, hidden=True):
    cases = task.draw(seed, hidden)
    answers = []
    for case in cases:
        args = task.arguments(case.values)
        with np.errstate(all="ignore"):
            answers.append({"result": function(*args), "inputs": args})
    return judge(task, cases, answers), cases


@pytest.mark.parametrize("how", NUMERIC)
def test_a_numeric_derivative_is_found_out(how):
    name, source, outputs = NUMERIC[how]
    function, task = written(name, source)
    if complex_step(task.name, words_beside(function)):
        checked = load(name).check(function).result
        assert checked.points == 0 and checked.cause.key == "a numeric derivative" and "imaginary part" in checked.lines()[0]
        return
    for seed in range(10):
        result, cases = credits(task, function, seed)
        wrong = {o.name: o for o in result.outputs if o.credit == 0}
        assert set(outputs.split()) <= set(wrong), (seed, result.lines())
        telling = {c.name for c in cases if c.telling}
        for output in outputs.split():
            (finding,) = wrong[output].findings
            assert finding.key == "a numeric derivative" and "derive it" in finding.said
            assert {c.name for c in cases if not c.edge}.isdisjoint(wrong[output].wrong_cases) and telling & set(wrong[output].wrong_cases)


def test_found_out_by_the_grader():
    name, source, _ = NUMERIC["along d, by a complex step"]
    this = load(name)
    result = grade_one(Grading(this, best_mode()[0]), Submission("one", [*this.solution_cells(), HELPERS + source]))
    assert result["score"] == 10 and result["tasks"][3]["misconceptions"] == ["a numeric derivative"]


DERIVED = [(n, t) for n in names() for t, task in load(n).tasks.items() if any(c.telling for c in task.draw(0, True))]


@pytest.mark.parametrize(("name", "function"), DERIVED)
def test_what_is_derived_keeps_its_digits(name, function):
    """In float32 too, and with 1e-9 of noise; an output that is wrong in general is not called numeric."""
    task = load(name).tasks[function]
    reference = getattr(task.reference, "py_func", task.reference)

    def single(*args):
        return reference(*[{k: np.float32(v) for k, v in a.items()} if isinstance(a, dict) else
                           a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a for a in args])  # fmt: skip

    def noisy(*args):
        result = reference(*args)
        parts = [np.asarray(p) for p in (result if isinstance(result, tuple) else (result,))]
        return tuple((p * (1 + 1e-9 * rng.standard_normal(p.shape))).astype(p.dtype) for p in parts)

    rng = np.random.RandomState(0)
    for seed in range(10):
        assert credits(task, noisy, seed)[0].right
        if task.float32 and function not in ("tape_backward",):  # its graph is not an array
            result, _ = credits(task, single, seed)
            assert not [f for f in result.findings if f.key == "a numeric derivative"], result.lines()
        wrong, _ = credits(task, lambda *args: tuple(3 * np.asarray(p) for p in noisy(*args)), seed)
        assert not wrong.points and not [f for f in wrong.findings if f.key == "a numeric derivative"]


def test_words_of_a_submission():
    """A complex number counts where the function, or one it calls, has it; not in a comment, a text, or a check of one's own beside it."""
    cells = [
        "def f(x):  # 1j\n    'imag'\n    return g(x)\n\ndef own_check(x):\n    return f(x + 1j).imag",
        "@decorated\ndef g(x,\n    y=2\n):\n    return h(x)",
        "h = lambda x: x.real",
        "def k(x):\n    return own_check(x)",
        "def broken(:\n  '''",
        "\x00",
    ]
    words = words_of(cells)
    assert [complex_step(name, words) for name in ("f", "g", "h", "k", "own_check", "nobody")] == [False, False, False, True, True, False]


BANKED = [(n, t, o.name) for n, t in DERIVED for o in load(n).tasks[t].outputs if o.bank]


@pytest.mark.parametrize(("name", "function", "output"), BANKED)
def test_the_bank_is_still_named(name, function, output):
    """On a task's own cases, those that tell among them, every mistake of the bank is rejected and called by its name."""
    task = load(name).tasks[function]
    k = [o.name for o in task.outputs].index(output)
    for wrong in task.outputs[k].mistakes():
        for seed in range(3):
            cases, answers = task.draw(seed, hidden=True), []
            for case in cases:
                values = list(task.expected(case.values))
                if wrong.applies(case.values):
                    with np.errstate(all="ignore"):
                        values[k] = np.asarray(wrong.gradient(type(case.values)({n: np.copy(v) if isinstance(v, np.ndarray) else v for n, v in case.values.items()})))
                answers.append({"result": tuple(values) if len(values) > 1 else values[0], "inputs": task.arguments(case.values)})
            found = [f.key for o in judge(task, cases, answers).outputs if o.name == output for f in o.findings]
            assert wrong.name in found or not any(wrong.applies(c.values) for c in cases), (wrong.name, found)


def test_an_overflow_of_float32_is_not_called_numeric():
    """A derivation in another order of its factors: var·d is beyond float32 in other units. It costs that case's share."""
    source = """
def layer_norm_backward(dy, x, weight, eps):
    dy, x, weight, eps = (np.KIND(a) for a in (dy, x, weight, eps))
    m = lambda a: a.mean(-1, keepdims=True)
    d, c, var = dy * weight, x - m(x), x.var(-1, keepdims=True) + eps
    return (var * (d - m(d)) - c * m(d * c)) / var / np.sqrt(var)
"""
    for seed in range(5):
        function, task = written("a3", source.replace("KIND", "float64"))
        assert credits(task, function, seed)[0].right
        function, task = written("a3", source.replace("KIND", "float32"))
        result, cases = credits(task, function, seed)
        (finding,) = result.findings
        assert finding.key == "dx: overflow of float32" and "inf or NaN in other units" in finding.said
        assert result.points == pytest.approx(task.points * (1 - task.edge_share / sum(c.edge for c in cases)))


def test_an_unstable_softmax_is_not_called_numeric():
    """It fails where a difference quotient does, but at logits of 1000 as well, and a quotient does not."""
    for name, source in (
        ("a2", "def cross_entropy_backward(logits, target, upstream):\n    keep = (target != -100)[:, None]\n"
         "    e = np.exp(np.clip(logits, -500, 500))\n"
         "    return upstream / keep.sum() * keep * (e / e.sum(1, keepdims=True) - (np.arange(e.shape[1]) == target[:, None]))\n"),
        ("a5", A5.replace("CROSS", "g = ((lambda e: e / e.sum(1, keepdims=True))(np.exp(z)) - np.eye(z.shape[1])[target]) / N").replace("RELU", "").replace("NORM", "")),
    ):  # fmt: skip
        function, task = written(name, source)
        result, _ = credits(task, function, 0)
        assert 0 < result.points < task.points and "a numeric derivative" not in [f.key for f in result.findings], result.lines()
        assert ("rows far apart" if name == "a2" else "logits of 1000") in " ".join(result.lines())
