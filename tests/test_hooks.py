"""Hooks on tensors, and retained gradients, against torch."""

import warnings

import pytest
from test_autograd import both, leaf

import tinygrad_norm as tg


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
    with pytest.raises(RuntimeError, match=r"a hook must return None or a gradient of the same type and shape, torch\.float64 \[2\]; got torch\.float64 of shape \[1\]"):
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


def test_a_hook_keeps_the_type_and_may_register_another():
    for t in (leaf(tg, 1.0), leaf(tg, 1.0) * 1):
        for answer in (lambda g: g.float(), lambda g: g > 0):
            with t.register_hook(answer), pytest.raises(RuntimeError, match="of the same type"):
                (t * 1).backward()
    x, seen = leaf(tg, 1.0, 2.0), []
    a, b = (x * 2).split(1)
    a.register_hook(lambda g: b.register_hook(seen.append) and None)
    (a + b).sum().backward()
    assert x.grad.tolist() == [2, 2]
