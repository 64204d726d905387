"""The bench: frames, comparison before timing, contestants that lie, die or hang, the files it writes. No time is asserted."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import tinygrad_norm as tg
from tinygrad_norm.bench import bench, rows, starts, work, work_jax
from tinygrad_norm.bench.contest import Contestant, ContestantError, Failure, Figure, contest, contestants, deviation, disagreement
from tinygrad_norm.bench.others import Others
from tinygrad_norm.bench.protocol import LONGEST_HEADER, receive, send
from tinygrad_norm.bench.report import figure_line, plot, summary
from tinygrad_norm.bench.worker import measure, peak_memory, serve
from tinygrad_norm.cli import main

ROOT = Path(__file__).parent.parent
TINY = rows.Row("LayerNorm (4, 8)", "layer", {"module": "LayerNorm", "arguments": [8], "shape": [4, 8]}, {"both": 1.5})


def frame(message, **arrays):
    pipe = io.BytesIO()
    send(pipe, message, arrays)
    pipe.seek(0)
    return pipe


# -- 1. Frames ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [np.float32(3.5), np.zeros((0, 3)), np.arange(12).reshape(3, 4).T, np.array([np.nan, np.inf]), np.array([True])], ids=str)
def test_arrays_come_back_as_they_went(array):
    message, arrays = receive(frame({"é": 1}, y=array))
    assert message == {"é": 1}
    assert arrays["y"].dtype == np.asarray(array).dtype and arrays["y"].shape == np.shape(array)
    np.testing.assert_array_equal(arrays["y"], array)


def test_objects_are_not_sent():
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        frame({}, y=np.array([{}]))


def test_a_cut_stream_and_one_that_is_no_frame():
    whole = frame({"do": "time"}, y=np.ones(4)).getvalue()
    for length in (0, 3, 9, len(whole) - 1):
        with pytest.raises(EOFError):
            receive(io.BytesIO(whole[:length]))
    with pytest.raises(ValueError, match="not a frame"):
        receive(io.BytesIO(b"Epoch [1/10], Loss: 0.7147"))
    with pytest.raises(ValueError, match="header holds at most"):
        send(io.BytesIO(), {"text": "x" * LONGEST_HEADER})


def ask(build, *messages):
    source, sink = io.BytesIO(), io.BytesIO()
    for message in messages:
        send(source, message)
    source.seek(0)
    serve(build, source, sink)
    sink.seek(0)
    return [receive(sink) for _ in messages]


def test_a_worker_answers_every_question_and_survives_bad_ones():
    def build(kind, arguments):
        return work.build(tg, kind, arguments)

    timing = {"do": "time", "phase": "both", "repetitions": 3, "limit": 1}
    early, bad, unknown, (good, arrays), (timed, _), (odd, _) = ask(
        build,
        timing,
        {"do": "prepare", "kind": "layer", "arguments": {**TINY.arguments, "arguments": [9]}},
        {"do": "prepare", "kind": "no such", "arguments": {}},
        {"do": "prepare", "kind": TINY.kind, "arguments": TINY.arguments},
        timing,
        {"do": "dance"},
    )
    assert early[0] == {"error": "RuntimeError: time: no row is prepared"}
    assert "RuntimeError" in bad[0]["error"] and "KeyError" in unknown[0]["error"]
    assert good == {"phases": ["forward", "backward", "both"]} and set(arrays) == {"y", "x.grad", "weight.grad", "bias.grad"}
    assert 0 < timed["minimum"] <= timed["median"]
    assert "cannot 'dance'" in odd["error"]


# -- 2. What is timed --------------------------------------------------------------------------------------------------------------------------


def test_measuring_counts_the_calls_and_stops_at_its_limit():
    calls = []
    phase = work.Phase(lambda argument: calls.append(argument), lambda: len(calls))
    measure(phase, 5)
    assert calls == [0, 1, 2, 3, 4, 5]  # the first is not counted
    calls.clear()
    measure(phase, 1)
    assert calls == [0]
    calls.clear()
    measure(work.Phase(lambda _: (calls.append(0), time.sleep(0.02))), 1000, limit=0.05)
    assert len(calls) < 10


def test_peak_memory_sees_what_a_call_holds():
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")
    size = 64 << 20
    held = work.Work(dict, {"both": work.Phase(lambda _: np.ones(size, np.uint8))})
    assert 0.9 * size < peak_memory(held, "both") < 3 * size


@pytest.mark.parametrize("shape", [(6, 5), (3, 5, 4)])
@pytest.mark.parametrize("module", ["LayerNorm", "BatchNorm1d"])
def test_the_truth_is_torchs_in_float64(module, shape, monkeypatch):
    torch = pytest.importorskip("torch")
    arguments = {"module": module, "arguments": [shape[-1] if module == "LayerNorm" else shape[1]], "shape": list(shape)}
    expected = work.truth(arguments)
    drawn, initial = work.numbers, work.parameter
    monkeypatch.setattr(work, "numbers", lambda *a, dtype="float32", **k: drawn(*a, **k).astype(dtype))  # the same numbers, wider
    monkeypatch.setattr(work, "parameter", lambda name, shape, seed, dtype: initial(name, shape, seed).astype(dtype))
    found = work.layer(torch, **arguments, dtype="float64").outputs()
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, rtol=1e-11, atol=1e-12)


SMALL = [
    ("layer", {"module": "LayerNorm", "arguments": [5], "shape": [4, 5]}),
    ("layer", {"module": "BatchNorm1d", "arguments": [5], "shape": [4, 5]}),
    ("layer", {"module": "BatchNorm1d", "arguments": [5], "shape": [4, 5, 3]}),
    ("layer", {"module": "Linear", "arguments": [5, 3], "shape": [4, 5]}),
    ("cross_entropy", {"shape": [6, 3]}),
    ("optimizer", {"name": "AdamW", "size": 7, "options": {"lr": 0.1, "weight_decay": 0.1}, "torch": {"fused": True}}),
    ("optimizer", {"name": "SGD", "size": 7, "options": {"lr": 0.1}, "torch": {"foreach": True}}),
    ("optimizer", {"name": "SGD", "size": 7, "options": {"lr": 0.1, "momentum": 0.9}, "torch": {"fused": True}}),
    ("example", {"sizes": [5, 4, 3], "batch": 6}),
    ("mlp", {"sizes": [5, 4, 4, 3], "norm": "LayerNorm", "batch": 6}),
    ("mlp", {"sizes": [5, 4, 4, 3], "norm": "BatchNorm1d", "batch": 6}),
]


@pytest.mark.parametrize(("kind", "arguments"), SMALL, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())))
def test_every_builder_agrees_with_torch_and_its_phases_run(kind, arguments):
    torch = pytest.importorskip("torch")
    ours, theirs = work.build(tg, kind, arguments), work.build(torch, kind, arguments)
    assert disagreement(ours.outputs(), theirs.outputs(), 1e-5) is None
    assert list(ours.phases) == list(theirs.phases)
    for phase in ours.phases.values():
        measure(phase, 2)


@pytest.mark.parametrize(("kind", "arguments"), SMALL, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())))
def test_jax_where_it_is_installed(kind, arguments):
    pytest.importorskip("jax")
    made = work_jax.build(kind, arguments)
    assert disagreement(made.outputs(), work.build(tg, kind, arguments).outputs(), 1e-5) is None
    for phase in made.phases.values():
        measure(phase, 2)


def test_jax_does_not_take_part_in_what_is_not_written_for_it():
    arguments = {"module": "TransformerEncoderLayer", "arguments": [8, 2, 16], "shape": [2, 3, 8], "options": {"dropout": 0.0}}
    pytest.importorskip("jax")
    ((answer, _),) = ask(work_jax.build, {"do": "prepare", "kind": "layer", "arguments": arguments})
    assert "TransformerEncoderLayer" in answer["absent"]


def test_the_table_has_what_was_asked_for():
    names = [row.name for row in rows.table()]
    assert len(names) == len(set(names))
    assert sum(name.startswith("LayerNorm (") for name in names) == 7
    assert sum(name.startswith("BatchNorm1d (") for name in names) == 9
    json.dumps([row._asdict() for row in rows.table()])  # it travels to the workers
    assert sum("TransformerEncoderLayer" in name for name in names) == 1
    with pytest.raises(ValueError, match=r"no row of the quick run has 'conv'.*LayerNorm"):
        rows.chosen("conv", quick=True)


# -- 3. Agreement, lines, and other processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"y": np.float32([1, 2])}, None),
        ({"y": np.float32([1, 2.0001])}, None),
        ({"y": np.float32([1, 2.1])}, "y differs by 5.0e-02"),
        ({"y": np.float32([1, np.nan])}, "y differs by nan"),
        ({"y": np.float64([1, 2])}, "y is float64"),
        ({"y": np.float32([[1, 2]])}, r"shape (1, 2); expected float32 of shape (2,)"),
        ({"y": np.float32([1, 2]), "z": np.float32([1])}, "there are ['y', 'z']; expected ['y']"),
    ],
)
def test_disagreement_is_said(found, said):
    wrong = disagreement(found, {"y": np.float32([1, 2])}, 1e-4)
    assert wrong is None if said is None else said in wrong


def test_a_bound_is_kept_by_both_ratios_on_an_undisturbed_machine():
    figure = Figure("row", "both", "torch", "ours", 1.6, 1.5, 1.5, values={"torch": {"median": 1.6e-5}})
    assert figure.met is True and "≥ 1.5  yes" in figure_line(figure)
    assert figure._replace(least=1.4).met is False and figure._replace(figure=1.4).met is False
    disturbed = figure._replace(others=1.2)
    assert disturbed.met is None and disturbed.disturbed and "≥ 1.5  ?" in figure_line(disturbed)
    assert figure._replace(others=1.2, unit="bytes").met is True  # others do not change what a process holds
    assert figure._replace(at_most=True, asked=1.55).met is False and figure._replace(asked=None).met is None
    assert "1 of 1 bounds kept" in summary([figure, disturbed]) and "1 figure, 1 with a bound (?)" in summary([figure, disturbed])


def test_the_work_of_others_is_seen_and_our_own_is_not():
    if Others([]).share() is None and not Path("/proc/stat").exists():
        pytest.skip("other processes are seen in /proc")
    burn = "import time\nwhile True: time.perf_counter()"
    with subprocess.Popen([sys.executable, "-c", burn]) as process:
        try:
            alien, own = Others([]), Others([process.pid])
            time.sleep(1.5)
            seen, hidden = alien.share(), own.share()
        finally:
            process.kill()
    assert seen - hidden > 0.05  # this much of a core at least, whoever else is running


def test_a_straight_line_with_a_constant_is_straight():
    sizes = [1e4, 1e5, 1e6, 1e7]
    assert deviation(sizes, [5e-6 + 1e-9 * n for n in sizes]) < 1e-9
    assert deviation(sizes, [1e-9 * n**1.3 for n in sizes]) > 0.2
    assert 0.05 < deviation(sizes, [1e-9 * n * (1.1 if n == 1e6 else 0.9) for n in sizes]) < 0.2


# -- 4. Contestants that do well, lie, die and hang ---------------------------------------------------------------------------------------------


WORKER = """
import os, sys, time
import numpy as np
import tinygrad_norm as tg
from tinygrad_norm.bench import work
from tinygrad_norm.bench.worker import serve
how = sys.argv[1]

