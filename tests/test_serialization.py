"""Files of tensors: what comes back, who else can read them, kills at any moment, and files that mean harm."""

import io
import json
import os
import random
import resource
import signal
import struct
import tempfile
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import tinygrad_norm as tg
from tinygrad_norm import nn
from tinygrad_norm.serialization import check_path

ENDINGS = ["npz", "safetensors"]


def same(a, b):
    """Equal to the bit, types and all."""
    if isinstance(a, tg.Tensor):
        return isinstance(b, tg.Tensor) and a.dtype is b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return type(a) is type(b) and (a == b or a != a)


def model_and_optimizer(kind=tg.optim.AdamW, **options):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 2))
    optimizer = kind(model.parameters(), lr=0.01, **options)
    for _ in range(3):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(tg.randn(6, 4)).pow(2).mean().backward()
    optimizer.step()


# -- what comes back ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_value_comes_back(tmp_path, ending):
    state = OrderedDict(
        none=None, yes=True, one=1, big=2**70, small=-0.0, third=1 / 3, inf=float("inf"), nan=float("nan"), text="ä\n\"'", empty={}, nothing=[], pair=(1, (2.5,)),
        groups=[{"lr": 0.1, "betas": (0.9, 0.999), "params": [0, 1]}], state={0: {"step": tg.tensor(3.0), "average": tg.randn(2, 3)}, "0": tg.ones(1)},
        words=np.arange(5, dtype=np.uint32), half=np.ones(2, np.float16), flag=tg.ones(3) > 0, int=tg.arange(3), double=tg.ones(2, dtype=tg.float64),
        zero_d=tg.tensor(7), no_rows=tg.ones(0, 3), across=tg.arange(6).reshape(2, 3).T, wants=tg.ones(2, requires_grad=True).detach(),
    )  # fmt: skip
    del state["state"]["0"]
    tg.save(state, tmp_path / f"all.{ending}")
    back = tg.load(tmp_path / f"all.{ending}")
    assert same(dict(state), back)
    back["across"][0, 0] = 9  # it can be written to
    assert os.listdir(tmp_path) == [f"all.{ending}"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("kind", "options"), [(tg.optim.SGD, {"momentum": 0.9}), (tg.optim.Adam, {"amsgrad": True}), (tg.optim.AdamW, {})])
def test_a_run_goes_on_to_the_bit(tmp_path, ending, kind, options):
    tg.manual_seed(1)
    model, optimizer = model_and_optimizer(kind, **options)
    scheduler = tg.optim.lr_scheduler.StepLR(optimizer, 2)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "random": tg.random.get_rng_state()}
    tg.save(state, tmp_path / f"run.{ending}")

    def go_on(model, optimizer, scheduler):
        for _ in range(4):
            step(model, optimizer)
            scheduler.step()
        return [dict(model.state_dict()), optimizer.state_dict(), tg.random.get_rng_state()]

    unbroken = go_on(model, optimizer, scheduler)
    tg.manual_seed(99)
    twin, other = model_and_optimizer(kind, **options)
    third = tg.optim.lr_scheduler.StepLR(other, 2)
    back = tg.load(tmp_path / f"run.{ending}")
    twin.load_state_dict(back["model"])
    other.load_state_dict(back["optimizer"])
    third.load_state_dict(back["scheduler"])
    tg.random.set_rng_state(back["random"])
    assert same(unbroken, go_on(twin, other, third))


def test_torch_reads_ours_and_we_read_torchs(tmp_path):
    model, optimizer = model_and_optimizer()
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    tg.save(model.state_dict(), tmp_path / "ours.safetensors")
    theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "ours.safetensors"))
    assert all(v.tolist() == model.state_dict()[k].tolist() for k, v in theirs.state_dict().items())
    for layer in theirs:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    model.load_state_dict(tg.load(tmp_path / "theirs.safetensors"))
    assert all(v.tolist() == model.state_dict()[k].tolist() for k, v in theirs.state_dict().items())
    tg.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.safetensors")  # nested: by path
    assert "model.0.weight" in safetensors.torch.load_file(tmp_path / "run.safetensors")


