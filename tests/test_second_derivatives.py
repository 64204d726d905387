"""The hand-derived second derivatives against torch's, in float64, and the third order, which raises."""

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm.autograd import Function, GradcheckError, gradcheck, gradgradcheck

EXACT = 1e-12


def second(lib, function, arrays, wanted):
    """First gradients with a random dy, and the gradients of a random combination of them, also by dy."""
    rng = np.random.RandomState([7, 2031])
    ours = lib is tg
    tensors = [lib.tensor(a) for a in arrays]
    for t, w in zip(tensors, wanted):
        t.requires_grad_(w)
    y = function(lib, *tensors)
    dy = lib.tensor(rng.standard_normal(tuple(y.shape)) + 0.3).requires_grad_()
    leaves = [t for t, w in zip(tensors, wanted) if w]
    first = lib.autograd.grad(y, leaves, dy, create_graph=True)
    roots = [g for g in first if g.requires_grad]
    weights = [lib.tensor(rng.standard_normal(tuple(g.shape)) - 0.2) for g in roots]
    found = lib.autograd.grad(roots, [*leaves, dy], weights, allow_unused=True)
    both = [*first, *(0 * t if g is None else g for g, t in zip(found, [*leaves, dy]))]
    return [np.array(g.detach().numpy()) if ours else (g.detach() + 0).numpy() for g in both]


def worst(ours, theirs):
    """The largest difference, of the largest value of that tensor."""
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    return max(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-3) for a, b in zip(ours, theirs))


def layer(shape, normalized, eps=1e-5):
    return lambda lib, x, w, b: lib.nn.functional.layer_norm(x, normalized, w, b, eps), [shape, normalized, normalized]


def batch(shape, eps=1e-5):
    return lambda lib, x, w, b: lib.nn.functional.batch_norm(x, None, None, w, b, True, 0.1, eps), [shape, shape[1:2], shape[1:2]]


def batch_eval(shape):
    def function(lib, x, w, b):
        rng = np.random.RandomState(5)
        mean, var = lib.tensor(rng.standard_normal(shape[1])), lib.tensor(rng.uniform(0.3, 2, shape[1]))
        return lib.nn.functional.batch_norm(x, mean, var, w, b, False)

    return function, [shape, shape[1:2], shape[1:2]]


def entropy(**options):
    def function(lib, x):
        target = lib.tensor(np.array([0, 2, 1, 3, 2, 0]))
        weight = lib.tensor(np.array([0.5, 2.0, 1.0, 0.7])) if options.get("weight") else None
        return lib.nn.functional.cross_entropy(x, target, **{**options, "weight": weight})

    return function, [(6, 4)]


