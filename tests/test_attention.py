"""Scaled dot-product attention against torch: values, gradients, masks of every shape, dropped weights, memory layouts, both orders."""

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm.autograd import gradcheck, gradgradcheck
from tinygrad_norm.nn import attention as room
from tinygrad_norm.nn.functional import scaled_dot_product_attention as attend
from tinygrad_norm.nn.softmax import is_double

EXACT = {"rtol": 1e-11, "atol": 1e-13}
theirs_attend = torch.nn.functional.scaled_dot_product_attention


def sample(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape) * 1.3 + 0.2


def weights_of(q, k, bias):
    return room.WeightsFunction.apply(q, k, bias, scale=0.5, causal=False)


def compare(arrays, mask=None, arrange=lambda t: t, **options):
    """Values and gradients in float64; arrange gives the inputs another layout in memory."""
    tg.manual_seed(0)
    torch.manual_seed(0)
    found = []
    for lib, function in ((tg, attend), (torch, theirs_attend)):
        leaves = [lib.tensor(a, requires_grad=True) for a in arrays]
        m = None if mask is None else lib.tensor(mask, requires_grad=mask.dtype.kind == "f")
        y = function(*[arrange(t) for t in leaves], m, **options)
        y.backward(lib.tensor(sample(*y.shape, seed=9)))
        found.append([y.detach().numpy(), *(t.grad.numpy() for t in [*leaves, *([m] if m is not None and m.requires_grad else [])])])
    for ours, theirs in zip(*found):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, **EXACT)
    assert tg.rand(1).item() == torch.rand(1).item()


SHAPES = [((5, 4), (6, 4), (6, 3)), ((2, 5, 4), (2, 6, 4), (2, 6, 3)), ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 4)), ((1, 1), (1, 1), (1, 1)), ((2, 3, 4), (2, 6, 4), (2, 6, 4))]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"dropout_p": 0.4}, {"dropout_p": 0.4, "is_causal": True}])
def test_against_torch(shapes, options):
    compare([sample(*s, seed=i) for i, s in enumerate(shapes)], **options)


@pytest.mark.parametrize("shape", [(5, 6), (2, 1, 5, 6), (2, 1, 1, 6), (1, 3, 1, 1), (1, 6), (5, 1), (2, 3, 5, 6)])
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_masks(shape, kind, dropout_p):
    arrays = [sample(2, 3, 5, 4), sample(2, 3, 6, 4, seed=1), sample(2, 3, 6, 4, seed=2)]
    rng = np.random.default_rng(3)
    compare(arrays, rng.random(shape) < 0.6 if kind == "bool" else rng.normal(size=shape), dropout_p=dropout_p)


