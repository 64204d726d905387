"""Sums, means, spreads and extremes over axes: each forward with its backward under it.

Every function takes torch's dim and keepdim or NumPy's axis and keepdims; dim may be one axis, several, or None for all.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..dtype import as_dtype
from ..function import Function
from ..quiet import quiet
from ..tensor import Tensor
from .arithmetic import maximum, minimum, select
from .operands import as_array, cast, check_tensor, constant, floating, sum_over

Array = np.ndarray[Any, Any]
Axes = tuple[int, ...]
Dim = int | Sequence[int] | None


class MaxResult(NamedTuple):
    """What max(dim) returns: the values and where they stand."""

    values: Tensor
    indices: Tensor

    def __repr__(self) -> str:
        return f"torch.return_types.max(\nvalues={self.values!r},\nindices={self.indices!r})"


class MinResult(NamedTuple):
    """What min(dim) returns: the values and where they stand."""

    values: Tensor
    indices: Tensor

    def __repr__(self) -> str:
        return f"torch.return_types.min(\nvalues={self.values!r},\nindices={self.indices!r})"


# -- Axes --------------------------------------------------------------------------------------------------------------------------


def one_axis(dim: Any, ndim: int, extra: int = 0) -> int:
    """dim as an axis from 0; IndexError outside of [-ndim, ndim - 1]. A 0-d tensor has axis 0 and -1, as in torch."""
    try:
        d = operator.index(dim)
    except TypeError:
        raise TypeError(f"dim must be an integer; got {type(dim).__name__}") from None
    if isinstance(dim, bool):
        raise TypeError("dim must be an integer; got bool")
    n = ndim + extra or 1
    if not -n <= d < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {d})")
    return d % n


def axes_of(x: Tensor, dim: Dim, axis: Dim = None) -> Axes:
    """The axes to reduce, ascending; None and () mean all."""
    if axis is not None:
        if dim is not None:
            raise TypeError("give dim or axis, not both: they are two names of one argument")
        dim = axis
    ndim = x._data.ndim
    if dim is None:
        return tuple(range(ndim))
    dims: Sequence[Any] = dim if isinstance(dim, Sequence) and not isinstance(dim, bytes) else (dim,)
    found = [one_axis(d, ndim) for d in dims]
    if len(set(found)) < len(found):
        raise RuntimeError(f"dim {sorted(found, key=found.count)[-1]} appears multiple times in the list of dims")
    return tuple(sorted(found)) if found and ndim else tuple(range(ndim))


def _keep(keepdim: bool, keepdims: bool | None) -> bool:
    return keepdim if keepdims is None else keepdims


def unreduce(g: Any, shape: tuple[int, ...], axes: Axes) -> Any:
    """g with the reduced axes put back, each element repeated along them: the transpose of a sum."""
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    g = g.reshape(kept)
    if kept == shape:
        return g
    return g.expand(shape) if isinstance(g, Tensor) else np.broadcast_to(g, shape)


def _count(shape: tuple[int, ...], axes: Axes) -> int:
    n = 1
    for a in axes:
        n *= shape[a]
    return n


# -- Sums and means ------------------------------------------------------------------------------------------------------------------


class Sum(Function):
    """y = Σ x.  Every element's derivative is 1."""

    def forward(self, x: Array, *, axes: Axes, keep: bool, name: str) -> Any:
        self.shape, self.axes, self.name = x.shape, axes, name
        return sum_over(x, axes, keep)

    def backward(self, g: Any) -> Any:
        return unreduce(g, self.shape, self.axes)


class Mean(Function):
    """y = Σ x / n.  Every element's derivative is 1/n."""

    def forward(self, x: Array, *, axes: Axes, keep: bool, name: str) -> Any:
        self.shape, self.axes, self.name = x.shape, axes, name
        return _mean(x, axes, keep)

    def backward(self, g: Any) -> Any:
        return unreduce(g / _count(self.shape, self.axes), self.shape, self.axes)


class Var(Function):
    """y = Σ (x − m)² / (n − c).  ∂y/∂xᵢ = 2(xᵢ − m)/(n − c): what xᵢ does through m sums to zero."""

    name = "VarBackward0"

    def forward(self, x: Array, *, axes: Axes, correction: float, keep: bool) -> Any:
        self.save_for_backward(x)
        self.axes, self.correction = axes, correction
        return quiet.run(np.asarray, _variance(x, axes, correction, keep), x.dtype, "C")

    def backward(self, g: Any) -> Any:
        (x,) = self.saved_tensors
        free = _count(x.shape, self.axes) - self.correction
        return unreduce(g, x.shape, self.axes) * (2 / free if free > 0 else math.inf) * _centred(x, self.axes)


