"""Modules that hold modules: one after the other (Sequential), in a list, in a dictionary; and two that only pass on or reshape.

They are what they look like, a list or a dictionary, with one difference: what they hold is registered. A plain Python list of layers
would hide their parameters from `parameters()`, `to` and `state_dict`; a ModuleList names them "0", "1", "2".

    1. Sequences: Sequential, ModuleList   2. ModuleDict   3. Identity, Flatten
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from ..ops.shape import flatten
from ..tensor import Tensor
from .module import Module, indented
from .register import MODULE, check_module

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Flatten", "Identity", "ModuleDict", "ModuleList", "Sequential"]

# -- 1. Sequences ---------------------------------------------------------------------------------------------------------------------


class _ModuleSequence(Module):
    """What Sequential and ModuleList share: the children in order, found by position."""

    def _children(self) -> list[Any]:
        """All children in order, also where one module stands at several places; None where a place is empty."""
        return list(self._modules.values())

    def _name_at(self, idx: SupportsIndex) -> str:
        position, size = operator.index(idx), len(self)
        if not -size <= position < size:
            raise IndexError(f"index {position} is out of range: there are {size} modules")
        return list(self._modules)[position]

    def _renew(self, modules: list[Any]) -> None:
        """Puts these in the place of all children, named "0", "1", "2" …"""
        for name in self._modules:
            delattr(self, name)
        for i, module in enumerate(modules):
            self.add_module(str(i), module)

    def __setitem__(self, idx: SupportsIndex, module: Module) -> None:
        setattr(self, self._name_at(idx), module)

    def __delitem__(self, idx: SupportsIndex | slice) -> None:
        modules = self._children()
        if isinstance(idx, slice):
            del modules[idx]
        else:
            self._name_at(idx)
            del modules[operator.index(idx)]
        self._renew(modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._children())

    def append(self, module: Module) -> Self:
        """Adds a module at the end; returns itself.

        Raises:
            TypeError: it is no Module.
        """
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Adds modules at the end; returns itself.

        Raises:
            TypeError: not an iterable, or not of Modules; then none was added.
        """
        if not isinstance(modules, Iterable):
            raise TypeError(f"{type(self).__name__}.extend should be called with an iterable, but got {type(modules).__name__}")
        new = list(modules)
        for module in new:
            check_module(module)
        for module in new:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Adds a module before position `index`, counted from the end where negative, and renumbers; returns itself.

        Raises:
            TypeError: it is no Module. IndexError: there is no such position.
        """
        modules = self._children()
        if not -len(modules) <= index <= len(modules):
            raise IndexError(f"Index out of range: {index}")
        check_module(module)
        modules.insert(index, module)
        self._renew(modules)
        return self

    def pop(self, key: int | slice) -> Any:
        """Takes out the module at this position, or those of a slice, and returns it."""
        found = self[key]
        del self[key]
        return found

    def __getitem__(self, idx: Any) -> Any:
        raise NotImplementedError


class Sequential(_ModuleSequence):
    """Modules one after the other, each fed with the output of the one before.

    Args:
        *args: the modules, which are called "0", "1" …; or one OrderedDict from names to modules.
    Raises:
        TypeError: something else than a Module. KeyError: a name that is taken, empty, or has a dot.

    Example:
        >>> from tinygrad_norm import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> model[0], len(model), len(model[:2])
        (Linear(in_features=4, out_features=8, bias=True), 3, 2)
    """

    @overload
    def __init__(self, *args: Module | None) -> None: ...
    @overload
    def __init__(self, arg: OrderedDict[str, Any], /) -> None: ...
    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = len(args) == 1 and isinstance(args[0], OrderedDict)
        for name, module in args[0].items() if named else ((str(i), module) for i, module in enumerate(args)):
            self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        """The output of the last module; of none, the input."""
        for name, kind in self._registry.items():  # not over self: a call should not build a list
            if kind == MODULE:
                input = getattr(self, name)(input)
        return input

    @overload
    def __getitem__(self, idx: slice) -> Sequential: ...
    @overload
    def __getitem__(self, idx: SupportsIndex) -> Any: ...
    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, slice):
            return type(self)(OrderedDict(list(self._modules.items())[idx]))
        return getattr(self, self._name_at(idx))

    def __add__(self, other: Sequential) -> Sequential:
        _check_sequential(other)
        return Sequential(*self, *other)

    def __iadd__(self, other: Sequential) -> Self:
        _check_sequential(other)
        return self.extend(other)


def _check_sequential(other: Any) -> None:
    if not isinstance(other, Sequential):
        raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")


class ModuleList(_ModuleSequence):
    """A list of modules that are registered; it has no forward of its own.

    Args:
        modules: what it starts with.
    Raises:
        TypeError: not an iterable of Modules.

    Example:
        >>> from tinygrad_norm import nn
        >>> nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()])
        ModuleList(
          (0-1): 2 x Linear(in_features=2, out_features=2, bias=True)
          (2): ReLU()
        )
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    @overload
    def __getitem__(self, idx: slice) -> ModuleList: ...
    @overload
    def __getitem__(self, idx: SupportsIndex) -> Any: ...
    def __getitem__(self, idx: Any) -> Any:
        if isinstance(idx, slice):
            return type(self)(self._children()[idx])
        return getattr(self, self._name_at(idx))

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __iadd__(self, other: Iterable[Module]) -> Self:
        return self.extend(other)

    def __repr__(self) -> str:
        """Equal neighbours are shown once, with their number."""
        blocks: list[tuple[int, int, str]] = []  # first, last, what both look like
        for i, text in enumerate(map(repr, self)):
            if blocks and blocks[-1][2] == text:
                blocks[-1] = blocks[-1][0], i, text
            else:
                blocks.append((i, i, text))
        lines = [f"({i}): {text}" if i == j else f"({i}-{j}): {j - i + 1} x {text}" for i, j, text in blocks]
        return self._get_name() + ("(\n  " + "\n  ".join(map(indented, lines)) + "\n)" if lines else "()")


