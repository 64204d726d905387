"""The walk: carries gradients from a result back to what it was computed from.

Creation order is a topological order: taking the youngest node first, every consumer of a value has spoken before the value's own node is
asked. That is the whole of reverse-mode differentiation (`run_backward`): a priority queue, and one sum per value. `Tensor.backward` and
`grad` are its two doors.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from .dtype import from_numpy_dtype
from .function import Function
from .grad_mode import mode, recordings
from .quiet import ERROR_STATE, SILENT
from .tensor import LEAF, Edge, Tensor, check_view, clock, new_tensor, touch

__all__ = ["backward", "grad", "run_backward"]

# -- 1. The walk ------------------------------------------------------------------------------------------------------------------

_ndarray = np.ndarray
_adding = threading.RLock()  # around what adds to .grad: several threads may walk to one leaf, and NumPy lets others run while it adds
examiners: list[Callable[[Function, Any], None]] = []  # called with every node and what its backward returned: autograd.detect_anomaly


def _after_fork() -> None:
    global _adding
    _adding = threading.RLock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Spent(Function):
    """Stands where a once-differentiable op's gradient would have to be differentiated."""

    name = "Error"

    def __init__(self, op: Function, grads: Sequence[Tensor]) -> None:
        self.op = op.name
        self.order = next(clock)
        self.edges = [*op.edges, *(_edge_to(g) for g in grads if g._edge is not None)]  # all that it depends on: no way around it

    def backward(self, *grads: Any) -> Any:
        raise RuntimeError(
            f"{self.op} is marked once differentiable: its gradient is exact, but that gradient has no derivative here (a further order would "
            "silently be wrong). Build the value from primitives if you need one more derivative."
        )


def run_backward(
    roots: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Tensor] | None = None,
    accumulate: bool = False,
) -> list[Tensor | None]:
    """Carries `gradients` from `roots` back: into .grad of the leaves (accumulate), or of `inputs` alone, or returned for `inputs`.

    Every value's slot is complete when its node is the youngest that waits, because all its consumers are younger. Gradients are
    arrays on the way, Tensors under create_graph. Nothing reaches a leaf's .grad before the whole walk has succeeded.
    """
    # No comprehension stands in here: Python keeps the names that one of them uses in cells, for the whole function, and its loop slows down.
    heap: list[int] = []  # -order of the nodes that wait: the youngest comes first
    waiting: dict[int, list[Any]] = {}  # by -order: the node, and the gradient of each of its outputs
    leaves: dict[Tensor, Any] = {}  # the gradient of each; as an array, one that nothing else holds
    captured: dict[Any, Any] = {}

    results: Any = []
    edges: Any = []
    for root, g in zip(roots, gradients):
        results.append(_root_gradient(len(results), root, g, create_graph))
        edges.append(_edge_to(root))
    node, fresh = None, False
    plain = not create_graph and not examiners
    wanted: set[Any] | None = None
    if inputs is not None:
        _check_inputs(inputs, "backward" if accumulate else "grad")
        for t in inputs:
            check_view(t, "backward")
            if accumulate:
                t.retain_grad()
        wanted = set(map(_edge_to, inputs))
        needed = _nodes_towards(wanted, edges)

    before, mode.grad = mode.grad, create_graph
    loud = ERROR_STATE.set(SILENT)
    try:
        while True:
            for edge, g in zip(edges, results):
                if edge is None or g is None or (wanted is not None and edge not in wanted and _node(edge) not in needed):
                    continue
                if type(edge) is tuple:
                    source, index = edge
                    outputs = source.outputs
                    shape, kind = outputs[index]
                    if type(g) is not _ndarray or g.shape != shape or g.dtype is not kind:
                        g = _fit(node, results, g, shape, kind, create_graph)
                    key = -source.order
                    if key not in waiting:
                        waiting[key] = [source, g] if len(outputs) == 1 else [source, *[None] * index, g, *[None] * (len(outputs) - index - 1)]
                        heappush(heap, key)
                        continue
                    entry = waiting[key]
                    arrived = entry[index + 1]
                    entry[index + 1] = g if arrived is None else _plus(arrived, g)
                else:
                    data = edge._data
                    if type(g) is not _ndarray or g.shape != data.shape or g.dtype is not data.dtype:
                        g = _fit(node, results, g, data.shape, data.dtype, create_graph)
                    if edge in leaves:
                        leaves[edge] = _plus(leaves[edge], g)
                    else:
                        leaves[edge] = g if fresh or create_graph else np.array(g, order="C")
            if not heap:
                break
            entry = waiting.pop(heappop(heap))
            node = entry[0]
            edges, results = node.edges, ()
            if node._watched:
                _node_hooks(entry, create_graph)
            if wanted is not None:
                _capture(entry, wanted, captured)
                if node not in needed:
                    continue
            if len(entry) > 2:
                _fill_up(entry, create_graph)
            if not plain:
                results = _examined_backward(node, entry, create_graph)
            elif len(entry) == 2:  # unpacking one argument would double what the call costs
                results = type(node).backward(node, entry[1])
            else:
                results = type(node).backward(*entry)
            if type(results) is not tuple:
                results = tuple(results) if type(results) is list else (results,)
            if not retain_graph and node._saved:
                node._saved = None
            fresh = node.fresh_gradients
            if len(results) != len(edges):
                raise RuntimeError(
                    f"{node.name}: backward returned {len(results)} gradients; expected {len(edges)}, one for each input of forward (None where there is none)"
                )
        for leaf in leaves:
            if leaf._hooks:
                g = _run_hooks(leaf._hooks, leaves[leaf], create_graph)
                leaves[leaf] = g if create_graph else np.array(g, order="C")
        if accumulate:
            with _adding:
                for leaf, g in leaves.items():
                    if leaf._grad is None and not create_graph and leaf._edge is not None:
                        leaf._grad = new_tensor(g)
                    elif leaf._edge is not None:  # else it was told meanwhile to want none
                        _accumulate(leaf, g)
    finally:
        mode.grad = before
        ERROR_STATE.reset(loud)
    if accumulate or inputs is None:
        return []
    return _asked_for(inputs, leaves, captured)


