"""The table of layers, output shapes and parameters that Keras users know as model.summary().

A module does not know the shape of what it will put out, so the model is run, with a hook on every module that notes the shapes; twice,
with batches of 2 and of 3: an axis whose length is another in the second run is the batch axis, wherever it stands, and is shown as None.

The runs leave nothing behind: they are in eval mode and outside of the graph, and the mode of each module, the buffers and the random
stream are put back as they were, also where forward raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .dtype import as_dtype
from .grad_mode import no_grad
from .nn.module import Module
from .notebook import escape
from .random import get_rng_state, set_rng_state
from .tensor import Tensor, touch

__all__ = ["Summary", "SummaryRow", "summary"]

BATCHES = 2, 3
HEADINGS = "Layer (type)", "Output Shape", "Param #"

# -- 1. What comes back ---------------------------------------------------------------------------------------------------------------


class SummaryRow(NamedTuple):
    """One module.

    Attributes:
        path: its name in named_modules, "" for the model itself. type: the name of its class. depth: 0 for the model's children.
        output_shape: a tuple, with None for the batch axis; a list or dict of such for several outputs; "multiple" where calls differ;
            None where it was not called.
        parameters: elements of the parameters that are its own, not its children's, and stand in no row above.
        shared: whether some of its own stand in a row above. calls: how often it was called.
    """

    path: str
    type: str
    depth: int
    output_shape: Any
    parameters: int
    shared: bool
    calls: int

    @property
    def label(self) -> str:
        """Its name, class and number of calls, further in the deeper it is."""
        name = self.path.rpartition(".")[2]
        times = f" ×{self.calls}" if self.calls > 1 else ""
        return "  " * self.depth + (f"{name} ({self.type})" if name else self.type) + times

    @property
    def shape_text(self) -> str:
        """The output shape as it is shown."""
        return "not called" if not self.calls else str(self.output_shape)

    @property
    def parameters_text(self) -> str:
        """The parameters as they are shown."""
        return (f"{self.parameters:,}" if self.parameters or not self.shared else "") + (" (shared)" if self.shared else "")


class Summary:
    """What `summary` returns: printed, the table; in a notebook, the same as HTML.

    Attributes:
        model: the class of the model. rows: a list of SummaryRow, parents before children.
        total_params, trainable_params, non_trainable_params: elements, each parameter counted once, however often it is used.
        buffers: elements of what is kept but not trained, as running means (Keras counts these as non-trainable parameters).
        param_bytes, buffer_bytes: their memory. output_bytes: that of all outputs of the modules without children, for one sample, or for
            the whole batch where one was given. per_sample: which of the two.
    """

    def __init__(self, model: Module, rows: list[SummaryRow], output_bytes: int, per_sample: bool) -> None:
        parameters = list(model.parameters())
        self.model = type(model).__name__
        self.rows = rows
        self.total_params = sum(p._data.size for p in parameters)
        self.trainable_params = sum(p._data.size for p in parameters if p.requires_grad)
        self.non_trainable_params = self.total_params - self.trainable_params
        self.param_bytes = sum(p._data.nbytes for p in parameters)
        self.trainable_bytes = sum(p._data.nbytes for p in parameters if p.requires_grad)
        self.buffers = sum(b._data.size for b in model.buffers())
        self.buffer_bytes = sum(b._data.nbytes for b in model.buffers())
        self.output_bytes = output_bytes
        self.per_sample = per_sample

    def totals(self) -> list[str]:
        """The lines below the table."""
        lines = [
            f"Total params: {self.total_params:,} ({_size(self.param_bytes)})",
            f"Trainable params: {self.trainable_params:,} ({_size(self.trainable_bytes)})",
            f"Non-trainable params: {self.non_trainable_params:,} ({_size(self.param_bytes - self.trainable_bytes)})",
        ]
        if self.buffers:
            lines.append(f"Buffers: {self.buffers:,} ({_size(self.buffer_bytes)})")
        return [*lines, f"Layer outputs: {_size(self.output_bytes)}" + (" a sample" if self.per_sample else "")]

    def __str__(self) -> str:
        table = [HEADINGS, *((row.label, row.shape_text, row.parameters_text) for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(3)]

        def rule(left: str, between: str, right: str, stroke: str) -> str:
            return left + between.join(stroke * (width + 2) for width in widths) + right

        def line(cells: Sequence[str], bar: str) -> str:
            label, shape, parameters = cells
            return f"{bar} {label:<{widths[0]}} {bar} {shape:<{widths[1]}} {bar} {parameters:>{widths[2]}} {bar}"

        heading, *rows = table
        return "\n".join(
            [
                f'Model: "{self.model}"',
                rule("┏", "┳", "┓", "━"),
                line(heading, "┃"),
                rule("┡", "╇", "┩", "━"),
                *(line(cells, "│") for cells in rows),
                rule("└", "┴", "┘", "─"),
                *(" " + total for total in self.totals()),
            ]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        left, right = ' style="text-align:left;white-space:pre"', ' style="text-align:right"'
        head = "".join(f"<th{style}>{escape(text)}</th>" for text, style in zip(HEADINGS, (left, left, right)))
        body = "".join(
            f"<tr><td{left}>{escape(row.label)}</td><td{left}>{escape(row.shape_text)}</td><td{right}>{escape(row.parameters_text)}</td></tr>"
            for row in self.rows
        )
        totals = "<br>".join(escape(total) for total in self.totals())
        return (
            f'<table><caption style="text-align:left">Model: <b>{escape(self.model)}</b></caption><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table><p>{totals}</p>"
        )


def _size(n: float) -> str:
    """Bytes in Keras' units: 1 KB is 1024."""
    for unit in ("B", "KB", "MB"):
        if n < 1024:
            return f"{n:.2f} {unit}"
        n /= 1024
    return f"{n:.2f} GB"


