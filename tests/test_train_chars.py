"""The task of characters: it learns, is held out, resumes to the same numbers, and refuses what it cannot do in one line."""

import re

import numpy as np
import pytest
import torch
from test_long_runs import flatten

import tinygrad_norm as tg
from tinygrad_norm.cli import main
from tinygrad_norm.serialization import load, save
from tinygrad_norm.train_chars import HELD_OUT, SYMBOLS, TRAINING, CharTransformer, characters, decode, encode, read_text, train_chars, warm_up

SMALL = {"hidden": 16, "heads": 2, "layers": 1, "context": 16, "batch_size": 8, "sample": 20}
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def test_the_text_is_held_out_and_can_be_read_back():
    text, held = read_text(TRAINING), read_text(HELD_OUT)
    assert len(text) > 10 * len(held) > 500_000
    assert not set(TRAINING) & set(HELD_OUT)
    assert text.min() >= 0 and text.max() < len(SYMBOLS) == 96
    assert decode(encode("def f(x):\n\treturn 'é'\n")) == "def f(x):\n    return '?'\n"
    assert "def month(self, locale=None)" in decode(held) or "import" in decode(held)


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
def test_every_norm_learns(norm):
    result = train_chars(norm=norm, steps=60, every=30, report=None, **SMALL)
    assert [line.step for line in result.history] == [30, 60]
    assert result.history[-1].held_out < min(result.history[0].held_out, 3.3)  # evenly guessed: ln 96 = 4.56
    assert result.history[-1].held_out > 1
    norms = [name for name, m in result.model.named_modules() if isinstance(m, tg.nn.LayerNorm)]
    assert len(norms) == {"pre": 3, "post": 2, "none": 0}[norm]
    assert len(result.sample) == len("def ") + 20
    assert result.sample.startswith("def ")
    assert set(result.sample) <= set(SYMBOLS)


