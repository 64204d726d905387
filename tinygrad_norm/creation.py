"""Where Tensors come from: lists and arrays, constants, and the random stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from . import random as stream
from .dtype import Size, as_dtype, dtype_of, float32, from_numpy_dtype, int64
from .dtype import dtype as dtype_class
from .ops.copying import copy_
from .ops.operands import check_tensor, copy_order, fitted
from .quiet import quiet
from .random import Generator
from .tensor import Tensor, check_writable

Array = np.ndarray[Any, Any]


def _finish(array: Array, requires_grad: bool) -> Tensor:
    out = Tensor(array)
    if requires_grad:
        out.requires_grad = True
    return out


def _shape(size: tuple[Any, ...], op: str, named: Any = None) -> tuple[int, ...]:
    """zeros(2, 3) and zeros((2, 3)) alike."""
    if named is not None:
        if size:
            raise TypeError(f"{op}: give the lengths or size=, not both")
        size = (named,)
    if not size:
        raise TypeError(f"{op}: size is missing: {op}(2, 3), or {op}(()) for a 0-d tensor")
    if len(size) == 1 and isinstance(size[0], Sequence) and not isinstance(size[0], (str, bytes)):
        size = tuple(size[0])
    try:
        if any(isinstance(n, bool) for n in size):
            raise TypeError
        shape = tuple(Size(size))
    except TypeError:
        raise TypeError(f"{op}: the lengths of the axes must be integers; got {size}") from None
    if any(n < 0 for n in shape):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")
    if math.prod(shape) >= 2**60:
        raise RuntimeError(f"{op}: the shape {list(shape)} has {math.prod(shape)} elements, more than any memory can hold")
    return shape


def _kind(dtype: Any, default: dtype_class = float32) -> Any:
    return (default if dtype is None else as_dtype(dtype)).numpy


# -- From data -----------------------------------------------------------------------------------------------------------------------


def _array_from(data: Any, dtype: Any = None) -> Array:
    """Nested lists of numbers, arrays or one-element Tensors as one array, in `dtype` or in torch's element type for them."""
    if isinstance(data, Tensor):
        array = data._data
    elif isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
    else:
        if hasattr(data, "__array__"):
            return _array_from(np.asarray(data), dtype)
        kinds: set[dtype_class] = set()
        plain = _plain(data, kinds)
        best = max(kinds, key=lambda k: k.rank, default=float32) if dtype is None else as_dtype(dtype)
        return _convert(np.array, plain, best.numpy)
    kind = from_numpy_dtype(array.dtype) if dtype is None else as_dtype(dtype)
    return array if array.dtype == kind.numpy else _convert(array.astype, kind.numpy)


def _convert(function: Any, *args: Any) -> Array:
    """NumPy's errors for lists and numbers that do not fit, in words."""
    try:
        out: Array = quiet.run(function, *args)
    except OverflowError:
        raise RuntimeError("tensor: a number is too large for int64; as floating point: tensor(..., dtype=float64)") from None
    except ValueError as error:
        if "NaN" in str(error):
            raise RuntimeError("tensor: NaN cannot be converted to int64 without overflow") from None
        raise ValueError(f"tensor: expected sequences of one length along each axis; got {_ragged(args[0])}") from None
    except TypeError:
        raise ValueError("tensor: expected nested lists of one depth everywhere; got numbers beside lists") from None
    return out


def _plain(data: Any, kinds: set[dtype_class]) -> Any:
    """The lists with Tensors and arrays in them turned into numbers; notes which element types were met."""
    if isinstance(data, (Tensor, np.ndarray, np.generic)):
        array = _array_from(data)
        kinds.add(from_numpy_dtype(array.dtype))
        return array.tolist()
    if isinstance(data, (list, tuple, range)):
        return [_plain(item, kinds) for item in data]
    if not isinstance(data, (bool, int, float)):
        raise TypeError(f"tensor: expected numbers, nested lists of them, or an array; got a {type(data).__name__}")
    kinds.add(dtype_of(data))
    return data