# -- 2. Running the model -------------------------------------------------------------------------------------------------------------


class _Calls(NamedTuple):
    """What one run showed: each module's outputs, call by call, and the bytes that the modules without children put out."""

    shapes: dict[Module, list[Any]]
    output_bytes: list[int]


@contextmanager
def _undisturbed(model: Module) -> Iterator[None]:
    """Eval mode and no graph inside; afterwards every module's mode, all buffers and the random stream are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, name, b, b._data.copy()) for module in model.modules() for name, b in module._buffers.items() if b is not None]
    stream = get_rng_state()
    try:
        model.eval()
        with no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, values in buffers:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            if not np.array_equal(buffer._data, values, equal_nan=True):
                buffer._data[...] = values
                touch(buffer)
        set_rng_state(stream)


def _run(model: Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Calls:
    found = _Calls({}, [0])

    def note(module: Module, inputs: Any, output: Any) -> None:
        found.shapes.setdefault(module, []).append(_shapes(output))
        if not any(True for _ in module.children()):
            found.output_bytes[0] += sum(t._data.nbytes for t in _tensors(output))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with _undisturbed(model):
            model(*args, **kwargs)
    except Exception as error:
        given = [_shapes(value) for value in (*args, *kwargs.values())]
        raise RuntimeError(f"summary: {type(model).__name__} cannot be run on inputs of shapes {', '.join(map(str, given))}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return found


def _shapes(output: Any) -> Any:
    """The shapes in an output: a tuple for a Tensor, a list or dict of such where there are several."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, Mapping):
        return {key: _shapes(value) for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return [_shapes(value) for value in output]
    return type(output).__name__


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list, Mapping)):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(value)


def _common(a: Any, b: Any) -> Any:
    """Two runs' shapes as one, with None where they differ; "multiple" where they are not even alike."""
    if type(a) is not type(b) or (not isinstance(a, str) and len(a) != len(b)):
        return "multiple"
    if isinstance(a, tuple):
        return tuple(m if m == n else None for m, n in zip(a, b))
    if isinstance(a, list):
        return [_common(m, n) for m, n in zip(a, b)]
    if isinstance(a, dict):
        return {key: _common(a[key], b.get(key)) for key in a}
    return a


# -- 3. For users ---------------------------------------------------------------------------------------------------------------------


