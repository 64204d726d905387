"""What the bench prints and writes: a table with the ratios first, JSON, and a picture."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..autograd.target import plural
from ..kernel import available_threads
from ..plotting import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, new_figure
from .contest import Failure, Figure

__all__ = ["HEADER", "failure_line", "figure_line", "machine", "plot", "summary", "write_json"]

SCHEMA = 1  # of the JSON; counted up when a reader of the old one would stumble

# -- 1. Lines ------------------------------------------------------------------------------------------------------------------------------------

HEADER = f"{'ratio':>7} {'least':>7}  {'asked':>6}  {'met':<4}  {'row':<46} {'phase':<9} values (medians)"


def figure_line(f: Figure) -> str:
    """One line: the ratio of the medians, that of the minima, the bound, whether both keep it ("?": disturbed), and what was measured."""
    asked = "" if f.asked is None else f"{'≤' if f.at_most else '≥'} {f.asked:g}"
    met = {True: "yes", False: "no", None: "?" if f.disturbed else ""}[f.met]
    least = "" if f.least is None else f"{f.least:.2f}"
    values = ", ".join(f"{name} {_quantity(value['median'], f.unit)}" for name, value in f.values.items())
    return f"{f.figure:7.2f} {least:>7}  {asked:>6}  {met:<4}  {f.row:<46} {f.phase:<9} {values}".rstrip()


def failure_line(f: Failure) -> str:
    """One line for what could not be measured, and why."""
    return f"{'–':>7} {'–':>7}  {'':>6}  {'':<4}  {f.row:<46} {f.kind.upper()}: {f.contestant}: {f.text}"


def _quantity(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 2**20:.1f} MiB"
    if unit == "error":
        return f"{value:.1e}"
    name, size = next((u for u in (("s", 1.0), ("ms", 1e-3)) if value >= u[1]), ("µs", 1e-6))
    return f"{value / size:.3g} {name}"


def _is_step(f: Figure) -> bool:
    """Whether it compares this project with itself, or with JAX: those come after the table."""
    return (f.over, f.under) in (("numpy", "serial"), ("serial", "ours"), ("jax", "ours"))


def is_main(f: Figure | Failure) -> bool:
    """Whether it belongs to the first table: failures, and figures against torch or against a bound."""
    return isinstance(f, Failure) or not _is_step(f)


def summary(found: Sequence[Figure | Failure]) -> str:
    """What follows the table: the gain of each step from NumPy to threads, JAX, and how many of the bounds are kept."""
    figures = [f for f in found if isinstance(f, Figure)]
    lines = []
    for over, under, title in (
        ("numpy", "serial", "NumPy references → kernels on one thread: the references' time over theirs"),
        ("serial", "ours", "one thread → all threads: the time of one over theirs"),
        ("jax", "ours", "JAX: its time over ours"),
    ):
        of_it = [f for f in figures if (f.over, f.under) == (over, under)]
        if of_it:
            lines += ["", title, HEADER, *map(figure_line, of_it)]
    believed = [f for f in figures if f.met is not None]
    disturbed = [f for f in figures if f.disturbed]
    failures = [f for f in found if isinstance(f, Failure)]
    lines.append("")
    if believed:
        lines.append(f"{sum(bool(f.met) for f in believed)} of {len(believed)} bounds kept")
    if disturbed:
        bounds = sum(f.asked is not None for f in disturbed)
        most = max(f.others or 0 for f in disturbed)
        lines.append(f"taken while other processes used up to {most:.1f} cores: {plural(len(disturbed), 'figure')}, {bounds} with a bound (?)")
        lines.append("such figures say little; measure again on a quiet machine")
    if failures:
        lines += [f"{len(failures)} could not be measured:", *map(failure_line, failures)]
    return "\n".join(lines)


# -- 2. The machine, and JSON --------------------------------------------------------------------------------------------------------------------


def machine(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    versions = {}
    for package in ("numpy", "numba", "torch", "jax"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {
        "cpu": _cpu(), "cores": available_threads(), "threads": threads, "system": platform.platform(), "load": load, "python": python,
        "versions": versions,
    }  # fmt: skip


def _cpu() -> str:
    with suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_line(facts: dict[str, Any]) -> str:
    """The same for the reader of the table."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads used, load {facts['load']}; {facts['python']}, {versions}"


