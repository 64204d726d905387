"""Functions of one's own."""

import numpy as np
import pytest
from test_autograd import leaf

import tinygrad_norm as tg


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
