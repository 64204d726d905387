"""Stochastic gradient descent (Robbins & Monro 1951), with momentum (Polyak 1964) and Nesterov's variant (Sutskever et al. 2013).

    (1)  g ← ∇f(θ) + λθ              (−∇f with maximize)
    (2)  b ← μb + (1−τ)g             at the first step b ← g
    (3)  d ← b                       with nesterov: d ← g + μb
    (4)  θ ← θ − γd

Without momentum d is g. Sutskever's velocity is v = −γb: the learning rate stands outside of b here, so a new rate acts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..kernel import kernel, prange
from ..quiet import quiet
from ..tensor import Tensor, touch
from .optimizer import Optimizer, at_least_zero

__all__ = ["SGD"]

Array = np.ndarray[Any, Any]

# -- 1. One step on one parameter -----------------------------------------------------------------------------------------------------


def sgd_step_reference(param: Array, grad: Array, lr: float, weight_decay: float) -> None:
    """Equations (1) and (4). Maximizing is descent with −γ and −λ: −γ(−g + λθ) = γ(g − λθ)."""
    kind = param.dtype.type
    d = grad + kind(weight_decay) * param if weight_decay != 0 else grad  # (1); an infinite θ must not meet λ = 0
    param -= kind(lr) * d  # (4)


@kernel(reference=sgd_step_reference)
def sgd_step(param, grad, lr, weight_decay):  # type: ignore[no-untyped-def]
    gamma, lam = param.dtype.type(lr), param.dtype.type(weight_decay)  # a Python float would make all of it float64
    for i in prange(len(param)):
        d = grad[i]
        if lam != 0:
            d = d + lam * param[i]  # (1)
        param[i] -= gamma * d  # (4)


def sgd_momentum_step_reference(
    param: Array, grad: Array, buffer: Array, lr: float, momentum: float, take: float, weight_decay: float, sign: float, nesterov: bool
) -> None:
    """Equations (1) to (4); `take` is 1−τ, and 1 at the first step, where b is 0; `sign` is −1 with maximize."""
    kind = param.dtype.type
    g = kind(sign) * grad
    if weight_decay != 0:
        g = g + kind(weight_decay) * param  # (1)
    buffer *= kind(momentum)
    buffer += kind(take) * g  # (2)
    d = g + kind(momentum) * buffer if nesterov else buffer  # (3)
    param -= kind(lr) * d  # (4)


@kernel(reference=sgd_momentum_step_reference)
def sgd_momentum_step(param, grad, buffer, lr, momentum, take, weight_decay, sign, nesterov):  # type: ignore[no-untyped-def]
    kind = param.dtype.type
    gamma, mu, one_minus_tau, lam, s = kind(lr), kind(momentum), kind(take), kind(weight_decay), kind(sign)
    for i in prange(len(param)):
        g = s * grad[i]
        if lam != 0:
            g = g + lam * param[i]  # (1)
        b = mu * buffer[i] + one_minus_tau * g  # (2)
        buffer[i] = b
        d = b
        if nesterov:
            d = g + mu * b  # (3)
        param[i] -= gamma * d  # (4)


# -- 2. For users ---------------------------------------------------------------------------------------------------------------------


class SGD(Optimizer):
    """Steps against the gradient, or against a running sum of gradients.

    g ← ∇f(θ) + λθ (1);  b ← μb + (1−τ)g (2);  d ← b, or g + μb with nesterov (3);  θ ← θ − γd (4)

    Sutskever, Martens, Dahl & Hinton 2013, "On the importance of initialization and momentum in deep learning", equations (1) to (4),
    with the learning rate outside of the velocity; b starts as the first gradient, undampened.

    Args:
        params: Tensors, or dicts of "params" and options.
        lr: γ, a number; torch's one-element Tensors are not taken.
        momentum: μ; 0 keeps no buffer.
        dampening: τ, how much of each new gradient is left out of the buffer.
        weight_decay: λ, the weight of an L2 penalty.
        nesterov: look one velocity ahead; wants momentum and no dampening.
        maximize: climb instead.
    Raises:
        ValueError: a negative lr, momentum or weight_decay; nesterov without momentum or with dampening.
        TypeError: an option that is not a number.

    Example:
        >>> import tinygrad_norm as tg
        >>> w = tg.tensor([1.0, -2.0], requires_grad=True)
        >>> optimizer = tg.optim.SGD([w], lr=0.1, momentum=0.9)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     (w * w).sum().backward()
        ...     optimizer.step()
        >>> w
        tensor([ 0.4600, -0.9200], requires_grad=True)
    """

    _per_element = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        at_least_zero("learning rate", options["lr"])
        at_least_zero("momentum value", options["momentum"])
        at_least_zero("weight_decay value", options["weight_decay"])
        if not isinstance(options["dampening"], (int, float, np.number)):
            raise TypeError(f"Invalid dampening value: expected a number; got {type(options['dampening']).__name__}")
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError(
                f"Nesterov momentum requires a momentum and zero dampening; got momentum={options['momentum']}, dampening={options['dampening']}"
            )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Changes every parameter that has a gradient.

        Args:
            closure: computes the loss anew, with its gradients, and returns it; it runs with gradients enabled.
        Returns:
            What the closure returned, or None.
        """
        loss = self._evaluate(closure)
        for group in self.param_groups:
            if group["momentum"] != 0:
                self._momentum_step(group)
                continue
            lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
            if group["maximize"]:
                lr, weight_decay = -lr, -weight_decay
            stepped = []
            for p in group["params"]:
                if p._grad is None:
                    continue
                stepped.append(p)
                param, grad = p._data, p._grad._data
                flat = param.ravel()
                if flat.base is not None:  # a view of the parameter, which is contiguous; of a gradient, a copy is as good
                    sgd_step[len(flat)](flat, grad.ravel(), lr, weight_decay)
                else:
                    quiet.run(sgd_step.reference, param, grad, lr, weight_decay)
            touch(*stepped)
        return loss

    def _momentum_step(self, group: dict[str, Any]) -> None:
        lr, momentum, weight_decay = float(group["lr"]), float(group["momentum"]), float(group["weight_decay"])
        sign, nesterov = -1.0 if group["maximize"] else 1.0, bool(group["nesterov"])
        for p in group["params"]:
            if p._grad is not None:
                param, grad, state = p._data, p._grad._data, self.state[p]
                take = 1.0 - group["dampening"]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"], take = Tensor(np.zeros(param.shape, param.dtype)), 1.0
                buffer = state["momentum_buffer"]._data
                options = (lr, momentum, float(take), weight_decay, sign, nesterov)
                if param.flags.c_contiguous and buffer.flags.c_contiguous:
                    sgd_momentum_step[param.size](param.ravel(), grad.ravel(), buffer.ravel(), *options)
                else:
                    quiet.run(sgd_momentum_step.reference, param, grad, buffer, *options)
                touch(p)
