"""Arithmetic of two inputs, element by element: each forward with its backward under it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..dtype import dtype_of, promote
from ..function import Function
from ..quiet import quiet
from ..tensor import Tensor, write_in_place
from .operands import Number, as_array, broadcast_shape, cast, check_tensor, fitted, is_number, operands, sum_to, zeros_like

Array = np.ndarray[Any, Any]


class Add(Function):
    """y = a + b.  ∂y/∂a = ∂y/∂b = 1."""

    name = "AddBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        return quiet.run(np.add, a, b)

    def backward(self, g: Any) -> Any:
        a, b = self.input_shapes
        return sum_to(g, a), sum_to(g, b)


class Sub(Function):
    """y = a − b.  ∂y/∂a = 1, ∂y/∂b = −1."""

    name = "SubBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        return quiet.run(np.subtract, a, b)

    def backward(self, g: Any) -> Any:
        a, b = self.input_shapes
        return sum_to(g, a), None if b is None else sum_to(-g, b)


class Rsub(Sub):
    """The same with the number in front, as torch names it."""

    name = "RsubBackward1"


class Mul(Function):
    """y = a·b.  ∂y/∂a = b, ∂y/∂b = a."""

    name = "MulBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        need_a, need_b = self.needs_input_grad
        self.save_for_backward(a if need_b else None, b if need_a else None)
        return quiet.run(np.multiply, a, b)

    def backward(self, g: Any) -> Any:
        a, b = self.saved_tensors
        shape_a, shape_b = self.input_shapes
        return None if b is None else sum_to(g * b, shape_a), None if a is None else sum_to(g * a, shape_b)


class Div(Function):
    """y = a/b.  ∂y/∂a = 1/b, ∂y/∂b = −a/b²."""

    name = "DivBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        self.save_for_backward(a if self.needs_input_grad[1] else None, b)
        return quiet.run(np.divide, a, b)

    def backward(self, g: Any) -> Any:
        a, b = self.saved_tensors
        shape_a, shape_b = self.input_shapes
        da = g / b
        return sum_to(da, shape_a), None if a is None else sum_to(-da * (a / b), shape_b)


class Pow(Function):
    """y = aᵇ.  ∂y/∂a = b·aᵇ⁻¹ (0 where b = 0), ∂y/∂b = aᵇ·ln a (0 where a = 0 and b ≥ 0)."""

    name = "PowBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        _, need_b = self.needs_input_grad
        y = quiet.run(np.multiply, a, a) if type(b) in (int, float) and b == 2 else quiet.run(np.power, a, b)
        self.save_for_backward(a, b, y if need_b else None)
        if isinstance(b, np.ndarray):
            self.name = "PowBackward1" if isinstance(a, np.ndarray) else "PowBackward2"
        return y

    def backward(self, g: Any) -> Any:
        a, b, y = self.saved_tensors
        shape_a, shape_b = self.input_shapes
        da = db = None
        if shape_a is not None:
            da = zeros_like(g) if is_number(b) and b == 0 else g * (b * a ** (b - 1))
            da = sum_to(da if is_number(b) else select(b == 0, 0.0, da), shape_a)
        if shape_b is not None:
            db = sum_to(g * select((a == 0) & (b >= 0), 0.0, y * _log(a)), shape_b)
        return da, db


def _log(x: Any) -> Any:
    return x.log() if isinstance(x, Tensor) else float(np.log(x)) if is_number(x) else np.log(x)


class Maximum(Function):
    """y = max(a, b), elementwise; equals share the gradient."""

    name = "MaximumBackward0"
    choose: ClassVar[Any] = np.maximum

    def forward(self, a: Any, b: Any) -> Any:
        self.save_for_backward(a, b)
        return type(self).choose(a, b)  # NaN where either is

    def backward(self, g: Any) -> Any:
        a, b = (as_array(v) for v in self.saved_tensors)
        shape_a, shape_b = self.input_shapes
        a_loses, b_loses = (a < b, b < a) if type(self) is Maximum else (b < a, a < b)
        g = select(a == b, g / 2, g)
        da = None if shape_a is None else sum_to(select(a_loses, 0.0, g), shape_a)
        return da, None if shape_b is None else sum_to(select(b_loses, 0.0, g), shape_b)


class Minimum(Maximum):
    """y = min(a, b), elementwise; equals share the gradient."""

    name = "MinimumBackward0"
    choose: ClassVar[Any] = np.minimum


class Where(Function):
    """y = a where the condition holds, else b: each gets the gradient of its own places."""

    name = "WhereBackward0"

    def forward(self, condition: Array, a: Any, b: Any) -> Any:
        self.save_for_backward(condition)
        return np.where(condition, a, b)

    def backward(self, g: Any) -> Any:
        (condition,) = self.saved_tensors
        _, a, b = self.input_shapes
        return (
            None,
            None if a is None else sum_to(select(condition, g, 0.0), a),
            None if b is None else sum_to(select(condition, 0.0, g), b),
        )


def select(condition: Any, a: Any, b: Any) -> Any:
    """where(condition, a, b) on arrays or on Tensors; the numbers among them take the other's element type."""
    condition = as_array(condition)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return Where.apply(condition, a, b)
    kind = b.dtype if is_number(a) and not isinstance(a, np.generic) else a.dtype
    return np.where(condition, a, b).astype(kind, copy=False)


# -- For users ---------------------------------------------------------------------------------------------------------------------


