"""The whole engine in one sitting: Tensor, Function, and the walk that carries gradients back.

A Tensor is a NumPy array and, where a gradient is wanted, an edge to the Function instance (the *node*) that made it. A node keeps

    edges      where each of its inputs came from: another node and the number of its output, a leaf Tensor, or None
    saved      the arrays that its backward will read
    order      when it was created, by the clock that in-place writes go by as well: later than everything it depends on,
               and earlier than any write that would spoil what it saved

and never its own outputs, so a graph has no reference cycle and is gone when the last name of its result is. Creation order is a
topological order: taking the youngest node first, every consumer of a value has spoken before the value's own node is asked. That is
the whole of reverse-mode differentiation (`run_backward`): a priority queue, and one sum per value.

A Function is written once, with operators, and serves every order of derivative: its ``forward`` takes arrays; its ``backward`` takes
arrays while the result is only a number, and Tensors under ``create_graph``, where what it computes is recorded in turn.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from .dtype import SUPPORTED, Size, dtype, from_numpy_dtype
from .printing import tensor_repr

if TYPE_CHECKING:
    from .methods import TensorMethods
else:
    TensorMethods = object

__all__ = ["Function", "Tensor", "enable_grad", "inference_mode", "is_grad_enabled", "no_grad", "run_backward", "set_grad_enabled"]

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])

# -- 1. Whether ops are recorded -------------------------------------------------------------------------------------------------


class _Mode(threading.local):
    grad = True
    inference = False


_mode = _Mode()


class _GradMode:
    """Context manager and decorator: ops inside are recorded or not, in this thread, whatever stood before."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and callable(args[0]):
            return cls()(args[0])  # type: ignore[call-arg]  # @no_grad is @no_grad()
        return super().__new__(cls)

    def __init__(self, grad: bool, inference: bool | None = None) -> None:
        self._wanted = grad, inference
        self._before: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._before.append((_mode.grad, _mode.inference))
        grad, inference = self._wanted
        _mode.grad = grad
        if inference is not None:
            _mode.inference = inference

    def __exit__(self, *exc: object) -> None:
        _mode.grad, _mode.inference = self._before.pop()

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{type(self).__name__} cannot decorate the generator function {function.__name__}: its body runs after the call has returned. "
                f"Write `with {type(self).__name__}(...):` inside, around parts without a yield"
            )
        wanted = self._wanted

        @functools.wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            with _GradMode(*wanted):  # one of its own for each call: threads and recursion do not share `_before`
                return function(*args, **kwargs)

        return within  # type: ignore[return-value]


class no_grad(_GradMode):  # noqa: N801  torch's name
    """Ops inside are not recorded.

    Example:
        >>> import tinygrad_norm as tg
        >>> w = tg.ones(2, requires_grad=True)
        >>> with tg.no_grad():
        ...     print((w * 2).requires_grad)
        False
    """

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(_GradMode):  # noqa: N801
    """Ops inside are recorded, also within no_grad."""

    def __init__(self) -> None:
        super().__init__(True)


