"""Runs that are interrupted, that go on for long, and that diverge."""

import gc
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

import tinygrad_norm as tg
import tinygrad_norm.train as training
import tinygrad_norm.train_chars as chars
import tinygrad_norm.train_sequence as sequence
from tinygrad_norm import nn
from tinygrad_norm.cli import main
from tinygrad_norm.runs import Interrupted, first_not_finite, read_checkpoint, stop_requests
from tinygrad_norm.train import train

RUNS = [
    {"norm": "batch", "optimizer": "adam", "batch_size": 7, "epochs": 4},
    {"norm": "layer", "optimizer": "momentum", "batch_size": 40, "epochs": 6, "dtype": "float64", "seed": 3},
    {"norm": "none", "optimizer": "adamw", "epochs": 12, "hidden": 5},
    {"data": "digits", "norm": "batch", "optimizer": "adam", "batch_size": 300, "epochs": 3},
]


def flatten(state):
    """Every key and value of nested dicts and lists, as text."""
    flat = []

    def walk(value):
        if isinstance(value, dict):
            for key, item in value.items():
                flat.append(repr(key))
                walk(item)
        elif isinstance(value, (list, tuple)):
            [walk(item) for item in value]
        else:
            flat.append(repr(value.tolist() if hasattr(value, "tolist") else value))

    walk(state)
    return flat


def whole(result, lines):
    """Everything that a run leaves, as text."""
    state = {"model": result.model.state_dict(), "optimizer": result.optimizer.state_dict(), "random": tg.random.get_rng_state()}
    return flatten(state), result.history, lines


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("options", RUNS, ids=lambda o: f"{o['norm']}-{o['optimizer']}")
def test_a_resumed_run_equals_the_unbroken_one_to_the_bit(options, ending, tmp_path, monkeypatch):
    lines = []
    unbroken = whole(train(**options, report=lines.append), lines)
    file = tmp_path / f"run.{ending}"
    check, steps = training.check_finite, []

    def interrupt(*args):
        steps.append(1)
        if len(steps) in (1, 4, 5, 9):  # also at the first step, in the midst of epochs, twice in one, and at an epoch's last
            signal.raise_signal(signal.SIGTERM if len(steps) % 2 else signal.SIGINT)
        check(*args)

    monkeypatch.setattr(training, "check_finite", interrupt)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    lines, result, breaks = [], None, 0
    while result is None:
        tg.manual_seed(1234)  # another state than the run's
        try:
            result = train(**options, resume=file if breaks else None, checkpoint=file, report=lines.append)
        except Interrupted as stop:
            breaks += 1
            assert stop.path == file and stop.number == (signal.SIGTERM if len(steps) % 2 else signal.SIGINT)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert breaks == (4 if len(steps) > 9 else 4 - (len(steps) < 9))
    assert whole(result, lines) == unbroken


SMALL_CHARS = {"hidden": 8, "heads": 2, "layers": 1, "context": 8, "batch_size": 4, "sample": 12, "every": 5, "steps": 18, "dropout": 0.3}
STEPPED = [
    ("chars", SMALL_CHARS),
    ("chars", {**SMALL_CHARS, "norm": "post", "optimizer": "momentum", "dtype": "float64", "seed": 3}),
    ("delayed-sum", {"steps": 18, "hidden": 5, "batch_size": 6, "every": 5, "seed": 2}),
]


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize(("task", "options"), STEPPED, ids=["chars", "chars-momentum", "delayed-sum"])
def test_the_other_tasks_resume_to_the_bit_too(task, options, ending, tmp_path, monkeypatch):
    module, run = {"chars": (chars, chars.train_chars), "delayed-sum": (sequence, sequence.delayed_sum)}[task]
    file, saved = tmp_path / f"stopped.{ending}", tmp_path / f"run.{ending}"

    def outcome(result, lines):
        history = result if task == "delayed-sum" else (result.history, result.sample)
        return history, lines, flatten(tg.load(saved))

    lines = []
    unbroken = outcome(run(**options, save=saved, report=lines.append), lines)
    check, calls = module.check_finite, []

    def interrupt(*args, **named):
        calls.append(1)
        if len(calls) in (1, 6, 11, 16, 23):  # the first step; also looks at what is held out
            signal.raise_signal(signal.SIGTERM if len(calls) % 2 else signal.SIGINT)
        check(*args, **named)

    monkeypatch.setattr(module, "check_finite", interrupt)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    lines, result, breaks = [], None, 0
    while result is None:
        tg.manual_seed(1234)
        try:
            result = run(**options, resume=file if breaks else None, save=saved, checkpoint=file, report=lines.append)
        except Interrupted as stop:
            breaks += 1
            assert stop.path == file
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert breaks > 3
    assert outcome(result, lines) == unbroken


