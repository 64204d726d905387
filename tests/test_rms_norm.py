"""RMSNorm: against torch in values, gradients, errors and words; its kernels against their references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.nn.rms_norm import rms_norm_backward, rms_norm_forward
from tinygrad_norm.testing import compare_arrays

KINDS = {"float32": (np.float32, 3e-6), "float64": (np.float64, 1e-13)}


def run_both(x, shape, kind, weight=None, eps=None):
    """y, dx, dγ of ours and torch's."""
    out = []
    for lib in (tg, torch):
        tensors = [None if a is None else lib.tensor(np.asarray(a, kind), requires_grad=True) for a in (x, weight)]
        y = lib.nn.functional.rms_norm(tensors[0], shape, tensors[1], eps)
        y.backward(lib.tensor(np.asarray(np.cos(np.arange(y.numel())).reshape(y.shape), kind)))
        out.append([y.detach().numpy(), *(t.grad.numpy() for t in tensors if t is not None)])
    return out


@pytest.mark.parametrize("eps", [None, 1e-6, 0.3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "normalized"), [((32, 64), (64,)), ((7, 5, 3), (5, 3)), ((9,), (9,)), ((5, 1), (1,)), ((3000, 40), (40,))])
def test_against_torch(shape, normalized, kind, eps):
    dtype, tolerance = KINDS[kind]
    rng = np.random.RandomState(1)
    ours, theirs = run_both(rng.standard_normal(shape) * 2 + 1, normalized, dtype, rng.standard_normal(normalized), eps)
    for name, a, b in zip(("y", "dx", "dweight"), ours, theirs):
        if name == "dx" and normalized == (1,) and eps != 0.3:  # |x|/√(x² + eps): its slope is of the size of eps, what is left is rounding
            np.testing.assert_allclose(a, b, atol=1e-5 if kind == "float32" else 1e-14)
        else:
            assert compare_arrays(a, b) < tolerance, name


def test_eps_of_none_is_the_types_own():
    """At values as small as √eps it is half of the sum, so a wrong one would show."""
    for kind in KINDS.values():
        small = np.sqrt(np.finfo(kind[0]).eps)
        x = np.array([[3.0, -4.0, 1.0, 2.0]]) * small
        ours, theirs = run_both(x, (4,), kind[0], np.ones(4))
        for a, b in zip(ours, theirs):
            assert compare_arrays(a, b) < kind[1]
        assert abs(ours[0]).max() < 0.95 * 4 / np.sqrt(30 / 4)


def test_weight_is_optional_and_any_memory_layout():
    rng = np.random.RandomState(3)
    for base in (rng.standard_normal((5, 6)).T, rng.standard_normal((12, 10))[::2, ::2], np.broadcast_to(rng.standard_normal((1, 5)), (6, 5))):
        x = tg.Tensor(base, True)
        tg.nn.functional.rms_norm(x, (5,)).sum(0).pow(2).sum().backward()
        z = torch.tensor(np.array(base), requires_grad=True)
        torch.nn.functional.rms_norm(z, (5,)).sum(0).pow(2).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (0,), (4, 0)])
def test_empty(shape):
    norm = tg.nn.RMSNorm(shape[-1])
    x = tg.zeros(*shape, requires_grad=True)
    y = norm(x)
    (g,) = tg.autograd.grad(y.sum(), x, create_graph=True)
    g.sum().backward()
    assert tuple(y.shape) == shape == tuple(g.shape)
    assert norm.weight.grad.tolist() == [0.0] * shape[-1]


def test_zeros_nan_and_infinity_stay_in_their_row():
    x = np.array([[0.0, 0, 0], [1, np.nan, 2], [1, np.inf, 2], [1, 2, 3]])
    ours, theirs = run_both(x, (3,), np.float64, np.arange(1.0, 4))
    assert compare_arrays(ours[0], theirs[0]) < 1e-13
    assert ours[0][0].tolist() == [0, 0, 0]
    assert np.isfinite(ours[0][3]).all()


def test_a_large_mean_costs_nothing():
    rng = np.random.RandomState(4)
    x = (rng.standard_normal((64, 768)) + 1e4).astype(np.float32)
    exact = x.astype(np.float64) / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True))
    assert np.abs(tg.nn.functional.rms_norm(tg.from_numpy(x), (768,)).numpy() - exact).max() < 5e-7