class set_grad_enabled(_GradMode):  # noqa: N801
    """Ops are recorded or not from here on; as a context manager, until its end."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        super().__enter__()

    def __enter__(self) -> None:
        _mode.grad = self._wanted[0]  # what stood before was noted at the call

    def __call__(self, function: F) -> F:
        self.__exit__()  # a decorated function is told when it is called, not where it is defined
        return super().__call__(function)


class inference_mode(_GradMode):  # noqa: N801
    """Like no_grad, and the Tensors made inside can never take part in a graph: they carry no version counter."""

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode, bool(mode))


def is_grad_enabled() -> bool:
    """Whether ops are being recorded in this thread."""
    return _mode.grad


# -- 2. The Tensor ---------------------------------------------------------------------------------------------------------------


LEAF: Any = type("Leaf", (), {"__repr__": lambda self: "LEAF"})()  # the edge of a Tensor that requires a gradient and that no op made


class Tensor(TensorMethods):
    """A NumPy array that can remember how it was computed.

    Make one with `tinygrad_norm.tensor`, `zeros`, `randn`, `from_numpy` …; its arithmetic is in `tinygrad_norm.ops`, from where
    `tinygrad_norm.methods` lends it to this class.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor(3.0, requires_grad=True)
        >>> (x * x).backward()
        >>> x.grad
        tensor(6.)
    """

    __slots__ = ("__weakref__", "_base", "_data", "_edge", "_grad", "_hooks", "_writes")
    __array_priority__ = 1000  # ndarray + Tensor asks Tensor.__radd__

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        if type(data) is not np.ndarray:
            raise TypeError(f"Tensor(...) wraps a NumPy array as it is; got {type(data).__name__}: use tensor(...) for lists, numbers and copies")
        if data.dtype not in SUPPORTED:
            from_numpy_dtype(data.dtype)  # raises
        self._data = data
        self._edge: Any = LEAF if requires_grad else None  # or the node that made it, and which of its outputs it is
        self._grad: Tensor | None = None
        self._writes: list[int] | None = None if _mode.inference else [0, 0]  # how often its memory was written, and when last; views share it
        self._base: tuple[Tensor, Edge] | None = None  # a view's base, and where that stood in the graph when the view was taken
        self._hooks: dict[int, Callable[[Tensor], Tensor | None]] | None = None

    # What it holds

    @property
    def shape(self) -> Size:
        """The lengths of its axes."""
        return tuple.__new__(Size, self._data.shape)

    @property
    def dtype(self) -> dtype:
        """The type of its elements."""
        return from_numpy_dtype(self._data.dtype)

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return self._data.ndim

    @property
    def data(self) -> Tensor:
        """The same memory outside of every graph; writes through it are not noticed. `detach` is the safer way."""
        return Tensor(self._data.view())

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"data must be a Tensor; got {type(value).__name__}")
        if self._edge is not None and value._data.dtype.kind != "f":
            raise RuntimeError(f"data set to a tensor that requires gradients must be floating point; got {value.dtype}")
        self._data = value._data.view()

    def detach(self) -> Tensor:
        """The same memory as a Tensor that is part of no graph; writes to either are noticed by both."""
        out = Tensor(self._data.view())  # a view object of its own: the tape tells saved inputs apart by identity
        out._writes = self._writes
        return out

    def detach_(self) -> Tensor:
        """Takes this Tensor out of its graph: it becomes a leaf that requires no gradient."""
        if self._base is not None:
            raise RuntimeError("Can't detach views in-place; use detach() instead")
        self._edge = None
        return self

    def numpy(self) -> Array:
        """Its memory as a NumPy array, shared; RuntimeError where a gradient would be lost."""
        if self._edge is not None:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return self._data

    # Its place in the graph

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are carried to it."""
        return self._edge is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self.grad_fn is not None and not value:
            raise RuntimeError("you can only change requires_grad flags of leaf variables. Use detach() to leave the graph.")
        if value and self._data.dtype.kind != "f":
            raise RuntimeError(f"only Tensors of floating point dtype can require gradients; got {self.dtype}")
        if value and self._writes is None:
            raise RuntimeError("Setting requires_grad=True on inference tensor outside InferenceMode is not allowed; clone() it first.")
        if self.grad_fn is None:
            self._edge = LEAF if value else None

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Sets requires_grad and returns itself."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made it: parameters, inputs, and all that requires no gradient."""
        return self._edge is None or self._edge is LEAF

    @property
    def grad_fn(self) -> Function | None:
        """The node that made it, None for a leaf."""
        return self._edge[0] if type(self._edge) is tuple else None

    @property
    def grad(self) -> Tensor | None:
        """Where backward() has added its gradient; None before, and after `zero_grad`."""
        if self._grad is None and type(self._edge) is tuple and not self.retains_grad:
            warnings.warn(
                "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad attribute won't be populated during "
                "autograd.backward(). Call .retain_grad() on it before backward() if you want it.",
                stacklevel=2,
            )
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"assigned grad expected to be a Tensor or None but got {type(value).__name__}")
            if value._data.shape != self._data.shape or value._data.dtype != self._data.dtype:
                raise RuntimeError(
                    f"assigned grad has shape {list(value.shape)} and type {value.dtype}; "
                    f"expected {list(self.shape)} and {self.dtype}, those of the tensor"
                )
        self._grad = value

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Calls hook(grad) whenever this Tensor's whole gradient is known; what it returns, if not None, takes the gradient's place.

        Args:
            hook: takes the gradient and must not change it.
        Returns:
            A handle whose remove() ends it.
        Raises:
            RuntimeError: where the Tensor requires no gradient.
        """
        if self._edge is None:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        _fresh(self, "register_hook")
        if self._edge is LEAF:
            if self._hooks is None:
                self._hooks = {}
            return RemovableHandle(self._hooks, hook)
        node, index = self._edge
        node._watched = True
        if node._hooks is None:
            node._hooks = {}
        return RemovableHandle(node._hooks.setdefault(index, {}), hook)

    def retain_grad(self) -> None:
        """Lets backward() fill .grad of this Tensor although it is not a leaf."""
        if self._edge is None:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        _fresh(self, "retain_grad")
        if type(self._edge) is tuple:
            node, index = self._edge
            node._watched = True
            if node._retained is None:
                node._retained = {}
            node._retained[index] = weakref.ref(self)

    @property
    def retains_grad(self) -> bool:
        """Whether retain_grad was called on this non-leaf."""
        if type(self._edge) is not tuple:
            return False
        node, index = self._edge
        return node._retained is not None and index in node._retained and node._retained[index]() is self

    def backward(
        self,
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

    @property
    def _version(self) -> int:
        """How often its memory was written in place."""
        if self._writes is None:
            raise RuntimeError("Inference tensors do not track version counter.")
        return self._writes[0]

    # As a Python object

    def __repr__(self) -> str:
        node = self.grad_fn
        return tensor_repr(self._data, grad_fn=None if node is None else node.name, requires_grad=self._edge is not None)

    def __len__(self) -> int:
        if self._data.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return len(self._data)

    def __iter__(self) -> Iterator[Tensor]:
        if self._data.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self._data)))

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any())

    def __getattr__(self, name: str) -> Any:  # reached only for names that are not there
        raise AttributeError(
            f"Tensor has no attribute {name!r}: tinygrad_norm keeps the part of torch that its layers, notebooks and documents use; "
            f"dir(Tensor) lists it"
        )

    def __copy__(self) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("a Tensor inside a graph cannot be copied by copy.copy: detach() or clone() it")
        out = type(self)(self._data.view(), self.requires_grad)
        out._writes = self._writes
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment: detach() or clone() it"
            )
        out = type(self)(self._data.copy(), self.requires_grad)
        out._grad = None if self._grad is None else self._grad.__deepcopy__(memo)
        memo[id(self)] = out
        return out

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if not self.is_leaf:
            raise RuntimeError("a Tensor inside a graph cannot be pickled: detach() it first")
        return type(self), (np.ascontiguousarray(self._data).reshape(self._data.shape), self.requires_grad)


class RemovableHandle:
    """What registering a hook gives: remove() takes the hook away, once or many times."""

    __slots__ = ("_hooks", "id")
    _ids: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, hooks: dict[int, Any], hook: Callable[..., Any]) -> None:
        if not callable(hook):
            raise TypeError(f"a hook must be callable; got {type(hook).__name__}")
        self._hooks = hooks
        self.id = next(self._ids)
        hooks[self.id] = hook

    def remove(self) -> None:
        """Takes the hook away."""
        self._hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


# -- 3. The Function: one op, and one node of the graph ---------------------------------------------------------------------------

Edge = Any  # where a value came from: None, a leaf Tensor, or (node, number of its output)
_UNWATCHED = [0, 0]  # the writes to what is no Tensor's memory: none
_clock = itertools.count(1)
_last_write = [0]  # when any Tensor was written last: what a younger node saved needs no closer look


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
    _places: Sequence[tuple[int | None, list[int]]] = ()  # of each saved array: input i, output ~i (a node never holds its outputs), or None;
    # and the writes to its memory
    _constant: Sequence[Array] = ()
    _recording = False
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
        if saved is not None and self.order > _last_write[0] and not self._recording:
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
        for array, (place, writes) in zip(self._saved, self._places):
            if writes[1] > self.order:
                raise RuntimeError(self._changed(array, place, f"is at version {writes[0]}, written since"))
            values.append(self._at_place(array, place, writes) if self._recording and array is not None else array)
        return tuple(values)

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
        arrays: list[Any] = []
        edges: list[Edge] = []
        writes: list[Any] = []  # to the memory of each
        enabled, recording = _mode.grad, False
        for a in args:
            if isinstance(a, Tensor):
                edge = None
                if enabled:
                    edge = a._edge
                    if edge is not None:
                        recording = True
                        if edge is LEAF:
                            edge = a
                    if a._base is not None:
                        _fresh(a, cls.name)
                edges.append(edge)
                writes.append(a._writes)
                arrays.append(a._data)
            else:
                edges.append(None)
                writes.append(_UNWATCHED)
                arrays.append(a)
        node.edges = edges
        results = cls.forward(node, *arrays, **params)
        if type(results) is tuple:
            outs = tuple([_wrap(array, cls, arrays, args) for array in results])
            if recording:
                node._record(outs, results, arrays, writes)
            return outs
        out = _wrap(results, cls, arrays, args)
        if recording:
            node._record((out,), (results,), arrays, writes)
        return out

    def _record(self, outs: Sequence[Tensor], results: Sequence[Any], arrays: list[Any], writes: list[Any]) -> None:
        """Gives the node its place in time, the results theirs on the graph, and notes which input or output each saved array is."""
        self.order = next(_clock)
        outputs: list[tuple[tuple[int, ...], Any]] = []
        for out in outs:
            kind = out._data.dtype
            if kind.kind == "f":
                out._edge = self, len(outputs)
            outputs.append((out._data.shape, kind))
        self.outputs = outputs
        if self._saved:
            self._places = places = []
            for array in self._saved:
                place: int | None = None
                written: Any = _UNWATCHED
                if array is not None:
                    i = 0
                    for mine in arrays:
                        if mine is array:
                            place, written = i, writes[i]
                            break
                        i += 1
                    else:
                        i = -1
                        for mine in results:
                            if mine is array:
                                place, written = i, outs[~i]._writes
                                break
                            i -= 1
                if written is None:
                    raise RuntimeError("Inference tensors cannot be saved for backward. To work around you can make a clone to get a normal tensor.")
                places.append((place, written))
        if self._constant:
            for result, out in zip(results, outs):
                if any(result is c for c in self._constant):
                    out._edge = None
            self._constant = ()


_new = object.__new__


def _tensor(array: Array) -> Tensor:
    """Tensor(array), for an array that is known to be one a Tensor can hold."""
    out = _new(Tensor)
    out._data = array
    out._edge = out._grad = out._base = out._hooks = None
    out._writes = None if _mode.inference else [0, 0]
    return out


def _wrap(array: Any, cls: type[Function], arrays: Sequence[Any], args: Sequence[Any]) -> Tensor:
    """An output as a Tensor; where it shares an input's memory, as a view of that."""
    owner = None
    if type(array) is np.ndarray and array.dtype in SUPPORTED:
        owner = array.base
        out = _tensor(array)
    elif isinstance(array, (np.ndarray, np.generic, float, int)):  # NumPy makes scalars of 0-d results
        out = Tensor(np.asarray(array))
    else:
        raise TypeError(f"{cls.__name__}.forward returned a {type(array).__name__}; expected an array or a tuple of arrays")
    if owner is None:
        for x in arrays:
            if x is array:  # forward handed an input on
                owner = array
    if owner is not None:
        for x, arg in zip(arrays, args):
            if isinstance(arg, Tensor) and (x is owner or x.base is owner):
                _mark_view(out, arg)
    return out


