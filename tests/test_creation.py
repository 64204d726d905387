"""Where Tensors come from, against torch: types, shapes, what is shared and what is copied, what is refused."""

import warnings

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm.testing import compare_arrays

both = pytest.mark.parametrize("lib", [tg, torch], ids=["ours", "torch"])


def agree(ours, theirs):
    assert isinstance(ours, tg.Tensor)
    assert (repr(ours.shape), repr(ours.dtype), ours.requires_grad) == (repr(theirs.shape), repr(theirs.dtype), theirs.requires_grad)
    assert compare_arrays(ours.detach().numpy(), theirs.detach().numpy()) == 0


nan, inf = float("nan"), float("inf")
DATA = [
    3, 3.5, True, [], [[]], [[], []], [1], [1, 2.5], [True, 2], [True, False], [True, 2.5], [[1, 2], [3, 4]], [[1, 2], [3, 4.5]], ((1, 2), (3, 4)), range(4), [range(2), range(2)],
    [[[1.0]]], [nan, inf, -inf, -0.0], [0.1, 0.2], [2**53 + 1], [-(2**63)], [2**63 - 1], [1e39], [2.0**70, 1], [2**70, 1.0], (), [np.float32(1)], [np.float64(1)], [np.int64(1), 2],
    np.float64(2), np.float32(2), np.int64(3), np.bool_(True), [np.ones(2), np.zeros(2)], np.ones((2, 0, 3)), np.arange(6).reshape(2, 3), np.array(3.5), np.array([True]),
    np.arange(12.0).reshape(3, 4).T, np.arange(6.0)[::2], [np.float64(1), 2.5], [[1], [np.float64(2)]],
]  # fmt: skip


