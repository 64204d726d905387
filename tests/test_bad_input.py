"""Wrong calls of everything public (bad_input.txt): each raises its class with a message that helps, and leaves everything as it was."""

import builtins
import contextlib
import copy
import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import tinygrad_norm as tg
from tinygrad_norm import nn
from tinygrad_norm.cli import main
from tinygrad_norm.train import plot_history, train
from tinygrad_norm.utils import data

Function = tg.autograd.Function


class Wrong(Function):
    """x ↦ 2x with the gradient that `answer` makes of g."""

    answer = None

    def forward(self, x):
        return x * 2.0

    def backward(self, g):
        return self.answer(g)


def wrong(answer):
    return type("Wrong", (Wrong,), {"answer": staticmethod(answer)})


def command(args):
    """The command line; its exit code and its one line of error as an exception."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            code = main(args)
        except SystemExit as stop:
            code = stop.code
    text = err.getvalue()
    assert code == 2 and len(text.splitlines()) == 1, (code, text)
    raise RuntimeError(text)


def world():
    tg.manual_seed(0)
    x = tg.randn(3, 4, requires_grad=True)
    other = tg.ones(2, requires_grad=True)
    lin = nn.Linear(4, 2)
    opt = tg.optim.SGD(lin.parameters(), lr=0.1, momentum=0.9)
    lin(tg.randn(2, 4)).sum().backward()
    opt.step()
    readonly = np.ones(3)
    readonly.flags.writeable = False

    def twice():
        loss = (x * x).sum()
        tg.autograd.grad(loss, x)
        loss.backward()

    def changed():
        y = x * 1.0
        z = (y * y).sum()
        y.add_(1.0)
        z.backward()

    def hook_answer():
        y = x * 1.0
        y.register_hook(lambda g: 3)
        y.sum().backward()

    def apply(answer):
        return lambda: wrong(answer).apply(x).sum().backward()

    def no_forward():
        class Nothing(Function):
            pass

        Nothing.apply(x)

    def no_backward():
        class Forward(Function):
            def forward(self, a):
                return a * 2.0

        Forward.apply(x).sum().backward()

    def forward_type():
        class Text(Function):
            def forward(self, a):
                return "text"

        Text.apply(x)

    def inference_grad():
        with tg.inference_mode():
            y = tg.ones(3)
        y.requires_grad_()

    def before_init():
        class Early(nn.Module):
            def __init__(self):
                self.fc = nn.Linear(1, 1)

        Early()

    def nan_grads():
        p = nn.Parameter(tg.ones(2))
        p.grad = tg.full((2,), float("nan"))
        return [p]

    def generator_function():
        yield 1

    return {
        "tg": tg, "nn": nn, "F": nn.functional, "np": np, "data": data, "copy": copy, "pickle": pickle, "train": train, "plot_history": plot_history, "main": command,
        "x": x, "v": tg.ones(4), "i": tg.tensor([0, 1, 2]), "b": tg.ones(3, 4) > 0, "e": tg.zeros(0, 4), "s": tg.tensor(1.0), "d": tg.ones(3, 4, dtype=tg.float64),
        "dg": tg.randn(3, dtype=tg.float64, requires_grad=True), "other": other, "readonly": readonly,
        "lin": lin, "ln": nn.LayerNorm(4), "bn": nn.BatchNorm1d(4), "opt": opt, "sched": tg.optim.lr_scheduler.StepLR(opt, 2), "gen": tg.Generator().manual_seed(1),
        "ds": data.TensorDataset(tg.ones(3, 2), tg.arange(3)), "twice": twice, "changed": changed, "hook_answer": hook_answer,
        "wrong_count": apply(lambda g: (g, g)), "wrong_shape": apply(lambda g: g.sum(0)), "wrong_type": apply(lambda g: "text"),
        "no_forward": no_forward, "no_backward": no_backward, "forward_type": forward_type, "inference_grad": inference_grad, "before_init": before_init,
        "nan_grads": nan_grads, "if_": lambda condition: 1 if condition else 0, "generator_function": generator_function, "wrong_gradient": lambda a: wrong(lambda g: g * 3.0).apply(a),
    }  # fmt: skip


def snapshot(value):
    """Everything that a call must leave as it was."""
    if isinstance(value, tg.Tensor):
        return value.numpy().tobytes() if not value.requires_grad else value.detach().numpy().tobytes(), value.shape, value.dtype, value.requires_grad, value._version, snapshot(value._grad)
    if isinstance(value, np.ndarray):
        return value.tobytes(), value.shape
    if isinstance(value, nn.Module):
        return list(value._registry.items()), len(value._hooks), value.training, [snapshot(v) for v in (*value.parameters(), *value.buffers())], [snapshot(c) for c in value.children()]
    if isinstance(value, tg.optim.Optimizer):
        return [(k, snapshot(v)) for k, v in value.state_dict().items()], len(value.param_groups), [snapshot(p) for g in value.param_groups for p in g["params"]]
    if isinstance(value, tg.optim.lr_scheduler.LRScheduler):
        return snapshot(value.state_dict())
    if isinstance(value, tg.Generator):
        return snapshot(value.get_state())
    if isinstance(value, dict):
        return [(k, snapshot(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [snapshot(v) for v in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)


CALLS = [line.split("  =>  ") for line in Path(__file__).with_name("bad_input.txt").read_text(encoding="utf-8").splitlines() if "  =>  " in line]
DRAWS = ("nn.", "train(", "before_init(", "list(data.DataLoader(")  # make a layer or begin to iterate before they fail


def test_there_are_many_and_no_two_are_alike():
    assert len(CALLS) == len({call for call, _ in CALLS}) > 600


@pytest.mark.parametrize(("call", "outcome"), CALLS, ids=[call for call, _ in CALLS])
def test_a_wrong_call_says_what_is_wrong_and_changes_nothing(call, outcome, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = world()
    kind, _, piece = outcome.partition(": ")
    outside = [] if call.startswith(DRAWS) else [tg.random.get_rng_state()]
    before = snapshot([names, outside, tg.is_grad_enabled(), tg.get_backend(), tg.get_num_threads()])
    with pytest.raises(getattr(builtins, kind, None) or getattr(tg.autograd, kind), match=re.escape(piece)) as caught:
        eval(call, names)
    assert type(caught.value).__name__ == kind
    del names["__builtins__"]
    outside = [] if call.startswith(DRAWS) else [tg.random.get_rng_state()]
    assert snapshot([names, outside, tg.is_grad_enabled(), tg.get_backend(), tg.get_num_threads()]) == before
    assert list(tmp_path.iterdir()) == []
