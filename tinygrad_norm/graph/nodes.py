"""The graph behind a Tensor as a list of boxes and arrows, with the values that are still to be had.

A node keeps what its backward needs and never its outputs, so the value of an inner place of the graph is found, in this order,

    recorded   by `record()`, which was on while it was computed
    saved      by its own node or by one that reads it
    rebuilt    from the values of its inputs, for ops whose forward is one line (`REBUILD`)

and is None where none of the three holds.
"""

from __future__ import annotations

import inspect
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..function import Function, observers
from ..nn.module import Module
from ..tensor import Edge, Tensor
from .formulas import argument_names
from .words import number

__all__ = ["Arrow", "Box", "Graph", "collect", "record"]

Array = np.ndarray[Any, Any]
Names = Module | Mapping[str, Any]


@dataclass
class Box:
    """One op, leaf or constant of the picture."""

    kind: str  # "op", "leaf": collects a gradient, or "constant": an input that needs none
    title: str  # a leaf's name, an op's as grad_fn shows it
    source: Function | Tensor | None
    outputs: list[tuple[tuple[int, ...], Any]]  # shape and element type of each
    values: list[Array | None]  # of each output, where it is known
    names: dict[int, str] = field(default_factory=dict)  # given to outputs
    numbers: list[str] = field(default_factory=list)  # inputs that are plain numbers, as "b = 2"


@dataclass
class Arrow:
    """A value on its way from the box that made it to one that reads it."""

    start: int
    output: int
    end: int
    slot: int  # which of the reader's inputs
    argument: str  # that input's name


@dataclass
class Graph:
    """All that one Tensor was computed from: ops in the order of their creation, each leaf before the first op that reads it."""

    boxes: list[Box]
    arrows: list[Arrow]
    root: tuple[int, int]  # the box of the Tensor itself, and which output of it

    def label(self, box: int, output: int = 0) -> str:
        """What to call a value in a sentence."""
        b = self.boxes[box]
        if output in b.names:
            return b.names[output]
        return b.title if b.kind != "op" or len(b.outputs) == 1 else f"{b.title}, output {output}"


# -- 1. Values ----------------------------------------------------------------------------------------------------------------------------

UNWRITTEN = [0, 0]  # as the engine notes writes: how many, and when the last was

_recorded: weakref.WeakKeyDictionary[Function, tuple[list[Array], list[tuple[int, Any, list[int]]]]] = weakref.WeakKeyDictionary()


class _Recording(threading.local):
    depth = 0


_recording = _Recording()
_lock = threading.Lock()
_inside = 0


class record:  # noqa: N801  a context manager, like no_grad
    """Keeps a copy of every value that is computed inside, so that `draw` and `explain` can show them all.

    Without it they show what the graph itself has kept for its backward, or what follows from that; nothing is missing but a value or two.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor(2.0, requires_grad=True)
        >>> with tg.graph.record():
        ...     loss = (x + 1) * 3
        >>> print(tg.graph.draw(loss).graph.boxes[1].values[0])
        3.0
    """

    def __enter__(self) -> None:
        global _inside
        with _lock:
            if _inside == 0:
                observers.append(_keep)
            _inside += 1
        _recording.depth += 1

    def __exit__(self, *exc: object) -> None:
        global _inside
        _recording.depth -= 1
        with _lock:
            _inside -= 1
            if _inside == 0:
                observers.remove(_keep)


def _keep(node: Function, outs: Sequence[Tensor], args: Sequence[Any]) -> None:
    if _recording.depth:
        plain = [(i, a._data, a._writes or UNWRITTEN) for i, a in enumerate(args) if isinstance(a, Tensor) and node.edges[i] is None]
        numbers = [(i, a, UNWRITTEN) for i, a in enumerate(args) if isinstance(a, (int, float))]
        _recorded[node] = [t._data.copy() for t in outs], [*plain, *numbers]


def _linear(node: Any, x: Any, weight: Any, bias: Any) -> Any:
    return x @ weight.T + bias


def _norm(node: Any, x: Any, weight: Any, bias: Any) -> Any:
    """y from what the two norms keep: the row's or the channel's (mean, shift, rstd)."""
    stats = node._saved[2]
    if type(node).__name__ == "BatchNormFunction":
        mean, shift, rstd, weight, bias = (v if x.ndim == 2 else v[:, None] for v in (*stats, weight, bias))
    else:
        mean, shift, rstd = (stats[:, i].reshape(x.shape[: x.ndim - weight.ndim] + (1,) * weight.ndim) for i in range(3))
    return ((x - mean) * rstd - shift) * weight + bias


