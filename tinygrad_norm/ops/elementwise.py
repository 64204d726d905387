"""Arithmetic, element by element: each forward with its backward under it.

Where shapes differ they are broadcast; the backward of a broadcast is a sum over the axes that were stretched (`sum_to`). Where element
types differ they are promoted (dtype.py), and the gradient goes back in each input's own type.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from .. import dtype as dtypes
from ..kernel import kernel, prange
from ..tensor import Function, Tensor, write_in_place

Array = np.ndarray[Any, Any]
Number = float | int | bool

# -- Broadcasting and promotion ----------------------------------------------------------------------------------------------------


def sum_to(g: Any, shape: tuple[int, ...]) -> Any:
    """Undoes a broadcast: the sum of g over the axes that `shape` lacks or has of length 1.

    Example:
        >>> import numpy as np
        >>> sum_to(np.ones((4, 3)), (1, 3))
        array([[4., 4., 4.]])
    """
    if g.shape == shape:
        return g
    lead = len(g.shape) - len(shape)
    axes = (*range(lead), *(i + lead for i, n in enumerate(shape) if n == 1 and g.shape[i + lead] != 1))
    return g.sum(axis=axes, keepdims=True).reshape(shape) if axes else g.reshape(shape)


def broadcast_shape(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape; torch's error, with both shapes, where there is none."""
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        for back in range(1, min(len(a), len(b)) + 1):
            if a[-back] != b[-back] and 1 not in (a[-back], b[-back]):
                axis = max(len(a), len(b)) - back
                raise RuntimeError(
                    f"The size of tensor a ({a[-back]}) must match the size of tensor b ({b[-back]}) at non-singleton dimension {axis}: "
                    f"{op} of shapes {list(a)} and {list(b)}"
                ) from None
        raise