@pytest.mark.parametrize("data", DATA, ids=repr)
@pytest.mark.parametrize("dtype", [None, "float32", "float64", "int64", "bool"])
def test_tensor(data, dtype):
    kind = {} if dtype is None else {"dtype": dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of lists of arrays
        try:
            expected = torch.tensor(data, **({} if dtype is None else {"dtype": getattr(torch, dtype)}))
        except (RuntimeError, ValueError, TypeError) as error:
            if "numpy." in str(error):
                return  # torch converts no NumPy scalars between kinds; we do
            with pytest.raises((RuntimeError, ValueError, TypeError)):
                tg.tensor(data, **kind)
            return
    agree(tg.tensor(data, **kind), expected)
    if dtype is None and not (isinstance(data, list) and any(isinstance(d, np.ndarray) for d in data)):
        agree(tg.as_tensor(data), torch.as_tensor(data))


def test_types_by_any_name():
    for name in (tg.float64, "float64", float, np.float64, np.dtype("float64"), "double"):
        assert tg.zeros(1, dtype=name).dtype is tg.float64
    assert tg.zeros(1, dtype=int).dtype is tg.int64
    assert tg.zeros(1, dtype=bool).dtype is tg.bool
    assert tg.zeros(1, dtype=None).dtype is tg.float32
    for kind in (float, int, bool):
        for make in (lambda lib: lib.tensor([1, 0], dtype=kind), lambda lib: lib.ones(1).to(kind), lambda lib: lib.ones(2).sum(dtype=kind)):
            agree(make(tg), make(torch))
    agree(tg.nn.Linear(1, 1, dtype=float)(tg.ones(1, dtype=float)).detach() * 0, torch.zeros(1, dtype=float))


def test_numbers_alone_have_torchs_default_types():
    for a, b in ((1, 2.5), (np.float64(1), 2.5), (1, True), (True, False), (2, 3)):
        agree(*(lib.where(lib.tensor([True, False]), a, b) for lib in (tg, torch)))


@pytest.mark.parametrize("data", [[np.float64(1), 2.5], [[1.5], [np.float64(2)]]], ids=repr)
def test_lists_of_tensors_and_arrays(data):
    agree(tg.tensor([tg.tensor(1), tg.tensor(2.5)]), torch.tensor([torch.tensor(1), torch.tensor(2.5)]))
    assert tg.tensor([tg.tensor([1, 2]), tg.tensor([3, 4])]).tolist() == [[1, 2], [3, 4]]  # torch has stack for it
    assert tg.tensor([tg.ones(2, requires_grad=True)]).requires_grad is False


def test_tensor_copies_and_as_tensor_shares():
    array = np.zeros(2, np.float32)
    assert not np.shares_memory(tg.tensor(array).numpy(), array)
    assert np.shares_memory(tg.as_tensor(array).numpy(), array)
    assert np.shares_memory(tg.as_tensor(array, dtype=tg.float32).numpy(), array)
    assert not np.shares_memory(tg.as_tensor(array, dtype=tg.float64).numpy(), array)
    assert np.shares_memory(tg.from_numpy(array).numpy(), array)
    x = tg.ones(2, requires_grad=True)
    assert tg.as_tensor(x) is x
    assert tg.as_tensor(x, dtype=tg.float64).requires_grad
    made = tg.tensor(x.detach())
    assert not np.shares_memory(made.numpy(), x.detach().numpy())
    assert tg.tensor(array[::-1]).numpy().flags.c_contiguous
    assert tg.from_numpy(array[::-1]).tolist() == [0, 0]


def test_from_numpy_keeps_type_shape_and_strides():
    for array in (np.arange(6.0).reshape(2, 3).T, np.array(5), np.zeros((2, 0)), np.array([True, False])[::-1], np.arange(4, dtype=np.float32)):
        t = tg.from_numpy(array)
        assert t.numpy().strides == array.strides
        assert t.numpy().dtype == array.dtype
        assert t.tolist() == array.tolist()
    other = np.zeros((1, 2)).view(type("Mine", (np.ndarray,), {}))
    assert type(tg.from_numpy(other)._data) is np.ndarray


@pytest.mark.parametrize("kind", ["float16", "int32", "uint8", "int8", "complex64", "O", "U3", "S2", "M8[s]", ">f4", ">i8", "V3"])
def test_other_element_types_raise(kind):
    array = np.zeros(2, kind)
    for make in (tg.from_numpy, tg.tensor, tg.as_tensor, tg.Tensor):
        with pytest.raises(TypeError, match=r"element type .* is not supported: tensors hold float32, float64, int64 or bool; convert with array.astype"):
            make(array)


MADE = [
    "lib.zeros(2, 3)", "lib.zeros((2, 3))", "lib.zeros([2, 3])", "lib.zeros(lib.Size([2, 3]))", "lib.zeros(())", "lib.zeros([])", "lib.zeros(0)", "lib.zeros(2, 0, 3)",
    "lib.zeros(lib.tensor(2), 3)", "lib.ones(2)", "lib.ones(2, dtype=lib.int64)", "lib.ones(2, dtype=lib.bool)", "lib.ones(1, 2, dtype=lib.float64, requires_grad=True)",
    "lib.full((2, 2), 7)", "lib.full((2,), 7.5)", "lib.full([2], True)", "lib.full((), 1.5, dtype=lib.float64)", "lib.full((2,), 1.7, dtype=lib.int64)", "lib.full((2,), 2, dtype=lib.bool)",
    "lib.full((1,), float('nan'))", "lib.full((2,), lib.tensor(3.0))", "lib.empty(2, 3).shape", "lib.empty((0, 2))", "lib.empty(1, dtype=lib.int64).dtype",
    "lib.arange(5)", "lib.arange(5.0)", "lib.arange(2, 7)", "lib.arange(2, 7, 2)", "lib.arange(7, 2, -2)", "lib.arange(0, 1, 0.25)", "lib.arange(0, 1, 0.1, dtype=lib.float64)",
    "lib.arange(0)", "lib.arange(3, 3)", "lib.arange(5, dtype=lib.float32)", "lib.arange(0, 5.5, dtype=lib.int64)", "lib.arange(1.5)", "lib.arange(-3, 3)", "lib.arange(0.0, 3)",
    "lib.arange(lib.tensor(4))", "lib.arange(4, requires_grad=False)", "lib.arange(4.0, requires_grad=True)", "lib.arange(10**15, 10**15 + 3)", "lib.arange(True)",
    "lib.zeros_like(lib.ones(2, 3, dtype=lib.float64))", "lib.ones_like(lib.arange(3))", "lib.ones_like(lib.arange(3), dtype=lib.float32, requires_grad=True)",
    "lib.full_like(lib.ones(2), 7)", "lib.full_like(lib.arange(2), 7.9)", "lib.full_like(lib.ones(2), 7, dtype=lib.int64)", "lib.empty_like(lib.arange(3)).dtype",
    "lib.zeros_like(lib.ones(2, requires_grad=True))", "lib.zeros_like(lib.ones(2, 3).T)", "lib.rand_like(lib.ones(2, 3, dtype=lib.float64))",
    "lib.randn_like(lib.ones(3))", "lib.randint_like(lib.ones(4), 10)", "lib.randint_like(lib.ones(4), 3, 10)", "lib.rand(2, 3)", "lib.rand((2, 3), dtype=lib.float64)", "lib.rand(())",
    "lib.rand(3, requires_grad=True)", "lib.randint(10, (3,))", "lib.randint(-5, 5, (2, 2))", "lib.randint(5, size=(2,))", "lib.randint(0, 5, (2,), dtype=lib.float32)",
    "lib.randperm(10)", "lib.randperm(0)", "lib.randperm(5, dtype=lib.float32)", "lib.bernoulli(lib.full((20,), 0.3))", "lib.ones(5).uniform_(-1, 1)", "lib.ones(5).random_(7)",
    "lib.ones(5).random_(-3, 7)", "lib.zeros(4, dtype=lib.int64).random_()", "lib.zeros(4, dtype=lib.bool).random_()", "lib.zeros(4, dtype=lib.float64).uniform_()",
    "lib.rand(3, generator=lib.Generator().manual_seed(5))", "lib.zeros(2, 3).T.uniform_()", "lib.rand(0, 3)", "lib.randint(3, ())",
]  # fmt: skip


@pytest.mark.parametrize("expression", MADE)
def test_constants_ranges_and_random_numbers(expression):
    results = []
    for lib in (tg, torch):
        lib.manual_seed(42)
        results.append(eval(expression, {"lib": lib}))
    ours, theirs = results
    if not isinstance(ours, tg.Tensor):
        assert repr(ours) == repr(theirs)
    elif "empty" in expression:
        assert (repr(ours.shape), repr(ours.dtype)) == (repr(theirs.shape), repr(theirs.dtype))
    elif "randn" in expression:
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6)
    else:
        agree(ours, theirs)