REBUILD: dict[str, Callable[..., Any]] = {
    "Add": lambda node, a, b: a + b,
    "Sub": lambda node, a, b: a - b,
    "Mul": lambda node, a, b: a * b,
    "Div": lambda node, a, b: a / b,
    "Pow": lambda node, a, b: a**b,
    "Neg": lambda node, x: -x,
    "Log": lambda node, x: np.log(x),
    "Abs": lambda node, x: np.abs(x),
    "Clone": lambda node, x: x,
    "MatMul": lambda node, a, b: a @ b,
    "Sum": lambda node, x: x.sum(axis=node.axes),
    "Mean": lambda node, x: x.mean(axis=node.axes),
    "Var": lambda node, x: ((x - x.mean(axis=node.axes, keepdims=True)) ** 2).sum(axis=node.axes) / (x.size / _size(node) - node.correction),
    "Reshape": lambda node, x: x,
    "Permute": lambda node, x: x.transpose(np.argsort(node.inverse)),
    "Expand": lambda node, x: np.broadcast_to(x, node.outputs[0][0]),
    "GetItem": lambda node, x: x[node.key],
    "Cat": lambda node, *xs: np.concatenate(xs, node.axis),
    "Stack": lambda node, *xs: np.stack(xs, node.axis),
    "Split": lambda node, x: np.split(x, np.cumsum([shape[node.axis] for shape, _ in node.outputs])[:-1], node.axis),
    "LinearFunction": _linear,
    "LayerNormFunction": _norm,
    "BatchNormFunction": _norm,
}


def _size(node: Any) -> int:
    return int(np.prod(node.outputs[0][0]))


def kept_by(node: Function) -> Iterator[tuple[Any, int | None]]:
    """What the node has saved for its backward, but for what was changed in place since: (array, input i or output ~i or None)."""
    for array, (place, writes) in zip(node._saved or (), node._places()):
        if array is not None and writes[1] <= node.order:
            yield array, place


def _unwritten(leaf: Tensor, node: Function) -> Array | None:
    """What a leaf held when the node read it, unless it was written to since, as by an optimizer."""
    return leaf._data if (leaf._writes or UNWRITTEN)[1] <= node.order else None


def _values(nodes: list[Function]) -> tuple[dict[tuple[Function, int], Array], dict[Function, dict[int, Any]]]:
    """The known outputs of the nodes, which come in the order of their creation, and the known inputs that need no gradient."""
    known: dict[tuple[Function, int], Array] = {}
    plain: dict[Function, dict[int, Any]] = {}
    for node in nodes:
        outs, constants = _recorded.get(node, ([], []))
        known.update({(node, i): array for i, array in enumerate(outs)})
        plain[node] = {i: value for i, value, writes in constants if writes[1] <= node.order}
    for node in nodes:
        for array, place in kept_by(node):
            if place is None:
                continue
            if place < 0:
                known.setdefault((node, ~place), np.asarray(array))
            elif type(node.edges[place]) is tuple:
                known.setdefault(node.edges[place], np.asarray(array))
            elif node.edges[place] is None:
                plain[node].setdefault(place, array)
    for node in nodes:
        rebuild = REBUILD.get(type(node).__name__) if type(node).__module__.startswith("tinygrad_norm.") else None
        if rebuild is None or (node, 0) in known:
            continue
        inputs = [known.get(e) if type(e) is tuple else plain[node].get(i) if e is None else _unwritten(e, node) for i, e in enumerate(node.edges)]
        if any(v is None for v in inputs):
            continue
        with np.errstate(all="ignore"):
            values = rebuild(node, *inputs)
        for i, (value, (shape, kind)) in enumerate(zip(values if type(values) is list else [np.asarray(values)], node.outputs)):
            if value.size == int(np.prod(shape)):
                known[(node, i)] = value.reshape(shape).astype(kind)
    return known, plain


# -- 2. Names -----------------------------------------------------------------------------------------------------------------------------


def _named(names: Names) -> Iterator[tuple[str, Tensor]]:
    if isinstance(names, Module):
        yield from names.named_parameters()
        yield from names.named_buffers()
    elif isinstance(names, Mapping):
        for name, value in names.items():
            if isinstance(value, Module):
                yield from ((f"{name}.{path}", t) for path, t in _named(value))
            elif isinstance(value, Tensor):
                yield str(name), value
            else:
                raise TypeError(f"names must give Tensors and Modules; {name!r} is a {type(value).__name__}")
    else:
        raise TypeError(f"names must be a Module or a dict from names to Tensors and Modules; got {type(names).__name__}")


