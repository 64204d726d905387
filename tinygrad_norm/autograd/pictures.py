"""The pictures of the checks: two Jacobians and their difference; error against step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..plotting import BLUE, GREEN, GREY, ORANGE, new_figure

if TYPE_CHECKING:
    from pathlib import Path

    from .report import PairResult
    from .sweep import SweepResult

__all__ = ["plot_jacobians", "plot_sweep"]


def plot_jacobians(pair: PairResult, name: str, path: str | Path | None = None) -> Any:
    """Analytic and numeric Jacobian in one colour scale, and their difference in its own.

    Args:
        pair: of a report.
        name: of the function, for the title.
        path: where to write the picture as well.
    Returns:
        A matplotlib Figure.
    """
    rows, columns = pair.analytic.shape
    figure = new_figure(11.5, min(max(4.2, 2.6 + 3.4 * rows / max(columns, 1)), 6.6))
    from matplotlib.ticker import FixedLocator, MaxNLocator  # after new_figure, which says what to do where there is none

    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    difference = pair.analytic - pair.numeric
    limit = float(np.nanmax(np.abs([pair.analytic, pair.numeric]), initial=0)) or 1.0
    off = float(np.nanmax(np.abs(difference), initial=0)) or 1.0
    titles = ("analytic: what backward says", "numeric: finite differences", "analytic − numeric")
    images = []
    for axes, values, title, most in zip(panels, (pair.analytic, pair.numeric, difference), titles, (limit, limit, off)):
        images.append(axes.imshow(values, cmap="PuOr", vmin=-most, vmax=most, aspect="auto", interpolation="nearest"))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"element of {pair.input} {pair.input_shape}, row by row")
        for axis, length in ((axes.xaxis, columns), (axes.yaxis, rows)):
            axis.set_major_locator(MaxNLocator(integer=True, nbins=8) if length > 1 else FixedLocator([0]))
    panels[0].set_ylabel(f"element of {pair.output} {pair.output_shape}, row by row")
    figure.colorbar(images[1], ax=list(panels[:2]), location="bottom", label=f"∂{pair.output}/∂{pair.input}", aspect=50, pad=0.02)
    figure.colorbar(images[2], ax=panels[2], location="bottom", label="difference", aspect=24, pad=0.02, ticks=MaxNLocator(5))
    if pair.output_index is not None and pair.input_index is not None and pair.verdict not in ("ok", "independent"):
        column = int(np.ravel_multi_index(pair.input_index, pair.input_shape)) if pair.input_shape else 0
        panels[2].plot([column], [pair.output_offset], marker="s", ms=12, mfc="none", mec=GREEN, mew=2, ls="none")
        panels[2].set_title(f"{titles[2]}; green: the worst element", fontsize=10)
    figure.suptitle(
        f"{name}, ∂{pair.output}/∂{pair.input}: {pair.verdict}; largest difference {pair.absolute_error:.2g}, numeric error about {pair.error_estimate:.1g}",
        fontsize=11,
    )
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def plot_sweep(sweep: SweepResult, path: str | Path | None = None) -> Any:
    """Error against step, on logarithmic axes: the V curve.

    Args:
        sweep: what gradcheck_sweep returned.
        path: where to write the picture as well.
    Returns:
        A matplotlib Figure.
    """
    figure = new_figure(7.2, 4.6)
    axes = figure.subplots()
    tiny = 1e-17
    styles = {"forward": (ORANGE, "s", "--"), "central": (BLUE, "o", "-"), "extrapolated": (GREEN, "^", "-.")}
    labels = {
        "forward": "forward difference, error ∝ h",
        "central": "central difference, error ∝ h²",
        "extrapolated": "extrapolated once (Richardson), error ∝ h⁴",
    }
    for method, errors in sweep.errors.items():
        colour, marker, line = styles[method]
        axes.plot(sweep.steps, np.maximum(errors, tiny), color=colour, marker=marker, ls=line, ms=4, lw=1.4, label=labels[method])
    axes.axhline(max(sweep.adaptive_error, tiny), color=GREY, ls=":", lw=1.8, label="gradcheck: step adapted, extrapolated")
    axes.axvline(1e-6, color=GREY, lw=0.8, label="torch's step, 1e-6")
    axes.set(xscale="log", yscale="log", xlabel="step h (in units of the input)", ylabel="error relative to the analytic derivative")
    axes.set_title(f"{sweep.name}: truncation falls from the right, rounding rises to the left", fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
