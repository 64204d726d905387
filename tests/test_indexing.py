"""Brackets, read and assigned, against torch: values, shapes, gradients, what is a view, and what is refused."""

import itertools
import warnings

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm.testing import compare_arrays

both = pytest.mark.parametrize("lib", [tg, torch], ids=["ours", "torch"])
SHAPE = (3, 4, 2)

# Pieces of a key, as text: `lib` is put in, so that both libraries get their own tensors.
ONE_AXIS = [
    "0", "-1", "1", "slice(None)", "slice(1, None)", "slice(None, None, 2)", "slice(-1, None)", "slice(5, 9)", "lib.tensor([0, 1, 0])", "lib.tensor([[0], [1]])",
    "lib.tensor([-1, 0])", "[1, 0]", "lib.tensor(1)", "lib.tensor([], dtype=lib.int64)", "np.array([1, 1])",
]  # fmt: skip
KEYS = [
    *ONE_AXIS,
    *(f"({a}, {b})" for a, b in itertools.product(ONE_AXIS, ONE_AXIS)),
    *(f"({a}, {b}, {c})" for a, b, c in itertools.product(["0", "slice(1, 3)", "[1, 0]", "lib.tensor([2, 0])"], repeat=3) if "2, 0" not in c),
    "...", "None", "()", "(..., 0)", "(0, ...)", "(..., None)", "(None, ..., 1)", "(1, ..., [0, 1])", "([0, 1], ..., [1, 0])", "(None, [0, 1])", "([0, 1], None, [1, 0])",
    "([0, 2], slice(None), 0)", "(0, None, [1, 2], None)", "(slice(None), None, [1, 2])", "lib.ones(3, dtype=lib.bool)", "lib.tensor([True, False, True])",
    "[True, False, True]", "(slice(None), lib.tensor([True, False, False, True]))", "lib.arange(12).reshape(3, 4) > 5", "abs(lib.arange(24).reshape(3, 4, 2) - 11) > 7",
    "(lib.arange(12).reshape(3, 4) > 5, 1)", "(lib.tensor([True, False, True]), [0, 1])", "(lib.tensor([True, False, True]), [0, 1], 1)", "(0, lib.arange(8).reshape(4, 2) > 2)",
    "(..., lib.tensor([True, False]))", "lib.tensor(True)", "lib.tensor(False)", "(lib.tensor(True), 0)", "lib.zeros(3, dtype=lib.bool)", "np.array([True, False, True])",
    "(np.int64(1), slice(np.int64(0), np.int64(2)))", "slice(lib.tensor(1), None)", "(1, 2, 1)", "(slice(None), [0], ..., [1, 0])", "([0], ..., 1, [1, 0])", "(lib.tensor(0), lib.tensor(1), lib.tensor(1))", "([0], [1], [1])", "[]",
]  # fmt: skip


def both_tensors(rng=np.random.RandomState(0)):  # noqa: B008
    values = rng.standard_normal(SHAPE)
    return [(lib, lib.tensor(values, dtype=lib.float64, requires_grad=True)) for lib in (tg, torch)]


@pytest.mark.parametrize("text", KEYS)
def test_reading(text):
    """Values, shape, first and second gradient, and whether it is a view, for one key."""
    results = []
    for lib, x in both_tensors():
        try:
            y = x[eval(text, {"lib": lib, "np": np})]
        except (IndexError, TypeError, ValueError) as error:
            results.append(type(error))
            continue
        (g,) = lib.autograd.grad((y**3).sum(), x, create_graph=True)
        (h,) = lib.autograd.grad((g**2).sum(), x)
        is_view = np.shares_memory(y.detach().numpy(), x.detach().numpy())
        results.append((y.detach().numpy(), g.detach().numpy(), h.numpy(), is_view, repr(y.shape)))
    ours, theirs = results
    if isinstance(theirs, type):
        assert ours is theirs
        return
    for a, b in zip(ours[:3], theirs[:3]):
        assert compare_arrays(a, b) < 1e-14
    assert ours[3:] == theirs[3:]


