"""Batch normalization (Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 1): each channel by the statistics of the batch.

For one channel c, over its M = N·L values in the batch (x is (N, C), L = 1, or (N, C, L)), with learned γ (weight) and β (bias):

    μ = 1/M Σ x                                                                                     (1)
    var = 1/M Σ (x − μ)²,   rstd = (var + eps)^(−½)                                                 (2)
    x̂ = (x − μ)·rstd                                                                                (3)
    y = γ x̂ + β                                                                                     (4)

In training the samples of a batch meet in μ and var, and running averages are kept; in eval those take the place of (1) and (2), and
each sample stands alone:

    running_mean ← (1 − momentum)·running_mean + momentum·μ                                         (5)
    running_var  ← (1 − momentum)·running_var  + momentum·var·M/(M − 1)                             (6)

    convention          torch BatchNorm1d                       Keras BatchNormalization
    eps                 1e-5                                    1e-3
    momentum            0.1, the weight of the new value        0.99, the weight of the old value
    running variance    unbiased (6); normalizes by the biased  biased in both places
    names               weight, bias, running_mean/_var         gamma, beta, moving_mean/_variance
    channels            axis 1                                  the last axis
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..function import Function
from ..grad_mode import mode
from ..kernel import APART, get_num_threads, kernel, prange, ready
from ..ops.operands import as_array, check_tensor, constant, sum_over
from ..tensor import Tensor, check_writable, touch
from .norm import ChannelNorm, check_eps, check_number

Array = np.ndarray[Any, Any]
FEW = 32  # rows whose mean is the first p
BLOCK, BLOCK_ROWS = 1 << 16, 1024  # elements, and rows, of a block: what the second look still finds in the cache, and short float32 sums

# -- 1. Forward, in training ----------------------------------------------------------------------------------------------------------
#
# `stats` (3, C) is what the elements are normalized with: μ as x's type can hold it, what rounding left of it times rstd, and rstd, so
# that x̂ = (x − μ)·rstd − shift is right at a large mean too. The running statistics are None where none are kept.
#
# E[x²] − E[x]² would be one look at the data and useless at a large mean. About a number p near to μ it is as good as two looks: of n
# values,
#
#     r = 1/n Σ (x − p),   μ = p + r,   S = Σ (x − μ)² = Σ (x − p)² − n r²
#
# p is the mean of the rows so far, at first of a few, which are looked at twice; a mean of more rows would be off by more roundings, and n r²
# by as much. Blocks are joined by the formula of Chan, Golub & LeVeque 1979: with n, μ, S of two parts a and b, and δ = μ_b − μ_a,
#
#     μ = μ_a + δ n_b/n,   S = S_a + S_b + δ² n_a n_b/n                                               (7)
#
# Rows are taken one after the other, as memory is read ahead. Four at a time, for a quarter of the traffic through the sums, make the
# whole 2 % faster at (256, 1024), which fits the cache, and 13 % at (8192, 4096), whose sums do not fit the first cache; 4 to 8 %
# slower at (4096, 768) and (65536, 64).


def channels(x: Array, values: Array) -> Array:
    """Values of the C channels, shaped to broadcast with x (N, C) or (N, C, L)."""
    return values if x.ndim == 2 else values[:, None]


def batch_norm_forward_reference(
    x: Array, weight: Array, bias: Array, eps: float, y: Array, stats: Array, running_mean: Any, running_var: Any, momentum: float, chunks: int
) -> None:
    """Equations (1) to (6) over all axes but the channels'."""
    axes = (0,) if x.ndim == 2 else (0, 2)
    mean = x.mean(axis=axes, dtype=np.float64)
    stats[0] = mean
    rest = mean - stats[0]
    centred = (x - channels(x, stats[0])) - channels(x, rest)
    var = (centred * centred).mean(axis=axes, dtype=np.float64)
    rstd = 1 / np.sqrt(var + eps)
    stats[1], stats[2] = rest * rstd, rstd
    y[:] = centred * channels(x, rstd) * channels(x, weight) + channels(x, bias)
    if running_mean is not None:
        m = x.size // len(weight)
        running_mean[:] = (1 - momentum) * running_mean + momentum * mean
        running_var[:] = (1 - momentum) * running_var + momentum * (var * m / (m - 1))