def test_the_model_is_torchs():
    """The same weights in torch's modules give the same logits: norm and mask stand where they should."""
    model = CharTransformer(16, 2, 2, 12, "pre", dtype=tg.float64)
    layer = torch.nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64)
    theirs = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(16, dtype=torch.float64), enable_nested_tensor=False)
    weights = {k: torch.tensor(v.numpy()) for k, v in model.state_dict().items()}
    theirs.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")})
    x = np.random.default_rng(0).integers(0, 96, (3, 9))
    h = weights["embedding.weight"][torch.tensor(x)] + weights["positions.weight"][:9]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64)
    logits = theirs(h, mask) @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(model(tg.tensor(x)).detach().numpy(), logits.detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_a_resumed_run_is_an_unbroken_one(optimizer, ending, tmp_path):
    options = {**SMALL, "optimizer": optimizer, "dropout": 0.2, "every": 6, "report": None}  # 10 is not a report: its losses wait in the file
    whole = train_chars(steps=20, save=tmp_path / f"whole{ending}", **options)
    train_chars(steps=10, save=tmp_path / f"half{ending}", **options)
    tg.manual_seed(99)
    tg.rand(7)  # nothing may come from the process
    rest = train_chars(steps=20, resume=tmp_path / f"half{ending}", save=tmp_path / f"rest{ending}", **options)
    assert rest.history == whole.history
    assert rest.sample == whole.sample
    first, second = load(tmp_path / f"whole{ending}"), load(tmp_path / f"rest{ending}")
    assert flatten(first) == flatten(second)


def test_a_sample_that_cannot_be_drawn_is_refused():
    model = CharTransformer(8, 2, 1, 16)
    for wrong in ({"temperature": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"prompt": ""}):
        with pytest.raises(ValueError, match="a prompt of at least one character and a temperature above 0"):
            next(characters(model, 5, **wrong))


def test_a_run_that_is_at_its_end_is_saved_too(tmp_path, capsys):
    run, other = str(tmp_path / "run.npz"), str(tmp_path / "other.npz")
    assert main(["train", "--task", "chars", *FLAGS, "--steps", "4", "--every", "4", "--save", run]) == 0
    assert main(["train", "--resume", run, "--save", other]) == 0  # only its sample is left to do
    assert flatten(load(other)) == flatten(load(run))


def test_on_the_command_line(tmp_path, capsys):
    checkpoint = str(tmp_path / "run.npz")
    assert main(["train", "--task", "chars", "--norm", "post", *FLAGS, "--steps", "8", "--every", "4"]) == 0
    whole = capsys.readouterr().out
    assert re.match(r"Step \[4/8\], Loss: \d\.\d{4}, Held-out loss: \d\.\d{4}\nStep \[8/8\], .*\nSample of 20 characters:\ndef ", whole)
    assert main(["train", "--task", "chars", "--norm", "post", *FLAGS, "--steps", "4", "--every", "4", "--save", checkpoint]) == 0
    capsys.readouterr()
    assert main(["train", "--steps", "8", "--resume", checkpoint]) == 0  # the file knows the rest
    assert capsys.readouterr().out == "".join(whole.splitlines(keepends=True)[1:])
    assert main(["train", "--task", "chars", *FLAGS, "--sample", "0", "--steps", "1"]) == 0
    assert "Sample" not in capsys.readouterr().out


def test_a_sample_disturbs_nothing_and_is_the_seeds():
    model = CharTransformer(8, 2, 1, 16)
    tg.manual_seed(5)
    first = "".join(characters(model, 30, seed=1))
    assert tg.rand(1).item() == tg.manual_seed(5).uniform((1,)).item()
    assert model.training
    assert first == "".join(characters(model, 30, seed=1)) != "".join(characters(model, 30, seed=2))


def test_the_rate_rises_then_falls():
    assert [warm_up(t) for t in (0, 24, 49, 199)] == [0.02, 0.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--norm", "layer"], "norm must be one of pre, post, none; got 'layer'"),
        (["--norm", "group"], "invalid choice: 'group'"),
        (["--epochs", "3"], "--epochs goes with --task mlp, not with --task chars"),
        (["--data", "digits"], "--data goes with --task mlp"),
        (["--plot", "a.png"], "--plot goes with --task mlp"),
        (["--steps", "0"], "steps must be positive"),
        (["--hidden", "30"], "hidden must be a multiple of heads; got 30 and 4"),
        (["--dropout", "1.5"], "between 0 and 1"),
        (["--sample", "-1"], "sample must be a number of characters"),
        (["--context", "100000000"], "context must be shorter"),
        (["--every", "0"], "every must be positive"),
        (["--lr", "nan"], "lr must be positive and finite"),
        (["--save", "a.pt"], "must end with .npz or .safetensors"),
        (["--save", "no/such/folder/a.npz"], "there is no folder"),
        (["--resume", "nothing.npz"], "nothing.npz"),
        (["--seed", "99999999999999999999999"], "seed"),
    ],
)
def test_bad_values_are_one_line_and_exit_code_2(args, words, capsys):
    try:
        code = main(["train", "--task", "chars", *args])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_options_of_chars_are_refused_by_the_mlp(capsys):
    for args, words in ((["--steps", "3"], "--steps goes with --task chars or delayed-sum, not with --task mlp"), (["--norm", "pre"], "norm must be one of layer, batch, none")):
        assert main(["train", *args]) == 2
        assert words in capsys.readouterr().err


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    options = {**SMALL, "report": None}
    place = tmp_path / "run.npz"
    train_chars(steps=2, save=place, **options)
    with pytest.raises(ValueError, match="is a run of 2 steps already"):
        train_chars(steps=1, resume=place, **options)
    with pytest.raises(ValueError, match=r"is a run with norm pre and lr 0\.003; got norm post and lr 0\.1: of its options only steps and sample can be changed"):
        train_chars(steps=4, resume=place, **options, norm="post", lr=0.1)
    save({"weight": tg.ones(2)}, place)
    with pytest.raises(ValueError, match="is no checkpoint of train"):
        train_chars(steps=4, resume=place, **options)
    place.write_bytes(b"no file of tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        train_chars(steps=4, resume=place, **options)
