"""The Tensor: a NumPy array that can remember how it was computed.

The engine is three files, to be read in this order:

    tensor.py      what a Tensor holds and where it stands in the graph; views, and writing in place
    function.py    one op, and one node of the graph
    walk.py        the walk that carries gradients back

A Tensor is an array and, where a gradient is wanted, an *edge*: LEAF for one that the user made, or the node that made it and the number
of that node's output. Nothing leads from a node to its own outputs, so a graph has no reference cycle and is gone when the last name of its
result is.

Every write in place is dated by the clock that nodes are dated by. A node that saved an array finds out by comparing two numbers whether
the array was written since.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .dtype import SUPPORTED, Size, dtype, from_numpy_dtype
from .grad_mode import inferring, mode
from .printing import tensor_repr

if TYPE_CHECKING:
    from .function import Function
    from .methods import TensorMethods
else:
    TensorMethods = object

__all__ = ["Tensor"]

Array = np.ndarray[Any, Any]
Edge = Any  # where a value came from: None, a leaf Tensor, or (node, number of its output)
clock = itertools.count(1)
last_write = [0]  # when any Tensor was written last: what a younger node saved needs no closer look

# -- 1. The Tensor ---------------------------------------------------------------------------------------------------------------

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

    # No __getattr__, not even for a kinder error: with one, Python looks for all attributes of all Tensors the long way, a tenth of a small step.
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
        self._writes: list[int] | None = None if mode.inference else [0, 0]  # how often its memory was written, and when last; views share it
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
        shared: Array = self._data.view()  # an array object of its own: its shape may be set
        return shared

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
        check_view(self, "register_hook")
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
        check_view(self, "retain_grad")
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
        if not isinstance(element, (Tensor, bool, int, float, np.generic)):
            raise RuntimeError(f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a {type(element)}.")
        return bool((self == element).any())

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
        out = type(self)(self._data.copy(order="K"), self.requires_grad)
        out._grad = None if self._grad is None else self._grad.__deepcopy__(memo)
        memo[id(self)] = out
        return out

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if not self.is_leaf:
            raise RuntimeError("a Tensor inside a graph cannot be pickled: detach() it first")
        return type(self), (np.ascontiguousarray(self._data).reshape(self._data.shape), self.requires_grad)


_new = object.__new__


def new_tensor(array: Array) -> Tensor:
    """Tensor(array), for an array that is known to be one a Tensor can hold."""
    out = _new(Tensor)
    out._data = array
    out._edge = out._grad = out._base = out._hooks = None
    out._writes = None if inferring and mode.inference else [0, 0]
    return out


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


# -- 2. Views ---------------------------------------------------------------------------------------------------------------------

def mark_view(out: Tensor, base: Tensor) -> None:
    """Lets a result that shares an input's memory share its count of writes, and remember where in the graph the whole stood."""
    if out._data is base._data:  # no two Tensors share one array object: saved inputs are told apart by identity
        out._data = out._data.view()
    whole = base if base._base is None else base._base[0]
    out._writes, out._base = base._writes, (whole, whole._edge)


def check_view(view: Tensor, op: str) -> None:
    """RuntimeError for a view whose base was changed by a recorded op since: what it shows then has another place in the graph."""
    if view._base is None:
        return
    base, edge = view._base
    if base._edge is not edge and type(base._edge) is tuple:
        raise RuntimeError(
            f"a view of shape {list(view.shape)} was taken before its base was changed in place by a recorded op, so its place in the graph is "
            f"not known ({op}): take the view again after the change"
        )


# -- 3. Writing in place ----------------------------------------------------------------------------------------------------------

def write_in_place(target: Tensor, compute: Callable[..., Tensor], *args: Any, **params: Any) -> Tensor:
    """target ← compute(target, *args), with what autograd must know of it.

    Outside of a graph only the memory and its version change. Inside, the Tensor moves on to the new node, which keeps a copy of the old
    value if it needs it; nodes that had saved the old value will say so when they are asked. A leaf that requires a gradient cannot be
    overwritten, nor a view of a graph's Tensor.
    """
    recorded = check_writable(target, *args)
    old = target
    if recorded:
        old = Tensor(target._data.copy(order="K"))  # random numbers are drawn in the order of the memory
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
    if target._writes is None and not mode.inference:
        raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed; clone() it first.")
    if not mode.grad:
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
    now = last_write[0] = next(clock)
    for tensor in tensors:
        writes = tensor._writes
        if writes is not None:
            writes[0] += 1
            writes[1] = now
