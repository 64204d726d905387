"""Comparisons and logic, element by element, and of whole tensors: they have no gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..quiet import quiet
from ..tensor import Tensor, write_in_place
from .operands import as_array, broadcast_shape, check_tensor, operands


def _compare(name: str, ufunc: Any, input: Any, other: Any) -> Tensor:
    a, b = operands(name, input, other)
    return Tensor(np.asarray(quiet.run(ufunc, as_array(a), as_array(b))))


def equals(input: Tensor, other: Any) -> Any:
    """The operator ==: elementwise; False where other is neither a Tensor nor a number."""
    return eq(input, other) if isinstance(other, (Tensor, bool, int, float, np.generic, np.ndarray)) else NotImplemented


def differs(input: Tensor, other: Any) -> Any:
    """The operator !=: elementwise; True where other is neither a Tensor nor a number."""
    return ne(input, other) if isinstance(other, (Tensor, bool, int, float, np.generic, np.ndarray)) else NotImplemented


def eq(input: Any, other: Any) -> Tensor:
    """input == other, elementwise."""
    return _compare("eq", np.equal, input, other)


def ne(input: Any, other: Any) -> Tensor:
    """input != other, elementwise."""
    return _compare("ne", np.not_equal, input, other)


def lt(input: Any, other: Any) -> Tensor:
    """input < other, elementwise."""
    return _compare("lt", np.less, input, other)


def le(input: Any, other: Any) -> Tensor:
    """input <= other, elementwise."""
    return _compare("le", np.less_equal, input, other)


def gt(input: Any, other: Any) -> Tensor:
    """input > other, elementwise."""
    return _compare("gt", np.greater, input, other)


def ge(input: Any, other: Any) -> Tensor:
    """input >= other, elementwise."""
    return _compare("ge", np.greater_equal, input, other)


def _logic(name: str, ufunc: Any, input: Any, other: Any) -> Tensor:
    a, b = operands(name, input, other)
    for part in (a, b):
        if (part._data.dtype.kind if isinstance(part, Tensor) else "f" if isinstance(part, float) else "i") == "f":
            raise RuntimeError(f"{name} is not implemented for floating point: it combines bool or int64 tensors")
    return Tensor(np.asarray(ufunc(as_array(a), as_array(b))))


def logical_and(input: Any, other: Any) -> Tensor:
    """input & other: of bool, or bit by bit of int64."""
    return _logic("&", np.bitwise_and, input, other)


def logical_or(input: Any, other: Any) -> Tensor:
    """input | other: of bool, or bit by bit of int64."""
    return _logic("|", np.bitwise_or, input, other)


def logical_and_(input: Tensor, other: Any) -> Tensor:
    """input ← input & other."""
    return write_in_place(input, logical_and, other)


def logical_or_(input: Tensor, other: Any) -> Tensor:
    """input ← input | other."""
    return write_in_place(input, logical_or, other)


def invert(input: Tensor) -> Tensor:
    """~input: not, of bool, or bit by bit of int64."""
    if input._data.dtype.kind == "f":
        raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
    return Tensor(np.asarray(np.invert(input._data)))


def isnan(input: Tensor) -> Tensor:
    """Where it is NaN."""
    check_tensor(input, "isnan")
    return Tensor(np.asarray(np.isnan(input._data)))


def isinf(input: Tensor) -> Tensor:
    """Where it is infinite."""
    check_tensor(input, "isinf")
    return Tensor(np.asarray(np.isinf(input._data)))


def isfinite(input: Tensor) -> Tensor:
    """Where it is neither infinite nor NaN."""
    check_tensor(input, "isfinite")
    return Tensor(np.asarray(np.isfinite(input._data)))


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether both have the same shape and the same elements."""
    check_tensor(input, "equal")
    check_tensor(other, "equal")
    return bool(np.array_equal(input._data, other._data))


def allclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether |input − other| ≤ atol + rtol·|other| everywhere."""
    check_tensor(input, "allclose")
    check_tensor(other, "allclose")
    if input._data.dtype != other._data.dtype:
        raise RuntimeError(f"allclose: both must have one dtype; got {input.dtype} and {other.dtype}")
    broadcast_shape("allclose", input._data.shape, other._data.shape)
    return bool(np.allclose(input._data, other._data, rtol=rtol, atol=atol, equal_nan=equal_nan))
