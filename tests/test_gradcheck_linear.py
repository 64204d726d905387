"""A backward is linear in the gradient from above, and the gradients of several outputs add: gradcheck asks for both."""

import numpy as np
import pytest

import tinygrad_norm as tg


@pytest.mark.parametrize("turn", [np.abs, lambda g: np.maximum(g, 0), lambda g: np.clip(g, -1, 1)], ids=["abs", "relu", "clip"])
def test_a_backward_that_is_not_linear_in_one_upstream_number(turn):
    class Turned(tg.autograd.Function):
        def forward(self, x):
            self.save_for_backward(x)
            return np.asarray((x * x).sum())

        def backward(self, g):
            (x,) = self.saved_tensors
            return 2 * x * turn(g)

    report = tg.autograd.gradcheck_report(Turned.apply, tg.tensor([1.0, 2.0], dtype=tg.float64, requires_grad=True))
    assert not report.ok and "is not linear in the upstream gradient dy" in str(report)


def test_fast_mode_sees_a_gradient_that_is_dropped_where_there_are_two():
    class Pair(tg.autograd.Function):
        def forward(self, x):
            self.save_for_backward(x)
            return x * 2, x**2

        def backward(self, g, h):
            (x,) = self.saved_tensors
            return 2 * g if np.any(g) and np.any(h) else 2 * g + 2 * x * h

    x = tg.tensor([1.0, 2.0, 0.5], dtype=tg.float64, requires_grad=True)
    for fast in (False, True):
        report = tg.autograd.gradcheck_report(Pair.apply, x, fast_mode=fast)
        assert not report.ok and "where all outputs have a gradient" in str(report)
        assert tg.autograd.gradcheck_report(lambda x: (x * 2, x**2), x, fast_mode=fast).ok


@pytest.mark.parametrize("fast_mode", [False, True])
def test_a_float32_gradient_of_a_float64_input_is_named_and_not_called_nonlinear(fast_mode):
    class Square(tg.autograd.Function):
        def forward(self, x):
            self.save_for_backward(x)
            return x**2

        def backward(self, g):
            (x,) = self.saved_tensors
            return (2 * x * g).astype(np.float32)

    x = tg.tensor(np.random.RandomState(0).standard_normal(5), requires_grad=True)
    for function in (Square.apply, lambda x: tg.exp(Square.apply(x.tanh()))):
        report = tg.autograd.gradcheck_report(function, x, fast_mode=fast_mode)
        assert len(report.problems) == 1
        assert report.problems[0].startswith("SquareBackward returns a float32 gradient for input 0, which is float64: the precision is lost on the way")
    single = tg.tensor(x.tolist(), dtype=tg.float32, requires_grad=True)
    assert tg.autograd.gradcheck_report(Square.apply, single, fast_mode=fast_mode, rtol=1e-2, atol=1e-2).problems == []
