"""The engine against torch, and against what it promises: no cycles, no recursion, loud refusals, derivatives of every order."""

import gc
import threading
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
    gc.collect()
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


# -- Whether ops are recorded ----------------------------------------------------------------------------------------------------------


@both
def test_modes_nest_and_are_restored(lib):
    x = leaf(lib, 1.0)
    assert lib.is_grad_enabled()
    with lib.no_grad():
        assert not (x * 2).requires_grad
        with lib.enable_grad():
            assert (x * 2).requires_grad
            with lib.set_grad_enabled(False):
                assert not (x * 2).requires_grad
            assert (x * 2).requires_grad
        assert not lib.is_grad_enabled()
        with pytest.raises(ZeroDivisionError), lib.enable_grad():
            _ = 1 / 0
        assert not lib.is_grad_enabled()
        with lib.inference_mode(False):
            assert lib.is_grad_enabled()
    assert lib.is_grad_enabled()
    lib.set_grad_enabled(False)
    assert not (x * 2).requires_grad
    lib.set_grad_enabled(True)
    assert (x * 2).requires_grad


@both
def test_modes_as_decorators(lib):
    @lib.no_grad()
    def without(x):
        """Kept."""
        return x * 2

    @lib.no_grad
    def bare(x):
        return x * 2

    @lib.enable_grad()
    def with_(x, depth=2):
        return with_(x, depth - 1) if depth else x * 2

    @lib.set_grad_enabled(False)
    def off(x):
        return x * 2

    @lib.inference_mode()
    def inference(x):
        return x * 2

    @lib.inference_mode
    def bare_inference(x):
        return x * 2

    x = leaf(lib, 1.0)
    assert lib.is_grad_enabled()
    assert without.__doc__ == "Kept."
    assert without.__name__ == "without"
    assert not any(f(x).requires_grad for f in (without, bare, off, inference, bare_inference))
    with lib.no_grad():
        assert with_(x).requires_grad


def test_a_generator_is_not_decorated_silently():
    with pytest.raises(TypeError, match=r"cannot decorate the generator function numbers"):

        @tg.no_grad()
        def numbers():
            yield 1


@both
def test_modes_belong_to_their_thread(lib):
    seen = []
    x = leaf(lib, 1.0)
    with lib.no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


@both
def test_inference_tensors(lib):
    x = leaf(lib, 1.0, 2.0)
    with lib.inference_mode():
        inside = x * 2
        inside.add_(1)  # allowed in there
        x_view = x[:1]
    assert not inside.requires_grad
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        x * inside
    assert (x + inside).requires_grad  # nothing is saved
    with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
        inside.add_(1)
    with pytest.raises(RuntimeError, match=r"(?i)inference tensor"):
        inside.requires_grad = True
    with pytest.raises(RuntimeError, match="do not track version counter"):
        inside._version  # noqa: B018
    assert (x * inside.clone()).requires_grad
    assert x_view.tolist() == [1]


def test_recording_costs_nothing_it_does_not_need():
    x = tg.ones(3, requires_grad=True)
    with tg.no_grad():
        y = x.exp()
    assert y.is_leaf
    assert y.grad_fn is None
    assert (tg.ones(3) * 2).grad_fn is None


# -- Hooks -----------------------------------------------------------------------------------------------------------------------------


@both
def test_hooks_see_and_replace_gradients(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 3
    log = []
    first = y.register_hook(lambda g: log.append(("first", g.tolist())))
    y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: log.append(("third", g.tolist())))
    x.register_hook(lambda g: log.append(("leaf", g.tolist())))
    x.register_hook(lambda g: g + 1)
    y.retain_grad()
    y.sum().backward(retain_graph=True)
    assert log == [("first", [1, 1]), ("third", [10, 10]), ("leaf", [30, 30])]
    assert x.grad.tolist() == [31, 31]
    assert y.grad.tolist() == [10, 10]  # what the hooks made of it
    first.remove()
    first.remove()
    log.clear()
    y.sum().backward()
    assert [name for name, _ in log] == ["third", "leaf"]
    assert x.grad.tolist() == [62, 62]