def test_a_sample_can_be_interrupted(tmp_path, monkeypatch):
    options = {**SMALL_CHARS, "steps": 7}  # not at a report: the line of the last step is kept
    lines, file, seen = [], tmp_path / "run.npz", []
    unbroken = chars.train_chars(**options, report=lines.append)
    write = chars.characters

    def slowly(*args):
        for character in write(*args):
            seen.append(character)
            if len(seen) == 3:
                signal.raise_signal(signal.SIGTERM)
            yield character

    monkeypatch.setattr(chars, "characters", slowly)
    again = []
    with pytest.raises(Interrupted):
        chars.train_chars(**options, save=file, report=again.append)
    assert len(seen) == 3 and len(again) == 2
    rest = chars.train_chars(**options, resume=file, report=again.append)
    assert (rest.history, rest.sample, again) == (unbroken.history, unbroken.sample, lines)
    longer = chars.train_chars(**{**options, "sample": 30}, resume=file, report=None)  # a run that has ended can be asked for another sample
    assert longer.sample.startswith(rest.sample) and len(longer.sample) == 34


def test_more_steps_are_welcome(tmp_path):
    """The line of a last step that is in the midst now goes; the losses since the report before it do not."""
    for run, options in ((chars.train_chars, SMALL_CHARS), (sequence.delayed_sum, STEPPED[2][1])):
        lines, rest = [], []
        run(**options, report=lines.append)
        first = run(**{**options, "steps": 7}, save=tmp_path / "run.npz", report=None)
        second = run(**options, resume=tmp_path / "run.npz", report=rest.append)
        assert rest and rest == lines[-len(rest) :]
        if run is chars.train_chars:
            assert [line.step for line in first.history] == [5, 7] and [line.step for line in second.history] == [5, 10, 15, 18]
        else:
            assert [step for step, _ in first["LSTM"]] == [0, 5, 7] and [step for step, _ in second["LSTM"]] == [0, 5, 10, 15, 18]


