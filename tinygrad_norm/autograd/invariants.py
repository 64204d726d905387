"""What holds for every normalization layer, whatever its numbers: checks with names that need no finite differences.

With x̂ = (x − μ)·rstd over M elements, y = γ⊙x̂ + β, and dx the gradient of any loss of y:

    dx sums to 0        Σ dx = 0                            y does not change when a constant is added to x           (1)
    dx ⟂ x − μ          Σ dx (x−μ) = eps·rstd² Σ dy (y−β)   y hardly changes when x is stretched around its mean: only by eps  (2)
    shift               y(x + c) = y(x)                                                                               (3)
    scale               y(a·x; a²·eps) = y(x): for the layer's own eps, up to ½ eps/var·|1 − 1/a²| of |y − β|         (4)
    groups              a change in one sample (LayerNorm) or channel (BatchNorm) moves no other                      (5)

all sums over the statistics' axes. (2) is exact; it needs no γ: Σ d⊙x̂ = Σ dy⊙(y − β), and β is halfway from y(x) to y(2μ − x), whose x̂ is
the opposite. A norm that leaves the mean where it is (RMSNorm) has (2) with μ = 0, (4) and (5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import nn
from ..tensor import Tensor
from ..walk import grad
from .report import Report
from .target import Array, Snapshot, function_name, modules_of, own_stream

__all__ = ["Invariant", "InvariantReport", "check_norm_invariants"]


class Invariant(NamedTuple):
    """One of them: its name, what it says, how far off it is, how far off it may be."""

    name: str
    says: str
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        return self.error <= self.bound


class InvariantReport(Report, list[Invariant]):
    """The invariants in order, as a list that prints as a table."""

    header = ("invariant", "", "off by", "allowed", "what it says")
    function = ""

    @property
    def ok(self) -> bool:
        """Whether all hold."""
        return all(i.ok for i in self)

    def __getitem__(self, key: Any) -> Any:
        """By number, or by name."""
        return next(i for i in self if i.name == key) if isinstance(key, str) else super().__getitem__(key)

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table."""
        return [(i.name, "holds" if i.ok else "BROKEN", f"{i.error:.1e}", f"{i.bound:.1e}", i.says) for i in self]

    @property
    def title(self) -> str:
        """Above the table."""
        return f"invariants of {self.function}"


