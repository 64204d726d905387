"""Module against torch's: the same program is run with both, and what comes out is compared."""

from __future__ import annotations

import copy
import pickle
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm import nn
from tinygrad_norm.nn.module import Module
from tinygrad_norm.nn.parameter import Parameter

BOTH = [pytest.param(tg, id="ours"), pytest.param(torch, id="torch")]


def make_model(lib: Any) -> Any:
    """Parameters, two kinds of buffers, a shared layer, a None child, three levels."""

    class Block(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = lib.nn.Parameter(lib.ones(2))
            self.register_buffer("seen", lib.zeros(2))
            self.register_buffer("cache", lib.zeros(3), persistent=False)
            self.register_parameter("nothing", None)
            self.fc = lib.nn.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.fc(x) * self.scale

        def extra_repr(self) -> str:
            return "two\nlines"

    class Model(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Block()
            self.body = lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.ReLU(), lib.nn.BatchNorm1d(2))
            self.again = self.first
            self.empty = None
            self.register_module("head", None)
            self.offset = lib.nn.Parameter(lib.zeros(1))
            self.count = 3

        def forward(self, x: Any) -> Any:
            return self.body(self.again(self.first(x))) + self.offset

    lib.manual_seed(0)
    return Model()


def arrays(module: Any) -> dict[str, Any]:
    return {name: np.array(value.detach().numpy()) for name, value in module.state_dict().items()}


def outcome(run: Callable[[], Any]) -> Any:
    """The result, or the class of the error."""
    try:
        return run()
    except Exception as error:
        return type(error)


# -- Calling -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lib", BOTH)
def test_missing_forward(lib: Any) -> None:
    class Foo(lib.nn.Module):
        pass

    for call in (Foo(), Foo().forward):
        with pytest.raises(NotImplementedError, match=r'^Module \[Foo\] is missing the required "forward" function$'):
            call(1)


@pytest.mark.parametrize("lib", BOTH)
def test_every_way_to_call(lib: Any) -> None:
    class Echo(lib.nn.Module):
        def forward(self, *args: Any, input: Any = 0, **kwargs: Any) -> Any:
            return args, input, kwargs

    m = Echo()
    for _ in range(2):
        assert m() == ((), 0, {})
        assert m(1) == ((1,), 0, {})
        assert m(None) == ((None,), 0, {})
        assert m(1, 2) == ((1, 2), 0, {})
        assert m(input=3, others=4) == ((), 3, {"others": 4})
        assert m(1, x=2) == ((1,), 0, {"x": 2})
        m.register_forward_hook(lambda *_: None)  # the second time through the hooks


@pytest.mark.parametrize("lib", BOTH)
def test_hooks(lib: Any) -> None:
    class Add(lib.nn.Module):
        def forward(self, x: int, y: int = 0) -> int:
            return x + y

    m, log = Add(), []
    first = m.register_forward_pre_hook(lambda module, args: log.append(("pre", module is m, args)))
    doubled = m.register_forward_pre_hook(lambda module, args: args[0] * 2)
    assert m(3, y=1) == 7
    assert log == [("pre", True, (3,))]
    doubled.remove()
    doubled.remove()
    m.register_forward_pre_hook(lambda module, args, kwargs: (args, {"y": 10}), with_kwargs=True)
    assert m(3, y=1) == 13
    m.register_forward_hook(lambda module, args, out: (log.append(("post", args, out)), out * 2)[1])
    m.register_forward_hook(lambda module, args, kwargs, out: (log.append(("front", kwargs, out)), None)[1], prepend=True, with_kwargs=True)
    first.remove()
    log.clear()
    assert m(1) == 22
    assert log == [("front", {"y": 10}, 11), ("post", (1,), 11)]
    bad = m.register_forward_pre_hook(lambda module, args, kwargs: 3, with_kwargs=True)
    with pytest.raises(RuntimeError, match="forward pre-hook must return None or a tuple"):
        m(1)
    bad.remove()
    m.register_forward_pre_hook(lambda module, args: (5, 6), prepend=True)
    m.register_forward_pre_hook(lambda module, args, kwargs: (args, {}), with_kwargs=True)
    assert m(1) == 22


@pytest.mark.parametrize("lib", BOTH)
def test_a_hook_may_remove_itself(lib: Any) -> None:
    m, calls = lib.nn.ReLU(), []

    def once(*_: Any) -> None:
        calls.append(1)
        handle.remove()

    handle = m.register_forward_hook(once)
    m.register_forward_hook(lambda *_: calls.append(2))
    m(lib.ones(1))
    m(lib.ones(1))
    assert calls == [1, 2, 2]


def test_hook_must_be_callable() -> None:
    m = nn.ReLU()
    for register in (m.register_forward_hook, m.register_forward_pre_hook):
        with pytest.raises(TypeError, match="a hook must be callable; got int"):
            register(3)  # type: ignore[arg-type]
    assert not m._hooks


def test_call_costs_little_beyond_forward() -> None:
    """The bound of 100 ns is for a quiet machine; here only that no failing lookup and no packing of arguments has come back."""

    class Pass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Identity()

        def forward(self, x: Any) -> Any:
            return x

    def best(run: Callable[[int], Any]) -> float:
        times = []
        for _ in range(9):
            start = time.perf_counter()
            for _ in range(20000):
                run(1)
            times.append(time.perf_counter() - start)
        return min(times) / 20000 * 1e9

    m = Pass()
    theirs = type("P", (torch.nn.Module,), {"forward": Pass.forward})()
    assert best(m) - best(m.forward) < min(400.0, best(theirs) - best(theirs.forward))
    assert "__getattr__" not in vars(Module)
    assert "fc" in m.__dict__


# -- Changing ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lib", BOTH)
def test_train_eval_apply_requires_grad(lib: Any) -> None:
    m = make_model(lib)
    assert m.eval() is m
    assert not any(x.training for x in m.modules())
    assert m.train() is m
    assert all(x.training for x in m.modules())
    order: list[str] = []
    assert m.apply(lambda x: order.append(type(x).__name__)) is m
    assert order == ["Linear", "Block", "Linear", "ReLU", "BatchNorm1d", "Sequential", "Model"]
    assert m.requires_grad_(False) is m
    assert not any(p.requires_grad for p in m.parameters())

    class Frozen(lib.nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Any:
            return super().train(False)

    assert not lib.nn.Sequential(Frozen(2)).train()[0].training


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")  # torch's own, about its reference cycle
@pytest.mark.parametrize("lib", BOTH)
def test_zero_grad(lib: Any) -> None:
    m = make_model(lib)
    x = lib.ones(4, 2)
    x[0, 0] = 2.0
    m(x).sum().backward(create_graph=True)
    kept = m.offset.grad
    m.zero_grad(set_to_none=False)
    assert m.offset.grad is kept
    assert m.offset.grad.tolist() == [0.0]
    assert not m.offset.grad.requires_grad
    m.zero_grad()
    assert all(p.grad is None for p in m.parameters())


@pytest.mark.parametrize("lib", BOTH)
def test_to_converts_in_place(lib: Any) -> None:
    m = make_model(lib)
    x = lib.ones(4, 2)
    x[0, 0] = 2.0
    m(x).sum().backward()
    before, grad = list(m.parameters()), m.offset.grad
    for convert in (
        m.double, m.float, lambda: m.to(lib.float64), lambda: m.to("cpu"), lambda: m.to(lib.zeros(1, dtype=lib.float32)),
        lambda: m.to("cpu", lib.float64), lambda: m.to(dtype=lib.float32), lambda: m.to(device="cpu"), m.to, lambda: m.to(None),
        m.cpu,
    ):  # fmt: skip
        assert convert() is m
        wanted = m.offset.dtype
        assert all(p is q for p, q in zip(before, m.parameters()))
        assert m.offset.grad is grad
        assert all(p.dtype == wanted and p.requires_grad and (p.grad is None or p.grad.dtype == wanted) for p in m.parameters())
        floats = [b for b in m.buffers() if b.dtype != lib.int64]
        assert len(floats) == 4
        assert all(b.dtype == wanted for b in floats)
        assert m.body[2].num_batches_tracked.dtype == lib.int64
        assert m.first is m.again
    assert m.double()(x.to(lib.float64)).dtype == lib.float64


@pytest.mark.parametrize(("target", "error", "phrase"), [
    ("cuda", RuntimeError, "the only device here is 'cpu'; got 'cuda'"),
    ("foo", RuntimeError, "got 'foo'"),
    (3, TypeError, "dtype must be one of"),
    (tg.bool_, TypeError, "only accepts floating point dtypes, but got desired dtype=torch.bool"),
    (tg.zeros(1, dtype=tg.int64), TypeError, "desired dtype=torch.int64"),
])  # fmt: skip
def test_to_refuses(target: Any, error: type[Exception], phrase: str) -> None:
    m = make_model(tg)
    before = arrays(m)
    with pytest.raises(error) as caught:
        m.to(target)
    assert phrase in str(caught.value)
    assert all((before[k] == v).all() and before[k].dtype == v.dtype for k, v in arrays(m).items())


@pytest.mark.filterwarnings("error")
def test_conversion_overflows_without_a_word() -> None:
    m = nn.Module()
    m.p = Parameter(np.array([1e300]))
    assert m.float().p.tolist() == [float("inf")]


# -- State -------------------------------------------------------------------------------------------------------------------------------


def test_state_dict_is_detached_and_shares_memory() -> None:
    m = make_model(tg)
    state = m.state_dict()
    assert type(state) is OrderedDict
    assert all(type(v) is tg.Tensor and not v.requires_grad for v in state.values())
    assert np.shares_memory(state["offset"]._data, m.offset._data)
    assert m.state_dict(keep_vars=True)["offset"] is m.offset
    assert state["body.2.num_batches_tracked"].dtype == tg.int64


@pytest.mark.parametrize("convert", [
    lambda state: state,
    lambda state: {k: v.numpy() for k, v in state.items()},
    lambda state: OrderedDict((k, v.numpy().astype(np.float64)) for k, v in reversed(list(state.items()))),
], ids=["torch tensors", "arrays", "float64, other order"])  # fmt: skip
def test_a_torch_model_loads(convert: Callable[[Any], Any]) -> None:
    theirs, ours = make_model(torch), make_model(tg)
    with torch.no_grad():
        for p in theirs.parameters():
            p.normal_()
        theirs.body[2].num_batches_tracked += 7
    before = list(ours.parameters())
    versions = [p._version for p in before]
    answer = ours.load_state_dict(convert(theirs.state_dict()))
    assert repr(answer) == str(answer) == "<All keys matched successfully>"
    assert answer.missing_keys == answer.unexpected_keys == []
    assert all(p is q and q.requires_grad for p, q in zip(before, ours.parameters()))
    assert all(p._version > v for p, v in zip(before, versions))
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name].numpy(), value.numpy())
        assert str(ours.state_dict()[name].dtype) == str(value.dtype)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    np.testing.assert_allclose(ours.eval()(tg.tensor(x)).detach().numpy(), theirs.eval()(torch.tensor(x)).detach().numpy(), atol=1e-6)


