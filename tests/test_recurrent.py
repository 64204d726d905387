"""Recurrent cells: against torch in values, gradients, initialisation and words; padded batches; the task that both LSTMs learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.nn.recurrent import memory_backward, memory_forward, tanh_of
from tinygrad_norm.testing import compare_arrays

CELLS = {
    "RNNCell": lambda lib, **kw: lib.nn.RNNCell(3, 5, **kw),
    "RNNCell relu": lambda lib, **kw: lib.nn.RNNCell(3, 5, nonlinearity="relu", **kw),
    "RNNCell no bias": lambda lib, **kw: lib.nn.RNNCell(3, 5, bias=False, **kw),
    "LSTMCell": lambda lib, **kw: lib.nn.LSTMCell(3, 5, **kw),
    "LSTMCell no bias": lambda lib, **kw: lib.nn.LSTMCell(3, 5, bias=False, **kw),
}
by_cell = pytest.mark.parametrize("name", CELLS)
OURS = [tg.nn.RNNCell, tg.nn.LSTMCell, tg.nn.LayerNormLSTMCell]
by_class = pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)


def same_cells(name, **kwargs):
    tg.manual_seed(3), torch.manual_seed(3)
    return CELLS[name](tg, **{k: getattr(tg, v) for k, v in kwargs.items()}), CELLS[name](torch, **{k: getattr(torch, v) for k, v in kwargs.items()})


@by_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_initialisation_state_and_repr_are_torchs(name, dtype):
    ours, theirs = same_cells(name, dtype=dtype)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert np.array_equal(ours.state_dict()[key].numpy(), value.numpy())
        assert ours.state_dict()[key].numpy().dtype == value.numpy().dtype


@by_cell
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [None, 0, 1, 7])
@pytest.mark.parametrize("given_state", [True, False])
def test_against_torch(name, dtype, rows, given_state):
    """Three steps, the last with inputs far out; the gradients of all inputs, states and parameters."""
    ours, theirs = same_cells(name, dtype=dtype)
    rng = np.random.RandomState(1)
    lead = () if rows is None else (rows,)
    x = [(rng.standard_normal((*lead, 3)) * scale).astype(dtype) for scale in (1, 1, 30)]
    start = [rng.standard_normal((*lead, 5)).astype(dtype) for _ in range(2 if "LSTM" in name else 1)]
    found = []
    for lib, cell in ((tg, ours), (torch, theirs)):
        steps, states = ([lib.tensor(a, requires_grad=True) for a in arrays] for arrays in (x, start))
        state = (tuple(states) if len(states) > 1 else states[0]) if given_state else None
        for step in steps:
            state = cell(step, state)
        outs = state if isinstance(state, tuple) else (state,)
        sum((o * o).sum() for o in outs).backward()
        leaves = [*steps, *(states if given_state else ()), *cell.parameters()]
        found.append([*(o.detach().numpy() for o in outs), *(t.grad.numpy() for t in leaves)])
    for a, b in zip(*found):
        assert compare_arrays(a, b) < (1e-5 if dtype == "float32" else 1e-13)  # 1 − h² of an h near 1 has few digits left


def layer_norm_lstm(lib, cell, x, h, c):
    """Ba et al. 2016, supplementary equations 20 to 22, from torch's parts."""
    p = dict(cell.named_parameters())
    norm = lib.nn.functional.layer_norm
    gates = norm(h @ p["weight_hh"].T, (20,), p["norm_hh.weight"], p["norm_hh.bias"])
    gates = gates + norm(x @ p["weight_ih"].T, (20,), p["norm_ih.weight"], p["norm_ih.bias"]) + p["bias_gates"]
    i, f, g, o = gates.chunk(4, 1)
    c = lib.sigmoid(f) * c + lib.sigmoid(i) * lib.tanh(g)
    return lib.sigmoid(o) * lib.tanh(norm(c, (5,), p["norm_cell.weight"], p["norm_cell.bias"])), c


