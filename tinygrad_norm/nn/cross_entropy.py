"""Cross-entropy, with the softmax inside.

For the logits x of one row, C classes, with a target distribution q over them:

    m = maxₖ xₖ,   s = Σₖ e^(xₖ − m),   ℓₖ = −ln softmax(x)ₖ = ln s − (xₖ − m)                        (1)
    loss = Σₖ qₖ ℓₖ                                                                                  (2)

A target class t is q = o, one-hot at t, and the loss is ℓₜ. Class weights w and label smoothing ε (Szegedy et al. 2016,
arXiv:1512.00567, sec. 7) change only q:

    qₖ = (1 − ε) wₜ oₖ + (ε/C) wₖ                                                                    (3)

and the mean over rows divides by W = Σ_rows wₜ, which is their number N where there are no weights. Rows whose target is `ignore_index`
count neither above nor below.

Softmax and logarithm are one op here. Apart they would lose: ln of an underflowed softmax is −inf, where (1) is exact at logits of 10⁴;
and the two Jacobians, multiplied out, leave almost nothing to compute (5).

    1. Forward   2. Backward   3. On the graph, and the second derivative   4. For users
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..function import Function
from ..grad_mode import is_grad_enabled
from ..kernel import device, kernel, prange, ready
from ..ops.operands import check_tensor
from ..tensor import Tensor
from .module import Module
from .softmax import EXP_WORK, exp_below, is_double, largest, log_softmax, rows_along, rows_back

__all__ = ["CrossEntropyLoss", "cross_entropy"]

Array = np.ndarray[Any, Any]

# -- 1. Forward -----------------------------------------------------------------------------------------------------------------------
#
# On the rows of x (N, C) and target (N). `stats` keeps m and 1/s of each row, from which the backward has the softmax back without a sum.
# weight and smoothing are None where there are none: numba settles an `is None` by the argument's type, so the plain case is compiled
# without them. A target out of bounds is only counted; nothing has been changed when the caller raises.
#
# dx, where it is not empty, becomes the gradient (5) of the mean. The exponentials are at hand here; the backward would take them once more,
# and at (4096, 1000) they are nearly all of the time: 0.8 ms for forward and backward, 1.2 with the exponentials in both.


def distribution(target: Array, weight: Array | None, smoothing: float | None, ignore: int, like: Array) -> tuple[Array, Array]:
    """Equation (3): q (N, C), zero in ignored rows; and which rows are kept (N, 1)."""
    kept = (target != ignore)[:, None]
    w = np.ones(like.shape[1], like.dtype) if weight is None else weight
    q = np.zeros_like(like)
    rows = np.flatnonzero(kept)
    q[rows, target[rows]] = w[target[rows]]
    if smoothing is not None:
        q = ((1 - smoothing) * q + kept * (smoothing / max(like.shape[1], 1) * w)).astype(like.dtype)
    return q, kept


def cross_entropy_forward_reference(
    x: Array,
    target: Array,
    weight: Array | None,
    smoothing: float | None,
    ignore: int,
    double: bool | None,
    losses: Array,
    stats: Array,
    dx: Array,
) -> tuple[int, float, float, float]:
    """Equations (1) to (3): fills losses, stats and dx; how many targets are out of bounds, W, the sum of losses, their mean."""
    kept = target != ignore
    bad = int((kept & ((target < 0) | (target >= x.shape[1]))).sum())
    if bad:
        return bad, 0.0, 0.0, 0.0
    q, _ = distribution(target, weight, smoothing, ignore, x)
    m = x.max(axis=1, keepdims=True, initial=-np.inf)
    s = np.exp(x - m).sum(axis=1, keepdims=True)
    ell = np.log(s) - (x - m)
    at = np.arange(x.shape[1]) == target[:, None]
    counts = kept[:, None] & (at if smoothing is None else True)  # elsewhere q is 0, and 0·inf must not come in
    losses[:] = np.where(counts, q * ell, 0).sum(axis=1)
    stats[:] = np.where(kept[:, None], np.concatenate([m, 1 / s], axis=1), 0)
    total = losses.sum(dtype=np.float64)
    norm = np.float64(kept.sum() if weight is None else weight[target[kept]].sum(dtype=np.float64))
    if len(dx):
        cross_entropy_backward_reference(np.ones(1, x.dtype), x, target, weight, smoothing, ignore, float(norm), double, stats, dx)
    return bad, float(norm), float(total), float(total / norm)


@device
def cost(x, m, log_s):  # type: ignore[no-untyped-def]
    """ℓ of one class, (1), in this order: (ln s + m) − x would lose ln s at logits of 10⁴. Callers add it: LLVM reorders what is subtracted."""
    return log_s - (x - m)


@kernel(reference=cross_entropy_forward_reference)
def cross_entropy_forward(x, target, weight, smoothing, ignore, double, losses, stats, dx):  # type: ignore[no-untyped-def]
    rows, classes = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)
    bad, norm = 0, np.float64(0)  # not 0.0, by which Python cannot divide: it runs this as well, in the tests
    for n in range(rows):
        t = target[n]
        if t != ignore:
            if t < 0 or t >= classes:
                bad += 1
            else:
                norm += one if weight is None else weight[t]
    if bad > 0:
        return bad, 0.0, 0.0, 0.0
    u = x.dtype.type(1.0 / norm)
    for n in prange(rows):
        t = target[n]
        losses[n], stats[n, 0], stats[n, 1] = zero, zero, zero
        if t != ignore:
            m = largest(x, n, double)
            s = zero
            if len(dx) > 0:
                for k in range(classes):
                    e = exp_below(x[n, k] - m, double)
                    dx[n, k] = e
                    s += e
                from_exponentials(dx, n, t, u, one / s, weight, smoothing)  # (5)
            else:
                for k in range(classes):
                    s += exp_below(x[n, k] - m, double)
            log_s = np.log(s)
            loss = cost(x[n, t], m, log_s)  # (1), (2)
            if weight is not None:
                loss *= weight[t]
            if smoothing is not None:
                rest = zero
                for k in range(classes):
                    rest += (one if weight is None else weight[k]) * cost(x[n, k], m, log_s)
                loss = x.dtype.type(1 - smoothing) * loss + x.dtype.type(smoothing / classes) * rest  # (3)
            losses[n], stats[n, 0], stats[n, 1] = loss, m, one / s
        elif len(dx) > 0:
            for k in range(classes):
                dx[n, k] = zero
    total = 0.0
    for n in range(rows):
        total += losses[n]
    return bad, norm, total, total / norm


# -- 2. Backward ----------------------------------------------------------------------------------------------------------------------
#
# With p the softmax of the row, ∂(ln s + m)/∂xⱼ = pⱼ (m drops out: adding a number to a row changes no softmax), so from (1)
#
#     ∂ℓₖ/∂xⱼ = pⱼ − δₖⱼ                                                                              (4)
#
# and from (2), with Q = Σₖ qₖ and u the gradient that comes from above to this row, divided by W for a mean,
#
#     dxⱼ = u Σₖ qₖ (pⱼ − δₖⱼ) = u (Q pⱼ − qⱼ)                                                        (5)
#
# For a plain class target q = o and Q = 1:   dx = u (p − o), with u = dy/N for the mean. Each row of dx sums to 0.


def cross_entropy_backward_reference(
    dy: Array,
    x: Array,
    target: Array,
    weight: Array | None,
    smoothing: float | None,
    ignore: int,
    norm: float,
    double: bool | None,
    stats: Array,
    dx: Array,
) -> None:
    """Equation (5) on the rows of x; dy has one element, or one a row."""
    q, kept = distribution(target, weight, smoothing, ignore, x)
    u = (dy[:, None] / np.float64(norm)).astype(x.dtype)
    p = np.exp(x - stats[:, 0:1]) * stats[:, 1:2]
    dx[:] = np.where(kept, u * q.sum(axis=1, keepdims=True) * p - np.where(q == 0, 0, u * q), 0)  # an infinite u must not meet q = 0


@device
def from_exponentials(dx, n, t, u, over_s, weight, smoothing):  # type: ignore[no-untyped-def]
    """Row n of dx, in which the exponentials of (1) stand, becomes u (Q p − q), (5)."""
    classes = dx.shape[1]
    one = dx.dtype.type(1)
    hit = u  # u·(q's part at t)
    if weight is not None:
        hit *= weight[t]
    if smoothing is not None:
        hit *= dx.dtype.type(1 - smoothing)
    whole = hit  # u Q
    if smoothing is not None:
        off = u * dx.dtype.type(smoothing / classes)
        if weight is None:
            whole = u  # Q is 1
        else:
            mass = 0.0
            for k in range(classes):
                mass += weight[k]
            whole += off * dx.dtype.type(mass)
    scale = whole * over_s
    for k in range(classes):
        dx[n, k] *= scale  # u Q p
    dx[n, t] -= hit
    if smoothing is not None:
        for k in range(classes):
            dx[n, k] -= off * (one if weight is None else weight[k])


@kernel(reference=cross_entropy_backward_reference)
def cross_entropy_backward(dy, x, target, weight, smoothing, ignore, norm, double, stats, dx):  # type: ignore[no-untyped-def]
    rows, classes = x.shape
    stride = 1 if len(dy) > 1 else 0
    for n in prange(rows):
        t = target[n]
        if t == ignore:
            for k in range(classes):
                dx[n, k] = 0
        else:
            m = stats[n, 0]
            for k in range(classes):
                dx[n, k] = exp_below(x[n, k] - m, double)
            from_exponentials(dx, n, t, x.dtype.type(dy[n * stride] / norm), stats[n, 1], weight, smoothing)  # (5)


# -- 3. On the graph, and the second derivative ---------------------------------------------------------------------------------------
#
# The backward is an op of its own: dx as a function of dy and x. Let v be the gradient of its output dx. From (5), for one row,
#
#     gradient of dy:  1/W Σⱼ vⱼ (Q pⱼ − qⱼ)           (summed over the rows where dy is one number)  (6)
#
# and since ∂pⱼ/∂xᵢ = pⱼ (δᵢⱼ − pᵢ), and q is constant,
#
#     gradient of x:   Σⱼ vⱼ u Q pⱼ (δᵢⱼ − pᵢ) = u Q pᵢ (vᵢ − Σⱼ pⱼ vⱼ)                               (7)
#
# (7) is the Hessian, u Q (diag p − p pᵀ), times v. vᵀ times that is u Q times the variance of v under p, which is never negative:
# cross-entropy is convex in its logits.


# What a loss is measured against, as kernels take it: labels (rows), weight (C), smoothing, ignore_index; copies, so that the caller may
# change its own before the backward.
Target = tuple[Array, Array | None, float | None, int]


class CrossEntropyFunction(Function):
    """The loss of logits against a target: (1) to (3); with a mean comes its gradient (5), for an upstream gradient of 1."""

    name = "NllLossBackward0"
    fresh_gradients = True
    ready_dx: Iterator[Array] = iter(())  # of one gradient or none: next() hands it to one thread alone

    def forward(self, x: Array, *, target: Target, reduction: str, shape: tuple[int, ...]) -> Array:
        axes, kind = x.ndim, x.dtype
        rows = rows_along(x, 1 if axes > 1 else 0)
        count, classes = rows.shape
        losses, stats = np.empty(count, kind), np.empty((count, 2), kind)
        at_once = reduction == "mean" and self.edges[0] is not None
        dx = np.empty((count, classes), kind) if at_once else rows[:0]
        labels, weight, smoothing, ignore = target
        bad, norm, total, mean = cross_entropy_forward[EXP_WORK * count * classes](
            rows, labels, weight, smoothing, ignore, is_double(x), losses, stats, dx
        )
        if bad:
            raise out_of_bounds(labels, classes, ignore)
        self.target, self.stats = target, stats
        if at_once:
            self.ready_dx = iter((dx,))
        self.norm = norm if reduction == "mean" else 1.0
        self.save_for_backward(x)
        if axes > 2:
            self.name = "NllLoss2DBackward0"
        if reduction == "none":
            return losses.reshape(shape)
        return np.array(mean if reduction == "mean" else total, kind)

    def backward(self, dy: Any) -> Any:
        (x,) = self.saved_tensors
        dx = next(self.ready_dx, None)  # given away once: a second backward through a graph that was retained computes it anew
        if isinstance(dy, Tensor):
            return CrossEntropyBackward.apply(dy, x, target=self.target, stats=self.stats, norm=self.norm)
        if dx is not None and dy.item() == 1:
            return dx if x.ndim == 2 else rows_back(dx, x.shape, 1 if x.ndim > 1 else 0)
        return _input_gradient(dy, x, self.target, self.stats, self.norm)  # not by `on`: a node for nothing is a microsecond of every small step


def _input_gradient(dy: Array, x: Array, target: Target, stats: Array, norm: float) -> Array:
    """Equation (5), in the shape of x."""
    axis = 1 if x.ndim > 1 else 0
    rows = rows_along(x, axis)
    dx = np.empty(rows.shape, x.dtype)
    cross_entropy_backward[EXP_WORK * x.size](ready(dy).reshape(-1), rows, *target, norm, is_double(x), stats, dx)
    return rows_back(dx, x.shape, axis)


class CrossEntropyBackward(Function):
    """dx of dy and x, by (5); its own gradient, the second derivative, is (6) and (7)."""

    name = "NllLossBackwardBackward0"
    once_differentiable = True

    def forward(self, dy: Array, x: Array, *, target: Target, stats: Array, norm: float) -> Array:
        self.save_for_backward(dy, x)
        self.target, self.stats, self.norm = target, stats, norm
        return _input_gradient(dy, x, target, stats, norm)

    def backward(self, v: Array) -> Any:
        dy, x = self.saved_tensors
        axis = 1 if x.ndim > 1 else 0
        rows, v = rows_along(x, axis), rows_along(v, axis)
        q, kept = distribution(*self.target, rows)
        whole = q.sum(axis=1, keepdims=True)  # Q (N, 1)
        norm = np.float64(self.norm)
        u = dy.reshape(-1, 1) / norm  # (N, 1), or (1, 1) where all rows were summed
        p = np.where(kept, np.exp(rows - self.stats[:, 0:1]) * self.stats[:, 1:2], 0)
        gradient_dy = (v * (whole * p - q)).sum(axis=1) / norm  # (6)
        gradient_x = np.where(kept, u * whole * p * (v - (p * v).sum(axis=1, keepdims=True)), 0)  # (7)
        return (gradient_dy if dy.size == len(rows) else gradient_dy.sum()).reshape(dy.shape), rows_back(gradient_x, x.shape, axis)


# -- 4. For users ---------------------------------------------------------------------------------------------------------------------


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """−ln softmax(input) at the target class, or its mean under target probabilities: (1) to (3) above.

    Differs from torch on purpose: an ignored row has gradient 0 also where it holds NaN or inf; a negative label_smoothing raises.

    Args:
        input: logits (C), (N, C) or (N, C, d1, …), float32 or float64; not probabilities: the softmax is inside.
        target: classes (), (N) or (N, d1, …), int64; or probabilities of input's shape, floating point.
        weight: of each class, (C), of input's type.
        ignore_index: rows with this target count neither in the sum nor in what the mean divides by.
        reduction: "none", "sum", or "mean": divided by the weights of the targets, for probabilities by N.
        label_smoothing: ε, from 0 to 1: the part of the target that is spread evenly over all classes.
    Returns:
        A 0-d Tensor; for "none", of the target's shape without its class axis. The mean of no rows is NaN.
    Raises:
        IndexError: a target class out of bounds. ValueError: batch sizes that differ; an input without axes; an unknown reduction.
        RuntimeError: other shapes or types that do not fit; label_smoothing out of range.
        NotImplementedError: input is not floating point.

    Example:
        >>> import tinygrad_norm as tg
        >>> logits = tg.tensor([[0.0, 0.0], [1000.0, 0.0]], requires_grad=True)
        >>> loss = tg.nn.functional.cross_entropy(logits, tg.tensor([0, 0]))
        >>> loss
        tensor(0.3466, grad_fn=<NllLossBackward0>)
        >>> loss.backward()
        >>> logits.grad
        tensor([[-0.2500,  0.2500],
                [ 0.0000,  0.0000]])
    """
    if not isinstance(input, Tensor) or not isinstance(target, Tensor):
        check_tensor(input, "cross_entropy")
        check_tensor(target, "cross_entropy")
    if reduction != "mean" or type(ignore_index) is not int:
        check_options("cross_entropy", reduction, ignore_index)
    if label_smoothing:
        _check_smoothing(label_smoothing)
    x, t = input._data, target._data
    shape, labelled = x.shape, t.shape
    if x.dtype.kind != "f":
        raise NotImplementedError(f"cross_entropy is not implemented for {input.dtype}: logits are floating point; convert them with .float()")
    if shape == labelled and shape:
        return _with_probabilities(input, target, weight, ignore_index, reduction, float(label_smoothing))
    check_classes("cross_entropy", input, target, weight)
    if not x.size and (t != ignore_index).any():
        raise out_of_bounds(t, 0, int(ignore_index))
    smoothing = float(label_smoothing) if label_smoothing else None
    against = t.flatten(), None if weight is None else weight._data.copy(), smoothing, int(ignore_index)
    loss: Tensor = CrossEntropyFunction.apply(input, target=against, reduction=reduction, shape=labelled if len(shape) > 1 else ())
    return loss


def _with_probabilities(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float) -> Tensor:
    """(2) in primitives: the target may require a gradient as well."""
    if target._data.dtype.kind != "f":
        raise RuntimeError(
            f"Expected floating point type for target with class probabilities, got {target.dtype}: a target of the input's shape "
            f"{list(input.shape)} holds probabilities; class indices have no class axis"
        )
    if ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target: give such rows the probabilities 0")
    axis = 1 if input._data.ndim > 1 else 0
    classes = input._data.shape[axis]
    q = target if not smoothing else target * (1 - smoothing) + smoothing / max(classes, 1)
    if weight is not None:
        _check_weight("cross_entropy", weight, classes)
        q = q * weight.reshape(classes, *(1,) * (input._data.ndim - 1 - axis))
    losses: Tensor = -(q * log_softmax(input, axis)).sum(dim=axis)
    if reduction == "none":
        return losses
    rows = input._data.size // classes if classes else 0
    return losses.sum() if reduction == "sum" else losses.sum() / rows


def check_options(op: str, reduction: Any, ignore_index: Any = -100) -> None:
    """The options of a loss are known ones: ValueError or TypeError otherwise."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction: it is 'mean', 'sum' or 'none'")
    if type(ignore_index) is not int and not isinstance(ignore_index, np.integer):
        raise TypeError(f"{op}: ignore_index must be an integer; got {type(ignore_index).__name__}")


