"""Picking elements and putting them: the gradient of a pick is a put, of a put a pick.

A key in brackets is taken apart into at most two keys for NumPy, as torch does it: integers, slices, None and ... first, which give a view;
then integer and bool tensors on what is left. NumPy alone would count the integers among the tensors and put their axes elsewhere.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..function import Function
from ..quiet import quiet
from ..tensor import Tensor, check_writable, touch, write_in_place
from .arithmetic import select
from .operands import as_array, broadcast_shape, check_tensor, fitted, sum_to
from .reduction import one_axis

Array = np.ndarray[Any, Any]
Key = tuple[Any, ...]


def _scatter_sum(shape: tuple[int, ...], key: Key, g: Array) -> Array:
    """Zeros with g added at the key: an element picked twice gets both gradients."""
    out = np.zeros(shape, g.dtype)
    if any(isinstance(k, np.ndarray) and k.dtype.kind == "i" for k in key):
        np.add.at(out, key, g)
    else:
        out[key] = g
    return out


class GetItem(Function):
    """y = x[key]."""

    def forward(self, x: Array, *, key: Key, name: str) -> Any:
        self.shape, self.key, self.name = x.shape, key, name
        return np.asarray(x[key], order="C") if name.startswith("Index") else x[key]  # NumPy lays out what it picks as it comes by it

    def backward(self, g: Any) -> Any:
        return Put.on(g, shape=self.shape, key=self.key)


class Put(Function):
    """Zeros with x added at the key: the transpose of GetItem, and GetItem is its transpose."""

    def forward(self, x: Array, *, shape: tuple[int, ...], key: Key) -> Array:
        self.key = key
        return _scatter_sum(shape, key, x)

    def backward(self, g: Any) -> Any:
        return GetItem.on(g, key=self.key, name="IndexBackward0")


class SetItem(Function):
    """y = x, but value at the keys: the value gets the gradient of its places, x that of all others."""

    name = "CopySlices"

    def forward(self, x: Array, value: Any, *, keys: list[Key]) -> Array:
        self.keys = keys
        if len(keys) == 1 and any(isinstance(k, np.ndarray) for k in keys[0]):
            self.name = "IndexPutBackward0"
        y = np.array(x)
        _assign(y, keys, value)
        return y

    def backward(self, g: Any) -> Any:
        x, value = self.input_shapes
        dx = dv = None
        if x is not None:
            others = np.ones(g.shape, bool)
            _assign(others, self.keys, False)
            dx = select(others, g, 0.0)
        if value is not None:
            for key in self.keys:
                g = GetItem.on(g, key=key, name="IndexBackward0")
            dv = sum_to(g, value)
        return dx, dv


def _assign(array: Array, keys: list[Key], value: Any) -> None:
    """array[keys] = value; all keys but the last give views."""
    for key in keys[:-1]:
        array = array[key]
    quiet.run(array.__setitem__, keys[-1], value)


class Gather(Function):
    """y[i][j] = x[index[i][j]][j] along one axis."""

    name = "GatherBackward0"

    def forward(self, x: Array, *, axis: int, index: Array) -> Any:
        grid: list[Any] = list(np.indices(index.shape, sparse=True))
        if grid:
            grid[axis] = index
        self.shape, self.key = x.shape, tuple(grid)
        return x[self.key] if grid else x.copy()

    def backward(self, g: Any) -> Any:
        return Put.on(g, shape=self.shape, key=self.key) if self.key else g.reshape(self.shape)


class MaskedFill(Function):
    """y = value where the mask holds, else x; x gets no gradient there."""

    name = "MaskedFillBackward0"

    def forward(self, x: Array, value: Any, mask: Array) -> Array:
        self.save_for_backward(mask)
        if isinstance(value, np.ndarray):
            self.name = "MaskedFillBackward1"
        return np.asarray(np.where(mask, quiet.run(np.asarray(value).astype, x.dtype), x), order="C")

    def backward(self, g: Any) -> Any:
        (mask,) = self.saved_tensors
        x, value, _ = self.input_shapes
        return None if x is None else sum_to(select(mask, 0.0, g), x), None if value is None else sum_to(select(mask, g, 0.0), ()), None


# -- For users -----------------------------------------------------------------------------------------------------------------------


_PARTS = (list, tuple, range, slice, Tensor, np.ndarray)  # a list with one of these in it is meant as a tuple


def _keys(x: Tensor, key: Any) -> tuple[list[Key], list[str]]:
    """The one or two keys for NumPy, with torch's errors, and the names torch gives their nodes."""
    if isinstance(key, list) and len(key) < 32 and any(k is None or k is Ellipsis or isinstance(k, _PARTS) for k in key):
        key = tuple(key)  # as in torch: x[[[0, 1], [1, 0]]] is x[[0, 1], [1, 0]]
    parts = key if isinstance(key, tuple) else (key,)
    used = sum(_axes_used(k) for k in parts)
    ndim, shape = x._data.ndim, x._data.shape
    if used > ndim:
        raise IndexError(f"too many indices for tensor of dimension {ndim}: got {used}")
    if sum(1 for k in parts if k is Ellipsis) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    basic: list[Any] = []  # what gives a view
    fancy: list[Any] = []  # the tensors, and `:` for every other axis of that view
    name = "SliceBackward0" if isinstance(key, slice) else "AliasBackward0"
    axis = 0
    for i, k in enumerate(parts):
        if isinstance(k, (Tensor, np.ndarray, list, tuple, range)):
            k = _index_array(k)
            if k.ndim == 0 and k.dtype.kind == "i":
                k = k.item()  # as in torch, a 0-d tensor is an integer, and gives a view
        if k is Ellipsis:
            basic.append(k)
            fancy.extend([slice(None)] * (ndim - used))
            axis += ndim - used
        elif k is None:
            basic.append(k)
            fancy.append(slice(None))
            name = "UnsqueezeBackward0"
        elif isinstance(k, slice):
            k = slice(*(None if v is None else operator.index(v) for v in (k.start, k.stop, k.step)))
            if k.step is not None and k.step <= 0:
                raise ValueError(f"step must be greater than zero; got {k.step}")
            if k.indices(shape[axis]) != (0, shape[axis], 1):
                name = "SliceBackward0"
            basic.append(k)
            fancy.append(slice(None))
            axis += 1
        elif isinstance(k, np.ndarray):
            if k.dtype.kind == "b" and k.shape != shape[axis : axis + k.ndim]:
                raise IndexError(f"The shape of the mask {list(k.shape)} at index {i} does not match the shape of the indexed tensor {list(shape)}")
            if k.dtype.kind == "i":
                _in_bounds(k, shape[axis], axis)
            basic.extend([slice(None)] * _axes_used(k))
            fancy.append(k)
            axis += _axes_used(k)
        elif isinstance(k, (bool, np.bool_)):
            raise IndexError("a bool as an index is not supported: use a bool tensor of the indexed tensor's shape")
        else:
            try:
                k = operator.index(k)
            except TypeError:
                raise IndexError(
                    f"only integers, slices (`:`), ellipsis (`...`), None and long or bool tensors are valid indices (got {type(k).__name__})"
                ) from None
            if not -shape[axis] <= k < shape[axis]:
                raise IndexError(f"index {k} is out of bounds for dimension {axis} with size {shape[axis]}")
            basic.append(k)
            name = "SelectBackward0"
            axis += 1
    if Ellipsis not in basic:
        basic.append(Ellipsis)  # with ... NumPy gives a 0-d view where it would give a scalar
    if not any(isinstance(k, np.ndarray) for k in fancy):
        return [tuple(basic)], [name]
    _broadcast_together([k for k in fancy if isinstance(k, np.ndarray)])
    if all(isinstance(k, slice) and k == slice(None) for k in basic[:-1]) and basic[-1] is Ellipsis:
        return [tuple(fancy)], ["IndexBackward0"]
    return [tuple(basic), tuple(fancy)], [name, "IndexBackward0"]


