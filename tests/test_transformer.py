"""Multi-head attention and the encoder against torch: initial numbers, outputs, gradients, dropout masks, masks of every kind, errors."""

import itertools

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm import nn
from tinygrad_norm.autograd import gradcheck

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor", "ignore:Support for mismatched")
EXACT = {"rtol": 1e-11, "atol": 1e-13}


def pair(name, *args, **kwargs):
    """Our module and torch's from one seed, in float64, with ours loaded from torch's state_dict."""
    torch.manual_seed(3)
    theirs = getattr(torch.nn, name)(*args, **kwargs).double()
    ours = getattr(nn, name)(*args, **kwargs).double()
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    return ours, theirs


def shake(ours, theirs, seed=0):
    """The same random numbers into both: zeros and ones would hide mistakes."""
    rng = np.random.default_rng(seed)
    for (name, p), (other, q) in zip(ours.named_parameters(), theirs.named_parameters()):
        assert name == other
        values = rng.normal(size=p.shape) * 0.4 + 0.1
        with tg.no_grad(), torch.no_grad():
            p.copy_(tg.tensor(values))
            q.copy_(torch.tensor(values) if isinstance(q, torch.Tensor) else tg.tensor(values))


def same(ours, theirs, arrays, call, seed=5):
    """Outputs, gradients of every float input and every parameter."""
    mine = [tg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    torchs = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    tg.manual_seed(seed)
    torch.manual_seed(seed)
    ys, zs = call(ours, *mine), call(theirs, *torchs)
    ys, zs = (v if isinstance(v, tuple) else (v,) for v in (ys, zs))
    rng = np.random.default_rng(9)
    total, other = 0, 0
    for y, z in zip(ys, zs):
        assert (y is None) == (z is None)
        if y is not None:
            assert tuple(y.shape) == tuple(z.shape)
            np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), **EXACT)
            dy = rng.normal(size=y.shape)
            total, other = total + (y * tg.tensor(dy)).sum(), other + (z * torch.tensor(dy)).sum()
    total.backward()
    other.backward()
    for a, b in zip([*mine, *ours.parameters()], [*torchs, *theirs.parameters()]):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), **EXACT)
    assert tg.rand(1).item() == torch.rand(1).item()  # as many random numbers drawn


def sample(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape) * 1.3 + 0.2


# -- Initial numbers


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("MultiheadAttention", (8, 2), {}),
        ("MultiheadAttention", (8, 4), {"bias": False}),
        ("MultiheadAttention", (6, 3), {"add_bias_kv": True}),
        ("MultiheadAttention", (6, 3), {"kdim": 4, "vdim": 5, "add_bias_kv": True}),
        ("TransformerEncoderLayer", (8, 2, 12), {}),
        ("TransformerEncoderLayer", (8, 2), {"bias": False, "activation": "gelu", "norm_first": True, "layer_norm_eps": 1e-3, "dropout": 0.2}),
    ],
)
def test_the_same_seed_gives_torchs_module(name, args, kwargs):
    tg.manual_seed(4)
    torch.manual_seed(4)
    ours, theirs = getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[key].numpy(), value.numpy(), err_msg=key)
    assert repr(ours) == repr(theirs).replace("NonDynamicallyQuantizableLinear", "Linear")
    assert tg.rand(1).item() == torch.rand(1).item()


def test_the_encoder_copies_its_layer():
    tg.manual_seed(4)
    torch.manual_seed(4)
    ours = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12), 3, nn.LayerNorm(8))
    theirs = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 12), 3, torch.nn.LayerNorm(8))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[key].numpy(), value.numpy(), err_msg=key)
    assert len({id(p) for p in ours.parameters()}) == 3 * 12 + 2


