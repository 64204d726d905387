"""What all optimizers share: parameter groups with their options, a state for each parameter, and saving both.

An algorithm is a subclass with a `step`. It works on the arrays inside the Tensors, so nothing of a step is ever on the tape; `touch`
counts the write, so that a backward which still needs the old value says so.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from ..grad_mode import enable_grad
from ..tensor import Tensor

__all__ = ["Optimizer"]


class Optimizer:
    """Base of the optimizers: keeps parameters in groups, and for each parameter what the algorithm remembers of it.

    Args:
        params: Tensors, or dicts with the key "params" and the options that differ for them; in a fixed order.
        defaults: the options of a group that does not say otherwise.
    Attributes:
        param_groups: dicts of "params" (a list of Tensors) and options. Options may be changed between steps.
        state: for each parameter a dict of Tensors; filled at its first step.
    Raises:
        TypeError: params is one Tensor, a set (it has no order), or holds something that is not a Tensor.
        ValueError: no parameters; one that is there twice (torch only warns where it is twice in one group); one that is not a leaf;
            an option out of range (torch checks the constructor's options and not those of the groups).

    Example:
        >>> import tinygrad_norm as tg
        >>> w, b = tg.zeros(2, requires_grad=True), tg.zeros(1, requires_grad=True)
        >>> optimizer = tg.optim.SGD([{"params": [w], "weight_decay": 0.1}, {"params": [b], "lr": 1.0}], lr=0.5)
        >>> [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
        [(0.5, 0.1), (1.0, 0)]
    """

    _per_element: ClassVar[tuple[str, ...]] = ()  # the keys of a parameter's state that hold a Tensor of its shape

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]) -> None:
        self._check(defaults)
        self.defaults = defaults
        self.state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        given = _ordered(params)
        if not given:
            raise ValueError("optimizer got an empty parameter list: a generator such as model.parameters() can be read only once")
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own, for instance layers that were frozen until now.

        Args:
            param_group: "params", one Tensor or several, and any options; the others are the optimizer's defaults. It is copied.
        Raises:
            TypeError, ValueError, KeyError: as the constructor; nothing is changed then.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        if "params" not in param_group:
            raise KeyError("params: a parameter group names its Tensors under this key")
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else _ordered(params)
        seen = {id(p) for group in self.param_groups for p in group["params"]}
        for i, p in enumerate(params):
            if not isinstance(p, Tensor):
                hint = ": hand it model.parameters(), not named_parameters()" if isinstance(p, tuple) else ""
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}{hint}")
            if not (p.is_leaf or p.retains_grad):
                raise ValueError(f"can't optimize a non-leaf Tensor: parameter {i}, of shape {list(p.shape)}, was computed by {p.grad_fn}")
            if not p._data.flags.writeable:
                raise ValueError(f"can't optimize parameter {i}, of shape {list(p.shape)}: it was expanded, or is over read-only memory: clone() it first")
            if id(p) in seen:
                raise ValueError(
                    f"some parameters appear in more than one parameter group or twice in one: parameter {i}, of shape {list(p.shape)}; "
                    "it would be stepped twice"
                )
            seen.add(id(p))
        group = {**param_group, "params": params}
        for name, value in self.defaults.items():
            group.setdefault(name, value)
        self._check(group)
        self.param_groups.append(group)

    def _check(self, options: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError for options that the algorithm is not defined for."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients of all parameters: backward() adds, so this comes before it.

        Args:
            set_to_none: .grad becomes None, and `step` skips a parameter that gets no new one. False: it is filled with zeros.
        """
        for group in self.param_groups:
            for p in group["params"]:
                grad = p._grad
                if set_to_none:
                    p._grad = None
                elif grad is not None:
                    if grad._edge is not None:
                        grad.detach_()
                    grad.zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Changes every parameter that has a gradient.

        Args:
            closure: computes the loss anew, with its gradients, and returns it; it runs with gradients enabled.
        Returns:
            What the closure returned, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step(self, closure=None)")

    @staticmethod
    def _evaluate(closure: Callable[[], Any] | None) -> Any:
        if closure is None:
            return None
        if not callable(closure):
            raise TypeError(f"step: closure must be a function that computes the loss, or None; got {type(closure).__name__}")
        with enable_grad():
            return closure()

    def state_dict(self) -> dict[str, Any]:
        """What a later run needs in order to go on: {"state": …, "param_groups": …}, with the parameters replaced by their numbers.

        The Tensors in it are the optimizer's own, as in torch: copy.deepcopy it, or write it to a file, before the next step.
        """
        numbers = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        return {
            "state": {numbers[id(p)] if isinstance(p, Tensor) else p: values for p, values in self.state.items()},
            "param_groups": [
                {**{k: v for k, v in group.items() if k != "params"}, "params": [numbers[id(p)] for p in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned; parameters are matched by their order.

        Everything is copied (torch shares the Tensors with the dict), floating-point state in the parameter's type.
        An option that the dict lacks takes the optimizer's default.

        Args:
            state_dict: of an optimizer of the same kind with groups of the same sizes.
        Raises:
            ValueError: other groups, shapes or algorithm (torch finds the latter two at the next step); nothing is changed then.
            TypeError: it is not of the form that `state_dict` gives; nothing is changed then.
        """
        _check_form(state_dict)
        groups, saved = self.param_groups, state_dict["param_groups"]
        if len(groups) != len(saved):
            raise ValueError(f"loaded state dict has a different number of parameter groups: {len(saved)}; expected {len(groups)}")
        for i, (group, other) in enumerate(zip(groups, saved)):
            if len(group["params"]) != len(other["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                    f"group {i} has {len(other['params'])} parameters; expected {len(group['params'])}"
                )
        new_groups = []
        owner: dict[Any, tuple[Tensor, dict[str, Any]]] = {}
        for group, other in zip(groups, saved):
            new = {**{k: copy.deepcopy(v) for k, v in other.items() if k != "params"}, "params": group["params"]}
            for name, value in self.defaults.items():
                new.setdefault(name, value)
            self._check(new)
            new_groups.append(new)
            owner.update((number, (p, new)) for number, p in zip(other["params"], group["params"]))
        new_state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
        for number, values in state_dict["state"].items():
            if number in owner:
                p, group = owner[number]
                new_state[p] = self._adopt(number, p, group, values)
            else:
                new_state[number] = copy.deepcopy(values)
        self.param_groups, self.state = new_groups, new_state

    def _adopt(self, number: Any, p: Tensor, group: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of one parameter's saved state, in its type; ValueError where it is not of its shape."""
        adopted: dict[str, Any] = {}
        for key, value in values.items():
            if key in self._per_element and value is not None and (not isinstance(value, Tensor) or value._data.shape != p._data.shape):
                came = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"loaded state dict: {key} of parameter {number} is {came}; expected a Tensor of shape {list(p.shape)}")
            if isinstance(value, Tensor):
                kind = p._data.dtype if key != "step" and p._data.dtype.kind == "f" else value._data.dtype
                adopted[key] = Tensor(np.array(value._data, kind, order="C"))
            else:
                adopted[key] = copy.deepcopy(value)
        return adopted

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}  # not the step that a scheduler watches

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines += [*([""] if i else []), f"Parameter Group {i}", *(f"    {key}: {group[key]}" for key in sorted(group) if key != "params")]
        return "\n".join([*lines, ")"])


def _check_form(state_dict: Any) -> None:
    """TypeError unless it is {"state": {…: dict}, "param_groups": [{"params": […], …}]}."""
    wanted = '{"state": {number: dict}, "param_groups": [{"params": [number], …}]}, as state_dict() gives it'
    state, groups = (state_dict.get("state"), state_dict.get("param_groups")) if isinstance(state_dict, Mapping) else (None, None)
    if not isinstance(state, Mapping) or not isinstance(groups, (list, tuple)):
        what = f"a dict with the keys {list(state_dict)}" if isinstance(state_dict, Mapping) else f"a {type(state_dict).__name__}"
        raise TypeError(f"load_state_dict: expected {wanted}; got {what}")
    for number, values in state.items():
        if isinstance(number, int) and not isinstance(values, Mapping):
            raise TypeError(f"load_state_dict: expected {wanted}; the state of {number!r} is a {type(values).__name__}")
    for i, group in enumerate(groups):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), (list, tuple)):
            raise TypeError(f"load_state_dict: expected {wanted}; group {i} has no list of params")


def _ordered(params: Any) -> list[Any]:
    """The items of params as a list; TypeError where they have no order, or where there are none to iterate over."""
    if isinstance(params, (set, frozenset)):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets will change between runs. "
            "Please use a list instead."
        )
    if isinstance(params, (Tensor, dict)) or not isinstance(params, Iterable):
        hint = {Tensor: ": put it in a list", dict: ": put it in a list"}.get(type(params), ": model.parameters(), for instance")
        raise TypeError(f"params argument given to the optimizer should be an iterable of Tensors or dicts, but got {type(params).__name__}{hint}")
    return list(params)


def at_least_zero(what: str, value: Any) -> None:
    """Refuses an option that is not a number ≥ 0; NaN among them."""
    if not isinstance(value, (int, float, np.number)):
        raise TypeError(f"Invalid {what}: expected a number >= 0; got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"Invalid {what}: {value}; expected a number >= 0")
