"""The whole engine in one sitting: Tensor, Function, and the walk that carries gradients back.

A Tensor is a NumPy array and, where a gradient is wanted, an edge to the Function instance (the *node*) that made it. A node keeps

    edges      where each of its inputs came from: another node and the number of its output, a leaf Tensor, or None
    saved      the arrays that its backward will read, each with the version it had
    order      when it was created: later than everything it depends on

and never its own outputs, so a graph has no reference cycle and is gone when the last name of its result is. Creation order is a
topological order: taking the youngest node first, every consumer of a value has spoken before the value's own node is asked. That is
the whole of reverse-mode differentiation (`run_backward`): a priority queue, and one sum per value.

A Function is written once, with operators, and serves every order of derivative: its ``forward`` takes arrays; its ``backward`` takes
arrays while the result is only a number, and Tensors under ``create_graph``, where what it computes is recorded in turn.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from . import dtype as dtypes
from .dtype import Size, dtype
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

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        return super().__new__(cls) if function is None else cls()(function)  # @no_grad is @no_grad()

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
        self._before.append((_mode.grad, _mode.inference))
        _mode.grad = bool(mode)

    def __enter__(self) -> None:
        _mode.grad = self._wanted[0]

    def __call__(self, function: F) -> F:
        self.__exit__()  # a decorated function is told when it is called, not where it is defined
        return super().__call__(function)


class inference_mode(_GradMode):  # noqa: N801
    """Like no_grad, and the Tensors made inside can never take part in a graph: they carry no version counter."""

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode and _mode.grad, mode)


def is_grad_enabled() -> bool:
    """Whether ops are being recorded in this thread."""
    return _mode.grad


# -- 2. The Tensor ---------------------------------------------------------------------------------------------------------------


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

    # What a new Tensor has. It sets only what differs: most of them live for microseconds, and making one is a good part of a small op.
    _requires_grad = False
    _edge: tuple[Function, int] | None = None  # the node that made it, and which of its outputs it is
    _grad: Tensor | None = None
    _base: tuple[Tensor, int] | None = None  # a view's base, and the count of recorded writes when it was taken
    _hooks: dict[int, Callable[[Tensor], Tensor | None]] | None = None
    __array_priority__ = 1000  # ndarray + Tensor asks Tensor.__radd__
    __hash__ = object.__hash__  # == compares elements, so identity must be said

    def __init__(self, data: Array, requires_grad: bool = False) -> None:
        if type(data) is not np.ndarray:
            raise TypeError(f"Tensor(...) wraps a NumPy array as it is; got {type(data).__name__}: use tensor(...) for lists, numbers and copies")
        self._data = data
        # Shared by all views of one memory: how often it was written, and how often that was recorded. Inference tensors have none.
        self._counter: list[int] | None = None if _mode.inference else [0, 0]
        if requires_grad:
            self._requires_grad = True

    # What it holds

    @property
    def shape(self) -> Size:
        """The lengths of its axes."""
        return Size(self._data.shape)

    @property
    def dtype(self) -> dtype:
        """The type of its elements."""
        return dtypes.from_numpy_dtype(self._data.dtype)

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
        if self._requires_grad and value._data.dtype.kind != "f":
            raise RuntimeError(f"data set to a tensor that requires gradients must be floating point; got {value.dtype}")
        self._data = value._data.view()

    def detach(self) -> Tensor:
        """The same memory as a Tensor that is part of no graph; writes to either are noticed by both."""
        out = Tensor(self._data.view())  # a view object of its own: the tape tells saved inputs apart by identity
        out._counter = self._counter
        return out

    def detach_(self) -> Tensor:
        """Takes this Tensor out of its graph: it becomes a leaf that requires no gradient."""
        if self._base is not None:
            raise RuntimeError("Can't detach views in-place; use detach() instead")
        self._edge, self._requires_grad = None, False
        return self

    def numpy(self) -> Array:
        """Its memory as a NumPy array, shared; RuntimeError where a gradient would be lost."""
        if self._requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        return self._data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self.numpy()
        if dtype is not None and array.dtype != np.dtype(dtype):
            if copy is False:
                raise ValueError(f"a {array.dtype} tensor cannot become {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    # Its place in the graph

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are carried to it."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self._edge is not None and not value:
            raise RuntimeError("you can only change requires_grad flags of leaf variables. Use detach() to leave the graph.")
        if value and self._data.dtype.kind != "f":
            raise RuntimeError(f"only Tensors of floating point dtype can require gradients; got {self.dtype}")
        if value and self._counter is None:
            raise RuntimeError("Setting requires_grad=True on inference tensor outside InferenceMode is not allowed; clone() it first.")
        self._requires_grad = bool(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Sets requires_grad and returns itself."""
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made it: parameters, inputs, and all that requires no gradient."""
        return self._edge is None

    @property
    def grad_fn(self) -> Function | None:
        """The node that made it, None for a leaf."""
        return None if self._edge is None else self._edge[0]

    @property
    def grad(self) -> Tensor | None:
        """Where backward() has added its gradient; None before, and after `zero_grad`."""
        if self._grad is None and self._edge is not None and not self.retains_grad:
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
        if not self._requires_grad:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if self._edge is None:
            if self._hooks is None:
                self._hooks = {}
            return RemovableHandle(self._hooks, hook)
        node, index = self._edge
        return RemovableHandle(node.hooks.setdefault(index, {}), hook)

    def retain_grad(self) -> None:
        """Lets backward() fill .grad of this Tensor although it is not a leaf."""
        if not self._requires_grad:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self._edge is not None:
            node, index = self._edge
            node.retained[index] = weakref.ref(self)

    @property
    def retains_grad(self) -> bool:
        """Whether retain_grad was called on this non-leaf."""
        if self._edge is None:
            return False
        found = self._edge[0].retained.get(self._edge[1])
        return found is not None and found() is self

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
        if only is not None and not only:
            raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
        run_backward([self], [gradient], create_graph if retain_graph is None else retain_graph, create_graph, only, accumulate=True)

    @property
    def _version(self) -> int:
        """How often its memory was written in place."""
        if self._counter is None:
            raise RuntimeError("Inference tensors do not track version counter.")
        return self._counter[0]

    # As a Python object

    def __repr__(self) -> str:
        name = None if self._edge is None else self._edge[0].name
        return tensor_repr(self._data, grad_fn=name, requires_grad=self._requires_grad)

    def __len__(self) -> int:
        if self._data.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return len(self._data)

    def __iter__(self) -> Iterator[Tensor]:
        if self._data.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self._data)))

    def __getattr__(self, name: str) -> Any:  # reached only for names that are not there
        raise AttributeError(
            f"Tensor has no attribute {name!r}: tinygrad_norm keeps the part of torch that its layers, notebooks and documents use; "
            f"dir(Tensor) lists it"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._edge is not None:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment: detach() or clone() it"
            )
        out = type(self)(self._data.copy(), self._requires_grad)
        out._grad = None if self._grad is None else self._grad.__deepcopy__(memo)
        memo[id(self)] = out
        return out

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if self._edge is not None:
            raise RuntimeError("a Tensor inside a graph cannot be pickled: detach() it first")
        return type(self), (np.ascontiguousarray(self._data).reshape(self._data.shape), self._requires_grad)


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

Edge = Any  # None, (leaf,), or (node, number of its output); for a saved output its number alone
_FREED: tuple[Any, ...] = ()
_NOTHING_SAVED: tuple[Any, ...] = ((), ())
_orders = itertools.count()


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
    is_view: ClassVar[bool] = False  # its output may share the memory of its first input
    fresh_gradients: ClassVar[bool] = False  # backward returns arrays that nothing else holds: a leaf may keep them uncopied
    name: str

    edges: Sequence[Edge] = ()  # where each positional argument of apply came from, None where no gradient will be asked for
    needs_input_grad: Sequence[Any] = ()  # the same list, under torch's name for its truth values
    outputs: Sequence[tuple[tuple[int, ...], Any]] = ()  # shape and element type of each output
    order: int = -1
    _to_save: Sequence[Array | None] = ()
    _saved: Any = _NOTHING_SAVED  # the arrays, and for each its edge, its memory's counter and the count it had; or _FREED
    _recording = False
    _watched = False  # whether hooks or Tensors that retain their gradient wait for an output

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
        """Keeps inputs, outputs or intermediate arrays for backward, which gets them from `saved_tensors`."""
        self._to_save = arrays

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What `save_for_backward` was given: arrays, or under create_graph Tensors at their place in the graph."""
        if self._saved is _FREED:
            raise RuntimeError(
                "Trying to backward through the graph a second time (or directly access saved tensors after they have already been freed). "
                f"Saved intermediate values of the graph ({self.name}) are freed when you call .backward() or autograd.grad(). Specify "
                "retain_graph=True if you need to backward through the graph a second time or if you need to access saved tensors after "
                "calling backward."
            )
        arrays, places = self._saved
        for array, (edge, counter, version) in zip(arrays, places):
            if counter[0] != version:
                which = "its own output" if type(edge) is int else f"the output of {edge[0].name}" if edge and len(edge) == 2 else "an input"
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"[{array.dtype} tensor {list(array.shape)}], {which}, saved by {self.name}, is at version {counter[0]}; expected version "
                    f"{version} instead. Change a clone(), or change it before it is used."
                )
        if not self._recording:
            return arrays
        return tuple(
            _at_edge(array, (self, edge) if type(edge) is int else edge, counter) if isinstance(array, np.ndarray) else array
            for array, (edge, counter, _) in zip(arrays, places)
        )

    @property
    def next_functions(self) -> tuple[tuple[Function | None, int], ...]:
        """The nodes that its inputs came from, with the number of the output; a leaf stands as an `AccumulateGrad`."""
        return tuple((None, 0) if e is None else e if len(e) == 2 else (AccumulateGrad(e[0]), 0) for e in self.edges)

    @property
    def hooks(self) -> dict[int, dict[int, Callable[[Tensor], Tensor | None]]]:
        """Hooks by the number of the output they wait for."""
        self._watched = True
        return self.__dict__.setdefault("_hooks", {})  # type: ignore[no-any-return]

    @property
    def retained(self) -> dict[int, weakref.ref[Tensor]]:
        """The Tensors, by number of the output, that asked to retain their gradient."""
        self._watched = True
        return self.__dict__.setdefault("_retained", {})  # type: ignore[no-any-return]

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
        recording, enabled = False, _mode.grad
        for a in args:
            edge = None
            if isinstance(a, Tensor):
                arrays.append(a._data)
                if a._base is not None:
                    _check_view(a, cls)
                if enabled and a._requires_grad:
                    recording = True
                    edge = a._edge or (a,)
            else:
                arrays.append(a)
            edges.append(edge)
        node.edges = node.needs_input_grad = edges
        result = cls.forward(node, *arrays, **params)
        if type(result) is tuple:
            return node._record_all(result, recording, arrays, args)
        out = Tensor(result if type(result) is np.ndarray else np.asarray(result))  # NumPy makes scalars of 0-d results
        if cls.is_view:
            _mark_view(out, args[0])
        if recording:
            array = out._data
            node.order = next(_orders)
            node.outputs = ((array.shape, array.dtype),)
            out._edge = (node, 0)
            out._requires_grad = True
            if node._to_save:
                node._pack(arrays, args, (out,))
        return out

    def _record_all(self, results: tuple[Any, ...], recording: bool, arrays: list[Any], args: Sequence[Any]) -> tuple[Tensor, ...]:
        """The Tensors of several outputs, recorded where they are floating point."""
        outs = tuple(Tensor(np.asarray(r)) for r in results)
        if recording:
            self.order = next(_orders)
            self.outputs = tuple((out._data.shape, out._data.dtype) for out in outs)
            for i, out in enumerate(outs):
                if out._data.dtype.kind == "f":
                    out._edge, out._requires_grad = (self, i), True
            if self._to_save:
                self._pack(arrays, args, outs)
        return outs

    def _pack(self, arrays: list[Any], args: Sequence[Any], outs: Sequence[Tensor]) -> None:
        """Keeps each value to save with its place in the graph and the count of its memory's writes."""
        places = []
        for array in self._to_save:
            edge, counter = None, _NO_COUNTER
            if array is not None:
                i = 0
                for mine in arrays:
                    if mine is array:
                        edge, counter = self.edges[i], getattr(args[i], "_counter", _NO_COUNTER)
                        break
                    i += 1
                else:
                    for i, out in enumerate(outs):
                        if out._data is array:
                            edge, counter = i, out._counter  # only the number: a node never holds itself
                if counter is None:
                    raise RuntimeError("Inference tensors cannot be saved for backward. To work around you can make a clone to get a normal tensor.")
            places.append((edge, counter, counter[0]))
        self._saved = self._to_save, places
        self._to_save = ()


