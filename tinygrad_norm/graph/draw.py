"""The picture of a graph as SVG, written out by hand: no program and no package is needed to see it.

Leaves are rectangles, ops have round corners, inputs that need no gradient are dashed: shape tells them apart, colour only helps (blue, grey
and orange of Okabe & Ito, which all eyes tell apart).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..autograd.target import plural
from ..notebook import escape
from ..plotting import BLUE, GREY, RUST
from ..tensor import Tensor
from .layout import layout
from .nodes import Box, Graph, Names, argument, collect
from .words import cut, one_line, rows, shape_text, width_of

__all__ = ["MOST", "Picture", "draw", "render"]

MOST = 1000  # boxes: beyond, a picture helps nobody
INK, FAINT, GRADIENT = "#1A1A1A", GREY, RUST
FILL = {"leaf": "#E3F0F8", "op": "#F3F3F3", "constant": "#FFFFFF"}
EDGE = {"leaf": BLUE, "op": FAINT, "constant": FAINT}
TITLE, TEXT, LINE, PAD = 12.0, 11.0, 15.0, 8.0
LEGEND = (("leaf", "leaf: collects a gradient"), ("op", "op, as grad_fn names it"), ("constant", "constant: no gradient"))


class Marks(NamedTuple):
    """What the step-through adds to a picture.

    Attributes:
        gradients: for each box, (step, lines) from which step on it shows which gradient.
        steps: for each box, the step at which its backward runs or its .grad is written; None for never.
        arrows: for each arrow, the step at which a gradient runs back along it; None for never.
    """

    gradients: Sequence[Sequence[tuple[int, list[str]]]]
    steps: Sequence[int | None]
    arrows: Sequence[int | None]


class Picture:
    """An SVG picture that a notebook shows by itself.

    Attributes:
        svg: the picture as text.
        graph: the boxes and arrows in it.
    """

    def __init__(self, svg: str, graph: Graph) -> None:
        self.svg = svg
        self.graph = graph

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        ops = sum(b.kind == "op" for b in self.graph.boxes)
        inputs = len(self.graph.boxes) - ops
        return f"<picture of a graph of {plural(ops, 'op')} and {plural(inputs, 'input')}: a notebook shows it, .save('graph.svg') writes it>"

    def save(self, path: str | Path) -> Path:
        """Writes the picture to a file ending in .svg, and returns its path.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        if path.suffix != ".svg":
            raise ValueError(f"a picture of a graph is SVG: save it as {path.with_suffix('.svg').name}, not {path.name}")
        path.write_text(self.svg, encoding="utf-8")
        return path


def draw(loss: Tensor | Callable[[], Tensor], names: Names | None = None) -> Picture:
    """The graph that a Tensor was computed from, as SVG: inputs above, the Tensor below, on each arrow the shape of what it carries.

    Small values are shown whole, of large ones the mean and the range. The graph keeps most values only; under `tg.graph.record()`, or where
    `loss` is a function that computes the Tensor, all are shown.

    Args:
        loss: a Tensor of any shape, or a function without arguments that returns one.
        names: what to call the leaves: a Module, or a dict from names to Tensors and Modules. By default the names that they have where
            draw is called.
    Returns:
        A Picture: shown by a notebook, with .svg and .save(path).
    Raises:
        ValueError: the graph has more than 1000 boxes.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor(3.0, requires_grad=True)
        >>> tg.graph.draw(x * x)
        <picture of a graph of 1 op and 1 input: a notebook shows it, .save('graph.svg') writes it>
    """
    root, called = argument("draw", names, loss)
    graph = collect(root, called)
    return Picture(render(graph), graph)


def render(graph: Graph, marks: Marks | None = None) -> str:
    """The graph as SVG; with marks, the gradients too, of which the last is visible."""
    if len(graph.boxes) > MOST:
        raise ValueError(f"the graph has {len(graph.boxes)} ops and inputs: a picture of more than {MOST} helps nobody. Draw that of a part of it")
    lines = [_lines(graph, i) for i in range(len(graph.boxes))]
    variants: Sequence[Sequence[tuple[int, list[str]]]] = marks.gradients if marks else [[]] * len(lines)
    sizes = [_size(text, [g for _, g in shown], marks is not None and marks.steps[i] is not None) for i, (text, shown) in enumerate(zip(lines, variants))]
    texts = [shape_text(graph.boxes[a.start].outputs[a.output][0]) for a in graph.arrows]
    labels = [width_of(t, TEXT) for t in texts]
    arrows = [(a.start, a.end) for a in graph.arrows]
    placed = layout(sizes, arrows, labels)
    kinds = [(kind, text) for kind, text in LEGEND if any(b.kind == kind for b in graph.boxes)]
    legend = sum(width_of(text, TEXT) + 44 for _, text in kinds)
    width, height = max(placed.width, legend + 8), placed.height + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(_spoken(graph))}" font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{TEXT:g}">',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#FFFFFF"/>',
    ]
    for k, (a, path, text) in enumerate(zip(graph.arrows, placed.paths, texts)):
        step = "" if marks is None or marks.arrows[k] is None else f' data-step="{marks.arrows[k]}"'
        x, y = path[-1]
        about = f"{graph.label(a.start, a.output)} → {graph.boxes[a.end].title}, as its {a.argument}: {text}"
        parts.append(
            f'<g class="arrow"{step}><title>{escape(about)}</title><path d="{_curve(path)}" fill="none" stroke="{FAINT}" stroke-width="1.4"/>'
            f'<path class="head" d="M{x:.1f},{y:.1f}l-4,-7h8z" fill="{FAINT}"/>'
            f'<text x="{x + 6:.1f}" y="{y - 5:.1f}" fill="{FAINT}">{escape(text)}</text></g>'
        )
    for i, (box, said) in enumerate(zip(graph.boxes, lines)):
        parts.append(_box(box, said, variants[i], placed.corners[i], (placed.widths[i], sizes[i][1]), marks.steps[i] if marks else None, i == graph.root[0]))
    at = 8.0
    for kind, text in kinds:
        dash = ' stroke-dasharray="4 3"' if kind == "constant" else ""
        parts.append(
            f'<rect x="{at:.1f}" y="{height - 22:.1f}" width="22" height="13" rx="{6 if kind == "op" else 0}" fill="{FILL[kind]}" stroke="{EDGE[kind]}"'
            f'{dash}/><text x="{at + 28:.1f}" y="{height - 11:.1f}" fill="{FAINT}">{text}</text>'
        )
        at += width_of(text, TEXT) + 44
    return "".join(parts) + "</svg>"


