"""The linear layer: every output is a weighted sum of the inputs.

    y = x Wᵀ + b,    yₙₒ = Σᵢ xₙᵢ wₒᵢ + bₒ                x (N, I), W (O, I), b (O), y (N, O)        (1)

One input xₙᵢ reaches every output of its own row, one weight wₒᵢ and one bias bₒ every row. With dy the gradient of y:

    ∂L/∂xₙᵢ = Σₒ dyₙₒ wₒᵢ          so  dx = dy W                                                     (2)
    ∂L/∂wₒᵢ = Σₙ dyₙₒ xₙᵢ          so  dW = dyᵀ x                                                    (3)
    ∂L/∂bₒ  = Σₙ dyₙₒ              so  db = Σₙ dy                                                    (4)

Further axes of x in front are more rows. The matrix products are BLAS's; the bias and its gradient have kernels. The backward is
written with products and sums, which have derivatives of their own, so every order is there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dtype import parameter_dtype
from ..function import Function
from ..kernel import APART, chunks, kernel, prange, ready
from ..ops.operands import check_tensor
from ..quiet import quiet
from ..tensor import Tensor
from . import init
from .module import Module
from .parameter import Parameter, check_size

Array = np.ndarray[Any, Any]
ROWS = 512  # so many are summed before they join the others

# -- 1. Forward: the bias -------------------------------------------------------------------------------------------------------------


def add_bias_reference(y: Array, bias: Array) -> None:
    """y += b on every row."""
    y += bias


@kernel(reference=add_bias_reference)
def add_bias(y, bias):  # type: ignore[no-untyped-def]
    rows, width = y.shape
    for n in prange(rows):
        for o in range(width):
            y[n, o] += bias[o]  # (1)


# -- 2. Backward: its gradient --------------------------------------------------------------------------------------------------------


def sum_rows_reference(dy: Array, db: Array, parts: int) -> None:
    """db = Σₙ dy."""
    db[:] = dy.sum(axis=0, dtype=np.float64)


@kernel(reference=sum_rows_reference)
def sum_rows(dy, db, parts):  # type: ignore[no-untyped-def]
    rows, width = dy.shape
    partial = np.empty((parts, 2, width + APART), dy.dtype)
    for c in prange(parts):  # each chunk of rows into a row of its own, then those in order: the same bits on every run
        first, stop = c * rows // parts, (c + 1) * rows // parts
        for o in range(width):
            partial[c, 0, o] = 0
        for start in range(first, stop, ROWS):  # float32 sums stay short
            for o in range(width):
                partial[c, 1, o] = 0
            for n in range(start, min(start + ROWS, stop)):
                for o in range(width):
                    partial[c, 1, o] += dy[n, o]  # (4)
            for o in range(width):
                partial[c, 0, o] += partial[c, 1, o]
    for o in range(width):
        db[o] = partial[0, 0, o]
    for c in range(1, parts):
        for o in range(width):
            db[o] += partial[c, 0, o]


def bias_gradient(dy: Array) -> Array:
    """Σₙ dy over the rows of (N, O)."""
    db = np.empty(dy.shape[1], dy.dtype)
    sum_rows[dy.size](ready(dy), db, chunks(dy.size))
    return db


# -- 3. On the graph ------------------------------------------------------------------------------------------------------------------


def product(a: Any, b: Any) -> Any:
    """a @ b. On arrays dot has half of @'s overhead; but it takes a (1, 1) for a number, and where that is 0 it skips NaN and infinity."""
    return a @ b if isinstance(a, Tensor) or a.size == 1 or b.size == 1 else a.dot(b)


