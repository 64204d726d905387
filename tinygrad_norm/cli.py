"""The command line: each command is a thin cover over a function that a notebook can call as well."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__
from .autograd import suite
from .bench import command as bench
from .course.arguments import add_arguments as add_course
from .runs import Interrupted, read_checkpoint, stop_requests
from .serialization import ENDINGS, check_path, save
from .train import DATA, OPTIMIZERS, plot_history, train
from .train import NORMS as MLP_NORMS
from .train_chars import NORMS as CHARS_NORMS
from .train_chars import train_chars
from .train_sequence import delayed_sum

_ALL = {"lr", "hidden", "batch_size", "seed", "save", "resume"}
TASKS = {
    "mlp": _ALL | {"norm", "optimizer", "dtype", "data", "epochs", "plot"},
    "chars": _ALL | {"norm", "optimizer", "dtype", "steps", "every", "heads", "layers", "context", "dropout", "sample"},
    "delayed-sum": _ALL | {"steps", "every"},
}
UNFINISHED = "tinygrad-norm-unfinished.npz"  # where train without --save puts a run that is interrupted


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tinygrad-norm", description="Normalization layers and how they differentiate. (Not the project called tinygrad.)")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=_Parser)
    train = commands.add_parser("train", help="train the source document's MLP, a small Transformer or an LSTM, and print how it goes")
    train.add_argument("--task", choices=tuple(TASKS), help="the document's MLP; Python's own source; an LSTM with and without LayerNorm")
    train.add_argument("--norm", choices=(*MLP_NORMS, *CHARS_NORMS[:2]), help="mlp: layer, batch, none; chars: pre, post, none")
    train.add_argument("--optimizer", choices=OPTIMIZERS, help="mlp: sgd; chars: adamw")
    train.add_argument("--lr", type=float, help="learning rate; mlp and delayed-sum: 0.01; chars: 0.003")
    train.add_argument("--hidden", type=int, metavar="N", help="mlp: width of the hidden layer, 20; chars: features, 64")
    train.add_argument("--batch-size", type=int, metavar="N", help="samples a step; mlp: all of them; chars: 32")
    train.add_argument("--dtype", choices=("float32", "float64"), help="float32")
    train.add_argument("--seed", type=int, help="0")
    train.add_argument("--save", metavar="FILE", help="mlp: write the parameters, or if interrupted the run; chars: a checkpoint; .npz, or .safetensors")
    train.add_argument("--resume", metavar="FILE", help="go on from a checkpoint, with the options of its run")
    mlp = train.add_argument_group("mlp")
    mlp.add_argument("--data", choices=DATA, help="the document's random points, or scikit-learn's digits")
    mlp.add_argument("--epochs", type=int, metavar="N", help="10")
    mlp.add_argument("--plot", metavar="FILE.png", help="write a picture of loss and accuracy")
    chars = train.add_argument_group("chars")
    chars.add_argument("--steps", type=int, metavar="N", help="the number of the last step, 300")
    chars.add_argument("--heads", type=int, metavar="N", help="heads of attention, 4")
    chars.add_argument("--layers", type=int, metavar="N", help="2")
    chars.add_argument("--context", type=int, metavar="N", help="how many characters the model sees, 64")
    chars.add_argument("--dropout", type=float, metavar="P", help="0")
    chars.add_argument("--every", type=int, metavar="N", help="steps between two reports, 50")
    chars.add_argument("--sample", type=int, metavar="N", help="how many characters to write at the end, 200")
    train.set_defaults(run=_train)
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
    given = {name: value for name, value in vars(args).items() if value is not None and name not in ("command", "task", "run")}
    before = {} if args.resume is None else read_checkpoint(args.resume, args.task)
    task = args.task or before.get("task", "mlp")
    if task not in TASKS:
        raise ValueError(f"{args.resume!r} is a run of the task {task}, which is none of {', '.join(TASKS)}")
    for name in given:
        if name not in TASKS[task]:
            others = " or ".join(other for other, names in TASKS.items() if name in names)
            raise ValueError(f"--{name.replace('_', '-')} goes with --task {others}, not with --task {task}")
    plot, file = given.pop("plot", None), given.pop("save", None)
    for path, endings in ((plot, (".png", ".svg", ".pdf")), (file, ENDINGS)):
        if path is not None:  # before the work, not after it
            check_path(path, endings)
    given = {**before.get("options", {}), **given}
    try:
        if task == "delayed-sum":
            delayed_sum(**given, save=file, checkpoint=file or UNFINISHED)
        elif task == "chars":
            train_chars(**given, save=file, checkpoint=file or UNFINISHED)
        else:
            result = train(**given, checkpoint=file or UNFINISHED)
            with stop_requests():  # what remains to be written is short
                if plot is not None:
                    plot_history(result.history, plot)
                if file is not None:
                    save(result.model.state_dict(), file)
    except Interrupted as stop:
        files = [word for name, value in (("--save", file), ("--plot", plot)) if value for word in (name, value)]
        print(f"{stop}\ngo on with: {shlex.join(['tinygrad-norm', 'train', '--resume', str(stop.path), *files])}", file=sys.stderr)
        return 128 + stop.number
    return 0


def _course(args: argparse.Namespace) -> int:
    from .course import command

    return command.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0; 1 where a gradient does not hold; 2 where an argument is wrong."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (ValueError, TypeError, ImportError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"tinygrad-norm {args.command}: error: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
