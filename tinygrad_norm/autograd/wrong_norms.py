"""A bank of wrong backward passes of LayerNorm and BatchNorm, as data: each a name, the line of the derivation it breaks, a formula.

With d = γ⊙dy, rstd = (var + eps)^(−½), M the number of elements a statistic is taken over, m(·) the mean and s(·) the sum over them,

    T0 = rstd·d             along x itself                  x̂ = (x − μ)·rstd with μ, rstd held still
    T1 = rstd·m(d)          through the mean                ∂μ/∂x = 1/M
    T2 = rstd·x̂·m(d⊙x̂)      through the variance            ∂rstd/∂x = −½ rstd³ · 2/M (x − μ)
    dx = T0 − T1 − T2,      dγ = Σ dy⊙x̂,   dβ = Σ dy

A formula is given a `Values`: a dict with these arrays under the names used here (also as attributes), each ready to broadcast with x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .target import Array

__all__ = ["NORM_DX", "NORM_PARAMETERS", "RUNNING", "Values", "Wrong", "norm_values"]


class Values(dict[str, Any]):
    """A dict whose entries are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def copied(self) -> Values:
        """The same with arrays of its own: a wrong backward may write to what it is given."""
        return Values({name: value.copy() if isinstance(value, np.ndarray) else value for name, value in self.items()})


class Wrong(NamedTuple):
    """A wrong backward: what to call it, which line it breaks, what it computes, and for which inputs it can be written at all."""

    name: str
    breaks: str
    gradient: Callable[[Values], Array]
    applies: Callable[[Values], bool] = lambda v: True


def norm_values(op: str, x: Array, weight: Array, bias: Array, dy: Array, eps: float, **more: Any) -> Values:
    """All that a formula of the bank may use, from the inputs of a norm.

    Args:
        op: "layer_norm" (statistics over the last axes, as many as weight has) or "batch_norm" (over all but axis 1).
        x, dy: (…). weight, bias: γ and β as the layer holds them. eps: inside the root.
        more: running_mean, running_var, momentum for batch_norm.
    """
    layer = op == "layer_norm"
    axes = tuple(range(x.ndim - weight.ndim, x.ndim)) if layer else tuple(a for a in range(x.ndim) if a != 1)
    batch = tuple(a for a in range(x.ndim) if a not in axes) if layer else axes  # what dγ and dβ are summed over
    shape = weight.shape if layer else (-1, *(1,) * (x.ndim - 2))
    gamma, beta = weight.reshape(shape), bias.reshape(shape)

    def m(a: Array) -> Array:
        return np.asarray(a.mean(axis=axes, keepdims=True))

    def s(a: Array) -> Array:
        return np.asarray(a.sum(axis=axes, keepdims=True))

    mean = m(x)
    deviation = x - mean
    var = m(deviation**2)
    rstd = 1 / np.sqrt(var + eps)
    xhat = deviation * rstd
    d = dy * gamma
    t0, t1, t2 = rstd * d, rstd * m(d), rstd * xhat * m(d * xhat)
    v = Values(
        op=op, x=x, dy=dy, gamma=gamma, beta=beta, eps=eps, axes=axes, batch=batch, m=m, s=s, M=int(np.prod([x.shape[a] for a in axes])),
        mean=mean, deviation=deviation, var=var, rstd=rstd, xhat=xhat, y=xhat * gamma + beta, d=d, T0=t0, T1=t1, T2=t2,
        N=int(np.prod([x.shape[a] for a in batch])), parameter_shape=weight.shape, **more,
    )  # fmt: skip
    v["dx"] = t0 - t1 - t2
    v["dgamma"] = _sum(v, dy * xhat)
    v["dbeta"] = _sum(v, dy)
    return v


def _sum(v: Values, terms: Array) -> Array:
    total: Array = np.asarray(np.broadcast_to(terms, v.x.shape).sum(axis=v.batch))
    return np.reshape(total, v.parameter_shape)


def _dx(v: Values, rstd: Array, d: Array) -> Array:
    """The right formula with another rstd or d."""
    xhat = v.deviation * rstd
    return np.asarray(rstd * (d - v.m(d) - xhat * v.m(d * xhat)))


def _unbiased_rstd(v: Values) -> Array:
    return np.asarray(1 / np.sqrt(v.var * v.M / (v.M - 1) + v.eps))


def _unbiased(v: Values) -> Array:
    r = _unbiased_rstd(v)
    q = v.deviation * r
    return np.asarray(r * (v.d - v.m(v.d) - q * v.s(v.d * q) / (v.M - 1)))


