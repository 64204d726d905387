"""The Function: one differentiable op, and one node of the graph.

A node keeps

    edges      where each of its inputs came from: another node and the number of its output, a leaf Tensor, or None
    saved      the arrays that its backward will read
    order      when it was created, by the clock that in-place writes go by as well: later than everything it depends on,
               and earlier than any write that would spoil what it saved

and never its own outputs. A Function is written once, with operators, and serves every order of derivative: its ``forward`` takes arrays;
its ``backward`` takes arrays while the result is only a number, and Tensors under ``create_graph``, where what it computes is recorded in
turn.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from .dtype import SUPPORTED
from .grad_mode import inferring, mode, recordings
from .tensor import LEAF, Edge, Tensor, check_view, clock, last_write, mark_view, new_tensor

__all__ = ["Function"]

Array = np.ndarray[Any, Any]

observers: list[Callable[[Function, Sequence[Tensor], Sequence[Any]], None]] = []  # called with every node recorded, its results and its inputs

_UNWATCHED = [0, 0]  # the writes to what is no Tensor's memory: none
_ndarray, _new = np.ndarray, object.__new__
_DIFFERENTIABLE = {kind: kind.kind == "f" for kind in SUPPORTED}  # by the element types that a Tensor can hold


class Function:
    """One differentiable op. An instance is one use of it: the node of the graph, and torch's ``ctx``.

    ``forward(self, *arrays, **params)`` computes arrays from arrays and hands `save_for_backward` what the gradient needs.
    ``backward(self, *grads)`` returns one gradient for each positional argument (None where there is none), from `saved_tensors`.
    Both may be static methods whose first argument is called ctx, as in torch.

    Example:
        >>> import tinygrad_norm as tg
        >>> class Cube(tg.autograd.Function):
        ...     def forward(self, x):
        ...         self.save_for_backward(x)
        ...         return x**3
        ...     def backward(self, g):
        ...         (x,) = self.saved_tensors
        ...         return 3 * x**2 * g
        >>> x = tg.tensor(2.0, requires_grad=True)
        >>> Cube.apply(x).backward()
        >>> x.grad
        tensor(12.)
    """

    once_differentiable: ClassVar[bool] = False  # its backward works on arrays alone; differentiating that raises
    fresh_gradients: ClassVar[bool] = False  # backward returns arrays that nothing else holds: a leaf may keep them uncopied
    name: str

    edges: Sequence[Edge] = ()  # where each positional argument of apply came from, None where no gradient will be asked for
    outputs: Sequence[tuple[tuple[int, ...], Any]] = ()  # shape and element type of each output
    order: int = 0
    _saved: Sequence[Array | None] | None = ()  # None once freed
    _ids: Sequence[int] = ()  # of the array of each input and then of each output: `_places` finds by them where a saved one came from
    _writes: Sequence[Any] = ()  # to the memory of each of these
    _constant: Sequence[Array] = ()
    _watched = False  # whether there is any of the following
    _hooks: dict[int, dict[int, Callable[[Tensor], Tensor | None]]] | None = None  # by the number of the output they wait for
    _retained: dict[int, weakref.ref[Tensor]] | None = None  # the Tensors, by number of the output, that asked to retain their gradient

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__ + "Backward"

    def forward(self, *arrays: Any, **params: Any) -> Any:
        """Arrays from arrays."""
        raise RuntimeError(f"{type(self).__name__} must define forward(self, *arrays)")

    def backward(self, *grads: Any) -> Any:
        """The gradients of the inputs from those of the outputs."""
        raise RuntimeError(f"{type(self).__name__} must define backward(self, *grads) to be differentiated")

    def save_for_backward(self, *arrays: Array | None) -> None:
        """Keeps inputs, outputs or intermediate arrays for backward, which gets them from `saved_tensors`.

        Inputs and outputs keep their place in the graph; the second derivative takes intermediate arrays for constants.
        """
        self._saved = arrays

    def mark_non_differentiable(self, *arrays: Array) -> None:
        """Says of outputs, called in forward, that they carry no gradient; integers and bool never do."""
        self._constant = arrays

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` was given: arrays, or under create_graph Tensors at their place in the graph."""
        saved = self._saved
        if saved is not None and self.order > last_write[0] and not recordings:
            return saved  # type: ignore[return-value]
        return self._examined()

    def _examined(self) -> tuple[Any, ...]:
        """What was saved, if it is still there and as it was; under create_graph as Tensors."""
        if self._saved is None:
            raise RuntimeError(
                "Trying to backward through the graph a second time (or directly access saved tensors after they have already been freed). "
                f"Saved intermediate values of the graph ({self.name}) are freed when you call .backward() or autograd.grad(). Specify "
                "retain_graph=True if you need to backward through the graph a second time or if you need to access saved tensors after "
                "calling backward."
            )
        values: list[Any] = []
        recording = mode.recording is self
        for array, (place, writes) in zip(self._saved, self._places()):
            if writes[1] > self.order:
                raise RuntimeError(self._changed(array, place, f"is at version {writes[0]}, written since"))
            values.append(self._at_place(array, place, writes) if recording and array is not None else array)
        return tuple(values)

    def _places(self) -> list[tuple[int | None, list[int]]]:
        """Of each saved array, whether it is input i, output ~i, or neither (None); and the writes to its memory.

        By the ids that all of them had when the node was made and they were all alive: a node never holds its outputs.
        """
        inputs = len(self.edges)
        found: list[tuple[int | None, list[int]]] = []
        for array in self._saved or ():
            if array is None or id(array) not in self._ids:
                found.append((None, _UNWATCHED))
            else:
                n = self._ids.index(id(array))
                found.append((n if n < inputs else inputs - 1 - n, self._writes[n]))
        return found

    def _at_place(self, array: Array, place: int | None, writes: list[int]) -> Tensor:
        """The Tensor that has this saved value and its place in the graph."""
        edge = None if place is None else (self, ~place) if place < 0 else self.edges[place]
        if isinstance(edge, Tensor):
            if edge._data is not array:
                raise RuntimeError(self._changed(array, place, "was given other .data since"))
            return edge
        out = Tensor(np.asarray(array))
        out._edge, out._writes = edge, writes
        return out

    def _changed(self, array: Any, place: int | None, what: str) -> str:
        edge = self.edges[place] if place is not None and place >= 0 else None
        which = "its own output" if place is not None and place < 0 else f"the output of {edge[0].name}" if type(edge) is tuple else "an input"
        return (
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[{array.dtype} tensor {list(array.shape)}], {which}, saved by {self.name}, {what}. Change a clone(), or change it before it is used."
        )

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """For each positional argument of apply, whether its gradient will be asked for."""
        return tuple([e is not None for e in self.edges])

    @property
    def input_shapes(self) -> list[tuple[int, ...] | None]:
        """The shape of each input whose gradient will be asked for, None for the others."""
        shapes: list[tuple[int, ...] | None] = []
        for e in self.edges:
            shapes.append(None if e is None else e[0].outputs[e[1]][0] if type(e) is tuple else e._data.shape)
        return shapes

    @property
    def next_functions(self) -> tuple[tuple[Function | None, int], ...]:
        """The nodes that its inputs came from, with the number of the output; a leaf stands as an `AccumulateGrad`."""
        return tuple((None, 0) if e is None else e if type(e) is tuple else (AccumulateGrad(e), 0) for e in self.edges)

    def __repr__(self) -> str:
        return f"<{self.name} object at {id(self):#x}>"

    @classmethod
    def on(cls, *args: Any, **params: Any) -> Any:
        """The op outside or inside the tape: on arrays it is only its forward; on Tensors it is `apply`.

        For backward formulas that are ops themselves, and get arrays or Tensors as the walk is recorded or not.
        """
        for a in args:
            if isinstance(a, Tensor):
                return cls.apply(*args, **params)
        return cls.forward(cls(), *args, **params)

    @classmethod
    def apply(cls, *args: Any, **params: Any) -> Any:
        """Computes the op and, where a gradient is wanted, records the node.

        Args:
            *args: Tensors, and None or plain values, which get no gradient.
            **params: handed to forward as they are.
        Returns:
            A Tensor, or a tuple of them, as forward returns an array or a tuple.
        """
        node = cls()
        node.edges = edges = []
        arrays: list[Any] = []
        ids: list[int] = []
        writes: list[Any] = []
        recording = False
        special: Any = inferring or observers
        for a in args:
            if isinstance(a, Tensor):
                edge = a._edge
                if edge is not None:
                    recording = True
                    if edge is LEAF:
                        edge = a
                if a._base is not None and mode.grad:
                    check_view(a, cls.name)
                edges.append(edge)
                data, written = a._data, a._writes
                writes.append(written)
                if written is None:
                    special = True
            else:
                data = a
                edges.append(None)
                writes.append(_UNWATCHED)
            arrays.append(data)
            ids.append(id(data))
        if recording and (not mode.grad or (special and mode.inference)):
            recording, node.edges = False, [None] * len(edges)
        if len(arrays) == 1 and not params:  # unpacking one argument would double what the call costs
            results = cls.forward(node, data)
        else:
            results = cls.forward(node, *arrays, **params)
        if special or type(results) is not _ndarray or id(results) in ids or node._constant:
            return node._finish(results, arrays, args, ids, writes, recording)
        kind = results.dtype
        differentiable = _DIFFERENTIABLE.get(kind)
        if differentiable is None:
            return node._finish(results, arrays, args, ids, writes, recording)  # which raises
        # One new array, or one view, is what almost every op returns: what _finish does, for that case alone, is a microsecond faster.
        out = _new(Tensor)
        out._data = results
        out._edge = out._grad = out._base = out._hooks = None
        out._writes = written = [0, 0]
        if results.base is not None:
            _mark_views(out, arrays, args)
            written = out._writes
        if recording:
            node.order = next(clock)
            if differentiable:
                out._edge = node, 0
            node.outputs = ((results.shape, kind),)
            if node._saved:
                ids.append(id(results))
                writes.append(written)
                node._ids, node._writes = ids, writes
        return out

    def _finish(self, results: Any, arrays: Sequence[Any], args: Sequence[Any], ids: list[int], writes: list[Any], recording: bool) -> Any:
        """The results as Tensors, views of the inputs among them; recorded, with their place in the graph."""
        values = results if type(results) is tuple else (results,)
        outs: list[Tensor] = []
        for value in values:
            outs.append(_wrap(value, type(self), arrays, args))
        if recording:
            self.order = next(clock)
            outputs: list[tuple[tuple[int, ...], Any]] = []
            for out in outs:
                array = out._data
                kind = array.dtype
                if kind.kind == "f":
                    out._edge = self, len(outputs)
                outputs.append((array.shape, kind))
                writes.append(out._writes)
            self.outputs = outputs
            if self._saved:
                self._ids, self._writes = [*ids, *map(id, values)], writes
                if None in writes and any(written is None for _, written in self._places()):
                    raise RuntimeError("Inference tensors cannot be saved for backward. To work around you can make a clone to get a normal tensor.")
            if self._constant:
                for value, out in zip(values, outs):
                    if any(value is c for c in self._constant):
                        out._edge = None
                self._constant = ()
            for observe in observers:
                observe(self, outs, args)
        return tuple(outs) if type(results) is tuple else outs[0]


def _wrap(array: Any, cls: type[Function], arrays: Sequence[Any], args: Sequence[Any]) -> Tensor:
    """An output as a Tensor; where it shares an input's memory, as a view of that."""
    if type(array) is not _ndarray:
        if not isinstance(array, (np.ndarray, np.generic, float, int)):
            raise TypeError(f"{cls.__name__}.forward returned a {type(array).__name__}; expected an array or a tuple of arrays")
        array = np.asarray(array)  # of 0-d results NumPy makes scalars
    out = new_tensor(array) if array.dtype in SUPPORTED else Tensor(array)  # which raises
    _mark_views(out, arrays, args)
    return out


def _mark_views(out: Tensor, arrays: Sequence[Any], args: Sequence[Any]) -> None:
    """Marks an output as the view that it is, if it shares an input's memory."""
    array, base = out._data, out._data.base
    for x, arg in zip(arrays, args):
        if isinstance(arg, Tensor) and (x is array or (base is not None and (x is base or x.base is base))):
            mark_view(out, arg)


class AccumulateGrad(Function):
    """The end of a path: stands for a leaf where a graph is shown."""

    name = "AccumulateGrad"

    def __init__(self, variable: Tensor) -> None:
        self.variable = variable
