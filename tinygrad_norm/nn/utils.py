"""Helpers on the gradients of a model."""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..kernel import kernel, prange
from ..tensor import Tensor, touch

__all__ = ["clip_grad_norm_"]

Array = np.ndarray[Any, Any]


def sum_of_squares_reference(x: Array) -> float:
    """Σ xᵢ² in double: float32 squares overflow from 1e19 on."""
    return float(np.sum(np.square(x, dtype=np.float64)))


@kernel(reference=sum_of_squares_reference)
def sum_of_squares(x):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in prange(len(x)):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


def _norm(x: Array, p: float) -> float:
    """(Σ |xᵢ|ᵖ)^(1/p), its limits at ±∞, and for p = 0 how many are not zero."""
    if p == 2:
        return math.sqrt(sum_of_squares[x.size](x.ravel()))
    if p == 0:
        return float(np.count_nonzero(x))
    if x.size == 0:
        return 0.0 if p > 0 else math.inf  # what adds nothing to the norm of all
    sizes = np.abs(x).astype(np.float64)
    if math.isinf(p):
        return float(sizes.max() if p > 0 else sizes.min())
    return float(np.sum(sizes**p) ** (1 / p))


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
    """Scales all gradients by one factor so that the norm of them all, as one vector, is at most max_norm.

    g ← g · min(1, max_norm/(‖g‖ + 10⁻⁶))

    Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural networks", arXiv:1211.5063, Algorithm 1.

    Args:
        parameters: one Tensor or several; those without a gradient are left out.
        max_norm: the largest norm allowed, ≥ 0 (torch turns the gradients around where it is negative).
        norm_type: p of the p-norm; math.inf, or "inf", for the largest absolute value.
        error_if_nonfinite: raise where the norm is infinite or NaN; otherwise the gradients become 0 or NaN by the formula.
    Returns:
        The norm before, a 0-d Tensor; 0 where there are no gradients.
    Raises:
        TypeError: max_norm is no number, or a parameter no Tensor. ValueError: max_norm is negative or NaN.
        RuntimeError: the norm is not finite, with error_if_nonfinite; no gradient is changed then.

    Example:
        >>> import tinygrad_norm as tg
        >>> w = tg.tensor([3.0, 4.0], requires_grad=True)
        >>> (w * w).sum().backward()
        >>> tg.nn.utils.clip_grad_norm_(w, max_norm=1.0)
        tensor(10.)
        >>> w.grad
        tensor([0.6000, 0.8000])
    """
    try:
        max_norm, norm_type = float(max_norm), float(norm_type)
    except (TypeError, ValueError):
        raise TypeError(f"clip_grad_norm_: max_norm and norm_type must be numbers; got {max_norm!r} and {norm_type!r}") from None
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be a number >= 0; got {max_norm}")
    if not isinstance(parameters, Iterable):
        raise TypeError(f"clip_grad_norm_: parameters must be one Tensor or several; got {type(parameters).__name__}")
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for t in tensors:
        if not isinstance(t, Tensor):
            raise TypeError(f"clip_grad_norm_: parameters must be Tensors; one is a {type(t).__name__}")
    if not tensors and isinstance(parameters, types.GeneratorType):
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=2)
    grads = [t._grad for t in tensors if t._grad is not None]
    for g in grads:
        if not g._data.flags.writeable:
            raise RuntimeError(
                f"clip_grad_norm_: a gradient of shape {list(g.shape)} cannot be written to: it was expanded, or is over read-only memory; clone() it"
            )
    if not grads:
        return Tensor(np.zeros((), np.float32))
    kind = np.result_type(*{g._data.dtype for g in grads}).type
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        total = kind(_norm(np.array([_norm(g._data, norm_type) for g in grads]), norm_type))
        factor = kind(max_norm) / (total + kind(1e-6))
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be clipped. To disable this error "
            "and scale the gradients by the non-finite norm anyway, set `error_if_nonfinite=False`"
        )
    if not factor >= 1:  # NaN as well
        for g in grads:
            with np.errstate(invalid="ignore"):
                g._data *= g._data.dtype.type(factor)
            touch(g)
    return Tensor(np.array(total))
