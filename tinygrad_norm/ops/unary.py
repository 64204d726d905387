"""Functions of one input, element by element: each forward with its backward under it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..function import Function
from ..kernel import as_it_lies, kernel, prange
from ..quiet import quiet
from ..tensor import Tensor
from .arithmetic import select
from .operands import Number, as_array, check_tensor, constant, fitted, floating, is_number, with_number

Array = np.ndarray[Any, Any]


class Neg(Function):
    """y = −x.  y' = −1."""

    name = "NegBackward0"

    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, g: Any) -> Any:
        return -g


class Exp(Function):
    """y = eˣ.  y' = y."""

    name = "ExpBackward0"

    def forward(self, x: Array) -> Array:
        y = quiet.run(np.exp, x)
        self.save_for_backward(y)
        return y

    def backward(self, g: Any) -> Any:
        (y,) = self.saved_tensors
        return g * y


class Log(Function):
    """y = ln x.  y' = 1/x."""

    name = "LogBackward0"

    def forward(self, x: Array) -> Array:
        self.save_for_backward(x)
        return quiet.run(np.log, x)

    def backward(self, g: Any) -> Any:
        (x,) = self.saved_tensors
        return g / x


class Sqrt(Function):
    """y = √x.  y' = 1/(2y), infinite at 0."""

    name = "SqrtBackward0"

    def forward(self, x: Array) -> Array:
        y = quiet.run(np.sqrt, x)
        self.save_for_backward(y)
        return y

    def backward(self, g: Any) -> Any:
        (y,) = self.saved_tensors
        return g / (2 * y)


class Rsqrt(Function):
    """y = x^(−½).  y' = −y³/2."""

    name = "RsqrtBackward0"

    def forward(self, x: Array) -> Array:
        y = quiet.run(np.divide, 1, quiet.run(np.sqrt, x))
        self.save_for_backward(y)
        return y

    def backward(self, g: Any) -> Any:
        (y,) = self.saved_tensors
        return g * (-0.5 * (y * y * y))


class Abs(Function):
    """y = |x|.  y' = sign x, 0 at 0."""

    name = "AbsBackward0"

    def forward(self, x: Array) -> Array:
        self.save_for_backward(x)
        return np.abs(x)

    def backward(self, g: Any) -> Any:
        (x,) = self.saved_tensors
        x = as_array(x)
        return g * constant((x > 0).astype(x.dtype) - (x < 0), g)  # 0 where it is NaN, as in torch


class Tanh(Function):
    """y = tanh x.  y' = 1 − y²."""

    name = "TanhBackward0"

    def forward(self, x: Array) -> Any:
        y = quiet.run(np.tanh, x)
        self.save_for_backward(y)
        return y

    def backward(self, g: Any) -> Any:
        (y,) = self.saved_tensors
        return g * (1 - y * y)


class Sigmoid(Function):
    """y = 1/(1 + e^(−x)).  y' = y(1 − y)."""

    name = "SigmoidBackward0"

    def forward(self, x: Array) -> Array:
        z = np.exp(-np.abs(x))  # never overflows
        y = np.where(x >= 0, 1 / (1 + z), z / (1 + z))
        y = y.astype(x.dtype, copy=False)
        self.save_for_backward(y)
        return y

    def backward(self, g: Any) -> Any:
        (y,) = self.saved_tensors
        return g * y * (1 - y)


def erf_reference(x: Array, y: Array) -> None:
    """y = 2/√π ∫₀ˣ e^(−t²) dt, one element at a time."""
    y[:] = [math.erf(v) for v in x.tolist()]


@kernel(reference=erf_reference)
def erf_kernel(x, y):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        y[i] = math.erf(x[i])


class Erf(Function):
    """y = erf x.  y' = 2/√π·e^(−x²)."""

    name = "ErfBackward0"

    def forward(self, x: Array) -> Array:
        self.save_for_backward(x)
        x = as_it_lies(x)
        y = np.empty_like(x)
        erf_kernel[8 * x.size](x.ravel("K"), y.ravel("K"))  # 8: about the work of eight sums
        return y

    def backward(self, g: Any) -> Any:
        (x,) = self.saved_tensors
        square = -(x * x)
        return g * (2 / math.sqrt(math.pi)) * (square.exp() if isinstance(x, Tensor) else np.exp(square))


class Clamp(Function):
    """y = x held between low and high; the gradient passes inside and at the bounds."""

    name = "ClampBackward1"

    def forward(self, x: Array, *, low: Number | None, high: Number | None) -> Any:
        self.save_for_backward(x)
        self.low, self.high = low, high
        y = x.copy() if low is None else np.maximum(x, low)
        if high is None:
            self.name = "ClampMinBackward0"
            return y
        return np.minimum(y, high)

    def backward(self, g: Any) -> Any:
        x = as_array(self.saved_tensors[0])
        inside = ~np.isnan(x)
        if self.low is not None:
            inside &= x >= self.low
        if self.high is not None:
            inside &= x <= self.high
        return select(inside, g, 0.0)


# -- For users ---------------------------------------------------------------------------------------------------------------------


def neg(input: Tensor) -> Tensor:
    """−input."""
    check_tensor(input, "neg")
    if input._data.dtype.kind == "b":
        raise RuntimeError("Negation, the `-` operator, on a bool tensor is not supported: use the `~` operator")
    out: Tensor = Neg.apply(input)
    return out


def exp(input: Tensor) -> Tensor:
    """eˣ, elementwise."""
    out: Tensor = Exp.apply(floating(input, "exp"))
    return out


def log(input: Tensor) -> Tensor:
    """The natural logarithm, elementwise; −inf at 0, NaN below."""
    out: Tensor = Log.apply(floating(input, "log"))
    return out


def sqrt(input: Tensor) -> Tensor:
    """√x, elementwise; NaN below 0."""
    out: Tensor = Sqrt.apply(floating(input, "sqrt"))
    return out


def rsqrt(input: Tensor) -> Tensor:
    """1/√x, elementwise."""
    out: Tensor = Rsqrt.apply(floating(input, "rsqrt"))
    return out


def abs(input: Tensor) -> Tensor:
    """|x|, elementwise; its gradient at 0 is 0."""
    check_tensor(input, "abs")
    if input._data.dtype.kind == "b":
        raise RuntimeError("abs is not implemented for bool tensors")
    out: Tensor = Abs.apply(input)
    return out


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent, elementwise."""
    out: Tensor = Tanh.apply(floating(input, "tanh"))
    return out


def sigmoid(input: Tensor) -> Tensor:
    """1/(1 + e^(−x)), elementwise, without overflow."""
    out: Tensor = Sigmoid.apply(floating(input, "sigmoid"))
    return out


def erf(input: Tensor) -> Tensor:
    """The error function, elementwise."""
    out: Tensor = Erf.apply(floating(input, "erf"))
    return out


def clamp(input: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    """input held between min and max; the gradient passes at the bounds."""
    check_tensor(input, "clamp")
    if min is None and max is None:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    bounds: list[Number | None] = []
    for bound in (min, max):
        if isinstance(bound, np.generic):
            bound = bound.item()
        if bound is not None:
            if not is_number(bound):
                raise TypeError(f"clamp: min and max must be numbers; got {type(bound).__name__}: use maximum and minimum for Tensors")
            input, bound = with_number("clamp", input, bound, False)
            fitted("clamp", bound, input._data.dtype)
        bounds.append(bound)
    out: Tensor = Clamp.apply(input, low=bounds[0], high=bounds[1])
    return out
