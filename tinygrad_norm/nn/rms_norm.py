"""Root mean square normalization (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4): layer normalization that leaves the mean where it is.

Over the D elements of one row (all normalized axes of one sample), with a learned γ (weight) of D elements:

    ms = 1/D Σⱼ xⱼ²,   r = (ms + eps)^(−½)                                                          (1)
    x̂ⱼ = xⱼ·r                                                                                       (2)
    yⱼ = γⱼ x̂ⱼ                                                                                      (3)

What is lost is that a constant added to x changes nothing; that x may be stretched stays, but for eps. Without a mean there is nothing to
cancel at a large one, so a plain sum of squares is as good as any. Where the mean of x is 0, this is layer normalization without β.

    convention          torch RMSNorm                                     Keras RMSNormalization
    eps                 None: the machine epsilon of x's type, inside     1e-6, inside
    names of γ          weight                                            scale
    axes                the last ones, by shape                           any, by number; -1 by default
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dtype import parameter_dtype
from ..function import Function
from ..kernel import APART, chunks, kernel, prange, ready
from ..ops.operands import as_array
from ..tensor import Tensor
from . import init
from .layer_norm import as_rows, check_lengths, check_normalized, shape_argument
from .module import Module
from .norm import check_eps
from .parameter import Parameter

Array = np.ndarray[Any, Any]
ROWS = 512  # of a block

# -- 1. Forward -----------------------------------------------------------------------------------------------------------------------


def rms_norm_forward_reference(x: Array, weight: Array, eps: Any, y: Array, scale: Array) -> None:
    """Equations (1) to (3) on the rows of x (N, D); scale (N,) gets r."""
    scale[:] = 1 / np.sqrt((x * x).mean(axis=1) + eps)
    y[:] = x * scale[:, None] * weight


@kernel(reference=rms_norm_forward_reference)
def rms_norm_forward(x, weight, eps, y, scale):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    zero, one, d = x.dtype.type(0), x.dtype.type(1), x.dtype.type(width)
    small = x.dtype.type(eps)
    for n in prange(rows):
        square = zero
        for j in range(width):
            square += x[n, j] * x[n, j]
        r = one / math.sqrt(square / d + small)  # (1)
        for j in range(width):
            y[n, j] = x[n, j] * r * weight[j]  # (2), (3)
        scale[n] = r


# -- 2. Backward ----------------------------------------------------------------------------------------------------------------------
#
# From (3), with dy the gradient of y:
#
#     dγⱼ = Σ_rows dyⱼ x̂ⱼ,   and into x̂ goes   dⱼ = γⱼ dyⱼ                                           (4)
#
# Every xⱼ moves every x̂ᵢ of its row along two paths, itself and r. From (1) and (2):
#
#     ∂r/∂xⱼ = −½ r³ · 2 xⱼ/D = −r² x̂ⱼ/D                                                            (5)
#     ∂x̂ᵢ/∂xⱼ = r (δᵢⱼ − x̂ᵢ x̂ⱼ/D)                                                                   (6)
#
# It is layer normalization's without its 1/D, and symmetric as well: with
#
#     J v = r (v − x̂ mean(v x̂)),       dx = J d                                                      (7)


def rms_norm_backward_reference(dy: Array, x: Array, weight: Array, scale: Array, dx: Array, dweight: Array, parts: int) -> None:
    """Equations (4) and (7) on the rows of dy and x (N, D)."""
    r = scale[:, None]
    xhat, d = x * r, dy * weight
    dx[:] = r * (d - xhat * (d * xhat).mean(axis=1, keepdims=True))
    dweight[:] = (dy * xhat).sum(axis=0, dtype=np.float64)


@kernel(reference=rms_norm_backward_reference)
def rms_norm_backward(dy, x, weight, scale, dx, dweight, parts):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    partial = np.empty((parts, 2, width + APART), x.dtype)  # of a part, and of a block of its rows: float32 sums stay short
    zero, d = x.dtype.type(0), x.dtype.type(width)
    for c in prange(parts):  # each part sums dγ by itself; then they are added in order: the same bits on every run
        first, stop = c * rows // parts, (c + 1) * rows // parts
        for j in range(width):
            partial[c, 0, j] = 0
        for start in range(first, stop, ROWS):
            for j in range(width):
                partial[c, 1, j] = 0
            for n in range(start, min(start + ROWS, stop)):
                r, w = scale[n], zero
                for j in range(width):
                    along = dy[n, j] * (x[n, j] * r)
                    partial[c, 1, j] += along  # (4)
                    w += along * weight[j]
                w = w / d
                for j in range(width):
                    dx[n, j] = r * (dy[n, j] * weight[j] - x[n, j] * r * w)  # (7)
            for j in range(width):
                partial[c, 0, j] += partial[c, 1, j]
    for j in range(width):
        dweight[j] = 0
    for c in range(parts):
        for j in range(width):
            dweight[j] += partial[c, 0, j]


# -- 3. On the graph ------------------------------------------------------------------------------------------------------------------
#
# The backward is an op of its own, as in layer_norm.py (equations 9 to 12), with this J. With u and a the gradients of dx and dγ:
#
#     gradient of dy:   γ ⊙ J u + a ⊙ x̂                                                              (8)
#     gradient of γ:    Σ_rows dy ⊙ J u                                                               (9)
#     gradient of x:    J q − r x̂ mean(u dx),   q = a ⊙ dy − r (mean(x̂ d) u + mean(x̂ u) d)            (10)
#
# q is what reaches x̂; the last term is what dx owes to its factor r, by (5).


class RMSNormFunction(Function):
    """y of x and γ: (1) to (3)."""

    name = "FusedRmsNormBackward0"
    fresh_gradients = True

    def forward(self, x: Array, weight: Array | None, *, shape: tuple[int, ...], eps: float) -> Array:
        width = math.prod(shape)
        rows = as_rows(x, width)
        y, scale = np.empty(x.shape, x.dtype), np.empty(len(rows), x.dtype)
        gamma = np.ones(width, x.dtype) if weight is None else ready(weight).ravel()
        if x.size:
            rms_norm_forward[x.size](rows, gamma, eps, y.reshape(rows.shape), scale)
        self.shape = shape
        self.save_for_backward(x, weight, scale)
        return y

    def backward(self, dy: Any) -> Any:
        x, weight, scale = self.saved_tensors
        dx, dweight = RMSNormBackward.on(dy, x, weight, scale=as_array(scale), shape=self.shape)
        return dx, dweight


class RMSNormBackward(Function):
    """dx and dγ of dy, x and γ: (4) and (7); its own gradient, the second derivative, is (8) to (10)."""

    name = "FusedRmsNormBackwardBackward0"
    once_differentiable = True

    def forward(self, dy: Array, x: Array, weight: Array | None, *, scale: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        self.save_for_backward(dy, x, weight)
        self.scale, self.shape = scale, shape
        width = math.prod(shape)
        rows = as_rows(x, width)
        dx, dweight = np.empty(x.shape, x.dtype), np.zeros(shape, x.dtype)
        gamma = np.ones(width, x.dtype) if weight is None else ready(weight).ravel()
        if x.size:
            rms_norm_backward[2 * x.size](as_rows(dy, width), rows, gamma, scale, dx.reshape(rows.shape), dweight.reshape(width), chunks(2 * x.size))
        return dx, dweight

    def backward(self, u: Array, a: Array) -> Any:
        dy, x, weight = self.saved_tensors
        width, r = math.prod(self.shape), self.scale[:, None]
        rows = (len(r), width)
        dy, u, a = dy.reshape(rows), u.reshape(rows), a.reshape(width)
        xhat = x.reshape(rows) * r
        gamma = 1 if weight is None else weight.reshape(width)

        def m(v: Array) -> Array:
            mean: Array = v.mean(axis=1, keepdims=True) if width else v[:, :1]
            return mean

        def J(v: Array) -> Array:  # noqa: N802  (7)
            carried: Array = r * (v - xhat * m(v * xhat))
            return carried

        d, Ju = gamma * dy, J(u)  # noqa: N806
        q = a * dy - r * (m(xhat * d) * u + m(xhat * u) * d)  # (10)
        gradient_dy = gamma * Ju + a * xhat  # (8)
        gradient_x = J(q) - r * xhat * m(u * J(d))  # (10)
        gradient_weight = None if weight is None else (dy * Ju).sum(axis=0).reshape(self.shape)  # (9)
        return gradient_dy.reshape(x.shape), gradient_x.reshape(x.shape), gradient_weight


# -- 4. For users ---------------------------------------------------------------------------------------------------------------------


def rms_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """y = x/√(mean(x²) + eps)·weight over the last axes of each sample; Zhang & Sennrich 2019, eq. 4.

    Args:
        input: (…, *normalized_shape), float32 or float64.
        normalized_shape: the lengths of the last axes, over which the mean square is taken.
        weight: γ, of normalized_shape; ones if None. Unlike in torch, of input's element type.
        eps: added to the mean square, in its units; the machine epsilon of input's type if None.
    Returns:
        A Tensor of input's shape.
    Raises:
        RuntimeError: the shapes or dtypes do not fit together.
        TypeError: normalized_shape is a number.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.rms_norm(tg.tensor([[3.0, 4.0]]), (2,))
        tensor([[0.8485, 1.1314]])
    """
    shape = shape_argument("rms_norm", normalized_shape)
    check_normalized("rms_norm", input, shape, weight)
    if eps is None:
        eps = np.finfo(input._data.dtype).eps
    elif type(eps) is not float:
        check_eps("rms_norm", eps)
    y: Tensor = RMSNormFunction.apply(input, weight, shape=shape, eps=float(eps))
    return y


class RMSNorm(Module):
    """Divides each sample by its root mean square over the last axes: y = x/√(mean(x²) + eps)·weight; Zhang & Sennrich 2019, eq. 4.

    Args:
        normalized_shape: the lengths of those axes; n means (n,).
        eps: added to the mean square; the machine epsilon of the input's type if None.
        elementwise_affine: whether γ is learned.
        dtype: of γ, float32 by default.
    Attributes:
        weight: γ, ones at the start, of normalized_shape.

    Example:
        >>> import tinygrad_norm as tg
        >>> norm = tg.nn.RMSNorm(2)
        >>> norm, norm(tg.tensor([[3.0, -3.0]]))
        (RMSNorm((2,), eps=None, elementwise_affine=True), tensor([[ 1., -1.]], grad_fn=<FusedRmsNormBackward0>))
    """

    weight: Parameter | None

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.normalized_shape = check_lengths("RMSNorm", normalized_shape)
        if eps is not None:
            check_eps("RMSNorm", eps)
        kind = parameter_dtype("RMSNorm", dtype, device)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.register_parameter("weight", Parameter(np.ones(self.normalized_shape, kind)) if elementwise_affine else None)

    def reset_parameters(self) -> None:
        """γ to ones."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """(…, *normalized_shape) to the same."""
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
