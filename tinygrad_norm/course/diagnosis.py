"""What is wrong with a gradient: which known mistake it is, which line of the derivation that breaks, and what can be said of an unknown one.

In this order, the first that applies: another shape (1); a mistake of the bank, in every case (2); a multiple, the transpose, some rows only
(3); for a norm's dx the coefficients of its three terms, by least squares (4). Nothing is claimed that does not hold in every general case.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..autograd.explain import explain
from ..autograd.wrong_norms import Values, Wrong
from .task import Array, Case, Output

__all__ = ["Finding", "diagnose", "least_squares", "matches"]


class Finding(NamedTuple):
    """What is wrong: a key to count it by, the whole sentence, and the line of the derivation it breaks."""

    key: str
    said: str
    breaks: str = ""

    def text(self, hints: str) -> str:
        """As much of it as the level of hints allows: "full", "term" (the line of the derivation only) or "none"."""
        if hints == "none":
            return ""
        if hints == "term":
            return f"look again at: {self.breaks}" if self.breaks else ""
        return f"{self.said} (the line it breaks: {self.breaks})" if self.breaks else self.said


def same(got: Any, right: Any, tolerance: float, scale: float | None = None) -> bool:
    """Whether two arrays have one shape, the same values within tolerance of the largest, and NaN and infinity in the same places."""
    got, right = np.asarray(got), np.asarray(right)
    if got.shape != right.shape or got.dtype.kind not in "biuf" or right.dtype.kind not in "biuf":
        return False
    with np.errstate(all="ignore"):
        finite = np.isfinite(right)
        if not finite.all():
            if not np.array_equal(finite, np.isfinite(got)) or not np.array_equal(got[~finite], right[~finite], equal_nan=True):
                return False
            got, right = got[finite], right[finite]
        if scale is None:
            scale = float(np.abs(right).max(initial=0))
        return bool(np.abs(got - right).max(initial=0) <= tolerance * scale + 1e-300)  # not where got has a NaN or infinity of its own


def diagnose(output: Output, cases: Sequence[Case], got: Sequence[Any], right: Sequence[Any], tolerance: Sequence[float]) -> list[Finding]:
    """What is wrong with one output.

    Args:
        output: which it is.
        cases, got, right: what was returned and expected, case by case; got is None where the function raised.
        tolerance: how exactly a pattern must hold, case by case.
    Returns:
        Findings, best first; none where nothing certain can be said.

    Example:
        >>> from tinygrad_norm.course.task import cases_of
        >>> cases = cases_of("layer_norm")(np.random.RandomState(0))
        >>> wrong = [c.values.T0 - c.values.T1 for c in cases]
        >>> diagnose(Output("dx", "layer_norm dx"), cases, wrong, [c.values.dx for c in cases], [1e-6] * len(cases))[0].said
        'variance taken as constant'
    """
    named = [w for w in output.mistakes() if matches(w, cases, got, right, tolerance)]
    if named:
        return [Finding(w.name, w.name, w.breaks) for w in named]
    general = [i for i, c in enumerate(cases) if not c.edge and got[i] is not None] or [i for i, g in enumerate(got) if g is not None]
    shapes = [i for i in general if np.shape(got[i]) != np.shape(right[i])]
    if shapes:
        return [_shape(output, np.asarray(got[shapes[0]]), np.asarray(right[shapes[0]]))]
    bad = [i for i in general if not same(got[i], right[i], tolerance[i])]
    if not bad:
        return [_only_edges(output, cases, got, right, tolerance)]
    said = [explain(np.asarray(got[i], np.float64), np.asarray(right[i], np.float64), output.name, max(1e-6, tolerance[i])) for i in bad]
    kept = [s for s in said[0] if all(_kind(s) in map(_kind, lines) for lines in said) and " is 1 times " not in s]
    if kept and kept[0].startswith("there it is"):  # and where that is differs from case to case
        kept = []
    if output.bank and output.bank.endswith("norm dx") and not kept:
        terms = least_squares([cases[i].values for i in general], [got[i] for i in general], max(tolerance[i] for i in general))
        if terms is not None:
            return [terms]
    if kept:
        return [Finding(_key(kept[0]), "; ".join(kept), output.line)]
    by = _largest(got[bad[0]], right[bad[0]])
    return [Finding(f"{output.name} is wrong", f"{output.name} is wrong, by up to {by:.2g} of its largest value", output.line)]


def _kind(said: str) -> str:
    """A sentence without its numbers: a factor that is M differs from case to case."""
    return re.sub(r"[-+\d./]+(e[-+]?\d+)?|\[.*?\]", "#", said.partition(" (")[0])


def _key(said: str) -> str:
    """A multiple by its factor; a row by no number, so that the class report can count it."""
    return said if " times" in said or "1/" in said else re.sub(r"\[.*?\]|\b\d+\b", "some", said)


def _largest(got: Any, right: Any) -> float:
    with np.errstate(all="ignore"):
        scale = float(np.abs(np.asarray(right)).max(initial=0)) or 1.0
        return float(np.nanmax(np.abs(np.asarray(got) - right), initial=0) / scale)


# -- (1) ------------------------------------------------------------------------------------------------------------------------------------


def _shape(output: Output, got: Array, right: Array) -> Finding:
    """Which axes were not summed, or whether it is right after a transpose or a reshape."""
    said = f"{output.name} has shape {got.shape}; expected {right.shape}"
    if got.size == right.size and same(np.squeeze(got), np.squeeze(right), 1e-6):
        return Finding(f"{output.name}: axis kept or lost", f"{said}: the numbers are right, with an axis of length 1 too {_much(got, right)}", output.line)
    for n in range(1, got.ndim + 1):
        for axes in itertools.combinations(range(got.ndim), n):
            for keep in (False, True):
                total = got.sum(axis=axes, keepdims=keep) if got.dtype.kind in "biuf" else got
                if total.shape == right.shape and same(total, right, 1e-6):
                    over = f"axis {axes[0]}" if n == 1 else f"axes {axes}"
                    return Finding(f"{output.name}: not summed", f"{said}: right once it is summed over {over}", output.line or "what is shared is summed over")
    if got.ndim > 1 and same(got.T, right, 1e-6):
        return Finding(f"{output.name}: transposed", f"{said}: it is the transpose of the right one", output.line)
    if got.size == right.size and same(got.reshape(right.shape), right, 1e-6):
        return Finding(f"{output.name}: shape", f"{said}: the numbers are right, in another shape", output.line)
    for axis in range(right.ndim):
        if same(got, right.sum(axis=axis), 1e-6) or same(got, right.sum(axis=axis, keepdims=True), 1e-6):
            return Finding(f"{output.name}: summed too much", f"{said}: it is the right one summed over axis {axis}", output.line)
    return Finding(f"{output.name}: shape", said, output.line)


def _much(got: Array, right: Array) -> str:
    return "many" if got.ndim > right.ndim else "few"


# -- (2) ------------------------------------------------------------------------------------------------------------------------------------


def matches(wrong: Wrong, cases: Sequence[Case], got: Sequence[Any], right: Sequence[Any], tolerance: Sequence[float]) -> bool:
    """Whether the answers are this mistake's in every case for which it can be made, and right, or an error, in the others; or an error at an edge."""
    met = False
    for case, g, r, close in zip(cases, got, right, tolerance):
        try:
            applies = wrong.applies(case.values)
        except (AttributeError, KeyError):
            applies = False
        if not applies:
            if g is not None and not same(g, r, close):
                return False
            continue
        if g is None and case.edge:  # it was written for the general case only
            continue
        if g is None:
            return False
        with np.errstate(all="ignore"):
            own = wrong.gradient(case.values.copied())
        scale = None if np.shape(own) != np.shape(r) else max(_finite_max(own), 1e-3 * _finite_max(r))
        if not same(g, own, close, scale):
            return False
        met = met or not same(own, r, close)
    return met


