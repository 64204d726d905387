"""A0, A1 and A2: against the library, right answers written otherwise, mistakes as students write them, numeric derivatives."""

import json
import os
import time

import numpy as np
import pytest

import tinygrad_norm as tg
from tinygrad_norm.course import assignment, load
from tinygrad_norm.course.grade import Grading, grade_one
from tinygrad_norm.course.judge import judge
from tinygrad_norm.course.notebooks import notebook
from tinygrad_norm.course.sandbox import best_mode
from tinygrad_norm.course.submission import Submission

SEEDS = range(20)


def written(source):
    """The last function of a source, with what it calls."""
    space = {"np": np}
    exec(source, space)
    return [v for k, v in space.items() if callable(v)][-1], space


def answered(name, function, seed, change=lambda a: a):
    """The result of a function on all cases of a seed."""
    task = load(name).tasks[function.__name__]
    cases, answers = task.draw(seed, hidden=True), []
    for case in cases:
        args = task.arguments(case.values)
        answers.append({"result": change(function(*args)), "inputs": args})
    return judge(task, cases, answers)


# -- Against the library --------------------------------------------------------------------------------------------------------------------


def test_a0_against_the_library():
    a0 = load("a0").reference
    rng = np.random.RandomState(0)
    x, w, b, dy = (rng.standard_normal(s) for s in ((4, 3), (3, 3), (3,), (4, 3)))
    leaves = [tg.tensor(a, requires_grad=True) for a in (x, w, b)]
    z = leaves[0] @ leaves[1] + leaves[2]
    y = z * z / (z * z + leaves[0] * leaves[0]) - leaves[2]
    y.backward(tg.tensor(dy))
    graph = [("leaf", (), x), ("leaf", (), w), ("leaf", (), b)]
    for op, i, j in (("matmul", 0, 1), ("add", 3, 2), ("mul", 4, 4), ("mul", 0, 0), ("add", 5, 6), ("div", 5, 7), ("sub", 8, 2)):
        f = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "matmul": np.matmul}[op]
        graph.append((op, (i, j), f(graph[i][2], graph[j][2])))
    for mine, leaf in zip(a0.tape_backward(graph, 9, dy), leaves):
        np.testing.assert_allclose(mine, leaf.grad.numpy(), rtol=1e-12)
    space = {}
    for cell in load("a0").cells:
        if cell.kind == "given" and cell.source.startswith(("example", "linear")):
            exec(cell.source, {"np": np}, space)
    np.testing.assert_array_equal(a0.walk(space["example"], 4), [11, 3, 1, 1, 1])  # as its text says
    assert [g.shape for g in a0.tape_backward(space["linear"], 4, np.ones((3, 1)))] == [(3, 2), (2, 1), (1,)]