def write_json(path: str | Path, found: Sequence[Figure | Failure], facts: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes everything that was measured, the median of each round included."""
    figures = [{**f._asdict(), "met": f.met, "disturbed": f.disturbed} for f in found if isinstance(f, Figure)]
    failures = [f._asdict() for f in found if isinstance(f, Failure)]
    text = json.dumps({"schema": SCHEMA, "machine": facts, "settings": settings, "figures": figures, "failures": failures}, indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


# -- 3. A picture --------------------------------------------------------------------------------------------------------------------------------

LOOK: dict[Any, tuple[str, str]] = {  # distinguishable without colour: by marker as well
    "forward": (BLUE, "o"),
    "backward": (ORANGE, "s"),
    "both": (BLACK, "D"),
    "step": (BLACK, "D"),
    ("numpy", "serial"): (GREEN, "v"),
    ("serial", "ours"): (PINK, "^"),
}
NAMES: dict[Any, str] = {
    "both": "both, or a step",
    "step": "both, or a step",
    ("numpy", "serial"): "NumPy → kernel on one thread",
    ("serial", "ours"): "one thread → all threads",
}


def plot(path: str | Path, found: Sequence[Figure | Failure], title: str = "") -> None:
    """Ratios on a logarithmic axis: torch's time over ours with the bounds, and the gain of each step from NumPy to threads.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no ratio to draw.
    """
    timed = [f for f in found if isinstance(f, Figure) and f.phase in ("forward", "backward", "both", "step") and f.unit == "s"]
    against = [f for f in timed if (f.over, f.under) == ("torch", "ours")]
    steps = [f for f in timed if (f.over, f.under) in LOOK and f.phase in ("both", "step")]
    panels = [
        (p, label)
        for p, label in ((against, "torch's time / ours (ratio of medians, log scale)"), (steps, "gain of a step (ratio of medians, log scale)"))
        if p
    ]
    if not panels:
        raise ValueError("none of these rows has a ratio to draw")
    names = list(dict.fromkeys(f.row for p, _ in panels for f in p))
    place = {name: i for i, name in enumerate(names)}
    figure = new_figure(4.5 + 4.2 * len(panels), 1.9 + 0.21 * len(names))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (drawn, label) in zip(axes, panels):
        keys = [(f.over, f.under) if drawn is steps else f.phase for f in drawn]
        for colour, marker in dict.fromkeys(LOOK[key] for key in keys):
            of_it = [(f, k) for f, k in zip(drawn, keys) if LOOK[k] == (colour, marker)]
            x, y = [f.figure for f, _ in of_it], [place[f.row] for f, _ in of_it]
            face = [colour if not f.disturbed else "white" for f, _ in of_it]
            ax.scatter(x, y, marker=marker, s=24, c=face, edgecolors=colour, linewidths=1.2, zorder=3)
            ax.plot([], [], ls="", marker=marker, ms=5, color=colour, label=NAMES.get(of_it[0][1], of_it[0][1]))
            bounds = [(f.asked, place[f.row]) for f, _ in of_it if f.asked is not None]
            ax.plot([b for b, _ in bounds], [p for _, p in bounds], ls="", marker="|", ms=12, mew=2, color=colour, zorder=2)
        if any(f.asked is not None for f in drawn):
            ax.plot([], [], ls="", marker="|", ms=12, mew=2, color=GREY, label="asked, at least")
        if any(f.disturbed for f in drawn):
            ax.plot([], [], ls="", marker="o", ms=5, mfc="white", mec=GREY, label="hollow: others used the machine")
        ax.axvline(1, color=GREY, lw=0.8)
        ax.set_xscale("log")
        low, high = min(f.figure for f in drawn), max(f.figure for f in drawn)
        steps_of_ten = (1, 2, 5) if high / low < 300 else (1,)
        ticks = [t for power in range(-3, 5) for t in (s * 10.0**power for s in steps_of_ten) if low / 1.5 <= t <= high * 1.5]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
        ax.set(xlabel=label, xlim=(min(low / 1.3, 0.9), max(high * 1.3, 1.1)))
        ax.grid(alpha=0.3)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize="small", frameon=False)
    axes[0].set_yticks(range(len(names)), names, fontsize="small")
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(title, fontsize="small")
    figure.savefig(path, dpi=120)
