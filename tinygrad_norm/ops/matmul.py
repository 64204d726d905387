"""Matrix products, from two vectors to stacks of matrices.

    C = A B,   cᵢⱼ = Σₖ aᵢₖ bₖⱼ                                                            (1)

With G the gradient of C, one element of A meets G only in its own row of C:

    ∂L/∂aᵢₖ = Σⱼ gᵢⱼ bₖⱼ   so  ∂L/∂A = G Bᵀ                                                (2)
    ∂L/∂bₖⱼ = Σᵢ aᵢₖ gᵢⱼ   so  ∂L/∂B = Aᵀ G                                                (3)

A stack that was broadcast gets the sum over the axes that were stretched, as any broadcast does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..function import Function
from ..quiet import quiet
from ..tensor import Tensor
from .operands import broadcast_shape, check_tensor, sum_to

Array = np.ndarray[Any, Any]


def _mT(x: Any) -> Any:  # noqa: N802
    """The last two axes exchanged."""
    return x.transpose(-2, -1) if isinstance(x, Tensor) else np.swapaxes(x, -2, -1)


class MatMul(Function):
    """C = A B for matrices and stacks of them (1)."""

    name = "MmBackward0"

    def forward(self, a: Array, b: Array) -> Any:
        need_a, need_b = self.needs_input_grad
        self.save_for_backward(a if need_b else None, b if need_a else None)
        if a.ndim > 2 or b.ndim > 2:
            self.name = "BmmBackward0"
        return quiet.run(np.matmul, a, b)

    def backward(self, g: Any) -> Any:
        a, b = self.saved_tensors
        shape_a, shape_b = self.input_shapes
        da = None if b is None else sum_to(g @ _mT(b), shape_a)  # (2)
        db = None if a is None else sum_to(_mT(a) @ g, shape_b)  # (3)
        return da, db


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """input @ other: vectors, matrices, and stacks of matrices that broadcast.

    Args:
        input: (K), (M, K) or (…, M, K).
        other: (K), (K, N) or (…, K, N), of the same dtype.
    Returns:
        (…, M, N), without the axis of a vector.
    Raises:
        RuntimeError: shapes that do not fit, a 0-d tensor, two dtypes.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.ones(2, 3) @ tg.ones(3)
        tensor([3., 3.])
    """
    check_tensor(input, "matmul")
    check_tensor(other, "matmul")
    a, b = input._data, other._data
    if not a.ndim or not b.ndim:
        raise RuntimeError(f"both arguments to matmul need to be at least 1D, but they are {a.ndim}D and {b.ndim}D")
    if a.dtype != b.dtype:
        raise RuntimeError(f"matmul: expected both to have the same dtype, but got {input.dtype} and {other.dtype}: convert one with .to(...)")
    if a.dtype.kind == "b":
        raise RuntimeError("matmul is not implemented for bool tensors: convert them first")
    if a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({list(a.shape)} and {list(b.shape)}): the last axis of the first must be as long as the "
            f"{'second to last' if b.ndim > 1 else 'only'} axis of the second"
        )
    broadcast_shape("matmul", a.shape[:-2], b.shape[:-2])
    left = input if a.ndim > 1 else input.unsqueeze(0)  # (1, K)
    right = other if b.ndim > 1 else other.unsqueeze(1)  # (K, 1)
    out: Tensor = MatMul.apply(left, right)
    if a.ndim == 1:
        out = out.squeeze(-2)
    return out.squeeze(-1) if b.ndim == 1 else out


def rmatmul(input: Tensor, other: Any) -> Tensor:
    """other @ input."""
    return matmul(other, input)
