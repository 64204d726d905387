"""Module: how a model knows its own weights.

A Module keeps a register (register.py): which of its attributes are parameters, buffers and child modules. What it can do beyond
`forward` is a walk over these registers:

    parameters, buffers, modules      its own register, then those of its children, and so on down
    state_dict, load_state_dict       the same walk, with the names joined by dots: "0.weight"
    train, apply, to, zero_grad       the same walk, with something done at every step

    1. Calling   2. Walking   3. Changing   4. State   5. Printing
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from ..dtype import as_dtype, float32, float64
from ..notebook import module_html
from ..tensor import RemovableHandle, Tensor, touch
from .parameter import Parameter
from .register import BUFFER, MODULE, PARAMETER, TRANSIENT, Register
from .state import _IncompatibleKeys, cast, incoming

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Module"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")
_NOTHING: Any = object()


class Module(Register):
    """The base of all layers and models: call super().__init__(), assign layers and Parameters, define forward.

    Five things differ from torch on purpose: `load_state_dict` changes nothing when it raises; `_parameters`, `_buffers` and
    `_modules` are for reading only, because the attributes themselves are the one place where values stand; a subclass that defines
    `get_extra_state` or its like is refused, because a state_dict holds nothing but parameters and persistent buffers; so is a child module
    under a name that the class has, which would hide it; and what a shallow copy registers is not registered in the original.

    Example:
        >>> from tinygrad_norm import nn
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc = nn.Linear(3, 1)
        ...     def forward(self, x):
        ...         return self.fc(x)
        >>> Net()
        Net(
          (fc): Linear(in_features=3, out_features=1, bias=True)
        )
        >>> [name for name, _ in Net().named_parameters()]
        ['fc.weight', 'fc.bias']
    """

    training: bool
    _may_be_missing: ClassVar[tuple[str, ...]] = ()  # names that old state_dicts do not have
    _hooks: OrderedDict[int, Any]  # number of a handle → (hook, whether it comes before forward, whether it sees keyword arguments)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("get_extra_state", "set_extra_state", "_save_to_state_dict", "_load_from_state_dict"):
            if name in cls.__dict__:
                raise NotImplementedError(
                    f"{cls.__name__}.{name}: a state_dict holds parameters and persistent buffers here, and nothing else: keep the state in a buffer "
                    "(register_buffer)"
                )

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "training", True)
        object.__setattr__(self, "_hooks", OrderedDict())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__.update(_registry=self._registry.copy(), _hooks=self._hooks.copy())  # a shallow copy must not register in the original

    # -- 1. Calling -------------------------------------------------------------------------------------------------------------------

    def _forward_is_missing(self, *input: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    forward: Callable[..., Any] = _forward_is_missing  # declared as a value: subclasses may take any arguments

    def __call__(self, input: Any = _NOTHING, other: Any = _NOTHING, /, *others: Any, **kwargs: Any) -> Any:
        # One input or two and no hooks is almost every call; passing on `*args, **kwargs` there would double what a call costs.
        if self._hooks or kwargs or others or input is _NOTHING:
            return self._call(tuple(a for a in (input, other, *others) if a is not _NOTHING), kwargs)
        return self.forward(input) if other is _NOTHING else self.forward(input, other)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for hook, before, with_kwargs in tuple(self._hooks.values()):  # a tuple: a hook may remove itself
            if not before:
                continue
            answer = hook(self, args, kwargs) if with_kwargs else hook(self, args)
            if answer is None:
                continue
            if not with_kwargs:
                args = answer if isinstance(answer, tuple) else (answer,)
            elif isinstance(answer, tuple) and len(answer) == 2:
                args, kwargs = answer
            else:
                raise RuntimeError(f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {answer}.")
        result = self.forward(*args, **kwargs)
        for hook, before, with_kwargs in tuple(self._hooks.values()):
            if before:
                continue
            answer = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
            if answer is not None:
                result = answer
        return result

    def _add_hook(self, hook: Callable[..., Any], before: bool, prepend: bool, with_kwargs: bool) -> RemovableHandle:
        handle = RemovableHandle(self._hooks, hook)
        self._hooks[handle.id] = hook, before, with_kwargs
        if prepend:
            self._hooks.move_to_end(handle.id, last=False)
        return handle

    def register_forward_pre_hook(self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False) -> RemovableHandle:
        """Calls hook(module, args) before every forward; what it returns, if not None, takes the place of args.

        Args:
            hook: with_kwargs: called as hook(module, args, kwargs), and returns None or (args, kwargs).
            prepend: before the hooks that are there already.
            with_kwargs: whether the hook sees the keyword arguments.
        Returns:
            A handle whose remove() ends it.
        Raises:
            TypeError: the hook cannot be called.
        """
        return self._add_hook(hook, True, prepend, with_kwargs)

    def register_forward_hook(self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False) -> RemovableHandle:
        """Calls hook(module, args, output) after every forward; what it returns, if not None, takes the place of the output.

        Args:
            hook: with_kwargs: called as hook(module, args, kwargs, output).
            prepend: before the hooks that are there already.
            with_kwargs: whether the hook sees the keyword arguments.
        Returns:
            A handle whose remove() ends it.
        Raises:
            TypeError: the hook cannot be called.

        Example:
            >>> from tinygrad_norm import nn
            >>> layer = nn.Identity()
            >>> with layer.register_forward_hook(lambda module, args, output: output + 1):
            ...     layer(1)
            2
        """
        return self._add_hook(hook, False, prepend, with_kwargs)

    # -- 2. Walking -------------------------------------------------------------------------------------------------------------------

    def named_modules(self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """This module and all below it with their paths, parents before children.

        Args:
            memo: modules that are not to be visited; those found are added.
            prefix: what stands before the paths.
            remove_duplicate: yield a module that is used twice only once.
        """
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, child in self._registered(MODULE):
            if child is not None:
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[Module]:
        """This module and all below it, parents before children; each once by default."""
        return (module for _, module in self.named_modules(remove_duplicate=remove_duplicate))

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly below this one with their names, each once."""
        seen = set()
        for name, child in self._registered(MODULE):
            if child is not None and child not in seen:
                seen.add(child)
                yield name, child

    def children(self) -> Iterator[Module]:
        """The modules directly below this one, each once."""
        return (child for _, child in self.named_children())

    def _named_members(self, kinds: tuple[str, ...], prefix: str, recurse: bool, remove_duplicate: bool) -> Iterator[tuple[str, Any]]:
        seen = set()  # of ids: == on Tensors compares elements
        modules = self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in module._registered(*kinds):
                if value is None or id(value) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their paths, in the order of state_dict.

        Args:
            prefix: what stands before the paths.
            recurse: those of the modules below as well.
            remove_duplicate: yield a parameter that is used twice only once.
        """
        return self._named_members((PARAMETER,), prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once: what an optimizer takes."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[tuple[str, Tensor]]:
        """The buffers with their paths; the arguments are those of named_parameters."""
        return self._named_members((BUFFER, TRANSIENT), prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """The module at a path of names joined by dots; "" is the module itself.

        Raises:
            AttributeError: a name is not there, or is no module.

        Example:
            >>> from tinygrad_norm import nn
            >>> nn.Sequential(nn.Linear(1, 2), nn.ReLU()).get_submodule("1")
            ReLU()
        """
        module: Module = self
        for name in target.split(".") if target else ():
            module = _attribute(module, name, Module, "an nn.Module")
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a path of names joined by dots, as "0.weight"; AttributeError where there is none."""
        path, _, name = target.rpartition(".")
        return _attribute(self.get_submodule(path), name, Parameter, "an nn.Parameter")

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a path of names joined by dots, as "1.running_mean"; AttributeError where there is none."""
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        found = _attribute(module, name, Tensor, "a buffer")
        if module._registry.get(name) not in (BUFFER, TRANSIENT):
            raise AttributeError(f"`{name}` is not a buffer")
        return found

    # -- 3. Changing ------------------------------------------------------------------------------------------------------------------

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Calls fn on every module below and then on this one; returns itself.

        Example:
            >>> from tinygrad_norm import nn
            >>> _ = nn.Sequential(nn.ReLU(), nn.Identity()).apply(lambda module: print(type(module).__name__))
            ReLU
            Identity
            Sequential
        """
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Sets `training` here and below, which dropout and batch norm look at; returns itself.

        Raises:
            ValueError: mode is not True or False; then nothing has changed.
        """
        if mode is not True and mode is not False:
            raise ValueError(f"training mode is expected to be boolean; got {mode!r}")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """The same as train(False)."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Sets requires_grad of all parameters, to freeze a part of a model or to release it; returns itself."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of all parameters; with set_to_none=False fills them with zeros."""
        for parameter in self.parameters():
            grad = parameter._grad
            if set_to_none:
                parameter._grad = None
            elif grad is not None:
                if grad._edge is not None:
                    grad.detach_()
                grad.zero_()

    def to(self, *args: Any, dtype: Any = None, device: Any = None) -> Self:
        """Converts all floating point parameters, their gradients and buffers, in place; returns itself.

        The Parameters stay the same objects, so an optimizer that holds them goes on working. Integers and bools stay as they are.

        Args:
            *args: an element type, "cpu", or a Tensor whose element type is taken.
            dtype, device: the same by name.
        Raises:
            TypeError: no element type, or not a floating point one. RuntimeError: a device other than "cpu".

        Example:
            >>> import tinygrad_norm as tg
            >>> tg.nn.Linear(1, 1).to(tg.float64).bias.dtype
            torch.float64
        """
        for arg in args:
            if isinstance(arg, Tensor):
                dtype = arg.dtype
            elif isinstance(arg, str):
                device = arg
            elif arg is not None:
                dtype = arg
        if device is not None and str(device) != "cpu":
            raise RuntimeError(f"the only device here is 'cpu'; got {str(device)!r}")
        if dtype is None:
            return self
        wanted = as_dtype(dtype)
        if not wanted.is_floating_point:
            raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got desired dtype={wanted}")
        for module in self.modules():
            for name, value in module._registered(PARAMETER, BUFFER, TRANSIENT):
                if value is None or not value.dtype.is_floating_point or value.dtype is wanted:
                    continue
                converted = Tensor(cast(value._data, wanted.numpy))
                if not isinstance(value, Parameter):
                    object.__setattr__(module, name, converted)
                    continue
                value.data = converted
                if value._grad is not None:
                    value._grad.data = Tensor(cast(value._grad._data, wanted.numpy))
        return self

    def cpu(self) -> Self:
        """Returns itself: all is on the CPU."""
        return self

    def float(self) -> Self:
        """The same as to(float32)."""
        return self.to(float32)

    def double(self) -> Self:
        """The same as to(float64)."""
        return self.to(float64)

    # -- 4. State ---------------------------------------------------------------------------------------------------------------------

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> OrderedDict[str, Tensor]:
        """All parameters and persistent buffers by path: what is saved and loaded.

        Args:
            prefix: what stands before the paths.
            keep_vars: the Parameters themselves instead of detached Tensors.
        Returns:
            Tensors that share the model's memory: copy them to keep a state while training goes on.

        Example:
            >>> from tinygrad_norm import nn
            >>> nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).state_dict().keys()
            odict_keys(['0.weight', '0.bias', '1.weight', '1.bias', '1.running_mean', '1.running_var', '1.num_batches_tracked'])
        """
        state = OrderedDict((prefix + name, value if keep_vars else value.detach()) for name, value in self._own_state())
        for name, child in self._registered(MODULE):
            if child is not None:
                state.update(child.state_dict(prefix=f"{prefix}{name}.", keep_vars=keep_vars))
        return state

    def _own_state(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, value) for kind in (PARAMETER, BUFFER) for name, value in self._registered(kind) if value is not None)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> _IncompatibleKeys:
        """Copies values into the parameters and buffers; unlike torch it changes nothing when it raises.

        Args:
            state_dict: from path to value: a Tensor, a NumPy array, or anything with __array__, so a torch model's state_dict as well.
                Values are converted to the element type that the model has.
            strict: the paths must be exactly those of state_dict().
        Returns:
            missing_keys and unexpected_keys, both empty where strict.
        Raises:
            TypeError: state_dict is no mapping from strings. RuntimeError: keys are missing or unexpected (strict), shapes differ, or
            a value is no array of numbers.

        Example:
            >>> from tinygrad_norm import nn
            >>> nn.Linear(2, 1).load_state_dict(nn.Linear(2, 1).state_dict())
            <All keys matched successfully>
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        for key in state_dict:
            if not isinstance(key, str):
                raise TypeError(f"load_state_dict: the keys must be strings; got {key!r}")
        plan: list[tuple[Tensor, Array]] = []
        missing: list[str] = []
        unexpected: list[str] = []
        errors: list[str] = []
        self._plan_load(state_dict, "", plan, missing, unexpected, errors)
        if strict:
            for what, keys in ("Unexpected", unexpected), ("Missing", missing):
                if keys:
                    quoted = ", ".join(f'"{key}"' for key in keys)
                    errors.insert(0, f"{what} key(s) in state_dict: {quoted}. ")
        if errors:
            raise RuntimeError("Error(s) in loading state_dict for {}:\n\t{}".format(type(self).__name__, "\n\t".join(errors)))
        for target, array in plan:
            target._data[...] = array
            touch(target)
        return _IncompatibleKeys(missing, unexpected)

    def _plan_load(
        self, state: Mapping[str, Any], prefix: str, plan: list[tuple[Tensor, Array]], missing: list[str], unexpected: list[str], errors: list[str]
    ) -> None:
        """Adds to `plan` what is to be copied where, here and below, and to the other lists what stands in the way."""
        own = dict(self._own_state())
        for name, target in own.items():
            key = prefix + name
            if key not in state:
                if name not in self._may_be_missing:
                    missing.append(key)
                continue
            try:
                plan.append((target, incoming(key, state[key], target)))
            except ValueError as error:
                errors.append(str(error))
        children = dict(self._registered(MODULE))
        for key in state:
            if key.startswith(prefix):
                name, dot, _ = key[len(prefix) :].partition(".")
                if name not in (children if dot else own):
                    unexpected.append(key)
        for name, child in children.items():
            if child is not None:
                child._plan_load(state, f"{prefix}{name}.", plan, missing, unexpected, errors)

    # -- 5. Printing ------------------------------------------------------------------------------------------------------------------

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What repr shows between the brackets, to be overridden: the layer's sizes and options."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {indented(repr(child))}" for name, child in self._registered(MODULE)]
        if len(lines) == 1 and not children:
            return f"{self._get_name()}({lines[0]})"
        lines += children
        return self._get_name() + ("(\n  " + "\n  ".join(lines) + "\n)" if lines else "()")

    def _repr_html_(self) -> str:
        return module_html(self)

    def __dir__(self) -> list[str]:
        return sorted(name for name in super().__dir__() if not name[0].isdigit())  # Sequential's "0" is no Python name


def _attribute(module: Module, name: str, wanted: type[T], what: str) -> T:
    found = getattr(module, name, _NOTHING)
    if isinstance(found, wanted):
        return found
    raise AttributeError(f"{type(module).__name__} has no attribute `{name}`" if found is _NOTHING else f"`{name}` is not {what}")


def indented(text: str) -> str:
    """The text with its second and later lines two spaces further in; blank ones stay blank."""
    first, *rest = text.split("\n")
    return "\n".join([first, *(f"  {line}" if line.strip() else "" for line in rest)])
