"""LayerNorm: against torch in values, gradients, buffers, errors and words; its kernels against their references."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.nn.layer_norm import layer_norm_backward, layer_norm_forward
from tinygrad_norm.testing import compare_arrays

KINDS = {"float32": (np.float32, 3e-6), "float64": (np.float64, 1e-13)}


def run_both(x, shape, kind, weight=None, bias=None, eps=1e-5, dy=None):
    """y, dx, dγ, dβ of ours and torch's."""
    out = []
    for lib in (tg, torch):
        tensors = [None if a is None else lib.tensor(np.asarray(a, kind), requires_grad=True) for a in (x, weight, bias)]
        y = lib.nn.functional.layer_norm(tensors[0], shape, tensors[1], tensors[2], eps)
        y.backward(lib.tensor(np.asarray(dy if dy is not None else np.cos(np.arange(y.numel())).reshape(y.shape), kind)))
        out.append([y.detach().numpy(), *(t.grad.numpy() for t in tensors if t is not None)])
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "normalized"),
    [((32, 64), (64,)), ((9, 20), (20,)), ((7, 5, 3), (3,)), ((7, 5, 3), (5, 3)), ((2, 3, 4, 5), (3, 4, 5)), ((9,), (9,)), ((5, 1), (1,)), ((3000, 40), (40,))],
)
def test_against_torch(shape, normalized, kind):
    dtype, tolerance = KINDS[kind]
    rng = np.random.RandomState(1)
    x = rng.standard_normal(shape) * 2 + 1
    for ours, theirs in zip(*run_both(x, normalized, dtype, rng.standard_normal(normalized), rng.standard_normal(normalized))):
        if shape[-1] == 1:  # everything is 0 there but for rounding, so relative says nothing
            np.testing.assert_allclose(ours, theirs, atol=1e-2 if kind == "float32" else 1e-10)
        else:
            assert compare_arrays(ours, theirs) < tolerance


@pytest.mark.parametrize("parts", [(False, False), (True, False), (False, True)])
def test_weight_and_bias_are_optional(parts):
    rng = np.random.RandomState(2)
    x, w, b = rng.standard_normal((6, 5)), rng.standard_normal(5), rng.standard_normal(5)
    for ours, theirs in zip(*run_both(x, (5,), np.float64, w if parts[0] else None, b if parts[1] else None)):
        assert compare_arrays(ours, theirs) < 1e-13


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded", "read-only"])
def test_any_memory_layout(layout):
    rng = np.random.RandomState(3)
    base = {
        "transposed": lambda: rng.standard_normal((5, 6)).T,
        "strided": lambda: rng.standard_normal((12, 10))[::2, ::2],
        "expanded": lambda: np.broadcast_to(rng.standard_normal((1, 5)), (6, 5)),
        "read-only": lambda: np.broadcast_to(rng.standard_normal((6, 5)), (6, 5)),
    }[layout]()
    x = tg.from_numpy(base) if layout != "read-only" else tg.Tensor(base)
    x.requires_grad = True
    norm = tg.nn.LayerNorm(5, dtype=tg.float64)
    y = norm(x)
    y.sum(0).pow(2).sum().backward()  # an upstream gradient that is a broadcast view
    z = torch.tensor(np.array(base), requires_grad=True)
    torch.nn.functional.layer_norm(z, (5,)).sum(0).pow(2).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (0,), (4, 0)])
def test_empty(shape):
    for lib in (tg, torch):
        norm = lib.nn.LayerNorm(shape[-1])
        x = lib.zeros(*shape, requires_grad=True)
        y = norm(x)
        y.sum().backward()
        assert tuple(y.shape) == shape == tuple(x.grad.shape)
        assert norm.weight.grad.tolist() == norm.bias.grad.tolist() == [0.0] * shape[-1]
        dx, dweight = lib.autograd.grad(norm(x).sum(), [x, norm.weight], create_graph=True)
        second = lib.autograd.grad((dx**2).sum() + (dweight**2).sum(), [x, norm.weight], allow_unused=True)
        assert tuple(second[0].shape) == shape


