"""Embedding and positions against torch: initial numbers, values, gradients of two orders, every option, errors."""

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm import nn
from tinygrad_norm.nn import embedding as room

OPTIONS = [{}, {"padding_idx": 1}, {"padding_idx": -1}, {"scale_grad_by_freq": True}, {"max_norm": 1.0}, {"max_norm": 0.7, "norm_type": 1.0}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_the_same_seed_gives_torchs_rows(options, kind):
    tg.manual_seed(2)
    torch.manual_seed(2)
    ours, theirs = nn.Embedding(7, 5, **options, dtype=getattr(tg, kind)), torch.nn.Embedding(7, 5, **options, dtype=getattr(torch, kind))
    # normal numbers of torch and NumPy agree to the last bits of the logarithm and cosine only
    np.testing.assert_allclose(ours.weight.detach().numpy(), theirs.weight.detach().numpy(), rtol=1e-6 if kind == "float32" else 1e-14)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.padding_idx == theirs.padding_idx


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", [(), (6,), (2, 9), (0, 3), (2, 3, 4)])
def test_values_gradients_and_rows_that_are_shortened(options, shape):
    rng = np.random.default_rng(0)
    w, i = rng.normal(size=(5, 3)), rng.integers(0, 5, shape)
    a, b = tg.tensor(w, requires_grad=True), torch.tensor(w, requires_grad=True)
    y = nn.functional.embedding(tg.tensor(i), a, **options)
    z = torch.nn.functional.embedding(torch.tensor(i), b, **options)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-14)
    dy = rng.normal(size=(*shape, 3))
    y.backward(tg.tensor(dy))
    z.backward(torch.tensor(dy))
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("options", [{}, {"padding_idx": 1}])
def test_the_gradient_of_the_gradient(options):
    rng = np.random.default_rng(0)
    w, i, dy, u = rng.normal(size=(4, 3)), rng.integers(0, 4, 9), rng.normal(size=(9, 3)), rng.normal(size=(4, 3))
    found = []
    for lib in (tg, torch):
        weight, g = lib.tensor(w, requires_grad=True), lib.tensor(dy, requires_grad=True)
        (dw,) = lib.autograd.grad(lib.nn.functional.embedding(lib.tensor(i), weight, **options), weight, g, create_graph=True)
        found.append(lib.autograd.grad((dw * lib.tensor(u)).sum(), g)[0].numpy())
    np.testing.assert_allclose(*found, rtol=1e-14)


def test_by_frequency_the_second_derivative_is_ours():
    """torch leaves the frequencies out there; dW is linear in dy, so doubling with the formula at hand tells who is right."""
    i, u = tg.tensor([0, 0, 1]), tg.tensor([[3.0], [5.0]], dtype=tg.float64)
    weight, g = tg.ones(2, 1, dtype=tg.float64, requires_grad=True), tg.ones(3, 1, dtype=tg.float64, requires_grad=True)
    (dw,) = tg.autograd.grad(nn.functional.embedding(i, weight, scale_grad_by_freq=True), weight, g, create_graph=True)
    assert tg.autograd.grad((dw * u).sum(), g)[0].tolist() == [[1.5], [1.5], [5.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "width", "symbols"), [(1, 1, 1), (50, 33, 7), (0, 4, 3), (2000, 64, 96)])
def test_the_kernel_against_its_reference(rows, width, symbols, dtype):
    rng = np.random.default_rng(1)
    index, dy = rng.integers(0, symbols, rows), rng.normal(size=(rows, width)).astype(dtype)
    share = rng.choice([0, 0.5, 1], rows).astype(dtype)
    outs = []
    for run, parts in ((room.put_rows.reference, 1), (room.put_rows.serial, 1), (room.put_rows.parallel, 2)):
        outs.append(np.full((symbols, width), np.nan, dtype))
        run(index, share, dy, parts, outs[-1])
    np.testing.assert_allclose(outs[1], outs[0], rtol=1e-5 if dtype is np.float32 else 1e-12, atol=1e-5 if dtype is np.float32 else 1e-13)
    np.testing.assert_array_equal(outs[1], outs[2])


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_the_padding_row_learns_nothing_from_an_infinite_gradient(backend):
    before = tg.get_backend()
    tg.set_backend(backend)
    try:
        grads = []
        for lib in (tg, torch):
            w = lib.ones(3, 2, requires_grad=True)
            lib.nn.functional.embedding(lib.tensor([1, 0, 1]), w, padding_idx=1).backward(lib.tensor([[float("nan"), float("inf")]] * 3))
            grads.append(w.grad.numpy())
    finally:
        tg.set_backend(before)
    np.testing.assert_array_equal(*grads)


def test_from_pretrained_and_the_padding_row():
    rows = tg.tensor([[1.0, 2.0], [3.0, 4.0]])
    layer = nn.Embedding.from_pretrained(rows)
    assert not layer.weight.requires_grad
    assert layer(tg.tensor([1])).tolist() == [[3.0, 4.0]]
    assert nn.Embedding.from_pretrained(rows, freeze=False).weight.requires_grad
    assert nn.Embedding(3, 2, padding_idx=0).weight[0].tolist() == [0.0, 0.0]


