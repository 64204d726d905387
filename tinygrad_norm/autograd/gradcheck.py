"""gradcheck: does the gradient of a function hold? With torch's signature and meaning, a better numeric derivative, and more to say.

What is compared, for every output and every input that requires a gradient, is the whole Jacobian:

    analytic[o, i] = ∂output_o/∂input_i    row o: one backward with a 1 at output o and 0 elsewhere          (1)
    numeric[o, i]                          column i: the output along input i, extrapolated (numeric.py)     (2)

A sum is never taken: sum(y) hides more than half of the wrong gradients of a norm (power.py). And because a backward that is not
linear in dy can still be right on every row of (1), as relu(dy) is, one more backward with a random dy must equal dy·analytic.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..grad_mode import enable_grad
from ..tensor import Tensor
from ..walk import grad
from .jacobians import check
from .report import GradcheckResult
from .target import GradcheckError, Gradients, Target, own_stream, plural, upstream_like

__all__ = ["GradcheckError", "GradcheckWarning", "gradcheck", "gradcheck_report", "gradgradcheck"]


class GradcheckWarning(UserWarning):
    """The check ran, and something about it says less than it seems to: float32, γ = 1, one sample …"""


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    fast_mode: bool = False,
    parameters: bool = True,
    allow_unused: bool = False,
) -> bool:
    """Whether |analytic − numeric| ≤ atol + rtol·|numeric| holds for the gradient of every output by every input.

    Differences from torch.autograd.gradcheck: the numeric derivative is good to about 1e-10 and knows its own error; the parameters
    of a Module are checked as well; a backward that is not linear in the upstream gradient, a kink, and a check that cannot decide
    are failures; buffers are as they were when it returns.

    Args:
        func: takes the inputs, returns a Tensor or a structure of them.
        inputs: a Tensor; a tuple or list of arguments; a dict of keyword arguments; each may be nested. Those that require a
            gradient are checked, best in float64; the others are passed on.
        eps: None adapts the step to each element and extrapolates; a number takes central differences with that step (torch: 1e-6).
        atol, rtol: the thresholds.
        raise_exception: raise where the check fails, instead of returning False.
        nondet_tol: how much two equal calls, or two equal backwards, may differ.
        check_undefined_grad: whether the gradient must be right where only some outputs have one.
        fast_mode: compare one random projection a pair instead of whole Jacobians.
        parameters: whether the parameters of a Module are checked.
        allow_unused: whether an input may have no effect on any output, and an output depend on no input; by default that is an error,
            as the check of it says nothing.
    Returns:
        True, or False where it fails and raise_exception is False.
    Raises:
        GradcheckError: the gradient does not hold; its message is the report.
        ValueError: no input requires a gradient.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([0.5, -1.5], dtype=tg.float64, requires_grad=True)
        >>> tg.autograd.gradcheck(tg.exp, x)
        True
    """
    try:
        result = gradcheck_report(
            func,
            inputs,
            eps=eps,
            atol=atol,
            rtol=rtol,
            nondet_tol=nondet_tol,
            check_undefined_grad=check_undefined_grad,
            fast_mode=fast_mode,
            parameters=parameters,
            allow_unused=allow_unused,
        )
        for message in result.warnings:
            warnings.warn(message, GradcheckWarning, stacklevel=2)
        result.raise_for_failure()
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    fast_mode: bool = False,
    parameters: bool = True,
) -> bool:
    """gradcheck of the gradient itself: the second derivatives by the inputs and by the upstream gradients.

    Args:
        func, inputs: as gradcheck's.
        grad_outputs: one upstream gradient for each floating point output; random if None.
        gen_non_contig_grad_outputs: make the random ones non-contiguous.
        eps, atol, rtol, raise_exception, nondet_tol, check_undefined_grad, fast_mode, parameters: as gradcheck's.
    Returns:
        True, or False where it fails and raise_exception is False.
    Raises:
        GradcheckError: the second derivative does not hold, or there is none.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([0.5, -1.5], dtype=tg.float64, requires_grad=True)
        >>> tg.autograd.gradgradcheck(tg.tanh, x)
        True
    """
    try:
        first, second = gradient_of(func, inputs, grad_outputs, gen_non_contig_grad_outputs, parameters)
        return gradcheck(
            first,
            second,
            eps=eps,
            atol=atol,
            rtol=rtol,
            nondet_tol=nondet_tol,
            check_undefined_grad=check_undefined_grad,
            fast_mode=fast_mode,
            allow_unused=True,
        )
    except GradcheckError:
        if raise_exception:
            raise
        return False


def gradient_of(func: Any, inputs: Any, grad_outputs: Any = None, non_contiguous: bool = False, parameters: bool = True) -> tuple[Any, dict[str, Tensor]]:
    """The function (inputs, upstream gradients) → gradients, and the dict of arguments to give it.

    Returns:
        A function of keyword arguments, and its arguments by name: the inputs under their own names, `grad_output` for the others.
    """
    target = Target(func, inputs, parameters)
    outputs = [n for n in target.call() if n.tensor.requires_grad]
    target.snapshot.restore()
    if not outputs:
        raise GradcheckError(f"{target.name}: no output requires a gradient: something on the way detaches it")
    if grad_outputs is None:
        rng = own_stream(17)
        values = [upstream_like(n.tensor, rng) for n in outputs]
        upstream = [Tensor(np.stack([v, v], axis=-1)[..., 0] if non_contiguous else v, True) for v in values]
    else:
        upstream = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
        if len(upstream) != len(outputs):
            raise ValueError(f"gradgradcheck: {plural(len(outputs), 'output')} but {plural(len(upstream), 'grad_output')}")
    leaves = [n.tensor for n in target.inputs]

    def found(create_graph: bool) -> Gradients:
        current = [n.tensor for n in target.call() if n.tensor.requires_grad]
        with enable_grad():
            every = grad(current, leaves, upstream, create_graph=create_graph, allow_unused=True)
        return Gradients({f"d{n.name}": g for n, g in zip(target.inputs, every) if g is not None})

    def gradients(**_: Tensor) -> Gradients:
        recorded = found(True)
        if not any(g.requires_grad for g in recorded.values()):
            raise GradcheckError(
                f"{target.name}: its gradients do not depend on anything: it is linear, and has no second derivative to check, or its backward detaches them"
            )
        return recorded

    def unrecorded(**_: Tensor) -> Gradients:
        return found(False)

    gradients.unrecorded = unrecorded  # type: ignore[attr-defined]  # for the differences: as a training computes it, and twice as fast
    gradients.__name__ = f"gradient of {target.name}"
    arguments = {n.name: n.tensor for n in target.tensors}
    for i, v in enumerate(upstream):
        name = "grad_output" if len(upstream) == 1 else f"grad_output[{i}]"
        while name in arguments:  # an input of that name
            name += "'"
        arguments[name] = v
    return gradients, arguments


def gradcheck_report(
    fn: Callable[..., Any],
    inputs: Any,
    *,
    eps: float | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    fast_mode: bool = False,
    parameters: bool = True,
    allow_unused: bool = False,
    seed: int = 0,
) -> GradcheckResult:
    """All that gradcheck can find out, as an object: print it, show it in a notebook, or `.plot()` it.

    Args:
        fn, inputs, eps, atol, rtol, nondet_tol, check_undefined_grad, fast_mode, parameters, allow_unused: as gradcheck's.
        seed: of the random projections.
    Returns:
        A GradcheckResult: for each (output, input) the worst element, its index, analytic and numeric value, absolute and relative
        error, the estimated error of the numeric value, and a verdict.
    Raises:
        ValueError: no input requires a gradient.
        GradcheckError: fn returns no Tensor; an input has no effect on anything; a backward raises.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([0.5, 0.0], dtype=tg.float64, requires_grad=True)
        >>> report = tg.autograd.gradcheck_report(tg.relu, x)
        >>> report.ok, report.pairs[0].verdict, report.pairs[0].input_index
        (False, 'kink', (1,))
    """
    target = Target(fn, inputs, parameters)
    for name, value in (("eps", 1.0 if eps is None else eps), ("atol", atol), ("rtol", rtol), ("nondet_tol", nondet_tol)):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
            raise TypeError(f"gradcheck: {name} must be a number; got {type(value).__name__}")
        if not value >= 0 or (name == "eps" and not 0 < value < math.inf):
            raise ValueError(f"gradcheck: {name} must be {'positive' if name == 'eps' else '>= 0'}; got {value}")
    result = GradcheckResult(target.name, atol, rtol)
    for n in target.inputs:
        if n.tensor._data.dtype != np.float64:
            result.warnings.append(
                f"{n} requires a gradient and is {n.tensor.dtype}: its differences are good to a few digits only, and this check will likely "
                "fail or prove little. Use float64."
            )
    try:
        check(target, result, own_stream(seed), eps, nondet_tol, check_undefined_grad, fast_mode, allow_unused)
    finally:
        target.snapshot.restore()
    return result