@kernel(reference=batch_norm_forward_reference)
def batch_norm_forward(x, weight, bias, eps, y, stats, running_mean, running_var, momentum, chunks):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    block = max(1, min(BLOCK // width, BLOCK_ROWS))
    # np.empty, not np.zeros: in a parallel kernel numba fills by a parallel region of its own, of up to 6 µs each.
    total = np.empty((chunks, 3, width + APART), x.dtype)  # of one block: p, Σ(x − p), Σ(x − p)²
    joined = np.empty((chunks, 2, width + APART), np.float64)  # of a chunk so far: μ and S
    for c in prange(chunks):
        first, stop = c * rows // chunks, (c + 1) * rows // chunks
        for j in range(width):
            joined[c, 0, j] = 0
            joined[c, 1, j] = 0
            total[c, 0, j] = 0
        for start in range(first, stop, block):
            end = min(start + block, stop)
            if start == first:
                stop_p = min(start + FEW, end)
                n = x.dtype.type(stop_p - start)
                for i in range(start, stop_p):
                    for j in range(width):
                        total[c, 0, j] += x[i, j]
                for j in range(width):
                    total[c, 0, j] /= n
            for j in range(width):
                total[c, 1, j] = 0
                total[c, 2, j] = 0
            for i in range(start, end):
                for j in range(width):
                    centred = x[i, j] - total[c, 0, j]
                    total[c, 1, j] += centred
                    total[c, 2, j] += centred * centred
            before, now = float(start - first), float(end - start)
            for j in range(width):
                rest = np.float64(total[c, 1, j]) / now
                delta = total[c, 0, j] + rest - joined[c, 0, j]
                joined[c, 0, j] += delta * (now / (before + now))  # (7)
                inner = total[c, 2, j] - rest * rest * now
                inner = 0.0 if inner < 0 else inner  # of a constant channel what rounding left
                joined[c, 1, j] += inner + delta * delta * (before * now / (before + now))  # (7)
                total[c, 0, j] = joined[c, 0, j]
    for c in range(1, chunks):
        before, now = float(c * rows // chunks), float((c + 1) * rows // chunks - c * rows // chunks)
        share = now / (before + now) if now > 0 else 0.0
        for j in range(width):
            delta = joined[c, 0, j] - joined[0, 0, j]
            joined[0, 0, j] += delta * share  # (7)
            joined[0, 1, j] += joined[c, 1, j] + delta * delta * (before * share)
    for j in range(width):
        mu, var = joined[0, 0, j], joined[0, 1, j] / rows
        rstd = 1.0 / math.sqrt(var + eps)  # (2)
        stats[0, j] = mu
        stats[1, j], stats[2, j] = (mu - stats[0, j]) * rstd, rstd
        total[0, 0, j] = stats[2, j] * weight[j]
        total[0, 1, j] = bias[j] - stats[1, j] * weight[j]
        if running_mean is not None:
            running_mean[j] = (1 - momentum) * running_mean[j] + momentum * mu  # (5)
            running_var[j] = (1 - momentum) * running_var[j] + momentum * (var * rows / (rows - 1))  # (6)
    for i in prange(rows):
        for j in range(width):
            y[i, j] = (x[i, j] - stats[0, j]) * total[0, 0, j] + total[0, 1, j]  # (3), (4)


@kernel(reference=batch_norm_forward_reference)
def batch_norm_forward_3d(x, weight, bias, eps, y, stats, running_mean, running_var, momentum, chunks):  # type: ignore[no-untyped-def]
    samples, width, length = x.shape
    m = np.float64(samples * length)
    zero = x.dtype.type(0)
    for c in prange(width):  # a channel's L values lie together: each is done with while it is in the cache
        sum_x = 0.0
        for i in range(samples):
            part = zero
            for k in range(length):
                part += x[i, c, k]
            sum_x += part
        mean = x.dtype.type(sum_x / m)  # (1)
        sum_off, sum_square = 0.0, 0.0
        for i in range(samples):
            off, square = zero, zero
            for k in range(length):
                centred = x[i, c, k] - mean
                off += centred
                square += centred * centred
            sum_off += off
            sum_square += square
        rest64 = sum_off / m
        var = sum_square / m - rest64 * rest64
        var = 0.0 if var < 0 else var  # of a constant channel what rounding left
        if running_mean is not None:
            running_mean[c] = (1 - momentum) * running_mean[c] + momentum * (mean + rest64)  # (5)
            running_var[c] = (1 - momentum) * running_var[c] + momentum * (var * m / (m - 1))  # (6)
        rstd = x.dtype.type(1.0 / math.sqrt(var + eps))  # (2)
        shift = x.dtype.type(rest64 * rstd)
        stats[0, c], stats[1, c], stats[2, c] = mean, shift, rstd
        for i in range(samples):
            for k in range(length):
                y[i, c, k] = ((x[i, c, k] - mean) * rstd - shift) * weight[c] + bias[c]  # (3), (4)


# -- 2. Backward, in training ---------------------------------------------------------------------------------------------------------
#
# All is as in layer normalization (layer_norm.py, equations 5 to 8), with the M values of a channel in the place of the D of a row. γ is
# one number there, so it can stand before the whole:
#
#     dγ = Σ dy x̂,   dβ = Σ dy                                                                      (8)
#     ∂x̂ᵢ/∂xⱼ = rstd (δᵢⱼ − 1/M − x̂ᵢ x̂ⱼ/M)
#     dx = γ rstd (dy − dβ/M − x̂ dγ/M)                                                               (9)


def batch_norm_backward_reference(dy: Array, x: Array, weight: Array, stats: Array, dx: Array, dweight: Array, dbias: Array, chunks: int) -> None:
    """Equations (8) and (9) over all axes but the channels'."""
    axes = (0,) if x.ndim == 2 else (0, 2)
    m = x.size // len(weight)
    mean, shift, rstd = (channels(x, s) for s in stats)
    xhat = (x - mean) * rstd - shift
    dweight[:] = (dy * xhat).sum(axis=axes, dtype=np.float64)
    dbias[:] = dy.sum(axis=axes, dtype=np.float64)
    dx[:] = channels(x, weight) * rstd * (dy - channels(x, dbias / m) - xhat * channels(x, dweight / m))


@kernel(reference=batch_norm_backward_reference)
def batch_norm_backward(dy, x, weight, stats, dx, dweight, dbias, chunks):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    block = max(1, min(BLOCK // width, BLOCK_ROWS))
    m = x.dtype.type(rows)
    total = np.empty((chunks, 3, width + APART), x.dtype)  # of one block: Σ dy (x − mean), Σ dy
    joined = np.empty((chunks, 2, width + APART), np.float64)
    for c in prange(chunks):
        first, stop = c * rows // chunks, (c + 1) * rows // chunks
        for j in range(width):
            joined[c, 0, j] = 0
            joined[c, 1, j] = 0
        for start in range(first, stop, block):  # float32 sums stay short; their sum is float64
            for j in range(width):
                total[c, 0, j] = 0
                total[c, 1, j] = 0
            for i in range(start, min(start + block, stop)):
                for j in range(width):
                    total[c, 0, j] += dy[i, j] * (x[i, j] - stats[0, j])
                    total[c, 1, j] += dy[i, j]
            for j in range(width):
                joined[c, 0, j] += total[c, 0, j]
                joined[c, 1, j] += total[c, 1, j]
    for c in range(1, chunks):
        for j in range(width):
            joined[0, 0, j] += joined[c, 0, j]
            joined[0, 1, j] += joined[c, 1, j]
    for j in range(width):
        dweight[j], dbias[j] = joined[0, 0, j] * stats[2, j] - joined[0, 1, j] * stats[1, j], joined[0, 1, j]  # (8)
        scale, slope = weight[j] * stats[2, j], dweight[j] / m
        total[0, 0, j], total[0, 1, j], total[0, 2, j] = scale, scale * slope * stats[2, j], scale * (dbias[j] / m - slope * stats[1, j])
    for i in prange(rows):
        for j in range(width):
            dx[i, j] = total[0, 0, j] * dy[i, j] - total[0, 1, j] * (x[i, j] - stats[0, j]) - total[0, 2, j]  # (9), multiplied out


@kernel(reference=batch_norm_backward_reference)
def batch_norm_backward_3d(dy, x, weight, stats, dx, dweight, dbias, chunks):  # type: ignore[no-untyped-def]
    samples, width, length = x.shape
    m = x.dtype.type(samples * length)
    zero = x.dtype.type(0)
    for c in prange(width):
        mean, shift, rstd = stats[0, c], stats[1, c], stats[2, c]
        sum_w, sum_b = 0.0, 0.0
        for i in range(samples):
            w, b = zero, zero
            for k in range(length):
                w += dy[i, c, k] * ((x[i, c, k] - mean) * rstd - shift)
                b += dy[i, c, k]
            sum_w += w
            sum_b += b
        dweight[c], dbias[c] = sum_w, sum_b  # (8)
        slope, offset, scale = dweight[c] / m, dbias[c] / m, weight[c] * rstd
        for i in range(samples):
            for k in range(length):
                dx[i, c, k] = scale * (dy[i, c, k] - offset - ((x[i, c, k] - mean) * rstd - shift) * slope)  # (9)


# -- 3. On the graph ------------------------------------------------------------------------------------------------------------------


def _as_2d_or_3d(x: Array) -> Array:
    """Memory for the kernels: (N, C) where L is 1, else (N, C, L)."""
    x = ready(x)
    return x.reshape(x.shape[:2]) if x.ndim == 3 and x.shape[2] == 1 else x


class BatchNormFunction(Function):
    """y of x, γ and β in training, (1) to (4). The running statistics, arrays or both None, are moved on, (5) and (6)."""

    name = "NativeBatchNormBackward0"
    fresh_gradients = True

    def forward(self, x: Array, weight: Array | None, bias: Array | None, *, eps: float, running: list[Any], momentum: float) -> Array:
        width = x.shape[1]
        gamma = np.ones(width, x.dtype) if weight is None else ready(weight)
        beta = np.zeros(width, x.dtype) if bias is None else ready(bias)
        y, stats = np.empty(x.shape, x.dtype), np.empty((3, width), x.dtype)
        if x.size:
            values = _as_2d_or_3d(x)
            run = batch_norm_forward if values.ndim == 2 else batch_norm_forward_3d
            chunks = min(get_num_threads(), len(values))
            run[x.size](values, gamma, beta, eps, y.reshape(values.shape), stats, *running, momentum, chunks)
        self.save_for_backward(x, weight, stats)
        return y

    def backward(self, dy: Any) -> Any:
        x, weight, stats = self.saved_tensors
        if isinstance(dy, Tensor):
            return BatchNormBackward.apply(dy, x, weight, stats=as_array(stats))
        return _gradients(dy, x, weight, stats)  # not by `on`: a node for nothing is a microsecond of every small step


def _gradients(dy: Array, x: Array, weight: Array | None, stats: Array) -> tuple[Array, Array, Array]:
    """dx, dγ and dβ, by (8) and (9)."""
    width = x.shape[1]
    dx, dweight, dbias = np.empty(x.shape, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    if not x.size:
        return dx, np.zeros(width, x.dtype), np.zeros(width, x.dtype)
    gamma = np.ones(width, x.dtype) if weight is None else ready(weight)
    values = _as_2d_or_3d(x)
    run = batch_norm_backward if values.ndim == 2 else batch_norm_backward_3d
    run[2 * x.size](_as_2d_or_3d(dy), values, gamma, stats, dx.reshape(values.shape), dweight, dbias, min(get_num_threads(), len(values)))
    return dx, dweight, dbias


class BatchNormBackward(Function):
    """dx, dγ, dβ of dy, x and γ in training: (8) and (9).

    Its own gradient is layer normalization's (layer_norm.py, equations 9 to 12) with the mean over a channel's values: with u, a, b the
    gradients of dx, dγ, dβ, d = γ dy, and J v = rstd (v − mean(v) − x̂ mean(v x̂)),

        gradient of dy:  γ J u + a x̂ + b                                                           (10)
        gradient of γ:   Σ dy J u                                                                   (11)
        gradient of x:   J q − rstd x̂ mean(u dx),   q = a dy − rstd (mean(x̂ d) u + mean(x̂ u) d)     (12)
    """

    name = "NativeBatchNormBackwardBackward0"
    once_differentiable = True

    def forward(self, dy: Array, x: Array, weight: Array | None, *, stats: Array) -> tuple[Array, Array, Array]:
        self.save_for_backward(dy, x, weight)
        self.stats = stats
        return _gradients(dy, x, weight, stats)

    def backward(self, u: Array, a: Array, b: Array) -> Any:
        dy, x, weight = self.saved_tensors
        axes = (0,) if x.ndim == 2 else (0, 2)
        mu, shift, rstd = (channels(x, s) for s in self.stats)
        xhat = (x - mu) * rstd - shift
        gamma = 1 if weight is None else channels(x, weight)
        a, b = channels(x, a), channels(x, b)

        def m(v: Array) -> Array:
            mean: Array = v.mean(axis=axes, keepdims=True) if v.size else v.sum(axis=axes, keepdims=True)
            return mean

        def J(v: Array) -> Array:  # noqa: N802
            carried: Array = rstd * (v - m(v) - xhat * m(v * xhat))
            return carried

        d, Ju = gamma * dy, J(u)  # noqa: N806
        q = a * dy - rstd * (m(xhat * d) * u + m(xhat * u) * d)  # (12)
        gradient_dy = gamma * Ju + a * xhat + b  # (10)
        gradient_x = J(q) - rstd * xhat * m(u * J(d))  # (12)
        return gradient_dy, gradient_x, None if weight is None else (dy * Ju).sum(axis=axes)  # (11)


class BatchNormEval(Function):
    """y of x, γ and β with given statistics: a scale and a shift of each channel, so nothing couples the samples.

    dx = dy γ rstd,   dγ = Σ dy x̂,   dβ = Σ dy                                                     (13)
    """

    name = "NativeBatchNormBackward0"

    def forward(self, x: Array, weight: Array | None, bias: Array | None, *, mean: Array, var: Array, eps: float) -> Array:
        self.mean = channels(x, mean.copy())  # the buffers move on
        self.save_for_backward(x if self.needs_input_grad[1] else None, weight)
        with np.errstate(all="ignore"):
            self.rstd = channels(x, 1 / np.sqrt(var + eps))
            y = np.subtract(x, self.mean, order="C")  # in the order of its indices, as in training
            y *= self.rstd
            if weight is not None:
                y *= channels(x, weight)
            if bias is not None:
                y += channels(x, bias)
        return y

    def backward(self, dy: Any) -> Any:
        x, weight = self.saved_tensors
        need_x, need_weight, need_bias = self.needs_input_grad
        axes = (0,) if dy.ndim == 2 else (0, 2)
        rstd = constant(self.rstd, dy)
        dx = dweight = dbias = None
        if need_x:
            gamma = None if weight is None else weight if dy.ndim == 2 else weight.reshape(-1, 1)
            dx = dy * rstd if gamma is None else dy * (gamma * rstd)  # (13)
        if need_weight:
            dweight = sum_over(dy * ((x - constant(self.mean, dy)) * rstd), axes)
        if need_bias:
            dbias = sum_over(dy, axes)
        return dx, dweight, dbias


# -- 4. For users ---------------------------------------------------------------------------------------------------------------------


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x − mean)/√(var + eps)·weight + bias for each channel; Ioffe & Szegedy 2015, algorithm 1.

    Args:
        input: (N, C) or (N, C, L), float32 or float64.
        running_mean, running_var: (C), both or neither: moved on in training (5, 6), used in eval.
        weight, bias: γ and β, (C); ones and zeros if None.
        training: take the statistics from this batch.
        momentum: the weight of the new value in the running ones.
        eps: added to the variance, in its units.
    Returns:
        A Tensor of input's shape.
    Raises:
        ValueError: one value a channel in training; not 2 or 3 axes; eps negative, or 0 in training; only one of the running statistics.
        RuntimeError: no running statistics in eval, or such as cannot be written in training; lengths or dtypes that do not fit.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.batch_norm(tg.tensor([[2.0], [0.0]]), None, None, training=True)
        tensor([[ 1.0000],
                [-1.0000]])
    """
    check_tensor(input, "batch_norm")
    x = input._data
    if x.ndim not in (2, 3):
        raise ValueError(f"expected 2D or 3D input (got {x.ndim}D input): (N, C) or (N, C, L)")
    if x.dtype.kind != "f":
        raise RuntimeError(f"batch_norm: the input must be floating point; got {input.dtype}: convert it with .float()")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    for what, t in (("running_mean", running_mean), ("running_var", running_var), ("weight", weight), ("bias", bias)):
        if t is not None:
            check_tensor(t, "batch_norm")
            if t._data.shape != x.shape[1:2]:
                raise RuntimeError(f"{what} should contain {x.shape[1]} elements not {t._data.size}: one for each channel of input {list(x.shape)}")
            if t._edge is not None and what.startswith("running") and mode.grad:
                raise RuntimeError(f"batch_norm: not differentiable with respect to argument '{what}': it cannot require a gradient; pass {what}.detach()")
            if t._data.dtype != x.dtype:
                raise RuntimeError(f"batch_norm: mixed dtype: the input is {input.dtype}, {what} is {t.dtype}: all inputs must share one dtype")
    if type(eps) is not float:
        check_eps("batch_norm", eps)
    if type(momentum) is not float:
        check_number("batch_norm", "momentum", momentum)
    if not training:
        if running_mean is None or running_var is None:
            raise RuntimeError("running_mean must be defined in evaluation mode: pass both running statistics, or training=True")
        if not eps >= 0:
            raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
        out: Tensor = BatchNormEval.apply(input, weight, bias, mean=running_mean._data, var=running_var._data, eps=float(eps))
        return out
    if not eps > 0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    m = x.size // x.shape[1] if x.shape[1] else 0
    if m == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.shape}: the variance of one value is 0. Drop the last "
            "batch (DataLoader(drop_last=True)), call eval(), or use LayerNorm, which needs no batch."
        )
    moved = [t for t in (running_mean, running_var) if t is not None and m]
    for t in moved:
        check_writable(t)
    running: list[Any] = [ready(t._data) for t in moved] or [None, None]
    y: Tensor = BatchNormFunction.apply(input, weight, bias, eps=float(eps), running=running, momentum=float(momentum))
    for t, new in zip(moved, running):
        if new is not t._data:  # a copy that the kernel could take
            t._data[...] = new
        touch(t)
    return y


class BatchNorm1d(ChannelNorm):
    """Normalizes each channel over the batch in training, and by running statistics in eval; Ioffe & Szegedy 2015.

    A failed call changes no buffer.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: the weight of the new value in the running statistics; None for the average of all batches.
        affine: whether γ and β are learned.
        track_running_stats: whether running statistics are kept; without them eval uses the batch's.
        dtype: of parameters and statistics, float32 by default.
        bias: whether, where affine, there is a β.
    Attributes:
        weight, bias: γ and β, (C): ones and zeros at the start.
        running_mean, running_var, num_batches_tracked: buffers; 0, 1 and 0 at the start.

    Example:
        >>> import tinygrad_norm as tg
        >>> norm = tg.nn.BatchNorm1d(1)
        >>> _ = norm(tg.tensor([[2.0], [0.0]]))
        >>> norm.running_mean, norm.running_var
        (tensor([0.1000]), tensor([1.1000]))
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C) or (N, C, L) to the same."""
        tracked = self.num_batches_tracked if self.training and self.track_running_stats else None
        momentum = self.momentum if self.momentum is not None else 0.0 if tracked is None else 1.0 / (int(tracked._data) + 1)
        use_batch = self.training or self.running_mean is None
        keep = not self.training or self.track_running_stats
        mean, var = (self.running_mean, self.running_var) if keep else (None, None)
        y = batch_norm(input, mean, var, self.weight, self.bias, use_batch, momentum, self.eps)
        if tracked is not None:
            tracked._data += 1
            touch(tracked)
        return y
