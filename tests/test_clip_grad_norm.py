"""clip_grad_norm_ against torch."""

import math
import warnings

import numpy as np
import pytest
import torch
from test_optim import TYPES, leaf, torch_leaf

from tinygrad_norm.nn import utils as nn_utils
from tinygrad_norm.tensor import Tensor


def with_grads(grads):
    ours, theirs = [], []
    for g in grads:
        g = np.asarray(g)
        ours.append(Tensor(np.zeros_like(g), True))
        theirs.append(torch.zeros(g.shape, dtype=torch.from_numpy(g.copy()).dtype, requires_grad=True))
        ours[-1].grad, theirs[-1].grad = Tensor(g), torch.from_numpy(g.copy())
    return ours, theirs


@pytest.mark.parametrize("norm_type", [2, 2.0, 1, 3, 0.5, 0, math.inf, "inf", -math.inf, -1])
@pytest.mark.parametrize("max_norm", [0, 0.5, 1e9, math.inf])
@pytest.mark.parametrize("kind", TYPES)
def test_clip_grad_norm_as_torch(norm_type, max_norm, kind):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(s).astype(kind) for s in ((3, 4), (5,), ())] + [rng.standard_normal((6, 4)).astype(kind).T[::2]]
    ours, theirs = with_grads(grads)
    ours.append(leaf())
    theirs.append(torch_leaf())
    total = nn_utils.clip_grad_norm_(iter(ours), max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(iter(theirs), max_norm, norm_type)
    eps = np.finfo(kind).eps
    assert total._data.dtype == kind
    assert total.shape == ()
    assert not total.requires_grad
    np.testing.assert_allclose(total._data, expected.numpy(), rtol=8 * eps)
    for p, q in zip(ours[:-1], theirs):
        np.testing.assert_allclose(p.grad._data, q.grad.numpy(), rtol=16 * eps)
    assert ours[-1].grad is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clip_grad_norm_that_is_not_finite(bad):
    ours, theirs = with_grads([np.array([1.0, bad]), np.array([2.0])])
    for params, clip in ((ours, nn_utils.clip_grad_norm_), (theirs, torch.nn.utils.clip_grad_norm_)):
        with pytest.raises(RuntimeError, match=r"The total norm of order 2\.0 for gradients from `parameters` is non-finite"):
            clip(params, 1.0, error_if_nonfinite=True)
        assert params[1].grad.tolist() == [2.0] if isinstance(params[1], torch.Tensor) else params[1].grad._data == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        total = nn_utils.clip_grad_norm_(ours, 1.0)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    np.testing.assert_array_equal(total._data, expected.numpy())
    for p, q in zip(ours, theirs):
        np.testing.assert_array_equal(p.grad._data, q.grad.numpy())


def test_clip_grad_norm_of_nothing_and_of_one_tensor():
    assert nn_utils.clip_grad_norm_(leaf(), 1.0)._data == 0
    assert nn_utils.clip_grad_norm_([], 1.0)._data.dtype == np.float32
    with pytest.warns(UserWarning, match="empty generator"):
        nn_utils.clip_grad_norm_((p for p in ()), 1.0)
    (p,), _ = with_grads([np.array([3.0, 4.0])])
    version = p.grad._version
    assert nn_utils.clip_grad_norm_(p, 10.0)._data == 5
    assert p.grad._data.tolist() == [3.0, 4.0]
    assert p.grad._version == version
    assert nn_utils.clip_grad_norm_(p, 1.0)._data == 5
    assert p.grad._version == version + 1
    np.testing.assert_allclose(p.grad._data, [0.6, 0.8], rtol=1e-6)
    (empty,), _ = with_grads([np.ones((0, 3))])
    assert nn_utils.clip_grad_norm_(empty, 1.0)._data == 0
    assert nn_utils.clip_grad_norm_(empty, 1.0, math.inf)._data == 0


@pytest.mark.parametrize("norm_type", [-math.inf, -2.0, -1.0, 0.0, 1.0, 2.0, math.inf])
def test_a_gradient_without_elements_adds_nothing_to_the_norm(norm_type):
    (p, empty), _ = with_grads([np.array([3.0, 4.0]), np.ones((0, 3))])
    both, alone = nn_utils.clip_grad_norm_([p, empty], 100.0, norm_type), nn_utils.clip_grad_norm_(p, 100.0, norm_type)
    assert both._data == alone._data


def test_clip_grad_norm_mixes_types_as_torch_and_does_not_overflow():
    ours, theirs = with_grads([np.array([3.0], np.float32), np.array([4.0])])
    total, expected = nn_utils.clip_grad_norm_(ours, 1.0), torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    assert total._data.dtype == np.float64
    assert total._data == expected.numpy() == 5
    for p, q in zip(ours, theirs):
        np.testing.assert_allclose(p.grad._data, q.grad.numpy(), rtol=1e-7)
        assert p.grad._data.dtype == p._data.dtype
    (p,), _ = with_grads([np.array([3e30, 4e30], np.float32)])
    assert nn_utils.clip_grad_norm_(p, 1.0)._data == np.float32(5e30)
    for max_norm in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm must be a number >= 0; got"):
            nn_utils.clip_grad_norm_(p, max_norm)


def test_clip_grad_norm_leaves_all_as_it_is_where_one_gradient_cannot_be_written():
    (p, q), _ = with_grads([np.array([3.0, 4.0]), np.broadcast_to(1.0, (2, 2))])
    with pytest.raises(RuntimeError, match=r"a gradient of shape \[2, 2\] cannot be written to"):
        nn_utils.clip_grad_norm_([p, q], 1.0)
    assert p.grad._data.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("kind", TYPES)
def test_sum_of_squares_kernel(kind):
    x = np.random.default_rng(0).standard_normal(10_007).astype(kind)
    expected = math.fsum(float(v) ** 2 for v in x)
    for run in (nn_utils.sum_of_squares.reference, nn_utils.sum_of_squares.serial, nn_utils.sum_of_squares.parallel):
        assert run(x) == pytest.approx(expected, rel=1e-13)
