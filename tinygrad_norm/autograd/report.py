"""What a check found: a result for each (output, input) pair, and all of them as a table, as HTML, as JSON, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..notebook import report_html
from .pictures import plot_jacobians
from .target import Array, GradcheckError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["VERDICTS", "GradcheckResult", "PairResult", "Report", "format_table"]

# From the worst down: what a pair is called is the worst that is true of one of its elements.
VERDICTS = {
    "wrong": "the analytic gradient is not the derivative",
    "not deterministic": "two calls with the same inputs differ, so there is no derivative to compare with",
    "noisy": "the function trembles (rounding inside, float32?), and the numeric derivative with it",
    "inconclusive": "the numeric derivative is not good enough to decide",
    "kink": "the slopes on both sides differ (or the function jumps): there is no derivative here; the gradient is one of the slopes or between them",
    "ok": "the gradients agree",
    "independent": "the output does not depend on the input",
}


class Report:
    """What prints as a table under a title, and shows itself in a notebook.

    Attributes:
        header: the heads of the table's columns.
    """

    header: tuple[str, ...]

    @property
    def title(self) -> str:
        """What stands above the table."""
        raise NotImplementedError

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table."""
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.title}\n{format_table(self.header, self.rows())}"

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return report_html(self.title, self.header, self.rows())