def operands(op: str, a: Any, b: Any, float_result: bool = False) -> tuple[Any, Any]:
    """a and b ready for NumPy: of one element type and of shapes that broadcast; a Python number stays one."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        x, y = a._data, b._data
        kind = x.dtype if x.dtype == y.dtype else dtypes.promote(x, y)
        if float_result and kind.kind != "f":
            kind = dtypes.float32.numpy
        if x.shape != y.shape:
            broadcast_shape(op, x.shape, y.shape)
        return a if x.dtype == kind else Cast.apply(a, kind=kind), b if y.dtype == kind else Cast.apply(b, kind=kind)
    if isinstance(a, Tensor):
        if type(b) is float and a._data.dtype.kind == "f":
            return a, b
        return _with_number(op, a, b, float_result)
    y, x = _with_number(op, b, a, float_result)
    return x, y


def _with_number(op: str, a: Tensor, b: Any, float_result: bool) -> tuple[Tensor, Number]:
    if not isinstance(b, (numbers.Number, np.generic)) or isinstance(b, complex):
        raise TypeError(f"{op}: expected a Tensor or a real number; got {type(b).__name__}: make a Tensor of it with tensor(...) or from_numpy(...)")
    number: Number = b.item() if isinstance(b, np.generic) else b  # type: ignore[assignment]
    rank = 0 if isinstance(number, bool) else 1 if isinstance(number, int) else 2
    kind = a._data.dtype
    if rank == 2 or float_result:
        kind = kind if kind.kind == "f" else dtypes.float32.numpy
    elif rank == 1 and kind.kind == "b":
        kind = dtypes.int64.numpy
    return a if kind == a._data.dtype else Cast.apply(a, kind=kind), number


class Cast(Function):
    """Another element type; the gradient comes back in the first one (the walk sees to it)."""

    name = "ToCopyBackward0"

    def forward(self, x: Array, *, kind: Any) -> Array:
        return x.astype(kind)

    def backward(self, g: Any) -> Any:
        return g


class Clone(Function):
    """A copy of the memory."""

    name = "CloneBackward0"

    def forward(self, x: Array) -> Array:
        return x.copy()

    def backward(self, g: Any) -> Any:
        return g


# -- Two inputs --------------------------------------------------------------------------------------------------------------------


class Add(Function):
    """y = a + b.  ∂y/∂a = ∂y/∂b = 1."""

    name = "AddBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        self.shapes = np.shape(a), np.shape(b)
        return a + b

    def backward(self, g: Any) -> Any:
        need_a, need_b = self.needs_input_grad
        return sum_to(g, self.shapes[0]) if need_a else None, sum_to(g, self.shapes[1]) if need_b else None


class Sub(Function):
    """y = a − b.  ∂y/∂a = 1, ∂y/∂b = −1."""

    name = "SubBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        self.shapes = np.shape(a), np.shape(b)
        return a - b

    def backward(self, g: Any) -> Any:
        need_a, need_b = self.needs_input_grad
        return sum_to(g, self.shapes[0]) if need_a else None, sum_to(-g, self.shapes[1]) if need_b else None


class Mul(Function):
    """y = a·b.  ∂y/∂a = b, ∂y/∂b = a."""

    name = "MulBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        need_a, need_b = self.needs_input_grad
        self.save_for_backward(a if need_b else None, b if need_a else None)
        self.shapes = np.shape(a), np.shape(b)
        return a * b

    def backward(self, g: Any) -> Any:
        a, b = self.saved_tensors
        need_a, need_b = self.needs_input_grad
        return sum_to(g * b, self.shapes[0]) if need_a else None, sum_to(g * a, self.shapes[1]) if need_b else None


class Div(Function):
    """y = a/b.  ∂y/∂a = 1/b, ∂y/∂b = −a/b²."""

    name = "DivBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        self.save_for_backward(a if self.needs_input_grad[1] else None, b)
        self.shapes = np.shape(a), np.shape(b)
        with np.errstate(all="ignore"):  # 1/0 is inf and 0/0 is NaN, as in torch, without a warning
            return a / b

    def backward(self, g: Any) -> Any:
        a, b = self.saved_tensors
        need_a, need_b = self.needs_input_grad
        with np.errstate(all="ignore"):
            da = g / b
            return sum_to(da, self.shapes[0]) if need_a else None, sum_to(-da * a / b, self.shapes[1]) if need_b else None


class Pow(Function):
    """y = aᵇ.  ∂y/∂a = b·aᵇ⁻¹ (0 where b = 0), ∂y/∂b = aᵇ·ln a (0 where a = 0 and b ≥ 0)."""

    name = "PowBackward0"

    def forward(self, a: Any, b: Any) -> Any:
        with np.errstate(all="ignore"):
            y = np.power(a, b) if not (isinstance(b, (int, float)) and b == 2) else a * a
        self.save_for_backward(a, b, y if self.needs_input_grad[1] else None)
        self.shapes = np.shape(a), np.shape(b)
        return y

    def backward(self, g: Any) -> Any:
        a, b, y = self.saved_tensors
        need_a, need_b = self.needs_input_grad
        da = db = None
        with np.errstate(all="ignore"):
            if need_a:
                if isinstance(b, (int, float)):
                    slope = 0 * a if b == 0 else b * a ** (b - 1)
                else:
                    slope = select(b == 0, 0.0, b * a ** (b - 1))
                da = sum_to(g * slope, self.shapes[0])
            if need_b:
                zero = (a == 0) & (b >= 0)
                db = sum_to(g * select(zero, 0.0, y * _log(a)), self.shapes[1])
        return da, db


class Maximum(Function):
    """y = max(a, b), elementwise; equals share the gradient."""

    name = "MaximumBackward0"
    choose = np.maximum

    def forward(self, a: Any, b: Any) -> Any:
        self.save_for_backward(a, b)
        self.shapes = a.shape, b.shape
        return type(self).choose(a, b)  # NaN where either is

    def backward(self, g: Any) -> Any:
        a, b = (as_array(v) for v in self.saved_tensors)
        first = (a > b) if type(self) is Maximum else (a < b)
        tie = a == b
        share = first + 0.5 * tie  # (…) 1, ½ or 0: constant wherever there is a derivative
        share = share.astype(a.dtype)
        return (
            sum_to(g * constant(share, g), self.shapes[0]) if self.needs_input_grad[0] else None,
            sum_to(g * constant(1 - share, g), self.shapes[1]) if self.needs_input_grad[1] else None,
        )


class Minimum(Maximum):
    """y = min(a, b), elementwise; equals share the gradient."""

    name = "MinimumBackward0"
    choose = np.minimum


class Where(Function):
    """y = a where the condition holds, else b: each gets the gradient of its own places."""

    name = "WhereBackward0"

    def forward(self, condition: Array, a: Any, b: Any) -> Any:
        self.condition = condition
        self.shapes = np.shape(a), np.shape(b)
        return np.where(condition, a, b)

    def backward(self, g: Any) -> Any:
        _, need_a, need_b = self.needs_input_grad
        return (
            None,
            sum_to(select(self.condition, g, 0.0), self.shapes[0]) if need_a else None,
            sum_to(select(self.condition, 0.0, g), self.shapes[1]) if need_b else None,
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
        with np.errstate(all="ignore"):
            y = np.exp(x)
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
        with np.errstate(all="ignore"):
            return np.log(x)

    def backward(self, g: Any) -> Any:
        (x,) = self.saved_tensors
        with np.errstate(all="ignore"):
            return g / x


class Sqrt(Function):
    """y = √x.  y' = 1/(2y), infinite at 0."""

    name = "SqrtBackward0"

    def forward(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            y = np.sqrt(x)
        self.save_for_backward(y)
        return y

    def backward(self, g: Any) -> Any:
        (y,) = self.saved_tensors
        with np.errstate(all="ignore"):
            return g / (2 * y)


class Rsqrt(Function):
    """y = x^(−½).  y' = −y³/2."""

    name = "RsqrtBackward0"

    def forward(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            y = 1 / np.sqrt(x)
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
        return g * constant(np.sign(as_array(x)), g)


class Tanh(Function):
    """y = tanh x.  y' = 1 − y²."""

    name = "TanhBackward0"

    def forward(self, x: Array) -> Array:
        y = np.tanh(x)
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

    def forward(self, x: Array, *, low: Number | None, high: Number | None) -> Array:
        inside = np.ones(x.shape, bool)
        if low is not None:
            inside &= x >= low
        if high is not None:
            inside &= x <= high
        self.inside = inside
        return np.asarray(np.clip(x, low, high)).astype(x.dtype, copy=False)

    def backward(self, g: Any) -> Any:
        return select(self.inside, g, 0.0)


# -- Arrays or Tensors, in formulas that serve both -----------------------------------------------------------------------------------


def as_array(value: Any) -> Any:
    """The numbers of a Tensor or an array, where a formula needs them as constants."""
    return value._data if isinstance(value, Tensor) else value


def constant(array: Array, like: Any) -> Any:
    """The array as what `like` is: an array, or a Tensor outside of the graph."""
    return Tensor(array) if isinstance(like, Tensor) else array


def select(condition: Any, a: Any, b: Any) -> Any:
    """where(condition, a, b) on arrays or on Tensors; the numbers among them take the other's element type."""
    condition = as_array(condition)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return Where.apply(condition, a, b)
    kind = a.dtype if isinstance(a, np.ndarray) else b.dtype
    return np.where(condition, a, b).astype(kind, copy=False)


def zeros_like(g: Any) -> Any:
    """The gradient of a value that was overwritten."""
    return constant(np.zeros(g.shape, as_array(g).dtype), g)


def _log(x: Any) -> Any:
    return x.log() if isinstance(x, Tensor) else np.log(x)


# -- For users -----------------------------------------------------------------------------------------------------------------------


def floating(x: Tensor) -> Tensor:
    """Integers and bool become float32 where a function's values are real numbers."""
    check_tensor(x)
    return x if x._data.dtype.kind == "f" else Cast.apply(x, kind=dtypes.float32.numpy)


def check_tensor(x: Any, op: str = "op") -> None:
    """TypeError where x is not a Tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: expected a Tensor; got {type(x).__name__}: make a Tensor of it with tensor(...) or from_numpy(...)")


def add(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input + alpha·other."""
    if alpha != 1:
        other = mul(other, alpha) if isinstance(other, Tensor) else other * alpha
    a, b = operands("add", input, other)
    return Add.apply(a, b)


def sub(input: Any, other: Any, *, alpha: Number = 1) -> Tensor:
    """input − alpha·other."""
    if alpha != 1:
        other = mul(other, alpha) if isinstance(other, Tensor) else other * alpha
    a, b = operands("sub", input, other)
    if (isinstance(a, bool) or (isinstance(a, Tensor) and a._data.dtype.kind == "b")) and (isinstance(b, bool) or isinstance(b, Tensor)):
        raise RuntimeError("Subtraction, the `-` operator, with a bool tensor is not supported: use ~ or logical operators, or convert it first")
    return Sub.apply(a, b)


def rsub(input: Tensor, other: Any) -> Tensor:
    """other − input."""
    return sub(other, input)


def mul(input: Any, other: Any) -> Tensor:
    """input·other, elementwise."""
    a, b = operands("mul", input, other)
    return Mul.apply(a, b)


def div(input: Any, other: Any) -> Tensor:
    """input/other, elementwise; integers give float32."""
    a, b = operands("div", input, other, float_result=True)
    return Div.apply(a, b)


def rdiv(input: Tensor, other: Any) -> Tensor:
    """other/input."""
    return div(other, input)


def pow(input: Any, exponent: Any) -> Tensor:  # noqa: A001  torch's name
    """input raised to the exponent, elementwise."""
    a, b = operands("pow", input, exponent)
    integral = isinstance(a, Tensor) and a._data.dtype.kind in "ib"
    if integral and (isinstance(b, int) and b < 0):
        raise RuntimeError("Integers to negative integer powers are not allowed: convert the base to a floating point type")
    return Pow.apply(a, b)


def rpow(input: Tensor, base: Any) -> Tensor:
    """base raised to input."""
    return pow(base, input)


def neg(input: Tensor) -> Tensor:
    """−input."""
    check_tensor(input, "neg")
    if input._data.dtype.kind == "b":
        raise RuntimeError("Negation, the `-` operator, on a bool tensor is not supported: use the `~` operator")
    return Neg.apply(input)


def maximum(input: Tensor, other: Tensor) -> Tensor:
    """The larger of the two, elementwise; NaN where either is; equals share the gradient."""
    check_tensor(input, "maximum")
    check_tensor(other, "maximum")
    a, b = operands("maximum", input, other)
    return Maximum.apply(a, b)


def minimum(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of the two, elementwise; NaN where either is; equals share the gradient."""
    check_tensor(input, "minimum")
    check_tensor(other, "minimum")
    a, b = operands("minimum", input, other)
    return Minimum.apply(a, b)


def where(condition: Tensor, input: Any, other: Any) -> Tensor:
    """input where the condition holds, else other; all three are broadcast.

    Raises:
        RuntimeError: the condition is not a bool Tensor.
    """
    check_tensor(condition, "where")
    if condition._data.dtype.kind != "b":
        raise RuntimeError(f"where expected condition to be a boolean tensor, but got a tensor with dtype {condition.dtype}")
    if isinstance(input, Tensor) or isinstance(other, Tensor):
        a, b = operands("where", input, other)
    else:
        a, b = Tensor(np.asarray(input, dtypes.as_dtype(type(input)).numpy)), Tensor(np.asarray(other, dtypes.as_dtype(type(other)).numpy))
        a, b = operands("where", a, b)
    for part in (a, b):
        broadcast_shape("where", condition._data.shape, np.shape(as_array(part)))
    kind = (a if isinstance(a, Tensor) else b)._data.dtype
    a, b = (v if isinstance(v, Tensor) else Tensor(np.asarray(v, kind)) for v in (a, b))
    return Where.apply(condition, a, b)


def exp(input: Tensor) -> Tensor:
    """eˣ, elementwise."""
    return Exp.apply(floating(input))


def log(input: Tensor) -> Tensor:
    """The natural logarithm, elementwise; −inf at 0, NaN below."""
    return Log.apply(floating(input))


def sqrt(input: Tensor) -> Tensor:
    """√x, elementwise; NaN below 0."""
    return Sqrt.apply(floating(input))


def rsqrt(input: Tensor) -> Tensor:
    """1/√x, elementwise."""
    return Rsqrt.apply(floating(input))


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent, elementwise."""
    return Tanh.apply(floating(input))


def sigmoid(input: Tensor) -> Tensor:
    """1/(1 + e^(−x)), elementwise, without overflow."""
    return Sigmoid.apply(floating(input))


def erf(input: Tensor) -> Tensor:
    """The error function, elementwise."""
    return Erf.apply(floating(input))


def abs(input: Tensor) -> Tensor:  # noqa: A001
    """|x|, elementwise; its gradient at 0 is 0."""
    check_tensor(input, "abs")
    return Abs.apply(input)


def clamp(input: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:  # noqa: A002
    """input held between min and max; the gradient passes at the bounds."""
    check_tensor(input, "clamp")
    if min is None and max is None:
        raise ValueError("torch.clamp: At least one of 'min' or 'max' must not be None")
    for bound in (min, max):
        if bound is not None and not isinstance(bound, (int, float, np.generic)):
            raise TypeError(f"clamp: min and max must be numbers; got {type(bound).__name__}: use maximum and minimum for Tensors")
    if any(isinstance(bound, float) for bound in (min, max)):
        input = floating(input)
    return Clamp.apply(input, low=min, high=max)


def clone(input: Tensor) -> Tensor:
    """A copy of its own memory; gradients pass through."""
    check_tensor(input, "clone")
    return Clone.apply(input)


def contiguous(input: Tensor) -> Tensor:
    """Itself if its elements lie in memory in the order of its indices, else a copy that does."""
    return input if input._data.flags.c_contiguous else Clone.apply(input)


def to(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Another element type: to(dtype), to(other Tensor), to("cpu"); itself where nothing changes.

    Raises:
        RuntimeError: a device other than the CPU.
    """
    kind = input._data.dtype
    for arg in (*args, *(v for k, v in kwargs.items() if k in ("dtype", "device", "other"))):
        if isinstance(arg, Tensor):
            kind = arg._data.dtype
        elif isinstance(arg, str):
            if arg != "cpu":
                raise RuntimeError(f"the only device here is 'cpu'; got {arg!r}")
        elif arg is not None and not isinstance(arg, bool):
            kind = dtypes.as_dtype(arg).numpy
    unknown = set(kwargs) - {"dtype", "device", "other", "copy", "non_blocking"}
    if unknown:
        raise TypeError(f"to() got unexpected keyword arguments {sorted(unknown)}: it takes dtype, device, other, copy")
    if kind != input._data.dtype:
        return Cast.apply(input, kind=kind)
    return clone(input) if kwargs.get("copy") else input


def float_(input: Tensor) -> Tensor:
    """As float32."""
    return to(input, dtypes.float32)


def double(input: Tensor) -> Tensor:
    """As float64."""
    return to(input, dtypes.float64)


def long(input: Tensor) -> Tensor:
    """As int64, towards zero."""
    return to(input, dtypes.int64)


def bool_(input: Tensor) -> Tensor:
    """As bool: whether it is not 0."""
    return to(input, dtypes.bool_)


# Comparisons and logic: no gradients


def _compare(name: str, ufunc: Any, input: Any, other: Any) -> Tensor:
    a, b = operands(name, input, other)
    return Tensor(np.asarray(ufunc(as_array(a), as_array(b))))


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


# In place


def add_(input: Tensor, other: Any, *, alpha: Number = 1) -> Tensor:
    """input ← input + alpha·other."""
    if alpha != 1:
        other = mul(other, alpha) if isinstance(other, Tensor) else other * alpha
    return write_in_place(input, Add, *_in_place_operand("add_", input, other))


def sub_(input: Tensor, other: Any, *, alpha: Number = 1) -> Tensor:
    """input ← input − alpha·other."""
    if alpha != 1:
        other = mul(other, alpha) if isinstance(other, Tensor) else other * alpha
    return write_in_place(input, Sub, *_in_place_operand("sub_", input, other))


def mul_(input: Tensor, other: Any) -> Tensor:
    """input ← input·other."""
    return write_in_place(input, Mul, *_in_place_operand("mul_", input, other))


def div_(input: Tensor, other: Any) -> Tensor:
    """input ← input/other."""
    if input._data.dtype.kind != "f":
        raise RuntimeError(f"result type Float can't be cast to the desired output type {input.dtype}: divide out of place")
    return write_in_place(input, Div, *_in_place_operand("div_", input, other))


def _in_place_operand(op: str, input: Tensor, other: Any) -> tuple[Any]:
    check_tensor(input, op)
    a, b = operands(op, input, other)
    if a is not input:  # input would have to change its own type
        raise RuntimeError(f"{op}: result type {a.dtype} can't be cast to the desired output type {input.dtype}")
    return (b,)


class Fill(Function):
    """Every element becomes a number, or a 0-d value whose gradient is the sum."""

    name = "FillBackward0"

    def forward(self, x: Array, value: Any) -> Array:
        return np.full(x.shape, value, x.dtype)

    def backward(self, g: Any) -> Any:
        return zeros_like(g) if self.needs_input_grad[0] else None, sum_to(g, ()) if self.needs_input_grad[1] else None


class Copy(Function):
    """Every element comes from another tensor, broadcast."""

    name = "CopyBackwards"

    def forward(self, x: Array, source: Array) -> Array:
        self.shape = source.shape
        return np.broadcast_to(source, x.shape).astype(x.dtype)

    def backward(self, g: Any) -> Any:
        return zeros_like(g) if self.needs_input_grad[0] else None, sum_to(g, self.shape) if self.needs_input_grad[1] else None


def fill_(input: Tensor, value: Any) -> Tensor:
    """input ← value, everywhere."""
    check_tensor(input, "fill_")
    if isinstance(value, Tensor) and value._data.ndim:
        raise RuntimeError(f"fill_ only supports 0-dimension value tensor but got tensor with {value._data.ndim} dimensions.")
    if not isinstance(value, (Tensor, int, float, np.generic)):
        raise TypeError(f"fill_: value must be a number or a 0-d Tensor; got {type(value).__name__}")
    return write_in_place(input, Fill, value)


def zero_(input: Tensor) -> Tensor:
    """input ← 0, everywhere."""
    return fill_(input, 0)


def copy_(input: Tensor, source: Tensor) -> Tensor:
    """input ← source, broadcast and converted to input's element type."""
    check_tensor(input, "copy_")
    check_tensor(source, "copy_")
    if input._data.shape != source._data.shape and broadcast_shape("copy_", input._data.shape, source._data.shape) != input._data.shape:
        raise RuntimeError(f"copy_: a tensor of shape {list(source.shape)} cannot be broadcast to {list(input.shape)}, the tensor written to")
    return write_in_place(input, Copy, source)
