"""The command line: each command is a thin cover over a function that a notebook can call as well."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__
from .autograd import suite
from .bench import command as bench
from .course.arguments import add_arguments as add_course
from .serialization import check_path, save
from .train import plot_history, train
from .train_sequence import delayed_sum


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tinygrad-norm", description="Normalization layers and how they differentiate. (Not the project called tinygrad.)")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=_Parser)
    train = commands.add_parser("train", help="train the source document's MLP and print its epochs")
    train.add_argument("--task", choices=("mlp", "delayed-sum"), default="mlp", help="the document's MLP, or an LSTM beside a LayerNorm LSTM")
    train.add_argument("--data", choices=("random", "digits"), default="random", help="the document's random points, or scikit-learn's digits")
    train.add_argument("--norm", choices=("layer", "batch", "none"), default="layer", help="the norm between the two layers")
    train.add_argument("--optimizer", choices=("sgd", "momentum", "adam", "adamw"), default="sgd")
    train.add_argument("--epochs", type=int, default=10, metavar="N")
    train.add_argument("--lr", type=float, default=0.01, help="learning rate")
    train.add_argument("--hidden", type=int, default=20, metavar="N", help="width of the hidden layer")
    train.add_argument("--batch-size", type=int, default=None, metavar="N", help="samples a step; all of them by default")
    train.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--plot", metavar="FILE.png", help="write a picture of loss and accuracy")
    train.add_argument("--save", metavar="FILE", help="write the trained parameters: .npz, or .safetensors")
    train.set_defaults(run=_train, default_of=train.get_default)
    gradcheck = commands.add_parser("gradcheck", help="check every gradient of the library, or a function of yours")
    suite.add_arguments(gradcheck)
    gradcheck.set_defaults(run=suite.run)
    timing = commands.add_parser("bench", help="measure this project against torch, and JAX where it is installed")
    bench.add_arguments(timing)
    timing.set_defaults(run=bench.run)
    experiment = commands.add_parser("experiment", help="does a norm help? an experiment on the digits that can be interrupted and taken up again")
    experiment.add_argument("name", choices=("norms",), help="no norm, LayerNorm and BatchNorm over learning rates, depths, batch sizes and seeds")
    experiment.add_argument("--out", default="norms-experiment", metavar="DIR", help="for results.csv, table.txt and the pictures")
    experiment.add_argument("--quick", action="store_true", help="a small grid, under a minute")
    experiment.add_argument("--jobs", type=int, metavar="N", help="processes at a time; one a core by default")
    experiment.add_argument("--seeds", type=int, nargs="+", metavar="SEED")
    experiment.add_argument("--inits", nargs="+", metavar="INIT", help="starts of the weights: torch, he")
    experiment.add_argument("--lrs", type=float, nargs="+", metavar="LR")
    experiment.add_argument("--depths", type=int, nargs="+", metavar="N", help="numbers of hidden layers")
    experiment.add_argument("--batch-sizes", type=int, nargs="+", metavar="N")
    experiment.add_argument("--epochs", type=int, metavar="N")
    experiment.add_argument("--no-plot", action="store_true", help="the table alone")
    experiment.set_defaults(run=_experiment)
    add_course(commands, _course)
    return parser


def _experiment(args: argparse.Namespace) -> int:
    from .experiment import DEFAULT, QUICK, Grid, run_norms  # with multiprocessing, which train should not wait for
    from .experiment_report import plot_norms, plotting, summarize

    grid = (QUICK if args.quick else DEFAULT)._asdict()
    for name in grid:
        value = getattr(args, name, None)
        if value is not None:
            grid[name] = tuple(value) if isinstance(value, list) else value
    if not args.no_plot:
        plotting()  # what is missing is said before the work, not after it
    results = run_norms(Grid(**grid), args.out, args.jobs)
    table = summarize(results)
    print(table, end="")
    (Path(args.out) / "table.txt").write_text(table, encoding="utf-8")
    if not args.no_plot:
        for path in plot_norms(results, args.out):
            print(f"wrote {path}")
    return 0


def _train(args: argparse.Namespace) -> int:
    if args.task == "delayed-sum":
        others = [name for name in vars(args) if name not in ("task", "lr", "seed") and getattr(args, name) != args.default_of(name)]
        if [name for name in others if name not in ("command", "run", "default_of")]:
            raise ValueError(f"--task delayed-sum takes --lr and --seed alone, not --{others[-1].replace('_', '-')}")
        delayed_sum(lr=args.lr, seed=args.seed, report=lambda line: print(line, flush=True))
        return 0
    for path in (args.plot, args.save):  # before the work, not after it
        if path is not None:
            check_path(path, (".npz", ".safetensors") if path is args.save else (".png", ".svg", ".pdf"))
    result = train(
        data=args.data,
        norm=args.norm,
        optimizer=args.optimizer,
        epochs=args.epochs,
        lr=args.lr,
        hidden=args.hidden,
        batch_size=args.batch_size,
        dtype=args.dtype,
        seed=args.seed,
        report=lambda line: print(line, flush=True),
    )
    if args.plot is not None:
        plot_history(result.history, args.plot)
    if args.save is not None:
        save(result.model.state_dict(), args.save)
    return 0


def _course(args: argparse.Namespace) -> int:
    from .course import command

    return command.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0; 1 where a gradient does not hold; 2 where an argument is wrong."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        print(f"tinygrad-norm {args.command}: error: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