# -- 2. Its two doors -------------------------------------------------------------------------------------------------------------


def backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Adds ∂self/∂leaf, contracted with `gradient`, to the .grad of every leaf that this Tensor was computed from.

    Args:
        gradient: of this Tensor's shape; may be left out where it has one element (then it is 1).
        retain_graph: keep what the nodes saved, for another backward; by default as create_graph.
        create_graph: record the walk itself, so that the gradients can be differentiated.
        inputs: add only to these.
    Raises:
        RuntimeError: nothing here requires a gradient; a wrong shape; a saved Tensor was freed or changed in place.
    """
    only = None if inputs is None else [inputs] if isinstance(inputs, Tensor) else list(inputs)
    run_backward([self], [gradient], create_graph if retain_graph is None else retain_graph, create_graph, only, accumulate=True)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """∂outputs/∂inputs contracted with grad_outputs, returned; no .grad is touched.

    Args:
        outputs: one Tensor or several.
        inputs: the Tensors to differentiate with respect to; any place of the graph.
        grad_outputs: one for each output, of its shape; may be None for outputs of one element.
        retain_graph: keep what the nodes saved; by default as create_graph.
        create_graph: record the walk, for higher derivatives.
        allow_unused: None instead of an error for an input that the outputs do not depend on.
        materialize_grads: zeros instead of None there.
    Returns:
        One gradient for each input.
    Raises:
        RuntimeError: an input requires no gradient or is not part of the graph.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor(2.0, requires_grad=True)
        >>> (dx,) = tg.autograd.grad(x**3, x, create_graph=True)
        >>> tg.autograd.grad(dx, x)
        (tensor(12.),)
    """
    outs = _several("outputs", outputs)
    ins = _several("inputs", inputs)
    given = [grad_outputs] if isinstance(grad_outputs, Tensor) else [None] * len(outs) if grad_outputs is None else list(grad_outputs)
    if len(given) != len(outs):
        raise RuntimeError(f"got {len(outs)} tensors and {len(given)} gradients: one gradient for each output")
    if materialize_grads and allow_unused is False:
        raise ValueError("Expected allow_unused to be True or not passed when materialize_grads=True, but got: allow_unused=False.")
    found = run_backward(outs, given, create_graph if retain_graph is None else retain_graph, create_graph, ins)
    for i, (g, t) in enumerate(zip(found, ins)):
        if g is None and materialize_grads:
            found[i] = Tensor(np.zeros_like(t._data))
        elif g is None and not allow_unused:
            raise RuntimeError(
                f"One of the differentiated Tensors appears to not have been used in the graph: inputs[{i}], of shape {list(t.shape)}. "
                "Set allow_unused=True if this is the desired behavior."
            )
    return tuple(found)


def _several(name: str, tensors: Any) -> list[Any]:
    """One Tensor or a sequence of them, as a list."""
    if isinstance(tensors, Tensor):
        return [tensors]
    if not isinstance(tensors, Iterable):
        raise TypeError(f"{name} must be a Tensor or a sequence of Tensors; got {type(tensors).__name__}")
    return list(tensors)


def _check_inputs(inputs: Sequence[Any], op: str) -> None:
    if not inputs:
        raise RuntimeError(f"`inputs` argument to `{op}()` cannot be empty.")
    for i, t in enumerate(inputs):
        if not isinstance(t, Tensor):
            raise RuntimeError(f"all inputs have to be Tensors, but number {i} is a {type(t).__name__}")
        if t._edge is None:
            raise RuntimeError(f"One of the differentiated Tensors does not require grad: inputs[{i}], of shape {list(t.shape)}")


# -- 3. What it asks on the way ---------------------------------------------------------------------------------------------------


def _plus(a: Any, b: Any) -> Any:
    total = a + b
    return np.asarray(total) if isinstance(total, np.generic) else total  # of 0-d arrays NumPy makes a scalar


def _edge_to(t: Tensor) -> Edge:
    return t if t._edge is LEAF else t._edge


def _node(edge: Edge) -> Function | None:
    return edge[0] if type(edge) is tuple else None


def _root_gradient(i: int, root: Tensor, gradient: Tensor | None, create_graph: bool) -> Any:
    if not isinstance(root, Tensor):
        raise TypeError(f"gradients start from Tensors; element {i} is a {type(root).__name__}")
    if root._base is not None:
        check_view(root, "backward")
    if root._edge is None:
        raise RuntimeError(f"element {i} of tensors does not require grad and does not have a grad_fn")
    if gradient is None:
        if root._data.size != 1:
            raise RuntimeError(
                f"grad can be implicitly created only for scalar outputs; this one has shape {list(root.shape)}: "
                "give backward() a gradient of that shape, or reduce it first"
            )
        one = np.array(1, root._data.dtype, ndmin=root._data.ndim)
        return Tensor(one) if create_graph else one
    if not isinstance(gradient, Tensor):
        raise TypeError(f"gradients can be either Tensors or None, but got {type(gradient).__name__}")
    if gradient._data.shape != root._data.shape:
        raise RuntimeError(
            f"Mismatch in shape: grad_output[{i}] has a shape of {gradient.shape} and output[{i}] has a shape of {root.shape}: they must be the same"
        )
    if create_graph:
        return gradient.to(root.dtype)
    return gradient._data.astype(root._data.dtype, copy=False)


def _nodes_towards(wanted: set[Any], roots: Sequence[Edge]) -> set[Function]:
    """The nodes whose backward must run so that gradients reach `wanted`: the others are left as they are, with what they saved."""
    above: dict[Function, list[Function]] = {}  # a node's consumers within the graph of the roots
    stack = [edge[0] for edge in roots if type(edge) is tuple]
    seen = set(stack)
    needed: set[Function] = set()
    while stack:
        node = stack.pop()
        for edge in node.edges:
            if edge is not None and edge in wanted:
                needed.add(node)
            source = _node(edge)
            if source is not None:
                above.setdefault(source, []).append(node)
                if source not in seen:
                    seen.add(source)
                    stack.append(source)
    stack = list(needed)
    while stack:
        for consumer in above.get(stack.pop(), ()):
            if consumer not in needed:
                needed.add(consumer)
                stack.append(consumer)
    return needed


def _capture(entry: list[Any], wanted: set[Any], captured: dict[Any, Any]) -> None:
    """Notes the gradients of those outputs of a node that are asked for; they stand in `entry` after the node."""
    node = entry[0]
    captured.update(((node, i), g) for i, g in enumerate(entry[1:]) if (node, i) in wanted)


def _fill_up(entry: list[Any], create_graph: bool) -> None:
    """Zeros for the outputs of a node that no gradient has reached."""
    entry[1:] = [_zeros(meta, create_graph) if g is None else g for g, meta in zip(entry[1:], entry[0].outputs)]


def _asked_for(inputs: Sequence[Tensor], leaves: dict[Tensor, Any], captured: dict[Any, Any]) -> list[Tensor | None]:
    """The gradient of each input, None where none has come."""
    found = [leaves.get(t) if t._edge is LEAF else captured.get(t._edge) for t in inputs]
    return [g if g is None or isinstance(g, Tensor) else Tensor(np.array(g)) for g in found]


def _examined_backward(node: Function, entry: list[Any], create_graph: bool) -> Any:
    """node.backward, recorded under create_graph, and whoever asked to see what it returns."""
    results = _recorded_backward(node, entry[1:]) if create_graph else type(node).backward(*entry)
    for examine in examiners:
        examine(node, results)
    return results


def _recorded_backward(node: Function, grads: list[Any]) -> Any:
    """node.backward on Tensors, recorded; a once-differentiable one on arrays, and its results lead to an error."""
    if not node.once_differentiable:
        outer, mode.recording = mode.recording, node
        recordings.append(None)
        try:
            return type(node).backward(node, *grads)
        finally:
            recordings.pop()
            mode.recording = outer
    results = type(node).backward(node, *(g._data for g in grads))
    spent = _Spent(node, grads)
    made: list[Tensor | None] = []
    for r in results if type(results) is tuple else (results,):
        out = None if r is None else Tensor(np.asarray(r))
        if out is not None:
            spent.outputs = [*spent.outputs, (out._data.shape, out._data.dtype)]
            out._edge = spent, len(spent.outputs) - 1
        made.append(out)
    return tuple(made)


def _zeros(meta: tuple[tuple[int, ...], Any], create_graph: bool) -> Any:
    zeros = np.zeros(meta[0], meta[1])
    return Tensor(zeros) if create_graph else zeros


def _fit(node: Any, results: Sequence[Any], g: Any, shape: tuple[int, ...], kind: Any, create_graph: bool) -> Any:
    """The gradient in its input's element type; a wrong shape is a mistake of the op and is never summed away."""
    if create_graph and isinstance(g, Tensor) and g._data.shape == shape and g._data.dtype is kind:
        return g
    if not isinstance(g, (Tensor, np.ndarray, np.generic, float, int)):
        i = _position(node, results, g, shape)
        raise TypeError(f"{node.name}: backward returned a {type(g).__name__} for input {i}; expected an array, a Tensor or None")
    came = g
    if not isinstance(g, Tensor):
        g = np.asarray(g)
        g = Tensor(g.astype(kind, copy=False)) if create_graph else g
    if g.shape != shape:
        _wrong_shape(node, _position(node, results, came, shape), tuple(g.shape), shape)
    if not create_graph:
        return (g._data if isinstance(g, Tensor) else g).astype(kind, copy=False)
    return g.to(from_numpy_dtype(kind))


