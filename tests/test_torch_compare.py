"""compare_with_torch: that it agrees where we agree, and sees every kind of difference."""

import copy
import sys

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm import nn
from tinygrad_norm.autograd import Function, compare_with_torch
from tinygrad_norm.autograd.torch_compare import torch_twin


def array(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape) * 1.3 + 0.3


LAYERS = {
    "Linear": (lambda: nn.Linear(4, 3), (5, 4)),
    "Linear no bias": (lambda: nn.Linear(4, 3, bias=False), (2, 5, 4)),
    "ReLU": (nn.ReLU, (4, 5)),
    "LayerNorm": (lambda: nn.LayerNorm(5), (4, 5)),
    "LayerNorm no bias": (lambda: nn.LayerNorm((3, 5), eps=0.1, bias=False), (4, 3, 5)),
    "LayerNorm plain": (lambda: nn.LayerNorm(5, elementwise_affine=False), (4, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(5), (4, 5)),
    "BatchNorm1d (N, C, L)": (lambda: nn.BatchNorm1d(3, momentum=None), (4, 3, 5)),
    "BatchNorm1d plain": (lambda: nn.BatchNorm1d(5, affine=False, track_running_stats=False), (4, 5)),
    "BatchNorm1d eval": (lambda: nn.BatchNorm1d(5).eval(), (4, 5)),
    "Dropout": (lambda: nn.Dropout(0.4), (7, 5)),
    "Dropout between layers": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2), nn.Dropout(0.1)), (5, 4)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 2))), (5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_layers_agree(name, double):
    make, shape = LAYERS[name]
    tg.manual_seed(0)
    layer = make().double() if double else make()
    before = copy.deepcopy(layer.state_dict())
    comparison = compare_with_torch(layer, array(*shape).astype(np.float64 if double else np.float32))
    assert comparison.ok, comparison
    limit = 1e-12 if double else 1e-4
    assert max(d.relative for d in comparison.differences) < limit
    assert all(d.dtype in ("float64" if double else "float32", "int64") for d in comparison.differences)
    names = {d.name for d in comparison.differences}
    assert {"output", "grad input[0]"} <= names
    if list(layer.parameters()):
        assert any(n.startswith("second grad") for n in names)
        assert set(layer.state_dict()) <= names
    after = layer.state_dict()
    assert all(np.array_equal(before[k]._data, after[k]._data) for k in before)  # the caller's layer is as it was
    assert all(p.grad is None for p in layer.parameters())


def test_functions_agree():
    assert compare_with_torch(tg.exp, array(3, 4)).ok
    assert compare_with_torch(tg.nn.functional.cross_entropy, (array(6, 4), np.array([0, 1, 2, 3, 0, 1]))).ok
    assert compare_with_torch(nn.CrossEntropyLoss(weight=tg.tensor([1.0, 2.0, 0.5, 1.5]).double()), (array(6, 4), np.array([0, 1, 2, 3, 0, 1]))).ok
    comparison = compare_with_torch(lambda x, w: x @ w.T, (array(3, 4), array(2, 4)), torch_counterpart=lambda x, w: x @ w.T)
    assert comparison.ok
    assert {d.name for d in comparison.differences} >= {"output", "grad input[0]", "grad input[1]", "second grad grad_output[0]"}
    assert compare_with_torch(lambda x: x.max(1), array(3, 4), torch_counterpart=lambda x: x.max(1)).ok


def test_figures_are_right():
    comparison = compare_with_torch(lambda x: x * (1 + 2**-52), array(3), torch_counterpart=lambda x: x * 1.0, steps=1)
    assert comparison["output"].ulps == pytest.approx(1, abs=0.51)
    assert comparison["output"].relative < 3e-16
    comparison = compare_with_torch(lambda x: x * 1.001, array(3), torch_counterpart=lambda x: x * 1.0)
    assert not comparison.ok
    assert comparison["output"].relative == pytest.approx(1e-3, rel=1e-6)
    assert comparison.worst.relative == pytest.approx(1e-3, rel=1e-6)
    assert compare_with_torch(lambda x: x * 1.001, array(3), torch_counterpart=lambda x: x * 1.0, rtol=0.01).ok
    with pytest.raises(AssertionError, match="DIFFERS"):
        comparison.raise_for_failure()
    with pytest.raises(KeyError, match="was not compared; there are output"):
        comparison["nothing"]


class WrongBuffers(nn.BatchNorm1d):
    """Stores the biased variance."""

    def forward(self, input):
        before = self.running_var._data.copy()
        y = super().forward(input)
        m = input.numel() / self.num_features
        self.running_var._data[...] = before * (1 - self.momentum) + (self.running_var._data - before * (1 - self.momentum)) * (m - 1) / m
        return y


def test_differences_are_seen_and_named():
    twin = torch.nn.BatchNorm1d(4).double()
    comparison = compare_with_torch(WrongBuffers(4).double(), array(6, 4), torch_counterpart=twin)
    assert [d.name for d in comparison.differences if not d.ok] == ["running_var"] * 3
    assert twin.num_batches_tracked.item() == 0  # the counterpart is the caller's as well

    class Half(Function):
        def forward(self, x):
            return 2 * x

        def backward(self, g):
            return g

    bad = {d.name for d in compare_with_torch(Half.apply, array(3), torch_counterpart=lambda x: 2 * x).differences if not d.ok}
    assert bad == {"grad input[0]", "second grad grad_output[0]"}

    def problem(ours, theirs, *inputs):
        comparison = compare_with_torch(ours, inputs or array(3), torch_counterpart=theirs)
        assert not comparison.ok
        return str(comparison)

    assert "torch has float64 (3, 1)" in problem(lambda x: x * 1, lambda x: x[:, None])
    assert "torch has float32" in problem(lambda x: x * 1, lambda x: x.float())
    assert "1 tensors here, 2 in torch" in problem(lambda x: x * 1, lambda x: (x, x))
    assert "requires_grad is True here, False in torch" in problem(lambda x: x * 1, lambda x: x.detach())
    assert "None in torch" in problem(lambda x, y: x * y, lambda x, y: x * y.detach(), array(3), array(3, seed=1))
    with np.errstate(all="ignore"):
        assert "NaN or infinity in other places" in problem(lambda x: x / 0, lambda x: x)


def test_twins_have_our_arguments_state_and_mode():
    ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=0.1, momentum=0.3)).double().eval()
    theirs = torch_twin(ours)
    assert repr(theirs) == repr(ours)
    assert not theirs[1].training
    assert all(np.array_equal(v.numpy(), ours.state_dict()[k]._data) for k, v in theirs.state_dict().items())
    theirs[0].weight.data.zero_()
    assert ours[0].weight.abs().sum().item() > 0
    assert torch_twin(tg.nn.functional.layer_norm) is torch.nn.functional.layer_norm


