"""A task with memory: the delayed sum, learned by an LSTM with layer norms and by the same LSTM without, side by side.

A sequence of numbers uₜ, uniform in (−1, 1), goes in; at every step the sum of two earlier ones is asked for:

    yₜ = uₜ₋₂ + uₜ₋₃                 with 0 for what was before the start

so the cell has to carry three numbers exactly, and forget each in time. The sequences of a batch have different lengths, and the
padding of the shorter ones is filled with NaN: if one of them were read, the loss would show it. A network that had learned nothing and always
answered 0 would have a mean squared error of 0.53, the mean of y².

Beside each number stands a 1. Without it W_ih x would be one column times uₜ, and LN of that the same for every uₜ > 0: the norm takes
out of a summed input just what this task is about, its size. (Only eps lets a little through: with u alone the LayerNorm LSTM was at 0.015
after 400 steps where the plain one was at 0.0006.) With the 1 the column is shifted by another one, and the norm of the sum does
depend on uₜ.

The loss is measured on sequences drawn anew. `delayed_sum()` is what `tinygrad-norm train --task delayed-sum` calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import nn, optim
from .grad_mode import no_grad
from .random import Generator, manual_seed
from .tensor import Tensor

__all__ = ["SequenceModel", "delayed_sum", "make_batch"]

CELLS: dict[str, type[nn.Module]] = {"LSTM": nn.LSTMCell, "LayerNorm LSTM": nn.LayerNormLSTMCell}
SHORTEST, LONGEST = 5, 20


class Batch(NamedTuple):
    """x = (u, 1) (N, T, 2) and y (N, T, 1), with NaN and 0 in the padding; the lengths (N); 1 where there is a step, 0 in the padding (N, T, 1)."""

    x: Tensor
    y: Tensor
    lengths: Tensor
    valid: Tensor


def make_batch(size: int, stream: Generator) -> Batch:
    """Sequences of 5 to 20 steps, drawn from the stream."""
    lengths = stream.integers(SHORTEST, LONGEST + 1, (size,))
    u = stream.uniform((size, LONGEST, 1), -1.0, 1.0)
    y = np.zeros_like(u)
    y[:, 2:] += u[:, :-2]
    y[:, 3:] += u[:, :-3]
    valid = (np.arange(LONGEST) < lengths[:, None])[..., None]
    x = np.concatenate([u, np.ones_like(u)], axis=2)
    return Batch(Tensor(np.where(valid, x, np.float32(np.nan))), Tensor(np.where(valid, y, np.float32(0))), Tensor(lengths), Tensor(valid.astype(u.dtype)))


class SequenceModel(nn.Module):
    """A cell over the sequences, and a linear layer on what it shows at every step."""

    def __init__(self, cell: type[nn.Module], hidden: int) -> None:
        super().__init__()
        self.cell = cell(2, hidden)  # type: ignore[call-arg]  # the classes of CELLS
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(N, T, 2) to (N, T, 1)."""
        output, _ = nn.run_cell(self.cell, x, lengths)
        return self.head(output)  # type: ignore[no-any-return]


def loss_of(model: SequenceModel, batch: Batch) -> Tensor:
    """The mean squared error over the steps that are there."""
    wrong: Tensor = (model(batch.x, batch.lengths) - batch.y) * batch.valid
    return (wrong * wrong).sum() / batch.valid.sum()


def delayed_sum(
    *, steps: int = 200, batch_size: int = 64, hidden: int = 32, lr: float = 0.01, seed: int = 0, report: Callable[[str], Any] | None = print
) -> dict[str, list[tuple[int, float]]]:
    """Trains both cells on the same batches with Adam, and prints their losses on held-out sequences side by side.

    Args:
        steps: of training. batch_size: sequences a step. hidden: the size of the state.
        lr: the learning rate of Adam.
        seed: of the initialisation and the sequences; the two cells start from the same weights.
        report: called with each line; None for silence.
    Returns:
        For each cell's name the steps and held-out losses that were printed.
    Raises:
        ValueError: an argument that is not positive.

    Example:
        >>> losses = delayed_sum(steps=1)
        step             LSTM   LayerNorm LSTM     held-out mean squared error
           0          0.55853          0.70704
           1          0.54136          0.53826
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("hidden", hidden), ("lr", lr)):
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value}")
    held_out = make_batch(256, Generator().manual_seed(seed + 1))
    models, optimizers = {}, {}
    for name, cell in CELLS.items():
        manual_seed(seed)
        models[name] = SequenceModel(cell, hidden)
        optimizers[name] = optim.Adam(models[name].parameters(), lr=lr)
    losses: dict[str, list[tuple[int, float]]] = {name: [] for name in CELLS}
    if report is not None:
        report("step " + " ".join(f"{name:>16}" for name in CELLS) + "     held-out mean squared error")
    stream = Generator().manual_seed(seed)
    for step in range(steps + 1):
        if step % max(1, steps // 8) == 0 or step == steps:
            for name, model in models.items():
                with no_grad():
                    losses[name].append((step, loss_of(model, held_out).item()))
            if report is not None:
                report(f"{step:4} " + " ".join(f"{losses[name][-1][1]:16.5f}" for name in CELLS))
        if step == steps:
            break
        batch = make_batch(batch_size, stream)
        for name, model in models.items():
            optimizers[name].zero_grad()
            loss_of(model, batch).backward()
            optimizers[name].step()
    return losses
