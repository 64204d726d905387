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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import nn, optim
from .grad_mode import no_grad
from .random import Generator, manual_seed
from .runs import Run, check_finite, say, with_progress
from .serialization import check_path
from .tensor import Tensor
from .train import check_positive

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


def losses_of(models: nn.ModuleDict, batch: Batch, where: str) -> dict[str, Tensor]:
    """The loss of each model; FloatingPointError where one is NaN or infinite, which names the model and its first layer that was not finite."""
    losses = {}
    for name, model in models.items():
        losses[name] = loss_of(model, batch)  # type: ignore[arg-type]
        x = Tensor(np.nan_to_num(batch.x.numpy()))  # the padding is NaN, and is to be
        check_finite(losses[name].item(), f"{where} of the {name}", model, x, batch.lengths)
    return losses


class Progress:
    """Where a run stands: the steps done, the losses reported, and the stream that the batches are drawn from."""

    def __init__(self, seed: int) -> None:
        self.step = 0
        self.losses: dict[str, list[tuple[int, float]]] = {name: [] for name in CELLS}
        self.stream = Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """As it goes into a checkpoint."""
        return {"step": self.step, "losses": self.losses, "stream": self.stream.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self.step, self.losses = state["step"], state["losses"]
        self.stream.set_state(state["stream"])


def delayed_sum(
    *,
    steps: int = 200,
    batch_size: int = 64,
    hidden: int = 32,
    lr: float = 0.01,
    seed: int = 0,
    every: int = 25,
    resume: str | Path | None = None,
    save: str | Path | None = None,
    checkpoint: str | Path | None = None,
    report: Callable[[str], Any] | None = say,
    progress: bool | None = None,
) -> dict[str, list[tuple[int, float]]]:
    """Trains both cells on the same batches with Adam, and prints their losses on held-out sequences side by side.

    Args:
        steps: the number of the last step. batch_size: sequences a step. hidden: the size of the state.
        lr: the learning rate of Adam.
        seed: of the initialisation and the sequences; the two cells start from the same weights.
        every: steps between two reports.
        resume: a checkpoint to go on from: the run then equals one that was never interrupted, to the bit. Of the arguments above only
            steps may differ from that of its run.
        save: where to write a checkpoint, at every report and at the end: .npz or .safetensors.
        checkpoint: where a run that is told to stop, by SIGINT or SIGTERM, saves itself: as save, if None. Where both are None, signals act
            as always.
        report: called with each line; None for silence.
        progress: a progress bar; by default on a terminal, for more than 500 steps.
    Returns:
        For each cell's name the steps and held-out losses that were printed.
    Raises:
        ValueError, TypeError: an argument that is not positive, or a file that is no checkpoint of such a run. OSError: a file cannot be read
            or written.
        FloatingPointError: a loss is NaN or infinite; names the first layer whose output was not finite.
        Interrupted: a signal came; the run is in its checkpoint.

    Example:
        >>> losses = delayed_sum(steps=1)
        step             LSTM   LayerNorm LSTM     held-out mean squared error
           0          0.55853          0.70704
           1          0.54136          0.53826
    """
    for name, value in (("steps", steps), ("batch_size", batch_size), ("hidden", hidden), ("every", every)):
        check_positive(name, value)
    check_positive("lr", lr, float)
    if save is not None:
        check_path(save)
    held_out = make_batch(256, Generator().manual_seed(seed + 1))
    models = nn.ModuleDict()
    for name, cell in CELLS.items():
        manual_seed(seed)
        models[name] = SequenceModel(cell, hidden)
    optimizer = optim.Adam(models.parameters(), lr=lr)
    at = Progress(seed)
    options = {"steps": steps, "batch_size": batch_size, "hidden": hidden, "lr": lr, "seed": seed, "every": every}
    run = Run("delayed-sum", options, {"models": models, "optimizer": optimizer, "progress": at}, checkpoint or save)
    if resume is not None:
        run.resume(resume, may_differ=("steps",))
        if at.step >= steps:
            raise ValueError(f"{str(resume)!r} is a run of {at.step} steps already: ask for more than that")
        at.losses = {name: [(step, loss) for step, loss in lines if step % every == 0] for name, lines in at.losses.items()}

    def look() -> None:
        """A line of held-out losses."""
        with no_grad():
            found = losses_of(models, held_out, f"the held-out sequences after step {at.step}")
        for name, loss in found.items():
            at.losses[name].append((at.step, loss.item()))
        if report is not None:
            report(f"{at.step:4} " + " ".join(f"{loss.item():16.5f}" for loss in found.values()))

    with run.stoppable():
        if at.step == 0:
            if report is not None:
                report("step " + " ".join(f"{name:>16}" for name in CELLS) + "     held-out mean squared error")
            look()
        for number in with_progress(at.step + 1, steps, "step", progress, many=500):
            losses = losses_of(models, make_batch(batch_size, at.stream), f"step {number}")
            optimizer.zero_grad()
            for loss in losses.values():
                loss.backward()
            optimizer.step()
            at.step = number
            if number % every == 0 or number == steps:
                look()
                if save is not None:
                    run.write(save)
            if number < steps:  # at the last one nothing is left to do
                run.stop_if_asked()
    return at.losses