def callers_names(frame: types.FrameType) -> dict[str, Any]:
    """The Tensors and Modules that have a name where the frame stands: locals before globals, a Tensor's own name before its module's."""
    found: dict[str, Any] = {}
    for scope in (frame.f_locals, frame.f_globals):
        for name, value in scope.items():
            if isinstance(value, (Tensor, Module)) and not name.startswith("_"):
                found.setdefault(name, value)
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        frame.f_locals.clear()  # a function's is a copy, which would keep each graph alive until the function ends
    return dict(sorted(found.items(), key=lambda item: isinstance(item[1], Module)))  # x before model.x


# -- 3. The graph -------------------------------------------------------------------------------------------------------------------------


def nodes_of(root: Tensor) -> list[Function]:
    """Every node that the Tensor depends on, in the order of creation."""
    if root.grad_fn is None:
        return []
    stack, seen = [root.grad_fn], {root.grad_fn}
    while stack:
        for edge in stack.pop().edges:
            if type(edge) is tuple and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return sorted(seen, key=lambda node: node.order)


def collect(root: Tensor, names: Names) -> Graph:
    """The boxes and arrows of everything that a Tensor was computed from.

    Args:
        root: a Tensor.
        names: what to call its leaves, and inner Tensors too.
    Raises:
        TypeError: root is no Tensor, or names is not what it should be.
    """
    if not isinstance(root, Tensor):
        raise TypeError(f"a graph is drawn of a Tensor; got {type(root).__name__}")
    called: dict[Any, str] = {}  # by edge, by id of a leaf, and by id of an array for inputs that need no gradient
    for name, tensor in _named(names):
        called.setdefault(id(tensor) if tensor.is_leaf else tensor._edge, name)
        called.setdefault(id(tensor._data), name)
    nodes = nodes_of(root)
    known, plain = _values(nodes)
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    place: dict[Any, int] = {}  # of nodes, and of leaves by id

    def leaf(tensor: Tensor) -> int:
        if id(tensor) not in place:
            place[id(tensor)] = len(boxes)
            title = called.get(id(tensor)) or f"leaf {sum(b.kind == 'leaf' for b in boxes) + 1}"
            boxes.append(Box("leaf", title, tensor, [(tensor._data.shape, tensor._data.dtype)], [tensor._data.copy()]))
        return place[id(tensor)]

    def constant(array: Array) -> int:
        if id(array) not in place:
            place[id(array)] = len(boxes)
            boxes.append(Box("constant", called.get(id(array), "constant"), None, [(array.shape, array.dtype)], [array.copy()]))
        return place[id(array)]

    def source(edge: Edge) -> tuple[int, int]:
        return (place[edge[0]], edge[1]) if type(edge) is tuple else (leaf(edge), 0)

    for node in nodes:
        arguments = argument_names(node)
        starts: list[tuple[int, int, int]] = []
        numbers: list[str] = []
        for i, edge in enumerate(node.edges):
            if edge is not None:
                starts.append((*source(edge), i))
            elif isinstance(plain[node].get(i), np.ndarray):
                starts.append((constant(plain[node][i]), 0, i))
            elif plain[node].get(i) is not None:
                numbers.append(f"{arguments[i]} = {number(plain[node][i])}")
        place[node] = here = len(boxes)
        outputs = list(node.outputs)
        given = {i: called[(node, i)] for i in range(len(outputs)) if (node, i) in called}
        boxes.append(Box("op", node.name, node, outputs, [_copy(known.get((node, i))) for i in range(len(outputs))], given, numbers))
        arrows += [Arrow(start, output, here, i, arguments[i]) for start, output, i in starts]
    end = source(root if root.is_leaf else root._edge)
    boxes[end[0]].values[end[1]] = root._data.copy()
    return Graph(boxes, arrows, end)


def _copy(array: Array | None) -> Array | None:
    return None if array is None else array.copy()  # what is shown stays, whatever is written to the Tensor later


def argument(what: str, names: Names | None, root: Tensor | Callable[[], Tensor]) -> tuple[Tensor, Names]:
    """The Tensor that `what` was called with, or computed under `record` where it was called with a function; and the names to use."""
    if names is None:
        names = callers_names(sys._getframe(2))  # who called draw or explain
    if not isinstance(root, Tensor) and callable(root):
        with record():
            root = root()
    if not isinstance(root, Tensor):
        raise TypeError(f"{what}: expected a Tensor, or a function that returns one; got {type(root).__name__}")
    return root, names