def _mark_view(out: Tensor, base: Tensor) -> None:
    """Lets a result that shares an input's memory share its count of writes, and remember where in the graph the whole stood."""
    if out._data is base._data:  # no two Tensors share one array object: saved inputs are told apart by identity
        out._data = out._data.view()
    whole = base if base._base is None else base._base[0]
    out._writes, out._base = base._writes, (whole, whole._edge)


def _fresh(view: Tensor, op: str) -> None:
    """RuntimeError for a view whose base was changed by a recorded op since: what it shows then has another place in the graph."""
    if view._base is None:
        return
    base, edge = view._base
    if base._edge is not edge and type(base._edge) is tuple:
        raise RuntimeError(
            f"a view of shape {list(view.shape)} was taken before its base was changed in place by a recorded op, so its place in the graph is "
            f"not known ({op}): take the view again after the change"
        )


class AccumulateGrad(Function):
    """The end of a path: stands for a leaf where a graph is shown."""

    name = "AccumulateGrad"

    def __init__(self, variable: Tensor) -> None:
        self.variable = variable


# -- 4. Writing in place -----------------------------------------------------------------------------------------------------------


def write_in_place(target: Tensor, compute: Callable[..., Tensor], *args: Any, **params: Any) -> Tensor:
    """target ← compute(target, *args), with what autograd must know of it.

    Outside of a graph only the memory and its version change. Inside, the Tensor moves on to the new node, which keeps a copy of the old
    value if it needs it; nodes that had saved the old value will say so when they are asked. A leaf that requires a gradient cannot be
    overwritten, nor a view of a graph's Tensor.
    """
    recorded = check_writable(target, *args)
    old = target
    if recorded:
        old = Tensor(target._data.copy())
        old._edge = target._edge
        args = tuple(old if a is target else a for a in args)
    out = compute(old, *args, **params)
    if out._data.shape != target._data.shape:
        raise RuntimeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(out.shape)}: an in-place op keeps its tensor's shape"
        )
    if out._data.dtype != target._data.dtype:
        if out.dtype.category > target.dtype.category:
            raise RuntimeError(f"result type {out.dtype} can't be cast to the desired output type {target.dtype}, which an in-place op keeps")
        out = out.to(target.dtype)
    target._data[...] = out._data
    touch(target)
    if recorded:
        before, kept = target._edge, target.retains_grad
        target._edge = out._edge
        if kept:  # the gradient it retains is that of its new value
            del before[0]._retained[before[1]]
            target.retain_grad()
    return target


