"""Normalization of padded sequences: statistics over the elements that count, so that padding changes nothing.

Sequences of different lengths share an array, and what stands behind the end of each is padding. A mask says which elements count: True
for those that do (Keras' sense; torch's key_padding_mask is its opposite). What does not count is not read, be it NaN, and comes out as 0;
its gradient is 0. With n = Σ mask the number of elements of a row that count, and every sum over those alone:

    μ = 1/n Σ x,   var = 1/n Σ (x − μ)²,   rstd = (var + eps)^(−½)                                  (1)
    x̂ⱼ = (xⱼ − μ)·rstd,   yⱼ = γⱼ x̂ⱼ + βⱼ        where j counts; else x̂ⱼ = yⱼ = 0                   (2)

This is layer normalization (layer_norm.py) of each row without its padding, equation for equation. So is batch normalization over the
valid positions of (N, C, L): there all channels of a position count or none does, and the positions can be taken out as rows of a
matrix (V, C), normalized as any other, and put back. That is a gather, batch_norm and a scatter: (1) needs no second kernel there, and
more padding gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..creation import zeros
from ..function import Function
from ..kernel import APART, chunks, kernel, prange, ready
from ..ops.operands import as_array, check_tensor
from ..tensor import Tensor
from .batch_norm import BatchNorm1d, batch_norm
from .layer_norm import LayerNorm, as_rows, check_normalized, shape_argument
from .norm import check_eps

Array = np.ndarray[Any, Any]

# -- 1. Layer normalization, forward --------------------------------------------------------------------------------------------------
#
# `stats` holds for each row μ, the shift, rstd (layer_norm.py, 1), and n. A row without any element that counts is 0 throughout.


def masked_layer_norm_forward_reference(x: Array, mask: Array, weight: Array, bias: Array, eps: Any, y: Array, stats: Array) -> None:
    """Equations (1) and (2) on the rows of x and mask (N, D)."""
    n = np.maximum(mask.sum(axis=1, keepdims=True), 1).astype(x.dtype)  # (N, 1)
    mean = np.where(mask, x, 0).sum(axis=1, keepdims=True) / n
    rest = np.where(mask, x - mean, 0).sum(axis=1, keepdims=True) / n
    centred = np.where(mask, (x - mean) - rest, 0)
    rstd = 1 / np.sqrt((centred * centred).sum(axis=1, keepdims=True) / n + eps)
    y[:] = np.where(mask, centred * rstd * weight + bias, 0)
    stats[:] = np.concatenate([mean, rest * rstd, rstd, n], axis=1)


@kernel(reference=masked_layer_norm_forward_reference)
def masked_layer_norm_forward(x, mask, weight, bias, eps, y, stats):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)
    small = x.dtype.type(eps)
    for i in prange(rows):
        total, n = zero, 0
        for j in range(width):
            total += x[i, j] if mask[i, j] else zero
            n += 1 if mask[i, j] else 0
        count = x.dtype.type(max(n, 1))
        mean = total / count
        off, square = zero, zero
        for j in range(width):
            centred = x[i, j] - mean if mask[i, j] else zero
            off += centred
            square += centred * centred
        rest = off / count
        var = square / count - rest * rest  # below 0 at times, as in layer_norm.py
        rstd = one / math.sqrt((zero if var < zero else var) + small)  # (1)
        shift = rest * rstd
        for j in range(width):
            y[i, j] = ((x[i, j] - mean) * rstd - shift) * weight[j] + bias[j] if mask[i, j] else zero  # (2)
        stats[i, 0], stats[i, 1], stats[i, 2], stats[i, 3] = mean, shift, rstd, count


# -- 2. Layer normalization, backward -------------------------------------------------------------------------------------------------
#
# As derived in layer_norm.py, (5) to (8), for the elements that count; an element that does not moves no other and is moved by none:
#
#     dγⱼ = Σ_rows dyⱼ x̂ⱼ,   dβⱼ = Σ_rows dyⱼ,   dⱼ = γⱼ dyⱼ        with dy taken for 0 where it does not count  (3)
#     J v = rstd (v − 1/n Σ v − x̂ 1/n Σ v x̂) where it counts, else 0;       dx = J d                  (4)


def masked_layer_norm_backward_reference(
    dy: Array, x: Array, mask: Array, weight: Array, stats: Array, dx: Array, dweight: Array, dbias: Array, parts: int
) -> None:
    """Equations (3) and (4) on the rows of dy, x and mask (N, D)."""
    mean, shift, rstd, n = (stats[:, i : i + 1] for i in range(4))
    xhat, dy = np.where(mask, (x - mean) * rstd - shift, 0), np.where(mask, dy, 0)
    d = dy * weight
    dx[:] = np.where(mask, rstd * (d - d.sum(axis=1, keepdims=True) / n - xhat * ((d * xhat).sum(axis=1, keepdims=True) / n)), 0)
    dweight[:] = (dy * xhat).sum(axis=0, dtype=np.float64)
    dbias[:] = dy.sum(axis=0, dtype=np.float64)


@kernel(reference=masked_layer_norm_backward_reference)
def masked_layer_norm_backward(dy, x, mask, weight, stats, dx, dweight, dbias, parts):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    partial = np.empty((parts, 2, width + APART), x.dtype)
    zero = x.dtype.type(0)
    for c in prange(parts):  # each part sums dγ and dβ by itself; then they are added in order: the same bits on every run
        for j in range(width):
            partial[c, 0, j] = 0
            partial[c, 1, j] = 0
        for i in range(c * rows // parts, (c + 1) * rows // parts):
            mean, shift, rstd, n = stats[i, 0], stats[i, 1], stats[i, 2], stats[i, 3]
            v, w = zero, zero
            for j in range(width):
                xhat = (x[i, j] - mean) * rstd - shift if mask[i, j] else zero  # (2)
                g = dy[i, j] if mask[i, j] else zero
                partial[c, 0, j] += g * xhat  # (3)
                partial[c, 1, j] += g
                v += g * weight[j]
                w += g * weight[j] * xhat
            v, w = v / n, w / n
            for j in range(width):
                xhat = (x[i, j] - mean) * rstd - shift
                dx[i, j] = rstd * (dy[i, j] * weight[j] - v - xhat * w) if mask[i, j] else zero  # (4)
    for j in range(width):
        dweight[j] = 0
        dbias[j] = 0
    for c in range(parts):
        for j in range(width):
            dweight[j] += partial[c, 0, j]
            dbias[j] += partial[c, 1, j]


# -- 3. On the graph ------------------------------------------------------------------------------------------------------------------


class MaskedLayerNormFunction(Function):
    """y of x, γ and β: (1) and (2)."""

    fresh_gradients = True

    def forward(self, x: Array, weight: Array | None, bias: Array | None, *, mask: Array, shape: tuple[int, ...], eps: float) -> Array:
        width = math.prod(shape)
        rows = as_rows(x, width)
        y, stats = np.empty(x.shape, x.dtype), np.empty((len(rows), 4), x.dtype)
        gamma = np.ones(width, x.dtype) if weight is None else ready(weight).ravel()
        beta = np.zeros(width, x.dtype) if bias is None else ready(bias).ravel()
        self.mask = as_rows(mask, width)
        if x.size:
            masked_layer_norm_forward[x.size](rows, self.mask, gamma, beta, eps, y.reshape(rows.shape), stats)
        self.shape = shape
        self.save_for_backward(x, weight, stats)
        return y

    def backward(self, dy: Any) -> Any:
        x, weight, stats = self.saved_tensors
        dx, dweight, dbias = MaskedLayerNormBackward.on(dy, x, weight, stats=as_array(stats), mask=self.mask, shape=self.shape)
        return dx, dweight, dbias


class MaskedLayerNormBackward(Function):
    """dx, dγ, dβ of dy, x and γ: (3) and (4).

    Its own gradient is layer normalization's (layer_norm.py, equations 9 to 12) over what counts: with u, a, b the gradients of dx, dγ, dβ,

        gradient of dy:  γ ⊙ J u + a ⊙ x̂ + b       where it counts, else 0                          (5)
        gradient of γ:   Σ_rows dy ⊙ J u                                                            (6)
        gradient of x:   J q − rstd x̂ 1/n Σ u dx,   q = a ⊙ dy − rstd (1/n Σ x̂ d · u + 1/n Σ x̂ u · d)  (7)
    """

    once_differentiable = True

    def forward(
        self, dy: Array, x: Array, weight: Array | None, *, stats: Array, mask: Array, shape: tuple[int, ...]
    ) -> tuple[Array, Array, Array]:
        self.save_for_backward(dy, x, weight)
        self.stats, self.mask, self.shape = stats, mask, shape
        width = math.prod(shape)
        rows = as_rows(x, width)
        dx, dweight, dbias = np.empty(x.shape, x.dtype), np.zeros(shape, x.dtype), np.zeros(shape, x.dtype)
        gamma = np.ones(width, x.dtype) if weight is None else ready(weight).ravel()
        if x.size:
            flat = dx.reshape(rows.shape), dweight.reshape(width), dbias.reshape(width)
            masked_layer_norm_backward[2 * x.size](as_rows(dy, width), rows, mask, gamma, stats, *flat, chunks(2 * x.size))
        return dx, dweight, dbias

    def backward(self, u: Array, a: Array, b: Array) -> Any:
        dy, x, weight = self.saved_tensors
        mask, width = self.mask, math.prod(self.shape)
        mu, shift, rstd, n = (self.stats[:, i : i + 1] for i in range(4))
        dy, u = np.where(mask, dy.reshape(mask.shape), 0), np.where(mask, u.reshape(mask.shape), 0)
        a, b = a.reshape(width), b.reshape(width)
        xhat = np.where(mask, (x.reshape(mask.shape) - mu) * rstd - shift, 0)
        gamma = 1 if weight is None else weight.reshape(width)

        def m(v: Array) -> Array:
            mean: Array = v.sum(axis=1, keepdims=True) / n
            return mean

        def J(v: Array) -> Array:  # noqa: N802  (4)
            carried: Array = np.where(mask, rstd * (v - m(v) - xhat * m(v * xhat)), 0)
            return carried

        d, Ju = gamma * dy, J(u)  # noqa: N806
        q = a * dy - rstd * (m(xhat * d) * u + m(xhat * u) * d)  # (7)
        gradient_dy = np.where(mask, gamma * Ju + a * xhat + b, 0)  # (5)
        gradient_x = np.where(mask, J(q) - rstd * xhat * m(u * J(d)), 0)  # (7)
        gradient_weight = None if weight is None else (dy * Ju).sum(axis=0).reshape(self.shape)  # (6)
        return gradient_dy.reshape(x.shape), gradient_x.reshape(x.shape), gradient_weight


# -- 4. For users: layer normalization ------------------------------------------------------------------------------------------------


def masked_layer_norm(
    input: Tensor, mask: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """layer_norm with statistics over the elements that mask says count; the others come out as 0, and are not read.

    Args:
        input: (…, *normalized_shape), float32 or float64.
        mask: of bool, of a shape that expands to input's: True where an element counts.
        normalized_shape: the lengths of the last axes, over which the statistics are taken together.
        weight, bias: γ and β, of normalized_shape; ones and zeros if None.
        eps: added to the variance, in its units.
    Returns:
        A Tensor of input's shape.
    Raises:
        RuntimeError: shapes or dtypes that do not fit. TypeError: the mask is not of bool.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([[1.0, 2.0, 3.0, float("nan")]])
        >>> tg.nn.functional.masked_layer_norm(x, ~tg.isnan(x), (4,))
        tensor([[-1.2247,  0.0000,  1.2247,  0.0000]])
    """
    shape = shape_argument("masked_layer_norm", normalized_shape)
    check_normalized("masked_layer_norm", input, shape, weight, bias)
    if type(eps) is not float:
        check_eps("masked_layer_norm", eps)
    valid = _bool("masked_layer_norm", mask)
    try:
        valid = np.array(np.broadcast_to(valid, input._data.shape))  # a copy: the caller's mask may change before the backward
    except ValueError:
        raise RuntimeError(
            f"masked_layer_norm: mask has shape {list(mask.shape)}; expected one that expands to {list(input.shape)}, the shape of input"
        ) from None
    y: Tensor = MaskedLayerNormFunction.apply(input, weight, bias, mask=valid, shape=shape, eps=float(eps))
    return y


def _bool(op: str, mask: Tensor) -> Array:
    check_tensor(mask, op)
    if mask._data.dtype != np.bool_:
        raise TypeError(f"{op}: mask must be of bool, True where an element counts; got {mask.dtype}: compare it, as lengths[:, None] > positions")
    return mask._data


class MaskedLayerNorm(LayerNorm):
    """LayerNorm that is called with a mask: masked_layer_norm with a γ and a β; arguments, state and names are LayerNorm's.

    Example:
        >>> import tinygrad_norm as tg
        >>> lengths, x = tg.tensor([3, 1]), tg.randn(2, 4)
        >>> norm = tg.nn.MaskedLayerNorm(4)
        >>> norm(x, tg.arange(4) < lengths[:, None]) != 0
        tensor([[ True,  True,  True, False],
                [False, False, False, False]])
    """

    def forward(self, input: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """(…, *normalized_shape), and a mask that expands to it, to the same."""
        return masked_layer_norm(input, mask, self.normalized_shape, self.weight, self.bias, self.eps)


# -- 5. For users: batch normalization ------------------------------------------------------------------------------------------------


def _over_valid(op: str, normalize: Callable[[Tensor], Tensor], input: Tensor, mask: Tensor) -> Tensor:
    """normalize, which takes (V, C), over the positions of input (N, C, L) that mask (N, L) has; zeros at the others."""
    check_tensor(input, op)
    shape = input._data.shape
    if len(shape) != 3:
        raise ValueError(f"{op}: expected 3D input, (N, C, L); got {len(shape)}D input")
    valid = _bool(op, mask)
    if valid.shape != (shape[0], shape[2]):
        raise RuntimeError(f"{op}: mask has shape {list(mask.shape)}; expected {[shape[0], shape[2]]}, the samples and positions of input {list(shape)}")
    n, position = valid.nonzero()
    at = Tensor(n), Tensor(position)
    y = normalize(input.permute(0, 2, 1)[at])  # (V, C)
    out = zeros(shape[0], shape[2], shape[1], dtype=input.dtype)
    out[at] = y
    result: Tensor = out.permute(0, 2, 1)
    return result


def masked_batch_norm(
    input: Tensor,
    mask: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """batch_norm with statistics over the positions that mask says count; the others come out as 0, and are not read.

    Args:
        input: (N, C, L), float32 or float64.
        mask: (N, L) of bool: True where a position counts.
        running_mean, running_var, weight, bias, training, momentum, eps: as batch_norm has them.
    Returns:
        A Tensor of input's shape.
    Raises:
        TypeError: the mask is not of bool. RuntimeError: it is not (N, L). ValueError: input has not 3 axes; in training, one position.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([[[1.0, 3.0, 999.0]]])
        >>> tg.nn.functional.masked_batch_norm(x, tg.tensor([[True, True, False]]), None, None, training=True)
        tensor([[[-1.0000,  1.0000,  0.0000]]])
    """

    def normalize(values: Tensor) -> Tensor:
        return batch_norm(values, running_mean, running_var, weight, bias, training, momentum, eps)

    return _over_valid("masked_batch_norm", normalize, input, mask)


class MaskedBatchNorm1d(BatchNorm1d):
    """BatchNorm1d that is called with a mask: only valid positions make statistics; arguments, state and names are BatchNorm1d's.

    Example:
        >>> import tinygrad_norm as tg
        >>> norm = tg.nn.MaskedBatchNorm1d(1)
        >>> _ = norm(tg.tensor([[[0.0, 2.0, 999.0]]]), tg.tensor([[True, True, False]]))
        >>> norm.running_mean, norm.running_var
        (tensor([0.1000]), tensor([1.1000]))
    """

    def forward(self, input: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, L), and a mask (N, L), to (N, C, L)."""
        return _over_valid("MaskedBatchNorm1d", super().forward, input, mask)
