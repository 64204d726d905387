"""A bank of wrong backward passes of Linear, ReLU and softmax cross-entropy, as wrong_norms.py has it for the norms.

    Linear          y = x Wᵀ + b, W (O, I)         dx = dy W,   dW = dyᵀ x,   db = Σ dy
    ReLU            y = max(x, 0)                  dx = dy⊙(x > 0)
    cross-entropy   L = −1/N Σ ln p[n, tₙ]         dz = u (p − o)/N     p: softmax of the logits z; o: one-hot targets; u: upstream
"""

from __future__ import annotations

import numpy as np

from .target import Array
from .wrong_norms import Values, Wrong

__all__ = ["CROSS_ENTROPY", "LINEAR", "RELU", "cross_entropy_values", "linear_values", "relu_values"]

# -- 1. Linear ----------------------------------------------------------------------------------------------------------------------------


def linear_values(x: Array, weight: Array, bias: Array, dy: Array, before: Array | None = None) -> Values:
    """x (…, I), W (O, I), b (O), dy (…, O), and the .grad of W before this backward; `rows` are x and dy with all samples in one axis."""
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    v = Values(x=x, W=weight, b=bias, dy=dy, y=x @ weight.T + bias, rows=rows, drows=drows, N=len(rows), before=0 * weight if before is None else before)
    v["dx"], v["dW"], v["db"] = dy @ weight, drows.T @ rows, drows.sum(axis=0)
    return v


def _square_weight(v: Values) -> bool:
    return bool(v.W.shape[0] == v.W.shape[1])


def _all_square(v: Values) -> bool:
    return bool(_square_weight(v) and v.x.shape == v.W.shape)


def _steps(v: Values) -> bool:
    return bool(v.x.ndim == 3)


DX, DW, DB = "∂yₙₒ/∂xₙᵢ = wₒᵢ: dx = dy W", "∂yₙₒ/∂wₒᵢ = xₙᵢ: dW = dyᵀ x, summed over all samples", "∂yₙₒ/∂bₒ = 1: db = Σₙ dy"

LINEAR: list[Wrong] = [
    Wrong("dx: dy Wᵀ", DX, lambda v: v.dy @ v.W.T, _square_weight),
    Wrong("dx: dy", DX, lambda v: v.dy, _square_weight),
    Wrong("dx: divided by N", DX, lambda v: v.dx / v.N),
    Wrong("dx: sign", DX, lambda v: -v.dx),
    Wrong("dx: y W", DX, lambda v: v.y @ v.W),
    Wrong("dx: dy W + b", DX, lambda v: v.dx + v.b, _square_weight),
    Wrong("dx: summed over the batch", "each sample has its own x", lambda v: v.dx.reshape(v.N, -1).sum(axis=0)),
    Wrong("dx: elementwise", "a matrix product, not dy⊙W", lambda v: v.dy * v.W, _all_square),
    Wrong("dx: zeros", DX, lambda v: 0 * v.x),
    Wrong("dW: xᵀ dy", DW, lambda v: v.rows.T @ v.drows),
    Wrong("dW: divided by N", DW, lambda v: v.dW / v.N),
    Wrong("dW: last sample only", DW, lambda v: np.outer(v.drows[-1], v.rows[-1])),
    Wrong("dW: first sample only", DW, lambda v: np.outer(v.drows[0], v.rows[0])),
    Wrong("dW: outer product of sums", "a sum of products, not a product of sums", lambda v: np.outer(v.drows.sum(0), v.rows.sum(0))),
    Wrong("dW: outer product of means", "a sum of products, not a product of means", lambda v: np.outer(v.drows.mean(0), v.rows.mean(0))),
    Wrong("dW: yᵀ x", DW, lambda v: v.y.reshape(v.N, -1).T @ v.rows),
    Wrong("dW: 1ᵀ x", DW, lambda v: np.ones_like(v.drows).T @ v.rows),
    Wrong("dW: sign", DW, lambda v: -v.dW),
    Wrong("dW: per sample, not summed", DW, lambda v: v.drows[:, :, None] * v.rows[:, None, :]),
    Wrong("dW: summed over the batch only", "all axes in front are samples", lambda v: np.einsum("nto,nti->toi", v.dy, v.x), _steps),
    Wrong("dW: last step only", "all axes in front are samples", lambda v: v.dy[:, -1].T @ v.x[:, -1], _steps),
    # What a backward adds to .grad is looked at: with `=` the old value is lost.
    Wrong("dW: = for += over two backward calls", "gradients accumulate", lambda v: v.dW - v.before),
    Wrong("db: no sum", DB, lambda v: v.dy),
    Wrong("db: mean", DB, lambda v: v.db / v.N),
    Wrong("db: summed over features", DB, lambda v: v.drows.sum(axis=1)),
    Wrong("db: a scalar", DB, lambda v: np.asarray(v.dy.sum())),
    Wrong("db: N", DB, lambda v: np.full_like(v.b, v.N)),
    Wrong("db: ones", DB, lambda v: np.ones_like(v.b)),
    Wrong("db: Σ dy⊙b", DB, lambda v: (v.drows * v.b).sum(axis=0)),
    Wrong("db: last sample", DB, lambda v: v.drows[-1]),
    Wrong("db: axis 0 only", "all axes in front are samples", lambda v: v.dy.sum(axis=0), _steps),
    Wrong("db: sign", DB, lambda v: -v.db),
]