def test_bad_input(monkeypatch):
    class Mine(nn.Module):
        def forward(self, x):
            return x

    with pytest.raises(ValueError, match=r"no torch.nn.Mine to compare with \(at 0\): pass torch_counterpart=…"):
        compare_with_torch(nn.Sequential(Mine()), array(2))
    with pytest.raises(ValueError, match="no function called '<lambda>'"):
        compare_with_torch(lambda x: x, array(2))
    with pytest.raises(ValueError, match="steps must be an integer of at least 1; got 0"):
        compare_with_torch(tg.exp, array(2), steps=0)
    with pytest.raises(ValueError, match=r"input\[0\] is a dict"):
        compare_with_torch(tg.exp, {"x": 1})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install torch==2.13.0"):
        compare_with_torch(tg.exp, array(2))


def test_buffers_are_compared_where_there_is_no_gradient():
    class Ours(tg.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", tg.zeros(2))

        def forward(self, x):
            with tg.no_grad():
                self.mean.mul_(0.9).add_(x.mean(0) * 0.1)
                return x * 1

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, x):
            with torch.no_grad():
                self.mean.mul_(0.5).add_(x.mean(0) * 0.5)
                return x * 1

    assert not tg.autograd.compare_with_torch(Ours(), tg.ones(3, 2), torch_counterpart=Theirs()).ok


def test_frozen_parameters_and_packed_biases():
    layer = tg.nn.Linear(2, 3)
    layer.weight.requires_grad = False
    comparison = tg.autograd.compare_with_torch(layer, tg.randn(4, 2))
    assert comparison.ok and "grad weight" not in {d.name for d in comparison.differences} and comparison["grad bias"].relative < 1e-5
    x = tg.randn(3, 2, 4)
    assert tg.autograd.compare_with_torch(tg.nn.MultiheadAttention(4, 2), (x, x, x)).ok
    assert tg.autograd.compare_with_torch(lambda x: x.argmax(), tg.arange(3.0), torch_counterpart=lambda x: x.argmin()).worst.relative > 0


def test_both_libraries_drop_out_the_same_and_the_streams_are_as_they_were():
    tg.manual_seed(5)
    torch.manual_seed(6)
    expected, theirs = tg.rand(3).tolist(), torch.rand(3).tolist()
    tg.manual_seed(5)
    torch.manual_seed(6)
    x = array(5, 4)
    assert compare_with_torch(lambda x: nn.functional.dropout(x.T, 0.3), x, torch_counterpart=lambda x: torch.nn.functional.dropout(x.T, 0.3)).ok
    assert compare_with_torch(nn.MultiheadAttention(4, 2, dropout=0.5).double(), [x[:, None]] * 3).ok
    tg.manual_seed(5)
    torch.manual_seed(6)
    comparison = compare_with_torch(nn.Dropout(0.5), x)
    assert comparison.ok and tg.rand(3).tolist() == expected and torch.rand(3).tolist() == theirs
    twice = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r"Dropout and its counterpart must draw as many random numbers.*Call eval\(\)"):
        compare_with_torch(nn.Dropout(0.5), x, torch_counterpart=twice)


def test_a_module_or_a_parameter_that_is_used_twice():
    layer = nn.Linear(4, 4).double()
    twice = nn.Sequential(layer, nn.ReLU(), layer)
    twin = torch_twin(twice)
    assert twin[0] is twin[2]
    assert compare_with_torch(twice, array(5, 4)).ok
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).double()
    tied[2].weight = tied[0].weight
    twin = torch_twin(tied)
    assert twin[0].weight is twin[2].weight and twin[0].bias is not twin[2].bias
    assert compare_with_torch(tied, array(5, 4)).ok


def test_a_gradient_that_is_zero_in_torch_alone_differs():
    comparison = compare_with_torch(lambda x: x * 1, array(3), torch_counterpart=lambda x: x.detach() + 0 * x)
    assert not comparison.ok and comparison["grad input[0]"].relative == np.inf