@pytest.mark.parametrize("text", KEYS)
def test_assigning(text):
    """A number, and a tensor of one element, of the places' shape and broadcast: values and both gradients. Duplicates: any one wins."""
    found = {}
    for lib, leaf in both_tensors():
        key = eval(text, {"lib": lib, "np": np})
        try:
            shape = tuple(leaf[key].shape)
        except IndexError:
            with pytest.raises(IndexError):
                leaf.detach()[key] = 1.0
            continue
        for name, value in {"number": 7.0, "0-d": "()", "whole": "shape", "row": "shape[1:]", "ones in front": "(1, 1, *shape)"}.items():
            size = eval(value, {"shape": shape}) if isinstance(value, str) else None
            w = 7.0 if size is None else (lib.arange(float(np.prod(size)), dtype=lib.float64).reshape(size) * 0 + 1.5).requires_grad_()
            for recorded in (True, False):
                y = leaf * 1 if recorded else leaf.detach().clone()
                value = w if recorded or size is None else w.detach()
                y[key] = value
                out = [y.detach().numpy().copy()]
                if recorded:
                    inputs = [leaf] if size is None else [leaf, w]
                    out += [g.numpy() for g in lib.autograd.grad((y * lib.arange(24.0, dtype=lib.float64).reshape(SHAPE)).sum(), inputs)]
                found.setdefault((name, recorded), []).append(out)
    for ours, theirs in found.values():
        for a, b in zip(ours, theirs):
            assert compare_arrays(a, b) < 1e-13


def test_every_pair_was_taken_from_both():
    assert len(KEYS) > 280


@both
def test_duplicates_read_add_up(lib):
    x = lib.arange(3.0, requires_grad=True)
    x[[1, 1, 1, 2]].sum().backward()
    assert x.grad.tolist() == [0, 3, 1]


@both
def test_views_and_copies(lib):
    x = lib.zeros(3, 4)
    x[1][2] = 5
    assert x[1, 2].item() == 5
    x[[0, 1]][0] = 9  # a copy is written to
    assert x[0, 0].item() == 0
    x[lib.tensor(2)][0] = 4  # a 0-d index gives a view
    assert x[2, 0].item() == 4
    one = x[0, 1]
    one.fill_(8)
    assert x[0, 1].item() == 8
    for row in x:
        row += 1
    assert x[0].tolist() == [1, 9, 1, 1]


@both
def test_the_key_may_change_afterwards(lib):
    x = lib.arange(4.0, requires_grad=True)
    index, mask, start = lib.tensor([0, 1]), lib.tensor([True, False, False, True]), lib.tensor(1)
    y = x[index].sum() + 10 * x[mask].sum() + 100 * x[start:].sum()
    if lib is torch:
        y.backward()
    else:
        index.fill_(3)
        mask.fill_(True)
        start.fill_(0)
        y.backward()
    assert x.grad.tolist() == [11, 101, 100, 110]


@both
def test_types_assigned(lib):
    i = lib.zeros(3, dtype=lib.int64)
    i[0] = 2.7
    i[1] = lib.tensor(3.9)
    i[[2]] = 5.9
    assert i.tolist() == [2, 3, 5]
    b = lib.zeros(2, dtype=lib.bool)
    b[0] = 3
    assert b.tolist() == [True, False]
    x = lib.zeros(2)
    x[0] = lib.tensor(0.1, dtype=lib.float64)
    x[1] = True
    assert x[0].item() == np.float32(0.1)
    assert x[1].item() == 1
    w = lib.tensor([0.5, 1.5], dtype=lib.float64, requires_grad=True)
    x[0:2] = w
    x.sum().backward()
    assert w.grad.tolist() == [1, 1]
    assert w.grad.dtype == lib.float64


@both
def test_overlapping_memory_is_read_before_it_is_written(lib):
    x = lib.arange(5.0)
    x[1:] = x[:-1].clone()
    assert x.tolist() == [0, 0, 1, 2, 3]
    y = lib.arange(6.0).reshape(2, 3)
    y[0], y[1] = y[1].clone(), y[0].clone()
    assert y.tolist() == [[3, 4, 5], [0, 1, 2]]