# -- Multi-head attention


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 4, "vdim": 5}, {"kdim": 4, "vdim": 5, "bias": False}, {"dropout": 0.4}]
)
def test_attention_to_another_sequence(options, batch_first, need_weights):
    ours, theirs = pair("MultiheadAttention", 6, 3, batch_first=batch_first, **options)
    shake(ours, theirs)
    n, l, s = 2, 4, 5
    shapes = [(n, l, 6), (n, s, options.get("kdim", 6)), (n, s, options.get("vdim", 6))]
    arrays = [sample(*(shape if batch_first else (shape[1], shape[0], shape[2])), seed=i) for i, shape in enumerate(shapes)]
    same(ours, theirs, arrays, lambda m, q, k, v: m(q, k, v, need_weights=need_weights))
    if need_weights:
        same(ours, theirs, arrays, lambda m, q, k, v: m(q, k, v, average_attn_weights=False))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True, "add_zero_attn": True}])
@pytest.mark.parametrize("masks", ["attn", "attn 3-d", "padding", "both", "attn float", "padding float", "both float"])
def test_masks(masks, options, batch_first, need_weights):
    ours, theirs = pair("MultiheadAttention", 6, 2, batch_first=batch_first, dropout=0.3, **options)
    shake(ours, theirs)
    n, l = 3, 5
    rng = np.random.default_rng(2)
    attn = rng.random((n * 2, l, l) if "3-d" in masks else (l, l)) < 0.4
    padding = np.arange(l) >= np.array([5, 3, 4])[:, None]
    attn[..., 0] = False  # every query sees the first key
    if "float" in masks:
        attn, padding = rng.normal(size=attn.shape), rng.normal(size=padding.shape)
    given = [m for m, wanted in ((attn, "padding" not in masks), (padding, "attn" not in masks)) if wanted]
    names = [name for name, wanted in (("attn_mask", "padding" not in masks), ("key_padding_mask", "attn" not in masks)) if wanted]
    x = sample(n, l, 6) if batch_first else sample(l, n, 6)
    same(ours, theirs, [x, *given], lambda m, x, *given: m(x, x, x, need_weights=need_weights, **dict(zip(names, given))))


@pytest.mark.parametrize("need_weights", [False, True])
def test_without_a_batch_and_with_a_causal_hint(need_weights):
    ours, theirs = pair("MultiheadAttention", 6, 2, batch_first=True)
    shake(ours, theirs)
    x, causal = sample(5, 6), np.triu(np.ones((5, 5), bool), 1)
    padding = np.array([False, False, True, False, True])
    same(ours, theirs, [x, causal], lambda m, x, c: m(x, x, x, attn_mask=c, need_weights=need_weights, is_causal=True))
    same(ours, theirs, [x, padding, causal], lambda m, x, p, c: m(x, x, x, key_padding_mask=p, attn_mask=c, need_weights=need_weights, is_causal=True))
    same(ours, theirs, [x], lambda m, x: m(x, x, x, need_weights=need_weights, average_attn_weights=False))


def test_a_query_that_may_look_nowhere_is_as_in_torch():
    ours, theirs = pair("MultiheadAttention", 6, 2, batch_first=True)
    x, padding = sample(2, 3, 6), np.array([[False, True, True], [True, True, True]])
    for need in (False, True):
        y, _ = ours(tg.tensor(x), tg.tensor(x), tg.tensor(x), key_padding_mask=tg.tensor(padding), need_weights=need)
        z, _ = theirs(torch.tensor(x), torch.tensor(x), torch.tensor(x), key_padding_mask=torch.tensor(padding), need_weights=need)
        np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), **EXACT)
        assert np.isnan(y.detach().numpy()).any() == need


# -- The layer and the encoder


@pytest.mark.parametrize(
    ("norm_first", "activation", "batch_first", "dropout"), list(itertools.product([False, True], ["relu", "gelu"], [False, True], [0.0, 0.3]))
)
def test_layer(norm_first, activation, batch_first, dropout):
    options = {"norm_first": norm_first, "activation": activation, "batch_first": batch_first, "dropout": dropout}
    ours, theirs = pair("TransformerEncoderLayer", 8, 2, 12, **options)
    shake(ours, theirs)
    x = sample(3, 5, 8)
    length = 5 if batch_first else 3
    causal = np.triu(np.full((length, length), -np.inf), 1)
    padding = np.zeros((x.shape[0 if batch_first else 1], length), bool)
    padding[1, -1] = True
    same(ours, theirs, [x], lambda m, x: m(x))
    mask, other = tg.tensor(causal), torch.tensor(causal)
    same(ours, theirs, [x], lambda m, x: m(x, mask if m is ours else other, is_causal=True))
    same(ours, theirs, [x, padding], lambda m, x, p: m(x, src_key_padding_mask=p))
    ours.eval()
    theirs.eval()
    same(ours, theirs, [x, padding], lambda m, x, p: m(x, mask if m is ours else other, p))
    same(ours, theirs, [sample(length, 8)], lambda m, x: m(x, mask if m is ours else other))


