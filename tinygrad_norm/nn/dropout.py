"""Dropout (Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014): in training each element is left out with probability p.

    yᵢ = xᵢ mᵢ/(1 − p),   mᵢ = 1 with probability 1 − p, else 0,          dxᵢ = dyᵢ mᵢ/(1 − p)          (1)

The factor keeps the mean: E[yᵢ] = xᵢ. So in evaluation, where nothing is left out, nothing is scaled either.

The mask is torch's, from the same stream: two words an element, drawn in the order in which the input lies in memory. That order can be
seen: x.T dropped out is not x dropped out and transposed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..creation import in_memory_order
from ..function import Function
from ..ops.operands import check_tensor
from ..quiet import quiet
from ..random import default_generator
from ..tensor import Tensor, write_in_place
from .module import Module

__all__ = ["Dropout", "dropout"]

Array = np.ndarray[Any, Any]

# -- 1. The mask ----------------------------------------------------------------------------------------------------------------------


def keep_factors(x: Array, p: float) -> Array:
    """m/(1 − p) for the elements of x, in x's order in memory; draws from the default generator unless p is 1."""
    if p == 1:
        return np.zeros_like(x)
    keep = in_memory_order(x, lambda shape: default_generator.bernoulli(1 - p, shape, np.bool_))
    factors: Array = np.multiply(keep, x.dtype.type(1 / (1 - p)), dtype=x.dtype)
    return factors


# -- 2. On the graph ------------------------------------------------------------------------------------------------------------------


class DropoutFunction(Function):
    """y = x ⊙ m/(1 − p), by (1); linear in x, so the backward is the same product."""

    name = "MulBackward0"

    def forward(self, x: Array, *, p: float) -> Any:
        factors = keep_factors(x, p)
        self.save_for_backward(factors)
        return quiet.run(np.multiply, x, factors)

    def backward(self, dy: Any) -> Any:
        (factors,) = self.saved_tensors
        return dy * factors


# -- 3. For users ---------------------------------------------------------------------------------------------------------------------


def check_probability(p: Any) -> float:
    """p is a number from 0 to 1: TypeError or ValueError otherwise."""
    if isinstance(p, bool) or not isinstance(p, (int, float, np.number)):
        raise TypeError(f"dropout probability has to be a number; got {type(p).__name__}")
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return float(p)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element 0 with probability p, else times 1/(1 − p), where training; the input itself otherwise; Srivastava et al. 2014.

    Args:
        input: of any shape, float32 or float64.
        p: the probability of leaving out, from 0 to 1.
        training: whether anything is left out.
        inplace: write the result into input's own memory and return input.
    Returns:
        A Tensor of input's shape and type; with p = 1 all 0, but NaN where the input is NaN or infinite, as in torch.
    Raises:
        ValueError: p outside [0, 1]. RuntimeError: the input is not floating point; or inplace, and it is a leaf that requires a gradient.

    Example:
        >>> import tinygrad_norm as tg
        >>> _ = tg.manual_seed(0)
        >>> tg.nn.functional.dropout(tg.ones(6), 0.5)
        tensor([0., 0., 2., 0., 0., 0.])
    """
    check_tensor(input, "dropout")
    p = check_probability(p)
    if not training or p == 0:
        return input
    if input._data.dtype.kind != "f":
        raise RuntimeError(f"dropout: the input must be floating point, since what is kept is scaled; got {input.dtype}: convert it with .float()")
    return write_in_place(input, DropoutFunction.apply, p=p) if inplace else DropoutFunction.apply(input, p=p)


class Dropout(Module):
    """In training each element is 0 with probability p, else times 1/(1 − p); in evaluation nothing happens.

    Args:
        p: the probability of leaving out.
        inplace: write the result into the input's own memory.
    Raises:
        ValueError: p outside [0, 1].

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.Dropout(0.2)
        >>> layer, layer.eval()(tg.ones(2))
        (Dropout(p=0.2, inplace=False), tensor([1., 1.]))
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        check_probability(p)
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        """p and inplace."""
        return f"p={self.p}, inplace={self.inplace}"