def _index_array(k: Any) -> Array:
    """A tensor of indices as an array of its own: it is kept for backward, and the caller may change theirs."""
    array = np.array(as_nested(list(k)), dtype=None if k else np.int64) if isinstance(k, (list, tuple, range)) else np.array(as_array(k))
    if array.dtype.kind not in "ib":
        raise IndexError(f"tensors used as indices must be int64 or bool tensors; got {array.dtype}")
    return array


def _broadcast_together(indices: list[Array]) -> None:
    shapes = [k.shape if k.dtype.kind == "i" else (int(np.count_nonzero(k)),) for k in indices]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise IndexError(f"shape mismatch: indexing tensors could not be broadcast together with shapes {', '.join(map(str, shapes))}") from None


def as_nested(values: Any) -> Any:
    """A list with Tensors in it as lists of numbers."""
    return [as_nested(v) for v in values] if isinstance(values, list) else values.tolist() if isinstance(values, Tensor) else values


def _axes_used(k: Any) -> int:
    if k is None or k is Ellipsis or isinstance(k, (bool, np.bool_)):
        return 0
    if isinstance(k, (list, tuple, range)):
        k = _index_array(k)
    array = as_array(k)
    return array.ndim if isinstance(array, np.ndarray) and array.dtype.kind == "b" else 1


def _in_bounds(index: Array, n: int, axis: int) -> None:
    if index.size and (index.max() >= n or index.min() < -n):
        bad = index[(index >= n) | (index < -n)].flat[0]
        raise IndexError(f"index {bad} is out of bounds for dimension {axis} with size {n}")


def getitem(input: Tensor, key: Any) -> Tensor:
    """x[key]: a view for integers, slices, None and ...; a copy for integer and bool tensors."""
    for k, name in zip(*_keys(input, key)):
        input = GetItem.apply(input, key=k, name=name)
    return input


