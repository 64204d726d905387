"""170 wrong calls on tensors and ops, and what they answer."""

import re
import warnings

import numpy as np
import pytest
import torch

import tinygrad_norm as tg

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