def test_layer_norm_lstm_is_the_papers():
    cell = tg.nn.LayerNormLSTMCell(3, 5, dtype=tg.float64)
    rng = np.random.RandomState(2)
    with tg.no_grad():
        for p in cell.parameters():
            p.copy_(tg.from_numpy(rng.standard_normal(tuple(p.shape))))
    theirs = torch.nn.Module()
    for name, p in cell.named_parameters():
        theirs.register_parameter(name.replace(".", "_"), torch.nn.Parameter(torch.tensor(p.detach().numpy())))
    renamed = type("Named", (), {"named_parameters": lambda self: [(n, dict(theirs.named_parameters())[n.replace(".", "_")]) for n, _ in cell.named_parameters()]})()
    arrays = [rng.standard_normal((4, n)) for n in (3, 5, 5)]
    found = []
    for lib, step, parameters in (
        (tg, lambda x, h, c: cell(x, (h, c)), [p for _, p in cell.named_parameters()]),
        (torch, lambda x, h, c: layer_norm_lstm(torch, renamed, x, h, c), [p for _, p in renamed.named_parameters()]),
    ):
        leaves = [lib.tensor(a, requires_grad=True) for a in arrays]
        h, c = step(*leaves)
        h, c = step(leaves[0] * 2, h, c)
        (h.pow(2).sum() + c.sum()).backward()
        found.append([h.detach().numpy(), c.detach().numpy(), *(t.grad.numpy() for t in (*leaves, *parameters))])
    for a, b in zip(*found):
        assert compare_arrays(a, b) < 1e-12


def test_layer_norm_lstm_starts_as_the_lstm_does():
    tg.manual_seed(4)
    normed = tg.nn.LayerNormLSTMCell(3, 5)
    tg.manual_seed(4)
    plain = tg.nn.LSTMCell(3, 5)
    assert np.array_equal(normed.weight_ih.detach().numpy(), plain.weight_ih.detach().numpy())
    assert np.array_equal(normed.weight_hh.detach().numpy(), plain.weight_hh.detach().numpy())
    assert normed.bias_gates.tolist() == [0] * 20
    assert [n for n, _ in tg.nn.LayerNormLSTMCell(3, 5, bias=False).named_parameters()] == [
        "weight_ih", "weight_hh", "norm_hh.weight", "norm_ih.weight", "norm_cell.weight",
    ]  # fmt: skip
    assert repr(tg.nn.LayerNormLSTMCell(3, 5, eps=1e-3)).startswith("LayerNormLSTMCell(\n  3, 5, eps=0.001\n")
    with tg.no_grad():
        for p in normed.parameters():
            p.fill_(7)
    normed.reset_parameters()
    assert normed.norm_cell.weight.tolist() == [1] * 5 and normed.norm_cell.bias.tolist() == [0] * 5


def test_layer_norm_lstm_may_have_one_of_its_norms_replaced():
    cell = tg.nn.LayerNormLSTMCell(3, 5)
    cell.norm_cell = tg.nn.Identity()
    assert "(norm_cell): Identity()" in repr(cell)
    assert cell(tg.ones(2, 3))[0].shape == (2, 5)


def test_layer_norm_makes_the_scale_of_the_weights_not_matter():
    cell = tg.nn.LayerNormLSTMCell(3, 5, eps=0.0, dtype=tg.float64)
    x, state = tg.randn(4, 3, dtype=tg.float64), (tg.randn(4, 5, dtype=tg.float64), tg.randn(4, 5, dtype=tg.float64))
    before = cell(x, state)[0].detach().numpy()
    with tg.no_grad():
        cell.weight_ih.mul_(100)
        cell.weight_hh.mul_(0.01)
    np.testing.assert_allclose(cell(x, state)[0].detach().numpy(), before, rtol=1e-9)


@pytest.mark.parametrize("orders", [1, 2, 3])
def test_the_memory_has_derivatives_of_every_order(orders):
    rng = np.random.RandomState(5)
    arrays = [rng.standard_normal((3, 4)), rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), rng.standard_normal((8, 4)), rng.standard_normal((8, 2))]
    found = []
    for lib in (tg, torch):
        leaves = [lib.tensor(a, requires_grad=True) for a in arrays]
        h, c = lib.lstm_cell(leaves[0], leaves[1:3], *leaves[3:])
        total = h.pow(2).sum() + c.pow(3).sum()
        for _ in range(orders):
            grads = lib.autograd.grad(total, leaves, create_graph=True)
            total = sum((g * g).sum() for g in grads)
        found.append([g.detach().numpy() for g in grads])
    for a, b in zip(*found):
        assert compare_arrays(a, b) < 1e-11