def chain(lib: Any) -> Any:
    return lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.ReLU(), lib.nn.BatchNorm1d(2, affine=False))


def good(lib: Any) -> dict[str, Any]:
    return {
        "0.weight": lib.ones(2, 2), "0.bias": lib.ones(2), "2.running_mean": lib.ones(2), "2.running_var": lib.ones(2),
        "2.num_batches_tracked": lib.tensor(5),
    }  # fmt: skip


def without(d: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in d.items() if k not in keys}


STATES: list[tuple[str, Callable[[Any], Any]]] = [
    ("whole", good),
    ("next to nothing", lambda lib: {"2.num_batches_tracked": lib.tensor(5)}),  # torch forgives that this one is missing
    ("missing", lambda lib: without(good(lib), "0.weight", "2.running_var")),
    ("unexpected", lambda lib: {"z": lib.ones(1), **good(lib), "q.r": lib.ones(1)}),
    ("unexpected at every level", lambda lib: {"0.q": 3, "q.r": 3, "0.weight.x": 3, "1.x": 3, "0.q.r": 3, "2": 3, "": 3, **good(lib)}),
    ("sizes", lambda lib: {**good(lib), "0.weight": lib.ones(3), "2.running_mean": lib.ones(2, 1)}),
    ("no tensors", lambda lib: {**good(lib), "0.weight": 3, "2.running_mean": [1.0, 2.0]}),
    ("all at once", lambda lib: {**without(good(lib), "0.bias"), "0.weight": lib.ones(3), "x": lib.ones(1), "2.running_var": "a"}),
    ("a number with an axis", lambda lib: {**good(lib), "2.num_batches_tracked": lib.tensor([5])}),
    ("a number with two", lambda lib: {**good(lib), "2.num_batches_tracked": lib.tensor([5, 6])}),
    ("float for int", lambda lib: {**good(lib), "2.num_batches_tracked": lib.tensor(5.7)}),
]  # fmt: skip


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("name", "make"), STATES, ids=[name for name, _ in STATES])
def test_load_state_dict_says_what_torch_says(name: str, make: Callable[[Any], Any], strict: bool) -> None:
    def run(lib: Any) -> tuple[str, Any]:
        m = chain(lib)
        before = arrays(m)
        try:
            answer = m.load_state_dict(make(lib), strict=strict)
        except RuntimeError as error:
            if lib is tg:
                assert all((before[k] == v).all() for k, v in arrays(m).items()), "changed although it raised"
            return str(error), None
        return repr(answer), {k: v for k, v in arrays(m).items() if k not in answer.missing_keys}

    (ours, state), (theirs, expected) = run(tg), run(torch)
    assert ours == theirs
    if expected is not None:
        assert {k: v.tolist() for k, v in state.items()} == {k: v.tolist() for k, v in expected.items()}


