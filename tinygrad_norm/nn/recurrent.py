"""Recurrent cells: one step of a network that reads a sequence and carries a state from step to step.

    RNNCell             h' = tanh(W_ih x + b_ih + W_hh h + b_hh)                        Elman 1990            (1)
    LSTMCell            (i, f, g, o) = W_ih x + b_ih + W_hh h + b_hh                    Hochreiter &          (2)
                        c' = σ(f)⊙c + σ(i)⊙tanh(g)                                      Schmidhuber 1997      (3)
                        h' = σ(o)⊙tanh(c')                                                                    (4)
    LayerNormLSTMCell   (i, f, g, o) = LN(W_hh h; α₁, β₁) + LN(W_ih x; α₂, β₂) + b      Ba et al. 2016,       (5)
                        h' = σ(o)⊙tanh(LN(c'; α₃, β₃)),   c' by (3)                     eq. 20 to 22          (6)

x (N, I) is one time step of N sequences, h and c (N, H) the state, W_ih (4H, I), W_hh (4H, H); in (1) they have H rows. The gates open and
close by σ(z) = 1/(1 + e⁻ᶻ): f says what of the old memory c is kept, i what of the candidate tanh(g) is written, o what of it is shown.

Why the norm is inside: the same W_hh works at every step, so a summed input that grows or shrinks a little at each of 100 steps leaves
the range where σ and tanh have a slope. LN gives it the same spread at every step, of every sequence, whatever its length; a batch norm
would need statistics of its own for each time step, and at the steps that only the longest sequence reaches it would have one sample.

`run_cell`, in sequences.py, takes a cell over a batch of sequences of different lengths.

    1. The LSTM's memory: forward   2. backward   3. On the graph   4. One step, for users   5. The modules
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..dtype import parameter_dtype
from ..function import Function
from ..kernel import device, kernel, prange, ready
from ..ops.operands import check_tensor
from ..ops.shape import cat
from ..ops.unary import sigmoid, tanh
from ..tensor import Tensor
from . import init
from .activation import relu
from .layer_norm import LayerNorm
from .linear import linear
from .module import Module
from .parameter import Parameter, check_size
from .softmax import exp, is_double

__all__ = ["LSTMCell", "LayerNormLSTMCell", "RNNCell", "layer_norm_lstm_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"]

Array = np.ndarray[Any, Any]
Pair = tuple[Tensor, Tensor]
Norm = Callable[[Tensor], Tensor]

# -- 1. The LSTM's memory: forward ----------------------------------------------------------------------------------------------------
#
# The 4H columns of the gates are i, f, g, o, side by side. Written with primitives, (3) is eleven nodes of the tape, four of them slices
# whose gradients are each a (N, 4H) array of zeros but for a quarter. As one op, forward and backward of an LSTM over 20 time steps take
# 2.1 ms instead of 4.5 (N = H = 32), 4.2 instead of 7.2 (N = H = 64), 45 instead of 53 (N = 128, H = 256: the matrix products). (1), (4) and
# (6) are two or three ops on (N, H), and stay so.
#
# tanh z = (1 − e)/(1 + e) with e = e^(−2|z|), and the sign of z. Near 0 the numerator cancels, so below a quarter it is the series
# z − z³/3 + 2z⁵/15 − 17z⁷/315 + 62z⁹/2835: what that leaves out is less than half of a float32's last bit.

ONE, TWO, QUARTER = np.float32(1), np.float32(2), np.float32(0.25)
T3, T5, T7, T9 = np.float32(-1 / 3), np.float32(2 / 15), np.float32(-17 / 315), np.float32(62 / 2835)


@device
def tanh32(z):  # type: ignore[no-untyped-def]
    """tanh in float32."""
    size = -z if z < 0 else z
    e = exp(-TWO * size, None)
    far = (ONE - e) / (ONE + e)
    s = z * z
    near = z * ((((T9 * s + T7) * s + T5) * s + T3) * s + ONE)
    return near if size < QUARTER else -far if z < 0 else far


@device
def tanh_of(z, double):  # type: ignore[no-untyped-def]
    """tanh z."""
    if double is None:
        return tanh32(z)
    return math.tanh(z)


@device
def sigmoid_of(z, double):  # type: ignore[no-untyped-def]
    """σ(z): 1/(1 + inf) = 0 where e⁻ᶻ overflows."""
    if double is None:
        return ONE / (ONE + exp(-z, double))
    return 1.0 / (1.0 + exp(-z, double))


def memory_forward_reference(gates: Array, c: Array, act: Array, c_next: Array, double: bool | None) -> None:
    """Equation (3) on gates (N, 4H) and c (N, H); act keeps σ(i), σ(f), tanh(g), σ(o)."""
    width = c.shape[1]
    act[:] = 1 / (1 + np.exp(-gates))
    i, f, g = (act[:, k * width : (k + 1) * width] for k in range(3))
    g[:] = np.tanh(gates[:, 2 * width : 3 * width])
    c_next[:] = f * c + i * g


@kernel(reference=memory_forward_reference)
def memory_forward(gates, c, act, c_next, double):  # type: ignore[no-untyped-def]
    rows, width = c.shape
    for n in prange(rows):  # a loop for each gate: one loop for all, with its four places to write to, was not vectorized
        for j in range(2 * width):
            act[n, j] = sigmoid_of(gates[n, j], double)
        for j in range(2 * width, 3 * width):
            act[n, j] = tanh_of(gates[n, j], double)
        for j in range(3 * width, 4 * width):
            act[n, j] = sigmoid_of(gates[n, j], double)
        for j in range(width):
            c_next[n, j] = act[n, width + j] * c[n, j] + act[n, j] * act[n, 2 * width + j]  # (3)


# -- 2. Backward ----------------------------------------------------------------------------------------------------------------------
#
# With the slopes σ' = σ(1 − σ) and tanh' = 1 − tanh², i, f, g, o from here on for what has passed through them, and dₒ the gradient that
# comes to σ(o), the op's second output, (3) gives
#
#     di = dc'⊙g⊙i(1 − i),   df = dc'⊙c⊙f(1 − f),   dg = dc'⊙i⊙(1 − g²),   do = dₒ⊙o(1 − o)           (7)
#     dc = dc'⊙f                                                                                      (8)
#
# (8) is what the LSTM is for. Through the memory a gradient is multiplied by f, step after step, and by no matrix and no slope of a
# tanh: where the gate stays open, f ≈ 1, it comes back over a hundred steps as it was.


def memory_backward_reference(dc_next: Array, do: Array, act: Array, c: Array, dgates: Array, dc: Array) -> None:
    """Equations (7) and (8)."""
    width = c.shape[1]
    i, f, g, o = (act[:, k * width : (k + 1) * width] for k in range(4))
    dgates[:] = np.concatenate([dc_next * g * i * (1 - i), dc_next * c * f * (1 - f), dc_next * i * (1 - g * g), do * o * (1 - o)], axis=1)
    dc[:] = dc_next * f


@kernel(reference=memory_backward_reference)
def memory_backward(dc_next, do, act, c, dgates, dc):  # type: ignore[no-untyped-def]
    rows, width = c.shape
    one = c.dtype.type(1)
    for n in prange(rows):
        for j in range(width):
            i, f, g, o = act[n, j], act[n, width + j], act[n, 2 * width + j], act[n, 3 * width + j]
            d = dc_next[n, j]
            dgates[n, j] = d * g * i * (one - i)  # (7)
            dgates[n, width + j] = d * c[n, j] * f * (one - f)
            dgates[n, 2 * width + j] = d * i * (one - g * g)
            dgates[n, 3 * width + j] = do[n, j] * o * (one - o)
            dc[n, j] = d * f  # (8)


# -- 3. On the graph ------------------------------------------------------------------------------------------------------------------


class MemoryFunction(Function):
    """c' and σ(o) of the gates and c: (3), (7) and (8).

    Under create_graph the gradient is written with primitives from the gates themselves, and so has derivatives of every order.
    """

    name = "LstmMemoryBackward0"
    fresh_gradients = True

    def forward(self, gates: Array, c: Array) -> tuple[Array, Array]:
        width = c.shape[1]
        act, c_next = np.empty(gates.shape, gates.dtype), np.empty(c.shape, c.dtype)
        memory_forward[gates.size](ready(gates), ready(c), act, c_next, is_double(c))
        self.save_for_backward(gates, c, act)
        return c_next, act[:, 3 * width :]

    def backward(self, dc_next: Any, do: Any) -> Any:
        gates, c, act = self.saved_tensors
        if isinstance(dc_next, Tensor):
            i, f, g, o = gates.chunk(4, 1)
            i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
            parts = dc_next * g * i * (1 - i), dc_next * c * f * (1 - f), dc_next * i * (1 - g * g), do * o * (1 - o)  # (7)
            return cat(parts, 1), dc_next * f  # (8)
        dgates, dc = np.empty(gates.shape, gates.dtype), np.empty(c.shape, c.dtype)
        memory_backward[gates.size](ready(dc_next), ready(do), act, ready(c), dgates, dc)
        return dgates, dc


# -- 4. One step, for users -----------------------------------------------------------------------------------------------------------


def rnn_tanh_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Tensor:
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), equation (1).

    Args:
        input: x (N, I). hx: h (N, H).
        w_ih, w_hh: (H, I) and (H, H). b_ih, b_hh: (H), or None.
    Returns:
        h' (N, H).
    Raises:
        RuntimeError: shapes or dtypes that do not fit.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.rnn_tanh_cell(tg.zeros(1, 2), tg.ones(1, 2), tg.zeros(2, 2), tg.zeros(2, 2))
        tensor([[0., 0.]])
    """
    return tanh(_summed("rnn_tanh_cell", 1, input, (hx,), w_ih, w_hh, b_ih, b_hh))