@pytest.mark.parametrize(
    "options",
    [
        "--norm batch --optimizer adam --batch-size 13 --epochs 400 --hidden 200",
        "--task chars --hidden 16 --heads 2 --layers 1 --context 16 --batch-size 8 --steps 160 --every 4 --dropout 0.1 --sample 50",
        "--task delayed-sum --steps 80 --every 1 --hidden 8 --batch-size 8",
    ],
    ids=["mlp", "chars", "delayed-sum"],
)
def test_killed_at_random_moments_it_prints_and_leaves_what_an_unbroken_run_does(options, tmp_path, capsys):
    command, options = [sys.executable, "-m", "tinygrad_norm", "train"], options.split()
    assert main(["train", *options, "--save", str(tmp_path / "whole.npz")]) == 0
    whole_run = capsys.readouterr().out
    lines, chance = len(whole_run.splitlines()), random.Random()
    printed, kills, told = "", 0, [*options, "--save", "run.npz"]
    while True:
        # without a buffer: communicate() would not find in it what readline() has read ahead
        process = subprocess.Popen([*command, *told], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=tmp_path)
        if kills < 3:  # after some lines and some milliseconds: in a step, in a report, between two
            for _ in range(chance.randrange(1, lines // 4)):
                printed += process.stdout.readline().decode()
            time.sleep(chance.random() * 0.02)
            process.send_signal(chance.choice([signal.SIGINT, signal.SIGTERM]))
            kills += 1
        out, err = (stream.decode() for stream in process.communicate(timeout=300))
        printed += out
        if process.returncode == 0 or (printed == whole_run and (tmp_path / "run.npz").exists() and not err):  # or the signal came too late
            break
        assert process.returncode in (130, 143), err
        go_on = re.fullmatch(r"SIG\w+: the run is saved in run\.npz\ngo on with: tinygrad-norm train (.*)\n", err)
        assert go_on, err
        told = go_on[1].split()
    assert printed == whole_run
    assert kills > 1
    assert flatten(tg.load(tmp_path / "run.npz")) == flatten(tg.load(tmp_path / "whole.npz"))


@pytest.mark.parametrize(("number", "save"), [(signal.SIGINT, []), (signal.SIGTERM, ["--save", "my run.npz"])])
def test_the_command_survives_a_signal(number, save, tmp_path):
    options = ["--norm", "batch", "--optimizer", "adam", "--batch-size", "13", "--epochs", "400"]
    command = [sys.executable, "-m", "tinygrad_norm", "train"]
    lines = []
    unbroken = train(norm="batch", optimizer="adam", batch_size=13, epochs=400, report=lines.append)
    process = subprocess.Popen([*command, *options, *save], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=tmp_path)
    first = [process.stdout.readline().decode() for _ in range(3)]
    process.send_signal(number)
    out, err = (stream.decode() for stream in process.communicate(timeout=120))
    assert process.returncode == 128 + number
    (file,) = os.listdir(tmp_path)
    assert file == save[1] if save else re.fullmatch(r"tinygrad-norm-unfinished-\w+\.npz", file)
    quoted = f"'{file}'" if " " in file else file
    told = re.search(r"go on with: tinygrad-norm (train .*)", err)[1]
    assert told == f"train --resume {quoted}" + (f" --save {quoted}" if save else "")
    done = subprocess.run([*command, "--resume", file, *save], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "".join(first) + out + done.stdout == "\n".join(lines) + "\n"
    assert len((out + done.stdout).splitlines()) == 397 and out.count("\n") < 390
    if save:
        back = tg.load(tmp_path / file)  # the parameters alone, now that it is finished
        assert {k: v.tolist() for k, v in back.items()} == {k: v.tolist() for k, v in unbroken.model.state_dict().items()}


def test_two_interrupted_runs_in_one_folder_are_two_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "check_finite", lambda *args: signal.raise_signal(signal.SIGINT))
    for seed in ("1", "2"):
        assert main(["train", "--seed", seed]) == 130
    told = re.findall(r"--resume (\S+)", capsys.readouterr().err)
    assert sorted(told) == sorted(os.listdir(tmp_path))
    assert [read_checkpoint(file)["options"]["seed"] for file in told] == [1, 2]


def test_what_cannot_be_resumed_says_why(tmp_path, monkeypatch, capsys):
    file = tmp_path / "run.npz"
    monkeypatch.setattr(training, "check_finite", lambda *args: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match=r"SIGTERM: the run is saved in .*run\.npz"):
        train(epochs=2, lr=0.5, checkpoint=file, report=None)
    monkeypatch.undo()
    assert read_checkpoint(file)["options"]["lr"] == 0.5
    with pytest.raises(ValueError, match=r"is a run with lr 0\.5; got lr 0\.01: of its options only epochs can be changed"):
        train(epochs=2, resume=file, report=None)
    assert len(train(epochs=4, lr=0.5, resume=file, report=None).history) == 4  # more epochs are welcome
    assert main(["train", "--resume", str(file), "--norm", "batch"]) == 2
    assert "is a run with norm layer; got norm batch" in capsys.readouterr().err
    tg.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.npz")
    assert main(["train", "--resume", str(tmp_path / "weights.npz")]) == 2
    assert "is no checkpoint of train" in capsys.readouterr().err
    (tmp_path / "cut.npz").write_bytes(file.read_bytes()[:-100])
    assert main(["train", "--resume", str(tmp_path / "cut.npz")]) == 2
    assert "cannot be read as .npz" in capsys.readouterr().err
    state = tg.load(file)
    del state["optimizer"]
    tg.save(state, tmp_path / "part.npz")
    with pytest.raises(ValueError, match="is no whole checkpoint of train: 'optimizer'"):
        train(epochs=2, lr=0.5, resume=tmp_path / "part.npz", report=None)
    state = tg.load(file)
    state["progress"]["history"] = [[1, 0.5, 0.5, None], [2, 0.5, 0.5, None]]
    tg.save(state, tmp_path / "done.npz")
    with pytest.raises(ValueError, match="is a run of 2 epochs already: ask for more"):
        train(epochs=2, lr=0.5, resume=tmp_path / "done.npz", report=None)


def test_without_a_checkpoint_and_in_threads_signals_act_as_always(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        train(epochs=3, report=lambda line: signal.raise_signal(signal.SIGINT))
    assert type(caught.value) is KeyboardInterrupt
    results = []
    thread = threading.Thread(target=lambda: results.append(train(epochs=2, checkpoint=tmp_path / "a.npz", report=None)))
    thread.start()
    thread.join()
    assert len(results[0].history) == 2


def test_where_nothing_can_be_written_the_command_runs_all_the_same(monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda *_: False)  # for root a folder's mode says nothing
    for task in (["--epochs", "2"], ["--task", "delayed-sum", "--steps", "2"], ["--task", "chars", "--steps", "1", "--sample", "5"]):
        assert main(["train", *task]) == 0
        out, err = capsys.readouterr()
        assert out and "a run that is interrupted is lost (--save FILE keeps it)" in err
    assert main(["train", "--save", "run.npz"]) == 2  # what was asked for cannot be done
    assert "error: the folder '.' may not be written to" in capsys.readouterr().err


def test_the_second_signal_is_not_held_back():
    with stop_requests() as requests:
        signal.raise_signal(signal.SIGINT)
        assert requests == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


# -- memory ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_memory_is_flat_with_the_collector_off(norm):
    """Objects alive after 100, 600 and 1100 steps: a cycle in every step would leave some thousand. (NumPy's arrays hang on such objects;
    blocks of memory tell less, because Python keeps up to 2000 freed tuples of each length.)"""
    model = training.MLP(10, 20, 2, norm)
    optimizer = tg.optim.Adam(model.parameters())
    scheduler = tg.optim.lr_scheduler.StepLR(optimizer, 10)
    loader = tg.utils.data.DataLoader(tg.utils.data.TensorDataset(tg.randn(100, 10), tg.randint(0, 2, (100,))), batch_size=10, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    alive = []
    gc.collect()
    gc.disable()
    try:
        for epoch in range(110):
            for x, y in loader:
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            scheduler.step()
            (dx,) = tg.autograd.grad(model(x.requires_grad_()).pow(2).sum(), x, create_graph=True)
            dx.sum().backward()
            del dx, loss, x, y
            if epoch in (9, 59, 109):
                alive.append(len(gc.get_objects()))
        assert gc.collect() < 10
    finally:
        gc.enable()
    assert all(after - before < 10 for before, after in pairwise(alive)), alive


# -- divergence --------------------------------------------------------------------------------------------------------------------------


def test_divergence_names_the_first_layer(capsys):
    assert main(["train", "--lr", "1e30", "--norm", "none", "--epochs", "40"]) == 2
    err = capsys.readouterr().err
    assert re.search(r"error: the training has diverged at batch 1 of epoch \d+: the loss is (nan|inf)\. The first output that is not finite is that of fc", err)
    assert "smaller learning rate" in err
    assert len(err.splitlines()) == 1
    with pytest.raises(FloatingPointError, match=r"that of fc\d \(Linear\)"):
        train(lr=1e30, norm="none", epochs=40, report=None)


def test_divergence_between_the_layers_is_not_laid_upon_the_next_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x):
            return self.b((self.a(x) - 100).log())

    net = Net()
    assert "that of b (Linear): its input was not finite, which an op that stands between the layers has made" in first_not_finite(net, tg.ones(1, 2))
    with tg.no_grad():
        net.a.weight.fill_(float("nan"))
        net.a.bias.fill_(float("nan"))
    assert "that of a (Linear): its weight and bias were not finite before this step" in first_not_finite(net, tg.ones(1, 2))


def test_divergence_of_the_other_tasks_names_the_layer_too(capsys, tmp_path):
    small = [word for name, value in {**SMALL_CHARS, "steps": 50}.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    saved = str(tmp_path / "run.npz")
    for options, words in (
        (["--task", "chars", *small, "--lr", "1e30", "--optimizer", "sgd", "--norm", "none", "--save", saved], r"at step \d+: the loss is (nan|inf)"),
        (["--task", "delayed-sum", "--lr", "1e30"], r"at step \d+ of the LSTM: the loss is (nan|inf)"),
    ):
        assert main(["train", *options]) == 2
        err = capsys.readouterr().err
        assert re.search(rf"error: the training has diverged {words}\. (The first output that is not finite is that of [a-z0-9._]+ \(\w+\)|Every)", err), err
        assert "smaller learning rate" in err or "overflowed" in err
        assert len(err.splitlines()) == 1
    assert not os.path.exists(saved)


def test_held_out_text_is_watched_too(monkeypatch):
    """A last step that spoils the parameters: no training loss shows it, the held-out one does."""
    step = tg.optim.SGD.step

    def spoil(self):
        step(self)
        with tg.no_grad():
            self.param_groups[0]["params"][-1].fill_(float("nan"))

    monkeypatch.setattr(tg.optim.SGD, "step", spoil)
    with pytest.raises(FloatingPointError, match=r"the held-out text after step 1: the loss is nan\. .* that of head \(Linear\): its bias"):
        chars.train_chars(**{**SMALL_CHARS, "steps": 1, "optimizer": "sgd"}, report=None)


def test_the_forward_that_is_looked_at_again_draws_the_same():
    """With dropout: what overflowed once overflows in the second look as well."""
    class Rare(nn.Module):
        def forward(self, x):
            return x / (1 - 2 * nn.functional.dropout(tg.ones(20), 0.5)[:1].clamp(0, 0.5))  # 1/0 where the first is kept

    tg.manual_seed(3)
    model, x = Rare(), tg.ones(1)
    for _ in range(8):
        before = tg.random.get_rng_state()
        with np.errstate(all="ignore"):
            value = model(x).item()
        after = tg.random.get_rng_state()
        said = first_not_finite(model, x, random=before)
        assert ("that of the model (Rare)" in said) == (not np.isfinite(value))
        assert (tg.random.get_rng_state()["words"] == after["words"]).all() and tg.random.get_rng_state()["position"] == after["position"]


def test_first_not_finite_looks_at_every_layer_and_leaves_the_model_as_it_was():
    class Exp(nn.Module):
        def forward(self, x):
            return (x * 1000).exp()

    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sequential(Exp(), nn.ReLU()), nn.Linear(3, 1))
    x = tg.randn(8, 3)
    before = {k: v.tolist() for k, v in model.state_dict().items()}
    assert "that of 2.0 (Exp): its input and its parameters were finite" in first_not_finite(model, x)
    assert {k: v.tolist() for k, v in model.state_dict().items()} == before
    assert not any(module._hooks for module in model.modules())
    assert first_not_finite(model, tg.full((2, 3), float("nan"))) == "The input itself is not finite: clean the data."
    assert "the loss itself has overflowed" in first_not_finite(nn.Linear(3, 3), x)
    with tg.no_grad():
        model[1].weight[0] = float("nan")
    assert "that of 1 (BatchNorm1d): its weight was not finite before this step" in first_not_finite(model, x)
