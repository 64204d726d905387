"""Arithmetic, element by element: each forward with its backward under it.

Where shapes differ they are broadcast; the backward of a broadcast is a sum over the axes that were stretched (`sum_to`). Where element
types differ they are promoted (dtype.py), and the gradient goes back in each input's own type.
"""

from __future__ import annotations

import contextvars
import math
import threading
from typing import Any, ClassVar

import numpy as np

from ..dtype import as_dtype, float32, float64, int64, promote
from ..dtype import bool_ as bool_dtype
from ..function import Function
from ..kernel import kernel, prange
from ..tensor import Tensor, write_in_place

Array = np.ndarray[Any, Any]
Number = float | int | bool


class _Quiet(threading.local):
    """`quiet.run(np.add, a, b)` is np.add(a, b) without NumPy's warnings: infinity and NaN are answers, as in torch.

    NumPy keeps its error state in a context variable; to call inside a context where that was set once costs a tenth of np.errstate.
    """

    def __init__(self) -> None:
        context = contextvars.Context()
        context.run(np.seterr, all="ignore")
        self.run = context.run


quiet = _Quiet()

# -- Broadcasting and promotion ----------------------------------------------------------------------------------------------------


def sum_to(g: Any, shape: tuple[int, ...] | None) -> Any:
    """Undoes a broadcast: the sum of g over the axes that `shape` lacks or has of length 1; None stays None.

    Example:
        >>> import numpy as np
        >>> sum_to(np.ones((4, 3)), (1, 3))
        array([[4., 4., 4.]])
    """
    if shape is None or g.shape == shape:
        return None if shape is None else g
    lead = len(g.shape) - len(shape)
    axes = (*range(lead), *(i + lead for i, n in enumerate(shape) if n == 1 and g.shape[i + lead] != 1))
    return g.sum(axis=axes, keepdims=True).reshape(shape) if axes else g.reshape(shape)


def broadcast_shape(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape; torch's error, with both shapes, where there is none."""
    out = list(a if len(a) >= len(b) else b)
    for back in range(1, min(len(a), len(b)) + 1):
        m, n = a[-back], b[-back]
        if m != n:
            if m != 1 and n != 1:
                raise RuntimeError(
                    f"The size of tensor a ({m}) must match the size of tensor b ({n}) at non-singleton dimension {len(out) - back}: "
                    f"{op} of shapes {list(a)} and {list(b)}"
                )
            out[-back] = m if n == 1 else n
    return tuple(out)


def operands(op: str, a: Any, b: Any, float_result: bool = False) -> tuple[Any, Any]:
    """a and b ready for NumPy: of one element type and of shapes that broadcast; a Python number stays one."""
    if isinstance(a, Tensor):
        if isinstance(b, Tensor):
            x, y = a._data, b._data
            if x.shape != y.shape:
                broadcast_shape(op, x.shape, y.shape)
            kind = x.dtype
            if kind is y.dtype and (not float_result or kind.kind == "f"):
                return a, b
            kind = promote(x, y)
            if float_result and kind.kind != "f":
                kind = float32.numpy
            return cast(a, kind), cast(b, kind)
        if type(b) is float and a._data.dtype.kind == "f":
            return a, b
        return _with_number(op, a, b, float_result)
    if not isinstance(b, Tensor):
        raise TypeError(f"{op}: expected a Tensor; got {type(a).__name__} and {type(b).__name__}")
    tensor, number = _with_number(op, b, a, float_result)
    return number, tensor


def _with_number(op: str, a: Tensor, b: Any, float_result: bool) -> tuple[Tensor, Number]:
    number = b.item() if isinstance(b, np.generic) else b
    if not isinstance(number, (bool, int, float)):
        raise TypeError(f"{op}: expected a Tensor or a real number; got {type(b).__name__}: make a Tensor of it with tensor(...) or from_numpy(...)")
    category = 0 if isinstance(number, bool) else 1 if isinstance(number, int) else 2
    kind = a._data.dtype
    if category == 2 or float_result:
        kind = kind if kind.kind == "f" else float32.numpy
    elif category == 1 and kind.kind == "b":
        kind = int64.numpy
    return cast(a, kind), number


def cast(x: Tensor, kind: Any) -> Tensor:
    """x with elements of the NumPy type `kind`: itself if it has them already."""
    if x._data.dtype == kind:
        return x
    out: Tensor = Cast.apply(x, kind=kind)
    return out


def fitted(op: str, value: Any, kind: Any) -> Any:
    """A number as an element of the NumPy type `kind`; TypeError if it is none, RuntimeError where it has no room."""
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"{op}: expected a number or a 0-d Tensor; got {type(value).__name__}")
    try:
        return quiet.run(kind.type, value)
    except (OverflowError, ValueError):
        raise RuntimeError(f"{op}: value {value} cannot be converted to type {kind} without overflow") from None