def build(kind, arguments):
    made = work.build(tg, kind, arguments)
    def outputs():
        found = made.outputs()
        if how == "lies":
            found["x.grad"] = found["x.grad"] * np.float32(1.01)
        if how == "dies" and arguments["shape"] == [4, 8]:
            print("the last words", file=sys.stderr)
            os._exit(3)
        return found
    def call(_):
        if how == "hangs" and arguments["shape"] == [4, 8]:
            time.sleep(1000)
        if how == "dies late" and arguments["shape"] == [4, 8]:
            os._exit(4)
    return work.Work(outputs, {"both": work.Phase(call)})

if how == "babbles":
    print("Epoch [1/10]: this is no frame", flush=True)
    time.sleep(1000)
serve(build, sys.stdin.buffer, sys.stdout.buffer)
"""


@pytest.fixture
def worker(tmp_path):
    """A function that makes a contestant which behaves as it is told; all are ended after the test."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    made = []

    def make(name, how, limit=60.0):
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        made.append(Contestant(name, [sys.executable, str(script), how], {"PYTHONPATH": path}, limit))
        return made[-1]

    yield make
    for contestant in made:
        contestant.close()


NEXT = TINY._replace(name="LayerNorm (5, 8)", arguments={**TINY.arguments, "shape": [5, 8]})