def check_writable(target: Tensor, *args: Any) -> bool:
    """Whether a write to the target would be recorded; RuntimeError where it must not happen."""
    if not target._data.flags.writeable:
        raise RuntimeError(
            "unsupported operation: the tensor written to was expanded, so that several elements are one place in memory, or is over read-only "
            "memory: clone() it first"
        )
    if target._writes is None and not _mode.inference:
        raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed; clone() it first.")
    if not _mode.grad:
        return False
    recorded = target.requires_grad
    for a in args:
        recorded = recorded or (isinstance(a, Tensor) and a.requires_grad)
    if target._base is not None and (recorded or target._base[0].requires_grad):
        raise RuntimeError(
            "an in-place operation on a view of a tensor in a graph is not supported: write to the tensor itself, as in x[0] = y, or to a "
            "clone() of the view, or under no_grad()"
        )
    if target._edge is LEAF:
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation: write under no_grad(), or to a clone()")
    if recorded and target._data.dtype.kind != "f":
        raise RuntimeError(f"a {target.dtype} tensor cannot take a value that requires a gradient: make it floating point first")
    return recorded


def touch(*tensors: Tensor) -> None:
    """Counts one write to the memory of each."""
    now = _last_write[0] = next(_clock)
    for tensor in tensors:
        writes = tensor._writes
        if writes is not None:
            writes[0] += 1
            writes[1] = now