class Cast(Function):
    """Another element type; the gradient comes back in the first one (the walk sees to it)."""

    name = "ToCopyBackward0"

    def forward(self, x: Array, *, kind: Any) -> Any:
        return quiet.run(x.astype, kind)

    def backward(self, g: Any) -> Any:
        return g


class Clone(Function):
    """A copy of the memory."""

    name = "CloneBackward0"

    def forward(self, x: Array) -> Array:
        return np.array(x, order="C")

    def backward(self, g: Any) -> Any:
        return g


# -- Two inputs --------------------------------------------------------------------------------------------------------------------


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


# -- One input ---------------------------------------------------------------------------------------------------------------------


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
        y = np.empty(x.shape, x.dtype)
        erf_kernel(8 * x.size, np.ascontiguousarray(x).reshape(-1), y.reshape(-1))  # 8: about the work of eight sums
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


# -- Arrays or Tensors, in formulas that serve both -----------------------------------------------------------------------------------


def as_array(value: Any) -> Any:
    """The numbers of a Tensor or an array, where a formula needs them as constants."""
    return value._data if isinstance(value, Tensor) else value


def constant(array: Array, like: Any) -> Any:
    """The array as what `like` is: an array, or a Tensor outside of the graph."""
    return Tensor(np.asarray(array)) if isinstance(like, Tensor) else array


def select(condition: Any, a: Any, b: Any) -> Any:
    """where(condition, a, b) on arrays or on Tensors; the numbers among them take the other's element type."""
    condition = as_array(condition)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return Where.apply(condition, a, b)
    kind = b.dtype if is_number(a) and not isinstance(a, np.generic) else a.dtype
    return np.where(condition, a, b).astype(kind, copy=False)


def zeros_like(g: Any) -> Any:
    """The gradient of a value that was overwritten."""
    return constant(np.zeros(g.shape, as_array(g).dtype), g)


def is_number(value: Any) -> bool:
    """Whether an operand is a Python number, not an array or a Tensor."""
    return isinstance(value, (int, float))


def _log(x: Any) -> Any:
    return x.log() if isinstance(x, Tensor) else float(np.log(x)) if is_number(x) else np.log(x)


# -- For users -----------------------------------------------------------------------------------------------------------------------


def floating(x: Tensor, op: str = "op") -> Tensor:
    """Integers and bool become float32 where a function's values are real numbers."""
    check_tensor(x, op)
    return x if x._data.dtype.kind == "f" else cast(x, float32.numpy)