def test_a_lie_is_reported_and_not_timed(worker):
    found = list(contest([TINY], {"torch": worker("torch", "well"), "ours": worker("ours", "lies")}, rounds=1, turn=0.001))
    assert found == [Failure(TINY.name, "ours", "mismatch", found[0].text)]
    assert "x.grad differs by" in found[0].text and "tolerance 1.0e-04" in found[0].text


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("dies", "died", "exit code 3: the last words"),
        ("dies late", "died", "exit code 4"),
        ("hangs", "timeout", "no answer within 4 s"),
        ("babbles", "died", "not a frame"),
    ],
)
def test_who_dies_or_hangs_loses_the_row_and_the_rest_goes_on(worker, how, kind, text, monkeypatch):
    bad = worker("ours", how)
    if how == "hangs":
        monkeypatch.setattr(bad, "ask", lambda message: impatient(bad, message))
    found = list(contest([TINY, NEXT], {"torch": worker("torch", "well"), "ours": bad}, rounds=2, turn=0.001))
    failures = [one for one in found if isinstance(one, Failure)]
    assert [(f.row, f.contestant, f.kind) for f in failures][:1] == [(TINY.name, "ours", kind)] and text in failures[0].text
    figures = [one for one in found if isinstance(one, Figure)]
    assert [f.row for f in figures] == ([] if how == "babbles" else [NEXT.name])
    assert bad.pid is None