def _ragged(data: Any) -> str:
    lengths = sorted({len(item) if isinstance(item, list) else 0 for item in data})
    return f"lengths {lengths}" if len(lengths) > 1 else "different lengths deeper down"


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A Tensor with a copy of the data: Python floats become float32, ints int64, bools bool; arrays keep their type.

    Args:
        data: a number, nested lists of numbers, an array.
        dtype: another element type.
        device: None or "cpu".
        requires_grad: whether gradients are carried to it.
    Raises:
        TypeError: something that is not a number, or an element type that is not supported.
        ValueError: lists of different lengths.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.tensor([[1, 2], [3, 4]], dtype=tg.float32)
        tensor([[1., 2.],
                [3., 4.]])
    """
    _check_device(device)
    return _finish(np.array(_array_from(data, dtype), order="K"), requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """As tensor(), but without a copy where data is a Tensor or an array of the wanted type already."""
    _check_device(device)
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dtype)
    return Tensor(_array_from(data, dtype).view(np.ndarray))


def from_numpy(ndarray: Array) -> Tensor:
    """A Tensor over the array's own memory.

    Raises:
        TypeError: not an array, or an element type other than float32, float64, int64, bool.
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(ndarray).__name__})")
    from_numpy_dtype(ndarray.dtype)
    return Tensor(ndarray.view(np.ndarray))


def _check_device(device: Any) -> None:
    if device is not None and str(device) != "cpu":
        raise RuntimeError(f"the only device here is 'cpu'; got {device!r}")


# -- Constants -----------------------------------------------------------------------------------------------------------------------


