"""Losses without a kernel: negative log-likelihood and squared error. Cross-entropy has a room of its own, cross_entropy.py.

    1. Negative log-likelihood   2. Squared error   3. For users
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..function import Function
from ..ops.arithmetic import select
from ..ops.indexing import Put
from ..ops.operands import broadcast_shape, check_tensor, constant, operands
from ..tensor import Tensor
from .cross_entropy import check_classes, check_options, out_of_bounds
from .module import Module

__all__ = ["MSELoss", "NLLLoss", "mse_loss", "nll_loss"]

Array = np.ndarray[Any, Any]

# -- 1. Negative log-likelihood -------------------------------------------------------------------------------------------------------
#
# Cross-entropy without the softmax: the input is ln p already, y = −Σ wₜ xₜ (/ W). It is linear in x, so the gradient is a constant put at
# the place that was picked, and the second derivative is 0.


class NLLLossFunction(Function):
    """−wₜ·xₜ of each row, reduced."""

    name = "NllLossBackward0"
    fresh_gradients = True

    def forward(self, x: Array, target: Array, weight: Array | None, *, ignore: int, reduction: str) -> Array:
        axis = 1 if x.ndim > 1 else 0
        classes = x.shape[axis]
        target = target.reshape(()) if x.ndim == 1 else target
        kept = target != ignore
        if (kept & ((target < 0) | (target >= classes))).any():
            raise out_of_bounds(target.reshape(-1), classes, ignore)
        label = np.where(kept, target, 0)
        places = np.indices(target.shape, sparse=True)
        self.shape = x.shape
        self.key: tuple[Any, ...] = (*places[:axis], label, *places[axis:])
        if x.ndim > 2:
            self.name = "NllLoss2DBackward0"
        with np.errstate(all="ignore"):
            w = np.where(kept, 1 if weight is None else weight[label], 0).astype(x.dtype)
            losses = np.where(kept, -w * x[self.key], 0).astype(x.dtype)
            norm = w.sum(dtype=np.float64)
            self.kept, self.slope = kept, np.where(kept, -w / norm if reduction == "mean" else -w, 0).astype(x.dtype)
            if reduction == "none":
                return losses
            total = losses.sum(dtype=np.float64)
            return np.array(total / norm if reduction == "mean" else total, x.dtype)

    def backward(self, dy: Any) -> Any:
        dx = select(self.kept, dy * constant(self.slope, dy), 0.0)  # an infinite dy must not meet the 0 of an ignored row
        return Put.on(dx, shape=self.shape, key=self.key), None, None


# -- 2. Squared error -----------------------------------------------------------------------------------------------------------------
#
#     y = (x − t)²,   dx = 2 (x − t) dy,   dt = −dx,   both divided by the number of elements for a mean  (1)
#
# NumPy's own loops are all it needs, and formulas in operators have derivatives of every order.


class MSELossFunction(Function):
    """(x − t)², reduced, by (1)."""

    name = "MseLossBackward0"

    def forward(self, x: Array, target: Array, *, reduction: str) -> Any:
        self.save_for_backward(x, target)
        with np.errstate(all="ignore"):
            error = x - target
            self.scale = 2.0 if reduction != "mean" else 2 / error.size if error.size else np.nan
            if reduction == "none":
                return error * error
            total = np.asarray((error * error).sum())
            return total if reduction == "sum" else np.asarray(total / x.dtype.type(error.size))

    def backward(self, dy: Any) -> Any:
        x, target = self.saved_tensors
        dx = dy * ((x - target) * self.scale)  # (1)
        need_x, need_target = self.needs_input_grad
        return dx if need_x else None, -dx if need_target else None


# -- 3. For users ---------------------------------------------------------------------------------------------------------------------


def nll_loss(input: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """−weight[target]·input[target]: the negative log-likelihood of log-probabilities, as log_softmax gives them.

    Args:
        input: log-probabilities (C), (N, C) or (N, C, d1, …).
        target: classes (), (N) or (N, d1, …), int64.
        weight: of each class, (C), of input's type.
        ignore_index: rows with this target count neither in the sum nor in what the mean divides by.
        reduction: "none", "sum", or "mean": divided by the weights of the targets.
    Returns:
        A 0-d Tensor; for "none", of the target's shape.
    Raises:
        IndexError: a target class out of bounds. ValueError: batch sizes that differ; an unknown reduction.
        RuntimeError: other shapes or types that do not fit. NotImplementedError: input is not floating point.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.nll_loss(tg.tensor([[-1.0, -3.0]]), tg.tensor([1]))
        tensor(3.)
    """
    check_tensor(input, "nll_loss")
    check_tensor(target, "nll_loss")
    check_options("nll_loss", reduction, ignore_index)
    check_classes("nll_loss", input, target, weight)
    if input._data.dtype.kind != "f":
        raise NotImplementedError(f"nll_loss is not implemented for {input.dtype}: log-probabilities are floating point")
    loss: Tensor = NLLLossFunction.apply(input, target, weight, ignore=int(ignore_index), reduction=reduction)
    return loss


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """(input − target)², averaged over all elements.

    Args:
        input: of any shape, floating point.
        target: of the same shape. Another one is broadcast, with torch's warning: (N) against (N, 1) compares all with all.
        reduction: "none", "sum" or "mean".
    Returns:
        A 0-d Tensor; for "none", of input's shape.
    Raises:
        ValueError: an unknown reduction. RuntimeError: shapes that cannot be broadcast.
        NotImplementedError: both are integers or bool.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.mse_loss(tg.tensor([1.0, 2.0]), tg.tensor([0.0, 0.0]))
        tensor(2.5000)
    """
    check_tensor(input, "mse_loss")
    check_tensor(target, "mse_loss")
    check_options("mse_loss", reduction)
    if input._data.shape != target._data.shape:
        shape = broadcast_shape("mse_loss", input._data.shape, target._data.shape)
        warnings.warn(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). This will likely lead to incorrect "
            "results due to broadcasting. Please ensure they have the same size.",
            stacklevel=2,
        )
        input, target = input.expand(shape), target.expand(shape)
    a, b = operands("mse_loss", input, target)
    if a._data.dtype.kind != "f":
        raise NotImplementedError(f"mse_loss is not implemented for {a.dtype}: convert input and target with .float()")
    loss: Tensor = MSELossFunction.apply(a, b, reduction=reduction)
    return loss


class NLLLoss(Module):
    """−weight[target]·input[target] of log-probabilities, as `nll_loss`.

    Args:
        weight: of each class, (C); kept as a buffer.
        ignore_index: rows with this target do not count.
        reduction: "mean", "sum" or "none".

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.NLLLoss()(tg.tensor([[-1.0, -3.0]]), tg.tensor([1]))
        tensor(3.)
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Log-probabilities (C), (N, C) or (N, C, d1, …) and their classes to the loss."""
        return nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class MSELoss(Module):
    """(input − target)², averaged over all elements, as `mse_loss`.

    Args:
        reduction: "mean", "sum" or "none".

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.MSELoss()(tg.tensor([1.0, 2.0]), tg.zeros(2))
        tensor(2.5000)
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Two Tensors of one shape to the loss."""
        return mse_loss(input, target, reduction=self.reduction)