@pytest.mark.parametrize("step", [0.1, 0.3, 1 / 3, 0.7, -0.9])
def test_ranges_of_floats_are_rounded_once(step):
    ours, theirs = (lib.arange(0, 50 * step, step) for lib in (tg, torch))
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=2e-7)


@both
def test_normal_numbers(lib):
    lib.manual_seed(3)
    x = lib.randn(100, dtype=lib.float64)
    lib.manual_seed(3)
    y = lib.zeros(100, dtype=lib.float64).normal_(2.0, 3.0)
    np.testing.assert_allclose(y.numpy(), x.numpy() * 3 + 2, rtol=1e-12)


WRONG = {
    "lib.tensor(None)": "expected numbers, nested lists of them, or an array; got a NoneType",
    "lib.tensor('abc')": "got a str",
    "lib.tensor(['a'])": "got a str",
    "lib.tensor({'a': 1})": "got a dict",
    "lib.tensor({1})": "got a set",
    "lib.tensor([None])": "got a NoneType",
    "lib.tensor([[1, 2], [3]])": "expected sequences of one length along each axis; got lengths [1, 2]",
    "lib.tensor([[[1], [1, 2]], [[1], [1, 2]]])": "different lengths deeper down",
    "lib.tensor([[1], 2])": "of one length",
    "lib.tensor([1, [2]])": "of one length",
    "lib.tensor(2**70)": "too large for int64",
    "lib.tensor([2**63])": "too large for int64",
    "lib.tensor([2**63, 1])": "too large for int64",
    "lib.tensor([-2**63 - 1])": "too large for int64",
    "lib.tensor([float('nan')], dtype=lib.int64)": "NaN cannot be converted to int64 without overflow",
    "lib.tensor(1j)": "got a complex",
    "lib.tensor(1, requires_grad=True)": "only Tensors of floating point dtype can require gradients; got torch.int64",
    "lib.tensor(1.0, dtype='wrong')": "dtype must be one of float32, float64, int64, bool; got 'wrong'",
    "lib.tensor(1.0, dtype=np.float16)": "element type float16 is not supported",
    "lib.tensor(1.0, device='cuda')": "the only device here is 'cpu'; got 'cuda'",
    "lib.as_tensor('a')": "got a str",
    "lib.from_numpy([1.0])": "expected np.ndarray (got list)",
    "lib.from_numpy(np.float64(1))": "expected np.ndarray (got float64)",
    "lib.from_numpy(lib.ones(1))": "expected np.ndarray (got Tensor)",
    "lib.zeros()": "zeros: size is missing",
    "lib.zeros(-1)": "Trying to create tensor with negative dimension -1: [-1]",
    "lib.zeros(2, -3)": "negative dimension -3: [2, -3]",
    "lib.zeros(2.0)": "zeros: the lengths of the axes must be integers; got (2.0,)",
    "lib.zeros('a')": "must be integers",
    "lib.zeros(True)": "must be integers",
    "lib.ones((2, None))": "ones: the lengths",
    "lib.ones(2, dtype=lib.int64, requires_grad=True)": "got torch.int64",
    "lib.empty([[1]])": "must be integers",
    "lib.full(2, 1.0)": "full: size must be a tuple or list of lengths",
    "lib.full((2,), None)": "full: fill_value must be a number; got NoneType",
    "lib.full((2,), 'a')": "got str",
    "lib.full((2,), float('nan'), dtype=lib.int64)": "value nan cannot be converted to type int64",
    "lib.arange(0, 1, 0)": "step must be nonzero",
    "lib.arange(0, 1, float('nan'))": "step must be nonzero",
    "lib.arange(0, 3, 0.5, dtype=lib.int64)": "step must be nonzero",
    "lib.arange(0, 5, -1)": "inconsistent with step sign: from 0 to 5 by -1",
    "lib.arange('a')": "arange: start, end and step must be numbers; got str",
    "lib.arange(float('inf'))": "unsupported range: 0 -> inf",
    "lib.arange(float('nan'))": "unsupported range: 0 -> nan",
    "lib.zeros_like([1.0])": "zeros_like: expected a Tensor; got list",
    "lib.ones_like(1.0)": "ones_like: expected a Tensor; got float",
    "lib.rand(2, dtype=lib.int64)": "rand: the values are real numbers, so dtype must be float32 or float64; got torch.int64",
    "lib.randn(2, dtype=lib.bool)": "got torch.bool",
    "lib.rand(2, generator=3)": "generator must be a Generator; got int",
    "lib.randint(5, 5, (2,))": "low (5) must be below high (5)",
    "lib.randint(0.5, 5, (2,))": "randint: low and high must be integers; got float",
    "lib.randint(5)": "size must be a tuple or list of lengths",
    "lib.randint(0, 5, 3)": "size must be a tuple or list of lengths",
    "lib.randperm(-1)": "n must be non-negative",
    "lib.randperm(2.5)": "randperm: n must be an integer; got float",
    "lib.bernoulli(lib.tensor([1.5]))": "1.5",
    "lib.bernoulli([0.5])": "bernoulli: expected a Tensor; got list",
    "lib.ones(2).uniform_(wrong=3)": "uniform_() got unexpected keyword arguments ['wrong']",
}
OTHERWISE = {  # torch's class is another one
    "lib.tensor(None)": "RuntimeError: cannot infer a type", "lib.tensor({'a': 1})": "", "lib.tensor({1})": "", "lib.tensor([None])": "",
    "lib.tensor(['a'])": "ValueError: too many dimensions", "lib.tensor([[1], 2])": "TypeError: not a sequence", "lib.tensor([1, [2]])": "",
    "lib.tensor(2**70)": "a ValueError there", "lib.tensor([2**63])": "", "lib.tensor([2**63, 1])": "", "lib.tensor([-2**63 - 1])": "",
    "lib.tensor(1j)": "complex numbers are not there", "lib.tensor(1.0, device='cuda')": "an AssertionError there", "lib.tensor(1.0, dtype=np.float16)": "",
    "lib.arange(0, 3, 0.5, dtype=lib.int64)": "a ValueError there", "lib.arange(float('nan'))": "", "lib.as_tensor('a')": "",
}  # fmt: skip


