"""How Tensors, Modules and reports look in a notebook: HTML without scripts, that says what their text says and a little more.

Tensors and Modules are known here by what they hold, not by their classes, which stand on floors above and call down.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from .plotting import BLUE, GREY, RUST
from .printing import element_words

__all__ = ["escape", "module_html", "report_html", "tensor_html"]

ROWS, COLUMNS = 12, 10  # what a table still shows whole
ABOVE, BELOW = "230,159,0", "86,180,233"  # orange and sky blue of Okabe & Ito: told apart by all eyes
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


def escape(text: str) -> str:
    """Text as HTML and XML; the standard library's html would import two thousand names of characters."""
    return NO_XML.sub("\ufffd", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def table_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells, which are HTML already, as a table."""
    head = "".join(f"<th style='text-align:left'>{h}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td style='text-align:left;vertical-align:top'>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


WRONG = ("wrong", "BROKEN", "DIFFERS", "PASSES", "not deterministic", "noisy", "inconclusive", "kink")
MARKED = {"ok": BLUE, "caught": BLUE, "holds": BLUE, "independent": GREY, **dict.fromkeys(WRONG, RUST)}


def report_html(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[str] = ()) -> str:
    """A report: its title, its table with the verdicts in colour, and sentences below it."""

    def cell(text: str) -> str:
        colour = MARKED.get(text)
        return f"<b style='color:{colour}'>{escape(text)}</b>" if colour else escape(text)

    said = "".join(f"<li>{escape(s)}</li>" for s in below)
    table = table_html([escape(h) for h in header], [[cell(c) for c in row] for row in rows])
    return f"<div><p><b>{escape(title)}</b></p>{table}{f'<ul>{said}</ul>' if said else ''}</div>"


def tensor_html(tensor: Any) -> str:
    """A Tensor: what it is, its values (a small vector or matrix as a table, shaded by sign and size), and their spread.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.tensor([1.0, -2.0])._repr_html_()[:54]
        '<div><p><b>Tensor</b> (2,), float32, no gradient</p><t'
    """
    array = tensor._data
    node = tensor.grad_fn
    place = f"made by {node.name}" if node is not None else "leaf, collects a gradient" if tensor.requires_grad else "no gradient"
    shape = str(tuple(array.shape)) if array.ndim else "scalar"
    parts = [f"<p><b>{type(tensor).__name__}</b> {shape}, {array.dtype.name}, {escape(place)}</p>"]
    if array.ndim in (1, 2) and array.size > 0 and array.shape[-1] <= COLUMNS and len(array) <= (COLUMNS if array.ndim == 1 else ROWS):
        parts.append(_values(array))
    else:
        parts.append(f"<pre>{escape(repr(tensor))}</pre>")
    if array.size > 1:
        parts.append(f"<p>{_spread(array)}</p>")
    if tensor._grad is not None:
        parts.append(f"<p>.grad: {_spread(tensor._grad._data)}</p>")
    return f"<div>{''.join(parts)}</div>"


def _spread(array: Any) -> str:
    if array.size == 0:
        return "empty"
    if array.dtype.kind != "f":
        return f"min {array.min()}, max {array.max()}"
    finite = array[np.isfinite(array)].astype(np.float64)
    lost = [f"{int(count)} {what}" for what, count in (("NaN", np.isnan(array).sum()), ("infinite", np.isinf(array).sum())) if count]
    if not finite.size:
        return f"no finite value; <b>{', '.join(lost)}</b>"
    with np.errstate(over="ignore"):  # of a mean and a std near the largest number
        words = f"min {finite.min():.4g}, mean {finite.mean():.4g}, max {finite.max():.4g}, std {finite.std():.4g}"
    return words + (f" of the finite; <b>{', '.join(lost)}</b>" if lost else "")


def _values(array: Any) -> str:
    rows = array.reshape(1, -1) if array.ndim == 1 else array
    words, _ = element_words(rows)
    finite = np.abs(rows[np.isfinite(rows)].astype(np.float64))
    most = float(finite.max(initial=0)) or 1.0
    body = ""
    for i, row in enumerate(rows):
        cells = ""
        for value, word in zip(row.tolist(), words[i]):
            depth = min(abs(value) / most, 1) * 0.6 if np.isfinite(value) else 0
            colour = f"background-color:rgba({ABOVE if value > 0 else BELOW},{depth:.2f})" if depth else ""
            cells += f"<td style='text-align:right;font-family:monospace;white-space:pre;{colour}'>{escape(word)}</td>"
        body += f"<tr>{'' if array.ndim == 1 else f'<th>{i}</th>'}{cells}</tr>"
    corner = "" if array.ndim == 1 else "<th></th>"
    head = "".join(f"<th style='text-align:right'>{j}</th>" for j in range(rows.shape[1]))
    return f"<table title='orange: above 0, blue: below; the deeper, the larger'><thead><tr>{corner}{head}</tr></thead><tbody>{body}</tbody></table>"


def module_html(module: Any) -> str:
    """A Module: one line for each layer in it, with its options, its parameters and their shapes, and how many numbers they hold.

    Example:
        >>> import tinygrad_norm as tg
        >>> "16 numbers" in tg.nn.Linear(3, 4)._repr_html_()
        True
    """
    rows, seen = [], set()
    for path, part in module.named_modules():
        extra = part.extra_repr()
        own = list(part.named_parameters(recurse=False)) + list(part.named_buffers(recurse=False))
        new = [p for _, p in part.named_parameters(recurse=False) if id(p) not in seen]
        seen |= {id(p) for p in new}
        held = "<br>".join(f"{escape(name)} {tuple(t.shape)}{'' if t.requires_grad else ', no gradient'}" for name, t in own)
        count = f"{sum(p._data.size for p in new):,}" if new else ""
        rows.append([escape(path) or "<i>the whole</i>", f"<b>{escape(type(part).__name__)}</b>({escape(extra)})", held, count])
    total = sum(p._data.size for p in module.parameters())
    mode = "training" if module.training else "evaluation"
    title = f"<p><b>{escape(type(module).__name__)}</b>, in {mode} mode: {total:,} numbers in its parameters</p>"
    return f"<div>{title}{table_html(['part', 'layer', 'parameters and buffers', 'numbers'], rows)}</div>"
