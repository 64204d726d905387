"""Norms over a mask: padding changes nothing, whatever stands in it; kernels against their references; state and errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.nn.masked_norm import masked_layer_norm_backward, masked_layer_norm_forward
from tinygrad_norm.testing import compare_arrays

F = tg.nn.functional
LENGTHS = np.array([7, 3, 1, 5])


def padded(kind="float64", junk=np.nan, longest=9):
    """(N, T, D) sequences of LENGTHS, padded with junk; their mask (N, T)."""
    rng = np.random.RandomState(0)
    x = np.full((4, longest, 3), junk, kind)
    for n, length in enumerate(LENGTHS):
        x[n, :length] = rng.standard_normal((length, 3)) * 2 + 1
    return x, np.arange(longest) < LENGTHS[:, None]


# -- LayerNorm ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("junk", [0.0, 1e30, np.nan, np.inf])
def test_each_sequence_is_normalized_as_if_it_were_alone(junk, kind):
    """Values, dx, dγ, dβ: those of layer_norm on each sequence cut to its length, with the same γ and β."""
    x, mask = padded(kind, junk)
    rng = np.random.RandomState(1)
    weight, bias, dy = (rng.standard_normal(s).astype(kind) for s in ((9, 3), (9, 3), x.shape))
    dy[~mask] = junk  # what comes back to the padding is not read either
    leaf, w, b = (tg.tensor(a, requires_grad=True) for a in (x, weight, bias))
    y = F.masked_layer_norm(leaf, tg.tensor(mask)[:, :, None], (9, 3), w, b)
    y.backward(tg.tensor(dy))
    dweight, dbias = np.zeros((9, 3)), np.zeros((9, 3))
    tolerance = 1e-13 if kind == "float64" else 3e-6
    for n, t in enumerate(LENGTHS):
        one, v, c = (torch.tensor(a, requires_grad=True) for a in (x[n, :t], weight[:t], bias[:t]))
        alone = torch.nn.functional.layer_norm(one, (int(t), 3), v, c)
        alone.backward(torch.tensor(dy[n, :t]))
        assert compare_arrays(y.detach().numpy()[n, :t], alone.detach().numpy()) < tolerance
        assert compare_arrays(leaf.grad.numpy()[n, :t], one.grad.numpy()) < tolerance
        dweight[:t] += v.grad.numpy()
        dbias[:t] += c.grad.numpy()
    np.testing.assert_allclose(w.grad.numpy(), dweight, rtol=0, atol=10 * tolerance)
    np.testing.assert_allclose(b.grad.numpy(), dbias, rtol=0, atol=10 * tolerance)
    assert not y.detach().numpy()[~mask].any()
    assert not leaf.grad.numpy()[~mask].any()


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_more_padding_changes_nothing(kind):
    results = []
    for longest in (7, 8, 30):
        x, mask = padded(kind, longest=longest)
        leaf = tg.tensor(x, requires_grad=True)
        norm = tg.nn.MaskedLayerNorm((longest, 3), dtype=leaf.dtype)
        y = norm(leaf, tg.tensor(mask)[:, :, None])
        (y[:, :7] ** 3).sum().backward()
        results.append([y.detach().numpy()[:, :7], leaf.grad.numpy()[:, :7], norm.weight.grad.numpy()[:7], norm.bias.grad.numpy()[:7]])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert compare_arrays(np.ascontiguousarray(a), np.ascontiguousarray(b)) < (1e-14 if kind == "float64" else 2e-6)


def test_a_mask_of_all_is_layer_norm_and_one_of_none_is_zero():
    x, w, b = tg.randn(5, 8, dtype=tg.float64), tg.randn(8, dtype=tg.float64), tg.randn(8, dtype=tg.float64)
    every = tg.ones(5, 1, dtype=tg.bool)
    assert compare_arrays(F.masked_layer_norm(x, every, (8,), w, b).numpy(), F.layer_norm(x, (8,), w, b).numpy()) < 1e-14
    leaf = x.clone().requires_grad_()
    for eps in (1e-5, 0.0):
        y = F.masked_layer_norm(leaf, ~every, (8,), w, b, eps)
        (g,) = tg.autograd.grad(y.sum(), leaf, create_graph=True)
        (again,) = tg.autograd.grad((g * g).sum(), leaf)
        assert not (y.detach().numpy().any() or g.detach().numpy().any() or again.numpy().any())


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_second_derivatives_are_those_without_the_padding(eps):
    x, mask = padded()
    leaf = tg.tensor(x, requires_grad=True)
    weight = tg.randn(9, 3, dtype=tg.float64)
    y = F.masked_layer_norm(leaf, tg.tensor(mask)[:, :, None], (9, 3), weight, eps=eps)
    (g,) = tg.autograd.grad((y**3).sum(), leaf, create_graph=True)
    (again,) = tg.autograd.grad((g**2).sum(), leaf)
    assert not again.numpy()[~mask].any()
    for n, t in enumerate(LENGTHS):
        one = torch.tensor(x[n, :t], requires_grad=True)
        alone = torch.nn.functional.layer_norm(one, (int(t), 3), torch.tensor(weight.numpy()[:t]), eps=eps)
        (h,) = torch.autograd.grad((alone**3).sum(), one, create_graph=True)
        (exact,) = torch.autograd.grad((h**2).sum(), one)
        assert compare_arrays(again.numpy()[n, :t], exact.numpy()) < 1e-11


def test_large_mean_keeps_the_variance():
    rng = np.random.RandomState(4)
    x = (rng.standard_normal((64, 768)) + 1e4).astype(np.float32)
    mask = np.arange(768) < rng.randint(100, 769, 64)[:, None]
    exact = np.zeros(x.shape)
    for row, m, y in zip(x.astype(np.float64), mask, exact):
        y[m] = (row[m] - row[m].mean()) / np.sqrt(row[m].var() + 1e-5)
    ours = F.masked_layer_norm(tg.from_numpy(x), tg.from_numpy(mask), (768,)).numpy()
    assert np.abs(ours - exact).max() < 2e-6


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 70), st.sampled_from(["float32", "float64"]), st.integers(0, 10**6), st.sampled_from([1e-5, 0.3]), st.sampled_from([0.0, 0.5, 1.0]))
def test_kernel_is_its_reference_serial_and_parallel(rows, width, kind, seed, eps, share):
    dtype = np.dtype(kind).type
    rng = np.random.RandomState(seed)
    mask = rng.uniform(size=(rows, width)) < share
    x, dy = (np.where(mask, rng.standard_normal((rows, width)) * 2 + 1, np.nan).astype(dtype) for _ in range(2))
    weight, bias = (rng.standard_normal(width).astype(dtype) for _ in range(2))
    results = []
    for which in ("reference", "serial", "parallel"):
        y, stats = np.empty_like(x), np.empty((rows, 4), dtype)
        getattr(masked_layer_norm_forward, which)(x, mask, weight, bias, eps, y, stats)
        dx, dweight, dbias = np.empty_like(x), np.empty_like(weight), np.empty_like(bias)
        getattr(masked_layer_norm_backward, which)(dy, x, mask, weight, stats, dx, dweight, dbias, 2)
        results.append([y, dx, dweight, dbias, stats[:, 2:]])
    bound = 1 + max(float(np.abs(a).max()) for a in results[0])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert np.abs(a - b).max() <= bound * (4e-6 if kind == "float32" else 1e-14)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (4, 0)])
def test_empty(shape):
    norm = tg.nn.MaskedLayerNorm(shape[-1])
    x = tg.zeros(*shape, requires_grad=True)
    y = norm(x, tg.ones(*shape, dtype=tg.bool))
    (g,) = tg.autograd.grad(y.sum(), x, create_graph=True)
    g.sum().backward()
    assert tuple(y.shape) == shape
    assert norm.weight.grad.tolist() == [0.0] * shape[-1]


def test_the_mask_may_change_after_the_call():
    x, mask = tg.randn(3, 5, requires_grad=True), tg.ones(3, 5, dtype=tg.bool)
    mask[:, 3:] = False
    y = F.masked_layer_norm(x, mask, (5,))
    mask[...] = True
    y.pow(2).sum().backward()
    assert not x.grad[:, 3:].numpy().any()


# -- BatchNorm1d ------------------------------------------------------------------------------------------------------------------------------


def batch_of(x):
    return np.ascontiguousarray(x.transpose(0, 2, 1))


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str)
@pytest.mark.parametrize("junk", [0.0, np.nan])
def test_batch_norm_is_that_of_the_valid_positions(junk, options):
    x, mask = padded(junk=junk)
    ours, theirs = tg.nn.MaskedBatchNorm1d(3, dtype=tg.float64, **options), torch.nn.BatchNorm1d(3, dtype=torch.float64, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.RandomState(2)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        p._data[...] = rng.standard_normal(3)
        q.data[...] = torch.tensor(p.detach().numpy())
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        leaf, rows = tg.tensor(batch_of(x), requires_grad=True), torch.tensor(x[mask], requires_grad=True)
        y, alone = ours(leaf, tg.tensor(mask)), theirs(rows)
        (y**3).sum().backward()
        (alone**3).sum().backward()
        flat, grad = y.detach().numpy().transpose(0, 2, 1), leaf.grad.numpy().transpose(0, 2, 1)
        assert compare_arrays(flat[mask], alone.detach().numpy()) < 1e-13
        assert compare_arrays(grad[mask], rows.grad.numpy()) < 1e-12
        assert not (flat[~mask].any() or grad[~mask].any())
        for p, q in zip(ours.parameters(), theirs.parameters()):
            assert compare_arrays(p.grad.numpy(), q.grad.numpy()) < 1e-12
        for (name, a), b in zip(ours.named_buffers(), theirs.buffers()):
            assert compare_arrays(a.numpy(), b.numpy()) < 1e-13, name


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_more_padding_gives_the_same_bits(kind):
    results = set()
    for longest in (7, 8, 30):
        x, mask = padded(kind, longest=longest)
        norm, leaf = tg.nn.MaskedBatchNorm1d(3, dtype=getattr(tg, kind)), tg.tensor(batch_of(x), requires_grad=True)
        y = norm(leaf, tg.tensor(mask))
        (y**3).sum().backward()
        arrays = [y.detach().numpy()[:, :, :7], leaf.grad.numpy()[:, :, :7], norm.weight.grad.numpy(), norm.running_mean.numpy(), norm.running_var.numpy()]
        results.add(b"".join(a.tobytes() for a in arrays))
    assert len(results) == 1


def test_a_failed_call_changes_no_buffer():
    norm = tg.nn.MaskedBatchNorm1d(3)
    one = tg.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        norm(tg.ones(2, 3, 2), one)
    assert (norm.num_batches_tracked.item(), norm.running_mean.tolist()) == (0, [0, 0, 0])
    norm.eval()
    assert tuple(norm(tg.ones(2, 3, 2), one).shape) == (2, 3, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tg.nn.MaskedLayerNorm(5)(tg.ones(2, 5), tg.ones(2, 5)), TypeError, "mask must be of bool, True where an element counts; got torch.float32"),
        (lambda: tg.nn.MaskedLayerNorm(5)(tg.ones(2, 5), [True]), TypeError, "expected a Tensor; got list"),
        (lambda: tg.nn.MaskedLayerNorm(5)(tg.ones(2, 5), tg.ones(3, 5) > 0), RuntimeError, r"mask has shape \[3, 5\]; expected one that expands to \[2, 5\]"),
        (lambda: tg.nn.MaskedLayerNorm(4)(tg.ones(2, 5), tg.ones(2, 5) > 0), RuntimeError, r"Given normalized_shape=\[4\]"),
        (lambda: tg.nn.MaskedLayerNorm(5)(tg.ones(2, 5, dtype=tg.float64), tg.ones(2, 5) > 0), RuntimeError, "masked_layer_norm: mixed dtype"),
        (lambda: tg.nn.MaskedBatchNorm1d(3)(tg.ones(2, 3), tg.ones(2) > 0), ValueError, "expected 3D input"),
        (lambda: tg.nn.MaskedBatchNorm1d(3)(tg.ones(2, 3, 4), tg.ones(2, 3) > 0), RuntimeError, r"mask has shape \[2, 3\]; expected \[2, 4\]"),
        (lambda: tg.nn.MaskedBatchNorm1d(3)(tg.ones(2, 3, 4), tg.ones(2, 4)), TypeError, "mask must be of bool"),
        (lambda: tg.nn.MaskedBatchNorm1d(2)(tg.ones(2, 3, 4), tg.ones(2, 4) > 0), RuntimeError, "should contain 3 elements not 2"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_names_and_state_are_the_plain_layers():
    assert repr(tg.nn.MaskedLayerNorm(3)) == "MaskedLayerNorm((3,), eps=1e-05, elementwise_affine=True, bias=True)"
    tg.nn.MaskedLayerNorm(3).load_state_dict(tg.nn.LayerNorm(3).state_dict())
    tg.nn.MaskedBatchNorm1d(3).load_state_dict(tg.nn.BatchNorm1d(3).state_dict())
