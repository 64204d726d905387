"""What is being checked: a function, its inputs of any structure, and the state around it that a check must leave as it was.

    Named(name, tensor)           an input, a parameter or an output, with the name that messages call it by
    named_tensors(value, name)    walks tuples, lists, dicts and dataclasses: x, x[0], x['key'], x.field
    own_stream, upstream_like     the random numbers of all checks
    Target                        calls the function; finds the modules that it uses; snapshots and restores their buffers
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import random as stream
from ..function import Function
from ..grad_mode import enable_grad
from ..nn.module import Module
from ..tensor import Tensor

__all__ = ["FAILURES", "Array", "GradcheckError", "Gradients", "Named", "Snapshot", "Target", "named_tensors", "own_stream", "plural", "upstream_like"]

Array = np.ndarray[Any, Any]
FAILURES = (RuntimeError, TypeError, ValueError, AttributeError, IndexError)  # what a function or backward that is wrong may raise


class GradcheckError(RuntimeError):
    """A gradient that does not hold, or a function that cannot be checked; torch.autograd.gradcheck has the same name."""


class Named(NamedTuple):
    """A Tensor and what to call it."""

    name: str
    tensor: Tensor

    def __str__(self) -> str:
        return f"{self.name} {tuple(self.tensor.shape)}"


class Gradients(dict[str, Tensor]):
    """Outputs that have names of their own: dx, not output['dx']."""


def plural(count: int, noun: str) -> str:
    """1 row, 2 rows.

    Example:
        >>> plural(2, "row")
        '2 rows'
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def named_tensors(value: Any, name: str) -> Iterator[Named]:
    """The Tensors within nested tuples, lists, dicts and dataclasses, each with its path."""
    if isinstance(value, Tensor):
        yield Named(name, value)
    elif isinstance(value, Gradients):
        yield from (Named(*item) for item in value.items())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{name}[{key!r}]")
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for field in value._fields:
            yield from named_tensors(getattr(value, field), f"{name}.{field}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from named_tensors(item, f"{name}[{i}]")
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        for field in value.__dataclass_fields__:
            yield from named_tensors(getattr(value, field), f"{name}.{field}")


def own_stream(*seed: int) -> np.random.RandomState:
    """A random stream that nobody's inputs came from: dy ∝ x would hide a norm's mistakes."""
    return np.random.RandomState([*seed, 2031])


def upstream_like(tensor: Tensor, stream: np.random.RandomState) -> Array:
    """A random gradient for a Tensor, of its shape and type. Its mean is not 0, so that a sum of it that is missing shows."""
    return np.asarray(stream.standard_normal(tensor.shape) + 0.3, tensor._data.dtype)


def modules_of(function: Any) -> list[Any]:
    """The modules that a function will call as far as can be seen: itself, its self, its closure, its globals, partial arguments."""
    found: dict[int, Any] = {}
    seen: set[int] = set()

    def visit(value: Any, depth: int) -> None:
        if id(value) in seen or depth > 4:
            return
        seen.add(id(value))
        if isinstance(value, Module):
            found[id(value)] = value
        elif isinstance(value, Target):  # the gradient of a function, as gradgradcheck takes it
            visit(value.function, depth)
        elif isinstance(value, (list, tuple)):
            for item in value[:100]:
                visit(item, depth + 1)
        elif isinstance(value, dict):
            for item in list(value.values())[:100]:
                visit(item, depth + 1)
        elif isinstance(value, functools.partial):
            for item in (value.func, *value.args, *value.keywords.values()):
                visit(item, depth + 1)
        elif isinstance(value, types.MethodType):
            visit(value.__self__, depth + 1)
            visit(value.__func__, depth + 1)
        elif isinstance(value, types.FunctionType):
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # a cell that was never filled
                    visit(cell.cell_contents, depth + 1)
            for item in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
                visit(item, depth + 1)
            for global_name in value.__code__.co_names:
                if global_name in value.__globals__:
                    item = value.__globals__[global_name]
                    if isinstance(item, (Module, types.FunctionType)):
                        visit(item, depth + 1)

    visit(function, 0)
    return list(found.values())


class Snapshot:
    """The buffers of some modules, to be compared with and gone back to."""

    def __init__(self, modules: list[Any]) -> None:
        self._buffers: dict[str, tuple[Any, str, Any, Array]] = {}
        for root in modules:
            for path, module in root.named_modules():
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        self._buffers.setdefault(f"{path}.{name}" if path else name, (module, name, buffer, buffer._data.copy()))

    def changed(self) -> list[str]:
        """Which buffers are not as they were."""
        return [path for path, (m, name, _, old) in self._buffers.items() if not _same(getattr(m, name)._data, old)]

    def restore(self) -> None:
        """Every buffer is again the object it was and holds what it held."""
        for module, name, buffer, old in self._buffers.values():
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
            buffer._data[...] = old


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


class Target:
    """The function under check, called with its own input objects again and again.

    Numeric differences need the same call at other values: `values` lets the checked Tensors hold private copies for a while, so that
    expanded and shared memory is moved one element at a time and nothing of the caller's is written to.

    Args:
        function: a function, a Module, or a Function class (its `apply` is taken).
        inputs: a Tensor; a tuple or list of arguments; a dict of keyword arguments. Each argument may be nested.
        parameters: whether the parameters of a Module count as inputs.
    Raises:
        ValueError: nothing there requires a gradient.
        TypeError: the function cannot be called.
    """

    def __init__(self, function: Any, inputs: Any, parameters: bool = True) -> None:
        if isinstance(function, type) and issubclass(function, Function):
            function = function.apply
        if not callable(function):
            raise TypeError(f"gradcheck: the function to check must be callable; got {type(function).__name__}")
        self.function = function
        self.for_values = getattr(function, "unrecorded", function) if isinstance(function, types.FunctionType) else function
        self.name = function_name(function)
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        if isinstance(inputs, Mapping):
            self.kwargs = dict(inputs)
        elif isinstance(inputs, (tuple, list)) and not hasattr(inputs, "_fields"):
            self.args = tuple(inputs)
        else:
            self.args = (inputs,)
        names = argument_names(function, len(self.args))
        every = [n for name, value in zip(names, self.args) for n in named_tensors(value, name)]
        every += [n for name, value in self.kwargs.items() for n in named_tensors(value, name)]
        if parameters and isinstance(function, Module):
            taken = {n.name for n in every}
            every += [Named(f"self.{name}" if name in taken else name, p) for name, p in function.named_parameters()]
        self.tensors = list({id(n.tensor): n for n in reversed(every)}.values())[::-1]
        self.inputs = [n for n in self.tensors if n.tensor.requires_grad]
        if not self.inputs:
            have = "; ".join(f"{n} is {n.tensor.dtype}" for n in self.tensors) or "there is no Tensor among the inputs"
            raise ValueError(
                "gradcheck expects at least one input tensor to require gradient, but none of them have requires_grad=True: "
                f"{have}. Make one with requires_grad=True, in float64."
            )
        self.modules = modules_of(function)
        self.snapshot = Snapshot(self.modules)

    def call(self, function: Any = None) -> list[Named]:
        """The floating point Tensors among what the function, or another in its place, returns.

        Raises:
            GradcheckError: there are none.
        """
        with enable_grad():
            result = (self.function if function is None else function)(*self.args, **self.kwargs)
        outputs = list(named_tensors(result, "output"))
        if not outputs:
            raise GradcheckError(f"{self.name} returns no Tensor: gradcheck needs one to differentiate; got {_describe(result)}")
        floating = [n for n in outputs if n.tensor._data.dtype.kind == "f"]
        if not floating:
            kinds = ", ".join(f"{n.name} is {n.tensor.dtype}" for n in outputs)
            raise GradcheckError(f"{self.name} returns no floating point Tensor: {kinds}; integers and bools have no gradient")
        return floating

    def values(self) -> Array:
        """All outputs one after the other, as float64."""
        return flat(self.call(self.for_values))

    @contextlib.contextmanager
    def private_copies(self) -> Iterator[list[Array]]:
        """Within: the checked Tensors hold dense copies of their values, which may be written to."""
        before = [n.tensor._data for n in self.inputs]
        copies = [np.array(a, order="K") for a in before]
        try:
            for n, copy in zip(self.inputs, copies):
                n.tensor._data = copy
            yield copies
        finally:
            for n, array in zip(self.inputs, before):
                n.tensor._data = array

    def arrays(self) -> list[Array]:
        """Copies of what all tensors hold, for `changed_in_place`."""
        return [n.tensor._data.copy() for n in self.tensors]

    def changed_in_place(self, before: list[Array]) -> list[Named]:
        """Which tensors do not hold that any more; they are set back."""
        changed = []
        for n, old in zip(self.tensors, before):
            if not _same(n.tensor._data, old):
                changed.append(n)
                n.tensor._data[...] = old
        return changed

    def why_two_calls_differ(self) -> str:
        """What makes the result change from call to call: buffers, a random stream, or nothing that can be seen."""
        self.snapshot.restore()
        first = self.values()
        moved = self.snapshot.changed()
        self.snapshot.restore()
        if moved and _same(self.values(), first):
            return f"it depends on state that every call changes: {', '.join(moved)}"
        ours = stream.get_rng_state()
        first = self.values()
        stream.set_rng_state(ours)
        again = self.values()
        if _same(first, again):
            return "it draws from tinygrad_norm's random stream (dropout?): call eval(), or tg.manual_seed(0) within the function"
        theirs = np.random.get_state()
        first = self.values()
        np.random.set_state(theirs)
        if _same(first, self.values()):
            return "it draws from numpy.random: set np.random.seed(0) within the function"
        return "two calls with the same inputs give different values"


def flat(outputs: list[Named]) -> Array:
    """Outputs one after the other, as float64."""
    return np.concatenate([n.tensor._data.reshape(-1) for n in outputs], dtype=np.float64)


def function_name(function: Any) -> str:
    """What to call the function."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, Function):
        return f"{owner.__name__}.apply"
    if isinstance(function, functools.partial):
        return function_name(function.func)
    name = getattr(function, "__name__", None)
    return str(name) if isinstance(name, str) else type(function).__name__


def positional_parameters(function: Any) -> list[Any]:
    """The inspect.Parameters of what may be given by place: of a Module's or Function's forward, without its self or ctx.

    Raises:
        TypeError, ValueError: Python does not know its signature.
    """
    import inspect  # not at the top: it takes milliseconds, and `import tinygrad_norm` needs it for nothing else

    owner = getattr(function, "__self__", function)
    is_op = isinstance(owner, type) and issubclass(owner, Function)
    described = owner.forward if is_op else function.forward if isinstance(function, Module) else function
    found = [p for p in inspect.signature(described).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return found[1:] if is_op and found and found[0].name in ("self", "ctx") else found


def argument_names(function: Callable[..., Any], count: int) -> list[str]:
    """The parameters' own names as far as the signature has them, input[i] for the rest."""
    try:
        names = [p.name for p in positional_parameters(function)]
    except (TypeError, ValueError):
        names = []
    return [names[i] if i < len(names) else f"input[{i}]" for i in range(count)]


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return "a NumPy array (was .numpy() or .detach() called on the way?)"
    return "None (is a return missing?)" if value is None else f"a {type(value).__name__}"
