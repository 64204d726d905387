"""What comes to an op, and what goes back: checks, one element type, shapes that broadcast.

Where shapes differ they are broadcast; the backward of a broadcast is a sum over the axes that were stretched (`sum_to`). Where element
types differ they are promoted (dtype.py), and the gradient goes back in each input's own type.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ..dtype import float32, int64, promote
from ..function import Function
from ..quiet import quiet
from ..tensor import Tensor

Array = np.ndarray[Any, Any]
Number = float | int | bool


# -- Checks ------------------------------------------------------------------------------------------------------------------------


def check_tensor(x: Any, op: str = "op") -> None:
    """TypeError where x is not a Tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: expected a Tensor; got {type(x).__name__}: make a Tensor of it with tensor(...) or from_numpy(...)")


def floating(x: Tensor, op: str = "op") -> Tensor:
    """Integers and bool become float32 where a function's values are real numbers."""
    check_tensor(x, op)
    return x if x._data.dtype.kind == "f" else cast(x, float32.numpy)


def is_number(value: Any) -> bool:
    """Whether an operand is a Python number, not an array or a Tensor."""
    return isinstance(value, (int, float))


# -- Sums ---------------------------------------------------------------------------------------------------------------------------


_sum: Any = np.add.reduce  # without the Python that np.sum puts around it


def sum_over(x: Any, axes: tuple[int, ...], keep: bool = False) -> Any:
    """Σ x over axes, of an array or a Tensor. Along the last ones in memory NumPy adds by halves; along others one after the other, which of
    a million float32 leaves two digits right, so there the sum is a float64 until it is done. The result lies in the order of its indices.
    """
    if isinstance(x, Tensor):
        return x.sum(axis=axes, keepdims=keep)
    single = x.dtype.char == "f"
    if x.flags.c_contiguous and (not single or axes == tuple(range(x.ndim - len(axes), x.ndim))):
        return quiet.run(_sum, x, axes, None, None, keep)
    total = quiet.run(_sum, x, axes, np.float64 if single else None, None, keep)
    return quiet.run(np.asarray, total, x.dtype if single else None, "C")


# -- Broadcasting ------------------------------------------------------------------------------------------------------------------


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
    return sum_over(g, axes).reshape(shape) if axes else g.reshape(shape)


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


# -- Promotion ---------------------------------------------------------------------------------------------------------------------


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
        return with_number(op, a, b, float_result)
    if not isinstance(b, Tensor):
        raise TypeError(f"{op}: expected a Tensor; got {type(a).__name__} and {type(b).__name__}")
    tensor, number = with_number(op, b, a, float_result)
    return number, tensor


def with_number(op: str, a: Tensor, b: Any, float_result: bool) -> tuple[Tensor, Number]:
    """a with the element type that it has together with the number b, and b as one of Python's."""
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


def copy_order(x: Array) -> Literal["C", "K"]:
    """A copy lies in memory as x does; one of an expanded tensor, whose repeated elements have no order there, in that of its indices."""
    return "C" if 0 in x.strides else "K"


class Cast(Function):
    """Another element type; the gradient comes back in the first one (the walk sees to it)."""

    name = "ToCopyBackward0"

    def forward(self, x: Array, *, kind: Any) -> Any:
        return quiet.run(x.astype, kind, copy_order(x))

    def backward(self, g: Any) -> Any:
        return g


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
        number = quiet.run(kind.type, value)
        if kind.kind != "f" or np.isfinite(number) or not math.isfinite(value):
            return number
    except (OverflowError, ValueError):
        pass
    raise RuntimeError(f"{op}: value {value} cannot be converted to type {kind} without overflow")


# -- Arrays or Tensors, in formulas that serve both --------------------------------------------------------------------------------


def as_array(value: Any) -> Any:
    """The numbers of a Tensor or an array, where a formula needs them as constants."""
    return value._data if isinstance(value, Tensor) else value


def constant(array: Array, like: Any) -> Any:
    """The array as what `like` is: an array, or a Tensor outside of the graph."""
    return Tensor(np.asarray(array)) if isinstance(like, Tensor) else array


def zeros_like(g: Any) -> Any:
    """The gradient of a value that was overwritten."""
    return constant(np.zeros(g.shape, as_array(g).dtype), g)
