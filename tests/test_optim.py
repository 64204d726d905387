"""Optimizers: torch is the oracle, over every combination of options."""

import gc
import itertools
import math
import weakref

import numpy as np
import pytest
import torch

from tinygrad_norm import kernel as kernels
from tinygrad_norm.function import Function
from tinygrad_norm.grad_mode import is_grad_enabled, no_grad
from tinygrad_norm.optim import SGD, Adam, AdamW, Optimizer, adam, sgd
from tinygrad_norm.tensor import Tensor

TYPES = (np.float32, np.float64)


def product(**choices):
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]


SGD_OPTIONS = [
    o
    for o in product(momentum=(0, 0.9), dampening=(0, 0.3), weight_decay=(0, 0.1), nesterov=(False, True), maximize=(False, True))
    if not o["nesterov"] or (o["momentum"] and not o["dampening"])
]
ADAM_OPTIONS = product(betas=((0.9, 0.999), (0.0, 0.5)), eps=(1e-8, 1e-2), weight_decay=(0, 0.1), amsgrad=(False, True), maximize=(False, True))
CASES = [
    *((SGD, torch.optim.SGD, {"lr": 0.1, **o}) for o in SGD_OPTIONS),
    *((Adam, torch.optim.Adam, {"lr": 0.01, **o}) for o in ADAM_OPTIONS),
    *((AdamW, torch.optim.AdamW, {"lr": 0.01, **o}) for o in ADAM_OPTIONS),
]
ONE_OF_EACH = [
    (SGD, torch.optim.SGD, {"lr": 0.1}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (Adam, torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    (Adam, torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    (AdamW, torch.optim.AdamW, {"lr": 0.01}),
]


def case_id(value):
    return value.__name__ if isinstance(value, type) else ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None


def make_params(kind):
    """Ours and torch's, of the same values: two axes, one, none, empty, transposed, every other element."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(kind) for shape in ((3, 4), (5,), (), (0, 3))]
    arrays += [rng.standard_normal((4, 37)).astype(kind).T, rng.standard_normal((6, 10)).astype(kind)[::2, ::3]]
    theirs = [torch.from_numpy(np.array(a)).requires_grad_() for a in arrays]
    return [Tensor(np.asarray(a), True) for a in arrays], theirs


def give_grads(ours, theirs, step, skip=()):
    rng = np.random.default_rng(100 + step)
    for i, (p, q) in enumerate(zip(ours, theirs)):
        g = np.asarray(rng.standard_normal(p.shape), p._data.dtype)
        if i in skip:
            p.grad = q.grad = None
        else:
            p.grad = Tensor(np.array(g, order="F") if step % 2 else g)  # any order of axes
            q.grad = torch.from_numpy(g.copy())


def assert_near(ours, theirs, ulps=3):
    """Within a few units in the last place of the largest number that took part: gradients and parameters start at about 1."""
    theirs = theirs.detach().numpy()
    assert ours._data.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if theirs.size:
        scale = np.abs(theirs[np.isfinite(theirs)]).max(initial=1.0)
        np.testing.assert_allclose(ours._data, theirs, rtol=0, atol=ulps * np.finfo(theirs.dtype).eps * scale)


def assert_same_run(optimizer, oracle, ours, theirs):
    for p, q in zip(ours, theirs):
        assert_near(p, q)
        state, expected = optimizer.state.get(p, {}), oracle.state.get(q, {})
        assert list(state) == list(expected)
        for key in state:
            assert_near(state[key], expected[key])
            if key.endswith("sq"):  # sums of squares: nothing cancels, every element is right to the last digits
                np.testing.assert_allclose(state[key]._data, expected[key].numpy(), rtol=4 * np.finfo(p._data.dtype).eps)


# -- The same numbers as torch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("make", "make_oracle", "options"), CASES, ids=case_id)
def test_six_steps_as_torch(make, make_oracle, options, kind):
    ours, theirs = make_params(kind)
    optimizer, oracle = make(ours, **options), make_oracle(theirs, **options)
    for step in range(6):
        give_grads(ours, theirs, step, skip={0: (1,), 3: (0, 4)}.get(step, ()))  # a parameter may start later, or pause
        if step == 4:
            optimizer.param_groups[0]["lr"] = oracle.param_groups[0]["lr"] = options["lr"] / 3
        assert optimizer.step() is None
        oracle.step()
    assert_same_run(optimizer, oracle, ours, theirs)


@pytest.mark.parametrize(("make", "make_oracle", "options"), CASES, ids=case_id)
def test_the_numpy_backend_gives_the_same(make, make_oracle, options):
    before = kernels.get_backend()
    ours, theirs = make_params(np.float64)
    optimizer, oracle = make(ours, **options), make_oracle(theirs, **options)
    kernels.set_backend("numpy")
    try:
        for step in range(5):
            give_grads(ours, theirs, step)
            optimizer.step()
            oracle.step()
    finally:
        kernels.set_backend(before)
    assert_same_run(optimizer, oracle, ours, theirs)


@pytest.mark.parametrize(("make", "make_oracle", "options"), ONE_OF_EACH, ids=case_id)
def test_many_steps_do_not_drift(make, make_oracle, options):
    ours, theirs = make_params(np.float64)
    optimizer, oracle = make(ours, **options), make_oracle(theirs, **options)
    for step in range(200):
        give_grads(ours, theirs, step)
        optimizer.step()
        oracle.step()
    for p, q in zip(ours, theirs):
        assert_near(p, q, ulps=60)


@pytest.mark.parametrize(
    ("make", "make_oracle", "first", "second"),
    [
        (SGD, torch.optim.SGD, {"lr": 0.5}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (SGD, torch.optim.SGD, {"momentum": 0.5, "maximize": True}, {"lr": 1, "dampening": 0.5}),
        (Adam, torch.optim.Adam, {"amsgrad": True, "betas": (0.5, 0.9)}, {"decoupled_weight_decay": True, "weight_decay": 0.5, "maximize": True}),
        (AdamW, torch.optim.AdamW, {"lr": 0.1, "eps": 1.0}, {"weight_decay": 0, "amsgrad": True}),
    ],
)
def test_groups_have_options_of_their_own(make, make_oracle, first, second):
    ours, theirs = make_params(np.float32)
    runs = []
    for construct, params in ((make, ours), (make_oracle, theirs)):
        run = construct([{"params": params[:2], **first}, {"params": iter(params[2:4]), **second}], lr=0.01)
        run.add_param_group({"params": params[4], "lr": 0.3})
        run.add_param_group({"params": params[5]})
        runs.append(run)
    for step in range(5):
        give_grads(ours, theirs, step)
        for run in runs:
            run.step()
    assert_same_run(*runs, ours, theirs)
    assert [group["lr"] for group in runs[0].param_groups] == [group["lr"] for group in runs[1].param_groups]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("make", "make_oracle", "options"), ONE_OF_EACH, ids=case_id)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_stays_in_its_element(make, make_oracle, options, kind, bad):
    p, q = Tensor(np.linspace(-1, 1, 40).astype(kind), True), torch.from_numpy(np.linspace(-1, 1, 40).astype(kind)).requires_grad_()
    optimizer, oracle = make([p], **options), make_oracle([q], **options)
    for step in range(5):
        g = np.linspace(1, 2, 40).astype(kind)
        g[7] = bad if step == 1 else 1
        p.grad, q.grad = Tensor(g), torch.from_numpy(g.copy())
        optimizer.step()
        oracle.step()
    assert_near(p, q)
    assert np.isfinite(np.delete(p._data, 7)).all()
    assert not np.isfinite(p._data[7])


def test_an_infinite_parameter_without_decay_stays_infinite():
    for make, options in ((SGD, {}), (SGD, {"momentum": 0.9}), (Adam, {}), (AdamW, {"weight_decay": 0})):
        for values in (np.full(3, np.inf), np.full((6, 3), np.inf)[::2]):
            p = Tensor(values, True)
            p.grad = Tensor(np.ones(p.shape))
            make([p], **options).step()
            assert np.isposinf(p._data).all()


def test_large_parameters_run_in_parallel_and_agree_with_torch():
    n = 600_000  # above both thresholds of kernel.py
    values, g = np.random.default_rng(0).standard_normal((2, n)).astype(np.float32)
    g = np.copysign(np.abs(g) + np.float32(0.1), values)  # g + weight_decay·p never cancels: there Adam turns the last bit into a step
    for make, make_oracle, options in ONE_OF_EACH:
        p, q = Tensor(values.copy(), True), torch.from_numpy(values.copy()).requires_grad_()
        optimizer, oracle = make([p], **options), make_oracle([q], **options)
        for _ in range(2):
            p.grad, q.grad = Tensor(g), torch.from_numpy(g)
            optimizer.step()
            oracle.step()
        assert_near(p, q)


# -- Kernels and their references ------------------------------------------------------------------------------------------------------

ADAM_SCALARS = (0.9, 0.99, 0.1, 0.01, 1e-8, 0.01, 0.3)
KERNEL_CALLS = [
    (sgd.sgd_step, 1, (0.1, 0.0)),
    (sgd.sgd_step, 1, (-0.1, -0.2)),
    *(
        (sgd.sgd_momentum_step, 2, (0.1, 0.9, 0.7, decay, sign, nesterov))
        for decay in (0.0, 0.2)
        for sign in (1.0, -1.0)
        for nesterov in (False, True)
    ),
    *((adam.adam_step, 4, (*ADAM_SCALARS, l2, keep, sign, ams)) for l2, keep, sign in ((0.0, 1.0, 1.0), (0.1, 0.9, -1.0)) for ams in (False, True)),
]


def kernel_arguments(pair, states, scalars, kind, n):
    rng = np.random.default_rng(3)
    param, grad, *state = (rng.standard_normal(n).astype(kind) for _ in range(1 + states))
    state = [np.abs(s) for s in state]
    if pair is adam.adam_step and not scalars[-1]:
        state[-1] = np.empty(0, kind)
    return [param, grad, *state, *scalars]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("pair", "states", "scalars"), KERNEL_CALLS, ids=lambda v: getattr(v, "__name__", None))
def test_kernel_serial_parallel_and_reference(pair, states, scalars, kind):
    for n in (1, 1001):
        results = []
        for run in (pair.reference, pair.serial, pair.parallel):
            arguments = kernel_arguments(pair, states, scalars, kind, n)
            run(*arguments)
            results.append([a for a in arguments if isinstance(a, np.ndarray)])
        for expected, serial, parallel in zip(*results):
            assert serial.dtype == kind
            np.testing.assert_array_equal(serial, parallel)
            np.testing.assert_allclose(serial, expected, rtol=0, atol=4 * np.finfo(kind).eps * max(1.0, np.abs(expected).max(initial=0.0)))


# -- Autograd, closures, zero_grad, repr -----------------------------------------------------------------------------------------------


class Square(Function):
    def forward(self, x):
        self.save_for_backward(x)
        return np.asarray((x * x).sum())

    def backward(self, g):
        (x,) = self.saved_tensors
        return 2 * x * g


@pytest.mark.parametrize(("make", "make_oracle", "options"), ONE_OF_EACH, ids=case_id)
@pytest.mark.parametrize("values", [np.ones(3), np.ones((4, 3))[::2]], ids=["contiguous", "strided"])
def test_a_step_is_not_recorded_but_is_noticed(make, make_oracle, options, values):
    p = Tensor(values.copy() if values.ndim == 1 else values, True)
    memory = p._data
    optimizer = make([p], **options)
    loss, stale = Square.apply(p), Square.apply(p)
    loss.backward()
    version = p._version
    optimizer.step()
    assert p._version == version + 1
    assert p.is_leaf
    assert p.requires_grad
    assert p._data is memory
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


@pytest.mark.parametrize(("make", "make_oracle", "options"), ONE_OF_EACH, ids=case_id)
def test_infinity_in_strided_memory_is_no_warning(make, make_oracle, options):
    value, grad = np.array([[1.0, np.inf], [2.0, 3.0]]).T, np.array([[1.0, np.inf], [np.inf, 1.0]])
    p, q = Tensor(value.copy(order="K"), True), torch.tensor(value, requires_grad=True)
    p.grad, q.grad = Tensor(grad), torch.tensor(grad)
    make([p], **options).step()
    make_oracle([q], **options).step()
    np.testing.assert_allclose(p._data, q.detach().numpy(), rtol=1e-15)


def test_step_evaluates_the_closure_with_gradients():
    p = Tensor(np.array([3.0]), True)
    optimizer = SGD([p], lr=0.5)

    def closure():
        assert is_grad_enabled()
        optimizer.zero_grad()
        loss = Square.apply(p)
        loss.backward()
        return loss

    with no_grad():
        assert optimizer.step(closure)._data == 9
        assert not is_grad_enabled()
    assert p._data == 0


@pytest.mark.parametrize(("make", "make_oracle", "options"), ONE_OF_EACH, ids=case_id)
def test_parameters_without_a_gradient_are_left_alone(make, make_oracle, options):
    p = Tensor(np.ones(3), True)
    optimizer = make([p], **options)
    version = p._version
    optimizer.step()
    assert p._version == version
    assert not optimizer.state
    assert (p._data == 1).all()


def test_zero_grad():
    p, q = Tensor(np.ones(3), True), Tensor(np.ones(2), True)
    optimizer = SGD([p, q])
    Square.apply(p).backward()
    grad = p.grad
    version = grad._version
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is grad
    assert (grad._data == 0).all()
    assert grad._version == version + 1
    assert q.grad is None
    recorded = Tensor(np.ones(3), True)
    recorded._edge = (Square(), 0)
    p.grad = recorded
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is recorded
    assert recorded.is_leaf
    assert not recorded.requires_grad
    optimizer.zero_grad()
    assert p.grad is None


@pytest.mark.parametrize(("make", "make_oracle", "options"), ONE_OF_EACH, ids=case_id)
def test_repr_is_torchs_without_what_is_not_here(make, make_oracle, options):
    ours = [{"params": [Tensor(np.ones(2), True)], "lr": 0.5, "name": "first"}, {"params": [Tensor(np.ones(2), True)]}]
    theirs = [{"params": [torch.ones(2)], "lr": 0.5, "name": "first"}, {"params": [torch.ones(2)]}]
    absent = ("foreach:", "fused:", "capturable:", "differentiable:")
    expected = [line for line in repr(make_oracle(theirs, **options)).split("\n") if not line.strip().startswith(absent)]
    assert repr(make(ours, **options)).split("\n") == expected


def test_signatures_and_defaults_are_torchs():
    for make, oracle in ((SGD, torch.optim.SGD), (Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)):
        expected = oracle([torch.ones(1)]).defaults
        assert make([Tensor(np.ones(1), True)]).defaults.items() <= expected.items()
    assert issubclass(AdamW, Adam)
    positional = SGD([Tensor(np.ones(1), True)], 0.1, 0.9, 0.0, 0.01, True).defaults
    assert positional.items() <= torch.optim.SGD([torch.ones(1)], 0.1, 0.9, 0.0, 0.01, True).defaults.items()
    with pytest.raises(TypeError):
        SGD([Tensor(np.ones(1), True)], 0.1, 0.9, 0.0, 0.01, True, True)


def test_an_algorithm_of_ones_own():
    class SignDescent(Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["last"] = Tensor(np.sign(p.grad._data))
                    p._data -= group["lr"] * np.sign(p.grad._data)

    p = Tensor(np.array([1.0, -1.0]), True)
    optimizer = SignDescent([p], 0.5)
    Square.apply(p).backward()
    optimizer.step()
    assert (p._data == [0.5, -0.5]).all()
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    assert (optimizer.state[p]["last"]._data == [1, -1]).all()
    with pytest.raises(NotImplementedError, match="Optimizer must define step"):
        Optimizer([p], {}).step()


def test_an_optimizer_is_gone_with_its_name():
    gc.disable()
    try:
        optimizer = Adam([Tensor(np.ones(3), True)])
        gone = weakref.ref(optimizer)
        del optimizer
        assert gone() is None
    finally:
        gc.enable()


# -- What is refused -------------------------------------------------------------------------------------------------------------------


def leaf():
    return Tensor(np.ones(2), True)


def torch_leaf():
    return torch.ones(2, requires_grad=True)


REFUSED = [
    (SGD, {"lr": -0.1}, ValueError, "Invalid learning rate: -0.1"),
    (SGD, {"lr": "0.1"}, TypeError, "Invalid learning rate: expected a number >= 0; got str"),
    (SGD, {"momentum": -1}, ValueError, "Invalid momentum value: -1"),
    (SGD, {"weight_decay": -1e-9}, ValueError, "Invalid weight_decay value: -1e-09"),
    (SGD, {"nesterov": True}, ValueError, "Nesterov momentum requires a momentum and zero dampening; got momentum=0, dampening=0"),
    (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "Nesterov momentum requires"),
    (Adam, {"lr": -1}, ValueError, "Invalid learning rate: -1"),
    (Adam, {"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
    (Adam, {"eps": -1.0}, ValueError, "Invalid epsilon value: -1.0"),
    (Adam, {"betas": (1.0, 0.9)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
    (Adam, {"betas": (0.9, -0.1)}, ValueError, "Invalid beta parameter at index 1: -0.1"),
    (Adam, {"betas": (0, 0.9)}, ValueError, "betas must be both floats; got"),
    (Adam, {"betas": 0.9}, TypeError, "Invalid betas: expected two floats; got 0.9"),
    (Adam, {"betas": ("a", 0.9)}, TypeError, "Invalid beta parameter at index 0: expected a float; got str"),
    (AdamW, {"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
    (AdamW, {"decoupled_weight_decay": False}, TypeError, "unexpected keyword"),
    (Adam, {"learning_rate": 0.1}, TypeError, "unexpected keyword"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), REFUSED)
def test_options_that_torch_refuses_too(make, options, error, message):
    with pytest.raises(error, match=message):
        make([leaf()], **options)
    with pytest.raises(error):
        getattr(torch.optim, make.__name__)([torch_leaf()], **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
        ({"dampening": None}, TypeError, "Invalid dampening value: expected a number; got NoneType"),
        ({"lr": Tensor(np.array(0.1))}, TypeError, "Invalid learning rate: expected a number >= 0; got Tensor"),
    ],
)
def test_options_that_only_this_refuses(options, error, message):
    with pytest.raises(error, match=message):
        SGD([leaf()], **options)
    with pytest.raises(error, match=message):
        SGD([{"params": [leaf()], **options}])


def non_leaf(x):
    return Square.apply(x) if isinstance(x, Tensor) else (x * x).sum()


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (lambda x: x, TypeError, "iterable of Tensors or dicts, but got Tensor: put it in a list"),
        (lambda x: 3, TypeError, "iterable of Tensors or dicts, but got int: model.parameters"),
        (lambda x: [], ValueError, "empty parameter list"),
        (lambda x: iter(()), ValueError, "empty parameter list"),
        (lambda x: [x, None], TypeError, "can only optimize Tensors, but one of the params is NoneType"),
        (lambda x: [x.detach().numpy()], TypeError, "one of the params is ndarray"),
        (lambda x: [non_leaf(x)], ValueError, "can't optimize a non-leaf Tensor"),
        (lambda x: [{"params": [x]}, x], TypeError, "param_group must be a dict"),
        (lambda x: [x, {"params": [x]}], TypeError, "one of the params is dict"),
        (lambda x: [{"weights": [x]}], KeyError, "params"),
        (lambda x: [{"params": {x}}], TypeError, "ordered collections"),
        (lambda x: [{"params": [x]}, {"params": [x]}], ValueError, "appear in more than one parameter group"),
    ],
)
def test_parameters_that_torch_refuses_too(params, error, message):
    with pytest.raises(error, match=message):
        SGD(params(leaf()))
    with pytest.raises(error):
        torch.optim.SGD(params(torch_leaf()))


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (lambda x: {x}, TypeError, "ordered collections"),
        (lambda x: {"params": [x]}, TypeError, "but got dict: put it in a list"),
        (lambda x: [x, x], ValueError, "twice in one: parameter 1, of shape"),
        (lambda x: [("weight", x)], TypeError, "one of the params is tuple: hand it model.parameters"),
    ],
)
def test_parameters_that_only_this_refuses(params, error, message):
    with pytest.raises(error, match=message):
        SGD(params(leaf()))


def test_a_refused_group_changes_nothing():
    x, y = leaf(), leaf()
    optimizer = SGD([x])
    for group in ({"params": [y, x]}, {"params": [y], "lr": -1}, {"params": [y, 3]}):
        given = dict(group)
        with pytest.raises((ValueError, TypeError)):
            optimizer.add_param_group(group)
        assert group == given
        assert len(optimizer.param_groups) == 1


def test_a_result_that_retains_its_gradient_can_be_optimized_as_in_torch():
    y = Square.apply(leaf())
    y.retain_grad()
    SGD([y])
    z = (torch_leaf() ** 2).sum()
    z.retain_grad()
    torch.optim.SGD([z])
