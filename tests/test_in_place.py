"""Writing in place: in the graph, and to what the graph has saved."""

import numpy as np
import pytest
import torch
from test_autograd import both, leaf

import tinygrad_norm as tg

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


@both
def test_augmented_assignments_are_in_place(lib):
    p = lib.arange(3.0)
    q, mask = p, lib.tensor([True, False])
    both, either = mask, lib.tensor([True, False])
    q **= 2
    both &= lib.tensor([False, True])
    same = either
    same |= lib.tensor([False, True])
    assert (p.tolist(), mask.tolist(), either.tolist()) == ([0, 1, 4], [False, False], [True, True])
    leaf = lib.arange(3.0, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        leaf **= 2
    y = leaf * 2
    y.pow_(3).sum().backward()
    assert leaf.grad.tolist() == [0, 24, 96]
