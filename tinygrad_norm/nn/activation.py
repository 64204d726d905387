"""Activations that work on each element alone: ReLU; the modules of tanh and sigmoid, whose formulas stand in ops/elementwise.

    ReLU          yᵢ = max(xᵢ, 0)                                                                    (1)

The Jacobian of such a function is diagonal: dxᵢ = dyᵢ·y′(xᵢ).

    1. ReLU   2. For users
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernel import kernel, prange, ready
from ..ops.elementwise import as_array, check_tensor, select, sigmoid, tanh
from ..tensor import Function, Tensor, write_in_place
from .module import Module

__all__ = ["ReLU", "Sigmoid", "Tanh", "relu"]

Array = np.ndarray[Any, Any]

# -- 1. ReLU --------------------------------------------------------------------------------------------------------------------------
#
# From (1), ∂yᵢ/∂xᵢ is 1 where xᵢ > 0 and 0 where xᵢ < 0. At 0 there is a corner; any number from 0 to 1 is a subgradient, and torch's
# choice is 0:
#
#     dxᵢ = dyᵢ if yᵢ > 0, else 0                                                                     (2)
#
# y says as much as x, and the next layer keeps y alive anyway, so y is what is saved. (2) picks; it does not multiply by a mask of 0 and
# 1, for 0·inf is NaN. `not y <= 0` lets NaN through in both directions: a NaN must be seen, not turned into a 0.


def relu_forward_reference(x: Array, y: Array) -> None:
    """Equation (1)."""
    np.maximum(x, 0, out=y)


@kernel(reference=relu_forward_reference)
def relu_forward(x, y):  # type: ignore[no-untyped-def]
    zero = x.dtype.type(0)
    for i in prange(len(x)):
        y[i] = zero if x[i] <= zero else x[i]  # (1)


def relu_backward_reference(y: Array, dy: Array, dx: Array) -> None:
    """Equation (2)."""
    dx[:] = np.where(y <= 0, dy.dtype.type(0), dy)


@kernel(reference=relu_backward_reference)
def relu_backward(y, dy, dx):  # type: ignore[no-untyped-def]
    zero = dy.dtype.type(0)
    for i in prange(len(y)):
        dx[i] = zero if y[i] <= zero else dy[i]  # (2)


class ReLUFunction(Function):
    """y = max(x, 0), by (1) and (2)."""

    name = "ReluBackward0"
    fresh_gradients = True

    def forward(self, x: Array) -> Array:
        y = np.empty(x.shape, x.dtype)
        relu_forward(x.size, ready(x).reshape(-1), y.reshape(-1))
        self.save_for_backward(y)
        return y

    def backward(self, dy: Any) -> Any:
        (y,) = self.saved_tensors
        if isinstance(dy, Tensor):
            return select(as_array(y) <= 0, 0.0, dy)  # (2), recorded: linear in dy, constant in y wherever there is a derivative
        dx = np.empty(dy.shape, dy.dtype)
        relu_backward(dy.size, ready(y).reshape(-1), ready(dy).reshape(-1), dx.reshape(-1))
        return dx


# -- 2. For users ---------------------------------------------------------------------------------------------------------------------


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0), elementwise; its gradient is 0 at 0 and below, and NaN stays NaN.

    Args:
        input: of any shape and any type but bool.
        inplace: write the result into input's own memory and return input.
    Returns:
        A Tensor of input's shape and type.
    Raises:
        RuntimeError: input is bool; or inplace, and input is a leaf that requires a gradient.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.tensor([-1.0, 0.0, 2.0]).relu()
        tensor([0., 0., 2.])
    """
    check_tensor(input, "relu")
    if input._data.dtype.kind == "b":
        raise RuntimeError("Boolean inputs not supported for relu: convert the input with .float()")
    return write_in_place(input, ReLUFunction.apply) if inplace else ReLUFunction.apply(input)


class ReLU(Module):
    """max(x, 0), elementwise.

    Args:
        inplace: write the result into the input's own memory.

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.ReLU()
        >>> layer, layer(tg.tensor([-1.0, 2.0]))
        (ReLU(), tensor([0., 2.]))
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return relu(input, self.inplace)

    def extra_repr(self) -> str:
        """inplace, where it is so."""
        return "inplace=True" if self.inplace else ""


class Tanh(Module):
    """The hyperbolic tangent, elementwise; formula and gradient in ops/elementwise.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.Tanh()(tg.zeros(1))
        tensor([0.])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return tanh(input)


class Sigmoid(Module):
    """1/(1 + e^(−x)), elementwise; formula and gradient in ops/elementwise.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.Sigmoid()(tg.zeros(1))
        tensor([0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return sigmoid(input)