# -- 5. The walk -------------------------------------------------------------------------------------------------------------------

examiners: list[Callable[[Function, Any], None]] = []  # called with every node and what its backward returned: autograd.detect_anomaly


class _Spent(Function):
    """Stands where a once-differentiable op's gradient would have to be differentiated."""

    name = "Error"

    def __init__(self, op: Function, grads: Sequence[Tensor]) -> None:
        self.op = op.name
        self.order = next(_clock)
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
    heap: list[int] = []  # -order of the nodes that wait: the youngest comes first
    waiting: dict[int, list[Any]] = {}  # by -order: the node, and the gradient of each of its outputs
    leaves: dict[Tensor, Any] = {}  # the gradient of each; as an array, one that nothing else holds
    captured: dict[Any, Any] = {}

    results: Sequence[Any] = [_root_gradient(i, root, g, create_graph) for i, (root, g) in enumerate(zip(roots, gradients))]
    edges: Sequence[Edge] = [_edge_to(root) for root in roots]
    node, fresh = None, False
    plain = not create_graph and not examiners
    wanted: set[Any] | None = None
    if inputs is not None:
        _check_inputs(inputs, "backward" if accumulate else "grad")
        for t in inputs:
            _fresh(t, "backward")
            if accumulate:
                t.retain_grad()
        wanted = {_edge_to(t) for t in inputs}
        needed = _nodes_towards(wanted, edges)

    before, _mode.grad = _mode.grad, create_graph
    try:
        with np.errstate(all="ignore"):  # infinity and NaN are answers, as in torch
            while True:
                for edge, g in zip(edges, results):
                    if edge is None or g is None or (wanted is not None and edge not in wanted and _node(edge) not in needed):
                        continue
                    if type(edge) is tuple:
                        source, index = edge
                        shape, kind = source.outputs[index]
                        if type(g) is not np.ndarray or g.shape != shape or g.dtype is not kind:
                            g = _fit(node, results, g, shape, kind, create_graph)
                        key = -source.order
                        entry = waiting.get(key)
                        if entry is None:
                            entry = waiting[key] = [source] + [None] * len(source.outputs)
                            heappush(heap, key)
                        arrived = entry[index + 1]
                        entry[index + 1] = g if arrived is None else _plus(arrived, g)
                    else:
                        data = edge._data
                        if type(g) is not np.ndarray or g.shape != data.shape or g.dtype is not data.dtype:
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
                    captured.update(((node, i), g) for i, g in enumerate(entry[1:]) if (node, i) in wanted)
                    if node not in needed:
                        continue
                if len(entry) > 2:
                    entry[1:] = [_zeros(meta, create_graph) if g is None else g for g, meta in zip(entry[1:], node.outputs)]
                results = type(node).backward(*entry) if plain else _examined_backward(node, entry, create_graph)
                if type(results) is not tuple:
                    results = tuple(results) if type(results) is list else (results,)
                if not retain_graph and node._saved:
                    node._saved = None
                fresh = node.fresh_gradients
                if len(results) != len(edges):
                    raise RuntimeError(
                        f"{node.name}: backward returned {len(results)} gradients; expected {len(edges)}, one for each input of forward "
                        "(None where there is none)"
                    )
            for leaf in leaves:
                if leaf._hooks:
                    g = _run_hooks(leaf._hooks, leaves[leaf], create_graph)
                    leaves[leaf] = g if create_graph else np.array(g, order="C")
            if accumulate:
                for leaf, g in leaves.items():
                    if leaf._edge is None:
                        continue  # it was told meanwhile to want none
                    if leaf._grad is None and not create_graph:
                        leaf._grad = _tensor(g)
                    else:
                        _accumulate(leaf, g)
    finally:
        _mode.grad = before
    if accumulate or inputs is None:
        return []
    found = [leaves.get(t) if t._edge is LEAF else captured.get(t._edge) for t in inputs]
    return [g if g is None or isinstance(g, Tensor) else Tensor(np.array(g)) for g in found]


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
    _fresh(root, "backward")
    if root._edge is None:
        raise RuntimeError(f"element {i} of tensors does not require grad and does not have a grad_fn")
    if gradient is None:
        if root._data.size == 1 and not create_graph:
            return np.ones(root._data.shape, root._data.dtype) if root._data.ndim else np.array(1, root._data.dtype)
        if root._data.size != 1:
            raise RuntimeError(
                f"grad can be implicitly created only for scalar outputs; this one has shape {list(root.shape)}: "
                "give backward() a gradient of that shape, or reduce it first"
            )
        gradient = Tensor(np.ones(root._data.shape, root._data.dtype))
    elif not isinstance(gradient, Tensor):
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