def rnn_relu_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Tensor:
    """h' = relu(W_ih x + b_ih + W_hh h + b_hh); the arguments are those of rnn_tanh_cell."""
    return relu(_summed("rnn_relu_cell", 1, input, (hx,), w_ih, w_hh, b_ih, b_hh))


def lstm_cell(input: Tensor, hx: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Pair:
    """One step of an LSTM, equations (2) to (4).

    Args:
        input: x (N, I). hx: h and c, (N, H) each.
        w_ih, w_hh: (4H, I) and (4H, H), for i, f, g, o in that order. b_ih, b_hh: (4H), or None.
    Returns:
        h' and c', (N, H) each.
    Raises:
        RuntimeError: shapes or dtypes that do not fit; hx holds more or less than two. TypeError: hx is no sequence.

    Example:
        >>> import tinygrad_norm as tg
        >>> h, c = tg.lstm_cell(tg.zeros(1, 3), (tg.zeros(1, 1), tg.ones(1, 1)), tg.zeros(4, 3), tg.zeros(4, 1))
        >>> h, c  # all gates half open: half of the memory is kept, half of its tanh is shown
        (tensor([[0.2311]]), tensor([[0.5000]]))
    """
    _, c = _pair("lstm_cell", hx)
    gates = _summed("lstm_cell", 4, input, hx, w_ih, w_hh, b_ih, b_hh)  # (2)
    c_next, o = MemoryFunction.apply(gates, c)  # (3)
    return o * tanh(c_next), c_next  # (4)


def layer_norm_lstm_cell(
    input: Tensor, hx: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b: Tensor | None, norm_hh: Norm, norm_ih: Norm, norm_cell: Norm
) -> Pair:
    """One step of an LSTM with three layer norms, equations (5), (3), (6); Ba et al. 2016, supplementary equations 20 to 22.

    Args:
        input: x (N, I). hx: h and c, (N, H) each.
        w_ih, w_hh: (4H, I) and (4H, H), for i, f, g, o in that order. b: (4H), or None.
        norm_hh, norm_ih: LN(·; α₁, β₁) and LN(·; α₂, β₂) over 4H elements. norm_cell: LN(·; α₃, β₃) over H. Modules or functions.
    Returns:
        h' and c', (N, H) each.
    Raises:
        RuntimeError: shapes or dtypes that do not fit; hx holds more or less than two. TypeError: hx is no sequence.
    """
    h, c = _pair("layer_norm_lstm_cell", hx)
    _check_step("layer_norm_lstm_cell", 4, input, (h, c), w_ih, w_hh)
    gates = norm_hh(linear(h, w_hh)) + norm_ih(linear(input, w_ih))  # (5)
    if b is not None:
        gates = gates + b
    c_next, o = MemoryFunction.apply(gates, c)  # (3)
    return o * tanh(norm_cell(c_next)), c_next  # (6)


def _pair(op: str, hx: Any) -> Pair:
    if isinstance(hx, Tensor) or not isinstance(hx, Sequence):
        raise TypeError(f"{op}(): argument 'hx' must be tuple of Tensors, the states h and c; got {type(hx).__name__}")
    if len(hx) != 2:
        raise RuntimeError(f"{op} expects two hidden states, h and c; got {len(hx)}")
    return hx[0], hx[1]


def _summed(
    op: str, gates: int, input: Tensor, states: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None
) -> Tensor:
    """W_ih x + b_ih + W_hh h + b_hh."""
    _check_step(op, gates, input, states, w_ih, w_hh)
    return linear(input, w_ih, b_ih) + linear(states[0], w_hh, b_hh)


def _check_step(op: str, gates: int, input: Tensor, states: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor) -> None:
    """That x (N, I), every state (N, H) and the weights (gates·H, I), (gates·H, H) fit together."""
    for t in (input, *states, w_ih, w_hh):
        check_tensor(t, op)
    if input._data.ndim != 2 or w_ih._data.ndim != 2 or w_hh._data.ndim != 2 or len(w_ih._data) != len(w_hh._data):
        raise RuntimeError(
            f"{op} takes input (N, I) and weights (O, I) and (O, H); got input {list(input.shape)}, w_ih {list(w_ih.shape)} and w_hh {list(w_hh.shape)}"
        )
    rows, width = input._data.shape
    out, hidden = w_hh._data.shape
    if out != gates * hidden:
        raise RuntimeError(f"{op}: w_hh has shape {[out, hidden]}; expected {[gates * hidden, hidden]}, {gates} rows for each of the {hidden} states")
    if width != w_ih._data.shape[1]:
        raise RuntimeError(f"input has inconsistent input_size: got {width} expected {w_ih._data.shape[1]}")
    for i, state in enumerate(states):
        shape = state._data.shape
        if len(shape) != 2:
            raise RuntimeError(f"{op} takes states (N, H); got hidden{i} {list(shape)}")
        if shape[1] != hidden:
            raise RuntimeError(f"hidden{i} has inconsistent hidden_size: got {shape[1]}, expected {hidden}")
        if shape[0] != rows:
            raise RuntimeError(f"Input batch size {rows} doesn't match hidden{i} batch size {shape[0]}")
        if state._data.dtype != input._data.dtype:
            raise RuntimeError(f"{op}: input and states must have the same dtype; got {input.dtype} and, for hidden{i}, {state.dtype}")


# -- 5. The modules -------------------------------------------------------------------------------------------------------------------


class _Cell(Module):
    """What the cells share: the two weights and their start, the zero state, inputs without a batch axis."""

    gates = 1
    states = 1
    biases: tuple[str, ...] = ("bias_ih", "bias_hh")
    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(self, input_size: int, hidden_size: int, bias: bool, device: Any, dtype: Any) -> None:
        super().__init__()
        for name, n in (("input_size", input_size), ("hidden_size", hidden_size)):
            check_size(type(self).__name__, name, n)
        kind = parameter_dtype(type(self).__name__, dtype, device)
        self.input_size, self.hidden_size, self.bias = int(input_size), int(hidden_size), bias
        rows = self.gates * self.hidden_size
        self.weight_ih = Parameter(np.empty((rows, self.input_size), kind))
        self.weight_hh = Parameter(np.empty((rows, self.hidden_size), kind))
        for name in self.biases:
            self.register_parameter(name, Parameter(np.empty(rows, kind)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all from U(−1/√H, 1/√H), in the order of state_dict, as torch does."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """x (N, I), or (I), and the state (zeros if None) to the next state."""
        name = type(self).__name__
        check_tensor(input, name)
        if input._data.ndim not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input._data.ndim}D instead")
        batched = input._data.ndim == 2
        if hx is None:
            zeros = Tensor(np.zeros((*input._data.shape[:-1], self.hidden_size), input._data.dtype))
            states: tuple[Any, ...] = (zeros,) * self.states
        else:
            states = (hx,) if self.states == 1 else _pair(name, hx)
        for i, state in enumerate(states):
            check_tensor(state, name)
            if state._data.ndim not in (1, 2):
                which = "hidden" if self.states == 1 else f"hx[{i}]"
                raise ValueError(f"{name}: Expected {which} to be 1D or 2D, got {state._data.ndim}D instead")
            if state._data.ndim != input._data.ndim:
                raise RuntimeError(
                    f"{name}: input and state both have a batch axis, (N, I) and (N, H), or neither has; got shapes {list(input.shape)} and {list(state.shape)}"
                )
        if not batched:
            input, states = input.unsqueeze(0), tuple(state.unsqueeze(0) for state in states)
        following = self._step(input, *states)
        if not batched:
            following = tuple(state.squeeze(0) for state in following)
        return following if self.states > 1 else following[0]

    def _step(self, input: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias is True else f", bias={self.bias}")


class RNNCell(_Cell):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), equation (1); Elman 1990.

    Args:
        input_size: I, the length of x. hidden_size: H, the length of h.
        bias: whether there are b_ih and b_hh.
        nonlinearity: "tanh" or "relu".
        dtype: of the parameters, float32 by default.

    Example:
        >>> import tinygrad_norm as tg
        >>> cell = tg.nn.RNNCell(3, 4)
        >>> h = cell(tg.ones(2, 3))
        >>> cell, cell(tg.ones(2, 3), h).shape
        (RNNCell(3, 4), torch.Size([2, 4]))
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None, dtype: Any = None
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {nonlinearity}: RNNCell has 'tanh' and 'relu'")  # at once, where torch waits for a forward
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def _step(self, input: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        step = rnn_tanh_cell if self.nonlinearity == "tanh" else rnn_relu_cell
        return (step(input, states[0], self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh),)

    def extra_repr(self) -> str:
        """The arguments, as torch shows them."""
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")


class LSTMCell(_Cell):
    """One step of an LSTM, equations (2) to (4); Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    Args:
        input_size: I, the length of x. hidden_size: H, the length of h and of c.
        bias: whether there are b_ih and b_hh.
        dtype: of the parameters, float32 by default.

    Example:
        >>> import tinygrad_norm as tg
        >>> cell = tg.nn.LSTMCell(3, 4)
        >>> h, c = cell(tg.ones(2, 3))
        >>> h, c = cell(tg.ones(2, 3), (h, c))
        >>> cell, h.shape
        (LSTMCell(3, 4), torch.Size([2, 4]))
    """

    gates = 4
    states = 2

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def _step(self, input: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return lstm_cell(input, states, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)


class LayerNormLSTMCell(_Cell):
    """One step of an LSTM with three layer norms, equations (5), (3), (6); Ba et al. 2016, supplementary equations 20 to 22.

    Each of the two products is normalized over all its 4H sums together, the memory over its H elements, and only on its way out: c'
    itself is carried on as it is, so that (8) stays. (β₁, β₂ and b only act by their sum; the paper has all three, and so has this.)

    Args:
        input_size: I, the length of x. hidden_size: H, the length of h and of c.
        bias: whether there are b and β₁, β₂, β₃.
        eps: of the norms.
        dtype: of the parameters, float32 by default.
    Attributes:
        weight_ih, weight_hh: as in LSTMCell, and drawn as there. bias_gates: b (4H), zeros at the start, or None.
        norm_hh, norm_ih, norm_cell: the LayerNorms with α₁, α₂, α₃ as weight and β₁, β₂, β₃ as bias.

    Example:
        >>> import tinygrad_norm as tg
        >>> cell = tg.nn.LayerNormLSTMCell(3, 4)
        >>> h, c = cell(tg.ones(2, 3))
        >>> [name for name, _ in cell.named_parameters()][:5]
        ['weight_ih', 'weight_hh', 'bias_gates', 'norm_hh.weight', 'norm_hh.bias']
    """

    gates = 4
    states = 2
    biases = ("bias_gates",)
    bias_gates: Parameter | None

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, eps: float = 1e-5, device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.eps = eps
        kind = self.weight_ih.dtype
        self.norm_hh = LayerNorm(4 * self.hidden_size, eps, bias=bias, dtype=kind)  # α₁, β₁
        self.norm_ih = LayerNorm(4 * self.hidden_size, eps, bias=bias, dtype=kind)  # α₂, β₂
        self.norm_cell = LayerNorm(self.hidden_size, eps, bias=bias, dtype=kind)  # α₃, β₃

    def reset_parameters(self) -> None:
        """Draws W_ih and W_hh as LSTMCell does; b and all β to zeros, all α to ones."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        init.uniform_(self.weight_ih, -bound, bound)
        init.uniform_(self.weight_hh, -bound, bound)
        if self.bias_gates is not None:
            init.zeros_(self.bias_gates)
        for norm in self.children():
            if isinstance(norm, LayerNorm):
                norm.reset_parameters()

    def _step(self, input: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        weights = self.weight_ih, self.weight_hh, self.bias_gates
        return layer_norm_lstm_cell(input, states, *weights, self.norm_hh, self.norm_ih, self.norm_cell)

    def extra_repr(self) -> str:
        """The arguments."""
        return super().extra_repr() + f", eps={self.eps}"
