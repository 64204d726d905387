"""The command line: each command is a thin cover over a function that a notebook can call as well."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .autograd import suite
from .bench import command as bench
from .course.arguments import add_arguments as add_course
from .plotting import check_matplotlib
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
UNFINISHED = "tinygrad-norm-unfinished-{}.npz"  # where train without --save puts a run that is interrupted, each in a file of its own


class _Help(argparse.RawDescriptionHelpFormatter):
    """argparse's, with a column that is wide enough for the names, and for those of commands, which it forgets to indent."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if action.nargs == argparse.PARSER:
            self._action_max_length += self._indent_increment


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line that say where to look, and with examples under the help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.formatter_class = _Help
        self.register("type", int, _integer)  # whose errors say what was expected
        self.register("type", float, _number)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what a command does not know is refused by it, and not by the whole, which could not say where to look."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0], options, 1)
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f": did you mean {near[0]}?" if near else ""))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, as 10; got {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, as 0.1 or 3e-4; got {text!r}") from None


EXAMPLES = """\
examples:
  tinygrad-norm train                              the document's ten epochs
  tinygrad-norm train --data digits --batch-size 64 --norm batch --optimizer adam --hidden 64 --plot curve.png
  tinygrad-norm train --task chars --norm post --steps 1000 --save run.npz
  tinygrad-norm train --resume run.npz --steps 2000

Ctrl-C, or SIGTERM, stops a run at the end of its step and saves it; it says with which command to go on.
"""


def _parser() -> _Parser:
    parser = _Parser(prog="tinygrad-norm", description="Normalization layers and how they differentiate. (Not the project called tinygrad.)")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", title="commands", metavar="command", required=True, parser_class=_Parser)
    _add_train(commands)
    gradcheck = commands.add_parser("gradcheck", help="check every gradient of the library, or a function of yours")
    suite.add_arguments(gradcheck)
    gradcheck.set_defaults(run=suite.run)
    timing = commands.add_parser("bench", help="measure this project against torch, and JAX where it is installed")
    bench.add_arguments(timing)
    timing.set_defaults(run=bench.run)
    _add_experiment(commands)
    add_course(commands, _course)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train the source document's MLP, a small Transformer or an LSTM, and print how it goes", epilog=EXAMPLES)
    train.add_argument("--task", choices=tuple(TASKS), help="the document's MLP (default); a Transformer on Python's own source; LSTMs on a delayed sum")
    train.add_argument("--lr", type=float, help="learning rate; default: 0.01, chars 0.003")
    train.add_argument("--hidden", type=int, metavar="N", help="width of the hidden layer or state; default: mlp 20, chars 64, delayed-sum 32")
    train.add_argument("--batch-size", type=int, metavar="N", help="samples a step; default: mlp all of them, chars 32, delayed-sum 64")
    train.add_argument("--seed", type=int, metavar="N", help="of all that is drawn; default: 0")
    train.add_argument("--save", metavar="FILE", help="FILE.npz or .safetensors: the parameters of the mlp; a checkpoint of the others, to go on from")
    train.add_argument("--resume", metavar="FILE", help="go on from the file of a run that was interrupted, or saved, with its options")
    both = train.add_argument_group("mlp and chars")
    both.add_argument("--norm", choices=(*MLP_NORMS, *CHARS_NORMS[:2]), help="mlp: layer (default), batch, none; chars: pre (default), post, none")
    both.add_argument("--optimizer", choices=OPTIMIZERS, help="default: mlp sgd, chars adamw")
    both.add_argument("--dtype", choices=("float32", "float64"), help="default: float32")
    mlp = train.add_argument_group("mlp")
    mlp.add_argument("--data", choices=DATA, help="the document's random points (default), or scikit-learn's digits, a fifth held out")
    mlp.add_argument("--epochs", type=int, metavar="N", help="default: 10")
    mlp.add_argument("--plot", metavar="FILE", help="FILE.png, .svg or .pdf: a picture of loss and accuracy")
    stepped = train.add_argument_group("chars and delayed-sum")
    stepped.add_argument("--steps", type=int, metavar="N", help="the number of the last step; default: chars 300, delayed-sum 200")
    stepped.add_argument("--every", type=int, metavar="N", help="steps between two reports; default: chars 50, delayed-sum 25")
    chars = train.add_argument_group("chars")
    chars.add_argument("--heads", type=int, metavar="N", help="heads of attention, a divisor of --hidden; default: 4")
    chars.add_argument("--layers", type=int, metavar="N", help="default: 2")
    chars.add_argument("--context", type=int, metavar="N", help="how many characters the model sees; default: 64")
    chars.add_argument("--dropout", type=float, metavar="P", help="default: 0")
    chars.add_argument("--sample", type=int, metavar="N", help="how many characters to write at the end; default: 200")
    train.set_defaults(run=_train)


def _add_experiment(commands: Any) -> None:
    experiment = commands.add_parser("experiment", help="does a norm help? an experiment on the digits that can be interrupted and taken up again")
    experiment.add_argument("name", choices=("norms",), help="no norm, LayerNorm and BatchNorm over learning rates, depths, batch sizes and seeds")
    experiment.add_argument("--out", default="norms-experiment", metavar="DIR", help="for results.csv, table.txt and pictures; default: norms-experiment")
    experiment.add_argument("--quick", action="store_true", help="a small grid, under a minute")
    experiment.add_argument("--jobs", type=int, metavar="N", help="processes at a time; default: one a core")
    experiment.add_argument("--seeds", type=int, nargs="+", metavar="N", help="of weights, batches and parts of the data; default: 0 1 2 3 4")
    experiment.add_argument("--inits", nargs="+", metavar="INIT", help="starts of the weights; default: torch he")
    experiment.add_argument("--lrs", type=float, nargs="+", metavar="LR", help="learning rates; default: 0.01 0.03 0.1 0.3 1")
    experiment.add_argument("--depths", type=int, nargs="+", metavar="N", help="numbers of hidden layers; default: 1 3 8")
    experiment.add_argument("--batch-sizes", type=int, nargs="+", metavar="N", help="default: 2 8 32 128")
    experiment.add_argument("--epochs", type=int, metavar="N", help="default: 4, and at least 500 steps")
    experiment.add_argument("--no-plot", action="store_true", help="the table alone")
    experiment.set_defaults(run=_experiment)


def _experiment(args: argparse.Namespace) -> int:
    from .experiment import DEFAULT, QUICK, Grid, run_norms  # with multiprocessing, which train should not wait for
    from .experiment_report import plot_norms, summarize

    grid = (QUICK if args.quick else DEFAULT)._asdict()
    for name in grid:
        value = getattr(args, name, None)
        if value is not None:
            grid[name] = tuple(value) if isinstance(value, list) else value
    if not args.no_plot:
        check_matplotlib()  # what is missing is said before the work, not after it
    results = run_norms(Grid(**grid), args.out, args.jobs)
    table = summarize(results)
    (Path(args.out) / "table.txt").write_text(table, encoding="utf-8")
    print(table, end="")
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
    if plot is not None:
        check_matplotlib()
    given = {**before.get("options", {}), **given}
    checkpoint = file or UNFINISHED.format(os.urandom(4).hex())
    if file is None and not os.access(os.curdir, os.W_OK):
        checkpoint = None
        print("tinygrad-norm train: this folder may not be written to, so a run that is interrupted is lost (--save FILE keeps it)", file=sys.stderr)
    try:
        if task == "delayed-sum":
            delayed_sum(**given, save=file, checkpoint=checkpoint)
        elif task == "chars":
            train_chars(**given, save=file, checkpoint=checkpoint)
        else:
            result = train(**given, checkpoint=checkpoint)
            with stop_requests():  # what remains to be written is short
                if file is not None:
                    save(result.model.state_dict(), file)
                if plot is not None:
                    plot_history(result.history, plot)
    except Interrupted as stop:
        files = [word for name, value in (("--save", file), ("--plot", plot)) if value for word in (name, value)]
        print(f"{stop}\ngo on with: {shlex.join(['tinygrad-norm', 'train', '--resume', str(stop.path), *files])}", file=sys.stderr)
        return 128 + stop.number
    return 0


def _course(args: argparse.Namespace) -> int:
    from .course import command

    return command.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0; 1 where a gradient does not hold; 2 where an argument is wrong; 128 and the signal's number."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a sign that its encoding lacks is written as on stderr, and ends no run
    args = _parser().parse_args(argv)
    try:
        code = int(args.run(args))
        print(end="", flush=True)
        return code
    except BrokenPipeError:  # who reads has seen enough, as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still writes out at its end
        return 141
    except (ValueError, TypeError, ImportError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        what = f"{error.filename!r}: {error.strerror}" if isinstance(error, OSError) and error.filename and error.strerror else error
        print(f"tinygrad-norm {args.command}: error: {what}".replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