def check_tensor(x: Any, op: str = "op") -> None:
    """TypeError where x is not a Tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: expected a Tensor; got {type(x).__name__}: make a Tensor of it with tensor(...) or from_numpy(...)")


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


class Rsub(Sub):
    """The same with the number in front, as torch names it."""

    name = "RsubBackward1"


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


def neg(input: Tensor) -> Tensor:
    """−input."""
    check_tensor(input, "neg")
    if input._data.dtype.kind == "b":
        raise RuntimeError("Negation, the `-` operator, on a bool tensor is not supported: use the `~` operator")
    out: Tensor = Neg.apply(input)
    return out


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
        input = Tensor(np.asarray(input, as_dtype(type(input)).numpy))
    a, b = operands("where", input, other)
    kind = (a if isinstance(a, Tensor) else b)._data.dtype
    a, b = (v if isinstance(v, Tensor) else Tensor(np.asarray(fitted("where", v, kind))) for v in (a, b))
    broadcast_shape("where", condition._data.shape, broadcast_shape("where", a._data.shape, b._data.shape))
    out: Tensor = Where.apply(condition, a, b)
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


def abs(input: Tensor) -> Tensor:
    """|x|, elementwise; its gradient at 0 is 0."""
    check_tensor(input, "abs")
    if input._data.dtype.kind == "b":
        raise RuntimeError("abs is not implemented for bool tensors")
    out: Tensor = Abs.apply(input)
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
            input, bound = _with_number("clamp", input, bound, False)
        bounds.append(bound)
    out: Tensor = Clamp.apply(input, low=bounds[0], high=bounds[1])
    return out


def clone(input: Tensor) -> Tensor:
    """A copy of its own memory; gradients pass through."""
    check_tensor(input, "clone")
    out: Tensor = Clone.apply(input)
    return out


def contiguous(input: Tensor) -> Tensor:
    """Itself if its elements lie in memory in the order of its indices, else a copy that does."""
    return input if input._data.flags.c_contiguous else clone(input)


def to(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Another element type: to(dtype), to(other Tensor), to("cpu"); itself where nothing changes, unless copy=True.

    Raises:
        RuntimeError: a device other than the CPU.
    """
    check_tensor(input, "to")
    unknown = set(kwargs) - {"dtype", "device", "other", "copy", "non_blocking"}
    flags = [arg for arg in args if isinstance(arg, bool)]  # non_blocking, copy
    if unknown or len(flags) > 2:
        raise TypeError(f"to() got unexpected arguments {sorted(unknown) or flags}: it takes dtype, device, other, non_blocking, copy")
    kind = input._data.dtype
    for arg in (*args, *(kwargs.get(k) for k in ("dtype", "device", "other"))):
        if isinstance(arg, Tensor):
            kind = arg._data.dtype
        elif isinstance(arg, str):
            if arg != "cpu":
                raise RuntimeError(f"the only device here is 'cpu'; got {arg!r}")
        elif arg is not None and not isinstance(arg, bool):
            kind = as_dtype(arg).numpy
    if kind != input._data.dtype:
        return cast(input, kind)
    return clone(input) if kwargs.get("copy") or flags[1:] == [True] else input


def float_(input: Tensor) -> Tensor:
    """As float32."""
    return to(input, float32)


def double(input: Tensor) -> Tensor:
    """As float64."""
    return to(input, float64)


def long(input: Tensor) -> Tensor:
    """As int64, towards zero."""
    return to(input, int64)


def bool_(input: Tensor) -> Tensor:
    """As bool: whether it is not 0."""
    return to(input, bool_dtype)


# Comparisons and logic: no gradients


def _compare(name: str, ufunc: Any, input: Any, other: Any) -> Tensor:
    a, b = operands(name, input, other)
    return Tensor(np.asarray(quiet.run(ufunc, as_array(a), as_array(b))))


def equals(input: Tensor, other: Any) -> Any:
    """The operator ==: elementwise; False where other is neither a Tensor nor a number."""
    return eq(input, other) if isinstance(other, (Tensor, bool, int, float, np.generic, np.ndarray)) else NotImplemented


def differs(input: Tensor, other: Any) -> Any:
    """The operator !=: elementwise; True where other is neither a Tensor nor a number."""
    return ne(input, other) if isinstance(other, (Tensor, bool, int, float, np.generic, np.ndarray)) else NotImplemented


def eq(input: Any, other: Any) -> Tensor:
    """input == other, elementwise."""
    return _compare("eq", np.equal, input, other)


def ne(input: Any, other: Any) -> Tensor:
    """input != other, elementwise."""
    return _compare("ne", np.not_equal, input, other)


def lt(input: Any, other: Any) -> Tensor:
    """input < other, elementwise."""
    return _compare("lt", np.less, input, other)


def le(input: Any, other: Any) -> Tensor:
    """input <= other, elementwise."""
    return _compare("le", np.less_equal, input, other)


def gt(input: Any, other: Any) -> Tensor:
    """input > other, elementwise."""
    return _compare("gt", np.greater, input, other)


def ge(input: Any, other: Any) -> Tensor:
    """input >= other, elementwise."""
    return _compare("ge", np.greater_equal, input, other)


def _logic(name: str, ufunc: Any, input: Any, other: Any) -> Tensor:
    a, b = operands(name, input, other)
    for part in (a, b):
        if (part._data.dtype.kind if isinstance(part, Tensor) else "f" if isinstance(part, float) else "i") == "f":
            raise RuntimeError(f"{name} is not implemented for floating point: it combines bool or int64 tensors")
    return Tensor(np.asarray(ufunc(as_array(a), as_array(b))))