class Broken:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise OSError("disk on fire")


@pytest.mark.parametrize(("value", "phrase"), [
    (torch.ones(2, 2, requires_grad=True), "requires grad"),
    (torch.ones(2, 2, dtype=torch.bfloat16), "an exception occurred"),
    (np.array([["a", "b"], ["c", "d"]]), "no real numbers"),
    (np.array([[None, 1], [2, 3]]), "no real numbers"),
    (np.ones((2, 2), complex), "no real numbers"),
    (Broken(), "disk on fire"),
])  # fmt: skip
def test_load_refuses_values_before_any_is_copied(value: Any, phrase: str) -> None:
    m = chain(tg)
    before = arrays(m)
    with pytest.raises(RuntimeError, match=r'While copying the parameter named "0\.weight"') as caught:
        m.load_state_dict({"0.bias": np.ones(2), **without(good(tg), "0.bias"), "0.weight": value})
    assert phrase in str(caught.value)
    assert all((before[k] == v).all() for k, v in arrays(m).items())


@pytest.mark.parametrize(("state", "phrase"), [
    (3, "Expected state_dict to be dict-like, got <class 'int'>."), ([("a", 1)], "dict-like"), ({3: 3}, "the keys must be strings; got 3"),
])  # fmt: skip
def test_load_refuses_what_is_no_state(state: Any, phrase: str) -> None:
    with pytest.raises(TypeError, match=phrase):
        chain(tg).load_state_dict(state)


