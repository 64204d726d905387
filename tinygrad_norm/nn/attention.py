"""Attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2): every query takes a weighted mean of the values, by its match with the keys.

For one head, with queries Q (L, E), keys K (S, E), values V (S, D), a mask B (L, S) that is 0 where a query may look and −∞ where not, and
c = 1/√E, which keeps the spread of a sum of E products at 1:

    Z = c Q Kᵀ + B                                                                                  (1)
    P = softmax(Z) along each row                                                                   (2)
    A = P ⊙ M                            dropout (dropout.py), M = m/(1 − p); or A = P              (3)
    Y = A V                                                                                         (4)

The axes in front, (N, H) for a batch and its heads, are more of the same. A row that is masked whole has no softmax; here, as in torch's
scaled_dot_product_attention, its weights are 0, so that padding cannot turn a batch into NaN.

Of the work, (1) and (4) are matrix products, which BLAS does; between them lies one pass over the L·S scores: scale, mask, exponential, sum.
That pass is the kernel here. Forward and backward, causal, float32, the least of 4 processes of 25 runs each, taking turns on two cores that
other programs used as well (so the figures say which is faster, not how fast):

    (N, H, L, E)        this op     composed of primitives and softmax     torch's fused kernel
    (2, 2, 8, 8)        0.043 ms    0.096 ms                               0.083 ms
    (32, 4, 64, 32)     3.6 ms      6.6 ms                                 12.3 ms
    (8, 8, 256, 64)     140 ms      188 ms                                 65 ms
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..function import Function
from ..kernel import kernel, prange, ready
from ..ops.operands import check_tensor, sum_to
from ..quiet import quiet
from ..tensor import Tensor
from .dropout import check_probability, keep_factors
from .softmax import EXP_WORK, exp_below, is_double, largest

__all__ = ["scaled_dot_product_attention"]

Array = np.ndarray[Any, Any]

# -- 1. Forward: from scores to weights -----------------------------------------------------------------------------------------------
#
# On the rows of z (N·H·L, S), in place. `bias` holds the different rows of B, and `which` says for every row of z which of them is its own:
# one (L, S) mask serves all heads without being copied for each. Causal: query l sees the keys up to l, so only l + 1 elements of a row are
# read, which spares half of the exponentials. A largest element of −∞ means that nothing may be seen: then s = 0, and so are the weights.


def weigh_reference(z: Array, scale: Any, bias: Array | None, which: Array | None, queries: int, causal: bool, double: bool | None) -> None:
    """Equations (1) and (2) on the rows of z = Q Kᵀ, in place."""
    z *= scale
    if bias is not None:
        z += bias[which]
    if causal:
        z[np.arange(z.shape[1]) > (np.arange(len(z)) % queries)[:, None]] = -np.inf
    m = z.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(z - np.where(m == -np.inf, 0, m), out=z)
    s = z.sum(axis=1, keepdims=True)
    z /= np.where(s == 0, 1, s)


@kernel(reference=weigh_reference)
def weigh(z, scale, bias, which, queries, causal, double):  # type: ignore[no-untyped-def]
    rows, width = z.shape
    zero, one, never = z.dtype.type(0), z.dtype.type(1), z.dtype.type(-np.inf)
    for n in prange(rows):
        stop = min(n % queries + 1, width) if causal else width
        if bias is None:
            for j in range(stop):
                z[n, j] *= scale
        else:
            b = which[n]
            for j in range(stop):
                z[n, j] = z[n, j] * scale + bias[b, j]  # (1)
        for j in range(stop, width):
            z[n, j] = never
        m = largest(z, n, double)
        m = zero if m == never else m
        s = zero
        for j in range(stop):
            e = exp_below(z[n, j] - m, double)
            z[n, j] = e
            s += e
        share = zero if s == zero else one / s
        for j in range(stop):
            z[n, j] *= share  # (2)
        for j in range(stop, width):
            z[n, j] = zero


# -- 2. Backward ----------------------------------------------------------------------------------------------------------------------
#
# With dY the gradient of Y, from (4) as of any matrix product
#
#     dV = Aᵀ dY,   dA = dY Vᵀ                                                                        (5)
#
# from (3) dP = dA ⊙ M, and from (2) by the Jacobian of softmax, δⱼₖ Pⱼ − Pⱼ Pₖ in each row:
#
#     dZᵢⱼ = Pᵢⱼ (dPᵢⱼ − Σₖ dPᵢₖ Pᵢₖ)                                                                 (6)
#
# A masked element has P = 0, so dZ = 0: no query learns from what it may not see. From (1)
#
#     dQ = c dZ K,   dK = c dZᵀ Q,   dB = dZ                                                          (7)


def weigh_backward_reference(p: Array, dp: Array) -> None:
    """Equation (6) on the rows of p and dp; dp becomes dZ."""
    dp -= (dp * p).sum(axis=1, keepdims=True)
    dp *= p


@kernel(reference=weigh_backward_reference)
def weigh_backward(p, dp):  # type: ignore[no-untyped-def]
    rows, width = p.shape
    for n in prange(rows):
        dot = p.dtype.type(0)
        for j in range(width):
            dot += dp[n, j] * p[n, j]
        for j in range(width):
            dp[n, j] = p[n, j] * (dp[n, j] - dot)  # (6)


# -- 3. On the graph ------------------------------------------------------------------------------------------------------------------
#
# Where the walk is recorded, q, k, v, B and dY are Tensors, and (5) to (7) in operators on them have derivatives of every order; P, which
# the forward kept as an array, is then computed again by an op of its own, `WeightsFunction`.


class AttentionFunction(Function):
    """Y of Q, K, V and B, by (1) to (7)."""

    name = "ScaledDotProductAttentionBackward0"
    fresh_gradients = True

    def forward(self, q: Array, k: Array, v: Array, bias: Array | None, *, scale: float, causal: bool, p: float) -> Array:
        weights = _weights(q, k, bias, scale, causal)
        factors = keep_factors(weights, p) if p else None
        self.scale, self.causal = scale, causal
        self.save_for_backward(q, k, v, bias, weights, factors)
        y: Array = quiet.run(np.matmul, weights if factors is None else weights * factors, v)  # (4)
        return y

    def backward(self, dy: Any) -> Any:
        q, k, v, bias, weights, factors = self.saved_tensors
        recorded = isinstance(dy, Tensor)
        if recorded:
            weights = WeightsFunction.apply(q, k, bias, scale=self.scale, causal=self.causal)
        dv = _mT(weights if factors is None else weights * factors) @ dy  # (5)
        dp = dy @ _mT(v)
        if factors is not None:
            dp = dp * factors
        dq, dk, dbias = _through_softmax(q, k, weights, dp, self.scale, self.input_shapes[3])
        return dq, dk, dv, dbias


class WeightsFunction(Function):
    """P of Q, K and B, by (1), (2), (6) and (7)."""

    name = "AttentionWeightsBackward0"
    fresh_gradients = True

    def forward(self, q: Array, k: Array, bias: Array | None, *, scale: float, causal: bool) -> Array:
        weights = _weights(q, k, bias, scale, causal)
        self.scale = scale
        self.save_for_backward(q, k, weights)
        return weights

    def backward(self, dp: Any) -> Any:
        q, k, weights = self.saved_tensors
        if not isinstance(dp, Tensor):
            dp = dp.copy()  # (6) is written over it
        return _through_softmax(q, k, weights, dp, self.scale, self.input_shapes[2])


def _weights(q: Array, k: Array, bias: Array | None, scale: float, causal: bool) -> Array:
    """P (…, L, S), by (1) and (2)."""
    z = ready(quiet.run(np.matmul, q, _mT(k)))  # matmul may answer in the order of q's memory, and the rows are written in place
    queries, keys = z.shape[-2:]
    rows = z.reshape(math.prod(z.shape[:-1]), keys)  # -1 would not do where there are no keys
    which = None
    if bias is not None:
        wide = np.broadcast_to(bias, (*bias.shape[:-1], keys)) if bias.ndim else np.full(keys, bias)
        heights = wide.shape[:-1]
        numbers = np.arange(math.prod(heights)).reshape(heights)
        which = np.broadcast_to(numbers, z.shape[:-1]).reshape(-1)
        bias = ready(wide).reshape(math.prod(heights), keys)
    weigh[EXP_WORK * z.size](rows, z.dtype.type(scale), bias, None if which is None else ready(which), queries, causal, is_double(z))
    return z


def _through_softmax(q: Any, k: Any, weights: Any, dp: Any, scale: float, mask_shape: tuple[int, ...] | None) -> tuple[Any, Any, Any]:
    """dQ, dK and dB of dP, by (6) and (7); an array dP is overwritten."""
    if isinstance(dp, Tensor):
        dz = weights * (dp - (dp * weights).sum(-1, keepdim=True))  # (6)
    else:
        keys = weights.shape[-1]
        rows = (weights.size // keys if keys else 0, keys)
        dz = ready(dp)
        weigh_backward[2 * weights.size](ready(weights).reshape(rows), dz.reshape(rows))
    dmask = None if mask_shape is None else sum_to(dz, mask_shape)
    return (dz @ k) * scale, (_mT(dz) @ q) * scale, dmask  # (7)


def _mT(x: Any) -> Any:  # noqa: N802
    """The last two axes exchanged."""
    return x.transpose(-2, -1) if isinstance(x, Tensor) else np.swapaxes(x, -2, -1)


# -- 4. For users ---------------------------------------------------------------------------------------------------------------------


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(c Q Kᵀ + mask) V: equations (1) to (4); Vaswani et al. 2017, section 3.2.1.

    It refuses is_causal together with attn_mask, which torch on the CPU does not where the inputs have four axes. Which weights are dropped
    is torch's choice, from the same stream.

    Args:
        query: (…, L, E), float32 or float64.
        key: (…, S, E).
        value: (…, S, D). The axes in front are those of query, or broadcast with them.
        attn_mask: broadcastable to (…, L, S): bool, True where a query may look; or of query's type, added to the scores.
        dropout_p: the probability with which a weight is dropped; always applied, so 0 in evaluation.
        is_causal: query l sees the keys 0 to l only.
        scale: c; 1/√E if None.
        enable_gqa: key and value may have fewer heads (axis −3): each serves several heads of query in a row.
    Returns:
        (…, L, D). A query that may look nowhere gets 0.
    Raises:
        RuntimeError: shapes or types that do not fit; a mask of integers; is_causal and attn_mask together. ValueError: dropout_p.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([[0.0], [1.0]])
        >>> tg.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
        tensor([[0.0000],
                [0.7311]])
    """
    query, key, value, bias, factor, p = _checked(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    y: Tensor = AttentionFunction.apply(query, key, value, bias, scale=factor, causal=bool(is_causal), p=p)
    return y


def _checked(
    query: Any, key: Any, value: Any, mask: Any, p: Any, causal: bool, scale: float | None, grouped: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float, float]:
    """The arguments as AttentionFunction wants them: the same axes in front, the mask as numbers to be added."""
    op = "scaled_dot_product_attention"
    for t in (query, key, value):
        check_tensor(t, op)
    q, k, v = query._data, key._data, value._data
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise RuntimeError(f"{op}: query, key and value need at least 2 axes, (length, features); got {list(q.shape)}, {list(k.shape)}, {list(v.shape)}")
    if not q.dtype == k.dtype == v.dtype or q.dtype.kind != "f":
        raise RuntimeError(
            f"{op}: Expected query, key, and value to have the same floating point dtype, but got {query.dtype}, {key.dtype} and {value.dtype}: "
            "convert them with .to(...)"
        )
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise RuntimeError(
            f"{op}: expected query (…, L, E), key (…, S, E) and value (…, S, D), which cannot be multiplied otherwise; got {list(q.shape)}, "
            f"{list(k.shape)} and {list(v.shape)}"
        )
    if grouped:
        if min(q.ndim, k.ndim, v.ndim) < 3 or q.shape[-3] % (k.shape[-3] or 1) or q.shape[-3] % (v.shape[-3] or 1):
            raise RuntimeError(
                f"{op}: Number of heads in key and value must divide the number of heads in query (axis -3); got {list(q.shape)}, {list(k.shape)} "
                f"and {list(v.shape)}"
            )
        key, value = _repeat_heads(key, q.shape[-3]), _repeat_heads(value, q.shape[-3])
    try:
        lead = np.broadcast_shapes(q.shape[:-2], key._data.shape[:-2], value._data.shape[:-2])
    except ValueError:
        raise RuntimeError(
            f"{op}: the axes in front of the last two must be equal or broadcast; got query {list(q.shape)}, key {list(k.shape)} and value {list(v.shape)}"
        ) from None
    query, key, value = (t if t._data.shape[:-2] == lead else t.expand(*lead, *t._data.shape[-2:]) for t in (query, key, value))
    if mask is not None:
        mask = _additive(op, mask, (*lead, q.shape[-2], k.shape[-2]), q.dtype, causal)
    if scale is None:
        scale = 1 / math.sqrt(q.shape[-1]) if q.shape[-1] else 1.0
    return query, key, value, mask, float(scale), check_probability(p)


def _additive(op: str, mask: Any, scores: tuple[int, ...], kind: Any, causal: bool) -> Tensor:
    check_tensor(mask, op)
    m = mask._data
    if causal:
        raise RuntimeError(f"{op}: Explicit attn_mask should not be set when is_causal=True: put both into one mask")
    if m.dtype.kind != "b" and m.dtype != kind:
        raise RuntimeError(f"{op}: Expected attn_mask dtype to be bool or to match query dtype, but got attn_mask.dtype: {mask.dtype}: convert it")
    try:
        fits = np.broadcast_shapes(m.shape, scores) == scores
    except ValueError:
        fits = False
    if not fits:
        raise RuntimeError(f"{op}: attn_mask has shape {list(m.shape)}; expected one that broadcasts to the scores, {list(scores)}")
    additive: Tensor = mask if m.dtype.kind == "f" else Tensor(np.where(m, kind.type(0), kind.type(-np.inf)))
    return additive


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """(…, G, S, E) with each of the G heads several times in a row: (…, heads, S, E)."""
    *lead, groups, length, width = x._data.shape
    if groups == heads or not groups:
        return x
    return x.unsqueeze(-3).expand(*lead, groups, heads // groups, length, width).reshape(*lead, heads, length, width)
