"""Schedules of the learning rate: each scheduler.step() writes group["lr"] for the next epoch t = last_epoch.

`get_lr` computes the rate from the one before, so that several schedulers can act on one optimizer, each multiplying what it finds;
`_get_closed_form_lr` computes the same from t alone.
"""

from __future__ import annotations

import functools
import math
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "LRScheduler", "LambdaLR", "StepLR"]


class LRScheduler:
    """Base of the schedulers: counts epochs and writes what `get_lr` says.

    Args:
        optimizer: whose groups' "lr" is written; the rate it has now is kept there as "initial_lr".
        last_epoch: the last epoch done; -1 starts anew. Where it is not, the groups have an "initial_lr" from a loaded state.
    Attributes:
        base_lrs: the initial rates.
        last_epoch: t.
    Raises:
        TypeError: optimizer is not one.
        KeyError: last_epoch is given, and a group has no "initial_lr".
    """

    _counts = frozenset({"base_lrs", "last_epoch", "_step_count"})  # without which a state says nothing

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with last_epoch >= 0: "
                    "load the optimizer's state first, or start with last_epoch=-1"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._get_lr_called_within_step = False
        self._is_initial = True  # the first step() is this one: it sets the rate of epoch 0
        _watch_steps(optimizer)
        self.step()
        self._is_initial = False

    def get_lr(self) -> list[float]:
        """The rates for epoch `last_epoch`, one for each group; called by `step`. See `get_last_lr` for what they are."""
        raise NotImplementedError(f"{type(self).__name__} must define get_lr(self)")

    def get_last_lr(self) -> list[float]:
        """The rates that the last `step` wrote, one for each group."""
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Goes on to the next epoch; comes after the optimizer's step.

        Args:
            epoch: go to this one instead, by the closed form where there is one; torch warns that it may leave this out, and so does this.
        """
        if self._step_count == 1:
            if not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
                warnings.warn(
                    "Seems like `optimizer.step()` has been overridden after learning rate scheduler initialization. Please, make sure to call "
                    "`optimizer.step()` before `lr_scheduler.step()`.",
                    UserWarning,
                    stacklevel=2,
                )
            elif not getattr(self.optimizer, "_opt_called", False):
                warnings.warn(
                    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. You should call them in the opposite order: "
                    "`optimizer.step()` before `lr_scheduler.step()`. Failure to do this will result in skipping the first value of the "
                    "learning rate schedule.",
                    UserWarning,
                    stacklevel=2,
                )
        self._step_count += 1
        get_lr: Callable[[], list[float]] = self.get_lr
        if epoch is not None:
            warnings.warn("The epoch parameter in `scheduler.step()` is deprecated: use `scheduler.step()`", UserWarning, stacklevel=2)
            get_lr = getattr(self, "_get_closed_form_lr", self.get_lr)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._get_lr_called_within_step = True
        try:
            rates = get_lr()
        finally:
            self._get_lr_called_within_step = False
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, which is saved by itself."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned. The rates themselves are in the optimizer's state: load that as well.

        Raises:
            TypeError: an entry is of another type than here. ValueError: it has other entries. Nothing is changed then (torch takes anything).
        """
        own = self.state_dict()
        if not isinstance(state_dict, dict):
            raise TypeError(f"load_state_dict: expected the dict that state_dict() gives; got {type(state_dict).__name__}")
        if state_dict.keys() - own.keys() or (own.keys() & self._counts) - state_dict.keys():
            raise ValueError(f"load_state_dict: a {type(self).__name__} has {sorted(own)}; got {sorted(map(str, state_dict))}")
        for key, value in state_dict.items():
            numbers = isinstance(value, (int, float)) and isinstance(own[key], (int, float))
            if not numbers and type(value) is not type(own[key]):
                raise TypeError(f"load_state_dict: {key} is a {type(value).__name__}; expected a {type(own[key]).__name__}")
        self.__dict__.update(state_dict)

    def _warn_if_outside_step(self) -> None:
        if not self._get_lr_called_within_step:
            warnings.warn("To get the last learning rate computed by the scheduler, please use `get_last_lr()`.", UserWarning, stacklevel=3)


def _check_numbers(name: str, **options: Any) -> None:
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise TypeError(f"{name}: {option} must be a number; got {type(value).__name__}")


def _watch_steps(optimizer: Optimizer) -> None:
    """Makes optimizer.step note that it was called; on this instance, through a weak reference, so that there is no cycle."""
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return
    itself = weakref.ref(optimizer)
    function = optimizer.step.__func__  # type: ignore[attr-defined]

    @functools.wraps(function)
    def step(*args: Any, **kwargs: Any) -> Any:
        owner = itself()
        owner._opt_called = True  # type: ignore[union-attr]
        return function(owner, *args, **kwargs)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = step  # type: ignore[method-assign]