def _check_view(view: Tensor, op: type[Function]) -> None:
    if view._counter is not None and view._base is not None and view._base[1] != view._counter[1]:
        raise RuntimeError(_STALE_VIEW.format(list(view.shape), op.name))


_STALE_VIEW = (
    "a view of shape {0} was taken before its base was changed in place by a recorded op, so its place in the graph is not known ({1}): "
    "take the view again after the change"
)


class AccumulateGrad(Function):
    """The end of a path: stands for a leaf where a graph is shown."""

    name = "AccumulateGrad"

    def __init__(self, variable: Tensor) -> None:
        self.variable = variable


_NO_COUNTER = [0, 0]  # of arrays that no Tensor has


def _at_edge(array: Array, edge: Edge, counter: Any) -> Tensor:
    """The Tensor that has this value and this place in the graph."""
    if edge is not None and len(edge) == 1:
        return edge[0]  # type: ignore[no-any-return]
    out = Tensor(array)
    out._edge = edge
    out._requires_grad = edge is not None
    if counter is not None:
        out._counter = counter
    return out


def _mark_view(out: Tensor, base: Tensor) -> None:
    """Lets a view share its base's counter; a result that was copied after all is left alone."""
    array, source = out._data, base._data
    if array is source:  # no two Tensors share one array object: see `detach`
        out._data = array = source.view()
    if array.base is None or not (array.base is source or array.base is source.base):
        return
    out._counter = base._counter
    out._base = (base if base._base is None else base._base[0], 0 if base._counter is None else base._counter[1])


