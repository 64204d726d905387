"""What the normalization layers share: γ and β, running statistics of channels, the checks of eps and momentum."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..dtype import parameter_dtype
from ..tensor import Tensor
from . import init
from .module import Module
from .parameter import Parameter, check_size


class AffineNorm(Module):
    """A layer with a γ (weight) and a β (bias), or without."""

    weight: Parameter | None
    bias: Parameter | None

    def _register_affine(self, shape: tuple[int, ...], kind: Any, weight: bool, bias: bool) -> None:
        self.register_parameter("weight", Parameter(np.ones(shape, kind)) if weight else None)
        self.register_parameter("bias", Parameter(np.zeros(shape, kind)) if bias else None)

    def reset_parameters(self) -> None:
        """γ to ones, β to zeros."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class ChannelNorm(AffineNorm):
    """What BatchNorm1d and InstanceNorm1d keep, whose arguments these are: γ, β and running statistics of C channels."""

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _may_be_missing: ClassVar[tuple[str, ...]] = ("num_batches_tracked",)  # torch has it since 0.4.1

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        layer = type(self).__name__
        check_size(layer, "num_features", num_features)
        check_eps(layer, eps)
        if momentum is not None:
            check_number(layer, "momentum", momentum)
        kind = parameter_dtype(layer, dtype, device)
        self.num_features = c = int(num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self._register_affine((c,), kind, affine, affine and bias)
        self.register_buffer("running_mean", Tensor(np.zeros(c, kind)) if track_running_stats else None)
        self.register_buffer("running_var", Tensor(np.ones(c, kind)) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", Tensor(np.zeros((), np.int64)) if track_running_stats else None)

    def reset_running_stats(self) -> None:
        """running_mean to 0, running_var to 1, num_batches_tracked to 0."""
        for buffer, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if buffer is not None:
                buffer.fill_(value)

    def reset_parameters(self) -> None:
        """The running statistics as above; γ to ones, β to zeros."""
        self.reset_running_stats()
        super().reset_parameters()

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


def check_number(op: str, name: str, value: Any) -> None:
    """The value is a number: TypeError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{op}: {name} must be a number; got {type(value).__name__}")


def check_eps(op: str, eps: Any) -> None:
    """eps is a number, not negative: TypeError or ValueError otherwise."""
    check_number(op, "eps", eps)
    if not eps >= 0:
        raise ValueError(f"{op}: eps is added to a variance under a root, so it must not be negative; got {eps}")
