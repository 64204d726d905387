"""Mistakes on the way through a norm, as data: those in rstd, and in the steps of the derivation that come before dx (whose own are in the bank)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .task import Array, Values, Wrong

__all__ = ["ADD_UP", "DMEAN", "DVAR", "wrong_dmean", "wrong_dvar", "wrong_rstd"]

DVAR = "dvar = Σ dx̂ (x − μ)·(−½)(var + eps)^(−3/2)"
DMEAN = "dmean = −rstd Σ dx̂"
ADD_UP = "every x̂ depends on the statistic: their gradients add up"


def wrong_rstd(biased: str, inside: str, of: Callable[[Values, Array], Array]) -> list[Wrong]:
    """The mistakes in rstd as they show in an output.

    Args:
        biased, inside: the lines for var and for rstd. of: the output, from the values and the wrong rstd.
    """
    return [
        Wrong("unbiased variance", biased, lambda v: of(v, 1 / np.sqrt(v.var * v.M / (v.M - 1) + v.eps))),
        Wrong("eps outside the root", inside, lambda v: of(v, 1 / (np.sqrt(v.var) + v.eps))),
        Wrong("eps added to 1/std", inside, lambda v: of(v, 1 / np.sqrt(v.var) + v.eps)),
        Wrong("eps dropped", inside, lambda v: of(v, 1 / np.sqrt(v.var))),
        Wrong("a variance for a deviation", inside, lambda v: of(v, 1 / (v.var + v.eps))),
    ]


def wrong_dvar(dxhat: str, shaped: Callable[[Values, Array], Array]) -> list[Wrong]:
    """Those in dvar; `dxhat` is the line for dx̂, and `shaped` gives a statistic the shape that it is returned in."""

    def of(terms: Callable[[Values], Array], power: int = 3, factor: float = -0.5) -> Callable[[Values], Array]:
        return lambda v: shaped(v, factor * v.s(terms(v)) * v.rstd**power)

    def right(v: Values) -> Array:
        return np.asarray(v.d * v.deviation)

    return [
        Wrong("forgot ½ in d(v^−½)", DVAR, of(right, factor=-1)),
        Wrong("sign of dvar", DVAR, of(right, factor=0.5)),
        Wrong("rstd² for rstd³", DVAR, of(right, 2)),
        Wrong("rstd for rstd³", DVAR, of(right, 1)),
        Wrong("x for x − μ", DVAR, of(lambda v: v.d * v.x)),
        Wrong("x̂ for x − μ", DVAR, of(lambda v: v.d * v.xhat)),
        Wrong("a mean for the sum", ADD_UP, of(lambda v: right(v) / v.M)),
        Wrong("forgot γ", dxhat, of(lambda v: v.dy * v.deviation)),
    ]


def wrong_dmean(dxhat: str, shaped: Callable[[Values, Array], Array]) -> list[Wrong]:
    """Those in dmean."""
    return [
        Wrong("sign of dmean", DMEAN, lambda v: shaped(v, v.rstd * v.s(v.d))),
        Wrong("forgot rstd in dmean", DMEAN, lambda v: shaped(v, -v.s(v.d))),
        Wrong("a mean for the sum in dmean", ADD_UP, lambda v: shaped(v, -v.rstd * v.m(v.d))),
        Wrong("forgot γ", dxhat, lambda v: shaped(v, -v.rstd * v.s(v.dy))),
        Wrong("dmean zero", "x̂ = (x − μ)·rstd: ∂x̂/∂μ = −rstd", lambda v: shaped(v, 0 * v.mean)),
    ]
