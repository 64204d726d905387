"""The backward walk, node by node: what comes in, the op's formula, what it gives, and how gradients add up.

The engine does the walk itself. It is handed a copy of the graph in which a `_Watched` node stands for each node and a stand-in for each leaf;
a `_Watched` node asks the true node for its gradients and writes down what passes. So order, sums and checks are those of `run_backward`, and
neither the .grad of a leaf nor what a node has kept is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..function import Function
from ..tensor import Tensor, check_view
from ..walk import run_backward
from .draw import Marks, Picture, render
from .formulas import BROADCASTS, argument_names, formula_of, gradient_name
from .nodes import Array, Graph, Names, argument, collect, kept_by, nodes_of
from .page import page
from .words import assigned, is_small, number, one_line, rows, shape_text

__all__ = ["Step", "Sum", "Walk", "explain"]

HINT = "not kept: the graph holds only what backward needs; computed inside `with tg.graph.record():`, every value is shown"


@dataclass
class Sum:
    """A gradient that reached a value, and what was there before.

    Attributes:
        target: whose gradient grows: "x.grad" for a leaf, else the value's name or that of the op that made it.
        before: what had arrived so far; None if this is the first.
        added, after: arrays.
        name: of the gradient that is added.
    """

    target: str
    before: Array | None
    added: Array
    after: Array
    name: str = ""

    def lines(self) -> list[str]:
        """The sum in numbers; a long one on three lines."""
        if self.before is None:
            return [f"{self.target}: {self.name}, the first to arrive"] if self.name else assigned(self.target, self.after)
        before, added, after = one_line(self.before), one_line(self.added), one_line(self.after)
        if len(before) + len(added) + len(after) < 60:
            return [f"{self.target}: {before} + {added} = {after}"]
        terms = ((" ", self.before), ("+", self.added), ("=", self.after))
        return [f"{self.target}:", *(line for sign, array in terms for line in assigned(f"  {sign}", array, " "))]


@dataclass
class Step:
    """One step of the walk.

    Attributes:
        number: from 1.
        kind: "start", the root's own gradient; "op", a node's backward; or "end", where the leaves get their .grad.
        title: the op's name as grad_fn shows it.
        box: of the op in the graph, None at the end.
        forward, formula: what the op computes, and its gradients.
        incoming: the gradient of each output, by name, and what it is the sum of: the number of a step, and what that gave; what a hook made of it.
        kept: what the forward kept for this, by name.
        gives: for each input the gradient's name, and the gradient; None where there is none.
        sums: how the gradients add up where they go; at the end, in .grad.
        notes: what else there is to say.
    """

    number: int
    kind: str
    title: str
    box: int | None
    forward: str = ""
    formula: str = ""
    incoming: list[tuple[str, Array, list[tuple[int, Array]]]] = field(default_factory=list)
    kept: list[tuple[str, Any]] = field(default_factory=list)
    gives: list[tuple[str, Array | None]] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def parts(self) -> list[tuple[str, list[str]]]:
        """What the step says, part by part: a heading, and its lines."""
        kept = [line for name, v in self.kept for line in (assigned(name, v) if isinstance(v, np.ndarray) else [f"{name} = {number(v)}"])]
        gives = [line for name, g in self.gives for line in (assigned(name, g) if g is not None else [f"{name}: no gradient"])]
        said = [
            ("forward", [self.forward] if self.forward else []),
            ("comes in", [line for came in self.incoming for line in _incoming(*came)]),
            ("formula", [self.formula] if self.formula else []),
            ("kept from the forward", kept),
            ("gives", gives),
            ("adds up", [line for s in self.sums for line in s.lines()]),
            ("note", self.notes),
        ]
        return [(heading, lines) for heading, lines in said if lines]

    def text(self, of: int) -> str:
        """The step for a terminal; `of` is the number of all steps."""
        lines = [f"step {self.number} of {of}: {self.title}"]
        for heading, said in self.parts():
            lines += [f"    {heading if i == 0 else '':<22}{line}" for i, line in enumerate(said)]
        return "\n".join(lines)


def _incoming(name: str, g: Array, parts: list[tuple[int, Array]]) -> list[str]:
    if len(parts) < 2:
        return assigned(name, g)
    numbers = list(dict.fromkeys(str(number) for number, _ in parts))
    steps = f"(from step{'s' * (len(numbers) > 1)} {', '.join(numbers)})"
    if g.size <= 4 and len(parts) <= 4:
        return [f"{name} = {' + '.join(one_line(part) for _, part in parts)} = {one_line(g)}   {steps}"]
    return [*assigned(name, g), f"the sum of {len(parts)}   {steps}"]


class Walk:
    """What explain returns: a notebook shows it to step through, `print` it for a terminal.

    Attributes:
        steps: one Step after the other.
        graph: the boxes and arrows.
    """

    def __init__(self, graph: Graph, steps: list[Step], marks: Marks) -> None:
        self.graph = graph
        self.steps = steps
        self._marks = marks

    def text(self) -> str:
        """The graph and every step of the walk, for a terminal."""
        boxes = self.graph.boxes
        lines = ["forward"]
        reads: list[list[str]] = [[] for _ in boxes]
        for a in self.graph.arrows:
            reads[a.end].append(self._reference(a.start, a.output))
        for i, box in enumerate(boxes):
            read = reads[i]
            what = f"{self._reference(i)}{'(' + ', '.join(read + box.numbers) + ')' if box.kind == 'op' else ''}"
            values = "; ".join(
                f"{shape_text(shape)} {kind.name} = {one_line(v)}" if v is None or is_small(v) else f"{kind.name} {one_line(v)}"
                for (shape, kind), v in zip(box.outputs, box.values)
            )
            names = "".join(f"  ({name})" for name in box.names.values())
            lines.append(f"    {what}{names}  {values}")
        lines += [f"    ({self.hint})"] if self.hint else []
        return "\n".join(lines) + "\nbackward\n" + "\n".join(step.text(len(self.steps)) for step in self.steps)

    @property
    def hint(self) -> str:
        """How to see the values that the graph has not kept; empty where it has them all."""
        return HINT if any(v is None for b in self.graph.boxes for v in b.values) else ""

    def _reference(self, box: int, output: int = 0) -> str:
        b, step = self.graph.boxes[box], self._marks.steps[box]
        if b.kind != "op":
            return b.title
        return f"{b.title}{f'[{output}]' if output else ''}" + (f" [step {step}]" if step is not None else "")

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<backward walk of {len(self.steps)} steps: a notebook shows it, print() writes it out, .save('walk.html') makes a page>"

    def picture(self) -> Picture:
        """The graph with all values and whole gradients; the number in a box is the step that asks it."""
        return Picture(render(self.graph, self._marks._replace(gradients=[g[-1:] for g in self._marks.gradients])), self.graph)

    def _repr_html_(self) -> str:
        return page(render(self.graph, self._marks), [(s.title, s.parts()) for s in self.steps], self.hint)

    def save(self, path: str | Path) -> Path:
        """Writes the walk to a file: .html to step through, .svg the static picture, .txt the text. Returns its path.

        Raises:
            ValueError: another ending.
        """
        path = Path(path)
        if path.suffix == ".html":
            title = "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>Backward, step by step</title></head><body>\n"
            path.write_text(title + self._repr_html_() + "\n</body></html>\n", encoding="utf-8")
        elif path.suffix == ".svg":
            self.picture().save(path)
        elif path.suffix == ".txt":
            path.write_text(self.text() + "\n", encoding="utf-8")
        else:
            raise ValueError(f"a walk is saved as .html, .svg or .txt; got {path.name}")
        return path


def explain(loss: Tensor | Callable[[], Tensor], names: Names | None = None, gradient: Tensor | None = None) -> Walk:
    """The backward walk of a Tensor, to be stepped through: at each node the gradient that comes in, the formula, the numbers, the sums.

    Nothing is changed: no .grad is written and the graph is not freed. Hooks run, for their answer is part of the walk.

    Args:
        loss: the Tensor that backward() would be called of, or a function that computes it (then every forward value is shown).
        names: what to call the leaves: a Module, or a dict from names to Tensors and Modules. By default the names that they have where
            explain is called.
        gradient: as backward's: of the Tensor's shape; may be left out where it has one element.
    Returns:
        A Walk.
    Raises:
        RuntimeError: the Tensor requires no gradient, or its graph was freed by a backward(); and whatever backward() would raise.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor(2.0, requires_grad=True)
        >>> walk = tg.graph.explain(x * x)
        >>> print(walk.steps[1].text(len(walk.steps)))
        step 2 of 3: MulBackward0
            forward               y = a·b
            comes in              g = 1.0
            formula               da = g·b,  db = g·a
            kept from the forward a = 2.0
                                  b = 2.0
            gives                 da = 2.0
                                  db = 2.0
            adds up               x.grad: da, the first to arrive
                                  x.grad: 2.0 + 2.0 = 4.0
    """
    root, called = argument("explain", names, loss)
    check_view(root, "explain")
    nodes = nodes_of(root)
    for node in nodes:
        if node._saved is None:
            raise RuntimeError(
                f"explain: {node.name} no longer has what its backward needs: a backward() has freed this graph. Call explain before "
                "loss.backward(), or loss.backward(retain_graph=True)"
            )
    graph = collect(root, called)
    return _Recorder(root, graph, nodes).walk(gradient)


# -- The walk -----------------------------------------------------------------------------------------------------------------------------


class _Watched(Function):
    """Stands for a node in the copy of the graph, and tells what passes."""

    name = "Watched"

    def __init__(self, node: Function, tell: Callable[[Function, tuple[Any, ...], Any], None]) -> None:
        self.node, self.tell = node, tell
        self.name, self.order, self.outputs = node.name, node.order, node.outputs
        self._hooks, self._watched = node._hooks, node._hooks is not None

    def backward(self, *grads: Any) -> Any:
        results = type(self.node).backward(self.node, *grads)
        results = tuple(results) if isinstance(results, (tuple, list)) else (results,)
        self.tell(self.node, grads, results)
        return results


class _Recorder:
    """Runs the walk on the copy, and makes steps of what it is told."""

    def __init__(self, root: Tensor, graph: Graph, nodes: list[Function]) -> None:
        self.root, self.graph = root, graph
        self.box = {id(b.source): i for i, b in enumerate(graph.boxes) if b.source is not None}
        self.into: dict[int, dict[int, int]] = {}  # by box and slot: the number of the arrow that arrives there
        for k, arrow in enumerate(graph.arrows):
            self.into.setdefault(arrow.end, {})[arrow.slot] = k
        self.stand_ins: dict[int, Tensor] = {}  # by id of the leaf
        self.leaves: list[Tensor] = []
        watched: dict[Function, _Watched] = {}

        def copy(edge: Any) -> Any:
            if type(edge) is tuple:
                return watched[edge[0]], edge[1]
            return None if edge is None else self.stand_in(edge)

        for node in nodes:
            watched[node] = _Watched(node, self.tell)
            watched[node].edges = [copy(edge) for edge in node.edges]
        self.start = self.stand_in(root) if root.is_leaf else Tensor(root._data)
        if not root.is_leaf:
            self.start._edge = copy(root._edge)
        self.arrived: dict[tuple[int, int], Array] = {}  # by box and output
        self.parts: dict[tuple[int, int], list[tuple[int, Array]]] = {}  # what that is the sum of, by step
        self.sums: list[tuple[Sum, int, int]] = []  # whose target is named when all steps have their numbers
        self.gradients: list[list[tuple[int, list[str]]]] = [[] for _ in graph.boxes]
        self.shown: list[dict[int, list[str]]] = [{} for _ in graph.boxes]  # by output
        self.steps: list[Step] = []
        self.when: list[int | None] = [None] * len(graph.boxes)
        self.along: list[int | None] = [None] * len(graph.arrows)

    def stand_in(self, leaf: Tensor) -> Tensor:
        """A leaf with the same values and hooks and a .grad of its own."""
        if id(leaf) not in self.stand_ins:
            made = Tensor(leaf._data, leaf.requires_grad)
            made._hooks = leaf._hooks
            self.stand_ins[id(leaf)] = made
            self.leaves.append(leaf)
        return self.stand_ins[id(leaf)]

    def walk(self, gradient: Tensor | None) -> Walk:
        data = np.ones(self.root._data.shape, self.root._data.dtype) if gradient is None else np.array(getattr(gradient, "_data", 0))
        box, output = self.graph.root
        said = self.graph.label(box, output)
        first = Step(1, "start", f"the gradient of {said} itself", box)
        if gradient is None:
            first.notes = [f"the derivative of {said} by itself is 1: the walk starts with it and goes back, the youngest op first"]
        else:
            first.notes = ["the walk starts with the gradient that was given and goes back, the youngest op first"]
        self.steps.append(first)
        first.sums.append(self.arrive(first, box, output, data, ""))
        run_backward([self.start], [gradient], retain_graph=True, create_graph=False, accumulate=True)
        last = Step(len(self.steps) + 1, "end", "the gradients reach .grad of the leaves", None)
        for leaf in self.leaves:
            came = self.stand_ins[id(leaf)]._grad
            if came is None or not leaf.requires_grad:
                continue
            here = self.box[id(leaf)]
            before = None if leaf._grad is None else leaf._grad._data.copy()
            after = came._data if before is None else before + came._data
            last.sums.append(Sum(f"{self.graph.boxes[here].title}.grad", before, came._data, after))
            self.when[here] = last.number
            if not _same(came._data, self.arrived.get((here, 0))):
                last.notes.append(f"a hook changed the gradient of {self.graph.boxes[here].title}")
                self.show(last.number, here, came._data)
            if before is not None:
                last.notes.append(f"{self.graph.boxes[here].title}.grad held {one_line(before)} already: backward() adds to it; zero_grad() empties it")
        last.notes.append("explain itself has written nothing: backward() does this")
        self.steps.append(last)
        for total, box, output in self.sums:
            total.target = self.whose(box, output)
        del self.start  # the copy of the graph knows this recorder: let neither keep the other
        for versions in self.gradients:
            if versions and versions[0][0] > 1:
                versions.insert(0, (0, ["grad: none yet"]))
        return Walk(self.graph, self.steps, Marks(self.gradients, self.when, self.along))

    def tell(self, node: Function, grads: tuple[Any, ...], results: tuple[Any, ...]) -> None:
        """Called by the walk when a node has answered."""
        here = self.box[id(node)]
        formula = formula_of(node)
        step = Step(len(self.steps) + 1, "op", node.name, here, formula.forward, formula.backward)
        self.steps.append(step)
        self.when[here] = step.number
        arguments = argument_names(node)
        for i, g in enumerate(grads):
            name = "g" if len(grads) == 1 else f"g of output {i}"
            came = self.arrived.get((here, i), g)  # none arrived where the engine has filled up with zeros
            step.incoming.append((name, np.array(came), self.parts.get((here, i), [])))
            if not _same(came, np.asarray(g)):
                step.incoming.append((f"{name} after a hook", np.array(g), []))
                step.notes.append("a hook changed the gradient that came in")
                self.show(step.number, here, np.asarray(g), i)
        for array, place in kept_by(node):
            if place is None:
                name = formula.between
            elif place < 0:
                name = "y" if len(grads) == 1 else f"output {~place}"
            else:  # in x·x both are input 0: the second is meant for the next input that is the same
                same = [i for i, e in enumerate(node.edges) if i >= place and _same_edge(e, node.edges[place])]
                name = next((arguments[i] for i in same if arguments[i] not in dict(step.kept)), arguments[place])
            step.kept.append((name, np.array(array) if isinstance(array, np.ndarray) else array))
        arrows = self.into.get(here, {})
        shape = node.outputs[0][0]
        for i, (edge, g) in enumerate(zip(node.edges, results)):
            if edge is None:
                continue
            name = gradient_name(arguments[i])
            arrow = self.graph.arrows[arrows[i]]
            if g is None:
                step.gives.append((name, None))
                continue
            wanted, kind = self.graph.boxes[arrow.start].outputs[arrow.output]
            array = np.array(g._data if isinstance(g, Tensor) else g)
            step.gives.append((name, array))
            if array.shape != wanted:
                continue  # the engine is about to say so
            self.along[arrows[i]] = step.number
            step.sums.append(self.arrive(step, arrow.start, arrow.output, array.astype(kind), name))
            axes = _broadcast_axes(wanted, shape) if type(node).__name__ in BROADCASTS else ""
            if axes:
                step.notes.append(f"{arguments[i]} of shape {wanted} was broadcast to {shape}: {name} is summed over {axes}")

    def whose(self, box: int, output: int) -> str:
        b, label = self.graph.boxes[box], self.graph.label(box, output)
        if b.kind == "leaf":
            return f"{label}.grad"
        return f"g of {label}" + (f", step {self.when[box]}" if self.when[box] else "")

    def arrive(self, step: Step, box: int, output: int, g: Array, name: str) -> Sum:
        """Adds one gradient where it belongs, as the engine does."""
        before = self.arrived.get((box, output))
        with np.errstate(all="ignore"):
            after = g if before is None else np.asarray(before + g)
        self.arrived[(box, output)] = after
        self.parts.setdefault((box, output), []).append((step.number, g))
        self.show(step.number, box, after, output)
        total = Sum("", before, g, after, name)
        self.sums.append((total, box, output))
        return total

    def show(self, number: int, box: int, g: Array, output: int = 0) -> None:
        """From this step on the box shows the gradient."""
        lines = rows(g)
        name = "grad" if len(self.graph.boxes[box].outputs) == 1 else f"grad {output}"
        self.shown[box][output] = [f"{name} {lines[0]}"] if len(lines) == 1 else [name, *lines]
        versions = self.gradients[box]
        if versions and versions[-1][0] == number:
            versions.pop()
        versions.append((number, [line for i in sorted(self.shown[box]) for line in self.shown[box][i]]))


def _same_edge(a: Any, b: Any) -> bool:
    return a is b or (type(a) is tuple and type(b) is tuple and a == b)  # Tensors would compare their elements


def _same(a: Array, b: Array | None) -> bool:
    return b is not None and a.shape == b.shape and np.array_equal(a, b, equal_nan=True)


def _broadcast_axes(small: tuple[int, ...], large: tuple[int, ...]) -> str:
    lead = len(large) - len(small)
    axes = [*range(lead), *(a + lead for a, n in enumerate(small) if n == 1 and large[a + lead] != 1)]
    return f"ax{'i' if len(axes) == 1 else 'e'}s {', '.join(map(str, axes))}" if axes else ""