def _eps_outside(v: Values) -> Array:
    sigma = np.sqrt(v.var)
    t = sigma + v.eps
    return np.asarray((v.d - v.m(v.d)) / t - v.deviation * v.m(v.d * v.deviation) / (sigma * t * t))


def _with_q(v: Values, q: Array) -> Array:
    return np.asarray(v.rstd * (v.d - v.m(v.d) - q * v.m(v.d * q)))


def _other_axes(v: Values) -> Array:
    """Means over the axes that the statistics are not taken over."""
    other = v.batch if v.op == "layer_norm" else (1,)

    def m(a: Array) -> Array:
        return np.asarray(np.broadcast_to(a, v.x.shape).mean(axis=other, keepdims=True))

    return np.asarray(v.rstd * (v.d - m(v.d) - v.xhat * m(v.d * v.xhat)))


def _other_norm(v: Values) -> Array:
    """The other layer's backward: statistics and means over the other axes."""
    other = v.batch if v.op == "layer_norm" else (1,)
    mean = v.x.mean(axis=other, keepdims=True)
    r = 1 / np.sqrt(v.x.var(axis=other, keepdims=True) + v.eps)
    xhat = (v.x - mean) * r
    return np.asarray(r * (v.d - v.d.mean(axis=other, keepdims=True) - xhat * (v.d * xhat).mean(axis=other, keepdims=True)))


def _no_keepdims(v: Values) -> Array:
    """rstd of sample n multiplies column n."""
    r = np.broadcast_to(v.rstd, v.x.shape)
    r = np.swapaxes(r, 0, 1)
    return np.asarray(r * (v.d - v.m(v.d) - v.xhat * v.m(v.d * v.xhat)))


def _running_training(v: Values) -> Array:
    r = 1 / np.sqrt(v.running_var + v.eps)
    xhat = (v.x - v.running_mean) * r
    return np.asarray(r * (v.d - v.m(v.d) - xhat * v.m(v.d * xhat)))


def _axis_0_only(v: Values) -> Array:
    return np.asarray(v.rstd * (v.d - v.d.mean(axis=0, keepdims=True) - v.xhat * (v.d * v.xhat).mean(axis=0, keepdims=True)))


def _square(v: Values) -> bool:
    return bool(v.x.ndim == 2 and v.x.shape[0] == v.x.shape[1])


def _is(op: str) -> Callable[[Values], bool]:
    return lambda v: bool(v.op == op)


def _three_axes(v: Values) -> bool:
    return bool(v.op == "batch_norm" and v.x.ndim == 3)


PRODUCT_RULE = "∂x̂/∂x has three paths: x itself, the mean, the variance"
CHAIN = "every path of the chain rule is counted once"
DSTD = "∂rstd/∂var = −½ (var + eps)^(−3/2)"
DVAR = "∂var/∂xⱼ = 2/M (xⱼ − μ)"
DMEAN = "∂μ/∂xⱼ = 1/M"
INTO_XHAT = "what goes into x̂ is d = γ⊙dy"