def summary(model: Module, input_size: Any = None, *, input_data: Any = None, batch_size: int | None = None, dtypes: Any = None) -> Summary:
    """The model's layers with their output shapes and parameters.

    Args:
        model: a Module.
        input_size: the shape of one sample, without the batch axis, as in Keras: 64, or (3, 8); a list of shapes for several inputs.
        input_data: instead of it, the input itself: a Tensor, a list or tuple of arguments, or a dict of keyword arguments; its shapes are
            shown as they are. For models that only work on certain values, as indices or lengths.
        batch_size: shown in the place of None.
        dtypes: of the inputs of input_size, one or a list; float32 by default. Inputs are zeros.
    Returns:
        A Summary. print(summary(...)) prints the table; in a notebook it shows itself.
    Raises:
        TypeError: model is no Module; not one of input_size and input_data. ValueError: a size that cannot be.
        RuntimeError: the model's forward raised; the message says on which shapes.

    Example:
        >>> import tinygrad_norm as tg
        >>> from tinygrad_norm import nn
        >>> print(tg.summary(nn.Sequential(nn.Linear(10, 20), nn.LayerNorm(20), nn.ReLU(), nn.Linear(20, 2)), 10))
        Model: "Sequential"
        ┏━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━┓
        ┃ Layer (type)  ┃ Output Shape ┃ Param # ┃
        ┡━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━┩
        │ 0 (Linear)    │ (None, 20)   │     220 │
        │ 1 (LayerNorm) │ (None, 20)   │      40 │
        │ 2 (ReLU)      │ (None, 20)   │       0 │
        │ 3 (Linear)    │ (None, 2)    │      42 │
        └───────────────┴──────────────┴─────────┘
         Total params: 302 (1.18 KB)
         Trainable params: 302 (1.18 KB)
         Non-trainable params: 0 (0.00 B)
         Layer outputs: 248.00 B a sample
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: model must be a Module; got {type(model).__name__}")
    if (input_size is None) == (input_data is None):
        raise TypeError("summary: give input_size, the shape of one sample without the batch axis, or input_data, the input itself")
    if input_data is not None:
        if batch_size is not None or dtypes is not None:
            raise TypeError("summary: batch_size and dtypes go with input_size; input_data has its own")
        kwargs = input_data if isinstance(input_data, Mapping) else {}
        args = () if kwargs is input_data else tuple(input_data) if isinstance(input_data, (list, tuple)) else (input_data,)
        runs = [_run(model, args, kwargs)]
    else:
        shapes = _input_shapes(input_size)
        kinds = [as_dtype(kind).numpy for kind in (dtypes if isinstance(dtypes, (list, tuple)) else [dtypes or "float32"] * len(shapes))]
        if len(kinds) != len(shapes):
            raise ValueError(f"summary: dtypes must hold one for each of the {len(shapes)} inputs; got {len(kinds)}")
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"summary: batch_size must be a positive integer, or None; got {batch_size!r}")
        runs = []
        for n in BATCHES if batch_size is None else (batch_size,):
            runs.append(_run(model, [Tensor(np.zeros((n, *shape), kind)) for shape, kind in zip(shapes, kinds)], {}))
    per_sample = len(runs) > 1
    output_bytes = runs[-1].output_bytes[0] - (runs[0].output_bytes[0] if per_sample else 0)
    return Summary(model, list(_rows(model, runs)), output_bytes, per_sample)


def _rows(model: Module, runs: list[_Calls]) -> Iterator[SummaryRow]:
    counted: set[int] = set()
    itself = any(p is not None for p in model._parameters.values()) or not any(True for _ in model.children())  # has a row of its own
    for path, module in model.named_modules():
        own = {id(p): p for p in module._parameters.values() if p is not None}
        new = [p for i, p in own.items() if i not in counted]
        counted.update(own)
        if not path and not itself:
            continue  # it is the title
        calls = [run.shapes.get(module, []) for run in runs]
        merged = [_common(*shapes) if len(runs) > 1 else shapes[0] for shapes in zip(*calls)]
        shape: Any = None
        if merged:
            shape = merged[0] if all(other == merged[0] for other in merged) else "multiple"
        depth = path.count(".") + (1 if path and itself else 0)
        yield SummaryRow(path, type(module).__name__, depth, shape, sum(p._data.size for p in new), len(new) < len(own), len(calls[0]))


def _input_shapes(size: Any) -> list[tuple[int, ...]]:
    """The shapes of the inputs, from an int, a shape, or several shapes."""
    if isinstance(size, (int, np.integer)):
        size = (size,)
    if not isinstance(size, Sequence) or isinstance(size, str):
        raise TypeError(f"summary: input_size must be an int, a shape or a list of shapes; got {type(size).__name__}")
    several = len(size) > 0 and all(isinstance(part, Sequence) and not isinstance(part, str) for part in size)
    shapes = [tuple(shape) for shape in size] if several else [tuple(size)]
    for shape in shapes:
        if any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0 for n in shape):
            raise ValueError(
                f"summary: a shape in input_size holds lengths, without the batch axis; got {shape}"
                + (": leave the None of the batch out" if None in shape else "")
            )
    return shapes
