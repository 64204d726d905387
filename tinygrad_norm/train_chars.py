"""A small causal Transformer that learns to write Python, character by character, with its norms before, after, or left out.

The text is one that every machine has: the source of Python's own standard library. Three of its files are held out whole, so the held-out
loss is about code that the model has not seen. `train_chars()` is what `tinygrad-norm train --task chars` and the notebooks call.

A checkpoint holds all that the next step depends on: parameters, the optimizer's moments, the scheduler's count, the state of the random
stream (batches and dropout draw from it), the number of the step. So a run that was stopped and resumed prints the numbers of one that
was not, to the last bit.

    1. The text   2. The model   3. Training   4. Checkpoints   5. Sampling
"""

from __future__ import annotations

import json
import math
import sysconfig
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import nn, optim
from .dtype import as_dtype
from .grad_mode import no_grad
from .random import Generator, default_generator, get_rng_state, manual_seed, set_rng_state
from .serialization import check_path, load, save
from .tensor import Tensor
from .train import check_choice, check_positive, make_optimizer, with_progress

__all__ = ["NORMS", "CharTransformer", "CharsResult", "decode", "encode", "read_text", "sample_text", "train_chars"]

Array = np.ndarray[Any, Any]
NORMS = ("pre", "post", "none")
ENDINGS = (".npz", ".safetensors")

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
    """The trained model, its optimizer, the reports of this run, and the sample ("" where none was asked for)."""

    model: CharTransformer
    optimizer: optim.Optimizer
    history: list[Line]
    sample: str


def _loss(model: nn.Module, windows: Array) -> Tensor:
    """The mean cross-entropy of every next character in windows (N, T + 1)."""
    logits = model(Tensor(windows[:, :-1].copy()))
    loss: Tensor = nn.functional.cross_entropy(logits.reshape(-1, len(SYMBOLS)), Tensor(windows[:, 1:].reshape(-1).copy()))
    return loss