@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from(["float32", "float64"]), st.sampled_from([0.1, 1, 20]), st.integers(0, 10**6))
def test_kernels_are_their_references(rows, width, kind, scale, seed):
    rng = np.random.RandomState(seed)
    gates = (rng.standard_normal((rows, 4 * width)) * scale).astype(kind)
    c, dc_next, do = (rng.standard_normal((rows, width)).astype(kind) for _ in range(3))
    results = []
    for which in ("reference", "serial", "parallel"):
        act, c_next, dgates, dc = np.empty_like(gates), np.empty_like(c), np.empty_like(gates), np.empty_like(c)
        getattr(memory_forward, which)(gates, c, act, c_next, None if kind == "float32" else True)
        getattr(memory_backward, which)(dc_next, do, act, c, dgates, dc)
        results.append([act, c_next, dgates, dc])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_allclose(a, b, rtol=0, atol=16 * np.finfo(kind).eps)


def test_gates_far_out_and_nan():
    for kind, double in (("float32", None), ("float64", True)):
        values = np.array([-np.inf, -1e4, -100, -1e-30, 0, 1e-30, 1e-4, 0.2499, 0.25, 100, 1e4, np.inf, np.nan], kind)
        gates = np.repeat(values[:, None], 4, axis=1)
        act, c_next = np.empty_like(gates), np.empty((len(values), 1), kind)
        memory_forward.serial(gates, np.zeros_like(c_next), act, c_next, double)
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(act[:, 0], 1 / (1 + np.exp(-values)), rtol=4 * np.finfo(kind).eps, atol=1e-37)
        np.testing.assert_allclose(act[:, 2], np.tanh(values), rtol=6 * np.finfo(kind).eps)
    assert tanh_of(np.float32(0.1), None) == pytest.approx(np.tanh(0.1), rel=1e-7)


# -- Batches of sequences ---------------------------------------------------------------------------------------------------------------

LENGTHS = [4, 1, 6, 4, 2]


def padded(kind, padding, lengths=LENGTHS, given_state=False):
    """Outputs, last states and every gradient of a padded batch, with `padding` behind the ends."""
    tg.manual_seed(0)
    cell = kind(3, 4, dtype=tg.float64)
    rng = np.random.RandomState(6)
    x = rng.standard_normal((len(lengths), 7, 3))
    for n, end in enumerate(lengths):
        x[n, end:] = padding
    x = tg.tensor(x, requires_grad=True)
    hx = None
    if given_state:
        parts = [tg.tensor(rng.standard_normal((len(lengths), 4)), requires_grad=True) for _ in range(cell.states)]
        hx = tuple(parts) if cell.states > 1 else parts[0]
    output, last = tg.nn.run_cell(cell, x, tg.tensor(lengths), hx)
    last = last if isinstance(last, tuple) else (last,)
    weight = tg.from_numpy(rng.standard_normal(tuple(output.shape)))
    ((output * weight).sum() + sum((s * s).sum() for s in last)).backward()
    grads = [p.grad.numpy() for p in cell.parameters()]
    if given_state:
        grads += [p.grad.numpy() for p in parts]
    return cell, x, output.detach().numpy(), [s.detach().numpy() for s in last], grads


@by_class
@pytest.mark.parametrize("padding", [1e30, np.inf, np.nan, -7.0])
def test_padding_changes_nothing(kind, padding):
    _, x0, output0, last0, grads0 = padded(kind, 0.0)
    _, x, output, last, grads = padded(kind, padding)
    assert np.array_equal(output, output0)
    for a, b in zip([*last, *grads, x.grad.numpy()], [*last0, *grads0, x0.grad.numpy()]):
        assert np.array_equal(a, b)
    assert np.isfinite(output).all() and all(np.isfinite(g).all() for g in grads)
    for n, end in enumerate(LENGTHS):
        assert not x.grad.numpy()[n, end:].any() and not output[n, end:].any()
        assert x.grad.numpy()[n, :end].all() and output[n, :end].all()


