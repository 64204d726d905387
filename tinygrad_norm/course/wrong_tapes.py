"""Wrong walks over a tape, as data, for a0: each a name, the line that it breaks, and what comes out.

A graph is `v.nodes`, a list of pairs (j, slope) for each node; or `v.graph`, with (op, inputs, value) for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from .task import Array, Values, Wrong

__all__ = ["CHAIN", "COPIED", "WRONG_SUMS", "WRONG_WALKS", "wrong_tapes"]

Step = Callable[[Array, int, int, float], float]
Backward = Callable[[str, Array, Array, Array], tuple[Array, Array]]

COMPLETE = "(1): v̄ᵢ is handed on when all uses of vᵢ have been counted; the youngest node that waits is complete"
ADDED = "(1): v̄ⱼ is the sum over all uses of vⱼ"
CHAIN = "(1): each use counts v̄ᵢ·∂vᵢ/∂vⱼ"
OWN = "each node has a gradient of its own: grads[j] = grads[j] + …"
BEGIN = "(1): L̄ = 1, and 0 for every other node"
COPIED = "(2): the sum over all places that a number was copied to"
ALIGNED = "shapes are aligned at their last axes"
KEPT = "the gradient has the shape of what it is the gradient of"

# -- 1. On numbers ------------------------------------------------------------------------------------------------------------------------


def walked(v: Values, order: Iterable[int] | None = None, step: Step = lambda g, i, j, slope: float(g[j] + g[i] * slope), begin: Array | None = None) -> Array:
    """The walk with one thing in it done otherwise."""
    g = np.zeros(len(v.nodes)) if begin is None else begin
    if begin is None:
        g[v.root] = 1
    for i in order or range(v.root, -1, -1):
        for j, slope in v.nodes[i]:
            g[j] = step(g, i, j, slope)
    return g


def in_recursion(v: Values, once: bool = False) -> Array:
    """Each node handed on at each visit, with all that has arrived so far; or at its first visit alone."""
    g = np.zeros(len(v.nodes))
    seen: set[int] = set()
    g[v.root] = 1

    def visit(i: int) -> None:
        if not (once and i in seen):
            seen.add(i)
            for j, slope in v.nodes[i]:
                g[j] += g[i] * slope
                visit(j)

    visit(v.root)
    return g


def discovered(v: Values, last_in_first_out: bool) -> Array:
    """Each node once, in the order in which the walk comes by it."""
    g, seen, waiting = np.zeros(len(v.nodes)), {v.root}, [v.root]
    g[v.root] = 1
    while waiting:
        i = waiting.pop(-1 if last_in_first_out else 0)
        for j, slope in v.nodes[i]:
            g[j] += g[i] * slope
            if j not in seen:
                seen.add(j)
                waiting.append(j)
    return g


def reached(v: Values) -> list[int]:
    """The nodes that the root needs, the youngest first."""
    found = {v.root}
    for i in range(v.root, -1, -1):
        if i in found:
            found |= {j for j, _ in v.nodes[i]}
    return sorted(found, reverse=True)


def last_write(g: Array, i: int, j: int, slope: float) -> float:
    return float(g[i] * slope)


WRONG_WALKS = [
    Wrong("= for +=", ADDED, lambda v: walked(v, step=last_write)),
    Wrong("= for +=, among the nodes that the root needs", ADDED, lambda v: walked(v, reached(v), last_write)),
    Wrong("an input that is used twice counted once", ADDED,
          lambda v: walked(Values(nodes=[list(dict(pairs).items()) for pairs in v.nodes], root=v.root))),
    Wrong("handed on at each visit, before it is complete", COMPLETE, in_recursion),
    Wrong("each visited once, depth first", COMPLETE, lambda v: in_recursion(v, once=True)),
    Wrong("each visited once, in the order of a stack", COMPLETE, lambda v: discovered(v, True)),
    Wrong("each visited once, breadth first", COMPLETE, lambda v: discovered(v, False)),
    Wrong("the oldest first", COMPLETE, lambda v: walked(v, range(len(v.nodes)))),
    Wrong("slope without what comes from above", CHAIN, lambda v: walked(v, step=lambda g, i, j, slope: g[j] + slope)),
    Wrong("slope forgotten", CHAIN, lambda v: walked(v, step=lambda g, i, j, slope: g[j] + g[i])),
    Wrong("slope added for multiplied", CHAIN, lambda v: walked(v, step=lambda g, i, j, slope: g[j] + g[i] + slope)),
    Wrong("the root's own gradient is not 1", BEGIN, lambda v: np.zeros(len(v.nodes))),
    Wrong("nothing arrives but at the root itself", "the walk begins at the root, and it hands on first",
          lambda v: 1.0 * (np.arange(len(v.nodes)) == v.root)),
    Wrong("all gradients begun with 1", BEGIN, lambda v: walked(v, begin=np.ones(len(v.nodes)))),
    Wrong("begun at the last node, not at the root", BEGIN, lambda v: walked(Values(nodes=v.nodes, root=len(v.nodes) - 1))),
]  # fmt: skip

# -- 2. The sum ---------------------------------------------------------------------------------------------------------------------------


def leading(v: Values) -> tuple[int, ...]:
    return tuple(range(v.g.ndim - len(v.shape)))


def stretched(v: Values) -> tuple[int, ...]:
    """The axes of length 1, as g counts them."""
    lead = v.g.ndim - len(v.shape)
    return tuple(lead + i for i, n in enumerate(v.shape) if n == 1 and v.g.shape[lead + i] != 1)


def copied(v: Values) -> tuple[int, ...]:
    return (*leading(v), *stretched(v))


def one_copy(v: Values) -> Array:
    return np.asarray(v.g[tuple(slice(0, 1) if axis in copied(v) else slice(None) for axis in range(v.g.ndim))].reshape(v.shape))


def first_fits(v: Values) -> Array:
    """Aligned at the first axes: what is left over at the end is summed."""
    axes = tuple(i for i in range(v.g.ndim) if i >= len(v.shape) or v.shape[i] == 1 != v.g.shape[i])
    return np.asarray(v.g.sum(axis=axes, keepdims=True).reshape(v.shape))


def from_the_left(v: Values) -> bool:
    return bool(v.g.ndim > len(v.shape) > 0 and all(n in (1, m) for n, m in zip(v.shape, v.g.shape)))


WRONG_SUMS = [
    Wrong("not summed", COPIED, lambda v: v.g),
    Wrong("axes of length 1 not summed", COPIED, lambda v: v.g.sum(axis=leading(v))),
    Wrong("axes in front not summed", COPIED, lambda v: v.g.sum(axis=stretched(v), keepdims=True)),
    Wrong("axes of length 1 lost in the sum: keepdims", KEPT, lambda v: v.g.sum(axis=copied(v))),
    Wrong("axes in front kept in the sum", KEPT, lambda v: v.g.sum(axis=copied(v), keepdims=True)),
    Wrong("a mean for the sum", COPIED, lambda v: v.g.mean(axis=copied(v), keepdims=True).reshape(v.shape)),
    Wrong("one of the copies, not their sum", COPIED, one_copy),
    Wrong("everything summed", COPIED, lambda v: v.g.sum()),
    Wrong("aligned at the first axes", ALIGNED, first_fits, from_the_left),
]

# -- 3. On arrays -------------------------------------------------------------------------------------------------------------------------


def carried(v: Values, backward: Backward, add: Callable[[Array, Array], Array] = np.add, dy: Array | None = None, root: int | None = None) -> list[Array]:
    """The gradients of all nodes, with one thing done otherwise."""
    root = v.root if root is None else root
    grads = [np.zeros_like(value) for _, _, value in v.graph]
    grads[root] = v.dy.copy() if dy is None else dy
    for i in range(root, -1, -1):
        op, inputs, _ = v.graph[i]
        if op != "leaf":
            a, b = (v.graph[j][2] for j in inputs)
            for j, new in zip(inputs, backward(op, a, b, grads[i])):
                grads[j] = np.asarray(add(grads[j], new))
    return grads


def too_early(v: Values, backward: Backward) -> list[Array]:
    """Handed on at each visit, with all that has arrived so far."""
    grads = [np.zeros_like(value) for _, _, value in v.graph]
    grads[v.root] = v.dy.copy()

    def visit(i: int) -> None:
        op, inputs, _ = v.graph[i]
        if op != "leaf":
            a, b = (v.graph[j][2] for j in inputs)
            for j, new in zip(inputs, backward(op, a, b, grads[i])):
                grads[j] = grads[j] + new
                visit(j)

    visit(v.root)
    return grads


def shared(v: Values, backward: Backward) -> list[Array]:
    """What arrives first is kept as it is, and what arrives later is added to it in place; an add hands the same array to both inputs."""
    grads: dict[int, Array] = {v.root: v.dy.copy()}
    for i in range(v.root, -1, -1):
        op, inputs, _ = v.graph[i]
        if op == "leaf" or i not in grads:
            continue
        a, b = (v.graph[j][2] for j in inputs)
        new = backward(op, a, b, grads[i])
        for m, j in enumerate(inputs):
            same = op in ("add", "sub") and (op, m) != ("sub", 1) and v.graph[j][2].shape == grads[i].shape
            arriving = grads[i] if same else np.asarray(new[m])
            if j in grads:
                grads[j] += arriving
            else:
                grads[j] = arriving
    return [grads[k] for k in range(3)]


def wrong_tapes(k: int, backward: Backward) -> list[Wrong]:
    """What is known for the gradient of leaf k; `backward` is the right one of a single node."""

    def last(old: Array, new: Array) -> Array:
        return new

    return [
        Wrong("= for +=", ADDED, lambda v: carried(v, backward, last)[k]),
        Wrong("handed on at each visit, before it is complete", COMPLETE, lambda v: too_early(v, backward)[k]),
        Wrong("ones for dy", "the root's gradient is dy", lambda v: carried(v, backward, dy=np.ones_like(v.dy))[k]),
        Wrong("begun at the last node, not at the root", "the root's gradient is dy", lambda v: carried(v, backward, root=len(v.graph) - 1)[k]),
        Wrong("+= on an array that another node holds as well", OWN, lambda v: shared(v, backward)[k]),
        Wrong("zeros", BEGIN, lambda v: np.asarray(0 * v.graph[k][2])),
    ]