def as_matrix(x: Any) -> Any:
    """(…, I) as (N, I); -1 for N would not do where I is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


class LinearFunction(Function):
    """y = x Wᵀ + b (1) and its gradients (2) to (4)."""

    name = "AddmmBackward0"
    fresh_gradients = True

    def forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        rows = x if x.ndim == 2 else as_matrix(x)
        y: Array = quiet.run(product, rows, weight.T)  # (1)
        if bias is not None:
            add_bias[y.size](y, ready(bias))
        from_x, from_weight, _ = self.edges  # None where no gradient will be asked for
        self.save_for_backward(None if from_weight is None else x, None if from_x is None else weight)
        if rows is x:
            return y
        self.name = "ViewBackward0"
        return y.reshape((*x.shape[:-1], len(weight)))

    def backward(self, dy: Any) -> Any:
        x, weight = self.saved_tensors
        from_x, from_weight, from_bias = self.edges
        rows = dy if dy.ndim == 2 else as_matrix(dy)
        dx = dw = db = None
        if from_x is not None:
            dx = product(rows, weight)  # (2)
            if dy.ndim != 2:
                dx = dx.reshape(*dy.shape[:-1], dx.shape[-1])
        if from_weight is not None:
            dw = product(rows.T, x if x.ndim == 2 else as_matrix(x))  # (3)
        if from_bias is not None:
            db = rows.sum(0) if isinstance(rows, Tensor) else bias_gradient(rows)  # (4)
        return dx, dw, db


# -- 4. For users ---------------------------------------------------------------------------------------------------------------------


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x Wᵀ + b.

    Args:
        input: (…, I).
        weight: (O, I).
        bias: (O), or any shape that expands to the output's.
    Returns:
        (…, O).
    Raises:
        RuntimeError: shapes or dtypes that do not fit.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.functional.linear(tg.ones(1, 3), tg.tensor([[1.0, 2.0, 3.0]]))
        tensor([[6.]])
    """
    if not isinstance(input, Tensor) or not isinstance(weight, Tensor):
        check_tensor(input, "linear")
        check_tensor(weight, "linear")
    if bias is not None and not isinstance(bias, Tensor):
        check_tensor(bias, "linear")
    x, w = input._data, weight._data
    lengths, shape, kind = x.shape, w.shape, w.dtype  # each asked for once: an array makes them anew every time
    if len(shape) != 2 or not lengths or lengths[-1] != shape[1]:
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied: linear takes input (…, I) and weight (O, I); got input {list(lengths)} and weight "
            f"{list(shape)}"
        )
    if x.dtype is not kind or (bias is not None and bias._data.dtype is not kind):
        _check_types(input, weight, bias)
    if bias is None or bias._data.shape == shape[:1]:
        y: Tensor = LinearFunction.apply(input, weight, bias)
        return y
    y = LinearFunction.apply(input, weight, None)
    return y + bias.expand(y.shape)


def _check_types(*tensors: Tensor | None) -> None:
    """RuntimeError unless all that are there have one element type."""
    types = [t.dtype for t in tensors if t is not None]
    if any(kind != types[0] for kind in types):
        raise RuntimeError(f"linear: input, weight and bias must have the same dtype, but got {types}: convert the input with .to(weight.dtype)")


class Linear(Module):
    """y = x Wᵀ + b with learned W and b, both drawn from U(−1/√I, 1/√I).

    Args:
        in_features: I, the length of the input's last axis.
        out_features: O, the length of the output's.
        bias: whether there is a b.
        dtype: of the parameters, float32 by default.

    Example:
        >>> import tinygrad_norm as tg
        >>> layer = tg.nn.Linear(3, 4)
        >>> layer, layer(tg.ones(2, 3)).shape
        (Linear(in_features=3, out_features=4, bias=True), torch.Size([2, 4]))
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        for name, n in (("in_features", in_features), ("out_features", out_features)):
            check_size("Linear", name, n)
        self.in_features = int(in_features)
        self.out_features = int(out_features)
        kind = parameter_dtype("Linear", dtype, device)
        self.weight = Parameter(np.empty((self.out_features, self.in_features), kind))
        self.register_parameter("bias", Parameter(np.empty(self.out_features, kind)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws both anew: weight first, as torch does."""
        if not self.weight._data.size:
            return
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # U(±√(6/((1+5)·I))), which is U(±1/√I)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """(…, I) to (…, O)."""
        return linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
