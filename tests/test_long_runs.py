"""Runs that are interrupted, that go on for long, and that diverge."""

import gc
import os
import re
import signal
import subprocess
import sys
import threading
from itertools import pairwise

import pytest

import tinygrad_norm as tg
import tinygrad_norm.train as training
from tinygrad_norm import nn
from tinygrad_norm.cli import main
from tinygrad_norm.runs import Interrupted, first_not_finite, stop_requests
from tinygrad_norm.train import options_of, train

RUNS = [
    {"norm": "batch", "optimizer": "adam", "batch_size": 7, "epochs": 4},
    {"norm": "layer", "optimizer": "momentum", "batch_size": 40, "epochs": 6, "dtype": "float64", "seed": 3},
    {"norm": "none", "optimizer": "adamw", "epochs": 12, "hidden": 5},
    {"data": "digits", "norm": "batch", "optimizer": "adam", "batch_size": 300, "epochs": 3},
]


def whole(result, lines):
    """Everything that a run leaves, as text."""
    state = {"model": result.model.state_dict(), "optimizer": result.optimizer.state_dict(), "random": tg.random.get_rng_state()}
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
    return flat, result.history, lines


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


@pytest.mark.parametrize(("number", "save"), [(signal.SIGINT, []), (signal.SIGTERM, ["--save", "my run.npz"])])
def test_the_command_survives_a_signal(number, save, tmp_path):
    options = ["--norm", "batch", "--optimizer", "adam", "--batch-size", "13", "--epochs", "400"]
    command = [sys.executable, "-m", "tinygrad_norm", "train"]
    lines = []
    unbroken = train(norm="batch", optimizer="adam", batch_size=13, epochs=400, report=lines.append)
    process = subprocess.Popen([*command, *options, *save], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    first = [process.stdout.readline() for _ in range(3)]
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    file = save[1] if save else "tinygrad-norm-unfinished.npz"
    assert process.returncode == 128 + number
    assert os.listdir(tmp_path) == [file]
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


def test_what_cannot_be_resumed_says_why(tmp_path, monkeypatch, capsys):
    file = tmp_path / "run.npz"
    monkeypatch.setattr(training, "check_finite", lambda *args: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match=r"SIGTERM: the run is saved in .*run\.npz"):
        train(epochs=2, lr=0.5, checkpoint=file, report=None)
    monkeypatch.undo()
    assert options_of(file)["lr"] == 0.5
    with pytest.raises(ValueError, match=r"is a run with lr 0\.5; got 0\.01: of its options only epochs can be changed"):
        train(epochs=2, resume=file, report=None)
    assert len(train(epochs=4, lr=0.5, resume=file, report=None).history) == 4  # more epochs are welcome
    assert main(["train", "--resume", str(file), "--norm", "batch"]) == 2
    assert "is a run with norm layer; got batch" in capsys.readouterr().err
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
