"""The Tensor as an object: attributes, printing, Python's protocols, NumPy's; and 170 wrong calls with what they answer."""

import copy
import pickle
import re
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
    assert x.__array__(copy=False) is x.numpy()
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
    with pytest.raises(AttributeError, match=r"Tensor has no attribute 'svd': tinygrad_norm keeps the part of torch"):
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


# -- Wrong calls -----------------------------------------------------------------------------------------------------------------------

# Each with a piece of the answer, which says the invariant and what came. In the names: x (3, 4) float32, w the same as a leaf and
# y = w·1 in its graph, v (4), d (4) float64, i (3) int64 [0, 1, 2], b (3, 4) bool, z 0-d, e (0, 4), s (3, 3).
WRONG = {
    # arithmetic
    "x + lib.ones(2)": "size of tensor a (4) must match the size of tensor b (2) at non-singleton dimension 1",
    "x * lib.ones(2, 4)": "(3) must match the size of tensor b (2) at non-singleton dimension 0",
    "lib.ones(2, 1, 5) - x": "sub of shapes [2, 1, 5] and [3, 4]",
    "x / lib.ones(3)": "div of shapes [3, 4] and [3]",
    "x ** lib.ones(3)": "pow of shapes",
    "x == lib.ones(3)": "eq of shapes",
    "x + None": "got NoneType",
    "None + x": "got NoneType",
    "x + 'a'": "add: expected a Tensor or a real number; got str",
    "x + [1, 2]": "got list: make a Tensor of it",
    "x - {}": "got dict",
    "x < None": "got NoneType",
    "x * (1j if lib is ours else 'a')": "got",
    "lib.add(1, 2)": "add: expected a Tensor; got int and int",
    "lib.mul(x, 'a')": "got str",
    "lib.eq('a', x)": "got str",
    "b - b": "Subtraction, the `-` operator, with a bool",
    "b - 1": "use ~ or logical operators",
    "1 - b": "bool",
    "x - True": "bool",
    "-b": "Negation, the `-` operator, on a bool tensor is not supported: use the `~` operator",
    "abs(b)": "abs is not implemented for bool",
    "b ** b": "pow is not implemented for bool",
    "i ** -1": "Integers to negative integer powers are not allowed",
    "x & b": "& is not implemented for floating point",
    "b | 1.5": "|",
    "~x": "only implemented on integer and Boolean-type tensors",
    "i + 2**70": "too large",
    "lib.add(i, i, alpha=0.5)": "argument alpha must not be a floating point number",
    # functions
    "lib.exp(1.0)": "exp: expected a Tensor; got float",
    "lib.log([1.0])": "log: expected a Tensor; got list",
    "lib.sqrt(None)": "sqrt: expected a Tensor; got NoneType",
    "lib.sigmoid(np.ones(2))": "sigmoid: expected a Tensor; got ndarray",
    "lib.maximum(x, 1.0)": "maximum: expected a Tensor; got float",
    "lib.minimum(1.0, x)": "minimum: expected a Tensor; got float",
    "lib.maximum(x, lib.ones(3))": "maximum of shapes [3, 4] and [3]",
    "x.clamp()": "At least one of 'min' or 'max' must not be None",
    "x.clamp('a')": "clamp: min and max must be numbers; got str",
    "lib.where(x, x, x)": "condition to be a boolean tensor, but got a tensor with dtype torch.float32",
    "lib.where(True, x, x)": "where: expected a Tensor; got bool",
    "lib.where(b, x, lib.ones(3))": "where of shapes",
    "lib.where(b, lib.ones(5), lib.ones(5))": "where of shapes [3, 4] and [5]",
    "lib.where(b, 'a', x)": "got str",
    # types
    "x.to('cuda')": "the only device here is 'cpu'; got 'cuda'",
    "x.to(3.5)": "dtype must be one of float32, float64, int64, bool",
    "x.to(dtype=[1])": "dtype must be one of",
    "x.to(lib.float32, wrong=1)": "unexpected arguments ['wrong']",
    "x.allclose(d)": "both must have one dtype",
    "x.allclose(1.0)": "expected a Tensor; got float",
    # reductions
    "x.sum(2)": "Dimension out of range (expected to be in range of [-2, 1], but got 2)",
    "x.sum(-3)": "but got -3",
    "x.sum((0, 5))": "but got 5",
    "x.sum((0, -2))": "dim 0 appears multiple times in the list of dims",
    "x.sum('a')": "dim must be an integer; got str",
    "x.sum(1.0)": "dim must be an integer; got float",
    "x.sum(True)": "got bool",
    "x.sum(0, axis=0)": "give dim or axis, not both",
    "z.sum(1)": "expected to be in range of [-1, 0], but got 1",
    "i.mean()": "Input dtype must be a floating point dtype; got torch.int64: use .float()",
    "b.mean(0)": "got torch.bool",
    "i.var()": "floating point",
    "i.std(0)": "floating point",
    "x.var(0, unbiased=True, correction=1)": "give unbiased or correction, not both",
    "x.max(3)": "but got 3",
    "x.max((0, 1))": "dim must be an integer; got tuple",
    "x.max(keepdim=True)": "keepdim needs a dim; over all elements use amax(keepdim=True)",
    "x.max(0, axis=0)": "not both",
    "x.max(lib.ones(3))": "maximum of shapes",
    "e.max()": "Expected reduction dim to have a non-zero size; the input has shape [0, 4]",
    "e.max(0)": "max(): Expected reduction dim to have a non-zero size",
    "e.min(0)": "min(): Expected",
    "e.amax()": "amax(): Expected",
    "e.amin(0)": "amin(): Expected",
    "e.amax((0, 1))": "amax(): Expected",
    "e.argmax()": "argmax(): Expected",
    "e.argmin(0)": "argmin(): Expected",
    "b.argmax()": "does not support bool input",
    "x.argmax((0, 1))": "dim must be an integer; got tuple",
    "x.argmax(2)": "but got 2",
    "x.logsumexp()": "dim (or axis) is missing",
    "x.logsumexp(2)": "but got 2",
    "lib.all(3)": "all: expected a Tensor; got int",
    "x.any(7)": "but got 7",
    "lib.sum([1.0])": "sum: expected a Tensor; got list",
    "lib.amax(np.ones(2))": "amax: expected a Tensor; got ndarray",
    "lib.argmax(None)": "argmax: expected a Tensor; got NoneType",
    "x.softmax(2)": "but got 2",
    "x.log_softmax(-3)": "but got -3",
    # shapes
    "x.reshape(5, 2)": "shape '[5, 2]' is invalid for input of size 12",
    "x.reshape(5, -1)": "shape '[5, -1]' is invalid for input of size 12",
    "x.reshape(-1, -1)": "only one dimension can be inferred",
    "x.reshape(-2, 6)": "invalid shape dimension -2 at index 0",
    "x.reshape(2.0, 6)": "reshape: lengths must be integers; got (2.0, 6)",
    "x.reshape('a')": "lengths must be integers",
    "e.reshape(-1, 0)": "cannot reshape tensor of 0 elements into shape [-1, 0] because the unspecified -1 can be any value",
    "x.view(7)": "shape '[7]' is invalid for input of size 12",
    "x.T.view(12)": "view size is not compatible with input tensor's size and stride",
    "x.flatten(1, 0)": "start_dim (1) cannot come after end_dim (0)",
    "x.flatten(2)": "but got 2",
    "x.permute(0)": "number of dims (1) must be the number of the tensor's axes (2)",
    "x.permute(0, 0)": "duplicate dims are not allowed: (0, 0)",
    "x.permute(0, 2)": "but got 2",
    "x.transpose(0, 2)": "but got 2",
    "x.squeeze(2)": "but got 2",
    "x.unsqueeze(3)": "expected to be in range of [-3, 2], but got 3",
    "x.unsqueeze('a')": "dim must be an integer; got str",
    "x.expand(3)": "the number of sizes provided (1) must be greater or equal to the number of dimensions in the tensor (2)",
    "x.expand(3, 5)": "The expanded size of the tensor (5) must match the existing size (4) at non-singleton dimension 1",
    "x.expand(-1, 3, 4)": "isn't allowed in a leading, non-existing dimension 0",
    "x.expand(3, -2)": "lengths are 0 or more, or -1 to keep one",
    "lib.cat([])": "expected a non-empty list of Tensors",
    "lib.cat(x)": "cat: expected a list or tuple of Tensors; got Tensor",
    "lib.cat([x, 1])": "expected Tensor as element 1, but got int",
    "lib.cat([x, v])": "Sizes of tensors must match except in dimension 0: tensor number 1 has shape [4], the first [3, 4]",
    "lib.cat([x, s])": "tensor number 1 has shape [3, 3]",
    "lib.cat([x, x], 2)": "but got 2",
    "lib.cat([z, z])": "zero-dimensional tensor cannot be concatenated: use stack",
    "lib.stack([])": "non-empty",
    "lib.stack([x, s])": "stack expects each tensor to be equal size; got [3, 4] at entry 0 and [3, 3] at entry 1",
    "lib.stack([x, x], 4)": "but got 4",
    "x.split(-1)": "split_size be positive, but got split_size=-1",
    "x.split(0)": "split_size=0",
    "x.split([1, 1])": "split_sizes to sum exactly to 3 (input tensor's size at dimension 0), but got split_sizes=[1, 1]",
    "x.split([4, -1])": "split_sizes=[4, -1]",
    "x.split(1.5)": "lengths must be integers",
    "x.split(1, 2)": "but got 2",
    "z.split(1)": "at least a 1-dimensional tensor",
    "x.chunk(0)": "`chunks` to be greater than 0, got: 0",
    "x.chunk(1.5)": "lengths must be integers",
    "z.chunk(2)": "at least a 1-dimensional tensor",
    "v.tril()": "input tensor must have at least 2 dimensions; got 1",
    "z.size(0)": "no dimensions",
    "x.size(2)": "but got 2",
    "lib.reshape([1.0], (1,))": "expected a Tensor; got list",
    # matmul
    "x @ x": "mat1 and mat2 shapes cannot be multiplied ([3, 4] and [3, 4])",
    "x @ lib.ones(3)": "shapes cannot be multiplied",
    "v @ lib.ones(3)": "the only axis of the second",
    "x @ z": "both arguments to matmul need to be at least 1D, but they are 2D and 0D",
    "x @ d": "same dtype, but got torch.float32 and torch.float64",
    "x @ i": "same dtype",
    "x @ 2": "matmul: expected a Tensor; got int",
    "lib.ones(2, 3, 4) @ lib.ones(3, 4, 2)": "matmul of shapes [2] and [3]",
    "b.T @ b": "matmul is not implemented for bool",
    # as Python values
    "x.item()": "a Tensor with 12 elements cannot be converted to Scalar",
    "e.item()": "0 elements",
    "float(v)": "only one element tensors can be converted to Python scalars; got 4 elements",
    "int(v)": "got 4 elements",
    "bool(x)": "Boolean value of Tensor with more than one value is ambiguous",
    "bool(e)": "Boolean value of Tensor with no values is ambiguous",
    "len(z)": "len() of a 0-d tensor",
    "list(z)": "iteration over a 0-d tensor",
    "[1, 2][x]": "only integer tensors of a single element can be converted to an index",
    "[1, 2][lib.tensor(1.0)]": "only integer tensors of a single element can be converted to an index",
    "format(x, '.2f')": "unsupported format string passed to Tensor.__format__",
    "x.numpyy()": "has no attribute 'numpyy'",
    "w.numpy()": "Use tensor.detach().numpy() instead",
    # in place
    "x.add_(lib.ones(2, 3, 4))": "output with shape [3, 4] doesn't match the broadcast shape [2, 3, 4]",
    "x.mul_(lib.ones(5))": "size of tensor a (4) must match the size of tensor b (5)",
    "x.add_('a')": "got str",
    "x.add_(None)": "got NoneType",
    "i.add_(1.5)": "result type torch.float32 can't be cast to the desired output type torch.int64",
    "i.div_(2)": "can't be cast to the desired output type torch.int64",
    "i.mul_(lib.ones(3))": "can't be cast",
    "b.add_(1)": "result type torch.int64 can't be cast to the desired output type torch.bool",
    "b.sub_(b)": "Subtraction",
    "x.fill_(v)": "fill_ only supports 0-dimension value tensor but got tensor with 1 dimensions.",
    "x.fill_('a')": "fill_: expected a number or a 0-d Tensor; got str",
    "i.fill_(float('nan'))": "value nan cannot be converted to type int64 without overflow",
    "i.fill_(float('inf'))": "value inf cannot be converted",
    "x.copy_(lib.ones(5))": "copy_ of shapes [3, 4] and [5]",
    "v.copy_(x)": "a tensor of shape [3, 4] cannot be broadcast to [4], the tensor written to",
    "x.copy_([1.0])": "copy_: expected a Tensor; got list",
    "w.add_(1)": "a leaf Variable that requires grad is being used in an in-place operation",
    "w.zero_()": "leaf Variable",
    "w.copy_(x)": "leaf Variable",
    "w.uniform_()": "leaf Variable",
    "w[0].zero_()": "view of a tensor in a graph",
    "v.expand(2, 4).add_(1)": "several elements are one place in memory",
    "i.uniform_()": "dtype must be float32 or float64; got torch.int64",
    "i.normal_()": "got torch.int64",
    "x.uniform_(2.0, 1.0)": "uniform",
    "x.normal_(0.0, -1.0)": "std",
    "i.random_(5, 5)": "low (5) must be below high (5)",
    # graphs
    "i.requires_grad_()": "only Tensors of floating point dtype can require gradients; got torch.int64",
    "b.requires_grad_()": "got torch.bool",
    "y.requires_grad_(False)": "you can only change requires_grad flags of leaf variables",
    "x.backward()": "element 0 of tensors does not require grad and does not have a grad_fn",
    "y.backward()": "grad can be implicitly created only for scalar outputs; this one has shape [3, 4]",
    "y.backward(v)": "Mismatch in shape: grad_output[0] has a shape of torch.Size([4]) and output[0] has a shape of torch.Size([3, 4])",
    "y.backward(1.0)": "gradients can be either Tensors or None, but got float",
    "y.sum().backward(inputs=[])": "`inputs` argument to `backward()` cannot be empty.",
    "y.sum().backward(inputs=[x])": "does not require grad",
    "lib.autograd.grad(y.sum(), [])": "`inputs` argument to `grad()` cannot be empty.",
    "lib.autograd.grad(y.sum(), [1])": "all inputs have to be Tensors, but number 0 is a int",
    "lib.autograd.grad(y.sum(), x)": "One of the differentiated Tensors does not require grad: inputs[0], of shape [3, 4]",
    "lib.autograd.grad(y.sum(), lib.ones(1, requires_grad=True))": "not have been used in the graph",
    "lib.autograd.grad([1.0], w)": "gradients start from Tensors; element 0 is a float",
    "lib.autograd.grad(y, w, [x, x])": "one gradient for each output",
    "x.register_hook(print)": "cannot register a hook on a tensor that doesn't require gradient",
    "y.register_hook(3)": "a hook must be callable; got int",
    "x.retain_grad()": "can't retain_grad on Tensor that has requires_grad=False",
    "y[0].detach_()": "Can't detach views in-place",
}  # fmt: skip
# Where torch does something else, and why ours refuses or says it with another class.
OTHERWISE = {
    "x.to(3.5)": "torch passes over it",
    "lib.add(1, 2)": "torch makes tensors of them",
    "x.to('cuda')": "an AssertionError there",
    "lib.autograd.grad([1.0], w)": "an AssertionError there",
    "lib.autograd.grad(y, w, [x, x])": "torch leaves the second one out",
    "x * (1j if lib is ours else 'a')": "complex numbers are not there",
    "y.register_hook(3)": "torch finds out in backward",
    "y.sum().backward(inputs=[x])": "torch finds out later",
}