@pytest.mark.parametrize("axes", [(0, 1, 3, 2), (2, 1, 0, 3), (1, 0, 2, 3), (3, 2, 1, 0)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_any_layout_in_memory(axes, is_causal):
    """matmul may answer in the order of its input's memory; the scores are then not rows."""
    inverse = np.argsort(axes)
    arrays = [np.ascontiguousarray(sample(2, 3, 5, 4, seed=i).transpose(axes)) for i in range(3)]
    compare(arrays, arrange=lambda t: t.permute(*inverse.tolist()), is_causal=is_causal)


def test_spaced_inputs_and_broadcast_heads():
    compare([sample(4, 5, 8, seed=i) for i in range(3)], arrange=lambda t: t[::2, :, ::2])
    compare([sample(2, 4, 5, 4), sample(2, 1, 6, 4), sample(2, 1, 6, 4, seed=1)])
    compare([sample(2, 4, 5, 4), sample(2, 2, 6, 4), sample(2, 2, 6, 4, seed=1)], enable_gqa=True)


@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_a_query_that_may_look_nowhere_gets_nothing(dropout_p):
    mask = np.array([[True, True, False], [False, False, False]])
    compare([sample(1, 1, 2, 4), sample(1, 1, 3, 4), sample(1, 1, 3, 4, seed=1)], mask, dropout_p=dropout_p)
    weights = weights_of(tg.tensor(sample(2, 4)), tg.tensor(sample(3, 4)), tg.tensor(np.where(mask, 0.0, -np.inf))).numpy()
    assert weights[1].tolist() == [0, 0, 0]
    np.testing.assert_allclose(weights[0].sum(), 1, rtol=1e-14)


def test_empty_inputs():
    assert attend(tg.zeros(0, 2, 5, 4), tg.zeros(0, 2, 6, 4), tg.zeros(0, 2, 6, 4)).shape == (0, 2, 5, 4)
    assert attend(tg.zeros(2, 0, 4), tg.zeros(2, 6, 4), tg.zeros(2, 6, 4)).shape == (2, 0, 4)
    assert attend(tg.zeros(2, 3, 4), tg.zeros(2, 0, 4), tg.zeros(2, 0, 4)).tolist() == [[[0.0] * 4] * 3] * 2


def test_nan_stays_in_its_query():
    q = sample(3, 4)
    q[1, 2] = np.nan
    y = attend(tg.tensor(q), tg.tensor(sample(5, 4)), tg.tensor(sample(5, 4))).numpy()
    assert np.isnan(y).all(axis=1).tolist() == [False, True, False]


def test_large_scores_do_not_overflow():
    x = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32)
    assert attend(tg.tensor(x), tg.tensor(x), tg.tensor(x)).tolist() == x.tolist()


@pytest.mark.parametrize("options", [{}, {"is_causal": True}])
def test_differences_of_two_orders(options):
    inputs = tuple(tg.tensor(sample(2, 4, 3, seed=i), requires_grad=True) for i in range(3))
    assert gradcheck(lambda q, k, v: attend(q, k, v, **options), inputs, atol=1e-8, rtol=1e-7)
    assert gradgradcheck(lambda q, k, v: attend(q, k, v, **options), inputs, atol=1e-8, rtol=1e-7)


def test_the_weights_alone_have_both_orders():
    q, k, m = (tg.tensor(sample(*s), requires_grad=True) for s in ((3, 4), (5, 4), (3, 5)))
    assert gradgradcheck(weights_of, (q, k, m), atol=1e-8, rtol=1e-7)


def test_a_third_order():
    """Written in operators, the recorded backward goes on: torch's math path agrees."""
    found = []
    for lib, function in ((tg, attend), (torch, theirs_attend)):
        x = lib.tensor(sample(4, 3), requires_grad=True)
        value = (function(x, x, x, is_causal=True) ** 2).sum()
        for _ in range(2):
            (g,) = lib.autograd.grad(value, x, create_graph=True)
            value = (g**2).sum()
        found.append(lib.autograd.grad(value, x)[0].numpy())
    np.testing.assert_allclose(*found, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("heads", "queries", "keys"), [(1, 1, 1), (3, 5, 7), (2, 7, 5), (3, 64, 64), (3, 4, 0)])
def test_kernels_against_their_references(heads, queries, keys, masked, causal, dtype):
    rng = np.random.default_rng(2)
    start = (rng.normal(size=(heads * queries, keys)) * 3).astype(dtype)
    bias = np.where(rng.random((queries, keys)) < 0.3, -np.inf, rng.normal(size=(queries, keys))).astype(dtype) if masked else None
    which = np.tile(np.arange(queries), heads) if masked else None
    tolerance = {"rtol": 2e-5, "atol": 1e-6} if dtype is np.float32 else {"rtol": 1e-11, "atol": 1e-14}
    outs, grads = [], []
    for way in ("reference", "serial", "parallel"):
        z, dp = start.copy(), (start * 0.5 + 1).astype(dtype)
        with np.errstate(all="ignore"):
            getattr(room.weigh, way)(z, dtype(0.5), bias, which, queries, causal, is_double(z))
        getattr(room.weigh_backward, way)(z, dp)
        outs.append(z)
        grads.append(dp)
    for results in (outs, grads):
        np.testing.assert_allclose(results[1], results[0], **tolerance)
        np.testing.assert_allclose(results[2], results[1], **tolerance)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda t, f: f(t.zeros(4), t.zeros(4), t.zeros(4)), "at least 2"),
        (lambda t, f: f(t.zeros(3, 4), t.zeros(2, 5), t.zeros(2, 4)), "cannot be multiplied"),
        (lambda t, f: f(t.zeros(3, 4), t.zeros(2, 4), t.zeros(3, 4)), "cannot be multiplied"),
        (lambda t, f: f(t.zeros(3, 4), t.zeros(2, 4, dtype=t.float64), t.zeros(2, 4)), "to have the same"),
        (lambda t, f: f(t.zeros(3, 4), t.zeros(2, 4), t.zeros(2, 4), t.zeros(3, 2, dtype=t.int64)), "Expected attn_mask dtype to be bool or"),
        (lambda t, f: f(t.zeros(3, 4), t.zeros(2, 4), t.zeros(2, 4), t.zeros(3, 2, dtype=t.float64)), "Expected attn_mask dtype to be bool or"),
        (lambda t, f: f(t.zeros(3, 4), t.zeros(2, 4), t.zeros(2, 4), t.zeros(3, 3)), "attn_mask|must match"),
        (lambda t, f: f(t.zeros(1, 4, 3, 4), t.zeros(1, 3, 2, 4), t.zeros(1, 3, 2, 4), enable_gqa=True), "Number of heads in key and value must divide"),
    ],
)
def test_errors(wrong, words):
    for lib, function in ((tg, attend), (torch, theirs_attend)):
        with pytest.raises(RuntimeError, match=words):
            wrong(lib, function)


def test_errors_of_our_own():
    x = tg.zeros(3, 4)
    with pytest.raises(RuntimeError, match="Explicit attn_mask should not be set when is_causal=True"):
        attend(x, x, x, tg.zeros(3, 3), is_causal=True)
    with pytest.raises(ValueError, match="between 0 and 1"):
        attend(x, x, x, dropout_p=1.5)
    with pytest.raises(RuntimeError, match="the axes in front"):
        attend(tg.zeros(2, 3, 4), tg.zeros(3, 3, 4), tg.zeros(3, 3, 4))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_no_keys_at_all(backend):
    """A mask over nothing: the weighted mean of no values is 0, and nobody learns from it."""
    before = tg.get_backend()
    tg.set_backend(backend)
    try:
        for lib in (tg, torch):
            q, k, v = lib.ones(2, 3, 4, requires_grad=True), lib.ones(2, 0, 4, requires_grad=True), lib.ones(2, 0, 5, requires_grad=True)
            for mask in (None, lib.zeros(3, 0), lib.ones(2, 3, 0, dtype=lib.bool)):
                y = lib.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
                assert y.shape == (2, 3, 5) and not y.any()
                y.sum().backward()
                assert not q.grad.any() and k.grad.shape == (2, 0, 4)
            layer = lib.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            assert layer(lib.ones(2, 0, 4), src_mask=lib.zeros(0, 0)).shape == (2, 0, 4)
    finally:
        tg.set_backend(before)


def test_overflow_is_no_warning():
    """Here as in torch, infinity is an answer (a warning fails a test of this project)."""
    q = tg.tensor([[1e30, 1.0]], requires_grad=True)
    y = attend(q, q, tg.tensor([[3e38, 3e38]]) * tg.ones(1, 2))
    y.sum().backward()
    assert np.isnan(y.detach().numpy()).all()
