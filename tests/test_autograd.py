"""The walk against torch, and against what it promises: no cycles, no recursion, loud refusals, derivatives of every order."""

import gc
import warnings
import weakref

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm.testing import compare_arrays

both = pytest.mark.parametrize("lib", [tg, torch], ids=["ours", "torch"])


def leaf(lib, *values):
    return lib.tensor(values if len(values) != 1 else values[0], dtype=lib.float64, requires_grad=True)


# -- The walk ------------------------------------------------------------------------------------------------------------------------


@both
def test_gradients_accumulate(lib):
    x = leaf(lib, 3.0)
    (x * x).backward()
    assert x.grad.item() == 6
    first = x.grad
    (x * 2).backward()
    assert x.grad is first  # in its own memory
    assert first.item() == 8
    x.grad = None
    (x + x + x * x * x).backward()
    assert x.grad.item() == 29


@both
def test_a_diamond_asks_each_node_once(lib):
    log = []
    x = leaf(lib, 2.0)
    y = x * 3
    y.register_hook(lambda g: log.append(g.item()))
    a, b = y * y, y + 1
    (a * b + y).backward()
    assert log == [12 * 7 + 36 + 1]
    assert x.grad.item() == 3 * log[0]


@both
def test_several_roots(lib):
    x = leaf(lib, 1.0, 2.0)
    lib.autograd.backward([x.sum(), (x * x).sum()], [None, lib.tensor(3.0, dtype=lib.float64)])
    assert x.grad.tolist() == [7, 13]
    found = lib.autograd.grad([x * 2, x * x], [x], [lib.ones(2, dtype=lib.float64), lib.full((2,), 2.0, dtype=lib.float64)])
    assert found[0].tolist() == [6, 10]
    y = x * x
    assert lib.autograd.grad([y, y], x, [lib.ones_like(y), lib.ones_like(y)])[0].tolist() == [4, 8]


@both
def test_a_root_may_be_a_leaf_or_an_input(lib):
    x = leaf(lib, 1.0, 2.0)
    x.backward(lib.tensor([5.0, 6.0], dtype=lib.float64))
    assert x.grad.tolist() == [5, 6]
    y = x * 2
    g = lib.ones(2, dtype=lib.float64)
    assert lib.autograd.grad(y, [y, x], g)[0].tolist() == [1, 1]
    assert lib.autograd.grad(x, [x, x], g)[1].tolist() == [1, 1]


@both
def test_one_element_needs_no_gradient_argument(lib):
    x = leaf(lib, [[2.0]])
    (x * x).backward()
    assert x.grad.tolist() == [[4.0]]


@both
def test_inputs_of_backward(lib):
    x, w = leaf(lib, 1.0, 2.0), leaf(lib, 3.0, 4.0)
    y = x * 2
    (y * w).sum().backward(inputs=[w, w])
    assert x.grad is None
    assert w.grad.tolist() == [2, 4]
    (y * w).sum().backward(inputs=y)
    assert y.grad.tolist() == [3, 4]
    assert x.grad is None


