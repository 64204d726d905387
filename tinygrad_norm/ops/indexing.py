"""Picking elements and putting them: the gradient of a pick is a put, of a put a pick."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensor import Function, Tensor, write_in_place
from .elementwise import as_array, broadcast_shape, check_tensor, select, sum_to
from .reduction import one_axis

Array = np.ndarray[Any, Any]


def _scatter_sum(shape: tuple[int, ...], key: Any, g: Array) -> Array:
    """Zeros with g added at the key: an element picked twice gets both gradients."""
    out = np.zeros(shape, g.dtype)
    if _is_basic(key):
        out[key] = g
    else:
        np.add.at(out, key, g)
    return out


def _is_basic(key: Any) -> bool:
    return all(k is None or k is Ellipsis or isinstance(k, (slice, int)) for k in key)


class GetItem(Function):
    """y = x[key]."""

    name = "SelectBackward0"
    is_view = True

    def forward(self, x: Array, *, key: Any) -> Any:
        self.shape, self.key = x.shape, key
        return x[(*key, ...)] if _is_basic(key) and Ellipsis not in key else x[key]  # with ... NumPy gives a 0-d view, not a scalar

    def backward(self, g: Any) -> Any:
        if isinstance(g, Tensor):
            return Put.apply(g, shape=self.shape, key=self.key)
        return _scatter_sum(self.shape, self.key, g)


class Put(Function):
    """Zeros with x added at the key: the transpose of GetItem, and GetItem is its transpose."""

    def forward(self, x: Array, *, shape: tuple[int, ...], key: Any) -> Array:
        self.key = key
        return _scatter_sum(shape, key, x)

    def backward(self, g: Any) -> Any:
        return GetItem.apply(g, key=self.key) if isinstance(g, Tensor) else g[self.key]


class SetItem(Function):
    """y = x, but value at the key: the value gets the gradient of its places, x that of all others."""

    name = "CopySlices"

    def forward(self, x: Array, value: Any, *, key: Any) -> Array:
        self.key, self.value_shape = key, np.shape(value)
        y = x.copy()
        y[key] = value
        return y

    def backward(self, g: Any) -> Any:
        dx = dv = None
        if self.needs_input_grad[0]:
            mask = np.ones(g.shape, bool)
            mask[self.key] = False
            dx = select(mask, g, 0.0)
        if self.needs_input_grad[1]:
            picked = g[self.key] if isinstance(g, np.ndarray) else GetItem.apply(g, key=self.key)
            dv = sum_to(picked if hasattr(picked, "shape") else np.asarray(picked), self.value_shape)
        return dx, dv


class Gather(Function):
    """y[i][j] = x[index[i][j]][j] along one axis."""

    name = "GatherBackward0"

    def forward(self, x: Array, *, axis: int, index: Array) -> Any:
        grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
        if grid:
            grid[axis] = index
        self.shape, self.key = x.shape, tuple(grid)
        return x[self.key] if grid else x.copy()

    def backward(self, g: Any) -> Any:
        if not self.key:
            return g
        return Put.apply(g, shape=self.shape, key=self.key) if isinstance(g, Tensor) else _scatter_sum(self.shape, self.key, g)


class MaskedFill(Function):
    """y = value where the mask holds, else x; x gets no gradient there."""

    name = "MaskedFillBackward0"

    def forward(self, x: Array, value: Any, *, mask: Array) -> Array:
        self.mask, self.shape = mask, x.shape
        return np.where(mask, np.asarray(value, x.dtype), x)

    def backward(self, g: Any) -> Any:
        dx = sum_to(select(self.mask, 0.0, g), self.shape) if self.needs_input_grad[0] else None
        return dx, sum_to(select(self.mask, g, 0.0), ()) if self.needs_input_grad[1] else None


# -- For users -----------------------------------------------------------------------------------------------------------------------


def _key(x: Tensor, key: Any) -> tuple[Any, ...]:
    """An index as NumPy reads it, with torch's errors."""
    parts = key if isinstance(key, tuple) else (key,)
    out: list[Any] = []
    used = sum(_axes_used(k) for k in parts)
    if used > x._data.ndim:
        raise IndexError(f"too many indices for tensor of dimension {x._data.ndim}: got {used}")
    axis = 0
    for i, k in enumerate(parts):
        if k is Ellipsis:
            if sum(1 for other in parts if other is Ellipsis) > 1:
                raise IndexError("an index can only have a single ellipsis ('...')")
            axis = x._data.ndim - sum(_axes_used(rest) for rest in parts[i + 1 :])
            out.append(k)
            continue
        if isinstance(k, (Tensor, np.ndarray, list)):
            k = as_array(k) if not isinstance(k, list) else np.asarray(as_nested(k), dtype=None if k else np.int64)
            if k.dtype.kind not in "ib":
                raise IndexError(f"tensors used as indices must be int64 or bool tensors; got {k.dtype}")
            if k.dtype.kind == "b":
                shape = x._data.shape[axis : axis + k.ndim]
                if k.shape != shape:
                    raise IndexError(f"The shape of the mask {list(k.shape)} at index {i} does not match the shape of the indexed tensor {list(x.shape)}")
            else:
                _in_bounds(k, x._data.shape[axis], axis)
            k = k.copy()  # the key is kept for backward; the caller may change its own
        elif isinstance(k, (bool, np.bool_)):
            raise IndexError("a bool as an index is not supported: use a bool tensor of the indexed tensor's shape")
        elif isinstance(k, slice):
            if k.step is not None and k.step <= 0:
                raise ValueError(f"step must be greater than zero; got {k.step}")
        elif k is not None:
            try:
                k = k.__index__()
            except AttributeError:
                raise TypeError(
                    f"only integers, slices (`:`), ellipsis (`...`), None and long or bool tensors are valid indices (got {type(k).__name__})"
                ) from None
            n = x._data.shape[axis]
            if not -n <= k < n:
                raise IndexError(f"index {k} is out of bounds for dimension {axis} with size {n}")
        axis += _axes_used(k)
        out.append(k)
    return tuple(out)