def test_overlapping_views_too():
    x = tg.arange(5.0)
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("dims", list(itertools.product(range(-2, 2), ["arange", "zeros", "two"])), ids=str)
def test_gather_and_index_select(dims):
    dim, which = dims
    for make in (lambda lib: lib.arange(12.0).reshape(3, 4),):
        index = {"arange": [[2, 0], [1, 1]], "zeros": [[0]], "two": [[1, 1, 2], [0, 2, 1]]}[which]
        results = []
        for lib in (tg, torch):
            x = make(lib).requires_grad_()
            y = x.gather(dim, lib.tensor(index))
            z = lib.index_select(x, dim, lib.tensor(index[0]))
            ((y**2).sum() + (z**2).sum()).backward()
            results.append((y.detach().numpy(), z.detach().numpy(), x.grad.numpy()))
        for ours, theirs in zip(*results):
            np.testing.assert_array_equal(ours, theirs)


@both
def test_gather_and_index_select_without_axes(lib):
    z = lib.tensor(3.0, requires_grad=True)
    assert z.gather(0, lib.tensor(0)).shape == ()
    assert lib.index_select(z, 0, lib.tensor([0])).shape == ()
    z.gather(0, lib.tensor(0)).backward()
    assert z.grad.item() == 1
    assert lib.ones(2, 0).gather(1, lib.zeros(2, 0, dtype=lib.int64)).shape == (2, 0)
    assert lib.index_select(lib.ones(2, 3), 1, lib.tensor(1)).shape == (2, 1)