class PairResult:
    """How the gradient of one output by one input came out.

    Attributes:
        output, input: their names. output_shape, input_shape: their shapes.
        analytic, numeric, error: (outputs, inputs) the two Jacobians and the estimated error of the numeric one.
        left, right, kink, jump: (outputs, inputs) the slopes on both sides, and where they differ or the function jumps; see numeric.py.
        wrong_elements: (outputs, inputs) where the analytic gradient is wrong.
        connected: whether the graph leads from the output to the input. projected: whether only a random projection was compared (fast mode).
        verdict: one of VERDICTS.
        output_index, input_index: where the worst element stands.
        analytic_value, numeric_value, error_estimate, absolute_error, relative_error: of the worst element.
        findings: what else can be said, one sentence each.
    """

    analytic: Array
    numeric: Array
    error: Array
    left: Array
    right: Array
    kink: Array
    jump: Array
    wrong_elements: Array
    connected = True
    projected = False
    verdict = "ok"
    output_index: tuple[int, ...] | None = None
    input_index: tuple[int, ...] | None = None
    output_offset = 0
    analytic_value = numeric_value = error_estimate = absolute_error = relative_error = 0.0

    def __init__(self, output: str, input: str, output_shape: tuple[int, ...], input_shape: tuple[int, ...], atol: float, rtol: float) -> None:
        self.output, self.input = output, input
        self.output_shape, self.input_shape = output_shape, input_shape
        self.atol, self.rtol = atol, rtol
        self.findings: list[str] = []

    def __repr__(self) -> str:
        return f"<d{self.output}/d{self.input}: {self.verdict}, absolute error {self.absolute_error:.3g}>"

    @property
    def told(self) -> Array:
        """The numeric Jacobian, with 0 for what may be 0, by as much as `judge` allows it to be off."""
        return np.where(np.abs(self.numeric) <= 3 * self.error, 0.0, self.numeric)

    def judge(self, nondeterministic: str | None = None) -> None:
        """Sets the verdict and the worst element from the arrays."""
        a, n, error = self.analytic, self.numeric, self.error
        if not a.size:
            self.wrong_elements = np.zeros(a.shape, bool)
            return
        with np.errstate(all="ignore"):
            difference = np.abs(a - n)
            tolerance = self.atol + self.rtol * np.abs(n)
            gap = np.abs(self.right - self.left)
            strange = (self.kink | self.jump) & ~(gap <= tolerance)
            low, high = np.minimum(self.left, self.right), np.maximum(self.left, self.right)
            slack = 0.02 * (high - low) + tolerance
            between = (a >= low - slack) & (a <= high + slack) | ~np.isfinite(low) | ~np.isfinite(high)
            finite = np.isfinite(a) & np.isfinite(n) & np.isfinite(error)
            # A difference is a mistake where it is beyond the tolerance and beyond what the numeric value may be off by itself.
            wrong = ~strange & (difference > tolerance) & (difference > 3 * error) & finite | strange & ~between
            wrong |= ~np.isfinite(a) & np.isfinite(n) & np.isfinite(error)
            unclear = ~strange & ~wrong & ~((difference <= tolerance) & (error <= tolerance))
        self.wrong_elements = wrong
        severity = np.where(wrong, 3, np.where(unclear, 2, np.where(strange, 1, 0)))
        worst_kind = int(severity.max())
        size = np.where(np.isfinite(difference), difference - tolerance + error if worst_kind == 2 else difference, np.inf)
        offset = int(np.argmax(np.where(severity == worst_kind, size, -np.inf)))
        o, i = divmod(offset, a.shape[1])
        self.output_offset = o
        if not self.projected:
            self.output_index = tuple(int(v) for v in np.unravel_index(o, self.output_shape))
            self.input_index = tuple(int(v) for v in np.unravel_index(i, self.input_shape))
        self.analytic_value, self.numeric_value, self.error_estimate = float(a[o, i]), float(n[o, i]), float(error[o, i])
        self.absolute_error = float(difference[o, i])
        self.relative_error = self.absolute_error / max(abs(self.numeric_value), abs(self.analytic_value), 1e-300)
        self.verdict = ("ok", "kink", "inconclusive", "wrong")[worst_kind]
        if self.verdict == "ok" and not self.connected:
            self.verdict = "independent"
        if self.verdict == "kink":
            what = "the function jumps" if self.jump[o, i] else "the slope is"
            sides = "" if self.jump[o, i] else f" {self.left[o, i]:.6g} on the left and {self.right[o, i]:.6g} on the right"
            self.findings.append(
                f"{self.place()}: {what}{sides}, so no derivative exists there; the gradient says {self.analytic_value:.6g}. "
                f"{int(strange.sum())} of {a.size} elements are such. Move the input off it to check the rest"
            )
        if self.verdict == "inconclusive":
            self.findings.append(
                f"{self.place()}: the numeric derivative is {self.numeric_value:.6g} ± {self.error_estimate:.2g}, the tolerance "
                f"{float(tolerance[o, i]):.2g}: it cannot decide"
                if finite[o, i]
                else f"{self.place()}: analytic {self.analytic_value:.6g}, numeric {self.numeric_value:.6g}: the function is not finite around here"
            )
        if nondeterministic is not None and self.verdict != "independent":
            self.verdict = "not deterministic"

    def note_noise(self, level: float, value: float, unit: float, step: float) -> None:
        """Turns the verdict into "noisy" where the function was found to tremble by more than its rounding, and by enough to explain it.

        Args:
            level: how much the output of the worst element trembles. value: its size. unit: its rounding, relative.
            step: with which differences were taken.
        """
        if self.verdict == "wrong" and not 100 * level / step > self.absolute_error:
            return
        if level > 100 * unit * max(value, 1e-3):
            self.error_estimate = max(self.error_estimate, level / step)
            self.verdict = "noisy"
            digits = level / max(value, 1e-300)
            self.findings.append(
                f"the output trembles by {level:.1g} ({digits:.1g} of its value) when the input hardly moves"
                + (": as if it was computed in float32 on the way" if 1e-9 < digits < 1e-5 else "")
            )

    def place(self) -> str:
        """Where the worst element stands, as d output[0, 1] / d x[2]."""
        if self.output_index is None or self.input_index is None:
            return f"d {self.output}/d {self.input} along a random direction"
        index = [f"[{', '.join(map(str, i))}]" if i else "" for i in (self.output_index, self.input_index)]
        return f"d {self.output}{index[0]}/d {self.input}{index[1]}"

    def to_dict(self) -> dict[str, Any]:
        """What can be written as JSON."""
        return {
            "output": self.output,
            "input": self.input,
            "verdict": self.verdict,
            "output_index": self.output_index,
            "input_index": self.input_index,
            "analytic": self.analytic_value,
            "numeric": self.numeric_value,
            "absolute_error": self.absolute_error,
            "relative_error": self.relative_error,
            "numeric_error_estimate": self.error_estimate,
            "findings": self.findings,
        }


