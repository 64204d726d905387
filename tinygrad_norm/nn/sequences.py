"""A batch of sequences of different lengths: `run_cell` takes a recurrent cell over it, each sequence to its own end.

Sequences of different lengths share an array (N, T, I); what stands behind the end of each is padding. Multiplying it by 0 afterwards
would not do: 0·inf is NaN, the cell would still compute on it, and a norm over the batch would count it. So it is never read. With the
sequences in the order of their lengths, longest first, those still at work at step t are the first nₜ rows:

    lengths 4, 2, 1      t      0    1    2    3
                         nₜ     3    2    1    1        7 rows of work, not 12

Taking the steps out of x and putting them back into an array of zeros are each other's transpose, so each is the other's gradient,
to every order; the padding's gradient is the zeros. As one node for all steps they cost a pass over x; T slices would each have a
gradient of the size of x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..function import Function
from ..ops.indexing import index_select
from ..ops.operands import check_tensor
from ..ops.shape import cat
from ..tensor import Tensor

__all__ = ["run_cell"]

Array = np.ndarray[Any, Any]


class TakeSteps(Function):
    """(N, T, D) to one (nₜ, D) for each step t."""

    name = "TakeStepsBackward0"
    fresh_gradients = True

    def forward(self, x: Array, *, order: Array, counts: list[int]) -> tuple[Array, ...]:
        self.order_of_rows, self.counts, self.steps = order, counts, x.shape[1]
        return tuple([x[order[:n], t] for t, n in enumerate(counts)])

    def backward(self, *dy: Any) -> Any:
        return PutSteps.on(*dy, order=self.order_of_rows, counts=self.counts, steps=self.steps)


class PutSteps(Function):
    """One (nₜ, D) for each step t to (N, T, D), zeros elsewhere."""

    name = "PutStepsBackward0"
    fresh_gradients = True

    def forward(self, *parts: Array, order: Array, counts: list[int], steps: int) -> Array:
        self.order_of_rows, self.counts = order, counts
        y = np.zeros((len(order), steps, parts[0].shape[1]), parts[0].dtype)
        for t, (n, part) in enumerate(zip(counts, parts)):
            y[order[:n], t] = part
        return y

    def backward(self, dy: Any) -> Any:
        return TakeSteps.on(dy, order=self.order_of_rows, counts=self.counts)


def run_cell(cell: Callable[..., Any], input: Tensor, lengths: Any = None, hx: Any = None) -> tuple[Tensor, Any]:
    """Takes a cell over a padded batch of sequences: state = cell(x[:, t], state) for each step, and each sequence only to its own end.

    The padding is never read, and its gradient is zero. As torch.nn.LSTM(batch_first=True) over a packed sequence.

    Args:
        cell: an RNNCell, LSTMCell, LayerNormLSTMCell, or anything called as cell(x, state) with x (n, I) and state None, (n, H), or a tuple
            of such, that returns the next state. Rows must not depend on how many others are there.
        input: (N, T, I).
        lengths: of the N sequences, integers from 1 to T; a Tensor, an array or a list. All T if None.
        hx: the first state, as the cell takes it, for N sequences; None: the cell's own, zeros.
    Returns:
        The first part of the state after every step (N, T, H), zeros in the padding; and the state after each sequence's last step.
    Raises:
        ValueError: input has not three axes, there is no step, or a length is not from 1 to T. TypeError: lengths are no integers, or a
        state is neither a Tensor nor a tuple of such. RuntimeError: a state has not one row for each sequence.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([[[1.0], [2.0], [3.0]], [[4.0], [float("nan")], [float("nan")]]])
        >>> output, state = tg.nn.run_cell(lambda x, total: x if total is None else total + x, x, lengths=[3, 1])
        >>> output[:, :, 0], state
        (tensor([[1., 3., 6.],
                [4., 0., 0.]]), tensor([[6.],
                [4.]]))
    """
    if not callable(cell):
        raise TypeError(f"run_cell: cell must be callable as cell(x, state); got {type(cell).__name__}")
    check_tensor(input, "run_cell")
    if input._data.ndim != 3 or 0 in input._data.shape[:2]:
        raise ValueError(f"run_cell: input must be (N, T, I) with at least one sequence and one step; got shape {list(input.shape)}")
    batch, steps, _ = input._data.shape
    ends = _check_lengths(lengths, batch, steps)
    order = np.argsort(-ends, kind="stable")
    counts = [int((ends > t).sum()) for t in range(int(ends.max()))]
    state: Any = None
    if hx is not None:
        _check_state("hx", hx, batch)
        state = _parts(hx, order)
    outputs: list[Tensor] = []
    ended: list[Any] = []  # the states of the sequences that are over, the shortest first
    for x, n in zip(TakeSteps.apply(input, order=order, counts=counts), counts):
        if outputs and n < len(outputs[-1]):
            ended.append(_parts(state, slice(n, None)))
            state = _parts(state, slice(n))
        state = cell(x, state)
        _check_state("what cell returns", state, n)
        outputs.append(state if isinstance(state, Tensor) else state[0])
    back = np.argsort(order)
    states = [state, *reversed(ended)]
    whole = cat(states) if isinstance(state, Tensor) else tuple(cat(parts) for parts in zip(*states))
    return PutSteps.apply(*outputs, order=order, counts=counts, steps=steps), _parts(whole, back)


def _parts(state: Any, rows: slice | Array) -> Any:
    """These rows of a state, or of each part of it."""
    if not isinstance(state, Tensor):
        return tuple(_parts(part, rows) for part in state)
    return state[rows] if isinstance(rows, slice) else index_select(state, 0, Tensor(rows))


def _check_state(what: str, state: Any, rows: int) -> None:
    """A Tensor of that many rows, or a tuple of such: TypeError or RuntimeError otherwise."""
    parts = (state,) if isinstance(state, Tensor) else state
    if not isinstance(parts, (tuple, list)) or not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"run_cell: {what} must be a Tensor or a tuple of Tensors; got {type(state).__name__}")
    for part in parts:
        if part._data.shape[:1] != (rows,):
            raise RuntimeError(f"run_cell: {what} has shape {list(part.shape)}; expected {rows} rows, one for each sequence")


def _check_lengths(lengths: Any, batch: int, steps: int) -> Array:
    if lengths is None:
        return np.full(batch, steps)
    ends = np.asarray(lengths._data if isinstance(lengths, Tensor) else lengths)
    if ends.dtype.kind not in "iu":
        raise TypeError(f"run_cell: lengths must be integers; got {ends.dtype}")
    if ends.shape != (batch,):
        raise ValueError(f"run_cell: lengths has shape {ends.shape}; expected {(batch,)}, one for each sequence of input")
    if ends.min() < 1 or ends.max() > steps:
        wrong = int(ends[(ends < 1) | (ends > steps)][0])
        raise ValueError(f"run_cell: a length must be from 1 to {steps}, the steps of input; got {wrong}")
    return ends
