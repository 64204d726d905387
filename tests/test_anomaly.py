"""detect_anomaly: the op and the line of a NaN in the backward."""

import inspect
import threading

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm import nn
from tinygrad_norm.function import observers
from tinygrad_norm.walk import examiners


def line_of(function, text):
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def root_of_nothing(lib, x):
    inner = x * 0.0
    y = lib.sqrt(inner)  # infinite slope
    return (y * 0.0).sum()


def test_the_line_of_the_forward_is_named():
    x = tg.ones(3, requires_grad=True)
    with tg.autograd.detect_anomaly():
        loss = root_of_nothing(tg, x)
        with pytest.raises(RuntimeError) as caught:
            loss.backward()
    text = str(caught.value)
    assert "Function 'SqrtBackward0' returned nan values in its 0th output: 3 of the 3 elements" in text
    assert f'test_anomaly.py", line {line_of(root_of_nothing, "infinite slope")}, in root_of_nothing\n    y = lib.sqrt(inner)' in text
    assert text.splitlines()[-1].strip() == "y = lib.sqrt(inner)  # infinite slope"  # the innermost line comes last
    assert x.grad is None  # nothing has arrived
    theirs = torch.ones(3, requires_grad=True)
    with pytest.warns(UserWarning, match="Anomaly|Error detected"), torch.autograd.detect_anomaly(), pytest.raises(RuntimeError, match="'SqrtBackward0' returned nan values in its 0th output"):
        root_of_nothing(torch, theirs).backward()


def test_layers_grad_and_create_graph():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(3, eps=0.0)

        def forward(self, x):
            return self.norm(x)  # a constant row

    with tg.autograd.detect_anomaly():
        with pytest.raises(RuntimeError, match=r"Function 'NativeLayerNormBackward0'(.|\n)*in forward\n    return self\.norm\(x\)"):
            Net()(tg.ones(2, 3, requires_grad=True)).sum().backward()
        x = tg.zeros(2, requires_grad=True)
        for create_graph in (False, True):
            with pytest.raises(RuntimeError, match=r"'SqrtBackward0'(.|\n)*the first at|'SqrtBackward0'"):
                tg.autograd.grad((x.sqrt() * 0.0).sum(), x, create_graph=create_graph)


def test_ops_recorded_before_are_named_without_a_line():
    loss = root_of_nothing(tg, tg.ones(3, requires_grad=True))
    with tg.autograd.detect_anomaly(), pytest.raises(RuntimeError, match=r"'SqrtBackward0'.*recorded before detect_anomaly was entered"):
        loss.backward()


def test_infinities_and_finite_gradients_pass():
    x = tg.zeros(2, requires_grad=True)
    with tg.autograd.detect_anomaly():
        x.sqrt().sum().backward()
        (tg.ones(2, requires_grad=True) * x.detach()).sum().backward()
    assert x.grad.tolist() == [np.inf, np.inf]


def test_it_leaves_nothing_behind():
    x = tg.ones(3, requires_grad=True)
    with tg.autograd.detect_anomaly(), tg.autograd.detect_anomaly():
        assert len(observers) == len(examiners) == 1
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), tg.autograd.detect_anomaly():
            raise ZeroDivisionError
    assert not observers and not examiners
    root_of_nothing(tg, x).backward()  # as always: NaN, and no error
    assert np.isnan(x.grad).all()


def test_threads_may_come_and_go():
    failures = []

    def work():
        for _ in range(50):
            x = tg.ones(3, requires_grad=True)
            with tg.autograd.detect_anomaly():
                loss = root_of_nothing(tg, x)
                try:
                    loss.backward()
                except RuntimeError as error:
                    if "in root_of_nothing" not in str(error):
                        failures.append(error)
                else:
                    failures.append("no error")

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures
    assert not examiners
