"""How other libraries see a Tensor: through NumPy's protocols and DLPack, without a copy, and never past a gradient.

    np.asarray(t), np.sin(t)          __array__: t's own memory
    np.sum(t), np.concatenate([t])    __array_function__: the same, said by name where a gradient would be lost
    torch.from_dlpack(t)              __dlpack__: t's own memory
    from_dlpack(x)                    the memory of what torch, NumPy, JAX … hold
    array + t                         Tensor.__radd__: the Tensor's operators, which want Tensors

`__array_ufunc__` is left out on purpose: NumPy's operators leave the choice to the Tensor then, and its functions come to __array__.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .dtype import SUPPORTED
from .tensor import Tensor

__all__ = ["array", "array_function", "dlpack", "dlpack_device", "from_dlpack"]

Array = np.ndarray[Any, Any]
NOTHING = np.empty(0)
NO_NUMBERS = (np.shape, np.ndim, np.size, np.result_type, np.may_share_memory, np.shares_memory)  # nothing of theirs has a gradient


def array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Array:
    """Its memory as np.asarray wants it: shared, unless another element type or a copy is asked for."""
    held = self.numpy()
    if dtype is not None and held.dtype != np.dtype(dtype):
        if copy is False:
            raise ValueError(f"a {held.dtype} tensor cannot become {np.dtype(dtype)} without a copy")
        return held.astype(dtype)
    return held.copy() if copy else held


def array_function(self: Tensor, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
    """function(*args, **kwargs) on the arrays inside the Tensors; RuntimeError where one of these requires a gradient."""
    looks_only = function in NO_NUMBERS

    def inside(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.requires_grad and not looks_only:
                raise RuntimeError(
                    f"numpy.{function.__name__}: NumPy does not record what it does, and the gradient of a Tensor of shape {list(value.shape)} "
                    "that requires one would be lost: use the function or method of tinygrad_norm, or hand NumPy tensor.detach().numpy()"
                )
            return value._data
        if type(value) in (list, tuple):
            return type(value)(inside(item) for item in value)
        return value

    given = inside(tuple(args)), {name: inside(value) for name, value in kwargs.items()}
    return np.ndarray.__array_function__(NOTHING, function, (), *given)  # the function itself: called by its name, it would ask a Tensor that is left


def dlpack(self: Tensor, **options: Any) -> Any:
    """Its memory as a DLPack capsule, for from_dlpack of torch, NumPy and others; BufferError where a gradient would be lost, or a stride is negative."""
    if self.requires_grad:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
    if any(stride < 0 for stride in self._data.strides):  # torch would not refuse it, but end the process
        raise BufferError(f"Can't export tensors with a negative stride, got strides {self._data.strides}: use tensor.clone()")
    return self._data.__dlpack__(**{name: value for name, value in options.items() if value is not None})


def dlpack_device(self: Tensor) -> tuple[int, int]:
    """(1, 0): the CPU."""
    kind, number = self._data.__dlpack_device__()
    return int(kind), int(number)


def from_dlpack(x: Any) -> Tensor:
    """A Tensor over the memory of another library's tensor.

    Args:
        x: anything with __dlpack__ and __dlpack_device__: a torch tensor, a NumPy or JAX array, a Tensor.
    Raises:
        TypeError: x has no __dlpack__, or an element type other than float32, float64, int64 and bool.
        BufferError: x requires a gradient, or lies on another device than the CPU.

    Example:
        >>> import numpy as np
        >>> import tinygrad_norm as tg
        >>> a = np.zeros(2)
        >>> t = tg.from_dlpack(a)
        >>> a[0] = 5.0
        >>> t
        tensor([5., 0.], dtype=torch.float64)
    """
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: expected a tensor with __dlpack__ and __dlpack_device__; got a {type(x).__name__}")
    if int(x.__dlpack_device__()[0]) != 1:
        raise BufferError("from_dlpack: the tensor must lie on the CPU, the only device here: move it there first, as with .cpu()")
    try:
        held = np.from_dlpack(x)
    except BufferError as error:
        raise BufferError(f"from_dlpack: {error}") from None
    except RuntimeError as error:  # NumPy's words for element types that it has not, as bfloat16
        raise TypeError(f"from_dlpack: expected float32, float64, int64 or bool elements: {error}") from None
    if held.dtype not in SUPPORTED:
        raise TypeError(f"from_dlpack: expected float32, float64, int64 or bool elements; got {held.dtype}: convert it there first")
    return Tensor(held)
