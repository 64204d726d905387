"""Softmax and its logarithm.

    softmax       yᵢ = eˣᵢ / Σⱼ eˣⱼ                  over the C elements along one axis                (1)
    log-softmax   yᵢ = xᵢ − ln Σⱼ eˣⱼ                                                                (2)

Softmax ties the elements of a row together: raise one xⱼ, and every other yᵢ falls. Adding one number to a whole row changes nothing in
(1), so the largest x is taken out first: no exponent is then above 0, and logits of 1000 do not overflow.

    1. eˣ and the largest of a row, for kernels   2. Forward   3. Backward   4. On the graph   5. For users
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dtype import as_dtype
from ..function import Function
from ..kernel import device, kernel, prange, ready
from ..ops.copying import to
from ..ops.operands import check_tensor
from ..ops.reduction import one_axis
from ..tensor import Tensor
from .module import Module

__all__ = ["LogSoftmax", "Softmax", "log_softmax", "softmax"]

Array = np.ndarray[Any, Any]

# -- 1. eˣ and the largest of a row, for kernels --------------------------------------------------------------------------------------
#
# np.exp is called one element at a time in a kernel. What is written out below is done for a whole vector register at once, 7 times as
# fast. With k the integer nearest to x/ln 2,
#
#     eˣ = 2ᵏ eʳ,   r = x − k ln 2,   |r| ≤ ½ ln 2                                                    (3)
#
# eʳ is its Taylor polynomial: what it leaves out, r⁸/8! or r¹⁴/14!, is below a tenth of the last bit of float32 or float64. ln 2 comes in
# two parts, of which k times the first is exact. Adding 1.5·2²³ to a float32 leaves no room for a fraction: the sum is rounded to an
# integer, and its lowest bits are k. 2ᵏ is put together from bits, in two factors, so that results below the smallest normal number
# are rounded once and those above the largest become inf. Bounds of x just outside of both ends keep k in range; NaN passes through.
# Where x is not above 0, as in every softmax, the second factor can always be 2⁻²⁴: k + 24 is never below −126, the least exponent of a
# normal number. That saves a quarter of the whole: cross-entropy at (4096, 1000), forward and backward, took 1.55 ms, now 1.14.
#
# Typed numbers: with a Python float, all of parts32 would be computed in float64.

LOWEST, HIGHEST = np.float32(-104), np.float32(89)
PER_LN2, LN2_HIGH, LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693145751953125), np.float32(1.4286068203094173e-06)
ROUND = np.float32(1.5 * 2**23)
LAST_FACTOR = np.float32(2**-24)
C0, C2, C3, C4, C5, C6, C7 = (np.float32(1 / n) for n in (1, 2, 6, 24, 120, 720, 5040))  # 1/n!; C0 is C1 too


@device
def parts32(x):  # type: ignore[no-untyped-def]
    """eʳ and k of eˣ in float32, (3)."""
    shifted = x * PER_LN2 + ROUND
    k = shifted - ROUND
    r = (x - k * LN2_HIGH) - k * LN2_LOW  # (3)
    p = ((((((C7 * r + C6) * r + C5) * r + C4) * r + C3) * r + C2) * r + C0) * r + C0
    return p, np.int32(np.float32(shifted).view(np.int32) - 0x4B400000)


@device
def exp64(x):  # type: ignore[no-untyped-def]
    """eˣ in float64, within 1 ulp."""
    x = -746.0 if x < -746.0 else 710.0 if x > 710.0 else x
    shifted = x * 1.4426950408889634 + 6755399441055744.0
    k = shifted - 6755399441055744.0
    r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10
    p = (((((1 / 6227020800 * r + 1 / 479001600) * r + 1 / 39916800) * r + 1 / 3628800) * r + 1 / 362880) * r + 1 / 40320) * r + 1 / 5040
    p = ((((((p * r + 1 / 720) * r + 1 / 120) * r + 1 / 24) * r + 1 / 6) * r + 1 / 2) * r + 1.0) * r + 1.0
    n = np.float64(shifted).view(np.int64) - 0x4338000000000000
    half = n >> 1
    return p * np.int64((half + 1023) << 52).view(np.float64) * np.int64((n - half + 1023) << 52).view(np.float64)


# One kernel serves both types: `double` is True for float64 and None for float32. numba settles an `is None` by the argument's type
# and never compiles the other branch. (What float32 needs stands in place: a function that is called is compiled by itself, 20 to 60 ms.)


@device
def exp(x, double):  # type: ignore[no-untyped-def]
    """eˣ, within 1 ulp."""
    if double is None:
        p, k = parts32(LOWEST if x < LOWEST else HIGHEST if x > HIGHEST else x)
        half = np.int32(k >> 1)
        return p * np.int32((half + 127) << 23).view(np.float32) * np.int32((k - half + 127) << 23).view(np.float32)
    return exp64(x)


@device
def exp_below(x, double):  # type: ignore[no-untyped-def]
    """eˣ of an x that is not above 0, within 1 ulp."""
    if double is None:
        p, k = parts32(LOWEST if x < LOWEST else x)
        return p * np.int32((k + 24 + 127) << 23).view(np.float32) * LAST_FACTOR
    return exp64(x)


# A maximum of floats is never vectorised, because of NaN; one of integers is. The bits of a float, read as an integer, are in the order of
# the floats if those after the sign are turned over in the negative ones, and turning them over again leads back. A NaN is found as
# the largest or is passed over; in both cases it comes into the sum of exponentials.


@device
def largest(x, n, double):  # type: ignore[no-untyped-def]
    """The largest element of row n."""
    if double is None:
        top = np.int32(-0x80000000)
        for j in range(x.shape[1]):
            i = np.float32(x[n, j]).view(np.int32)
            i = np.int32(i ^ ((i >> 31) & 0x7FFFFFFF))
            top = i if i > top else top
        return np.int32(top ^ ((top >> 31) & 0x7FFFFFFF)).view(np.float32)
    top64 = np.int64(-0x8000000000000000)
    for j in range(x.shape[1]):
        i64 = np.float64(x[n, j]).view(np.int64)
        i64 = np.int64(i64 ^ ((i64 >> 63) & 0x7FFFFFFFFFFFFFFF))
        top64 = i64 if i64 > top64 else top64
    return np.int64(top64 ^ ((top64 >> 63) & 0x7FFFFFFFFFFFFFFF)).view(np.float64)


def is_double(x: Array) -> bool | None:
    """What kernels want to be told of the element type: None for float32, True for float64."""
    return None if x.itemsize == 4 else True


# -- 2. Softmax and log-softmax: forward ----------------------------------------------------------------------------------------------
#
# On the rows of (N, C), with m the row's largest element:
#
#     eᵢ = e^(xᵢ − m),   s = Σ e,   softmax: yᵢ = eᵢ/s,   log-softmax: yᵢ = (xᵢ − m) − ln s             (4)
#
# ln(softmax(x)) would be −inf wherever eᵢ underflows; (4) never takes the logarithm of a small number, since s ≥ 1. The order counts:
# x − (m + ln s), which a compiler may make of it to save a subtraction, loses ln s at logits of 10⁴. A device is compiled as written.


@device
def log_share(x, m, log_s):  # type: ignore[no-untyped-def]
    """ln softmax of one element, (4)."""
    return (x - m) - log_s


def softmax_forward_reference(x: Array, double: bool | None, y: Array) -> None:
    """Equation (4) on the rows of x."""
    e = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
    y[:] = e / e.sum(axis=1, keepdims=True)


@kernel(reference=softmax_forward_reference)
def softmax_forward(x, double, y):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for n in prange(rows):
        m = largest(x, n, double)
        s = zero
        for j in range(width):
            e = exp_below(x[n, j] - m, double)  # (4)
            y[n, j] = e
            s += e
        share = one / s
        for j in range(width):
            y[n, j] *= share


def log_softmax_forward_reference(x: Array, double: bool | None, y: Array) -> None:
    """Equation (4) on the rows of x."""
    shifted = x - x.max(axis=1, keepdims=True, initial=-np.inf)
    y[:] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@kernel(reference=log_softmax_forward_reference)
def log_softmax_forward(x, double, y):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    for n in prange(rows):
        m = largest(x, n, double)
        s = x.dtype.type(0)
        for j in range(width):
            s += exp_below(x[n, j] - m, double)  # (4)
        log_s = np.log(s)
        for j in range(width):
            y[n, j] = log_share(x[n, j], m, log_s)


# -- 3. Backward ----------------------------------------------------------------------------------------------------------------------
#
# From (2): ∂(ln Σ eˣ)/∂xⱼ = eˣⱼ/Σ eˣ, which is softmaxⱼ, pⱼ for short. So for log-softmax
#
#     ∂yᵢ/∂xⱼ = δᵢⱼ − pⱼ,         dxⱼ = Σᵢ dyᵢ (δᵢⱼ − pⱼ) = dyⱼ − pⱼ Σᵢ dyᵢ,    p = eʸ                  (5)
#
# and for softmax, since y = e^(log-softmax), ∂yᵢ/∂xⱼ = yᵢ·∂(ln yᵢ)/∂xⱼ:
#
#     ∂yᵢ/∂xⱼ = yᵢ (δᵢⱼ − yⱼ),    dxⱼ = Σᵢ dyᵢ yᵢ (δᵢⱼ − yⱼ) = yⱼ (dyⱼ − Σᵢ dyᵢ yᵢ)                     (6)
#
# The Jacobian in (6) has C² elements and is never built: it acts by one sum. Each row of it sums to 0: adding a number to all x moves no y.


def softmax_backward_reference(y: Array, dy: Array, dx: Array) -> None:
    """Equation (6) on the rows of y and dy."""
    dx[:] = y * (dy - (dy * y).sum(axis=1, keepdims=True))


@kernel(reference=softmax_backward_reference)
def softmax_backward(y, dy, dx):  # type: ignore[no-untyped-def]
    rows, width = y.shape
    for n in prange(rows):
        dot = y.dtype.type(0)
        for j in range(width):
            dot += dy[n, j] * y[n, j]
        for j in range(width):
            dx[n, j] = y[n, j] * (dy[n, j] - dot)  # (6)


def log_softmax_backward_reference(y: Array, dy: Array, double: bool | None, dx: Array) -> None:
    """Equation (5) on the rows of y and dy."""
    dx[:] = dy - np.exp(y) * dy.sum(axis=1, keepdims=True)


@kernel(reference=log_softmax_backward_reference)
def log_softmax_backward(y, dy, double, dx):  # type: ignore[no-untyped-def]
    rows, width = y.shape
    for n in prange(rows):
        total = y.dtype.type(0)
        for j in range(width):
            total += dy[n, j]
        for j in range(width):
            dx[n, j] = dy[n, j] - exp_below(y[n, j], double) * total  # (5)


# -- 4. On the graph ------------------------------------------------------------------------------------------------------------------
#
# Arrays go to the kernels. Where the walk is recorded, y and dy are Tensors, and the same formulas, in operators on them, have
# derivatives of every order.

EXP_WORK = 4  # an exponential costs about as much as four sums


class SoftmaxFunction(Function):
    """y = eˣ / Σ eˣ along one axis, by (4) and (6)."""

    name = "SoftmaxBackward0"
    fresh_gradients = True

    def forward(self, x: Array, *, axis: int) -> Array:
        rows = rows_along(x, axis)
        out = np.empty(rows.shape, x.dtype)
        softmax_forward[EXP_WORK * x.size](rows, is_double(x), out)
        y = rows_back(out, x.shape, axis)
        self.axis = axis
        self.save_for_backward(y)
        return y

    def backward(self, dy: Any) -> Any:
        (y,) = self.saved_tensors
        if isinstance(dy, Tensor):
            return y * (dy - (dy * y).sum(dim=self.axis, keepdim=True))  # (6)
        rows = rows_along(y, self.axis)
        dx = np.empty(rows.shape, y.dtype)
        softmax_backward[2 * y.size](rows, rows_along(dy, self.axis), dx)
        return rows_back(dx, y.shape, self.axis)


class LogSoftmaxFunction(Function):
    """y = x − ln Σ eˣ along one axis, by (4) and (5)."""

    name = "LogSoftmaxBackward0"
    fresh_gradients = True

    def forward(self, x: Array, *, axis: int) -> Array:
        rows = rows_along(x, axis)
        out = np.empty(rows.shape, x.dtype)
        log_softmax_forward[EXP_WORK * x.size](rows, is_double(x), out)
        y = rows_back(out, x.shape, axis)
        self.axis = axis
        self.save_for_backward(y)
        return y

    def backward(self, dy: Any) -> Any:
        (y,) = self.saved_tensors
        if isinstance(dy, Tensor):
            return dy - y.exp() * dy.sum(dim=self.axis, keepdim=True)  # (5)
        rows = rows_along(y, self.axis)
        dx = np.empty(rows.shape, y.dtype)
        log_softmax_backward[EXP_WORK * y.size](rows, rows_along(dy, self.axis), is_double(y), dx)
        return rows_back(dx, y.shape, self.axis)


def rows_along(x: Array, axis: int) -> Array:
    """(…, C, …) as the (N, C) memory that kernels are compiled for: the given axis last, the others one."""
    if x.ndim != 2 or axis != 1:
        width = x.shape[axis] if x.ndim else 1
        x = ready(np.moveaxis(x, axis, -1) if x.ndim else x).reshape(x.size // width if width else 0, width)
    return ready(x)


def rows_back(rows: Array, shape: tuple[int, ...], axis: int) -> Array:
    """The inverse: (N, C) as an array of `shape`, in the order of its own indices."""
    if rows.shape == shape and axis == 1:
        return rows
    if not shape or axis == len(shape) - 1:
        return rows.reshape(shape)
    return np.ascontiguousarray(np.moveaxis(rows.reshape(*shape[:axis], *shape[axis + 1 :], shape[axis]), -1, axis))


# -- 5. For users ---------------------------------------------------------------------------------------------------------------------


def softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """eˣ / Σ eˣ along dim: positive numbers whose sum is 1, in the order of x.

    Args:
        input: of any shape, float32 or float64.
        dim: the axis along which the sum is 1. torch can guess it and warns; here it must be said.
        dtype: converts the input first.
    Returns:
        A Tensor of input's shape; NaN in a row with NaN or +inf, or of −inf alone.
    Raises:
        IndexError: there is no such axis. NotImplementedError: the type is not floating point.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.tensor([0.0, 1000.0, 1000.0]).softmax(0)
        tensor([0.0000, 0.5000, 0.5000])
    """
    y: Tensor = SoftmaxFunction.apply(floating_input("softmax", input, dtype), axis=one_axis(dim, input._data.ndim))
    return y


def log_softmax(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """x − ln Σ eˣ along dim: the logarithm of softmax, exact where that underflows.

    Args:
        input: of any shape, float32 or float64.
        dim: the axis of the sum.
        dtype: converts the input first.
    Returns:
        A Tensor of input's shape.
    Raises:
        IndexError: there is no such axis. NotImplementedError: the type is not floating point.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.tensor([0.0, 1000.0]).log_softmax(0)
        tensor([-1000.,     0.])
    """
    y: Tensor = LogSoftmaxFunction.apply(floating_input("log_softmax", input, dtype), axis=one_axis(dim, input._data.ndim))
    return y


def floating_input(op: str, input: Any, dtype: Any = None) -> Tensor:
    """The input, converted where a dtype is given: TypeError or NotImplementedError where it is no Tensor of floating point numbers."""
    check_tensor(input, op)
    x: Tensor = input if dtype is None else to(input, as_dtype(dtype))
    if x._data.dtype.kind != "f":
        raise NotImplementedError(f"{op} is not implemented for {x.dtype}: convert the input with .float()")
    return x


class Softmax(Module):
    """eˣ / Σ eˣ along dim.

    Not for the end of a classifier: CrossEntropyLoss takes the logits themselves.

    Args:
        dim: the axis along which the sum is 1.

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.Softmax(dim=1)
        >>> layer, layer(tg.zeros(1, 2))
        (Softmax(dim=1), tensor([[0.5000, 0.5000]]))
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return softmax(input, self.dim)

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """x − ln Σ eˣ along dim: what NLLLoss takes.

    Args:
        dim: the axis of the sum.

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.LogSoftmax(dim=-1)
        >>> layer, layer(tg.zeros(1, 1))
        (LogSoftmax(dim=-1), tensor([[0.]]))
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return log_softmax(input, self.dim)

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"