@both
def test_grad_of_places_inside_the_graph(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    z = (y * y).sum()
    gz, gy, gx, again = lib.autograd.grad(z, [z, y, x, y])
    assert (gz.item(), gy.tolist(), gx.tolist(), again.tolist()) == (1, [4, 8], [8, 16], [4, 8])
    assert x.grad is None


@both
def test_unused_inputs(lib):
    x, w = leaf(lib, 1.0), leaf(lib, 1.0, 2.0)
    assert lib.autograd.grad(x * 2, [x, w], allow_unused=True)[1] is None
    assert lib.autograd.grad(x * 2, [x, w], materialize_grads=True)[1].tolist() == [0, 0]
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        lib.autograd.grad(x * 2, [x, w])
    with pytest.raises(ValueError, match="materialize_grads"):
        lib.autograd.grad(x * 2, [x, w], allow_unused=False, materialize_grads=True)


@both
def test_a_pruned_walk_leaves_the_rest_alone(lib):
    """Nodes that lead to no wanted input keep what they saved, and their hooks are not called."""
    x, w = leaf(lib, 2.0), leaf(lib, 3.0)
    log = []
    left, right = x.exp(), w.exp()
    for name, t in (("x", x), ("w", w), ("left", left), ("right", right)):
        t.register_hook(lambda g, name=name: log.append(name))
    z = left * right
    lib.autograd.grad(z, x, retain_graph=False)
    assert log == ["left", "x"]
    right.backward()  # its exp was not freed
    assert log == ["left", "x", "right", "w"]
    with pytest.raises(RuntimeError, match="second time"):
        left.backward()


@both
def test_the_pieces_of_a_split_are_outputs_of_one_node(lib):
    x = lib.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]], dtype=lib.float64, requires_grad=True)
    for pieces in (x.split(2, 1), x.split([2, 2, 1], 1), x.chunk(3, -1)):
        a, b, c = pieces
        assert [t.tolist() for t in pieces] == [[[1, 2]], [[3, 4]], [[5]]]
        assert a.grad_fn is b.grad_fn is c.grad_fn and "Split" in repr(a.grad_fn)
        (g,) = lib.autograd.grad((a * c).sum(), x, create_graph=True)  # none for b
        assert g.tolist() == [[5, 5, 0, 0, 3]]
        assert lib.autograd.grad(g[0, 4], x, retain_graph=True)[0].tolist() == [[1, 1, 0, 0, 0]]
        a.retain_grad()
        (a * b).sum().backward()
        assert a.grad.tolist() == [[3, 4]] and x.grad.tolist() == [[3, 4, 1, 2, 0]]
        x.grad = None
    with lib.no_grad():  # views: what is written to one is written to x
        x.split(2, 1)[2].fill_(7.0)
    assert x.tolist() == [[1, 2, 3, 4, 7]]


@both
def test_retain_graph(lib):
    x = leaf(lib, 2.0)
    y = x.exp()
    y.backward(retain_graph=True)
    y.backward()
    assert abs(x.grad.item() - 2 * np.exp(2)) < 1e-12
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


@pytest.mark.parametrize(
    ("name", "freed"),
    [("neg", False), ("add", False), ("sum", False), ("mean", False), ("reshape", False), ("expand", False), ("clone", False), ("mul", True), ("exp", True), ("div", True),
     ("pow", True), ("max", True), ("var", True), ("clamp", True), ("where", True), ("abs", True), ("matmul", True), ("masked_fill", True), ("logsumexp", True)],
)  # fmt: skip
def test_a_second_backward_raises_only_where_something_was_freed(name, freed):
    ops = {
        "neg": lambda lib, x: -x, "add": lambda lib, x: x + x, "sum": lambda lib, x: x.sum(), "mean": lambda lib, x: x.mean(0), "reshape": lambda lib, x: x.reshape(1, 2),
        "expand": lambda lib, x: x.expand(3, 2), "clone": lambda lib, x: x.clone(), "mul": lambda lib, x: x * x, "exp": lambda lib, x: x.exp(), "div": lambda lib, x: 1 / x,
        "pow": lambda lib, x: x**3, "max": lambda lib, x: x.max(), "var": lambda lib, x: x.var(), "clamp": lambda lib, x: x.clamp(0, 1), "abs": lambda lib, x: x.abs(),
        "where": lambda lib, x: lib.where(x > 1, x, 0.0), "matmul": lambda lib, x: x @ x, "masked_fill": lambda lib, x: x.masked_fill(x > 1, 0.0),
        "logsumexp": lambda lib, x: x.logsumexp(0),
    }  # fmt: skip
    for lib in (tg, torch):
        y = ops[name](lib, leaf(lib, 1.0, 2.0))
        g = lib.ones_like(y)
        y.backward(g)
        if freed:
            with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
                y.backward(g)
        else:
            y.backward(g)


@both
def test_no_gradient_arrives_where_the_walk_fails(lib):
    x, w = leaf(lib, 2.0), leaf(lib, 3.0)
    y = x.exp()
    y.backward()
    x.grad = None
    with pytest.raises(RuntimeError, match="second time"):
        (y * w).backward()
    assert x.grad is None
    if lib is tg:  # nothing at all
        assert w.grad is None