def check_norm_invariants(
    norm: Callable[[Tensor], Tensor],
    x: Tensor,
    axes: Sequence[int] | None = None,
    *,
    eps: float | None = None,
    centred: bool | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> InvariantReport:
    """Whether a normalizing function keeps the invariants (1) to (5).

    Args:
        norm: takes x, returns y of its shape: a layer, or a function of x alone. In training where that makes a difference.
        x: any shape, floating point; more than one value for each statistic.
        axes: over which the statistics are taken; found out for the layers of nn.
        eps: the layer's own; found out for layers, 1e-5 for functions.
        centred: whether the norm subtracts the mean; found out for layers, True for functions.
        rtol: how far off relative to the terms of each sum; 1e4 roundings of x's type if None.
        seed: of dy and the shift.
    Returns:
        An InvariantReport: print it; `.ok`; `["shift"]`.
    Raises:
        TypeError: x is no floating point Tensor.
        ValueError: no axes for a function, or axes that x does not have; x is empty; eps is negative; eps is 0 and a variance is as well.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 3.0]], dtype=tg.float64)
        >>> report = tg.autograd.check_norm_invariants(tg.nn.LayerNorm(3).double(), x)
        >>> report.ok, [i.name for i in report]
        (True, ['dx sums to 0', 'dx ⟂ x − μ', 'shift', 'scale', 'groups'])
    """
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        raise TypeError(f"check_norm_invariants: x must be a floating point Tensor; got {x.dtype if isinstance(x, Tensor) else type(x).__name__}")
    if not x._data.size:
        raise ValueError(f"check_norm_invariants: x {tuple(x.shape)} is empty: there is nothing to take statistics of")
    name, shape = function_name(norm), x._data.shape
    small = _eps(norm, x) if eps is None else float(eps)
    if not 0 <= small < math.inf:
        raise ValueError(f"check_norm_invariants: eps must be >= 0; got {small}")
    subtracts = not isinstance(norm, nn.RMSNorm) if centred is None else centred
    layer = norm
    if isinstance(norm, nn.GroupNorm) and axes is None:  # its groups are no axis of x before x is looked at by groups
        x = x.detach().reshape(shape[0], norm.num_groups, -1)
        axes = (2,)

        def norm(values: Tensor) -> Tensor:
            return layer(values.reshape(shape)).reshape(x.shape)

    over = _axes(norm, x, axes)
    rng = own_stream(seed)
    values = x._data.copy()
    exact = values.astype(np.float64)
    mean = exact.mean(axis=over, keepdims=True) * subtracts
    var = ((exact - mean) ** 2).mean(axis=over, keepdims=True)
    if not np.all(var + small):
        raise ValueError("check_norm_invariants: where eps is 0 no variance may be; x has a statistic over values that are all the same: 0/0")
    tolerance = 1e4 * float(np.finfo(values.dtype).eps) if rtol is None else rtol
    snapshot = Snapshot(modules_of(layer))

    def f(array: Array) -> Array:
        try:
            return norm(Tensor(array.astype(values.dtype)))._data.astype(np.float64)
        finally:
            snapshot.restore()

    leaf = Tensor(values.copy(), True)
    dy = rng.standard_normal(values.shape) + 0.4
    try:
        y = norm(leaf)
        (dx_tensor,) = grad(y, leaf, Tensor(dy.astype(y._data.dtype)))
    finally:
        snapshot.restore()
    assert dx_tensor is not None
    dx, y0 = dx_tensor._data.astype(np.float64), y._data.astype(np.float64)
    beta = (y0 + f(2 * mean - exact)) / 2
    share = small / (var + small)

    def total(a: Array) -> Array:
        return np.asarray(a.sum(axis=over))

    report = InvariantReport()
    report.function = name
    where = f"over axes {tuple(over)}"
    upstream = total(np.abs(dy * (y0 - beta)))
    # The scale of a dx without its cancellation: |dy (y − β)| is |d x̂|, and dx is about rstd times that.
    size = upstream / np.sqrt(total(var + small + 0 * exact) / total(1 + 0 * exact))
    if subtracts:
        report.append(Invariant("dx sums to 0", f"Σ dx = 0 {where}", _worst(total(dx), size + total(np.abs(dx))), tolerance))
    right = total(share * dy * (y0 - beta))
    terms = upstream + total(np.abs(dx * (exact - mean)))
    along = "x − μ" if subtracts else "x"
    says = f"Σ dx·({along}) = eps·rstd²·Σ dy·(y − β), {float(np.max(np.abs(right) / np.maximum(terms, 1e-300), initial=0)):.0e} of its terms"
    report.append(Invariant(f"dx ⟂ {along}", says, _worst(total(dx * (exact - mean)) - right, terms), tolerance))
    spread = float(np.sqrt(var.max(initial=0)))
    centre = float(np.abs(mean).max(initial=0))
    shift = 3 * (spread or 1.0)
    reach = np.abs(y0 - beta).max(initial=0) + 1e-300
    lost = tolerance * (1 + (centre + shift) / max(float(np.sqrt(var.min(initial=1e300))), 1e-12))
    if subtracts:
        report.append(Invariant("shift", f"y(x + {shift:.3g}) = y(x)", float(np.abs(f(exact + shift) - y0).max(initial=0) / reach), lost))
    a = 2.0
    # (1 + e)^(−½) − (1 + e/a²)^(−½) is what eps makes of it, with e = eps/var.
    e = small / np.maximum(var, 1e-300)
    moved = np.abs((f(a * exact) - beta) * np.sqrt(1 + e / (a * a)) / np.sqrt(1 + e) - (y0 - beta)).max(initial=0)
    report.append(Invariant("scale", f"y({a:g}·x) = y(x), but for eps", float(moved / reach), lost))
    report.append(Invariant("groups", f"statistics are {where} and no others", _leak(f, exact, y0, over) / float(reach), lost))
    return report


def _worst(error: Array, scale: Array) -> float:
    return float(np.max(np.abs(error) / np.maximum(scale, 1e-300), initial=0))


def _eps(norm: Any, x: Tensor) -> float:
    own = getattr(norm, "epsilon", getattr(norm, "eps", 1e-5))
    return float(np.finfo(x._data.dtype).eps if own is None else own)


def _axes(norm: Any, x: Tensor, axes: Sequence[int] | None) -> tuple[int, ...]:
    n = x._data.ndim
    if axes is None:
        if hasattr(norm, "normalized_shape"):
            axes = range(n - len(norm.normalized_shape), n)
        elif hasattr(norm, "num_features") and isinstance(norm, nn.Module):
            if not norm.training and getattr(norm, "running_mean", None) is not None:
                raise ValueError("check_norm_invariants: in eval a BatchNorm scales by constants and has none of the invariants: call train()")
            axes = [n - 1] if isinstance(norm, nn.InstanceNorm1d) else [a for a in range(n) if a != 1]
        elif isinstance(norm, nn.LayerNormalization):
            axes = norm.axis if isinstance(norm.axis, list) else [norm.axis]
        else:
            raise ValueError("check_norm_invariants: say over which axes the function normalizes, as axes=(-1,)")
    found = tuple(sorted(a % n if -n <= a < n else a for a in axes))
    if not found or any(not 0 <= a < n for a in found):
        raise ValueError(f"check_norm_invariants: x has {n} axes; got axes={tuple(axes)}")
    if int(np.prod([x._data.shape[a] for a in found])) < 2:
        raise ValueError(f"check_norm_invariants: x {tuple(x.shape)} has one value for each statistic over axes {found}: its output is constant")
    return found


def _leak(f: Callable[[Array], Array], x: Array, y: Array, over: tuple[int, ...]) -> float:
    """How much the other groups move when the first one changes."""
    others = [a for a in range(x.ndim) if a not in over]
    first = tuple(0 if a in others else slice(None) for a in range(x.ndim))
    moved = x.copy()
    moved[first] = moved[first] * -1.7 + 0.9
    difference = np.abs(f(moved) - y)
    difference[first] = 0
    return float(difference.max(initial=0))
