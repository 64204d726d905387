"""The Tensor as an object: attributes, printing, Python's protocols, NumPy's."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

import tinygrad_norm as tg

both = pytest.mark.parametrize("lib", [tg, torch], ids=["ours", "torch"])


# -- Attributes and protocols ----------------------------------------------------------------------------------------------------------


@both
def test_what_it_tells_of_itself(lib):
    x = lib.zeros(2, 3, 4)
    assert repr(x.shape) == "torch.Size([2, 3, 4])"
    assert repr(x.shape[1:]) == "torch.Size([3, 4])"
    assert (x.shape[0], x.shape.numel(), x.size(1), x.size(-1), x.ndim, x.dim(), x.numel(), len(x)) == (2, 24, 3, 4, 3, 3, 24, 2)
    assert x.size() == (2, 3, 4)
    assert repr(lib.Size([1]) + (2,)) == "torch.Size([1, 2])"
    assert (repr(x.dtype), x.dtype.is_floating_point, x.dtype.itemsize) == ("torch.float32", True, 4)
    assert repr([lib.float64, lib.int64, lib.bool]) == "[torch.float64, torch.int64, torch.bool]"
    assert lib.double is lib.float64
    assert lib.long is lib.int64
    assert lib.get_default_dtype() is lib.float32
    assert x.is_contiguous()
    assert not x.permute(2, 0, 1).is_contiguous()
    assert x.permute(2, 0, 1).contiguous().is_contiguous()
    assert x.contiguous() is x
    assert lib.zeros(()).shape == ()


@both
def test_as_a_python_value(lib):
    one = lib.tensor([[2.5]])
    assert (one.item(), float(one), int(one), bool(one), bool(lib.tensor(0)), bool(lib.tensor([False]))) == (2.5, 2.5, 2, True, False, False)
    assert isinstance(lib.tensor(3).item(), int)
    assert isinstance(lib.tensor(True).item(), bool)
    assert isinstance(lib.tensor(3.0).item(), float)
    assert lib.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert lib.tensor(1.5).tolist() == 1.5
    assert [10, 20, 30][lib.tensor(1)] == 20
    assert list(range(lib.tensor(3))) == [0, 1, 2]
    assert [row.tolist() for row in lib.tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]
    assert [int(v) for v in reversed([*lib.arange(3)])] == [2, 1, 0]
    assert 3 in lib.arange(5)
    assert 7 not in lib.arange(5)
    first, second = lib.tensor([5.0, 6.0])
    assert (first.item(), second.item()) == (5, 6)
    assert f"{lib.tensor(3.14159):.2f}" == "3.14"
    assert f"{lib.tensor([1.0])}" == "tensor([1.])"
    assert f"{lib.tensor(2)}" == "2"
    x = lib.ones(2)
    assert {x: 1}[x] == 1  # by identity
    assert hash(x) != hash(lib.ones(2))


@both
def test_equality_of_other_things(lib):
    x = lib.ones(2)
    assert not (x == None)  # noqa: E711
    assert x != None  # noqa: E711
    assert not (x == "a")
    assert (x == 1).tolist() == [True, True]
    assert (x != 1).tolist() == [False, False]
    assert None not in [x]


@both
def test_reflected_operators(lib):
    x = lib.tensor([1.0, 2.0])
    assert (3 - x).tolist() == [2, 1]
    assert (2 / x).tolist() == [2, 1]
    assert (2**x).tolist() == [2, 4]
    assert (5 + x).tolist() == [6, 7]
    assert (3 * x).tolist() == [3, 6]
    assert (x < 2).tolist() == [True, False]
    assert (x >= 2).tolist() == [False, True]
    assert (True & (x > 1)).tolist() == [False, True]
    assert (False | (x > 1)).tolist() == [False, True]
    assert (-x).tolist() == [-1, -2]
    assert abs(-x).tolist() == [1, 2]


def test_numpy_numbers_are_numbers():
    x = tg.tensor([1.0, 2.0])
    for y in (np.float64(2) * x, x * np.float64(2), x * np.int64(2), np.float32(2) * x):
        assert isinstance(y, tg.Tensor)
        assert y.dtype is tg.float32
        assert y.tolist() == [2, 4]
    assert (tg.tensor([1]) * np.int64(2)).dtype is tg.int64
    assert (tg.tensor([1]) * np.float64(2)).dtype is tg.float32


@both
def test_numpy_sees_the_memory(lib):
    x = lib.tensor([[1.0, 2.0], [3.0, 4.0]])
    array = x.numpy()
    array[0, 0] = 7
    assert x[0, 0].item() == 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of the copy argument
        assert np.asarray(x).tolist() == [[7, 2], [3, 4]]
        assert np.asarray(x, dtype=np.float64).dtype == np.float64
        assert np.shares_memory(np.asarray(x), array)
        assert not np.shares_memory(np.array(x), array)
    assert np.sqrt(x.T.numpy()).shape == (2, 2)
    w = lib.ones(2, requires_grad=True)
    for attempt in (w.numpy, lambda: np.asarray(w)):
        with pytest.raises(RuntimeError, match=r"Can't call numpy\(\) on Tensor that requires grad. Use tensor.detach\(\).numpy\(\)"):
            attempt()
    assert w.detach().numpy().tolist() == [1, 1]


def test_numpy_copies_only_when_it_may():
    x = tg.ones(2)
    with pytest.raises(ValueError, match="without a copy"):
        x.__array__(np.float64, copy=False)
    assert np.shares_memory(x.__array__(copy=False), x.numpy())
    assert not np.shares_memory(x.__array__(copy=True), x.numpy())


@both
def test_conversions(lib):
    x = lib.tensor([1.7, -1.7, 0.0])
    assert x.long().tolist() == [1, -1, 0]
    assert x.to(lib.int64).dtype == lib.int64
    assert x.bool().tolist() == [True, True, False]
    assert x.double().dtype == lib.float64
    assert x.float() is x
    assert x.to("cpu") is x
    assert x.to(lib.float32) is x
    assert x.to(lib.float32, copy=True) is not x
    assert x.to(dtype=lib.float64).dtype == lib.float64
    assert x.to(lib.zeros(1, dtype=lib.int64)).dtype == lib.int64
    assert x.to("cpu", lib.float64).dtype == lib.float64
    assert x.to(lib.float32, False, True) is not x


@both
def test_data(lib):
    w = lib.tensor([1.0, 2.0], requires_grad=True)
    w.data[0] = 5
    w.data.mul_(2)
    assert w.tolist() == [10, 4]
    assert w._version == 0
    w.data = lib.zeros(2)
    assert w.tolist() == [0, 0]
    assert w.requires_grad
    with pytest.raises((RuntimeError, TypeError)):
        w.data = [1.0, 2.0]


def test_data_keeps_the_kind():
    w = tg.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="must be floating point"):
        w.data = tg.arange(2)
    with pytest.raises(TypeError, match="data must be a Tensor; got list"):
        w.data = [1.0]


@both
def test_assigned_gradients(lib):
    w = lib.ones(2, 3)
    w.grad = lib.zeros(2, 3)
    assert w.grad.tolist() == [[0] * 3] * 2
    for wrong in (lib.zeros(3), lib.zeros(2, 3, dtype=lib.float64)):
        with pytest.raises(RuntimeError, match="assign"):
            w.grad = wrong
    with pytest.raises(TypeError, match="assigned grad expected to be a Tensor or None but got "):
        w.grad = 3
    w.grad = None
    assert w.grad is None


@both
def test_copies(lib):
    w = lib.tensor([1.0, 2.0], requires_grad=True)
    w.grad = lib.tensor([3.0, 4.0])
    deep = copy.deepcopy(w)
    assert (deep.tolist(), deep.requires_grad, deep.grad.tolist(), deep.is_leaf) == ([1, 2], True, [3, 4], True)
    deep.grad[0] = 9
    with lib.no_grad():
        deep[0] = 9
    assert (w.tolist(), w.grad.tolist()) == ([1, 2], [3, 4])
    shallow = copy.copy(w)
    with lib.no_grad():
        shallow[0] = 7
    assert w.tolist() == [7, 2]
    pair = copy.deepcopy([w, w])
    assert pair[0] is pair[1]
    with pytest.raises(RuntimeError, match="explicitly by the user"):
        copy.deepcopy(w * 2)
    through = pickle.loads(pickle.dumps(w))
    assert (through.tolist(), through.requires_grad, repr(through.dtype)) == ([7, 2], True, "torch.float32")
    assert pickle.loads(pickle.dumps(lib.zeros(2, 0, 3)[:, :, 1:])).shape == (2, 0, 2)
    assert pickle.loads(pickle.dumps(lib.float64)) is lib.float64
    turned = lib.arange(6).reshape(2, 3).T
    assert pickle.loads(pickle.dumps(turned)).tolist() == turned.tolist() == copy.deepcopy(turned).tolist()


def test_a_shallow_copy_is_known_to_be_the_same_memory():
    y = tg.ones(2, requires_grad=True) * 1
    z = y * y
    copy.copy(y.detach()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
    with pytest.raises(RuntimeError, match="inside a graph"):
        copy.copy(z)
    with pytest.raises(RuntimeError, match="inside a graph cannot be pickled"):
        pickle.dumps(z)


def test_what_is_not_there_says_so():
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'svd'"):
        tg.ones(2).svd()
    assert not hasattr(tg.ones(2), "cuda")
    assert "softmax" in dir(tg.Tensor)


def test_the_constructor_takes_arrays_of_the_four_types_only():
    array = np.zeros(2, np.float32)
    assert tg.Tensor(array)._data is array
    for wrong in ([1.0], 1.0, np.float32(1), None, tg.ones(1), np.ma.array([1.0])):
        with pytest.raises(TypeError, match=r"wraps a NumPy array as it is; got \w+: use tensor"):
            tg.Tensor(wrong)
    for kind in (np.float16, np.int32, np.uint8, np.complex64, object, "U1", ">f8"):
        with pytest.raises(TypeError, match=r"element type .* is not supported: tensors hold float32, float64, int64 or bool"):
            tg.Tensor(np.zeros(2, kind))


# -- Printing --------------------------------------------------------------------------------------------------------------------------

PRINTED = [
    "t([1.0, 2.5])",
    "t([1.0, 2.5], requires_grad=True)",
    "t([1.0, 2.5], requires_grad=True) * 2",
    "t([[1.0, 2.5]], dtype=lib.float64, requires_grad=True).T",
    "t(3.0)",
    "t(3)",
    "t(True)",
    "t([True, False])",
    "t([])",
    "lib.zeros(0, 3)",
    "lib.zeros(0, 3, dtype=lib.int64)",
    "lib.zeros(2, 3, 4)",
    "lib.arange(2000)",
    "lib.arange(6.0).reshape(2, 3).sum(0, keepdim=True)",
    "t([1.0, 2.5], requires_grad=True).sum()",
    "t([1.0, 2.5], requires_grad=True).mean(0)",
    "t([1.0, 2.5], requires_grad=True).max(0)",
    "t([[1.0, 2.5]], requires_grad=True).min(1, keepdim=True)",
    "t([1.0, 2.5], requires_grad=True)[0]",
    "t([1.0, 2.5], requires_grad=True)[:1]",
    "t([1.0, 2.5], requires_grad=True)[[0, 1]]",
    "t([1.0, 2.5], requires_grad=True).exp().detach()",
    "lib.stack([t([1.0], requires_grad=True), t([2.0])])",
    "t([float('nan'), float('inf'), -1.0])",
    "t([1e-8, 1e8])",
    "lib.ones(3, 4, requires_grad=True).reshape(2, 6).unsqueeze(0)",
    "(lib.ones(30, requires_grad=True) * 1234567.0).tanh()",
    "lib.ones(2, 2).max(0).indices",
    "lib.ones(2).shape, lib.float32, lib.Size([])",
]


@pytest.mark.parametrize("expression", PRINTED)
def test_it_looks_as_in_torch(expression):
    ours, theirs = (eval(expression, {"lib": lib, "t": lib.tensor}) for lib in (tg, torch))
    assert repr(ours) == repr(theirs)
    assert str(ours) == str(theirs)


def test_named_pairs():
    for lib in (tg, torch):
        pair = lib.tensor([[1.0, 5.0], [7.0, 2.0]]).max(dim=1)
        assert pair.values.tolist() == pair[0].tolist() == [5, 7]
        assert pair.indices.tolist() == pair[1].tolist() == [1, 0]
        values, _ = lib.min(lib.tensor([3.0, 1.0]), 0)
        assert values.item() == 1


def test_what_may_be_looked_for():
    x = tg.tensor([1.0, 2.0])
    assert 2 in x and tg.tensor(1.0) in x and 3.5 not in x
    for other in ("a", None, [1.0]):
        with pytest.raises(RuntimeError, match="only supports Tensor or scalar"):
            other in x  # noqa: B015


@both
def test_the_shape_of_what_numpy_was_given_is_not_the_tensors(lib):
    x = lib.arange(6)
    for array in (x.numpy(), np.asarray(x)):
        array = array.reshape(2, 3)
        array[0, 0] += 7
    assert x.shape == (6,) and x[0] == 14
    mine = x.numpy()
    mine.resize((3, 2), refcheck=False)
    assert x.shape == (6,)
