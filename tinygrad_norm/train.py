"""The source document's example, whole: a two-layer perceptron with a norm between, trained and reported line by line.

`train()` is what `tinygrad-norm train` and the notebooks call. As it stands it is the document's script: 100 random points of 10
features, coin-flip labels, ten full-batch steps of SGD; with seed 0 the ten lines are torch's, to the character.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import creation as tg
from . import nn, optim
from .data import DataLoader, TensorDataset, load_digits
from .dtype import as_dtype
from .dtype import dtype as dtype_class
from .grad_mode import no_grad
from .plotting import BLUE, ORANGE, new_figure
from .random import get_rng_state, manual_seed, set_rng_state
from .runs import Run, check_finite, say, with_progress
from .tensor import Tensor

NORMS = ("layer", "batch", "none")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
DATA = ("random", "digits")


class MLP(nn.Module):
    """fc1 → norm1 → ReLU → fc2, the document's network; the norm may also be BatchNorm1d or nothing."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int, norm: str = "layer", dtype: Any = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, hidden_size, dtype=dtype)
        if norm == "layer":
            self.norm1: nn.Module = nn.LayerNorm(hidden_size, dtype=dtype)
        elif norm == "batch":
            self.norm1 = nn.BatchNorm1d(hidden_size, dtype=dtype)
        else:
            self.norm1 = nn.Identity()
        self.fc2 = nn.Linear(hidden_size, output_size, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_size) to logits (N, output_size)."""
        x = self.fc1(x)
        x = self.norm1(x)
        x = nn.functional.relu(x)
        return self.fc2(x)  # type: ignore[no-any-return]


class Epoch(NamedTuple):
    """What one epoch gave: mean loss and accuracy on the training data, and accuracy on the held-out part where there is one."""

    number: int
    loss: float
    accuracy: float
    held_out: float | None

    def line(self, epochs: int) -> str:
        """As the document prints it."""
        text = f"Epoch [{self.number}/{epochs}], Loss: {self.loss:.4f}, Accuracy: {self.accuracy * 100:.2f}%"
        return text if self.held_out is None else f"{text}, Held-out accuracy: {self.held_out * 100:.2f}%"


class Result(NamedTuple):
    """The trained model, its optimizer, and the epochs."""

    model: MLP
    optimizer: optim.Optimizer
    history: list[Epoch]


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """ValueError unless value is one of the allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def check_positive(name: str, value: Any, kind: type[int] | type[float] = int) -> None:
    """TypeError or ValueError unless value is a positive, finite number of that kind."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole and not (kind is float and isinstance(value, (float, np.floating))):
        raise TypeError(f"{name} must be {'an integer' if kind is int else 'a number'}; got {type(value).__name__}")
    if not value > 0 or not math.isfinite(value):
        raise ValueError(f"{name} must be positive and finite; got {value}")


def floating_dtype(dtype: Any) -> dtype_class:
    """The type of that name; ValueError unless it is float32 or float64."""
    kind = as_dtype(dtype)
    if not kind.is_floating_point:
        raise ValueError(f"dtype must be float32 or float64; got {dtype!r}")
    return kind


def make_data(name: str, dtype: Any, seed: int) -> tuple[TensorDataset, TensorDataset | None, int, int]:
    """The training set, the held-out set or None, the number of features and of classes."""
    if name == "digits":
        train_set, test_set = load_digits(seed=seed)
        features, labels = train_set.tensors
        held = TensorDataset(test_set.tensors[0].to(dtype), test_set.tensors[1])
        return TensorDataset(features.to(dtype), labels), held, features.size(1), 10
    x_train = tg.randn((100, 10), dtype=dtype)
    y_train = tg.randint(0, 2, (100,))
    return TensorDataset(x_train, y_train), None, 10, 2


def make_optimizer(name: str, parameters: Iterable[Tensor], lr: float) -> optim.Optimizer:
    """The optimizer of that name: momentum is SGD with momentum 0.9."""
    if name in ("sgd", "momentum"):
        return optim.SGD(parameters, lr=lr, momentum=0.9 if name == "momentum" else 0.0)
    return (optim.Adam if name == "adam" else optim.AdamW)(parameters, lr=lr)


class Progress:
    """Where a run stands: the epochs done, and how far it is in the present one."""

    def __init__(self) -> None:
        self.history: list[Epoch] = []
        self.batch, self.loss_sum, self.correct = 0, 0.0, 0
        self.random_at_epoch = get_rng_state()  # from which the loader draws the epoch's order

    @property
    def epoch(self) -> int:
        """The number of the present epoch."""
        return len(self.history) + 1

    def batches_left(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The epoch's batches; in a resumed run those that it has not had yet, in the order that was drawn for it."""
        if self.batch == 0:
            self.random_at_epoch = get_rng_state()
            yield from batches
            return
        now = get_rng_state()
        set_rng_state(self.random_at_epoch)
        iterator = iter(batches)
        for _ in range(self.batch):
            next(iterator)
        set_rng_state(now)
        yield from iterator

    def add(self, correct: int, loss: float) -> None:
        """One more batch."""
        self.batch, self.loss_sum, self.correct = self.batch + 1, self.loss_sum + loss, self.correct + correct

    def next_epoch(self, figures: Epoch) -> None:
        """The present one is done."""
        self.history.append(figures)
        self.batch, self.loss_sum, self.correct = 0, 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """As it goes into a checkpoint."""
        return {**vars(self), "history": [tuple(epoch) for epoch in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self.history = [Epoch(*epoch) for epoch in state["history"]]
        self.batch, self.loss_sum, self.correct = state["batch"], state["loss_sum"], state["correct"]
        self.random_at_epoch = state["random_at_epoch"]


def accuracy_of(model: nn.Module, dataset: TensorDataset) -> float:
    """The share of the samples whose largest logit is their label's, in eval mode."""
    x, y = dataset.tensors
    was_training = model.training
    model.eval()
    with no_grad():
        predicted = model(x).argmax(1)
    model.train(was_training)
    return int((predicted == y).sum().item()) / len(y)


def train(
    *,
    data: str = "random",
    norm: str = "layer",
    optimizer: str = "sgd",
    epochs: int = 10,
    lr: float = 0.01,
    hidden: int = 20,
    batch_size: int | None = None,
    dtype: Any = "float32",
    seed: int = 0,
    resume: str | Path | None = None,
    checkpoint: str | Path | None = None,
    report: Callable[[str], Any] | None = say,
    progress: bool | None = None,
) -> Result:
    """Trains the document's network and reports every epoch.

    Args:
        data: "random", the document's, or "digits": scikit-learn's 1797 hand-written digits, a fifth held out.
        norm: "layer", "batch" or "none".
        optimizer: "sgd", "momentum", "adam" or "adamw".
        epochs: passes over the data.
        lr: the learning rate.
        hidden: the width of the hidden layer.
        batch_size: samples a step, drawn anew each epoch; all of them, in order, if None.
        dtype: "float32" or "float64".
        seed: of the data, the initialisation and the batches.
        resume: a checkpoint to go on from: the run then equals one that was never interrupted, to the bit. Of the arguments above only
            epochs may differ from those of its run; `runs.read_checkpoint` reads them.
        checkpoint: where a run that is told to stop, by SIGINT or SIGTERM, saves itself (.npz or .safetensors); if None, signals act as always.
        report: called with each epoch's line; None for silence.
        progress: a progress bar; by default on a terminal, for runs of more than 2000 steps.
    Returns:
        The model, the optimizer and the epochs' figures.
    Raises:
        ValueError, TypeError: an argument out of its range, or a file that is no checkpoint of such a run.
        FloatingPointError: the loss is NaN or infinite; names the first layer whose output was not finite.
        Interrupted: a signal came; the run is in `checkpoint`.

    Example:
        >>> from tinygrad_norm.train import train
        >>> result = train(epochs=2)
        Epoch [1/2], Loss: 0.7147, Accuracy: 50.00%
        Epoch [2/2], Loss: 0.7137, Accuracy: 50.00%
    """
    check_choice("data", data, DATA)
    check_choice("norm", norm, NORMS)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    check_positive("epochs", epochs)
    check_positive("hidden", hidden)
    check_positive("lr", lr, float)
    if batch_size is not None:
        check_positive("batch_size", batch_size)
    kind = floating_dtype(dtype)
    manual_seed(seed)
    train_set, held_out, features, classes = make_data(data, kind, seed)
    if norm == "batch" and batch_size is not None and (batch_size == 1 or len(train_set) % batch_size == 1):
        raise ValueError(f"batch_size {batch_size} leaves a batch of one of the {len(train_set)} samples, which BatchNorm1d cannot train on: choose another")

    model = MLP(features, hidden, classes, norm, dtype=kind)
    criterion = nn.CrossEntropyLoss()
    step = make_optimizer(optimizer, model.parameters(), lr)
    x_train, y_train = train_set.tensors
    loader = None if batch_size is None else DataLoader(train_set, batch_size=int(batch_size), shuffle=True)
    steps = epochs * (1 if loader is None else len(loader))
    options = {"data": data, "norm": norm, "optimizer": optimizer, "epochs": epochs, "lr": lr, "hidden": hidden, "batch_size": batch_size}
    options.update(dtype=kind.name, seed=seed)
    at = Progress()
    run = Run("mlp", options, {"model": model, "optimizer": step, "progress": at}, checkpoint)
    if resume is not None:
        run.resume(resume, may_differ=("epochs",))
        if at.epoch > epochs:
            raise ValueError(f"{str(resume)!r} is a run of {at.epoch - 1} epochs already: ask for more than that")
    with run.stoppable():
        for epoch in with_progress(at.epoch, epochs, "epoch", progress, many=2000 * epochs // steps):
            for x, y in at.batches_left([(x_train, y_train)] if loader is None else loader):
                outputs = model(x)
                loss = criterion(outputs, y)
                value = loss.item()
                check_finite(value, f"batch {at.batch + 1} of epoch {epoch}", model, x)
                step.zero_grad()
                loss.backward()
                step.step()
                _, predicted = outputs.data.max(1)  # outside of the graph, as the document writes it
                at.add(int((predicted == y).sum().item()), value * len(y))
                run.stop_if_asked()
            figures = Epoch(epoch, at.loss_sum / len(train_set), at.correct / len(train_set), None if held_out is None else accuracy_of(model, held_out))
            at.next_epoch(figures)
            if report is not None:
                report(figures.line(epochs))
    return Result(model, step, at.history)


def plot_history(history: list[Epoch], path: str | Path) -> None:
    """Loss and accuracy over the epochs, as a picture.

    Raises:
        ImportError: matplotlib is not installed. ValueError: there are no epochs.
    """
    if not history:
        raise ValueError("plot_history: there are no epochs to show")
    numbers = [e.number for e in history]
    few = len(numbers) < 40  # so that a marker for each can be told from the next
    figure = new_figure(5.8, 2.7)
    left, right = figure.subplots(1, 2)
    left.plot(numbers, [e.loss for e in history], color=BLUE, marker="o" if few else None)
    left.set(xlabel="epoch", ylabel="loss (cross-entropy, nats)", title="training loss")
    right.plot(numbers, [100 * e.accuracy for e in history], color=BLUE, marker="o" if few else None, label="training")
    if history[0].held_out is not None:
        right.plot(numbers, [100 * (e.held_out or 0) for e in history], color=ORANGE, ls="--", marker="s" if few else None, label="held out")
    right.legend()
    right.set(xlabel="epoch", ylabel="accuracy (%)", title="accuracy")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if len(numbers) < 20:
            axes.set_xticks(numbers)
    figure.savefig(path, dpi=150)