class StepLR(LRScheduler):
    """Multiplies the rate by gamma every step_size epochs.

    γ_t = γ₀ · gamma^⌊t/step_size⌋

    Args:
        optimizer: whose rate it sets.
        step_size: epochs between two changes.
        gamma: the factor.
        last_epoch: see LRScheduler.
    Raises:
        ValueError: step_size is not positive (torch divides by zero at the first step).

    Example:
        >>> import tinygrad_norm as tg
        >>> optimizer = tg.optim.SGD([tg.zeros(1, requires_grad=True)], lr=0.5)
        >>> scheduler = tg.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        >>> for _ in range(4):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     print(scheduler.get_last_lr())
        [0.5]
        [0.25]
        [0.25]
        [0.125]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        _check_numbers("StepLR", step_size=step_size, gamma=gamma)
        if not step_size > 0:
            raise ValueError(f"StepLR: step_size must be a positive number of epochs; got {step_size}")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        self._warn_if_outside_step()
        factor = self.gamma if self.last_epoch != 0 and self.last_epoch % self.step_size == 0 else 1
        return [group["lr"] * factor for group in self.optimizer.param_groups]

    def _get_closed_form_lr(self) -> list[float]:
        return [lr * self.gamma ** (self.last_epoch // self.step_size) for lr in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """Lowers the rate along half a cosine, to eta_min at epoch T_max; after it the rate rises again.

    γ_t = η_min + (γ₀ − η_min)·(1 + cos(πt/T_max))/2;
    from the rate before: γ_t = η_min + (γ_{t−1} − η_min)·(1 + cos(πt/T_max))/(1 + cos(π(t−1)/T_max))

    Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", arXiv:1608.03983, equation (5), without restarts.

    Args:
        optimizer: whose rate it sets.
        T_max: epochs from the highest rate to the lowest.
        eta_min: the lowest rate.
        last_epoch: see LRScheduler.
    Raises:
        ValueError: T_max is not positive (torch divides by zero at the first step).

    Example:
        >>> import tinygrad_norm as tg
        >>> optimizer = tg.optim.SGD([tg.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = tg.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
        >>> for _ in range(4):
        ...     optimizer.step()
        ...     scheduler.step()
        ...     print(round(scheduler.get_last_lr()[0], 4))
        0.8536
        0.5
        0.1464
        0.0
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:  # noqa: N803  torch's name
        _check_numbers("CosineAnnealingLR", T_max=T_max, eta_min=eta_min)
        if not T_max > 0:
            raise ValueError(f"CosineAnnealingLR: T_max must be a positive number of epochs; got {T_max}")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        self._warn_if_outside_step()
        groups, t, lowest = self.optimizer.param_groups, self.last_epoch, self.eta_min
        if self._is_initial:
            return [group["lr"] for group in groups]
        if self._step_count == 1 and t > 0:  # its first step after one that was not counted: no rate before to go on from
            return self._get_closed_form_lr()
        if (t - 1 - self.T_max) % (2 * self.T_max) == 0:  # the rate before was the lowest: the recursion would be 0/0
            rise = (1 - math.cos(math.pi / self.T_max)) / 2
            return [group["lr"] + (lr - lowest) * rise for lr, group in zip(self.base_lrs, groups, strict=True)]
        factor = (1 + math.cos(math.pi * t / self.T_max)) / (1 + math.cos(math.pi * (t - 1) / self.T_max))
        return [factor * (group["lr"] - lowest) + lowest for group in groups]

    def _get_closed_form_lr(self) -> list[float]:
        height = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (lr - self.eta_min) * height for lr in self.base_lrs]


class LambdaLR(LRScheduler):
    """Sets the rate to the initial one times a function of the epoch.

    γ_t = γ₀ · f(t)

    Args:
        optimizer: whose rate it sets.
        lr_lambda: f, or a list of one for each group.
        last_epoch: see LRScheduler.
    Raises:
        ValueError: the list is not as long as there are groups.

    Example:
        >>> import tinygrad_norm as tg
        >>> optimizer = tg.optim.SGD([tg.zeros(1, requires_grad=True)], lr=0.5)
        >>> warmup = tg.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: min(1.0, (epoch + 1) / 4))
        >>> warmup.get_last_lr()
        [0.125]
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | list[Callable[[int], float]], last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        groups = len(optimizer.param_groups)
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * groups
        if len(self.lr_lambdas) != groups:
            raise ValueError(f"Expected {groups} lr_lambdas, one for each parameter group, but got {len(self.lr_lambdas)}")
        for f in self.lr_lambdas:
            if not callable(f):
                raise TypeError(f"LambdaLR: lr_lambda must be a function of the epoch, or a list of them; got {type(f).__name__}")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        self._warn_if_outside_step()
        return [lr * f(self.last_epoch) for f, lr in zip(self.lr_lambdas, self.base_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer; of the functions only what callable objects hold, not plain functions, which stand as None."""
        state = super().state_dict()
        state["lr_lambdas"] = [None if isinstance(f, types.FunctionType) else f.__dict__.copy() for f in self.lr_lambdas]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned; the functions are the ones given here."""
        held_by = state_dict.get("lr_lambdas") if isinstance(state_dict, dict) else None
        if isinstance(state_dict, dict) and (not isinstance(held_by, list) or len(held_by) != len(self.lr_lambdas)):
            raise ValueError(f"load_state_dict: lr_lambdas must be a list with one entry for each of {len(self.lr_lambdas)} functions; got {held_by!r}")
        super().load_state_dict(state_dict if held_by is None else {key: value for key, value in state_dict.items() if key != "lr_lambdas"})
        for f, held in zip(self.lr_lambdas, held_by or (), strict=True):
            if held is not None:
                f.__dict__.update(held)