def _examined_backward(node: Function, entry: list[Any], create_graph: bool) -> Any:
    """node.backward, recorded under create_graph, and whoever asked to see what it returns."""
    results = _recorded_backward(node, entry[1:]) if create_graph else type(node).backward(*entry)
    for examine in examiners:
        examine(node, results)
    return results


def _recorded_backward(node: Function, grads: list[Any]) -> Any:
    """node.backward on Tensors, recorded; a once-differentiable one on arrays, and its results lead to an error."""
    if not node.once_differentiable:
        node._recording = True
        try:
            return type(node).backward(node, *grads)
        finally:
            node._recording = False
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
            if not isinstance(answer, Tensor) or answer._data.shape != grad._data.shape:
                came = f"shape {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
                raise RuntimeError(f"a hook must return None or a gradient of shape {list(grad.shape)}; got {came}")
            grad = answer
    return grad if create_graph else grad._data


def _node_hooks(entry: list[Any], create_graph: bool) -> None:
    """Runs what waits for the gradients of a node's outputs, which stand in `entry` after the node."""
    node = entry[0]
    for i, hooks in (node._hooks or {}).items():
        if hooks and entry[i + 1] is not None:
            entry[i + 1] = _run_hooks(hooks, entry[i + 1], create_graph)
    for i, reference in (node._retained or {}).items():
        tensor = reference()
        if tensor is not None and entry[i + 1] is not None:
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
