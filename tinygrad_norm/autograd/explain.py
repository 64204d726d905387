"""What kind of mistake a wrong gradient is, as far as the numbers tell; and where a check of a norm is blind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..function import Function
from ..tensor import Tensor
from ..walk import grad
from .report import PairResult
from .target import FAILURES, Array, Named, Target, own_stream

__all__ = ["blind_spots", "explain", "explain_pair"]

# -- 1. What is wrong -------------------------------------------------------------------------------------------------------------------


def explain(got: Array, right: Array, name: str = "the gradient", close: float = 1e-6) -> list[str]:
    """What the wrong gradient is of the right one: a multiple, the transpose, right in most rows …

    Args:
        got, right: of one shape.
        name: of the gradient.
        close: relative, how exactly a pattern must hold to be named.
    Returns:
        Sentences; none where nothing certain can be said.

    Example:
        >>> import numpy as np
        >>> right = np.array([[1.0, -2.0], [3.0, 4.0]])
        >>> explain(2 * right, right, "dx")
        ['dx is 2 times the right one, everywhere']
        >>> explain(right.T, right, "dx")
        ['dx equals the transpose of the right one']
    """
    scale = float(np.abs(right).max(initial=0))
    if got.shape != right.shape or not scale or not np.isfinite(got).all():
        return [f"{name} has {int((~np.isfinite(got)).sum())} values that are not finite"] if not np.isfinite(got).all() else []

    def same(a: Array, b: Array) -> bool:
        return bool(np.abs(a - b).max(initial=0) <= close * scale)

    if not np.any(got):
        return [f"{name} is zero everywhere"]
    with np.errstate(all="ignore"):
        factor = float(np.sum(got * right) / np.sum(right * right))
    if abs(factor) > close and same(got / factor, right):
        return [f"{name} has the wrong sign, everywhere" if abs(factor + 1) < close else f"{name} is {_factor(factor, right.shape)} the right one, everywhere"]
    if right.ndim >= 2 and right.shape[-1] == right.shape[-2] and same(np.swapaxes(got, -1, -2), right):
        return [f"{name} equals the transpose of the right one"]
    said = []
    bad = np.abs(got - right) > close * scale
    for axis in range(right.ndim):
        rows = bad.any(axis=tuple(a for a in range(right.ndim) if a != axis))
        if not rows.all() and len(rows) > 1:
            which = [int(i) for i in np.flatnonzero(rows)]
            word = {1: ("elements",), 2: ("rows", "columns")}.get(right.ndim, ("entries",) * right.ndim)[axis]
            listed = f"[{', '.join(map(str, which[:8]))}{', …' if len(which) > 8 else ''}]"
            some = f"{word} {listed} of {name} are" if len(which) > 1 else f"{'entry' if word == 'entries' else word[:-1]} {which[0]} of {name} is"
            said.append(f"only {some} wrong (axis {axis})")
    with np.errstate(all="ignore"):
        ratio = {float(f"{v:.6g}") for v in (got[bad] / np.where(right[bad] == 0, np.nan, right[bad]))}
    if len(ratio) == 1 and bad.sum() > 1 and said:
        said.append(f"there it is {_factor(ratio.pop(), right.shape)} the right one")
    return said


def _factor(factor: float, shape: tuple[int, ...]) -> str:
    """2 times; 1/5 of (5 is the length of axis 1)."""
    for axis, n in enumerate(shape):
        if n > 1 and abs(factor * n - 1) < 1e-6:
            return f"1/{n} of (and {n} is the length of axis {axis})"
        if n > 2 and abs(factor - n) < 1e-6 * n:
            return f"{n} times (and {n} is the length of axis {axis})"
    return f"{factor:.6g} times"


def explain_pair(pair: PairResult, x: Array) -> None:
    """Adds findings to a pair that is wrong, or right only because the tolerance is wide.

    Args:
        pair: judged.
        x: the values of its input.
    """
    if pair.projected or not pair.analytic.size:
        return
    if pair.verdict == "ok":
        beyond = np.abs(pair.analytic - pair.numeric) - 100 * pair.error
        scale = np.abs(pair.told).max()
        largest = float(np.abs(pair.analytic - pair.numeric).max())
        if scale and beyond.max() > 1e-8 * scale and largest > 1e-7 * scale:
            pair.findings.append(
                f"within the tolerance, but the gradients differ by {largest / scale:.1e} of the largest, and the numeric one is good to "
                f"{float(pair.error.max() / scale):.0e}: a mistake that small (an eps forgotten?) passes at rtol={pair.rtol:g}; try rtol=1e-7, atol=1e-9"
            )
        return
    if pair.verdict != "wrong":
        return
    if not pair.connected:
        pair.findings.append(f"no gradient comes back to {pair.input}, which {pair.output} does depend on")
        return
    v = own_stream(5).standard_normal(len(pair.analytic)) + 0.3
    got, right = (v @ pair.analytic).reshape(pair.input_shape), (v @ np.where(np.isfinite(pair.numeric), pair.numeric, pair.analytic)).reshape(pair.input_shape)
    name = f"d{pair.input}"
    said = explain(got, right, name)
    outputs = pair.wrong_elements.any(axis=1).reshape(pair.output_shape)
    if not said or outputs.mean() < 0.5:
        for axis in range(outputs.ndim):
            rows = outputs.any(axis=tuple(a for a in range(outputs.ndim) if a != axis))
            if rows.any() and not rows.all():
                said.append(f"only what comes from {pair.output} at {[int(i) for i in np.flatnonzero(rows)[:8]]} of its axis {axis} is wrong")
    pair.findings += said + list(_statistics_terms(got - right, x, name) if not said else ())


def _statistics_terms(difference: Array, x: Array, name: str) -> Iterator[str]:
    """Whether what is too much is constant along an axis, or a multiple of the deviation x − mean(x): the two terms of a norm's dx."""
    for axis in range(difference.ndim):
        if difference.shape[axis] < 3:
            continue
        d = np.moveaxis(difference, axis, -1)
        centred = np.moveaxis(x - x.mean(axis=axis, keepdims=True), axis, -1)
        size = np.abs(d).max()
        if size and np.abs(d - d.mean(axis=-1, keepdims=True)).max() < 1e-6 * size:
            yield f"the error of {name} is the same all along axis {axis}: the path through a mean over that axis is wrong or missing"
            continue
        square = np.sum(centred * centred, axis=-1, keepdims=True)
        slope = np.sum(d * centred, axis=-1, keepdims=True) / np.where(square == 0, 1, square)
        if size and np.abs(d - slope * centred).max() < 1e-6 * size:
            yield f"the error of {name} is a multiple of x − mean(x) along axis {axis}: the path through the variance is wrong or missing"
            continue
        offset = d - slope * centred
        if size and np.abs(offset - offset.mean(axis=-1, keepdims=True)).max() < 1e-6 * size:
            yield (
                f"the error of {name} is a constant plus a multiple of x − mean(x) along axis {axis}: both statistics' paths, or one through an "
                "uncentred x, are wrong or missing"
            )