def test_activation_may_be_any_function():
    ours = nn.TransformerEncoderLayer(8, 2, 12, 0.0, nn.functional.silu, bias=False).double()
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, torch.nn.functional.silu, bias=False).double()
    shake(ours, theirs)
    same(ours, theirs, [sample(3, 5, 8)], lambda m, x: m(x))


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder(norm_first):
    ours = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, 0.2, "gelu", batch_first=True, norm_first=norm_first), 3, nn.LayerNorm(8)).double()
    theirs = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(8, 2, 12, 0.2, "gelu", batch_first=True, norm_first=norm_first), 3, torch.nn.LayerNorm(8)
    ).double()
    shake(ours, theirs)
    x = sample(3, 5, 8)
    mask, other = nn.causal_mask(5, tg.float64), torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    np.testing.assert_array_equal(mask.numpy(), other.numpy())
    for causal in (None, True, False):
        same(ours, theirs, [x], lambda m, x: m(x, mask if m is ours else other, is_causal=causal))
    flags = np.triu(np.ones((5, 5), bool), 1)
    same(ours, theirs, [x, flags], lambda m, x, c: m(x, c))
    no, not_ = tg.tensor(np.eye(5) * -2), torch.tensor(np.eye(5) * -2)  # not causal: it is looked at
    same(ours, theirs, [x], lambda m, x: m(x, no if m is ours else not_))


def test_a_causal_encoder_does_not_see_ahead():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True), 2)
    x = sample(1, 6, 8).astype(np.float32)
    before = encoder(tg.tensor(x), nn.causal_mask(6)).detach().numpy()
    x[0, 4:] += 1
    after = encoder(tg.tensor(x), nn.causal_mask(6)).detach().numpy()
    np.testing.assert_array_equal(before[0, :4], after[0, :4])
    assert np.abs(before[0, 4:] - after[0, 4:]).max() > 0.1


def test_finite_differences_through_a_layer():
    layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, "gelu", layer_norm_eps=0.3).double()
    shake(layer, layer)
    x = tg.tensor(sample(3, 2, 4), requires_grad=True)
    assert gradcheck(lambda x, *_: layer(x, nn.causal_mask(3, tg.float64)), (x, *layer.parameters()))