def setitem(input: Tensor, key: Any, value: Any) -> None:
    """x[key] = value, in place, recorded where a gradient is wanted.

    Raises:
        IndexError: the key.
        TypeError, RuntimeError: a value that is no Tensor or number, or of a shape that does not fit.
    """
    keys, _ = _keys(input, key)
    places = input._data
    for k in keys:
        places = places[k]
    if isinstance(value, Tensor):
        came = value._data.shape
        extra = max(value._data.ndim - places.ndim, 0)  # torch ignores leading axes of length 1 of the value
        if all(n == 1 for n in came[:extra]):
            value = value.reshape(came[extra:]) if extra else value
        if value._data.ndim > places.ndim or broadcast_shape("setitem", places.shape, value._data.shape) != places.shape:
            raise RuntimeError(f"shape mismatch: value tensor of shape {list(came)} cannot be broadcast to indexing result of shape {list(places.shape)}")
        if value._data.dtype != input._data.dtype and any(isinstance(k, np.ndarray) and (k.dtype.kind == "i" or value._data.size > 1) for k in keys[-1]):
            raise RuntimeError(f"Index put requires the source and destination dtypes match, got {input.dtype} for the destination and {value.dtype}")
    elif isinstance(value, (bool, int, float, np.generic)):
        value = fitted("setitem", value, input._data.dtype)
    else:
        raise TypeError(f"can't assign a {type(value).__name__} to a tensor: make a Tensor of it with tensor(...)")
    if check_writable(input, value):
        write_in_place(input, SetItem.apply, value, keys=keys)
    else:  # in no graph: only the elements themselves are touched
        _assign(input._data, keys, as_array(value).copy())
        touch(input)


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
        raise RuntimeError(f"Index tensor must have the same number of dimensions as input tensor: index {list(index.shape)}, input {list(input.shape)}")
    at = one_axis(dim, input._data.ndim)
    for i, (m, n) in enumerate(zip(index._data.shape, input._data.shape)):
        if i != at and m > n:
            raise RuntimeError(f"Size does not match at dimension {i}: index {list(index.shape)} must be no larger than input {list(input.shape)}")
    n = input._data.shape[at] if input._data.ndim else 1
    bad = index._data[(index._data < 0) | (index._data >= n)]
    if bad.size:
        raise RuntimeError(f"index {bad.flat[0]} is out of bounds for dimension {at} with size {n}")
    out: Tensor = Gather.apply(input, axis=at, index=index._data.copy())
    return out


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of input at the given indices along dim, as a copy.

    Raises:
        IndexError: an index out of bounds (negative ones are), or one with more than one axis.
    """
    check_tensor(input, "index_select")
    check_tensor(index, "index_select")
    if index._data.ndim > 1:
        raise IndexError(f"index_select(): Index is supposed to be a vector; got shape {list(index.shape)}")
    if index._data.dtype.kind != "i":
        raise RuntimeError(f"index_select(): Expected dtype int64 for index; got {index.dtype}")
    at = one_axis(dim, input._data.ndim)
    n = input._data.shape[at] if input._data.ndim else 1
    places = index._data.reshape(-1).copy()
    bad = places[(places < 0) | (places >= n)]
    if bad.size:
        raise IndexError(f"index out of range in self: {bad[0]} along dimension {at} of size {n}")
    if not input._data.ndim:
        if places.size != 1:
            raise RuntimeError(f"index_select(): Index to scalar can have only 1 value, got {places.size} value(s)")
        return input.clone()
    out: Tensor = GetItem.apply(input, key=(slice(None),) * at + (places,), name="IndexSelectBackward0")
    return out


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """value where the mask holds, else input.

    Raises:
        RuntimeError: the mask is not bool, or its shape does not broadcast with input's.
    """
    check_tensor(input, "masked_fill")
    check_tensor(mask, "masked_fill")
    if mask._data.dtype.kind != "b":
        raise RuntimeError(f"masked_fill_ only supports boolean masks, but got mask with dtype {mask.dtype}")
    if not isinstance(value, Tensor):
        value = fitted("masked_fill", value, input._data.dtype)
    elif value._data.ndim:
        raise RuntimeError(f"masked_fill only supports a 0-dimensional value tensor, but got tensor with {value._data.ndim} dimension(s).")
    else:
        fitted("masked_fill", value._data.item(), input._data.dtype)
    broadcast_shape("masked_fill", input._data.shape, mask._data.shape)
    out: Tensor = MaskedFill.apply(input, value, mask)
    return out


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
    if index.size and index.min() < 0:
        raise RuntimeError(f"Class values must be non-negative; got {index.min()}")
    if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)):
        raise TypeError(f"one_hot: num_classes must be an integer; got {type(num_classes).__name__}")
    if num_classes == -1:
        if not index.size:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        num_classes = int(index.max()) + 1
    if num_classes < 1:
        raise RuntimeError(f"num_classes should be positive; got {num_classes}")
    if index.size and index.max() >= num_classes:
        raise RuntimeError(f"Class values must be smaller than num_classes; got {index.max()} with num_classes={num_classes}")
    return Tensor((index[..., None] == np.arange(num_classes)).astype(np.int64))
