"""Differentiation by name: torch.autograd's functions, from the engine (tensor.py, function.py, walk.py); and the checks of what it computes.

    gradcheck.py      gradcheck, gradgradcheck, gradcheck_report: analytic against numeric derivatives
    jacobians.py      the check itself, step by step
    numeric.py        the numeric derivative, its error estimate, kinks and noise
    target.py         the function under check: inputs of any structure, state that is put back
    explain.py        what kind of mistake it is; where a check is blind
    report.py         the result as a table, HTML, JSON; pictures.py draws it
    sweep.py          error against step
    invariants.py     what holds for every norm, by name
    power.py          which wrong backwards a check would let through; wrong_norms.py and wrong_layers.py are the bank of them
    torch_compare.py  the same program with torch, side by side
    anomaly.py        detect_anomaly: the line of the forward that made a NaN in the backward
    suite.py          all of it over every op of the library: `tinygrad-norm gradcheck`; suite_rows.py, user_function.py
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..function import Function
from ..grad_mode import enable_grad, inference_mode, no_grad, set_grad_enabled
from ..tensor import Tensor
from ..walk import grad, run_backward

# Not lazily: the module has its function's name, as in torch, and the last import of the two would win.
from .gradcheck import GradcheckError, GradcheckWarning, gradcheck, gradcheck_report, gradgradcheck

if TYPE_CHECKING:
    from .anomaly import detect_anomaly
    from .invariants import check_norm_invariants
    from .power import gradcheck_power
    from .sweep import gradcheck_sweep
    from .torch_compare import compare_with_torch

__all__ = [
    "Function",
    "GradcheckError",
    "GradcheckWarning",
    "backward",
    "check_norm_invariants",
    "compare_with_torch",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradcheck_power",
    "gradcheck_report",
    "gradcheck_sweep",
    "gradgradcheck",
    "inference_mode",
    "no_grad",
    "set_grad_enabled",
]

_LAZY = {
    "check_norm_invariants": "invariants",
    "compare_with_torch": "torch_compare",
    "detect_anomaly": "anomaly",
    "gradcheck_power": "power",
    "gradcheck_sweep": "sweep",
}


def __getattr__(name: str) -> Any:
    """The rarer checks are imported when they are first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Tensor.backward from several roots in one walk.

    Args:
        tensors: the roots.
        grad_tensors: one gradient for each, of its shape; None for roots of one element.
        retain_graph, create_graph, inputs: as Tensor.backward's.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.ones(2, requires_grad=True)
        >>> tg.autograd.backward([x.sum(), (2 * x).sum()])
        >>> x.grad
        tensor([3., 3.])
    """
    roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    given = [grad_tensors] if isinstance(grad_tensors, Tensor) else [None] * len(roots) if grad_tensors is None else list(grad_tensors)
    if len(given) != len(roots):
        raise RuntimeError(f"got {len(roots)} tensors and {len(given)} gradients: one gradient for each tensor")
    only = None if inputs is None else [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if only is not None and not only:
        raise RuntimeError("`inputs` argument to `backward()` cannot be empty.")
    run_backward(roots, given, create_graph if retain_graph is None else retain_graph, create_graph, only, accumulate=True)