@by_class
def test_a_batch_is_its_sequences_one_by_one(kind):
    cell, x, output, last, grads = padded(kind, np.nan)
    cell.zero_grad()
    rng = np.random.RandomState(6)
    rng.standard_normal(x.shape)
    weight = rng.standard_normal(output.shape)
    for n, end in enumerate(LENGTHS):
        one = tg.tensor(x.detach().numpy()[n : n + 1, :end], requires_grad=True)
        out, state = tg.nn.run_cell(cell, one)
        state = state if isinstance(state, tuple) else (state,)
        np.testing.assert_allclose(output[n : n + 1, :end], out.detach().numpy(), rtol=1e-12, atol=1e-14)
        for whole, alone in zip(last, state):
            np.testing.assert_allclose(whole[n : n + 1], alone.detach().numpy(), rtol=1e-12, atol=1e-14)
        ((out * tg.from_numpy(weight[n : n + 1, :end])).sum() + sum((s * s).sum() for s in state)).backward()
        np.testing.assert_allclose(x.grad.numpy()[n : n + 1, :end], one.grad.numpy(), rtol=1e-10, atol=1e-13)
    for a, p in zip(grads, cell.parameters()):
        np.testing.assert_allclose(a, p.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
@pytest.mark.parametrize("given_state", [True, False])
def test_against_torchs_packed_sequences(kind, given_state):
    cell, x, output, last, grads = padded(getattr(tg.nn, kind + "Cell"), 5.0, given_state=given_state)
    theirs = getattr(torch.nn, kind)(3, 4, batch_first=True, dtype=torch.float64)
    theirs.load_state_dict({name + "_l0": torch.tensor(p.detach().numpy()) for name, p in cell.named_parameters()})
    rng = np.random.RandomState(6)
    rng.standard_normal(x.shape)
    z = torch.tensor(x.detach().numpy(), requires_grad=True)
    hx, parts = None, []
    if given_state:
        parts = [torch.tensor(rng.standard_normal((5, 4))[None], requires_grad=True) for _ in last]
        hx = tuple(parts) if len(parts) > 1 else parts[0]
    packed = torch.nn.utils.rnn.pack_padded_sequence(z, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False)
    out, state = theirs(packed, hx)
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True, total_length=7)
    state = state if isinstance(state, tuple) else (state,)
    ((out * torch.tensor(rng.standard_normal(output.shape))).sum() + sum((s * s).sum() for s in state)).backward()
    assert compare_arrays(output, out.detach().numpy()) < 1e-13
    for a, b in zip(last, state):
        assert compare_arrays(a, b[0].detach().numpy()) < 1e-13
    assert compare_arrays(x.grad.numpy(), z.grad.numpy()) < 1e-13
    expected = [*(p.grad.numpy() for p in theirs.parameters()), *(p.grad.numpy()[0] for p in parts)]
    for a, b in zip(grads, expected):
        assert compare_arrays(a, b) < 1e-13


def test_run_cell_has_second_derivatives():
    cell = tg.nn.LSTMCell(2, 3, dtype=tg.float64)
    x = tg.randn(3, 4, 2, dtype=tg.float64, requires_grad=True)
    assert tg.autograd.gradgradcheck(lambda x: tg.nn.run_cell(cell, x, [4, 1, 2])[0], (x,))


@pytest.mark.parametrize("lengths", [[3], [1, 1], [3, 3], np.array([2, 3]), (1, 3), None])
def test_lengths_of_any_kind(lengths):
    n = 2 if lengths is None else len(lengths)
    output, (h, c) = tg.nn.run_cell(tg.nn.LSTMCell(2, 4), tg.randn(n, 3, 2), lengths)
    assert (output.shape, h.shape, c.shape) == ((n, 3, 4), (n, 4), (n, 4))
    ends = [3] * n if lengths is None else lengths
    assert np.array_equal(h.detach().numpy(), np.stack([output.detach().numpy()[i, end - 1] for i, end in enumerate(ends)]))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 3)), ValueError, r"input must be \(N, T, I\)"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 0, 3)), ValueError, "at least one sequence and one step"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(0, 2, 3), []), ValueError, "at least one sequence"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 5, 3), [3, 0]), ValueError, "from 1 to 5, the steps of input; got 0"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 5, 3), [3, 6]), ValueError, "from 1 to 5, the steps of input; got 6"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 5, 3), [3]), ValueError, r"shape \(1,\); expected \(2,\)"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 5, 3), [3, 1.5]), TypeError, "integers; got float64"),
        (lambda cell: tg.nn.run_cell(cell, [1.0]), TypeError, "expected a Tensor"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 5, 3), None, tg.ones(2, 4)), TypeError, "hx|tuple"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 5, 3), None, (tg.ones(3, 4), tg.ones(2, 4))), RuntimeError, r"hx has shape \[3, 4\]; expected 2 rows"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 5, 3), None, (tg.ones(2, 4), tg.ones(1, 4))), RuntimeError, r"hx has shape \[1, 4\]; expected 2 rows"),
        (lambda cell: tg.nn.run_cell(cell, tg.ones(2, 5, 3), None, 0), TypeError, "hx must be a Tensor or a tuple of Tensors; got int"),
        (lambda cell: tg.nn.run_cell(lambda x, h: None, tg.ones(2, 5, 3)), TypeError, "what cell returns must be a Tensor or a tuple of Tensors; got NoneType"),
        (lambda cell: tg.nn.run_cell(lambda x, h: x[:1], tg.ones(2, 5, 3)), RuntimeError, r"what cell returns has shape \[1, 3\]; expected 2 rows"),
    ],
)
def test_run_cell_says_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call(tg.nn.LSTMCell(3, 4))


