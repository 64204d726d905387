"""What the rows of the experiment say: a table with words, and pictures.

Each norm may have the learning rate that suits it: the one with the best mean accuracy on the part kept for choosing. With it, the
held-out accuracies of norm and no norm are compared seed by seed, since a seed means the same data and the same start for both.
d̄ is the mean of the differences and s their standard deviation: a difference counts where |d̄| > 3 s/√n (t = 3: with
five seeds p = 0.04) and more than half a point.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .experiment import NORMS, Outcome, Results
from .plotting import BLACK, BLUE, ORANGE, new_figure

__all__ = ["plot_norms", "summarize"]

TITLES = {"none": "no norm", "layer": "LayerNorm", "batch": "BatchNorm"}
Place = tuple[str, int, int]  # init, depth, batch size

# -- 1. In words ----------------------------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """One norm at one place: its learning rate, and the held-out accuracies in percent, seed by seed."""

    lr: float
    accuracies: list[float]
    chosen_by: dict[float, float]  # for each learning rate the mean accuracy on the part kept for choosing, percent


def _at(results: Results, norm: str, place: Place, lr: float) -> list[Outcome]:
    found = [(s.seed, o) for s, o in results.items() if (s.norm, s.init, s.depth, s.batch_size, s.lr) == (norm, *place, lr)]
    return [outcome for _, outcome in sorted(found, key=lambda pair: pair[0])]


def _values(results: Results, field: str) -> list[Any]:
    found = {getattr(setting, field): None for setting in results}
    return list(found) if field == "init" else sorted(found)


def best(results: Results, norm: str, place: Place) -> Cell:
    """The learning rate is chosen on the part kept for that; the accuracies are those of the held-out part."""
    by_lr = {lr: _at(results, norm, place, lr) for lr in _values(results, "lr")}
    chosen_by = {lr: 100 * statistics.fmean(o.choosing_accuracy for o in outcomes) for lr, outcomes in by_lr.items()}
    lr = max(chosen_by, key=lambda lr: chosen_by[lr])
    return Cell(lr, [100 * o.held_out_accuracy for o in by_lr[lr]], chosen_by)


def verdict(norm: Sequence[float], none: Sequence[float]) -> tuple[float, float, str]:
    """d̄, s, and "helps", "harms", "no difference seen", or "one seed".

    Example:
        >>> verdict([97.0, 97.5, 98.0], [95.0, 95.5, 95.5])
        (2.1666666666666665, 0.28867513459481287, 'helps')
    """
    differences = [a - b for a, b in zip(norm, none, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, math.nan, "one seed"
    spread = statistics.stdev(differences)
    if abs(mean) <= max(0.5, 3 * spread / math.sqrt(len(differences))):
        return mean, spread, "no difference seen"
    return mean, spread, "helps" if mean > 0 else "harms"


def _with_spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def summarize(results: Results) -> str:
    """The table and what it says: held-out accuracy of each norm at its own learning rate, mean ± standard deviation over the seeds."""
    inits, depths, batches, lrs, seeds = (_values(results, field) for field in ("init", "depth", "batch_size", "lr", "seed"))
    lines = [
        f"Held-out accuracy (%), mean ± standard deviation over {len(seeds)} seeds, each norm at the learning rate (in brackets) that was best on",
        "data kept for choosing it; and the difference from no norm, seed by seed, in points.",
        "",
        f"{'init':<6}{'depth':>5} {'batch':>5}  " + "".join(f"{TITLES[norm]:<22}" for norm in NORMS) + f"{'LayerNorm − none':<33}BatchNorm − none",
    ]
    found: dict[str, dict[str, list[str]]] = {norm: {} for norm in NORMS}
    usable: dict[str, list[int]] = {norm: [] for norm in NORMS}
    for init, depth, batch in itertools.product(inits, depths, batches):
        cells = {norm: best(results, norm, (init, depth, batch)) for norm in NORMS}
        text = f"{init:<6}{depth:5} {batch:5}  "
        bar = max(value for cell in cells.values() for value in cell.chosen_by.values()) - 2
        for norm, cell in cells.items():
            usable[norm].append(sum(value > bar for value in cell.chosen_by.values()))
            text += f"{f'{_with_spread(cell.accuracies)}  ({cell.lr:g})':<22}"
        for norm in NORMS[1:]:
            mean, spread, word = verdict(cells[norm].accuracies, cells["none"].accuracies)
            found[norm].setdefault(word, []).append(f"init {init}, depth {depth}, batch {batch} ({mean:+.1f})")
            text += f"{f'{mean:+.1f}' + (f' ± {spread:.1f}' if len(seeds) > 1 else '') + f'  {word}':<33}"
        lines.append(text.rstrip())
    lines.append("")
    for norm in NORMS[1:]:
        for word, words in (
            ("helps", f"{TITLES[norm]} helps at:"),
            ("harms", f"{TITLES[norm]} harms at:"),
            ("no difference seen", f"No difference between {TITLES[norm]} and no norm was seen at:"),
            ("one seed", f"One seed shows nothing; {TITLES[norm]} at:"),
        ):
            if word in found[norm]:
                lines += [words, *("    " + place for place in found[norm][word])]
        lines.append("")
    for norm in NORMS:
        mine = {s: o for s, o in results.items() if s.norm == norm}
        diverged = sum(o.diverged for o in mine.values())
        lines.append(
            f"{TITLES[norm]}: {statistics.fmean(usable[norm]):.1f} of {len(lrs)} learning rates come within 2 points of the best run of any norm, on average "
            f"over all places; {diverged} of {len(mine)} runs diverged; all runs together: "
            f"{100 * statistics.fmean(o.held_out_accuracy for o in mine.values()):.1f} %."
        )
    lines += [
        "",
        "A difference counts where it is more than half a point and more than three times its standard error; with five seeds one comparison in 25",
        f"would count by chance, and there are {2 * len(inits) * len(depths) * len(batches)}. init torch: torch's default weights, which let the signal",
        "shrink from layer to layer; init he: He et al.'s, which keep its size. All of it is for small networks on small images.",
    ]
    return "\n".join(lines) + "\n"


# -- 2. In pictures -------------------------------------------------------------------------------------------------------------------

STARTS = {"torch": "torch's default start", "he": "He start"}
LOOKS = {"none": (BLACK, "o", "-"), "layer": (BLUE, "s", "--"), "batch": (ORANGE, "^", ":")}  # apart in hue, shape and line


def plot_norms(results: Results, folder: str | Path) -> list[Path]:
    """learning_rates_INIT.png: every learning rate, a panel for each depth and batch size; batch_sizes.png: the best of each norm.

    Raises:
        ImportError: matplotlib is not installed.
    """
    inits, depths, batches, lrs, seeds = (_values(results, field) for field in ("init", "depth", "batch_size", "lr", "seed"))

    def draw(axes: Any, x: list[float], columns: list[list[float]], norm: str) -> None:
        colour, marker, line = LOOKS[norm]
        means = [statistics.fmean(c) for c in columns]
        spreads = [statistics.stdev(c) if len(c) > 1 else 0.0 for c in columns]
        shifted = [v * (1 + 0.04 * (NORMS.index(norm) - 1)) for v in x]  # side by side, so that the bars do not hide each other
        axes.errorbar(shifted, means, spreads, color=colour, marker=marker, ls=line, capsize=2.5, ms=5, lw=1.4, label=TITLES[norm])

    def save(figure: Any, panels: Any, name: str, title: str) -> Path:
        for axes in panels.flat:
            axes.grid(alpha=0.3)
            axes.set_ylim(0, 102)
        figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.suptitle(f"{title}\nmean ± standard deviation over {len(seeds)} seeds", fontsize=11)
        figure.savefig(Path(folder) / name, dpi=120)
        return Path(folder) / name

    made = []
    for init in inits:
        figure = new_figure(1.5 + 2.6 * len(batches), 1.6 + 2.2 * len(depths))
        panels = figure.subplots(len(depths), len(batches), sharex=True, sharey=True, squeeze=False)
        for (i, depth), (j, batch) in itertools.product(enumerate(depths), enumerate(batches)):
            axes, place = panels[i, j], (init, depth, batch)
            for norm in NORMS:
                draw(axes, lrs, [[100 * o.held_out_accuracy for o in _at(results, norm, place, lr)] for lr in lrs], norm)
            axes.set(xscale="log", title=f"depth {depth}, batch {batch}")
            axes.set_xticks(lrs, [f"{lr:g}" for lr in lrs])
            axes.minorticks_off()
            if i == len(depths) - 1:
                axes.set_xlabel("learning rate")
            if j == 0:
                axes.set_ylabel("held-out accuracy (%)")
        made.append(save(figure, panels, f"learning_rates_{init}.png", f"Digits: every learning rate ({STARTS[init]})"))

    figure = new_figure(1.5 + 3.0 * len(depths), 1.6 + 2.6 * len(inits))
    panels = figure.subplots(len(inits), len(depths), sharex=True, sharey=True, squeeze=False)
    for (i, init), (j, depth) in itertools.product(enumerate(inits), enumerate(depths)):
        axes = panels[i, j]
        for norm in NORMS:
            draw(axes, batches, [best(results, norm, (init, depth, batch)).accuracies for batch in batches], norm)
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(b) for b in batches])
        axes.minorticks_off()
        axes.set_title(f"depth {depth}, {STARTS[init]}", fontsize=10)
        if i == len(inits) - 1:
            axes.set_xlabel("batch size (samples)")
        if j == 0:
            axes.set_ylabel("held-out accuracy (%)")
    return [*made, save(figure, panels, "batch_sizes.png", "Digits: each norm at its own best learning rate")]