# -- 2. ReLU ------------------------------------------------------------------------------------------------------------------------------


def relu_values(x: Array, dy: Array) -> Values:
    """x and dy of one shape."""
    return Values(x=x, dy=dy, mask=x > 0, y=np.maximum(x, 0), dx=dy * (x > 0))


def _dy_in_place(v: Values) -> Array:
    v.dy[~v.mask] = 0
    return np.asarray(v.dy)


def _x_in_place(v: Values) -> Array:
    v.x[~v.mask] = 0
    return np.asarray(v.dx)


MASK, AT_ZERO = "∂y/∂x is 1 where x > 0 and 0 elsewhere", "the gradient at exactly 0 is taken as 0"

RELU: list[Wrong] = [
    Wrong(">= at 0", AT_ZERO, lambda v: v.dy * (v.x >= 0)),
    Wrong("½ at 0", AT_ZERO, lambda v: v.dy * np.where(v.x == 0, 0.5, v.mask)),
    Wrong("(x > 0) without dy", "the chain rule: times dy", lambda v: v.mask.astype(v.x.dtype)),
    Wrong("dy without the mask", MASK, lambda v: v.dy),
    Wrong("dy·relu(x)", MASK, lambda v: v.dy * v.y),
    Wrong("dy·x", MASK, lambda v: v.dy * v.x),
    Wrong("relu(dy)", "the mask is x's, not dy's", lambda v: np.maximum(v.dy, 0)),
    Wrong("dy(x > 0)(dy > 0)", "a negative dy passes as well (this is guided backpropagation)", lambda v: v.dx * (v.dy > 0)),
    Wrong("dy(x < 0)", MASK, lambda v: v.dy * (v.x < 0)),
    Wrong("leaky, 0.01 below 0", MASK, lambda v: v.dy * np.where(v.mask, 1, 0.01)),
    Wrong("dy·sign(x)", MASK, lambda v: v.dy * np.sign(v.x)),
    Wrong("x > 1", MASK, lambda v: v.dy * (v.x > 1)),
    Wrong("clipped at 6", MASK, lambda v: v.dx * (v.x < 6)),
    Wrong("zeros", MASK, lambda v: 0 * v.x),
    Wrong("dy changed in place", "dy belongs to others as well", _dy_in_place),
    Wrong("x changed in place", "x belongs to others as well", _x_in_place),
]

# -- 3. Softmax cross-entropy ---------------------------------------------------------------------------------------------------------------


def _softmax(z: Array, axis: int = 1) -> Array:
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def cross_entropy_values(z: Array, target: Array, upstream: float = 1.0, ignore_index: int = -100) -> Values:
    """Logits (N, C), class numbers (N), the gradient of the loss, and the class number that says: do not count this row."""
    keep = (target != ignore_index)[:, None]
    p, o = _softmax(z), np.zeros_like(z)
    o[np.flatnonzero(keep), target[keep[:, 0]]] = 1
    n, c = z.shape
    v = Values(z=z, t=np.where(keep[:, 0], target, 0), u=upstream, p=p, o=o, N=int(keep.sum()), C=c, rows=n, keep=keep)
    v["dz"] = upstream * (p - o) * keep / v.N
    return v


