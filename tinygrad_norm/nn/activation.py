"""Activations that work on each element alone: ReLU, GELU, SiLU; the modules of tanh and sigmoid, whose formulas stand in ops/unary.

    ReLU          yᵢ = max(xᵢ, 0)                                                                    (1)
    GELU          yᵢ = xᵢ Φ(xᵢ),   Φ(x) = ½ (1 + erf(x/√2))        Hendrycks & Gimpel 2016, arXiv:1606.08415
    SiLU          yᵢ = xᵢ σ(xᵢ),   σ(x) = 1/(1 + e^(−x))           the same; "swish" in Ramachandran et al. 2017, arXiv:1710.05941

The Jacobian of such a function is diagonal, so dxᵢ = dyᵢ·y′(xᵢ). ReLU lets an input through or not; the other two weigh it by a
probability that grows with it, and are smooth, so that they have derivatives of every order.

    1. ReLU   2. GELU   3. SiLU   4. For users
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..function import Function
from ..kernel import as_it_lies, device, kernel, prange, ready
from ..ops.arithmetic import select
from ..ops.operands import as_array, check_tensor
from ..ops.unary import erf, sigmoid, tanh
from ..tensor import Tensor, write_in_place
from .module import Module
from .softmax import EXP_WORK, exp, exp_below, floating_input, is_double

__all__ = ["GELU", "ReLU", "SiLU", "Sigmoid", "Tanh", "gelu", "relu", "silu"]

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
        x = as_it_lies(x)
        y = np.empty_like(x)
        relu_forward[x.size](x.ravel("K"), y.ravel("K"))
        self.save_for_backward(y)
        return y

    def backward(self, dy: Any) -> Any:
        (y,) = self.saved_tensors
        if isinstance(dy, Tensor):
            return select(as_array(y) <= 0, y, dy)  # (2), recorded: y is that 0, and has x's place in the graph, so that there is a second derivative, 0
        dx = np.empty(dy.shape, dy.dtype)
        relu_backward[dy.size](y.ravel(), ready(dy).ravel(), dx.ravel())
        return dx


# -- 2. GELU --------------------------------------------------------------------------------------------------------------------------
#
# With φ the density of the normal distribution, whose integral Φ is:
#
#     y = x Φ(x),   y′ = Φ(x) + x φ(x),   φ(x) = e^(−x²/2)/√(2π)                                      (3)
#
# In float64 Φ comes from the C library's erfc, one element at a time. In float32 from one exponential and a polynomial, which are computed
# for a whole register at once:
#
#     Φ(−|x|) = ½ t Q(t) e^(−x²/2),   t = 1/(1 + 0.34 |x|/√2),   Φ(|x|) = 1 − Φ(−|x|)                   (4)
#
# The form is that of Abramowitz & Stegun 7.1.26; Q, of degree 6, is fitted to it by weighted least squares: the fit is off by 3e-8 at most,
# and Φ by 2.3e-7, with the rounding of what is computed in float32. On the negative side nothing cancels: of the small values there five
# digits are right at x = −4, and three at −8. For the same reason the float64 kernel takes ½ erfc(−x/√2), which is Φ as well.
#
# The approximation by tanh is GPT-2's:
#
#     y = ½ x (1 + tanh u),   u = √(2/π) (x + 0.044715 x³),   y′ = ½ (1 + tanh u) + ½ x (1 − tanh²u) u′   (5)

ROOT_HALF, DENSITY = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)
ROOT_HALF32, DENSITY32, STRETCH = np.float32(ROOT_HALF), np.float32(DENSITY), np.float32(0.34)
HALF, ONE, ZERO = np.float32(0.5), np.float32(1), np.float32(0)
Q0, Q1, Q2, Q3, Q4, Q5, Q6 = (
    np.float32(c) for c in (0.18014728, 0.30506422, -0.2860514, 1.2112111, -1.2510082, 1.0876219, -0.24698491)
)


@device
def normal32(x):  # type: ignore[no-untyped-def]
    """Φ(x) and φ(x) in float32, (4)."""
    a = abs(x) * ROOT_HALF32
    t = ONE / (ONE + STRETCH * a)
    e = exp_below(-a * a, None)
    tail = HALF * t * ((((((Q6 * t + Q5) * t + Q4) * t + Q3) * t + Q2) * t + Q1) * t + Q0) * e
    return tail if x < ZERO else ONE - tail, DENSITY32 * e


@device
def normal(x, double):  # type: ignore[no-untyped-def]
    """Φ(x) and φ(x)."""
    if double is None:
        return normal32(x)
    return 0.5 * math.erfc(-x * ROOT_HALF), DENSITY * exp_below(-0.5 * x * x, double)


def _phi(x: Any) -> tuple[Any, Any]:
    """Φ(x) and φ(x) of an array or a Tensor."""
    if isinstance(x, Tensor):
        return 0.5 * (1 + erf(x * ROOT_HALF)), (x * x * -0.5).exp() * DENSITY
    cumulative = np.array([0.5 * math.erfc(-v * ROOT_HALF) for v in x.reshape(-1).tolist()], x.dtype).reshape(x.shape)
    return cumulative, np.exp(-0.5 * x * x) * DENSITY


def gelu_forward_reference(x: Array, double: bool | None, y: Array) -> None:
    """Equation (3)."""
    y[:] = x * _phi(x)[0]


@kernel(reference=gelu_forward_reference)
def gelu_forward(x, double, y):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        cumulative, _ = normal(x[i], double)
        y[i] = x[i] * cumulative  # (3)


def gelu_backward_reference(x: Array, dy: Array, double: bool | None, dx: Array) -> None:
    """Equation (3)."""
    cumulative, density = _phi(x)
    dx[:] = dy * (cumulative + x * density)


@kernel(reference=gelu_backward_reference)
def gelu_backward(x, dy, double, dx):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        cumulative, density = normal(x[i], double)
        dx[i] = dy[i] * (cumulative + x[i] * density)  # (3)


class GELUFunction(Function):
    """y = x Φ(x), by (3)."""

    name = "GeluBackward0"
    fresh_gradients = True

    def forward(self, x: Array) -> Array:
        self.save_for_backward(x)
        x = as_it_lies(x)
        y = np.empty_like(x)
        gelu_forward[2 * EXP_WORK * x.size](x.ravel("K"), is_double(x), y.ravel("K"))
        return y

    def backward(self, dy: Any) -> Any:
        (x,) = self.saved_tensors
        if isinstance(dy, Tensor):
            cumulative, density = _phi(x)
            return dy * (cumulative + x * density)  # (3)
        dx = np.empty(x.shape, x.dtype)
        gelu_backward[2 * EXP_WORK * x.size](ready(x).reshape(-1), ready(dy).reshape(-1), is_double(x), dx.reshape(-1))
        return dx


class TanhGELUFunction(Function):
    """y = ½ x (1 + tanh u), by (5)."""

    name = "GeluBackward0"

    def forward(self, x: Array) -> Any:
        self.save_for_backward(x)
        with np.errstate(all="ignore"):
            return 0.5 * x * (1 + np.tanh(self._inner(x)))

    @staticmethod
    def _inner(x: Any) -> Any:
        return math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))

    def backward(self, dy: Any) -> Any:
        (x,) = self.saved_tensors
        u = self._inner(x)
        t = tanh(u) if isinstance(u, Tensor) else np.tanh(u)
        slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * (x * x))
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)  # (5)


# -- 3. SiLU --------------------------------------------------------------------------------------------------------------------------
#
# From σ′ = σ (1 − σ):
#
#     y = x σ(x),   y′ = σ + x σ (1 − σ) = σ (1 + x (1 − σ))                                          (6)


def silu_forward_reference(x: Array, double: bool | None, y: Array) -> None:
    """Equation (6)."""
    y[:] = x / (1 + np.exp(-x))


@kernel(reference=silu_forward_reference)
def silu_forward(x, double, y):  # type: ignore[no-untyped-def]
    one = x.dtype.type(1)
    for i in prange(len(x)):
        y[i] = x[i] / (one + exp(-x[i], double))  # (6)


def silu_backward_reference(x: Array, dy: Array, double: bool | None, dx: Array) -> None:
    """Equation (6)."""
    s = 1 / (1 + np.exp(-x))
    dx[:] = dy * s * (1 + x * (1 - s))


@kernel(reference=silu_backward_reference)
def silu_backward(x, dy, double, dx):  # type: ignore[no-untyped-def]
    one = x.dtype.type(1)
    for i in prange(len(x)):
        s = one / (one + exp(-x[i], double))
        dx[i] = dy[i] * s * (one + x[i] * (one - s))  # (6)


class SiLUFunction(Function):
    """y = x σ(x), by (6)."""

    name = "SiluBackward0"
    fresh_gradients = True

    def forward(self, x: Array) -> Array:
        self.save_for_backward(x)
        x = as_it_lies(x)
        y = np.empty_like(x)
        silu_forward[EXP_WORK * x.size](x.ravel("K"), is_double(x), y.ravel("K"))
        return y

    def backward(self, dy: Any) -> Any:
        (x,) = self.saved_tensors
        if isinstance(dy, Tensor):
            s = sigmoid(x)
            return dy * s * (1 + x * (1 - s))  # (6)
        dx = np.empty(x.shape, x.dtype)
        silu_backward[EXP_WORK * x.size](ready(x).reshape(-1), ready(dy).reshape(-1), is_double(x), dx.reshape(-1))
        return dx


# -- 4. For users ---------------------------------------------------------------------------------------------------------------------


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


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), elementwise, with Φ the normal distribution's cumulative function; Hendrycks & Gimpel 2016.

    At +inf torch gives NaN; here it is +inf.

    Args:
        input: of any shape, float32 or float64.
        approximate: "none", or "tanh" for GPT-2's ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))).
    Returns:
        A Tensor of input's shape and type.
    Raises:
        RuntimeError: another word for approximate. NotImplementedError: the type is not floating point.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.gelu(tg.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.1587,  0.0000,  0.8413])
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate argument must be either none or tanh; got {approximate!r}")
    y: Tensor = (GELUFunction if approximate == "none" else TanhGELUFunction).apply(floating_input("gelu", input))
    return y


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x σ(x), elementwise, with σ the sigmoid; Hendrycks & Gimpel 2016.

    Args:
        input: of any shape, float32 or float64.
        inplace: write the result into input's own memory and return input.
    Returns:
        A Tensor of input's shape and type.
    Raises:
        NotImplementedError: the type is not floating point. RuntimeError: inplace, and input is a leaf that requires a gradient.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.silu(tg.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.2689,  0.0000,  0.7311])
    """
    x = floating_input("silu", input)
    return write_in_place(x, SiLUFunction.apply) if inplace else SiLUFunction.apply(x)


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


class GELU(Module):
    """x Φ(x), elementwise.

    Args:
        approximate: "none" or "tanh".

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.GELU()
        >>> layer, layer(tg.tensor([-1.0, 2.0]))
        (GELU(approximate='none'), tensor([-0.1587,  1.9545]))
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return gelu(input, self.approximate)

    def extra_repr(self) -> str:
        """approximate."""
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x σ(x), elementwise.

    Args:
        inplace: write the result into the input's own memory.

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.SiLU()
        >>> layer, layer(tg.tensor([-1.0, 2.0]))
        (SiLU(), tensor([-0.2689,  1.7616]))
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return silu(input, self.inplace)

    def extra_repr(self) -> str:
        """inplace, where it is so."""
        return "inplace=True" if self.inplace else ""


class Tanh(Module):
    """The hyperbolic tangent, elementwise; formula and gradient in ops/unary.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.Tanh()(tg.zeros(1))
        tensor([0.])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return tanh(input)


class Sigmoid(Module):
    """1/(1 + e^(−x)), elementwise; formula and gradient in ops/unary.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.Sigmoid()(tg.zeros(1))
        tensor([0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return sigmoid(input)