def test_numpy_reads_ours_and_we_read_numpys(tmp_path):
    tg.save({"w": tg.ones(2, 3), "deep.er": tg.arange(2)}, tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["deep.er", "w"]
        assert file["w"].tolist() == [[1, 1, 1], [1, 1, 1]]
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.arange(3), "c": np.array(2.5, np.float32), "d": np.ones((0, 2), bool), "e": np.arange(3).astype(">f8")}
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "theirs.npz", **arrays)
        back = tg.load(tmp_path / "theirs.npz")
        assert {k: v.tolist() for k, v in back.items()} == {k: v.tolist() for k, v in arrays.items()}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_old_file_stays_when_saving_fails(tmp_path, ending, monkeypatch):
    place = tmp_path / f"w.{ending}"
    tg.save({"w": tg.ones(2)}, place)
    before = place.read_bytes()
    with pytest.raises(TypeError, match=r"'b\.1' is a set"):
        tg.save({"w": tg.zeros(2), "b": [1, {2}]}, place)
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        tg.save({"w": tg.zeros(2)}, place)
    assert place.read_bytes() == before
    assert os.listdir(tmp_path) == [place.name]


def test_a_saved_file_has_the_usual_mode_and_a_link_stays_one(tmp_path):
    (tmp_path / "plain").write_text("")
    tg.save({"w": tg.ones(2)}, tmp_path / "real.npz")
    assert os.stat(tmp_path / "real.npz").st_mode == os.stat(tmp_path / "plain").st_mode
    (tmp_path / "link.npz").symlink_to("real.npz")
    tg.save({"w": tg.zeros(2)}, tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    assert tg.load(tmp_path / "real.npz")["w"].tolist() == [0, 0]


def test_where_nothing_can_be_written_is_known_before_the_work(tmp_path, monkeypatch):
    link, file = tmp_path / "link.npz", tmp_path / "kept.npz"
    link.symlink_to("gone/run.npz")
    with pytest.raises(FileNotFoundError, match=r"no folder '.*gone' to write link\.npz to"):
        check_path(link)
    (tmp_path / "gone").mkdir()
    assert check_path(link) == link
    file.write_bytes(b"")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != file and access(path, mode))  # for root a file's mode says nothing
    with pytest.raises(PermissionError, match=r"kept\.npz' may not be written to"):
        check_path(file)
    assert check_path(tmp_path / "new.npz") == tmp_path / "new.npz"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path, ending):
    """100 kills for each format, spread over a save's whole time; more where no child came to the end of one."""
    states = [{"model": {"w": tg.full((20_000,), float(i)), "b": tg.full((3,), float(i))}, "step": i} for i in range(2)]
    place = tmp_path / f"run.{ending}"
    started = time.perf_counter()
    for state in (states[1], states[0]):
        tg.save(state, place)
    duration = (time.perf_counter() - started) / 2
    rng = random.Random(0)
    seen = set()
    for kills in range(300):
        if kills >= 100:
            if seen == {0, 1}:
                break
            duration *= 1.1  # the machine has become slower since it was measured
        child = os.fork()
        if child == 0:
            try:
                while True:
                    tg.save(states[1], place)
                    tg.save(states[0], place)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.2, 3) * duration)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        back = tg.load(place)
        seen.add(back["step"])
        assert same(back, states[back["step"]])
    assert seen == {0, 1}
    left = [name for name in os.listdir(tmp_path) if name != place.name]
    assert left, "no child was killed in the midst of a save"
    assert all(name.startswith(f".run.{ending}.") and name.endswith(".part") for name in left)


# -- files that mean harm ----------------------------------------------------------------------------------------------------------------