# -- 2. ModuleDict --------------------------------------------------------------------------------------------------------------------


class ModuleDict(Module):
    """A dictionary of modules that are registered, in the order of insertion; it has no forward of its own.

    Args:
        modules: a mapping from names to modules, or an iterable of such pairs.
    Raises:
        TypeError: neither of these, or something else than a Module. KeyError: a name that is taken ("items"), empty, or has a dot.

    Example:
        >>> from tinygrad_norm import nn
        >>> nn.ModuleDict({"head": nn.Linear(2, 1)})["head"]
        Linear(in_features=2, out_features=1, bias=True)
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Takes out all modules."""
        for key in self._modules:
            delattr(self, key)

    def pop(self, key: str) -> Any:
        """Takes out the module of this name and returns it; KeyError where there is none."""
        found = self[key]
        del self[key]
        return found

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def items(self) -> ItemsView[str, Any]:
        """Names and modules."""
        return self._modules.items()

    def values(self) -> ValuesView[Any]:
        """The modules."""
        return self._modules.values()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Adds modules, in the place of those that have the same name.

        Args:
            modules: a mapping from names to modules, or an iterable of such pairs.
        Raises:
            TypeError: neither of these, or something else than a Module. ValueError: not pairs. KeyError: a name that is taken, empty,
            or has a dot. Nothing was added then.
        """
        new = list(modules.items() if isinstance(modules, (Mapping, ModuleDict)) else _pairs(modules))
        for _, module in new:
            check_module(module)
        for name, _ in new:
            self._check_free(MODULE, name)
        for name, module in new:
            self[name] = module


def _pairs(modules: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(modules, Iterable):
        raise TypeError(f"ModuleDict.update should be called with an iterable of key/value pairs, but got {type(modules).__name__}")
    for i, pair in enumerate(modules):
        if not isinstance(pair, Iterable):
            raise TypeError(f"ModuleDict update sequence element #{i} should be Iterable; is {type(pair).__name__}")
        both = tuple(pair)
        if len(both) != 2:
            raise ValueError(f"ModuleDict update sequence element #{i} has length {len(both)}; 2 is required")
        yield both


# -- 3. Identity, Flatten -------------------------------------------------------------------------------------------------------------


class Identity(Module):
    """Returns its input; takes any arguments, so that it can stand where another layer stood.

    Example:
        >>> from tinygrad_norm import nn
        >>> nn.Identity(54, unused=0.1)(3)
        3
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        """The input."""
        return input


class Flatten(Module):
    """Makes one axis of the axes start_dim to end_dim: (N, C, H, W) → (N, C·H·W).

    Args:
        start_dim: the first of them.
        end_dim: the last of them.
    Raises:
        IndexError: when called: the input has no such axis. RuntimeError: start_dim comes after end_dim.

    Example:
        >>> import tinygrad_norm as tg
        >>> tg.nn.Flatten()(tg.zeros(2, 3, 4)).shape
        torch.Size([2, 12])
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        """The input with those axes made one."""
        return flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """start_dim and end_dim."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
