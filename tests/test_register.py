"""Parameters and the register of a Module against torch."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_module import BOTH, arrays, make_model, outcome

import tinygrad_norm as tg
from tinygrad_norm import nn
from tinygrad_norm.nn.module import Module
from tinygrad_norm.nn.parameter import Parameter

# -- Parameter ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda lib: lib.nn.Parameter(),
    lambda lib: lib.nn.Parameter(lib.ones(2, 3)),
    lambda lib: lib.nn.Parameter(lib.ones(2), requires_grad=False),
    lambda lib: lib.nn.Parameter(lib.tensor([1, 2]), requires_grad=False),
    lambda lib: lib.nn.Parameter(lib.ones(2, requires_grad=True) * 2),
    lambda lib: copy.copy(lib.nn.Parameter(lib.ones(2))),
    lambda lib: copy.deepcopy(lib.nn.Parameter(lib.ones(2))),
    lambda lib: pickle.loads(pickle.dumps(lib.nn.Parameter(lib.ones(2)))),
    lambda lib: lib.nn.Parameter(lib.ones(2)).requires_grad_(False),
])  # fmt: skip
def test_parameter_repr(make: Callable[[Any], Any]) -> None:
    ours, theirs = make(tg), make(torch)
    assert repr(ours) == repr(theirs)
    assert type(ours) is Parameter
    assert ours.is_leaf


def test_parameter_shares_memory_and_version() -> None:
    x = tg.ones(2)
    p = Parameter(x)
    with tg.no_grad():
        p.add_(1)
    assert x.tolist() == [2.0, 2.0]
    assert x._version == p._version == 1
    y = x * 1
    y.requires_grad = True
    assert Parameter(y * y).grad_fn is None
    assert np.shares_memory(copy.copy(p)._data, x._data)
    assert not np.shares_memory(copy.deepcopy(p)._data, x._data)


def test_results_of_ops_are_plain_tensors() -> None:
    p = Parameter(tg.ones(2))
    for result in (p * 2, p.detach(), p.data, p.clone(), p[0], p.view(2), p.to(tg.float64)):
        assert type(result) is tg.Tensor


def test_parameter_under_no_grad_and_copies_without_gradient() -> None:
    with tg.no_grad():
        p = Parameter(tg.ones(2))
    assert p.requires_grad
    (p * p).sum().backward()
    assert p.grad is not None
    assert copy.deepcopy(p).grad is None
    assert pickle.loads(pickle.dumps(p)).grad is None


def test_parameter_subclass_survives_copies() -> None:
    class Special(Parameter):
        __slots__ = ()

    assert type(copy.deepcopy(Special(tg.ones(1)))) is Special


@pytest.mark.parametrize(("data", "error", "phrase"), [
    ([1.0, 2.0], TypeError, "takes a Tensor or a NumPy array; got list"),
    (3, TypeError, "got int"),
    (np.float32(3), TypeError, "got numpy.float32"),
    (np.array([1, 2]), RuntimeError, "Only Tensors of floating point"),
    (np.array(["a"]), TypeError, "not supported"),
])  # fmt: skip
def test_parameter_refuses(data: Any, error: type[Exception], phrase: str) -> None:
    with pytest.raises(error, match=phrase):
        Parameter(data)


# -- The register ------------------------------------------------------------------------------------------------------------------------


def test_model_walks_like_torch() -> None:
    ours, theirs = make_model(tg), make_model(torch)
    assert repr(ours) == repr(theirs)
    for walk in (
        lambda m: list(m.state_dict()),
        lambda m: list(m.first.state_dict(prefix="p.")),
        lambda m: [n for n, _ in m.named_parameters()],
        lambda m: [n for n, _ in m.named_parameters(prefix="a", recurse=False)],
        lambda m: [n for n, _ in m.named_parameters(remove_duplicate=False)],
        lambda m: [n for n, _ in m.named_buffers()],
        lambda m: [n for n, _ in m.named_buffers("b", remove_duplicate=False)],
        lambda m: [n for n, _ in m.named_modules()],
        lambda m: [n for n, _ in m.named_modules(prefix="a", remove_duplicate=False)],
        lambda m: [n for n, _ in m.named_children()],
        lambda m: [type(x).__name__ for x in m.modules()],
        lambda m: [type(x).__name__ for x in m.children()],
        lambda m: [tuple(p.shape) for p in m.parameters()],
        lambda m: [tuple(p.shape) for p in m.buffers(recurse=False)],
        lambda m: len(list(m.modules(remove_duplicate=False))),
        lambda m: list(m.first._parameters),
        lambda m: list(m.first._buffers),
        lambda m: list(m._modules),
        lambda m: [type(x).__name__ for x in [m.get_submodule(""), m.get_submodule("first.fc"), m.get_parameter("body.0.bias")]],
        lambda m: tuple(m.get_buffer("body.2.running_mean").shape),
        lambda m: {"first", "count", "training", "forward", "0"} & set(dir(m)),
        lambda m: {"0", "forward"} & set(dir(m.body)),
    ):
        assert walk(ours) == walk(theirs), inspect.getsource(walk)
    for name, value in arrays(theirs).items():
        np.testing.assert_array_equal(arrays(ours)[name], value)


@pytest.mark.parametrize("lib", BOTH)
def test_buffers_may_be_registered_while_parameters_are_walked(lib: Any) -> None:
    m = lib.nn.Linear(2, 2)
    for name, parameter in m.named_parameters():
        m.register_buffer(f"mean_of_{name}", parameter.detach().clone())
    assert list(m.state_dict()) == ["weight", "bias", "mean_of_weight", "mean_of_bias"]


def test_values_stand_in_one_place() -> None:
    m = make_model(tg)
    assert m._modules["first"] is m.first is m.__dict__["first"]
    replaced = Parameter(tg.ones(1))
    m.offset = replaced
    assert m._parameters["offset"] is replaced
    with pytest.raises(TypeError):
        m._parameters["offset"] = None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("pmbtnidPBM")), max_size=12))
def test_registration_is_a_state_machine_like_torchs(steps: list[tuple[str, str]]) -> None:
    """Any sequence of assignments, deletions and registrations: the same registers in the same order, the same errors."""

    def step(lib: Any, m: Any, name: str, what: str) -> Any:
        make = {
            "p": lambda: setattr(m, name, lib.nn.Parameter(lib.ones(1))),
            "m": lambda: setattr(m, name, lib.nn.ReLU()),
            "b": lambda: setattr(m, name, lib.zeros(2)),
            "n": lambda: setattr(m, name, None),
            "i": lambda: setattr(m, name, 3),
            "d": lambda: delattr(m, name),
            "t": lambda: m.register_buffer(name, lib.ones(1), persistent=False),
            "P": lambda: m.register_parameter(name, None),
            "B": lambda: m.register_buffer(name, lib.ones(3)),
            "M": lambda: m.add_module(name, lib.nn.ReLU()),
        }[what]
        answer = outcome(make)
        value = getattr(m, name, "nothing there")
        kind = type(value).__name__
        registers = [list(m._parameters), list(m._buffers), list(m._modules), list(m.state_dict())]
        return answer, kind, registers

    ours, theirs = Module(), torch.nn.Module()
    for name, what in steps:
        assert step(tg, ours, name, what) == step(torch, theirs, name, what), (name, what)


BAD_REGISTRATIONS: list[tuple[Callable[[Any, Any], Any], type[Exception], str]] = [
    (lambda lib, m: setattr(m, "weight", lib.zeros(2, 2)), TypeError, "as parameter 'weight'"),
    (lambda lib, m: setattr(m, "weight", 3), TypeError, "cannot assign 'int' as parameter 'weight'"),
    (lambda lib, m: setattr(m, "weight", np.zeros(2)), TypeError, "cannot assign 'numpy.ndarray' as parameter 'weight'"),
    (lambda lib, m: m.register_parameter("w", lib.zeros(2)), TypeError, "object to parameter 'w'"),
    (lambda lib, m: m.register_parameter("w", 3), TypeError, "cannot assign 'int' object to parameter 'w'"),
    (lambda lib, m: m.register_parameter(3, None), TypeError, "parameter name should be a string. Got int"),
    (lambda lib, m: m.register_parameter("a.b", None), KeyError, "parameter name can't contain"),
    (lambda lib, m: m.register_parameter("", None), KeyError, "parameter name can't be empty string"),
    (lambda lib, m: m.register_parameter("forward", None), KeyError, "attribute 'forward' already exists"),
    (lambda lib, m: m.register_parameter("in_features", None), KeyError, "attribute 'in_features' already exists"),
    (lambda lib, m: setattr(m, "forward", lib.nn.Parameter(lib.zeros(1))), KeyError, "attribute 'forward' already exists"),
    (lambda lib, m: setattr(m, "a.b", lib.nn.Parameter(lib.zeros(1))), KeyError, "parameter name can't contain"),
    (lambda lib, m: m.register_buffer("in_features", None), KeyError, "attribute 'in_features' already exists"),
    (lambda lib, m: m.register_buffer("bias", None), KeyError, "attribute 'bias' already exists"),
    (lambda lib, m: m.register_buffer("b", 3), TypeError, "cannot assign 'int' object to buffer 'b'"),
    (lambda lib, m: m.register_buffer("b", np.zeros(3)), TypeError, "cannot assign 'numpy.ndarray' object to buffer 'b'"),
    (lambda lib, m: m.register_buffer(3, None), TypeError, "buffer name should be a string. Got int"),
    (lambda lib, m: m.register_buffer("a.b", None), KeyError, "buffer name can't contain"),
    (lambda lib, m: m.register_buffer("", None), KeyError, "buffer name can't be empty string"),
    (lambda lib, m: m.add_module("in_features", lib.nn.ReLU()), KeyError, "attribute 'in_features' already exists"),
    (lambda lib, m: m.add_module("bias", lib.nn.ReLU()), KeyError, "attribute 'bias' already exists"),
    (lambda lib, m: m.add_module("a", 3), TypeError, "int is not a Module subclass"),
    (lambda lib, m: m.add_module(3, lib.nn.ReLU()), TypeError, "module name should be a string. Got int"),
    (lambda lib, m: m.add_module("a.b", lib.nn.ReLU()), KeyError, "module name can't contain \".\", got: a.b"),
    (lambda lib, m: m.add_module("", lib.nn.ReLU()), KeyError, "module name can't be empty string"),
    (lambda lib, m: delattr(m, "nope"), AttributeError, "'Linear' object has no attribute 'nope'"),
    (lambda lib, m: m.nope, AttributeError, "'Linear' object has no attribute 'nope'"),
    (lambda lib, m: m.train(1), ValueError, "training mode is expected to be boolean"),
    (lambda lib, m: m.to(lib.int64), TypeError, "only accepts floating point"),
    (lambda lib, m: m.get_parameter("weigh"), AttributeError, "Linear has no attribute `weigh`"),
    (lambda lib, m: m.get_parameter("in_features"), AttributeError, "`in_features` is not an nn.Parameter"),
    (lambda lib, m: m.get_parameter(""), AttributeError, "Linear has no attribute ``"),
    (lambda lib, m: m.get_buffer("weight"), AttributeError, "`weight` is not a buffer"),
    (lambda lib, m: m.get_buffer("x"), AttributeError, "Linear has no attribute `x`"),
    (lambda lib, m: m.get_submodule("x.y"), AttributeError, "Linear has no attribute `x`"),
    (lambda lib, m: m.get_submodule("weight"), AttributeError, "`weight` is not an nn.Module"),
    (lambda lib, m: lib.nn.Module(3), TypeError, "takes 1 positional argument but 2 were given"),
    (lambda lib, m: lib.nn.Module(a=3), TypeError, "got an unexpected keyword argument 'a'"),
]  # fmt: skip


@pytest.mark.parametrize("lib", BOTH)
@pytest.mark.parametrize(("run", "error", "phrase"), BAD_REGISTRATIONS, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_input_raises_as_torch_and_changes_nothing(lib: Any, run: Any, error: type[Exception], phrase: str) -> None:
    m = lib.nn.Linear(2, 2)
    before = repr(m), list(m._parameters.items()), list(m._buffers), list(m._modules), arrays(m), m.training
    with pytest.raises(error) as caught:
        run(lib, m)
    assert phrase in str(caught.value).replace("\\'", "'")
    after = repr(m), list(m._parameters.items()), list(m._buffers), list(m._modules), arrays(m), m.training
    assert [id(p) for _, p in before[1]] == [id(p) for _, p in after[1]]
    assert (before[0], before[2:4], before[5]) == (after[0], after[2:4], after[5])
    assert all((before[4][k] == after[4][k]).all() for k in before[4])


@pytest.mark.parametrize("lib", BOTH)
def test_before_init(lib: Any) -> None:
    class Early(lib.nn.Module):
        def __init__(self, value: Any) -> None:
            self.x = value

    with pytest.raises(AttributeError, match=r"cannot assign parameters before Module.__init__\(\) call"):
        Early(lib.nn.Parameter(lib.zeros(2)))
    with pytest.raises(AttributeError, match=r"cannot assign module before Module.__init__\(\) call"):
        Early(lib.nn.ReLU())
    assert Early(3).x == 3
    assert Early(lib.zeros(2)).x.tolist() == [0.0, 0.0]
    for kind, register in (("parameter", Early(3).register_parameter), ("buffer", Early(3).register_buffer)):
        with pytest.raises(AttributeError, match=rf"cannot assign {kind} before Module.__init__\(\) call"):
            register("b", None)


@pytest.mark.parametrize("lib", BOTH)
def test_non_leaf_parameter(lib: Any) -> None:
    p = lib.nn.Parameter(lib.ones(1), requires_grad=False)
    p.mul_(lib.ones(1, requires_grad=True))
    m = lib.nn.Module()
    with pytest.raises(ValueError, match="Cannot assign non-leaf Tensor to parameter 'p'"):
        m.p = p
    assert not hasattr(m, "p")


def test_names_of_the_class_are_refused_for_modules_too() -> None:
    """torch takes the module and then never finds it, because the class attribute is found first."""

    class Net(nn.Module):
        encoder = None

    with pytest.raises(KeyError, match="attribute 'encoder' already exists"):
        Net().encoder = nn.ReLU()