def test_constant_rows_nan_and_eps():
    x = np.ones((3, 4))
    x[1] = [1, np.nan, 2, 3]
    x[2] = [1, 2, 3, 4]
    ours, theirs = run_both(x, (4,), np.float64, np.arange(1.0, 5), np.arange(4.0))
    assert compare_arrays(ours[0], theirs[0]) < 1e-13
    assert ours[0][0].tolist() == [0, 1, 2, 3]  # a constant row gives β
    assert np.isnan(ours[0][1]).all()
    assert not np.isnan(ours[0][2]).any()  # NaN poisons its own row only
    assert np.isnan(tg.nn.functional.layer_norm(tg.ones(2, 3), (3,), eps=0.0).numpy()).all()
    infinite = tg.nn.functional.layer_norm(tg.tensor([[1.0, float("inf"), 2.0]]), (3,))
    assert np.isnan(infinite.numpy()).all()


@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_large_mean_keeps_the_variance(mean):
    rng = np.random.RandomState(4)
    x = (rng.standard_normal((64, 768)) + mean).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + 1e-5)
    ours = tg.nn.functional.layer_norm(tg.from_numpy(x), (768,)).numpy()
    theirs = torch.nn.functional.layer_norm(torch.from_numpy(x), (768,)).numpy()
    error, torch_error = np.abs(ours - exact).max(), np.abs(theirs - exact).max()
    assert error < 2e-6
    assert error <= torch_error / (100 if mean == 1e4 else 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 70), st.sampled_from(["float32", "float64"]), st.integers(0, 10**6), st.sampled_from([1e-5, 0.3]))
def test_kernel_is_its_reference_serial_and_parallel(rows, width, kind, seed, eps):
    dtype = np.dtype(kind).type
    rng = np.random.RandomState(seed)
    x, dy = ((rng.standard_normal((rows, width)) * 2 + 1).astype(dtype) for _ in range(2))
    weight, bias = (rng.standard_normal(width).astype(dtype) for _ in range(2))
    results = []
    for which in ("reference", "serial", "parallel"):
        y, stats = np.empty_like(x), np.empty((rows, 3), dtype)
        getattr(layer_norm_forward, which)(x, weight, bias, eps, y, stats)
        dx, dweight, dbias = np.empty_like(x), np.empty_like(weight), np.empty_like(bias)
        getattr(layer_norm_backward, which)(dy, x, weight, stats, dx, dweight, dbias, 2)
        results.append([y, dx, dweight, dbias, stats[:, 2]])
    scale = 1 + max(float(np.abs(a).max()) for a in results[0])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert np.abs(a - b).max() <= scale * (4e-6 if kind == "float32" else 1e-14)
    for a, b in zip(results[1], results[2]):
        np.testing.assert_allclose(a, b, rtol=0, atol=scale * np.finfo(dtype).eps * 4)


def test_state_repr_and_defaults():
    for args, kwargs in [((5,), {}), (([2, 3],), {"eps": 1e-6, "bias": False}), ((4,), {"elementwise_affine": False}), (((3,),), {})]:
        ours, theirs = tg.nn.LayerNorm(*args, **kwargs), torch.nn.LayerNorm(*args, **kwargs)
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert ours.normalized_shape == theirs.normalized_shape
        for name, value in ours.state_dict().items():
            assert value.tolist() == theirs.state_dict()[name].tolist()
    assert tg.nn.LayerNorm(3, bias=False).bias is None
    assert tg.nn.LayerNorm(3, dtype=tg.float64).weight.dtype is tg.float64
    norm = tg.nn.LayerNorm(3)
    with tg.no_grad():
        norm.weight.fill_(7)
    norm.reset_parameters()
    assert norm.weight.tolist() == [1, 1, 1]
    assert copy.deepcopy(norm).weight is not norm.weight


def test_gradients_reach_only_what_asks():
    x = tg.randn(3, 4)
    norm = tg.nn.LayerNorm(4)
    norm.weight.requires_grad = False
    norm(x).sum().backward()
    assert norm.weight.grad is None
    assert x.grad is None
    assert norm.bias.grad.tolist() == [3, 3, 3, 3]


