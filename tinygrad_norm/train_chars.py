"""A small causal Transformer that learns to write Python, character by character, with its norms before, after, or left out.

The text is one that every machine has: the source of Python's own standard library. Three of its files are held out whole, so the held-out
loss is about code that the model has not seen. `train_chars()` is what `tinygrad-norm train --task chars` and the notebooks call.

A checkpoint holds all that the next step depends on: parameters, the optimizer's moments, the scheduler's count, the state of the random
stream (batches and dropout draw from it), the number of the step. So a run that was stopped and resumed prints the numbers of one that
was not, to the last bit.

    1. The text   2. The model   3. Training   4. Sampling
"""

from __future__ import annotations

import math
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import nn, optim
from .grad_mode import no_grad
from .random import Generator, default_generator, get_rng_state, manual_seed
from .runs import Run, check_finite, say, with_progress
from .serialization import check_path
from .tensor import Tensor
from .train import OPTIMIZERS, check_choice, check_positive, floating_dtype, make_optimizer

__all__ = ["NORMS", "CharTransformer", "CharsResult", "characters", "decode", "encode", "read_text", "train_chars"]

Array = np.ndarray[Any, Any]
NORMS = ("pre", "post", "none")

# -- 1. The text ----------------------------------------------------------------------------------------------------------------------

TRAINING = [
    "abc", "argparse", "base64", "cmd", "collections", "contextlib", "copy", "csv", "dataclasses", "difflib", "fileinput", "fnmatch", "fractions",
    "functools", "getopt", "glob", "gzip", "heapq", "inspect", "json", "json.decoder", "json.encoder", "logging", "numbers", "optparse", "pprint",
    "queue", "random", "shlex", "shutil", "socketserver", "statistics", "string", "tempfile", "textwrap", "threading", "timeit", "tokenize", "traceback",
    "types", "weakref",
]  # fmt: skip
HELD_OUT = ["calendar", "configparser", "selectors"]
SYMBOLS = "\n" + "".join(map(chr, range(32, 127)))  # 96; a tab is four spaces, everything else "?"
NUMBERS = np.full(128, SYMBOLS.index("?"))
NUMBERS[[ord(c) for c in SYMBOLS]] = np.arange(len(SYMBOLS))


def encode(text: str) -> Array:
    """Characters as numbers of SYMBOLS, int64.

    Example:
        >>> encode("a\\n?é").tolist()
        [66, 0, 32, 32]
    """
    codes = np.frombuffer(text.replace("\t", "    ").encode("ascii", "replace"), np.uint8)
    return NUMBERS[np.minimum(codes, 127)]


def decode(numbers: Array) -> str:
    """The inverse of `encode`.

    Example:
        >>> decode(encode("def f(x):"))
        'def f(x):'
    """
    return "".join(SYMBOLS[i] for i in numbers)


def read_text(modules: list[str]) -> Array:
    """The source of these modules of the standard library, one after the other, encoded.

    Raises:
        FileNotFoundError: this Python came without the source of one.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts = []
    for name in modules:
        place = folder.joinpath(*name.split("."))
        found = next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)
        if found is None:
            raise FileNotFoundError(f"the text is the source of Python's standard library, and {name} is not in {str(folder)!r}: use a Python with its source")
        parts.append(encode(found.read_text(encoding="utf-8")))
    return np.concatenate(parts)


# -- 2. The model ---------------------------------------------------------------------------------------------------------------------


class CharTransformer(nn.Module):
    """Embedding and learned positions, an encoder under a causal mask, and a linear layer to the logits of the next character.

    Args:
        width: E, the features.
        heads: a divisor of E.
        layers: how many.
        context: the longest sequence.
        norm: "pre", with one more norm at the end; "post"; or "none", where the sums are not normalized at all.
        dropout: its probability in the layers.
        dtype: of the parameters.

    Example:
        >>> import tinygrad_norm as tg
        >>> CharTransformer(8, 2, 1, 16)(tg.zeros(2, 5, dtype=tg.int64)).shape
        torch.Size([2, 5, 96])
    """

    def __init__(self, width: int, heads: int, layers: int, context: int, norm: str = "pre", dropout: float = 0.0, dtype: Any = None) -> None:
        super().__init__()
        self.mask: Tensor
        self.embedding = nn.Embedding(len(SYMBOLS), width, dtype=dtype)
        self.positions = nn.LearnedPositions(width, context, batch_first=True, dtype=dtype)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=norm == "pre", dtype=dtype)
        if norm == "none":
            layer.norm1 = layer.norm2 = nn.Identity()
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width, dtype=dtype) if norm == "pre" else None)
        self.head = nn.Linear(width, len(SYMBOLS), dtype=dtype)
        self.register_buffer("mask", nn.causal_mask(context, dtype), persistent=False)
        for parameter in self.parameters():  # as torch's nn.Transformer: the copied layers do not start from the same numbers
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers of characters (N, T) to logits (N, T, 96): those at t are for the character at t + 1."""
        length = x.size(1)
        h = self.positions(self.embedding(x))
        return self.head(self.encoder(h, self.mask[:length, :length], is_causal=True))  # type: ignore[no-any-return]