class Std(Function):
    """y = √(Σ (x − m)² / (n − c)).  ∂y/∂xᵢ = (xᵢ − m)/((n − c)·y), and 0 where y is 0."""

    name = "StdBackward0"

    def forward(self, x: Array, *, axes: Axes, correction: float, keep: bool) -> Any:
        self.axes, self.correction = axes, correction
        y: Array = quiet.run(np.asarray, quiet.run(np.sqrt, _variance(x, axes, correction, keep)), x.dtype, "C")
        self.save_for_backward(x, y)
        return y

    def backward(self, g: Any) -> Any:
        x, y = self.saved_tensors
        free = _count(x.shape, self.axes) - self.correction
        slope = select(as_array(y) == 0, 0.0, g / y) * (1 / free if free > 0 else math.inf)
        return unreduce(slope, x.shape, self.axes) * _centred(x, self.axes)


def _mean(x: Array, axes: Axes, keep: bool) -> Any:
    return quiet.run(np.divide, sum_over(x, axes, keep), x.dtype.type(_count(x.shape, axes)))  # of nothing: NaN


def _centred(x: Any, axes: Axes) -> Any:
    return x - sum_over(x, axes, True) / _count(x.shape, axes)


def _variance(x: Array, axes: Axes, correction: float, keep: bool) -> Any:
    """Two passes: E[x²] − E[x]² loses every digit where the mean is large. In float64: std is finite where its square is no float32."""
    x = x.astype(np.float64, copy=False)
    centred = quiet.run(np.subtract, x, _mean(x, axes, True))
    total = sum_over(quiet.run(np.multiply, centred, centred), axes, keep)
    return quiet.run(np.divide, total, np.maximum(_count(x.shape, axes) - correction, 0.0))


# -- Extremes ------------------------------------------------------------------------------------------------------------------------


class Extreme(Function):
    """y = max x or min x over axes; equals share the gradient."""

    def forward(self, x: Array, *, axes: Axes, keep: bool, largest: bool, name: str) -> Any:
        self.axes, self.name = axes, name
        y = np.asarray((np.max if largest else np.min)(x, axis=axes, keepdims=keep), order="C")
        self.save_for_backward(x, y)
        return y

    def backward(self, g: Any) -> Any:
        x, y = (as_array(v) for v in self.saved_tensors)
        hit = x == unreduce(y, x.shape, self.axes)
        of_all = self.name[0] == "M"  # max and min, not amax and amin: as in torch, NaN equals NaN there, and 0 times infinity is 0
        if of_all:
            hit |= np.isnan(x) & np.isnan(y)
        g = unreduce(g / constant(hit.sum(axis=self.axes).reshape(g.shape).astype(x.dtype), g), x.shape, self.axes)
        return select(hit, g, 0.0 if of_all else g * 0.0)


class ExtremeAlong(Function):
    """y = max x or min x along one axis, and the first place that has it; that place takes the gradient."""

    def forward(self, x: Array, *, axis: int, keep: bool, largest: bool, name: str) -> Any:
        self.axis, self.name = axis, name
        place = (np.argmax if largest else np.argmin)(x, axis=axis, keepdims=True) if x.ndim else np.zeros((), np.int64)
        y = np.take_along_axis(x, place, axis) if x.ndim else x.copy()
        self.save_for_backward(x, place)
        return (y, place.copy()) if keep or not x.ndim else (y.squeeze(axis), place.squeeze(axis).copy())

    def backward(self, g: Any, _: Any) -> Any:
        x, place = (as_array(v) for v in self.saved_tensors)
        if not x.ndim:
            return g
        hit = np.zeros(x.shape, bool)
        np.put_along_axis(hit, place, True, self.axis)
        return select(hit, unreduce(g, x.shape, (self.axis,)), 0.0)