def test_load_into_memory_that_cannot_be_written() -> None:
    fixed = np.ones(2, np.float32)
    fixed.flags.writeable = False
    m = nn.Linear(2, 2)
    m.bias = Parameter(fixed)
    before = arrays(m)
    with pytest.raises(RuntimeError, match="cannot be written"):
        m.load_state_dict({"weight": np.zeros((2, 2)), "bias": np.zeros(2)})
    assert all((before[k] == v).all() for k, v in arrays(m).items())


def test_load_can_exchange_parameters_of_one_model() -> None:
    m = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    state, before = m.state_dict(), arrays(m)
    m.load_state_dict({"0.weight": state["1.weight"], "1.weight": state["0.weight"], "0.bias": state["1.bias"], "1.bias": state["0.bias"]})
    np.testing.assert_array_equal(m[0].weight.detach().numpy(), before["1.weight"])
    np.testing.assert_array_equal(m[1].weight.detach().numpy(), before["0.weight"])


def test_loading_is_noticed_by_a_graph_that_saved_the_old_values() -> None:
    m = nn.Linear(2, 2)
    y = m(tg.ones(1, 2, requires_grad=True)).sum()
    m.load_state_dict({"weight": np.ones((2, 2)), "bias": np.ones(2)})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


# -- Copies ------------------------------------------------------------------------------------------------------------------------------