# -- 3. Training ----------------------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """What one report says: the step, the mean training loss since the report before, and the held-out loss, in nats a character."""

    step: int
    loss: float
    held_out: float

    def text(self, steps: int) -> str:
        """As it is printed."""
        return f"Step [{self.step}/{steps}], Loss: {self.loss:.4f}, Held-out loss: {self.held_out:.4f}"


class CharsResult(NamedTuple):
    """The trained model, its optimizer, the reports, and the sample ("" where none was asked for)."""

    model: CharTransformer
    optimizer: optim.Optimizer
    history: list[Line]
    sample: str


class Progress:
    """Where a run stands: the steps done, the reports made, and the losses since the last of these; and the text that it is about."""

    def __init__(self, text: int) -> None:
        self.text = text
        self.history: list[Line] = []
        self.step, self.loss_sum, self.losses = 0, 0.0, 0

    def add(self, step: int, loss: float) -> None:
        """One more step."""
        self.step, self.loss_sum, self.losses = step, self.loss_sum + loss, self.losses + 1

    def state_dict(self) -> dict[str, Any]:
        """As it goes into a checkpoint."""
        return {**vars(self), "history": [tuple(line) for line in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned; ValueError where that was about another text."""
        if state["text"] != self.text:
            raise ValueError("the checkpoint's run was trained on another text: the standard library of another Python")
        self.history = [Line(*line) for line in state["history"]]
        self.step, self.loss_sum, self.losses = state["step"], state["loss_sum"], state["losses"]


def _windows(text: Array, starts: Array, context: int) -> tuple[Tensor, Tensor]:
    """The characters that the model sees (N, T) and those that it is to say (N, T): each the next."""
    windows = text[starts[:, None] + np.arange(context + 1)]
    return Tensor(windows[:, :-1].copy()), Tensor(windows[:, 1:].copy())


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of every next character."""
    loss: Tensor = nn.functional.cross_entropy(model(x).reshape(-1, len(SYMBOLS)), y.reshape(-1))
    return loss


def held_out_loss(model: CharTransformer, text: Array, context: int, step: int, windows: int = 128) -> float:
    """The mean loss over windows spread evenly over the text, in nats a character; the model as it is in evaluation.

    Raises:
        FloatingPointError: it is NaN or infinite.
    """
    x, y = _windows(text, np.linspace(0, len(text) - context - 1, windows).astype(np.int64), context)
    model.eval()
    with no_grad():
        loss = float(_loss(model, x, y).item())
    check_finite(loss, f"the held-out text after step {step}", model, x)
    model.train()
    return loss


def warm_up(step: int) -> float:
    """The factor of the learning rate: rises for 50 steps, then falls as 1/√step; Vaswani et al. 2017, equation 3."""
    return min((step + 1) / 50, math.sqrt(50 / (step + 1)))


def train_chars(
    *,
    norm: str = "pre",
    optimizer: str = "adamw",
    steps: int = 300,
    lr: float = 3e-3,
    hidden: int = 64,
    heads: int = 4,
    layers: int = 2,
    context: int = 64,
    batch_size: int = 32,
    dropout: float = 0.0,
    dtype: Any = "float32",
    seed: int = 0,
    every: int = 50,
    sample: int = 200,
    resume: str | Path | None = None,
    save: str | Path | None = None,
    checkpoint: str | Path | None = None,
    report: Callable[[str], Any] | None = say,
    progress: bool | None = None,
) -> CharsResult:
    """Trains a CharTransformer on the standard library and reports its loss on the files that are held out.

    Args:
        norm: "pre", "post" or "none".
        optimizer: "sgd", "momentum", "adam" or "adamw".
        steps: the number of the last step, also where a run is resumed.
        lr: the learning rate at its highest, after 50 steps.
        hidden: the features; heads must divide it.
        heads, layers: of the encoder.
        context: how many characters the model sees.
        batch_size: windows a step, at random places.
        dropout: its probability.
        dtype: "float32" or "float64".
        seed: of the initialisation, the batches, dropout and the sample.
        every: steps between two reports.
        sample: how many characters to write at the end.
        resume: a checkpoint to go on from: the run then equals one that was never interrupted, to the bit. Of the arguments above only
            steps and sample may differ from those of its run; `runs.read_checkpoint` reads them.
        save: where to write a checkpoint, at every report and at the end: .npz or .safetensors.
        checkpoint: where a run that is told to stop, by SIGINT or SIGTERM, saves itself: as save, if None. Where both are None, signals act
            as always.
        report: called with each line; None for silence.
        progress: a progress bar; by default on a terminal, for more than 500 steps.
    Returns:
        The model, the optimizer, the reports and the sample.
    Raises:
        ValueError, TypeError: an argument out of its range, or a checkpoint of another run. OSError: a file cannot be read or written.
        FloatingPointError: a loss is NaN or infinite; names the first layer whose output was not finite.
        Interrupted: a signal came; the run is in its checkpoint.
    """
    check_choice("norm", norm, NORMS)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    for name, count in (("steps", steps), ("hidden", hidden), ("heads", heads), ("layers", layers), ("context", context), ("batch_size", batch_size)):
        check_positive(name, count)
    check_positive("every", every)
    check_positive("lr", lr, float)
    if hidden % heads:
        raise ValueError(f"hidden must be a multiple of heads; got {hidden} and {heads}")
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise ValueError(f"sample must be a number of characters, 0 or more; got {sample!r}")
    nn.Dropout(dropout)
    kind = floating_dtype(dtype)
    if save is not None:
        check_path(save)
    text, held_out = read_text(TRAINING), read_text(HELD_OUT)
    if context >= len(held_out):
        raise ValueError(f"context must be shorter than the held-out text of {len(held_out)} characters; got {context}")

    manual_seed(seed)
    model = CharTransformer(hidden, heads, layers, context, norm, dropout, kind)
    step = make_optimizer(optimizer, model.parameters(), lr)
    scheduler = optim.lr_scheduler.LambdaLR(step, warm_up)
    at = Progress(zlib.crc32(np.concatenate([text, held_out]).tobytes()))
    options = {"norm": norm, "optimizer": optimizer, "steps": steps, "lr": lr, "hidden": hidden, "heads": heads, "layers": layers, "context": context}
    options.update(batch_size=batch_size, dropout=dropout, dtype=kind.name, seed=seed, every=every, sample=sample)
    run = Run("chars", options, {"model": model, "optimizer": step, "scheduler": scheduler, "progress": at}, checkpoint or save)
    if resume is not None:
        run.resume(resume, may_differ=("steps", "sample"))
        if at.step > steps:
            raise ValueError(f"{str(resume)!r} is a run of {at.step} steps already: ask for more than that")
        at.history = [line for line in at.history if line.step % every == 0 or line.step == steps]  # what was the last is in the midst now

    with run.stoppable():
        for number in with_progress(at.step + 1, steps, "step", progress, many=500):
            x, y = _windows(text, default_generator.integers(0, len(text) - context, (batch_size,)), context)
            before = get_rng_state() if dropout else None
            loss = _loss(model, x, y)
            value = loss.item()
            check_finite(value, f"step {number}", model, x, random=before)
            step.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            step.step()
            scheduler.step()
            at.add(number, value)
            if number % every == 0 or number == steps:
                at.history.append(Line(number, at.loss_sum / at.losses, held_out_loss(model, held_out, context, number)))
                if report is not None:
                    report(at.history[-1].text(steps))
                if number % every == 0:
                    at.loss_sum, at.losses = 0.0, 0
                if save is not None and number < steps:
                    run.write(save)
            run.stop_if_asked()
        if save is not None:  # also where a run that was resumed had no step left
            run.write(save)
        written = ""
        if sample:
            for character in characters(model, sample, seed):
                run.stop_if_asked()
                written += character
            if report is not None:
                report(f"Sample of {sample} characters:\n{written}")
    return CharsResult(model, step, at.history, written)


# -- 4. Sampling ----------------------------------------------------------------------------------------------------------------------


def characters(model: CharTransformer, length: int, seed: int = 0, prompt: str = "\ndef ", temperature: float = 0.8) -> Iterator[str]:
    """The prompt and `length` characters that the model writes after it, each drawn from softmax(logits/temperature).

    The numbers come from a stream of their own, so that looking at a sample does not change a training run.

    Raises:
        ValueError: an empty prompt, or a temperature that is not above 0.
    """
    if not prompt or not temperature > 0:
        raise ValueError(f"characters: expected a prompt of at least one character and a temperature above 0; got {prompt!r} and {temperature}")
    generator, context = Generator().manual_seed(seed), model.positions.max_len
    numbers = encode(prompt)
    was_training = model.training
    yield prompt.removeprefix("\n")
    model.eval()
    try:
        for _ in range(length):
            with no_grad():
                logits = model(Tensor(numbers[None, -context:].copy())).numpy()[0, -1].astype(np.float64)
            shares = np.exp((logits - logits.max()) / temperature).cumsum()
            u = generator.uniform((), dtype=np.float64) * shares[-1]
            numbers = np.append(numbers[-context:], np.searchsorted(shares, u, side="right"))
            yield SYMBOLS[numbers[-1]]
    finally:
        model.train(was_training)
