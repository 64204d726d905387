"""`tinygrad-norm bench`: this project's time against torch's (and JAX's, where it is installed), row by row.

tinygrad-norm bench                         everything: some minutes
tinygrad-norm bench --quick                 within a minute on two cores
tinygrad-norm bench --only layer_norm       rows with that in their name
tinygrad-norm bench --json FILE.json --plot FILE.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ..plotting import check_matplotlib
from ..serialization import check_path
from .contest import TOLERANCE, Contestant, Failure, Figure, contest, contestants, usual_threads
from .report import HEADER, failure_line, figure_line, is_main, machine, machine_line, plot, summary, write_json
from .rows import chosen

__all__ = ["add_arguments", "bench", "run"]

ROUNDS = {False: 7, True: 3}
TURN = {False: 0.03, True: 0.01}  # seconds


def bench(
    only: str | None = None,
    *,
    quick: bool = False,
    rounds: int | None = None,
    json: str | Path | None = None,
    picture: str | Path | None = None,
    report: Callable[[str], None] | None = None,
    progress: Callable[[str], None] = lambda name: None,
    taking_part: dict[str, Contestant] | None = None,
) -> list[Figure | Failure]:
    """Measures this project against torch, JAX, its own single thread and its own NumPy references.

    Outputs, gradients among them, are compared with torch's before anything is timed: an entry may differ by 1e-4 of the largest.

    Args:
        only: part of the names of the rows to take; all if None.
        quick: the short run.
        rounds: how many turns each contestant has at each phase; 7, or 3 where quick.
        json, picture: files to write.
        report: told each line when it is known, such as print.
        progress: told the name of each row before it is run, and "" after the last.
        taking_part: the contestants; those that are installed if None.
    Returns:
        The figures, and what could not be measured.
    Raises:
        ValueError: no row has `only` in its name, or an argument is out of range.
        ImportError: a picture is asked for, and matplotlib is not installed.
    """
    rounds = ROUNDS[quick] if rounds is None else rounds
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1; got {rounds}")
    rows = chosen(only, quick=quick)
    if json is not None:
        check_path(json, (".json",))
    if picture is not None:
        check_path(picture, (".png", ".svg", ".pdf"))
        check_matplotlib()
    say = report or (lambda line: None)
    threads = usual_threads()
    taking_part = contestants(threads) if taking_part is None else taking_part
    facts = machine(threads)
    say(machine_line(facts))
    say(f"contestants: {', '.join(taking_part)}; {rounds} rounds; outputs compared to within {TOLERANCE:g} of the largest entry before timing")
    if "torch" not in taking_part:
        say("torch is not installed: there is nothing to compare with but this project's own steps")
    say(HEADER)
    found: list[Figure | Failure] = []
    for one in contest(rows, taking_part, rounds=rounds, turn=TURN[quick], progress=progress):
        found.append(one)
        if is_main(one):
            say(failure_line(one) if isinstance(one, Failure) else figure_line(one))
    progress("")
    say(summary(found))
    if json is not None:
        write_json(json, found, facts, {"only": only, "quick": quick, "rounds": rounds, "turn": TURN[quick], "tolerance": TOLERANCE})
    if picture is not None:
        try:
            plot(picture, found, machine_line(facts).replace("; ", "\n"))
        except ValueError as error:  # the figures are there all the same
            say(f"no picture: {error}")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of `tinygrad-norm bench` its arguments."""
    parser.add_argument("--only", metavar="WORD", help="rows with this in their name")
    parser.add_argument("--quick", action="store_true", help="fewer rows, shorter turns: within a minute on two cores")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns of each contestant at each phase; {ROUNDS[False]}, or {ROUNDS[True]} with --quick")
    parser.add_argument("--json", metavar="FILE.json", help="write everything that was measured")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the ratios")


def run(args: argparse.Namespace) -> int:
    """What `tinygrad-norm bench` does; returns the exit code: 0, or 1 where outputs disagree or a contestant fails. A slow row is no failure."""
    progress = _show if sys.stderr.isatty() else lambda name: None
    found = bench(
        args.only,
        quick=args.quick,
        rounds=args.rounds,
        json=args.json,
        picture=args.plot,
        report=lambda line: print(line, flush=True),
        progress=progress,
    )
    return int(any(isinstance(one, Failure) for one in found))


def _show(name: str) -> None:
    """The row that is being run, on a line that the next one overwrites."""
    print(f"\r{name:<60}\r", end="", file=sys.stderr, flush=True)
