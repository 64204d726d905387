"""Layer normalization (Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 3 and 4): each sample by its own statistics.

Over the D elements of one row (all normalized axes of one sample), with learned γ (weight) and β (bias) of D elements each:

    μ = 1/D Σⱼ xⱼ                                                                                   (1)
    var = 1/D Σⱼ (xⱼ − μ)²,   rstd = (var + eps)^(−½)                                               (2)
    x̂ⱼ = (xⱼ − μ)·rstd                                                                              (3)
    yⱼ = γⱼ x̂ⱼ + βⱼ                                                                                 (4)

The rows do not meet: there is nothing to remember between batches, and train and eval are the same.

    convention          torch LayerNorm            Keras LayerNormalization
    eps                 1e-5, inside the root      1e-3, inside the root
    variance            biased (divides by D)      biased
    names of γ, β       weight, bias               gamma, beta
    axes                the last ones, by shape    any, by number; -1 by default

Keras' layer, and the variant that tutorials write by hand, are in layer_norm_variants.py; sequences with padding in masked_norm.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dtype import parameter_dtype
from ..function import Function
from ..kernel import APART, chunks, kernel, prange, ready
from ..ops.operands import as_array, check_tensor
from ..tensor import Tensor
from .norm import AffineNorm, check_eps

Array = np.ndarray[Any, Any]

# -- 1. Forward -----------------------------------------------------------------------------------------------------------------------
#
# `stats` holds for each row μ as it could be stored, a shift, and rstd. At a mean of 1e4 a float32 μ is wrong by up to 5e-4; what rounding
# left of it is the mean of x − μ, and that times rstd is the shift. With x̂ = (x − μ)·rstd − shift it is about a thousand times more
# accurate, for one more number a row. (Not as (x − μ) − rest: reassociation would add the rest to μ, where it is lost again.)
# The variance is likewise that of c = x − μ about rest, its mean: 1/D Σ (c − rest)² = 1/D Σ c² − rest², so one sweep gives both sums.


def layer_norm_forward_reference(x: Array, weight: Array, bias: Array, eps: Any, y: Array, stats: Array) -> None:
    """Equations (1) to (4) on the rows of x (N, D)."""
    mean = x.mean(axis=1, keepdims=True)  # (N, 1)
    rest = (x - mean).mean(axis=1, keepdims=True)
    centred = (x - mean) - rest
    rstd = 1 / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + eps)
    y[:] = centred * rstd * weight + bias
    stats[:] = np.concatenate([mean, rest * rstd, rstd], axis=1)


@kernel(reference=layer_norm_forward_reference)
def layer_norm_forward(x, weight, bias, eps, y, stats):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    zero, one, d = x.dtype.type(0), x.dtype.type(1), x.dtype.type(width)
    small = x.dtype.type(eps)
    for n in prange(rows):
        total = zero
        for j in range(width):
            total += x[n, j]
        mean = total / d  # (1)
        off, square = zero, zero
        for j in range(width):
            centred = x[n, j] - mean
            off += centred
            square += centred * centred
        rest = off / d
        var = square / d - rest * rest  # of a constant row what rounding left, below 0 at times
        rstd = one / math.sqrt((zero if var < zero else var) + small)  # (2)
        shift = rest * rstd
        for j in range(width):
            y[n, j] = ((x[n, j] - mean) * rstd - shift) * weight[j] + bias[j]  # (3), (4)
        stats[n, 0], stats[n, 1], stats[n, 2] = mean, shift, rstd


# -- 2. Backward ----------------------------------------------------------------------------------------------------------------------
#
# From (4), with dy the gradient of y:
#
#     dγⱼ = Σ_rows dyⱼ x̂ⱼ,   dβⱼ = Σ_rows dyⱼ,   and into x̂ goes   dⱼ = γⱼ dyⱼ                     (5)
#
# Every xⱼ moves every x̂ᵢ of its row along three paths: itself, the mean, and the variance. From (1), (2):
#
#     ∂μ/∂xⱼ = 1/D
#     ∂var/∂xⱼ = 2/D (xⱼ − μ)            (through μ: −2/D Σᵢ (xᵢ − μ) = 0)
#     ∂rstd/∂xⱼ = −½ rstd³ ∂var/∂xⱼ = −rstd² x̂ⱼ/D                                                  (6)
#
# and from (3), by the product rule:
#
#     ∂x̂ᵢ/∂xⱼ = rstd (δᵢⱼ − 1/D) + (xᵢ − μ)·∂rstd/∂xⱼ = rstd (δᵢⱼ − 1/D − x̂ᵢ x̂ⱼ/D)                 (7)
#
# It is symmetric in i and j: the operator J that carries a change of x forward also carries a gradient back,
#
#     J v = rstd (v − mean(v) − x̂ mean(v x̂)),       dx = J d                                        (8)


def layer_norm_backward_reference(dy: Array, x: Array, weight: Array, stats: Array, dx: Array, dweight: Array, dbias: Array, parts: int) -> None:
    """Equations (5) and (8) on the rows of dy and x (N, D)."""
    mean, shift, rstd = stats[:, 0:1], stats[:, 1:2], stats[:, 2:3]
    xhat = (x - mean) * rstd - shift
    d = dy * weight
    dx[:] = rstd * (d - d.mean(axis=1, keepdims=True) - xhat * (d * xhat).mean(axis=1, keepdims=True))
    dweight[:] = (dy * xhat).sum(axis=0, dtype=np.float64)
    dbias[:] = dy.sum(axis=0, dtype=np.float64)


@kernel(reference=layer_norm_backward_reference)
def layer_norm_backward(dy, x, weight, stats, dx, dweight, dbias, parts):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    partial = np.empty((parts, 2, width + APART), x.dtype)
    zero, d = x.dtype.type(0), x.dtype.type(width)
    for c in prange(parts):  # each part sums dγ and dβ by itself; then they are added in order: the same bits on every run
        for j in range(width):
            partial[c, 0, j] = 0
            partial[c, 1, j] = 0
        for n in range(c * rows // parts, (c + 1) * rows // parts):
            mean, shift, rstd = stats[n, 0], stats[n, 1], stats[n, 2]
            v, w = zero, zero
            for j in range(width):
                xhat = (x[n, j] - mean) * rstd - shift  # (3)
                partial[c, 0, j] += dy[n, j] * xhat  # (5)
                partial[c, 1, j] += dy[n, j]
                v += dy[n, j] * weight[j]
                w += dy[n, j] * weight[j] * xhat
            v, w = v / d, w / d
            for j in range(width):
                xhat = (x[n, j] - mean) * rstd - shift
                dx[n, j] = rstd * (dy[n, j] * weight[j] - v - xhat * w)  # (8)
    for j in range(width):
        dweight[j] = 0
        dbias[j] = 0
    for c in range(parts):
        for j in range(width):
            dweight[j] += partial[c, 0, j]
            dbias[j] += partial[c, 1, j]


# -- 3. On the graph ------------------------------------------------------------------------------------------------------------------
#
# The backward is an op of its own, with dx, dγ, dβ as functions of dy, x and γ. Let u, a, b be the gradients of its outputs dx, dγ, dβ.
# J is symmetric, so from (8) and (5) at once:
#
#     gradient of dy:   γ ⊙ J u + a ⊙ x̂ + b                                                          (9)
#     gradient of γ:    Σ_rows dy ⊙ J u                                                               (10)
#
# x enters through x̂ and rstd. Collect first what reaches x̂, from dx = rstd (d − mean(d) − x̂ mean(d x̂)) and dγ:
#
#     q = a ⊙ dy − rstd (mean(x̂ d) u + mean(x̂ u) d)                                                 (11)
#
# take it through x̂ by J, and add what dx owes to its factor rstd, by (6), since u·dx/rstd · ∂rstd/∂xⱼ sums to −rstd x̂ⱼ mean(u dx):
#
#     gradient of x:    J q − rstd x̂ mean(u dx)                                                       (12)


class LayerNormFunction(Function):
    """y of x, γ and β: (1) to (4)."""

    name = "NativeLayerNormBackward0"
    fresh_gradients = True

    def forward(self, x: Array, weight: Array | None, bias: Array | None, *, shape: tuple[int, ...], eps: float) -> Array:
        rows, kind = as_rows(x, math.prod(shape)), x.dtype
        count, width = rows.shape
        y, stats = np.empty((count, width), kind), np.empty((count, 3), kind)
        gamma = np.ones(width, kind) if weight is None else ready(weight).ravel()
        beta = np.zeros(width, kind) if bias is None else ready(bias).ravel()
        if count and width:
            layer_norm_forward[count * width](rows, gamma, beta, eps, y, stats)
        self.shape = shape
        self.save_for_backward(x, weight, stats)
        return y if rows is x else y.reshape(x.shape)

    def backward(self, dy: Any) -> Any:
        x, weight, stats = self.saved_tensors
        if isinstance(dy, Tensor):
            return LayerNormBackward.apply(dy, x, weight, stats=as_array(stats), shape=self.shape)
        return _gradients(dy, x, weight, stats, self.shape)  # not by `on`: a node for nothing is a microsecond of every small step


def _gradients(dy: Array, x: Array, weight: Array | None, stats: Array, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """dx, dγ and dβ, by (5) and (8), in the shapes of x, γ and β."""
    rows, kind = as_rows(x, math.prod(shape)), x.dtype
    count, width = rows.shape
    work = 2 * count * width
    if not work:
        return np.empty(x.shape, kind), np.zeros(shape, kind), np.zeros(shape, kind)
    dx, dweight, dbias = np.empty((count, width), kind), np.empty(width, kind), np.empty(width, kind)
    gamma = np.ones(width, kind) if weight is None else ready(weight).ravel()
    layer_norm_backward[work](as_rows(dy, width), rows, gamma, stats, dx, dweight, dbias, chunks(work))
    if rows is x and len(shape) == 1:
        return dx, dweight, dbias
    return dx.reshape(x.shape), dweight.reshape(shape), dbias.reshape(shape)


class LayerNormBackward(Function):
    """dx, dγ, dβ of dy, x and γ: (5) and (8); its own gradient, the second derivative, is (9) to (12)."""

    name = "NativeLayerNormBackwardBackward0"
    once_differentiable = True

    def forward(self, dy: Array, x: Array, weight: Array | None, *, stats: Array, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
        self.save_for_backward(dy, x, weight)
        self.stats, self.shape = stats, shape
        return _gradients(dy, x, weight, stats, shape)

    def backward(self, u: Array, a: Array, b: Array) -> Any:
        dy, x, weight = self.saved_tensors
        width = math.prod(self.shape)
        mu, shift, rstd = self.stats[:, 0:1], self.stats[:, 1:2], self.stats[:, 2:3]
        rows = (len(self.stats), width)
        dy, u, a, b = dy.reshape(rows), u.reshape(rows), a.reshape(width), b.reshape(width)
        xhat = (x.reshape(rows) - mu) * rstd - shift
        gamma = 1 if weight is None else weight.reshape(width)

        def m(v: Array) -> Array:
            mean: Array = v.mean(axis=1, keepdims=True) if width else v[:, :1]
            return mean

        def J(v: Array) -> Array:  # noqa: N802  (8)
            carried: Array = rstd * (v - m(v) - xhat * m(v * xhat))
            return carried

        d, Ju = gamma * dy, J(u)  # noqa: N806
        q = a * dy - rstd * (m(xhat * d) * u + m(xhat * u) * d)  # (11)
        gradient_dy = gamma * Ju + a * xhat + b  # (9)
        gradient_x = J(q) - rstd * xhat * m(u * J(d))  # (12)
        gradient_weight = None if weight is None else (dy * Ju).sum(axis=0).reshape(self.shape)  # (10)
        return gradient_dy.reshape(x.shape), gradient_x.reshape(x.shape), gradient_weight


def as_rows(x: Array, width: int) -> Array:
    """(…, *normalized_shape) as the (N, D) memory that the kernels are compiled for."""
    if not x.flags.carray:
        x = ready(x)
    return x if x.ndim == 2 and x.shape[1] == width else x.reshape(x.size // width if width else 0, width)


# -- 4. For users ---------------------------------------------------------------------------------------------------------------------


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """y = (x − mean)/√(var + eps)·weight + bias over the last axes of each sample; Ba et al. 2016, eq. 3 and 4.

    Args:
        input: (…, *normalized_shape), float32 or float64.
        normalized_shape: the lengths of the last axes, over which the statistics are taken together.
        weight: γ, of normalized_shape; ones if None.
        bias: β, of normalized_shape; zeros if None.
        eps: added to the variance, in its units.
    Returns:
        A Tensor of input's shape.
    Raises:
        RuntimeError: the shapes or dtypes do not fit together.
        TypeError: normalized_shape is a number.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.layer_norm(tg.tensor([[1.0, 2.0, 3.0]]), (3,))
        tensor([[-1.2247,  0.0000,  1.2247]])
    """
    shape = shape_argument("layer_norm", normalized_shape)
    check_normalized("layer_norm", input, shape, weight, bias)
    if type(eps) is not float:
        check_eps("layer_norm", eps)
        eps = float(eps)
    y: Tensor = LayerNormFunction.apply(input, weight, bias, shape=shape, eps=eps)
    return y


def shape_argument(op: str, shape: Any) -> tuple[int, ...]:
    """normalized_shape as a function takes it, as a tuple: TypeError where it is no sequence of integers."""
    if type(shape) is not tuple:
        if not isinstance(shape, Sequence) or isinstance(shape, (str, bytes)):
            raise TypeError(f"{op}(): argument 'normalized_shape' must be tuple of ints, not {type(shape).__name__}")
        shape = tuple(shape)
    for n in shape:
        if type(n) is not int and (isinstance(n, bool) or not isinstance(n, (int, np.integer))):
            raise TypeError(f"{op}(): argument 'normalized_shape' must be tuple of ints, but found element of type {type(n).__name__}")
    return shape  # type: ignore[no-any-return]


class LayerNorm(AffineNorm):
    """Normalizes each sample over its last axes: y = (x − mean)/√(var + eps)·weight + bias; Ba et al. 2016, eq. 3 and 4.

    Args:
        normalized_shape: the lengths of those axes; n means (n,).
        eps: added to the variance.
        elementwise_affine: whether γ and β are learned.
        bias: whether, then, there is a β.
        dtype: of the parameters, float32 by default.
    Attributes:
        weight: γ, ones at the start, of normalized_shape.
        bias: β, zeros at the start, of normalized_shape.

    Example:
        >>> import tinygrad_norm as tg
        >>> norm = tg.nn.LayerNorm([2, 3])
        >>> norm, norm(tg.arange(6).float().reshape(1, 2, 3)).mean().item()
        (LayerNorm((2, 3), eps=1e-05, elementwise_affine=True, bias=True), 0.0)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = check_lengths("LayerNorm", normalized_shape)
        check_eps("LayerNorm", eps)
        kind = parameter_dtype("LayerNorm", dtype, device)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._register_affine(self.normalized_shape, kind, elementwise_affine, elementwise_affine and bias)

    def forward(self, input: Tensor) -> Tensor:
        """(…, *normalized_shape) to the same."""
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"