def _finite_max(a: Any) -> float:
    a = np.asarray(a)
    return float(np.abs(a[np.isfinite(a)]).max(initial=0))


# -- (3) ------------------------------------------------------------------------------------------------------------------------------------


def _only_edges(output: Output, cases: Sequence[Case], got: Sequence[Any], right: Sequence[Any], tolerance: Sequence[float]) -> Finding:
    bad = [c.name for c, g, r, close in zip(cases, got, right, tolerance) if g is not None and not same(g, r, close)]
    if not bad:  # right wherever it answered; the exception is told once, beside the outputs
        return Finding(f"{output.name}: raised at {next(c.name for c, g in zip(cases, got) if g is None)}", "")
    return Finding(f"{output.name}: wrong at {bad[0]}", f"{output.name} is right in general, but wrong at: {', '.join(bad)}", output.line)


# -- (4) ------------------------------------------------------------------------------------------------------------------------------------

_TIMES = {0.0: "is missing", -1.0: "has the wrong sign", 0.5: "counts half", 2.0: "counts twice", 3.0: "counts three times"}
_TERM = ("the direct term", "the mean term", "the variance term")


def least_squares(values: Sequence[Values], got: Sequence[Any], tolerance: float = 1e-6) -> Finding | None:
    """A norm's dx as a·rᵖd + b·r^q m(d) + c·rˢ x̂ m(d x̂), right for 1, −1, −1 and p = q = s = 1, with d = γ⊙dy; or with dy for d.

    Returns:
        The coefficients, where they leave nothing over in any case; None otherwise.
    """
    target = np.concatenate([np.asarray(g, np.float64).ravel() / _finite_or_1(v.dx) for g, v in zip(got, values)])
    if not np.isfinite(target).all():
        return None
    powers = sorted(itertools.product((1, 0, 2, -1, 3), repeat=3), key=lambda p: sum(abs(k - 1) for k in p))
    for with_gamma in (True, False):
        columns: dict[tuple[int, int], Array] = {}
        for term, power in itertools.product(range(3), (-1, 0, 1, 2, 3)):
            parts = []
            for v in values:
                d = v.d if with_gamma else v.dy
                base = (d, v.m(d), v.xhat * v.m(d * v.xhat))[term]
                parts.append((np.broadcast_to(v.rstd**power * base, v.x.shape) / _finite_or_1(v.dx)).ravel())
            columns[term, power] = np.concatenate(parts)
        for p in powers:
            matrix = np.stack([columns[k, p[k]] for k in range(3)], axis=1)
            coefficients, *_ = np.linalg.lstsq(matrix, target, rcond=None)
            if np.abs(matrix @ coefficients - target).max() <= 10 * tolerance * max(np.abs(target).max(), 1e-30):
                return _coefficients(coefficients, p, with_gamma)
    return None


