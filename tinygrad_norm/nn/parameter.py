"""Parameter: a Tensor that a Module knows as its own; and the check of the sizes that layers make them of."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensor import Tensor

__all__ = ["Parameter"]

Array = np.ndarray[Any, Any]


class Parameter(Tensor):
    """A Tensor that a Module registers as its own when it becomes an attribute; results of ops on it are plain Tensors.

    Args:
        data: the Tensor (or NumPy array) whose memory it shares; None for an empty one.
        requires_grad: whether gradients are carried to it; True by default, under no_grad as well.
    Raises:
        TypeError: data is neither a Tensor nor an array.
        RuntimeError: it is to require gradients and is not floating point.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.Parameter(tg.ones(2))
        Parameter containing:
        tensor([1., 1.], requires_grad=True)
    """

    __slots__ = ()

    def __init__(self, data: Tensor | Array | None = None, requires_grad: bool = True) -> None:
        source = Tensor(np.empty(0, np.float32)) if data is None else Tensor(data) if type(data) is np.ndarray else data
        if not isinstance(source, Tensor):
            raise TypeError(f"Parameter(...) takes a Tensor or a NumPy array; got {typename(data)}: make one with tensor(...) first")
        if requires_grad and not source.dtype.is_floating_point:
            raise RuntimeError(f"Only Tensors of floating point dtype can require gradients; got {source.dtype}: pass requires_grad=False")
        super().__init__(source._data.view(), requires_grad)
        self._writes = source._writes  # one memory, one count of its writes

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        out = type(self)(self._data.copy(order="K"), self.requires_grad)  # as in torch, its gradient is not copied
        memo[id(self)] = out
        return out


def check_integer(layer: str, name: str, n: Any) -> None:
    """n is an integer: TypeError otherwise."""
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"{layer}: {name} must be an integer; got {type(n).__name__}")


def check_size(layer: str, name: str, n: Any) -> None:
    """n is an integer, not negative: TypeError or RuntimeError otherwise."""
    check_integer(layer, name, n)
    if n < 0:
        raise RuntimeError(f"{layer}: {name} must not be negative; got {n}")


def typename(value: Any) -> str:
    """The name of its type, with the module that it is from."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
