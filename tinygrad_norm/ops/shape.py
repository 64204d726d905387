"""Other arrangements of the same elements: views where memory allows, and the gradient arranged back.

A view shares its tensor's memory: writing to one writes to the other, and both know of it (tensor.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeGuard

import numpy as np

from ..dtype import Size
from ..function import Function
from ..tensor import Tensor
from .operands import cast, check_tensor, sum_to
from .reduction import one_axis

Array = np.ndarray[Any, Any]


class Reshape(Function):
    """The same elements in the same order, in another shape."""

    def forward(self, x: Array, *, shape: tuple[int, ...], name: str = "ViewBackward0") -> Any:
        self.shape, self.name = x.shape, name
        return x.reshape(shape)

    def backward(self, g: Any) -> Any:
        return g.reshape(self.shape)


class Permute(Function):
    """The axes in another order; the gradient in the inverse one."""

    def forward(self, x: Array, *, order: tuple[int, ...], name: str = "PermuteBackward0") -> Any:
        self.inverse, self.name = tuple(order.index(i) for i in range(len(order))), name
        return x.transpose(order)

    def backward(self, g: Any) -> Any:
        return g.permute(self.inverse) if isinstance(g, Tensor) else g.transpose(self.inverse)


class Expand(Function):
    """Axes of length 1 repeated without a copy; the gradient is the sum over them."""

    name = "ExpandBackward0"

    def forward(self, x: Array, *, shape: tuple[int, ...]) -> Any:
        self.shape = x.shape
        return x.reshape(shape) if math.prod(shape) == x.size else np.broadcast_to(x, shape)  # broadcast_to is read-only, rightly

    def backward(self, g: Any) -> Any:
        return sum_to(g, self.shape)


class Cat(Function):
    """Tensors one after the other along an axis; each gets its own piece of the gradient."""

    name = "CatBackward0"

    def forward(self, *arrays: Array, axis: int) -> Array:
        self.axis = axis
        self.ends = list(accumulate([a.shape[axis] for a in arrays]))
        shape = list(arrays[0].shape)
        shape[axis] = self.ends[-1]
        return np.concatenate(arrays, axis, out=np.empty(shape, arrays[0].dtype))  # in the order of its indices, however the arrays lie

    def backward(self, g: Any) -> Any:
        pieces, start = [], 0
        for end, needed in zip(self.ends, self.needs_input_grad):
            pieces.append(g[(slice(None),) * self.axis + (slice(start, end),)] if needed else None)
            start = end
        return tuple(pieces)


class Stack(Function):
    """Tensors along a new axis; each gets its own slice of the gradient."""

    name = "StackBackward0"

    def forward(self, *arrays: Array, axis: int) -> Array:
        self.axis = axis
        shape = list(arrays[0].shape)
        shape.insert(axis, len(arrays))
        return np.stack(arrays, axis, out=np.empty(shape, arrays[0].dtype))

    def backward(self, g: Any) -> Any:
        return tuple(g[(slice(None),) * self.axis + (i,)] if needed else None for i, needed in enumerate(self.needs_input_grad))


class Split(Function):
    """Pieces one after the other along an axis, all of them outputs of one node; their gradients are joined."""

    def forward(self, x: Array, *, axis: int, sizes: Sequence[int], name: str) -> tuple[Array, ...]:
        self.axis, self.name = axis, name
        pieces, start = [], 0
        for n in sizes:
            pieces.append(x[(slice(None),) * axis + (slice(start, start + n),)])
            start += n
        return tuple(pieces)

    def backward(self, *grads: Any) -> Any:
        return Cat.on(*grads, axis=self.axis)


class Tril(Function):
    """The lower triangle of the last two axes; zeros above, in the gradient too."""

    name = "TrilBackward0"

    def forward(self, x: Array, *, diagonal: int) -> Array:
        self.diagonal = diagonal
        return np.asarray(np.tril(x, diagonal), order="C")

    def backward(self, g: Any) -> Any:
        return Tril.on(g, diagonal=self.diagonal)


# -- For users -----------------------------------------------------------------------------------------------------------------------


def _several(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether it is a list of numbers; b"ab" is one to Python, of 97 and 98."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _lengths(op: str, shape: tuple[Any, ...], named: Any = None) -> tuple[int, ...]:
    """reshape(2, 3), reshape((2, 3)) and reshape(shape=(2, 3)) alike."""
    if named is not None:
        shape = (*shape, named)
    if len(shape) == 1 and _several(shape[0]):
        shape = tuple(shape[0])
    try:
        return tuple(Size(shape))
    except TypeError:
        raise TypeError(f"{op}: lengths must be integers; got {shape}") from None


def _resolve(op: str, x: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with its one -1 worked out."""
    size = x._data.size
    if shape.count(-1) > 1:
        raise RuntimeError("only one dimension can be inferred")
    if any(n < -1 for n in shape):
        raise RuntimeError(f"invalid shape dimension {min(shape)} at index {shape.index(min(shape))} of shape {list(shape)}")
    if -1 in shape:
        rest = math.prod(n for n in shape if n != -1)
        if rest == 0:
            raise RuntimeError(f"cannot reshape tensor of {size} elements into shape {list(shape)} because the unspecified -1 can be any value")
        if size % rest == 0:
            shape = tuple(size // rest if n == -1 else n for n in shape)
    if -1 in shape or math.prod(shape) != size:
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {size}")
    return shape


def reshape(input: Tensor, *lengths: Any, shape: Any = None) -> Tensor:
    """The same elements in another shape: a view where memory allows, else a copy; one length may be -1.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.arange(6).reshape(2, -1)
        tensor([[0, 1, 2],
                [3, 4, 5]])
    """
    check_tensor(input, "reshape")
    return _reshape(input, _resolve("reshape", input, _lengths("reshape", lengths, shape)))


def _reshape(input: Tensor, shape: tuple[int, ...], name: str = "ViewBackward0") -> Tensor:
    out: Tensor = Reshape.apply(input, shape=shape, name=name)
    return out


def view(input: Tensor, *lengths: Any, size: Any = None) -> Tensor:
    """As reshape, but never a copy.

    Raises:
        RuntimeError: the memory cannot be seen in that shape.
    """
    check_tensor(input, "view")
    shape = _resolve("view", input, _lengths("view", lengths, size))
    out = _reshape(input, shape)
    if out._base is None:  # it had to be copied
        raise RuntimeError(
            f"view size is not compatible with input tensor's size and stride ({list(input.shape)} seen as {list(shape)}; at least one "
            "dimension spans across two contiguous subspaces). Use .reshape(...) instead."
        )
    return out


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes start_dim to end_dim as one."""
    check_tensor(input, "flatten")
    ndim = input._data.ndim
    first, last = one_axis(start_dim, ndim), one_axis(end_dim, ndim)
    if first > last:
        raise RuntimeError(f"flatten() has invalid args: start_dim ({start_dim}) cannot come after end_dim ({end_dim})")
    shape = input._data.shape
    return _reshape(input, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def permute(input: Tensor, *order: Any, dims: Any = None) -> Tensor:
    """The axes in the given order."""
    check_tensor(input, "permute")
    if dims is not None:
        order = (*order, dims)
    if len(order) == 1 and _several(order[0]):
        order = tuple(order[0])
    if len(order) != input._data.ndim:
        raise RuntimeError(f"permute: number of dims ({len(order)}) must be the number of the tensor's axes ({input._data.ndim}): {order}")
    found = tuple(one_axis(d, input._data.ndim) for d in order)
    if len(set(found)) < len(found):
        raise RuntimeError(f"permute: duplicate dims are not allowed: {order}")
    out: Tensor = Permute.apply(input, order=found)
    return out


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two axes exchanged."""
    check_tensor(input, "transpose")
    order = list(range(input._data.ndim))
    a, b = one_axis(dim0, input._data.ndim), one_axis(dim1, input._data.ndim)
    if order:
        order[a], order[b] = order[b], order[a]
    out: Tensor = Permute.apply(input, order=tuple(order), name="TransposeBackward0")
    return out


def T(input: Tensor) -> Tensor:  # noqa: N802  torch's name
    """All axes in reverse order."""
    out: Tensor = Permute.apply(input, order=tuple(reversed(range(input._data.ndim))))
    return out


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without the axes of length 1: all of them, or those of dim that have length 1."""
    check_tensor(input, "squeeze")
    shape = input._data.shape
    number, dims = (0, range(len(shape))) if dim is None else (2, dim) if _several(dim) else (1, (dim,))
    gone = {one_axis(d, len(shape)) for d in dims}
    if len(gone) < len(dims):
        raise RuntimeError(f"squeeze: a dim appears multiple times in {tuple(dims)}")
    return _reshape(input, tuple(n for i, n in enumerate(shape) if not (i in gone and n == 1)), f"SqueezeBackward{number}")


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With an axis of length 1 put in at dim."""
    check_tensor(input, "unsqueeze")
    at = one_axis(dim, input._data.ndim, extra=1)
    shape = input._data.shape
    return _reshape(input, (*shape[:at], 1, *shape[at:]), "UnsqueezeBackward0")


def expand(input: Tensor, *lengths: Any, size: Any = None) -> Tensor:
    """Axes of length 1 repeated to the given lengths, without a copy; -1 keeps a length; new axes may stand in front."""
    check_tensor(input, "expand")
    shape = _lengths("expand", lengths, size)
    old = input._data.shape
    lead = len(shape) - len(old)
    if lead < 0:
        raise RuntimeError(
            f"expand: the number of sizes provided ({len(shape)}) must be greater or equal to the number of dimensions in the tensor ({len(old)})"
        )
    new = []
    for i, n in enumerate(shape):
        had = old[i - lead] if i >= lead else None
        if n == -1 and had is None:
            raise RuntimeError(f"The expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension {i}")
        if n < -1:
            raise RuntimeError(f"expand: lengths are 0 or more, or -1 to keep one; got {list(shape)}")
        if had not in (None, 1, n) and n != -1:
            raise RuntimeError(
                f"The expanded size of the tensor ({n}) must match the existing size ({had}) at non-singleton dimension {i}. "
                f"Target sizes: {list(shape)}. Tensor sizes: {list(old)}"
            )
        new.append(had if n == -1 else n)
    out: Tensor = Expand.apply(input, shape=tuple(new))
    return out


def _sequence(op: str, tensors: Any) -> list[Tensor]:
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
        raise TypeError(f"{op}: expected a list or tuple of Tensors; got {type(tensors).__name__}")
    for i, t in enumerate(tensors):
        if not isinstance(t, Tensor):
            raise TypeError(f"{op}: expected Tensor as element {i}, but got {type(t).__name__}")
    if not tensors:
        raise (ValueError if op == "cat" else RuntimeError)(f"{op}: expected a non-empty list of Tensors")  # torch's classes
    return list(tensors)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors one after the other along dim; all other lengths must agree.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.cat([tg.zeros(1, 2), tg.ones(1, 2)])
        tensor([[0., 0.],
                [1., 1.]])
    """
    given = _sequence("cat", tensors)
    kind = max((t.dtype for t in given), key=lambda d: d.rank).numpy
    parts = given if all(t._data.ndim == 1 for t in given) else [t for t in given if t._data.shape != (0,)]  # an empty vector goes with any shape
    first = parts[0]
    if any(not t._data.ndim for t in parts):
        raise RuntimeError("zero-dimensional tensor cannot be concatenated: use stack, or unsqueeze it first")
    at = one_axis(dim, first._data.ndim)
    for i, t in enumerate(parts):
        if t._data.ndim != first._data.ndim or any(a != b for k, (a, b) in enumerate(zip(t._data.shape, first._data.shape)) if k != at):
            raise RuntimeError(
                f"Sizes of tensors must match except in dimension {at}: tensor number {i} has shape {list(t.shape)}, the first {list(first.shape)}"
            )
    out: Tensor = Cat.apply(*(cast(t, kind) for t in parts), axis=at)
    return out


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new axis."""
    parts = _sequence("stack", tensors)
    kind = max((t.dtype for t in parts), key=lambda d: d.rank).numpy
    at = one_axis(dim, parts[0]._data.ndim, extra=1)
    for i, t in enumerate(parts):
        if t._data.shape != parts[0]._data.shape:
            raise RuntimeError(f"stack expects each tensor to be equal size; got {list(parts[0].shape)} at entry 0 and {list(t.shape)} at entry {i}")
    out: Tensor = Stack.apply(*(cast(t, kind) for t in parts), axis=at)
    return out


def split(input: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of pieces along dim: of one size (the last may be smaller), or of the given sizes."""
    check_tensor(input, "split")
    if not input._data.ndim:
        raise RuntimeError("split expects at least a 1-dimensional tensor")
    at = one_axis(dim, input._data.ndim)
    total = input._data.shape[at]
    if _several(split_size_or_sections):
        sizes, name = list(_lengths("split", (split_size_or_sections,))), "SplitWithSizesBackward0"
        if sum(sizes) != total or any(n < 0 for n in sizes):
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {total} (input tensor's size at dimension {at}), but got split_sizes={sizes}"
            )
    else:
        (size,), name = _lengths("split", (split_size_or_sections,)), "SplitBackward0"
        if size < 0 or (size == 0 and total):
            raise RuntimeError(f"split expects split_size be positive, but got split_size={size}")
        sizes = [min(size, total - i) for i in range(0, total, size)] if total else [0]
    pieces: tuple[Tensor, ...] = Split.apply(input, axis=at, sizes=sizes, name=name)
    return pieces


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size along dim (the last may be smaller)."""
    check_tensor(input, "chunk")
    (chunks,) = _lengths("chunk", (chunks,))
    if chunks < 1:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    if not input._data.ndim:
        raise RuntimeError("chunk expects at least a 1-dimensional tensor")
    at = one_axis(dim, input._data.ndim)
    total = input._data.shape[at]
    return split(input, -(-total // chunks), at) if total else split(input, [0] * chunks, at)


def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two axes, with zeros above the diagonal."""
    check_tensor(input, "tril")
    if input._data.ndim < 2:
        raise RuntimeError(f"tril: input tensor must have at least 2 dimensions; got {input._data.ndim}")
    if isinstance(diagonal, bool) or not isinstance(diagonal, (int, np.integer)):
        raise TypeError(f"tril: diagonal must be an integer; got {type(diagonal).__name__}")
    out: Tensor = Tril.apply(input, diagonal=diagonal)
    return out


def size(input: Tensor, dim: int | None = None) -> Any:
    """The shape, or one length of it."""
    return input.shape if dim is None else input._data.shape[_existing_axis(dim, input)]


def _existing_axis(dim: int, x: Tensor) -> int:
    if not x._data.ndim:
        raise IndexError("Dimension specified as 0 but tensor has no dimensions")
    return one_axis(dim, x._data.ndim)


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input._data.size


def dim(input: Tensor) -> int:
    """The number of axes."""
    return input._data.ndim


def is_contiguous(input: Tensor) -> bool:
    """Whether its elements lie in memory in the order of its indices."""
    return input._data.flags.c_contiguous


def item(input: Tensor) -> float | int | bool:
    """The one element, as a Python number."""
    if input._data.size != 1:
        raise RuntimeError(f"a Tensor with {input._data.size} elements cannot be converted to Scalar")
    return input._data.item()  # type: ignore[no-any-return]


def tolist(input: Tensor) -> Any:
    """Nested lists of Python numbers; of a 0-d tensor, the number."""
    return input._data.tolist()


def to_bool(input: Tensor) -> bool:
    """Truth, of one element only."""
    if input._data.size == 0:
        raise RuntimeError("Boolean value of Tensor with no values is ambiguous")
    if input._data.size > 1:
        raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous: use .all() or .any()")
    return bool(input._data.item())


def to_float(input: Tensor) -> float:
    """float(x), of one element."""
    return float(_only(input).item())


def to_int(input: Tensor) -> int:
    """int(x), of one element."""
    return int(_only(input).item())


def _only(input: Tensor) -> Array:
    if input._data.size != 1:
        raise ValueError(f"only one element tensors can be converted to Python scalars; got {input._data.size} elements")
    return input._data


def to_index(input: Tensor) -> int:
    """The integer where Python wants an index."""
    if input._data.size != 1 or input._data.dtype.kind == "f":
        raise TypeError("only integer tensors of a single element can be converted to an index")
    return int(input._data.item())


def to_format(input: Tensor, spec: str) -> str:
    """f"{x:.4f}", of a 0-d tensor."""
    return format(item(input), spec) if not input._data.ndim else object.__format__(input, spec)
