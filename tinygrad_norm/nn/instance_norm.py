"""Instance normalization (Ulyanov, Vedaldi & Lempitsky 2016, arXiv:1607.08022, eq. 3): each channel of each sample by itself.

x is (N, C, L). It is group normalization with one channel a group, M = L, so its forward, its two backwards and their kernels are those
of group_norm.py with G = C:

    x̂ = (x − μ_nc)·rstd_nc,   y = γ_c x̂ + β_c        μ and var over the L values of channel c in sample n

What it has of its own it has from batch normalization: running statistics, if they are asked for. They move by what the N samples have
on average, and in eval they take the place of μ and var (batch_norm.py, equation 13):

    running_mean ← (1 − momentum)·running_mean + momentum·1/N Σ_n μ_nc                              (1)
    running_var  ← (1 − momentum)·running_var  + momentum·1/N Σ_n var_nc·L/(L − 1)                  (2)
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from ..grad_mode import mode
from ..ops.operands import check_tensor
from ..tensor import Tensor, check_writable, touch
from .batch_norm import BatchNormEval
from .group_norm import GroupNormFunction, check_channels
from .norm import ChannelNorm, check_eps, check_number


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x − mean)/√(var + eps)·weight + bias for each channel of each sample; Ulyanov et al. 2016, eq. 3.

    Args:
        input: (N, C, *), float32 or float64.
        running_mean, running_var: (C), both or neither: moved on where use_input_stats (1, 2), used where not.
        weight, bias: γ and β, (C); ones and zeros if None.
        use_input_stats: take the statistics from input.
        momentum: the weight of the new value in the running ones.
        eps: added to the variance, in its units.
    Returns:
        A Tensor of input's shape.
    Raises:
        ValueError: one value a channel; only one of the running statistics.
        RuntimeError: no running statistics to use, or such as cannot be written or require a gradient; lengths or dtypes that do not fit;
        fewer than 2 axes.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.instance_norm(tg.tensor([[[1.0, 3.0], [10.0, 20.0]]]))
        tensor([[[-1.0000,  1.0000],
                 [-1.0000,  1.0000]]])
    """
    check_tensor(input, "instance_norm")
    x = input._data
    if x.ndim < 2:
        raise RuntimeError(f"instance_norm: expected at least 2 dimensions, (N, C, *); got shape {list(input.shape)}")
    channels = x.shape[1]
    length = math.prod(x.shape[2:])
    if use_input_stats and length == 1:
        raise ValueError(
            f"Expected more than 1 spatial element when training, got input size {input.shape}: the variance of one value is 0. LayerNorm and "
            "GroupNorm take it together with other channels"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    check_channels("instance_norm", input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    for what, t in (("running_mean", running_mean), ("running_var", running_var)):
        if t is not None and t._edge is not None and mode.grad:
            raise RuntimeError(f"instance_norm: not differentiable with respect to argument '{what}': it cannot require a gradient; pass {what}.detach()")
        if t is not None and use_input_stats:
            check_writable(t)
    if type(eps) is not float:
        check_eps("instance_norm", eps)
    if type(momentum) is not float:
        check_number("instance_norm", "momentum", momentum)
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RuntimeError("Expected running_mean and running_var to be defined when use_input_stats is false")
        flat = input.reshape(x.shape[0], channels, length) if x.ndim > 3 else input
        out: Tensor = BatchNormEval.apply(flat, weight, bias, mean=running_mean._data, var=running_var._data, eps=float(eps))
        return out.reshape(x.shape) if x.ndim > 3 else out
    stats = np.empty((x.shape[0], channels, 4), x.dtype)
    y: Tensor = GroupNormFunction.apply(input, weight, bias, groups=channels, eps=float(eps), stats=stats)
    if running_mean is not None and running_var is not None and x.size:
        mean, var = stats[:, :, 0], stats[:, :, 3]  # (N, C)
        for running, new, factor in ((running_mean, mean, 1.0), (running_var, var, length / (length - 1))):
            with np.errstate(invalid="ignore"):  # of an infinite mean
                running._data[...] = (1 - momentum) * running._data + momentum * factor * new.mean(axis=0, dtype=np.float64)  # (1), (2)
            touch(running)
    return y


class InstanceNorm1d(ChannelNorm):
    """Normalizes each channel of each sample over its L values; Ulyanov et al. 2016.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: the weight of the new value in the running statistics; None leaves them as they are.
        affine: whether γ and β are learned.
        track_running_stats: whether running statistics are kept, and used in eval.
        dtype: of parameters and statistics, float32 by default.
        bias: whether, where affine, there is a β.
    Attributes:
        weight, bias: γ and β, (C), or None: ones and zeros at the start.
        running_mean, running_var, num_batches_tracked: buffers, or None; 0, 1 and 0 at the start. As in torch the last is never counted.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.InstanceNorm1d(2)(tg.tensor([[[1.0, 3.0], [10.0, 20.0]]]))
        tensor([[[-1.0000,  1.0000],
                 [-1.0000,  1.0000]]])
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, L) or one sample, (C, L), to the same."""
        check_tensor(input, "InstanceNorm1d")
        shape = input._data.shape
        if len(shape) not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {len(shape)}D input): (C, L) or (N, C, L)")
        if shape[-2] != self.num_features:
            if self.affine:
                raise ValueError(f"expected input's size at dim={len(shape) - 2} to match num_features ({self.num_features}), but got: {shape[-2]}.")
            warnings.warn(
                f"input's size at dim={len(shape) - 2}, {shape[-2]}, does not match num_features, {self.num_features}, which is not used because "
                "affine=False",
                stacklevel=3,
            )
        use_input = self.training or not self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        batch = input.unsqueeze(0) if len(shape) == 2 else input
        y = instance_norm(batch, self.running_mean, self.running_var, self.weight, self.bias, use_input, momentum, self.eps)
        return y.squeeze(0) if len(shape) == 2 else y