NORM_DX: list[Wrong] = [
    Wrong("mean and variance taken as constant", PRODUCT_RULE, lambda v: v.T0),
    Wrong("mean taken as constant", PRODUCT_RULE, lambda v: v.T0 - v.T2),
    Wrong("variance taken as constant", PRODUCT_RULE, lambda v: v.T0 - v.T1),
    Wrong("forgot 1/M in the mean", DMEAN, lambda v: v.T0 - v.M * v.T1 - v.T2),
    Wrong("forgot 1/M in the variance", DVAR, lambda v: v.T0 - v.T1 - v.M * v.T2),
    Wrong("forgot 1/M in both", f"{DMEAN}; {DVAR}", lambda v: v.T0 - v.M * (v.T1 + v.T2)),
    Wrong("mean path counted twice", CHAIN + ": var depends on μ as well, but Σ(x − μ) = 0", lambda v: v.T0 - 2 * v.T1 - v.T2),
    Wrong("forgot ½ in d(v^−½)", DSTD, lambda v: v.T0 - v.T1 - 2 * v.T2),
    Wrong("forgot 2 in d(x−μ)²", DVAR, lambda v: v.T0 - v.T1 - v.T2 / 2),
    Wrong("sign of the mean term", "x̂ = (x − μ)·rstd: ∂x̂/∂μ = −rstd", lambda v: v.T0 + v.T1 - v.T2),
    Wrong("sign of the variance term", DSTD, lambda v: v.T0 - v.T1 + v.T2),
    Wrong("sign of both terms", "∂x̂/∂μ and ∂rstd/∂var are negative", lambda v: v.T0 + v.T1 + v.T2),
    Wrong("sign of all of it", "a gradient points up, not down", lambda v: -(v.T0 - v.T1 - v.T2)),
    Wrong("= for +=, the mean path last", CHAIN, lambda v: -v.T1 + 0 * v.x),
    Wrong("= for +=, the variance path last", CHAIN, lambda v: -v.T2),
    Wrong("= for +=, the direct path lost", CHAIN, lambda v: -v.T1 - v.T2),
    Wrong("forgot rstd", "∂x̂/∂x has the factor rstd", lambda v: v.dx / v.rstd),
    Wrong("multiplied by the deviation instead of rstd", "∂x̂/∂x has the factor rstd = 1/std", lambda v: v.dx / v.rstd**2),
    Wrong("rstd twice", "∂x̂/∂x has the factor rstd once", lambda v: v.dx * v.rstd),
    Wrong("1/var for 1/std in the direct and mean paths", "∂x̂/∂x = rstd, not rstd²", lambda v: v.rstd**2 * (v.d - v.m(v.d)) - v.T2),
    Wrong("forgot γ", INTO_XHAT, lambda v: _dx(v, v.rstd, v.dy)),
    Wrong("γ twice", INTO_XHAT, lambda v: _dx(v, v.rstd, v.d * v.gamma)),
    Wrong("1/(M−1) in the backward, biased forward", "the forward divides by M", lambda v: v.T0 - v.T1 - v.T2 * v.M / (v.M - 1)),
    Wrong("unbiased variance throughout", "normalizing takes the biased variance, Σ(x − μ)²/M", _unbiased),
    Wrong("eps outside the root", "rstd = 1/√(var + eps), not 1/(√var + eps)", _eps_outside),
    Wrong("eps dropped", "rstd = 1/√(var + eps)", lambda v: _dx(v, 1 / np.sqrt(v.var), v.d)),
    Wrong("x − μ for x̂", "the variance term has x̂, twice", lambda v: _with_q(v, v.deviation)),
    Wrong("x for x̂", "the variance term has x̂, twice", lambda v: _with_q(v, v.x)),
    Wrong("y for x̂", "the variance term has x̂, before γ and β", lambda v: _with_q(v, v.y)),
    Wrong("rstd² for rstd³ in the variance path", DSTD, lambda v: v.T0 - v.T1 - v.T2 / v.rstd),
    Wrong("x̂ missing outside the mean", "the variance term is x̂·m(d⊙x̂)", lambda v: v.T0 - v.T1 - v.rstd * v.m(v.d * v.xhat)),
    Wrong("x̂ missing inside the mean", "the variance term is x̂·m(d⊙x̂)", lambda v: v.T0 - v.T1 - v.rstd * v.xhat * v.m(v.d)),
    Wrong("means over all axes", "the means are over the statistics' axes only", lambda v: v.rstd * (v.d - v.d.mean() - v.xhat * (v.d * v.xhat).mean())),
    Wrong("returned dx̂", "from x̂ to x is another step", lambda v: v.d),
    Wrong("returned dy", "the layer is not the identity", lambda v: v.dy),
    Wrong("returned zeros", "the layer has a gradient", lambda v: 0 * v.x),
    Wrong(
        "γ pulled outside",
        "γ differs along the axes of the means, so it stays inside them",
        lambda v: v.gamma * v.rstd * (v.dy - v.m(v.dy) - v.xhat * v.m(v.dy * v.xhat)),
        _is("layer_norm"),
    ),
    Wrong("statistics over features, means over the batch", "the means are over the statistics' axes", _other_axes, _is("layer_norm")),
    Wrong("did BatchNorm instead", "LayerNorm's statistics are each sample's own", _other_norm, _is("layer_norm")),
    Wrong("means over the features", "the means are over the statistics' axes", _other_axes, _is("batch_norm")),
    Wrong("did LayerNorm instead", "BatchNorm's statistics are each channel's own", _other_norm, _is("batch_norm")),
    Wrong(
        "running statistics in training", "in training the batch's own statistics count", lambda v: v.d / np.sqrt(v.running_var + v.eps), _is("batch_norm")
    ),
    Wrong(
        "normalised with running statistics, training formula",
        "forward and backward use the same statistics",
        _running_training,
        _is("batch_norm"),
    ),
    Wrong("(N, C, L): reduced axis 0 only", "M = N·L: the means are over axes 0 and 2", _axis_0_only, _three_axes),
    Wrong("(N, C, L): divided by N, not N·L", "M = N·L", lambda v: v.T0 - v.x.shape[2] * (v.T1 + v.T2), _three_axes),
    Wrong("no keepdims on a square input", "rstd belongs to its sample (or channel), and broadcasts along the statistics' axes", _no_keepdims, _square),
]