# -- 4. Writing in place -----------------------------------------------------------------------------------------------------------


def write_in_place(target: Tensor, op: type[Function], *args: Any, **params: Any) -> Tensor:
    """target ← op(target, *args), with what autograd must know of it.

    Outside of a graph only the memory and its version change. Inside, the Tensor moves on to the new node; nodes that had saved the
    old value will say so when they are asked. A leaf that requires a gradient cannot be overwritten, nor a view of a graph's Tensor.
    """
    recorded = _mode.grad and (target._requires_grad or any(isinstance(a, Tensor) and a._requires_grad for a in args))
    if recorded:
        if target._edge is None and target._requires_grad:
            raise RuntimeError("a leaf Variable that requires grad is being used in an in-place operation: write under no_grad(), or to a clone()")
        if target._base is not None:
            raise RuntimeError(
                "an in-place operation on a view cannot be recorded: write to the tensor itself, as in x[0] = y, or to a clone() of the view"
            )
        if target._data.dtype.kind != "f":
            raise RuntimeError(f"a {target.dtype} tensor cannot take a value that requires a gradient: make it floating point first")
    if target._counter is None and not _mode.inference:
        raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed; clone() it first.")
    out = op.apply(target, *args, **params)
    if out._data.shape != target._data.shape:
        raise RuntimeError(
            f"output with shape {list(target.shape)} doesn't match the broadcast shape {list(out.shape)}: an in-place op keeps its tensor's shape"
        )
    if not np.can_cast(out._data.dtype, target._data.dtype, "same_kind"):
        raise RuntimeError(f"result type {out.dtype} can't be cast to the desired output type {target.dtype}")
    target._data[...] = out._data
    touch(target, recorded)
    if recorded:
        target._edge, target._requires_grad = out._edge, True
    return target