def held_out_loss(model: CharTransformer, text: Array, context: int, windows: int = 128) -> float:
    """The mean loss over windows spread evenly over the text, in nats a character; the model as it is in evaluation."""
    starts = np.linspace(0, len(text) - context - 1, windows).astype(np.int64)
    model.eval()
    with no_grad():
        loss = _loss(model, text[starts[:, None] + np.arange(context + 1)]).item()
    model.train()
    return float(loss)


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
    report: Callable[[str], Any] | None = print,
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
        resume: a checkpoint to go on from; the model and its training are those of its run, so only steps and what follows may differ.
        save: where to write a checkpoint, at every report and at the end: .npz or .safetensors.
        report: called with each line; None for silence.
        progress: a progress bar; by default on a terminal, for more than 500 steps.
    Returns:
        The model, the optimizer, the reports and the sample.
    Raises:
        ValueError, TypeError: an argument out of its range, or a checkpoint of another run. OSError: a file cannot be read or written.
    """
    check_choice("norm", norm, NORMS)
    check_choice("optimizer", optimizer, ("sgd", "momentum", "adam", "adamw"))
    for name, value in (("steps", steps), ("hidden", hidden), ("heads", heads), ("layers", layers), ("context", context), ("batch_size", batch_size)):
        check_positive(name, value)
    check_positive("every", every)
    check_positive("lr", lr, float)
    if hidden % heads:
        raise ValueError(f"hidden must be a multiple of heads; got {hidden} and {heads}")
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        raise ValueError(f"sample must be a number of characters, 0 or more; got {sample!r}")
    nn.Dropout(dropout)
    kind = as_dtype(dtype)
    if not kind.is_floating_point:
        raise ValueError(f"dtype must be float32 or float64; got {dtype!r}")
    if save is not None:
        check_path(save, ENDINGS)
    text, held_out = read_text(TRAINING), read_text(HELD_OUT)
    if context >= len(held_out):
        raise ValueError(f"context must be shorter than the held-out text of {len(held_out)} characters; got {context}")

    manual_seed(seed)
    model = CharTransformer(hidden, heads, layers, context, norm, dropout, kind)
    run = _Run(model, make_optimizer(optimizer, model.parameters(), lr))
    # What makes a run what it is; every decides which losses are averaged in one line.
    about = {"norm": norm, "optimizer": optimizer, "lr": lr, "hidden": hidden, "heads": heads, "layers": layers, "context": context, "every": every}
    about.update(batch_size=batch_size, dropout=dropout, dtype=str(kind), seed=seed, text=zlib.crc32(np.concatenate([text, held_out]).tobytes()))
    if resume is not None:
        run.restore(resume, about)
        if run.step >= steps:
            raise ValueError(f"{str(resume)!r} is a run of {run.step} steps already: ask for more than that")

    history: list[Line] = []
    first = run.step + 1
    for step in with_progress(range(first, steps + 1), steps - first > 500 if progress is None else progress, progress is None, "step"):
        starts = default_generator.integers(0, len(text) - context, (batch_size,))
        loss = _loss(model, text[starts[:, None] + np.arange(context + 1)])
        run.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        run.optimizer.step()
        run.scheduler.step()
        run.count(step, loss.item())
        if step % every == 0 or step == steps:
            history.append(Line(step, run.loss_sum / run.losses, held_out_loss(model, held_out, context)))
            if report is not None:
                report(history[-1].text(steps))
            if step % every == 0:
                run.loss_sum, run.losses = 0.0, 0
            if save is not None:
                run.write(save, about)
    written = sample_text(model, sample, seed) if sample else ""
    if written and report is not None:
        report(f"Sample of {sample} characters:\n{written}")
    return CharsResult(model, run.optimizer, history, written)


# -- 4. Checkpoints -------------------------------------------------------------------------------------------------------------------


class _Run:
    """All that the next step depends on, and how it becomes a file of tensors and back."""

    def __init__(self, model: CharTransformer, optimizer: optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.scheduler = optim.lr_scheduler.LambdaLR(optimizer, warm_up)
        self.step, self.loss_sum, self.losses = 0, 0.0, 0

    def count(self, step: int, loss: float) -> None:
        """One more step."""
        self.step, self.loss_sum, self.losses = step, self.loss_sum + loss, self.losses + 1

    def write(self, path: str | Path, about: dict[str, Any]) -> None:
        """Numbers in arrays as tensors; the others as JSON, which keeps every bit of a float, in a tensor of its bytes."""
        state, random = self.optimizer.state_dict(), get_rng_state()
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        plain: dict[str, dict[str, Any]] = {}
        for number, values in state["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{number}.{key}"] = value
                else:
                    plain.setdefault(str(number), {})[key] = value
        tensors["random"] = Tensor(random.pop("words").astype(np.int64))
        rest = {"about": about, "step": self.step, "loss_sum": self.loss_sum, "losses": self.losses, "random": random, "plain": plain}
        rest.update(groups=state["param_groups"], scheduler=self.scheduler.state_dict())
        tensors["json"] = Tensor(np.frombuffer(json.dumps(rest).encode(), np.uint8).astype(np.int64))
        save(tensors, path)

    def restore(self, path: str | Path, about: dict[str, Any]) -> None:
        """Goes on from what `write` wrote; ValueError where that is not a checkpoint of such a run."""
        tensors = load(path)
        try:
            rest = json.loads(tensors.pop("json").numpy().astype(np.uint8).tobytes())
            words = tensors.pop("random").numpy().astype(np.uint32)
            came = rest["about"]
        except (KeyError, ValueError):
            raise ValueError(f"{str(path)!r} is no checkpoint of train --task chars: it has not what --save of that task writes") from None
        if came.get("text") != about["text"]:
            raise ValueError(f"{str(path)!r} was trained on another text: the standard library of another Python")
        other = [f"{name} {came.get(name)!r}, not {value!r}" for name, value in about.items() if came.get(name) != value]
        if other:
            raise ValueError(f"{str(path)!r} is of a run with {', '.join(other)}: resume with the options it was started with")
        state: dict[int, dict[str, Any]] = {int(number): values for number, values in rest["plain"].items()}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                state.setdefault(int(number), {})[key] = value
        self.model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
        self.optimizer.load_state_dict({"state": state, "param_groups": rest["groups"]})
        self.scheduler.load_state_dict(rest["scheduler"])
        set_rng_state({**rest["random"], "words": words})
        self.step, self.loss_sum, self.losses = rest["step"], rest["loss_sum"], rest["losses"]


# -- 5. Sampling ----------------------------------------------------------------------------------------------------------------------


def sample_text(model: CharTransformer, length: int, seed: int = 0, prompt: str = "\ndef ", temperature: float = 0.8) -> str:
    """The prompt and `length` characters that the model writes after it, each drawn from softmax(logits/temperature).

    The numbers come from a stream of their own, so that looking at a sample does not change a training run.
    """
    generator, context = Generator().manual_seed(seed), model.positions.max_len
    numbers = encode(prompt)
    was_training = model.training
    model.eval()
    with no_grad():
        for _ in range(length):
            logits = model(Tensor(numbers[None, -context:].copy())).numpy()[0, -1].astype(np.float64)
            shares = np.exp((logits - logits.max()) / temperature).cumsum()
            u = generator.uniform((), dtype=np.float64) * shares[-1]
            numbers = np.append(numbers, np.searchsorted(shares, u, side="right"))
    model.train(was_training)
    return decode(numbers)[1 if prompt.startswith("\n") else 0 :]
