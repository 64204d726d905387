"""Linear: against torch in values, gradients, initialisation, errors and words; its kernels against their references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.nn.linear import add_bias, sum_rows
from tinygrad_norm.testing import compare_arrays


@pytest.mark.parametrize("shape", [(5, 4), (4,), (2, 3, 4), (2, 3, 2, 4), (0, 4), (2, 0, 4), (300, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_against_torch(shape, bias):
    results = []
    rng = np.random.RandomState(0)
    x0, w0, b0 = rng.standard_normal(shape), rng.standard_normal((3, 4)), rng.standard_normal(3)
    for lib in (tg, torch):
        layer = lib.nn.Linear(4, 3, bias=bias, dtype=lib.float64)
        with lib.no_grad():
            layer.weight.copy_(lib.tensor(w0))
            if bias:
                layer.bias.copy_(lib.tensor(b0))
        x = lib.tensor(x0, requires_grad=True)
        y = layer(x)
        y.pow(2).sum().backward()
        results.append([y.detach().numpy(), x.grad.numpy(), *(p.grad.numpy() for p in layer.parameters())])
    for a, b in zip(*results):
        assert compare_arrays(a, b) < 1e-13


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize(("fan_in", "fan_out"), [(10, 20), (20, 2), (1, 1), (784, 512), (3, 5)])
def test_initialisation_is_torchs_to_the_bit(fan_in, fan_out, kind):
    for seed in (0, 7):
        tg.manual_seed(seed), torch.manual_seed(seed)
        ours, theirs = tg.nn.Linear(fan_in, fan_out, dtype=getattr(tg, kind)), torch.nn.Linear(fan_in, fan_out, dtype=getattr(torch, kind))
        assert np.array_equal(ours.weight.detach().numpy(), theirs.weight.detach().numpy())
        assert np.array_equal(ours.bias.detach().numpy(), theirs.bias.detach().numpy())
        assert repr(ours) == repr(theirs)
    assert repr(tg.nn.Linear(3, 4, bias=False)) == "Linear(in_features=3, out_features=4, bias=False)"
    assert list(tg.nn.Linear(3, 4).state_dict()) == ["weight", "bias"]


def test_no_layout_of_a_bias_compiles_a_kernel_anew():
    x, w, compiled = tg.ones(10, 4, dtype=tg.float64), tg.ones(3, 4, dtype=tg.float64), []
    for bias in (np.arange(3.0), np.arange(6.0)[::2], np.arange(3.0)[::-1], np.broadcast_to(2.0, 3)):
        assert (tg.nn.functional.linear(x, w, tg.Tensor(bias)).numpy() == 4 + bias).all()
        compiled.append(add_bias._serial and len(add_bias._serial.signatures))
    assert compiled == compiled[:1] * 4


def test_bias_may_be_anything_that_expands():
    x, w = np.ones((10, 4)), np.arange(12.0).reshape(3, 4)
    for b in (np.ones(()), np.ones(1), np.ones((1, 3)), np.ones((10, 3))):
        results = []
        for lib in (tg, torch):
            bias = lib.tensor(b, requires_grad=True)
            y = lib.nn.functional.linear(lib.tensor(x), lib.tensor(w), bias)
            y.sum().backward()
            results.append((y.detach().numpy(), bias.grad.numpy()))
        assert compare_arrays(results[0][0], results[1][0]) < 1e-14
        assert compare_arrays(results[0][1], results[1][1]) < 1e-14


def test_non_contiguous_and_partial_gradients():
    x = tg.randn(4, 6, dtype=tg.float64).T
    w = tg.randn(4, 3, dtype=tg.float64).T
    w.requires_grad = True
    y = tg.nn.functional.linear(x, w)
    y.sum(0).pow(2).sum().backward()
    expected = torch.tensor(w.detach().numpy().copy(), requires_grad=True)
    torch.nn.functional.linear(torch.tensor(x.numpy().copy()), expected).sum(0).pow(2).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), expected.grad.numpy(), rtol=1e-12)
    assert x.grad is None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 50), st.integers(1, 40), st.sampled_from(["float32", "float64"]), st.integers(1, 4), st.integers(0, 10**6))
def test_kernels_are_their_references(rows, width, kind, parts, seed):
    dtype = np.dtype(kind)
    rng = np.random.RandomState(seed)
    y, bias = rng.standard_normal((rows, width)).astype(dtype), rng.standard_normal(width).astype(dtype)
    results = []
    for which in ("reference", "serial", "parallel"):
        added, total = y.copy(), np.empty_like(bias)
        getattr(add_bias, which)(added, bias)
        getattr(sum_rows, which)(y, total, parts)
        results.append((added, total))
    for added, total in results[1:]:
        assert np.array_equal(added, results[0][0])
        np.testing.assert_allclose(total, results[0][1], atol=np.finfo(dtype).eps * rows * 4)


BAD = [
    (lambda lib: lib.nn.Linear(3, 4)(lib.ones(2, 5)), RuntimeError, "shapes cannot be multiplied"),
    (lambda lib: lib.nn.Linear(3, 4)(lib.ones(2, 3, dtype=lib.float64)), RuntimeError, "same dtype"),
    (lambda lib: lib.nn.Linear(3, 4)(lib.tensor(1.0)), RuntimeError, None),
    (lambda lib: lib.nn.Linear(2.5, 4), TypeError, None),
    (lambda lib: lib.nn.functional.linear(lib.ones(2, 3), lib.ones(4, 3), lib.ones(5)), RuntimeError, None),
    (lambda lib: lib.nn.functional.linear([1.0], lib.ones(4, 1)), TypeError, None),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_errors_are_torchs(number):
    call, error, words = BAD[number]
    for lib in (torch, tg):
        with pytest.raises(error, match=words):
            call(lib)


def test_overflow_and_infinity_are_answers_not_warnings():
    large, infinite = tg.full((3, 4), 3e38), tg.full((3, 4), math.inf)
    assert tg.nn.functional.linear(large, large).tolist() == [[math.inf] * 3] * 3
    assert all(math.isnan(v) for row in tg.nn.functional.linear(infinite, tg.zeros(2, 4)).tolist() for v in row)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (3, 1, 1), (1, 3, 1), (2, 2, 2)])
def test_zero_times_nan_is_nan_at_every_size(shape):
    """NumPy's dot takes a (1, 1) for a number, and leaves out the product with 0."""
    n, i, o = shape
    for bad in (math.nan, math.inf):
        for x, w in ((tg.zeros(n, i), tg.full((o, i), bad)), (tg.full((n, i), bad), tg.zeros(o, i))):
            assert tg.nn.functional.linear(x, w).isnan().all()
        x, w = tg.full((n, i), bad, requires_grad=True), tg.full((o, i), bad, requires_grad=True)
        dx, dw = tg.autograd.grad(tg.nn.functional.linear(x, w), [x, w], tg.zeros(n, o))
        assert dx.isnan().all()
        assert dw.isnan().all()


@pytest.mark.parametrize("shape", [(2, 3, 0), (0, 3, 0), (2, 0)])
@pytest.mark.parametrize("outputs", [0, 4])
def test_no_features(shape, outputs):
    """Sums of nothing: the bias alone, and gradients of zeros."""
    results = []
    for lib in (tg, torch):
        x, w = lib.zeros(shape, requires_grad=True), lib.zeros((outputs, shape[-1]), requires_grad=True)
        b = lib.arange(outputs).float().requires_grad_()
        y = lib.nn.functional.linear(x, w, b)
        y.backward(lib.ones(y.shape))
        results.append([v.detach().numpy().tolist() for v in (y, x.grad, w.grad, b.grad)])
    assert results[0] == results[1]


def test_bias_that_is_no_tensor():
    with pytest.raises(TypeError, match="linear: expected a Tensor; got ndarray"):
        tg.nn.functional.linear(tg.ones(1, 2), tg.ones(3, 2), np.ones(3, np.float32))