class LogSumExp(Function):
    """y = ln Σ eˣ, with the largest x taken out before.  ∂y/∂xᵢ = e^(xᵢ − y): the softmax."""

    name = "LogsumexpBackward0"

    def forward(self, x: Array, *, axes: Axes, keep: bool) -> Any:
        self.axes = axes
        with np.errstate(all="ignore"):
            top = x.max(axis=axes, keepdims=True, initial=-np.inf)
            top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
            y = np.log(sum_over(np.exp(x - top), axes, True)) + top
        y = np.asarray(y if keep else y.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axes)))
        self.save_for_backward(x, y)
        return y

    def backward(self, g: Any) -> Any:
        x, y = self.saved_tensors
        inner = x - unreduce(y, x.shape, self.axes)
        return unreduce(g, x.shape, self.axes) * (inner.exp() if isinstance(inner, Tensor) else np.exp(inner))


# -- For users -----------------------------------------------------------------------------------------------------------------------


def _float_only(op: str, x: Tensor) -> None:
    check_tensor(x, op)
    if x._data.dtype.kind != "f":
        raise RuntimeError(f"{op}(): could not infer output dtype. Input dtype must be a floating point dtype; got {x.dtype}: use .float()")


def _converted(op: str, input: Tensor, dtype: Any) -> Tensor:
    """The input, converted where a dtype is given."""
    check_tensor(input, op)
    return input if dtype is None else cast(input, as_dtype(dtype).numpy)


def sum(
    input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None, axis: Dim = None, keepdims: bool | None = None
) -> Tensor:
    """Σ over dim; of bool and int64 an int64, unless a dtype, to which the input is converted first, says otherwise.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.ones(2, 3).sum(dim=1)
        tensor([3., 3.])
    """
    x = _converted("sum", input, dtype)
    name = "SumBackward0" if dim is None and axis is None else "SumBackward1"
    out: Tensor = Sum.apply(x, axes=axes_of(x, dim, axis), keep=_keep(keepdim, keepdims), name=name)
    return out if dtype is None else _converted("sum", out, dtype)  # of bool NumPy's sum is an integer


def mean(
    input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None, axis: Dim = None, keepdims: bool | None = None
) -> Tensor:
    """The mean over dim, after a conversion to dtype where one is given; NaN of nothing.

    Raises:
        RuntimeError: integers or bool.
    """
    x = _converted("mean", input, dtype)
    _float_only("mean", x)
    name = "MeanBackward0" if dim is None and axis is None else "MeanBackward1"
    out: Tensor = Mean.apply(x, axes=axes_of(x, dim, axis), keep=_keep(keepdim, keepdims), name=name)
    return out


def _spread(op: str, cls: type[Function], input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any, axis: Dim, keepdims: Any) -> Tensor:
    _float_only(op, input)
    if isinstance(dim, bool):  # torch's x.var(False)
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise TypeError(f"{op}: give unbiased or correction, not both: unbiased=True is correction=1")
    if correction is not None and not isinstance(correction, (int, float, np.number)):
        raise TypeError(f"{op}: correction must be a number; got {type(correction).__name__}")
    free = correction if correction is not None else 1 if unbiased is None or unbiased else 0
    out: Tensor = cls.apply(input, axes=axes_of(input, dim, axis), correction=float(free), keep=_keep(keepdim, keepdims))
    return out


def var(
    input: Tensor,
    dim: Dim | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
    axis: Dim = None,
    keepdims: bool | None = None,
) -> Tensor:
    """Σ (x − mean)²/(n − correction) over dim: unbiased (correction 1) by default; unbiased=False divides by n, as the norms do."""
    return _spread("var", Var, input, dim, unbiased, keepdim, correction, axis, keepdims)


def std(
    input: Tensor,
    dim: Dim | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
    axis: Dim = None,
    keepdims: bool | None = None,
) -> Tensor:
    """√var: unbiased by default; the gradient of a constant's is 0."""
    return _spread("std", Std, input, dim, unbiased, keepdim, correction, axis, keepdims)


def _nonempty(op: str, x: Tensor, axes: Axes, error: type[Exception] = IndexError) -> None:
    if x._data.size == 0 and _count(x._data.shape, axes) == 0:
        raise error(f"{op}(): Expected reduction dim to have a non-zero size; the input has shape {list(x.shape)}: reduce an axis that has elements")


def _extreme(op: str, x: Tensor, dim: Any, keep: bool, axis: Any) -> Tensor:
    check_tensor(x, op)
    axes = axes_of(x, dim, axis)
    _nonempty(op, x, axes, RuntimeError if dim is None and axis is None else IndexError)
    out: Tensor = Extreme.apply(x, axes=axes, keep=keep, largest="max" in op, name=f"{op.capitalize()}Backward{int(len(op) == 3)}")
    return out