def _finite_or_1(a: Any) -> float:
    return _finite_max(a) or 1.0


def _coefficients(coefficients: Array, powers: tuple[int, ...], with_gamma: bool) -> Finding | None:
    a, b, c = (round(float(v), 4) + 0.0 for v in coefficients)
    said, broken = [], []
    for name, value, wanted, power, line in zip(
        _TERM, (a, b, c), (1, -1, -1), powers, ("∂x̂/∂x has the factor rstd", "∂μ/∂xⱼ = 1/M", "∂rstd/∂var = −½ (var + eps)^(−3/2), ∂var/∂xⱼ = 2/M (xⱼ − μ)")
    ):
        times = value / wanted
        if abs(times - 1) > 1e-4:
            said.append(f"{name} {_TIMES.get(round(times, 4), f'counts {times:g} times')}")
            broken.append(line)
        if power != 1 and value:
            said.append(f"{name} has rstd to the power {power}, not 1")
            broken.append(line)
    if not with_gamma:
        said.append("γ is missing: what goes into x̂ is γ⊙dy")
        broken.append("d = γ⊙dy")
    if not said:
        return None
    figures, mistakes = ", ".join(f"{v:g}".replace("-", "−") for v in (a, b, c)), "; ".join(said)
    whole = f"the coefficients of the three terms are {figures}; they should be 1, −1, −1: {mistakes}"
    return Finding(mistakes, whole, "; ".join(dict.fromkeys(broken)))