# -- No sharing ------------------------------------------------------------------------------------------------------------------------


def test_no_two_gradients_share_memory():
    a, b, c = (tg.ones(3, requires_grad=True) for _ in range(3))
    given = tg.ones(3)
    d = a + b
    d.retain_grad()
    (d - (-c)).backward(given)
    arrays = [given._data, a.grad._data, b.grad._data, c.grad._data, d.grad._data]
    for i, first in enumerate(arrays):
        assert first.flags.writeable
        for second in arrays[:i]:
            assert not np.shares_memory(first, second)
    a.grad.mul_(7)
    assert b.grad.tolist() == given.tolist() == [1, 1, 1]


@pytest.mark.parametrize("create_graph", [False, True])
def test_what_backward_is_given_stays_the_callers(create_graph):
    x = tg.ones(3, requires_grad=True)
    given = tg.ones(3)
    x.backward(given, create_graph=create_graph)
    given.fill_(9)
    assert x.grad.tolist() == [1, 1, 1]
    y = tg.ones(3, requires_grad=True)
    (found,) = tg.autograd.grad(y.reshape(3), y, given)
    found.fill_(0)
    assert given.tolist() == [9, 9, 9]


def test_saved_values_never_become_gradients():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    w = tg.tensor([3.0, 4.0], requires_grad=True)
    (x * w).backward(tg.ones(2))
    x.grad.fill_(0)
    assert w.tolist() == [3, 4]
    y = x.sum()  # its gradient is one number seen through strides of 0
    y.backward()
    x.grad[0] = 5
    assert x.grad.tolist() == [5, 1]


def test_a_gradient_put_there_by_hand():
    x = tg.ones(3, requires_grad=True)
    x.grad = tg.ones(1).expand(3)
    (x * 2).sum().backward()
    assert x.grad.tolist() == [3, 3, 3]
    mine = tg.ones(3)
    x.grad = mine
    (x * 2).sum().backward()
    assert x.grad is mine
    assert mine.tolist() == [3, 3, 3]


# -- Memory ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector():
    gc.disable()
    yield
    gc.enable()


BUILD = {
    "arithmetic": lambda x: ((x * x + 2) / (x - 5)) ** 2,
    "functions": lambda x: (x.exp() + x.log() * x.tanh() - x.sigmoid() * x.sqrt()).rsqrt(),
    "reductions": lambda x: x.max(0)[0] + x.var() + x.std(0) + x.logsumexp(0) + x.amax() + x.mean(),
    "views": lambda x: x.reshape(2, 2).T[0].unsqueeze(0).expand(3, 2) + x[1:3],
    "indexing": lambda x: x[[0, 0, 1]].sum() + x[x > 1].sum() + x.gather(0, tg.tensor([0, 3])).sum(),
    "joining": lambda x: tg.cat([x, x]).sum() + tg.stack([x, x]).sum() + x.split(2)[1].sum(),
    "in place": lambda x: (x * 1).add_(x).mul_(x),
    "setitem": lambda x: _assigned(x * 1, x),
    "layers": lambda x: tg.nn.functional.layer_norm(x.reshape(2, 2), (2,)).softmax(1) @ x.reshape(2, 2),
}


def _assigned(y, x):
    y[1:3] = x[:2]
    return y


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", list(BUILD))
def test_a_graph_is_gone_with_its_last_name(name, order, no_collector):
    """No reference cycle anywhere: Tensors and nodes die at once, without the garbage collector."""
    x = tg.tensor([1.0, 2.0, 3.0, 4.0], dtype=tg.float64, requires_grad=True)
    y = BUILD[name](x).sum()
    watched = [weakref.ref(y), weakref.ref(y.grad_fn)]
    stack = [y.grad_fn]
    while stack:
        node = stack.pop()
        for following, _ in node.next_functions:
            if following is not None and following.name != "AccumulateGrad":
                watched.append(weakref.ref(following))
                stack.append(following)
    del stack, node, following
    grads = [y]
    for k in range(order):
        grads = tg.autograd.grad(grads[0].sum(), x, create_graph=k + 1 < order, allow_unused=True, materialize_grads=True)
        watched.append(weakref.ref(grads[0]))
        if not grads[0].requires_grad:
            break
    del y, grads
    assert [r() for r in watched if r() is not None] == []
    watched = weakref.ref(x)
    del x
    assert watched() is None