BAD = [
    (lambda lib, o: lib.nn.RNNCell(3, 4)(o(2, 5)), RuntimeError, "input has inconsistent input_size: got 5 expected 3"),
    (lambda lib, o: lib.nn.RNNCell(3, 4)(o(2, 3), o(2, 5)), RuntimeError, "hidden0 has inconsistent hidden_size: got 5, expected 4"),
    (lambda lib, o: lib.nn.RNNCell(3, 4)(o(2, 3), o(3, 4)), RuntimeError, "Input batch size 2 doesn't match hidden0 batch size 3"),
    (lambda lib, o: lib.nn.RNNCell(3, 4)(o(1, 2, 3)), ValueError, "RNNCell: Expected input to be 1D or 2D, got 3D instead"),
    (lambda lib, o: lib.nn.RNNCell(3, 4)(o(2, 3), o(1, 2, 4)), ValueError, "RNNCell: Expected hidden to be 1D or 2D, got 3D instead"),
    (lambda lib, o: lib.nn.LSTMCell(3, 4)(o(2, 3), (o(2, 4), o(2, 5))), RuntimeError, "hidden1 has inconsistent hidden_size: got 5, expected 4"),
    (lambda lib, o: lib.nn.LSTMCell(3, 4)(o(2, 3), (o(2, 4), o(3, 4))), RuntimeError, "Input batch size 2 doesn't match hidden1 batch size 3"),
    (lambda lib, o: lib.nn.LSTMCell(3, 4)(o(1, 2, 3)), ValueError, "LSTMCell: Expected input to be 1D or 2D, got 3D instead"),
    (lambda lib, o: lib.nn.LSTMCell(3, 4)(o(2, 3), (o(2, 4), o(1, 2, 4))), ValueError, r"LSTMCell: Expected hx\[1\] to be 1D or 2D"),
    (lambda lib, o: lib.nn.LSTMCell(3, 4)(o(2, 3), o(2, 4)), TypeError, "must be tuple of Tensors"),
    (lambda lib, o: lib.nn.LSTMCell(3, 4)(o(2, 3), (o(2, 4),)), RuntimeError, "lstm_cell expects two hidden states|expects two"),
    (lambda lib, o: lib.nn.LSTMCell(3, 4)(o(2, 3, dtype=lib.float64)), RuntimeError, "same dtype"),
    (lambda lib, o: lib.nn.RNNCell(3, 4, nonlinearity="gelu")(o(2, 3)), RuntimeError, "Unknown nonlinearity: gelu"),
    (lambda lib, o: lib.nn.RNNCell(2.5, 4), TypeError, None),
    (lambda lib, o: lib.nn.LSTMCell(-1, 4), RuntimeError, "negative"),
]


@pytest.mark.parametrize(("input", "state"), [((2, 3), (4,)), ((3,), (1, 4)), ((1, 3), (4,))])
def test_a_batch_axis_is_on_the_input_and_on_the_state_or_on_neither(input, state):
    for lib in (torch, tg):
        x, h = lib.ones(*input), lib.ones(*state)
        for call in (lambda: lib.nn.RNNCell(3, 4)(x, h), lambda: lib.nn.LSTMCell(3, 4)(x, (h, h)), lambda: lib.nn.LSTMCell(3, 4)(x, (lib.ones(*input[:-1], 4), h))):
            with pytest.raises(RuntimeError) as caught:
                call()
            if lib is tg:  # torch's message takes one axis for another
                assert f"got shapes {list(input)} and {list(state)}" in str(caught.value)


@pytest.mark.parametrize("number", range(len(BAD)))
def test_errors_are_torchs(number):
    call, error, words = BAD[number]
    for lib in (torch, tg):
        with pytest.raises(error, match=words):
            call(lib, lib.ones)
