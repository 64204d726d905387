"""Copies: into memory of their own, into another element type, and over what a tensor holds; each forward with its backward under it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..dtype import as_dtype, float32, float64, int64
from ..dtype import bool_ as bool_dtype
from ..function import Function
from ..quiet import quiet
from ..tensor import Tensor, write_in_place
from .operands import broadcast_shape, cast, check_tensor, copy_order, fitted, sum_to, zeros_like

Array = np.ndarray[Any, Any]


class Clone(Function):
    """A copy of the memory, in its order: random numbers are drawn in that."""

    name = "CloneBackward0"

    def forward(self, x: Array, *, order: Literal["C", "K"] | None = None) -> Array:
        return np.array(x, order=order or copy_order(x))

    def backward(self, g: Any) -> Any:
        return g


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


# -- For users ---------------------------------------------------------------------------------------------------------------------


def clone(input: Tensor) -> Tensor:
    """A copy of its own memory; gradients pass through."""
    check_tensor(input, "clone")
    out: Tensor = Clone.apply(input)
    return out


def contiguous(input: Tensor) -> Tensor:
    """Itself if its elements lie in memory in the order of its indices, else a copy that does."""
    if input._data.flags.c_contiguous:
        return input
    out: Tensor = Clone.apply(input, order="C")
    return out


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


# In place


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


def copy_(input: Tensor, other: Tensor) -> Tensor:
    """input ← other, broadcast and converted to input's element type."""
    check_tensor(input, "copy_")
    check_tensor(other, "copy_")
    if broadcast_shape("copy_", input._data.shape, other._data.shape) != input._data.shape:
        raise RuntimeError(f"copy_: a tensor of shape {list(other.shape)} cannot be broadcast to {list(input.shape)}, the tensor written to")
    return write_in_place(input, Copy.apply, other)