def npz(*members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(header, body=b""):
    text = header if isinstance(header, bytes) else repr(header).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def described(descr="<f4", shape=(2,), fortran_order=False):
    return {"descr": descr, "fortran_order": fortran_order, "shape": shape}


def safe(header, body=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


class Bomb:
    def __reduce__(self):
        return os.mkdir, (str(Path(tempfile.gettempdir(), "tinygrad-norm-was-here")),)


def torch_pickle():
    buffer = io.BytesIO()
    torch.save({"w": Bomb()}, buffer)
    return buffer.getvalue()


@cache
def bomb():
    """A member of 200 MB in 200 kB."""
    return npz(("a.npy", npy(described(shape=(50_000_000,)), b"\0" * 200_000_000)), compression=zipfile.ZIP_DEFLATED)


GOOD = npy(described(), b"\0" * 8)
HOSTILE = {
    "empty.npz": (b"", "zip"),
    "text.npz": (b"not a tensor file", "zip"),
    "pickle.npz": (npz(("a.npy", pickled())), "elements of type object"),
    "torch.npz": (torch_pickle(), "is no .npy array"),
    "member.npz": (npz(("a.txt", b"hello")), "is no .npy array"),
    "nothing.npz": (npz(("a.npy", b"")), "has no .npy header"),
    "short.npz": (npz(("a.npy", npy(described(), b"\0" * 7))), "has 7 bytes"),
    "long.npz": (npz(("a.npy", npy(described(), b"\0" * 9))), "has 9 bytes"),
    "huge.npz": (npz(("a.npy", npy(described(shape=(10**15,)), b"\0" * 8))), "take 4000000000000000"),
    "overflow.npz": (npz(("a.npy", npy(described(shape=(2**32, 2**32)), b""))), "take 73786976294838206464"),
    "negative.npz": (npz(("a.npy", npy(described(shape=(-1,)), b"\0" * 8))), "lengths >= 0"),
    "negatives.npz": (npz(("a.npy", npy(described(shape=(-1, -2)), b"\0" * 8))), "lengths >= 0"),
    "axes.npz": (npz(("a.npy", npy(described(shape=(1,) * 100), b"\0" * 4))), "expected lengths"),
    "floats.npz": (npz(("a.npy", npy(described(shape=(2.0,)), b"\0" * 8))), "lengths >= 0"),
    "truth.npz": (npz(("a.npy", npy(described(shape=(True, 2)), b"\0" * 8))), "lengths >= 0"),
    "list.npz": (npz(("a.npy", npy(described(shape=[2]), b"\0" * 8))), "elements of type|lengths"),
    "strings.npz": (npz(("a.npy", npy(described("<U4"), b"\0" * 32))), "elements of type"),
    "complex.npz": (npz(("a.npy", npy(described("<c8"), b"\0" * 16))), "elements of type complex64"),
    "fields.npz": (npz(("a.npy", npy(described([("x", "<f4")]), b"\0" * 8))), "does not describe"),
    "int32.npz": (npz(("a.npy", npy(described("<i4"), b"\0" * 8))), "elements of type int32; a Tensor has"),
    "dtype.npz": (npz(("a.npy", npy(described("nonsense"), b"\0" * 8))), "nonsense"),
    "code.npz": (npz(("a.npy", npy(b"__import__('os').system('true')", b"\0" * 8))), "malformed"),
    "keys.npz": (npz(("a.npy", npy({"descr": "<f4"}, b"\0" * 8))), "does not describe"),
    "beyond.npz": (npz(("a.npy", b"\x93NUMPY\x01\x00\xff\xff{}")), "says that it has 65535 bytes"),
    "deep.npz": (npz(("a.npy", npy(b"(" * 9000, b""))), ""),
    "parent.npz": (npz(("../../evil.npy", GOOD)), "cannot be the name of a tensor"),
    "absolute.npz": (npz(("/etc/evil.npy", GOOD)), "cannot be the name of a tensor"),
    "windows.npz": (npz(("C:\\evil.npy", GOOD)), "cannot be the name of a tensor"),
    "control.npz": (npz(("a\x1b[2Jb.npy", GOOD)), "cannot be the name of a tensor"),
    "unnamed.npz": (npz((".npy", GOOD)), "cannot be the name of a tensor"),
    "bomb.npz": (bomb, "more than 100 times its size"),
    "structure.npz": (npz(("a.npy", GOOD), ("tinygrad_norm.json", b"[]")), "its own structure"),
    "nowhere.npz": (npz(("tinygrad_norm.json", b'{"dict": [["a", {"tensor": "b"}]]}')), "its own structure"),
    "unasked.npz": (npz(("a.npy", GOOD), ("tinygrad_norm.json", b'{"dict": []}')), "its own structure"),
    "unhashable.npz": (npz(("tinygrad_norm.json", b'{"dict": [[[], 1]]}')), "its own structure"),
    "nested.npz": (npz(("tinygrad_norm.json", b"[" * 100_000)), ""),
    "empty.safetensors": (b"", "eader"),
    "text.safetensors": (b"not a tensor file", "eader"),
    "torch.safetensors": (torch_pickle(), "eader"),
    "length.safetensors": (safe({}, length=10**6), "eader"),
    "lengths.safetensors": (safe({}, length=2**64 - 1), "eader"),
    "json.safetensors": (safe(b"{nonsense"), "eader"),
    "beyond.safetensors": (safe({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 80]}}, b"\0" * 8), "eader"),
    "shape.safetensors": (safe({"a": {"dtype": "F32", "shape": [2000], "data_offsets": [0, 8]}}, b"\0" * 8), ""),
    "overflow.safetensors": (safe({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, b"\0" * 8), ""),
    "negative.safetensors": (safe({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, b"\0" * 8), ""),
    "overlap.safetensors": (safe({k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in "ab"}, b"\0" * 8), ""),
    "trailing.safetensors": (safe({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 80), ""),
    "dtype.safetensors": (safe({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8), ""),
    "bfloat16.safetensors": (safe({"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, b"\0" * 8), "'a' has elements of type BF16"),
    "int32.safetensors": (safe({"a": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8), "'a' has elements of type int32"),
    "parent.safetensors": (safe({"../a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8), "cannot be the name of a tensor"),
    "structure.safetensors": (safe({"__metadata__": {"tinygrad_norm": '{"dict": 3}'}}), "its own structure"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_clear_error(tmp_path, name):
    content, words = HOSTILE[name]
    place = tmp_path / name
    place.write_bytes(content() if callable(content) else content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{name.replace('.', '[.]')}' cannot be read as .*{words}") as caught:
        tg.load(place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 + len(str(place))
    assert peak < 20_000_000
    assert not Path(tempfile.gettempdir(), "tinygrad-norm-was-here").exists()
    assert os.listdir(tmp_path) == [name]


def test_twice_the_same_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = npz(("a.npy", GOOD), ("a.npy", GOOD))
    (tmp_path / "twice.npz").write_bytes(content)
    with pytest.raises(ValueError, match="'a' is in it twice"):
        tg.load(tmp_path / "twice.npz")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_file_never_loads_as_something_else(tmp_path, ending):
    """Cut anywhere, or a bit turned anywhere: an error, or (a safetensors file has no checksum) tensors of the same names and shapes."""
    state = {"model": {"w": tg.arange(20).double(), "b": tg.ones(3)}, "step": 5}
    whole, place = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    tg.save(state, whole)
    content = whole.read_bytes()
    for end in range(0, len(content), 7):
        place.write_bytes(content[:end])
        with pytest.raises(ValueError, match="cannot be read as"):
            tg.load(place)
    rng = random.Random(1)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        place.write_bytes(bytes(damaged))
        try:
            back = tg.load(place)
        except ValueError as error:
            assert "cannot be read as" in str(error)
        else:
            assert ending == "safetensors" or same(back, state)


def test_a_lying_directory_takes_no_memory(tmp_path):
    """A member that says it has 100 bytes and inflates to 200 MB."""
    content = bytearray(bomb())
    where = content.rindex(b"PK\x01\x02")
    content[where + 24 : where + 28] = struct.pack("<I", 100)
    (tmp_path / "lie.npz").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="cannot be read"):
        tg.load(tmp_path / "lie.npz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"must end with \.npz or \.safetensors"):
        tg.load(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError):
        tg.load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        tg.save({}, tmp_path / "no" / "a.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(IsADirectoryError):
        tg.save({}, tmp_path / "folder.npz")
    for wrong, words in (
        ([tg.ones(1)], "expected a dict"), ({"a": object()}, "'a' is a object"), ({("a", 1): 1}, "keys must be strings or integers"), ({1.5: 1}, "keys must be"),
        ({"a": {True: 1}}, "got True in 'a'"), ({"a": np.array(["x"])}, "elements of type <U1"), ({"a": np.array([{}], dtype=object)}, "elements of type object"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=words):
            tg.save(wrong, tmp_path / "a.npz")
    for wrong in ({"../a": tg.ones(1)}, {"": tg.ones(1)}, {"/a": tg.ones(1)}, {"a\n": tg.ones(1)}, {"tinygrad_norm": tg.ones(1)}, {"__metadata__": tg.ones(1)}):
        with pytest.raises(ValueError, match="cannot be the name"):
            tg.save(wrong, tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"two tensors would be written as 'a\.b'"):
        tg.save({"a": {"b": tg.ones(1)}, "a.b": tg.ones(1)}, tmp_path / "a.npz")
    with pytest.raises(TypeError, match="path of a file; got a int"):
        tg.load(3)
    assert os.listdir(tmp_path) == ["folder.npz"]


@pytest.mark.parametrize("spoil", ["missing", "unexpected", "shape", "type", "last"])
def test_load_state_dict_changes_nothing_when_it_raises(spoil):
    model, _ = model_and_optimizer()
    state = {name: tg.zeros_like(value) for name, value in model.state_dict().items()}
    if spoil == "missing":
        del state["4.bias"]
    elif spoil == "unexpected":
        state["5.weight"] = tg.ones(1)
    elif spoil == "type":
        state["4.bias"] = "zeros"
    else:
        state["1.running_var" if spoil == "shape" else "4.bias"] = tg.zeros(5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    versions = [p._version for p in model.parameters()]
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict for Sequential"):
        model.load_state_dict(state)
    assert same(before, dict(model.state_dict()))
    assert [p._version for p in model.parameters()] == versions