def impatient(contestant, message):
    """Asks with little patience for timing alone: a loaded machine takes seconds to start a process, which the first question waits for."""
    contestant.limit = 4.0 if message["do"] == "time" else 60.0
    return Contestant.ask(contestant, message)


def test_without_the_first_there_is_nothing_to_compare_with(worker):
    found = list(contest([TINY], {"torch": worker("torch", "dies"), "ours": worker("ours", "well")}, rounds=1, turn=0.001))
    assert [(f.contestant, f.kind) for f in found] == [("torch", "died"), ("ours", "error")]


def test_leaving_early_ends_the_processes(worker):
    taking_part = {"torch": worker("torch", "well"), "ours": worker("ours", "well")}
    running = contest([TINY, NEXT], taking_part, rounds=1, turn=0.001)
    next(running)
    pids = [contestant.pid for contestant in taking_part.values()]
    assert None not in pids
    running.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_question_that_goes_wrong_is_the_questions_error(worker):
    contestant = worker("ours", "well")
    with pytest.raises(ContestantError, match="no row is prepared") as caught:
        contestant.ask({"do": "time", "phase": "both", "repetitions": 1, "limit": 1})
    assert caught.value.kind == "error" and contestant.pid is not None


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_interrupting_ends_everything(tmp_path):
    command = [sys.executable, "-m", "tinygrad_norm", "bench", "--only", "LayerNorm (32, 64)", "--rounds", "100000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert "cores" in process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        while children.exists() and not children.read_text().split() and time.monotonic() < deadline:
            time.sleep(0.1)
        pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # where the tests run in the background of a shell, it ignores SIGINT, and `with` would wait for ever
    assert process.returncode == 130 and errors.strip().splitlines()[-1] == "interrupted"
    while any(map(runs, pids)) and time.monotonic() < deadline:  # one that was just being started ends when it finds its input closed
        time.sleep(0.1)
    assert not any(map(runs, pids))


def runs(pid):
    """Whether the process is there and is no zombie whose new parent has yet to ask for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- 5. The whole, in small --------------------------------------------------------------------------------------------------------------------


def test_one_tiny_row_end_to_end(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr("tinygrad_norm.bench.command.chosen", lambda only, quick: [TINY])
    monkeypatch.setattr("tinygrad_norm.bench.command.contestants", lambda threads: contestants(threads, ("torch", "ours", "serial", "numpy")))
    json_file, picture = tmp_path / "figures.json", tmp_path / "figures.png"
    assert main(["bench", "--quick", "--rounds", "2", "--json", str(json_file), "--plot", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "torch" in printed.splitlines()[0] and TINY.name in printed and "one thread → all threads" in printed
    written = json.loads(json_file.read_text(encoding="utf-8"))
    assert set(written) == {"schema", "machine", "settings", "figures", "failures"}
    assert written["schema"] == 1 and written["failures"] == []
    assert set(written["machine"]) == {"cpu", "cores", "threads", "system", "load", "python", "versions"}
    assert written["settings"] == {"only": None, "quick": True, "rounds": 2, "turn": 0.01, "tolerance": 1e-4}
    pairs = {(f["phase"], f["over"], f["under"]) for f in written["figures"]}
    assert pairs == {(p, *c) for p in ("forward", "backward", "both") for c in (("torch", "ours"), ("numpy", "serial"), ("serial", "ours"))}
    for f in written["figures"]:
        assert set(f) == {*Figure._fields, "met", "disturbed"}
        assert f["figure"] == f["values"][f["over"]]["median"] / f["values"][f["under"]]["median"]
        assert all(len(v["rounds"]) == 2 and 0 < v["minimum"] <= v["median"] for v in f["values"].values())
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_mismatch_is_exit_code_one(worker, monkeypatch, capsys):
    monkeypatch.setattr("tinygrad_norm.bench.command.chosen", lambda only, quick: [TINY])
    here = {"torch": worker("torch", "well"), "ours": worker("ours", "lies")}
    monkeypatch.setattr("tinygrad_norm.bench.command.contestants", lambda threads: here)
    assert main(["bench", "--rounds", "1"]) == 1
    assert "MISMATCH: ours: x.grad differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "conv"], "no row has 'conv' in its name"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--json", "figures.txt"], "must end with .json"),
        (["--plot", "no/such/folder/figures.png"], "there is no folder"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(arguments, said, capsys):
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and not printed.out


def test_accuracy_and_size_rows(tmp_path):
    pytest.importorskip("torch")
    accuracy = TINY._replace(name="accuracy", arguments={**TINY.arguments, "mean": 1e4}, asked={"y": 1.0}, measure="accuracy")
    sizes = [TINY._replace(name=f"size {n}", arguments={**TINY.arguments, "shape": [n, 8]}, measure="linear") for n in (4, 8, 16)]
    found = list(contest([accuracy, *sizes], contestants(names=("torch", "ours")), rounds=1, turn=0.001))
    assert not [one for one in found if isinstance(one, Failure)]
    assert [(f.phase, f.unit) for f in found[:2]] == [("y", "error"), ("x.grad", "error")]
    assert found[-1].row == "linear in size, LayerNorm" and found[-1].at_most and len(found[-1].values) == 3


def test_starts_are_timed_from_the_outside():
    taken = starts.imports(1)
    assert {name: len(found) for name, found in taken.items()} == {"import numpy": 3, "import tinygrad_norm": 3, "pass": 3}
    assert len(starts.warm(1)["warm"]) == 1


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="none of these rows has a ratio to draw"):
        plot("never.png", [])
    assert not Path("never.png").exists()


def test_bench_from_python_returns_the_figures(worker):
    here = {"torch": worker("torch", "well"), "ours": worker("ours", "well")}
    lines = []
    found = bench("LayerNorm (32, 64)", rounds=1, report=lines.append, taking_part=here)
    assert [(f.row, f.phase, f.over, f.under) for f in found] == [("LayerNorm (32, 64)", "both", "torch", "ours")]
    assert any("LayerNorm (32, 64)" in line for line in lines)