def zeros(*lengths: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the given shape."""
    _check_device(device)
    return _finish(np.zeros(_shape(lengths, "zeros", size), _kind(dtype)), requires_grad)


def ones(*lengths: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the given shape."""
    _check_device(device)
    return _finish(np.ones(_shape(lengths, "ones", size), _kind(dtype)), requires_grad)


def empty(*lengths: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Whatever stood in the memory, in the given shape: to be filled."""
    _check_device(device)
    return _finish(np.empty(_shape(lengths, "empty", size), _kind(dtype)), requires_grad)


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """One number everywhere; its own Python type decides the element type."""
    _check_device(device)
    value = fill_value.item() if isinstance(fill_value, np.generic) or (isinstance(fill_value, Tensor) and fill_value.ndim == 0) else fill_value
    if not isinstance(value, (bool, int, float)):
        raise TypeError(f"full: fill_value must be a number; got {type(fill_value).__name__}")
    if not isinstance(size, Sequence) or isinstance(size, bytes):
        raise TypeError(f"full: size must be a tuple or list of lengths, as in full((2, 3), 1.0); got {size!r}")
    kind = _kind(dtype, dtype_of(value))
    return _finish(np.full(_shape((size,), "full"), fitted("full", value, kind)), requires_grad)


def arange(start: Any, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """start, start + step, … below end: int64 where all three are integers, else float32.

    Raises:
        RuntimeError: step is 0, or leads away from end.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.arange(1, 2, 0.5)
        tensor([1.0000, 1.5000])
    """
    _check_device(device)
    if end is None:
        start, end = 0, start
    start, end, step = (v.item() if isinstance(v, (Tensor, np.generic)) else v for v in (start, end, step))
    for v in (start, end, step):
        if not isinstance(v, (int, float)):
            raise TypeError(f"arange: start, end and step must be numbers; got {type(v).__name__}")
    whole = all(isinstance(v, int) for v in (start, end, step))
    kind = _kind(dtype, int64 if whole else float32)
    if kind.kind == "i":
        step = int(fitted("arange", step, kind))
    if not (step > 0 or step < 0):
        raise RuntimeError("step must be nonzero")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise RuntimeError(f"unsupported range: {start} -> {end}")
    if (end - start) * math.copysign(1, step) < 0:
        raise RuntimeError(f"upper bound and lower bound inconsistent with step sign: from {start} to {end} by {step}")
    if kind.kind == "i":
        start, end = (int(fitted("arange", v, kind)) for v in (start, end))
    count = -(-(end - start) // step) if kind.kind == "i" else math.ceil((end - start) / step)
    return _finish(quiet.run((start + np.arange(int(count)) * step).astype, kind), requires_grad)


def _like(op: str, input: Tensor, dtype: Any, device: Any) -> tuple[Array, Any, Literal["C", "K"]]:
    """An array in whose shape one is to be made, its element type and its order in memory."""
    check_tensor(input, op)
    _check_device(device)
    return input._data, _kind(dtype, input.dtype), copy_order(input._data)


def zeros_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of input's shape and element type."""
    return _finish(np.zeros_like(*_like("zeros_like", input, dtype, device)), requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of input's shape and element type."""
    return _finish(np.ones_like(*_like("ones_like", input, dtype, device)), requires_grad)


def empty_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Unfilled memory of input's shape and element type."""
    return _finish(np.empty_like(*_like("empty_like", input, dtype, device)), requires_grad)


def full_like(input: Tensor, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """One number everywhere, in input's shape and element type."""
    like, kind, order = _like("full_like", input, dtype, device)
    return _finish(np.full_like(like, full((), fill_value, dtype=kind)._data, kind, order), requires_grad)


# -- The random stream: the same seed gives torch's numbers (random.py) ----------------------------------------------------------------


def _stream(generator: Generator | None) -> Generator:
    if generator is None:
        return stream.default_generator
    if not isinstance(generator, Generator):
        raise TypeError(f"generator must be a Generator; got {type(generator).__name__}")
    return generator


def rand(*lengths: Any, size: Any = None, generator: Generator | None = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Uniform on [0, 1).

    Example:
        >>> import tinygrad_norm as tg
        >>> _ = tg.manual_seed(0)
        >>> tg.rand(2)
        tensor([0.4963, 0.7682])
    """
    _check_device(device)
    return _finish(_stream(generator).uniform(_shape(lengths, "rand", size), dtype=_float_kind(dtype, "rand")), requires_grad)


def randn(*lengths: Any, size: Any = None, generator: Generator | None = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Normal with mean 0 and deviation 1."""
    _check_device(device)
    return _finish(_stream(generator).normal(_shape(lengths, "randn", size), dtype=_float_kind(dtype, "randn")), requires_grad)


def _float_kind(dtype: Any, op: str, default: dtype_class = float32) -> Any:
    kind = _kind(dtype, default)
    if kind.kind != "f":
        raise RuntimeError(f"{op}: the values are real numbers, so dtype must be float32 or float64; got {from_numpy_dtype(kind)}")
    return kind


def randint(
    low: Any,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers of [low, high), int64 by default: randint(high, size) or randint(low, high, size).

    Raises:
        RuntimeError: low is not below high.
    """
    _check_device(device)
    if size is None:
        high, size = None, high
    if high is None:
        low, high = 0, low
    if not isinstance(size, Sequence):
        raise TypeError(f"randint: size must be a tuple or list of lengths, as in randint(10, (3, 4)); got {size!r}")
    low, high = (v.item() if isinstance(v, (Tensor, np.generic)) else v for v in (low, high))
    for v in (low, high):
        if isinstance(v, bool) or not isinstance(v, int):
            raise TypeError(f"randint: low and high must be integers; got {type(v).__name__}")
    return _finish(_stream(generator).integers(low, high, _shape((size,), "randint"), dtype=_kind(dtype, int64)), requires_grad)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = None, device: Any = None) -> Tensor:
    """The integers 0 … n − 1 in random order."""
    _check_device(device)
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"randperm: n must be an integer; got {type(n).__name__}")
    if n < 0:
        raise RuntimeError(f"n must be non-negative, got{n}")
    return Tensor(_stream(generator).permutation(int(n)).astype(_kind(dtype, int64), copy=False))


def memory_order(array: Array) -> list[int]:
    """The axes, those with the longest strides first; one with stride 0 could stand anywhere, and stays where torch leaves it."""
    strides = [abs(s) for s in array.strides]
    order = list(reversed(range(array.ndim)))
    for i in range(1, array.ndim):
        at = i
        for before in reversed(range(i)):
            a, b = order[before], order[at]
            if strides[a] and strides[b]:
                if (strides[a], array.shape[a]) > (strides[b], array.shape[b]):
                    order[before], order[at] = b, a
                    at = before
                elif strides[a] < strides[b]:
                    break
    return order[::-1]


def in_memory_order(array: Array, draw: Callable[[tuple[int, ...]], Any]) -> Any:
    """Numbers for the places of `array`, drawn in the order of its memory, as in torch, whatever the order of its axes."""
    order = memory_order(array)
    return draw(tuple(array.shape[axis] for axis in order)).transpose([order.index(axis) for axis in range(array.ndim)])


def rand_like(
    input: Tensor, *, generator: Generator | None = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Uniform on [0, 1), in input's shape and element type."""
    kind = _float_kind(_like("rand_like", input, dtype, device)[1], "rand_like")
    return _finish(in_memory_order(input._data, lambda shape: _stream(generator).uniform(shape, dtype=kind)), requires_grad)


def randn_like(
    input: Tensor, *, generator: Generator | None = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Normal with mean 0 and deviation 1, in input's shape and element type."""
    kind = _float_kind(_like("randn_like", input, dtype, device)[1], "randn_like")
    moved = [axis for axis in memory_order(input._data) if input._data.shape[axis] != 1]
    in_pairs = moved != sorted(moved)
    return _finish(in_memory_order(input._data, lambda shape: _stream(generator).normal(shape, dtype=kind, in_pairs=in_pairs)), requires_grad)


def randint_like(
    input: Tensor,
    low: int,
    high: int | None = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers of [low, high), in input's shape and element type."""
    low, high = (0, low) if high is None else (low, high)
    kind = _like("randint_like", input, dtype, device)[1]
    return _finish(in_memory_order(input._data, lambda shape: randint(low, high, shape, generator=generator, dtype=kind)._data), requires_grad)


def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that stands at each place, else 0."""
    check_tensor(input, "bernoulli")
    return Tensor(_stream(generator).bernoulli(input._data, input._data.shape, dtype=_float_kind(None, "bernoulli", input.dtype)))


def uniform_(input: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Generator | None = None, **kwargs: float) -> Tensor:
    """Fills input with uniform numbers of [from, to)."""
    low = kwargs.pop("from", from_)
    if kwargs:
        raise TypeError(f"uniform_() got unexpected keyword arguments {sorted(kwargs)}: it takes from, to, generator")
    kind = _float_kind(None, "uniform_", input.dtype)
    return _fill(input, lambda shape: _stream(generator).uniform(shape, low, to, dtype=kind))


def _fill(input: Tensor, draw: Callable[[tuple[int, ...]], Array]) -> Tensor:
    """input ← numbers, drawn in the order of its memory."""
    check_writable(input)  # before anything is drawn
    return copy_(input, Tensor(in_memory_order(input._data, draw)))


def normal_(input: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Fills input with normal numbers of the given mean and deviation."""
    kind = _float_kind(None, "normal_", input.dtype)
    in_pairs = not input._data.flags.c_contiguous
    return _fill(input, lambda shape: _stream(generator).normal(shape, mean, std, dtype=kind, in_pairs=in_pairs))


def random_(input: Tensor, from_: int | None = None, to: int | None = None, *, generator: Generator | None = None, **kwargs: int) -> Tensor:
    """Fills input with integers of [from, to); random_(to) starts at 0; random_() takes all that the type holds exactly."""
    kind = input._data.dtype
    low, high = (0, from_) if to is None else (from_ or 0, to)
    low = kwargs.pop("from", low)
    if kwargs:
        raise TypeError(f"random_() got unexpected keyword arguments {sorted(kwargs)}: it takes from, to, generator")
    if high is None:
        if low != 0:
            raise TypeError("random_() needs a to beside from")
        return _fill(input, lambda shape: _stream(generator).random(shape, dtype=kind))
    return _fill(input, lambda shape: _stream(generator).integers(low, high, shape, dtype=kind))
