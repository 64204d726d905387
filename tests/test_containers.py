"""Sequential, ModuleList, ModuleDict, Identity, Flatten against torch's: the same program is run with both."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg

BOTH = [pytest.param(tg, id="ours"), pytest.param(torch, id="torch")]


def named(lib: Any) -> Any:
    return lib.nn.Sequential(OrderedDict([("a", lib.nn.ReLU()), ("b", lib.nn.Tanh()), ("c", lib.nn.Sigmoid())]))


def numbered(lib: Any) -> Any:
    return lib.nn.Sequential(lib.nn.ReLU(), lib.nn.Tanh(), lib.nn.Sigmoid())


def listed(lib: Any) -> Any:
    return lib.nn.ModuleList([lib.nn.ReLU(), lib.nn.Tanh(), lib.nn.Sigmoid()])


def keyed(lib: Any) -> Any:
    return lib.nn.ModuleDict({"a": lib.nn.ReLU(), "b": lib.nn.Tanh()})


def then(change: Callable[[Any, Any], Any], make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(lib: Any) -> Any:
        m = make(lib)
        change(lib, m)
        return m

    return run


REPRS: list[Callable[[Any], Any]] = [
    lambda lib: lib.nn.Sequential(), lambda lib: lib.nn.ModuleList(), lambda lib: lib.nn.ModuleDict(), named, numbered, listed, keyed,
    lambda lib: lib.nn.Sequential(None), lambda lib: lib.nn.ModuleList([None]), lambda lib: lib.nn.ModuleDict({"a": None}),
    lambda lib: lib.nn.Sequential(lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.ReLU()), lib.nn.ModuleDict({"a": lib.nn.ReLU()})),
    lambda lib: lib.nn.ModuleList([lib.nn.Linear(2, 2), lib.nn.Linear(2, 2), lib.nn.ReLU()]),
    lambda lib: lib.nn.ModuleList([lib.nn.ReLU(), lib.nn.Linear(2, 2), lib.nn.Linear(2, 2), lib.nn.Linear(2, 3), lib.nn.ReLU()]),
    lambda lib: lib.nn.ModuleList([lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.ReLU()) for _ in range(3)]),
    lambda lib: lib.nn.Sequential(lib.nn.ModuleList([lib.nn.ModuleList([lib.nn.ReLU()] * 2)] * 2), lib.nn.LayerNorm(3)),
    lambda lib: numbered(lib)[1:], lambda lib: numbered(lib)[::2], lambda lib: named(lib)[:2], lambda lib: listed(lib)[1:],
    lambda lib: listed(lib)[::-1],
    lambda lib: numbered(lib)[0], lambda lib: numbered(lib)[-1], lambda lib: named(lib)[1], lambda lib: listed(lib)[np.int64(2)],
    lambda lib: numbered(lib) + named(lib), lambda lib: listed(lib) + iter([lib.nn.ReLU()]), lambda lib: listed(lib) + listed(lib),
    then(lambda lib, m: m.append(lib.nn.ReLU()), named), then(lambda lib, m: m.extend(numbered(lib)), numbered),
    then(lambda lib, m: m.insert(0, lib.nn.Identity()), numbered), then(lambda lib, m: m.insert(-1, lib.nn.Identity()), numbered),
    then(lambda lib, m: m.insert(3, lib.nn.Identity()), numbered), then(lambda lib, m: m.insert(1, lib.nn.Identity()), listed),
    then(lambda lib, m: m.__delitem__(0), numbered), then(lambda lib, m: m.__delitem__(-1), named), then(lambda lib, m: m.__delitem__(1), listed),
    then(lambda lib, m: m.__delitem__(slice(0, 2)), numbered), then(lambda lib, m: m.__delitem__(slice(None, None, 2)), listed),
    then(lambda lib, m: m.__setitem__(1, lib.nn.Identity()), named), then(lambda lib, m: m.__setitem__(-1, lib.nn.Identity()), listed),
    then(lambda lib, m: m.pop(1), numbered), then(lambda lib, m: m.pop(slice(0, 2)), listed), then(lambda lib, m: m.pop("a"), keyed),
    then(lambda lib, m: m.__iadd__(numbered(lib)), numbered), then(lambda lib, m: m.__iadd__([lib.nn.Identity()]), listed),
    then(lambda lib, m: m.extend(lib.nn.ReLU() for _ in range(2)), listed),
    then(lambda lib, m: setattr(m, "0", lib.nn.Identity()), numbered),
    then(lambda lib, m: m.update({"a": lib.nn.Identity(), "c": lib.nn.ReLU()}), keyed),
    then(lambda lib, m: m.update([("c", lib.nn.Identity()), ["d", lib.nn.ReLU()]]), keyed),
    then(lambda lib, m: m.update(lib.nn.ModuleDict({"z": lib.nn.Identity()})), keyed), then(lambda lib, m: m.clear(), keyed),
    then(lambda lib, m: m.__setitem__("z", lib.nn.Identity()), keyed), then(lambda lib, m: m.__delitem__("a"), keyed),
    lambda lib: lib.nn.ModuleDict([("a", lib.nn.ReLU())]),
    lambda lib: copy.deepcopy(named(lib)), lambda lib: lib.nn.Identity(3, a=4), lambda lib: lib.nn.Flatten(), lambda lib: lib.nn.Flatten(0, 2),
]  # fmt: skip


@pytest.mark.parametrize("make", REPRS, ids=range(len(REPRS)))
def test_repr_and_keys(make: Callable[[Any], Any]) -> None:
    ours, theirs = make(tg), make(torch)
    assert repr(ours) == repr(theirs)
    assert list(ours._modules) == list(theirs._modules)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("lib", BOTH)
def test_they_are_like_lists_and_dicts(lib: Any) -> None:
    s, m, d = numbered(lib), listed(lib), keyed(lib)
    assert len(s) == len(m) == 3
    assert list(s) == [s[0], s[1], s[2]]
    assert list(m) == [m[0], m[1], m[2]]
    assert s.append(lib.nn.ReLU()) is s
    assert s.extend([lib.nn.ReLU()]) is s
    assert s.insert(0, lib.nn.ReLU()) is s
    assert len(s) == 6
    assert list(d) == list(d.keys()) == ["a", "b"]
    assert [type(v).__name__ for v in d.values()] == ["ReLU", "Tanh"]
    assert [k for k, _ in d.items()] == ["a", "b"]
    assert "a" in d
    assert "z" not in d
    assert len(d) == 2
    assert d.pop("a").__class__.__name__ == "ReLU"
    one = lib.nn.ReLU()
    twice = lib.nn.Sequential(one, one)
    assert len(twice) == len(list(twice)) == 2
    assert len(list(twice.children())) == 1
    assert "0" not in dir(twice)


@pytest.mark.parametrize("lib", BOTH)
def test_sequential_forward(lib: Any) -> None:
    assert lib.nn.Sequential()(3) == 3
    x = lib.tensor([-1.0, 2.0])
    s = numbered(lib)
    assert s(x).tolist() == s[2](s[1](s[0](x))).tolist()
    s.extra = lib.nn.Parameter(lib.ones(1))  # only modules are called
    assert s(x).tolist() == s[:](x).tolist()
    calls: list[int] = []
    s[1].register_forward_hook(lambda *_: calls.append(1))
    s(x)
    assert calls == [1]


def test_extending_by_itself_ends() -> None:
    """torch goes on until the memory is full."""
    s = tg.nn.ModuleList([tg.nn.ReLU()])
    s.extend(s)
    assert len(s) == 2


def test_insert_renames_to_numbers_where_torch_fails_halfway() -> None:
    s = named(tg)
    s.insert(1, tg.nn.Identity())
    assert list(s._modules) == ["0", "1", "2", "3"]
    assert [type(m).__name__ for m in s] == ["ReLU", "Identity", "Tanh", "Sigmoid"]


BAD: list[tuple[Callable[[Any], Any], Callable[[Any, Any], Any], type[Exception], str]] = [
    (numbered, lambda lib, m: lib.nn.Sequential(3), TypeError, "int is not a Module subclass"),
    (numbered, lambda lib, m: m.append(3), TypeError, "int is not a Module subclass"),
    (numbered, lambda lib, m: m[3], IndexError, "index 3 is out of range"),
    (numbered, lambda lib, m: m[-4], IndexError, "index -4 is out of range"),
    (numbered, lambda lib, m: m["0"], TypeError, "'str' object cannot be interpreted as an integer"),
    (numbered, lambda lib, m: m[1.0], TypeError, "'float' object cannot be interpreted as an integer"),
    (numbered, lambda lib, m: m.__setitem__(5, lib.nn.ReLU()), IndexError, "index 5 is out of range"),
    (numbered, lambda lib, m: m.__setitem__(0, 3), TypeError, "cannot assign 'int' as child module '0'"),
    (numbered, lambda lib, m: m.__delitem__(5), IndexError, "index 5 is out of range"),
    (numbered, lambda lib, m: m.insert(5, lib.nn.ReLU()), IndexError, "Index out of range: 5"),
    (numbered, lambda lib, m: m.insert(-4, lib.nn.ReLU()), IndexError, "Index out of range: -4"),
    (numbered, lambda lib, m: m + 3, ValueError, "add operator supports only objects of Sequential class, but <class 'int'> is given."),
    (numbered, lambda lib, m: m.__iadd__([lib.nn.ReLU()]), ValueError, "add operator supports only objects of Sequential class"),
    (numbered, lambda lib, m: m.pop(7), IndexError, "index 7 is out of range"),
    (listed, lambda lib, m: lib.nn.ModuleList(3), TypeError, "ModuleList.extend should be called with an iterable, but got int"),
    (listed, lambda lib, m: lib.nn.ModuleList([3]), TypeError, "int is not a Module subclass"),
    (listed, lambda lib, m: m.extend(3), TypeError, "ModuleList.extend should be called with an iterable, but got int"),
    (listed, lambda lib, m: m.append("a"), TypeError, "str is not a Module subclass"),
    (listed, lambda lib, m: m[3], IndexError, "index 3 is out of range"),
    (listed, lambda lib, m: m["0"], TypeError, "'str' object cannot be interpreted as an integer"),
    (listed, lambda lib, m: m.__delitem__(-4), IndexError, "index -4 is out of range"),
    (listed, lambda lib, m: m(1), NotImplementedError, 'Module [ModuleList] is missing the required "forward" function'),
    (keyed, lambda lib, m: lib.nn.ModuleDict(3), TypeError, "ModuleDict.update should be called with an iterable of key/value pairs, but got int"),
    (keyed, lambda lib, m: lib.nn.ModuleDict({"a": 3}), TypeError, "int is not a Module subclass"),
    (keyed, lambda lib, m: m.update({3: lib.nn.ReLU()}), TypeError, "module name should be a string. Got int"),
    (keyed, lambda lib, m: m.update([("a",)]), ValueError, "ModuleDict update sequence element #0 has length 1; 2 is required"),
    (keyed, lambda lib, m: m.update([3]), TypeError, "ModuleDict update sequence element #0 should be Iterable"),
    (keyed, lambda lib, m: m.update({"items": lib.nn.ReLU()}), KeyError, "attribute 'items' already exists"),
    (keyed, lambda lib, m: m.update({"training": lib.nn.ReLU()}), KeyError, "attribute 'training' already exists"),
    (keyed, lambda lib, m: m.update({"a.b": lib.nn.ReLU()}), KeyError, "module name can't contain"),
    (keyed, lambda lib, m: m.__setitem__("", lib.nn.ReLU()), KeyError, "module name can't be empty string"),
    (keyed, lambda lib, m: m["z"], KeyError, "z"),
    (keyed, lambda lib, m: m.pop("z"), KeyError, "z"),
    (keyed, lambda lib, m: m.__delitem__("z"), KeyError, "z"),
    (keyed, lambda lib, m: m.__delitem__("training"), KeyError, "training"),
    (keyed, lambda lib, m: m(1), NotImplementedError, 'Module [ModuleDict] is missing the required "forward" function'),
    (numbered, lambda lib, m: lib.nn.Flatten()(lib.ones(3)), IndexError, "Dimension out of range (expected to be in range of [-1, 0], but got 1)"),
    (numbered, lambda lib, m: lib.nn.Flatten(2, 1)(lib.ones(3, 4, 5)), RuntimeError, "flatten() has invalid args"),
]  # fmt: skip


@pytest.mark.parametrize("lib", BOTH)
@pytest.mark.parametrize(("make", "run", "error", "phrase"), BAD, ids=range(len(BAD)))
def test_bad_input_raises_as_torch_and_changes_nothing(lib: Any, make: Any, run: Any, error: type[Exception], phrase: str) -> None:
    m = make(lib)
    before = list(m._modules.items())
    with pytest.raises(error) as caught:
        run(lib, m)
    assert phrase in str(caught.value).replace("\\'", "'")
    assert list(m._modules.items()) == before


@pytest.mark.parametrize(("make", "run", "error"), [
    (numbered, lambda m: m.extend([tg.nn.ReLU(), 3]), TypeError),
    (numbered, lambda m: m.extend(3), TypeError),
    (numbered, lambda m: m.insert(0, 3), TypeError),
    (named, lambda m: m.insert(0, 3), TypeError),
    (listed, lambda m: m.extend([tg.nn.ReLU(), 3]), TypeError),
    (listed, lambda m: m.insert(0, 3), TypeError),
    (listed, lambda m: m.insert(4, tg.nn.ReLU()), IndexError),
    (listed, lambda m: m.insert(-4, tg.nn.ReLU()), IndexError),
    (keyed, lambda m: m.update({"c": tg.nn.ReLU(), "d": 3}), TypeError),
    (keyed, lambda m: m.update({"c": tg.nn.ReLU(), "pop": tg.nn.ReLU()}), KeyError),
    (keyed, lambda m: m.update({"c": tg.nn.ReLU(), "": tg.nn.ReLU()}), KeyError),
    (keyed, lambda m: m.update([("c", tg.nn.ReLU()), 3]), TypeError),
    (keyed, lambda m: m.update([("c", tg.nn.ReLU()), (1, 2, 3)]), ValueError),
], ids=range(13))  # fmt: skip
def test_several_at_once_are_checked_before_the_first_is_added(make: Any, run: Any, error: type[Exception]) -> None:
    m = make(tg)
    before = list(m._modules.items())
    with pytest.raises(error):
        run(m)
    assert list(m._modules.items()) == before


@pytest.mark.parametrize("make", [
    lambda: tg.nn.Sequential(tg.nn.Linear(2, 2), tg.nn.ReLU),
    lambda: tg.nn.ModuleList([tg.nn.ReLU]),
    lambda: tg.nn.ModuleDict({"a": tg.nn.ReLU}),
    lambda: tg.nn.Sequential().insert(0, tg.nn.ReLU),
    lambda: tg.nn.Module().add_module("a", tg.nn.ReLU),
])  # fmt: skip
def test_a_class_is_not_taken_for_its_module(make: Any) -> None:
    with pytest.raises(TypeError, match=r"ReLU is a class, not a module: write ReLU\(\)"):
        make()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["append", "insert", "del", "set", "pop", "slice"]), st.integers(-4, 4)), max_size=10), st.booleans())
def test_any_sequence_of_changes_keeps_a_list(steps: list[tuple[str, int]], sequential: bool) -> None:
    """Against Python's list as the model, with the names always "0", "1", "2" …"""
    m: Any = tg.nn.Sequential() if sequential else tg.nn.ModuleList()
    model: list[Any] = []
    for what, i in steps:
        new = tg.nn.ReLU()
        inside = -len(model) <= i < len(model)
        if what == "append":
            m.append(new)
            model.append(new)
        elif what == "insert" and -len(model) <= i <= len(model):
            m.insert(i, new)
            model.insert(i, new)
        elif what == "set" and inside:
            m[i] = model[i] = new
        elif what == "del" and inside:
            del m[i], model[i]
        elif what == "pop" and inside:
            assert m.pop(i) is model.pop(i)
        elif what == "slice":
            del m[i:], model[i:]
        assert list(m) == model
        assert list(m._modules) == [str(k) for k in range(len(model))]
        assert [name for name in m.__dict__ if name.isdigit()] == list(m._modules)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=4), st.integers(-5, 5), st.integers(-5, 5))
def test_flatten(shape: list[int], start: int, end: int) -> None:
    def run(lib: Any) -> Any:
        try:
            return list(lib.nn.Flatten(start, end)(lib.zeros(*shape)).shape) if shape else list(lib.nn.Flatten(start, end)(lib.tensor(0.0)).shape)
        except (IndexError, RuntimeError) as error:
            return type(error)

    assert run(tg) == run(torch)
