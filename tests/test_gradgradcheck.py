"""gradgradcheck: whether the gradient itself has a right gradient."""

import numpy as np
import pytest
from test_gradcheck import leaf

import tinygrad_norm as tg
from tinygrad_norm.autograd import GradcheckError, gradgradcheck


def test_the_upstream_gradients_are_random_or_given_contiguous_or_not():
    seen = []

    class Doubled(tg.autograd.Function):
        def forward(self, x):
            return 2 * x

        def backward(self, g):
            seen.append(getattr(g, "_data", g).flags.c_contiguous)
            return 2 * g

    assert gradgradcheck(Doubled.apply, leaf(3, 2)) and all(seen)
    assert gradgradcheck(Doubled.apply, leaf(3, 2), gen_non_contig_grad_outputs=True) and not all(seen)
    assert gradgradcheck(lambda x: x * 2, leaf(3))
    assert gradgradcheck(tg.exp, leaf(3), [leaf(3, seed=4)], fast_mode=True)


def product(dx, dw):
    """x·w, whose backward hands what it returns through dx and dw."""

    class Product(tg.autograd.Function):
        def forward(self, x, w):
            self.save_for_backward(x, w)
            return x * w

        def backward(self, g):
            x, w = self.saved_tensors
            return dx(g * w), dw(g * x)

    return Product.apply


def kept(g):
    return g


def cut(g):
    return g.detach() if isinstance(g, tg.Tensor) else g


@pytest.mark.parametrize("fast_mode", [False, True])
def test_a_gradient_that_its_backward_detaches_is_found_out(fast_mode):
    """torch.autograd.gradgradcheck leaves a gradient without a graph out, and passes it."""
    inputs = leaf(2), leaf(2, seed=1)
    assert gradgradcheck(product(kept, kept), inputs, fast_mode=fast_mode)
    for name, backward in (("dx", product(cut, kept)), ("dw", product(kept, cut))):
        with pytest.raises(GradcheckError) as error:
            gradgradcheck(backward, inputs, fast_mode=fast_mode)
        assert f"{name} (2,) changes with" in str(error.value) and "its graph does not lead there: a detach()" in str(error.value)
    with pytest.raises(GradcheckError, match=r"do not depend on anything: it is linear.*or its backward detaches them"):
        gradgradcheck(product(cut, cut), inputs, fast_mode=fast_mode)


@pytest.mark.parametrize("fast_mode", [False, True])
def test_a_gradient_that_is_constant_has_no_graph_and_needs_none(fast_mode):
    class Scaled(tg.autograd.Function):
        def forward(self, x, step):
            self.save_for_backward(x)
            return x**2 * np.sign(step)

        def backward(self, g):
            (x,) = self.saved_tensors
            return 2 * x * g, np.zeros(2)

    assert gradgradcheck(Scaled.apply, (leaf(2), tg.tensor([1.0, 2.0], dtype=tg.float64, requires_grad=True)), fast_mode=fast_mode)
