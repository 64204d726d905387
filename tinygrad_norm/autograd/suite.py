"""`tinygrad-norm gradcheck`: every op and layer of the library against finite differences and against torch, or a function of yours.

    tinygrad-norm gradcheck                          all rows of testing.CASES and suite_rows.LAYERS, in float64 and float32
    tinygrad-norm gradcheck --only layer_norm        those whose name has that in it
    tinygrad-norm gradcheck my_norm.py:layer_norm    the function layer_norm of that file
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from ..runs import progress_bar
from ..testing import CASES, Case
from .report import format_table
from .suite_rows import LAYERS, LIMITS, Row, check_case, check_layer
from .target import GradcheckError
from .user_function import check_file

__all__ = ["add_arguments", "check_all", "run"]

# -- 1. All of them ------------------------------------------------------------------------------------------------------------------------------


def check_all(
    only: str | None = None, *, dtypes: tuple[str, ...] = ("float64", "float32"), seed: int = 0, progress: bool = False, use_torch: bool = True
) -> list[Row]:
    """Checks the ops of testing.CASES and the layers of suite_rows.LAYERS.

    Args:
        only: part of the names to take; all if None.
        dtypes: "float64", "float32", or both.
        seed: of the samples.
        progress: whether to show a progress bar on stderr where that is a terminal and tqdm is installed.
        use_torch: whether to compare with torch where it is installed.
    Returns:
        A Row for each op and type.
    Raises:
        ValueError: no name has `only` in it.

    Example:
        >>> from tinygrad_norm.autograd.suite import check_all
        >>> all(row.ok for row in check_all("tanh", dtypes=("float64",), use_torch=False))
        True
    """
    torch = _torch_or_none() if use_torch else None
    every: list[Any] = [*CASES, *LAYERS]
    jobs = [job for job in every if only is None or only.lower() in job.name.lower()]
    if not jobs:
        near = sorted({job.name.split()[0] for job in every})
        raise ValueError(f"no op has {only!r} in its name; there are {', '.join(near)}")
    rows: list[Row] = []
    with progress_bar(len(jobs), "op", wanted=None if progress else False) as tick:
        for job in jobs:
            if isinstance(job, Case):
                rows += check_case(job, sys.modules[__package__.partition(".")[0]], torch, seed, dtypes)
            else:
                rows += check_layer(job, torch is not None, seed, dtypes)
            tick()
    return rows


def _torch_or_none() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


HEADER = ("op", "dtype", "shapes", "differences", "torch", "2nd: diff.", "2nd: torch", "")


def _print_rows(rows: list[Row], colour: bool) -> None:
    cells = []
    for r in rows:
        values = [getattr(r, c) for c in ("differences", "torch", "second", "second_torch")]
        cells.append((r.name, r.dtype, r.shapes, *("–" if v is None else f"{v:.1e}" for v in values), "ok" if r.ok else "FAILED"))
    lines = format_table(HEADER, cells, indent="").split("\n")
    for line, row in zip(lines, (None, *rows)):
        if row is None or not colour:
            print(line)
        else:
            print(f"{line[: -len('ok')]}\033[34mok\033[0m" if row.ok else f"\033[1;33m{line}\033[0m")
    for r in rows:
        if r.problem and r.problem != "see float64":
            print(f"* {r.name} ({r.dtype}): {r.problem}")
    bad = [r for r in rows if not r.ok]
    worst = {c: max((getattr(r, c) for r in rows if r.dtype == "float64" and getattr(r, c) is not None), default=None) for c in LIMITS}
    figures = ", ".join(f"{n} {v:.1e}" for n, v in zip(("differences", "second differences", "torch", "torch second"), worst.values()) if v is not None)
    print(f"{len(rows) - len(bad)} of {len(rows)} rows hold" + (f"; worst in float64: {figures}" if figures else ""))


# -- 2. The command line -----------------------------------------------------------------------------------------------------------------------


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(n) for n in text.strip("()").split(",") if n.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"a shape is numbers with commas, as 4,5; got {text!r}") from None
    if any(n < 0 for n in shape):
        raise argparse.ArgumentTypeError(f"lengths must not be negative; got {text!r}")
    return shape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Gives the parser of `tinygrad-norm gradcheck` its arguments."""
    parser.add_argument("target", nargs="?", metavar="FILE.py:FUNCTION", help="a function of yours; without it, every op and layer of the library")
    parser.add_argument("--only", metavar="NAME", help="ops with this in their name")
    parser.add_argument("--dtype", choices=("float64", "float32"), help="one element type; both by default")
    parser.add_argument("--shapes", nargs="+", type=_shape, metavar="4,5", help="shapes of random inputs for FILE.py:FUNCTION")
    parser.add_argument("--json", action="store_true", help="write the result as JSON to stdout")
    parser.add_argument("--no-torch", action="store_true", help="do not compare with torch, even if it is installed")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs")


def run(args: argparse.Namespace) -> int:
    """What `tinygrad-norm gradcheck` does; returns the exit code: 0, or 1 where a gradient does not hold.

    Raises:
        ValueError: arguments that make no sense (the command line says so and exits with 2).
    """
    if args.target is not None:
        if args.only is not None:
            raise ValueError("--only chooses among the library's ops; it has no meaning with FILE.py:FUNCTION")
        try:
            report = check_file(args.target, args.shapes, seed=args.seed)
        except GradcheckError as error:
            print(json.dumps({"ok": False, "problems": [str(error)]}) if args.json else f"FAILED: {error}")
            return 1
        print(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) if args.json else report)
        return 0 if report.ok else 1
    if args.shapes is not None:
        raise ValueError("--shapes goes with FILE.py:FUNCTION")
    dtypes = ("float64", "float32") if args.dtype is None else (args.dtype,)
    rows = check_all(args.only, dtypes=dtypes, seed=args.seed, progress=not args.json, use_torch=not args.no_torch)
    if args.json:
        print(json.dumps([{**r._asdict(), "ok": r.ok} for r in rows], indent=1, ensure_ascii=False))
    else:
        _print_rows(rows, sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    return 0 if all(r.ok for r in rows) else 1
