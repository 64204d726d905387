"""Sums, means, spreads and extremes over axes: each forward with its backward under it.

Every function takes torch's dim and keepdim or NumPy's axis and keepdims; dim may be one axis, several, or None for all.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..tensor import Function, Tensor
from .elementwise import as_array, check_tensor, constant, floating, maximum, minimum, select

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
    if not isinstance(dim, Sequence):
        return (one_axis(dim, ndim),) if ndim else (one_axis(dim, 0),)[:0]
    found = [one_axis(d, ndim) for d in dim]
    if len(set(found)) < len(found):
        raise RuntimeError(f"dim {sorted(found, key=found.count)[-1]} appears multiple times in the list of dims")
    return tuple(sorted(found)) if found else tuple(range(ndim))


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

    name = "SumBackward0"

    def forward(self, x: Array, *, axes: Axes, keep: bool) -> Any:
        self.shape, self.axes = x.shape, axes
        return x.sum(axis=axes, keepdims=keep)

    def backward(self, g: Any) -> Any:
        return unreduce(g, self.shape, self.axes)


class Mean(Function):
    """y = Σ x / n.  Every element's derivative is 1/n."""

    name = "MeanBackward0"

    def forward(self, x: Array, *, axes: Axes, keep: bool) -> Any:
        self.shape, self.axes = x.shape, axes
        self.n = _count(x.shape, axes)
        with np.errstate(all="ignore"):  # of nothing: NaN
            return np.asarray(x.sum(axis=axes, keepdims=keep) / x.dtype.type(self.n))

    def backward(self, g: Any) -> Any:
        return unreduce(g / self.n, self.shape, self.axes)


class Var(Function):
    """y = Σ (x − m)² / (n − c).  ∂y/∂xᵢ = 2(xᵢ − m)/(n − c): what xᵢ does through m sums to zero."""

    name = "VarBackward0"

    def forward(self, x: Array, *, axes: Axes, correction: float, keep: bool) -> Any:
        self.save_for_backward(x)
        self.axes = axes
        y, self.free = _variance(x, axes, correction, keep)
        return y

    def backward(self, g: Any) -> Any:
        (x,) = self.saved_tensors
        with np.errstate(all="ignore"):
            return unreduce(g, x.shape, self.axes) * (2 / self.free) * (x - x.mean(axis=self.axes, keepdims=True))


class Std(Function):
    """y = √(Σ (x − m)² / (n − c)).  ∂y/∂xᵢ = (xᵢ − m)/((n − c)·y), and 0 where y is 0."""

    name = "StdBackward0"

    def forward(self, x: Array, *, axes: Axes, correction: float, keep: bool) -> Any:
        self.axes = axes
        y, self.free = _variance(x, axes, correction, keep)
        with np.errstate(all="ignore"):
            y = np.asarray(np.sqrt(y))
        self.save_for_backward(x, y)
        return y

    def backward(self, g: Any) -> Any:
        x, y = self.saved_tensors
        with np.errstate(all="ignore"):
            slope = select(as_array(y) == 0, 0.0, g / (y * self.free))
            return unreduce(slope, x.shape, self.axes) * (x - x.mean(axis=self.axes, keepdims=True))


def _variance(x: Array, axes: Axes, correction: float, keep: bool) -> tuple[Any, float]:
    """Two passes: E[x²] − E[x]² loses every digit where the mean is large."""
    n = _count(x.shape, axes)
    free = np.float64(n - correction if n > correction else 0)
    with np.errstate(all="ignore"):
        centred = x - x.sum(axis=axes, keepdims=True) / x.dtype.type(n)
        return np.asarray((centred * centred).sum(axis=axes, keepdims=keep) / x.dtype.type(free)), free


# -- Extremes ------------------------------------------------------------------------------------------------------------------------


class Extreme(Function):
    """y = max x or min x over axes; equals share the gradient."""

    name = "AmaxBackward0"

    def forward(self, x: Array, *, axes: Axes, keep: bool, largest: bool) -> Any:
        self.axes = axes
        y = np.asarray((np.max if largest else np.min)(x, axis=axes, keepdims=keep))
        self.save_for_backward(x, y)
        return y

    def backward(self, g: Any) -> Any:
        x, y = self.saved_tensors
        hit = as_array(x) == unreduce(as_array(y), x.shape, self.axes)
        share = (hit / hit.sum(axis=self.axes, keepdims=True)).astype(as_array(x).dtype)
        return unreduce(g, x.shape, self.axes) * constant(share, g)