def touch(tensor: Tensor, recorded: bool = False) -> None:
    """Counts one write to the tensor's memory."""
    if tensor._counter is not None:
        tensor._counter[0] += 1
        tensor._counter[1] += recorded


# -- 5. The walk -------------------------------------------------------------------------------------------------------------------


class _Spent(Function):
    """Stands where a once-differentiable op's gradient would have to be differentiated."""

    name = "Error"

    def __init__(self, op: str) -> None:
        self.op = op

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
    arrays on the way, Tensors under create_graph. Nothing reaches a .grad before the whole walk has succeeded.
    """
    heap: list[int] = []
    waiting: dict[int, list[Any]] = {}  # by -order: the node, then one slot per output
    leaves: dict[int, list[Any]] = {}  # by id: the leaf, its gradient, whether that array is the leaf's to keep

    for root, gradient in zip(roots, gradients):
        g = _root_gradient(root, gradient, create_graph)
        if root._edge is None:
            slot = leaves.setdefault(id(root), [root, None, False])
            slot[1], slot[2] = g if slot[1] is None else slot[1] + g, slot[1] is not None
        else:
            node, index = root._edge
            slots = waiting.get(-node.order)
            if slots is None:
                slots = waiting[-node.order] = [node] + [None] * len(node.outputs)
                heapq.heappush(heap, -node.order)
            slots[index + 1] = g if slots[index + 1] is None else slots[index + 1] + g
    wanted = None if inputs is None else {((id(t._edge[0]), t._edge[1]) if t._edge else id(t)): t for t in inputs}
    needed = None if wanted is None else _nodes_towards(wanted, roots)
    captured: dict[Any, Any] = {}

    recording, _mode.grad = _mode.grad, create_graph
    try:
        while heap:
            node, *grads = waiting.pop(heapq.heappop(heap))
            if node._watched:
                _node_hooks(node, grads, create_graph)
            if wanted is not None:
                for i in range(len(grads)):
                    if (id(node), i) in wanted:
                        captured[(id(node), i)] = grads[i]
                if node not in needed:  # type: ignore[operator]
                    continue
            if len(grads) > 1 and any(g is None for g in grads):
                grads = [g if g is not None else _zeros(meta, create_graph) for g, meta in zip(grads, node.outputs)]
            results = _recorded_backward(node, grads) if create_graph else node.__class__.backward(node, *grads)
            if type(results) is not tuple:
                results = (results,)
            if not retain_graph and node._saved is not _NOTHING_SAVED:
                node._saved = _FREED
            edges = node.edges
            if len(results) != len(edges):
                raise RuntimeError(
                    f"{node.name}: backward returned {len(results)} gradients; expected {len(edges)}, one for each input of forward "
                    "(None where there is none)"
                )
            i = 0
            for g in results:
                edge = edges[i]
                i += 1
                if edge is None or g is None:
                    continue
                if len(edge) == 1:  # a leaf
                    leaf = edge[0]
                    array = leaf._data
                    if g.shape != array.shape or g.dtype is not array.dtype:
                        g = _fit(node, i - 1, g, array.shape, array.dtype)
                    slot = leaves.get(id(leaf))
                    if slot is None:
                        leaves[id(leaf)] = [leaf, g, node.fresh_gradients]
                    else:
                        slot[1], slot[2] = slot[1] + g, True
                else:
                    source, index = edge
                    shape, kind = source.outputs[index]
                    if g.shape != shape or g.dtype is not kind:
                        g = _fit(node, i - 1, g, shape, kind)
                    key = -source.order
                    slots = waiting.get(key)
                    if slots is None:
                        slots = waiting[key] = [source] + [None] * len(source.outputs)
                        heapq.heappush(heap, key)
                    before = slots[index + 1]
                    slots[index + 1] = g if before is None else before + g
        for leaf, g, fresh in leaves.values():
            if leaf._hooks:
                g = _run_hooks(leaf._hooks, g, create_graph)
                fresh = False
            if wanted is not None:
                captured[id(leaf)] = g
            elif fresh and leaf._grad is None and not create_graph:
                leaf._grad = Tensor(g)
            else:
                _accumulate(leaf, g)
        if wanted is None:
            return []
        found = [captured.get((id(t._edge[0]), t._edge[1]) if t._edge else id(t)) for t in inputs or ()]
        if accumulate:
            for t, g in zip(inputs or (), found):
                if g is not None:
                    _accumulate(t, g)
            return []
    finally:
        _mode.grad = recording
    return [None if g is None else g if isinstance(g, Tensor) else Tensor(np.array(g)) for g in found]


def _root_gradient(root: Tensor, gradient: Tensor | None, create_graph: bool) -> Any:
    if not root._requires_grad:
        raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
    if gradient is None:
        if root._data.size != 1:
            raise RuntimeError(
                f"grad can be implicitly created only for scalar outputs; this one has shape {list(root.shape)}: "
                "give backward() a gradient of that shape, or reduce it first"
            )
        one = np.ones(root._data.shape, root._data.dtype)
        return Tensor(one) if create_graph else one
    if not isinstance(gradient, Tensor):
        raise TypeError(f"gradients can be either Tensors or None, but got {type(gradient).__name__}")
    if gradient._data.shape != root._data.shape:
        raise RuntimeError(
            f"Mismatch in shape: grad_output has a shape of {gradient.shape} and output has a shape of {root.shape}: they must be the same"
        )
    if gradient._data.dtype != root._data.dtype:
        if gradient._data.dtype.kind != "f":
            raise RuntimeError(f"a gradient must be floating point; got {gradient.dtype} for an output of {root.dtype}")
        return gradient.to(root.dtype) if create_graph else gradient._data.astype(root._data.dtype)
    return gradient if create_graph else gradient._data


def _nodes_towards(wanted: dict[Any, Tensor], roots: Sequence[Tensor]) -> set[Function]:
    """The nodes whose backward must run so that gradients reach `wanted`: the others are left as they are, with what they saved."""
    above: dict[Function, list[Function]] = {}  # a node's consumers within the graph of the roots
    stack = [root._edge[0] for root in roots if root._edge]
    seen = set(stack)
    needed: set[Function] = set()
    while stack:
        node = stack.pop()
        if isinstance(node, _Spent):
            needed.add(node)  # what lies beyond is lost: it must say so, not be passed over
        for edge in node.edges:
            if edge is None:
                continue
            if len(edge) == 2:
                above.setdefault(edge[0], []).append(node)
                if (id(edge[0]), edge[1]) in wanted:
                    needed.add(node)
                if edge[0] not in seen:
                    seen.add(edge[0])
                    stack.append(edge[0])
            elif id(edge[0]) in wanted:
                needed.add(node)
    stack = list(needed)
    while stack:
        for consumer in above.get(stack.pop(), ()):
            if consumer not in needed:
                needed.add(consumer)
                stack.append(consumer)
    return needed


def _recorded_backward(node: Function, grads: list[Any]) -> Any:
    """node.backward on Tensors; a once-differentiable one on arrays, its results leading to an error if they are differentiated."""
    if not node.once_differentiable:
        node._recording = True
        try:
            return type(node).backward(node, *grads)
        finally:
            node._recording = False
    results = type(node).backward(node, *(g._data for g in grads))
    spent = _Spent(node.name)
    spent.order = next(_orders)
    made = []
    for r in results if type(results) is tuple else (results,):
        out = None if r is None else Tensor(np.asarray(r))
        if out is not None:
            spent.outputs = [*spent.outputs, (out._data.shape, out._data.dtype)]
            out._edge, out._requires_grad = (spent, len(spent.outputs) - 1), True
        made.append(out)
    return tuple(made)


def _zeros(meta: tuple[tuple[int, ...], Any], create_graph: bool) -> Any:
    zeros = np.zeros(meta[0], meta[1])
    return Tensor(zeros) if create_graph else zeros


def _fit(node: Function, i: int, g: Any, shape: tuple[int, ...], kind: Any) -> Any:
    """The gradient in its input's element type; a wrong shape is a mistake of the op and is never summed away."""
    if isinstance(g, Tensor):
        return g.to(dtypes.from_numpy_dtype(kind)) if g._data.shape == shape else _wrong_shape(node, i, g._data.shape, shape)
    if not isinstance(g, np.ndarray):
        if not isinstance(g, (np.generic, float, int)):
            raise TypeError(f"{node.name}: backward returned a {type(g).__name__} for input {i}; expected an array, a Tensor or None")
        g = np.asarray(g)
    if g.shape != shape:
        _wrong_shape(node, i, g.shape, shape)
    return g.astype(kind, copy=False)


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


