"""The register of a Module: which of its attributes are parameters, buffers and child modules, in the order in which they came.

The values themselves are plain attributes, so ``self.fc1`` in a forward costs what any attribute costs, and each of them stands in one
place only: the register has their names and what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..tensor import Tensor
from .parameter import Parameter, typename

if TYPE_CHECKING:
    from .module import Module

# What an attribute can be registered as. A transient buffer is one that state_dict leaves out.
PARAMETER, BUFFER, TRANSIENT, MODULE = "parameter", "buffer", "transient buffer", "module"
_PLACES = {
    PARAMETER: ("parameter", "nn.Parameter"),
    MODULE: ("child module", "nn.Module"),
    BUFFER: ("buffer", "Tensor"),
    TRANSIENT: ("buffer", "Tensor"),
}


class Register:
    """What every Module is first: Parameters and modules that become its attributes are registered; buffers are by name."""

    _registry: dict[str, str]  # name of an attribute → what it is registered as; the order is that of registration

    def __init__(self) -> None:
        # It never asks for its own __dict__ on the way to a forward: where none was made, CPython finds attributes faster.
        object.__setattr__(self, "_registry", {})

    def __setattr__(self, name: str, value: Any) -> None:
        registry = getattr(self, "_registry", None)
        known = None if registry is None else registry.get(name)
        if isinstance(value, Parameter):
            kind = PARAMETER
        elif isinstance(value, Register) and known != PARAMETER:
            kind = MODULE
        else:
            if known is None or value is None or (known in (BUFFER, TRANSIENT) and isinstance(value, Tensor)):
                object.__setattr__(self, name, value)
            else:
                place, wanted = _PLACES[known]
                raise TypeError(f"cannot assign '{typename(value)}' as {place} '{name}' ({wanted} or None expected)")
            return
        if registry is None:
            what = "parameters" if kind == PARAMETER else "module"
            raise AttributeError(f"cannot assign {what} before Module.__init__() call: call super().__init__() first")
        _check_name(kind, name)
        if hasattr(type(self), name):
            raise KeyError(f"attribute '{name}' already exists")
        self._register(kind, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._registry.pop(name, None)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter under this name; None keeps the name without a value.

        Raises:
            TypeError: param is no Parameter, or name no string. KeyError: the name is taken, empty, or has a dot.
            ValueError: param is the result of an op. AttributeError: Module.__init__() was not called.
        """
        self._check_free(PARAMETER, name)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"cannot assign '{typename(param)}' object to parameter '{name}' (nn.Parameter or None required)")
        self._register(PARAMETER, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Adds a buffer: a Tensor that belongs to the module's state and is not trained, as a running mean.

        Args:
            name: of the attribute.
            tensor: its value; None keeps the name without one.
            persistent: whether state_dict has it.
        Raises:
            TypeError: tensor is no Tensor, or name no string. KeyError: the name is taken, empty, or has a dot.
            AttributeError: Module.__init__() was not called.
        """
        self._check_free(BUFFER, name)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"cannot assign '{typename(tensor)}' object to buffer '{name}' (Tensor or None required)")
        self._register(BUFFER if persistent else TRANSIENT, name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """Adds a child module under this name; None keeps the name without one.

        Raises:
            TypeError: module is no Module, or name no string. KeyError: the name is taken, empty, or has a dot.
        """
        check_module(module)
        self._check_free(MODULE, name)
        self._register(MODULE, name, module)

    def register_module(self, name: str, module: Module | None) -> None:
        """The same as add_module."""
        self.add_module(name, module)

    def _check_free(self, kind: str, name: Any) -> None:
        """That `name` can be registered as `kind`: it is a name, and no other attribute has it."""
        if not hasattr(self, "_registry"):
            raise AttributeError(f"cannot assign {kind} before Module.__init__() call: call super().__init__() first")
        _check_name(kind, name)
        known = self._registry.get(name)
        if hasattr(self, name) and (BUFFER if known == TRANSIENT else known) != kind:
            raise KeyError(f"attribute '{name}' already exists")

    def _register(self, kind: str, name: str, value: Any) -> None:
        """The one place where attributes are registered; nothing has changed when it raises."""
        if kind == PARAMETER and value is not None and not value.is_leaf:
            raise ValueError(
                f"Cannot assign non-leaf Tensor to parameter '{name}'. Model parameters must be created explicitly. "
                f"To express '{name}' as a function of another Tensor, compute the value in the forward() method."
            )
        known = self._registry.get(name)
        if known != kind and {known, kind} != {BUFFER, TRANSIENT}:
            self._registry.pop(name, None)  # what changes its kind comes last, like a new name
        self._registry[name] = kind
        object.__setattr__(self, name, value)

    def _registered(self, *kinds: str) -> Iterator[tuple[str, Any]]:
        names = tuple(self._registry.items())  # as of now: who walks over the parameters may register a buffer for each
        return ((name, getattr(self, name)) for name, kind in names if kind in kinds)

    @property
    def _parameters(self) -> Mapping[str, Parameter | None]:
        return MappingProxyType(dict(self._registered(PARAMETER)))

    @property
    def _buffers(self) -> Mapping[str, Tensor | None]:
        return MappingProxyType(dict(self._registered(BUFFER, TRANSIENT)))

    @property
    def _modules(self) -> Mapping[str, Module | None]:
        return MappingProxyType(dict(self._registered(MODULE)))


def check_module(module: Any) -> None:
    """A Module or None: TypeError otherwise."""
    if isinstance(module, type) and issubclass(module, Register):
        raise TypeError(f"{module.__name__} is a class, not a module: write {module.__name__}() for a module of it")
    if module is not None and not isinstance(module, Register):
        raise TypeError(f"{typename(module)} is not a Module subclass")


def _check_name(kind: str, name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{kind} name should be a string. Got {typename(name)}")
    if "." in name:
        raise KeyError(f'{kind} name can\'t contain ".", got: {name}')
    if name == "":
        raise KeyError(f'{kind} name can\'t be empty string ""')