def test_third_order_raises():
    x = tg.randn(3, 4, dtype=tg.float64, requires_grad=True)
    y = tg.nn.functional.layer_norm(x, (4,)).pow(3).sum()
    for _ in range(2):
        (g,) = tg.autograd.grad(y, x, create_graph=True)
        y = (g * g).sum()
    with pytest.raises(RuntimeError, match="once differentiable"):
        tg.autograd.grad(y, x)


BAD = [
    (lambda lib: lib.nn.LayerNorm(5)(lib.ones(2, 4)), RuntimeError, r"Given normalized_shape=\[5\], expected input with shape \[\*, 5\]"),
    (lambda lib: lib.nn.LayerNorm([2, 3])(lib.ones(3)), RuntimeError, r"expected input with shape \[\*, 2, 3\]"),
    (lambda lib: lib.nn.LayerNorm(2.5), TypeError, None),
    (lambda lib: lib.nn.LayerNorm("3"), TypeError, None),
    (lambda lib: lib.nn.LayerNorm(-1), RuntimeError, None),
    (lambda lib: lib.nn.functional.layer_norm(lib.ones(2, 3), ()), RuntimeError, "at least 1-dimensional"),
    (lambda lib: lib.nn.functional.layer_norm(lib.ones(2, 3), 3), TypeError, "normalized_shape"),
    (lambda lib: lib.nn.functional.layer_norm(lib.ones(2, 3), (3,), lib.ones(2)), RuntimeError, "Expected weight to be of same shape as normalized_shape"),
    (lambda lib: lib.nn.functional.layer_norm(lib.ones(2, 3), (3,), None, lib.ones(2)), RuntimeError, "Expected bias to be of same shape"),
    (lambda lib: lib.nn.LayerNorm(3)(lib.ones(2, 3, dtype=lib.float64)), RuntimeError, "mixed dtype|expected scalar type"),
    (lambda lib: lib.nn.LayerNorm(3)(lib.ones(2, 3, dtype=lib.int64)), RuntimeError, None),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_errors_are_torchs(number):
    call, error, words = BAD[number]
    with pytest.raises(error, match=words):
        call(torch)
    with pytest.raises(error, match=words):
        call(tg)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tg.nn.LayerNorm([]), RuntimeError, "at least one length"),
        (lambda: tg.nn.LayerNorm(True), TypeError, "normalized_shape"),
        (lambda: tg.nn.LayerNorm(3, eps=-1.0), ValueError, "eps"),
        (lambda: tg.nn.LayerNorm(3, eps="a"), TypeError, "eps"),
        (lambda: tg.nn.LayerNorm(3, dtype=tg.int64), TypeError, "floating point"),
        (lambda: tg.nn.LayerNorm(3, device="cuda"), RuntimeError, "cpu"),
        (lambda: tg.nn.LayerNorm(3)([1.0, 2.0, 3.0]), TypeError, "expected a Tensor; got list"),
    ],
)
def test_errors_of_our_own(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_lengths_are_integers(name):
    for lib in (tg, torch):
        for shape in ((3.0,), (True,), ("3",)):
            with pytest.raises(TypeError, match="must be tuple of ints"):
                getattr(lib.nn.functional, name)(lib.ones(2, 3 if shape != (True,) else 1), shape)
    assert tg.nn.functional.layer_norm(tg.ones(2, 3), [np.int64(3)]).shape == (2, 3)


def test_constant_rows_are_beta_whatever_they_hold():
    for v in np.linspace(1e4, 2e4, 40).astype(np.float32):
        for width in (20, 768):
            x = tg.from_numpy(np.full((2, width), v))
            assert np.isfinite(tg.nn.functional.layer_norm(x, (width,), eps=1e-12).numpy()).all()
            assert np.isfinite(tg.nn.functional.masked_layer_norm(x, x > 0, (width,), eps=1e-12).numpy()).all()