class ExtremeAlong(Function):
    """y = max x or min x along one axis, and the first place that has it; that place takes the gradient."""

    name = "MaxBackward0"

    def forward(self, x: Array, *, axis: int, keep: bool, largest: bool) -> Any:
        self.shape, self.axis = x.shape, axis
        if not x.ndim:
            self.where = np.zeros((), np.int64)
            return x.copy(), self.where
        self.where = np.expand_dims((np.argmax if largest else np.argmin)(x, axis=axis), axis)
        y = np.take_along_axis(x, self.where, axis)
        where = self.where.copy()
        return (y, where) if keep else (y.squeeze(axis), where.squeeze(axis))

    def backward(self, g: Any, _: Any) -> Any:
        if not self.shape:
            return g
        one = np.zeros(self.shape, as_array(g).dtype)
        np.put_along_axis(one, self.where, 1, self.axis)
        return unreduce(g, self.shape, (self.axis,)) * constant(one, g)


class LogSumExp(Function):
    """y = ln Σ eˣ, with the largest x taken out before.  ∂y/∂xᵢ = e^(xᵢ − y): the softmax."""

    name = "LogsumexpBackward0"

    def forward(self, x: Array, *, axes: Axes, keep: bool) -> Any:
        self.axes = axes
        with np.errstate(all="ignore"):
            top = x.max(axis=axes, keepdims=True, initial=-np.inf)
            top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
            y = np.log(np.exp(x - top).sum(axis=axes, keepdims=True)) + top
        y = np.asarray(y if keep else y.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axes)))
        self.save_for_backward(x, y)
        return y

    def backward(self, g: Any) -> Any:
        x, y = self.saved_tensors
        with np.errstate(all="ignore"):
            inner = x - unreduce(y, x.shape, self.axes)
            inner = select(as_array(x) == -np.inf, -np.inf, inner)  # also where all are −inf: no element moves y
            return unreduce(g, x.shape, self.axes) * (inner.exp() if isinstance(inner, Tensor) else np.exp(inner))


# -- For users -----------------------------------------------------------------------------------------------------------------------


def _float_only(op: str, x: Tensor) -> None:
    check_tensor(x, op)
    if x._data.dtype.kind != "f":
        raise RuntimeError(f"{op}(): could not infer output dtype. Input dtype must be a floating point dtype. Got: {x.dtype}: convert it with .float()")


def sum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:  # noqa: A001
    """Σ over dim; of bool and int64 an int64.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.ones(2, 3).sum(dim=1)
        tensor([3., 3.])
    """
    check_tensor(input, "sum")
    return Sum.apply(input, axes=axes_of(input, dim, axis), keep=_keep(keepdim, keepdims))


def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:
    """The mean over dim; NaN of nothing.

    Raises:
        RuntimeError: integers or bool.
    """
    _float_only("mean", input)
    return Mean.apply(input, axes=axes_of(input, dim, axis), keep=_keep(keepdim, keepdims))


def _spread(op: str, cls: type[Function], input: Tensor, dim: Any, unbiased: Any, keepdim: bool, correction: Any, axis: Dim, keepdims: Any) -> Tensor:
    _float_only(op, input)
    if isinstance(dim, bool):  # torch's x.var(False)
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise TypeError(f"{op}: give unbiased or correction, not both: unbiased=True is correction=1")
    free = correction if correction is not None else 1 if unbiased is None or unbiased else 0
    return cls.apply(input, axes=axes_of(input, dim, axis), correction=float(free), keep=_keep(keepdim, keepdims))


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


def _nonempty(op: str, x: Tensor, axes: Axes) -> None:
    if _count(x._data.shape, axes) == 0 and (x._data.size == 0):
        raise (RuntimeError if len(axes) == x._data.ndim else IndexError)(
            f"{op}(): Expected reduction dim to have a non-zero size: the input has shape {list(x.shape)}. Specify a dim of at least one element."
        )