def logical_and(input: Any, other: Any) -> Tensor:
    """input & other: of bool, or bit by bit of int64."""
    return _logic("&", np.bitwise_and, input, other)


def logical_or(input: Any, other: Any) -> Tensor:
    """input | other: of bool, or bit by bit of int64."""
    return _logic("|", np.bitwise_or, input, other)


def invert(input: Tensor) -> Tensor:
    """~input: not, of bool, or bit by bit of int64."""
    if input._data.dtype.kind == "f":
        raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
    return Tensor(np.asarray(np.invert(input._data)))


def isnan(input: Tensor) -> Tensor:
    """Where it is NaN."""
    check_tensor(input, "isnan")
    return Tensor(np.asarray(np.isnan(input._data)))


def isinf(input: Tensor) -> Tensor:
    """Where it is infinite."""
    check_tensor(input, "isinf")
    return Tensor(np.asarray(np.isinf(input._data)))


def isfinite(input: Tensor) -> Tensor:
    """Where it is neither infinite nor NaN."""
    check_tensor(input, "isfinite")
    return Tensor(np.asarray(np.isfinite(input._data)))


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and the same elements."""
    check_tensor(input, "equal")
    check_tensor(other, "equal")
    return bool(np.array_equal(input._data, other._data))


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether |input − other| ≤ atol + rtol·|other| everywhere."""
    check_tensor(input, "allclose")
    check_tensor(other, "allclose")
    if input._data.dtype != other._data.dtype:
        raise RuntimeError(f"allclose: both must have one dtype; got {input.dtype} and {other.dtype}")
    broadcast_shape("allclose", input._data.shape, other._data.shape)
    return bool(np.allclose(input._data, other._data, rtol=rtol, atol=atol, equal_nan=equal_nan))


# In place: the op out of place, and its result moved in


def add_(input: Tensor, other: Any, *, alpha: Number = 1) -> Tensor:
    """input ← input + alpha·other."""
    check_tensor(input, "add_")
    return write_in_place(input, add, other, alpha=alpha)


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


class Fill(Function):
    """Every element becomes a number, or a 0-d value whose gradient is the sum."""

    name = "FillBackward2"

    def forward(self, x: Array, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            self.name = "FillBackward3"
        return quiet.run(np.full, x.shape, value, x.dtype)

    def backward(self, g: Any) -> Any:
        x, value = self.input_shapes
        return None if x is None else zeros_like(g), sum_to(g, value)


class Zero(Fill):
    """Every element becomes 0."""

    name = "ZeroBackward0"


class Copy(Function):
    """Every element comes from another tensor, broadcast."""

    name = "CopyBackwards"

    def forward(self, x: Array, source: Array) -> Any:
        return quiet.run(np.broadcast_to(source, x.shape).astype, x.dtype)

    def backward(self, g: Any) -> Any:
        x, source = self.input_shapes
        return None if x is None else zeros_like(g), sum_to(g, source)


def fill_(input: Tensor, value: Any) -> Tensor:
    """input ← value, everywhere."""
    check_tensor(input, "fill_")
    if isinstance(value, Tensor):
        if value._data.ndim:
            raise RuntimeError(f"fill_ only supports 0-dimension value tensor but got tensor with {value._data.ndim} dimensions.")
        return write_in_place(input, Fill.apply, value)
    return write_in_place(input, Fill.apply, fitted("fill_", value, input._data.dtype))


def zero_(input: Tensor) -> Tensor:
    """input ← 0, everywhere."""
    check_tensor(input, "zero_")
    return write_in_place(input, Zero.apply, 0)


def copy_(input: Tensor, source: Tensor) -> Tensor:
    """input ← source, broadcast and converted to input's element type."""
    check_tensor(input, "copy_")
    check_tensor(source, "copy_")
    if broadcast_shape("copy_", input._data.shape, source._data.shape) != input._data.shape:
        raise RuntimeError(f"copy_: a tensor of shape {list(source.shape)} cannot be broadcast to {list(input.shape)}, the tensor written to")
    return write_in_place(input, Copy.apply, source)
