"""In which order results lie in memory: that decides what can be viewed in another shape, and which numbers dropout draws where."""

import numpy as np
import pytest
import torch

import tinygrad_norm as tg

BASE = np.random.RandomState(0).uniform(0.1, 1, (4, 3, 2, 5)).astype(np.float32)
LOOKS = {
    "as it is": lambda t: t,
    "transposed": lambda t: t[:, :, 0, 0].T,
    "permuted": lambda t: t.permute(2, 0, 3, 1),
    "sliced": lambda t: t[:, ::2],
    "permuted and sliced": lambda t: t.permute(3, 1, 0, 2)[:, :, ::2],
    "expanded": lambda t: t[:1].expand(3, 3, 2, 5),
    "expanded inside": lambda t: t[:, :1].expand(4, 3, 2, 5),
    "a row expanded": lambda t: t[0, 0, 0].expand(4, 5),
}
KEPT = [
    "lib.relu(x)", "F.gelu(x)", "F.silu(x)", "lib.erf(x)", "lib.tanh(x)", "lib.sigmoid(x)", "x.exp()", "x.abs()", "-x", "x + 1", "x * x",
    "x / 2", "x**2", "x.clamp(0.2, 0.8)", "x > 0.5", "lib.where(x > 0.5, x, 0.0)", "x.clone()", "x.double()", "x.bool()", "lib.zeros_like(x)",
    "lib.full_like(x, 2)", "lib.empty_like(x, dtype=lib.int64)", "lib.rand_like(x)", "x.clone().fill_(1)",
]  # fmt: skip
PICKED = [
    "x[:, lib.tensor([0, 1])]", "x[..., lib.tensor([1, 0])]", "x[0:2, lib.tensor([[0], [1]])]", "x[:, lib.arange(x.shape[1]) > 0]",
    "x.index_select(1, lib.tensor([0, 1]))",
]  # fmt: skip


def strides(lib, look, call):
    x = LOOKS[look](lib.tensor(BASE))
    out = eval(call, {"lib": lib, "F": lib.nn.functional, "x": x})
    steps = out.stride() if lib is torch else [s // out.numpy().itemsize for s in out.numpy().strides]
    return [s for s, n in zip(steps, out.shape) if n > 1]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("call", KEPT)
def test_functions_of_one_element_keep_the_order_of_their_input(call, look):
    assert strides(tg, look, call) == strides(torch, look, call)


@pytest.mark.parametrize("look", ["as it is", "sliced", "expanded"])
@pytest.mark.parametrize("call", PICKED)
def test_what_is_picked_lies_in_the_order_of_its_indices(call, look):
    assert strides(tg, look, call) == strides(torch, look, call)


LAYERS = [
    "F.layer_norm(x, x.shape[2:])", "F.rms_norm(x, x.shape[2:])", "F.group_norm(x, 1)", "F.instance_norm(x)",
    "F.batch_norm(x, None, None, training=True)", "F.batch_norm(x, lib.zeros(x.shape[1]), lib.ones(x.shape[1]))",
    "F.linear(x, lib.ones(4, x.shape[2]))", "x.softmax(1)", "x.log_softmax(2)", "x.masked_fill(x > 0.5, 0.0)", "x.tril()",
]  # fmt: skip


REDUCED = [
    "x.sum(-1)", "x.mean(0)", "x.var(1)", "x.std(-1, keepdim=True)", "x.amax(0)", "x.amin(-1)", "x.max(1)[0]", "x.min(1)[1]", "x.argmax(0)",
    "x.logsumexp(-1)", "x.double().sum(0)",
]  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("call", REDUCED)
def test_what_is_reduced_lies_in_the_order_of_its_indices(call, look):
    assert strides(tg, look, call) == strides(torch, look, call)


@pytest.mark.parametrize("call", LAYERS)
def test_layers_give_the_order_of_the_indices_in_training_and_evaluation(call):
    found = []
    for lib in (tg, torch):
        x = lib.tensor(BASE[:, :, 0]).transpose(1, 2)
        out = eval(call, {"lib": lib, "F": lib.nn.functional, "x": x})
        found.append((out.is_contiguous(), tuple(out.view(-1).shape)))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "tanh"])
@pytest.mark.parametrize("look", LOOKS)
def test_dropout_after_an_activation_draws_torchs_mask(name, look):
    masks = []
    for lib in (tg, torch):
        x = LOOKS[look](lib.tensor(BASE))
        lib.manual_seed(0)
        act = getattr(lib, name, None) or getattr(lib.nn.functional, name)
        masks.append((lib.nn.functional.dropout(act(x), 0.5) == 0).tolist())
    assert masks[0] == masks[1]


def test_a_read_only_number_has_an_activation():
    x = np.array(-1.5, np.float32)
    x.flags.writeable = False
    for name in ("relu", "gelu", "silu"):
        assert getattr(tg.nn.functional, name)(tg.from_numpy(x)).shape == ()