def _extreme(op: str, x: Tensor, dim: Any, keep: bool, axis: Any, largest: bool) -> Tensor:
    check_tensor(x, op)
    axes = axes_of(x, dim, axis)
    _nonempty(op, x, axes)
    return Extreme.apply(x, axes=axes, keep=keep, largest=largest)


def amax(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:
    """The largest over dim; equals share the gradient."""
    return _extreme("amax", input, dim, _keep(keepdim, keepdims), axis, True)


def amin(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:
    """The smallest over dim; equals share the gradient."""
    return _extreme("amin", input, dim, _keep(keepdim, keepdims), axis, False)


def _along(op: str, x: Tensor, dim: Any, keep: bool, axis: Any, largest: bool) -> tuple[Tensor, Tensor]:
    check_tensor(x, op)
    if dim is not None and axis is not None:
        raise TypeError("give dim or axis, not both: they are two names of one argument")
    at = one_axis(axis if dim is None else dim, x._data.ndim)
    if x._data.ndim:
        _nonempty(op, x, (at,))
    values, indices = ExtremeAlong.apply(x, axis=at, keep=keep, largest=largest)
    return values, indices


def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: int | None = None, keepdims: bool | None = None) -> Any:  # noqa: A001
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
        return _extreme("max", input, None, False, None, True)
    return MaxResult(*_along("max", input, dim, _keep(keepdim, keepdims), axis, True))


def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, axis: int | None = None, keepdims: bool | None = None) -> Any:  # noqa: A001
    """min(x): the smallest of all. min(x, dim): the pair (values, indices) along dim. min(x, other): `minimum`."""
    if isinstance(dim, Tensor):
        return minimum(input, dim)
    if dim is None and axis is None:
        return _extreme("min", input, None, False, None, False)
    return MinResult(*_along("min", input, dim, _keep(keepdim, keepdims), axis, False))


def _arg(op: str, x: Tensor, dim: Any, keep: bool, axis: Any, largest: bool) -> Tensor:
    check_tensor(x, op)
    dim = axis if dim is None else dim
    if dim is None:
        _nonempty(op, x, tuple(range(x._data.ndim)))
        return Tensor(np.asarray((np.argmax if largest else np.argmin)(x._data), np.int64).reshape((1,) * x._data.ndim if keep else ()))
    at = one_axis(dim, x._data.ndim)
    if not x._data.ndim:
        return Tensor(np.zeros((), np.int64))
    _nonempty(op, x, (at,))
    return Tensor(np.asarray((np.argmax if largest else np.argmin)(x._data, axis=at, keepdims=keep)))


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False, *, axis: int | None = None, keepdims: bool | None = None) -> Tensor:
    """Where the largest stands (the first of equals): along dim, or in the flattened tensor."""
    return _arg("argmax", input, dim, _keep(keepdim, keepdims), axis, True)


def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False, *, axis: int | None = None, keepdims: bool | None = None) -> Tensor:
    """Where the smallest stands (the first of equals): along dim, or in the flattened tensor."""
    return _arg("argmin", input, dim, _keep(keepdim, keepdims), axis, False)


def logsumexp(input: Tensor, dim: Dim, keepdim: bool = False, *, keepdims: bool | None = None) -> Tensor:
    """ln Σ eˣ over dim, without overflow."""
    return LogSumExp.apply(floating(input), axes=axes_of(input, dim), keep=_keep(keepdim, keepdims))


def all(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:  # noqa: A001
    """Whether every element over dim is not 0."""
    check_tensor(input, "all")
    return Tensor(np.asarray(input._data.all(axis=axes_of(input, dim, axis), keepdims=_keep(keepdim, keepdims))))


def any(input: Tensor, dim: Dim = None, keepdim: bool = False, *, axis: Dim = None, keepdims: bool | None = None) -> Tensor:  # noqa: A001
    """Whether some element over dim is not 0."""
    check_tensor(input, "any")
    return Tensor(np.asarray(input._data.any(axis=axes_of(input, dim, axis), keepdims=_keep(keepdim, keepdims))))


__all__ = ["all", "amax", "amin", "any", "argmax", "argmin", "logsumexp", "max", "mean", "min", "std", "sum", "var"]