def _node_hooks(node: Function, grads: list[Any], create_graph: bool) -> None:
    for i, hooks in node.hooks.items():
        if hooks and grads[i] is not None:
            grads[i] = _run_hooks(hooks, grads[i], create_graph)
    for i, reference in node.retained.items():
        tensor = reference()
        if tensor is not None and grads[i] is not None:
            _accumulate(tensor, grads[i])


def _accumulate(tensor: Tensor, g: Any) -> None:
    """tensor.grad += g, in the tensor's own memory unless the sum itself is recorded."""
    before = tensor._grad
    if isinstance(g, Tensor):
        tensor._grad = g.clone() if before is None else before + g  # a clone: what backward() was given may be the caller's own
    elif before is None:
        tensor._grad = Tensor(np.array(g, order="C"))
    else:
        before._data[...] = before._data + g
        touch(before)


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
    outs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    ins = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    given = [grad_outputs] if grad_outputs is None or isinstance(grad_outputs, Tensor) else list(grad_outputs)
    if grad_outputs is None:
        given = [None] * len(outs)
    if len(given) != len(outs):
        raise RuntimeError(f"got {len(outs)} tensors and {len(given)} gradients: one gradient for each output")
    if not ins:
        raise ValueError("grad requires non-empty inputs.")
    if materialize_grads and allow_unused is False:
        raise ValueError("Expected allow_unused to be True or not passed when materialize_grads=True, but got: allow_unused=False.")
    for i, t in enumerate(ins):
        if not isinstance(t, Tensor):
            raise TypeError(f"inputs must be Tensors; number {i} is a {type(t).__name__}")
        if not t._requires_grad:
            raise RuntimeError(f"One of the differentiated Tensors does not require grad: inputs[{i}], of shape {list(t.shape)}")
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