def _position(node: Any, results: Sequence[Any], g: Any, shape: tuple[int, ...]) -> int:
    """Which input it is for: a backward may return one array for several, so the input's shape counts as well."""
    shapes = ((e[0].outputs[e[1]][0] if type(e) is tuple else e._data.shape) if e is not None else None for e in node.edges)
    return next(i for i, (result, expected) in enumerate(zip(results, shapes)) if result is g and expected == shape)


def _wrong_shape(node: Function, i: int, came: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    lead = len(came) - len(shape)
    axes = [*range(lead), *(a + lead for a, n in enumerate(shape) if n == 1 and lead >= 0 and came[a + lead] != 1)] if lead >= 0 else []
    fits = lead >= 0 and all(n in (1, came[a + lead]) for a, n in enumerate(shape)) and axes
    remedy = f"a sum over axis {', '.join(map(str, axes))} is missing" if fits else "a gradient has the shape of its input"
    raise RuntimeError(f"{node.name}: the gradient for input {i} has shape {came}; expected {shape}, the shape of that input: {remedy}")


def _run_hooks(hooks: dict[int, Any], g: Any, create_graph: bool) -> Any:
    grad = g if isinstance(g, Tensor) else Tensor(g)
    for hook in list(hooks.values()):
        answer = hook(grad)
        if answer is not None:
            if not isinstance(answer, Tensor) or answer._data.shape != grad._data.shape or answer._data.dtype != grad._data.dtype:
                came = f"{answer.dtype} of shape {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
                raise RuntimeError(f"a hook must return None or a gradient of the same type and shape, {grad.dtype} {list(grad.shape)}; got {came}")
            grad = answer
    return grad if create_graph else grad._data


def _node_hooks(entry: list[Any], create_graph: bool) -> None:
    """Runs what waits for the gradients of a node's outputs, which stand in `entry` after the node."""
    node = entry[0]
    for i, hooks in list((node._hooks or {}).items()):  # a hook may register another
        if hooks and entry[i + 1] is not None:
            entry[i + 1] = _run_hooks(hooks, entry[i + 1], create_graph)
    for i, reference in list((node._retained or {}).items()):
        tensor = reference()
        if tensor is not None and entry[i + 1] is not None:
            with _adding:
                _accumulate(tensor, entry[i + 1])


def _accumulate(tensor: Tensor, g: Any) -> None:
    """tensor.grad += g, in the tensor's own memory unless the sum itself is recorded."""
    before = tensor._grad
    if isinstance(g, Tensor):
        tensor._grad = g.clone() if before is None else before + g  # a clone: what backward() was given may be the caller's own
    elif before is None:
        tensor._grad = Tensor(np.array(g, order="C"))
    elif before._data.flags.writeable:
        np.add(before._data, g, out=before._data)
        touch(before)
    else:  # an expanded tensor that the caller had put there
        tensor._grad = Tensor(before._data + g)