def _scaled(op: str, input: Any, other: Any, alpha: Number) -> Any:
    """alpha·other."""
    if isinstance(alpha, float) and not any(v._data.dtype.kind == "f" for v in (input, other) if isinstance(v, Tensor)):
        raise RuntimeError(f"{op}: For integral input tensors, argument alpha must not be a floating point number; got {alpha}")
    if isinstance(input, Tensor) and isinstance(other, Tensor) and input._data.dtype.kind == "b" == other._data.dtype.kind:
        alpha = bool(alpha)
    if isinstance(alpha, float) and isinstance(input, Tensor) and isinstance(other, Tensor) and other._data.dtype.kind != "f":
        other = cast(other, promote(input._data, other._data))  # alpha has no say in the result's type
    return mul(other, alpha) if isinstance(other, Tensor) else other * alpha if is_number(other) else other  # which `operands` refuses


def add(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input + alpha·other."""
    a, b = operands("add", input, other if alpha == 1 else _scaled("add", input, other, alpha))
    out: Tensor = Add.apply(a, b)
    return out


def sub(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input − alpha·other.

    Raises:
        RuntimeError: one of them is bool.
    """
    if _is_bool(input) or _is_bool(other):
        raise RuntimeError("Subtraction, the `-` operator, with a bool or a bool tensor is not supported: use ~ or logical operators, or convert it first")
    a, b = operands("sub", input, other if alpha == 1 else _scaled("sub", input, other, alpha))
    out: Tensor = Sub.apply(a, b)
    return out


def _is_bool(value: Any) -> bool:
    return value._data.dtype.kind == "b" if isinstance(value, Tensor) else isinstance(value, bool)


def rsub(input: Tensor, other: Any) -> Tensor:
    """other − input."""
    if isinstance(other, (Tensor, bool)) or input._data.dtype.kind == "b":
        return sub(other, input)
    out: Tensor = Rsub.apply(*operands("rsub", other, input))
    return out


def mul(input: Any, other: Any) -> Tensor:
    """input·other, elementwise."""
    a, b = operands("mul", input, other)
    out: Tensor = Mul.apply(a, b)
    return out


def div(input: Any, other: Any) -> Tensor:
    """input/other, elementwise; integers give float32."""
    a, b = operands("div", input, other, float_result=True)
    out: Tensor = Div.apply(a, b)
    return out


def rdiv(input: Tensor, other: Any) -> Tensor:
    """other/input."""
    return div(other, input)


def pow(input: Any, exponent: Any) -> Tensor:  # torch's name
    """input raised to the exponent, elementwise.

    Raises:
        RuntimeError: an integer raised to a negative one, or bool to bool.
    """
    a, b = operands("pow", input, exponent)
    kind = (a if isinstance(a, Tensor) else b)._data.dtype.kind
    if kind == "b":
        raise RuntimeError("pow is not implemented for bool tensors: convert one with .long() or .float()")
    if kind == "i" and (as_array(b) < 0 if is_number(b) else (b._data < 0).any()):
        raise RuntimeError("Integers to negative integer powers are not allowed: convert the base to a floating point type")
    out: Tensor = Pow.apply(a, b)
    return out


def rpow(input: Tensor, base: Any) -> Tensor:
    """base raised to input."""
    return pow(base, input)


def maximum(input: Tensor, other: Tensor) -> Tensor:
    """The larger of the two, elementwise; NaN where either is; equals share the gradient."""
    return _choose("maximum", Maximum, input, other)


def minimum(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of the two, elementwise; NaN where either is; equals share the gradient."""
    return _choose("minimum", Minimum, input, other)


def _choose(op: str, cls: type[Maximum], input: Tensor, other: Tensor) -> Tensor:
    check_tensor(input, op)
    check_tensor(other, op)
    out: Tensor = cls.apply(*operands(op, input, other))
    return out


def where(condition: Tensor, input: Any, other: Any) -> Tensor:
    """input where the condition holds, else other; all three are broadcast.

    Raises:
        RuntimeError: the condition is not a bool Tensor.
    """
    check_tensor(condition, "where")
    if condition._data.dtype.kind != "b":
        raise RuntimeError(f"where expected condition to be a boolean tensor, but got a tensor with dtype {condition.dtype}")
    if is_number(input) and is_number(other):
        input = Tensor(np.asarray(input, dtype_of(input).numpy))
    a, b = operands("where", input, other)
    kind = (a if isinstance(a, Tensor) else b)._data.dtype
    a, b = (v if isinstance(v, Tensor) else Tensor(np.asarray(fitted("where", v, kind))) for v in (a, b))
    broadcast_shape("where", condition._data.shape, broadcast_shape("where", a._data.shape, b._data.shape))
    out: Tensor = Where.apply(condition, a, b)
    return out


# In place: the op out of place, and its result moved in


def add_(input: Tensor, other: Any, *, alpha: Number = 1) -> Tensor:
    """input ← input + alpha·other."""
    check_tensor(input, "add_")
    return write_in_place(input, add, other, alpha=alpha)


def pow_(input: Tensor, exponent: Any) -> Tensor:
    """input ← input raised to the exponent."""
    check_tensor(input, "pow_")
    return write_in_place(input, pow, exponent)


def sub_(input: Tensor, other: Any, *, alpha: Number = 1) -> Tensor:
    """input ← input − alpha·other."""
    check_tensor(input, "sub_")
    return write_in_place(input, sub, other, alpha=alpha)


def mul_(input: Tensor, other: Any) -> Tensor:
    """input ← input·other."""
    check_tensor(input, "mul_")
    return write_in_place(input, mul, other)


def div_(input: Tensor, other: Any) -> Tensor:
    """input ← input/other."""
    check_tensor(input, "div_")
    return write_in_place(input, div, other)