def check_normalized(op: str, input: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None = None) -> None:
    """The input ends in `shape`, γ and β have it, and all are of one floating point type: TypeError or RuntimeError otherwise."""
    check_tensor(input, op)
    lengths, kind = input._data.shape, input._data.dtype
    if not shape:
        raise RuntimeError(f"Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, but got {list(shape)}")
    if weight is not None:
        _check_affine(op, "weight", weight, shape, input, kind)
    if bias is not None:
        _check_affine(op, "bias", bias, shape, input, kind)
    if lengths[-len(shape) :] != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [{', '.join(['*', *map(str, shape)])}], but got input of size{list(lengths)}"
        )
    if kind.kind != "f":
        raise RuntimeError(f"{op}: the input must be floating point; got {input.dtype}: convert it with .float()")


def _check_affine(op: str, what: str, t: Tensor, shape: tuple[int, ...], input: Tensor, kind: Any) -> None:
    """γ or β has `shape` and the input's type."""
    check_tensor(t, op)
    if t._data.shape != shape:
        raise RuntimeError(
            f"Expected {what} to be of same shape as normalized_shape, but got {what} of shape {list(t.shape)} and normalized_shape = {list(shape)}"
        )
    if t._data.dtype is not kind and t._data.dtype != kind:
        raise RuntimeError(f"{op}: mixed dtype: the input is {input.dtype}, {what} is {t.dtype}: convert the input with .to({what}.dtype), or the layer")


def check_lengths(layer: str, shape: Any) -> tuple[int, ...]:
    """normalized_shape as a layer takes it, as a tuple: TypeError or RuntimeError where it is no lengths of axes."""
    lengths = (shape,) if isinstance(shape, (int, np.integer)) else shape
    if not isinstance(lengths, Sequence) or isinstance(lengths, str) or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) for n in lengths):
        raise TypeError(f"{layer}: normalized_shape must be an int or a sequence of ints, the lengths of the last axes; got {shape!r}")
    if not lengths or any(n < 0 for n in lengths):
        raise RuntimeError(f"{layer}: normalized_shape must hold at least one length, none negative; got {shape!r}")
    return tuple(int(n) for n in lengths)