def _lines(graph: Graph, i: int) -> list[str]:
    """What a box says: its title first."""
    box = graph.boxes[i]
    lines = [cut(box.title)]
    for n, ((shape, kind), value) in enumerate(zip(box.outputs, box.values)):
        if len(box.outputs) > 1 and not any((a.start, a.output) == (i, n) for a in graph.arrows) and graph.root != (i, n):
            continue  # an output that nobody reads
        name = f"{cut(box.names[n], 16)}: " if n in box.names else ""
        lines.append(f"{name}{shape_text(shape)} {kind.name}")
        lines += rows(value)
    return [*lines[:1], *map(cut, box.numbers), *lines[1:]]


def _size(lines: list[str], gradients: list[list[str]], badge: bool) -> tuple[float, float]:
    more = [line for g in gradients for line in g]
    title = width_of(lines[0], TITLE) * 1.02 + (26 if badge else 0)
    width = max([title, *(width_of(line, TEXT) for line in [*lines[1:], *more])]) + 2 * PAD
    height = LINE * len(lines) + PAD + (LINE * max(map(len, gradients)) + 7 if gradients else 0)
    return width, height


def _box(
    box: Box,
    lines: list[str],
    gradients: Sequence[tuple[int, list[str]]],
    corner: tuple[float, float],
    size: tuple[float, float],
    step: int | None,
    is_root: bool,
) -> str:
    (x, y), (width, height) = corner, size
    dash = ' stroke-dasharray="4 3"' if box.kind == "constant" else ""
    about = [box.title, *(f"{shape_text(shape)} {kind.name}: {one_line(value)}" for (shape, kind), value in zip(box.outputs, box.values))]
    marked = "" if step is None else f' data-step="{"1 " if is_root else ""}{step}"'
    parts = [
        f'<g class="box"{marked}><title>{escape("; ".join(about))}</title>',
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{9 if box.kind == "op" else 0}" fill="{FILL[box.kind]}" '
        f'stroke="{EDGE[box.kind]}" stroke-width="{2.6 if is_root else 1.3}"{dash}/>',
    ]
    for n, line in enumerate(lines):
        style = f'font-weight="bold" font-size="{TITLE:g}" fill="{INK}"' if n == 0 else f'fill="{INK}"'
        parts.append(f'<text x="{x + PAD:.1f}" y="{y + LINE * (n + 1) - 1:.1f}" {style} style="white-space:pre">{escape(line)}</text>')
    if step is not None:
        parts.append(f'<text x="{x + width - 5:.1f}" y="{y + 11:.1f}" text-anchor="end" font-size="9" fill="{GRADIENT}">{step}</text>')
    below = y + LINE * len(lines) + 7
    for k, (since, text) in enumerate(gradients):
        hidden = "" if k == len(gradients) - 1 else ' style="display:none"'
        parts.append(f'<g class="gradient" data-from="{since}"{hidden}><path d="M{x + 4:.1f},{below:.1f}h{width - 8:.1f}" stroke="{GRADIENT}"/>')
        for n, line in enumerate(text):
            parts.append(f'<text x="{x + PAD:.1f}" y="{below + LINE * (n + 1) - 2:.1f}" fill="{GRADIENT}" style="white-space:pre">{escape(line)}</text>')
        parts.append("</g>")
    return "".join(parts) + "</g>"


def _curve(path: list[tuple[float, float]]) -> str:
    """Straight along the rows, S-shaped between them."""
    d = [f"M{path[0][0]:.1f},{path[0][1]:.1f}V{path[1][1]:.1f}"]
    for (x0, y0), (x1, y1), (_, y2) in zip(path[1::2], path[2::2], path[3::2]):
        middle = (y0 + y1) / 2
        d.append(f"C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1:.1f}V{y2:.1f}")
    return "".join(d)


def _spoken(graph: Graph) -> str:
    """The picture in a sentence, for those who cannot see it."""
    leaves = [b.title for b in graph.boxes if b.kind == "leaf"]
    ops = [b.title for b in graph.boxes if b.kind == "op"]
    listed = ", ".join(ops[:12]) + (f" and {len(ops) - 12} more" if len(ops) > 12 else "")
    return f"Graph of {plural(len(ops), 'op')}, first to last: {listed or 'none'}. Leaves that collect a gradient: {', '.join(leaves[:20]) or 'none'}."
