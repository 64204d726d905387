"""tg.summary: shapes, counts and words of the table; and that it leaves nothing behind."""

import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm import nn
from tinygrad_norm.train import MLP


def rows(summary):
    return {row.path: row for row in summary.rows}


class Net(nn.Module):
    """Nested, with a module used twice, a parameter of its own, two inputs, two outputs, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(tg.ones(3))
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
        self.out = nn.Linear(3, 5)
        self.unused = nn.Linear(7, 7)

    def forward(self, a, b):
        a, b = self.body(a * self.scale), self.body(b)
        return self.out(a), {"both": self.out(a + b), "flat": (a @ b.T).reshape(-1)}


def test_the_documents_mlp():
    found = tg.summary(MLP(10, 20, 2, norm="batch"), 10)
    assert [(r.path, r.type, r.output_shape, r.parameters) for r in found.rows] == [
        ("fc1", "Linear", (None, 20), 220), ("norm1", "BatchNorm1d", (None, 20), 40), ("fc2", "Linear", (None, 2), 42),
    ]  # fmt: skip
    assert (found.total_params, found.trainable_params, found.non_trainable_params, found.buffers) == (302, 302, 0, 41)
    assert (found.param_bytes, found.buffer_bytes, found.output_bytes, found.per_sample) == (1208, 168, 4 * 42, True)
    assert "Buffers: 41 (168.00 B)" in str(found)
    assert repr(found) == str(found)
    widths = {len(line) for line in str(found).splitlines()[1:8]}
    assert len(widths) == 1


def test_nested_shared_and_several_inputs_and_outputs():
    net = Net()
    net.out.weight.requires_grad = False
    found = tg.summary(net, [(3,), (3,)])
    by = rows(found)
    assert list(by) == ["", "body", "body.0", "body.1", "body.1.0", "body.1.1", "out", "unused"]
    assert by[""].output_shape == [(None, 5), {"both": (None, 5), "flat": (None,)}]
    assert by[""].parameters == 3
    assert by["body.0"].parameters == 12 and by["body.0"].calls == 2
    assert by["body"].parameters == 0 and by["body.1.0"].depth == 3
    assert by["unused"].shape_text == "not called" and by["unused"].parameters == 56
    assert found.total_params == sum(r.parameters for r in found.rows) == sum(p.numel() for p in net.parameters()) == 3 + 12 + 6 + 20 + 56
    assert found.non_trainable_params == 15
    text = str(found)
    assert "  body (Sequential) ×2" in text and "      0 (BatchNorm1d) ×2" in text and "Non-trainable params: 15 (60.00 B)" in text


def test_counts_are_torchs():
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.BatchNorm1d(9), torch.nn.LSTMCell(9, 4))
    ours = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.LSTMCell(9, 4))
    found = tg.summary(ours, 6)
    assert found.total_params == sum(p.numel() for p in theirs.parameters())
    assert found.buffers == sum(b.numel() for b in theirs.buffers())
    assert found.param_bytes == sum(p.numel() * p.element_size() for p in theirs.parameters())
    assert rows(found)["2"].output_shape == [(None, 4), (None, 4)]


def test_tied_parameters_are_counted_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    found = tg.summary(net, 4)
    assert found.total_params == 24
    assert [(r.parameters, r.shared) for r in found.rows] == [(20, False), (0, False), (4, True)]
    assert "4 (shared)" in str(found)
    twice = nn.Linear(4, 4)
    found = tg.summary(nn.Sequential(twice, nn.ReLU(), twice), 4)
    assert [(r.path, r.calls, r.parameters) for r in found.rows] == [("0", 2, 20), ("1", 1, 0)]


def test_the_batch_axis_is_found_wherever_it_is():
    class Turned(nn.Module):
        def forward(self, x):
            return x.T, x.reshape(-1), x.sum()

    assert rows(tg.summary(Turned(), 5))[""].output_shape == [(5, None), (None,), ()]
    assert rows(tg.summary(nn.Linear(3, 2), (7, 3)))[""].output_shape == (None, 7, 2)
    assert rows(tg.summary(nn.Identity(), ()))[""].output_shape == (None,)


def test_batch_size_and_input_data_are_shown_as_they_are():
    layer = nn.Linear(3, 2)
    found = tg.summary(layer, 3, batch_size=32)
    assert rows(found)[""].output_shape == (32, 2)
    assert "Layer outputs: 256.00 B" in str(found) and "a sample" not in str(found)
    assert rows(tg.summary(layer, input_data=tg.ones(4, 3)))[""].output_shape == (4, 2)
    net = Net()
    assert rows(tg.summary(net, input_data=[tg.ones(4, 3), tg.ones(4, 3)]))["out"].output_shape == (4, 5)
    assert rows(tg.summary(net, input_data={"a": tg.ones(4, 3), "b": tg.ones(4, 3)}))["out"].output_shape == (4, 5)


def test_integer_inputs():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(tg.ones(10, 4))

        def forward(self, i):
            return self.weight[i]

    assert rows(tg.summary(Table(), 6, dtypes=tg.int64))[""].output_shape == (None, 6, 4)
    assert rows(tg.summary(Table(), input_data=tg.tensor([[1, 2]])))[""].output_shape == (1, 2, 4)
    with pytest.raises(RuntimeError, match=r"Table cannot be run on inputs of shapes \(2, 6\)"):
        tg.summary(Table(), 6)


def test_calls_of_other_shapes():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(tg.cat([self.relu(x), x], 1))

    assert rows(tg.summary(Growing(), 3))["relu"].output_shape == "multiple"
    cell = nn.LSTMCell(3, 4)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            return nn.run_cell(self.cell, x)[0]

    found = tg.summary(Reader(), (9, 3))
    assert found.rows[0].label == "cell (LSTMCell) ×9"
    assert found.rows[0].output_shape == [(None, 4), (None, 4)]


class Restless(nn.Module):
    """Changes all that it can in forward, whatever its mode."""

    def __init__(self, fail=False):
        super().__init__()
        self.fail = fail
        self.norm = nn.BatchNorm1d(3)
        self.still = nn.BatchNorm1d(3).eval()
        self.register_buffer("count", tg.zeros(2))
        self.register_buffer("other", tg.zeros(2))

    def forward(self, x):
        self.count.add_(1)
        self.other = tg.ones(2)
        x = self.still(self.norm(x)) + tg.rand(3)
        if self.fail:
            raise KeyError("on purpose")
        return x


@pytest.mark.parametrize("fail", [False, True])
def test_nothing_is_left_behind(fail):
    net = Restless(fail)
    net.norm.weight.grad = tg.ones(3)
    seen = []
    handle = net.norm.register_forward_hook(lambda *args: seen.append(1))
    other, versions = net.other, [b._version for b in net.buffers()]
    before, modes = {k: v.tolist() for k, v in net.state_dict().items()}, [m.training for m in net.modules()]
    tg.manual_seed(1), tg.randn(5)
    if fail:
        with pytest.raises(RuntimeError, match=r"summary: Restless cannot be run on inputs of shapes \(2, 3\): 'on purpose'"):
            tg.summary(net, 3)
    else:
        tg.summary(net, 3)
    assert {k: v.tolist() for k, v in net.state_dict().items()} == before
    assert [m.training for m in net.modules()] == modes == [True, True, False]
    assert net.other is other
    assert [b._version for n, b in net.named_buffers() if "running" in n] == versions[2:4] + versions[5:7]
    drawn = tg.randn(3).tolist()
    tg.manual_seed(1), tg.randn(5)
    assert drawn == tg.randn(3).tolist()
    assert net.norm.weight.grad.tolist() == [1, 1, 1] and net.still.weight.grad is None
    assert [len(m._hooks) for m in net.modules()] == [0, 1, 0]
    assert tg.is_grad_enabled()
    assert len(seen) == (1 if fail else 2)
    handle.remove()


def test_html():
    class Less(nn.Module):
        def forward(self, x):
            return {"<b>": x}

    text = tg.summary(Less(), 3)._repr_html_()
    assert text.startswith("<table>") and "&lt;b&gt;" in text and "<b>'" not in text
    assert tg.summary(MLP(10, 20, 2), 10)._repr_html_().count("<tr>") == 4


def test_a_tensors_html_says_what_is_not_finite_and_never_warns():
    assert "<p>min 1, mean 1.5, max 2, std 0.5 of the finite; <b>1 NaN</b></p>" in tg.tensor([1.0, 2.0, float("nan")])._repr_html_()
    assert "<p>no finite value; <b>1 NaN, 1 infinite</b></p>" in tg.tensor([float("nan"), float("inf")])._repr_html_()
    assert "std inf" in tg.tensor([1e308, -1e308], dtype=tg.float64)._repr_html_()


def test_a_model_may_take_nothing():
    class Constant(nn.Module):
        def forward(self):
            return tg.ones(2)

    for nothing in ((), [], {}):
        assert tg.summary(Constant(), input_data=nothing).rows[0].output_shape == (2,)


def test_sizes_in_words():
    big = nn.Linear(1000, 1000)
    text = str(tg.summary(big, 1000))
    assert "Total params: 1,001,000 (3.82 MB)" in text and "Linear" in text and "1,001,000 │" in text
    assert tg.summary(nn.Linear(3, 2, dtype=tg.float64), 3, dtypes="float64").param_bytes == 64


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tg.summary("net", 3), TypeError, "model must be a Module; got str"),
        (lambda: tg.summary(nn.ReLU()), TypeError, "give input_size"),
        (lambda: tg.summary(nn.ReLU(), 3, input_data=tg.ones(3)), TypeError, "give input_size"),
        (lambda: tg.summary(nn.ReLU(), 2.5), TypeError, "got float"),
        (lambda: tg.summary(nn.ReLU(), "3"), TypeError, "got str"),
        (lambda: tg.summary(nn.ReLU(), (None, 3)), ValueError, "leave the None of the batch out"),
        (lambda: tg.summary(nn.ReLU(), (-1,)), ValueError, "holds lengths"),
        (lambda: tg.summary(nn.ReLU(), 3, batch_size=0), ValueError, "positive integer"),
        (lambda: tg.summary(nn.ReLU(), [(3,), (3,)], dtypes=["float32"]), ValueError, "one for each of the 2 inputs"),
        (lambda: tg.summary(nn.ReLU(), input_data=tg.ones(3), batch_size=4), TypeError, "go with input_size"),
        (lambda: tg.summary(nn.Linear(3, 4), 5), RuntimeError, r"Linear cannot be run on inputs of shapes \(2, 5\): mat1 and mat2"),
    ],
)
def test_what_is_wrong_is_said(call, error, words):
    with pytest.raises(error, match=words):
        call()