@both
def test_one_hot(lib):
    one_hot = lib.nn.functional.one_hot
    assert one_hot(lib.tensor([0, 2])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert one_hot(lib.tensor([[1]]), 2).tolist() == [[[0, 1]]]
    assert one_hot(lib.tensor(1), 3).tolist() == [0, 1, 0]
    assert one_hot(lib.zeros(0, dtype=lib.int64), 3).shape == (0, 3)
    assert repr(one_hot(lib.tensor([0])).dtype) == "torch.int64"


@both
def test_masked_fill_and_where(lib):
    x = lib.arange(6.0).reshape(2, 3).requires_grad_()
    mask = lib.tensor([True, False, True])
    value = lib.tensor(9.0, requires_grad=True)
    y = x.masked_fill(mask, value) * lib.arange(1.0, 7.0).reshape(2, 3)
    y.sum().backward()
    assert x.grad.tolist() == [[0, 2, 0], [0, 5, 0]]
    assert value.grad.item() == 1 + 3 + 4 + 6
    assert lib.zeros(2).masked_fill(lib.ones(3, 2) > 0, 1.0).shape == (3, 2)
    assert lib.arange(3).masked_fill(mask, 7.9).tolist() == [7, 1, 7]


WRONG = {
    "x[3]": "index 3 is out of bounds for dimension 0 with size 3",
    "x[-4]": "index -4 is out of bounds for dimension 0 with size 3",
    "x[0, 4]": "index 4 is out of bounds for dimension 1 with size 4",
    "x[..., 9]": "index 9 is out of bounds for dimension 1 with size 4",
    "x[0, 0, 0]": "too many indices for tensor of dimension 2: got 3",
    "x[[0], [0], [0]]": "too many indices",
    "x[..., ..., 0]": "an index can only have a single ellipsis",
    "x[1.0]": "only integers, slices (`:`), ellipsis (`...`), None and long or bool tensors are valid indices (got float)",
    "x[{}]": "(got dict)",
    "x['a']": "(got str)",
    "x[1.5:]": "",
    "x[::-1]": "step must be greater than zero; got -1",
    "x[::0]": "step must be greater than zero; got 0",
    "x[True]": "a bool as an index is not supported",
    "x[[0, 7]]": "index 7 is out of bounds for dimension 0 with size 3",
    "x[[0, -5]]": "index -5 is out of bounds for dimension 0 with size 3",
    "x[:, lib.tensor([4])]": "index 4 is out of bounds for dimension 1 with size 4",
    "x[lib.tensor([1.0])]": "tensors used as indices must be int64 or bool tensors; got float32",
    "x[lib.tensor(1.0)]": "got float32",
    "x[[0.5]]": "got float64",
    "x[['a']]": "got <U1",
    "x[[0, 1], [0, 1, 2]]": "shape mismatch: indexing tensors could not be broadcast together with shapes (2,), (3,)",
    "x[lib.tensor([True, False])]": "The shape of the mask [2] at index 0 does not match the shape of the indexed tensor [3, 4]",
    "x[:, lib.tensor([True])]": "mask [1] at index 1",
    "x[x.T > 0]": "mask [4, 3] at index 0",
    "x[lib.tensor([True, True, False]), [0, 1, 2]]": "(2,), (3,)",
    "z[0]": "too many indices for tensor of dimension 0",
    "x.__setitem__(3, 1.0)": "index 3 is out of bounds",
    "x.__setitem__(0, [1.0, 2.0])": "can't assign a list to a tensor",
    "x.__setitem__(0, np.ones(4))": "can't assign a ndarray to a tensor",
    "x.__setitem__(0, None)": "can't assign a NoneType to a tensor",
    "x.__setitem__(0, 'a')": "can't assign a str",
    "x.__setitem__(0, 1j)": "can't assign a complex",
    "x.__setitem__(0, lib.ones(3))": "size of tensor a (4) must match the size of tensor b (3)",
    "x.__setitem__(0, lib.ones(2, 4))": "value tensor of shape [2, 4] cannot be broadcast to indexing result of shape [4]",
    "x.__setitem__([0, 1], lib.ones(3, 4))": "must match",
    "x.__setitem__(x > 5, lib.ones(5))": "must match the size of tensor b (5)",
    "x.__setitem__(slice(0, 0), lib.ones(2, 4))": "must match the size of tensor b (2)",
    "x.__setitem__([0], lib.ones(4, dtype=lib.float64))": "Index put requires the source and destination dtypes match, got torch.float32 for the destination",
    "i.__setitem__(0, float('nan'))": "value nan cannot be converted to type int64",
    "i.__setitem__(0, w[0, 0])": "a torch.int64 tensor cannot take a value that requires a gradient",
    "w.__setitem__(0, 1.0)": "leaf Variable",
    "w[:].__setitem__(0, 1.0)": "view of a tensor in a graph",
    "v.expand(2, 4).__setitem__(0, 1.0)": "several elements are one place in memory",
    "x.gather(2, i)": "same number of dimensions",
    "x.gather(0, lib.tensor([[3]]))": "index 3 is out of bounds for dimension 0 with size 3",
    "x.gather(1, lib.tensor([[-1]]))": "index -1 is out of bounds for dimension 1 with size 4",
    "x.gather(1, lib.zeros(4, 1, dtype=lib.int64))": "index [4, 1] must be no larger than input [3, 4]",
    "x.gather(0, lib.ones(1, 1))": "Expected dtype int64 for index; got torch.float32",
    "x.gather(0, [[1]])": "gather: expected a Tensor; got list",
    "lib.index_select(x, 0, lib.tensor([-1]))": "index out of range in self: -1 along dimension 0 of size 3",
    "lib.index_select(x, 1, lib.tensor([4]))": "4 along dimension 1 of size 4",
    "lib.index_select(x, 2, i)": "but got 2",
    "lib.index_select(x, 0, lib.tensor([[0]]))": "Index is supposed to be a vector; got shape [1, 1]",
    "lib.index_select(x, 0, lib.ones(1))": "Expected dtype int64 for index",
    "lib.index_select(z, 0, lib.tensor([1]))": "index out of range",
    "lib.index_select(z, 0, lib.tensor([0, 0]))": "Index to scalar can have only 1 value, got 2",
    "x.masked_fill(i > 0, 1.0)": "masked_fill of shapes [3, 4] and [3]",
    "x.masked_fill(x, 1.0)": "only supports boolean masks, but got mask with dtype torch.float32",
    "x.masked_fill(x > 0, lib.ones(1))": "only supports a 0-dimensional value tensor, but got tensor with 1 dimension(s)",
    "x.masked_fill(x > 0, 'a')": "masked_fill: expected a number or a 0-d Tensor; got str",
    "x.masked_fill([True], 1.0)": "masked_fill: expected a Tensor; got list",
    "lib.nn.functional.one_hot(x)": "only applicable to index tensor of type LongTensor; got torch.float32",
    "lib.nn.functional.one_hot(i, 2)": "smaller than num_classes; got 2 with num_classes=2",
    "lib.nn.functional.one_hot(i - 1)": "must be non-negative; got -1",
    "lib.nn.functional.one_hot(i, 0)": "num_classes should be positive",
    "lib.nn.functional.one_hot(lib.zeros(0, dtype=lib.int64))": "Can not infer total number of classes from empty tensor",
}  # fmt: skip
OTHERWISE = {
    "x[..., ..., 0]": "torch reads the second one as a colon",
    "x[['a']]": "torch: ValueError, of the list",
    "x[[0.5]]": "torch rounds it down",
    "v.expand(2, 4).__setitem__(0, 1.0)": "torch writes, since one row alone does not overlap",
    "lib.index_select(x, 1, lib.tensor([4]))": "a RuntimeError there, but not for dimension 0",
    "x['a']": "torch: TypeError",
    "x[True]": "torch puts an axis in front",
    "x.__setitem__(0, 1j)": "complex numbers are not there",
    "i.__setitem__(0, w[0, 0])": "torch lets the gradient go silently",
    "x.masked_fill(x > 0, 'a')": "",
    "x.gather(2, i)": "",
    "lib.nn.functional.one_hot(i - 1)": "",
}


@pytest.mark.parametrize("call", list(WRONG))
def test_wrong_calls(call):
    def attempt(lib):
        x, w = lib.arange(12.0).reshape(3, 4), lib.ones(3, 4, requires_grad=True)
        names = {"x": x, "w": w, "v": lib.ones(4), "i": lib.arange(3), "z": lib.tensor(1.0)}
        with pytest.raises(Exception) as caught:
            eval(call, {"lib": lib, "np": np, **names})
        return caught.value, all(t._version == 0 for name, t in names.items() if name != "x") and x.tolist() == lib.arange(12.0).reshape(3, 4).tolist()

    error, unchanged = attempt(tg)
    assert type(error) in (TypeError, ValueError, RuntimeError, IndexError)
    assert WRONG[call] in str(error)
    assert unchanged
    if call not in OTHERWISE:
        theirs, _ = attempt(torch)
        assert isinstance(theirs, type(error)), theirs


def test_a_list_with_lists_tensors_or_slices_in_it_is_a_tuple():
    t, i = torch.arange(24.0).reshape(2, 3, 4), np.array([0, 1])
    x = tg.from_numpy(t.numpy().copy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to change it one day
        for key in (
            lambda lib: [[0, 1], [1, 0]], lambda lib: [lib.tensor([0, 1]), lib.tensor([1, 0])], lambda lib: [lib.tensor(0), lib.tensor(1)],
            lambda lib: [slice(None), 0], lambda lib: [0, None], lambda lib: [..., 1], lambda lib: [0, 1], lambda lib: range(2),
            lambda lib: ((0, 1),), lambda lib: ([0, 1], range(2)), lambda lib: (0, (2, 0)), lambda lib: [i, [2, 2]],
        ):  # fmt: skip
            assert x[key(tg)].tolist() == t[key(torch)].tolist(), key(tg)
    x[[[0, 1], [1, 0]]] = 9.0
    assert (x == 9).sum().item() == 9 and x[1, 0].tolist() == [9, 9, 9, 9]


@pytest.mark.parametrize("lib", [tg, torch], ids=["ours", "torch"])
def test_one_value_of_another_type_for_a_mask(lib):
    x, v = lib.arange(4.0), lib.tensor([[3.0]], dtype=lib.float64, requires_grad=True)
    x[x > 2] = lib.tensor(1)
    x[x == 2] = v
    assert x.tolist() == [0, 1, 3, 1] and x.dtype == lib.float32
    x.sum().backward()
    assert v.grad.tolist() == [[1]] and v.grad.dtype == lib.float64
    for key, value in ((lib.tensor([0, 1]), lib.tensor(1)), (lib.arange(4) > 1, lib.tensor([1, 2]))):
        with pytest.raises(RuntimeError, match="dtypes match"):
            lib.arange(4.0)[key] = value