@both
def test_a_leaf_hook_sees_the_whole_gradient_once(lib):
    x = leaf(lib, 2.0)
    log = []
    x.register_hook(lambda g: log.append(g.item()))
    (x * x + x).backward()
    assert log == [5]
    assert lib.autograd.grad(x * x, x)[0].item() == 4
    assert log == [5, 4]


@both
def test_hooks_under_create_graph_are_part_of_the_graph(lib):
    x = leaf(lib, 3.0)
    y = x * x
    y.register_hook(lambda g: g * x)
    (g,) = lib.autograd.grad(y, x, create_graph=True)
    assert g.item() == 18
    assert lib.autograd.grad(g, x)[0].item() == 12


def test_what_a_hook_may_return():
    x = leaf(tg, 1.0, 2.0)
    y = x * 2
    handle = y.register_hook(lambda g: g[:1])
    with pytest.raises(RuntimeError, match=r"a hook must return None or a gradient of shape \[2\]; got shape \[1\]"):
        y.sum().backward()
    handle.remove()
    with y.register_hook(lambda g: 3), pytest.raises(RuntimeError, match="got int"):
        (y * 1).sum().backward()
    assert x.grad is None


def test_a_hook_that_raises_leaves_every_leaf_as_it_was():
    x, w = leaf(tg, 1.0), leaf(tg, 2.0)
    w.register_hook(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (x * w).backward()
    assert x.grad is None
    assert w.grad is None


def test_a_hook_that_keeps_the_gradient_does_not_share_it_with_grad():
    x = leaf(tg, 1.0, 2.0)
    kept = []
    x.register_hook(kept.append)
    (x * 2).sum().backward()
    (x * 2).sum().backward()
    assert kept[0].tolist() == [2, 2]
    assert x.grad.tolist() == [4, 4]


@both
def test_retain_grad(lib):
    x = leaf(lib, 1.0)
    y = x * 2
    assert not y.retains_grad
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert y.grad is None
    assert "not a leaf" in str(caught[0].message)
    y.retain_grad()
    y.retain_grad()
    x.retain_grad()  # of a leaf: nothing
    assert y.retains_grad
    assert not x.retains_grad
    (y * 3).backward()
    assert y.grad.item() == 3
    z = x * 2
    z.retain_grad()
    z.mul_(5)  # the retained gradient follows the value
    assert z.retains_grad
    (z * 7).backward()
    assert z.grad.item() == 7
    u = x * 2
    u.retain_grad()
    lib.autograd.grad(u * 4, x)
    assert u.grad.item() == 4


@both
def test_a_hook_stays_with_the_value_it_was_put_on(lib):
    x = leaf(lib, 1.0)
    y = x * 2
    log = []
    y.register_hook(lambda g: log.append(g.item()))
    y.mul_(5)
    (y * 3).backward()
    assert log == [15]


@both
def test_grad_can_be_retained_of_a_tensor_that_is_gone(lib):
    x = leaf(lib, 1.0)
    y = x * 2
    y.retain_grad()
    z = y * 3
    del y
    z.backward()
    assert x.grad.item() == 6


# -- Leaves ----------------------------------------------------------------------------------------------------------------------------


@both
def test_leaves_and_detaching(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    assert (x.is_leaf, y.is_leaf, x.grad_fn, lib.ones(1).is_leaf) == (True, False, None, True)
    d = y.detach()
    assert d.is_leaf
    assert not d.requires_grad
    assert (d * x).requires_grad
    d[0] = 7  # one memory
    assert y[0].item() == 7
    assert y.data is not y
    assert not y.data.requires_grad
    z = x * 3
    z.detach_()
    assert z.is_leaf
    assert not z.requires_grad
    with pytest.raises(RuntimeError, match=r"(?i)can't detach views"):
        (x * 1)[0].detach_()
    with pytest.raises(RuntimeError, match="you can only change requires_grad flags of leaf variables"):
        y.requires_grad = False


@both
def test_requires_grad_turned_off_before_the_walk(lib):
    x = leaf(lib, 1.0)
    y = x * 2
    x.requires_grad_(False)
    y.backward()
    assert x.grad is None


@both
def test_mixed_types_give_each_leaf_a_gradient_of_its_own_type(lib):
    a = lib.tensor([1.0, 2.0], dtype=lib.float32, requires_grad=True)
    b = lib.tensor([3.0, 4.0], dtype=lib.float64, requires_grad=True)
    s = lib.tensor(2.0, dtype=lib.float64, requires_grad=True)
    y = a * b + a.double() + (a * s).to(lib.float64) + lib.tensor([1, 2]) * b
    assert y.dtype == lib.float64
    assert (a * s).dtype == lib.float32
    y.sum().backward()
    assert (a.grad.dtype, b.grad.dtype, s.grad.dtype) == (lib.float32, lib.float64, lib.float64)
    assert a.grad.tolist() == [6, 7]
    assert s.grad.item() == 3
    y = (a * 2).backward(lib.ones(2, dtype=lib.float64))  # converted
    assert a.grad.tolist() == [8, 9]


# -- Written to after it was saved -----------------------------------------------------------------------------------------------------

CHANGES = {
    "an input": (lambda x, y: y.exp() * y, lambda y, out: y.add_(1)),
    "an input, by a number": (lambda x, y: y * y, lambda y, out: y.zero_()),
    "an output": (lambda x, y: y.exp(), lambda y, out: out.mul_(2)),
    "an output, sqrt": (lambda x, y: y.sqrt(), lambda y, out: out.fill_(3.0)),
    "an element": (lambda x, y: y * y, lambda y, out: y.__setitem__(0, 5.0)),
    "by indices": (lambda x, y: y * y, lambda y, out: y.__setitem__([0, 1], 5.0)),
    "through detach": (lambda x, y: y * y, lambda y, out: y.detach().add_(1)),
    "through a view of detach": (lambda x, y: y * y, lambda y, out: y.detach()[:1].zero_()),
    "through a view taken before": (lambda x, y: y.reshape(2, 1) * 2 * y.reshape(2, 1), lambda y, out: y.detach().reshape(1, 2).mul_(2)),
    "through a view taken after": (lambda x, y: y[:] * y[:], lambda y, out: y.detach()[0].fill_(9.0)),
    "of views": (lambda x, y: y.reshape(2, 1)[0] ** 3, lambda y, out: y.detach().copy_(y.detach() * 2)),
    "a divisor": (lambda x, y: x / y, lambda y, out: y.add_(1)),
    "a matrix": (lambda x, y: x.reshape(1, 2) @ y.reshape(2, 1), lambda y, out: y.add_(1)),
    "a condition": (lambda x, y: (y * 1).where_(y) if False else tg_where(y), lambda y, out: CONDITION[0].fill_(False)),
    "by uniform_": (lambda x, y: y * y, lambda y, out: y.detach().uniform_()),
    "by normal_": (lambda x, y: y * y, lambda y, out: y.detach().normal_()),
    "by random_": (lambda x, y: y * y, lambda y, out: y.detach().random_()),
}
CONDITION = [None]


def tg_where(y):
    lib = torch if isinstance(y, torch.Tensor) else tg
    CONDITION[0] = lib.tensor([True, False])
    return lib.where(CONDITION[0], y, y * 2)


@pytest.mark.parametrize("name", list(CHANGES))
@both
def test_what_was_saved_must_not_change(lib, name):
    build, change = CHANGES[name]
    x = leaf(lib, 1.0, 2.0)
    y = x * 1
    out = build(x, y)
    change(y, out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
    if lib is tg:
        assert x.grad is None


@pytest.mark.parametrize("name", list(CHANGES))
def test_under_no_grad_as_well(name):
    build, change = CHANGES[name]
    y = leaf(tg, 1.0, 2.0) * 1
    out = build(leaf(tg, 1.0, 2.0), y)
    with tg.no_grad():
        change(y, out)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation: .*saved by \w+, is at version 1, written since"):
        out.sum().backward()


@both
def test_a_parameter_updated_too_early(lib):
    w = leaf(lib, 1.0, 2.0)
    out = (w * w).sum()
    with lib.no_grad():
        w.sub_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@both
def test_changes_that_do_not_matter_are_allowed(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 1
    out = (y + 1).sum() + y.sum()
    y.add_(5)  # sums save nothing
    out.backward()
    assert x.grad.tolist() == [2, 2]
    c = lib.ones(2, dtype=lib.float64)
    out = c * x.detach() * x
    c.zero_()
    out = x * c  # the product saved c, not x
    x_before = x.tolist()
    with lib.no_grad():
        x.add_(0)
    out.sum().backward()
    assert x.grad.tolist() == [2, 2]
    assert x.tolist() == x_before


def test_other_data_under_a_leaf():
    x = leaf(tg, 3.0)
    y = x**3
    x.data = tg.tensor(5.0, dtype=tg.float64)
    assert tg.autograd.grad(y, x, retain_graph=True)[0].item() == 27  # of the value that was used
    with pytest.raises(RuntimeError, match=r"was given other \.data"):
        tg.autograd.grad(y, x, create_graph=True)


@both
def test_versions(lib):
    x = lib.zeros(3)
    view, apart = x[1:], x.detach()
    other = x.data
    assert x._version == 0
    x.add_(1)
    view.mul_(2)
    apart[0] = 3
    x.zero_()
    assert x._version == view._version == apart._version == 4
    assert other._version == 0
    other.add_(1)
    assert x._version == 4


# -- In place --------------------------------------------------------------------------------------------------------------------------


@both
def test_in_place_in_the_graph(lib):
    x = leaf(lib, 1.0, 2.0, 3.0)
    y = x * 2
    same = y
    y.add_(x).mul_(3).sub_(1, alpha=2).div_(2)
    assert y is same
    y[0] = x[1] * 10
    y += x
    y *= 2
    y -= 1
    y /= 4
    y.sum().backward()
    reference = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    z = ((reference * 2 + reference) * 3 - 2) / 2
    z = torch.stack([reference[1] * 10, z[1], z[2]])
    z = ((z + reference) * 2 - 1) / 4
    z.sum().backward()
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy())
    np.testing.assert_allclose(x.grad.numpy(), reference.grad.numpy())


def test_the_old_value_is_kept_where_the_op_needs_it():
    """y.mul_(w) and y.div_(w) need the old y for the gradient of w; y.mul_(y) needs it twice (torch refuses that one)."""
    x, w = leaf(tg, 3.0), leaf(tg, 5.0)
    y = x * 1
    y.mul_(w)
    y.div_(w * w)
    y.backward()
    assert abs(w.grad.item() + 3 / 25) < 1e-15
    assert abs(x.grad.item() - 1 / 5) < 1e-15
    y = x * 1
    y.mul_(y)
    assert tg.autograd.grad(y, x)[0].item() == 6


@both
def test_a_plain_tensor_joins_the_graph(lib):
    x = leaf(lib, 1.0, 2.0)
    y = lib.zeros(2, 2, dtype=lib.float64)
    y[0] = x
    y[1, 1] = x[0] * 3
    assert y.requires_grad
    assert not y.is_leaf
    (y**2).sum().backward()
    assert x.grad.tolist() == [2 + 18, 4]


@both
def test_a_leaf_is_not_overwritten(lib):
    x = leaf(lib, 1.0, 2.0)
    for attempt in (lambda: x.add_(1), lambda: x.zero_(), lambda: x.__setitem__(0, 5), lambda: x.copy_(lib.ones(2, dtype=lib.float64)), lambda: x.uniform_()):
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
            attempt()
    with pytest.raises(RuntimeError):
        x[0].add_(1)
    assert x.tolist() == [1, 2]
    assert x._version == 0
    with lib.no_grad():
        x.add_(1)
        x[0] = 7
    assert x.tolist() == [7, 3]
    assert x.is_leaf


def test_views_of_a_graph_are_not_written_to():
    x = leaf(tg, 1.0, 2.0)
    y = x * 1
    w = leaf(tg, 3.0)
    with tg.no_grad():
        silent = y[:1]
    plain = tg.zeros(2, dtype=tg.float64)
    for attempt in (
        lambda: y[0].mul_(2),
        lambda: y.T.add_(1),
        lambda: y[:1].__setitem__(0, w),
        lambda: plain[0].copy_(w),
        lambda: silent.add_(1),  # torch refuses this one too
        lambda: y.reshape(1, 2).zero_(),
    ):
        with pytest.raises(RuntimeError, match=r"view of a tensor in a graph is not supported: write to the tensor itself, as in x\[0\] = y"):
            attempt()
    assert y.tolist() == [1, 2]
    assert y._version == 0
    with tg.no_grad():
        y[0].mul_(5)
    assert y.tolist() == [5, 2]


def test_a_view_from_before_a_recorded_write_is_refused():
    """It shows the new values; the gradient of the old ones would be wrong for it."""
    x = leaf(tg, 1.0, 2.0)
    y = x * 1
    view, deeper, plain = y[:1], y[:1][0], y.detach()[:1]
    y.mul_(10)
    for attempt in (
        lambda: view * 2,
        lambda: deeper.exp(),
        lambda: view.backward(),
        lambda: tg.autograd.grad(y.sum(), view),
        lambda: view[0],
        lambda: view.register_hook(print),
        lambda: view.retain_grad(),
        lambda: tg.cat([x, view]),
    ):
        with pytest.raises(RuntimeError, match="taken before its base was changed in place by a recorded op"):
            attempt()
    assert view.tolist() == [10]
    assert (view.detach() * 2).tolist() == [20]
    assert (plain * x).tolist() == [10, 20]
    with tg.no_grad():
        assert (view * 2).tolist() == [20]
    y[:1].sum().backward()
    assert x.grad.tolist() == [10, 0]


def test_a_view_of_a_plain_tensor_that_joined_a_graph():
    base = tg.zeros(2)
    view = base[:1]
    base.add_(tg.ones(2, requires_grad=True))
    assert not view.requires_grad
    with pytest.raises(RuntimeError, match="taken before its base"):
        view * 2


@both
def test_writes_outside_of_graphs_reach_all_views(lib):
    x = lib.zeros(2, 3)
    row, column, flat = x[0], x[:, 1], x.reshape(-1)
    row.add_(1)
    column.mul_(5)
    flat[5] = 9
    x.T[0].fill_(2)
    assert x.tolist() == [[2, 5, 1], [2, 0, 9]]


@both
def test_expanded_memory_is_not_written_to(lib):
    x = lib.ones(1)
    with pytest.raises(RuntimeError, match="unsupported operation"):
        x.expand(3).add_(1)
    assert x.tolist() == [1]
    whole = lib.ones(3)
    whole.expand(1, 3).add_(1)
    assert whole.tolist() == [2, 2, 2]


def test_read_only_memory_is_not_written_to():
    array = np.ones(2, np.float32)
    array.flags.writeable = False
    with pytest.raises(RuntimeError, match=r"read-only memory: clone\(\) it first"):
        tg.from_numpy(array).zero_()


# -- Functions of one's own -------------------------------------------------------------------------------------------------------------


def test_a_function_in_torchs_style():
    class Scale(tg.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor, nothing):
            assert ctx.needs_input_grad == (True, False, False)
            ctx.factor = factor
            ctx.save_for_backward(x)
            return x * factor

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * ctx.factor + 0 * x, None, None

    x = leaf(tg, 1.0, 2.0)
    y = Scale.apply(x, 3.0, None)
    assert repr(y) == "tensor([3., 6.], dtype=torch.float64, grad_fn=<ScaleBackward>)"
    y.sum().backward()
    assert x.grad.tolist() == [3, 3]
    (g,) = tg.autograd.grad((Scale.apply(x, 2.0, None) ** 2).sum(), x, create_graph=True)
    assert tg.autograd.grad(g.sum(), x)[0].tolist() == [8, 8]


class Split(tg.autograd.Function):
    """Several outputs: both halves of the sum, an integer, and one that is said to be constant."""

    def forward(self, x, y):
        self.save_for_backward(x, y)
        fixed = x * 100
        self.mark_non_differentiable(fixed)
        return x * y, x + y, np.array(x.size), fixed

    def backward(self, product, total, count, fixed):
        x, y = self.saved_tensors
        assert count.shape == ()
        return product * y + total, product * x + total


def test_several_outputs():
    x, y = leaf(tg, 1.0, 2.0), leaf(tg, 3.0, 4.0)
    outs = Split.apply(x, y)
    assert isinstance(outs, tuple)
    assert [o.requires_grad for o in outs] == [True, True, False, False]
    assert [o.is_leaf for o in outs] == [False, False, True, True]
    assert outs[0].grad_fn is outs[1].grad_fn
    outs[0].sum().backward(retain_graph=True)  # the other outputs' gradients are zeros
    assert (x.grad.tolist(), y.grad.tolist()) == ([3, 4], [1, 2])
    log = []
    outs[1].register_hook(lambda g: log.append(g.tolist()))
    (outs[0] + 2 * outs[1]).sum().backward(retain_graph=True)
    assert log == [[2, 2]]
    assert x.grad.tolist() == [3 + 5, 4 + 6]
    (g,) = tg.autograd.grad(outs[0].sum(), x, create_graph=True)
    assert tg.autograd.grad(g.sum(), y)[0].tolist() == [1, 1]


def function(forward, backward):
    return type("Mine", (tg.autograd.Function,), {"forward": forward, "backward": backward})


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    ("shape", "returned", "message"),
    [
        ((3,), (2, 3), r"MineBackward: the gradient for input 0 has shape \(2, 3\); expected \(3,\), .*: a sum over axis 0 is missing"),
        ((2, 1, 4), (5, 2, 3, 4), r"a sum over axis 0, 2 is missing"),
        ((2, 1), (2, 3), r"a sum over axis 1 is missing"),
        ((3,), (4,), r"has shape \(4,\); expected \(3,\).*a gradient has the shape of its input"),
        ((2, 3), (3,), r"has shape \(3,\); expected \(2, 3\)"),
        ((), (1,), r"a sum over axis 0 is missing"),
        ((3, 2), (2, 3), r"a gradient has the shape of its input"),
    ],
)
def test_a_gradient_of_the_wrong_shape_is_never_summed_away(shape, returned, message, create_graph):
    op = function(lambda ctx, x: x * 2, lambda ctx, g: (tg.ones(*returned) if create_graph else np.ones(returned)))
    x = tg.ones(shape, requires_grad=True)
    with pytest.raises(RuntimeError, match=message):
        op.apply(x).sum().backward(create_graph=create_graph)
    assert x.grad is None


@pytest.mark.parametrize("create_graph", [False, True])
def test_one_gradient_returned_twice_is_reported_for_the_input_it_does_not_fit(create_graph):
    op = function(lambda ctx, x, bias: x + bias, lambda ctx, g: (g, g))
    x, bias = tg.ones(3, 4, requires_grad=True), tg.ones(4, requires_grad=True)
    for arguments in ((x, bias), (2 * x, 2 * bias), (x.detach(), bias)):
        with pytest.raises(RuntimeError, match=r"the gradient for input 1 has shape \(3, 4\); expected \(4,\), .*: a sum over axis 0 is missing"):
            op.apply(*arguments).sum().backward(create_graph=create_graph)


def test_what_forward_and_backward_may_return():
    x = leaf(tg, 1.0, 2.0)
    for result, kind in (([1.0], "list"), (None, "NoneType"), ("a", "str"), (tg.ones(2), "Tensor"), ((np.ones(2), None), "NoneType")):
        with pytest.raises(TypeError, match=rf"Mine\.forward returned a {kind}; expected an array or a tuple of arrays"):
            function(lambda ctx, x, r=result: r, None).apply(x)
    for kind in (np.float16, np.int32, np.complex128, object):
        with pytest.raises(TypeError, match=r"element type .* is not supported"):
            function(lambda ctx, x, k=kind: x.astype(k), None).apply(x)
    for result, error, message in (
        ((np.ones(2), np.ones(2)), RuntimeError, "returned 2 gradients; expected 1"),
        ("a", TypeError, "returned a str for input 0"),
        ((), RuntimeError, "returned 0 gradients"),
    ):
        with pytest.raises(error, match=message):
            function(lambda ctx, x: x * 2, lambda ctx, g, r=result: r).apply(x).sum().backward()
    with pytest.raises(RuntimeError, match="must define forward"):
        type("Empty", (tg.autograd.Function,), {}).apply(x)
    with pytest.raises(RuntimeError, match="must define backward"):
        type("Half", (tg.autograd.Function,), {"forward": lambda ctx, x: x * 2}).apply(x).sum().backward()
    assert x.grad is None
    op = function(lambda ctx, x: float(x.sum()), lambda ctx, g: [np.full(2, g)])  # numbers and lists of gradients are fine
    op.apply(x).backward()
    assert x.grad.tolist() == [1, 1]


def test_a_forward_that_hands_its_input_on_makes_a_view():
    for forward in (lambda ctx, x: x, lambda ctx, x: x[:1], lambda ctx, x: np.asarray(x)):
        op = function(forward, lambda ctx, g: g)
        x = tg.ones(2)
        y = op.apply(x)
        assert y._data is not x._data
        y.add_(1)
        assert x._version == 1
    x = leaf(tg, 1.0, 2.0)
    y = function(lambda ctx, a, b: b, lambda ctx, g: (None, g)).apply(x, x * 1)
    with pytest.raises(RuntimeError, match="view of a tensor in a graph"):
        y.add_(1)


def test_none_stops_the_gradient():
    op = function(lambda ctx, a, b: a * b, lambda ctx, g: (g, None))
    x, y = leaf(tg, 2.0), leaf(tg, 3.0)
    (op.apply(x, y * 1)).backward()
    assert x.grad.item() == 1
    assert y.grad is None


def test_graphs_can_be_walked_by_hand():
    x, w = leaf(tg, 1.0), leaf(tg, 2.0)
    y = x * w
    z = y.exp() + 1
    assert z.grad_fn.name == "AddBackward0"
    (inner, number), last = z.grad_fn.next_functions
    assert (inner.name, number, last) == ("ExpBackward0", 0, (None, 0))
    leaves = [node.variable for node, _ in inner.next_functions[0][0].next_functions]
    assert leaves[0] is x
    assert leaves[1] is w
    assert repr(inner).startswith("<ExpBackward0 object at 0x")


# -- Threads ---------------------------------------------------------------------------------------------------------------------------


def test_eight_threads():
    shared = tg.ones(4, dtype=tg.float64, requires_grad=True)
    failures = []

    def work(seed):
        try:
            rng = np.random.RandomState(seed)
            for _ in range(30):
                values = rng.standard_normal(4)
                x = leaf(tg, *values)
                y = x
                for _ in range(20):
                    y = (y * x.tanh() + shared * 2).sigmoid()
                (g, s) = tg.autograd.grad((y**2).sum(), [x, shared], create_graph=True)
                (h,) = tg.autograd.grad((g * s).sum(), x)
                reference = torch.tensor(values, requires_grad=True)
                one = torch.ones(4, dtype=torch.float64, requires_grad=True)
                z = reference
                for _ in range(20):
                    z = (z * reference.tanh() + one * 2).sigmoid()
                a, b = torch.autograd.grad((z**2).sum(), [reference, one], create_graph=True)
                expected = torch.autograd.grad((a * b).sum(), reference)[0].numpy()
                np.testing.assert_allclose(h.numpy(), expected, rtol=1e-9, atol=1e-14)
                with tg.no_grad():
                    assert not (x * 2).requires_grad
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