@pytest.mark.parametrize("call", list(WRONG))
def test_wrong_calls(call):
    """The class of torch's error (or one it derives from), an answer that says what is wrong, and nothing changed."""

    def attempt(lib):
        x = lib.arange(12.0).reshape(3, 4)
        w = x.clone().requires_grad_()
        names = {
            "x": x, "w": w, "y": w * 1, "v": lib.arange(4.0), "d": lib.ones(4, dtype=lib.float64), "i": lib.arange(3), "b": x > 5,
            "z": lib.tensor(2.0), "e": lib.zeros(0, 4), "s": lib.ones(3, 3),
        }  # fmt: skip
        before = {name: (t.tolist(), t._version) for name, t in names.items()}
        with pytest.raises(Exception) as caught:
            eval(call, {"lib": lib, "np": np, "ours": tg, **names})
        after = {name: (t.tolist(), t._version) for name, t in names.items()}
        return caught.value, before == after and w.grad is None

    error, unchanged = attempt(tg)
    assert unchanged
    assert WRONG[call] in str(error)
    assert type(error) in (TypeError, ValueError, RuntimeError, IndexError, AttributeError, OverflowError)
    if call not in OTHERWISE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs, _ = attempt(torch)
        assert isinstance(theirs, type(error)), theirs


def test_there_are_many_of_them():
    assert len(WRONG) >= 170
    assert set(OTHERWISE) <= set(WRONG)


@pytest.mark.parametrize("op", [f for f in sorted(tg.__all__) if callable(getattr(tg, f)) and getattr(tg, f).__module__.startswith("tinygrad_norm.ops")])
def test_every_function_names_itself_when_it_gets_no_tensor(op):
    """A string where a Tensor belongs: a TypeError that says which function, and what came."""
    function = getattr(tg, op)
    needed = [p for p in __import__("inspect").signature(function).parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    fillers = {"dim": 0, "dim0": 0, "dim1": 0, "index": tg.tensor([0]), "split_size_or_sections": 1, "chunks": 1, "exponent": 2, "other": tg.ones(1), "value": 1.0}
    args = ["text", *(fillers.get(p.name, tg.ones(1)) for p in needed[1:])] if needed else ["text"]
    with pytest.raises(TypeError, match=re.compile(r"expected .*got (\w+ and )?str")) as caught:
        function(*args)
    assert str(caught.value).startswith(f"{op}:")
