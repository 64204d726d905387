"""Group normalization (Wu & He 2018, arXiv:1803.08494, eq. 1, 2 and 7): each sample by the statistics of groups of its channels.

x is (N, C, *), with L values in each channel of a sample (all axes behind the second, taken together). The C channels stand in G groups
of K = C/G neighbours. The M = K·L values of one group of one sample share their statistics; each channel c has its own γ and β:

    μ = 1/M Σ x                                                                                     (1)
    var = 1/M Σ (x − μ)²,   rstd = (var + eps)^(−½)                                                 (2)
    x̂ = (x − μ)·rstd                                                                                (3)
    y = γ_c x̂ + β_c                                                                                 (4)

A group is M values in a row of memory, so (1) to (3) are layer normalization's (layer_norm.py). New is (4): L neighbours share a γ, and
the next group has other ones. To the kernels x is (N, G, K, L), γ and β are (G, K).

    G = 1    one group: layer normalization over (C, *), but with γ and β of C elements instead of C·L
    G = C    a channel a group: instance normalization (instance_norm.py)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dtype import parameter_dtype
from ..function import Function
from ..kernel import kernel, prange, ready
from ..ops.operands import as_array, check_tensor
from ..tensor import Tensor
from .norm import AffineNorm, check_eps
from .parameter import check_integer

Array = np.ndarray[Any, Any]

# -- 1. Forward -----------------------------------------------------------------------------------------------------------------------
#
# `stats` (N, G, 4) holds for each group μ as it could be stored, a shift, rstd and var. The shift is what rounding left of μ, times rstd:
# x̂ = (x − μ)·rstd − shift is right at a large mean too (layer_norm.py, 1). A group can be as large as an image, so only RUN values
# of one channel are summed in x's own type, and those sums in float64: of 40,000 squares in float32 the sixth digit is wrong.

RUN = 4096


def group_norm_forward_reference(x: Array, weight: Array, bias: Array, eps: float, y: Array, stats: Array) -> None:
    """Equations (1) to (4) over the last two axes of x (N, G, K, L)."""
    mean = x.mean(axis=(2, 3), keepdims=True)  # (N, G, 1, 1)
    rest = (x - mean).mean(axis=(2, 3), keepdims=True)
    centred = (x - mean) - rest
    var = (centred * centred).mean(axis=(2, 3), keepdims=True)
    rstd = 1 / np.sqrt(var + eps)
    y[:] = centred * rstd * weight[:, :, None] + bias[:, :, None]
    stats[:] = np.concatenate([mean, rest * rstd, rstd, var], axis=3)[:, :, 0]


@kernel(reference=group_norm_forward_reference)
def group_norm_forward(x, weight, bias, eps, y, stats):  # type: ignore[no-untyped-def]
    samples, groups, channels, length = x.shape
    zero, m = x.dtype.type(0), np.float64(channels * length)
    for i in prange(samples * groups):
        n, g = i // groups, i % groups
        total = 0.0
        for k in range(channels):
            for start in range(0, length, RUN):
                run, part = x[n, g, k, start : start + RUN], zero
                for j in range(len(run)):
                    part += run[j]
                total += part
        mean = x.dtype.type(total / m)  # (1)
        sum_off, sum_square = 0.0, 0.0
        for k in range(channels):
            for start in range(0, length, RUN):
                run, off, square = x[n, g, k, start : start + RUN], zero, zero
                for j in range(len(run)):
                    centred = run[j] - mean
                    off += centred
                    square += centred * centred
                sum_off += off
                sum_square += square
        rest = sum_off / m
        var = sum_square / m - rest * rest
        var = 0.0 if var < 0 else var  # of a constant group what rounding left, as in layer_norm.py
        rstd = x.dtype.type(1.0 / math.sqrt(var + eps))  # (2)
        shift = x.dtype.type(rest * rstd)
        for k in range(channels):
            gamma, beta = weight[g, k], bias[g, k]
            for j in range(length):
                y[n, g, k, j] = ((x[n, g, k, j] - mean) * rstd - shift) * gamma + beta  # (3), (4)
        stats[n, g, 0], stats[n, g, 1], stats[n, g, 2], stats[n, g, 3] = mean, shift, rstd, var


# -- 2. Backward ----------------------------------------------------------------------------------------------------------------------
#
# From (4), with dy the gradient of y; the inner sums, over the L values of channel c in sample n, are taken once and serve twice:
#
#     s_nc = Σ_L dy,   t_nc = Σ_L dy x̂                                                               (5)
#     dβ_c = Σ_n s_nc,   dγ_c = Σ_n t_nc                                                             (6)
#
# Into x̂ goes d = γ_c dy, and x̂ depends on x as in layer normalization (layer_norm.py, equations 6 to 8):
#
#     ∂x̂ᵢ/∂xⱼ = rstd (δᵢⱼ − 1/M − x̂ᵢ x̂ⱼ/M)        for i and j in one group of one sample, else 0
#     dx = J d,   J v = rstd (v − mean(v) − x̂ mean(v x̂))                                             (7)
#     mean(d) = 1/M Σ_c γ_c s_nc,   mean(d x̂) = 1/M Σ_c γ_c t_nc        over the K channels of the group  (8)
#
# Each group of a sample writes s and t of its own channels, so (6) adds the same numbers in the same order with any number of threads.


def group_norm_backward_reference(dy: Array, x: Array, weight: Array, stats: Array, dx: Array, dweight: Array, dbias: Array) -> None:
    """Equations (6) to (8) over the axes of dy and x (N, G, K, L)."""
    mean, shift, rstd = (stats[:, :, i, None, None] for i in range(3))
    xhat = (x - mean) * rstd - shift
    d = dy * weight[:, :, None]
    dx[:] = rstd * (d - d.mean(axis=(2, 3), keepdims=True) - xhat * (d * xhat).mean(axis=(2, 3), keepdims=True))
    dweight[:] = (dy * xhat).sum(axis=(0, 3), dtype=np.float64)
    dbias[:] = dy.sum(axis=(0, 3), dtype=np.float64)


@kernel(reference=group_norm_backward_reference)
def group_norm_backward(dy, x, weight, stats, dx, dweight, dbias):  # type: ignore[no-untyped-def]
    samples, groups, channels, length = x.shape
    partial = np.empty((2, samples, groups, channels), x.dtype)
    zero, m = x.dtype.type(0), np.float64(channels * length)
    for i in prange(samples * groups):
        n, g = i // groups, i % groups
        mean, shift, rstd = stats[n, g, 0], stats[n, g, 1], stats[n, g, 2]
        sum_s, sum_t = 0.0, 0.0
        for k in range(channels):
            s, t = zero, zero
            for j in range(length):
                s += dy[n, g, k, j]  # (5)
                t += dy[n, g, k, j] * ((x[n, g, k, j] - mean) * rstd - shift)
            partial[0, n, g, k], partial[1, n, g, k] = s, t
            sum_s += weight[g, k] * s
            sum_t += weight[g, k] * t
        mean_d, mean_dx = x.dtype.type(sum_s / m), x.dtype.type(sum_t / m)  # (8)
        for k in range(channels):
            gamma = weight[g, k]
            for j in range(length):
                xhat = (x[n, g, k, j] - mean) * rstd - shift
                dx[n, g, k, j] = rstd * (gamma * dy[n, g, k, j] - mean_d - xhat * mean_dx)  # (7)
    for g in prange(groups):
        for k in range(channels):
            sum_b, sum_w = 0.0, 0.0
            for n in range(samples):
                sum_b += partial[0, n, g, k]  # (6)
                sum_w += partial[1, n, g, k]
            dbias[g, k], dweight[g, k] = sum_b, sum_w


# -- 3. On the graph ------------------------------------------------------------------------------------------------------------------


def in_groups(x: Array, groups: int) -> Array:
    """(N, C, *) as the (N, G, K, L) memory that the kernels are compiled for."""
    return ready(x).reshape(x.shape[0], groups, x.shape[1] // groups, math.prod(x.shape[2:]))


def of_channels(values: Array | None, otherwise: float, x: Array, groups: int) -> Array:
    """γ or β as (G, K); where there is none, of the number that changes nothing."""
    return np.full((groups, x.shape[1] // groups), otherwise, x.dtype) if values is None else ready(values).reshape(groups, -1)


class GroupNormFunction(Function):
    """y of x, γ and β: (1) to (4). It writes the statistics to `stats`, for the running ones of instance normalization."""

    name = "NativeGroupNormBackward0"
    fresh_gradients = True

    def forward(self, x: Array, weight: Array | None, bias: Array | None, *, groups: int, eps: float, stats: Array) -> Array:
        y = np.empty(x.shape, x.dtype)
        if x.size:
            values = in_groups(x, groups)
            gamma, beta = of_channels(weight, 1, x, groups), of_channels(bias, 0, x, groups)
            group_norm_forward[x.size](values, gamma, beta, eps, y.reshape(values.shape), stats)
        self.groups = groups
        self.save_for_backward(x, weight, stats)
        return y

    def backward(self, dy: Any) -> Any:
        x, weight, stats = self.saved_tensors
        dx, dweight, dbias = GroupNormBackward.on(dy, x, weight, stats=as_array(stats), groups=self.groups)
        return dx, dweight, dbias


class GroupNormBackward(Function):
    """dx, dγ, dβ of dy, x and γ: (6) to (8).

    Its own gradient is layer normalization's (layer_norm.py, equations 9 to 12) with the mean over a group: with u, a, b the gradients of
    dx, dγ, dβ,

        gradient of dy:  γ J u + a x̂ + b                                                            (9)
        gradient of γ:   Σ dy J u                                                                   (10)
        gradient of x:   J q − rstd x̂ mean(u dx),   q = a dy − rstd (mean(x̂ d) u + mean(x̂ u) d)     (11)
    """

    name = "NativeGroupNormBackwardBackward0"
    once_differentiable = True

    def forward(self, dy: Array, x: Array, weight: Array | None, *, stats: Array, groups: int) -> tuple[Array, Array, Array]:
        self.save_for_backward(dy, x, weight)
        self.stats, self.groups = stats, groups
        dx, dweight, dbias = np.empty(x.shape, x.dtype), np.zeros(x.shape[1], x.dtype), np.zeros(x.shape[1], x.dtype)
        if x.size:
            values, gamma = in_groups(x, groups), of_channels(weight, 1, x, groups)
            outs = dx.reshape(values.shape), dweight.reshape(gamma.shape), dbias.reshape(gamma.shape)
            group_norm_backward[2 * x.size](in_groups(dy, groups), values, gamma, stats, *outs)
        return dx, dweight, dbias

    def backward(self, u: Array, a: Array, b: Array) -> Any:
        dy, x, weight = self.saved_tensors
        if not x.size:
            return np.zeros_like(dy), np.zeros_like(x), None if weight is None else np.zeros_like(weight)
        groups = self.groups
        mu, shift, rstd = (self.stats[:, :, i, None, None] for i in range(3))
        dy, u, xhat = in_groups(dy, groups), in_groups(u, groups), (in_groups(x, groups) - mu) * rstd - shift
        gamma, a, b = (of_channels(v, 1, x, groups)[:, :, None] for v in (weight, a, b))

        def m(v: Array) -> Array:
            mean: Array = v.mean(axis=(2, 3), keepdims=True)
            return mean

        def J(v: Array) -> Array:  # noqa: N802  (7)
            carried: Array = rstd * (v - m(v) - xhat * m(v * xhat))
            return carried

        d, Ju = gamma * dy, J(u)  # noqa: N806
        q = a * dy - rstd * (m(xhat * d) * u + m(xhat * u) * d)  # (11)
        gradient_dy = gamma * Ju + a * xhat + b  # (9)
        gradient_x = J(q) - rstd * xhat * m(u * J(d))  # (11)
        gradient_weight = None if weight is None else (dy * Ju).sum(axis=(0, 3)).reshape(-1)  # (10)
        return gradient_dy.reshape(x.shape), gradient_x.reshape(x.shape), gradient_weight


# -- 4. For users ---------------------------------------------------------------------------------------------------------------------


def group_norm(input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """y = (x − mean)/√(var + eps)·weight + bias for each group of channels of each sample; Wu & He 2018, eq. 1, 2 and 7.

    Args:
        input: (N, C, *), float32 or float64.
        num_groups: G, into which the C channels are divided; C must be a multiple of it.
        weight, bias: γ and β, (C); ones and zeros if None.
        eps: added to the variance, in its units.
    Returns:
        A Tensor of input's shape.
    Raises:
        RuntimeError: fewer than 2 axes; C is no multiple of num_groups; lengths or dtypes that do not fit.
        ValueError: a single sample whose groups have one value each. TypeError: num_groups is no integer.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.group_norm(tg.tensor([[1.0, 3.0, 10.0, 20.0]]), 2)
        tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])
    """
    check_tensor(input, "group_norm")
    x = input._data
    check_integer("group_norm", "num_groups", num_groups)
    if x.ndim < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {x.ndim}: (N, C, *)")
    if num_groups < 1:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if x.shape[1] % num_groups:
        raise RuntimeError(
            f"Expected number of channels in input to be divisible by num_groups, but got input of shape {list(input.shape)} and num_groups={num_groups}"
        )
    if x.size == num_groups:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {list(input.shape)}: each of the {num_groups} groups has one value, "
            "whose variance is 0. Take fewer groups, or RMSNorm"
        )
    check_channels("group_norm", input, weight=weight, bias=bias)
    if type(eps) is not float:
        check_eps("group_norm", eps)
    stats = np.empty((x.shape[0], num_groups, 4), x.dtype)
    y: Tensor = GroupNormFunction.apply(input, weight, bias, groups=int(num_groups), eps=float(eps), stats=stats)
    return y


def check_channels(op: str, input: Tensor, **values: Tensor | None) -> None:
    """The input (N, C, *) is floating point, and the values are (C) of its type: TypeError or RuntimeError otherwise."""
    x = input._data
    if x.dtype.kind != "f":
        raise RuntimeError(f"{op}: the input must be floating point; got {input.dtype}: convert it with .float()")
    for what, t in values.items():
        if t is None:
            continue
        check_tensor(t, op)
        if t._data.shape != x.shape[1:2]:
            raise RuntimeError(
                f"Expected {what} to be a vector of size equal to the number of channels in input, but got {what} of shape {list(t.shape)} "
                f"and input of shape {list(input.shape)}"
            )
        if t._data.dtype != x.dtype:
            raise RuntimeError(f"{op}: mixed dtype: the input is {input.dtype}, {what} is {t.dtype}: all inputs must share same datatype")


class GroupNorm(AffineNorm):
    """Normalizes each group of channels of each sample: y = (x − mean)/√(var + eps)·weight + bias; Wu & He 2018.

    Args:
        num_groups: G, into which the channels are divided.
        num_channels: C, a multiple of G.
        eps: added to the variance.
        affine: whether γ and β are learned.
        dtype: of the parameters, float32 by default.
        bias: whether, where affine, there is a β.
    Attributes:
        weight, bias: γ and β, (C): ones and zeros at the start.

    Example:
        >>> import tinygrad_norm as tg
        >>> norm = tg.nn.GroupNorm(2, 6)
        >>> norm, norm(tg.randn(4, 6, 10)).shape
        (GroupNorm(2, 6, eps=1e-05, affine=True, bias=True), torch.Size([4, 6, 10]))
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device: Any = None, dtype: Any = None, *, bias: bool = True
    ) -> None:
        super().__init__()
        for what, n in (("num_groups", num_groups), ("num_channels", num_channels)):
            check_integer("GroupNorm", what, n)
        if num_groups < 1 or num_channels < 0:
            raise ValueError(f"GroupNorm: num_groups must be at least 1 and num_channels not negative; got {num_groups} and {num_channels}")
        if num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        check_eps("GroupNorm", eps)
        kind = parameter_dtype("GroupNorm", dtype, device)
        self.num_groups, self.num_channels = int(num_groups), int(num_channels)
        self.eps = eps
        self.affine = affine
        self._register_affine((self.num_channels,), kind, affine, affine and bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) to the same."""
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={self.bias is not None}"