def test_a1_against_the_library():
    a1 = load("a1").reference
    rng = np.random.RandomState(0)
    x, w1, b1, w2, b2, dy = (rng.standard_normal(s) for s in ((5, 4), (6, 4), (6,), (3, 6), (3,), (5, 3)))
    leaves = [tg.tensor(a, requires_grad=True) for a in (x, w1, b1, w2, b2)]
    linear, relu = tg.nn.functional.linear, tg.nn.functional.relu
    a = linear(leaves[0], leaves[1], leaves[2])
    h = relu(a)
    a.retain_grad()
    h.retain_grad()
    y = linear(h, leaves[3], leaves[4])
    y.backward(tg.tensor(dy))
    expected = [t.grad.numpy() for t in (leaves[3], h, a, leaves[1], leaves[0])]
    for mine, right in zip(a1.network_backward(dy, x, w1, b1, w2), expected):
        np.testing.assert_allclose(mine, right, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(a1.linear_backward(expected[2], x, w1)[2], leaves[2].grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(a1.linear_forward(a1.relu_forward(a1.linear_forward(x, w1, b1)), w2, b2), y.detach().numpy(), rtol=1e-12)


def test_a2_against_the_library():
    a2 = load("a2").reference
    rng = np.random.RandomState(0)
    z, t = rng.standard_normal((6, 4)) * 3, np.array([0, 3, -100, 1, 1, 2])
    logits = tg.tensor(z, requires_grad=True)
    loss = tg.nn.functional.cross_entropy(logits, tg.tensor(t))
    (loss * 1.7).backward()
    np.testing.assert_allclose(a2.cross_entropy_forward(z, t), loss.item(), rtol=1e-12)
    np.testing.assert_allclose(a2.cross_entropy_backward(z, t, 1.7), logits.grad.numpy(), rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(a2.cross_entropy_staged(z, t, 1.7)[2], logits.grad.numpy(), rtol=1e-12, atol=1e-16)
    p = tg.tensor(z, requires_grad=True)
    dp = rng.standard_normal(z.shape)
    tg.nn.functional.softmax(p, -1).backward(tg.tensor(dp))
    np.testing.assert_allclose(a2.softmax_backward(dp, a2.softmax(z)), p.grad.numpy(), rtol=1e-10, atol=1e-15)


# -- What is right passes -------------------------------------------------------------------------------------------------------------------

OTHERWISE = {
    "a0": [
        "def walk(nodes, root):\n"  # by counting the uses, in an order of its own
        "    uses, waiting, grads = [0] * len(nodes), [root], [0.0] * len(nodes)\n"
        "    needed, grads[root] = {root}, 1.0\n"
        "    stack = [root]\n"
        "    while stack:\n"
        "        for j, _ in nodes[stack.pop()]:\n"
        "            uses[j] += 1\n"
        "            if j not in needed:\n"
        "                needed.add(j)\n"
        "                stack.append(j)\n"
        "    while waiting:\n"
        "        i = waiting.pop()\n"
        "        for j, slope in nodes[i]:\n"
        "            grads[j] = grads[j] + slope * grads[i]\n"
        "            uses[j] -= 1\n"
        "            if not uses[j]:\n"
        "                waiting.append(j)\n"
        "    return grads\n",
        "def walk(nodes, root):\n"  # as a system of linear equations
        "    a = np.eye(len(nodes))\n"
        "    for i, pairs in enumerate(nodes):\n"
        "        for j, slope in pairs:\n"
        "            a[j, i] -= slope\n"
        "    return np.linalg.solve(a, np.eye(len(nodes))[root])\n",
        "def unbroadcast(g, shape):\n"
        "    while g.ndim > len(shape):\n"
        "        g = g.sum(axis=0)\n"
        "    for axis, n in enumerate(shape):\n"
        "        if n == 1 and g.shape[axis] > 1:\n"
        "            g = g.sum(axis=axis, keepdims=True)\n"
        "    return g\n",
        "def op_backward(op, a, b, g):\n"
        "    if op == 'matmul':\n"
        "        return np.einsum('nm,km->nk', g, b), np.einsum('nk,nm->km', a, g)\n"
        "    g = g * np.ones(np.broadcast_shapes(a.shape, b.shape))\n"
        "    da, db = {'add': (g, g), 'sub': (g, -g), 'mul': (b * g, a * g), 'div': (g / b, -(a / b) * (g / b))}[op]\n"
        "    def back(d, s):\n"
        "        lead = d.ndim - len(s)\n"
        "        d = d.sum(axis=tuple(range(lead)))\n"
        "        return d.sum(axis=tuple(i for i, n in enumerate(s) if n == 1), keepdims=True)\n"
        "    return back(da, a.shape), back(db, b.shape)\n",
    ],
    "a1": [
        "def linear_forward(x, weight, bias):\n    return np.einsum('oi,...i->...o', weight, x) + bias\n",
        "def linear_one(dy, x, weight):\n    return (weight * dy[:, None]).sum(0), dy[:, None] * x[None], dy * 1.0\n",
        "def linear_backward(dy, x, weight):\n"
        "    dx, dw, db = np.zeros_like(x), np.zeros_like(weight), np.zeros(len(weight))\n"
        "    for n in np.ndindex(x.shape[:-1]):\n"
        "        dx[n] = dy[n] @ weight\n"
        "        dw += np.outer(dy[n], x[n])\n"
        "        db += dy[n]\n"
        "    return dx, dw, db\n",
        "def linear_backward(dy, x, weight):\n"
        "    return np.einsum('...o,oi->...i', dy, weight), np.tensordot(dy, x, [range(dy.ndim - 1)] * 2), dy.sum(tuple(range(dy.ndim - 1)))\n",
        "def relu_forward(x):\n    return x * (x > 0)\n",
        "def relu_backward(dy, x):\n    return dy * (x > 0)\n",
        "def relu_backward(dy, x):\n    dx = dy.copy()\n    dx[x <= 0] = 0\n    return dx\n",
        "def network_backward(dy, x, weight1, bias1, weight2):\n"
        "    a = x @ weight1.T + bias1\n"
        "    mask = (a > 0).astype(float)\n"
        "    dh = dy.dot(weight2)\n"
        "    da = mask * dh\n"
        "    return ((a * mask).T @ dy).T, dh, da, (x.T @ da).T, da @ weight1\n",
    ],
    "a2": [
        "def softmax(logits):\n"
        "    z = logits - logits.max(-1)[..., None]\n"
        "    return np.exp(z - np.log(np.exp(z).sum(-1))[..., None])\n",
        "def cross_entropy_forward(logits, target):\n"
        "    total, n = 0.0, 0\n"
        "    for z, t in zip(logits, target):\n"
        "        if t != -100:\n"
        "            m = max(z)\n"
        "            total, n = total + m + np.log(sum(np.exp(v - m) for v in z)) - z[t], n + 1\n"
        "    return total / n\n",
        "def cross_entropy_forward(logits, target):\n"
        "    z, t = logits[target >= 0], target[target >= 0]\n"
        "    return (np.logaddexp.reduce(z, axis=1) - z[np.arange(len(t)), t]).mean()\n",
        "def softmax_backward(dp, p):\n"
        "    jacobian = p[..., None] * (np.eye(p.shape[-1]) - p[..., None, :])\n"
        "    return np.einsum('...k,...kj->...j', dp, jacobian)\n",
        "def cross_entropy_backward(logits, target, upstream):\n"
        "    keep = target != -100\n"
        "    e = np.exp(logits - logits.max(1, keepdims=True))\n"
        "    dz = e / e.sum(1, keepdims=True)\n"
        "    dz[np.arange(len(dz))[keep], target[keep]] -= 1\n"
        "    dz[~keep] = 0\n"
        "    return dz * (upstream / np.count_nonzero(keep))\n",
        "def cross_entropy_staged(logits, target, upstream):\n"
        "    keep = target != -100\n"
        "    z = logits - logits.max(1, keepdims=True)\n"
        "    logp = z - np.log(np.exp(z).sum(1, keepdims=True))\n"
        "    dell = (np.arange(z.shape[1]) == target[:, None]) / keep.sum() * upstream\n"
        "    dlse = keep[:, None] * upstream / keep.sum()\n"
        "    return dell, dlse, -dell + np.exp(logp) * dlse\n",
    ],
}


@pytest.mark.parametrize(("name", "source"), [(n, s) for n, sources in OTHERWISE.items() for s in sources])
def test_what_is_right_passes_however_it_is_written(name, source):
    function, space = written(source)
    for seed in SEEDS:
        result = answered(name, function, seed)
        assert result.right and result.points == result.out_of, result.lines()
    assert load(name).check(function, seed=3).right


CHANGES = {
    "1e-9 of noise": lambda a: np.asarray(a) * (1 + 1e-9 * np.random.RandomState(0).standard_normal(np.shape(a))),
    "in float32": lambda a: np.asarray(a, np.float32),
    "as nested lists": lambda a: np.asarray(a).tolist(),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("name", ["a0", "a1", "a2"])
def test_noise_and_float32_pass(name, how):
    for task in load(name).tasks.values():
        change = CHANGES[how] if len(task.outputs) == 1 else lambda parts: tuple(CHANGES[how](p) for p in parts)
        for seed in SEEDS[::4]:
            result = answered(name, task.reference, seed, change)
            assert result.right and not any(o.findings for o in result.outputs), result.lines()


def test_computed_in_float32():
    a2 = load("a2")
    for name in ("softmax", "cross_entropy_forward", "cross_entropy_staged", "cross_entropy_backward"):
        task = a2.tasks[name]

        def single(logits, *more, of=task.reference):
            return of(logits.astype(np.float32), *more)

        single.__name__ = name
        assert answered("a2", single, 0).right, answered("a2", single, 0).lines()


# -- What is wrong is named -----------------------------------------------------------------------------------------------------------------

REFERENCE = {
    name: {c.options["task"]: c.solved for c in load(name).cells if c.kind == "task"} for name in ("a0", "a1", "a2")
}  # the code of each solution, to be spoiled

SPOILED = [
    ("a0", "walk", "+=", "=", "grads: = for +="),
    ("a0", "walk", "range(root, -1, -1)", "range(len(nodes) - 1, -1, -1)", None),  # right: what is younger has gradient 0
    ("a0", "walk", "range(root, -1, -1)", "range(root)", "nothing arrives but at the root itself"),
    ("a0", "walk", "range(root, -1, -1)", "range(root + 1)", "the oldest first"),
    ("a0", "walk", "grads[i] * slope", "slope", "slope without what comes from above"),
    ("a0", "unbroadcast", "g.sum(axis=axes, keepdims=True).reshape(shape)", "g.sum(axis=tuple(range(lead)))", "axes of length 1 not summed"),
    ("a0", "unbroadcast", "g.sum(axis=axes, keepdims=True).reshape(shape)", "g.sum(axis=axes)", "axes of length 1 lost in the sum: keepdims"),
    ("a0", "unbroadcast", "g.sum(axis", "g.mean(axis", "a mean for the sum"),
    ("a0", "op_backward", "-g * a / b**2", "g * a / b**2", "div: sign"),
    ("a0", "op_backward", "g @ b.T, a.T @ g", "g @ b, a @ g", "matmul: b not transposed"),  # raises where the matrices are not square
    ("a0", "op_backward", "g * b, g * a", "g * a, g * b", "mul: its own value for the other's"),
    ("a0", "op_backward", "unbroadcast(da, a.shape)", "da", "da not summed"),
    ("a0", "tape_backward", "grads[j] + grad", "grad", "dx: = for +="),
    ("a0", "tape_backward", "= dy", "= np.ones_like(dy)", "dw: ones for dy"),
    ("a1", "linear_forward", "weight.T", "weight", "W not transposed"),
    ("a1", "linear_one", "weight.T @ dy", "weight @ dy", "dx: W dy, not Wᵀ dy"),
    ("a1", "linear_one", "np.outer(dy, x)", "np.outer(x, dy)", "dW: x dyᵀ, the transpose"),
    ("a1", "linear_backward", "drows.T @ rows", "rows.T @ drows", "dW: xᵀ dy"),
    ("a1", "linear_backward", "drows.sum(axis=0)", "drows.mean(axis=0)", "db: mean"),
    ("a1", "linear_backward", "drows.T @ rows", "drows.T @ rows / len(rows)", "dW: divided by N"),
    ("a1", "relu_forward", "np.maximum(x, 0)", "np.maximum(x, 0, out=x)", "x changed in place"),
    ("a1", "relu_backward", "x > 0", "x >= 0", ">= at 0"),
    ("a1", "relu_backward", "x > 0", "dy > 0", "relu(dy)"),
    ("a1", "relu_backward", "np.where(x > 0, dy, 0)", "dy * (np.maximum(x + 1e-6, 0) - np.maximum(x - 1e-6, 0)) / 2e-6", "a difference quotient, central"),
    ("a1", "relu_backward", "np.where(x > 0, dy, 0)", "dy * (np.maximum(x, 0) - np.maximum(x - 1e-6, 0)) / 1e-6", "a difference quotient, backward"),
    ("a1", "network_backward", "relu_backward(dh, a)", "relu_backward(dh, dh)", "dweight1: the mask of dh, not of a"),
    ("a1", "network_backward", "relu_backward(dh, a)", "dh", "dx: the ReLU left out"),
    ("a1", "network_backward", "(dy, h, weight2)", "(dy, a, weight2)", "the first that is wrong: dweight2"),
    ("a2", "softmax", "logits - logits.max(axis=-1, keepdims=True)", "logits", "no maximum taken off"),
    ("a2", "softmax", "logits.max(axis=-1, keepdims=True)", "logits.max()", "the maximum of all rows taken off"),
    ("a2", "softmax", "e.sum(axis=-1, keepdims=True)", "e.sum(axis=-1)", "the sum without keepdims"),
    ("a2", "cross_entropy_forward", "log_s - (logits - m)", "-np.log(np.exp(logits - m) / np.exp(log_s))", "exponential and logarithm taken apart"),
    ("a2", "cross_entropy_forward", "ell[rows, target[rows]].mean()", "ell[rows, target[rows]].sum() / len(target)", "ignored rows counted in N"),
    ("a2", "cross_entropy_forward", "log_s - (logits - m)", "log_s - logits", "m forgotten in z − m"),
    ("a2", "softmax_backward", "(dp * p).sum(axis=-1, keepdims=True)", "dp * p", "the diagonal of the Jacobian only"),
    ("a2", "softmax_backward", "(dp * p)", "dp", "p forgotten in the sum"),
    ("a2", "cross_entropy_staged", "upstream / len(rows)", "-upstream / len(rows)", "the first that is wrong: dell"),
    ("a2", "cross_entropy_staged", "softmax(logits) - dell", "softmax(logits) + dell", "p + o for p − o"),
    ("a2", "cross_entropy_backward", "keep * (softmax", "(softmax", "rows that do not count have a gradient"),
    ("a2", "cross_entropy_backward", "keep.sum()", "len(keep)", "ignored rows counted in N"),
    ("a2", "cross_entropy_backward", "upstream / keep.sum()", "1 / keep.sum()", "upstream gradient ignored"),
]


@pytest.mark.parametrize(("name", "task", "old", "new", "said"), SPOILED, ids=[f"{s[1]}: {s[4]}" for s in SPOILED])
def test_mistakes_as_they_are_written(name, task, old, new, said):
    source = REFERENCE[name][task]
    assert old in source
    used = [REFERENCE[name][n] for n in load(name).tasks[task].uses]
    function, _ = written("\n".join([*used, source.replace(old, new)]))
    checked = load(name).check(function)
    assert checked.right if said is None else said in str(checked) and not checked.right, checked


def test_right_where_it_answered():
    """An exception in one case says nothing against the other outputs."""
    function, _ = written(REFERENCE["a1"]["linear_one"].replace("weight.T @ dy", "weight @ dy"))
    said = str(load("a1").check(function))
    assert "in general" not in said and "general: linear_one raised ValueError" in said


def test_a_graph_changed_in_place():
    function, _ = written("def walk(nodes, root):\n    nodes[0] = [(0, 1.0)]\n    return np.zeros(len(nodes))\n")
    assert "nodes changed in place" in str(load("a0").check(function))
    function, _ = written(REFERENCE["a0"]["op_backward"] + "\n" + REFERENCE["a0"]["unbroadcast"] + "\n" + REFERENCE["a0"]["tape_backward"].replace(
        "grads[j] = grads[j] + grad", "grads[j] = grads[j] + grad\n                graph[j][2][...] = 0"))  # fmt: skip
    assert "graph changed in place" in str(load("a0").check(function))


# -- By size ---------------------------------------------------------------------------------------------------------------------------------

TOO_SLOW = {
    "a0": [
        "def walk(nodes, root):\n"  # every path by itself
        "    g = np.zeros(len(nodes))\n"
        "    def visit(i, c):\n"
        "        g[i] += c\n"
        "        for j, slope in nodes[i]:\n"
        "            visit(j, c * slope)\n"
        "    visit(root, 1.0)\n"
        "    return g\n",
        "def tape_backward(graph, root, dy, h=1e-20):\n"
        "    ops = {'add': np.add, 'sub': np.subtract, 'mul': np.multiply, 'div': np.divide, 'matmul': np.matmul}\n"
        "    def run(k, leaf):\n"
        "        made = []\n"
        "        for i, (op, at, value) in enumerate(graph[: root + 1]):\n"
        "            made.append(leaf if i == k else ops[op](made[at[0]], made[at[1]]) if at else value)\n"
        "        return made[root]\n"
        "    out = [np.zeros(graph[k][2].shape) for k in range(3)]\n"
        "    for k in range(3):\n"
        "        for at in np.ndindex(out[k].shape):\n"
        "            z = np.array(graph[k][2], complex)\n"
        "            z[at] += 1j * h\n"
        "            out[k][at] = (run(k, z).imag * dy).sum() / h\n"
        "    return tuple(out)\n",
    ],
    "a1": [
        "def linear_backward(dy, x, weight):\n"
        "    h = 1e-6 * np.abs(x).max()\n"
        "    dx, dw, y = np.empty_like(x), np.empty_like(weight), x @ weight.T\n"
        "    for i in range(x.shape[-1]):\n"
        "        z, w = x.copy(), weight.copy()\n"
        "        z[..., i] += h\n"
        "        w[:, i] += h\n"
        "        dx[..., i] = ((z @ weight.T - y) * dy).sum(-1) / h\n"
        "        dw[:, i] = ((x @ w.T - y) * dy).reshape(-1, len(w)).sum(0) / h\n"
        "    return dx, dw, dy.reshape(-1, len(weight)).sum(0)\n",
    ],
    "a2": [
        "def cross_entropy_backward(logits, target, upstream, h=1e-20):\n"
        "    keep, dz = target != -100, np.empty_like(logits)\n"
        "    for j in range(logits.shape[1]):\n"
        "        z = logits - logits.max(1, keepdims=True) + 0j\n"
        "        z[:, j] += 1j * h\n"
        "        loss = np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), np.where(keep, target, 0)]\n"
        "        dz[:, j] = keep * loss.imag / h\n"
        "    return upstream * dz / keep.sum()\n",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "source"), [(n, s) for n, sources in TOO_SLOW.items() for s in sources])
def test_what_is_right_and_far_too_slow_is_found_out(name, source, monkeypatch):
    monkeypatch.setattr(assignment, "time_limit", lambda task: 0.5)  # 2 s and more outside of the tests; each of these takes over 5
    monkeypatch.setattr(assignment, "complex_step", lambda *a: False)  # here by size alone
    function, _ = written(source)
    for seed in SEEDS[:5]:
        assert answered(name, function, seed).right_in_general
    checked = load(name).check(function)
    assert checked.result.points == 0 and ("each path" if name == "a0" else "a derivative taken numerically") in str(checked)


def test_too_slow_is_too_slow_where_the_inputs_took_their_time(monkeypatch):
    """The deadline runs from before the inputs are copied, the clock from after."""
    a0 = load("a0")
    task = a0.tasks["walk"]
    copied = type(task).arguments
    monkeypatch.setattr(assignment, "time_limit", lambda task: 0.3)
    monkeypatch.setattr(type(task), "arguments", lambda self, values: time.sleep(0.1 if len(values["nodes"]) > 100 else 0) or copied(self, values))
    function, _ = written(TOO_SLOW["a0"][0])
    checked = a0.check(function)
    assert checked.result.points == 0 and "each path" in str(checked)


def test_a_recursion_costs_a_share():
    """A walk that is right but cannot go deep: the tape of a network is longer than Python's stack."""
    function, _ = written(
        "def walk(nodes, root):\n"
        "    order, seen, g = [], set(), np.zeros(len(nodes))\n"
        "    def visit(i):\n"
        "        if i not in seen:\n"
        "            seen.add(i)\n"
        "            for j, _ in nodes[i]:\n"
        "                visit(j)\n"
        "            order.append(i)\n"
        "    visit(root)\n"
        "    g[root] = 1\n"
        "    for i in reversed(order):\n"
        "        for j, slope in nodes[i]:\n"
        "            g[j] += g[i] * slope\n"
        "    return g\n"
    )
    checked = load("a0").check(function)
    assert "at 1162 nodes: RecursionError" in str(checked) and 0 < checked.result.points < 4


# -- Through the worker ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="workers need a POSIX system")
@pytest.mark.parametrize("name", ["a0", "a1", "a2"])
def test_graded(name):
    this = load(name)
    cells = ["".join(c["source"]) for c in json.loads(notebook(this, "solution"))["cells"] if c["cell_type"] == "code"]
    grading = Grading(this, best_mode()[0])
    result = grade_one(grading, Submission("right", cells))
    assert result["score"] == result["out_of"] == sum(t.points for t in this.tasks.values()), result["tasks"]
    slow = TOO_SLOW[name][0]
    task = slow.removeprefix("def ").partition("(")[0]
    result = grade_one(grading, Submission("slow", [*cells, slow]))
    assert result["score"] == result["out_of"] - this.tasks[task].points
    (wrong,) = (t for t in result["tasks"] if not t["right"])
    said = {"a0": "every path walked anew", "a1": "a numeric derivative, or as slow as one", "a2": "a numeric derivative"}  # a2's is a complex step
    assert wrong["misconceptions"] == [said[name]]