@pytest.mark.parametrize("call", list(WRONG))
def test_wrong_calls(call):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        eval(call, {"lib": tg, "np": np})
    assert WRONG[call] in str(caught.value)
    if call not in OTHERWISE:
        with pytest.raises(Exception) as theirs:
            eval(call, {"lib": torch, "np": np})
        assert isinstance(theirs.value, type(caught.value)), theirs.value


def test_nothing_becomes_an_array_of_objects():
    for data in ([2**70], [None, 1], [[1], [2, 3]], [object()], [{}], np.array([None]), [[1, 2], "ab"], [np.array([None])]):
        for make in (tg.tensor, tg.as_tensor):
            with pytest.raises((TypeError, ValueError, RuntimeError)):
                make(data)


@pytest.mark.parametrize("name", ["rand_like", "randn_like", "randint_like"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (1, 3, 1), (0, 3), (4, 6)])
def test_like_a_tensor_in_the_order_of_its_memory(name, shape):
    """As in torch, which keeps the strides where they leave no gap."""
    for look in (lambda t: t, lambda t: t.permute(*reversed(range(t.ndim))), lambda t: t[..., ::2].transpose(0, -1), lambda t: t.unsqueeze(1).expand(shape[0], 2, *shape[1:]).transpose(0, 1)):
        drawn = []
        for lib in (tg, torch):
            lib.manual_seed(3)
            drawn.append(getattr(lib, name)(look(lib.zeros(shape)), *([7] if name == "randint_like" else [])).tolist())
        np.testing.assert_allclose(*drawn, rtol=1e-6)