def amax(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:
    """The largest over dim; equals share the gradient."""
    return _extreme("amax", input, dim, _keep(keepdim, keepdims), axis)


def amin(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:
    """The smallest over dim; equals share the gradient."""
    return _extreme("amin", input, dim, _keep(keepdim, keepdims), axis)


def _along(op: str, x: Tensor, dim: Any, keep: bool, axis: Any) -> tuple[Tensor, Tensor]:
    check_tensor(x, op)
    at = one_axis(_one_of(dim, axis), x._data.ndim)
    if x._data.ndim:
        _nonempty(op, x, (at,))
    values, indices = ExtremeAlong.apply(x, axis=at, keep=keep, largest=op == "max", name=f"{op.capitalize()}Backward0")
    return values, indices


def _one_of(dim: Any, axis: Any) -> Any:
    if dim is not None and axis is not None:
        raise TypeError("give dim or axis, not both: they are two names of one argument")
    return axis if dim is None else dim


def _all_of(op: str, x: Tensor, keepdim: bool, keepdims: bool | None) -> Tensor:
    if keepdim or keepdims:
        raise TypeError(f"{op}: keepdim needs a dim; over all elements use a{op}(keepdim=True)")
    return _extreme(op, x, None, False, None)


def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: int | None = None, keepdims: bool | None = None) -> Any:
    """max(x): the largest of all. max(x, dim): the pair (values, indices) along dim. max(x, other): `maximum`.

    Example:
        >>> import tinygrad_norm as tg
        >>> values, indices = tg.tensor([[1.0, 5.0], [7.0, 2.0]]).max(dim=1)
        >>> indices
        tensor([1, 0])
    """
    if isinstance(dim, Tensor):
        return maximum(input, dim)
    if dim is None and axis is None:
        return _all_of("max", input, keepdim, keepdims)
    return MaxResult(*_along("max", input, dim, _keep(keepdim, keepdims), axis))


def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: int | None = None, keepdims: bool | None = None) -> Any:
    """min(x): the smallest of all. min(x, dim): the pair (values, indices) along dim. min(x, other): `minimum`."""
    if isinstance(dim, Tensor):
        return minimum(input, dim)
    if dim is None and axis is None:
        return _all_of("min", input, keepdim, keepdims)
    return MinResult(*_along("min", input, dim, _keep(keepdim, keepdims), axis))


def _arg(op: str, x: Tensor, dim: Any, keep: bool, axis: Any) -> Tensor:
    check_tensor(x, op)
    if x._data.dtype.kind == "b":
        raise RuntimeError(f"{op}(): does not support bool input: convert it with .long()")
    dim = _one_of(dim, axis)
    axes = tuple(range(x._data.ndim)) if dim is None else (one_axis(dim, x._data.ndim),)
    if not x._data.ndim:
        return Tensor(np.zeros((), np.int64))
    _nonempty(op, x, axes)
    return Tensor(np.asarray((np.argmax if op == "argmax" else np.argmin)(x._data, axis=None if dim is None else axes[0], keepdims=keep)))


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False, *, axis: int | None = None, keepdims: bool | None = None) -> Tensor:
    """Where the largest stands (the first of equals): along dim, or in the flattened tensor."""
    return _arg("argmax", input, dim, _keep(keepdim, keepdims), axis)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False, *, axis: int | None = None, keepdims: bool | None = None) -> Tensor:
    """Where the smallest stands (the first of equals): along dim, or in the flattened tensor."""
    return _arg("argmin", input, dim, _keep(keepdim, keepdims), axis)


def logsumexp(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:
    """ln Σ eˣ over dim, without overflow."""
    x = floating(input, "logsumexp")
    if dim is None and axis is None:
        raise TypeError("logsumexp: dim (or axis) is missing: one axis or several")
    out: Tensor = LogSumExp.apply(x, axes=axes_of(x, dim, axis), keep=_keep(keepdim, keepdims))
    return out


def all(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:
    """Whether every element over dim is not 0."""
    check_tensor(input, "all")
    return Tensor(np.asarray(input._data.all(axis=axes_of(input, dim, axis), keepdims=_keep(keepdim, keepdims))))


def any(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:
    """Whether some element over dim is not 0."""
    check_tensor(input, "any")
    return Tensor(np.asarray(input._data.any(axis=axes_of(input, dim, axis), keepdims=_keep(keepdim, keepdims))))


__all__ = ["all", "amax", "amin", "any", "argmax", "argmin", "logsumexp", "max", "mean", "min", "std", "sum", "var"]