CASES = {
    "LayerNorm (N, D)": layer((6, 5), (5,)),
    "LayerNorm square": layer((5, 5), (5,)),
    "LayerNorm eps 0.3": layer((6, 5), (5,), 0.3),
    "LayerNorm three axes": layer((2, 3, 4), (4,)),
    "LayerNorm over two axes": layer((2, 3, 4), (3, 4)),
    "LayerNorm wide": layer((33, 129), (129,)),
    "BatchNorm1d (N, C)": batch((6, 5)),
    "BatchNorm1d square": batch((5, 5)),
    "BatchNorm1d eps 0.3": batch((6, 5), 0.3),
    "BatchNorm1d (N, C, L)": batch((4, 3, 5)),
    "BatchNorm1d (N, C, 1)": batch((4, 3, 1)),
    "BatchNorm1d wide": batch((67, 33)),
    "BatchNorm1d eval (N, C)": batch_eval((6, 5)),
    "BatchNorm1d eval (N, C, L)": batch_eval((4, 3, 5)),
    "Linear": (lambda lib, x, w, b: lib.nn.functional.linear(x, w, b), [(5, 4), (3, 4), (3,)]),
    "Linear three axes": (lambda lib, x, w, b: lib.nn.functional.linear(x, w, b), [(2, 5, 4), (3, 4), (3,)]),
    "Linear no bias": (lambda lib, x, w: lib.nn.functional.linear(x, w), [(5, 4), (3, 4)]),
    "ReLU": (lambda lib, x: lib.relu(x), [(4, 5)]),
    "ReLU of a square": (lambda lib, x: lib.relu(x * x - 0.5) * x, [(4, 5)]),
    "cross_entropy": entropy(),
    "cross_entropy sum": entropy(reduction="sum"),
    "cross_entropy none": entropy(reduction="none"),
    "cross_entropy weight, ignore_index": entropy(weight=True, ignore_index=2),
    "cross_entropy label_smoothing": entropy(label_smoothing=0.2),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_second_derivatives_against_torch(name, seed):
    function, shapes = CASES[name]
    rng = np.random.RandomState(seed)
    arrays = [rng.standard_normal(s) * 1.5 + 0.4 for s in shapes]
    wanted = [True] * len(arrays)
    assert worst(second(tg, function, arrays, wanted), second(torch, function, arrays, wanted)) < EXACT


@pytest.mark.parametrize("name", [n for n in CASES if "Norm" in n and "wide" not in n])
def test_each_input_alone(name):
    """Only one of x, γ, β requires a gradient: the others' parts must not be missed or mixed up."""
    function, shapes = CASES[name]
    rng = np.random.RandomState(3)
    arrays = [rng.standard_normal(s) * 1.5 + 0.4 for s in shapes]
    for i in range(2):
        wanted = [j == i for j in range(len(arrays))]
        assert worst(second(tg, function, arrays, wanted), second(torch, function, arrays, wanted)) < EXACT


@pytest.mark.parametrize("name", [n for n in CASES if "wide" not in n])
def test_second_derivatives_against_differences(name):
    function, shapes = CASES[name]
    rng = np.random.RandomState(2)
    inputs = tuple(tg.tensor(rng.standard_normal(s) * 1.5 + 0.4, requires_grad=True) for s in shapes)
    assert gradgradcheck(lambda *a: function(tg, *a), inputs, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("name", ["LayerNorm (N, D)", "LayerNorm over two axes", "BatchNorm1d (N, C)", "BatchNorm1d (N, C, L)"])
def test_the_third_order_of_a_fused_norm_raises(name):
    function, shapes = CASES[name]
    rng = np.random.RandomState(0)
    x, *others = (tg.tensor(rng.standard_normal(s) + 0.4, requires_grad=True) for s in shapes)
    (first,) = tg.autograd.grad((function(tg, x, *others) ** 3).sum(), x, create_graph=True)
    (again,) = tg.autograd.grad((first**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="is marked once differentiable: its gradient is exact, but that gradient has no derivative here"):
        tg.autograd.grad(again.sum(), x)


def test_torchs_third_derivative_of_the_fused_norm_is_wrong():
    """Why ours raises: torch returns a number, and it is not the derivative."""
    rng = np.random.RandomState(0)
    start = rng.standard_normal((2, 5))

    def norm(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    def third(function):
        x = torch.tensor(start, requires_grad=True)
        g = x.new_tensor(rng_weights)
        value = (function(x) * g).sum()
        for _ in range(2):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = (gradient * g).sum()
        return torch.autograd.grad(value, x)[0].numpy()

    rng_weights = rng.standard_normal((2, 5))
    fused, plain = third(lambda x: torch.nn.functional.layer_norm(x, (5,))), third(norm)
    assert np.abs(fused - plain).max() > 1e-3 * np.abs(plain).max()


def test_where_everything_is_primitive_every_order_is_there():
    x = tg.tensor(np.array([0.3, -1.2, 0.8]), requires_grad=True)

    def norm(x):
        centred = x - x.mean()
        return centred / ((centred**2).mean() + 1e-5).sqrt()

    value = (norm(x) * tg.tensor(np.array([1.0, 2.0, -1.0]))).sum()
    for _ in range(3):
        (gradient,) = tg.autograd.grad(value, x, create_graph=True)
        value = (gradient**2).sum()
    assert np.isfinite(gradient._data).all()


@pytest.mark.parametrize(
    ("of_tensors", "times"),
    [
        (lambda x, g: 3 * x.detach() * x * g, r"0\.5"),  # half of the second derivative is lost
        (lambda x, g: 2 * x * x * g, r"0\.666667"),  # under create_graph another function, with the right derivative of that one
    ],
    ids=["a factor detached", "another function"],
)
def test_a_wrong_second_derivative_is_found(of_tensors, times):
    class Cube(Function):
        def forward(self, x):
            self.save_for_backward(x)
            return x**3

        def backward(self, g):
            (x,) = self.saved_tensors
            return of_tensors(x, g) if isinstance(x, tg.Tensor) else 3 * x * x * g

    x = tg.tensor([0.5, -1.5, 2.0], dtype=tg.float64, requires_grad=True)
    assert gradcheck(Cube.apply, x)
    with pytest.raises(GradcheckError, match=f"dx is {times} times the right one"):
        gradgradcheck(Cube.apply, x)
    assert gradgradcheck(Cube.apply, x, raise_exception=False) is False