# -- 2. Where the recipe is blind -------------------------------------------------------------------------------------------------------


def blind_spots(target: Target, outputs: list[Named], cotangents: list[Array]) -> list[str]:
    """Mistakes of a norm, or of a user's own Function, that these inputs would let through; see power.py for how many.

    The nodes between outputs and inputs are looked at: what upstream gradient they get, their γ, their eps beside the variance, and
    how many samples there are.
    """
    nodes = [n for n in _nodes(outputs) if _is_norm(n) or _is_foreign(n)]
    if not nodes:
        return []
    places = [_output_of(node) for node in nodes]
    try:
        arriving = grad([n.tensor for n in outputs], places, [Tensor(v.copy()) for v in cotangents], retain_graph=True, allow_unused=True)
    except FAILURES:
        return []  # the check itself will say so
    said: list[str] = []
    for node, g in zip(nodes, arriving):
        what = type(node).__name__.removesuffix("Function")
        upstream = None if g is None else g._data
        if upstream is not None and upstream.size > 2 and np.ptp(upstream) <= 1e-12 * np.abs(upstream).max():
            said.append(
                f"{what}: the upstream gradient is the same number everywhere (sum() or mean() on the way?): most wrong gradients of a norm "
                "pass such a check; return the output itself, or weight it with random numbers"
            )
        if _is_norm(node):
            said += _norm_spots(node, what)
    if not any(_is_norm(n) for n in nodes):
        for n in target.inputs:
            x = n.tensor._data
            if x.size > 1 and np.all(x == 1):
                said.append(f"{n} is all ones: a backward that forgets to multiply by it, or does so twice, passes; use random values of both signs")
    return list(dict.fromkeys(said))


def _norm_spots(node: Any, what: str) -> Iterator[str]:
    x, weight, stats = (a._data if isinstance(a, Tensor) else a for a in node.saved_tensors)
    if weight is not None and weight.size > 1 and np.all(weight == 1):
        yield f"{what}: γ = 1 everywhere: a backward that forgets γ, or applies it twice, passes; set the weight to random values of both signs"
    rows = "LayerNorm" in what
    per = x.reshape(len(stats), -1) if rows else np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    if rows and len(per) == 1:
        yield f"{what}: there is one sample only: a dγ or dβ that forgets to sum over the batch, or a mean over all axes, passes"
    rstd = np.asarray(stats[:, 2] if rows else stats[2], np.float64)
    share = 1 - per.astype(np.float64).var(axis=1) * rstd * rstd  # eps/(var + eps)
    if per.size and share.max() < 1e-3:
        yield (
            f"{what}: eps is lost beside the variance (at most {max(float(share.max()), 0):.0e} of it): a backward that forgets eps passes; "
            "check once with eps=0.3 or so"
        )


def _nodes(outputs: list[Named]) -> list[Any]:
    seen: dict[int, Any] = {}
    stack = [n.tensor.grad_fn for n in outputs]
    while stack:
        node = stack.pop()
        if node is not None and id(node) not in seen:
            seen[id(node)] = node
            stack += [f for f, _ in node.next_functions]
    return list(seen.values())


def _is_norm(node: Any) -> bool:
    return type(node).__name__ in ("LayerNormFunction", "BatchNormFunction")


def _is_foreign(node: Any) -> bool:
    """A Function that is not of this library: a student's."""
    return isinstance(node, Function) and not type(node).__module__.startswith("tinygrad_norm.")


def _output_of(node: Any) -> Tensor:
    """A Tensor that stands where the node's first output stands in the graph."""
    shape, kind = node.outputs[0]
    place = Tensor(np.zeros(shape, kind))
    place._edge = node, 0
    return place