class Shared(nn.Module):
    """At the top of the file, where pickle finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.b = nn.Linear(2, 2)
        self.b.weight = self.a.weight
        self.c = self.a
        self.body = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.register_buffer("mean", tg.zeros(2), persistent=False)

    def forward(self, x: Any) -> Any:
        return self.body(self.b(self.a(x))) - self.mean


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_whole_copies(clone: Callable[[Any], Any]) -> None:
    m = Shared().eval()
    m(tg.ones(1, 2)).sum().backward()
    twin = clone(m)
    assert repr(twin) == repr(m)
    assert list(twin.state_dict()) == list(m.state_dict())
    assert twin.a is twin.c
    assert twin.a.weight is twin.b.weight
    assert not twin.training
    assert type(twin.a.weight) is Parameter
    assert twin.a.weight.grad is None
    assert twin(tg.ones(1, 2)).tolist() == m(tg.ones(1, 2)).tolist() != [[0.0, 0.0]]
    with pytest.raises(TypeError, match="as parameter 'weight'"):
        twin.a.weight = nn.ReLU()
    with tg.no_grad():
        twin.a.weight.zero_()
    assert m.a.weight.tolist() != twin.a.weight.tolist()
    assert "mean" not in twin.state_dict()


def test_a_shallow_copy_shares_values_and_registers_for_itself() -> None:
    m = Shared()
    twin = copy.copy(m)
    assert twin.a is m.a
    twin.d = nn.ReLU()
    del twin.c
    twin.register_forward_hook(lambda *_: None)
    assert list(m._modules) == ["a", "b", "c", "body"]
    assert list(twin._modules) == ["a", "b", "body", "d"]
    assert not m._hooks


def test_a_module_inside_itself_can_be_walked() -> None:
    m = nn.Module()
    m.p = Parameter(tg.ones(1))
    m.me = m
    assert [name for name, _ in m.named_parameters()] == ["p"]
    assert m.double().p.dtype == tg.float64
    m.zero_grad()


@pytest.mark.parametrize("name", ["get_extra_state", "set_extra_state", "_save_to_state_dict", "_load_from_state_dict"])
def test_state_beside_parameters_and_buffers_is_refused_where_it_is_defined(name: str) -> None:
    """Not silently left out when the model is saved."""
    with pytest.raises(NotImplementedError, match=rf"Net.{name}: a state_dict holds parameters and persistent buffers here"):
        type("Net", (nn.Module,), {name: lambda self, *args: None})


def test_a_state_dict_from_before_batches_were_counted() -> None:
    for lib in (tg, torch):
        norm = lib.nn.Sequential(lib.nn.BatchNorm1d(2))
        norm(lib.randn(4, 2))
        old = {key: value for key, value in norm.state_dict().items() if "num_batches" not in key}
        assert str(norm.load_state_dict(old)) == "<All keys matched successfully>"
        assert norm[0].num_batches_tracked.item() == 1
        with pytest.raises(RuntimeError, match="Missing key"):
            norm.load_state_dict({key: value for key, value in old.items() if "mean" not in key})
