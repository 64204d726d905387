"""Error against step: why a numeric derivative has a best step, and what extrapolation gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..notebook import report_html
from ..tensor import Tensor
from ..walk import grad
from .numeric import derivative, first_step
from .pictures import plot_sweep
from .report import format_table
from .target import Array, GradcheckError, Target, own_stream, upstream_like

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SweepResult", "gradcheck_sweep"]


class SweepResult(NamedTuple):
    """Errors of three difference formulas at many steps.

    Attributes:
        name: of the function.
        steps: (K,) from the largest to the smallest.
        errors: "forward", "central", "extrapolated" → (K,) relative to the analytic derivative.
        analytic: that derivative, along a random direction and with random weights on the outputs.
        adaptive: what gradcheck's own numeric derivative says; adaptive_error: how far off it is.
    """

    name: str
    steps: Array
    errors: dict[str, Array]
    analytic: float
    adaptive: float
    adaptive_error: float

    def best(self, method: str = "central") -> tuple[float, float]:
        """The step with the smallest error, and that error."""
        errors = np.where(np.isfinite(self.errors[method]), self.errors[method], np.inf)
        k = int(np.argmin(errors))
        return float(self.steps[k]), float(errors[k])

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table."""
        return [(f"{h:.0e}", *(f"{self.errors[m][k]:.1e}" for m in self.errors)) for k, h in enumerate(self.steps)]

    def __str__(self) -> str:
        table = format_table(("step", *self.errors), self.rows())
        return f"error of the numeric derivative of {self.name} against its step\n{table}\n  adapted and extrapolated: {self.adaptive_error:.1e}"

    def _repr_html_(self) -> str:
        title = f"error of the numeric derivative of {self.name} against its step; adapted and extrapolated: {self.adaptive_error:.1e}"
        return report_html(title, ("step", *self.errors), self.rows())

    def plot(self, path: str | Path | None = None) -> Any:
        """The V curve as a matplotlib Figure, also written to `path`; ImportError without matplotlib."""
        return plot_sweep(self, path)


def gradcheck_sweep(fn: Callable[..., Any], inputs: Any, steps: Sequence[float] | None = None, *, seed: int = 0) -> SweepResult:
    """How the error of a numeric derivative depends on its step: φ(t) = v·fn(x + t·u), with random v and u, against v·J·u.

    With ε the rounding of the type, a formula of order p has the error C·hᵖ + ε|φ|/h: a V on logarithmic axes, whose bottom is at
    h ≈ ε^(1/(p+1)), 1e-8 for the forward, 1e-5 for the central difference in float64. Where the curve has no V but a plateau that no
    step goes below, the analytic derivative is wrong.

    Args:
        fn, inputs: as gradcheck's.
        steps: those to try; 1e0 … 1e-13 if None.
        seed: of v and u.
    Returns:
        A SweepResult; print it or `.plot()` it.
    Raises:
        ValueError: nothing to differentiate, or a step that is not positive. GradcheckError: no output depends on the inputs.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([0.5, 1.5], dtype=tg.float64, requires_grad=True)
        >>> sweep = tg.autograd.gradcheck_sweep(tg.exp, x)
        >>> sweep.adaptive_error < 1e-12 < sweep.best("central")[1] < 1e-9
        True
    """
    target = Target(fn, inputs)
    tried = np.asarray([10.0 ** (-k / 2) for k in range(27)] if steps is None else steps, np.float64)
    if tried.ndim != 1 or not tried.size or not np.all(tried > 0):
        raise ValueError(f"gradcheck_sweep: steps must be positive numbers; got {steps!r}")
    rng = own_stream(seed)
    try:
        outputs = [n for n in target.call() if n.tensor.requires_grad]
        if not outputs:
            raise GradcheckError(f"{target.name}: no output depends on an input that requires a gradient")
        weights = [upstream_like(n.tensor, rng) for n in outputs]
        found = grad([n.tensor for n in outputs], [n.tensor for n in target.inputs], [Tensor(w) for w in weights], allow_unused=True)
        names = {n.name for n in outputs}
        direction = [rng.standard_normal(n.tensor.shape) for n in target.inputs]
        analytic = float(sum(np.sum(g._data.astype(np.float64) * u) for g, u in zip(found, direction) if g is not None))
        with target.private_copies() as copies:
            starts = [x.copy() for x in copies]

            def line(t: float) -> tuple[float, Array]:
                for x, start, u in zip(copies, starts, direction):
                    x[...] = start + t * u
                named = [n for n in target.call() if n.name in names]
                for x, start in zip(copies, starts):
                    x[...] = start
                return t, np.array([float(sum(np.sum(n.tensor._data.astype(np.float64) * w) for n, w in zip(named, weights)))])

            centre = line(0.0)[1]

            def central(h: float) -> float:
                return float((line(h)[1] - line(-h)[1])[0] / (2 * h))

            scale = abs(analytic) or 1.0
            with np.errstate(all="ignore"):
                errors = {
                    "forward": np.array([abs((line(h)[1] - centre)[0] / h - analytic) / scale for h in tried]),
                    "central": np.array([abs(central(h) - analytic) / scale for h in tried]),
                    "extrapolated": np.array([abs((4 * central(h / 2) - central(h)) / 3 - analytic) / scale for h in tried]),
                }
            unit = max(np.finfo(x.dtype).eps for x in copies)
            begin = min(first_step(x) for x in copies) / 4
            adaptive = float(derivative(line, centre, begin, np.array([unit])).value[0])
    finally:
        target.snapshot.restore()
    return SweepResult(target.name, tried, errors, analytic, adaptive, abs(adaptive - analytic) / scale)