BATCH_NORM_EVAL_DX: list[Wrong] = [
    Wrong("training formula in eval", "in eval the statistics are constants: dx = γ·dy/√(running_var + eps)", lambda v: v.dx),
    Wrong("batch statistics in eval", "in eval the running statistics count", lambda v: v.T0),
    Wrong("running statistics, training formula", "in eval there is no path through the statistics", _running_training),
    Wrong("forgot γ in eval", INTO_XHAT, lambda v: v.dy / np.sqrt(v.running_var + v.eps)),
    Wrong("eps dropped in eval", "1/√(running_var + eps)", lambda v: v.d / np.sqrt(v.running_var)),
]

BATCH_SUM = "γ and β are shared by all samples: their gradients are sums over them"


def _parameter(name: str, breaks: str, of: Callable[[Values, Array], Array], applies: Callable[[Values], bool] = lambda v: True) -> list[Wrong]:
    """The same mistake in dγ and in dβ."""
    return [
        Wrong(f"dγ: {name}", breaks, lambda v: of(v, v.dy * v.xhat), applies),
        Wrong(f"dβ: {name}", breaks, lambda v: of(v, v.dy), applies),
    ]


def _more_axes(v: Values) -> bool:
    return len(v.batch) > 1


NORM_PARAMETERS: list[Wrong] = [
    *_parameter("mean over the batch", BATCH_SUM, lambda v, terms: _sum(v, terms) / v.N),
    *_parameter("no batch sum", BATCH_SUM, lambda v, terms: terms),
    Wrong("dγ: x for x̂", "y = γ⊙x̂ + β", lambda v: _sum(v, v.dy * v.x)),
    Wrong("dγ: x − μ for x̂", "y = γ⊙x̂ + β", lambda v: _sum(v, v.dy * v.deviation)),
    Wrong("dγ: y for x̂", "y = γ⊙x̂ + β", lambda v: _sum(v, v.dy * v.y)),
    Wrong("dγ: swapped with dβ", "dγ has x̂, dβ has not", lambda v: v.dbeta),
    Wrong("dβ: swapped with dγ", "dγ has x̂, dβ has not", lambda v: v.dgamma),
    *_parameter("an extra γ", "∂y/∂γ = x̂ and ∂y/∂β = 1", lambda v, terms: _sum(v, terms * v.gamma)),
    *_parameter("axis 0 only", "all axes but the parameters' are summed", lambda v, terms: terms.sum(axis=0), _more_axes),
    *_parameter("last sample only", BATCH_SUM, lambda v, terms: _sum(v, _last(terms)) if _more_axes(v) else terms[-1].reshape(v.parameter_shape)),
    *_parameter("summed over the statistics' axes", BATCH_SUM, lambda v, terms: terms.sum(axis=v.axes), _is("layer_norm")),
    *_parameter("sign", "∂y/∂γ = x̂ and ∂y/∂β = 1", lambda v, terms: -_sum(v, terms)),
    Wrong("dγ: eps dropped", "x̂ has eps in it", lambda v: _sum(v, v.dy * v.deviation / np.sqrt(v.var))),
    Wrong("dγ: unbiased variance", "x̂ has the biased variance in it", lambda v: _sum(v, v.dy * v.deviation * _unbiased_rstd(v))),
    Wrong("dγ: eps outside the root", "rstd = 1/√(var + eps)", lambda v: _sum(v, v.dy * v.deviation / (np.sqrt(v.var) + v.eps))),
]


def _last(terms: Array) -> Array:
    kept = np.zeros_like(terms)
    kept[-1] = terms[-1]
    return kept


def _moved(v: Values, new: Array, momentum: float) -> Array:
    return np.asarray((1 - momentum) * v.running_var + momentum * new)


UNBIASED = "running_var takes the unbiased variance, Σ(x − μ)²/(M − 1)"
MOVE = "running ← (1 − momentum)·running + momentum·batch"

# The buffers are no gradients, but belong to what a BatchNorm backward is graded with.
RUNNING: list[Wrong] = [
    Wrong("running_var from the biased variance", UNBIASED, lambda v: _moved(v, v.var, v.momentum)),
    Wrong("momentum the other way round", MOVE, lambda v: _moved(v, v.var * v.M / (v.M - 1), 1 - v.momentum)),
    Wrong("running statistics not updated", MOVE, lambda v: v.running_var),
    Wrong("a deviation stored", "running_var is a variance", lambda v: _moved(v, np.sqrt(v.var * v.M / (v.M - 1)), v.momentum)),
    Wrong("replaced, not averaged", MOVE, lambda v: v.var * v.M / (v.M - 1)),
]
