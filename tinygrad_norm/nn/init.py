"""Initial values for weights: every function fills a Tensor in place, outside of the graph, and returns it.

Why not all the same numbers, or just small ones? A layer y = W·x multiplies the spread of its input: with independent weights of
variance σ² and n inputs, Var(y) = n·σ²·E[x²]. Twenty layers on, a factor of 2 per layer is a million. So σ is chosen to keep it at 1:

    Glorot & Bengio 2010   σ² = gain²·2/(fan_in + fan_out)     a compromise between the forward and the backward pass
    He et al. 2015         σ² = gain²/fan                      gain² = 2 for relu, which makes half of its input zero (arXiv:1502.01852)

fan_in is the number of inputs of one output, fan_out that of outputs of one input; a weight has shape (out, in, *kernel). A uniform
distribution on (−a, a) has variance a²/3, whence the √3 below.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

from ..grad_mode import no_grad
from ..random import Generator
from ..tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

_LINEAR = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "sigmoid")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that makes up for what a nonlinearity takes from the spread.

    linear, conv, sigmoid: 1; tanh: 5/3; relu: √2; leaky_relu: √(2/(1 + slope²)); selu: 3/4.

    Args:
        nonlinearity: its name in nn.functional.
        param: the slope of leaky_relu (0.01).
    Raises:
        ValueError: another name, or a slope that is no number.

    Example:
        >>> calculate_gain("leaky_relu", 1)
        1.0
    """
    if nonlinearity in _LINEAR:
        return 1
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, (int, float)) and not isinstance(slope, bool):
            return math.sqrt(2.0 / (1 + slope**2))
        raise ValueError(f"negative_slope {slope} not a valid number")
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}: expected one of {', '.join(_LINEAR)}, tanh, relu, leaky_relu, selu")


# -- Constants ------------------------------------------------------------------------------------------------------------------------


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fills tensor with val.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.init.constant_(tg.zeros(2), 0.5)
        tensor([0.5000, 0.5000])
    """
    _check(tensor, "constant_")
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fills tensor with ones."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fills tensor with zeros."""
    return constant_(tensor, 0.0)


# -- Random numbers -------------------------------------------------------------------------------------------------------------------


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fills tensor with uniform numbers from [a, b).

    Args:
        tensor: floating point.
        a, b: a <= b.
        generator: where the numbers come from; None: the default one.
    Raises:
        RuntimeError: a > b, or tensor is not floating point.

    Example:
        >>> import tinygrad_norm as tg
        >>> _ = tg.manual_seed(0)
        >>> tg.nn.init.uniform_(tg.zeros(2), -1, 1)
        tensor([-0.0075,  0.5364])
    """
    _check(tensor, "uniform_")
    with no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Fills tensor with normal numbers.

    Args:
        tensor: floating point.
        mean, std: std >= 0.
        generator: where the numbers come from; None: the default one.
    Raises:
        RuntimeError: std < 0, or tensor is not floating point.
    """
    _check(tensor, "normal_")
    with no_grad():
        return tensor.normal_(mean, std, generator=generator)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform numbers from (−a, a), a = gain·√(6/(fan_in + fan_out)): Glorot & Bengio 2010, equation 16.

    Args:
        tensor: a weight (out, in, *kernel).
        gain: see calculate_gain.
        generator: where the numbers come from; None: the default one.
    Raises:
        ValueError: fewer than two axes.
    """
    std = _glorot(tensor, gain, "xavier_uniform_")
    return uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal numbers of deviation gain·√(2/(fan_in + fan_out)): Glorot & Bengio 2010; arguments as xavier_uniform_."""
    return normal_(tensor, 0.0, _glorot(tensor, gain, "xavier_normal_"), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator | None = None
) -> Tensor:
    """Uniform numbers from (−b, b), b = gain·√(3/fan): He et al. 2015, section 2.2.

    Args:
        tensor: a weight (out, in, *kernel). One without elements is left as it is, with a warning.
        a: the slope of leaky_relu.
        mode: "fan_in" keeps the spread of the forward pass, "fan_out" that of the backward pass.
        nonlinearity: what follows the layer; see calculate_gain.
        generator: where the numbers come from; None: the default one.
    Raises:
        ValueError: fewer than two axes; another mode or nonlinearity.

    Example:
        >>> import tinygrad_norm as tg
        >>> _ = tg.manual_seed(0)
        >>> tg.nn.init.kaiming_uniform_(tg.zeros(1, 2), nonlinearity="relu")
        tensor([[-0.0130,  0.9291]])
    """
    std = _he(tensor, a, mode, nonlinearity, "kaiming_uniform_")
    return tensor if std is None else uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator | None = None
) -> Tensor:
    """Normal numbers of deviation gain/√fan: He et al. 2015; arguments as kaiming_uniform_."""
    std = _he(tensor, a, mode, nonlinearity, "kaiming_normal_")
    return tensor if std is None else normal_(tensor, 0.0, std, generator)


# -- Their deviations -----------------------------------------------------------------------------------------------------------------


def _check(tensor: Any, name: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"init.{name} fills a Tensor; got {type(tensor).__name__}")


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out)"""
    if tensor.ndim < 2:
        raise ValueError(
            f"Fan in and fan out can not be computed for tensor with fewer than 2 dimensions; got shape {list(tensor.shape)}: "
            "a weight has shape (out, in)"
        )
    out, in_, *kernel = tensor.shape
    return in_ * math.prod(kernel), out * math.prod(kernel)


def _glorot(tensor: Tensor, gain: float, name: str) -> float:
    _check(tensor, name)
    return gain * math.sqrt(2.0 / float(sum(_fans(tensor))))


def _he(tensor: Tensor, a: float, mode: str, nonlinearity: str, name: str) -> float | None:
    """The deviation; None where there is nothing to fill."""
    _check(tensor, name)
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return None
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    fan_in, fan_out = _fans(tensor)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan_in if mode == "fan_in" else fan_out)