def test_a_failed_walk_leaves_nothing_behind(no_collector):
    x = tg.ones(2, requires_grad=True)
    y = x * 2
    z = (y * y).sum()
    y.add_(1)
    watched = weakref.ref(y.grad_fn)
    try:
        z.backward()
    except RuntimeError:
        pass
    del y, z
    assert watched() is None


@pytest.mark.parametrize("op", [lambda y: y + 1, lambda y: y * 1.0001, lambda y: -y, lambda y: y[:], lambda y: y.tanh()], ids=["add", "mul", "neg", "view", "tanh"])
def test_a_chain_of_20000_ops(op):
    """Neither the walk nor letting go of the graph recurses."""
    x = tg.tensor([0.5, 0.25], dtype=tg.float64, requires_grad=True)
    y = x
    for _ in range(20_000):
        y = op(y)
    tg.autograd.grad(y, x, tg.ones_like(y), retain_graph=True)
    y.sum().backward()
    assert x.grad.isfinite().all()
    del y


def test_a_chain_of_20000_ops_under_create_graph():
    x = tg.tensor(1.0, dtype=tg.float64, requires_grad=True)
    y = x
    for _ in range(20_000):
        y = y * 1.0
    y = y * y
    (g,) = tg.autograd.grad(y, x, create_graph=True)
    (h,) = tg.autograd.grad(g, x)
    assert (g.item(), h.item()) == (2, 2)


def test_views_do_not_pile_up_a_chain_of_bases():
    x = tg.zeros(4)
    for _ in range(5000):
        x = x[:]
    assert x._base[0]._base is None


# -- Higher orders ---------------------------------------------------------------------------------------------------------------------

