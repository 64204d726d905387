"""Adam (Kingma & Ba 2015, arXiv:1412.6980), AMSGrad (Reddi, Kale & Kumar 2018) and AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).

The numbers are the line numbers of Loshchilov & Hutter's Algorithm 2, which shows Adam and AdamW side by side:

    (6)   g ← ∇f(θ) + λθ             the L2 penalty of Adam: only there; −∇f with maximize
    (7)   m ← β₁m + (1−β₁)g
    (8)   v ← β₂v + (1−β₂)g²
    (9)   m̂ ← m/(1−β₁ᵗ)
    (10)  v̂ ← v/(1−β₂ᵗ)              with amsgrad: u ← max(u, v), and u in the place of v
    (12)  θ ← θ − γ(m̂/(√v̂ + ε) + λθ)  the decay of AdamW: only there

m and v start at 0, so m = (1−β₁)Σβ₁ᵗ⁻ˢgₛ has weights that sum to 1−β₁ᵗ: (9) and (10) divide by that. The paper's η·α is γ here,
its η·λ is γλ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..kernel import kernel, prange
from ..quiet import quiet
from ..tensor import Tensor, touch
from .optimizer import Optimizer, at_least_zero

__all__ = ["Adam", "AdamW"]

Array = np.ndarray[Any, Any]

# -- 1. One step on one parameter -----------------------------------------------------------------------------------------------------


def adam_step_reference(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    u: Array,
    beta1: float,
    beta2: float,
    new1: float,
    new2: float,
    eps: float,
    rate: float,
    lift: float,
    l2: float,
    keep: float,
    sign: float,
    amsgrad: bool,
) -> None:
    """Lines (6) to (12) for one parameter.

    `new1` is 1−β₁, `new2` 1−β₂ (taken from 1 in here, fastmath would multiply them out, and v would lose digits);
    `rate` is γ/(1−β₁ᵗ), `lift` 1/√(1−β₂ᵗ) (to divide each element by the root took a third longer), `keep` 1−γλ (AdamW) or 1,
    `l2` λ (Adam) or 0, `sign` −1 with maximize; u is empty without amsgrad.
    """
    kind = param.dtype.type
    g = kind(sign) * grad
    if l2 != 0:
        g = g + kind(l2) * param  # (6)
    m *= kind(beta1)
    m += kind(new1) * g  # (7)
    v *= kind(beta2)
    v += kind(new2) * g * g  # (8)
    if amsgrad:
        np.maximum(u, v, out=u)
    root_of_v = np.sqrt(u if amsgrad else v) * kind(lift)  # (10)
    param *= kind(keep)
    param -= kind(rate) * (m / (root_of_v + kind(eps)))  # (9), (12)


@kernel(reference=adam_step_reference)
def adam_step(param, grad, m, v, u, beta1, beta2, new1, new2, eps, rate, lift, l2, keep, sign, amsgrad):  # type: ignore[no-untyped-def]
    kind = param.dtype.type  # a Python float in the loop would make all of it float64
    b1, b2, n1, n2 = kind(beta1), kind(beta2), kind(new1), kind(new2)
    e, alpha, c, lam, kept, s = kind(eps), kind(rate), kind(lift), kind(l2), kind(keep), kind(sign)
    for i in prange(len(param)):
        g = s * grad[i]
        if lam != 0:
            g = g + lam * param[i]  # (6)
        mi = b1 * m[i] + n1 * g  # (7)
        vi = b2 * v[i] + n2 * g * g  # (8)
        m[i] = mi
        v[i] = vi
        if amsgrad:
            if u[i] >= vi or u[i] != u[i]:  # a NaN stays, as in NumPy's maximum
                vi = u[i]
            u[i] = vi
        param[i] = kept * param[i] - alpha * (mi / (np.sqrt(vi) * c + e))  # (9), (10), (12)


# -- 2. For users ---------------------------------------------------------------------------------------------------------------------


class Adam(Optimizer):
    """Steps by the mean of the recent gradients over the root of the mean of their squares.

    m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  m̂ = m/(1−β₁ᵗ);  v̂ = v/(1−β₂ᵗ);  θ ← θ − γm̂/(√v̂ + ε)

    Kingma & Ba 2015, Algorithm 1; lines (6) to (12) of Loshchilov & Hutter 2019, Algorithm 2, on the L2 side.

    Args:
        params: Tensors, or dicts of "params" and options.
        lr: γ, about the largest change of an element in one step; torch's one-element Tensors are not taken.
        betas: β₁ and β₂, floats in [0, 1): the memory of m and of v is about 1/(1−β) steps.
        eps: ε, added to the root.
        weight_decay: λ; here λθ is added to the gradient and divided like it: an L2 penalty. See AdamW.
        amsgrad: divide by the largest v so far (Reddi, Kale & Kumar 2018, Algorithm 2).
        maximize: climb instead.
        decoupled_weight_decay: what AdamW is.
    Raises:
        ValueError: a negative lr, eps or weight_decay, or a β outside of [0, 1), or one that is not a float.
        TypeError: an option that is not a number.

    Example:
        >>> import tinygrad_norm as tg
        >>> w = tg.tensor([1.0, -100.0], requires_grad=True)
        >>> optimizer = tg.optim.Adam([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([  0.9000, -99.9000], requires_grad=True)
    """

    _per_element = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _check(self, options: Mapping[str, Any]) -> None:
        at_least_zero("learning rate", options["lr"])
        at_least_zero("epsilon value", options["eps"])
        at_least_zero("weight_decay value", options["weight_decay"])
        betas = options["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"Invalid betas: expected two floats; got {betas!r}")
        for i, beta in enumerate(betas):
            if not isinstance(beta, (int, float, np.number)):
                raise TypeError(f"Invalid beta parameter at index {i}: expected a float; got {type(beta).__name__}")
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}; expected a float in [0, 1)")
        if not (isinstance(betas[0], float) and isinstance(betas[1], float)):
            raise ValueError(f"betas must be both floats; got {betas!r}: write 0.0 for 0")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Changes every parameter that has a gradient.

        Args:
            closure: computes the loss anew, with its gradients, and returns it; it runs with gradients enabled.
        Returns:
            What the closure returned, or None.
        """
        loss = self._evaluate(closure)
        for group in self.param_groups:
            lr, (beta1, beta2), eps, weight_decay = float(group["lr"]), group["betas"], float(group["eps"]), float(group["weight_decay"])
            amsgrad, sign = bool(group["amsgrad"]), -1.0 if group["maximize"] else 1.0
            l2, keep = (0.0, 1.0 - lr * weight_decay) if group["decoupled_weight_decay"] else (weight_decay, 1.0)
            before = None
            for p in group["params"]:
                if p._grad is None:
                    continue
                param, grad, state = p._data, p._grad._data, self.state[p]
                if not state:
                    state["step"] = Tensor(np.zeros((), np.float32))
                    for key in self._per_element[: 3 if amsgrad else 2]:
                        state[key] = Tensor(np.zeros(param.shape, param.dtype))
                clock, m, v = state["step"]._data, state["exp_avg"]._data, state["exp_avg_sq"]._data
                u = state["max_exp_avg_sq"]._data if amsgrad else _NOTHING[param.dtype.char]
                t = clock.item() + 1
                clock[()] = t
                if t != before:  # most parameters are of one age
                    before, rate, lift = t, lr / (1 - beta1**t), (1 - beta2**t) ** -0.5
                options = (beta1, beta2, 1 - beta1, 1 - beta2, eps, rate, lift, l2, keep, sign, amsgrad)
                if param.flags.c_contiguous and m.flags.c_contiguous and v.flags.c_contiguous and u.flags.c_contiguous:
                    adam_step[param.size](param.ravel(), grad.ravel(), m.ravel(), v.ravel(), u.ravel(), *options)
                else:
                    quiet.run(adam_step.reference, param, grad, m, v, u, *options)
                touch(p)
        return loss

    def _adopt(self, number: Any, p: Tensor, group: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        adopted = super()._adopt(number, p, group, values)
        needed = ("step", *self._per_element[: 3 if group["amsgrad"] else 2])
        missing = [key for key in needed if adopted.get(key) is None]
        if adopted and missing:
            raise ValueError(
                f"loaded state dict: the state of parameter {number} lacks {', '.join(missing)}: "
                "it is from another kind of optimizer, or from one without amsgrad"
            )
        if adopted:
            step = adopted["step"]
            adopted["step"] = Tensor(np.array(step._data if isinstance(step, Tensor) else step, np.float32).reshape(()))
        return adopted


_NOTHING = {kind: np.empty(0, kind) for kind in "fd"}  # u where there is none


class AdamW(Adam):
    """Adam whose weight decay does not pass through m and v: every element shrinks at the same rate γλ.

    θ ← θ − γ(m̂/(√v̂ + ε) + λθ), m̂ and v̂ of the bare gradient

    Loshchilov & Hutter 2019, Algorithm 2, on the decoupled side; arguments and errors as Adam, weight_decay 0.01.

    Example:
        >>> import tinygrad_norm as tg
        >>> w = tg.tensor([1.0, -100.0], requires_grad=True)
        >>> optimizer = tg.optim.AdamW([w], lr=0.1, weight_decay=0.1)
        >>> (w * w).sum().backward()
        >>> optimizer.step()
        >>> w
        tensor([  0.8900, -98.9000], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As Optimizer.load_state_dict; the decay stays decoupled, whatever is loaded."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
