"""The command line and the function behind it, as their users call them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_sources import TEN_LINES

import tinygrad_norm as tg
from tinygrad_norm.cli import main
from tinygrad_norm.serialization import load, save
from tinygrad_norm.train import MLP, plot_history, train

PNG = b"\x89PNG\r\n\x1a\n"


def run(*args, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tinygrad_norm", *args], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )


@pytest.mark.parametrize("seed", [[], ["--seed", "0"]])
def test_the_ten_lines(seed):
    done = run("train", *seed)
    assert (done.returncode, done.stdout) == (0, TEN_LINES)


def test_the_console_script_is_there():
    script = Path(sys.executable).with_name("tinygrad-norm")
    done = subprocess.run([str(script), "train", "--epochs", "1"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "Epoch [1/1], Loss: 0.7147, Accuracy: 50.00%\n")


def test_a_reader_who_leaves_early_is_no_error():
    command = [sys.executable, "-m", "tinygrad_norm", "train", "--epochs", "5000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"Epoch [1/5000]")
        process.stdout.close()  # as head -1 does
        assert b"rror" not in process.stderr.read()  # a cold cache says there that it compiles
    assert process.returncode == 141


def test_what_the_terminal_cannot_show_ends_no_command():
    done = run("course", "list", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"A0 \xb7 The tape" in done.stdout


def test_numbers_of_numpy_are_numbers():
    result = train(epochs=np.int64(1), hidden=np.int32(20), lr=np.float32(0.5), batch_size=np.int64(50), report=None)
    assert result.history == train(epochs=1, hidden=20, lr=0.5, batch_size=50, report=None).history
    for wrong in (np.float64(1.0), np.bool_(True), True, 1.0):
        with pytest.raises(TypeError, match="epochs must be an integer"):
            train(epochs=wrong, report=None)


def test_parameters_are_saved_though_the_picture_fails(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("tinygrad_norm.cli.plot_history", fail)
    assert main(["train", "--epochs", "1", "--plot", str(tmp_path / "a.png"), "--save", str(tmp_path / "a.npz")]) == 2
    assert "no space left" in capsys.readouterr().err
    assert "fc1.weight" in load(tmp_path / "a.npz")


@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_choice_trains(norm, optimizer, dtype):
    result = train(norm=norm, optimizer=optimizer, dtype=dtype, epochs=30, report=None)
    assert result.history[-1].loss < result.history[0].loss
    assert result.model.fc1.weight.dtype is getattr(tg, dtype)


def test_digits_learn_and_are_held_out(capsys):
    result = train(data="digits", norm="batch", optimizer="adam", lr=0.01, hidden=64, batch_size=64, epochs=4)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(re.fullmatch(r"Epoch \[\d/4\], Loss: \d\.\d{4}, Accuracy: [\d.]+%, Held-out accuracy: [\d.]+%", line) for line in lines)
    assert result.history[-1].held_out > 0.93


def test_the_same_seed_gives_the_same_run():
    lines = []
    for _ in range(2):
        lines.append([])
        train(data="digits", batch_size=200, epochs=2, seed=3, report=lines[-1].append)
    assert lines[0] == lines[1]


def test_plot_and_save(tmp_path, capsys):
    picture, weights = tmp_path / "curve.png", tmp_path / "model.npz"
    assert main(["train", "--epochs", "3", "--plot", str(picture), "--save", str(weights)]) == 0
    assert picture.read_bytes().startswith(PNG)
    model = MLP(10, 20, 2)
    assert str(model.load_state_dict(load(weights))) == "<All keys matched successfully>"
    assert sorted(os.listdir(tmp_path)) == ["curve.png", "model.npz"]  # no temporary file is left
    safe = tmp_path / "model.safetensors"
    save(model.state_dict(), safe)
    import safetensors.torch

    theirs = safetensors.torch.load_file(safe)
    assert {k: v.tolist() for k, v in theirs.items()} == {k: v.tolist() for k, v in load(safe).items()}


def test_held_out_is_plotted_too(tmp_path):
    result = train(data="digits", batch_size=300, epochs=2, report=None)
    plot_history(result.history, tmp_path / "digits.png")
    assert (tmp_path / "digits.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--epochs", "0"], "epochs must be positive"),
        (["--epochs", "ten"], "expected a whole number, as 10; got 'ten'"),
        (["--lr", "-1"], "lr must be positive"),
        (["--lr", "nan"], "lr must be positive and finite"),
        (["--hidden", "0"], "hidden must be positive"),
        (["--norm", "group"], "invalid choice: 'group'"),
        (["--optimizer", "lion"], "invalid choice: 'lion'"),
        (["--dtype", "int64"], "invalid choice: 'int64'"),
        (["--data", "mnist"], "invalid choice: 'mnist'"),
        (["--batch-size", "0"], "batch_size must be positive"),
        (["--norm", "batch", "--batch-size", "33"], "leaves a batch of one"),
        (["--plot", "curve.txt"], "must end with .png"),
        (["--plot", "no/such/folder/curve.png"], "there is no folder"),
        (["--save", "model.pt"], "must end with .npz or .safetensors"),
        (["--seed", "99999999999999999999999"], "seed"),
        (["--nonsense"], "unrecognized arguments"),
        (["--epocs", "3"], "unrecognized arguments: --epocs 3: did you mean --epochs? (see tinygrad-norm train --help)"),
        (["10"], "tinygrad-norm train: error: unrecognized arguments: 10"),
        (["--lr", "0,1"], "expected a number, as 0.1 or 3e-4; got '0,1'"),
        (["--hidden", "100000000000000000"], "Unable to allocate"),
        (["--epochs", "99999999999999999999"], "too large"),
        (["--resume", "nothing.npz"], "error: 'nothing.npz': No such file or directory"),
        (["--resume", "notes.txt"], "must end with .npz or .safetensors; got 'notes.txt'"),
    ],
)
def test_bad_values_are_one_line_and_exit_code_2(args, words, capsys):
    try:
        code = main(["train", *args])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1


def test_no_command_says_which_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "args"), [("matplotlib", ["--plot", "x.png"]), ("sklearn", ["--data", "digits"]), ("safetensors", ["--save", "x.safetensors"])]
)
def test_a_missing_extra_is_named(module, args, tmp_path):
    code = f"import sys; sys.modules['{module}'] = None; from tinygrad_norm.cli import main; sys.exit(main(['train', '--epochs', '1', *{json.dumps(args)}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")  # before the work, not after it
    assert "pip install" in done.stderr
    assert len(done.stderr.splitlines()) == 1