def _check_smoothing(smoothing: Any) -> None:
    if isinstance(smoothing, bool) or not isinstance(smoothing, (int, float, np.floating)):
        raise TypeError(f"cross_entropy: label_smoothing must be a number; got {type(smoothing).__name__}")
    if not 0 <= smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {smoothing}")


def check_classes(op: str, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
    """The target holds one class for each row of the input, and the weight one number for each class: RuntimeError or ValueError otherwise."""
    x, t = input._data.shape, target._data.shape
    if target._data.dtype.kind != "i":
        hint = f"; probabilities would have the input's shape {list(x)}, not {list(t)}" if op == "cross_entropy" else ""
        raise RuntimeError(f"{op}: expected target dtype to be Long, the int64 of class indices, but got {target.dtype}{hint}")
    if t != x[:1] or len(x) != 2:
        if not x:
            raise ValueError(f"{op}: Expected 1 or more dimensions (got 0): the input is (C), (N, C) or (N, C, d1, …)")
        if len(x) == 1 and t not in ((), (1,)):
            if len(t) > 1:
                raise RuntimeError(f"0D or 1D target tensor expected, multi-target not supported: the input is {list(x)}, the target {list(t)}")
            raise ValueError(f"For 1D input, 1D target must have size 1, but got target size: {t[0]}")
        if len(x) > 1 and (not t or t[0] != x[0]):
            raise ValueError(f"Expected input batch_size ({x[0]}) to match target batch_size ({t[0] if t else 0}).")
        if len(x) == 2 and len(t) != 1:
            raise RuntimeError(f"0D or 1D target tensor expected, multi-target not supported: the input is {list(x)}, the target {list(t)}")
        if len(x) > 2 and t != (x[0], *x[2:]):
            raise RuntimeError(f"Expected target size {[x[0], *x[2:]]}, got {list(t)}: the input's {list(x)} without its class axis")
    if weight is not None:
        _check_weight(op, weight, x[0] if len(x) == 1 else x[1])
        if weight._data.dtype != input._data.dtype:
            raise RuntimeError(f"{op}: expected scalar type {input.dtype} of the input but found {weight.dtype} for weight: convert one of them")
        if weight.requires_grad and is_grad_enabled():
            raise RuntimeError(f"{op} is not differentiable with respect to argument 'weight'. This input cannot have requires_grad True.")


def _check_weight(op: str, weight: Any, classes: int) -> None:
    check_tensor(weight, op)
    if weight._data.shape != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes but got weight tensor of shape: {list(weight.shape)}"
        )


def out_of_bounds(target: Array, classes: int, ignore: int) -> IndexError:
    """The error for the first target that is no class."""
    first = target[(target != ignore) & ((target < 0) | (target >= classes))][0]
    return IndexError(f"Target {first} is out of bounds. There are {classes} classes: targets are 0 to {classes - 1}, or ignore_index, {ignore}")


class CrossEntropyLoss(Module):
    """−ln softmax(input) at the target class: softmax, logarithm and loss in one, as `cross_entropy`.

    Args:
        weight: of each class, (C); kept as a buffer.
        ignore_index: rows with this target do not count.
        reduction: "mean", "sum" or "none".
        label_smoothing: ε, from 0 to 1.

    Example:
        >>> import tinygrad_norm as tg
        >>> criterion = tg.nn.CrossEntropyLoss()
        >>> criterion(tg.zeros(3, 2), tg.tensor([0, 1, 1]))
        tensor(0.6931)
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Logits (C), (N, C) or (N, C, d1, …) and their targets to the loss."""
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