def as_nested(values: Any) -> Any:
    """A list with Tensors in it as lists of numbers."""
    return [as_nested(v) for v in values] if isinstance(values, list) else values.tolist() if isinstance(values, Tensor) else values


def _axes_used(k: Any) -> int:
    if k is None or k is Ellipsis or isinstance(k, (bool, np.bool_)):
        return 0
    array = as_array(k)
    return array.ndim if isinstance(array, np.ndarray) and array.dtype.kind == "b" else 1


def _in_bounds(index: Array, n: int, axis: int) -> None:
    if index.size and (index.max() >= n or index.min() < -n):
        bad = index[(index >= n) | (index < -n)].flat[0]
        raise IndexError(f"index {bad} is out of bounds for dimension {axis} with size {n}")


def getitem(input: Tensor, key: Any) -> Tensor:
    """x[key]: a view for integers, slices, None and ...; a copy for integer and bool tensors."""
    return GetItem.apply(input, key=_key(input, key))


def setitem(input: Tensor, key: Any, value: Any) -> None:
    """x[key] = value, in place, recorded where a gradient is wanted."""
    found = _key(input, key)
    if isinstance(value, (Tensor, np.ndarray)):
        array = as_array(value)
        places = input._data[found].shape
        extra = array.ndim - len(places)  # torch ignores leading axes of length 1 of the value
        if extra > 0 and all(n == 1 for n in array.shape[:extra]):
            value = value.reshape(array.shape[extra:])
            array = as_array(value)
        if array.shape != places and (array.ndim > len(places) or broadcast_shape("setitem", places, array.shape) != places):
            raise RuntimeError(f"shape mismatch: value tensor of shape {list(array.shape)} cannot be broadcast to indexing result of shape {list(places)}")
    elif not isinstance(value, (int, float, np.generic)):
        raise TypeError(f"can't assign a {type(value).__name__} to a tensor: make a Tensor of it with tensor(...)")
    write_in_place(input, SetItem, value, key=found)


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """y[i][j] = x[index[i][j]][j] for dim 0, y[i][j] = x[i][index[i][j]] for dim 1, and so on.

    Raises:
        RuntimeError: index has another number of axes, is longer than input along another axis, or is not int64.
        IndexError: an index out of bounds.
    """
    check_tensor(input, "gather")
    check_tensor(index, "gather")
    if index._data.dtype.kind != "i":
        raise RuntimeError(f"gather(): Expected dtype int64 for index; got {index.dtype}")
    if index._data.ndim != input._data.ndim:
        raise RuntimeError(
            f"Index tensor must have the same number of dimensions as input tensor: index {list(index.shape)}, input {list(input.shape)}"
        )
    at = one_axis(dim, input._data.ndim)
    for i, (m, n) in enumerate(zip(index._data.shape, input._data.shape)):
        if i != at and m > n:
            raise RuntimeError(f"Size does not match at dimension {i} expected index {list(index.shape)} to be no larger than self {list(input.shape)}")
    n = input._data.shape[at] if input._data.ndim else 1
    if index._data.size and (index._data.max() >= n or index._data.min() < 0):
        raise IndexError(f"index {index._data.max() if index._data.max() >= n else index._data.min()} is out of bounds for dimension {at} with size {n}")
    return Gather.apply(input, axis=at, index=index._data.copy())


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of input at the given indices along dim, as a copy."""
    check_tensor(input, "index_select")
    check_tensor(index, "index_select")
    if index._data.ndim > 1:
        raise IndexError(f"index_select(): Index is supposed to be a vector; got shape {list(index.shape)}")
    if index._data.dtype.kind != "i":
        raise RuntimeError(f"index_select(): Expected dtype int64 for index; got {index.dtype}")
    at = one_axis(dim, input._data.ndim)
    if not input._data.ndim:
        return input.clone()
    if index._data.size and index._data.min() < 0:
        raise IndexError(f"index out of range in self: {index._data.min()} along dimension {at} of size {input._data.shape[at]}")
    return getitem(input, (slice(None),) * at + (index.reshape(-1),))


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """value where the mask holds, else input.

    Raises:
        RuntimeError: the mask is not bool, or its shape does not broadcast with input's.
    """
    check_tensor(input, "masked_fill")
    check_tensor(mask, "masked_fill")
    if mask._data.dtype.kind != "b":
        raise RuntimeError(f"masked_fill_ only supports boolean masks, but got mask with dtype {mask.dtype}")
    if isinstance(value, Tensor):
        if value._data.ndim:
            raise RuntimeError(f"masked_fill only supports a 0-dimensional value tensor, but got tensor with {value._data.ndim} dimension(s).")
    elif not isinstance(value, (int, float, np.generic)):
        raise TypeError(f"masked_fill: value must be a number or a 0-d Tensor; got {type(value).__name__}")
    broadcast_shape("masked_fill", input._data.shape, mask._data.shape)
    return MaskedFill.apply(input, value, mask=mask._data.copy())


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """1 at each class index and 0 elsewhere, along a new last axis.

    Args:
        tensor: class indices, int64.
        num_classes: the length of that axis; one more than the largest index by default.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.one_hot(tg.tensor([0, 2]), 3)
        tensor([[1, 0, 0],
                [0, 0, 1]])
    """
    check_tensor(tensor, "one_hot")
    index = tensor._data
    if index.dtype.kind != "i":
        raise RuntimeError(f"one_hot is only applicable to index tensor of type LongTensor; got {tensor.dtype}")
    if num_classes == -1:
        if not index.size:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        num_classes = int(index.max()) + 1
    if num_classes < 1:
        raise RuntimeError(f"num_classes should be positive; got {num_classes}")
    if index.size and index.min() < 0:
        raise RuntimeError(f"Class values must be non-negative; got {index.min()}")
    if index.size and index.max() >= num_classes:
        raise RuntimeError(f"Class values must be smaller than num_classes; got {index.max()} with num_classes={num_classes}")
    return Tensor((index[..., None] == np.arange(num_classes)).astype(np.int64))


