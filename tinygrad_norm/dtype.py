"""Element types, shapes, and the rule by which two types become one.

Four types are enough for everything that is differentiated, indexed or masked here: float32, float64, int64, bool.
They print as torch prints its own (``torch.float32``, ``torch.Size([2, 3])``), so that outputs can be compared to the character.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, SupportsIndex, overload

import numpy as np

__all__ = [
    "Size",
    "as_dtype",
    "bool_",
    "dtype",
    "dtype_of",
    "float32",
    "float64",
    "from_numpy_dtype",
    "get_default_dtype",
    "int64",
    "parameter_dtype",
    "promote",
]


class dtype:  # noqa: N801  torch's name
    """One element type of a Tensor.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.zeros(2).dtype, tg.float64.itemsize, tg.int64.is_floating_point
        (torch.float32, 8, False)
    """

    __slots__ = ("category", "is_floating_point", "itemsize", "name", "numpy", "rank")

    def __init__(self, name: str, rank: int) -> None:
        self.name = name
        self.numpy = np.dtype(name)
        self.rank = rank  # bool < int64 < float32 < float64, the order of promotion
        self.category = "bif".index(self.numpy.kind)  # bool < integer < floating point
        self.is_floating_point = self.numpy.kind == "f"
        self.itemsize = self.numpy.itemsize

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return as_dtype, (self.name,)  # one object per type, also in another process


bool_ = dtype("bool", 0)
int64 = dtype("int64", 1)
float32 = dtype("float32", 2)
float64 = dtype("float64", 3)

SUPPORTED = {d.numpy: d for d in (bool_, int64, float32, float64)}
_PYTHON_TYPES: dict[Any, dtype] = {bool: bool_, int: int64, float: float64}


def from_numpy_dtype(numpy_dtype: np.dtype[Any]) -> dtype:
    """The dtype of a NumPy array's elements; TypeError where there is none."""
    try:
        return SUPPORTED[numpy_dtype]
    except KeyError:
        raise TypeError(
            f"element type {numpy_dtype} is not supported: tensors hold float32, float64, int64 or bool; convert with array.astype(...) first"
        ) from None


def as_dtype(value: Any) -> dtype:
    """A dtype from a dtype, its name, a NumPy type, or Python's float (float64, as in torch and NumPy), int or bool."""
    if isinstance(value, dtype):
        return value
    try:
        if value in _PYTHON_TYPES:
            return _PYTHON_TYPES[value]
        if value is None:  # which NumPy takes for float64
            raise TypeError
        found = np.dtype(value)
    except TypeError:
        raise TypeError(f"dtype must be one of float32, float64, int64, bool; got {value!r}") from None
    return from_numpy_dtype(found)


def dtype_of(number: float) -> dtype:
    """The dtype that a Python number becomes where none is asked for."""
    return bool_ if isinstance(number, bool) else int64 if isinstance(number, int) else float32


def get_default_dtype() -> dtype:
    """float32: what Python floats, and integers that meet them, become."""
    return float32


def parameter_dtype(layer: str, dtype: Any, device: Any = None) -> np.dtype[Any]:
    """The NumPy type of a layer's parameters: float32 by default; a TypeError or RuntimeError for what cannot be trained or is not there."""
    if device is not None and str(device) != "cpu":
        raise RuntimeError(f"{layer}: the only device here is 'cpu'; got {device!r}")
    kind = float32 if dtype is None else as_dtype(dtype)
    if not kind.is_floating_point:
        raise TypeError(f"{layer}: parameters are floating point, float32 or float64; got {kind}")
    return kind.numpy


def promote(a: np.ndarray, b: np.ndarray) -> np.dtype[Any]:
    """The element type in which a and b meet: the higher rank wins; but among floats a 0-d array yields to one with axes.

    Example:
        >>> import numpy as np
        >>> promote(np.ones(1, np.float32), np.array(1.0)), promote(np.ones(1, np.float32), np.ones(1))
        (dtype('float32'), dtype('float64'))
    """
    x, y = from_numpy_dtype(a.dtype), from_numpy_dtype(b.dtype)
    if x.is_floating_point and y.is_floating_point and (a.ndim == 0) != (b.ndim == 0):
        return (y if a.ndim == 0 else x).numpy
    return (x if x.rank >= y.rank else y).numpy


class Size(tuple[int, ...]):
    """The lengths of a Tensor's axes, as torch prints them.

    Example:
        >>> Size([2, 3]), Size([2, 3]).numel(), Size([2, 3]) + (4,)
        (torch.Size([2, 3]), 6, torch.Size([2, 3, 4]))
    """

    __slots__ = ()

    def __new__(cls, lengths: Iterable[SupportsIndex] = ()) -> Size:
        return super().__new__(cls, (operator.index(n) for n in lengths))

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"

    def numel(self) -> int:
        """The number of elements: the product of the lengths."""
        return math.prod(self)

    @overload
    def __getitem__(self, i: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, i: slice) -> Size: ...
    def __getitem__(self, i: Any) -> Any:
        part = super().__getitem__(i)
        return Size(part) if isinstance(i, slice) else part

    def __add__(self, other: Any) -> Size:
        return Size(tuple(self) + tuple(other))