def test_bernoulli_of_no_axes():
    for lib in (tg, torch):
        lib.manual_seed(3)
    assert [tg.bernoulli(tg.tensor(0.5)).item() for _ in range(20)] == [torch.bernoulli(torch.tensor(0.5)).item() for _ in range(20)]


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("look", [lambda t: t.T, lambda t: t[:, ::2], lambda t: t[2:], lambda t: t.T[1:], lambda t: t[:, :1], lambda t: t[:0]], ids=range(6))
def test_normal_numbers_in_memory_of_any_layout(look, kind):
    """From 16 elements on torch draws rows of 16, but only into memory that lies in the order of the indices."""
    drawn = []
    for lib in (tg, torch):
        lib.manual_seed(3)
        t = look(lib.zeros(20, 6, dtype=getattr(lib, kind)))
        t.normal_(1.0, 2.0)
        drawn.append([t.tolist(), lib.randn(3).tolist(), lib.nn.init.xavier_normal_(look(lib.ones(20, 6))).tolist(), lib.rand(1).tolist()])
    for ours, theirs in zip(*drawn):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["zeros", "ones", "empty", "rand", "randn"])
def test_size_by_name(name):
    results = []
    for lib in (tg, torch):
        lib.manual_seed(3)
        t = getattr(lib, name)(size=(2, 3), dtype=lib.float64)
        results.append(t.shape if name == "empty" else t.tolist())
    assert results[0] == results[1]
    with pytest.raises(TypeError, match="not both"):
        getattr(tg, name)(2, size=(2, 3))
