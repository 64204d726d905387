"""The experiment: runs that can be interrupted and taken up again, rows that mean what they say, words that follow from the rows."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tinygrad_norm import experiment
from tinygrad_norm.cli import main
from tinygrad_norm.data import load_digits
from tinygrad_norm.experiment import CHOOSING, HEADER, Grid, Outcome, Setting, make_mlp, read_results, run_norms, run_one, settings
from tinygrad_norm.experiment_report import best, plot_norms, summarize, verdict
from tinygrad_norm.random import Generator, manual_seed

TINY = Grid(inits=("torch",), lrs=(0.1,), depths=(1,), batch_sizes=(64,), seeds=(0,), epochs=1, least_steps=3, hidden=8)


def timeless(results):
    return {setting: outcome._replace(seconds=0.0) for setting, outcome in results.items()}


@pytest.mark.parametrize(("norm", "init"), [("none", "he"), ("layer", "torch"), ("batch", "he")])
def test_a_run_is_torchs(norm, init):
    """The same network, start, batches and steps with torch: the same loss and accuracies at the end."""
    setting = Setting(norm, init, 2, 16, 0.1, 1, 1, 30, 12)
    ours = run_one(setting)
    train, held = load_digits(seed=1)
    x, y = (torch.tensor(t.numpy()) for t in train.tensors)
    manual_seed(1)
    start = make_mlp(norm, init, 2, 12).state_dict()
    layers = []
    for width in (64, 12):
        layers += [torch.nn.Linear(width, 12), *({"none": [], "layer": [torch.nn.LayerNorm(12)], "batch": [torch.nn.BatchNorm1d(12)]}[norm]), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(12, 10))
    model.load_state_dict({k: torch.tensor(v.numpy()) for k, v in start.items()})
    optimizer, stream = torch.optim.SGD(model.parameters(), lr=0.1), Generator().manual_seed(1)
    n = len(y) - CHOOSING
    stream.permutation(n)
    order = stream.permutation(n)
    for step in range(n // 16):
        rows = order[step * 16 : step * 16 + 16] + CHOOSING
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(x[CHOOSING:]), y[CHOOSING:]).item()
        right = (model(torch.tensor(held.tensors[0].numpy())).argmax(1).numpy() == held.tensors[1].numpy()).mean()
    assert ours.steps == n // 16 == 71
    assert ours.diverged == 0
    assert ours.train_loss == pytest.approx(loss, rel=1e-4)
    assert ours.held_out_accuracy == pytest.approx(right, abs=1.5 / 359)


def test_the_three_parts_do_not_meet():
    parts = experiment._parts(3)
    assert [len(y) for _, y in parts] == [1150, 288, 359]
    rows = {x.numpy().tobytes() for part, _ in parts for x in part}
    assert len(rows) > 1780  # a few digits are drawn twice in the data itself


def test_the_norms_start_alike_and_the_same_setting_gives_the_same_run():
    manual_seed(0)
    weights = []
    for norm in ("none", "layer", "batch"):
        manual_seed(5)
        weights.append([p.detach().numpy() for n, p in make_mlp(norm, "torch", 3, 8).named_parameters() if p.ndim == 2])
    for a, b, c in zip(*weights, strict=True):
        assert np.array_equal(a, b) and np.array_equal(a, c)
    setting = settings(TINY)[1]
    assert run_one(setting)._replace(seconds=0) == run_one(setting)._replace(seconds=0)


def test_the_starts():
    manual_seed(0)
    he, plain = make_mlp("none", "he", 1, 512)[0], make_mlp("none", "torch", 1, 512)[0]
    assert he.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    assert plain.weight.std().item() == pytest.approx((1 / 3 / 64) ** 0.5, rel=0.02)
    assert not he.bias.detach().numpy().any() and plain.bias.detach().numpy().any()


def test_a_diverged_run_is_a_row():
    outcome = run_one(Setting("none", "torch", 2, 8, 1e6, 0, 1, 50, 16))
    assert outcome.diverged == 1
    assert outcome.steps < 50
    assert not np.isfinite(outcome.train_loss)
    assert 0 <= outcome.held_out_accuracy <= 0.3


def test_rows_are_written_as_they_end_and_nothing_runs_twice(tmp_path, monkeypatch):
    results = run_norms(TINY, tmp_path, jobs=1, progress=False)
    text = (tmp_path / "results.csv").read_text()
    assert len(text.splitlines()) == 4
    assert read_results(tmp_path / "results.csv") == results
    monkeypatch.setattr(experiment, "_run_all", lambda *_: pytest.fail("ran again"))
    assert run_norms(TINY, tmp_path, progress=False) == results
    monkeypatch.undo()
    asked = []
    monkeypatch.setattr(experiment, "_run_all", lambda missing, jobs, keep: [asked.append(s) or keep(s, run_one(s)) for s in missing])
    larger = run_norms(TINY._replace(seeds=(0, 1)), tmp_path, progress=False)
    assert [s.seed for s in asked] == [1, 1, 1]
    assert len(larger) == 6 and len((tmp_path / "results.csv").read_text().splitlines()) == 7
    assert set(run_norms(TINY, tmp_path, progress=False)) == set(results)  # rows of other grids are left out


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_cut_short_is_run_again(tmp_path, monkeypatch, cut):
    monkeypatch.setattr(experiment, "_run_all", lambda missing, jobs, keep: [keep(s, run_one(s)) for s in missing])
    whole = run_norms(TINY, tmp_path, progress=False)
    path = tmp_path / "results.csv"
    path.write_bytes(path.read_bytes()[:-cut])
    asked = []
    monkeypatch.setattr(experiment, "_run_all", lambda missing, jobs, keep: [asked.append(s) or keep(s, run_one(s)) for s in missing])
    assert timeless(run_norms(TINY, tmp_path, progress=False)) == timeless(whole)
    assert len(asked) == 1
    assert len(path.read_text().splitlines()) == 4
    path.write_text(",".join(HEADER)[:20])  # even the header
    assert timeless(run_norms(TINY, tmp_path, progress=False)) == timeless(whole)


def test_files_of_another_form_are_refused(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is no table of this experiment"):
        run_norms(TINY, tmp_path, progress=False)
    assert path.read_text() == "a,b\n1,2\n"
    for unended in ("a,b\n1,2", "a,b"):  # as an editor may leave it: not taken for a line that was cut short
        path.write_text(unended)
        with pytest.raises(ValueError, match="is no table of this experiment"):
            run_norms(TINY, tmp_path, progress=False)
        assert path.read_text() == unended
    path.write_text(",".join(HEADER) + "\nnone,1,x\n")
    with pytest.raises(ValueError, match="line 2, is no row"):
        run_norms(TINY, tmp_path, progress=False)


def test_two_runs_in_one_folder_do_not_mix(tmp_path):
    with experiment._appending(tmp_path / "results.csv"), pytest.raises(ValueError, match="another run is writing"):
        run_norms(TINY, tmp_path, progress=False)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_taken_up_again(tmp_path, how):
    command = [sys.executable, "-m", "tinygrad_norm", "experiment", "norms", "--out", str(tmp_path), "--no-plot", "--jobs", "2"]
    command += ["--seeds", "0", "1", "--lrs", "0.1", "0.2", "--inits", "he", "--depths", "1", "--batch-sizes", "8", "--epochs", "1"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    path = tmp_path / "results.csv"
    limit = time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < 3:
        assert first.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    children = [int(c) for c in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()] if sys.platform == "linux" else []
    first.send_signal(how)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in errors
    limit = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text() for child in children):
        assert time.monotonic() < limit, "a worker is left behind"
        time.sleep(0.05)
    done = path.read_text().splitlines()
    assert 3 <= len(done) < 13
    second = subprocess.run([*command, "--jobs", "1"], capture_output=True, text=True, timeout=300)
    assert second.returncode == 0
    assert "Held-out accuracy (%)" in second.stdout
    lines = path.read_text().splitlines()
    assert lines[: len(done)] == done or how == signal.SIGKILL  # a kill may have cut the last one
    assert len(lines) == 13 and len(read_results(path)) == 12
    assert (tmp_path / "table.txt").read_text() == second.stdout


def test_a_script_without_its_guard_is_told_of_it(tmp_path):
    script = tmp_path / "script.py"
    call = f"run_norms(Grid(inits=('he',), lrs=(0.1,), depths=(1,), batch_sizes=(64,), seeds=(0,)), {str(tmp_path)!r}, jobs=1, progress=False)"
    script.write_text(f"from tinygrad_norm.experiment import Grid, run_norms\n{call}\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert 'under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


def test_workers_have_one_thread_and_the_environment_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with experiment._one_thread_each():
        assert {os.environ[name] for name in experiment.ONE_THREAD} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


def made_up(accuracies, lrs=(0.1, 1.0), seeds=3):
    """Rows with these held-out accuracies: {(norm, lr): base}, one point more for each seed; the choosing accuracy is the same."""
    results = {}
    for (norm, lr), base in accuracies.items():
        for seed in range(seeds):
            accuracy = (base + seed) / 100
            results[Setting(norm, "he", 1, 2, lr, seed, 1, 1, 8)] = Outcome(1, int(base < 20), 0.5, accuracy, accuracy, 1.0)
    return results


ROWS = {("none", 0.1): 90, ("none", 1.0): 10, ("layer", 0.1): 91, ("layer", 1.0): 94, ("batch", 0.1): 60, ("batch", 1.0): 59}


def test_words_follow_from_the_rows():
    results = made_up(ROWS)
    cell = best(results, "layer", ("he", 1, 2))
    assert cell.lr == 1.0 and cell.accuracies == pytest.approx([94, 95, 96]) and cell.chosen_by == pytest.approx({0.1: 92, 1.0: 95})
    text = summarize(results)
    assert "91.0 ± 1.0  (0.1)" in text and "95.0 ± 1.0  (1)" in text
    assert "LayerNorm helps at:\n    init he, depth 1, batch 2 (+4.0)" in text
    assert "BatchNorm harms at:\n    init he, depth 1, batch 2 (-30.0)" in text
    assert "no norm: 0.0 of 2 learning rates" in text and "LayerNorm: 1.0 of 2 learning rates" in text and "3 of 6 runs diverged; all runs together: 51.0 %" in text
    assert "No difference" not in text
    same = summarize(made_up({**ROWS, ("layer", 0.1): 90.2, ("layer", 1.0): 50}))
    assert "No difference between LayerNorm and no norm was seen at:\n    init he, depth 1, batch 2 (+0.2)" in same
    alone = summarize(made_up(ROWS, seeds=1))
    assert "One seed shows nothing" in alone and "nan" not in alone


def test_the_learning_rate_is_not_chosen_on_the_held_out_part():
    results = made_up(ROWS)
    for setting in results:
        if setting.lr == 1.0:
            results[setting] = results[setting]._replace(choosing_accuracy=0.0)
    assert best(results, "layer", ("he", 1, 2)).lr == 0.1


def test_verdicts():
    assert verdict([90, 92, 94], [90, 92, 94]) == (0, 0, "no difference seen")
    assert verdict([95, 96, 97], [90, 91, 92])[2] == "helps"
    assert verdict([85, 86, 87], [90, 91, 92])[2] == "harms"
    assert verdict([99, 80, 97], [90, 91, 92])[2] == "no difference seen"  # scattered
    assert verdict([90.3, 90.4, 90.35], [90, 90, 90])[2] == "no difference seen"  # sure, but nothing
    assert verdict([99], [90])[2] == "one seed"


def test_pictures(tmp_path):
    paths = plot_norms(made_up(ROWS), tmp_path)
    assert [p.name for p in paths] == ["learning_rates_he.png", "batch_sizes.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size > 10_000 for p in paths)


@pytest.mark.parametrize("module", ["matplotlib.figure", "sklearn.datasets"])
def test_a_missing_extra_is_named_before_the_work(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    experiment._parts.cache_clear()
    assert main(["experiment", "norms", "--quick", "--out", str(tmp_path / "new")]) == 2
    assert "pip install" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_tqdm_it_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(experiment, "_run_all", lambda missing, jobs, keep: [keep(s, run_one(s)) for s in missing])
    assert len(run_norms(TINY, tmp_path)) == 3
    assert "for a progress bar: pip install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--batch-sizes", "1"], "batch_size must be at least 2"),
        (["--batch-sizes", "2000"], "batch_size must be at most 1150"),
        (["--inits", "xavier"], "inits must be of torch, he; got xavier"),
        (["--lrs", "-1"], "lr must be positive"),
        (["--lrs", "nan"], "lr must be positive and finite"),
        (["--depths", "0"], "depth must be positive"),
        (["--seeds", "1", "1"], "seeds must hold each value once"),
        (["--jobs", "0"], "jobs must be at least 1"),
        (["--epochs", "0"], "epochs must be positive"),
    ],
)
def test_bad_values(args, words, tmp_path, capsys):
    assert main(["experiment", "norms", "--out", str(tmp_path / "new"), *args]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
