"""The bank of wrong backwards: its right answers are right, no wrong one is, gradcheck rejects each, and the counts are what they are."""

import functools

import numpy as np
import pytest

import tinygrad_norm as tg
from tinygrad_norm.autograd import Function, GradcheckError, gradcheck_power, gradcheck_report
from tinygrad_norm.autograd.power import BANK, RECIPES, Recipe, lets_through
from tinygrad_norm.autograd.wrong_layers import cross_entropy_values, linear_values, relu_values
from tinygrad_norm.autograd.wrong_norms import NORM_DX, NORM_PARAMETERS, norm_values

F = tg.nn.functional
SEEDS = range(5)


def tensor(a):
    return tg.tensor(np.asarray(a, np.float64), requires_grad=True)


def good_cases(part, seed):
    """The last recipe of each op is the good one."""
    op = part.split()[0]
    return RECIPES[op][-1].cases(np.random.RandomState(seed))


# -- The right answers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("op", ["layer_norm", "batch_norm"])
def test_the_right_norm_gradients_are_the_librarys(op, seed):
    for v in good_cases(op, seed):
        x, w, b = tensor(v.x), tensor(v.gamma.reshape(v.parameter_shape)), tensor(v.beta.reshape(v.parameter_shape))
        if op == "layer_norm":
            y = F.layer_norm(x, v.parameter_shape, w, b, v.eps)
        else:
            y = F.batch_norm(x, None, None, w, b, True, 0.1, v.eps)
        y.backward(tg.tensor(v.dy))
        np.testing.assert_allclose(y._data, v.y, rtol=1e-11, atol=1e-12)
        for mine, right in ((x, "dx"), (w, "dgamma"), (b, "dbeta")):
            np.testing.assert_allclose(mine.grad._data, v[right], rtol=1e-10, atol=1e-11)
        if op == "batch_norm":
            mean, var = tg.tensor(v.running_mean.reshape(-1)), tg.tensor(v.running_var.reshape(-1))
            x.grad = None
            F.batch_norm(x, mean, var, w, b, False, 0.1, v.eps).backward(tg.tensor(v.dy))
            np.testing.assert_allclose(x.grad._data, BANK["batch_norm eval dx"].right(v), rtol=1e-10)
            F.batch_norm(x, mean, var, w, b, True, v.momentum, v.eps)
            np.testing.assert_allclose(var._data, BANK["batch_norm running_var"].right(v).reshape(-1), rtol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_other_right_gradients_are_the_librarys(seed):
    for v in good_cases("linear", seed):
        x, w, b = tensor(v.x), tensor(v.W), tensor(v.b)
        F.linear(x, w, b).backward(tg.tensor(v.dy))
        for mine, right in ((x, "dx"), (w, "dW"), (b, "db")):
            np.testing.assert_allclose(mine.grad._data, v[right], rtol=1e-12)
    for v in good_cases("relu", seed):
        x = tensor(v.x)
        tg.relu(x).backward(tg.tensor(v.dy))
        np.testing.assert_array_equal(x.grad._data, v.dx)
    for v in good_cases("cross_entropy", seed):
        z = tensor(v.z)
        target = np.where(v.keep[:, 0], v.t, -100)
        (F.cross_entropy(z, tg.tensor(target)) * v.u).backward()
        np.testing.assert_allclose(z.grad._data, v.dz, rtol=1e-11, atol=1e-15)


# -- The wrong ones -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", BANK)
def test_no_wrong_answer_passes_the_good_recipe(part):
    for seed in SEEDS:
        cases = good_cases(part, seed)
        assert lets_through(type(BANK[part].wrong[0])("right", "", BANK[part].right), BANK[part].right, cases) is True
        passed = [w.name for w in BANK[part].wrong if lets_through(w, BANK[part].right, cases) is not False]
        assert passed == []  # neither passes, nor cannot be made


@pytest.mark.parametrize("part", [p for p in BANK if p != "batch_norm running_var"])
def test_no_two_wrong_answers_are_the_same(part):
    """So that a grader can name the mistake: measured over the good cases, the closest pair is more than 1e-4 apart."""
    for seed in SEEDS:
        cases = good_cases(part, seed)
        answers = {}
        for w in BANK[part].wrong:
            if "in place" in w.name or "two backward calls" in w.name:
                continue  # what they return is right, or the case's own
            with np.errstate(all="ignore"):
                answers[w.name] = [np.asarray(w.gradient(type(v)(v))) if w.applies(v) else None for v in cases]
        names = list(answers)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                assert apart(answers[a], answers[b]) > 1e-4 or "1e-9" in a + b or "ignored" in a + b or "NaN" in a + b, (a, b)


def apart(one, other):
    distances = []
    for a, b in zip(one, other):
        if a is None or b is None:
            continue
        if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
            return np.inf
        distances.append(np.abs(a - b).max() / max(np.abs(a).max(), np.abs(b).max(), 1e-12))
    return max(distances, default=np.inf)


def wrong_norm(op, eps, dx=None, dgamma=None, dbeta=None):
    """A norm as a Function whose backward is one of the bank's."""

    class Norm(Function):
        def forward(self, x, weight, bias):
            self.save_for_backward(x, weight, bias)
            return norm_values(op, x, weight, bias, x, eps, **running(op, x.shape)).y

        def backward(self, dy):
            x, weight, bias = self.saved_tensors
            v = norm_values(op, x, weight, bias, dy, eps, **running(op, x.shape))
            return tuple(right if wrong is None else np.asarray(wrong(v)) for wrong, right in ((dx, v.dx), (dgamma, v.dgamma), (dbeta, v.dbeta)))

    return Norm.apply


@functools.cache  # asked for at every step of every difference; a RandomState takes 50 µs
def running(op, shape):
    rng = np.random.RandomState(9)
    shape = (1, shape[1] if op == "batch_norm" else shape[-1], *(1,) * (len(shape) - 2 if op == "batch_norm" else 0))
    return {"running_mean": rng.standard_normal(shape), "running_var": rng.uniform(0.4, 2, shape), "momentum": 0.2}


def inputs(op, shape, seed=0):
    rng = np.random.RandomState(seed)
    c = shape[1] if op == "batch_norm" else shape[-1]
    return tensor(rng.standard_normal(shape) * 1.6 + 0.4), tensor(rng.standard_normal(c) + 0.3), tensor(rng.standard_normal(c) + 0.5)


def rejected(function, arguments):
    """Whether gradcheck finds it wrong, or the engine refuses a gradient of another shape."""
    try:
        return not gradcheck_report(function, arguments).ok
    except GradcheckError as error:
        return "has shape" in str(error) and "expected" in str(error)


@pytest.mark.parametrize("op", ["layer_norm", "batch_norm"])
@pytest.mark.parametrize("wrong", NORM_DX, ids=lambda w: w.name)
def test_gradcheck_rejects_every_wrong_dx(op, wrong):
    shapes = [s for s in ((4, 5), (4, 4), (3, 2, 3)) if wrong.applies(norm_values(op, *(t._data for t in inputs(op, s)), np.ones(s), 0.3))]
    for shape in shapes[:1]:  # none where it is the other norm's mistake
        report = gradcheck_report(wrong_norm(op, 0.3, dx=wrong.gradient), inputs(op, shape))
        assert not report.ok
        assert report.verdict == "wrong"


def test_gradcheck_accepts_the_right_one_with_eps_and_without():
    for op in ("layer_norm", "batch_norm"):
        for eps in (0.3, 1e-5):
            assert gradcheck_report(wrong_norm(op, eps), inputs(op, (4, 5))).ok


@pytest.mark.parametrize("wrong", NORM_PARAMETERS, ids=lambda w: w.name)
def test_gradcheck_rejects_every_wrong_parameter_gradient(wrong):
    op, shape = ("layer_norm", (4, 5)) if "axis 0" not in wrong.name else ("layer_norm", (3, 4, 5))
    which = {"dgamma" if wrong.name.startswith("dγ") else "dbeta": wrong.gradient}
    assert rejected(wrong_norm(op, 0.3, **which), inputs(op, shape))


@pytest.mark.parametrize("wrong", BANK["relu dx"].wrong, ids=lambda w: w.name)
def test_gradcheck_rejects_every_wrong_relu(wrong):
    class Relu(Function):
        def forward(self, x):
            self.save_for_backward(x)
            return np.maximum(x, 0)

        def backward(self, dy):
            (x,) = self.saved_tensors
            return wrong.gradient(relu_values(x, dy))

    x = tensor([[0.7, -1.2, 7.5], [0.4, -0.3, 1.9]])
    if "at 0" in wrong.name:  # a choice of a subgradient that differs from torch's is no wrong derivative: both are a kink
        assert gradcheck_report(Relu.apply, tensor([0.0, 1.0])).verdict == "kink"
    else:
        assert not gradcheck_report(Relu.apply, x).ok


@pytest.mark.parametrize("wrong", BANK["cross_entropy dz"].wrong, ids=lambda w: w.name)
def test_gradcheck_rejects_every_wrong_cross_entropy(wrong):
    confident = "1e-9" in wrong.name or "NaN" in wrong.name
    ignored = "ignored" in wrong.name

    class Loss(Function):
        def forward(self, z, target):
            self.save_for_backward(z, target)
            v = cross_entropy_values(z, target)
            with np.errstate(all="ignore"):
                shifted = z - z.max(1, keepdims=True)
                lp = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
                return -(np.where(v.o > 0, lp, 0)).sum() / v.N

        def backward(self, u):
            z, target = self.saved_tensors
            return wrong.gradient(cross_entropy_values(z, target, float(u))), None

    rng = np.random.RandomState(0)
    z = rng.standard_normal((4, 3))
    target = np.array([1, 1, 1, 1])
    if confident:
        z[:, 0] += 1000
    else:
        target = np.array([-100 if ignored else 2, 0, 1, 2])
    with np.errstate(all="ignore"):
        assert not gradcheck_report(Loss.apply, (tensor(z), tg.tensor(target))).ok


@pytest.mark.parametrize("wrong", BANK["linear dW"].wrong + BANK["linear dx"].wrong + BANK["linear db"].wrong, ids=lambda w: w.name)
def test_gradcheck_rejects_every_wrong_linear(wrong):
    which = wrong.name[:2]

    class Linear(Function):
        def forward(self, x, weight, bias):
            self.save_for_backward(x, weight, bias)
            return x @ weight.T + bias

        def backward(self, dy):
            v = linear_values(*self.saved_tensors, dy)
            return tuple(np.asarray(wrong.gradient(v)) if which == name else v[name] for name in ("dx", "dW", "db"))

    rng = np.random.RandomState(0)
    for shape, out in (((5, 4), 3), ((4, 4), 4), ((2, 5, 4), 3)):
        arguments = tensor(rng.standard_normal(shape) + 0.3), tensor(rng.standard_normal((out, shape[-1]))), tensor(rng.standard_normal(out) + 0.5)
        if not wrong.applies(linear_values(*(t._data for t in arguments), rng.standard_normal((*shape[:-1], out)))):
            continue
        assert rejected(Linear.apply, arguments) == ("two backward calls" not in wrong.name)  # that one is about .grad, which gradcheck does not use
        return
    pytest.fail("the mistake could not be made")


# -- The counts -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_how_many_wrong_layer_norms_each_recipe_lets_through(seed):
    """25, 8, …, 0 of 39, as the misconception bank says.

    It says 5 and 1 for the third and fourth; at gradcheck's own tolerance it is 6 and 2, since eps outside the root is as far off as
    eps dropped, 1e-5 relative. A tolerance between the two gives 5 and 1; with one of 1e-6 both are caught, and 4 and 0 are left.
    """
    power = gradcheck_power("layer_norm dx", seed=seed)
    assert [power.count(k) for k in range(5)] == [(25, 39), (8, 39), (6, 39), (2, 39), (0, 39)]
    assert power.count(5) == (0, 40)  # the square case makes one more possible
    assert "returned zeros" in power.let_through("sum(y), γ = 1")
    assert set(power.let_through("random dy, γ")) == {"eps dropped", "eps outside the root"}
    tight = gradcheck_power("layer_norm dx", seed=seed, rtol=1e-6, atol=1e-8)
    assert [tight.count(k)[0] for k in range(5)] == [25, 8, 4, 0, 0]


def test_the_table():
    power = gradcheck_power(tg.nn.LayerNorm(3))
    assert power.op == "layer_norm"
    assert gradcheck_power(tg.nn.BatchNorm1d).op == "batch_norm"
    assert gradcheck_power(F.cross_entropy).op == "cross_entropy"
    assert "25 of 39" in str(gradcheck_power("layer_norm dx"))
    assert "layer_norm dx: returned zeros" in str(power)
    assert "PASSES" in power._repr_html_()
    assert power.count(0, "dγ")[1] == 13
    assert power.breaks["layer_norm dx", "mean taken as constant"].startswith("∂x̂/∂x has three paths")
    mine = Recipe("mine", lambda rng: [relu_values(rng.standard_normal(9), np.ones(9))])
    assert gradcheck_power("relu", [mine]).recipes == ["mine"]
    with pytest.raises(ValueError, match="no bank of wrong backwards for 'conv'; there are layer_norm, batch_norm"):
        gradcheck_power("conv")


def test_every_entry_says_which_line_it_breaks():
    for part in BANK.values():
        assert len({w.name for w in part.wrong}) == len(part.wrong)
        assert all(len(w.breaks) > 5 for w in part.wrong)