def test_indices_may_change_afterwards():
    i, w = tg.tensor([0, 1]), tg.ones(2, 1, requires_grad=True)
    y = nn.functional.embedding(i, w)
    i.fill_(0)
    y.sum().backward()
    assert w.grad.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda t: t.nn.Embedding(3, 4, padding_idx=3), AssertionError, "Padding_idx must be within num_embeddings"),
        (lambda t: t.nn.Embedding(3, 4, padding_idx=-4), AssertionError, "Padding_idx must be within num_embeddings"),
        (lambda t: t.nn.Embedding(3, 4)(t.tensor([3])), IndexError, "index out of range in self"),
        (lambda t: t.nn.Embedding(3, 4)(t.tensor([-1])), IndexError, "index out of range in self"),
        (lambda t: t.nn.Embedding(3, 4)(t.tensor([1.0])), RuntimeError, "Expected tensor for argument #1 'indices'"),
        (lambda t: t.nn.Embedding(-1, 4), RuntimeError, "negative"),
        (lambda t: t.nn.Embedding(2.5, 4), TypeError, "float"),
        (lambda t: t.nn.Embedding(3, 4, _weight=t.zeros(3, 3)), AssertionError, "Shape of weight does not match"),
        (lambda t: t.nn.Embedding.from_pretrained(t.zeros(3)), AssertionError, "expected to be 2-dimensional"),
        (lambda t: t.nn.functional.embedding(t.tensor([0]), t.zeros(3)), RuntimeError, "'weight' must be 2-D"),
    ],
)
def test_errors(wrong, error, words):
    for lib in (tg, torch):
        with pytest.raises(error, match=words):
            wrong(lib)


def test_there_are_no_sparse_gradients():
    with pytest.raises(NotImplementedError, match="no sparse tensors"):
        nn.Embedding(3, 4, sparse=True)


# -- Positions


def test_sinusoids_are_the_papers():
    table = nn.SinusoidalPositions(6, 50, dtype=tg.float64).table.numpy()
    for t in (0, 1, 7, 49):
        for k in range(3):
            angle = t / 10000 ** (2 * k / 6)
            np.testing.assert_allclose(table[t, 2 * k : 2 * k + 2], [np.sin(angle), np.cos(angle)], atol=1e-13)


def test_a_shift_is_a_rotation():
    """PE[t + s] from PE[t] by one matrix, the same for every t."""
    table = room.sinusoidal_positions(30, 8)
    turn, *_ = np.linalg.lstsq(table[:20], table[5:25], rcond=None)
    np.testing.assert_allclose(table[:25] @ turn, table[5:30], atol=1e-9)


@pytest.mark.parametrize("batch_first", [False, True])
def test_positions_are_added_along_time(batch_first):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 4))
    learned, fixed = nn.LearnedPositions(4, 9, batch_first).double(), nn.SinusoidalPositions(4, 9, batch_first).double()
    length = 5 if batch_first else 3
    for layer, rows in ((learned, learned.weight), (fixed, fixed.table)):
        part = rows.detach().numpy()[:length]
        expected = x + (part if batch_first else part[:, None])
        np.testing.assert_array_equal(layer(tg.tensor(x)).detach().numpy(), expected)
        np.testing.assert_array_equal(layer(tg.tensor(x[0])).detach().numpy(), x[0] + rows.detach().numpy()[:5])
    learned(tg.tensor(x)).sum().backward()
    count = 3 if batch_first else 5
    assert learned.weight.grad.tolist() == [[count] * 4] * length + [[0] * 4] * (9 - length)
    assert not fixed.state_dict()


def test_learned_positions_are_an_embedding_of_the_numbers():
    layer = nn.LearnedPositions(4, 9, batch_first=True).double()
    theirs = torch.nn.Embedding(9, 4, dtype=torch.float64)
    theirs.load_state_dict({"weight": torch.tensor(layer.weight.detach().numpy())})
    x = np.random.default_rng(0).normal(size=(2, 6, 4))
    y, z = layer(tg.tensor(x)), torch.tensor(x) + theirs(torch.arange(6))
    (y * y).sum().backward()
    (z * z).sum().backward()
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(layer.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-12)


def test_positions_that_do_not_fit():
    for layer in (nn.LearnedPositions(4, 3), nn.SinusoidalPositions(4, 3)):
        with pytest.raises(RuntimeError, match="the sequence has 5 positions; max_len is 3"):
            layer(tg.zeros(5, 1, 4))
        with pytest.raises(RuntimeError, match="expected input"):
            layer(tg.zeros(2, 1, 5))
    with pytest.raises(ValueError, match="d_model must be even"):
        nn.SinusoidalPositions(5)


def test_a_row_that_is_infinite_is_no_warning():
    weight = tg.tensor([[np.inf, 1.0], [3.0, 4.0]])
    y = nn.functional.embedding(tg.tensor([0, 1]), weight, max_norm=1.0)
    np.testing.assert_allclose(y.numpy(), [[np.nan, 0.0], [0.6, 0.8]], rtol=1e-6)