def test_it_is_layer_norm_where_the_mean_is_zero():
    x = tg.randn(4, 6, dtype=tg.float64)
    x = x - x.mean(1, keepdim=True)
    rms, layer = tg.nn.functional.rms_norm(x, (6,), eps=1e-5), tg.nn.functional.layer_norm(x, (6,))
    assert compare_arrays(rms.numpy(), layer.numpy()) < 1e-14


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 70), st.sampled_from(["float32", "float64"]), st.integers(0, 10**6), st.sampled_from([1e-5, 0.3]))
def test_kernel_is_its_reference_serial_and_parallel(rows, width, kind, seed, eps):
    dtype = np.dtype(kind).type
    rng = np.random.RandomState(seed)
    x, dy = ((rng.standard_normal((rows, width)) * 2 + 1).astype(dtype) for _ in range(2))
    weight = rng.standard_normal(width).astype(dtype)
    results = []
    for which in ("reference", "serial", "parallel"):
        y, scale = np.empty_like(x), np.empty(rows, dtype)
        getattr(rms_norm_forward, which)(x, weight, eps, y, scale)
        dx, dweight = np.empty_like(x), np.empty_like(weight)
        getattr(rms_norm_backward, which)(dy, x, weight, scale, dx, dweight, 2)
        results.append([y, dx, dweight, scale])
    bound = 1 + max(float(np.abs(a).max()) for a in results[0])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert np.abs(a - b).max() <= bound * (4e-6 if kind == "float32" else 1e-14)


def test_large_inputs_run_in_parallel_and_give_the_same_bits_each_time():
    x, dy = tg.randn(2700, 200), tg.randn(2700, 200)
    results = []
    for _ in range(3):
        norm, leaf = tg.nn.RMSNorm(200), x.clone().requires_grad_()
        norm(leaf).backward(dy)
        results.append((leaf.grad.numpy().tobytes(), norm.weight.grad.numpy().tobytes()))
    assert len(set(results)) == 1


def test_state_repr_and_defaults():
    for args, kwargs in [((5,), {}), (([2, 3],), {"eps": 1e-6}), ((4,), {"elementwise_affine": False}), (((3,),), {})]:
        ours, theirs = tg.nn.RMSNorm(*args, **kwargs), torch.nn.RMSNorm(*args, **kwargs)
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert ours.normalized_shape == theirs.normalized_shape
    norm = tg.nn.RMSNorm(3, dtype=tg.float64)
    assert norm.weight.dtype is tg.float64
    with tg.no_grad():
        norm.weight.fill_(7)
    norm.reset_parameters()
    assert norm.weight.tolist() == [1, 1, 1]


def test_third_order_raises():
    x = tg.randn(3, 4, dtype=tg.float64, requires_grad=True)
    y = tg.nn.functional.rms_norm(x, (4,)).pow(3).sum()
    for _ in range(2):
        (g,) = tg.autograd.grad(y, x, create_graph=True)
        y = (g * g).sum()
    with pytest.raises(RuntimeError, match="once differentiable"):
        tg.autograd.grad(y, x)


BAD = [
    (lambda lib: lib.nn.RMSNorm(5)(lib.ones(2, 4)), RuntimeError, r"Given normalized_shape=\[5\], expected input with shape \[\*"),
    (lambda lib: lib.nn.RMSNorm(2.5), TypeError, None),
    (lambda lib: lib.nn.RMSNorm(True), TypeError, None),
    (lambda lib: lib.nn.RMSNorm(-1), RuntimeError, None),
    (lambda lib: lib.nn.functional.rms_norm(lib.ones(2, 3), ()), RuntimeError, "at least 1-dimensional"),
    (lambda lib: lib.nn.functional.rms_norm(lib.ones(2, 3), 3), TypeError, r"rms_norm\(\): argument 'normalized_shape'"),
    (lambda lib: lib.nn.functional.rms_norm(lib.ones(2, 3), (3,), lib.ones(2)), RuntimeError, "Expected weight to be of same shape as normalized_shape"),
    (lambda lib: lib.nn.RMSNorm(3)(lib.ones(2, 3, dtype=lib.int64)), RuntimeError, None),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_errors_are_torchs(number):
    call, error, words = BAD[number]
    for lib in (torch, tg):
        with pytest.raises(error, match=words):
            call(lib)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tg.nn.RMSNorm([]), RuntimeError, "RMSNorm: normalized_shape must hold at least one length"),
        (lambda: tg.nn.RMSNorm(3, eps=-1.0), ValueError, "RMSNorm: eps"),
        (lambda: tg.nn.RMSNorm(3, eps="a"), TypeError, "RMSNorm: eps"),
        (lambda: tg.nn.RMSNorm(3)(tg.ones(2, 3, dtype=tg.float64)), RuntimeError, "rms_norm: mixed dtype: the input is torch.float64, weight is torch.float32"),
        (lambda: tg.nn.RMSNorm(3)([1.0, 2.0, 3.0]), TypeError, "expected a Tensor; got list"),
    ],
)
def test_errors_of_our_own(call, error, words):
    with pytest.raises(error, match=words):
        call()