class GradcheckResult(Report):
    """What gradcheck_report returns: `print` it, look at `pairs`, or `.plot()`.

    Attributes:
        name: of the function.
        pairs: a PairResult for each (output, input).
        problems: what is wrong with the function or its backward as a whole.
        warnings: where the check says less than it seems to.
        nondeterministic: why two calls differ, or None.
        atol, rtol: the thresholds.
    """

    header = ("output", "input", "verdict", "worst at", "analytic", "numeric", "numeric ±", "abs error", "rel error")

    def __init__(self, name: str, atol: float, rtol: float) -> None:
        self.name = name
        self.atol, self.rtol = atol, rtol
        self.pairs: list[PairResult] = []
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.nondeterministic: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every gradient was shown to be right."""
        return not self.problems and self.nondeterministic is None and all(p.verdict in ("ok", "independent") for p in self.pairs)

    @property
    def verdict(self) -> str:
        """The worst verdict of all pairs; "wrong" where the whole has a problem."""
        order = list(VERDICTS)
        found = [p.verdict for p in self.pairs] + ["wrong"] * bool(self.problems) + ["not deterministic"] * (self.nondeterministic is not None)
        return min(found, key=order.index, default="ok")

    @property
    def worst(self) -> PairResult | None:
        """The pair to look at first."""
        order = list(VERDICTS)
        return min(self.pairs, key=lambda p: (order.index(p.verdict), -p.relative_error), default=None)

    def __bool__(self) -> bool:
        return self.ok

    def raise_for_failure(self) -> None:
        """Raises GradcheckError with the report where the check failed."""
        if not self.ok:
            raise GradcheckError(str(self))

    def sentences(self) -> list[str]:
        """All that is to be said beside the table."""
        said = list(self.problems)
        if self.nondeterministic is not None:
            said.insert(0, self.nondeterministic)
        for p in self.pairs:
            said += [f"{p.output}, {p.input}: {finding}" for finding in p.findings]
        seen = {v for v in (p.verdict for p in self.pairs) if v not in ("ok", "independent")}
        return said + [f"{v}: {VERDICTS[v]}" for v in VERDICTS if v in seen]

    @property
    def title(self) -> str:
        """The function, and whether all is well."""
        return f"gradcheck of {self.name}: {'ok' if self.ok else 'FAILED'}"

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table: a row for each pair."""
        rows: list[tuple[str, ...]] = []
        for p in self.pairs:
            shown = p.output if p.projected else f"{p.output} {p.output_shape}"
            other = p.input if p.projected else f"{p.input} {p.input_shape}"
            where = "projection" if p.output_index is None or p.input_index is None else f"{list(p.output_index)}, {list(p.input_index)}"
            errors = (f"{e:.1e}" for e in (p.error_estimate, p.absolute_error, p.relative_error))
            rows.append((shown, other, p.verdict, where, f"{p.analytic_value:.8g}", f"{p.numeric_value:.8g}", *errors))
        return rows

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"* {s}" for s in self.sentences()), *(f"! {w}" for w in self.warnings)])

    def _repr_html_(self) -> str:
        return report_html(self.title, self.header, self.rows(), self.sentences() + [f"Note: {w}" for w in self.warnings])

    def to_dict(self) -> dict[str, Any]:
        """What can be written as JSON."""
        return {
            "name": self.name,
            "ok": self.ok,
            "verdict": self.verdict,
            "atol": self.atol,
            "rtol": self.rtol,
            "problems": self.problems + ([] if self.nondeterministic is None else [self.nondeterministic]),
            "warnings": self.warnings,
            "pairs": [p.to_dict() for p in self.pairs],
        }

    def plot(self, pair: int | None = None, path: str | Path | None = None) -> Any:
        """Draws the two Jacobians of a pair and their difference.

        Args:
            pair: its number in `pairs`; the worst one if None.
            path: where to write the picture as well, .png, .svg or .pdf.
        Returns:
            A matplotlib Figure.
        Raises:
            ImportError: matplotlib is not installed.
            ValueError: there is no Jacobian to draw.
        """
        chosen = self.worst if pair is None else self.pairs[pair]
        if chosen is None or chosen.projected:
            raise ValueError("there is no Jacobian to draw: in fast mode only random projections are compared; use fast_mode=False")
        return plot_jacobians(chosen, self.name, path)


def format_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], indent: str = "  ") -> str:
    """Columns as wide as their longest cell.

    Example:
        >>> print(format_table(("op", "error"), [("relu", "0")], indent=""))
        op    error
        relu  0
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return "\n".join((indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths))).rstrip() for row in (header, *rows))