def test_it_trains_as_torch_does():
    """Twenty steps of Adam in float64 with dropout: the same losses."""
    tg.manual_seed(0)
    torch.manual_seed(0)
    losses = []
    for lib in (tg, torch):
        layer = lib.nn.TransformerEncoderLayer(8, 2, 16, 0.1, "gelu", batch_first=True, norm_first=True)
        model = lib.nn.TransformerEncoder(layer, 2, lib.nn.LayerNorm(8)).to(lib.float64)
        optimizer = lib.optim.Adam(model.parameters(), lr=1e-2)
        x, target = lib.tensor(sample(4, 5, 8)), lib.tensor(sample(4, 5, 8, seed=1))
        losses.append([])
        for _ in range(20):
            loss = ((model(x) - target) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
    assert losses[0][-1] < losses[0][0]


# -- Errors


def zeros(lib, *shape, kind="float32"):
    return lib.zeros(*shape, dtype=getattr(lib, kind))


def encoder(lib):
    return lib.nn.TransformerEncoder(lib.nn.TransformerEncoderLayer(4, 2, 8), 1)


def causal(lib):
    return lib.nn.causal_mask if lib is tg else lib.nn.Transformer.generate_square_subsequent_mask


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda t: t.nn.MultiheadAttention(0, 1), ValueError, "must be greater than 0"),
        (lambda t: t.nn.MultiheadAttention(4, 3), AssertionError, "embed_dim must be divisible by num_heads"),
        (lambda t: t.nn.MultiheadAttention(4, 2, kdim=-1), RuntimeError, "negative"),
        (lambda t: t.nn.MultiheadAttention(4, 2, vdim=-1), RuntimeError, "negative"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(*[zeros(t, 3, 1, 5)] * 3), AssertionError, "was expecting embedding dimension of 4, but got 5"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(*[zeros(t, 4)] * 3), AssertionError, "query should be unbatched 2D or batched 3D tensor"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(zeros(t, 3, 4), *[zeros(t, 3, 1, 4)] * 2), AssertionError, "expected `key` and `value` to be 2-D"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(*[zeros(t, 3, 1, 4)] * 3, zeros(t, 2, 3, kind="bool")), AssertionError, "key_padd(ed|ing)_mask"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(zeros(t, 3, 1, 4), zeros(t, 2, 1, 4), zeros(t, 3, 1, 4)), AssertionError, "does not match value"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(zeros(t, 3, 1, 4), zeros(t, 3, 2, 4), zeros(t, 3, 2, 4)), RuntimeError, "batch|invalid for input"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(*[zeros(t, 3, 1, 4)] * 3, attn_mask=zeros(t, 2, 2)), RuntimeError, "The shape of the 2D attn_mask is"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(*[zeros(t, 3, 1, 4)] * 3, attn_mask=zeros(t, 3, 3, kind="int64")), AssertionError, "only bool and float"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(*[zeros(t, 3, 1, 4)] * 3, is_causal=True), RuntimeError, "Need attn_mask if specifying the is_causal"),
        (lambda t: t.nn.MultiheadAttention(4, 2)(*[zeros(t, 3, 1, 4, kind="float64")] * 3), RuntimeError, "dtype"),
        (lambda t: t.nn.TransformerEncoderLayer(4, 2, activation="tanh"), RuntimeError, "activation should be relu/gelu, not tanh"),
        (lambda t: t.nn.TransformerEncoderLayer(4, 2, dropout=1.5), ValueError, "between 0 and 1, but got 1.5"),
        (lambda t: t.nn.TransformerEncoderLayer(4, 2)(zeros(t, 3, 1, 4), is_causal=True), RuntimeError, "Need attn_mask"),
        (lambda t: encoder(t)(zeros(t, 3, 1, 4), zeros(t, 3, 3, kind="int64")), AssertionError, "only bool and floating types of"),
        (lambda t: causal(t)(-1), RuntimeError, "negative"),
        (lambda t: causal(t)(2.5), TypeError, "float"),
        (lambda t: causal(t)("3"), TypeError, "str"),
    ],
)
def test_errors(wrong, error, words):
    for lib in (tg, torch):
        with pytest.raises(error, match=words):
            wrong(lib)


def test_a_mask_of_the_encoder_is_a_tensor():
    with pytest.raises(TypeError, match="expected a Tensor; got str"):
        encoder(tg)(tg.zeros(3, 1, 4), "causal")


def test_a_failed_call_draws_no_random_numbers():
    layer = nn.MultiheadAttention(4, 2, dropout=0.5)
    tg.manual_seed(0)
    with pytest.raises(RuntimeError, match="attn_mask"):
        layer(*[tg.zeros(3, 1, 4)] * 3, attn_mask=tg.zeros(2, 2))
    assert tg.rand(1).item() == tg.manual_seed(0).uniform((1,)).item()


def test_a_float_mask_has_the_type_of_the_query():
    for lib in (tg, torch):
        layer = lib.nn.MultiheadAttention(4, 2)
        x = lib.ones(3, 1, 4)
        for need_weights in (True, False):
            with pytest.raises(RuntimeError, match="dtype"):
                layer(x, x, x, attn_mask=lib.zeros(3, 3, dtype=lib.float64), need_weights=need_weights)