COMPOSED = {
    "polynomial": lambda lib, x: (x**5).sum(),
    "functions": lambda lib, x: (x.exp() * x.tanh() + x.sigmoid() / x.log() - x.sqrt() * lib.erf(x)).sum(),
    "rsqrt": lambda lib, x: (x.rsqrt() * x**2.3).sum(),
    "norm": lambda lib, x: (((x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()) ** 3).sum(),
    "std": lambda lib, x: (x / x.std()).exp().sum(),
    "softmax by hand": lambda lib, x: ((x - x.max()).exp() / (x - x.max()).exp().sum()).log()[1],
    "logsumexp": lambda lib, x: (x * x).logsumexp(0),
    "softmax": lambda lib, x: (x.softmax(0) ** 2).sum(),
    "log_softmax": lambda lib, x: (x.log_softmax(0) ** 2).sum(),
    "matmul": lambda lib, x: ((x.reshape(2, 2) @ x.reshape(2, 2).T).tanh() @ x[:2]).sum(),
    "indexing": lambda lib, x: (x[[0, 1, 0]] * x[1:]).exp().sum() + (x[x > 1.1] ** 4).sum(),
    "where": lambda lib, x: (lib.where(x > 1.2, x**4, x**3) * x).sum(),
    "maximum": lambda lib, x: (lib.maximum(x, 1 / x) ** 4).sum(),
    "pow": lambda lib, x: (x**x).sum(),
    "cat": lambda lib, x: (lib.cat([x, x**2]) * lib.stack([x**3, x]).reshape(-1)).sum(),
    "in place": lambda lib, x: ((x * x).mul_(x).add_(x) ** 2).sum(),
    "relu": lambda lib, x: (lib.relu(x - 1.2) ** 4 * x).sum(),
    "gather": lambda lib, x: (x.gather(0, lib.tensor([0, 3, 3])) ** 4).sum(),
    "broadcast": lambda lib, x: ((x.reshape(2, 2) * x[:2]) ** 3 / x[0]).sum(),
    "number on top": lambda lib, x: (2.0**x + 1 / x + (1 - x) ** 3).sum(),
    "expand": lambda lib, x: (x.expand(3, 4) * x.reshape(4, 1)[:3]).pow(2).mean(),
}


@pytest.mark.parametrize("name", list(COMPOSED))
def test_four_orders_against_torch(name):
    values = [1.05, 1.3, 2.1, 0.7]
    rng = np.random.RandomState(0)
    directions = [rng.standard_normal(4) for _ in range(4)]

    def run(lib):
        x = leaf(lib, *values)
        total, found = COMPOSED[name](lib, x), []
        for v in directions:
            (g,) = lib.autograd.grad(total, x, create_graph=True)
            found.append(g.detach().numpy().copy())
            total = (g * lib.tensor(v, dtype=lib.float64)).sum()
        return found

    for order, (ours, theirs) in enumerate(zip(run(tg), run(torch))):
        assert compare_arrays(ours, theirs) < 1e-12 * 10**order


def test_a_hessian_row_by_row():
    x = leaf(tg, 1.0, 2.0, 3.0)
    (g,) = tg.autograd.grad((x.sum() ** 3), x, create_graph=True)
    rows = [tg.autograd.grad(part, x, retain_graph=True)[0].tolist() for part in g]
    assert rows == [[36.0] * 3] * 3


@both
def test_backward_with_create_graph_fills_grads_that_can_be_differentiated(lib):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its cycle
        x = leaf(lib, 2.0)
        (x**3).backward(create_graph=True)
        assert x.grad.requires_grad
        g = x.grad
        x.grad = None
        g.backward()
        assert x.grad.item() == 12


def test_once_differentiable_raises_at_the_second_order_and_never_gives_a_zero():
    class Cube(tg.autograd.Function):
        once_differentiable = True

        def forward(self, x):
            self.save_for_backward(x)
            return x**3

        def backward(self, g):
            assert isinstance(g, np.ndarray)
            (x,) = self.saved_tensors
            return 3 * x**2 * g

    x = leaf(tg, 2.0)
    y = Cube.apply(x) + x**2
    (g,) = tg.autograd.grad(y, x, create_graph=True)
    assert g.item() == 16
    for attempt in (lambda: g.backward(retain_graph=True), lambda: tg.autograd.grad(g, x, retain_graph=True), lambda: g.backward(inputs=[x])):
        with pytest.raises(RuntimeError, match=r"CubeBackward is marked once differentiable.*primitives"):
            attempt()
    assert x.grad is None
    w = leaf(tg, 5.0)  # what does not go through it is untouched
    assert tg.autograd.grad(g * w, w)[0].item() == 16


def test_the_third_order_of_a_fused_layer_raises():
    x = tg.randn(3, 4, dtype=tg.float64, requires_grad=True)
    (g,) = tg.autograd.grad((tg.nn.functional.layer_norm(x, (4,)) ** 3).sum(), x, create_graph=True)
    (h,) = tg.autograd.grad((g**2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        tg.autograd.grad((h**2).sum(), x)


# -- Threads ---------------------------------------------------------------------------------------------------------------------------


@both
def test_the_second_derivative_of_relu_is_0_and_not_missing(lib):
    x = lib.tensor([-1.0, 0.0, 2.0, float("inf")], dtype=lib.float64, requires_grad=True)
    (g,) = lib.autograd.grad(lib.relu(x).sum(), x, create_graph=True)
    assert g.tolist() == [0, 0, 1, 1] and g.requires_grad
    assert lib.autograd.grad(g.sum(), x)[0].tolist() == [0, 0, 0, 0]


@both
def test_an_empty_vector_keeps_its_place_in_a_cat(lib):
    x, y = lib.zeros(0, requires_grad=True), lib.ones(2)
    lib.cat([x, y]).sum().backward()
    assert x.grad.shape == (0,)
    assert not lib.cat([lib.zeros(0), lib.ones(1, 2)]).requires_grad
