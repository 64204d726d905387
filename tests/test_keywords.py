"""Arguments given by torch's names: what they do, as in torch."""

import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm.testing import compare_arrays

# x (2, 3) float32 that requires a gradient, i (2, 3) int64, b (2, 3) bool.
CALLS = [
    "x.sum(dtype=lib.float64)", "x.sum(0, True, dtype=lib.float64)", "lib.sum(x, dim=1, dtype=lib.float32)",
    "x.sum(axis=1, keepdims=True, dtype=lib.float64)", "x.sum(dtype=None)", "x.detach().sum(dtype=lib.int64)", "i.sum(dtype=lib.float32)",
    "i.sum(1, dtype=lib.bool)", "b.sum(dtype=lib.float64)", "b.sum(dim=0, dtype=lib.bool)", "x.mean(dtype=lib.float64)",
    "x.mean(1, True, dtype=lib.float64)", "lib.mean(i, dtype=lib.float64)", "i.mean(dim=0, dtype=lib.float32)", "b.mean(dtype=lib.float32)",
    "x.softmax(dim=0, dtype=lib.float64)", "lib.log_softmax(x, dim=1, dtype=lib.float64)", "i.softmax(1, dtype=lib.float32)",
    "x.reshape(shape=(3, 2))", "lib.reshape(input=x, shape=[-1])", "x.view(size=(3, -1))", "x.expand(size=(2, -1, 3))", "x.permute(dims=(1, 0))",
    "lib.permute(x, dims=[-1, 0])", "x.transpose(dim0=0, dim1=1)", "x.flatten(start_dim=0, end_dim=1)", "x.clone().copy_(other=x[:1])",
    "x.size(dim=1)", "lib.zeros_like(x, device='cpu')", "lib.ones_like(x, dtype=lib.int64, device='cpu')",
    "lib.full_like(x, fill_value=2, device='cpu', requires_grad=True)", "lib.rand_like(x, device='cpu')",
    "lib.randn_like(x, dtype=lib.float64, device='cpu')", "lib.randint_like(x, low=0, high=9, device='cpu', requires_grad=True)",
]  # fmt: skip

WRONG = [
    "x.reshape((3, 2), shape=(3, 2))", "x.view(3, 2, size=(3, 2))", "x.permute(1, 0, dims=(1, 0))", "x.expand(2, 3, size=(2, 3))",
    "x.sum(dtype=lib.sum)",
]  # fmt: skip


def outcome(lib, call):
    """What the call gives, and the gradient of x where it has one."""
    lib.manual_seed(0)
    x = lib.tensor([[1.0, -2.0, 3.5], [0.25, 16777216.0, 1.0]], requires_grad=True)
    out = eval(call, {"lib": lib, "x": x, "i": lib.arange(6).reshape(2, 3), "b": lib.tensor([[True, False, True], [True, True, False]])})
    if isinstance(out, int):
        return [out]
    if out.grad_fn is not None:
        out.backward(lib.ones(out.shape, dtype=out.dtype))
    return [str(out.dtype), out.requires_grad, tuple(out.shape), out.detach().numpy(), None if x.grad is None else x.grad.numpy()]


@pytest.mark.parametrize("call", CALLS)
def test_torchs_keywords(call):
    ours, theirs = outcome(tg, call), outcome(torch, call)
    assert ours[:3] == theirs[:3]
    for a, b in zip(ours[3:], theirs[3:]):
        assert (a is None) == (b is None)
        assert a is None or (a.dtype == b.dtype and compare_arrays(a, b) < 1e-6)


@pytest.mark.parametrize("call", WRONG)
def test_what_is_said_twice_or_is_no_type(call):
    for lib in (tg, torch):
        with pytest.raises((TypeError, RuntimeError)):
            outcome(lib, call)


def test_a_type_or_device_that_will_not_do():
    with pytest.raises(RuntimeError, match="could not infer output dtype"):
        tg.ones(2).mean(dtype=tg.int64)
    with pytest.raises(RuntimeError, match="the only device here is 'cpu'"):
        tg.zeros_like(tg.ones(2), device="cuda")