def _through_softmax(v: Values, g: Array) -> Array:
    return np.asarray(v.u * v.p * (g - (v.p * g).sum(axis=1, keepdims=True)) / v.N * v.keep)


def _columns(v: Values) -> Array:
    p = v.p.copy()
    p[:, v.t] -= 1
    return np.asarray(v.u * p / v.N)


def _naive(v: Values) -> Array:
    with np.errstate(all="ignore"):
        e = np.exp(v.z)
        return np.asarray(v.u * (e / e.sum(axis=1, keepdims=True) - v.o) * v.keep / v.N)


def _exp(z: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.asarray(np.exp(z))


def _true_p(v: Values) -> Array:
    return np.asarray((v.p * v.o).sum(axis=1, keepdims=True))


MEAN = "the loss is a mean over N samples"
JACOBIAN = "∂L/∂z = p − o: through the logarithm and the softmax"

CROSS_ENTROPY: list[Wrong] = [
    Wrong("no 1/N", MEAN, lambda v: v.dz * v.N),
    Wrong("1/N²", MEAN, lambda v: v.dz / v.N),
    Wrong("1/(N·C)", MEAN, lambda v: v.dz / v.C),
    Wrong("1/C", MEAN, lambda v: v.dz * v.N / v.C),
    Wrong("upstream gradient ignored", "the chain rule: times u", lambda v: v.dz / v.u),
    Wrong("log₂", "L has the natural logarithm", lambda v: v.dz / np.log(2)),
    Wrong("sign", "L = −ln p", lambda v: -v.dz),
    Wrong("no one-hot", JACOBIAN, lambda v: v.u * v.p * v.keep / v.N),
    Wrong("no softmax", JACOBIAN, lambda v: v.u * (v.z - v.o) * v.keep / v.N),
    Wrong("zeros", JACOBIAN, lambda v: 0 * v.z),
    Wrong("true class only (the diagonal of the softmax Jacobian only)", "every logit moves every probability", lambda v: v.u * v.o * (v.p - 1) / v.N),
    Wrong("stopped at p", "from p to z is another step", lambda v: -v.u * v.o / (v.p * v.N)),
    Wrong("stopped at log p", "from log p to z is another step", lambda v: -v.u * v.o / v.N),
    Wrong("softmax over the batch", "the softmax is over the classes of a sample", lambda v: v.u * (_softmax(v.z, 0) - v.o) * v.keep / v.N),
    Wrong("softmax twice", "cross_entropy takes logits", lambda v: _through_softmax(v, _softmax(v.p) - v.o)),
    Wrong("squared error on probabilities", "L = −ln p[t]", lambda v: _through_softmax(v, 2 * (v.p - v.o))),
    Wrong("sigmoid", "p is the softmax", lambda v: v.u * (1 / (1 + _exp(-v.z)) - v.o) * v.keep / v.N),
    Wrong("unnormalised exp", "p = eᶻ/Σeᶻ", lambda v: v.u * (_exp(v.z) - v.o) * v.keep / v.N),
    Wrong("(p − o)·p·(1 − p)", "the softmax's Jacobian is in p − o already", lambda v: v.dz * v.p * (1 - v.p)),
    Wrong("labels off by one", "classes count from 0", lambda v: v.u * (v.p - np.roll(v.o, 1, axis=1)) * v.keep / v.N),
    Wrong("p[:, t] -= 1", "p[arange(N), t] -= 1: one element a row", _columns),
    Wrong("NaN at logits of 1000", "softmax(z) = softmax(z − max z)", _naive),
    Wrong("log(p + 1e-9)", "L = −ln p[t], computed as z[t] − logsumexp(z)", lambda v: v.dz * _true_p(v) / (_true_p(v) + 1e-9)),
    Wrong("ignored rows counted in N", "the mean is over the rows that are not ignored", lambda v: v.dz * v.N / v.rows),
]
