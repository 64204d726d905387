"""Dropout against torch: the same elements from the same seed in every memory layout, gradients, the ends of p, errors."""

import itertools

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm.nn import functional as F


def both(x, y, p, **options):
    tg.manual_seed(1)
    torch.manual_seed(1)
    ours, theirs = F.dropout(x, p, **options), torch.nn.functional.dropout(y, p, **options)
    assert tg.rand(1).item() == torch.rand(1).item()
    return ours, theirs


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 3, 4), (0, 3), (500, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_seed_drops_the_same_elements(shape, p, dtype):
    values = np.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    a, b = tg.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    y, z = both(a, b, p)
    np.testing.assert_array_equal(y.detach().numpy(), z.detach().numpy())
    assert y.dtype is a.dtype
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_the_mask_is_drawn_in_the_order_of_memory(axes):
    values = np.random.default_rng(0).normal(size=(3, 4, 5))
    y, z = both(tg.tensor(values).permute(axes), torch.tensor(values).permute(axes), 0.4)
    np.testing.assert_array_equal(y.numpy(), z.numpy())
    y, z = both(tg.tensor(values)[:, 1:3].permute(axes), torch.tensor(values)[:, 1:3].permute(axes), 0.4)
    np.testing.assert_array_equal(y.numpy(), z.numpy())


def test_a_mask_is_kept_for_the_second_derivative():
    x = tg.ones(6, dtype=tg.float64, requires_grad=True)
    tg.manual_seed(0)
    y = F.dropout(x * x, 0.5)
    (dx,) = tg.autograd.grad(y.sum(), x, create_graph=True)
    np.testing.assert_array_equal(dx.detach().numpy(), 2 * y.detach().numpy())
    (second,) = tg.autograd.grad(dx.sum(), x)
    np.testing.assert_array_equal(second.numpy(), 2 * y.detach().numpy())


def test_evaluation_is_the_input_itself_and_draws_nothing():
    layer, x = tg.nn.Dropout(0.5), tg.ones(3)
    assert layer.eval()(x) is x
    assert layer.train()(x) is not x
    assert F.dropout(tg.tensor([1, 2]), 0.5, False).tolist() == [1, 2]


def test_the_mean_stays():
    y = F.dropout(tg.ones(200_000), 0.2)
    assert abs(y.mean().item() - 1) < 0.005
    assert set(np.unique(y.numpy()).tolist()) == {0.0, 1.25}


def test_in_place_and_names():
    x = tg.ones(8)
    tg.manual_seed(0)
    assert F.dropout(x, 0.5, inplace=True) is x
    assert sorted(set(x.tolist())) == [0.0, 2.0]
    assert repr(tg.nn.Dropout(0.1, True)) == repr(torch.nn.Dropout(0.1, True))
    w = tg.ones(2, requires_grad=True)
    assert F.dropout(w, 0.5).grad_fn.name == torch.nn.functional.dropout(torch.ones(2, requires_grad=True), 0.5).grad_fn.name()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        F.dropout(w, 0.5, inplace=True)


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_probability_outside_is_refused(p):
    for lib in (tg, torch):
        with pytest.raises(ValueError, match=f"between 0 and 1, but got {p}"):
            lib.nn.functional.dropout(lib.ones(2), p)
        with pytest.raises(ValueError, match="between 0 and 1"):
            lib.nn.Dropout(p)


def test_errors():
    with pytest.raises(ValueError, match="between 0 and 1, but got nan"):
        tg.nn.Dropout(float("nan"))
    with pytest.raises(TypeError, match="has to be a number; got str"):
        tg.nn.Dropout("0.5")
    with pytest.raises(RuntimeError, match="must be floating point"):
        F.dropout(tg.tensor([1, 2]), 0.5)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("look", [lambda t: t, lambda t: t.permute(2, 0, 1), lambda t: t[:, ::2].transpose(0, 2), lambda t: t.transpose(0, 1)[1:], lambda t: t[:, :1].expand(4, 3, 5)], ids=range(5))  # fmt: skip
def test_which_are_dropped_at_every_layout_of_memory(look, inplace):
    kept = []
    for lib in (tg, torch):
        lib.manual_seed(2)
        x = look(lib.ones(4, 3, 5))
        if inplace:
            x = x.requires_grad_() * 1
        kept.append(lib.nn.functional.dropout(x, 0.4, inplace=inplace).tolist())
    assert kept[0] == kept[1]
