"""What else is called layer normalization: Keras' layer, and the one that tutorials write by hand.

With μ and var of layer_norm.py, equations (1) and (2), over the D elements that share them:

                            formula                            eps     γ, β            which axes
    torch LayerNorm         γ (x − μ)/√(var + eps) + β         1e-5    weight, bias    the last ones, by their lengths, at construction
    LayerNormalization      γ (x − μ)/√(var + eps) + β         1e-3    gamma, beta     any, by number; lengths found at the first call
    UnbiasedLayerNorm       γ (x − μ)/(s + eps) + β            1e-6    gamma, beta     the last one
                            s = √(var·D/(D − 1))

The first two are one function of different arguments, so Keras' layer is torch's between two permutations of the axes. The third is another
function: as eps → 0 its output is √((D − 1)/D) times the others', 0.91 for D = 6; and where x varies little, s + eps is about s, where
√(var + eps) is about √eps. Nobody needs it fast; it is here to be compared with, and shows what a norm costs in primitives: it can be
differentiated to every order, and takes seven nodes of the graph where the fused one takes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dtype import parameter_dtype
from ..ops.operands import check_tensor
from ..tensor import Tensor
from .layer_norm import layer_norm
from .module import Module
from .norm import check_eps
from .parameter import Parameter, check_integer

# -- 1. Keras' LayerNormalization -----------------------------------------------------------------------------------------------------


def layer_normalization(
    input: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, axis: int | Sequence[int] = -1, epsilon: float = 1e-3
) -> Tensor:
    """y = (x − mean)/√(var + epsilon)·gamma + beta, with the statistics over any axes together; Ba et al. 2016, eq. 3 and 4.

    Args:
        input: any shape, float32 or float64.
        gamma, beta: γ and β, of the lengths of those axes in the order in which input has them; ones and zeros if None.
        axis: the number of an axis, or several.
        epsilon: added to the variance, in its units.
    Returns:
        A Tensor of input's shape.
    Raises:
        ValueError: an axis that input does not have, or the same one twice. RuntimeError: shapes or dtypes that do not fit.
        TypeError: an axis that is no integer.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.layer_normalization(tg.tensor([[0.0, 0.0], [10.0, 20.0]]), axis=0)
        tensor([[-1.0000, -1.0000],
                [ 1.0000,  1.0000]])
    """
    check_tensor(input, "layer_normalization")
    ndim = input._data.ndim
    axes = _axes(axis, input._data.shape)
    order = [a for a in range(ndim) if a not in axes] + axes
    shape = tuple(input._data.shape[a] for a in axes)
    if order == list(range(ndim)):
        return layer_norm(input, shape, gamma, beta, epsilon)
    y: Tensor = layer_norm(input.permute(order), shape, gamma, beta, epsilon).permute([order.index(a) for a in range(ndim)])
    return y


def _axes(axis: int | Sequence[int], shape: Sequence[int]) -> list[int]:
    """The axes counted from 0, in ascending order."""
    given = list(axis) if isinstance(axis, Sequence) else [axis]
    for a in given:
        if isinstance(a, bool) or not isinstance(a, (int, np.integer)):
            raise TypeError(f"layer_normalization: axis must be an int or a sequence of ints, the numbers of axes; got {axis!r}")
        if not -len(shape) <= a < len(shape):
            raise ValueError(f"layer_normalization: axis {a} is out of bounds for input of shape {tuple(shape)}, which has {len(shape)} axes")
    found = sorted(int(a) % len(shape) for a in given)
    if len(set(found)) < len(found):
        raise ValueError(f"layer_normalization: axis={axis} names an axis of input of shape {tuple(shape)} twice")
    return found


class LayerNormalization(Module):
    """Keras' layer normalization: over any axes, whose lengths it learns from its first input; Ba et al. 2016, eq. 3 and 4.

    γ and β do not exist before the first call: call the layer once, or build(shape), before an optimizer or load_state_dict wants them.

    Args:
        axis: the number of an axis, or several, that share their statistics.
        epsilon: added to the variance.
        center: whether β is learned.
        scale: whether γ is learned.
        dtype: of γ and β; the first input's if None.
    Attributes:
        gamma, beta: γ and β, ones and zeros at first, of the lengths of the axes in the input's order; None before, or if not wanted.

    Example:
        >>> import tinygrad_norm as tg
        >>> norm = tg.nn.LayerNormalization(axis=[1, 2])
        >>> y = norm(tg.randn(4, 3, 5))
        >>> norm, norm.gamma.shape
        (LayerNormalization(axis=[1, 2], epsilon=0.001, center=True, scale=True), torch.Size([3, 5]))
    """

    gamma: Parameter | None
    beta: Parameter | None

    def __init__(
        self, axis: int | Sequence[int] = -1, epsilon: float = 1e-3, center: bool = True, scale: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        given: list[Any] = list(axis) if isinstance(axis, Sequence) else [axis]
        if not given or any(isinstance(a, bool) or not isinstance(a, (int, np.integer)) for a in given):
            raise TypeError(f"LayerNormalization: axis must be an int or a sequence of ints, the numbers of axes; got {axis!r}")
        check_eps("LayerNormalization", epsilon)
        self.axis = given if isinstance(axis, Sequence) else axis
        self.epsilon = epsilon
        self.center, self.scale = bool(center), bool(scale)
        self.built = False
        self._kind = parameter_dtype("LayerNormalization", dtype, device) if dtype is not None or device is not None else None
        self.register_parameter("gamma", None)
        self.register_parameter("beta", None)

    def build(self, input_shape: Sequence[int], dtype: Any = None) -> None:
        """Makes γ and β for inputs of this shape, of which only the lengths of the layer's axes matter.

        Raises:
            ValueError: the shape does not have the axes. RuntimeError: they are there already.
        """
        if self.built:
            raise RuntimeError("LayerNormalization is built already: make a new layer for inputs of another shape")
        shape = tuple(int(input_shape[a]) for a in _axes(self.axis, input_shape))
        kind = self._kind or parameter_dtype("LayerNormalization", dtype, None)
        if self.scale:
            self.gamma = Parameter(np.ones(shape, kind))
        if self.center:
            self.beta = Parameter(np.zeros(shape, kind))
        self.built = True

    def forward(self, input: Tensor) -> Tensor:
        """Any shape that has the axes to the same."""
        check_tensor(input, "LayerNormalization")
        if not self.built:
            self.build(input._data.shape, input.dtype)
        return layer_normalization(input, self.gamma, self.beta, self.axis, self.epsilon)

    def extra_repr(self) -> str:
        """The arguments, as they were given."""
        return f"axis={self.axis}, epsilon={self.epsilon}, center={self.center}, scale={self.scale}"


# -- 2. The one written by hand -------------------------------------------------------------------------------------------------------


def unbiased_layer_norm(input: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-6) -> Tensor:
    """y = gamma·(x − mean)/(std + eps) + beta over the last axis, std with D − 1 in its denominator: from primitives.

    Args:
        input: (…, D), floating point, D at least 2.
        gamma, beta: γ and β, (D).
        eps: added to the deviation, in its units.
    Raises:
        ValueError: the last axis is shorter than 2.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.unbiased_layer_norm(tg.tensor([1.0, 2.0, 3.0]), tg.ones(3), tg.zeros(3))
        tensor([-1.0000,  0.0000,  1.0000])
    """
    check_tensor(input, "unbiased_layer_norm")
    if not input._data.ndim or input._data.shape[-1] < 2:
        raise ValueError(f"unbiased_layer_norm: the last axis must have at least 2 elements, as D − 1 divides; got shape {list(input.shape)}")
    mean = input.mean(-1, keepdim=True)
    std = input.std(-1, keepdim=True)
    y: Tensor = gamma * (input - mean) / (std + eps) + beta
    return y


class UnbiasedLayerNorm(Module):
    """The layer that tutorials write by hand and take for LayerNorm: the unbiased deviation, and eps outside of the root.

    Args:
        features: D, the length of the last axis.
        eps: added to the deviation.
    Attributes:
        gamma, beta: γ and β, (D): ones and zeros at the start.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.randn(4, 6)
        >>> (tg.nn.UnbiasedLayerNorm(6)(x) / tg.nn.LayerNorm(6)(x)).mean()  # √(5/6)
        tensor(0.9129, grad_fn=<MeanBackward0>)
    """

    def __init__(self, features: int, eps: float = 1e-6, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        check_integer("UnbiasedLayerNorm", "features", features)
        if features < 2:
            raise ValueError(f"UnbiasedLayerNorm: features must be at least 2, as D − 1 divides; got {features}")
        check_eps("UnbiasedLayerNorm", eps)
        kind = parameter_dtype("UnbiasedLayerNorm", dtype, device)
        self.features = int(features)
        self.eps = eps
        self.gamma = Parameter(np.ones(self.features, kind))
        self.beta = Parameter(np.zeros(self.features, kind))

    def forward(self, input: Tensor) -> Tensor:
        """(…, D) to the same."""
        return unbiased_layer_norm(input, self.gamma, self.beta, self.eps)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.features}, eps={self.eps}"
